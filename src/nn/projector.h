/* The projector from tower features to decoder width: Linear, activation, Linear (LLaVA-1.5). */
#ifndef SL_NN_PROJECTOR_H
#define SL_NN_PROJECTOR_H

#include "nn/context.h"

typedef struct sl_projector {
  sl_weight *linear_1, *linear_2;
  sl_mat linear_1_b, linear_2_b; /* absent without multimodal_projector_bias */
  sl_act act;
} sl_projector;

int64_t sl_projector_scratch(const sl_projector *projector, int n_row);

/* out [N, D] from features [N, Dv]; `keep_pre` [N, D] stores the values before the activation unless absent. */
void sl_projector_forward(const sl_context *c, const sl_projector *projector, sl_mat out, sl_mat features, sl_mat keep_pre);

/* d_features [N, Dv] from d_out [N, D]. */
void sl_projector_backward(const sl_context *c, const sl_projector *projector, sl_mat d_features, sl_mat d_out,
                           sl_mat features, sl_mat out, sl_mat kept_pre);

#endif
