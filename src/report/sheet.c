/* Sheets of a run: views grouped so that no two of one sheet overlap, and the grid that the boxes of a sheet form. */
#include "report/sheet.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VIEW = 256 };
static const float touching = 0.01f; /* views that share less of the smaller one's area lie side by side */
static const float off_cell = 0.25f; /* of a cell: how far a box may lie from its place in a grid */

typedef struct view {
  int32_t number;
  float extent[4];
  int sheet;
} view;

/* What the sheets are made from. */
typedef struct places {
  const char *dir;
  int n_token, grid_height, grid_width;
  float *box;    /* [n_token, 4] or NULL */
  int *view_of;  /* [n_token] index into views, -1 = no place */
  view *views;
  int n_view, n_shown;
  const sl_tensor *projection; /* the tokens here are patches */
} places;

static void places_dispose(places *p) {
  free(p->box);
  free(p->view_of);
  free(p->views);
}

static float area(const float box[4]) { return fmaxf(0, box[2] - box[0]) * fmaxf(0, box[3] - box[1]); }

static bool overlap(const float a[4], const float b[4]) {
  const float both[4] = {fmaxf(a[0], b[0]), fmaxf(a[1], b[1]), fminf(a[2], b[2]), fminf(a[3], b[3])};
  return area(both) > touching * fminf(area(a), area(b));
}

static void enclose(float extent[4], const float box[4]) {
  for (int k = 0; k < 4; k++) extent[k] = k < 2 ? fminf(extent[k], box[k]) : fmaxf(extent[k], box[k]);
}

/* Index of the view `number`, a new one where it is seen for the first time. */
static sl_status find_view(places *p, int32_t number, const float box[4], int *index) {
  int i = p->n_view - 1; /* tokens of one view mostly follow each other */
  while (i >= 0 && p->views[i].number != number) i--;
  if (i < 0) {
    if (p->n_view == MAX_VIEW) SL_FAIL(SL_ERROR_FORMAT, "%s: image.view holds more than %d views", p->dir, MAX_VIEW);
    SL_TRY(SL_REALLOC(p->views, (size_t)p->n_view + 1, "views"));
    i = p->n_view++;
    p->views[i] = (view){.number = number};
    memcpy(p->views[i].extent, box, sizeof p->views[i].extent);
  }
  enclose(p->views[i].extent, box);
  *index = i;
  return SL_OK;
}

static sl_status read_boxes(places *p, const sl_tensor *box, const sl_tensor *view_tensor) {
  SL_TRY(SL_ALLOC(p->box, (size_t)p->n_token * 4, "boxes"));
  SL_TRY(SL_ALLOC(p->view_of, (size_t)p->n_token, "views"));
  sl_convert_to_f32(p->box, box->data, box->dtype, (int64_t)p->n_token * 4);
  for (int i = 0; i < p->n_token; i++) {
    const float *at = p->box + (size_t)i * 4;
    int32_t number = 0;
    if (view_tensor) memcpy(&number, (const char *)view_tensor->data + (size_t)i * 4, sizeof number); /* unaligned */
    for (int k = 0; k < 4; k++) {
      if (!isfinite(at[k])) SL_FAIL(SL_ERROR_FORMAT, "%s: image.box holds a value that is not a number", p->dir);
    }
    p->view_of[i] = -1;
    if (number < 0 || !(area(at) > 0)) continue;
    SL_TRY(find_view(p, number, at, &p->view_of[i]));
    p->n_shown++;
  }
  return SL_OK;
}

static sl_status read_places(places *p, const sl_run_reader *run) {
  int64_t height = 0, width = 0, n_token = 0;
  p->dir = sl_run_dir(run);
  SL_TRY(sl_json_get_int(sl_run_root(run), "grid.height", 0, 65536, &height, p->dir));
  SL_TRY(sl_json_get_int(sl_run_root(run), "grid.width", 0, 65536, &width, p->dir));
  if (!sl_run_symbol(run, "N", &n_token)) n_token = height * width;
  if (n_token > INT32_MAX / 4) SL_FAIL(SL_ERROR_FORMAT, "%s: %lld image tokens", p->dir, (long long)n_token);
  p->n_token = (int)n_token;
  p->grid_height = (int)height;
  p->grid_width = (int)width;
  const sl_tensor *patch_box = sl_run_find(run, "image.patch_box");
  p->projection = sl_run_find(run, "image.projection");
  if (p->projection && patch_box) {
    p->n_token = (int)patch_box->shape[0];
    p->grid_height = p->grid_width = 0;
    return read_boxes(p, patch_box, NULL);
  }
  p->projection = NULL;
  const sl_tensor *box = sl_run_find(run, "image.box");
  return box ? read_boxes(p, box, sl_run_find(run, "image.view")) : SL_OK;
}

/* The first sheet without anything in the way, for every view in turn. Returns their number. */
static int group_views(places *p) {
  int count = 0;
  for (int i = 0; i < p->n_view; i++) {
    int sheet = 0;
    for (int j = 0; j < i; j++) {
      if (p->views[j].sheet != sheet || !overlap(p->views[i].extent, p->views[j].extent)) continue;
      sheet++;
      j = -1;
    }
    p->views[i].sheet = sheet;
    if (sheet == count) count++;
  }
  return count;
}

typedef struct cell {
  float x, y;
  int place; /* in the sheet */
} cell;

static int by_y(const void *a, const void *b) {
  const cell *p = a, *q = b;
  return p->y != q->y ? (p->y > q->y) - (p->y < q->y) : p->place - q->place;
}

static int by_x(const void *a, const void *b) {
  const cell *p = a, *q = b;
  return p->x != q->x ? (p->x > q->x) - (p->x < q->x) : p->place - q->place;
}

