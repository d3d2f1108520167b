/* Tokenizers of every kind of folder against their references (tests/golden/tokenizer: kinds.json, slow.json); then the
 * readers of tokenizer.model, qwen.tiktoken and vocabularies on malformed files, and every allocation failing once. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "folder.h"
#include "input/tokenizer_internal.h"

#define TOKENIZERS SL_SOURCE_DIR "/tests/golden/tokenizer/"

static void assert_message(const char *part) {
  if (!strstr(sl_error_message(), part)) fail_msg("expected \"%s\" in \"%s\"", part, sl_error_message());
}

static json_t *must_load(const char *path) {
  json_t *root;
  if (sl_json_load(&root, path, 16 << 20) != SL_OK) fail_msg("%s", sl_error_message());
  return root;
}

static void read_bytes(const char *name, char **bytes, size_t *n_bytes) {
  char path[300];
  snprintf(path, sizeof path, TOKENIZERS "%s", name);
  ASSERT_OK(sl_file_read(path, 1 << 20, bytes, n_bytes));
}

/* ---- against the references ---- */

static int n_compared;

static void compare_ids(const char *name, const char *text, const int32_t *ids, int n_id, json_t *expected) {
  bool equal = (size_t)n_id == json_array_size(expected);
  for (int i = 0; equal && i < n_id; i++) equal = ids[i] == json_integer_value(json_array_get(expected, (size_t)i));
  n_compared++;
  if (equal) return;
  char *wanted = json_dumps(expected, JSON_COMPACT);
  sl_text found = {0};
  for (int i = 0; i < n_id; i++) ASSERT_OK(sl_text_format(&found, "%s%d", i ? "," : "", (int)ids[i]));
  fail_msg("%s: \"%s\": expected %s, found [%s]", name, text, wanted, found.data ? found.data : "");
}

static void compare_text(const sl_tokenizer *t, const char *name, json_t *list, bool skip, const char *expected,
                         size_t n_expected) {
  int32_t ids[4096];
  size_t n = json_array_size(list);
  assert_true(n <= 4096);
  for (size_t i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
  sl_text text = {0};
  ASSERT_OK(sl_tokenizer_decode(t, ids, (int)n, skip, &text));
  if (text.length != n_expected || (n_expected > 0 && memcmp(text.data, expected, n_expected) != 0))
    fail_msg("%s: decoding%s: expected \"%s\", found \"%s\"", name, skip ? " without specials" : "", expected,
             text.data ? text.data : "");
  sl_text_dispose(&text);
  n_compared++;
}

/* `null` among the numbers is `before` + the string + `after`. */
static void compare_decoded(const sl_tokenizer *t, const char *name, json_t *ids, bool skip, json_t *numbers,
                            const char *before, json_t *string, const char *after) {
  if (json_is_string(numbers)) {
    compare_text(t, name, ids, skip, json_string_value(numbers), json_string_length(numbers));
    return;
  }
  sl_text text = {0};
  ASSERT_OK(sl_text_append_string(&text, before));
  ASSERT_OK(sl_text_append(&text, json_string_value(string), json_string_length(string)));
  ASSERT_OK(sl_text_append_string(&text, after));
  compare_text(t, name, ids, skip, text.data, text.length);
  sl_text_dispose(&text);
}

static void compare_vision_only(const sl_tokenizer *t, const char *name, json_t *string, json_t *expected) {
  static const char *const tags[] = {"<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>",
                                     "<img>", "</img>", "<imgpad>"};
  int32_t allowed[9], *ids;
  int n_id;
  for (int i = 0; i < 9; i++) allowed[i] = sl_tokenizer_find(t, tags[i]);
  const char *text = json_string_value(string);
  ASSERT_OK(sl_tokenizer_encode_text(t, text, json_string_length(string), allowed, 9, &ids, &n_id));
  compare_ids(name, text, ids, n_id, expected);
  free(ids);
}

static void compare_one(const sl_tokenizer *t, const char *name, json_t *numbers, json_t *string, size_t i) {
  json_t *expected = json_array_get(json_object_get(numbers, "ids"), i);
  json_t *vision = json_object_get(numbers, "vision_only"), *skip = json_object_get(numbers, "skip");
  const char *before = json_string_value(json_object_get(numbers, "before"));
  const char *after = json_string_value(json_object_get(numbers, "after"));
  int32_t *ids;
  int n_id;
  ASSERT_OK(sl_tokenizer_encode(t, json_string_value(string), json_string_length(string), true, &ids, &n_id));
  compare_ids(name, json_string_value(string), ids, n_id, expected);
  free(ids);
  compare_decoded(t, name, expected, false, json_array_get(json_object_get(numbers, "text"), i), before, string, after);
  if (skip) compare_decoded(t, name, expected, true, json_array_get(skip, i), "", string, "");
  if (!vision) return;
  json_t *only = json_array_get(vision, i);
  compare_vision_only(t, name, string, json_is_array(only) ? only : expected);
}

static sl_tokenizer *open_kind(const char *name) {
  char path[300];
  sl_tokenizer *t;
  snprintf(path, sizeof path, TOKENIZERS "%s", name);
  if (sl_tokenizer_open_folder(&t, path, strcmp(name, "llama-old") == 0 ? SL_TOKENIZER_STRIP_ADDED : 0) != SL_OK)
    fail_msg("%s: %s", name, sl_error_message());
  return t;
}

static sl_tokenizer *open_rules(void) {
  char *bytes;
  size_t n_bytes;
  sl_tokenizer *t;
  read_bytes("rules.model", &bytes, &n_bytes);
  if (sl_tokenizer_parse_sentencepiece(&t, bytes, n_bytes, "rules.model") != SL_OK) fail_msg("%s", sl_error_message());
  free(bytes);
  return t;
}

static void compare_kinds(const char *file, const char *name_wanted) {
  char path[300];
  snprintf(path, sizeof path, TOKENIZERS "%s", file);
  json_t *first = must_load(TOKENIZERS "strings.json"), *more = must_load(TOKENIZERS "kinds.json");
  json_t *root = must_load(path), *numbers = json_object_get(json_object_get(root, "kinds"), name_wanted);
  json_t *strings = json_object_get(first, "strings");
  assert_int_equal(json_array_extend(strings, json_object_get(more, "strings")), 0);
  assert_true(json_array_size(strings) >= 230);
  assert_int_equal(json_array_size(json_object_get(numbers, "ids")), json_array_size(strings));
  bool plain = strcmp(name_wanted, "rules.model") == 0;
  sl_tokenizer *t = plain ? open_rules() : open_kind(name_wanted);
  for (size_t i = 0; i < json_array_size(strings); i++)
    compare_one(t, name_wanted, numbers, json_array_get(strings, i), i);
  sl_tokenizer_close(t);
  json_decref(root);
  json_decref(more);
  json_decref(first);
}

typedef struct kind {
  const char *file, *name;
} kind;

static void test_kind(void **state) {
  const kind *k = *state;
  n_compared = 0;
  compare_kinds(k->file, k->name);
  assert_true(n_compared >= 2 * 230);
}

static kind kinds[] = {{"kinds.json", "bert"},        {"kinds.json", "llama3"},    {"kinds.json", "gemma"},
                       {"kinds.json", "smolvlm"},     {"kinds.json", "qwen"},      {"kinds.json", "rules.model"},
                       {"slow.json", "llama-legacy"}, {"slow.json", "llama-new"},  {"slow.json", "llama-old"},
                       {"slow.json", "internlm2"},    {"slow.json", "qwen2-slow"}, {"slow.json", "bert-txt"}};

/* ---- building a tokenizer.model ---- */

static void put_varint(sl_text *out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) ASSERT_OK(sl_text_append(out, &(char){(char)(value | 0x80)}, 1));
  ASSERT_OK(sl_text_append(out, &(char){(char)value}, 1));
}

