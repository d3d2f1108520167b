/* Products and embedding, reference: one dot product per output, f64 sums.
 *
 * bf16 rounds both operands. bf16x2 splits x into hi + lo (hi = bf16(x), lo = bf16(x - hi)); a weight that is not bf16
 * is split the same way and the product lo * lo is left out: it is below what the sums keep. A weight is read and split
 * once for ROWS rows; every sum still runs over its terms in ascending order. */
#include "backend/ref/ref.h"

enum { ROWS = 32 };

typedef struct split {
  double hi, lo;
} split;

static double round_bf16(float x) { return sl_bf16_to_f32(sl_f32_to_bf16(x)); }

static split split_value(float value, sl_compute compute) {
  if (compute == SL_COMPUTE_F32) return (split){value, 0};
  split s = {round_bf16(value), 0};
  if (compute == SL_COMPUTE_BF16X2) s.lo = round_bf16((float)((double)value - s.hi));
  return s;
}

static float stored(const sl_weight *w, int row, int col) {
  int64_t i = (int64_t)row * w->k + col;
  float value = 0;
  sl_convert_to_f32(&value, (const char *)w->data + (size_t)i * sl_dtype_size(w->dtype), w->dtype, 1);
  return value;
}

static double product(split x, split w) { return x.hi * w.hi + x.lo * w.hi + x.hi * w.lo; }

void sl_ref_linear(sl_queue *queue, sl_mat y, sl_mat x, const sl_weight *w, sl_mat bias, bool add) {
  (void)queue;
  assert(x.cols == w->k && y.cols == w->n && x.rows == y.rows && (!bias.buffer || bias.cols == w->n));
  float *py = sl_mat_f32(y);
  const float *px = sl_mat_f32(x), *pb = bias.buffer ? sl_mat_f32(bias) : NULL;
  for (int i = 0; i < (y.rows + ROWS - 1) / ROWS * w->n; i++) {
    const int n = i % w->n, first = i / w->n * ROWS, rows = y.rows - first < ROWS ? y.rows - first : ROWS;
    double sum[ROWS];
    for (int t = 0; t < rows; t++) sum[t] = pb ? pb[n] : 0;
    for (int k = 0; k < w->k; k++) {
      const split weight = split_value(stored(w, n, k), w->compute);
      for (int t = 0; t < rows; t++) {
        sum[t] += product(split_value(px[(first + t) * x.stride + k], w->compute), weight);
      }
    }
    for (int t = 0; t < rows; t++) {
      float *out = &py[(first + t) * y.stride + n];
      *out = (float)(add ? *out + sum[t] : sum[t]);
    }
  }
}

void sl_ref_linear_dx(sl_queue *queue, sl_mat dx, sl_mat dy, const sl_weight *w, bool add) {
  (void)queue;
  assert(dx.cols == w->k && dy.cols == w->n && dx.rows == dy.rows);
  float *px = sl_mat_f32(dx);
  const float *py = sl_mat_f32(dy);
  for (int i = 0; i < (dx.rows + ROWS - 1) / ROWS * w->k; i++) {
    const int k = i % w->k, first = i / w->k * ROWS, rows = dx.rows - first < ROWS ? dx.rows - first : ROWS;
    double sum[ROWS] = {0};
    for (int n = 0; n < w->n; n++) {
      const split weight = split_value(stored(w, n, k), w->compute);
      for (int t = 0; t < rows; t++) {
        sum[t] += product(split_value(py[(first + t) * dy.stride + n], w->compute), weight);
      }
    }
    for (int t = 0; t < rows; t++) {
      float *out = &px[(first + t) * dx.stride + k];
      *out = (float)(add ? *out + sum[t] : sum[t]);
    }
  }
}

void sl_ref_embed(sl_queue *queue, sl_mat y, const sl_weight *w, sl_ints ids) {
  (void)queue;
  assert(y.cols == w->k && y.rows == ids.count);
  float *py = sl_mat_f32(y);
  const int32_t *id = sl_ints_data(ids);
  for (int t = 0; t < y.rows; t++) {
    assert(id[t] >= 0 && id[t] < w->n);
    for (int k = 0; k < w->k; k++) py[t * y.stride + k] = stored(w, id[t], k);
  }
}
