/* The pre-norm transformer block that vision towers and LLaMA-like decoders share: forward and backward side by side.
 *
 *   a = norm1(x);  q, k, v = a Wqkv + b;  norm q, k;  rotate q, k;  z = attend(q, k, v);  m = x + s1(z Wo + b)
 *   n = norm2(m);  y = m + s2((act(n Wg) * n Wu) Wd + b)         (or act(n W1 + b) W2 + b without a gate)
 *
 * Norm of q and k, rotation, and s1, s2 (a layer scale, or a second norm as in Gemma 3) are there as the family has
 * them. */
#ifndef SL_NN_BLOCK_H
#define SL_NN_BLOCK_H

#include "nn/context.h"

/* RMS norm of queries and keys before rotation: none; over the whole width before heads are split (InternViT-6B); each
 * head by itself (Gemma 3, Qwen3). */
typedef enum sl_qk_norm { SL_QK_NORM_NONE, SL_QK_NORM_WIDTH, SL_QK_NORM_HEAD } sl_qk_norm;

/* Constants of a stack of blocks. */
typedef struct sl_block_shape {
  sl_part part;
  int d_model, n_head, n_head_kv, d_head, d_mlp;
  sl_norm norm;
  float eps;
  sl_act act;
  bool gated, causal;
  int window; /* causal blocks see the last `window` keys only; 0 = all */
  sl_compute compute; /* of the weights: attention's own products follow it */
  sl_mat inv_freq; /* [A, d/2], positions then hold A numbers a row; absent = no rotary embedding */
  bool sandwich; /* sublayers' outputs are normed before they are added */
  sl_qk_norm qk_norm;
  float qk_eps;
  float score_scale; /* of q k; 0 = 1 / sqrt(d) */
  int log_n_length; /* n > 1: rotated queries at 0-based position p >= n times log(p + 1) / log(n) (Qwen); 0 = never */
} sl_block_shape;

/* One block's weights; absent biases are zeroed mats. up is [gate; up] stacked when gated. */
typedef struct sl_block_weights {
  sl_mat norm1_w, norm1_b, norm2_w, norm2_b;
  sl_weight *qkv, *o, *up, *down;
  sl_mat qkv_b, o_b, up_b, down_b;
  sl_mat q_norm_w, k_norm_w; /* [1, H d] and [1, Hkv d] over the width, [1, d] by heads */
  sl_mat scale1, scale2;     /* [1, D] layer scale; absent = 1 */
  sl_mat post1_w, post2_w;   /* [1, D] RMS norm of the sublayers' outputs, with `sandwich`; then there is no scale */
} sl_block_weights;

/* What the backward pass needs of one block's forward. `x` is always there; qkv, lse and mid together, or they are
 * computed again from x; `up` only beside them, or it is computed again from mid, for the rows that have a gradient. */
typedef struct sl_block_acts {
  sl_mat x;    /* [T, D] residual before the block; f32 or bf16, as all but lse */
  sl_mat qkv;  /* [T, (H + 2 Hkv) d]: q and k as attention uses them, or before their norm where there is one */
  sl_mat lse;  /* [T, H] f32 */
  sl_mat mid;  /* [T, D] residual after attention */
  sl_mat up;   /* [T, F] or [T, 2F] before the activation */
  sl_mat dx;   /* [T, D] for the backward pass: gradient that x has from others than the block; absent = none */
} sl_block_acts;

/* Where new keys and values go and old ones are read: [capacity, Hkv d]. */
typedef struct sl_kv {
  sl_mat k, v;
} sl_kv;

/* Keys of rows that belong to many branches: what they share and each branch's own, for one layer. */
typedef struct sl_branch_keys {
  sl_attend_shared attend; /* all but q and z */
  sl_ints slots;           /* [T] place of each row's own key in attend.local_k and local_v */
  bool in_place;           /* the rows are the slots in order and nobody needs the keys later: they are not copied */
  int first_row;           /* what a probe is told for row 0 */
} sl_branch_keys;

/* Rows first_row .. of what is kept: one view's part. */
static inline sl_block_acts sl_block_acts_rows(const sl_block_acts *acts, int first_row, int n_row) {
  return (sl_block_acts){sl_mat_rows(acts->x, first_row, n_row), sl_mat_rows(acts->qkv, first_row, n_row),
                         sl_mat_rows(acts->lse, first_row, n_row), sl_mat_rows(acts->mid, first_row, n_row),
                         sl_mat_rows(acts->up, first_row, n_row), {0}};
}

static inline int sl_block_qkv_width(const sl_block_shape *s) { return (s->n_head + 2 * s->n_head_kv) * s->d_head; }
static inline int sl_block_up_width(const sl_block_shape *s) { return s->gated ? 2 * s->d_mlp : s->d_mlp; }

static inline float sl_block_score_scale(const sl_block_shape *s) {
  return s->score_scale > 0 ? s->score_scale : 1.0f / __builtin_sqrtf((float)s->d_head);
}

/* Elements of scratch for T rows against T_key keys, with n_row pattern rows emitted. */
int64_t sl_block_forward_scratch(const sl_block_shape *shape, int n_row, int n_key, int n_pattern);
int64_t sl_block_backward_scratch(const sl_block_shape *shape, int n_row, bool recompute);

/* Keys in place, as a cache holds them: turned to their positions (sign +1), or back (-1). */
void sl_block_rotate(const sl_context *c, const sl_block_shape *shape, sl_mat k, sl_ints positions, int sign);

/* One block in place on x [T, D], rows first .. first + T - 1 of the sequence. With `kv`, keys and values are appended
 * there and all first + T rows are attended to; without, the rows attend among themselves (first is 0). With `keep` the
 * backward's needs are stored. */
void sl_block_forward(const sl_context *c, const sl_block_shape *shape, const sl_block_weights *w, int layer, sl_mat x,
                      int first, sl_ints positions, const sl_kv *kv, const sl_block_acts *keep);

/* One block in place on x [T, D], rows of many branches. */
void sl_block_forward_branches(const sl_context *c, const sl_block_shape *shape, const sl_block_weights *w, int layer,
                               sl_mat x, sl_ints positions, const sl_branch_keys *keys);

/* d [T, D]: gradient of the residual after the block, replaced by that before it. Rows before *first_row hold zeros and
 * are not read; on return *first_row is the first reachable row below (0 once attention has spread the gradient). Where
 * neither the caller (to_input) nor the probe needs the gradient below the MLP, it stops there. */
void sl_block_backward(const sl_context *c, const sl_block_shape *shape, const sl_block_weights *w, int layer, sl_mat d,
                       int *first_row, sl_ints positions, const sl_block_acts *kept, bool to_input);

/* True when the probe wants a gradient anywhere in this block. */
bool sl_block_wants_gradient(const sl_context *c, const sl_block_shape *shape, int layer);

#endif
