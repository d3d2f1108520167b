/* The backend's ops: ref against closed forms in f64 and finite differences; cpu against ref within a stated tolerance
 * per op and mode, over odd shapes and strides; the same bits whatever the threads and however rows are split. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"

enum { REF, CPU, N_BACKEND, MAX_BUFFER = 64 };

/* One set of operands, alike on every backend. */
typedef struct bench {
  sl_backend *backend[N_BACKEND];
  sl_queue *queue[N_BACKEND];
  sl_buffer *buffers[N_BACKEND][MAX_BUFFER];
  int n_buffer;
  uint64_t seed;
} bench;

static double uniform(uint64_t *seed) {
  uint64_t z = (*seed += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}
static double normal(uint64_t *seed) {
  double u = uniform(seed), v = uniform(seed);
  return sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v);
}

static void bench_open(bench *b, int n_thread) {
  memset(b, 0, sizeof *b);
  b->seed = 1;
  const char *names[] = {"ref", "cpu"};
  for (int i = 0; i < N_BACKEND; i++) {
    assert_int_equal(sl_backend_open(&b->backend[i], names[i]), SL_OK);
    assert_int_equal(sl_queue_new(&b->queue[i], b->backend[i], n_thread), SL_OK);
    assert_int_equal(sl_queue_reserve(b->queue[i], 256, 1024, 512), SL_OK);
  }
}

static void bench_close(bench *b) {
  for (int i = 0; i < N_BACKEND; i++) {
    for (int j = 0; j < b->n_buffer; j++) sl_buffer_free(b->buffers[i][j]);
    sl_queue_free(b->queue[i]);
    sl_backend_close(b->backend[i]);
  }
}

/* A matrix of normals (scale 0: zeros) on every backend, `gap` unused elements between rows. Element 0 of the pair is
 * ref's, element 1 cpu's. The unused elements hold a marker that no op may change. */
typedef struct pair {
  sl_mat m[N_BACKEND];
  float *host;
} pair;
#define MARKER 12345.0f

static void write_pair(bench *b, pair *p) {
  size_t n = (size_t)p->m[0].rows * (size_t)p->m[0].stride;
  for (int i = 0; i < N_BACKEND; i++) sl_buffer_write(b->queue[i], p->m[i].buffer, 0, p->host, n * sizeof(float));
}

static pair pair_new(bench *b, int rows, int cols, int gap, double scale) {
  pair p;
  size_t n = (size_t)rows * (size_t)(cols + gap);
  p.host = test_malloc(n * sizeof(float));
  for (size_t i = 0; i < n; i++) {
    p.host[i] = (int)(i % (size_t)(cols + gap)) >= cols ? MARKER : (float)(scale * normal(&b->seed));
  }
  assert_true(b->n_buffer < MAX_BUFFER);
  for (int i = 0; i < N_BACKEND; i++) {
    sl_buffer *buffer = NULL;
    assert_int_equal(sl_buffer_new(&buffer, b->backend[i], n * sizeof(float), "test"), SL_OK);
    b->buffers[i][b->n_buffer] = buffer;
    p.m[i] = (sl_mat){buffer, 0, cols + gap, rows, cols, SL_F32};
  }
  b->n_buffer++;
  write_pair(b, &p);
  return p;
}

static void pair_free(pair *p) { test_free(p->host); }

static float *read_mat(bench *b, int i, sl_mat m) {
  size_t n = (size_t)m.rows * (size_t)m.stride;
  float *out = test_malloc(n * sizeof(float));
  sl_buffer_read(b->queue[i], out, m.buffer, (size_t)m.offset * sizeof(float), n * sizeof(float));
  return out;
}

/* Largest difference between cpu and ref over the root mean square of ref; gaps must be untouched. */
static double pair_error(bench *b, const pair *p) {
  float *ref = read_mat(b, REF, p->m[REF]), *cpu = read_mat(b, CPU, p->m[CPU]);
  double worst = 0, square = 0;
  int64_t stride = p->m[0].stride;
  for (int t = 0; t < p->m[0].rows; t++) {
    for (int i = 0; i < stride; i++) {
      double r = ref[t * stride + i], c = cpu[t * stride + i];
      if (i >= p->m[0].cols) {
        assert_true(r == (double)MARKER && c == (double)MARKER);
        continue;
      }
      if (isinf(r) && r == c) continue;
      assert_false(isnan(c));
      square += r * r;
      if (fabs(r - c) > worst) worst = fabs(r - c);
    }
  }
  double rms = sqrt(square / ((double)p->m[0].rows * p->m[0].cols));
  test_free(ref);
  test_free(cpu);
  return rms > 0 ? worst / rms : worst;
}

