/* The backend's ops for families other than LLaVA's: norms of groups of columns, rotation over several axes, queries
 * that grow with their position, elementwise products, attention within windows and intervals. As in test_backend.c:
 * ref against closed forms, cpu against ref on every level of processor, and the same bits for a row whatever rows come
 * along. */
#include "backend_bench.h"

static void check_groups(bench *b, int rows, int n_group, int width, sl_norm kind) {
  const int cols = n_group * width;
  pair x = pair_new(b, rows, cols, 3, 2), y = pair_new(b, rows, cols, 1, 1), dy = pair_new(b, rows, cols, 0, 1);
  pair dx = pair_new(b, rows, cols, 2, 1), w = pair_new(b, 1, width, 0, 1), bias = pair_new(b, 1, width, 0, 1);
  pair one = pair_new(b, rows, cols, 3, 1);
  EACH_BACKEND(i) {
    const sl_ops *op = OPS(b, i);
    const sl_mat shift = kind == SL_NORM_LAYER ? bias.m[i] : (sl_mat){0};
    op->norm(b->queue[i], kind, y.m[i], x.m[i], w.m[i], shift, 1e-3f);
    op->norm_dx(b->queue[i], kind, dx.m[i], dy.m[i], x.m[i], w.m[i], 1e-3f, true);
    for (int g = 0; g < n_group; g++) { /* each group as a matrix of its own */
      const int first = g * width;
      op->norm(b->queue[i], kind, sl_mat_cols(one.m[i], first, width), sl_mat_cols(x.m[i], first, width), w.m[i], shift,
               1e-3f);
    }
    float *together = read_mat(b, i, y.m[i]), *apart = read_mat(b, i, one.m[i]);
    for (int j = 0; j < rows * cols; j++)
      assert_true(together[j / cols * (cols + 1) + j % cols] == apart[j / cols * (cols + 3) + j % cols]);
    test_free(together);
    test_free(apart);
  }
  ASSERT_NEAR(pair_error(b, &y), 5e-6);
  ASSERT_NEAR(pair_error(b, &dx), 1e-5);
  /* In place, and the last group's equation written out. */
  float *expected = read_mat(b, CPU, y.m[CPU]);
  EACH_BACKEND(i) {
    const sl_mat shift = kind == SL_NORM_LAYER ? bias.m[i] : (sl_mat){0};
    OPS(b, i)->norm_dx(b->queue[i], kind, dx.m[i], dy.m[i], x.m[i], w.m[i], 1e-3f, false);
    OPS(b, i)->norm_dx(b->queue[i], kind, dy.m[i], dy.m[i], x.m[i], w.m[i], 1e-3f, false);
    OPS(b, i)->norm(b->queue[i], kind, x.m[i], x.m[i], w.m[i], shift, 1e-3f);
    float *in_place = read_mat(b, i, dy.m[i]), *out = read_mat(b, i, dx.m[i]);
    for (int j = 0; j < rows * cols; j++)
      assert_true(in_place[j] == out[j / cols * (cols + 2) + j % cols]);
    test_free(in_place);
    test_free(out);
  }
  float *found = read_mat(b, CPU, x.m[CPU]);
  for (int t = 0; t < rows; t++) {
    assert_memory_equal(found + t * (cols + 3), expected + t * (cols + 1), (size_t)cols * sizeof *found);
    const float *in = x.host + t * (cols + 3) + cols - width;
    double mean = 0, square = 0;
    for (int i = 0; i < width && kind == SL_NORM_LAYER; i++) mean += (double)in[i] / width;
    for (int i = 0; i < width; i++) square += ((double)in[i] - mean) * ((double)in[i] - mean) / width;
    for (int i = 0; i < width; i++) {
      const double shift = kind == SL_NORM_LAYER ? (double)bias.host[i] : 0;
      const double value = ((double)in[i] - mean) / sqrt(square + 1e-3) * (double)w.host[i] + shift;
      assert_true(fabs((double)found[t * (cols + 3) + cols - width + i] - value) < 1e-5);
    }
  }
  test_free(expected);
  test_free(found);
  pair *all[] = {&x, &y, &dy, &dx, &w, &bias, &one};
  for (int i = 0; i < 7; i++) pair_free(all[i]);
}

