/* Likeness of pairs of runs, the ceiling that sampling leaves, and an order to draw them in. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "stats/correlate.h"
#include "stats/resample.h"
#include "task/compare_internal.h"

const char *const sl_likeness_names[SL_LIKE_COUNT] = {"cosine", "spearman", "jaccard"};

/* ---- pairs ---- */

/* Average ranks of every run's scores, and 1 for those among its n_top largest. */
static sl_status rank_runs(const sl_comparison *c, double *ranks, uint8_t *top) {
  for (int i = 0; i < c->n_run; i++) {
    SL_TRY(sl_rank(ranks + (size_t)i * (size_t)c->n, c->runs[i].score, c->n));
    SL_TRY(sl_top_mark(top + (size_t)i * (size_t)c->n, c->runs[i].score, c->n, c->n_top));
  }
  return SL_OK;
}

static double share_of_top(const uint8_t *a, const uint8_t *b, int n) {
  int n_both = 0, n_either = 0;
  for (int j = 0; j < n; j++) {
    n_both += a[j] & b[j];
    n_either += a[j] | b[j];
  }
  return (double)n_both / n_either;
}

static void set_pair(double *matrix, int n, int i, int j, double value) {
  matrix[(size_t)i * (size_t)n + (size_t)j] = matrix[(size_t)j * (size_t)n + (size_t)i] = value;
}

static sl_status measure_pairs(sl_comparison *c) {
  const size_t n = (size_t)c->n, n_run = (size_t)c->n_run;
  double *ranks = NULL;
  uint8_t *top = NULL;
  sl_status status = SL_ALLOC(ranks, n_run * n, "ranks");
  if (status == SL_OK) status = SL_ALLOC(top, n_run * n, "top heads");
  if (status == SL_OK) status = rank_runs(c, ranks, top);
  for (int i = 0; i < c->n_run && status == SL_OK; i++) {
    for (int j = 0; j <= i; j++) {
      const size_t a = (size_t)i * n, b = (size_t)j * n;
      set_pair(c->like[SL_LIKE_COSINE], c->n_run, i, j, sl_cosine(c->runs[i].score, c->runs[j].score, c->n));
      set_pair(c->like[SL_LIKE_SPEARMAN], c->n_run, i, j, sl_pearson(ranks + a, ranks + b, c->n));
      set_pair(c->like[SL_LIKE_JACCARD], c->n_run, i, j, share_of_top(top + a, top + b, c->n));
    }
    status = sl_compare_progress(c, "pairs", i + 1, c->n_run);
  }
  free(ranks);
  free(top);
  return status;
}

/* Features of all pictures point much the same way: what tells pictures apart is left when the mean is taken off. */
static sl_status measure_visual(sl_comparison *c) {
  if (c->n_feature == 0) return sl_compare_warn(c, "not every run holds image.feature: visual likeness is left out");
  const int n = c->n_feature;
  SL_TRY(SL_ALLOC(c->visual, (size_t)c->n_run * (size_t)c->n_run, "visual likeness"));
  for (int j = 0; j < n; j++) {
    double mean = 0;
    for (int i = 0; i < c->n_run; i++) mean += c->runs[i].feature[j] / c->n_run;
    for (int i = 0; i < c->n_run; i++) c->runs[i].feature[j] -= mean;
  }
  for (int i = 0; i < c->n_run; i++)
    for (int j = 0; j <= i; j++)
      set_pair(c->visual, c->n_run, i, j, sl_cosine(c->runs[i].feature, c->runs[j].feature, n));
  return SL_OK;
}

/* ---- ceiling ---- */

/* Scores fitted to every second mask, as the run fitted all: ridge's penalty belongs to a sum over masks and is scaled
 * with their number, LASSO's belongs to a mean. */
static sl_status fit_half(sl_regression *out, const sl_comparison *c, const sl_compared *r, int parity) {
  const size_t n = (size_t)c->n;
  const int n_half = (r->n_mask + 1 - parity) / 2;
  uint8_t *masks = NULL;
  double *target = NULL;
  sl_status status = SL_ALLOC(masks, (size_t)n_half * n, "half of the masks");
  if (status == SL_OK) status = SL_ALLOC(target, (size_t)n_half, "half of the masks");
  for (int i = 0; i < n_half && status == SL_OK; i++) {
    memcpy(masks + (size_t)i * n, r->masks + (size_t)(2 * i + parity) * n, n);
    target[i] = r->target[2 * i + parity];
  }
  const double scale = r->solver == SL_REGRESS_RIDGE && r->n_train > 0 ? (double)n_half / r->n_train : 1;
  const sl_regress_request request = {.kind = r->solver, .n = n_half, .p = c->n, .masks = masks, .target = target,
                                      .penalty = r->penalty * scale};
  if (status == SL_OK) status = sl_regress(out, &request);
  free(masks);
  free(target);
  return status;
}

