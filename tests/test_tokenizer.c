/* The tokenizer against the reference's own numbers: whole tokenizers (tests/golden/tokenizer), then single components;
 * every allocation failing once. Malformed files and limits are in test_tokenizer_files.c. The tables below were printed by `tokenizers` 0.23.3. */
#include "tokenizer_json.h"

/* ---- whole tokenizers ---- */

static int n_compared;

static void compare_ids(const sl_tokenizer *t, json_t *string, bool add_special, json_t *expected, const char *name) {
  int32_t *ids;
  int n_id;
  const char *text = json_string_value(string);
  assert_int_equal(sl_tokenizer_encode(t, text, json_string_length(string), add_special, &ids, &n_id), SL_OK);
  bool equal = (size_t)n_id == json_array_size(expected);
  for (int i = 0; equal && i < n_id; i++) equal = ids[i] == json_integer_value(json_array_get(expected, (size_t)i));
  if (!equal) fail_msg("%s: \"%s\": other ids", name, text);
  free(ids);
  n_compared++;
}

static void compare_text(const sl_tokenizer *t, json_t *list, bool skip_special, json_t *expected, const char *name) {
  int32_t ids[4096];
  size_t n = json_array_size(list);
  assert_true(n <= 4096);
  for (size_t i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
  sl_text text = {0};
  assert_int_equal(sl_tokenizer_decode(t, ids, (int)n, skip_special, &text), SL_OK);
  if (text.length != json_string_length(expected) ||
      (text.length && memcmp(text.data, json_string_value(expected), text.length) != 0))
    fail_msg("%s: expected \"%s\", found \"%s\"", name, json_string_value(expected), text.data);
  sl_text_dispose(&text);
  n_compared++;
}

static void compare_tokenizer(const char *name, json_t *golden, json_t *strings) {
  char *path = must_print(SL_SOURCE_DIR "/tests/golden/tokenizer/%s.json", name);
  sl_tokenizer *t;
  if (sl_tokenizer_open(&t, path) != SL_OK) fail_msg("%s", sl_error_message());
#define AT(key) json_array_get(json_object_get(golden, key), i)
  for (size_t i = 0; i < json_array_size(strings); i++) {
    compare_ids(t, json_array_get(strings, i), true, AT("ids"), name);
    compare_ids(t, json_array_get(strings, i), false, AT("ids_plain"), name);
    compare_text(t, AT("ids"), false, AT("text"), name);
    compare_text(t, AT("ids"), true, AT("text_skip"), name);
    compare_text(t, AT("ids_plain"), false, AT("text_plain"), name);
  }
  for (size_t i = 0; i < json_array_size(json_object_get(golden, "decode_ids")); i++) {
    compare_text(t, AT("decode_ids"), false, AT("decode_text"), name);
    compare_text(t, AT("decode_ids"), true, AT("decode_text_skip"), name);
  }
#undef AT
  sl_tokenizer_close(t);
  free(path);
}

static void test_goldens(void **state) {
  (void)state;
  json_t *root, *golden;
  const char *name;
  assert_int_equal(sl_json_load(&root, SL_SOURCE_DIR "/tests/golden/tokenizer/strings.json", 16 << 20), SL_OK);
  n_compared = 0;
  json_object_foreach(json_object_get(root, "tokenizers"), name, golden)
    compare_tokenizer(name, golden, json_object_get(root, "strings"));
  json_decref(root);
  assert_true(n_compared >= 7000);
}

/* ---- components ---- */

typedef struct pieces_case {
  const char *normalizer, *pre_tokenizer, *text, *pieces; /* every piece ended by | */
} pieces_case;

static const pieces_case pieces_cases[] = {
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
     "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?+\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]++[\\\\r\\\\n]*|"
     "\\\\s*[\\\\r\\\\n]|\\\\s+(?!\\\\S)|\\\\s+`},`behavior`:`Isolated`,`invert`:false}",
     "It'S 12345  o'clock,\n\n  n\xc3\xa9 you'll\xe2\x80\x94x9\xc2\xa0\xe3\x80\x80 \xc5\xbf", "It|'S| |123|45| |"
     " o|'clock|,\n\n| | n\xc3\xa9| you|'ll|\xe2\x80\x94x|9|\xc2\xa0\xe3\x80\x80| \xc5\xbf|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
     "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|"
     "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+`},`behavior`:`Isolated`,`invert`:false}",
     "It'S 12345  o'clock,\n\n  n\xc3\xa9 you'll\xe2\x80\x94x9\xc2\xa0\xe3\x80\x80 \xc5\xbf", "It|'S| |1|2|3|4|"
     "5| | o|'clock|,\n\n| | n\xc3\xa9| you|'ll|\xe2\x80\x94x|9|\xc2\xa0\xe3\x80\x80| \xc5\xbf|"},
    {NULL, "{`type`:`Split`,"
     "`pattern`:{`Regex`:`[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]*["
     "\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?["
     "\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]+[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}"
     "\\\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*|\\\\s*["
     "\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+`},`behavior`:`Isolated`,`invert`:false}",
     "It'S 12345  o'clock,"
     "\n\n  n\xc3\xa9 you'll\xe2\x80\x94x9\xc2\xa0\xe3\x80\x80 \xc5\xbf HTTPServer iPhone's", "It'S| |123|45| |"
     " o|'clock|,\n\n| | n\xc3\xa9| you'll|\xe2\x80\x94x|9|\xc2\xa0\xe3\x80\x80| \xc5\xbf| HTTPServer| i|Phone's|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`\\\\d{2}+`},`behavior`:`Isolated`,`invert`:false}",
     "a12345b67", "a|1234|5b|67|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`o{2}?x`},`behavior`:`Isolated`,`invert`:false}",
     "ooxox", "oox|o|x|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`\\\\x61{2}?b`},`behavior`:`Isolated`,`invert`:false}",
     "aab ab b", "aab| a|b| |b|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`\\\\x{61}{2}+`},`behavior`:`Isolated`,`invert`:false}",
     "aaaaa", "aaaa|a|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`\\\\xa`},`behavior`:`Isolated`,`invert`:false}",
     "a\nb", "a|\n|b|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`a{,2}b`},`behavior`:`Isolated`,`invert`:false}",
     "aaab", "a|aab|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`\\\\w+`},`behavior`:`Isolated`,`invert`:false}",
     "n\xc3\xa9\xc2\xbd\xc2\xb2_\xcc\x81\xe2\x80\x8dx \xcd\x85 \xe2\x92\xb6",
     "n\xc3\xa9\xc2\xbd\xc2\xb2_\xcc\x81|\xe2\x80\x8d|x| |\xcd\x85| |\xe2\x92\xb6|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`[\\\\w-]+`},`behavior`:`Isolated`,`invert`:false}",
     "=\xc2\xbd-b", "=\xc2\xbd|-b|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`\\\\s`},`behavior`:`Isolated`,`invert`:false}",
     "a\xe1\xa0\x8e""b\xc2\x85""c\xc2\xa0""d\xe3\x80\x80""e", "a\xe1\xa0\x8e""b|\xc2\x85|c|\xc2\xa0|d|"
     "\xe3\x80\x80|e|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`[^\\\\S\\\\n]+`},`behavior`:`Isolated`,`invert`:false}",
     "a \n\xe1\xa0\x8e""b", "a| |\n\xe1\xa0\x8e""b|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`[\\\\s-]+`},`behavior`:`Isolated`,`invert`:false}",
     "a -b", "a| -|b|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`\\\\h+`},`behavior`:`Isolated`,`invert`:false}",
     "xafz9 ", "x|af|z|9| |"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`\\\\v`},`behavior`:`Isolated`,`invert`:false}",
     "a\x0b""b\nc", "a|\x0b|b\nc|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`^.`},`behavior`:`Isolated`,`invert`:false}",
     "ab\ncd\n", "a|b\n|c|d\n|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`$`},`behavior`:`Isolated`,`invert`:false}",
     "ab\ncd", "ab|\ncd|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`x*`},`behavior`:`Isolated`,`invert`:false}",
     "axxb", "a|xx|b|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`\\\\b`},`behavior`:`Isolated`,`invert`:false}",
     "it's n\xc3\xa9", "it|'|s| |n\xc3\xa9|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`[a-c[0-9]]+`},`behavior`:`Isolated`,`invert`:false}",
     "zab9z", "z|ab9|z|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`\\\\p{Han}+`},`behavior`:`Isolated`,`invert`:false}",
     "a\xe4\xbd\xa0\xe5\xa5\xbd\xe3\x80\x81\xe3\x83\xbc\xe3\x80\x85""b", "a|\xe4\xbd\xa0\xe5\xa5\xbd|"
     "\xe3\x80\x81\xe3\x83\xbc|\xe3\x80\x85|b|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`\\\\p{^L}`},`behavior`:`Isolated`,`invert`:false}",
     "a1b", "a|1|b|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`(?m:a.b)`},`behavior`:`Isolated`,`invert`:false}",
     "xa\nby", "x|a\nb|y|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`\\\\u0061+`},`behavior`:`Isolated`,`invert`:false}",
     "baab", "b|aa|b|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`[[:punct:]]`},`behavior`:`Isolated`,`invert`:false}",
     "a$b\xc3\x97""c", "a|$|b|\xc3\x97|c|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`a{x}`},`behavior`:`Isolated`,`invert`:false}",
     "a{x}b", "a{x}|b|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`b`},`behavior`:`Removed`,`invert`:false}",
     "abba", "a|a|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`b`},`behavior`:`MergedWithPrevious`,`invert`:false}",
     "babba", "b|ab|b|a|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`b`},`behavior`:`MergedWithNext`,`invert`:false}",
     "abbab", "a|b|ba|b|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`b`},`behavior`:`Contiguous`,`invert`:false}",
     "abba", "a|bb|a|"},
    {NULL, "{`type`:`Split`,`pattern`:{`Regex`:`b+`},`behavior`:`Removed`,`invert`:true}",
     "abba", "bb|"},
    {NULL, "{`type`:`Split`,`pattern`:{`String`:`bb`},`behavior`:`Isolated`,`invert`:false}",
     "abbba.", "a|bb|ba.|"},
    {NULL, "{`type`:`Metaspace`,`replacement`:`\xe2\x96\x81`,`prepend_scheme`:`always`,`split`:true}",
     " a  b", "\xe2\x96\x81""a|\xe2\x96\x81|\xe2\x96\x81""b|"},
    {NULL, "{`type`:`Metaspace`,`replacement`:`\xe2\x96\x81`,`prepend_scheme`:`first`,`split`:true}",
     "ab c", "\xe2\x96\x81""ab|\xe2\x96\x81""c|"},
    {NULL, "{`type`:`Metaspace`,`replacement`:`\xe2\x96\x81`,`prepend_scheme`:`never`,`split`:true}",
     "a b", "a|\xe2\x96\x81""b|"},
    {NULL, "{`type`:`Metaspace`,`replacement`:`\xe2\x96\x81`,`prepend_scheme`:`always`,`split`:false}",
     "a b", "\xe2\x96\x81""a\xe2\x96\x81""b|"},
    {NULL, "{`type`:`Sequence`,`pretokenizers`:[{`type`:`Split`,`pattern`:{`String`:`-`},`behavior`:`Isolated`,"
     "`invert`:false},{`type`:`Metaspace`,`replacement`:`\xe2\x96\x81`,`prepend_scheme`:`first`,`split`:true}]}",
     "a-b c", "\xe2\x96\x81""a|-|b|\xe2\x96\x81""c|"},
    {NULL, "{`type`:`Sequence`,`pretokenizers`:[{`type`:`Split`,`pattern`:{`String`:`-`},`behavior`:`Isolated`,"
     "`invert`:false},{`type`:`Metaspace`,`replacement`:`\xe2\x96\x81`,`prepend_scheme`:`always`,`split`:true}]}",
     "a-b c", "\xe2\x96\x81""a|\xe2\x96\x81-|\xe2\x96\x81""b|\xe2\x96\x81""c|"},
    {"{`type`:`Strip`,`strip_left`:true,`strip_right`:true}", "{`type`:`Metaspace`,`replacement`:`\xe2\x96\x81`,"
     "`prepend_scheme`:`first`,`split`:true}",
     "  ab c", "ab|\xe2\x96\x81""c|"},
    {"{`type`:`Sequence`,`normalizers`:[{`type`:`Prepend`,`prepend`:`x`}]}", "{`type`:`Sequence`,"
     "`pretokenizers`:[{`type`:`Split`,`pattern`:{`String`:`x`},`behavior`:`Isolated`,`invert`:false},"
     "{`type`:`Metaspace`,`replacement`:`\xe2\x96\x81`,`prepend_scheme`:`first`,`split`:true}]}",
     "ab", "\xe2\x96\x81x|\xe2\x96\x81""ab|"},
    {NULL, "{`type`:`ByteLevel`,`add_prefix_space`:true,`trim_offsets`:true,`use_regex`:true}",
     "Hey you  \xc3\xa9\n", "\xc4\xa0Hey|\xc4\xa0you|\xc4\xa0|\xc4\xa0\xc3\x83\xc2\xa9|\xc4\x8a|"},
    {NULL, "{`type`:`ByteLevel`,`add_prefix_space`:false,`trim_offsets`:true,`use_regex`:false}",
     "a b\xc2\xad\x7f", "a\xc4\xa0""b\xc3\x82\xc5\x83\xc4\xa1|"},
    {NULL, "{`type`:`Digits`,`individual_digits`:true}",
     "a12\xc2\xbd", "a|1|2|\xc2\xbd|"},
    {NULL, "{`type`:`Digits`,`individual_digits`:false}",
     "a12\xc2\xbd", "a|12\xc2\xbd|"},
    {NULL, "{`type`:`Punctuation`,`behavior`:`Isolated`}",
     "a,b\xe3\x80\x82$", "a|,|b|\xe3\x80\x82|$|"},
    {NULL, "{`type`:`Whitespace`}",
     "Hey, you\xe2\x80\x8d! n\xc3\xa9", "Hey|,|you\xe2\x80\x8d|!|n\xc3\xa9|"},
    {NULL, "{`type`:`WhitespaceSplit`}",
     " a\xe3\x80\x80""b ", "a|b|"},
    {NULL, "{`type`:`BertPreTokenizer`}",
     "Hey, you!", "Hey|,|you|!|"},
    {"{`type`:`Sequence`,`normalizers`:[{`type`:`Prepend`,`prepend`:`\xe2\x96\x81`},{`type`:`Replace`,"
     "`pattern`:{`String`:` `},`content`:`\xe2\x96\x81`}]}", NULL,
     "a b", "\xe2\x96\x81""a\xe2\x96\x81""b|"},
    {"{`type`:`NFC`}", NULL,
     "e\xcc\x81\xcc\xa7 \xe2\x84\xab", "\xc8\xa9\xcc\x81 \xc3\x85|"},
    {"{`type`:`NFD`}", NULL,
     "\xe1\xb9\xa9\xea\xb0\x80", "s\xcc\xa3\xcc\x87\xe1\x84\x80\xe1\x85\xa1|"},
    {"{`type`:`NFKC`}", NULL,
     "\xef\xac\x81\xe2\x91\xa0\xc3\x85", "fi1\xc3\x85|"},
    {"{`type`:`NFKD`}", NULL,
     "\xc2\xbd\xef\xb7\xba",
     "1\xe2\x81\x84""2\xd8\xb5\xd9\x84\xd9\x89 \xd8\xa7\xd9\x84\xd9\x84\xd9\x87 \xd8\xb9\xd9\x84\xd9\x8a\xd9"
     "\x87 \xd9\x88\xd8\xb3\xd9\x84\xd9\x85|"},
    {"{`type`:`Lowercase`}", NULL,
     "\xc3\x80\xc4\xb0\xce\xa3\xc7\x85", "\xc3\xa0i\xcc\x87\xcf\x83\xc7\x86|"},
    {"{`type`:`Sequence`,`normalizers`:[{`type`:`NFD`},{`type`:`StripAccents`}]}", NULL,
     "\xc3\xa9\xc3\xb1", "en|"},
    {"{`type`:`Strip`,`strip_left`:true,`strip_right`:true}", NULL,
     " \xe3\x80\x80""a ", "a|"},
    {"{`type`:`Replace`,`pattern`:{`Regex`:`\\\\s+`},`content`:`_`}", NULL,
     "a \n b ", "a_b_|"},
    {"{`type`:`BertNormalizer`,`clean_text`:true,`handle_chinese_chars`:true,`strip_accents`:null,"
     "`lowercase`:true}", NULL,
     "\xc3\x89\t\xe4\xbd\xa0\xe2\x80\x8bx\xef\xbf\xbd", "e  \xe4\xbd\xa0 x|"},
    {"{`type`:`ByteLevel`}", NULL,
     "\xc3\xa9 a", "\xc3\x83\xc2\xa9\xc4\xa0""a|"},
};

