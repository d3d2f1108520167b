/* Tokenizer files that are malformed or hostile: one sentence each, and no more time than honest ones take. */
#include "tokenizer_json.h"

/* ---- malformed files ---- */

#define MODEL(vocab, merges) "{`model`:{`type`:`BPE`,`vocab`:" vocab ",`merges`:" merges "}"
#define OK_MODEL MODEL("{`a`:0}", "[]")

static const struct {
  const char *json;
  sl_status status;
  const char *message;
} malformed[] = {
    {"", SL_ERROR_FORMAT, "t.json"},
    {"[]", SL_ERROR_FORMAT, "expected a JSON object"},
    {"{}", SL_ERROR_FORMAT, "\"model\""},
    {"{`version`:`2.0`}", SL_ERROR_UNSUPPORTED, "2.0"},
    {"{`model`:{`type`:`Unigram`,`vocab`:[]}}", SL_ERROR_UNSUPPORTED, "Unigram"},
    {"{`model`:{`type`:3}}", SL_ERROR_FORMAT, "type"},
    {"{`model`:{`dropout`:0.1}}", SL_ERROR_UNSUPPORTED, "dropout"},
    {"{`model`:{`type`:`BPE`}}", SL_ERROR_FORMAT, "vocab"},
    {"{`model`:{`vocab`:{`a`:0}}}", SL_ERROR_FORMAT, "merges"},
    {MODEL("{`a`:0,`b`:0}", "[]") "}", SL_ERROR_FORMAT, "both"},
    {MODEL("{`a`:-1}", "[]") "}", SL_ERROR_FORMAT, "found -1"},
    {MODEL("{`a`:10000001}", "[]") "}", SL_ERROR_FORMAT, "10000001"},
    {MODEL("{`a`:99999999999999999999}", "[]") "}", SL_ERROR_FORMAT, "t.json"},
    {MODEL("{`a`:1.5}", "[]") "}", SL_ERROR_FORMAT, "integer"},
    {MODEL("{`a`:0,`a`:1}", "[]") "}", SL_ERROR_FORMAT, "t.json"},
    {MODEL("{`a`:0}", "[`a b`]") "}", SL_ERROR_FORMAT, "t.json: merge 0: expected a token of the vocabulary, found \"b\""},
    {MODEL("{`a`:0}", "[`a a`]") "}", SL_ERROR_FORMAT, "merge 0: expected a token of the vocabulary, found \"aa\""},
    {MODEL("{`a`:0,`aa`:1}", "[`aa`]") "}", SL_ERROR_FORMAT, "merge 0: expected two tokens and one space, found \"aa\""},
    {MODEL("{`a`:0,`aa`:1}", "[`a a`,null]") "}", SL_ERROR_FORMAT, "merge 1"},
    {MODEL("{`a`:0,`aa`:1}", "[`a a`,[`a`,`a`]]") "}", SL_ERROR_FORMAT, "merge 1"},
    {MODEL("{`a`:0,`aa`:1}", "[[`a`]]") "}", SL_ERROR_FORMAT, "pair"},
    {MODEL("{`a`:0,`aa`:1}", "[[`a`,1]]") "}", SL_ERROR_FORMAT, "pair"},
    {MODEL("{`a`:0}", "7") "}", SL_ERROR_FORMAT, "merges"},
    {OK_MODEL ",`added_tokens`:{}}", SL_ERROR_FORMAT, "added_tokens"},
    {OK_MODEL ",`added_tokens`:[{`id`:1}]}", SL_ERROR_FORMAT, "content"},
    {OK_MODEL ",`added_tokens`:[{`id`:-1,`content`:`x`}]}", SL_ERROR_FORMAT, "\"x\""},
    {OK_MODEL ",`added_tokens`:[{`id`:1,`content`:`x`}]}", SL_ERROR_FORMAT, "special"},
    {OK_MODEL ",`added_tokens`:[{`id`:1,`content`:` x `,`special`:false,`normalized`:true,`lstrip`:false,`rstrip`:false,"
     "`single_word`:false}],`normalizer`:{`type`:`Replace`,`pattern`:{`Regex`:`.`},`content`:``}}", SL_ERROR_UNSUPPORTED,
     "added token \" x \" is empty once normalised"},
    {OK_MODEL ",`normalizer`:{`type`:`Precompiled`}}", SL_ERROR_UNSUPPORTED, "normalizer of type \"Precompiled\""},
    {OK_MODEL ",`normalizer`:{}}", SL_ERROR_FORMAT, "type"},
    {OK_MODEL ",`normalizer`:7}", SL_ERROR_FORMAT, "an integer"},
    {OK_MODEL ",`normalizer`:{`type`:`Sequence`}}", SL_ERROR_FORMAT, "normalizers"},
    {OK_MODEL ",`pre_tokenizer`:{`type`:`UnicodeScripts`}}", SL_ERROR_UNSUPPORTED, "UnicodeScripts"},
    {OK_MODEL ",`pre_tokenizer`:{`type`:`Metaspace`,`replacement`:`ab`}}", SL_ERROR_FORMAT, "one character"},
    {OK_MODEL ",`pre_tokenizer`:{`type`:`Split`,`pattern`:{`Regex`:`(`},`behavior`:`Isolated`,`invert`:false}}",
     SL_ERROR_FORMAT, "regular expression \"(\""},
    {OK_MODEL ",`pre_tokenizer`:{`type`:`Split`,`pattern`:{`Regex`:`[a&&b]`},`behavior`:`Isolated`,`invert`:false}}",
     SL_ERROR_UNSUPPORTED, "intersection"},
    {OK_MODEL ",`pre_tokenizer`:{`type`:`Split`,`pattern`:{`Regex`:`a`},`behavior`:`Odd`,`invert`:false}}",
     SL_ERROR_FORMAT, "Odd"},
    {OK_MODEL ",`pre_tokenizer`:{`type`:`Split`,`pattern`:7}}", SL_ERROR_FORMAT, "pattern"},
    {OK_MODEL ",`post_processor`:{`type`:`TemplateProcessing`,`single`:[{`SpecialToken`:{`id`:`q`}}]}}",
     SL_ERROR_FORMAT, "\"q\""},
    {OK_MODEL ",`post_processor`:{`type`:`TemplateProcessing`,`single`:[{`Sequence`:{`id`:`B`}}]}}", SL_ERROR_FORMAT,
     "Sequence A"},
    {OK_MODEL ",`decoder`:{`type`:`CTC`}}", SL_ERROR_UNSUPPORTED, "decoder of type \"CTC\""},
    {OK_MODEL ",`decoder`:{`type`:`Strip`,`content`:` `,`start`:-1,`stop`:0}}", SL_ERROR_FORMAT, "start"},
};

