/* Qwen-VL, first generation (Bai et al. 2023): ViT-bigG at 448 px, one cross-attention of 256 queries, Qwen-7B. Layout
 * of the remote code. Defaults are those of Qwen-VL's config.json. */
#include <math.h>
#include <string.h>

#include "model/family.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))

static const char *const model_types[] = {"qwen", NULL};
static const sl_kind *const towers[] = {&sl_kind_qwen_vit, NULL};
static const sl_kind *const projectors[] = {&sl_kind_resampler, NULL};
static const sl_kind *const decoders[] = {&sl_kind_qwen, NULL};

static const sl_config_field fields[] = {
    SL_FIXED_INT(image_token_id, -1), /* the tokenizer knows it */
    SL_FIXED_INT(feature_layer, -1),
    SL_FIXED_STRING(feature_strategy, "default"),
};

static const sl_rename renames[] = {
    {"transformer.visual.", "visual."},
    {"transformer.", "language_model."},
};

static const char *const ignored[] = {"*.rotary_emb.inv_freq", "*.attn.masked_bias", "*.attn.bias", NULL};

static const sl_prompt prompts[] = {
    {NULL,
     "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nPicture 1: <image>\n{question}"
     "<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>user\n", "<|im_start|>assistant\n", NULL, NULL},
};

static const char *const stops[] = {"<|im_end|>", "<|im_start|>", "<|endoftext|>", NULL};

/* The picture is squashed to a square, its aspect ratio lost. */
static sl_status preprocess(sl_preprocess *out, const sl_config *c, const char *name) {
  (void)name;
  *out = sl_preprocess_squash(c->vision.image_px, SL_NORM_CLIP);
  return SL_OK;
}

static bool claims(const json_t *config) { return json_is_object(json_object_get(config, "visual")); }

const sl_family sl_family_qwen_vl = {
    .name = "qwen-vl",
    .title = "Qwen-VL",
    .model_types = model_types,
    .vision = {"visual", "visual.", NULL, towers},
    .projector = {"visual", "visual.", "", projectors},
    .text = {"", "language_model.", "", decoders},
    .fields = fields,
    .n_field = COUNT(fields),
    .renames = renames,
    .n_rename = COUNT(renames),
    .ignored = ignored,
    .prompts = prompts,
    .image_token = "<imgpad>",
    .image_text = "<img><imgpad></img>",
    .stops = stops,
    .claims = claims,
    .preprocess = preprocess,
};
