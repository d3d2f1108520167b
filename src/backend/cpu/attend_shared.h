/* attend_shared on AMX tiles: its products, with keys and values in chunks of 32 columns of which a list is visited,
 * and the row work around them. */
#ifndef SL_BACKEND_CPU_ATTEND_SHARED_H
#define SL_BACKEND_CPU_ATTEND_SHARED_H

#include <stdint.h>

/* Operands of one band of query rows. A chunk of keys is the column tiles of its two halves, [2][d / 32] tiles of 1 KB;
 * a chunk of values is 16 rows of pairs of neighbouring keys, [16][d][2]. Either takes 64 d bytes, d a multiple of 32.
 */
typedef struct sl_tile_chunks {
  float *c;           /* [16 m_tiles, .], rows ldc floats apart */
  const void *a;      /* bf16, rows lda bytes apart */
  const void *chunks; /* number i starts 64 d i bytes on */
  const int32_t *list;
  int64_t ldc, lda;
  int n_list, m_tiles, d;
} sl_tile_chunks;

/* Around the products, once per thread and task. */
void sl_tiles_begin(void);
void sl_tiles_end(void);
/* Scores: columns 32 i .. of c are a (rows of q, d wide) times chunk list[i]. */
void sl_tiles_scores(const sl_tile_chunks *m);
/* Values: c (d columns) is the sum over i, ascending from zero, of columns 32 i .. of a times chunk list[i]. */
void sl_tiles_values(const sl_tile_chunks *m);

/* n f32 to bf16, zeros up to `padded` (a multiple of 32). */
void sl_tiles_round(uint16_t *out, const float *in, int n, int padded);
/* Pairs bf16(a[i]), bf16(b[i]), zeros up to `padded`; b may be NULL for zeros. */
void sl_tiles_pairs(uint32_t *out, const float *a, const float *b, int n, int padded);
/* Of 32 n_word scores those whose bit is on: e = exp((s - largest) scale), else 0, as bf16 to where s begins. Returns
 * 1 / the sum of e before rounding; 0 when no bit is on. */
float sl_tiles_softmax(float *s, const uint32_t *bits, int n_word, float scale);
/* out = (a + b) factor. */
void sl_tiles_join(float *out, const float *a, const float *b, float factor, int n);

#endif
