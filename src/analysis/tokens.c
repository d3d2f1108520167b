/* Token-level flow: which words receive what the picture gives, and which image tokens give it.
 *
 * Both sides are attributions by random ablation (attribution.c) over the components of token_side.c, with the same
 * masks' statistics, seeds and errors as heads; the smallest sufficient set of image tokens is the smallest n with
 * F(top n) >= 0.9 (attribution_curve.c).
 *
 * Source: Kim et al., Interpreting Attention Heads for Image-to-Text Information Flow in LVLMs (HA), arXiv 2509.17588,
 * section 5. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/attribution_curve.h"
#include "analysis/token_side.h"
#include "stats/spread.h"

/* Random streams: "TOKI", "TOKT" in the upper half; rankings by chance start at half of the lower. */
#define IMAGE_STREAM ((uint64_t)0x544f4b49 << 32)
#define TEXT_STREAM ((uint64_t)0x544f4b54 << 32)
#define CHANCE_OFFSET ((uint64_t)1 << 31)

#define GROWTH_SHARE 0.8 /* of a side's time; the rest is for its curves */

static const char *const side_names[] = {"both", "image", "text", NULL};
static const char *const text_names[] = {"position", "class", "band", NULL};

static const sl_option_info options[] = {
    {.name = "side",
     .type = SL_OPTION_CHOICE,
     .argument = "SIDE",
     .fallback = "both",
     .choices = side_names,
     .help = "image: which image tokens give; text: which positions after the image receive; or both."},
    {.name = "text-by",
     .type = SL_OPTION_CHOICE,
     .argument = "WHAT",
     .fallback = "position",
     .choices = text_names,
     .help = "Text side: score every position, every class (question, role, final, generated), or every position in "
             "each band of layers."},
    {.name = "bands",
     .type = SL_OPTION_INT,
     .argument = "B",
     .fallback = "4",
     .min = 1,
     .max = 1024,
     .help = "Number of layer bands for --text-by band."},
    {.name = "block",
     .type = SL_OPTION_INT,
     .argument = "B",
     .fallback = "1",
     .min = 1,
     .max = 1024,
     .help = "Image side: score blocks of B x B patches instead of single ones (fewer masks are then enough)."},
    {.name = "top-heads",
     .type = SL_OPTION_INT,
     .argument = "N",
     .fallback = "0",
     .min = 0,
     .max = 1000000,
     .help = "Image side: ablate image tokens inside the N heads with the largest scores alone (heads runs first); 0 = "
             "in all heads."},
    SL_MEASURE_OPTIONS, SL_BASELINE_OPTIONS, SL_ATTRIBUTION_OPTIONS};

static const char *const ranking_names[] = {"tokens", "random"};
#define N_RANKING 2
#define N_CHANCE 1
#define N_ORDER (sl_curve_orders(N_RANKING, N_CHANCE))

typedef struct tokens {
  sl_analysis_context *context;
  sl_measure measure;
  sl_standin standin;
  const sl_trunk *trunk;
  double side_s;      /* time for one side; 0 = no limit */
  double done, total; /* branches of both sides, for progress */
} tokens;

/* One side at work. */
typedef struct work {
  tokens *of;
  const char *name, *prefix; /* "image", "tokens.image_" */
  sl_side side;
  sl_ablation ablation;
  sl_attribution_request request;
  sl_attribution attribution;
  sl_curves curves;
  bool has_curves;
  double all, none, sign;
  float *score, *error; /* per component */
  int *orders;          /* [N_ORDER, n] */
  json_t *said;
} work;

static bool wants_side(const sl_analysis_context *c, const char *side) {
  const char *asked = sl_context_text(c, "side");
  return strcmp(asked, "both") == 0 || strcmp(asked, side) == 0;
}

static sl_text_component text_component(const sl_analysis_context *c) {
  const char *name = sl_context_text(c, "text-by");
  int i = 0;
  while (text_names[i + 1] && strcmp(text_names[i], name) != 0) i++;
  return (sl_text_component)i;
}

