/* Q-Former, forward and backward (equations in qformer.h). The forward writes what the backward needs where it is kept,
 * or to scratch, layer after layer. The backward ends at layer 0's cross-attention: nothing below it has seen the
 * features. */
#include "nn/qformer.h"

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int width_of(const sl_qformer *q) { return q->n_head * q->d_head; }
static int d_model_of(const sl_qformer *q) { return q->queries.cols; }
static int d_mlp_of(const sl_qformer *q) { return sl_weight_rows(q->layers[0].query_mlp.up); }

/* ---- memory ---- */

static sl_qformer_acts take_layer(const sl_qformer *q, int layer, sl_buffer *buffer, int64_t *at, int n_row,
                                  int n_feature) {
  const int n_query = q->queries.rows, width = width_of(q);
  sl_qformer_acts acts = {.qkv = sl_carve(buffer, at, n_row, 3 * width),
                          .lse = sl_carve(buffer, at, n_row, q->n_head),
                          .self_sum = sl_carve(buffer, at, n_row, d_model_of(q)),
                          .up = sl_carve(buffer, at, n_row, d_mlp_of(q)),
                          .mlp_sum = sl_carve(buffer, at, n_row, d_model_of(q))};
  if (!sl_qformer_crosses(q, layer)) return acts;
  acts.cross_q = sl_carve(buffer, at, n_query, width);
  acts.cross_kv = sl_carve(buffer, at, n_feature, 2 * width);
  acts.cross_lse = sl_carve(buffer, at, n_query, q->n_head);
  acts.cross_sum = sl_carve(buffer, at, n_query, d_model_of(q));
  return acts;
}

int64_t sl_qformer_keep(sl_qformer_acts *acts, const sl_qformer *q, sl_buffer *buffer, int64_t offset, int n_row,
                        int n_feature) {
  int64_t at = offset;
  for (int il = 0; il < q->n_layer; il++) {
    const sl_qformer_acts layer = take_layer(q, il, buffer, &at, n_row, n_feature);
    if (acts) acts[il] = layer;
  }
  return at - offset;
}

static int64_t forward_scratch(const sl_qformer *q, int n_row, int n_feature, bool patterns) {
  int64_t acts = 0; /* of layer 0, which has the most */
  (void)take_layer(q, 0, NULL, &acts, n_row, n_feature);
  int64_t attention = sl_scratch_need(n_row, width_of(q));
  if (patterns)
    attention += larger(sl_scratch_need(q->n_head * n_row, n_row),
                        sl_scratch_need(q->n_head * q->queries.rows, n_feature));
  return acts + larger(attention, sl_scratch_need(n_row, d_mlp_of(q)));
}

static int64_t backward_scratch(const sl_qformer *q, int n_row, int n_feature) {
  const int n_query = q->queries.rows, width = width_of(q);
  const int64_t self = sl_scratch_need(n_row, width) + sl_scratch_need(n_row, 3 * width);
  const int64_t cross = 2 * sl_scratch_need(n_query, width) + sl_scratch_need(n_feature, 2 * width);
  const int64_t norm = sl_scratch_need(n_row, d_model_of(q)), mlp = sl_scratch_need(n_row, d_mlp_of(q));
  return larger(larger(self, cross), larger(norm, mlp));
}

int64_t sl_qformer_scratch(const sl_qformer *q, int n_row, int n_feature, bool patterns) {
  return sl_scratch_need(n_row, d_model_of(q)) +
         larger(forward_scratch(q, n_row, n_feature, patterns), backward_scratch(q, n_row, n_feature));
}

/* ---- what both directions share ---- */

static sl_attend self_attention(const sl_qformer *q, const sl_qformer_acts *acts, sl_mat z) {
  const int width = width_of(q);
  return (sl_attend){.n_head = q->n_head, .n_head_kv = q->n_head, .d_head = q->d_head,
                     .scale = 1.0f / __builtin_sqrtf((float)q->d_head), .q = sl_mat_cols(acts->qkv, 0, width),
                     .k = sl_mat_cols(acts->qkv, width, width), .v = sl_mat_cols(acts->qkv, 2 * width, width), .z = z,
                     .lse = acts->lse, .compute = q->compute};
}

