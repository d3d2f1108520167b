/* Which components carry something, by regression on random ablations: draw masks m in {0,1}^p (1 = kept), measure the
 * target t(m) of each, fit t(m) ~ b0 + sum_j b_j m_j; b_j is component j's score. What a component is (a head, an image
 * token, a query position) is the caller's: it hands over who measures masks. */
#ifndef SL_ANALYSIS_ATTRIBUTION_H
#define SL_ANALYSIS_ATTRIBUTION_H

#include "analysis/analysis.h"
#include "stats/regress.h"

/* Measures t(m) of masks[n_mask, p] in order. *n_done = how many of `target` are valid afterwards: all, unless it was
 * cancelled (SL_ERROR_CANCELLED) or ran out of time (SL_OK). */
typedef struct sl_evaluate {
  sl_status (*run)(void *user, const uint8_t *masks, int n_mask, double *target, int *n_done);
  void *user;
} sl_evaluate;

/* Measures masks and insists on all of them. */
sl_status sl_evaluate_all(const sl_evaluate *evaluate, const uint8_t *masks, int n_mask, double *target);

typedef struct sl_attribution_request {
  int n_component;           /* p */
  const bool *dropped;       /* [p] true = never ablated, no score; NULL = none */
  uint64_t seed, stream;     /* the stream tells the analyses apart */
  double keep;               /* q */
  int n_sample;              /* most masks; 0 = SL_GROWTH_MOST p, at least twice SL_GROWTH_UNIT */
  bool all_samples;          /* draw them all even when the correlation has stopped rising */
  sl_regress_kind solver;
  bool bootstrap;            /* standard errors by residual bootstrap instead of HC3 */
  sl_evaluate evaluate;
  const sl_run_reader *earlier; /* a run to go on from, or NULL */
  const char *prefix;           /* of its tensors: "heads." */
  const double *known;          /* [n_known] targets of the first masks, measured elsewhere; NULL = none */
  int n_known;
} sl_attribution_request;

/* Growth: M = 1, 2, 4, 8 times the unit (p, at least SL_GROWTH_UNIT: 30 validation masks, fewer tell nothing apart). It
 * stops when a checkpoint raises the validation correlation by less than SL_GROWTH_RISE; its fit and the one before are
 * compared on the same masks, its own. */
#define SL_GROWTH_UNIT 300
#define SL_GROWTH_MOST 8
#define SL_GROWTH_RISE 0.005
#define SL_GROWTH_MAX_STEP 24
#define SL_MASKS_LEAST 30 /* 24 train, 3 validation, 3 test */

typedef enum sl_growth_end {
  SL_GROWTH_CORRELATION, /* the validation correlation stopped rising */
  SL_GROWTH_SAMPLES,     /* as many as were asked for */
  SL_GROWTH_BUDGET,      /* no time left */
  SL_GROWTH_INTERRUPTED  /* cancelled */
} sl_growth_end;

typedef struct sl_growth_step {
  int n_mask;
  sl_agreement valid; /* of the fit to these masks, on their validation part */
  double rise;        /* of Pearson over the fit before, on the same validation part; NaN at the first step */
} sl_growth_step;

/* Zero-initialise; release with sl_attribution_dispose. */
typedef struct sl_attribution {
  int n_component, n_mask, n_earlier; /* p, M, of which so many came from the earlier run */
  int n_stored;                       /* masks that the earlier run had */
  uint8_t *masks;                     /* [M, p] */
  double *target;                     /* [M] */
  int n_live;                         /* components that are not dropped */
  sl_growth_end end;
  bool fitted; /* false: too few masks (interrupted, or no time); what follows is then empty */
  int n_needed; /* masks that a fit needs */
  sl_regression fit;
  sl_agreement test; /* of the test masks, measured once */
  int n_test;
  double *predicted; /* [n_test] in the order of the test masks */
  int penalty_edge;  /* the chosen penalty is the largest that was tried: 1; the smallest: -1; else 0 */
  int n_step;
  sl_growth_step steps[SL_GROWTH_MAX_STEP];
} sl_attribution;

/* Parts of the sample: by index, so that every prefix has all three. */
typedef enum sl_mask_part { SL_MASKS_TRAIN, SL_MASKS_VALID, SL_MASKS_TEST } sl_mask_part;
static inline sl_mask_part sl_mask_part_of(int j) {
  return j % 10 < 8 ? SL_MASKS_TRAIN : j % 10 == 8 ? SL_MASKS_VALID : SL_MASKS_TEST;
}

/* Mask j: a function of (seed, stream, j) and the dropped components, whoever draws it and when. */
void sl_mask_draw(uint8_t *mask, const sl_attribution_request *request, int j);

