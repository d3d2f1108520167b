/* Linear regression on masks by the centred normal equations.
 *
 *   S = (X - 1 m')' (X - 1 m'),  c = (X - 1 m')' (t - mean t);  (S + penalty I) b = c,  b0 = mean t - m' b
 *
 * Least squares: Cholesky of S with pivoting, which finds constant and aliased columns; ridge: plain Cholesky. Both are
 * followed by one step of correction with the residuals, the corrected semi-normal equations of A. Bjorck, Stability
 * analysis of the method of semi-normal equations for linear least squares problems, 1987: as accurate as orthogonal
 * factorisation unless masks are nearly collinear. */
#include "stats/regress.h"

#include <float.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>

#include "stats/correlate.h"
#include "stats/regress_internal.h"

static void factor_dispose(sl_factor *f) {
  free(f->matrix);
  free(f->use);
  free(f->work);
}

sl_status sl_regress_check_cancel(const sl_regress_request *r) {
  if (r->cancel && atomic_load_explicit(r->cancel, memory_order_relaxed)) SL_FAIL(SL_ERROR_CANCELLED, "interrupted");
  return SL_OK;
}

sl_status sl_lapack_status(int info, const char *routine) {
  if (info == LAPACK_WORK_MEMORY_ERROR || info == LAPACK_TRANSPOSE_MEMORY_ERROR)
    SL_FAIL(SL_ERROR_MEMORY, "no memory for LAPACK's %s", routine);
  if (info < 0) SL_FAIL(SL_ERROR_ARGUMENT, "LAPACK's %s refused argument %d", routine, (int)-info);
  if (info > 0) SL_FAIL(SL_ERROR_ARGUMENT, "LAPACK's %s: the normal equations are singular at %d", routine, (int)info);
  return SL_OK;
}

/* Columns that vary, and the memory for their system. */
static sl_status factor_start(sl_factor *f, sl_regression *out, const sl_gram *gram) {
  const size_t p = (size_t)gram->p;
  SL_TRY(SL_ALLOC(f->use, p, "columns in use"));
  SL_TRY(SL_ALLOC(f->work, p, "columns in use"));
  for (int j = 0; j < gram->p; j++) {
    const uint32_t on = gram->count[(size_t)j * p + (size_t)j];
    if (on == 0 || on == (uint32_t)gram->n)
      out->column[j] = SL_COLUMN_CONSTANT, out->n_constant++;
    else
      f->use[f->n_use++] = j;
  }
  f->rank = f->n_use;
  size_t n_matrix;
  if (!sl_size_mul((size_t)f->n_use, (size_t)f->n_use, &n_matrix))
    SL_FAIL(SL_ERROR_MEMORY, "the normal equations of %d columns do not fit into memory", f->n_use);
  return SL_ALLOC(f->matrix, n_matrix, "normal equations");
}

/* Largest number of masks with a column: what rounding in S is proportional to. */
static double largest_count(const sl_gram *gram) {
  uint32_t most = 1;
  for (int j = 0; j < gram->p; j++) {
    const uint32_t on = gram->count[(size_t)j * (size_t)gram->p + (size_t)j];
    most = on > most ? on : most;
  }
  return most;
}

/* Pivoted Cholesky of S: what is left of an aliased column once the others are taken out is rounding. */
static sl_status factor_pivoted(sl_factor *f, sl_regression *out, const sl_gram *gram) {
  lapack_int *order = NULL, rank = 0;
  int *reordered = NULL;
  const double tolerance = 4 * DBL_EPSILON * largest_count(gram) * (f->n_use > 16 ? f->n_use : 16);
  SL_TRY(SL_ALLOC(order, (size_t)f->n_use, "pivots"));
  sl_status status = SL_ALLOC(reordered, (size_t)gram->p, "columns in use");
  if (status == SL_OK) {
    const lapack_int info =
        LAPACKE_dpstrf(LAPACK_COL_MAJOR, 'L', f->n_use, f->matrix, f->n_use, order, &rank, tolerance);
    if (info < 0) status = sl_lapack_status(info, "dpstrf"); /* above 0: rank-deficient, which `rank` tells */
  }
  if (status == SL_OK) {
    for (int k = 0; k < f->n_use; k++) reordered[k] = f->use[order[k] - 1];
    for (int k = rank; k < f->n_use; k++) out->column[reordered[k]] = SL_COLUMN_ALIASED, out->n_aliased++;
    free(f->use);
    f->use = reordered;
    reordered = NULL;
    out->rank = f->rank = rank;
  }
  free(order);
  free(reordered);
  return status;
}

