/* Others' prediction files in the forms that the benchmarks' own scripts write and take, and which example each line is
 * about when ids are those of pictures, are shared, or are missing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/text.h"
#include "metric/metric.h"

#define GOLDEN SL_SOURCE_DIR "/tests/golden/metric/"
#define ok(call)                                                        \
  do {                                                                  \
    if ((call) != SL_OK) fail_msg("%s", sl_error_message());            \
  } while (0)

/* A set in a folder of its own. */
typedef struct set {
  char dir[64];
  sl_examples examples;
  sl_rows rows;
} set;

static void put(const set *s, const char *name, const char *text) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", s->dir, name);
  ok(sl_file_write(path, text, strlen(text)));
}

static void set_begin(set *s) {
  *s = (set){.dir = "/tmp/sl_set_XXXXXX"};
  assert_non_null(mkdtemp(s->dir));
}

static void set_read(set *s, const char *benchmark, const char *file, const char *split) {
  char path[512];
  snprintf(path, sizeof path, "%s%s%s", s->dir, file ? "/" : "", file ? file : "");
  ok(sl_examples_read(&s->examples, sl_benchmark_find(benchmark), &(sl_read_options){.path = path, .split = split}, &s->rows));
}

static void set_end(set *s, const char *const *names) {
  char path[512];
  for (int i = 0; names[i]; i++) {
    snprintf(path, sizeof path, "%s/%s", s->dir, names[i]);
    assert_int_equal(unlink(path), 0);
  }
  assert_int_equal(rmdir(s->dir), 0);
  sl_examples_dispose(&s->examples);
  sl_rows_dispose(&s->rows);
}

/* Reads predictions; expected [examples] with "" for none, bad: beginnings of the messages, NULL-terminated. */
static void expect(set *s, const char *predictions, const char *const *expected, const char *const *bad) {
  char **texts = NULL;
  sl_rows rows = {0};
  int n_bad = 0;
  ok(sl_predictions_parse(&texts, &s->examples, predictions, strlen(predictions), "p", &rows));
  for (int i = 0; i < s->examples.n; i++) {
    const char *text = texts[i] ? texts[i] : "";
    if (strcmp(text, expected[i]) != 0)
      fail_msg("%s: expected \"%s\", found \"%s\" (%s)", s->examples.items[i].id, expected[i], text,
               rows.n_bad ? rows.messages[0] : "no bad rows");
    free(texts[i]);
  }
  free(texts);
  for (; bad[n_bad]; n_bad++)
    if (n_bad >= rows.n_bad || !strstr(rows.messages[n_bad], bad[n_bad]))
      fail_msg("expected \"%s\", found \"%s\"", bad[n_bad], n_bad < rows.n_bad ? rows.messages[n_bad] : "nothing");
  assert_int_equal(rows.n_bad, n_bad);
  sl_rows_dispose(&rows);
}

static const char *const none[] = {NULL};

#define Q(id, object, label) \
  "{\"question_id\": " id ", \"image\": \"" id ".jpg\", \"text\": \"Is there a " object " in the image?\", \"label\": \"" label "\"}\n"

/* POPE's own answers: no ids, one split, the n-th line for the n-th. */
static void test_pope_by_order(void **state) {
  (void)state;
  set s;
  set_begin(&s);
  put(&s, "coco_pope_random.json", Q("1", "dog", "yes") Q("2", "cat", "maybe") Q("3", "cow", "no") Q("4", "hen", "no"));
  set_read(&s, "pope", "coco_pope_random.json", NULL);
  assert_int_equal(s.examples.n, 3); /* the second row is bad: its answer goes nowhere, and shifts no other */
  expect(&s,
         "{\"question\": \"is there a dog in the image?\", \"answer\": \"a\"}\n{\"question\": \"is there a cat in the image?\", "
         "\"answer\": \"b\"}\n{broken\n{\"question\": \"Is there a HEN in the image? Yes or no.\", \"answer\": \"d\"}\n",
         (const char *[]){"a", "", "d"}, (const char *[]){"line 3: the row", NULL});
  expect(&s, "{\"answer\": \"a\"}\n{\"answer\": \"b\"}\n{\"answer\": \"c\"}\n{\"answer\": \"d\"}\n{\"answer\": \"e\"}\n",
         (const char *[]){"a", "c", "d"}, (const char *[]){"line 5: there are only 3 questions", NULL});
  expect(&s, "[{\"question\": \"is there a cow in the image?\", \"answer\": \"a\"}]", (const char *[]){"", "", ""},
         (const char *[]){"\"question\": expected \"Is there a dog in the image?\" in this place", NULL});
  expect(&s, "{\"question\": \"is there a dog in the image?\", \"answer\": \"only one\"}", (const char *[]){"only one", "", ""}, none);
  expect(&s, "{\"question_id\": 4, \"answer\": \"by id\"}\n", (const char *[]){"", "", "by id"}, none);
  set_end(&s, (const char *[]){"coco_pope_random.json", NULL});
}

