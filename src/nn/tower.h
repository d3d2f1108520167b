/* CLIP vision tower: patch product, class token, learned positions, norm, blocks. Only the blocks below the kept feature
 * layer are run. */
#ifndef SL_NN_TOWER_H
#define SL_NN_TOWER_H

#include "nn/block.h"

typedef struct sl_tower {
  sl_block_shape shape;
  int n_layer; /* blocks that are run */
  int n_patch; /* patches of a picture; rows are n_patch + 1 with the class token first */
  sl_block_weights *blocks;
  sl_weight *patch;       /* [D, 3 p p] */
  sl_mat patch_b;         /* absent in CLIP */
  sl_mat class_token;     /* [1, D] */
  sl_mat positions;       /* [n_patch + 1, D] */
  sl_mat norm_w, norm_b;  /* before block 0 */
} sl_tower;

static inline int sl_tower_rows(const sl_tower *tower) { return tower->n_patch + 1; }

/* x [n_patch + 1, D] from patches [n_patch, 3 p p]. `keep` (n_layer entries) or NULL. Between layers `cancel` (may be
 * NULL) is checked. */
sl_status sl_tower_forward(const sl_context *c, const sl_tower *tower, sl_mat x, sl_mat patches, const sl_block_acts *keep,
                           const atomic_bool *cancel);

/* d [n_patch + 1, D]: gradient of the features in, of the first block's input out. */
sl_status sl_tower_backward(const sl_context *c, const sl_tower *tower, sl_mat d, const sl_block_acts *kept,
                            const atomic_bool *cancel);

#endif
