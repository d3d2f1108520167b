/* Attribution by random ablation: masks, growth, curves on functions whose coefficients are known, and heads and tokens
 * on the golden checkpoints, held to plans that this file writes by itself. */
#include "golden.h"

#include <sys/stat.h>
#include <unistd.h>

#include "analysis/ablation.h"
#include "analysis/attribution_curve.h"
#include "analysis/head_patch.h"
#include "analysis/token_side.h"
#include "base/rng.h"
#include "input/image.h"
#include "sightline/sightline.h"
#include "stats/correlate.h"
#include "task/answer.h"

/* ---- functions of masks with known coefficients ---- */

typedef struct planted {
  int p;
  double (*value)(const uint8_t *mask, int p);
  int n_left;    /* masks until it is cancelled or out of time; -1 = never */
  bool cancels;
  int n_measured;
} planted;

static sl_status run_planted(void *user, const uint8_t *masks, int n_mask, double *target, int *n_done) {
  planted *f = user;
  for (*n_done = 0; *n_done < n_mask; ++*n_done) {
    if (f->n_left == 0 && f->cancels) return sl_fail(SL_ERROR_CANCELLED, "interrupted");
    if (f->n_left == 0) return SL_OK;
    target[*n_done] = f->value(masks + (size_t)*n_done * (size_t)f->p, f->p);
    f->n_measured++;
    if (f->n_left > 0) f->n_left--;
  }
  return SL_OK;
}

static double coefficient(int j) { return j % 7 == 3 ? 2.0 - 0.1 * j : 0; }

static double linear(const uint8_t *mask, int p) {
  double sum = 1.5;
  for (int j = 0; j < p; j++) sum += coefficient(j) * mask[j];
  return sum;
}

static double either(const uint8_t *mask, int p) {
  (void)p;
  return mask[0] || mask[1];
}

static double both(const uint8_t *mask, int p) {
  (void)p;
  return mask[0] && mask[1];
}

/* Nothing that a mask could predict. */
static double noise(const uint8_t *mask, int p) {
  uint64_t key = 0;
  for (int j = 0; j < p; j++) key = key * 3 + mask[j];
  return sl_rng_normal(99, 1, key);
}

static sl_attribution_request request_for(planted *f, int n_sample) {
  return (sl_attribution_request){.n_component = f->p, .seed = 5, .stream = 77, .keep = 0.5, .n_sample = n_sample,
                                  .solver = SL_REGRESS_RIDGE, .evaluate = {run_planted, f}, .prefix = "heads."};
}

static void masks_depend_on_seed_and_index_alone(void **state) {
  (void)state;
  enum { P = 40, M = 400 };
  bool dropped[P] = {[6] = true};
  sl_attribution_request r = {.n_component = P, .seed = 3, .stream = 9, .keep = 0.75};
  uint8_t masks[M][P], again[P];
  double kept = 0;
  for (int j = 0; j < M; j++) sl_mask_draw(masks[j], &r, j);
  for (int j = M - 1; j >= 0; j--) { /* in another order */
    sl_mask_draw(again, &r, j);
    assert_memory_equal(again, masks[j], P);
    for (int i = 0; i < P; i++) kept += again[i];
  }
  /* 16000 draws: five standard deviations are 0.017. */
  assert_true(fabs(kept / (M * P) - 0.75) < 0.017);
  r.dropped = dropped;
  for (int j = 0; j < M; j++) {
    sl_mask_draw(again, &r, j);
    for (int i = 0; i < P; i++) assert_int_equal(again[i], dropped[i] ? 1 : masks[j][i]);
  }
  r.dropped = NULL;
  r.seed++;
  sl_mask_draw(again, &r, 0);
  assert_memory_not_equal(again, masks[0], P);
  r.seed--, r.stream += M; /* another analysis */
  sl_mask_draw(again, &r, 0);
  assert_memory_not_equal(again, masks[0], P);
}

static void split_is_by_index(void **state) {
  (void)state;
  int n[3] = {0};
  for (int j = 0; j < 100; j++) n[sl_mask_part_of(j)]++;
  assert_int_equal(n[SL_MASKS_TRAIN], 80);
  assert_int_equal(n[SL_MASKS_VALID], 10);
  assert_int_equal(n[SL_MASKS_TEST], 10);
  assert_int_equal(sl_mask_part_of(7), SL_MASKS_TRAIN);
  assert_int_equal(sl_mask_part_of(18), SL_MASKS_VALID);
  assert_int_equal(sl_mask_part_of(29), SL_MASKS_TEST);
}

static void checkpoints_double(void **state) {
  (void)state;
  sl_attribution_request r = {.n_component = 96, .solver = SL_REGRESS_RIDGE};
  static const int want[] = {100, 200, 390, 770, 770};
  for (int s = 0; s < 5; s++) assert_int_equal(sl_growth_checkpoint(&r, 96, s), want[s]);
  assert_int_equal(sl_growth_most(&r), 770);
  r.n_sample = 250;
  assert_int_equal(sl_growth_checkpoint(&r, 96, 1), 200);
  assert_int_equal(sl_growth_checkpoint(&r, 96, 2), 250);
  r.n_sample = 5000; /* doubling goes on */
  assert_int_equal(sl_growth_checkpoint(&r, 96, 4), 1540);
  r.n_component = 12; /* few components: still enough to validate on */
  assert_int_equal(sl_growth_checkpoint(&r, 12, 0), 50);
  /* Least squares: three training masks a component from the first checkpoint on. */
  r.n_component = 96, r.solver = SL_REGRESS_LEAST_SQUARES;
  assert_int_equal(sl_masks_needed(&r, 96), 360);
  assert_int_equal(sl_growth_checkpoint(&r, 96, 0), 390);
}

