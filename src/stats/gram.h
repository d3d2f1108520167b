/* The centred normal equations of a regression on masks, from exact counts. */
#ifndef SL_STATS_GRAM_H
#define SL_STATS_GRAM_H

#include "stats/regress.h"

/* Zero-initialise; release with sl_gram_dispose. */
typedef struct sl_gram {
  int n, p;
  uint32_t *count;    /* [p, p] lower triangle: masks in which both columns are 1 */
  double *mean;       /* [p] */
  double *cross;      /* [p] sum_i (x_ij - mean_j) (t_i - mean t) */
  double mean_target;
} sl_gram;

sl_status sl_gram_build(sl_gram *out, const sl_regress_request *request);
void sl_gram_dispose(sl_gram *gram);

/* sum_i (x_ia - mean_a) (x_ib - mean_b). */
double sl_gram_at(const sl_gram *gram, int a, int b);

/* That for the columns use[n_use], into the lower triangle (column-major, n_use rows) of `out`. */
void sl_gram_fill(const sl_gram *gram, const int *use, int n_use, double *out);

/* sum_i (x_ij - mean_j) v_i for the columns use[n_use]. `sum` has room for p values. */
void sl_gram_product(const sl_gram *gram, const uint8_t *masks, const double *v, const int *use, int n_use,
                     double *sum, double *out);

#endif
