/* An attribution as result tensors and as numbers of run.json. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/attribution.h"
#include "base/text.h"

static const char *const end_names[] = {[SL_GROWTH_CORRELATION] = "correlation stopped rising",
                                        [SL_GROWTH_SAMPLES] = "all samples drawn",
                                        [SL_GROWTH_BUDGET] = "time was over",
                                        [SL_GROWTH_INTERRUPTED] = "interrupted"};

static sl_status put(sl_analysis_context *c, const char *prefix, const char *name, sl_dtype dtype, int n_dim,
                     const int64_t *shape, const void *data) {
  char full[64];
  snprintf(full, sizeof full, "%s%s", prefix, name);
  return sl_context_put(c, full, dtype, n_dim, shape, data);
}

static sl_status put_floats(sl_analysis_context *c, const char *prefix, const char *name, const double *values, int n) {
  float *single = NULL;
  SL_TRY(SL_ALLOC(single, (size_t)n, name));
  for (int i = 0; i < n; i++) single[i] = (float)values[i];
  const sl_status status = put(c, prefix, name, SL_F32, 1, (int64_t[]){n}, single);
  free(single);
  return status;
}

/* [S, 4]: masks, and the agreement on the validation masks. */
static sl_status put_growth(sl_analysis_context *c, const char *prefix, const sl_attribution *a) {
  float rows[SL_GROWTH_MAX_STEP][4];
  for (int s = 0; s < a->n_step; s++) {
    rows[s][0] = (float)a->steps[s].n_mask;
    rows[s][1] = (float)a->steps[s].valid.pearson;
    rows[s][2] = (float)a->steps[s].valid.spearman;
    rows[s][3] = (float)a->steps[s].valid.r2;
  }
  return put(c, prefix, "growth", SL_F32, 2, (int64_t[]){a->n_step, 4}, rows);
}

sl_status sl_attribution_put(sl_analysis_context *c, const char *prefix, const sl_attribution *a) {
  if (a->n_mask == 0) return SL_OK;
  SL_TRY(put(c, prefix, "masks", SL_U8, 2, (int64_t[]){a->n_mask, a->n_component}, a->masks));
  SL_TRY(put_floats(c, prefix, "target", a->target, a->n_mask));
  if (!a->fitted) return SL_OK;
  SL_TRY(put_floats(c, prefix, "intercept", &a->fit.intercept, 1));
  SL_TRY(put_floats(c, prefix, "fit", (double[]){a->test.pearson, a->test.spearman, a->test.r2}, 3));
  SL_TRY(put_floats(c, prefix, "predicted", a->predicted, a->n_test));
  return put_growth(c, prefix, a);
}

void sl_attribution_scores(const sl_attribution *a, float *score, float *error) {
  for (int i = 0; i < a->n_component; i++) {
    const bool fitted = a->fitted && a->fit.column[i] == SL_COLUMN_FITTED;
    score[i] = fitted ? (float)a->fit.score[i] : 0;
    error[i] = fitted ? (float)a->fit.error[i] : NAN;
  }
}

static json_t *agreement_to_json(const sl_agreement *g) {
  return json_pack("{s:o, s:o, s:o}", "pearson", sl_json_number(g->pearson), "spearman", sl_json_number(g->spearman),
                   "r2", sl_json_number(g->r2));
}

/* 95 % interval of a correlation on n pairs by Fisher's z: tanh(atanh r +- 1.96 / sqrt(n - 3)). */
static json_t *interval_to_json(double r, int n) {
  if (n <= 3 || isnan(r)) return json_null();
  const double z = atanh(r), reach = 1.959963984540054 / sqrt(n - 3.0);
  return json_pack("[f, f]", tanh(z - reach), tanh(z + reach));
}

static json_t *fit_to_json(const sl_attribution *a) {
  json_t *fit = agreement_to_json(&a->test);
  int failed = json_object_set_new(fit, "test_masks", json_integer(a->n_test));
  failed |= json_object_set_new(fit, "pearson_interval", interval_to_json(a->test.pearson, a->n_test));
  if (!failed) return fit;
  json_decref(fit);
  return NULL;
}

static json_t *growth_to_json(const sl_attribution *a) {
  json_t *list = json_array();
  for (int s = 0; s < a->n_step && list; s++) {
    json_t *step = agreement_to_json(&a->steps[s].valid);
    json_object_set_new(step, "masks", json_integer(a->steps[s].n_mask));
    json_object_set_new(step, "rise", sl_json_number(a->steps[s].rise));
    json_array_append_new(list, step);
  }
  return list;
}

