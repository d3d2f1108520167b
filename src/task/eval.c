/* `eval`: a benchmark's questions to a model, or others' predictions, scored by the official rules (metric/). */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "analysis/token_json.h"
#include "base/text.h"
#include "model/model.h"
#include "sightline/sightline.h"
#include "task/eval_internal.h"
#include "task/study_internal.h"

const char *sl_eval_name(int i) {
  for (int k = 0; sl_benchmarks[k]; k++)
    if (k == i) return sl_benchmarks[k]->name;
  return NULL;
}

sl_status sl_eval_progress(const sl_evaluation *e, const char *what, double done, double total) {
  const sl_eval_request *q = e->request;
  const bool goes_on = !q->progress || q->progress(q->user, what, done, total);
  if (!goes_on || (q->cancel && sl_cancel_requested(q->cancel))) SL_FAIL(SL_ERROR_CANCELLED, "interrupted");
  return SL_OK;
}

/* ---- what was asked for ---- */

static sl_status choose(int *index, const char *const *list, const char *name, const char *what) {
  sl_text names = {0};
  *index = sl_choice_find(list, name);
  if (*index >= 0) return SL_OK;
  for (int i = 0; list[i]; i++) SL_TRY(sl_text_format(&names, "%s%s", i ? ", " : "", list[i]));
  const sl_status status = sl_fail(SL_ERROR_ARGUMENT, "%s \"%s\"; there are: %s", what, name, names.data);
  sl_text_dispose(&names);
  return status;
}

static sl_status check_choices(sl_evaluation *e) {
  const sl_eval_request *q = e->request;
  const char *names[16] = {NULL};
  int index;
  if (q->size != sizeof *q) SL_FAIL(SL_ERROR_ARGUMENT, "sl_eval_request: expected size %zu, found %zu", sizeof *q, q->size);
  if (!q->benchmark || !q->data) SL_FAIL(SL_ERROR_ARGUMENT, "eval: a benchmark and its data are needed");
  for (int i = 0; sl_benchmarks[i]; i++) names[i] = sl_benchmarks[i]->name;
  SL_TRY(choose(&index, names, q->benchmark, "no benchmark"));
  e->benchmark = sl_benchmarks[index];
  SL_TRY(choose(&e->style, e->benchmark->styles, q->prompt_style, "no prompt style"));
  SL_TRY(choose(&e->rule, e->benchmark->rules, q->rule, "no scoring rule"));
  e->max_token = q->max_token > 0 ? q->max_token : e->benchmark->max_token;
  if (q->cliff && q->predictions) SL_FAIL(SL_ERROR_ARGUMENT, "eval: the cliff needs a model, not predictions");
  if (access(q->data, F_OK) != 0) SL_FAIL(SL_ERROR_FILE, "%s: %s", q->data, strerror(errno));
  return SL_OK;
}

sl_status sl_eval_check(const sl_eval_request *request) {
  sl_evaluation e = {.request = request};
  return check_choices(&e);
}

static sl_status check_request(sl_evaluation *e) {
  const sl_eval_request *q = e->request;
  SL_TRY(check_choices(e));
  if (!e->model != (q->predictions != NULL))
    SL_FAIL(SL_ERROR_ARGUMENT, "eval: either a model is asked or a file of predictions is scored");
  if (q->cliff) e->n_layer = sl_model_get_shape(e->model)->decoder.n_layer;
  return SL_OK;
}

/* The hash of config, tokenizer, processor and template. */
static sl_status add_files_hash(json_t *into, json_t *model) {
  char hash[17];
  json_t *vision = json_object_get(model, "vision");
  SL_TRY(sl_study_hash_settings(hash, json_string_value(json_object_get(model, "path")),
                                json_string_value(json_object_get(vision, "path"))));
  return sl_metric_set(into, "model_files_hash", json_string(hash));
}

/* What must be the same when work goes on. */
static sl_status make_settings(sl_evaluation *e) {
  char hash[17];
  json_t *part = NULL;
  SL_TRY(sl_eval_hash(e, hash));
  e->settings = json_pack("{s:s, s:s, s:s, s:i, s:i, s:b, s:s}", "benchmark", e->benchmark->name, "data_hash", hash, "prompt_style",
                          e->benchmark->styles[e->style], "max_tokens", e->max_token, "examples", e->examples.n, "cliff",
                          e->n_layer > 0, "decoding", "greedy");
  if (!e->settings) SL_FAIL(SL_ERROR_MEMORY, "no memory for the settings");
  const char *predictions = e->request->predictions;
  if (!e->model)
    return sl_metric_set(e->settings, "predictions", sl_json_text(predictions, strlen(predictions)));
  SL_TRY(sl_model_to_json(e->model, &part));
  SL_TRY(sl_metric_set(e->settings, "model", part));
  SL_TRY(add_files_hash(e->settings, part));
  (void)json_object_del(part, "path"); /* the hashes tell what it is, wherever it lies */
  (void)json_object_del(part, "name");
  (void)json_object_del(json_object_get(part, "vision"), "path");
  (void)json_object_del(json_object_get(part, "vision"), "path_holds");
  SL_TRY(sl_model_compute_to_json(e->model, &part));
  (void)json_object_del(part, "threads"); /* answers do not depend on them */
  return sl_metric_set(e->settings, "compute", part);
}

