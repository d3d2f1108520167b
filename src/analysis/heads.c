/* Head attribution: which heads carry the picture to the answer.
 *
 *   component = (layer, query head); ablated = for queries after the image, that head's keys and values at image
 *               positions are the baseline's (or hidden); its text-to-text attention, the image's rows and all other
 *               heads stay
 *   t(m) ~ b0 + sum_h b_h m_h over random masks m;  score of head h = b_h             (attribution.c)
 *   F(A), C(A) of the top heads, beside rivals' rankings                               (attribution_curve.c)
 *
 * Rivals: single-head ablation t(all) - t(all but h); attention on the image; attribution patching (head_patch.c);
 * chance; chance with as many heads of each layer (means of several random orders).
 *
 * Source: Kim et al., Interpreting Attention Heads for Image-to-Text Information Flow in LVLMs (HA), arXiv 2509.17588.
 * Targets, baselines, rivals' definitions, statistics and defaults that the paper leaves open are sightline's. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/ablation.h"
#include "analysis/attribution_curve.h"
#include "analysis/head_patch.h"
#include "stats/correlate.h"
#include "stats/spread.h"

/* Random streams: "HEAD" in the upper half for masks, rankings by chance beside it. */
#define MASK_STREAM ((uint64_t)0x48454144 << 32)
#define CHANCE_STREAM ((uint64_t)0x48454145 << 32)

#define GROWTH_SHARE 0.6 /* of a time budget; the rest is for the curves */
#define N_TOLD 10        /* heads in run.json's "top" */

static const sl_option_info options[] = {SL_MEASURE_OPTIONS, SL_BASELINE_OPTIONS, SL_ATTRIBUTION_OPTIONS};

/* Rankings on the curves; the first is the analysis' own. */
enum { BY_SCORE, BY_SINGLE, BY_ATTENTION, BY_PATCHING, BY_CHANCE, BY_LAYER_CHANCE, N_RANKING };
#define N_CHANCE (N_RANKING - BY_CHANCE)
#define N_ORDER (sl_curve_orders(N_RANKING, N_CHANCE))
static const char *const ranking_names[N_RANKING] = {"heads", "single", "attention", "patching", "random",
                                                     "layer-matched random"};

typedef struct heads {
  sl_analysis_context *context;
  int n_layer, n_head, n; /* L, H, L * H */
  int first_query, first_image, n_image;
  sl_measure measure;
  sl_standin standin;
  sl_ablation ablation;
  sl_attribution_request request;
  sl_attribution attribution;
  sl_curves curves;
  bool has_single, has_curves;
  double all, none;
  float *score, *error, *single, *attention, *patching; /* [L, H] */
  bool *dropped;                                        /* [L, H] */
} heads;

/* One rule for every layer that has an ablated head. */
static sl_status add_rules(const void *user, const uint8_t *mask, int source, sl_plan *plan) {
  const heads *w = user;
  for (int l = 0; l < w->n_layer; l++) {
    const uint8_t *row = mask + (size_t)l * (size_t)w->n_head;
    if (!memchr(row, 0, (size_t)w->n_head)) continue;
    sl_rule *rule;
    SL_TRY(sl_plan_add_rule(plan, source, &rule));
    SL_TRY(sl_set_add(&rule->layers, l, 1));
    SL_TRY(sl_set_from(&rule->queries, w->first_query));
    SL_TRY(sl_set_add(&rule->keys, w->first_image, w->n_image));
    for (int h = 0; h < w->n_head; h++)
      if (!row[h]) SL_TRY(sl_set_add(&rule->heads, h, 1));
    if (source == SL_SOURCE_HIDDEN) SL_TRY(sl_plan_hide_frame(plan, w->context->layout));
  }
  return SL_OK;
}

static double curve_branches(int n) { return 2.0 * N_ORDER * sl_curve_steps(n, NULL); }

