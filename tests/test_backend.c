/* The backend's ops: ref against closed forms in f64 and finite differences; cpu against ref within a stated tolerance
 * per op and mode, over odd shapes and strides; the same bits whatever the threads and however rows are split. */
#include "backend_bench.h"

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
static const double product_tolerance[SL_COMPUTE_COUNT] = {3e-5, 3e-5, 3e-5};

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
                           {17, 50, 7}, {33, 96, 70}, {5, 40, 1100},
                           {70, 530, 100}, {3, 1050, 37}, {340, 40, 545}, {700, 40, 33}};
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

static void test_product_known(void **state) {
  (void)state;
  bench b;
  bench_open(&b, 1);
  float w_values[2][3] = {{1, 2, 3}, {4, 5, 6}}, x_values[3] = {1, 0.5f, -1}, bias_values[2] = {10, 20};
  sl_tensor parts[2] = {{.name = "a", .data = w_values[0], .dtype = SL_F32, .n_dim = 2, .shape = {1, 3}},
                        {.name = "b", .data = w_values[1], .dtype = SL_F32, .n_dim = 2, .shape = {1, 3}}};
  pair x = pair_new(&b, 1, 3, 0, 0), y = pair_new(&b, 1, 2, 0, 0), bias = pair_new(&b, 1, 2, 0, 0);
  memcpy(x.host, x_values, sizeof x_values);
  memcpy(bias.host, bias_values, sizeof bias_values);
  write_pair(&b, &x);
  write_pair(&b, &bias);
  for (int c = 0; c < SL_COMPUTE_COUNT; c++) {
    EACH_BACKEND(i) {
      sl_weight *w = NULL;
      assert_int_equal(sl_weight_new(&w, b.backend[i], (sl_compute)c, parts, 2), SL_OK);
      assert_int_equal(sl_weight_rows(w), 2);
      assert_int_equal(sl_weight_cols(w), 3);
      assert_true(sl_weight_bytes(w) >= 12);
      OPS(&b, i)->linear(b.queue[i], y.m[i], x.m[i], w, bias.m[i], false);
      float *out = read_mat(&b, i, y.m[i]);
      assert_true(out[0] == 9.0f && out[1] == 20.5f);
      test_free(out);
      OPS(&b, i)->linear_dx(b.queue[i], x.m[i], bias.m[i], w, false);
      out = read_mat(&b, i, x.m[i]);
      assert_true(out[0] == 90.0f && out[1] == 120.0f && out[2] == 150.0f);
      test_free(out);
      sl_buffer_write(b.queue[i], x.m[i].buffer, 0, x.host, sizeof x_values);
      sl_weight_free(sl_weight_ref(w));
      sl_weight_free(w);
    }
  }
  pair *all[] = {&x, &y, &bias};
  for (int i = 0; i < 3; i++) pair_free(all[i]);
  bench_close(&b);
}

/* The modes' promises against f64: bf16x2 near f32, bf16 as coarse as its rounding. K = 4096. */
static void test_accuracy(void **state) {
  (void)state;
  const double limit[3][SL_COMPUTE_COUNT] = {{2e-6, 1.2e-5, 4e-3}, {2e-6, 1.2e-5, 4e-3}, {2e-6, 1.2e-5, 4e-3}};
  enum { T = 3, N = 40, K = 4096 };
  for (int dtype = SL_F32; dtype <= SL_BF16; dtype++) {
    for (int c = 0; c < SL_COMPUTE_COUNT; c++) {
      bench b;
      bench_open(&b, 2);
      assert_int_equal(sl_queue_reserve(b.queue[CPU], T, K, 0), SL_OK);
      host_weight h = host_weight_new(&b, N, K, (sl_dtype)dtype);
      pair x = pair_new(&b, T, K, 0, 1), y = pair_new(&b, T, N, 0, 0);
      sl_weight *w = NULL;
      assert_int_equal(sl_weight_new(&w, b.backend[CPU], (sl_compute)c, &h.tensor, 1), SL_OK);
      OPS(&b, CPU)->linear(b.queue[CPU], y.m[CPU], x.m[CPU], w, (sl_mat){0}, false);
      float *out = read_mat(&b, CPU, y.m[CPU]);
      double error = 0, square = 0;
      for (int t = 0; t < T; t++) {
        for (int n = 0; n < N; n++) {
          double sum = 0;
          for (int k = 0; k < K; k++) sum += (double)x.host[t * K + k] * h.values[n * K + k];
          error += (out[t * N + n] - sum) * (out[t * N + n] - sum);
          square += sum * sum;
        }
      }
      ASSERT_NEAR(sqrt(error / square), limit[dtype][c]);
      test_free(out);
      sl_weight_free(w);
      pair_free(&x);
      pair_free(&y);
      host_weight_free(&h);
      bench_close(&b);
    }
  }
}

