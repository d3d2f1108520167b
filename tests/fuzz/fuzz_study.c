/* libFuzzer target: any bytes as the rows of a study; what begins with "P" as its plan. Whatever is wrong with a row is one
 * sentence with file and line; a good row has an id, a question and a picture inside the folder. A plan that was read is
 * settled: reading it again changes nothing. */
#include <stdlib.h>
#include <string.h>

#include "task/study_data.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static void require(bool condition) {
  if (!condition) abort();
}

static char *copy(const uint8_t *bytes, size_t n_bytes) {
  char *text = malloc(n_bytes + 1);
  if (!text) exit(1);
  memcpy(text, bytes, n_bytes);
  text[n_bytes] = '\0';
  return text;
}

static void read_plan(const uint8_t *bytes, size_t n_bytes) {
  static const sl_study_request request = {.size = sizeof request};
  sl_study_plan plan = {0}, again = {0};
  char *text = copy(bytes, n_bytes), *settled = NULL, hash[2][17];
  if (sl_study_plan_read(&plan, &request, text) == SL_OK) {
    require(sl_json_print_exact(plan.json, &settled) == SL_OK);
    require(sl_study_plan_read(&again, &request, settled) == SL_OK);
    require(json_equal(plan.json, again.json));
    require(sl_study_plan_hash(&plan, hash[0]) == SL_OK && sl_study_plan_hash(&again, hash[1]) == SL_OK);
    require(strcmp(hash[0], hash[1]) == 0);
    require(sl_study_plan_compare(&again, settled, "fuzz") == SL_OK);
  }
  sl_study_plan_dispose(&again);
  sl_study_plan_dispose(&plan);
  free(settled);
  free(text);
}

static void check_row(const sl_study_data *data, int64_t i) {
  sl_study_row row = {0};
  const char *bad = sl_study_data_bad(data, i);
  const sl_status status = sl_study_data_example(data, i, &row);
  require(row.line > 0);
  if (bad) require(strncmp(bad, "dev, line ", 10) == 0 && !strchr(bad, '\n'));
  if (!bad) {
    require(status == SL_OK && row.id && *row.id && row.question && row.image && row.image[0] != '/');
    require(strncmp(row.image_path, "/", 1) == 0 && !strstr(row.image_path, "/../"));
  }
  sl_study_row_dispose(&row);
}

static void read_rows(const uint8_t *bytes, size_t n_bytes) {
  static const char settled[] = "{\"model\": \"/\", \"data\": \"/dev\", \"images\": \"/\","
                                " \"labels\": {\"class\": [\"cat\", 1], \"any\": null}}";
  static const sl_study_request request = {.size = sizeof request};
  sl_study_plan plan = {0};
  sl_study_data *data = NULL;
  require(sl_study_plan_read(&plan, &request, settled) == SL_OK);
  if (sl_study_data_parse(&data, &plan, copy(bytes, n_bytes), n_bytes) == SL_OK)
    for (int64_t i = 0; i < sl_study_data_count(data); i++) check_row(data, i);
  sl_study_data_close(data);
  sl_study_plan_dispose(&plan);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes) {
  if (n_bytes > 0 && bytes[0] == 'P')
    read_plan(bytes + 1, n_bytes - 1);
  else
    read_rows(bytes, n_bytes);
  return 0;
}
