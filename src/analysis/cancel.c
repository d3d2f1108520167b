/* A flag that stops long work; sessions look at it between two layers. */
#include "analysis/cancel.h"

#include <stdlib.h>

#include "base/memory.h"

_Static_assert(ATOMIC_BOOL_LOCK_FREE == 2, "requesting must be safe in a signal handler");

sl_status sl_cancel_new(sl_cancel **out) { return SL_ALLOC(*out, 1, "cancel flag"); }

void sl_cancel_request(sl_cancel *cancel) { atomic_store_explicit(&cancel->requested, true, memory_order_relaxed); }

bool sl_cancel_requested(const sl_cancel *cancel) {
  return atomic_load_explicit(&cancel->requested, memory_order_relaxed);
}

void sl_cancel_free(sl_cancel *cancel) { free(cancel); }
