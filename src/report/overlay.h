/* Maps over pictures: from one value per image token to coloured pixels. assets/map.js draws the same in the page. */
#ifndef SL_REPORT_OVERLAY_H
#define SL_REPORT_OVERLAY_H

#include "input/image.h"

/* Where the image tokens are. */
typedef struct sl_token_map {
  int n_token;
  int grid_height, grid_width; /* 0 without a grid; else their product is n_token */
  const float *box;            /* [n_token, 4] x0 y0 x1 y1 in px of the stored picture, or NULL: the grid covers it */
} sl_token_map;

/* Values of every pixel of a width x height picture that shows a stored_width x stored_height one: bilinear between
 * token centres with a grid, the mean over the boxes that cover a pixel without. Pixels no token covers are NaN.
 * out: [height, width]. */
sl_status sl_overlay_raster(float *out, int width_px, int height_px, const sl_token_map *tokens, const float *values,
                            int stored_width_px, int stored_height_px);

/* Blends `raster` (divided by `maximum`) over `picture` in place. maximum <= 0: nothing is drawn. */
void sl_overlay_blend(sl_rgb *picture, const float *raster, float maximum, float strength);

/* Diagonal hatching over a faded picture: the map of this layer is undefined. */
void sl_overlay_hatch(sl_rgb *picture);

/* Writes a number in white on a dark box at (x, y), the top left corner. */
void sl_overlay_number(sl_rgb *picture, int x, int y, int number);

#endif