/* Bits of a product do not depend on threads, nor on how many rows come along. */
static void test_product_determinism(void **state) {
  (void)state;
  enum { T = 150, N = 200, K = 1100 };
  for (int c = 0; c < SL_COMPUTE_COUNT; c++) {
    for (int backward = 0; backward < 2; backward++) {
      float *first = NULL;
      for (int n_thread = 1; n_thread <= 3; n_thread++) {
        bench b;
        bench_open(&b, n_thread);
        assert_int_equal(sl_queue_reserve(b.queue[CPU], T, K, 0), SL_OK);
        host_weight h = host_weight_new(&b, N, K, SL_F16);
        sl_weight *w = NULL;
        assert_int_equal(sl_weight_new(&w, b.backend[CPU], (sl_compute)c, &h.tensor, 1), SL_OK);
        pair x = pair_new(&b, T, backward ? N : K, 0, 1), y = pair_new(&b, T, backward ? K : N, 0, 0);
        const int splits[][4] = {{T, 0}, {1, 16, 33, 100}, {17, 32, 1, 100}, {64, 65, 21, 0}};
        for (int s = 0; s < 4; s++) {
          for (int row = 0, i = 0; row < T; row += splits[s][i++]) {
            sl_mat part_y = sl_mat_rows(y.m[CPU], row, splits[s][i]), part_x = sl_mat_rows(x.m[CPU], row, splits[s][i]);
            if (backward) {
              OPS(&b, CPU)->linear_dx(b.queue[CPU], part_y, part_x, w, false);
            } else {
              OPS(&b, CPU)->linear(b.queue[CPU], part_y, part_x, w, (sl_mat){0}, false);
            }
          }
          float *out = read_mat(&b, CPU, y.m[CPU]);
          size_t n_bytes = (size_t)T * (size_t)y.m[CPU].cols * sizeof(float);
          if (!first) {
            first = out;
          } else {
            assert_memory_equal(first, out, n_bytes);
            test_free(out);
          }
        }
        sl_weight_free(w);
        pair_free(&x);
        pair_free(&y);
        host_weight_free(&h);
        bench_close(&b);
      }
      test_free(first);
    }
  }
}

static void test_embed(void **state) {
  (void)state;
  enum { N = 70, K = 37 };
  for (int dtype = SL_F32; dtype <= SL_BF16; dtype++) {
    bench b;
    bench_open(&b, 1);
    host_weight h = host_weight_new(&b, N, K, (sl_dtype)dtype);
    const int32_t ids[] = {0, 69, 33, 15, 16, 31, 32};
    pair y = pair_new(&b, 7, K, 2, 0);
    EACH_BACKEND(i) {
      sl_buffer *buffer = NULL;
      assert_int_equal(sl_buffer_new(&buffer, b.backend[i], sizeof ids, "ids"), SL_OK);
      sl_buffer_write(b.queue[i], buffer, 0, ids, sizeof ids);
      for (int c = SL_COMPUTE_F32; c <= SL_COMPUTE_BF16X2; c++) { /* exact: nothing rounds what is stored */
        sl_weight *w = NULL;
        assert_int_equal(sl_weight_new(&w, b.backend[i], (sl_compute)c, &h.tensor, 1), SL_OK);
        OPS(&b, i)->embed(b.queue[i], y.m[i], w, (sl_ints){buffer, 0, 7});
        float *out = read_mat(&b, i, y.m[i]);
        for (int t = 0; t < 7; t++) {
          for (int k = 0; k < K; k++) assert_true(out[t * (K + 2) + k] == h.values[ids[t] * K + k]);
        }
        test_free(out);
        sl_weight_free(w);
      }
      sl_buffer_free(buffer);
    }
    pair_free(&y);
    host_weight_free(&h);
    bench_close(&b);
  }
}

typedef struct row_ops {
  int kind;
  pair x, y, dx, dy, w, bias, gu, dgu, h, dh;
} row_ops;

