/* JSON: jansson behind our limits and messages. */
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"

#define PARSE_FLAGS (JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL)
#define REAL_DIGITS 9 /* enough to bring every f32 back */
#define LEAST_DIGITS 15 /* that a double always holds; as %g prints them, there are no idle zeros */
#define MOST_DIGITS 17 /* enough to bring every double back */
#define REAL_BYTES 40

/* True when the integer literal of n_bytes (sign and digits) does not fit 64 bits. */
static bool integer_too_big(const char *literal, size_t n_bytes) {
  if (n_bytes < 19) return false; /* 2^63 has 19 digits */
  bool negative = literal[0] == '-';
  int64_t value = 0;
  for (size_t i = negative; i < n_bytes; i++) {
    int digit = literal[i] - '0';
    if (__builtin_mul_overflow(value, 10, &value)) return true;
    if (__builtin_add_overflow(value, negative ? -digit : digit, &value)) return true;
  }
  return false;
}

/* Where the next number of a JSON text begins, from `at`, a place outside strings, on; n_bytes: there is none. */
static size_t next_number(const char *bytes, size_t n_bytes, size_t at) {
  bool in_string = false;
  for (; at < n_bytes; at++) {
    const char c = bytes[at];
    if (in_string && c == '\\') at++;
    else if (c == '"') in_string = !in_string;
    else if (!in_string && (c == '-' || (c >= '0' && c <= '9'))) return at;
  }
  return n_bytes;
}

/* Copies a JSON text with ".0" after every integer literal that does not fit 64 bits. Python writes such numbers
 * (model_max_length = 10^30 stands in many tokenizer_config.json) and jansson refuses the whole text; as reals they
 * do no harm until somebody asks for an integer there. */
static sl_status widen_integers(const char *bytes, size_t n_bytes, sl_text *wide) {
  size_t copied = 0, end;
  for (size_t i = next_number(bytes, n_bytes, 0); i < n_bytes; i = next_number(bytes, n_bytes, end)) {
    end = i + 1;
    while (end < n_bytes && bytes[end] >= '0' && bytes[end] <= '9') end++;
    bool whole = end == n_bytes || !strchr(".eE", bytes[end]) || bytes[end] == '\0';
    if (whole && integer_too_big(bytes + i, end - i)) {
      SL_TRY(sl_text_append(wide, bytes + copied, end - copied));
      SL_TRY(sl_text_append(wide, ".0", 2));
      copied = end;
    } else if (!whole) { /* skip fraction and exponent: their digits are no integers */
      while (end < n_bytes && bytes[end] != '\0' && strchr("+-.eE0123456789", bytes[end])) end++;
    }
  }
  return sl_text_append(wide, bytes + copied, n_bytes - copied);
}

sl_status sl_json_parse(json_t **out, const char *bytes, size_t n_bytes, const char *name) {
  json_error_t error = {0};
  *out = json_loadb(n_bytes > 0 ? bytes : "", n_bytes, PARSE_FLAGS, &error);
  if (!*out && json_error_code(&error) == json_error_numeric_overflow && strstr(error.text, "integer")) {
    sl_text wide = {0};
    sl_status status = widen_integers(bytes, n_bytes, &wide);
    if (!status) *out = json_loadb(wide.data, wide.length, PARSE_FLAGS, &error);
    sl_text_dispose(&wide);
    SL_TRY(status);
  }
  if (*out) return SL_OK;
  /* Where jansson runs out of memory deep inside, it leaves the text empty. */
  if (json_error_code(&error) == json_error_out_of_memory || error.text[0] == '\0')
    SL_FAIL(SL_ERROR_MEMORY, "%s: out of memory while parsing %zu bytes of JSON", name, n_bytes);
  SL_FAIL(SL_ERROR_FORMAT, "%s: line %d, column %d: expected JSON, found an error: %s", name, error.line, error.column,
          error.text);
}

sl_status sl_json_load(json_t **out, const char *path, size_t max_bytes) {
  *out = NULL;
  char *bytes;
  size_t n_bytes;
  SL_TRY(sl_file_read(path, max_bytes, &bytes, &n_bytes));
  sl_status status = sl_json_parse(out, bytes, n_bytes, path);
  free(bytes);
  return status;
}

json_t *sl_json_at(json_t *root, const char *path) {
  json_t *value = root;
  while (value && *path) {
    size_t n_key = strcspn(path, ".");
    value = json_object_getn(value, path, n_key); /* NULL unless value is an object that has the key */
    path += n_key;
    if (*path == '.') path++;
  }
  return value;
}

static const char *type_name(const json_t *value) {
  switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a real number";
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    case JSON_NULL: return "null";
  }
  return "an unknown value";
}

static sl_status fail_type(const char *name, const char *path, const char *expected, const json_t *value) {
  if (json_is_real(value))
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected %s, found the real number %.9g", name, path, expected,
            json_real_value(value));
  if (json_is_integer(value))
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected %s, found the integer %lld", name, path, expected,
            (long long)json_integer_value(value));
  SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected %s, found %s", name, path, expected, type_name(value));
}

