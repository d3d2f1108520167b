/* Intervals by resampling, permutations, and the similarities of two vectors that `compare` reports. All random numbers
 * come from (seed, replicate, index): the same seed gives the same result everywhere. */
#ifndef SL_STATS_RESAMPLE_H
#define SL_STATS_RESAMPLE_H

#include "base/memory.h"

typedef struct sl_interval {
  double value;     /* of the sample itself */
  double low, high; /* percentile interval */
} sl_interval;

/* A statistic of the examples index[n] (repeats allowed); NaN where undefined. */
typedef double (*sl_statistic)(void *user, const int *index, int n);

/* Percentile bootstrap of a statistic over n examples drawn with replacement: `level` 0.95 = from the 2.5 % to the
 * 97.5 % quantile (linear between order statistics) of n_boot >= 1 replicates. Replicates that are NaN are left out;
 * when more than half are, or n < 2, low and high are NaN. */
sl_status sl_bootstrap(sl_interval *out, int n, sl_statistic statistic, void *user, double level, int n_boot,
                       uint64_t seed);

/* Means of every column of x[n, n_col] over draws of units with all of their rows: means[k, n_col] of replicate k, so a
 * curve is resampled as one. unit[n] in [0, n_unit), each at least once; NULL: every row is its own (n_unit = n), and the
 * draws are those of sl_bootstrap. */
sl_status sl_bootstrap_columns(double *means, const double *x, const int *unit, int n_unit, int n, int n_col, int n_boot,
                               uint64_t seed);

/* order[n] becomes the permutation of 0..n-1 that replicate `stream` draws (Fisher and Yates). */
void sl_shuffle(int *order, int n, uint64_t seed, uint64_t stream);

/* Pearson's correlation of x and y given z, in [-1, 1]; NaN where undefined, as for n < 4, which has no freedom left. */
double sl_partial_correlation(const double *x, const double *y, const double *z, int n);

/* a'b / (|a| |b|); NaN when one is 0. */
double sl_cosine(const double *a, const double *b, int n);

/* Adds 1 to top[i] for the n_top <= n largest of x[n] (of equal ones the first). */
sl_status sl_top_mark(uint8_t *top, const double *x, int n, int n_top);

/* |A and B| / |A or B| of the index sets of the n_top largest values; NaN when n_top < 1. */
sl_status sl_top_jaccard(double *share, const double *a, const double *b, int n, int n_top);

/* Reliability of a sample k times as long from that of a part: k r / (1 + (k - 1) r); NaN when r is not above 0. */
double sl_spearman_brown(double r, double k);

/* q-quantile of sorted x[n], n >= 1, linear between order statistics. */
double sl_quantile(const double *sorted, int n, double q);

#endif
