/* Attribution by random ablation.
 *
 *   m_j ~ Bernoulli(q), i.i.d.;  t(m) ~ b0 + sum_j b_j m_j;  b_j = score of component j
 *
 * Masks are split by index: of every ten, eight train, one validates (the ridge or LASSO penalty, and when to stop
 * growing), one tests; the test masks are looked at once, after everything else is settled. Standard errors are HC3 or
 * a residual bootstrap's.
 *
 * Source: Kim et al., Interpreting Attention Heads for Image-to-Text Information Flow in LVLMs (HA), arXiv 2509.17588
 * (regression on random head masks). The split, the growth rule, the choice of penalty and the errors are sightline's;
 * correlation on held-out masks is how COAR and ContextCite judge such fits. */
#include "analysis/attribution.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

const char *const sl_attribution_solvers[] = {"ridge", "ols", "lasso", NULL};
const char *const sl_attribution_errors[] = {"hc3", "bootstrap", NULL};
static const sl_regress_kind solver_kinds[] = {SL_REGRESS_RIDGE, SL_REGRESS_LEAST_SQUARES, SL_REGRESS_LASSO};

#define OLS_RATIO 3      /* training masks per component that least squares needs */
#define DRAWN_AHEAD 4096 /* masks drawn before they are measured: an end of time leaves no more than these unused */

const char *sl_solver_name(sl_regress_kind kind) {
  int i = 0;
  while (sl_attribution_solvers[i + 1] && solver_kinds[i] != kind) i++;
  return sl_attribution_solvers[i];
}

/* ---- masks and growth ---- */

void sl_mask_draw(uint8_t *mask, const sl_attribution_request *r, int j) {
  for (int i = 0; i < r->n_component; i++) {
    const bool kept = sl_rng_uniform(r->seed, r->stream + (uint64_t)j, (uint64_t)i) < r->keep;
    mask[i] = kept || (r->dropped && r->dropped[i]);
  }
}

static int growth_unit(const sl_attribution_request *r) {
  return r->n_component > SL_GROWTH_UNIT ? r->n_component : SL_GROWTH_UNIT;
}

/* Whole tens, so that every part grows. */
static int round_up_ten(int64_t n) { return (int)((n + 9) / 10 * 10); }

int sl_growth_most(const sl_attribution_request *r) {
  const int64_t most = (int64_t)SL_GROWTH_MOST * r->n_component;
  if (r->n_sample > 0) return r->n_sample;
  return round_up_ten(most > 2 * SL_GROWTH_UNIT ? most : 2 * SL_GROWTH_UNIT); /* two checkpoints to compare */
}

int sl_masks_needed(const sl_attribution_request *r, int n_live) {
  if (r->solver != SL_REGRESS_LEAST_SQUARES) return SL_MASKS_LEAST;
  const int needed = round_up_ten(((int64_t)OLS_RATIO * n_live * 10 + 7) / 8);
  return needed > SL_MASKS_LEAST ? needed : SL_MASKS_LEAST;
}

int sl_growth_checkpoint(const sl_attribution_request *r, int n_live, int step) {
  const int most = sl_growth_most(r), needed = sl_masks_needed(r, n_live);
  int64_t n = growth_unit(r);
  while (n < needed) n *= 2; /* least squares cannot be fitted to less */
  for (int i = 0; i < step && n < most; i++) n *= 2;
  n = round_up_ten(n);
  return n < most ? (int)n : most;
}