static void put_bytes(sl_text *out, int number, const void *bytes, size_t n) {
  put_varint(out, (uint64_t)number << 3 | 2);
  put_varint(out, n);
  ASSERT_OK(sl_text_append(out, bytes, n));
}

static void put_number(sl_text *out, int number, uint64_t value) {
  put_varint(out, (uint64_t)number << 3);
  put_varint(out, value);
}

static void put_piece(sl_text *model, const char *text, float score, int type) {
  sl_text piece = {0};
  put_bytes(&piece, 1, text, strlen(text));
  put_varint(&piece, 2 << 3 | 5);
  ASSERT_OK(sl_text_append(&piece, &score, sizeof score));
  put_number(&piece, 3, (uint64_t)type);
  put_bytes(model, 1, piece.data, piece.length);
  sl_text_dispose(&piece);
}

static void put_setting(sl_text *model, int message, int number, uint64_t value) {
  sl_text inner = {0};
  put_number(&inner, number, value);
  put_bytes(model, message, inner.data, inner.length);
  sl_text_dispose(&inner);
}

enum { TRAINER = 2, NORMALIZER = 3, DENORMALIZER = 5, MODEL_TYPE = 3, SUFFIX = 24, BYTE_FALLBACK = 35, CHARSMAP = 2,
       DUMMY_PREFIX = 3, KEEP_BLANKS = 4 };

/* <unk>, "a", "b", "aa", "aaaa", and no dummy prefix. */
static sl_text small_model(void) {
  sl_text model = {0};
  put_setting(&model, TRAINER, MODEL_TYPE, 2);
  put_setting(&model, NORMALIZER, DUMMY_PREFIX, 0);
  put_piece(&model, "<unk>", 0, SL_TOK_PIECE_UNKNOWN);
  put_piece(&model, "a", -3, SL_TOK_PIECE_NORMAL);
  put_piece(&model, "b", -4, SL_TOK_PIECE_NORMAL);
  put_piece(&model, "aa", -1, SL_TOK_PIECE_NORMAL);
  put_piece(&model, "aaaa", -2, SL_TOK_PIECE_NORMAL);
  return model;
}

