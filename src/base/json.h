/* JSON through jansson, with limits, clear messages and dotted-path look-ups. Numbers print and parse with a dot
 * whatever the locale. Duplicate keys are an error; U+0000 is allowed in strings (tokenizers contain it), but not in
 * keys. An integer beyond 64 bits (Python writes them) becomes a real. JSON has no NaN or infinity: json_real() gives
 * NULL for them. jansson allocates by itself: sl_alloc_fail_at does not reach inside it, and where malloc fails in
 * there it may report a syntax error. */
#ifndef SL_BASE_JSON_H
#define SL_BASE_JSON_H

#include <jansson.h>

#include "base/memory.h"

/* Parses a text whose root is an object or an array, at most 2048 levels deep; `name` (a path) appears in
 * messages with line and column. Release with json_decref. */
sl_status sl_json_parse(json_t **out, const char *bytes, size_t n_bytes, const char *name);

/* Reads and parses a file of at most max_bytes. */
sl_status sl_json_load(json_t **out, const char *path, size_t max_bytes);

/* The value at a dotted path ("text_config.hidden_size"), borrowed; NULL when any part is missing. */
json_t *sl_json_at(json_t *root, const char *path);

/* Typed look-ups by dotted path. A missing key leaves *out as it was (the default) and succeeds; null counts as
 * missing; a wrong type is a format error naming `name`, the path, the type expected and found. */
sl_status sl_json_get_int(json_t *root, const char *path, int64_t min, int64_t max, int64_t *out, const char *name);
sl_status sl_json_get_real(json_t *root, const char *path, double *out, const char *name);
sl_status sl_json_get_bool(json_t *root, const char *path, bool *out, const char *name);
sl_status sl_json_get_string(json_t *root, const char *path, const char **out, const char *name); /* borrowed */

/* Serialises with stable key order (insertion) and `indent` spaces (0 = one line, at most 31); new string, free().
 * Reals get 9 significant digits: every f32 survives, a double does not. */
sl_status sl_json_print(const json_t *value, int indent, char **out);

/* The same on one line, with as many digits as bring every double back and no more than it takes: 0.3 stays 0.3. For
 * what is compared or read again. */
sl_status sl_json_print_exact(const json_t *value, char **out);

#endif
