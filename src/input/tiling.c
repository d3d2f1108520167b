/* Which views a picture is cut into. Pure arithmetic, the same as in
 *   anyres   transformers image_processing_utils.py (select_best_resolution, get_patch_output_size),
 *            models/llava_next/{processing,modeling}_llava_next.py (unpadding); paper: LLaVA-NeXT, 2024
 *   intern   models/got_ocr2/image_processing_pil_got_ocr2.py (get_optimal_tiled_canvas), and InternVL's own
 *            dynamic_preprocess; paper: InternVL 1.5, section 3.2
 *   smart    models/qwen2_vl/image_processing_pil_qwen2_vl.py (smart_resize)
 *   idefics  models/idefics3/image_processing_pil_idefics3.py
 * Python divides and multiplies in doubles and truncates: so does this, in the same order. */
#include "input/tiling.h"

#include <math.h>
#include <stdlib.h>

#include "input/views.h"

#define IDEFICS_MAX_SIDE_PX 4096

static int min_int(int a, int b) { return a < b ? a : b; }
static int max_int(int a, int b) { return a > b ? a : b; }
static int64_t area(sl_size size) { return (int64_t)size.width_px * size.height_px; }

static sl_cut whole(sl_size resized) {
  return (sl_cut){resized.width_px, resized.height_px, {0, 0, resized.width_px, resized.height_px}};
}

static sl_status cuts_alloc(sl_tile_plan *plan, int rows, int cols, int n_more) {
  if (rows > SL_MAX_TILE / cols)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "preprocess: expected at most %d tiles, found %d x %d", SL_MAX_TILE, rows, cols);
  plan->tile_rows = rows;
  plan->tile_cols = cols;
  return SL_ALLOC(plan->cuts, (size_t)rows * (size_t)cols + (size_t)n_more, "views");
}

/* Tiles row by row, of a picture resized to `resized` that lies at (left, top) on the canvas that they cover. */
static void add_tiles(sl_tile_plan *plan, int tile_px, sl_size resized, int left_px, int top_px) {
  for (int i = 0; i < plan->tile_rows * plan->tile_cols; i++) {
    const int x = i % plan->tile_cols * tile_px - left_px, y = i / plan->tile_cols * tile_px - top_px;
    plan->cuts[plan->n_cut++] = (sl_cut){resized.width_px, resized.height_px, {x, y, tile_px, tile_px}};
  }
}

/* ---- one view ---- */

static sl_status plan_single(sl_tile_plan *plan, const sl_preprocess *preprocess, sl_size sheet) {
  SL_TRY(SL_ALLOC(plan->cuts, 1, "view"));
  plan->cuts[plan->n_cut++] = sl_cut_single(preprocess, sheet.width_px, sheet.height_px);
  return SL_OK;
}

/* Multiples of `factor` near the picture's own size; smaller or larger where the area would leave the limits. */
static sl_status plan_smart(sl_tile_plan *plan, const sl_preprocess *preprocess, sl_size sheet) {
  const double w = sheet.width_px, h = sheet.height_px, factor = preprocess->patch_px * preprocess->merge;
  if (fmax(w, h) / fmin(w, h) > 200)
    SL_FAIL(SL_ERROR_ARGUMENT, "preprocess: expected a picture at most 200 times as long as wide, found %d x %d px",
            sheet.width_px, sheet.height_px);
  double wide = rint(w / factor) * factor, high = rint(h / factor) * factor; /* half to even */
  if (wide * high > preprocess->max_px) {
    const double shrink = sqrt(h * w / preprocess->max_px);
    high = fmax(factor, floor(h / shrink / factor) * factor);
    wide = fmax(factor, floor(w / shrink / factor) * factor);
  } else if (wide * high < preprocess->min_px) {
    const double grow = sqrt(preprocess->min_px / (h * w));
    high = ceil(h * grow / factor) * factor;
    wide = ceil(w * grow / factor) * factor;
  }
  SL_TRY(SL_ALLOC(plan->cuts, 1, "view"));
  plan->cuts[plan->n_cut++] = whole((sl_size){(int)wide, (int)high});
  return SL_OK;
}

/* ---- anyres ---- */