/* Puts cells in reading order and counts rows; 0 when they are not all equally long. `height`: of the lowest box. */
static int order_cells(cell *cells, int n, float height) {
  int n_row = 0, width = 0;
  qsort(cells, (size_t)n, sizeof *cells, by_y);
  for (int first = 0, end; first < n; first = end, n_row++) {
    for (end = first + 1; end < n && cells[end].y - cells[first].y < height / 2;) end++;
    if (n_row > 0 && end - first != width) return 0;
    width = end - first;
    qsort(cells + first, (size_t)width, sizeof *cells, by_x);
  }
  return n_row;
}

static bool on_grid(const cell *cells, int n_row, int n_column, const float extent[4]) {
  const float width = (extent[2] - extent[0]) / (float)n_column, height = (extent[3] - extent[1]) / (float)n_row;
  for (int i = 0; i < n_row * n_column; i++) {
    const float x = extent[0] + width * (float)(i % n_column), y = extent[1] + height * (float)(i / n_column);
    if (fabsf(cells[i].x - x) > off_cell * width || fabsf(cells[i].y - y) > off_cell * height) return false;
  }
  return true;
}

/* Where the boxes of a sheet form a grid of equal cells, its tokens are put in its order. */
static sl_status find_grid(sl_sheet *s) {
  const int n = s->n_token;
  cell *cells = NULL;
  int *token = NULL;
  float *box = NULL, extent[4], height = s->box[3] - s->box[1];
  SL_TRY(SL_ALLOC(cells, (size_t)n, "grid"));
  sl_status status = SL_ALLOC(token, (size_t)n, "grid");
  if (status == SL_OK) status = SL_ALLOC(box, (size_t)n * 4, "grid");
  memcpy(extent, s->box, sizeof extent);
  for (int i = 0; i < n; i++) {
    const float *at = s->box + (size_t)i * 4;
    cells[i] = (cell){at[0], at[1], i};
    height = fminf(height, at[3] - at[1]);
    enclose(extent, at);
  }
  const int n_row = status == SL_OK ? order_cells(cells, n, height) : 0;
  if (n_row > 0 && on_grid(cells, n_row, n / n_row, extent)) {
    s->grid_height = n_row;
    s->grid_width = n / n_row;
    for (int i = 0; i < n; i++) {
      token[i] = s->token[cells[i].place];
      memcpy(box + (size_t)i * 4, s->box + (size_t)cells[i].place * 4, 4 * sizeof *box);
    }
    memcpy(s->token, token, (size_t)n * sizeof *token);
    memcpy(s->box, box, (size_t)n * 4 * sizeof *box);
  }
  free(cells);
  free(token);
  free(box);
  return status;
}

static sl_status fill_sheet(sl_sheet *s, const places *p, int number) {
  SL_TRY(SL_ALLOC(s->token, (size_t)p->n_shown, "sheet"));
  SL_TRY(SL_ALLOC(s->box, (size_t)p->n_shown * 4, "sheet"));
  SL_TRY(SL_ALLOC(s->view, (size_t)p->n_view, "sheet"));
  for (int i = 0; i < p->n_view; i++) {
    if (p->views[i].sheet == number) s->view[s->n_view++] = p->views[i].number;
  }
  for (int i = 0; i < p->n_token; i++) {
    if (p->view_of[i] < 0 || p->views[p->view_of[i]].sheet != number) continue;
    memcpy(s->box + (size_t)s->n_token * 4, p->box + (size_t)i * 4, 4 * sizeof *s->box);
    s->token[s->n_token++] = i;
  }
  if (p->n_view == 1 && (int64_t)p->grid_height * p->grid_width == s->n_token) {
    s->grid_height = p->grid_height; /* what the run says of its one view */
    s->grid_width = p->grid_width;
    return SL_OK;
  }
  return find_grid(s);
}

/* A grid and no boxes: it covers the picture. */
static sl_status fill_from_grid(sl_sheet *s, const places *p) {
  SL_TRY(SL_ALLOC(s->token, (size_t)p->n_token, "sheet"));
  SL_TRY(SL_ALLOC(s->view, 1, "sheet"));
  s->n_token = p->n_token;
  for (int i = 0; i < p->n_token; i++) s->token[i] = i;
  s->grid_height = p->grid_height;
  s->grid_width = p->grid_width;
  s->n_view = 1;
  return SL_OK;
}

static sl_status make_sheets(sl_sheets *out, places *p) {
  const bool from_grid = !p->box && p->n_token > 0 && (int64_t)p->grid_height * p->grid_width == p->n_token;
  const int count = p->box ? group_views(p) : from_grid;
  out->n_token = p->n_token;
  out->projection = p->projection;
  if (count == 0) return SL_OK;
  SL_TRY(SL_ALLOC(out->at, (size_t)count, "sheets"));
  out->count = count;
  sl_status status = SL_OK;
  for (int i = 0; i < count && status == SL_OK; i++)
    status = p->box ? fill_sheet(&out->at[i], p, i) : fill_from_grid(&out->at[i], p);
  return status;
}

sl_status sl_sheets_read(sl_sheets *out, const sl_run_reader *run) {
  *out = (sl_sheets){0};
  places p = {0};
  sl_status status = read_places(&p, run);
  if (status == SL_OK) status = make_sheets(out, &p);
  places_dispose(&p);
  if (status != SL_OK) sl_sheets_dispose(out);
  return status;
}

void sl_sheets_dispose(sl_sheets *sheets) {
  for (int i = 0; i < sheets->count; i++) {
    free(sheets->at[i].token);
    free(sheets->at[i].box);
    free(sheets->at[i].view);
  }
  free(sheets->at);
  *sheets = (sl_sheets){0};
}
