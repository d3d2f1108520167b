/* Where a curve over first-truncated layers stops mattering. Pure functions. */
#ifndef SL_ANALYSIS_CLIFF_CURVE_H
#define SL_ANALYSIS_CLIFF_CURVE_H

#include <stdbool.h>

/* The cliff layer of one example: the smallest k such that at every k' >= k
 *
 *   t[k'] - t[n - 1] >= -eps |t[n - 1] - t_none|
 *
 * t [n] by first-truncated layer, t[n - 1] the plain run, t_none the target without any image. A point that is NaN
 * fulfils nothing. -1 when t[n - 1] or t_none is NaN. */
int sl_cliff_layer(const double *t, int n, double t_none, double eps);

/* The smallest k such that same[k'] at every k' >= k; n when same[n - 1] is false. */
int sl_cliff_unchanged(const bool *same, int n);

#endif
