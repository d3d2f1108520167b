/* Reading files, and tokenizer.json's values: strings with U+0000, required fields, flattened Sequences, quoting for
 * messages. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "input/tokenizer_internal.h"

enum { MAX_FILE_BYTES = 256 << 20 };

sl_tok_quoted sl_tok_quote(const char *bytes, size_t n_bytes) {
  sl_tok_quoted quoted = {{0}};
  size_t n = n_bytes < 60 ? n_bytes : 60;
  if (n < n_bytes)
    while (n > 0 && ((uint8_t)bytes[n] & 0xc0) == 0x80) n--;
  for (size_t i = 0; i < n; i++) quoted.text[i] = (uint8_t)bytes[i] < 0x20 || bytes[i] == 0x7f ? '?' : bytes[i];
  if (n < n_bytes) memcpy(quoted.text + n, "...", 3);
  return quoted;
}

sl_status sl_tok_read_file(const char *path, char **bytes, size_t *n_bytes) {
  SL_TRY(sl_file_read(path, MAX_FILE_BYTES, bytes, n_bytes));
  sl_status status = sl_refuse_pointer(path, *bytes, *n_bytes, "a file of a tokenizer");
  if (status == SL_OK) return SL_OK;
  free(*bytes);
  *bytes = NULL;
  return status;
}

/* True when the code point occurs in the JSON text, as itself or as an escape. */
static bool occurs(const char *bytes, size_t n_bytes, uint32_t code_point) {
  static const char hex[] = "0123456789abcdef";
  char raw[4], escape[6] = {'\\', 'u', 0, 0, 0, 0};
  size_t n_raw = sl_utf8_encode(code_point, raw);
  for (int i = 0; i < 4; i++) escape[2 + i] = hex[code_point >> (12 - 4 * i) & 15];
  if (memmem(bytes, n_bytes, raw, n_raw)) return true;
  for (size_t i = 0; i + 6 <= n_bytes; i++)
    if (bytes[i] == '\\' && strncasecmp(bytes + i, escape, 6) == 0) return true;
  return false;
}

/* Writes \ufddX over every \u0000 escape; both have six bytes, so positions in messages stay right. */
static bool replace_nuls(char *bytes, size_t n_bytes, uint32_t standin) {
  static const char hex[] = "0123456789abcdef";
  bool any = false;
  for (size_t i = 0; i + 1 < n_bytes; i++) {
    if (bytes[i] != '\\') continue;
    if (i + 6 <= n_bytes && memcmp(bytes + i, "\\u0000", 6) == 0) {
      for (int k = 0; k < 4; k++) bytes[i + 2 + k] = hex[standin >> (12 - 4 * k) & 15];
      any = true;
    }
    i++; /* an escaped backslash starts no escape */
  }
  return any;
}

sl_status sl_tok_source_parse(sl_tok_source *source, json_t **root, const char *bytes, size_t n_bytes) {
  source->nul_standin = 0;
  if (!memmem(bytes, n_bytes, "\\u0000", 6)) return sl_json_parse(root, bytes, n_bytes, source->name);
  uint32_t standin = 0xfdd0;
  while (standin < 0xfdf0 && occurs(bytes, n_bytes, standin)) standin++;
  if (standin == 0xfdf0)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: holds U+0000 and every noncharacter U+FDD0..U+FDEF", source->name);
  char *copy;
  SL_TRY(SL_ALLOC(copy, n_bytes, "tokenizer text"));
  memcpy(copy, bytes, n_bytes);
  if (replace_nuls(copy, n_bytes, standin)) source->nul_standin = standin;
  sl_status status = sl_json_parse(root, copy, n_bytes, source->name);
  free(copy);
  return status;
}

sl_status sl_tok_text(const sl_tok_source *source, const char *bytes, size_t n_bytes, sl_text *out) {
  out->length = 0;
  if (!source->nul_standin) return sl_text_append(out, bytes, n_bytes);
  char standin[4];
  size_t n_standin = sl_utf8_encode(source->nul_standin, standin);
  while (n_bytes > 0) {
    const char *at = memmem(bytes, n_bytes, standin, n_standin);
    size_t n = at ? (size_t)(at - bytes) : n_bytes;
    SL_TRY(sl_text_append(out, bytes, n));
    if (!at) return SL_OK;
    SL_TRY(sl_text_append(out, "", 1));
    bytes += n + n_standin;
    n_bytes -= n + n_standin;
  }
  return sl_text_append(out, "", 0);
}

