/* What a study's database says, as the numbers of its page: counts, labels, heads, failures, times. SQL aggregates;
 * nothing here grows with the number of examples but what SQLite scans. */
#include <string.h>

#include "analysis/analysis.h"
#include "task/run_json.h"
#include "task/study_report_internal.h"

#define MAX_TOLD_FAILURE 50

sl_status sl_study_each_row(const sl_study_view *v, const char *sql, const char *text,
                            sl_status (*take)(void *user, sl_statement *row), void *user) {
  sl_statement *select;
  bool row = true;
  SL_TRY(sl_statement_new(&select, v->database, sql));
  sl_status status = text ? sl_statement_bind(select, "t", text) : SL_OK;
  while (status == SL_OK && row) {
    status = sl_statement_step(select, &row);
    if (status == SL_OK && row) status = take(user, select);
  }
  sl_statement_free(select);
  return status;
}

sl_status sl_study_append(json_t *list, json_t *value) {
  if (value && json_array_append_new(list, value) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "no memory for the numbers of a study");
}

static json_t *text_or_null(sl_statement *row, int column) {
  const char *text = sl_statement_text(row, column);
  return text ? json_string(text) : json_null();
}

/* ---- examples, labels, groups ---- */

static sl_status take_label(void *user, sl_statement *row) {
  json_t *labels = user, *last = json_array_get(labels, json_array_size(labels) - 1);
  const char *label = sl_statement_text(row, 0);
  if (!last || strcmp(json_string_value(json_object_get(last, "label")), label) != 0) {
    last = json_pack("{s:s, s:[]}", "label", label, "values");
    SL_TRY(sl_study_append(labels, last));
  }
  return sl_study_append(
      json_object_get(last, "values"),
      json_pack("{s:s, s:I, s:I, s:I, s:I}", "value", sl_statement_text(row, 1), "n",
                (json_int_t)sl_statement_integer(row, 2), "scored", (json_int_t)sl_statement_integer(row, 3), "correct",
                (json_int_t)sl_statement_integer(row, 4), "failed", (json_int_t)sl_statement_integer(row, 5)));
}

static sl_status take_unlisted(void *user, sl_statement *row) {
  return sl_study_append(user, json_string(sl_statement_text(row, 0)));
}

static sl_status take_counts(void *user, sl_statement *row) {
  static const char *const names[] = {"rows", "scored", "correct", "failed", "pictures"};
  for (int i = 0; i < 5; i++) SL_TRY(sl_run_json_set(user, names[i], json_integer(sl_statement_integer(row, i))));
  return SL_OK;
}

/* Everything, and the values of the first few labels that have few. */
static sl_status make_groups(sl_study_view *v, int64_t n_all) {
  const json_t *labels = json_object_get(v->said, "labels");
  const char *asked = v->request->label;
  int n_label = 0;
  SL_TRY(sl_study_append(v->groups, json_pack("{s:s, s:s, s:I}", "label", "", "value", "", "n", (json_int_t)n_all)));
  for (size_t i = 0; i < json_array_size(labels); i++) {
    const json_t *label = json_array_get(labels, i), *values = json_object_get(label, "values");
    const char *name = json_string_value(json_object_get(label, "label"));
    if (json_array_size(values) > SL_STUDY_MAX_VALUE) continue;
    if (asked ? strcmp(asked, name) != 0 : n_label >= SL_STUDY_MAX_LABEL) continue;
    n_label++;
    for (size_t k = 0; k < json_array_size(values); k++) {
      const json_t *value = json_array_get(values, k);
      SL_TRY(sl_study_append(v->groups, json_pack("{s:s, s:O, s:O}", "label", name, "value",
                                                  json_object_get(value, "value"), "n", json_object_get(value, "n"))));
    }
  }
  if (asked && n_label == 0)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: --label: expected a label with 2 to %d values, found \"%s\"", v->request->dir,
            SL_STUDY_MAX_VALUE, asked);
  return SL_OK;
}

#define LABELLED                                                                                              \
  "WITH a AS MATERIALIZED (SELECT j.key AS label, CAST(j.atom AS TEXT) AS value, correct, status FROM example," \
  " json_each(example.labels) AS j WHERE j.atom IS NOT NULL),"                                                \
  " k AS MATERIALIZED (SELECT label, count(DISTINCT value) AS n FROM a GROUP BY label) "

