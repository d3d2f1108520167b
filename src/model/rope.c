/* Scaled rotary frequencies, in 32 bits as transformers computes them (modeling_rope_utils.py):
 *
 *   default, dynamic   f                            (dynamic NTK stretches only beyond max_position_embeddings, where
 *                                                   no prompt is taken)
 *   linear             f / factor                   Chen et al., arXiv 2306.15595
 *   llama3             f                            where a turn is shorter than O / high,
 *                      f / factor                   where it is longer than O / low,
 *                      (1 - s) f / factor + s f     between,   s = (O / turn - low) / (high - low)
 *
 * with turn = 2 pi / f positions, and O the length that the model was trained for before it was stretched. Source of
 * llama3: The Llama 3 Herd of Models, arXiv 2407.21783, and Meta's code. */
#include "model/rope.h"

#include <math.h>
#include <string.h>

#define TURN 6.283185307179586

typedef void scale_fn(float *f, int n, const sl_config *c);

static void scale_none(float *f, int n, const sl_config *c) { (void)f, (void)n, (void)c; }

static void scale_linear(float *f, int n, const sl_config *c) {
  for (int i = 0; i < n; i++) f[i] /= (float)c->text.rope_factor;
}

static void scale_llama3(float *f, int n, const sl_config *c) {
  const float factor = (float)c->text.rope_factor, low = (float)c->text.rope_low, high = (float)c->text.rope_high;
  const float length = (float)c->text.rope_original;
  for (int i = 0; i < n; i++) {
    const float turn = (float)TURN / f[i], share = (length / turn - low) / (high - low);
    if (turn > length / low)
      f[i] /= factor;
    else if (turn >= length / high)
      f[i] = (1 - share) * f[i] / factor + share * f[i];
  }
}

static const struct {
  const char *name;
  bool divides, blends; /* has a factor; and the bounds between which it grows */
  scale_fn *scale;
} types[] = {{"default", false, false, scale_none},
             {"dynamic", false, false, scale_none},
             {"linear", true, false, scale_linear},
             {"llama3", true, true, scale_llama3}};
enum { N_TYPE = sizeof types / sizeof *types };

static int find_type(const char *name) {
  int i = 0;
  while (i < N_TYPE && strcmp(types[i].name, name) != 0) i++;
  return i;
}

/* As the arithmetic has it: in 32 bits. */
static bool is_positive(double x) { return (float)x > 0 && isfinite((float)x); }

sl_status sl_rope_check(const sl_config *c, const char *name) {
  const int type = find_type(c->text.rope_type);
  if (type == N_TYPE)
    SL_FAIL(SL_ERROR_UNSUPPORTED,
            "%s: rope type is \"%s\"; sightline has \"default\", \"dynamic\", \"linear\" and \"llama3\"", name,
            c->text.rope_type);
  if (types[type].divides && !is_positive(c->text.rope_factor))
    SL_FAIL(SL_ERROR_FORMAT, "%s: rope type \"%s\": factor is %g; expected a number > 0", name, types[type].name,
            c->text.rope_factor);
  if (!types[type].blends) return SL_OK;
  if (!is_positive(c->text.rope_low) || !is_positive(c->text.rope_high) ||
      (float)c->text.rope_high <= (float)c->text.rope_low)
    SL_FAIL(SL_ERROR_FORMAT,
            "%s: rope type \"%s\": low_freq_factor is %g and high_freq_factor %g; expected 0 < low < high", name,
            types[type].name, c->text.rope_low, c->text.rope_high);
  if (c->text.rope_original < 1)
    SL_FAIL(SL_ERROR_FORMAT, "%s: rope type \"%s\": expected original_max_position_embeddings, found none", name,
            types[type].name);
  return SL_OK;
}

void sl_rope_frequencies(float *out, double theta, int d) {
  for (int i = 0; i < d / 2; i++) out[i] = 1.0f / powf((float)theta, (float)(2 * i) / (float)d);
}

void sl_rope_scale(float *frequencies, int n, const sl_config *c) {
  const int type = find_type(c->text.rope_type);
  if (type < N_TYPE) types[type].scale(frequencies, n, c);
}