static void planted_coefficients_are_found(void **state) {
  (void)state;
  static const struct {
    sl_regress_kind solver;
    double tolerance;
  } solvers[] = {{SL_REGRESS_LEAST_SQUARES, 1e-9}, {SL_REGRESS_RIDGE, 0.02}, {SL_REGRESS_LASSO, 0.02}};
  for (int s = 0; s < 3; s++) {
    planted f = {.p = 60, .value = linear, .n_left = -1};
    sl_attribution_request r = request_for(&f, 480);
    sl_attribution a;
    float score[60], error[60];
    r.solver = solvers[s].solver;
    r.all_samples = true;
    ASSERT_OK(sl_attribution_run(&a, &r));
    assert_true(a.fitted);
    assert_int_equal(a.n_mask, 480);
    assert_int_equal(f.n_measured, 480);
    sl_attribution_scores(&a, score, error);
    for (int j = 0; j < 60; j++) assert_true(fabs(score[j] - coefficient(j)) < solvers[s].tolerance + 1e-6);
    assert_true(a.test.pearson > 0.999 && a.test.spearman > 0.99 && a.test.r2 > 0.99);
    assert_int_equal(a.n_test, 48);
    for (int t = 0; t < 48; t++)
      assert_true(fabs(a.predicted[t] - a.target[10 * t + 9]) < 20 * solvers[s].tolerance + 1e-6);
    sl_attribution_dispose(&a);
  }
}

/* OR of two: E[t | m0 = 1] - E[t | m0 = 0] = 1 - q each; AND: q. Ablating one of an OR alone changes nothing. */
static void or_and_and_have_their_analytic_scores(void **state) {
  (void)state;
  static const double keeps[] = {0.5, 0.9};
  for (int k = 0; k < 2; k++) {
    for (int is_and = 0; is_and < 2; is_and++) {
      planted f = {.p = 20, .value = is_and ? both : either, .n_left = -1};
      sl_attribution_request r = request_for(&f, 4000);
      sl_attribution a;
      float score[20], error[20];
      r.keep = keeps[k], r.solver = SL_REGRESS_LEAST_SQUARES, r.all_samples = true;
      ASSERT_OK(sl_attribution_run(&a, &r));
      sl_attribution_scores(&a, score, error);
      for (int j = 0; j < 20; j++) {
        const double want = j > 1 ? 0 : is_and ? keeps[k] : 1 - keeps[k];
        assert_true(error[j] > 0 && fabs(score[j] - want) < 4 * (double)error[j]);
        assert_true(error[j] < 0.03);
      }
      sl_attribution_dispose(&a);
    }
  }
}

static void growth_stops(void **state) {
  (void)state;
  /* Exactly linear: the second checkpoint cannot be better. */
  planted f = {.p = 60, .value = linear, .n_left = -1};
  sl_attribution_request r = request_for(&f, 0);
  sl_attribution a;
  ASSERT_OK(sl_attribution_run(&a, &r));
  assert_int_equal(a.end, SL_GROWTH_CORRELATION);
  assert_true(a.n_mask < sl_growth_most(&r));
  assert_int_equal(a.n_mask, a.steps[a.n_step - 1].n_mask);
  assert_int_equal(f.n_measured, a.n_mask);
  for (int s = 1; s < a.n_step; s++) {
    const double rise = a.steps[s].valid.pearson - a.steps[s - 1].valid.pearson;
    assert_true(s + 1 < a.n_step ? rise >= SL_GROWTH_RISE : rise < SL_GROWTH_RISE);
  }
  sl_attribution_dispose(&a);
  /* As many as were asked for, however well they fit. */
  f.n_measured = 0;
  r.n_sample = 333, r.all_samples = true;
  ASSERT_OK(sl_attribution_run(&a, &r));
  assert_int_equal(a.end, SL_GROWTH_SAMPLES);
  assert_int_equal(f.n_measured, 333);
  sl_attribution_dispose(&a);
  /* Noise: the test masks say that there is nothing. */
  f.value = noise;
  ASSERT_OK(sl_attribution_run(&a, &r));
  assert_true(a.test.r2 < 0.3);
  sl_attribution_dispose(&a);
}

static void interrupted_growth_keeps_its_masks(void **state) {
  (void)state;
  for (int cancels = 0; cancels < 2; cancels++) {
    planted f = {.p = 20, .value = linear, .n_left = 64, .cancels = cancels};
    sl_attribution_request r = request_for(&f, 0);
    sl_attribution a;
    r.all_samples = true;
    ASSERT_OK(sl_attribution_run(&a, &r));
    assert_int_equal(a.end, cancels ? SL_GROWTH_INTERRUPTED : SL_GROWTH_BUDGET);
    assert_int_equal(a.n_mask, 64);
    assert_true(a.fitted && a.n_test == 6);
    sl_attribution_dispose(&a);
    f.n_left = 29; /* one too few to have three of each part */
    ASSERT_OK(sl_attribution_run(&a, &r));
    assert_int_equal(a.n_mask, 29);
    assert_int_equal(a.n_needed, 30);
    assert_false(a.fitted);
    json_t *json = NULL;
    ASSERT_OK(sl_attribution_to_json(&json, &a, &r));
    assert_non_null(strstr(json_string_value(json_object_get(json, "interrupted")), "30"));
    json_decref(json);
    sl_attribution_dispose(&a);
    r.solver = SL_REGRESS_LEAST_SQUARES;
    f.n_left = 64;
    ASSERT_OK(sl_attribution_run(&a, &r));
    assert_false(a.fitted); /* 51 training masks for 20 components */
    assert_int_equal(a.n_needed, 80);
    sl_attribution_dispose(&a);
  }
  bool dropped[20];
  memset(dropped, 1, sizeof dropped);
  planted f = {.p = 20, .value = linear, .n_left = -1};
  sl_attribution_request r = request_for(&f, 0);
  sl_attribution a;
  r.dropped = dropped;
  assert_int_equal(sl_attribution_run(&a, &r), SL_ERROR_UNSUPPORTED);
}

