/* The weights of connectors: Linear layers, resampler, Q-Former. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/load_internal.h"

/* A matrix stored [inputs, outputs], packed as the others are. */
static sl_status load_transposed(sl_loader *l, sl_weight **out, sl_role role) {
  const sl_tensor *source = NULL;
  SL_TRY(sl_weights_get(l->weights, role, 0, &source));
  const size_t size = sl_dtype_size(source->dtype), n_in = (size_t)source->shape[0], n_out = (size_t)source->shape[1];
  char *turned = NULL;
  SL_TRY(SL_ALLOC(turned, n_in * n_out * size, "projector"));
  for (size_t i = 0; i < n_in; i++)
    for (size_t o = 0; o < n_out; o++)
      memcpy(turned + (o * n_in + i) * size, (const char *)source->data + (i * n_out + o) * size, size);
  const sl_tensor part = {.data = turned, .dtype = source->dtype, .n_dim = 2, .shape = {(int64_t)n_out, (int64_t)n_in}};
  const sl_status status = sl_weight_new(out, l->model->backend, l->model->compute, &part, 1);
  free(turned);
  SL_TRY(status);
  sl_load_finish(l, source);
  l->model->packed_bytes += sl_weight_bytes(*out);
  return sl_load_step(l);
}

static sl_status load_mlp(sl_loader *l) {
  sl_projector *projector = &l->model->projector;
  VECTOR(&projector->norm_w, 0, SL_W_PROJECTOR_NORM);
  VECTOR(&projector->norm_b, 0, SL_W_PROJECTOR_NORM_B);
  if (l->model->config.projector.in_out)
    SL_TRY(load_transposed(l, &projector->linear_1, SL_W_PROJECTOR_1));
  else
    WEIGHT(&projector->linear_1, 0, SL_W_PROJECTOR_1);
  VECTOR(&projector->linear_1_b, 0, SL_W_PROJECTOR_1_B);
  WEIGHT(&projector->linear_2, 0, SL_W_PROJECTOR_2);
  VECTOR(&projector->linear_2_b, 0, SL_W_PROJECTOR_2_B);
  return SL_OK;
}

/* 0, 1, 2, ... on the device. */
static sl_status load_numbers(sl_loader *l, sl_ints *out, int count) {
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
static sl_status load_thirds(sl_loader *l, sl_weight **const out[3], sl_role role) {
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
  sl_load_finish(l, source);
  return sl_load_step(l);
}

static sl_status load_resampler(sl_loader *l) {
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
  SL_TRY(sl_load_resampled(l, &r->pos_k, SL_W_R_POSITION, 0, (int)lround(sqrt((double)r->pos_q.rows))));
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

static sl_status load_qformer_layer(sl_loader *l, sl_qformer_layer *w, int layer, bool crosses) {
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

static sl_status load_qformer(sl_loader *l) {
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
  sl_status (*load)(sl_loader *);
  int n_weight;
} connectors[] = {
    [SL_CONNECT_MLP] = {load_mlp, 2},
    [SL_CONNECT_RESAMPLER] = {load_resampler, 4},
    [SL_CONNECT_QFORMER] = {load_qformer, 2},
};

sl_status sl_load_connector(sl_loader *l) { return connectors[l->model->kinds.projector->connector].load(l); }

int sl_connector_weights(const sl_model *m) {
  const int n_layer = m->shape.projector.n_layer, every = m->config.projector.cross_every;
  const int n_cross = every ? (n_layer + every - 1) / every : 0;
  return connectors[m->kinds.projector->connector].n_weight + 6 * n_layer + 3 * n_cross;
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

void sl_unload_connector(sl_model *m) {
  sl_weight_free(m->projector.linear_1);
  sl_weight_free(m->projector.linear_2);
  free_resampler(&m->resampler);
  free_qformer(&m->qformer);
  sl_buffer_free(m->numbers);
}
