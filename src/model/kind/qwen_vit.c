/* Qwen-VL's vision tower (an open_clip ViT-bigG), as its remote code has it: no class token, a norm before the blocks,
 * positions stored for a grid of 16 x 16 and resampled to the picture's, q, k and v in one tensor, head by head.
 * Defaults are those of Qwen-VL's config.json. */
#include <math.h>

#include "model/family.h"

#define LAYER "transformer.resblocks.{i}."

static const sl_config_field fields[] = {
    SL_INT("width", vision.d_model, 1664, 1, 65536),
    SL_INT("layers", vision.n_layer, 48, 1, 1024),
    SL_INT("heads", vision.n_head, 16, 1, 1024),
    SL_INT("image_size", vision.image_px, 448, 1, 4096),
    SL_INT("patch_size", vision.patch_px, 14, 1, 4096),
    SL_FIXED_STRING(vision.act, "gelu"),
    SL_FIXED_REAL(vision.eps, 1e-6),
    SL_INT("n_queries", projector.n_query, 256, 1, 4096),
    SL_INT("output_dim", projector.d_model, 4096, 1, 65536),
};

static const sl_weight_row weights[] = {
    {SL_W_PATCH, "conv1.weight", {SL_DIM_VD, SL_DIM_RGB, SL_DIM_PATCH, SL_DIM_PATCH}, SL_ALWAYS},
    {SL_W_POSITION, "positional_embedding", {SL_DIM_VROWS, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_PRE_NORM, "ln_pre.weight", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_PRE_NORM_B, "ln_pre.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN1, LAYER "ln_1.weight", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN1_B, LAYER "ln_1.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VQKV, LAYER "attn.in_proj.weight", {SL_DIM_V3D, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VQKV_B, LAYER "attn.in_proj.bias", {SL_DIM_V3D}, SL_ALWAYS},
    {SL_W_VO, LAYER "attn.out_proj.weight", {SL_DIM_VD, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VO_B, LAYER "attn.out_proj.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN2, LAYER "ln_2.weight", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN2_B, LAYER "ln_2.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_FC1, LAYER "mlp.c_fc.weight", {SL_DIM_VMLP, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_FC1_B, LAYER "mlp.c_fc.bias", {SL_DIM_VMLP}, SL_ALWAYS},
    {SL_W_FC2, LAYER "mlp.c_proj.weight", {SL_DIM_VD, SL_DIM_VMLP}, SL_ALWAYS},
    {SL_W_FC2_B, LAYER "mlp.c_proj.bias", {SL_DIM_VD}, SL_ALWAYS},
};

static sl_status settle(sl_config *c, const json_t *section, const char *name) {
  const json_t *ratio = json_object_get(section, "mlp_ratio");
  const double factor = ratio ? json_number_value(ratio) : 4.9231;
  if (!(factor > 0 && factor <= 64))
    SL_FAIL(SL_ERROR_FORMAT, "%s: visual.mlp_ratio is %g; expected 0 to 64", name, factor);
  c->vision.d_mlp = (int)(c->vision.d_model * factor);
  if (c->vision.d_mlp < 1) SL_FAIL(SL_ERROR_FORMAT, "%s: visual.mlp_ratio %g makes an MLP of no width", name, factor);
  c->vision.norm = "layer_norm";
  c->vision.position_grid = 16;
  c->vision.qkv_bias = true;
  return SL_OK;
}

const sl_kind sl_kind_qwen_vit = {
    .model_type = "qwen_vit",
    .fields = fields,
    .n_field = sizeof fields / sizeof *fields,
    .weights = weights,
    .n_weight = sizeof weights / sizeof *weights,
    .qkv_form = SL_QKV_GROUPED,
    .settle = settle,
};