static sl_status factor_make(sl_factor *f, sl_regression *out, const sl_gram *gram, const sl_regress_request *r) {
  sl_gram_fill(gram, f->use, f->n_use, f->matrix);
  if (f->n_use == 0) return SL_OK;
  if (r->kind == SL_REGRESS_LEAST_SQUARES) return factor_pivoted(f, out, gram);
  for (int k = 0; k < f->n_use; k++) f->matrix[(size_t)k * (size_t)f->n_use + (size_t)k] += out->penalty;
  return sl_lapack_status(LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'L', f->n_use, f->matrix, f->n_use), "dpotrf");
}

/* A^-1 of `n` right-hand sides [rank] each, in place. */
sl_status sl_factor_solve(const sl_factor *f, int n, double *sides) {
  if (f->rank == 0 || n == 0) return SL_OK;
  return sl_lapack_status(
      LAPACKE_dpotrs(LAPACK_COL_MAJOR, 'L', f->rank, n, f->matrix, f->n_use, sides, f->rank), "dpotrs");
}

void sl_regression_take(sl_regression *out, const sl_gram *gram, const int *use, int n_use, const double *b) {
  for (int j = 0; j < out->p; j++) out->score[j] = 0;
  out->intercept = gram->mean_target;
  for (int k = 0; k < n_use; k++) {
    out->score[use[k]] = b[k];
    out->intercept -= gram->mean[use[k]] * b[k];
  }
}

double sl_regression_validate(const sl_regression *regression, const sl_regress_request *r, double *predicted) {
  double sum = 0;
  sl_regression_predict(regression, r->valid_masks, r->n_valid, predicted);
  for (int i = 0; i < r->n_valid; i++) {
    const double e = r->valid_target[i] - predicted[i];
    sum += e * e / r->n_valid;
  }
  return sum;
}

static void residuals(const sl_regression *out, const sl_regress_request *r, double *e) {
  sl_regression_predict(out, r->masks, r->n, e);
  for (int i = 0; i < r->n; i++) e[i] = r->target[i] - e[i];
}

/* b, then one correction by what the residuals still contain. e gets the residuals. */
static sl_status fit(sl_regression *out, const sl_factor *f, const sl_gram *gram, const sl_regress_request *r,
                     double *e) {
  double *b = NULL, *step = NULL;
  sl_status status = SL_ALLOC(b, (size_t)gram->p, "scores");
  if (status == SL_OK) status = SL_ALLOC(step, (size_t)gram->p, "scores");
  for (int k = 0; k < f->rank && status == SL_OK; k++) b[k] = gram->cross[f->use[k]];
  if (status == SL_OK) status = sl_factor_solve(f, 1, b);
  if (status == SL_OK) {
    sl_regression_take(out, gram, f->use, f->rank, b);
    residuals(out, r, e);
    sl_gram_product(gram, r->masks, e, f->use, f->rank, f->work, step);
    for (int k = 0; k < f->rank; k++) step[k] -= out->penalty * b[k];
    status = sl_factor_solve(f, 1, step);
  }
  if (status == SL_OK) {
    for (int k = 0; k < f->rank; k++) b[k] += step[k];
    sl_regression_take(out, gram, f->use, f->rank, b);
    residuals(out, r, e);
  }
  free(b);
  free(step);
  return status;
}

