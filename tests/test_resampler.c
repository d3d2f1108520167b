/* nn/: Qwen-VL's resampler against PyTorch's LayerNorm and MultiheadAttention in f64 (constants below) and finite
 * differences; positions against PyTorch's bicubic interpolate. */
#include "nn_lab.h"

#include "nn/positions.h"
#include "nn/resampler.h"

enum { DV = 3, D = 4, HEADS = 2, T = 6, N = 2, D_OUT = 3 };

/* value i of an array: sin(phase + 0.37 i (1 + 0.01 i)) / 2, in PyTorch as here. */
static double wave(double phase, int i) { return 0.5 * sin(phase + 0.37 * i * (1 + 0.01 * i)); }

static sl_mat wave_mat(lab *l, int rows, int cols, double phase, double shift, double factor) {
  float host[64];
  const sl_mat m = random_mat(l, rows, cols, 0, 0);
  for (int i = 0; i < rows * cols; i++) host[i] = (float)(shift + factor * wave(phase, i));
  write_mat(l, m, host);
  return m;
}

/* [rows, cols], element i being value first + i of the array. */
static sl_weight *wave_weight(lab *l, int rows, int cols, double phase, int first) {
  float host[64];
  for (int i = 0; i < rows * cols; i++) host[i] = (float)wave(phase, first + i);
  const sl_tensor part = {.name = "w", .data = host, .dtype = SL_F32, .n_dim = 2, .shape = {rows, cols}};
  sl_weight *weight = NULL;
  ASSERT_OK(sl_weight_new(&weight, l->backend, SL_COMPUTE_F32, &part, 1));
  l->weights[l->n_weight++] = weight;
  return weight;
}

typedef struct world {
  lab l;
  sl_resampler r;
  sl_resampler_acts acts;
  sl_mat features;
} world;

static world *world_of(lab *l) { return (world *)(void *)l; } /* the lab stands first */

static void world_open(world *w, const char *backend, bool widens) {
  *w = (world){.l = lab_open_on(backend)};
  lab *l = &w->l;
  const int dv = widens ? DV : D;
  const sl_mat in_b = wave_mat(l, 1, 3 * D, 2, 0, 1);
  static const int32_t numbers[N] = {0, 1};
  const sl_mat places = random_mat(l, 1, N, 0, 0);
  sl_buffer_write(l->queue, places.buffer, 0, numbers, sizeof numbers);
  w->r = (sl_resampler){
      .n_head = HEADS, .d_head = D / HEADS, .eps = 1e-6f, .query = wave_mat(l, N, D, 8, 0, 1),
      .pos_q = wave_mat(l, N, D, 10, 0, 1), .pos_k = wave_mat(l, T, D, 11, 0, 1),
      .norm_kv_w = wave_mat(l, 1, D, 7, 1, 1), .norm_kv_b = wave_mat(l, 1, D, 7.5, 0, 1),
      .norm_q_w = wave_mat(l, 1, D, 9, 1, 1), .norm_q_b = wave_mat(l, 1, D, 9.5, 0, 1),
      .post_w = wave_mat(l, 1, D, 12, 1, 1), .post_b = wave_mat(l, 1, D, 12.5, 0, 1),
      .kv = widens ? wave_weight(l, D, DV, 6, 0) : NULL,
      .q = wave_weight(l, D, D, 1, 0), .k = wave_weight(l, D, D, 1, D * D), .v = wave_weight(l, D, D, 1, 2 * D * D),
      .o = wave_weight(l, D, D, 3, 0), .q_b = sl_mat_cols(in_b, 0, D), .k_b = sl_mat_cols(in_b, D, D),
      .v_b = sl_mat_cols(in_b, 2 * D, D), .o_b = wave_mat(l, 1, D, 4, 0, 1), .proj = wave_weight(l, D, D_OUT, 13, 0),
      .numbers = {places.buffer, 0, N}};
  if (widens) w->acts.wide = random_mat(l, T, D, 0, 9);
  w->acts.q = random_mat(l, N, D, 0, 9);
  w->acts.k = random_mat(l, T, D, 0, 9);
  w->acts.v = random_mat(l, T, D, 0, 9);
  w->acts.lse = random_mat(l, N, HEADS, 0, 9);
  w->acts.y = random_mat(l, N, D, 0, 9);
  w->features = wave_mat(l, T, dv, 5, 0, 2);
  l->n_row = T;
  l->x = random_mat(l, T, dv, 0, 1);
  l->d = random_mat(l, T, dv, 0, 1);
  l->out = random_mat(l, N, D_OUT, 0, 1);
  l->w = calloc(N * D_OUT, sizeof *l->w);
  for (int i = 0; i < N * D_OUT; i++) l->w[i] = (float)wave(14, i);
}

