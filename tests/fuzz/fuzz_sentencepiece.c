/* libFuzzer target: the first two bytes (little endian) are the length of a text, then come the text and a
 * tokenizer.model. Whatever opens must encode valid text to ids it knows and decode them to valid UTF-8. */
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static void use(const sl_tokenizer *tokenizer, const char *text, size_t n_bytes) {
  int32_t *ids;
  int n_id;
  if (sl_tokenizer_encode(tokenizer, text, n_bytes, true, &ids, &n_id) != SL_OK) {
    if (ids) abort();
    return;
  }
  for (int i = 0; i < n_id; i++)
    if (ids[i] < 0 || ids[i] >= sl_tokenizer_vocab_size(tokenizer)) abort();
  sl_text out = {0};
  if (sl_tokenizer_decode(tokenizer, ids, n_id, false, &out) != SL_OK) abort();
  if (out.length > 0 && !sl_utf8_valid(out.data, out.length, NULL)) abort();
  sl_text_dispose(&out);
  free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes) {
  if (n_bytes < 2) return 0;
  size_t n_text = (size_t)bytes[0] | (size_t)bytes[1] << 8;
  if (n_text > n_bytes - 2) n_text = n_bytes - 2;
  const char *text = (const char *)bytes + 2;
  sl_tokenizer *tokenizer;
  if (sl_tokenizer_parse_sentencepiece(&tokenizer, text + n_text, n_bytes - 2 - n_text, "fuzz.model") != SL_OK) {
    if (tokenizer || !strstr(sl_error_message(), "fuzz.model")) abort();
    return 0;
  }
  use(tokenizer, text, n_text);
  sl_tokenizer_close(tokenizer);
  return 0;
}
