/* Norms, activations, rotary embedding and the plain row operations of the cpu backend: rows shared among threads, each
 * row done by one vector kernel. The work per element is counted in multiply-adds only to decide whether threads pay.
 * */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/vector.h"

#define VECTOR(queue) ((const sl_vector *)(queue)->backend->vector)

/* for (t in rows) on as many threads as pay. */
#define FOR_ROWS(t, n_row, work)                                                           \
  const int n_thread_ = sl_cpu_threads(queue, (double)(n_row) * (work));                   \
  _Pragma("omp parallel for schedule(static) num_threads(n_thread_) if (n_thread_ > 1)")   \
  for (int t = 0; t < (n_row); t++)

void sl_cpu_norm(sl_queue *queue, sl_norm kind, sl_mat y, sl_mat x, sl_mat w, sl_mat b, float eps) {
  assert(y.rows == x.rows && y.cols == x.cols && (!b.buffer || b.cols == w.cols));
  float *py = sl_mat_f32(y);
  const float *px = sl_mat_f32(x), *pw = sl_mat_f32(w), *pb = b.buffer ? sl_mat_f32(b) : NULL;
  const int n_group = sl_norm_groups(x, w), n = w.cols;
  FOR_ROWS(t, x.rows, x.cols * 4.0) {
    for (int j = 0; j < n_group; j++)
      VECTOR(queue)->norm(kind, py + t * y.stride + j * n, px + t * x.stride + j * n, pw, pb, eps, n);
  }
}

void sl_cpu_norm_dx(sl_queue *queue, sl_norm kind, sl_mat dx, sl_mat dy, sl_mat x, sl_mat w, float eps, bool add) {
  assert(dx.rows == x.rows && dx.cols == x.cols && dy.rows == x.rows && dy.cols == x.cols);
  float *pdx = sl_mat_f32(dx);
  const float *pdy = sl_mat_f32(dy), *px = sl_mat_f32(x), *pw = sl_mat_f32(w);
  const int n_group = sl_norm_groups(x, w), n = w.cols;
  FOR_ROWS(t, x.rows, x.cols * 8.0) {
    for (int j = 0; j < n_group; j++)
      VECTOR(queue)->norm_dx(kind, pdx + t * dx.stride + j * n, pdy + t * dy.stride + j * n, px + t * x.stride + j * n,
                             pw, eps, n, add);
  }
}

void sl_cpu_act(sl_queue *queue, sl_act kind, sl_mat y, sl_mat x) {
  assert(y.rows == x.rows && y.cols == x.cols);
  float *py = sl_mat_f32(y);
  const float *px = sl_mat_f32(x);
  FOR_ROWS(t, x.rows, x.cols * 20.0) VECTOR(queue)->act(kind, py + t * y.stride, px + t * x.stride, x.cols);
}

void sl_cpu_act_dx(sl_queue *queue, sl_act kind, sl_mat dx, sl_mat dy, sl_mat x) {
  assert(dx.rows == x.rows && dx.cols == x.cols && dy.rows == x.rows && dy.cols == x.cols);
  float *pdx = sl_mat_f32(dx);
  const float *pdy = sl_mat_f32(dy), *px = sl_mat_f32(x);
  FOR_ROWS(t, x.rows, x.cols * 25.0) {
    VECTOR(queue)->act_dx(kind, pdx + t * dx.stride, pdy + t * dy.stride, px + t * x.stride, x.cols);
  }
}

void sl_cpu_gate(sl_queue *queue, sl_act kind, sl_mat h, sl_mat gu) {
  assert(h.rows == gu.rows && gu.cols == 2 * h.cols);
  float *ph = sl_mat_f32(h);
  const float *p = sl_mat_f32(gu);
  FOR_ROWS(t, h.rows, h.cols * 20.0) {
    VECTOR(queue)->gate(kind, ph + t * h.stride, p + t * gu.stride, p + t * gu.stride + h.cols, h.cols);
  }
}

void sl_cpu_gate_dx(sl_queue *queue, sl_act kind, sl_mat dgu, sl_mat dh, sl_mat gu) {
  assert(dh.rows == gu.rows && gu.cols == 2 * dh.cols && dgu.rows == gu.rows && dgu.cols == gu.cols);
  float *pd = sl_mat_f32(dgu);
  const float *ph = sl_mat_f32(dh), *p = sl_mat_f32(gu);
  int n = dh.cols;
  FOR_ROWS(t, dh.rows, n * 40.0) {
    float *dg = pd + t * dgu.stride;
    const float *g = p + t * gu.stride;
    VECTOR(queue)->gate_dx(kind, dg, dg + n, ph + t * dh.stride, g, g + n, n);
  }
}

