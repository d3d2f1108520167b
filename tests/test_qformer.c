/* The Q-Former: forward and gradient against transformers (tests/golden/qformer), gradient against finite differences
 * of our own forward, the fast backend against the reference at real head width. */
#include "nn_lab.h"

#include "nn/qformer.h"

#define GOLDEN_TOLERANCE 1e-4
#define N_LAYER 3

static const char *const backends[] = {"ref", "cpu"};
enum { N_BACKEND = 2 };

/* A lab with a Q-Former. lab.start: the features, as they are before a probe changes them; lab.w: weights of the sum
 * over the output that is differentiated. */
typedef struct former {
  lab lab; /* first: stages are given the lab alone */
  sl_safetensors *file;
  sl_qformer q;
  sl_qformer_layer layers[N_LAYER];
  sl_qformer_acts acts[N_LAYER];
  sl_ints ids;
  sl_mat features, d_out, d_features;
} former;

static void former_open(former *f, const char *backend, sl_compute compute) {
  *f = (former){.lab = lab_open_on(backend)};
  f->lab.compute = f->q.compute = compute;
  f->q.layers = f->layers;
  f->q.act = SL_ACT_GELU_ERF;
}

static void former_close(former *f) {
  lab_close(&f->lab);
  sl_safetensors_close(f->file);
}

static float *values_of(lab *l, sl_mat m) {
  float *values = test_calloc((size_t)m.rows * (size_t)m.cols, sizeof *values);
  read_mat(l, m, values);
  return values;
}

static sl_mat new_mat(lab *l, int rows, int cols, const float *values) {
  const sl_mat m = random_mat(l, rows, cols, 0, 0);
  if (values) write_mat(l, m, values);
  return m;
}

static sl_ints new_ints(lab *l, const int32_t *values, int count) {
  const sl_mat m = random_mat(l, 1, count + 1, 0, 0);
  sl_buffer_write(l->queue, m.buffer, 0, values, (size_t)count * sizeof *values);
  return (sl_ints){m.buffer, 0, count};
}

/* Memory for a text and features, once the weights are there: scratch is exactly what the header says. */
static void former_reserve(former *f, const int32_t *ids, int n_id, const float *features, int n_feature) {
  lab *l = &f->lab;
  const int n_query = f->q.queries.rows, n_row = n_query + n_id, d_feature = sl_weight_cols(f->layers[0].cross_kv);
  const int d_out = sl_weight_rows(f->q.projection);
  ASSERT_OK(sl_queue_reserve(l->queue, n_row > n_feature ? n_row : n_feature, 1024, 1024));
  int32_t numbers[64];
  for (int i = 0; i < 64; i++) numbers[i] = i;
  f->q.numbers = new_ints(l, numbers, n_row);
  f->ids = n_id > 0 ? new_ints(l, ids, n_id) : (sl_ints){0};
  l->start = new_mat(l, n_feature, d_feature, features);
  f->features = new_mat(l, n_feature, d_feature, NULL);
  f->d_features = new_mat(l, n_feature, d_feature, NULL);
  l->out = new_mat(l, n_query, d_out, NULL);
  f->d_out = new_mat(l, n_query, d_out, NULL);
  sl_buffer_free(l->scratch.buffer);
  l->scratch = (sl_scratch){.capacity = sl_qformer_scratch(&f->q, n_row, n_feature, true)};
  ASSERT_OK(sl_buffer_new(&l->scratch.buffer, l->backend, (size_t)l->scratch.capacity * sizeof(float), "scratch"));
  const int64_t before = 5 * 16, kept = sl_qformer_keep(NULL, &f->q, NULL, before, n_row, n_feature);
  sl_buffer *buffer = new_mat(l, 1, (int)(before + kept), NULL).buffer;
  assert_int_equal(sl_qformer_keep(f->acts, &f->q, buffer, before, n_row, n_feature), kept);
}

