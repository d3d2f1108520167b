/* The image processor classes of transformers that are understood: their defaults, which are part of the file format,
 * and the keys that only one of them has (models/<name>/image_processing_pil_<name>.py). Also the settings of models
 * whose own code reads no such file. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "input/preprocess_internal.h"

#define CLIP_MEAN {0.48145466, 0.4578275, 0.40821073}
#define CLIP_STD {0.26862954, 0.26130258, 0.27577711}
#define IMAGENET_MEAN {0.485, 0.456, 0.406}
#define IMAGENET_STD {0.229, 0.224, 0.225}
#define HALF {0.5, 0.5, 0.5}

/* Shortest edge to `side`, then the centre. */
#define CROP_TO(side, ...)                                                                                         \
  {                                                                                                                \
    .do_resize = true, .do_center_crop = true, .do_rescale = true, .do_normalize = true, .shortest_edge_px = side, \
    .crop_width_px = side, .crop_height_px = side, .filter = SL_FILTER_BICUBIC, .rescale_factor = 1.0 / 255.0,     \
    __VA_ARGS__                                                                                                    \
  }

/* To a square of `side`, whatever the aspect ratio: no crop, and no size for one. */
#define SQUASH_TO(side, how, ...)                                                                                   \
  {                                                                                                                 \
    .do_resize = true, .do_rescale = true, .do_normalize = true, .resize_width_px = side, .resize_height_px = side, \
    .filter = how, .rescale_factor = 1.0 / 255.0, __VA_ARGS__                                                       \
  }

static const sl_preprocess clip_defaults = CROP_TO(224, .mean = CLIP_MEAN, .std = CLIP_STD);
static const sl_preprocess siglip_defaults = SQUASH_TO(224, SL_FILTER_BICUBIC, .mean = HALF, .std = HALF);
static const sl_preprocess blip_defaults = SQUASH_TO(384, SL_FILTER_BICUBIC, .mean = CLIP_MEAN, .std = CLIP_STD);
static const sl_preprocess gemma_defaults = SQUASH_TO(224, SL_FILTER_BILINEAR, .mean = HALF, .std = HALF);

static const sl_preprocess next_defaults =
    CROP_TO(224, .mean = CLIP_MEAN, .std = CLIP_STD, .tiling = SL_TILING_ANYRES, .n_pinpoint = 5,
            .pinpoints = {{336, 672}, {672, 336}, {672, 672}, {1008, 336}, {336, 1008}});

static const sl_preprocess got_defaults =
    SQUASH_TO(384, SL_FILTER_BICUBIC, .mean = CLIP_MEAN, .std = CLIP_STD, .tiling = SL_TILING_INTERN, .min_tiles = 1,
              .max_tiles = 12, .thumbnail = true);

static const sl_preprocess qwen_defaults =
    SQUASH_TO(0, SL_FILTER_BICUBIC, .mean = CLIP_MEAN, .std = CLIP_STD, .tiling = SL_TILING_SMART, .patch_px = 14,
              .merge = 2, .min_px = 56 * 56, .max_px = 28 * 28 * 1280);

static const sl_preprocess idefics_defaults =
    SQUASH_TO(0, SL_FILTER_LANCZOS, .mean = HALF, .std = HALF, .tiling = SL_TILING_IDEFICS, .tile_px = 364,
              .longest_edge_px = 4 * 364, .split = true);

/* ---- keys of one class ---- */

static sl_status read_anyres(sl_preprocess *out, const sl_settings *from) {
  SL_TRY(sl_settings_pinpoints(out, from, false));
  return sl_settings_tile(out, from->name);
}

/* InternVL's processor turns crop_to_patches on whatever the file says, and always adds the thumbnail. */
static sl_status read_got(sl_preprocess *out, const sl_settings *from) {
  SL_TRY(sl_settings_count(from, "min_patches", SL_MAX_TILE, &out->min_tiles));
  SL_TRY(sl_settings_count(from, "max_patches", SL_MAX_TILE, &out->max_tiles));
  if (out->max_tiles == 1) out->tiling = SL_TILING_NONE;
  return out->tiling == SL_TILING_NONE ? SL_OK : sl_settings_tile(out, from->name);
}

/* Areas in px: size.shortest_edge and size.longest_edge since transformers 5 (they are no edges), min_pixels and
 * max_pixels before. */
static sl_status read_qwen(sl_preprocess *out, const sl_settings *from) {
  SL_TRY(sl_settings_px(from, "patch_size", &out->patch_px));
  SL_TRY(sl_settings_px(from, "merge_size", &out->merge));
  const char *const least[] = {"size.min_pixels", "size.shortest_edge", "min_pixels"};
  const char *const most[] = {"size.max_pixels", "size.longest_edge", "max_pixels"};
  for (size_t i = 0; i < sizeof least / sizeof *least; i++) {
    SL_TRY(sl_settings_count(from, least[i], SL_IMAGE_MAX_PX, &out->min_px));
    SL_TRY(sl_settings_count(from, most[i], INT32_MAX, &out->max_px));
  }
  if (out->max_px > SL_IMAGE_MAX_PX) out->max_px = SL_IMAGE_MAX_PX; /* no picture has more */
  if (!out->do_resize)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: do_resize: expected true, as sides must be multiples of patches, found false",
            from->name);
  return SL_OK;
}

static sl_status read_gemma(sl_preprocess *out, const sl_settings *from) {
  (void)out;
  bool scans = false;
  SL_TRY(sl_json_get_bool(from->root, "do_pan_and_scan", &scans, from->name));
  if (scans)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: do_pan_and_scan: expected false, as a picture has one view here, found true",
            from->name);
  return SL_OK;
}

