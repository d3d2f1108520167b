/* POPE: is there a ... in the image? Balanced questions, split by how the absent objects were drawn.
 *
 *   llava  the first sentence (up to "."), without commas, cut at blanks: "no" when a word is No, not or no, else yes
 *   opera  all of it, without "." and ",": also NO, and words that end in n't
 *
 *   precision = TP / (TP + FP), recall = TP / (TP + FN) of "yes", F1 = 2 p r / (p + r)
 *
 * Source: Li et al., Evaluating Object Hallucination in Large Vision-Language Models, 2023 (files
 * coco_pope_*.json and evaluate.py of github.com/AoiDragon/POPE); rule and file llava_pope_test.jsonl of LLaVA
 * (llava/eval/eval_pope.py, commit 4241f08); Huang et al., OPERA, 2024 (pope_eval.py). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metric/letters.h"
#include "metric/metric.h"

static const char *const styles[] = {"llava", "plain", NULL}, *const rules[] = {"llava", "opera", NULL};
static const char *const splits[] = {"random", "popular", "adversarial"};
#define N_SPLIT ((int)(sizeof splits / sizeof *splits))

typedef struct reader {
  sl_examples *examples;
  const char *split;
  int first; /* index of the split's first example */
} reader;

static sl_status take(void *user, json_t *row, int line) {
  const reader *r = user;
  const char *image = NULL, *text = NULL, *label = NULL;
  char *id = NULL;
  sl_text name = {0};
  sl_example e = {0};
  SL_TRY(sl_row_text(row, "image", &image));
  SL_TRY(sl_row_text(row, "text", &text));
  SL_TRY(sl_row_text(row, "label", &label));
  SL_TRY(sl_row_check_path(image));
  if (strcmp(label, "yes") != 0 && strcmp(label, "no") != 0)
    SL_FAIL(SL_ERROR_FORMAT, "\"label\": expected yes or no, found \"%s\"", label);
  SL_TRY(sl_row_id(row, "question_id", &id));
  sl_status status = sl_text_format(&name, "%s/%s", r->split, id);
  if (status == SL_OK) status = sl_strdup(&e.image, image);
  if (status == SL_OK) status = sl_strdup(&e.group, r->split);
  e.id = name.data;
  e.data = json_pack("{s:s, s:s}", "text", text, "label", label);
  if (status == SL_OK && !e.data) status = sl_fail(SL_ERROR_MEMORY, "no memory for a question");
  if (status == SL_OK)
    status = sl_examples_add(r->examples, &e, line);
  else
    sl_example_dispose(&e);
  if (status == SL_OK) status = sl_examples_alias(r->examples, r->examples->n - 1, id);
  free(id);
  return status;
}

static sl_status read_split(sl_examples *out, const char *path, const char *split, sl_rows *rows) {
  SL_TRY(sl_examples_from(out, path));
  return sl_rows_read_lines(path, rows, take, &(reader){.examples = out, .split = split});
}

/* coco_pope_random.json -> random */
static const char *split_of(const char *path) {
  const char *base = strrchr(path, '/');
  for (int i = 0; i < N_SPLIT; i++)
    if (strstr(base ? base : path, splits[i])) return splits[i];
  return "all";
}

/* LLaVA's question file numbers the questions of all splits through; the i-th of a category is the i-th line of that
 * split's file, which is also how its script finds the labels. */
typedef struct numbering {
  sl_examples *examples;
  int n_seen[N_SPLIT]; /* lines of each category so far */
  int next[N_SPLIT];   /* index of the first example that may be the next one */
} numbering;

static int find_split(const char *name) {
  for (int s = 0; s < N_SPLIT; s++)
    if (strcmp(name, splits[s]) == 0) return s;
  return -1;
}

/* The example of split s on this line; -1 when none was read from there: a bad row, or a split that was not asked for. */
static int find_line(numbering *n, int s, int line) {
  const sl_examples *e = n->examples;
  int i = n->next[s];
  while (i < e->n && (strcmp(e->items[i].group, splits[s]) != 0 || e->items[i].line < line)) i++;
  n->next[s] = i;
  return i < e->n && e->items[i].line == line ? i : -1;
}

