/* Pre-norm transformer block, forward and backward (equations in block.h). Gradients of parameters are never needed:
 * the backward computes those of activations only. */
#include "nn/block.h"

int64_t sl_block_forward_scratch(const sl_block_shape *s, int n_row, int n_key, int n_pattern) {
  const int64_t attention = sl_scratch_need(n_row, s->d_model) * 2 + sl_scratch_need(n_row, sl_block_qkv_width(s)) +
                            sl_scratch_need(n_row, s->n_head * s->d_head) + sl_scratch_need(n_row, s->n_head) +
                            2 * sl_scratch_need(s->n_head * n_pattern, n_key);
  const int64_t mlp = sl_scratch_need(n_row, s->d_model) * 2 + sl_scratch_need(n_row, sl_block_up_width(s)) +
                      sl_scratch_need(n_row, s->d_mlp);
  return attention > mlp ? attention : mlp;
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

int64_t sl_block_backward_scratch(const sl_block_shape *s, int n_row, bool recompute) {
  const int64_t qkv = sl_scratch_need(n_row, sl_block_qkv_width(s)), z = sl_scratch_need(n_row, s->n_head * s->d_head);
  const int64_t up = sl_scratch_need(n_row, sl_block_up_width(s)), x = sl_scratch_need(n_row, s->d_model);
  const int64_t normed = s->qk_norm == SL_QK_NORM_NONE ? 0 : qkv; /* q and k before their norm, and after */
  const int64_t out = s->sandwich ? x : 0; /* a sublayer's output again, and for attention z */
  const int64_t attention = 2 * qkv + normed + z + x + larger(s->sandwich ? z + out : z, x);
  const int64_t mlp = x + up + larger(sl_scratch_need(n_row, s->d_mlp) + out, x);
  if (!recompute) return x + larger(attention, mlp); /* one half at a time, and its residual in f32 */
  /* x in f32, and qkv, lse and mid, which are made first and stay. */
  const int64_t again = larger(mlp, sl_block_forward_scratch(s, n_row, n_row, 0));
  return 2 * x + sl_scratch_need(n_row, s->n_head) + larger(attention, qkv + again);
}

/* Emits patterns and scores for the probe's rows. */
static void show_pattern(const sl_context *c, const sl_block_shape *s, int layer, sl_attend *a, int first) {
  const bool pattern = sl_wants(c, s->part, SL_SITE_PATTERN, layer, false);
  const bool scores = sl_wants(c, s->part, SL_SITE_ATTN_SCORES, layer, false);
  const sl_ints rows = pattern || scores ? c->probe->pattern_rows : (sl_ints){0};
  if (rows.count == 0) {
    c->ops->attend(c->queue, a);
    return;
  }
  a->rows = rows;
  if (pattern) a->pattern = sl_scratch_mat(c->scratch, s->n_head * rows.count, a->k.rows);
  if (scores) a->scores = sl_scratch_mat(c->scratch, s->n_head * rows.count, a->k.rows);
  c->ops->attend(c->queue, a);
  if (scores) sl_see(c, s->part, SL_SITE_ATTN_SCORES, layer, first, a->scores);
  if (pattern) sl_see(c, s->part, SL_SITE_PATTERN, layer, first, a->pattern);
}

/* The three column groups of a fused [q | k | v] matrix. */
static void split_qkv(const sl_block_shape *s, sl_mat qkv, sl_mat *q, sl_mat *k, sl_mat *v) {
  const int nq = s->n_head * s->d_head, nkv = s->n_head_kv * s->d_head;
  *q = sl_mat_cols(qkv, 0, nq);
  *k = sl_mat_cols(qkv, nq, nkv);
  *v = sl_mat_cols(qkv, nq + nkv, nkv);
}

static sl_ints ints_from(sl_ints ints, int first) {
  return ints.count > 0 ? (sl_ints){ints.buffer, ints.offset + first, ints.count - first} : ints;
}

/* Query rows first .. of the sequence, rows first_row .. of the pass. */
static sl_attend attention(const sl_context *c, const sl_block_shape *s, sl_mat q, sl_mat k, sl_mat v, sl_mat z,
                           sl_mat lse, int first, int first_row) {
  return (sl_attend){.n_head = s->n_head, .n_head_kv = s->n_head_kv, .d_head = s->d_head,
                     .scale = sl_block_score_scale(s), .causal = s->causal, .first_query = first, .window = s->window,
                     .first_key = ints_from(c->first_key, first_row), .last_key = ints_from(c->last_key, first_row),
                     .q = q, .k = k, .v = v, .z = z, .lse = lse, .compute = s->compute};
}

/* What queries and keys go through between their projection and attention. */
static void prepare_qk(const sl_context *c, const sl_block_shape *s, const sl_block_weights *w, int layer, int first,
                       sl_mat q, sl_mat k, sl_ints positions) {
  const sl_ops *op = c->ops;
  if (s->qk_norm != SL_QK_NORM_NONE) {
    op->norm(c->queue, SL_NORM_RMS, q, q, w->q_norm_w, (sl_mat){0}, s->qk_eps);
    op->norm(c->queue, SL_NORM_RMS, k, k, w->k_norm_w, (sl_mat){0}, s->qk_eps);
  }
  if (s->inv_freq.buffer) {
    op->rope(c->queue, q, s->d_head, positions, s->inv_freq, 1);
    op->rope(c->queue, k, s->d_head, positions, s->inv_freq, 1);
  }
  if (s->log_n_length > 0) op->log_n(c->queue, q, positions, s->log_n_length);
  if (s->inv_freq.buffer) {
    sl_see(c, s->part, SL_SITE_ROT_Q, layer, first, q);
    sl_see(c, s->part, SL_SITE_ROT_K, layer, first, k);
  }
}

/* Gradients of q and k as attention uses them become those of the projection's output. q, k: before any norm. */
static void prepare_qk_backward(const sl_context *c, const sl_block_shape *s, const sl_block_weights *w, sl_mat dq,
                                sl_mat dk, sl_mat q, sl_mat k, sl_ints positions) {
  const sl_ops *op = c->ops;
  if (s->log_n_length > 0) op->log_n(c->queue, dq, positions, s->log_n_length);
  if (s->inv_freq.buffer) {
    op->rope(c->queue, dq, s->d_head, positions, s->inv_freq, -1);
    op->rope(c->queue, dk, s->d_head, positions, s->inv_freq, -1);
  }
  if (s->qk_norm != SL_QK_NORM_NONE) {
    op->norm_dx(c->queue, SL_NORM_RMS, dq, dq, q, w->q_norm_w, s->qk_eps, false);
    op->norm_dx(c->queue, SL_NORM_RMS, dk, dk, k, w->k_norm_w, s->qk_eps, false);
  }
}

void sl_block_rotate(const sl_context *c, const sl_block_shape *s, sl_mat k, sl_ints positions, int sign) {
  if (s->inv_freq.buffer) c->ops->rope(c->queue, k, s->d_head, positions, s->inv_freq, sign);
}

/* y += s(x W^T + b); when somebody wants or changes the sublayer's own output, or it is scaled or normed, it is
 * computed apart, which rounds once more. With taps that holds for every row and layer: a row's bits must not depend on
 * the edits of its neighbours. */
static void add_sublayer(const sl_context *c, const sl_block_shape *s, sl_site site, int layer, int first, sl_mat y,
                         sl_mat x, const sl_weight *w, sl_mat bias, sl_mat scale, sl_mat post_w) {
  if (!sl_wants(c, s->part, site, layer, false) && !c->taps && !scale.buffer && !s->sandwich) {
    c->ops->linear(c->queue, y, x, w, bias, true);
    return;
  }
  const int64_t mark = c->scratch->used;
  const sl_mat out = sl_scratch_mat(c->scratch, y.rows, y.cols);
  c->ops->linear(c->queue, out, x, w, bias, false);
  if (scale.buffer) c->ops->multiply(c->queue, out, out, scale);
  if (s->sandwich) c->ops->norm(c->queue, SL_NORM_RMS, out, out, post_w, (sl_mat){0}, s->eps);
  sl_see(c, s->part, site, layer, first, out);
  c->ops->add(c->queue, y, y, out);
  c->scratch->used = mark;
}

/* z of rows of many branches; their own keys and values go to their branches' places. */
static void attend_branches(const sl_context *c, const sl_branch_keys *keys, sl_mat q, sl_mat k, sl_mat v, sl_mat z) {
  sl_attend_shared a = keys->attend;
  if (keys->in_place) {
    a.local_k = k;
    a.local_v = v;
  } else {
    c->ops->scatter_rows(c->queue, a.local_k, k, keys->slots);
    c->ops->scatter_rows(c->queue, a.local_v, v, keys->slots);
  }
  a.q = q;
  a.z = z;
  c->ops->attend_shared(c->queue, &a);
}

/* Keys are those of these rows alone, of a cache that they join, or of branches: at most one of kv and branches. */
static void attention_forward(const sl_context *c, const sl_block_shape *s, const sl_block_weights *w, int layer,
                              sl_mat x, int first, sl_ints positions, const sl_kv *kv, const sl_branch_keys *branches,
                              const sl_block_acts *keep) {
  const sl_ops *op = c->ops;
  const int n_row = x.rows;
  const int64_t mark = c->scratch->used;
  const sl_mat normed = sl_scratch_mat(c->scratch, n_row, s->d_model);
  const sl_mat qkv = sl_scratch_mat(c->scratch, n_row, sl_block_qkv_width(s));
  const sl_mat z = sl_scratch_mat(c->scratch, n_row, s->n_head * s->d_head);
  const sl_mat lse = sl_scratch_mat(c->scratch, n_row, s->n_head);
  sl_mat q, k, v;
  split_qkv(s, qkv, &q, &k, &v);

  op->norm(c->queue, s->norm, normed, x, w->norm1_w, w->norm1_b, s->eps);
  sl_see(c, s->part, SL_SITE_LN1, layer, first, normed);
  op->linear(c->queue, qkv, normed, w->qkv, w->qkv_b, false);
  sl_see(c, s->part, SL_SITE_Q, layer, first, q);
  sl_see(c, s->part, SL_SITE_K, layer, first, k);
  sl_see(c, s->part, SL_SITE_V, layer, first, v);
  if (keep && keep->qkv.buffer && s->qk_norm != SL_QK_NORM_NONE) op->copy(c->queue, keep->qkv, qkv);
  prepare_qk(c, s, w, layer, first, q, k, positions);
  sl_mat keys = k, values = v;
  if (kv) {
    op->copy(c->queue, sl_mat_rows(kv->k, first, n_row), k);
    op->copy(c->queue, sl_mat_rows(kv->v, first, n_row), v);
    keys = sl_mat_rows(kv->k, 0, first + n_row);
    values = sl_mat_rows(kv->v, 0, first + n_row);
  }
  sl_attend a = attention(c, s, q, keys, values, z, lse, first, 0);
  if (branches)
    attend_branches(c, branches, q, k, v, z);
  else
    show_pattern(c, s, layer, &a, first);
  sl_see(c, s->part, SL_SITE_Z, layer, first, z);
  if (keep && keep->qkv.buffer) {
    if (s->qk_norm == SL_QK_NORM_NONE) op->copy(c->queue, keep->qkv, qkv);
    op->copy(c->queue, keep->lse, lse);
  }
  add_sublayer(c, s, SL_SITE_ATTN_OUT, layer, first, x, z, w->o, w->o_b, w->scale1, w->post1_w);
  c->scratch->used = mark;
}

static void activate(const sl_context *c, const sl_block_shape *s, sl_mat hidden, sl_mat up) {
  if (s->gated)
    c->ops->gate(c->queue, s->act, hidden, up);
  else
    c->ops->act(c->queue, s->act, hidden, up);
}

static void mlp_forward(const sl_context *c, const sl_block_shape *s, const sl_block_weights *w, int layer, sl_mat x,
                        int first, const sl_block_acts *keep) {
  const sl_ops *op = c->ops;
  const int64_t mark = c->scratch->used;
  const sl_mat normed = sl_scratch_mat(c->scratch, x.rows, s->d_model);
  const sl_mat up = sl_scratch_mat(c->scratch, x.rows, sl_block_up_width(s));
  const sl_mat hidden = sl_scratch_mat(c->scratch, x.rows, s->d_mlp);

  op->norm(c->queue, s->norm, normed, x, w->norm2_w, w->norm2_b, s->eps);
  sl_see(c, s->part, SL_SITE_LN2, layer, first, normed);
  op->linear(c->queue, up, normed, w->up, w->up_b, false);
  sl_see(c, s->part, SL_SITE_MLP_PRE, layer, first, sl_mat_cols(up, 0, s->d_mlp));
  if (s->gated) sl_see(c, s->part, SL_SITE_MLP_PRE_LINEAR, layer, first, sl_mat_cols(up, s->d_mlp, s->d_mlp));
  activate(c, s, hidden, up);
  sl_see(c, s->part, SL_SITE_MLP_POST, layer, first, hidden);
  if (keep && keep->up.buffer) op->copy(c->queue, keep->up, up);
  add_sublayer(c, s, SL_SITE_MLP_OUT, layer, first, x, hidden, w->down, w->down_b, w->scale2, w->post2_w);
  c->scratch->used = mark;
}

void sl_block_forward(const sl_context *c, const sl_block_shape *s, const sl_block_weights *w, int layer, sl_mat x,
                      int first, sl_ints positions, const sl_kv *kv, const sl_block_acts *keep) {
  sl_see(c, s->part, SL_SITE_RESID_PRE, layer, first, x);
  if (keep) c->ops->copy(c->queue, keep->x, x);
  attention_forward(c, s, w, layer, x, first, positions, kv, NULL, keep);
  sl_see(c, s->part, SL_SITE_RESID_MID, layer, first, x);
  if (keep && keep->mid.buffer) c->ops->copy(c->queue, keep->mid, x);
  mlp_forward(c, s, w, layer, x, first, keep);
  sl_see(c, s->part, SL_SITE_RESID_POST, layer, first, x);
}

void sl_block_forward_branches(const sl_context *c, const sl_block_shape *s, const sl_block_weights *w, int layer,
                               sl_mat x, sl_ints positions, const sl_branch_keys *keys) {
  const int first = keys->first_row;
  sl_see(c, s->part, SL_SITE_RESID_PRE, layer, first, x);
  attention_forward(c, s, w, layer, x, first, positions, NULL, keys, NULL);
  sl_see(c, s->part, SL_SITE_RESID_MID, layer, first, x);
  mlp_forward(c, s, w, layer, x, first, NULL);
  sl_see(c, s->part, SL_SITE_RESID_POST, layer, first, x);
}

/* The first half of a block again, silently, from its input. */
static sl_block_acts recompute_attention(const sl_context *c, const sl_block_shape *s, const sl_block_weights *w,
                                         int layer, sl_ints positions, sl_mat x) {
  const sl_block_acts acts = {.x = x,
                              .qkv = sl_scratch_mat(c->scratch, x.rows, sl_block_qkv_width(s)),
                              .lse = sl_scratch_mat(c->scratch, x.rows, s->n_head),
                              .mid = sl_scratch_mat(c->scratch, x.rows, s->d_model)};
  sl_context silent = *c;
  silent.probe = NULL;
  c->ops->copy(c->queue, acts.mid, x);
  attention_forward(&silent, s, w, layer, acts.mid, 0, positions, NULL, NULL, &acts);
  return acts;
}

/* f32 view of kept rows: as they are, or expanded from bf16 into scratch. */
static sl_mat as_f32(const sl_context *c, sl_mat kept, int first_row) {
  const sl_mat rows = sl_mat_rows(kept, first_row, kept.rows - first_row);
  if (kept.dtype == SL_F32) return rows;
  const sl_mat out = sl_scratch_mat(c->scratch, rows.rows, rows.cols);
  c->ops->copy(c->queue, out, rows);
  return out;
}

/* The activation's input, rows first_row ..: as kept, or computed again from the residual. */
static sl_mat up_rows(const sl_context *c, const sl_block_shape *s, const sl_block_weights *w,
                      const sl_block_acts *acts, int first_row) {
  if (acts->up.buffer) return as_f32(c, acts->up, first_row);
  const sl_mat mid = sl_mat_rows(acts->mid, first_row, acts->mid.rows - first_row);
  const sl_mat up = sl_scratch_mat(c->scratch, mid.rows, sl_block_up_width(s));
  const int64_t mark = c->scratch->used;
  const sl_mat normed = sl_scratch_mat(c->scratch, mid.rows, s->d_model);
  c->ops->norm(c->queue, s->norm, normed, mid, w->norm2_w, w->norm2_b, s->eps);
  c->ops->linear(c->queue, up, normed, w->up, w->up_b, false);
  c->scratch->used = mark;
  return up;
}

/* The sublayer's share of a gradient: d itself; or d times the layer scale; or d through the norm of its output, which
 * is x W^T + b computed again; put into `out`. */
static sl_mat sublayer_gradient(const sl_context *c, const sl_block_shape *s, sl_mat out, sl_mat d, sl_mat scale,
                                sl_mat post_w, sl_mat x, const sl_weight *w, sl_mat bias) {
  if (scale.buffer) c->ops->multiply(c->queue, out, d, scale);
  if (s->sandwich) {
    const int64_t mark = c->scratch->used;
    const sl_mat y = sl_scratch_mat(c->scratch, d.rows, d.cols);
    c->ops->linear(c->queue, y, x, w, bias, false);
    c->ops->norm_dx(c->queue, SL_NORM_RMS, out, d, y, post_w, s->eps, false);
    c->scratch->used = mark;
  }
  return scale.buffer || s->sandwich ? out : d;
}

/* d (rows first_row ..): through the MLP branch, added to the residual's own gradient. */
static void mlp_backward(const sl_context *c, const sl_block_shape *s, const sl_block_weights *w, int layer, sl_mat d,
                         int first_row, const sl_block_acts *acts) {
  const sl_ops *op = c->ops;
  const int n_row = d.rows - first_row;
  const int64_t mark = c->scratch->used;
  const sl_mat d_rows = sl_mat_rows(d, first_row, n_row), mid = sl_mat_rows(acts->mid, first_row, n_row);
  const sl_mat d_normed = sl_scratch_mat(c->scratch, n_row, s->d_model);
  const int64_t products = c->scratch->used;
  const sl_mat up = up_rows(c, s, w, acts, first_row);
  const sl_mat d_hidden = sl_scratch_mat(c->scratch, n_row, s->d_mlp);

  if (s->sandwich) activate(c, s, d_hidden, up); /* the sublayer's input for a moment */
  const sl_mat d_out = sublayer_gradient(c, s, d_normed, d_rows, w->scale2, w->post2_w, d_hidden, w->down, w->down_b);
  op->linear_dx(c->queue, d_hidden, d_out, w->down, false);
  if (s->gated) {
    /* In place where it is no kept copy itself: that must survive for the next target. */
    const bool kept = acts->up.buffer && acts->up.dtype == SL_F32;
    const sl_mat d_up = kept ? sl_scratch_mat(c->scratch, n_row, up.cols) : up;
    op->gate_dx(c->queue, s->act, d_up, d_hidden, up);
    op->linear_dx(c->queue, d_normed, d_up, w->up, false);
  } else {
    op->act_dx(c->queue, s->act, d_hidden, d_hidden, up);
    op->linear_dx(c->queue, d_normed, d_hidden, w->up, false);
  }
  c->scratch->used = products;
  if (sl_wants(c, s->part, SL_SITE_LN2, layer, true)) {
    const sl_mat normed = sl_scratch_mat(c->scratch, n_row, s->d_model);
    op->norm(c->queue, s->norm, normed, mid, w->norm2_w, w->norm2_b, s->eps);
    sl_see_grad(c, s->part, SL_SITE_LN2, layer, first_row, normed, d_normed);
  }
  op->norm_dx(c->queue, s->norm, d_rows, d_normed, mid, w->norm2_w, s->eps, true);
  c->scratch->used = mark;
}

/* z of the forward pass again: it is not kept. */
static sl_mat attended_again(const sl_context *c, const sl_attend *backward) {
  sl_attend a = *backward;
  a.z = sl_scratch_mat(c->scratch, a.q.rows, a.q.cols);
  a.lse = (sl_mat){0};
  c->ops->attend(c->queue, &a);
  return a.z;
}

/* Whoever wants the gradient of z pays for its value. */
static void show_z(const sl_context *c, const sl_block_shape *s, int layer, const sl_attend *backward, sl_mat d_z) {
  if (!sl_wants(c, s->part, SL_SITE_Z, layer, true)) return;
  const int64_t mark = c->scratch->used;
  const sl_mat z = attended_again(c, backward);
  sl_see_grad(c, s->part, SL_SITE_Z, layer, backward->first_query, z, d_z);
  c->scratch->used = mark;
}

/* Queries and keys as attention used them, from what was kept; silently. */
static sl_mat attended_qkv(const sl_context *c, const sl_block_shape *s, const sl_block_weights *w, int layer,
                           sl_mat kept, sl_ints positions) {
  if (s->qk_norm == SL_QK_NORM_NONE) return kept;
  const sl_mat qkv = sl_scratch_mat(c->scratch, kept.rows, kept.cols);
  sl_mat q, k, v;
  sl_context silent = *c;
  silent.probe = NULL;
  c->ops->copy(c->queue, qkv, kept);
  split_qkv(s, qkv, &q, &k, &v);
  prepare_qk(&silent, s, w, layer, 0, q, k, positions);
  return qkv;
}

/* d (rows first_row ..): through the attention branch; afterwards every row of d is filled. */
static void attention_backward(const sl_context *c, const sl_block_shape *s, const sl_block_weights *w, int layer,
                               sl_mat d, int first_row, sl_ints positions, const sl_block_acts *acts) {
  const sl_ops *op = c->ops;
  const int n_all = d.rows, n_row = n_all - first_row;
  const int64_t mark = c->scratch->used;
  const sl_mat kept = as_f32(c, acts->qkv, 0), qkv = attended_qkv(c, s, w, layer, kept, positions);
  const sl_mat d_z = sl_scratch_mat(c->scratch, n_row, s->n_head * s->d_head);
  const sl_mat d_qkv = sl_scratch_mat(c->scratch, n_all, sl_block_qkv_width(s));
  const sl_mat d_normed = sl_scratch_mat(c->scratch, n_all, s->d_model);
  sl_mat q, k, v, dq, dk, dv;
  split_qkv(s, qkv, &q, &k, &v);
  split_qkv(s, d_qkv, &dq, &dk, &dv);

  const sl_attend a = attention(c, s, sl_mat_rows(q, first_row, n_row), k, v, (sl_mat){0},
                                sl_mat_rows(acts->lse, first_row, n_row), first_row, first_row);
  const int64_t here = c->scratch->used;
  const sl_mat z = s->sandwich ? attended_again(c, &a) : (sl_mat){0};
  /* d_normed is free until the projection's gradient is known. */
  const sl_mat d_out = sublayer_gradient(c, s, sl_mat_rows(d_normed, 0, n_row), sl_mat_rows(d, first_row, n_row),
                                         w->scale1, w->post1_w, z, w->o, w->o_b);
  c->scratch->used = here;
  op->linear_dx(c->queue, d_z, d_out, w->o, false);
  show_z(c, s, layer, &a, d_z);
  if (first_row > 0) op->zero(c->queue, sl_mat_rows(dq, 0, first_row));
  op->attend_dx(c->queue, &a, d_z, sl_mat_rows(dq, first_row, n_row), dk, dv);
  split_qkv(s, kept, &q, &k, &v);
  prepare_qk_backward(c, s, w, dq, dk, q, k, positions);
  sl_see_grad(c, s->part, SL_SITE_V, layer, 0, v, dv);
  op->linear_dx(c->queue, d_normed, d_qkv, w->qkv, false);
  if (sl_wants(c, s->part, SL_SITE_LN1, layer, true)) {
    const sl_mat normed = sl_scratch_mat(c->scratch, n_all, s->d_model);
    op->norm(c->queue, s->norm, normed, acts->x, w->norm1_w, w->norm1_b, s->eps);
    sl_see_grad(c, s->part, SL_SITE_LN1, layer, 0, normed, d_normed);
    c->scratch->used = here;
  }
  if (first_row > 0) op->zero(c->queue, sl_mat_rows(d, 0, first_row));
  op->norm_dx(c->queue, s->norm, d, d_normed, acts->x, w->norm1_w, s->eps, true);
  c->scratch->used = mark;
}

static bool wants_below_mlp(const sl_context *c, const sl_block_shape *s, int layer) {
  return sl_wants(c, s->part, SL_SITE_Z, layer, true) || sl_wants(c, s->part, SL_SITE_V, layer, true) ||
         sl_wants(c, s->part, SL_SITE_LN1, layer, true) || sl_wants(c, s->part, SL_SITE_RESID_PRE, layer, true);
}

bool sl_block_wants_gradient(const sl_context *c, const sl_block_shape *s, int layer) {
  return sl_wants(c, s->part, SL_SITE_LN2, layer, true) || sl_wants(c, s->part, SL_SITE_RESID_MID, layer, true) ||
         wants_below_mlp(c, s, layer);
}

void sl_block_backward(const sl_context *c, const sl_block_shape *s, const sl_block_weights *w, int layer, sl_mat d,
                       int *first_row, sl_ints positions, const sl_block_acts *kept, bool to_input) {
  const int64_t mark = c->scratch->used;
  sl_block_acts acts = *kept;
  if (!kept->qkv.buffer) acts = recompute_attention(c, s, w, layer, positions, as_f32(c, kept->x, 0));
  const int64_t half = c->scratch->used;
  const int n_row = d.rows - *first_row;
  acts.mid = as_f32(c, acts.mid, 0);
  mlp_backward(c, s, w, layer, d, *first_row, &acts);
  sl_see_grad(c, s->part, SL_SITE_RESID_MID, layer, *first_row, sl_mat_rows(acts.mid, *first_row, n_row),
              sl_mat_rows(d, *first_row, n_row));
  c->scratch->used = half;
  if (to_input || wants_below_mlp(c, s, layer)) {
    acts.x = as_f32(c, acts.x, 0);
    attention_backward(c, s, w, layer, d, *first_row, positions, &acts);
    *first_row = 0;
    if (kept->dx.buffer) c->ops->add(c->queue, d, d, kept->dx);
    sl_see_grad(c, s->part, SL_SITE_RESID_PRE, layer, 0, acts.x, d);
  }
  c->scratch->used = mark;
}
