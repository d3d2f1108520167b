/* libFuzzer target: any bytes as rows of a data set, as a file of predictions, and as a prediction. Bad rows are told with
 * their line, lines and elements are found in whatever is JSON, and every rule judges every prediction. */
#define _GNU_SOURCE /* memfd_create */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/text.h"
#include "metric/chair.h"
#include "metric/main_object.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static void require(bool condition) {
  if (!condition) abort();
}

static sl_status take(void *user, json_t *row, int line) {
  char *id = NULL;
  const char *text = NULL;
  int *n = user;
  require(line > 0);
  SL_TRY(sl_row_id(row, "id", &id));
  free(id);
  SL_TRY(sl_row_text(row, "image", &text));
  SL_TRY(sl_row_check_path(text));
  require(text[0] != '/' && strcmp(text, "..") != 0);
  (*n)++;
  return SL_OK;
}

static void read_rows(const char *text, size_t n) {
  sl_rows rows = {0};
  int n_good = 0;
  require(sl_rows_parse_lines(text, n, "fuzz", &rows, take, &n_good) == SL_OK);
  if (rows.n_bad > 0) require(strncmp(rows.messages[0], "fuzz: line ", 11) == 0);
  sl_rows_dispose(&rows);
}

static void find_lines(const char *text, size_t n) {
  json_t *root = NULL;
  int lines[8];
  if (sl_json_parse(&root, text, n, "fuzz") != SL_OK) return;
  sl_rows_lines(text, n, NULL, lines, 8);
  for (int i = 1; i < 8; i++) require(lines[i] == 0 || lines[i] >= lines[i - 1]);
  const size_t n_child = json_is_array(root) ? json_array_size(root) : json_object_size(root);
  for (size_t i = 0; i < n_child && i < 8; i++) require(lines[i] > 0);
  sl_rows_lines(text, n, "data", lines, 8);
  json_decref(root);
}

static sl_status count(void *user, json_t *row, int line) {
  (void)row;
  require(line > 0);
  ++*(int *)user;
  return SL_OK;
}

/* Elements are found in whatever is JSON as jansson finds them, and never beyond the text in what is not. */
static void read_array(const char *text, size_t n) {
  json_t *root = NULL;
  sl_rows rows = {0};
  int n_row = 0, n_object = 0;
  const sl_status status = sl_rows_parse_array(text, n, "fuzz", NULL, &rows, count, &n_row);
  if (sl_json_parse(&root, text, n, "fuzz") == SL_OK && json_is_array(root)) {
    for (size_t i = 0; i < json_array_size(root); i++) n_object += json_is_object(json_array_get(root, i));
    require(status == SL_OK && n_row == n_object && (size_t)(n_row + rows.n_bad) == json_array_size(root));
  }
  sl_rows_dispose(&rows);
  rows = (sl_rows){0};
  (void)sl_rows_parse_array(text, n, "fuzz", "data", &rows, count, &n_row);
  sl_rows_dispose(&rows);
  json_decref(root);
}

/* The text as predictions for a few examples of every benchmark. */
static void predict(const char *text, size_t n) {
  for (int b = 0; sl_benchmarks[b]; b++) {
    sl_examples examples = {.benchmark = sl_benchmarks[b], .ids = json_object()};
    sl_rows rows = {0};
    char **texts = NULL;
    require(sl_examples_from(&examples, "fuzz") == SL_OK);
    for (int i = 0; i < 3; i++) {
      sl_example e = {.id = calloc(2, 1), .data = json_pack("{s:s}", "text", "Is it?")};
      require(e.id != NULL && e.data != NULL);
      e.id[0] = (char)('1' + i);
      require(sl_examples_add(&examples, &e, i + 1) == SL_OK);
    }
    require(sl_examples_alias(&examples, 0, "a\nis it?") == SL_OK && sl_examples_alias(&examples, 1, "a\nis it?\n") == SL_OK);
    if (sl_predictions_parse(&texts, &examples, text, n, "fuzz", &rows) == SL_OK)
      for (int i = 0; i < 3; i++) free(texts[i]);
    free(texts);
    sl_rows_dispose(&rows);
    sl_examples_dispose(&examples);
  }
}

/* The text as a set's file: what is read can be asked. */
static void read_set(const char *text, size_t n) {
  static const char *const names[] = {"pope", "textvqa", "main-object"};
  char path[64];
  const int fd = memfd_create("fuzz", MFD_CLOEXEC);
  require(fd >= 0 && write(fd, text, n) == (ssize_t)n);
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  for (size_t b = 0; b < sizeof names / sizeof *names; b++) {
    const sl_benchmark *benchmark = sl_benchmark_find(names[b]);
    sl_examples examples;
    sl_rows rows = {0};
    if (sl_examples_read(&examples, benchmark, &(sl_read_options){.path = path}, &rows) == SL_OK) {
      for (int i = 0; i < examples.n; i++) {
        char *prompt = NULL;
        require(examples.items[i].line > 0);
        require(benchmark->prompt(&prompt, &examples.items[i], examples.usual_style) == SL_OK);
        free(prompt);
      }
      sl_examples_dispose(&examples);
    }
    sl_rows_dispose(&rows);
  }
  sl_examples coco = {.ids = json_object()};
  sl_rows rows = {0};
  (void)sl_main_object_read_coco(&coco, path, &rows);
  sl_examples_dispose(&coco);
  sl_rows_dispose(&rows);
  close(fd);
}

static void judge(const char *text) {
  for (int b = 0; sl_benchmarks[b]; b++) {
    for (int r = 0; sl_benchmarks[b]->rules[r]; r++) {
      sl_example e = {.data = json_pack("{s:s, s:[s,s], s:[ssssssssss], s:i, s:{s:b}}", "label", "no", "choices", "a", "b",
                                        "answers", "1", "2", "3", text, "5", "6", "7", "8", "9", "10", "answer", 1, "there",
                                        "cat", 1)};
      json_t *said = json_object();
      require(e.data && said && sl_benchmarks[b]->score(said, &e, text, r) == SL_OK);
      const double score = json_number_value(json_object_get(said, "score"));
      require(score >= 0 && score <= 1);
      json_decref(said);
      json_decref(e.data);
    }
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes) {
  char *text = calloc(n_bytes + 1, 1);
  require(text != NULL);
  if (n_bytes > 0) memcpy(text, bytes, n_bytes);
  read_rows(text, n_bytes);
  find_lines(text, n_bytes);
  read_array(text, n_bytes);
  predict(text, n_bytes);
  read_set(text, n_bytes);
  if (n_bytes < 4096 && sl_utf8_valid(text, strlen(text), NULL)) judge(text);
  free(text);
  return 0;
}
