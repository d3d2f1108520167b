/* Reads image processor settings of a model folder. The files hold only what differs from, or was saved with, the
 * processor class, so the class's defaults are part of the format: one row of `classes` each (transformers'
 * models/<name>/image_processing_pil_<name>.py). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/text.h"
#include "input/image.h"

#define MAX_CONFIG_BYTES ((size_t)16 << 20)
#define MAX_SIDE_PX 16384

static const sl_preprocess clip_defaults = {
    .do_resize = true,
    .do_center_crop = true,
    .do_rescale = true,
    .do_normalize = true,
    .shortest_edge_px = 224,
    .crop_width_px = 224,
    .crop_height_px = 224,
    .filter = SL_FILTER_BICUBIC,
    .rescale_factor = 1.0 / 255.0,
    .mean = {0.48145466, 0.4578275, 0.40821073},
    .std = {0.26862954, 0.26130258, 0.27577711},
};

static const sl_preprocess siglip_defaults = {
    .do_resize = true, /* no centre crop, and no size for one */
    .do_rescale = true,
    .do_normalize = true,
    .resize_width_px = 224,
    .resize_height_px = 224,
    .filter = SL_FILTER_BICUBIC,
    .rescale_factor = 1.0 / 255.0,
    .mean = {0.5, 0.5, 0.5},
    .std = {0.5, 0.5, 0.5},
};

typedef struct processor_class {
  const char *name; /* without "Fast", "Pil" */
  const sl_preprocess *defaults;
  bool pads_to_square; /* what do_pad means; elsewhere it concerns batches of several pictures */
} processor_class;

static const processor_class classes[] = {
    {"LlavaImageProcessor", &clip_defaults, true}, /* the first is taken when a file names none */
    {"CLIPImageProcessor", &clip_defaults, false},
    {"SiglipImageProcessor", &siglip_defaults, false},
};

/* Settings being read: where they come from and the object that holds them. */
typedef struct settings {
  json_t *root;
  const char *name;
} settings;

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

static sl_status get_px(json_t *root, const char *path, int *out, const char *name) {
  int64_t value = *out;
  SL_TRY(sl_json_get_int(root, path, 1, MAX_SIDE_PX, &value, name));
  *out = (int)value;
  return SL_OK;
}

static const char *kind_of(const json_t *value) {
  static const char *const kinds[] = {"an object", "an array", "a string", "an integer",
                                      "a real",    "true",     "false",    "null"};
  return kinds[json_typeof(value)];
}

static bool is_set(json_t *root, const char *key) {
  json_t *value = sl_json_at(root, key);
  return value != NULL && !json_is_null(value);
}

/* [height, width] */
static sl_status read_size_array(const settings *from, const char *key, json_t *size, int *width_px, int *height_px) {
  if (json_array_size(size) != 2 || !json_is_integer(json_array_get(size, 0)) ||
      !json_is_integer(json_array_get(size, 1)))
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected [height, width] in whole pixels, found another array", from->name, key);
  int *sides[2] = {height_px, width_px};
  for (size_t i = 0; i < 2; i++) {
    json_int_t value = json_integer_value(json_array_get(size, i));
    if (value < 1 || value > MAX_SIDE_PX)
      SL_FAIL(SL_ERROR_FORMAT, "%s: %s[%zu]: expected 1 to %d px, found %lld", from->name, key, i, MAX_SIDE_PX,
              (long long)value);
    *sides[i] = (int)value;
  }
  return SL_OK;
}

/* `size` or `crop_size`: a number, [height, width], {"height", "width"} or, where `edge` is given, {"shortest_edge"}.
 * A number means the shortest edge where `edge` is given and the square is not asked for. */
static sl_status read_size(const settings *from, const char *key, bool to_square, int *edge, int *width_px,
                           int *height_px) {
  if (!is_set(from->root, key)) return SL_OK;
  json_t *size = sl_json_at(from->root, key);
  if (edge != NULL) *edge = 0;
  if (json_is_integer(size)) {
    int value = 0;
    SL_TRY(get_px(from->root, key, &value, from->name));
    if (edge != NULL && !to_square)
      *edge = value;
    else
      *width_px = *height_px = value;
    return SL_OK;
  }
  if (json_is_array(size)) return read_size_array(from, key, size, width_px, height_px);
  if (!json_is_object(size))
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected a number, an array or an object, found %s", from->name, key,
            kind_of(size));
  char path[64];
  static const char *const others[] = {"longest_edge", "max_height", "max_width"};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    if (is_set(size, others[i]))
      SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: %s.%s: expected \"shortest_edge\" or \"height\" and \"width\" alone",
              from->name, key, others[i]);
  if (edge != NULL && is_set(size, "shortest_edge")) {
    snprintf(path, sizeof path, "%s.shortest_edge", key);
    return get_px(from->root, path, edge, from->name);
  }
  if (!is_set(size, "height") || !is_set(size, "width"))
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected %s\"height\" and \"width\"", from->name, key,
            edge != NULL ? "\"shortest_edge\" or " : "");
  snprintf(path, sizeof path, "%s.height", key);
  SL_TRY(get_px(from->root, path, height_px, from->name));
  snprintf(path, sizeof path, "%s.width", key);
  return get_px(from->root, path, width_px, from->name);
}

