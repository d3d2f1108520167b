/* Running a study: plan, data, model and what is stored are held against each other; then every example that is not
 * there yet is traced in memory (task/trace.c), its tensors written, and its rows committed. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/token_json.h"
#include "base/text.h"
#include "sightline/sightline.h"
#include "task/run_json.h"
#include "task/study_internal.h"
#include "task/study_result.h"
#include "task/trace_internal.h"

#define MAX_PICTURE_BYTES ((size_t)1 << 30)
#define TOLD_ROWS 10 /* bad rows that are named before the work */

sl_status sl_study_check_cancel(const sl_study *s) {
  if (s->request->cancel && sl_cancel_requested(s->request->cancel)) SL_FAIL(SL_ERROR_CANCELLED, "interrupted");
  return SL_OK;
}

static sl_status tell_log(const sl_study *s, const char *message) {
  if (s->request->log) s->request->log(s->request->user, message);
  return SL_OK;
}

/* ---- before weights are read ---- */

static sl_status read_shard(sl_study *s) {
  const sl_study_request *q = s->request;
  s->n_shard = q->n_shard > 0 ? q->n_shard : 1;
  s->shard = q->n_shard > 0 ? q->shard : 0;
  if (s->shard < 0 || s->shard >= s->n_shard)
    SL_FAIL(SL_ERROR_ARGUMENT, "--shard: expected i/n with i from 0 to n - 1, found %d/%d", q->shard, q->n_shard);
  const sl_study_facts *was = s->store ? sl_study_store_facts(s->store) : NULL;
  int shard, n_shard;
  if (!was) return SL_OK;
  if (sscanf(was->value[SL_FACT_SHARD], "%d/%d", &shard, &n_shard) != 2 || n_shard < 1 || shard < 0 || shard >= n_shard)
    SL_FAIL(SL_ERROR_FORMAT, "%s: shard \"%s\"", q->out_dir, was->value[SL_FACT_SHARD]);
  if (q->n_shard > 0 && (shard != s->shard || n_shard != s->n_shard))
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: the study is shard %d/%d, asked is %d/%d", q->out_dir, shard, n_shard, s->shard,
            s->n_shard);
  s->shard = shard;
  s->n_shard = n_shard;
  return SL_OK;
}

static sl_status open_plan(sl_study *s) {
  const sl_study_request *q = s->request;
  bool exists = false;
  SL_TRY(sl_study_store_exists(q->out_dir, &exists));
  if (exists && !q->resume)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: already exists (`sightline study resume` goes on with a study)", q->out_dir);
  if (!exists && !q->plan_path) SL_FAIL(SL_ERROR_ARGUMENT, "%s: there is no study to go on with", q->out_dir);
  SL_TRY(exists ? sl_study_store_open(&s->store, q->out_dir) : sl_study_store_check_place(q->out_dir));
  const char *stored = s->store ? sl_study_store_facts(s->store)->value[SL_FACT_PLAN] : NULL;
  SL_TRY(sl_study_plan_read(&s->plan, q, q->plan_path ? NULL : stored));
  if (stored) SL_TRY(sl_study_plan_compare(&s->plan, stored, q->out_dir));
  return read_shard(s);
}

/* Rows that cannot be done: the first few are named; with strict the first ends the call. */
static sl_status check_rows(sl_study *s) {
  const int64_t n = sl_study_data_count(s->data);
  int64_t n_bad = 0;
  for (int64_t i = s->shard; i < n; i += s->n_shard) {
    const char *bad = sl_study_data_bad(s->data, i);
    if (!bad) continue;
    if (s->request->strict) SL_FAIL(SL_ERROR_FORMAT, "%s", bad);
    if (n_bad++ < TOLD_ROWS) SL_TRY(tell_log(s, bad));
  }
  if (n_bad <= TOLD_ROWS) return SL_OK;
  sl_text line = {0};
  sl_status status =
      sl_text_format(&line, "%lld rows cannot be done; the first %d are named above", (long long)n_bad, TOLD_ROWS);
  if (status == SL_OK) status = tell_log(s, line.data);
  sl_text_dispose(&line);
  return status;
}

