/* LASSO by cyclic coordinate descent on the normal equations.
 *
 *   min |t - b0 - X b|^2 / (2 n) + penalty sum |b_j|:   b_j <- soft(c_j - sum_{k != j} S_jk b_k, n penalty) / S_jj
 *
 * with warm starts along falling penalties. Source: J. Friedman, T. Hastie and R. Tibshirani, Regularization paths for
 * generalized linear models via coordinate descent, 2010 (covariance updates). LAPACK has no such solver. */
#include <math.h>
#include <stdlib.h>

#include "stats/regress_internal.h"

#define MAX_SWEEP 20000
#define TOLERANCE 1e-14 /* of the target's variance, that the largest step of a sweep may still explain */

typedef struct descent {
  const double *matrix; /* [n, n] whole */
  const double *cross;  /* [n] c */
  double *b;            /* [n] */
  double *gradient;     /* [n] c - S b */
  int n;
  double scale;         /* masks */
  double enough;        /* a step that explains less ends the descent */
} descent;

static double soft(double x, double limit) { return x > limit ? x - limit : x < -limit ? x + limit : 0; }

/* One sweep, over all coordinates or those that are not 0; the largest sum of squares a step explained. */
static double sweep(descent *d, double penalty, bool active_only) {
  double most = 0;
  for (int j = 0; j < d->n; j++) {
    if (active_only && d->b[j] == 0) continue;
    const double *column = d->matrix + (size_t)j * (size_t)d->n;
    const double b = soft(d->gradient[j] + column[j] * d->b[j], penalty * d->scale) / column[j];
    const double step = b - d->b[j];
    if (step == 0) continue;
    d->b[j] = b;
    for (int k = 0; k < d->n; k++) d->gradient[k] -= column[k] * step;
    most = fmax(most, column[j] * step * step);
  }
  return most;
}

/* Full sweeps find the active set, short ones settle it. */
static bool descend(descent *d, double penalty, const atomic_bool *cancel) {
  for (int i = 0; i < MAX_SWEEP; i++) {
    if (sweep(d, penalty, false) <= d->enough) return true;
    while (i++ < MAX_SWEEP && sweep(d, penalty, true) > d->enough) {
      if (cancel && atomic_load_explicit(cancel, memory_order_relaxed)) return false;
    }
  }
  return false;
}

/* Down from the penalty at which every score is 0: four decades, or two where columns outnumber masks (below, the fit
 * runs through every target); the best scores are kept in `best`. */
static sl_status choose(sl_regression *out, descent *d, const sl_gram *gram, const int *use,
                        const sl_regress_request *r, double *best, double *predicted) {
  double largest = 0;
  int chosen = -1;
  for (int k = 0; k < d->n; k++) largest = fmax(largest, fabs(d->cross[k]) / d->scale);
  const double decades = gram->n > d->n ? 4 : 2;
  out->n_penalty = SL_REGRESS_N_PENALTY;
  for (int g = 0; g < out->n_penalty; g++) {
    out->grid[g] = largest * pow(10, -decades * g / (SL_REGRESS_N_PENALTY - 1));
    const bool converged = descend(d, out->grid[g], r->cancel);
    SL_TRY(sl_regress_check_cancel(r));
    sl_regression_take(out, gram, use, d->n, d->b);
    out->grid_error[g] = sl_regression_validate(out, r, predicted);
    if (chosen >= 0 && !(out->grid_error[g] < out->grid_error[chosen])) continue;
    chosen = g;
    out->converged = converged;
    for (int k = 0; k < d->n; k++) best[k] = d->b[k];
  }
  out->penalty = out->grid[chosen];
  for (int k = 0; k < d->n; k++) d->b[k] = best[k];
  return SL_OK;
}

static double sum_of_squares(const sl_regress_request *r, double mean) {
  double sum = 0;
  for (int i = 0; i < r->n; i++) sum += (r->target[i] - mean) * (r->target[i] - mean);
  return sum;
}

sl_status sl_lasso(sl_regression *out, const sl_gram *gram, const int *use, int n_use, double *matrix,
                   const sl_regress_request *request) {
  const size_t n = (size_t)n_use;
  double *memory = NULL, *predicted = NULL;
  SL_TRY(SL_ALLOC(memory, 4 * n, "coordinate descent"));
  double *cross = memory + 2 * n, *best = memory + 3 * n;
  sl_gram_fill(gram, use, n_use, matrix);
  for (size_t b = 0; b < n; b++) { /* the other triangle: updates read whole columns */
    for (size_t a = b + 1; a < n; a++) matrix[a * n + b] = matrix[b * n + a];
  }
  for (int k = 0; k < n_use; k++) cross[k] = memory[n + (size_t)k] = gram->cross[use[k]];
  const double enough = TOLERANCE * sum_of_squares(request, gram->mean_target);
  descent d = {matrix, cross, memory, memory + n, n_use, gram->n, enough};
  sl_status status = SL_OK;
  if (request->penalty > 0) {
    out->converged = descend(&d, request->penalty, request->cancel);
    status = sl_regress_check_cancel(request);
  } else {
    status = SL_ALLOC(predicted, (size_t)request->n_valid, "predictions");
    if (status == SL_OK) status = choose(out, &d, gram, use, request, best, predicted);
  }
  if (status == SL_OK) sl_regression_take(out, gram, use, n_use, d.b);
  free(memory);
  free(predicted);
  return status;
}