static sl_status parse_pieces(sl_tokenizer **t, const sl_text *model) {
  return sl_tokenizer_parse_sentencepiece(t, model->data, model->length, "t.model");
}

static void refuse(sl_text *model, sl_status status, const char *message) {
  sl_tokenizer *t;
  assert_int_equal(parse_pieces(&t, model), status);
  assert_null(t);
  assert_message("t.model: ");
  assert_message(message);
  sl_text_dispose(model);
}

static void test_refused_pieces(void **state) {
  (void)state;
  static const struct {
    const char *text;
    float score;
    int type;
    sl_status status;
    const char *message;
  } pieces[] = {
      {"a", 0, 1, SL_ERROR_FORMAT, "piece 5 \"a\" is there twice"},
      {"", 0, 1, SL_ERROR_FORMAT, "piece 5 is empty"},
      {"\xff", 0, 1, SL_ERROR_FORMAT, "piece 5 is not valid UTF-8"},
      {"x", 0, 9, SL_ERROR_UNSUPPORTED, "piece 5 \"x\": type 9 is unknown"},
      {"x", NAN, 1, SL_ERROR_FORMAT, "piece 5 \"x\": its score is not a number"},
      {"x", 0, SL_TOK_PIECE_UNKNOWN, SL_ERROR_FORMAT, "pieces 0 and 5 are both of type UNKNOWN"},
      {"<0x41>", 0, SL_TOK_PIECE_BYTE, SL_ERROR_FORMAT, "expected 0 pieces of type BYTE, found 1"},
  };
  for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
    sl_text model = small_model();
    put_piece(&model, pieces[i].text, pieces[i].score, pieces[i].type);
    refuse(&model, pieces[i].status, pieces[i].message);
  }
}

static void test_refused_models(void **state) {
  (void)state;
  static const struct {
    int message, number;
    uint64_t value;
    sl_status status;
    const char *text;
  } settings[] = {
      {TRAINER, MODEL_TYPE, 1, SL_ERROR_UNSUPPORTED, "SentencePiece model of type unigram is not supported, only BPE"},
      {TRAINER, MODEL_TYPE, 77, SL_ERROR_UNSUPPORTED, "of type unknown"},
      {TRAINER, SUFFIX, 1, SL_ERROR_UNSUPPORTED, "treat_whitespace_as_suffix"},
      {TRAINER, BYTE_FALLBACK, 1, SL_ERROR_FORMAT, "there is no piece \"<0x00>\" of type BYTE"},
  };
  for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
    sl_text model = small_model();
    put_setting(&model, settings[i].message, settings[i].number, settings[i].value);
    refuse(&model, settings[i].status, settings[i].text);
  }
  sl_text model = {0}, map = {0};
  ASSERT_OK(sl_text_append_string(&model, ""));
  refuse(&model, SL_ERROR_FORMAT, "expected a SentencePiece model, found an empty file");
  put_setting(&model, NORMALIZER, DUMMY_PREFIX, 0);
  refuse(&model, SL_ERROR_FORMAT, "not a SentencePiece model: it holds no pieces");
  put_setting(&model, TRAINER, MODEL_TYPE, 2);
  put_piece(&model, "a", 0, SL_TOK_PIECE_NORMAL);
  refuse(&model, SL_ERROR_FORMAT, "no piece of type UNKNOWN among 1");
  for (int message = NORMALIZER; message <= DENORMALIZER; message += DENORMALIZER - NORMALIZER) {
    model = small_model();
    map.length = 0;
    put_bytes(&map, CHARSMAP, "\0\0\0\1xx", 7);
    put_bytes(&model, message, map.data, map.length);
    if (message == NORMALIZER) refuse(&model, SL_ERROR_FORMAT, "precompiled_charsmap of 7 bytes is broken");
    else refuse(&model, SL_ERROR_UNSUPPORTED, "a denormalizer is not supported");
  }
  sl_text_dispose(&map);
  ASSERT_OK(sl_text_append_string(&model, "{\"model\": {}}"));
  refuse(&model, SL_ERROR_FORMAT, "not a SentencePiece model");
}

/* However much of a model is missing, it is told and nothing is read beyond the end. */
static void test_cut_off(void **state) {
  (void)state;
  char *bytes;
  size_t n_bytes;
  read_bytes("rules.model", &bytes, &n_bytes);
  for (size_t n = 0; n < n_bytes; n++) {
    char *part = malloc(n + 1);
    sl_tokenizer *t;
    assert_non_null(part);
    memcpy(part, bytes, n);
    if (sl_tokenizer_parse_sentencepiece(&t, part, n, "cut.model") != SL_OK) assert_message("cut.model: ");
    else sl_tokenizer_close(t);
    free(part);
  }
  free(bytes);
}