/* ---- scoring ---- */

sl_status sl_eval_judge(json_t **said, const sl_evaluation *e, const char *const *texts) {
  for (int i = 0; i < e->examples.n; i++) {
    const char *text = texts[i];
    /* "FAILED" is what the official script puts for a missing one. */
    if (!text && e->benchmark->missing_is_wrong && !e->errors[i]) text = "FAILED";
    if (!text) continue;
    said[i] = json_object();
    if (!said[i]) SL_FAIL(SL_ERROR_MEMORY, "no memory for a score");
    SL_TRY(e->benchmark->score(said[i], &e->examples.items[i], text, e->rule));
  }
  return SL_OK;
}

void sl_eval_free_said(json_t **said, int n) {
  for (int i = 0; said && i < n; i++) json_decref(said[i]);
  free(said);
}

double sl_eval_value(const sl_evaluation *e, const json_t *said) {
  if (!said) return NAN;
  const double score = json_number_value(json_object_get(said, "score"));
  return e->benchmark->lower_is_better ? -score : score;
}

/* ---- the summary ---- */

static sl_status add_interval(json_t *into, const sl_evaluation *e, json_t *const *said) {
  double *values = NULL;
  sl_eval_pool pool = {0};
  sl_interval interval = {NAN, NAN, NAN};
  SL_TRY(SL_ALLOC(values, (size_t)e->examples.n, "scores"));
  for (int i = 0; i < e->examples.n; i++)
    values[i] = said[i] ? json_number_value(json_object_get(said[i], "score")) : NAN;
  sl_status status = sl_eval_pool_new(&pool, e, (const double *const[]){values}, 1);
  free(values);
  if (status == SL_OK) status = sl_eval_pool_interval(&interval, &pool, 0, -1, e->request->seed);
  sl_eval_pool_dispose(&pool);
  SL_TRY(status);
  return sl_metric_set(into, "interval",
                       json_pack("{s:s, s:o, s:o, s:o}", "of", e->benchmark->headline, "value",
                                 sl_metric_number(interval.value), "low", sl_metric_number(interval.low), "high",
                                 sl_metric_number(interval.high)));
}

static sl_status add_counts(json_t *into, const sl_evaluation *e) {
  int n_answer = 0, n_error = 0, n_missing = 0, n_text = 0;
  json_t *bad = json_array(), *errors = json_array();
  SL_TRY(sl_metric_set(into, "bad_rows", bad));
  SL_TRY(sl_metric_set(into, "errors", errors));
  for (int i = 0; i < e->rows.n_bad && i < SL_ROWS_KEPT; i++) json_array_append_new(bad, json_string(e->rows.messages[i]));
  for (int i = 0; i < e->examples.n; i++) {
    n_answer += e->texts[i] != NULL;
    n_missing += !e->texts[i] && !e->errors[i];
    n_text += !e->examples.items[i].image;
    if (e->errors[i] && ++n_error <= SL_ROWS_KEPT)
      json_array_append_new(errors, json_pack("{s:s, s:s, s:i}", "id", e->examples.items[i].id, "error", e->errors[i], "line",
                                              e->examples.items[i].line));
  }
  return sl_metric_set(into, "counts",
                       json_pack("{s:i, s:i, s:i, s:i, s:i, s:i}", "examples", e->examples.n, "answered", n_answer, "failed",
                                 n_error, "missing", n_missing, "bad_rows", e->rows.n_bad, "without_picture", n_text));
}

static json_t *command_json(const sl_eval_request *q) {
  json_t *command = json_array();
  for (int i = 0; i < q->n_command; i++) {
    json_t *word = json_string(q->command[i]);
    json_array_append_new(command, word ? word : json_string("?"));
  }
  return command;
}

