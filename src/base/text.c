/* Growing buffers, formatting, UTF-8, globs and whole files. */
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/output.h"

/* ---- growing buffer ---- */

/* Room for n_more bytes and the terminator. */
static sl_status text_reserve(sl_text *text, size_t n_more) {
  size_t needed;
  if (!sl_size_add(text->length, n_more, &needed) || !sl_size_add(needed, 1, &needed))
    SL_FAIL(SL_ERROR_MEMORY, "text buffer: %zu more bytes are more than memory can hold", n_more);
  if (needed <= text->capacity) return SL_OK;
  size_t capacity = text->capacity + text->capacity / 2;
  if (capacity < needed) capacity = needed;
  if (capacity < 32) capacity = 32;
  SL_TRY(SL_REALLOC(text->data, capacity, "text buffer"));
  text->capacity = capacity;
  return SL_OK;
}

sl_status sl_text_append(sl_text *text, const void *bytes, size_t n_bytes) {
  SL_TRY(text_reserve(text, n_bytes));
  if (n_bytes > 0) memcpy(text->data + text->length, bytes, n_bytes);
  text->length += n_bytes;
  text->data[text->length] = '\0';
  return SL_OK;
}

sl_status sl_text_append_string(sl_text *text, const char *string) {
  return sl_text_append(text, string, strlen(string));
}

/* vsnprintf with a decimal point, whatever the caller's locale. Setting the thread's locale costs nothing: glibc's "C"
 * locale is static. */
static int format_plain(char *out, size_t capacity, const char *format, va_list arguments) {
  locale_t before = uselocale(newlocale(LC_ALL_MASK, "C", (locale_t)0));
  int length = vsnprintf(out, capacity, format, arguments);
  uselocale(before);
  return length;
}

sl_status sl_text_format(sl_text *text, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int length = format_plain(NULL, 0, format, arguments);
  va_end(arguments);
  if (length < 0) SL_FAIL(SL_ERROR_ARGUMENT, "text buffer: the format \"%s\" could not be printed", format);
  SL_TRY(text_reserve(text, (size_t)length));
  va_start(arguments, format);
  format_plain(text->data + text->length, (size_t)length + 1, format, arguments);
  va_end(arguments);
  text->length += (size_t)length;
  return SL_OK;
}

void sl_text_dispose(sl_text *text) {
  free(text->data);
  *text = (sl_text){0};
}

sl_status sl_path_join(char **out, const char *dir, const char *name) {
  *out = NULL;
  size_t n_dir = strlen(dir);
  bool needs_slash = n_dir > 0 && dir[n_dir - 1] != '/';
  sl_text path = {0};
  sl_status status = sl_text_format(&path, "%s%s%s", dir, needs_slash ? "/" : "", name);
  if (status) sl_text_dispose(&path);
  *out = path.data;
  return status;
}

/* ---- UTF-8 ---- */

/* Length of the well-formed sequence at `bytes` with its code point, or 0. The bounds of the second byte are those of
 * table 3-7 of the Unicode standard: they rule out overlong forms, surrogates and what lies above U+10FFFF. */
static size_t decode_strict(const unsigned char *bytes, size_t n_bytes, uint32_t *code_point) {
  unsigned lead = bytes[0];
  if (lead < 0x80) {
    *code_point = lead;
    return 1;
  }
  size_t length = lead < 0xC2 || lead > 0xF4 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  if (length == 0 || length > n_bytes) return 0;
  unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (bytes[1] < low || bytes[1] > high) return 0;
  uint32_t value = lead & (0x7Fu >> length);
  for (size_t i = 1; i < length; i++) {
    if ((bytes[i] & 0xC0) != 0x80) return 0;
    value = value << 6 | (bytes[i] & 0x3Fu);
  }
  *code_point = value;
  return length;
}

bool sl_utf8_valid(const char *bytes, size_t n_bytes, size_t *bad_offset) {
  uint32_t ignored;
  for (size_t i = 0; i < n_bytes;) {
    size_t length = decode_strict((const unsigned char *)bytes + i, n_bytes - i, &ignored);
    if (length == 0) {
      if (bad_offset) *bad_offset = i;
      return false;
    }
    i += length;
  }
  return true;
}

size_t sl_utf8_decode(const char *bytes, size_t n_bytes, uint32_t *code_point) {
  size_t length = decode_strict((const unsigned char *)bytes, n_bytes, code_point);
  if (length > 0) return length;
  *code_point = 0xFFFD;
  return 1;
}

