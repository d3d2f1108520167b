/* Projectors made of Linear layers: LLaVA's two with an activation between, Shikra's one, and InternVL's pixel shuffle
 * (2 x 2 patches side by side), norm and two Linears; Idefics3's pixel shuffle and one
 * Linear; Gemma 3's mean, norm and matrix. */
#include <math.h>
#include <string.h>

#include "model/family.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))

static const sl_config_field mlp_fields[] = {
    SL_STRING("projector_hidden_act", projector.act, "gelu"),
    SL_BOOL("multimodal_projector_bias", projector.bias, 1),
};

static const sl_weight_row mlp_weights[] = {
    {SL_W_PROJECTOR_1, "linear_1.weight", {SL_DIM_D, SL_DIM_MERGED}, SL_ALWAYS},
    {SL_W_PROJECTOR_1_B, "linear_1.bias", {SL_DIM_D}, SL_WHEN(projector.bias)},
    {SL_W_PROJECTOR_2, "linear_2.weight", {SL_DIM_D, SL_DIM_D}, SL_ALWAYS},
    {SL_W_PROJECTOR_2_B, "linear_2.bias", {SL_DIM_D}, SL_WHEN(projector.bias)},
};

/* The original repository's mm_projector of type mlp2x_gelu is a Sequential: Linear, GELU, Linear. */
static const sl_weight_row mlp2x_weights[] = {
    {SL_W_PROJECTOR_1, "0.weight", {SL_DIM_D, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_PROJECTOR_1_B, "0.bias", {SL_DIM_D}, SL_ALWAYS},
    {SL_W_PROJECTOR_2, "2.weight", {SL_DIM_D, SL_DIM_D}, SL_ALWAYS},
    {SL_W_PROJECTOR_2_B, "2.bias", {SL_DIM_D}, SL_ALWAYS},
};

static const sl_weight_row linear_weights[] = {
    {SL_W_PROJECTOR_1, "weight", {SL_DIM_D, SL_DIM_VD}, SL_ALWAYS},
    {SL_W_PROJECTOR_1_B, "bias", {SL_DIM_D}, SL_ALWAYS},
};

static const sl_config_field shuffle_fields[] = {
    SL_STRING("projector_hidden_act", projector.act, "gelu"),
    SL_REAL("downsample_ratio", projector.eps, 0.5), /* read as a ratio, see settle_shuffle */
};

static const sl_weight_row shuffle_weights[] = {
    {SL_W_PROJECTOR_NORM, "layer_norm.weight", {SL_DIM_MERGED}, SL_ALWAYS},
    {SL_W_PROJECTOR_NORM_B, "layer_norm.bias", {SL_DIM_MERGED}, SL_ALWAYS},
    {SL_W_PROJECTOR_1, "linear_1.weight", {SL_DIM_D, SL_DIM_MERGED}, SL_ALWAYS},
    {SL_W_PROJECTOR_1_B, "linear_1.bias", {SL_DIM_D}, SL_ALWAYS},
    {SL_W_PROJECTOR_2, "linear_2.weight", {SL_DIM_D, SL_DIM_D}, SL_ALWAYS},
    {SL_W_PROJECTOR_2_B, "linear_2.bias", {SL_DIM_D}, SL_ALWAYS},
};

/* The remote code's mlp1 is a Sequential: norm, Linear, GELU, Linear. */
static const sl_weight_row remote_weights[] = {
    {SL_W_PROJECTOR_NORM, "0.weight", {SL_DIM_MERGED}, SL_ALWAYS},
    {SL_W_PROJECTOR_NORM_B, "0.bias", {SL_DIM_MERGED}, SL_ALWAYS},
    {SL_W_PROJECTOR_1, "1.weight", {SL_DIM_D, SL_DIM_MERGED}, SL_ALWAYS},
    {SL_W_PROJECTOR_1_B, "1.bias", {SL_DIM_D}, SL_ALWAYS},
    {SL_W_PROJECTOR_2, "3.weight", {SL_DIM_D, SL_DIM_D}, SL_ALWAYS},
    {SL_W_PROJECTOR_2_B, "3.bias", {SL_DIM_D}, SL_ALWAYS},
};

/* Idefics3's: pixel shuffle with a side of its own, and one Linear without bias. */
static const sl_config_field shuffle_linear_fields[] = {
    SL_INT("scale_factor", projector.merge, 2, 1, 16),
};

static const sl_weight_row shuffle_linear_weights[] = {
    {SL_W_PROJECTOR_1, "modality_projection.proj.weight", {SL_DIM_D, SL_DIM_MERGED}, SL_ALWAYS},
};

/* Gemma 3's: the mean of k x k patches, an RMS norm, a matrix stored with its inputs first. */
static const sl_config_field pool_fields[] = {
    SL_INT("mm_tokens_per_image", projector.n_query, 256, 1, 65536),
};

static const sl_weight_row pool_weights[] = {
    {SL_W_PROJECTOR_NORM, "mm_soft_emb_norm.weight", {SL_DIM_VD}, SL_ALWAYS},
    {SL_W_PROJECTOR_1, "mm_input_projection_weight", {SL_DIM_VD, SL_DIM_D}, SL_ALWAYS},
};

static sl_status settle_pool(sl_config *c, const json_t *section, const char *name) {
  (void)section;
  const int grid = c->vision.image_px / c->vision.patch_px, side = (int)lround(sqrt((double)c->projector.n_query));
  if (side * side != c->projector.n_query || side > grid || grid % side != 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: mm_tokens_per_image is %d; expected the square of a side that divides the tower's %d "
            "patches", name, c->projector.n_query, grid);
  c->projector.act = "gelu";
  c->projector.merge = grid / side;
  c->projector.eps = c->vision.eps;
  c->projector.pools = c->projector.rms = c->projector.in_out = true;
  return SL_OK;
}

/* Both of the original's: a lone Linear has no activation to use it. */
static sl_status settle_original(sl_config *c, const json_t *section, const char *name) {
  (void)section, (void)name;
  c->projector.act = "gelu";
  return SL_OK;
}

static sl_status settle_shuffle(sl_config *c, const json_t *section, const char *name) {
  const double ratio = c->projector.eps;
  if (ratio != 0.5)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: downsample_ratio is %g; sightline's pixel shuffle has 0.5", name, ratio);
  c->projector.eps = 1e-5;
  c->projector.merge = 2;
  const json_t *told = json_object_get(section, "ps_version");
  const char *version = json_string_value(told);
  if (told && (!version || (strcmp(version, "v1") != 0 && strcmp(version, "v2") != 0)))
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: ps_version: expected \"v1\" or \"v2\"", name);
  c->projector.transposed = version && strcmp(version, "v1") == 0;
  return SL_OK;
}