static void norm_of_groups(void **state) {
  (void)state;
  const int shapes[][3] = {{1, 1, 5}, {3, 4, 7}, {40, 3, 64}, {5, 2, 16}};
  for (int s = 0; s < 4; s++) {
    for (int kind = SL_NORM_LAYER; kind <= SL_NORM_RMS; kind++) {
      bench b;
      bench_open(&b, 2);
      check_groups(&b, shapes[s][0], shapes[s][1], shapes[s][2], (sl_norm)kind);
      bench_close(&b);
    }
  }
}

/* Three axes, the frequencies dealt out among them; one that all share must add up. */
static void rope_over_axes(void **state) {
  (void)state;
  enum { T = 5, D = 20, HALF = D / 2, AXES = 3 };
  const int32_t positions[T * AXES] = {0, 0, 0, 1, 2, 3, 7, 1, 0, 400, 401, 0, 3, 3, 1999};
  bench b;
  bench_open(&b, 2);
  pair x = pair_new(&b, T, 2 * D, 3, 1), freq = pair_new(&b, AXES, HALF, 2, 0);
  for (int i = 0; i < HALF; i++) freq.host[i % AXES * (HALF + 2) + i] = (float)pow(1e4, -2.0 * i / D);
  for (int a = 0; a < AXES; a++) freq.host[a * (HALF + 2)] = 0.25f;
  write_pair(&b, &freq);
  EACH_BACKEND(i) {
    sl_buffer *buffer = NULL;
    const sl_ints at = ints_new(&b, i, positions, T * AXES, &buffer);
    OPS(&b, i)->rope(b.queue[i], x.m[i], D, at, freq.m[i], 1);
    float *out = read_mat(&b, i, x.m[i]);
    for (int t = 0; t < T; t++) {
      for (int j = 0; j < HALF; j++) {
        double angle = 0;
        for (int a = 0; a < AXES; a++) angle += (double)positions[t * AXES + a] * (double)freq.host[a * (HALF + 2) + j];
        for (int h = 0; h < 2; h++) {
          const int64_t from = t * (2 * D + 3) + h * D + j;
          const double p = x.host[from], q = x.host[from + HALF];
          assert_true(fabs((double)out[from] - (p * cos(angle) - q * sin(angle))) < 1e-4); /* f32 angles up to 2000 */
          assert_true(fabs((double)out[from + HALF] - (q * cos(angle) + p * sin(angle))) < 1e-4);
        }
      }
    }
    test_free(out);
    if (i == CPU) ASSERT_NEAR(pair_error(&b, &x), 1e-6);
    OPS(&b, i)->rope(b.queue[i], x.m[i], D, at, freq.m[i], -1);
    out = read_mat(&b, i, x.m[i]);
    for (int j = 0; j < 2 * D; j++)
      assert_true(fabsf(out[4 * (2 * D + 3) + j] - x.host[4 * (2 * D + 3) + j]) < 2e-6f);
    test_free(out);
    OPS(&b, i)->rope(b.queue[i], x.m[i], D, at, freq.m[i], 1); /* turned again: what cpu is compared with */
    sl_buffer_free(buffer);
  }
  pair_free(&x);
  pair_free(&freq);
  bench_close(&b);
}

