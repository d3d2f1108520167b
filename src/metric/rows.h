/* Rows of data sets that people wrote: JSON lines, or the members of one JSON text. A bad row is named with file and
 * line; it stops the reading (strict), or is recorded and left out. */
#ifndef SL_METRIC_ROWS_H
#define SL_METRIC_ROWS_H

#include "base/json.h"

#define SL_ROWS_KEPT 100 /* messages kept; all are counted */

/* Zero-initialise, set `strict`; release with sl_rows_dispose. */
typedef struct sl_rows {
  bool strict;
  int n_bad;
  char *messages[SL_ROWS_KEPT];
} sl_rows;
void sl_rows_dispose(sl_rows *rows);

/* Takes one row. SL_ERROR_FORMAT says that the row is bad (the message says why, without file and line); every other
 * failure ends the reading. */
typedef sl_status (*sl_row_fn)(void *user, json_t *row, int line);

/* A file of JSON objects, one a line. Empty lines are skipped; a last line without its end is one. */
sl_status sl_rows_read_lines(const char *path, sl_rows *rows, sl_row_fn take, void *user);

/* The same over text: what is read was found at `name`. */
sl_status sl_rows_parse_lines(const char *bytes, size_t n_bytes, const char *name, sl_rows *rows, sl_row_fn take,
                              void *user);

/* One JSON text: the elements of the array at `key` of the root object (NULL: of the root array), each parsed by itself.
 * What stands behind the array is not looked at. No such array, or one that does not end, is a format error. */
sl_status sl_rows_read_array(const char *path, const char *key, sl_rows *rows, sl_row_fn take, void *user);
sl_status sl_rows_parse_array(const char *bytes, size_t n_bytes, const char *name, const char *key, sl_rows *rows,
                              sl_row_fn take, void *user);

/* Calls `take` for one row and turns a bad one into a record or an error. */
sl_status sl_rows_take(sl_rows *rows, const char *path, int line, sl_row_fn take, void *user, json_t *row);

/* The line on which each member of the array or object at `key` (NULL: the root) begins: lines [n]; 0 for those that the
 * text lacks. */
void sl_rows_lines(const char *bytes, size_t n_bytes, const char *key, int *lines, int n);

/* Members of a row; a missing one or one of another type makes the row bad. Texts are borrowed. */
sl_status sl_row_text(const json_t *row, const char *key, const char **out);
sl_status sl_row_int(const json_t *row, const char *key, int64_t *out);
/* A text or a whole number, as a new text. */
sl_status sl_row_id(const json_t *row, const char *key, char **out);

/* Bad unless `name` is a relative path that stays below the folder it is relative to. */
sl_status sl_row_check_path(const char *name);

/* Files up to this size are read. */
#define SL_ROWS_MAX_BYTES ((size_t)1 << 31)

#endif
