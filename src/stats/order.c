/* Sorting indices: qsort hands its comparison no context, so every key travels with its index. */
#include "stats/order.h"

#include <math.h>
#include <stdlib.h>

typedef struct keyed {
  double key;
  int index;
} keyed;

/* A total order, so that every qsort gives the same. */
static int falling(const void *a, const void *b) {
  const keyed *x = a, *y = b;
  if (isnan(x->key) != isnan(y->key)) return isnan(x->key) ? 1 : -1;
  if (x->key != y->key && !isnan(x->key)) return x->key < y->key ? 1 : -1;
  return x->index - y->index;
}

static sl_status order_by(int *order, const double *doubles, const float *floats, int n) {
  keyed *keys = NULL;
  SL_TRY(SL_ALLOC(keys, (size_t)n, "order"));
  for (int i = 0; i < n; i++) keys[i] = (keyed){doubles ? doubles[i] : (double)floats[i], i};
  qsort(keys, (size_t)n, sizeof *keys, falling);
  for (int i = 0; i < n; i++) order[i] = keys[i].index;
  free(keys);
  return SL_OK;
}

sl_status sl_order_falling(int *order, const double *key, int n) { return order_by(order, key, NULL, n); }
sl_status sl_order_floats(int *order, const float *key, int n) { return order_by(order, NULL, key, n); }