static sl_attend cross_attention(const sl_qformer *q, const sl_qformer_acts *acts, sl_mat z) {
  const int width = width_of(q);
  return (sl_attend){.n_head = q->n_head, .n_head_kv = q->n_head, .d_head = q->d_head,
                     .scale = 1.0f / __builtin_sqrtf((float)q->d_head), .q = acts->cross_q,
                     .k = sl_mat_cols(acts->cross_kv, 0, width), .v = sl_mat_cols(acts->cross_kv, width, width), .z = z,
                     .lse = acts->cross_lse, .compute = q->compute};
}

static sl_mat query_rows(const sl_qformer *q, sl_mat m) { return sl_mat_rows(m, 0, q->queries.rows); }
static sl_mat text_rows(const sl_qformer *q, sl_mat m) {
  return sl_mat_rows(m, q->queries.rows, m.rows - q->queries.rows);
}

/* ---- forward ---- */

/* x = norm([queries ; words + positions]) */
static void embed(const sl_context *c, const sl_qformer *q, sl_mat x, sl_ints ids) {
  const sl_ops *op = c->ops;
  const int64_t mark = c->scratch->used;
  const sl_mat sum = sl_scratch_mat(c->scratch, x.rows, x.cols);
  op->copy(c->queue, query_rows(q, sum), q->queries);
  if (ids.count > 0) {
    op->embed(c->queue, text_rows(q, sum), q->words, ids);
    op->add(c->queue, text_rows(q, sum), text_rows(q, sum), sl_mat_rows(q->positions, 0, ids.count));
  }
  op->norm(c->queue, SL_NORM_LAYER, x, sum, q->norm_w, q->norm_b, q->eps);
  c->scratch->used = mark;
  sl_see(c, SL_PART_PROJECTOR, SL_SITE_EMBED, 0, 0, x);
}

/* Runs an attention, with the pattern of every row where it is wanted. */
static void attend(const sl_context *c, const sl_qformer *q, sl_site site, int layer, sl_attend *a) {
  const bool pattern = sl_wants(c, SL_PART_PROJECTOR, site, layer, false);
  if (pattern) {
    assert(q->numbers.count >= a->q.rows);
    a->rows = (sl_ints){q->numbers.buffer, q->numbers.offset, a->q.rows};
    a->pattern = sl_scratch_mat(c->scratch, q->n_head * a->q.rows, a->k.rows);
  }
  c->ops->attend(c->queue, a);
  if (pattern) sl_see(c, SL_PART_PROJECTOR, site, layer, 0, a->pattern);
}

/* x = norm(x + y W^T + b), with the norm's input in `sum`. */
static void add_and_norm(const sl_context *c, const sl_qformer *q, const sl_qformer_output *w, sl_mat x, sl_mat y,
                         sl_mat sum) {
  c->ops->copy(c->queue, sum, x);
  c->ops->linear(c->queue, sum, y, w->w, w->b, true);
  c->ops->norm(c->queue, SL_NORM_LAYER, x, sum, w->norm_w, w->norm_b, q->eps);
}

static void self_forward(const sl_context *c, const sl_qformer *q, int layer, sl_mat x, const sl_qformer_acts *acts) {
  const sl_qformer_layer *w = &q->layers[layer];
  const int64_t mark = c->scratch->used;
  const sl_mat z = sl_scratch_mat(c->scratch, x.rows, width_of(q));
  c->ops->linear(c->queue, acts->qkv, x, w->qkv, w->qkv_b, false);
  sl_attend a = self_attention(q, acts, z);
  attend(c, q, SL_SITE_PATTERN, layer, &a);
  add_and_norm(c, q, &w->self, x, z, acts->self_sum);
  sl_see(c, SL_PART_PROJECTOR, SL_SITE_RESID_MID, layer, 0, x);
  c->scratch->used = mark;
}

/* x: the query rows. */
static void cross_forward(const sl_context *c, const sl_qformer *q, int layer, sl_mat x, sl_mat features,
                          const sl_qformer_acts *acts) {
  const sl_qformer_layer *w = &q->layers[layer];
  const int64_t mark = c->scratch->used;
  const sl_mat z = sl_scratch_mat(c->scratch, x.rows, width_of(q));
  c->ops->linear(c->queue, acts->cross_q, x, w->cross_q, w->cross_q_b, false);
  c->ops->linear(c->queue, acts->cross_kv, features, w->cross_kv, w->cross_kv_b, false);
  sl_attend a = cross_attention(q, acts, z);
  attend(c, q, SL_SITE_CROSS_PATTERN, layer, &a);
  add_and_norm(c, q, &w->cross, x, z, acts->cross_sum);
  c->scratch->used = mark;
}

