/* Settings of image processors: defaults of classes, the original LLaVA's layout, those of models without a file, and
 * settings that make no sense. */
#include "processor_folder.h"

static void test_class_defaults(void **state) {
  (void)state;
  sl_preprocess p;
  read_text(&p, "{\"image_processor_type\": \"BlipImageProcessor\", \"size\": 30}"); /* here a number is a square */
  assert_true(p.tiling == SL_TILING_NONE && p.shortest_edge_px == 0 && p.resize_width_px == 30 && !p.do_center_crop);
  assert_true(p.filter == SL_FILTER_BICUBIC && p.mean[0] == 0.48145466);
  read_text(&p, "{\"image_processor_type\": \"BlipImageProcessor\"}");
  assert_true(p.resize_width_px == 384 && p.resize_height_px == 384);
  read_text(&p, "{\"image_processor_type\": \"Gemma3ImageProcessor\", \"do_pan_and_scan\": null}");
  assert_true(p.filter == SL_FILTER_BILINEAR && p.resize_width_px == 224 && p.mean[1] == 0.5 && p.std[1] == 0.5);
  read_text(&p, "{\"image_processor_type\": \"GotOcr2ImageProcessor\", \"max_patches\": 1}");
  assert_true(p.tiling == SL_TILING_NONE && p.resize_width_px == 384);
  read_text(&p, "{\"image_processor_type\": \"GotOcr2ImageProcessorPil\"}");
  assert_true(p.tiling == SL_TILING_INTERN && p.tile_px == 384 && p.min_tiles == 1 && p.max_tiles == 12 && p.thumbnail);
  read_text(&p, "{\"image_processor_type\": \"Idefics3ImageProcessor\"}");
  assert_true(p.filter == SL_FILTER_LANCZOS && p.longest_edge_px == 1456 && p.tile_px == 364 && p.split);
  /* Nested in processor_config.json, as transformers 5 writes it. */
  write_file("processor_config.json",
             "{\"image_processor\": {\"image_processor_type\": \"LlavaNextImageProcessor\", \"size\": "
             "{\"shortest_edge\": 28}, \"crop_size\": {\"height\": 28, \"width\": 28}, "
             "\"image_grid_pinpoints\": [[28, 56], [56, 28]]}}");
  assert_ok(sl_preprocess_read(&p, folder));
  assert_true(p.tiling == SL_TILING_ANYRES && p.tile_px == 28 && p.n_pinpoint == 2 && p.pinpoints[0][1] == 56);
  /* The model's own list must be the processor's. */
  write_file("config.json", "{\"image_grid_pinpoints\": [[28, 56], [56, 28]]}");
  assert_ok(sl_preprocess_read(&p, folder));
  write_file("config.json", "{\"image_grid_pinpoints\": [[56, 28], [28, 56]]}");
  assert_int_equal(sl_preprocess_read(&p, folder), SL_ERROR_FORMAT);
  assert_message("config.json: image_grid_pinpoints");
  clear_folder();
}

/* The layout of the original LLaVA code: sizes are [width, height] in config.json, the processor is the tower's. */
static void test_original_layout(void **state) {
  (void)state;
  sl_preprocess p;
  sl_views views;
  write_file("preprocessor_config.json",
             "{\"image_processor_type\": \"CLIPImageProcessor\", \"size\": 28, \"crop_size\": 28}");
  write_file("config.json", "{\"image_aspect_ratio\": \"anyres\", \"image_grid_pinpoints\": [[28, 56], [84, 28]]}");
  assert_ok(sl_preprocess_read(&p, folder));
  assert_true(p.tiling == SL_TILING_ANYRES && p.tile_px == 28 && p.n_pinpoint == 2);
  assert_true(p.pinpoints[0][0] == 56 && p.pinpoints[0][1] == 28 && p.pinpoints[1][0] == 28 && p.pinpoints[1][1] == 84);
  plan(&views, &p, 300, 100);
  assert_true(views.tile_rows == 1 && views.tile_cols == 3 && views.n_view == 4);
  sl_views_dispose(&views);
  write_file("config.json", "{\"image_aspect_ratio\": \"anyres\"}");
  assert_int_equal(sl_preprocess_read(&p, folder), SL_ERROR_FORMAT);
  assert_message("config.json: image_grid_pinpoints: expected 1 to 64 sizes, found 0");
  clear_folder();
}