static sl_status measure_ceiling(sl_comparison *c) {
  SL_TRY(SL_ALLOC(c->ceiling, (size_t)c->n_run * SL_LIKE_COUNT, "split-half likeness"));
  for (int i = 0; i < c->n_run; i++) {
    const sl_compared *r = &c->runs[i];
    double *out = c->ceiling + (size_t)i * SL_LIKE_COUNT;
    out[SL_LIKE_COSINE] = out[SL_LIKE_SPEARMAN] = out[SL_LIKE_JACCARD] = NAN;
    SL_TRY(sl_compare_progress(c, "split halves", i, c->n_run));
    if (r->n_mask < 4) continue;
    sl_regression odd = {0}, even = {0};
    sl_status status = fit_half(&even, c, r, 0);
    if (status == SL_OK) status = fit_half(&odd, c, r, 1);
    if (status == SL_OK) {
      out[SL_LIKE_COSINE] = sl_cosine(even.score, odd.score, c->n);
      status = sl_spearman(&out[SL_LIKE_SPEARMAN], even.score, odd.score, c->n);
    }
    if (status == SL_OK) status = sl_top_jaccard(&out[SL_LIKE_JACCARD], even.score, odd.score, c->n, c->n_top);
    sl_regression_dispose(&even);
    sl_regression_dispose(&odd);
    SL_TRY(status);
  }
  return SL_OK;
}

/* ---- order ---- */

/* Average linkage: the two groups whose members are most alike on average are joined until one is left; `next` chains
 * the members of a group, in the order they were joined. */
static void join_groups(const sl_comparison *c, double *like, int *size, int *next, int *last) {
  const size_t n = (size_t)c->n_run;
  for (int step = 1; step < c->n_run; step++) {
    int a = -1, b = -1;
    for (size_t i = 0; i < n; i++) {
      for (size_t j = i + 1; j < n && size[i]; j++) {
        if (!size[j]) continue;
        if (a < 0 || like[i * n + j] > like[(size_t)a * n + (size_t)b]) a = (int)i, b = (int)j;
      }
    }
    for (size_t k = 0; k < n; k++) {
      const double to_a = like[(size_t)a * n + k], to_b = like[(size_t)b * n + k];
      const double joined = (size[a] * to_a + size[b] * to_b) / (size[a] + size[b]);
      like[(size_t)a * n + k] = like[k * n + (size_t)a] = joined;
    }
    next[last[a]] = b;
    last[a] = last[b];
    size[a] += size[b];
    size[b] = 0;
  }
}

static sl_status make_order(sl_comparison *c) {
  const size_t n = (size_t)c->n_run;
  double *like = NULL;
  int *memory = NULL;
  SL_TRY(SL_ALLOC(c->order, n, "order"));
  SL_TRY(SL_ALLOC(like, n * n, "order"));
  const sl_status status = SL_ALLOC(memory, 3 * n, "order");
  if (status == SL_OK) {
    int *size = memory, *next = size + n, *last = next + n;
    for (int i = 0; i < c->n_run; i++) size[i] = 1, next[i] = -1, last[i] = i;
    for (size_t k = 0; k < n * n; k++) like[k] = isnan(c->like[0][k]) ? -1 : c->like[0][k];
    join_groups(c, like, size, next, last);
    int at = 0; /* group 0 always survives: it is the lower index of every pair it is in */
    for (int class = 0; class <= c->classes.n; class++) {
      for (int i = 0; i >= 0; i = next[i])
        if (c->runs[i].class == (class < c->classes.n ? class : -1)) c->order[at++] = i;
    }
  }
  free(like);
  free(memory);
  return status;
}

sl_status sl_compare_measure(sl_comparison *c) {
  const size_t n_pair = (size_t)c->n_run * (size_t)c->n_run;
  for (int k = 0; k < SL_LIKE_COUNT; k++) SL_TRY(SL_ALLOC(c->like[k], n_pair, "likeness"));
  SL_TRY(measure_pairs(c));
  SL_TRY(measure_visual(c));
  SL_TRY(measure_ceiling(c));
  return make_order(c);
}
