/* Two-layer projector, forward and backward. */
#include "nn/projector.h"

int64_t sl_projector_scratch(const sl_projector *p, int n_row) {
  return 2 * sl_scratch_need(n_row, sl_weight_rows(p->linear_1));
}

void sl_projector_forward(const sl_context *c, const sl_projector *p, sl_mat out, sl_mat features, sl_mat keep_pre) {
  const int64_t mark = c->scratch->used;
  const sl_mat pre = sl_scratch_mat(c->scratch, features.rows, sl_weight_rows(p->linear_1));
  const sl_mat post = sl_scratch_mat(c->scratch, features.rows, pre.cols);
  sl_see(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_IN, 0, 0, features);
  c->ops->linear(c->queue, pre, features, p->linear_1, p->linear_1_b, false);
  sl_see(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_PRE, 0, 0, pre);
  if (keep_pre.buffer) c->ops->copy(c->queue, keep_pre, pre);
  c->ops->act(c->queue, p->act, post, pre);
  sl_see(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_POST, 0, 0, post);
  c->ops->linear(c->queue, out, post, p->linear_2, p->linear_2_b, false);
  sl_see(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_OUT, 0, 0, out);
  c->scratch->used = mark;
}

void sl_projector_backward(const sl_context *c, const sl_projector *p, sl_mat d_features, sl_mat d_out, sl_mat features,
                           sl_mat out, sl_mat kept_pre) {
  const int64_t mark = c->scratch->used;
  const sl_mat d_pre = sl_scratch_mat(c->scratch, d_out.rows, sl_weight_rows(p->linear_1));
  sl_see_grad(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_OUT, 0, 0, out, d_out);
  c->ops->linear_dx(c->queue, d_pre, d_out, p->linear_2, false);
  c->ops->act_dx(c->queue, p->act, d_pre, d_pre, kept_pre);
  c->ops->linear_dx(c->queue, d_features, d_pre, p->linear_1, false);
  sl_see_grad(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_IN, 0, 0, features, d_features);
  c->scratch->used = mark;
}
