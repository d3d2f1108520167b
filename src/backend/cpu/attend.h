/* Attention of the cpu backend: how heads are cut into tasks, and the scratch of one thread. */
#ifndef SL_BACKEND_CPU_ATTEND_H
#define SL_BACKEND_CPU_ATTEND_H

#include "backend/cpu/cpu.h"
#include "backend/cpu/vector.h"

/* Query rows of a band: forward, and backward on tiles, where they are the depth of dk's and dv's products. */
enum { SL_ATTEND_ROWS = 48, SL_ATTEND_DX_ROWS = 64, SL_ATTEND_DEPTH = 256 };

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

/* Keys of a band of query rows. They start where a piece of z's sums does, so that a row's bits do not depend on what
 * its neighbours see. */
static inline sl_key_span sl_attend_band(const sl_attend *a, int row, int rows) {
  return sl_attend_band_sees(a, row, rows, SL_ATTEND_DEPTH);
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

/* Rows of one head, d apart, to columns first_col .. of rows first_row .. of a matrix. */
void sl_attend_store(sl_mat out, int first_row, int first_col, const float *in, int d, int rows, int width);

/* Operands for tiles. Rows of one head as bf16, zeros up to d_tile. */
void sl_attend_rows(const sl_vector *vector, void *out, int d_tile, const float *in, int64_t stride, int rows,
                    int width);
/* Neighbouring rows of one head as pairs of bf16, d pairs a row of pairs; zeros beyond, up to a multiple of 32 rows. */
void sl_attend_pairs(const sl_vector *vector, void *out, int d, const float *in, int64_t stride, int rows, int width);
/* Rows of n numbers become bf16 in place, zeros up to a multiple of 32. */
void sl_attend_narrow(const sl_vector *vector, float *rows, int64_t stride, int n_row, int n);

/* The gradient of one attention, and what it does for one key/value head on tiles (attend_dx_tiles.c). */
typedef struct sl_attend_gradient {
  const sl_vector *vector;
  const sl_attend *a;
  sl_mat dz, dq, dk, dv;
} sl_attend_gradient;
void sl_attend_dx_tiles(const sl_attend_gradient *g, int head_kv, float *scratch);

#endif
