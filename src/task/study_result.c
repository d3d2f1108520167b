/* Numbers and short arrays of run.json's analyses become scalars and series under their dotted names; of the tensors,
 * those that are asked about across examples: heads' scores, attention by class and layer, knockout by edge and layer. */
#include "task/study_result.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/analysis.h"
#include "analysis/token_json.h"
#include "base/text.h"
#include "task/run_json.h"

/* ---- what the analyses said ---- */

static bool is_numbers(const json_t *value) {
  if (!json_is_array(value) || json_array_size(value) == 0) return false;
  for (size_t i = 0; i < json_array_size(value); i++) {
    const json_t *one = json_array_get(value, i);
    if (!json_is_number(one) && !json_is_null(one)) return false;
  }
  return true;
}

static sl_status walk(json_t *value, const char *name, json_t *scalars, json_t *series);

static sl_status walk_members(json_t *object, const char *prefix, json_t *scalars, json_t *series) {
  const char *key;
  json_t *value;
  json_object_foreach(object, key, value) {
    sl_text name = {0};
    sl_status status = sl_text_format(&name, "%s%s%s", prefix, *prefix ? "." : "", key);
    if (status == SL_OK) status = walk(value, name.data, scalars, series);
    sl_text_dispose(&name);
    SL_TRY(status);
  }
  return SL_OK;
}

/* Texts, and arrays of other things than numbers, are not for comparing over examples. */
static sl_status walk(json_t *value, const char *name, json_t *scalars, json_t *series) {
  if (json_is_object(value)) return walk_members(value, name, scalars, series);
  if (json_is_boolean(value)) return sl_run_json_set(scalars, name, json_integer(json_is_true(value)));
  if (json_is_number(value) || json_is_null(value)) return sl_run_json_set(scalars, name, json_incref(value));
  return is_numbers(value) ? sl_run_json_set(series, name, json_incref(value)) : SL_OK;
}

static sl_status take_said(json_t *result, json_t *analyses) {
  json_t *scalars = json_object(), *series = json_object(), *said;
  const char *name;
  SL_TRY(sl_run_json_set(result, "scalar", scalars));
  SL_TRY(sl_run_json_set(result, "series", series));
  json_object_foreach(analyses, name, said) {
    json_t *own_scalars = json_object(), *own_series = json_object();
    SL_TRY(sl_run_json_set(scalars, name, own_scalars));
    SL_TRY(sl_run_json_set(series, name, own_series));
    SL_TRY(walk_members(said, "", own_scalars, own_series));
  }
  return SL_OK;
}

/* ---- tensors ---- */

static const sl_tensor *find(const sl_run *run, const char *name) {
  int n;
  const sl_tensor *tensors = sl_run_tensors(run, &n);
  for (int i = 0; i < n; i++)
    if (strcmp(tensors[i].name, name) == 0) return &tensors[i];
  return NULL;
}

static sl_status add_series(json_t *result, const char *analysis, const char *prefix, const char *name,
                            json_t *values) {
  sl_text key = {0};
  sl_status status = sl_text_format(&key, "%s.%s", prefix, name);
  if (status == SL_OK)
    status =
        sl_run_json_set(json_object_get(json_object_get(result, "series"), analysis), key.data, json_incref(values));
  sl_text_dispose(&key);
  json_decref(values);
  return status;
}

/* flow.share [L, Q, 5], of the row that predicts the answer's first token. */
static sl_status take_flow(json_t *result, const sl_run *run) {
  static const char *const classes[] = {"system", "image", "structure", "user",
                                        "generated"}; /* as store/schema.c says */
  const sl_tensor *share = find(run, "flow.share");
  for (int c = 0; share && c < 5; c++)
    SL_TRY(add_series(result, "flow", "share", classes[c],
                      sl_json_floats((const float *)share->data + c, (int)share->shape[0], (int)share->shape[1] * 5)));
  return SL_OK;
}