static double former_forward(lab *l, const sl_probe *probe, bool keep) {
  former *f = (former *)l;
  const sl_context c = context_of(l, probe);
  c.ops->copy(l->queue, f->features, l->start);
  ASSERT_OK(sl_qformer_forward(&c, &f->q, l->out, f->features, f->ids, keep ? f->acts : NULL, NULL));
  return weigh(l, l->out);
}

static void former_backward(lab *l, const sl_probe *probe) {
  former *f = (former *)l;
  const sl_context c = context_of(l, probe);
  set_gradient(l, f->d_out);
  ASSERT_OK(sl_qformer_backward(&c, &f->q, f->d_features, f->d_out, f->features, l->out, f->acts, NULL));
}

/* ---- the golden Q-Former, under a checkpoint's names ---- */

#define MAX_PART 3

static const sl_tensor *find_weight(const former *f, const char *first, const char *last) {
  char name[200];
  snprintf(name, sizeof name, "%s%s", first, last);
  const sl_tensor *t = sl_safetensors_find(f->file, name);
  if (!t) fail_msg("no tensor %s", name);
  return t;
}

/* Tensors of the NULL-ended `names` behind `prefix`, one after another: matrices as a weight, vectors as a row. */
static sl_weight *load_weight(former *f, const char *prefix, const char *const names[]) {
  sl_tensor parts[MAX_PART];
  int n = 0;
  for (; names[n]; n++) parts[n] = *find_weight(f, prefix, names[n]);
  lab *l = &f->lab;
  sl_weight *weight = NULL;
  ASSERT_OK(sl_weight_new(&weight, l->backend, l->compute, parts, n));
  return l->weights[l->n_weight++] = weight;
}

static sl_mat load_row(former *f, const char *prefix, const char *const names[]) {
  float values[64];
  int at = 0;
  for (int n = 0; names[n]; n++) {
    const sl_tensor *t = find_weight(f, prefix, names[n]);
    assert_true(at + t->shape[0] <= 64);
    sl_convert_to_f32(values + at, t->data, t->dtype, t->shape[0]);
    at += (int)t->shape[0];
  }
  return new_mat(&f->lab, 1, at, values);
}

/* The last two axes of a tensor. */
static sl_mat load_mat(former *f, const char *name) {
  const sl_tensor *t = find_weight(f, "", name);
  return new_mat(&f->lab, (int)t->shape[t->n_dim - 2], (int)t->shape[t->n_dim - 1], t->data);
}

#define NAMES(...) ((const char *const[]){__VA_ARGS__, NULL})

static sl_qformer_output load_output(former *f, const char *layer, const char *name) {
  char prefix[128];
  snprintf(prefix, sizeof prefix, "%s%s.", layer, name);
  return (sl_qformer_output){load_weight(f, prefix, NAMES("dense.weight")), load_row(f, prefix, NAMES("dense.bias")),
                             load_row(f, prefix, NAMES("LayerNorm.weight")),
                             load_row(f, prefix, NAMES("LayerNorm.bias"))};
}

static void load_layer(former *f, int il) {
  sl_qformer_layer *w = &f->layers[il];
  char p[64];
  snprintf(p, sizeof p, "qformer.encoder.layer.%d.", il);
  w->qkv = load_weight(f, p, NAMES("attention.attention.query.weight", "attention.attention.key.weight",
                                   "attention.attention.value.weight"));
  w->qkv_b = load_row(f, p, NAMES("attention.attention.query.bias", "attention.attention.key.bias",
                                  "attention.attention.value.bias"));
  w->self = load_output(f, p, "attention.output");
  w->query_mlp = (sl_qformer_mlp){load_weight(f, p, NAMES("intermediate_query.dense.weight")),
                                  load_row(f, p, NAMES("intermediate_query.dense.bias")),
                                  load_output(f, p, "output_query")};
  w->text_mlp = (sl_qformer_mlp){load_weight(f, p, NAMES("intermediate.dense.weight")),
                                 load_row(f, p, NAMES("intermediate.dense.bias")), load_output(f, p, "output")};
  if (!sl_qformer_crosses(&f->q, il)) return;
  w->cross_q = load_weight(f, p, NAMES("crossattention.attention.query.weight"));
  w->cross_q_b = load_row(f, p, NAMES("crossattention.attention.query.bias"));
  w->cross_kv = load_weight(f, p, NAMES("crossattention.attention.key.weight",
                                        "crossattention.attention.value.weight"));
  w->cross_kv_b = load_row(f, p, NAMES("crossattention.attention.key.bias", "crossattention.attention.value.bias"));
  w->cross = load_output(f, p, "crossattention.output");
}