static sl_status heads_init(heads *w, sl_analysis_context *c) {
  const sl_part_shape *shape = &sl_model_get_shape(c->model)->decoder;
  *w = (heads){.context = c, .n_layer = shape->n_layer, .n_head = shape->n_head, .n = shape->n_layer * shape->n_head,
               .first_query = sl_context_first_text(c), .first_image = c->layout->first_image,
               .n_image = c->layout->n_image};
  const size_t n = (size_t)w->n;
  SL_TRY(sl_attribution_read(&w->request, c, w->n));
  SL_TRY(sl_measure_init(&w->measure, c));
  SL_TRY(SL_ALLOC(w->score, n, "scores"));
  SL_TRY(SL_ALLOC(w->error, n, "standard errors"));
  SL_TRY(SL_ALLOC(w->single, n, "single-head effects"));
  SL_TRY(SL_ALLOC(w->attention, n, "attention"));
  SL_TRY(SL_ALLOC(w->patching, n, "attribution patching"));
  SL_TRY(SL_ALLOC(w->dropped, n, "heads"));
  const sl_trunk *trunk;
  SL_TRY(sl_standin_share(&w->standin, c));
  SL_TRY(sl_context_trunk(c, false, &trunk));
  w->ablation = (sl_ablation){.context = c, .trunk = trunk, .measure = &w->measure, .baseline = w->standin.baseline,
                              .n_component = w->n, .add_rules = add_rules, .user = w,
                              .total = 2 + w->n + sl_growth_most(&w->request) + curve_branches(w->n)};
  w->request.stream = MASK_STREAM;
  w->request.prefix = "heads.";
  w->request.dropped = w->dropped;
  w->request.evaluate = sl_ablation_evaluate(&w->ablation);
  if (c->share && !c->share->only && c->share->n_known > w->n) {
    w->request.known = c->share->target + w->n;
    w->request.n_known = c->share->n_known - w->n;
  }
  return SL_OK;
}

static void heads_dispose(heads *w) {
  sl_measure_dispose(&w->measure);
  sl_standin_dispose(&w->standin);
  sl_attribution_dispose(&w->attribution);
  sl_curves_dispose(&w->curves);
  free(w->score);
  free(w->error);
  free(w->single);
  free(w->attention);
  free(w->patching);
  free(w->dropped);
}

/* ---- measuring ---- */

/* A head to which every image position is exactly invisible (a sliding window, a weight that is 0 in f32) cannot change
 * anything when the image is hidden from it. Under another baseline it could see that, so there all stay. */
static sl_status drop_blind(heads *w) {
  json_t *list = json_array();
  for (int i = 0; i < w->n && list && w->standin.kind == SL_BASELINE_BLOCK; i++) {
    w->dropped[i] = w->attention[i] == 0;
    if (w->dropped[i]) json_array_append_new(list, json_pack("[i, i]", i / w->n_head, i % w->n_head));
  }
  const int n = (int)json_array_size(list);
  SL_TRY(sl_context_say(w->context, "dropped", list));
  if (n == 0) return SL_OK;
  return sl_context_warn(w->context,
                         "heads: %d of %d heads give the image no attention at all; they have no score (analyses.heads."
                         "dropped names them)",
                         n, w->n);
}

static sl_status measure_single(heads *w) {
  const size_t n = (size_t)w->n;
  uint8_t *masks = NULL;
  double *target = NULL;
  size_t bytes;
  if (!sl_size_mul(n, n, &bytes)) SL_FAIL(SL_ERROR_MEMORY, "heads: %d heads are too many", w->n);
  sl_status status = SL_ALLOC(masks, bytes, "masks");
  if (status == SL_OK) status = SL_ALLOC(target, n, "targets");
  if (status == SL_OK) {
    memset(masks, 1, bytes);
    for (size_t i = 0; i < n; i++) masks[i * n + i] = 0;
    const sl_mask_block *share = w->context->share;
    if (share && share->n_known >= w->n)
      memcpy(target, share->target, n * sizeof *target);
    else
      status = sl_evaluate_all(&w->request.evaluate, masks, w->n, target);
  }
  for (size_t i = 0; i < n && status == SL_OK; i++) w->single[i] = (float)(w->all - target[i]);
  w->has_single = status == SL_OK;
  free(masks);
  free(target);
  return status == SL_ERROR_CANCELLED ? SL_OK : status; /* what is there will be told */
}