#define ASSERT_NEAR(error, tolerance)                                                                 \
  do {                                                                                                \
    double error_ = (error);                                                                          \
    if (!(error_ <= (tolerance))) fail_msg("error %.3g is above %.3g", error_, (double)(tolerance)); \
  } while (0)

#define EACH_BACKEND(i) for (int i = 0; i < N_BACKEND; i++)
#define OPS(b, i) sl_queue_ops((b)->queue[i])

/* Host weight [n, k] in `dtype`, normals. */
typedef struct host_weight {
  sl_tensor tensor;
  void *data;
  float *values; /* what the elements stand for */
} host_weight;

static uint16_t half_of(float value) { /* round to nearest even, normal range only */
  union { float f; uint32_t u; } v = {value};
  uint32_t sign = v.u >> 16 & 0x8000, rest = (v.u & 0x7fffffff) - ((127 - 15) << 23);
  if ((v.u & 0x7fffffff) < ((127u - 14) << 23)) return (uint16_t)sign;
  return (uint16_t)(sign | ((rest + 0xfff + (rest >> 13 & 1)) >> 13));
}

static host_weight host_weight_new(bench *b, int n, int k, sl_dtype dtype) {
  size_t count = (size_t)n * (size_t)k;
  host_weight h = {.values = test_malloc(count * sizeof(float)), .data = test_malloc(count * 4)};
  for (size_t i = 0; i < count; i++) {
    float v = (float)(0.1 * normal(&b->seed));
    if (dtype == SL_F32) {
      ((float *)h.data)[i] = v;
    } else {
      ((uint16_t *)h.data)[i] = dtype == SL_BF16 ? sl_f32_to_bf16(v) : half_of(v);
    }
  }
  sl_convert_to_f32(h.values, h.data, dtype, (int64_t)count);
  h.tensor = (sl_tensor){.name = "w", .data = h.data, .dtype = dtype, .n_dim = 2, .shape = {n, k}};
  return h;
}
static void host_weight_free(host_weight *h) {
  test_free(h->data);
  test_free(h->values);
}

/* cpu against ref: f32 sums against f64 ones of the same operands. */
static const double product_tolerance[SL_COMPUTE_COUNT] = {1e-5, 1e-5, 1e-5};

static void check_product(bench *b, int t, int n, int k, sl_dtype dtype, sl_compute compute) {
  host_weight h = host_weight_new(b, n, k, dtype);
  pair x = pair_new(b, t, k, 3, 1), y = pair_new(b, t, n, 5, 1), dx = pair_new(b, t, k, 1, 1);
  pair bias = pair_new(b, 1, n, 0, 1);
  sl_weight *w[N_BACKEND];
  EACH_BACKEND(i) assert_int_equal(sl_weight_new(&w[i], b->backend[i], compute, &h.tensor, 1), SL_OK);
  for (int add = 0; add < 2; add++) {
    for (int with_bias = 0; with_bias < 2; with_bias++) {
      EACH_BACKEND(i) OPS(b, i)->linear(b->queue[i], y.m[i], x.m[i], w[i], with_bias ? bias.m[i] : (sl_mat){0}, add);
      ASSERT_NEAR(pair_error(b, &y), product_tolerance[compute]);
      write_pair(b, &y);
    }
    EACH_BACKEND(i) OPS(b, i)->linear_dx(b->queue[i], dx.m[i], y.m[i], w[i], add);
    ASSERT_NEAR(pair_error(b, &dx), product_tolerance[compute]);
    write_pair(b, &dx);
  }
  EACH_BACKEND(i) sl_weight_free(w[i]);
  pair *all[] = {&x, &y, &dx, &bias};
  for (int i = 0; i < 4; i++) pair_free(all[i]);
  host_weight_free(&h);
}

static void test_product(void **state) {
  (void)state;
  const int shapes[][3] = {{1, 1, 1},   {1, 32, 32},  {2, 33, 31},   {7, 224, 224},  {16, 16, 64},
                           {17, 50, 7}, {33, 96, 70}, {5, 40, 1100}, {70, 530, 100}, {3, 1050, 37}};
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
    for (int dtype = SL_F32; dtype <= SL_BF16; dtype++) {
      for (int compute = 0; compute < SL_COMPUTE_COUNT; compute++) {
        bench b;
        bench_open(&b, 2);
        check_product(&b, shapes[s][0], shapes[s][1], shapes[s][2], (sl_dtype)dtype, (sl_compute)compute);
        bench_close(&b);
      }
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_product),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
