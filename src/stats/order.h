/* Indices in the order of their values. */
#ifndef SL_STATS_ORDER_H
#define SL_STATS_ORDER_H

#include "base/memory.h"

/* order[n] becomes 0 .. n - 1 by key[n], the largest first; equal keys by index, NaN last. Fails only for want of
 * memory. */
sl_status sl_order_falling(int *order, const double *key, int n);
sl_status sl_order_floats(int *order, const float *key, int n); /* the same */

#endif
