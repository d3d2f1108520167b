/* Reading rows and naming bad ones. jansson does not tell where a member of a large text stands, so a second look at
 * the text counts lines: brackets and strings are all that has to be understood of a text known to be JSON. */
#include "metric/rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

void sl_rows_dispose(sl_rows *rows) {
  for (int i = 0; i < SL_ROWS_KEPT; i++) free(rows->messages[i]);
  *rows = (sl_rows){0};
}

/* The thread's message, with file and line before it, as an error or as a record. */
static sl_status bad_row(sl_rows *rows, const char *path, int line) {
  sl_text text = {0};
  SL_TRY(sl_text_format(&text, "%s: line %d: %s", path, line, sl_error_message()));
  rows->n_bad++;
  if (rows->strict) {
    const sl_status status = sl_fail(SL_ERROR_FORMAT, "%s", text.data);
    sl_text_dispose(&text);
    return status;
  }
  if (rows->n_bad <= SL_ROWS_KEPT)
    rows->messages[rows->n_bad - 1] = text.data;
  else
    sl_text_dispose(&text);
  return SL_OK;
}

sl_status sl_rows_take(sl_rows *rows, const char *path, int line, sl_row_fn take, void *user, json_t *row) {
  const sl_status status = json_is_object(row) ? take(user, row, line)
                                               : sl_fail(SL_ERROR_FORMAT, "expected a JSON object");
  return status == SL_ERROR_FORMAT ? bad_row(rows, path, line) : status;
}

static sl_status take_line(sl_rows *rows, const char *name, int line, const char *bytes, size_t n_bytes,
                           sl_row_fn take, void *user) {
  json_t *row = NULL;
  sl_status status = sl_json_parse(&row, bytes, n_bytes, "the row");
  if (status == SL_ERROR_FORMAT) return bad_row(rows, name, line);
  if (status == SL_OK) status = sl_rows_take(rows, name, line, take, user, row);
  json_decref(row);
  return status;
}

sl_status sl_rows_parse_lines(const char *bytes, size_t n_bytes, const char *name, sl_rows *rows, sl_row_fn take,
                              void *user) {
  int line = 0;
  for (size_t at = 0; at < n_bytes;) {
    const char *end = memchr(bytes + at, '\n', n_bytes - at);
    const size_t length = end ? (size_t)(end - bytes) - at : n_bytes - at;
    line++;
    bool blank = true;
    for (size_t i = 0; i < length && blank; i++) blank = strchr(" \t\r", bytes[at + i]) && bytes[at + i];
    if (!blank) SL_TRY(take_line(rows, name, line, bytes + at, length, take, user));
    at += length + 1;
  }
  return SL_OK;
}

sl_status sl_rows_read_lines(const char *path, sl_rows *rows, sl_row_fn take, void *user) {
  char *bytes;
  size_t n_bytes;
  SL_TRY(sl_file_read(path, SL_ROWS_MAX_BYTES, &bytes, &n_bytes));
  const sl_status status = sl_rows_parse_lines(bytes, n_bytes, path, rows, take, user);
  free(bytes);
  return status;
}

/* ---- where members stand ---- */

typedef struct scanner {
  const char *next, *end;
  int line;
} scanner;

static void skip_space(scanner *s) {
  while (s->next < s->end && strchr(" \t\r\n,:", *s->next) && *s->next) s->line += *s->next++ == '\n';
}

/* Passes a string; *text points behind its opening quote. */
static size_t skip_string(scanner *s, const char **text) {
  *text = ++s->next;
  while (s->next < s->end && *s->next != '"') s->next += *s->next == '\\' ? 2 : 1;
  const size_t length = s->next < s->end ? (size_t)(s->next - *text) : 0;
  s->next++;
  return length;
}

/* Passes one value of any kind. */
static void skip_value(scanner *s) {
  int depth = 0;
  const char *text;
  skip_space(s);
  do {
    const char c = s->next < s->end ? *s->next : '\0';
    if (c == '"') {
      (void)skip_string(s, &text);
    } else if (c == '[' || c == '{') {
      depth++;
      s->next++;
    } else if (c == ']' || c == '}') {
      depth--;
      s->next++;
    } else {
      while (s->next < s->end && !strchr(" \t\r\n,:[]{}\"", *s->next)) s->next++;
    }
    skip_space(s);
  } while (depth > 0 && s->next < s->end);
}

