/* Raising and passing on errors. The origin calls SL_FAIL with the whole message; everyone above uses SL_TRY, or
 * `goto out` where something must be released. */
#ifndef SL_BASE_FAIL_H
#define SL_BASE_FAIL_H

#include "sightline/status.h"

/* Sets this thread's message and returns `status`. */
sl_status sl_fail(sl_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Spelled so that the compiler sees the constant go out: it then knows which outputs are set after an SL_TRY. */
#define SL_FAIL(status, ...)                  \
  do {                                        \
    sl_status sl_fail_status_ = (status);     \
    (void)sl_fail(sl_fail_status_, __VA_ARGS__); \
    return sl_fail_status_;                   \
  } while (0)

/* Returns from the calling function when `expression` fails. */
#define SL_TRY(expression)                        \
  do {                                            \
    sl_status sl_try_status_ = (expression);      \
    if (sl_try_status_ != SL_OK) return sl_try_status_; \
  } while (0)

#endif