/* The order in which heads help: by score where the picture raises the target, by its negative where it lowers it. */
static sl_status make_orders(const heads *w, int *orders) {
  const double sign = w->all >= w->none ? 1 : -1;
  const float *const scores[] = {w->score, w->single, w->attention, w->patching};
  for (int r = 0; r <= BY_PATCHING; r++)
    SL_TRY(sl_rank_components(orders + r * w->n, scores[r], w->n, r == BY_ATTENTION ? 1 : sign));
  int *chance = orders + BY_CHANCE * w->n, *layer_chance = chance + SL_CURVE_CHANCE * w->n;
  for (int k = 0; k < SL_CURVE_CHANCE; k++) {
    const uint64_t stream = CHANCE_STREAM + ((uint64_t)k << 24); /* the second kind takes one of each layer */
    sl_rank_random(chance + k * w->n, w->n, w->request.seed, stream);
    SL_TRY(sl_rank_random_like(layer_chance + k * w->n, orders, w->n, w->n_head, w->request.seed, stream + 1));
  }
  return SL_OK;
}

static sl_status measure_curves(heads *w) {
  if (!w->attribution.fitted || w->attribution.end == SL_GROWTH_INTERRUPTED) return SL_OK;
  if (!w->has_single)
    return sl_context_say(w->context, "curves_skipped",
                          json_string("the time was over before every head was ablated alone"));
  json_t *refused = sl_curves_refused(w->all, w->none, sl_context_real(w->context, "min-effect"));
  if (!json_is_null(refused)) return sl_context_say(w->context, "curves_skipped", refused);
  int *orders = NULL;
  SL_TRY(SL_ALLOC(orders, (size_t)N_ORDER * (size_t)w->n, "rankings"));
  sl_status status = make_orders(w, orders);
  if (status == SL_OK)
    status = sl_curves_run(&w->curves, &w->request.evaluate, w->n, orders, N_RANKING, N_CHANCE, w->all, w->none);
  w->has_curves = status == SL_OK;
  free(orders);
  if (status != SL_ERROR_CANCELLED) return status;
  return sl_context_say(w->context, "interrupted",
                        json_string("interrupted before the curves were whole; --resume goes on with the same masks"));
}

/* Only the masks that another process asks for. */
static sl_status measure_share(heads *w) {
  sl_mask_block *s = w->context->share;
  const size_t n = (size_t)w->n;
  uint8_t *masks = NULL;
  int n_live = 0;
  SL_TRY(sl_head_patch_run(w->attention, w->patching, w->context, &w->measure, w->standin.baseline));
  SL_TRY(drop_blind(w));
  for (int i = 0; i < w->n; i++) n_live += !w->dropped[i];
  s->n_all = n_live > 0 ? w->n + sl_attribution_sure(&w->request, n_live) : 0;
  if (s->n > s->n_all - s->first) s->n = s->n_all > s->first ? s->n_all - s->first : 0;
  sl_status status = SL_ALLOC(masks, (size_t)s->n * n, "masks");
  if (status == SL_OK) status = SL_ALLOC(s->target, (size_t)s->n, "targets");
  for (int i = 0; i < s->n && status == SL_OK; i++) {
    uint8_t *mask = masks + (size_t)i * n;
    const int at = s->first + i;
    if (at >= w->n) {
      sl_mask_draw(mask, &w->request, at - w->n);
    } else {
      memset(mask, 1, n);
      mask[at] = 0;
    }
  }
  if (status == SL_OK && s->n > 0) status = sl_evaluate_all(&w->request.evaluate, masks, s->n, s->target);
  free(masks);
  return status;
}

static sl_status measure_all(heads *w) {
  sl_analysis_context *c = w->context;
  const double since = sl_clock_s(), budget = c->budget_s;
  SL_TRY(sl_ablation_ends(&w->ablation, &w->all, &w->none));
  SL_TRY(sl_ablation_say(&w->ablation, &w->standin));
  SL_TRY(sl_ablation_say_ends(&w->ablation, c->said, "analyses.heads", w->all, w->none));
  SL_TRY(sl_head_patch_run(w->attention, w->patching, c, &w->measure, w->standin.baseline));
  SL_TRY(drop_blind(w));
  w->ablation.stop_at_s = budget > 0 ? since + GROWTH_SHARE * budget : 0;
  SL_TRY(measure_single(w));
  SL_TRY(sl_attribution_run(&w->attribution, &w->request));
  if (w->attribution.n_mask == 0) SL_TRY(sl_context_check_cancel(c));
  sl_attribution_scores(&w->attribution, w->score, w->error);
  w->ablation.stop_at_s = budget > 0 ? since + budget : 0;
  w->ablation.done = w->ablation.total - curve_branches(w->n);
  return measure_curves(w);
}

