/* Overlay pictures. Each map is divided by its own maximum, as the page does at first: they show where, not how
 * much. Tokens without a place are drawn on the patches that they read: heat[p] = sum_i map[i] projection[i, p]. */
#include "report/overlays.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "input/image.h"
#include "report/overlay.h"
#include "report/sheet.h"

enum { SMALLEST_SIDE_PX = 384, LARGEST_SIDE_PX = 768, THUMB_PX = 128, GAP_PX = 6 };
static const float strength = 0.75f;

/* One kind of map: `name` of the files, values of layer `il` at data + il * stride. */
typedef struct layers {
  const char *name;
  const sl_tensor *tensor;
  const sl_tensor *defined; /* u8 [L] or NULL */
  int n_layer;
  int64_t stride;
} layers;

typedef struct canvas {
  sl_rgb stored, large, small; /* the picture as stored, for one overlay, for the film */
  sl_sheets sheets;
  const sl_sheet *sheet; /* the one that is drawn */
  char suffix[32];       /* of its files' names: "_projected", and "_view" with its first view behind the first sheet */
  float *values;         /* [n_token of sheets] the map that is drawn */
  float *raster;
} canvas;

static sl_status scale_picture(sl_rgb *out, const sl_rgb *image, int long_side_px) {
  int longest = image->width_px > image->height_px ? image->width_px : image->height_px;
  int width = (int)lround((double)image->width_px * long_side_px / longest);
  int height = (int)lround((double)image->height_px * long_side_px / longest);
  return sl_rgb_resize(out, image, width < 1 ? 1 : width, height < 1 ? 1 : height, SL_FILTER_BILINEAR);
}

static void canvas_dispose(canvas *c) {
  sl_rgb_dispose(&c->stored);
  sl_rgb_dispose(&c->large);
  sl_rgb_dispose(&c->small);
  sl_sheets_dispose(&c->sheets);
  free(c->raster);
  free(c->values);
}

static sl_status canvas_prepare(canvas *c, const sl_run_reader *run) {
  char *png = NULL;
  size_t n_bytes;
  SL_TRY(sl_run_picture(run, "input", &png, &n_bytes));
  sl_status status = sl_rgb_decode(&c->stored, png, n_bytes, "images/input.png", false);
  free(png);
  SL_TRY(status);
  int longest = c->stored.width_px > c->stored.height_px ? c->stored.width_px : c->stored.height_px;
  int target = longest < SMALLEST_SIDE_PX ? SMALLEST_SIDE_PX : longest > LARGEST_SIDE_PX ? LARGEST_SIDE_PX : longest;
  SL_TRY(scale_picture(&c->large, &c->stored, target));
  SL_TRY(scale_picture(&c->small, &c->stored, THUMB_PX));
  return SL_ALLOC(c->raster, (size_t)c->large.width_px * c->large.height_px, "overlay");
}

static void choose_sheet(canvas *c, int number) {
  c->sheet = &c->sheets.at[number];
  snprintf(c->suffix, sizeof c->suffix, "%s", c->sheets.projection ? "_projected" : "");
  const size_t n = strlen(c->suffix);
  if (number > 0) snprintf(c->suffix + n, sizeof c->suffix - n, "_view%d", c->sheet->view[0]);
}

/* One entry of a map, 0 where it is not a number. `row` need not be aligned. */
static float entry(const char *row, int token) {
  float value;
  memcpy(&value, row + (size_t)token * 4, sizeof value);
  return isfinite(value) ? value : 0;
}

/* The map of all tokens, or of the patches that they read, into c->values. */
static void read_map(canvas *c, const char *row) {
  const sl_tensor *projection = c->sheets.projection;
  const int n = c->sheets.n_token;
  if (!projection) {
    for (int i = 0; i < n; i++) c->values[i] = entry(row, i);
    return;
  }
  for (int p = 0; p < n; p++) {
    double sum = 0;
    for (int i = 0; i < (int)projection->shape[0]; i++)
      sum += (double)entry(row, i) * (double)entry((const char *)projection->data + (size_t)i * (size_t)n * 4, p);
    c->values[p] = (float)sum;
  }
}

