/* Tokenizers out of JSON that a test writes down. */
#ifndef TESTS_TOKENIZER_JSON_H
#define TESTS_TOKENIZER_JSON_H

#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "input/tokenizer_internal.h"

static inline char *must_print(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline char *must_print(const char *format, ...) {
  va_list list;
  char *text;
  va_start(list, format);
  assert_true(vasprintf(&text, format, list) >= 0);
  va_end(list);
  return text;
}

static inline void assert_message(const char *part) {
  if (!strstr(sl_error_message(), part)) fail_msg("expected \"%s\" in \"%s\"", part, sl_error_message());
}

static inline sl_status parse(sl_tokenizer **out, const char *json) {
  return sl_tokenizer_parse(out, json, strlen(json), "t.json");
}

static inline sl_tokenizer *must_parse(const char *json) {
  sl_tokenizer *tokenizer;
  if (parse(&tokenizer, json) != SL_OK) fail_msg("%s\n%s", sl_error_message(), json);
  return tokenizer;
}

/* A tokenizer of 256 byte tokens around the given components; ` stands for ". */
static inline char *byte_json(const char *normalizer, const char *pre_tokenizer, const char *decoder, const char *added,
                       const char *model) {
  sl_text vocab = {0};
  for (int b = 0; b < 256; b++) assert_int_equal(sl_text_format(&vocab, "%s`<0x%02X>`:%d", b ? "," : "", b, b), SL_OK);
  char *json = must_print("{`version`:`1.0`,`normalizer`:%s,`pre_tokenizer`:%s,`decoder`:%s,`added_tokens`:[%s],"
                          "`model`:{`type`:`BPE`,`byte_fallback`:true%s,`vocab`:{%s},`merges`:[]}}",
                          normalizer ? normalizer : "null", pre_tokenizer ? pre_tokenizer : "null",
                          decoder ? decoder : "null", added, model, vocab.data);
  for (char *c = json; *c; c++)
    if (*c == '`') *c = '"';
  sl_text_dispose(&vocab);
  return json;
}

static inline void assert_decodes(const sl_tokenizer *t, const int32_t *ids, int n_id, bool skip, const char *expected) {
  sl_text text = {0};
  assert_int_equal(sl_tokenizer_decode(t, ids, n_id, skip, &text), SL_OK);
  assert_string_equal(text.data, expected);
  sl_text_dispose(&text);
}

#endif
