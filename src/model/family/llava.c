/* LLaVA-1.5 (Liu et al. 2023, "Improved Baselines with Visual Instruction Tuning") in transformers' layout: CLIP tower,
 * two-layer projector, LLaMA decoder. Defaults are those of LlavaConfig, CLIPVisionConfig and LlamaConfig. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "model/family.h"

#define INT(path, member, value, low, high) {path, SL_FIELD_INT, offsetof(sl_config, member), value, NULL, low, high}
#define REAL(path, member, value) {path, SL_FIELD_REAL, offsetof(sl_config, member), value, NULL, 0, 0}
#define BOOL(path, member, value) {path, SL_FIELD_BOOL, offsetof(sl_config, member), value, NULL, 0, 0}
#define STRING(path, member, value) {path, SL_FIELD_STRING, offsetof(sl_config, member), NAN, value, 0, 0}

static const char *const model_types[] = {"llava", NULL};

static const sl_config_field fields[] = {
    STRING("vision_config.model_type", vision.model_type, "clip_vision_model"),
    INT("vision_config.hidden_size", vision.d_model, 768, 1, 65536),
    INT("vision_config.intermediate_size", vision.d_mlp, 3072, 1, 262144),
    INT("vision_config.num_hidden_layers", vision.n_layer, 12, 1, 1024),
    INT("vision_config.num_attention_heads", vision.n_head, 12, 1, 1024),
    INT("vision_config.image_size", vision.image_px, 224, 1, 4096),
    INT("vision_config.patch_size", vision.patch_px, 32, 1, 4096),
    STRING("vision_config.hidden_act", vision.act, "quick_gelu"),
    REAL("vision_config.layer_norm_eps", vision.eps, 1e-5),
    STRING("text_config.model_type", text.model_type, "llama"),
    INT("text_config.vocab_size", text.n_vocab, 32000, 1, 4194304),
    INT("text_config.hidden_size", text.d_model, 4096, 1, 65536),
    INT("text_config.intermediate_size", text.d_mlp, 11008, 1, 262144),
    INT("text_config.num_hidden_layers", text.n_layer, 32, 1, 1024),
    INT("text_config.num_attention_heads", text.n_head, 32, 1, 1024),
    INT("text_config.num_key_value_heads", text.n_head_kv, 0, 1, 1024),
    INT("text_config.head_dim", text.d_head, 0, 1, 4096),
    INT("text_config.max_position_embeddings", text.max_position, 2048, 1, 16777216),
    STRING("text_config.hidden_act", text.act, "silu"),
    REAL("text_config.rms_norm_eps", text.eps, 1e-6),
    REAL("text_config.rope_theta", text.rope_theta, 1e4),
    REAL("text_config.rope_parameters.rope_theta", text.rope_theta, NAN),
    STRING("text_config.rope_scaling.type", text.rope_type, "default"),
    STRING("text_config.rope_scaling.rope_type", text.rope_type, NULL),
    STRING("text_config.rope_parameters.rope_type", text.rope_type, NULL),
    BOOL("text_config.attention_bias", text.attention_bias, 0),
    BOOL("text_config.mlp_bias", text.mlp_bias, 0),
    STRING("projector_hidden_act", projector.act, "gelu"),
    BOOL("multimodal_projector_bias", projector.bias, 1),
    INT("image_token_index", image_token_id, 32000, 0, 4194303),
    INT("image_token_id", image_token_id, NAN, 0, 4194303),
    INT("vision_feature_layer", feature_layer, -2, -1024, 1024),
    STRING("vision_feature_select_strategy", feature_strategy, "default"),
    INT("sightline_layer_period", layer_period, 0, 1, 1024),
};

/* Names in files come in three layouts (before transformers 4.52 and on the hub; in memory since; with CLIP's inner
 * wrapper gone), and as the original repository wrote them. */