/* The largest value that is seen in any sheet: one scale for all, so that they can be compared. */
static float map_maximum(const canvas *c) {
  float maximum = 0;
  for (int s = 0; s < c->sheets.count; s++) {
    const sl_sheet *sheet = &c->sheets.at[s];
    for (int i = 0; i < sheet->n_token; i++) maximum = fmaxf(maximum, c->values[sheet->token[i]]);
  }
  return maximum;
}

/* A copy of `picture` with the map of layer `il` on it. */
static sl_status draw_layer(sl_rgb *out, canvas *c, const sl_rgb *picture, const layers *l, int il) {
  size_t n_bytes = (size_t)picture->width_px * picture->height_px * 3;
  out->width_px = picture->width_px;
  out->height_px = picture->height_px;
  SL_TRY(SL_ALLOC(out->data, n_bytes, "overlay"));
  memcpy(out->data, picture->data, n_bytes);
  if (l->defined && ((const uint8_t *)l->defined->data)[il] == 0) {
    sl_overlay_hatch(out);
    return SL_OK;
  }
  const sl_sheet *sheet = c->sheet;
  const char *row = (const char *)l->tensor->data + il * l->stride * 4;
  const sl_token_map tokens = {sheet->n_token, sheet->grid_height, sheet->grid_width, sheet->box};
  float *values = NULL;
  SL_TRY(SL_ALLOC(values, (size_t)sheet->n_token, "map"));
  read_map(c, row);
  for (int i = 0; i < sheet->n_token; i++) values[i] = c->values[sheet->token[i]];
  sl_status status = sl_overlay_raster(c->raster, out->width_px, out->height_px, &tokens, values, c->stored.width_px,
                                       c->stored.height_px);
  if (status == SL_OK) sl_overlay_blend(out, c->raster, map_maximum(c), strength);
  free(values);
  return status;
}

static sl_status write_png(const sl_run_reader *run, const char *name, const sl_rgb *picture) {
  sl_text path = {0};
  sl_status status = sl_text_format(&path, "%s/images/%s.png", sl_run_dir(run), name);
  if (status == SL_OK) status = sl_png_write(path.data, picture->data, picture->width_px, picture->height_px, 3);
  sl_text_dispose(&path);
  return status;
}

static sl_status write_layer(const sl_run_reader *run, canvas *c, const layers *l, int il) {
  sl_rgb picture = {0};
  sl_text name = {0};
  sl_status status = draw_layer(&picture, c, &c->large, l, il);
  if (status == SL_OK) status = sl_text_format(&name, "%s%s_%02d", l->name, c->suffix, il);
  if (status == SL_OK) status = write_png(run, name.data, &picture);
  sl_text_dispose(&name);
  sl_rgb_dispose(&picture);
  return status;
}

static sl_status write_film(const sl_run_reader *run, canvas *c, const layers *l) {
  int columns = l->n_layer < 8 ? l->n_layer : 8, rows = (l->n_layer + columns - 1) / columns;
  int step_x = c->small.width_px + GAP_PX, step_y = c->small.height_px + GAP_PX;
  sl_rgb film = {.width_px = columns * step_x + GAP_PX, .height_px = rows * step_y + GAP_PX};
  size_t row_bytes = (size_t)film.width_px * 3, small_bytes = (size_t)c->small.width_px * 3;
  SL_TRY(SL_ALLOC(film.data, row_bytes * film.height_px, "film strip"));
  memset(film.data, 255, row_bytes * film.height_px);
  sl_status status = SL_OK;
  for (int il = 0; il < l->n_layer && status == SL_OK; il++) {
    sl_rgb one = {0};
    status = draw_layer(&one, c, &c->small, l, il);
    int x = GAP_PX + il % columns * step_x, y = GAP_PX + il / columns * step_y;
    for (int j = 0; j < one.height_px && status == SL_OK; j++) {
      memcpy(film.data + (size_t)(y + j) * row_bytes + (size_t)x * 3, one.data + (size_t)j * small_bytes, small_bytes);
    }
    sl_overlay_number(&film, x + 3, y + 3, il);
    sl_rgb_dispose(&one);
  }
  sl_text name = {0};
  if (status == SL_OK) status = sl_text_format(&name, "%s%s_film", l->name, c->suffix);
  if (status == SL_OK) status = write_png(run, name.data, &film);
  sl_text_dispose(&name);
  free(film.data);
  return status;
}

