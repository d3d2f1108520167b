/* Attention, backward, of one key/value head on AMX tiles: bf16 mode. The equations and the order of bands are those of
 * attend_dx.c.
 *
 * Method: all five products are bf16 with f32 sums. Scores and dp take transposed keys and values as right operands, dq
 * the keys themselves. dk and dv have query rows along their depth: their left operands, p and ds transposed, are made
 * by pairing neighbouring rows and transposing the pairs as 32-bit words. dk and dv stay in f32 between bands, each sum
 * one chain over query rows in ascending order. */
#include <string.h>

#include "backend/cpu/attend.h"
#include "backend/cpu/product.h"

/* bf16 unless it says f32; d and n_key are padded. */
typedef struct head_tiles {
  float *kt, *vt;            /* pairs [d / 2][n_key][2] */
  float *k;                  /* pairs [n_key / 2][d][2] */
  float *dk, *dv;            /* f32 [n_key][d] */
  float *s, *dp;             /* f32 [SL_ATTEND_DX_ROWS][n_key] */
  float *turned;             /* p or ds transposed: [n_key][SL_ATTEND_DX_ROWS] */
  float *rows;               /* q or dz: [SL_ATTEND_DX_ROWS][d] */
  float *q_pairs, *dz_pairs; /* [SL_ATTEND_DX_ROWS / 2][d][2] */
  float *dq;                 /* f32 [SL_ATTEND_DX_ROWS][d] */
  sl_attend_size size;
  int d_tile; /* d padded for depth */
} head_tiles;

static void load_head(head_tiles *h, const sl_attend_gradient *g, int head_kv, float *next) {
  const sl_attend *a = g->a;
  int d = a->d_head, n = a->k.rows;
  h->size = sl_attend_padded(a);
  h->d_tile = sl_round_up(d, 32);
  size_t n_key = (size_t)h->size.n_key, width = (size_t)h->size.d, keys = n_key * width;
  h->kt = sl_attend_take(&next, n_key * (size_t)h->d_tile / 2);
  h->vt = sl_attend_take(&next, n_key * (size_t)h->d_tile / 2);
  h->k = sl_attend_take(&next, keys / 2);
  h->dk = sl_attend_take(&next, keys);
  h->dv = sl_attend_take(&next, keys);
  h->s = sl_attend_take(&next, SL_ATTEND_DX_ROWS * n_key);
  h->dp = sl_attend_take(&next, SL_ATTEND_DX_ROWS * n_key);
  h->turned = sl_attend_take(&next, SL_ATTEND_DX_ROWS / 2 * n_key);
  h->rows = sl_attend_take(&next, (size_t)(SL_ATTEND_DX_ROWS / 2 * h->d_tile));
  h->q_pairs = sl_attend_take(&next, SL_ATTEND_DX_ROWS / 2 * width);
  h->dz_pairs = sl_attend_take(&next, SL_ATTEND_DX_ROWS / 2 * width);
  h->dq = sl_attend_take(&next, SL_ATTEND_DX_ROWS * width);
  const float *k = sl_mat_f32(a->k) + head_kv * d, *v = sl_mat_f32(a->v) + head_kv * d;
  float *rows = h->dk; /* a place that is free until it is cleared below */
  sl_attend_pairs(g->vector, h->k, h->size.d, k, a->k.stride, n, d);
  sl_attend_rows(g->vector, rows, h->d_tile, k, a->k.stride, n, d);
  g->vector->transpose(h->kt, h->size.n_key, rows, h->d_tile / 2, n, h->d_tile / 2);
  sl_attend_rows(g->vector, rows, h->d_tile, v, a->v.stride, n, d);
  g->vector->transpose(h->vt, h->size.n_key, rows, h->d_tile / 2, n, h->d_tile / 2);
  memset(h->dk, 0, keys * sizeof *h->dk);
  memset(h->dv, 0, keys * sizeof *h->dv);
}

/* out[rows, n] = in[rows, d] times the pairs of n keys or values. */
static void multiply_keys(const sl_attend_gradient *g, const head_tiles *h, float *out, const float *pairs,
                          const float *in, int64_t stride, int rows, int n) {
  sl_attend_rows(g->vector, h->rows, h->d_tile, in, stride, rows, g->a->d_head);
  sl_amx_multiply_small(&(sl_amx_small){.c = out, .ldc = h->size.n_key, .a = h->rows, .lda = h->d_tile * 2, .b = pairs,
                                        .ldb = (int64_t)h->size.n_key * 4, .m_tiles = (rows + 15) / 16,
                                        .n_tiles = (n + 15) / 16, .k_tiles = h->d_tile / 32});
}

/* Scores become probabilities, and dp the scores' gradient; what is hidden of n_tile keys from `first` on, and rows up
 * to a multiple of 32, zero. */
