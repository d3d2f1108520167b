/* CLIP vision tower (Radford et al. 2021), as LLaVA uses it: hidden states after n_layer blocks, no final norm. */
#include "nn/tower.h"

sl_status sl_tower_forward(const sl_context *c, const sl_tower *tower, sl_mat x, sl_mat patches,
                           const sl_block_acts *keep, const atomic_bool *cancel) {
  const sl_ops *op = c->ops;
  op->copy(c->queue, sl_mat_rows(x, 0, 1), tower->class_token);
  op->linear(c->queue, sl_mat_rows(x, 1, tower->n_patch), patches, tower->patch, tower->patch_b, false);
  op->add(c->queue, x, x, tower->positions);
  sl_see(c, SL_PART_VISION, SL_SITE_EMBED, 0, 0, x);
  const int64_t mark = c->scratch->used;
  const sl_mat embedded = sl_scratch_mat(c->scratch, x.rows, x.cols);
  op->copy(c->queue, embedded, x);
  op->norm(c->queue, SL_NORM_LAYER, x, embedded, tower->norm_w, tower->norm_b, tower->shape.eps);
  c->scratch->used = mark;
  sl_see(c, SL_PART_VISION, SL_SITE_LN_PRE, 0, 0, x);
  for (int il = 0; il < tower->n_layer; il++) {
    SL_TRY(sl_check_cancel(cancel));
    sl_block_forward(c, &tower->shape, &tower->blocks[il], il, x, 0, (sl_ints){0}, NULL, keep ? &keep[il] : NULL);
  }
  return SL_OK;
}

sl_status sl_tower_backward(const sl_context *c, const sl_tower *tower, sl_mat d, const sl_block_acts *kept,
                            const atomic_bool *cancel) {
  for (int il = tower->n_layer - 1; il >= 0; il--) {
    SL_TRY(sl_check_cancel(cancel));
    int first_row = 0;
    sl_block_backward(c, &tower->shape, &tower->blocks[il], il, d, &first_row, (sl_ints){0}, &kept[il], true);
  }
  return SL_OK;
}
