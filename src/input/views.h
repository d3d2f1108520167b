/* One picture as the views a vision tower sees: tiles, thumbnail, or a single one. */
#ifndef SL_INPUT_VIEWS_H
#define SL_INPUT_VIEWS_H

#include "input/image.h"

/* All views have one size. Release with sl_views_dispose. */
typedef struct sl_views {
  int n_view, height_px, width_px;
  float *pixels;       /* [n_view, 3, height, width]; NULL from sl_views_plan */
  sl_pixel_map *maps;  /* [n_view] px of the view -> px of the source */
  int base;            /* the view that shows all of it: 0 for anyres and without tiles, else the last; -1 when the
                        * settings want tiles and no thumbnail */
  int tile_rows, tile_cols; /* arrangement of the other views, row by row; 0 x 0 where there is only the base */
  int source_width_px, source_height_px;
} sl_views;

/* The order of views is the model's own: anyres base, tiles; intern and idefics tiles, whole picture. A picture that
 * intern gives a single tile has that as its base and no arrangement. Equal to the processor's PIL path. */
sl_status sl_views_make(sl_views *out, const sl_preprocess *preprocess, const sl_rgb *image);

/* The same without pixels, for a picture of this size: how many views, where they lie. */
sl_status sl_views_plan(sl_views *out, const sl_preprocess *preprocess, int width_px, int height_px);
void sl_views_dispose(sl_views *views);

/* Part of a grid of tokens. */
typedef struct sl_grid_part {
  int first_row, first_col, n_row, n_col;
} sl_grid_part;

/* LLaVA-NeXT's unpadding: of the grid that the tiles' tokens form (n_row = tile_rows times the rows of one tile, ...),
 * the part that shows the picture and not the black around it. Centred, along one axis only, and possibly empty for a
 * very long picture (10000 x 1 px). Of what is kept, the model makes n_row * n_col tokens and n_row newlines, which
 * follow the tokens of the base view. */
sl_grid_part sl_anyres_unpad(int source_width_px, int source_height_px, int n_row, int n_col);

#endif
