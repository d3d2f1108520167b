/* Correlation of two samples. */
#ifndef SL_STATS_CORRELATE_H
#define SL_STATS_CORRELATE_H

#include "base/memory.h"

/* Pearson's r of x[n] and y[n]. NaN when n < 2, when one of them is constant, or when a value is not finite. */
double sl_pearson(const double *x, const double *y, int n);

/* Average ranks of x[n] (1 = smallest, ties share the mean of their places) into rank[n]. Values must be finite. */
sl_status sl_rank(double *rank, const double *x, int n);

/* Spearman's rho: Pearson's r of the average ranks, which is exact with ties. NaN as for sl_pearson. Fails only for
 * want of memory. */
sl_status sl_spearman(double *rho, const double *x, const double *y, int n);

#endif
