/* The cliff over examples: score(k) = mean with the picture hidden from layer k on, k = 0 .. L (L: never).
 *
 *   cliff layer = smallest k so that for all k' >= k the lower end of the paired bootstrap 95 % interval of
 *                 score(k') - score(L) is at least -eps
 *
 * Pictures are drawn, each with all of its examples: questions about one picture are not independent. eps: one point of
 * accuracy; for the target, the plan's share (--cliff-eps) of |score(L) - score(no picture)|. Wide
 * intervals put it late, and one picture, which has none, at L. A few pictures that all agree have intervals of no
 * width and may put it early: their number stands beside it. So does the estimate (the differences themselves) with its
 * percentile interval over the same draws. All points of a curve are resampled together.
 *
 * Source: Zhang et al., From Redundancy to Relevance, arXiv 2406.06579, section 3.4, which reads the layer off the
 * curve; the rule is sightline's. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/analysis.h"
#include "stats/resample.h"
#include "task/run_json.h"
#include "task/study_report_internal.h"

#define N_BOOT 1000
#define LEVEL 0.95
#define ACCURACY_EPS 0.01
#define ROUNDING 1e-12

/* One score of all examples that have it. */
typedef struct scores {
  const sl_study_view *view;
  int64_t *example; /* [n] ascending */
  int64_t *picture; /* [n] the first example with the same picture */
  double *value;    /* [n, n_point]; NaN where a point is not there */
  double *none;     /* [n] the target without a picture, NaN = not known */
  int64_t n, capacity;
  int n_point;
} scores;

static void scores_dispose(scores *s) {
  free(s->example);
  free(s->picture);
  free(s->value);
  free(s->none);
}

static sl_status take_width(void *user, sl_statement *row) {
  *(int *)user = sl_statement_text(row, 0) ? (int)sl_statement_integer(row, 0) + 1 : 0;
  return SL_OK;
}

static sl_status add_example(scores *s, int64_t example) {
  if (s->n == s->capacity) {
    s->capacity = s->capacity ? 2 * s->capacity : 1024;
    SL_TRY(SL_REALLOC(s->example, (size_t)s->capacity, "examples"));
    SL_TRY(SL_REALLOC(s->picture, (size_t)s->capacity, "examples"));
    SL_TRY(SL_REALLOC(s->none, (size_t)s->capacity, "examples"));
    SL_TRY(SL_REALLOC(s->value, (size_t)s->capacity * (size_t)s->n_point, "cliff curves"));
  }
  for (int k = 0; k < s->n_point; k++) s->value[s->n * s->n_point + k] = NAN;
  s->none[s->n] = NAN;
  s->example[s->n++] = example;
  return SL_OK;
}

/* example, index, value, no_image, picture: ordered by example. */
static sl_status take_point(void *user, sl_statement *row) {
  scores *s = user;
  const int64_t example = sl_statement_integer(row, 0), k = sl_statement_integer(row, 1);
  if (s->n == 0 || s->example[s->n - 1] != example) SL_TRY(add_example(s, example));
  if (k >= 0 && k < s->n_point) s->value[(s->n - 1) * s->n_point + k] = sl_statement_real(row, 2);
  s->none[s->n - 1] = sl_statement_real(row, 3);
  s->picture[s->n - 1] = sl_statement_integer(row, 4);
  return SL_OK;
}

static sl_status read_scores(scores *s, const char *name) {
  SL_TRY(sl_study_each_row(s->view, "SELECT max(\"index\") FROM series WHERE analysis = 'cliff' AND name = ?1", name,
                           take_width, &s->n_point));
  if (s->n_point < 2) return SL_OK;
  return sl_study_each_row(s->view,
                           "SELECT s.example, s.\"index\", s.value, n.value, p.first FROM series AS s JOIN"
                           " (SELECT example, min(example) OVER (PARTITION BY coalesce(image_hash, example)) AS first"
                           " FROM example) AS p ON p.example = s.example LEFT JOIN scalar AS n"
                           " ON n.example = s.example AND n.analysis = 'cliff' AND n.name = 'no_image'"
                           " WHERE s.analysis = 'cliff' AND s.name = ?1 ORDER BY 1, 2",
                           name, take_point, s);
}