/* The mark behind every piece is end_of_word_suffix, written as bytes like everything else. */
static void test_pieces(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof pieces_cases / sizeof *pieces_cases; i++) {
    const pieces_case *c = &pieces_cases[i];
    char *json = byte_json(c->normalizer, c->pre_tokenizer, NULL, "", ",`end_of_word_suffix`:`|`");
    sl_tokenizer *t = must_parse(json);
    int32_t *ids;
    int n_id;
    if (sl_tokenizer_encode(t, c->text, strlen(c->text), true, &ids, &n_id) != SL_OK)
      fail_msg("%s", sl_error_message());
    char *found = must_print("%*s", n_id, "");
    for (int k = 0; k < n_id; k++) found[k] = (char)ids[k];
    if (strcmp(found, c->pieces) != 0)
      fail_msg("%s %s: expected \"%s\", found \"%s\"", c->normalizer ? c->normalizer : "", c->pre_tokenizer, c->pieces,
               found);
    free(found);
    free(ids);
    free(json);
    sl_tokenizer_close(t);
  }
}

typedef struct decode_case {
  const char *decoder, *tokens, *text; /* tokens separated by | */
} decode_case;

static const decode_case decode_cases[] = {
    {"{`type`:`Sequence`,`decoders`:[{`type`:`Replace`,`pattern`:{`String`:`\xe2\x96\x81`},`content`:` `},"
     "{`type`:`ByteFallback`},{`type`:`Fuse`},{`type`:`Strip`,`content`:` `,`start`:1,`stop`:0}]}",
     "\xe2\x96\x81Hey|\xe2\x96\x81you|<0xE4>|<0xBD>|<0xA0>|x", "Hey you\xe4\xbd\xa0x"},
    {"{`type`:`Sequence`,`decoders`:[{`type`:`Replace`,`pattern`:{`String`:`\xe2\x96\x81`},`content`:` `},"
     "{`type`:`ByteFallback`},{`type`:`Fuse`},{`type`:`Strip`,`content`:` `,`start`:1,`stop`:0}]}", "<0xE4>|"
     "<0xBD>|\xe2\x96\x81|<0x+A>|<0x0a>", "\xef\xbf\xbd\xef\xbf\xbd \n\n"},
    {"{`type`:`Sequence`,`decoders`:[]}", "a|b", "ab"},
    {"{`type`:`Metaspace`,`replacement`:`\xe2\x96\x81`,`prepend_scheme`:`always`,`split`:true}",
     "\xe2\x96\x81""a|\xe2\x96\x81""b\xe2\x96\x81", "a b "},
    {"{`type`:`Metaspace`,`replacement`:`\xe2\x96\x81`,`prepend_scheme`:`never`,`split`:true}",
     "\xe2\x96\x81""a|\xe2\x96\x81""b", " a b"},
    {"{`type`:`ByteLevel`,`add_prefix_space`:true,`trim_offsets`:true,`use_regex`:true}", "Hey|\xc4\xa0you|"
     "\xc3\xa4|\xc2\xbd|x|\xc3\xa9\xe4\xbd\xa0|\xc4\xa0", "Hey you\xef\xbf\xbdx\xc3\xa9\xe4\xbd\xa0 "},
    {"{`type`:`BPEDecoder`,`suffix`:`</w>`}", "a|b</w>|c</w>", "ab c"},
    {"{`type`:`Replace`,`pattern`:{`Regex`:`a+`},`content`:`_`}", "aab|ba", "_bb_"},
    {"{`type`:`Strip`,`content`:`a`,`start`:2,`stop`:1}", "aaab|ba", "abb"},
    {"{`type`:`Fuse`}", "a|b", "ab"},
};

