/* libFuzzer target: any bytes as a preprocessor_config.json, and as a config.json of the code that reads no such file.
 * What is accepted can be planned for every picture size, or fails with a message; small results are made. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "input/preprocess_internal.h"
#include "input/views.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static void require(bool condition) {
  if (!condition) abort();
}

static void check_views(const sl_views *v, const sl_preprocess *p) {
  require(v->n_view >= 1 && v->n_view <= SL_MAX_TILE + 1 && v->width_px >= 1 && v->height_px >= 1);
  require(v->base >= -1 && v->base < v->n_view);
  const int n_tile = v->tile_rows * v->tile_cols;
  require(n_tile == v->n_view - (v->base >= 0 ? 1 : 0));
  for (int i = 0; i < v->n_view; i++) {
    require(v->maps[i].scale_x > 0 && v->maps[i].scale_y > 0);
    require(isfinite(v->maps[i].offset_x) && isfinite(v->maps[i].offset_y));
  }
  int width_px, height_px;
  sl_preprocess_view_size(p, &width_px, &height_px);
  require(width_px == 0 || (width_px == v->width_px && height_px == v->height_px));
  if (p->tiling != SL_TILING_ANYRES) return;
  const int n_row = v->tile_rows * 24, n_col = v->tile_cols * 24;
  const sl_grid_part part = sl_anyres_unpad(v->source_width_px, v->source_height_px, n_row, n_col);
  require(part.first_row >= 0 && part.first_col >= 0 && part.n_row >= 0 && part.n_col >= 0);
  require(part.first_row + part.n_row <= n_row && part.first_col + part.n_col <= n_col);
}

static void make(const sl_preprocess *p, int width_px, int height_px) {
  sl_views views;
  sl_rgb image = {width_px, height_px, calloc((size_t)width_px * (size_t)height_px, 3)};
  require(image.data != NULL);
  if (sl_views_make(&views, p, &image) == SL_OK) {
    check_views(&views, p);
    const size_t n_value = 3 * (size_t)views.n_view * (size_t)views.width_px * (size_t)views.height_px;
    for (size_t i = 0; i < n_value; i++) require(!isnan(views.pixels[i]));
  }
  sl_views_dispose(&views);
  free(image.data);
}

static void try_sizes(const sl_preprocess *p) {
  static const int sizes[][2] = {{1, 1}, {65535, 1}, {1, 65535}, {10000, 10000}, {333, 500}, {13, 7}};
  int64_t n_px = 0;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    sl_views views;
    if (sl_views_plan(&views, p, sizes[i][0], sizes[i][1]) == SL_OK) {
      check_views(&views, p);
      n_px = (int64_t)views.n_view * views.width_px * views.height_px;
    } else {
      require(sl_error_message()[0] != '\0' && views.maps == NULL);
    }
    sl_views_dispose(&views);
  }
  if (n_px > 0 && n_px < 20000) make(p, 13, 7); /* of the last size */
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes) {
  json_t *json = NULL;
  if (sl_json_parse(&json, (const char *)bytes, n_bytes, "fuzz.json") != SL_OK) return 0;
  sl_preprocess p;
  if (sl_settings_read(&p, &(sl_settings){json, "fuzz.json"}) == SL_OK) {
    if (sl_preprocess_add_config(&p, json, "fuzz.json") != SL_OK)
      require(strstr(sl_error_message(), "fuzz.json") != NULL);
    try_sizes(&p);
  } else {
    require(strstr(sl_error_message(), "fuzz.json") != NULL);
  }
  if (sl_preprocess_dynamic(&p, json, "fuzz.json") == SL_OK) try_sizes(&p);
  json_decref(json);
  return 0;
}
