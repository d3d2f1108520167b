/* InstructBLIP's Q-Former (Dai et al. 2023, arXiv:2305.06500; after BLIP-2, Li et al. 2023, arXiv:2301.12597): learned
 * queries read the tower's features, and the question decides what they read. Post-norm blocks, as in BERT.
 *
 *   x = norm([queries ; words[ids] + positions])                    R = Nq + text rows, one LayerNorm over all
 *   every layer:
 *     a = norm(x + attend(q, k, v of x) Wo + b)                     all rows among themselves, no mask
 *     in every cross_every-th layer from 0 on, query rows alone:
 *       a = norm(a + attend(q of a, k and v of the features) Wo + b)
 *     x = norm(a + act(a W1 + b) W2 + b)                            query rows and text rows have their own weights
 *   out = x[0 .. Nq) Wp + b                                         [Nq, D], the decoder's image rows
 *
 * What the tower contributes depends on the question: rows made for one question must not serve another, so a prefix
 * (keys and values up to the last image position) belongs to a picture and a question, and questions cannot share it.
 * Without text (ids.count 0) this is BLIP-2's Q-Former, whose rows depend on the picture alone.
 *
 * Symbols: R rows, Nq queries, T feature rows, Dv their width, Dq the Q-Former's own, D the decoder's. */
#ifndef SL_NN_QFORMER_H
#define SL_NN_QFORMER_H

#include "nn/context.h"

/* How every sublayer ends: norm(residual + x W^T + b). */
typedef struct sl_qformer_output {
  sl_weight *w;
  sl_mat b, norm_w, norm_b;
} sl_qformer_output;

typedef struct sl_qformer_mlp {
  sl_weight *up; /* [F, Dq] */
  sl_mat up_b;
  sl_qformer_output down; /* w [Dq, F] */
} sl_qformer_mlp;

typedef struct sl_qformer_layer {
  sl_weight *qkv; /* [3 H d, Dq] */
  sl_mat qkv_b;
  sl_qformer_output self; /* w [Dq, H d] */
  sl_weight *cross_q;     /* [H d, Dq]; this and the next four are absent without cross-attention */
  sl_weight *cross_kv;    /* [2 H d, Dv] */
  sl_mat cross_q_b, cross_kv_b;
  sl_qformer_output cross;
  sl_qformer_mlp query_mlp, text_mlp; /* text_mlp is absent in a Q-Former without text */
} sl_qformer_layer;

typedef struct sl_qformer {
  int n_layer, n_head, d_head;
  int cross_every; /* layers 0, cross_every, 2 cross_every, ... have cross-attention */
  float eps;
  sl_act act;
  sl_compute compute; /* of the weights: attention's own products follow it */
  sl_mat queries;     /* [Nq, Dq] */
  sl_weight *words;   /* [vocabulary, Dq]; absent without text */
  sl_mat positions;   /* [longest text, Dq] */
  sl_mat norm_w, norm_b;
  sl_qformer_layer *layers;
  sl_weight *projection; /* [D, Dq] */
  sl_mat projection_b;
  sl_ints numbers; /* 0, 1, 2, ...: at least R of them; attention patterns are shown for all rows, never for
                      probe->pattern_rows, which belong to the tower */
} sl_qformer;

/* What the backward pass needs of one layer's forward, all f32. */
typedef struct sl_qformer_acts {
  sl_mat qkv, lse, self_sum;                       /* [R, 3 H d], [R, H], [R, Dq]; a sum is the input of a norm */
  sl_mat cross_q, cross_kv, cross_lse, cross_sum;  /* [Nq, H d], [T, 2 H d], [Nq, H], [Nq, Dq]; or absent */
  sl_mat up, mlp_sum;                              /* [R, F] before the activation, [R, Dq] */
} sl_qformer_acts;

static inline bool sl_qformer_crosses(const sl_qformer *q, int layer) { return layer % q->cross_every == 0; }

/* Elements of scratch of either direction; `patterns` with room for attention patterns that a probe wants. */
int64_t sl_qformer_scratch(const sl_qformer *qformer, int n_row, int n_feature, bool patterns);

/* Lays the acts of all layers (n_layer entries) out in `buffer` from element `offset` on; returns the elements they
 * take. With acts NULL it only counts. */
int64_t sl_qformer_keep(sl_qformer_acts *acts, const sl_qformer *qformer, sl_buffer *buffer, int64_t offset, int n_row,
                        int n_feature);

/* out [Nq, D] from features [T, Dv] and the text's ids, which are in range and no more than positions has rows. `keep`
 * (n_layer entries) or NULL. Between layers `cancel` (may be NULL) is checked. */
sl_status sl_qformer_forward(const sl_context *c, const sl_qformer *qformer, sl_mat out, sl_mat features, sl_ints ids,
                             const sl_qformer_acts *keep, const atomic_bool *cancel);

/* d_features [T, Dv] (overwritten) from d_out [Nq, D]: the sum over all cross-attentions. Queries and text get no
 * gradient. */
sl_status sl_qformer_backward(const sl_context *c, const sl_qformer *qformer, sl_mat d_features, sl_mat d_out,
                              sl_mat features, sl_mat out, const sl_qformer_acts *kept, const atomic_bool *cancel);

#endif
