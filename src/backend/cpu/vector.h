/* Row kernels of the cpu backend, compiled once per instruction set (vector_avx512.c, vector_avx2.c,
 * vector_plain.c) from vector_body.h. All work on f32 rows of any length and alignment; results of one instruction set
 * never depend on how rows are split among threads. */
#ifndef SL_BACKEND_CPU_VECTOR_H
#define SL_BACKEND_CPU_VECTOR_H

#include "backend/kind.h"

typedef struct sl_vector {
  const char *name;

  /* c[i, j] = (add ? c[i, j] : 0) + sum over l, ascending, of a[i * a_row + l * a_col] * b[l * ldb + j].
   * n is a multiple of 16. Every sum starts from zero and c is added last. */
  void (*multiply)(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_col, const float *b, int64_t ldb,
                   int m, int n, int k, bool add);
  /* Block of a packed weight (product.h) to f32, as [32 k][32 n] or transposed [32 n][32 k]; rounded as `compute`
   * says where the storage is finer. */
  void (*panel)(float *out, const void *block, sl_dtype dtype, bool transposed, sl_compute compute);
  /* out[i * ldo + j] = in[j * ldi + i] for i < n, j < m; rows of `out` are padded with zeros to a multiple of 16. */
  void (*transpose)(float *out, int64_t ldo, const float *in, int64_t ldi, int m, int n);

  void (*round)(float *out, const float *in, int n, sl_compute compute); /* to what the mode's products see */
  void (*to_bf16)(uint16_t *out, const float *in, int n);
  /* out[i] = bf16(a[i]) | bf16(b[i]) << 16. */
  void (*pair_bf16)(uint32_t *out, const float *a, const float *b, int n);
  void (*from_bf16)(float *out, const uint16_t *in, int n);
  void (*add)(float *y, const float *a, const float *b, int n);
  void (*product)(float *y, const float *a, const float *b, int n); /* elementwise */
  void (*scale)(float *y, const float *x, float factor, int n);

  void (*act)(sl_act kind, float *y, const float *x, int n);
  void (*act_dx)(sl_act kind, float *dx, const float *dy, const float *x, int n);
  void (*gate)(sl_act kind, float *h, const float *g, const float *u, int n);
  void (*gate_dx)(sl_act kind, float *dg, float *du, const float *dh, const float *g, const float *u, int n);
  void (*norm)(sl_norm kind, float *y, const float *x, const float *w, const float *b, float eps, int n);
  void (*norm_dx)(sl_norm kind, float *dx, const float *dy, const float *x, const float *w, float eps, int n, bool add);
  void (*rope)(float *x, const float *cosine, const float *sine, int half); /* one head: x[0..half), x[half..2 half) */

  /* s *= scale; returns the largest of the n scaled scores. */
  float (*scale_max)(float *s, float scale, int n);
  /* s = exp(s - shift), rounded to bf16 if asked; returns the sum of the unrounded ones. */
  float (*exp_sum)(float *s, float shift, int n, bool to_bf16);
  /* Of 32 n_word scores, those whose bit is on (bit i % 32 of word i / 32): the largest; -inf if there are none. */
  float (*masked_max)(const float *s, const uint32_t *bits, int n_word);
  /* s becomes e = exp(s scale - shift) where the bit is on, else 0, rounded to bf16 if asked; returns the sum of the
   * unrounded ones. Shift is the largest s scale. */
  float (*masked_exp)(float *s, const uint32_t *bits, float scale, float shift, int n_word, bool to_bf16);
  /* s becomes p = exp(s scale - lse), dp becomes p (dp - mean of dp weighted by p) scale. */
  void (*softmax_dx)(float *s, float *dp, float scale, float lse, int n);
} sl_vector;

extern const sl_vector sl_vector_plain;
#if defined(__x86_64__)
extern const sl_vector sl_vector_avx2, sl_vector_avx512;
#endif

/* The widest this processor runs. */
const sl_vector *sl_vector_select(void);

#endif
