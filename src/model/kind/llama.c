/* LLaMA-like decoders under transformers' names: LLaMA, Mistral, Qwen2 and that of Qwen2-VL. They differ in defaults,
 * biases and windows. Defaults are those of LlamaConfig, MistralConfig and Qwen2Config. */
#include <math.h>
#include <string.h>

#include "model/family.h"

#define LAYER "layers.{i}."
#define COUNT(table) (sizeof(table) / sizeof *(table))

/* The numbers of a rope type, in the spelling of transformers 4 and of 5. */
#define ROPE_SCALES(at, value) \
  SL_REAL(at "factor", text.rope_factor, value), SL_REAL(at "low_freq_factor", text.rope_low, value), \
  SL_REAL(at "high_freq_factor", text.rope_high, value), \
  SL_INT(at "original_max_position_embeddings", text.rope_original, value, 1, 16777216)

/* Rows whose defaults the kinds agree in. */
#define COMMON_FIELDS                                                                                           \
  SL_INT("num_attention_heads", text.n_head, 32, 1, 1024),                                                      \
      SL_INT("num_key_value_heads", text.n_head_kv, NAN, 1, 1024), SL_INT("head_dim", text.d_head, 0, 1, 4096), \
      SL_STRING("hidden_act", text.act, "silu"), SL_REAL("rms_norm_eps", text.eps, 1e-6),                       \
      SL_REAL("rope_theta", text.rope_theta, 1e4), SL_REAL("rope_scaling.rope_theta", text.rope_theta, NAN),    \
      SL_REAL("rope_parameters.rope_theta", text.rope_theta, NAN),                                              \
      SL_STRING("rope_scaling.type", text.rope_type, "default"),                                                \
      SL_STRING("rope_scaling.rope_type", text.rope_type, NULL),                                                \
      SL_STRING("rope_parameters.type", text.rope_type, NULL),                                                  \
      SL_STRING("rope_parameters.rope_type", text.rope_type, NULL), ROPE_SCALES("rope_scaling.", 0),            \
      ROPE_SCALES("rope_parameters.", NAN)

static const sl_config_field llama_fields[] = {
    SL_INT("vocab_size", text.n_vocab, 32000, 1, 4194304),
    SL_INT("hidden_size", text.d_model, 4096, 1, 65536),
    SL_INT("intermediate_size", text.d_mlp, 11008, 1, 262144),
    SL_INT("num_hidden_layers", text.n_layer, 32, 1, 1024),
    SL_INT("max_position_embeddings", text.max_position, 2048, 1, 16777216),
    SL_BOOL("attention_bias", text.attention_bias, 0),
    SL_BOOL("mlp_bias", text.mlp_bias, 0),
    COMMON_FIELDS,
};

static const sl_config_field mistral_fields[] = {
    SL_INT("vocab_size", text.n_vocab, 32000, 1, 4194304),
    SL_INT("hidden_size", text.d_model, 4096, 1, 65536),
    SL_INT("intermediate_size", text.d_mlp, 14336, 1, 262144),
    SL_INT("num_hidden_layers", text.n_layer, 32, 1, 1024),
    SL_INT("max_position_embeddings", text.max_position, 131072, 1, 16777216),
    COMMON_FIELDS,
};

static const sl_config_field qwen2_fields[] = {
    SL_INT("vocab_size", text.n_vocab, 151936, 1, 4194304),
    SL_INT("hidden_size", text.d_model, 4096, 1, 65536),
    SL_INT("intermediate_size", text.d_mlp, 22016, 1, 262144),
    SL_INT("num_hidden_layers", text.n_layer, 32, 1, 1024),
    SL_INT("max_position_embeddings", text.max_position, 32768, 1, 16777216),
    COMMON_FIELDS,
};

