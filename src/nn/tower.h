/* Vision tower: patch product, class token, learned positions, norm, blocks, norm, each as the family has it. Only the
 * blocks below the kept feature layer are run.
 *
 *   x = [class; patches W^T + b] + positions;  x = pre_norm(x);  x = blocks(x);  x = post_norm(x)
 *
 * One call takes one view of the picture (a tile, a crop, the whole). The caller runs several views one after another,
 * each on its own rows of a matrix of all views; views do not attend to each other. */
#ifndef SL_NN_TOWER_H
#define SL_NN_TOWER_H

#include "nn/block.h"

#define SL_MAX_LEVEL 8

typedef struct sl_tower {
  sl_block_shape shape;
  int n_layer; /* blocks that are run */
  int n_level; /* residuals that are wanted beside the last: after levels[i] blocks (0 = before the first) */
  int levels[SL_MAX_LEVEL];
  int n_class; /* class tokens before the patches: 1 (CLIP, InternViT, EVA) or 0 (SigLIP, Qwen-VL) */
  int n_patch; /* patches of a view; where views have any size, those of the size that estimates are made for */
  sl_block_weights *blocks;
  sl_weight *patch;       /* [D, 3 p p] */
  sl_mat patch_b;         /* absent in CLIP */
  sl_mat class_token;     /* [n_class, D] */
  sl_mat positions;       /* [n_class + n_patch, D]; absent where blocks rotate instead */
  sl_mat norm_w, norm_b;  /* before block 0, always a LayerNorm (CLIP, Qwen-VL); absent = none */
  const bool *sees_all;   /* [n_layer] blocks that attend to the whole view though views have windows; NULL = none */
  sl_mat post_w, post_b;  /* after the last block, of the blocks' kind (EVA, SigLIP); absent = none */
} sl_tower;

static inline int sl_tower_rows(const sl_tower *tower) { return tower->n_class + tower->n_patch; }

/* One view: where its rows stand among those of all views; their rotary positions and windows of attention, if any. */
typedef struct sl_tower_view {
  int first_row; /* what probes are told for row 0, and the row of `keep` that row 0 goes to */
  sl_ints positions;
  sl_ints first_key, last_key; /* rows of the view that each row sees; count 0 = all */
  sl_mat levels[SL_MAX_LEVEL]; /* each like x: forward writes them; backward reads their gradients and spoils them */
} sl_tower_view;

/* What the backward pass needs, for the rows of all views. */
typedef struct sl_tower_acts {
  const sl_block_acts *blocks; /* n_layer entries */
  sl_mat last;                 /* [T, D] f32, residual before the norm after the last block; absent without one */
} sl_tower_acts;

/* x [n_class + n_patch, D] from patches [n_patch, 3 p p], as many as the view has; `keep` or NULL. Between layers
 * `cancel` (may be NULL) is checked. Scratch: sl_block_forward_scratch. */
sl_status sl_tower_forward(const sl_context *c, const sl_tower *tower, sl_mat x, sl_mat patches,
                           const sl_tower_view *view, const sl_tower_acts *keep, const atomic_bool *cancel);

/* d [n_class + n_patch, D], one view's rows: gradient of the features in, of the first block's input out. Scratch:
 * sl_block_backward_scratch. */
sl_status sl_tower_backward(const sl_context *c, const sl_tower *tower, sl_mat d, const sl_tower_view *view,
                            const sl_tower_acts *kept, const atomic_bool *cancel);

#endif
