/* Masks as branches: plans are built for a block of masks, run together and freed, so memory does not grow with their
 * number. */
#include "analysis/ablation.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_BLOCK 512 /* plans at once: more would not make the products taller */

double sl_clock_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

typedef struct block {
  const sl_ablation *ablation;
  double *target;
  int n_taken;
} block;

static sl_status take(void *user, int plan, const float *logits) {
  block *b = user;
  b->target[plan] = (float)sl_measure_value(b->ablation->measure, logits);
  b->n_taken = plan + 1;
  return SL_OK;
}

static sl_status run_block(sl_ablation *a, const uint8_t *masks, sl_plan *plans, int n_plan, double *target,
                           int *n_taken) {
  const int source = a->baseline ? 0 : SL_SOURCE_HIDDEN;
  block b = {.ablation = a, .target = target};
  sl_status status = SL_OK;
  for (int i = 0; i < n_plan && status == SL_OK; i++)
    status = a->add_rules(a->user, masks + (size_t)i * (size_t)a->n_component, source, &plans[i]);
  const sl_branch_request request = {.trunk = a->trunk, .plans = plans, .n_plan = n_plan, .baselines = &a->baseline,
                                     .n_baseline = a->baseline ? 1 : 0, .rows = a->measure->rows,
                                     .n_row = a->measure->n_row, .batch_size = a->context->batch_size, .take = take,
                                     .user = &b};
  if (status == SL_OK) status = sl_branches_run(a->context->session, &request);
  for (int i = 0; i < n_plan; i++) {
    sl_plan_dispose(&plans[i]);
    plans[i] = (sl_plan){0};
  }
  *n_taken = b.n_taken;
  return status;
}

static int block_size(const sl_ablation *a) {
  int n = a->context->batch_size > 0 ? a->context->batch_size : sl_branch_batch(a->context->session, a->trunk, 0);
  if (n > MAX_BLOCK) n = MAX_BLOCK;
  return n < 1 ? 1 : n;
}

static sl_status run(void *user, const uint8_t *masks, int n_mask, double *target, int *n_done) {
  sl_ablation *a = user;
  const int most = block_size(a);
  sl_plan *plans = NULL;
  *n_done = 0;
  SL_TRY(SL_ALLOC(plans, (size_t)most, "plans"));
  sl_status status = SL_OK;
  while (*n_done < n_mask && status == SL_OK) {
    if (a->stop_at_s > 0 && sl_clock_s() > a->stop_at_s) break;
    const int n = n_mask - *n_done < most ? n_mask - *n_done : most;
    int n_taken = 0;
    status = run_block(a, masks + (size_t)*n_done * (size_t)a->n_component, plans, n, target + *n_done, &n_taken);
    *n_done += n_taken;
    a->done += n_taken;
    sl_context_progress(a->context, a->done < a->total ? a->done : a->total, a->total);
    if (status == SL_OK && *n_done < n_mask) status = sl_context_check_cancel(a->context);
  }
  free(plans);
  return status;
}

sl_evaluate sl_ablation_evaluate(sl_ablation *ablation) { return (sl_evaluate){.run = run, .user = ablation}; }

sl_status sl_ablation_ends(sl_ablation *a, double *all, double *none) {
  const size_t p = (size_t)a->n_component;
  const sl_evaluate evaluate = sl_ablation_evaluate(a);
  uint8_t *masks = NULL;
  double target[2];
  SL_TRY(SL_ALLOC(masks, 2 * p, "masks"));
  memset(masks, 1, p);
  const sl_status status = sl_evaluate_all(&evaluate, masks, 2, target);
  free(masks);
  SL_TRY(status);
  *all = target[0];
  *none = target[1];
  return SL_OK;
}

/* Other threads and processors may differ in the last bits; another picture or baseline differs by far more. */
static sl_status check_earlier(const sl_analysis_context *c, const char *path, const char *end, double now) {
  char name[96];
  snprintf(name, sizeof name, "%s.%s", path, end);
  const json_t *number = c->earlier ? sl_json_at(sl_run_root(c->earlier), name) : NULL;
  if (!json_is_number(number) || fabs(json_number_value(number) - now) <= 1e-3 * (1 + fabs(now))) return SL_OK;
  SL_FAIL(SL_ERROR_ARGUMENT,
          "%s: cannot go on from this run: its target with %s of the components was %.6g, now it is %.6g (another "
          "picture, prompt, model, target or baseline)",
          sl_run_dir(c->earlier), end, json_number_value(number), now);
}

sl_status sl_ablation_say(const sl_ablation *a, const sl_standin *standin) {
  sl_analysis_context *c = a->context;
  json_t *baseline;
  SL_TRY(sl_standin_to_json(&baseline, standin));
  SL_TRY(sl_context_say(c, "baseline", baseline));
  SL_TRY(sl_context_say(c, "target", json_string(sl_target_name(a->measure->target))));
  if (a->measure->target == SL_TARGET_CONTRAST)
    SL_TRY(sl_context_say(c, "contrast", json_pack("{s:i}", "id", (int)a->measure->rivals[0])));
  return sl_context_say(c, "tokens", json_integer(a->measure->n_row));
}

sl_status sl_ablation_say_ends(const sl_ablation *a, json_t *out, const char *path, double all, double none) {
  SL_TRY(check_earlier(a->context, path, "all", all));
  SL_TRY(check_earlier(a->context, path, "none", none));
  if (json_object_set_new(out, "all", sl_json_number(all)) == 0 &&
      json_object_set_new(out, "none", sl_json_number(none)) == 0)
    return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "%s: no memory for run.json", a->context->info->name);
}

sl_status sl_ablation_check(const sl_analysis_context *c) {
  sl_measure measure;
  SL_TRY(sl_standin_check(c));
  if (c->layout->first_image < 0)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: the prompt has no picture to ablate", c->info->name);
  SL_TRY(sl_measure_init(&measure, c));
  sl_measure_dispose(&measure);
  return SL_OK;
}

bool sl_ablation_blind(const sl_analysis_context *c) { return sl_context_first_text(c) >= c->layout->n_prompt; }

sl_status sl_ablation_skip(sl_analysis_context *c) {
  static const char reason[] = "the prompt ends with the picture, so no query can lose sight of it";
  SL_TRY(sl_context_warn(c, "%s is skipped: %s", c->info->name, reason));
  return sl_context_say(c, "skipped", json_string(reason));
}

double sl_ablation_passes(const sl_analysis_context *c) {
  return (double)(c->layout->n_token - sl_context_first_text(c)) / c->layout->n_token;
}
