/* CLIP's vision tower (Radford et al. 2021) under transformers' names. Defaults are those of CLIPVisionConfig. */
#include <math.h>

#include "model/family.h"

#define LAYER "encoder.layers.{i}."

static const sl_config_field fields[] = {
    SL_INT("hidden_size", vision.d_model, 768, 1, 65536),
    SL_INT("intermediate_size", vision.d_mlp, 3072, 1, 262144),
    SL_INT("num_hidden_layers", vision.n_layer, 12, 1, 1024),
    SL_INT("num_attention_heads", vision.n_head, 12, 1, 1024),
    SL_INT("image_size", vision.image_px, 224, 1, 4096),
    SL_INT("patch_size", vision.patch_px, 32, 1, 4096),
    SL_STRING("hidden_act", vision.act, "quick_gelu"),
    SL_REAL("layer_norm_eps", vision.eps, 1e-5),
};

static const sl_weight_row weights[] = {
    {SL_W_CLASS, "embeddings.class_embedding", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_PATCH, "embeddings.patch_embedding.weight", {SL_DIM_VD, SL_DIM_RGB, SL_DIM_PATCH, SL_DIM_PATCH}, SL_ALWAYS},
    {SL_W_POSITION, "embeddings.position_embedding.weight", {SL_DIM_VROWS, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_PRE_NORM, "pre_layrnorm.weight", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_PRE_NORM_B, "pre_layrnorm.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN1, LAYER "layer_norm1.weight", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN1_B, LAYER "layer_norm1.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VQ, LAYER "self_attn.q_proj.weight", {SL_DIM_VD, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VQ_B, LAYER "self_attn.q_proj.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VK, LAYER "self_attn.k_proj.weight", {SL_DIM_VD, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VK_B, LAYER "self_attn.k_proj.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VV, LAYER "self_attn.v_proj.weight", {SL_DIM_VD, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VV_B, LAYER "self_attn.v_proj.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VO, LAYER "self_attn.out_proj.weight", {SL_DIM_VD, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VO_B, LAYER "self_attn.out_proj.bias", {SL_DIM_VD}, SL_ALWAYS},
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

const sl_kind sl_kind_clip = {
    .model_type = "clip_vision_model",
    .fields = fields,
    .n_field = sizeof fields / sizeof *fields,
    .weights = weights,
    .n_weight = sizeof weights / sizeof *weights,
    .settle = settle,
    .table_modules = true,
};
