/* Do labels of the pictures tell which runs use the same heads?
 *
 * Pairs of runs are not independent, so labels are permuted over runs, never over pairs (N. Mantel, The detection of
 * disease clustering and a generalized regression approach, 1967), and intervals draw runs; a pair of a run with itself
 * is no pair. p = (1 + permutations at least as far from their mean) / (1 + permutations), the "+ 1" after B. Phipson and
 * G. K. Smyth, Permutation p-values should never be zero, 2010: it asks whether labels matter inside the groups where
 * they are permuted. Which of two effects is larger is read off the interval, not off p. */
#include <math.h>
#include <stdlib.h>

#include "analysis/analysis.h"
#include "stats/correlate.h"
#include "stats/resample.h"
#include "task/compare_internal.h"

#define N_PERMUTE 2000
#define N_BOOT 1000
#define LEVEL 0.95
#define FAR (1 - 1e-12) /* what rounding alone puts below the sample counts as equal */

typedef enum contrast { BY_CLASS, BY_APPEARANCE, SEMANTICS, N_CONTRAST } contrast;
static const char *const contrast_names[N_CONTRAST] = {"class", "appearance", "semantics"};
static const char *const side_names[N_CONTRAST][2] = {{"within", "between"},
                                                      {"same_appearance", "other_appearance"},
                                                      {"same_class_other_appearance", "other_class_same_appearance"}};

/* What the statistics of one likeness work on. */
typedef struct test {
  const sl_comparison *comparison;
  const double *like;
  contrast contrast;
  int n;
  int *class, *appearance; /* [n] labels as they are, or permuted */
  int *order;              /* [n] scratch */
  const int *place;        /* [n] whose visual likeness a run has: itself, or permuted */
  double *x, *same, *z;    /* [n (n - 1) / 2] pairs */
  bool of_class;           /* partial correlation with class given visual likeness, or the other way round */
} test;

/* 1 when a pair belongs to the first side of the contrast, -1 to the second, 0 to none. */
static int side_of(const test *t, int i, int j) {
  if (t->class[i] < 0 || t->class[j] < 0) return 0;
  const bool same = t->class[i] == t->class[j];
  if (t->contrast == BY_CLASS) return same ? 1 : -1;
  if (t->appearance[i] < 0 || t->appearance[j] < 0) return 0;
  const bool alike = t->appearance[i] == t->appearance[j];
  if (t->contrast == BY_APPEARANCE) return !same ? 0 : alike ? 1 : -1;
  return same == alike ? 0 : same ? 1 : -1;
}

typedef struct sides {
  double sum[2], squares[2];
  int n[2];
} sides;

static sides add_pairs(const test *t, const int *index) {
  sides s = {0};
  for (int a = 0; a < t->n; a++) {
    for (int b = 0; b < a; b++) {
      const int i = index[a], j = index[b], side = i == j ? 0 : side_of(t, i, j);
      const double like = t->like[(size_t)i * (size_t)t->n + (size_t)j];
      if (side == 0 || isnan(like)) continue;
      s.sum[side < 0] += like;
      s.squares[side < 0] += like * like;
      s.n[side < 0]++;
    }
  }
  return s;
}

static double mean_difference(void *user, const int *index, int n) {
  (void)n;
  const sides s = add_pairs(user, index);
  return s.n[0] && s.n[1] ? s.sum[0] / s.n[0] - s.sum[1] / s.n[1] : NAN;
}

/* Whether draw a is the first of its run. */
static bool is_first(const int *index, int a) {
  for (int b = 0; b < a; b++)
    if (index[b] == index[a]) return false;
  return true;
}

#define LEAST_PAIRS 4 /* different ones: three have a partial correlation of 1 or -1 whatever they are */