static void run_norm(bench *b, int i, void *context) {
  row_ops *r = context;
  sl_mat bias = r->kind == SL_NORM_LAYER ? r->bias.m[i] : (sl_mat){0};
  OPS(b, i)->norm(b->queue[i], (sl_norm)r->kind, r->y.m[i], r->x.m[i], r->w.m[i], bias, 1e-5f);
}
static void run_act(bench *b, int i, void *context) {
  row_ops *r = context;
  OPS(b, i)->act(b->queue[i], (sl_act)r->kind, r->y.m[i], r->x.m[i]);
}
static void run_gate(bench *b, int i, void *context) {
  row_ops *r = context;
  OPS(b, i)->gate(b->queue[i], (sl_act)r->kind, r->h.m[i], r->gu.m[i]);
}

static void row_ops_new(bench *b, row_ops *r, int rows, int cols, double scale) {
  pair *all[] = {&r->x, &r->y, &r->dx, &r->dy};
  for (int i = 0; i < 4; i++) *all[i] = pair_new(b, rows, cols, i, i == 0 ? scale : 1);
  r->w = pair_new(b, 1, cols, 0, 1);
  r->bias = pair_new(b, 1, cols, 0, 1);
  r->gu = pair_new(b, rows, 2 * cols, 3, scale);
  r->dgu = pair_new(b, rows, 2 * cols, 1, 1);
  r->h = pair_new(b, rows, cols, 2, 1);
  r->dh = pair_new(b, rows, cols, 0, 1);
}
static void row_ops_free(row_ops *r) {
  pair *all[] = {&r->x, &r->y, &r->dx, &r->dy, &r->w, &r->bias, &r->gu, &r->dgu, &r->h, &r->dh};
  for (int i = 0; i < 10; i++) pair_free(all[i]);
}

static void test_norm(void **state) {
  (void)state;
  const int shapes[][2] = {{1, 1}, {1, 16}, {3, 37}, {5, 224}, {40, 130}};
  for (int s = 0; s < 5; s++) {
    for (int kind = SL_NORM_LAYER; kind <= SL_NORM_RMS; kind++) {
      bench b;
      row_ops r = {.kind = kind};
      bench_open(&b, 2);
      row_ops_new(&b, &r, shapes[s][0], shapes[s][1], 2);
      EACH_BACKEND(i) run_norm(&b, i, &r);
      ASSERT_NEAR(pair_error(&b, &r.y), 5e-6);
      for (int add = 1; add >= 0; add--) {
        EACH_BACKEND(i) {
          OPS(&b, i)->norm_dx(b.queue[i], (sl_norm)kind, r.dx.m[i], r.dy.m[i], r.x.m[i], r.w.m[i], 1e-5f, add);
        }
        if (shapes[s][1] > 1) ASSERT_NEAR(pair_error(&b, &r.dx), 1e-5);
      }
      if (s == 2) check_gradient(&b, &r.x, &r.y, &r.dy, &r.dx, run_norm, &r, 1e-3);
      row_ops_free(&r);
      bench_close(&b);
    }
  }
}

static void test_activations(void **state) {
  (void)state;
  const int shapes[][2] = {{1, 1}, {2, 16}, {3, 21}, {30, 700}};
  for (int s = 0; s < 4; s++) {
    for (int kind = SL_ACT_QUICK_GELU; kind <= SL_ACT_SILU; kind++) {
      bench b;
      row_ops r = {.kind = kind};
      bench_open(&b, 2);
      row_ops_new(&b, &r, shapes[s][0], shapes[s][1], s == 3 ? 20 : 1);
      EACH_BACKEND(i) {
        run_act(&b, i, &r);
        run_gate(&b, i, &r);
        OPS(&b, i)->act_dx(b.queue[i], (sl_act)kind, r.dx.m[i], r.dy.m[i], r.x.m[i]);
        OPS(&b, i)->gate_dx(b.queue[i], (sl_act)kind, r.dgu.m[i], r.dh.m[i], r.gu.m[i]);
      }
      ASSERT_NEAR(pair_error(&b, &r.y), 2e-6);
      ASSERT_NEAR(pair_error(&b, &r.dx), 4e-6);
      ASSERT_NEAR(pair_error(&b, &r.h), 1e-5);
      ASSERT_NEAR(pair_error(&b, &r.dgu), 1e-5);
      if (s == 2) {
        check_gradient(&b, &r.x, &r.y, &r.dy, &r.dx, run_act, &r, 1e-3);
        check_gradient(&b, &r.gu, &r.h, &r.dh, &r.dgu, run_gate, &r, 1e-3);
      }
      EACH_BACKEND(i) { /* in place */
        OPS(&b, i)->act(b.queue[i], (sl_act)kind, r.x.m[i], r.x.m[i]);
        OPS(&b, i)->gate_dx(b.queue[i], (sl_act)kind, r.gu.m[i], r.dh.m[i], r.gu.m[i]);
      }
      ASSERT_NEAR(pair_error(&b, &r.x), 2e-6);
      ASSERT_NEAR(pair_error(&b, &r.gu), 1e-5);
      row_ops_free(&r);
      bench_close(&b);
    }
  }
}

