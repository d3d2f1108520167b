/* libFuzzer target: the first byte chooses. Odd: what follows is a tokenizer.json, a NUL byte, and a text to encode with
 * it. Even: what follows is a text for a fixed small tokenizer with added tokens, a regular expression and byte
 * fallback. Whatever opens must encode valid text to ids it knows and decode them to valid UTF-8. */
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static const char fixed_json[] =
    "{\"added_tokens\":[{\"id\":8,\"content\":\"<i>\",\"special\":true,\"normalized\":false,\"lstrip\":true,"
    "\"rstrip\":true,\"single_word\":true},{\"id\":9,\"content\":\"Ab\",\"special\":false,\"normalized\":true,"
    "\"lstrip\":false,\"rstrip\":false,\"single_word\":false}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"},{\"type\":\"Lowercase\"},"
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"_\"}]},"
    "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|"
    "\\\\p{N}{1,3}+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"MergedWithNext\",\"invert\":false},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
    "{\"type\":\"Strip\",\"content\":\"_\",\"start\":1,\"stop\":1}]},"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"u\",\"fuse_unk\":true,\"byte_fallback\":true,\"vocab\":{\"u\":0,"
    "\"a\":1,\"b\":2,\"_\":3,\"ab\":4,\"_a\":5,\"<0xC3>\":6,\"<0xA9>\":7},\"merges\":[[\"a\",\"b\"],[\"_\",\"a\"]]}}";

static void use(const sl_tokenizer *tokenizer, const char *text, size_t n_bytes) {
  int32_t *ids;
  int n_id;
  if (sl_tokenizer_encode(tokenizer, text, n_bytes, true, &ids, &n_id) != SL_OK) {
    if (ids) abort();
    return;
  }
  sl_text out = {0};
  if (sl_tokenizer_decode(tokenizer, ids, n_id, n_bytes % 2, &out) == SL_OK && out.length > 0 &&
      !sl_utf8_valid(out.data, out.length, NULL))
    abort();
  for (int i = 0; i < n_id; i++) sl_tokenizer_is_special(tokenizer, ids[i]);
  sl_text_dispose(&out);
  free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes) {
  static sl_tokenizer *fixed;
  if (!fixed && sl_tokenizer_parse(&fixed, fixed_json, strlen(fixed_json), "fixed.json") != SL_OK) abort();
  if (n_bytes == 0) return 0;
  const char *rest = (const char *)bytes + 1;
  size_t n_rest = n_bytes - 1;
  if (bytes[0] % 2 == 0) {
    use(fixed, rest, n_rest);
    return 0;
  }
  const char *cut = memchr(rest, 0, n_rest);
  size_t n_json = cut ? (size_t)(cut - rest) : n_rest;
  sl_tokenizer *tokenizer;
  if (sl_tokenizer_parse(&tokenizer, rest, n_json, "fuzz.json") != SL_OK) {
    if (tokenizer || !strstr(sl_error_message(), "fuzz.json")) abort();
    return 0;
  }
  if (cut) use(tokenizer, cut + 1, n_rest - n_json - 1);
  sl_tokenizer_close(tokenizer);
  return 0;
}
