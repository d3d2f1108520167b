/* Rotary frequencies of the decoder, by the type that config.json names. */
#ifndef SL_MODEL_ROPE_H
#define SL_MODEL_ROPE_H

#include "model/config.h"

/* Refuses types that are not here, and numbers of a type that make no sense. */
sl_status sl_rope_check(const sl_config *config, const char *name);

/* theta^(-2 i / d) for i < d / 2. */
void sl_rope_frequencies(float *out, double theta, int d);

/* What the config's type makes of n such frequencies. */
void sl_rope_scale(float *frequencies, int n, const sl_config *config);

#endif
