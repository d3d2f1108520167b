/* Norms, activations, rotary embedding and the plain row operations, reference: f64 inside, rounded once.
 *
 * Sources: LayerNorm arXiv:1607.06450, RMSNorm arXiv:1910.07467, GELU arXiv:1606.08415, RoPE arXiv:2104.09864,
 * Grad-CAM's channel weights arXiv:1610.02391. */
#include <math.h>
#include <string.h>

#include "backend/ref/ref.h"

/* Mean and 1 / sqrt(variance + eps) of a row; the mean is 0 for RMS. */
static double row_scale(sl_norm kind, const float *x, int n, float eps, double *mean) {
  double sum = 0, square = 0;
  *mean = 0;
  if (kind == SL_NORM_LAYER) {
    for (int i = 0; i < n; i++) sum += x[i];
    *mean = sum / n;
  }
  for (int i = 0; i < n; i++) square += (x[i] - *mean) * (x[i] - *mean);
  return 1 / sqrt(square / n + eps);
}

void sl_ref_norm(sl_queue *queue, sl_norm kind, sl_mat y, sl_mat x, sl_mat w, sl_mat b, float eps) {
  (void)queue;
  assert(y.rows == x.rows && y.cols == x.cols && (!b.buffer || b.cols == w.cols));
  float *py = sl_mat_f32(y);
  const float *px = sl_mat_f32(x), *pw = sl_mat_f32(w), *pb = b.buffer ? sl_mat_f32(b) : NULL;
  const int n_group = sl_norm_groups(x, w);
  for (int j = 0; j < x.rows * n_group; j++) {
    const int t = j / n_group, first = j % n_group * w.cols;
    const float *in = px + t * x.stride + first;
    float *out = py + t * y.stride + first;
    double mean, scale = row_scale(kind, in, w.cols, eps, &mean);
    for (int i = 0; i < w.cols; i++) out[i] = (float)((in[i] - mean) * scale * pw[i] + (pb ? pb[i] : 0));
  }
}

/* With h = (x - mean) s and g = w dy: dx = s (g - mean(g) - h mean(g h)); RMS has no mean(g) term. */
void sl_ref_norm_dx(sl_queue *queue, sl_norm kind, sl_mat dx, sl_mat dy, sl_mat x, sl_mat w, float eps, bool add) {
  (void)queue;
  assert(dx.rows == x.rows && dx.cols == x.cols && dy.rows == x.rows && dy.cols == x.cols);
  float *pdx = sl_mat_f32(dx);
  const float *pdy = sl_mat_f32(dy), *px = sl_mat_f32(x), *pw = sl_mat_f32(w);
  const int n_group = sl_norm_groups(x, w), n = w.cols;
  for (int j = 0; j < x.rows * n_group; j++) {
    const int t = j / n_group, first = j % n_group * n;
    const float *in = px + t * x.stride + first, *g = pdy + t * dy.stride + first;
    float *out = pdx + t * dx.stride + first;
    double mean, scale = row_scale(kind, in, n, eps, &mean), mean_g = 0, mean_gh = 0;
    for (int i = 0; i < n; i++) {
      double gi = (double)g[i] * pw[i];
      if (kind == SL_NORM_LAYER) mean_g += gi / n;
      mean_gh += gi * (in[i] - mean) * scale / n;
    }
    for (int i = 0; i < n; i++) {
      double value = scale * ((double)g[i] * pw[i] - mean_g - (in[i] - mean) * scale * mean_gh);
      out[i] = (float)(add ? out[i] + value : value);
    }
  }
}

#define SQRT_1_2 0.70710678118654752440
#define SQRT_2_PI 0.79788456080286535588
#define SQRT_1_2PI 0.39894228040143267794

static double logistic(double x) { return 1 / (1 + exp(-x)); }

static double act_value(sl_act kind, double x) {
  switch (kind) {
    case SL_ACT_QUICK_GELU: return x * logistic(1.702 * x);
    case SL_ACT_GELU_ERF: return 0.5 * x * (1 + erf(x * SQRT_1_2));
    case SL_ACT_GELU_TANH: return 0.5 * x * (1 + tanh(SQRT_2_PI * (x + 0.044715 * x * x * x)));
    case SL_ACT_SILU: return x * logistic(x);
  }
  return 0;
}

static double act_slope(sl_act kind, double x) {
  double s, t;
  switch (kind) {
    case SL_ACT_QUICK_GELU: s = logistic(1.702 * x); return s + 1.702 * x * s * (1 - s);
    case SL_ACT_GELU_ERF: return 0.5 * (1 + erf(x * SQRT_1_2)) + x * SQRT_1_2PI * exp(-0.5 * x * x);
    case SL_ACT_GELU_TANH:
      t = tanh(SQRT_2_PI * (x + 0.044715 * x * x * x));
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * SQRT_2_PI * (1 + 3 * 0.044715 * x * x);
    case SL_ACT_SILU: s = logistic(x); return s + x * s * (1 - s);
  }
  return 0;
}

