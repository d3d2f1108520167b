/* Views of a picture against transformers' image processors (tests/golden/tiles): small tiles number by number, real
 * sizes by the checksum of each view's grey levels, counts over hundreds of picture sizes; where each view lies;
 * every allocation failing once. Settings are in test_processors.c. */
#include "processor_folder.h"

#define GOLDEN SL_SOURCE_DIR "/tests/golden/tiles/"

static json_t *golden;
static sl_safetensors *arrays;

static void read_settings(sl_preprocess *out, const json_t *settings) {
  char *text;
  assert_ok(sl_json_print(settings, 0, &text));
  read_text(out, text);
  free(text);
}

/* `scene` of tools/golden/tiles.py. */
static sl_rgb scene(int width_px, int height_px) {
  sl_rgb image = blank(width_px, height_px);
  uint8_t *to = image.data;
  for (uint32_t y = 0; y < (uint32_t)height_px; y++)
    for (uint32_t x = 0; x < (uint32_t)width_px; x++)
      for (uint32_t c = 0; c < 3; c++) {
        uint32_t wave = (x * (3 + c) + y * (5 - c)) & 511;
        if (wave >= 256) wave = 511 - wave;
        const uint32_t block = (x / 17 + y / 13 + c) % 3 * 40;
        const uint32_t noise = ((x * 73856093u ^ y * 19349663u ^ c * 83492791u) * 2654435761u) >> 27;
        const uint32_t sum = wave * 5 / 8 + block + noise;
        *to++ = (uint8_t)(sum < 255 ? sum : 255);
      }
  return image;
}

static int fact(const json_t *facts, const char *key) {
  const json_t *value = json_object_get(facts, key);
  assert_true(json_is_integer(value));
  return (int)json_integer_value(value);
}

static void assert_arrangement(const char *name, const sl_views *views, const json_t *facts) {
  const int found[] = {views->base, views->tile_rows, views->tile_cols};
  const int expected[] = {fact(facts, "base"), fact(facts, "rows"), fact(facts, "cols")};
  for (int i = 0; i < 3; i++)
    if (found[i] != expected[i])
      fail_msg("%s: base, rows, columns: %d: expected %d, found %d", name, i, expected[i], found[i]);
}

/* The settings and the size in "<settings>/<width>x<height>". */
static void parse_case(const char *name, const char *settings, sl_preprocess *preprocess, int *width_px,
                       int *height_px) {
  char key[64];
  assert_int_equal(sscanf(name, "%63[^/]/%dx%d", key, width_px, height_px), 3);
  read_settings(preprocess, json_object_get(json_object_get(golden, settings), key));
  if (strncmp(key, "white", 5) == 0) { /* Shikra's code pads before the processor */
    preprocess->pad_to_square = true;
    memset(preprocess->pad_rgb, 255, 3);
  }
}

/* ---- against transformers ---- */

static void test_small(void **state) {
  (void)state;
  const char *name;
  json_t *facts;
  int n_case = 0;
  json_object_foreach(json_object_get(golden, "small"), name, facts) {
    sl_preprocess preprocess;
    int width_px, height_px;
    parse_case(name, "small_settings", &preprocess, &width_px, &height_px);
    const sl_tensor *expected = sl_safetensors_find(arrays, name);
    assert_non_null(expected);
    sl_rgb image = scene(width_px, height_px);
    sl_views views;
    assert_ok(sl_views_make(&views, &preprocess, &image));
    const int found[] = {views.n_view, 3, views.height_px, views.width_px};
    for (int i = 0; i < 4; i++)
      if (found[i] != expected->shape[i])
        fail_msg("%s: axis %d: expected %d, found %d", name, i, (int)expected->shape[i], found[i]);
    for (int64_t i = 0; i < sl_tensor_count(expected); i++) {
      float value;
      memcpy(&value, (const uint8_t *)expected->data + 4 * i, 4);
      if (!(fabsf(views.pixels[i] - value) <= 1e-6f))
        fail_msg("%s: element %d: expected %.9g, found %.9g", name, (int)i, (double)value, (double)views.pixels[i]);
    }
    assert_arrangement(name, &views, facts);
    assert_true(views.source_width_px == width_px && views.source_height_px == height_px);
    sl_views_dispose(&views);
    sl_rgb_dispose(&image);
    n_case++;
  }
  assert_true(n_case >= 40);
}

