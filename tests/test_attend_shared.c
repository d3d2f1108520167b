/* attend_shared: ref against a softmax written out in f64; cpu against ref within test_backend.c's tolerances for
 * attend, on every level of processor; the same bits for a row whatever rows, branches, threads and unseen keys are
 * beside it; the plain attention as its special case. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/vector.h"
#include "backend/kind.h"

/* Who computes. LEVEL_TILES is skipped where the processor has none. */
typedef enum level { LEVEL_REF, LEVEL_PLAIN, LEVEL_AVX2, LEVEL_NO_TILES, LEVEL_TILES, N_LEVEL } level;

static double uniform(uint64_t *seed) {
  uint64_t z = (*seed += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}
static int below(uint64_t *seed, int n) { return (int)(uniform(seed) * n); }

static float *normals(uint64_t *seed, int rows, int cols) {
  size_t n = (size_t)rows * (size_t)cols;
  float *x = test_malloc((n + 1) * sizeof *x);
  for (size_t i = 0; i < n; i++) {
    double u = uniform(seed), v = uniform(seed);
    x[i] = (float)(sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v));
  }
  return x;
}

/* Operands on the host, densely stored. */
typedef struct problem {
  int h, h_kv, d, n_segment, segment[SL_MAX_SEGMENT], n_local, n_branch, n_row, n_view;
  sl_compute compute;
  float *q, *k[SL_MAX_SEGMENT], *v[SL_MAX_SEGMENT], *local_k, *local_v;
  int32_t *branch, *view;
  uint32_t *masks; /* [n_view, n_word] */
} problem;

static int first_column(const problem *p, int segment) {
  int n = 0;
  for (int s = 0; s < segment; s++) n += (p->segment[s] + 31) / 32 * 32;
  return n;
}
static int n_word(const problem *p) { return first_column(p, p->n_segment) / 32 + (p->n_local + 31) / 32; }
static uint32_t *mask_of(const problem *p, int row, int head) {
  return p->masks + (size_t)p->view[row * p->h + head] * (size_t)n_word(p);
}
static void show(const problem *p, int row, int head, int first, int count) {
  for (int c = first; c < first + count; c++) mask_of(p, row, head)[c / 32] |= 1u << (c % 32);
}
static bool shown(const problem *p, int row, int head, int c) { return mask_of(p, row, head)[c / 32] >> (c % 32) & 1; }

/* Every row and head has a mask of its own, numbered backwards; nothing is visible yet. */
static problem problem_new(int h, int h_kv, int d, const int *segments, int n_local, const int *branch_rows,
                           sl_compute compute) {
  uint64_t seed = (uint64_t)(h * 1000 + d);
  problem p = {.h = h, .h_kv = h_kv, .d = d, .n_local = n_local, .compute = compute};
  for (; segments[p.n_segment]; p.n_segment++) {
    p.segment[p.n_segment] = segments[p.n_segment];
    p.k[p.n_segment] = normals(&seed, segments[p.n_segment], h_kv * d);
    p.v[p.n_segment] = normals(&seed, segments[p.n_segment], h_kv * d);
  }
  for (; branch_rows[p.n_branch]; p.n_branch++) p.n_row += branch_rows[p.n_branch];
  p.n_view = p.n_row * h;
  p.q = normals(&seed, p.n_row, h * d);
  p.local_k = normals(&seed, p.n_branch * n_local, h_kv * d);
  p.local_v = normals(&seed, p.n_branch * n_local, h_kv * d);
  p.branch = test_malloc((size_t)p.n_row * sizeof *p.branch);
  p.view = test_malloc((size_t)p.n_view * sizeof *p.view);
  p.masks = test_calloc((size_t)p.n_view * (size_t)n_word(&p), sizeof *p.masks);
  for (int b = 0, row = 0; b < p.n_branch; b++) {
    for (int i = 0; i < branch_rows[b]; i++) p.branch[row++] = b;
  }
  for (int i = 0; i < p.n_view; i++) p.view[i] = p.n_view - 1 - i;
  return p;
}

