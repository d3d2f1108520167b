/* The public face of prefixes, trunks and branches (model/branch.h): scenes, questions, plans, baselines.
 *
 * A question is a trunk over prompt and answer. A greedy answer is decoded as the branch of an empty plan, so that the
 * prefix is never run for a question but once for all of them. */
#include "task/scene_internal.h"

#include <stdlib.h>
#include <string.h>

#include "task/answer.h"

#define DEFAULT_MAX_TOKEN 64

/* ---- scenes ---- */

/* Everything a context needs but the prompt. */
static sl_analysis_context scene_context(const sl_scene *s) {
  static const sl_analysis_info info = {.name = "scene"};
  return (sl_analysis_context){.model = s->model,
                               .session = s->session,
                               .image = s->image,
                               .info = &info,
                               .log = s->log,
                               .user = s->user,
                               .cancel = s->cancel};
}

sl_status sl_scene_open(sl_scene **out, const sl_model *model, const char *image_path,
                        const sl_scene_options *options) {
  static const sl_scene_options none = {.size = sizeof none};
  const sl_scene_options *o = options ? options : &none;
  sl_scene *s = NULL;
  *out = NULL;
  if (o->size != sizeof *o)
    SL_FAIL(SL_ERROR_ARGUMENT, "sl_scene_options: expected size %zu, found %zu", sizeof *o, o->size);
  SL_TRY(SL_ALLOC(s, 1, "scene"));
  *s = (sl_scene){.model = model, .keep_rows = o->edit_image, .log = o->log, .user = o->user, .cancel = o->cancel};
  sl_status status = sl_session_new(&s->session, model, o->n_thread);
  if (status == SL_OK) {
    if (o->cancel) sl_session_set_cancel(s->session, &o->cancel->requested);
    if (o->branch_bytes > 0) sl_session_set_branch_limit(s->session, o->branch_bytes);
    sl_analysis_context context = scene_context(s);
    status = sl_strdup(&s->image_path, image_path);
    /* A Q-Former's image tokens are made for each question. */
    if (status == SL_OK) status = sl_context_encode_file(&context, image_path, NULL, &s->pack, &s->image);
  }
  if (status == SL_OK)
    *out = s;
  else
    sl_scene_close(s);
  return status;
}

static void prefix_free(sl_shared_prefix *p) {
  if (!p) return;
  sl_prefix_free(p->prefix);
  free(p->question);
  free(p);
}

void sl_scene_close(sl_scene *s) {
  if (!s) return;
  for (int i = 0; i < s->n_prefix; i++) prefix_free(s->prefixes[i]);
  free(s->prefixes);
  sl_image_free(s->image);
  sl_pack_dispose(&s->pack);
  free(s->image_path);
  sl_session_free(s->session);
  free(s);
}

/* The scene's image, or the one made for this question. */
static sl_status image_for(sl_image **fresh, sl_scene *s, const char *question) {
  sl_analysis_context context = scene_context(s);
  *fresh = NULL;
  return question ? sl_context_encode_file(&context, s->image_path, question, NULL, fresh) : SL_OK;
}

static sl_status prefix_new(sl_shared_prefix **out, sl_scene *s, const sl_layout *layout, const char *question) {
  sl_shared_prefix *p = NULL;
  sl_image *fresh = NULL;
  SL_TRY(SL_ALLOC(p, 1, "prefix"));
  sl_status status = image_for(&fresh, s, question);
  if (status == SL_OK && question) status = sl_strdup(&p->question, question);
  if (status == SL_OK)
    status = sl_prefix_new(&p->prefix, s->session, layout, fresh ? fresh : s->image, s->keep_rows, NULL);
  sl_image_free(fresh);
  if (status == SL_OK)
    *out = p;
  else
    prefix_free(p);
  return status;
}

/* Prefixes that no question uses any more: templates that put the question before the picture make one each. */
static void drop_unused(sl_scene *s) {
  int n = 0;
  for (int i = 0; i < s->n_prefix; i++) {
    if (s->prefixes[i]->n_user > 0)
      s->prefixes[n++] = s->prefixes[i];
    else
      prefix_free(s->prefixes[i]);
  }
  s->n_prefix = n;
}

/* The prefix of these tokens: one that is there, or a new one. `question` is NULL where the image tokens do not depend on
 * it. */
