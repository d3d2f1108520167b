/* Standard errors of scores. With A = S + penalty I, z_i = A^-1 (x_i - m), leverage h_i = 1/n + (x_i - m)' z_i and
 * residual e_i:
 *
 *   HC3         var b = sum_i z_i z_i' (e_i / (1 - h_i))^2: J. S. Long and L. H. Ervin, Using heteroscedasticity
 *               consistent standard errors in the linear regression model, 2000; for ridge the variance without the
 *               bias
 *   bootstrap   spread of A^-1 (X - 1 m')' e*, e* drawn from the centred e_i / sqrt(1 - h_i): A. C. Davison and
 *               D. V. Hinkley, Bootstrap methods and their application, 1997, section 6.2 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "stats/regress_internal.h"

#define N_BLOCK_ROW 128    /* masks whose leverages are solved for at once */
#define N_DEFAULT_BOOT 200
#define MIN_REMAINDER 1e-9 /* of 1 - leverage: below it a residual says nothing */

/* What a sweep over the rows needs and gathers. */
typedef struct sweep {
  const sl_factor *factor;
  const sl_gram *gram;
  const sl_regress_request *request;
  const double *e;    /* [n] residuals */
  double *leverage;   /* [n] */
  double *variance;   /* [p], in the factor's order; NULL = not wanted */
  double variance_intercept;
  bool undefined;     /* some residual is determined by its own row */
} sweep;

static sl_status sweep_block(sweep *s, int first, int n, double *centred, double *solved) {
  const sl_factor *f = s->factor;
  const size_t rank = (size_t)f->rank;
  for (int i = 0; i < n; i++) {
    const uint8_t *row = s->request->masks + (size_t)(first + i) * (size_t)s->gram->p;
    for (int k = 0; k < f->rank; k++) centred[(size_t)i * rank + (size_t)k] = row[f->use[k]] - s->gram->mean[f->use[k]];
  }
  memcpy(solved, centred, (size_t)n * rank * sizeof *solved);
  SL_TRY(sl_factor_solve(f, n, solved));
  for (int i = 0; i < n; i++) {
    const double *x = centred + (size_t)i * rank, *z = solved + (size_t)i * rank;
    double own = 1.0 / s->gram->n, mean = own;
    for (int k = 0; k < f->rank; k++) {
      own += x[k] * z[k];
      mean -= s->gram->mean[f->use[k]] * z[k]; /* the row's weight in the intercept */
    }
    s->leverage[first + i] = own;
    s->undefined = s->undefined || !(1 - own > MIN_REMAINDER);
    if (!s->variance) continue;
    const double w = s->e[first + i] / (1 - own);
    for (int k = 0; k < f->rank; k++) s->variance[k] += w * w * z[k] * z[k];
    s->variance_intercept += w * w * mean * mean;
  }
  return SL_OK;
}

static sl_status sweep_rows(sweep *s) {
  double *centred = NULL, *solved = NULL;
  const size_t n_block = (size_t)N_BLOCK_ROW * (size_t)s->factor->rank;
  sl_status status = SL_ALLOC(centred, n_block, "rows of masks");
  if (status == SL_OK) status = SL_ALLOC(solved, n_block, "rows of masks");
  for (int first = 0; first < s->gram->n && status == SL_OK; first += N_BLOCK_ROW) {
    const int left = s->gram->n - first;
    status = sl_regress_check_cancel(s->request);
    if (status == SL_OK) status = sweep_block(s, first, left < N_BLOCK_ROW ? left : N_BLOCK_ROW, centred, solved);
  }
  free(centred);
  free(solved);
  return status;
}

