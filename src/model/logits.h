/* One row of logits. */
#ifndef SL_MODEL_LOGITS_H
#define SL_MODEL_LOGITS_H

#include <stdint.h>

/* The most likely token of z[n_vocab], the first of equal ones. */
int32_t sl_logits_best(const float *z, int n_vocab);

/* sum_v exp(z_v - top) over all tokens but `skip` (-1: over all), in double precision; *top gets their largest logit.
 * The probability of token v is exp(z_v - top) / sum, the log of the sum of exponentials top + log(sum). */
double sl_logits_sum(const float *z, int n_vocab, int32_t skip, double *top);

#endif