/* The pinpoint on which the picture keeps most of its px, and of those the one with the least black. */
static sl_size best_pinpoint(const sl_preprocess *preprocess, sl_size sheet) {
  int64_t most = 0, least = INT64_MAX;
  sl_size best = {0, 0};
  for (int i = 0; i < preprocess->n_pinpoint; i++) {
    const sl_size point = {preprocess->pinpoints[i][1], preprocess->pinpoints[i][0]};
    const double scale = fmin((double)point.width_px / sheet.width_px, (double)point.height_px / sheet.height_px);
    const sl_size fitted = {(int)(sheet.width_px * scale), (int)(sheet.height_px * scale)};
    const int64_t kept = area(fitted) < area(sheet) ? area(fitted) : area(sheet), waste = area(point) - kept;
    if (kept > most || (kept == most && waste < least)) {
      most = kept;
      least = waste;
      best = point;
    }
  }
  return best;
}

/* The largest size of the picture's aspect ratio inside `box`: one side exact, the other rounded up. */
static sl_size fit(sl_size sheet, sl_size box) {
  const double across = (double)box.width_px / sheet.width_px, down = (double)box.height_px / sheet.height_px;
  if (across < down) return (sl_size){box.width_px, min_int((int)ceil(sheet.height_px * across), box.height_px)};
  return (sl_size){min_int((int)ceil(sheet.width_px * down), box.width_px), box.height_px};
}

static sl_status plan_anyres(sl_tile_plan *plan, const sl_preprocess *preprocess, sl_size sheet) {
  const int tile_px = preprocess->tile_px;
  const sl_size canvas = best_pinpoint(preprocess, sheet), resized = fit(sheet, canvas);
  SL_TRY(cuts_alloc(plan, canvas.height_px / tile_px, canvas.width_px / tile_px, 1));
  plan->cuts[plan->n_cut++] = whole((sl_size){tile_px, tile_px});
  add_tiles(plan, tile_px, resized, (canvas.width_px - resized.width_px) / 2,
            (canvas.height_px - resized.height_px) / 2);
  return SL_OK;
}

/* int(round(x, 7)) of Python: whole numbers that rounding of doubles has pushed just below themselves stay whole. */
static int truncate_7_digits(double x) {
  const double below = floor(x);
  return (int)(x - below < 1 - 0.5e-7 ? below : below + 1);
}

sl_grid_part sl_anyres_unpad(int source_width_px, int source_height_px, int n_row, int n_col) {
  const double w = source_width_px, h = source_height_px;
  sl_grid_part part = {0, 0, n_row, n_col};
  if (w / h > (double)n_col / n_row) {
    part.first_row = (n_row - truncate_7_digits(h * (n_col / w))) / 2;
    part.n_row -= 2 * part.first_row;
  } else {
    part.first_col = (n_col - truncate_7_digits(w * (n_row / h))) / 2;
    part.n_col -= 2 * part.first_col;
  }
  return part;
}

/* ---- intern ---- */

/* Of all grids of min_tiles to max_tiles tiles, in order of their count: the one nearest in aspect ratio. On a tie the
 * larger, as long as it has less than twice the picture's px. */
static void nearest_grid(const sl_preprocess *preprocess, sl_size sheet, int *cols, int *rows) {
  const double ratio = (double)sheet.width_px / sheet.height_px, tile_area = pow(preprocess->tile_px, 2);
  double nearest = INFINITY;
  *cols = *rows = 1;
  for (int n_tile = preprocess->min_tiles; n_tile <= preprocess->max_tiles; n_tile++) {
    for (int c = 1; c <= n_tile; c++) {
      if (n_tile % c != 0) continue;
      const double distance = fabs(ratio - (double)c / (n_tile / c));
      if (distance < nearest || (distance == nearest && (double)area(sheet) > 0.5 * tile_area * n_tile)) {
        nearest = distance;
        *cols = c;
        *rows = n_tile / c;
      }
    }
  }
}