static uint32_t crc32_of(const uint8_t *bytes, size_t n_bytes) {
  uint32_t table[256], crc = 0xffffffffu;
  for (uint32_t i = 0; i < 256; i++) {
    table[i] = i;
    for (int bit = 0; bit < 8; bit++) table[i] = table[i] >> 1 ^ ((table[i] & 1) ? 0xedb88320u : 0);
  }
  for (size_t i = 0; i < n_bytes; i++) crc = crc >> 8 ^ table[(crc ^ bytes[i]) & 255];
  return ~crc;
}

/* The grey levels behind normalised values. */
static uint8_t *levels_of(const char *name, const sl_preprocess *preprocess, const float *pixels, size_t n_px) {
  uint8_t *levels = malloc(3 * n_px);
  assert_non_null(levels);
  for (size_t i = 0; i < 3 * n_px; i++) {
    const size_t c = i / n_px;
    const double value = ((double)pixels[i] * preprocess->std[c] + preprocess->mean[c]) * 255, level = rint(value);
    if (!(fabs(value - level) < 1e-4) || level < 0 || level > 255)
      fail_msg("%s: %g is no normalised grey level", name, (double)pixels[i]);
    levels[i] = (uint8_t)level;
  }
  return levels;
}

static void test_large(void **state) {
  (void)state;
  const char *name;
  json_t *facts;
  int n_case = 0;
  json_object_foreach(json_object_get(golden, "large"), name, facts) {
    sl_preprocess preprocess;
    int width_px, height_px, side_width_px, side_height_px;
    parse_case(name, "large_settings", &preprocess, &width_px, &height_px);
    sl_rgb image = scene(width_px, height_px);
    sl_views views;
    assert_ok(sl_views_make(&views, &preprocess, &image));
    assert_int_equal(views.n_view, fact(facts, "n"));
    assert_int_equal(views.width_px, fact(facts, "width"));
    assert_int_equal(views.height_px, fact(facts, "height"));
    sl_preprocess_view_size(&preprocess, &side_width_px, &side_height_px);
    const bool is_fixed = preprocess.tiling != SL_TILING_SMART;
    assert_int_equal(side_width_px, is_fixed ? views.width_px : 0);
    assert_int_equal(side_height_px, is_fixed ? views.height_px : 0);
    if (json_object_get(facts, "base") != NULL) assert_arrangement(name, &views, facts);
    const size_t n_px = (size_t)views.width_px * (size_t)views.height_px;
    for (int i = 0; i < views.n_view; i++) {
      uint8_t *levels = levels_of(name, &preprocess, views.pixels + (size_t)i * 3 * n_px, n_px);
      const json_t *crc = json_array_get(json_object_get(facts, "crc"), (size_t)i);
      if (crc32_of(levels, 3 * n_px) != json_integer_value(crc)) fail_msg("%s: view %d differs", name, i);
      free(levels);
    }
    sl_views_dispose(&views);
    sl_rgb_dispose(&image);
    n_case++;
  }
  assert_true(n_case >= 30);
}

/* ---- counts ---- */

/* Calls check(row, ...) for each row of a golden table. */
static void each_count(const char *table, int n_col, void (*check)(const int *, const void *), const void *user) {
  char name[64];
  snprintf(name, sizeof name, "counts/%s", table);
  const sl_tensor *rows = sl_safetensors_find(arrays, name);
  assert_non_null(rows);
  assert_true(rows->dtype == SL_I32 && rows->shape[0] >= 200 && rows->shape[1] == n_col);
  for (int64_t i = 0; i < rows->shape[0]; i++) {
    int row[8];
    memcpy(row, (const uint8_t *)rows->data + (size_t)(i * n_col) * 4, (size_t)n_col * 4);
    check(row, user);
  }
}

static void expect_equal(const char *what, const int *row, int expected, int found) {
  if (expected != found) fail_msg("%d x %d px: %s: expected %d, found %d", row[0], row[1], what, expected, found);
}

typedef struct next_case {
  sl_preprocess preprocess;
  int tower; /* side of a tile's grid of tokens */
} next_case;

