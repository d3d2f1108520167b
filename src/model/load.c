/* From tensors to nn structs: weights packed for the backend, related ones stacked into one product (q, k, v; gate,
 * up), vectors expanded to f32. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/internal.h"

typedef struct loader {
  sl_model *model;
  const sl_model_options *options;
  sl_weights *weights;
  sl_queue *queue;
  int n_step, n_done;
} loader;

static void warn(const loader *l, const char *message) {
  if (l->options->log) l->options->log(l->options->user, message);
}

/* Marks a tensor as loaded and warns about values that are not finite. */
static void finish(loader *l, const sl_tensor *tensor) {
  int64_t bad = -1;
  sl_weights_done(l->weights, tensor, &bad);
  if (bad < 0) return;
  char message[320];
  snprintf(message, sizeof message, "tensor \"%s\" holds a NaN or infinity (first at element %lld): results will too",
           tensor->name, (long long)bad);
  warn(l, message);
}

/* One step of progress; cancels when the callback says so. */
static sl_status step(loader *l) {
  l->n_done++;
  if (l->options->progress && !l->options->progress(l->options->user, "loading weights", l->n_done, l->n_step))
    SL_FAIL(SL_ERROR_CANCELLED, "interrupted while loading weights");
  return SL_OK;
}

/* Stacks the matrices of up to three roles into one packed weight. */
static sl_status load_weight(loader *l, sl_weight **out, const sl_role *roles, int n_role, int layer) {
  sl_tensor parts[3];
  const sl_tensor *sources[3];
  for (int i = 0; i < n_role; i++) {
    SL_TRY(sl_weights_get(l->weights, roles[i], layer, &sources[i]));
    parts[i] = *sources[i];
    for (int d = 2; d < parts[i].n_dim; d++) parts[i].shape[1] *= parts[i].shape[d]; /* a patch kernel is a matrix */
    parts[i].n_dim = 2;
  }
  SL_TRY(sl_weight_new(out, l->model->backend, l->model->compute, parts, n_role));
  for (int i = 0; i < n_role; i++) finish(l, sources[i]);
  l->model->packed_bytes += sl_weight_bytes(*out);
  return step(l);
}

/* An f32 matrix [rows, cols] owned by the model. */
static sl_status new_vector(loader *l, const float *values, int rows, int cols, sl_mat *out) {
  sl_model *m = l->model;
  if (m->n_vector == m->cap_vector) {
    const int capacity = m->cap_vector ? 2 * m->cap_vector : 64;
    SL_TRY(SL_REALLOC(m->vectors, (size_t)capacity, "model vectors"));
    m->cap_vector = capacity;
  }
  const size_t bytes = (size_t)rows * (size_t)cols * sizeof(float);
  SL_TRY(sl_buffer_new(&m->vectors[m->n_vector], m->backend, bytes, "model vectors"));
  sl_buffer_write(l->queue, m->vectors[m->n_vector], 0, values, bytes);
  *out = (sl_mat){m->vectors[m->n_vector], 0, cols, rows, cols, SL_F32};
  m->n_vector++;
  m->packed_bytes += bytes;
  return SL_OK;
}

/* Concatenates the vectors (or one matrix) of up to three roles; absent ones leave *out absent. */
static sl_status load_vector(loader *l, sl_mat *out, const sl_role *roles, int n_role, int layer) {
  const sl_tensor *sources[3];
  int64_t count = 0;
  for (int i = 0; i < n_role; i++) {
    SL_TRY(sl_weights_get(l->weights, roles[i], layer, &sources[i]));
    if (!sources[i]) return SL_OK; /* one config key rules all of them */
    count += sl_tensor_count(sources[i]);
  }
  float *values = NULL;
  SL_TRY(SL_ALLOC(values, (size_t)count, "model vectors"));
  int64_t at = 0;
  for (int i = 0; i < n_role; i++) {
    sl_convert_to_f32(values + at, sources[i]->data, sources[i]->dtype, sl_tensor_count(sources[i]));
    at += sl_tensor_count(sources[i]);
    finish(l, sources[i]);
  }
  const bool matrix = sources[0]->n_dim == 2;
  const int rows = matrix ? (int)sources[0]->shape[0] : 1;
  const sl_status status = new_vector(l, values, rows, (int)(count / rows), out);
  free(values);
  return status;
}

#define ROLES(...) (const sl_role[]){__VA_ARGS__}, sizeof((sl_role[]){__VA_ARGS__}) / sizeof(sl_role)
#define WEIGHT(out, layer, ...) SL_TRY(load_weight(l, (out), ROLES(__VA_ARGS__), layer))
#define VECTOR(out, layer, ...) SL_TRY(load_vector(l, (out), ROLES(__VA_ARGS__), layer))