/* What is missing and how to get it. */
static sl_status say_unfinished(json_t *out, const sl_attribution *a) {
  const char *what = a->end == SL_GROWTH_INTERRUPTED ? "interrupted" : "out of time";
  json_t *line =
      a->fitted
          ? json_sprintf("%s after %d masks: scores are of these; --resume goes on with the same masks", what,
                         a->n_mask)
          : json_sprintf("%s after %d masks: scores need at least %d; --resume goes on with the same masks", what,
                         a->n_mask, a->n_needed);
  if (json_object_set_new(out, "interrupted", line) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "no memory for run.json");
}

static sl_status add_words(sl_text *text, const char *words) {
  return sl_text_format(text, "%s%s", text->length > 0 ? "; " : "", words);
}

/* What makes the fit doubtful, in words. */
static sl_status write_note(sl_text *text, const sl_attribution *a) {
  char words[160];
  const double rise = a->steps[a->n_step - 1].rise;
  const int n_constant = a->fit.n_constant - (a->n_component - a->n_live), n_unused = a->n_stored - a->n_mask;
  if (rise < -SL_GROWTH_RISE) {
    snprintf(words, sizeof words, "the last masks lowered the correlation on the validation masks by %.3f", -rise);
    SL_TRY(add_words(text, words));
  }
  if (a->penalty_edge > 0)
    SL_TRY(add_words(text, "the penalty is the largest that was tried: the masks predict next to nothing of the "
                           "target"));
  if (a->penalty_edge < 0)
    SL_TRY(add_words(text, "the penalty is the smallest that was tried: one below might predict better"));
  if (!a->fit.converged) SL_TRY(add_words(text, "the descent to the lasso's minimum stopped before it was there"));
  if (n_constant > 0) {
    snprintf(words, sizeof words, "%d component%s the same in every training mask and %s no score", n_constant,
             n_constant == 1 ? " is" : "s are", n_constant == 1 ? "has" : "have");
    SL_TRY(add_words(text, words));
  }
  if (n_unused <= 0) return SL_OK;
  snprintf(words, sizeof words, "masks of the earlier run that are left out: %d (--all-samples and its --samples take "
           "them)", n_unused);
  return add_words(text, words);
}

static int set_note(json_t *out, const sl_attribution *a) {
  sl_text text = {0};
  int failed = write_note(&text, a) != SL_OK;
  if (!failed && text.length > 0) failed = json_object_set_new(out, "note", json_string(text.data));
  sl_text_dispose(&text);
  return failed;
}

static int set_fit(json_t *out, const sl_attribution *a) {
  int failed = json_object_set_new(out, "fit", fit_to_json(a));
  failed |= json_object_set_new(out, "intercept", sl_json_number(a->fit.intercept));
  failed |= json_object_set_new(out, "penalty", sl_json_number(a->fit.penalty));
  failed |= json_object_set_new(out, "growth", growth_to_json(a));
  return failed | set_note(out, a);
}

static const char *error_name(const sl_attribution_request *r) {
  return r->solver == SL_REGRESS_LASSO ? "none" : sl_attribution_errors[r->bootstrap];
}

sl_status sl_attribution_to_json(json_t **out, const sl_attribution *a, const sl_attribution_request *r) {
  int parts[3] = {0};
  for (int j = 0; j < a->n_mask; j++) parts[sl_mask_part_of(j)]++;
  *out = json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:s, s:s, s:s}", "components", a->n_component, "dropped",
                   a->n_component - a->n_live, "masks", a->n_mask, "resumed",
                   a->n_earlier < a->n_mask ? a->n_earlier : a->n_mask, "train", parts[0],
                   "validation", parts[1], "test", parts[2], "keep_probability", r->keep, "solver",
                   sl_solver_name(r->solver), "errors", error_name(r), "stopped", end_names[a->end]);
  if (!*out) SL_FAIL(SL_ERROR_MEMORY, "no memory for run.json");
  sl_status status = SL_OK;
  if (a->end == SL_GROWTH_INTERRUPTED || a->end == SL_GROWTH_BUDGET) status = say_unfinished(*out, a);
  if (status == SL_OK && a->fitted && set_fit(*out, a) != 0)
    status = sl_fail(SL_ERROR_MEMORY, "no memory for run.json");
  if (status != SL_OK) {
    json_decref(*out);
    *out = NULL;
  }
  return status;
}

sl_status sl_attribution_warn(sl_analysis_context *c, const char *what, const json_t *json) {
  const char *note = json_string_value(json_object_get(json, "note"));
  return note ? sl_context_warn(c, "%s: %s", what, note) : SL_OK;
}
