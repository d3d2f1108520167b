/* The cliff: the layer from which on the picture is no longer needed. A truncation sweep (cliff_sweep.c) measures the
 * answer for every first-truncated layer k = 0 .. L; the cliff layer is read off that curve (cliff_curve.c).
 *
 * With image tokens kept, rankings (cliff_rank.c) are scored at equal number: the better ranking loses less of the
 * target.
 *
 * Source: Zhang et al., From Redundancy to Relevance, arXiv 2406.06579, eq. 9-13, sections 3.4, 4.2, A.2. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/cliff_curve.h"
#include "analysis/cliff_sweep.h"
#include "analysis/token_json.h"

#define MAX_ANSWER 4096
#define MORE_TOKENS 4      /* decoded beyond the answer's own number */
#define WEAK_DIFFERENCE 0.5 /* logits: below it the curve is about nothing */

static const sl_option_info options[] = {
    {.name = "keep",
     .type = SL_OPTION_INT,
     .argument = "K",
     .fallback = "0",
     .min = 0,
     .max = 1000000,
     .help = "Keep the K first image tokens of the ranking visible in every layer; 0 = cut the whole image."},
    {.name = "keep-share",
     .type = SL_OPTION_REAL,
     .argument = "SHARE",
     .fallback = "0",
     .min = 0,
     .max = 1,
     .help = "The same as a share of the image tokens (instead of --keep)."},
    {.name = "rank",
     .type = SL_OPTION_TEXT,
     .argument = "LIST",
     .fallback = "attention",
     .help = "What ranks the image tokens that are kept: attention (of the final token in the layer before the cut), "
             "image-last (of the image's last token), user (of the user tokens), fastv (the final token's in the one "
             "layer before --fastv-layer), random (seeded), cam (LLaVA-CAM's map of the layer before the cut) or "
             "tokens (attribution to image tokens). Several names with commas, or all, are scored against each other; "
             "the first makes the curve."},
    {.name = "random-orders",
     .type = SL_OPTION_INT,
     .argument = "N",
     .fallback = "4",
     .min = 1,
     .max = SL_MAX_ORDER,
     .help = "Number of random rankings that random stands for: one alone says little about chance."},
    {.name = "fastv-layer",
     .type = SL_OPTION_INT,
     .argument = "K",
     .fallback = "2",
     .min = 1,
     .max = 100000,
     .help = "FastV's K: the layer from which it cuts; the attention of layer K - 1 ranks."},
    {.name = "text-only",
     .type = SL_OPTION_FLAG,
     .fallback = "false",
     .help = "Let kept image tokens keep the keys and values of the uncut run; otherwise their rows are computed again "
             "without the tokens that were cut, as if those had been removed."},
    {.name = "cliff-eps",
     .type = SL_OPTION_REAL,
     .argument = "SHARE",
     .fallback = "0.05",
     .min = 0,
     .max = 1,
     .help = "The cliff layer is the first layer such that cutting there or anywhere later costs the target at most "
             "SHARE of the difference between the picture and no picture."},
    {.name = "answer-tokens",
     .type = SL_OPTION_INT,
     .argument = "N",
     .fallback = "0",
     .min = 0,
     .max = MAX_ANSWER,
     .help = "Tokens of the answer to write out for every cut; 0 = four more than the answer has."},
    SL_MEASURE_OPTIONS,
};

