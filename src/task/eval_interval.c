/* Bootstrap over pictures: questions about one picture are not independent, so that pictures are drawn, each with all of
 * its questions, and a question without a picture by itself.
 *
 *   mean of a draw = sum of its values / number of its values
 *
 * Source: Davison and Hinkley, Bootstrap Methods and Their Application, 1997, section 3.8 (cluster sampling). */
#include <math.h>
#include <stdlib.h>

#include "task/eval_internal.h"

sl_status sl_eval_units(int **unit, int *n_unit, const sl_evaluation *e) {
  json_t *known = json_object();
  sl_status status = SL_ALLOC(*unit, (size_t)e->examples.n, "pictures");
  *n_unit = 0;
  for (int i = 0; i < e->examples.n && status == SL_OK; i++) {
    const char *image = e->examples.items[i].image;
    const json_t *number = image ? json_object_get(known, image) : NULL;
    (*unit)[i] = number ? (int)json_integer_value(number) : (*n_unit)++;
    if (image && !number) status = sl_metric_set(known, image, json_integer((*unit)[i]));
  }
  json_decref(known);
  return status;
}

sl_status sl_eval_pool_new(sl_eval_pool *pool, const sl_evaluation *e, const double *const *columns, int n_column) {
  int *unit = NULL, *place = NULL, n_unit = 0;
  *pool = (sl_eval_pool){.n_column = n_column};
  sl_status status = sl_eval_units(&unit, &n_unit, e);
  if (status == SL_OK) status = SL_ALLOC(place, (size_t)n_unit, "pictures");
  if (status == SL_OK) status = SL_ALLOC(pool->count, (size_t)n_unit, "pictures");
  if (status == SL_OK) status = SL_ALLOC(pool->sum, (size_t)n_unit * (size_t)n_column, "pictures");
  for (int i = 0; i < e->examples.n && status == SL_OK; i++) {
    if (isnan(columns[0][i])) continue;
    if (place[unit[i]] == 0) place[unit[i]] = ++pool->n;
    const int p = place[unit[i]] - 1;
    pool->count[p] += 1;
    for (int c = 0; c < n_column; c++) pool->sum[(size_t)p * (size_t)n_column + (size_t)c] += columns[c][i];
  }
  free(unit);
  free(place);
  if (status != SL_OK) sl_eval_pool_dispose(pool);
  return status;
}

void sl_eval_pool_dispose(sl_eval_pool *pool) {
  free(pool->sum);
  free(pool->count);
  *pool = (sl_eval_pool){0};
}

double sl_eval_pool_difference(const sl_eval_pool *pool, const int *index, int n, int a, int b) {
  double sum = 0, count = 0;
  for (int i = 0; i < n; i++) {
    const double *row = pool->sum + (size_t)index[i] * (size_t)pool->n_column;
    sum += b < 0 ? row[a] : row[a] - row[b];
    count += pool->count[index[i]];
  }
  return sum / count;
}

typedef struct columns {
  const sl_eval_pool *pool;
  int a, b;
} columns;

static double difference(void *user, const int *index, int n) {
  const columns *c = user;
  return sl_eval_pool_difference(c->pool, index, n, c->a, c->b);
}

sl_status sl_eval_pool_interval(sl_interval *out, const sl_eval_pool *pool, int a, int b, uint64_t seed) {
  return sl_bootstrap(out, pool->n, difference, &(columns){pool, a, b}, 0.95, SL_EVAL_BOOT, seed);
}
