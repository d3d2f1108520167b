/* InternViT (Chen et al. 2023, "InternVL"), 300M and 6B, under transformers' names and under those of the remote code:
 * layer scale, no norm before or after the blocks, and for 6B RMS norms, normed queries and keys, no bias on them.
 * Defaults are those of InternVLVisionConfig and of the remote InternVisionConfig. */
#include <math.h>
#include <string.h>

#include "model/family.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))

static const sl_config_field native_fields[] = {
    SL_INT("hidden_size", vision.d_model, 1024, 1, 65536),
    SL_INT("intermediate_size", vision.d_mlp, 4096, 1, 262144),
    SL_INT("num_hidden_layers", vision.n_layer, 24, 1, 1024),
    SL_INT("num_attention_heads", vision.n_head, 16, 1, 1024),
    SL_SIDE("image_size", vision.image_px, 448, 1, 4096),
    SL_SIDE("patch_size", vision.patch_px, 14, 1, 4096),
    SL_STRING("hidden_act", vision.act, "gelu"),
    SL_STRING("norm_type", vision.norm, "layer_norm"),
    SL_REAL("layer_norm_eps", vision.eps, 1e-6),
    SL_BOOL("attention_bias", vision.qkv_bias, 0),
    SL_BOOL("use_qk_norm", vision.qk_norm, 0),
};

static const sl_config_field remote_fields[] = {
    SL_INT("hidden_size", vision.d_model, 3200, 1, 65536),
    SL_INT("intermediate_size", vision.d_mlp, 12800, 1, 262144),
    SL_INT("num_hidden_layers", vision.n_layer, 48, 1, 1024),
    SL_INT("num_attention_heads", vision.n_head, 25, 1, 1024),
    SL_INT("image_size", vision.image_px, 224, 1, 4096),
    SL_INT("patch_size", vision.patch_px, 14, 1, 4096),
    SL_STRING("hidden_act", vision.act, "gelu"),
    SL_STRING("norm_type", vision.norm, "rms_norm"),
    SL_REAL("layer_norm_eps", vision.eps, 1e-6),
    SL_BOOL("qkv_bias", vision.qkv_bias, 0),
    SL_BOOL("qk_normalization", vision.qk_norm, 1),
};

