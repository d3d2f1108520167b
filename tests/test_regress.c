/* Regressions on masks and resampling statistics: against scikit-learn, statsmodels and scipy
 * (tests/golden/stats.json), closed forms and exact enumerations. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/json.h"
#include "base/rng.h"
#include "stats/correlate.h"
#include "stats/regress.h"
#include "stats/resample.h"

static json_t *golden;

static void assert_near(double value, double expected, double tolerance) {
  if (!(fabs(value - expected) <= tolerance * fmax(1, fabs(expected))))
    fail_msg("%.12g, expected %.12g within %g", value, expected, tolerance);
}

/* A design of the golden file; masks are texts of 0 and 1. */
typedef struct design {
  int n, p, n_valid;
  uint8_t *masks, *valid_masks;
  double *target, *valid_target;
} design;

static int read_masks(json_t *rows, uint8_t **out) {
  const int n = (int)json_array_size(rows), p = (int)json_string_length(json_array_get(rows, 0));
  *out = calloc((size_t)(n > 0 ? n : 1) * (size_t)(p > 0 ? p : 1), 1);
  assert_non_null(*out);
  for (int i = 0; i < n; i++) {
    const char *row = json_string_value(json_array_get(rows, (size_t)i));
    for (int j = 0; j < p; j++) (*out)[i * p + j] = row[j] == '1';
  }
  return n;
}

static double *read_values(json_t *values) {
  const size_t n = json_array_size(values);
  double *out = calloc(n ? n : 1, sizeof *out);
  assert_non_null(out);
  for (size_t i = 0; i < n; i++) out[i] = json_number_value(json_array_get(values, i));
  return out;
}

static design read_design(json_t *part) {
  design d = {0};
  d.n = read_masks(json_object_get(part, "masks"), &d.masks);
  d.p = (int)json_string_length(json_array_get(json_object_get(part, "masks"), 0));
  d.n_valid = read_masks(json_object_get(part, "valid_masks"), &d.valid_masks);
  d.target = read_values(json_object_get(part, "target"));
  d.valid_target = read_values(json_object_get(part, "valid_target"));
  return d;
}

static void design_dispose(design *d) {
  free(d->masks);
  free(d->valid_masks);
  free(d->target);
  free(d->valid_target);
}

static sl_regress_request request_for(const design *d, sl_regress_kind kind) {
  return (sl_regress_request){.kind = kind, .n = d->n, .p = d->p, .masks = d->masks, .target = d->target,
                              .n_valid = d->n_valid, .valid_masks = d->valid_masks, .valid_target = d->valid_target};
}

/* {"scores": [b0, b...], "errors": [...]} */
static void compare_fit(const sl_regression *fit, json_t *expected, double tolerance) {
  double *scores = read_values(json_object_get(expected, "scores"));
  assert_int_equal(json_array_size(json_object_get(expected, "scores")), fit->p + 1);
  assert_near(fit->intercept, scores[0], tolerance);
  for (int j = 0; j < fit->p; j++) assert_near(fit->score[j], scores[j + 1], tolerance);
  json_t *errors = json_object_get(expected, "errors");
  for (int j = 0; errors && j <= fit->p; j++) {
    const double error = json_number_value(json_array_get(errors, (size_t)j));
    assert_near(j ? fit->error[j - 1] : fit->intercept_error, error, tolerance);
  }
  free(scores);
}

static void compare_path(const sl_regression *fit, json_t *expected, double tolerance) {
  json_t *grid = json_object_get(expected, "grid"), *errors = json_object_get(expected, "grid_errors");
  int best = 0;
  assert_int_equal(fit->n_penalty, json_array_size(grid));
  for (int g = 0; g < fit->n_penalty; g++) {
    const double error = json_number_value(json_array_get(errors, (size_t)g));
    assert_near(fit->grid[g] / json_number_value(json_array_get(grid, (size_t)g)), 1, 1e-10);
    assert_near(fit->grid_error[g], error, tolerance);
    if (error < json_number_value(json_array_get(errors, (size_t)best))) best = g;
  }
  assert_true(best > 0 && best < fit->n_penalty - 1); /* an inner optimum, or the choice would be no test */
  assert_true(fit->penalty == fit->grid[best]);
}