/* With trained length 8: the factor starts at position 8, the ninth token; at 63 it is log 64 / log 8 = 2. */
static void growing_queries(void **state) {
  (void)state;
  const int32_t positions[] = {0, 7, 8, 63, 511, 6}, planes[] = {0, 63, 63, 0, 8, 63};
  const double factor[] = {1, 1, 1.0566416671474375, 2, 3, 1};
  bench b;
  bench_open(&b, 2);
  pair x = pair_new(&b, 6, 37, 2, 1), y = pair_new(&b, 3, 37, 0, 1);
  EACH_BACKEND(i) {
    sl_buffer *buffer = NULL, *second = NULL;
    const sl_ints at = ints_new(&b, i, positions, 6, &buffer), pairs = ints_new(&b, i, planes, 6, &second);
    OPS(&b, i)->log_n(b.queue[i], x.m[i], at, 8);
    OPS(&b, i)->log_n(b.queue[i], y.m[i], pairs, 8); /* two numbers a row: the first one counts */
    float *out = read_mat(&b, i, x.m[i]), *plane = read_mat(&b, i, y.m[i]);
    for (int t = 0; t < 6; t++)
      for (int j = 0; j < 37; j++) assert_true(out[t * 39 + j] == (float)factor[t] * x.host[t * 39 + j]);
    for (int j = 0; j < 37; j++) {
      assert_true(plane[j] == y.host[j] && plane[37 + j] == 2 * y.host[37 + j]);
      assert_true(plane[2 * 37 + j] == (float)factor[2] * y.host[2 * 37 + j]);
    }
    test_free(out);
    test_free(plane);
    sl_buffer_free(buffer);
    sl_buffer_free(second);
  }
  ASSERT_NEAR(pair_error(&b, &x), 0);
  pair_free(&x);
  pair_free(&y);
  bench_close(&b);
}

static void products(void **state) {
  (void)state;
  const int shapes[][2] = {{1, 1}, {5, 19}, {60, 1000}};
  for (int s = 0; s < 3; s++) {
    const int t = shapes[s][0], d = shapes[s][1];
    bench b;
    bench_open(&b, 2);
    pair x = pair_new(&b, t, d, 3, 1), y = pair_new(&b, t, d, 1, 1), z = pair_new(&b, t, d, 0, 1);
    pair one = pair_new(&b, 1, d, 0, 1);
    EACH_BACKEND(i) {
      OPS(&b, i)->multiply(b.queue[i], y.m[i], x.m[i], z.m[i]);
      OPS(&b, i)->multiply(b.queue[i], y.m[i], y.m[i], one.m[i]);
      float *out = read_mat(&b, i, y.m[i]);
      for (int j = 0; j < t * d; j++)
        assert_true(out[j / d * (d + 1) + j % d] == x.host[j / d * (d + 3) + j % d] * z.host[j] * one.host[j % d]);
      test_free(out);
    }
    ASSERT_NEAR(pair_error(&b, &y), 0);
    pair *all[] = {&x, &y, &z, &one};
    for (int i = 0; i < 4; i++) pair_free(all[i]);
    bench_close(&b);
  }
}

/* ---- what a query sees ---- */

typedef enum sight { SLIDING, IMAGES, BLOCKS, N_SIGHT } sight;

/* Keys first .. last of a query at key index p: the last 20; causal but for pictures at keys 5 .. 44 and 70 .. 79,
 * which see themselves whole; blocks of 33 keys beside each other. */
static void sees(sight kind, int p, int n_key, int *first, int *last) {
  *first = 0;
  *last = p;
  if (kind == SLIDING) *first = p >= 20 ? p - 19 : 0;
  if (kind == IMAGES && p >= 5 && p < 45) *last = 44;
  if (kind == IMAGES && p >= 70 && p < 80) *last = 79;
  if (kind == BLOCKS) *first = p / 33 * 33, *last = *first + 32;
  if (*last >= n_key) *last = n_key - 1;
}

typedef struct sight_set {
  attend_set s;
  int32_t first[128], last[128];
  sl_buffer *lists[N_BACKEND][2];
} sight_set;

static void sight_set_new(bench *b, sight_set *set, sight kind, attend_case c) {
  attend_set_new(b, &set->s, c);
  for (int t = 0; t < c.tq; t++) {
    int first, last;
    sees(kind, c.first_query + t, c.tk, &first, &last);
    set->first[t] = first;
    set->last[t] = last;
  }
  EACH_BACKEND(i) {
    sl_attend *a = &set->s.a[i];
    const sl_ints first = ints_new(b, i, set->first, c.tq, &set->lists[i][0]);
    const sl_ints last = ints_new(b, i, set->last, c.tq, &set->lists[i][1]);
    a->causal = kind != BLOCKS;
    if (kind == SLIDING) {
      a->window = 20;
    } else {
      a->first_key = first;
      a->last_key = last;
    }
  }
}