/* A million characters without a blank take steps in proportion. */
static void test_long_word(void **state) {
  (void)state;
  sl_text model = small_model();
  sl_tokenizer *t;
  ASSERT_OK(parse_pieces(&t, &model));
  size_t n = 1 << 20;
  char *text = malloc(n);
  assert_non_null(text);
  memset(text, 'a', n);
  int32_t *ids;
  int n_id;
  uint64_t n_step;
  ASSERT_OK(sl_tok_encode_counted(t, text, n, true, &ids, &n_id, &n_step));
  assert_int_equal(n_id, n / 4);
  assert_true(n_step < 4 * n);
  free(ids);
  free(text);
  sl_tokenizer_close(t);
  sl_text_dispose(&model);
}

static void test_long_user_piece(void **state) {
  (void)state;
  char text[SL_TOK_MAX_KEY + 2] = "";
  memset(text, 'x', SL_TOK_MAX_KEY + 1);
  sl_text model = small_model();
  put_piece(&model, text, 0, SL_TOK_PIECE_NORMAL); /* joined, not looked for */
  text[0] = 'y';
  put_piece(&model, text, 0, SL_TOK_PIECE_USER);
  refuse(&model, SL_ERROR_UNSUPPORTED, "expected at most 4096 bytes of a token that is looked for in text, found 4097");
}

enum { N_CHAIN = 4000 };

static void *encode_chain(void *tokenizer) {
  static char text[N_CHAIN];
  int32_t *ids;
  int n_id;
  memset(text, 'a', N_CHAIN);
  if (sl_tokenizer_encode(tokenizer, text, N_CHAIN, true, &ids, &n_id) != SL_OK) return NULL;
  bool good = n_id == N_CHAIN;
  for (int i = 0; good && i < n_id; i++) good = ids[i] == 1;
  free(ids);
  return good ? tokenizer : NULL;
}

/* Unused pieces "aa", "aaa", ..., each joined from the one before and an "a": the last falls apart 4,000 deep, in a
 * thread whose stack has no room for that. */
static void test_chain_of_unused_pieces(void **state) {
  (void)state;
  static char text[N_CHAIN + 1];
  sl_text model = {0};
  put_setting(&model, TRAINER, MODEL_TYPE, 2);
  put_setting(&model, NORMALIZER, DUMMY_PREFIX, 0);
  put_piece(&model, "<unk>", 0, SL_TOK_PIECE_UNKNOWN);
  for (int n = 1; n <= N_CHAIN; n++) {
    text[n - 1] = 'a';
    put_piece(&model, text, (float)n, n == 1 ? SL_TOK_PIECE_NORMAL : SL_TOK_PIECE_UNUSED);
  }
  sl_tokenizer *t;
  ASSERT_OK(parse_pieces(&t, &model));
  pthread_attr_t attributes;
  pthread_t thread;
  void *good = NULL;
  assert_int_equal(pthread_attr_init(&attributes), 0);
  assert_int_equal(pthread_attr_setstacksize(&attributes, 1 << 17), 0);
  assert_int_equal(pthread_create(&thread, &attributes, encode_chain, t), 0);
  assert_int_equal(pthread_join(thread, &good), 0);
  assert_ptr_equal(good, t);
  pthread_attr_destroy(&attributes);
  sl_tokenizer_close(t);
  sl_text_dispose(&model);
}

/* ---- qwen.tiktoken ---- */

static sl_status parse_lines(sl_tokenizer **t, const char *more, int n_byte) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  sl_text lines = {0};
  for (int b = 0; b < n_byte; b++)
    ASSERT_OK(sl_text_format(&lines, "%c%c== %d\n", digits[b >> 2], digits[(b & 3) << 4], b));
  ASSERT_OK(sl_text_append_string(&lines, more));
  sl_status status = sl_tokenizer_parse_tiktoken(t, lines.data, lines.length, "t.tiktoken");
  sl_text_dispose(&lines);
  return status;
}

static void test_refused_ranks(void **state) {
  (void)state;
  static const struct {
    const char *more, *message;
    int n_byte;
  } cases[] = {
      {"YWI 256\n", "line 257: expected a token in base64, a blank and its rank, found \"YWI 256\"", 256},
      {"YW=i 256\n", "line 257: expected", 256},
      {"Y=== 256\n", "line 257: expected", 256},
      {"YWI=256\n", "line 257: expected", 256},
      {"YWI= -1\n", "line 257: expected", 256},
      {"YWI= 256x\n", "line 257: expected", 256},
      {"YWI= 99999999\n", "line 257: expected", 256},
      {" 256\n", "line 257: expected", 256},
      {"YWI= 7\n", "line 257: token or rank 7 for the second time", 256},
      {"YQ== 256\n", "line 257: token or rank 256 for the second time", 256},
      {"YWI= 300\n", "257 ranks, yet the highest is 300", 256},
      {"YWI= 255\n", "byte 255 is no token", 255},
      {"PHxpbV9lbmR8Pg== 256\n", "added token \"<|im_end|>\" has id 259, yet the vocabulary has it at 256", 256},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    sl_tokenizer *t;
    assert_int_equal(parse_lines(&t, cases[i].more, cases[i].n_byte), SL_ERROR_FORMAT);
    assert_null(t);
    assert_message("t.tiktoken: ");
    assert_message(cases[i].message);
  }
}