static void least_squares_golden(void **state) {
  (void)state;
  json_t *part = json_object_get(golden, "tall");
  design d = read_design(part);
  sl_regress_request r = request_for(&d, SL_REGRESS_LEAST_SQUARES);
  r.error = SL_REGRESS_ERROR_HC3;
  sl_regression fit;
  assert_int_equal(sl_regress(&fit, &r), SL_OK);
  assert_int_equal(fit.rank, d.p);
  compare_fit(&fit, json_object_get(part, "least_squares"), 1e-10);
  sl_regression_dispose(&fit);
  design_dispose(&d);
}

static void ridge_golden(void **state) {
  (void)state;
  const char *const parts[] = {"tall", "wide"};
  for (int i = 0; i < 2; i++) {
    json_t *part = json_object_get(golden, parts[i]), *ridge = json_object_get(part, "ridge");
    design d = read_design(part);
    sl_regress_request r = request_for(&d, SL_REGRESS_RIDGE);
    sl_regression fit;
    assert_int_equal(sl_regress(&fit, &r), SL_OK);
    compare_path(&fit, ridge, 1e-9);
    assert_true(isnan(fit.error[0]));
    sl_regression_dispose(&fit);
    r.penalty = json_number_value(json_object_get(ridge, "penalty"));
    r.error = SL_REGRESS_ERROR_HC3;
    assert_int_equal(sl_regress(&fit, &r), SL_OK);
    assert_int_equal(fit.n_penalty, 0);
    compare_fit(&fit, ridge, 1e-10);
    sl_regression_dispose(&fit);
    design_dispose(&d);
  }
}

static void lasso_golden(void **state) {
  (void)state;
  json_t *part = json_object_get(golden, "tall"), *lasso = json_object_get(part, "lasso");
  design d = read_design(part);
  sl_regress_request r = request_for(&d, SL_REGRESS_LASSO);
  r.error = SL_REGRESS_ERROR_HC3;
  sl_regression fit;
  assert_int_equal(sl_regress(&fit, &r), SL_OK);
  assert_true(fit.converged);
  compare_path(&fit, lasso, 1e-7);
  sl_regression_dispose(&fit);
  r.penalty = json_number_value(json_object_get(lasso, "penalty"));
  assert_int_equal(sl_regress(&fit, &r), SL_OK);
  compare_fit(&fit, lasso, 1e-7);
  int n_zero = 0;
  for (int j = 0; j < fit.p; j++) n_zero += fit.score[j] == 0 && isnan(fit.error[j]);
  assert_true(n_zero > 0 && n_zero < fit.p);
  sl_regression_dispose(&fit);
  design_dispose(&d);
}

