/* Attention, backward. One task is one key/value head: dk and dv gather in scratch over its query heads and bands of
 * query rows, in that fixed order.
 *
 * Method: p = exp(scale q k - lse) is recomputed per band; dp = dz v; ds = p (dp - dz z) scale; dq = ds k, dk += ds q,
 * dv += p dz. Source: arXiv:2205.14135, section B.4. */
#include <string.h>

#include "backend/cpu/attend.h"

typedef struct gradient {
  const sl_vector *vector;
  const sl_attend *a;
  sl_mat dz, dq, dk, dv;
} gradient;

typedef struct head_gradient {
  float *kt, *vt;  /* [d][n_key] */
  float *k;        /* [n_key][d] */
  float *dk, *dv;  /* [n_key][d] */
  float *s, *dp;   /* [SL_ATTEND_ROWS][n_key] */
  float *q, *dz;   /* [SL_ATTEND_ROWS][d] */
  float *score_q;  /* q as the scores see it */
  float *dq;       /* [SL_ATTEND_ROWS][d] */
  sl_attend_size size;
} head_gradient;

static void load_head(head_gradient *h, const gradient *g, int head_kv, float *next) {
  const sl_attend *a = g->a;
  int d = a->d_head, n = a->k.rows;
  h->size = sl_attend_padded(a);
  size_t keys = (size_t)h->size.n_key * (size_t)h->size.d, band = (size_t)SL_ATTEND_ROWS * (size_t)h->size.d;
  h->kt = sl_attend_take(&next, keys);
  h->vt = sl_attend_take(&next, keys);
  h->k = sl_attend_take(&next, keys);
  h->dk = sl_attend_take(&next, keys);
  h->dv = sl_attend_take(&next, keys);
  h->s = sl_attend_take(&next, (size_t)SL_ATTEND_ROWS * (size_t)h->size.n_key);
  h->dp = sl_attend_take(&next, (size_t)SL_ATTEND_ROWS * (size_t)h->size.n_key);
  h->q = sl_attend_take(&next, band);
  h->dz = sl_attend_take(&next, band);
  h->score_q = sl_attend_take(&next, band);
  h->dq = sl_attend_take(&next, band);
  const float *k = sl_mat_f32(a->k) + head_kv * d, *v = sl_mat_f32(a->v) + head_kv * d;
  if (a->compute == SL_COMPUTE_BF16) {
    sl_attend_copy(g->vector, h->k, h->size.d, k, a->k.stride, n, d, true);
    g->vector->transpose(h->kt, h->size.n_key, h->k, h->size.d, n, d);
  } else {
    g->vector->transpose(h->kt, h->size.n_key, k, a->k.stride, n, d);
  }
  g->vector->transpose(h->vt, h->size.n_key, v, a->v.stride, n, d);
  sl_attend_copy(g->vector, h->k, h->size.d, k, a->k.stride, n, d, false);
  memset(h->dk, 0, keys * sizeof *h->dk);
  memset(h->dv, 0, keys * sizeof *h->dv);
}

