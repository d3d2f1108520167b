/* The answer. Greedy decoding takes the most likely token, the first of equals, until one that ends an answer, which
 * is not part of it; a forced answer is read in one pass. Either way every token is described by the logits of
 * the row before it. */
#include "task/answer.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "model/logits.h"

void sl_answer_token_fill(sl_answer_token *t, int32_t id, const float *z, int n_vocab) {
  double top;
  const double sum = sl_logits_sum(z, n_vocab, -1, &top);
  *t = (sl_answer_token){.id = id, .logit = z[id]};
  for (int v = 0; v < n_vocab; v++) {
    /* Insertion into the short list; a strict comparison keeps lower ids first among equals. */
    int at = t->n_top;
    while (at > 0 && z[v] > t->top[at - 1].logit) at--;
    if (at >= SL_N_TOP) continue;
    if (t->n_top < SL_N_TOP) t->n_top++;
    for (int i = t->n_top - 1; i > at; i--) t->top[i] = t->top[i - 1];
    t->top[at].id = v;
    t->top[at].logit = z[v];
  }
  for (int i = 0; i < t->n_top; i++) t->top[i].prob = (float)(exp(t->top[i].logit - top) / sum);
  t->prob = (float)(exp(z[id] - top) / sum);
}

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

static sl_status append_token(sl_answer *answer, int32_t id, const float *logits, int n_vocab) {
  SL_TRY(SL_REALLOC(answer->tokens, (size_t)answer->n_token + 1, "answer"));
  sl_answer_token_fill(&answer->tokens[answer->n_token++], id, logits, n_vocab);
  return SL_OK;
}

static sl_status run_greedy(sl_answer *answer, sl_session *session, const sl_model *model, const sl_image *image,
                            sl_layout *layout, const sl_answer_request *request, float *logits) {
  const sl_model_shape *shape = sl_model_get_shape(model);
  const double since = now_ms();
  SL_TRY(sl_session_forward(session, layout, image, &(int){layout->n_prompt - 1}, 1, logits, NULL, false));
  answer->pass_ms = now_ms() - since;
  while (layout->n_token < shape->max_position) {
    const int32_t id = sl_logits_best(logits, shape->n_vocab);
    answer->end_id = id;
    if (sl_shape_is_eos(shape, id)) return SL_OK;
    SL_TRY(append_token(answer, id, logits, shape->n_vocab));
    SL_TRY(sl_layout_append(layout, model, &id, 1));
    if (request->on_token && !request->on_token(request->user, answer->n_token, request->max_token))
      SL_FAIL(SL_ERROR_CANCELLED, "answer: interrupted");
    if (answer->n_token == request->max_token || layout->n_token == shape->max_position) break;
    SL_TRY(sl_session_step(session, &id, 1, logits, NULL));
  }
  answer->cut = true;
  return SL_OK;
}

/* Describes the layout's answer tokens from one pass over prompt and answer. */
static sl_status run_forced(sl_answer *answer, sl_session *session, const sl_model *model, const sl_image *image,
                            const sl_layout *layout) {
  const int n = layout->n_token - layout->n_prompt, n_vocab = sl_model_get_shape(model)->n_vocab;
  int *rows = NULL;
  float *logits = NULL;
  sl_status status = SL_ALLOC(rows, (size_t)n, "answer rows");
  if (status == SL_OK) status = SL_ALLOC(logits, (size_t)n * (size_t)n_vocab, "logits");
  for (int a = 0; a < n && status == SL_OK; a++) rows[a] = layout->n_prompt + a - 1;
  const double since = now_ms();
  if (status == SL_OK) status = sl_session_forward(session, layout, image, rows, n, logits, NULL, false);
  answer->pass_ms = now_ms() - since;
  for (int a = 0; a < n && status == SL_OK; a++)
    status = append_token(answer, layout->ids[layout->n_prompt + a], logits + (int64_t)a * n_vocab, n_vocab);
  free(rows);
  free(logits);
  return status;
}

sl_status sl_answer_decode(char **text, const sl_model *model, const int32_t *ids, int n_id) {
  const sl_tokenizer *tokenizer = sl_model_get_tokenizer(model);
  int32_t *known = NULL;
  sl_text out = {0};
  size_t n_byte;
  int n = 0;
  *text = NULL;
  SL_TRY(SL_ALLOC(known, (size_t)n_id, "answer"));
  for (int i = 0; i < n_id; i++)
    if (sl_tokenizer_piece(tokenizer, ids[i], &n_byte)) known[n++] = ids[i];
  sl_status status = sl_text_append(&out, "", 0);
  if (status == SL_OK && n > 0) status = sl_tokenizer_decode(tokenizer, known, n, true, &out);
  free(known);
  if (status == SL_OK)
    *text = out.data;
  else
    sl_text_dispose(&out);
  return status;
}

sl_status sl_answer_make(sl_answer *answer, sl_session *session, const sl_model *model, const sl_image *image,
                         sl_layout *layout, const sl_answer_request *request) {
  sl_status status;
  answer->forced = request->forced != NULL;
  if (request->forced) {
    status = sl_layout_append_text(layout, model, request->forced);
    if (status == SL_OK) status = run_forced(answer, session, model, image, layout);
  } else {
    float *logits = NULL;
    status = SL_ALLOC(logits, (size_t)sl_model_get_shape(model)->n_vocab, "logits");
    if (status == SL_OK) status = run_greedy(answer, session, model, image, layout, request, logits);
    free(logits);
  }
  if (status == SL_OK)
    status = sl_answer_decode(&answer->text, model, layout->ids + layout->n_prompt, layout->n_token - layout->n_prompt);
  if (status != SL_OK) sl_answer_dispose(answer);
  return status;
}

sl_status sl_answer_append_end(sl_answer *answer, sl_session *session, const sl_model *model, const sl_image *image,
                               sl_layout *layout) {
  SL_TRY(sl_layout_append(layout, model, &answer->end_id, 1));
  return run_forced(answer, session, model, image, layout);
}

void sl_answer_dispose(sl_answer *answer) {
  free(answer->tokens);
  free(answer->text);
  *answer = (sl_answer){0};
}
