/* Reads image processor settings of a model folder: which file holds them, the keys that all classes share
 * (transformers' image_processing_utils.py), and what config.json adds. Classes and their own keys are in
 * preprocess_class.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/text.h"
#include "input/preprocess_internal.h"

#define MAX_CONFIG_BYTES ((size_t)16 << 20)

/* A file of the folder; *root stays NULL when there is none. *path is new, also on failure after it was made. */
static sl_status load_optional(json_t **root, char **path, const char *dir, const char *file) {
  *root = NULL;
  *path = NULL;
  SL_TRY(sl_path_join(path, dir, file));
  if (access(*path, F_OK) != 0) return SL_OK;
  SL_TRY(sl_json_load(root, *path, MAX_CONFIG_BYTES));
  if (!json_is_object(*root)) SL_FAIL(SL_ERROR_FORMAT, "%s: expected an object", *path);
  return SL_OK;
}

sl_status sl_settings_count(const sl_settings *from, const char *path, int max, int *out) {
  int64_t value = *out;
  SL_TRY(sl_json_get_int(from->root, path, 1, max, &value, from->name));
  *out = (int)value;
  return SL_OK;
}

sl_status sl_settings_px(const sl_settings *from, const char *path, int *out) {
  return sl_settings_count(from, path, SL_MAX_SIDE_PX, out);
}

static const char *kind_of(const json_t *value) {
  static const char *const kinds[] = {"an object", "an array", "a string", "an integer",
                                      "a real",    "true",     "false",    "null"};
  return kinds[json_typeof(value)];
}

bool sl_settings_has(json_t *root, const char *key) {
  json_t *value = sl_json_at(root, key);
  return value != NULL && !json_is_null(value);
}

/* Two whole numbers of px. */
static sl_status read_pair(const sl_settings *from, const char *key, const json_t *pair, const char *order, int *first,
                           int *second) {
  if (json_array_size(pair) != 2 || !json_is_integer(json_array_get(pair, 0)) ||
      !json_is_integer(json_array_get(pair, 1)))
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected %s in whole pixels, found %s", from->name, key, order,
            json_is_array(pair) ? "another array" : kind_of(pair));
  int *sides[2] = {first, second};
  for (size_t i = 0; i < 2; i++) {
    json_int_t value = json_integer_value(json_array_get(pair, i));
    if (value < 1 || value > SL_MAX_SIDE_PX)
      SL_FAIL(SL_ERROR_FORMAT, "%s: %s[%zu]: expected 1 to %d px, found %lld", from->name, key, i, SL_MAX_SIDE_PX,
              (long long)value);
    *sides[i] = (int)value;
  }
  return SL_OK;
}

sl_status sl_settings_size(const sl_settings *from, const char *key, bool to_square, int *edge, int *width_px,
                           int *height_px) {
  if (!sl_settings_has(from->root, key)) return SL_OK;
  json_t *size = sl_json_at(from->root, key);
  if (edge != NULL) *edge = 0;
  if (json_is_integer(size)) {
    int value = 0;
    SL_TRY(sl_settings_px(from, key, &value));
    if (edge != NULL && !to_square)
      *edge = value;
    else
      *width_px = *height_px = value;
    return SL_OK;
  }
  if (json_is_array(size)) return read_pair(from, key, size, "[height, width]", height_px, width_px);
  if (!json_is_object(size))
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected a number, an array or an object, found %s", from->name, key,
            kind_of(size));
  char path[64];
  static const char *const others[] = {"longest_edge", "max_height", "max_width"};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    if (sl_settings_has(size, others[i]))
      SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: %s.%s: expected \"shortest_edge\" or \"height\" and \"width\" alone",
              from->name, key, others[i]);
  if (edge != NULL && sl_settings_has(size, "shortest_edge")) {
    snprintf(path, sizeof path, "%s.shortest_edge", key);
    return sl_settings_px(from, path, edge);
  }
  if (!sl_settings_has(size, "height") || !sl_settings_has(size, "width"))
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected %s\"height\" and \"width\"", from->name, key,
            edge != NULL ? "\"shortest_edge\" or " : "");
  snprintf(path, sizeof path, "%s.height", key);
  SL_TRY(sl_settings_px(from, path, height_px));
  snprintf(path, sizeof path, "%s.width", key);
  return sl_settings_px(from, path, width_px);
}

sl_status sl_settings_pinpoints(sl_preprocess *out, const sl_settings *from, bool is_width_first) {
  static const char key[] = "image_grid_pinpoints";
  if (!sl_settings_has(from->root, key)) return SL_OK;
  const json_t *points = sl_json_at(from->root, key);
  if (!json_is_array(points))
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected an array of sizes, found %s", from->name, key, kind_of(points));
  const size_t n = json_array_size(points);
  if (n < 1 || n > SL_MAX_PINPOINT)
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected 1 to %d sizes, found %zu", from->name, key, SL_MAX_PINPOINT, n);
  memset(out->pinpoints, 0, sizeof out->pinpoints);
  for (size_t i = 0; i < n; i++) {
    int *height_px = &out->pinpoints[i][0], *width_px = &out->pinpoints[i][1];
    char path[64];
    snprintf(path, sizeof path, "%s[%zu]", key, i);
    if (is_width_first)
      SL_TRY(read_pair(from, path, json_array_get(points, i), "[width, height]", width_px, height_px));
    else
      SL_TRY(read_pair(from, path, json_array_get(points, i), "[height, width]", height_px, width_px));
  }
  out->n_pinpoint = (int)n;
  return SL_OK;
}

