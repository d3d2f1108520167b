/* Between the files of the tilings: where each view of a picture comes from. */
#ifndef SL_INPUT_TILING_H
#define SL_INPUT_TILING_H

#include "input/image_internal.h"

#define SL_MAX_SIDE_PX 16384 /* of sizes in settings */

typedef struct sl_size {
  int width_px, height_px;
} sl_size;

/* The views of one picture. The sheet goes through the stages, resized each time, and every view is cut from what the
 * last one gives. */
typedef struct sl_tile_plan {
  sl_size stages[2];
  int n_stage;
  sl_cut *cuts; /* [n_cut]; free() */
  int n_cut, base, tile_rows, tile_cols;
} sl_tile_plan;

/* Settings of the tiling that make sense; messages begin with `name`. */
sl_status sl_tiling_check(const sl_preprocess *preprocess, const char *name);

/* For a checked `preprocess` and a sheet of this size. */
sl_status sl_tile_plan_make(sl_tile_plan *out, const sl_preprocess *preprocess, sl_size sheet);

#endif
