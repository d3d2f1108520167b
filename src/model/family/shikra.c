/* Shikra (Chen et al. 2023): CLIP tower in a folder of its own, one Linear, LLaMA decoder whose numbers stand at
 * config.json's top. Released as a delta to LLaMA: `sightline convert` adds the two. Defaults are LlamaConfig's. */
#include <math.h>
#include <string.h>

#include "input/tokenizer.h"
#include "model/family.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))

static const char *const model_types[] = {"shikra", NULL};
static const sl_kind *const towers[] = {&sl_kind_clip, NULL};
static const sl_kind *const projectors[] = {&sl_kind_linear, NULL};
static const sl_kind *const decoders[] = {&sl_kind_llama, NULL};

static const sl_config_field fields[] = {
    SL_FIXED_INT(image_token_id, -1), /* the tokenizer knows it */
    SL_INT("mm_vision_select_layer", feature_layer, -2, -1024, 1024),
    SL_FIXED_STRING(feature_strategy, "default"),
};

#define SYSTEM \
  "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, " \
  "and polite answers to the user's questions. "

static const sl_prompt prompts[] = {
    {NULL, SYSTEM "USER: <image> {question} ASSISTANT:", "USER:", "ASSISTANT:", NULL, NULL},
};

/* CLIP's, after padding to a square with white. */
static sl_status preprocess(sl_preprocess *out, const sl_config *c, const char *name) {
  (void)name;
  *out = sl_preprocess_crop(c->vision.image_px, SL_NORM_CLIP);
  out->pad_to_square = true;
  memset(out->pad_rgb, 255, sizeof out->pad_rgb);
  return SL_OK;
}

static sl_status settle(sl_config *c, const char *name) {
  if (json_is_false(json_object_get(c->json, "mm_use_im_start_end")))
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: mm_use_im_start_end is false; sightline writes Shikra's pictures between "
            "<im_start> and <im_end>", name);
  return SL_OK;
}

const sl_family sl_family_shikra = {
    .name = "shikra",
    .title = "Shikra",
    .model_types = model_types,
    .vision = {"vision_config", "vision_tower.", NULL, towers},
    .projector = {"", "mm_projector.", "", projectors},
    .text = {"", "language_model.", "", decoders},
    .fields = fields,
    .n_field = COUNT(fields),
    .renames = sl_original_renames,
    .n_rename = SL_N_ORIGINAL_RENAME,
    .ignored = sl_original_ignored,
    .prompts = prompts,
    .image_token = "<im_patch>",
    .image_text = "<im_start><im_patch><im_end>",
    .tower_apart = true,
    .tokenizer = SL_TOKENIZER_STRIP_ADDED, /* published results are of transformers 4.28 */
    .preprocess = preprocess,
    .settle = settle,
};
