/* Truncation: from layer k on, image positions that are not kept are invisible (R2R eq. 9-13; k = L is the plain run,
 * k = 0 without kept positions the run without an image).
 *
 * Without kept positions nothing but text queries matters, so hiding, masking for all queries and removal with original
 * positions are one thing. Kept image tokens change too, because they no longer see the dropped ones: their rows from
 * layer k on are computed again under the same mask, which equals removal; text_only leaves them as they were.
 * Structure tokens carry what they read from the image: they are dropped with it, and kept only when all is kept.
 *
 * Source: Zhang et al., From Redundancy to Relevance (R2R), arXiv 2406.06579, sections 3.4, 4.2, A.2; computing kept
 * rows again and the treatment of structure tokens are sightline's. */
#include "analysis/cliff_sweep.h"

#include <math.h>
#include <stdlib.h>

#include "model/logits.h"

sl_status sl_cliff_plan(sl_plan *plan, const sl_layout *layout, int first_layer, const bool *kept, bool recompute) {
  sl_rule *rule;
  SL_TRY(sl_plan_add_rule(plan, SL_SOURCE_HIDDEN, &rule));
  rule->heads = SL_SET_ALL;
  SL_TRY(sl_set_from(&rule->layers, first_layer));
  SL_TRY(sl_set_from(&rule->queries, layout->first_image + layout->n_image));
  for (int j = 0; j < layout->n_image; j++) {
    const bool keep = kept && kept[j];
    if (!keep) SL_TRY(sl_set_add(&rule->keys, layout->first_image + j, 1));
    if (keep && recompute) SL_TRY(sl_set_add(&rule->queries, layout->first_image + j, 1));
  }
  return sl_plan_hide_frame(plan, layout);
}

/* Adds the plan of curve and layer from a ranking, unless the ranking does not exist there. */
static sl_status add_ranked(sl_sweep *s, const sl_rank_scores *scores, const bool *patches, bool *kept, int curve,
                            int k) {
  const sl_layout *layout = s->context->layout;
  const float *row = sl_rank_scores_at(scores, s->options.ranks[curve], k);
  if (!row) return SL_OK;
  SL_TRY(sl_rank_keep(kept, row, patches, layout->n_image, s->options.n_keep));
  s->plan_of[curve * (s->n_layer + 1) + k] = s->n_plan;
  return sl_cliff_plan(&s->plans[s->n_plan++], layout, k, kept, !s->options.text_only);
}

static sl_status add_all_ranked(sl_sweep *s, const sl_rank_scores *scores) {
  const sl_layout *layout = s->context->layout;
  bool *marks = NULL;
  SL_TRY(SL_ALLOC(marks, 2 * (size_t)layout->n_image, "kept image tokens"));
  for (int j = 0; j < layout->n_image; j++) marks[j] = layout->classes[layout->first_image + j] == SL_CLASS_IMAGE;
  sl_status status = SL_OK;
  for (int r = 0; r < s->n_curve && status == SL_OK; r++)
    for (int k = 0; k < s->n_layer && status == SL_OK; k++)
      status = add_ranked(s, scores, marks, marks + layout->n_image, r, k);
  free(marks);
  return status;
}

/* Plans of the curves: plain, no image, then curve by curve. */
static sl_status make_plans(sl_sweep *s) {
  const int n_point = s->n_layer + 1;
  const int n_patch = s->context->layout->n_shown;
  for (int i = 0; i < s->n_curve * n_point; i++) s->plan_of[i] = i % n_point == s->n_layer ? SL_SWEEP_PLAIN : -1;
  s->n_plan = SL_SWEEP_NO_IMAGE + 1;
  SL_TRY(sl_cliff_plan(&s->plans[SL_SWEEP_NO_IMAGE], s->context->layout, 0, NULL, false));
  if (s->options.n_keep == 0) {
    s->plan_of[0] = SL_SWEEP_NO_IMAGE;
    for (int k = 1; k < s->n_layer; k++) {
      s->plan_of[k] = s->n_plan;
      SL_TRY(sl_cliff_plan(&s->plans[s->n_plan++], s->context->layout, k, NULL, false));
    }
    return SL_OK;
  }
  if (s->options.n_keep >= n_patch) {
    for (int i = 0; i < s->n_curve * n_point; i++) s->plan_of[i] = SL_SWEEP_PLAIN;
    return SL_OK;
  }
  sl_rank_scores scores;
  SL_TRY(sl_rank_scores_init(&scores, s->context, s->options.ranks, s->options.n_rank, s->options.fastv_layer));
  const sl_status status = add_all_ranked(s, &scores);
  sl_rank_scores_dispose(&scores);
  return status;
}

