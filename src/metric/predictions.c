/* Reading others' predictions: the files that the published evaluation scripts take. */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "metric/metric.h"

typedef struct matching {
  const sl_examples *examples;
  char **texts;
} matching;

/* The first of these members that the row has, as text. */
static sl_status first_text(const json_t *row, const char *const *keys, const char **out) {
  for (int i = 0; keys[i]; i++)
    if (json_object_get(row, keys[i])) return sl_row_text(row, keys[i], out);
  SL_FAIL(SL_ERROR_FORMAT, "\"%s\" is missing", keys[0]);
}

static const json_t *find(const sl_examples *examples, const char *group, const char *id) {
  sl_text name = {0};
  const json_t *found = NULL;
  if (sl_text_format(&name, "%s%s%s", group ? group : "", group ? "/" : "", id) == SL_OK)
    found = json_object_get(examples->ids, name.data);
  sl_text_dispose(&name);
  return found;
}

static sl_status take_id(const sl_examples *examples, const json_t *row, const char *id, int *index) {
  const char *group = json_string_value(json_object_get(row, "category"));
  if (!group) group = json_string_value(json_object_get(row, "split"));
  const json_t *found = group ? find(examples, group, id) : NULL;
  if (!found) found = find(examples, NULL, id);
  if (!found) SL_FAIL(SL_ERROR_FORMAT, "no example has the id \"%s\"", id);
  *index = (int)json_integer_value(found);
  if (*index < 0)
    SL_FAIL(SL_ERROR_FORMAT, "several examples have the id \"%s\": give \"category\" as well, or one split's file", id);
  return SL_OK;
}

static sl_status take(void *user, json_t *row, int line) {
  static const char *const ids[] = {"question_id", "id", "image_id", NULL};
  static const char *const texts[] = {"text", "answer", "caption", "prediction", NULL};
  const matching *m = user;
  const char *text = NULL;
  char *id = NULL;
  int index = -1, key = 0;
  (void)line;
  while (ids[key + 1] && !json_object_get(row, ids[key])) key++;
  SL_TRY(first_text(row, texts, &text));
  SL_TRY(sl_row_id(row, ids[key], &id));
  sl_status status = take_id(m->examples, row, id, &index);
  if (status == SL_OK && m->texts[index])
    status = sl_fail(SL_ERROR_FORMAT, "a second prediction for the id \"%s\"", id);
  if (status == SL_OK) status = sl_strdup(&m->texts[index], text);
  free(id);
  return status;
}

/* True for a text that begins with `[`: one JSON array. */
static bool is_array(const char *bytes, size_t n_bytes) {
  size_t i = 0;
  while (i < n_bytes && strchr(" \t\r\n", bytes[i]) && bytes[i]) i++;
  return i < n_bytes && bytes[i] == '[';
}

sl_status sl_predictions_read(char ***texts, const sl_examples *examples, const char *path, sl_rows *rows) {
  char *bytes = NULL;
  size_t n_bytes = 0;
  matching m = {.examples = examples};
  *texts = NULL;
  SL_TRY(sl_file_read(path, SL_ROWS_MAX_BYTES, &bytes, &n_bytes));
  sl_status status = SL_ALLOC(m.texts, (size_t)examples->n, "predictions");
  if (status == SL_OK && is_array(bytes, n_bytes))
    status = sl_rows_read_array(path, NULL, rows, take, &m, NULL);
  else if (status == SL_OK)
    status = sl_rows_parse_lines(bytes, n_bytes, path, rows, take, &m);
  free(bytes);
  if (status == SL_OK) {
    *texts = m.texts;
    return SL_OK;
  }
  for (int i = 0; m.texts && i < examples->n; i++) free(m.texts[i]);
  free(m.texts);
  return status;
}
