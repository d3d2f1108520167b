/* One picture, one question: answer, analyses, recorded sites, run directory, report.
 *
 * Order: check -> picture and tower -> answer -> analyses (makers of results before their users) -> recording -> run
 * directory -> report. A cancelled run keeps what was complete. */
#include "sightline/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "analysis/token_json.h"
#include "sightline/report.h"
#include "task/resume.h"
#include "task/trace_check.h"
#include "task/trace_internal.h"

#define DEFAULT_MAX_TOKEN 64

double sl_now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

sl_status sl_trace_note_time(sl_trace *t, const char *stage, double since_ms) {
  const double before = json_real_value(json_object_get(t->timings, stage));
  return sl_run_json_set(t->timings, stage, json_real(before + sl_now_ms() - since_ms));
}

static sl_status warn(sl_trace *t, const char *message) {
  if (t->request->log) t->request->log(t->request->user, message);
  if (json_array_append_new(t->warnings, json_string(message)) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "no memory for a warning");
}

bool sl_trace_progress(sl_trace *t, const char *what, double done, double total) {
  if (t->request->progress && !t->request->progress(t->request->user, what, done, total)) sl_cancel_request(t->cancel);
  return !sl_cancel_requested(t->cancel);
}

sl_status sl_trace_check_cancel(const sl_trace *t) {
  if (sl_cancel_requested(t->cancel)) SL_FAIL(SL_ERROR_CANCELLED, "interrupted");
  return SL_OK;
}

static sl_status start(sl_trace *t) {
  t->root = json_object();
  if (!t->root) SL_FAIL(SL_ERROR_MEMORY, "no memory for run.json");
  SL_TRY(sl_run_json_start(t->root, t->model, t->request, &t->picture));
  SL_TRY(sl_run_json_set(t->root, "analyses", t->analyses = json_object()));
  SL_TRY(sl_run_json_set(t->root, "timings_ms", t->timings = json_object()));
  SL_TRY(sl_run_json_set(t->root, "warnings", t->warnings = json_array()));
  SL_TRY(sl_session_new(&t->session, t->model, t->request->n_thread));
  sl_session_set_cancel(t->session, &t->cancel->requested);
  return SL_OK;
}

#define MANY_TOKENS 4096 /* of one picture: tiles make 3328 at most */

/* Where views are as large as pictures, a photograph as a camera makes it is hours of work. */
static sl_status warn_of_size(sl_trace *t) {
  const sl_pack *pack = &t->picture.pack;
  char message[256];
  if (pack->n <= MANY_TOKENS) return SL_OK;
  snprintf(message, sizeof message,
           "the picture is %d image tokens, from %d patches that see each other: a smaller picture, or a lower "
           "max_pixels in the folder's preprocessor_config.json, takes less time and memory",
           pack->n, pack->n_view * pack->patch_rows * pack->patch_cols);
  return warn(t, message);
}

static sl_status read_picture(sl_trace *t) {
  const double since = sl_now_ms();
  const double threshold = t->request->object_threshold > 0 ? t->request->object_threshold : 0.5;
  sl_trace_progress(t, "picture", 0, 1);
  SL_TRY(sl_picture_prepare(&t->picture, t->model, t->request->question));
  SL_TRY(warn_of_size(t));
  SL_TRY(sl_picture_encode(&t->picture, t->session, t->model, &t->image));
  SL_TRY(sl_picture_object(&t->picture, threshold, &t->object));
  sl_trace_progress(t, "picture", 1, 1);
  int n_object = 0;
  for (int i = 0; t->object && i < t->picture.pack.n; i++) n_object += t->object[i];
  if (t->object) {
    SL_TRY(sl_run_json_set(json_object_get(t->root, "image"), "object_tokens", json_integer(n_object)));
    if (n_object == 0) SL_TRY(warn(t, "no image token is object: the mask covers too little of every patch"));
  } else if (t->picture.mask.data) {
    SL_TRY(warn(t, "nothing is scored against the object mask: this model's image tokens are queries without a place"));
  }
  SL_TRY(sl_trace_note_time(t, "picture", since));
  return sl_trace_check_cancel(t);
}

