/* A family of models as data: which folders it claims, of which kinds its parts are, where its numbers stand in
 * config.json, what its tensors are called and shaped like, how a picture becomes tokens and how a prompt is written.
 * One file in family/ and one line in families.c each. Kinds (kind/) are shared: a kind is one way of building a tower
 * or a decoder, with its own fields and tensors. */
#ifndef SL_MODEL_FAMILY_H
#define SL_MODEL_FAMILY_H

#include <stddef.h>

#include "input/tokenizer.h"
#include "input/views.h"
#include "model/config.h"

/* Symbolic sizes of tensor axes. */
typedef enum sl_dim {
  SL_DIM_NONE, /* no further axis */
  SL_DIM_ONE,
  /* decoder: width, ids, H d, Hkv d, .., d */
  SL_DIM_D, SL_DIM_VOCAB, SL_DIM_Q, SL_DIM_KV, SL_DIM_QKV, SL_DIM_HEAD, SL_DIM_MLP,
  /* tower: width, 3 widths, MLP, rows, p, 3, frames */
  SL_DIM_VD, SL_DIM_V3D, SL_DIM_VMLP, SL_DIM_VROWS, SL_DIM_PATCH, SL_DIM_RGB, SL_DIM_FRAME,
  /* projector: width x patches a token x layers that are read */
  SL_DIM_MERGED,
  /* Q-Former, resampler: queries, width, 3 widths, MLP, words, positions */
  SL_DIM_QUERY, SL_DIM_PD, SL_DIM_P3D, SL_DIM_PMLP, SL_DIM_PVOCAB, SL_DIM_PROWS,
  SL_DIM_COUNT
} sl_dim;

/* What a tensor is for. */
typedef enum sl_role {
  SL_W_EMBED, SL_W_HEAD, SL_W_NORM,
  SL_W_LN1, SL_W_QKV, SL_W_QKV_B, SL_W_Q, SL_W_Q_B, SL_W_K, SL_W_K_B, SL_W_V, SL_W_V_B, SL_W_O, SL_W_O_B,
  SL_W_Q_NORM, SL_W_K_NORM, SL_W_POST1, SL_W_POST2, /* of queries and keys; of what attention and MLP add */
  SL_W_LN2, SL_W_GATE, SL_W_GATE_B, SL_W_UP, SL_W_UP_B, SL_W_DOWN, SL_W_DOWN_B,
  SL_W_PROJECTOR_NORM, SL_W_PROJECTOR_NORM_B,
  SL_W_PROJECTOR_1, SL_W_PROJECTOR_1_B, SL_W_PROJECTOR_2, SL_W_PROJECTOR_2_B, SL_W_NEWLINE,
  SL_W_CLASS, SL_W_PATCH, SL_W_PATCH_B, SL_W_POSITION,
  SL_W_PRE_NORM, SL_W_PRE_NORM_B, SL_W_POST_NORM, SL_W_POST_NORM_B,
  SL_W_VLN1, SL_W_VLN1_B, SL_W_VQKV, SL_W_VQKV_B, SL_W_VQ, SL_W_VQ_B, SL_W_VK, SL_W_VK_B, SL_W_VV, SL_W_VV_B,
  SL_W_VQ_NORM, SL_W_VK_NORM, SL_W_VO, SL_W_VO_B, SL_W_VSCALE1,
  SL_W_VLN2, SL_W_VLN2_B, SL_W_VGATE, SL_W_VGATE_B, SL_W_FC1, SL_W_FC1_B, SL_W_FC2, SL_W_FC2_B, SL_W_VSCALE2,
  /* resampler */
  SL_W_R_QUERY, SL_W_R_POSITION, SL_W_R_KV, SL_W_R_LN_Q, SL_W_R_LN_Q_B, SL_W_R_LN_KV, SL_W_R_LN_KV_B, SL_W_R_IN,
  SL_W_R_IN_B, SL_W_R_OUT, SL_W_R_OUT_B, SL_W_R_LN_POST, SL_W_R_LN_POST_B, SL_W_R_PROJ,
  /* Q-Former */
  SL_W_QF_QUERY, SL_W_QF_WORD, SL_W_QF_POSITION, SL_W_QF_LN, SL_W_QF_LN_B,
  SL_W_QF_Q, SL_W_QF_Q_B, SL_W_QF_K, SL_W_QF_K_B, SL_W_QF_V, SL_W_QF_V_B,
  SL_W_QF_O, SL_W_QF_O_B, SL_W_QF_O_LN, SL_W_QF_O_LN_B,
  SL_W_QX_Q, SL_W_QX_Q_B, SL_W_QX_K, SL_W_QX_K_B, SL_W_QX_V, SL_W_QX_V_B,
  SL_W_QX_O, SL_W_QX_O_B, SL_W_QX_O_LN, SL_W_QX_O_LN_B,
  SL_W_QF_FC1, SL_W_QF_FC1_B, SL_W_QF_FC2, SL_W_QF_FC2_B, SL_W_QF_FC_LN, SL_W_QF_FC_LN_B,
  SL_W_QT_FC1, SL_W_QT_FC1_B, SL_W_QT_FC2, SL_W_QT_FC2_B, SL_W_QT_FC_LN, SL_W_QT_FC_LN_B,
  SL_W_COUNT
} sl_role;