static void test_special_ranks(void **state) {
  (void)state;
  sl_tokenizer *t;
  ASSERT_OK(parse_lines(&t, "YWI= 256\r\n\n", 256));
  assert_int_equal(sl_tokenizer_vocab_size(t), 257 + 217);
  assert_int_equal(sl_tokenizer_find(t, "<|endoftext|>"), 257);
  assert_int_equal(sl_tokenizer_find(t, "<|extra_0|>"), 260);
  assert_int_equal(sl_tokenizer_find(t, "<|extra_204|>"), 464);
  assert_int_equal(sl_tokenizer_find(t, "<imgpad>"), 473);
  assert_true(sl_tokenizer_is_special(t, 473));
  assert_false(sl_tokenizer_is_special(t, 256));
  sl_tokenizer_close(t);
}

/* What a user writes is no special token. */
static void test_only_allowed(void **state) {
  (void)state;
  sl_tokenizer *t = open_kind("llama-legacy");
  int32_t *all, *none, *one, image = sl_tokenizer_find(t, "<image>");
  int n_all, n_none, n_one;
  const char *text = "</s><image>";
  ASSERT_OK(sl_tokenizer_encode(t, text, strlen(text), false, &all, &n_all));
  ASSERT_OK(sl_tokenizer_encode_text(t, text, strlen(text), NULL, 0, &none, &n_none));
  ASSERT_OK(sl_tokenizer_encode_text(t, text, strlen(text), &image, 1, &one, &n_one));
  assert_int_equal(n_all, 2);
  assert_int_equal(all[0], 2);
  assert_int_equal(all[1], image);
  for (int i = 0; i < n_none; i++) assert_false(sl_tokenizer_is_special(t, none[i]));
  for (int i = 0; i < n_one - 1; i++) assert_false(sl_tokenizer_is_special(t, one[i]));
  assert_true(n_none > 4 && n_one > 3);
  assert_int_equal(one[n_one - 1], image);
  free(all);
  free(none);
  free(one);
  sl_tokenizer_close(t);
}

/* ---- folders ---- */

static void test_choice(void **state) {
  (void)state;
  sl_tokenizer *t;
  folder f = folder_copy("tokenizer/llama-legacy");
  char *bytes;
  size_t n_bytes;
  read_bytes("gemma/tokenizer.json", &bytes, &n_bytes);
  folder_write(&f, "tokenizer.json", bytes, n_bytes);
  free(bytes);
  ASSERT_OK(sl_tokenizer_open_folder(&t, f.dir, 0));
  assert_true(sl_tokenizer_find(t, "<start_of_turn>") > 0); /* tokenizer.json goes first */
  sl_tokenizer_close(t);
  ASSERT_OK(sl_tokenizer_open_folder(&t, f.dir, SL_TOKENIZER_STRIP_ADDED));
  assert_int_equal(sl_tokenizer_find(t, "<start_of_turn>"), -1);
  sl_tokenizer_close(t);
  folder_delete(&f, "tokenizer.json");
  folder_delete(&f, "tokenizer.model");
  folder_write(&f, "merges.txt", "", 0); /* half of a kind is none */
  assert_int_equal(sl_tokenizer_open_folder(&t, f.dir, 0), SL_ERROR_FILE);
  assert_message(f.dir);
  assert_message("no tokenizer: looked for tokenizer.json, tokenizer.model, qwen.tiktoken, vocab.json with merges.txt, "
                 "vocab.txt");
  folder_remove(&f);
}

/* "legacy": false over a model that keeps blanks; the numbers are transformers 4.46.3's. */
static void test_new_behaviour(void **state) {
  (void)state;
  static const struct {
    const char *text, *decoded;
    int n;
    int32_t ids[8];
  } cases[] = {
      {"<s> a", "<s><s> a", 3, {1, 1, 263}},
      {"</s>x", "<s></s>x", 3, {1, 2, 123}},
      {"\xe2\x96\x81<image>  b", "<s>   <image>  b", 6, {1, 412, 412, 480, 412, 267}},
      {"[PLAIN]a", "<s>  [PLAIN] a", 4, {1, 412, 485, 415}},
      {" a  b", "<s>  a  b", 5, {1, 412, 263, 412, 267}},
      {"<pad>", "<s><pad>", 2, {1, 481}},
      {"", "<s>", 1, {1}},
  };
  folder f = folder_copy("tokenizer/llama-legacy");
  folder_set_json(&f, "tokenizer_config.json", "legacy", "false");
  sl_tokenizer *t;
  ASSERT_OK(sl_tokenizer_open_folder(&t, f.dir, 0));
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int32_t *ids;
    int n_id;
    sl_text text = {0};
    ASSERT_OK(sl_tokenizer_encode(t, cases[i].text, strlen(cases[i].text), true, &ids, &n_id));
    assert_int_equal(n_id, cases[i].n);
    assert_memory_equal(ids, cases[i].ids, (size_t)n_id * sizeof *ids);
    ASSERT_OK(sl_tokenizer_decode(t, ids, n_id, false, &text));
    assert_string_equal(text.data, cases[i].decoded);
    sl_text_dispose(&text);
    free(ids);
  }
  sl_tokenizer_close(t);
  folder_remove(&f);
}