/* x, up and sum: rows of one kind. */
static void mlp_forward(const sl_context *c, const sl_qformer *q, const sl_qformer_mlp *w, sl_mat x, sl_mat up,
                        sl_mat sum) {
  if (x.rows == 0) return;
  const int64_t mark = c->scratch->used;
  const sl_mat hidden = sl_scratch_mat(c->scratch, x.rows, up.cols);
  c->ops->linear(c->queue, up, x, w->up, w->up_b, false);
  c->ops->act(c->queue, q->act, hidden, up);
  add_and_norm(c, q, &w->down, x, hidden, sum);
  c->scratch->used = mark;
}

static void layer_forward(const sl_context *c, const sl_qformer *q, int layer, sl_mat x, sl_mat features,
                          const sl_qformer_acts *keep) {
  const sl_qformer_layer *w = &q->layers[layer];
  const int64_t mark = c->scratch->used;
  const sl_qformer_acts acts =
      keep ? *keep : take_layer(q, layer, c->scratch->buffer, &c->scratch->used, x.rows, features.rows);
  assert(c->scratch->used <= c->scratch->capacity);
  self_forward(c, q, layer, x, &acts);
  if (sl_qformer_crosses(q, layer)) cross_forward(c, q, layer, query_rows(q, x), features, &acts);
  mlp_forward(c, q, &w->query_mlp, query_rows(q, x), query_rows(q, acts.up), query_rows(q, acts.mlp_sum));
  mlp_forward(c, q, &w->text_mlp, text_rows(q, x), text_rows(q, acts.up), text_rows(q, acts.mlp_sum));
  sl_see(c, SL_PART_PROJECTOR, SL_SITE_RESID_POST, layer, 0, x);
  c->scratch->used = mark;
}

sl_status sl_qformer_forward(const sl_context *c, const sl_qformer *q, sl_mat out, sl_mat features, sl_ints ids,
                             const sl_qformer_acts *keep, const atomic_bool *cancel) {
  assert(ids.count == 0 || (q->words && ids.count <= q->positions.rows));
  const int64_t mark = c->scratch->used;
  const sl_mat x = sl_scratch_mat(c->scratch, q->queries.rows + ids.count, d_model_of(q));
  sl_see(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_IN, 0, 0, features);
  embed(c, q, x, ids);
  sl_status status = SL_OK;
  for (int il = 0; status == SL_OK && il < q->n_layer; il++) {
    status = sl_check_cancel(cancel);
    if (status == SL_OK) layer_forward(c, q, il, x, features, keep ? &keep[il] : NULL);
  }
  if (status == SL_OK) {
    c->ops->linear(c->queue, out, query_rows(q, x), q->projection, q->projection_b, false);
    sl_see(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_OUT, 0, 0, out);
  }
  c->scratch->used = mark;
  return status;
}

/* ---- backward: d goes from the gradient of a sublayer's result to that of its input, in place ---- */

/* d: gradient of norm(sum) in, of the sum out, which is the residual's and the sublayer's own at once. */
static void norm_backward(const sl_context *c, const sl_qformer *q, const sl_qformer_output *w, sl_mat d, sl_mat sum) {
  c->ops->norm_dx(c->queue, SL_NORM_LAYER, d, d, sum, w->norm_w, q->eps, false);
}

static void mlp_backward(const sl_context *c, const sl_qformer *q, const sl_qformer_mlp *w, sl_mat d, sl_mat up,
                         sl_mat sum) {
  if (d.rows == 0) return;
  norm_backward(c, q, &w->down, d, sum);
  const int64_t mark = c->scratch->used;
  const sl_mat d_up = sl_scratch_mat(c->scratch, d.rows, up.cols);
  c->ops->linear_dx(c->queue, d_up, d, w->down.w, false);
  c->ops->act_dx(c->queue, q->act, d_up, d_up, up);
  c->ops->linear_dx(c->queue, d, d_up, w->up, true);
  c->scratch->used = mark;
}

