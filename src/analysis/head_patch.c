/* Attention on the image and attribution patching of every head.
 *
 * A head h at query i puts out z_i = sum_j a_ij v_j with a_i = softmax_j(s_ij), s_ij = q_i k_j / sqrt(d). Of its keys
 * and values only those at image positions j, as queries after the image see them, are replaced by a baseline's. To
 * first order (clean minus baseline, all taken at the clean run):
 *
 *   u_i = sum_j a_ij (v_j - v'_j) + a_ij (v_j - z_i) q_i (k_j - k'_j) / sqrt(d)
 *   patching_h = sum_i u_i dt/dz_i
 *
 * so only dt/dz is needed of the backward pass, and query heads that share keys stay apart. When the image is hidden
 * there is no k', v'; then u_i is the exact change of the head's output, with A_i = sum_j a_ij over what is hidden, the
 * image and the marks around it:
 *
 *   u_i = z_i - (z_i - sum_j a_ij v_j) / (1 - A_i)
 *
 * Source: attribution patching after Nanda, Attribution patching (2023), and Syed, Rager, Conmy, arXiv 2310.10348,
 * applied to the head ablation of Kim et al., arXiv 2509.17588; the equations above are sightline's. */
#include "analysis/head_patch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/shared.h"

/* A head that looks at nothing but the image has no output without it; the division stops here. */
#define LEAST_REST 1e-4f

typedef struct patch {
  sl_analysis_context *context;
  const sl_measure *measure;
  const sl_baseline *baseline;
  int n_layer, n_head, n_head_kv, d;
  float scale;        /* of q k */
  int first, n_query; /* queries after the image, up to the last measured row */
  int first_key, n_key;     /* the N positions whose keys are replaced or hidden: */
  int image_begin, image_end; /* the image's among them */
  float *q, *z;       /* [n_query, H d] of this layer */
  float *k, *v;       /* [N, Hkv d] */
  float *k_base, *v_base;
  float *pattern;     /* [H, n_query, N] */
  float *change;      /* u [L, n_query, H d] */
  float *attention, *patching;
  float *gradient;    /* one query's dt/dz [H d] */
} patch;

/* Rows first .. first + n_row - 1 and columns from first_col on of a device matrix. */
static void read_rows(sl_queue *queue, float *out, sl_mat m, int first, int n_row, int first_col, int n_col) {
  for (int r = 0; r < n_row; r++) {
    const int64_t at = m.offset + (first + r) * m.stride + first_col;
    sl_buffer_read(queue, out + (int64_t)r * n_col, m.buffer, (size_t)at * sizeof(float),
                   (size_t)n_col * sizeof(float));
  }
}

/* u of one query and head where the image is hidden. */
static void change_hidden(const patch *p, const float *a, const float *v, const float *z, float *u) {
  const int stride = p->n_head_kv * p->d;
  float mass = 0;
  for (int e = 0; e < p->d; e++) u[e] = z[e];
  for (int j = 0; j < p->n_key; j++) {
    mass += a[j];
    for (int e = 0; e < p->d; e++) u[e] -= a[j] * v[(int64_t)j * stride + e];
  }
  const float rest = 1 - mass > LEAST_REST ? 1 - mass : LEAST_REST;
  for (int e = 0; e < p->d; e++) u[e] = z[e] - u[e] / rest;
}

/* u of one query and head where keys and values are replaced. */
static void change_replaced(const patch *p, const float *a, int kv_column, const float *q, const float *z, float *u) {
  const int stride = p->n_head_kv * p->d;
  for (int e = 0; e < p->d; e++) u[e] = 0;
  for (int j = 0; j < p->n_key; j++) {
    const int64_t at = (int64_t)j * stride + kv_column;
    const float *k = p->k + at, *v = p->v + at, *k_base = p->k_base + at, *v_base = p->v_base + at;
    float score = 0;
    for (int e = 0; e < p->d; e++) score += q[e] * (k[e] - k_base[e]);
    score *= p->scale;
    for (int e = 0; e < p->d; e++) u[e] += a[j] * (v[e] - v_base[e] + score * (v[e] - z[e]));
  }
}

