/* Qwen-7B's decoder (first generation), as Qwen-VL's remote code has it: LLaMA with a stacked q, k, v with bias, an MLP
 * whose gate is called w2 and whose config counts gate and up together, rotary frequencies that stretch beyond the
 * trained length (dynamic NTK) and queries that grow there (logN). Defaults are those of QWenConfig. */
#include <math.h>

#include "model/family.h"

#define LAYER "h.{i}."

static const sl_config_field fields[] = {
    SL_INT("vocab_size", text.n_vocab, 151936, 1, 4194304),
    SL_INT("hidden_size", text.d_model, 4096, 1, 65536),
    SL_INT("intermediate_size", text.d_mlp, 22016, 2, 262144),
    SL_INT("num_hidden_layers", text.n_layer, 32, 1, 1024),
    SL_INT("num_attention_heads", text.n_head, 32, 1, 1024),
    SL_INT("kv_channels", text.d_head, 128, 1, 4096),
    SL_INT("max_position_embeddings", text.max_position, 8192, 1, 16777216),
    SL_INT("seq_length", text.trained_length, 2048, 2, 16777216),
    SL_REAL("layer_norm_epsilon", text.eps, 1e-6),
    SL_REAL("rotary_emb_base", text.rope_theta, 1e4),
    SL_BOOL("use_dynamic_ntk", text.dynamic_ntk, 1),
    SL_BOOL("use_logn_attn", text.log_n, 1),
    SL_FIXED_STRING(text.act, "silu"),
    SL_FIXED_STRING(text.rope_type, "default"),
};

static const sl_weight_row weights[] = {
    {SL_W_EMBED, "wte.weight", {SL_DIM_VOCAB, SL_DIM_D}, SL_ALWAYS},
    {SL_W_HEAD, "/lm_head.weight", {SL_DIM_VOCAB, SL_DIM_D}, SL_UNLESS_TIED},
    {SL_W_NORM, "ln_f.weight", {SL_DIM_D}, SL_ALWAYS},
    {SL_W_LN1, LAYER "ln_1.weight", {SL_DIM_D}, SL_ALWAYS},
    {SL_W_QKV, LAYER "attn.c_attn.weight", {SL_DIM_QKV, SL_DIM_D}, SL_ALWAYS},
    {SL_W_QKV_B, LAYER "attn.c_attn.bias", {SL_DIM_QKV}, SL_ALWAYS},
    {SL_W_O, LAYER "attn.c_proj.weight", {SL_DIM_D, SL_DIM_Q}, SL_ALWAYS},
    {SL_W_LN2, LAYER "ln_2.weight", {SL_DIM_D}, SL_ALWAYS},
    {SL_W_GATE, LAYER "mlp.w2.weight", {SL_DIM_MLP, SL_DIM_D}, SL_ALWAYS},
    {SL_W_UP, LAYER "mlp.w1.weight", {SL_DIM_MLP, SL_DIM_D}, SL_ALWAYS},
    {SL_W_DOWN, LAYER "mlp.c_proj.weight", {SL_DIM_D, SL_DIM_MLP}, SL_ALWAYS},
};

static sl_status settle(sl_config *c, const json_t *section, const char *name) {
  if (c->text.d_mlp % 2)
    SL_FAIL(SL_ERROR_FORMAT, "%s: intermediate_size %d is odd; Qwen halves it", name, c->text.d_mlp);
  c->text.d_mlp /= 2;
  const json_t *bias = json_object_get(section, "no_bias");
  if (bias && !json_is_true(bias))
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: no_bias: expected true; sightline's Qwen has a bias on q, k and v alone", name);
  if (c->text.d_head < 4)
    SL_FAIL(SL_ERROR_FORMAT, "%s: kv_channels %d: dynamic NTK divides by kv_channels - 2", name, c->text.d_head);
  return SL_OK;
}

const sl_kind sl_kind_qwen = {
    .model_type = "qwen",
    .fields = fields,
    .n_field = sizeof fields / sizeof *fields,
    .weights = weights,
    .n_weight = sizeof weights / sizeof *weights,
    .qkv_form = SL_QKV_STACKED,
    .settle = settle,
};