static sl_status load_decoder_block(loader *l, sl_block_weights *b, int layer) {
  VECTOR(&b->norm1_w, layer, SL_W_LN1);
  VECTOR(&b->norm2_w, layer, SL_W_LN2);
  WEIGHT(&b->qkv, layer, SL_W_Q, SL_W_K, SL_W_V);
  VECTOR(&b->qkv_b, layer, SL_W_Q_B, SL_W_K_B, SL_W_V_B);
  WEIGHT(&b->o, layer, SL_W_O);
  VECTOR(&b->o_b, layer, SL_W_O_B);
  WEIGHT(&b->up, layer, SL_W_GATE, SL_W_UP);
  VECTOR(&b->up_b, layer, SL_W_GATE_B, SL_W_UP_B);
  WEIGHT(&b->down, layer, SL_W_DOWN);
  VECTOR(&b->down_b, layer, SL_W_DOWN_B);
  return SL_OK;
}

static sl_status load_tower_block(loader *l, sl_block_weights *b, int layer) {
  VECTOR(&b->norm1_w, layer, SL_W_VLN1);
  VECTOR(&b->norm1_b, layer, SL_W_VLN1_B);
  VECTOR(&b->norm2_w, layer, SL_W_VLN2);
  VECTOR(&b->norm2_b, layer, SL_W_VLN2_B);
  WEIGHT(&b->qkv, layer, SL_W_VQ, SL_W_VK, SL_W_VV);
  VECTOR(&b->qkv_b, layer, SL_W_VQ_B, SL_W_VK_B, SL_W_VV_B);
  WEIGHT(&b->o, layer, SL_W_VO);
  VECTOR(&b->o_b, layer, SL_W_VO_B);
  WEIGHT(&b->up, layer, SL_W_FC1);
  VECTOR(&b->up_b, layer, SL_W_FC1_B);
  WEIGHT(&b->down, layer, SL_W_FC2);
  VECTOR(&b->down_b, layer, SL_W_FC2_B);
  return SL_OK;
}

static sl_status load_tower(loader *l) {
  sl_tower *tower = &l->model->tower;
  WEIGHT(&tower->patch, 0, SL_W_PATCH);
  VECTOR(&tower->class_token, 0, SL_W_CLASS);
  VECTOR(&tower->positions, 0, SL_W_POSITION);
  VECTOR(&tower->norm_w, 0, SL_W_PRE_NORM);
  VECTOR(&tower->norm_b, 0, SL_W_PRE_NORM_B);
  SL_TRY(SL_ALLOC(tower->blocks, (size_t)tower->n_layer, "tower blocks"));
  for (int il = 0; il < tower->n_layer; il++) SL_TRY(load_tower_block(l, &tower->blocks[il], il));
  return SL_OK;
}

/* A further layer over another one's tensors: the packed weights are shared, not copied. */
static void share_block(sl_block_weights *out, const sl_block_weights *source) {
  *out = *source;
  sl_weight_ref(out->qkv);
  sl_weight_ref(out->o);
  sl_weight_ref(out->up);
  sl_weight_ref(out->down);
}

/* 1 / theta^(2 i / d), computed in f32 as transformers does. */
static sl_status load_inv_freq(loader *l) {
  sl_decoder *decoder = &l->model->decoder;
  const int half = decoder->shape.d_head / 2;
  float *inv_freq = NULL;
  SL_TRY(SL_ALLOC(inv_freq, (size_t)half, "rotary frequencies"));
  for (int i = 0; i < half; i++)
    inv_freq[i] = 1.0f / powf((float)l->model->config.text.rope_theta, (float)(2 * i) / (float)decoder->shape.d_head);
  const sl_status status = new_vector(l, inv_freq, 1, half, &decoder->shape.inv_freq);
  free(inv_freq);
  return status;
}

/* A folder without a head means that the embedding serves as one; unless its config says it does not. */
static sl_status check_tied(const loader *l) {
  const json_t *top = sl_json_at(l->model->config.json, "tie_word_embeddings");
  const json_t *text = sl_json_at(l->model->config.json, "text_config.tie_word_embeddings");
  if (json_is_true(top) || json_is_true(text) || !(json_is_false(top) || json_is_false(text))) return SL_OK;
  SL_FAIL(SL_ERROR_FORMAT, "%s: tensor \"lm_head.weight\" is missing, and config.json says tie_word_embeddings: false",
          l->model->dir);
}