/* When a tensor must be there: always, or when a flag of the config says so. */
#define SL_ALWAYS 0
#define SL_WHEN(member) offsetof(sl_config, member)
#define SL_UNLESS(member) (-(ptrdiff_t)offsetof(sl_config, member))
#define SL_UNLESS_TIED ((ptrdiff_t)sizeof(sl_config)) /* the head: absent means tied to the embedding */

typedef struct sl_weight_row {
  sl_role role;
  const char *name; /* below the part's prefix, or canonical when it starts with "/"; "{i}" is the layer */
  sl_dim shape[5];
  ptrdiff_t need;
} sl_weight_row;

/* How q, k and v share one tensor's rows. */
typedef enum sl_qkv_form {
  SL_QKV_STACKED, /* all q, all k, all v */
  SL_QKV_GROUPED  /* for every key head: its query heads, its key, its value (InternLM2; Qwen-VL's tower) */
} sl_qkv_form;

/* From tower features to decoder rows. */
typedef enum sl_connector {
  SL_CONNECT_MLP,       /* optional norm, Linear, and as a rule activation and Linear */
  SL_CONNECT_RESAMPLER, /* one cross-attention of learned queries */
  SL_CONNECT_QFORMER    /* a Transformer of learned queries that reads the question too */
} sl_connector;

/* One way of building a part. */
typedef struct sl_kind {
  const char *model_type; /* as the part's section names it */
  const sl_config_field *fields;
  int n_field;
  const sl_weight_row *weights;
  int n_weight;
  /* Sets what the kind implies and refuses what it does not support; `section` is the part's object in config.json
   * (NULL when absent). May be NULL. */
  sl_status (*settle)(sl_config *config, const json_t *section, const char *name);
  sl_qkv_form qkv_form;   /* of SL_W_QKV and SL_W_VQKV */
  sl_connector connector; /* of a projector */
  bool table_modules;     /* its modules in transformers have the names that nn/site.c gives */
} sl_kind;

/* A part of a family: where its numbers and tensors stand, and the kinds it may be of (NULL-terminated; the first one
 * when the section does not say). */
typedef struct sl_part_row {
  const char *section; /* "text_config"; "" is config.json's top */
  const char *prefix;  /* of canonical tensor names: "language_model." */
  const char *type_key; /* where the section says its kind; NULL: "model_type"; "": nowhere */
  const sl_kind *const *kinds;
} sl_part_row;

/* Towers, */
extern const sl_kind sl_kind_clip, sl_kind_intern, sl_kind_intern_remote, sl_kind_qwen_vit, sl_kind_eva, sl_kind_siglip,
    sl_kind_idefics_vit, sl_kind_qwen2_vl_vit, sl_kind_qwen2_5_vl_vit;
/* projectors, */
extern const sl_kind sl_kind_mlp, sl_kind_mlp2x, sl_kind_linear, sl_kind_shuffle, sl_kind_shuffle_remote,
    sl_kind_shuffle_linear, sl_kind_pool, sl_kind_merger, sl_kind_resampler, sl_kind_qformer;
/* and decoders. */
extern const sl_kind sl_kind_llama, sl_kind_mistral, sl_kind_qwen2, sl_kind_internlm2, sl_kind_qwen, sl_kind_gemma3,
    sl_kind_qwen2_vl;

/* A rewriting of tensor names to the canonical ones: `from` at the start of a name becomes `to`; rules are tried in
 * order, and a rule that fired is followed by the rest. */
typedef struct sl_rename {
  const char *from, *to;
} sl_rename;

/* Those of LLaVA and its relatives. */
#define SL_N_LLAVA_RENAME 10
extern const sl_rename sl_llava_renames[SL_N_LLAVA_RENAME];
extern const char *const sl_llava_ignored[];

/* Those of LLaVA's original repository and of Shikra, with a tower from a CLIP folder. */
#define SL_N_ORIGINAL_RENAME 5
extern const sl_rename sl_original_renames[SL_N_ORIGINAL_RENAME];
extern const char *const sl_original_ignored[];
bool sl_llava_is_original(const json_t *config);
sl_status sl_llava_settle_original(sl_config *config, const char *name);