/* t = sum of coefficients: F(n) and C(n) are the share that the top n hold. */
static void curves_of_a_sum(void **state) {
  (void)state;
  enum { P = 30 };
  planted f = {.p = P, .value = linear, .n_left = -1};
  float score[P];
  int orders[2 * P];
  double sum = 0, part = 0;
  for (int j = 0; j < P; j++) sum += score[j] = (float)coefficient(j);
  ASSERT_OK(sl_rank_components(orders, score, P, 1));
  ASSERT_OK(sl_rank_components(orders + P, score, P, -1));
  assert_int_equal(orders[0], 3);
  assert_int_equal(orders[1], 10);
  assert_int_equal(orders[P], 24); /* the one that harms */
  sl_curves c;
  ASSERT_OK(sl_curves_run(&c, &(sl_evaluate){run_planted, &f}, P, orders, 2, 1.5 + sum, 1.5));
  assert_int_equal(c.n_step, P + 1);
  for (int n = 0; n <= P; n++) {
    assert_int_equal(c.steps[n], n);
    assert_true(fabs(c.faithfulness[n] - part / sum) < 1e-6);
    assert_true(fabs(c.completeness[n] - part / sum) < 1e-6);
    if (n < P) part += coefficient(orders[n]);
  }
  assert_true(c.faithfulness[P] == 1 && c.completeness[P] == 1 && c.faithfulness[0] == 0);
  /* 1.7, 1.0, 0.3 and -0.4 make 2.6. */
  assert_int_equal(sl_curve_smallest(&c, c.faithfulness, 0.6), 1);
  assert_int_equal(sl_curve_smallest(&c, c.faithfulness, 0.9), 2);
  assert_int_equal(sl_curve_smallest(&c, c.faithfulness, 1000), -1);
  sl_curves_dispose(&c);
  const int32_t steps[] = {0, 1, 4};
  const float curve[] = {0, 1, 1};
  const sl_curves simple = {.n_component = 4, .n_step = 3, .steps = (int32_t *)steps};
  assert_true(fabs(sl_curve_area(&simple, curve) - 3.5 / 4) < 1e-9);
  assert_int_equal(sl_curve_smallest(&simple, curve, 0.9), 1);
}

static void steps_of_long_curves(void **state) {
  (void)state;
  static const int sizes[] = {1, 96, 192, 193, 1024, 16384};
  for (int k = 0; k < 6; k++) {
    const int n = sl_curve_steps(sizes[k], NULL);
    int32_t *steps = malloc((size_t)n * sizeof *steps);
    sl_curve_steps(sizes[k], steps);
    if (sizes[k] <= SL_CURVE_DENSE) assert_int_equal(n, sizes[k] + 1);
    assert_true(n <= SL_CURVE_DENSE + 1);
    assert_int_equal(steps[0], 0);
    assert_int_equal(steps[n - 1], sizes[k]);
    for (int i = 1; i < n; i++) assert_true(steps[i] > steps[i - 1]);
    free(steps);
  }
}

static void chance_rankings(void **state) {
  (void)state;
  enum { L = 6, H = 8, P = L * H };
  int like[P], order[P], plain[P], seen[P] = {0};
  sl_rank_random(like, P, 1, 2);
  ASSERT_OK(sl_rank_random_like(order, like, P, H, 1, 3));
  sl_rank_random(plain, P, 1, 3);
  int n_same = 0;
  for (int i = 0; i < P; i++) {
    assert_int_equal(order[i] / H, like[i] / H); /* as many of each layer in every prefix */
    seen[order[i]]++;
    seen[plain[i]] += 2;
    n_same += order[i] == like[i];
  }
  for (int i = 0; i < P; i++) assert_int_equal(seen[i], 3);
  assert_true(n_same < P / 2);
  const float score[] = {1, NAN, 3, 1};
  ASSERT_OK(sl_rank_components(order, score, 4, 1));
  assert_int_equal(order[0], 2);
  assert_int_equal(order[1], 0);
  assert_int_equal(order[2], 3);
  assert_int_equal(order[3], 1);
}

/* ---- the golden checkpoints ---- */

typedef struct fixture {
  golden g;
  sl_model *model;
  sl_session *session;
  sl_layout layout;
  sl_image *image;
  const float *pixels;
  sl_answer answer;
  sl_cancel *cancel;
  sl_shared shared;
  sl_option_value options[8];
  int L, H, n;
  sl_analysis_context context;
  char dir[64]; /* run directories */
} fixture;

static fixture *set_up(const char *folder, const char *name) {
  fixture *f = calloc(1, sizeof *f);
  f->g = golden_open(folder);
  const sl_model_options options = {.size = sizeof options, .backend = "cpu", .compute = "f32", .n_thread = 1};
  ASSERT_OK(sl_model_open(&f->model, f->g.dir, &options));
  ASSERT_OK(sl_session_new(&f->session, f->model, 1));
  ASSERT_OK(sl_cancel_new(&f->cancel));
  sl_session_set_cancel(f->session, &f->cancel->requested);
  ASSERT_OK(sl_layout_build(&f->layout, f->model, golden_string(&f->g, name, "prompt"), true));
  f->pixels = golden_find(&f->g, name, "pixels")->data;
  ASSERT_OK(sl_image_encode(&f->image, f->session, f->pixels, NULL, false));
  ASSERT_OK(sl_answer_make(&f->answer, f->session, f->model, f->image, &f->layout, &(sl_answer_request){.max_token = 3}));
  const sl_part_shape *shape = &sl_model_get_shape(f->model)->decoder;
  f->L = shape->n_layer, f->H = shape->n_head, f->n = f->L * f->H;
  f->context = (sl_analysis_context){.model = f->model, .session = f->session, .pixels = f->pixels, .image = f->image,
                                     .layout = &f->layout, .answer = f->answer.tokens, .n_answer = f->answer.n_token,
                                     .seed = 7, .warnings = json_array(), .cancel = f->cancel, .shared = &f->shared,
                                     .options = f->options};
  snprintf(f->dir, sizeof f->dir, "/tmp/sl_test_XXXXXX");
  assert_non_null(mkdtemp(f->dir));
  return f;
}

static void tear_down(fixture *f) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", f->dir);
  assert_int_equal(system(command), 0);
  sl_shared_dispose(&f->shared);
  json_decref(f->context.said);
  json_decref(f->context.warnings);
  sl_answer_dispose(&f->answer);
  sl_image_free(f->image);
  sl_layout_dispose(&f->layout);
  sl_session_free(f->session);
  sl_cancel_free(f->cancel);
  sl_model_close(f->model);
  golden_close(&f->g);
  free(f);
}