static sl_status take_number(void *user, json_t *row, int line) {
  numbering *n = user;
  const char *category = NULL, *image = NULL;
  char *id = NULL;
  (void)line;
  SL_TRY(sl_row_text(row, "category", &category));
  const int s = find_split(category);
  if (s < 0) SL_FAIL(SL_ERROR_FORMAT, "\"category\": no split \"%s\"", category);
  const int i = find_line(n, s, ++n->n_seen[s]);
  if (i >= 0 && json_object_get(row, "image")) {
    SL_TRY(sl_row_text(row, "image", &image));
    if (strcmp(image, n->examples->items[i].image) != 0)
      SL_FAIL(SL_ERROR_FORMAT, "\"image\": question %d of \"%s\" is about %s, not %s", n->n_seen[s], category,
              n->examples->items[i].image, image);
  }
  SL_TRY(sl_row_id(row, "question_id", &id));
  const sl_status status = sl_metric_set(n->examples->ids, id, json_integer(i >= 0 ? i : SL_EXAMPLE_NOT_ASKED));
  free(id);
  return status;
}

/* The file lies beside the splits, or, as LLaVA has it, above their folder. */
static sl_status read_numbers(sl_examples *out, const char *dir, sl_rows *rows) {
  char *path = NULL, *above = NULL;
  SL_TRY(sl_path_join(&above, dir, ".."));
  sl_status status = sl_metric_find_file(&path, dir, "llava_pope_test", ".jsonl");
  if (status == SL_OK && !path) status = sl_metric_find_file(&path, above, "llava_pope_test", ".jsonl");
  numbering n = {.examples = out};
  if (status == SL_OK && path) status = sl_rows_read_lines(path, rows, take_number, &n);
  free(path);
  free(above);
  return status;
}

static sl_status read_folder(sl_examples *out, const sl_read_options *o, sl_rows *rows) {
  if (o->split && find_split(o->split) < 0)
    SL_FAIL(SL_ERROR_ARGUMENT, "no split \"%s\" of POPE; there are: random, popular, adversarial", o->split);
  for (int i = 0; i < N_SPLIT; i++) {
    char *path = NULL, end[32];
    if (o->split && strcmp(o->split, splits[i]) != 0) continue;
    snprintf(end, sizeof end, "pope_%s.json", splits[i]);
    sl_status status = sl_metric_find_file(&path, o->path, "", end);
    if (status == SL_OK && path) status = read_split(out, path, splits[i], rows);
    free(path);
    SL_TRY(status);
  }
  if (out->n == 0 && rows->n_bad == 0)
    SL_FAIL(SL_ERROR_FILE, "%s: no file *_pope_random.json, *_pope_popular.json or *_pope_adversarial.json", o->path);
  return read_numbers(out, o->path, rows);
}

static sl_status read_pope(sl_examples *out, const sl_read_options *o, sl_rows *rows) {
  if (sl_metric_is_folder(o->path)) return read_folder(out, o, rows);
  const char *split = split_of(o->path);
  if (o->split && strcmp(o->split, split) != 0)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s is of split \"%s\", not \"%s\"", o->path, split, o->split);
  return read_split(out, o->path, split, rows);
}

/* POPE's own answers have no ids, {"question", "answer"}: the n-th line answers the n-th line of its split. That it is
 * the same question is checked where the line tells it. */
