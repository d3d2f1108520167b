/* The cliff curve of a benchmark: its numbers with the picture hidden from layer k on, k = 0 .. L (L: not hidden).
 *
 *   cliff layer = smallest k so that for all k' >= k the lower end of the paired bootstrap 95 % interval of
 *                 score(k') - score(L) is at least -eps        (eps: one point; scores where higher is better)
 *
 * Fewer examples have wider intervals, so they never give an earlier cliff. Beside it the point estimate (the
 * differences themselves instead of their intervals) with its percentile interval over resampled examples.
 *
 * Source: Zhang et al., From Redundancy to Relevance (R2R), arXiv 2406.06579, section 3.4, which reads the layer off the
 * curve; the rule is sightline's. */
#include <math.h>
#include <stdlib.h>

#include "stats/resample.h"
#include "task/eval_internal.h"

typedef struct curve {
  int n, n_point; /* examples that all points have; L + 1 */
  double *values; /* [n_point, n] */
} curve;

/* Smallest k from which on no mean is more than eps below the last; examples index [n]. */
static double cliff_of(void *user, const int *index, int n) {
  const curve *c = user;
  int k = c->n_point - 1;
  for (; k > 0; k--) {
    double sum = 0;
    const double *at = c->values + (size_t)(k - 1) * (size_t)c->n, *plain = c->values + (size_t)(c->n_point - 1) * (size_t)c->n;
    for (int i = 0; i < n; i++) sum += at[index[i]] - plain[index[i]];
    if (sum / n < -SL_EVAL_EPS - 1e-12) break;
  }
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
  for (int i = 0, j = 0; i < n && status == SL_OK; i++)
    if (e->texts[i]) values[j++] = sl_eval_value(e, said[i]);
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
    status = add_point(points, e, texts, k, c->values + (size_t)k * (size_t)c->n);
  }
  free(texts);
  return status;
}

/* Differences to the whole run with intervals, and the cliff by the rule above. */
static sl_status add_differences(json_t *points, const sl_evaluation *e, const curve *c, int *layer) {
  const double *plain = c->values + (size_t)e->n_layer * (size_t)c->n;
  const double sign = e->benchmark->lower_is_better ? -1 : 1;
  bool holds = true;
  *layer = e->n_layer;
  for (int k = e->n_layer; k >= 0; k--) {
    sl_interval d;
    SL_TRY(sl_bootstrap_paired(&d, c->values + (size_t)k * (size_t)c->n, plain, c->n, 0.95, SL_EVAL_BOOT, e->request->seed));
    holds = holds && (k == e->n_layer || d.low >= -SL_EVAL_EPS - 1e-12);
    if (holds) *layer = k;
    json_t *own = json_pack("{s:o, s:o, s:o}", "value", sl_metric_number(sign * d.value), "low",
                            sl_metric_number(sign > 0 ? d.low : -d.high), "high", sl_metric_number(sign > 0 ? d.high : -d.low));
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
  SL_TRY(add_differences(points, e, c, &layer));
  SL_TRY(sl_bootstrap(&estimate, c->n, cliff_of, c, 0.95, SL_EVAL_BOOT, e->request->seed));
  SL_TRY(sl_metric_set(into, "of", json_string(e->benchmark->headline)));
  SL_TRY(sl_metric_set(into, "eps", json_real(SL_EVAL_EPS)));
  SL_TRY(sl_metric_set(into, "layer", json_integer(layer)));
  return sl_metric_set(into, "estimate",
                       json_pack("{s:o, s:o, s:o}", "layer", sl_metric_number(estimate.value), "low",
                                 sl_metric_number(estimate.low), "high", sl_metric_number(estimate.high)));
}

sl_status sl_eval_cliff(json_t *into, const sl_evaluation *e) {
  curve c = {.n_point = e->n_layer + 1};
  json_t *own = json_object();
  SL_TRY(sl_metric_set(into, "cliff", own));
  for (int i = 0; i < e->examples.n; i++) c.n += e->texts[i] != NULL;
  if (c.n == 0) return SL_OK;
  SL_TRY(SL_ALLOC(c.values, (size_t)c.n * (size_t)c.n_point, "scores"));
  const sl_status status = fill(own, e, &c);
  free(c.values);
  return status;
}