static void sight_set_free(sight_set *set) {
  EACH_BACKEND(i) {
    sl_buffer_free(set->lists[i][0]);
    sl_buffer_free(set->lists[i][1]);
  }
  attend_set_free(&set->s);
}

/* The first recorded row's pattern, from its definition. */
static void check_pattern(bench *b, const sight_set *set, int i) {
  const attend_set *s = &set->s;
  const attend_case c = s->c;
  const int n_row = s->a[i].rows.count;
  float *pattern = read_mat(b, i, s->pattern.m[i]), *scores = read_mat(b, i, s->scores.m[i]);
  for (int h = 0; h < c.h; h++)
    for (int r = 0; r < n_row; r++) {
      const int row = s->rows[r];
      const float *q = s->qkv.host + row * (c.h * c.d + 5) + h * c.d;
      double score[512], sum = 0;
      for (int j = set->first[row]; j <= set->last[row]; j++) {
        const float *k = s->k.host + j * (c.h_kv * c.d + 3) + h / (c.h / c.h_kv) * c.d;
        score[j] = 0;
        for (int l = 0; l < c.d; l++) score[j] += (double)q[l] * (double)k[l] / sqrt(c.d);
        sum += exp(score[j]);
      }
      for (int j = 0; j < c.tk; j++) {
        const double p = pattern[(h * n_row + r) * (c.tk + 3) + j], e = scores[(h * n_row + r) * c.tk + j];
        const bool seen = j >= set->first[row] && j <= set->last[row];
        assert_true(seen ? fabs(p - exp(score[j]) / sum) < (c.compute == SL_COMPUTE_BF16 ? 0.02 : 1e-5) : p == 0);
        assert_true(seen ? isfinite(e) : e == (double)-INFINITY);
      }
    }
  test_free(pattern);
  test_free(scores);
}

static void attend_within(void **state) {
  (void)state;
  static const attend_case cases[] = {
      {2, 1, 8, 7, 7, 0, true, SL_COMPUTE_F32},      {4, 2, 10, 90, 90, 0, true, SL_COMPUTE_F32},
      {2, 2, 9, 60, 400, 300, true, SL_COMPUTE_F32}, {3, 3, 18, 90, 90, 0, true, SL_COMPUTE_BF16},
      {1, 1, 33, 1, 290, 289, true, SL_COMPUTE_BF16X2}, {2, 1, 12, 70, 290, 220, true, SL_COMPUTE_BF16}};
  for (int n = 0; n < (int)(sizeof cases / sizeof *cases) * N_SIGHT; n++) {
    bench b;
    sight_set set = {0};
    attend_set *s = &set.s;
    bench_open(&b, 2);
    sight_set_new(&b, &set, (sight)(n % N_SIGHT), cases[n / N_SIGHT]);
    const bool bf16 = s->c.compute == SL_COMPUTE_BF16;
    EACH_BACKEND(i) {
      run_attend(&b, i, s);
      check_pattern(&b, &set, i);
      run_attend_dx(&b, i, s);
    }
    ASSERT_NEAR(pair_error(&b, &s->z), bf16 ? 4e-3 : 5e-6); /* as test_backend.c allows plain attention */
    ASSERT_NEAR(pair_error(&b, &s->lse), 3e-6);
    ASSERT_NEAR(pair_error(&b, &s->pattern), 1e-5);
    ASSERT_NEAR(pair_error(&b, &s->scores), 1e-5);
    ASSERT_NEAR(pair_error(&b, &s->dq), bf16 ? 1e-2 : 2e-5);
    ASSERT_NEAR(pair_error(&b, &s->dk), bf16 ? 1e-2 : 2e-5);
    ASSERT_NEAR(pair_error(&b, &s->dv), bf16 ? 1e-2 : 2e-5);
    if (n < N_SIGHT) {
      check_gradient(&b, &s->qkv, &s->z, &s->dz, &s->dq, run_attend, s, 1e-3);
      check_gradient(&b, &s->k, &s->z, &s->dz, &s->dk, run_attend, s, 1e-3);
      check_gradient(&b, &s->v, &s->z, &s->dz, &s->dv, run_attend, s, 1e-3);
    }
    sight_set_free(&set);
    bench_close(&b);
  }
}

