/* Benchmarks against the official scripts (tests/golden/metric, made by tools/golden/metric.py), item by item, and bad
 * rows by name and line. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/text.h"
#include "metric/chair.h"
#include "metric/letters.h"
#include "metric/metric.h"

#define GOLDEN SL_SOURCE_DIR "/tests/golden/metric/"
#define ok(call) assert_int_equal_msg((call), SL_OK)
#define assert_int_equal_msg(a, b)                                 \
  do {                                                             \
    const int status_ = (int)(a);                                  \
    if (status_ != (b)) fail_msg("%s", sl_error_message());        \
  } while (0)

/* A set with its predictions, judged by one rule. */
typedef struct judged {
  sl_examples examples;
  char **texts;
  json_t **said;
  json_t *expected, *summary;
  sl_rows rows;
} judged;

static void judge(judged *j, const char *name, const char *rule) {
  const sl_benchmark *b = sl_benchmark_find(name);
  char path[512];
  *j = (judged){0};
  assert_non_null(b);
  snprintf(path, sizeof path, GOLDEN "%s", name);
  ok(sl_examples_read(&j->examples, b, &(sl_read_options){.path = path}, &j->rows));
  snprintf(path, sizeof path, GOLDEN "%s/answers.jsonl", name);
  ok(sl_predictions_read(&j->texts, &j->examples, path, &j->rows));
  snprintf(path, sizeof path, GOLDEN "%s/expected.json", name);
  ok(sl_json_load(&j->expected, path, 1 << 24));
  assert_int_equal(j->rows.n_bad, 0);
  j->said = calloc((size_t)j->examples.n, sizeof *j->said);
  assert_true(sl_choice_find(b->rules, rule) >= 0);
  for (int i = 0; i < j->examples.n; i++) {
    if (!j->texts[i] && !b->missing_is_wrong) continue;
    j->said[i] = json_object();
    ok(b->score(j->said[i], &j->examples.items[i], j->texts[i] ? j->texts[i] : "FAILED",
                sl_choice_find(b->rules, rule)));
  }
  j->summary = json_object();
  ok(sl_summarise(j->summary, &j->examples, j->said));
}

static void judged_free(judged *j) {
  for (int i = 0; i < j->examples.n; i++) {
    free(j->texts[i]);
    json_decref(j->said[i]);
  }
  free(j->texts);
  free(j->said);
  json_decref(j->expected);
  json_decref(j->summary);
  sl_examples_dispose(&j->examples);
  sl_rows_dispose(&j->rows);
}

static const char *said_text(const judged *j, int i, const char *key) {
  return json_string_value(json_object_get(j->said[i], key));
}

static double number(const json_t *of, const char *key) { return json_number_value(json_object_get(of, key)); }

static void test_pope(void **state) {
  (void)state;
  judged j;
  judge(&j, "pope", NULL);
  assert_true(j.examples.n >= 100);
  const json_t *items = json_object_get(j.expected, "llava"), *group;
  for (int i = 0; i < j.examples.n; i++) {
    const char *expected = json_string_value(json_object_get(items, j.examples.items[i].id));
    if (strcmp(expected, said_text(&j, i, "parsed")) != 0)
      fail_msg("%s \"%s\": expected %s, found %s", j.examples.items[i].id, j.texts[i], expected, said_text(&j, i, "parsed"));
  }
  const char *name, *key;
  json_t *value;
  json_object_foreach(json_object_get(j.expected, "groups"), name, group) {
    const json_t *own = json_object_get(json_object_get(j.summary, "groups"), name);
    json_object_foreach((json_t *)group, key, value) assert_true(fabs(json_number_value(value) - number(own, key)) < 1e-12);
  }
  assert_int_equal(json_object_size(json_object_get(j.summary, "groups")), 3);
  judged_free(&j);
}

/* OPERA's rule by its definition: capitals, n't, and no cut at the first period. */
static void test_pope_opera(void **state) {
  (void)state;
  static const struct {
    const char *text, *llava, *opera;
  } cases[] = {{"NO", "yes", "no"},        {"There isn't one", "yes", "no"}, {"Yes. no", "yes", "no"}, {"n.o", "yes", "no"},
               {"Nobody", "yes", "yes"},   {"isn't.", "yes", "no"},          {"it isnt", "yes", "yes"}, {"no", "no", "no"},
               {"n't", "yes", "no"},       {"NOT", "yes", "yes"}};
  sl_example e = {.data = json_pack("{s:s}", "label", "no")};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    for (int rule = 0; rule < 2; rule++) {
      json_t *said = json_object();
      ok(sl_pope_benchmark.score(said, &e, cases[i].text, rule));
      assert_string_equal(json_string_value(json_object_get(said, "parsed")), rule ? cases[i].opera : cases[i].llava);
      json_decref(said);
    }
  }
  json_decref(e.data);
}

