/* A growing UTF-8 buffer, formatting, and small text helpers. Zero-initialise sl_text; release with sl_text_dispose. */
#ifndef SL_BASE_TEXT_H
#define SL_BASE_TEXT_H

#include "base/memory.h"

typedef struct sl_text {
  char *data;      /* NUL-terminated once anything was appended; may hold NUL bytes inside */
  size_t length;   /* bytes, without the terminator */
  size_t capacity; /* bytes */
} sl_text;

sl_status sl_text_append(sl_text *text, const void *bytes, size_t n_bytes);
sl_status sl_text_append_string(sl_text *text, const char *string);
/* Numbers print with a decimal point whatever the locale. */
sl_status sl_text_format(sl_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sl_text_dispose(sl_text *text);

/* Path of `name` inside folder `dir`, into a new string. */
sl_status sl_path_join(char **out, const char *dir, const char *name);

/* True when `bytes` is valid UTF-8 (no surrogates, no overlong forms, at most U+10FFFF); otherwise *bad_offset is the
 * offset of the first bad byte. bad_offset may be NULL. */
bool sl_utf8_valid(const char *bytes, size_t n_bytes, size_t *bad_offset);

/* Decodes one code point at `bytes` (n_bytes >= 1); returns its length in bytes. An ill-formed sequence gives U+FFFD
 * and length 1. */
size_t sl_utf8_decode(const char *bytes, size_t n_bytes, uint32_t *code_point);

/* Encodes a code point into out[4]; returns its length in bytes. What is no code point (surrogates, above U+10FFFF)
 * becomes U+FFFD. */
size_t sl_utf8_encode(uint32_t code_point, char out[4]);

/* A blank by Unicode's White_Space; by Python's str.isspace(), which also counts U+001C..U+001F. */
bool sl_is_space(uint32_t code_point);
bool sl_is_python_space(uint32_t code_point);

/* Shell-style glob: `*` any run, `?` one character, everything else literal. Hyphen and underscore differ. */
bool sl_glob_match(const char *pattern, const char *name);

/* A whole file into a new buffer with one extra NUL byte. Fails above max_bytes, naming the limit. */
sl_status sl_file_read(const char *path, size_t max_bytes, char **out, size_t *n_bytes);

/* Git LFS leaves a small text in place of a file that was not downloaded. Refuses that text as the content of `path`,
 * saying how to fetch the file; `expected` is what it should hold ("weights"). */
sl_status sl_refuse_pointer(const char *path, const void *bytes, size_t n_bytes, const char *expected);

/* Writes a file whole: to a temporary beside it, fsync, rename. A full disk leaves nothing behind. output.h does the
 * same in pieces. */
sl_status sl_file_write(const char *path, const void *bytes, size_t n_bytes);

#endif
