/* Mean curves over layers of all examples and of every group: one pass over the series, whose rows lie together by
 * example (grouping them in SQL sorts all of them once for every label).
 *
 *   mean = sum x / n;   standard error = sqrt((sum x^2 / n - mean^2) / (n - 1)) */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/analysis.h"
#include "base/text.h"
#include "task/run_json.h"
#include "task/study_report_internal.h"

#define PROGRESS_EXAMPLES 256

static const struct {
  const char *analysis, *name;
} curves[] = {{"cam", "entropy"},       {"cam", "flow_correlation"}, {"cam", "mass_share"},
              {"cam", "object_share"},  {"cam", "pointing"},         {"cam", "top_share"},
              {"flow", "entropy"},      {"flow", "image_share"},     {"flow", "object_share"},
              {"flow", "pointing"},     {"flow", "share.generated"}, {"flow", "share.structure"},
              {"flow", "share.system"}, {"flow", "share.user"},      {"flow", "top_share"}};
#define N_CURVE ((int)(sizeof curves / sizeof *curves))

typedef struct sums {
  int64_t n;
  double sum, squares;
} sums;

typedef struct reader {
  const sl_study_view *view;
  int n_layer, n_group, n_label;
  const char *label[SL_STUDY_MAX_LABEL]; /* that is split by; borrowed */
  int64_t n_example;
  int8_t *group; /* [n_example, n_label] index into groups, -1 = none */
  sums *at;      /* [N_CURVE, n_group, n_layer] */
  int label_read, curve, n_read;
  int64_t example;
} reader;

/* ---- which groups an example is in ---- */

static sl_status take_member(void *user, sl_statement *row) {
  reader *r = user;
  const int64_t example = sl_statement_integer(row, 0);
  const int group = sl_study_find_group(r->view, r->label[r->label_read], sl_statement_text(row, 1));
  if (example >= 0 && example < r->n_example) r->group[example * r->n_label + r->label_read] = (int8_t)group;
  return SL_OK;
}

static sl_status read_members(reader *r) {
  for (int g = 1; g < r->n_group; g++) {
    const char *label = json_string_value(json_object_get(json_array_get(r->view->groups, (size_t)g), "label"));
    if (r->n_label == 0 || strcmp(r->label[r->n_label - 1], label) != 0) r->label[r->n_label++] = label;
  }
  SL_TRY(sl_database_integer(r->view->database, "SELECT max(example) + 1 FROM example", &r->n_example));
  SL_TRY(SL_ALLOC(r->group, (size_t)r->n_example * (size_t)r->n_label, "groups"));
  memset(r->group, -1, (size_t)r->n_example * (size_t)r->n_label);
  for (r->label_read = 0; r->label_read < r->n_label; r->label_read++)
    SL_TRY(sl_study_each_row(r->view,
                             "SELECT e.example, CAST(j.atom AS TEXT) FROM example AS e, json_each(e.labels) AS j"
                             " WHERE j.key = ?1 AND j.atom IS NOT NULL",
                             r->label[r->label_read], take_member, r));
  return SL_OK;
}

/* ---- adding up ---- */

/* Rows come in the curves' order within an example: the search goes on where it stopped. */
static int find_curve(const reader *r, const char *analysis, const char *name) {
  for (int step = 0; step < N_CURVE; step++) {
    const int i = (r->curve + step) % N_CURVE;
    if (strcmp(curves[i].name, name) == 0 && strcmp(curves[i].analysis, analysis) == 0) return i;
  }
  return -1;
}

static void add(reader *r, int group, int64_t layer, double value) {
  sums *s = &r->at[((int64_t)r->curve * r->n_group + group) * r->n_layer + layer];
  s->n++;
  s->sum += value;
  s->squares += value * value;
}

static sl_status take_value(void *user, sl_statement *row) {
  reader *r = user;
  const int64_t example = sl_statement_integer(row, 0), layer = sl_statement_integer(row, 3);
  const double value = sl_statement_real(row, 4);
  if (example != r->example && r->n_read++ % PROGRESS_EXAMPLES == 0)
    SL_TRY(sl_study_check_goes_on(r->view, "curves", (double)example, (double)r->n_example));
  r->example = example;
  const int curve = find_curve(r, sl_statement_text(row, 1), sl_statement_text(row, 2));
  if (curve < 0 || isnan(value) || layer < 0 || layer >= r->n_layer || example < 0 || example >= r->n_example)
    return SL_OK;
  r->curve = curve;
  add(r, 0, layer, value);
  for (int l = 0; l < r->n_label; l++) {
    const int group = r->group[example * r->n_label + l];
    if (group >= 0) add(r, group, layer, value);
  }
  return SL_OK;
}

/* ---- telling ---- */

static sl_status say_curve(json_t *list, const sums *of, int group, int n_layer) {
  int64_t most = 0;
  for (int il = 0; il < n_layer; il++) most = of[il].n > most ? of[il].n : most;
  if (most == 0) return SL_OK;
  json_t *curve = json_pack("{s:i, s:[], s:[], s:[]}", "group", group, "n", "mean", "se");
  SL_TRY(sl_study_append(list, curve));
  for (int il = 0; il < n_layer; il++) {
    const double n = (double)of[il].n, mean = of[il].sum / n, spread = fmax(0, of[il].squares / n - mean * mean);
    SL_TRY(sl_study_append(json_object_get(curve, "n"), json_integer(of[il].n)));
    SL_TRY(sl_study_append(json_object_get(curve, "mean"), sl_json_number(n > 0 ? mean : NAN)));
    SL_TRY(sl_study_append(json_object_get(curve, "se"), sl_json_number(n > 1 ? sqrt(spread / (n - 1)) : NAN)));
  }
  return SL_OK;
}

static sl_status say_all(json_t *said, const reader *r) {
  for (int i = 0; i < N_CURVE; i++) {
    sl_text name = {0};
    json_t *list = json_array();
    sl_status status = sl_text_format(&name, "%s.%s", curves[i].analysis, curves[i].name);
    for (int g = 0; g < r->n_group && status == SL_OK; g++)
      status = say_curve(list, r->at + ((int64_t)i * r->n_group + g) * r->n_layer, g, r->n_layer);
    if (status == SL_OK && json_array_size(list) > 0) status = sl_run_json_set(said, name.data, json_incref(list));
    json_decref(list);
    sl_text_dispose(&name);
    SL_TRY(status);
  }
  return SL_OK;
}

sl_status sl_study_say_curves(sl_study_view *v) {
  json_t *said = json_object();
  reader r = {.view = v, .example = -1, .n_group = (int)json_array_size(v->groups),
              .n_layer = (int)json_integer_value(sl_json_at(v->root, "model.n_layer"))};
  SL_TRY(sl_run_json_set(v->said, "curves", said));
  sl_status status = read_members(&r);
  if (status == SL_OK) status = SL_ALLOC(r.at, (size_t)N_CURVE * (size_t)r.n_group * (size_t)r.n_layer, "curves");
  if (status == SL_OK)
    status = sl_study_each_row(v,
                               "SELECT example, analysis, name, \"index\", value FROM series"
                               " WHERE analysis IN ('cam', 'flow') ORDER BY 1, 2, 3, 4",
                               NULL, take_value, &r);
  if (status == SL_OK) status = say_all(said, &r);
  free(r.group);
  free(r.at);
  return status;
}
