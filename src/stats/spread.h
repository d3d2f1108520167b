/* How a map of non-negative weights is spread. */
#ifndef SL_STATS_SPREAD_H
#define SL_STATS_SPREAD_H

#include "base/memory.h"

/* Entropy in nats of w[n] >= 0 normalised to sum 1: ln n when even, 0 for a single peak. NaN when the sum is 0. */
double sl_entropy(const float *w, int n);

/* Share of the sum of w[n] >= 0 that its ceil(fraction * n) largest values hold (at least one). NaN when the sum is 0.
 */
sl_status sl_top_share(double *share, const float *w, int n, double fraction);

/* Share of the sum of w[n] >= 0 on the positions marked in chosen[n]. NaN when the sum is 0. */
double sl_chosen_share(const float *w, const bool *chosen, int n);

/* Index of the largest value, the first of equal ones; -1 when n is 0. */
int sl_peak(const float *w, int n);

/* First index from which every later value stays below `limit`; values that are NaN are skipped; -1 when there is no
 * such index. */
int sl_first_staying_below(const double *x, int n, double limit);

#endif
