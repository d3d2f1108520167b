/* `compare`: are the same heads used for pictures of one kind?
 *
 *   b_r = head scores of run r;  likeness of r and s: cosine, Spearman's rho, |top_n(r) & top_n(s)| / |... or ...|
 *
 * Beside it the ceiling: likeness of scores fitted to either half of one run's masks, and what that gives for
 * the masks that scores were fitted to, k times as many, by Spearman and Brown's k r / (1 + (k - 1) r).
 *
 * Source: Kim et al., Interpreting Attention Heads for Image-to-Text Information Flow in LVLMs, arXiv 2509.17588:
 * likeness of attributions goes by meaning rather than by looks; the tests are sightline's (compare_test.c). */
#include "sightline/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "analysis/analysis.h"
#include "sightline/report.h"
#include "sightline/sightline.h"
#include "stats/resample.h"
#include "store/run.h"
#include "task/compare_internal.h"

sl_status sl_compare_progress(const sl_comparison *c, const char *what, double done, double total) {
  const sl_compare_request *q = c->request;
  const bool goes_on = !q->progress || q->progress(q->user, what, done, total);
  if (!goes_on || (q->cancel && sl_cancel_requested(q->cancel))) SL_FAIL(SL_ERROR_CANCELLED, "interrupted");
  return SL_OK;
}

static sl_status set(json_t *object, const char *key, json_t *value) {
  if (json_object_set_new(object, key, value) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "no memory for \"%s\" of the comparison", key);
}

/* ---- what is told ---- */

static json_t *label_json(const sl_labels *labels, int i) {
  return i < 0 ? json_null() : json_string(labels->texts[i]);
}

static sl_status runs_json(json_t *into, const sl_comparison *c) {
  json_t *list = json_array();
  SL_TRY(set(into, "runs", list));
  for (int i = 0; i < c->n_run; i++) {
    const sl_compared *r = &c->runs[i];
    json_t *run = json_pack("{s:s, s:o, s:o, s:i}", "dir", r->dir, "class", label_json(&c->classes, r->class),
                            "appearance", label_json(&c->appearances, r->appearance), "masks", r->n_mask);
    if (json_array_append_new(list, run) != 0) /* also when the folder's name is not UTF-8 */
      SL_FAIL(SL_ERROR_ARGUMENT, "%s: cannot be told in JSON (not UTF-8?)", r->dir);
    if (r->image) SL_TRY(set(run, "image", json_incref(r->image)));
    if (r->answer) SL_TRY(set(run, "answer", json_incref(r->answer)));
  }
  return SL_OK;
}

static sl_status labels_json(json_t *into, const char *key, const sl_labels *labels) {
  json_t *list = json_array();
  for (int i = 0; i < labels->n; i++) json_array_append_new(list, json_string(labels->texts[i]));
  return set(into, key, list);
}

/* Mean of pairs of two runs, and of the split halves as they are and stepped up to all masks. */
static sl_status summary_json(json_t *into, const sl_comparison *c, sl_likeness k) {
  double sum = 0, half = 0, longer = 0; /* how many times more masks the scores were fitted to than a half has */
  int n_pair = 0, n_half = 0;
  for (int i = 0; i < c->n_run; i++) {
    for (int j = 0; j < i; j++) {
      const double like = c->like[k][(size_t)i * (size_t)c->n_run + (size_t)j];
      if (!isnan(like)) sum += like, n_pair++;
    }
    const double r = c->ceiling[(size_t)i * SL_LIKE_COUNT + (size_t)k];
    if (!isnan(r)) half += r, longer += 2.0 * c->runs[i].n_train / c->runs[i].n_mask, n_half++;
  }
  SL_TRY(set(into, "mean", sl_json_number(n_pair ? sum / n_pair : NAN)));
  SL_TRY(set(into, "split_half", sl_json_number(n_half ? half / n_half : NAN)));
  /* A share of sets is no correlation: nothing steps it up. */
  const double ceiling = n_half ? sl_spearman_brown(half / n_half, longer / n_half) : NAN;
  return set(into, "ceiling", sl_json_number(k != SL_LIKE_JACCARD ? ceiling : NAN));
}

sl_status sl_compare_tell(json_t *said, const sl_comparison *c) {
  SL_TRY(runs_json(said, c));
  SL_TRY(labels_json(said, "classes", &c->classes));
  SL_TRY(labels_json(said, "appearances", &c->appearances));
  SL_TRY(set(said, "settings", json_incref(c->settings)));
  SL_TRY(set(said, "top", json_integer(c->n_top)));
  for (int k = 0; k < SL_LIKE_COUNT; k++) {
    json_t *tests = NULL;
    SL_TRY(sl_compare_progress(c, sl_likeness_names[k], k, SL_LIKE_COUNT));
    SL_TRY(sl_compare_test(&tests, c, (sl_likeness)k));
    SL_TRY(set(said, sl_likeness_names[k], tests));
    SL_TRY(summary_json(tests, c, (sl_likeness)k));
  }
  return SL_OK;
}