static sl_status say(work *w, const char *key, json_t *value) {
  if (json_object_set_new(w->said, key, value) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "tokens: no memory for run.json");
}

/* ---- one side ---- */

static double branch_count(const sl_attribution_request *request, int n) {
  return 2 + sl_growth_most(request) + 2.0 * N_ORDER * sl_curve_steps(n, NULL);
}

static sl_status work_start(work *w) {
  sl_analysis_context *c = w->of->context;
  const int n = sl_side_count(&w->side);
  SL_TRY(sl_attribution_read(&w->request, c, n));
  w->ablation = (sl_ablation){.context = c, .trunk = w->of->trunk, .measure = &w->of->measure,
                              .baseline = w->of->standin.baseline, .n_component = n, .add_rules = sl_side_add_rules,
                              .user = &w->side, .done = w->of->done, .total = w->of->total};
  w->of->done += branch_count(&w->request, n);
  w->request.stream = w->side.image ? IMAGE_STREAM : TEXT_STREAM;
  w->request.prefix = w->prefix;
  w->request.evaluate = sl_ablation_evaluate(&w->ablation);
  if (!(w->said = json_object())) SL_FAIL(SL_ERROR_MEMORY, "tokens: no memory for run.json");
  SL_TRY(SL_ALLOC(w->score, (size_t)n, "scores"));
  SL_TRY(SL_ALLOC(w->error, (size_t)n, "standard errors"));
  return SL_ALLOC(w->orders, (size_t)N_ORDER * (size_t)n, "rankings");
}

static void work_dispose(work *w) {
  sl_side_dispose(&w->side);
  sl_attribution_dispose(&w->attribution);
  sl_curves_dispose(&w->curves);
  json_decref(w->said);
  free(w->score);
  free(w->error);
  free(w->orders);
}

static sl_status measure_curves(work *w) {
  const int n = w->attribution.n_component;
  SL_TRY(sl_rank_components(w->orders, w->score, n, w->sign));
  for (int k = 0; k < SL_CURVE_CHANCE; k++)
    sl_rank_random(w->orders + (k + 1) * n, n, w->request.seed, w->request.stream + CHANCE_OFFSET + (uint64_t)k);
  if (w->attribution.end == SL_GROWTH_INTERRUPTED) return SL_OK;
  json_t *refused = sl_curves_refused(w->all, w->none, sl_context_real(w->of->context, "min-effect"));
  if (!json_is_null(refused)) return say(w, "curves_skipped", refused);
  const sl_status status =
      sl_curves_run(&w->curves, &w->request.evaluate, n, w->orders, N_RANKING, N_CHANCE, w->all, w->none);
  w->has_curves = status == SL_OK;
  if (status != SL_ERROR_CANCELLED) return status;
  return say(w, "interrupted", json_string("interrupted before the curves were whole; --resume goes on with the same masks"));
}

static sl_status measure_side(work *w) {
  sl_analysis_context *c = w->of->context;
  char path[64];
  const double since = sl_clock_s(), time = w->of->side_s;
  snprintf(path, sizeof path, "analyses.tokens.%s", w->name);
  SL_TRY(sl_ablation_ends(&w->ablation, &w->all, &w->none));
  SL_TRY(sl_ablation_say_ends(&w->ablation, w->said, path, w->all, w->none));
  w->sign = w->all >= w->none ? 1 : -1;
  w->ablation.stop_at_s = time > 0 ? since + GROWTH_SHARE * time : 0;
  SL_TRY(sl_attribution_run(&w->attribution, &w->request));
  if (w->attribution.n_mask == 0) SL_TRY(sl_context_check_cancel(c));
  sl_attribution_scores(&w->attribution, w->score, w->error);
  w->ablation.stop_at_s = time > 0 ? since + time : 0;
  return w->attribution.fitted ? measure_curves(w) : SL_OK;
}

