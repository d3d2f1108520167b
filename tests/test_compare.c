/* compare: run directories with scores that are known, likeness and tests by hand and by exact enumeration. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/json.h"
#include "base/rng.h"
#include "base/text.h"
#include "sightline/compare.h"
#include "store/run.h"

enum { L = 2, H = 4, N = L * H, M = 400 };

static char root[] = "/tmp/sl-compare-XXXXXX";

static void assert_near(double value, double expected, double tolerance) {
  if (!(fabs(value - expected) <= tolerance)) fail_msg("%.12g, expected %.12g within %g", value, expected, tolerance);
}

static char *path_of(const char *name) {
  static char path[6][256];
  static int at;
  at = (at + 1) % 6;
  snprintf(path[at], sizeof path[at], "%s/%s", root, name);
  return path[at];
}

/* What a run directory is made of; zeros are left out or get defaults. */
typedef struct spec {
  const char *name, *hash, *target, *baseline;
  const float *score; /* [N] */
  const float *feature; /* [3] */
  bool masks;           /* with targets of exactly these scores plus `noise` */
  double noise;
} spec;

static void put_masks(sl_run *run, const spec *s) {
  static uint8_t masks[M * N];
  static float target[M];
  for (int j = 0; j < M; j++) {
    target[j] = (float)(1 + s->noise * sl_rng_normal(7, 1, (uint64_t)j));
    for (int h = 0; h < N; h++) {
      masks[j * N + h] = sl_rng_u64(7, 0, (uint64_t)(j * N + h)) >> 63;
      target[j] += masks[j * N + h] * s->score[h];
    }
  }
  assert_int_equal(sl_run_put(run, "heads.masks", SL_U8, 2, (int64_t[]){M, N}, masks), SL_OK);
  assert_int_equal(sl_run_put(run, "heads.target", SL_F32, 1, (int64_t[]){M}, target), SL_OK);
}

static void make_run(spec s) {
  sl_run *run = NULL;
  if (sl_run_new(&run, path_of(s.name), true) != SL_OK) fail_msg("%s", sl_error_message());
  json_t *heads = json_pack("{s:s, s:{s:s}, s:{s:f, s:s, s:f, s:i}}", "target", s.target ? s.target : "logit",
                            "baseline", "kind", s.baseline ? s.baseline : "block", "regression", "keep_probability",
                            0.5, "solver", "ridge", "penalty", 0.01, "train", M * 8 / 10);
  json_t *model = json_pack("{s:s, s:s}", "name", "m", "hash", s.hash ? s.hash : "1234");
  json_object_set_new(sl_run_json(run), "sightline", json_string("0"));
  json_object_set_new(sl_run_json(run), "model", model);
  json_object_set_new(sl_run_json(run), "analyses", json_pack("{s:o}", "heads", heads));
  if (s.score) assert_int_equal(sl_run_put(run, "heads.score", SL_F32, 2, (int64_t[]){L, H}, s.score), SL_OK);
  if (s.masks) put_masks(run, &s);
  if (s.feature) assert_int_equal(sl_run_put(run, "image.feature", SL_F32, 1, (int64_t[]){3}, s.feature), SL_OK);
  if (sl_run_commit(run) != SL_OK) fail_msg("%s", sl_error_message());
  sl_run_free(run);
}

static sl_status compare(sl_compare_request r, json_t **said) {
  char *summary = NULL;
  json_t *all = NULL;
  r.size = sizeof r;
  r.no_report = true;
  const sl_status status = sl_compare(&r, &summary);
  sl_alloc_fail_at(0); /* what follows is the test's own */
  if (said) *said = NULL;
  if (status != SL_OK) assert_null(summary);
  if (status == SL_OK && said) {
    assert_int_equal(sl_json_parse(&all, summary, strlen(summary), "summary"), SL_OK);
    *said = json_incref(sl_json_at(all, "analyses.compare"));
    json_decref(all);
  }
  free(summary);
  return status;
}

static double real(json_t *said, const char *path) {
  json_t *value = sl_json_at(said, path);
  return json_is_number(value) ? json_number_value(value) : NAN;
}