static void test_decoders(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof decode_cases / sizeof *decode_cases; i++) {
    const decode_case *c = &decode_cases[i];
    char *json = byte_json(NULL, NULL, c->decoder, "", "");
    sl_tokenizer *t = must_parse(json);
    sl_tok_pieces tokens = {0}, spare = {0};
    sl_text text = {0};
    for (const char *at = c->tokens; at;) {
      size_t n = strcspn(at, "|");
      assert_int_equal(sl_tok_pieces_add_text(&tokens, at, n, 0), SL_OK);
      at = at[n] ? at + n + 1 : NULL;
    }
    assert_int_equal(sl_tok_decode(&t->decoders, "t.json", &tokens, &spare, &text), SL_OK);
    assert_string_equal(text.data, c->text);
    sl_tok_pieces_dispose(&tokens);
    sl_tok_pieces_dispose(&spare);
    sl_text_dispose(&text);
    sl_tokenizer_close(t);
    free(json);
  }
}

typedef struct added_case {
  const char *normalizer, *added, *text, *ids, *decoded, *decoded_skip; /* added: content:flags|... */
} added_case;

static const added_case added_cases[] = {
    {NULL, "ab:|abc:|b:",
     "xabcab", "120 257 256", "<0x78> abc ab", "<0x78> abc ab"},
    {NULL, "ab:l",
     "x  ab y", "120 256 32 121", "<0x78> ab <0x20> <0x79>", "<0x78> ab <0x20> <0x79>"},
    {NULL, "ab:r",
     "x ab \xe3\x80\x80y", "120 32 256 121", "<0x78> <0x20> ab <0x79>", "<0x78> <0x20> ab <0x79>"},
    {NULL, "ab:lr",
     "ab ab  ab", "256 256 256", "ab ab ab", "ab ab ab"},
    {NULL, "ab:w",
     "ab xab abx ab, \xc3\xa9""ab", "256 32 120 97 98 32 97 98 120 32 256 44 32 195 169 97 98",
     "ab <0x20> <0x78> <0x61> <0x62> <0x20> <0x61> <0x62> <0x78> <0x20> ab <0x2C> <0x20> <0xC3> <0xA9> <0x61> "
     "<0x62>", "ab <0x20> <0x78> <0x61> <0x62> <0x20> <0x61> <0x62> <0x78> <0x20> ab <0x2C> <0x20> <0xC3> "
     "<0xA9> <0x61> <0x62>"},
    {NULL, "  :lr",
     "a    b", "97 256 98", "<0x61>    <0x62>", "<0x61>    <0x62>"},
    {NULL, "x:r| :",
     "x  y", "256 257 257 121", "x     <0x79>", "x     <0x79>"},
    {"{`type`:`Lowercase`}", "AB:n",
     "ab AB Ab", "256 32 256 32 256", "ab <0x20> ab <0x20> ab", "ab <0x20> ab <0x20> ab"},
    {"{`type`:`Lowercase`}", "AB:",
     "ab AB", "97 98 32 256", "<0x61> <0x62> <0x20> AB", "<0x61> <0x62> <0x20> AB"},
    {"{`type`:`Prepend`,`prepend`:`_`}", "ab:",
     "x ab y", "95 120 32 256 95 32 121", "<0x5F> <0x78> <0x20> ab <0x5F> <0x20> <0x79>",
     "<0x5F> <0x78> <0x20> ab <0x5F> <0x20> <0x79>"},
    {"{`type`:`Prepend`,`prepend`:`_`}", "ab:n",
     "x ab y_ab", "95 120 32 97 98 32 121 256", "<0x5F> <0x78> <0x20> <0x61> <0x62> <0x20> <0x79> _ab",
     "<0x5F> <0x78> <0x20> <0x61> <0x62> <0x20> <0x79> _ab"},
    {NULL, "<0x41>:|zz:",
     "A<0x41>zz", "65 65 256", "<0x41> <0x41> zz", "<0x41> <0x41> zz"},
    {NULL, "<0x41>:s|zz:",
     "A<0x41>zz", "65 65 256", "<0x41> <0x41> zz", "zz"},
    {NULL, ":|a:",
     "ba", "98 256", "<0x62> a", "<0x62> a"},
};