static void test_malformed(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
    char *json = must_print("%s", malformed[i].json);
    for (char *c = json; *c; c++)
      if (*c == '`') *c = '"';
    sl_tokenizer *t;
    sl_status status = parse(&t, json);
    if (status != malformed[i].status) fail_msg("%s: status %d: %s", json, (int)status, sl_error_message());
    assert_null(t);
    assert_message("t.json");
    assert_message(malformed[i].message);
    free(json);
  }
}

static void test_deep_json(void **state) {
  (void)state;
  sl_text json = {0};
  assert_int_equal(sl_text_append_string(&json, "{\"model\":{\"vocab\":{},\"merges\":[]},\"decoder\":"), SL_OK);
  for (int i = 0; i < 40; i++)
    assert_int_equal(sl_text_append_string(&json, "{\"type\":\"Sequence\",\"decoders\":["), SL_OK);
  for (int i = 0; i < 40; i++) assert_int_equal(sl_text_append_string(&json, "]}"), SL_OK);
  assert_int_equal(sl_text_append_string(&json, "}"), SL_OK);
  sl_tokenizer *t;
  assert_int_equal(parse(&t, json.data), SL_ERROR_UNSUPPORTED);
  assert_message("nested");
  json.length = 0;
  for (int i = 0; i < 100000; i++) assert_int_equal(sl_text_append_string(&json, "["), SL_OK);
  assert_int_equal(parse(&t, json.data), SL_ERROR_FORMAT);
  sl_text_dispose(&json);
}

/* Ids with gaps: unused ids have no piece, decode to nothing; the added token counts tokens, as the reference does. */
static void test_gaps(void **state) {
  (void)state;
  sl_tokenizer *t = must_parse("{\"model\":{\"vocab\":{\"a\":0,\"b\":7},\"merges\":[]},"
                               "\"decoder\":{\"type\":\"Fuse\"}}");
  assert_int_equal(sl_tokenizer_vocab_size(t), 8);
  assert_null(sl_tokenizer_piece(t, 3, NULL));
  assert_decodes(t, (int32_t[]){0, 3, 7}, 3, false, "ab");
  sl_tokenizer_close(t);
}

/* ---- time ---- */

/* A megabyte in one word: merge candidates taken must stay linear in the text. */
static void test_long_text(void **state) {
  (void)state;
  sl_tokenizer *t = must_parse("{\"model\":{\"vocab\":{\"a\":0,\"aa\":1,\"aaaa\":2,\"aaaaaaaa\":3},"
                               "\"merges\":[\"a a\",\"aa aa\",\"aaaa aaaa\"]}}");
  size_t n = 1 << 20;
  char *text = malloc(n);
  assert_non_null(text);
  memset(text, 'a', n);
  int32_t *ids;
  int n_id;
  uint64_t n_step;
  assert_int_equal(sl_tok_encode_counted(t, text, n, true, &ids, &n_id, &n_step), SL_OK);
  assert_int_equal(n_id, n / 8);
  assert_true(n_step < 4 * n);
  free(ids);
  free(text);
  sl_tokenizer_close(t);
}

