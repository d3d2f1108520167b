/* InternLM2's decoder, as InternVL's remote code has it: LLaMA with q, k and v in one tensor, grouped by key head.
 * Defaults are those of InternLM2Config. */
#include <math.h>

#include "model/family.h"

#define LAYER "layers.{i}."

static const sl_config_field fields[] = {
    SL_INT("vocab_size", text.n_vocab, 103168, 1, 4194304),
    SL_INT("hidden_size", text.d_model, 4096, 1, 65536),
    SL_INT("intermediate_size", text.d_mlp, 11008, 1, 262144),
    SL_INT("num_hidden_layers", text.n_layer, 32, 1, 1024),
    SL_INT("num_attention_heads", text.n_head, 32, 1, 1024),
    SL_INT("num_key_value_heads", text.n_head_kv, 0, 1, 1024),
    SL_INT("max_position_embeddings", text.max_position, 2048, 1, 16777216),
    SL_STRING("hidden_act", text.act, "silu"),
    SL_REAL("rms_norm_eps", text.eps, 1e-6),
    SL_REAL("rope_theta", text.rope_theta, 1e4),
    SL_STRING("rope_scaling.type", text.rope_type, "default"),
    SL_REAL("rope_scaling.factor", text.rope_factor, 0),
    SL_BOOL("bias", text.attention_bias, 1),
};

static const sl_weight_row weights[] = {
    {SL_W_EMBED, "tok_embeddings.weight", {SL_DIM_VOCAB, SL_DIM_D}, SL_ALWAYS},
    {SL_W_HEAD, "/lm_head.weight", {SL_DIM_VOCAB, SL_DIM_D}, SL_UNLESS_TIED},
    {SL_W_NORM, "norm.weight", {SL_DIM_D}, SL_ALWAYS},
    {SL_W_LN1, LAYER "attention_norm.weight", {SL_DIM_D}, SL_ALWAYS},
    {SL_W_QKV, LAYER "attention.wqkv.weight", {SL_DIM_QKV, SL_DIM_D}, SL_ALWAYS},
    {SL_W_QKV_B, LAYER "attention.wqkv.bias", {SL_DIM_QKV}, SL_WHEN(text.attention_bias)},
    {SL_W_O, LAYER "attention.wo.weight", {SL_DIM_D, SL_DIM_Q}, SL_ALWAYS},
    {SL_W_O_B, LAYER "attention.wo.bias", {SL_DIM_D}, SL_WHEN(text.attention_bias)},
    {SL_W_LN2, LAYER "ffn_norm.weight", {SL_DIM_D}, SL_ALWAYS},
    {SL_W_GATE, LAYER "feed_forward.w1.weight", {SL_DIM_MLP, SL_DIM_D}, SL_ALWAYS},
    {SL_W_UP, LAYER "feed_forward.w3.weight", {SL_DIM_MLP, SL_DIM_D}, SL_ALWAYS},
    {SL_W_DOWN, LAYER "feed_forward.w2.weight", {SL_DIM_D, SL_DIM_MLP}, SL_ALWAYS},
};

const sl_kind sl_kind_internlm2 = {
    .model_type = "internlm2",
    .fields = fields,
    .n_field = sizeof fields / sizeof *fields,
    .weights = weights,
    .n_weight = sizeof weights / sizeof *weights,
    .qkv_form = SL_QKV_GROUPED,
};