/* One of the file's texts, ready to run. */
static void load_golden(former *f, const char *backend, const char *text) {
  former_open(f, backend, SL_COMPUTE_F32);
  ASSERT_OK(sl_safetensors_open(&f->file, GOLDEN_DIR "/qformer/qformer.safetensors"));
  memcpy(&f->q.n_head, find_weight(f, "n_head", "")->data, sizeof(int32_t));
  memcpy(&f->q.cross_every, find_weight(f, "cross_every", "")->data, sizeof(int32_t));
  memcpy(&f->q.eps, find_weight(f, "eps", "")->data, sizeof(float));
  f->q.queries = load_mat(f, "query_tokens");
  f->q.n_layer = N_LAYER;
  f->q.d_head = f->q.queries.cols / f->q.n_head;
  f->q.words = load_weight(f, "qformer.embeddings.", NAMES("word_embeddings.weight"));
  f->q.positions = load_mat(f, "qformer.embeddings.position_embeddings.weight");
  f->q.norm_w = load_row(f, "qformer.embeddings.", NAMES("layernorm.weight"));
  f->q.norm_b = load_row(f, "qformer.embeddings.", NAMES("layernorm.bias"));
  f->q.projection = load_weight(f, "language_projection.", NAMES("weight"));
  f->q.projection_b = load_row(f, "language_projection.", NAMES("bias"));
  for (int il = 0; il < f->q.n_layer; il++) load_layer(f, il);
  char name[32];
  snprintf(name, sizeof name, "%s/ids", text);
  const sl_tensor *ids = sl_safetensors_find(f->file, name), *features = find_weight(f, "features", "");
  former_reserve(f, ids ? ids->data : NULL, ids ? (int)ids->shape[0] : 0, features->data, (int)features->shape[0]);
  snprintf(name, sizeof name, "%s/", text);
  const sl_tensor *w = find_weight(f, name, "weight");
  f->lab.w = calloc((size_t)sl_tensor_count(w), sizeof *f->lab.w);
  sl_convert_to_f32(f->lab.w, w->data, w->dtype, sl_tensor_count(w));
}

/* ---- against transformers ---- */

typedef struct comparison {
  former *f;
  const char *text;
  int n_compared;
} comparison;

static void compare(const comparison *with, const char *what, sl_mat value, const sl_tensor *want) {
  lab *l = &with->f->lab;
  assert_int_equal((int64_t)value.rows * value.cols, sl_tensor_count(want));
  float *got = values_of(l, value);
  const double distance = golden_distance(got, want);
  test_free(got);
  if (getenv("SL_TEST_VERBOSE")) fprintf(stderr, "%s %s: %.2g\n", with->text, what, distance);
  if (!(distance <= GOLDEN_TOLERANCE))
    fail_msg("%s, text %s: %s is the first to diverge, by %.2g of its largest value", sl_backend_name(l->backend),
             with->text, what, distance);
}

static bool wants_forward(void *user, sl_part part, sl_site site, int layer, bool backwards) {
  (void)user, (void)site, (void)layer;
  return part == SL_PART_PROJECTOR && !backwards;
}

static void see_forward(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                        sl_mat grad) {
  (void)queue, (void)grad;
  comparison *with = user;
  assert_int_equal(first_row, 0);
  assert_true(sl_site_get(site)->in_part[part]);
  char name[64], full[96];
  sl_site_name(name, part, site, layer);
  snprintf(full, sizeof full, "%s/%s", with->text, name);
  const sl_tensor *want = sl_safetensors_find(with->f->file, full);
  if (!want) return;
  compare(with, name, value, want);
  with->n_compared++;
}