/* Image tokens to keep, with everything that can be wrong about it. */
static sl_status read_options(const sl_analysis_context *c, sl_sweep_options *o) {
  const int n_patch = c->layout->n_shown, n_layer = sl_model_get_shape(c->model)->decoder.n_layer;
  const int keep = sl_context_int(c, "keep");
  const double share = sl_context_real(c, "keep-share");
  const char *rank = sl_context_text(c, "rank");
  if (keep > 0 && share > 0) SL_FAIL(SL_ERROR_ARGUMENT, "--keep and --keep-share say the same thing: give one of them");
  if (keep > n_patch)
    SL_FAIL(SL_ERROR_ARGUMENT, "--keep: expected at most the picture's %d image tokens, found %d", n_patch, keep);
  *o = (sl_sweep_options){.n_keep = share > 0 ? (int)lround(share * n_patch) : keep,
                          .text_only = sl_context_flag(c, "text-only"),
                          .fastv_layer = sl_context_int(c, "fastv-layer")};
  sl_rank list[SL_RANK_COUNT];
  int n;
  SL_TRY(sl_rank_parse(rank, list, &n));
  o->n_rank = sl_rank_expand(o->ranks, list, n, sl_context_int(c, "random-orders"));
  if (share > 0 && o->n_keep == 0)
    SL_FAIL(SL_ERROR_ARGUMENT, "--keep-share: %g of the picture's %d image tokens is less than one", share, n_patch);
  if (o->n_keep == 0 && strcmp(rank, "attention") != 0)
    SL_FAIL(SL_ERROR_ARGUMENT, "--rank ranks the image tokens that are kept: give --keep or --keep-share too");
  if (o->n_keep == 0) o->n_rank = 1;
  if (!sl_context_given(c, "fastv-layer") && o->fastv_layer > n_layer) o->fastv_layer = n_layer;
  if (o->fastv_layer > n_layer)
    SL_FAIL(SL_ERROR_ARGUMENT, "--fastv-layer: expected at most the decoder's %d layers, found %d", n_layer,
            o->fastv_layer);
  return SL_OK;
}

static bool has_rank(const sl_sweep_options *o, sl_rank rank) {
  for (int r = 0; r < o->n_rank && o->n_keep > 0; r++)
    if (o->ranks[r].rank == rank) return true;
  return false;
}

static const char *const *cliff_needs(const sl_analysis_context *c) {
  static const char *const cam[] = {"cam", NULL}, *const tokens[] = {"tokens", NULL};
  static const char *const both[] = {"cam", "tokens", NULL};
  sl_sweep_options o;
  if (read_options(c, &o) != SL_OK) return NULL; /* check() tells */
  const bool needs_cam = has_rank(&o, SL_RANK_CAM), needs_tokens = has_rank(&o, SL_RANK_TOKENS);
  return needs_cam && needs_tokens ? both : needs_cam ? cam : needs_tokens ? tokens : NULL;
}

static sl_status cliff_check(const sl_analysis_context *c) {
  sl_sweep_options o;
  sl_measure measure;
  SL_TRY(read_options(c, &o));
  SL_TRY(sl_measure_init(&measure, c));
  sl_measure_dispose(&measure);
  return SL_OK;
}

/* Tokens to decode for every cut, no more than the plain answer might have; 0 when the model has no positions left. */
static int answer_tokens(const sl_analysis_context *c) {
  const int asked = sl_context_int(c, "answer-tokens"), left =
      sl_model_get_shape(c->model)->max_position - c->layout->n_prompt;
  int n = asked > 0 ? asked : c->n_answer + MORE_TOKENS;
  if (asked == 0 && c->max_answer > 0 && n > c->max_answer) n = c->max_answer;
  if (n > MAX_ANSWER) n = MAX_ANSWER;
  return n < left ? n : left > 0 ? left : 0;
}

/* A branch cut at layer k runs its rows through L - k layers: half of them on average. A greedy step is one row of one
 * branch. Prefix and trunk are one pass. */
static double cliff_passes(const sl_analysis_context *c) {
  sl_sweep_options o;
  if (read_options(c, &o) != SL_OK) return 0;
  const double n_layer = sl_model_get_shape(c->model)->decoder.n_layer, n_row = c->layout->n_token;
  const double text = c->layout->n_token - sl_context_first_text(c), again = o.text_only ? 0 : o.n_keep;
  const double prompt = c->layout->n_prompt - sl_context_first_text(c);
  const double branches = o.n_rank * n_layer / 2 * (text + again) + text;
  const double decoding = n_layer / 2 * (prompt + again) + (n_layer + 1) * answer_tokens(c);
  return 1 + (o.n_keep > 0 && sl_rank_needs_pass(c, o.ranks, o.n_rank)) + (branches + decoding) / n_row;
}