static sl_status load_decoder(loader *l) {
  sl_decoder *decoder = &l->model->decoder;
  const int period = l->model->config.layer_period;
  const sl_tensor *head = NULL;
  WEIGHT(&decoder->embed, 0, SL_W_EMBED);
  SL_TRY(sl_weights_get(l->weights, SL_W_HEAD, 0, &head));
  if (head) {
    WEIGHT(&decoder->head, 0, SL_W_HEAD);
  } else {
    SL_TRY(check_tied(l));
    decoder->head = sl_weight_ref(decoder->embed);
    SL_TRY(step(l));
  }
  VECTOR(&decoder->norm_w, 0, SL_W_NORM);
  SL_TRY(load_inv_freq(l));
  SL_TRY(SL_ALLOC(decoder->blocks, (size_t)decoder->n_layer, "decoder blocks"));
  for (int il = 0; il < decoder->n_layer; il++) {
    if (period > 0 && il >= period)
      share_block(&decoder->blocks[il], &decoder->blocks[il % period]);
    else
      SL_TRY(load_decoder_block(l, &decoder->blocks[il], il));
  }
  return SL_OK;
}

static sl_status load_projector(loader *l) {
  sl_projector *projector = &l->model->projector;
  WEIGHT(&projector->linear_1, 0, SL_W_PROJECTOR_1);
  VECTOR(&projector->linear_1_b, 0, SL_W_PROJECTOR_1_B);
  WEIGHT(&projector->linear_2, 0, SL_W_PROJECTOR_2);
  VECTOR(&projector->linear_2_b, 0, SL_W_PROJECTOR_2_B);
  return SL_OK;
}

static sl_status keep_unused_names(loader *l) {
  sl_model *m = l->model;
  const char *names[64];
  const int n = sl_weights_unused(l->weights, names, 64);
  if (n == 0) return SL_OK;
  const int kept = n < 64 ? n : 64;
  m->n_unused = n;
  SL_TRY(SL_ALLOC(m->unused, (size_t)kept, "unused names"));
  for (int i = 0; i < kept; i++) {
    SL_TRY(sl_strdup(&m->unused[i], names[i]));
    m->n_unused_named++;
  }
  char message[320];
  snprintf(message, sizeof message, n == 1 ? "%d tensor of the folder is not used, first \"%s\""
                                             : "%d tensors of the folder are not used, first \"%s\"", n, names[0]);
  warn(l, message);
  return SL_OK;
}

static sl_status load_parts(loader *l) {
  l->n_step = 5 + 4 * (l->model->tower.n_layer + (l->model->config.layer_period ? l->model->config.layer_period
                                                                               : l->model->decoder.n_layer));
  SL_TRY(load_tower(l));
  SL_TRY(load_projector(l));
  SL_TRY(load_decoder(l));
  l->model->n_found = sl_weights_found(l->weights);
  l->model->weight_bytes = sl_weights_bytes(l->weights);
  l->model->hash = sl_weights_hash(l->weights);
  return keep_unused_names(l);
}

sl_status sl_model_load(sl_model *model, const sl_model_options *options) {
  loader l = {.model = model, .options = options};
  sl_status status = sl_weights_open(&l.weights, model->dir, model->family, &model->config);
  if (status == SL_OK) status = sl_queue_new(&l.queue, model->backend, options->n_thread);
  if (status == SL_OK) model->n_thread = sl_queue_threads(l.queue);
  if (status == SL_OK) status = load_parts(&l);
  sl_queue_free(l.queue);
  sl_weights_close(l.weights);
  return status;
}

static void free_blocks(sl_block_weights *blocks, int n_layer) {
  for (int il = 0; blocks && il < n_layer; il++) {
    sl_weight_free(blocks[il].qkv);
    sl_weight_free(blocks[il].o);
    sl_weight_free(blocks[il].up);
    sl_weight_free(blocks[il].down);
  }
  free(blocks);
}

void sl_model_unload(sl_model *m) {
  free_blocks(m->tower.blocks, m->tower.n_layer);
  free_blocks(m->decoder.blocks, m->decoder.n_layer);
  sl_weight_free(m->tower.patch);
  sl_weight_free(m->projector.linear_1);
  sl_weight_free(m->projector.linear_2);
  sl_weight_free(m->decoder.embed);
  sl_weight_free(m->decoder.head);
  for (int i = 0; i < m->n_vector; i++) sl_buffer_free(m->vectors[i]);
  free(m->vectors);
  for (int i = 0; i < m->n_unused_named; i++) free(m->unused[i]);
  free(m->unused);
}
