/* Python's view of text, over utf8proc's tables. */
#include "metric/letters.h"

#include <string.h>
#include <utf8proc.h>

bool sl_is_blank(uint32_t c) {
  return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool sl_is_word(uint32_t c) {
  if (c < 0x80) return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
  const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
  return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) ||
         (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
}

bool sl_is_digit(uint32_t c) {
  return c < 0x80 ? c >= '0' && c <= '9' : utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_ND;
}

sl_status sl_lower(char **out, const char *text) {
  sl_text lower = {0};
  const size_t n = strlen(text);
  sl_status status = sl_text_append(&lower, "", 0);
  for (size_t i = 0; i < n && status == SL_OK;) {
    uint32_t c;
    char bytes[4];
    i += sl_utf8_decode(text + i, n - i, &c);
    status = sl_text_append(&lower, bytes, sl_utf8_encode((uint32_t)utf8proc_tolower((utf8proc_int32_t)c), bytes));
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
    if (!sl_is_blank(c)) break;
    text += length;
    n -= length;
  }
  for (size_t i = 0; i < n;) {
    i += sl_utf8_decode(text + i, n - i, &c);
    if (!sl_is_blank(c)) end = i;
  }
  text[end] = '\0';
  return text;
}

size_t sl_next_word(const char **at) {
  size_t n = strlen(*at), length = 0;
  uint32_t c;
  while (n > 0) {
    const size_t step = sl_utf8_decode(*at, n, &c);
    if (!sl_is_blank(c)) break;
    *at += step;
    n -= step;
  }
  while (length < n) {
    const size_t step = sl_utf8_decode(*at + length, n - length, &c);
    if (sl_is_blank(c)) break;
    length += step;
  }
  return length;
}
