/* TextVQA: questions that need reading. An answer is normalised, then compared with ten people's:
 *
 *   score(a) = mean over i of min(1, |{j != i: answer_j = a}| / 3)      0, 0.3, 0.6, 0.9 or 1
 *
 * Normalising: lower case; without "," and "?", "'s" stands apart; then each punctuation mark goes away where a blank
 * stands beside one of its kind, and becomes a blank elsewhere; a "." that no digit follows goes away (the first 32: the
 * published code hands a flag over as the count); number words to ten become digits, articles go away, contractions
 * get their apostrophes.
 *
 * Source: Singh et al., Towards VQA Models That Can Read, 2019 (TextVQA_0.5.1_val.json); the evaluator of M4C in
 * facebookresearch/mmf as LLaVA has it (llava/eval/m4c_evaluator.py, commit c121f04), after Antol et al., VQA, 2015;
 * question files with OCR tokens (llava_textvqa_val_v051_ocr.jsonl) of LLaVA. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metric/letters.h"
#include "metric/metric.h"

#define N_ANSWER 10
#define MOST_PERIODS 32

static const char *const styles[] = {"llava", "ocr", "plain", NULL}, *const rules[] = {"m4c", NULL};
enum { STYLE_LLAVA, STYLE_OCR, STYLE_PLAIN };

/* ---- normalising ---- */

static const struct {
  const char *from, *to;
} contractions[] = {
    {"aint", "ain't"}, {"arent", "aren't"}, {"cant", "can't"}, {"couldve", "could've"}, {"couldnt", "couldn't"},
    {"couldn'tve", "couldn't've"}, {"couldnt've", "couldn't've"}, {"didnt", "didn't"}, {"doesnt", "doesn't"},
    {"dont", "don't"}, {"hadnt", "hadn't"}, {"hadnt've", "hadn't've"}, {"hadn'tve", "hadn't've"}, {"hasnt", "hasn't"},
    {"havent", "haven't"}, {"hed", "he'd"}, {"hed've", "he'd've"}, {"he'dve", "he'd've"}, {"hes", "he's"},
    {"howd", "how'd"}, {"howll", "how'll"}, {"hows", "how's"}, {"isnt", "isn't"}, {"itd", "it'd"},
    {"itd've", "it'd've"}, {"it'dve", "it'd've"}, {"itll", "it'll"}, {"maam", "ma'am"}, {"mightnt", "mightn't"},
    {"mightnt've", "mightn't've"}, {"mightn'tve", "mightn't've"}, {"mightve", "might've"}, {"mustnt", "mustn't"},
    {"mustve", "must've"}, {"neednt", "needn't"}, {"notve", "not've"}, {"oclock", "o'clock"}, {"oughtnt", "oughtn't"},
    {"ow's'at", "'ow's'at"}, {"'ows'at", "'ow's'at"}, {"'ow'sat", "'ow's'at"}, {"shant", "shan't"},
    {"shed've", "she'd've"}, {"she'dve", "she'd've"}, {"shouldve", "should've"}, {"shouldnt", "shouldn't"},
    {"shouldnt've", "shouldn't've"}, {"shouldn'tve", "shouldn't've"}, {"somebody'd", "somebodyd"},
    {"somebodyd've", "somebody'd've"}, {"somebody'dve", "somebody'd've"}, {"somebodyll", "somebody'll"},
    {"somebodys", "somebody's"}, {"someoned", "someone'd"}, {"someoned've", "someone'd've"},
    {"someone'dve", "someone'd've"}, {"someonell", "someone'll"}, {"someones", "someone's"},
    {"somethingd", "something'd"}, {"somethingd've", "something'd've"}, {"something'dve", "something'd've"},
    {"somethingll", "something'll"}, {"thats", "that's"}, {"thered", "there'd"}, {"thered've", "there'd've"},
    {"there'dve", "there'd've"}, {"therere", "there're"}, {"theres", "there's"}, {"theyd", "they'd"},
    {"theyd've", "they'd've"}, {"they'dve", "they'd've"}, {"theyll", "they'll"}, {"theyre", "they're"},
    {"theyve", "they've"}, {"twas", "'twas"}, {"wasnt", "wasn't"}, {"wed've", "we'd've"}, {"we'dve", "we'd've"},
    {"weve", "we've"}, {"werent", "weren't"}, {"whatll", "what'll"}, {"whatre", "what're"}, {"whats", "what's"},
    {"whatve", "what've"}, {"whens", "when's"}, {"whered", "where'd"}, {"wheres", "where's"}, {"whereve", "where've"},
    {"whod", "who'd"}, {"whod've", "who'd've"}, {"who'dve", "who'd've"}, {"wholl", "who'll"}, {"whos", "who's"},
    {"whove", "who've"}, {"whyll", "why'll"}, {"whyre", "why're"}, {"whys", "why's"}, {"wont", "won't"},
    {"wouldve", "would've"}, {"wouldnt", "wouldn't"}, {"wouldnt've", "wouldn't've"}, {"wouldn'tve", "wouldn't've"},
    {"yall", "y'all"}, {"yall'll", "y'all'll"}, {"y'allll", "y'all'll"}, {"yall'd've", "y'all'd've"},
    {"y'alld've", "y'all'd've"}, {"y'all'dve", "y'all'd've"}, {"youd", "you'd"}, {"youd've", "you'd've"},
    {"you'dve", "you'd've"}, {"youll", "you'll"}, {"youre", "you're"}, {"youve", "you've"},
};
static const char *const numbers[] = {"zero", "one", "two", "three", "four", "five",
                                      "six",  "seven", "eight", "nine", "ten"};