static void test_rope(void **state) {
  (void)state;
  const int widths[] = {8, 34, 128, 256};
  for (int s = 0; s < 4; s++) {
    int d = widths[s];
    const int32_t positions[] = {0, 1, 7, 4000, 4001};
    bench b;
    bench_open(&b, 2);
    pair x = pair_new(&b, 5, 3 * d, 4, 1), freq = pair_new(&b, 1, d / 2, 0, 0);
    for (int i = 0; i < d / 2; i++) freq.host[i] = (float)pow(10000, -2.0 * i / d);
    write_pair(&b, &freq);
    EACH_BACKEND(i) {
      sl_buffer *buffer = NULL;
      sl_ints at = ints_new(&b, i, positions, 5, &buffer);
      OPS(&b, i)->rope(b.queue[i], x.m[i], d, at, freq.m[i], 1);
      float *out = read_mat(&b, i, x.m[i]);
      const float *row = x.host + 3 * (3 * d + 4);
      double angle = (float)(4000 * freq.host[1]), a = row[1], c = row[1 + d / 2];
      assert_true(fabs(out[3 * (3 * d + 4) + 1] - (a * cos(angle) - c * sin(angle))) < 1e-6);
      test_free(out);
      if (i == CPU) ASSERT_NEAR(pair_error(&b, &x), 1e-6);
      OPS(&b, i)->rope(b.queue[i], x.m[i], d, at, freq.m[i], -1); /* the transpose undoes the turn */
      out = read_mat(&b, i, x.m[i]);
      for (int j = 0; j < 3 * d; j++) assert_true(fabs(out[4 * (3 * d + 4) + j] - x.host[4 * (3 * d + 4) + j]) < 2e-6);
      test_free(out);
      OPS(&b, i)->rope(b.queue[i], x.m[i], d, at, freq.m[i], 1);
      sl_buffer_free(buffer);
    }
    pair_free(&x);
    pair_free(&freq);
    bench_close(&b);
  }
}

static const attend_case attend_cases[] = {
    {1, 1, 8, 1, 1, 0, true, SL_COMPUTE_F32},        {2, 1, 8, 3, 5, 2, true, SL_COMPUTE_F32},
    {4, 2, 20, 7, 19, 12, true, SL_COMPUTE_F32},     {4, 4, 56, 70, 70, 0, true, SL_COMPUTE_F32},
    {6, 2, 32, 50, 130, 80, true, SL_COMPUTE_F32},   {2, 2, 64, 33, 257, 0, false, SL_COMPUTE_F32},
    {3, 1, 256, 9, 40, 31, true, SL_COMPUTE_BF16X2}, {8, 8, 22, 100, 100, 0, true, SL_COMPUTE_F32},
    {2, 2, 16, 5, 300, 295, true, SL_COMPUTE_F32},   {4, 2, 128, 65, 90, 25, true, SL_COMPUTE_BF16},
    {2, 2, 18, 49, 49, 0, false, SL_COMPUTE_BF16},   {4, 1, 64, 1, 200, 199, true, SL_COMPUTE_BF16},
    {6, 2, 40, 130, 171, 41, true, SL_COMPUTE_BF16}, {2, 1, 33, 97, 300, 0, false, SL_COMPUTE_BF16},
    {3, 3, 128, 70, 70, 0, true, SL_COMPUTE_BF16},   {4, 2, 24, 66, 290, 100, true, SL_COMPUTE_BF16},
    /* cross-attention: more queries than keys, and fewer */
    {2, 2, 12, 61, 3, 0, false, SL_COMPUTE_F32},     {2, 2, 64, 32, 257, 0, false, SL_COMPUTE_F32},
    {2, 2, 12, 61, 3, 0, false, SL_COMPUTE_BF16},    {2, 2, 64, 32, 257, 0, false, SL_COMPUTE_BF16},
};