/* LLaVA's numbering through all splits, counted by lines, so that a bad row shifts nothing. */
static void test_pope_numbering(void **state) {
  (void)state;
  static const char *const files[] = {"coco_pope_random.json", "coco_pope_popular.json", "llava_pope_test.jsonl", NULL};
  set s;
  for (int with_split = 0; with_split < 2; with_split++) {
    set_begin(&s);
    put(&s, files[0], "\xef\xbb\xbf" Q("1", "dog", "yes") "{broken\n" Q("3", "cow", "no"));
    put(&s, files[1], Q("1", "pig", "yes") Q("2", "hen", "no"));
    put(&s, files[2],
        "{\"question_id\": 10, \"category\": \"popular\", \"image\": \"1.jpg\"}\n{\"question_id\": 11, \"category\": \"random\"}\n"
        "{\"question_id\": 12, \"category\": \"random\"}\n{\"question_id\": 13, \"category\": \"random\", \"image\": \"3.jpg\"}\n"
        "{\"question_id\": 14, \"category\": \"popular\", \"image\": \"9.jpg\"}\n{\"question_id\": 15, \"category\": \"odd\"}\n");
    set_read(&s, "pope", NULL, with_split ? "random" : NULL);
    assert_int_equal(s.examples.n, with_split ? 2 : 4);
    const char *all = "{\"question_id\": 10, \"text\": \"p1\"}\n{\"question_id\": 11, \"text\": \"r1\"}\n"
                      "{\"question_id\": 12, \"text\": \"r2\"}\n{\"question_id\": 13, \"text\": \"r3\"}\n";
    if (with_split) {
      assert_int_equal(s.rows.n_bad, 2); /* the broken line, the split "odd" */
      expect(&s, all, (const char *[]){"r1", "r3"}, none); /* answers to another split are nobody's fault */
    } else {
      assert_int_equal(s.rows.n_bad, 3);
      assert_non_null(strstr(s.rows.messages[1], "line 5: \"image\": question 2 of \"popular\" is about 2.jpg, not 9.jpg"));
      expect(&s, all, (const char *[]){"r1", "r3", "p1", ""}, none);
      expect(&s, "{\"question_id\": 1, \"text\": \"x\"}\n{\"question_id\": 1, \"category\": \"popular\", \"text\": \"y\"}\n{\"text\": \"z\"}\n",
             (const char *[]){"", "", "y", ""},
             (const char *[]){"line 1: several examples have the id \"1\"", "line 3: \"question_id\" is missing", NULL});
    }
    set_end(&s, files);
  }
}

#define TENS "[\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\"]"
#define T(id, image, question) \
  "{\"question_id\": " id ", \"image_id\": \"" image "\", \"question\": \"" question "\", \"answers\": " TENS "}"