/* Columns 3 (constant), 5 (= 1) and 7 (= not 2): predictions and the other scores are as without them. */
static void rank_deficient(void **state) {
  (void)state;
  json_t *part = json_object_get(golden, "deficient"), *own = json_object_get(part, "own");
  design d = read_design(part);
  sl_regress_request r = request_for(&d, SL_REGRESS_LEAST_SQUARES);
  r.error = SL_REGRESS_ERROR_HC3;
  sl_regression fit;
  assert_int_equal(sl_regress(&fit, &r), SL_OK);
  assert_int_equal(fit.rank, 6);
  assert_int_equal(fit.n_constant, 1);
  assert_int_equal(fit.n_aliased, 2);
  assert_int_equal(fit.column[3], SL_COLUMN_CONSTANT);
  assert_true(fit.score[3] == 0 && isnan(fit.error[3]));
  assert_int_equal((fit.column[1] == SL_COLUMN_ALIASED) + (fit.column[5] == SL_COLUMN_ALIASED), 1);
  assert_int_equal((fit.column[2] == SL_COLUMN_ALIASED) + (fit.column[7] == SL_COLUMN_ALIASED), 1);
  double *predicted = read_values(json_object_get(part, "predicted")), *found = calloc((size_t)d.n, sizeof *found);
  sl_regression_predict(&fit, d.masks, d.n, found);
  for (int i = 0; i < d.n; i++) assert_near(found[i], predicted[i], 1e-10);
  for (size_t k = 0; k < json_array_size(own); k++) {
    const int j = (int)json_integer_value(json_array_get(own, k));
    assert_int_equal(fit.column[j], SL_COLUMN_FITTED);
    assert_near(fit.score[j], json_number_value(json_array_get(json_object_get(part, "scores"), k)), 1e-10);
    assert_near(fit.error[j], json_number_value(json_array_get(json_object_get(part, "errors"), k)), 1e-10);
  }
  free(predicted);
  free(found);
  sl_regression_dispose(&fit);
  design_dispose(&d);
}

/* A linear target without noise comes back exactly, from more masks than a block holds; nothing but constants gives
 * the mean; as many masks as unknowns leave no errors. */
static void exact_cases(void **state) {
  (void)state;
  enum { N = 333, P = 70 };
  static uint8_t masks[N * P];
  static double target[N];
  double b[P];
  for (int j = 0; j < P; j++) b[j] = j % 7 == 0 ? sin(j + 1) : 0;
  for (int i = 0; i < N; i++) {
    target[i] = -2;
    for (int j = 0; j < P; j++) {
      masks[i * P + j] = sl_rng_uniform(5, (uint64_t)i, (uint64_t)j) < 0.9;
      target[i] += masks[i * P + j] * b[j];
    }
  }
  sl_regression fit;
  sl_regress_request r = {.kind = SL_REGRESS_LEAST_SQUARES, .n = N, .p = P, .masks = masks, .target = target,
                          .error = SL_REGRESS_ERROR_HC3};
  assert_int_equal(sl_regress(&fit, &r), SL_OK);
  assert_near(fit.intercept, -2, 1e-12);
  for (int j = 0; j < P; j++) assert_near(fit.score[j], b[j], 1e-13);
  for (int j = 0; j < P; j++) assert_true(fit.error[j] >= 0 && fit.error[j] < 1e-12);
  sl_regression_dispose(&fit);
  r.n = P; /* P points determine P + 1 unknowns */
  assert_int_equal(sl_regress(&fit, &r), SL_OK);
  for (int j = 0; j < P; j++) assert_true(isnan(fit.error[j]));
  sl_regression_dispose(&fit);
  /* A target that never changes has no scores, whatever its mean is rounded to. */
  for (int kind = 0; kind < SL_REGRESS_KIND_COUNT; kind++) {
    double constant[N];
    for (int i = 0; i < N; i++) constant[i] = 0.1;
    r = (sl_regress_request){.kind = (sl_regress_kind)kind, .n = 300, .p = P, .masks = masks, .target = constant,
                             .n_valid = 30, .valid_masks = masks + 300 * P, .valid_target = constant};
    assert_int_equal(sl_regress(&fit, &r), SL_OK);
    for (int j = 0; j < P; j++) assert_true(fit.score[j] == 0);
    assert_true(fit.intercept == 0.1);
    sl_regression_dispose(&fit);
  }
  memset(masks, 1, sizeof masks);
  for (int kind = 0; kind < SL_REGRESS_KIND_COUNT; kind++) {
    const double three[] = {1, 2, 6};
    r = (sl_regress_request){.kind = (sl_regress_kind)kind, .n = 3, .p = P, .masks = masks, .target = three,
                             .n_valid = 2, .valid_masks = masks, .valid_target = target, .error = SL_REGRESS_ERROR_HC3};
    assert_int_equal(sl_regress(&fit, &r), SL_OK);
    assert_near(fit.intercept, 3, 1e-14);
    assert_int_equal(fit.n_constant, P);
    assert_int_equal(fit.rank, 0);
    sl_regression_dispose(&fit);
  }
}

