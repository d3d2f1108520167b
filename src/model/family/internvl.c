/* InternVL (Chen et al. 2023 and 2024; Chat-V1.5, 2, 2.5, 3) in its two layouts: that of the remote code, which
 * released folders have, and transformers' own. One to twelve tiles and a thumbnail; four patches become one token.
 * Defaults are those of InternVLChatConfig and InternVLConfig. */
#include <math.h>
#include <string.h>

#include "model/family.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))

/* ---- transformers' layout ---- */

static const char *const native_types[] = {"internvl", NULL};
static const sl_kind *const native_towers[] = {&sl_kind_intern, NULL};
static const sl_kind *const native_projectors[] = {&sl_kind_shuffle, NULL};
static const sl_kind *const native_decoders[] = {&sl_kind_qwen2, &sl_kind_llama, &sl_kind_mistral, NULL};

static const sl_config_field native_fields[] = {
    SL_INT("image_token_id", image_token_id, 151667, 0, 4194303),
    SL_INT("vision_feature_layer", feature_layer, -1, -1024, 1024),
    SL_STRING("vision_feature_select_strategy", feature_strategy, "default"),
};

static const sl_prompt native_prompts[] = {
    {NULL, "<|im_start|>user\n<image>\n{question}<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>user\n",
     "<|im_start|>assistant\n", NULL, NULL},
};

static const char *const stops[] = {"<|im_end|>", NULL};

static sl_status settle(sl_config *c, const char *name) {
  if (strcmp(c->feature_strategy, "default") != 0)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: vision_feature_select_strategy is \"%s\"; InternVL's pixel shuffle has no place "
            "for a class token", name, c->feature_strategy);
  return SL_OK;
}

const sl_family sl_family_internvl = {
    .name = "internvl",
    .title = "InternVL",
    .model_types = native_types,
    .vision = {"vision_config", "vision_tower.", NULL, native_towers},
    .projector = {"", "multi_modal_projector.", "", native_projectors},
    .text = {"text_config", "language_model.", NULL, native_decoders},
    .fields = native_fields,
    .n_field = COUNT(native_fields),
    .renames = sl_llava_renames,
    .n_rename = SL_N_LLAVA_RENAME,
    .ignored = sl_llava_ignored,
    .prompts = native_prompts,
    .image_token = "<IMG_CONTEXT>",
    .image_text = "<img><IMG_CONTEXT></img>",
    .stops = stops,
    .settle = settle,
};

/* ---- the remote code's layout ---- */

static const char *const remote_types[] = {"internvl_chat", NULL};
static const sl_kind *const remote_towers[] = {&sl_kind_intern_remote, NULL};
static const sl_kind *const remote_projectors[] = {&sl_kind_shuffle_remote, NULL};
static const sl_kind *const remote_decoders[] = {&sl_kind_internlm2, &sl_kind_qwen2, &sl_kind_llama, NULL};

static const sl_config_field remote_fields[] = {
    SL_FIXED_INT(image_token_id, -1), /* the tokenizer knows it */
    SL_INT("select_layer", feature_layer, -1, -1024, 1024),
    SL_FIXED_STRING(feature_strategy, "default"),
    SL_INT("force_image_size", vision.image_px, NAN, 1, 4096),
};

static const sl_rename remote_renames[] = {
    {"language_model.model.", "language_model."},
    {"language_model.lm_head.", "lm_head."},
    {"language_model.output.", "lm_head."},
    {"vision_model.", "vision_tower."},
};

static const char *const remote_ignored[] = {"*.rotary_emb.inv_freq", "vision_tower.encoder.layers.*", NULL};

/* The official conversation templates, whose names stand in the config, and their system texts. */
#define SYSTEM_1 \
  "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
#define SYSTEM_2_5 \
  "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"

#define CHATML(end) \
  "<|im_start|>system\n{system}" end "<|im_start|>user\n<image>\n{question}" end "<|im_start|>assistant\n"

static const sl_prompt remote_prompts[] = {
    {"internvl2_5", CHATML("<|im_end|>\n"), "<|im_start|>user\n", "<|im_start|>assistant\n", SYSTEM_2_5, NULL},
    {"Hermes-2", CHATML("<|im_end|>"), "<|im_start|>user\n", "<|im_start|>assistant\n", SYSTEM_1, NULL},
    {"internlm2-chat", CHATML("<|im_end|>"), "<|im_start|>user\n", "<|im_start|>assistant\n", SYSTEM_1, NULL},
    {"phi3-chat", "<|system|>\n{system}<|end|><|user|>\n<image>\n{question}<|end|><|assistant|>\n", "<|user|>\n",
     "<|assistant|>\n", SYSTEM_1, NULL},
    {NULL, CHATML("<|im_end|>"), "<|im_start|>user\n", "<|im_start|>assistant\n", SYSTEM_1, NULL},
};

static sl_status remote_preprocess(sl_preprocess *out, const sl_config *c, const char *name) {
  return sl_preprocess_dynamic(out, c->json, name);
}

const sl_family sl_family_internvl_remote = {
    .name = "internvl",
    .title = "InternVL (remote code)",
    .model_types = remote_types,
    .vision = {"vision_config", "vision_tower.", NULL, remote_towers},
    .projector = {"", "mlp1.", "", remote_projectors},
    .text = {"llm_config", "language_model.", NULL, remote_decoders},
    .fields = remote_fields,
    .n_field = COUNT(remote_fields),
    .renames = remote_renames,
    .n_rename = COUNT(remote_renames),
    .ignored = remote_ignored,
    .prompts = remote_prompts,
    .prompt_key = "template",
    .system_key = "system_message",
    .image_token = "<IMG_CONTEXT>",
    .image_text = "<img><IMG_CONTEXT></img>",
    .stops = stops,
    .preprocess = remote_preprocess,
};
