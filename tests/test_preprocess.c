/* Preprocessing: pixels against what transformers gave (tests/golden/pixels), settings that make no sense, where a
 * pixel comes from. */
#include "image_fixture.h"

#include <math.h>

/* ---- against transformers ---- */

static void read_settings(sl_preprocess *out, const json_t *settings) {
  char *text;
  assert_ok(sl_json_print(settings, 0, &text));
  write_file("preprocessor_config.json", text);
  free(text);
  assert_ok(sl_preprocess_read(out, folder));
  unlink(in_folder("preprocessor_config.json"));
}

static void check_pixels(const sl_preprocess *preprocess, const sl_rgb *image, const sl_tensor *expected) {
  float *found;
  int width_px, height_px;
  assert_ok(sl_preprocess_apply(preprocess, image, &found, &width_px, &height_px, NULL, NULL));
  assert_int_equal(expected->dtype, SL_F32);
  if (width_px != expected->shape[2] || height_px != expected->shape[1])
    fail_msg("%s: found %d x %d px", expected->name, width_px, height_px);
  for (int64_t i = 0; i < sl_tensor_count(expected); i++) {
    float value;
    memcpy(&value, (const uint8_t *)expected->data + 4 * i, 4);
    if (!(fabsf(found[i] - value) <= 1e-6f))
      fail_msg("%s: element %d: expected %.9g, found %.9g", expected->name, (int)i, (double)value, (double)found[i]);
  }
  free(found);
}

static void test_golden_preprocess(void **state) {
  (void)state;
  sl_preprocess crop, pad, variant;
  int n_crop = 0, n_pad = 0, n_variant = 0;
  const char *name;
  json_t *settings;
  read_settings(&crop, json_object_get(golden, "crop_settings"));
  read_settings(&pad, json_object_get(golden, "pad_settings"));
  assert_false(crop.pad_to_square);
  assert_true(pad.pad_to_square);
  json_object_foreach(json_object_get(golden, "files"), name, settings) {
    const sl_tensor *cropped = golden_tensor(name, "crop", false), *padded = golden_tensor(name, "pad", false);
    sl_rgb image = golden_rgb(name, "rgb");
    if (cropped != NULL) check_pixels(&crop, &image, cropped), n_crop++;
    if (padded != NULL) check_pixels(&pad, &image, padded), n_pad++;
    sl_rgb_dispose(&image);
  }
  sl_rgb odd = golden_rgb("odd.png", "rgb");
  json_object_foreach(json_object_get(golden, "variants"), name, settings) {
    read_settings(&variant, settings);
    check_pixels(&variant, &odd, golden_tensor("variant", name, true));
    n_variant++;
  }
  sl_rgb_dispose(&odd);
  assert_true(n_crop >= 20 && n_pad >= 8 && n_variant >= 10);
}

/* ---- settings ---- */

static void clear_settings(void) {
  unlink(in_folder("config.json"));
  unlink(in_folder("processor_config.json"));
  unlink(in_folder("preprocessor_config.json"));
}

static void test_settings_errors(void **state) {
  (void)state;
  static const struct {
    const char *text, *part;
    sl_status status;
  } table[] = {
      {"{\"size\": 0}", ": size: expected", SL_ERROR_FORMAT},
      {"{\"size\": -3}", "found -3", SL_ERROR_FORMAT},
      {"{\"size\": 16385}", "16385", SL_ERROR_FORMAT},
      {"{\"size\": 2.5}", "size", SL_ERROR_FORMAT},
      {"{\"size\": \"big\"}", "a string", SL_ERROR_FORMAT},
      {"{\"size\": [4]}", "[height, width]", SL_ERROR_FORMAT},
      {"{\"size\": [4, 0]}", "size[1]", SL_ERROR_FORMAT},
      {"{\"size\": {\"shortest_edge\": 0}}", "size.shortest_edge", SL_ERROR_FORMAT},
      {"{\"size\": {\"height\": 4}}", "\"width\"", SL_ERROR_FORMAT},
      {"{\"size\": {\"height\": 4, \"width\": -4}}", "size.width", SL_ERROR_FORMAT},
      {"{\"size\": {\"longest_edge\": 4}}", "size.longest_edge", SL_ERROR_UNSUPPORTED},
      {"{\"crop_size\": {\"shortest_edge\": 4}}", "crop_size", SL_ERROR_FORMAT},
      {"{\"crop_size\": {\"height\": 0, \"width\": 4}}", "crop_size.height", SL_ERROR_FORMAT},
      {"{\"resample\": 4}", "resample", SL_ERROR_UNSUPPORTED},
      {"{\"resample\": -1}", "found -1", SL_ERROR_UNSUPPORTED},
      {"{\"resample\": \"bicubic\"}", "resample", SL_ERROR_FORMAT},
      {"{\"image_std\": [1, 0, 1]}", "image_std[1]", SL_ERROR_FORMAT},
      {"{\"image_std\": 1e-60}", "image_std[0]", SL_ERROR_FORMAT},
      {"{\"image_std\": [1, 1]}", "found 2", SL_ERROR_FORMAT},
      {"{\"image_mean\": [1, 1, true]}", "image_mean", SL_ERROR_FORMAT},
      {"{\"image_mean\": 1e300}", "float32", SL_ERROR_FORMAT},
      {"{\"image_mean\": [2, 0, 0], \"do_pad\": true}", "image_mean[0]", SL_ERROR_FORMAT},
      {"{\"rescale_factor\": 0}", "rescale_factor", SL_ERROR_FORMAT},
      {"{\"do_resize\": 1}", "do_resize", SL_ERROR_FORMAT},
      {"{\"image_processor_type\": \"FuyuImageProcessor\"}", "FuyuImageProcessor", SL_ERROR_UNSUPPORTED},
      {"{\"image_processor_type\": \"CLIPImageProcessorX\"}", "CLIPImageProcessorX", SL_ERROR_UNSUPPORTED},
      {"{\"image_processor_type\": \"SiglipImageProcessor\", \"do_center_crop\": true}", "crop_size", SL_ERROR_FORMAT},
      {"{\"image_processor_type\": \"CLIPImageProcessor\", \"do_pad\": true, \"pad_size\": 9}", "pad_size",
       SL_ERROR_UNSUPPORTED},
      {"[]", "object", SL_ERROR_FORMAT},
      {"{\"size\": ", "line 1", SL_ERROR_FORMAT},
  };
  clear_settings();
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    write_file("preprocessor_config.json", table[i].text);
    sl_preprocess out, untouched;
    memset(&out, 7, sizeof out);
    memset(&untouched, 7, sizeof untouched);
    if (sl_preprocess_read(&out, folder) != table[i].status) fail_msg("%s: %s", table[i].text, sl_error_message());
    assert_message(folder);
    assert_message(table[i].part);
    assert_memory_equal(&out, &untouched, sizeof out);
  }
  clear_settings();
}