static sl_status put_side(work *w) {
  sl_analysis_context *c = w->of->context;
  json_t *json;
  SL_TRY(sl_attribution_put(c, w->prefix, &w->attribution));
  SL_TRY(sl_attribution_to_json(&json, &w->attribution, &w->request));
  json_t *interrupted = json_object_get(json, "interrupted");
  if (interrupted) json_object_set(w->said, "interrupted", interrupted);
  SL_TRY(say(w, "regression", json));
  SL_TRY(sl_attribution_warn(c, w->side.image ? "image tokens" : "text tokens", json));
  interrupted = json_object_get(w->said, "interrupted");
  if (interrupted) json_object_set(c->said, "interrupted", interrupted);
  if (!w->has_curves) return SL_OK;
  SL_TRY(sl_curves_put(c, w->prefix, &w->curves));
  SL_TRY(sl_curves_to_json(&json, &w->curves, ranking_names));
  return say(w, "curves", json);
}

/* ---- image side ---- */

/* Score of every image position: its component's, shared out over the component's positions. */
static sl_status spread_scores(const work *w, float *score, float *error) {
  const sl_side *s = &w->side;
  int *size = NULL;
  SL_TRY(SL_ALLOC(size, (size_t)s->n_group, "blocks"));
  for (int i = 0; i < s->n_position; i++) size[s->group[i]]++;
  for (int i = 0; i < s->n_position; i++) {
    score[i] = w->score[s->group[i]] / (float)size[s->group[i]];
    error[i] = w->error[s->group[i]] / (float)size[s->group[i]];
  }
  free(size);
  return SL_OK;
}

/* What helps the answer lies on the object to this share; `object_patches` is what an even spread would give. */
static sl_status say_object(work *w, const float *score) {
  const sl_analysis_context *c = w->of->context;
  float *helps = NULL;
  int n_object = 0;
  if (!c->object) return SL_OK;
  const sl_layout *layout = c->layout;
  SL_TRY(SL_ALLOC(helps, (size_t)layout->n_image, "scores"));
  for (int i = 0; i < layout->n_image; i++) {
    const float b = (float)w->sign * score[i];
    helps[i] = b > 0 && sl_layout_shows(layout, i) ? b : 0;
    n_object += c->object[i];
  }
  const double share = sl_chosen_share(helps, c->object, layout->n_image);
  free(helps);
  SL_TRY(say(w, "object_share", sl_json_number(share)));
  return say(w, "object_patches", sl_json_number((double)n_object / layout->n_shown));
}

/* The smallest set of the ranking that suffices: its positions, and how much of it is object. */
static sl_status say_sufficient(work *w) {
  const sl_analysis_context *c = w->of->context;
  if (!w->has_curves) return SL_OK;
  const int n = sl_curve_smallest(&w->curves, w->curves.faithfulness, SL_CURVE_ENOUGH);
  if (n < 0) return say(w, "sufficient", json_null());
  json_t *positions = json_array();
  int n_object = 0, n_in = 0;
  for (int i = 0; i < w->side.n_position && positions; i++) {
    bool in = false;
    for (int k = 0; k < n && !in; k++) in = w->orders[k] == w->side.group[i];
    if (!in) continue;
    json_array_append_new(positions, json_integer(i));
    n_object += c->object && c->object[i];
    n_in++;
  }
  json_t *out = json_pack("{s:i, s:o}", "components", n, "image_positions", positions);
  if (out && c->object && n_in > 0) json_object_set_new(out, "object_share", json_real((double)n_object / n_in));
  return say(w, "sufficient", out);
}

