/* The answer under an intervention plan, beside the unmodified one.
 *
 * A forced answer is read under the plan in one branch. A greedy one is decoded under the plan first; the probabilities
 * of its tokens, under the plan and without it, then come from a trunk over it. */
#include <stdlib.h>
#include <string.h>

#include "analysis/token_json.h"
#include "task/trace_internal.h"

typedef struct applied {
  sl_trace *trace;
  sl_analysis_context context;
  const sl_trunk *trunk; /* of prompt and plain answer, borrowed */
  sl_standin standins[SL_MAX_BASELINE];
  const sl_baseline *baselines[SL_MAX_BASELINE];
  sl_plan_run runs[SL_MAX_PLAN_RUN];
  const sl_trunk *run_trunks[SL_MAX_PLAN_RUN];
  sl_layout layout; /* prompt and answer under the plan, when that is greedy */
  sl_trunk *own;    /* its trunk */
  int *rows;        /* that predict the answer's tokens */
  int n_answer;
  float *logits, *plain_logits; /* [n_answer, V] under the plan, and without it */
  bool cut;
} applied;

static sl_status check_at(sl_trace *t, int n_token) {
  const sl_plan_limits limits = sl_plan_limits_for(t->model, &t->layout, n_token, t->plan.n_baseline, t->plan.n_run);
  return sl_plan_check(&t->plan.plan, &limits, t->request->plan_path);
}

sl_status sl_trace_check_plan(sl_trace *t) {
  if (!t->plan.json) return SL_OK;
  /* A greedy answer's positions do not exist before it is decoded; a forced one's are not counted yet. */
  return check_at(t, t->request->answer ? SL_SET_MAX : t->layout.n_prompt);
}

/* ---- what the plan refers to ---- */

static sl_status make_baselines(applied *a) {
  const sl_plan_file *plan = &a->trace->plan;
  for (int i = 0; i < plan->n_baseline; i++) {
    SL_TRY(sl_baseline_from_spec(&a->standins[i], &a->context, plan->baselines[i], a->trace->request->plan_path));
    a->baselines[i] = a->standins[i].baseline;
  }
  return SL_OK;
}

static sl_status make_runs(applied *a) {
  const sl_plan_file *plan = &a->trace->plan;
  for (int i = 0; i < plan->n_run; i++) {
    SL_TRY(sl_plan_run_make(&a->runs[i], &a->context, plan->runs[i].image_path, plan->runs[i].question));
    a->run_trunks[i] = a->runs[i].trunk;
    SL_TRY(sl_trace_check_cancel(a->trace));
  }
  return SL_OK;
}

static sl_branch_request request_for(applied *a, const sl_trunk *trunk) {
  const sl_plan_file *plan = &a->trace->plan;
  return (sl_branch_request){.trunk = trunk,
                             .plans = &plan->plan,
                             .n_plan = 1,
                             .baselines = a->baselines,
                             .n_baseline = plan->n_baseline,
                             .runs = a->run_trunks,
                             .n_run = plan->n_run,
                             .batch_size = a->trace->request->batch_size,
                             .user = a};
}

/* ---- answers ---- */

/* Decodes under the plan; a->own is the trunk over what came out, NULL when the answer is empty. */
static sl_status decode_greedy(applied *a) {
  sl_trace *t = a->trace;
  const sl_trace_request *r = t->request;
  const sl_branch_request request = request_for(a, a->trunk);
  int32_t *ids = NULL;
  SL_TRY(SL_ALLOC(ids, (size_t)t->max_token, "answer"));
  sl_status status = sl_branches_greedy(t->session, &request, t->max_token, ids, &a->n_answer);
  if (status == SL_OK) status = sl_layout_build(&a->layout, t->model, &t->picture.pack, r->question, r->raw_prompt);
  if (status == SL_OK && a->n_answer > 0) status = sl_layout_append(&a->layout, t->model, ids, a->n_answer);
  if (status == SL_OK && a->n_answer > 0)
    status = sl_trunk_new(&a->own, t->session, sl_trunk_prefix(a->trunk), &a->layout, NULL);
  a->cut = a->n_answer == t->max_token ||
           t->layout.n_prompt + a->n_answer == sl_model_get_shape(t->model)->max_position;
  free(ids);
  return status;
}

static sl_status take_logits(void *user, int plan, const float *logits) {
  (void)plan;
  applied *a = user;
  const int n_vocab = sl_model_get_shape(a->trace->model)->n_vocab;
  memcpy(a->logits, logits, (size_t)a->n_answer * (size_t)n_vocab * sizeof *logits);
  return SL_OK;
}