/* ---- what is told ---- */

/* Value of a point of a curve, NaN where there is none. */
static double value_at(const sl_sweep *s, int curve, int k) {
  const int plan = s->plan_of[(int64_t)curve * (s->n_layer + 1) + k];
  return plan >= 0 ? s->value[plan] : NAN;
}

/* cliff.logit, cliff.prob, cliff.token of the first curve. */
static sl_status put_curve(const sl_sweep *s) {
  sl_analysis_context *c = s->context;
  const int64_t n = s->n_layer + 1;
  float *logit = NULL, *prob = NULL;
  int32_t *token = NULL;
  json_t *tokens = json_array();
  sl_status status = SL_ALLOC(logit, (size_t)n, "cliff curve");
  if (status == SL_OK) status = SL_ALLOC(prob, (size_t)n, "cliff curve");
  if (status == SL_OK) status = SL_ALLOC(token, (size_t)n, "cliff curve");
  for (int k = 0; k < n && status == SL_OK; k++) {
    const int plan = s->plan_of[k];
    logit[k] = (float)value_at(s, 0, k);
    prob[k] = plan >= 0 ? s->prob[plan] : NAN;
    token[k] = plan >= 0 ? s->token[plan] : -1;
    json_array_append_new(tokens, plan >= 0 ? sl_json_token_text(c, token[k]) : json_null());
  }
  if (status == SL_OK) status = sl_context_put(c, "cliff.logit", SL_F32, 1, &n, logit);
  if (status == SL_OK) status = sl_context_put(c, "cliff.prob", SL_F32, 1, &n, prob);
  if (status == SL_OK) status = sl_context_put(c, "cliff.token", SL_I32, 1, &n, token);
  if (status == SL_OK) status = sl_context_say(c, "logit", sl_json_floats(logit, (int)n, 1));
  if (status == SL_OK) status = sl_context_say(c, "prob", sl_json_floats(prob, (int)n, 1));
  if (status == SL_OK) status = sl_context_say(c, "token", json_incref(tokens));
  json_decref(tokens);
  free(logit);
  free(prob);
  free(token);
  return status;
}

/* The cliff layer of one curve. */
static sl_status find_cliff(const sl_sweep *s, int curve, json_t **out) {
  const int n = s->n_layer + 1;
  double *t = NULL;
  SL_TRY(SL_ALLOC(t, (size_t)n, "cliff curve"));
  for (int k = 0; k < n; k++) t[k] = value_at(s, curve, k);
  const int layer = sl_cliff_layer(t, n, s->value[SL_SWEEP_NO_IMAGE], sl_context_real(s->context, "cliff-eps"));
  free(t);
  *out = layer >= 0 ? json_integer(layer) : json_null();
  return SL_OK;
}

static sl_status say_target(const sl_sweep *s) {
  sl_analysis_context *c = s->context;
  const double none = s->value[SL_SWEEP_NO_IMAGE], plain = s->value[SL_SWEEP_PLAIN];
  json_t *layer;
  SL_TRY(sl_context_say(c, "target", json_string(sl_target_name(s->measure.target))));
  SL_TRY(sl_context_say(c, "whole_answer", json_boolean(sl_context_flag(c, "whole-answer"))));
  SL_TRY(sl_context_say(c, "plain", sl_json_number(plain)));
  SL_TRY(sl_context_say(c, "no_image", sl_json_number(none)));
  SL_TRY(sl_context_say(c, "eps", json_real(sl_context_real(c, "cliff-eps"))));
  SL_TRY(find_cliff(s, 0, &layer));
  SL_TRY(sl_context_say(c, "layer", layer));
  /* Examples make an interval; this is one. */
  SL_TRY(sl_context_say(c, "interval", json_null()));
  if (fabs(plain - none) >= WEAK_DIFFERENCE) return SL_OK;
  return sl_context_warn(c,
                         "cliff: with and without the picture the target is nearly the same (%.3g and %.3g): the cliff "
                         "layer says little here",
                         plain, none);
}

