/* From tensors to nn structs: weights packed for the backend, related ones stacked into one product (q, k, v; gate,
 * up), vectors expanded to f32. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/internal.h"
#include "nn/positions.h"

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

/* Stacks the matrices of up to three roles into one packed weight; absent ones leave *out NULL. */
static sl_status load_weight(loader *l, sl_weight **out, const sl_role *roles, int n_role, int layer) {
  sl_tensor parts[3];
  const sl_tensor *sources[3];
  for (int i = 0; i < n_role; i++) {
    SL_TRY(sl_weights_get(l->weights, roles[i], layer, &sources[i]));
    if (!sources[i]) return SL_OK;
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
    if (!sources[i]) return SL_OK; /* one flag rules all of them */
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
  const int rows = n_role == 1 ? (int)(count / sources[0]->shape[sources[0]->n_dim - 1]) : 1;
  const sl_status status = new_vector(l, values, rows, (int)(count / rows), out);
  free(values);
  return status;
}

#define ROLES(...) (const sl_role[]){__VA_ARGS__}, sizeof((sl_role[]){__VA_ARGS__}) / sizeof(sl_role)
#define WEIGHT(out, layer, ...) SL_TRY(load_weight(l, (out), ROLES(__VA_ARGS__), layer))
#define VECTOR(out, layer, ...) SL_TRY(load_vector(l, (out), ROLES(__VA_ARGS__), layer))

/* ---- q, k and v in one tensor ---- */

/* Rows of [q; k; v] in the order of a grouped tensor: for every key head its query heads, its key, its value. */
static void ungroup(char *out, const char *rows, size_t row_bytes, const sl_part_shape *s) {
  const int per = s->n_head / s->n_head_kv;
  const size_t head_bytes = row_bytes * (size_t)s->d_head;
  for (int h = 0; h < s->n_head + 2 * s->n_head_kv; h++) {
    const int kv = h - s->n_head, n = s->n_head_kv;
    const int group = kv < 0 ? h / per : kv % n, place = kv < 0 ? h % per : per + kv / n;
    memcpy(out + (size_t)h * head_bytes, rows + (size_t)(group * (per + 2) + place) * head_bytes, head_bytes);
  }
}

/* The packed weight and the bias of a fused tensor in the kind's form. */
static sl_status load_fused(loader *l, sl_weight **out, sl_mat *bias, sl_role role, sl_role bias_role, int layer,
                            sl_qkv_form form, const sl_part_shape *s) {
  if (form == SL_QKV_STACKED) {
    SL_TRY(load_weight(l, out, &role, 1, layer));
    return load_vector(l, bias, &bias_role, 1, layer);
  }
  const sl_tensor *source = NULL, *source_b = NULL;
  SL_TRY(sl_weights_get(l->weights, role, layer, &source));
  SL_TRY(sl_weights_get(l->weights, bias_role, layer, &source_b));
  const int n_row = (int)source->shape[0];
  char *rows = NULL;
  float *values = NULL, *ordered = NULL;
  sl_tensor part = *source;
  sl_status status = SL_ALLOC(rows, (size_t)sl_tensor_count(source) * sl_dtype_size(source->dtype), "q, k and v");
  if (status == SL_OK) {
    ungroup(rows, source->data, (size_t)source->shape[1] * sl_dtype_size(source->dtype), s);
    part.data = rows;
    status = sl_weight_new(out, l->model->backend, l->model->compute, &part, 1);
  }
  if (status == SL_OK && source_b) status = SL_ALLOC(values, 2 * (size_t)n_row, "q, k and v");
  if (status == SL_OK && source_b) {
    ordered = values + n_row;
    sl_convert_to_f32(values, source_b->data, source_b->dtype, n_row);
    ungroup((char *)ordered, (const char *)values, sizeof *values, s);
    status = new_vector(l, ordered, 1, n_row, bias);
  }
  free(rows);
  free(values);
  SL_TRY(status);
  finish(l, source);
  if (source_b) finish(l, source_b);
  l->model->packed_bytes += sl_weight_bytes(*out);
  return step(l);
}

/* ---- blocks ---- */

static sl_status load_decoder_block(loader *l, sl_block_weights *b, int layer) {
  VECTOR(&b->norm1_w, layer, SL_W_LN1);
  VECTOR(&b->norm2_w, layer, SL_W_LN2);
  if (sl_weights_has_role(l->weights, SL_W_QKV)) {
    SL_TRY(load_fused(l, &b->qkv, &b->qkv_b, SL_W_QKV, SL_W_QKV_B, layer, l->model->kinds.text->qkv_form,
                      &l->model->shape.decoder));
  } else {
    WEIGHT(&b->qkv, layer, SL_W_Q, SL_W_K, SL_W_V);
    VECTOR(&b->qkv_b, layer, SL_W_Q_B, SL_W_K_B, SL_W_V_B);
  }
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
  if (sl_weights_has_role(l->weights, SL_W_VQKV)) {
    SL_TRY(load_fused(l, &b->qkv, &b->qkv_b, SL_W_VQKV, SL_W_VQKV_B, layer, l->model->kinds.vision->qkv_form,
                      &l->model->shape.vision));
  } else {
    WEIGHT(&b->qkv, layer, SL_W_VQ, SL_W_VK, SL_W_VV);
    VECTOR(&b->qkv_b, layer, SL_W_VQ_B, SL_W_VK_B, SL_W_VV_B);
  }
  VECTOR(&b->q_norm_w, layer, SL_W_VQ_NORM);
  VECTOR(&b->k_norm_w, layer, SL_W_VK_NORM);
  WEIGHT(&b->o, layer, SL_W_VO);
  VECTOR(&b->o_b, layer, SL_W_VO_B);
  VECTOR(&b->scale1, layer, SL_W_VSCALE1);
  WEIGHT(&b->up, layer, SL_W_FC1);
  VECTOR(&b->up_b, layer, SL_W_FC1_B);
  WEIGHT(&b->down, layer, SL_W_FC2);
  VECTOR(&b->down_b, layer, SL_W_FC2_B);
  VECTOR(&b->scale2, layer, SL_W_VSCALE2);
  return SL_OK;
}

/* Positions [n_lead + side^2, cols] stored for a square grid, resampled to the tower's grid behind the same lead rows. */
static sl_status load_resampled(loader *l, sl_mat *out, sl_role role, int n_lead, int side) {
  const sl_tensor *source = NULL;
  SL_TRY(sl_weights_get(l->weights, role, 0, &source));
  const int grid = l->model->shape.grid_width, cols = (int)source->shape[source->n_dim - 1];
  const size_t n_stored = (size_t)sl_tensor_count(source), lead = (size_t)n_lead * (size_t)cols;
  const size_t n_made = lead + (size_t)grid * (size_t)grid * (size_t)cols;
  float *values = NULL;
  SL_TRY(SL_ALLOC(values, n_stored + n_made, "positions"));
  float *made = values + n_stored;
  sl_convert_to_f32(values, source->data, source->dtype, (int64_t)n_stored);
  memcpy(made, values, lead * sizeof *made);
  sl_positions_resample(made + lead, grid, grid, values + lead, side, side, cols);
  const sl_status status = new_vector(l, made, n_lead + grid * grid, cols, out);
  free(values);
  return status;
}

static sl_status load_positions(loader *l) {
  sl_tower *tower = &l->model->tower;
  const int stored = l->model->config.vision.position_grid;
  const sl_tensor *source = NULL;
  if (stored == 0 || stored == l->model->shape.grid_width) return load_vector(l, &tower->positions, ROLES(SL_W_POSITION), 0);
  SL_TRY(load_resampled(l, &tower->positions, SL_W_POSITION, tower->n_class, stored));
  SL_TRY(sl_weights_get(l->weights, SL_W_POSITION, 0, &source));
  finish(l, source);
  return SL_OK;
}

static sl_status load_tower(loader *l) {
  sl_tower *tower = &l->model->tower;
  WEIGHT(&tower->patch, 0, SL_W_PATCH);
  VECTOR(&tower->patch_b, 0, SL_W_PATCH_B);
  VECTOR(&tower->class_token, 0, SL_W_CLASS);
  SL_TRY(load_positions(l));
  VECTOR(&tower->norm_w, 0, SL_W_PRE_NORM);
  VECTOR(&tower->norm_b, 0, SL_W_PRE_NORM_B);
  VECTOR(&tower->post_w, 0, SL_W_POST_NORM);
  VECTOR(&tower->post_b, 0, SL_W_POST_NORM_B);
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

/* 1 / theta^(2 i / d), computed in f32 as transformers does; one row for every level of stretching, whose theta is
 * theta alpha^(d / (d - 2)), alpha = 2^(level + 1) - 1. */
static sl_status load_inv_freq(loader *l) {
  sl_model *m = l->model;
  const int d = m->decoder.shape.d_head, half = d / 2, n_level = sl_rope_level(&m->config, m->shape.max_position) + 1;
  float *inv_freq = NULL;
  SL_TRY(SL_ALLOC(inv_freq, (size_t)n_level * (size_t)half, "rotary frequencies"));
  for (int level = 0; level < n_level; level++) {
    const double alpha = ldexp(1, level + 1) - 1;
    const float theta = (float)(m->config.text.rope_theta * (level ? pow(alpha, (double)d / (d - 2)) : 1));
    for (int i = 0; i < half; i++) inv_freq[level * half + i] = 1.0f / powf(theta, (float)(2 * i) / (float)d);
  }
  const sl_status status = new_vector(l, inv_freq, n_level, half, &m->inv_freq);
  free(inv_freq);
  m->decoder.shape.inv_freq = sl_mat_rows(m->inv_freq, 0, 1);
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

/* ---- connectors ---- */

static sl_status load_mlp(loader *l) {
  sl_projector *projector = &l->model->projector;
  VECTOR(&projector->norm_w, 0, SL_W_PROJECTOR_NORM);
  VECTOR(&projector->norm_b, 0, SL_W_PROJECTOR_NORM_B);
  WEIGHT(&projector->linear_1, 0, SL_W_PROJECTOR_1);
  VECTOR(&projector->linear_1_b, 0, SL_W_PROJECTOR_1_B);
  WEIGHT(&projector->linear_2, 0, SL_W_PROJECTOR_2);
  VECTOR(&projector->linear_2_b, 0, SL_W_PROJECTOR_2_B);
  return SL_OK;
}

/* 0, 1, 2, ... on the device. */
static sl_status load_numbers(loader *l, sl_ints *out, int count) {
  sl_model *m = l->model;
  int32_t *host = NULL;
  SL_TRY(SL_ALLOC(host, (size_t)count, "row numbers"));
  for (int i = 0; i < count; i++) host[i] = i;
  const sl_status status = sl_buffer_new(&m->numbers, m->backend, (size_t)count * sizeof *host, "row numbers");
  if (status == SL_OK) sl_buffer_write(l->queue, m->numbers, 0, host, (size_t)count * sizeof *host);
  free(host);
  *out = (sl_ints){m->numbers, 0, count};
  return status;
}

/* Three weights from one tensor whose rows are theirs, one after another. */
static sl_status load_thirds(loader *l, sl_weight **const out[3], sl_role role) {
  const sl_tensor *source = NULL;
  SL_TRY(sl_weights_get(l->weights, role, 0, &source));
  const size_t bytes = (size_t)sl_tensor_count(source) / 3 * sl_dtype_size(source->dtype);
  for (size_t i = 0; i < 3; i++) {
    sl_tensor part = *source;
    part.data = (const char *)source->data + i * bytes;
    part.shape[0] /= 3;
    SL_TRY(sl_weight_new(out[i], l->model->backend, l->model->compute, &part, 1));
    l->model->packed_bytes += sl_weight_bytes(*out[i]);
  }
  finish(l, source);
  return step(l);
}

static sl_status load_resampler(loader *l) {
  sl_resampler *r = &l->model->resampler;
  const sl_part_shape *shape = &l->model->shape.projector;
  sl_mat bias = {0};
  *r = (sl_resampler){.n_head = shape->n_head, .d_head = shape->d_head, .eps = (float)l->model->config.projector.eps,
                      .compute = l->model->compute};
  SL_TRY(load_thirds(l, (sl_weight **const[]){&r->q, &r->k, &r->v}, SL_W_R_IN));
  VECTOR(&bias, 0, SL_W_R_IN_B);
  r->q_b = sl_mat_cols(bias, 0, shape->d_model);
  r->k_b = sl_mat_cols(bias, shape->d_model, shape->d_model);
  r->v_b = sl_mat_cols(bias, 2 * shape->d_model, shape->d_model);
  VECTOR(&r->query, 0, SL_W_R_QUERY);
  VECTOR(&r->pos_q, 0, SL_W_R_POSITION);
  SL_TRY(load_resampled(l, &r->pos_k, SL_W_R_POSITION, 0, (int)lround(sqrt((double)r->pos_q.rows))));
  WEIGHT(&r->kv, 0, SL_W_R_KV);
  VECTOR(&r->norm_kv_w, 0, SL_W_R_LN_KV);
  VECTOR(&r->norm_kv_b, 0, SL_W_R_LN_KV_B);
  VECTOR(&r->norm_q_w, 0, SL_W_R_LN_Q);
  VECTOR(&r->norm_q_b, 0, SL_W_R_LN_Q_B);
  WEIGHT(&r->o, 0, SL_W_R_OUT);
  VECTOR(&r->o_b, 0, SL_W_R_OUT_B);
  VECTOR(&r->post_w, 0, SL_W_R_LN_POST);
  VECTOR(&r->post_b, 0, SL_W_R_LN_POST_B);
  WEIGHT(&r->proj, 0, SL_W_R_PROJ);
  return load_numbers(l, &r->numbers, r->query.rows);
}

static sl_status load_qformer_layer(loader *l, sl_qformer_layer *w, int layer, bool crosses) {
  WEIGHT(&w->qkv, layer, SL_W_QF_Q, SL_W_QF_K, SL_W_QF_V);
  VECTOR(&w->qkv_b, layer, SL_W_QF_Q_B, SL_W_QF_K_B, SL_W_QF_V_B);
  if (crosses) {
    WEIGHT(&w->cross_q, layer, SL_W_QX_Q);
    VECTOR(&w->cross_q_b, layer, SL_W_QX_Q_B);
    WEIGHT(&w->cross_kv, layer, SL_W_QX_K, SL_W_QX_V);
    VECTOR(&w->cross_kv_b, layer, SL_W_QX_K_B, SL_W_QX_V_B);
  }
  WEIGHT(&w->query_mlp.up, layer, SL_W_QF_FC1);
  VECTOR(&w->query_mlp.up_b, layer, SL_W_QF_FC1_B);
  WEIGHT(&w->text_mlp.up, layer, SL_W_QT_FC1);
  VECTOR(&w->text_mlp.up_b, layer, SL_W_QT_FC1_B);
  /* The matrix, bias and norm that end a sublayer: their roles follow one another. */
  const struct {
    sl_qformer_output *out;
    sl_role w, b, norm_w, norm_b;
  } ends[] = {{&w->self, SL_W_QF_O, SL_W_QF_O_B, SL_W_QF_O_LN, SL_W_QF_O_LN_B},
              {&w->query_mlp.down, SL_W_QF_FC2, SL_W_QF_FC2_B, SL_W_QF_FC_LN, SL_W_QF_FC_LN_B},
              {&w->text_mlp.down, SL_W_QT_FC2, SL_W_QT_FC2_B, SL_W_QT_FC_LN, SL_W_QT_FC_LN_B},
              {&w->cross, SL_W_QX_O, SL_W_QX_O_B, SL_W_QX_O_LN, SL_W_QX_O_LN_B}};
  for (int i = 0; i < (crosses ? 4 : 3); i++) {
    WEIGHT(&ends[i].out->w, layer, ends[i].w);
    VECTOR(&ends[i].out->b, layer, ends[i].b);
    VECTOR(&ends[i].out->norm_w, layer, ends[i].norm_w);
    VECTOR(&ends[i].out->norm_b, layer, ends[i].norm_b);
  }
  return SL_OK;
}

static sl_status load_qformer(loader *l) {
  sl_qformer *q = &l->model->qformer;
  const sl_config *c = &l->model->config;
  const sl_part_shape *shape = &l->model->shape.projector;
  *q = (sl_qformer){.n_layer = shape->n_layer, .n_head = shape->n_head, .d_head = shape->d_head,
                    .cross_every = c->projector.cross_every, .eps = (float)c->projector.eps,
                    .act = l->model->projector.act, .compute = l->model->compute};
  VECTOR(&q->queries, 0, SL_W_QF_QUERY);
  WEIGHT(&q->words, 0, SL_W_QF_WORD);
  VECTOR(&q->positions, 0, SL_W_QF_POSITION);
  VECTOR(&q->norm_w, 0, SL_W_QF_LN);
  VECTOR(&q->norm_b, 0, SL_W_QF_LN_B);
  SL_TRY(SL_ALLOC(q->layers, (size_t)q->n_layer, "Q-Former layers"));
  for (int il = 0; il < q->n_layer; il++) SL_TRY(load_qformer_layer(l, &q->layers[il], il, sl_qformer_crosses(q, il)));
  WEIGHT(&q->projection, 0, SL_W_PROJECTOR_1);
  VECTOR(&q->projection_b, 0, SL_W_PROJECTOR_1_B);
  return load_numbers(l, &q->numbers, q->queries.rows + q->positions.rows);
}

/* By connector: how it is loaded, and how many packed weights it has without its layers. */
static const struct {
  sl_status (*load)(loader *);
  int n_weight;
} connectors[] = {
    [SL_CONNECT_MLP] = {load_mlp, 2},
    [SL_CONNECT_RESAMPLER] = {load_resampler, 4},
    [SL_CONNECT_QFORMER] = {load_qformer, 2},
};

static sl_status load_projector(loader *l) {
  SL_TRY(connectors[l->model->kinds.projector->connector].load(l));
  VECTOR(&l->model->newline, 0, SL_W_NEWLINE);
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

/* Packed weights: patches, embedding and head, those of the blocks, the connector's. */
static int count_steps(const sl_model *m) {
  const int n_block = m->tower.n_layer + (m->config.layer_period ? m->config.layer_period : m->decoder.n_layer);
  const int n_layer = m->shape.projector.n_layer, every = m->config.projector.cross_every;
  const int n_cross = every ? (n_layer + every - 1) / every : 0;
  return 3 + 4 * n_block + connectors[m->kinds.projector->connector].n_weight + 6 * n_layer + 3 * n_cross;
}

static sl_status load_parts(loader *l) {
  l->n_step = count_steps(l->model);
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
  sl_status status = sl_weights_open(&l.weights, model->dir, model->vision_dir, model->family, &model->kinds,
                                     &model->config);
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

static void free_resampler(sl_resampler *r) {
  sl_weight_free(r->kv);
  sl_weight_free(r->q);
  sl_weight_free(r->k);
  sl_weight_free(r->v);
  sl_weight_free(r->o);
  sl_weight_free(r->proj);
}

static void free_qformer(sl_qformer *q) {
  for (int il = 0; q->layers && il < q->n_layer; il++) {
    sl_qformer_layer *w = &q->layers[il];
    sl_weight_free(w->qkv);
    sl_weight_free(w->self.w);
    sl_weight_free(w->cross_q);
    sl_weight_free(w->cross_kv);
    sl_weight_free(w->cross.w);
    sl_weight_free(w->query_mlp.up);
    sl_weight_free(w->query_mlp.down.w);
    sl_weight_free(w->text_mlp.up);
    sl_weight_free(w->text_mlp.down.w);
  }
  sl_weight_free(q->words);
  sl_weight_free(q->projection);
  free(q->layers);
}

void sl_model_unload(sl_model *m) {
  free_blocks(m->tower.blocks, m->tower.n_layer);
  free_blocks(m->decoder.blocks, m->decoder.n_layer);
  free_resampler(&m->resampler);
  free_qformer(&m->qformer);
  sl_buffer_free(m->numbers);
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
