/* libFuzzer target: any bytes as rows of a data set, and any text as a prediction. Bad rows are told with their line,
 * lines are found in whatever is JSON, and every rule judges every prediction. */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "metric/chair.h"
#include "metric/metric.h"

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
  if (n_bytes < 4096 && sl_utf8_valid(text, strlen(text), NULL)) judge(text);
  free(text);
  return 0;
}