static sl_status tell_image(work *w) {
  sl_analysis_context *c = w->of->context;
  const int n = w->side.n_position;
  float *error = NULL;
  SL_TRY(say(w, "block", json_integer(w->side.block)));
  if (!w->attribution.fitted) return SL_OK;
  SL_TRY(SL_REALLOC(c->shared->token_row, (size_t)n, "scores"));
  SL_TRY(SL_ALLOC(error, (size_t)n, "standard errors"));
  float *score = c->shared->token_row;
  /* Positions without a place on one grid have scores too: then the map stays a row of N. */
  const bool is_grid = c->layout->grid_height * c->layout->grid_width == n;
  const int64_t grid[] = {c->layout->grid_height, c->layout->grid_width}, row[] = {n};
  sl_status status = spread_scores(w, score, error);
  if (status == SL_OK) status = sl_context_put(c, "tokens.image", SL_F32, is_grid ? 2 : 1, is_grid ? grid : row, score);
  if (status == SL_OK)
    status = sl_context_put(c, "tokens.image_stderr", SL_F32, is_grid ? 2 : 1, is_grid ? grid : row, error);
  free(error);
  if (status == SL_OK) status = say_object(w, score);
  return status == SL_OK ? say_sufficient(w) : status;
}

/* Only inside the top heads, if that was asked for; false when there are no scores to choose them by. */
static sl_status restrict_heads(work *w, bool *possible) {
  sl_analysis_context *c = w->of->context;
  const int n_top = sl_context_int(c, "top-heads");
  double all, none;
  *possible = true;
  if (n_top == 0) return SL_OK;
  if (!c->shared->head_score) {
    *possible = false;
    return sl_context_warn(c, "tokens: --top-heads %d: heads has no scores, so the image side is left out", n_top);
  }
  SL_TRY(sl_ablation_ends(&w->ablation, &all, &none));
  SL_TRY(sl_side_only_heads(&w->side, c->shared->head_score, n_top, all >= none ? 1 : -1));
  return say(w, "top_heads", json_integer(n_top));
}

static sl_status run_image(tokens *t) {
  sl_analysis_context *c = t->context;
  work w = {.of = t, .name = "image", .prefix = "tokens.image_"};
  bool possible = true;
  sl_status status = sl_side_image(&w.side, c, sl_context_int(c, "block"));
  if (status == SL_OK) status = work_start(&w);
  if (status == SL_OK) status = restrict_heads(&w, &possible);
  if (status == SL_OK && possible) {
    status = measure_side(&w);
    if (status == SL_OK) status = put_side(&w);
    if (status == SL_OK) status = tell_image(&w);
    if (status == SL_OK) status = sl_context_say(c, "image", json_incref(w.said));
  }
  work_dispose(&w);
  return status;
}

/* ---- text side ---- */

/* Sum of scores by kind of position, over the sum of all: who receives. Classes are kinds already. */
static sl_status say_kinds(work *w) {
  const sl_side *s = &w->side;
  double sums[SL_TEXT_KIND_COUNT] = {0}, whole = 0;
  bool there[SL_TEXT_KIND_COUNT] = {false};
  json_t *out = json_object();
  for (int g = 0; g < s->n_group; g++) {
    int i = 0; /* any position of the group */
    while (s->group[i] != g) i++;
    there[s->kind[i]] = true;
    for (int b = 0; b < s->n_band; b++) {
      const double score = w->sign * (double)w->score[g * s->n_band + b];
      sums[s->kind[i]] += score > 0 ? score : 0;
      whole += score > 0 ? score : 0;
    }
  }
  for (int k = 0; k < SL_TEXT_KIND_COUNT; k++)
    if (there[k]) json_object_set_new(out, sl_text_kinds[k], sl_json_number(whole > 0 ? sums[k] / whole : NAN));
  return say(w, "share", out);
}

