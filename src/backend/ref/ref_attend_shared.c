/* Attention over shared segments and local keys, reference: one row of one head at a time, column by column, f64 sums,
 * softmax over the columns whose bit is on, shifted by the largest score. In compute mode bf16 q, k, v and
 * exp(score - largest) are rounded to bf16 before their products, as in attend. Source: arXiv:1706.03762; columns and
 * masks as backend.h describes them. */
#include <math.h>

#include "backend/ref/ref.h"

static double rounded(const sl_attend_shared *a, float x) {
  return a->compute == SL_COMPUTE_BF16 ? (double)sl_bf16_to_f32(sl_f32_to_bf16(x)) : (double)x;
}

/* The row of m behind an index of its own, at kv head `head_kv`. */
static const float *at(const sl_attend_shared *a, sl_mat m, int row, int head_kv) {
  assert(row >= 0 && row < m.rows && "a mask shows a padding column");
  return sl_mat_f32(m) + row * m.stride + head_kv * a->d_head;
}

/* Key and value of one column as a row of `branch` sees it. */
static void column_at(const sl_attend_shared *a, int column, int branch, int head_kv, const float **k,
                      const float **v) {
  int first = 0;
  for (int s = 0; s < a->n_segment; s++) {
    int n = (a->k[s].rows + 31) / 32 * 32;
    if (column < first + n) {
      *k = at(a, a->k[s], column - first, head_kv);
      *v = at(a, a->v[s], column - first, head_kv);
      return;
    }
    first += n;
  }
  assert(column - first < a->n_local && "a mask shows a padding column");
  *k = at(a, a->local_k, branch * a->n_local + column - first, head_kv);
  *v = at(a, a->local_v, branch * a->n_local + column - first, head_kv);
}

static double score(const sl_attend_shared *a, const float *q, const float *k) {
  double sum = 0;
  for (int i = 0; i < a->d_head; i++) sum += rounded(a, q[i]) * rounded(a, k[i]);
  return sum * a->scale;
}

static bool sees(const uint32_t *mask, int column) { return mask[column / 32] >> (column % 32) & 1; }

static void attend_row(const sl_attend_shared *a, int row, int head) {
  int d = a->d_head, head_kv = head / (a->n_head / a->n_head_kv), n = 32 * sl_attend_shared_words(a);
  int branch = sl_ints_data(a->branch)[row];
  const uint32_t *mask = sl_attend_shared_mask(a, row, head);
  const float *q = sl_mat_f32(a->q) + row * a->q.stride + head * d, *k, *v;
  float *z = sl_mat_f32(a->z) + row * a->z.stride + head * d;
  double largest = -INFINITY, sum = 0, out[256] = {0};
  for (int c = 0; c < n; c++) {
    if (!sees(mask, c)) continue;
    column_at(a, c, branch, head_kv, &k, &v);
    largest = fmax(largest, score(a, q, k));
  }
  for (int c = 0; c < n; c++) {
    if (!sees(mask, c)) continue;
    column_at(a, c, branch, head_kv, &k, &v);
    double e = exp(score(a, q, k) - largest), weight = rounded(a, (float)e);
    sum += e;
    for (int i = 0; i < d; i++) out[i] += weight * rounded(a, v[i]);
  }
  for (int i = 0; i < d; i++) z[i] = sum > 0 ? (float)(out[i] / sum) : 0;
}

void sl_ref_attend_shared(sl_queue *queue, const sl_attend_shared *a) {
  (void)queue;
  sl_attend_shared_check(a);
  for (int row = 0; row < a->q.rows; row++) {
    for (int head = 0; head < a->n_head; head++) attend_row(a, row, head);
  }
}