static void test_builtin(void **state) {
  (void)state;
  sl_preprocess p = sl_preprocess_squash(448, SL_NORM_CLIP), folder_p;
  read_text(&folder_p, "{\"image_processor_type\": \"BlipImageProcessor\", \"size\": 448}");
  assert_memory_equal(&p, &folder_p, sizeof p);
  p = sl_preprocess_crop(224, SL_NORM_CLIP);
  read_text(&folder_p, "{\"image_processor_type\": \"CLIPImageProcessor\"}");
  assert_memory_equal(&p, &folder_p, sizeof p);
  p = sl_preprocess_squash(224, SL_NORM_IMAGENET);
  assert_true(p.mean[0] == 0.485 && p.mean[2] == 0.406 && p.std[0] == 0.229 && p.std[2] == 0.225);
  /* InternVL's remote code. Class defaults: nothing dynamic, 6 tiles at most. */
  p = read_dynamic("{\"vision_config\": {\"image_size\": 336}}");
  assert_true(p.tiling == SL_TILING_NONE && p.resize_width_px == 336 && p.resize_height_px == 336 && !p.pad_to_square);
  p = read_dynamic(
      "{\"vision_config\": {\"image_size\": 336}, \"force_image_size\": 448, "
      "\"pad2square\": true}");
  assert_true(p.resize_width_px == 448 && p.pad_to_square && p.pad_rgb[0] == 123 && p.pad_rgb[2] == 103);
  p = read_dynamic("{\"vision_config\": {}, \"dynamic_image_size\": true, \"pad2square\": true}");
  assert_true(p.tiling == SL_TILING_INTERN && p.tile_px == 224 && p.max_tiles == 6 && !p.thumbnail);
  assert_false(p.pad_to_square);
  json_t *config =
      json_pack("{s:b, s:i, s:i}", "dynamic_image_size", 1, "min_dynamic_patch", 5, "max_dynamic_patch", 4);
  sl_preprocess before = p;
  assert_int_equal(sl_preprocess_dynamic(&p, config, "some/config.json"), SL_ERROR_FORMAT);
  assert_message("some/config.json");
  assert_memory_equal(&p, &before, sizeof p);
  json_decref(config);
}

