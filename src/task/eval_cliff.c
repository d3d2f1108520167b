/* The cliff curve of a benchmark: its numbers with the picture hidden from layer k on, k = 0 .. L (L: not hidden).
 *
 *   cliff layer = smallest k so that for all k' >= k the lower end of the paired bootstrap 95 % interval of
 *                 score(k') - score(L) is at least -eps        (eps: one point; scores where higher is better)
 *
 * Wide intervals put it late, and one picture, which has none, at L. A few pictures that all agree have intervals of
 * no width and may put it early: their number stands beside it. So does the estimate (the differences themselves
 * instead of their intervals) with its percentile interval over resampled pictures (eval_interval.c).
 *
 * Source: Zhang et al., From Redundancy to Relevance (R2R), arXiv 2406.06579, section 3.4, which reads the layer off the
 * curve; the rule is sightline's. */
#include <math.h>
#include <stdlib.h>

#include "stats/resample.h"
#include "task/eval_internal.h"

typedef struct curve {
  int n_point;     /* L + 1 */
  double **values; /* [n_point][examples], higher is better; NaN where there is no answer */
  sl_eval_pool pool;
} curve;

static bool falls(double difference) { return difference < -SL_EVAL_EPS - 1e-12; }

/* Smallest k from which on no mean is more than eps below the last; over the pictures index [n]. */
static double cliff_of(void *user, const int *index, int n) {
  const curve *c = user;
  int k = c->n_point - 1;
  while (k > 0 && !falls(sl_eval_pool_difference(&c->pool, index, n, k - 1, c->n_point - 1))) k--;
  return k;
}

/* Scores one point of the curve and sums it up. */
static sl_status add_point(json_t *points, const sl_evaluation *e, const char *const *texts, int k, double *values) {
  const int n = e->examples.n;
  json_t **said = NULL, *point = json_object();
  SL_TRY(SL_ALLOC(said, (size_t)n, "scores"));
  sl_status status = sl_eval_judge(said, e, texts);
  if (status == SL_OK) status = sl_metric_set(point, "first_hidden_layer", json_integer(k));
  if (status == SL_OK) status = sl_summarise(point, &e->examples, said);
  for (int i = 0; i < n && status == SL_OK; i++) values[i] = e->texts[i] ? sl_eval_value(e, said[i]) : NAN;
  sl_eval_free_said(said, n);
  if (status == SL_OK && json_array_append(points, point) != 0) status = sl_fail(SL_ERROR_MEMORY, "no memory for a point");
  json_decref(point);
  return status;
}

static sl_status add_points(json_t *points, const sl_evaluation *e, curve *c) {
  const int n = e->examples.n;
  const char **texts = NULL;
  SL_TRY(SL_ALLOC(texts, (size_t)n, "answers"));
  sl_status status = SL_OK;
  for (int k = 0; k < c->n_point && status == SL_OK; k++) {
    for (int i = 0; i < n; i++)
      texts[i] = k == e->n_layer ? e->texts[i]
                                 : json_string_value(json_array_get(e->layers[i], (size_t)k));
    status = add_point(points, e, texts, k, c->values[k]);
  }
  free(texts);
  return status;
}

/* Differences to the whole run with intervals, and the cliff by the rule above. */
static sl_status add_differences(json_t *points, const sl_evaluation *e, const curve *c, int *layer) {
  const bool lower = e->benchmark->lower_is_better;
  bool holds = true;
  *layer = e->n_layer;
  for (int k = e->n_layer; k >= 0; k--) {
    sl_interval d;
    SL_TRY(sl_eval_pool_interval(&d, &c->pool, k, e->n_layer, e->request->seed));
    holds = holds && (k == e->n_layer || (!isnan(d.low) && !falls(d.low)));
    if (holds) *layer = k;
    if (lower) d = (sl_interval){0 - d.value, 0 - d.high, 0 - d.low}; /* as the score itself counts; 0 keeps its sign */
    json_t *own = json_pack("{s:o, s:o, s:o}", "value", sl_metric_number(d.value), "low", sl_metric_number(d.low), "high",
                            sl_metric_number(d.high));
    SL_TRY(sl_metric_set(json_array_get(points, (size_t)k), "difference", own));
  }
  return SL_OK;
}

static sl_status fill(json_t *into, const sl_evaluation *e, curve *c) {
  json_t *points = json_array();
  sl_interval estimate;
  int layer;
  SL_TRY(sl_metric_set(into, "curve", points));
  SL_TRY(add_points(points, e, c));
  SL_TRY(sl_eval_pool_new(&c->pool, e, (const double *const *)c->values, c->n_point));
  SL_TRY(add_differences(points, e, c, &layer));
  SL_TRY(sl_bootstrap(&estimate, c->pool.n, cliff_of, c, 0.95, SL_EVAL_BOOT, e->request->seed));
  SL_TRY(sl_metric_set(into, "of", json_string(e->benchmark->headline)));
  SL_TRY(sl_metric_set(into, "eps", json_real(SL_EVAL_EPS)));
  SL_TRY(sl_metric_set(into, "layer", json_integer(layer)));
  SL_TRY(sl_metric_set(into, "pictures", json_integer(c->pool.n)));
  return sl_metric_set(into, "estimate",
                       json_pack("{s:o, s:o, s:o}", "layer", sl_metric_number(estimate.value), "low",
                                 sl_metric_number(estimate.low), "high", sl_metric_number(estimate.high)));
}

sl_status sl_eval_cliff(json_t *into, const sl_evaluation *e) {
  curve c = {.n_point = e->n_layer + 1};
  json_t *own = json_object();
  int n = 0;
  SL_TRY(sl_metric_set(into, "cliff", own));
  for (int i = 0; i < e->examples.n; i++) n += e->texts[i] != NULL;
  if (n == 0) return SL_OK;
  SL_TRY(SL_ALLOC(c.values, (size_t)c.n_point, "scores"));
  sl_status status = SL_OK;
  for (int k = 0; k < c.n_point && status == SL_OK; k++) status = SL_ALLOC(c.values[k], (size_t)e->examples.n, "scores");
  if (status == SL_OK) status = fill(own, e, &c);
  for (int k = 0; k < c.n_point; k++) free(c.values[k]);
  free(c.values);
  sl_eval_pool_dispose(&c.pool);
  return status;
}
