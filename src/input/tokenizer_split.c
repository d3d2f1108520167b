/* Pre-tokenizers. Each is three small stages: rewrite the piece (Metaspace, a prefix space), cut it where a matcher
 * says (a pattern or a class of characters), write bytes as printable characters (ByteLevel). */
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer_internal.h"

enum kind { METASPACE, BYTE_LEVEL, SPLIT, DIGITS, PUNCTUATION, WHITESPACE, WHITESPACE_SPLIT, BERT };

static const sl_tok_kind kinds[] = {{"Metaspace", METASPACE}, {"ByteLevel", BYTE_LEVEL}, {"Split", SPLIT},
                                    {"Digits", DIGITS}, {"Punctuation", PUNCTUATION}, {"Whitespace", WHITESPACE},
                                    {"WhitespaceSplit", WHITESPACE_SPLIT}, {"BertPreTokenizer", BERT}, {NULL, 0}};

/* What becomes of the matches. */
enum behavior { REMOVED, ISOLATED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS };

/* ---- pieces ---- */

void sl_tok_pieces_dispose(sl_tok_pieces *pieces) {
  sl_text_dispose(&pieces->text);
  free(pieces->items);
}

static sl_status add_piece(sl_tok_pieces *pieces, sl_tok_piece piece) {
  SL_TRY(sl_tok_grow((void **)&pieces->items, pieces->n, &pieces->capacity, sizeof *pieces->items, "text pieces"));
  pieces->items[pieces->n++] = piece;
  return SL_OK;
}

sl_status sl_tok_pieces_add_text(sl_tok_pieces *pieces, const char *bytes, size_t n_bytes, size_t n_first) {
  size_t begin = pieces->text.length;
  SL_TRY(sl_text_append(&pieces->text, bytes, n_bytes));
  return add_piece(pieces, (sl_tok_piece){begin, begin + n_bytes, n_first < n_bytes ? n_first : n_bytes, -1});
}

sl_status sl_tok_pieces_add_id(sl_tok_pieces *pieces, int32_t id) {
  return add_piece(pieces, (sl_tok_piece){.id = id});
}

/* ---- loading ---- */

static sl_status load_behavior(int *behavior, const sl_tok_source *source, json_t *part) {
  static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
  const char *found = NULL;
  SL_TRY(sl_json_get_string(part, "behavior", &found, source->name));
  if (!found) return SL_OK;
  for (int i = 0; i < 5; i++) {
    if (strcmp(found, names[i]) != 0) continue;
    *behavior = i;
    return SL_OK;
  }
  SL_FAIL(SL_ERROR_FORMAT, "%s: pre_tokenizer: behavior \"%s\" is unknown", source->name,
          sl_tok_quote(found, strlen(found)).text);
}

sl_status sl_tok_scheme_load(int *scheme, const sl_tok_source *source, json_t *part) {
  static const char *const names[] = {"always", "first", "never"};
  const char *found = "always";
  bool add_prefix_space = true;
  SL_TRY(sl_json_get_string(part, "prepend_scheme", &found, source->name));
  SL_TRY(sl_json_get_bool(part, "add_prefix_space", &add_prefix_space, source->name));
  *scheme = -1;
  for (int i = 0; i < 3; i++)
    if (strcmp(found, names[i]) == 0) *scheme = i;
  if (*scheme < 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: Metaspace: prepend_scheme \"%s\" is unknown", source->name,
            sl_tok_quote(found, strlen(found)).text);
  if (!add_prefix_space && *scheme != SL_TOK_SCHEME_NEVER)
    SL_FAIL(SL_ERROR_FORMAT, "%s: Metaspace: add_prefix_space is false, yet prepend_scheme is \"%s\"", source->name,
            found);
  return SL_OK;
}

static sl_status load_metaspace(sl_tok_splitter *step, const sl_tok_source *source, json_t *part) {
  SL_TRY(sl_tok_char_at(source, part, "replacement", &step->replacement));
  SL_TRY(sl_tok_scheme_load(&step->scheme, source, part));
  step->split = true;
  SL_TRY(sl_json_get_bool(part, "split", &step->split, source->name));
  step->behavior = MERGED_WITH_NEXT;
  return sl_text_append(&step->pattern.source, step->replacement.data, step->replacement.length);
}

