/* Makes the views of a picture: the plan (tiling.c) says what is cut from where, preprocess.c resizes and normalises.
 *
 *   view v, px (x, y)  <-  last stage, resized, at window_v + (x, y)        maps[v]: source = px * scale + offset */
#include "input/views.h"

#include <stdlib.h>

#include "input/tiling.h"

void sl_views_dispose(sl_views *views) {
  free(views->pixels);
  free(views->maps);
  *views = (sl_views){0};
}

void sl_preprocess_view_size(const sl_preprocess *preprocess, int *width_px, int *height_px) {
  const bool is_single = preprocess->tiling == SL_TILING_NONE, is_smart = preprocess->tiling == SL_TILING_SMART;
  *width_px = *height_px = is_single || is_smart ? 0 : preprocess->tile_px;
  if (is_single && preprocess->do_center_crop) {
    *width_px = preprocess->crop_width_px;
    *height_px = preprocess->crop_height_px;
  } else if (is_single && preprocess->do_resize && preprocess->shortest_edge_px == 0) {
    *width_px = preprocess->resize_width_px;
    *height_px = preprocess->resize_height_px;
  }
}

/* The map of a cut from the last stage, carried on to the source. */
static sl_pixel_map map_of(const sl_tile_plan *plan, const sl_sheet *sheet, const sl_cut *cut) {
  if (plan->n_stage == 0) return sl_cut_map(sheet, cut);
  const sl_size last = plan->stages[plan->n_stage - 1];
  const sl_sheet canvas = {.width_px = last.width_px, .height_px = last.height_px};
  sl_pixel_map map = sl_cut_map(&canvas, cut);
  const double across = (double)sheet->width_px / last.width_px, down = (double)sheet->height_px / last.height_px;
  map = (sl_pixel_map){map.scale_x * across, map.scale_y * down, map.offset_x * across - sheet->left_px,
                       map.offset_y * down - sheet->top_px};
  return map;
}

static sl_status describe(sl_views *out, const sl_tile_plan *plan, const sl_sheet *sheet) {
  out->n_view = plan->n_cut;
  out->width_px = plan->cuts[0].window.width;
  out->height_px = plan->cuts[0].window.height;
  out->base = plan->base;
  out->tile_rows = plan->tile_rows;
  out->tile_cols = plan->tile_cols;
  out->source_width_px = sheet->image->width_px;
  out->source_height_px = sheet->image->height_px;
  SL_TRY(SL_ALLOC(out->maps, (size_t)out->n_view, "pixel maps"));
  for (int i = 0; i < out->n_view; i++) out->maps[i] = map_of(plan, sheet, &plan->cuts[i]);
  return SL_OK;
}

/* Resizes stage after stage; *canvas is the sheet to cut from, on `*held` when there was a stage. */
static sl_status run_stages(sl_sheet *canvas, sl_rgb *held, const sl_tile_plan *plan, const sl_sheet *sheet,
                            sl_filter filter) {
  *canvas = *sheet;
  for (int i = 0; i < plan->n_stage; i++) {
    const int width_px = plan->stages[i].width_px, height_px = plan->stages[i].height_px;
    sl_rgb next;
    SL_TRY(sl_sheet_resize(&next, canvas, width_px, height_px, filter, (sl_window){0, 0, width_px, height_px}));
    sl_rgb_dispose(held);
    *held = next;
    *canvas = (sl_sheet){.image = held, .width_px = width_px, .height_px = height_px};
  }
  return SL_OK;
}

static sl_status fill(sl_views *out, const sl_tile_plan *plan, const sl_preprocess *preprocess, const sl_sheet *sheet) {
  const size_t n_px = (size_t)out->width_px * (size_t)out->height_px; /* sides come from ints */
  if (n_px > (size_t)SL_IMAGE_MAX_PX / (size_t)out->n_view)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "preprocess: expected views of at most %d px together, found %d of %d x %d",
            SL_IMAGE_MAX_PX, out->n_view, out->width_px, out->height_px);
  SL_TRY(SL_ALLOC(out->pixels, 3 * n_px * (size_t)out->n_view, "pixel values"));
  for (int i = 0; i < out->n_view; i++) {
    sl_rgb seen;
    SL_TRY(sl_cut_make(&seen, sheet, &plan->cuts[i], preprocess->filter));
    sl_preprocess_values(out->pixels + 3 * n_px * (size_t)i, preprocess, &seen);
    sl_rgb_dispose(&seen);
  }
  return SL_OK;
}

/* With the picture's pixels, or only its size when it has none. */
static sl_status make(sl_views *out, const sl_preprocess *preprocess, const sl_rgb *image) {
  *out = (sl_views){0};
  SL_TRY(sl_preprocess_check(preprocess, image->width_px, image->height_px));
  SL_TRY(sl_tiling_check(preprocess, "preprocess"));
  const sl_sheet sheet = sl_sheet_of(preprocess, image);
  sl_tile_plan plan;
  sl_status status = sl_tile_plan_make(&plan, preprocess, (sl_size){sheet.width_px, sheet.height_px});
  if (status == SL_OK) status = describe(out, &plan, &sheet);
  if (status == SL_OK && image->data != NULL) {
    sl_rgb held = {0};
    sl_sheet canvas;
    status = run_stages(&canvas, &held, &plan, &sheet, preprocess->filter);
    if (status == SL_OK) status = fill(out, &plan, preprocess, &canvas);
    sl_rgb_dispose(&held);
  }
  free(plan.cuts);
  if (status != SL_OK) sl_views_dispose(out);
  return status;
}

sl_status sl_views_plan(sl_views *out, const sl_preprocess *preprocess, int width_px, int height_px) {
  const sl_rgb image = {width_px, height_px, NULL};
  return make(out, preprocess, &image);
}

sl_status sl_views_make(sl_views *out, const sl_preprocess *preprocess, const sl_rgb *image) {
  if (image->data == NULL) {
    *out = (sl_views){0};
    SL_FAIL(SL_ERROR_ARGUMENT, "preprocess: expected a picture, found an empty one");
  }
  return make(out, preprocess, image);
}
