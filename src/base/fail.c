/* Status names and this thread's error message. */
#include "base/fail.h"

#include <locale.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

#define MESSAGE_BYTES 2048

static _Thread_local char message[MESSAGE_BYTES];

const char *sl_status_name(sl_status status) {
  switch (status) {
    case SL_OK: return "ok";
    case SL_ERROR_ARGUMENT: return "argument";
    case SL_ERROR_FILE: return "file";
    case SL_ERROR_FORMAT: return "format";
    case SL_ERROR_UNSUPPORTED: return "unsupported";
    case SL_ERROR_MEMORY: return "memory";
    case SL_ERROR_CANCELLED: return "cancelled";
  }
  return "unknown";
}

const char *sl_error_message(void) { return message; }

/* Messages quote names out of files, which may hold anything; what leaves here is one line of UTF-8. */
static void make_one_utf8_line(char *text) {
  for (unsigned char *c = (unsigned char *)text; *c; c++)
    if (*c < 0x20 || *c == 0x7f) *c = ' ';
  size_t n_bytes = strlen(text), start = 0, bad;
  while (!sl_utf8_valid(text + start, n_bytes - start, &bad)) {
    text[start + bad] = '?';
    start += bad + 1;
  }
}

sl_status sl_fail(sl_status status, const char *format, ...) {
  char fresh[MESSAGE_BYTES]; /* the arguments may quote the old message */
  locale_t before = uselocale(newlocale(LC_ALL_MASK, "C", (locale_t)0));
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(fresh, sizeof fresh, format, arguments);
  va_end(arguments);
  uselocale(before);
  if (length < 0) snprintf(fresh, sizeof fresh, "%s error without a message", sl_status_name(status));
  if (length >= MESSAGE_BYTES) { /* do not leave half a character before the dots */
    size_t end = MESSAGE_BYTES - 4;
    while (end > 0 && ((unsigned char)fresh[end] & 0xC0) == 0x80) end--;
    memcpy(fresh + end, "...", 4);
  }
  make_one_utf8_line(fresh);
  memcpy(message, fresh, sizeof message);
  return status;
}
