/* Gemma 3's decoder (Gemma Team 2025) under transformers' names: norms before and after every sublayer, normed
 * queries and keys, five layers with a window and a rotary base of their own for each that sees everything. Weights of
 * norms are stored less 1. Defaults are those of Gemma3TextConfig. */
#include <math.h>
#include <string.h>

#include "model/family.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))
#define LAYER "layers.{i}."

static const sl_config_field fields[] = {
    SL_INT("vocab_size", text.n_vocab, 262208, 1, 4194304),
    SL_INT("hidden_size", text.d_model, 2304, 1, 65536),
    SL_INT("intermediate_size", text.d_mlp, 9216, 1, 262144),
    SL_INT("num_hidden_layers", text.n_layer, 26, 1, 1024),
    SL_INT("num_attention_heads", text.n_head, 8, 1, 1024),
    SL_INT("num_key_value_heads", text.n_head_kv, 4, 1, 1024),
    SL_INT("head_dim", text.d_head, 256, 1, 4096),
    SL_STRING("hidden_activation", text.act, "gelu_pytorch_tanh"),
    SL_INT("max_position_embeddings", text.max_position, 131072, 1, 16777216),
    SL_REAL("rms_norm_eps", text.eps, 1e-6),
    SL_BOOL("attention_bias", text.attention_bias, 0),
    SL_REAL("query_pre_attn_scalar", text.query_scalar, 256),
    SL_INT("sliding_window", text.sliding_window, 4096, 1, 16777216),
    SL_INT("sliding_window_pattern", text.global_every, 6, 1, 1025),
    SL_REAL("rope_theta", text.rope_theta, 1e6),
    SL_REAL("rope_parameters.full_attention.rope_theta", text.rope_theta, NAN),
    SL_REAL("rope_local_base_freq", text.local_theta, 1e4),
    SL_REAL("rope_parameters.sliding_attention.rope_theta", text.local_theta, NAN),
    /* Of a file with both spellings transformers takes the older. */
    SL_STRING("rope_parameters.full_attention.type", text.rope_type, "default"),
    SL_STRING("rope_parameters.full_attention.rope_type", text.rope_type, NULL),
    SL_STRING("rope_scaling.type", text.rope_type, NULL),
    SL_STRING("rope_scaling.rope_type", text.rope_type, NULL),
    SL_REAL("rope_parameters.full_attention.factor", text.rope_factor, 0),
    SL_REAL("rope_scaling.factor", text.rope_factor, NAN),
};

static const sl_weight_row weights[] = {
    {SL_W_EMBED, "embed_tokens.weight", {SL_DIM_VOCAB, SL_DIM_D}, SL_ALWAYS},
    {SL_W_HEAD, "/lm_head.weight", {SL_DIM_VOCAB, SL_DIM_D}, SL_UNLESS_TIED},
    {SL_W_NORM, "norm.weight", {SL_DIM_D}, SL_ALWAYS},
    {SL_W_LN1, LAYER "input_layernorm.weight", {SL_DIM_D}, SL_ALWAYS},
    {SL_W_Q, LAYER "self_attn.q_proj.weight", {SL_DIM_Q, SL_DIM_D}, SL_ALWAYS},
    {SL_W_Q_B, LAYER "self_attn.q_proj.bias", {SL_DIM_Q}, SL_WHEN(text.attention_bias)},
    {SL_W_K, LAYER "self_attn.k_proj.weight", {SL_DIM_KV, SL_DIM_D}, SL_ALWAYS},
    {SL_W_K_B, LAYER "self_attn.k_proj.bias", {SL_DIM_KV}, SL_WHEN(text.attention_bias)},
    {SL_W_V, LAYER "self_attn.v_proj.weight", {SL_DIM_KV, SL_DIM_D}, SL_ALWAYS},
    {SL_W_V_B, LAYER "self_attn.v_proj.bias", {SL_DIM_KV}, SL_WHEN(text.attention_bias)},
    {SL_W_Q_NORM, LAYER "self_attn.q_norm.weight", {SL_DIM_HEAD}, SL_ALWAYS},
    {SL_W_K_NORM, LAYER "self_attn.k_norm.weight", {SL_DIM_HEAD}, SL_ALWAYS},
    {SL_W_O, LAYER "self_attn.o_proj.weight", {SL_DIM_D, SL_DIM_Q}, SL_ALWAYS},
    {SL_W_O_B, LAYER "self_attn.o_proj.bias", {SL_DIM_D}, SL_WHEN(text.attention_bias)},
    {SL_W_POST1, LAYER "post_attention_layernorm.weight", {SL_DIM_D}, SL_ALWAYS},
    {SL_W_LN2, LAYER "pre_feedforward_layernorm.weight", {SL_DIM_D}, SL_ALWAYS},
    {SL_W_GATE, LAYER "mlp.gate_proj.weight", {SL_DIM_MLP, SL_DIM_D}, SL_ALWAYS},
    {SL_W_UP, LAYER "mlp.up_proj.weight", {SL_DIM_MLP, SL_DIM_D}, SL_ALWAYS},
    {SL_W_DOWN, LAYER "mlp.down_proj.weight", {SL_DIM_D, SL_DIM_MLP}, SL_ALWAYS},
    {SL_W_POST2, LAYER "post_feedforward_layernorm.weight", {SL_DIM_D}, SL_ALWAYS},
};

