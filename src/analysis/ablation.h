/* Measuring masks of components as branches: a component that a mask ablates has its image keys and values replaced by
 * the baseline's, or hidden. */
#ifndef SL_ANALYSIS_ABLATION_H
#define SL_ANALYSIS_ABLATION_H

#include "analysis/attribution.h"
#include "analysis/baseline.h"
#include "analysis/measure.h"
#include "analysis/shared.h"

typedef struct sl_ablation {
  sl_analysis_context *context;
  const sl_trunk *trunk;
  const sl_measure *measure;
  const sl_baseline *baseline; /* NULL = hidden */
  int n_component;
  /* Adds to an empty plan the rules that ablate the components with mask 0; `source` is what they then see. */
  sl_status (*add_rules)(const void *user, const uint8_t *mask, int source, sl_plan *plan);
  const void *user;
  double stop_at_s;    /* sl_clock_s() after which no block of masks is begun; 0 = never */
  double done, total;  /* branches, for progress */
} sl_ablation;

/* An sl_evaluate over this ablation (borrowed). Targets are rounded to f32, as they are stored, so that a resumed run
 * gives the bits of an uninterrupted one. */
sl_evaluate sl_ablation_evaluate(sl_ablation *ablation);

/* t of all components kept, and of none. */
sl_status sl_ablation_ends(sl_ablation *ablation, double *all, double *none);

/* Tells target and baseline in the analysis' object. */
sl_status sl_ablation_say(const sl_ablation *ablation, const sl_standin *standin);

/* Tells t(all) and t(none) in `out`, which will stand at `path` of run.json. A resumed run must have the ends of the
 * earlier one there: an error says so when picture, prompt, model, target or baseline cannot be the same. */
sl_status sl_ablation_say_ends(const sl_ablation *ablation, json_t *out, const char *path, double all, double none);

/* What every analysis by ablation checks before work: target, baseline, and that there is a picture. */
sl_status sl_ablation_check(const sl_analysis_context *context);

/* True when no text follows the picture: no query can lose sight of it, so there is nothing to do but say so. */
bool sl_ablation_blind(const sl_analysis_context *context);
sl_status sl_ablation_skip(sl_analysis_context *context);

/* Cost of one branch in forward passes over prompt and answer. */
double sl_ablation_passes(const sl_analysis_context *context);

double sl_clock_s(void);

#endif