/* Cosines and sines of a row are computed once and turn every head. */
static void rope_row(const sl_vector *vector, float *x, int n_head, int d_head, const int32_t *position,
                     sl_mat inv_freq, int sign) {
  enum { PIECE = 128 }; /* half of the widest head, 256 */
  int half = d_head / 2;
  float c[PIECE], s[PIECE];
  const float *freq = sl_mat_f32(inv_freq);
  assert(half <= PIECE);
  for (int i = 0; i < half; i++) {
    float angle = (float)position[0] * freq[i]; /* rounded to f32, as transformers does */
    for (int a = 1; a < inv_freq.rows; a++) angle += (float)position[a] * freq[a * inv_freq.stride + i];
    c[i] = (float)cos((double)angle);
    s[i] = (float)(sign * sin((double)angle));
  }
  for (int h = 0; h < n_head; h++) vector->rope(x + h * d_head, c, s, half);
}

void sl_cpu_rope(sl_queue *queue, sl_mat x, int d_head, sl_ints positions, sl_mat inv_freq, int sign) {
  int n_head = x.cols / d_head, n_axis = inv_freq.rows;
  assert(d_head % 2 == 0 && x.cols % d_head == 0 && positions.count == x.rows * n_axis && inv_freq.cols == d_head / 2);
  float *px = sl_mat_f32(x);
  const int32_t *position = sl_ints_data(positions);
  FOR_ROWS(t, x.rows, d_head * 40.0 + x.cols * 2.0) {
    rope_row(VECTOR(queue), px + t * x.stride, n_head, d_head, position + t * n_axis, inv_freq, sign);
  }
}

/* Factors rounded to f32 as the model's own table holds them. Source: arXiv:2309.16609, after arXiv:2202.12172. */
void sl_cpu_log_n(sl_queue *queue, sl_mat x, sl_ints positions, int n) {
  if (x.rows == 0) return;
  assert(positions.count % x.rows == 0 && positions.count >= x.rows && n > 1);
  float *px = sl_mat_f32(x);
  const int32_t *position = sl_ints_data(positions);
  const int n_axis = positions.count / x.rows;
  FOR_ROWS(t, x.rows, x.cols * 2.0) {
    const double p = (double)position[t * n_axis] + 1;
    if (p > n) VECTOR(queue)->scale(px + t * x.stride, px + t * x.stride, (float)(log(p) / log((double)n)), x.cols);
  }
}

void sl_cpu_add(sl_queue *queue, sl_mat y, sl_mat a, sl_mat b) {
  assert(y.rows == a.rows && y.cols == a.cols && b.cols == a.cols && (b.rows == a.rows || b.rows == 1));
  float *py = sl_mat_f32(y);
  const float *pa = sl_mat_f32(a), *pb = sl_mat_f32(b);
  int64_t step = b.rows == 1 ? 0 : b.stride;
  FOR_ROWS(t, y.rows, y.cols * 2.0) VECTOR(queue)->add(py + t * y.stride, pa + t * a.stride, pb + t * step, y.cols);
}

void sl_cpu_multiply(sl_queue *queue, sl_mat y, sl_mat a, sl_mat b) {
  assert(y.rows == a.rows && y.cols == a.cols && b.cols == a.cols && (b.rows == a.rows || b.rows == 1));
  float *py = sl_mat_f32(y);
  const float *pa = sl_mat_f32(a), *pb = sl_mat_f32(b);
  int64_t step = b.rows == 1 ? 0 : b.stride;
  FOR_ROWS(t, y.rows, y.cols * 2.0) {
    VECTOR(queue)->product(py + t * y.stride, pa + t * a.stride, pb + t * step, y.cols);
  }
}

void sl_cpu_scale(sl_queue *queue, sl_mat y, sl_mat x, float factor) {
  assert(y.rows == x.rows && y.cols == x.cols);
  float *py = sl_mat_f32(y);
  const float *px = sl_mat_f32(x);
  FOR_ROWS(t, y.rows, y.cols * 2.0) VECTOR(queue)->scale(py + t * y.stride, px + t * x.stride, factor, y.cols);
}