size_t sl_utf8_encode(uint32_t code_point, char out[4]) {
  if (code_point > 0x10FFFF || (code_point >= 0xD800 && code_point <= 0xDFFF)) code_point = 0xFFFD;
  if (code_point < 0x80) {
    out[0] = (char)code_point;
    return 1;
  }
  size_t length = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
  for (size_t i = length - 1; i > 0; i--, code_point >>= 6) out[i] = (char)(0x80 | (code_point & 0x3F));
  out[0] = (char)((0xF00u >> length & 0xF0) | code_point);
  return length;
}

bool sl_is_space(uint32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool sl_is_python_space(uint32_t c) { return sl_is_space(c) || (c >= 0x1C && c <= 0x1F); }

bool sl_glob_match(const char *pattern, const char *name) {
  const char *after_star = NULL, *star_end = NULL; /* where to go on when the rest does not match */
  while (*name) {
    if (*pattern == '*') {
      after_star = ++pattern;
      star_end = name;
    } else if (*pattern == '?') {
      pattern++;
      do name++;
      while (((unsigned char)*name & 0xC0) == 0x80); /* a character, not a byte */
    } else if (*pattern == *name) {
      pattern++;
      name++;
    } else if (after_star) { /* only the last star needs widening: what stood before it has matched already */
      pattern = after_star;
      name = ++star_end;
    } else {
      return false;
    }
  }
  while (*pattern == '*') pattern++;
  return *pattern == '\0';
}

/* ---- whole files ---- */

/* Reads to the end rather than trusting the size: the file may grow meanwhile, and pipes have none. */
static sl_status read_all(int descriptor, size_t size_hint, const char *path, size_t max_bytes, sl_text *text) {
  SL_TRY(text_reserve(text, size_hint));
  for (;;) {
    if (text->length + 1 >= text->capacity) SL_TRY(text_reserve(text, text->capacity / 2 + 1));
    ssize_t n_read = read(descriptor, text->data + text->length, text->capacity - text->length - 1);
    if (n_read < 0 && errno == EINTR) continue;
    if (n_read < 0) SL_FAIL(SL_ERROR_FILE, "%s: cannot read: %s", path, strerror(errno));
    text->length += (size_t)n_read;
    if (text->length > max_bytes)
      SL_FAIL(SL_ERROR_FILE, "%s: more than %zu bytes, the limit for this file", path, max_bytes);
    if (n_read == 0) break;
  }
  text->data[text->length] = '\0';
  return SL_OK;
}

sl_status sl_file_read(const char *path, size_t max_bytes, char **out, size_t *n_bytes) {
  *out = NULL;
  *n_bytes = 0;
  int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) SL_FAIL(SL_ERROR_FILE, "%s: cannot open: %s", path, strerror(errno));
  struct stat info;
  sl_text text = {0};
  sl_status status;
  if (fstat(descriptor, &info) != 0)
    status = sl_fail(SL_ERROR_FILE, "%s: cannot read: %s", path, strerror(errno));
  else if (S_ISDIR(info.st_mode))
    status = sl_fail(SL_ERROR_FILE, "%s: expected a file, found a folder", path);
  else if (S_ISREG(info.st_mode) && (uint64_t)info.st_size > max_bytes)
    status = sl_fail(SL_ERROR_FILE, "%s: has %lld bytes, the limit for this file is %zu", path, (long long)info.st_size,
                     max_bytes);
  else
    status = read_all(descriptor, S_ISREG(info.st_mode) ? (size_t)info.st_size + 1 : 0, path, max_bytes, &text);
  close(descriptor);
  if (status) {
    sl_text_dispose(&text);
    return status;
  }
  *out = text.data;
  *n_bytes = text.length;
  return SL_OK;
}

sl_status sl_refuse_pointer(const char *path, const void *bytes, size_t n_bytes, const char *expected) {
  static const char text[] = "version https://git-lfs";
  if (n_bytes < sizeof text || memcmp(bytes, text, sizeof text - 1) != 0) return SL_OK;
  SL_FAIL(SL_ERROR_FORMAT, "%s: expected %s, found a Git LFS pointer; fetch the file with `git lfs pull`", path,
          expected);
}

sl_status sl_file_write(const char *path, const void *bytes, size_t n_bytes) {
  sl_output *output;
  SL_TRY(sl_output_open(&output, path));
  sl_status status = sl_output_write(output, bytes, n_bytes);
  if (status) {
    sl_output_discard(output);
    return status;
  }
  return sl_output_commit(output);
}
