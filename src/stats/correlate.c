/* Pearson's and Spearman's correlation.
 *
 *   r = sum (x - mx)(y - my) / sqrt(sum (x - mx)^2 sum (y - my)^2);  rho = r of the average ranks
 *
 * Source: C. Spearman, The proof and measurement of association between two things, 1904; the textbook shortcut
 * 1 - 6 sum d^2 / (n^3 - n) is wrong with ties and is not used. */
#include "stats/correlate.h"

#include <math.h>
#include <stdlib.h>

#include "stats/order.h"

static bool all_finite(const double *x, int n) {
  for (int i = 0; i < n; i++) {
    if (!isfinite(x[i])) return false;
  }
  return true;
}

double sl_pearson(const double *x, const double *y, int n) {
  if (n < 2 || !all_finite(x, n) || !all_finite(y, n)) return NAN;
  double mean_x = 0, mean_y = 0;
  bool constant_x = true, constant_y = true;
  for (int i = 0; i < n; i++) {
    mean_x += x[i] / n;
    mean_y += y[i] / n;
    constant_x = constant_x && x[i] == x[0];
    constant_y = constant_y && y[i] == y[0];
  }
  /* Asked of the values: rounding of the mean can leave a constant sample with a tiny spread. */
  if (constant_x || constant_y) return NAN;
  double xx = 0, yy = 0, xy = 0;
  for (int i = 0; i < n; i++) {
    const double dx = x[i] - mean_x, dy = y[i] - mean_y;
    xx += dx * dx;
    yy += dy * dy;
    xy += dx * dy;
  }
  const double spread = sqrt(xx) * sqrt(yy); /* two roots: the product of two tiny sums could underflow */
  return spread > 0 ? fmax(-1.0, fmin(1.0, xy / spread)) : NAN;
}

sl_status sl_rank(double *rank, const double *x, int n) {
  int *order = NULL;
  SL_TRY(SL_ALLOC(order, (size_t)n, "ranks"));
  const sl_status status = sl_order_falling(order, x, n);
  for (int first = 0, end; first < n && status == SL_OK; first = end) {
    for (end = first + 1; end < n && x[order[end]] == x[order[first]];) end++;
    /* From the smallest on these are places n - end + 1 .. n - first; they share their mean. */
    for (int i = first; i < end; i++) rank[order[i]] = 0.5 * (2 * n - end + 1 - first);
  }
  free(order);
  return status;
}

sl_status sl_spearman(double *rho, const double *x, const double *y, int n) {
  *rho = NAN;
  if (n < 2 || !all_finite(x, n) || !all_finite(y, n)) return SL_OK;
  double *rank = NULL;
  SL_TRY(SL_ALLOC(rank, 2 * (size_t)n, "ranks"));
  sl_status status = sl_rank(rank, x, n);
  if (status == SL_OK) status = sl_rank(rank + n, y, n);
  if (status == SL_OK) *rho = sl_pearson(rank, rank + n, n);
  free(rank);
  return status;
}
