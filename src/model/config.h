/* config.json as numbers: one struct for every family, filled from a family's table of fields with the defaults that
 * transformers' classes have (Hugging Face writes only what differs from them). */
#ifndef SL_MODEL_CONFIG_H
#define SL_MODEL_CONFIG_H

#include "base/json.h"
#include "backend/backend.h"

typedef struct sl_config {
  struct {
    int n_layer, n_head, d_model, d_mlp, image_px, patch_px;
    double eps;
    const char *act, *model_type;
  } vision;
  struct {
    int n_layer, n_head, n_head_kv, d_model, d_head, d_mlp, n_vocab, max_position;
    double eps, rope_theta;
    bool attention_bias, mlp_bias;
    const char *act, *model_type, *rope_type;
  } text;
  struct {
    const char *act;
    bool bias;
  } projector;
  int image_token_id;
  int feature_layer;            /* as in the file: negative counts from the end, 0 is the tower's input */
  const char *feature_strategy; /* "default" drops the class token, "full" keeps it */
  int layer_period;             /* 0, or: decoder layer i uses the tensors of layer i modulo this (bench/) */
  json_t *json;                 /* owns the strings above */
} sl_config;

typedef enum sl_field_kind { SL_FIELD_INT, SL_FIELD_REAL, SL_FIELD_BOOL, SL_FIELD_STRING } sl_field_kind;

/* One field: where it stands in config.json, where it goes, and what it is when absent or null. Later rows win, so an
 * older spelling is a row before the newer one. */
typedef struct sl_config_field {
  const char *path;
  sl_field_kind kind;
  size_t offset;
  double number;    /* default of an int, real or bool; NAN: keep what an earlier row gave */
  const char *text; /* default of a string; NULL: likewise */
  int64_t min, max; /* range of an int */
} sl_config_field;

/* Loads DIR/config.json (at most 4 MiB). */
sl_status sl_config_load(json_t **out, const char *dir, char **path);

/* Fills `config` from the table; `name` (the file's path) appears in messages. */
sl_status sl_config_fill(sl_config *config, json_t *json, const sl_config_field *fields, int n_field, const char *name);

/* Hugging Face's name of an activation. */
sl_status sl_config_act(const char *hf_name, const char *key, const char *name, sl_act *out);

#endif
