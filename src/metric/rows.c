/* Reading rows and naming bad ones. The elements of an array are found by their brackets and strings and parsed one by
 * one: their lines are known, a broken one spoils none of the others, and COCO's 160 MB never stand in memory as a tree
 * of values. */
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

/* Some editors put a byte order mark in front of UTF-8. */
static size_t mark_length(const char *bytes, size_t n_bytes) {
  return n_bytes >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
}

sl_status sl_rows_parse_lines(const char *bytes, size_t n_bytes, const char *name, sl_rows *rows, sl_row_fn take,
                              void *user) {
  int line = 0;
  for (size_t at = mark_length(bytes, n_bytes); at < n_bytes;) {
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

/* ---- texts of one value ---- */

typedef struct scanner {
  const char *next, *end;
  int line;
} scanner;

static bool at_end(const scanner *s) { return s->next >= s->end; }

static void skip_space(scanner *s) {
  while (!at_end(s) && *s->next && strchr(" \t\r\n", *s->next)) s->line += *s->next++ == '\n';
}

/* Passes blanks and this character; false, with the character still there, when another stands there. */
static bool skip_mark(scanner *s, char mark) {
  skip_space(s);
  if (at_end(s) || *s->next != mark) return false;
  s->next++;
  return true;
}

/* Passes a string whose opening quote is next; *text points behind it. False when it has no end. */
static bool skip_string(scanner *s, const char **text, size_t *length) {
  *text = ++s->next;
  while (!at_end(s) && *s->next != '"') s->next += *s->next == '\\' && s->end - s->next > 1 ? 2 : 1;
  *length = (size_t)(s->next - *text);
  return skip_mark(s, '"');
}

/* Passes one value of any kind; of what is inside brackets only strings and brackets are looked at. False when the text
 * ends before the value does. */
static bool skip_value(scanner *s) {
  int64_t depth = 0;
  const char *text;
  size_t length;
  skip_space(s);
  do {
    if (at_end(s)) return false;
    const char c = *s->next;
    if (c == '"') {
      if (!skip_string(s, &text, &length)) return false;
    } else if (strchr("[{]},:", c) && c) {
      depth += c == '[' || c == '{' ? 1 : c == ']' || c == '}' ? -1 : 0;
      if (depth < 0 || (depth == 0 && (c == ',' || c == ':'))) return false;
      s->next++;
    } else {
      const char *begin = s->next;
      while (!at_end(s) && *s->next && !strchr(" \t\r\n,:[]{}\"", *s->next)) s->next++;
      if (s->next == begin) return false; /* U+0000 */
    }
    if (depth > 0) skip_space(s);
  } while (depth > 0);
  return true;
}

/* To the value at a member of the root object; false when there is none. */
static bool find_member(scanner *s, const char *key) {
  const char *text;
  size_t length;
  if (!skip_mark(s, '{')) return false;
  do {
    skip_space(s);
    if (at_end(s) || *s->next != '"' || !skip_string(s, &text, &length) || !skip_mark(s, ':')) return false;
    if (length == strlen(key) && memcmp(text, key, length) == 0) return true;
    if (!skip_value(s)) return false;
  } while (skip_mark(s, ','));
  return false;
}

void sl_rows_lines(const char *bytes, size_t n_bytes, const char *key, int *lines, int n) {
  scanner s = {bytes, bytes + n_bytes, 1};
  const char *text;
  size_t length;
  for (int i = 0; i < n; i++) lines[i] = 0;
  if (key && !find_member(&s, key)) return;
  skip_space(&s);
  if (at_end(&s)) return;
  const bool named = *s.next++ == '{';
  for (int i = 0; i < n; i++) {
    skip_space(&s);
    if (at_end(&s) || *s.next == ']' || *s.next == '}') return;
    lines[i] = s.line;
    if (named && (*s.next != '"' || !skip_string(&s, &text, &length) || !skip_mark(&s, ':'))) return;
    if (!skip_value(&s) || !skip_mark(&s, ',')) return;
  }
}

static sl_status take_element(sl_rows *rows, const char *name, int line, const char *bytes, size_t n_bytes,
                              sl_row_fn take, void *user) {
  return *bytes == '{' ? take_line(rows, name, line, bytes, n_bytes, take, user)
                       : sl_rows_take(rows, name, line, take, user, NULL);
}

sl_status sl_rows_parse_array(const char *bytes, size_t n_bytes, const char *name, const char *key, sl_rows *rows,
                              sl_row_fn take, void *user) {
  scanner s = {bytes + mark_length(bytes, n_bytes), bytes + n_bytes, 1};
  if ((key && !find_member(&s, key)) || !skip_mark(&s, '['))
    SL_FAIL(SL_ERROR_FORMAT, "%s: expected an array%s%s", name, key ? " at key " : "", key ? key : "");
  if (skip_mark(&s, ']')) return SL_OK;
  do {
    skip_space(&s);
    const char *begin = s.next;
    const int line = s.line;
    if (!skip_value(&s))
      SL_FAIL(SL_ERROR_FORMAT, "%s: line %d: the element that begins here does not end: the file is cut off or damaged",
              name, line);
    SL_TRY(take_element(rows, name, line, begin, (size_t)(s.next - begin), take, user));
  } while (skip_mark(&s, ','));
  if (skip_mark(&s, ']')) return SL_OK;
  SL_FAIL(SL_ERROR_FORMAT, "%s: line %d: expected , or ] behind an element", name, s.line);
}

sl_status sl_rows_read_array(const char *path, const char *key, sl_rows *rows, sl_row_fn take, void *user) {
  char *bytes;
  size_t n_bytes;
  SL_TRY(sl_file_read(path, SL_ROWS_MAX_BYTES, &bytes, &n_bytes));
  const sl_status status = sl_rows_parse_array(bytes, n_bytes, path, key, rows, take, user);
  free(bytes);
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
