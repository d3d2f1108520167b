/* From views to image positions. */
#include "model/pack.h"

#include <stdlib.h>
#include <string.h>

#include "model/internal.h"

#define MAX_ROW (1 << 22)

/* ---- splices ---- */

/* Room for the rows of all views and n_more positions between them. */
static sl_status allocate(sl_pack *p, const sl_views *views, size_t n_more) {
  const size_t n = (size_t)views->n_view * (size_t)p->n_view_token + n_more;
  SL_TRY(SL_ALLOC(p->source, n, "image positions"));
  SL_TRY(SL_ALLOC(p->shown, n, "image positions"));
  SL_TRY(SL_ALLOC(p->maps, (size_t)views->n_view, "image positions"));
  memcpy(p->maps, views->maps, (size_t)views->n_view * sizeof *p->maps);
  return SL_OK;
}

static void push(sl_pack *p, int32_t source) { p->source[p->n++] = source; }

static void push_view(sl_pack *p, int view) {
  for (int i = 0; i < p->n_view_token; i++) push(p, view * p->n_view_token + i);
}

/* The base view, then the tiles' cells as one grid without its padding, and a newline behind every line. A picture
 * without tiles gets its newline once. */
static sl_status splice_unpad(sl_pack *p, const sl_model *m, const sl_views *views) {
  (void)m;
  SL_TRY(allocate(p, views, (size_t)views->tile_rows * (size_t)p->cell_rows + 1));
  push_view(p, 0);
  if (views->tile_rows == 0) {
    push(p, SL_PACK_NEWLINE);
    return SL_OK;
  }
  const sl_grid_part part = sl_anyres_unpad(views->source_width_px, views->source_height_px,
                                            views->tile_rows * p->cell_rows, views->tile_cols * p->cell_cols);
  for (int r = part.first_row; r < part.first_row + part.n_row; r++) {
    for (int c = part.first_col; c < part.first_col + part.n_col; c++) {
      const int view = 1 + r / p->cell_rows * views->tile_cols + c / p->cell_cols;
      push(p, view * p->n_view_token + r % p->cell_rows * p->cell_cols + c % p->cell_cols);
    }
    push(p, SL_PACK_NEWLINE);
  }
  return SL_OK;
}

static sl_status splice_flat(sl_pack *p, const sl_model *m, const sl_views *views) {
  (void)m;
  SL_TRY(allocate(p, views, 0));
  for (int view = 0; view < views->n_view; view++) push_view(p, view);
  return SL_OK;
}

#define AROUND "<fake_token_around_image>"
#define WHOLE AROUND "<global-img>"

/* The text of a picture, one image token for each view, as models/idefics3/processing_idefics3.py writes it. */
static sl_status write_rows(sl_text *text, const sl_views *views, const char *image_token) {
  for (int r = 0; r < views->tile_rows; r++) {
    for (int c = 0; c < views->tile_cols; c++)
      SL_TRY(sl_text_format(text, AROUND "<row_%d_col_%d>%s", r + 1, c + 1, image_token));
    SL_TRY(sl_text_format(text, "\n"));
  }
  return sl_text_format(text, "%s" WHOLE "%s" AROUND, views->tile_rows > 0 ? "\n" : "", image_token);
}

/* The tiles row by row, then the whole, as their text has them. */
static sl_status splice_rows(sl_pack *p, const sl_model *m, const sl_views *views) {
  sl_text text = {0};
  int32_t *ids = NULL;
  int n_id = 0, view = 0;
  sl_status status = write_rows(&text, views, m->family->image_token);
  if (status == SL_OK) status = sl_tokenizer_encode(m->tokenizer, text.data, text.length, false, &ids, &n_id);
  if (status == SL_OK) status = allocate(p, views, (size_t)n_id);
  for (int i = 0; status == SL_OK && i < n_id; i++) {
    if (ids[i] >= m->shape.n_vocab)
      status =
          sl_fail(SL_ERROR_FORMAT, "%s: its tokenizer writes token %d around a picture; the model's vocabulary has %d",
                  m->dir, (int)ids[i], m->shape.n_vocab);
    else if (ids[i] != m->shape.image_token_id)
      push(p, SL_PACK_TEXT(ids[i]));
    else if (view < views->n_view)
      push_view(p, view++);
  }
  if (status == SL_OK && view != views->n_view)
    status =
        sl_fail(SL_ERROR_FORMAT, "%s: its tokenizer makes %d image tokens of %d views", m->dir, view, views->n_view);
  free(ids);
  sl_text_dispose(&text);
  return status;
}

static sl_status (*const splices[])(sl_pack *p, const sl_model *m, const sl_views *views) = {
    [SL_SPLICE_FLAT] = splice_flat, [SL_SPLICE_UNPAD] = splice_unpad, [SL_SPLICE_ROWS] = splice_rows};