static sl_status say_keep(const sl_sweep *s) {
  sl_analysis_context *c = s->context;
  const sl_sweep_options *o = &s->options;
  SL_TRY(sl_context_say(c, "image_tokens", json_integer(c->layout->n_shown)));
  SL_TRY(sl_context_say(c, "keep", json_integer(o->n_keep)));
  SL_TRY(sl_context_say(c, "kept_rows", o->n_keep == 0 ? json_null()
                                                       : json_string(o->text_only ? "text-only" : "recompute")));
  return sl_context_say(c, "rank", o->n_keep == 0 ? json_null() : json_string(sl_rank_name(o->ranks[0].rank)));
}

/* The attention cliff and the CAM cliff, where flow and cam ran. */
static sl_status say_others(sl_analysis_context *c) {
  const sl_shared *shared = c->shared;
  const int attention = shared->flow_row ? shared->attention_cliff : -1, cam = shared->cam_row ? shared->cam_cliff : -1;
  SL_TRY(sl_context_say(c, "attention_cliff", attention >= 0 ? json_integer(attention) : json_null()));
  return sl_context_say(c, "cam_cliff", cam >= 0 ? json_integer(cam) : json_null());
}

/* What is written under every cut, and the layer from which on it is what the plain run writes. */
static sl_status tell_answers(const sl_sweep *s, int max_token, const int32_t *ids, const int *n_id, bool *same) {
  sl_analysis_context *c = s->context;
  const int n = s->n_layer + 1;
  const int32_t *plain = ids + (int64_t)s->n_layer * max_token;
  json_t *list = json_array();
  sl_status status = SL_OK;
  for (int k = 0; k < n && status == SL_OK; k++) {
    const int32_t *own = ids + (int64_t)k * max_token;
    json_t *text = json_null();
    same[k] = n_id[k] == n_id[s->n_layer] && (n_id[k] <= 0 || memcmp(own, plain, (size_t)n_id[k] * sizeof *own) == 0);
    if (n_id[k] >= 0) status = sl_json_ids_text(c, own, n_id[k], &text);
    if (status == SL_OK) json_array_append_new(list, text);
  }
  if (status == SL_OK) status = sl_context_say(c, "answer", json_incref(list));
  json_decref(list);
  return status == SL_OK ? sl_context_say(c, "answer_layer", json_integer(sl_cliff_unchanged(same, n))) : status;
}

static sl_status write_answers(const sl_sweep *s) {
  sl_analysis_context *c = s->context;
  const int max_token = answer_tokens(c);
  const size_t n = (size_t)s->n_layer + 1;
  if (max_token == 0) {
    SL_TRY(sl_context_warn(c, "cliff: the prompt leaves the model no position to write an answer to"));
    return sl_context_say(c, "answer", json_null());
  }
  int32_t *ids = NULL;
  int *n_id = NULL;
  bool *same = NULL;
  sl_status status = SL_ALLOC(ids, n * (size_t)max_token, "answers");
  if (status == SL_OK) status = SL_ALLOC(n_id, n, "answers");
  if (status == SL_OK) status = SL_ALLOC(same, n, "answers");
  if (status == SL_OK) status = sl_sweep_answers(s, 0, max_token, ids, n_id);
  if (status == SL_OK) status = tell_answers(s, max_token, ids, n_id, same);
  if (status == SL_OK) status = sl_context_say(c, "answer_tokens", json_integer(max_token));
  free(ids);
  free(n_id);
  free(same);
  return status;
}

/* ---- rankings against each other ---- */

/* True when every ranking exists at this cut: only there they can be compared. */
static bool comparable(const sl_sweep *s, int k) {
  for (int r = 0; r < s->n_curve; r++)
    if (s->plan_of[(int64_t)r * (s->n_layer + 1) + k] < 0) return false;
  return true;
}

