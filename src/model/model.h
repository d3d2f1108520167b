/* The loaded model as the rooms above see it: shapes, tokenizer, preprocessing. Immutable; shareable between
 * threads. */
#ifndef SL_MODEL_MODEL_H
#define SL_MODEL_MODEL_H

#include "base/json.h"
#include "input/image.h"
#include "input/tokenizer.h"
#include "nn/site.h"
#include "sightline/model.h"

/* Sizes of the opened model, by part. Counts of the vision part: n_layer is the number of blocks that are run (the
 * kept feature layer), n_layer_stored what the checkpoint holds. Of the projector: 0 layers where it has no blocks. */
typedef struct sl_part_shape {
  int n_layer, n_layer_stored, n_head, n_head_kv, d_model, d_head, d_mlp;
} sl_part_shape;

typedef struct sl_model_shape {
  sl_part_shape vision, projector, decoder;
  int n_vocab;
  int image_px, patch_px;      /* square input of the tower: one view of a picture */
  bool any_size;               /* a view is as large as its picture: image_px and what follows from it are estimates */
  int grid_height, grid_width; /* patches of a view */
  int cell_rows, cell_cols;    /* tokens of a view as a grid; 0 x 0 where tokens have no places (learned queries) */
  int n_view_token;            /* tokens that the projector makes of a view; a kept class token first */
  bool keeps_cls;              /* that class token is kept: it has no box */
  int image_token_id;
  int eos_ids[8], n_eos;       /* tokens that end an answer */
  float score_scale;           /* of queries times keys in the decoder's attention */
  int max_position;            /* positions the model was made for: prompt and answer together */
} sl_model_shape;

static inline bool sl_shape_is_eos(const sl_model_shape *shape, int32_t id) {
  for (int i = 0; i < shape->n_eos; i++)
    if (shape->eos_ids[i] == id) return true;
  return false;
}

const sl_model_shape *sl_model_get_shape(const sl_model *model);
const sl_tokenizer *sl_model_get_tokenizer(const sl_model *model);
const sl_preprocess *sl_model_get_preprocess(const sl_model *model);
sl_compute sl_model_get_compute(const sl_model *model);
const sl_backend *sl_model_get_backend(const sl_model *model);
/* Content of a token as its tokenizer stores it, borrowed, or of picture positions whose id is no token; NULL for an
 * unused id. */
const char *sl_model_piece(const sl_model *model, int32_t id, size_t *n_bytes);
const char *sl_model_get_template(const sl_model *model); /* "USER: <image>\n{question} ASSISTANT:" */

/* The image tokens depend on the question too (a Q-Former reads it). */
bool sl_model_reads_question(const sl_model *model);

/* The "model" and "compute" objects of run.json (new references). */
sl_status sl_model_to_json(const sl_model *model, json_t **out);
sl_status sl_model_compute_to_json(const sl_model *model, json_t **out);

#endif