/* How the projected rows of a picture's views become positions. */
typedef enum sl_splice {
  SL_SPLICE_FLAT,   /* the rows of all views, one view after another */
  SL_SPLICE_UNPAD,  /* the base view, then the tiles as one picture without its padding, a newline after every row */
  SL_SPLICE_ROWS    /* the tiles row by row, then the whole picture, all of them between tokens of text (Idefics3) */
} sl_splice;

/* A prompt template. */
typedef struct sl_prompt {
  const char *when;      /* the decoder's model_type, or the config's own name of the template; NULL: any */
  const char *text;      /* "{system}", "{question}" and "<image>" are replaced */
  const char *user;      /* the role marker that starts the user's turn; "": none */
  const char *assistant; /* the role marker that ends the prompt; "": none */
  const char *system;    /* the system text, unless the config has its own; NULL: none */
  const char *token;     /* only where the tokenizer has this token; NULL: any */
} sl_prompt;

/* The turn that LLaVA's folders with a LLaMA 3 decoder have in their chat templates; the tokenizer tells them. */
#define SL_LLAMA3_HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define SL_LLAMA3_PROMPT                                                                               \
  {.when = "llama",                                                                                    \
   .text = SL_LLAMA3_HEADER("user") "<image>\n{question}<|eot_id|>" SL_LLAMA3_HEADER("assistant"),     \
   .user = SL_LLAMA3_HEADER("user"),                                                                   \
   .assistant = SL_LLAMA3_HEADER("assistant"),                                                         \
   .token = "<|start_header_id|>"}

typedef struct sl_family {
  const char *name;                 /* "llava" */
  const char *title;                /* "LLaVA-1.5" */
  const char *const *model_types;   /* config.json's model_type values it claims, NULL-terminated */
  sl_part_row vision, projector, text;
  const sl_config_field *fields;    /* of the top */
  int n_field;
  const sl_rename *renames;
  int n_rename;
  const sl_weight_row *weights;     /* of no part: canonical names */
  int n_weight;
  const char *const *ignored;       /* globs over canonical names that are known and not needed, NULL-terminated */
  sl_splice splice;
  const sl_prompt *prompts;         /* tried in order; the last one has when NULL */
  const char *prompt_key;           /* where config.json names the template; NULL: the decoder's kind decides */
  const char *system_key;           /* where config.json may have a system text; NULL: nowhere */
  const char *image_token;          /* the token that a picture's positions hold */
  const char *image_text;           /* what the prompt's "<image>" is written as: image_token, perhaps between marks */
  bool image_before_bos;            /* the picture's positions stand before everything else, BOS included */
  bool image_sees_itself;           /* image positions attend to each other whichever comes first */
  const char *question_tokenizer;   /* folder below the model's: how a Q-Former reads the question; NULL without one */
  bool image_cuts_text;             /* image_token is no token: the text on both sides of the picture is tokenised by
                                     * itself, and the picture's positions hold SL_IMAGE_INDEX */
  bool tower_apart;                 /* the tower is as a rule in a folder of its own */
  unsigned tokenizer;               /* flags of sl_tokenizer_open_folder */
  const char *const *stops;         /* tokens that end an answer beside those of the config; NULL = none */
  /* Whether the folder is this layout of the family; NULL: every folder with its model_type. */
  bool (*claims)(const json_t *config);
  /* Picture processing that the folder's files do not tell; NULL: read from the files. */
  sl_status (*preprocess)(sl_preprocess *out, const sl_config *config, const char *name);
  /* Sets and checks what the tables cannot. May be NULL. */
  sl_status (*settle)(sl_config *config, const char *name);
} sl_family;

#define SL_PLACEHOLDER "<image>" /* the picture's place in prompts and templates */
#define SL_IMAGE_INDEX (-200)    /* the original LLaVA's id of picture positions (IMAGE_TOKEN_INDEX) */

/* The family that claims this config.json, or an error naming the model_type found and those supported. */
sl_status sl_family_find(const sl_family **out, json_t *config, const char *name);

/* The kind of a part, by its section. */
sl_status sl_family_kind(const sl_kind **out, const sl_family *family, const sl_part_row *part, json_t *config,
                         const char *name);

/* The kinds of an opened model's parts. */
typedef struct sl_kinds {
  const sl_kind *vision, *projector, *text;
} sl_kinds;

/* The template for the decoder's kind, or the one that the config names, that goes with the tokenizer. */
sl_status sl_family_prompt(const sl_prompt **out, const sl_family *family, const sl_kind *decoder,
                           const sl_tokenizer *tokenizer, json_t *config, const char *name);

int sl_dim_size(const sl_config *config, sl_dim dim);

#endif
