/* The model struct, for the files of this room only. */
#ifndef SL_MODEL_INTERNAL_H
#define SL_MODEL_INTERNAL_H

#include "model/family.h"
#include "model/model.h"
#include "model/weights.h"
#include "nn/decoder.h"
#include "nn/projector.h"
#include "nn/qformer.h"
#include "nn/resampler.h"
#include "nn/tower.h"

/* The projector's input rows from one view's tower rows: n_list lists of n_row row numbers, side by side. */
typedef struct sl_select {
  int n_list, n_row;
  int32_t *rows; /* [n_list, n_row] */
  int block[SL_MAX_LEVEL]; /* of the features, which list b reads where several layers are read: see sl_tower */
  bool suffix;   /* one list, the view's last n_row rows in order: nothing needs to be gathered for a single view */
} sl_select;

struct sl_model {
  char *dir, *vision_dir; /* vision_dir: the tower's own folder, or NULL */
  bool tower_weights_apart; /* its weights are from there as well, not its config alone */
  const sl_family *family;
  sl_kinds kinds;
  const sl_prompt *prompt;
  char *frame;            /* its text, the system text in its place */
  sl_config config;
  sl_model_shape shape;
  sl_preprocess preprocess;
  sl_tokenizer *tokenizer;
  sl_tokenizer *question_tokenizer; /* of a Q-Former; NULL without one */
  sl_backend *backend;
  sl_compute compute;
  int n_thread;
  sl_tower tower;
  sl_projector projector; /* by kinds.projector->connector: this one, */
  sl_resampler resampler; /* or this, */
  sl_qformer qformer;     /* or this; the others are zeroed */
  sl_decoder decoder;     /* as it is up to the trained length: see sl_model_decoder */
  sl_mat inv_freq;        /* [levels of stretching, d/2] rotary frequencies, or [axes, d/2] */
  bool sees_all[1024];    /* by layer of the tower, where it has windows */
  sl_buffer *numbers;     /* 0, 1, 2, ...: rows whose attention queries of a projector show */
  sl_mat newline;        /* [1, D] image row that ends a line of tokens; absent without one */
  sl_select select;      /* which tower rows the projector takes */
  sl_buffer **vectors; /* norms, biases, tables: one small buffer each */
  int n_vector, cap_vector;
  char **unused; /* names of unused tensors, the first n_unused_named of n_unused */
  int n_unused, n_unused_named, n_found;
  uint64_t weight_bytes, packed_bytes, hash;
};

/* Dynamic NTK (Qwen, first generation): how often the trained length must be doubled to hold the prompt. Rotary
 * frequencies belong to the prompt: tokens that are generated behind it keep them. 0 for other models. */
static inline int sl_rope_level(const sl_config *config, int n_prompt) {
  int level = 0;
  while (config->text.dynamic_ntk && (int64_t)config->text.trained_length << level < n_prompt) level++;
  return level;
}

/* The projector's rows are learned queries: they have no places of their own. */
static inline bool sl_model_has_queries(const sl_model *model) {
  return model->kinds.projector->connector != SL_CONNECT_MLP;
}

/* Numbers that a position of the decoder has: 1, or time, row and column (Qwen2-VL). */
static inline int sl_rope_axes(const sl_config *config) {
  const int *sections = config->text.rope_sections;
  return sections[0] + sections[1] + sections[2] > 0 ? 3 : 1;
}

/* The decoder with the frequencies of a level. */
static inline sl_decoder sl_model_decoder(const sl_model *model, int level) {
  const int n_axis = sl_rope_axes(&model->config);
  sl_decoder decoder = model->decoder;
  decoder.shape.inv_freq = sl_mat_rows(model->inv_freq, level * n_axis, n_axis);
  return decoder;
}

/* Columns of what a Linear projector takes. */
static inline int sl_model_input_cols(const sl_model *model) {
  return model->tower.shape.d_model * (model->config.projector.pools ? 1 : model->select.n_list);
}

/* Family, config and shapes from config.json's content, everything checked. `name` is its path, for messages; `json`
 * must live as long as the model. */
sl_status sl_model_read_config(sl_model *model, json_t *json, const char *name);

/* Fills tower, projector, decoder and shape from the folder's tensors. */
sl_status sl_model_load(sl_model *model, const sl_model_options *options);
void sl_model_unload(sl_model *model);

/* Says through options->log when the folder has a chat template without the words of the one that is used. */
sl_status sl_model_compare_template(const sl_model *model, const sl_model_options *options);
/* The caller's template instead of the family's. */
sl_status sl_model_set_template(sl_model *model, const char *text);

/* Whether the model passes a site, and the transformers module it is the output of: false where the part's modules have
 * other names than the table of sites. */
bool sl_model_has_site(const sl_model *model, sl_part part, sl_site site);
bool sl_model_site_module(char out[96], const sl_model *model, sl_part part, sl_site site);

#endif
