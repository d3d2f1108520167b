/* The two products of attend_shared on AMX tiles: scores = q k^T and z = p v over a list of chunks of 32 keys; and the
 * row work around them with the same processor's vectors.
 *
 * Method: two row tiles meet two column tiles in four accumulators. Scores keep one chunk of keys in L1 while the row
 * tiles pass it; values keep the numerators of 32 rows in L1 while the values stream past. Every sum is one chain of
 * tile products from zero in the order of the list, so a chunk whose numerators are all zero changes nothing.
 * Numerators are 2^n times a polynomial of degree 6 in the fraction (the Taylor series of 2^x, below 2e-7 on
 * [-1/2, 1/2]), rounded to bf16 by the processor. */
#include "backend/cpu/attend_shared.h"

#include "backend/cpu/product.h"

#if defined(__x86_64__) && defined(__linux__)

#include "backend/cpu/amx.h"

enum { TILE = 1024 };

AMX void sl_tiles_begin(void) { configure_tiles(); }
AMX void sl_tiles_end(void) { _tile_release(); }

AMX_INLINE void zero_tiles(void) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

/* Two row tiles (or one) by two column tiles from the accumulators. */
AMX_INLINE void store_tiles(float *c, int64_t ldc, bool two_rows) {
  _tile_stored(0, c, ldc * 4);
  _tile_stored(1, c + 16, ldc * 4);
  if (!two_rows) return;
  _tile_stored(2, c + 16 * ldc, ldc * 4);
  _tile_stored(3, c + 16 * ldc + 16, ldc * 4);
}

AMX_INLINE void multiply_tiles(bool two_rows) {
  _tile_dpbf16ps(0, 6, 4);
  _tile_dpbf16ps(1, 6, 5);
  if (!two_rows) return;
  _tile_dpbf16ps(2, 7, 4);
  _tile_dpbf16ps(3, 7, 5);
}

AMX_INLINE void scores_block(const sl_tile_chunks *m, int i, int chunk, bool two_rows) {
  const unsigned char *a = (const unsigned char *)m->a + (int64_t)i * 16 * m->lda;
  const unsigned char *b = (const unsigned char *)m->chunks + (size_t)m->list[chunk] * 64 * (size_t)m->d;
  zero_tiles();
  for (int l = 0; l < m->d / 32; l++, a += 64, b += TILE) {
    _tile_loadd(4, b, 64);
    _tile_loadd(6, a, m->lda);
    _tile_loadd(5, b + 32 * m->d, 64);
    if (two_rows) _tile_loadd(7, a + 16 * m->lda, m->lda);
    multiply_tiles(two_rows);
  }
  store_tiles(m->c + (int64_t)i * 16 * m->ldc + chunk * 32, m->ldc, two_rows);
}

AMX_INLINE void values_block(const sl_tile_chunks *m, int i, int j, bool two_rows) {
  const unsigned char *a = (const unsigned char *)m->a + (int64_t)i * 16 * m->lda;
  zero_tiles();
  for (int l = 0; l < m->n_list; l++, a += 64) {
    const unsigned char *b = (const unsigned char *)m->chunks + (size_t)m->list[l] * 64 * (size_t)m->d + j * 128;
    _tile_stream_loadd(4, b, m->d * 4);
    _tile_loadd(6, a, m->lda);
    _tile_stream_loadd(5, b + 64, m->d * 4);
    if (two_rows) _tile_loadd(7, a + 16 * m->lda, m->lda);
    multiply_tiles(two_rows);
  }
  store_tiles(m->c + (int64_t)i * 16 * m->ldc + j * 32, m->ldc, two_rows);
}

AMX void sl_tiles_scores(const sl_tile_chunks *m) {
  MEMORY_FENCE();
  for (int chunk = 0; chunk < m->n_list; chunk++) {
    int i = 0;
    for (; i + 2 <= m->m_tiles; i += 2) scores_block(m, i, chunk, true);
    if (i < m->m_tiles) scores_block(m, i, chunk, false);
  }
  MEMORY_FENCE();
}

AMX void sl_tiles_values(const sl_tile_chunks *m) {
  MEMORY_FENCE();
  for (int i = 0; i < m->m_tiles; i += 2) {
    for (int j = 0; j < m->d / 32; j++) {
      if (i + 1 < m->m_tiles) {
        values_block(m, i, j, true);
      } else {
        values_block(m, i, j, false);
      }
    }
  }
  MEMORY_FENCE();
}

