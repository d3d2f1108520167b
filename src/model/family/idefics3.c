/* Idefics3 (Laurencon et al. 2024) and SmolVLM (Marafioti et al. 2025): a SigLIP tower over tiles and a squashed whole,
 * pixel shuffle and one Linear, a LLaMA decoder. The tokens of a view stand between tokens of text that say where it
 * is; those belong to the image's positions and serve it. Defaults are those of Idefics3Config and SmolVLMConfig. */
#include <math.h>

#include "model/family.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))

static const char *const model_types[] = {"idefics3", "smolvlm", NULL};
static const sl_kind *const towers[] = {&sl_kind_idefics_vit, NULL};
static const sl_kind *const projectors[] = {&sl_kind_shuffle_linear, NULL};
static const sl_kind *const decoders[] = {&sl_kind_llama, NULL};

static const sl_config_field fields[] = {
    SL_INT("image_token_id", image_token_id, 128257, 0, 4194303),
    SL_FIXED_INT(feature_layer, -1),
    SL_FIXED_STRING(feature_strategy, "default"),
};

static const sl_rename renames[] = {
    {"model.text_model.", "language_model."},
    {"model.vision_model.", "vision_tower."},
    {"model.connector.", "connector."},
};

static const char *const ignored[] = {"*.rotary_emb.inv_freq", "*.position_ids", NULL};

#define TURN "User:<image>{question}<end_of_utterance>\nAssistant:", "User:", "Assistant:"

static const sl_prompt prompts[] = {
    {NULL, "<|begin_of_text|>" TURN, NULL, "<|begin_of_text|>"}, /* LLaMA 3's vocabulary */
    {NULL, "<|im_start|>" TURN, NULL, NULL},
};

static const char *const stops[] = {"<end_of_utterance>", NULL};

const sl_family sl_family_idefics3 = {
    .name = "idefics3",
    .title = "Idefics3 and SmolVLM",
    .model_types = model_types,
    .vision = {"vision_config", "vision_tower.", "", towers}, /* whose model_type has had three spellings */
    .projector = {"", "connector.", "", projectors},
    .text = {"text_config", "language_model.", NULL, decoders},
    .fields = fields,
    .n_field = COUNT(fields),
    .renames = renames,
    .n_rename = COUNT(renames),
    .ignored = ignored,
    .splice = SL_SPLICE_ROWS,
    .prompts = prompts,
    .image_token = "<image>",
    .image_text = "<image>",
    .stops = stops,
};
