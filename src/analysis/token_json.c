/* Tokens and texts as JSON values: jansson refuses what is not UTF-8, and a byte token may be half a character. */
#include "analysis/token_json.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"

json_t *sl_json_text(const char *bytes, size_t n_bytes) {
  if (sl_utf8_valid(bytes, n_bytes, NULL)) return json_stringn(bytes, n_bytes);
  sl_text clean = {0};
  json_t *value = NULL;
  bool ok = true;
  for (size_t i = 0; i < n_bytes && ok;) {
    uint32_t code;
    char encoded[4];
    i += sl_utf8_decode(bytes + i, n_bytes - i, &code);
    ok = sl_text_append(&clean, encoded, sl_utf8_encode(code, encoded)) == SL_OK;
  }
  if (ok) value = json_stringn(clean.data, clean.length);
  sl_text_dispose(&clean);
  return value;
}

/* A head may be wider than the vocabulary: such ids read as nothing. */
static sl_status known_ids(const sl_tokenizer *tokenizer, const int32_t *ids, int n_id, int32_t **out, int *n) {
  SL_TRY(SL_ALLOC(*out, (size_t)n_id, "token ids"));
  *n = 0;
  for (int i = 0; i < n_id; i++)
    if (ids[i] < sl_tokenizer_vocab_size(tokenizer)) (*out)[(*n)++] = ids[i];
  return SL_OK;
}

sl_status sl_json_ids_text(const sl_analysis_context *c, const int32_t *ids, int n_id, json_t **out) {
  const sl_tokenizer *tokenizer = sl_model_get_tokenizer(c->model);
  sl_text text = {0};
  int32_t *known = NULL;
  int n_known = 0;
  *out = NULL;
  sl_status status = known_ids(tokenizer, ids, n_id, &known, &n_known);
  if (status == SL_OK) status = sl_text_append(&text, "", 0);
  if (status == SL_OK) status = sl_tokenizer_decode(tokenizer, known, n_known, true, &text);
  if (status == SL_OK) {
    *out = sl_json_text(text.length ? text.data : "", text.length);
    if (!*out) status = sl_fail(SL_ERROR_MEMORY, "%s: no memory for a text", c->info->name);
  }
  free(known);
  sl_text_dispose(&text);
  return status;
}

json_t *sl_json_token_text(const sl_analysis_context *c, int32_t id) {
  static const struct {
    const char *spelled, *means;
  } marks[] = {{"\xe2\x96\x81", " "}, {"\xc4\xa0", " "}, {"\xc4\x8a", "\n"}, {"<0x0A>", "\n"}};
  const size_t n_mark = sizeof marks / sizeof *marks;
  size_t n_byte = 0;
  const char *piece = sl_model_piece(c->model, id, &n_byte);
  sl_text text = {0};
  bool ok = sl_text_append(&text, "", 0) == SL_OK;
  for (size_t i = 0; piece && i < n_byte && ok;) {
    size_t m = 0, n = 1;
    for (; m < n_mark; m++) {
      const size_t length = strlen(marks[m].spelled);
      if (n_byte - i < length || memcmp(piece + i, marks[m].spelled, length) != 0) continue;
      n = length;
      break;
    }
    ok = (m < n_mark ? sl_text_append_string(&text, marks[m].means) : sl_text_append(&text, piece + i, 1)) == SL_OK;
    i += n;
  }
  json_t *value = ok ? sl_json_text(text.length ? text.data : "", text.length) : NULL;
  sl_text_dispose(&text);
  return value;
}
