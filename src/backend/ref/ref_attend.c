/* Attention and its gradient, reference: one query row of one head at a time, f64 sums, softmax shifted by the row's
 * largest score. In compute mode bf16 the operands of every product are rounded to bf16: q, k, v and exp(score - largest)
 * forward; q, k, v, dz, p and ds in the gradient. Source: arXiv:1706.03762; the backward identities as in
 * arXiv:2205.14135, section B.4, with dz z written as the mean of dp weighted by p. */
#include <math.h>

#include "backend/ref/ref.h"

static double rounded(const sl_attend *a, float x) {
  return a->compute == SL_COMPUTE_BF16 ? (double)sl_bf16_to_f32(sl_f32_to_bf16(x)) : (double)x;
}

static double score(const sl_attend *a, int head, int row, int key) {
  int first = head * a->d_head, first_kv = head / (a->n_head / a->n_head_kv) * a->d_head;
  const float *q = sl_mat_f32(a->q) + row * a->q.stride + first;
  const float *k = sl_mat_f32(a->k) + key * a->k.stride + first_kv;
  double sum = 0;
  for (int i = 0; i < a->d_head; i++) sum += rounded(a, q[i]) * rounded(a, k[i]);
  return sum * a->scale;
}

/* z of one row and head; returns log sum exp(score). */
static double attend_row(const sl_attend *a, int head, int row) {
  const sl_key_span sees = sl_attend_sees(a, row);
  int first_kv = head / (a->n_head / a->n_head_kv) * a->d_head;
  double largest = -INFINITY, sum = 0, out[256] = {0};
  float *z = sl_mat_f32(a->z) + row * a->z.stride + head * a->d_head;
  const float *v = sl_mat_f32(a->v) + first_kv;
  for (int j = sees.first; j < sees.end; j++) largest = fmax(largest, score(a, head, row, j));
  for (int j = sees.first; j < sees.end; j++) {
    const double e = exp(score(a, head, row, j) - largest), weight = rounded(a, (float)e);
    sum += e;
    for (int i = 0; i < a->d_head; i++) out[i] += weight * rounded(a, v[j * a->v.stride + i]);
  }
  for (int i = 0; i < a->d_head; i++) z[i] = (float)(out[i] / sum);
  return largest + log(sum);
}

void sl_ref_attend(sl_queue *queue, const sl_attend *a) {
  (void)queue;
  sl_attend_check(a);
  for (int t = 0; t < a->q.rows; t++) {
    for (int h = 0; h < a->n_head; h++) {
      double lse = attend_row(a, h, t);
      if (a->lse.buffer) sl_mat_f32(a->lse)[t * a->lse.stride + h] = (float)lse;
    }
  }
  const int32_t *rows = a->rows.count > 0 ? sl_ints_data(a->rows) : NULL;
  for (int h = 0; h < a->n_head; h++) {
    for (int r = 0; r < a->rows.count; r++) {
      assert(rows[r] >= 0 && rows[r] < a->q.rows);
      int64_t out = (int64_t)h * a->rows.count + r;
      const sl_key_span sees = sl_attend_sees(a, rows[r]);
      double largest = -INFINITY, sum = 0;
      for (int j = sees.first; j < sees.end; j++) largest = fmax(largest, score(a, h, rows[r], j));
      for (int j = sees.first; j < sees.end; j++) sum += exp(score(a, h, rows[r], j) - largest);
      for (int j = 0; j < a->k.rows; j++) {
        double s = j >= sees.first && j < sees.end ? score(a, h, rows[r], j) : -INFINITY;
        if (a->scores.buffer) sl_mat_f32(a->scores)[out * a->scores.stride + j] = (float)s;
        if (a->pattern.buffer) sl_mat_f32(a->pattern)[out * a->pattern.stride + j] = (float)(exp(s - largest) / sum);
      }
    }
  }
}

/* p = exp(score - lse) of one key, and dp = dz v. */
static double probability(const sl_attend *a, sl_mat dz, int head, int row, int key, double *dp) {
  int first = head * a->d_head, first_kv = head / (a->n_head / a->n_head_kv) * a->d_head;
  const float *g = sl_mat_f32(dz) + row * dz.stride + first, *v = sl_mat_f32(a->v) + key * a->v.stride + first_kv;
  double lse = sl_mat_f32(a->lse)[row * a->lse.stride + head];
  *dp = 0;
  for (int i = 0; i < a->d_head; i++) *dp += rounded(a, g[i]) * rounded(a, v[i]);
  return exp(score(a, head, row, key) - lse);
}

/* ds = p (dp - mean over keys of dp weighted by p) scale; dq += ds k, dk += ds q, dv += p dz. */
static void attend_dx_row(const sl_attend *a, sl_mat dz, sl_mat dq, sl_mat dk, sl_mat dv, int head, int row) {
  int d = a->d_head, first = head * d, first_kv = head / (a->n_head / a->n_head_kv) * d;
  const float *q = sl_mat_f32(a->q) + row * a->q.stride + first, *g = sl_mat_f32(dz) + row * dz.stride + first;
  float *pdq = sl_mat_f32(dq) + row * dq.stride + first;
  const sl_key_span sees = sl_attend_sees(a, row);
  double dp, mean = 0, total = 0;
  for (int j = sees.first; j < sees.end; j++) { /* a running mean: exact where one key is all */
    double p = probability(a, dz, head, row, j, &dp);
    total += p;
    mean += (dp - mean) * (p / total);
  }
  for (int j = sees.first; j < sees.end; j++) {
    const float *k = sl_mat_f32(a->k) + j * a->k.stride + first_kv;
    float *pdk = sl_mat_f32(dk) + j * dk.stride + first_kv, *pdv = sl_mat_f32(dv) + j * dv.stride + first_kv;
    double p = probability(a, dz, head, row, j, &dp), ds = rounded(a, (float)(p * (dp - mean) * a->scale));
    p = rounded(a, (float)p);
    for (int i = 0; i < d; i++) {
      pdq[i] = (float)(pdq[i] + ds * rounded(a, k[i]));
      pdk[i] = (float)(pdk[i] + ds * rounded(a, q[i]));
      pdv[i] = (float)(pdv[i] + p * rounded(a, g[i]));
    }
  }
}

void sl_ref_attend_dx(sl_queue *queue, const sl_attend *a, sl_mat dz, sl_mat dq, sl_mat dk, sl_mat dv) {
  sl_attend_check(a);
  assert(a->lse.buffer && dz.rows == a->q.rows && dz.cols == a->q.cols);
  assert(dq.rows == a->q.rows && dq.cols == a->q.cols && dk.rows == a->k.rows && dk.cols == a->k.cols);
  assert(dv.rows == a->k.rows && dv.cols == a->k.cols);
  sl_ref_zero(queue, dq);
  sl_ref_zero(queue, dk);
  sl_ref_zero(queue, dv);
  for (int h = 0; h < a->n_head; h++) {
    for (int t = 0; t < a->q.rows; t++) attend_dx_row(a, dz, dq, dk, dv, h, t);
  }
}