static sl_status match(int *index, const sl_examples *examples, const json_t *row, int n_before, char *const *texts,
                       json_t *notes) {
  const char *asked = json_string_value(json_object_get(row, "question"));
  char *said = NULL, *own = NULL;
  (void)texts;
  (void)notes;
  *index = -1;
  if (json_object_get(row, "question_id")) return SL_OK;
  if (examples->n_file != 1)
    SL_FAIL(SL_ERROR_FORMAT, "\"question_id\" is missing: answers in order go with one split, by --split or its file");
  int i = 0;
  while (i < examples->n && examples->items[i].line <= n_before) i++;
  if (i == examples->n) SL_FAIL(SL_ERROR_FORMAT, "there are only %d questions", examples->n);
  *index = examples->items[i].line == n_before + 1 ? i : SL_EXAMPLE_NOT_ASKED;
  if (!asked || *index < 0) return SL_OK;
  const char *text = json_string_value(json_object_get(examples->items[i].data, "text"));
  sl_status status = sl_lower(&said, asked);
  if (status == SL_OK) status = sl_lower(&own, text);
  if (status == SL_OK && !strstr(said, own))
    status = sl_fail(SL_ERROR_FORMAT, "\"question\": expected \"%s\" in this place, found \"%s\"", text, asked);
  free(said);
  free(own);
  return status;
}

static sl_status prompt(char **out, const sl_example *e, int style) {
  sl_text text = {0};
  const sl_status status = sl_text_format(&text, "%s%s", json_string_value(json_object_get(e->data, "text")),
                                          style == 0 ? "\nAnswer the question using a single word or phrase." : "");
  *out = text.data;
  return status;
}

static bool is_no(const char *word, size_t length, bool opera) {
  static const char *const words[] = {"No", "not", "no", "NO"};
  for (size_t i = 0; i < 3 + (size_t)opera; i++)
    if (length == strlen(words[i]) && memcmp(word, words[i], length) == 0) return true;
  return opera && length >= 3 && memcmp(word + length - 3, "n't", 3) == 0;
}

/* Whether the prediction says no. */
static sl_status says_no(bool *no, const char *prediction, bool opera) {
  char *kept = NULL;
  size_t n = 0;
  SL_TRY(sl_strdup(&kept, prediction));
  for (const char *c = prediction; *c && (opera || *c != '.'); c++)
    if (*c != ',' && *c != '.') kept[n++] = *c;
  *no = false;
  for (size_t at = 0, end; at <= n; at = end + 1) {
    for (end = at; end < n && kept[end] != ' ';) end++;
    *no = *no || is_no(kept + at, end - at, opera);
  }
  free(kept);
  return SL_OK;
}

static sl_status score(json_t *said, const sl_example *e, const char *prediction, int rule) {
  bool no;
  SL_TRY(says_no(&no, prediction, rule == 1));
  const bool truth = strcmp(json_string_value(json_object_get(e->data, "label")), "yes") == 0;
  SL_TRY(sl_metric_set(said, "score", json_real(truth != no)));
  SL_TRY(sl_metric_set(said, "parsed", json_string(no ? "no" : "yes")));
  SL_TRY(sl_metric_set(said, "says_yes", json_boolean(!no)));
  SL_TRY(sl_metric_set(said, "is_yes", json_boolean(truth)));
  return sl_metric_set(said, "both_yes", json_boolean(truth && !no));
}

static sl_status summarise(json_t *into, const json_t *const *said, int n) {
  const double says = sl_metric_sum(said, n, "says_yes"), is = sl_metric_sum(said, n, "is_yes");
  const double both = sl_metric_sum(said, n, "both_yes"), precision = both / says, recall = both / is;
  SL_TRY(sl_metric_set(into, "accuracy", sl_metric_number(sl_metric_mean(said, n, "score"))));
  SL_TRY(sl_metric_set(into, "precision", sl_metric_number(precision)));
  SL_TRY(sl_metric_set(into, "recall", sl_metric_number(recall)));
  SL_TRY(sl_metric_set(into, "f1", sl_metric_number(2 * precision * recall / (precision + recall))));
  return sl_metric_set(into, "yes_ratio", sl_metric_number(says / n));
}

const sl_benchmark sl_pope_benchmark = {.name = "pope",
                                        .source = "Li et al. 2023",
                                        .styles = styles,
                                        .rules = rules,
                                        .max_token = 128,
                                        .headline = "accuracy",
                                        .read = read_pope,
                                        .prompt = prompt,
                                        .score = score,
                                        .summarise = summarise,
                                        .match = match};