static const char marks[] = ";/[]\"{}()=+\\_-><@`,?!";

static bool is(const char *word, size_t n, const char *other) { return strlen(other) == n && !memcmp(word, other, n); }

/* Lower case, commas and question marks off, "'s" apart, blanks for line breaks and tabs. */
static sl_status clean(char **out, const char *text) {
  sl_text kept = {0};
  char *lower = NULL;
  SL_TRY(sl_lower(&lower, text));
  sl_status status = sl_text_append(&kept, "", 0);
  for (const char *c = lower; *c && status == SL_OK; c++) {
    if (*c == ',' || *c == '?') continue;
    status = sl_text_append(&kept, c, 1);
  }
  free(lower);
  sl_text apart = {0};
  if (status == SL_OK) status = sl_text_append(&apart, "", 0);
  for (const char *c = kept.data; c && *c && status == SL_OK; c++)
    status = c[0] == '\'' && c[1] == 's' ? sl_text_append(&apart, " '", 2) : sl_text_append(&apart, c, 1);
  sl_text_dispose(&kept);
  if (status == SL_OK) {
    char *inner = sl_strip(apart.data);
    for (char *c = inner; *c; c++) *c = *c == '\n' || *c == '\t' ? ' ' : *c;
    status = sl_strdup(out, sl_strip(inner));
  }
  sl_text_dispose(&apart);
  return status;
}

/* What stands beside the marks is looked up in the text as it was before any was replaced. */
static sl_status replace_marks(sl_text *out, const char *text) {
  bool drops[sizeof marks - 1];
  for (size_t k = 0; k < sizeof marks - 1; k++) {
    const char after[] = {marks[k], ' ', '\0'}, before[] = {' ', marks[k], '\0'};
    drops[k] = strstr(text, after) || strstr(text, before);
  }
  SL_TRY(sl_text_append(out, "", 0));
  for (const char *c = text; *c; c++) {
    const char *mark = strchr(marks, *c);
    if (!mark)
      SL_TRY(sl_text_append(out, c, 1));
    else if (!drops[mark - marks])
      SL_TRY(sl_text_append(out, " ", 1));
  }
  return SL_OK;
}

static void drop_periods(char *text) {
  char *to = text;
  int n = 0;
  for (const char *c = text; *c; c++) {
    uint32_t next = 0;
    if (*c == '.') (void)sl_letter(c + 1, &next);
    if (*c == '.' && n < MOST_PERIODS && !sl_is_digit(next))
      n++;
    else
      *to++ = *c;
  }
  *to = '\0';
}

static sl_status append_word(sl_text *out, const char *word, size_t n) {
  char digits[4];
  if (is(word, n, "a") || is(word, n, "an") || is(word, n, "the")) return SL_OK;
  if (out->length > 0) SL_TRY(sl_text_append(out, " ", 1));
  if (is(word, n, "none")) return sl_text_append(out, "0", 1);
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    if (!is(word, n, numbers[i])) continue;
    snprintf(digits, sizeof digits, "%zu", i);
    return sl_text_append_string(out, digits);
  }
  for (size_t i = 0; i < sizeof contractions / sizeof *contractions; i++)
    if (is(word, n, contractions[i].from)) return sl_text_append_string(out, contractions[i].to);
  return sl_text_append(out, word, n);
}