static void check_next(const int *row, const void *user) {
  const next_case *c = user;
  sl_views views;
  plan(&views, &c->preprocess, row[0], row[1]);
  const int n_row = views.tile_rows * c->tower, n_col = views.tile_cols * c->tower;
  const sl_grid_part part = sl_anyres_unpad(row[0], row[1], n_row, n_col);
  expect_equal("tile rows", row, row[2], views.tile_rows);
  expect_equal("tile columns", row, row[3], views.tile_cols);
  expect_equal("rows kept", row, row[4], part.n_row);
  expect_equal("columns kept", row, row[5], part.n_col);
  expect_equal("tokens", row, row[6], c->tower * c->tower + part.n_row * part.n_col + part.n_row);
  expect_equal("views", row, 1 + views.tile_rows * views.tile_cols, views.n_view);
  assert_true(part.n_row == n_row || part.n_col == n_col); /* one axis only, centred */
  assert_true(2 * part.first_row + part.n_row == n_row && 2 * part.first_col + part.n_col == n_col);
  sl_views_dispose(&views);
}

static void test_next_counts(void **state) {
  (void)state;
  next_case c = {.tower = 24};
  read_text(&c.preprocess,
            "{\"image_processor_type\": \"LlavaNextImageProcessor\", \"size\": {\"shortest_edge\": 336},"
            "\"crop_size\": {\"height\": 336, \"width\": 336}}"); /* the class's own pinpoints */
  each_count("next-24", 7, check_next, &c);
  c.tower = 27;
  read_text(&c.preprocess,
            "{\"size\": 378, \"crop_size\": 378, \"image_grid_pinpoints\": [[378, 756], [756, 378], "
            "[756, 756], [1134, 378], [378, 1134]]}"); /* no class named: the key tells */
  each_count("next-27", 7, check_next, &c);
  /* Published vectors: height, width, tokens. */
  static const int known[][3] = {{336, 336, 1176},   {480, 640, 2340},   {640, 480, 2352},  {899, 1024, 2634},
                                 {1080, 1920, 1948}, {1920, 1080, 1968}, {100, 1000, 1160}, {1000, 100, 1224},
                                 {50, 50, 1176},     {427, 640, 2144},   {333, 500, 1464}};
  read_text(&c.preprocess,
            "{\"size\": 336, \"crop_size\": 336, \"image_grid_pinpoints\": [[336, 672], [672, 336], "
            "[672, 672], [1008, 336], [336, 1008]]}");
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    sl_views views;
    plan(&views, &c.preprocess, known[i][1], known[i][0]);
    const sl_grid_part part = sl_anyres_unpad(known[i][1], known[i][0], views.tile_rows * 24, views.tile_cols * 24);
    assert_int_equal(576 + part.n_row * part.n_col + part.n_row, known[i][2]);
    sl_views_dispose(&views);
  }
}

static void check_intern(const int *row, const void *user) {
  sl_views views;
  plan(&views, user, row[0], row[1]);
  const int n_tile = row[2] * row[3];
  expect_equal("views", row, n_tile > 1 ? n_tile + 1 : 1, views.n_view);
  expect_equal("columns", row, n_tile > 1 ? row[2] : 0, views.tile_cols);
  expect_equal("rows", row, n_tile > 1 ? row[3] : 0, views.tile_rows);
  sl_views_dispose(&views);
}

static void test_intern_counts(void **state) {
  (void)state;
  static const char *const tables[] = {"1-12", "1-6", "3-9", "1-40"};
  sl_preprocess preprocess;
  for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
    char name[32], text[200];
    int least, most;
    assert_int_equal(sscanf(tables[i], "%d-%d", &least, &most), 2);
    snprintf(name, sizeof name, "intern-%s", tables[i]);
    snprintf(text, sizeof text,
             "{\"image_processor_type\": \"GotOcr2ImageProcessorFast\", \"crop_to_patches\": false, "
             "\"size\": {\"height\": 448, \"width\": 448}, \"min_patches\": %d, "
             "\"max_patches\": %d}",
             least, most);
    read_text(&preprocess, text);
    each_count(name, 4, check_intern, &preprocess);
    snprintf(text, sizeof text,
             "{\"force_image_size\": 448, \"dynamic_image_size\": true, \"use_thumbnail\": true, "
             "\"min_dynamic_patch\": %d, \"max_dynamic_patch\": %d}",
             least, most);
    preprocess = read_dynamic(text);
    each_count(name, 4, check_intern, &preprocess);
  }
  /* Published vectors for up to 12 tiles: height, width, columns, rows. */
  static const int known[][4] = {{448, 448, 1, 1},   {480, 640, 4, 3},   {640, 480, 3, 4}, {1080, 1920, 4, 2},
                                 {1920, 1080, 2, 4}, {100, 1000, 10, 1}, {427, 640, 3, 2}, {2000, 2000, 3, 3}};
  preprocess = read_dynamic(
      "{\"force_image_size\": 448, \"dynamic_image_size\": true, \"use_thumbnail\": true, "
      "\"max_dynamic_patch\": 12}");
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    check_intern((const int[]){known[i][1], known[i][0], known[i][2], known[i][3]}, &preprocess);
}

