/* Qwen-VL's resampler: learned queries read the tower's rows by one cross-attention, then a norm and a matrix. Its
 * numbers stand in the tower's section (see qwen_vit.c). Names are those of the remote code. */
#include <math.h>

#include "model/family.h"

static const sl_weight_row weights[] = {
    {SL_W_R_QUERY, "attn_pool.query", {SL_DIM_QUERY, SL_DIM_PD}, SL_ALWAYS},
    {SL_W_R_POSITION, "attn_pool.pos_embed", {SL_DIM_QUERY, SL_DIM_PD}, SL_ALWAYS},
    {SL_W_R_KV, "attn_pool.kv_proj.weight", {SL_DIM_PD, SL_DIM_VD}, SL_WHEN(projector.widens)},
    {SL_W_R_IN, "attn_pool.attn.in_proj_weight", {SL_DIM_P3D, SL_DIM_PD}, SL_ALWAYS},
    {SL_W_R_IN_B, "attn_pool.attn.in_proj_bias", {SL_DIM_P3D}, SL_ALWAYS},
    {SL_W_R_OUT, "attn_pool.attn.out_proj.weight", {SL_DIM_PD, SL_DIM_PD}, SL_ALWAYS},
    {SL_W_R_OUT_B, "attn_pool.attn.out_proj.bias", {SL_DIM_PD}, SL_ALWAYS},
    {SL_W_R_LN_Q, "attn_pool.ln_q.weight", {SL_DIM_PD}, SL_ALWAYS},
    {SL_W_R_LN_Q_B, "attn_pool.ln_q.bias", {SL_DIM_PD}, SL_ALWAYS},
    {SL_W_R_LN_KV, "attn_pool.ln_kv.weight", {SL_DIM_PD}, SL_ALWAYS},
    {SL_W_R_LN_KV_B, "attn_pool.ln_kv.bias", {SL_DIM_PD}, SL_ALWAYS},
    {SL_W_R_LN_POST, "ln_post.weight", {SL_DIM_PD}, SL_ALWAYS},
    {SL_W_R_LN_POST_B, "ln_post.bias", {SL_DIM_PD}, SL_ALWAYS},
    {SL_W_R_PROJ, "proj", {SL_DIM_PD, SL_DIM_PD}, SL_ALWAYS}, /* x @ proj: not transposed */
};

/* One head for every 128 columns, as the remote code has it. */
static sl_status settle(sl_config *c, const json_t *section, const char *name) {
  (void)section;
  if (c->projector.d_model % 128 != 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: visual.output_dim %d is not a multiple of 128, the resampler's head width", name,
            c->projector.d_model);
  if (c->projector.d_model != c->text.d_model)
    SL_FAIL(SL_ERROR_FORMAT, "%s: visual.output_dim is %d; the decoder's hidden_size is %d", name, c->projector.d_model,
            c->text.d_model);
  int side = 0;
  while ((side + 1) * (side + 1) <= c->projector.n_query) side++;
  if (side * side != c->projector.n_query)
    SL_FAIL(SL_ERROR_FORMAT, "%s: visual.n_queries %d is not a square; the queries' positions are a grid's", name,
            c->projector.n_query);
  c->projector.n_head = c->projector.d_model / 128;
  c->projector.widens = c->projector.d_model != c->vision.d_model;
  c->projector.eps = 1e-6;
  return SL_OK;
}

const sl_kind sl_kind_resampler = {
    .model_type = "resampler",
    .weights = weights,
    .n_weight = sizeof weights / sizeof *weights,
    .settle = settle,
    .connector = SL_CONNECT_RESAMPLER,
};
