/* The model struct, for the files of this room only. */
#ifndef SL_MODEL_INTERNAL_H
#define SL_MODEL_INTERNAL_H

#include "model/family.h"
#include "model/model.h"
#include "model/weights.h"
#include "nn/decoder.h"
#include "nn/projector.h"
#include "nn/tower.h"

struct sl_model {
  char *dir;
  const sl_family *family;
  sl_config config;
  sl_model_shape shape;
  sl_preprocess preprocess;
  sl_tokenizer *tokenizer;
  sl_backend *backend;
  sl_compute compute;
  int n_thread;
  sl_tower tower;
  sl_projector projector;
  sl_decoder decoder;
  sl_buffer **vectors; /* norms, biases, tables: one small buffer each */
  int n_vector, cap_vector;
  char **unused; /* names of unused tensors, the first n_unused_named of n_unused */
  int n_unused, n_unused_named, n_found;
  uint64_t weight_bytes, packed_bytes, hash;
};

/* Family, config and shapes from config.json's content, everything checked. `name` is its path, for messages; `json`
 * must live as long as the model. */
sl_status sl_model_read_config(sl_model *model, json_t *json, const char *name);

/* Fills tower, projector, decoder and shape from the folder's tensors. */
sl_status sl_model_load(sl_model *model, const sl_model_options *options);
void sl_model_unload(sl_model *model);

/* Warns through options->log when the folder has a chat template that differs from the family's. */
void sl_model_compare_template(const sl_model *model, const sl_model_options *options);

#endif