static void find_shown(sl_pack *p) {
  p->plain = true;
  for (int i = 0; i < p->n; i++) {
    const int source = p->source[i];
    p->plain = p->plain && source == i;
    if (source >= 0 && source % p->n_view_token >= p->n_lead) p->shown[p->n_shown++] = i;
  }
  p->plain = p->plain && p->n == p->n_view * p->n_view_token;
  if (p->n_view > 1 || p->transposed || p->n_shown != p->cell_rows * p->cell_cols) return;
  p->grid_height = p->cell_rows;
  p->grid_width = p->cell_cols;
}

/* What a Q-Former reads is the prompt's text: a raw one without the picture's placeholder. */
static sl_status read_question(sl_pack *p, const sl_model *m, const char *question) {
  if (!m->question_tokenizer) return SL_OK;
  const char *all = question ? question : "", *mark = strstr(all, SL_PLACEHOLDER);
  sl_text text = {0};
  SL_TRY(sl_text_format(&text, "%.*s%s", mark ? (int)(mark - all) : 0, all,
                        mark ? mark + strlen(SL_PLACEHOLDER) : all));
  const sl_status status =
      sl_tokenizer_encode(m->question_tokenizer, text.data, text.length, true, &p->text, &p->n_text);
  sl_text_dispose(&text);
  SL_TRY(status);
  const int most = m->config.projector.max_position;
  if (p->n_text > most)
    SL_FAIL(SL_ERROR_ARGUMENT, "the question has %d tokens for the Q-Former; it was made for %d", p->n_text, most);
  for (int i = 0; i < p->n_text; i++)
    if (p->text[i] < 0 || p->text[i] >= m->config.projector.n_vocab)
      SL_FAIL(SL_ERROR_FORMAT, "the Q-Former's tokenizer gives id %d; its vocabulary has %d", (int)p->text[i],
              m->config.projector.n_vocab);
  return SL_OK;
}

/* ---- views of any size ---- */

/* Rows of the tower run cell by cell, a cell's patches together, as the merger takes them; and where patches attend
 * within windows of w x w cells, window by window, so that a window is an interval of rows. At the right and at the
 * bottom windows are cut off. */
static sl_status order_patches(sl_pack *p, const sl_model *m) {
  const int merge = m->config.projector.merge, n = p->patch_rows * p->patch_cols;
  const int most = p->cell_rows > p->cell_cols ? p->cell_rows : p->cell_cols;
  const int window = m->config.vision.window_px > 0 ? m->config.vision.window_px / p->cell_px : most;
  int at = 0;
  SL_TRY(SL_ALLOC(p->patch, (size_t)n, "patches"));
  if (m->config.vision.window_px > 0) SL_TRY(SL_ALLOC(p->first_key, (size_t)n, "windows"));
  if (m->config.vision.window_px > 0) SL_TRY(SL_ALLOC(p->last_key, (size_t)n, "windows"));
  for (int top = 0; top < p->cell_rows; top += window)
    for (int left = 0; left < p->cell_cols; left += window) {
      const int first = at;
      for (int r = top; r < top + window && r < p->cell_rows; r++)
        for (int c = left; c < left + window && c < p->cell_cols; c++)
          for (int b = 0; b < merge * merge; b++)
            p->patch[at++] = (r * merge + b / merge) * p->patch_cols + c * merge + b % merge;
      for (int i = first; p->first_key && i < at; i++) {
        p->first_key[i] = first;
        p->last_key[i] = at - 1;
      }
    }
  return SL_OK;
}

/* Sizes of a view that is as large as the image processor made it. */
static sl_status measure(sl_pack *p, const sl_model *m, const sl_views *views) {
  if (views->width_px % p->cell_px != 0 || views->height_px % p->cell_px != 0)
    SL_FAIL(SL_ERROR_UNSUPPORTED,
            "%s: the image processor makes a picture of %d x %d px; its sides should be multiples of %d", m->dir,
            views->width_px, views->height_px, p->cell_px);
  p->patch_rows = views->height_px / m->shape.patch_px;
  p->patch_cols = views->width_px / m->shape.patch_px;
  p->cell_rows = views->height_px / p->cell_px;
  p->cell_cols = views->width_px / p->cell_px;
  p->n_view_row = p->patch_rows * p->patch_cols;
  p->n_view_token = p->cell_rows * p->cell_cols;
  return order_patches(p, m);
}

static sl_status check_views(const sl_model *m, const sl_views *views) {
  const sl_model_shape *shape = &m->shape;
  if (!shape->any_size && (views->width_px != shape->image_px || views->height_px != shape->image_px))
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: the image processor makes pictures of %d x %d px; the tower's image_size is %d",
            m->dir, views->width_px, views->height_px, shape->image_px);
  if ((shape->cell_rows == 0 || shape->any_size) && views->n_view > 1)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: the image processor makes %d views; this model reads one", m->dir,
            views->n_view);
  /* Rows of all views are counted in int. */
  const int64_t n_row = (int64_t)views->n_view * ((int64_t)views->width_px / shape->patch_px + 1) *
                        ((int64_t)views->height_px / shape->patch_px + 1);
  if (n_row > MAX_ROW)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: the picture makes %lld rows of the tower; sightline's limit is %d", m->dir,
            (long long)n_row, MAX_ROW);
  return SL_OK;
}

