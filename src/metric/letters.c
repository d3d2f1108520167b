/* Python's view of text, over utf8proc's tables. */
#include "metric/letters.h"

#include <string.h>
#include <utf8proc.h>

#define CAPITAL_SIGMA 0x3A3
#define FINAL_SIGMA 0x3C2
#define CAPITAL_I_DOT 0x130 /* the one letter that becomes two code points */
#define COMBINING_DOT "\xcc\x87"

bool sl_is_word(uint32_t c) {
  if (c < 0x80) return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
  const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
  return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) ||
         (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
}

bool sl_is_digit(uint32_t c) {
  return c < 0x80 ? c >= '0' && c <= '9' : utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_ND;
}

/* Unicode's Cased: upper, lower and title case; whatever has another case (Roman numerals); the two ordinal marks. */
static bool is_cased(uint32_t c) {
  const utf8proc_int32_t p = (utf8proc_int32_t)c;
  const utf8proc_category_t k = utf8proc_category(p);
  return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT || c == 0xAA || c == 0xBA ||
         utf8proc_tolower(p) != p || utf8proc_toupper(p) != p;
}

/* Unicode's Case_Ignorable: marks, modifiers, and what may stand inside a word. */
static bool is_case_ignorable(uint32_t c) {
  static const uint32_t inside[] = {0x27,   0x2E,   0x3A,   0xB7,   0x387,  0x55F,  0x5F4,  0x2018, 0x2019,
                                    0x2024, 0x2027, 0xFE13, 0xFE52, 0xFE55, 0xFF07, 0xFF0E, 0xFF1A};
  for (size_t i = 0; i < sizeof inside / sizeof *inside; i++)
    if (c == inside[i]) return true;
  const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
  return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF ||
         k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_SK;
}

/* Whether the next letter of text[n] is a cased one. */
static bool cased_follows(const char *text, size_t n) {
  uint32_t c = 0;
  for (size_t i = 0; i < n;) {
    i += sl_utf8_decode(text + i, n - i, &c);
    if (!is_case_ignorable(c)) return is_cased(c);
  }
  return false;
}

sl_status sl_lower(char **out, const char *text) {
  sl_text lower = {0};
  const size_t n = strlen(text);
  bool inside = false; /* the last code point that is not ignorable is a cased letter */
  sl_status status = sl_text_append(&lower, "", 0);
  for (size_t i = 0; i < n && status == SL_OK;) {
    uint32_t c;
    char bytes[4];
    i += sl_utf8_decode(text + i, n - i, &c);
    uint32_t small = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    if (c == CAPITAL_SIGMA && inside && !cased_follows(text + i, n - i)) small = FINAL_SIGMA;
    if (c == CAPITAL_I_DOT) small = 'i';
    status = sl_text_append(&lower, bytes, sl_utf8_encode(small, bytes));
    if (status == SL_OK && c == CAPITAL_I_DOT) status = sl_text_append_string(&lower, COMBINING_DOT);
    if (!is_case_ignorable(c)) inside = is_cased(c);
  }
  if (status != SL_OK) sl_text_dispose(&lower);
  *out = lower.data;
  return status;
}

char *sl_strip(char *text) {
  size_t n = strlen(text), end = 0;
  uint32_t c;
  while (n > 0) {
    const size_t length = sl_utf8_decode(text, n, &c);
    if (!sl_is_python_space(c)) break;
    text += length;
    n -= length;
  }
  for (size_t i = 0; i < n;) {
    i += sl_utf8_decode(text + i, n - i, &c);
    if (!sl_is_python_space(c)) end = i;
  }
  text[end] = '\0';
  return text;
}

size_t sl_letter(const char *at, uint32_t *code_point) {
  const size_t n = strnlen(at, 4);
  return n > 0 ? sl_utf8_decode(at, n, code_point) : 0;
}

size_t sl_next_word(const char **at) {
  uint32_t c;
  size_t length = 0, step;
  while ((step = sl_letter(*at, &c)) > 0 && sl_is_python_space(c)) *at += step;
  while ((step = sl_letter(*at + length, &c)) > 0 && !sl_is_python_space(c)) length += step;
  return length;
}