static void check_qwen(const int *row, const void *user) {
  sl_views views;
  plan(&views, user, row[0], row[1]);
  expect_equal("views", row, 1, views.n_view);
  expect_equal("width", row, row[2], views.width_px);
  expect_equal("height", row, row[3], views.height_px);
  assert_true(views.base == 0 && views.tile_rows == 0 && views.tile_cols == 0);
  sl_views_dispose(&views);
}

static void test_qwen_counts(void **state) {
  (void)state;
  sl_preprocess preprocess;
  read_text(&preprocess, "{\"image_processor_type\": \"Qwen2VLImageProcessor\"}");
  each_count("qwen-default", 4, check_qwen, &preprocess);
  read_text(&preprocess,
            "{\"image_processor_type\": \"Qwen2VLImageProcessor\", \"min_pixels\": 3136, "
            "\"max_pixels\": 12845056}");
  each_count("qwen-hub", 4, check_qwen, &preprocess);
  read_text(&preprocess,
            "{\"image_processor_type\": \"Qwen2VLImageProcessorFast\", \"size\": "
            "{\"shortest_edge\": 3136, \"longest_edge\": 12845056}}");
  each_count("qwen-hub", 4, check_qwen, &preprocess);
  /* More than a picture can have is no limit. */
  read_text(&preprocess, "{\"image_processor_type\": \"Qwen2VLImageProcessor\", \"max_pixels\": 100352000}");
  assert_int_equal(preprocess.max_px, 100000000);
  sl_views views;
  assert_int_equal(sl_views_plan(&views, &preprocess, 2010, 10), SL_ERROR_ARGUMENT);
  assert_message("2010 x 10");
}

static void check_idefics(const int *row, const void *user) {
  sl_views views;
  plan(&views, user, row[0], row[1]);
  expect_equal("rows", row, row[2], views.tile_rows);
  expect_equal("columns", row, row[3], views.tile_cols);
  expect_equal("views", row, row[4], views.n_view);
  expect_equal("base", row, row[4] - 1, views.base);
  sl_views_dispose(&views);
}

static void test_idefics_counts(void **state) {
  (void)state;
  sl_preprocess preprocess;
  read_text(&preprocess, "{\"image_processor_type\": \"Idefics3ImageProcessor\"}");
  each_count("idefics-1456-364", 5, check_idefics, &preprocess);
  read_text(&preprocess,
            "{\"image_processor_type\": \"SmolVLMImageProcessor\", \"size\": {\"longest_edge\": 2048}, "
            "\"max_image_size\": {\"longest_edge\": 512}}");
  each_count("idefics-2048-512", 5, check_idefics, &preprocess);
  read_text(&preprocess,
            "{\"image_processor_type\": \"Idefics3ImageProcessor\", \"size\": {\"longest_edge\": 5000}, "
            "\"max_image_size\": {\"longest_edge\": 384}}");
  each_count("idefics-5000-384", 5, check_idefics, &preprocess);
  sl_views views; /* so narrow that nothing of its width is left: an error in transformers too */
  read_text(&preprocess,
            "{\"image_processor_type\": \"Idefics3ImageProcessor\", \"size\": {\"longest_edge\": 98}, "
            "\"max_image_size\": {\"longest_edge\": 14}}");
  assert_int_equal(sl_views_plan(&views, &preprocess, 1, 65535), SL_ERROR_ARGUMENT);
  assert_message("1 x 65535");
}

/* ---- where views lie ---- */

typedef struct box {
  double left, top, right, bottom;
} box;