/* Logits of the rows that predict the answer's tokens, under the plan and without it. */
static sl_status read_logits(applied *a, const sl_trunk *trunk) {
  sl_trace *t = a->trace;
  const size_t n = (size_t)a->n_answer * (size_t)sl_model_get_shape(t->model)->n_vocab;
  SL_TRY(SL_ALLOC(a->rows, (size_t)a->n_answer, "answer rows"));
  SL_TRY(SL_ALLOC(a->logits, n, "logits"));
  SL_TRY(SL_ALLOC(a->plain_logits, n, "logits"));
  for (int i = 0; i < a->n_answer; i++) a->rows[i] = t->layout.n_prompt + i - 1;
  SL_TRY(sl_trunk_logits(t->session, trunk, a->rows, a->n_answer, a->plain_logits));
  sl_branch_request request = request_for(a, trunk);
  request.rows = a->rows;
  request.n_row = a->n_answer;
  request.take = take_logits;
  return sl_branches_run(t->session, &request);
}

/* ---- run.json ---- */

static sl_status token_to_json(json_t **out, const applied *a, int32_t id, int i) {
  const int n_vocab = sl_model_get_shape(a->trace->model)->n_vocab;
  sl_answer_token token, plain;
  sl_answer_token_fill(&token, id, a->logits + (int64_t)i * n_vocab, n_vocab);
  sl_answer_token_fill(&plain, id, a->plain_logits + (int64_t)i * n_vocab, n_vocab);
  SL_TRY(sl_run_json_answer_token(out, a->trace->model, &token));
  SL_TRY(sl_run_json_set(*out, "plain_logit", json_real((double)plain.logit)));
  return sl_run_json_set(*out, "plain_prob", json_real((double)plain.prob));
}

static sl_status write_tokens(json_t *list, const applied *a, const sl_layout *layout) {
  for (int i = 0; i < a->n_answer; i++) {
    json_t *token = NULL;
    sl_status status = token_to_json(&token, a, layout->ids[layout->n_prompt + i], i);
    if (status != SL_OK) json_decref(token);
    SL_TRY(status);
    if (json_array_append_new(list, token) != 0) SL_FAIL(SL_ERROR_MEMORY, "run.json: no memory for an answer token");
  }
  return SL_OK;
}

static sl_status write_answer(const applied *a, const sl_layout *layout) {
  sl_trace *t = a->trace;
  char *text = NULL;
  json_t *answer = json_object(), *tokens = json_array();
  SL_TRY(sl_run_json_set(t->root, "plan_answer", answer));
  SL_TRY(sl_run_json_set(answer, "tokens", tokens));
  SL_TRY(sl_run_json_set(answer, "answer_source", json_string(t->answer.forced ? "forced" : "greedy")));
  SL_TRY(sl_run_json_set(answer, "answer_cut", json_boolean(a->cut)));
  SL_TRY(write_tokens(tokens, a, layout));
  SL_TRY(sl_answer_decode(&text, t->model, layout->ids + layout->n_prompt, a->n_answer));
  const sl_status status = sl_run_json_set(answer, "text", sl_json_text(text, strlen(text)));
  free(text);
  return status;
}

/* ---- all of it ---- */

static sl_status apply(applied *a) {
  sl_trace *t = a->trace;
  const bool keep_rows = sl_plan_reaches_prefix(&t->plan.plan, sl_context_first_text(&a->context));
  SL_TRY(check_at(t, t->answer.forced ? t->layout.n_token : t->layout.n_prompt));
  SL_TRY(sl_run_json_set(t->root, "plan", json_incref(t->plan.json)));
  sl_trace_progress(t, "plan", 0, 1);
  SL_TRY(sl_context_trunk(&a->context, keep_rows, &a->trunk));
  SL_TRY(make_baselines(a));
  SL_TRY(make_runs(a));
  if (t->answer.forced)
    a->n_answer = t->layout.n_token - t->layout.n_prompt;
  else
    SL_TRY(decode_greedy(a));
  if (a->n_answer > 0) SL_TRY(read_logits(a, t->answer.forced ? a->trunk : a->own));
  SL_TRY(write_answer(a, t->answer.forced ? &t->layout : &a->layout));
  sl_trace_progress(t, "plan", 1, 1);
  return SL_OK;
}

static void applied_dispose(applied *a) {
  for (int i = 0; i < SL_MAX_BASELINE; i++) sl_standin_dispose(&a->standins[i]);
  for (int i = 0; i < SL_MAX_PLAN_RUN; i++) sl_plan_run_dispose(&a->runs[i]);
  sl_trunk_free(a->own);
  sl_layout_dispose(&a->layout);
  free(a->rows);
  free(a->logits);
  free(a->plain_logits);
}

sl_status sl_trace_apply_plan(sl_trace *t) {
  static const sl_analysis_info info = {.name = "plan"};
  if (!t->plan.json) return SL_OK;
  const double since = sl_now_ms();
  applied a = {.trace = t, .context = sl_trace_context(t, &info, NULL)};
  sl_status status = apply(&a);
  applied_dispose(&a);
  if (status == SL_OK) status = sl_trace_note_time(t, "plan", since);
  return status == SL_OK ? sl_trace_check_cancel(t) : status;
}
