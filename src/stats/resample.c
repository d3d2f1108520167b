/* Percentile bootstrap (B. Efron, Bootstrap methods: another look at the jackknife, 1979), permutation tests with the
 * "+ 1" of B. Phipson and G. K. Smyth, Permutation p-values should never be zero, 2010, partial correlation
 *
 *   r_xy.z = (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2))
 *
 * and similarities of vectors. */
#include "stats/resample.h"

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "stats/correlate.h"

#define TIE 1e-12 /* a permutation that rounding alone puts below the sample counts as equal */

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double sl_quantile(const double *sorted, int n, double q) {
  const double at = q * (n - 1);
  const int low = (int)floor(at);
  if (low + 1 >= n) return sorted[n - 1];
  return sorted[low] + (at - low) * (sorted[low + 1] - sorted[low]);
}

sl_status sl_bootstrap(sl_interval *out, int n, sl_statistic statistic, void *user, double level, int n_boot,
                       uint64_t seed) {
  *out = (sl_interval){NAN, NAN, NAN};
  if (!(level > 0 && level < 1) || n_boot < 1)
    SL_FAIL(SL_ERROR_ARGUMENT, "bootstrap at level %g with %d replicates: the level lies between 0 and 1, and at least "
            "1 replicate is needed", level, n_boot);
  if (n < 1) return SL_OK;
  int *index = NULL, n_kept = 0;
  double *values = NULL;
  SL_TRY(SL_ALLOC(index, (size_t)n, "drawn examples"));
  const sl_status status = SL_ALLOC(values, (size_t)n_boot, "replicates");
  for (int i = 0; i < n; i++) index[i] = i;
  if (status == SL_OK) out->value = statistic(user, index, n);
  for (int k = 0; k < n_boot && n > 1 && status == SL_OK; k++) {
    for (int i = 0; i < n; i++) index[i] = (int)(sl_rng_uniform(seed, (uint64_t)k, (uint64_t)i) * n);
    const double value = statistic(user, index, n);
    if (!isnan(value)) values[n_kept++] = value;
  }
  if (n_kept > 0) {
    qsort(values, (size_t)n_kept, sizeof *values, ascending);
    out->low = sl_quantile(values, n_kept, (1 - level) / 2);
    out->high = sl_quantile(values, n_kept, (1 + level) / 2);
  }
  free(index);
  free(values);
  return status;
}

typedef struct pair {
  const double *a, *b; /* b may be NULL */
} pair;

static double mean_difference(void *user, const int *index, int n) {
  const pair *x = user;
  double sum = 0;
  for (int i = 0; i < n; i++) sum += x->b ? x->a[index[i]] - x->b[index[i]] : x->a[index[i]];
  return sum / n;
}

sl_status sl_bootstrap_mean(sl_interval *out, const double *x, int n, double level, int n_boot, uint64_t seed) {
  return sl_bootstrap(out, n, mean_difference, &(pair){x, NULL}, level, n_boot, seed);
}

sl_status sl_bootstrap_paired(sl_interval *out, const double *a, const double *b, int n, double level, int n_boot,
                              uint64_t seed) {
  return sl_bootstrap(out, n, mean_difference, &(pair){a, b}, level, n_boot, seed);
}

void sl_shuffle(int *order, int n, uint64_t seed, uint64_t stream) {
  for (int i = 0; i < n; i++) order[i] = i;
  for (int i = n - 1; i > 0; i--) {
    const int j = (int)(sl_rng_uniform(seed, stream, (uint64_t)i) * (i + 1)), swap = order[i];
    order[i] = order[j];
    order[j] = swap;
  }
}

/* Difference of the means of the first n_a and the other values in this order. */
static double split_difference(const double *pool, const int *order, int n_a, int n) {
  double a = 0, b = 0;
  for (int i = 0; i < n; i++) *(i < n_a ? &a : &b) += pool[order[i]];
  return a / n_a - b / (n - n_a);
}

static bool as_far(double value, double sample) { return fabs(value) >= fabs(sample) * (1 - TIE); }

