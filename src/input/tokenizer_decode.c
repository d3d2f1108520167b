/* Decoders: the tokens' texts go through the steps as a list, and what is left is joined. */
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer_internal.h"

enum kind { REPLACE, BYTE_FALLBACK, FUSE, STRIP, METASPACE, BYTE_LEVEL, BPE, WORD_PIECE };

static const sl_tok_kind kinds[] = {{"Replace", REPLACE}, {"ByteFallback", BYTE_FALLBACK}, {"Fuse", FUSE},
                                    {"Strip", STRIP}, {"Metaspace", METASPACE}, {"ByteLevel", BYTE_LEVEL},
                                    {"BPEDecoder", BPE}, {"WordPiece", WORD_PIECE}, {NULL, 0}};

static const char replacement_char[] = "\xef\xbf\xbd";

/* ---- loading ---- */

static sl_status load_count(const sl_tok_source *source, json_t *part, const char *key, int64_t *out) {
  *out = -1;
  SL_TRY(sl_json_get_int(part, key, 0, INT32_MAX, out, source->name));
  if (*out < 0) SL_FAIL(SL_ERROR_FORMAT, "%s: decoder Strip: \"%s\" is missing", source->name, key);
  return SL_OK;
}

static sl_status load_step(void *context, const sl_tok_source *source, json_t *part, const char *type, int kind) {
  (void)type;
  sl_tok_decoders *steps = context;
  SL_TRY(sl_tok_grow((void **)&steps->items, steps->n, &steps->capacity, sizeof *steps->items, "decoders"));
  sl_tok_decoder *step = &steps->items[steps->n++];
  *step = (sl_tok_decoder){.kind = kind};
  switch ((enum kind)kind) {
    case REPLACE:
      SL_TRY(sl_tok_pattern_load(&step->pattern, source, part));
      return sl_tok_text_at(source, part, "content", &step->content);
    case STRIP:
      SL_TRY(sl_tok_char_at(source, part, "content", &step->content));
      SL_TRY(load_count(source, part, "start", &step->start));
      return load_count(source, part, "stop", &step->stop);
    case METASPACE: {
      int scheme;
      SL_TRY(sl_tok_char_at(source, part, "replacement", &step->content));
      SL_TRY(sl_tok_scheme_load(&scheme, source, part));
      step->prepended = scheme != SL_TOK_SCHEME_NEVER;
      return SL_OK;
    }
    case BPE:
      SL_TRY(sl_tok_text_at(source, part, "suffix", &step->content));
      return sl_text_append(&step->pattern.source, step->content.data, step->content.length);
    case WORD_PIECE:
      SL_TRY(sl_tok_text_at(source, part, "prefix", &step->content));
      return sl_tok_bool_at(source, part, "cleanup", &step->clean_up);
    case BYTE_FALLBACK: case FUSE: case BYTE_LEVEL: break;
  }
  return SL_OK;
}

sl_status sl_tok_decoders_load(sl_tok_decoders *steps, const sl_tok_source *source, json_t *part) {
  steps->present = part && !json_is_null(part);
  return sl_tok_walk(source, part, "decoder", "decoders", kinds, load_step, steps);
}

void sl_tok_decoders_dispose(sl_tok_decoders *steps) {
  for (size_t i = 0; i < steps->n; i++) {
    sl_tok_pattern_dispose(&steps->items[i].pattern);
    sl_text_dispose(&steps->items[i].content);
  }
  free(steps->items);
}

/* ---- steps that keep the list's length ---- */

static sl_status replace_all(const sl_tok_pattern *pattern, const char *with, size_t n_with, const char *text,
                             size_t n_bytes, const char *name, sl_tok_spans *spans, sl_text *out) {
  SL_TRY(sl_tok_pattern_spans(pattern, text, n_bytes, name, spans));
  for (size_t i = 0; i < spans->n; i++) {
    const sl_tok_span *span = &spans->items[i];
    SL_TRY(span->match ? sl_text_append(out, with, n_with)
                       : sl_text_append(out, text + span->begin, span->end - span->begin));
  }
  return SL_OK;
}

/* At most `start` and `stop` copies of the character off either end. */
static sl_status strip(const sl_tok_decoder *step, const char *text, size_t n_bytes, sl_text *out) {
  const char *c = step->content.data;
  size_t n = step->content.length;
  for (int64_t i = 0; i < step->start && n_bytes >= n && memcmp(text, c, n) == 0; i++) {
    text += n;
    n_bytes -= n;
  }
  for (int64_t i = 0; i < step->stop && n_bytes >= n && memcmp(text + n_bytes - n, c, n) == 0; i++) n_bytes -= n;
  return sl_text_append(out, text, n_bytes);
}

