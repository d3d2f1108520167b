/* Parts of Qwen2-VL (Wang et al. 2024, arXiv 2409.12191) and Qwen2.5-VL (Bai et al. 2025, arXiv 2502.13923) under
 * transformers' names. The towers take pictures of any size, turn queries and keys by a patch's row and column, and
 * have no class token; 2.5 has RMS norms, a gated MLP, and windows of attention in most layers. Four patches become one
 * token. The merger's norm, over single patches, is the tower's last. Defaults are those of Qwen2VLVisionConfig and
 * Qwen2_5_VLVisionConfig; the norms' eps is the code's. */
#include <math.h>

#include "model/family.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))
#define L "blocks.{i}."
#define ESTIMATE_CELLS 16 /* a side of the square picture that estimates are made for */

#define COMMON_FIELDS \
  SL_INT("depth", vision.n_layer, 32, 1, 1024), SL_INT("num_heads", vision.n_head, 16, 1, 1024), \
  SL_SIDE("patch_size", vision.patch_px, 14, 1, 1024), SL_INT("temporal_patch_size", vision.n_frame, 2, 1, 16), \
  SL_INT("spatial_merge_size", projector.merge, 2, 1, 16), \
  SL_REAL("rope_parameters.rope_theta", vision.rope_theta, 1e4)

static const sl_config_field fields[] = {
    COMMON_FIELDS,
    SL_INT("embed_dim", vision.d_model, 1280, 1, 65536),
    SL_INT("mlp_ratio", vision.d_mlp, 4, 1, 64), /* settle makes it the width */
    SL_STRING("hidden_act", vision.act, "quick_gelu"),
};

static const sl_config_field fields_2_5[] = {
    COMMON_FIELDS,
    SL_INT("hidden_size", vision.d_model, 3584, 1, 65536),
    SL_INT("intermediate_size", vision.d_mlp, 3420, 1, 262144),
    SL_STRING("hidden_act", vision.act, "silu"),
    SL_INT("window_size", vision.window_px, 112, 1, 65536),
};

#define PATCH_ROW \
  {SL_W_PATCH, "patch_embed.proj.weight", {SL_DIM_VD, SL_DIM_RGB, SL_DIM_FRAME, SL_DIM_PATCH, SL_DIM_PATCH}, SL_ALWAYS}
#define ATTENTION_ROWS \
  {SL_W_VQKV, L "attn.qkv.weight", {SL_DIM_V3D, SL_DIM_VD}, SL_ALWAYS}, \
  {SL_W_VQKV_B, L "attn.qkv.bias", {SL_DIM_V3D}, SL_ALWAYS}, \
  {SL_W_VO, L "attn.proj.weight", {SL_DIM_VD, SL_DIM_VD}, SL_ALWAYS}, \
  {SL_W_VO_B, L "attn.proj.bias", {SL_DIM_VD}, SL_ALWAYS}, \
  {SL_W_VLN1, L "norm1.weight", {SL_DIM_VD}, SL_ALWAYS}, \
  {SL_W_VLN2, L "norm2.weight", {SL_DIM_VD}, SL_ALWAYS}, \
  {SL_W_POST_NORM, "merger.ln_q.weight", {SL_DIM_VD}, SL_ALWAYS}