static sl_status take(void *user, int plan, const float *logits) {
  sl_sweep *s = user;
  const sl_measure first = {.target = SL_TARGET_LOGPROB, .n_vocab = s->measure.n_vocab, .n_row = 1,
                            .rows = s->measure.rows, .ids = s->measure.ids, .rivals = s->measure.rivals};
  s->value[plan] = sl_measure_value(&s->measure, logits);
  s->prob[plan] = (float)exp(sl_measure_value(&first, logits));
  s->token[plan] = sl_logits_best(logits, s->measure.n_vocab);
  /* Half of the progress: the greedy answers are the other. */
  sl_context_progress(s->context, plan + 1.0, 2.0 * s->n_plan);
  return sl_context_check_cancel(s->context);
}

static sl_status allocate(sl_sweep *s) {
  const size_t n_point = (size_t)s->n_curve * (size_t)(s->n_layer + 1), most = n_point + SL_SWEEP_NO_IMAGE + 1;
  SL_TRY(SL_ALLOC(s->plan_of, n_point, "truncation sweep"));
  SL_TRY(SL_ALLOC(s->plans, most, "truncation sweep"));
  SL_TRY(SL_ALLOC(s->value, most, "truncation sweep"));
  SL_TRY(SL_ALLOC(s->prob, most, "truncation sweep"));
  return SL_ALLOC(s->token, most, "truncation sweep");
}

static sl_status run(sl_sweep *s) {
  SL_TRY(allocate(s));
  SL_TRY(sl_measure_init(&s->measure, s->context));
  SL_TRY(make_plans(s));
  SL_TRY(sl_context_trunk(s->context, s->options.n_keep > 0 && !s->options.text_only, &s->trunk));
  const sl_branch_request request = {.trunk = s->trunk, .plans = s->plans, .n_plan = s->n_plan,
                                     .rows = s->measure.rows, .n_row = s->measure.n_row,
                                     .batch_size = s->context->batch_size, .take = take, .user = s};
  return sl_branches_run(s->context->session, &request);
}

sl_status sl_sweep_run(sl_sweep *s, sl_analysis_context *c, const sl_sweep_options *options) {
  *s = (sl_sweep){.context = c, .options = *options, .n_layer = sl_model_get_shape(c->model)->decoder.n_layer,
                  .n_curve = options->n_rank};
  const sl_status status = run(s);
  if (status != SL_OK) sl_sweep_dispose(s);
  return status;
}

void sl_sweep_dispose(sl_sweep *s) {
  for (int i = 0; i < s->n_plan; i++) sl_plan_dispose(&s->plans[i]);
  sl_measure_dispose(&s->measure);
  free(s->plans);
  free(s->plan_of);
  free(s->value);
  free(s->prob);
  free(s->token);
  *s = (sl_sweep){0};
}

/* Decodes `n` plans (borrowed) into packed ids and n_id. */
static sl_status decode(const sl_sweep *s, const sl_plan *plans, int n, int max_token, int32_t *ids, int *n_id) {
  const sl_branch_request request = {.trunk = s->trunk, .plans = plans, .n_plan = n,
                                     .batch_size = s->context->batch_size};
  return sl_branches_greedy(s->context->session, &request, max_token, ids, n_id);
}

sl_status sl_sweep_answers(const sl_sweep *s, int curve, int max_token, int32_t *ids, int *n_id) {
  const int n_point = s->n_layer + 1;
  const int *plan_of = s->plan_of + (int64_t)curve * n_point;
  sl_plan *plans = NULL;
  int n = 0;
  SL_TRY(SL_ALLOC(plans, (size_t)n_point, "truncation sweep"));
  for (int k = 0; k < n_point; k++)
    if (plan_of[k] >= 0) plans[n++] = s->plans[plan_of[k]];
  const sl_status status = decode(s, plans, n, max_token, ids, n_id);
  free(plans);
  /* From packed to one place per layer, last first. */
  for (int k = n_point - 1; k >= 0 && status == SL_OK; k--) {
    if (plan_of[k] < 0) {
      n_id[k] = -1;
      continue;
    }
    n--;
    n_id[k] = n_id[n];
    for (int i = 0; i < n_id[k]; i++) ids[(int64_t)k * max_token + i] = ids[(int64_t)n * max_token + i];
  }
  return status;
}