sl_status sl_attribution_read(sl_attribution_request *r, const sl_analysis_context *c, int n_component) {
  const char *solver = sl_context_text(c, "solver");
  *r = (sl_attribution_request){.n_component = n_component,
                                .seed = c->seed,
                                .keep = sl_context_real(c, "keep-probability"),
                                .n_sample = sl_context_int(c, "samples"),
                                .all_samples = sl_context_flag(c, "all-samples"),
                                .bootstrap = strcmp(sl_context_text(c, "errors"), "bootstrap") == 0,
                                .earlier = c->earlier};
  for (int i = 0; sl_attribution_solvers[i]; i++) {
    if (strcmp(sl_attribution_solvers[i], solver) == 0) r->solver = solver_kinds[i];
  }
  if (n_component > SL_REGRESS_MAX_COLUMN)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: %d components; a regression takes %d at most%s", c->info->name, n_component,
            SL_REGRESS_MAX_COLUMN, sl_option_find(sl_analysis_find(c->info->name), "bands")
                                       ? " (--text-by class, fewer --bands or a larger --block make fewer)"
                                       : "");
  if (r->bootstrap && r->solver == SL_REGRESS_LASSO)
    SL_FAIL(SL_ERROR_ARGUMENT, "--errors bootstrap goes with --solver ridge or ols: lasso has no standard errors");
  const int needed = sl_masks_needed(r, n_component);
  if (r->n_sample == 0 || r->n_sample >= needed) return SL_OK;
  if (needed == SL_MASKS_LEAST)
    SL_FAIL(SL_ERROR_ARGUMENT, "--samples: expected at least %d masks (or 0 for the default), found %d", needed,
            r->n_sample);
  SL_FAIL(SL_ERROR_ARGUMENT,
          "--solver ols needs %d training masks for each of the %d components of %s, so --samples %d or more; found %d "
          "(ridge does with fewer)",
          OLS_RATIO, n_component, c->info->name, needed, r->n_sample);
}

/* ---- measuring ---- */

sl_status sl_evaluate_all(const sl_evaluate *evaluate, const uint8_t *masks, int n_mask, double *target) {
  int n_done = 0;
  SL_TRY(evaluate->run(evaluate->user, masks, n_mask, target, &n_done));
  if (n_done == n_mask) return SL_OK;
  SL_FAIL(SL_ERROR_CANCELLED, "the time given was over after %d of %d masks", n_done, n_mask);
}

static sl_status reserve_masks(sl_attribution *a, int n_mask) {
  SL_TRY(SL_REALLOC(a->masks, (size_t)n_mask * (size_t)a->n_component, "masks"));
  return SL_REALLOC(a->target, (size_t)n_mask, "targets");
}

/* Masks and targets of the earlier run; its masks must be the ones that would be drawn now. */
static sl_status take_earlier(sl_attribution *a, const sl_attribution_request *r) {
  char name[64];
  const size_t p = (size_t)a->n_component;
  snprintf(name, sizeof name, "%smasks", r->prefix);
  const sl_tensor *masks = sl_run_find(r->earlier, name);
  snprintf(name, sizeof name, "%starget", r->prefix);
  const sl_tensor *target = sl_run_find(r->earlier, name);
  if (!masks || !target) return SL_OK; /* it had not come so far */
  if (masks->shape[1] != a->n_component)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: its masks have %lld components, expected %d", sl_run_dir(r->earlier),
            (long long)masks->shape[1], a->n_component);
  const int most = sl_growth_most(r), n = masks->shape[0] < most ? (int)masks->shape[0] : most;
  a->n_stored = (int)masks->shape[0];
  SL_TRY(reserve_masks(a, n));
  for (int j = 0; j < n; j++) {
    sl_mask_draw(a->masks + (size_t)j * p, r, j);
    a->target[j] = ((const float *)target->data)[j];
    if (memcmp(a->masks + (size_t)j * p, (const uint8_t *)masks->data + (size_t)j * p, p) != 0)
      SL_FAIL(SL_ERROR_ARGUMENT, "%s: mask %d differs from the one this seed and keep probability draw",
              sl_run_dir(r->earlier), j);
  }
  a->n_mask = a->n_earlier = n;
  return SL_OK;
}

int sl_attribution_sure(const sl_attribution_request *r, int n_live) {
  return r->all_samples ? sl_growth_most(r) : sl_growth_checkpoint(r, n_live, 1);
}

/* Targets that another process measured: of the masks that are drawn now. */
static sl_status take_known(sl_attribution *a, const sl_attribution_request *r) {
  const int most = sl_growth_most(r), n = r->n_known < most ? r->n_known : most;
  if (n <= a->n_mask) return SL_OK;
  SL_TRY(reserve_masks(a, n));
  for (int j = a->n_mask; j < n; j++) {
    sl_mask_draw(a->masks + (size_t)j * (size_t)a->n_component, r, j);
    a->target[j] = r->known[j];
  }
  a->n_mask = n;
  return SL_OK;
}