void sl_rows_lines(const char *bytes, size_t n_bytes, const char *key, int *lines, int n) {
  scanner s = {bytes, bytes + n_bytes, 1};
  const char *text;
  for (int i = 0; i < n; i++) lines[i] = 0;
  skip_space(&s);
  if (key && s.next < s.end && *s.next == '{') s.next++;
  while (key && s.next < s.end) { /* to the value of the key */
    skip_space(&s);
    if (s.next >= s.end || *s.next != '"') return;
    const size_t length = skip_string(&s, &text);
    skip_space(&s);
    if (length == strlen(key) && memcmp(text, key, length) == 0) break;
    skip_value(&s);
  }
  if (s.next >= s.end) return;
  const bool named = *s.next++ == '{';
  for (int i = 0; i < n && s.next < s.end; i++) {
    skip_space(&s);
    lines[i] = s.line;
    if (named && s.next < s.end && *s.next == '"') (void)skip_string(&s, &text);
    skip_value(&s);
  }
}

static sl_status take_elements(const json_t *array, const int *lines, const char *path, sl_rows *rows, sl_row_fn take,
                               void *user) {
  for (size_t i = 0; i < json_array_size(array); i++)
    SL_TRY(sl_rows_take(rows, path, lines[i], take, user, json_array_get(array, i)));
  return SL_OK;
}

sl_status sl_rows_read_array(const char *path, const char *key, sl_rows *rows, sl_row_fn take, void *user,
                             json_t **root) {
  char *bytes;
  size_t n_bytes;
  json_t *whole = NULL;
  int *lines = NULL;
  if (root) *root = NULL;
  SL_TRY(sl_file_read(path, SL_ROWS_MAX_BYTES, &bytes, &n_bytes));
  sl_status status = sl_json_parse(&whole, bytes, n_bytes, path);
  const json_t *array = key ? json_object_get(whole, key) : whole;
  if (status == SL_OK && !json_is_array(array))
    status = sl_fail(SL_ERROR_FORMAT, "%s: expected an array%s%s", path, key ? " at key " : "", key ? key : "");
  const size_t n = json_array_size(array);
  if (status == SL_OK) status = SL_ALLOC(lines, n, "line numbers");
  if (status == SL_OK) {
    sl_rows_lines(bytes, n_bytes, key, lines, (int)n);
    status = take_elements(array, lines, path, rows, take, user);
  }
  free(bytes);
  free(lines);
  if (status == SL_OK && root)
    *root = whole;
  else
    json_decref(whole);
  return status;
}

/* ---- members ---- */

sl_status sl_row_text(const json_t *row, const char *key, const char **out) {
  const json_t *value = json_object_get(row, key);
  if (!value) SL_FAIL(SL_ERROR_FORMAT, "\"%s\" is missing", key);
  if (!json_is_string(value)) SL_FAIL(SL_ERROR_FORMAT, "\"%s\": expected a text", key);
  *out = json_string_value(value);
  if (strlen(*out) != json_string_length(value)) SL_FAIL(SL_ERROR_FORMAT, "\"%s\": holds U+0000", key);
  return SL_OK;
}

sl_status sl_row_int(const json_t *row, const char *key, int64_t *out) {
  const json_t *value = json_object_get(row, key);
  if (!value) SL_FAIL(SL_ERROR_FORMAT, "\"%s\" is missing", key);
  if (!json_is_integer(value)) SL_FAIL(SL_ERROR_FORMAT, "\"%s\": expected a whole number", key);
  *out = json_integer_value(value);
  return SL_OK;
}

sl_status sl_row_id(const json_t *row, const char *key, char **out) {
  const json_t *value = json_object_get(row, key);
  const char *text = NULL;
  char number[32];
  *out = NULL;
  if (json_is_integer(value)) {
    snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
    return sl_strdup(out, number);
  }
  SL_TRY(sl_row_text(row, key, &text));
  if (!*text) SL_FAIL(SL_ERROR_FORMAT, "\"%s\" is empty", key);
  return sl_strdup(out, text);
}

sl_status sl_row_check_path(const char *name) {
  bool leaves = name[0] == '/' || name[0] == '\0';
  for (const char *part = name; *part;) {
    const size_t length = strcspn(part, "/");
    leaves = leaves || (length == 2 && part[0] == '.' && part[1] == '.');
    part += length + (part[length] == '/');
  }
  if (leaves) SL_FAIL(SL_ERROR_FORMAT, "the path \"%s\" leaves the data folder", name);
  return SL_OK;
}