static sl_status metaspace(const sl_tok_decoder *step, bool first, const char *text, size_t n_bytes, sl_text *out) {
  const sl_text *mark = &step->content;
  for (size_t at = 0; at < n_bytes;) {
    if (n_bytes - at >= mark->length && memcmp(text + at, mark->data, mark->length) == 0) {
      if (!first || !step->prepended) SL_TRY(sl_text_append(out, " ", 1));
      at += mark->length;
      continue;
    }
    uint32_t c;
    size_t n = sl_utf8_decode(text + at, n_bytes - at, &c);
    SL_TRY(sl_text_append(out, text + at, n));
    at += n;
  }
  return SL_OK;
}

/* Tokens that carry the prefix go on with the word, the others start a new one. */
static sl_status word_piece(const sl_tok_decoder *step, bool first, const char *text, size_t n_bytes, sl_text *out) {
  const sl_text *prefix = &step->content;
  sl_text word = {0};
  bool goes_on = !first && n_bytes >= prefix->length && memcmp(text, prefix->data, prefix->length) == 0;
  size_t skip = goes_on ? prefix->length : 0;
  sl_status status = first || goes_on ? SL_OK : sl_text_append(&word, " ", 1);
  if (status == SL_OK) status = sl_text_append(&word, text + skip, n_bytes - skip);
  if (status == SL_OK)
    status = step->clean_up ? sl_tok_clean_up(word.data, word.length, true, out)
                            : sl_text_append(out, word.data, word.length);
  sl_text_dispose(&word);
  return status;
}

static sl_status map_token(const sl_tok_decoder *step, const char *name, size_t i, size_t n, const char *text,
                           size_t n_bytes, sl_tok_spans *spans, sl_text *out) {
  switch ((enum kind)step->kind) {
    case REPLACE:
      return replace_all(&step->pattern, step->content.data, step->content.length, text, n_bytes, name, spans, out);
    case BPE: return replace_all(&step->pattern, " ", i + 1 == n ? 0 : 1, text, n_bytes, name, spans, out);
    case STRIP: return strip(step, text, n_bytes, out);
    case METASPACE: return metaspace(step, i == 0, text, n_bytes, out);
    case WORD_PIECE: return word_piece(step, i == 0, text, n_bytes, out);
    case FUSE: case BYTE_FALLBACK: case BYTE_LEVEL: break;
  }
  return SL_OK;
}

static sl_status map_tokens(const sl_tok_decoder *step, const char *name, const sl_tok_pieces *in, sl_tok_pieces *out) {
  sl_tok_spans spans = {0};
  sl_text text = {0};
  sl_status status = SL_OK;
  for (size_t i = 0; i < in->n && status == SL_OK; i++) {
    const sl_tok_piece *piece = &in->items[i];
    text.length = 0;
    status = map_token(step, name, i, in->n, in->text.data + piece->begin, piece->end - piece->begin, &spans, &text);
    if (status == SL_OK) status = sl_tok_pieces_add_text(out, text.data, text.length, 0);
  }
  sl_text_dispose(&text);
  free(spans.items);
  return status;
}

/* ---- bytes back to text ---- */

