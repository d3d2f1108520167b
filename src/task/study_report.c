/* A study's page: everything it shows is aggregated first (study_query.c, study_cliff.c, study_alike.c), so its size
 * depends on layers, heads and labels, not on the number of examples. The study is read in one transaction: it may be
 * written to meanwhile, and is not locked. */
#include <stdlib.h>
#include <string.h>

#include "analysis/token_json.h"
#include "base/text.h"
#include "report/page.h"
#include "report/payload.h"
#include "report/section.h"
#include "sightline/sightline.h"
#include "store/run.h"
#include "task/run_json.h"
#include "task/study_report_internal.h"

sl_status sl_study_check_goes_on(const sl_study_view *v, const char *what, double done, double total) {
  const sl_study_report_request *q = v->request;
  const bool goes_on = !q->progress || q->progress(q->user, what, done, total);
  if (!goes_on || (q->cancel && sl_cancel_requested(q->cancel))) SL_FAIL(SL_ERROR_CANCELLED, "interrupted");
  return SL_OK;
}

/* Name of the data file without its folder. */
static const char *data_name(const sl_study_view *v) {
  const char *path = json_string_value(sl_json_at(v->said, "plan.data"));
  const char *slash = path ? strrchr(path, '/') : NULL;
  return slash ? slash + 1 : path ? path : "study";
}

static sl_status say_facts(sl_study_view *v) {
  const sl_study_facts *facts = sl_study_store_facts(v->store);
  const char *plan = facts->value[SL_FACT_PLAN];
  json_t *parsed = NULL, *own = json_object();
  SL_TRY(sl_json_parse(&parsed, plan, strlen(plan), "the study's plan"));
  SL_TRY(sl_run_json_set(v->said, "plan", parsed));
  SL_TRY(sl_run_json_set(v->said, "facts", own));
  for (int i = 0; i < SL_FACT_COUNT; i++)
    if (i != SL_FACT_PLAN)
      SL_TRY(sl_run_json_set(own, sl_study_fact_key((sl_study_fact)i), json_string(facts->value[i])));
  SL_TRY(sl_run_json_set(v->said, "data", json_string(data_name(v))));
  return sl_run_json_set(v->said, "dir", sl_json_text(v->request->dir, strlen(v->request->dir)));
}

/* What other parts of the page ask of a run. */
static sl_status say_model(sl_study_view *v) {
  int64_t n_layer = 0, n_head = 0;
  SL_TRY(sl_database_integer(v->database, "SELECT max(\"index\") + 1 FROM series WHERE name IN ('image_share', 'mass_share')",
                             &n_layer));
  if (n_layer == 0)
    SL_TRY(sl_database_integer(v->database, "SELECT max(\"index\") FROM series WHERE analysis = 'cliff'", &n_layer));
  if (n_layer == 0) SL_TRY(sl_database_integer(v->database, "SELECT max(layer) + 1 FROM head", &n_layer));
  SL_TRY(sl_database_integer(v->database, "SELECT max(head) + 1 FROM head", &n_head));
  const char *name = sl_study_store_facts(v->store)->value[SL_FACT_MODEL];
  SL_TRY(sl_run_json_set(
      v->root, "model",
      json_pack("{s:s, s:I, s:I}", "name", name, "n_layer", (json_int_t)n_layer, "n_head", (json_int_t)n_head)));
  SL_TRY(sl_run_json_set(v->root, "sightline", json_string(sl_version())));
  return sl_run_json_set(v->root, "analyses", json_object());
}

static sl_status say_all(sl_study_view *v, sl_run *run) {
  SL_TRY(sl_run_json_set(v->root, "study", v->said = json_object()));
  SL_TRY(say_facts(v));
  SL_TRY(say_model(v));
  SL_TRY(sl_study_say_counts(v));
  SL_TRY(sl_study_say_curves(v));
  SL_TRY(sl_study_say_cliff(v));
  SL_TRY(sl_study_say_heads(v));
  SL_TRY(sl_study_say_alike(v, run));
  SL_TRY(sl_study_say_failures(v));
  return sl_study_say_timing(v);
}

static sl_status write_page(const sl_study_view *v, const sl_run *run, const char *path) {
  const char **views = NULL;
  int n_tensor = 0;
  const sl_tensor *tensors = sl_run_tensors(run, &n_tensor);
  sl_text title = {0}, data = {0};
  sl_status status = SL_ALLOC(views, (size_t)sl_study_section_count, "sections");
  for (int i = 0; i < sl_study_section_count && status == SL_OK; i++) views[i] = sl_study_sections[i].script;
  const long long n = (long long)json_integer_value(json_object_get(v->said, "rows"));
  if (status == SL_OK) status = sl_text_format(&title, "%s, %lld example%s", data_name(v), n, n == 1 ? "" : "s");
  if (status == SL_OK) status = sl_payload_append_study(&data, v->root, tensors, n_tensor);
  const sl_page page = {.title = title.data, .data = &data, .views = views, .n_view = sl_study_section_count};
  if (status == SL_OK) status = sl_page_write(path, &page);
  sl_text_dispose(&title);
  sl_text_dispose(&data);
  free(views);
  return status;
}

static sl_status report(sl_study_view *v, char **summary) {
  const sl_study_report_request *q = v->request;
  sl_run *run = NULL;
  char *path = NULL;
  v->root = json_object();
  sl_status status = v->root ? SL_OK : sl_fail(SL_ERROR_MEMORY, "no memory for the numbers of a study");
  if (status == SL_OK) status = sl_run_new_memory(&run);
  if (status == SL_OK) status = sl_database_run(v->database, "BEGIN");
  if (status == SL_OK) status = say_all(v, run);
  sl_database_rollback(v->database);
  if (status == SL_OK)
    status = q->out_path ? sl_strdup(&path, q->out_path) : sl_path_join(&path, q->dir, "report.html");
  if (status == SL_OK) status = write_page(v, run, path);
  if (status == SL_OK) status = sl_run_json_set(v->root, "report", sl_json_text(path, strlen(path)));
  if (status == SL_OK) status = sl_json_print(v->root, 2, summary);
  free(path);
  sl_run_free(run);
  json_decref(v->root);
  return status;
}

sl_status sl_study_report(const sl_study_report_request *request, char **summary) {
  sl_study_view v = {.request = request};
  *summary = NULL;
  if (request->size != sizeof *request)
    SL_FAIL(SL_ERROR_ARGUMENT, "sl_study_report_request: expected size %zu, found %zu", sizeof *request, request->size);
  if (!request->dir) SL_FAIL(SL_ERROR_ARGUMENT, "a report needs a study's folder");
  SL_TRY(sl_study_store_read(&v.store, request->dir));
  v.database = sl_study_store_database(v.store);
  const sl_status status = report(&v, summary);
  sl_study_store_close(v.store);
  return status;
}