/* Checkpoint number `step` of the growth, at most the request's samples; masks a fit needs. */
int sl_growth_checkpoint(const sl_attribution_request *request, int n_live, int step);
int sl_growth_most(const sl_attribution_request *request);
int sl_masks_needed(const sl_attribution_request *request, int n_live);

/* Draws, measures, grows, fits. Cancellation and the end of time are no errors: what is there is fitted if it can be
 * (`end`, `fitted`). */
sl_status sl_attribution_run(sl_attribution *out, const sl_attribution_request *request);
void sl_attribution_dispose(sl_attribution *attribution);

/* Tensors PREFIXmasks, target, fit, predicted, growth, intercept; scores and errors are the caller's (their shape
 * is). */
sl_status sl_attribution_put(sl_analysis_context *context, const char *prefix, const sl_attribution *attribution);

/* The same in numbers, as a new JSON object; what makes the fit doubtful is its "note". */
sl_status sl_attribution_to_json(json_t **out, const sl_attribution *attribution,
                                 const sl_attribution_request *request);

/* Warns of that note; `what` is the attribution's name: "heads". */
sl_status sl_attribution_warn(sl_analysis_context *context, const char *what, const json_t *json);

/* Masks that will be measured whatever comes out: all of them, or those of the first two checkpoints. */
int sl_attribution_sure(const sl_attribution_request *request, int n_live);

/* Scores and errors as f32 ([p] each), dropped components 0 and NaN. */
void sl_attribution_scores(const sl_attribution *attribution, float *score, float *error);

/* Options that every attribution has. */
#define SL_ATTRIBUTION_OPTIONS                                                                                         \
  {.name = "keep-probability",                                                                                         \
   .type = SL_OPTION_REAL,                                                                                             \
   .argument = "Q",                                                                                                    \
   .fallback = "0.5",                                                                                                  \
   .min = 0.01,                                                                                                        \
   .max = 0.99,                                                                                                        \
   .help = "Probability that a mask keeps a component. 0.5 asks what each does when half of the others are cut; "      \
           "0.75 and 0.9 stay nearer to the whole model."},                                                            \
      {.name = "samples",                                                                                              \
       .type = SL_OPTION_INT,                                                                                          \
       .argument = "M",                                                                                                \
       .fallback = "0",                                                                                                \
       .min = 0,                                                                                                       \
       .max = 10000000,                                                                                                \
       .may_change = true,                                                                                             \
       .help = "Most masks that are drawn (30 or more); 0 = 8 times the number of components (600 at least). Their "   \
               "number starts at 1 time the components (300 at least) and doubles until the correlation on the "       \
               "validation masks stops rising."},                                                                      \
      {.name = "all-samples",                                                                                          \
       .type = SL_OPTION_FLAG,                                                                                         \
       .fallback = "false",                                                                                            \
       .may_change = true,                                                                                             \
       .help = "Draw all --samples masks, whether the correlation still rises or not."},                               \
      {.name = "solver",                                                                                               \
       .type = SL_OPTION_CHOICE,                                                                                       \
       .argument = "NAME",                                                                                             \
       .fallback = "ridge",                                                                                            \
       .choices = sl_attribution_solvers,                                                                              \
       .may_change = true,                                                                                             \
       .help = "The regression: ridge (its penalty chosen on the validation masks), ols (least squares; needs 3 "      \
               "training masks for each component) or lasso (likewise chosen; has no standard errors)."},              \
      {.name = "errors",                                                                                               \
       .type = SL_OPTION_CHOICE,                                                                                       \
       .argument = "NAME",                                                                                             \
       .fallback = "hc3",                                                                                              \
       .choices = sl_attribution_errors,                                                                               \
       .may_change = true,                                                                                             \
       .help = "Standard errors: hc3 (heteroscedasticity-consistent sandwich) or bootstrap (200 refits to resampled "  \
               "residuals)."},                                                                                         \
      {.name = "min-effect",                                                                                           \
       .type = SL_OPTION_REAL,                                                                                         \
       .argument = "T",                                                                                                \
       .fallback = "0.5",                                                                                              \
       .min = 0,                                                                                                       \
       .max = 1e6,                                                                                                     \
       .may_change = true,                                                                                             \
       .help = "Leave out faithfulness and completeness when ablating everything changes the target by less than T."}
extern const char *const sl_attribution_solvers[]; /* NULL-terminated */
extern const char *const sl_attribution_errors[];
const char *sl_solver_name(sl_regress_kind kind);  /* "ridge", "ols", "lasso" */

/* keep, n_sample, all_samples, solver, bootstrap, seed, earlier from the running analysis' options. */
sl_status sl_attribution_read(sl_attribution_request *request, const sl_analysis_context *context, int n_component);

#endif
