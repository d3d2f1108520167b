/* Percentile bootstrap (B. Efron, Bootstrap methods: another look at the jackknife, 1979), random permutations, partial
 * correlation
 *
 *   r_xy.z = (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2))
 *
 * and similarities of vectors. */
#include "stats/resample.h"

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "stats/correlate.h"
#include "stats/order.h"

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
  if (2 * n_kept >= n_boot) { /* fewer: those that are left are not like the sample */
    qsort(values, (size_t)n_kept, sizeof *values, ascending);
    out->low = sl_quantile(values, n_kept, (1 - level) / 2);
    out->high = sl_quantile(values, n_kept, (1 + level) / 2);
  }
  free(index);
  free(values);
  return status;
}

sl_status sl_bootstrap_columns(double *means, const double *x, const int *unit, int n_unit, int n, int n_col, int n_boot,
                               uint64_t seed) {
  if (n < 1 || n_unit < 1 || n_col < 1 || n_boot < 1)
    SL_FAIL(SL_ERROR_ARGUMENT, "bootstrap of %d examples and %d columns with %d replicates", n, n_col, n_boot);
  const size_t width = (size_t)n_col + 1; /* sums of a unit's rows, and how many they are */
  double *sums;
  SL_TRY(SL_ALLOC(sums, (size_t)n_unit * width, "sums of units"));
  for (int i = 0; i < n; i++) {
    double *own = sums + (size_t)(unit ? unit[i] : i) * width;
    for (int c = 0; c < n_col; c++) own[c] += x[(size_t)i * (size_t)n_col + (size_t)c];
    own[n_col]++;
  }
  for (int k = 0; k < n_boot; k++) {
    double *mean = means + (size_t)k * (size_t)n_col, count = 0;
    for (int c = 0; c < n_col; c++) mean[c] = 0;
    for (int i = 0; i < n_unit; i++) {
      const double *own = sums + (size_t)(sl_rng_uniform(seed, (uint64_t)k, (uint64_t)i) * n_unit) * width;
      for (int c = 0; c < n_col; c++) mean[c] += own[c];
      count += own[n_col];
    }
    for (int c = 0; c < n_col; c++) mean[c] /= count;
  }
  free(sums);
  return SL_OK;
}

void sl_shuffle(int *order, int n, uint64_t seed, uint64_t stream) {
  for (int i = 0; i < n; i++) order[i] = i;
  for (int i = n - 1; i > 0; i--) {
    const int j = (int)(sl_rng_uniform(seed, stream, (uint64_t)i) * (i + 1)), swap = order[i];
    order[i] = order[j];
    order[j] = swap;
  }
}

double sl_partial_correlation(const double *x, const double *y, const double *z, int n) {
  if (n < 4) return NAN; /* three points lie on a plane */
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

sl_status sl_top_mark(uint8_t *top, const double *x, int n, int n_top) {
  int *order = NULL;
  SL_TRY(SL_ALLOC(order, (size_t)n, "top values"));
  const sl_status status = sl_order_falling(order, x, n);
  for (int i = 0; i < n_top && status == SL_OK; i++) top[order[i]]++;
  free(order);
  return status;
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