static void problem_free(problem *p) {
  for (int s = 0; s < p->n_segment; s++) {
    test_free(p->k[s]);
    test_free(p->v[s]);
  }
  test_free(p->q);
  test_free(p->local_k);
  test_free(p->local_v);
  test_free(p->branch);
  test_free(p->view);
  test_free(p->masks);
}

static int row_in_branch(const problem *p, int row) {
  int i = 0;
  while (row - i > 0 && p->branch[row - i - 1] == p->branch[row]) i++;
  return i;
}

/* What head attribution and token ablation make: segment 0 (text) and the local keys causally for all; each branch and
 * head sees segment 1 or segment 2, some only part of it; from segment 3 on a random half. Every 7th item: nothing. */
static void show_as_plans_do(problem *p) {
  uint64_t seed = 5;
  for (int row = 0; row < p->n_row; row++) {
    for (int head = 0; head < p->h; head++) {
      if ((row * p->h + head) % 7 == 6) continue;
      int local = row_in_branch(p, row) + 1, side = 1 + (p->branch[row] * 5 + head * 3) % 2;
      show(p, row, head, first_column(p, p->n_segment), local < p->n_local ? local : p->n_local);
      for (int s = 0; s < p->n_segment; s++) {
        for (int j = 0; j < p->segment[s]; j++) {
          bool part = s == 0 || (s < 3 ? s == side && (row % 3 || below(&seed, 3)) : below(&seed, 2) == 0);
          if (part) show(p, row, head, first_column(p, s) + j, 1);
        }
      }
    }
  }
}

/* Device copies of one run. */
typedef struct run {
  sl_backend *backend;
  sl_queue *queue;
  sl_buffer *buffers[32];
  int n_buffer;
} run;

static bool run_open(run *r, level who, int n_thread, int width, int columns) {
  memset(r, 0, sizeof *r);
  assert_int_equal(sl_backend_open(&r->backend, who == LEVEL_REF ? "ref" : "cpu"), SL_OK);
  if (who == LEVEL_TILES && !r->backend->amx) {
    sl_backend_close(r->backend);
    return false;
  }
  if (who != LEVEL_TILES) r->backend->amx = false;
#if defined(__x86_64__)
  if (who == LEVEL_AVX2 && r->backend->vector != &sl_vector_plain) r->backend->vector = &sl_vector_avx2;
#endif
  if (who == LEVEL_PLAIN) r->backend->vector = &sl_vector_plain;
  assert_int_equal(sl_queue_new(&r->queue, r->backend, n_thread), SL_OK);
  assert_int_equal(sl_queue_reserve(r->queue, 1, width, columns), SL_OK);
  return true;
}

static void run_close(run *r) {
  for (int i = 0; i < r->n_buffer; i++) sl_buffer_free(r->buffers[i]);
  sl_queue_free(r->queue);
  sl_backend_close(r->backend);
}

static sl_buffer *upload(run *r, const void *data, size_t n_bytes) {
  sl_buffer *buffer = NULL;
  assert_int_equal(sl_buffer_new(&buffer, r->backend, n_bytes + 4, "test"), SL_OK);
  sl_buffer_write(r->queue, buffer, 0, data, n_bytes);
  r->buffers[r->n_buffer++] = buffer;
  return buffer;
}

/* Rows with `gap` elements between them that no op may use: infinite, so that whoever does gets NaN. */
static sl_mat upload_mat(run *r, const float *x, int rows, int cols, int gap) {
  const size_t stride = (size_t)(cols + gap), n = (size_t)rows * stride;
  float *spread = test_malloc((n + 1) * sizeof *spread);
  for (size_t i = 0; i < n; i++) spread[i] = INFINITY;
  for (int i = 0; i < rows && x; i++)
    memcpy(spread + (size_t)i * stride, x + (size_t)i * (size_t)cols, (size_t)cols * sizeof *x);
  sl_buffer *buffer = upload(r, spread, n * sizeof *spread);
  test_free(spread);
  return (sl_mat){buffer, 0, (int64_t)stride, rows, cols, SL_F32};
}

static sl_ints upload_ints(run *r, const void *x, size_t count) {
  return (sl_ints){upload(r, x, count * 4), 0, (int)count};
}