/* LLaVA's files name a question of TextVQA by its picture and its words. */
static void test_textvqa_by_prompt(void **state) {
  (void)state;
  static const char *const files[] = {"TextVQA_0.5.1_val.json", "llava_textvqa_val_v051_ocr.jsonl", NULL};
  set s;
  set_begin(&s);
  put(&s, files[0], "\xef\xbb\xbf{\"data\": [" T("1", "a", "What Is it?") ",\n" T("2", "a", "which year?") ",\n" T("3", "b", "what is it?") ",\n"
                        T("4", "b", "What is it?") "]}");
  put(&s, files[1], "{\"question_id\": \"a\", \"image\": \"sub/a.jpg\", \"text\": \"what is it?\\nReference OCR token: X\\nAnswer.\"}\n"
                    "{\"question_id\": \"b\", \"text\": \"what is it?\\nfirst\"}\n{\"question_id\": \"b\", \"text\": \"what is it?\\nsecond\"}\n"
                    "{\"question_id\": \"a\", \"text\": \"why?\\nAnswer.\"}\n{\"question_id\": \"c\", \"text\": \"what is it?\\nAnswer.\"}\n");
  set_read(&s, "textvqa", NULL, NULL);
  assert_int_equal(s.rows.n_bad, 2);
  assert_non_null(strstr(s.rows.messages[0], "line 4: no question of the annotations has this picture and text (\"a\")"));
  assert_string_equal(s.examples.items[0].image, "sub/a.jpg");
  assert_int_equal(s.examples.usual_style, 0); /* "which year?" has no line in it */
  assert_string_equal(s.examples.items[1].image, "a.jpg");
  char *prompt = NULL;
  ok(sl_textvqa_benchmark.prompt(&prompt, &s.examples.items[3], 1));
  assert_string_equal(prompt, "what is it?\nsecond"); /* two people asked the same: in order */
  free(prompt);
  expect(&s,
         "{\"question_id\": \"a\", \"prompt\": \"Which year?\\nAnswer.\", \"text\": \"2\"}\n"
         "{\"question_id\": \"a\", \"prompt\": \"Reference OCR token: X\\nWHAT is it?\\nAnswer.\", \"text\": \"1\"}\n"
         "{\"question_id\": \"b\", \"prompt\": \"what is it?\\nReference OCR token:\\nAnswer.\", \"text\": \"3\"}\n"
         "{\"question_id\": \"b\", \"prompt\": \"OCR tokens: Q. Question: What is it? Short answer:\", \"text\": \"4\"}\n"
         "{\"question_id\": \"b\", \"prompt\": \"what is it?\", \"text\": \"5\"}\n"
         "{\"question_id\": \"b\", \"prompt\": \"why?\", \"text\": \"6\"}\n{\"question_id\": \"b\", \"text\": \"7\"}\n",
         (const char *[]){"1", "2", "3", "4"},
         (const char *[]){"line 5: a second prediction for the id \"4\"",
                          "line 6: no example has the picture b and the question \"why?\"", "line 7: no example has the id \"b\"", NULL});
  expect(&s, "\xef\xbb\xbf[{\"question_id\": 2, \"answer\": \"x\"}]", (const char *[]){"", "x", "", ""}, none);
  expect(&s, "\xef\xbb\xbf{\"question_id\": 2, \"answer\": \"x\"}\r\n\r\n", (const char *[]){"", "x", "", ""}, none);
  expect(&s, "[{\"question_id\": 3, \"answer\": \"x\"},\n {\"question_id\": \"1\", \"answer\": \"y\"}]", (const char *[]){"y", "", "x", ""},
         none); /* EvalAI's form */
  set_end(&s, files);
}

/* Many people with one question about one picture: answered in their order, those that an id names passed over; and
 * what is kept of a row for finding it is as short for the last as for the first. */