/* What one ranking loses against the plain run, mean over the comparable cuts. */
static sl_status rank_json(const sl_sweep *s, int curve, double *out_loss, json_t **out) {
  const sl_ranking ranking = s->options.ranks[curve];
  double loss = 0, same = 0;
  int n = 0;
  for (int k = 0; k < s->n_layer; k++) {
    if (!comparable(s, k)) continue;
    const int plan = s->plan_of[(int64_t)curve * (s->n_layer + 1) + k];
    loss += s->value[SL_SWEEP_PLAIN] - s->value[plan];
    same += s->token[plan] == s->token[SL_SWEEP_PLAIN];
    n++;
  }
  json_t *layer;
  SL_TRY(find_cliff(s, curve, &layer));
  *out_loss = n > 0 ? loss / n : NAN;
  *out = json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "rank", sl_rank_name(ranking.rank), "meaning",
                   sl_rank_meaning(ranking.rank), "order",
                   ranking.rank == SL_RANK_RANDOM ? json_integer(ranking.order) : json_null(), "layer", layer, "loss",
                   sl_json_number(*out_loss), "same_token", sl_json_number(n > 0 ? same / n : NAN));
  if (!*out) SL_FAIL(SL_ERROR_MEMORY, "cliff: no memory for the rankings");
  return SL_OK;
}

static sl_status put_ranks(const sl_sweep *s) {
  sl_analysis_context *c = s->context;
  const int64_t n_point = s->n_layer + 1, n = s->n_curve * n_point;
  float *logit = NULL, *prob = NULL;
  sl_status status = SL_ALLOC(logit, (size_t)n, "cliff curves");
  if (status == SL_OK) status = SL_ALLOC(prob, (size_t)n, "cliff curves");
  for (int64_t i = 0; i < n && status == SL_OK; i++) {
    const int plan = s->plan_of[i];
    logit[i] = plan >= 0 ? (float)s->value[plan] : NAN;
    prob[i] = plan >= 0 ? s->prob[plan] : NAN;
  }
  const int64_t shape[] = {s->n_curve, n_point};
  if (status == SL_OK) status = sl_context_put(c, "cliff.rank_logit", SL_F32, 2, shape, logit);
  if (status == SL_OK) status = sl_context_put(c, "cliff.rank_prob", SL_F32, 2, shape, prob);
  free(logit);
  free(prob);
  return status;
}

/* Chance: mean and deviation of what random orders lose. */
static sl_status say_chance(const sl_sweep *s, const double *loss) {
  double sum = 0, squares = 0;
  int n = 0;
  for (int r = 0; r < s->n_curve; r++) {
    if (s->options.ranks[r].rank != SL_RANK_RANDOM) continue;
    sum += loss[r];
    n++;
  }
  if (n == 0) return SL_OK;
  for (int r = 0; r < s->n_curve; r++)
    if (s->options.ranks[r].rank == SL_RANK_RANDOM) squares += (loss[r] - sum / n) * (loss[r] - sum / n);
  json_t *chance = json_pack("{s:i, s:o, s:o}", "orders", n, "loss", sl_json_number(sum / n), "sd",
                             sl_json_number(n > 1 ? sqrt(squares / (n - 1)) : NAN));
  return sl_context_say(s->context, "chance", chance);
}

static sl_status say_ranks(const sl_sweep *s) {
  double loss[SL_MAX_RANKING];
  json_t *list = json_array();
  sl_status status = SL_OK;
  for (int r = 0; r < s->n_curve && status == SL_OK; r++) {
    json_t *one = NULL;
    status = rank_json(s, r, &loss[r], &one);
    if (status == SL_OK) json_array_append_new(list, one);
  }
  if (status == SL_OK) status = sl_context_say(s->context, "ranks", json_incref(list));
  json_decref(list);
  return status == SL_OK ? say_chance(s, loss) : status;
}