void sl_ref_act(sl_queue *queue, sl_act kind, sl_mat y, sl_mat x) {
  (void)queue;
  assert(y.rows == x.rows && y.cols == x.cols);
  float *py = sl_mat_f32(y);
  const float *px = sl_mat_f32(x);
  for (int t = 0; t < x.rows; t++) {
    for (int i = 0; i < x.cols; i++) py[t * y.stride + i] = (float)act_value(kind, px[t * x.stride + i]);
  }
}

void sl_ref_act_dx(sl_queue *queue, sl_act kind, sl_mat dx, sl_mat dy, sl_mat x) {
  (void)queue;
  assert(dx.rows == x.rows && dx.cols == x.cols && dy.rows == x.rows && dy.cols == x.cols);
  float *pdx = sl_mat_f32(dx);
  const float *pdy = sl_mat_f32(dy), *px = sl_mat_f32(x);
  for (int t = 0; t < x.rows; t++) {
    for (int i = 0; i < x.cols; i++) {
      pdx[t * dx.stride + i] = (float)(pdy[t * dy.stride + i] * act_slope(kind, px[t * x.stride + i]));
    }
  }
}

void sl_ref_gate(sl_queue *queue, sl_act kind, sl_mat h, sl_mat gu) {
  (void)queue;
  assert(h.rows == gu.rows && gu.cols == 2 * h.cols);
  float *ph = sl_mat_f32(h);
  const float *p = sl_mat_f32(gu);
  for (int t = 0; t < h.rows; t++) {
    const float *g = p + t * gu.stride, *u = g + h.cols;
    for (int i = 0; i < h.cols; i++) ph[t * h.stride + i] = (float)(act_value(kind, g[i]) * u[i]);
  }
}

void sl_ref_gate_dx(sl_queue *queue, sl_act kind, sl_mat dgu, sl_mat dh, sl_mat gu) {
  (void)queue;
  assert(dh.rows == gu.rows && gu.cols == 2 * dh.cols && dgu.rows == gu.rows && dgu.cols == gu.cols);
  float *pd = sl_mat_f32(dgu);
  const float *ph = sl_mat_f32(dh), *p = sl_mat_f32(gu);
  for (int t = 0; t < dh.rows; t++) {
    for (int i = 0; i < dh.cols; i++) {
      double g = p[t * gu.stride + i], u = p[t * gu.stride + dh.cols + i], d = ph[t * dh.stride + i];
      pd[t * dgu.stride + i] = (float)(d * u * act_slope(kind, g));
      pd[t * dgu.stride + dh.cols + i] = (float)(d * act_value(kind, g));
    }
  }
}

void sl_ref_rope(sl_queue *queue, sl_mat x, int d_head, sl_ints positions, sl_mat inv_freq, int sign) {
  (void)queue;
  int half = d_head / 2, n_axis = inv_freq.rows;
  assert(d_head % 2 == 0 && x.cols % d_head == 0 && positions.count == x.rows * n_axis && inv_freq.cols == half);
  float *px = sl_mat_f32(x);
  const float *freq = sl_mat_f32(inv_freq);
  const int32_t *position = sl_ints_data(positions);
  for (int t = 0; t < x.rows; t++) {
    for (int i = 0; i < half; i++) {
      float angle = (float)position[t * n_axis] * freq[i]; /* rounded to f32, as transformers does */
      for (int a = 1; a < n_axis; a++) angle += (float)position[t * n_axis + a] * freq[a * inv_freq.stride + i];
      double c = (float)cos((double)angle), s = sign * (double)(float)sin((double)angle);
      for (int first = 0; first < x.cols; first += d_head) {
        float *p = px + t * x.stride + first + i;
        double a = p[0], b = p[half];
        p[0] = (float)(a * c - b * s);
        p[half] = (float)(b * c + a * s);
      }
    }
  }
}

/* Factors rounded to f32 as the model's own table holds them. Source: arXiv:2309.16609, after arXiv:2202.12172. */
void sl_ref_log_n(sl_queue *queue, sl_mat x, sl_ints positions, int n) {
  (void)queue;
  if (x.rows == 0) return;
  assert(positions.count % x.rows == 0 && positions.count >= x.rows && n > 1);
  float *px = sl_mat_f32(x);
  const int32_t *position = sl_ints_data(positions);
  const int n_axis = positions.count / x.rows;
  for (int t = 0; t < x.rows; t++) {
    const double p = (double)position[t * n_axis] + 1;
    const float factor = p > n ? (float)(log(p) / log((double)n)) : 1;
    for (int i = 0; i < x.cols; i++) px[t * x.stride + i] *= factor;
  }
}