/* image_mean, image_std: three numbers, or one for all channels. */
static sl_status read_channels(const settings *from, const char *key, double out[3]) {
  if (!is_set(from->root, key)) return SL_OK;
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

static sl_status read_filter(const settings *from, sl_filter *out) {
  static const struct {
    int code;
    sl_filter filter;
  } codes[] = {{0, SL_FILTER_NEAREST}, {1, SL_FILTER_LANCZOS}, {2, SL_FILTER_BILINEAR}, {3, SL_FILTER_BICUBIC}};
  int64_t code = -1;
  SL_TRY(sl_json_get_int(from->root, "resample", INT64_MIN, INT64_MAX, &code, from->name));
  if (!is_set(from->root, "resample")) return SL_OK;
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
    if (codes[i].code == code) {
      *out = codes[i].filter;
      return SL_OK;
    }
  SL_FAIL(SL_ERROR_UNSUPPORTED,
          "%s: resample: expected 0 (nearest), 1 (lanczos), 2 (bilinear) or 3 (bicubic), found %lld", from->name,
          (long long)code);
}

/* The row for the class named by `image_processor_type` (or the older feature_extractor_type); LLaVA's when none is
 * named, which is what transformers picks by the model type. */
static sl_status find_class(const settings *from, const processor_class **out) {
  const char *type = NULL, *key = "image_processor_type";
  SL_TRY(sl_json_get_string(from->root, key, &type, from->name));
  if (type == NULL) SL_TRY(sl_json_get_string(from->root, key = "feature_extractor_type", &type, from->name));
  *out = &classes[0];
  if (type == NULL) return SL_OK;
  for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
    /* "CLIPImageProcessor" with an optional ending; "CLIPFeatureExtractor" in old files. */
    size_t n_model = strlen(classes[i].name) - strlen("ImageProcessor");
    const char *rest = type + n_model;
    if (strncmp(type, classes[i].name, n_model) != 0) continue;
    if (strcmp(rest, "ImageProcessor") == 0 || strcmp(rest, "ImageProcessorFast") == 0 ||
        strcmp(rest, "ImageProcessorPil") == 0 || strcmp(rest, "FeatureExtractor") == 0) {
      *out = &classes[i];
      return SL_OK;
    }
  }
  SL_FAIL(SL_ERROR_UNSUPPORTED,
          "%s: %s: expected CLIPImageProcessor, LlavaImageProcessor or SiglipImageProcessor, found \"%s\"", from->name,
          key, type);
}

static sl_status read_settings(sl_preprocess *out, const settings *from) {
  const processor_class *class;
  SL_TRY(find_class(from, &class));
  *out = *class->defaults;
  SL_TRY(sl_json_get_bool(from->root, "do_resize", &out->do_resize, from->name));
  SL_TRY(sl_json_get_bool(from->root, "do_center_crop", &out->do_center_crop, from->name));
  SL_TRY(sl_json_get_bool(from->root, "do_rescale", &out->do_rescale, from->name));
  SL_TRY(sl_json_get_bool(from->root, "do_normalize", &out->do_normalize, from->name));
  bool do_pad = false, to_square = false;
  SL_TRY(sl_json_get_bool(from->root, "do_pad", &do_pad, from->name));
  SL_TRY(sl_json_get_bool(from->root, "default_to_square", &to_square, from->name));
  out->pad_to_square = do_pad && class->pads_to_square;
  if (do_pad && !class->pads_to_square && is_set(from->root, "pad_size"))
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: pad_size: %s's padding after the crop is not done", from->name, class->name);
  SL_TRY(read_size(from, "size", to_square, &out->shortest_edge_px, &out->resize_width_px, &out->resize_height_px));
  SL_TRY(read_size(from, "crop_size", true, NULL, &out->crop_width_px, &out->crop_height_px));
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
  return SL_OK;
}

/* No processor file: the CLIP processor at the tower's size. */
static sl_status use_tower_size(sl_preprocess *out, const settings *config, const char *dir) {
  int side = 224; /* CLIPVisionConfig's own default */
  if (config->root == NULL || !is_set(config->root, "vision_config"))
    SL_FAIL(
        SL_ERROR_FILE,
        "%s: expected preprocessor_config.json, processor_config.json with \"image_processor\", or config.json with "
        "vision_config.image_size, found none",
        dir);
  SL_TRY(get_px(config->root, "vision_config.image_size", &side, config->name));
  *out = clip_defaults;
  out->shortest_edge_px = out->crop_width_px = out->crop_height_px = side;
  return SL_OK;
}

/* config.json's image_aspect_ratio, written by the original LLaVA code. */
static sl_status read_aspect_ratio(sl_preprocess *out, const settings *config) {
  const char *ratio = NULL;
  if (config->root == NULL) return SL_OK;
  SL_TRY(sl_json_get_string(config->root, "image_aspect_ratio", &ratio, config->name));
  if (ratio == NULL) return SL_OK;
  if (strncmp(ratio, "anyres", 6) == 0)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: image_aspect_ratio: expected \"pad\" or \"square\", found \"%s\" (tiles)",
            config->name, ratio);
  if (strcmp(ratio, "pad") == 0) out->pad_to_square = true;
  return SL_OK;
}

static sl_status set_pad_colour(sl_preprocess *out, const char *dir) {
  for (int c = 0; c < 3 && out->pad_to_square; c++) {
    double value = out->mean[c] * 255;
    if (!(value > -1 && value < 256))
      SL_FAIL(SL_ERROR_FORMAT, "%s: image_mean[%d]: expected 0 to 1 where pictures are padded with it, found %g", dir,
              c, out->mean[c]);
    out->pad_rgb[c] = (uint8_t)(int)value;
  }
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
  const settings from_config = {config, config_path};
  if (nested != NULL && json_is_object(nested))
    status = read_settings(&result, &(settings){nested, processor_path});
  else if (legacy != NULL)
    status = read_settings(&result, &(settings){legacy, legacy_path});
  else
    status = use_tower_size(&result, &from_config, model_dir);
  if (status == SL_OK) status = read_aspect_ratio(&result, &from_config);
  if (status == SL_OK) status = set_pad_colour(&result, model_dir);
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