/* Correlation of head likeness with class or visual likeness over pairs, the other one held fixed. */
static double partial(void *user, const int *index, int n) {
  const test *t = user;
  int n_pair = 0, n_different = 0;
  for (int a = 0; a < n; a++) {
    const bool first = n_different < LEAST_PAIRS && is_first(index, a);
    for (int b = 0; b < a; b++) {
      const int i = index[a], j = index[b];
      const size_t pair = (size_t)i * (size_t)t->n + (size_t)j;
      const double visual = t->comparison->visual[(size_t)t->place[i] * (size_t)t->n + (size_t)t->place[j]];
      if (i == j || t->class[i] < 0 || t->class[j] < 0 || isnan(t->like[pair]) || isnan(visual)) continue;
      t->x[n_pair] = t->like[pair];
      t->same[n_pair] = t->class[i] == t->class[j];
      t->z[n_pair++] = visual;
      if (n_different < LEAST_PAIRS) n_different += first && is_first(index, b);
    }
  }
  if (n_different < LEAST_PAIRS) return NAN;
  return sl_partial_correlation(t->x, t->of_class ? t->same : t->z, t->of_class ? t->z : t->same, n_pair);
}

/* Permutes labels[n] inside the groups of equal `group` (NULL: all one group); labels of -1 stay where they are. */
static void permute(int *labels, const int *original, const int *group, int n, int *scratch, uint64_t seed,
                    uint64_t stream) {
  int *members = scratch, *order = scratch + n;
  for (int first = 0; first < n; first++) {
    if (original[first] < 0) labels[first] = -1;
    bool seen = original[first] < 0;
    for (int i = 0; i < first && !seen; i++) seen = original[i] >= 0 && (!group || group[i] == group[first]);
    if (seen) continue;
    int m = 0;
    for (int i = first; i < n; i++)
      if (original[i] >= 0 && (!group || group[i] == group[first])) members[m++] = i;
    sl_shuffle(order, m, seed, stream * (uint64_t)n + (uint64_t)first);
    for (int k = 0; k < m; k++) labels[members[k]] = original[members[order[k]]];
  }
}

/* Which labels a test permutes, and inside which groups. */
typedef struct permutation {
  int *labels;       /* of the test, restored afterwards */
  const int *group;
} permutation;

/* {value, low, high, null_mean, p} of a statistic. p: the share of permutations whose statistic lies as far from the mean
 * under permutation as the value does; that mean is not 0 when the groups inside which labels move differ themselves. */
static sl_status test_statistic(json_t **out, test *t, sl_statistic statistic, permutation by) {
  const sl_comparison *c = t->comparison;
  const uint64_t seed = c->request->seed;
  sl_interval interval;
  int *original = NULL, *scratch = NULL, n_far = 0, n_defined = 0;
  double *values = NULL, mean;
  SL_TRY(sl_bootstrap(&interval, t->n, statistic, t, LEVEL, N_BOOT, seed));
  SL_TRY(SL_ALLOC(original, (size_t)t->n, "labels"));
  sl_status status = SL_ALLOC(scratch, 2 * (size_t)t->n, "labels");
  if (status == SL_OK) status = SL_ALLOC(values, N_PERMUTE, "permutations");
  mean = interval.value;
  for (int i = 0; i < t->n; i++) original[i] = by.labels[i], t->order[i] = i;
  for (int k = 0; k < N_PERMUTE && status == SL_OK && !isnan(interval.value); k++) {
    permute(by.labels, original, by.group, t->n, scratch, seed, (uint64_t)k);
    const double value = statistic(t, t->order, t->n);
    if (!isnan(value)) values[n_defined++] = value, mean += value;
    if (k % 64 == 63) status = sl_compare_progress(c, "permutations", k + 1, N_PERMUTE);
  }
  for (int i = 0; i < t->n; i++) by.labels[i] = original[i];
  mean /= n_defined + 1; /* the labels as they are count as one permutation */
  for (int k = 0; k < n_defined; k++) n_far += fabs(values[k] - mean) >= fabs(interval.value - mean) * FAR;
  free(original);
  free(scratch);
  free(values);
  SL_TRY(status);
  *out = json_pack("{s:o, s:o, s:o, s:o, s:o}", "null_mean", sl_json_number(n_defined ? mean : NAN), "value", sl_json_number(interval.value), "low", sl_json_number(interval.low),
                   "high", sl_json_number(interval.high), "p",
                   sl_json_number(n_defined ? (1.0 + n_far) / (1.0 + n_defined) : NAN));
  if (!*out) SL_FAIL(SL_ERROR_MEMORY, "no memory for a test");
  return SL_OK;
}

