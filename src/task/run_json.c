/* run.json: what was run, on what, and what every position of the sequence is. */
#include "task/run_json.h"

#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "analysis/token_json.h"
#include "sightline/sightline.h"

sl_status sl_run_json_set(json_t *root, const char *key, json_t *value) {
  if (json_object_set_new(root, key, value) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "run.json: no memory for key \"%s\"", key);
}

static json_t *command_json(const sl_trace_request *r) {
  json_t *array = json_array();
  for (int i = 0; i < r->n_command; i++)
    json_array_append_new(array, sl_json_text(r->command[i], strlen(r->command[i])));
  return array;
}

static json_t *now_json(void) {
  char text[32] = "";
  const time_t now = time(NULL);
  struct tm utc;
  if (gmtime_r(&now, &utc)) strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return json_string(text);
}

sl_status sl_run_json_start(json_t *root, const sl_model *model, const sl_trace_request *r, const sl_picture *picture) {
  json_t *part = NULL;
  SL_TRY(sl_run_json_set(root, "sightline", json_string(sl_version())));
  SL_TRY(sl_run_json_set(root, "command", command_json(r)));
  SL_TRY(sl_run_json_set(root, "created", now_json()));
  SL_TRY(sl_model_to_json(model, &part));
  SL_TRY(sl_run_json_set(root, "model", part));
  SL_TRY(sl_model_compute_to_json(model, &part));
  SL_TRY(sl_run_json_set(root, "compute", part));
  if (r->n_thread > 0) SL_TRY(sl_run_json_set(part, "threads", json_integer(r->n_thread)));
  SL_TRY(sl_picture_to_json(picture, &part));
  SL_TRY(sl_run_json_set(root, "image", part));
  return sl_run_json_set(root, "seed", json_integer((json_int_t)r->seed));
}

static json_t *token_text(const sl_model *model, int32_t id) {
  return sl_json_token_text(&(sl_analysis_context){.model = model}, id);
}

static json_t *piece_json(const sl_model *model, int32_t id) {
  size_t n_byte = 0;
  const char *piece = sl_model_piece(model, id, &n_byte);
  return piece ? sl_json_text(piece, n_byte) : json_null();
}

static json_t *top_json(const sl_model *model, const sl_answer_token *token) {
  json_t *list = json_array();
  for (int i = 0; i < token->n_top; i++) {
    json_array_append_new(list, json_pack("{s:i, s:o, s:o, s:f, s:f}", "id", (int)token->top[i].id, "piece",
                                          piece_json(model, token->top[i].id), "text",
                                          token_text(model, token->top[i].id), "logit", (double)token->top[i].logit,
                                          "prob", (double)token->top[i].prob));
  }
  return list;
}

sl_status sl_run_json_answer_token(json_t **out, const sl_model *model, const sl_answer_token *token) {
  *out = json_pack("{s:i, s:o, s:o, s:f, s:f, s:o}", "id", (int)token->id, "piece", piece_json(model, token->id),
                   "text", token_text(model, token->id), "logit", (double)token->logit, "prob", (double)token->prob,
                   "top", top_json(model, token));
  if (!*out) SL_FAIL(SL_ERROR_MEMORY, "run.json: no memory for an answer token");
  return SL_OK;
}

static json_t *token_json(const sl_model *model, const sl_layout *layout, int t, const sl_answer *answer) {
  json_t *token =
      json_pack("{s:i, s:o, s:o, s:s}", "id", (int)layout->ids[t], "piece", piece_json(model, layout->ids[t]),
                "text", token_text(model, layout->ids[t]), "class", sl_class_name(layout->classes[t]));
  if (!token) return NULL;
  if (layout->roles[t] != SL_ROLE_NONE) json_object_set_new(token, "role", json_string(sl_role_name(layout->roles[t])));
  const int a = t - layout->n_prompt;
  if (a < 0 || a >= answer->n_token) return token;
  json_object_set_new(token, "logit", json_real((double)answer->tokens[a].logit));
  json_object_set_new(token, "prob", json_real((double)answer->tokens[a].prob));
  json_object_set_new(token, "top", top_json(model, &answer->tokens[a]));
  return token;
}

/* Half-open runs of equal class: {"system": [[0, 5]], "image": [[5, 581]], ...}. */
static json_t *spans_json(const sl_layout *layout) {
  json_t *spans = json_object();
  for (int first = 0, last; first < layout->n_token; first = last) {
    for (last = first + 1; last < layout->n_token && layout->classes[last] == layout->classes[first];) last++;
    const char *name = sl_class_name(layout->classes[first]);
    if (!json_object_get(spans, name)) json_object_set_new(spans, name, json_array());
    json_array_append_new(json_object_get(spans, name), json_pack("[i, i]", first, last));
  }
  return spans;
}

sl_status sl_run_json_tokens(json_t *root, const sl_model *model, const sl_trace_request *r, const sl_layout *layout,
                             const sl_answer *answer) {
  json_t *tokens = json_array(), *queries = json_array();
  for (int t = 0; t < layout->n_token; t++) json_array_append_new(tokens, token_json(model, layout, t, answer));
  for (int a = 0; a < answer->n_token; a++) json_array_append_new(queries, json_integer(layout->n_prompt + a - 1));
  const size_t n_told = json_array_size(tokens);
  SL_TRY(sl_run_json_set(root, "tokens", tokens));
  SL_TRY(sl_run_json_set(root, "queries", queries));
  if (n_told != (size_t)layout->n_token) SL_FAIL(SL_ERROR_MEMORY, "run.json: no memory for the tokens");
  SL_TRY(sl_run_json_set(
      root, "prompt",
      json_pack("{s:s, s:s, s:b, s:o, s:s, s:b}", "question", r->question, "text", layout->text, "raw",
                (int)r->raw_prompt, "answer", sl_json_text(answer->text, strlen(answer->text)), "answer_source",
                answer->forced ? "forced" : "greedy", "answer_cut", (int)answer->cut)));
  SL_TRY(sl_run_json_set(root, "spans", spans_json(layout)));
  return sl_run_json_set(root, "grid",
                         json_pack("{s:i, s:i}", "height", layout->grid_height, "width", layout->grid_width));
}

sl_status sl_run_json_options(json_t *root, const sl_trace_request *r, int max_token, double object_threshold) {
  json_t *options = json_pack("{s:i, s:b, s:s?, s:b}", "max-tokens", max_token, "raw-prompt", (int)r->raw_prompt,
                              "record", r->record, "logits", (int)r->logits);
  if (r->mask_path && options) json_object_set_new(options, "object-threshold", json_real(object_threshold));
  SL_TRY(sl_run_json_set(root, "options", options));
  if (r->plan_path) SL_TRY(sl_run_json_set(options, "plan", sl_json_text(r->plan_path, strlen(r->plan_path))));
  if (r->batch_size > 0) SL_TRY(sl_run_json_set(options, "batch-size", json_integer(r->batch_size)));
  if (r->budget_s > 0) SL_TRY(sl_run_json_set(options, "budget_s", json_real(r->budget_s)));
  return SL_OK;
}

sl_status sl_run_json_memory(json_t *root) {
  struct rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) != 0) return SL_OK; /* not worth failing for */
  return sl_run_json_set(root, "peak_memory_bytes", json_integer((json_int_t)usage.ru_maxrss * 1024));
}