/* "legacy": false without byte fallback: the mark in front goes away before a special token, not before an unknown
 * character, though its id is a special token's; the numbers are transformers 4.46.3's. */
static void test_mark_in_front(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int n;
    int32_t ids[4];
  } cases[] = {
      {"\xf0\x9f\x91\x8d" "a", 4, {1, 3, 0, 4}}, {"</s>a", 3, {1, 2, 4}},     {"<unk>a", 3, {1, 0, 4}},
      {"\xf0\x9f\x91\x8d", 3, {1, 3, 0}},        {"a</s>", 4, {1, 3, 4, 2}},  {" </s>", 4, {1, 3, 3, 2}},
      {"x\xe2\x96\x81", 4, {1, 3, 0, 3}},         {"</s>", 2, {1, 2}},
  };
  sl_text model = {0};
  put_setting(&model, TRAINER, MODEL_TYPE, 2);
  put_setting(&model, NORMALIZER, KEEP_BLANKS, 0);
  put_piece(&model, "<unk>", 0, SL_TOK_PIECE_UNKNOWN);
  put_piece(&model, "<s>", 0, SL_TOK_PIECE_CONTROL);
  put_piece(&model, "</s>", 0, SL_TOK_PIECE_CONTROL);
  put_piece(&model, "\xe2\x96\x81", -1, SL_TOK_PIECE_NORMAL);
  put_piece(&model, "a", -2, SL_TOK_PIECE_NORMAL);
  static const char config[] = "{\"tokenizer_class\": \"LlamaTokenizer\", \"legacy\": false}";
  folder f = folder_copy("tokenizer/llama-legacy");
  folder_write(&f, "tokenizer.model", model.data, model.length);
  folder_write(&f, "tokenizer_config.json", config, sizeof config - 1);
  sl_tokenizer *t;
  ASSERT_OK(sl_tokenizer_open_folder(&t, f.dir, 0));
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int32_t *ids;
    int n_id;
    ASSERT_OK(sl_tokenizer_encode(t, cases[i].text, strlen(cases[i].text), true, &ids, &n_id));
    assert_int_equal(n_id, cases[i].n);
    assert_memory_equal(ids, cases[i].ids, (size_t)n_id * sizeof *ids);
    free(ids);
  }
  sl_tokenizer_close(t);
  sl_text_dispose(&model);
  folder_remove(&f);
}

/* Old behaviour with a tokenizer.json alone: its added tokens swallow the blanks around them. */
static void test_stripped_json(void **state) {
  (void)state;
  folder f = folder_copy("tokenizer/gemma");
  sl_tokenizer *t;
  int32_t *ids;
  int n_id;
  ASSERT_OK(sl_tokenizer_open_folder(&t, f.dir, SL_TOKENIZER_STRIP_ADDED));
  ASSERT_OK(sl_tokenizer_encode(t, "a  <image> b", 12, false, &ids, &n_id));
  assert_int_equal(n_id, 3);
  assert_int_equal(ids[1], sl_tokenizer_find(t, "<image>"));
  free(ids);
  sl_tokenizer_close(t);
  folder_remove(&f);
}

