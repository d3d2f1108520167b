/* Reading others' predictions: the files that the published evaluation scripts take. */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "metric/metric.h"

typedef struct matching {
  const sl_examples *examples;
  char **texts;
  bool by_line; /* JSON lines: a row's line is its place, whatever is wrong with others */
  int n_before; /* rows so far */
  json_t *notes; /* of the benchmark's match */
} matching;

/* What a prediction says: one member of these. */
static sl_status said_text(const json_t *row, const char **out) {
  static const char *const keys[] = {"text", "answer", "caption", "prediction"};
  const char *found = NULL;
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    if (!json_object_get(row, keys[i])) continue;
    if (found) SL_FAIL(SL_ERROR_FORMAT, "\"%s\" and \"%s\": which of them is the prediction?", found, keys[i]);
    found = keys[i];
    SL_TRY(sl_row_text(row, found, out));
  }
  return found ? SL_OK : sl_fail(SL_ERROR_FORMAT, "\"%s\" is missing", keys[0]);
}

/* The example of an id, in the row's own group first. */
static sl_status find_id(int *index, const sl_examples *examples, const json_t *row, const char *id) {
  const char *group = json_string_value(json_object_get(row, "category"));
  if (!group) group = json_string_value(json_object_get(row, "split"));
  sl_text name = {0};
  *index = SL_EXAMPLE_UNKNOWN;
  if (group) {
    SL_TRY(sl_text_format(&name, "%s/%s", group, id));
    *index = sl_examples_find(examples, name.data);
    sl_text_dispose(&name);
  }
  if (*index < 0) *index = sl_examples_find(examples, id);
  return SL_OK;
}

/* By the first member that names an example, else by the benchmark's customs. */
static sl_status find_example(int *index, const matching *m, const json_t *row) {
  static const char *const usual[] = {"question_id", "id", "image_id", "image", NULL};
  const char *const *keys = m->examples->benchmark->ids ? m->examples->benchmark->ids : usual;
  const char *given = NULL; /* the first that is there */
  *index = SL_EXAMPLE_UNKNOWN;
  for (int k = 0; keys[k] && *index < 0; k++) {
    char *id = NULL;
    if (!json_object_get(row, keys[k])) continue;
    SL_TRY(sl_row_id(row, keys[k], &id));
    int found;
    const sl_status status = find_id(&found, m->examples, row, id);
    free(id);
    SL_TRY(status);
    if (!given || found >= 0) *index = found;
    given = given ? given : keys[k];
  }
  if (*index < 0 && *index != SL_EXAMPLE_NOT_ASKED && m->examples->benchmark->match) {
    int found;
    SL_TRY(m->examples->benchmark->match(&found, m->examples, row, m->n_before, m->texts, m->notes));
    if (found != SL_EXAMPLE_UNKNOWN) *index = found;
  }
  if (*index >= 0 || *index == SL_EXAMPLE_NOT_ASKED) return SL_OK;
  if (!given) SL_FAIL(SL_ERROR_FORMAT, "\"%s\" is missing", keys[0]);
  char *id = NULL;
  SL_TRY(sl_row_id(row, given, &id));
  const sl_status status =
      *index == SL_EXAMPLE_AMBIGUOUS
          ? sl_fail(SL_ERROR_FORMAT, "several examples have the id \"%s\": give \"category\" as well, or one split's file",
                    id)
          : sl_fail(SL_ERROR_FORMAT, "no example has the id \"%s\"", id);
  free(id);
  return status;
}

static sl_status take_row(matching *m, const json_t *row) {
  const char *text = NULL;
  int index;
  SL_TRY(said_text(row, &text));
  SL_TRY(find_example(&index, m, row));
  if (index == SL_EXAMPLE_NOT_ASKED) return SL_OK;
  if (m->texts[index])
    SL_FAIL(SL_ERROR_FORMAT, "a second prediction for the id \"%s\"", m->examples->items[index].id);
  return sl_strdup(&m->texts[index], text);
}

