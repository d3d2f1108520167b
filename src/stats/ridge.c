/* Ridge's penalty: the one that predicts a validation set best.
 *
 * One factorisation S = Q T Q', T tridiagonal, serves all penalties: (S + penalty I)^-1 c = Q (T + penalty I)^-1 Q' c
 * costs a tridiagonal solve and p^2 for Q. Source: L. Elden, Algorithms for the regularization of ill-conditioned least
 * squares problems, 1977 (there from the bidiagonal form of X). */
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "stats/regress_internal.h"

/* The best of the grid; of equal ones the first, which is the largest. */
static void take_best_penalty(sl_regression *out) {
  int best = 0;
  for (int g = 1; g < out->n_penalty; g++) {
    if (out->grid_error[g] < out->grid_error[best]) best = g;
  }
  out->penalty = out->grid[best];
}

/* b of every penalty, [n_use, n_penalty], from S = Q T Q'. Where T + penalty I is not positive (a tiny penalty and
 * rounding) *usable is false. */
static sl_status ridge_path(const sl_factor *f, const sl_gram *gram, const sl_regression *out, double *b,
                            bool *usable) {
  const int n = f->n_use;
  double *memory = NULL;
  SL_TRY(SL_ALLOC(memory, 6 * (size_t)n, "tridiagonal form"));
  double *d = memory, *e = d + n, *tau = e + n, *d_shifted = tau + n, *e_copy = d_shifted + n, *side = e_copy + n;
  for (int k = 0; k < n; k++) side[k] = gram->cross[f->use[k]];
  sl_gram_fill(gram, f->use, n, f->matrix);
  sl_status status = sl_lapack_status(LAPACKE_dsytrd(LAPACK_COL_MAJOR, 'L', n, f->matrix, n, d, e, tau), "dsytrd");
  if (status == SL_OK)
    status = sl_lapack_status(
        LAPACKE_dormtr(LAPACK_COL_MAJOR, 'L', 'L', 'T', n, 1, f->matrix, n, tau, side, n), "dormtr");
  for (int g = 0; g < out->n_penalty && status == SL_OK; g++) {
    double *column = b + (size_t)g * (size_t)n;
    memcpy(column, side, (size_t)n * sizeof *side);
    memcpy(e_copy, e, (size_t)n * sizeof *e);
    for (int k = 0; k < n; k++) d_shifted[k] = d[k] + out->grid[g];
    const lapack_int info = LAPACKE_dptsv(LAPACK_COL_MAJOR, n, 1, d_shifted, e_copy, column, n);
    if (info < 0) status = sl_lapack_status(info, "dptsv");
    usable[g] = info == 0;
  }
  if (status == SL_OK)
    status = sl_lapack_status(
        LAPACKE_dormtr(LAPACK_COL_MAJOR, 'L', 'L', 'N', n, out->n_penalty, f->matrix, n, tau, b, n), "dormtr");
  free(memory);
  return status;
}

/* Ten decades around the mean eigenvalue of S. */
static void ridge_grid(sl_regression *out, const sl_factor *f, const sl_gram *gram) {
  double trace = 0;
  for (int k = 0; k < f->n_use; k++) trace += sl_gram_at(gram, f->use[k], f->use[k]);
  out->n_penalty = SL_REGRESS_N_PENALTY;
  for (int g = 0; g < out->n_penalty; g++)
    out->grid[g] = (f->n_use ? trace / f->n_use : 1) * pow(10, 4 - 0.25 * g);
}

/* Validation error of one penalty's scores. */
static double path_error(sl_regression *out, const sl_factor *f, const sl_gram *gram, const sl_regress_request *r,
                         const double *b, double *predicted) {
  sl_regression_take(out, gram, f->use, f->n_use, b);
  return sl_regression_validate(out, r, predicted);
}

sl_status sl_ridge_choose(sl_regression *out, const sl_factor *f, const sl_gram *gram, const sl_regress_request *r) {
  bool usable[SL_REGRESS_N_PENALTY] = {false};
  double *b = NULL, *predicted = NULL;
  ridge_grid(out, f, gram);
  if (f->n_use == 0) {
    out->penalty = out->grid[0];
    return SL_OK;
  }
  sl_status status = SL_ALLOC(b, (size_t)f->n_use * SL_REGRESS_N_PENALTY, "ridge path");
  if (status == SL_OK) status = SL_ALLOC(predicted, (size_t)r->n_valid, "predictions");
  if (status == SL_OK) status = ridge_path(f, gram, out, b, usable);
  for (int g = 0; g < out->n_penalty && status == SL_OK; g++)
    out->grid_error[g] =
        usable[g] ? path_error(out, f, gram, r, b + (size_t)g * (size_t)f->n_use, predicted) : INFINITY;
  if (status == SL_OK) take_best_penalty(out);
  free(b);
  free(predicted);
  return status;
}