/* Bounds and centre of what differs between two views. */
static bool changed(const float *a, const float *b, int width_px, int height_px, box *bounds, double centre[2]) {
  *bounds = (box){INFINITY, INFINITY, -INFINITY, -INFINITY};
  double sum = 0, sum_x = 0, sum_y = 0;
  for (int y = 0; y < height_px; y++)
    for (int x = 0; x < width_px; x++) {
      const double d = fabs((double)a[y * width_px + x] - (double)b[y * width_px + x]);
      if (d == 0) continue;
      *bounds =
          (box){fmin(bounds->left, x), fmin(bounds->top, y), fmax(bounds->right, x + 1), fmax(bounds->bottom, y + 1)};
      sum += d;
      sum_x += d * (x + 0.5);
      sum_y += d * (y + 0.5);
    }
  if (sum > 0) centre[0] = sum_x / sum, centre[1] = sum_y / sum;
  return sum > 0;
}

/* A square of the source, as the map says where it is in a view. */
static box in_view(const sl_pixel_map *map, const box *source) {
  return (box){(source->left - map->offset_x) / map->scale_x, (source->top - map->offset_y) / map->scale_y,
               (source->right - map->offset_x) / map->scale_x, (source->bottom - map->offset_y) / map->scale_y};
}

/* How far beyond its own px a resize spreads one, in px of the view: `support` taps of the wider grid, per pass. */
static double spread(double scale, double support) { return support * fmax(1, 1 / scale) + 1; }

static bool meets(const box *at, double dx, double dy, const sl_views *views) {
  return at->right - dx > 0 && at->bottom - dy > 0 && at->left + dx < views->width_px &&
         at->top + dy < views->height_px;
}

static bool is_inside(const box *at, double dx, double dy, const sl_views *views) {
  return at->left >= dx && at->top >= dy && at->right <= views->width_px - dx && at->bottom <= views->height_px - dy;
}

/* Every view changes where its map says, and nowhere else. */
static void check_square(const char *name, const sl_views *before, const sl_views *after, const box *square,
                         double support, int *n_inside) {
  const size_t n_value = 3 * (size_t)before->width_px * (size_t)before->height_px;
  for (int i = 0; i < before->n_view; i++) {
    const box at = in_view(&before->maps[i], square);
    const double dx = spread(before->maps[i].scale_x, support), dy = spread(before->maps[i].scale_y, support);
    const double x = (at.left + at.right) / 2, y = (at.top + at.bottom) / 2;
    box bounds;
    double centre[2] = {NAN, NAN};
    const bool is_changed = changed(before->pixels + n_value * (size_t)i, after->pixels + n_value * (size_t)i,
                                    before->width_px, before->height_px, &bounds, centre);
    if (is_changed && (bounds.left < at.left - dx || bounds.right > at.right + dx || bounds.top < at.top - dy ||
                       bounds.bottom > at.bottom + dy))
      fail_msg("%s: view %d: [%g, %g] x [%g, %g] changed, the square is at [%g, %g] x [%g, %g]", name, i, bounds.left,
               bounds.right, bounds.top, bounds.bottom, at.left, at.right, at.top, at.bottom);
    if (!is_changed && meets(&at, dx, dy, before))
      fail_msg("%s: view %d: nothing changed, the square is around (%g, %g)", name, i, x, y);
    if (!is_inside(&at, dx, dy, before)) continue;
    n_inside[i]++;
    if (!(fabs(centre[0] - x) <= 0.1 && fabs(centre[1] - y) <= 0.1))
      fail_msg("%s: view %d: the change is around (%g, %g), the square around (%g, %g)", name, i, centre[0], centre[1],
               x, y);
  }
}