static sl_status summarise(json_t *root, const sl_evaluation *e, json_t *const *said) {
  const sl_eval_request *q = e->request;
  json_t *metrics = json_object();
  SL_TRY(sl_metric_set(root, "sightline", json_string(sl_version())));
  SL_TRY(sl_metric_set(root, "command", command_json(q)));
  SL_TRY(sl_metric_set(root, "benchmark", json_string(e->benchmark->name)));
  SL_TRY(sl_metric_set(root, "source", json_string(e->benchmark->source)));
  SL_TRY(sl_metric_set(root, "data", json_string(q->data)));
  SL_TRY(sl_metric_set(root, "rule", json_string(e->benchmark->rules[e->rule])));
  SL_TRY(sl_metric_set(root, "settings", json_incref(e->settings)));
  SL_TRY(sl_metric_set(root, "seed", json_integer((json_int_t)q->seed)));
  if (e->model) {
    json_t *model = NULL;
    SL_TRY(sl_model_to_json(e->model, &model));
    SL_TRY(sl_metric_set(root, "model", model));
  }
  SL_TRY(sl_metric_set(root, "metrics", metrics));
  SL_TRY(sl_summarise(metrics, &e->examples, said));
  SL_TRY(add_interval(root, e, said));
  SL_TRY(add_counts(root, e));
  if (e->n_layer > 0) SL_TRY(sl_eval_cliff(root, e));
  return sl_eval_paper(root, e);
}

static sl_status conclude(sl_evaluation *e, char **summary) {
  json_t **said = NULL, *root = json_object();
  SL_TRY(SL_ALLOC(said, (size_t)e->examples.n, "scores"));
  sl_status status = sl_eval_judge(said, e, (const char *const *)e->texts);
  if (status == SL_OK) status = summarise(root, e, said);
  if (status == SL_OK && e->journal) status = sl_journal_finish(e, said, root);
  if (status == SL_OK && e->journal) status = sl_eval_page(e, said, root);
  if (status == SL_OK) status = sl_json_print(root, 2, summary);
  sl_eval_free_said(said, e->examples.n);
  json_decref(root);
  return status;
}

/* Single failures are recorded and no more; that every question failed is the work's own failure. */
static sl_status check_answered(const sl_evaluation *e) {
  const char *why = NULL;
  for (int i = 0; i < e->examples.n; i++) {
    if (e->texts[i]) return SL_OK;
    if (!why) why = e->errors[i];
  }
  SL_FAIL(SL_ERROR_ARGUMENT, "no question could be answered; the first: %s", why ? why : "not asked");
}

/* A file that holds no prediction of this set is the wrong file, and has no score. */
static sl_status check_predicted(const sl_evaluation *e) {
  for (int i = 0; i < e->examples.n; i++)
    if (e->texts[i]) return SL_OK;
  const char *path = e->request->predictions, *bad = NULL;
  for (int i = 0; i < e->rows.n_bad && i < SL_ROWS_KEPT && !bad; i++)
    if (strncmp(e->rows.messages[i], path, strlen(path)) == 0) bad = e->rows.messages[i];
  SL_FAIL(SL_ERROR_FORMAT, "%s: no prediction for any of the %d questions%s%s", path, e->examples.n,
          bad ? "; the first bad row: " : "", bad ? bad : "");
}

static sl_status run(sl_evaluation *e, char **summary) {
  SL_TRY(check_request(e));
  SL_TRY(sl_eval_read(e));
  sl_eval_cut(e);
  SL_TRY(make_settings(e));
  if (e->model) SL_TRY(sl_eval_check_pictures(e));
  if (e->request->out_dir) SL_TRY(sl_journal_open(e, summary));
  if (*summary) return SL_OK;
  if (e->model)
    SL_TRY(sl_eval_ask(e));
  else
    SL_TRY(check_predicted(e));
  SL_TRY(conclude(e, summary));
  return e->model ? check_answered(e) : SL_OK;
}

static void dispose(sl_evaluation *e) {
  for (int i = 0; i < e->examples.n; i++) {
    if (e->texts) free(e->texts[i]);
    if (e->layers) json_decref(e->layers[i]);
    if (e->errors) free(e->errors[i]);
  }
  free(e->texts);
  free(e->layers);
  free(e->errors);
  free(e->image_dir);
  json_decref(e->settings);
  sl_journal_close(e->journal);
  sl_rows_dispose(&e->rows);
  sl_examples_dispose(&e->examples);
}

sl_status sl_eval(const sl_model *model, const sl_eval_request *request, char **summary) {
  sl_evaluation e = {.request = request, .model = model};
  *summary = NULL;
  const sl_status status = run(&e, summary);
  dispose(&e);
  return status;
}