static bool on_token(void *user, int done, int most) { return sl_trace_progress(user, "answer", done, most); }

/* A mistyped site is told before the work: every pattern of the request, at position 0 alone. */
static sl_status check_record(const sl_trace *t) {
  sl_text spec = {0};
  sl_record *record = NULL;
  sl_status status = SL_OK;
  for (const char *item = t->request->record; item && *item && status == SL_OK;) {
    const size_t length = strcspn(item, ",");
    status = sl_text_format(&spec, "%s%.*s@0", spec.length ? "," : "", (int)strcspn(item, ",@#"), item);
    item += length + (item[length] == ',');
  }
  if (status == SL_OK && spec.length) status = sl_record_new(&record, t->model, &t->picture.pack, &t->layout, spec.data);
  sl_record_free(record);
  sl_text_dispose(&spec);
  return status;
}

static sl_status make_answer(sl_trace *t) {
  const sl_trace_request *r = t->request;
  const double since = sl_now_ms();
  const int most = t->max_token = r->max_token > 0 ? r->max_token : DEFAULT_MAX_TOKEN;
  SL_TRY(sl_layout_build(&t->layout, t->model, &t->picture.pack, r->question, r->raw_prompt));
  SL_TRY(check_record(t));
  SL_TRY(sl_trace_check_plan(t));
  sl_trace_progress(t, "answer", 0, 1);
  const sl_answer_request request = {.forced = r->answer, .max_token = most, .on_token = on_token, .user = t};
  SL_TRY(sl_answer_make(&t->answer, t->session, t->model, t->image, &t->layout, &request));
  if (t->answer.n_token == 0) {
    SL_TRY(warn(t, "the answer is empty: the model ends at once; analyses are about its end-of-sequence token"));
    SL_TRY(sl_answer_append_end(&t->answer, t->session, t->model, t->image, &t->layout));
  }
  sl_trace_progress(t, "answer", 1, 1);
  /* Whoever gave a limit knows it. */
  if (t->answer.cut && t->answer.n_token < most)
    SL_TRY(warn(t, "the answer was cut: prompt and answer fill all positions that the model was made for"));
  else if (t->answer.cut && r->max_token == 0)
    SL_TRY(warn(t, "the answer was cut at 64 tokens (--max-tokens)"));
  SL_TRY(sl_run_json_tokens(t->root, t->model, r, &t->layout, &t->answer));
  SL_TRY(sl_run_json_options(t->root, r, most, r->object_threshold > 0 ? r->object_threshold : 0.5));
  if (t->run) SL_TRY(sl_picture_store(&t->picture, t->run));
  /* Here rather than when it records: positions that do not exist are told before the analyses. */
  if (r->record) SL_TRY(sl_record_new(&t->record, t->model, &t->picture.pack, &t->layout, r->record));
  SL_TRY(sl_trace_note_time(t, "answer", since));
  t->answered = true;
  return SL_OK;
}

static sl_status put_recorded(sl_trace *t, const sl_record *record) {
  for (int i = 0; i < sl_record_count(record); i++) {
    const sl_tensor *tensor = sl_record_at(record, i);
    sl_text name = {0};
    sl_status status = sl_text_format(&name, "site/%s", tensor->name);
    if (status == SL_OK)
      status = sl_run_put(t->run, name.data, tensor->dtype, tensor->n_dim, tensor->shape, tensor->data);
    sl_text_dispose(&name);
    SL_TRY(status);
  }
  return SL_OK;
}

