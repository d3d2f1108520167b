/* Attribution by random ablation on functions of masks whose coefficients are known: masks, split, growth, fit, curves,
 * rankings by chance. */
#include "golden.h"

#include "analysis/attribution_curve.h"
#include "base/rng.h"

typedef struct planted {
  int p;
  double (*value)(const uint8_t *mask, int p);
  int n_left;    /* masks until it is cancelled or out of time; -1 = never */
  bool cancels;
  int n_measured, most; /* masks, in all and at most in one call */
} planted;

static sl_status run_planted(void *user, const uint8_t *masks, int n_mask, double *target, int *n_done) {
  planted *f = user;
  if (n_mask > f->most) f->most = n_mask;
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
  static const int want[] = {300, 600, 770, 770, 770};
  for (int s = 0; s < 5; s++) assert_int_equal(sl_growth_checkpoint(&r, 96, s), want[s]);
  assert_int_equal(sl_growth_most(&r), 770);
  r.n_sample = 250;
  assert_int_equal(sl_growth_checkpoint(&r, 96, 0), 250);
  r.n_sample = 5000; /* doubling goes on */
  assert_int_equal(sl_growth_checkpoint(&r, 96, 4), 4800);
  r.n_component = 12; /* few components: still enough to validate on */
  assert_int_equal(sl_growth_checkpoint(&r, 12, 0), 300);
  r.n_sample = 0; /* and two checkpoints to compare */
  assert_int_equal(sl_growth_most(&r), 600);
  r.n_component = 1000, r.n_sample = 5000;
  assert_int_equal(sl_growth_checkpoint(&r, 1000, 0), 1000);
  /* Least squares: three training masks a component from the first checkpoint on. */
  r.n_component = 96, r.solver = SL_REGRESS_LEAST_SQUARES;
  assert_int_equal(sl_masks_needed(&r, 96), 360);
  assert_int_equal(sl_growth_checkpoint(&r, 96, 0), 600);
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

/* Dropped components are always kept and have no score; the held-out masks do not enter the fit. */
static double garbage_when_held_out(const uint8_t *mask, int p) {
  static int j;
  return linear(mask, p) + (j++ % 10 == 9 ? 100 : 0);
}

static void what_is_left_out_of_the_fit(void **state) {
  (void)state;
  bool dropped[30] = {[3] = true, [4] = true};
  planted f = {.p = 30, .value = garbage_when_held_out, .n_left = -1};
  sl_attribution_request r = request_for(&f, 200);
  sl_attribution a;
  float score[30], error[30];
  r.dropped = dropped, r.solver = SL_REGRESS_LEAST_SQUARES, r.all_samples = true;
  ASSERT_OK(sl_attribution_run(&a, &r));
  sl_attribution_scores(&a, score, error);
  assert_int_equal(a.n_live, 28);
  for (int j = 0; j < 30; j++) {
    assert_true(fabs((double)score[j] - (dropped[j] ? 0 : coefficient(j))) < 1e-6);
    assert_int_equal(isnan(error[j]), dropped[j]);
  }
  assert_true(fabs(a.fit.intercept - 1.5 - coefficient(3)) < 1e-6);
  assert_true(a.test.r2 < -10);
  for (int t = 0; t < a.n_test; t++) assert_true(fabs(a.target[10 * t + 9] - a.predicted[t] - 100) < 1e-6);
  sl_attribution_dispose(&a);
}

/* Both kinds of error say the same of a target whose noise is the same everywhere. */
static double linear_with_noise(const uint8_t *mask, int p) { return linear(mask, p) + noise(mask, p); }

static void bootstrap_errors_agree(void **state) {
  (void)state;
  float score[2][30], error[2][30];
  for (int k = 0; k < 2; k++) {
    planted f = {.p = 30, .value = linear_with_noise, .n_left = -1};
    sl_attribution_request r = request_for(&f, 1000);
    sl_attribution a;
    json_t *json = NULL;
    r.bootstrap = k, r.solver = SL_REGRESS_LEAST_SQUARES, r.all_samples = true;
    ASSERT_OK(sl_attribution_run(&a, &r));
    sl_attribution_scores(&a, score[k], error[k]);
    ASSERT_OK(sl_attribution_to_json(&json, &a, &r));
    assert_string_equal(json_string_value(json_object_get(json, "errors")), k ? "bootstrap" : "hc3");
    json_decref(json);
    sl_attribution_dispose(&a);
  }
  assert_memory_equal(score[0], score[1], sizeof score[0]);
  /* 800 masks, noise 1, q = 0.5: each about 2 / sqrt(800). */
  for (int j = 0; j < 30; j++) {
    assert_true(fabs((double)error[0][j] - 0.0707) < 0.012);
    assert_true(fabs((double)error[1][j] / (double)error[0][j] - 1) < 0.25);
    assert_true(error[0][j] != error[1][j]);
    assert_true(fabs((double)score[0][j] - coefficient(j)) < 4.5 * (double)error[0][j]);
  }
}

static void growth_stops(void **state) {
  (void)state;
  /* Exactly linear: the second checkpoint cannot be better. */
  planted f = {.p = 60, .value = linear, .n_left = -1};
  sl_attribution_request r = request_for(&f, 5000);
  sl_attribution a;
  ASSERT_OK(sl_attribution_run(&a, &r));
  assert_int_equal(a.end, SL_GROWTH_CORRELATION);
  assert_int_equal(a.n_mask, 600);
  assert_int_equal(a.n_mask, a.steps[a.n_step - 1].n_mask);
  assert_int_equal(f.n_measured, a.n_mask);
  for (int s = 1; s < a.n_step; s++)
    assert_int_equal(s + 1 < a.n_step, a.steps[s].rise >= SL_GROWTH_RISE);
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

/* Pearson of a fit with the validation masks among the first n_mask. */
static double valid_pearson(const sl_attribution *a, const sl_regression *fit, int n_mask) {
  double predicted[300], target[300];
  int n = 0;
  for (int j = 8; j < n_mask; j += 10, n++) {
    target[n] = a->target[j];
    predicted[n] = fit->intercept;
    for (int i = 0; i < a->n_component; i++) predicted[n] += fit->score[i] * a->masks[j * a->n_component + i];
  }
  assert_true(n >= 30);
  sl_agreement agreement;
  ASSERT_OK(sl_agreement_measure(&agreement, predicted, target, n));
  return agreement.pearson;
}

/* What counts as a rise: both fits on the later one's validation masks. */
static void rises_are_of_the_same_masks(void **state) {
  (void)state;
  planted f = {.p = 60, .value = linear_with_noise, .n_left = -1};
  sl_attribution_request r = request_for(&f, 600);
  sl_attribution first, whole;
  r.all_samples = true;
  ASSERT_OK(sl_attribution_run(&whole, &r));
  r.n_sample = 300;
  ASSERT_OK(sl_attribution_run(&first, &r));
  assert_int_equal(whole.n_step, 2);
  assert_true(isnan(whole.steps[0].rise));
  const double before = valid_pearson(&whole, &first.fit, 600), now = valid_pearson(&whole, &whole.fit, 600);
  assert_true(fabs(whole.steps[1].valid.pearson - now) < 1e-12);
  assert_true(fabs(whole.steps[1].rise - (now - before)) < 1e-12);
  assert_true(fabs(before - whole.steps[0].valid.pearson) > 1e-3); /* on the first one's masks it was another */
  sl_attribution_dispose(&first);
  sl_attribution_dispose(&whole);
}

/* Linear in the first 300 masks, nothing but large noise in the later ones. */
static double spoilt_later(const uint8_t *mask, int p) {
  static int j;
  return j++ % 600 < 300 ? linear(mask, p) : 100 * noise(mask, p);
}

/* What training teaches is wrong for the validation masks: the less of it the better. */
static double turned_when_validated(const uint8_t *mask, int p) {
  static int j;
  return j++ % 10 == 8 ? -linear(mask, p) : linear(mask, p);
}

static json_t *told(const sl_attribution *a, const sl_attribution_request *r) {
  json_t *json = NULL;
  ASSERT_OK(sl_attribution_to_json(&json, a, r));
  return json;
}

static const char *text_of(const json_t *json, const char *key) {
  const char *text = json_string_value(json_object_get(json, key));
  return text ? text : "";
}

/* The last checkpoint is looked at like any other, and what is doubtful is said. */
static void the_end_is_judged_and_told(void **state) {
  (void)state;
  planted f = {.p = 20, .value = spoilt_later, .n_left = -1};
  for (int all = 0; all < 2; all++) {
    sl_attribution_request r = request_for(&f, 600);
    sl_analysis_context context = {.warnings = json_array()};
    sl_attribution a;
    r.all_samples = all;
    ASSERT_OK(sl_attribution_run(&a, &r));
    assert_int_equal(a.n_mask, 600);
    json_t *json = told(&a, &r);
    assert_string_equal(text_of(json, "stopped"), all ? "all samples drawn" : "correlation stopped rising");
    assert_true(a.steps[1].rise < -SL_GROWTH_RISE);
    assert_non_null(strstr(text_of(json, "note"), "lowered the correlation"));
    ASSERT_OK(sl_attribution_warn(&context, "heads", json));
    assert_int_equal(json_array_size(context.warnings), 1);
    assert_non_null(strstr(json_string_value(json_array_get(context.warnings, 0)), "heads: the last masks lowered"));
    json_decref(json);
    json_decref(context.warnings);
    sl_attribution_dispose(&a);
  }
  /* Scores that mislead: the largest penalty is best. No noise: the smallest. In between nothing to warn of. */
  static const struct {
    double (*value)(const uint8_t *mask, int p);
    int edge;
    const char *word;
  } kinds[] = {{turned_when_validated, 1, "the largest that was tried"},
               {linear, -1, "the smallest"},
               {linear_with_noise, 0, ""}};
  for (int k = 0; k < 3; k++) {
    f = (planted){.p = 60, .value = kinds[k].value, .n_left = -1};
    sl_attribution_request r = request_for(&f, 600);
    sl_analysis_context context = {.warnings = json_array()};
    sl_attribution a;
    ASSERT_OK(sl_attribution_run(&a, &r));
    assert_int_equal(a.penalty_edge, kinds[k].edge);
    json_t *json = told(&a, &r);
    assert_non_null(strstr(text_of(json, "note"), kinds[k].word));
    ASSERT_OK(sl_attribution_warn(&context, "heads", json));
    assert_int_equal(json_array_size(context.warnings), kinds[k].edge != 0);
    json_decref(json);
    json_decref(context.warnings);
    sl_attribution_dispose(&a);
  }
}

/* Fisher's interval of r = 0.5 on 30 pairs: 0.17 to 0.73 (tanh(0.5493 +- 1.96 / sqrt(27))). */
static void the_fit_has_an_interval(void **state) {
  (void)state;
  static const struct {
    int n_test;
    double r, low, high;
  } known[] = {{30, 0.5, 0.170431, 0.728959}, {10, 0.9, 0.623935, 0.976359}, {103, 0, -0.193525, 0.193525}};
  const sl_attribution_request r = {.solver = SL_REGRESS_RIDGE, .keep = 0.5};
  for (int k = 0; k < 3; k++) {
    const sl_attribution a = {.fitted = true, .n_step = 1, .n_test = known[k].n_test, .test.pearson = known[k].r};
    json_t *json = told(&a, &r);
    const json_t *interval = sl_json_at(json, "fit.pearson_interval");
    assert_int_equal(json_integer_value(sl_json_at(json, "fit.test_masks")), known[k].n_test);
    assert_true(fabs(json_number_value(json_array_get(interval, 0)) - known[k].low) < 1e-5);
    assert_true(fabs(json_number_value(json_array_get(interval, 1)) - known[k].high) < 1e-5);
    json_decref(json);
  }
  const sl_attribution few = {.fitted = true, .n_step = 1, .n_test = 3, .test.pearson = 0.9};
  json_t *json = told(&few, &r);
  assert_true(json_is_null(sl_json_at(json, "fit.pearson_interval")));
  json_decref(json);
}

/* However many are asked for, few are drawn before they are measured. */
static void masks_are_drawn_as_they_are_measured(void **state) {
  (void)state;
  planted f = {.p = 2, .value = either, .n_left = 5000};
  sl_attribution_request r = request_for(&f, 2000000);
  sl_attribution a;
  r.solver = SL_REGRESS_LEAST_SQUARES, r.all_samples = true;
  ASSERT_OK(sl_attribution_run(&a, &r));
  assert_int_equal(a.n_mask, 5000);
  assert_int_equal(a.end, SL_GROWTH_BUDGET);
  assert_true(f.most <= 4096);
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
  ASSERT_OK(sl_curves_run(&c, &(sl_evaluate){run_planted, &f}, P, orders, 2, 0, 1.5 + sum, 1.5));
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

/* A ranking by chance is the mean of its orders. One component matters: its order's curve is a step from where that
 * stands, so the areas are known. */
static double one_matters(const uint8_t *mask, int p) {
  (void)p;
  return mask[0];
}

static void chance_is_a_mean_of_orders(void **state) {
  (void)state;
  enum { P = 8 };
  static const int place[SL_CURVE_CHANCE] = {0, 1, 4, 7};
  int orders[(1 + SL_CURVE_CHANCE) * P];
  for (int k = 0; k < 1 + SL_CURVE_CHANCE; k++) {
    int *order = orders + k * P, at = k == 0 ? 0 : place[k - 1], n = 1;
    for (int i = 0; i < P; i++) order[i] = i == at ? 0 : n++;
  }
  planted f = {.p = P, .value = one_matters, .n_left = -1};
  sl_curves c;
  assert_int_equal(sl_curve_orders(2, 1), 1 + SL_CURVE_CHANCE);
  ASSERT_OK(sl_curves_run(&c, &(sl_evaluate){run_planted, &f}, P, orders, 2, 1, 1, 0));
  assert_int_equal(f.n_measured, (1 + SL_CURVE_CHANCE) * 2 * (P + 1));
  static const float mean[P + 1] = {0, 0.25f, 0.5f, 0.5f, 0.5f, 0.75f, 0.75f, 0.75f, 1};
  double area[4], centre = 0, squares = 0;
  for (int n = 0; n <= P; n++) {
    assert_true(c.faithfulness[n] == (n > 0) && c.completeness[n] == (n > 0));
    assert_true(c.faithfulness[P + 1 + n] == mean[n] && c.completeness[P + 1 + n] == mean[n]);
  }
  for (int k = 0; k < 4; k++) centre += (area[k] = (P - place[k] - 0.5) / P) / 4;
  for (int k = 0; k < 4; k++) squares += (area[k] - centre) * (area[k] - centre);
  json_t *json = NULL;
  ASSERT_OK(sl_curves_to_json(&json, &c, (const char *const[]){"own", "random"}));
  const json_t *list = json_object_get(json, "rankings"), *own = json_array_get(list, 0);
  json_t *by = json_array_get(list, 1);
  assert_null(json_object_get(own, "area_sd"));
  assert_int_equal(json_integer_value(json_object_get(by, "orders")), 4);
  assert_true(fabs(json_number_value(json_object_get(by, "area_faithful")) - centre) < 1e-6);
  assert_true(fabs(json_number_value(sl_json_at(by, "area_sd.faithful")) - sqrt(squares / 3)) < 1e-6);
  assert_true(fabs(json_number_value(sl_json_at(by, "area_sd.complete")) - sqrt(squares / 3)) < 1e-6);
  json_decref(json);
  sl_curves_dispose(&c);
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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(masks_depend_on_seed_and_index_alone),
      cmocka_unit_test(split_is_by_index),
      cmocka_unit_test(checkpoints_double),
      cmocka_unit_test(planted_coefficients_are_found),
      cmocka_unit_test(or_and_and_have_their_analytic_scores),
      cmocka_unit_test(what_is_left_out_of_the_fit),
      cmocka_unit_test(bootstrap_errors_agree),
      cmocka_unit_test(growth_stops),
      cmocka_unit_test(rises_are_of_the_same_masks),
      cmocka_unit_test(the_end_is_judged_and_told),
      cmocka_unit_test(the_fit_has_an_interval),
      cmocka_unit_test(masks_are_drawn_as_they_are_measured),
      cmocka_unit_test(interrupted_growth_keeps_its_masks),
      cmocka_unit_test(curves_of_a_sum),
      cmocka_unit_test(chance_is_a_mean_of_orders),
      cmocka_unit_test(steps_of_long_curves),
      cmocka_unit_test(chance_rankings),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
