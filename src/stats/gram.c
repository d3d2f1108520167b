/* Normal equations of masks.
 *
 *   S_ab = sum_i (x_ia - m_a)(x_ib - m_b) = count(a and b) - count(a) count(b) / n
 *
 * Masks are turned into one bit set per column, so an entry of X'X is the population count of an intersection: exact,
 * the same on every machine, and 64 masks a step. */
#include "stats/gram.h"

#include <math.h>
#include <stdlib.h>

static sl_status check_values(const sl_regress_request *r) {
  for (int i = 0; i < r->n; i++) {
    const uint8_t *row = r->masks + (size_t)i * (size_t)r->p;
    for (int j = 0; j < r->p; j++) {
      if (row[j] > 1)
        SL_FAIL(SL_ERROR_ARGUMENT, "mask %d, column %d: %d, where a mask holds 0 or 1", i, j, row[j]);
    }
    if (!isfinite(r->target[i])) SL_FAIL(SL_ERROR_ARGUMENT, "the target of mask %d is not finite", i);
  }
  return SL_OK;
}

/* [p, n_word] bits: column j has bit i when mask i has it. */
static void transpose(uint64_t *bits, size_t n_word, const sl_regress_request *r) {
  for (int i = 0; i < r->n; i++) {
    const uint8_t *row = r->masks + (size_t)i * (size_t)r->p;
    uint64_t *word = bits + (size_t)i / 64;
    for (int j = 0; j < r->p; j++) word[(size_t)j * n_word] |= (uint64_t)row[j] << (i % 64);
  }
}

static inline uint32_t common(const uint64_t *a, const uint64_t *b, size_t n_word) {
  int sum = 0;
  for (size_t w = 0; w < n_word; w++) sum += __builtin_popcountll(a[w] & b[w]);
  return (uint32_t)sum;
}

/* Row a of the lower triangle. */
static inline void count_row(uint32_t *count, const uint64_t *bits, size_t n_word, int a) {
  for (int b = 0; b <= a; b++) count[b] = common(bits + (size_t)a * n_word, bits + (size_t)b * n_word, n_word);
}

static void count_row_plain(uint32_t *count, const uint64_t *bits, size_t n_word, int a) {
  count_row(count, bits, n_word, a);
}

typedef void (*count_fn)(uint32_t *count, const uint64_t *bits, size_t n_word, int a);

#if defined(__x86_64__)
/* The same compiled with the popcnt instruction, which the x86-64 base does not have. */
__attribute__((target("popcnt"), flatten)) static void count_row_popcnt(uint32_t *count, const uint64_t *bits,
                                                                        size_t n_word, int a) {
  count_row(count, bits, n_word, a);
}
static count_fn count_function(void) { return __builtin_cpu_supports("popcnt") ? count_row_popcnt : count_row_plain; }
#else
static count_fn count_function(void) { return count_row_plain; }
#endif

static sl_status count_all(sl_gram *g, const sl_regress_request *r) {
  const size_t n_word = ((size_t)r->n + 63) / 64, p = (size_t)r->p;
  size_t n_bits, n_count;
  if (!sl_size_mul(n_word, p, &n_bits) || !sl_size_mul(p, p, &n_count))
    SL_FAIL(SL_ERROR_MEMORY, "a regression of %d masks on %d columns does not fit into memory", r->n, r->p);
  uint64_t *bits = NULL;
  SL_TRY(SL_ALLOC(bits, n_bits, "masks by column"));
  sl_status status = SL_ALLOC(g->count, n_count, "products of mask columns");
  if (status == SL_OK) transpose(bits, n_word, r);
  const count_fn count = count_function();
  for (int a = 0; a < r->p && status == SL_OK; a++) {
    count(g->count + (size_t)a * p, bits, n_word, a);
    if (r->cancel && atomic_load_explicit(r->cancel, memory_order_relaxed))
      status = sl_fail(SL_ERROR_CANCELLED, "interrupted");
  }
  free(bits);
  return status;
}

static sl_status build(sl_gram *g, const sl_regress_request *r) {
  SL_TRY(check_values(r));
  g->n = r->n;
  g->p = r->p;
  SL_TRY(count_all(g, r));
  SL_TRY(SL_ALLOC(g->mean, (size_t)r->p, "column means"));
  SL_TRY(SL_ALLOC(g->cross, (size_t)r->p, "column products"));
  for (int j = 0; j < r->p; j++) g->mean[j] = (double)g->count[(size_t)j * (size_t)r->p + (size_t)j] / r->n;
  bool constant = true; /* then the mean is that number itself: rounding is nothing to explain */
  for (int i = 0; i < r->n; i++) {
    g->mean_target += r->target[i] / r->n;
    constant = constant && r->target[i] == r->target[0];
  }
  if (constant) g->mean_target = r->target[0];
  for (int i = 0; i < r->n; i++) { /* sum (t - mean) is 0: the column's own mean drops out */
    const uint8_t *row = r->masks + (size_t)i * (size_t)r->p;
    const double t = r->target[i] - g->mean_target;
    for (int j = 0; j < r->p; j++) g->cross[j] += row[j] ? t : 0;
  }
  return SL_OK;
}

sl_status sl_gram_build(sl_gram *out, const sl_regress_request *request) {
  *out = (sl_gram){0};
  const sl_status status = build(out, request);
  if (status != SL_OK) sl_gram_dispose(out);
  return status;
}

void sl_gram_dispose(sl_gram *gram) {
  free(gram->count);
  free(gram->mean);
  free(gram->cross);
  *gram = (sl_gram){0};
}

double sl_gram_at(const sl_gram *gram, int a, int b) {
  const int low = a < b ? a : b, high = a < b ? b : a;
  const size_t p = (size_t)gram->p;
  const double n_a = gram->count[(size_t)a * p + (size_t)a], n_b = gram->count[(size_t)b * p + (size_t)b];
  return gram->count[(size_t)high * p + (size_t)low] - n_a * n_b / gram->n;
}

void sl_gram_fill(const sl_gram *gram, const int *use, int n_use, double *out) {
  for (int b = 0; b < n_use; b++) {
    double *column = out + (size_t)b * (size_t)n_use;
    for (int a = b; a < n_use; a++) column[a] = sl_gram_at(gram, use[a], use[b]);
  }
}

void sl_gram_product(const sl_gram *gram, const uint8_t *masks, const double *v, const int *use, int n_use,
                     double *sum, double *out) {
  const int p = gram->p;
  double total = 0;
  for (int j = 0; j < p; j++) sum[j] = 0;
  for (int i = 0; i < gram->n; i++) {
    const uint8_t *row = masks + (size_t)i * (size_t)p;
    total += v[i];
    for (int j = 0; j < p; j++) sum[j] += row[j] ? v[i] : 0;
  }
  for (int k = 0; k < n_use; k++) out[k] = sum[use[k]] - gram->mean[use[k]] * total;
}