static const sl_rename renames[] = {
    {"model.", ""},
    {"language_model.model.", "language_model."},
    {"language_model.lm_head.", "lm_head."},
    {"layers.", "language_model.layers."},
    {"embed_tokens.", "language_model.embed_tokens."},
    {"norm.", "language_model.norm."},
    {"vision_tower.vision_tower.", "vision_tower."},
    {"vision_tower.vision_model.", "vision_tower."},
    {"mm_projector.0.", "multi_modal_projector.linear_1."},
    {"mm_projector.2.", "multi_modal_projector.linear_2."},
};

#define TEXT "language_model.layers.{i}."
#define VISION "vision_tower.encoder.layers.{i}."
#define PROJECTOR "multi_modal_projector."

static const sl_weight_row weights[] = {
    {SL_W_EMBED, "language_model.embed_tokens.weight", {SL_DIM_VOCAB, SL_DIM_D}, SL_NEED_ALWAYS},
    {SL_W_HEAD, "lm_head.weight", {SL_DIM_VOCAB, SL_DIM_D}, SL_NEED_UNLESS_TIED},
    {SL_W_NORM, "language_model.norm.weight", {SL_DIM_D}, SL_NEED_ALWAYS},
    {SL_W_LN1, TEXT "input_layernorm.weight", {SL_DIM_D}, SL_NEED_ALWAYS},
    {SL_W_Q, TEXT "self_attn.q_proj.weight", {SL_DIM_Q, SL_DIM_D}, SL_NEED_ALWAYS},
    {SL_W_Q_B, TEXT "self_attn.q_proj.bias", {SL_DIM_Q}, SL_NEED_ATTENTION_BIAS},
    {SL_W_K, TEXT "self_attn.k_proj.weight", {SL_DIM_KV, SL_DIM_D}, SL_NEED_ALWAYS},
    {SL_W_K_B, TEXT "self_attn.k_proj.bias", {SL_DIM_KV}, SL_NEED_ATTENTION_BIAS},
    {SL_W_V, TEXT "self_attn.v_proj.weight", {SL_DIM_KV, SL_DIM_D}, SL_NEED_ALWAYS},
    {SL_W_V_B, TEXT "self_attn.v_proj.bias", {SL_DIM_KV}, SL_NEED_ATTENTION_BIAS},
    {SL_W_O, TEXT "self_attn.o_proj.weight", {SL_DIM_D, SL_DIM_Q}, SL_NEED_ALWAYS},
    {SL_W_O_B, TEXT "self_attn.o_proj.bias", {SL_DIM_D}, SL_NEED_ATTENTION_BIAS},
    {SL_W_LN2, TEXT "post_attention_layernorm.weight", {SL_DIM_D}, SL_NEED_ALWAYS},
    {SL_W_GATE, TEXT "mlp.gate_proj.weight", {SL_DIM_MLP, SL_DIM_D}, SL_NEED_ALWAYS},
    {SL_W_GATE_B, TEXT "mlp.gate_proj.bias", {SL_DIM_MLP}, SL_NEED_MLP_BIAS},
    {SL_W_UP, TEXT "mlp.up_proj.weight", {SL_DIM_MLP, SL_DIM_D}, SL_NEED_ALWAYS},
    {SL_W_UP_B, TEXT "mlp.up_proj.bias", {SL_DIM_MLP}, SL_NEED_MLP_BIAS},
    {SL_W_DOWN, TEXT "mlp.down_proj.weight", {SL_DIM_D, SL_DIM_MLP}, SL_NEED_ALWAYS},
    {SL_W_DOWN_B, TEXT "mlp.down_proj.bias", {SL_DIM_D}, SL_NEED_MLP_BIAS},
    {SL_W_PROJECTOR_1, PROJECTOR "linear_1.weight", {SL_DIM_D, SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_PROJECTOR_1_B, PROJECTOR "linear_1.bias", {SL_DIM_D}, SL_NEED_PROJECTOR_BIAS},
    {SL_W_PROJECTOR_2, PROJECTOR "linear_2.weight", {SL_DIM_D, SL_DIM_D}, SL_NEED_ALWAYS},
    {SL_W_PROJECTOR_2_B, PROJECTOR "linear_2.bias", {SL_DIM_D}, SL_NEED_PROJECTOR_BIAS},
    {SL_W_CLASS, "vision_tower.embeddings.class_embedding", {SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_PATCH, "vision_tower.embeddings.patch_embedding.weight", {SL_DIM_VD, SL_DIM_RGB, SL_DIM_PATCH, SL_DIM_PATCH},
     SL_NEED_ALWAYS},
    {SL_W_POSITION, "vision_tower.embeddings.position_embedding.weight", {SL_DIM_VROWS, SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_PRE_NORM, "vision_tower.pre_layrnorm.weight", {SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_PRE_NORM_B, "vision_tower.pre_layrnorm.bias", {SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_VLN1, VISION "layer_norm1.weight", {SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_VLN1_B, VISION "layer_norm1.bias", {SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_VQ, VISION "self_attn.q_proj.weight", {SL_DIM_VD, SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_VQ_B, VISION "self_attn.q_proj.bias", {SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_VK, VISION "self_attn.k_proj.weight", {SL_DIM_VD, SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_VK_B, VISION "self_attn.k_proj.bias", {SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_VV, VISION "self_attn.v_proj.weight", {SL_DIM_VD, SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_VV_B, VISION "self_attn.v_proj.bias", {SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_VO, VISION "self_attn.out_proj.weight", {SL_DIM_VD, SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_VO_B, VISION "self_attn.out_proj.bias", {SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_VLN2, VISION "layer_norm2.weight", {SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_VLN2_B, VISION "layer_norm2.bias", {SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_FC1, VISION "mlp.fc1.weight", {SL_DIM_VMLP, SL_DIM_VD}, SL_NEED_ALWAYS},
    {SL_W_FC1_B, VISION "mlp.fc1.bias", {SL_DIM_VMLP}, SL_NEED_ALWAYS},
    {SL_W_FC2, VISION "mlp.fc2.weight", {SL_DIM_VD, SL_DIM_VMLP}, SL_NEED_ALWAYS},
    {SL_W_FC2_B, VISION "mlp.fc2.bias", {SL_DIM_VD}, SL_NEED_ALWAYS},
};

static const char *const ignored[] = {"*.rotary_emb.inv_freq", "*.position_ids", "*.masked_bias",
                                      "vision_tower.post_layernorm.*", "vision_tower.encoder.layers.*", NULL};

static sl_status check(const sl_config *c, const char *name) {
  if (strcmp(c->vision.model_type, "clip_vision_model") != 0)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: vision_config.model_type is \"%s\"; this family has \"clip_vision_model\"", name,
            c->vision.model_type);
  if (strcmp(c->text.model_type, "llama") != 0)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: text_config.model_type is \"%s\"; this family has \"llama\"", name,
            c->text.model_type);
  if (strcmp(c->text.rope_type, "default") != 0)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: rope type is \"%s\"; sightline has \"default\"", name, c->text.rope_type);
  if (strcmp(c->feature_strategy, "default") != 0 && strcmp(c->feature_strategy, "full") != 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: vision_feature_select_strategy is \"%s\"; expected \"default\" or \"full\"", name,
            c->feature_strategy);
  return SL_OK;
}

const sl_family sl_family_llava = {
    .name = "llava",
    .title = "LLaVA-1.5",
    .model_types = model_types,
    .fields = fields,
    .n_field = sizeof fields / sizeof *fields,
    .renames = renames,
    .n_rename = sizeof renames / sizeof *renames,
    .weights = weights,
    .n_weight = sizeof weights / sizeof *weights,
    .ignored = ignored,
    .prompt = "USER: <image>\n{question} ASSISTANT:",
    .placeholder = "<image>",
    .assistant = "ASSISTANT:",
    .user = "USER:",
    .check = check,
};