static void test_refused_folders(void **state) {
  (void)state;
  static const struct {
    const char *folder, *file, *path, *value;
    sl_status status;
    const char *message;
  } cases[] = {
      {"llama-legacy", "tokenizer_config.json", "tokenizer_class", "\"T5Tokenizer\"", SL_ERROR_UNSUPPORTED,
       "tokenizer_class \"T5Tokenizer\" over tokenizer.model is not supported"},
      {"llama-legacy", "tokenizer_config.json", "legacy", "3", SL_ERROR_FORMAT, "legacy"},
      {"llama-legacy", "tokenizer_config.json", "bos_token", "\"\"", SL_ERROR_FORMAT, "bos_token \"\" is no token"},
      {"llama-legacy", "tokenizer_config.json", "added_tokens_decoder.48x", "\"n\"", SL_ERROR_FORMAT,
       "added_tokens_decoder: expected ids of 0..10000000, found \"48x\""},
      {"llama-legacy", "tokenizer_config.json", "added_tokens_decoder.99999999999999999999", "\"n\"", SL_ERROR_FORMAT,
       "expected ids"},
      {"llama-legacy", "tokenizer_config.json", "added_tokens_decoder.481", "[1]", SL_ERROR_FORMAT,
       "an added token: expected a string or an object with \"content\""},
      {"llama-legacy", "tokenizer_config.json", "added_tokens_decoder.481", "\"<image>\"", SL_ERROR_FORMAT,
       "\"<image>\" is there twice"},
      {"llama-legacy", "tokenizer_config.json", "added_tokens_decoder.481", "\"<0x41>\"", SL_ERROR_FORMAT,
       "added token \"<0x41>\" has id 481, yet the vocabulary has it at 68"},
      {"llama-legacy", "tokenizer_config.json", "added_tokens_decoder.481.single_word", "true", SL_ERROR_UNSUPPORTED,
       "single_word is not supported"},
      {"llama-old", "added_tokens.json", "x", "-1", SL_ERROR_FORMAT, "id of \"x\": expected an integer"},
      {"qwen2-slow", "tokenizer_config.json", "tokenizer_class", "\"GPT2Tokenizer\"", SL_ERROR_UNSUPPORTED,
       "tokenizer_class \"GPT2Tokenizer\" over vocab.json"},
      {"qwen2-slow", "tokenizer_config.json", "tokenizer_class", NULL, SL_ERROR_UNSUPPORTED,
       "tokenizer_config.json: expected the tokenizer_class of vocab.json and merges.txt, found none"},
      {"qwen2-slow", "vocab.json", "the", "-5", SL_ERROR_FORMAT, "id of \"the\""},
      {"bert-txt", "special_tokens_map.json", "cls_token", "\"[NONE]\"", SL_ERROR_FORMAT,
       "cls_token or sep_token is not in vocab.txt"},
      {"bert", "tokenizer.json", "model.type", "\"Unigram\"", SL_ERROR_UNSUPPORTED, "only BPE and WordPiece"},
      {"bert", "tokenizer.json", "model.unk_token", "7", SL_ERROR_FORMAT, "unk_token"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char name[64];
    sl_tokenizer *t;
    snprintf(name, sizeof name, "tokenizer/%s", cases[i].folder);
    folder f = folder_copy(name);
    folder_set_json(&f, cases[i].file, cases[i].path, cases[i].value);
    unsigned flags = strcmp(cases[i].folder, "llama-old") == 0 ? SL_TOKENIZER_STRIP_ADDED : 0;
    if (sl_tokenizer_open_folder(&t, f.dir, flags) != cases[i].status)
      fail_msg("case %zu: other status: %s", i, sl_error_message());
    assert_message(f.dir);
    assert_message(cases[i].message);
    folder_remove(&f);
  }
}

static void test_vocab_lines(void **state) {
  (void)state;
  folder f = folder_copy("tokenizer/bert-txt");
  sl_tokenizer *t;
  folder_write(&f, "vocab.txt", "[UNK]\n[CLS]\n[SEP]\na\xff\n", 21);
  assert_int_equal(sl_tokenizer_open_folder(&t, f.dir, 0), SL_ERROR_FORMAT);
  assert_message("vocab.txt: line 4 is not valid UTF-8 without NUL");
  folder_write(&f, "vocab.txt", "[UNK]\r\n[CLS]\r\n[SEP]\r\na\r\n", 24); /* as from Windows */
  folder_delete(&f, "added_tokens.json");
  ASSERT_OK(sl_tokenizer_open_folder(&t, f.dir, 0));
  assert_int_equal(sl_tokenizer_find(t, "a"), 3);
  assert_int_equal(sl_tokenizer_find(t, "[DEC]"), 4); /* named by special_tokens_map.json, numbered in that order */
  sl_tokenizer_close(t);
  folder_remove(&f);
}

/* A bad line of merges.txt by file and line: lines without a merge count too. */
static void test_merge_lines(void **state) {
  (void)state;
  static const struct {
    const char *lines, *message;
  } cases[] = {{"#version: 0.2\nh e\n\nhe nothing\n", "/merges.txt: line 4: expected a token of the vocabulary, found \"nothing\""},
               {"#version: 0.2\nth\n", "/merges.txt: line 2: expected two tokens and one space, found \"th\""},
               {"h e\n\xff h\n", "/merges.txt: line 2 is not valid UTF-8"}};
  folder f = folder_copy("tokenizer/qwen2-slow");
  sl_tokenizer *t;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    folder_write(&f, "merges.txt", cases[i].lines, strlen(cases[i].lines));
    assert_int_equal(sl_tokenizer_open_folder(&t, f.dir, 0), SL_ERROR_FORMAT);
    assert_message(f.dir);
    assert_message(cases[i].message);
  }
  folder_remove(&f);
}

/* What Git LFS leaves where a file was not downloaded. */
static void test_pointers(void **state) {
  (void)state;
  static const char text[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
  static const char *const files[][2] = {{"gemma", "tokenizer.json"},  {"llama-legacy", "tokenizer.model"},
                                         {"qwen", "qwen.tiktoken"},    {"qwen2-slow", "vocab.json"},
                                         {"qwen2-slow", "merges.txt"}, {"bert-txt", "vocab.txt"}};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    char name[64], path[400], message[600];
    sl_tokenizer *t;
    snprintf(name, sizeof name, "tokenizer/%s", files[i][0]);
    folder f = folder_copy(name);
    folder_write(&f, files[i][1], text, sizeof text - 1);
    folder_path(&f, files[i][1], path);
    snprintf(message, sizeof message, "%s: expected a file of a tokenizer, found a Git LFS pointer; fetch the file with `git lfs pull`",
             path);
    assert_int_equal(sl_tokenizer_open_folder(&t, f.dir, 0), SL_ERROR_FORMAT);
    assert_message(message);
    if (i == 0) assert_int_equal(sl_tokenizer_open(&t, path), SL_ERROR_FORMAT);
    if (i == 0) assert_message(message);
    folder_remove(&f);
  }
}