static sl_status make(sl_pack *p, const sl_model *m, const sl_views *views, const char *question) {
  const sl_model_shape *shape = &m->shape;
  SL_TRY(check_views(m, views));
  *p = (sl_pack){.n_view = views->n_view, .width_px = views->width_px, .height_px = views->height_px,
                 .patch_rows = shape->grid_height, .patch_cols = shape->grid_width,
                 .n_view_row = sl_tower_rows(&m->tower), .n_view_token = shape->n_view_token,
                 .n_lead = shape->keeps_cls ? 1 : 0, .cell_rows = shape->cell_rows, .cell_cols = shape->cell_cols,
                 .cell_px = shape->patch_px * m->config.projector.merge,
                 .transposed = m->config.projector.transposed};
  if (shape->any_size) SL_TRY(measure(p, m, views));
  SL_TRY(splices[m->family->splice](p, m, views));
  find_shown(p);
  return read_question(p, m, question);
}

sl_status sl_pack_make(sl_pack *out, const sl_model *model, const sl_views *views, const char *question) {
  const sl_status status = make(out, model, views, question);
  if (status != SL_OK) sl_pack_dispose(out);
  return status;
}

/* A new array of the n numbers, or NULL for NULL. */
static sl_status copy_numbers(int32_t **out, const int32_t *from, int n) {
  *out = NULL;
  if (!from) return SL_OK;
  SL_TRY(SL_ALLOC(*out, (size_t)n, "image positions"));
  memcpy(*out, from, (size_t)n * sizeof *from);
  return SL_OK;
}

static sl_status copy_arrays(sl_pack *out, const sl_pack *p) {
  SL_TRY(copy_numbers(&out->source, p->source, p->n));
  SL_TRY(copy_numbers(&out->shown, p->shown, p->n_shown));
  SL_TRY(copy_numbers(&out->patch, p->patch, p->n_view_row));
  SL_TRY(copy_numbers(&out->first_key, p->first_key, p->n_view_row));
  SL_TRY(copy_numbers(&out->last_key, p->last_key, p->n_view_row));
  SL_TRY(SL_ALLOC(out->maps, (size_t)p->n_view, "image positions"));
  memcpy(out->maps, p->maps, (size_t)p->n_view * sizeof *p->maps);
  return SL_OK;
}

sl_status sl_pack_for_question(sl_pack *out, const sl_model *model, const sl_pack *pack, const char *question) {
  *out = *pack;
  out->source = out->shown = out->text = out->patch = out->first_key = out->last_key = NULL;
  out->maps = NULL;
  out->n_text = 0;
  sl_status status = copy_arrays(out, pack);
  if (status == SL_OK) status = read_question(out, model, question);
  if (status != SL_OK) sl_pack_dispose(out);
  return status;
}

sl_status sl_pack_square(sl_pack *out, const sl_model *model, const char *question) {
  sl_views views = {0};
  SL_TRY(sl_views_plan(&views, &model->preprocess, model->shape.image_px, model->shape.image_px));
  const sl_status status = sl_pack_make(out, model, &views, question);
  sl_views_dispose(&views);
  return status;
}

void sl_pack_dispose(sl_pack *p) {
  free(p->source);
  free(p->shown);
  free(p->maps);
  free(p->text);
  free(p->patch);
  free(p->first_key);
  free(p->last_key);
  *p = (sl_pack){0};
}

bool sl_pack_cell(const sl_pack *p, int position, int *view, int *row, int *col) {
  const int source = p->source[position], cell = source % p->n_view_token - p->n_lead;
  if (source < 0 || cell < 0 || p->cell_cols == 0) return false;
  *view = source / p->n_view_token;
  *row = p->transposed ? cell % p->cell_rows : cell / p->cell_cols;
  *col = p->transposed ? cell / p->cell_rows : cell % p->cell_cols;
  return true;
}

/* A cell of a view in px of the picture. */
static void box_of(const sl_pack *p, int view, int row, int col, float box[4]) {
  const sl_pixel_map *map = &p->maps[view];
  box[0] = (float)(col * p->cell_px * map->scale_x + map->offset_x);
  box[1] = (float)(row * p->cell_px * map->scale_y + map->offset_y);
  box[2] = (float)((col + 1) * p->cell_px * map->scale_x + map->offset_x);
  box[3] = (float)((row + 1) * p->cell_px * map->scale_y + map->offset_y);
}

void sl_pack_patch_boxes(const sl_pack *p, float (*box)[4]) {
  for (int i = 0; i < p->patch_rows * p->patch_cols; i++) box_of(p, 0, i / p->patch_cols, i % p->patch_cols, box[i]);
}

void sl_pack_boxes(const sl_pack *p, float (*box)[4], int32_t *view) {
  for (int i = 0; i < p->n; i++) {
    int v, row, col;
    memset(box[i], 0, sizeof box[i]);
    view[i] = -1;
    if (!sl_pack_cell(p, i, &v, &row, &col)) continue;
    view[i] = v;
    box_of(p, v, row, col, box[i]);
  }
}