/* knockout.change [E, L]; run.json names the edges. */
static sl_status take_knockout(json_t *result, const sl_run *run, json_t *analyses) {
  const sl_tensor *change = find(run, "knockout.change");
  json_t *edges = sl_json_at(analyses, "knockout.edges");
  for (int64_t i = 0; change && i < change->shape[0]; i++) {
    const char *edge = json_string_value(json_object_get(json_array_get(edges, (size_t)i), "edge"));
    if (edge)
      SL_TRY(add_series(result, "knockout", "change", edge,
                        sl_json_floats((const float *)change->data + i * change->shape[1], (int)change->shape[1], 1)));
  }
  return SL_OK;
}

/* The CAM's strength in every layer as a share of the strongest one's: what can be averaged over examples. */
static sl_status take_cam(json_t *result, json_t *analyses) {
  const json_t *mass = sl_json_at(analyses, "cam.mass");
  double most = 0;
  json_t *shares = json_array();
  for (size_t i = 0; i < json_array_size(mass); i++) most = fmax(most, json_number_value(json_array_get(mass, i)));
  for (size_t i = 0; i < json_array_size(mass); i++) {
    const json_t *value = json_array_get(mass, i);
    json_array_append_new(shares,
                          most > 0 && json_is_number(value) ? json_real(json_number_value(value) / most) : json_null());
  }
  if (json_array_size(shares) > 0)
    return sl_run_json_set(json_object_get(json_object_get(result, "series"), "cam"), "mass_share", shares);
  json_decref(shares);
  return SL_OK;
}

/* Whether the answer under every cut is the expected one. */
static sl_status take_cliff(json_t *result, const sl_study_row *e, json_t *analyses) {
  const json_t *answers = sl_json_at(analyses, "cliff.answer");
  if (!e->answer || json_array_size(answers) == 0) return SL_OK;
  json_t *correct = json_array();
  for (size_t k = 0; k < json_array_size(answers); k++) {
    const char *answer = json_string_value(json_array_get(answers, k));
    json_array_append_new(correct, answer ? json_integer(sl_study_answers_equal(answer, e->answer)) : json_null());
  }
  return sl_run_json_set(json_object_get(json_object_get(result, "series"), "cliff"), "correct", correct);
}

static sl_status take_heads(json_t *result, const sl_run *run) {
  static const char *const names[][2] = {{"heads.score", "score"},
                                         {"heads.stderr", "stderr"},
                                         {"heads.single", "single"},
                                         {"heads.attention", "attention"},
                                         {"heads.patching", "patching"}};
  const sl_tensor *score = find(run, "heads.score");
  json_t *heads = json_object();
  SL_TRY(sl_run_json_set(result, "head", heads));
  if (!score) return SL_OK;
  SL_TRY(sl_run_json_set(heads, "n_head", json_integer(score->shape[1])));
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const sl_tensor *tensor = find(run, names[i][0]);
    if (tensor)
      SL_TRY(sl_run_json_set(heads, names[i][1], sl_json_floats(tensor->data, (int)sl_tensor_count(tensor), 1)));
  }
  return SL_OK;
}

/* ---- the example's own columns ---- */

bool sl_study_answers_equal(const char *a, const char *b) {
  const char *ends[2], *texts[2] = {a, b};
  for (int i = 0; i < 2; i++) {
    while (*texts[i] && (isspace((unsigned char)*texts[i]) || ispunct((unsigned char)*texts[i]))) texts[i]++;
    ends[i] = texts[i] + strlen(texts[i]);
    while (ends[i] > texts[i] && (isspace((unsigned char)ends[i][-1]) || ispunct((unsigned char)ends[i][-1])))
      ends[i]--;
  }
  const size_t n = (size_t)(ends[0] - texts[0]);
  if (n != (size_t)(ends[1] - texts[1])) return false;
  for (size_t i = 0; i < n; i++)
    if (tolower((unsigned char)texts[0][i]) != tolower((unsigned char)texts[1][i])) return false;
  return true;
}

static json_t *text_or_null(const char *text) { return text ? sl_json_text(text, strlen(text)) : json_null(); }

