/* Qwen2-VL and Qwen2.5-VL (Qwen team 2024 and 2025). A picture keeps its shape: one view of about its own size, a token
 * for every 28 x 28 px; rotary positions of the decoder have a time, a row and a column (M-RoPE). Released folders have
 * a flat config.json and names of their own; transformers writes a nested text_config since 4.52. */
#include <math.h>
#include <string.h>

#include "model/family.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))

static const char *const types[] = {"qwen2_vl", NULL}, *const types_2_5[] = {"qwen2_5_vl", NULL};
static const sl_kind *const towers[] = {&sl_kind_qwen2_vl_vit, NULL};
static const sl_kind *const towers_2_5[] = {&sl_kind_qwen2_5_vl_vit, NULL};
static const sl_kind *const projectors[] = {&sl_kind_merger, NULL};
static const sl_kind *const decoders[] = {&sl_kind_qwen2_vl, NULL};

static const sl_config_field fields[] = {
    SL_INT("image_token_id", image_token_id, 151655, 0, 4194303),
    SL_FIXED_INT(feature_layer, -1),
    SL_FIXED_STRING(feature_strategy, "default"),
};

static const sl_rename renames[] = {
    {"model.visual.", "visual."},
    {"model.language_model.", "language_model."},
    {"model.", "language_model."},
};

static const char *const ignored[] = {"*.rotary_emb.inv_freq", "*.rotary_pos_emb.inv_freq", NULL};

static const sl_prompt prompts[] = {
    {NULL, "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>{question}<|im_end|>\n"
           "<|im_start|>assistant\n", "<|im_start|>user\n", "<|im_start|>assistant\n", NULL, NULL},
};

static const char *const stops[] = {"<|im_end|>", "<|endoftext|>", NULL};

static bool is_flat(const json_t *config) { return !json_is_object(json_object_get(config, "text_config")); }

/* The same twice for every version: only where the decoder's numbers stand differs. */
#define FAMILY(title_, types_, towers_, section_, claims_)                                                           \
  {                                                                                                                  \
    .name = "qwen2-vl", .title = title_, .model_types = types_, .vision = {"vision_config", "visual.", "", towers_}, \
    .projector = {"vision_config", "visual.merger.", "", projectors},                                                \
    .text = {section_, "language_model.", "", decoders}, .fields = fields, .n_field = COUNT(fields),                 \
    .renames = renames, .n_rename = COUNT(renames), .ignored = ignored, .prompts = prompts,                          \
    .image_token = "<|image_pad|>", .image_text = "<|vision_start|><|image_pad|><|vision_end|>", .stops = stops,     \
    .claims = claims_                                                                                                \
  }

const sl_family sl_family_qwen2_vl_flat = FAMILY("Qwen2-VL", types, towers, "", is_flat);
const sl_family sl_family_qwen2_vl = FAMILY("Qwen2-VL", types, towers, "text_config", NULL);
const sl_family sl_family_qwen2_5_vl_flat = FAMILY("Qwen2.5-VL", types_2_5, towers_2_5, "", is_flat);
const sl_family sl_family_qwen2_5_vl = FAMILY("Qwen2.5-VL", types_2_5, towers_2_5, "text_config", NULL);
