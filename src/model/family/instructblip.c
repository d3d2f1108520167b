/* InstructBLIP (Dai et al. 2023) with a LLaMA decoder, in transformers' layout: EVA tower, Q-Former that reads the
 * question, 32 rows before everything else of the prompt. Defaults are those of InstructBlipConfig. */
#include <math.h>
#include <string.h>

#include "model/family.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))

static const char *const model_types[] = {"instructblip", NULL};
static const sl_kind *const towers[] = {&sl_kind_eva, NULL};
static const sl_kind *const projectors[] = {&sl_kind_qformer, NULL};
static const sl_kind *const decoders[] = {&sl_kind_llama, NULL};

static const sl_config_field fields[] = {
    SL_INT("num_query_tokens", projector.n_query, 32, 1, 4096),
    SL_INT("image_token_index", image_token_id, -1, 0, 4194303),
    SL_INT("image_token_id", image_token_id, NAN, 0, 4194303),
    SL_FIXED_INT(feature_layer, -1),
    SL_FIXED_STRING(feature_strategy, "full"),
};

/* In files (4.46 to 5) and in memory since 4.52, where everything but the head stands below "model.". */
static const sl_rename renames[] = {
    {"model.", ""},
    {"language_model.model.", "language_model."},
    {"language_model.lm_head.", "lm_head."},
};

static const char *const ignored[] = {"*.rotary_emb.inv_freq", "*.position_ids", NULL};

static const sl_prompt prompts[] = {
    {NULL, "<image>{question}", "", "", NULL, NULL},
};

/* The decoder's own section is known to name other end tokens than the tokenizer has. */
static const char *const stops[] = {"</s>", NULL};

/* The same model_type with an encoder-decoder behind the projection. */
static sl_status settle(sl_config *c, const char *name) {
  const char *text = json_string_value(sl_json_at(c->json, "text_config.model_type"));
  if (text && strcmp(text, sl_kind_llama.model_type) != 0)
    SL_FAIL(SL_ERROR_UNSUPPORTED,
            "%s: text_config.model_type is \"%s\"; sightline has InstructBLIP with \"llama\" (Vicuna)", name, text);
  return SL_OK;
}

const sl_family sl_family_instructblip = {
    .name = "instructblip",
    .title = "InstructBLIP",
    .model_types = model_types,
    .vision = {"vision_config", "vision_model.", NULL, towers},
    .projector = {"qformer_config", "", "", projectors},
    .text = {"text_config", "language_model.", NULL, decoders},
    .fields = fields,
    .n_field = COUNT(fields),
    .renames = renames,
    .n_rename = COUNT(renames),
    .ignored = ignored,
    .prompts = prompts,
    .image_token = "<image>",
    .image_text = "<image>",
    .image_before_bos = true,
    .question_tokenizer = "qformer_tokenizer",
    .stops = stops,
    .settle = settle,
};
