/* Public branches: opaque handles to what model/branch.h takes. */
#include <stdlib.h>

#include "task/scene_internal.h"

/* A request with arrays of its own. */
typedef struct running {
  const sl_branches *asked;
  sl_branch_request request;
  sl_plan *plans; /* shallow copies: sets and values belong to the caller's */
  const sl_baseline **baselines;
  const sl_trunk **runs;
  int *rows;
} running;

static void running_dispose(running *r) {
  free(r->plans);
  free(r->baselines);
  free(r->runs);
  free(r->rows);
}

static sl_status take(void *user, int plan, const float *logits) {
  const running *r = user;
  if (r->asked->take(r->asked->user, plan, logits)) return SL_OK;
  SL_FAIL(SL_ERROR_CANCELLED, "branches: interrupted");
}

/* The rows that predict the answer, at least the prompt's last one. */
static sl_status default_rows(running *r) {
  const sl_layout *l = &r->asked->question->layout;
  const int n = l->n_token > l->n_prompt ? l->n_token - l->n_prompt : 1;
  SL_TRY(SL_ALLOC(r->rows, (size_t)n, "rows"));
  for (int i = 0; i < n; i++) r->rows[i] = l->n_prompt - 1 + i;
  r->request.rows = r->rows;
  r->request.n_row = n;
  return SL_OK;
}

static sl_status fill(running *r) {
  const sl_branches *b = r->asked;
  SL_TRY(SL_ALLOC(r->plans, (size_t)b->n_plan, "plans"));
  SL_TRY(SL_ALLOC(r->baselines, (size_t)b->n_baseline, "baselines"));
  SL_TRY(SL_ALLOC(r->runs, (size_t)b->n_run, "runs"));
  for (int i = 0; i < b->n_plan; i++) r->plans[i] = *b->plans[i];
  for (int i = 0; i < b->n_baseline; i++) r->baselines[i] = b->baselines[i]->standin.baseline;
  for (int i = 0; i < b->n_run; i++) {
    if (b->runs[i]->scene->model != b->question->scene->model)
      SL_FAIL(SL_ERROR_ARGUMENT, "run %d is of another model", i);
    r->runs[i] = b->runs[i]->trunk;
  }
  r->request = (sl_branch_request){.trunk = b->question->trunk,
                                   .plans = r->plans,
                                   .n_plan = b->n_plan,
                                   .baselines = r->baselines,
                                   .n_baseline = b->n_baseline,
                                   .runs = r->runs,
                                   .n_run = b->n_run,
                                   .rows = b->rows,
                                   .n_row = b->n_row,
                                   .batch_size = b->batch_size,
                                   .take = take,
                                   .user = r};
  if (!b->rows) return default_rows(r);
  return sl_question_check_rows(b->question, b->rows, b->n_row);
}

static sl_status start(running *r, const sl_branches *b) {
  if (b->size != sizeof *b) SL_FAIL(SL_ERROR_ARGUMENT, "sl_branches: expected size %zu, found %zu", sizeof *b, b->size);
  if (b->n_plan < 0 || b->n_baseline < 0 || b->n_run < 0 || b->n_row < 0 || b->batch_size < 0)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s", "sl_branches: a count is negative");
  *r = (running){.asked = b};
  const sl_status status = fill(r);
  if (status != SL_OK) running_dispose(r);
  return status;
}

sl_status sl_branches_logits(const sl_branches *branches) {
  running r;
  SL_TRY(start(&r, branches));
  const sl_status status = branches->take ? sl_branches_run(branches->question->scene->session, &r.request)
                                          : sl_fail(SL_ERROR_ARGUMENT, "sl_branches: nobody takes the logits");
  running_dispose(&r);
  return status;
}

sl_status sl_branches_answer(const sl_branches *branches, int max_token, int32_t *ids, int *n_id) {
  running r;
  SL_TRY(start(&r, branches));
  const sl_status status = sl_branches_greedy(branches->question->scene->session, &r.request, max_token, ids, n_id);
  running_dispose(&r);
  return status;
}
