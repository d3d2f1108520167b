/* Normaliser steps, and the classes of characters that they and the pre-tokenizers need: utf8proc's tables under Rust's
 * definitions. The reference has tables of its own, so characters that only one of the two Unicode versions knows may
 * come out differently. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "input/tokenizer_internal.h"

/* ---- characters ---- */

bool sl_tok_is_numeric(uint32_t c) {
  utf8proc_category_t category = utf8proc_category((int32_t)c);
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_NO;
}

bool sl_tok_is_punctuation(uint32_t c) {
  if (c < 0x80) return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
  utf8proc_category_t category = utf8proc_category((int32_t)c);
  return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

static bool is_mark(uint32_t c) {
  utf8proc_category_t category = utf8proc_category((int32_t)c);
  return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

static bool is_chinese(uint32_t c) {
  return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x20000 && c <= 0x2a6df) ||
         (c >= 0x2a700 && c <= 0x2b73f) || (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
         (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

/* The reference's table of "other" characters holds Cc, Cf and Co, not the unassigned ones. */
static bool is_other(uint32_t c) {
  utf8proc_category_t category = utf8proc_category((int32_t)c);
  return category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_CO;
}

static bool is_printed_as_itself(uint32_t c) {
  return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

bool sl_tok_starts_with_blank(const char *text, size_t n_bytes) {
  return n_bytes >= SL_TOK_N_BLANK && memcmp(text, SL_TOK_BLANK, SL_TOK_N_BLANK) == 0;
}

int sl_tok_hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

sl_tok_byte_name sl_tok_name_byte(uint8_t byte) {
  static const char hex[] = "0123456789ABCDEF";
  return (sl_tok_byte_name){{'<', '0', 'x', hex[byte >> 4], hex[byte & 15], '>'}};
}

/* GPT-2's table: printable Latin-1 stands for itself, the other 68 bytes for U+0100 onwards in order. */
size_t sl_tok_byte_char(uint8_t byte, char out[4]) {
  uint32_t c = byte;
  if (!is_printed_as_itself(byte)) c = 0x100 + (byte <= 0x20 ? byte : byte <= 0xa0 ? byte - 0x7fu + 33 : 67);
  return sl_utf8_encode(c, out);
}

int sl_tok_char_byte(uint32_t c) {
  if (c < 0x100) return is_printed_as_itself(c) ? (int)c : -1;
  if (c <= 0x120) return (int)c - 0x100;
  if (c <= 0x142) return (int)c - 0x121 + 0x7f;
  return c == 0x143 ? 0xad : -1;
}

/* ---- strings ---- */

void sl_tok_string_clear(sl_tok_string *string) {
  string->text.length = 0;
  string->n_first = 0;
}

sl_status sl_tok_string_add(sl_tok_string *string, const char *bytes, size_t n_bytes, bool first) {
  if (first && string->n_first == string->text.length) string->n_first += n_bytes;
  return sl_text_append(&string->text, bytes, n_bytes);
}

/* ---- loading ---- */

enum kind { PREPEND, REPLACE, NFC, NFD, NFKC, NFKD, LOWERCASE, STRIP, STRIP_ACCENTS, BERT, BYTE_LEVEL };

static const sl_tok_kind kinds[] = {{"Prepend", PREPEND}, {"Replace", REPLACE}, {"NFC", NFC}, {"NFD", NFD},
                                    {"NFKC", NFKC}, {"NFKD", NFKD}, {"Lowercase", LOWERCASE}, {"Strip", STRIP},
                                    {"StripAccents", STRIP_ACCENTS}, {"BertNormalizer", BERT},
                                    {"ByteLevel", BYTE_LEVEL}, {NULL, 0}};

static sl_status load_bert(sl_tok_normalizer *step, const sl_tok_source *source, json_t *part) {
  SL_TRY(sl_tok_bool_at(source, part, "clean_text", &step->clean_text));
  SL_TRY(sl_tok_bool_at(source, part, "handle_chinese_chars", &step->handle_chinese_chars));
  SL_TRY(sl_tok_bool_at(source, part, "lowercase", &step->lowercase));
  step->strip_accents = step->lowercase;
  return sl_json_get_bool(part, "strip_accents", &step->strip_accents, source->name);
}

static sl_status load_step(void *context, const sl_tok_source *source, json_t *part, const char *type, int kind) {
  (void)type;
  sl_tok_normalizers *steps = context;
  SL_TRY(sl_tok_grow((void **)&steps->items, steps->n, &steps->capacity, sizeof *steps->items, "normalizers"));
  sl_tok_normalizer *step = &steps->items[steps->n++];
  *step = (sl_tok_normalizer){.kind = kind};
  switch ((enum kind)kind) {
    case PREPEND: return sl_tok_text_at(source, part, "prepend", &step->content);
    case REPLACE:
      SL_TRY(sl_tok_pattern_load(&step->pattern, source, part));
      return sl_tok_text_at(source, part, "content", &step->content);
    case STRIP:
      SL_TRY(sl_tok_bool_at(source, part, "strip_left", &step->strip_left));
      return sl_tok_bool_at(source, part, "strip_right", &step->strip_right);
    case BERT: return load_bert(step, source, part);
    case NFC: case NFD: case NFKC: case NFKD: case LOWERCASE: case STRIP_ACCENTS: case BYTE_LEVEL: break;
  }
  return SL_OK;
}

sl_status sl_tok_normalizers_load(sl_tok_normalizers *steps, const sl_tok_source *source, json_t *part) {
  steps->max_bytes = SL_TOK_MAX_TEXT;
  return sl_tok_walk(source, part, "normalizer", "normalizers", kinds, load_step, steps);
}

sl_status sl_tok_normalizers_check(const sl_tok_normalizers *steps, const char *name, size_t n_bytes) {
  if (steps->n == 0 || n_bytes <= steps->max_bytes) return SL_OK;
  SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: a text of more than %zu bytes once normalised", name, steps->max_bytes);
}

void sl_tok_normalizers_dispose(sl_tok_normalizers *steps) {
  for (size_t i = 0; i < steps->n; i++) {
    sl_tok_pattern_dispose(&steps->items[i].pattern);
    sl_text_dispose(&steps->items[i].content);
  }
  free(steps->items);
}

/* ---- Unicode normal forms ---- */

/* Decomposes every character; out[] gets at most 18 for one. */
static sl_status decompose(const sl_tok_string *in, bool compat, int32_t **out, size_t *n_out) {
  size_t capacity = in->text.length + 32, n = 0;
  utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
  SL_TRY(SL_ALLOC(*out, capacity, "decomposed text"));
  for (size_t at = 0; at < in->text.length;) {
    uint32_t c;
    at += sl_utf8_decode(in->text.data + at, in->text.length - at, &c);
    if (capacity - n < 32) {
      capacity *= 2;
      SL_TRY(SL_REALLOC(*out, capacity, "decomposed text"));
    }
    int boundary = 0;
    utf8proc_ssize_t got = utf8proc_decompose_char((int32_t)c, *out + n, 32, options, &boundary);
    if (got < 0 || got > 32) SL_FAIL(SL_ERROR_FORMAT, "U+%04X cannot be decomposed", (unsigned)c);
    n += (size_t)got;
  }
  *n_out = n;
  return SL_OK;
}

/* Puts each run of combining marks in canonical order: a counting sort by class, stable and linear, where utf8proc's
 * own insertion sort would take minutes over a hostile megabyte of marks. */
static sl_status order_marks(int32_t *text, size_t n) {
  int32_t *sorted;
  SL_TRY(SL_ALLOC(sorted, n, "combining marks"));
  for (size_t begin = 0, end; begin < n; begin = end) {
    size_t at[257] = {0};
    for (end = begin; end < n; end++) {
      int class = utf8proc_get_property(text[end])->combining_class;
      if (class == 0) break;
      at[class + 1]++;
    }
    if (end - begin > 1) {
      for (int class = 1; class <= 256; class++) at[class] += at[class - 1];
      for (size_t i = begin; i < end; i++) sorted[at[utf8proc_get_property(text[i])->combining_class]++] = text[i];
      memcpy(text + begin, sorted, (end - begin) * sizeof *text);
    }
    if (end == begin) end++;
  }
  free(sorted);
  return SL_OK;
}

static bool is_ascii(const sl_text *text) {
  for (size_t i = 0; i < text->length; i++)
    if ((uint8_t)text->data[i] >= 0x80) return false;
  return true;
}

static sl_status normal_form(const sl_tok_string *in, bool compose, bool compat, sl_tok_string *out) {
  int32_t *text = NULL;
  size_t n = 0;
  sl_status status = decompose(in, compat, &text, &n);
  if (status == SL_OK) status = order_marks(text, n);
  if (status == SL_OK && compose)
    n = (size_t)utf8proc_normalize_utf32(text, (utf8proc_ssize_t)n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  for (size_t i = 0; i < n && status == SL_OK; i++) {
    char bytes[4];
    size_t n_bytes = sl_utf8_encode((uint32_t)text[i], bytes);
    status = sl_tok_string_add(out, bytes, n_bytes, out->text.length < in->n_first);
  }
  free(text);
  return status;
}

/* ---- the steps ---- */

static sl_status add_char(sl_tok_string *out, uint32_t c, bool first) {
  char bytes[4];
  size_t n = sl_utf8_encode(c, bytes);
  return sl_tok_string_add(out, bytes, n, first);
}

/* A short text may become a very long one, so its length is counted before it is made. */
static sl_status check_replaced(const sl_tok_normalizers *steps, const sl_tok_normalizer *step, const char *name,
                                const sl_tok_spans *spans) {
  size_t n_bytes = 0;
  for (size_t i = 0; i < spans->n && n_bytes <= steps->max_bytes; i++)
    n_bytes += spans->items[i].match ? step->content.length : spans->items[i].end - spans->items[i].begin;
  return sl_tok_normalizers_check(steps, name, n_bytes);
}

static sl_status run_replace(const sl_tok_normalizers *steps, const sl_tok_normalizer *step, const sl_tok_string *in,
                             const char *name, sl_tok_string *out) {
  sl_tok_spans spans = {0};
  sl_status status = sl_tok_pattern_spans(&step->pattern, in->text.data, in->text.length, name, &spans);
  if (status == SL_OK) status = check_replaced(steps, step, name, &spans);
  for (size_t i = 0; i < spans.n && status == SL_OK; i++) {
    const sl_tok_span *span = &spans.items[i];
    if (span->match) {
      /* What is put in counts as coming from the last character it replaces. */
      bool first = span->end == 0 || span->end <= in->n_first;
      status = sl_tok_string_add(out, step->content.data, step->content.length, first);
    } else {
      size_t cut = in->n_first < span->begin ? span->begin : in->n_first < span->end ? in->n_first : span->end;
      status = sl_tok_string_add(out, in->text.data + span->begin, cut - span->begin, true);
      if (status == SL_OK) status = sl_tok_string_add(out, in->text.data + cut, span->end - cut, false);
    }
  }
  free(spans.items);
  return status;
}

static sl_status run_strip(const sl_tok_normalizer *step, const sl_tok_string *in, sl_tok_string *out) {
  const char *text = in->text.data;
  size_t begin = 0, end = in->text.length;
  uint32_t c;
  while (step->strip_left && begin < end) {
    size_t n = sl_utf8_decode(text + begin, end - begin, &c);
    if (!sl_is_space(c)) break;
    begin += n;
  }
  while (step->strip_right && begin < end) {
    size_t last = end - 1;
    while (last > begin && ((uint8_t)text[last] & 0xc0) == 0x80) last--;
    sl_utf8_decode(text + last, end - last, &c);
    if (!sl_is_space(c)) break;
    end = last;
  }
  size_t cut = in->n_first < begin ? begin : in->n_first < end ? in->n_first : end;
  SL_TRY(sl_tok_string_add(out, text + begin, cut - begin, true));
  return sl_tok_string_add(out, text + cut, end - cut, false);
}

/* Rust's char::to_lowercase: simple mappings and one character with two. */
static sl_status add_lower(sl_tok_string *out, uint32_t c, bool first) {
  if (c == 0x130) return sl_tok_string_add(out, "i\xcc\x87", 3, first);
  return add_char(out, (uint32_t)utf8proc_tolower((int32_t)c), first);
}

enum filter { LOWER, ACCENTS, NONSPACING, CLEAN, CHINESE, BYTES };

static sl_status filter_char(enum filter filter, uint32_t c, bool first, sl_tok_string *out) {
  switch (filter) {
    case LOWER: return add_lower(out, c, first);
    case ACCENTS: return is_mark(c) ? SL_OK : add_char(out, c, first);
    case NONSPACING:
      return utf8proc_category((int32_t)c) == UTF8PROC_CATEGORY_MN ? SL_OK : add_char(out, c, first);
    case CLEAN:
      if (sl_is_space(c) && (!is_other(c) || c == '\t' || c == '\n' || c == '\r')) return add_char(out, ' ', first);
      return c == 0 || c == 0xfffd || is_other(c) ? SL_OK : add_char(out, c, first);
    case CHINESE:
      if (!is_chinese(c)) return add_char(out, c, first);
      SL_TRY(add_char(out, ' ', first));
      SL_TRY(add_char(out, c, first));
      return add_char(out, ' ', first);
    case BYTES: {
      char raw[4], shown[4];
      size_t n = sl_utf8_encode(c, raw);
      for (size_t i = 0; i < n; i++)
        SL_TRY(sl_tok_string_add(out, shown, sl_tok_byte_char((uint8_t)raw[i], shown), first));
      return SL_OK;
    }
  }
  return SL_OK;
}

static sl_status run_filter(enum filter filter, const sl_tok_string *in, sl_tok_string *out) {
  for (size_t at = 0, n; at < in->text.length; at += n) {
    uint32_t c;
    n = sl_utf8_decode(in->text.data + at, in->text.length - at, &c);
    SL_TRY(filter_char(filter, c, at < in->n_first, out));
  }
  return SL_OK;
}

static void swap(sl_tok_string *a, sl_tok_string *b) {
  sl_tok_string kept = *a;
  *a = *b;
  *b = kept;
}

/* The result ends up in `in`. */
static sl_status run_bert(const sl_tok_normalizer *step, sl_tok_string *in, sl_tok_string *out) {
  const struct {
    bool on, decompose;
    enum filter filter;
  } parts[] = {{step->clean_text, false, CLEAN}, {step->handle_chinese_chars, false, CHINESE},
               {step->strip_accents, true, NONSPACING}, {step->strip_accents, false, NONSPACING},
               {step->lowercase, false, LOWER}};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    if (!parts[i].on) continue;
    sl_tok_string_clear(out);
    SL_TRY(parts[i].decompose ? normal_form(in, false, false, out) : run_filter(parts[i].filter, in, out));
    swap(in, out);
  }
  return SL_OK;
}

static sl_status run_prepend(const sl_tok_normalizer *step, const sl_tok_string *in, sl_tok_string *out) {
  if (in->text.length > 0) SL_TRY(sl_tok_string_add(out, step->content.data, step->content.length, in->n_first > 0));
  SL_TRY(sl_tok_string_add(out, in->text.data, in->n_first, true));
  return sl_tok_string_add(out, in->text.data + in->n_first, in->text.length - in->n_first, false);
}

static sl_status run_step(const sl_tok_normalizers *steps, const sl_tok_normalizer *step, sl_tok_string *in,
                          sl_tok_string *out, const char *name) {
  enum kind kind = (enum kind)step->kind;
  switch (kind) {
    case PREPEND: return run_prepend(step, in, out);
    case REPLACE: return run_replace(steps, step, in, name, out);
    case NFC: case NFD: case NFKC: case NFKD:
      if (is_ascii(&in->text)) {
        swap(in, out);
        return SL_OK;
      }
      return normal_form(in, kind == NFC || kind == NFKC, kind == NFKC || kind == NFKD, out);
    case LOWERCASE: return run_filter(LOWER, in, out);
    case STRIP: return run_strip(step, in, out);
    case STRIP_ACCENTS: return run_filter(ACCENTS, in, out);
    case BYTE_LEVEL: return run_filter(BYTES, in, out);
    case BERT:
      SL_TRY(run_bert(step, in, out));
      swap(in, out);
      return SL_OK;
  }
  return SL_OK;
}

sl_status sl_tok_normalize(const sl_tok_normalizers *steps, const char *bytes, size_t n_bytes, size_t n_first,
                           const char *name, sl_tok_string *out) {
  sl_tok_string spare = {0};
  sl_tok_string_clear(out);
  sl_status status = sl_tok_string_add(out, bytes, n_first, true);
  if (status == SL_OK) status = sl_tok_string_add(out, bytes + n_first, n_bytes - n_first, false);
  for (size_t i = 0; i < steps->n && status == SL_OK; i++) {
    sl_tok_string_clear(&spare);
    status = run_step(steps, &steps->items[i], out, &spare, name);
    swap(out, &spare);
    if (status == SL_OK) status = sl_tok_normalizers_check(steps, name, out->text.length);
  }
  sl_text_dispose(&spare.text);
  return status;
}