sl_status sl_study_say_counts(sl_study_view *v) {
  json_t *labels = json_array(), *unlisted = json_array();
  SL_TRY(sl_run_json_set(v->said, "labels", labels));
  SL_TRY(sl_run_json_set(v->said, "unlisted", unlisted));
  SL_TRY(sl_run_json_set(v->said, "groups", v->groups = json_array()));
  SL_TRY(sl_study_each_row(v, "SELECT count(*), count(correct), sum(correct), sum(status = 'failed'),"
                              " count(DISTINCT image_hash) FROM example", NULL, take_counts, v->said));
  SL_TRY(sl_study_each_row(v,
                           LABELLED
                           "SELECT a.label, a.value, count(*), count(a.correct), sum(a.correct),"
                           " sum(a.status = 'failed') FROM a JOIN k ON k.label = a.label WHERE k.n BETWEEN 2 AND 40"
                           " GROUP BY 1, 2 ORDER BY 1, 2",
                           NULL, take_label, labels));
  _Static_assert(SL_STUDY_MAX_LISTED == 40, "the number in the two queries");
  SL_TRY(sl_study_each_row(v, LABELLED "SELECT label FROM k WHERE n > 40 ORDER BY 1", NULL, take_unlisted, unlisted));
  return make_groups(v, json_integer_value(json_object_get(v->said, "rows")));
}

int sl_study_find_group(const sl_study_view *v, const char *label, const char *value) {
  for (size_t i = 0; i < json_array_size(v->groups); i++) {
    const json_t *group = json_array_get(v->groups, i);
    if (strcmp(json_string_value(json_object_get(group, "label")), label) == 0 &&
        strcmp(json_string_value(json_object_get(group, "value")), value) == 0)
      return (int)i;
  }
  return -1;
}

/* ---- heads ---- */

static sl_status take_head(void *user, sl_statement *row) {
  static const char *const names[] = {"layer", "head", "n", "mean", "se", "stderr", "single", "attention", "patching"};
  for (int c = 0; c < 9; c++)
    SL_TRY(sl_study_append(json_object_get(user, names[c]), c < 3 ? json_integer(sl_statement_integer(row, c))
                                                                  : sl_json_number(sl_statement_real(row, c))));
  return SL_OK;
}

sl_status sl_study_say_heads(sl_study_view *v) {
  json_t *heads = json_pack("{s:[], s:[], s:[], s:[], s:[], s:[], s:[], s:[], s:[]}", "layer", "head", "n", "mean",
                            "se", "stderr", "single", "attention", "patching");
  SL_TRY(sl_run_json_set(v->said, "heads", heads));
  SL_TRY(
      sl_study_each_row(v,
                        "SELECT m.layer, m.head, m.n, m.mean, sqrt(m.variance / m.n), m.stderr, o.single, o.attention,"
                        " o.patching FROM head_mean AS m JOIN (SELECT layer, head, avg(single) AS single,"
                        " avg(attention) AS attention, avg(patching) AS patching FROM head GROUP BY layer, head) AS o"
                        " ON o.layer = m.layer AND o.head = m.head ORDER BY 1, 2",
                        NULL, take_head, heads));
  return SL_OK;
}

/* ---- failures, timing ---- */

static sl_status take_failure(void *user, sl_statement *row) {
  return sl_study_append(user, json_pack("{s:I, s:o, s:o}", "line", (json_int_t)sl_statement_integer(row, 0), "id",
                                         text_or_null(row, 1), "error", text_or_null(row, 2)));
}

sl_status sl_study_say_failures(sl_study_view *v) {
  json_t *list = json_array();
  SL_TRY(sl_run_json_set(v->said, "failures", list));
  _Static_assert(MAX_TOLD_FAILURE == 50, "the number in the query");
  return sl_study_each_row(v, "SELECT line, id, error FROM failure ORDER BY example LIMIT 50", NULL, take_failure,
                           list);
}

static sl_status take_stage(void *user, sl_statement *row) {
  return sl_study_append(user, json_pack("{s:s, s:I, s:o, s:o}", "stage", sl_statement_text(row, 0), "n",
                                         (json_int_t)sl_statement_integer(row, 1), "mean_ms",
                                         sl_json_number(sl_statement_real(row, 2)), "sum_ms",
                                         sl_json_number(sl_statement_real(row, 3))));
}

sl_status sl_study_say_timing(sl_study_view *v) {
  json_t *list = json_array();
  SL_TRY(sl_run_json_set(v->said, "timing", list));
  return sl_study_each_row(v, "SELECT stage, count(*), avg(ms), sum(ms) FROM timing GROUP BY stage ORDER BY 4 DESC",
                           NULL, take_stage, list);
}