static sl_status load_byte_level(sl_tok_splitter *step, const sl_tok_source *source, json_t *part) {
  static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
  bool trim_offsets; /* about offsets, which we do not keep; must be there all the same */
  SL_TRY(sl_tok_bool_at(source, part, "add_prefix_space", &step->add_prefix_space));
  SL_TRY(sl_tok_bool_at(source, part, "trim_offsets", &trim_offsets));
  step->split = true;
  SL_TRY(sl_json_get_bool(part, "use_regex", &step->split, source->name));
  step->behavior = ISOLATED;
  return step->split ? sl_tok_pattern_compile(&step->pattern, gpt2, sizeof gpt2 - 1, false, source->name) : SL_OK;
}

static sl_status load_split(sl_tok_splitter *step, const sl_tok_source *source, json_t *part) {
  SL_TRY(sl_tok_pattern_load(&step->pattern, source, part));
  step->behavior = -1;
  SL_TRY(load_behavior(&step->behavior, source, part));
  if (step->behavior < 0) SL_FAIL(SL_ERROR_FORMAT, "%s: pre_tokenizer Split: \"behavior\" is missing", source->name);
  return sl_tok_bool_at(source, part, "invert", &step->invert);
}

static sl_status load_step(void *context, const sl_tok_source *source, json_t *part, const char *type, int kind) {
  (void)type;
  sl_tok_splitters *steps = context;
  SL_TRY(sl_tok_grow((void **)&steps->items, steps->n, &steps->capacity, sizeof *steps->items, "pre-tokenizers"));
  sl_tok_splitter *step = &steps->items[steps->n++];
  *step = (sl_tok_splitter){.kind = kind, .split = true, .behavior = REMOVED};
  switch ((enum kind)kind) {
    case METASPACE: return load_metaspace(step, source, part);
    case BYTE_LEVEL: return load_byte_level(step, source, part);
    case SPLIT: return load_split(step, source, part);
    case DIGITS: {
      bool individual;
      SL_TRY(sl_tok_bool_at(source, part, "individual_digits", &individual));
      step->behavior = individual ? ISOLATED : CONTIGUOUS;
      return SL_OK;
    }
    case PUNCTUATION: step->behavior = ISOLATED; return load_behavior(&step->behavior, source, part);
    case WHITESPACE: {
      static const char words[] = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}]+|"
                                  "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}"
                                  "\\p{Zs}\\x09-\\x0d\\x85\\p{Zl}\\p{Zp}]+";
      step->invert = true;
      return sl_tok_pattern_compile(&step->pattern, words, sizeof words - 1, true, source->name);
    }
    case WHITESPACE_SPLIT: case BERT: break;
  }
  return SL_OK;
}

sl_status sl_tok_splitters_load(sl_tok_splitters *steps, const sl_tok_source *source, json_t *part) {
  steps->max_bytes = SL_TOK_MAX_TEXT;
  return sl_tok_walk(source, part, "pre_tokenizer", "pretokenizers", kinds, load_step, steps);
}

void sl_tok_splitters_dispose(sl_tok_splitters *steps) {
  for (size_t i = 0; i < steps->n; i++) {
    sl_tok_pattern_dispose(&steps->items[i].pattern);
    sl_text_dispose(&steps->items[i].replacement);
  }
  free(steps->items);
}

/* ---- cutting ---- */

typedef bool char_test(uint32_t c);

/* Spans as for a pattern that matches every single character of a class. */
static sl_status class_spans(char_test *test, const char *text, size_t n_bytes, sl_tok_spans *spans) {
  size_t done = 0;
  spans->n = 0;
  for (size_t at = 0, n; at < n_bytes; at += n) {
    uint32_t c;
    n = sl_utf8_decode(text + at, n_bytes - at, &c);
    if (!test(c)) continue;
    if (done < at) SL_TRY(sl_tok_spans_add(spans, done, at, false));
    SL_TRY(sl_tok_spans_add(spans, at, at + n, true));
    done = at + n;
  }
  return done < n_bytes ? sl_tok_spans_add(spans, done, n_bytes, false) : SL_OK;
}