static sl_status plan_intern(sl_tile_plan *plan, const sl_preprocess *preprocess, sl_size sheet) {
  const int tile_px = preprocess->tile_px;
  int cols, rows;
  nearest_grid(preprocess, sheet, &cols, &rows);
  SL_TRY(cuts_alloc(plan, rows, cols, 1));
  add_tiles(plan, tile_px, (sl_size){cols * tile_px, rows * tile_px}, 0, 0);
  if (plan->n_cut == 1)
    plan->tile_rows = plan->tile_cols = 0;
  else if (preprocess->thumbnail)
    plan->cuts[plan->n_cut++] = whole((sl_size){tile_px, tile_px});
  plan->base = plan->n_cut > plan->tile_rows * plan->tile_cols ? plan->n_cut - 1 : -1;
  return SL_OK;
}

/* ---- idefics ---- */

/* The longer side to `edge`; the other truncated and then, where asked for, made even. */
static sl_size to_edge(sl_size size, int edge_px, bool is_even) {
  const double ratio = (double)size.width_px / size.height_px;
  const bool is_wide = size.width_px >= size.height_px;
  int other = (int)(is_wide ? edge_px / ratio : edge_px * ratio);
  if (is_even) other += other % 2;
  other = max_int(other, 1);
  return is_wide ? (sl_size){edge_px, other} : (sl_size){other, edge_px};
}

static sl_size longest_edge(sl_size sheet, int edge_px) {
  const sl_size size = to_edge(sheet, edge_px, true);
  if (max_int(size.width_px, size.height_px) <= IDEFICS_MAX_SIDE_PX) return size;
  return to_edge(size, IDEFICS_MAX_SIDE_PX, false);
}

static int round_up(int n, int step) { return (n + step - 1) / step * step; }

/* Both sides up to multiples of a tile, the shorter one from the aspect ratio of what the longer has become. */
static sl_size up_to_tiles(sl_size size, int tile_px) {
  const double ratio = (double)size.width_px / size.height_px;
  if (size.width_px >= size.height_px) {
    size.width_px = round_up(size.width_px, tile_px);
    size.height_px = round_up((int)(size.width_px / ratio), tile_px);
  } else {
    size.height_px = round_up(size.height_px, tile_px);
    size.width_px = round_up((int)(size.height_px * ratio), tile_px);
  }
  return size;
}

static sl_status plan_idefics(sl_tile_plan *plan, const sl_preprocess *preprocess, sl_size sheet) {
  const int tile_px = preprocess->tile_px;
  sl_size size = sheet;
  if (preprocess->do_resize) {
    size = preprocess->longest_edge_px > 0 ? longest_edge(sheet, preprocess->longest_edge_px)
                                           : (sl_size){preprocess->resize_width_px, preprocess->resize_height_px};
    plan->stages[plan->n_stage++] = size;
  }
  int rows = 1, cols = 1;
  if (preprocess->split) {
    size = up_to_tiles(size, tile_px);
    if (size.width_px < 1 || size.height_px < 1) /* transformers fails here too, when it resizes */
      SL_FAIL(SL_ERROR_ARGUMENT, "preprocess: expected a picture that is less narrow, found %d x %d px", sheet.width_px,
              sheet.height_px);
    plan->stages[plan->n_stage++] = size;
    rows = size.height_px / tile_px;
    cols = size.width_px / tile_px;
  }
  SL_TRY(cuts_alloc(plan, rows, cols, 1));
  if (rows * cols > 1)
    add_tiles(plan, tile_px, size, 0, 0);
  else
    plan->tile_rows = plan->tile_cols = 0;
  plan->base = plan->n_cut;
  plan->cuts[plan->n_cut++] = whole((sl_size){tile_px, tile_px});
  return SL_OK;
}

/* ---- all ---- */

static sl_status check_single(const sl_preprocess *preprocess, const char *name) {
  (void)preprocess, (void)name;
  return SL_OK;
}

static sl_status check_tile(const sl_preprocess *preprocess, const char *name) {
  if (preprocess->tile_px >= 1 && preprocess->tile_px <= SL_MAX_SIDE_PX) return SL_OK;
  SL_FAIL(SL_ERROR_FORMAT, "%s: expected tiles of 1 to %d px, found %d", name, SL_MAX_SIDE_PX, preprocess->tile_px);
}