static void reduce_layer(patch *p, int layer) {
  const int width = p->n_head * p->d, group = p->n_head / p->n_head_kv;
  for (int h = 0; h < p->n_head; h++) {
    double sum = 0;
    const int kv_column = h / group * p->d;
    for (int i = 0; i < p->n_query; i++) {
      const float *a = p->pattern + ((int64_t)h * p->n_query + i) * p->n_key;
      const int64_t at = (int64_t)i * width + h * p->d;
      float *u = p->change + (int64_t)layer * p->n_query * width + at;
      for (int j = p->image_begin; j < p->image_end; j++) sum += a[j];
      if (p->baseline)
        change_replaced(p, a, kv_column, p->q + at, p->z + at, u);
      else
        change_hidden(p, a, p->v + kv_column, p->z + at, u);
    }
    p->attention[layer * p->n_head + h] = (float)(sum / p->n_query);
  }
}

static bool wants_forward(void *user, sl_part part, sl_site site, int layer, bool backward) {
  (void)user, (void)layer;
  return part == SL_PART_DECODER && !backward &&
         (site == SL_SITE_ROT_Q || site == SL_SITE_ROT_K || site == SL_SITE_V || site == SL_SITE_PATTERN ||
          site == SL_SITE_Z);
}

static void see_forward(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                        sl_mat grad) {
  (void)part, (void)first_row, (void)grad;
  patch *p = user;
  const int width = p->n_head * p->d, width_kv = p->n_head_kv * p->d;
  if (site == SL_SITE_ROT_Q) read_rows(queue, p->q, value, p->first, p->n_query, 0, width);
  if (site == SL_SITE_ROT_K) read_rows(queue, p->k, value, p->first_key, p->n_key, 0, width_kv);
  if (site == SL_SITE_V) read_rows(queue, p->v, value, p->first_key, p->n_key, 0, width_kv);
  if (site == SL_SITE_PATTERN)
    read_rows(queue, p->pattern, value, 0, p->n_head * p->n_query, p->first_key, p->n_key);
  if (site != SL_SITE_Z) return; /* the last of a layer */
  read_rows(queue, p->z, value, p->first, p->n_query, 0, width);
  if (p->baseline) sl_baseline_read(p->context->session, p->baseline, layer, p->k_base, p->v_base);
  reduce_layer(p, layer);
}

static bool wants_backward(void *user, sl_part part, sl_site site, int layer, bool backward) {
  (void)user, (void)layer;
  return part == SL_PART_DECODER && backward && site == SL_SITE_Z;
}

/* Queries before first_row have no gradient. */
static void see_backward(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row,
                         sl_mat value, sl_mat grad) {
  (void)part, (void)site, (void)value;
  patch *p = user;
  const int width = p->n_head * p->d;
  for (int i = 0; i < p->n_query; i++) {
    const int row = p->first + i - first_row;
    if (row < 0) continue;
    const float *u = p->change + ((int64_t)layer * p->n_query + i) * width;
    read_rows(queue, p->gradient, grad, row, 1, 0, width);
    for (int h = 0; h < p->n_head; h++) {
      double sum = 0;
      for (int e = h * p->d; e < (h + 1) * p->d; e++) sum += (double)u[e] * (double)p->gradient[e];
      p->patching[layer * p->n_head + h] += (float)sum;
    }
  }
}

static sl_status patch_alloc(patch *p) {
  const size_t T = (size_t)p->n_query, N = (size_t)p->n_key, D = (size_t)p->n_head * (size_t)p->d;
  const size_t D_kv = (size_t)p->n_head_kv * (size_t)p->d;
  SL_TRY(SL_ALLOC(p->q, T * D, "queries"));
  SL_TRY(SL_ALLOC(p->z, T * D, "head outputs"));
  SL_TRY(SL_ALLOC(p->k, N * D_kv, "image keys"));
  SL_TRY(SL_ALLOC(p->v, N * D_kv, "image values"));
  if (p->baseline) SL_TRY(SL_ALLOC(p->k_base, N * D_kv, "baseline keys"));
  if (p->baseline) SL_TRY(SL_ALLOC(p->v_base, N * D_kv, "baseline values"));
  SL_TRY(SL_ALLOC(p->pattern, (size_t)p->n_head * T * N, "attention rows"));
  SL_TRY(SL_ALLOC(p->change, (size_t)p->n_layer * T * D, "changes of head outputs"));
  return SL_ALLOC(p->gradient, D, "gradient");
}