static const sl_analysis *analysis_named(const char *name) {
  for (int i = 0; sl_analyses[i]; i++)
    if (strcmp(sl_analyses[i]->info.name, name) == 0) return sl_analyses[i];
  fail_msg("no analysis %s", name);
  return NULL;
}

static void set_options(fixture *f, const char *const *pairs) {
  f->context.n_option = 0;
  for (int i = 0; pairs && pairs[i]; i += 2)
    f->options[f->context.n_option++] = (sl_option_value){pairs[i], pairs[i + 1]};
}

/* Runs one analysis into DIR/name and opens what it left. */
static sl_run_reader *run_into(fixture *f, const char *name, const char *analysis, const char *const *pairs) {
  char path[128];
  sl_run_reader *reader = NULL;
  set_options(f, pairs);
  snprintf(path, sizeof path, "%s/%s", f->dir, name);
  ASSERT_OK(sl_run_new(&f->context.run, path, false));
  json_decref(f->context.said);
  f->context.said = json_object();
  f->context.info = &analysis_named(analysis)->info;
  ASSERT_OK(analysis_named(analysis)->check(&f->context));
  ASSERT_OK(analysis_named(analysis)->run(&f->context));
  json_object_set_new(sl_run_json(f->context.run), "sightline", json_string("test"));
  json_object_set_new(sl_run_json(f->context.run), "analyses", json_pack("{s:O}", analysis, f->context.said));
  ASSERT_OK(sl_run_commit(f->context.run));
  sl_run_free(f->context.run);
  f->context.run = NULL;
  ASSERT_OK(sl_run_open(&reader, path));
  return reader;
}

static const float *floats(const sl_run_reader *reader, const char *name) {
  const sl_tensor *tensor = NULL;
  ASSERT_OK(sl_run_get(reader, name, &tensor));
  return tensor->data;
}

static int64_t length(const sl_run_reader *reader, const char *name) {
  const sl_tensor *tensor = NULL;
  ASSERT_OK(sl_run_get(reader, name, &tensor));
  return tensor->shape[0];
}

static double said(const fixture *f, const char *path) {
  const json_t *value = sl_json_at(f->context.said, path);
  if (!json_is_number(value)) fail_msg("run.json says nothing of %s", path);
  return json_number_value(value);
}

typedef struct taken {
  int n_vocab;
  int32_t id;
  double *logit;
} taken;

static sl_status take_logit(void *user, int plan, const float *logits) {
  const taken *t = user;
  t->logit[plan] = (double)logits[t->id];
  return SL_OK;
}

/* The first answer token's logit under plans written by the test. */
static void logits_under(fixture *f, const sl_plan *plans, int n_plan, const sl_baseline *baseline, double *logit) {
  const sl_trunk *trunk;
  const int row = f->layout.n_prompt - 1;
  taken t = {.id = f->answer.tokens[0].id, .logit = logit};
  ASSERT_OK(sl_context_trunk(&f->context, false, &trunk));
  const sl_branch_request request = {.trunk = trunk, .plans = plans, .n_plan = n_plan, .baselines = &baseline,
                                     .n_baseline = baseline ? 1 : 0, .rows = &row, .n_row = 1, .take = take_logit,
                                     .user = &t};
  ASSERT_OK(sl_branches_run(f->session, &request));
}

/* "Head h of layer l (-1: all) does not see the image (or sees the baseline) after it." */
static void ablate_head(const fixture *f, sl_plan *plan, int layer, int head, int source) {
  sl_rule *rule;
  ASSERT_OK(sl_plan_add_rule(plan, source, &rule));
  rule->layers = rule->heads = SL_SET_ALL;
  if (layer >= 0) {
    rule->layers = rule->heads = (sl_set){0};
    ASSERT_OK(sl_set_add(&rule->layers, layer, 1));
    ASSERT_OK(sl_set_add(&rule->heads, head, 1));
  }
  ASSERT_OK(sl_set_from(&rule->queries, f->layout.first_image + f->layout.n_image));
  ASSERT_OK(sl_set_add(&rule->keys, f->layout.first_image, f->layout.n_image));
}

static const char *const folders[] = {"llava-gqa", "llava-mha", "llava-orig-pad"};

/* All kept = the plain answer; none kept = image hidden; one cut = heads.single; two heads of one key/value group are
 * two components; F and C end at 1. */
static void identities_of_heads(void **state) {
  (void)state;
  for (int k = 0; k < 3; k++) {
    fixture *f = set_up(folders[k], "c0");
    sl_run_reader *run = run_into(f, "run", "heads", (const char *[]){"min-effect", "0", NULL});
    const double plain = (double)f->answer.tokens[0].logit;
    const int n = f->n;
    double *logit = calloc((size_t)n + 2, sizeof *logit);
    sl_plan *plans = calloc((size_t)n + 2, sizeof *plans);
    for (int i = 0; i < n; i++) ablate_head(f, &plans[i], i / f->H, i % f->H, SL_SOURCE_HIDDEN);
    ablate_head(f, &plans[n], -1, -1, SL_SOURCE_HIDDEN);
    logits_under(f, plans, n + 2, NULL, logit);
    assert_true(fabs(said(f, "all") - plain) < 1e-4);
    assert_true(fabs(said(f, "all") - logit[n + 1]) < 1e-6);
    assert_true(fabs(said(f, "none") - logit[n]) < 1e-5);
    const float *single = floats(run, "heads.single");
    for (int i = 0; i < n; i++) assert_true(fabs((double)single[i] - (logit[n + 1] - logit[i])) < 1e-5);
    if (k == 0) assert_true(fabs((double)single[0] - (double)single[1]) > 1e-4); /* heads 0 and 1 share keys */
    const int64_t n_step = length(run, "heads.steps");
    assert_int_equal(n_step, n + 1);
    static const char *const curves[] = {"heads.faithfulness", "heads.completeness"};
    for (int c = 0; c < 2; c++) {
      char rivals[64];
      snprintf(rivals, sizeof rivals, "%s_rivals", curves[c]);
      assert_true(fabs((double)floats(run, curves[c])[0]) < 1e-6);
      assert_true(fabs((double)floats(run, curves[c])[n] - 1) < 1e-6);
      for (int r = 0; r < 5; r++) assert_true(fabs((double)floats(run, rivals)[r * n_step + n] - 1) < 1e-6);
    }
    for (int i = 0; i < n + 2; i++) sl_plan_dispose(&plans[i]);
    free(plans);
    free(logit);
    sl_run_close(run);
    tear_down(f);
  }
}