static void test_textvqa_same_question(void **state) {
  (void)state;
  enum { N = 300 };
  static const char *const files[] = {"TextVQA_val.json", "llava_textvqa.jsonl", NULL};
  sl_text data = {0}, asked = {0}, lines = {0};
  char said[N][16];
  const char *expected[N], *key;
  ok(sl_text_append_string(&data, "{\"data\": ["));
  ok(sl_text_append_string(&lines, "{\"question_id\": 102, \"text\": \"by id\"}\n"));
  for (int i = 0; i < N; i++) {
    ok(sl_text_format(&data, "%s{\"question_id\": %d, \"image_id\": \"a\", \"question\": \"%s\", \"answers\": " TENS "}",
                      i ? "," : "", 100 + i, i % 2 ? "Q?" : "q?"));
    ok(sl_text_format(&asked, "{\"question_id\": \"a\", \"text\": \"q?\\nprompt %d\"}\n", i));
    if (i < N - 1) ok(sl_text_format(&lines, "{\"question_id\": \"a\", \"prompt\": \"q?\", \"text\": \"%d\"}\n", i));
    snprintf(said[i], sizeof said[i], "%d", i < 2 ? i : i - 1);
    expected[i] = i == 2 ? "by id" : said[i];
  }
  ok(sl_text_append_string(&data, "]}"));
  set s;
  set_begin(&s);
  put(&s, files[0], data.data);
  put(&s, files[1], asked.data);
  set_read(&s, "textvqa", NULL, NULL);
  assert_int_equal(s.rows.n_bad, 0);
  for (int i = 0; i < N; i++) {
    char *prompt = NULL, wanted[32];
    snprintf(wanted, sizeof wanted, "q?\nprompt %d", i);
    ok(sl_textvqa_benchmark.prompt(&prompt, &s.examples.items[i], 1));
    assert_string_equal(prompt, wanted);
    free(prompt);
  }
  for (void *at = json_object_iter(s.examples.ids); at; at = json_object_iter_next(s.examples.ids, at)) {
    key = json_object_iter_key(at);
    if (strlen(key) > 8) fail_msg("a key of %zu bytes", strlen(key));
  }
  expect(&s, lines.data, expected, none);
  ok(sl_text_append_string(&lines, "{\"question_id\": \"a\", \"prompt\": \"q?\", \"text\": \"one too many\"}\n"));
  expect(&s, lines.data, expected, (const char *[]){"line 301: a second prediction for the id \"399\"", NULL});
  set_end(&s, files);
  sl_text_dispose(&data);
  sl_text_dispose(&asked);
  sl_text_dispose(&lines);
}

/* A folder of all splits: the validation set is read, the training set on request, the test set has no answers. */
static void test_textvqa_splits(void **state) {
  (void)state;
  static const char *const files[] = {"TextVQA_0.5.1_test.json", "TextVQA_0.5.1_train.json", "TextVQA_0.5.1_val.json", NULL};
  set s;
  for (int with_split = 0; with_split < 2; with_split++) {
    set_begin(&s);
    put(&s, files[0], "{\"data\": [{\"question_id\": 9, \"image_id\": \"a\", \"question\": \"q\"}]}");
    put(&s, files[1], "{\"data\": [" T("5", "t", "q") "]}");
    put(&s, files[2], "{\"data\": [" T("1", "a", "q") "]}");
    set_read(&s, "textvqa", NULL, with_split ? "train" : NULL);
    assert_string_equal(s.examples.items[0].id, with_split ? "5" : "1");
    set_end(&s, files);
  }
}

/* The questions inside prompts are those of LLaVA's eval_textvqa.py. */
static void test_textvqa_prompts(void **state) {
  (void)state;
  json_t *more = NULL, *row;
  size_t i;
  ok(sl_json_load(&more, GOLDEN "more.json", 1 << 24));
  json_array_foreach(json_object_get(more, "textvqa_prompts"), i, row) {
    json_t *question = json_pack("{s:i, s:s, s:O, s:[s,s,s,s,s,s,s,s,s,s]}", "question_id", 1, "image_id", "a", "question",
                                 json_array_get(row, 1), "answers", "1", "1", "1", "1", "1", "1", "1", "1", "1", "1");
    json_t *data = json_pack("{s:[o]}", "data", question);
    json_t *prediction = json_pack("{s:s, s:O, s:s}", "question_id", "a", "prompt", json_array_get(row, 0), "text", "x");
    char *data_text = json_dumps(data, 0), *text = json_dumps(prediction, JSON_COMPACT);
    set s;
    set_begin(&s);
    json_t *asked = json_pack("{s:s, s:O}", "question_id", "a", "text", json_array_get(row, 0));
    char *asked_text = json_dumps(asked, JSON_COMPACT);
    put(&s, "TextVQA_val.json", data_text);
    put(&s, "llava_textvqa.jsonl", asked_text);
    free(asked_text);
    json_decref(asked);
    set_read(&s, "textvqa", NULL, NULL);
    char *prompt = NULL;
    ok(sl_textvqa_benchmark.prompt(&prompt, &s.examples.items[0], s.examples.usual_style));
    assert_string_equal(prompt, json_string_value(json_array_get(row, 0))); /* LLaVA's file is asked word by word */
    free(prompt);
    expect(&s, text, (const char *[]){"x"}, none);
    set_end(&s, (const char *[]){"TextVQA_val.json", "llava_textvqa.jsonl", NULL});
    free(data_text);
    free(text);
    json_decref(data);
    json_decref(prediction);
  }
  assert_int_equal(i, 7);
  json_decref(more);
}

