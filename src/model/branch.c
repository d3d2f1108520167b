/* Branches of a request: checked, cut into batches, run, and their logits handed out. */
#include "model/branch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/branch_internal.h"

#define ENOUGH_ROWS 2048 /* rows of a batch beyond which products gain nothing */

/* ---- requests ---- */

sl_status sl_branches_check(const sl_branch_request *r) {
  if (r->n_baseline > SL_MAX_BASELINE)
    SL_FAIL(SL_ERROR_ARGUMENT, "%d baselines; at most %d can be used at once", r->n_baseline, SL_MAX_BASELINE);
  for (int i = 0; i < r->n_baseline; i++) {
    char what[32];
    snprintf(what, sizeof what, "baseline %d", i);
    SL_TRY(sl_baseline_check(r->baselines[i], r->trunk->prefix, what));
  }
  const sl_plan_limits limits = sl_trunk_limits(r->trunk, r->n_baseline, r->n_run);
  for (int i = 0; i < r->n_plan; i++) {
    char where[32];
    snprintf(where, sizeof where, "plan %d", i);
    SL_TRY(sl_plan_check(&r->plans[i], &limits, where));
  }
  return SL_OK;
}

/* ---- batches ---- */

/* Branches that may run at once under the memory limit, one at least, when each computes n_row rows and then n_step
 * more one by one, for which it keeps the keys of all layers. */
static int batch_limit(const sl_session *s, int n_row, int n_step) {
  const sl_decoder *d = &s->model->decoder;
  const int64_t row = sl_block_forward_scratch(&d->shape, 1, 1, 0) + 2 * sl_scratch_need(1, d->shape.d_model);
  const int64_t keys = 2 * sl_scratch_need(1, sl_kv_width(s->model)) * (n_step > 0 ? d->n_layer : 1);
  const int64_t elements = (int64_t)(s->branch_limit_bytes / sizeof(float));
  const int64_t fit = elements / (row * n_row + keys * ((int64_t)n_row + n_step)), most = ENOUGH_ROWS / n_row;
  const int64_t n = fit < most ? fit : most;
  return n < 1 ? 1 : (int)n;
}

/* Branches of plans from `first` on: batch_size of them, or as many as the limit has room for. */
static sl_status add_branches(sl_pass *t, int first, int n_step) {
  const sl_branch_request *r = t->request;
  const int most = r->n_plan - first;
  const int asked = r->batch_size > 0 && r->batch_size < most ? r->batch_size : most;
  int longest = 1;
  for (int b = 0; b < asked; b++) {
    sl_branch branch;
    SL_TRY(sl_branch_reach(&branch, r->trunk, &r->plans[first + b], first + b, t->n_token, n_step));
    if (branch.n_row > longest) longest = branch.n_row;
    const bool fits = r->batch_size > 0 || b < batch_limit(t->session, longest, n_step);
    sl_status status = SL_OK;
    if (fits) status = SL_REALLOC(t->branches, (size_t)b + 1, "branches");
    if (!fits || status != SL_OK) {
      sl_branch_dispose(&branch);
      return status;
    }
    t->branches[t->n_branch++] = branch;
  }
  return SL_OK;
}

sl_status sl_pass_init(sl_pass *t, sl_session *s, const sl_branch_request *r, int first, int n_token, int n_step) {
  *t = (sl_pass){.session = s, .trunk = r->trunk, .request = r, .n_token = n_token, .keeps_local = n_step > 0};
  SL_TRY(add_branches(t, first, n_step));
  SL_TRY(SL_ALLOC(t->first_slot, (size_t)t->n_branch, "branches"));
  SL_TRY(sl_pass_set_edits(t, true));
  SL_TRY(sl_pass_reserve_rows(t, n_step));
  sl_view_plan_init(&t->views, r->trunk, n_token, r->n_baseline, t->n_local);
  return SL_OK;
}

/* ---- logits ---- */

/* Asked rows of every branch through the head, and to whoever takes them. */
static sl_status take_logits(sl_pass *t, int first_plan) {
  const sl_branch_request *r = t->request;
  const size_t n_vocab = (size_t)t->session->model->decoder.n_vocab;
  const int n_all = t->n_branch * r->n_row;
  float *logits = NULL; /* whole plans: some rows, and what is left of one plan */
  SL_TRY(SL_ALLOC(logits, ((size_t)SL_PASS_ROWS + (size_t)r->n_row) * n_vocab, "logits"));
  sl_status status = SL_OK;
  int held = 0, plan = first_plan;
  for (int i = 0; i < n_all && status == SL_OK; i += SL_PASS_ROWS) {
    const int n = n_all - i < SL_PASS_ROWS ? n_all - i : SL_PASS_ROWS;
    sl_pass_logits(t, r->rows, r->n_row, i, n, logits + (size_t)held * n_vocab);
    held += n;
    int at = 0;
    for (; held - at >= r->n_row && status == SL_OK; at += r->n_row)
      status = r->take(r->user, plan++, logits + (size_t)at * n_vocab);
    held -= at;
    memmove(logits, logits + (size_t)at * n_vocab, (size_t)held * n_vocab * sizeof *logits);
  }
  free(logits);
  return status;
}

/* One batch from plan `first` on; *n is how many plans it held. */
static sl_status run_batch(sl_session *s, const sl_branch_request *r, int first, int *n) {
  sl_pass t;
  const int64_t mark = s->scratch.used;
  sl_status status = sl_pass_init(&t, s, r, first, r->rows[r->n_row - 1] + 1, 0);
  if (status == SL_OK) status = sl_pass_reserve_scratch(&t, 0);
  if (status == SL_OK) status = sl_pass_run(&t, NULL);
  if (status == SL_OK) status = take_logits(&t, first);
  *n = t.n_branch;
  sl_pass_dispose(&t);
  s->scratch.used = mark;
  return status;
}

void sl_session_set_branch_limit(sl_session *s, size_t n_bytes) { s->branch_limit_bytes = n_bytes; }

int sl_branch_batch(const sl_session *s, const sl_trunk *trunk, int n_step) {
  return batch_limit(s, trunk->n_row, n_step);
}

sl_status sl_branches_run(sl_session *s, const sl_branch_request *r) {
  if (r->n_row < 1) SL_FAIL(SL_ERROR_ARGUMENT, "branches: no logits row is asked for");
  SL_TRY(sl_trunk_check_rows(r->trunk, r->rows, r->n_row));
  SL_TRY(sl_branches_check(r));
  for (int first = 0, n; first < r->n_plan; first += n) SL_TRY(run_batch(s, r, first, &n));
  return SL_OK;
}
