/* LLaMA-like decoder, forward and backward. */
#include "nn/decoder.h"

void sl_decoder_words(sl_queue *queue, const sl_decoder *decoder, sl_mat x, sl_ints ids) {
  const sl_ops *op = sl_queue_ops(queue);
  op->embed(queue, x, decoder->embed, ids);
  if (decoder->embed_scale > 0) op->scale(queue, x, x, decoder->embed_scale);
}

void sl_decoder_embed(const sl_context *c, const sl_decoder *decoder, sl_mat x, sl_ints ids, sl_mat image, sl_ints at) {
  sl_decoder_words(c->queue, decoder, x, ids);
  if (at.count > 0) c->ops->scatter_rows(c->queue, x, image, at);
  sl_see(c, SL_PART_DECODER, SL_SITE_EMBED, 0, 0, x);
}

sl_status sl_decoder_forward(const sl_context *c, const sl_decoder *decoder, sl_mat x, int first, sl_ints positions,
                             const sl_kv *kv, const sl_block_acts *keep, const atomic_bool *cancel) {
  for (int il = 0; il < decoder->n_layer; il++) {
    SL_TRY(sl_check_cancel(cancel));
    const sl_context own = sl_decoder_context(c, decoder, il);
    sl_block_forward(&own, sl_decoder_shape(decoder, il), &decoder->blocks[il], il, x, first, positions,
                     kv ? &kv[il] : NULL, keep ? &keep[il] : NULL);
  }
  return SL_OK;
}

int64_t sl_decoder_head_scratch(const sl_decoder *decoder, int n_row) {
  return sl_scratch_need(n_row, decoder->shape.d_model);
}

void sl_decoder_head(const sl_context *c, const sl_decoder *decoder, sl_mat logits, sl_mat x, int first_row) {
  const int64_t mark = c->scratch->used;
  const sl_mat normed = sl_scratch_mat(c->scratch, x.rows, x.cols);
  c->ops->norm(c->queue, decoder->shape.norm, normed, x, decoder->norm_w, (sl_mat){0}, decoder->shape.eps);
  sl_see(c, SL_PART_DECODER, SL_SITE_LN_FINAL, 0, first_row, normed);
  c->ops->linear(c->queue, logits, normed, decoder->head, (sl_mat){0}, false);
  sl_see(c, SL_PART_DECODER, SL_SITE_LOGITS, 0, first_row, logits);
  c->scratch->used = mark;
}

void sl_decoder_head_backward(const sl_context *c, const sl_decoder *decoder, sl_mat d_x, sl_mat d_logits, sl_mat x) {
  const int64_t mark = c->scratch->used;
  const sl_mat d_normed = sl_scratch_mat(c->scratch, x.rows, x.cols);
  c->ops->linear_dx(c->queue, d_normed, d_logits, decoder->head, false);
  c->ops->norm_dx(c->queue, decoder->shape.norm, d_x, d_normed, x, decoder->norm_w, decoder->shape.eps, false);
  c->scratch->used = mark;
}

sl_status sl_decoder_backward(const sl_context *c, const sl_decoder *decoder, sl_mat d, int first_row,
                              sl_ints positions, const sl_block_acts *kept, bool to_input, const atomic_bool *cancel) {
  int lowest = 0;
  while (!to_input && lowest < decoder->n_layer && !sl_block_wants_gradient(c, &decoder->shape, lowest)) lowest++;
  for (int il = decoder->n_layer - 1; il >= lowest; il--) {
    SL_TRY(sl_check_cancel(cancel));
    const sl_context own = sl_decoder_context(c, decoder, il);
    sl_block_backward(&own, sl_decoder_shape(decoder, il), &decoder->blocks[il], il, d, &first_row, positions,
                      &kept[il], to_input || il > lowest);
  }
  return SL_OK;
}