/* The bootstrap's spread is known: the pool's variance times diag(A^-1 S A^-1), here of one column. */
static void bootstrap_spread(void **state) {
  (void)state;
  enum { N = 40 };
  uint8_t mask[N];
  double target[N], s = 0, mean_x = 0, mean_t = 0, c = 0;
  for (int i = 0; i < N; i++) {
    mask[i] = i % 5 < 2;
    target[i] = 3 * mask[i] + sl_rng_normal(3, 0, (uint64_t)i);
    mean_x += mask[i] / (double)N;
    mean_t += target[i] / N;
  }
  for (int i = 0; i < N; i++) {
    s += (mask[i] - mean_x) * (mask[i] - mean_x);
    c += (mask[i] - mean_x) * target[i];
  }
  const double penalty = 2, b = c / (s + penalty);
  double pool[N], mean = 0, variance = 0;
  for (int i = 0; i < N; i++) {
    const double x = mask[i] - mean_x;
    pool[i] = (target[i] - mean_t - b * x) / sqrt(1 - 1.0 / N - x * x / (s + penalty));
    mean += pool[i] / N;
  }
  for (int i = 0; i < N; i++) variance += (pool[i] - mean) * (pool[i] - mean) / N;
  const sl_regress_request r = {.kind = SL_REGRESS_RIDGE, .n = N, .p = 1, .masks = mask, .target = target,
                                .penalty = penalty, .error = SL_REGRESS_ERROR_BOOTSTRAP, .n_boot = 20000, .seed = 9};
  sl_regression fit, again;
  assert_int_equal(sl_regress(&fit, &r), SL_OK);
  assert_near(fit.score[0], b, 1e-13);
  /* 20000 replicates know a standard deviation within 0.5 %: four of those */
  assert_near(fit.error[0] / sqrt(variance * s / ((s + penalty) * (s + penalty))), 1, 0.02);
  const double weight = mean_x * mean_x * s / ((s + penalty) * (s + penalty));
  assert_near(fit.intercept_error / sqrt(variance * (1.0 / N + weight)), 1, 0.02);
  assert_int_equal(sl_regress(&again, &r), SL_OK);
  assert_memory_equal(&again.error[0], &fit.error[0], sizeof fit.error[0]);
  sl_regression_dispose(&fit);
  sl_regression_dispose(&again);
}

static void refusals(void **state) {
  (void)state;
  uint8_t masks[] = {0, 1, 1, 0, 1, 2};
  double target[] = {1, 2, 3};
  sl_regression fit;
  sl_regress_request r = {.kind = SL_REGRESS_LEAST_SQUARES, .n = 3, .p = 2, .masks = masks, .target = target};
  assert_int_equal(sl_regress(&fit, &r), SL_ERROR_ARGUMENT);
  assert_string_equal(sl_error_message(), "mask 2, column 1: 2, where a mask holds 0 or 1");
  assert_null(fit.score);
  masks[5] = 0;
  target[1] = NAN;
  assert_int_equal(sl_regress(&fit, &r), SL_ERROR_ARGUMENT);
  assert_string_equal(sl_error_message(), "the target of mask 1 is not finite");
  target[1] = 5;
  r.kind = SL_REGRESS_RIDGE;
  assert_int_equal(sl_regress(&fit, &r), SL_ERROR_ARGUMENT);
  r.penalty = -1;
  assert_int_equal(sl_regress(&fit, &r), SL_ERROR_ARGUMENT);
  r.penalty = 1;
  r.p = SL_REGRESS_MAX_COLUMN + 1;
  assert_int_equal(sl_regress(&fit, &r), SL_ERROR_ARGUMENT);
  r.p = 2;
  r.n = 1;
  assert_int_equal(sl_regress(&fit, &r), SL_ERROR_ARGUMENT);
  r.n = 3;
  const atomic_bool stop = true;
  r.cancel = &stop;
  assert_int_equal(sl_regress(&fit, &r), SL_ERROR_CANCELLED);
}

