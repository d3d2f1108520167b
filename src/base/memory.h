/* Heap memory with overflow-checked sizes. All of the library allocates through these functions, so that a test can
 * make the n-th allocation fail. */
#ifndef SL_BASE_MEMORY_H
#define SL_BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/fail.h"

/* a * b and a + b into *out; false on overflow. */
static inline bool sl_size_mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool sl_size_add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

/* Allocates `count` zeroed elements of `size` bytes (a count of 0 gives a valid pointer). Free with free(). On failure
 * *out is NULL and the message names `what`. */
sl_status sl_alloc(void **out, size_t count, size_t size, const char *what);
#define SL_ALLOC(pointer, count, what) sl_alloc((void **)&(pointer), (count), sizeof *(pointer), (what))

/* Grows *pointer (from sl_alloc, or NULL) to `count` elements; the old block stays valid on failure. New bytes are not
 * zeroed. */
sl_status sl_realloc(void **pointer, size_t count, size_t size, const char *what);
#define SL_REALLOC(pointer, count, what) sl_realloc((void **)&(pointer), (count), sizeof *(pointer), (what))

/* strdup through sl_alloc. */
sl_status sl_strdup(char **out, const char *text);

/* Test hook: the n-th allocation from now (1 = the next) fails, on this thread; 0 switches it off. */
void sl_alloc_fail_at(long n);

#endif
