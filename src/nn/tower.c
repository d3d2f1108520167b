/* Vision towers, forward and backward (equations in tower.h). Sources: CLIP arXiv:2103.00020, EVA arXiv:2211.07636,
 * InternViT arXiv:2312.14238, SigLIP arXiv:2303.15343. */
#include "nn/tower.h"

/* Class token, patches and positions, before any norm. */
static void embed(const sl_context *c, const sl_tower *tower, sl_mat x, sl_mat patches) {
  const sl_ops *op = c->ops;
  assert(x.rows == tower->n_class + patches.rows && tower->class_token.rows == tower->n_class);
  if (tower->n_class > 0) op->copy(c->queue, sl_mat_rows(x, 0, tower->n_class), tower->class_token);
  op->linear(c->queue, sl_mat_rows(x, tower->n_class, patches.rows), patches, tower->patch, tower->patch_b, false);
  if (tower->positions.buffer) op->add(c->queue, x, x, tower->positions);
  sl_see(c, SL_PART_VISION, SL_SITE_EMBED, 0, 0, x);
}

/* The context of one view's block. */
static sl_context block_context(const sl_context *c, const sl_tower *tower, const sl_tower_view *view, int layer) {
  sl_context own = *c;
  const bool windows = view->first_key.count > 0 && !(tower->sees_all && tower->sees_all[layer]);
  own.first_key = windows ? view->first_key : (sl_ints){0};
  own.last_key = windows ? view->last_key : (sl_ints){0};
  return own;
}

/* Keeps the residual after n blocks where it is wanted. */
static void keep_levels(const sl_context *c, const sl_tower *tower, const sl_tower_view *view, int n, sl_mat x) {
  for (int i = 0; i < tower->n_level; i++)
    if (tower->levels[i] == n) c->ops->copy(c->queue, view->levels[i], x);
}

/* The gradient of what was kept there, summed where it was kept more than once; absent where it was not. */
static sl_mat level_gradient(const sl_context *c, const sl_tower *tower, const sl_tower_view *view, int n) {
  sl_mat sum = {0};
  for (int i = 0; i < tower->n_level; i++) {
    if (tower->levels[i] != n) continue;
    if (sum.buffer) c->ops->add(c->queue, sum, sum, view->levels[i]);
    if (!sum.buffer) sum = view->levels[i];
  }
  return sum;
}

sl_status sl_tower_forward(const sl_context *all, const sl_tower *tower, sl_mat x, sl_mat patches,
                           const sl_tower_view *view, const sl_tower_acts *keep, const atomic_bool *cancel) {
  sl_context own = *all, *c = &own;
  own.row_offset += view->first_row;
  embed(c, tower, x, patches);
  if (tower->norm_w.buffer) {
    c->ops->norm(c->queue, SL_NORM_LAYER, x, x, tower->norm_w, tower->norm_b, tower->shape.eps);
    sl_see(c, SL_PART_VISION, SL_SITE_LN_PRE, 0, 0, x);
  }
  keep_levels(c, tower, view, 0, x);
  for (int il = 0; il < tower->n_layer; il++) {
    SL_TRY(sl_check_cancel(cancel));
    sl_block_acts acts;
    if (keep) acts = sl_block_acts_rows(&keep->blocks[il], view->first_row, x.rows);
    const sl_context block = block_context(c, tower, view, il);
    sl_block_forward(&block, &tower->shape, &tower->blocks[il], il, x, 0, view->positions, NULL, keep ? &acts : NULL);
    keep_levels(c, tower, view, il + 1, x);
  }
  if (tower->post_w.buffer) {
    if (keep) c->ops->copy(c->queue, sl_mat_rows(keep->last, view->first_row, x.rows), x);
    c->ops->norm(c->queue, tower->shape.norm, x, x, tower->post_w, tower->post_b, tower->shape.eps);
    sl_see(c, SL_PART_VISION, SL_SITE_LN_POST, 0, 0, x);
  }
  return SL_OK;
}

sl_status sl_tower_backward(const sl_context *all, const sl_tower *tower, sl_mat d, const sl_tower_view *view,
                            const sl_tower_acts *kept, const atomic_bool *cancel) {
  sl_context own = *all, *c = &own;
  own.row_offset += view->first_row;
  if (tower->post_w.buffer)
    c->ops->norm_dx(c->queue, tower->shape.norm, d, d, sl_mat_rows(kept->last, view->first_row, d.rows), tower->post_w,
                    tower->shape.eps, false);
  const sl_mat last = level_gradient(c, tower, view, tower->n_layer);
  if (last.buffer) c->ops->add(c->queue, d, d, last);
  for (int il = tower->n_layer - 1; il >= 0; il--) {
    SL_TRY(sl_check_cancel(cancel));
    sl_block_acts acts = sl_block_acts_rows(&kept->blocks[il], view->first_row, d.rows);
    acts.dx = level_gradient(c, tower, view, il);
    const sl_context block = block_context(c, tower, view, il);
    int first_row = 0;
    sl_block_backward(&block, &tower->shape, &tower->blocks[il], il, d, &first_row, view->positions, &acts, true);
  }
  return SL_OK;
}
