/* The steps of a CLIP-style image processor: pad to square, resize, centre crop, rescale, normalise, channels first.
 * The reference is transformers' PIL backend (image_transforms.py, LlavaImageProcessorPil), to the last bit of float32.
 * Padding and cropping are folded into the resize, so memory follows the result and not the picture's shape. A view of
 * any tiling is the same thing, a cut: resize the sheet, look through a window. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "input/image_internal.h"

static int floor_half(int n) { return n >= 0 ? n / 2 : -((1 - n) / 2); } /* Python's n // 2 */

sl_sheet sl_sheet_of(const sl_preprocess *preprocess, const sl_rgb *image) {
  sl_sheet sheet = {.image = image, .width_px = image->width_px, .height_px = image->height_px};
  if (!preprocess->pad_to_square) return sheet;
  int side = image->width_px > image->height_px ? image->width_px : image->height_px;
  sheet.left_px = (side - image->width_px) / 2;
  sheet.top_px = (side - image->height_px) / 2;
  sheet.width_px = sheet.height_px = side;
  memcpy(sheet.rgb, preprocess->pad_rgb, 3);
  return sheet;
}

sl_cut sl_cut_single(const sl_preprocess *preprocess, int sheet_width_px, int sheet_height_px) {
  sl_cut cut = {.resized_width_px = sheet_width_px, .resized_height_px = sheet_height_px};
  if (preprocess->do_resize && preprocess->shortest_edge_px == 0) {
    cut.resized_width_px = preprocess->resize_width_px;
    cut.resized_height_px = preprocess->resize_height_px;
  } else if (preprocess->do_resize) { /* short edge exact, long edge truncated */
    const int64_t edge = preprocess->shortest_edge_px, w = sheet_width_px, h = sheet_height_px;
    cut.resized_width_px = (int)(w <= h ? edge : edge * w / h);
    cut.resized_height_px = (int)(w <= h ? edge * h / w : edge);
  }
  cut.window = (sl_window){0, 0, cut.resized_width_px, cut.resized_height_px};
  if (preprocess->do_center_crop)
    cut.window = (sl_window){floor_half(cut.resized_width_px - preprocess->crop_width_px),
                             floor_half(cut.resized_height_px - preprocess->crop_height_px), preprocess->crop_width_px,
                             preprocess->crop_height_px};
  return cut;
}

/* What [at, at + n) shares with [0, n_resized); *n_shared is at most 0 when they do not meet. */
static int shared_part(int at, int n, int n_resized, int *n_shared) {
  const int first = at > 0 ? at : 0;
  *n_shared = (n < n_resized - at ? at + n : n_resized) - first;
  return first;
}

sl_status sl_cut_make(sl_rgb *out, const sl_sheet *sheet, const sl_cut *cut, sl_filter filter) {
  const sl_window *w = &cut->window;
  sl_window shared;
  shared.x = shared_part(w->x, w->width, cut->resized_width_px, &shared.width);
  shared.y = shared_part(w->y, w->height, cut->resized_height_px, &shared.height);
  if (shared.width == w->width && shared.height == w->height)
    return sl_sheet_resize(out, sheet, cut->resized_width_px, cut->resized_height_px, filter, shared);
  SL_TRY(sl_rgb_alloc(out, (uint64_t)w->width, (uint64_t)w->height, "cropped picture"));
  if (shared.width < 1 || shared.height < 1) return SL_OK;
  sl_rgb part;
  sl_status status = sl_sheet_resize(&part, sheet, cut->resized_width_px, cut->resized_height_px, filter, shared);
  if (status != SL_OK) {
    sl_rgb_dispose(out);
    return status;
  }
  const size_t left = (size_t)(shared.x - w->x), top = (size_t)(shared.y - w->y), n_bytes = (size_t)part.width_px * 3;
  for (size_t y = 0; y < (size_t)part.height_px; y++)
    memcpy(out->data + ((top + y) * (size_t)out->width_px + left) * 3, part.data + y * n_bytes, n_bytes);
  sl_rgb_dispose(&part);
  return SL_OK;
}