/* Both sides of a contrast and their difference; nothing when a side has no pair. */
static sl_status test_contrast(json_t *into, test *t, contrast which) {
  t->contrast = which;
  for (int i = 0; i < t->n; i++) t->order[i] = i;
  const sides s = add_pairs(t, t->order);
  if (s.n[0] == 0 || s.n[1] == 0) return SL_OK;
  permutation by = {t->class, NULL};
  if (which == BY_APPEARANCE) by = (permutation){t->appearance, t->class};
  if (which == SEMANTICS) by = (permutation){t->class, t->appearance};
  json_t *out = NULL;
  SL_TRY(test_statistic(&out, t, mean_difference, by));
  double spread = 0;
  for (int k = 0; k < 2; k++) {
    const double mean = s.sum[k] / s.n[k];
    spread += s.squares[k] - s.n[k] * mean * mean;
    json_object_set_new(out, side_names[which][k],
                        json_pack("{s:o, s:i}", "mean", sl_json_number(mean), "pairs", s.n[k]));
  }
  const int n_free = s.n[0] + s.n[1] - 2;
  const double d = s.sum[0] / s.n[0] - s.sum[1] / s.n[1];
  json_object_set_new(out, "effect", sl_json_number(n_free > 0 && spread > 0 ? d / sqrt(spread / n_free) : NAN));
  if (json_object_set_new(into, contrast_names[which], out) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "no memory for a test");
}

static sl_status test_partial(json_t *into, test *t) {
  const size_t n_pair = (size_t)t->n * (size_t)(t->n - 1) / 2;
  json_t *class = NULL, *visual = NULL;
  int *place = NULL;
  sl_status status = SL_ALLOC(t->x, n_pair, "pairs");
  if (status == SL_OK) status = SL_ALLOC(t->same, n_pair, "pairs");
  if (status == SL_OK) status = SL_ALLOC(t->z, n_pair, "pairs");
  if (status == SL_OK) status = SL_ALLOC(place, (size_t)t->n, "places");
  for (int i = 0; i < t->n && status == SL_OK; i++) place[i] = i;
  t->place = place;
  t->of_class = true;
  if (status == SL_OK) status = test_statistic(&class, t, partial, (permutation){t->class, NULL});
  t->of_class = false;
  if (status == SL_OK) status = test_statistic(&visual, t, partial, (permutation){place, NULL});
  free(t->x);
  free(t->same);
  free(t->z);
  free(place);
  t->place = NULL;
  if (status == SL_OK &&
      json_object_set_new(into, "partial", json_pack("{s:O, s:O}", "class_given_visual", class, "visual_given_class",
                                                     visual)) != 0)
    status = sl_fail(SL_ERROR_MEMORY, "no memory for a test");
  json_decref(class);
  json_decref(visual);
  return status;
}

sl_status sl_compare_test(json_t **out, const sl_comparison *c, sl_likeness likeness) {
  test t = {.comparison = c, .like = c->like[likeness], .n = c->n_run};
  int *memory = NULL;
  SL_TRY(SL_ALLOC(memory, 3 * (size_t)t.n, "labels"));
  t.class = memory;
  t.appearance = memory + t.n;
  t.order = memory + 2 * t.n;
  for (int i = 0; i < t.n; i++) t.class[i] = c->runs[i].class, t.appearance[i] = c->runs[i].appearance;
  *out = json_object();
  sl_status status = *out ? SL_OK : sl_fail(SL_ERROR_MEMORY, "no memory for the tests");
  for (int k = 0; k < N_CONTRAST && status == SL_OK; k++) status = test_contrast(*out, &t, (contrast)k);
  if (status == SL_OK && c->visual && c->classes.n > 1) status = test_partial(*out, &t);
  free(memory);
  if (status != SL_OK) {
    json_decref(*out);
    *out = NULL;
  }
  return status;
}