/* ps_version is v1 where the file does not speak, as in the remote InternVLChatConfig. */
static sl_status settle_remote(sl_config *c, const json_t *section, const char *name) {
  SL_TRY(settle_shuffle(c, section, name));
  c->projector.transposed = c->projector.transposed || !json_object_get(section, "ps_version");
  return SL_OK;
}

const sl_kind sl_kind_mlp = {.model_type = "mlp", .fields = mlp_fields, .n_field = COUNT(mlp_fields),
                             .weights = mlp_weights, .n_weight = COUNT(mlp_weights), .table_modules = true};
const sl_kind sl_kind_linear = {.model_type = "linear", .weights = linear_weights, .n_weight = COUNT(linear_weights),
                                .settle = settle_original};
const sl_kind sl_kind_mlp2x = {.model_type = "mlp2x_gelu", .weights = mlp2x_weights, .n_weight = COUNT(mlp2x_weights),
                               .settle = settle_original};
const sl_kind sl_kind_shuffle = {.model_type = "shuffle", .fields = shuffle_fields, .n_field = COUNT(shuffle_fields),
                                 .weights = shuffle_weights, .n_weight = COUNT(shuffle_weights),
                                 .settle = settle_shuffle};
const sl_kind sl_kind_shuffle_remote = {.model_type = "shuffle", .fields = shuffle_fields,
                                        .n_field = COUNT(shuffle_fields), .weights = remote_weights,
                                        .n_weight = COUNT(remote_weights), .settle = settle_remote};
const sl_kind sl_kind_shuffle_linear = {.model_type = "shuffle", .fields = shuffle_linear_fields,
                                        .n_field = COUNT(shuffle_linear_fields), .weights = shuffle_linear_weights,
                                        .n_weight = COUNT(shuffle_linear_weights), .settle = settle_original};
const sl_kind sl_kind_pool = {.model_type = "pool", .fields = pool_fields, .n_field = COUNT(pool_fields),
                              .weights = pool_weights, .n_weight = COUNT(pool_weights), .settle = settle_pool};