static void as_transformers(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int n_site; /* that the file has */
  } cases[] = {{"long", 2 + 3 * 3 + 2}, {"short", 2 + 3}, {"none", 2 + 3}};
  for (int b = 0; b < N_BACKEND; b++)
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
      former f;
      load_golden(&f, backends[b], cases[i].text);
      comparison with = {.f = &f, .text = cases[i].text};
      const sl_probe probe = {.user = &with, .wants = wants_forward, .see = see_forward};
      former_forward(&f.lab, &probe, true);
      assert_int_equal(with.n_compared, cases[i].n_site);
      former_backward(&f.lab, NULL);
      char prefix[32];
      snprintf(prefix, sizeof prefix, "%s/", cases[i].text);
      compare(&with, "the features' gradient", f.d_features, find_weight(&f, prefix, "gradient"));
      former_close(&f);
    }
}

/* ---- against finite differences ---- */

static void gradient_of_features(void **state) {
  (void)state;
  for (int b = 0; b < N_BACKEND; b++) {
    former f;
    load_golden(&f, backends[b], "long");
    /* features, output, and the middle of every layer */
    check_stage(&f.lab, &(stage){backends[b], former_forward, former_backward}, 2 + N_LAYER, TOLERANCE);
    former_close(&f);
  }
}

/* ---- memory and cancellation ---- */

static void keeping_changes_nothing(void **state) {
  (void)state;
  former f;
  load_golden(&f, "cpu", "short");
  const sl_mat out = f.lab.out;
  former_forward(&f.lab, NULL, true);
  float *kept = values_of(&f.lab, out);
  former_forward(&f.lab, NULL, false);
  float *plain = values_of(&f.lab, out);
  assert_memory_equal(kept, plain, (size_t)(out.rows * out.cols) * sizeof *kept);
  test_free(kept);
  test_free(plain);
  former_close(&f);
}

static void cancel_stops(void **state) {
  (void)state;
  former f;
  load_golden(&f, "ref", "none");
  atomic_bool stop = true;
  const sl_context c = context_of(&f.lab, NULL);
  const sl_mat out = f.lab.out;
  assert_int_equal(sl_qformer_forward(&c, &f.q, out, f.features, f.ids, NULL, &stop), SL_ERROR_CANCELLED);
  assert_int_equal(sl_qformer_backward(&c, &f.q, f.d_features, f.d_out, f.features, out, f.acts, &stop),
                   SL_ERROR_CANCELLED);
  former_close(&f);
}

/* ---- the fast backend at real head width, 64, and rows enough for its tiles ---- */

enum { WIDE = 192, WIDE_MLP = 200, WIDE_FEATURE = 88, WIDE_OUT = 136 };
enum { WIDE_QUERIES = 32, WIDE_TEXT = 21, WIDE_ROWS = 65 };

static sl_qformer_output random_output(lab *l, int in) {
  return (sl_qformer_output){random_weight(l, WIDE, in), random_mat(l, 1, WIDE, 0, 0.2), random_mat(l, 1, WIDE, 1, 0.2),
                             random_mat(l, 1, WIDE, 0, 0.2)};
}

static sl_qformer_mlp random_mlp(lab *l) {
  return (sl_qformer_mlp){random_weight(l, WIDE_MLP, WIDE), random_mat(l, 1, WIDE_MLP, 0, 0.2),
                          random_output(l, WIDE_MLP)};
}

static void random_layer(former *f, int il) {
  lab *l = &f->lab;
  sl_qformer_layer *w = &f->layers[il];
  w->qkv = random_weight(l, 3 * WIDE, WIDE);
  w->qkv_b = random_mat(l, 1, 3 * WIDE, 0, 0.2);
  w->self = random_output(l, WIDE);
  w->query_mlp = random_mlp(l);
  w->text_mlp = random_mlp(l);
  if (!sl_qformer_crosses(&f->q, il)) return;
  w->cross_q = random_weight(l, WIDE, WIDE);
  w->cross_q_b = random_mat(l, 1, WIDE, 0, 0.2);
  w->cross_kv = random_weight(l, 2 * WIDE, WIDE_FEATURE);
  w->cross_kv_b = random_mat(l, 1, 2 * WIDE, 0, 0.2);
  w->cross = random_output(l, WIDE);
}