/* Six runs: cats use head 1 (and a little of 2), dogs head 5; two of each class are photos. */
static const float scores[6][N] = {{0, 3, 1, 0, 0, 0, 0, 0}, {0, 3, 0, 1, 0, 0, 0, 0}, {0, 3, 0, 0, 1, 0, 0, 0},
                                   {1, 0, 0, 0, 0, 3, 0, 0}, {0, 0, 0, 0, 0, 3, 1, 0}, {0, 0, 0, 0, 0, 3, 0, 1}};
static const char *const names[6] = {"a", "b", "c", "d", "e", "f"};

static void make_six(const float (*features)[3]) {
  for (int i = 0; i < 6; i++)
    make_run((spec){.name = names[i], .score = scores[i], .masks = true, .feature = features ? features[i] : NULL});
}

static void six_paths(const char **runs) {
  static char paths[6][256];
  for (int i = 0; i < 6; i++) {
    snprintf(paths[i], sizeof paths[i], "%s/%s", root, names[i]);
    runs[i] = paths[i];
  }
}

static void classes_by_hand(void **state) {
  (void)state;
  const char *runs[6], *classes[] = {"cat", "cat", "cat", "dog", "dog", "dog"};
  json_t *said;
  make_six(NULL);
  six_paths(runs);
  sl_compare_request r = {.runs = runs, .n_run = 6, .classes = classes, .out_dir = path_of("out"), .force = true,
                          .n_top = 2};
  assert_int_equal(compare(r, &said), SL_OK);
  /* inside a class 9 / 10, between 0; top two: head 1 of heads {1, 2, 3} in common, nothing between */
  assert_near(real(said, "cosine.class.within.mean"), 0.9, 1e-6);
  assert_int_equal(json_integer_value(sl_json_at(said, "cosine.class.within.pairs")), 6);
  assert_near(real(said, "cosine.class.between.mean"), 0, 1e-6);
  assert_int_equal(json_integer_value(sl_json_at(said, "cosine.class.between.pairs")), 9);
  assert_near(real(said, "cosine.class.value"), 0.9, 1e-6);
  assert_near(real(said, "jaccard.class.within.mean"), 1.0 / 3, 1e-6);
  assert_near(real(said, "cosine.mean"), 0.9 * 6 / 15, 1e-6);
  /* of the 20 ways to call three runs cats, 2 are as far apart as this */
  assert_near(real(said, "cosine.class.p"), 0.1, 4 * sqrt(0.1 * 0.9 / 2000));
  assert_true(real(said, "cosine.class.low") > 0.8);
  assert_null(sl_json_at(said, "cosine.appearance"));
  assert_null(sl_json_at(said, "cosine.partial"));
  /* targets without noise: both halves give the run's scores */
  assert_near(real(said, "cosine.split_half"), 1, 1e-5);
  assert_near(real(said, "cosine.ceiling"), 1, 1e-5);
  assert_true(isnan(real(said, "jaccard.ceiling")));
  json_decref(said);
  sl_run_reader *out = NULL;
  const sl_tensor *cosine, *order;
  assert_int_equal(sl_run_open(&out, r.out_dir), SL_OK);
  assert_int_equal(sl_run_get(out, "compare.cosine", &cosine), SL_OK);
  assert_int_equal(sl_run_get(out, "compare.order", &order), SL_OK);
  const float *c = cosine->data;
  const int32_t *o = order->data;
  assert_near(c[0], 1, 1e-6);
  assert_near(c[1], 0.9, 1e-6);
  assert_near(c[3], 0, 1e-6);
  int seen = 0;
  for (int i = 0; i < 6; i++) {
    seen |= 1 << o[i];
    assert_true(o[i] / 3 == i / 3); /* cats, then dogs */
  }
  assert_int_equal(seen, 63);
  sl_run_close(out);
}

/* Without classes the order comes from the likeness alone: interleaved runs are drawn side by side. */
static void order_without_classes(void **state) {
  (void)state;
  const char *runs[6], *mixed[6];
  six_paths(runs);
  for (int i = 0; i < 6; i++) mixed[i] = runs[i % 2 * 3 + i / 2]; /* a d b e c f */
  sl_compare_request r = {.runs = mixed, .n_run = 6, .out_dir = path_of("out"), .force = true};
  assert_int_equal(compare(r, NULL), SL_OK);
  sl_run_reader *out = NULL;
  const sl_tensor *order;
  assert_int_equal(sl_run_open(&out, r.out_dir), SL_OK);
  assert_int_equal(sl_run_get(out, "compare.order", &order), SL_OK);
  const int32_t *o = order->data;
  for (int i = 0; i < 3; i++) assert_true(o[i] % 2 == o[0] % 2 && o[i + 3] % 2 != o[0] % 2);
  sl_run_close(out);
}

