/* Applies a CLIP-style image processor: pad to square, resize, centre crop, rescale, normalise, channels first. The
 * reference is transformers' PIL backend (image_transforms.py, LlavaImageProcessorPil), to the last bit of float32.
 * Padding and cropping are folded into the resize, so memory follows the result and not the picture's shape. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "input/image_internal.h"

static int floor_half(int n) { return n >= 0 ? n / 2 : -((1 - n) / 2); } /* Python's n // 2 */

static sl_sheet sheet_of(const sl_preprocess *preprocess, const sl_rgb *image) {
  sl_sheet sheet = {.image = image, .width_px = image->width_px, .height_px = image->height_px};
  if (!preprocess->pad_to_square) return sheet;
  int side = image->width_px > image->height_px ? image->width_px : image->height_px;
  sheet.left_px = (side - image->width_px) / 2;
  sheet.top_px = (side - image->height_px) / 2;
  sheet.width_px = sheet.height_px = side;
  memcpy(sheet.rgb, preprocess->pad_rgb, 3);
  return sheet;
}

/* Size after resizing: short edge exact, long edge truncated. */
static void resized_size(const sl_preprocess *preprocess, const sl_sheet *sheet, int *width_px, int *height_px) {
  *width_px = sheet->width_px;
  *height_px = sheet->height_px;
  if (!preprocess->do_resize) return;
  if (preprocess->shortest_edge_px == 0) {
    *width_px = preprocess->resize_width_px;
    *height_px = preprocess->resize_height_px;
    return;
  }
  const int64_t edge = preprocess->shortest_edge_px, w = sheet->width_px, h = sheet->height_px;
  *width_px = (int)(w <= h ? edge : edge * w / h);
  *height_px = (int)(w <= h ? edge * h / w : edge);
}

/* How the result lies on the resized picture along one axis. */
typedef struct placement {
  int n_out;           /* size of the result */
  int origin;          /* where its first pixel lies on the resized picture; negative when the picture is too small */
  int first, n_shared; /* part of the resized picture that is visible */
} placement;

static placement place(int n_resized, bool do_crop, int n_crop) {
  if (!do_crop) return (placement){n_resized, 0, 0, n_resized};
  placement p = {.n_out = n_crop, .origin = floor_half(n_resized - n_crop)};
  p.first = p.origin > 0 ? p.origin : 0;
  p.n_shared = n_crop < n_resized ? n_crop : n_resized;
  return p;
}

/* The 8-bit picture the model sees: the visible part resized, on black where the crop is larger than the picture. */
static sl_status make_seen(sl_rgb *out, const sl_preprocess *preprocess, const sl_sheet *sheet, int width_px,
                           int height_px, const placement *across, const placement *down) {
  const sl_window window = {across->first, down->first, across->n_shared, down->n_shared};
  sl_rgb part;
  SL_TRY(sl_sheet_resize(&part, sheet, width_px, height_px, preprocess->filter, window));
  if (part.width_px == across->n_out && part.height_px == down->n_out) {
    *out = part;
    return SL_OK;
  }
  sl_status status = sl_rgb_alloc(out, (uint64_t)across->n_out, (uint64_t)down->n_out, "cropped picture");
  const size_t left = (size_t)(across->first - across->origin), top = (size_t)(down->first - down->origin);
  for (size_t y = 0; status == SL_OK && y < (size_t)part.height_px; y++)
    memcpy(out->data + ((top + y) * (size_t)out->width_px + left) * 3, part.data + y * (size_t)part.width_px * 3,
           (size_t)part.width_px * 3);
  sl_rgb_dispose(&part);
  return status;
}

/* [height, width, 3] bytes to [3, height, width] floats. A channel has only 256 values, so each is computed once. */
static sl_status make_pixels(float **out, const sl_preprocess *preprocess, const sl_rgb *seen) {
  const size_t n_px = (size_t)seen->width_px * (size_t)seen->height_px;
  float *pixels = NULL;
  SL_TRY(SL_ALLOC(pixels, 3 * n_px, "pixel values"));
  for (int c = 0; c < 3; c++) {
    float value[256];
    for (int v = 0; v < 256; v++) {
      value[v] = preprocess->do_rescale ? (float)(v * preprocess->rescale_factor) : (float)v;
      if (preprocess->do_normalize) value[v] = (value[v] - (float)preprocess->mean[c]) / (float)preprocess->std[c];
    }
    for (size_t i = 0; i < n_px; i++) pixels[(size_t)c * n_px + i] = value[seen->data[3 * i + (size_t)c]];
  }
  *out = pixels;
  return SL_OK;
}

static sl_status check(const sl_preprocess *preprocess, const sl_rgb *image) {
  if (image->data == NULL || image->width_px < 1 || image->height_px < 1)
    SL_FAIL(SL_ERROR_ARGUMENT, "preprocess: expected a picture, found an empty one");
  if (preprocess->do_resize && preprocess->shortest_edge_px < 1 &&
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
  SL_TRY(check(preprocess, image));
  const sl_sheet sheet = sheet_of(preprocess, image);
  int resized_width_px, resized_height_px;
  resized_size(preprocess, &sheet, &resized_width_px, &resized_height_px);
  const placement across = place(resized_width_px, preprocess->do_center_crop, preprocess->crop_width_px);
  const placement down = place(resized_height_px, preprocess->do_center_crop, preprocess->crop_height_px);
  sl_rgb picture;
  SL_TRY(make_seen(&picture, preprocess, &sheet, resized_width_px, resized_height_px, &across, &down));
  sl_status status = make_pixels(pixels, preprocess, &picture);
  if (status == SL_OK) {
    *width_px = picture.width_px;
    *height_px = picture.height_px;
    if (map != NULL) {
      map->scale_x = (double)sheet.width_px / resized_width_px;
      map->scale_y = (double)sheet.height_px / resized_height_px;
      map->offset_x = across.origin * map->scale_x - sheet.left_px;
      map->offset_y = down.origin * map->scale_y - sheet.top_px;
    }
  }
  if (status == SL_OK && seen != NULL)
    *seen = picture;
  else
    sl_rgb_dispose(&picture);
  return status;
}
