/* The branches of a truncation sweep: one for every first-truncated layer and ranking. */
#ifndef SL_ANALYSIS_CLIFF_SWEEP_H
#define SL_ANALYSIS_CLIFF_SWEEP_H

#include "analysis/cliff_rank.h"
#include "analysis/measure.h"
#include "analysis/shared.h"

typedef struct sl_sweep_options {
  int n_keep;      /* image tokens kept: 0 = none, and no ranking matters */
  bool text_only;  /* kept image tokens keep the unmodified run's keys and values */
  sl_ranking ranks[SL_MAX_RANKING];
  int n_rank;      /* curves; 1 with n_keep 0 */
  int fastv_layer;
} sl_sweep_options;

/* The plan that makes image positions invisible from layer `first_layer` on, for the text after the image. kept [N]
 * marks those that stay visible (NULL = none); with `recompute` they do not see the others either, so that their own
 * rows are computed again. */
sl_status sl_cliff_plan(sl_plan *plan, const sl_layout *layout, int first_layer, const bool *kept, bool recompute);

/* The first two plans of a sweep; plan_of tells the others. */
enum { SL_SWEEP_PLAIN, SL_SWEEP_NO_IMAGE };

typedef struct sl_sweep {
  sl_analysis_context *context;
  sl_sweep_options options;
  sl_measure measure;
  const sl_trunk *trunk; /* borrowed from the context */
  int n_layer, n_curve, n_plan;
  sl_plan *plans;
  int *plan_of;   /* [n_curve, L + 1] plan of curve and first-truncated layer; -1 where the ranking does not exist */
  double *value;  /* [n_plan] the target */
  float *prob;    /* [n_plan] probability of the answer's first token */
  int32_t *token; /* [n_plan] most likely first token */
} sl_sweep;

/* Makes all plans and runs them. Release with sl_sweep_dispose. */
sl_status sl_sweep_run(sl_sweep *out, sl_analysis_context *context, const sl_sweep_options *options);
void sl_sweep_dispose(sl_sweep *sweep);

/* Greedy answers of one curve: ids [L + 1, max_token], n_id [L + 1]; n_id is -1 where the ranking does not exist. */
sl_status sl_sweep_answers(const sl_sweep *sweep, int curve, int max_token, int32_t *ids, int *n_id);

#endif
