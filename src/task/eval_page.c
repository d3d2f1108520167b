/* The page of an evaluation: metrics.json, and beside it the answers that lost points. */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "report/page.h"
#include "report/payload.h"
#include "report/section.h"
#include "task/eval_internal.h"

#define MOST_ANSWERS 200

/* First hidden layer from which on the answer is that of the whole model; null without truncations. */
static json_t *complete_from(const sl_evaluation *e, int i) {
  int k = e->n_layer;
  if (!e->layers[i]) return json_null();
  while (k > 0 && strcmp(json_string_value(json_array_get(e->layers[i], (size_t)k - 1)), e->texts[i]) == 0) k--;
  return json_integer(k);
}

static sl_status add_answer(json_t *list, const sl_evaluation *e, int i, const json_t *said) {
  const sl_example *x = &e->examples.items[i];
  char *prompt = NULL;
  SL_TRY(e->benchmark->prompt(&prompt, x, e->style));
  json_t *row = json_pack("{s:s, s:s?, s:s, s:s, s:O, s:O, s:o}", "id", x->id, "image", x->image, "prompt", prompt, "text",
                          e->texts[i], "judged", said, "truth", x->data, "complete_from", complete_from(e, i));
  free(prompt);
  if (json_array_append_new(list, row) != 0) SL_FAIL(SL_ERROR_MEMORY, "no memory for an answer");
  return SL_OK;
}

/* "answers": the first of those that did not get the best score. */
static sl_status add_answers(json_t *root, const sl_evaluation *e, json_t *const *said) {
  const double best = e->benchmark->lower_is_better ? 0 : 1;
  json_t *list = json_array();
  int n_lost = 0;
  SL_TRY(sl_metric_set(root, "answers", list));
  for (int i = 0; i < e->examples.n; i++) {
    if (!said[i] || !e->texts[i] || sl_eval_value(e, said[i]) >= best) continue;
    if (++n_lost <= MOST_ANSWERS) SL_TRY(add_answer(list, e, i, said[i]));
  }
  return sl_metric_set(root, "answers_lost", json_integer(n_lost));
}

static sl_status write_page(const sl_evaluation *e, const json_t *root, const char *path) {
  sl_text title = {0}, data = {0};
  const char **views = NULL;
  sl_status status = SL_ALLOC(views, (size_t)sl_eval_section_count, "sections");
  for (int i = 0; i < sl_eval_section_count && status == SL_OK; i++) views[i] = sl_eval_sections[i].script;
  if (status == SL_OK) status = sl_text_format(&title, "%s, %d questions", e->benchmark->name, e->examples.n);
  if (status == SL_OK) status = sl_payload_append_root(&data, root, NULL, 0, sl_eval_sections, sl_eval_section_count);
  const sl_page page = {.title = title.data, .data = &data, .views = views, .n_view = sl_eval_section_count};
  if (status == SL_OK) status = sl_page_write(path, &page);
  sl_text_dispose(&title);
  sl_text_dispose(&data);
  free(views);
  return status;
}

sl_status sl_eval_page(const sl_evaluation *e, json_t *const *said, const json_t *summary) {
  json_t *root = json_copy((json_t *)summary); /* shallow */
  char *path = NULL;
  sl_status status = root ? add_answers(root, e, said) : sl_fail(SL_ERROR_MEMORY, "no memory for the page");
  if (status == SL_OK) status = sl_metric_set(root, "analyses", json_object());
  if (status == SL_OK) status = sl_path_join(&path, e->request->out_dir, "report.html");
  if (status == SL_OK) status = write_page(e, root, path);
  free(path);
  json_decref(root);
  return status;
}
