/* Likeness of head scores between examples of a study: what `compare` says of run directories, of a sample of examples
 * that is spread evenly over the study and over the values of one label. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "task/compare_internal.h"
#include "task/run_json.h"
#include "task/study_report_internal.h"

#define MAX_SAMPLE 120 /* examples: the matrix has its square */

/* Examples with head scores, and the value of the label that they are told apart by. */
typedef struct candidates {
  int64_t *example;
  int *class; /* index into labels, -1 = none */
  int n, capacity;
  sl_labels labels;
} candidates;

static sl_status take_candidate(void *user, sl_statement *row) {
  candidates *c = user;
  if (c->n == c->capacity) {
    c->capacity = c->capacity ? 2 * c->capacity : 1024;
    SL_TRY(SL_REALLOC(c->example, (size_t)c->capacity, "examples"));
    SL_TRY(SL_REALLOC(c->class, (size_t)c->capacity, "examples"));
  }
  c->example[c->n] = sl_statement_integer(row, 0);
  return sl_compare_label(&c->labels, sl_statement_text(row, 1), &c->class[c->n++]);
}

static void candidates_dispose(candidates *c) {
  for (int i = 0; i < c->labels.n; i++) free(c->labels.texts[i]);
  free(c->labels.texts);
  free(c->example);
  free(c->class);
}

static int count_class(const candidates *c, int class) {
  int n = 0;
  for (int i = 0; i < c->n; i++) n += c->class[i] == class;
  return n;
}

/* Marks of every class the same number, evenly spread over its examples; the largest number that fits. */
static int mark_sample(const candidates *c, bool *chosen) {
  int each = MAX_SAMPLE, n = MAX_SAMPLE + 1;
  for (; each > 0 && n > MAX_SAMPLE; each--) {
    n = 0;
    for (int class = -1; class < c->labels.n; class++) {
      const int own = count_class(c, class);
      n += own < each ? own : each;
    }
  }
  each++;
  n = 0;
  for (int class = -1; class < c->labels.n; class++) {
    const int own = count_class(c, class), take = own < each ? own : each;
    int seen = 0, taken = 0;
    for (int i = 0; i < c->n; i++) {
      if (c->class[i] != class) continue;
      /* the seen-th of `own` is taken when the line from (0, 0) to (own, take) passes a whole number there */
      chosen[i] = (int64_t)(seen + 1) * take / own > taken;
      taken += chosen[i];
      seen++;
    }
    n += taken;
  }
  return n;
}

/* ---- one comparison ---- */

typedef struct score_reader {
  sl_comparison *comparison;
  sl_compared *run;
  int at;
} score_reader;

static sl_status take_score(void *user, sl_statement *row) {
  score_reader *r = user;
  if (r->at < r->comparison->n) r->run->score[r->at] = sl_statement_real(row, 0);
  r->at++;
  return SL_OK;
}

static sl_status take_name(void *user, sl_statement *row) {
  sl_compared *run = user;
  const char *id = sl_statement_text(row, 0), *answer = sl_statement_text(row, 1);
  run->answer = answer ? json_string(answer) : NULL;
  return sl_strdup(&run->dir, id ? id : "");
}

static sl_status read_example(sl_study_view *v, sl_comparison *c, sl_compared *run, int64_t example) {
  char number[24];
  score_reader r = {c, run, 0};
  snprintf(number, sizeof number, "%lld", (long long)example);
  run->class = run->appearance = -1;
  SL_TRY(SL_ALLOC(run->score, (size_t)c->n, "scores"));
  SL_TRY(sl_study_each_row(v, "SELECT id, answer FROM example WHERE example = CAST(?1 AS INTEGER)", number, take_name,
                           run));
  SL_TRY(sl_study_each_row(v, "SELECT score FROM head WHERE example = CAST(?1 AS INTEGER) ORDER BY layer, head", number,
                           take_score, &r));
  if (r.at == c->n) return SL_OK;
  SL_FAIL(SL_ERROR_FORMAT, "%s: example %s has %d head scores, expected %d", sl_database_path(v->database), number,
          r.at, c->n);
}

static sl_status fill(sl_study_view *v, sl_comparison *c, const candidates *from, const bool *chosen, int n) {
  SL_TRY(SL_ALLOC(c->runs, (size_t)n, "examples"));
  for (int i = 0; i < from->n; i++) {
    if (!chosen[i]) continue;
    sl_compared *run = &c->runs[c->n_run];
    c->n_run++;
    SL_TRY(read_example(v, c, run, from->example[i]));
    if (from->class[i] >= 0) SL_TRY(sl_compare_label(&c->classes, from->labels.texts[from->class[i]], &run->class));
    SL_TRY(sl_study_check_goes_on(v, "head scores", c->n_run, n));
  }
  return SL_OK;
}

static sl_status compare(sl_study_view *v, const candidates *from, const bool *chosen, int n, sl_run *run) {
  const sl_study_report_request *q = v->request;
  const sl_compare_request request = {
      .size = sizeof request, .seed = q->seed, .progress = q->progress, .user = q->user, .cancel = q->cancel};
  sl_comparison c = {.request = &request};
  int64_t n_layer = 0, n_head = 0;
  json_t *said = json_object();
  sl_status status = sl_database_integer(v->database, "SELECT max(layer) + 1 FROM head", &n_layer);
  if (status == SL_OK) status = sl_database_integer(v->database, "SELECT max(head) + 1 FROM head", &n_head);
  c.n_layer = (int)n_layer;
  c.n_head = (int)n_head;
  c.n = c.n_layer * c.n_head;
  c.n_top = c.n / 20 > 5 ? c.n / 20 : c.n < 5 ? c.n : 5;
  c.settings = json_object();
  c.warnings = json_array();
  if (status == SL_OK && (!c.settings || !c.warnings || !said))
    status = sl_fail(SL_ERROR_MEMORY, "no memory for the comparison");
  if (status == SL_OK) status = fill(v, &c, from, chosen, n);
  if (status == SL_OK) status = sl_compare_measure(&c);
  if (status == SL_OK) status = sl_compare_tell(said, &c);
  if (status == SL_OK) status = sl_run_json_set(said, "of", json_integer(from->n));
  if (status == SL_OK) status = sl_compare_put(run, &c);
  if (status == SL_OK) status = sl_run_json_set(json_object_get(v->root, "analyses"), "compare", json_incref(said));
  json_decref(said);
  sl_compare_dispose(&c);
  return status;
}

/* The first label that is split by; "" when there is none. */
static const char *first_label(const sl_study_view *v) {
  const char *label = json_string_value(json_object_get(json_array_get(v->groups, 1), "label"));
  return label ? label : "";
}

sl_status sl_study_say_alike(sl_study_view *v, sl_run *run) {
  candidates from = {0};
  bool *chosen = NULL;
  sl_status status =
      sl_study_each_row(v,
                        "SELECT h.example, (SELECT CAST(j.atom AS TEXT) FROM example AS e, json_each(e.labels) AS j"
                        " WHERE e.example = h.example AND j.key = ?1) FROM (SELECT DISTINCT example FROM head"
                        " WHERE layer = 0 AND head = 0) AS h ORDER BY 1",
                        first_label(v), take_candidate, &from);
  if (status == SL_OK && from.n > 1) {
    status = SL_ALLOC(chosen, (size_t)from.n, "examples");
    if (status == SL_OK) status = compare(v, &from, chosen, mark_sample(&from, chosen), run);
  }
  free(chosen);
  candidates_dispose(&from);
  return status;
}