/* Qwen2VLTextConfig and Qwen2_5_VLTextConfig; the later rows overrule COMMON_FIELDS. */
static const sl_config_field qwen2_vl_fields[] = {
    SL_INT("vocab_size", text.n_vocab, 152064, 1, 4194304),
    SL_INT("hidden_size", text.d_model, 8192, 1, 65536),
    SL_INT("intermediate_size", text.d_mlp, 29568, 1, 262144),
    SL_INT("num_hidden_layers", text.n_layer, 80, 1, 1024),
    SL_INT("max_position_embeddings", text.max_position, 32768, 1, 16777216),
    COMMON_FIELDS,
    SL_INT("num_attention_heads", text.n_head, 64, 1, 1024),
    SL_REAL("rms_norm_eps", text.eps, 1e-5),
    SL_REAL("rope_theta", text.rope_theta, 1e6),
    SL_REAL("rope_scaling.rope_theta", text.rope_theta, NAN),
    SL_REAL("rope_parameters.rope_theta", text.rope_theta, NAN),
};

static const sl_weight_row weights[] = {
    {SL_W_EMBED, "embed_tokens.weight", {SL_DIM_VOCAB, SL_DIM_D}, SL_ALWAYS},
    {SL_W_HEAD, "/lm_head.weight", {SL_DIM_VOCAB, SL_DIM_D}, SL_UNLESS_TIED},
    {SL_W_NORM, "norm.weight", {SL_DIM_D}, SL_ALWAYS},
    {SL_W_LN1, LAYER "input_layernorm.weight", {SL_DIM_D}, SL_ALWAYS},
    {SL_W_Q, LAYER "self_attn.q_proj.weight", {SL_DIM_Q, SL_DIM_D}, SL_ALWAYS},
    {SL_W_Q_B, LAYER "self_attn.q_proj.bias", {SL_DIM_Q}, SL_WHEN(text.qkv_bias)},
    {SL_W_K, LAYER "self_attn.k_proj.weight", {SL_DIM_KV, SL_DIM_D}, SL_ALWAYS},
    {SL_W_K_B, LAYER "self_attn.k_proj.bias", {SL_DIM_KV}, SL_WHEN(text.qkv_bias)},
    {SL_W_V, LAYER "self_attn.v_proj.weight", {SL_DIM_KV, SL_DIM_D}, SL_ALWAYS},
    {SL_W_V_B, LAYER "self_attn.v_proj.bias", {SL_DIM_KV}, SL_WHEN(text.qkv_bias)},
    {SL_W_O, LAYER "self_attn.o_proj.weight", {SL_DIM_D, SL_DIM_Q}, SL_ALWAYS},
    {SL_W_O_B, LAYER "self_attn.o_proj.bias", {SL_DIM_D}, SL_WHEN(text.attention_bias)},
    {SL_W_LN2, LAYER "post_attention_layernorm.weight", {SL_DIM_D}, SL_ALWAYS},
    {SL_W_GATE, LAYER "mlp.gate_proj.weight", {SL_DIM_MLP, SL_DIM_D}, SL_ALWAYS},
    {SL_W_GATE_B, LAYER "mlp.gate_proj.bias", {SL_DIM_MLP}, SL_WHEN(text.mlp_bias)},
    {SL_W_UP, LAYER "mlp.up_proj.weight", {SL_DIM_MLP, SL_DIM_D}, SL_ALWAYS},
    {SL_W_UP_B, LAYER "mlp.up_proj.bias", {SL_DIM_MLP}, SL_WHEN(text.mlp_bias)},
    {SL_W_DOWN, LAYER "mlp.down_proj.weight", {SL_DIM_D, SL_DIM_MLP}, SL_ALWAYS},
    {SL_W_DOWN_B, LAYER "mlp.down_proj.bias", {SL_DIM_D}, SL_WHEN(text.mlp_bias)},
};

static sl_status settle_llama(sl_config *c, const json_t *section, const char *name) {
  (void)section, (void)name;
  c->text.qkv_bias = c->text.attention_bias;
  return SL_OK;
}