static sl_status normalise(char **out, const char *text) {
  char *cleaned = NULL;
  sl_text marked = {0}, words = {0};
  *out = NULL;
  sl_status status = clean(&cleaned, text);
  if (status == SL_OK) status = replace_marks(&marked, cleaned);
  if (status == SL_OK) status = sl_text_append(&words, "", 0);
  if (status == SL_OK) drop_periods(marked.data);
  const char *at = marked.data;
  for (size_t n; status == SL_OK && (n = sl_next_word(&at)) > 0; at += n) status = append_word(&words, at, n);
  free(cleaned);
  sl_text_dispose(&marked);
  if (status == SL_OK)
    *out = words.data;
  else
    sl_text_dispose(&words);
  return status;
}

/* ---- reading: by picture and question, as LLaVA's files have it: their question_id is the picture's ---- */

/* Key in the ids of the first example with this picture and question. Those after it follow in a chain: "same" in the
 * data of one is the index of the next; the first also has the index of the last, at "last". */
static sl_status make_key(sl_text *key, const char *image, const char *question) {
  char *lower = NULL;
  SL_TRY(sl_lower(&lower, question));
  const sl_status status = sl_text_format(key, "%s\n%s", image, lower);
  free(lower);
  return status;
}

/* The index that stands at `key` in an example's data, -1 when none does. */
static int linked(const sl_examples *examples, int index, const char *key) {
  const json_t *at = json_object_get(examples->items[index].data, key);
  return at ? (int)json_integer_value(at) : -1;
}

static sl_status add_key(sl_examples *examples, int index, const char *image, const char *question) {
  sl_text key = {0};
  SL_TRY(make_key(&key, image, question));
  const int first = sl_examples_find(examples, key.data);
  sl_status status;
  if (first < 0) {
    status = sl_metric_set(examples->ids, key.data, json_integer(index));
  } else {
    const int last = linked(examples, first, "last");
    status = sl_metric_set(examples->items[last < 0 ? first : last].data, "same", json_integer(index));
    if (status == SL_OK) status = sl_metric_set(examples->items[first].data, "last", json_integer(index));
  }
  sl_text_dispose(&key);
  return status;
}

static sl_status take(void *user, json_t *row, int line) {
  sl_examples *examples = user;
  const json_t *answers = json_object_get(row, "answers"), *answer;
  const char *question = NULL, *image = NULL;
  sl_text name = {0};
  sl_example e = {0};
  size_t i;
  SL_TRY(sl_row_text(row, "question", &question));
  SL_TRY(sl_row_text(row, "image_id", &image));
  if (json_array_size(answers) != N_ANSWER)
    SL_FAIL(SL_ERROR_FORMAT, "\"answers\": expected %d texts, found %zu", N_ANSWER, json_array_size(answers));
  json_array_foreach((json_t *)answers, i, answer)
    if (!json_is_string(answer)) SL_FAIL(SL_ERROR_FORMAT, "\"answers\": expected %d texts", N_ANSWER);
  SL_TRY(sl_row_check_path(image));
  SL_TRY(sl_row_id(row, "question_id", &e.id));
  sl_status status = sl_text_format(&name, "%s.jpg", image);
  e.image = name.data;
  e.data = json_pack("{s:s, s:O, s:s}", "question", question, "answers", answers, "image_id", image);
  if (status == SL_OK && !e.data) status = sl_fail(SL_ERROR_MEMORY, "no memory for a question");
  if (status == SL_OK)
    status = sl_examples_add(examples, &e, line);
  else
    sl_example_dispose(&e);
  return status == SL_OK ? add_key(examples, examples->n - 1, image, question) : status;
}

/* The first example of this picture and question for which `used` does not hold; when it holds for all, the last. What
 * is used stays so: `notes` keeps by key how far the chain was walked, so that no row walks it from the beginning. */
