/* How a picture becomes image positions: which row of the projected views stands at which position, and what place of
 * the picture a position shows. A pack depends on the picture's size, and on the question where the model's Q-Former
 * reads it. Immutable once made. */
#ifndef SL_MODEL_PACK_H
#define SL_MODEL_PACK_H

#include "input/views.h"
#include "model/model.h"

/* Sources that are no row of a view. */
#define SL_PACK_NEWLINE (-1)          /* the learned row that ends a line of tokens */
#define SL_PACK_TEXT(id) (-2 - (id)) /* an ordinary token between the rows, and the way back: its own inverse */

/* Zero-initialise; release with sl_pack_dispose. N image positions, V views. */
typedef struct sl_pack {
  int n;                       /* N */
  int32_t *source;             /* [N] row among the projected rows of all views, SL_PACK_NEWLINE or SL_PACK_TEXT(id) */
  bool plain;                  /* position i shows row i: nothing is moved */
  int n_view, width_px, height_px; /* V views of one size */
  int patch_rows, patch_cols;  /* patches of a view */
  int n_view_row;              /* rows of the tower for a view: a class token, then the patches */
  int32_t *patch;              /* [patch_rows * patch_cols] patch of each row, numbered line by line; NULL: in order */
  int32_t *first_key, *last_key; /* [n_view_row] rows that a row sees where the tower has windows; NULL: all */
  int n_view_token;            /* rows of a view, cells after the first n_lead of them */
  int n_lead;                  /* a kept class token */
  int cell_rows, cell_cols;    /* 0 x 0: rows are queries without places */
  int cell_px;                 /* side of a cell in px of the view: what is left of the view's side shows nowhere */
  bool transposed;             /* cells run down the columns */
  sl_pixel_map *maps;          /* [V] px of a view -> px of the picture */
  int32_t *shown;              /* [n_shown] positions that show the picture, ascending; the others serve it */
  int n_shown;
  int grid_height, grid_width; /* shown positions are one grid in row-major order; 0 x 0 when they are not */
  int32_t *text;               /* [n_text] ids of the question for a Q-Former; NULL without one */
  int n_text;
} sl_pack;

/* The pack of a picture's views. `question` is what a Q-Former reads, and may be NULL for other models. */
sl_status sl_pack_make(sl_pack *out, const sl_model *model, const sl_views *views, const char *question);

/* The same picture read for another question. */
sl_status sl_pack_for_question(sl_pack *out, const sl_model *model, const sl_pack *pack, const char *question);

/* That of a square picture of the size of the tower's input. */
sl_status sl_pack_square(sl_pack *out, const sl_model *model, const char *question);
void sl_pack_dispose(sl_pack *pack);

/* A position's place: view and cell. False for positions without one. */
bool sl_pack_cell(const sl_pack *pack, int position, int *view, int *row, int *col);

/* Pixel boxes of the positions in the picture: box[N][4] = x0, y0, x1, y1 in px of the source picture, view[N] the
 * view's index; positions without a place get an empty box and view -1. */
void sl_pack_boxes(const sl_pack *pack, float (*box)[4], int32_t *view);

/* The same for the tower's patches where rows are queries without places: [patch_rows * patch_cols], of one view. */
void sl_pack_patch_boxes(const sl_pack *pack, float (*box)[4]);

#endif