static void out_of_memory(void **state) {
  (void)state;
  design d = read_design(json_object_get(golden, "tall"));
  for (int kind = 0; kind < SL_REGRESS_KIND_COUNT; kind++) {
    for (int error = 0; error < SL_REGRESS_ERROR_COUNT; error++) {
      sl_regress_request r = request_for(&d, (sl_regress_kind)kind);
      r.error = (sl_regress_error)error;
      r.n_boot = 3;
      sl_status status = SL_ERROR_MEMORY;
      int n = 1;
      for (; status == SL_ERROR_MEMORY && n < 100; n++) {
        sl_regression fit;
        sl_alloc_fail_at(n);
        status = sl_regress(&fit, &r);
        sl_alloc_fail_at(0);
        sl_regression_dispose(&fit);
      }
      assert_int_equal(status, SL_OK);
      assert_true(n > 8);
    }
  }
  design_dispose(&d);
}

static void agreement(void **state) {
  (void)state;
  json_t *part = json_object_get(golden, "resampling");
  double *x = read_values(json_object_get(part, "x")), *y = read_values(json_object_get(part, "y"));
  sl_agreement found;
  assert_int_equal(sl_agreement_measure(&found, x, y, 25), SL_OK);
  assert_near(found.pearson, json_number_value(json_object_get(part, "pearson")), 1e-12);
  assert_near(found.spearman, json_number_value(json_object_get(part, "spearman")), 1e-12);
  assert_near(found.r2, json_number_value(json_object_get(part, "r2")), 1e-12);
  const double flat[] = {1, 1, 1};
  assert_int_equal(sl_agreement_measure(&found, x, flat, 3), SL_OK);
  assert_true(isnan(found.pearson) && isnan(found.spearman) && isnan(found.r2));
  free(x);
  free(y);
}

static double mean_of(void *user, const int *index, int n) {
  const double *x = user;
  double sum = 0;
  for (int i = 0; i < n; i++) sum += x[index[i]];
  return sum / n;
}

static sl_status bootstrap_mean(sl_interval *out, const double *x, int n, double level, int n_boot, uint64_t seed) {
  return sl_bootstrap(out, n, mean_of, (void *)x, level, n_boot, seed);
}

static void intervals_and_partial_correlation(void **state) {
  (void)state;
  json_t *part = json_object_get(golden, "resampling");
  double *x = read_values(json_object_get(part, "x")), *y = read_values(json_object_get(part, "y")),
         *z = read_values(json_object_get(part, "z"));
  sl_interval interval;
  assert_int_equal(bootstrap_mean(&interval, x, 25, 0.95, 20000, 1), SL_OK);
  const double low = json_number_value(json_object_get(part, "low"));
  const double high = json_number_value(json_object_get(part, "high"));
  assert_near(interval.value, json_number_value(json_object_get(part, "mean")), 1e-12);
  /* a 2.5 % quantile of 20000 replicates has an error of 0.6 % of the width */
  assert_true(fabs(interval.low - low) < 0.025 * (high - low) && fabs(interval.high - high) < 0.025 * (high - low));
  assert_near(sl_partial_correlation(x, y, z, 25), json_number_value(json_object_get(part, "partial")), 1e-12);
  free(x);
  free(y);
  free(z);
}

