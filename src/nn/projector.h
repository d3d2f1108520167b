/* From tower features to decoder rows: which features, and the projector they go through. Kinds by optional parts:
 *
 *   out = x W1 + b1                                   (Shikra, LLaVA-v1)
 *   out = act(x W1 + b1) W2 + b2                      (LLaVA)
 *   out = act(LayerNorm(x) W1 + b1) W2 + b2           (InternVL)
 *   out = RMSNorm(x) W1                               (Gemma 3, x a mean of patches)
 */
#ifndef SL_NN_PROJECTOR_H
#define SL_NN_PROJECTOR_H

#include "nn/context.h"

/* out [N, m D] from features [T, D]: row i is features lists[0 * N + i], .., lists[(m - 1) * N + i] side by side. With
 * m = 1 the class token is dropped; with m = 4 cells of 2 x 2 patches become one row (pixel shuffle, patch merging). */
void sl_select_forward(const sl_context *c, sl_mat out, sl_mat features, sl_ints lists, int m);

/* d_features [T, D] from d_out [N, m D]: zero where a row is in no list. No row may be listed twice. */
void sl_select_backward(const sl_context *c, sl_mat d_features, sl_mat d_out, sl_ints lists, int m);

/* out [N, D]: row i is the mean of the rows of x [T, D] that the m lists name for it. Scratch: one [N, D]. */
void sl_pool_forward(const sl_context *c, sl_mat out, sl_mat x, sl_ints lists, int m);

/* d_x [T, D] from d_out [N, D]: zero where a row is in no list. No row may be listed twice. Scratch: one [N, D]. */
void sl_pool_backward(const sl_context *c, sl_mat d_x, sl_mat d_out, sl_ints lists, int m);

typedef struct sl_projector {
  sl_mat norm_w, norm_b; /* [1, K] before linear_1; absent = none */
  sl_norm norm;
  float norm_eps;
  sl_weight *linear_1, *linear_2; /* linear_2 NULL: linear_1 is all, without activation */
  sl_mat linear_1_b, linear_2_b;  /* may be absent */
  sl_act act;
} sl_projector;

/* Columns of what the backward pass wants kept: those of linear_1's output, 0 where there is nothing to keep. */
static inline int sl_projector_kept_cols(const sl_projector *p) {
  return p->linear_2 ? sl_weight_rows(p->linear_1) : 0;
}

int64_t sl_projector_scratch(const sl_projector *projector, int n_row);

/* out [N, D] from features [N, K]; `keep_pre` [N, kept_cols] stores the values before the activation unless absent. */
void sl_projector_forward(const sl_context *c, const sl_projector *projector, sl_mat out, sl_mat features,
                          sl_mat keep_pre);

/* d_features [N, K] from d_out [N, D]. */
void sl_projector_backward(const sl_context *c, const sl_projector *projector, sl_mat d_features, sl_mat d_out,
                           sl_mat features, sl_mat out, sl_mat kept_pre);

#endif
