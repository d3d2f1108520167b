/* The answer: greedy or forced, with the probabilities of every token and its rivals. */
#ifndef SL_TASK_ANSWER_H
#define SL_TASK_ANSWER_H

#include "analysis/analysis.h"

/* Zero-initialise; release with sl_answer_dispose. */
typedef struct sl_answer {
  sl_answer_token *tokens;
  int n_token;
  char *text;     /* decoded, special tokens left out */
  bool forced;
  bool cut;       /* stopped at max_token, or because the model has no more positions; not at an end token */
  int32_t end_id; /* of a greedy answer: the last token that was chosen; that which ended it, unless it was cut */
  double pass_ms; /* time of the forward pass over the prompt (forced: prompt and answer) */
} sl_answer;

/* How the answer is made; on_token gets tokens done and at most, and says false to stop. */
typedef struct sl_answer_request {
  const char *forced; /* NULL = greedy */
  int max_token;
  bool (*on_token)(void *user, int done, int most);
  void *user;
} sl_answer_request;

/* Fills `answer` and appends its tokens to the layout. A greedy answer that ends at once has no tokens. */
sl_status sl_answer_make(sl_answer *answer, sl_session *session, const sl_model *model, const sl_image *image,
                         sl_layout *layout, const sl_answer_request *request);

/* For an empty greedy answer: appends the end token that the model chose, so that analyses have a row. */
sl_status sl_answer_append_end(sl_answer *answer, sl_session *session, const sl_model *model, const sl_image *image,
                               sl_layout *layout);

/* Ids as text, as the continuation they are: a tokenizer drops the space in front of a text's first word. New string
 * (free()). Special tokens are left out, and ids that the tokenizer lacks: vocabularies are padded to round sizes. */
sl_status sl_answer_decode(char **text, const sl_model *model, const int32_t *ids, int n_id);

void sl_answer_dispose(sl_answer *answer);

/* One row of logits to a token with its rivals. */
void sl_answer_token_fill(sl_answer_token *token, int32_t id, const float *logits, int n_vocab);

#endif
