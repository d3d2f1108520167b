/* From tensors to nn structs: weights packed for the backend, related ones stacked into one product (q, k, v; gate,
 * up), vectors expanded to f32. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/load_internal.h"
#include "model/rope.h"
#include "nn/positions.h"

static void warn(const sl_loader *l, const char *message) {
  if (l->options->log) l->options->log(l->options->user, message);
}

void sl_load_finish(sl_loader *l, const sl_tensor *tensor) {
  int64_t bad = -1;
  sl_weights_done(l->weights, tensor, &bad);
  if (bad < 0) return;
  char message[320];
  snprintf(message, sizeof message, "tensor \"%s\" holds a NaN or infinity (first at element %lld): results will too",
           tensor->name, (long long)bad);
  warn(l, message);
}

sl_status sl_load_step(sl_loader *l) {
  l->n_done++;
  if (l->options->progress && !l->options->progress(l->options->user, "loading weights", l->n_done, l->n_step))
    SL_FAIL(SL_ERROR_CANCELLED, "interrupted while loading weights");
  return SL_OK;
}

sl_status sl_load_weight(sl_loader *l, sl_weight **out, const sl_role *roles, int n_role, int layer) {
  sl_tensor parts[3] = {0};
  const sl_tensor *sources[3];
  for (int i = 0; i < n_role; i++) {
    SL_TRY(sl_weights_get(l->weights, roles[i], layer, &sources[i]));
    if (!sources[i]) return SL_OK;
    parts[i] = *sources[i];
    for (int d = 2; d < parts[i].n_dim; d++) parts[i].shape[1] *= parts[i].shape[d]; /* a patch kernel is a matrix */
    parts[i].n_dim = 2;
  }
  SL_TRY(sl_weight_new(out, l->model->backend, l->model->compute, parts, n_role));
  for (int i = 0; i < n_role; i++) sl_load_finish(l, sources[i]);
  l->model->packed_bytes += sl_weight_bytes(*out);
  return sl_load_step(l);
}

sl_status sl_load_values(sl_loader *l, const float *values, int rows, int cols, sl_mat *out) {
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

/* Gemma's norms multiply by 1 + w, and w is stored. */
static bool lacks_one(const sl_loader *l, sl_role role) {
  static const bool is_norm[SL_W_COUNT] = {
      [SL_W_NORM] = true,  [SL_W_LN1] = true,   [SL_W_LN2] = true,   [SL_W_Q_NORM] = true,
      [SL_W_K_NORM] = true, [SL_W_POST1] = true, [SL_W_POST2] = true, [SL_W_PROJECTOR_NORM] = true};
  return l->model->config.text.offset_norms && is_norm[role];
}

sl_status sl_load_vector(sl_loader *l, sl_mat *out, const sl_role *roles, int n_role, int layer) {
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
    const int64_t end = at + sl_tensor_count(sources[i]);
    sl_convert_to_f32(values + at, sources[i]->data, sources[i]->dtype, sl_tensor_count(sources[i]));
    for (int64_t k = at; k < end && lacks_one(l, roles[i]); k++) values[k] += 1;
    at += sl_tensor_count(sources[i]);
    sl_load_finish(l, sources[i]);
  }
  const int rows = n_role == 1 ? (int)(count / sources[0]->shape[sources[0]->n_dim - 1]) : 1;
  const sl_status status = sl_load_values(l, values, rows, (int)(count / rows), out);
  free(values);
  return status;
}

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
static sl_status load_fused(sl_loader *l, sl_weight **out, sl_mat *bias, sl_role role, sl_role bias_role, int layer,
                            sl_qkv_form form, const sl_part_shape *s) {
  if (form == SL_QKV_STACKED) {
    SL_TRY(sl_load_weight(l, out, &role, 1, layer));
    return sl_load_vector(l, bias, &bias_role, 1, layer);
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
    status = sl_load_values(l, ordered, 1, n_row, bias);
  }
  free(rows);
  free(values);
  SL_TRY(status);
  sl_load_finish(l, source);
  if (source_b) sl_load_finish(l, source_b);
  l->model->packed_bytes += sl_weight_bytes(*out);
  return sl_load_step(l);
}