/* z [rows, cols] without its gaps, which must be as they were. */
static float *read_z(run *r, sl_mat z) {
  float *all = test_malloc((size_t)z.rows * (size_t)z.stride * sizeof *all);
  float *out = test_malloc((size_t)z.rows * (size_t)z.cols * sizeof *out);
  sl_buffer_read(r->queue, all, z.buffer, 0, (size_t)z.rows * (size_t)z.stride * sizeof *all);
  for (int i = 0; i < z.rows; i++) {
    memcpy(out + (size_t)i * (size_t)z.cols, all + i * z.stride, (size_t)z.cols * sizeof *out);
    for (int64_t j = z.cols; j < z.stride; j++) assert_true(isinf(all[i * z.stride + j]));
  }
  test_free(all);
  return out;
}

/* z of some rows of a problem (all: rows NULL), or NULL where this level does not exist. */
static float *solve_rows(const problem *p, level who, int n_thread, const int *rows, int n_row) {
  run r;
  if (!run_open(&r, who, n_thread, p->h * p->d, n_word(p) * 32)) return NULL;
  const int width = p->h * p->d, width_kv = p->h_kv * p->d;
  float *q = test_malloc((size_t)n_row * (size_t)width * sizeof *q);
  int32_t *branch = test_malloc((size_t)n_row * 4), *view = test_malloc((size_t)(n_row * p->h) * 4);
  for (int i = 0; i < n_row; i++) {
    const int row = rows ? rows[i] : i;
    memcpy(q + (size_t)i * (size_t)width, p->q + (size_t)row * (size_t)width, (size_t)width * sizeof *q);
    memcpy(view + i * p->h, p->view + row * p->h, (size_t)p->h * 4);
    branch[i] = p->branch[row];
  }
  sl_attend_shared a = {.n_head = p->h, .n_head_kv = p->h_kv, .d_head = p->d, .scale = (float)(1 / sqrt(p->d)),
                        .compute = p->compute, .n_segment = p->n_segment, .n_local = p->n_local, .n_view = p->n_view};
  a.q = upload_mat(&r, q, n_row, width, 5);
  a.z = upload_mat(&r, NULL, n_row, width, 3);
  for (int s = 0; s < p->n_segment; s++) {
    a.k[s] = upload_mat(&r, p->k[s], p->segment[s], width_kv, 1);
    a.v[s] = upload_mat(&r, p->v[s], p->segment[s], width_kv, 2);
  }
  a.local_k = upload_mat(&r, p->local_k, p->n_branch * p->n_local, width_kv, 4);
  a.local_v = upload_mat(&r, p->local_v, p->n_branch * p->n_local, width_kv, 0);
  a.branch = upload_ints(&r, branch, (size_t)n_row);
  a.view = upload_ints(&r, view, (size_t)(n_row * p->h));
  a.masks = upload_ints(&r, p->masks, (size_t)p->n_view * (size_t)n_word(p));
  sl_queue_ops(r.queue)->attend_shared(r.queue, &a);
  float *z = read_z(&r, a.z);
  test_free(q);
  test_free(branch);
  test_free(view);
  run_close(&r);
  return z;
}
static float *solve(const problem *p, level who, int n_thread) { return solve_rows(p, who, n_thread, NULL, p->n_row); }

/* Largest difference over the root mean square. */
static double error_of(const float *x, const double *want, int n) {
  double worst = 0, square = 0;
  for (int i = 0; i < n; i++) {
    assert_false(isnan(x[i]));
    worst = fmax(worst, fabs(x[i] - want[i]));
    square += want[i] * want[i];
  }
  return square > 0 ? worst / sqrt(square / n) : worst;
}

#define ASSERT_NEAR(error, tolerance)                                                                \
  do {                                                                                               \
    double error_ = (error);                                                                         \
    if (!(error_ <= (tolerance))) fail_msg("error %.3g is above %.3g", error_, (double)(tolerance)); \
  } while (0)