static sl_status take(void *user, json_t *row, int line) {
  matching *m = user;
  if (m->by_line) m->n_before = line - 1;
  const sl_status status = take_row(m, row);
  m->n_before++;
  return status;
}

/* The members of an object as rows: its values (objects), or {"id": NAME, "text": VALUE}. */
static sl_status take_members(matching *m, json_t *object, const char *key, const char *bytes, size_t n_bytes,
                              const char *name, sl_rows *rows) {
  const size_t n = json_object_size(object);
  int *lines = NULL, i = 0;
  const char *id;
  json_t *value;
  SL_TRY(SL_ALLOC(lines, n, "line numbers"));
  sl_rows_lines(bytes, n_bytes, key, lines, (int)n);
  sl_status status = SL_OK;
  json_object_foreach(object, id, value) {
    json_t *row = json_is_string(value) ? json_pack("{s:s, s:O}", "id", id, "text", value) : json_incref(value);
    if (status == SL_OK && !row) status = sl_fail(SL_ERROR_MEMORY, "no memory for a prediction");
    if (status == SL_OK) status = sl_rows_take(rows, name, lines[i], take, m, row);
    json_decref(row);
    i++;
  }
  free(lines);
  return status;
}

/* The first character that is no blank. */
static char first_mark(const char *bytes, size_t n_bytes) {
  size_t i = 0;
  while (i < n_bytes && bytes[i] && strchr(" \t\r\n", bytes[i])) i++;
  return i < n_bytes ? bytes[i] : '\0';
}

static sl_status parse(matching *m, const char *bytes, size_t n_bytes, const char *name, sl_rows *rows) {
  static const char *const keys[] = {"imgToEval", "outputs"}; /* of chair.py's files, of LLaVA's result for ScienceQA */
  json_t *root = NULL;
  if (n_bytes >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0) bytes += 3, n_bytes -= 3; /* a byte order mark */
  if (first_mark(bytes, n_bytes) == '[') return sl_rows_parse_array(bytes, n_bytes, name, NULL, rows, take, m);
  /* One object with all of them; JSON lines are no JSON text, but for a single one. */
  if (sl_json_parse(&root, bytes, n_bytes, name) == SL_OK) {
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
      json_t *all = json_object_get(root, keys[i]);
      if (!json_is_object(all)) continue;
      const sl_status status = take_members(m, all, keys[i], bytes, n_bytes, name, rows);
      json_decref(root);
      return status;
    }
  }
  json_decref(root);
  m->by_line = true;
  return sl_rows_parse_lines(bytes, n_bytes, name, rows, take, m);
}

sl_status sl_predictions_parse(char ***texts, const sl_examples *examples, const char *bytes, size_t n_bytes,
                               const char *name, sl_rows *rows) {
  matching m = {.examples = examples, .notes = json_object()};
  *texts = NULL;
  sl_status status = m.notes ? SL_ALLOC(m.texts, (size_t)examples->n, "predictions")
                             : sl_fail(SL_ERROR_MEMORY, "no memory for predictions");
  if (status == SL_OK) status = parse(&m, bytes, n_bytes, name, rows);
  json_decref(m.notes);
  if (status == SL_OK) {
    *texts = m.texts;
    return SL_OK;
  }
  for (int i = 0; m.texts && i < examples->n; i++) free(m.texts[i]);
  free(m.texts);
  return status;
}

sl_status sl_predictions_read(char ***texts, const sl_examples *examples, const char *path, sl_rows *rows) {
  char *bytes = NULL;
  size_t n_bytes = 0;
  *texts = NULL;
  SL_TRY(sl_file_read(path, SL_ROWS_MAX_BYTES, &bytes, &n_bytes));
  const sl_status status = sl_predictions_parse(texts, examples, bytes, n_bytes, path, rows);
  free(bytes);
  return status;
}