sl_status sl_settings_tile(sl_preprocess *out, const char *name) {
  const int edge = out->shortest_edge_px, width = edge > 0 ? edge : out->resize_width_px;
  const int height = edge > 0 ? edge : out->resize_height_px;
  if (width != height)
    SL_FAIL(SL_ERROR_UNSUPPORTED,
            "%s: size: expected a square, as pictures are cut into tiles, found height %d, width %d", name, height,
            width);
  if (out->do_center_crop && (out->crop_width_px != width || out->crop_height_px != width))
    SL_FAIL(SL_ERROR_UNSUPPORTED,
            "%s: crop_size: expected size's %d px, as pictures are cut into such tiles, found height %d, width %d",
            name, width, out->crop_height_px, out->crop_width_px);
  out->tile_px = width;
  return sl_tiling_check(out, name);
}

/* image_mean, image_std: three numbers, or one for all channels. */
static sl_status read_channels(const sl_settings *from, const char *key, double out[3]) {
  if (!sl_settings_has(from->root, key)) return SL_OK;
  json_t *value = sl_json_at(from->root, key);
  const bool is_list = json_is_array(value);
  if (is_list && json_array_size(value) != 3)
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected 3 numbers, found %zu", from->name, key, json_array_size(value));
  for (size_t c = 0; c < 3; c++) {
    const json_t *item = is_list ? json_array_get(value, c) : value;
    if (!json_is_number(item))
      SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected numbers, found %s", from->name, key, kind_of(item));
    out[c] = json_number_value(item);
    if (!isfinite((float)out[c]))
      SL_FAIL(SL_ERROR_FORMAT, "%s: %s[%zu]: expected a number that fits float32, found %g", from->name, key, c,
              out[c]);
  }
  return SL_OK;
}

static sl_status read_filter(const sl_settings *from, sl_filter *out) {
  static const struct {
    int code;
    sl_filter filter;
  } codes[] = {{0, SL_FILTER_NEAREST}, {1, SL_FILTER_LANCZOS}, {2, SL_FILTER_BILINEAR}, {3, SL_FILTER_BICUBIC}};
  int64_t code = -1;
  SL_TRY(sl_json_get_int(from->root, "resample", INT64_MIN, INT64_MAX, &code, from->name));
  if (!sl_settings_has(from->root, "resample")) return SL_OK;
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
    if (codes[i].code == code) {
      *out = codes[i].filter;
      return SL_OK;
    }
  SL_FAIL(SL_ERROR_UNSUPPORTED,
          "%s: resample: expected 0 (nearest), 1 (lanczos), 2 (bilinear) or 3 (bicubic), found %lld", from->name,
          (long long)code);
}

sl_status sl_settings_read(sl_preprocess *out, const sl_settings *from) {
  const sl_processor_class *class;
  SL_TRY(sl_processor_class_find(&class, from));
  *out = *class->defaults;
  SL_TRY(sl_json_get_bool(from->root, "do_resize", &out->do_resize, from->name));
  SL_TRY(sl_json_get_bool(from->root, "do_center_crop", &out->do_center_crop, from->name));
  SL_TRY(sl_json_get_bool(from->root, "do_rescale", &out->do_rescale, from->name));
  SL_TRY(sl_json_get_bool(from->root, "do_normalize", &out->do_normalize, from->name));
  bool do_pad = false, to_square = out->shortest_edge_px == 0;
  SL_TRY(sl_json_get_bool(from->root, "do_pad", &do_pad, from->name));
  SL_TRY(sl_json_get_bool(from->root, "default_to_square", &to_square, from->name));
  out->pad_to_square = do_pad && class->pads_to_square;
  if (do_pad && !class->pads_to_square && sl_settings_has(from->root, "pad_size"))
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: pad_size: %s's padding after the crop is not done", from->name, class->name);
  if (!class->own_size)
    SL_TRY(sl_settings_size(from, "size", to_square, &out->shortest_edge_px, &out->resize_width_px,
                            &out->resize_height_px));
  SL_TRY(sl_settings_size(from, "crop_size", true, NULL, &out->crop_width_px, &out->crop_height_px));
  if (out->do_center_crop && out->crop_width_px == 0)
    SL_FAIL(SL_ERROR_FORMAT,
            "%s: crop_size: expected a size, as do_center_crop is true and %s has none of its own, found none",
            from->name, class->name);
  SL_TRY(read_filter(from, &out->filter));
  SL_TRY(sl_json_get_real(from->root, "rescale_factor", &out->rescale_factor, from->name));
  if (!isfinite(out->rescale_factor) || out->rescale_factor == 0.0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: rescale_factor: expected a non-zero number, found %g", from->name,
            out->rescale_factor);
  SL_TRY(read_channels(from, "image_mean", out->mean));
  SL_TRY(read_channels(from, "image_std", out->std));
  for (int c = 0; c < 3; c++)
    if ((float)out->std[c] == 0.0f)
      SL_FAIL(SL_ERROR_FORMAT, "%s: image_std[%d]: expected non-zero, found %g", from->name, c, out->std[c]);
  if (class->read != NULL) SL_TRY(class->read(out, from));
  return sl_tiling_check(out, from->name);
}