/* Every mask's target is that of a plan with one rule per cut head, whatever the batch. */
static void masks_are_measured_alike(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0");
  static const char *const options[] = {"samples", "60", "all-samples", "true", NULL};
  sl_run_reader *runs[3];
  static const int batches[] = {0, 1, 7};
  for (int b = 0; b < 3; b++) {
    char name[8];
    snprintf(name, sizeof name, "b%d", b);
    f->context.batch_size = batches[b];
    runs[b] = run_into(f, name, "heads", options);
  }
  const size_t n = (size_t)f->n, n_mask = (size_t)length(runs[0], "heads.target");
  assert_int_equal(n_mask, 60);
  const uint8_t *masks = (const uint8_t *)floats(runs[0], "heads.masks");
  const float *target = floats(runs[0], "heads.target");
  for (int b = 1; b < 3; b++) {
    assert_memory_equal(floats(runs[b], "heads.masks"), masks, n_mask * n);
    assert_memory_equal(floats(runs[b], "heads.target"), target, n_mask * sizeof *target);
    assert_memory_equal(floats(runs[b], "heads.score"), floats(runs[0], "heads.score"), n * sizeof *target);
  }
  sl_plan plans[60] = {0};
  double logit[60];
  for (size_t j = 0; j < 60; j++)
    for (int i = 0; i < f->n; i++)
      if (!masks[j * n + (size_t)i]) ablate_head(f, &plans[j], i / f->H, i % f->H, SL_SOURCE_HIDDEN);
  logits_under(f, plans, 60, NULL, logit);
  for (int j = 0; j < 60; j++) {
    assert_true(fabs(logit[j] - (double)target[j]) < 1e-5);
    sl_plan_dispose(&plans[j]);
  }
  for (int b = 0; b < 3; b++) sl_run_close(runs[b]);
  tear_down(f);
}

/* Attention on the image as transformers has it, mean over the rows after the image up to the one that is measured. */
static void attention_matches(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0");
  sl_run_reader *run = run_into(f, "run", "heads", NULL);
  const float *attention = floats(run, "heads.attention");
  const int first = f->layout.first_image + f->layout.n_image, last = f->layout.n_prompt - 1;
  for (int l = 0; l < f->L; l++) {
    char name[64];
    snprintf(name, sizeof name, "blocks.%d.attn.hook_pattern", l);
    const sl_tensor *pattern = golden_find(&f->g, "c0", name);
    const int64_t P = pattern->shape[1];
    for (int h = 0; h < f->H; h++) {
      double sum = 0;
      for (int i = first; i <= last; i++)
        for (int j = 0; j < f->layout.n_image; j++)
          sum += (double)((const float *)pattern->data)[(h * P + i) * P + f->layout.first_image + j];
      assert_true(fabs(sum / (last + 1 - first) - (double)attention[l * f->H + h]) < 1e-5);
    }
  }
  sl_run_close(run);
  tear_down(f);
}

/* A picture that differs little: what patching says to first order is what ablating does, head by head. */
static void patching_is_the_first_order(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    fixture *f = set_up(folders[k], "c0");
    const size_t n_px = (size_t)sl_tensor_count(golden_find(&f->g, "c0", "pixels"));
    float *near = malloc(n_px * sizeof *near);
    for (size_t i = 0; i < n_px; i++) near[i] = f->pixels[i] + 0.001f * (float)sl_rng_normal(1, 1, i);
    sl_image *image = NULL;
    sl_prefix *prefix = NULL;
    sl_baseline *baseline = NULL;
    sl_measure measure;
    f->context.info = &analysis_named("heads")->info;
    ASSERT_OK(sl_measure_init(&measure, &f->context));
    ASSERT_OK(sl_image_encode(&image, f->session, near, NULL, false));
    ASSERT_OK(sl_prefix_new(&prefix, f->session, &f->layout, image, false, NULL));
    ASSERT_OK(sl_baseline_picture(&baseline, f->session, prefix));
    float attention[64], patching[64];
    double logit[65], most = 0, worst = 0;
    sl_plan plans[65] = {0};
    ASSERT_OK(sl_head_patch_run(attention, patching, &f->context, &measure, baseline));
    for (int i = 0; i < f->n; i++) ablate_head(f, &plans[i], i / f->H, i % f->H, 0);
    logits_under(f, plans, f->n + 1, baseline, logit);
    for (int i = 0; i < f->n; i++) {
      const double single = logit[f->n] - logit[i];
      most = fmax(most, fabs(single));
      worst = fmax(worst, fabs(single - (double)patching[i]));
      sl_plan_dispose(&plans[i]);
    }
    if (!(most > 1e-4 && worst < 0.02 * most)) fail_msg("%s: effect %g, off by %g", folders[k], most, worst);
    sl_measure_dispose(&measure);
    sl_baseline_free(baseline);
    sl_prefix_free(prefix);
    sl_image_free(image);
    free(near);
    tear_down(f);
  }
}

/* ---- interruption, resuming, options ---- */

typedef struct stopper {
  sl_cancel *cancel;
  double at; /* branches after which it stops */
} stopper;

static bool stop_after(void *user, const char *what, double done, double total) {
  (void)what;
  const stopper *s = user;
  if (total > 1 && done >= s->at) sl_cancel_request(s->cancel);
  return true;
}

