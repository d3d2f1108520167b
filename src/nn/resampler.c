/* The resampler, forward and backward (equations in resampler.h). Source: arXiv:2308.12966, section 2.1; its attention
 * is the usual one (arXiv:1706.03762) with separate inputs for keys and values. P stands on the right of its input, so
 * the forward pass takes the product that is a gradient elsewhere, and the backward pass the other one. */
#include "nn/resampler.h"

int64_t sl_resampler_forward_scratch(const sl_resampler *r, int n_row, bool pattern) {
  const int width = sl_resampler_width(r), n = r->query.rows;
  return 4 * sl_scratch_need(n_row, width) + 5 * sl_scratch_need(n, width) + sl_scratch_need(n, r->n_head) +
         (pattern ? sl_scratch_need(n * r->n_head, n_row) : 0);
}

int64_t sl_resampler_backward_scratch(const sl_resampler *r, int n_row) {
  const int width = sl_resampler_width(r);
  return 3 * sl_scratch_need(n_row, width) + 3 * sl_scratch_need(r->query.rows, width);
}

static sl_attend attention(const sl_resampler *r, sl_mat q, sl_mat k, sl_mat v, sl_mat z, sl_mat lse) {
  return (sl_attend){.n_head = r->n_head, .n_head_kv = r->n_head, .d_head = r->d_head,
                     .scale = 1.0f / __builtin_sqrtf((float)r->d_head), .q = q, .k = k, .v = v, .z = z, .lse = lse,
                     .compute = r->compute};
}

static void norm(const sl_context *c, const sl_resampler *r, sl_mat y, sl_mat x, sl_mat w, sl_mat b) {
  c->ops->norm(c->queue, SL_NORM_LAYER, y, x, w, b, r->eps);
}

/* q [N, D] of the learned queries: the same for every picture. */
static void make_queries(const sl_context *c, const sl_resampler *r, sl_mat q) {
  const int64_t mark = c->scratch->used;
  const sl_mat in = sl_scratch_mat(c->scratch, q.rows, q.cols);
  norm(c, r, in, r->query, r->norm_q_w, r->norm_q_b);
  c->ops->add(c->queue, in, in, r->pos_q);
  c->ops->linear(c->queue, q, in, r->q, r->q_b, false);
  c->scratch->used = mark;
}

/* k and v [T, D] of the features, which are widened into `wide` first. */
static void make_keys(const sl_context *c, const sl_resampler *r, sl_mat k, sl_mat v, sl_mat wide, sl_mat features) {
  const int64_t mark = c->scratch->used;
  const sl_mat in = sl_scratch_mat(c->scratch, k.rows, k.cols);
  assert(r->pos_k.rows == features.rows);
  if (r->kv) c->ops->linear(c->queue, wide, features, r->kv, (sl_mat){0}, false);
  norm(c, r, in, r->kv ? wide : features, r->norm_kv_w, r->norm_kv_b);
  c->ops->linear(c->queue, v, in, r->v, r->v_b, false);
  c->ops->add(c->queue, in, in, r->pos_k);
  c->ops->linear(c->queue, k, in, r->k, r->k_b, false);
  c->scratch->used = mark;
}

static void attend(const sl_context *c, const sl_resampler *r, sl_attend *a) {
  const int64_t mark = c->scratch->used;
  if (sl_wants(c, SL_PART_PROJECTOR, SL_SITE_RESAMPLER_PATTERN, 0, false)) {
    a->rows = r->numbers;
    a->pattern = sl_scratch_mat(c->scratch, r->n_head * r->numbers.count, a->k.rows);
  }
  c->ops->attend(c->queue, a);
  if (a->rows.count > 0) sl_see(c, SL_PART_PROJECTOR, SL_SITE_RESAMPLER_PATTERN, 0, 0, a->pattern);
  c->scratch->used = mark;
}

void sl_resampler_forward(const sl_context *c, const sl_resampler *r, sl_mat out, sl_mat features,
                          const sl_resampler_acts *keep) {
  const sl_ops *op = c->ops;
  const int width = sl_resampler_width(r), n = r->query.rows, n_row = features.rows;
  const int64_t mark = c->scratch->used;
  const sl_mat wide = r->kv ? sl_scratch_mat(c->scratch, n_row, width) : (sl_mat){0};
  const sl_mat k = sl_scratch_mat(c->scratch, n_row, width), v = sl_scratch_mat(c->scratch, n_row, width);
  const sl_mat q = sl_scratch_mat(c->scratch, n, width), z = sl_scratch_mat(c->scratch, n, width);
  const sl_mat y = sl_scratch_mat(c->scratch, n, width), lse = sl_scratch_mat(c->scratch, n, r->n_head);

  sl_see(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_IN, 0, 0, features);
  make_queries(c, r, q);
  make_keys(c, r, k, v, wide, features);
  sl_attend a = attention(r, q, k, v, z, lse);
  attend(c, r, &a);
  op->linear(c->queue, y, z, r->o, r->o_b, false);
  if (keep) {
    if (r->kv) op->copy(c->queue, keep->wide, wide);
    op->copy(c->queue, keep->q, q);
    op->copy(c->queue, keep->k, k);
    op->copy(c->queue, keep->v, v);
    op->copy(c->queue, keep->lse, lse);
    op->copy(c->queue, keep->y, y);
  }
  norm(c, r, y, y, r->post_w, r->post_b);
  op->linear_dx(c->queue, out, y, r->proj, false);
  sl_see(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_OUT, 0, 0, out);
  c->scratch->used = mark;
}

void sl_resampler_backward(const sl_context *c, const sl_resampler *r, sl_mat d_features, sl_mat d_out, sl_mat features,
                           sl_mat out, const sl_resampler_acts *kept) {
  const sl_ops *op = c->ops;
  const int width = sl_resampler_width(r), n = r->query.rows, n_row = features.rows;
  const int64_t mark = c->scratch->used;
  const sl_mat d_y = sl_scratch_mat(c->scratch, n, width), d_z = sl_scratch_mat(c->scratch, n, width);
  const sl_mat d_q = sl_scratch_mat(c->scratch, n, width); /* the queries are the model's own: nobody asks for it */
  const sl_mat d_k = sl_scratch_mat(c->scratch, n_row, width), d_v = sl_scratch_mat(c->scratch, n_row, width);
  const sl_mat d_in = sl_scratch_mat(c->scratch, n_row, width);

  sl_see_grad(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_OUT, 0, 0, out, d_out);
  op->linear(c->queue, d_y, d_out, r->proj, (sl_mat){0}, false);
  op->norm_dx(c->queue, SL_NORM_LAYER, d_y, d_y, kept->y, r->post_w, r->eps, false);
  op->linear_dx(c->queue, d_z, d_y, r->o, false);
  const sl_attend a = attention(r, kept->q, kept->k, kept->v, (sl_mat){0}, kept->lse);
  op->attend_dx(c->queue, &a, d_z, d_q, d_k, d_v);
  op->linear_dx(c->queue, d_in, d_k, r->k, false);
  op->linear_dx(c->queue, d_in, d_v, r->v, true);
  const sl_mat d_wide = r->kv ? d_in : d_features;
  op->norm_dx(c->queue, SL_NORM_LAYER, d_wide, d_in, r->kv ? kept->wide : features, r->norm_kv_w, r->eps, false);
  if (r->kv) op->linear_dx(c->queue, d_features, d_wide, r->kv, false);
  sl_see_grad(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_IN, 0, 0, features, d_features);
  c->scratch->used = mark;
}