/* The definition: all columns of one row laid side by side, softmax over those that its mask shows. */
static void closed_form(const problem *p, double *z) {
  const int columns = n_word(p) * 32, group = p->h / p->h_kv, width = p->h * p->d, width_kv = p->h_kv * p->d;
  double *weight = test_malloc((size_t)columns * sizeof *weight);
  for (int row = 0; row < p->n_row; row++) {
    for (int head = 0; head < p->h; head++) {
      double *out = z + (size_t)row * (size_t)width + head * p->d, sum = 0;
      memset(out, 0, (size_t)p->d * sizeof *out);
      for (int pass = 0; pass < 2; pass++) {
        for (int s = 0; s <= p->n_segment; s++) {
          const bool local = s == p->n_segment;
          const int rows = local ? p->n_local : p->segment[s], skip = local ? p->branch[row] * p->n_local : 0;
          for (int j = 0; j < rows; j++) {
            const int c = first_column(p, s) + j;
            const size_t at = (size_t)(skip + j) * (size_t)width_kv + (size_t)(head / group * p->d);
            if (!shown(p, row, head, c)) continue;
            double score = 0;
            for (int i = 0; i < p->d && pass == 0; i++)
              score += (double)p->q[(size_t)row * (size_t)width + (size_t)(head * p->d + i)] *
                       (local ? p->local_k : p->k[s])[at + (size_t)i];
            if (pass == 0) sum += weight[c] = exp(score / sqrt(p->d));
            for (int i = 0; i < p->d && pass == 1; i++)
              out[i] += weight[c] / sum * (local ? p->local_v : p->v[s])[at + (size_t)i];
          }
        }
      }
    }
  }
  test_free(weight);
}

typedef struct shape {
  int h, h_kv, d, segments[5], n_local, branches[12];
} shape;
static const shape shapes[] = {
    {1, 1, 8, {0}, 1, {1}},                                    /* one row, itself */
    {2, 1, 24, {5, 33, 33, 0}, 3, {3, 1, 2}},                  /* grouped, odd everything */
    {4, 2, 20, {7, 64, 64, 19, 0}, 40, {40, 1, 13, 30}},       /* two words of local keys */
    {3, 3, 128, {35, 144, 144, 12, 0}, 9, {9, 9, 9, 9, 9, 9, 9, 9, 9}}, /* bands across branches */
    {8, 1, 40, {31, 96, 96, 0}, 1, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},     /* decoding: one row a branch, group of 8 */
    {2, 2, 256, {1, 40, 40, 0}, 17, {17, 5}},
    {2, 2, 64, {10, 600, 600, 0}, 5, {5, 5, 5}},
};
enum { N_SHAPE = sizeof shapes / sizeof *shapes };

static problem problem_of(const shape *s, sl_compute compute) {
  problem p = problem_new(s->h, s->h_kv, s->d, s->segments, s->n_local, s->branches, compute);
  show_as_plans_do(&p);
  return p;
}

static void test_closed_form(void **state) {
  (void)state;
  for (int n = 0; n < N_SHAPE; n++) {
    problem p = problem_of(&shapes[n], SL_COMPUTE_F32);
    double *want = test_malloc((size_t)(p.n_row * p.h * p.d) * sizeof *want);
    closed_form(&p, want);
    float *z = solve(&p, LEVEL_REF, 1);
    ASSERT_NEAR(error_of(z, want, p.n_row * p.h * p.d), 1e-6);
    test_free(z);
    test_free(want);
    problem_free(&p);
  }
}

/* In bf16 a numerator near a rounding boundary may fall on the other side: one part in 256 of one of them. */
static double tolerance(sl_compute compute) { return compute == SL_COMPUTE_BF16 ? 4e-3 : 5e-6; }

static void test_against_ref(void **state) {
  (void)state;
  for (int n = 0; n < N_SHAPE; n++) {
    for (int compute = 0; compute < SL_COMPUTE_COUNT; compute++) {
      problem p = problem_of(&shapes[n], (sl_compute)compute);
      const int n_out = p.n_row * p.h * p.d;
      double *want = test_malloc((size_t)n_out * sizeof *want);
      float *ref = solve(&p, LEVEL_REF, 1);
      for (int i = 0; i < n_out; i++) want[i] = ref[i];
      for (int who = LEVEL_PLAIN; who < N_LEVEL; who++) {
        float *z = solve(&p, (level)who, 2);
        if (z) ASSERT_NEAR(error_of(z, want, n_out), tolerance(p.compute));
        if (z) test_free(z);
      }
      test_free(ref);
      test_free(want);
      problem_free(&p);
    }
  }
}