/* MistralConfig: 8 key heads and a window of 4096 where the file does not speak; an explicit null is as many heads as
 * queries, and no window. */
static sl_status settle_mistral(sl_config *c, const json_t *section, const char *name) {
  if (!json_object_get(section, "num_key_value_heads")) c->text.n_head_kv = 8;
  const json_t *window = json_object_get(section, "sliding_window");
  if (!window) {
    c->text.sliding_window = 4096;
  } else if (!json_is_null(window)) {
    const json_int_t value = json_is_integer(window) ? json_integer_value(window) : 0;
    if (value < 1 || value > 16777216)
      SL_FAIL(SL_ERROR_FORMAT, "%s: sliding_window: expected null or an integer in [1, 16777216]", name);
    c->text.sliding_window = (int)value;
  }
  /* A window that no position of the model leaves is none. */
  if (c->text.sliding_window >= c->text.max_position) c->text.sliding_window = 0;
  return SL_OK;
}

static sl_status settle_qwen2(sl_config *c, const json_t *section, const char *name) {
  c->text.qkv_bias = true;
  if (json_is_true(json_object_get(section, "use_sliding_window")))
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: use_sliding_window is true; sightline's Qwen2 attends to everything",
            name);
  return SL_OK;
}

/* M-RoPE: "mrope" is the default kind of rotary embedding, with axes; `mrope_section` says how many pairs turn by each.
 * Keys are 8 heads where the file does not speak, and an explicit null is as many as queries. */
static sl_status settle_qwen2_vl(sl_config *c, const json_t *section, const char *name) {
  const json_t *rope = json_object_get(section, "rope_parameters");
  const json_t *list =
      json_object_get(json_is_object(rope) ? rope : json_object_get(section, "rope_scaling"), "mrope_section");
  static const int usual[3] = {16, 24, 24};
  SL_TRY(settle_qwen2(c, section, name));
  if (!json_object_get(section, "num_key_value_heads")) c->text.n_head_kv = 8;
  if (strcmp(c->text.rope_type, "mrope") == 0) c->text.rope_type = "default";
  if (list && json_array_size(list) != 3)
    SL_FAIL(SL_ERROR_FORMAT, "%s: mrope_section: expected three numbers", name);
  const int width = c->text.d_head > 0 ? c->text.d_head : c->text.d_model / c->text.n_head;
  json_int_t sum = 0;
  for (size_t a = 0; a < 3; a++) {
    const json_int_t n = list ? json_integer_value(json_array_get(list, a)) : usual[a];
    if (n < 0 || n > width) SL_FAIL(SL_ERROR_FORMAT, "%s: mrope_section: expected numbers of a head's pairs", name);
    c->text.rope_sections[a] = (int)n;
    sum += n;
  }
  if (sum != width / 2)
    SL_FAIL(SL_ERROR_FORMAT, "%s: mrope_section has %d pairs; a head %d wide has %d", name, (int)sum, width, width / 2);
  return SL_OK;
}

const sl_kind sl_kind_qwen2_vl = {"qwen2_vl_text", qwen2_vl_fields, COUNT(qwen2_vl_fields), weights, COUNT(weights),
                                  settle_qwen2_vl, SL_QKV_STACKED, SL_CONNECT_MLP, true};
const sl_kind sl_kind_llama = {"llama", llama_fields, COUNT(llama_fields), weights, COUNT(weights),
                               settle_llama, SL_QKV_STACKED, SL_CONNECT_MLP, true};
const sl_kind sl_kind_mistral = {"mistral", mistral_fields, COUNT(mistral_fields), weights, COUNT(weights),
                                 settle_mistral, SL_QKV_STACKED, SL_CONNECT_MLP, true};
const sl_kind sl_kind_qwen2 = {"qwen2", qwen2_fields, COUNT(qwen2_fields), weights, COUNT(weights),
                               settle_qwen2, SL_QKV_STACKED, SL_CONNECT_MLP, true};