/* The byte that "<0x0A>" stands for, or -1. Rust's parser allows a plus sign for the first digit. */
static int byte_token(const char *text, size_t n_bytes) {
  if (n_bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
  int high = text[3] == '+' ? 0 : sl_tok_hex_digit(text[3]), low = sl_tok_hex_digit(text[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* A run of byte tokens is one text when it is valid UTF-8, else one replacement character for each byte. */
static sl_status end_run(sl_text *run, sl_tok_pieces *out) {
  if (run->length == 0) return SL_OK;
  if (sl_utf8_valid(run->data, run->length, NULL)) {
    SL_TRY(sl_tok_pieces_add_text(out, run->data, run->length, 0));
  } else {
    for (size_t i = 0; i < run->length; i++) SL_TRY(sl_tok_pieces_add_text(out, replacement_char, 3, 0));
  }
  run->length = 0;
  return SL_OK;
}

static sl_status byte_fallback(const sl_tok_pieces *in, sl_tok_pieces *out) {
  sl_text run = {0};
  sl_status status = SL_OK;
  for (size_t i = 0; i < in->n && status == SL_OK; i++) {
    const char *text = in->text.data + in->items[i].begin;
    size_t n_bytes = in->items[i].end - in->items[i].begin;
    int byte = byte_token(text, n_bytes);
    if (byte >= 0) {
      status = sl_text_append(&run, &(char){(char)byte}, 1);
      continue;
    }
    status = end_run(&run, out);
    if (status == SL_OK) status = sl_tok_pieces_add_text(out, text, n_bytes, 0);
  }
  if (status == SL_OK) status = end_run(&run, out);
  sl_text_dispose(&run);
  return status;
}

/* Length of the longest beginning of a character in ill-formed bytes, at least 1: what one U+FFFD replaces. */
static size_t bad_length(const uint8_t *b, size_t n) {
  uint8_t low = 0x80, high = 0xbf;
  size_t need = 0;
  if (b[0] >= 0xc2 && b[0] <= 0xdf) need = 1;
  if (b[0] >= 0xe0 && b[0] <= 0xef) need = 2;
  if (b[0] >= 0xf0 && b[0] <= 0xf4) need = 3;
  if (b[0] == 0xe0) low = 0xa0;
  if (b[0] == 0xed) high = 0x9f;
  if (b[0] == 0xf0) low = 0x90;
  if (b[0] == 0xf4) high = 0x8f;
  size_t length = 1;
  for (; length <= need && length < n && b[length] >= low && b[length] <= high; length++) {
    low = 0x80;
    high = 0xbf;
  }
  return length;
}

static sl_status append_lossy(sl_text *out, const char *bytes, size_t n_bytes) {
  while (n_bytes > 0) {
    size_t good = n_bytes;
    bool valid = sl_utf8_valid(bytes, n_bytes, &good);
    if (valid) return sl_text_append(out, bytes, n_bytes);
    SL_TRY(sl_text_append(out, bytes, good));
    SL_TRY(sl_text_append(out, replacement_char, 3));
    size_t bad = bad_length((const uint8_t *)bytes + good, n_bytes - good);
    bytes += good + bad;
    n_bytes -= good + bad;
  }
  return SL_OK;
}

/* Every character of a token is a byte's stand-in, or the token is taken as it is. */
static sl_status append_token_bytes(const char *text, size_t n_bytes, sl_text *out) {
  size_t before = out->length;
  for (size_t at = 0; at < n_bytes;) {
    uint32_t c;
    at += sl_utf8_decode(text + at, n_bytes - at, &c);
    int byte = sl_tok_char_byte(c);
    if (byte < 0) {
      out->length = before;
      return sl_text_append(out, text, n_bytes);
    }
    SL_TRY(sl_text_append(out, &(char){(char)byte}, 1));
  }
  return SL_OK;
}

static sl_status byte_level(const sl_tok_pieces *in, sl_tok_pieces *out) {
  sl_text bytes = {0}, text = {0};
  sl_status status = SL_OK;
  for (size_t i = 0; i < in->n && status == SL_OK; i++)
    status = append_token_bytes(in->text.data + in->items[i].begin, in->items[i].end - in->items[i].begin, &bytes);
  if (status == SL_OK) status = append_lossy(&text, bytes.data, bytes.length);
  if (status == SL_OK) status = sl_tok_pieces_add_text(out, text.data, text.length, 0);
  sl_text_dispose(&bytes);
  sl_text_dispose(&text);
  return status;
}

/* ---- running ---- */

static sl_status run_step(const sl_tok_decoder *step, const char *name, const sl_tok_pieces *in, sl_tok_pieces *out) {
  out->n = out->text.length = 0;
  switch ((enum kind)step->kind) {
    case BYTE_FALLBACK: return byte_fallback(in, out);
    case FUSE: return sl_tok_pieces_add_text(out, in->text.data, in->text.length, 0); /* pieces lie side by side */
    case BYTE_LEVEL: return byte_level(in, out);
    case REPLACE: case STRIP: case METASPACE: case BPE: case WORD_PIECE: break;
  }
  return map_tokens(step, name, in, out);
}

sl_status sl_tok_decode(const sl_tok_decoders *steps, const char *name, sl_tok_pieces *tokens, sl_tok_pieces *spare,
                        sl_text *out) {
  for (size_t i = 0; i < steps->n; i++) {
    SL_TRY(run_step(&steps->items[i], name, tokens, spare));
    sl_tok_pieces kept = *tokens;
    *tokens = *spare;
    *spare = kept;
  }
  for (size_t i = 0; i < tokens->n; i++) {
    const sl_tok_piece *piece = &tokens->items[i];
    if (i > 0 && !steps->present) SL_TRY(sl_text_append(out, " ", 1));
    SL_TRY(sl_text_append(out, tokens->text.data + piece->begin, piece->end - piece->begin));
  }
  return SL_OK;
}