static void check_scienceqa(const char *rule) {
  judged j;
  judge(&j, "scienceqa", rule);
  assert_true(j.examples.n >= 100);
  const json_t *own = json_object_get(j.expected, rule);
  for (int i = 0; i < j.examples.n; i++) {
    const char *id = j.examples.items[i].id;
    const int choice = (int)number(json_object_get(own, "choice"), id), found = (int)number(j.said[i], "choice");
    if (choice != found) fail_msg("%s %s \"%s\": expected %d, found %d", rule, id, j.texts[i], choice, found);
    assert_string_equal(said_text(&j, i, "parsed"), json_string_value(json_object_get(json_object_get(own, "parsed"), id)));
  }
  assert_true(fabs(number(j.summary, "accuracy") - number(own, "accuracy")) < 1e-12);
  /* The official number over questions whose prompt has a picture leaves those without a prediction out. */
  double right = 0;
  int n = 0;
  for (int i = 0; i < j.examples.n; i++) {
    if (!j.examples.items[i].image || !j.texts[i]) continue;
    right += number(j.said[i], "score");
    n++;
  }
  assert_true(fabs(100 * right / n - number(own, "image_percent")) < 0.005001);
  judged_free(&j);
}

static void test_scienceqa(void **state) {
  (void)state;
  check_scienceqa("llava-5200b75");
  check_scienceqa("llava-ce1aa08");
}

static void test_textvqa(void **state) {
  (void)state;
  judged j;
  judge(&j, "textvqa", NULL);
  assert_true(j.examples.n >= 100);
  const json_t *items = json_object_get(j.expected, "items");
  for (int i = 0; i < j.examples.n; i++) {
    const json_t *item = json_object_get(items, j.examples.items[i].id);
    const char *normal = json_string_value(json_array_get(item, 0));
    if (strcmp(normal, said_text(&j, i, "parsed")) != 0)
      fail_msg("\"%s\": expected \"%s\", found \"%s\"", j.texts[i], normal, said_text(&j, i, "parsed"));
    if (number(j.said[i], "score") != json_number_value(json_array_get(item, 1)))
      fail_msg("\"%s\": expected %.17g, found %.17g", j.texts[i], json_number_value(json_array_get(item, 1)),
               number(j.said[i], "score"));
  }
  assert_true(fabs(number(j.summary, "accuracy") - number(j.expected, "accuracy")) < 1e-12);
  judged_free(&j);
}

static void check_there(const sl_example *e, const json_t *expected) {
  const json_t *there = json_object_get(e->data, "there"), *name;
  size_t i;
  json_array_foreach((json_t *)expected, i, name)
    if (!json_object_get(there, json_string_value(name))) fail_msg("%s: no %s", e->id, json_string_value(name));
  assert_int_equal(json_object_size(there), json_array_size(expected));
}

static void test_chair(void **state) {
  (void)state;
  judged j;
  judge(&j, "chair", NULL);
  assert_true(j.examples.n >= 100);
  const json_t *items = json_object_get(j.expected, "items"), *overall = json_object_get(j.expected, "overall");
  for (int i = 0; i < j.examples.n; i++) {
    const json_t *item = json_object_get(items, j.examples.items[i].id);
    char *expected = json_dumps(json_array_get(item, 0), 0);
    char *found = json_dumps(json_object_get(j.said[i], "mentioned"), 0);
    if (strcmp(expected, found) != 0) fail_msg("\"%s\": expected %s, found %s", j.texts[i], expected, found);
    free(expected);
    free(found);
    assert_true(json_equal(json_array_get(item, 1), json_object_get(j.said[i], "hallucinated")));
    check_there(&j.examples.items[i], json_array_get(item, 2));
  }
  assert_true(fabs(number(j.summary, "chair_s") - number(overall, "CHAIRs")) < 1e-12);
  assert_true(fabs(number(j.summary, "chair_i") - number(overall, "CHAIRi")) < 1e-12);
  assert_true(fabs(number(j.summary, "recall") - number(overall, "Recall")) < 1e-12);
  judged_free(&j);
}

static void test_singular(void **state) {
  (void)state;
  json_t *expected = NULL, *value;
  const char *word;
  ok(sl_json_load(&expected, GOLDEN "chair/singular.json", 1 << 24));
  assert_true(json_object_size(expected) > 300);
  json_object_foreach(expected, word, value) {
    char *single = NULL;
    ok(sl_singular(&single, word));
    if (strcmp(single, json_string_value(value)) != 0)
      fail_msg("%s: expected %s, found %s", word, json_string_value(value), single);
    free(single);
  }
  json_decref(expected);
}