static void softmax_rows(const sl_attend_gradient *g, const head_tiles *h, int head, int row, int rows, int first,
                         int n_tile) {
  const sl_attend *a = g->a;
  for (int i = 0; i < sl_round_up(rows, 32); i++) {
    const sl_key_span sees = i < rows ? sl_attend_sees(a, row + i) : (sl_key_span){first, first};
    const int n = sees.end - sees.first, before = sees.first - first, behind = first + n_tile - sees.end;
    float *s = h->s + (int64_t)i * h->size.n_key + sees.first, *ds = h->dp + (int64_t)i * h->size.n_key + sees.first;
    if (n > 0) g->vector->softmax_dx(s, ds, a->scale, sl_mat_f32(a->lse)[(row + i) * a->lse.stride + head], n);
    memset(s - before, 0, (size_t)before * sizeof *s);
    memset(ds - before, 0, (size_t)before * sizeof *ds);
    memset(s + n, 0, (size_t)behind * sizeof *s);
    memset(ds + n, 0, (size_t)behind * sizeof *ds);
  }
}

/* sums[n, d] += in^T times pairs of rows; `meet`, s from the band's first key on, is where neighbouring rows of `in`
 * (that place itself or dp's) come together. */
static void gather(const sl_attend_gradient *g, const head_tiles *h, float *sums, const float *in, float *meet,
                   const float *pairs, int rows, int n_tile) {
  int64_t n_key = h->size.n_key;
  int depth = sl_round_up(rows, 32);
  for (int i = 0; i < depth; i += 2) {
    const float *row = in + i * n_key;
    g->vector->pair_bf16((uint32_t *)(void *)(meet + i * n_key), row, row + n_key, n_tile);
  }
  g->vector->transpose(h->turned, SL_ATTEND_DX_ROWS / 2, meet, 2 * n_key, depth / 2, n_tile);
  sl_amx_multiply_small(&(sl_amx_small){.c = sums, .ldc = h->size.d, .a = h->turned, .lda = SL_ATTEND_DX_ROWS * 2,
                                        .b = pairs, .ldb = (int64_t)h->size.d * 4, .m_tiles = n_tile / 16,
                                        .n_tiles = h->size.d / 16, .k_tiles = depth / 32, .add = true});
}

static void band_dx(const sl_attend_gradient *g, const head_tiles *h, int head, int row, int rows) {
  const sl_attend *a = g->a;
  const sl_vector *vector = g->vector;
  const sl_key_span sees = sl_attend_band(a, row, rows);
  const int d = a->d_head, first = sees.first, n_seen = sees.end - first, n_tile = sl_round_up(n_seen, 32);
  const int64_t at = (int64_t)first * h->size.d;
  float *s = h->s + first, *dp = h->dp + first;
  const float *q = sl_mat_f32(a->q) + row * a->q.stride + head * d;
  const float *dz = sl_mat_f32(g->dz) + row * g->dz.stride + head * d;
  multiply_keys(g, h, s, h->kt + first, q, a->q.stride, rows, n_seen);
  multiply_keys(g, h, dp, h->vt + first, dz, g->dz.stride, rows, n_seen);
  softmax_rows(g, h, head, row, rows, first, n_tile);
  sl_attend_pairs(vector, h->q_pairs, h->size.d, q, a->q.stride, rows, d);
  sl_attend_pairs(vector, h->dz_pairs, h->size.d, dz, g->dz.stride, rows, d);
  gather(g, h, h->dv + at, s, s, h->dz_pairs, rows, n_tile);
  gather(g, h, h->dk + at, dp, s, h->q_pairs, rows, n_tile);
  sl_attend_narrow(vector, dp, h->size.n_key, rows, n_seen);
  sl_amx_multiply_small(&(sl_amx_small){.c = h->dq, .ldc = h->size.d, .a = dp, .lda = (int64_t)h->size.n_key * 4,
                                        .b = h->k + at / 2, .ldb = (int64_t)h->size.d * 4, .m_tiles = (rows + 15) / 16,
                                        .n_tiles = h->size.d / 16, .k_tiles = n_tile / 32});
  sl_attend_store(g->dq, row, head * d, h->dq, h->size.d, rows, d);
}

void sl_attend_dx_tiles(const sl_attend_gradient *g, int head_kv, float *scratch) {
  const sl_attend *a = g->a;
  int group = a->n_head / a->n_head_kv, d = a->d_head;
  head_tiles h;
  load_head(&h, g, head_kv, scratch);
  for (int head = head_kv * group; head < (head_kv + 1) * group; head++) {
    for (int row = 0; row < a->q.rows; row += SL_ATTEND_DX_ROWS) {
      band_dx(g, &h, head, row, a->q.rows - row < SL_ATTEND_DX_ROWS ? a->q.rows - row : SL_ATTEND_DX_ROWS);
    }
  }
  sl_attend_store(g->dk, 0, head_kv * d, h.dk, h.size.d, a->k.rows, d);
  sl_attend_store(g->dv, 0, head_kv * d, h.dv, h.size.d, a->k.rows, d);
}