/* The list may be as long as that of added tokens, and a token named many times is still one. */
static void test_many_special_tokens(void **state) {
  (void)state;
  folder f = folder_copy("tokenizer/llama-legacy");
  for (int n = 20000; n <= 20001; n++) {
    sl_text config = {0};
    sl_tokenizer *t;
    ASSERT_OK(sl_text_append_string(&config, "{\"tokenizer_class\": \"LlamaTokenizer\", \"additional_special_tokens\": ["));
    for (int i = 0; i < n; i++) ASSERT_OK(sl_text_append_string(&config, i ? ",\"<x>\"" : "\"<x>\""));
    ASSERT_OK(sl_text_append_string(&config, "]}"));
    folder_write(&f, "tokenizer_config.json", config.data, config.length);
    sl_text_dispose(&config);
    assert_int_equal(sl_tokenizer_open_folder(&t, f.dir, 0), n == 20000 ? SL_OK : SL_ERROR_UNSUPPORTED);
    if (n > 20000) assert_message("tokenizer_config.json: additional_special_tokens: expected at most 20000, found 20001");
    if (n > 20000) break;
    assert_true(sl_tokenizer_is_special(t, sl_tokenizer_find(t, "<x>")));
    assert_int_equal(sl_tokenizer_find(t, "<x>"), sl_tokenizer_vocab_size(t) - 1);
    sl_tokenizer_close(t);
  }
  folder_remove(&f);
}

/* ---- every allocation fails once ---- */

static void fail_allocations(const char *name, unsigned flags) {
  char path[300];
  snprintf(path, sizeof path, TOKENIZERS "%s", name);
  const char *text = "A dog <image>\n \xc3\xa9</s> don't.";
  for (long n = 1;; n++) {
    sl_tokenizer *t = NULL;
    int32_t *ids = NULL;
    int n_id = 0;
    sl_text out = {0};
    sl_alloc_fail_at(n);
    sl_status status = sl_tokenizer_open_folder(&t, path, flags);
    if (status == SL_OK) status = sl_tokenizer_encode(t, text, strlen(text), true, &ids, &n_id);
    if (status == SL_OK) status = sl_tokenizer_decode(t, ids, n_id, true, &out);
    sl_alloc_fail_at(0);
    if (status != SL_OK && status != SL_ERROR_MEMORY) fail_msg("%s: allocation %ld: %s", name, n, sl_error_message());
    free(ids);
    sl_text_dispose(&out);
    sl_tokenizer_close(t);
    if (status != SL_OK) continue;
    assert_true(n > 50);
    return;
  }
}

static void test_allocation_failures(void **state) {
  (void)state;
  fail_allocations("llama-new", 0);
  fail_allocations("llama-old", SL_TOKENIZER_STRIP_ADDED);
  fail_allocations("internlm2", 0);
  fail_allocations("qwen", 0);
  fail_allocations("qwen2-slow", 0);
  fail_allocations("bert-txt", 0);
}

int main(void) {
  struct CMUnitTest tests[] = {
      cmocka_unit_test_prestate(test_kind, &kinds[0]),  cmocka_unit_test_prestate(test_kind, &kinds[1]),
      cmocka_unit_test_prestate(test_kind, &kinds[2]),  cmocka_unit_test_prestate(test_kind, &kinds[3]),
      cmocka_unit_test_prestate(test_kind, &kinds[4]),  cmocka_unit_test_prestate(test_kind, &kinds[5]),
      cmocka_unit_test_prestate(test_kind, &kinds[6]),  cmocka_unit_test_prestate(test_kind, &kinds[7]),
      cmocka_unit_test_prestate(test_kind, &kinds[8]),  cmocka_unit_test_prestate(test_kind, &kinds[9]),
      cmocka_unit_test_prestate(test_kind, &kinds[10]), cmocka_unit_test_prestate(test_kind, &kinds[11]),
      cmocka_unit_test(test_refused_pieces),            cmocka_unit_test(test_refused_models),
      cmocka_unit_test(test_cut_off),                   cmocka_unit_test(test_long_word),
      cmocka_unit_test(test_refused_ranks),             cmocka_unit_test(test_special_ranks),
      cmocka_unit_test(test_only_allowed),              cmocka_unit_test(test_choice),
      cmocka_unit_test(test_new_behaviour),             cmocka_unit_test(test_stripped_json),
      cmocka_unit_test(test_refused_folders),           cmocka_unit_test(test_vocab_lines),
      cmocka_unit_test(test_long_user_piece),           cmocka_unit_test(test_chain_of_unused_pieces),
      cmocka_unit_test(test_mark_in_front),             cmocka_unit_test(test_merge_lines),
      cmocka_unit_test(test_pointers),                  cmocka_unit_test(test_many_special_tokens),
      cmocka_unit_test(test_allocation_failures),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