/* The one rule about beginnings; whatever follows stays. */
static void test_singular_beginning(void **state) {
  (void)state;
  char *single = NULL;
  ok(sl_singular(&single, "oxenbridges"));
  assert_string_equal(single, "oxbridges");
  free(single);
}

/* The next word is found by looking at it and at the next four bytes, however long the text goes on: these are the last
 * that can be read at all. */
static void test_next_word_looks_no_further(void **state) {
  (void)state;
  const size_t n_page = (size_t)sysconf(_SC_PAGESIZE);
  char *pages = mmap(NULL, 2 * n_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_true(pages != MAP_FAILED);
  assert_int_equal(mprotect(pages + n_page, n_page, PROT_NONE), 0);
  static const char text[] = " \xe3\x80\x80" "caf\xc3\xa9 and";
  const char *at = memcpy(pages + n_page - (sizeof text - 1), text, sizeof text - 1); /* no NUL at its end */
  assert_int_equal(sl_next_word(&at), 5);
  assert_memory_equal(at, "caf\xc3\xa9", 5);
  assert_int_equal(munmap(pages, 2 * n_page), 0);
  at = "one \xff ";
  assert_int_equal(sl_next_word(&at), 3);
  at += 3;
  assert_int_equal(sl_next_word(&at), 1); /* no UTF-8 is no blank */
  at++;
  assert_int_equal(sl_next_word(&at), 0);
}

static void test_main_object(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int word, contains;
  } cases[] = {{"cat", 1, 1},         {"A cat.", 1, 1},   {"The Cats!", 1, 1}, {"It is a cat.", 0, 1}, {"category", 0, 0},
               {"kitten", 1, 1},      {"a black cat", 0, 1}, {"", 0, 0},       {"dog", 0, 0},          {"ca t", 0, 0},
               {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\u65e5\u672c cat", 0, 1}};
  sl_example e = {.data = json_pack("{s:s, s:[s]}", "label", "cat", "also", "kitten")};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    for (int rule = 0; rule < 2; rule++) {
      json_t *said = json_object();
      ok(sl_main_object_benchmark.score(said, &e, cases[i].text, rule));
      assert_int_equal((int)number(said, "score"), rule ? cases[i].contains : cases[i].word);
      json_decref(said);
    }
  }
  json_decref(e.data);
}

/* ---- prompts ---- */

static char *prompt_of(const sl_benchmark *b, json_t *data, const char *style) {
  sl_example e = {.id = (char *)"1", .data = data};
  char *text = NULL;
  ok(b->prompt(&text, &e, sl_choice_find(b->styles, style)));
  json_decref(data);
  return text;
}

static void check_prompt(const sl_benchmark *b, json_t *data, const char *style, const char *expected) {
  char *text = prompt_of(b, data, style);
  assert_string_equal(text, expected);
  free(text);
}

static void test_prompts(void **state) {
  (void)state;
  const char *format = "{s:s, s:s, s:[s,s]}";
  check_prompt(&sl_pope_benchmark, json_pack("{s:s}", "text", "Is there a dog?"), "llava",
               "Is there a dog?\nAnswer the question using a single word or phrase.");
  check_prompt(&sl_scienceqa_benchmark, json_pack(format, "question", "Which?", "hint", "", "choices", "a  b", "c"), "llava",
               "Context: N/A\nQuestion: Which?\nOptions: (A) a b (B) c\n"
               "Answer with the option's letter from the given choices directly.");
  check_prompt(&sl_scienceqa_benchmark, json_pack(format, "question", "Which?", "hint", "", "choices", "a", "c"), "lines",
               "Which?\nA. a\nB. c\nAnswer with the option's letter from the given choices directly.");
  check_prompt(&sl_textvqa_benchmark, json_pack("{s:s, s:s}", "question", "what?", "asked", "what?\nReference OCR token: X"),
               "ocr", "what?\nReference OCR token: X");
}

/* ---- more awkward texts, one function of the scripts at a time ---- */

/* What `rule` makes of a text, by the member `key`. */
static void check_said(const sl_benchmark *b, const char *rule, const sl_example *e, const json_t *text, const char *key,
                       const json_t *expected) {
  json_t *said = json_object();
  ok(b->score(said, e, json_string_value(text), sl_choice_find(b->rules, rule)));
  if (!json_equal(json_object_get(said, key), expected)) {
    char *found = json_dumps(json_object_get(said, key), JSON_ENCODE_ANY), *wanted = json_dumps(expected, JSON_ENCODE_ANY);
    fail_msg("%s %s \"%s\": expected %s, found %s", b->name, rule, json_string_value(text), wanted, found);
  }
  json_decref(said);
}

static void test_more(void **state) {
  (void)state;
  static const struct {
    const char *list, *benchmark, *rules[2], *key;
  } lists[] = {{"pope", "pope", {"llava", "opera"}, "parsed"},
               {"scienceqa", "scienceqa", {"llava-ce1aa08", "llava-5200b75"}, "parsed"},
               {"textvqa", "textvqa", {"m4c"}, "parsed"},
               {"chair", "chair", {"chair"}, "mentioned"}};
  json_t *more = NULL;
  ok(sl_json_load(&more, GOLDEN "more.json", 1 << 24));
  sl_example e = {.data = json_pack("{s:s, s:[ssss], s:[ssssssssss], s:i, s:{}}", "label", "no", "choices", "w", "x", "y", "z",
                                    "answers", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "answer", 1, "there")};
  assert_non_null(e.data);
  for (size_t l = 0; l < sizeof lists / sizeof *lists; l++) {
    const json_t *rows = json_object_get(more, lists[l].list), *row;
    size_t i;
    assert_true(json_array_size(rows) > 50);
    json_array_foreach((json_t *)rows, i, row) {
      for (size_t r = 0; r < 2 && lists[l].rules[r]; r++)
        check_said(sl_benchmark_find(lists[l].benchmark), lists[l].rules[r], &e, json_array_get(row, 0), lists[l].key,
                   json_array_get(row, 1 + r));
    }
  }
  json_decref(e.data);
  json_decref(more);
}

/* Lower case as Python has it, which the scripts are written in. */
static void test_lower(void **state) {
  (void)state;
  json_t *more = NULL, *row;
  size_t i;
  ok(sl_json_load(&more, GOLDEN "more.json", 1 << 24));
  json_array_foreach(json_object_get(more, "lower"), i, row) {
    char *lower = NULL;
    ok(sl_lower(&lower, json_string_value(json_array_get(row, 0))));
    assert_string_equal(lower, json_string_value(json_array_get(row, 1)));
    free(lower);
  }
  assert_true(i > 30);
  json_decref(more);
}

/* LLaVA's converter and its script. */
static void test_scienceqa_prompts(void **state) {
  (void)state;
  json_t *more = NULL, *row;
  size_t i;
  ok(sl_json_load(&more, GOLDEN "more.json", 1 << 24));
  json_array_foreach(json_object_get(more, "scienceqa_prompts"), i, row)
    check_prompt(&sl_scienceqa_benchmark,
                 json_pack("{s:O, s:O, s:O}", "question", json_array_get(row, 0), "hint", json_array_get(row, 1), "choices",
                           json_array_get(row, 2)),
                 "llava", json_string_value(json_array_get(row, 3)));
  assert_int_equal(i, 5);
  json_decref(more);
}

/* ---- bad rows ---- */

/* Writes a temporary file, reads it as `name`, and gives back what was bad. */
static sl_status read_text(const char *name, const char *text, bool strict, sl_rows *rows, int *n) {
  char path[] = "/tmp/sl_metric_XXXXXX";
  const int fd = mkstemp(path);
  assert_true(fd >= 0);
  assert_true(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
  close(fd);
  sl_examples examples;
  *rows = (sl_rows){.strict = strict};
  const sl_status status = sl_examples_read(&examples, sl_benchmark_find(name), &(sl_read_options){.path = path}, rows);
  if (n) *n = status == SL_OK ? examples.n : 0;
  if (status == SL_OK) sl_examples_dispose(&examples);
  unlink(path);
  return status;
}

static void expect_bad(const char *name, const char *text, const char *const *messages, int n_good) {
  sl_rows rows;
  int n = 0, n_bad = 0;
  ok(read_text(name, text, false, &rows, &n));
  while (messages[n_bad]) n_bad++;
  assert_int_equal(n, n_good);
  for (int i = 0; i < n_bad; i++) {
    if (i >= rows.n_bad || !strstr(rows.messages[i], messages[i]))
      fail_msg("expected \"%s\", found \"%s\"", messages[i], i < rows.n_bad ? rows.messages[i] : "nothing");
  }
  assert_int_equal(rows.n_bad, n_bad);
  sl_rows_dispose(&rows);
  assert_int_equal(read_text(name, text, true, &rows, NULL), SL_ERROR_FORMAT);
  assert_non_null(strstr(sl_error_message(), messages[0]));
  sl_rows_dispose(&rows);
}

#define ROW(id, image, label) "{\"question_id\": " id ", \"image\": \"" image "\", \"text\": \"t\", \"label\": \"" label "\"}\n"

static void test_bad_rows(void **state) {
  (void)state;
  expect_bad("pope",
             ROW("1", "a.jpg", "yes") "{broken\n\n" ROW("1", "a.jpg", "no") ROW("2", "../a.jpg", "no")
                 ROW("3", "/a.jpg", "no") ROW("4", "a.jpg", "maybe") "{\"question_id\": 5, \"image\": \"a\", \"label\": \"no\"}\n"
                 "[1]\n" ROW("[]", "a.jpg", "no") ROW("9", "b/..c/a.jpg", "no") ROW("10", "b/../../a.jpg", "no"),
             (const char *[]){"line 2: the row: line 1, column", "line 4: the id \"all/1\" is there twice",
                              "line 5: the path \"../a.jpg\" leaves", "line 6: the path \"/a.jpg\" leaves",
                              "line 7: \"label\": expected yes or no, found \"maybe\"", "line 8: \"text\" is missing",
                              "line 9: expected a JSON object", "line 10: \"question_id\": expected a text",
                              "line 12: the path", NULL},
             2);
  expect_bad("textvqa",
             "{\"x\": [1, \"\\\"]\",\n {\"data\": 3}], \"data\": [\n{\"question_id\": 1, \"image_id\": \"a\", \"question\": \"q\",\n"
             "\"answers\": [\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"}\"]},\n"
             "{\"question_id\": 2, \"image_id\": \"a\", \"question\": \"q\", \"answers\": [\"1\"]}\n, 7]}",
             (const char *[]){"line 5: \"answers\": expected 10 texts, found 1", "line 6: expected a JSON object", NULL}, 1);
  expect_bad("main-object", "{\"id\": \"a\", \"image\": \"a.png\", \"label\": \"\"}\n{\"id\": 1, \"image\": \"a.png\", \"label\": \"x\"}",
             (const char *[]){"line 1: \"label\" is empty", NULL}, 1);
  sl_rows rows;
  assert_int_equal(read_text("pope", "\n \n", false, &rows, NULL), SL_ERROR_FORMAT);
  assert_non_null(strstr(sl_error_message(), "no examples"));
}

/* A prediction that nobody asked for, twice, or without text. */
static void test_bad_predictions(void **state) {
  (void)state;
  judged j;
  judge(&j, "pope", NULL);
  char path[] = "/tmp/sl_metric_XXXXXX";
  const int fd = mkstemp(path);
  static const char text[] = "{\"question_id\": 1, \"text\": \"no\"}\n{\"question_id\": 1, \"text\": \"no\"}\n"
                             "{\"question_id\": 77777, \"text\": \"no\"}\n{\"question_id\": 2}\n"
                             "{\"question_id\": 2, \"category\": \"popular\", \"answer\": \"no\"}\n";
  assert_true(write(fd, text, sizeof text - 1) == (ssize_t)sizeof text - 1);
  close(fd);
  char **texts = NULL;
  ok(sl_predictions_read(&texts, &j.examples, path, &j.rows));
  assert_int_equal(j.rows.n_bad, 3);
  assert_non_null(strstr(j.rows.messages[0], "line 2: a second prediction for the id \"random/1\""));
  assert_non_null(strstr(j.rows.messages[1], "line 3: no example has the id \"77777\""));
  assert_non_null(strstr(j.rows.messages[2], "line 4: \"text\" is missing"));
  for (int i = 0; i < j.examples.n; i++) {
    const bool given = strcmp(j.examples.items[i].id, "random/1") == 0 || strcmp(j.examples.items[i].id, "popular/2") == 0;
    assert_int_equal(texts[i] != NULL, given);
    free(texts[i]);
  }
  free(texts);
  unlink(path);
  judged_free(&j);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_pope),        cmocka_unit_test(test_pope_opera), cmocka_unit_test(test_scienceqa),
      cmocka_unit_test(test_textvqa),     cmocka_unit_test(test_chair),      cmocka_unit_test(test_singular),
      cmocka_unit_test(test_main_object), cmocka_unit_test(test_prompts),    cmocka_unit_test(test_bad_rows),
      cmocka_unit_test(test_more),        cmocka_unit_test(test_scienceqa_prompts),
      cmocka_unit_test(test_lower),       cmocka_unit_test(test_singular_beginning),
      cmocka_unit_test(test_next_word_looks_no_further),
      cmocka_unit_test(test_bad_predictions)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
