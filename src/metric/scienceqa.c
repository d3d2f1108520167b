/* ScienceQA: multiple choice, with or without a picture.
 *
 * Two published parsers of an answer, both of llava/eval/eval_science_qa.py:
 *   llava-ce1aa08  LLaVA's own (October 2023, unchanged in its last commit c121f04): the text is a letter; a letter before
 *                  ". "; else exactly one "The answer is X" and any character, X from A to Z
 *   llava-5200b75  of a contributor's branch (March 2024), never in LLaVA's main: line breaks become ". ", blanks around a
 *                  letter are dropped; a letter before ". "; else the first "The answer is X." and else the first "The
 *                  answer is X", X from A to E
 * A letter beyond the choices is wrong. All questions count, those without a prediction as wrong; "image" tells those
 * with a picture.
 *
 * Source: Lu et al., Learn to Explain, 2022 (problems.json, pid_splits.json); prompts of LLaVA
 * (scripts/convert_sqa_to_llava_base_prompt.py, format CQM, and llava/eval/model_vqa_science.py). */
#include <stdlib.h>
#include <string.h>

#include "metric/letters.h"
#include "metric/metric.h"

#define LETTERS "ABCDE"

static const char *const styles[] = {"llava", "lines", NULL};
static const char *const rules[] = {"llava-ce1aa08", "llava-5200b75", NULL};
enum { RULE_CE1AA08, RULE_5200B75 };

typedef struct reader {
  sl_examples *examples;
  const char *pid;
} reader;

/* The two files. */
typedef struct set {
  sl_examples *examples;
  sl_rows *rows;
  char *path, *splits_path;
  json_t *problems, *splits;
  json_t *lines; /* of the problems, by id */
} set;

static sl_status check_choices(const json_t *row, int64_t *answer) {
  const json_t *choices = json_object_get(row, "choices"), *choice;
  size_t i;
  const size_t n = json_array_size(choices);
  if (n < 1 || n > strlen(LETTERS)) SL_FAIL(SL_ERROR_FORMAT, "\"choices\": expected an array of 1 to 5 texts");
  json_array_foreach((json_t *)choices, i, choice)
    if (!json_is_string(choice)) SL_FAIL(SL_ERROR_FORMAT, "\"choices\": expected an array of 1 to 5 texts");
  SL_TRY(sl_row_int(row, "answer", answer));
  if (*answer < 0 || *answer >= (int64_t)n)
    SL_FAIL(SL_ERROR_FORMAT, "\"answer\": expected a choice from 0 to %zu, found %lld", n - 1, (long long)*answer);
  return SL_OK;
}

static sl_status take(void *user, json_t *row, int line) {
  const reader *r = user;
  const json_t *image = json_object_get(row, "image"), *hint = json_object_get(row, "hint");
  const char *question = NULL;
  int64_t answer = 0;
  sl_text path = {0};
  sl_example e = {0};
  SL_TRY(sl_row_text(row, "question", &question));
  SL_TRY(check_choices(row, &answer));
  if (image && !json_is_null(image)) {
    const char *name = NULL;
    SL_TRY(sl_row_text(row, "image", &name));
    SL_TRY(sl_row_check_path(name));
    SL_TRY(sl_row_check_path(r->pid));
    SL_TRY(sl_text_format(&path, "%s/%s", r->pid, name));
  }
  e.image = path.data;
  e.data = json_pack("{s:s, s:s, s:O, s:I, s:b}", "question", question, "hint",
                     json_is_string(hint) ? json_string_value(hint) : "", "choices", json_object_get(row, "choices"),
                     "answer", (json_int_t)answer, "image", path.data != NULL);
  sl_status status = e.data ? sl_strdup(&e.id, r->pid) : sl_fail(SL_ERROR_MEMORY, "no memory for a question");
  if (status == SL_OK) status = sl_strdup(&e.group, path.data ? "image" : "text only");
  if (status == SL_OK) return sl_examples_add(r->examples, &e, line);
  sl_example_dispose(&e);
  return status;
}

/* Lines [n] of the members of what stands at `key` of a file (NULL: its root). */
static sl_status find_lines(int **lines, const char *path, const char *key, size_t n) {
  char *bytes = NULL;
  size_t n_bytes = 0;
  SL_TRY(sl_file_read(path, SL_ROWS_MAX_BYTES, &bytes, &n_bytes));
  const sl_status status = SL_ALLOC(*lines, n, "line numbers");
  if (status == SL_OK) sl_rows_lines(bytes, n_bytes, key, *lines, (int)n);
  free(bytes);
  return status;
}

/* Line of each problem, by its place in the file. */
static sl_status index_lines(json_t **lines, const char *path, const json_t *problems) {
  size_t i = 0;
  int *found = NULL;
  const char *key;
  json_t *value;
  sl_status status = find_lines(&found, path, NULL, json_object_size(problems));
  *lines = json_object();
  json_object_foreach((json_t *)problems, key, value)
    if (status == SL_OK) status = sl_metric_set(*lines, key, json_integer(found[i++]));
  free(found);
  return status;
}