/* Captions: COCO's results, the published script's own form, lines with the picture's file name; and ScienceQA's result. */
static void test_objects_and_arrays(void **state) {
  (void)state;
  static const char *const files[] = {"instances_val2014.json", "captions_val2014.json", NULL};
  set s;
  set_begin(&s);
  put(&s, files[0],
      "{\"images\": [{\"id\": 7, \"file_name\": \"COCO_7.jpg\"}, {\"id\": 8, \"file_name\": \"COCO_8.jpg\"}], \"categories\": [], "
      "\"annotations\": []}");
  put(&s, files[1], "{\"annotations\": []}");
  set_read(&s, "chair", NULL, NULL);
  expect(&s, "[{\"image_id\": 8, \"caption\": \"b\"},\n{\"image_id\": 7, \"caption\": \"a\"}, 3]", (const char *[]){"a", "b"},
         (const char *[]){"line 2: expected a JSON object", NULL});
  expect(&s, "{\"overall\": {}, \"imgToEval\": {\"7\": {\"image_id\": 7, \"caption\": \"a\"},\n\"8\": {\"image_id\": 9, \"caption\": \"b\"}}}",
         (const char *[]){"a", ""}, (const char *[]){"line 2: no example has the id \"9\"", NULL});
  expect(&s, "{\"question_id\": 8, \"image\": \"COCO_7.jpg\", \"text\": \"a\"}\n{\"id\": 8, \"text\": \"b\"}\n", (const char *[]){"a", "b"}, none);
  expect(&s, "{\"image_id\": 7, \"caption\": \"a\", \"text\": \"b\"}\n{\"image_id\": 8, \"caption\": 5}\n{\"image_id\": 8}\n",
         (const char *[]){"", ""},
         (const char *[]){"line 1: \"text\" and \"caption\": which of them", "line 2: \"caption\": expected a text", "line 3: \"text\" is missing", NULL});
  char **texts = NULL;
  assert_int_equal(sl_predictions_parse(&texts, &s.examples, "[{\"image_id\": 7, \"cap", 20, "p", &s.rows), SL_ERROR_FORMAT);
  assert_non_null(strstr(sl_error_message(), "p: line 1: the element that begins here does not end"));
  assert_null(texts);
  set_end(&s, files);

  set_begin(&s);
  put(&s, "problems.json", "{\"5\": {\"question\": \"q\", \"choices\": [\"a\", \"b\"], \"answer\": 0},\n\"6\": {\"question\": \"q\", "
                           "\"choices\": [\"a\", \"b\"], \"answer\": 1}}");
  put(&s, "pid_splits.json", "{\"test\": [\"5\", \"6\"]}");
  set_read(&s, "scienceqa", NULL, NULL);
  assert_int_equal(s.examples.items[1].line, 2);
  expect(&s, "{\"acc\": 50.0, \"outputs\": {\"5\": \"A\", \"7\": \"B\"}}", (const char *[]){"A", ""},
         (const char *[]){"line 1: no example has the id \"7\"", NULL});
  /* Ids that no problem has are bad rows like others. */
  sl_examples_dispose(&s.examples);
  put(&s, "pid_splits.json", "{\"train\": [\"6\"],\n\"test\": [\"5\",\n\"gone\", 6,\n\"6\"]}");
  set_read(&s, "scienceqa", NULL, NULL);
  assert_int_equal(s.examples.n, 2);
  assert_int_equal(s.rows.n_bad, 2);
  assert_non_null(strstr(s.rows.messages[0], "pid_splits.json: line 3: problems.json has no problem \"gone\""));
  assert_non_null(strstr(s.rows.messages[1], "pid_splits.json: line 3: an id of a problem: expected a text"));
  set_end(&s, (const char *[]){"problems.json", "pid_splits.json", NULL});
}