static void band_dx(const gradient *g, head_gradient *h, int head, int row, int rows) {
  const sl_attend *a = g->a;
  const sl_vector *vector = g->vector;
  int d = a->d_head, dp = h->size.d, nk = h->size.n_key;
  int n_seen = sl_attend_visible(a, row + rows - 1), n_padded = sl_round_up(n_seen, 16);
  const float *q = sl_mat_f32(a->q) + row * a->q.stride + head * d;
  const float *z = sl_mat_f32(a->z) + row * a->z.stride + head * d;
  const float *dz = sl_mat_f32(g->dz) + row * g->dz.stride + head * d;
  sl_attend_copy(vector, h->q, dp, q, a->q.stride, rows, d, false);
  sl_attend_copy(vector, h->dz, dp, dz, g->dz.stride, rows, d, false);
  sl_attend_copy(vector, h->score_q, dp, q, a->q.stride, rows, d, a->compute == SL_COMPUTE_BF16);
  sl_attend_multiply(vector, h->s, nk, h->score_q, dp, 1, h->kt, nk, rows, n_padded, d, false);
  sl_attend_multiply(vector, h->dp, nk, h->dz, dp, 1, h->vt, nk, rows, n_padded, d, false);
  for (int i = 0; i < rows; i++) {
    int n = sl_attend_visible(a, row + i);
    float *s = h->s + (int64_t)i * nk, *ds = h->dp + (int64_t)i * nk;
    float lse = sl_mat_f32(a->lse)[(row + i) * a->lse.stride + head];
    vector->softmax_dx(s, ds, a->scale, lse, vector->dot(dz + i * g->dz.stride, z + i * a->z.stride, d), n);
    memset(s + n, 0, (size_t)(n_padded - n) * sizeof *s);
    memset(ds + n, 0, (size_t)(n_padded - n) * sizeof *ds);
  }
  sl_attend_multiply(vector, h->dq, dp, h->dp, nk, 1, h->k, dp, rows, dp, n_seen, false);
  sl_attend_multiply(vector, h->dk, dp, h->dp, 1, nk, h->q, dp, n_seen, dp, rows, true);
  sl_attend_multiply(vector, h->dv, dp, h->s, 1, nk, h->dz, dp, n_seen, dp, rows, true);
  for (int i = 0; i < rows; i++) {
    memcpy(sl_mat_f32(g->dq) + (row + i) * g->dq.stride + head * d, h->dq + i * dp, (size_t)d * sizeof(float));
  }
}

static void head_dx(const gradient *g, int head_kv, float *scratch) {
  const sl_attend *a = g->a;
  int group = a->n_head / a->n_head_kv, d = a->d_head;
  head_gradient h;
  load_head(&h, g, head_kv, scratch);
  for (int head = head_kv * group; head < (head_kv + 1) * group; head++) {
    for (int row = 0; row < a->q.rows; row += SL_ATTEND_ROWS) {
      band_dx(g, &h, head, row, a->q.rows - row < SL_ATTEND_ROWS ? a->q.rows - row : SL_ATTEND_ROWS);
    }
  }
  for (int j = 0; j < a->k.rows; j++) {
    memcpy(sl_mat_f32(g->dk) + j * g->dk.stride + head_kv * d, h.dk + (int64_t)j * h.size.d, (size_t)d * sizeof(float));
    memcpy(sl_mat_f32(g->dv) + j * g->dv.stride + head_kv * d, h.dv + (int64_t)j * h.size.d, (size_t)d * sizeof(float));
  }
}

void sl_cpu_attend_dx(sl_queue *queue, const sl_attend *a, sl_mat dz, sl_mat dq, sl_mat dk, sl_mat dv) {
  sl_attend_check(a);
  assert(a->lse.buffer && dz.rows == a->q.rows && dz.cols == a->q.cols);
  assert(dq.rows == a->q.rows && dq.cols == a->q.cols && dk.rows == a->k.rows && dk.cols == a->k.cols);
  assert(dv.rows == a->k.rows && dv.cols == a->k.cols);
  size_t need = 0;
  bool fits = sl_attend_scratch_bytes(a->d_head, a->k.rows, &need) && need <= sl_cpu_scratch_bytes(queue);
  assert(fits && "sl_queue_reserve was not told of this many keys");
  if (!fits) return;
  gradient g = {queue->backend->vector, a, dz, dq, dk, dv};
  int n_thread = sl_cpu_threads(queue, 5.0 * a->q.rows * a->k.rows * a->n_head * a->d_head);
#pragma omp parallel num_threads(n_thread) if (n_thread > 1)
  {
    float *scratch = sl_cpu_scratch(queue, sl_cpu_thread());
#pragma omp for schedule(dynamic, 1)
    for (int head = 0; head < a->n_head_kv; head++) head_dx(&g, head, scratch);
  }
}
