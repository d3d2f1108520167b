/* config.json as numbers: one struct for every family, filled from tables of fields with the defaults that
 * transformers' classes have (Hugging Face writes only what differs from them). */
#ifndef SL_MODEL_CONFIG_H
#define SL_MODEL_CONFIG_H

#include "base/json.h"
#include "backend/backend.h"

#define SL_MAX_FEATURE_LAYER 8

typedef struct sl_config {
  struct {
    int n_layer, n_head, d_model, d_mlp, image_px, patch_px;
    double eps;
    const char *act;
    const char *norm;          /* "layer_norm" or "rms_norm", in the blocks */
    int n_class;               /* class tokens before the patches: 0 or 1 */
    int position_grid;         /* side of the stored grid of positions; 0: the picture's own */
    /* Qwen2-VL: views as large as the picture, rotary embedding by row and column of a patch. */
    bool any_size;             /* image_px is then only what estimates are made for */
    int n_frame;               /* equal frames that the patch kernel takes of a still picture; 0: it has no such axis */
    double rope_theta;         /* 0: no rotary embedding */
    bool gated;                /* the MLP */
    int window_px;             /* side of the windows that patches attend within; 0: none */
    uint64_t sees_all[16];     /* one bit for every layer that attends to the whole view nevertheless */
    double qk_eps;             /* of the norms of queries and keys */
    bool qkv_bias, qk_norm, norm_bias;
  } vision;
  struct {
    int n_layer, n_head, n_head_kv, d_model, d_head, d_mlp, n_vocab, max_position;
    double eps, rope_theta;
    bool attention_bias;       /* LLaMA's: q, k, v and o */
    bool qkv_bias, mlp_bias;   /* qkv_bias: q, k and v alone */
    int sliding_window;        /* 0: none */
    int trained_length;        /* Qwen, first generation: positions from which the next two take effect */
    bool dynamic_ntk;          /* rotary frequencies stretch for prompts beyond it */
    bool log_n;                /* queries beyond it grow with the logarithm of their position */
    double rope_factor, rope_low, rope_high; /* of rope_type (rope.c), where it has some */
    int rope_original;         /* length from before the stretching by rope_type; 0: not told */
    /* Qwen2-VL: pairs of a head that turn by time, row and column of a position, one group after another; their sum is
     * half the head's width. All 0: a position is one number. */
    int rope_sections[3];
    /* Gemma 3: every global_every-th layer sees everything, the others a window, and turn by a base of their own. */
    int global_every;
    double local_theta;
    double query_scalar;       /* scores are divided by its root; 0: by that of the head's width */
    bool scales_embeddings;    /* by the root of the width */
    bool offset_norms;         /* weights of norms are stored less 1 */
    bool qk_norm, sandwich;    /* norms of queries and keys; of what sublayers add */
    const char *act, *rope_type;
  } text;
  struct {
    const char *act;
    bool bias;
    double eps;                /* of its norms, where it has some */
    int merge;                 /* side of the block of patches that becomes one token: 1, or 2 (pixel shuffle) */
    bool transposed;           /* tokens run down the columns (InternVL's first pixel shuffle) */
    int n_query, d_model, d_mlp, n_layer, n_head, n_vocab, max_position, cross_every; /* resampler and Q-Former */
    bool pools;                /* a token is the mean of merge x merge patches, not all of them side by side */
    bool rms;                  /* its norm */
    bool in_out;               /* its matrix is stored transposed, inputs first */
    bool widens;               /* a resampler is not as wide as the tower: its keys go through a matrix first */
  } projector;
  int image_token_id;           /* -1: the tokenizer's id of the family's image token */
  int feature_layer;            /* as in the file: negative counts from the end, 0 is the tower's input */
  struct sl_feature_layers {
    int n, at[SL_MAX_FEATURE_LAYER];
  } feature_layers;             /* several of them, side by side in a row of the projector; n = 0: the one above */
  const char *feature_strategy; /* "default" drops the class token, "full" keeps it */
  int layer_period;             /* 0, or: decoder layer i uses the tensors of layer i modulo this (bench/) */
  json_t *json;                 /* owns the strings above */
} sl_config;

typedef enum sl_field_kind {
  SL_FIELD_INT,
  SL_FIELD_SIDE, /* an integer, or a list of two equal ones: [height, width] */
  SL_FIELD_LAYERS, /* an integer, or a list of them: sl_feature_layers */
  SL_FIELD_REAL,
  SL_FIELD_BOOL,
  SL_FIELD_STRING
} sl_field_kind;

/* One field: where it stands in its section of config.json, where it goes, and what it is when absent or null. Later
 * rows win, so an older spelling is a row before the newer one. */
typedef struct sl_config_field {
  const char *path; /* NULL: the config has no word for it, the default always holds */
  sl_field_kind kind;
  size_t offset;
  double number;    /* default of an int, real or bool; NAN: keep what an earlier row gave */
  const char *text; /* default of a string; NULL: likewise */
  int64_t min, max; /* range of an int */
} sl_config_field;

/* Rows of such tables. */
#define SL_INT(path, member, value, low, high) \
  {path, SL_FIELD_INT, offsetof(sl_config, member), value, NULL, low, high}
#define SL_SIDE(path, member, value, low, high) \
  {path, SL_FIELD_SIDE, offsetof(sl_config, member), value, NULL, low, high}
#define SL_LAYERS(path, member, value, low, high) \
  {path, SL_FIELD_LAYERS, offsetof(sl_config, member), value, NULL, low, high}
#define SL_REAL(path, member, value) {path, SL_FIELD_REAL, offsetof(sl_config, member), value, NULL, 0, 0}
#define SL_BOOL(path, member, value) {path, SL_FIELD_BOOL, offsetof(sl_config, member), value, NULL, 0, 0}
#define SL_STRING(path, member, value) {path, SL_FIELD_STRING, offsetof(sl_config, member), NAN, value, 0, 0}

/* Rows of what no config says. */
#define SL_FIXED_INT(member, value) SL_INT(NULL, member, value, 0, 0)
#define SL_FIXED_REAL(member, value) SL_REAL(NULL, member, value)
#define SL_FIXED_STRING(member, value) SL_STRING(NULL, member, value)

/* How many of the tower's layers a projector's row holds, and the i-th as the file has it. */
static inline int sl_feature_count(const sl_config *c) { return c->feature_layers.n > 0 ? c->feature_layers.n : 1; }
static inline int sl_feature_layer(const sl_config *c, int i) {
  return c->feature_layers.n > 0 ? c->feature_layers.at[i] : c->feature_layer;
}

/* Loads DIR/config.json (at most 4 MiB). */
sl_status sl_config_load(json_t **out, const char *dir, char **path);

/* Fills `config` from the table, whose paths stand in `section` ("text_config"; "" is the top); `name` (the file's
 * path) appears in messages. */
sl_status sl_config_fill(sl_config *config, json_t *json, const char *section, const sl_config_field *fields,
                         int n_field, const char *name);

/* Hugging Face's name of an activation. */
sl_status sl_config_act(const char *hf_name, const char *key, const char *name, sl_act *out);

#endif