/* flags: s special, n normalized, l lstrip, r rstrip, w single_word */
static char *added_json(const char *added) {
  sl_text json = {0};
  static const char *const names[] = {"special", "normalized", "lstrip", "rstrip", "single_word"};
  for (const char *at = added; at;) {
    size_t n = strcspn(at, ":"), n_flag = strcspn(at + n, "|");
    assert_int_equal(sl_text_format(&json, "%s{`id`:999,`content`:`%.*s`", at == added ? "" : ",", (int)n, at), SL_OK);
    for (int f = 0; f < 5; f++) {
      bool on = memchr(at + n, "snlrw"[f], n_flag);
      assert_int_equal(sl_text_format(&json, ",`%s`:%s", names[f], on ? "true" : "false"), SL_OK);
    }
    assert_int_equal(sl_text_append_string(&json, "}"), SL_OK);
    at = at[n + n_flag] ? at + n + n_flag + 1 : NULL;
  }
  return json.data;
}

static void test_added(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof added_cases / sizeof *added_cases; i++) {
    const added_case *c = &added_cases[i];
    char *added = added_json(c->added), *json = byte_json(c->normalizer, NULL, NULL, added, "");
    sl_tokenizer *t = must_parse(json);
    int32_t *ids;
    int n_id;
    assert_int_equal(sl_tokenizer_encode(t, c->text, strlen(c->text), true, &ids, &n_id), SL_OK);
    sl_text found = {0};
    for (int k = 0; k < n_id; k++) assert_int_equal(sl_text_format(&found, "%s%d", k ? " " : "", (int)ids[k]), SL_OK);
    assert_string_equal(found.data, c->ids);
    assert_decodes(t, ids, n_id, false, c->decoded);
    assert_decodes(t, ids, n_id, true, c->decoded_skip);
    sl_text_dispose(&found);
    free(ids);
    free(added);
    free(json);
    sl_tokenizer_close(t);
  }
}