static double forward(lab *l, const sl_probe *probe, bool keep) {
  world *w = world_of(l);
  const sl_context c = context_of(l, probe);
  const bool pattern = sl_wants(&c, SL_PART_PROJECTOR, SL_SITE_RESAMPLER_PATTERN, 0, false);
  l->scratch.capacity = sl_resampler_forward_scratch(&w->r, T, pattern); /* what is promised must do */
  c.ops->copy(l->queue, l->x, w->features);
  sl_resampler_forward(&c, &w->r, l->out, l->x, keep ? &w->acts : NULL);
  return weigh(l, l->out);
}

static void backward(lab *l, const sl_probe *probe) {
  world *w = world_of(l);
  const sl_context c = context_of(l, probe);
  const sl_mat d_out = random_mat(l, N, D_OUT, 0, 1);
  set_gradient(l, d_out);
  l->scratch.capacity = sl_resampler_backward_scratch(&w->r, T);
  sl_resampler_backward(&c, &w->r, l->d, d_out, l->x, l->out, &w->acts);
}

static void gradients(void **state) {
  (void)state;
  for (int widens = 0; widens < 2; widens++) {
    world w;
    world_open(&w, "ref", widens);
    w.r.eps = 0.2f; /* smooth enough for differences of this step */
    const stage s = {widens ? "resampler" : "resampler of the tower's width", forward, backward};
    check_stage(&w.l, &s, 2, TOLERANCE);
    lab_close(&w.l);
  }
}

/* torch.nn.MultiheadAttention(4, 2) between layer_norm's, f64: out, pattern [H, N, T], gradient of sum(w out). */
static const double torch_out[N * D_OUT] = {1.2718711, 1.1022103, 0.72852795, 1.2894526, 1.1483164, 0.7962916};
static const double torch_pattern[HEADS * N * T] = {
    0.39708202, 0.075364684, 0.053879574, 0.17081416,  0.20941821, 0.093441355, 0.29930594,  0.12240412,
    0.09487683, 0.19140386,  0.1778636,   0.11414566,  0.31133307, 0.011990266, 0.012584546, 0.050026454,
    0.49335017, 0.12071549,  0.30289282,  0.028433153, 0.029095353, 0.080206529, 0.41143676, 0.14793539};
static const double torch_gradient[T * DV] = {
    -0.074674175,   0.019447892,  0.11159438,    -0.032679391, -0.01803475,  1.707936e-05,
    -0.0034449854,  -0.00010116074, 0.0033157099, -0.0052504207, 0.024014513, 0.049512054,
    -0.094763514,   -0.017309397, 0.064297853,   -0.020394402, 0.01431653,   0.047048744};

static void assert_all_near(const char *what, const float *found, const double *expected, int n, double tolerance) {
  for (int i = 0; i < n; i++)
    if (!(fabs((double)found[i] - expected[i]) <= tolerance))
      fail_msg("%s %d is %.9g, in PyTorch %.9g", what, i, (double)found[i], expected[i]);
}