/* No processor file: the CLIP processor at the tower's size. */
static sl_status use_tower_size(sl_preprocess *out, const sl_settings *config, const char *dir) {
  int side = 224; /* CLIPVisionConfig's own default */
  if (config->root == NULL || !sl_settings_has(config->root, "vision_config"))
    SL_FAIL(
        SL_ERROR_FILE,
        "%s: expected preprocessor_config.json, processor_config.json with \"image_processor\", or config.json with "
        "vision_config.image_size, found none",
        dir);
  SL_TRY(sl_settings_px(config, "vision_config.image_size", &side));
  *out = sl_preprocess_crop(side, SL_NORM_CLIP);
  return SL_OK;
}

static sl_status set_pad_colour(sl_preprocess *out, const char *name) {
  for (int c = 0; c < 3 && out->pad_to_square; c++) {
    double value = out->mean[c] * 255;
    if (!(value > -1 && value < 256))
      SL_FAIL(SL_ERROR_FORMAT, "%s: image_mean[%d]: expected 0 to 1 where pictures are padded with it, found %g", name,
              c, out->mean[c]);
    out->pad_rgb[c] = (uint8_t)(int)value;
  }
  return SL_OK;
}

/* The processor cuts tiles by its own list, the model puts their tokens together by config.json's. */
static sl_status compare_pinpoints(const sl_preprocess *processor, const sl_settings *config) {
  sl_preprocess model = *processor;
  SL_TRY(sl_settings_pinpoints(&model, config, false));
  if (model.n_pinpoint == processor->n_pinpoint &&
      memcmp(model.pinpoints, processor->pinpoints, (size_t)model.n_pinpoint * sizeof *model.pinpoints) == 0)
    return SL_OK;
  SL_FAIL(SL_ERROR_FORMAT, "%s: image_grid_pinpoints: expected those of the image processor, found others",
          config->name);
}

sl_status sl_preprocess_add_config(sl_preprocess *preprocess, json_t *json, const char *name) {
  const sl_settings config = {json, name};
  const char *ratio = NULL;
  SL_TRY(sl_json_get_string(json, "image_aspect_ratio", &ratio, name));
  sl_preprocess result = *preprocess;
  if (result.tiling == SL_TILING_ANYRES) return compare_pinpoints(&result, &config);
  if (ratio == NULL) return SL_OK;
  if (strcmp(ratio, "pad") == 0) {
    result.pad_to_square = true;
    SL_TRY(set_pad_colour(&result, name));
  } else if (strcmp(ratio, "anyres") == 0) {
    result.tiling = SL_TILING_ANYRES;
    SL_TRY(sl_settings_pinpoints(&result, &config, true));
    SL_TRY(sl_settings_tile(&result, name));
  } else if (strncmp(ratio, "anyres", 6) == 0) {
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: image_aspect_ratio: expected \"anyres\", \"pad\" or \"square\", found \"%s\"",
            name, ratio);
  }
  *preprocess = result;
  return SL_OK;
}

sl_status sl_preprocess_read(sl_preprocess *out, const char *model_dir) {
  json_t *config = NULL, *processor = NULL, *legacy = NULL;
  char *config_path = NULL, *processor_path = NULL, *legacy_path = NULL;
  sl_preprocess result = {0};
  sl_status status = load_optional(&config, &config_path, model_dir, "config.json");
  if (status == SL_OK) status = load_optional(&processor, &processor_path, model_dir, "processor_config.json");
  if (status == SL_OK) status = load_optional(&legacy, &legacy_path, model_dir, "preprocessor_config.json");
  if (status != SL_OK) goto out;
  json_t *nested = processor != NULL ? sl_json_at(processor, "image_processor") : NULL;
  const sl_settings from_config = {config, config_path};
  if (nested != NULL && json_is_object(nested))
    status = sl_settings_read(&result, &(sl_settings){nested, processor_path});
  else if (legacy != NULL)
    status = sl_settings_read(&result, &(sl_settings){legacy, legacy_path});
  else
    status = use_tower_size(&result, &from_config, model_dir);
  if (status == SL_OK) status = set_pad_colour(&result, model_dir);
  if (status == SL_OK && config != NULL) status = sl_preprocess_add_config(&result, config, config_path);
  if (status == SL_OK) *out = result;
out:
  json_decref(config);
  json_decref(processor);
  json_decref(legacy);
  free(config_path);
  free(processor_path);
  free(legacy_path);
  return status;
}
