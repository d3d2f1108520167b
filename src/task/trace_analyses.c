/* Which analyses of a run there are: those asked for and those they need, makers of results before their users; how
 * long they will take; and running them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "task/trace_internal.h"

#define LONG_WORK_S 5.0
#define TOLD_SHARE 0.1 /* of the whole time, from which on an analysis is named in the estimate */

sl_analysis_context sl_trace_context(sl_trace *t, const sl_analysis_info *info, json_t *said) {
  const sl_trace_request *r = t->request;
  return (sl_analysis_context){.model = t->model,
                               .session = t->session,
                               .pixels = t->picture.views.pixels,
                               .pack = &t->picture.pack,
                               .question = t->request->question,
                               .image = t->image,
                               .layout = &t->layout,
                               .answer = t->answer.tokens,
                               .n_answer = t->answer.n_token,
                               .max_answer = t->answer.forced ? 0 : t->max_token,
                               .object = t->object,
                               .seed = r->seed,
                               .info = info,
                               .options = r->options,
                               .n_option = r->n_option,
                               .run = t->run,
                               .said = said,
                               .warnings = t->warnings,
                               .progress = r->progress,
                               .log = r->log,
                               .user = r->user,
                               .cancel = t->cancel,
                               .shared = &t->shared,
                               .batch_size = r->batch_size,
                               .earlier = t->earlier,
                               .share = t->share};
}

/* ---- choosing ---- */

static int find_analysis(const char *name) {
  for (int k = 0; sl_analyses[k]; k++)
    if (strcmp(sl_analyses[k]->info.name, name) == 0) return k;
  return -1;
}

static bool is_chosen(const sl_trace *t, int index) {
  for (int i = 0; i < t->n_analysis; i++)
    if (t->analyses_at[i] == index) return true;
  return false;
}

static const char *const *needs_of(sl_trace *t, int index) {
  const sl_analysis_context context = sl_trace_context(t, &sl_analyses[index]->info, NULL);
  return sl_analyses[index]->needs ? sl_analyses[index]->needs(&context) : NULL;
}

/* An option that was given for an asked analysis holds for a needed one of that name too, and must suit it. */
static sl_status check_options(const sl_trace *t, const sl_analysis_info *info) {
  for (int i = 0; i < t->request->n_option; i++) {
    const sl_option_info *option = sl_option_find(info, t->request->options[i].name);
    if (option) SL_TRY(sl_option_check(option, t->request->options[i].value));
  }
  return SL_OK;
}

static sl_status add_needed(sl_trace *t) {
  for (int i = 0; i < t->n_analysis; i++) { /* n_analysis grows: what is added may have needs of its own */
    for (const char *const *need = needs_of(t, t->analyses_at[i]); need && *need; need++) {
      const int index = find_analysis(*need);
      if (index < 0)
        SL_FAIL(SL_ERROR_UNSUPPORTED, "%s needs the analysis %s, which this program lacks",
                sl_analyses[t->analyses_at[i]]->info.name, *need);
      if (is_chosen(t, index)) continue;
      SL_TRY(check_options(t, &sl_analyses[index]->info));
      t->analyses_at[t->n_analysis++] = index;
    }
  }
  return SL_OK;
}

/* True when one of list[first .. n) other than `index` is needed by it. */
static bool waits(sl_trace *t, int index, const int *list, int first, int n) {
  for (const char *const *need = needs_of(t, index); need && *need; need++)
    for (int i = first; i < n; i++)
      if (list[i] != index && list[i] == find_analysis(*need)) return true;
  return false;
}

/* The table's order, made to respect needs: the first that waits for nobody comes next. */
static void order(sl_trace *t) {
  int *list = t->analyses_at;
  sl_analysis_order(list, t->n_analysis);
  for (int done = 0; done < t->n_analysis; done++) {
    int pick = done;
    while (pick + 1 < t->n_analysis && waits(t, list[pick], list, done, t->n_analysis)) pick++;
    const int index = list[pick];
    memmove(list + done + 1, list + done, (size_t)(pick - done) * sizeof *list);
    list[done] = index;
  }
}

sl_status sl_trace_choose_analyses(sl_trace *t) {
  const sl_trace_request *r = t->request;
  json_t *options = json_object_get(t->root, "options");
  SL_TRY(SL_ALLOC(t->analyses_at, (size_t)sl_analysis_count() + 1, "analyses"));
  for (int i = 0; i < r->n_analysis; i++) t->analyses_at[t->n_analysis++] = find_analysis(r->analyses[i]);
  SL_TRY(add_needed(t));
  order(t);
  for (int i = 0; i < t->n_analysis; i++) {
    const sl_analysis_info *info = &sl_analyses[t->analyses_at[i]]->info;
    json_t *own = NULL;
    SL_TRY(sl_options_to_json(info, r->options, r->n_option, &own));
    SL_TRY(sl_run_json_set(options, info->name, own));
  }
  for (int i = 0; i < t->n_analysis; i++) {
    const sl_analysis *analysis = sl_analyses[t->analyses_at[i]];
    const sl_analysis_context context = sl_trace_context(t, &analysis->info, NULL);
    if (analysis->check) SL_TRY(analysis->check(&context));
  }
  return SL_OK;
}

