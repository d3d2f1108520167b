/* Linear regression of a target on masks: t(m) ~ b0 + sum_j b_j m_j, every m_j 0 or 1.
 *
 * n masks, p components. Work: n p^2 / 128 word operations for the counts; p^3 / 3 (least squares) or 5 p^3 / 3 (ridge
 * with a chosen penalty) flops for the factorisations; 2 n p^2 for the standard errors. Memory: 12 p^2 + n p / 8 bytes
 * and fixed blocks; there is never an n x p matrix of doubles. Everything is deterministic: the same input gives the
 * same bits on the same processor. */
#ifndef SL_STATS_REGRESS_H
#define SL_STATS_REGRESS_H

#include <stdatomic.h>

#include "base/memory.h"

typedef enum sl_regress_kind {
  SL_REGRESS_LEAST_SQUARES, /* min |t - b0 - X b|^2; aliased columns get 0 */
  SL_REGRESS_RIDGE,         /* ... + penalty |b|^2; the intercept is not penalised */
  SL_REGRESS_LASSO,         /* min |t - b0 - X b|^2 / (2 n) + penalty sum |b_j| */
  SL_REGRESS_KIND_COUNT
} sl_regress_kind;

typedef enum sl_regress_error {
  SL_REGRESS_ERROR_NONE,
  SL_REGRESS_ERROR_HC3,       /* heteroscedasticity-consistent sandwich, residuals divided by 1 - leverage */
  SL_REGRESS_ERROR_BOOTSTRAP, /* spread over refits to fitted values plus resampled leverage-adjusted residuals */
  SL_REGRESS_ERROR_COUNT
} sl_regress_error;

/* What became of a column. Constant and aliased columns have score 0 and error NaN. */
typedef enum sl_regress_column {
  SL_COLUMN_FITTED,
  SL_COLUMN_CONSTANT, /* the same in every mask: its effect cannot be told from the intercept */
  SL_COLUMN_ALIASED   /* a linear combination of other columns (least squares only) */
} sl_regress_column;

#define SL_REGRESS_MAX_COLUMN 16384
#define SL_REGRESS_N_PENALTY 41 /* penalties tried when one is chosen */

/* Zero-initialise what is not needed. */
typedef struct sl_regress_request {
  sl_regress_kind kind;
  int n, p;             /* n >= 2, 1 <= p <= SL_REGRESS_MAX_COLUMN */
  const uint8_t *masks; /* [n, p], every value 0 or 1 */
  const double *target; /* [n], finite */
  /* Ridge and LASSO: > 0 is used as it is; 0 = the one of a logarithmic grid that predicts the validation set best
   * (least squared error; of equal ones the largest). */
  double penalty;
  int n_valid;
  const uint8_t *valid_masks; /* [n_valid, p] */
  const double *valid_target; /* [n_valid] */
  sl_regress_error error;     /* LASSO has none: its errors are NaN (the residual bootstrap is not consistent there) */
  int n_boot;                 /* refits of the bootstrap, at least 2; 0 = 200 */
  uint64_t seed;              /* of the bootstrap */
  const atomic_bool *cancel;  /* may be NULL; looked at between blocks of work */
} sl_regress_request;

typedef struct sl_regression {
  int n, p, rank;    /* rank of the centred masks as far as it was found: p less constant and aliased columns */
  double intercept, intercept_error;
  double *score;     /* [p] b */
  double *error;     /* [p] standard errors; NaN where undefined (no error asked for, or n <= rank + 1) */
  uint8_t *column;   /* [p] sl_regress_column */
  int n_constant, n_aliased;
  double penalty;    /* used; 0 for least squares */
  int n_penalty;     /* tried, 0 when none was chosen: largest first */
  double grid[SL_REGRESS_N_PENALTY], grid_error[SL_REGRESS_N_PENALTY]; /* penalty, validation mean squared error */
  bool converged;    /* false when LASSO's descent stopped at its sweep limit; else true */
} sl_regression;

/* Fits. Errors: SL_ERROR_ARGUMENT for impossible sizes, a mask value that is neither 0 nor 1 or a target that is not
 * finite (row and column are named), no penalty and no validation set; SL_ERROR_MEMORY; SL_ERROR_CANCELLED. On failure
 * *out is empty. Release with sl_regression_dispose. */
sl_status sl_regress(sl_regression *out, const sl_regress_request *request);
void sl_regression_dispose(sl_regression *regression);

/* b0 + masks b into predicted[n]. */
void sl_regression_predict(const sl_regression *regression, const uint8_t *masks, int n, double *predicted);

/* How well predictions agree with the truth on held-out masks. NaN where undefined (n < 2, a constant side). */
typedef struct sl_agreement {
  double pearson, spearman;
  double r2; /* 1 - sum (t - p)^2 / sum (t - mean t)^2; can be negative */
} sl_agreement;
sl_status sl_agreement_measure(sl_agreement *out, const double *predicted, const double *target, int n);

#endif