/* The scores that raise the answer, of image tokens: one map without layers. */
static sl_status write_scores(const sl_run_reader *run, canvas *c, const sl_tensor *tensor) {
  const layers scores = {.name = "tokens", .tensor = tensor, .n_layer = 1, .stride = sl_tensor_count(tensor)};
  sl_rgb picture = {0};
  sl_text name = {0};
  sl_status status = draw_layer(&picture, c, &c->large, &scores, 0);
  if (status == SL_OK) status = sl_text_format(&name, "tokens_image%s", c->suffix);
  if (status == SL_OK) status = write_png(run, name.data, &picture);
  sl_text_dispose(&name);
  sl_rgb_dispose(&picture);
  return status;
}

/* What there is to draw. */
typedef struct drawn {
  layers kinds[2];
  const sl_tensor *scores;
} drawn;

static sl_status write_sheet(const sl_run_reader *run, canvas *c, const drawn *d) {
  for (int k = 0; k < 2; k++) {
    if (!d->kinds[k].tensor) continue;
    for (int il = 0; il < d->kinds[k].n_layer; il++) SL_TRY(write_layer(run, c, &d->kinds[k], il));
    SL_TRY(write_film(run, c, &d->kinds[k]));
  }
  return d->scores ? write_scores(run, c, d->scores) : SL_OK;
}

/* Fails where two results disagree on the number of image tokens; 0 = no maps. */
static sl_status find_maps(drawn *d, const sl_run_reader *run, int64_t *n_token) {
  *d = (drawn){.kinds = {{.name = "cam"}, {.name = "attention"}}, .scores = sl_run_find(run, "tokens.image")};
  d->kinds[0].tensor = sl_run_find(run, "cam.heat");
  d->kinds[0].defined = sl_run_find(run, "cam.defined");
  d->kinds[1].tensor = sl_run_find(run, "flow.image");
  *n_token = 0;
  for (int k = 0; k < 2; k++) {
    layers *kind = &d->kinds[k];
    if (!kind->tensor || sl_tensor_count(kind->tensor) == 0) {
      kind->tensor = NULL;
      continue;
    }
    kind->n_layer = (int)kind->tensor->shape[0];
    kind->stride = sl_tensor_count(kind->tensor) / kind->tensor->shape[0];
    const int64_t here = kind->stride / kind->tensor->shape[1];
    if (*n_token != 0 && here != *n_token) {
      SL_FAIL(SL_ERROR_FORMAT, "%s: cam.heat has %lld image tokens, flow.image %lld", sl_run_dir(run),
              (long long)*n_token, (long long)here);
    }
    *n_token = here;
  }
  if (d->scores && *n_token != 0 && sl_tensor_count(d->scores) != *n_token) {
    SL_FAIL(SL_ERROR_FORMAT, "%s: tokens.image has %lld image tokens, the other maps %lld", sl_run_dir(run),
            (long long)sl_tensor_count(d->scores), (long long)*n_token);
  }
  if (d->scores) *n_token = sl_tensor_count(d->scores);
  return SL_OK;
}

sl_status sl_overlays_write(const sl_run_reader *run) {
  drawn d;
  int64_t n_token = 0;
  canvas c = {0};
  SL_TRY(find_maps(&d, run, &n_token));
  if (n_token == 0 || !sl_run_has_picture(run, "input")) return SL_OK;
  sl_status status = sl_sheets_read(&c.sheets, run);
  const sl_tensor *projection = c.sheets.projection;
  const int64_t n_known = projection ? projection->shape[0] : c.sheets.n_token;
  if (status == SL_OK && n_known != n_token) {
    status = sl_fail(SL_ERROR_FORMAT, "%s: %s has %lld rows for %lld image tokens", sl_run_dir(run),
                     projection ? "image.projection" : "image.box", (long long)n_known, (long long)n_token);
  }
  if (status == SL_OK) status = SL_ALLOC(c.values, (size_t)c.sheets.n_token, "map");
  if (status == SL_OK && c.sheets.count > 0) status = canvas_prepare(&c, run);
  for (int i = 0; i < c.sheets.count && status == SL_OK; i++) {
    choose_sheet(&c, i);
    status = write_sheet(run, &c, &d);
  }
  canvas_dispose(&c);
  return status;
}