/* Joins neighbours as the behaviour says. Merging with the next one goes backwards over the spans. Afterwards `match`
 * means: drop this span. */
static void apply_behavior(sl_tok_spans *spans, enum behavior behavior) {
  bool previous = false, backwards = behavior == MERGED_WITH_NEXT;
  size_t n = spans->n, kept = 0;
  for (size_t i = 0; i < n; i++) {
    sl_tok_span span = spans->items[backwards ? n - 1 - i : i];
    bool match = span.match;
    sl_tok_span *last = kept == 0 ? NULL : &spans->items[backwards ? n - kept : kept - 1];
    bool join = (behavior == CONTIGUOUS && match == previous) ||
                ((behavior == MERGED_WITH_PREVIOUS || backwards) && match && !previous);
    previous = match;
    span.match = behavior == REMOVED && match;
    if (join && last) {
      if (backwards) last->begin = span.begin;
      else last->end = span.end;
    } else {
      kept++;
      spans->items[backwards ? n - kept : kept - 1] = span;
    }
  }
  if (backwards && kept < n) memmove(spans->items, spans->items + n - kept, kept * sizeof *spans->items);
  spans->n = kept;
}

static sl_status emit(const sl_tok_string *piece, const sl_tok_spans *spans, sl_tok_pieces *out) {
  for (size_t i = 0; i < spans->n; i++) {
    const sl_tok_span *span = &spans->items[i];
    if (span->match || span->begin == span->end) continue;
    size_t n_first = piece->n_first > span->begin ? piece->n_first - span->begin : 0;
    SL_TRY(sl_tok_pieces_add_text(out, piece->text.data + span->begin, span->end - span->begin, n_first));
  }
  return SL_OK;
}

/* Writes the bytes of the last pieces, from piece `from` on, as printable characters. */
static sl_status show_bytes(sl_tok_pieces *pieces, size_t from, sl_text *scratch) {
  if (from == pieces->n) return SL_OK;
  size_t begin = pieces->items[from].begin, length = 0;
  scratch->length = 0;
  for (size_t i = from; i < pieces->n; i++) {
    sl_tok_piece *piece = &pieces->items[i];
    size_t n_first = 0;
    for (size_t at = piece->begin; at < piece->end; at++) {
      char shown[4];
      SL_TRY(sl_text_append(scratch, shown, sl_tok_byte_char((uint8_t)pieces->text.data[at], shown)));
      if (at < piece->begin + piece->n_first) n_first = scratch->length - length;
    }
    *piece = (sl_tok_piece){begin + length, begin + scratch->length, n_first, -1};
    length = scratch->length;
  }
  pieces->text.length = begin;
  return sl_text_append(&pieces->text, scratch->data, scratch->length);
}

typedef struct splitter_run {
  sl_tok_string piece; /* rewritten */
  sl_tok_spans spans;
  sl_text scratch;
} splitter_run;

/* Metaspace: spaces become the replacement, and one stands before the piece where the scheme wants it. */
static sl_status rewrite_metaspace(const sl_tok_splitter *step, const char *text, size_t n_bytes, size_t n_first,
                                   sl_tok_string *out) {
  const sl_text *mark = &step->replacement;
  bool starts = text[0] == ' ' || (n_bytes >= mark->length && memcmp(text, mark->data, mark->length) == 0);
  bool wanted = step->scheme == SL_TOK_SCHEME_ALWAYS || (step->scheme == SL_TOK_SCHEME_FIRST && n_first > 0);
  if (wanted && !starts) SL_TRY(sl_tok_string_add(out, mark->data, mark->length, n_first > 0));
  for (size_t at = 0; at < n_bytes; at++) {
    bool space = text[at] == ' ';
    SL_TRY(sl_tok_string_add(out, space ? mark->data : text + at, space ? mark->length : 1, at < n_first));
  }
  return SL_OK;
}