/* Lanes i .. i + 15 of a row of n. */
AMX_INLINE __mmask16 lanes(int n, int i) {
  return n - i >= 16 ? 0xffff : n <= i ? 0 : (__mmask16)((1u << (n - i)) - 1);
}

AMX void sl_tiles_round(uint16_t *out, const float *in, int n, int padded) {
  for (int i = 0; i < padded; i += 32) {
    __m512 low = _mm512_maskz_loadu_ps(lanes(n, i), in + i);
    __m512 high = _mm512_maskz_loadu_ps(lanes(n, i + 16), in + i + 16);
    _mm512_storeu_si512(out + i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
}

AMX void sl_tiles_pairs(uint32_t *out, const float *a, const float *b, int n, int padded) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  for (int i = 0; i < padded; i += 16) {
    __m512 low = _mm512_maskz_loadu_ps(lanes(n, i), a + i);
    __m512 high = b ? _mm512_maskz_loadu_ps(lanes(n, i), b + i) : _mm512_setzero_ps();
    _mm512_storeu_si512(out + i, _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low)));
  }
}

/* 2^x in the lanes of `on`, else 0. */
AMX_INLINE __m512 power(__mmask16 on, __m512 x) {
  __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), r = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_set1_ps(1.5403530393e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3333558146e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.6181291076e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.5504108665e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.4022650696e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.9314718056e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_maskz_scalef_ps(on, p, whole);
}

AMX float sl_tiles_softmax(float *s, const uint32_t *bits, int n_word, float scale) {
  __m512 best0 = _mm512_set1_ps(-__builtin_inff()), best1 = best0;
  uint32_t any = 0;
  for (int w = 0; w < n_word; w++) {
    any |= bits[w];
    best0 = _mm512_mask_max_ps(best0, (__mmask16)bits[w], _mm512_loadu_ps(s + 32 * w), best0);
    best1 = _mm512_mask_max_ps(best1, (__mmask16)(bits[w] >> 16), _mm512_loadu_ps(s + 32 * w + 16), best1);
  }
  const float factor = scale * 1.44269504088896341f, largest = _mm512_reduce_max_ps(_mm512_max_ps(best0, best1));
  const __m512 by = _mm512_set1_ps(factor), shift = _mm512_set1_ps(largest * factor);
  __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0;
  uint16_t *out = (uint16_t *)(void *)s; /* half as wide: never ahead of what is read */
  for (int w = 0; w < n_word; w++) {
    __m512 low = _mm512_loadu_ps(s + 32 * w), high = _mm512_loadu_ps(s + 32 * w + 16);
    low = power((__mmask16)bits[w], _mm512_fmsub_ps(low, by, shift));
    high = power((__mmask16)(bits[w] >> 16), _mm512_fmsub_ps(high, by, shift));
    sum0 = _mm512_add_ps(sum0, low);
    sum1 = _mm512_add_ps(sum1, high);
    _mm512_storeu_si512(out + 32 * w, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
  return any ? 1 / _mm512_reduce_add_ps(_mm512_add_ps(sum0, sum1)) : 0;
}

AMX void sl_tiles_join(float *out, const float *a, const float *b, float factor, int n) {
  for (int i = 0; i < n; i += 16) {
    __mmask16 on = lanes(n, i);
    __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(on, a + i), _mm512_maskz_loadu_ps(on, b + i));
    _mm512_mask_storeu_ps(out + i, on, _mm512_mul_ps(sum, _mm512_set1_ps(factor)));
  }
}

#else

void sl_tiles_round(uint16_t *out, const float *in, int n, int padded) { (void)out, (void)in, (void)n, (void)padded; }
void sl_tiles_pairs(uint32_t *out, const float *a, const float *b, int n, int padded) {
  (void)out, (void)a, (void)b, (void)n, (void)padded;
}
float sl_tiles_softmax(float *s, const uint32_t *bits, int n_word, float scale) {
  return (void)s, (void)bits, (void)n_word, (void)scale, 0.0f;
}
void sl_tiles_join(float *out, const float *a, const float *b, float factor, int n) {
  (void)out, (void)a, (void)b, (void)factor, (void)n;
}
void sl_tiles_begin(void) {}
void sl_tiles_end(void) {}
void sl_tiles_scores(const sl_tile_chunks *m) { (void)m; }
void sl_tiles_values(const sl_tile_chunks *m) { (void)m; }

#endif