static void test_settings_sources(void **state) {
  (void)state;
  sl_preprocess p;
  clear_settings();
  assert_int_equal(sl_preprocess_read(&p, folder), SL_ERROR_FILE);
  assert_message("preprocessor_config.json");
  /* No processor file: the tower's size. */
  write_file("config.json", "{\"vision_config\": {\"image_size\": 336}, \"image_aspect_ratio\": \"pad\"}");
  assert_ok(sl_preprocess_read(&p, folder));
  assert_true(p.shortest_edge_px == 336 && p.crop_width_px == 336 && p.crop_height_px == 336);
  assert_true(p.do_resize && p.do_center_crop && p.do_rescale && p.do_normalize && p.filter == SL_FILTER_BICUBIC);
  assert_true(p.pad_to_square && p.pad_rgb[0] == 122 && p.pad_rgb[1] == 116 && p.pad_rgb[2] == 104);
  /* An old file, in which numbers stand for sizes. */
  write_file("preprocessor_config.json",
             "{\"feature_extractor_type\": \"CLIPFeatureExtractor\", \"size\": 30, \"crop_size\": 28, \"resample\": 1, "
             "\"do_pad\": true}");
  write_file("config.json", "{\"image_aspect_ratio\": \"square\"}");
  assert_ok(sl_preprocess_read(&p, folder));
  assert_true(p.shortest_edge_px == 30 && p.crop_width_px == 28 && p.crop_height_px == 28 &&
              p.filter == SL_FILTER_LANCZOS);
  assert_false(p.pad_to_square); /* CLIP's do_pad is about batches */
  /* The nested object wins as a whole; one without it does not. */
  write_file("processor_config.json", "{\"patch_size\": 14}");
  assert_ok(sl_preprocess_read(&p, folder));
  assert_int_equal(p.shortest_edge_px, 30);
  write_file("processor_config.json",
             "{\"image_processor\": {\"image_processor_type\": \"LlavaImageProcessorFast\", \"do_pad\": true, "
             "\"size\": {\"height\": 20, \"width\": 10}, \"image_mean\": 0.5, \"do_normalize\": null}}");
  assert_ok(sl_preprocess_read(&p, folder));
  assert_true(p.shortest_edge_px == 0 && p.resize_height_px == 20 && p.resize_width_px == 10);
  assert_true(p.crop_width_px == 224 && p.filter == SL_FILTER_BICUBIC && p.do_normalize);
  assert_true(p.pad_to_square && p.pad_rgb[0] == 127 && p.pad_rgb[2] == 127 && p.mean[1] == 0.5);
  /* Tiles are another family's. */
  write_file("config.json", "{\"image_aspect_ratio\": \"anyres_max_9\"}");
  assert_int_equal(sl_preprocess_read(&p, folder), SL_ERROR_UNSUPPORTED);
  assert_message("anyres_max_9");
  clear_settings();
}

/* ---- preprocessing ---- */