static sl_status find_key(int *index, const sl_examples *examples, const char *image, const char *question,
                          bool (*used)(const void *user, int index), const void *user, json_t *notes) {
  sl_text key = {0};
  SL_TRY(make_key(&key, image, question));
  const json_t *walked = json_object_get(notes, key.data);
  int found = walked ? (int)json_integer_value(walked) : sl_examples_find(examples, key.data);
  *index = SL_EXAMPLE_UNKNOWN;
  for (; found >= 0; found = linked(examples, found, "same")) {
    *index = found;
    if (!used(user, found)) break;
  }
  const sl_status status = *index >= 0 ? sl_metric_set(notes, key.data, json_integer(*index)) : SL_OK;
  sl_text_dispose(&key);
  return status;
}

/* The question inside a prompt of LLaVA's forms: "OCR tokens: ... Question: Q Short answer:", "Reference OCR token: ..."
 * in front of Q or behind it, Q and what kind of answer is wanted, or Q alone. New text. */
static sl_status question_of(char **out, const char *prompt) {
  const char *begin = prompt, *end = NULL;
  if (strncmp(prompt, "OCR tokens: ", 12) == 0) {
    begin = strstr(prompt, "Question: ");
    end = begin ? strstr(begin + 10, " Short answer:") : NULL;
    if (!end) SL_FAIL(SL_ERROR_FORMAT, "\"prompt\": expected \"Question: ... Short answer:\" behind the OCR tokens");
    begin += 10;
  } else if (strncmp(prompt, "Reference OCR token:", 20) == 0 && strchr(prompt, '\n')) {
    begin = strchr(prompt, '\n') + 1;
  }
  if (!end) end = begin + strcspn(begin, "\n");
  sl_text text = {0};
  const sl_status status = sl_text_append(&text, begin, (size_t)(end - begin));
  *out = text.data;
  return status;
}

static bool has_prediction(const void *user, int index) { return ((char *const *)user)[index] != NULL; }

static bool has_prompt(const void *user, int index) {
  return json_object_get(((const sl_examples *)user)->items[index].data, "asked") != NULL;
}

static sl_status match(int *index, const sl_examples *examples, const json_t *row, int n_before, char *const *texts,
                       json_t *notes) {
  const char *image = NULL, *prompt = NULL;
  char *question = NULL;
  (void)n_before;
  *index = SL_EXAMPLE_UNKNOWN;
  if (!json_object_get(row, "prompt")) return SL_OK;
  SL_TRY(sl_row_text(row, json_object_get(row, "question_id") ? "question_id" : "image_id", &image));
  SL_TRY(sl_row_text(row, "prompt", &prompt));
  SL_TRY(question_of(&question, prompt));
  sl_status status = find_key(index, examples, image, question, has_prediction, texts, notes);
  if (status == SL_OK && *index == SL_EXAMPLE_UNKNOWN)
    status = sl_fail(SL_ERROR_FORMAT, "no example has the picture %s and the question \"%s\"", image, question);
  free(question);
  return status;
}

typedef struct asking {
  sl_examples *examples;
  json_t *notes; /* of find_key */
} asking;

/* A row of LLaVA's question file: its question_id is the picture's, its text holds the OCR tokens. */
static sl_status take_prompt(void *user, json_t *row, int line) {
  const asking *a = user;
  sl_examples *examples = a->examples;
  const char *text = NULL, *id = NULL, *image = NULL;
  char *question = NULL;
  int index;
  (void)line;
  SL_TRY(sl_row_text(row, "text", &text));
  SL_TRY(sl_row_text(row, "question_id", &id));
  SL_TRY(question_of(&question, text));
  const sl_status status = find_key(&index, examples, id, question, has_prompt, examples, a->notes);
  free(question);
  SL_TRY(status);
  if (index < 0) SL_FAIL(SL_ERROR_FORMAT, "no question of the annotations has this picture and text (\"%s\")", id);
  if (json_object_get(row, "image")) {
    SL_TRY(sl_row_text(row, "image", &image));
    SL_TRY(sl_row_check_path(image));
    free(examples->items[index].image);
    examples->items[index].image = NULL;
    SL_TRY(sl_strdup(&examples->items[index].image, image));
  }
  return sl_metric_set(examples->items[index].data, "asked", json_string(text));
}

static sl_status read_prompts(sl_examples *examples, const char *path, sl_rows *rows) {
  asking a = {examples, json_object()};
  const sl_status status = a.notes ? sl_rows_read_lines(path, rows, take_prompt, &a)
                                   : sl_fail(SL_ERROR_MEMORY, "no memory for the questions of %s", path);
  json_decref(a.notes);
  return status;
}

