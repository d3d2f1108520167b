/* Asking a benchmark's questions. Those of one picture follow each other and share its tower run and prefix; the plain
 * answer and, with --cliff, the answers with the picture hidden from layer 0, 1, ..., L - 1 on are greedy branches of one
 * batch.
 *
 * A question without a picture is asked with one whose positions are hidden from every layer: nothing of it is seen, only
 * the positions behind it are later ones. */
#include <stdlib.h>
#include <string.h>

#include "analysis/cliff_sweep.h"
#include "base/text.h"
#include "metric/letters.h"
#include "task/answer.h"
#include "task/eval_internal.h"
#include "task/scene_internal.h"

typedef struct asker {
  sl_evaluation *e;
  sl_scene *scene;
  const char *image; /* of the scene: borrowed from an example */
  const char *carrier; /* picture for questions without one */
} asker;

static const char *image_of(const asker *a, int i) {
  const char *own = a->e->examples.items[i].image;
  return own ? own : a->carrier;
}

static sl_status open_scene(asker *a, const char *image) {
  const sl_eval_request *q = a->e->request;
  const sl_scene_options options = {.size = sizeof options, .n_thread = q->n_thread, .log = q->log, .user = q->user,
                                    .cancel = q->cancel};
  char *path = NULL;
  if (a->scene && strcmp(a->image, image) == 0) return SL_OK;
  sl_scene_close(a->scene);
  a->scene = NULL;
  SL_TRY(sl_path_join(&path, a->e->image_dir, image));
  const sl_status status = sl_scene_open(&a->scene, a->e->model, path, &options);
  a->image = image;
  free(path);
  return status;
}

/* The unmodified run (unless there is no picture) and every truncation. */
static sl_status make_plans(sl_plan **plans, int *n_plan, const sl_layout *layout, bool has_image, int n_layer) {
  *n_plan = has_image ? 1 + n_layer : 1;
  SL_TRY(SL_ALLOC(*plans, (size_t)*n_plan, "truncations"));
  if (!has_image) return sl_cliff_plan(&(*plans)[0], layout, 0, NULL, false);
  for (int k = 0; k < n_layer; k++) SL_TRY(sl_cliff_plan(&(*plans)[1 + k], layout, k, NULL, false));
  return SL_OK;
}

/* Appends an answer; one that is the same as the answer before is the same value, so that curves of thousands of
 * examples stay small. */
static sl_status append_answer(json_t *layers, const char *text) {
  const size_t n = json_array_size(layers);
  json_t *before = n > 0 ? json_array_get(layers, n - 1) : NULL;
  const bool same = before && strcmp(json_string_value(before), text) == 0;
  if (json_array_append_new(layers, same ? json_incref(before) : json_string(text)) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "no memory for an answer");
}

/* An answer as the official scripts write it to their files: without blanks around it. */
static sl_status decode(char **text, const sl_evaluation *e, const int32_t *ids, int n_id) {
  SL_TRY(sl_answer_decode(text, e->model, ids, n_id));
  const char *inner = sl_strip(*text);
  memmove(*text, inner, strlen(inner) + 1);
  return SL_OK;
}

/* Answers of all plans as texts: the first to the example's answer, the others (or the first again) to its layers. */
static sl_status keep_answers(sl_evaluation *e, int i, const int32_t *ids, const int *n_id, int n_plan) {
  SL_TRY(decode(&e->texts[i], e, ids, n_id[0]));
  if (e->n_layer == 0) return SL_OK;
  e->layers[i] = json_array();
  for (int k = 0; k < e->n_layer; k++) {
    const int p = n_plan > 1 ? 1 + k : 0;
    char *text = NULL;
    SL_TRY(decode(&text, e, ids + (int64_t)p * e->max_token, n_id[p]));
    const sl_status status = append_answer(e->layers[i], text);
    free(text);
    SL_TRY(status);
  }
  return SL_OK;
}

/* Answers are short where a word or a letter is asked for: room for all the tokens that they might have is made only for
 * those that need it, because room is what limits how many branches go together. CHAIR's are long from the start. */
#define SHORT_ANSWER 16
#define LONG_ANSWER 256

/* The plans whose answers did not end, answered anew at full length. */
static sl_status answer_long(asker *a, const sl_branch_request *request, int32_t *ids, int *n_id) {
  const int n_plan = request->n_plan, max_token = a->e->max_token;
  sl_plan *open = NULL; /* shallow copies */
  int32_t *fresh = NULL;
  int *place = NULL, *n_fresh = NULL, n = 0;
  sl_status status = SL_ALLOC(open, (size_t)n_plan, "answers");
  if (status == SL_OK) status = SL_ALLOC(place, (size_t)n_plan, "answers");
  for (int p = 0; p < n_plan && status == SL_OK; p++) {
    if (n_id[p] < SHORT_ANSWER) continue;
    place[n] = p;
    open[n++] = request->plans[p];
  }
  if (status == SL_OK) status = SL_ALLOC(fresh, (size_t)n * (size_t)max_token, "answers");
  if (status == SL_OK) status = SL_ALLOC(n_fresh, (size_t)n, "answers");
  const sl_branch_request rest = {.trunk = request->trunk, .plans = open, .n_plan = n,
                                  .batch_size = request->batch_size};
  if (status == SL_OK && n > 0) status = sl_branches_greedy(a->scene->session, &rest, max_token, fresh, n_fresh);
  for (int k = 0; k < n && status == SL_OK; k++) {
    n_id[place[k]] = n_fresh[k];
    memcpy(ids + (size_t)place[k] * (size_t)max_token, fresh + (size_t)k * (size_t)max_token,
           (size_t)n_fresh[k] * sizeof *ids);
  }
  free(open);
  free(place);
  free(fresh);
  free(n_fresh);
  return status;
}

