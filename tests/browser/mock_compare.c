/* Twelve runs of three classes in two looks. Runs of one class share half of their head scores, those of one look a
 * little, and the rest is noise; likeness is computed from the scores, the tests of it are made up. */
#include "browser/mock_compare.h"

#include <math.h>

#include "base/rng.h"
#include "store/run.h"

enum { N_RUN = 12, N_CLASS = 3, N_LOOK = 2, N_LAYER = 12, N_HEAD = 8, N = N_LAYER * N_HEAD, N_TOP = 10 };

static const char *const classes[N_CLASS] = {"cat", "truck", "<b>wine</b> & \"glass\""};
static const char *const looks[N_LOOK] = {"photo", "drawing"};

/* Runs are not stored class by class: compare.order brings them together. */
static int class_of(int run) { return run % N_CLASS; }
static int look_of(int run) { return run / N_CLASS % N_LOOK; }

/* Few large values among small ones, as head scores are. */
static double peaky(uint64_t stream, uint64_t index) { return pow(sl_rng_uniform(13, stream, index), 12); }

static void fill_scores(float score[N_RUN][N]) {
  for (int r = 0; r < N_RUN; r++) {
    for (int i = 0; i < N; i++) {
      score[r][i] = (float)(1.2 * peaky(1 + (uint64_t)class_of(r), (uint64_t)i) +
                            0.5 * peaky(11 + (uint64_t)look_of(r), (uint64_t)i) +
                            0.7 * peaky(21 + (uint64_t)r, (uint64_t)i) - 0.04);
    }
  }
}

static double cosine(const float *a, const float *b) {
  double ab = 0, aa = 0, bb = 0;
  for (int i = 0; i < N; i++) ab += a[i] * b[i], aa += a[i] * a[i], bb += b[i] * b[i];
  return ab / sqrt(aa * bb);
}

static int above(const float *a, int i) {
  int n = 0;
  for (int j = 0; j < N; j++) n += a[j] > a[i];
  return n;
}

static double rank_correlation(const float *a, const float *b) {
  double squares = 0;
  for (int i = 0; i < N; i++) squares += pow(above(a, i) - above(b, i), 2);
  return 1 - 6 * squares / ((double)N * (N * N - 1));
}

static double shared_top(const float *a, const float *b) {
  int both = 0, either = 0;
  for (int i = 0; i < N; i++) {
    const int n = (above(a, i) < N_TOP) + (above(b, i) < N_TOP);
    both += n == 2;
    either += n > 0;
  }
  return (double)both / either;
}

static sl_status put_likeness(sl_run *run, const char *name, double (*like)(const float *, const float *),
                              float score[N_RUN][N]) {
  float values[N_RUN * N_RUN];
  for (int i = 0; i < N_RUN * N_RUN; i++) values[i] = (float)like(score[i / N_RUN], score[i % N_RUN]);
  return sl_run_put(run, name, SL_F32, 2, (int64_t[]){N_RUN, N_RUN}, values);
}

static sl_status put_labels(sl_run *run) {
  int32_t of_class[N_RUN], look[N_RUN], order[N_RUN];
  int n = 0;
  for (int r = 0; r < N_RUN; r++) of_class[r] = class_of(r), look[r] = look_of(r);
  for (int c = 0; c < N_CLASS; c++) {
    for (int r = 0; r < N_RUN; r++)
      if (class_of(r) == c) order[n++] = r;
  }
  SL_TRY(sl_run_put(run, "compare.class", SL_I32, 1, (int64_t[]){N_RUN}, of_class));
  SL_TRY(sl_run_put(run, "compare.appearance", SL_I32, 1, (int64_t[]){N_RUN}, look));
  return sl_run_put(run, "compare.order", SL_I32, 1, (int64_t[]){N_RUN}, order);
}

static json_t *difference(double value, double low, double high, double p) {
  return json_pack("{s:f,s:f,s:f,s:f,s:f}", "value", value, "low", low, "high", high, "p", p, "effect", 4 * value);
}

/* One clear difference, one unclear, one without an interval. */
static json_t *tests_json(double ceiling) {
  json_t *none = json_pack("{s:f,s:n,s:n,s:f,s:n}", "value", -0.02, "low", "high", "p", 0.71, "effect");
  json_t *partial = json_pack("{s:o,s:o}", "class_given_visual", difference(0.31, 0.2, 0.42, 0.002),
                              "visual_given_class", difference(0.04, -0.1, 0.17, 0.4));
  json_t *tests = json_pack("{s:o,s:o,s:o,s:o,s:f,s:f}", "class", difference(0.27, 0.21, 0.35, 0.0005), "appearance",
                            difference(0.05, -0.03, 0.12, 0.19), "semantics", none, "partial", partial, "mean", 0.4,
                            "split_half", ceiling - 0.05);
  json_object_set_new(tests, "ceiling", ceiling < 0.9 ? json_null() : json_real(ceiling));
  return tests;
}

static json_t *compare_json(void) {
  json_t *runs = json_array(), *class_list = json_array(), *look_list = json_array();
  for (int r = 0; r < N_RUN; r++) {
    json_array_append_new(runs, json_pack("{s:o,s:s,s:s,s:i,s:s}", "dir", json_sprintf("runs/%02d/", r), "class",
                                          classes[class_of(r)], "appearance", looks[look_of(r)], "masks", 400, "answer",
                                          classes[class_of(r)]));
  }
  for (int c = 0; c < N_CLASS; c++) json_array_append_new(class_list, json_string(classes[c]));
  for (int k = 0; k < N_LOOK; k++) json_array_append_new(look_list, json_string(looks[k]));
  return json_pack("{s:o,s:o,s:o,s:i,s:o,s:o,s:o}", "runs", runs, "classes", class_list, "appearances", look_list, "top",
                   N_TOP, "cosine", tests_json(0.96), "spearman", tests_json(0.91), "jaccard", tests_json(0.7));
}

static void fill_json(json_t *root) {
  json_object_set_new(root, "sightline", json_string("0.1.0"));
  json_object_set_new(root, "command", json_pack("[s,s,s,s]", "sightline", "compare", "runs/00", "runs/01"));
  json_object_set_new(root, "model", json_pack("{s:s,s:s,s:i,s:i}", "name", "pocket-llava", "path", "models/pocket-llava",
                                               "n_layer", N_LAYER, "n_head", N_HEAD));
  json_object_set_new(root, "analyses", json_pack("{s:o}", "compare", compare_json()));
  json_object_set_new(root, "warnings", json_pack("[s]", "12 of 12 runs share a seed with another"));
}

sl_status mock_compare_write(const char *dir) {
  static float score[N_RUN][N];
  sl_run *run = NULL;
  SL_TRY(sl_run_new(&run, dir, true));
  fill_scores(score);
  fill_json(sl_run_json(run));
  sl_status status = sl_run_put(run, "compare.score", SL_F32, 3, (int64_t[]){N_RUN, N_LAYER, N_HEAD}, score);
  if (status == SL_OK) status = put_likeness(run, "compare.cosine", cosine, score);
  if (status == SL_OK) status = put_likeness(run, "compare.spearman", rank_correlation, score);
  if (status == SL_OK) status = put_likeness(run, "compare.jaccard", shared_top, score);
  if (status == SL_OK) status = put_labels(run);
  if (status == SL_OK) status = sl_run_commit(run);
  sl_run_free(run);
  return status;
}