/* White squares on black, all over the picture; some must lie inside each view. */
static void check_maps(const char *settings, int width_px, int height_px, int side_px, double support) {
  sl_preprocess preprocess;
  sl_rgb image = blank(width_px, height_px);
  sl_views before, after;
  int n_inside[16] = {0};
  read_text(&preprocess, settings);
  assert_ok(sl_views_make(&before, &preprocess, &image));
  assert_true(before.n_view <= 16);
  for (int y = 0; y + side_px <= height_px; y += 9)
    for (int x = 0; x + side_px <= width_px; x += 9) {
      const box square = {x, y, x + side_px, y + side_px};
      memset(image.data, 0, (size_t)width_px * (size_t)height_px * 3);
      for (int i = 0; i < side_px; i++)
        memset(image.data + ((size_t)(y + i) * (size_t)width_px + (size_t)x) * 3, 255, (size_t)side_px * 3);
      assert_ok(sl_views_make(&after, &preprocess, &image));
      check_square(settings, &before, &after, &square, support, n_inside);
      sl_views_dispose(&after);
    }
  for (int i = 0; i < before.n_view; i++)
    if (n_inside[i] == 0) fail_msg("%s: %d x %d px: no square inside view %d", settings, width_px, height_px, i);
  sl_views_dispose(&before);
  sl_rgb_dispose(&image);
}

static void test_maps(void **state) {
  (void)state;
  static const char next[] =
      "{\"size\": 56, \"crop_size\": 56, \"image_grid_pinpoints\": [[56, 112], [112, 56], "
      "[112, 112], [168, 56], [56, 168]]}";
  static const char intern[] =
      "{\"image_processor_type\": \"GotOcr2ImageProcessor\", \"size\": 56, "
      "\"max_patches\": 6}";
  static const char qwen[] = "{\"image_processor_type\": \"Qwen2VLImageProcessor\"}";
  static const char idefics[] =
      "{\"image_processor_type\": \"Idefics3ImageProcessor\", \"size\": "
      "{\"longest_edge\": 150}, \"max_image_size\": {\"longest_edge\": 56}}";
  check_maps(next, 150, 100, 17, 2);
  check_maps(next, 61, 200, 17, 2);
  check_maps(next, 90, 90, 9, 2);
  check_maps(intern, 150, 100, 17, 2);
  check_maps(intern, 61, 200, 9, 2);
  check_maps(qwen, 90, 140, 17, 2);
  check_maps(idefics, 150, 100, 17, 6); /* two or three resizes of support 3 */
  check_maps(idefics, 61, 200, 9, 6);
  check_maps("{\"size\": 56, \"crop_size\": 56, \"do_pad\": true}", 150, 100, 17, 2);
}

/* The tiles of a grid lie edge to edge, and the base shows all of the picture. */
static void test_maps_cover(void **state) {
  (void)state;
  sl_preprocess preprocess = read_dynamic(
      "{\"force_image_size\": 28, \"dynamic_image_size\": true, \"use_thumbnail\": "
      "true, \"max_dynamic_patch\": 12}");
  sl_views views;
  plan(&views, &preprocess, 640, 480);
  assert_true(views.n_view == 13 && views.base == 12 && views.tile_rows == 3 && views.tile_cols == 4);
  for (int i = 0; i < 12; i++) {
    const sl_pixel_map *map = &views.maps[i];
    assert_true(fabs(map->offset_x - 160 * (i % 4)) < 1e-9 && fabs(map->offset_y - 160 * (i / 4)) < 1e-9);
    assert_true(fabs(map->scale_x * 28 - 160) < 1e-9 && fabs(map->scale_y * 28 - 160) < 1e-9);
  }
  const sl_pixel_map *base = &views.maps[12];
  assert_true(base->offset_x == 0 && base->offset_y == 0);
  assert_true(fabs(base->scale_x * 28 - 640) < 1e-9 && fabs(base->scale_y * 28 - 480) < 1e-9);
  sl_views_dispose(&views);
  preprocess.thumbnail = false;
  plan(&views, &preprocess, 640, 480);
  assert_true(views.n_view == 12 && views.base == -1);
  sl_views_dispose(&views);
  plan(&views, &preprocess, 20, 20);
  assert_true(views.n_view == 1 && views.base == 0 && views.tile_rows == 0);
  sl_views_dispose(&views);
}

/* ---- arguments, memory ---- */

static void expect_views_error(const sl_preprocess *preprocess, sl_rgb image, sl_status expected, const char *part) {
  sl_views views;
  memset(&views, 7, sizeof views);
  assert_int_equal(sl_views_make(&views, preprocess, &image), expected);
  assert_message(part);
  assert_true(views.n_view == 0 && views.pixels == NULL && views.maps == NULL);
}