static sl_status check_anyres(const sl_preprocess *preprocess, const char *name) {
  const int tile_px = preprocess->tile_px;
  SL_TRY(check_tile(preprocess, name));
  if (preprocess->n_pinpoint < 1 || preprocess->n_pinpoint > SL_MAX_PINPOINT)
    SL_FAIL(SL_ERROR_FORMAT, "%s: image_grid_pinpoints: expected 1 to %d sizes, found %d", name, SL_MAX_PINPOINT,
            preprocess->n_pinpoint);
  for (int i = 0; i < preprocess->n_pinpoint; i++) {
    const int h = preprocess->pinpoints[i][0], w = preprocess->pinpoints[i][1];
    if (h < 1 || w < 1 || h % tile_px != 0 || w % tile_px != 0 || h / tile_px > SL_MAX_TILE / (w / tile_px))
      SL_FAIL(SL_ERROR_FORMAT,
              "%s: image_grid_pinpoints[%d]: expected at most %d tiles of the processor's %d x %d px, found height %d, "
              "width %d",
              name, i, SL_MAX_TILE, tile_px, tile_px, h, w);
  }
  return SL_OK;
}

static sl_status check_intern(const sl_preprocess *preprocess, const char *name) {
  SL_TRY(check_tile(preprocess, name));
  if (preprocess->min_tiles < 1 || preprocess->max_tiles < preprocess->min_tiles || preprocess->max_tiles > SL_MAX_TILE)
    SL_FAIL(SL_ERROR_FORMAT, "%s: expected 1 <= fewest tiles <= most tiles <= %d, found %d and %d", name, SL_MAX_TILE,
            preprocess->min_tiles, preprocess->max_tiles);
  return SL_OK;
}

static sl_status check_smart(const sl_preprocess *preprocess, const char *name) {
  if (preprocess->patch_px < 1 || preprocess->merge < 1 || preprocess->patch_px > SL_MAX_SIDE_PX / preprocess->merge)
    SL_FAIL(SL_ERROR_FORMAT, "%s: expected patch_size * merge_size of 1 to %d px, found %d * %d", name, SL_MAX_SIDE_PX,
            preprocess->patch_px, preprocess->merge);
  if (preprocess->min_px < 1 || preprocess->max_px < preprocess->min_px || preprocess->max_px > SL_IMAGE_MAX_PX)
    SL_FAIL(SL_ERROR_FORMAT, "%s: expected 1 <= least area <= largest area <= %d px, found %d and %d", name,
            SL_IMAGE_MAX_PX, preprocess->min_px, preprocess->max_px);
  return SL_OK;
}

static sl_status check_idefics(const sl_preprocess *preprocess, const char *name) {
  SL_TRY(check_tile(preprocess, name));
  const bool has_size = preprocess->resize_width_px >= 1 && preprocess->resize_height_px >= 1;
  if (preprocess->do_resize && preprocess->longest_edge_px < (has_size ? 0 : 1))
    SL_FAIL(SL_ERROR_FORMAT, "%s: expected a longest edge of at least 1 px, found %d", name,
            preprocess->longest_edge_px);
  return SL_OK;
}

static const struct {
  sl_status (*check)(const sl_preprocess *preprocess, const char *name);
  sl_status (*plan)(sl_tile_plan *plan, const sl_preprocess *preprocess, sl_size sheet);
} tilings[SL_TILING_COUNT] = {
    [SL_TILING_NONE] = {check_single, plan_single},      [SL_TILING_ANYRES] = {check_anyres, plan_anyres},
    [SL_TILING_INTERN] = {check_intern, plan_intern},    [SL_TILING_SMART] = {check_smart, plan_smart},
    [SL_TILING_IDEFICS] = {check_idefics, plan_idefics},
};

sl_status sl_tiling_check(const sl_preprocess *preprocess, const char *name) {
  if ((unsigned)preprocess->tiling >= SL_TILING_COUNT)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: unknown tiling %d", name, (int)preprocess->tiling);
  return tilings[preprocess->tiling].check(preprocess, name);
}

sl_status sl_tile_plan_make(sl_tile_plan *out, const sl_preprocess *preprocess, sl_size sheet) {
  *out = (sl_tile_plan){0};
  return tilings[preprocess->tiling].plan(out, preprocess, sheet);
}
