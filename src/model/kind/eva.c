/* EVA's ViT-g (Fang et al. 2022), as InstructBLIP has it in transformers: a class token, a bias on the patches, q, k
 * and v in one tensor, a norm after the last block over all rows. Defaults are those of InstructBlipVisionConfig. */
#include <math.h>

#include "model/family.h"

#define LAYER "encoder.layers.{i}."

static const sl_config_field fields[] = {
    SL_INT("hidden_size", vision.d_model, 1408, 1, 65536),
    SL_INT("intermediate_size", vision.d_mlp, 6144, 1, 262144),
    SL_INT("num_hidden_layers", vision.n_layer, 39, 1, 1024),
    SL_INT("num_attention_heads", vision.n_head, 16, 1, 1024),
    SL_INT("image_size", vision.image_px, 224, 1, 4096),
    SL_INT("patch_size", vision.patch_px, 14, 1, 4096),
    SL_STRING("hidden_act", vision.act, "gelu"),
    SL_REAL("layer_norm_eps", vision.eps, 1e-6),
    SL_BOOL("qkv_bias", vision.qkv_bias, 1),
};

static const sl_weight_row weights[] = {
    {SL_W_CLASS, "embeddings.class_embedding", {SL_DIM_ONE, SL_DIM_ONE, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_PATCH, "embeddings.patch_embedding.weight", {SL_DIM_VD, SL_DIM_RGB, SL_DIM_PATCH, SL_DIM_PATCH}, SL_ALWAYS},
    {SL_W_PATCH_B, "embeddings.patch_embedding.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_POSITION, "embeddings.position_embedding", {SL_DIM_ONE, SL_DIM_VROWS, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_POST_NORM, "post_layernorm.weight", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_POST_NORM_B, "post_layernorm.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN1, LAYER "layer_norm1.weight", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN1_B, LAYER "layer_norm1.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VQKV, LAYER "self_attn.qkv.weight", {SL_DIM_V3D, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VQKV_B, LAYER "self_attn.qkv.bias", {SL_DIM_V3D}, SL_WHEN(vision.qkv_bias)},
    {SL_W_VO, LAYER "self_attn.projection.weight", {SL_DIM_VD, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VO_B, LAYER "self_attn.projection.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN2, LAYER "layer_norm2.weight", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN2_B, LAYER "layer_norm2.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_FC1, LAYER "mlp.fc1.weight", {SL_DIM_VMLP, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_FC1_B, LAYER "mlp.fc1.bias", {SL_DIM_VMLP}, SL_ALWAYS},
    {SL_W_FC2, LAYER "mlp.fc2.weight", {SL_DIM_VD, SL_DIM_VMLP}, SL_ALWAYS},
    {SL_W_FC2_B, LAYER "mlp.fc2.bias", {SL_DIM_VD}, SL_ALWAYS},
};

static sl_status settle(sl_config *c, const json_t *section, const char *name) {
  (void)section, (void)name;
  c->vision.norm = "layer_norm";
  c->vision.n_class = 1;
  return SL_OK;
}

const sl_kind sl_kind_eva = {
    .model_type = "instructblip_vision_model",
    .fields = fields,
    .n_field = sizeof fields / sizeof *fields,
    .weights = weights,
    .n_weight = sizeof weights / sizeof *weights,
    .settle = settle,
};
