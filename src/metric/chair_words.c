/* Cutting captions into words, for CHAIR: sentences, then the rules of the Penn Treebank tokenizer, as far as they
 * decide whether a word of letters stands alone. What only moves cuts inside words that are no object ("gonna", "'tis",
 * abbreviations with their periods) is left out: no word of CHAIR's list is among them.
 *
 * Source: what nltk.word_tokenize (NLTK 3.10) does to a text: sentences by Kiss and Strunk, Unsupervised
 * Multilingual Sentence Boundary Detection, 2006 (every word that ends in a period ends one, but for abbreviations),
 * words by R. MacIntyre's tokenizer. */
#include <stdlib.h>
#include <string.h>

#include "metric/chair.h"
#include "metric/letters.h"

sl_status sl_words_add(sl_words *words, const char *text, size_t n_bytes) {
  const size_t n = (size_t)words->n;
  if (n == words->capacity) {
    const size_t capacity = n ? 2 * n : 32;
    SL_TRY(SL_REALLOC(words->items, capacity, "words"));
    words->capacity = capacity;
  }
  char *copy;
  SL_TRY(SL_ALLOC(copy, n_bytes + 1, "word"));
  memcpy(copy, text, n_bytes);
  words->items[words->n++] = copy;
  return SL_OK;
}

void sl_words_dispose(sl_words *words) {
  for (int i = 0; i < words->n; i++) free(words->items[i]);
  free(words->items);
  *words = (sl_words){0};
}

/* ---- one sentence ---- */

/* A text read code point by code point into another. */
typedef struct pass {
  const char *in;
  size_t n, at, length; /* of the code point at `at` */
  uint32_t c, before;   /* this code point and the one before (0 = none) */
  sl_text out;
} pass;

static bool next(pass *p) {
  p->at += p->length;
  p->before = p->length ? p->c : 0;
  if (p->at >= p->n) return false;
  p->length = sl_utf8_decode(p->in + p->at, p->n - p->at, &p->c);
  return true;
}

static sl_status keep(pass *p) { return sl_text_append(&p->out, p->in + p->at, p->length); }

static sl_status keep_apart(pass *p) {
  SL_TRY(sl_text_append(&p->out, " ", 1));
  SL_TRY(keep(p));
  return sl_text_append(&p->out, " ", 1);
}

/* The code point behind the current one; 0 at the end. */
static uint32_t peek(const pass *p) {
  uint32_t c = 0;
  if (p->at + p->length < p->n) (void)sl_utf8_decode(p->in + p->at + p->length, p->n - p->at - p->length, &c);
  return c;
}

static bool is_opening(uint32_t c) {
  return c == 0xAB || c == 0x201C || c == 0x2018 || c == 0x201E || c == '`';
}

static bool is_closing(uint32_t c) { return c == 0xBB || c == 0x201D || c == 0x2019; }

static bool stands_alone(uint32_t c) {
  return (c < 0x80 && c != 0 && strchr(";@#$%&?!*[](){}<>\"", (int)c)) || (c >= 0x2012 && c <= 0x2015) || is_closing(c);
}

/* 're, 've, 'll, 'm, 't, 's, 'd and 'n are parts of the word before. */
static bool is_clitic(const char *text, size_t n) {
  static const char *const list[] = {"re", "ve", "ll", "m", "t", "s", "d", "n"};
  for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
    const size_t length = strlen(list[i]);
    uint32_t c = 0;
    if (n < length || memcmp(text, list[i], length) != 0) continue;
    if (n > length) (void)sl_utf8_decode(text + length, n - length, &c);
    if (!sl_is_word(c)) return true;
  }
  return false;
}