/* d: the query rows. Adds this layer's share to the features' gradient. */
static void cross_backward(const sl_context *c, const sl_qformer *q, int layer, sl_mat d, sl_mat d_features,
                           const sl_qformer_acts *acts) {
  const sl_qformer_layer *w = &q->layers[layer];
  const int width = width_of(q);
  norm_backward(c, q, &w->cross, d, acts->cross_sum);
  const int64_t mark = c->scratch->used;
  const sl_mat d_z = sl_scratch_mat(c->scratch, d.rows, width), d_q = sl_scratch_mat(c->scratch, d.rows, width);
  const sl_mat d_kv = sl_scratch_mat(c->scratch, d_features.rows, 2 * width);
  c->ops->linear_dx(c->queue, d_z, d, w->cross.w, false);
  const sl_attend a = cross_attention(q, acts, (sl_mat){0});
  c->ops->attend_dx(c->queue, &a, d_z, d_q, sl_mat_cols(d_kv, 0, width), sl_mat_cols(d_kv, width, width));
  c->ops->linear_dx(c->queue, d_features, d_kv, w->cross_kv, true);
  c->ops->linear_dx(c->queue, d, d_q, w->cross_q, true);
  c->scratch->used = mark;
}

static void self_backward(const sl_context *c, const sl_qformer *q, int layer, sl_mat d, const sl_qformer_acts *acts) {
  const sl_qformer_layer *w = &q->layers[layer];
  const int width = width_of(q);
  norm_backward(c, q, &w->self, d, acts->self_sum);
  const int64_t mark = c->scratch->used;
  const sl_mat d_z = sl_scratch_mat(c->scratch, d.rows, width);
  const sl_mat d_qkv = sl_scratch_mat(c->scratch, d.rows, 3 * width);
  c->ops->linear_dx(c->queue, d_z, d, w->self.w, false);
  const sl_attend a = self_attention(q, acts, (sl_mat){0});
  c->ops->attend_dx(c->queue, &a, d_z, sl_mat_cols(d_qkv, 0, width), sl_mat_cols(d_qkv, width, width),
                    sl_mat_cols(d_qkv, 2 * width, width));
  c->ops->linear_dx(c->queue, d, d_qkv, w->qkv, true);
  c->scratch->used = mark;
}

static void show_mid(const sl_context *c, const sl_qformer *q, int layer, sl_mat d, const sl_qformer_acts *acts) {
  if (!sl_wants(c, SL_PART_PROJECTOR, SL_SITE_RESID_MID, layer, true)) return;
  const sl_qformer_output *w = &q->layers[layer].self;
  const int64_t mark = c->scratch->used;
  const sl_mat mid = sl_scratch_mat(c->scratch, d.rows, d.cols);
  c->ops->norm(c->queue, SL_NORM_LAYER, mid, acts->self_sum, w->norm_w, w->norm_b, q->eps);
  sl_see_grad(c, SL_PART_PROJECTOR, SL_SITE_RESID_MID, layer, 0, mid, d);
  c->scratch->used = mark;
}

static void layer_backward(const sl_context *c, const sl_qformer *q, int layer, sl_mat d, sl_mat d_features,
                           const sl_qformer_acts *acts) {
  const sl_qformer_layer *w = &q->layers[layer];
  mlp_backward(c, q, &w->query_mlp, query_rows(q, d), query_rows(q, acts->up), query_rows(q, acts->mlp_sum));
  mlp_backward(c, q, &w->text_mlp, text_rows(q, d), text_rows(q, acts->up), text_rows(q, acts->mlp_sum));
  if (sl_qformer_crosses(q, layer)) cross_backward(c, q, layer, query_rows(q, d), d_features, acts);
  show_mid(c, q, layer, d, acts);
  if (layer > 0) self_backward(c, q, layer, d, acts);
}

sl_status sl_qformer_backward(const sl_context *c, const sl_qformer *q, sl_mat d_features, sl_mat d_out,
                              sl_mat features, sl_mat out, const sl_qformer_acts *kept, const atomic_bool *cancel) {
  const int64_t mark = c->scratch->used;
  const sl_mat d = sl_scratch_mat(c->scratch, kept[0].qkv.rows, d_model_of(q));
  sl_see_grad(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_OUT, 0, 0, out, d_out);
  c->ops->linear_dx(c->queue, query_rows(q, d), d_out, q->projection, false);
  c->ops->zero(c->queue, text_rows(q, d)); /* the text rows of the last layer go nowhere */
  c->ops->zero(c->queue, d_features);
  sl_status status = SL_OK;
  for (int il = q->n_layer - 1; status == SL_OK && il >= 0; il--) {
    status = sl_check_cancel(cancel);
    if (status == SL_OK) layer_backward(c, q, il, d, d_features, &kept[il]);
  }
  if (status == SL_OK) sl_see_grad(c, SL_PART_PROJECTOR, SL_SITE_PROJECTOR_IN, 0, 0, features, d_features);
  c->scratch->used = mark;
  return status;
}