/* Forward over prompt and answer once more with the recorder and for the logits of every row. */
static sl_status forward_whole(sl_trace *t, const sl_image *image, const sl_probe *probe) {
  const int n = t->layout.n_token, n_vocab = sl_model_get_shape(t->model)->n_vocab;
  if (!t->request->logits) return sl_session_forward(t->session, &t->layout, image, NULL, 0, NULL, probe, false);
  int *rows = NULL;
  float *logits = NULL;
  sl_status status = SL_ALLOC(rows, (size_t)n, "rows");
  if (status == SL_OK) status = SL_ALLOC(logits, (size_t)n * (size_t)n_vocab, "logits");
  for (int i = 0; i < n && status == SL_OK; i++) rows[i] = i;
  if (status == SL_OK) status = sl_session_forward(t->session, &t->layout, image, rows, n, logits, probe, false);
  if (status == SL_OK) status = sl_run_put(t->run, "logits.all", SL_F32, 2, (int64_t[]){n, n_vocab}, logits);
  free(rows);
  free(logits);
  return status;
}

static sl_status record_sites(sl_trace *t) {
  const double since = sl_now_ms();
  if (!t->record && !t->request->logits) return SL_OK;
  sl_image *image = NULL;
  sl_probe tower = {0}, decoder = {0};
  sl_status status = SL_OK;
  sl_trace_progress(t, "record", 0, 1);
  if (t->record) {
    status = sl_record_probe(t->record, t->session, SL_PART_VISION, &tower);
    if (status == SL_OK) status = sl_record_probe(t->record, t->session, SL_PART_DECODER, &decoder);
    if (status == SL_OK) status = sl_image_encode(&image, t->session, t->picture.views.pixels, &t->picture.pack, &tower, false);
  }
  if (status == SL_OK) status = forward_whole(t, image ? image : t->image, t->record ? &decoder : NULL);
  if (status == SL_OK && t->record) status = put_recorded(t, t->record);
  if (status == SL_OK) status = sl_trace_note_time(t, "record", since);
  if (status == SL_OK) sl_trace_progress(t, "record", 1, 1);
  sl_image_free(image);
  return status;
}

/* The results are safe by now: who has no room for the report can have it later. */
static sl_status build_report(const char *dir) {
  const sl_status status = sl_report_build(dir);
  if (status == SL_OK) return SL_OK;
  char *reason = NULL;
  SL_TRY(sl_strdup(&reason, sl_error_message()));
  const sl_status told = sl_fail(status, "%s; the results are whole in %s, and `sightline report %s` makes the page",
                                 reason, dir, dir);
  free(reason);
  return told;
}

/* Publishes the run directory and builds the report in it. */
static sl_status publish(sl_trace *t) {
  if (!t->run) return SL_OK;
  if (json_object_update(sl_run_json(t->run), t->root) != 0) SL_FAIL(SL_ERROR_MEMORY, "no memory for run.json");
  SL_TRY(sl_run_commit(t->run));
  if (t->request->no_report) return SL_OK;
  sl_trace_progress(t, "report", 0, 1);
  SL_TRY(build_report(t->request->out_dir));
  sl_trace_progress(t, "report", 1, 1);
  return SL_OK;
}

/* What is printed with --json: run.json without the long lists, plus where the files are. */
static sl_status summarise(const sl_trace *t, char **summary) {
  static const char *const keys[] = {"sightline",   "model",    "compute",    "image",             "prompt",  "grid",
                                     "spans",       "queries",  "seed",       "options",           "plan",
                                     "plan_answer", "analyses", "timings_ms", "peak_memory_bytes", "warnings"};
  json_t *out = json_object(), *answer = json_array();
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    json_t *value = json_object_get(t->root, keys[i]);
    if (value) json_object_set(out, keys[i], value);
  }
  const json_t *tokens = json_object_get(t->root, "tokens");
  for (int a = 0; a < t->answer.n_token; a++)
    json_array_append(answer, json_array_get(tokens, (size_t)(t->layout.n_prompt + a)));
  json_object_set_new(out, "answer_tokens", answer);
  json_object_set_new(out, "out",
                      t->run ? sl_json_text(t->request->out_dir, strlen(t->request->out_dir)) : json_null());
  const sl_status status = sl_json_print(out, 2, summary);
  json_decref(out);
  return status;
}

