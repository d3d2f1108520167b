/* A family of models as data: which folders it claims, where its numbers stand in config.json, what its tensors are
 * called and shaped like, how it writes a prompt. One file in family/ and one line in families.c each. */
#ifndef SL_MODEL_FAMILY_H
#define SL_MODEL_FAMILY_H

#include "model/config.h"

/* Symbolic sizes of tensor axes. */
typedef enum sl_dim {
  SL_DIM_NONE, /* no further axis */
  SL_DIM_D, SL_DIM_VOCAB, SL_DIM_Q, SL_DIM_KV, SL_DIM_MLP,                  /* decoder: width, H d, Hkv d, MLP */
  SL_DIM_VD, SL_DIM_VMLP, SL_DIM_VROWS, SL_DIM_PATCH, SL_DIM_RGB,           /* tower: width, MLP, patches + 1, p, 3 */
  SL_DIM_COUNT
} sl_dim;

/* What a tensor is for. Biases follow their weight. */
typedef enum sl_role {
  SL_W_EMBED, SL_W_HEAD, SL_W_NORM,
  SL_W_LN1, SL_W_Q, SL_W_Q_B, SL_W_K, SL_W_K_B, SL_W_V, SL_W_V_B, SL_W_O, SL_W_O_B,
  SL_W_LN2, SL_W_GATE, SL_W_GATE_B, SL_W_UP, SL_W_UP_B, SL_W_DOWN, SL_W_DOWN_B,
  SL_W_PROJECTOR_1, SL_W_PROJECTOR_1_B, SL_W_PROJECTOR_2, SL_W_PROJECTOR_2_B,
  SL_W_CLASS, SL_W_PATCH, SL_W_POSITION, SL_W_PRE_NORM, SL_W_PRE_NORM_B,
  SL_W_VLN1, SL_W_VLN1_B, SL_W_VQ, SL_W_VQ_B, SL_W_VK, SL_W_VK_B, SL_W_VV, SL_W_VV_B, SL_W_VO, SL_W_VO_B,
  SL_W_VLN2, SL_W_VLN2_B, SL_W_FC1, SL_W_FC1_B, SL_W_FC2, SL_W_FC2_B,
  SL_W_COUNT
} sl_role;

/* When a tensor must be there. */
typedef enum sl_need {
  SL_NEED_ALWAYS,
  SL_NEED_UNLESS_TIED,     /* the head: absent means tied to the embedding */
  SL_NEED_ATTENTION_BIAS,
  SL_NEED_MLP_BIAS,
  SL_NEED_PROJECTOR_BIAS
} sl_need;

typedef struct sl_weight_row {
  sl_role role;
  const char *name; /* canonical name; "{i}" is the layer */
  sl_dim shape[4];
  sl_need need;
} sl_weight_row;

/* A rewriting of tensor names to the canonical ones: `from` at the start of a name becomes `to`; rules are tried in
 * order, and a rule that fired is followed by the rest. */
typedef struct sl_rename {
  const char *from, *to;
} sl_rename;

typedef struct sl_family {
  const char *name;                 /* "llava" */
  const char *title;                /* "LLaVA-1.5" */
  const char *const *model_types;   /* config.json's model_type values it claims, NULL-terminated */
  const sl_config_field *fields;
  int n_field;
  const sl_rename *renames;
  int n_rename;
  const sl_weight_row *weights;
  int n_weight;
  const char *const *ignored;       /* globs over canonical names that are known and not needed, NULL-terminated */
  const char *prompt;               /* template: "{question}" is replaced */
  const char *placeholder;          /* the picture's place in the template */
  const char *assistant;            /* the role marker that ends the prompt */
  const char *user;                 /* the role marker that starts the user's turn */
  /* Checks what the table cannot (unsupported values in this family's config). */
  sl_status (*check)(const sl_config *config, const char *name);
} sl_family;

/* The family that claims this config.json, or an error naming the model_type found and those supported. */
sl_status sl_family_find(const sl_family **out, json_t *config, const char *name);

int sl_dim_size(const sl_config *config, sl_dim dim);

#endif
