/* qwen.tiktoken: one token a line, base64 of its bytes, a blank, its rank; ids are ranks. Qwen's first generation cuts
 * NFC text by a regular expression and merges bytes by rank; its special tokens have the ids after the last rank, in
 * this order (tokenization_qwen.py of the Qwen-VL folders). Bytes are kept as GPT-2's printable characters, so that
 * every token is a text. */
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer_internal.h"

enum { MAX_TOKEN_BYTES = 1 << 16 };

static const char components[] =
    "{\"normalizer\":{\"type\":\"NFC\"},"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
    "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"invert\":false,\"pattern\":{\"Regex\":"
    "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}|"
    " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}},"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":false,\"use_regex\":false}]},"
    "\"decoder\":{\"type\":\"ByteLevel\"}}";

/* ---- the special tokens ---- */

enum { N_EXTRA = 205 };

static sl_status add_special(json_t *list, int64_t id, const char *content) {
  /* normalized: the whole text is put into NFC before they are looked for */
  json_t *item = json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content", content, "special",
                           1, "normalized", 1, "lstrip", 0, "rstrip", 0, "single_word", 0);
  if (!item || json_array_append_new(list, item) != 0) return sl_tok_no_memory("qwen.tiktoken");
  return SL_OK;
}

static sl_status add_specials(json_t *list, int64_t id) {
  static const char *const first[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  static const char *const last[] = {"<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>",
                                     "<img>", "</img>", "<imgpad>"};
  for (size_t i = 0; i < sizeof first / sizeof *first; i++) SL_TRY(add_special(list, id++, first[i]));
  sl_text text = {0};
  sl_status status = SL_OK;
  for (int i = 0; i < N_EXTRA && status == SL_OK; i++) {
    text.length = 0;
    status = sl_text_format(&text, "<|extra_%d|>", i);
    if (status == SL_OK) status = add_special(list, id++, text.data);
  }
  sl_text_dispose(&text);
  SL_TRY(status);
  for (size_t i = 0; i < sizeof last / sizeof *last; i++) SL_TRY(add_special(list, id++, last[i]));
  return SL_OK;
}

/* ---- the lines ---- */

static int base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Appends what the base64 stands for, as printable characters; false when it is not canonical base64. */
static sl_status decode_base64(const char *text, size_t n, sl_text *out, size_t *n_out, bool *good) {
  *n_out = 0;
  *good = n > 0 && n % 4 == 0;
  for (size_t at = 0; *good && at < n; at += 4) {
    uint32_t bits = 0;
    size_t n_pad = at + 4 < n || text[at + 3] != '=' ? 0 : text[at + 2] != '=' ? 1 : 2;
    for (size_t i = 0; i < 4 && *good; i++) {
      int digit = i >= 4 - n_pad ? 0 : base64_digit(text[at + i]);
      *good = digit >= 0;
      bits = bits << 6 | (uint32_t)(digit & 63);
    }
    for (size_t i = 0; i < 3 - n_pad && *good; i++) {
      char shown[4];
      SL_TRY(sl_text_append(out, shown, sl_tok_byte_char((uint8_t)(bits >> (16 - 8 * i)), shown)));
      ++*n_out;
    }
  }
  return SL_OK;
}

typedef struct reader {
  sl_tokenizer *tokenizer;
  sl_text token;
  size_t n_line;
  bool seen[256]; /* bytes that are tokens */
} reader;

/* The rank: digits only, at most SL_TOK_MAX_ID; -1 otherwise. */
static int64_t read_rank(const char *text, size_t n) {
  int64_t rank = n > 0 && n <= 8 ? 0 : -1;
  for (size_t i = 0; i < n && rank >= 0; i++)
    rank = text[i] >= '0' && text[i] <= '9' ? rank * 10 + (text[i] - '0') : -1;
  return rank <= SL_TOK_MAX_ID ? rank : -1;
}

static sl_status read_line(reader *r, const char *line, size_t n) {
  sl_tokenizer *t = r->tokenizer;
  const char *blank = memchr(line, ' ', n);
  size_t n_code = blank ? (size_t)(blank - line) : n, n_token = 0;
  int64_t rank = blank ? read_rank(blank + 1, n - n_code - 1) : -1;
  bool good = false;
  r->token.length = 0;
  if (rank >= 0 && n_code <= MAX_TOKEN_BYTES) SL_TRY(decode_base64(line, n_code, &r->token, &n_token, &good));
  if (!good)
    SL_FAIL(SL_ERROR_FORMAT, "%s: line %zu: expected a token in base64, a blank and its rank, found \"%s\"", t->name,
            r->n_line, sl_tok_quote(line, n).text);
  if (sl_tok_vocab_at(&t->vocab, rank) || sl_tok_vocab_find(&t->vocab, r->token.data, r->token.length))
    SL_FAIL(SL_ERROR_FORMAT, "%s: line %zu: token or rank %lld for the second time", t->name, r->n_line,
            (long long)rank);
  if (n_token == 1) {
    uint32_t c;
    sl_utf8_decode(r->token.data, r->token.length, &c);
    r->seen[sl_tok_char_byte(c) & 255] = true;
  }
  if (r->token.length > t->ranks.longest) t->ranks.longest = r->token.length;
  return sl_tok_vocab_add(&t->vocab, r->token.data, r->token.length, (int32_t)rank, true);
}

static sl_status read_lines(reader *r, const char *bytes, size_t n_bytes) {
  for (size_t at = 0, n; at < n_bytes; at += n + 1) {
    const char *end = memchr(bytes + at, '\n', n_bytes - at);
    n = end ? (size_t)(end - bytes) - at : n_bytes - at;
    r->n_line++;
    size_t n_line = n > 0 && bytes[at + n - 1] == '\r' ? n - 1 : n;
    if (n_line > 0) SL_TRY(read_line(r, bytes + at, n_line));
  }
  return SL_OK;
}

static sl_status check_ranks(const reader *r) {
  const sl_tok_vocab *vocab = &r->tokenizer->vocab;
  if (vocab->n_id != vocab->n_entry)
    SL_FAIL(SL_ERROR_FORMAT, "%s: %zu ranks, yet the highest is %zu: the special tokens come after the last one",
            r->tokenizer->name, vocab->n_entry, vocab->n_id - 1);
  for (int b = 0; b < 256; b++)
    if (!r->seen[b])
      SL_FAIL(SL_ERROR_FORMAT, "%s: byte %d is no token: some text could not be told", r->tokenizer->name, b);
  return SL_OK;
}

static sl_status load(sl_tokenizer *t, const char *bytes, size_t n_bytes, json_t *root) {
  reader r = {.tokenizer = t};
  sl_status status = read_lines(&r, bytes, n_bytes);
  if (status == SL_OK) status = check_ranks(&r);
  sl_text_dispose(&r.token);
  SL_TRY(status);
  t->ranks.n = t->vocab.n_id;
  SL_TRY(SL_ALLOC(t->ranks.by_id, t->ranks.n, "ranks"));
  for (size_t i = 0; i < t->ranks.n; i++) t->ranks.by_id[i] = (int32_t)i;
  t->encode_piece = sl_tok_ranks_encode;
  t->addeds.keep_ids = true;
  json_t *list = json_array();
  if (!list || json_object_set_new(root, "added_tokens", list) != 0)
    return sl_tok_no_memory("qwen.tiktoken");
  SL_TRY(add_specials(list, (int64_t)t->ranks.n));
  sl_tok_source source = {.name = t->name};
  return sl_tok_load(t, &source, root);
}

sl_status sl_tok_qwen_components(json_t **root, const char *name) {
  return sl_json_parse(root, components, sizeof components - 1, name);
}

sl_status sl_tok_open_tiktoken(sl_tokenizer *tokenizer, const char *bytes, size_t n_bytes) {
  json_t *root;
  SL_TRY(sl_tok_qwen_components(&root, tokenizer->name));
  sl_status status = load(tokenizer, bytes, n_bytes, root);
  json_decref(root);
  return status;
}

sl_status sl_tokenizer_parse_tiktoken(sl_tokenizer **out, const char *bytes, size_t n_bytes, const char *name) {
  sl_tokenizer *tokenizer;
  *out = NULL;
  SL_TRY(sl_tok_new(&tokenizer, name));
  sl_status status = sl_tok_open_tiktoken(tokenizer, bytes, n_bytes);
  if (status != SL_OK) sl_tokenizer_close(tokenizer);
  else *out = tokenizer;
  return status;
}