/* ---- one group's curve ---- */

/* Smallest k from which on difference[k'] >= -eps, up to the last point. */
static int cliff_of(const double *difference, int n_point, double eps) {
  int k = n_point - 1;
  while (k > 0 && (isnan(difference[k - 1]) || difference[k - 1] >= -eps - ROUNDING)) k--;
  return k;
}

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* LEVEL interval of x[n], which is sorted on the way. */
static sl_interval interval_of(double value, double *x, int n) {
  qsort(x, (size_t)n, sizeof *x, ascending);
  return (sl_interval){value, sl_quantile(x, n, (1 - LEVEL) / 2), sl_quantile(x, n, (1 + LEVEL) / 2)};
}

static json_t *interval_json(sl_interval i) {
  return json_pack("{s:o, s:o, s:o}", "value", sl_json_number(i.value), "low", sl_json_number(i.low), "high",
                   sl_json_number(i.high));
}

typedef struct group_curve {
  int n, n_point;
  double *x;     /* [n, n_point] */
  int *unit, n_unit; /* [n] the picture of each, counted from 0 */
  double *boot;  /* [N_BOOT, n_point] means of the replicates */
  double *mean, *low, *difference; /* [n_point]; low: of the difference's interval */
  double *sorted; /* [N_BOOT] scratch */
  double eps;
} group_curve;

static void curve_dispose(group_curve *c) {
  free(c->x);
  free(c->unit);
  free(c->boot);
  free(c->mean);
  free(c->sorted);
}

/* Pictures counted from 0 in the order they come. picture[n] < n_example. */
static sl_status count_pictures(group_curve *c, const int64_t *picture, int64_t n_example) {
  int *place; /* plus one */
  SL_TRY(SL_ALLOC(place, (size_t)n_example, "pictures"));
  const sl_status status = SL_ALLOC(c->unit, (size_t)c->n, "pictures");
  for (int i = 0; i < c->n && status == SL_OK; i++) {
    if (place[picture[i]] == 0) place[picture[i]] = ++c->n_unit;
    c->unit[i] = place[picture[i]] - 1;
  }
  free(place);
  return status;
}

/* Examples of the group that have every point that anybody has. member[i] = the example is one of the group. */
static sl_status gather(group_curve *c, const scores *s, const bool *member, bool accuracy, double share) {
  const size_t width = (size_t)s->n_point;
  bool *there = NULL;
  int64_t *picture = NULL;
  double none = 0;
  SL_TRY(SL_ALLOC(there, width, "points"));
  for (int64_t i = 0; i < s->n; i++)
    for (size_t k = 0; k < width; k++) there[k] = there[k] || !isnan(s->value[(size_t)i * width + k]);
  sl_status status = SL_ALLOC(c->x, (size_t)s->n * width, "cliff curves");
  if (status == SL_OK) status = SL_ALLOC(picture, (size_t)s->n, "pictures");
  for (int64_t i = 0; i < s->n && status == SL_OK; i++) {
    const double *row = s->value + (size_t)i * width;
    bool whole = member[i];
    for (size_t k = 0; k < width; k++) whole = whole && (!there[k] || !isnan(row[k]));
    if (!whole) continue;
    none += isnan(s->none[i]) ? row[0] : s->none[i];
    picture[c->n] = s->picture[i];
    memcpy(c->x + (size_t)c->n++ * width, row, width * sizeof *row);
  }
  if (status == SL_OK) status = count_pictures(c, picture, s->example[s->n - 1] + 1);
  free(there);
  free(picture);
  SL_TRY(status);
  c->n_point = s->n_point;
  SL_TRY(SL_ALLOC(c->mean, 3 * width, "cliff curves"));
  c->low = c->mean + width;
  c->difference = c->low + width;
  for (int i = 0; i < c->n; i++)
    for (size_t k = 0; k < width; k++) c->mean[k] += c->x[(size_t)i * width + k] / c->n;
  c->eps = accuracy ? ACCURACY_EPS : share * fabs(c->mean[width - 1] - none / (c->n ? c->n : 1));
  for (size_t k = 0; k < width; k++) c->difference[k] = c->mean[k] - c->mean[width - 1];
  return SL_OK;
}