/* Opening quotes stand apart; so does an apostrophe in front of a word. */
static sl_status open_quotes(pass *p) {
  while (next(p)) {
    const char *behind = p->in + p->at + p->length;
    const size_t n_behind = p->n - p->at - p->length;
    /* A double quote behind a blank or a bracket opens; so do two apostrophes, but not at the beginning. */
    const bool apart = (p->before != 0 && p->before < 0x80 && strchr(" ([{<", (int)p->before)) || is_opening(p->before);
    const bool two = p->c == '\'' && peek(p) == '\'' && apart;
    if (is_opening(p->c)) {
      SL_TRY(sl_text_append(&p->out, " ` ", 3));
    } else if (two || (p->c == '"' && (p->before == 0 || apart))) {
      SL_TRY(sl_text_append(&p->out, " `` ", 4));
      if (two) (void)next(p);
    } else if (p->c == '\'' && !sl_is_word(p->before) && sl_is_word(peek(p)) && !is_clitic(behind, n_behind)) {
      SL_TRY(keep(p));
      SL_TRY(sl_text_append(&p->out, " ", 1));
    } else {
      SL_TRY(keep(p));
    }
  }
  return SL_OK;
}

/* Offset of the sentence's last period when nothing but closing marks and blanks follows it; n when there is none. Blanks
 * of other kinds may stand at the very end alone. */
static size_t final_period(const char *text, size_t n) {
  size_t found = n;
  bool tail = false; /* such a blank was there */
  uint32_t c;
  for (size_t i = 0; i < n;) {
    const size_t at = i;
    i += sl_utf8_decode(text + i, n - i, &c);
    if (c == '.')
      found = at, tail = false;
    else if (sl_is_python_space(c))
      tail = tail || c != ' ';
    else if (tail || (!is_closing(c) && !(c < 0x80 && strchr("])}>\"'", (int)c))))
      found = n;
  }
  return found < n && found > 0 && text[found - 1] != '.' ? found : n;
}

/* Marks that always stand alone; "," and ":" unless a digit follows; the final period; two periods, hyphens or
 * apostrophes. */
static sl_status part_marks(pass *p) {
  const size_t stop = final_period(p->in, p->n);
  while (next(p)) {
    const uint32_t c = p->c, after = peek(p);
    const bool runs = (c == '.' && (after == '.' || p->before == '.')) || (c == '-' && (after == '-' || p->before == '-'));
    if ((c == ',' || c == ':') && !sl_is_digit(after)) {
      SL_TRY(keep_apart(p));
      /* The character behind is passed with it: a second comma does not part what follows. */
      if (after == 0 || !next(p)) return SL_OK;
      SL_TRY(stands_alone(p->c) || p->at == stop ? keep_apart(p) : keep(p));
    } else if (c == '\'' && after == '\'') {
      SL_TRY(sl_text_append(&p->out, " '' ", 4));
      (void)next(p);
    } else if (stands_alone(c) || p->at == stop || runs) {
      SL_TRY(keep_apart(p));
    } else {
      SL_TRY(keep(p));
    }
  }
  return SL_OK;
}

/* Length of what is cut off the end of word[n]: the first of the list (at most 4) that it ends in; 0 without. */
static size_t clitic_of(const char *word, size_t n, const char *const list[4]) {
  for (int i = 0; i < 4 && list[i]; i++) {
    const size_t length = strlen(list[i]);
    if (n > length && memcmp(word + n - length, list[i], length) == 0 && word[n - length - 1] != '\'') return length;
  }
  return 0;
}

/* A closing apostrophe (not at the sentence's end, where it waits for the next step), then 's and the like, then 'll and
 * the like: each is cut off once. */
static sl_status add_words(sl_words *words, const char *text) {
  static const char *const steps[3][4] = {{"'"}, {"'s", "'m", "'d", "'"}, {"'ll", "'re", "'ve", "n't"}};
  const char *at = text;
  for (size_t n; (n = sl_next_word(&at)) > 0; at += n) {
    size_t ends[4] = {n};
    for (int i = 0; i < 3; i++)
      ends[i + 1] = ends[i] - (i == 0 && !at[n] ? 0 : clitic_of(at, ends[i], steps[i]));
    SL_TRY(sl_words_add(words, at, ends[3]));
    for (int i = 2; i >= 0; i--)
      if (ends[i] > ends[i + 1]) SL_TRY(sl_words_add(words, at + ends[i + 1], ends[i] - ends[i + 1]));
  }
  return SL_OK;
}