sl_status sl_permutation_two(double *p, const double *a, int n_a, const double *b, int n_b, int n_permute,
                             uint64_t seed) {
  *p = NAN;
  if (n_a < 1 || n_b < 1 || n_permute < 1) return SL_OK;
  const int n = n_a + n_b;
  double *pool = NULL;
  int *order = NULL, n_far = 0;
  SL_TRY(SL_ALLOC(pool, (size_t)n, "values"));
  const sl_status status = SL_ALLOC(order, (size_t)n, "labels");
  if (status == SL_OK) {
    for (int i = 0; i < n; i++) pool[i] = i < n_a ? a[i] : b[i - n_a], order[i] = i;
    const double sample = split_difference(pool, order, n_a, n);
    for (int k = 0; k < n_permute; k++) {
      sl_shuffle(order, n, seed, (uint64_t)k);
      n_far += as_far(split_difference(pool, order, n_a, n), sample);
    }
    *p = (1.0 + n_far) / (1.0 + n_permute);
  }
  free(pool);
  free(order);
  return status;
}

double sl_permutation_paired(const double *a, const double *b, int n, int n_permute, uint64_t seed) {
  if (n < 1 || n_permute < 1) return NAN;
  double sample = 0;
  int n_far = 0;
  for (int i = 0; i < n; i++) sample += a[i] - b[i];
  for (int k = 0; k < n_permute; k++) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
      const bool flip = sl_rng_u64(seed, (uint64_t)k, (uint64_t)i) >> 63;
      sum += flip ? b[i] - a[i] : a[i] - b[i];
    }
    n_far += as_far(sum, sample);
  }
  return (1.0 + n_far) / (1.0 + n_permute);
}

double sl_partial_correlation(const double *x, const double *y, const double *z, int n) {
  const double xy = sl_pearson(x, y, n), xz = sl_pearson(x, z, n), yz = sl_pearson(y, z, n);
  const double left = (1 - xz * xz) * (1 - yz * yz);
  /* Below this, z explains one of them up to rounding and nothing is left to correlate. */
  return left > 1e-14 ? fmax(-1.0, fmin(1.0, (xy - xz * yz) / sqrt(left))) : NAN;
}

double sl_cosine(const double *a, const double *b, int n) {
  double aa = 0, bb = 0, ab = 0;
  for (int i = 0; i < n; i++) {
    aa += a[i] * a[i];
    bb += b[i] * b[i];
    ab += a[i] * b[i];
  }
  const double size = sqrt(aa) * sqrt(bb);
  return size > 0 ? fmax(-1.0, fmin(1.0, ab / size)) : NAN;
}

typedef struct place {
  double value;
  int index;
} place;

static int falling(const void *a, const void *b) {
  const place *x = a, *y = b;
  if (x->value != y->value) return x->value > y->value ? -1 : 1;
  return x->index - y->index;
}

sl_status sl_top_mark(uint8_t *top, const double *x, int n, int n_top) {
  place *sorted = NULL;
  SL_TRY(SL_ALLOC(sorted, (size_t)n, "top values"));
  for (int i = 0; i < n; i++) sorted[i] = (place){x[i], i};
  qsort(sorted, (size_t)n, sizeof *sorted, falling);
  for (int i = 0; i < n_top; i++) top[sorted[i].index]++;
  free(sorted);
  return SL_OK;
}

sl_status sl_top_jaccard(double *share, const double *a, const double *b, int n, int n_top) {
  *share = NAN;
  if (n_top > n) n_top = n;
  if (n_top < 1) return SL_OK;
  uint8_t *seen = NULL;
  SL_TRY(SL_ALLOC(seen, (size_t)n, "top values"));
  sl_status status = sl_top_mark(seen, a, n, n_top);
  if (status == SL_OK) status = sl_top_mark(seen, b, n, n_top);
  int n_both = 0;
  for (int i = 0; i < n; i++) n_both += seen[i] == 2;
  if (status == SL_OK) *share = (double)n_both / (2 * n_top - n_both);
  free(seen);
  return status;
}

double sl_spearman_brown(double r, double k) { return r > 0 ? k * r / (1 + (k - 1) * r) : NAN; }
