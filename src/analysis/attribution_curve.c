/* Faithfulness and completeness curves (equations in attribution_curve.h).
 *
 * Source: the two names from Kim et al., Interpreting Attention Heads for Image-to-Text Information Flow in LVLMs (HA),
 * arXiv 2509.17588; formulas and polarity, the area and the rankings by chance are sightline's. */
#include "analysis/attribution_curve.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "stats/order.h"

int sl_curve_steps(int n_component, int32_t *steps) {
  int n_step = 0;
  for (int n = 0; n <= n_component; n_step++) {
    if (steps) steps[n_step] = n;
    int next = n + 1;
    if (n_component > SL_CURVE_DENSE && n >= 32) next = (int)ceil(n * 1.1486983549970351); /* 2^(1/5) */
    n = n < n_component && next > n_component ? n_component : next;
  }
  return n_step;
}

void sl_curves_dispose(sl_curves *c) {
  free(c->steps);
  free(c->faithfulness);
  free(c->completeness);
  free(c->area_sd);
  *c = (sl_curves){0};
}

/* Masks of one ranking: for every step the top n alone, then everything but them. */
static void write_masks(const sl_curves *c, const int *order, uint8_t *masks) {
  const size_t p = (size_t)c->n_component;
  for (int s = 0; s < c->n_step; s++) {
    uint8_t *alone = masks + (size_t)s * p, *others = masks + (size_t)(c->n_step + s) * p;
    memset(alone, 0, p);
    memset(others, 1, p);
    for (int i = 0; i < c->steps[s]; i++) {
      alone[order[i]] = 1;
      others[order[i]] = 0;
    }
  }
}

static sl_status curves_alloc(sl_curves *c) {
  const size_t n = (size_t)c->n_ranking * (size_t)c->n_step;
  SL_TRY(SL_ALLOC(c->steps, (size_t)c->n_step, "curves"));
  sl_curve_steps(c->n_component, c->steps);
  SL_TRY(SL_ALLOC(c->faithfulness, n, "curves"));
  SL_TRY(SL_ALLOC(c->completeness, n, "curves"));
  return SL_ALLOC(c->area_sd, 2 * (size_t)c->n_ranking, "curves");
}

static int order_count(const sl_curves *c, int ranking) {
  return ranking < c->n_ranking - c->n_chance ? 1 : SL_CURVE_CHANCE;
}

/* Standard deviation of a sample; NaN of a single value. */
static double deviation(const double *values, int n) {
  double mean = 0, squares = 0;
  for (int i = 0; i < n; i++) mean += values[i] / n;
  for (int i = 0; i < n; i++) squares += (values[i] - mean) * (values[i] - mean);
  return n > 1 ? sqrt(squares / (n - 1)) : NAN;
}

typedef struct scratch {
  uint8_t *masks; /* [2, n_step, n_component] */
  double *target; /* [2, n_step] */
  float *curve;   /* [n_step] */
} scratch;

/* Both curves of one ranking: means over its orders, and how far their areas lie apart. */
static sl_status measure_ranking(sl_curves *c, const sl_evaluate *evaluate, int ranking, const int *orders,
                                 const scratch *w) {
  const int n_order = order_count(c, ranking), n = c->n_step;
  float *const means[2] = {c->faithfulness + (int64_t)ranking * n, c->completeness + (int64_t)ranking * n};
  double areas[2][SL_CURVE_CHANCE];
  for (int k = 0; k < n_order; k++) {
    write_masks(c, orders + (int64_t)k * c->n_component, w->masks);
    SL_TRY(sl_evaluate_all(evaluate, w->masks, 2 * n, w->target));
    for (int kind = 0; kind < 2; kind++) {
      for (int s = 0; s < n; s++) {
        const double change = kind == 0 ? w->target[s] - c->none : c->all - w->target[n + s];
        w->curve[s] = (float)(change / (c->all - c->none));
        means[kind][s] += w->curve[s] / (float)n_order;
      }
      areas[kind][k] = sl_curve_area(c, w->curve);
    }
  }
  for (int kind = 0; kind < 2; kind++) c->area_sd[2 * ranking + kind] = deviation(areas[kind], n_order);
  return SL_OK;
}

static sl_status measure(sl_curves *c, const sl_evaluate *evaluate, const int *orders) {
  const size_t n = (size_t)c->n_step, p = (size_t)c->n_component;
  scratch w = {0};
  sl_status status = SL_ALLOC(w.masks, 2 * n * p, "masks of the curves");
  if (status == SL_OK) status = SL_ALLOC(w.target, 2 * n, "targets of the curves");
  if (status == SL_OK) status = SL_ALLOC(w.curve, n, "curves");
  for (int r = 0; r < c->n_ranking && status == SL_OK; r++) {
    status = measure_ranking(c, evaluate, r, orders, &w);
    orders += (size_t)order_count(c, r) * p;
  }
  free(w.masks);
  free(w.target);
  free(w.curve);
  return status;
}

json_t *sl_curves_refused(double all, double none, double least) {
  const double effect = fabs(all - none);
  if (effect == 0)
    return json_string("t(all) and t(none) are the same: the picture gives nothing that could be shared out");
  if (effect >= least) return json_null();
  return json_sprintf("|t(all) - t(none)| is %.4g, below --min-effect %g: the picture changes too little for shares of "
                      "it to mean anything",
                      effect, least);
}