static bool wants_pattern(void *user, sl_part part, sl_site site, int layer, bool backward_pass) {
  (void)user, (void)layer;
  return !backward_pass && part == SL_PART_PROJECTOR && site == SL_SITE_RESAMPLER_PATTERN;
}

typedef struct shown {
  lab *l;
  float pattern[HEADS * N * T];
  int n;
} shown;

static void see_pattern(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                        sl_mat grad) {
  (void)queue, (void)part, (void)site, (void)layer, (void)grad;
  shown *s = user;
  assert_int_equal(first_row, 0);
  assert_int_equal(value.rows, HEADS * N);
  assert_int_equal(value.cols, T);
  read_mat(s->l, value, s->pattern);
  s->n++;
}

static void as_in_pytorch(void **state) {
  (void)state;
  static const char *const backends[] = {"ref", "cpu"};
  for (int i = 0; i < 2; i++) {
    world w;
    world_open(&w, backends[i], true);
    float out[N * D_OUT], silent[N * D_OUT], gradient[T * DV];
    shown s = {.l = &w.l};
    const sl_probe probe = {.user = &s, .wants = wants_pattern, .see = see_pattern};
    forward(&w.l, &probe, false);
    read_mat(&w.l, w.l.out, out);
    assert_int_equal(s.n, 1);
    assert_all_near("output", out, torch_out, N * D_OUT, 2e-6);
    assert_all_near("pattern", s.pattern, torch_pattern, HEADS * N * T, 1e-6);
    forward(&w.l, NULL, true);
    backward(&w.l, NULL);
    read_mat(&w.l, w.l.out, silent);
    read_mat(&w.l, w.l.d, gradient);
    assert_memory_equal(out, silent, sizeof out); /* looking changes nothing */
    assert_all_near("gradient", gradient, torch_gradient, T * DV, 2e-6);
    lab_close(&w.l);
  }
}

/* torch.nn.functional.interpolate(mode="bicubic", align_corners=False) of 3 sin(0.9 i + 2.1 j), f64. */
static void positions(void **state) {
  (void)state;
  static const struct {
    int in_height, in_width, out_height, out_width, cols;
    double expected[20];
  } cases[] = {{2, 2, 4, 4, 1,
                {-0.60035755, 0.31961341, 1.8348597, 2.7548307, 0.50938991, 0.98955223, 1.7804078, 2.2605701, 2.3372093,
                 2.0929809, 1.6907223, 1.446494, 3.4469567, 2.7629197, 1.6362705, 0.95223342}},
               {3, 4, 5, 2, 2,
                {1.4390774, 1.9579728, 2.4656743, -3.298935, -0.52178481, 0.87476699, 0.84020583, -0.19925038,
                 -2.1876662, -0.53490775, -1.0763355, 2.8650898, 0.62788463, -0.84882445, -0.78800454, 0.060296133,
                 3.2812378, -0.80380531, -0.14327102, -2.8830534}}};
  for (size_t n = 0; n < sizeof cases / sizeof *cases; n++) {
    float in[24], out[20], same[24];
    const int cols = cases[n].cols, n_in = cases[n].in_height * cases[n].in_width;
    for (int i = 0; i < n_in * cols; i++) in[i] = (float)(3 * sin(0.9 * (i / cols) + 2.1 * (i % cols)));
    sl_positions_resample(out, cases[n].out_height, cases[n].out_width, in, cases[n].in_height, cases[n].in_width,
                          cols);
    assert_all_near("position", out, cases[n].expected, cases[n].out_height * cases[n].out_width * cols, 1e-6);
    sl_positions_resample(same, cases[n].in_height, cases[n].in_width, in, cases[n].in_height, cases[n].in_width, cols);
    assert_memory_equal(same, in, (size_t)(n_in * cols) * sizeof *in); /* the same grid: the same bits */
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(gradients), cmocka_unit_test(as_in_pytorch),
                                     cmocka_unit_test(positions)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
