/* LLaMA-like decoder: embeddings with image rows spliced in, blocks, final norm, head. */
#ifndef SL_NN_DECODER_H
#define SL_NN_DECODER_H

#include "nn/block.h"

typedef struct sl_decoder {
  sl_block_shape shape;
  sl_block_shape local; /* of layers before every global_every-th: a window and frequencies of their own (Gemma 3) */
  int global_every;     /* 0: all layers have `shape` */
  float embed_scale;    /* of embeddings of text; 0: as they are */
  int n_layer, n_vocab;
  sl_block_weights *blocks;
  sl_weight *embed, *head; /* the same weight twice when tied */
  sl_mat norm_w;
} sl_decoder;

static inline bool sl_decoder_is_local(const sl_decoder *decoder, int layer) {
  return decoder->global_every > 0 && (layer + 1) % decoder->global_every != 0;
}

static inline const sl_block_shape *sl_decoder_shape(const sl_decoder *decoder, int layer) {
  return sl_decoder_is_local(decoder, layer) ? &decoder->local : &decoder->shape;
}

/* The context of one layer: where rows see what lists say, local layers have a list of their own. */
static inline sl_context sl_decoder_context(const sl_context *c, const sl_decoder *decoder, int layer) {
  sl_context own = *c;
  if (sl_decoder_is_local(decoder, layer)) own.first_key = c->local_first_key;
  return own;
}

/* x [T, D]: embeddings of tokens of text. */
void sl_decoder_words(sl_queue *queue, const sl_decoder *decoder, sl_mat x, sl_ints ids);

/* x [T, D]: embeddings of ids, then rows `at` replaced by `image` [N, D] (count 0 = none). */
void sl_decoder_embed(const sl_context *c, const sl_decoder *decoder, sl_mat x, sl_ints ids, sl_mat image, sl_ints at);

/* All blocks on x [T, D] in place, rows first .. of the sequence; kv has n_layer entries, or is NULL
 * (first is then 0); keep likewise.
 * Between layers `cancel` (may be NULL) is checked. */
sl_status sl_decoder_forward(const sl_context *c, const sl_decoder *decoder, sl_mat x, int first, sl_ints positions,
                             const sl_kv *kv, const sl_block_acts *keep, const atomic_bool *cancel);

/* logits [R, V] of rows x [R, D] (final residual); first_row names them to the probe. Scratch: *_head_scratch. */
int64_t sl_decoder_head_scratch(const sl_decoder *decoder, int n_row);
void sl_decoder_head(const sl_context *c, const sl_decoder *decoder, sl_mat logits, sl_mat x, int first_row);

/* d_x [R, D] from d_logits [R, V] at the final residual x [R, D]. */
void sl_decoder_head_backward(const sl_context *c, const sl_decoder *decoder, sl_mat d_x, sl_mat d_logits, sl_mat x);

/* d [T, D] of the final residual, rows before first_row unreachable, replaced by that of the decoder's input; without
 * to_input the pass ends below the lowest site that the probe wants, and d is of no more use. */
sl_status sl_decoder_backward(const sl_context *c, const sl_decoder *decoder, sl_mat d, int first_row,
                              sl_ints positions, const sl_block_acts *kept, bool to_input, const atomic_bool *cancel);

#endif
