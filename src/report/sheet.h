/* Sheets: which image tokens lie side by side on the picture. A model may look at a picture several times, as a whole
 * and in tiles. Views that do not overlap form one sheet, which can be drawn as one map: an overview is a sheet, and
 * all tiles together are another. */
#ifndef SL_REPORT_SHEET_H
#define SL_REPORT_SHEET_H

#include "store/run.h"

typedef struct sl_sheet {
  int n_token, *token;         /* [n_token] image tokens; row by row where there is a grid */
  float *box;                  /* [n_token, 4] x0 y0 x1 y1 in px of the stored picture; NULL: the grid covers it */
  int grid_height, grid_width; /* 0 without a grid; else their product is n_token */
  int n_view, *view;           /* [n_view] numbers of its views */
} sl_sheet;

typedef struct sl_sheets {
  sl_sheet *at;
  int count;   /* 0: the tokens have no place in the picture */
  int n_token; /* all image tokens, also those that show no part of the picture (a class token, ends of rows) */
  const sl_tensor *projection; /* [tokens, n_token] f32 or NULL: what is said of tokens below holds for patches, onto
                                * which maps of the tokens are to be projected first */
} sl_sheets;

/* Reads image.box, image.view and the grid. A box without area, or a view below 0, is a token without a place. Where
 * tokens are learned queries (image.projection), the sheets are those of the patches (image.patch_box). */
sl_status sl_sheets_read(sl_sheets *out, const sl_run_reader *run);
void sl_sheets_dispose(sl_sheets *sheets);

#endif
