/* Overlay pictures. Each map is divided by its own maximum, as the page does at first: they show where, not how
 * much. */
#include "report/overlays.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "input/image.h"
#include "report/overlay.h"

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
  sl_token_map tokens;             /* those that show a part of the picture */
  int *shown;                      /* their numbers among all image tokens */
  float *box;
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
  free(c->shown);
  free(c->box);
  free(c->raster);
}

/* Boxes of the tokens that have one; a kept class token has a box without area. */
static sl_status place_boxes(canvas *c, const sl_tensor *box, int64_t n_token, const char *dir) {
  SL_TRY(SL_ALLOC(c->box, (size_t)n_token * 4, "boxes"));
  sl_convert_to_f32(c->box, box->data, box->dtype, n_token * 4);
  int n_shown = 0;
  for (int64_t i = 0; i < n_token; i++) {
    float *at = c->box + i * 4;
    for (int k = 0; k < 4; k++) {
      if (!isfinite(at[k])) SL_FAIL(SL_ERROR_FORMAT, "%s: image.box holds a value that is not a number", dir);
    }
    if (at[2] <= at[0] || at[3] <= at[1]) continue;
    memmove(c->box + (size_t)n_shown * 4, at, 4 * sizeof *at);
    c->shown[n_shown++] = (int)i;
  }
  c->tokens.n_token = n_shown;
  c->tokens.box = c->box;
  return SL_OK;
}

static sl_status place_tokens(canvas *c, const sl_run_reader *run, int64_t n_token) {
  int64_t height = 0, width = 0;
  const char *dir = sl_run_dir(run);
  SL_TRY(sl_json_get_int(sl_run_root(run), "grid.height", 0, 65536, &height, dir));
  SL_TRY(sl_json_get_int(sl_run_root(run), "grid.width", 0, 65536, &width, dir));
  SL_TRY(SL_ALLOC(c->shown, (size_t)n_token, "image tokens"));
  for (int64_t i = 0; i < n_token; i++) c->shown[i] = (int)i;
  c->tokens.n_token = (int)n_token;
  const sl_tensor *box = sl_run_find(run, "image.box");
  if (box) SL_TRY(place_boxes(c, box, n_token, dir));
  if (c->tokens.n_token > 0 && height * width == c->tokens.n_token) {
    c->tokens.grid_height = (int)height;
    c->tokens.grid_width = (int)width;
  }
  return SL_OK;
}

static sl_status canvas_prepare(canvas *c, const sl_run_reader *run, int64_t n_token) {
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
  SL_TRY(SL_ALLOC(c->raster, (size_t)c->large.width_px * c->large.height_px, "overlay"));
  return place_tokens(c, run, n_token);
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
  float *values = NULL, maximum = 0;
  SL_TRY(SL_ALLOC(values, (size_t)c->tokens.n_token, "map"));
  const char *row = (const char *)l->tensor->data + il * l->stride * 4; /* unaligned */
  for (int i = 0; i < c->tokens.n_token; i++) {
    memcpy(&values[i], row + (size_t)c->shown[i] * 4, sizeof *values);
    if (!isfinite(values[i])) values[i] = 0;
    maximum = fmaxf(maximum, values[i]);
  }
  sl_status status = sl_overlay_raster(c->raster, out->width_px, out->height_px, &c->tokens, values, c->stored.width_px,
                                       c->stored.height_px);
  if (status == SL_OK) sl_overlay_blend(out, c->raster, maximum, strength);
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
  if (status == SL_OK) status = sl_text_format(&name, "%s_%02d", l->name, il);
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
  if (status == SL_OK) status = sl_text_format(&name, "%s_film", l->name);
  if (status == SL_OK) status = write_png(run, name.data, &film);
  sl_text_dispose(&name);
  free(film.data);
  return status;
}

/* The scores that raise the answer, of image tokens: one map without layers. */
static sl_status write_scores(const sl_run_reader *run, canvas *c, const sl_tensor *tensor) {
  const layers scores = {.name = "tokens", .tensor = tensor, .n_layer = 1, .stride = sl_tensor_count(tensor)};
  sl_rgb picture = {0};
  sl_status status = draw_layer(&picture, c, &c->large, &scores, 0);
  if (status == SL_OK) status = write_png(run, "tokens_image", &picture);
  sl_rgb_dispose(&picture);
  return status;
}

sl_status sl_overlays_write(const sl_run_reader *run) {
  layers kinds[2] = {{.name = "cam"}, {.name = "attention"}};
  kinds[0].tensor = sl_run_find(run, "cam.heat");
  kinds[0].defined = sl_run_find(run, "cam.defined");
  kinds[1].tensor = sl_run_find(run, "flow.image");
  const sl_tensor *scores = sl_run_find(run, "tokens.image");
  int64_t n_token = 0;
  for (int k = 0; k < 2; k++) {
    const sl_tensor *tensor = kinds[k].tensor;
    if (!tensor || sl_tensor_count(tensor) == 0) {
      kinds[k].tensor = NULL;
      continue;
    }
    kinds[k].n_layer = (int)tensor->shape[0];
    kinds[k].stride = sl_tensor_count(tensor) / tensor->shape[0];
    int64_t here = kinds[k].stride / tensor->shape[1];
    if (n_token != 0 && here != n_token) {
      SL_FAIL(SL_ERROR_FORMAT, "%s: cam.heat has %lld image tokens, flow.image %lld", sl_run_dir(run),
              (long long)n_token, (long long)here);
    }
    n_token = here;
  }
  if (scores && n_token != 0 && sl_tensor_count(scores) != n_token) {
    SL_FAIL(SL_ERROR_FORMAT, "%s: tokens.image has %lld image tokens, the other maps %lld", sl_run_dir(run),
            (long long)sl_tensor_count(scores), (long long)n_token);
  }
  if (scores) n_token = sl_tensor_count(scores);
  const sl_tensor *box = sl_run_find(run, "image.box");
  if (n_token == 0 || !sl_run_has_picture(run, "input")) return SL_OK;
  if (box && box->shape[0] != n_token) {
    SL_FAIL(SL_ERROR_FORMAT, "%s: image.box has %lld rows for %lld image tokens", sl_run_dir(run),
            (long long)box->shape[0], (long long)n_token);
  }
  canvas c = {0};
  sl_status status = canvas_prepare(&c, run, n_token);
  bool placed = c.tokens.grid_height > 0 || (c.tokens.box && c.tokens.n_token > 0);
  for (int k = 0; k < 2 && status == SL_OK && placed; k++) {
    if (!kinds[k].tensor) continue;
    for (int il = 0; il < kinds[k].n_layer && status == SL_OK; il++) status = write_layer(run, &c, &kinds[k], il);
    if (status == SL_OK) status = write_film(run, &c, &kinds[k]);
  }
  if (status == SL_OK && scores && placed) status = write_scores(run, &c, scores);
  canvas_dispose(&c);
  return status;
}