static void resumed_heads_equal_uninterrupted_ones(void **state) {
  (void)state;
  static const char *const options[] = {"samples", "120", "all-samples", "true", "min-effect", "0", NULL};
  fixture *f = set_up("llava-gqa", "c0");
  sl_run_reader *whole = run_into(f, "whole", "heads", options);
  f->context.batch_size = 5;
  for (int late = 0; late < 2; late++) { /* before there is enough for a fit; after */
    char name[16], more[16];
    snprintf(name, sizeof name, "cut%d", late);
    snprintf(more, sizeof more, "more%d", late);
    stopper s = {f->cancel, f->n + (late ? 50 : 20)};
    f->context.progress = stop_after;
    f->context.user = &s;
    sl_run_reader *cut = run_into(f, name, "heads", options);
    assert_non_null(json_object_get(f->context.said, "interrupted"));
    const int64_t n_cut = length(cut, "heads.target");
    assert_true(n_cut > 10 && n_cut < 120);
    assert_true((sl_run_find(cut, "heads.score") != NULL) == (late == 1));
    assert_null(sl_run_find(cut, "heads.faithfulness"));
    assert_memory_equal(floats(cut, "heads.target"), floats(whole, "heads.target"), (size_t)n_cut * sizeof(float));
    /* A flag cannot be taken back: go on with a new one. */
    sl_cancel_free(f->cancel);
    ASSERT_OK(sl_cancel_new(&f->cancel));
    sl_session_set_cancel(f->session, &f->cancel->requested);
    f->context.cancel = f->cancel;
    f->context.progress = NULL;
    f->context.earlier = cut;
    sl_run_reader *resumed = run_into(f, more, "heads", options);
    assert_int_equal(said(f, "regression.resumed"), n_cut);
    static const char *const same[] = {"heads.score", "heads.stderr", "heads.target", "heads.faithfulness"};
    for (int i = 0; i < 4; i++) {
      const sl_tensor *a = sl_run_find(whole, same[i]), *b = sl_run_find(resumed, same[i]);
      assert_memory_equal(a->data, b->data, (size_t)sl_tensor_count(a) * sizeof(float));
    }
    sl_run_close(resumed);
    /* Another seed draws other masks; another baseline gives another end. */
    set_options(f, options);
    f->context.seed++;
    assert_int_equal(analysis_named("heads")->run(&f->context), SL_ERROR_ARGUMENT);
    assert_non_null(strstr(sl_error_message(), "mask 0 differs"));
    f->context.seed--;
    f->options[f->context.n_option++] = (sl_option_value){"baseline", "zero"};
    assert_int_equal(analysis_named("heads")->run(&f->context), SL_ERROR_ARGUMENT);
    assert_non_null(strstr(sl_error_message(), "cannot go on"));
    f->context.earlier = NULL;
    sl_run_close(cut);
  }
  sl_run_close(whole);
  tear_down(f);
}

static void time_budget_is_kept(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0");
  f->context.budget_s = 1e-9;
  sl_run_reader *run = run_into(f, "run", "heads", (const char *[]){"min-effect", "0", NULL});
  assert_null(sl_run_find(run, "heads.masks"));
  assert_non_null(json_object_get(f->context.said, "interrupted"));
  sl_run_close(run);
  tear_down(f);
}

static void expect_refused(fixture *f, const char *analysis, const char *const *pairs, sl_status status,
                           const char *word) {
  set_options(f, pairs);
  f->context.info = &analysis_named(analysis)->info;
  assert_int_equal(analysis_named(analysis)->check(&f->context), status);
  if (!strstr(sl_error_message(), word)) fail_msg("no \"%s\" in: %s", word, sl_error_message());
}

static void options_are_checked(void **state) {
  (void)state;
  static const struct {
    const char *pairs[5];
    sl_status status;
    const char *word;
  } bad[] = {{{"samples", "29"}, SL_ERROR_ARGUMENT, "at least 30"},
             {{"solver", "ols", "samples", "40"}, SL_ERROR_ARGUMENT, "--solver ols needs 3"},
             {{"baseline", "median"}, SL_ERROR_ARGUMENT, "median"},
             {{"baseline", "mean"}, SL_ERROR_ARGUMENT, "--calibration"},
             {{"baseline", "block", "calibration", "/tmp"}, SL_ERROR_ARGUMENT, "--calibration"},
             {{"baseline", "image:"}, SL_ERROR_ARGUMENT, "missing"},
             {{"baseline", "image:/nowhere.png"}, SL_ERROR_FILE, "/nowhere.png"},
             {{"calibration", "/nowhere"}, SL_ERROR_FILE, "/nowhere"},
             {{"contrast", "elephant seal"}, SL_ERROR_ARGUMENT, "elephant seal"}};
  fixture *f = set_up("llava-gqa", "c0");
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    const char *pairs[] = {bad[i].pairs[0], bad[i].pairs[1], bad[i].pairs[2], bad[i].pairs[3], NULL};
    expect_refused(f, "heads", pairs, bad[i].status, bad[i].word);
    if (strcmp(pairs[0], "solver") != 0) expect_refused(f, "tokens", pairs, bad[i].status, bad[i].word);
  }
  /* 36 heads' masks do for least squares here: 12 components. */
  set_options(f, (const char *[]){"solver", "ols", "samples", "50", NULL});
  f->context.info = &analysis_named("heads")->info;
  ASSERT_OK(analysis_named("heads")->check(&f->context));
  assert_true(analysis_named("heads")->passes(&f->context) > 20);
  tear_down(f);
}

/* ---- baselines ---- */

static void write_file(const char *dir, const char *name, const void *bytes, size_t n_bytes) {
  char path[160];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  ASSERT_OK(sl_file_write(path, bytes, n_bytes));
}

/* A folder of calibration pictures: two copies of the asked picture have it as their mean, so nothing changes; a bad
 * file is named and left out. Another picture as baseline is the same as a mean over it alone. */