static void random_former(former *f, const char *backend, sl_compute compute) {
  former_open(f, backend, compute);
  lab *l = &f->lab;
  f->q.n_layer = 2;
  f->q.n_head = WIDE / 64;
  f->q.d_head = 64;
  f->q.cross_every = 2;
  f->q.eps = 1e-12f;
  f->q.queries = random_mat(l, WIDE_QUERIES, WIDE, 0, 1);
  f->q.words = random_weight(l, 40, WIDE);
  f->q.positions = random_mat(l, 32, WIDE, 0, 0.1);
  f->q.norm_w = random_mat(l, 1, WIDE, 1, 0.2);
  f->q.norm_b = random_mat(l, 1, WIDE, 0, 0.2);
  f->q.projection = random_weight(l, WIDE_OUT, WIDE);
  f->q.projection_b = random_mat(l, 1, WIDE_OUT, 0, 0.2);
  for (int il = 0; il < f->q.n_layer; il++) random_layer(f, il);
  int32_t ids[WIDE_TEXT];
  for (int i = 0; i < WIDE_TEXT; i++) ids[i] = i * 7 % 40;
  const sl_mat features = random_mat(l, WIDE_ROWS, WIDE_FEATURE, 0, 1);
  former_reserve(f, ids, WIDE_TEXT, NULL, WIDE_ROWS);
  l->start = features;
  random_sum(l, WIDE_QUERIES, WIDE_OUT);
}

/* Largest |a - b| over the largest |b|. */
static double distance_between(const float *a, const float *b, int count) {
  const sl_tensor want = {.data = b, .dtype = SL_F32, .n_dim = 1, .shape = {count}};
  return golden_distance(a, &want);
}

static void backends_agree(void **state) {
  (void)state;
  /* With bf16 a value at a rounding boundary may fall on the other side, 4e-3 of it, and more values follow it. */
  static const double tolerance[SL_COMPUTE_COUNT] = {
      [SL_COMPUTE_F32] = 1e-5, [SL_COMPUTE_BF16X2] = 1e-4, [SL_COMPUTE_BF16] = 2e-2};
  for (int compute = 0; compute < SL_COMPUTE_COUNT; compute++) {
    float *out[N_BACKEND], *gradient[N_BACKEND];
    for (int b = 0; b < N_BACKEND; b++) {
      former f;
      random_former(&f, backends[b], (sl_compute)compute);
      former_forward(&f.lab, NULL, true);
      former_backward(&f.lab, NULL);
      out[b] = values_of(&f.lab, f.lab.out);
      gradient[b] = values_of(&f.lab, f.d_features);
      former_close(&f);
    }
    const double forward_error = distance_between(out[1], out[0], WIDE_QUERIES * WIDE_OUT);
    const double backward_error = distance_between(gradient[1], gradient[0], WIDE_ROWS * WIDE_FEATURE);
    if (getenv("SL_TEST_VERBOSE")) fprintf(stderr, "mode %d: %.2g, %.2g\n", compute, forward_error, backward_error);
    if (!(forward_error <= tolerance[compute]) || !(backward_error <= tolerance[compute]))
      fail_msg("%s: cpu and ref differ by %.2g in the output, %.2g in the gradient",
               sl_compute_name((sl_compute)compute), forward_error, backward_error);
    for (int b = 0; b < N_BACKEND; b++) {
      test_free(out[b]);
      test_free(gradient[b]);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(as_transformers),         cmocka_unit_test(gradient_of_features),
      cmocka_unit_test(keeping_changes_nothing), cmocka_unit_test(cancel_stops),
      cmocka_unit_test(backends_agree),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