/* A row's bits do not depend on the rows that come along, nor on threads. */
static void same_bits_within(void **state) {
  (void)state;
  static const int steps[] = {120, 50, 7, 1};
  for (int n = 0; n < N_SIGHT * SL_COMPUTE_COUNT; n++) {
    const attend_case c = {4, 2, 40, 120, 400, 280, true, (sl_compute)(n / N_SIGHT)};
    float *expected = NULL;
    for (int n_thread = 1; n_thread <= 3; n_thread += 2) {
      bench b;
      sight_set set = {0};
      bench_open(&b, n_thread);
      sight_set_new(&b, &set, (sight)(n % N_SIGHT), c);
      for (int step = 0; step < 4; step++) {
        for (int row = 0; row < c.tq; row += steps[step]) {
          const int rows = c.tq - row < steps[step] ? c.tq - row : steps[step];
          sl_attend a = set.s.a[CPU];
          a.first_query += row;
          a.q = sl_mat_rows(a.q, row, rows);
          a.z = sl_mat_rows(a.z, row, rows);
          a.lse = sl_mat_rows(a.lse, row, rows);
          if (a.first_key.count > 0) {
            a.first_key = (sl_ints){a.first_key.buffer, a.first_key.offset + row, rows};
            a.last_key = (sl_ints){a.last_key.buffer, a.last_key.offset + row, rows};
          }
          a.rows.count = 0;
          a.pattern = a.scores = (sl_mat){0};
          OPS(&b, CPU)->attend(b.queue[CPU], &a);
        }
        float *z = read_mat(&b, CPU, set.s.z.m[CPU]);
        if (!expected) {
          expected = z;
          continue;
        }
        assert_memory_equal(z, expected, (size_t)c.tq * (size_t)set.s.z.m[CPU].stride * sizeof *z);
        test_free(z);
      }
      sight_set_free(&set);
      bench_close(&b);
    }
    test_free(expected);
  }
}

static void on_lesser_processors(void **state) {
  for (allowed = LEVEL_AVX2; allowed <= LEVEL_PLAIN; allowed++) {
    norm_of_groups(state);
    rope_over_axes(state);
    growing_queries(state);
    products(state);
    attend_within(state);
    same_bits_within(state);
  }
}

static void on_amx_tiles(void **state) {
  sl_backend *backend = NULL;
  assert_int_equal(sl_backend_open(&backend, "cpu"), SL_OK);
  const bool tiles = strstr(sl_backend_describe(backend, SL_COMPUTE_BF16), "AMX") != NULL;
  sl_backend_close(backend);
  if (!tiles) {
    print_message("this processor has no AMX tiles\n");
    skip();
  }
  allowed = LEVEL_TILES;
  attend_within(state);
  same_bits_within(state);
}

/* A failed case leaves its level behind; the next one starts from the usual one. */
static int reset_level(void **state) {
  (void)state;
  allowed = LEVEL_NO_TILES;
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(norm_of_groups),
      cmocka_unit_test(rope_over_axes),
      cmocka_unit_test(growing_queries),
      cmocka_unit_test(products),
      cmocka_unit_test(attend_within),
      cmocka_unit_test(same_bits_within),
      cmocka_unit_test_setup_teardown(on_lesser_processors, reset_level, reset_level),
      cmocka_unit_test_setup_teardown(on_amx_tiles, reset_level, reset_level),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
