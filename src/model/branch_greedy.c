/* Greedy decoding of branches together: each keeps its own keys of all layers and goes on row by row. */
#include <stdlib.h>

#include "model/branch_internal.h"
#include "model/logits.h"

/* The next token of every branch from the logits of its row at `position`; -1 where the answer has ended. */
static void next_tokens(sl_pass *t, int position, float *logits, int32_t *token) {
  const sl_model *m = t->session->model;
  const int n_vocab = m->decoder.n_vocab;
  for (int i = 0; i < t->n_branch; i += SL_PASS_ROWS) {
    const int n = t->n_branch - i < SL_PASS_ROWS ? t->n_branch - i : SL_PASS_ROWS;
    sl_pass_logits(t, &position, 1, i, n, logits);
    for (int k = 0; k < n; k++) {
      const int32_t id = sl_logits_best(logits + (size_t)k * (size_t)n_vocab, n_vocab);
      if (token[i + k] >= 0) token[i + k] = sl_shape_is_eos(&m->shape, id) ? -1 : id;
    }
  }
}

/* One more row of every branch; branches that have ended go on with any token, which is not looked at. */
static sl_status step(sl_pass *t, const int32_t *token, int position, sl_mat fresh) {
  sl_session *s = t->session;
  int32_t *ids = NULL;
  SL_TRY(SL_ALLOC(ids, (size_t)t->n_branch, "tokens"));
  for (int b = 0; b < t->n_branch; b++) ids[b] = token[b] >= 0 ? token[b] : 0;
  sl_status status = sl_pass_reserve_control(t, (size_t)t->n_branch);
  if (status == SL_OK) {
    sl_buffer_write(s->queue, t->control, 0, ids, (size_t)t->n_branch * sizeof *ids);
    sl_decoder_words(s->queue, &s->model->decoder, fresh, (sl_ints){t->control, 0, t->n_branch});
    t->fresh = fresh;
  }
  for (int b = 0; b < t->n_branch && status == SL_OK; b++) {
    t->first_slot[b] = t->branches[b].n_row;
    status = sl_branch_append(&t->branches[b], position);
  }
  free(ids);
  SL_TRY(status);
  SL_TRY(sl_pass_set_edits(t, false));
  return sl_pass_run(t, NULL);
}

/* Up to n_step tokens of every branch; ids [n_branch, stride]. */
static sl_status decode_batch(sl_pass *t, int n_step, int32_t *ids, int stride, int *n_id) {
  const sl_model *m = t->session->model;
  const int n_prompt = t->trunk->layout.n_prompt;
  float *logits = NULL;
  int32_t *token = NULL;
  const sl_mat fresh = sl_scratch_mat(&t->session->scratch, t->n_branch, m->decoder.shape.d_model);
  sl_status status = SL_ALLOC(logits, (size_t)SL_PASS_ROWS * (size_t)m->decoder.n_vocab, "logits");
  if (status == SL_OK) status = SL_ALLOC(token, (size_t)t->n_branch, "tokens");
  if (status == SL_OK) status = sl_pass_run(t, NULL);
  for (int i = 0; i < n_step && status == SL_OK; i++) {
    int open = 0;
    next_tokens(t, n_prompt + i - 1, logits, token);
    for (int b = 0; b < t->n_branch; b++) {
      if (token[b] < 0) continue;
      ids[(size_t)b * (size_t)stride + (size_t)n_id[b]++] = token[b];
      open++;
    }
    if (open == 0 || i + 1 == n_step) break;
    status = step(t, token, n_prompt + i, fresh);
  }
  free(logits);
  free(token);
  return status;
}

static sl_status greedy_batch(sl_session *s, const sl_branch_request *r, int first, int n_step, int32_t *ids,
                              int stride, int *n_id, int *n) {
  sl_pass t;
  const int width = s->model->decoder.shape.d_model;
  const int64_t mark = s->scratch.used;
  sl_status status = sl_pass_init(&t, s, r, first, r->trunk->layout.n_prompt, n_step);
  if (status == SL_OK) status = sl_pass_reserve_scratch(&t, sl_scratch_need(t.n_branch, width));
  if (status == SL_OK) status = decode_batch(&t, n_step, ids, stride, n_id);
  *n = t.n_branch;
  sl_pass_dispose(&t);
  s->scratch.used = mark;
  return status;
}

sl_status sl_branches_greedy(sl_session *s, const sl_branch_request *r, int max_token, int32_t *ids, int *n_id) {
  const sl_layout *layout = &r->trunk->layout;
  if (max_token < 1) SL_FAIL(SL_ERROR_ARGUMENT, "max tokens is %d; expected at least 1", max_token);
  if (layout->n_prompt <= r->trunk->first)
    SL_FAIL(SL_ERROR_ARGUMENT, "the prompt ends with the picture: there is no text to branch");
  SL_TRY(sl_branches_check(r));
  const int room = s->model->shape.max_position - layout->n_prompt, n_step = max_token < room ? max_token : room;
  for (int i = 0; i < r->n_plan; i++) n_id[i] = 0;
  for (int first = 0, n; first < r->n_plan && n_step > 0; first += n)
    SL_TRY(greedy_batch(s, r, first, n_step, ids + (size_t)first * (size_t)max_token, max_token, n_id + first, &n));
  return SL_OK;
}