static json_t *now_json(void) {
  char text[32] = "";
  const time_t now = time(NULL);
  struct tm utc;
  if (gmtime_r(&now, &utc)) strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return json_string(text);
}

static sl_status root_json(json_t *root, const sl_comparison *c) {
  const sl_compare_request *q = c->request;
  json_t *command = json_array(), *analyses = json_object(), *said = json_object();
  for (int i = 0; i < q->n_command; i++) {
    json_t *word = json_string(q->command[i]);
    json_array_append_new(command, word ? word : json_string("?"));
  }
  SL_TRY(set(root, "sightline", json_string(sl_version())));
  SL_TRY(set(root, "command", command));
  SL_TRY(set(root, "created", now_json()));
  SL_TRY(set(root, "model", json_incref(c->model)));
  SL_TRY(set(root, "seed", json_integer((json_int_t)q->seed)));
  SL_TRY(set(root, "analyses", analyses));
  SL_TRY(set(analyses, "compare", said));
  SL_TRY(set(root, "warnings", json_incref(c->warnings)));
  return sl_compare_tell(said, c);
}

/* ---- what is stored ---- */

static sl_status put_matrix(sl_run *run, const char *name, const double *values, int rows, int cols) {
  const size_t n = (size_t)rows * (size_t)cols;
  float *copy = NULL;
  SL_TRY(SL_ALLOC(copy, n, name));
  for (size_t i = 0; i < n; i++) copy[i] = (float)values[i];
  const sl_status status = sl_run_put(run, name, SL_F32, 2, (int64_t[]){rows, cols}, copy);
  free(copy);
  return status;
}

static sl_status put_scores(sl_run *run, const sl_comparison *c) {
  float *scores = NULL;
  SL_TRY(SL_ALLOC(scores, (size_t)c->n_run * (size_t)c->n, "scores"));
  for (int i = 0; i < c->n_run; i++)
    for (int j = 0; j < c->n; j++) scores[(size_t)i * (size_t)c->n + (size_t)j] = (float)c->runs[i].score[j];
  const int64_t shape[] = {c->n_run, c->n_layer, c->n_head};
  const sl_status status = sl_run_put(run, "compare.score", SL_F32, 3, shape, scores);
  free(scores);
  return status;
}

static sl_status put_indices(sl_run *run, const sl_comparison *c) {
  static const char *const names[] = {"compare.class", "compare.appearance", "compare.order"};
  int32_t *values = NULL;
  SL_TRY(SL_ALLOC(values, (size_t)c->n_run, "labels"));
  sl_status status = SL_OK;
  for (int k = 0; k < 3 && status == SL_OK; k++) {
    for (int i = 0; i < c->n_run; i++)
      values[i] = k == 0 ? c->runs[i].class : k == 1 ? c->runs[i].appearance : c->order[i];
    status = sl_run_put(run, names[k], SL_I32, 1, (int64_t[]){c->n_run}, values);
  }
  free(values);
  return status;
}

sl_status sl_compare_put(sl_run *run, const sl_comparison *c) {
  static const char *const names[SL_LIKE_COUNT] = {"compare.cosine", "compare.spearman", "compare.jaccard"};
  SL_TRY(put_scores(run, c));
  for (int k = 0; k < SL_LIKE_COUNT; k++) SL_TRY(put_matrix(run, names[k], c->like[k], c->n_run, c->n_run));
  SL_TRY(put_matrix(run, "compare.ceiling", c->ceiling, c->n_run, SL_LIKE_COUNT));
  if (c->visual) SL_TRY(put_matrix(run, "compare.visual", c->visual, c->n_run, c->n_run));
  return put_indices(run, c);
}

static sl_status compare(sl_comparison *c, sl_run *run, json_t *root) {
  c->warnings = json_array();
  if (!c->warnings) SL_FAIL(SL_ERROR_MEMORY, "no memory for warnings");
  SL_TRY(sl_compare_read(c));
  SL_TRY(sl_compare_measure(c));
  SL_TRY(root_json(root, c));
  if (!run) return SL_OK;
  SL_TRY(sl_compare_put(run, c));
  return sl_run_commit(run);
}

sl_status sl_compare(const sl_compare_request *request, char **summary) {
  *summary = NULL;
  if (request->size != sizeof *request)
    SL_FAIL(SL_ERROR_ARGUMENT, "sl_compare_request of %zu bytes, this library's has %zu", request->size,
            sizeof *request);
  sl_comparison c = {.request = request};
  sl_run *run = NULL;
  sl_status status = request->out_dir ? sl_run_new(&run, request->out_dir, request->force) : SL_OK;
  json_t *root = run ? json_incref(sl_run_json(run)) : json_object();
  if (status == SL_OK && !root) status = sl_fail(SL_ERROR_MEMORY, "no memory for the comparison");
  if (status == SL_OK) status = compare(&c, run, root);
  if (status == SL_OK) status = sl_json_print(root, 2, summary);
  json_decref(root);
  sl_run_free(run);
  sl_compare_dispose(&c);
  if (status == SL_OK && request->out_dir && !request->no_report) status = sl_report_build(request->out_dir);
  return status;
}