static void test_attend(void **state) {
  (void)state;
  for (size_t n = 0; n < sizeof attend_cases / sizeof *attend_cases; n++) {
    bench b;
    attend_set s;
    bench_open(&b, 2);
    attend_set_new(&b, &s, attend_cases[n]);
    bool bf16 = s.c.compute == SL_COMPUTE_BF16;
    EACH_BACKEND(i) run_attend(&b, i, &s);
    /* In bf16 a probability near a rounding boundary may fall on the other side: one part in 256 of one of them. */
    ASSERT_NEAR(pair_error(&b, &s.z), bf16 ? 4e-3 : 5e-6);
    ASSERT_NEAR(pair_error(&b, &s.lse), 3e-6);
    ASSERT_NEAR(pair_error(&b, &s.pattern), 1e-5);
    ASSERT_NEAR(pair_error(&b, &s.scores), 1e-5);
    EACH_BACKEND(i) {
      float *pattern = read_mat(&b, i, s.pattern.m[i]);
      for (int r = 0; r < s.pattern.m[i].rows; r++) {
        double sum = 0;
        for (int j = 0; j < s.c.tk; j++) sum += pattern[r * s.pattern.m[i].stride + j];
        assert_true(fabs(sum - 1) < 2e-6);
        int seen = s.c.causal ? s.c.first_query + s.rows[r % s.a[i].rows.count] + 1 : s.c.tk;
        for (int j = seen; j < s.c.tk; j++) assert_true(pattern[r * s.pattern.m[i].stride + j] == 0);
      }
      test_free(pattern);
      run_attend_dx(&b, i, &s);
    }
    ASSERT_NEAR(pair_error(&b, &s.dq), bf16 ? 1e-2 : 2e-5);
    ASSERT_NEAR(pair_error(&b, &s.dk), bf16 ? 1e-2 : 2e-5);
    ASSERT_NEAR(pair_error(&b, &s.dv), bf16 ? 1e-2 : 2e-5);
    if (n == 1 || n == 2) {
      check_gradient(&b, &s.qkv, &s.z, &s.dz, &s.dq, run_attend, &s, 1e-3);
      check_gradient(&b, &s.k, &s.z, &s.dz, &s.dk, run_attend, &s, 1e-3);
      check_gradient(&b, &s.v, &s.z, &s.dz, &s.dv, run_attend, &s, 1e-3);
    }
    attend_set_free(&s);
    bench_close(&b);
  }
}

/* Bits of attention do not depend on threads or on which query rows come along. */
static void test_attend_determinism(void **state) {
  (void)state;
  for (int compute = 0; compute < SL_COMPUTE_COUNT; compute++) {
    attend_case c = {4, 2, 40, 120, 150, 30, true, (sl_compute)compute};
    float *first[4] = {NULL};
    for (int n_thread = 1; n_thread <= 3; n_thread++) {
      bench b;
      attend_set s;
      bench_open(&b, n_thread);
      attend_set_new(&b, &s, c);
      s.a[CPU].rows.count = 0;
      s.a[CPU].pattern = s.a[CPU].scores = (sl_mat){0};
      for (int step = 120; step >= 7; step = step == 120 ? 50 : step == 50 ? 7 : 0) {
        for (int row = 0; row < c.tq; row += step) {
          int n = c.tq - row < step ? c.tq - row : step;
          sl_attend a = s.a[CPU];
          a.first_query += row;
          a.q = sl_mat_rows(a.q, row, n);
          a.z = sl_mat_rows(a.z, row, n);
          a.lse = sl_mat_rows(a.lse, row, n);
          OPS(&b, CPU)->attend(b.queue[CPU], &a);
        }
        if (step == 120) run_attend_dx(&b, CPU, &s);
        sl_mat outputs[4] = {s.z.m[CPU], s.dq.m[CPU], s.dk.m[CPU], s.dv.m[CPU]};
        for (int o = 0; o < 4; o++) {
          float *out = read_mat(&b, CPU, outputs[o]);
          if (!first[o]) {
            first[o] = out;
          } else {
            assert_memory_equal(first[o], out, (size_t)outputs[o].rows * (size_t)outputs[o].stride * 4);
            test_free(out);
          }
        }
      }
      attend_set_free(&s);
      bench_close(&b);
    }
    for (int o = 0; o < 4; o++) test_free(first[o]);
  }
}

