/* Targets and their gradients by the logits z of one row; a is the answer token.
 *
 *   logit    y = z_a                            dy/dz = e_a
 *   logprob  y = z_a - lse(z)                   dy/dz = e_a - softmax(z)
 *   margin   y = z_a - z_r                      dy/dz = e_a - e_r, r fixed
 *   logodds  y = z_a - lse(z without a)         dy/dz = e_a - softmax over the others
 *   contrast y = z_a - z_b                      dy/dz = e_a - e_b
 *
 * Source: Zhang et al., From Redundancy to Relevance, arXiv 2406.06579, eq. 1 (logit); the others are sightline's, as
 * defined above; lse is the log of the sum of exponentials, r the runner-up in the unmodified run, b a given token. */
#include "analysis/target.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "model/logits.h"

static const char *const names[SL_TARGET_COUNT] = {[SL_TARGET_LOGIT] = "logit",
                                                   [SL_TARGET_LOGPROB] = "logprob",
                                                   [SL_TARGET_MARGIN] = "margin",
                                                   [SL_TARGET_LOGODDS] = "logodds",
                                                   [SL_TARGET_CONTRAST] = "contrast"};

const char *sl_target_name(sl_target target) { return names[target]; }

sl_target sl_target_find(const char *name) {
  int target = 0;
  while (target + 1 < SL_TARGET_COUNT && strcmp(names[target], name) != 0) target++;
  return (sl_target)target;
}

int32_t sl_target_rival(sl_target target, const sl_answer_token *a, int32_t contrast) {
  if (target == SL_TARGET_CONTRAST) return contrast;
  if (target != SL_TARGET_MARGIN) return -1;
  return a->n_top > 1 ? a->top[a->top[0].id == a->id].id : -1;
}

/* d = -softmax(z) over all tokens but `skip` (-1: none), whose place gets 0; returns the log of the sum. */
static double minus_softmax(const float *z, int n_vocab, int32_t skip, float *d) {
  double top;
  const double sum = sl_logits_sum(z, n_vocab, skip, &top);
  for (int v = 0; v < n_vocab; v++) d[v] = v == skip ? 0 : (float)(-exp(z[v] - top) / sum);
  return top + log(sum);
}

double sl_target_gradient(sl_target target, const float *z, int n_vocab, int32_t id, int32_t rival, float *d) {
  double value = z[id];
  switch (target) {
    case SL_TARGET_LOGPROB:
      value -= minus_softmax(z, n_vocab, -1, d);
      break;
    case SL_TARGET_LOGODDS:
      value -= minus_softmax(z, n_vocab, id, d);
      break;
    case SL_TARGET_LOGIT:
    case SL_TARGET_MARGIN:
    case SL_TARGET_CONTRAST:
    case SL_TARGET_COUNT:
      memset(d, 0, (size_t)n_vocab * sizeof *d);
      if (rival >= 0) {
        d[rival] -= 1;
        value -= z[rival];
      }
      break;
  }
  d[id] += 1;
  return value;
}

/* The one token that `text` (after `prefix`) is, or -1. */
static sl_status single_token(const sl_tokenizer *tokenizer, const char *prefix, const char *text, int32_t *id) {
  sl_text whole = {0};
  int32_t *ids = NULL;
  int n_id = 0;
  *id = -1;
  sl_status status = sl_text_format(&whole, "%s%s", prefix, text);
  if (status == SL_OK) status = sl_tokenizer_encode(tokenizer, whole.data, whole.length, false, &ids, &n_id);
  if (status == SL_OK && n_id == 1) *id = ids[0];
  free(ids);
  sl_text_dispose(&whole);
  return status;
}

/* True when a token's stored content begins with a space in SentencePiece's or byte-level BPE's spelling. */
static bool begins_with_space(const sl_tokenizer *tokenizer, int32_t id) {
  static const char *const marks[] = {"\xe2\x96\x81", "\xc4\xa0"};
  size_t n_byte = 0;
  const char *piece = sl_tokenizer_piece(tokenizer, id, &n_byte);
  for (int m = 0; piece && m < 2; m++) {
    if (n_byte >= strlen(marks[m]) && memcmp(piece, marks[m], strlen(marks[m])) == 0) return true;
  }
  return false;
}

static sl_status find_contrast(const sl_model *model, const char *text, int32_t like, int32_t *id) {
  const sl_tokenizer *tokenizer = sl_model_get_tokenizer(model);
  if (!*text) SL_FAIL(SL_ERROR_ARGUMENT, "--contrast: expected a token, found an empty text");
  int32_t forms[3];
  SL_TRY(single_token(tokenizer, "", text, &forms[0]));
  SL_TRY(single_token(tokenizer, " ", text, &forms[1]));
  forms[2] = sl_tokenizer_find(tokenizer, text);
  const bool space = begins_with_space(tokenizer, like);
  *id = -1;
  for (int i = 2; i >= 0; i--) {
    if (forms[i] >= 0 && (*id < 0 || begins_with_space(tokenizer, forms[i]) == space)) *id = forms[i];
  }
  if (*id >= 0) return SL_OK;
  int32_t *ids = NULL;
  int n_id = 0;
  SL_TRY(sl_tokenizer_encode(tokenizer, text, strlen(text), false, &ids, &n_id));
  free(ids);
  SL_FAIL(SL_ERROR_ARGUMENT, "--contrast: \"%s\" is %d tokens in this model's vocabulary, expected one", text, n_id);
}

sl_status sl_target_contrast_id(const sl_model *model, const char *text, const sl_answer_token *answer, int n_answer,
                                int32_t *id) {
  SL_TRY(find_contrast(model, text, answer[0].id, id));
  for (int a = 0; a < n_answer; a++)
    if (answer[a].id != *id) return SL_OK;
  SL_FAIL(SL_ERROR_ARGUMENT, "--contrast: \"%s\" is the answer itself, so there is nothing to contrast", text);
}