/* Greedy answers of all plans: ids [n_plan, max_token]. */
static sl_status answer_plans(asker *a, const sl_branch_request *request, int32_t *ids, int *n_id) {
  const int max_token = a->e->max_token;
  int32_t *first = NULL;
  if (max_token <= SHORT_ANSWER || max_token >= LONG_ANSWER)
    return sl_branches_greedy(a->scene->session, request, max_token, ids, n_id);
  SL_TRY(SL_ALLOC(first, (size_t)request->n_plan * SHORT_ANSWER, "answers"));
  sl_status status = sl_branches_greedy(a->scene->session, request, SHORT_ANSWER, first, n_id);
  for (int p = 0; p < request->n_plan && status == SL_OK; p++)
    memcpy(ids + (size_t)p * (size_t)max_token, first + (size_t)p * SHORT_ANSWER, (size_t)n_id[p] * sizeof *ids);
  free(first);
  return status == SL_OK ? answer_long(a, request, ids, n_id) : status;
}

static sl_status answer(asker *a, int i, const sl_question *question) {
  sl_evaluation *e = a->e;
  sl_plan *plans = NULL;
  int32_t *ids = NULL;
  int *n_id = NULL, n_plan = 0;
  sl_status status = make_plans(&plans, &n_plan, &question->layout, e->examples.items[i].image != NULL, e->n_layer);
  if (status == SL_OK) status = SL_ALLOC(ids, (size_t)n_plan * (size_t)e->max_token, "answers");
  if (status == SL_OK) status = SL_ALLOC(n_id, (size_t)n_plan, "answers");
  const sl_branch_request request = {.trunk = question->trunk, .plans = plans, .n_plan = n_plan,
                                     .batch_size = e->request->batch_size};
  if (status == SL_OK) status = answer_plans(a, &request, ids, n_id);
  if (status == SL_OK) status = keep_answers(e, i, ids, n_id, n_plan);
  for (int p = 0; plans && p < n_plan; p++) sl_plan_dispose(&plans[p]);
  free(plans);
  free(ids);
  free(n_id);
  return status;
}

static sl_status ask_one(asker *a, int i) {
  /* No answer: the branches make theirs. */
  static const sl_question_options options = {.size = sizeof options, .answer = ""};
  const sl_example *example = &a->e->examples.items[i];
  sl_question *question = NULL;
  char *prompt = NULL;
  if (!image_of(a, i)) SL_FAIL(SL_ERROR_ARGUMENT, "no question of the set has a picture");
  SL_TRY(open_scene(a, image_of(a, i)));
  sl_status status = a->e->benchmark->prompt(&prompt, example, a->e->style);
  if (status == SL_OK) status = sl_question_new(&question, a->scene, prompt, &options);
  if (status == SL_OK) status = answer(a, i, question);
  sl_question_free(question);
  free(prompt);
  return status;
}

/* A picture that is missing or a prompt that is too long is this example's own failure. */
static sl_status ask_and_record(asker *a, int i) {
  sl_evaluation *e = a->e;
  const sl_status status = ask_one(a, i);
  if (status == SL_OK) return e->journal ? sl_journal_add(e, i) : SL_OK;
  free(e->texts[i]);
  json_decref(e->layers[i]);
  e->texts[i] = NULL;
  e->layers[i] = NULL;
  if (status == SL_ERROR_CANCELLED || status == SL_ERROR_MEMORY) return status;
  return sl_eval_refuse(e, i, status);
}

static bool is_asked(const asker *a, int i) { return !a->e->texts[i] && !a->e->errors[i]; }

/* order [n]: examples that are still to be asked, those of one picture together, by first appearance. */
static sl_status group_by_image(const asker *a, int *order, int *n_order) {
  const int n = a->e->examples.n;
  json_t *first = json_object(); /* picture to the number of its group */
  int *group = NULL, *begin = NULL, n_group = 0;
  sl_status status = SL_ALLOC(group, (size_t)n, "order");
  if (status == SL_OK) status = SL_ALLOC(begin, (size_t)n + 1, "order");
  *n_order = 0;
  for (int i = 0; i < n && status == SL_OK; i++) {
    const char *image = image_of(a, i) ? image_of(a, i) : "";
    if (!is_asked(a, i)) continue;
    const json_t *known = json_object_get(first, image);
    if (!known) status = sl_metric_set(first, image, json_integer(n_group));
    group[i] = known ? (int)json_integer_value(known) : n_group++;
    begin[group[i] + 1]++;
    (*n_order)++;
  }
  for (int g = 0; g < n_group && status == SL_OK; g++) begin[g + 1] += begin[g];
  for (int i = 0; i < n && status == SL_OK; i++)
    if (is_asked(a, i)) order[begin[group[i]]++] = i;
  json_decref(first);
  free(group);
  free(begin);
  return status;
}

static sl_status ask_all(asker *a, const int *order, int n) {
  for (int k = 0; k < n; k++) {
    SL_TRY(sl_eval_progress(a->e, "asking", k, n));
    SL_TRY(ask_and_record(a, order[k]));
  }
  return n > 0 ? sl_eval_progress(a->e, "asking", n, n) : SL_OK;
}

sl_status sl_eval_ask(sl_evaluation *e) {
  asker a = {.e = e};
  int *order = NULL, n = 0;
  for (int i = 0; i < e->examples.n && !a.carrier; i++)
    if (!e->errors[i]) a.carrier = e->examples.items[i].image;
  SL_TRY(SL_ALLOC(order, (size_t)e->examples.n, "order"));
  sl_status status = group_by_image(&a, order, &n);
  if (status == SL_OK) status = ask_all(&a, order, n);
  sl_scene_close(a.scene);
  free(order);
  return status;
}