/* ---- telling ---- */

static sl_status put_all(heads *w) {
  sl_analysis_context *c = w->context;
  const int64_t shape[] = {w->n_layer, w->n_head};
  SL_TRY(sl_attribution_put(c, "heads.", &w->attribution));
  SL_TRY(sl_context_put(c, "heads.attention", SL_F32, 2, shape, w->attention));
  SL_TRY(sl_context_put(c, "heads.patching", SL_F32, 2, shape, w->patching));
  if (w->has_single) SL_TRY(sl_context_put(c, "heads.single", SL_F32, 2, shape, w->single));
  if (w->has_curves) SL_TRY(sl_curves_put(c, "heads.", &w->curves));
  if (!w->attribution.fitted) return SL_OK;
  SL_TRY(sl_context_put(c, "heads.score", SL_F32, 2, shape, w->score));
  SL_TRY(sl_context_put(c, "heads.stderr", SL_F32, 2, shape, w->error));
  SL_TRY(SL_REALLOC(c->shared->head_score, (size_t)w->n, "scores"));
  memcpy(c->shared->head_score, w->score, (size_t)w->n * sizeof *w->score);
  return SL_OK;
}

/* The heads that help most: [{"layer", "head", "score", "stderr"}]. */
static sl_status say_top(heads *w) {
  int *order = NULL;
  SL_TRY(SL_ALLOC(order, (size_t)w->n, "ranking"));
  json_t *list = json_array();
  const sl_status status = sl_rank_components(order, w->score, w->n, w->all >= w->none ? 1 : -1);
  for (int i = 0; i < N_TOLD && i < w->n && status == SL_OK; i++)
    json_array_append_new(list, json_pack("{s:i, s:i, s:o, s:o}", "layer", order[i] / w->n_head, "head",
                                          order[i] % w->n_head, "score", sl_json_number(w->score[order[i]]), "stderr",
                                          sl_json_number(w->error[order[i]])));
  free(order);
  const sl_status said = sl_context_say(w->context, "top", list);
  return status == SL_OK ? said : status;
}

/* How concentrated |b| is: share of its sum in the top x %, and the layer of its centre of mass. */
static sl_status say_mass(heads *w) {
  static const double shares[] = {0.01, 0.05, 0.1, 0.2};
  float *size = NULL;
  double moment = 0, sum = 0;
  SL_TRY(SL_ALLOC(size, (size_t)w->n, "scores"));
  json_t *list = json_array();
  for (int i = 0; i < w->n; i++) {
    size[i] = fabsf(w->score[i]);
    sum += size[i];
    moment += (double)size[i] * (i / w->n_head);
  }
  sl_status status = SL_OK;
  for (size_t i = 0; i < sizeof shares / sizeof *shares && status == SL_OK; i++) {
    double mass = NAN;
    status = sl_top_share(&mass, size, w->n, shares[i]);
    json_array_append_new(list, json_pack("[f, o]", shares[i], sl_json_number(mass)));
  }
  free(size);
  const sl_status said = sl_context_say(w->context, "mass", list);
  if (status == SL_OK) status = said;
  if (status != SL_OK) return status;
  return sl_context_say(w->context, "centroid_layer", sl_json_number(sum > 0 ? moment / sum : NAN));
}

/* Pearson and Spearman of the score with a rival over all heads. */
static sl_status correlate(const heads *w, const float *rival, json_t *out, const char *name) {
  const int n = w->n;
  double *pair = NULL, rho = NAN;
  SL_TRY(SL_ALLOC(pair, 2 * (size_t)n, "correlation"));
  for (int i = 0; i < n; i++) {
    pair[i] = w->score[i];
    pair[n + i] = rival[i];
  }
  const double r = sl_pearson(pair, pair + n, n);
  const sl_status status = sl_spearman(&rho, pair, pair + n, n);
  free(pair);
  SL_TRY(status);
  if (json_object_set_new(out, name, json_pack("{s:o, s:o}", "pearson", sl_json_number(r), "spearman",
                                               sl_json_number(rho))) == 0)
    return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "heads: no memory for run.json");
}