static sl_status find_prefix(sl_shared_prefix **out, sl_scene *s, const sl_layout *layout, const char *question) {
  for (int i = 0; i < s->n_prefix; i++) {
    sl_shared_prefix *p = s->prefixes[i];
    if (!sl_prefix_serves(p->prefix, layout)) continue;
    if (question && strcmp(p->question, question) != 0) continue;
    *out = p;
    return SL_OK;
  }
  drop_unused(s);
  SL_TRY(SL_REALLOC(s->prefixes, (size_t)s->n_prefix + 1, "prefixes"));
  SL_TRY(prefix_new(out, s, layout, question));
  s->prefixes[s->n_prefix++] = *out;
  return SL_OK;
}

/* ---- questions ---- */

/* The greedy answer is appended to the layout. */
static sl_status answer_greedily(sl_question *q, int max_token) {
  static const sl_plan unmodified = {0};
  sl_trunk *prompt = NULL;
  int32_t *ids = NULL;
  int n_id = 0;
  SL_TRY(SL_ALLOC(ids, (size_t)max_token, "answer"));
  sl_status status = sl_trunk_new(&prompt, q->scene->session, q->prefix->prefix, &q->layout, NULL);
  const sl_branch_request request = {.trunk = prompt, .plans = &unmodified, .n_plan = 1};
  if (status == SL_OK) status = sl_branches_greedy(q->scene->session, &request, max_token, ids, &n_id);
  if (status == SL_OK && n_id > 0) status = sl_layout_append(&q->layout, q->scene->model, ids, n_id);
  sl_trunk_free(prompt);
  free(ids);
  return status;
}

static sl_status fill_question(sl_question *q, const char *text, const sl_question_options *o) {
  const sl_model *model = q->scene->model;
  sl_shared_prefix *prefix = NULL;
  SL_TRY(sl_layout_build(&q->layout, model, &q->scene->pack, text, o->raw_prompt));
  SL_TRY(find_prefix(&prefix, q->scene, &q->layout, sl_model_reads_question(model) ? text : NULL));
  prefix->n_user++;
  q->prefix = prefix;
  if (o->answer && o->answer[0])
    SL_TRY(sl_layout_append_text(&q->layout, model, o->answer));
  else if (!o->answer)
    SL_TRY(answer_greedily(q, o->max_token > 0 ? o->max_token : DEFAULT_MAX_TOKEN));
  SL_TRY(sl_trunk_new(&q->trunk, q->scene->session, prefix->prefix, &q->layout, NULL));
  const int n = q->layout.n_prompt;
  return sl_question_decode(q, q->layout.ids + n, q->layout.n_token - n, &q->answer);
}

sl_status sl_question_new(sl_question **out, sl_scene *scene, const char *text, const sl_question_options *options) {
  static const sl_question_options none = {.size = sizeof none};
  const sl_question_options *o = options ? options : &none;
  sl_question *q = NULL;
  *out = NULL;
  if (o->size != sizeof *o)
    SL_FAIL(SL_ERROR_ARGUMENT, "sl_question_options: expected size %zu, found %zu", sizeof *o, o->size);
  if (o->max_token < 0) SL_FAIL(SL_ERROR_ARGUMENT, "max_token: expected at least 1, found %d", o->max_token);
  SL_TRY(SL_ALLOC(q, 1, "question"));
  q->scene = scene;
  const sl_status status = fill_question(q, text, o);
  if (status == SL_OK)
    *out = q;
  else
    sl_question_free(q);
  return status;
}

void sl_question_free(sl_question *q) {
  if (!q) return;
  sl_trunk_free(q->trunk);
  if (q->prefix) q->prefix->n_user--;
  sl_layout_dispose(&q->layout);
  free(q->answer);
  free(q);
}

sl_status sl_question_get_info(const sl_question *q, sl_question_info *info) {
  if (info->size != sizeof *info)
    SL_FAIL(SL_ERROR_ARGUMENT, "sl_question_info: expected size %zu, found %zu", sizeof *info, info->size);
  const sl_model_shape *shape = sl_model_get_shape(q->scene->model);
  const sl_layout *l = &q->layout;
  *info = (sl_question_info){.size = sizeof *info,
                             .n_token = l->n_token,
                             .n_prompt = l->n_prompt,
                             .first_image = l->first_image,
                             .n_image = l->n_image,
                             .first_row = l->first_image + l->n_image,
                             .n_sharing = q->prefix->n_user,
                             .n_layer = shape->decoder.n_layer,
                             .n_head = shape->decoder.n_head,
                             .n_head_kv = shape->decoder.n_head_kv,
                             .n_vocab = shape->n_vocab,
                             .ids = l->ids,
                             .answer = q->answer};
  return SL_OK;
}

