/* What the parts of sl_regress share: the factored system, and scores from its solution. */
#ifndef SL_STATS_REGRESS_INTERNAL_H
#define SL_STATS_REGRESS_INTERNAL_H

#include "stats/gram.h"

/* S + penalty I = L L' over the columns use[rank]. */
typedef struct sl_factor {
  double *matrix;  /* [n_use, n_use] column-major; L in the lower triangle of the first `rank` columns */
  int *use;        /* [p] columns that take part, in the factor's order */
  int n_use, rank; /* columns that are not constant; of those the ones that are not aliased, which come first */
  double *work;    /* [p] */
} sl_factor;

/* The inverse of `n` right-hand sides [rank] each, in place. */
sl_status sl_factor_solve(const sl_factor *f, int n, double *sides);

/* Scores and intercept from b over the columns use[n_use]; the others get 0. */
void sl_regression_take(sl_regression *out, const sl_gram *gram, const int *use, int n_use, const double *b);

/* Mean squared error on the validation set; `predicted` has room for it. */
double sl_regression_validate(const sl_regression *regression, const sl_regress_request *r, double *predicted);

/* Sets the penalty, and grid and grid_error, from the validation set. Overwrites f's matrix. */
sl_status sl_ridge_choose(sl_regression *out, const sl_factor *f, const sl_gram *gram, const sl_regress_request *r);

/* Fills `error` and `intercept_error` from the residuals e[n]. */
sl_status sl_regress_errors(sl_regression *out, const sl_factor *f, const sl_gram *gram, const sl_regress_request *r,
                            const double *e);

/* Scores over the columns use[n_use] with a penalty that is given or chosen (lasso.c); `matrix` [n_use, n_use] is
 * overwritten. */
sl_status sl_lasso(sl_regression *out, const sl_gram *gram, const int *use, int n_use, double *matrix,
                   const sl_regress_request *request);

sl_status sl_regress_check_cancel(const sl_regress_request *r);

/* The status of a LAPACK routine's return value. */
sl_status sl_lapack_status(int info, const char *routine);

#endif
