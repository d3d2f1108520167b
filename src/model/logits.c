/* One row of logits: the greedy choice, and the denominator of the softmax with its largest term divided out. */
#include "model/logits.h"

#include <math.h>

int32_t sl_logits_best(const float *z, int n_vocab) {
  int32_t best = 0;
  for (int32_t v = 1; v < n_vocab; v++)
    if (z[v] > z[best]) best = v;
  return best;
}

double sl_logits_sum(const float *z, int n_vocab, int32_t skip, double *top) {
  double sum = 0;
  *top = -INFINITY;
  for (int32_t v = 0; v < n_vocab; v++)
    if (v != skip && z[v] > *top) *top = z[v];
  for (int32_t v = 0; v < n_vocab; v++)
    if (v != skip) sum += exp(z[v] - *top);
  return sum;
}