static void check_map(const char *settings, int width_px, int height_px, double scale_x, double offset_x,
                      double scale_y, double offset_y) {
  sl_preprocess p;
  sl_rgb image = make_rgb(width_px, height_px), seen;
  sl_pixel_map map;
  float *values;
  int w, h;
  write_file("preprocessor_config.json", settings);
  assert_ok(sl_preprocess_read(&p, folder));
  assert_ok(sl_preprocess_apply(&p, &image, &values, &w, &h, &seen, &map));
  assert_true(seen.width_px == w && seen.height_px == h);
  for (int i = 0; i < w * h; i++) { /* `seen` is what was normalised */
    float expected = ((float)(seen.data[3 * i + 1] * (1.0 / 255)) - 0.4578275f) / 0.26130258f;
    assert_true(values[w * h + i] == expected);
  }
  const double found[] = {map.scale_x, map.offset_x, map.scale_y, map.offset_y};
  const double expected[] = {scale_x, offset_x, scale_y, offset_y};
  for (int i = 0; i < 4; i++)
    if (fabs(found[i] - expected[i]) > 1e-12)
      fail_msg("%s: map %d: expected %g, found %g", settings, i, expected[i], found[i]);
  free(values);
  sl_rgb_dispose(&seen);
  sl_rgb_dispose(&image);
  clear_settings();
}

static void test_pixel_map(void **state) {
  (void)state;
  check_map("{\"size\": 20, \"crop_size\": 20}", 80, 40, 2, 20, 2, 0);
  check_map("{\"size\": 20, \"crop_size\": 10}", 40, 80, 2, 10, 2, 30);
  check_map("{\"size\": 20, \"crop_size\": 20, \"do_pad\": true}", 80, 40, 4, 0, 4, -20);
  check_map("{\"size\": 20, \"crop_size\": 10, \"do_pad\": true}", 40, 80, 4, 0, 4, 20);
  check_map("{\"size\": [10, 20], \"do_center_crop\": false}", 40, 40, 2, 0, 4, 0);
  check_map("{\"do_resize\": false, \"crop_size\": 13}", 10, 20, 1, -2, 1, 3); /* the odd pixel goes before */
}

static void test_apply_arguments(void **state) {
  (void)state;
  sl_preprocess p = {.do_resize = true};
  sl_rgb image = make_rgb(3, 2), none = {0};
  float *values;
  int w, h;
  assert_int_equal(sl_preprocess_apply(&p, &image, &values, &w, &h, NULL, NULL), SL_ERROR_ARGUMENT);
  p.do_resize = false;
  assert_int_equal(sl_preprocess_apply(&p, &none, &values, &w, &h, NULL, NULL), SL_ERROR_ARGUMENT);
  p.do_normalize = true;
  assert_int_equal(sl_preprocess_apply(&p, &image, &values, &w, &h, NULL, NULL), SL_ERROR_ARGUMENT);
  p.do_normalize = false;
  p.do_center_crop = true;
  assert_int_equal(sl_preprocess_apply(&p, &image, &values, &w, &h, NULL, NULL), SL_ERROR_ARGUMENT);
  assert_null(values);
  sl_rgb_dispose(&image);
  /* 22 million px wide once resized: only the visible part may be made. */
  sl_rgb wide = make_rgb(65535, 1);
  p = (sl_preprocess){.do_resize = true,
                      .do_center_crop = true,
                      .shortest_edge_px = 336,
                      .crop_width_px = 336,
                      .crop_height_px = 336,
                      .filter = SL_FILTER_BICUBIC};
  assert_ok(sl_preprocess_apply(&p, &wide, &values, &w, &h, NULL, NULL));
  assert_true(w == 336 && h == 336);
  assert_true(values[168] == wide.data[32767 * 3]); /* the middle of the crop shows the middle of the picture */
  free(values);
  p.do_center_crop = false;
  assert_int_equal(sl_preprocess_apply(&p, &wide, &values, &w, &h, NULL, NULL), SL_ERROR_UNSUPPORTED);
  sl_rgb_dispose(&wide);
}

/* ---- every allocation failing once ---- */

static sl_status preprocess_one(const void *unused) {
  (void)unused;
  sl_rgb image = {7, 31, (uint8_t[7 * 31 * 3]){0}}, seen;
  sl_preprocess p;
  float *values = NULL;
  int w, h;
  SL_TRY(sl_preprocess_read(&p, folder));
  sl_status status = sl_preprocess_apply(&p, &image, &values, &w, &h, &seen, NULL);
  if (status != SL_OK) assert_null(values);
  free(values);
  sl_rgb_dispose(&seen);
  return status;
}

static void test_memory(void **state) {
  (void)state;
  write_file("preprocessor_config.json", "{\"size\": 20, \"crop_size\": 33, \"do_pad\": true}");
  sweep(preprocess_one, NULL, 10);
  clear_settings();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_golden_preprocess),
      cmocka_unit_test(test_settings_errors),
      cmocka_unit_test(test_settings_sources),
      cmocka_unit_test(test_pixel_map),
      cmocka_unit_test(test_apply_arguments),
      cmocka_unit_test(test_memory),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