static void calibration_pictures(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0");
  char folder[128], other[160], path[600], image_option[200], *bytes = NULL;
  size_t n_bytes = 0;
  snprintf(folder, sizeof folder, "%s/pictures", f->dir);
  snprintf(other, sizeof other, "%s/other", f->dir);
  assert_int_equal(mkdir(folder, 0755) | mkdir(other, 0755), 0);
  snprintf(path, sizeof path, "%s/a.png", f->g.dir);
  ASSERT_OK(sl_file_read(path, 1 << 20, &bytes, &n_bytes));
  write_file(folder, "1.png", bytes, n_bytes);
  write_file(folder, "2.PNG", bytes, n_bytes);
  write_file(folder, "3.png", bytes, n_bytes / 2);
  write_file(folder, "notes.txt", "x", 1);
  free(bytes);
  snprintf(path, sizeof path, "%s/b.png", f->g.dir);
  ASSERT_OK(sl_file_read(path, 1 << 20, &bytes, &n_bytes));
  write_file(other, "b.png", bytes, n_bytes);
  free(bytes);
  sl_run_reader *run = run_into(f, "same", "heads", (const char *[]){"calibration", folder, NULL});
  assert_string_equal(json_string_value(sl_json_at(f->context.said, "baseline.kind")), "mean");
  assert_int_equal(said(f, "baseline.pictures"), 2);
  assert_int_equal(said(f, "baseline.left_out"), 1);
  assert_int_equal(json_array_size(f->context.warnings), 1);
  assert_non_null(strstr(json_string_value(json_array_get(f->context.warnings, 0)), "3.png"));
  assert_true(fabs(said(f, "all") - said(f, "none")) < 1e-4);
  assert_non_null(sl_json_at(f->context.said, "curves_skipped"));
  assert_null(sl_run_find(run, "heads.faithfulness"));
  sl_run_close(run);
  snprintf(image_option, sizeof image_option, "image:%s/b.png", other);
  run = run_into(f, "image", "heads", (const char *[]){"baseline", image_option, "samples", "40", NULL});
  sl_run_reader *mean = run_into(f, "mean", "heads", (const char *[]){"calibration", other, "samples", "40", NULL});
  for (int j = 0; j < 40; j++)
    assert_true(fabs((double)floats(run, "heads.target")[j] - (double)floats(mean, "heads.target")[j]) < 1e-4);
  assert_true(fabs(said(f, "all") - said(f, "none")) > 1e-3);
  sl_run_close(run);
  sl_run_close(mean);
  /* Nothing usable in it. */
  snprintf(path, sizeof path, "%s/b.png", other);
  assert_int_equal(unlink(path), 0);
  set_options(f, (const char *[]){"calibration", other, NULL});
  assert_int_equal(analysis_named("heads")->run(&f->context), SL_ERROR_FILE);
  tear_down(f);
}

/* ---- tokens ---- */

static void sides_are_cut_right(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0"); /* 4 x 4 patches */
  const int first = f->layout.first_image + f->layout.n_image, last = f->layout.n_prompt - 1;
  sl_side s;
  ASSERT_OK(sl_side_image(&s, &f->context, 3));
  static const int blocks[16] = {0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 2, 2, 2, 3};
  assert_memory_equal(s.group, blocks, sizeof blocks);
  assert_int_equal(sl_side_count(&s), 4);
  sl_side_dispose(&s);
  ASSERT_OK(sl_side_text(&s, &f->context, SL_TEXT_BAND, 2, last));
  assert_int_equal(sl_side_count(&s), 2 * (last + 1 - first));
  assert_int_equal(s.band_layer[1], 1); /* layers 0 | 1, 2 */
  uint8_t *mask = malloc((size_t)sl_side_count(&s));
  memset(mask, 1, (size_t)sl_side_count(&s));
  mask[2 * 5 + 1] = 0; /* position first + 5, upper band */
  sl_plan plan = {0};
  ASSERT_OK(sl_side_add_rules(&s, mask, SL_SOURCE_HIDDEN, &plan));
  assert_int_equal(plan.n_rule, 1);
  for (int l = 0; l < 3; l++) assert_int_equal(sl_set_has(&plan.rules[0].layers, l), l > 0);
  for (int i = 0; i < f->layout.n_token + 3; i++) {
    const bool image = i >= f->layout.first_image && i < first;
    assert_int_equal(sl_set_has(&plan.rules[0].queries, i), i == first + 5);
    assert_int_equal(sl_set_has(&plan.rules[0].keys, i), image);
  }
  sl_plan_dispose(&plan);
  free(mask);
  sl_side_dispose(&s);
  ASSERT_OK(sl_side_text(&s, &f->context, SL_TEXT_CLASS, 1, last + 1)); /* with the first answer token */
  assert_int_equal(sl_side_count(&s), 4);
  assert_int_equal(s.group[0], 0);
  assert_int_equal(s.kind[last - first], SL_TEXT_FINAL);
  assert_int_equal(s.group[last + 1 - first], 3);
  sl_side_dispose(&s);
  tear_down(f);
}

static void hide(const fixture *f, sl_plan *plan, int query, int key, const bool *heads) {
  for (int l = 0; l < (heads ? f->L : 1); l++) {
    sl_rule *rule;
    ASSERT_OK(sl_plan_add_rule(plan, SL_SOURCE_HIDDEN, &rule));
    rule->layers = rule->heads = SL_SET_ALL;
    if (heads) {
      rule->layers = rule->heads = (sl_set){0};
      ASSERT_OK(sl_set_add(&rule->layers, l, 1));
      for (int h = 0; h < f->H; h++)
        if (heads[l * f->H + h]) ASSERT_OK(sl_set_add(&rule->heads, h, 1));
    }
    if (query >= 0)
      ASSERT_OK(sl_set_add(&rule->queries, query, 1));
    else
      ASSERT_OK(sl_set_from(&rule->queries, f->layout.first_image + f->layout.n_image));
    if (key >= 0)
      ASSERT_OK(sl_set_add(&rule->keys, f->layout.first_image + key, 1));
    else
      ASSERT_OK(sl_set_add(&rule->keys, f->layout.first_image, f->layout.n_image));
  }
}

