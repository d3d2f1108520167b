/* InstructBLIP's Q-Former (Dai et al. 2023) and the Linear after it, under transformers' names. Defaults are those of
 * InstructBlipQFormerConfig. Names are whole: the parts stand at the top of the checkpoint. */
#include <math.h>

#include "model/family.h"

#define LAYER "/qformer.encoder.layer.{i}."

static const sl_config_field fields[] = {
    SL_INT("vocab_size", projector.n_vocab, 30522, 1, 4194304),
    SL_INT("hidden_size", projector.d_model, 768, 1, 65536),
    SL_INT("intermediate_size", projector.d_mlp, 3072, 1, 262144),
    SL_INT("num_hidden_layers", projector.n_layer, 12, 1, 1024),
    SL_INT("num_attention_heads", projector.n_head, 12, 1, 1024),
    SL_INT("max_position_embeddings", projector.max_position, 512, 1, 1048576),
    SL_INT("cross_attention_frequency", projector.cross_every, 2, 1, 1024),
    SL_REAL("layer_norm_eps", projector.eps, 1e-12),
    SL_STRING("hidden_act", projector.act, "gelu"),
};

#define DENSE(role, name, out, in) \
  {role, LAYER name ".weight", {out, in}, SL_ALWAYS}, {role##_B, LAYER name ".bias", {out}, SL_ALWAYS}
#define NORM(role, name) \
  {role, LAYER name ".weight", {SL_DIM_PD}, SL_ALWAYS}, {role##_B, LAYER name ".bias", {SL_DIM_PD}, SL_ALWAYS}

static const sl_weight_row weights[] = {
    {SL_W_QF_QUERY, "/query_tokens", {SL_DIM_ONE, SL_DIM_QUERY, SL_DIM_PD}, SL_ALWAYS},
    {SL_W_QF_WORD, "/qformer.embeddings.word_embeddings.weight", {SL_DIM_PVOCAB, SL_DIM_PD}, SL_ALWAYS},
    {SL_W_QF_POSITION, "/qformer.embeddings.position_embeddings.weight", {SL_DIM_PROWS, SL_DIM_PD}, SL_ALWAYS},
    {SL_W_QF_LN, "/qformer.embeddings.layernorm.weight", {SL_DIM_PD}, SL_ALWAYS},
    {SL_W_QF_LN_B, "/qformer.embeddings.layernorm.bias", {SL_DIM_PD}, SL_ALWAYS},
    DENSE(SL_W_QF_Q, "attention.attention.query", SL_DIM_PD, SL_DIM_PD),
    DENSE(SL_W_QF_K, "attention.attention.key", SL_DIM_PD, SL_DIM_PD),
    DENSE(SL_W_QF_V, "attention.attention.value", SL_DIM_PD, SL_DIM_PD),
    DENSE(SL_W_QF_O, "attention.output.dense", SL_DIM_PD, SL_DIM_PD),
    NORM(SL_W_QF_O_LN, "attention.output.LayerNorm"),
    DENSE(SL_W_QX_Q, "crossattention.attention.query", SL_DIM_PD, SL_DIM_PD),
    DENSE(SL_W_QX_K, "crossattention.attention.key", SL_DIM_PD, SL_DIM_VD),
    DENSE(SL_W_QX_V, "crossattention.attention.value", SL_DIM_PD, SL_DIM_VD),
    DENSE(SL_W_QX_O, "crossattention.output.dense", SL_DIM_PD, SL_DIM_PD),
    NORM(SL_W_QX_O_LN, "crossattention.output.LayerNorm"),
    DENSE(SL_W_QF_FC1, "intermediate_query.dense", SL_DIM_PMLP, SL_DIM_PD),
    DENSE(SL_W_QF_FC2, "output_query.dense", SL_DIM_PD, SL_DIM_PMLP),
    NORM(SL_W_QF_FC_LN, "output_query.LayerNorm"),
    DENSE(SL_W_QT_FC1, "intermediate.dense", SL_DIM_PMLP, SL_DIM_PD),
    DENSE(SL_W_QT_FC2, "output.dense", SL_DIM_PD, SL_DIM_PMLP),
    NORM(SL_W_QT_FC_LN, "output.LayerNorm"),
    {SL_W_PROJECTOR_1, "/language_projection.weight", {SL_DIM_D, SL_DIM_PD}, SL_ALWAYS},
    {SL_W_PROJECTOR_1_B, "/language_projection.bias", {SL_DIM_D}, SL_ALWAYS},
};

static sl_status settle(sl_config *c, const json_t *section, const char *name) {
  (void)section;
  if (c->projector.d_model % c->projector.n_head != 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: qformer_config.hidden_size %d is not a multiple of num_attention_heads %d", name,
            c->projector.d_model, c->projector.n_head);
  return SL_OK;
}

const sl_kind sl_kind_qformer = {
    .model_type = "instructblip_qformer",
    .fields = fields,
    .n_field = sizeof fields / sizeof *fields,
    .weights = weights,
    .n_weight = sizeof weights / sizeof *weights,
    .settle = settle,
    .connector = SL_CONNECT_QFORMER,
};