#define L "encoder.layer.{i}."
static const sl_weight_row native_weights[] = {
    {SL_W_CLASS, "embeddings.cls_token", {SL_DIM_ONE, SL_DIM_ONE, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_PATCH, "embeddings.patch_embeddings.projection.weight",
     {SL_DIM_VD, SL_DIM_RGB, SL_DIM_PATCH, SL_DIM_PATCH}, SL_ALWAYS},
    {SL_W_PATCH_B, "embeddings.patch_embeddings.projection.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_POSITION, "embeddings.position_embeddings", {SL_DIM_ONE, SL_DIM_VROWS, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN1, L "layernorm_before.weight", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN1_B, L "layernorm_before.bias", {SL_DIM_VD}, SL_WHEN(vision.norm_bias)},
    {SL_W_VQ, L "attention.q_proj.weight", {SL_DIM_VD, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VQ_B, L "attention.q_proj.bias", {SL_DIM_VD}, SL_WHEN(vision.qkv_bias)},
    {SL_W_VK, L "attention.k_proj.weight", {SL_DIM_VD, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VK_B, L "attention.k_proj.bias", {SL_DIM_VD}, SL_WHEN(vision.qkv_bias)},
    {SL_W_VV, L "attention.v_proj.weight", {SL_DIM_VD, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VV_B, L "attention.v_proj.bias", {SL_DIM_VD}, SL_WHEN(vision.qkv_bias)},
    {SL_W_VQ_NORM, L "attention.q_norm.weight", {SL_DIM_VD}, SL_WHEN(vision.qk_norm)},
    {SL_W_VK_NORM, L "attention.k_norm.weight", {SL_DIM_VD}, SL_WHEN(vision.qk_norm)},
    {SL_W_VO, L "attention.projection_layer.weight", {SL_DIM_VD, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VO_B, L "attention.projection_layer.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VSCALE1, L "lambda_1", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN2, L "layernorm_after.weight", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN2_B, L "layernorm_after.bias", {SL_DIM_VD}, SL_WHEN(vision.norm_bias)},
    {SL_W_FC1, L "mlp.fc1.weight", {SL_DIM_VMLP, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_FC1_B, L "mlp.fc1.bias", {SL_DIM_VMLP}, SL_ALWAYS},
    {SL_W_FC2, L "mlp.fc2.weight", {SL_DIM_VD, SL_DIM_VMLP}, SL_ALWAYS},
    {SL_W_FC2_B, L "mlp.fc2.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VSCALE2, L "lambda_2", {SL_DIM_VD}, SL_ALWAYS},
};
#undef L

#define L "encoder.layers.{i}."
static const sl_weight_row remote_weights[] = {
    {SL_W_CLASS, "embeddings.class_embedding", {SL_DIM_ONE, SL_DIM_ONE, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_PATCH, "embeddings.patch_embedding.weight", {SL_DIM_VD, SL_DIM_RGB, SL_DIM_PATCH, SL_DIM_PATCH}, SL_ALWAYS},
    {SL_W_PATCH_B, "embeddings.patch_embedding.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_POSITION, "embeddings.position_embedding", {SL_DIM_ONE, SL_DIM_VROWS, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN1, L "norm1.weight", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN1_B, L "norm1.bias", {SL_DIM_VD}, SL_WHEN(vision.norm_bias)},
    {SL_W_VQKV, L "attn.qkv.weight", {SL_DIM_V3D, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VQKV_B, L "attn.qkv.bias", {SL_DIM_V3D}, SL_WHEN(vision.qkv_bias)},
    {SL_W_VQ_NORM, L "attn.q_norm.weight", {SL_DIM_VD}, SL_WHEN(vision.qk_norm)},
    {SL_W_VK_NORM, L "attn.k_norm.weight", {SL_DIM_VD}, SL_WHEN(vision.qk_norm)},
    {SL_W_VO, L "attn.proj.weight", {SL_DIM_VD, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VO_B, L "attn.proj.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VSCALE1, L "ls1", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN2, L "norm2.weight", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN2_B, L "norm2.bias", {SL_DIM_VD}, SL_WHEN(vision.norm_bias)},
    {SL_W_FC1, L "mlp.fc1.weight", {SL_DIM_VMLP, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_FC1_B, L "mlp.fc1.bias", {SL_DIM_VMLP}, SL_ALWAYS},
    {SL_W_FC2, L "mlp.fc2.weight", {SL_DIM_VD, SL_DIM_VMLP}, SL_ALWAYS},
    {SL_W_FC2_B, L "mlp.fc2.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VSCALE2, L "ls2", {SL_DIM_VD}, SL_ALWAYS},
};

static sl_status settle(sl_config *c, const json_t *section, const char *name) {
  (void)section;
  c->vision.n_class = 1;
  c->vision.norm_bias = strcmp(c->vision.norm, "layer_norm") == 0;
  if (!c->vision.norm_bias && strcmp(c->vision.norm, "rms_norm") != 0)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: vision_config.norm_type is \"%s\"; expected \"layer_norm\" or \"rms_norm\"",
            name, c->vision.norm);
  return SL_OK;
}

/* transformers leaves the eps of q_norm and k_norm at its default; the remote code gives them the config's. */
static sl_status settle_native(sl_config *c, const json_t *section, const char *name) {
  c->vision.qk_eps = 1e-6;
  if (json_is_false(json_object_get(section, "use_mean_pooling")))
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: vision_config.use_mean_pooling is false, which adds a norm after the tower; "
            "InternVL has none", name);
  return settle(c, section, name);
}

static sl_status settle_remote(sl_config *c, const json_t *section, const char *name) {
  c->vision.qk_eps = c->vision.eps;
  return settle(c, section, name);
}

const sl_kind sl_kind_intern = {"internvl_vision", native_fields, COUNT(native_fields), native_weights,
                                COUNT(native_weights), settle_native, SL_QKV_STACKED, SL_CONNECT_MLP, false};
const sl_kind sl_kind_intern_remote = {"intern_vit_6b", remote_fields, COUNT(remote_fields), remote_weights,
                                       COUNT(remote_weights), settle_remote, SL_QKV_STACKED, SL_CONNECT_MLP, false};