/* ---- looking things up ---- */

static const char small[] =
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":9,\"content\":\"<i>\",\"special\":true,\"normalized\":false,"
    "\"lstrip\":false,\"rstrip\":false,\"single_word\":false}],\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"a\"},"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<i>\",\"type_id\":0}},"
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"<i>\":{\"id\":\"<i>\",\"ids\":[4],"
    "\"tokens\":[\"<i>\"]}}},\"decoder\":{\"type\":\"Fuse\"},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":"
    "{\"Regex\":\"\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},\"model\":{\"type\":\"BPE\","
    "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\\u0000\":3},\"merges\":[\"a b\"]}}";

static void test_lookups(void **state) {
  (void)state;
  sl_tokenizer *t = must_parse(small);
  size_t n;
  assert_int_equal(sl_tokenizer_vocab_size(t), 5); /* the added token takes the next free id, not the 9 it asks for */
  assert_int_equal(sl_tokenizer_find(t, "ab"), 2);
  assert_int_equal(sl_tokenizer_find(t, "<i>"), 4);
  assert_int_equal(sl_tokenizer_find(t, "x"), -1);
  assert_string_equal(sl_tokenizer_piece(t, 2, &n), "ab");
  assert_int_equal(n, 2);
  assert_memory_equal(sl_tokenizer_piece(t, 3, &n), "\0", 1); /* U+0000 as a key */
  assert_int_equal(n, 1);
  assert_null(sl_tokenizer_piece(t, 5, &n));
  assert_null(sl_tokenizer_piece(t, -1, &n));
  assert_true(sl_tokenizer_is_special(t, 4));
  assert_false(sl_tokenizer_is_special(t, 2));
  int32_t *ids, expected[] = {4, 0, 2, 3};
  int n_id;
  assert_int_equal(sl_tokenizer_encode(t, "ab\0", 3, true, &ids, &n_id), SL_OK);
  assert_int_equal(n_id, 4);
  assert_memory_equal(ids, expected, sizeof expected);
  free(ids);
  assert_int_equal(sl_tokenizer_encode(t, "", 0, false, &ids, &n_id), SL_OK);
  assert_int_equal(n_id, 0);
  assert_non_null(ids);
  free(ids);
  sl_text text = {0};
  assert_int_equal(sl_tokenizer_decode(t, (int32_t[]){0, 5}, 2, false, &text), SL_ERROR_ARGUMENT);
  assert_message("id 5");
  assert_int_equal(sl_tokenizer_decode(t, (int32_t[]){-1}, 1, false, &text), SL_ERROR_ARGUMENT);
  sl_text_dispose(&text);
  sl_tokenizer_close(t);
}