static sl_status tell_ranks(const sl_sweep *s) {
  sl_analysis_context *c = s->context;
  if (s->options.n_keep == 0) return SL_OK;
  SL_TRY(put_ranks(s));
  SL_TRY(say_ranks(s));
  json_t *layers = json_array();
  for (int k = 0; k < s->n_layer; k++)
    if (comparable(s, k)) json_array_append_new(layers, json_integer(k));
  SL_TRY(sl_context_say(c, "compared_layers", layers));
  if (s->plan_of[0] >= 0) return SL_OK;
  return sl_context_say(c, "undefined",
                        json_sprintf("ranking \"%s\" does not exist at every layer (attention comes from the layer "
                                     "before the cut, so there is none at layer 0): those points are null",
                                     sl_rank_name(s->options.ranks[0].rank)));
}

/* Leaves out rankings whose analysis left nothing to rank by (one that was asked for alone is an error). */
static sl_status drop_missing(sl_analysis_context *c, sl_sweep_options *o) {
  const struct {
    sl_rank rank;
    bool there;
  } sources[] = {{SL_RANK_CAM, c->shared->cam_row}, {SL_RANK_TOKENS, c->shared->token_row}};
  for (int i = 0; i < 2 && o->n_keep > 0; i++) {
    if (sources[i].there || !has_rank(o, sources[i].rank)) continue;
    const char *name = sl_rank_name(sources[i].rank);
    if (o->n_rank == 1) SL_FAIL(SL_ERROR_ARGUMENT, "--rank %s: the analysis %s left nothing to rank by", name, name);
    SL_TRY(sl_context_warn(c, "cliff: ranking %s is left out, because the analysis %s left nothing to rank by", name,
                           name));
    int n = 0;
    for (int r = 0; r < o->n_rank; r++)
      if (o->ranks[r].rank != sources[i].rank) o->ranks[n++] = o->ranks[r];
    o->n_rank = n;
  }
  return SL_OK;
}

static sl_status tell(const sl_sweep *s) {
  SL_TRY(say_keep(s));
  SL_TRY(say_target(s));
  SL_TRY(put_curve(s));
  SL_TRY(say_others(s->context));
  SL_TRY(tell_ranks(s));
  return write_answers(s);
}

static sl_status cliff_run(sl_analysis_context *c) {
  sl_sweep_options o;
  sl_sweep sweep;
  if (c->layout->n_prompt <= sl_context_first_text(c)) {
    SL_TRY(sl_context_warn(c, "cliff is skipped: the prompt ends with the picture, so no text reads it"));
    return sl_context_say(c, "skipped", json_string("the prompt ends with the picture, so no text reads it"));
  }
  SL_TRY(read_options(c, &o));
  SL_TRY(drop_missing(c, &o));
  SL_TRY(sl_sweep_run(&sweep, c, &o));
  const sl_status status = tell(&sweep);
  sl_sweep_dispose(&sweep);
  return status;
}

static const char *const results[] = {"cliff.logit",      "cliff.prob",      "cliff.token",
                                      "cliff.rank_logit", "cliff.rank_prob", NULL};
static const char *const uses[] = {"flow.image", "cam.heat", "tokens.image", NULL};

const sl_analysis sl_cliff_analysis = {
    .info =
        {.name = "cliff",
         .help = "from which layer on the picture is no longer needed: a truncation sweep over all layers",
         .details =
             "For every layer, what the model would answer if image tokens were invisible from that layer on: the "
             "target, its probability, and the answer written out. The cliff layer is the first from which on no cut "
             "costs more than 5 % of the difference between the picture and no picture.\n"
             "With --keep some image tokens stay visible, and rankings of image tokens are scored against each other: "
             "the one that loses least knows best which tokens matter. At layer 0 there is no attention to rank by.",
         .source =
             "Zhang et al., From Redundancy to Relevance, arXiv 2406.06579, equations 9-13, sections 3.4, 4.2, A.2",
         .options = options,
         .n_option = sizeof options / sizeof *options,
         .results = results},
    .needs = cliff_needs,
    .uses = uses,
    .check = cliff_check,
    .passes = cliff_passes,
    .run = cliff_run,
};