/* An expression that would take 2^40 steps is an error, not a wait. */
static void test_hostile_regex(void **state) {
  (void)state;
  char *json = byte_json(NULL, "{`type`:`Split`,`pattern`:{`Regex`:`(a|a)*[bc]`},`behavior`:`Isolated`,`invert`:false}",
                         NULL, "", "");
  sl_tokenizer *t = must_parse(json);
  int32_t *ids;
  int n_id;
  const char *text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
  assert_int_equal(sl_tokenizer_encode(t, text, strlen(text), true, &ids, &n_id), SL_ERROR_UNSUPPORTED);
  assert_message("too long");
  assert_int_equal(sl_tokenizer_encode(t, "aab", 3, true, &ids, &n_id), SL_OK);
  assert_int_equal(n_id, 3);
  free(ids);
  sl_tokenizer_close(t);
  free(json);
}

/* Every place of a text may be compared with all of a token that is looked for there. */
static void test_long_added_token(void **state) {
  (void)state;
  for (int over = 0; over < 2; over++) {
    char *content = must_print("<%0*d>", SL_TOK_MAX_KEY - 2 + over, 0);
    char *added = must_print("{`id`:999,`content`:`%s`,`special`:true,`normalized`:false,`lstrip`:false,`rstrip`:false,"
                             "`single_word`:false}", content);
    char *json = byte_json(NULL, NULL, NULL, added, "");
    sl_tokenizer *t;
    assert_int_equal(parse(&t, json), over ? SL_ERROR_UNSUPPORTED : SL_OK);
    if (over) assert_message("t.json: token \"<0000000000");
    if (over) assert_message("expected at most 4096 bytes of a token that is looked for in text, found 4097");
    sl_tokenizer_close(t);
    free(json);
    free(added);
    free(content);
  }
}

static void refuse_text(const sl_tokenizer *t, const char *text, size_t n_bytes, const char *message) {
  int32_t *ids;
  int n_id;
  assert_int_equal(sl_tokenizer_encode(t, text, n_bytes, true, &ids, &n_id), SL_ERROR_UNSUPPORTED);
  assert_null(ids);
  assert_message(message);
}

/* Two gigabytes out of one megabyte: told before they are made. */
static void test_blown_up_text(void **state) {
  (void)state;
  char *step = must_print("{`type`:`Replace`,`pattern`:{`String`:`a`},`content`:`%02048d`}", 0);
  char *json = byte_json(step, NULL, NULL, "", "");
  sl_tokenizer *t = must_parse(json);
  size_t n = 1 << 20;
  char *text = malloc(n);
  assert_non_null(text);
  memset(text, 'a', n);
  refuse_text(t, text, n, "t.json: a text of more than 1073741824 bytes once normalised");
  free(text);
  sl_tokenizer_close(t);
  free(json);
  free(step);
}

/* The same limits, lowered: of one piece, of all pieces between added tokens, after splitting, and between steps. */
static void test_lowered_limits(void **state) {
  (void)state;
  char *json = byte_json("{`type`:`Prepend`,`prepend`:`yyyyyyyy`}",
                         "{`type`:`Metaspace`,`replacement`:`\xe2\x96\x81`,`prepend_scheme`:`never`}", NULL,
                         "{`id`:999,`content`:`x`,`special`:true,`normalized`:false,`lstrip`:false,`rstrip`:false,"
                         "`single_word`:false}", "");
  sl_tokenizer *t = must_parse(json);
  int32_t *ids;
  int n_id;
  assert_int_equal(t->normalizers.max_bytes, 1 << 30);
  assert_int_equal(t->splitters.max_bytes, 1 << 30);
  t->normalizers.max_bytes = t->splitters.max_bytes = 20;
  assert_int_equal(sl_tokenizer_encode(t, "axa", 3, true, &ids, &n_id), SL_OK);
  assert_int_equal(n_id, 19);
  free(ids);
  refuse_text(t, "aaaaaaaaaaaaa", 13, "more than 20 bytes once normalised");
  refuse_text(t, "axaxa", 5, "more than 20 bytes once normalised");
  refuse_text(t, "      ", 6, "t.json: a text of more than 20 bytes once split");
  sl_tokenizer_close(t);
  free(json);
  json = byte_json("{`type`:`Sequence`,`normalizers`:[{`type`:`Prepend`,`prepend`:`yyyyyyyyyyyyyyyyyyyy`},"
                   "{`type`:`Replace`,`pattern`:{`String`:`y`},`content`:``}]}", NULL, NULL, "", "");
  t = must_parse(json);
  t->normalizers.max_bytes = 20;
  refuse_text(t, "a", 1, "more than 20 bytes once normalised"); /* in between */
  sl_tokenizer_close(t);
  free(json);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_malformed),
      cmocka_unit_test(test_deep_json),
      cmocka_unit_test(test_gaps),
      cmocka_unit_test(test_long_text),
      cmocka_unit_test(test_hostile_regex),
      cmocka_unit_test(test_long_added_token),
      cmocka_unit_test(test_blown_up_text),
      cmocka_unit_test(test_lowered_limits),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