static sl_status cut_sentence(sl_words *words, const char *text, size_t n) {
  pass quotes = {.in = text, .n = n}, marks = {0};
  sl_status status = sl_text_append(&quotes.out, "", 0);
  if (status == SL_OK) status = open_quotes(&quotes);
  marks.in = quotes.out.data;
  marks.n = quotes.out.length;
  if (status == SL_OK) status = sl_text_append(&marks.out, "", 0);
  if (status == SL_OK) status = part_marks(&marks);
  if (status == SL_OK) status = add_words(words, marks.out.data);
  sl_text_dispose(&quotes.out);
  sl_text_dispose(&marks.out);
  return status;
}

/* ---- sentences ---- */

static bool is_quote(uint32_t c) {
  return c == 0x2018 || c == 0x2019 || c == 0x201C || c == 0x201D || c == 0xAB || c == 0xBB;
}

/* Marks that a sentence may end before without a blank between, and those that belong to the sentence before them. */
static bool ends_before(uint32_t c) {
  return (c < 0x80 && c != 0 && strchr(")\";}]*:@'({[!?", (int)c)) || is_quote(c);
}
static bool belongs_before(uint32_t c) { return (c < 0x80 && c != 0 && strchr("\"')]}", (int)c)) || is_quote(c); }

static size_t skip(const char *text, size_t at, size_t n, bool (*holds)(uint32_t)) {
  uint32_t c;
  while (at < n) {
    const size_t length = sl_utf8_decode(text + at, n - at, &c);
    if (!holds(c)) break;
    at += length;
  }
  return at;
}

/* Where the sentence that ends with the mark at text[at] ends: behind it, or behind closing marks that follow it, with
 * blanks between or not, and that blanks, "--" or the end follow. 0 when it does not end there, or when the text does. */
static size_t sentence_end(const char *text, size_t at, size_t n) {
  const size_t behind = at + 1;
  uint32_t c = 0;
  if (behind == n) return 0;
  (void)sl_utf8_decode(text + behind, n - behind, &c);
  if (!sl_is_python_space(c) && !ends_before(c)) return 0;
  const size_t begin = skip(text, behind, n, sl_is_python_space), end = skip(text, begin, n, belongs_before);
  if (begin == n) return 0;
  if (end == begin) return behind;
  if (end < n) (void)sl_utf8_decode(text + end, n - end, &c);
  const bool apart = end == n || sl_is_python_space(c) || (n - end >= 2 && memcmp(text + end, "--", 2) == 0);
  return apart ? end : behind;
}

/* Of two marks without a blank between only the second ends a sentence: "dog.)cat. cow" has two. */
static bool are_apart(const char *text, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (strchr(" \t\n\r\v\f", text[i])) return true;
  return false;
}

sl_status sl_words_cut(sl_words *words, const char *text) {
  size_t n = strlen(text), begin = 0, end = 0, mark = 0; /* end: of the sentence that `mark` may end; 0 = none */
  while (n > 0 && strchr(" \t\r\n", text[n - 1])) n--;
  for (size_t at = 0; at < n; at++) {
    if (text[at] != '.' && text[at] != '?' && text[at] != '!') continue;
    const size_t next = sentence_end(text, at, n);
    if (next == 0) continue;
    if (end > 0 && are_apart(text + mark, at - mark)) {
      SL_TRY(cut_sentence(words, text + begin, end - begin));
      begin = end;
    }
    end = next;
    mark = at;
  }
  if (end > 0) SL_TRY(cut_sentence(words, text + begin, end - begin));
  begin = end > 0 ? end : begin;
  return begin < n ? cut_sentence(words, text + begin, n - begin) : SL_OK;
}