/* Intervals of the score and of its difference to the plain run, point by point. */
static sl_status say_points(json_t *into, group_curve *c) {
  json_t *means = json_array(), *scores_json = json_array(), *differences = json_array();
  SL_TRY(sl_run_json_set(into, "mean", means));
  SL_TRY(sl_run_json_set(into, "score", scores_json));
  SL_TRY(sl_run_json_set(into, "difference", differences));
  const int last = c->n_point - 1;
  for (int k = 0; k <= last; k++) {
    sl_interval own = {c->mean[k], NAN, NAN}, lost = {c->difference[k], NAN, NAN};
    if (c->n_unit > 1 && !isnan(c->mean[k])) {
      for (int b = 0; b < N_BOOT; b++) c->sorted[b] = c->boot[(size_t)b * (size_t)c->n_point + (size_t)k];
      own = interval_of(c->mean[k], c->sorted, N_BOOT);
      for (int b = 0; b < N_BOOT; b++) {
        const double *means_of = c->boot + (size_t)b * (size_t)c->n_point;
        c->sorted[b] = means_of[k] - means_of[last];
      }
      lost = interval_of(c->difference[k], c->sorted, N_BOOT);
    }
    /* One picture says nothing about others: no interval, so no cliff before the end. */
    c->low[k] = isnan(c->mean[k]) ? NAN : c->n_unit > 1 ? lost.low : k == last ? 0 : -INFINITY;
    SL_TRY(sl_study_append(means, sl_json_number(c->mean[k])));
    SL_TRY(sl_study_append(scores_json, interval_json(own)));
    SL_TRY(sl_study_append(differences, interval_json(lost)));
  }
  return SL_OK;
}

/* "layer" by the rule; "estimate" from the means, with its interval over the replicates. */
static sl_status say_layer(json_t *into, group_curve *c) {
  const int last = c->n_point - 1;
  sl_interval estimate = {cliff_of(c->difference, c->n_point, c->eps), NAN, NAN};
  for (int b = 0; b < N_BOOT && c->n_unit > 1; b++) {
    double *means = c->boot + (size_t)b * (size_t)c->n_point; /* not needed any more: becomes differences */
    const double plain = means[last];
    for (int k = 0; k <= last; k++) means[k] -= plain;
    c->sorted[b] = cliff_of(means, c->n_point, c->eps);
  }
  if (c->n_unit > 1) estimate = interval_of(estimate.value, c->sorted, N_BOOT);
  SL_TRY(sl_run_json_set(into, "eps", json_real(c->eps)));
  SL_TRY(sl_run_json_set(into, "layer", json_integer(cliff_of(c->low, c->n_point, c->eps))));
  return sl_run_json_set(into, "estimate", interval_json(estimate));
}

static sl_status say_group(json_t *list, const scores *s, int group, const bool *member, bool accuracy, double share) {
  group_curve c = {0};
  json_t *out = json_pack("{s:i}", "group", group);
  sl_status status = gather(&c, s, member, accuracy, share);
  if (status == SL_OK && c.n > 0) {
    status = SL_ALLOC(c.boot, (size_t)N_BOOT * (size_t)c.n_point, "replicates");
    if (status == SL_OK) status = SL_ALLOC(c.sorted, N_BOOT, "replicates");
    if (status == SL_OK)
      status = sl_bootstrap_columns(c.boot, c.x, c.unit, c.n_unit, c.n, c.n_point, N_BOOT, s->view->request->seed);
    if (status == SL_OK) status = sl_run_json_set(out, "n", json_integer(c.n));
    if (status == SL_OK) status = sl_run_json_set(out, "pictures", json_integer(c.n_unit));
    if (status == SL_OK) status = say_points(out, &c);
    if (status == SL_OK) status = say_layer(out, &c);
    if (status == SL_OK) status = sl_study_append(list, json_incref(out));
  }
  json_decref(out);
  curve_dispose(&c);
  return status;
}