static sl_status read_idefics(sl_preprocess *out, const sl_settings *from) {
  SL_TRY(sl_json_get_bool(from->root, "do_image_splitting", &out->split, from->name));
  SL_TRY(sl_settings_px(from, "max_image_size.longest_edge", &out->tile_px));
  if (sl_settings_has(from->root, "size.longest_edge"))
    return sl_settings_px(from, "size.longest_edge", &out->longest_edge_px);
  if (!sl_settings_has(from->root, "size")) return SL_OK;
  out->longest_edge_px = 0;
  return sl_settings_size(from, "size", true, NULL, &out->resize_width_px, &out->resize_height_px);
}

static const sl_processor_class classes[] = {
    {"LlavaImageProcessor", &clip_defaults, true, false, NULL}, /* the first is taken when a file names none */
    {"LlavaNextImageProcessor", &next_defaults, false, false, read_anyres}, /* the second if it has pinpoints */
    {"CLIPImageProcessor", &clip_defaults, false, false, NULL},
    {"SiglipImageProcessor", &siglip_defaults, false, false, NULL},
    {"BlipImageProcessor", &blip_defaults, false, false, NULL},
    {"GotOcr2ImageProcessor", &got_defaults, false, false, read_got},
    {"Qwen2VLImageProcessor", &qwen_defaults, false, true, read_qwen},
    {"Gemma3ImageProcessor", &gemma_defaults, false, false, read_gemma},
    {"Idefics3ImageProcessor", &idefics_defaults, false, true, read_idefics},
    {"SmolVLMImageProcessor", &idefics_defaults, false, true, read_idefics},
};
enum { N_CLASS = sizeof classes / sizeof *classes };

/* "CLIPImageProcessor" with an optional ending; "CLIPFeatureExtractor" in old files. */
static bool is_named(const sl_processor_class *class, const char *type) {
  const size_t n_model = strlen(class->name) - strlen("ImageProcessor");
  static const char *const endings[] = {"ImageProcessor", "ImageProcessorFast", "ImageProcessorPil",
                                        "FeatureExtractor"};
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
    if (strncmp(type, class->name, n_model) == 0 && strcmp(type + n_model, endings[i]) == 0) return true;
  return false;
}

sl_status sl_processor_class_find(const sl_processor_class **out, const sl_settings *from) {
  const char *type = NULL, *key = "image_processor_type";
  SL_TRY(sl_json_get_string(from->root, key, &type, from->name));
  if (type == NULL) SL_TRY(sl_json_get_string(from->root, key = "feature_extractor_type", &type, from->name));
  *out = &classes[sl_settings_has(from->root, "image_grid_pinpoints") ? 1 : 0];
  if (type == NULL) return SL_OK;
  char known[512] = "";
  for (int i = 0; i < N_CLASS; i++) {
    *out = &classes[i];
    if (is_named(*out, type)) return SL_OK;
    const size_t n = strlen(known);
    snprintf(known + n, sizeof known - n, "%s%s", i == 0 ? "" : i + 1 < N_CLASS ? ", " : " or ", classes[i].name);
  }
  SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: %s: expected %s, found \"%s\"", from->name, key, known, type);
}

/* ---- without a file ---- */

static const struct {
  double mean[3], std[3];
} norms[] = {[SL_NORM_CLIP] = {CLIP_MEAN, CLIP_STD},
             [SL_NORM_IMAGENET] = {IMAGENET_MEAN, IMAGENET_STD},
             [SL_NORM_HALF] = {HALF, HALF}};

static void set_norm(sl_preprocess *out, sl_pixel_norm norm) {
  memcpy(out->mean, norms[norm].mean, sizeof out->mean);
  memcpy(out->std, norms[norm].std, sizeof out->std);
}

sl_preprocess sl_preprocess_squash(int side_px, sl_pixel_norm norm) {
  sl_preprocess out = SQUASH_TO(side_px, SL_FILTER_BICUBIC, .mean = HALF, .std = HALF);
  set_norm(&out, norm);
  return out;
}

sl_preprocess sl_preprocess_crop(int side_px, sl_pixel_norm norm) {
  sl_preprocess out = CROP_TO(side_px, .mean = HALF, .std = HALF);
  set_norm(&out, norm);
  return out;
}

sl_status sl_preprocess_dynamic(sl_preprocess *out, json_t *config, const char *name) {
  const sl_settings from = {config, name};
  int side_px = 224; /* InternVisionConfig's */
  bool is_dynamic = false, pads = false, thumbnail = false;
  SL_TRY(sl_settings_px(&from, "vision_config.image_size", &side_px));
  SL_TRY(sl_settings_px(&from, "force_image_size", &side_px));
  SL_TRY(sl_json_get_bool(config, "dynamic_image_size", &is_dynamic, name));
  SL_TRY(sl_json_get_bool(config, "use_thumbnail", &thumbnail, name));
  SL_TRY(sl_json_get_bool(config, "pad2square", &pads, name));
  sl_preprocess result = sl_preprocess_squash(side_px, SL_NORM_IMAGENET);
  result.pad_to_square = pads && !is_dynamic; /* tiles are square already */
  for (int c = 0; c < 3; c++) result.pad_rgb[c] = (uint8_t)(int)(result.mean[c] * 255);
  if (is_dynamic) {
    result.tiling = SL_TILING_INTERN;
    result.tile_px = side_px;
    result.min_tiles = 1;
    result.max_tiles = 6; /* InternVLChatConfig's */
    result.thumbnail = thumbnail;
    SL_TRY(sl_settings_count(&from, "min_dynamic_patch", SL_MAX_TILE, &result.min_tiles));
    SL_TRY(sl_settings_count(&from, "max_dynamic_patch", SL_MAX_TILE, &result.max_tiles));
    SL_TRY(sl_tiling_check(&result, name));
  }
  *out = result;
  return SL_OK;
}