static sl_status check_request(const sl_regress_request *r) {
  if (r->n < 2 || r->p < 1 || r->p > SL_REGRESS_MAX_COLUMN)
    SL_FAIL(SL_ERROR_ARGUMENT, "a regression of %d masks on %d columns: needs at least 2 masks and 1 to %d columns",
            r->n, r->p, SL_REGRESS_MAX_COLUMN);
  if (!(r->penalty >= 0) || isinf(r->penalty))
    SL_FAIL(SL_ERROR_ARGUMENT, "the penalty is %g, expected a finite number of at least 0", r->penalty);
  if (r->n_boot < 0 || r->n_boot == 1)
    SL_FAIL(SL_ERROR_ARGUMENT, "%d bootstrap refits, expected at least 2", r->n_boot);
  if (r->kind != SL_REGRESS_LEAST_SQUARES && r->penalty == 0 && r->n_valid < 1)
    SL_FAIL(SL_ERROR_ARGUMENT, "choosing a penalty needs a validation set");
  return SL_OK;
}

static sl_status regress(sl_regression *out, sl_factor *f, sl_gram *gram, const sl_regress_request *r, double **e) {
  const size_t p = (size_t)r->p;
  SL_TRY(SL_ALLOC(out->score, p, "scores"));
  SL_TRY(SL_ALLOC(out->error, p, "standard errors"));
  SL_TRY(SL_ALLOC(out->column, p, "columns"));
  SL_TRY(SL_ALLOC(*e, (size_t)r->n, "residuals"));
  for (size_t j = 0; j < p; j++) out->error[j] = NAN;
  SL_TRY(sl_gram_build(gram, r));
  SL_TRY(factor_start(f, out, gram));
  out->rank = f->rank;
  out->penalty = r->kind == SL_REGRESS_LEAST_SQUARES ? 0 : r->penalty;
  if (r->kind == SL_REGRESS_LASSO) return sl_lasso(out, gram, f->use, f->n_use, f->matrix, r);
  if (r->kind == SL_REGRESS_RIDGE && r->penalty == 0) SL_TRY(sl_ridge_choose(out, f, gram, r));
  SL_TRY(sl_regress_check_cancel(r));
  SL_TRY(factor_make(f, out, gram, r));
  SL_TRY(fit(out, f, gram, r, *e));
  return sl_regress_errors(out, f, gram, r, *e);
}

sl_status sl_regress(sl_regression *out, const sl_regress_request *request) {
  *out = (sl_regression){.n = request->n, .p = request->p, .intercept_error = NAN, .converged = true};
  sl_factor f = {0};
  sl_gram gram = {0};
  double *e = NULL;
  sl_status status = check_request(request);
  if (status == SL_OK) status = regress(out, &f, &gram, request, &e);
  factor_dispose(&f);
  sl_gram_dispose(&gram);
  free(e);
  if (status != SL_OK) sl_regression_dispose(out);
  return status;
}

void sl_regression_dispose(sl_regression *regression) {
  free(regression->score);
  free(regression->error);
  free(regression->column);
  *regression = (sl_regression){0};
}

void sl_regression_predict(const sl_regression *regression, const uint8_t *masks, int n, double *predicted) {
  const int p = regression->p;
  for (int i = 0; i < n; i++) {
    const uint8_t *row = masks + (size_t)i * (size_t)p;
    double sum = regression->intercept;
    for (int j = 0; j < p; j++) sum += row[j] ? regression->score[j] : 0;
    predicted[i] = sum;
  }
}

sl_status sl_agreement_measure(sl_agreement *out, const double *predicted, const double *target, int n) {
  *out = (sl_agreement){NAN, NAN, NAN};
  if (n < 2) return SL_OK;
  out->pearson = sl_pearson(predicted, target, n);
  double mean = 0, total = 0, left = 0;
  for (int i = 0; i < n; i++) mean += target[i] / n;
  for (int i = 0; i < n; i++) {
    total += (target[i] - mean) * (target[i] - mean);
    left += (target[i] - predicted[i]) * (target[i] - predicted[i]);
  }
  if (!isnan(out->pearson)) out->r2 = 1 - left / total;
  return sl_spearman(&out->spearman, predicted, target, n);
}