static void test_moves(void **state) {
  (void)state;
  const int shapes[][2] = {{1, 1}, {5, 19}, {60, 1000}};
  for (int s = 0; s < 3; s++) {
    int t = shapes[s][0], d = shapes[s][1];
    bench b;
    bench_open(&b, 2);
    pair x = pair_new(&b, t, d, 3, 1), y = pair_new(&b, t, d, 1, 1), z = pair_new(&b, t, d, 0, 1);
    pair one = pair_new(&b, 1, d, 0, 1), half = pair_new(&b, t, d, 4, 0);
    int32_t rows[64];
    for (int i = 0; i < t; i++) rows[i] = (i * 7 + 1) % t;
    EACH_BACKEND(i) {
      const sl_ops *o = OPS(&b, i);
      sl_queue *q = b.queue[i];
      sl_buffer *buffer = NULL;
      sl_ints at = ints_new(&b, i, rows, t, &buffer);
      o->add(q, y.m[i], x.m[i], z.m[i]);
      o->add(q, y.m[i], y.m[i], one.m[i]);
      o->scale(q, z.m[i], y.m[i], -1.5f);
      o->gather_rows(q, y.m[i], z.m[i], at);
      o->scatter_rows(q, z.m[i], x.m[i], at);
      sl_mat small = half.m[i];
      small.dtype = SL_BF16;
      small.stride = d + 2;
      o->copy(q, small, z.m[i]);
      o->copy(q, x.m[i], small);
      float *rounded = read_mat(&b, i, x.m[i]), *before = read_mat(&b, i, z.m[i]);
      for (int j = 0; j < t * d; j++) {
        assert_true(rounded[j / d * (d + 3) + j % d] == sl_bf16_to_f32(sl_f32_to_bf16(before[j])));
      }
      test_free(rounded);
      test_free(before);
      sl_buffer_free(buffer);
    }
    ASSERT_NEAR(pair_error(&b, &x), 0);
    ASSERT_NEAR(pair_error(&b, &y), 1e-7);
    ASSERT_NEAR(pair_error(&b, &z), 0);
    EACH_BACKEND(i) OPS(&b, i)->zero(b.queue[i], x.m[i]);
    float *zeros = read_mat(&b, CPU, x.m[CPU]);
    for (int j = 0; j < t * d; j++) assert_true(zeros[j / d * (d + 3) + j % d] == 0);
    test_free(zeros);
    pair *all[] = {&x, &y, &z, &one, &half};
    for (int i = 0; i < 5; i++) pair_free(all[i]);
    bench_close(&b);
  }
}

static void test_cam(void **state) {
  (void)state;
  const int shapes[][2] = {{1, 1}, {9, 33}, {144, 224}};
  for (int s = 0; s < 3; s++) {
    for (int clip = 0; clip < 2; clip++) {
      int n = shapes[s][0], d = shapes[s][1];
      bench b;
      bench_open(&b, 2);
      pair f = pair_new(&b, n, d, 2, 1), g = pair_new(&b, n, d, 1, 1), heat = pair_new(&b, 1, n, 0, 1);
      pair alpha = pair_new(&b, 1, d, 0, 1);
      EACH_BACKEND(i) OPS(&b, i)->cam(b.queue[i], heat.m[i], alpha.m[i], f.m[i], g.m[i], clip);
      ASSERT_NEAR(pair_error(&b, &heat), 1e-6);
      ASSERT_NEAR(pair_error(&b, &alpha), 1e-7);
      double sum = 0;
      for (int t = 0; t < n; t++) {
        double v = g.host[t * (d + 1) + d - 1];
        sum += clip && v < 0 ? 0 : v;
      }
      float *out = read_mat(&b, CPU, alpha.m[CPU]);
      assert_true(fabs(out[d - 1] - sum / n) < 1e-6);
      test_free(out);
      pair *all[] = {&f, &g, &heat, &alpha};
      for (int i = 0; i < 4; i++) pair_free(all[i]);
      bench_close(&b);
    }
  }
}

