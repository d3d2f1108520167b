/* Targets of a backward pass: scalars of the answer rows' logits, and their gradient. */
#ifndef SL_ANALYSIS_TARGET_H
#define SL_ANALYSIS_TARGET_H

#include "analysis/analysis.h"

typedef enum sl_target {
  SL_TARGET_LOGIT,    /* z_a */
  SL_TARGET_LOGPROB,  /* z_a - logsumexp(z) */
  SL_TARGET_MARGIN,   /* z_a - z_r, r the runner-up of the unmodified run */
  SL_TARGET_LOGODDS,  /* z_a - logsumexp over all others */
  SL_TARGET_CONTRAST, /* z_a - z_b, b one given token */
  SL_TARGET_COUNT
} sl_target;

const char *sl_target_name(sl_target target);

/* The target called `name` ("logit", "logprob", "margin", "logodds"). */
sl_target sl_target_find(const char *name);

/* The token that stands against answer token `a` in this target: runner-up, contrast token, or -1. */
int32_t sl_target_rival(sl_target target, const sl_answer_token *a, int32_t contrast);

/* Gradient of the target of one answer token `id` by its row of logits z[n_vocab], into d[n_vocab]. Returns the
 * target's value. `rival` is used by MARGIN and CONTRAST. */
double sl_target_gradient(sl_target target, const float *z, int n_vocab, int32_t id, int32_t rival, float *d);

/* The token id of a user's --contrast text: it must be one token, with or without the tokenizer's space in front. Of
 * the two forms the one that begins like the answer's first token counts. answer [n_answer], at least 1: the tokens that
 * it is to stand against; that it is all of them is an error. */
sl_status sl_target_contrast_id(const sl_model *model, const char *text, const sl_answer_token *answer, int n_answer,
                                int32_t *id);

#endif