void sl_cpu_zero(sl_queue *queue, sl_mat y) {
  float *py = sl_mat_f32(y);
  FOR_ROWS(t, y.rows, y.cols * 1.0) memset(py + t * y.stride, 0, (size_t)y.cols * sizeof *py);
}

void sl_cpu_copy(sl_queue *queue, sl_mat y, sl_mat x) {
  assert(y.rows == x.rows && y.cols == x.cols);
  size_t y_size = sl_dtype_size(y.dtype), x_size = sl_dtype_size(x.dtype);
  unsigned char *py = sl_mat_data(y, y.dtype);
  const unsigned char *px = sl_mat_data(x, x.dtype);
  FOR_ROWS(t, y.rows, y.cols * 2.0) {
    void *to = py + (size_t)(t * y.stride) * y_size;
    const void *from = px + (size_t)(t * x.stride) * x_size;
    if (y.dtype == x.dtype) {
      memmove(to, from, (size_t)y.cols * y_size);
    } else if (y.dtype == SL_BF16) {
      VECTOR(queue)->to_bf16(to, from, y.cols);
    } else {
      VECTOR(queue)->from_bf16(to, from, y.cols);
    }
  }
}

void sl_cpu_gather_rows(sl_queue *queue, sl_mat y, sl_mat x, sl_ints rows) {
  assert(y.rows == rows.count && y.cols == x.cols);
  float *py = sl_mat_f32(y);
  const float *px = sl_mat_f32(x);
  const int32_t *row = sl_ints_data(rows);
  FOR_ROWS(i, rows.count, x.cols * 1.0) {
    assert(row[i] >= 0 && row[i] < x.rows);
    memcpy(py + i * y.stride, px + row[i] * x.stride, (size_t)x.cols * sizeof *py);
  }
}

void sl_cpu_scatter_rows(sl_queue *queue, sl_mat y, sl_mat x, sl_ints rows) {
  assert(x.rows == rows.count && y.cols == x.cols);
  float *py = sl_mat_f32(y);
  const float *px = sl_mat_f32(x);
  const int32_t *row = sl_ints_data(rows);
  FOR_ROWS(i, rows.count, x.cols * 1.0) {
    assert(row[i] >= 0 && row[i] < y.rows);
    memcpy(py + row[i] * y.stride, px + i * x.stride, (size_t)x.cols * sizeof *py);
  }
}

/* Columns in bands, so that the sums of one band stay in cache while rows pass. */
void sl_cpu_cam(sl_queue *queue, sl_mat heat, sl_mat alpha, sl_mat f, sl_mat g, bool clip) {
  enum { BAND = 64 };
  assert(g.rows == f.rows && g.cols == f.cols && heat.cols == f.rows && alpha.cols == f.cols && f.rows > 0);
  float *ph = sl_mat_f32(heat), *pa = sl_mat_f32(alpha);
  const float *pf = sl_mat_f32(f), *pg = sl_mat_f32(g);
  int n_thread = sl_cpu_threads(queue, (double)f.rows * f.cols * 4);
#pragma omp parallel for schedule(static) num_threads(n_thread) if (n_thread > 1)
  for (int first = 0; first < f.cols; first += BAND) {
    int n = f.cols - first < BAND ? f.cols - first : BAND;
    double sum[BAND] = {0};
    for (int t = 0; t < f.rows; t++) {
      const float *row = pg + t * g.stride + first;
      for (int i = 0; i < n; i++) sum[i] += clip && !(row[i] > 0) ? 0 : row[i];
    }
    for (int i = 0; i < n; i++) pa[first + i] = (float)(sum[i] / f.rows);
  }
#pragma omp parallel for schedule(static) num_threads(n_thread) if (n_thread > 1)
  for (int t = 0; t < f.rows; t++) {
    const float *row = pf + t * f.stride;
    double sum[4] = {0};
    int i = 0;
    for (; i + 4 <= f.cols; i += 4) {
      for (int j = 0; j < 4; j++) sum[j] += (double)row[i + j] * pa[i + j];
    }
    for (; i < f.cols; i++) sum[0] += (double)row[i] * pa[i];
    ph[t] = (float)((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
}