static void test_errors(void **state) {
  (void)state;
  sl_backend *backend = NULL;
  assert_int_equal(sl_backend_open(&backend, "abacus"), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "cpu, ref"));
  const char *names[] = {"ref", "cpu"};
  for (int i = 0; i < 2; i++) {
    assert_int_equal(sl_backend_open(&backend, names[i]), SL_OK);
    assert_string_equal(sl_backend_name(backend), names[i]);
    for (int c = 0; c < SL_COMPUTE_COUNT; c++) assert_true(strlen(sl_backend_describe(backend, (sl_compute)c)) > 5);
    assert_true(sl_backend_default_compute(backend) < SL_COMPUTE_COUNT);
    float values[6] = {0};
    sl_tensor parts[2] = {{.name = "a", .data = values, .dtype = SL_F32, .n_dim = 2, .shape = {1, 3}},
                          {.name = "odd", .data = values, .dtype = SL_F32, .n_dim = 2, .shape = {3, 2}}};
    sl_weight *w = NULL;
    assert_int_equal(sl_weight_new(&w, backend, SL_COMPUTE_BF16, parts, 2), SL_ERROR_FORMAT);
    assert_non_null(strstr(sl_error_message(), "odd"));
    parts[0].dtype = SL_I32;
    assert_int_equal(sl_weight_new(&w, backend, SL_COMPUTE_BF16, parts, 1), SL_ERROR_UNSUPPORTED);
    parts[0].dtype = SL_F32;
    assert_int_equal(sl_weight_new(&w, backend, SL_COMPUTE_BF16, parts, 0), SL_ERROR_ARGUMENT);
    for (long n = 1; n <= 2; n++) {
      sl_alloc_fail_at(n);
      assert_int_equal(sl_weight_new(&w, backend, SL_COMPUTE_BF16, parts, 1), SL_ERROR_MEMORY);
      assert_null(w);
    }
    sl_alloc_fail_at(0);
    sl_queue *queue = NULL;
    assert_int_equal(sl_queue_new(&queue, backend, -1), SL_ERROR_ARGUMENT);
    assert_int_equal(sl_queue_new(&queue, backend, 1), SL_OK);
    assert_int_equal(sl_queue_reserve(queue, 0, -1, 0), SL_ERROR_ARGUMENT);
    sl_queue_free(queue);
    sl_backend_close(backend);
  }
}

/* The same checks on what another processor would run. */
static void check_level(void **state, level now) {
  allowed = now;
  test_product_known(state);
  test_product_determinism(state);
  test_norm(state);
  test_activations(state);
  test_rope(state);
  test_attend(state);
  test_attend_determinism(state);
  test_moves(state);
  for (int dtype = SL_F32; dtype <= SL_BF16; dtype++) {
    for (int compute = 0; compute < SL_COMPUTE_COUNT; compute++) {
      bench b;
      bench_open(&b, 2);
      check_product(&b, 17, 50, 290, (sl_dtype)dtype, (sl_compute)compute);
      bench_close(&b);
    }
  }
  allowed = LEVEL_NO_TILES;
}

static void test_lesser_processors(void **state) {
  check_level(state, LEVEL_AVX2);
  check_level(state, LEVEL_PLAIN);
}

static void test_amx_tiles(void **state) {
  sl_backend *backend = NULL;
  assert_int_equal(sl_backend_open(&backend, "cpu"), SL_OK);
  const bool tiles = strstr(sl_backend_describe(backend, SL_COMPUTE_BF16), "AMX") != NULL;
  sl_backend_close(backend);
  if (!tiles) {
    print_message("this processor has no AMX tiles\n");
    skip();
  }
  allowed = LEVEL_TILES;
  test_product(state);
  test_accuracy(state);
  check_level(state, LEVEL_TILES);
}

/* A failed case leaves its level behind; the next one starts from the usual one. */
static int reset_level(void **state) {
  (void)state;
  allowed = LEVEL_NO_TILES;
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_product_known),
      cmocka_unit_test(test_product),
      cmocka_unit_test(test_accuracy),
      cmocka_unit_test(test_product_determinism),
      cmocka_unit_test(test_embed),
      cmocka_unit_test(test_norm),
      cmocka_unit_test(test_activations),
      cmocka_unit_test(test_rope),
      cmocka_unit_test(test_attend),
      cmocka_unit_test(test_attend_determinism),
      cmocka_unit_test(test_moves),
      cmocka_unit_test(test_cam),
      cmocka_unit_test(test_errors),
      cmocka_unit_test_setup(test_lesser_processors, reset_level),
      cmocka_unit_test_setup(test_amx_tiles, reset_level),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
