/* Letters and blanks as Python's str sees them: the official scripts are written in it. */
#ifndef SL_METRIC_LETTERS_H
#define SL_METRIC_LETTERS_H

#include "base/text.h"

/* \w of re with str patterns, and \d. */
bool sl_is_word(uint32_t code_point);
bool sl_is_digit(uint32_t code_point);

/* The code point at `at` of a text that NUL ends, and its length in bytes, 0 at the end. However long the text is, no
 * more than four bytes of it are looked at. */
size_t sl_letter(const char *at, uint32_t *code_point);
/* str.lower(); new text. */
sl_status sl_lower(char **out, const char *text);
/* str.strip() in place: the first byte kept; the end is cut. */
char *sl_strip(char *text);
/* str.split(): the next word at *at, its length; 0 at the end. */
size_t sl_next_word(const char **at);

#endif
