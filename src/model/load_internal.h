/* Loading, for load*.c: from a folder's tensors to packed weights and f32 vectors of the model. */
#ifndef SL_MODEL_LOAD_INTERNAL_H
#define SL_MODEL_LOAD_INTERNAL_H

#include "model/internal.h"

typedef struct sl_loader {
  sl_model *model;
  const sl_model_options *options;
  sl_weights *weights;
  sl_queue *queue;
  int n_step, n_done;
} sl_loader;

/* Marks a tensor as loaded and warns about values that are not finite. Once for each tensor. */
void sl_load_finish(sl_loader *l, const sl_tensor *tensor);

/* One step of progress; cancels when the callback says so. Every packed weight is one. */
sl_status sl_load_step(sl_loader *l);

/* Stacks the matrices of up to three roles into one packed weight; absent ones leave *out NULL. */
sl_status sl_load_weight(sl_loader *l, sl_weight **out, const sl_role *roles, int n_role, int layer);

/* An f32 matrix [rows, cols] owned by the model. */
sl_status sl_load_values(sl_loader *l, const float *values, int rows, int cols, sl_mat *out);

/* Concatenates the vectors (or one matrix) of up to three roles; absent ones leave *out absent. */
sl_status sl_load_vector(sl_loader *l, sl_mat *out, const sl_role *roles, int n_role, int layer);

/* Positions [n_lead + side^2, cols] stored for a square grid, resampled to the tower's grid behind the same lead rows.
 * The tensor is not marked as loaded. */
sl_status sl_load_resampled(sl_loader *l, sl_mat *out, sl_role role, int n_lead, int side);

#define ROLES(...) (const sl_role[]){__VA_ARGS__}, sizeof((sl_role[]){__VA_ARGS__}) / sizeof(sl_role)
#define WEIGHT(out, layer, ...) SL_TRY(sl_load_weight(l, (out), ROLES(__VA_ARGS__), layer))
#define VECTOR(out, layer, ...) SL_TRY(sl_load_vector(l, (out), ROLES(__VA_ARGS__), layer))

/* ---- load_connector.c ---- */

sl_status sl_load_connector(sl_loader *l);
int sl_connector_weights(const sl_model *model); /* how many packed weights it has */
void sl_unload_connector(sl_model *model);

#endif