static const char *type_name(const json_t *value) {
  static const char *const names[] = {"an object", "an array", "a string", "an integer", "a real number",
                                      "true", "false", "null"};
  return value ? names[json_typeof(value)] : "nothing";
}

sl_status sl_tok_text_at(const sl_tok_source *source, json_t *part, const char *key, sl_text *out) {
  json_t *value = json_object_get(part, key);
  if (!json_is_string(value))
    SL_FAIL(SL_ERROR_FORMAT, "%s: \"%s\": expected a string, found %s", source->name, key, type_name(value));
  return sl_tok_text(source, json_string_value(value), json_string_length(value), out);
}

sl_status sl_tok_bool_at(const sl_tok_source *source, json_t *part, const char *key, bool *out) {
  json_t *value = json_object_get(part, key);
  if (!json_is_boolean(value))
    SL_FAIL(SL_ERROR_FORMAT, "%s: \"%s\": expected true or false, found %s", source->name, key, type_name(value));
  *out = json_is_true(value);
  return SL_OK;
}

sl_status sl_tok_char_at(const sl_tok_source *source, json_t *part, const char *key, sl_text *out) {
  SL_TRY(sl_tok_text_at(source, part, key, out));
  uint32_t c;
  if (out->length == 0 || sl_utf8_decode(out->data, out->length, &c) != out->length)
    SL_FAIL(SL_ERROR_FORMAT, "%s: \"%s\": expected one character, found \"%s\"", source->name, key,
            sl_tok_quote(out->data, out->length).text);
  return SL_OK;
}

typedef struct walk {
  const sl_tok_source *source;
  const char *room, *list_key;
  const sl_tok_kind *kinds;
  sl_tok_part_fn *visit;
  void *context;
} walk;

static sl_status walk_part(const walk *w, json_t *part, int depth) {
  const char *name = w->source->name;
  if (!json_is_object(part))
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected an object, found %s", name, w->room, type_name(part));
  json_t *type_value = json_object_get(part, "type");
  if (!json_is_string(type_value))
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: \"type\": expected a string, found %s", name, w->room, type_name(type_value));
  const char *type = json_string_value(type_value);
  if (strcmp(type, "Sequence") == 0) {
    json_t *list = json_object_get(part, w->list_key);
    if (!json_is_array(list))
      SL_FAIL(SL_ERROR_FORMAT, "%s: %s Sequence: \"%s\": expected an array, found %s", name, w->room, w->list_key,
              type_name(list));
    if (depth >= SL_TOK_MAX_DEPTH)
      SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: %s: Sequences nested deeper than %d", name, w->room, SL_TOK_MAX_DEPTH);
    for (size_t i = 0; i < json_array_size(list); i++) SL_TRY(walk_part(w, json_array_get(list, i), depth + 1));
    return SL_OK;
  }
  for (const sl_tok_kind *row = w->kinds; row->type; row++)
    if (strcmp(type, row->type) == 0) return w->visit(w->context, w->source, part, type, row->kind);
  SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: %s of type \"%s\" is not supported", name, w->room,
          sl_tok_quote(type, strlen(type)).text);
}

sl_status sl_tok_walk(const sl_tok_source *source, json_t *part, const char *room, const char *list_key,
                      const sl_tok_kind *kinds, sl_tok_part_fn *visit, void *context) {
  if (!part || json_is_null(part)) return SL_OK;
  walk w = {source, room, list_key, kinds, visit, context};
  return walk_part(&w, part, 0);
}

sl_status sl_tok_no_memory(const char *name) {
  return sl_fail(SL_ERROR_MEMORY, "%s: no memory for its components", name);
}

sl_status sl_tok_grow(void **items, size_t n, size_t *capacity, size_t size, const char *what) {
  if (n < *capacity) return SL_OK;
  size_t wanted;
  if (!sl_size_mul(*capacity, 2, &wanted)) SL_FAIL(SL_ERROR_MEMORY, "%s: too many", what);
  if (wanted < 16) wanted = 16;
  SL_TRY(sl_realloc(items, wanted, size, what));
  *capacity = wanted;
  return SL_OK;
}
