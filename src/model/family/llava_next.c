/* LLaVA-1.6 or LLaVA-NeXT (Liu et al. 2024): LLaVA-1.5 over a base view and tiles, whose projected rows are put
 * together as one picture, its padding removed and a newline row added to every line. Two layouts: transformers'
 * (defaults are LlavaNextConfig's) and the original repository's, which keeps the tower it trained further among its
 * own tensors. */
#include <math.h>
#include <string.h>

#include "model/family.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))

static const char *const model_types[] = {"llava_next", NULL};
static const sl_kind *const towers[] = {&sl_kind_clip, NULL};
static const sl_kind *const projectors[] = {&sl_kind_mlp, NULL};
static const sl_kind *const decoders[] = {&sl_kind_llama, &sl_kind_mistral, &sl_kind_qwen2, NULL};

static const sl_config_field fields[] = {
    SL_INT("image_token_index", image_token_id, 32000, 0, 4194303),
    SL_INT("image_token_id", image_token_id, NAN, 0, 4194303),
    SL_LAYERS("vision_feature_layer", feature_layers, -2, -1024, 1024),
    SL_STRING("vision_feature_select_strategy", feature_strategy, "default"),
};

static const sl_weight_row weights[] = {
    {SL_W_NEWLINE, "image_newline", {SL_DIM_D}, SL_ALWAYS},
};

#define VICUNA_SYSTEM \
  "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, " \
  "and polite answers to the human's questions. "

#define CHATML(system, after) \
  "<|im_start|>system\n" system "<|im_end|>" after "<|im_start|>user\n<image>\n{question}<|im_end|>" after \
  "<|im_start|>assistant\n"

static const sl_prompt prompts[] = {
    {.when = "mistral", .text = "[INST] <image>\n{question} [/INST]", .user = "[INST]", .assistant = "[/INST]"},
    {.when = "qwen2",
     .text = CHATML("You are a helpful assistant.", "\n"),
     .user = "<|im_start|>user\n",
     .assistant = "<|im_start|>assistant\n"},
    SL_LLAMA3_PROMPT,
    {.when = "llama", /* the 34B */
     .text = CHATML("Answer the questions.", ""),
     .user = "<|im_start|>user\n",
     .assistant = "<|im_start|>assistant\n",
     .token = "<|im_start|>"},
    {.text = VICUNA_SYSTEM "USER: <image>\n{question} ASSISTANT:", .user = "USER:", .assistant = "ASSISTANT:"},
};

static const char *const stops[] = {"<|im_end|>", "<|eot_id|>", NULL};

static sl_status settle(sl_config *c, const char *name) {
  if (strcmp(c->feature_strategy, "default") != 0)
    SL_FAIL(SL_ERROR_UNSUPPORTED,
            "%s: vision_feature_select_strategy is \"%s\"; with tiles sightline has \"default\" (no class token)", name,
            c->feature_strategy);
  return SL_OK;
}

const sl_family sl_family_llava_next = {
    .name = "llava-next",
    .title = "LLaVA-1.6",
    .model_types = model_types,
    .vision = {"vision_config", "vision_tower.", NULL, towers},
    .projector = {"", "multi_modal_projector.", "", projectors},
    .text = {"text_config", "language_model.", NULL, decoders},
    .fields = fields,
    .n_field = COUNT(fields),
    .renames = sl_llava_renames,
    .n_rename = SL_N_LLAVA_RENAME,
    .weights = weights,
    .n_weight = COUNT(weights),
    .ignored = sl_llava_ignored,
    .splice = SL_SPLICE_UNPAD,
    .prompts = prompts,
    .stops = stops,
    .image_token = "<image>",
    .image_text = "<image>",
    .settle = settle,
};

/* ---- the original repository's layout ---- */

static const char *const vicuna_types[] = {"llava", "llava_llama", NULL};
static const char *const mistral_types[] = {"llava_mistral", NULL};
static const sl_kind *const original_projectors[] = {&sl_kind_linear, &sl_kind_mlp2x, NULL};
static const sl_kind *const vicuna_decoders[] = {&sl_kind_llama, NULL};
static const sl_kind *const mistral_decoders[] = {&sl_kind_mistral, NULL};

static const sl_config_field original_fields[] = {
    SL_INT("mm_vision_select_layer", feature_layer, -2, -1024, 1024),
    SL_STRING("mm_vision_select_feature", feature_strategy, "patch"),
};

static bool claims_tiles(const json_t *config) {
  const char *ratio = json_string_value(json_object_get(config, "image_aspect_ratio"));
  return sl_llava_is_original(config) && ratio && strncmp(ratio, "anyres", 6) == 0;
}

static sl_status settle_tiles(sl_config *c, const char *name) {
  const char *merge = "flat"; /* the repository's default */
  SL_TRY(sl_json_get_string(c->json, "mm_patch_merge_type", &merge, name));
  if (strcmp(merge, "spatial_unpad") != 0)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: mm_patch_merge_type is \"%s\"; sightline has \"spatial_unpad\"", name, merge);
  SL_TRY(sl_llava_settle_original(c, name));
  return settle(c, name);
}

#define ORIGINAL \
    .name = "llava-next", .vision = {"vision_config", "vision_tower.", NULL, towers}, \
    .projector = {"", "mm_projector.", "mm_projector_type", original_projectors}, .fields = original_fields, \
    .n_field = COUNT(original_fields), .renames = sl_original_renames, .n_rename = SL_N_ORIGINAL_RENAME, \
    .weights = weights, .n_weight = COUNT(weights), .ignored = sl_original_ignored, .splice = SL_SPLICE_UNPAD, \
    .prompts = prompts, .stops = stops, .image_token = "<image>", .image_text = "<image>", \
    .image_cuts_text = true, .tower_apart = true, .claims = claims_tiles, .settle = settle_tiles

const sl_family sl_family_llava_next_vicuna = {
    ORIGINAL,
    .title = "LLaVA-1.6 (original layout)",
    .model_types = vicuna_types,
    .text = {"", "language_model.", "", vicuna_decoders},
};

const sl_family sl_family_llava_next_mistral = {
    ORIGINAL,
    .title = "LLaVA-1.6 (original layout, Mistral)",
    .model_types = mistral_types,
    .text = {"", "language_model.", "", mistral_decoders},
};