sl_pixel_map sl_cut_map(const sl_sheet *sheet, const sl_cut *cut) {
  sl_pixel_map map = {.scale_x = (double)sheet->width_px / cut->resized_width_px,
                      .scale_y = (double)sheet->height_px / cut->resized_height_px};
  map.offset_x = cut->window.x * map.scale_x - sheet->left_px;
  map.offset_y = cut->window.y * map.scale_y - sheet->top_px;
  return map;
}

/* A channel has only 256 values, so each is computed once. */
void sl_preprocess_values(float *out, const sl_preprocess *preprocess, const sl_rgb *seen) {
  const size_t n_px = (size_t)seen->width_px * (size_t)seen->height_px;
  for (int c = 0; c < 3; c++) {
    float value[256];
    for (int v = 0; v < 256; v++) {
      value[v] = preprocess->do_rescale ? (float)(v * preprocess->rescale_factor) : (float)v;
      if (preprocess->do_normalize) value[v] = (value[v] - (float)preprocess->mean[c]) / (float)preprocess->std[c];
    }
    for (size_t i = 0; i < n_px; i++) out[(size_t)c * n_px + i] = value[seen->data[3 * i + (size_t)c]];
  }
}

sl_status sl_preprocess_check(const sl_preprocess *preprocess, int width_px, int height_px) {
  if (width_px < 1 || height_px < 1) SL_FAIL(SL_ERROR_ARGUMENT, "preprocess: expected a picture, found an empty one");
  if (preprocess->do_resize && preprocess->shortest_edge_px < 1 && preprocess->tiling == SL_TILING_NONE &&
      (preprocess->shortest_edge_px < 0 || preprocess->resize_width_px < 1 || preprocess->resize_height_px < 1))
    SL_FAIL(SL_ERROR_ARGUMENT, "preprocess: expected a size of at least 1 px, found shortest edge %d or %d x %d",
            preprocess->shortest_edge_px, preprocess->resize_width_px, preprocess->resize_height_px);
  if (preprocess->do_center_crop && (preprocess->crop_width_px < 1 || preprocess->crop_height_px < 1))
    SL_FAIL(SL_ERROR_ARGUMENT, "preprocess: expected a crop of at least 1 x 1 px, found %d x %d",
            preprocess->crop_width_px, preprocess->crop_height_px);
  for (int c = 0; c < 3 && preprocess->do_normalize; c++)
    if ((float)preprocess->std[c] == 0.0f)
      SL_FAIL(SL_ERROR_ARGUMENT, "preprocess: standard deviation of channel %d: expected non-zero, found 0", c);
  return SL_OK;
}

sl_status sl_preprocess_apply(const sl_preprocess *preprocess, const sl_rgb *image, float **pixels, int *width_px,
                              int *height_px, sl_rgb *seen, sl_pixel_map *map) {
  *pixels = NULL;
  if (seen != NULL) *seen = (sl_rgb){0};
  SL_TRY(sl_preprocess_check(preprocess, image->data ? image->width_px : 0, image->height_px));
  if (preprocess->tiling != SL_TILING_NONE)
    SL_FAIL(SL_ERROR_ARGUMENT, "preprocess: expected settings without tiles, found tiling %d", preprocess->tiling);
  const sl_sheet sheet = sl_sheet_of(preprocess, image);
  const sl_cut cut = sl_cut_single(preprocess, sheet.width_px, sheet.height_px);
  sl_rgb picture;
  SL_TRY(sl_cut_make(&picture, &sheet, &cut, preprocess->filter));
  sl_status status = SL_ALLOC(*pixels, 3 * (size_t)picture.width_px * (size_t)picture.height_px, "pixel values");
  if (status == SL_OK) {
    sl_preprocess_values(*pixels, preprocess, &picture);
    *width_px = picture.width_px;
    *height_px = picture.height_px;
    if (map != NULL) *map = sl_cut_map(&sheet, &cut);
  }
  if (status == SL_OK && seen != NULL)
    *seen = picture;
  else
    sl_rgb_dispose(&picture);
  return status;
}