/* From a finished or cancelled run to its files and summary. */
static sl_status finish(sl_trace *t, sl_status status, char **summary) {
  if (status == SL_ERROR_CANCELLED) {
    if (!t->answered) return status; /* nothing was complete yet */
    SL_TRY(warn(t, "interrupted: only what was complete is here"));
    SL_TRY(sl_run_json_set(t->root, "cancelled", json_true()));
    if (t->earlier) SL_TRY(sl_resume_take_over(t->earlier, t->run, t->root));
  } else {
    SL_TRY(status);
  }
  SL_TRY(sl_run_json_memory(t->root));
  SL_TRY(sl_run_json_set(t->timings, "total", json_real(sl_now_ms() - t->started_ms)));
  /* The folder last: nothing can fail once it has its name, except the report. */
  SL_TRY(summarise(t, summary));
  const sl_status published = publish(t);
  if (published != SL_OK) {
    free(*summary);
    *summary = NULL;
    return published;
  }
  if (status == SL_ERROR_CANCELLED) SL_FAIL(SL_ERROR_CANCELLED, "interrupted");
  return SL_OK;
}

static sl_status run_stages(sl_trace *t) {
  SL_TRY(start(t));
  SL_TRY(read_picture(t));
  SL_TRY(make_answer(t));
  SL_TRY(sl_trace_choose_analyses(t));
  if (t->earlier) SL_TRY(sl_resume_check_run(t->earlier, t->root));
  SL_TRY(sl_trace_apply_plan(t));
  SL_TRY(sl_trace_run_analyses(t));
  return record_sites(t);
}

static void trace_dispose(sl_trace *t) {
  free(t->analyses_at);
  sl_run_close(t->earlier);
  sl_plan_file_dispose(&t->plan);
  sl_record_free(t->record);
  sl_shared_dispose(&t->shared);
  sl_session_free(t->session);
  sl_image_free(t->image);
  sl_picture_dispose(&t->picture);
  sl_layout_dispose(&t->layout);
  sl_answer_dispose(&t->answer);
  free(t->object);
  sl_run_free(t->run);
  json_decref(t->root);
  sl_cancel_free(t->own_cancel);
}

sl_status sl_trace_run(const sl_model *model, const sl_trace_request *request, char **summary) {
  *summary = NULL;
  sl_trace t = {.model = model, .request = request, .started_ms = sl_now_ms()};
  SL_TRY(sl_trace_prepare(request, &t.picture, &t.plan, &t.earlier, &t.run));
  sl_status status = SL_OK;
  if (!request->cancel) status = sl_cancel_new(&t.own_cancel);
  t.cancel = request->cancel ? request->cancel : t.own_cancel;
  if (status == SL_OK) status = finish(&t, run_stages(&t), summary);
  trace_dispose(&t);
  return status;
}

sl_status sl_trace_collect(const sl_model *model, const sl_trace_request *request, sl_mask_block *share, sl_run **out) {
  *out = NULL;
  sl_trace t = {.model = model, .request = request, .share = share, .started_ms = sl_now_ms()};
  SL_TRY(sl_trace_prepare(request, &t.picture, &t.plan, &t.earlier, &t.run));
  sl_status status = SL_OK;
  if (!request->cancel) status = sl_cancel_new(&t.own_cancel);
  t.cancel = request->cancel ? request->cancel : t.own_cancel;
  if (status == SL_OK) status = sl_run_new_memory(&t.run);
  if (status == SL_OK) status = run_stages(&t);
  if (status == SL_OK) status = sl_run_json_set(t.timings, "total", json_real(sl_now_ms() - t.started_ms));
  if (status == SL_OK && json_object_update(sl_run_json(t.run), t.root) != 0)
    status = sl_fail(SL_ERROR_MEMORY, "no memory for the results of a run");
  if (status == SL_OK) {
    *out = t.run;
    t.run = NULL;
  }
  trace_dispose(&t);
  return status;
}
