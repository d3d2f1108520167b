/* How few components do: faithfulness and completeness of the first n components of a ranking.
 *
 *   F(n) = (t(top n) - t(none)) / (t(all) - t(none))          near 1: these suffice
 *   C(n) = (t(all) - t(all but top n)) / (t(all) - t(none))   near 1: nothing else does it
 *
 * (Some authors call F of the complement completeness: C = 1 - that.) */
#ifndef SL_ANALYSIS_ATTRIBUTION_CURVE_H
#define SL_ANALYSIS_ATTRIBUTION_CURVE_H

#include "analysis/attribution.h"

#define SL_CURVE_ENOUGH 0.9
#define SL_CURVE_CHANCE 4 /* random orders behind a ranking by chance, whose curve is their mean */

/* Zero-initialise; release with sl_curves_dispose. */
typedef struct sl_curves {
  int n_component, n_ranking, n_step;
  int n_chance;         /* the last so many rankings are by chance */
  double all, none;     /* t of the two ends */
  int32_t *steps;       /* [n_step] n of each point, from 0 to n_component */
  float *faithfulness;  /* [n_ranking, n_step] */
  float *completeness;
  double *area_sd;      /* [n_ranking, 2] of a ranking by chance: standard deviation of its orders' areas, F and C */
} sl_curves;

/* Every n up to SL_CURVE_DENSE components; beyond, every n to 32 and then steps of a fifth of an octave. Returns their
 * number; steps may be NULL. */
#define SL_CURVE_DENSE 192
int sl_curve_steps(int n_component, int32_t *steps);

/* Orders of so many rankings, of which the last n_chance are by chance. */
static inline int sl_curve_orders(int n_ranking, int n_chance) { return n_ranking + (SL_CURVE_CHANCE - 1) * n_chance; }

/* Why there are no shares of the effect all - none, for run.json (new; JSON null when there are: the effect is `least`
 * or more, and not 0); NULL without memory. */
json_t *sl_curves_refused(double all, double none, double least);

/* Measures both curves of rankings orders[sl_curve_orders(), n_component] (component numbers, best first; a ranking by
 * chance has SL_CURVE_CHANCE of them, one after the other). */
sl_status sl_curves_run(sl_curves *out, const sl_evaluate *evaluate, int n_component, const int *orders, int n_ranking,
                        int n_chance, double all, double none);
void sl_curves_dispose(sl_curves *curves);

/* The smallest n of the curve that reaches `enough`; -1 when none does. */
int sl_curve_smallest(const sl_curves *curves, const float *curve, double enough);

/* Area under the curve over n / n_component, by trapezoids: 1 for a curve that is 1 throughout. */
double sl_curve_area(const sl_curves *curves, const float *curve);

/* PREFIXsteps, faithfulness, completeness of ranking 0, and of the others as PREFIXfaithfulness_rivals, ... */
sl_status sl_curves_put(sl_analysis_context *context, const char *prefix, const sl_curves *curves);

/* {"enough": 0.9, "rankings": [{"name", "smallest_faithful", "smallest_complete", "area_faithful", "area_complete"}]}
 * as a new object; rankings by chance also have "orders" and "area_sd": {"faithful", "complete"}. */
sl_status sl_curves_to_json(json_t **out, const sl_curves *curves, const char *const *names);

/* Component numbers by sign * score, largest first, equal ones by number; NaN last. */
sl_status sl_rank_components(int *order, const float *score, int n, double sign);

/* A random order; and one whose i-th component is a random one of the i-th component's group in `like` (groups of
 * `width` neighbours: the heads of a layer), so that every prefix has as many of each group. */
void sl_rank_random(int *order, int n, uint64_t seed, uint64_t stream);
sl_status sl_rank_random_like(int *order, const int *like, int n, int width, uint64_t seed, uint64_t stream);

#endif