/* Right-hand sides of the refits: replicate k draws its residuals from random stream k. */
static sl_status draw_refits(const sweep *s, const double *pool, int n_boot, double *sides, double *means) {
  double *drawn = NULL;
  SL_TRY(SL_ALLOC(drawn, (size_t)s->gram->n, "drawn residuals"));
  sl_status status = SL_OK;
  for (int k = 0; k < n_boot && status == SL_OK; k++) {
    means[k] = 0;
    for (int i = 0; i < s->gram->n; i++) {
      const double u = sl_rng_uniform(s->request->seed, (uint64_t)k, (uint64_t)i);
      drawn[i] = pool[(int)(u * s->gram->n)];
      means[k] += drawn[i] / s->gram->n;
    }
    sl_gram_product(s->gram, s->request->masks, drawn, s->factor->use, s->factor->rank, s->factor->work,
                    sides + (size_t)k * (size_t)s->factor->rank);
    status = sl_regress_check_cancel(s->request);
  }
  free(drawn);
  return status;
}

/* Sample variance of n values, `stride` apart. */
static double variance_of(const double *x, int n, size_t stride) {
  double mean = 0, sum = 0;
  for (int k = 0; k < n; k++) mean += x[(size_t)k * stride] / n;
  for (int k = 0; k < n; k++) {
    const double d = x[(size_t)k * stride] - mean;
    sum += d * d;
  }
  return sum / (n - 1);
}

static sl_status bootstrap(sweep *s, double *pool, double *variance) {
  const int n = s->gram->n, rank = s->factor->rank;
  const int n_boot = s->request->n_boot ? s->request->n_boot : N_DEFAULT_BOOT;
  double *sides = NULL, *means = NULL, mean = 0;
  size_t n_side;
  if (!sl_size_mul((size_t)n_boot, (size_t)rank, &n_side))
    SL_FAIL(SL_ERROR_MEMORY, "%d refits of %d scores do not fit into memory", n_boot, rank);
  for (int i = 0; i < n; i++) {
    pool[i] = s->e[i] / sqrt(1 - s->leverage[i]);
    mean += pool[i] / n;
  }
  for (int i = 0; i < n; i++) pool[i] -= mean;
  sl_status status = SL_ALLOC(sides, n_side, "refits");
  if (status == SL_OK) status = SL_ALLOC(means, (size_t)n_boot, "refits");
  if (status == SL_OK) status = draw_refits(s, pool, n_boot, sides, means);
  if (status == SL_OK) status = sl_factor_solve(s->factor, n_boot, sides);
  if (status == SL_OK) {
    for (int k = 0; k < rank; k++) variance[k] = variance_of(sides + k, n_boot, (size_t)rank);
    for (int k = 0; k < n_boot; k++) {
      const double *b = sides + (size_t)k * (size_t)rank;
      for (int j = 0; j < rank; j++) means[k] -= s->gram->mean[s->factor->use[j]] * b[j];
    }
    s->variance_intercept = variance_of(means, n_boot, 1);
  }
  free(sides);
  free(means);
  return status;
}

/* Least squares through n <= rank + 1 points has no residuals to speak of. */
static bool has_errors(const sl_regression *out, const sl_regress_request *r) {
  if (r->error == SL_REGRESS_ERROR_NONE) return false;
  return r->kind == SL_REGRESS_RIDGE || r->n > out->rank + 1;
}

sl_status sl_regress_errors(sl_regression *out, const sl_factor *f, const sl_gram *gram, const sl_regress_request *r,
                                 const double *e) {
  if (!has_errors(out, r)) return SL_OK;
  double *variance = NULL, *leverage = NULL, *pool = NULL;
  const bool hc3 = r->error == SL_REGRESS_ERROR_HC3;
  sl_status status = SL_ALLOC(variance, (size_t)gram->p, "variances");
  if (status == SL_OK) status = SL_ALLOC(leverage, (size_t)r->n, "leverages");
  if (status == SL_OK) status = SL_ALLOC(pool, (size_t)r->n, "residuals");
  sweep s = {f, gram, r, e, leverage, hc3 ? variance : NULL, 0, false};
  if (status == SL_OK) status = sweep_rows(&s);
  if (status == SL_OK && !hc3 && !s.undefined) status = bootstrap(&s, pool, variance);
  if (status == SL_OK && !s.undefined) {
    for (int k = 0; k < f->rank; k++) out->error[f->use[k]] = sqrt(variance[k]);
    out->intercept_error = sqrt(s.variance_intercept);
  }
  free(variance);
  free(leverage);
  free(pool);
  return status;
}
