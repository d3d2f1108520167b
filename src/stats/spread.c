/* Spread of maps over image tokens.
 *
 *   entropy  -sum p ln p, p = w / sum w */
#include "stats/spread.h"

#include <math.h>
#include <stdlib.h>

static double total(const float *w, int n) {
  double sum = 0;
  for (int i = 0; i < n; i++) sum += w[i];
  return sum;
}

double sl_entropy(const float *w, int n) {
  const double sum = total(w, n);
  if (!(sum > 0)) return NAN;
  double entropy = 0;
  for (int i = 0; i < n; i++) {
    const double p = w[i] / sum;
    if (p > 0) entropy -= p * log(p);
  }
  return fmax(entropy, 0.0);
}

static int descending(const void *a, const void *b) {
  const float x = *(const float *)a, y = *(const float *)b;
  return (x < y) - (x > y);
}

sl_status sl_top_share(double *share, const float *w, int n, double fraction) {
  *share = NAN;
  const double sum = total(w, n);
  if (!(sum > 0)) return SL_OK;
  float *sorted = NULL;
  SL_TRY(SL_ALLOC(sorted, (size_t)n, "sorted map"));
  for (int i = 0; i < n; i++) sorted[i] = w[i];
  qsort(sorted, (size_t)n, sizeof *sorted, descending);
  /* 0.07 * 100 is a little above 7: without the slack one value too many would count. */
  int n_top = (int)ceil(fraction * n - 1e-9);
  if (n_top < 1) n_top = 1;
  if (n_top > n) n_top = n;
  *share = total(sorted, n_top) / sum;
  free(sorted);
  return SL_OK;
}

double sl_chosen_share(const float *w, const bool *chosen, int n) {
  const double sum = total(w, n);
  if (!(sum > 0)) return NAN;
  double inside = 0;
  for (int i = 0; i < n; i++) inside += chosen[i] ? w[i] : 0;
  return inside / sum;
}

int sl_peak(const float *w, int n) {
  int best = n > 0 ? 0 : -1;
  for (int i = 1; i < n; i++) {
    if (w[i] > w[best]) best = i;
  }
  return best;
}

int sl_first_staying_below(const double *x, int n, double limit) {
  int first = -1;
  for (int i = n - 1; i >= 0; i--) {
    if (isnan(x[i])) continue;
    if (x[i] >= limit) break;
    first = i;
  }
  return first;
}