/* Which rows the scores belong to. */
static sl_status say_components(work *w, sl_text_component component) {
  const sl_side *s = &w->side;
  json_t *list = json_array();
  SL_TRY(say(w, "by", json_string(text_names[component])));
  for (int g = 0, i = 0; g < s->n_group; g++, i = 0) {
    while (s->group[i] != g) i++;
    json_array_append_new(list, component == SL_TEXT_CLASS ? json_string(sl_text_kinds[s->kind[i]])
                                                           : json_integer(s->first + i));
  }
  SL_TRY(say(w, component == SL_TEXT_CLASS ? "classes" : "positions", list));
  if (component != SL_TEXT_BAND) return SL_OK;
  json_t *bands = json_array();
  for (int b = 0; b < s->n_band; b++)
    json_array_append_new(bands, json_pack("[i, i]", s->band_layer[b], s->band_layer[b + 1] - 1));
  return say(w, "bands", bands);
}

static sl_status tell_text(work *w) {
  sl_analysis_context *c = w->of->context;
  const sl_text_component component = text_component(c);
  const int64_t shape[] = {w->side.n_group, w->side.n_band};
  const int n_dim = component == SL_TEXT_BAND ? 2 : 1;
  SL_TRY(say_components(w, component));
  if (!w->attribution.fitted) return SL_OK;
  SL_TRY(sl_context_put(c, "tokens.text", SL_F32, n_dim, shape, w->score));
  SL_TRY(sl_context_put(c, "tokens.text_stderr", SL_F32, n_dim, shape, w->error));
  return say_kinds(w);
}

static sl_status run_text(tokens *t) {
  sl_analysis_context *c = t->context;
  work w = {.of = t, .name = "text", .prefix = "tokens.text_"};
  sl_status status = sl_side_text(&w.side, c, text_component(c), sl_context_int(c, "bands"),
                                  t->measure.rows[t->measure.n_row - 1]);
  if (status == SL_OK) status = work_start(&w);
  if (status == SL_OK) status = measure_side(&w);
  if (status == SL_OK) status = put_side(&w);
  if (status == SL_OK) status = tell_text(&w);
  if (status == SL_OK) status = sl_context_say(c, "text", json_incref(w.said));
  work_dispose(&w);
  return status;
}

/* ---- the row of the table ---- */

/* Components of each side, for checks and estimates. */
static sl_status count_components(const sl_analysis_context *c, int *n_image, int *n_text) {
  sl_side image, text;
  const int n_answer = sl_context_flag(c, "whole-answer") ? c->n_answer : 1;
  SL_TRY(sl_side_image(&image, c, sl_context_int(c, "block")));
  *n_image = wants_side(c, "image") ? sl_side_count(&image) : 0;
  sl_side_dispose(&image);
  SL_TRY(sl_side_text(&text, c, text_component(c), sl_context_int(c, "bands"), c->layout->n_prompt + n_answer - 2));
  *n_text = wants_side(c, "text") ? sl_side_count(&text) : 0;
  sl_side_dispose(&text);
  return SL_OK;
}

/* Branches of both sides, at most: the growth may stop before. */
static sl_status count_branches(const sl_analysis_context *c, double *branches) {
  sl_attribution_request request;
  int n[2];
  *branches = 0;
  SL_TRY(count_components(c, &n[0], &n[1]));
  for (int i = 0; i < 2; i++) {
    if (n[i] == 0) continue;
    SL_TRY(sl_attribution_read(&request, c, n[i]));
    *branches += branch_count(&request, n[i]);
  }
  return SL_OK;
}

static sl_status run_sides(tokens *t) {
  sl_analysis_context *c = t->context;
  const bool image = wants_side(c, "image"), text = wants_side(c, "text");
  SL_TRY(count_branches(c, &t->total));
  t->side_s = c->budget_s / (image && text ? 2 : 1);
  SL_TRY(sl_measure_init(&t->measure, c));
  SL_TRY(sl_standin_share(&t->standin, c));
  SL_TRY(sl_context_trunk(c, false, &t->trunk));
  SL_TRY(sl_ablation_say(&(sl_ablation){.context = c, .measure = &t->measure}, &t->standin));
  if (image) SL_TRY(run_image(t));
  if (!text) return SL_OK;
  sl_status status = image ? sl_context_check_cancel(c) : SL_OK;
  if (status == SL_OK) status = run_text(t);
  if (!image || status != SL_ERROR_CANCELLED) return status;
  /* The image side is kept. */
  return sl_context_say(c, "interrupted", json_string("interrupted before the text side was whole; --resume goes on with "
                                                      "the same masks"));
}