sl_status sl_curves_run(sl_curves *c, const sl_evaluate *evaluate, int n_component, const int *orders, int n_ranking,
                        int n_chance, double all, double none) {
  *c = (sl_curves){.n_component = n_component, .n_ranking = n_ranking, .n_step = sl_curve_steps(n_component, NULL),
                   .n_chance = n_chance, .all = all, .none = none};
  sl_status status = curves_alloc(c);
  if (status == SL_OK) status = measure(c, evaluate, orders);
  if (status != SL_OK) sl_curves_dispose(c);
  return status;
}

int sl_curve_smallest(const sl_curves *c, const float *curve, double enough) {
  for (int s = 0; s < c->n_step; s++) {
    if (curve[s] >= enough) return c->steps[s];
  }
  return -1;
}

double sl_curve_area(const sl_curves *c, const float *curve) {
  double sum = 0;
  for (int s = 1; s < c->n_step; s++)
    sum += 0.5 * ((double)curve[s] + (double)curve[s - 1]) * (c->steps[s] - c->steps[s - 1]);
  return sum / c->n_component;
}

/* ---- rankings ---- */

sl_status sl_rank_components(int *order, const float *score, int n, double sign) {
  double *helps = NULL;
  SL_TRY(SL_ALLOC(helps, (size_t)n, "ranking"));
  for (int i = 0; i < n; i++) helps[i] = sign * (double)score[i];
  const sl_status status = sl_order_falling(order, helps, n);
  free(helps);
  return status;
}

void sl_rank_random(int *order, int n, uint64_t seed, uint64_t stream) {
  for (int i = 0; i < n; i++) { /* Fisher and Yates, from the front */
    const int j = (int)(sl_rng_u64(seed, stream, (uint64_t)i) % (uint64_t)(i + 1));
    order[i] = order[j];
    order[j] = i;
  }
}

sl_status sl_rank_random_like(int *order, const int *like, int n, int width, uint64_t seed, uint64_t stream) {
  const int n_group = (n + width - 1) / width;
  int *shuffled = NULL, *used = NULL;
  sl_status status = SL_ALLOC(shuffled, (size_t)n, "ranking");
  if (status == SL_OK) status = SL_ALLOC(used, (size_t)n_group, "ranking");
  for (int g = 0; g < n_group && status == SL_OK; g++) {
    const int count = n - g * width < width ? n - g * width : width;
    sl_rank_random(shuffled + g * width, count, seed, stream + 1 + (uint64_t)g);
  }
  for (int i = 0; i < n && status == SL_OK; i++) {
    const int g = like[i] / width;
    order[i] = g * width + shuffled[g * width + used[g]++];
  }
  free(shuffled);
  free(used);
  return status;
}

/* ---- results ---- */

static sl_status put_curve(sl_analysis_context *context, const char *prefix, const char *name, const sl_curves *c,
                           const float *curve) {
  char full[64];
  snprintf(full, sizeof full, "%s%s", prefix, name);
  SL_TRY(sl_context_put(context, full, SL_F32, 1, (int64_t[]){c->n_step}, curve));
  if (c->n_ranking == 1) return SL_OK;
  snprintf(full, sizeof full, "%s%s_rivals", prefix, name);
  return sl_context_put(context, full, SL_F32, 2, (int64_t[]){c->n_ranking - 1, c->n_step}, curve + c->n_step);
}

sl_status sl_curves_put(sl_analysis_context *context, const char *prefix, const sl_curves *c) {
  char full[64];
  snprintf(full, sizeof full, "%ssteps", prefix);
  SL_TRY(sl_context_put(context, full, SL_I32, 1, (int64_t[]){c->n_step}, c->steps));
  SL_TRY(put_curve(context, prefix, "faithfulness", c, c->faithfulness));
  return put_curve(context, prefix, "completeness", c, c->completeness);
}

static json_t *number_or_null(int n) { return n >= 0 ? json_integer(n) : json_null(); }

sl_status sl_curves_to_json(json_t **out, const sl_curves *c, const char *const *names) {
  json_t *list = json_array();
  int failed = 0;
  for (int r = 0; r < c->n_ranking && list; r++) {
    const float *f = c->faithfulness + (int64_t)r * c->n_step, *k = c->completeness + (int64_t)r * c->n_step;
    json_t *one = json_pack("{s:s, s:o, s:o, s:o, s:o}", "name", names[r], "smallest_faithful",
                            number_or_null(sl_curve_smallest(c, f, SL_CURVE_ENOUGH)), "smallest_complete",
                            number_or_null(sl_curve_smallest(c, k, SL_CURVE_ENOUGH)), "area_faithful",
                            sl_json_number(sl_curve_area(c, f)), "area_complete", sl_json_number(sl_curve_area(c, k)));
    if (order_count(c, r) > 1) {
      failed |= json_object_set_new(one, "orders", json_integer(order_count(c, r)));
      failed |= json_object_set_new(one, "area_sd",
                                    json_pack("{s:o, s:o}", "faithful", sl_json_number(c->area_sd[2 * r]), "complete",
                                              sl_json_number(c->area_sd[2 * r + 1])));
    }
    failed |= json_array_append_new(list, one);
  }
  *out = json_pack("{s:f, s:o}", "enough", SL_CURVE_ENOUGH, "rankings", list);
  if (*out && !failed) return SL_OK;
  json_decref(*out);
  *out = NULL;
  SL_FAIL(SL_ERROR_MEMORY, "no memory for run.json");
}