static sl_status set_fact(sl_study *s, sl_study_fact fact, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static sl_status set_fact(sl_study *s, sl_study_fact fact, const char *format, ...) {
  char text[512];
  va_list values;
  va_start(values, format);
  vsnprintf(text, sizeof text, format, values);
  va_end(values);
  free(s->facts.value[fact]);
  return sl_strdup(&s->facts.value[fact], text);
}

sl_status sl_study_fill_facts(sl_study *s) {
  char hash[17], files[17];
  SL_TRY(sl_study_plan_hash(&s->plan, hash));
  SL_TRY(sl_study_hash_settings(files, s->plan.model, s->plan.vision_model));
  SL_TRY(sl_json_print_exact(s->plan.json, &s->facts.value[SL_FACT_PLAN]));
  SL_TRY(set_fact(s, SL_FACT_PLAN_HASH, "%s", hash));
  SL_TRY(set_fact(s, SL_FACT_FILES_HASH, "%s", files));
  SL_TRY(set_fact(s, SL_FACT_DATA_HASH, "%016llx", (unsigned long long)sl_study_data_hash(s->data)));
  SL_TRY(set_fact(s, SL_FACT_EXAMPLES, "%lld", (long long)sl_study_data_count(s->data)));
  SL_TRY(set_fact(s, SL_FACT_SHARD, "%d/%d", s->shard, s->n_shard));
  return set_fact(s, SL_FACT_VERSION, "%s", sl_version());
}

/* A file changed under a study is told before the model is read. */
static sl_status check_files(const sl_study *s) {
  static const struct {
    sl_study_fact fact;
    const char *what;
  } files[] = {{SL_FACT_DATA_HASH, "data"}, {SL_FACT_FILES_HASH, "model's config, tokenizer, processor or template"}};
  if (!s->store) return SL_OK;
  const sl_study_facts *was = sl_study_store_facts(s->store);
  for (int i = 0; i < 2; i++) {
    const char *before = was->value[files[i].fact], *now = s->facts.value[files[i].fact];
    if (strcmp(before, now) != 0)
      SL_FAIL(SL_ERROR_ARGUMENT, "%s: the %s differs: the hash of %s was %s, now it is %s", s->request->out_dir,
              files[i].what, i == 0 ? s->plan.data : s->plan.model, before, now);
  }
  return SL_OK;
}

/* A picture or mask of an example that is done. */
static sl_status check_picture(const sl_study *s, const char *what, const char *name, const char *hash, int64_t line) {
  char *path = NULL, text[17] = "";
  uint64_t found = 0;
  sl_status status = sl_path_join(&path, s->plan.images, name);
  if (status == SL_OK) status = sl_study_hash_file(&found, path, MAX_PICTURE_BYTES);
  snprintf(text, sizeof text, "%016llx", (unsigned long long)found);
  if (status == SL_OK && strcmp(text, hash) != 0)
    status = sl_fail(SL_ERROR_ARGUMENT, "%s: the %s of line %lld differs: the hash of %s was %s, now it is %s",
                     s->request->out_dir, what, (long long)line, path, hash, text);
  free(path);
  return status;
}

/* `column` of the row is a picture's name, the next its hash; *last is the name that was checked before. */
static sl_status check_row(const sl_study *s, const char *what, sl_statement *row, int column, char **last) {
  const char *name = sl_statement_text(row, column), *hash = sl_statement_text(row, column + 1);
  if (!name || !hash || (*last && strcmp(*last, name) == 0))
    return SL_OK; /* questions about one picture follow each other */
  free(*last);
  *last = NULL;
  SL_TRY(sl_strdup(last, name));
  return check_picture(s, what, name, hash, sl_statement_integer(row, 4));
}

/* The pictures of what is done already: a result would not be of what the data shows. */
static sl_status check_pictures(const sl_study *s) {
  const sl_study_request *q = s->request;
  sl_statement *select;
  bool row = true;
  char *last[2] = {NULL};
  int64_t n = 0, at = 0;
  SL_TRY(sl_database_integer(sl_study_store_database(s->store),
                             "SELECT count(*) FROM example WHERE image_hash IS NOT NULL", &n));
  SL_TRY(sl_statement_new(
      &select, sl_study_store_database(s->store),
      "SELECT image, image_hash, mask, mask_hash, line FROM example WHERE image_hash IS NOT NULL ORDER BY example"));
  sl_status status = SL_OK;
  while (status == SL_OK && row) {
    status = sl_statement_step(select, &row);
    if (status != SL_OK || !row) break;
    status = check_row(s, "picture", select, 0, &last[0]);
    if (status == SL_OK) status = check_row(s, "mask", select, 2, &last[1]);
    if (status == SL_OK) status = sl_study_check_cancel(s);
    if (status == SL_OK && q->progress && !q->progress(q->user, "pictures", (double)++at, (double)n))
      status = sl_fail(SL_ERROR_CANCELLED, "interrupted");
  }
  free(last[0]);
  free(last[1]);
  sl_statement_free(select);
  return status;
}

/* ---- model and store ---- */

sl_status sl_study_open_model(sl_study *s, bool quiet) {
  const sl_study_request *q = s->request;
  const sl_model_options options = {.size = sizeof options,
                                    .backend = s->plan.backend,
                                    .compute = s->plan.compute,
                                    .n_thread = (int)s->plan.n_thread,
                                    .progress = quiet ? NULL : q->progress,
                                    .log = quiet ? NULL : q->log,
                                    .user = q->user,
                                    .vision_model = s->plan.vision_model};
  json_t *model = NULL, *compute = NULL;
  SL_TRY(sl_model_open(&s->model, s->plan.model, &options));
  sl_status status = sl_model_to_json(s->model, &model);
  if (status == SL_OK) status = sl_model_compute_to_json(s->model, &compute);
  if (status == SL_OK) status = set_fact(s, SL_FACT_MODEL, "%s", json_string_value(json_object_get(model, "name")));
  if (status == SL_OK)
    status = set_fact(s, SL_FACT_MODEL_HASH, "%s", json_string_value(json_object_get(model, "hash")));
  if (status == SL_OK)
    status = set_fact(s, SL_FACT_COMPUTE, "%s, %s, %s", json_string_value(json_object_get(compute, "backend")),
                      json_string_value(json_object_get(compute, "mode")),
                      json_string_value(json_object_get(compute, "products")));
  json_decref(model);
  json_decref(compute);
  return status;
}

sl_status sl_study_open_store(sl_study *s) {
  const sl_study_request *q = s->request;
  const int64_t n = sl_study_data_count(s->data);
  if (!s->store) {
    SL_TRY(sl_study_store_create(q->out_dir, &s->facts));
    SL_TRY(sl_study_store_open(&s->store, q->out_dir));
  }
  SL_TRY(sl_study_facts_compare(sl_study_store_facts(s->store), &s->facts, q->out_dir));
  if (q->retry_failed) SL_TRY(sl_study_store_forget_failed(s->store));
  SL_TRY(SL_ALLOC(s->done, (size_t)n, "examples"));
  SL_TRY(sl_study_store_list(s->store, s->done, n));
  SL_TRY(sl_database_integer(sl_study_store_database(s->store), "SELECT count(*) FROM failure", &s->state.failed));
  for (int64_t i = s->shard; i < n; i += s->n_shard) {
    s->state.total++;
    s->state.done += s->done[i];
  }
  return SL_OK;
}

/* ---- examples ---- */

/* The tensors that the plan keeps; *name is NULL when there are none. */
static sl_status write_tensors(const sl_study *s, int64_t number, const sl_run *run, char **name) {
  int n_all = 0, n = 0;
  char *path = NULL;
  const sl_tensor *all = sl_run_tensors(run, &n_all);
  sl_tensor *kept;
  *name = NULL;
  SL_TRY(SL_ALLOC(kept, (size_t)n_all, "tensors"));
  for (int i = 0; i < n_all; i++)
    if (sl_study_plan_keeps(&s->plan, all[i].name)) kept[n++] = all[i];
  sl_status status = SL_OK;
  if (n > 0) status = sl_study_tensor_path(&path, s->request->out_dir, number);
  if (n > 0 && status == SL_OK) status = sl_safetensors_write(path, kept, n, NULL);
  if (n > 0 && status == SL_OK) status = sl_study_tensor_path(name, "", number);
  free(path);
  free(kept);
  return status;
}

/* With share->only: nothing but its masks. */
static sl_status trace_example(const sl_study *s, const sl_study_row *e, sl_mask_block *share, sl_run **run) {
  static const char *const heads[] = {"heads"};
  const sl_study_plan *p = &s->plan;
  const bool only = share && share->only;
  const sl_trace_request request = {.size = sizeof request,
                                    .image_path = e->image_path,
                                    .mask_path = e->mask_path,
                                    .object_threshold = p->object_threshold,
                                    .question = e->question,
                                    .raw_prompt = p->raw_prompt,
                                    .answer = p->force_answer ? e->answer : NULL,
                                    .max_token = (int)p->max_token,
                                    .seed = (uint64_t)p->seed,
                                    .n_thread = (int)p->n_thread,
                                    .analyses = only ? heads : p->analyses,
                                    .n_analysis = only ? 1 : p->n_analysis,
                                    .options = p->options,
                                    .n_option = p->n_option,
                                    .batch_size = (int)p->batch_size,
                                    .progress = s->watch,
                                    .user = s->watcher,
                                    .cancel = s->request->cancel};
  return sl_trace_collect(s->model, &request, share, run);
}

/* The message without the folder of pictures, so that results do not depend on where the data lies. */
static sl_status shorten(const sl_study *s, const char *message, char **out) {
  const size_t n = strlen(s->plan.images);
  sl_text text = {0};
  sl_status status = SL_OK;
  for (const char *at = message, *next; status == SL_OK && *at; at = next) {
    next = strstr(at, s->plan.images);
    const bool inside = next && next[n] == '/';
    const size_t length = next ? (size_t)(next - at) : strlen(at);
    status = sl_text_append(&text, at, length + (next && !inside ? n : 0));
    next = next ? next + n + inside : at + length;
  }
  *out = text.data;
  return status;
}

static sl_status fail_example(const sl_study *s, int64_t number, const sl_study_row *e, const char *message,
                              json_t **result) {
  char *own = NULL, *error = NULL;
  SL_TRY(sl_strdup(&own, message)); /* of this thread, and about to be another's */
  sl_status status = shorten(s, own, &error);
  if (status == SL_OK) status = sl_study_result_failed(result, number, e, error);
  free(error);
  free(own);
  return status;
}

static sl_status take_result(const sl_study *s, int64_t number, const sl_study_row *e, sl_run *run, const char *tensors,
                             json_t **result) {
  uint64_t mask = 0;
  const sl_status status = sl_study_hash_file(&mask, e->mask_path, MAX_PICTURE_BYTES);
  if (status != SL_OK) return fail_example(s, number, e, sl_error_message(), result);
  return sl_study_result_done(result, number, e, run, mask, tensors);
}

sl_status sl_study_make_result(const sl_study *s, int64_t number, sl_mask_block *known, json_t **result) {
  sl_study_row e = {0};
  sl_run *run = NULL;
  char *tensors = NULL;
  const char *bad = sl_study_data_bad(s->data, number);
  *result = NULL;
  sl_status status = sl_study_data_example(s->data, number, &e);
  if (bad || status != SL_OK) {
    status = fail_example(s, number, &e, bad ? bad : sl_error_message(), result);
  } else {
    const sl_status traced = trace_example(s, &e, known, &run);
    if (traced == SL_ERROR_CANCELLED || (traced != SL_OK && s->request->strict))
      status = traced;
    else if (traced != SL_OK)
      status = fail_example(s, number, &e, sl_error_message(), result);
    else
      status = write_tensors(s, number, run, &tensors);
    if (status == SL_OK && !*result) status = take_result(s, number, &e, run, tensors, result);
  }
  free(tensors);
  sl_run_free(run);
  sl_study_row_dispose(&e);
  return status;
}

sl_status sl_study_measure_masks(const sl_study *s, int64_t number, sl_mask_block *share) {
  sl_study_row e = {0};
  sl_run *run = NULL;
  share->only = true;
  sl_status status = sl_study_data_bad(s->data, number) ? SL_ERROR_FORMAT : sl_study_data_example(s->data, number, &e);
  if (status == SL_OK) status = trace_example(s, &e, share, &run);
  sl_run_free(run);
  sl_study_row_dispose(&e);
  if (status == SL_OK || status == SL_ERROR_CANCELLED) return status;
  free(share->target); /* whoever does the whole example records why it fails */
  share->target = NULL;
  share->n_all = share->n = 0;
  return SL_OK;
}

static sl_status tell_state(sl_study *s, const json_t *result) {
  const double elapsed_s = (sl_now_ms() - s->started_ms) / 1000;
  s->n_new++;
  s->state.done++;
  s->state.failed += strcmp(json_string_value(json_object_get(result, "status")), "failed") == 0;
  s->state.rate = elapsed_s > 0 ? (double)s->n_new / elapsed_s : 0;
  s->state.left_s = s->state.rate > 0 ? (double)(s->state.total - s->state.done) / s->state.rate : 0;
  if (s->request->tell && !s->request->tell(s->request->user, &s->state)) SL_FAIL(SL_ERROR_CANCELLED, "interrupted");
  return SL_OK;
}

sl_status sl_study_accept(sl_study *s, const json_t *result) {
  SL_TRY(sl_study_store_put(s->store, result));
  return tell_state(s, result);
}

static sl_status run_examples(sl_study *s) {
  const int64_t n = sl_study_data_count(s->data);
  s->started_ms = sl_now_ms();
  for (int64_t i = s->shard; i < n; i += s->n_shard) {
    if (s->done[i]) continue;
    json_t *result = NULL;
    SL_TRY(sl_study_check_cancel(s));
    sl_status status = sl_study_make_result(s, i, NULL, &result);
    if (status == SL_OK) status = sl_study_accept(s, result);
    json_decref(result);
    SL_TRY(status);
  }
  return SL_OK;
}

/* ---- all of it ---- */

static sl_status summarise(sl_study *s, char **summary) {
  sl_database *database = sl_study_store_database(s->store);
  int64_t correct = 0, scored = 0;
  SL_TRY(sl_database_integer(database, "SELECT count(*) FROM example WHERE correct = 1", &correct));
  SL_TRY(sl_database_integer(database, "SELECT count(correct) FROM example", &scored));
  json_t *dir = sl_json_text(s->request->out_dir, strlen(s->request->out_dir));
  json_t *out = json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "out", dir, "examples",
                          (json_int_t)s->state.total, "done", (json_int_t)s->state.done, "failed",
                          (json_int_t)s->state.failed, "correct", (json_int_t)correct, "scored", (json_int_t)scored,
                          "split", (json_int_t)s->n_split, "seconds", (sl_now_ms() - s->started_ms) / 1000);
  const sl_status status = out ? sl_json_print(out, 2, summary) : sl_fail(SL_ERROR_MEMORY, "no memory for the summary");
  json_decref(out);
  return status;
}