static sl_status start(json_t **out, int64_t number, const sl_study_row *e, const char *state) {
  json_t *r = *out = json_object();
  if (!r) SL_FAIL(SL_ERROR_MEMORY, "no memory for a result");
  SL_TRY(sl_run_json_set(r, "example", json_integer(number)));
  SL_TRY(sl_run_json_set(r, "line", json_integer(e->line)));
  SL_TRY(sl_run_json_set(r, "id", text_or_null(e->id)));
  SL_TRY(sl_run_json_set(r, "image", text_or_null(e->image)));
  SL_TRY(sl_run_json_set(r, "mask", text_or_null(e->mask)));
  SL_TRY(sl_run_json_set(r, "question", text_or_null(e->question)));
  SL_TRY(sl_run_json_set(r, "expected", text_or_null(e->answer)));
  SL_TRY(sl_run_json_set(r, "status", json_string(state)));
  return sl_run_json_set(r, "labels", e->labels ? json_incref(e->labels) : json_object());
}

sl_status sl_study_result_failed(json_t **out, int64_t number, const sl_study_row *e, const char *error) {
  sl_status status = start(out, number, e, "failed");
  if (status == SL_OK) status = sl_run_json_set(*out, "error", text_or_null(error));
  if (status == SL_OK) return SL_OK;
  json_decref(*out);
  *out = NULL;
  return status;
}

/* [{"id", "text", "logit", "prob"}] of the answer. */
static sl_status take_tokens(json_t *result, json_t *root) {
  static const char *const kept[] = {"id", "text", "logit", "prob"};
  json_t *tokens = json_object_get(root, "tokens"), *token, *list = json_array();
  size_t i;
  SL_TRY(sl_run_json_set(result, "tokens", list));
  json_array_foreach(tokens, i, token) {
    if (!json_object_get(token, "logit")) continue; /* of the prompt */
    json_t *own = json_object();
    for (size_t k = 0; own && k < sizeof kept / sizeof *kept; k++)
      json_object_set(own, kept[k], json_object_get(token, kept[k]));
    if (json_array_append_new(list, own) != 0) SL_FAIL(SL_ERROR_MEMORY, "no memory for an answer's tokens");
  }
  return SL_OK;
}

static sl_status take_answer(json_t *result, const sl_study_row *e, json_t *root) {
  json_t *answer = sl_json_at(root, "prompt.answer");
  SL_TRY(sl_run_json_set(result, "answer", json_incref(answer)));
  SL_TRY(sl_run_json_set(result, "image_hash", json_incref(sl_json_at(root, "image.hash"))));
  const char *source = json_string_value(sl_json_at(root, "prompt.answer_source"));
  if (e->answer && json_is_string(answer) && source && strcmp(source, "greedy") == 0)
    SL_TRY(
        sl_run_json_set(result, "correct", json_integer(sl_study_answers_equal(json_string_value(answer), e->answer))));
  if (json_array_size(json_object_get(root, "warnings")) > 0)
    SL_TRY(sl_run_json_set(result, "warnings", json_incref(json_object_get(root, "warnings"))));
  return take_tokens(result, root);
}

/* 16 digits, as the picture's. */
static sl_status take_mask(json_t *result, const sl_study_row *e, uint64_t hash) {
  char text[17];
  if (!e->mask) return SL_OK;
  snprintf(text, sizeof text, "%016llx", (unsigned long long)hash);
  return sl_run_json_set(result, "mask_hash", json_string(text));
}

sl_status sl_study_result_done(json_t **out, int64_t number, const sl_study_row *e, sl_run *run, uint64_t mask_hash,
                               const char *tensors) {
  json_t *root = sl_run_json(run), *analyses = json_object_get(root, "analyses");
  sl_status status = start(out, number, e, "done");
  if (status == SL_OK) status = take_answer(*out, e, root);
  if (status == SL_OK && tensors) status = sl_run_json_set(*out, "tensors", json_string(tensors));
  if (status == SL_OK) status = take_said(*out, analyses);
  if (status == SL_OK) status = take_mask(*out, e, mask_hash);
  if (status == SL_OK) status = take_flow(*out, run);
  if (status == SL_OK) status = take_cam(*out, analyses);
  if (status == SL_OK) status = take_cliff(*out, e, analyses);
  if (status == SL_OK) status = take_knockout(*out, run, analyses);
  if (status == SL_OK) status = take_heads(*out, run);
  if (status == SL_OK) status = sl_run_json_set(*out, "timing", json_incref(json_object_get(root, "timings_ms")));
  if (status == SL_OK) return SL_OK;
  json_decref(*out);
  *out = NULL;
  return status;
}
