/* LLaVA-1.5 (Liu et al. 2023, "Improved Baselines with Visual Instruction Tuning"): CLIP tower, two-layer projector,
 * LLaMA decoder. Two layouts: transformers' (defaults are LlavaConfig's) and the original repository's, which keeps the
 * decoder's numbers at the top and the tower in a folder of its own; with it the first LLaVA (Liu et al. 2023, "Visual
 * Instruction Tuning"), whose projector is one Linear and whose pictures stand between marks. */
#include <math.h>
#include <string.h>

#include "input/tokenizer.h"
#include "model/family.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))

static const char *const model_types[] = {"llava", NULL};
static const sl_kind *const towers[] = {&sl_kind_clip, NULL};
static const sl_kind *const projectors[] = {&sl_kind_mlp, NULL};
static const sl_kind *const decoders[] = {&sl_kind_llama, &sl_kind_mistral, &sl_kind_qwen2, NULL};

static const sl_config_field fields[] = {
    SL_INT("image_token_index", image_token_id, 32000, 0, 4194303),
    SL_INT("image_token_id", image_token_id, NAN, 0, 4194303),
    SL_LAYERS("vision_feature_layer", feature_layers, -2, -1024, 1024),
    SL_STRING("vision_feature_select_strategy", feature_strategy, "default"),
    SL_INT("sightline_layer_period", layer_period, 0, 1, 1024),
};

static const sl_prompt prompts[] = {
    SL_LLAMA3_PROMPT,
    {NULL, "USER: <image>\n{question} ASSISTANT:", "USER:", "ASSISTANT:", NULL, NULL},
};

static const char *const stops[] = {"<|eot_id|>", NULL};

static sl_status settle(sl_config *c, const char *name) {
  if (strcmp(c->feature_strategy, "default") != 0 && strcmp(c->feature_strategy, "full") != 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: vision_feature_select_strategy is \"%s\"; expected \"default\" or \"full\"", name,
            c->feature_strategy);
  return SL_OK;
}

/* ---- the original repository's layout ---- */

static const char *const original_types[] = {"llava", "llava_llama", NULL};
static const sl_kind *const original_projectors[] = {&sl_kind_linear, &sl_kind_mlp2x, NULL};
static const sl_kind *const original_decoders[] = {&sl_kind_llama, NULL};

static const sl_config_field original_fields[] = {
    SL_INT("mm_vision_select_layer", feature_layer, -2, -1024, 1024),
    SL_STRING("mm_vision_select_feature", feature_strategy, "patch"),
};

#define VICUNA_V1 \
  "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, " \
  "and polite answers to the user's questions. "

static const sl_prompt original_prompts[] = {
    {NULL, VICUNA_V1 "USER: <image>\n{question} ASSISTANT:", "USER:", "ASSISTANT:", NULL, NULL},
};

bool sl_llava_is_original(const json_t *config) {
  return (json_object_get(config, "mm_vision_tower") || json_object_get(config, "mm_hidden_size")) &&
         !json_object_get(config, "text_config");
}

static bool claims_first(const json_t *config) {
  return sl_llava_is_original(config) && json_is_true(json_object_get(config, "mm_use_im_start_end"));
}

sl_status sl_llava_settle_original(sl_config *c, const char *name) {
  const bool patch = strcmp(c->feature_strategy, "patch") == 0;
  if (!patch && strcmp(c->feature_strategy, "cls_patch") != 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: mm_vision_select_feature is \"%s\"; expected \"patch\" or \"cls_patch\"", name,
            c->feature_strategy);
  c->feature_strategy = patch ? "default" : "full";
  c->image_token_id = SL_IMAGE_INDEX;
  return SL_OK;
}

#define ORIGINAL \
    .name = "llava", .model_types = original_types, .vision = {"vision_config", "vision_tower.", NULL, towers}, \
    .projector = {"", "mm_projector.", "mm_projector_type", original_projectors}, \
    .text = {"", "language_model.", "", original_decoders}, .fields = original_fields, \
    .n_field = COUNT(original_fields), .renames = sl_original_renames, .n_rename = SL_N_ORIGINAL_RENAME, \
    .ignored = sl_original_ignored, .prompts = original_prompts, .image_token = "<image>", .image_cuts_text = true, \
    .tower_apart = true, .settle = sl_llava_settle_original

const sl_family sl_family_llava_original = {
    ORIGINAL,
    .title = "LLaVA-1.5 (original layout)",
    .image_text = "<image>",
    .claims = sl_llava_is_original,
};

const sl_family sl_family_llava_first = {
    ORIGINAL,
    .title = "LLaVA (first)",
    .image_text = "<im_start><image><im_end>",
    .tokenizer = SL_TOKENIZER_STRIP_ADDED, /* of its time */
    .claims = claims_first,
};

/* ---- transformers' layout ---- */

const sl_family sl_family_llava = {
    .name = "llava",
    .title = "LLaVA-1.5",
    .model_types = model_types,
    .vision = {"vision_config", "vision_tower.", NULL, towers},
    .projector = {"", "multi_modal_projector.", "", projectors},
    .text = {"text_config", "language_model.", NULL, decoders},
    .fields = fields,
    .n_field = COUNT(fields),
    .renames = sl_llava_renames,
    .n_rename = SL_N_LLAVA_RENAME,
    .ignored = sl_llava_ignored,
    .prompts = prompts,
    .stops = stops,
    .image_token = "<image>",
    .image_text = "<image>",
    .settle = settle,
};