/* ---- all groups ---- */

typedef struct member_reader {
  const scores *scores;
  const char *value;
  bool *member;
} member_reader;

static int by_number(const void *a, const void *b) {
  const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

static sl_status take_member(void *user, sl_statement *row) {
  const member_reader *r = user;
  const int64_t example = sl_statement_integer(row, 0);
  const int64_t *at =
      r->scores->n ? bsearch(&example, r->scores->example, (size_t)r->scores->n, sizeof example, by_number) : NULL;
  if (at && strcmp(sl_statement_text(row, 1), r->value) == 0) r->member[at - r->scores->example] = true;
  return SL_OK;
}

static sl_status say_groups(json_t *list, const scores *s, bool accuracy, double share) {
  bool *member;
  sl_status status = SL_ALLOC(member, (size_t)s->n, "members");
  for (size_t i = 0; i < json_array_size(s->view->groups) && status == SL_OK; i++) {
    const json_t *group = json_array_get(s->view->groups, i);
    const char *label = json_string_value(json_object_get(group, "label"));
    const member_reader r = {s, json_string_value(json_object_get(group, "value")), member};
    memset(member, i == 0, (size_t)s->n * sizeof *member);
    status = sl_study_check_goes_on(s->view, "cliff", (double)i, (double)json_array_size(s->view->groups));
    if (status == SL_OK && i > 0)
      status = sl_study_each_row(s->view,
                                 "SELECT e.example, CAST(j.atom AS TEXT) FROM example AS e, json_each(e.labels) AS j"
                                 " WHERE j.key = ?1 AND j.atom IS NOT NULL",
                                 label, take_member, (void *)&r);
    if (status == SL_OK) status = say_group(list, s, (int)i, member, accuracy, share);
  }
  free(member);
  return status;
}

static sl_status say_score(sl_study_view *v, json_t *cliff, const char *name, bool accuracy, double share) {
  scores s = {.view = v};
  json_t *list = json_array();
  SL_TRY(sl_run_json_set(cliff, name, list));
  sl_status status = read_scores(&s, name);
  if (status == SL_OK && s.n > 0) status = say_groups(list, &s, accuracy, share);
  scores_dispose(&s);
  return status;
}

static sl_status take_single(void *user, sl_statement *row) {
  return sl_study_append(
      user, json_pack("[I, I]", (json_int_t)sl_statement_integer(row, 0), (json_int_t)sl_statement_integer(row, 1)));
}

static sl_status take_share(void *user, sl_statement *row) {
  *(double *)user = sl_statement_real(row, 0);
  return SL_OK;
}

sl_status sl_study_say_cliff(sl_study_view *v) {
  json_t *cliff = json_object(), *single = json_array();
  double share = NAN; /* no example has a cliff */
  SL_TRY(sl_run_json_set(v->said, "cliff", cliff));
  SL_TRY(sl_run_json_set(cliff, "single", single));
  SL_TRY(sl_study_each_row(v, "SELECT layer, n FROM cliff_layer ORDER BY 1", NULL, take_single, single));
  SL_TRY(sl_study_each_row(
      v, "SELECT value FROM scalar WHERE analysis = 'cliff' AND name = 'eps' AND value IS NOT NULL LIMIT 1", NULL,
      take_share, &share));
  if (!isnan(share)) SL_TRY(sl_run_json_set(cliff, "share", json_real(share)));
  SL_TRY(say_score(v, cliff, "logit", false, share));
  return say_score(v, cliff, "correct", true, share);
}
