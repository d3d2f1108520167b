/* The bench of backend tests: the same operands on ref and cpu, what the cpu backend may use, comparison that also
 * watches the gaps between rows, gradients against central differences, and a whole attention. */
#ifndef TESTS_BACKEND_BENCH_H
#define TESTS_BACKEND_BENCH_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "backend/cpu/vector.h"
#include "backend/kind.h"

enum { REF, CPU, N_BACKEND, MAX_BUFFER = 64 };

/* One set of operands, alike on every backend. */
typedef struct bench {
  sl_backend *backend[N_BACKEND];
  sl_queue *queue[N_BACKEND];
  sl_buffer *buffers[N_BACKEND][MAX_BUFFER];
  int n_buffer;
  uint64_t seed;
} bench;

static inline double uniform(uint64_t *seed) {
  uint64_t z = (*seed += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}
static inline double normal(uint64_t *seed) {
  double u = uniform(seed), v = uniform(seed);
  return sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v);
}

/* What the cpu backend is allowed to use, to run every path on one machine. Tiles have a test case of their own, which
 * says when the processor has none. */
typedef enum level { LEVEL_TILES, LEVEL_NO_TILES, LEVEL_AVX2, LEVEL_PLAIN } level;
static level allowed = LEVEL_NO_TILES;

static inline void restrict_backend(sl_backend *backend) {
  if (allowed != LEVEL_TILES) backend->amx = false;
#if defined(__x86_64__)
  if (allowed == LEVEL_AVX2 && backend->vector != &sl_vector_plain) backend->vector = &sl_vector_avx2;
#endif
  if (allowed == LEVEL_PLAIN) backend->vector = &sl_vector_plain;
}

static inline void bench_open(bench *b, int n_thread) {
  memset(b, 0, sizeof *b);
  b->seed = 1;
  const char *names[] = {"ref", "cpu"};
  for (int i = 0; i < N_BACKEND; i++) {
    assert_int_equal(sl_backend_open(&b->backend[i], names[i]), SL_OK);
    if (i == CPU) restrict_backend(b->backend[i]);
    assert_int_equal(sl_queue_new(&b->queue[i], b->backend[i], n_thread), SL_OK);
    assert_int_equal(sl_queue_reserve(b->queue[i], 700, 1200, 512), SL_OK);
  }
}