static sl_status measure_next(sl_attribution *a, const sl_attribution_request *r, int n_mask) {
  const size_t p = (size_t)a->n_component;
  SL_TRY(reserve_masks(a, n_mask));
  for (int j = a->n_mask; j < n_mask; j++) sl_mask_draw(a->masks + (size_t)j * p, r, j);
  const int first = a->n_mask;
  int n_done = 0;
  const sl_status status = r->evaluate.run(r->evaluate.user, a->masks + (size_t)first * p, n_mask - first,
                                           a->target + first, &n_done);
  a->n_mask += n_done;
  if (status == SL_ERROR_CANCELLED) a->end = SL_GROWTH_INTERRUPTED;
  if (status == SL_ERROR_CANCELLED) return SL_OK;
  if (status == SL_OK && a->n_mask < n_mask) a->end = SL_GROWTH_BUDGET;
  return status;
}

/* Draws and measures masks until there are n_mask. */
static sl_status measure_to(sl_attribution *a, const sl_attribution_request *r, int n_mask) {
  while (a->n_mask < n_mask && a->end == SL_GROWTH_SAMPLES)
    SL_TRY(measure_next(a, r, n_mask - a->n_mask > DRAWN_AHEAD ? a->n_mask + DRAWN_AHEAD : n_mask));
  return SL_OK;
}

/* ---- fitting ---- */

/* One part of the sample, gathered. */
typedef struct part {
  int n;
  uint8_t *masks;
  double *target;
} part;

static void part_dispose(part *s) {
  free(s->masks);
  free(s->target);
  *s = (part){0};
}

static sl_status part_gather(part *s, const sl_attribution *a, int n_mask, sl_mask_part which) {
  const size_t p = (size_t)a->n_component;
  *s = (part){0};
  int n = 0;
  for (int j = 0; j < n_mask; j++) n += sl_mask_part_of(j) == which;
  sl_status status = SL_ALLOC(s->masks, (size_t)n * p, "masks");
  if (status == SL_OK) status = SL_ALLOC(s->target, (size_t)n, "targets");
  for (int j = 0; j < n_mask && status == SL_OK; j++) {
    if (sl_mask_part_of(j) != which) continue;
    memcpy(s->masks + (size_t)s->n * p, a->masks + (size_t)j * p, p);
    s->target[s->n++] = a->target[j];
  }
  if (status != SL_OK) part_dispose(s);
  return status;
}

/* Agreement of the fit with a part; the predictions are handed over when asked for. */
static sl_status judge(sl_agreement *out, const sl_regression *fit, const part *s, double **predicted) {
  double *p = NULL;
  SL_TRY(SL_ALLOC(p, (size_t)s->n, "predictions"));
  sl_regression_predict(fit, s->masks, s->n, p);
  const sl_status status = sl_agreement_measure(out, p, s->target, s->n);
  if (predicted && status == SL_OK)
    *predicted = p;
  else
    free(p);
  return status;
}

/* A step's fit and the one before it (NULL: none), on the same validation masks. */
static sl_status judge_step(sl_growth_step *step, const sl_regression *fit, const sl_regression *before,
                            const part *check) {
  sl_agreement earlier = {.pearson = NAN};
  SL_TRY(judge(&step->valid, fit, check, NULL));
  if (before) SL_TRY(judge(&earlier, before, check, NULL));
  step->rise = step->valid.pearson - earlier.pearson;
  return SL_OK;
}

static int penalty_edge(const sl_regression *fit) {
  if (fit->n_penalty < 2) return 0;
  return fit->penalty >= fit->grid[0] ? 1 : fit->penalty <= fit->grid[fit->n_penalty - 1] ? -1 : 0;
}

/* Fits the first n_mask masks; a penalty > 0 is used as it is. The fit before is replaced, `step` judges both. */
static sl_status fit_masks(sl_attribution *a, const sl_attribution_request *r, int n_mask, sl_regress_error error,
                           double penalty, sl_growth_step *step) {
  part train = {0}, check = {0};
  sl_regression fit = {0};
  sl_status status = part_gather(&train, a, n_mask, SL_MASKS_TRAIN);
  if (status == SL_OK) status = part_gather(&check, a, n_mask, SL_MASKS_VALID);
  const sl_regress_request request = {.kind = r->solver, .n = train.n, .p = a->n_component, .masks = train.masks,
                                      .target = train.target, .penalty = penalty, .n_valid = check.n,
                                      .valid_masks = check.masks, .valid_target = check.target, .error = error,
                                      .seed = r->seed};
  if (status == SL_OK) status = sl_regress(&fit, &request);
  if (status == SL_OK && step) status = judge_step(step, &fit, a->n_step > 0 ? &a->fit : NULL, &check);
  part_dispose(&train);
  part_dispose(&check);
  sl_regression_dispose(status == SL_OK ? &a->fit : &fit);
  if (status == SL_OK) a->fit = fit;
  return status;
}