const char *sl_question_class(const sl_question *q, int position) {
  if (position < 0 || position >= q->layout.n_token) return NULL;
  return sl_class_name((sl_token_class)q->layout.classes[position]);
}

sl_status sl_question_check_rows(const sl_question *q, const int *rows, int n_row) {
  const int first = q->layout.first_image + q->layout.n_image;
  for (int i = 0; i < n_row; i++) {
    if (rows[i] < first || rows[i] >= q->layout.n_token)
      SL_FAIL(SL_ERROR_ARGUMENT, "row %d; this question has rows %d to %d", rows[i], first, q->layout.n_token - 1);
    if (i > 0 && rows[i] <= rows[i - 1])
      SL_FAIL(SL_ERROR_ARGUMENT, "rows: expected ascending ones, found %d after %d", rows[i], rows[i - 1]);
  }
  return SL_OK;
}

sl_status sl_question_logits(const sl_question *q, const int *rows, int n_row, float *logits) {
  SL_TRY(sl_question_check_rows(q, rows, n_row));
  return n_row > 0 ? sl_trunk_logits(q->scene->session, q->trunk, rows, n_row, logits) : SL_OK;
}

sl_status sl_question_decode(const sl_question *q, const int32_t *ids, int n_id, char **text) {
  const int n_vocab = sl_model_get_shape(q->scene->model)->n_vocab;
  *text = NULL;
  for (int i = 0; i < n_id; i++)
    if (ids[i] < 0 || ids[i] >= n_vocab)
      SL_FAIL(SL_ERROR_ARGUMENT, "token %d; the vocabulary has 0 to %d", ids[i], n_vocab - 1);
  return sl_answer_decode(text, q->scene->model, ids, n_id);
}

/* ---- plans ---- */

sl_status sl_plan_parse(sl_plan **out, const char *json, size_t n_bytes) {
  json_t *root = NULL;
  sl_plan *plan = NULL;
  *out = NULL;
  SL_TRY(sl_json_parse(&root, json, n_bytes, "plan"));
  sl_status status = SL_ALLOC(plan, 1, "plan");
  if (status == SL_OK) status = sl_plan_from_json(plan, root, "plan");
  json_decref(root);
  if (status == SL_OK)
    *out = plan;
  else
    free(plan);
  return status;
}

sl_status sl_plan_print(const sl_plan *plan, char **json) {
  json_t *root = NULL;
  *json = NULL;
  SL_TRY(sl_plan_to_json(plan, &root));
  const sl_status status = sl_json_print(root, 0, json);
  json_decref(root);
  return status;
}

void sl_plan_free(sl_plan *plan) {
  if (!plan) return;
  sl_plan_dispose(plan);
  free(plan);
}

sl_status sl_question_check_plan(const sl_question *q, const sl_plan *plan, int n_baseline, int n_run) {
  const sl_plan_limits limits = sl_trunk_limits(q->trunk, n_baseline, n_run);
  return sl_plan_check(plan, &limits, "plan");
}

/* ---- baselines ---- */

sl_status sl_scene_baseline_new(sl_scene_baseline **out, const sl_question *q, const char *spec) {
  sl_analysis_context context = scene_context(q->scene);
  sl_shared shared = {.prefix = q->prefix->prefix, .trunk = q->trunk}; /* borrowed: not disposed of */
  sl_scene_baseline *b = NULL;
  *out = NULL;
  SL_TRY(SL_ALLOC(b, 1, "baseline"));
  context.layout = &q->layout;
  context.question = q->prefix->question;
  context.shared = &shared;
  context.warnings = json_array();
  const sl_status status = context.warnings ? sl_baseline_from_spec(&b->standin, &context, spec, "baseline")
                                            : sl_fail(SL_ERROR_MEMORY, "no memory for a baseline");
  json_decref(context.warnings);
  if (status == SL_OK)
    *out = b;
  else
    sl_scene_baseline_free(b);
  return status;
}

void sl_scene_baseline_free(sl_scene_baseline *baseline) {
  if (!baseline) return;
  sl_standin_dispose(&baseline->standin);
  free(baseline);
}