static sl_status rewrite(const sl_tok_splitter *step, const char *text, const sl_tok_piece *piece, sl_tok_string *out) {
  const char *begin = text + piece->begin;
  size_t n = piece->end - piece->begin;
  sl_tok_string_clear(out);
  if (step->kind == METASPACE) return rewrite_metaspace(step, begin, n, piece->n_first, out);
  if (step->add_prefix_space && begin[0] != ' ') SL_TRY(sl_tok_string_add(out, " ", 1, piece->n_first > 0));
  SL_TRY(sl_tok_string_add(out, begin, piece->n_first, true));
  return sl_tok_string_add(out, begin + piece->n_first, n - piece->n_first, false);
}

static sl_status find_spans(const sl_tok_splitter *step, const sl_tok_string *piece, const char *name,
                            sl_tok_spans *spans) {
  const char *text = piece->text.data;
  size_t n = piece->text.length;
  switch ((enum kind)step->kind) {
    case DIGITS: return class_spans(sl_tok_is_numeric, text, n, spans);
    case PUNCTUATION: return class_spans(sl_tok_is_punctuation, text, n, spans);
    case WHITESPACE_SPLIT: case BERT: return class_spans(sl_is_space, text, n, spans);
    case METASPACE: case BYTE_LEVEL: case SPLIT: case WHITESPACE: break;
  }
  SL_TRY(sl_tok_pattern_spans(&step->pattern, text, n, name, spans));
  for (size_t i = 0; i < spans->n && step->invert; i++) spans->items[i].match = !spans->items[i].match;
  return SL_OK;
}

static sl_status split_piece(const sl_tok_splitter *step, const char *name, const char *text, const sl_tok_piece *piece,
                             splitter_run *run, sl_tok_pieces *out) {
  size_t from = out->n;
  SL_TRY(rewrite(step, text, piece, &run->piece));
  if (step->split) {
    SL_TRY(find_spans(step, &run->piece, name, &run->spans));
    apply_behavior(&run->spans, (enum behavior)step->behavior);
  } else {
    run->spans.n = 0;
    SL_TRY(sl_tok_spans_add(&run->spans, 0, run->piece.text.length, false));
  }
  SL_TRY(emit(&run->piece, &run->spans, out));
  return step->kind == BYTE_LEVEL ? show_bytes(out, from, &run->scratch) : SL_OK;
}

static sl_status run_step(const sl_tok_splitter *step, size_t max_bytes, const char *name, const sl_tok_pieces *in,
                          sl_tok_pieces *out) {
  splitter_run run = {0};
  sl_status status = SL_OK;
  out->n = out->text.length = 0;
  for (size_t i = 0; i < in->n && status == SL_OK; i++) {
    const sl_tok_piece *piece = &in->items[i];
    status = piece->id >= 0 ? sl_tok_pieces_add_id(out, piece->id)
                            : split_piece(step, name, in->text.data, piece, &run, out);
    if (status == SL_OK && out->text.length > max_bytes)
      status = sl_fail(SL_ERROR_UNSUPPORTED, "%s: a text of more than %zu bytes once split", name, max_bytes);
  }
  sl_text_dispose(&run.piece.text);
  sl_text_dispose(&run.scratch);
  free(run.spans.items);
  return status;
}

static void swap(sl_tok_pieces *a, sl_tok_pieces *b) {
  sl_tok_pieces kept = *a;
  *a = *b;
  *b = kept;
}

sl_status sl_tok_split(const sl_tok_splitters *steps, const char *name, sl_tok_pieces *pieces, sl_tok_pieces *spare) {
  static const sl_tok_splitter punctuation = {.kind = PUNCTUATION, .behavior = ISOLATED, .split = true};
  for (size_t i = 0; i < steps->n; i++) {
    SL_TRY(run_step(&steps->items[i], steps->max_bytes, name, pieces, spare));
    swap(pieces, spare);
    if (steps->items[i].kind != BERT) continue;
    SL_TRY(run_step(&punctuation, steps->max_bytes, name, pieces, spare)); /* Bert's second half */
    swap(pieces, spare);
  }
  return SL_OK;
}
