/* Attention, backward. One task is one key/value head: dk and dv gather in scratch over its query heads and bands of
 * query rows, in that fixed order. Here on vectors; attend_dx_tiles.c does the same on AMX tiles.
 *
 * Method: p = exp(scale q k - lse) is recomputed per band; dp = dz v; ds = p (dp - mean dp) scale; dq = ds k,
 * dk += ds q, dv += p dz. The mean over keys, weighted by p, is the literature's dz z, so z need not be kept; divided by
 * the sum of p it is also free of lse's rounding. In bf16 mode every operand is rounded first. Source: arXiv:2205.14135,
 * section B.4. */
#include <string.h>

#include "backend/cpu/attend.h"

typedef struct head_gradient {
  float *kt, *vt; /* [d][n_key] */
  float *k;       /* [n_key][d] */
  float *dk, *dv; /* [n_key][d] */
  float *s, *dp;  /* [SL_ATTEND_ROWS][n_key] */
  float *q, *dz;  /* [SL_ATTEND_ROWS][d] */
  float *dq;      /* [SL_ATTEND_ROWS][d] */
  sl_attend_size size;
  bool bf16;
} head_gradient;

static void load_head(head_gradient *h, const sl_attend_gradient *g, int head_kv, float *next) {
  const sl_attend *a = g->a;
  int d = a->d_head, n = a->k.rows;
  h->size = sl_attend_padded(a);
  h->bf16 = a->compute == SL_COMPUTE_BF16;
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
  h->dq = sl_attend_take(&next, band);
  float *v = h->dv; /* a place that is free until it is cleared below */
  sl_attend_copy(g->vector, h->k, h->size.d, sl_mat_f32(a->k) + head_kv * d, a->k.stride, n, d, h->bf16);
  sl_attend_copy(g->vector, v, h->size.d, sl_mat_f32(a->v) + head_kv * d, a->v.stride, n, d, h->bf16);
  g->vector->transpose(h->kt, h->size.n_key, h->k, h->size.d, n, d);
  g->vector->transpose(h->vt, h->size.n_key, v, h->size.d, n, d);
  memset(h->dk, 0, keys * sizeof *h->dk);
  memset(h->dv, 0, keys * sizeof *h->dv);
}

/* Scores become probabilities, and dp the scores' gradient; what is hidden from key `first` on, zero. */
static void softmax_rows(const sl_attend_gradient *g, const head_gradient *h, int head, int row, int rows, int first,
                         int n_padded) {
  const sl_attend *a = g->a;
  for (int i = 0; i < rows; i++) {
    const sl_key_span sees = sl_attend_sees(a, row + i);
    const int n = sees.end - sees.first, before = sees.first - first, behind = n_padded - sees.end;
    float *s = h->s + (int64_t)i * h->size.n_key + sees.first, *ds = h->dp + (int64_t)i * h->size.n_key + sees.first;
    g->vector->softmax_dx(s, ds, a->scale, sl_mat_f32(a->lse)[(row + i) * a->lse.stride + head], n);
    if (h->bf16) {
      g->vector->round(s, s, n, SL_COMPUTE_BF16);
      g->vector->round(ds, ds, n, SL_COMPUTE_BF16);
    }
    memset(s - before, 0, (size_t)before * sizeof *s);
    memset(ds - before, 0, (size_t)before * sizeof *ds);
    memset(s + n, 0, (size_t)behind * sizeof *s);
    memset(ds + n, 0, (size_t)behind * sizeof *ds);
  }
}

static void band_dx(const sl_attend_gradient *g, const head_gradient *h, int head, int row, int rows) {
  const sl_attend *a = g->a;
  const sl_vector *vector = g->vector;
  const sl_key_span sees = sl_attend_band(a, row, rows);
  const int first = sees.first, n_seen = sees.end - first, n_padded = sl_round_up(n_seen, 16);
  int d = a->d_head, dp = h->size.d, nk = h->size.n_key;
  const int64_t at = (int64_t)first * dp;
  const float *q = sl_mat_f32(a->q) + row * a->q.stride + head * d;
  const float *dz = sl_mat_f32(g->dz) + row * g->dz.stride + head * d;
  sl_attend_copy(vector, h->q, dp, q, a->q.stride, rows, d, h->bf16);
  sl_attend_copy(vector, h->dz, dp, dz, g->dz.stride, rows, d, h->bf16);
  sl_attend_multiply(vector, h->s + first, nk, h->q, dp, 1, h->kt + first, nk, rows, n_padded, d, false);
  sl_attend_multiply(vector, h->dp + first, nk, h->dz, dp, 1, h->vt + first, nk, rows, n_padded, d, false);
  softmax_rows(g, h, head, row, rows, first, first + n_padded);
  sl_attend_multiply(vector, h->dq, dp, h->dp + first, nk, 1, h->k + at, dp, rows, dp, n_seen, false);
  sl_attend_multiply(vector, h->dk + at, dp, h->dp + first, 1, nk, h->q, dp, n_seen, dp, rows, true);
  sl_attend_multiply(vector, h->dv + at, dp, h->s + first, 1, nk, h->dz, dp, n_seen, dp, rows, true);
  sl_attend_store(g->dq, row, head * d, h->dq, dp, rows, d);
}

static void head_dx(const sl_attend_gradient *g, int head_kv, float *scratch) {
  const sl_attend *a = g->a;
  int group = a->n_head / a->n_head_kv, d = a->d_head;
  head_gradient h;
  load_head(&h, g, head_kv, scratch);
  for (int head = head_kv * group; head < (head_kv + 1) * group; head++) {
    for (int row = 0; row < a->q.rows; row += SL_ATTEND_ROWS) {
      band_dx(g, &h, head, row, a->q.rows - row < SL_ATTEND_ROWS ? a->q.rows - row : SL_ATTEND_ROWS);
    }
  }
  sl_attend_store(g->dk, 0, head_kv * d, h.dk, h.size.d, a->k.rows, d);
  sl_attend_store(g->dv, 0, head_kv * d, h.dv, h.size.d, a->k.rows, d);
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
  sl_attend_gradient g = {queue->backend->vector, a, dz, dq, dk, dv};
  bool tiles = a->compute == SL_COMPUTE_BF16 && queue->backend->amx;
  int n_thread = sl_cpu_threads(queue, 5.0 * a->q.rows * a->k.rows * a->n_head * a->d_head);
#pragma omp parallel num_threads(n_thread) if (n_thread > 1)
  {
    float *scratch = sl_cpu_scratch(queue, sl_cpu_thread());
#pragma omp for schedule(dynamic, 1)
    for (int head = 0; head < a->n_head_kv; head++) {
      if (tiles) {
        sl_attend_dx_tiles(&g, head, scratch);
      } else {
        head_dx(&g, head, scratch);
      }
    }
  }
}