/* Every column of a curve is resampled as it would be alone, from the same draws. */
static void bootstrap_columns_share_draws(void **state) {
  (void)state;
  enum { N = 25, COL = 3, BOOT = 200 };
  double x[N * COL], column[N], means[BOOT * COL], sorted[BOOT];
  for (int i = 0; i < N * COL; i++) x[i] = sl_rng_normal(3, 1, (uint64_t)i);
  assert_int_equal(sl_bootstrap_columns(means, x, NULL, N, N, COL, BOOT, 9), SL_OK);
  for (int c = 0; c < COL; c++) {
    sl_interval interval;
    for (int i = 0; i < N; i++) column[i] = x[i * COL + c];
    for (int k = 0; k < BOOT; k++) sorted[k] = means[k * COL + c];
    assert_int_equal(bootstrap_mean(&interval, column, N, 0.95, BOOT, 9), SL_OK);
    for (int k = 1; k < BOOT; k++) /* insertion sort */
      for (int m = k; m > 0 && sorted[m] < sorted[m - 1]; m--) {
        const double swap = sorted[m];
        sorted[m] = sorted[m - 1];
        sorted[m - 1] = swap;
      }
    assert_near(sl_quantile(sorted, BOOT, 0.025), interval.low, 1e-12);
    assert_near(sl_quantile(sorted, BOOT, 0.975), interval.high, 1e-12);
  }
  assert_int_equal(sl_bootstrap_columns(means, x, NULL, 0, 0, COL, BOOT, 9), SL_ERROR_ARGUMENT);
}

/* Units are drawn with all of their rows: five copies of each of five rows are five rows, not 25. */
static void bootstrap_draws_units(void **state) {
  (void)state;
  enum { UNIT = 5, COPY = 5, COL = 2, BOOT = 100 };
  double few[UNIT * COL], many[UNIT * COPY * COL], alone[BOOT * COL], together[BOOT * COL];
  int unit[UNIT * COPY];
  for (int i = 0; i < UNIT * COL; i++) few[i] = sl_rng_normal(4, 1, (uint64_t)i);
  for (int i = 0; i < UNIT * COPY; i++) {
    unit[i] = i % UNIT;
    for (int c = 0; c < COL; c++) many[i * COL + c] = few[unit[i] * COL + c];
  }
  assert_int_equal(sl_bootstrap_columns(alone, few, NULL, UNIT, UNIT, COL, BOOT, 9), SL_OK);
  assert_int_equal(sl_bootstrap_columns(together, many, unit, UNIT, UNIT * COPY, COL, BOOT, 9), SL_OK);
  for (int i = 0; i < BOOT * COL; i++) assert_near(alone[i], together[i], 1e-12);
  /* A unit of two rows weighs twice. */
  const double x[3] = {0, 3, 6};
  const int of[3] = {0, 1, 1};
  assert_int_equal(sl_bootstrap_columns(together, x, of, 2, 3, 1, BOOT, 9), SL_OK);
  for (int k = 0; k < BOOT; k++) assert_true(together[k] == 0 || together[k] == 3 || together[k] == 4.5);
}

/* Defined only for a sample that holds all three examples. */
static double of_three(void *user, const int *index, int n) {
  int seen = 0;
  ++*(int *)user;
  for (int i = 0; i < n; i++) seen |= 1 << index[i];
  return seen == 7 ? 7 : NAN;
}

static void resampling_edges(void **state) {
  (void)state;
  const double x[] = {1, 2, 4}, same[] = {2, 4, 8}, one[] = {5};
  sl_interval interval;
  assert_int_equal(bootstrap_mean(&interval, one, 1, 0.95, 100, 1), SL_OK);
  assert_true(interval.value == 5 && isnan(interval.low) && isnan(interval.high));
  assert_int_equal(bootstrap_mean(&interval, one, 0, 0.95, 100, 1), SL_OK);
  assert_true(isnan(interval.value));
  assert_int_equal(bootstrap_mean(&interval, x, 3, 1, 100, 1), SL_ERROR_ARGUMENT);
  assert_true(isnan(sl_partial_correlation(x, one, same, 1)));
  assert_true(isnan(sl_partial_correlation((double[]){1, 2, 4, 7}, (double[]){3, 1, 2, 5}, (double[]){2, 4, 8, 14}, 4)));
  assert_true(isnan(sl_partial_correlation(x, (double[]){3, 1, 2}, (double[]){1, 5, 2}, 3))); /* 1 or -1 always */
  /* Three draws of three examples are three different ones in 2 of 9 cases: too few for an interval. */
  int n_call = 0;
  assert_int_equal(sl_bootstrap(&interval, 3, of_three, &n_call, 0.95, 1000, 1), SL_OK);
  assert_true(interval.value == 7 && isnan(interval.low) && isnan(interval.high) && n_call == 1001);
}