static void assert_rows_equal(const problem *p, const float *all, const float *some, const int *rows, int n_row) {
  const size_t width = (size_t)(p->h * p->d);
  for (int i = 0; i < n_row; i++) {
    if (memcmp(all + (size_t)rows[i] * width, some + (size_t)i * width, width * sizeof *all) != 0)
      fail_msg("row %d of %d has other bits among %d rows", rows[i], p->n_row, n_row);
  }
}

/* A row alone, in subsets (other bands, other neighbours), with 1 to 3 threads. */
static void test_bits_of_a_row(void **state) {
  (void)state;
  const shape s = {4, 2, 40, {7, 64, 96, 19, 0}, 37, {30, 1, 37, 5, 11, 40, 2, 30}};
  for (int who = LEVEL_PLAIN; who < N_LEVEL; who++) {
    for (int compute = 0; compute < SL_COMPUTE_COUNT; compute++) {
      problem p = problem_of(&s, (sl_compute)compute);
      float *all = solve(&p, (level)who, 1);
      uint64_t seed = 9;
      int *rows = test_malloc((size_t)p.n_row * sizeof *rows);
      for (int trial = 0; all && trial < 40; trial++) {
        int n = 0;
        for (int row = 0; row < p.n_row; row++) {
          if (trial < 2 || (trial < 10 ? below(&seed, 8) < trial - 1 : row == trial * 4)) rows[n++] = row;
        }
        if (n == 0) continue;
        float *some = solve_rows(&p, (level)who, 1 + (trial + 1) % 3, rows, n);
        assert_rows_equal(&p, all, some, rows, n);
        test_free(some);
      }
      test_free(rows);
      if (all) test_free(all);
      problem_free(&p);
    }
  }
}

/* The problem without segment `gone`, whose columns leave every mask. */
static problem without_segment(const problem *p, int gone) {
  const int first = first_column(p, gone) / 32, count = (p->segment[gone] + 31) / 32, words = n_word(p);
  problem q = *p;
  q.n_segment--;
  for (int s = gone; s < q.n_segment; s++) {
    q.k[s] = p->k[s + 1];
    q.v[s] = p->v[s + 1];
    q.segment[s] = p->segment[s + 1];
  }
  q.masks = test_malloc((size_t)p->n_view * (size_t)words * sizeof *q.masks);
  for (int v = 0; v < p->n_view; v++) {
    const uint32_t *from = p->masks + (size_t)v * (size_t)words;
    uint32_t *to = q.masks + (size_t)v * (size_t)(words - count);
    memcpy(to, from, (size_t)first * sizeof *to);
    memcpy(to + first, from + first + count, (size_t)(words - first - count) * sizeof *to);
  }
  return q;
}

/* An item that does not see a segment has the same bits when it is absent, and when others see it. */
static void test_bits_without_a_segment(void **state) {
  (void)state;
  const shape s = {4, 4, 24, {40, 70, 70, 33, 0}, 6, {6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6}};
  for (int who = LEVEL_PLAIN; who < N_LEVEL; who++) {
    for (int compute = 0; compute < SL_COMPUTE_COUNT; compute++) {
      problem p = problem_of(&s, (sl_compute)compute);
      float *all = solve(&p, (level)who, 2);
      for (int gone = 0; all && gone < p.n_segment; gone++) {
        problem q = without_segment(&p, gone);
        float *z = solve(&q, (level)who, 2);
        int n_compared = 0;
        for (int i = 0; i < p.n_row * p.h; i++) {
          bool sees = false;
          for (int j = 0; j < p.segment[gone]; j++) sees |= shown(&p, i / p.h, i % p.h, first_column(&p, gone) + j);
          if (sees) continue;
          assert_memory_equal(all + i * p.d, z + i * p.d, (size_t)p.d * sizeof *z);
          n_compared++;
        }
        assert_true(n_compared > (gone == 1 || gone == 2 ? 100 : 30));
        test_free(z);
        test_free(q.masks);
      }
      if (all) test_free(all);
      problem_free(&p);
    }
  }
}