static const sl_weight_row weights[] = {
    PATCH_ROW, ATTENTION_ROWS,
    {SL_W_VLN1_B, L "norm1.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VLN2_B, L "norm2.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_POST_NORM_B, "merger.ln_q.bias", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_FC1, L "mlp.fc1.weight", {SL_DIM_VMLP, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_FC1_B, L "mlp.fc1.bias", {SL_DIM_VMLP}, SL_ALWAYS},
    {SL_W_FC2, L "mlp.fc2.weight", {SL_DIM_VD, SL_DIM_VMLP}, SL_ALWAYS},
    {SL_W_FC2_B, L "mlp.fc2.bias", {SL_DIM_VD}, SL_ALWAYS},
};

static const sl_weight_row weights_2_5[] = {
    PATCH_ROW, ATTENTION_ROWS,
    {SL_W_VGATE, L "mlp.gate_proj.weight", {SL_DIM_VMLP, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_VGATE_B, L "mlp.gate_proj.bias", {SL_DIM_VMLP}, SL_ALWAYS},
    {SL_W_FC1, L "mlp.up_proj.weight", {SL_DIM_VMLP, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_FC1_B, L "mlp.up_proj.bias", {SL_DIM_VMLP}, SL_ALWAYS},
    {SL_W_FC2, L "mlp.down_proj.weight", {SL_DIM_VD, SL_DIM_VMLP}, SL_ALWAYS},
    {SL_W_FC2_B, L "mlp.down_proj.bias", {SL_DIM_VD}, SL_ALWAYS},
};

static const sl_weight_row merger_weights[] = {
    {SL_W_PROJECTOR_1, "mlp.0.weight", {SL_DIM_MERGED, SL_DIM_MERGED}, SL_ALWAYS},
    {SL_W_PROJECTOR_1_B, "mlp.0.bias", {SL_DIM_MERGED}, SL_ALWAYS},
    {SL_W_PROJECTOR_2, "mlp.2.weight", {SL_DIM_D, SL_DIM_MERGED}, SL_ALWAYS},
    {SL_W_PROJECTOR_2_B, "mlp.2.bias", {SL_DIM_D}, SL_ALWAYS},
};

static sl_status settle_any(sl_config *c, const char *name) {
  c->vision.eps = 1e-6;
  if (!(c->vision.rope_theta > 0) || !isfinite(c->vision.rope_theta))
    SL_FAIL(SL_ERROR_FORMAT, "%s: vision_config.rope_parameters.rope_theta is %g; expected a number > 0", name,
            c->vision.rope_theta);
  c->vision.any_size = true;
  c->vision.image_px = ESTIMATE_CELLS * c->projector.merge * c->vision.patch_px;
  if (c->vision.d_model % (4 * c->vision.n_head) != 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: the tower's heads are %g wide; rotary embedding in the plane needs a multiple of 4",
            name, (double)c->vision.d_model / c->vision.n_head);
  return SL_OK;
}

static sl_status settle(sl_config *c, const json_t *section, const char *name) {
  (void)section;
  c->vision.norm = "layer_norm";
  c->vision.d_mlp *= c->vision.d_model;
  return settle_any(c, name);
}

/* Layers that attend to the whole picture: 7, 15, 23 and 31 where the file does not speak. */
static sl_status read_whole_layers(sl_config *c, const json_t *section, const char *name) {
  const json_t *list = json_object_get(section, "fullatt_block_indexes");
  for (size_t il = 7; !list && il < 32; il += 8) c->vision.sees_all[il / 64] |= UINT64_C(1) << il % 64;
  for (size_t i = 0; i < json_array_size(list); i++) {
    const json_t *item = json_array_get(list, i);
    const json_int_t il = json_is_integer(item) ? json_integer_value(item) : -1;
    if (il < 0 || il >= 1024)
      SL_FAIL(SL_ERROR_FORMAT, "%s: vision_config.fullatt_block_indexes: expected numbers of layers", name);
    c->vision.sees_all[il / 64] |= UINT64_C(1) << il % 64;
  }
  return SL_OK;
}

static sl_status settle_2_5(sl_config *c, const json_t *section, const char *name) {
  const int cell_px = c->vision.patch_px * c->projector.merge;
  c->vision.norm = "rms_norm";
  c->vision.gated = true;
  if (c->vision.window_px < cell_px)
    SL_FAIL(SL_ERROR_FORMAT, "%s: vision_config.window_size %d is smaller than a cell of %d px", name,
            c->vision.window_px, cell_px);
  SL_TRY(read_whole_layers(c, section, name));
  return settle_any(c, name);
}

static sl_status settle_merger(sl_config *c, const json_t *section, const char *name) {
  (void)section, (void)name;
  c->projector.act = "gelu";
  return SL_OK;
}

const sl_kind sl_kind_qwen2_vl_vit = {.model_type = "qwen2_vl", .fields = fields, .n_field = COUNT(fields),
                                      .weights = weights, .n_weight = COUNT(weights), .settle = settle};
const sl_kind sl_kind_qwen2_5_vl_vit = {.model_type = "qwen2_5_vl", .fields = fields_2_5, .n_field = COUNT(fields_2_5),
                                        .weights = weights_2_5, .n_weight = COUNT(weights_2_5), .settle = settle_2_5};
const sl_kind sl_kind_merger = {.model_type = "merger", .weights = merger_weights, .n_weight = COUNT(merger_weights),
                                .settle = settle_merger};