/* The last word, on the last checkpoint's masks: errors, and the test masks once. */
static sl_status finish(sl_attribution *a, const sl_attribution_request *r) {
  part test = {0};
  a->n_mask = a->steps[a->n_step - 1].n_mask;
  const double penalty = r->solver == SL_REGRESS_LEAST_SQUARES ? 0 : a->fit.penalty;
  sl_regress_error error = r->bootstrap ? SL_REGRESS_ERROR_BOOTSTRAP : SL_REGRESS_ERROR_HC3;
  if (r->solver == SL_REGRESS_LASSO) error = SL_REGRESS_ERROR_NONE;
  SL_TRY(fit_masks(a, r, a->n_mask, error, penalty, NULL));
  SL_TRY(part_gather(&test, a, a->n_mask, SL_MASKS_TEST));
  const sl_status status = judge(&a->test, &a->fit, &test, &a->predicted);
  a->n_test = test.n;
  a->fitted = status == SL_OK;
  part_dispose(&test);
  return status;
}

/* True when the last checkpoint's fit predicts no better than the one before. */
static bool stopped_rising(const sl_attribution *a) {
  const double rise = a->steps[a->n_step - 1].rise;
  return isfinite(rise) && rise < SL_GROWTH_RISE;
}

/* Measures and fits checkpoint after checkpoint. A resumed run passes the earlier ones again without measuring, so it
 * ends where an uninterrupted one does. */
static sl_status grow(sl_attribution *a, const sl_attribution_request *r) {
  const int most = sl_growth_most(r);
  a->end = SL_GROWTH_SAMPLES;
  while (a->n_step < SL_GROWTH_MAX_STEP) {
    const int n = sl_growth_checkpoint(r, a->n_live, a->n_step);
    SL_TRY(measure_to(a, r, n));
    const int n_fit = n < a->n_mask ? n : a->n_mask;
    if (n_fit < a->n_needed || (a->n_step > 0 && n_fit == a->steps[a->n_step - 1].n_mask)) return SL_OK;
    a->steps[a->n_step].n_mask = n_fit;
    SL_TRY(fit_masks(a, r, n_fit, SL_REGRESS_ERROR_NONE, 0, &a->steps[a->n_step]));
    a->penalty_edge = penalty_edge(&a->fit);
    a->n_step++;
    if (a->end == SL_GROWTH_SAMPLES && !r->all_samples && stopped_rising(a)) a->end = SL_GROWTH_CORRELATION;
    if (a->end != SL_GROWTH_SAMPLES || n == most) return SL_OK;
  }
  return SL_OK;
}

sl_status sl_attribution_run(sl_attribution *a, const sl_attribution_request *r) {
  *a = (sl_attribution){.n_component = r->n_component};
  for (int i = 0; i < r->n_component; i++) a->n_live += !(r->dropped && r->dropped[i]);
  a->n_needed = sl_masks_needed(r, a->n_live);
  sl_status status = SL_OK;
  if (a->n_live == 0)
    status = sl_fail(SL_ERROR_UNSUPPORTED, "none of the %d components can be ablated: there is nothing to attribute to",
                     r->n_component);
  if (status == SL_OK && r->earlier) status = take_earlier(a, r);
  if (status == SL_OK && r->known) status = take_known(a, r);
  if (status == SL_OK) status = grow(a, r);
  if (status == SL_OK && a->n_step > 0) status = finish(a, r);
  if (status != SL_OK) sl_attribution_dispose(a);
  return status;
}

void sl_attribution_dispose(sl_attribution *a) {
  sl_regression_dispose(&a->fit);
  free(a->masks);
  free(a->target);
  free(a->predicted);
  *a = (sl_attribution){0};
}