static void test_nothing_seen(void **state) {
  (void)state;
  const shape s = {3, 1, 24, {40, 5, 0}, 2, {3, 1}};
  for (int who = LEVEL_REF; who < N_LEVEL; who++) {
    problem p = problem_new(s.h, s.h_kv, s.d, s.segments, s.n_local, s.branches, SL_COMPUTE_BF16);
    show(&p, 1, 2, 3, 1); /* one item sees one key: it gets that key's value */
    float *z = solve(&p, (level)who, 1);
    for (int i = 0; z && i < p.n_row * p.h * p.d; i++) {
      const int item = i / p.d;
      const float value = sl_bf16_to_f32(sl_f32_to_bf16(p.v[0][3 * p.d + i % p.d]));
      assert_true(z[i] == (item == 1 * p.h + 2 ? value : 0.0f));
    }
    if (z) test_free(z);
    problem_free(&p);
  }
}

/* One branch that sees all before it is plain causal attention over segments and local keys in a row. */
static void test_plain_attention(void **state) {
  (void)state;
  const int segments[] = {13, 70, 0}, branch[] = {21, 0}, n_prefix = 83, n = 21, h = 4, h_kv = 2, d = 40;
  for (int who = LEVEL_REF; who < N_LEVEL; who++) {
    for (int compute = 0; compute < SL_COMPUTE_COUNT; compute++) {
      problem p = problem_new(h, h_kv, d, segments, n, branch, (sl_compute)compute);
      for (int i = 0; i < n * h; i++) {
        for (int s = 0; s < 2; s++) show(&p, i / h, i % h, first_column(&p, s), segments[s]);
        show(&p, i / h, i % h, first_column(&p, 2), i / h + 1);
      }
      float *z = solve(&p, (level)who, 2);
      run r;
      if (z && run_open(&r, (level)who, 2, h * d, n_prefix + n)) {
        const size_t width = (size_t)(h_kv * d), row_bytes = width * sizeof(float);
        float *k = test_malloc((size_t)(n_prefix + n) * row_bytes);
        float *v = test_malloc((size_t)(n_prefix + n) * row_bytes);
        const float *const ks[] = {p.k[0], p.k[1], p.local_k}, *const vs[] = {p.v[0], p.v[1], p.local_v};
        const int rows[] = {13, 70, n};
        for (int s = 0, at = 0; s < 3; at += rows[s++]) {
          memcpy(k + (size_t)at * width, ks[s], (size_t)rows[s] * row_bytes);
          memcpy(v + (size_t)at * width, vs[s], (size_t)rows[s] * row_bytes);
        }
        sl_attend a = {.n_head = h, .n_head_kv = h_kv, .d_head = d, .scale = (float)(1 / sqrt(d)), .causal = true,
                       .first_query = n_prefix, .compute = p.compute};
        a.q = upload_mat(&r, p.q, n, h * d, 0);
        a.z = upload_mat(&r, NULL, n, h * d, 0);
        a.k = upload_mat(&r, k, n_prefix + n, h_kv * d, 0);
        a.v = upload_mat(&r, v, n_prefix + n, h_kv * d, 0);
        sl_queue_ops(r.queue)->attend(r.queue, &a);
        float *plain = read_z(&r, a.z);
        double *want = test_malloc((size_t)(n * h * d) * sizeof *want);
        for (int i = 0; i < n * h * d; i++) want[i] = plain[i];
        ASSERT_NEAR(error_of(z, want, n * h * d), tolerance(p.compute));
        test_free(want);
        test_free(plain);
        test_free(k);
        test_free(v);
        run_close(&r);
      }
      if (z) test_free(z);
      problem_free(&p);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_closed_form),           cmocka_unit_test(test_against_ref),
      cmocka_unit_test(test_bits_of_a_row),         cmocka_unit_test(test_bits_without_a_segment),
      cmocka_unit_test(test_nothing_seen),          cmocka_unit_test(test_plain_attention),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