/* layer_types, where a file lists them, says which layers see everything: every n-th. */
static sl_status read_layer_types(sl_config *c, const json_t *types, const char *name) {
  if (!types || json_is_null(types)) return SL_OK;
  if ((int)json_array_size(types) != c->text.n_layer)
    SL_FAIL(SL_ERROR_FORMAT, "%s: text_config.layer_types has %zu entries; num_hidden_layers is %d", name,
            json_array_size(types), c->text.n_layer);
  c->text.global_every = 0;
  for (int il = 0; il < c->text.n_layer; il++) {
    const char *type = json_string_value(json_array_get(types, (size_t)il));
    const bool is_global = type && strcmp(type, "full_attention") == 0;
    if (!is_global && !(type && strcmp(type, "sliding_attention") == 0))
      SL_FAIL(SL_ERROR_FORMAT, "%s: text_config.layer_types[%d]: expected \"full_attention\" or \"sliding_attention\"",
              name, il);
    if (is_global && c->text.global_every == 0) c->text.global_every = il + 1;
    if (c->text.global_every > 0 && is_global != ((il + 1) % c->text.global_every == 0))
      SL_FAIL(SL_ERROR_UNSUPPORTED,
              "%s: text_config.layer_types[%d] is \"%s\"; sightline has \"full_attention\" at regular "
              "intervals, here of %d",
              name, il, type, c->text.global_every);
  }
  if (c->text.global_every == 0) c->text.global_every = c->text.n_layer + 1;
  return SL_OK;
}

static sl_status check_positive(double value, const char *key, const char *name) {
  if (value > 0 && isfinite(value)) return SL_OK;
  SL_FAIL(SL_ERROR_FORMAT, "%s: text_config.%s is %g; expected a number > 0", name, key, value);
}

static sl_status settle(sl_config *c, const json_t *section, const char *name) {
  static const char *const switches[] = {"attn_logit_softcapping", "final_logit_softcapping",
                                         "use_bidirectional_attention"};
  for (size_t i = 0; i < COUNT(switches); i++) {
    const json_t *value = json_object_get(section, switches[i]);
    if (value && !json_is_null(value) && !json_is_false(value))
      SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: text_config.%s is set; sightline's Gemma 3 is without", name, switches[i]);
  }
  const json_t *local = json_object_get(json_object_get(section, "rope_parameters"), "sliding_attention");
  const json_t *told = json_object_get(local, "rope_type");
  const char *local_type = json_string_value(told ? told : json_object_get(local, "type"));
  if (local_type && strcmp(local_type, "default") != 0)
    SL_FAIL(SL_ERROR_UNSUPPORTED,
            "%s: text_config.rope_parameters.sliding_attention.rope_type is \"%s\"; sightline has "
            "\"default\" there",
            name, local_type);
  SL_TRY(read_layer_types(c, json_object_get(section, "layer_types"), name));
  SL_TRY(check_positive(c->text.local_theta, "rope_local_base_freq", name));
  SL_TRY(check_positive(c->text.query_scalar, "query_pre_attn_scalar", name));
  c->text.scales_embeddings = c->text.offset_norms = c->text.qk_norm = c->text.sandwich = true;
  return SL_OK;
}

const sl_kind sl_kind_gemma3 = {
    .model_type = "gemma3_text",
    .fields = fields,
    .n_field = COUNT(fields),
    .weights = weights,
    .n_weight = COUNT(weights),
    .settle = settle,
};