/* Scores go by class, looks by appearance: semantics wins, appearance has no effect, and partial correlation agrees. */
static void semantics_not_appearance(void **state) {
  (void)state;
  static const float features[6][3] = {{1, 0, 0}, {1, 0.1f, 0}, {-1, 0, 0.1f}, {1, 0, 0.1f}, {-1, 0.1f, 0}, {-1, 0, 0}};
  const char *runs[6];
  json_t *said;
  make_six(features);
  six_paths(runs);
  sl_text lines = {0};
  for (int i = 0; i < 6; i++)
    sl_text_format(&lines, "{\"run\": \"%s\", \"class\": \"%s\", \"appearance\": \"%s\"}\n%s", names[i],
                   i < 3 ? "cat" : "dog", features[i][0] > 0 ? "photo" : "drawing", i == 2 ? "\n" : "");
  const char *labels = path_of("labels.jsonl");
  assert_int_equal(sl_file_write(labels, lines.data, lines.length), SL_OK);
  sl_text_dispose(&lines);
  const sl_compare_request r = {.runs = runs, .n_run = 6, .labels_path = labels};
  assert_int_equal(compare(r, &said), SL_OK);
  assert_near(real(said, "cosine.semantics.value"), 0.9, 1e-6);
  /* of the 9 ways to call two photos and one drawing cats, this alone is as far */
  assert_near(real(said, "cosine.semantics.p"), 1.0 / 9, 4 * sqrt(8.0 / 81 / 2000));
  assert_near(real(said, "cosine.appearance.value"), 0, 1e-6);
  assert_near(real(said, "cosine.appearance.p"), 1, 1e-9);
  assert_near(real(said, "cosine.partial.class_given_visual.value"), 1, 1e-6);
  assert_true(isnan(real(said, "cosine.partial.visual_given_class.value"))); /* class leaves nothing to explain */
  json_decref(said);
}

/* Three runs have three pairs: no partial correlation, and no intervals from the few draws that hold all three. */
static void three_runs_say_little(void **state) {
  (void)state;
  static const float features[6][3] = {{1, 0, 0}, {0.2f, 1, 0}, {-1, 0.5f, 0.1f}, {1, 0, 0.1f}, {-1, 0.1f, 0}, {-1, 0, 0}};
  const char *runs[6], *three[3], *classes[] = {"cat", "cat", "dog"};
  json_t *said;
  make_six(features);
  six_paths(runs);
  for (int i = 0; i < 3; i++) three[i] = runs[i < 2 ? i : 4];
  const sl_compare_request r = {.runs = three, .n_run = 3, .classes = classes};
  assert_int_equal(compare(r, &said), SL_OK);
  assert_near(real(said, "cosine.class.value"), 0.9, 1e-6);
  assert_true(isnan(real(said, "cosine.class.low")));
  assert_non_null(sl_json_at(said, "cosine.partial.class_given_visual"));
  assert_true(isnan(real(said, "cosine.partial.class_given_visual.value")));
  assert_true(isnan(real(said, "cosine.partial.visual_given_class.value")));
  json_decref(said);
}

/* Four runs have six pairs, but a draw of three of them has three: none of the replicates is 1 because it must be. */
static void draws_of_three_pairs_are_left_out(void **state) {
  (void)state;
  static const float features[6][3] = {{1, 0, 0}, {0.2f, 1, 0}, {-1, 0.5f, 0.1f}, {1, 0, 0.1f}, {-1, 0.1f, 0.7f}, {-1, 0, 0}};
  const char *runs[6], *four[4], *classes[] = {"cat", "cat", "dog", "dog"};
  json_t *said;
  make_six(features);
  six_paths(runs);
  for (int i = 0; i < 4; i++) four[i] = runs[i < 2 ? i : i + 1];
  const sl_compare_request r = {.runs = four, .n_run = 4, .classes = classes};
  assert_int_equal(compare(r, &said), SL_OK);
  assert_near(real(said, "cosine.partial.class_given_visual.value"), 1, 1e-6);
  assert_true(isnan(real(said, "cosine.partial.class_given_visual.low")));
  json_decref(said);
}

