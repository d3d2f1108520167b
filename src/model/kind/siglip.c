/* SigLIP's vision tower (Zhai et al. 2023) under transformers' names, by itself and as Idefics3 and SmolVLM have it:
 * patches with a bias, learned positions, no class token, a norm after the blocks. Defaults are those of
 * SiglipVisionConfig and Idefics3VisionConfig. */
#include <math.h>

#include "model/family.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))
#define LAYER "encoder.layers.{i}."

/* The two configs have the same keys and other defaults. */
#define FIELDS(width, heads, patch)                             \
  SL_INT("hidden_size", vision.d_model, width, 1, 65536),       \
  SL_INT("intermediate_size", vision.d_mlp, 3072, 1, 262144),   \
  SL_INT("num_hidden_layers", vision.n_layer, 12, 1, 1024),     \
  SL_INT("num_attention_heads", vision.n_head, heads, 1, 1024), \
  SL_SIDE("image_size", vision.image_px, 224, 1, 4096),         \
  SL_SIDE("patch_size", vision.patch_px, patch, 1, 4096),       \
  SL_STRING("hidden_act", vision.act, "gelu_pytorch_tanh"),     \
  SL_REAL("layer_norm_eps", vision.eps, 1e-6)

static const sl_config_field siglip_fields[] = {FIELDS(768, 12, 16)}, idefics_fields[] = {FIELDS(1152, 16, 32)};

static const sl_weight_row weights[] = {
    {SL_W_PATCH, "embeddings.patch_embedding.weight", {SL_DIM_VD, SL_DIM_RGB, SL_DIM_PATCH, SL_DIM_PATCH}, SL_ALWAYS},
    {SL_W_PATCH_B, "embeddings.patch_embedding.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_POSITION, "embeddings.position_embedding.weight", {SL_DIM_VROWS, SL_DIM_VD}, SL_ALWAYS},
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
    {SL_W_POST_NORM, "post_layernorm.weight", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_POST_NORM_B, "post_layernorm.bias", {SL_DIM_VD}, SL_ALWAYS},
};

/* transformers finds the position of patch i of n by its fraction of the side, in 32 bits: the count of bounds
 * (k + 1) / n, k < n - 1, that i (1 / n) has reached. True when that is i for every patch, however the bounds were
 * rounded (in blocks of 8 or 16, or one by one). */
static bool finds_every_patch(int n) {
  const float step = 1.0f / (float)n;
  for (int i = 1; i < n; i++)
    for (int block = 1; block <= 16; block += block == 1 ? 7 : 8) {
      const int base = (i - 1) / block * block;
      const float first = (float)((base + 1) / (double)n), bound = (float)((double)first + (i - 1 - base) / (double)n);
      if ((float)i * step < bound) return false;
    }
  return true;
}

static sl_status settle_idefics(sl_config *c, const json_t *section, const char *name) {
  (void)section;
  const int side = c->vision.image_px / c->vision.patch_px;
  c->vision.norm = "layer_norm";
  if (!finds_every_patch(side))
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: %d patches a side: transformers rounds their positions to those of neighbours; "
            "sightline has the sides of the released models (14, 16, 24, 26, 27, 32 ...)", name, side);
  return SL_OK;
}

static sl_status settle(sl_config *c, const json_t *section, const char *name) {
  (void)section, (void)name;
  c->vision.norm = "layer_norm";
  return SL_OK;
}

const sl_kind sl_kind_siglip = {
    .model_type = "siglip_vision_model",
    .fields = siglip_fields,
    .n_field = COUNT(siglip_fields),
    .weights = weights,
    .n_weight = COUNT(weights),
    .settle = settle,
};

const sl_kind sl_kind_idefics_vit = {
    .model_type = "idefics3_vision",
    .fields = idefics_fields,
    .n_field = COUNT(idefics_fields),
    .weights = weights,
    .n_weight = COUNT(weights),
    .settle = settle_idefics,
};