static void similarities(void **state) {
  (void)state;
  const double a[] = {3, 4, 0, 0, -9}, b[] = {0, 5, 12, 0, 0}, zero[5] = {0};
  assert_near(sl_cosine(a, b, 4), 20.0 / (5 * 13), 1e-14);
  assert_true(isnan(sl_cosine(a, zero, 5)));
  double share;
  assert_int_equal(sl_top_jaccard(&share, a, b, 5, 2), SL_OK); /* {1, 0} and {2, 1} */
  assert_near(share, 1.0 / 3, 1e-14);
  assert_int_equal(sl_top_jaccard(&share, a, b, 5, 9), SL_OK);
  assert_near(share, 1, 1e-14);
  assert_int_equal(sl_top_jaccard(&share, zero, b, 5, 2), SL_OK); /* equal values: the first ones, {0, 1} and {2, 1} */
  assert_near(share, 1.0 / 3, 1e-14);
  assert_int_equal(sl_top_jaccard(&share, a, b, 5, 0), SL_OK);
  assert_true(isnan(share));
  assert_near(sl_spearman_brown(0.5, 2), 2.0 / 3, 1e-14);
  assert_near(sl_spearman_brown(0.6, 1.6), 0.96 / 1.36, 1e-14);
  assert_true(isnan(sl_spearman_brown(-0.8, 2)));
  const double sorted[] = {1, 2, 4};
  assert_near(sl_quantile(sorted, 3, 0.75), 3, 1e-14);
  assert_near(sl_quantile(sorted, 3, 1), 4, 1e-14);
  assert_near(sl_quantile(sorted, 1, 0.3), 1, 1e-14);
}

/* Every order of three is drawn about equally often. */
static void shuffles_are_fair(void **state) {
  (void)state;
  int seen[27] = {0}, order[3];
  for (int k = 0; k < 6000; k++) {
    sl_shuffle(order, 3, 12, (uint64_t)k);
    assert_int_equal((1 << order[0]) + (1 << order[1]) + (1 << order[2]), 7);
    seen[order[0] * 9 + order[1] * 3 + order[2]]++;
  }
  for (int i = 0; i < 27; i++) assert_true(seen[i] == 0 || abs(seen[i] - 1000) < 4 * 29); /* sqrt(6000 / 6 * 5 / 6) */
}

static int load(void **state) {
  (void)state;
  return sl_json_load(&golden, SL_SOURCE_DIR "/tests/golden/stats.json", 1 << 20) != SL_OK;
}

static int unload(void **state) {
  (void)state;
  json_decref(golden);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bootstrap_columns_share_draws),
      cmocka_unit_test(bootstrap_draws_units),
      cmocka_unit_test(least_squares_golden), cmocka_unit_test(ridge_golden),     cmocka_unit_test(lasso_golden),
      cmocka_unit_test(rank_deficient),       cmocka_unit_test(exact_cases),      cmocka_unit_test(bootstrap_spread),
      cmocka_unit_test(refusals),             cmocka_unit_test(out_of_memory),    cmocka_unit_test(agreement),
      cmocka_unit_test(intervals_and_partial_correlation),  cmocka_unit_test(resampling_edges), cmocka_unit_test(similarities),
      cmocka_unit_test(shuffles_are_fair),
  };
  return cmocka_run_group_tests(tests, load, unload);
}
