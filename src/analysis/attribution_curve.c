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
  return SL_ALLOC(c->completeness, n, "curves");
}

static sl_status measure(sl_curves *c, const sl_evaluate *evaluate, const int *orders) {
  const size_t n = (size_t)c->n_step, p = (size_t)c->n_component;
  uint8_t *masks = NULL;
  double *target = NULL;
  sl_status status = SL_ALLOC(masks, 2 * n * p, "masks of the curves");
  if (status == SL_OK) status = SL_ALLOC(target, 2 * n, "targets of the curves");
  for (int r = 0; r < c->n_ranking && status == SL_OK; r++) {
    write_masks(c, orders + (size_t)r * p, masks);
    status = sl_evaluate_all(evaluate, masks, 2 * c->n_step, target);
    for (size_t s = 0; s < n && status == SL_OK; s++) {
      c->faithfulness[(size_t)r * n + s] = (float)((target[s] - c->none) / (c->all - c->none));
      c->completeness[(size_t)r * n + s] = (float)((c->all - target[n + s]) / (c->all - c->none));
    }
  }
  free(masks);
  free(target);
  return status;
}

sl_status sl_curves_run(sl_curves *c, const sl_evaluate *evaluate, int n_component, const int *orders, int n_ranking,
                        double all, double none) {
  *c = (sl_curves){.n_component = n_component, .n_ranking = n_ranking, .n_step = sl_curve_steps(n_component, NULL),
                   .all = all, .none = none};
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

typedef struct keyed {
  double key;
  int index;
} keyed;

/* Largest key first, NaN last, equal ones by number. */
static int by_key(const void *a, const void *b) {
  const keyed *x = a, *y = b;
  if (isnan(x->key) != isnan(y->key)) return isnan(x->key) ? 1 : -1;
  if (x->key != y->key && !isnan(x->key)) return x->key < y->key ? 1 : -1;
  return x->index - y->index;
}

sl_status sl_rank_components(int *order, const float *score, int n, double sign) {
  keyed *keys = NULL;
  SL_TRY(SL_ALLOC(keys, (size_t)n, "ranking"));
  for (int i = 0; i < n; i++) keys[i] = (keyed){sign * score[i], i};
  qsort(keys, (size_t)n, sizeof *keys, by_key);
  for (int i = 0; i < n; i++) order[i] = keys[i].index;
  free(keys);
  return SL_OK;
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
  for (int r = 0; r < c->n_ranking && list; r++) {
    const float *f = c->faithfulness + (int64_t)r * c->n_step, *k = c->completeness + (int64_t)r * c->n_step;
    json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:o, s:o}", "name", names[r], "smallest_faithful",
                                          number_or_null(sl_curve_smallest(c, f, SL_CURVE_ENOUGH)), "smallest_complete",
                                          number_or_null(sl_curve_smallest(c, k, SL_CURVE_ENOUGH)), "area_faithful",
                                          sl_json_number(sl_curve_area(c, f)), "area_complete",
                                          sl_json_number(sl_curve_area(c, k))));
  }
  *out = json_pack("{s:f, s:o}", "enough", SL_CURVE_ENOUGH, "rankings", list);
  if (!*out) SL_FAIL(SL_ERROR_MEMORY, "no memory for run.json");
  return SL_OK;
}