void sl_ref_add(sl_queue *queue, sl_mat y, sl_mat a, sl_mat b) {
  (void)queue;
  assert(y.rows == a.rows && y.cols == a.cols && b.cols == a.cols && (b.rows == a.rows || b.rows == 1));
  float *py = sl_mat_f32(y);
  const float *pa = sl_mat_f32(a), *pb = sl_mat_f32(b);
  int64_t step = b.rows == 1 ? 0 : b.stride;
  for (int t = 0; t < y.rows; t++) {
    for (int i = 0; i < y.cols; i++) py[t * y.stride + i] = pa[t * a.stride + i] + pb[t * step + i];
  }
}

void sl_ref_multiply(sl_queue *queue, sl_mat y, sl_mat a, sl_mat b) {
  (void)queue;
  assert(y.rows == a.rows && y.cols == a.cols && b.cols == a.cols && (b.rows == a.rows || b.rows == 1));
  float *py = sl_mat_f32(y);
  const float *pa = sl_mat_f32(a), *pb = sl_mat_f32(b);
  int64_t step = b.rows == 1 ? 0 : b.stride;
  for (int t = 0; t < y.rows; t++) {
    for (int i = 0; i < y.cols; i++) py[t * y.stride + i] = pa[t * a.stride + i] * pb[t * step + i];
  }
}

void sl_ref_scale(sl_queue *queue, sl_mat y, sl_mat x, float factor) {
  (void)queue;
  assert(y.rows == x.rows && y.cols == x.cols);
  float *py = sl_mat_f32(y);
  const float *px = sl_mat_f32(x);
  for (int t = 0; t < y.rows; t++) {
    for (int i = 0; i < y.cols; i++) py[t * y.stride + i] = factor * px[t * x.stride + i];
  }
}

void sl_ref_zero(sl_queue *queue, sl_mat y) {
  (void)queue;
  float *py = sl_mat_f32(y);
  for (int t = 0; t < y.rows; t++) memset(py + t * y.stride, 0, (size_t)y.cols * sizeof *py);
}

static float get(const void *data, sl_dtype dtype, int64_t i) {
  return dtype == SL_BF16 ? sl_bf16_to_f32(((const uint16_t *)data)[i]) : ((const float *)data)[i];
}

void sl_ref_copy(sl_queue *queue, sl_mat y, sl_mat x) {
  (void)queue;
  assert(y.rows == x.rows && y.cols == x.cols);
  void *py = sl_mat_data(y, y.dtype);
  const void *px = sl_mat_data(x, x.dtype);
  for (int t = 0; t < y.rows; t++) {
    for (int i = 0; i < y.cols; i++) {
      float value = get(px, x.dtype, t * x.stride + i);
      if (y.dtype == SL_BF16) {
        ((uint16_t *)py)[t * y.stride + i] = sl_f32_to_bf16(value);
      } else {
        ((float *)py)[t * y.stride + i] = value;
      }
    }
  }
}

void sl_ref_gather_rows(sl_queue *queue, sl_mat y, sl_mat x, sl_ints rows) {
  (void)queue;
  assert(y.rows == rows.count && y.cols == x.cols);
  float *py = sl_mat_f32(y);
  const float *px = sl_mat_f32(x);
  const int32_t *row = sl_ints_data(rows);
  for (int i = 0; i < rows.count; i++) {
    assert(row[i] >= 0 && row[i] < x.rows);
    memcpy(py + i * y.stride, px + row[i] * x.stride, (size_t)x.cols * sizeof *py);
  }
}

void sl_ref_scatter_rows(sl_queue *queue, sl_mat y, sl_mat x, sl_ints rows) {
  (void)queue;
  assert(x.rows == rows.count && y.cols == x.cols);
  float *py = sl_mat_f32(y);
  const float *px = sl_mat_f32(x);
  const int32_t *row = sl_ints_data(rows);
  for (int i = 0; i < rows.count; i++) {
    assert(row[i] >= 0 && row[i] < y.rows);
    memcpy(py + row[i] * y.stride, px + i * x.stride, (size_t)x.cols * sizeof *py);
  }
}

void sl_ref_cam(sl_queue *queue, sl_mat heat, sl_mat alpha, sl_mat f, sl_mat g, bool clip) {
  (void)queue;
  assert(g.rows == f.rows && g.cols == f.cols && heat.cols == f.rows && alpha.cols == f.cols && f.rows > 0);
  float *ph = sl_mat_f32(heat), *pa = sl_mat_f32(alpha);
  const float *pf = sl_mat_f32(f), *pg = sl_mat_f32(g);
  for (int i = 0; i < f.cols; i++) {
    double sum = 0;
    for (int t = 0; t < f.rows; t++) {
      double value = pg[t * g.stride + i];
      if (!clip || value > 0) sum += value;
    }
    pa[i] = (float)(sum / f.rows);
  }
  for (int t = 0; t < f.rows; t++) {
    double sum = 0;
    for (int i = 0; i < f.cols; i++) sum += (double)pf[t * f.stride + i] * pa[i];
    ph[t] = (float)sum;
  }
}
