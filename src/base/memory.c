/* Allocation with overflow checks and a fault to inject. */
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

static _Thread_local long allocations_until_failure; /* 0: none will fail */

void sl_alloc_fail_at(long n) { allocations_until_failure = n > 0 ? n : 0; }

static bool fails_now(void) {
  if (allocations_until_failure == 0) return false;
  return --allocations_until_failure == 0;
}

/* `out` really points to some `T *`: the copies below go bytewise so that no object is accessed as a type it is not. */
sl_status sl_alloc(void **out, size_t count, size_t size, const char *what) {
  size_t n_bytes;
  void *block = NULL;
  memcpy(out, &block, sizeof block);
  if (!sl_size_mul(count, size, &n_bytes) || n_bytes > PTRDIFF_MAX)
    SL_FAIL(SL_ERROR_MEMORY, "%s: %zu elements of %zu bytes are more than memory can hold", what, count, size);
  block = fails_now() ? NULL : calloc(n_bytes > 0 ? n_bytes : 1, 1);
  if (!block) SL_FAIL(SL_ERROR_MEMORY, "%s: out of memory, asked for %zu bytes", what, n_bytes);
  memcpy(out, &block, sizeof block);
  return SL_OK;
}

sl_status sl_realloc(void **pointer, size_t count, size_t size, const char *what) {
  size_t n_bytes;
  if (!sl_size_mul(count, size, &n_bytes) || n_bytes > PTRDIFF_MAX)
    SL_FAIL(SL_ERROR_MEMORY, "%s: %zu elements of %zu bytes are more than memory can hold", what, count, size);
  void *block;
  memcpy(&block, pointer, sizeof block);
  block = fails_now() ? NULL : realloc(block, n_bytes > 0 ? n_bytes : 1);
  if (!block) SL_FAIL(SL_ERROR_MEMORY, "%s: out of memory, asked for %zu bytes", what, n_bytes);
  memcpy(pointer, &block, sizeof block);
  return SL_OK;
}

sl_status sl_strdup(char **out, const char *text) {
  size_t n_bytes = strlen(text) + 1;
  SL_TRY(SL_ALLOC(*out, n_bytes, "copy of a string"));
  memcpy(*out, text, n_bytes);
  return SL_OK;
}