/* COCO's pictures with one dominant object of one word. */
static void test_main_objects_of_coco(void **state) {
  (void)state;
  static const char text[] =
      "{\"info\": {}, \"images\": [\n"
      "{\"id\": 1, \"file_name\": \"1.jpg\", \"width\": 10, \"height\": 10},\n{\"id\": 2, \"file_name\": \"2.jpg\", \"width\": 10, \"height\": 10},\n"
      "{\"id\": 3, \"file_name\": \"3.jpg\", \"width\": 10, \"height\": 10},\n{\"id\": 4, \"file_name\": \"4.jpg\", \"width\": 10, \"height\": 10},\n"
      "{\"id\": 5, \"file_name\": \"5.jpg\", \"width\": 10, \"height\": 10},\n{\"id\": 6, \"file_name\": \"6.jpg\", \"width\": 0, \"height\": 10}],\n"
      "\"categories\": [{\"id\": 1, \"name\": \"person\"}, {\"id\": 18, \"name\": \"dog\"}, {\"id\": 13, \"name\": \"stop sign\"}],\n"
      "\"annotations\": [{\"image_id\": 1, \"category_id\": 18, \"area\": 6}, {\"image_id\": 1, \"category_id\": 18, \"area\": 4.5},\n"
      "{\"image_id\": 1, \"category_id\": 1, \"area\": 3.5},\n{\"image_id\": 2, \"category_id\": 18, \"area\": 9.9},\n"
      "{\"image_id\": 3, \"category_id\": 18, \"area\": 30}, {\"image_id\": 3, \"category_id\": 1, \"area\": 10.1},\n"
      "{\"image_id\": 4, \"category_id\": 13, \"area\": 50}, {\"image_id\": 5, \"category_id\": 2, \"area\": 50},\n"
      "{\"image_id\": 99, \"category_id\": 18, \"area\": 50}, {\"image_id\": 5, \"category_id\": 1, \"area\": 99}]}";
  set s;
  set_begin(&s);
  put(&s, "instances_val2014.json", text);
  set_read(&s, "main-object", NULL, NULL);
  assert_int_equal(s.examples.n, 2); /* 2: too small; 3: another covers more than a third; 4: two words */
  assert_string_equal(s.examples.items[0].id, "1");
  assert_string_equal(json_string_value(json_object_get(s.examples.items[0].data, "label")), "dog");
  assert_string_equal(s.examples.items[1].image, "5.jpg");
  assert_int_equal(s.examples.items[1].line, 6);
  assert_int_equal(s.rows.n_bad, 2);
  assert_non_null(strstr(s.rows.messages[0], "line 7: a picture of 0 x 10"));
  assert_non_null(strstr(s.rows.messages[1], "\"category_id\": no category has the id 2"));
  json_t *said = json_object();
  ok(sl_main_object_benchmark.score(said, &s.examples.items[1], "A young woman", 1));
  assert_true(json_number_value(json_object_get(said, "score")) == 1);
  json_decref(said);
  set_end(&s, (const char *[]){"instances_val2014.json", NULL});
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_pope_by_order),      cmocka_unit_test(test_pope_numbering),
      cmocka_unit_test(test_textvqa_by_prompt),  cmocka_unit_test(test_textvqa_prompts),
      cmocka_unit_test(test_textvqa_splits),     cmocka_unit_test(test_textvqa_same_question),
      cmocka_unit_test(test_objects_and_arrays), cmocka_unit_test(test_main_objects_of_coco)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