static inline void bench_close(bench *b) {
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
#define MARKER INFINITY /* whoever reads it, even times a zero weight, gets NaN */

static inline void write_pair(bench *b, pair *p) {
  size_t n = (size_t)p->m[0].rows * (size_t)p->m[0].stride;
  for (int i = 0; i < N_BACKEND; i++) sl_buffer_write(b->queue[i], p->m[i].buffer, 0, p->host, n * sizeof(float));
}

static inline pair pair_new(bench *b, int rows, int cols, int gap, double scale) {
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

static inline void pair_free(pair *p) { test_free(p->host); }

static inline float *read_mat(bench *b, int i, sl_mat m) {
  size_t n = (size_t)m.rows * (size_t)m.stride;
  float *out = test_malloc(n * sizeof(float));
  sl_buffer_read(b->queue[i], out, m.buffer, (size_t)m.offset * sizeof(float), n * sizeof(float));
  return out;
}

/* Largest difference between cpu and ref over the root mean square of ref; gaps must be untouched. */
static inline double pair_error(bench *b, const pair *p) {
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

/* Central difference of sum(dy * op(x)) along every element of x against dx, on ref (f32 values, f64 inside). */
typedef void (*run_op)(bench *b, int i, void *context);
static inline double loss_of(bench *b, const pair *y, const pair *dy, run_op forward, void *context) {
  forward(b, REF, context);
  float *out = read_mat(b, REF, y->m[REF]);
  double sum = 0;
  for (int t = 0; t < y->m[0].rows; t++) {
    for (int i = 0; i < y->m[0].cols; i++) {
      sum += (double)out[t * y->m[0].stride + i] * dy->host[t * dy->m[0].stride + i];
    }
  }
  test_free(out);
  return sum;
}
static inline void check_gradient(bench *b, const pair *x, const pair *y, const pair *dy, const pair *dx,
                                  run_op forward, void *context, double tolerance) {
  float *slope = read_mat(b, REF, dx->m[REF]);
  double worst = 0, square = 0;
  for (int t = 0; t < x->m[0].rows; t++) {
    for (int i = 0; i < x->m[0].cols; i++) {
      int64_t at = t * x->m[0].stride + i;
      const float h = 0x1p-7f;
      float up = x->host[at] + h, down = x->host[at] - h;
      sl_buffer_write(b->queue[REF], x->m[REF].buffer, (size_t)at * 4, &up, 4);
      double high = loss_of(b, y, dy, forward, context);
      sl_buffer_write(b->queue[REF], x->m[REF].buffer, (size_t)at * 4, &down, 4);
      double low = loss_of(b, y, dy, forward, context);
      sl_buffer_write(b->queue[REF], x->m[REF].buffer, (size_t)at * 4, &x->host[at], 4);
      double measured = (high - low) / ((double)up - down), given = slope[t * dx->m[0].stride + i];
      worst = fmax(worst, fabs(measured - given));
      square += measured * measured;
    }
  }
  test_free(slope);
  ASSERT_NEAR(worst / sqrt(square / ((double)x->m[0].rows * x->m[0].cols)), tolerance);
  forward(b, REF, context);
}

static inline sl_ints ints_new(bench *b, int i, const int32_t *values, int count, sl_buffer **buffer) {
  assert_int_equal(sl_buffer_new(buffer, b->backend[i], (size_t)count * 4 + 4, "ints"), SL_OK);
  sl_buffer_write(b->queue[i], *buffer, 4, values, (size_t)count * 4);
  return (sl_ints){*buffer, 1, count};
}

typedef struct attend_case {
  int h, h_kv, d, tq, tk, first_query;
  bool causal;
  sl_compute compute;
} attend_case;

typedef struct attend_set {
  attend_case c;
  pair qkv, k, v, z, lse, pattern, scores, dz, dq, dk, dv;
  int32_t rows[3];
  sl_buffer *buffers[N_BACKEND];
  sl_attend a[N_BACKEND];
} attend_set;

static inline void attend_set_new(bench *b, attend_set *s, attend_case c) {
  memset(s, 0, sizeof *s);
  s->c = c;
  int n_row = c.tq > 2 ? 3 : 1;
  s->rows[0] = c.tq - 1; /* out of order on purpose */
  s->rows[1] = 0;
  s->rows[2] = c.tq / 2;
  s->qkv = pair_new(b, c.tq, c.h * c.d, 5, 1);
  s->k = pair_new(b, c.tk, c.h_kv * c.d, 3, 1);
  s->v = pair_new(b, c.tk, c.h_kv * c.d, 1, 1);
  s->z = pair_new(b, c.tq, c.h * c.d, 2, 0);
  s->lse = pair_new(b, c.tq, c.h, 1, 0);
  s->pattern = pair_new(b, c.h * n_row, c.tk, 3, 0);
  s->scores = pair_new(b, c.h * n_row, c.tk, 0, 0);
  s->dz = pair_new(b, c.tq, c.h * c.d, 1, 1);
  s->dq = pair_new(b, c.tq, c.h * c.d, 7, 1);
  s->dk = pair_new(b, c.tk, c.h_kv * c.d, 2, 1);
  s->dv = pair_new(b, c.tk, c.h_kv * c.d, 0, 1);
  EACH_BACKEND(i) {
    s->a[i] = (sl_attend){.n_head = c.h, .n_head_kv = c.h_kv, .d_head = c.d, .scale = (float)(1 / sqrt(c.d)),
                          .causal = c.causal, .first_query = c.first_query, .q = s->qkv.m[i], .k = s->k.m[i],
                          .v = s->v.m[i], .z = s->z.m[i], .lse = s->lse.m[i], .pattern = s->pattern.m[i],
                          .scores = s->scores.m[i], .compute = c.compute};
    s->a[i].rows = ints_new(b, i, s->rows, n_row, &s->buffers[i]);
  }
}
static inline void attend_set_free(attend_set *s) {
  pair *all[] = {&s->qkv, &s->k, &s->v, &s->z, &s->lse, &s->pattern, &s->scores, &s->dz, &s->dq, &s->dk, &s->dv};
  for (int i = 0; i < 11; i++) pair_free(all[i]);
  EACH_BACKEND(i) sl_buffer_free(s->buffers[i]);
}
static inline void run_attend(bench *b, int i, void *context) {
  attend_set *s = context;
  OPS(b, i)->attend(b->queue[i], &s->a[i]);
}
static inline void run_attend_dx(bench *b, int i, attend_set *s) {
  OPS(b, i)->attend_dx(b->queue[i], &s->a[i], s->dz.m[i], s->dq.m[i], s->dk.m[i], s->dv.m[i]);
}

#endif