/* The annotations of a split in a folder of all of them: TextVQA_0.5.1_val.json, and not the test's, which has no answers. */
static sl_status find_annotations(char **path, const sl_read_options *o) {
  char end[64];
  snprintf(end, sizeof end, "_%.40s.json", o->split ? o->split : "val");
  SL_TRY(sl_metric_find_file(path, o->path, "TextVQA_", end));
  if (!*path && !o->split) SL_TRY(sl_metric_find_file(path, o->path, "TextVQA_", ".json"));
  if (*path) return SL_OK;
  SL_FAIL(SL_ERROR_FILE, "%s: no file TextVQA_*%s", o->path, o->split ? end : ".json");
}

static sl_status read_textvqa(sl_examples *out, const sl_read_options *o, sl_rows *rows) {
  char *path = NULL, *asked = NULL;
  const bool folder = sl_metric_is_folder(o->path);
  sl_status status = folder ? find_annotations(&path, o) : sl_strdup(&path, o->path);
  if (status == SL_OK) status = sl_examples_from(out, path);
  if (status == SL_OK) status = sl_rows_read_array(path, "data", rows, take, out);
  if (status == SL_OK && folder) status = sl_metric_find_file(&asked, o->path, "llava_textvqa", ".jsonl");
  if (status == SL_OK && asked) status = read_prompts(out, asked, rows);
  /* Where LLaVA's question file is, its prompts are the official ones. */
  int n_asked = 0;
  for (int i = 0; i < out->n; i++) n_asked += has_prompt(out, i);
  out->usual_style = out->n > 0 && n_asked == out->n ? STYLE_OCR : STYLE_LLAVA;
  free(path);
  free(asked);
  return status;
}

static sl_status prompt(char **out, const sl_example *e, int style) {
  static const char hint[] = "\nAnswer the question using a single word or phrase.";
  const char *asked = json_string_value(json_object_get(e->data, "asked"));
  sl_text text = {0};
  *out = NULL;
  if (style == STYLE_OCR && !asked)
    SL_FAIL(SL_ERROR_ARGUMENT, "prompt style ocr: no line of llava_textvqa_*.jsonl asks question %s", e->id);
  const sl_status status =
      style == STYLE_OCR ? sl_text_append_string(&text, asked)
                 : sl_text_format(&text, "%s%s", json_string_value(json_object_get(e->data, "question")),
                                  style == STYLE_LLAVA ? hint : "");
  *out = text.data;
  return status;
}

/* ---- score ---- */

/* In the order of the sum that the published code takes, so that rounding is the same. */
static double soft_score(const bool same[N_ANSWER]) {
  double sum = 0;
  for (int i = 0; i < N_ANSWER; i++) {
    int n = 0;
    for (int j = 0; j < N_ANSWER; j++) n += j != i && same[j];
    sum += fmin(1, n / 3.0);
  }
  return sum / N_ANSWER;
}

static sl_status score(json_t *said, const sl_example *e, const char *prediction, int rule) {
  const json_t *answers = json_object_get(e->data, "answers");
  bool same[N_ANSWER] = {false}, any = false;
  char *own = NULL;
  (void)rule;
  SL_TRY(normalise(&own, prediction));
  sl_status status = SL_OK;
  for (int i = 0; i < N_ANSWER && status == SL_OK; i++) {
    char *other = NULL;
    status = normalise(&other, json_string_value(json_array_get(answers, (size_t)i)));
    if (status == SL_OK) any |= same[i] = strcmp(own, other) == 0;
    free(other);
  }
  if (status == SL_OK) status = sl_metric_set(said, "score", json_real(any ? soft_score(same) : 0));
  if (status == SL_OK) status = sl_metric_set(said, "parsed", json_string(own));
  free(own);
  return status;
}

static sl_status summarise(json_t *into, const json_t *const *said, int n) {
  return sl_metric_set(into, "accuracy", sl_metric_number(sl_metric_mean(said, n, "score")));
}

const sl_benchmark sl_textvqa_benchmark = {.name = "textvqa",
                                           .source = "Singh et al. 2019",
                                           .styles = styles,
                                           .rules = rules,
                                           .max_token = 128,
                                           .headline = "accuracy",
                                           .read = read_textvqa,
                                           .prompt = prompt,
                                           .score = score,
                                           .summarise = summarise,
                                           .match = match};
