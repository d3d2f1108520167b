/* libFuzzer target: a text, a NUL byte, and the lines of a qwen.tiktoken; the 256 byte tokens come before them, so that
 * short inputs open. Whatever opens must give a text back: NFC aside, decoding undoes encoding. */
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static sl_status byte_lines(sl_text *out) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (int b = 0; b < 256; b++) SL_TRY(sl_text_format(out, "%c%c== %d\n", digits[b >> 2], digits[(b & 3) << 4], b));
  return SL_OK;
}

static void use(const sl_tokenizer *tokenizer, const char *text, size_t n_bytes) {
  int32_t *ids;
  int n_id;
  if (sl_tokenizer_encode(tokenizer, text, n_bytes, true, &ids, &n_id) != SL_OK) {
    if (ids) abort();
    return;
  }
  sl_text out = {0};
  if (sl_tokenizer_decode(tokenizer, ids, n_id, false, &out) != SL_OK) abort();
  bool ascii = true;
  for (size_t i = 0; i < n_bytes; i++) ascii &= (uint8_t)text[i] < 0x80;
  if (ascii && (out.length != n_bytes || (n_bytes > 0 && memcmp(out.data, text, n_bytes) != 0))) abort();
  sl_text_dispose(&out);
  free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes) {
  const char *text = (const char *)bytes, *cut = n_bytes > 0 ? memchr(bytes, 0, n_bytes) : NULL;
  if (!cut) return 0;
  size_t n_text = (size_t)(cut - text);
  sl_text lines = {0};
  if (byte_lines(&lines) != SL_OK || sl_text_append(&lines, cut + 1, n_bytes - n_text - 1) != SL_OK) abort();
  sl_tokenizer *tokenizer;
  if (sl_tokenizer_parse_tiktoken(&tokenizer, lines.data, lines.length, "fuzz.tiktoken") != SL_OK) {
    if (tokenizer || !strstr(sl_error_message(), "fuzz.tiktoken")) abort();
  } else {
    use(tokenizer, text, n_text);
    sl_tokenizer_close(tokenizer);
  }
  sl_text_dispose(&lines);
  return 0;
}