/* An id of pid_splits.json that no problem has. */
static sl_status refuse_pid(void *user, json_t *row, int line) {
  const json_t *pid = user;
  (void)row, (void)line;
  if (!json_is_string(pid)) SL_FAIL(SL_ERROR_FORMAT, "an id of a problem: expected a text");
  SL_FAIL(SL_ERROR_FORMAT, "problems.json has no problem \"%s\"", json_string_value(pid));
}

/* `line` is that of the id; of a problem it is its own. */
static sl_status take_pid(const set *s, json_t *pid, int line) {
  const char *text = json_string_value(pid);
  const bool whole = text && strlen(text) == json_string_length(pid);
  json_t *problem = whole ? json_object_get(s->problems, text) : NULL;
  if (!problem) return sl_rows_take(s->rows, s->splits_path, line, refuse_pid, pid, s->splits);
  return sl_rows_take(s->rows, s->path, (int)json_integer_value(json_object_get(s->lines, text)), take,
                      &(reader){s->examples, text}, problem);
}

static sl_status read_parts(set *s, const char *split) {
  const json_t *pids = json_object_get(s->splits, split);
  int *lines = NULL;
  if (!json_is_array(pids)) SL_FAIL(SL_ERROR_FORMAT, "%s: no split \"%s\"", s->splits_path, split);
  if (!json_is_object(s->problems)) SL_FAIL(SL_ERROR_FORMAT, "%s: expected an object of problems", s->path);
  SL_TRY(sl_examples_from(s->examples, s->path));
  sl_status status = index_lines(&s->lines, s->path, s->problems);
  if (status == SL_OK) status = find_lines(&lines, s->splits_path, split, json_array_size(pids));
  for (size_t i = 0; i < json_array_size(pids) && status == SL_OK; i++)
    status = take_pid(s, json_array_get(pids, i), lines[i]);
  free(lines);
  return status;
}

/* Where the pictures are: DIR/images/SPLIT, else DIR/SPLIT. Those of minitest and minival are among test's and val's. */
static sl_status find_images(sl_examples *out, const sl_read_options *o) {
  const char *split = o->split ? o->split : "test";
  if (strncmp(split, "mini", 4) == 0) split += 4;
  sl_text text = {0};
  SL_TRY(sl_text_format(&text, "%s/images/%s", o->path, split));
  if (!sl_metric_is_folder(text.data)) {
    text.length = 0;
    SL_TRY(sl_text_format(&text, "%s/%s", o->path, split));
  }
  out->image_dir = text.data;
  return SL_OK;
}

static sl_status read_scienceqa(sl_examples *out, const sl_read_options *o, sl_rows *rows) {
  set s = {.examples = out, .rows = rows};
  if (!sl_metric_is_folder(o->path))
    SL_FAIL(SL_ERROR_FILE, "%s: expected the folder of problems.json and pid_splits.json", o->path);
  sl_status status = sl_path_join(&s.path, o->path, "problems.json");
  if (status == SL_OK) status = sl_path_join(&s.splits_path, o->path, "pid_splits.json");
  if (status == SL_OK) status = sl_json_load(&s.problems, s.path, SL_ROWS_MAX_BYTES);
  if (status == SL_OK) status = sl_json_load(&s.splits, s.splits_path, SL_ROWS_MAX_BYTES);
  if (status == SL_OK) status = read_parts(&s, o->split ? o->split : "test");
  if (status == SL_OK) status = find_images(out, o);
  json_decref(s.problems);
  json_decref(s.splits);
  json_decref(s.lines);
  free(s.path);
  free(s.splits_path);
  return status;
}

/* ---- prompt ---- */

/* "(A) west (B) east" or one line each. */
static sl_status append_choices(sl_text *text, const json_t *choices, bool lines) {
  for (size_t i = 0; i < json_array_size(choices); i++) {
    const char *choice = json_string_value(json_array_get(choices, i));
    SL_TRY(sl_text_format(text, lines ? "\n%c. %s" : i ? " (%c) %s" : "(%c) %s", LETTERS[i], choice));
  }
  return SL_OK;
}

/* Two blanks to one, from left to right, as the official converter does once; and blanks at both ends off. */
static sl_status append_squeezed(sl_text *out, const char *text) {
  for (const char *c = text; *c; c += c[0] == ' ' && c[1] == ' ' ? 2 : 1) SL_TRY(sl_text_append(out, c, 1));
  if (!out->data) return SL_OK;
  char *inner = sl_strip(out->data);
  out->length = strlen(inner);
  memmove(out->data, inner, out->length + 1);
  return SL_OK;
}

