/* The cliff layer. The rule is one-sided: a truncation that raises the target costs nothing. It asks for all later
 * layers, so that a curve that recovers in between has its cliff after the last dip.
 * Source: Zhang et al., From Redundancy to Relevance, arXiv 2406.06579, section 3.4, where the layer is read off
 * benchmark scores; the rule for one example is sightline's. */
#include "analysis/cliff_curve.h"

#include <math.h>

int sl_cliff_layer(const double *t, int n, double t_none, double eps) {
  const double plain = t[n - 1], allowed = eps * fabs(plain - t_none);
  if (isnan(allowed)) return -1;
  int k = n - 1;
  while (k > 0 && t[k - 1] - plain >= -allowed) k--;
  return k;
}

int sl_cliff_unchanged(const bool *same, int n) {
  int k = n;
  while (k > 0 && same[k - 1]) k--;
  return k;
}