sl_status sl_study_prepare(sl_study *s) {
  SL_TRY(open_plan(s));
  SL_TRY(sl_study_data_open(&s->data, &s->plan));
  SL_TRY(sl_study_fill_facts(s));
  SL_TRY(check_files(s));
  SL_TRY(check_rows(s));
  return s->store ? check_pictures(s) : SL_OK;
}

static sl_status run_alone(sl_study *s) {
  SL_TRY(sl_study_prepare(s));
  SL_TRY(sl_study_open_model(s, false));
  SL_TRY(sl_study_open_store(s));
  return run_examples(s);
}

/* Single failures are recorded and no more; that every example failed is the study's own failure. */
static sl_status check_any_done(const sl_study *s) {
  sl_statement *select;
  bool row = false;
  if (s->state.total == 0 || s->state.failed < s->state.total) return SL_OK;
  SL_TRY(sl_statement_new(&select, sl_study_store_database(s->store),
                          "SELECT error FROM failure ORDER BY example LIMIT 1"));
  sl_status status = sl_statement_step(select, &row);
  const char *why = status == SL_OK && row ? sl_statement_text(select, 0) : NULL;
  if (status == SL_OK)
    status = sl_fail(SL_ERROR_ARGUMENT, "no example could be done; the first: %s", why ? why : "no reason is known");
  sl_statement_free(select);
  return status;
}