static void test_arguments(void **state) {
  (void)state;
  sl_rgb image = scene(40, 30);
  sl_preprocess good = sl_preprocess_squash(28, SL_NORM_IMAGENET), p;
  good.tile_px = 28;
  good.tiling = SL_TILING_INTERN;
  good.min_tiles = 1;
  good.max_tiles = 4;
  expect_views_error(&good, (sl_rgb){0}, SL_ERROR_ARGUMENT, "empty");
  sl_views views;
  assert_int_equal(sl_views_plan(&views, &good, 0, 5), SL_ERROR_ARGUMENT);
  p = good, p.tile_px = 0;
  expect_views_error(&p, image, SL_ERROR_FORMAT, "tiles of 1 to 16384 px, found 0");
  p = good, p.max_tiles = 2000;
  expect_views_error(&p, image, SL_ERROR_FORMAT, "found 1 and 2000");
  p = good, p.tiling = SL_TILING_ANYRES;
  expect_views_error(&p, image, SL_ERROR_FORMAT, "image_grid_pinpoints");
  p = good, p.tiling = SL_TILING_COUNT;
  expect_views_error(&p, image, SL_ERROR_ARGUMENT, "unknown tiling");
  p = good, p.std[1] = 0;
  expect_views_error(&p, image, SL_ERROR_ARGUMENT, "channel 1");
  p = good, p.tile_px = 16384, p.min_tiles = 4;
  expect_views_error(&p, image, SL_ERROR_UNSUPPORTED, "together");
  p = good, p.tiling = SL_TILING_IDEFICS, p.tile_px = 1, p.longest_edge_px = 100, p.split = true;
  expect_views_error(&p, image, SL_ERROR_UNSUPPORTED, "at most 1024 tiles, found 76 x 100");
  float *pixels;
  int width_px, height_px;
  assert_int_equal(sl_preprocess_apply(&good, &image, &pixels, &width_px, &height_px, NULL, NULL), SL_ERROR_ARGUMENT);
  assert_message("without tiles");
  assert_null(pixels);
  sl_rgb_dispose(&image);
}

/* Fails the first allocation, then the second, until the work succeeds. */
static void test_memory(void **state) {
  (void)state;
  static const char *const settings[] = {
      "{\"size\": 8, \"crop_size\": 8, \"image_grid_pinpoints\": [[8, 24]]}",
      "{\"image_processor_type\": \"GotOcr2ImageProcessor\", \"size\": 8}",
      "{\"image_processor_type\": \"Qwen2VLImageProcessor\"}",
      "{\"image_processor_type\": \"Idefics3ImageProcessor\", \"size\": {\"longest_edge\": 20}, "
      "\"max_image_size\": {\"longest_edge\": 8}}",
      "{\"size\": 8, \"crop_size\": 9, \"do_pad\": true}"};
  sl_rgb image = scene(23, 31);
  for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
    sl_preprocess preprocess;
    sl_views views;
    read_text(&preprocess, settings[i]);
    int n = 1;
    for (;; n++) {
      sl_alloc_fail_at(n);
      const sl_status status = sl_views_make(&views, &preprocess, &image);
      sl_alloc_fail_at(0);
      if (status == SL_OK) break;
      if (status != SL_ERROR_MEMORY) fail_msg("allocation %d: %s", n, sl_error_message());
      assert_true(views.pixels == NULL && views.maps == NULL && n < 1000);
    }
    assert_true(n > 6);
    sl_views_dispose(&views);
  }
  sl_rgb_dispose(&image);
}

static int set_up(void **state) {
  (void)state;
  if (processor_folder_make() != 0) return -1;
  if (sl_json_load(&golden, GOLDEN "tiles.json", (size_t)1 << 22) != SL_OK) return -1;
  return sl_safetensors_open(&arrays, GOLDEN "tiles.safetensors") == SL_OK ? 0 : -1;
}

static int tear_down(void **state) {
  (void)state;
  json_decref(golden);
  sl_safetensors_close(arrays);
  return processor_folder_remove();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_small),          cmocka_unit_test(test_large),
      cmocka_unit_test(test_next_counts),    cmocka_unit_test(test_intern_counts),
      cmocka_unit_test(test_qwen_counts),    cmocka_unit_test(test_idefics_counts),
      cmocka_unit_test(test_maps),           cmocka_unit_test(test_maps_cover),
      cmocka_unit_test(test_arguments),      cmocka_unit_test(test_memory),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