static sl_status body(sl_text *raw, const sl_example *e, int style) {
  const char *question = json_string_value(json_object_get(e->data, "question"));
  const json_t *choices = json_object_get(e->data, "choices");
  char *copy = NULL;
  SL_TRY(sl_strdup(&copy, json_string_value(json_object_get(e->data, "hint"))));
  const char *hint = sl_strip(copy);
  sl_status status = SL_OK;
  if (style == 0)
    status = sl_text_format(raw, "Context: %s\nQuestion: %s\nOptions: ", *hint ? hint : "N/A", question);
  else
    status = sl_text_format(raw, "%s%s%s%s", *hint ? "Context: " : "", hint, *hint ? "\n" : "", question);
  free(copy);
  return status == SL_OK ? append_choices(raw, choices, style != 0) : status;
}

static sl_status prompt(char **out, const sl_example *e, int style) {
  sl_text raw = {0}, text = {0};
  sl_status status = body(&raw, e, style);
  if (status == SL_OK) status = append_squeezed(&text, raw.data);
  if (status == SL_OK)
    status = sl_text_append_string(&text, "\nAnswer with the option's letter from the given choices directly.");
  sl_text_dispose(&raw);
  *out = text.data;
  return status;
}

/* ---- score ---- */

static bool is_letter(char c) { return c != '\0' && strchr(LETTERS, c); }

/* The first "The answer is X" with X in A to E, followed by '.' where asked; '\0' when there is none. */
static char find_answer(const char *text, bool stop) {
  static const char lead[] = "The answer is ";
  for (const char *at = text; (at = strstr(at, lead)); at++) {
    const char *x = at + strlen(lead);
    if (is_letter(x[0]) && (!stop || x[1] == '.')) return x[0];
  }
  return '\0';
}

static sl_status parse_new(char *letter, const char *prediction) {
  sl_text text = {0};
  char *copy = NULL;
  sl_status status = sl_text_append(&text, "", 0);
  for (const char *c = prediction; *c && status == SL_OK; c++)
    status = *c == '\n' ? sl_text_append_string(&text, ". ") : sl_text_append(&text, c, 1);
  if (status == SL_OK) status = sl_strdup(&copy, text.data);
  if (status == SL_OK) {
    const char *inner = sl_strip(copy);
    if (is_letter(inner[0]) && !inner[1])
      *letter = inner[0];
    else if (is_letter(text.data[0]) && strncmp(text.data + 1, ". ", 2) == 0)
      *letter = text.data[0];
    else if ((*letter = find_answer(text.data, true)) == '\0')
      *letter = find_answer(text.data, false);
  }
  free(copy);
  sl_text_dispose(&text);
  return status;
}

static char parse_old(const char *text) {
  static const char lead[] = "The answer is ";
  char letter = '\0';
  int n = 0;
  if (is_letter(text[0]) && !text[1]) return text[0];
  if (is_letter(text[0]) && strncmp(text + 1, ". ", 2) == 0) return text[0];
  for (const char *at = text; (at = strstr(at, lead));) {
    const char *x = at + strlen(lead);
    const bool found = x[0] >= 'A' && x[0] <= 'Z' && x[1] != '\0' && x[1] != '\n';
    if (found) letter = x[0], n++;
    at = found ? x + 1 : at + 1; /* the character behind the letter may not begin the next one: it is no T */
    if (found && *at == 'T') at++;
  }
  return n == 1 ? letter : '\0';
}

static sl_status score(json_t *said, const sl_example *e, const char *prediction, int rule) {
  char letter = '\0';
  if (rule == RULE_5200B75)
    SL_TRY(parse_new(&letter, prediction));
  else
    letter = parse_old(prediction);
  const int n = (int)json_array_size(json_object_get(e->data, "choices"));
  const int index = letter >= 'A' && letter < 'A' + n ? letter - 'A' : -1;
  const bool right = index == json_integer_value(json_object_get(e->data, "answer"));
  SL_TRY(sl_metric_set(said, "score", json_real(right)));
  SL_TRY(sl_metric_set(said, "parsed", letter ? json_stringn(&letter, 1) : json_string("FAILED")));
  SL_TRY(sl_metric_set(said, "choice", json_integer(index)));
  return sl_metric_set(said, "parse_failed", json_boolean(!letter));
}

static sl_status summarise(json_t *into, const json_t *const *said, int n) {
  SL_TRY(sl_metric_set(into, "accuracy", sl_metric_number(sl_metric_mean(said, n, "score"))));
  return sl_metric_set(into, "parse_failed", json_integer((json_int_t)sl_metric_sum(said, n, "parse_failed")));
}

const sl_benchmark sl_scienceqa_benchmark = {.name = "scienceqa",
                                             .source = "Lu et al. 2022",
                                             .styles = styles,
                                             .rules = rules,
                                             .max_token = 128,
                                             .headline = "accuracy",
                                             .missing_is_wrong = true,
                                             .read = read_scienceqa,
                                             .prompt = prompt,
                                             .score = score,
                                             .summarise = summarise};