static sl_status say_correlation(heads *w) {
  json_t *out = json_object();
  sl_status status = correlate(w, w->attention, out, "attention");
  if (status == SL_OK) status = correlate(w, w->patching, out, "patching");
  if (status == SL_OK && w->has_single) status = correlate(w, w->single, out, "single");
  const sl_status said = sl_context_say(w->context, "correlation", out);
  return status == SL_OK ? said : status;
}

static sl_status say_all(heads *w) {
  sl_analysis_context *c = w->context;
  json_t *json;
  SL_TRY(sl_attribution_to_json(&json, &w->attribution, &w->request));
  json_t *interrupted = json_object_get(json, "interrupted");
  if (interrupted) json_object_set(c->said, "interrupted", interrupted);
  SL_TRY(sl_context_say(c, "regression", json));
  SL_TRY(sl_attribution_warn(c, "heads", json));
  if (w->has_curves) {
    SL_TRY(sl_curves_to_json(&json, &w->curves, ranking_names));
    SL_TRY(sl_context_say(c, "curves", json));
  }
  if (!w->attribution.fitted) return SL_OK;
  SL_TRY(say_top(w));
  SL_TRY(say_mass(w));
  return say_correlation(w);
}

static sl_status heads_run(sl_analysis_context *c) {
  heads w;
  const bool only = c->share && c->share->only;
  if (sl_ablation_blind(c)) return sl_ablation_skip(c);
  sl_status status = heads_init(&w, c);
  if (status == SL_OK) status = only ? measure_share(&w) : measure_all(&w);
  if (status == SL_OK && !only) status = put_all(&w);
  if (status == SL_OK && !only) status = say_all(&w);
  heads_dispose(&w);
  return status;
}

/* ---- the row of the table ---- */

static int head_count(const sl_analysis_context *c) {
  const sl_part_shape *shape = &sl_model_get_shape(c->model)->decoder;
  return shape->n_layer * shape->n_head;
}

static sl_status heads_check(const sl_analysis_context *c) {
  sl_attribution_request request;
  SL_TRY(sl_attribution_read(&request, c, head_count(c)));
  return sl_ablation_check(c);
}

/* At most: the growth may stop before. */
static double heads_passes(const sl_analysis_context *c) {
  sl_attribution_request request;
  const int n = head_count(c);
  if (sl_ablation_blind(c) || sl_attribution_read(&request, c, n) != SL_OK) return 0;
  const double branches = 2 + n + sl_growth_most(&request) + curve_branches(n);
  return branches * sl_ablation_passes(c) + 4 + sl_standin_pictures(c);
}

static const char *const results[] = {"heads.score",        "heads.stderr",
                                      "heads.intercept",    "heads.masks",
                                      "heads.target",       "heads.fit",
                                      "heads.predicted",    "heads.growth",
                                      "heads.single",       "heads.attention",
                                      "heads.patching",     "heads.steps",
                                      "heads.faithfulness", "heads.faithfulness_rivals",
                                      "heads.completeness", "heads.completeness_rivals",
                                      NULL};

const sl_analysis sl_heads_analysis = {
    .info =
        {.name = "heads",
         .help = "which attention heads carry the picture to the answer: attribution by random ablation",
         .details =
             "Random sets of heads lose sight of the picture (their keys and values at the image's positions are "
             "replaced by a baseline, for queries after the image; with --baseline block they are hidden, and with them "
             "the marks that some families write around a picture), the answer is measured each time, and a regression "
             "gives every head its score. A correlation on held-out masks says how far the scores can be trusted; "
             "standard errors are heteroscedasticity-consistent (HC3).\n"
             "Beside the scores: what ablating one head alone does, its attention on the image, attribution patching; "
             "and how well the top heads of each ranking suffice (faithfulness) or are needed (completeness).",
         .source = "Kim et al., Interpreting Attention Heads for Image-to-Text Information Flow in LVLMs, arXiv "
                   "2509.17588",
         .options = options,
         .n_option = sizeof options / sizeof *options,
         .results = results},
    .check = heads_check,
    .passes = heads_passes,
    .run = heads_run,
};