/* The targets stored for one side are those of plans with one rule per cut component. */
static void expect_targets(fixture *f, const sl_run_reader *run, const char *side, const bool *heads) {
  char name[64];
  snprintf(name, sizeof name, "tokens.%s_masks", side);
  const uint8_t *masks = (const uint8_t *)floats(run, name);
  const sl_tensor *tensor = sl_run_find(run, name);
  const int n = (int)tensor->shape[1], n_mask = (int)tensor->shape[0];
  const int first = f->layout.first_image + f->layout.n_image;
  snprintf(name, sizeof name, "tokens.%s_target", side);
  const float *target = floats(run, name);
  sl_plan *plans = calloc((size_t)n_mask, sizeof *plans);
  double *logit = calloc((size_t)n_mask, sizeof *logit);
  for (int j = 0; j < n_mask; j++)
    for (int i = 0; i < n; i++)
      if (!masks[j * n + i]) hide(f, &plans[j], side[0] == 't' ? first + i : -1, side[0] == 'i' ? i : -1, heads);
  logits_under(f, plans, n_mask, NULL, logit);
  for (int j = 0; j < n_mask; j++) {
    assert_true(fabs(logit[j] - (double)target[j]) < 1e-5);
    sl_plan_dispose(&plans[j]);
  }
  free(plans);
  free(logit);
}

static void tokens_measure_what_they_say(void **state) {
  (void)state;
  fixture *f = set_up("llava-mha", "c0");
  bool object[256] = {false};
  const sl_model_shape *shape = sl_model_get_shape(f->model);
  for (int i = 0; i < shape->grid_height * shape->grid_width; i += 2) object[i] = true;
  f->context.object = object;
  sl_run_reader *run = run_into(f, "run", "tokens", (const char *[]){"min-effect", "0", "samples", "60", NULL});
  expect_targets(f, run, "text", NULL);
  expect_targets(f, run, "image", NULL);
  assert_true(fabs(said(f, "image.none") - said(f, "text.none")) < 1e-5); /* nobody sees = nothing is seen */
  assert_true(fabs(said(f, "image.all") - (double)f->answer.tokens[0].logit) < 1e-4);
  const int64_t n_step = length(run, "tokens.image_steps");
  assert_int_equal(n_step, f->layout.n_image + 1);
  assert_true(fabs((double)floats(run, "tokens.image_faithfulness")[n_step - 1] - 1) < 1e-6);
  assert_true(fabs((double)floats(run, "tokens.text_completeness")[length(run, "tokens.text_steps") - 1] - 1) < 1e-6);
  assert_true(said(f, "image.object_share") >= 0 && said(f, "image.object_share") <= 1);
  double share = 0;
  const char *kind;
  json_t *value;
  json_object_foreach(sl_json_at(f->context.said, "text.share"), kind, value) share += json_number_value(value);
  assert_true(fabs(share - 1) < 1e-6);
  assert_int_equal(json_array_size(sl_json_at(f->context.said, "text.positions")), length(run, "tokens.text"));
  assert_non_null(f->shared.token_row);
  assert_memory_equal(f->shared.token_row, floats(run, "tokens.image"), (size_t)f->layout.n_image * sizeof(float));
  sl_run_close(run);
  tear_down(f);
}

static void tokens_inside_the_top_heads(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0");
  static const char *const options[] = {"top-heads", "2", "side", "image", "samples", "40", NULL};
  bool heads[64] = {[1] = true, [6] = true};
  set_options(f, options);
  f->context.info = &analysis_named("tokens")->info;
  assert_string_equal(analysis_named("tokens")->needs(&f->context)[0], "heads");
  f->shared.head_score = calloc((size_t)f->n, sizeof(float));
  sl_run_reader *plain = run_into(f, "plain", "tokens", (const char *[]){"side", "image", "samples", "40", NULL});
  const float sign = said(f, "image.all") >= said(f, "image.none") ? 1 : -1;
  sl_run_close(plain);
  f->shared.head_score[1] = sign * 2, f->shared.head_score[6] = sign;
  for (int i = 7; i < f->n; i++) f->shared.head_score[i] = -sign * 3;
  sl_run_reader *run = run_into(f, "run", "tokens", options);
  expect_targets(f, run, "image", heads);
  assert_null(sl_run_find(run, "tokens.text"));
  sl_run_close(run);
  /* heads left no scores: the side is left out, and that is said. */
  free(f->shared.head_score);
  f->shared.head_score = NULL;
  run = run_into(f, "none", "tokens", options);
  assert_null(sl_run_find(run, "tokens.image"));
  assert_int_equal(json_array_size(f->context.warnings), 1);
  sl_run_close(run);
  tear_down(f);
}

static void text_by_class_and_band(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0");
  sl_run_reader *run =
      run_into(f, "class", "tokens", (const char *[]){"side", "text", "text-by", "class", "whole-answer", "true", NULL});
  assert_int_equal(length(run, "tokens.text"), json_array_size(sl_json_at(f->context.said, "text.classes")));
  assert_true(length(run, "tokens.text") >= 3);
  sl_run_close(run);
  run = run_into(f, "band", "tokens", (const char *[]){"side", "text", "text-by", "band", "bands", "3", NULL});
  const sl_tensor *text = sl_run_find(run, "tokens.text");
  assert_int_equal(text->n_dim, 2);
  assert_int_equal(text->shape[1], 3);
  assert_int_equal(json_array_size(sl_json_at(f->context.said, "text.bands")), 3);
  sl_run_close(run);
  tear_down(f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(masks_depend_on_seed_and_index_alone),
      cmocka_unit_test(split_is_by_index),
      cmocka_unit_test(checkpoints_double),
      cmocka_unit_test(planted_coefficients_are_found),
      cmocka_unit_test(or_and_and_have_their_analytic_scores),
      cmocka_unit_test(growth_stops),
      cmocka_unit_test(interrupted_growth_keeps_its_masks),
      cmocka_unit_test(curves_of_a_sum),
      cmocka_unit_test(steps_of_long_curves),
      cmocka_unit_test(chance_rankings),
      cmocka_unit_test(identities_of_heads),
      cmocka_unit_test(masks_are_measured_alike),
      cmocka_unit_test(attention_matches),
      cmocka_unit_test(patching_is_the_first_order),
      cmocka_unit_test(resumed_heads_equal_uninterrupted_ones),
      cmocka_unit_test(time_budget_is_kept),
      cmocka_unit_test(options_are_checked),
      cmocka_unit_test(calibration_pictures),
      cmocka_unit_test(sides_are_cut_right),
      cmocka_unit_test(tokens_measure_what_they_say),
      cmocka_unit_test(tokens_inside_the_top_heads),
      cmocka_unit_test(text_by_class_and_band),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
