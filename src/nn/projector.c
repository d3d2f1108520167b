/* Selection of features and the projector, forward and backward (equations in projector.h). Sources: LLaVA
 * arXiv:2304.08485 and arXiv:2310.03744, Shikra arXiv:2306.15195, InternVL arXiv:2404.16821,
 * Gemma 3 arXiv:2503.19786. */
#include "nn/projector.h"

/* List number j of m. */
static sl_ints list_of(sl_ints lists, int j, int m) {
  assert(m > 0 && lists.count % m == 0);
  const int n = lists.count / m;
  return (sl_ints){lists.buffer, lists.offset + (int64_t)j * n, n};
}

void sl_select_forward(const sl_context *c, sl_mat out, sl_mat features, sl_ints lists, int m) {
  assert(out.cols == m * features.cols);
  for (int j = 0; j < m; j++)
    c->ops->gather_rows(c->queue, sl_mat_cols(out, j * features.cols, features.cols), features, list_of(lists, j, m));
}

void sl_select_backward(const sl_context *c, sl_mat d_features, sl_mat d_out, sl_ints lists, int m) {
  const int n = d_features.cols;
  assert(d_out.cols == m * n);
  c->ops->zero(c->queue, d_features);
  for (int j = 0; j < m; j++)
    c->ops->scatter_rows(c->queue, d_features, sl_mat_cols(d_out, j * n, n), list_of(lists, j, m));
}

void sl_pool_forward(const sl_context *c, sl_mat out, sl_mat x, sl_ints lists, int m) {
  assert(out.cols == x.cols);
  const int64_t mark = c->scratch->used;
  const sl_mat next = sl_scratch_mat(c->scratch, out.rows, out.cols);
  c->ops->gather_rows(c->queue, out, x, list_of(lists, 0, m));
  for (int j = 1; j < m; j++) {
    c->ops->gather_rows(c->queue, next, x, list_of(lists, j, m));
    c->ops->add(c->queue, out, out, next);
  }
  c->ops->scale(c->queue, out, out, 1.0f / (float)m);
  c->scratch->used = mark;
}

void sl_pool_backward(const sl_context *c, sl_mat d_x, sl_mat d_out, sl_ints lists, int m) {
  assert(d_out.cols == d_x.cols);
  const int64_t mark = c->scratch->used;
  const sl_mat share = sl_scratch_mat(c->scratch, d_out.rows, d_out.cols);
  c->ops->scale(c->queue, share, d_out, 1.0f / (float)m);
  c->ops->zero(c->queue, d_x);
  for (int j = 0; j < m; j++) c->ops->scatter_rows(c->queue, d_x, share, list_of(lists, j, m));
  c->scratch->used = mark;
}

int64_t sl_projector_scratch(const sl_projector *p, int n_row) {
  return 2 * sl_scratch_need(n_row, sl_weight_rows(p->linear_1)) +
         (p->norm_w.buffer ? sl_scratch_need(n_row, sl_weight_cols(p->linear_1)) : 0);
}

void sl_projector_forward(const sl_context *c, const sl_projector *p, sl_mat out, sl_mat features, sl_mat keep_pre) {
  const int64_t mark = c->scratch->used;
  sl_mat x = features;
  sl_see(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_IN, 0, 0, features);
  if (p->norm_w.buffer) {
    x = sl_scratch_mat(c->scratch, features.rows, features.cols);
    c->ops->norm(c->queue, p->norm, x, features, p->norm_w, p->norm_b, p->norm_eps);
    sl_see(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_LN, 0, 0, x);
  }
  if (!p->linear_2) {
    c->ops->linear(c->queue, out, x, p->linear_1, p->linear_1_b, false);
  } else {
    const sl_mat pre = sl_scratch_mat(c->scratch, features.rows, sl_weight_rows(p->linear_1));
    const sl_mat post = sl_scratch_mat(c->scratch, features.rows, pre.cols);
    c->ops->linear(c->queue, pre, x, p->linear_1, p->linear_1_b, false);
    sl_see(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_PRE, 0, 0, pre);
    if (keep_pre.buffer) c->ops->copy(c->queue, keep_pre, pre);
    c->ops->act(c->queue, p->act, post, pre);
    sl_see(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_POST, 0, 0, post);
    c->ops->linear(c->queue, out, post, p->linear_2, p->linear_2_b, false);
  }
  sl_see(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_OUT, 0, 0, out);
  c->scratch->used = mark;
}

void sl_projector_backward(const sl_context *c, const sl_projector *p, sl_mat d_features, sl_mat d_out, sl_mat features,
                           sl_mat out, sl_mat kept_pre) {
  const int64_t mark = c->scratch->used;
  sl_mat d = d_out;
  sl_see_grad(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_OUT, 0, 0, out, d_out);
  if (p->linear_2) {
    d = sl_scratch_mat(c->scratch, d_out.rows, sl_weight_rows(p->linear_1));
    c->ops->linear_dx(c->queue, d, d_out, p->linear_2, false);
    c->ops->act_dx(c->queue, p->act, d, d, kept_pre);
  }
  c->ops->linear_dx(c->queue, d_features, d, p->linear_1, false);
  if (p->norm_w.buffer)
    c->ops->norm_dx(c->queue, p->norm, d_features, d_features, features, p->norm_w, p->norm_eps, false);
  sl_see_grad(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_IN, 0, 0, features, d_features);
  c->scratch->used = mark;
}
