/* Attention of the cpu backend: how heads are cut into tasks, and the scratch of one thread. */
#ifndef SL_BACKEND_CPU_ATTEND_H
#define SL_BACKEND_CPU_ATTEND_H

#include "backend/cpu/cpu.h"
#include "backend/cpu/vector.h"

enum { SL_ATTEND_ROWS = 48, SL_ATTEND_DEPTH = 256 };

/* Widths padded for vectors and tiles, keys to 32 and d to 16; rows of keys never a multiple of 1 KB apart, which would
 * crowd few sets of L1. */
typedef struct sl_attend_size {
  int n_key, d; /* padded */
} sl_attend_size;

static inline int sl_round_up(int n, int step) { return (n + step - 1) / step * step; }
static inline int sl_attend_keys(int n_key) {
  int padded = sl_round_up(n_key, 32);
  return padded % 256 == 0 ? padded + 16 : padded;
}
static inline sl_attend_size sl_attend_padded(const sl_attend *a) {
  return (sl_attend_size){sl_attend_keys(a->k.rows), sl_round_up(a->d_head, 16)};
}

/* Takes `count` floats, 64-byte aligned, from the scratch at *next. */
static inline float *sl_attend_take(float **next, size_t count) {
  float *taken = *next;
  *next += (count + 15) / 16 * 16;
  return taken;
}

/* c (+)= a b with the depth cut into pieces, each summed from zero. */
void sl_attend_multiply(const sl_vector *vector, float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_col,
                        const float *b, int64_t ldb, int m, int n, int k, bool add);

/* k and v of one head as f32 rows padded to d (values rounded to bf16 if asked). */
void sl_attend_copy(const sl_vector *vector, float *out, int d, const float *in, int64_t stride, int rows, int width,
                    bool to_bf16);

#endif