static void test_invalid_text(void **state) {
  (void)state;
  sl_tokenizer *t = must_parse(small);
  int32_t *ids;
  int n_id;
  assert_int_equal(sl_tokenizer_encode(t, "ab\xc3(", 4, true, &ids, &n_id), SL_ERROR_ARGUMENT);
  assert_null(ids);
  assert_message("t.json");
  assert_message("offset 2");
  assert_int_equal(sl_tokenizer_encode(t, "a\xed\xa0\x80", 4, true, &ids, &n_id), SL_ERROR_ARGUMENT); /* a surrogate */
  assert_message("offset 1");
  sl_tokenizer_close(t);
}

/* ---- memory ---- */

/* Fails the n-th allocation for every n until nothing fails any more; leaks show under the sanitizer. */
static void test_allocation_failures(void **state) {
  (void)state;
  for (long n = 1;; n++) {
    sl_tokenizer *t = NULL;
    int32_t *ids = NULL;
    int n_id = 0;
    sl_text text = {0};
    sl_alloc_fail_at(n);
    sl_status status = parse(&t, small);
    if (status == SL_OK) status = sl_tokenizer_encode(t, "a<i>b \xc3\xa9 ab", 11, true, &ids, &n_id);
    if (status == SL_OK) status = sl_tokenizer_decode(t, ids, n_id, true, &text);
    bool failed = status != SL_OK;
    sl_alloc_fail_at(0);
    if (failed) assert_int_equal(status, SL_ERROR_MEMORY);
    else assert_string_equal(text.data, "aaabab");
    free(ids);
    sl_text_dispose(&text);
    sl_tokenizer_close(t);
    if (!failed) {
      assert_true(n > 50);
      return;
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_goldens),       cmocka_unit_test(test_pieces),
      cmocka_unit_test(test_decoders),      cmocka_unit_test(test_added),
      cmocka_unit_test(test_lookups),       cmocka_unit_test(test_invalid_text), cmocka_unit_test(test_allocation_failures),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