sl_status sl_json_get_int(json_t *root, const char *path, int64_t min, int64_t max, int64_t *out, const char *name) {
  json_t *value = sl_json_at(root, path);
  if (!value || json_is_null(value)) return SL_OK;
  if (!json_is_integer(value)) return fail_type(name, path, "an integer", value);
  int64_t found = json_integer_value(value);
  if (found < min || found > max)
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected an integer in [%lld, %lld], found %lld", name, path, (long long)min,
            (long long)max, (long long)found);
  *out = found;
  return SL_OK;
}

sl_status sl_json_get_real(json_t *root, const char *path, double *out, const char *name) {
  json_t *value = sl_json_at(root, path);
  if (!value || json_is_null(value)) return SL_OK;
  if (!json_is_number(value)) return fail_type(name, path, "a number", value);
  *out = json_number_value(value);
  return SL_OK;
}

sl_status sl_json_get_bool(json_t *root, const char *path, bool *out, const char *name) {
  json_t *value = sl_json_at(root, path);
  if (!value || json_is_null(value)) return SL_OK;
  if (!json_is_boolean(value)) return fail_type(name, path, "true or false", value);
  *out = json_is_true(value);
  return SL_OK;
}

sl_status sl_json_get_string(json_t *root, const char *path, const char **out, const char *name) {
  json_t *value = sl_json_at(root, path);
  if (!value || json_is_null(value)) return SL_OK;
  if (!json_is_string(value)) return fail_type(name, path, "a string", value);
  if (strlen(json_string_value(value)) != json_string_length(value))
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected a string without U+0000, found one inside", name, path);
  *out = json_string_value(value);
  return SL_OK;
}

/* jansson goes on after a failure within an object's key, so the sink remembers it. */
typedef struct dump_sink {
  sl_text text;
  bool failed;
} dump_sink;

static int append_dump(const char *bytes, size_t n_bytes, void *user) {
  dump_sink *sink = user;
  sink->failed = sink->failed || sl_text_append(&sink->text, bytes, n_bytes) != SL_OK;
  return sink->failed ? -1 : 0;
}

static sl_status print(const json_t *value, int indent, int n_digit, sl_text *out) {
  dump_sink sink = {0};
  size_t flags = JSON_ENCODE_ANY | JSON_REAL_PRECISION((size_t)n_digit) | JSON_INDENT((size_t)indent);
  /* Into our buffer: json_dumps would use whatever allocator the host program gave jansson. */
  if (json_dump_callback(value, append_dump, &sink, flags) != 0 || sink.failed) {
    sl_text_dispose(&sink.text);
    SL_FAIL(SL_ERROR_MEMORY, "printing JSON: out of memory, or a value that contains itself");
  }
  *out = sink.text;
  return SL_OK;
}

sl_status sl_json_print(const json_t *value, int indent, char **out) {
  sl_text text = {0};
  *out = NULL;
  if (!value || indent < 0 || indent > JSON_MAX_INDENT)
    SL_FAIL(SL_ERROR_ARGUMENT, "printing JSON: expected a value and an indent in [0, %d], found %s and %d",
            JSON_MAX_INDENT, value ? "one" : "none", indent);
  SL_TRY(print(value, indent, REAL_DIGITS, &text));
  *out = text.data;
  return SL_OK;
}

/* The real number that a literal stands for, with the fewest digits that bring it back. jansson reads and writes a
 * decimal point whatever the locale. */
static size_t shortest(const char *literal, size_t n_bytes, char out[REAL_BYTES]) {
  json_t *real = json_loadb(literal, n_bytes, JSON_DECODE_ANY, NULL);
  size_t n = 0;
  bool same = false;
  for (size_t digits = LEAST_DIGITS; real && digits <= MOST_DIGITS && !same; digits++) {
    n = json_dumpb(real, out, REAL_BYTES, JSON_ENCODE_ANY | JSON_REAL_PRECISION(digits));
    json_t *back = n <= REAL_BYTES ? json_loadb(out, n, JSON_DECODE_ANY, NULL) : NULL;
    same = back && json_real_value(back) == json_real_value(real);
    json_decref(back);
  }
  json_decref(real);
  return same ? n : 0;
}

/* Copies a JSON text with every real number as short as it can be. */
static sl_status shorten_reals(const char *bytes, size_t n_bytes, sl_text *out) {
  size_t copied = 0, length;
  for (size_t i = next_number(bytes, n_bytes, 0); i < n_bytes; i = next_number(bytes, n_bytes, i + length)) {
    char own[REAL_BYTES];
    length = strspn(bytes + i, "+-.eE0123456789");
    const bool real = strcspn(bytes + i, ".eE") < length;
    const size_t n_own = real ? shortest(bytes + i, length, own) : 0;
    if (n_own > 0) {
      SL_TRY(sl_text_append(out, bytes + copied, i - copied));
      SL_TRY(sl_text_append(out, own, n_own));
      copied = i + length;
    }
  }
  return sl_text_append(out, bytes + copied, n_bytes - copied);
}

sl_status sl_json_print_exact(const json_t *value, char **out) {
  sl_text whole = {0}, text = {0};
  *out = NULL;
  if (!value) SL_FAIL(SL_ERROR_ARGUMENT, "printing JSON: expected a value, found none");
  SL_TRY(print(value, 0, MOST_DIGITS, &whole));
  const sl_status status = shorten_reals(whole.data, whole.length, &text);
  sl_text_dispose(&whole);
  if (status == SL_OK)
    *out = text.data;
  else
    sl_text_dispose(&text);
  return status;
}
