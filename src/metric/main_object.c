/* Naming the main object, of COCO's instances_*.json (main_object_coco.c) or as JSON lines of our own:
 *
 *   {"id": "17", "image": "17.jpg", "label": "cat", "also": ["kitten"], "question": "What is the main object ...?"}
 *
 * "also" (other right answers) and "question" may be missing. An answer is right when it is the label, whatever its case
 * (rule word: the whole answer without marks, a leading article and plural; rule contains: anywhere in the answer, as
 * words of their own).
 *
 * The task is that of Kim et al., Interpreting Attention Heads for Image-to-Text Information Flow in LVLMs, 2025, who
 * ask for COCO's objects in one word; its data and code are not published, the rule is sightline's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metric/chair.h"
#include "metric/letters.h"
#include "metric/main_object.h"

static const char *const styles[] = {"plain", "word", NULL}, *const rules[] = {"word", "contains", NULL};

static sl_status check_also(const json_t *also) {
  const json_t *text;
  size_t i;
  if (also && !json_is_array(also)) SL_FAIL(SL_ERROR_FORMAT, "\"also\": expected an array of texts");
  json_array_foreach((json_t *)also, i, text)
    if (!json_is_string(text)) SL_FAIL(SL_ERROR_FORMAT, "\"also\": expected an array of texts");
  return SL_OK;
}

static sl_status take(void *user, json_t *row, int line) {
  const json_t *also = json_object_get(row, "also");
  const char *image = NULL, *label = NULL, *question = SL_MAIN_OBJECT_QUESTION;
  sl_example e = {0};
  SL_TRY(sl_row_text(row, "image", &image));
  SL_TRY(sl_row_check_path(image));
  SL_TRY(sl_row_text(row, "label", &label));
  if (!*label) SL_FAIL(SL_ERROR_FORMAT, "\"label\" is empty");
  if (json_object_get(row, "question")) SL_TRY(sl_row_text(row, "question", &question));
  SL_TRY(check_also(also));
  SL_TRY(sl_row_id(row, "id", &e.id));
  sl_status status = sl_strdup(&e.image, image);
  e.data = json_pack("{s:s, s:s, s:O?}", "question", question, "label", label, "also", also);
  if (!e.data) e.data = json_pack("{s:s, s:s}", "question", question, "label", label);
  if (status == SL_OK && !e.data) status = sl_fail(SL_ERROR_MEMORY, "no memory for a question");
  if (status == SL_OK) return sl_examples_add(user, &e, line);
  sl_example_dispose(&e);
  return status;
}

static bool is_coco(const char *path) {
  const char *base = strrchr(path, '/');
  return strncmp(base ? base + 1 : path, "instances_", 10) == 0;
}

/* The file itself, or the folder's JSON lines, or else its instances. */
static sl_status find_file(char **path, const sl_read_options *o) {
  char begin[64];
  if (!sl_metric_is_folder(o->path)) return sl_strdup(path, o->path);
  SL_TRY(sl_metric_find_file(path, o->path, "main_object", ".jsonl"));
  if (*path) return SL_OK;
  snprintf(begin, sizeof begin, "instances_%.40s", o->split ? o->split : "val");
  SL_TRY(sl_metric_find_file(path, o->path, begin, ".json"));
  if (*path) return SL_OK;
  SL_FAIL(SL_ERROR_FILE, "%s: no file main_object*.jsonl or %s*.json", o->path, begin);
}

static sl_status read_main_object(sl_examples *out, const sl_read_options *o, sl_rows *rows) {
  char *path = NULL;
  sl_status status = find_file(&path, o);
  if (status == SL_OK && is_coco(path)) {
    status = sl_main_object_read_coco(out, path, rows);
  } else if (status == SL_OK) {
    status = sl_examples_from(out, path);
    if (status == SL_OK) status = sl_rows_read_lines(path, rows, take, out);
  }
  free(path);
  return status;
}

static sl_status prompt(char **out, const sl_example *e, int style) {
  sl_text text = {0};
  const sl_status status = sl_text_format(&text, "%s%s", json_string_value(json_object_get(e->data, "question")),
                                          style == 1 ? "\nAnswer the question using a single word or phrase." : "");
  *out = text.data;
  return status;
}

/* Lower-case singular words between blanks, marks off, a leading article off: " fire hydrant ". */
static sl_status normalise(sl_text *out, const char *text) {
  char *lower = NULL;
  SL_TRY(sl_lower(&lower, text));
  sl_status status = sl_text_append(out, " ", 1);
  for (char *c = lower; *c; c++)
    if ((unsigned char)*c < 0x80 && !sl_is_word((unsigned char)*c) && *c != '\'' && *c != '-') *c = ' ';
  const char *at = lower;
  for (size_t n; status == SL_OK && (n = sl_next_word(&at)) > 0; at += n) {
    const bool article = (n == 1 && *at == 'a') || (n == 2 && !memcmp(at, "an", 2)) || (n == 3 && !memcmp(at, "the", 3));
    char *word = NULL, *single = NULL;
    if (article && out->length == 1) continue;
    status = SL_ALLOC(word, n + 1, "word");
    if (status == SL_OK) status = sl_singular(&single, memcpy(word, at, n));
    if (status == SL_OK) status = sl_text_format(out, "%s ", single);
    free(word);
    free(single);
  }
  free(lower);
  return status;
}

static sl_status matches(bool *right, const char *normal, const char *label, int rule) {
  sl_text own = {0};
  const sl_status status = normalise(&own, label);
  if (status == SL_OK && own.length > 1)
    *right = *right || (rule == 0 ? strcmp(normal, own.data) == 0 : strstr(normal, own.data) != NULL);
  sl_text_dispose(&own);
  return status;
}

static sl_status score(json_t *said, const sl_example *e, const char *prediction, int rule) {
  const json_t *also = json_object_get(e->data, "also"), *other;
  sl_text normal = {0};
  bool right = false;
  size_t i;
  sl_status status = normalise(&normal, prediction);
  if (status == SL_OK) status = matches(&right, normal.data, json_string_value(json_object_get(e->data, "label")), rule);
  json_array_foreach((json_t *)also, i, other)
    if (status == SL_OK) status = matches(&right, normal.data, json_string_value(other), rule);
  if (status == SL_OK) status = sl_metric_set(said, "score", json_real(right));
  if (status == SL_OK) status = sl_metric_set(said, "parsed", json_string(sl_strip(normal.data)));
  sl_text_dispose(&normal);
  return status;
}

static sl_status summarise(json_t *into, const json_t *const *said, int n) {
  return sl_metric_set(into, "accuracy", sl_metric_number(sl_metric_mean(said, n, "score")));
}

const sl_benchmark sl_main_object_benchmark = {.name = "main-object",
                                               .source = "Kim et al. 2025, rule of sightline",
                                               .styles = styles,
                                               .rules = rules,
                                               .max_token = 16,
                                               .headline = "accuracy",
                                               .read = read_main_object,
                                               .prompt = prompt,
                                               .score = score,
                                               .summarise = summarise};