static void test_settings_errors(void **state) {
  (void)state;
#define NEXT "{\"image_processor_type\": \"LlavaNextImageProcessor\", \"size\": 28, \"crop_size\": 28, "
#define GOT "{\"image_processor_type\": \"GotOcr2ImageProcessor\", "
#define QWEN "{\"image_processor_type\": \"Qwen2VLImageProcessor\", "
#define IDEFICS "{\"image_processor_type\": \"Idefics3ImageProcessor\", "
  static const struct {
    const char *text, *part;
    sl_status status;
  } table[] = {
      {NEXT "\"image_grid_pinpoints\": []}", "image_grid_pinpoints: expected 1 to 64 sizes, found 0", SL_ERROR_FORMAT},
      {NEXT "\"image_grid_pinpoints\": \"(1x1),...,(6x6)\"}", "found a string", SL_ERROR_FORMAT},
      {NEXT "\"image_grid_pinpoints\": [28, 56]}", "pinpoints[0]: expected [height, width]", SL_ERROR_FORMAT},
      {NEXT "\"image_grid_pinpoints\": [[28, 56], [28]]}", "image_grid_pinpoints[1]", SL_ERROR_FORMAT},
      {NEXT "\"image_grid_pinpoints\": [[28, 0]]}", "image_grid_pinpoints[0][1]", SL_ERROR_FORMAT},
      {NEXT "\"image_grid_pinpoints\": [[28, 20000]]}", "found 20000", SL_ERROR_FORMAT},
      {NEXT "\"image_grid_pinpoints\": [[28, 57]]}", "28 x 28 px, found height 28, width 57", SL_ERROR_FORMAT},
      {NEXT "\"image_grid_pinpoints\": [[14, 56]]}", "found height 14", SL_ERROR_FORMAT},
      {NEXT "\"image_grid_pinpoints\": [[2800, 2800]]}", "at most 1024 tiles", SL_ERROR_FORMAT},
      {"{\"image_processor_type\": \"LlavaNextImageProcessor\"}", "image_grid_pinpoints[0]", SL_ERROR_FORMAT},
      {"{\"image_grid_pinpoints\": [[28, 56]], \"size\": 28, \"crop_size\": 27}", "crop_size: expected size's 28 px",
       SL_ERROR_UNSUPPORTED},
      {"{\"image_grid_pinpoints\": [[28, 56]], \"size\": [28, 27], \"crop_size\": 28}", "size: expected a square",
       SL_ERROR_UNSUPPORTED},
      {GOT "\"size\": [448, 224]}", "size: expected a square", SL_ERROR_UNSUPPORTED},
      {GOT "\"max_patches\": 0}", "max_patches", SL_ERROR_FORMAT},
      {GOT "\"max_patches\": 5000}", "max_patches", SL_ERROR_FORMAT},
      {GOT "\"min_patches\": 7, \"max_patches\": 6}", "found 7 and 6", SL_ERROR_FORMAT},
      {QWEN "\"patch_size\": 0}", "patch_size", SL_ERROR_FORMAT},
      {QWEN "\"merge_size\": 16384}", "merge_size", SL_ERROR_FORMAT},
      {QWEN "\"min_pixels\": 4000000}", "found 4000000 and 1003520", SL_ERROR_FORMAT},
      {QWEN "\"max_pixels\": 9000000000}", "max_pixels", SL_ERROR_FORMAT},
      {QWEN "\"do_resize\": false}", "do_resize", SL_ERROR_UNSUPPORTED},
      {IDEFICS "\"max_image_size\": {\"longest_edge\": 0}}", "max_image_size.longest_edge", SL_ERROR_FORMAT},
      {IDEFICS "\"size\": {\"longest_edge\": -5}}", "size.longest_edge", SL_ERROR_FORMAT},
      {IDEFICS "\"size\": {\"shortest_edge\": 5}}", "size", SL_ERROR_FORMAT},
      {"{\"image_processor_type\": \"Gemma3ImageProcessor\", \"do_pan_and_scan\": true}", "do_pan_and_scan",
       SL_ERROR_UNSUPPORTED},
      {"{\"image_processor_type\": \"ViTImageProcessor\"}", "LlavaNextImageProcessor, CLIP", SL_ERROR_UNSUPPORTED},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    sl_preprocess out, untouched;
    memset(&out, 7, sizeof out);
    memset(&untouched, 7, sizeof untouched);
    write_file("preprocessor_config.json", table[i].text);
    if (sl_preprocess_read(&out, folder) != table[i].status) fail_msg("%s: %s", table[i].text, sl_error_message());
    assert_message(folder);
    assert_message(table[i].part);
    assert_memory_equal(&out, &untouched, sizeof out);
  }
  clear_folder();
}

static int set_up(void **state) {
  (void)state;
  return processor_folder_make();
}

static int tear_down(void **state) {
  (void)state;
  return processor_folder_remove();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_class_defaults),
      cmocka_unit_test(test_original_layout),
      cmocka_unit_test(test_builtin),
      cmocka_unit_test(test_settings_errors),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
