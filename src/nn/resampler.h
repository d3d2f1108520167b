/* Qwen-VL's resampler (Bai et al. 2023, arXiv:2308.12966): learned queries read the tower's features by one
 * cross-attention.
 *
 *   kv = LayerNorm(x Wkv);  q = LayerNorm(query) + pos_q;  k = kv + pos_k
 *   y = attend(q Wq + bq, k Wk + bk, kv Wv + bv) Wo + bo            (values carry no positions)
 *   out = LayerNorm(y) P
 *
 * Symbols: T feature rows of width Dv, N queries, D width inside, D' of the decoder's rows. */
#ifndef SL_NN_RESAMPLER_H
#define SL_NN_RESAMPLER_H

#include "nn/context.h"

typedef struct sl_resampler {
  int n_head, d_head;
  float eps;
  sl_compute compute; /* of the weights: attention's own products follow it */
  sl_mat query;                          /* [N, D] */
  sl_mat pos_q, pos_k;                   /* [N, D] and, resampled to the features' grid, [T, D] */
  sl_weight *kv;                         /* [D, Dv]; NULL where the tower is as wide */
  sl_mat norm_kv_w, norm_kv_b, norm_q_w, norm_q_b, post_w, post_b;
  sl_weight *q, *k, *v, *o;              /* [D, D] each: rows of in_proj, and out_proj */
  sl_mat q_b, k_b, v_b, o_b;
  sl_weight *proj;                       /* P [D, D'] as it is stored: multiplied from the right, not transposed */
  sl_ints numbers;                       /* 0 .. N - 1: the pattern is shown for all queries, whatever a probe's rows */
} sl_resampler;

/* What the backward pass needs; absent mats (zeroed struct) = keep nothing. All f32. */
typedef struct sl_resampler_acts {
  sl_mat wide;    /* [T, D] x Wkv, before its norm; absent without kv */
  sl_mat q, k, v; /* [N, D], [T, D], [T, D] as attention uses them */
  sl_mat lse;     /* [N, H] */
  sl_mat y;       /* [N, D] */
} sl_resampler_acts;

static inline int sl_resampler_width(const sl_resampler *r) { return r->n_head * r->d_head; }

/* Elements of scratch for n_row features; `pattern`: somebody wants projector.cross.hook_pattern. */
int64_t sl_resampler_forward_scratch(const sl_resampler *resampler, int n_row, bool pattern);
int64_t sl_resampler_backward_scratch(const sl_resampler *resampler, int n_row);

/* out [N, D'] from features [T, Dv]; `keep` or NULL. */
void sl_resampler_forward(const sl_context *c, const sl_resampler *resampler, sl_mat out, sl_mat features,
                          const sl_resampler_acts *keep);

/* d_features [T, Dv] from d_out [N, D']. */
void sl_resampler_backward(const sl_context *c, const sl_resampler *resampler, sl_mat d_features, sl_mat d_out,
                           sl_mat features, sl_mat out, const sl_resampler_acts *kept);

#endif