/* What was complete is told after an interruption too. */
static sl_status finish(sl_study *s, sl_status status, char **summary) {
  if (!s->done || (status != SL_OK && status != SL_ERROR_CANCELLED)) return status;
  SL_TRY(summarise(s, summary));
  if (status == SL_ERROR_CANCELLED) SL_FAIL(SL_ERROR_CANCELLED, "interrupted");
  return check_any_done(s);
}

static sl_status run_in_team(sl_study *s, sl_study_team *team, char **summary) {
  if (team->rank > 0) return sl_study_team_follow(s, team);
  return finish(s, team->n_rank > 1 ? sl_study_team_lead(s, team, sl_study_prepare(s)) : run_alone(s), summary);
}

static void study_dispose(sl_study *s) {
  sl_study_store_close(s->store);
  sl_model_close(s->model);
  sl_study_data_close(s->data);
  sl_study_facts_dispose(&s->facts);
  sl_study_plan_dispose(&s->plan);
  free(s->done);
}

sl_status sl_study_run(const sl_study_request *request, char **summary) {
  *summary = NULL;
  if (request->size != sizeof *request)
    SL_FAIL(SL_ERROR_ARGUMENT, "sl_study_request: expected size %zu, found %zu", sizeof *request, request->size);
  if (!request->out_dir) SL_FAIL(SL_ERROR_ARGUMENT, "a study needs an out folder");
  sl_study s = {.request = request};
  sl_study_team team;
  SL_TRY(sl_study_team_join(&team, request));
  const sl_status status = run_in_team(&s, &team, summary);
  study_dispose(&s); /* before the others are waited for: what is stored is closed whatever they do */
  sl_study_team_leave(&team);
  return status;
}