static void patch_free(patch *p) {
  float *const all[] = {p->q, p->z, p->k, p->v, p->k_base, p->v_base, p->pattern, p->change, p->gradient};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* Forward over prompt and answer; the reductions happen as layers pass by. */
static sl_status run_forward(patch *p, float *logits) {
  sl_analysis_context *c = p->context;
  sl_queue *queue = sl_session_queue(c->session);
  sl_buffer *rows_buffer = NULL;
  int32_t *rows = NULL;
  SL_TRY(SL_ALLOC(rows, (size_t)p->n_query, "query rows"));
  for (int i = 0; i < p->n_query; i++) rows[i] = p->first + i;
  sl_status status = sl_buffer_new(&rows_buffer, sl_model_get_backend(c->model),
                                   (size_t)p->n_query * sizeof *rows, "query rows");
  if (status == SL_OK) {
    sl_buffer_write(queue, rows_buffer, 0, rows, (size_t)p->n_query * sizeof *rows);
    const sl_probe probe = {.user = p, .wants = wants_forward, .see = see_forward,
                            .pattern_rows = {.buffer = rows_buffer, .offset = 0, .count = p->n_query}};
    status = sl_session_forward(c->session, c->layout, c->image, p->measure->rows, p->measure->n_row, logits, &probe,
                                true);
  }
  sl_buffer_free(rows_buffer);
  free(rows);
  return status;
}

static sl_status run_passes(patch *p) {
  const sl_measure *m = p->measure;
  const size_t n_vocab = (size_t)m->n_vocab, n = (size_t)m->n_row * n_vocab;
  float *logits = NULL, *d = NULL;
  sl_status status = SL_ALLOC(logits, n, "logits");
  if (status == SL_OK) status = SL_ALLOC(d, n, "gradients");
  if (status == SL_OK) status = run_forward(p, logits);
  for (int a = 0; a < m->n_row && status == SL_OK; a++)
    sl_target_gradient(m->target, logits + (size_t)a * n_vocab, m->n_vocab, m->ids[a], m->rivals[a],
                       d + (size_t)a * n_vocab);
  const sl_probe probe = {.user = p, .wants = wants_backward, .see = see_backward};
  if (status == SL_OK) status = sl_session_backward(p->context->session, m->rows, m->n_row, d, &probe, false);
  free(logits);
  free(d);
  return status;
}

sl_status sl_head_patch_run(float *attention, float *patching, sl_analysis_context *c, const sl_measure *measure,
                            const sl_baseline *baseline) {
  const sl_part_shape *shape = &sl_model_get_shape(c->model)->decoder;
  const int first = sl_context_first_text(c);
  const sl_frame frame = baseline ? (sl_frame){0, 0} : sl_layout_frame(c->layout);
  patch p = {.context = c, .measure = measure, .baseline = baseline, .n_layer = shape->n_layer,
             .n_head = shape->n_head, .n_head_kv = shape->n_head_kv, .d = shape->d_head,
             .scale = sl_model_get_shape(c->model)->score_scale, .first = first,
             .n_query = measure->rows[measure->n_row - 1] + 1 - first,
             .first_key = c->layout->first_image - frame.n_before,
             .n_key = frame.n_before + c->layout->n_image + frame.n_after, .image_begin = frame.n_before,
             .image_end = frame.n_before + c->layout->n_image, .attention = attention, .patching = patching};
  memset(patching, 0, (size_t)p.n_layer * (size_t)p.n_head * sizeof *patching);
  sl_status status = patch_alloc(&p);
  if (status == SL_OK) status = run_passes(&p);
  patch_free(&p);
  return status;
}