static sl_status tokens_run(sl_analysis_context *c) {
  tokens t = {.context = c};
  if (sl_ablation_blind(c)) return sl_ablation_skip(c);
  const sl_status status = run_sides(&t);
  sl_measure_dispose(&t.measure);
  sl_standin_dispose(&t.standin);
  return status;
}

/* An option that was given and says nothing. */
static sl_status check_unused(const sl_analysis_context *c) {
  static const struct {
    const char *option, *side;
  } of_sides[] = {{"block", "image"}, {"top-heads", "image"}, {"text-by", "text"}, {"bands", "text"}};
  for (size_t k = 0; k < sizeof of_sides / sizeof *of_sides; k++)
    if (sl_context_given(c, of_sides[k].option) && !wants_side(c, of_sides[k].side))
      SL_FAIL(SL_ERROR_ARGUMENT, "--%s is of the %s side, which --side %s leaves out", of_sides[k].option,
              of_sides[k].side, sl_context_text(c, "side"));
  if (sl_context_given(c, "bands") && text_component(c) != SL_TEXT_BAND)
    SL_FAIL(SL_ERROR_ARGUMENT, "--bands goes with --text-by band, not %s", sl_context_text(c, "text-by"));
  return SL_OK;
}

static sl_status tokens_check(const sl_analysis_context *c) {
  double branches;
  SL_TRY(check_unused(c));
  SL_TRY(sl_ablation_check(c));
  if (sl_ablation_blind(c)) return SL_OK;
  return count_branches(c, &branches);
}

static double tokens_passes(const sl_analysis_context *c) {
  double branches;
  if (sl_ablation_blind(c) || count_branches(c, &branches) != SL_OK) return 0;
  return branches * sl_ablation_passes(c) + 1 + sl_standin_pictures(c);
}

static const char *const *tokens_needs(const sl_analysis_context *c) {
  static const char *const heads[] = {"heads", NULL};
  return sl_context_int(c, "top-heads") > 0 && wants_side(c, "image") ? heads : NULL;
}

#define SIDE_RESULTS(side)                                                                                             \
  "tokens." side, "tokens." side "_stderr", "tokens." side "_masks", "tokens." side "_target",                         \
      "tokens." side "_intercept", "tokens." side "_fit", "tokens." side "_predicted", "tokens." side "_growth",       \
      "tokens." side "_steps", "tokens." side "_faithfulness", "tokens." side "_faithfulness_rivals",                  \
      "tokens." side "_completeness", "tokens." side "_completeness_rivals"
static const char *const results[] = {SIDE_RESULTS("image"), SIDE_RESULTS("text"), NULL};
static const char *const uses[] = {"heads.score", NULL};

const sl_analysis sl_tokens_analysis = {
    .info =
        {.name = "tokens",
         .help = "which image tokens give the answer what it takes from the picture, and which words receive it",
         .details =
             "Attribution by random ablation, as heads does it, for tokens. Image side: image tokens are replaced by a "
             "baseline for all later queries; every token's score is a map on the picture, with the share on the "
             "object where a mask is given and the smallest set of tokens that suffices. Text side: positions after "
             "the image lose sight of it; every position's score says where the picture's information enters.",
         .source = "Kim et al., Interpreting Attention Heads for Image-to-Text Information Flow in LVLMs, arXiv "
                   "2509.17588, section 5",
         .options = options,
         .n_option = sizeof options / sizeof *options,
         .results = results},
    .needs = tokens_needs,
    .uses = uses,
    .check = tokens_check,
    .passes = tokens_passes,
    .run = tokens_run,
};