/* ---- blocks ---- */

static sl_status load_decoder_block(sl_loader *l, sl_block_weights *b, int layer) {
  VECTOR(&b->norm1_w, layer, SL_W_LN1);
  VECTOR(&b->norm2_w, layer, SL_W_LN2);
  VECTOR(&b->post1_w, layer, SL_W_POST1);
  VECTOR(&b->post2_w, layer, SL_W_POST2);
  VECTOR(&b->q_norm_w, layer, SL_W_Q_NORM);
  VECTOR(&b->k_norm_w, layer, SL_W_K_NORM);
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

static sl_status load_tower_block(sl_loader *l, sl_block_weights *b, int layer) {
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
  if (l->model->tower.shape.gated) {
    WEIGHT(&b->up, layer, SL_W_VGATE, SL_W_FC1);
    VECTOR(&b->up_b, layer, SL_W_VGATE_B, SL_W_FC1_B);
  } else {
    WEIGHT(&b->up, layer, SL_W_FC1);
    VECTOR(&b->up_b, layer, SL_W_FC1_B);
  }
  WEIGHT(&b->down, layer, SL_W_FC2);
  VECTOR(&b->down_b, layer, SL_W_FC2_B);
  VECTOR(&b->scale2, layer, SL_W_VSCALE2);
  return SL_OK;
}

sl_status sl_load_resampled(sl_loader *l, sl_mat *out, sl_role role, int n_lead, int side) {
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
  const sl_status status = sl_load_values(l, made, n_lead + grid * grid, cols, out);
  free(values);
  return status;
}

static sl_status load_positions(sl_loader *l) {
  sl_tower *tower = &l->model->tower;
  const int stored = l->model->config.vision.position_grid;
  const sl_tensor *source = NULL;
  if (!sl_weights_has_role(l->weights, SL_W_POSITION)) return SL_OK;
  if (stored == 0 || stored == l->model->shape.grid_width)
    return sl_load_vector(l, &tower->positions, ROLES(SL_W_POSITION), 0);
  SL_TRY(sl_load_resampled(l, &tower->positions, SL_W_POSITION, tower->n_class, stored));
  SL_TRY(sl_weights_get(l->weights, SL_W_POSITION, 0, &source));
  sl_load_finish(l, source);
  return SL_OK;
}

/* Rotary frequencies in the plane: the first half of a head's pairs turns by the row, the second by the column, each as
 * a head of half the width. */
static sl_status load_plane_freq(sl_loader *l) {
  sl_model *m = l->model;
  const int d = m->tower.shape.d_head, half = d / 2;
  float *inv_freq = NULL;
  if (m->config.vision.rope_theta <= 0) return SL_OK;
  SL_TRY(SL_ALLOC(inv_freq, 2 * (size_t)half, "rotary frequencies"));
  sl_rope_frequencies(inv_freq, m->config.vision.rope_theta, half);
  sl_rope_frequencies(inv_freq + half + half / 2, m->config.vision.rope_theta, half);
  const sl_status status = sl_load_values(l, inv_freq, 2, half, &m->tower.shape.inv_freq);
  free(inv_freq);
  return status;
}

static sl_status load_tower(sl_loader *l) {
  sl_tower *tower = &l->model->tower;
  SL_TRY(load_plane_freq(l));
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

/* Rotary frequencies of positions with three numbers: every pair turns by one of them. */
static void spread_sections(float *out, const float *inv_freq, const int *sections, int half) {
  for (int a = 0, i = 0; a < 3; a++)
    for (int k = 0; k < sections[a]; k++, i++) out[a * half + i] = inv_freq[i];
}

/* Rotary frequencies of the config's type; one row for every level of stretching, whose theta is
 * theta alpha^(d / (d - 2)), alpha = 2^(level + 1) - 1. */
static sl_status load_inv_freq(sl_loader *l) {
  sl_model *m = l->model;
  const int d = m->decoder.shape.d_head, half = d / 2, n_level = sl_rope_level(&m->config, m->shape.max_position) + 1;
  const int n_axis = sl_rope_axes(&m->config);
  float *inv_freq = NULL;
  SL_TRY(SL_ALLOC(inv_freq, ((size_t)n_level + (size_t)n_axis) * (size_t)half, "rotary frequencies"));
  for (int level = 0; level < n_level; level++) {
    const double alpha = ldexp(1, level + 1) - 1;
    const float theta = (float)(m->config.text.rope_theta * (level ? pow(alpha, (double)d / (d - 2)) : 1));
    sl_rope_frequencies(inv_freq + level * half, (double)theta, d);
    sl_rope_scale(inv_freq + level * half, half, &m->config);
  }
  float *rows = n_axis > 1 ? inv_freq + half : inv_freq; /* a model with axes has one level */
  if (n_axis > 1) spread_sections(rows, inv_freq, m->config.text.rope_sections, half);
  sl_status status = sl_load_values(l, rows, n_axis > 1 ? n_axis : n_level, half, &m->inv_freq);
  m->decoder.shape.inv_freq = sl_mat_rows(m->inv_freq, 0, n_axis);
  if (status == SL_OK && m->decoder.global_every > 0) {
    sl_rope_frequencies(inv_freq, m->config.text.local_theta, d);
    status = sl_load_values(l, inv_freq, 1, half, &m->decoder.local.inv_freq);
  }
  free(inv_freq);
  return status;
}

/* A folder without a head means that the embedding serves as one; unless its config says it does not. */
static sl_status check_tied(const sl_loader *l) {
  const json_t *top = sl_json_at(l->model->config.json, "tie_word_embeddings");
  char path[96];
  const char *section = l->model->family->text.section;
  snprintf(path, sizeof path, "%s%stie_word_embeddings", section, section[0] ? "." : "");
  const json_t *text = sl_json_at(l->model->config.json, path);
  if (json_is_true(top) || json_is_true(text) || !(json_is_false(top) || json_is_false(text))) return SL_OK;
  SL_FAIL(SL_ERROR_FORMAT, "%s: tensor \"lm_head.weight\" is missing, and config.json says tie_word_embeddings: false",
          l->model->dir);
}

static sl_status load_decoder(sl_loader *l) {
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
    SL_TRY(sl_load_step(l));
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

static sl_status keep_unused_names(sl_loader *l) {
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
  return 3 + 4 * n_block + sl_connector_weights(m);
}

static sl_status load_parts(sl_loader *l) {
  l->n_step = count_steps(l->model);
  SL_TRY(load_tower(l));
  SL_TRY(sl_load_connector(l));
  VECTOR(&l->model->newline, 0, SL_W_NEWLINE);
  SL_TRY(load_decoder(l));
  l->model->n_found = sl_weights_found(l->weights);
  l->model->weight_bytes = sl_weights_bytes(l->weights);
  l->model->hash = sl_weights_hash(l->weights);
  l->model->tower_weights_apart = sl_weights_tower_apart(l->weights);
  return keep_unused_names(l);
}

sl_status sl_model_load(sl_model *model, const sl_model_options *options) {
  sl_loader l = {.model = model, .options = options};
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

void sl_model_unload(sl_model *m) {
  free_blocks(m->tower.blocks, m->tower.n_layer);
  free_blocks(m->decoder.blocks, m->decoder.n_layer);
  sl_unload_connector(m);
  sl_weight_free(m->tower.patch);
  sl_weight_free(m->decoder.embed);
  sl_weight_free(m->decoder.head);
  for (int i = 0; i < m->n_vector; i++) sl_buffer_free(m->vectors[i]);
  free(m->vectors);
  for (int i = 0; i < m->n_unused_named; i++) free(m->unused[i]);
  free(m->unused);
}