/* ---- time ---- */

/* Seconds that the i-th analysis will take, reckoned from the pass that was timed. */
static double seconds_of(sl_trace *t, int i) {
  const sl_analysis *analysis = sl_analyses[t->analyses_at[i]];
  const sl_analysis_context context = sl_trace_context(t, &analysis->info, NULL);
  return analysis->passes(&context) * t->answer.pass_ms / 1000;
}

static sl_status append_duration(sl_text *line, double s) {
  if (s < 120) return sl_text_format(line, "%.0f s", s);
  return s < 7200 ? sl_text_format(line, "%.0f min", s / 60) : sl_text_format(line, "%.1f h", s / 3600);
}

/* "this will take about 12 min (heads 10 min, tokens 2 min)"; long work alone. */
static sl_status write_estimate(sl_trace *t, sl_text *line) {
  const double record_s = t->request->record || t->request->logits ? t->answer.pass_ms / 1000 : 0;
  const double budget_s = t->request->budget_s;
  double whole_s = record_s;
  int n_told = 0;
  for (int i = 0; i < t->n_analysis; i++) whole_s += seconds_of(t, i);
  if (whole_s < LONG_WORK_S) return SL_OK;
  SL_TRY(sl_text_append_string(line, "this will take about "));
  SL_TRY(append_duration(line, whole_s));
  for (int i = 0; i < t->n_analysis && t->n_analysis > 1; i++) {
    const double s = seconds_of(t, i);
    if (s < TOLD_SHARE * whole_s) continue;
    SL_TRY(sl_text_format(line, "%s%s ", n_told++ ? ", " : " (", sl_analyses[t->analyses_at[i]]->info.name));
    SL_TRY(append_duration(line, s));
  }
  if (n_told) SL_TRY(sl_text_append_string(line, ")"));
  if (budget_s <= 0 || budget_s >= whole_s) return SL_OK;
  SL_TRY(sl_text_append_string(line, "; the budget cuts it to "));
  return append_duration(line, budget_s);
}

static sl_status tell_estimate(sl_trace *t) {
  sl_text line = {0};
  const sl_status status = write_estimate(t, &line);
  if (status == SL_OK && line.length && t->request->log) t->request->log(t->request->user, line.data);
  sl_text_dispose(&line);
  return status;
}

/* What the i-th analysis may take of the time that is left: its share by estimate of all that are still to run. */
static double budget_for(sl_trace *t, int i, double since_ms) {
  double ours = 0, rest = 0;
  if (t->request->budget_s <= 0) return 0;
  for (int k = i; k < t->n_analysis; k++) {
    const double s = seconds_of(t, k);
    rest += s;
    if (k == i) ours = s;
  }
  const double left = t->request->budget_s - (sl_now_ms() - since_ms) / 1000;
  const double share = rest > 0 ? left * ours / rest : left;
  return share > 1e-3 ? share : 1e-3; /* 0 would mean no limit */
}

/* ---- running ---- */

/* Tensors without what run.json says of them would be read wrongly. */
static sl_status drop_results(sl_trace *t, const char *analysis) {
  char prefix[64];
  snprintf(prefix, sizeof prefix, "%s.", analysis);
  return sl_run_drop(t->run, prefix);
}

static sl_status run_analysis(sl_trace *t, const sl_analysis *analysis, double budget_s) {
  const double since = sl_now_ms();
  json_t *said = json_object();
  sl_analysis_context context = sl_trace_context(t, &analysis->info, said);
  context.budget_s = budget_s;
  sl_context_progress(&context, 0, 1);
  sl_status status = analysis->run(&context);
  if (status == SL_OK) sl_context_progress(&context, 1, 1);
  if (status == SL_OK) status = sl_run_json_set(t->analyses, analysis->info.name, json_incref(said));
  if (status == SL_OK) status = sl_trace_note_time(t, analysis->info.name, since);
  json_decref(said);
  if (status == SL_ERROR_CANCELLED && t->run) SL_TRY(drop_results(t, analysis->info.name));
  return status;
}

sl_status sl_trace_run_analyses(sl_trace *t) {
  const double since = sl_now_ms();
  SL_TRY(tell_estimate(t));
  for (int i = 0; i < t->n_analysis; i++) {
    SL_TRY(run_analysis(t, sl_analyses[t->analyses_at[i]], budget_for(t, i, since)));
    /* After the last one too: an analysis that samples keeps what it has and ends well when it is cancelled. */
    SL_TRY(sl_trace_check_cancel(t));
  }
  return SL_OK;
}