/* Noise in the targets lowers the ceiling of a run with weak scores. */
static void ceiling_tells_noise(void **state) {
  (void)state;
  const char *runs[] = {path_of("noisy"), path_of("a")};
  json_t *said;
  make_run((spec){.name = "noisy", .score = scores[0], .masks = true, .noise = 30});
  const sl_compare_request r = {.runs = runs, .n_run = 2, .out_dir = path_of("out"), .force = true};
  assert_int_equal(compare(r, &said), SL_OK);
  json_decref(said);
  sl_run_reader *out = NULL;
  const sl_tensor *ceiling;
  assert_int_equal(sl_run_open(&out, path_of("out")), SL_OK);
  assert_int_equal(sl_run_get(out, "compare.ceiling", &ceiling), SL_OK);
  const float *c = ceiling->data;
  assert_true(c[0] < 0.8f);
  assert_near(c[3], 1, 1e-5);
  sl_run_close(out);
}

static void refusals(void **state) {
  (void)state;
  make_run((spec){.name = "other", .score = scores[0], .hash = "9999"});
  make_run((spec){.name = "margin", .score = scores[0], .target = "margin"});
  make_run((spec){.name = "zero", .score = scores[0], .baseline = "zero"});
  make_run((spec){.name = "none"});
  static const struct {
    const char *name, *words;
  } cases[] = {{"other", "is of another model (m, 9999)"},
               {"margin", "target of heads is \"margin\""},
               {"zero", "baseline of heads is \"zero\""},
               {"none", "holds no heads.score"},
               {"missing", "No such file"},
               {"a", "is given twice"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char first[256], second[256];
    snprintf(first, sizeof first, "%s/a", root);
    snprintf(second, sizeof second, "%s/%s", root, cases[i].name);
    const char *runs[] = {first, second};
    assert_int_not_equal(compare((sl_compare_request){.runs = runs, .n_run = 2}, NULL), SL_OK);
    if (!strstr(sl_error_message(), cases[i].words) || !strstr(sl_error_message(), second))
      fail_msg("%s: %s", cases[i].name, sl_error_message());
  }
  const char *one[] = {path_of("a")};
  assert_int_equal(compare((sl_compare_request){.runs = one, .n_run = 1}, NULL), SL_ERROR_ARGUMENT);
}

static bool stop(void *user, const char *what, double done, double total) {
  (void)user, (void)what, (void)done, (void)total;
  return false;
}

static void cancelled(void **state) {
  (void)state;
  const char *runs[6], *out = path_of("cancelled");
  six_paths(runs);
  assert_int_equal(compare((sl_compare_request){.runs = runs, .n_run = 6, .out_dir = out, .progress = stop}, NULL),
                   SL_ERROR_CANCELLED);
  assert_int_not_equal(access(out, F_OK), 0);
}

static void out_of_memory(void **state) {
  (void)state;
  const char *runs[6], *classes[] = {"cat", "cat", "cat", "dog", "dog", "dog"};
  six_paths(runs);
  sl_status status = SL_ERROR_MEMORY;
  for (int n = 1; status != SL_OK && n < 400; n++) {
    sl_alloc_fail_at(n);
    status = compare((sl_compare_request){.runs = runs, .n_run = 2, .classes = classes}, NULL);
    assert_true(n > 60 || status != SL_OK);
    if (status != SL_OK) assert_int_equal(status, SL_ERROR_MEMORY);
  }
  assert_int_equal(status, SL_OK);
}

static int make_root(void **state) {
  (void)state;
  return mkdtemp(root) == NULL;
}

static int remove_root(void **state) {
  (void)state;
  char command[300];
  snprintf(command, sizeof command, "rm -r '%s'", root);
  return system(command);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(classes_by_hand),     cmocka_unit_test(order_without_classes),
      cmocka_unit_test(semantics_not_appearance), cmocka_unit_test(three_runs_say_little),
      cmocka_unit_test(draws_of_three_pairs_are_left_out),
      cmocka_unit_test(ceiling_tells_noise),
      cmocka_unit_test(refusals),            cmocka_unit_test(cancelled),
      cmocka_unit_test(out_of_memory),
  };
  return cmocka_run_group_tests(tests, make_root, remove_root);
}
