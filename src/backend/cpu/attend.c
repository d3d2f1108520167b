/* Attention, forward. One task is one key/value head and a run of query rows: keys are transposed once, then bands of
 * SL_ATTEND_ROWS query rows take their scores over all keys they may see, softmax in place, and the product with v.
 *
 * Method: two passes over whole score rows (a band's scores stay in L2), so there is no rescaling and a row's bits
 * depend neither on the other rows nor on the cut into tasks: scores are one sum over d, z sums keys in pieces of 256
 * in ascending order, hidden keys of a band add exact zeros. Pieces that no row of the band sees are skipped. With bf16
 * both products run on AMX tiles, or on vectors with rounded values. Source: arXiv:1706.03762. */
#include <math.h>
#include <string.h>

#include "backend/cpu/attend.h"
#include "backend/cpu/product.h"

bool sl_attend_scratch_bytes(int d_head, int n_key, size_t *n_bytes) {
  /* forward: k transposed and v; backward adds v transposed, dk, dv; bands of scores, at most 2.5 times, and of q, dz
   * and z */
  size_t d = (size_t)sl_round_up(d_head, 32), keys = (size_t)sl_attend_keys(n_key), rows, bands, total;
  return sl_size_mul(keys, 5 * d, &rows) && sl_size_mul(5 * SL_ATTEND_DX_ROWS / 2, keys, &bands) &&
         sl_size_add(rows, bands, &total) && sl_size_add(total, 4 * SL_ATTEND_DX_ROWS * d + 256, &total) &&
         sl_size_mul(total, sizeof(float), n_bytes);
}

void sl_attend_multiply(const sl_vector *vector, float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_col,
                        const float *b, int64_t ldb, int m, int n, int k, bool add) {
  for (int first = 0; first < k; first += SL_ATTEND_DEPTH) {
    int depth = k - first < SL_ATTEND_DEPTH ? k - first : SL_ATTEND_DEPTH;
    vector->multiply(c, ldc, a + first * a_col, a_row, a_col, b + first * ldb, ldb, m, n, depth, add || first > 0);
  }
}

/* Asks for a row of one head ahead of its turn: rows lie too far apart for the processor to guess. */
static inline void prefetch_row(const float *in, int64_t stride, int row, int rows, int width) {
  enum { AHEAD = 8 };
  if (row + AHEAD >= rows) return;
  const float *next = in + (row + AHEAD) * stride;
  for (int j = 0; j < width; j += 16) __builtin_prefetch(next + j);
}

void sl_attend_copy(const sl_vector *vector, float *out, int d, const float *in, int64_t stride, int rows, int width,
                    bool to_bf16) {
  for (int i = 0; i < rows; i++) {
    float *to = out + (int64_t)i * d;
    prefetch_row(in, stride, i, rows, width);
    vector->round(to, in + i * stride, width, to_bf16 ? SL_COMPUTE_BF16 : SL_COMPUTE_F32);
    memset(to + width, 0, (size_t)(d - width) * sizeof *to);
  }
}

void sl_attend_store(sl_mat out, int first_row, int first_col, const float *in, int d, int rows, int width) {
  float *to = sl_mat_f32(out) + first_row * out.stride + first_col;
  for (int i = 0; i < rows; i++) {
    prefetch_row(to, out.stride, i, rows, width);
    memcpy(to + i * out.stride, in + (int64_t)i * d, (size_t)width * sizeof *to);
  }
}

void sl_attend_rows(const sl_vector *vector, void *out, int d_tile, const float *in, int64_t stride, int rows,
                    int width) {
  uint16_t *to = out;
  for (int i = 0; i < rows; i++, to += d_tile) {
    prefetch_row(in, stride, i, rows, width);
    vector->to_bf16(to, in + i * stride, width);
    memset(to + width, 0, (size_t)(d_tile - width) * sizeof *to);
  }
}

void sl_attend_pairs(const sl_vector *vector, void *out, int d, const float *in, int64_t stride, int rows, int width) {
  uint32_t *to = out;
  for (int i = 0; i < sl_round_up(rows, 32); i += 2, to += d) {
    memset(to, 0, (size_t)d * sizeof *to);
    prefetch_row(in, stride, i, rows, width);
    prefetch_row(in, stride, i + 1, rows, width);
    if (i + 1 < rows) {
      vector->pair_bf16(to, in + i * stride, in + (i + 1) * stride, width);
    } else if (i < rows) {
      uint16_t *halves = (uint16_t *)(void *)to;
      for (int j = 0; j < width; j++) halves[2 * j] = sl_f32_to_bf16(in[i * stride + j]);
    }
  }
}

void sl_attend_narrow(const sl_vector *vector, float *rows, int64_t stride, int n_row, int n) {
  for (int i = 0; i < n_row; i++, rows += stride) {
    uint16_t *to = (uint16_t *)(void *)rows;
    vector->to_bf16(to, rows, n); /* forward, half as wide: never ahead of what is read */
    memset(to + n, 0, (size_t)(sl_round_up(n, 32) - n) * sizeof *to);
  }
}

/* One thread's view of a task's key/value head. */
typedef struct head_keys {
  float *kt; /* [d][n_key] */
  float *v;  /* [n_key][d] */
  float *s;  /* [SL_ATTEND_ROWS][n_key] */
  float *q;  /* [SL_ATTEND_ROWS][d] */
  float *z;  /* [SL_ATTEND_ROWS][d] */
  sl_attend_size size;
  bool tiles; /* the same places hold bf16: kt pairs [d / 2][n_key][2], v pairs [n_key / 2][d][2], q rows, s rows */
} head_keys;

/* Keys and values of one head as pairs for AMX. */
static void load_tiles(head_keys *h, const sl_vector *vector, const sl_attend *a, const float *k, const float *v,
                       int n_seen) {
  int d = a->d_head, d_tile = sl_round_up(d, 32);
  sl_attend_rows(vector, h->v, d_tile, k, a->k.stride, n_seen, d); /* v's place is free until v is packed below */
  vector->transpose(h->kt, h->size.n_key, h->v, d_tile / 2, n_seen, d_tile / 2);
  sl_attend_pairs(vector, h->v, h->size.d, v, a->v.stride, n_seen, d);
}

static void load_head(head_keys *h, const sl_queue *queue, const sl_attend *a, int head_kv, int n_seen, float *next) {
  const sl_vector *vector = queue->backend->vector;
  bool bf16 = a->compute == SL_COMPUTE_BF16;
  int d = a->d_head;
  h->size = sl_attend_padded(a);
  size_t keys = (size_t)h->size.n_key * (size_t)h->size.d;
  h->kt = sl_attend_take(&next, keys);
  h->v = sl_attend_take(&next, keys);
  h->s = sl_attend_take(&next, (size_t)SL_ATTEND_ROWS * (size_t)h->size.n_key);
  h->q = sl_attend_take(&next, (size_t)SL_ATTEND_ROWS * (size_t)h->size.d);
  h->z = sl_attend_take(&next, (size_t)SL_ATTEND_ROWS * (size_t)h->size.d);
  const float *k = sl_mat_f32(a->k) + head_kv * d, *v = sl_mat_f32(a->v) + head_kv * d;
  h->tiles = bf16 && queue->backend->amx;
  if (h->tiles) {
    load_tiles(h, vector, a, k, v, n_seen);
    return;
  }
  if (bf16) {
    /* v's place is free until the next line */
    sl_attend_copy(vector, h->v, h->size.d, k, a->k.stride, n_seen, d, true);
    vector->transpose(h->kt, h->size.n_key, h->v, h->size.d, n_seen, d);
  } else {
    vector->transpose(h->kt, h->size.n_key, k, a->k.stride, n_seen, d);
  }
  sl_attend_copy(vector, h->v, h->size.d, v, a->v.stride, n_seen, d, bf16);
}

/* Copies out the recorded scores of one query row (scaled, before exp). */
static void emit_scores(const sl_attend *a, const float *s, int head, int row, sl_key_span sees) {
  const int32_t *rows = sl_ints_data(a->rows);
  for (int r = 0; r < a->rows.count; r++) {
    if (rows[r] != row) continue;
    float *out = sl_mat_f32(a->scores) + ((int64_t)head * a->rows.count + r) * a->scores.stride;
    for (int j = 0; j < sees.first; j++) out[j] = -INFINITY;
    memcpy(out + sees.first, s, (size_t)(sees.end - sees.first) * sizeof *out);
    for (int j = sees.end; j < a->k.rows; j++) out[j] = -INFINITY;
  }
}

/* The recorded pattern is made from the f32 exponentials, before any rounding to bf16. */
static void emit_pattern(const sl_attend *a, const float *s, int head, int row, sl_key_span sees, float largest,
                         double sum, const sl_vector *vector) {
  const int32_t *rows = sl_ints_data(a->rows);
  const int n_seen = sees.end - sees.first;
  for (int r = 0; r < a->rows.count; r++) {
    if (rows[r] != row) continue;
    float *whole = sl_mat_f32(a->pattern) + ((int64_t)head * a->rows.count + r) * a->pattern.stride;
    float *out = whole + sees.first;
    if (s) { /* s holds scores still */
      memcpy(out, s, (size_t)n_seen * sizeof *out);
      vector->exp_sum(out, largest, n_seen, false);
    } else {
      vector->scale(out, out, (float)(1 / sum), n_seen);
      memset(whole, 0, (size_t)sees.first * sizeof *out);
      memset(whole + sees.end, 0, (size_t)(a->k.rows - sees.end) * sizeof *out);
    }
  }
}

/* Softmax numerators in place, zeros elsewhere from key `first` to n_padded; returns 1 / sum. */
static float softmax_row(const sl_vector *vector, const sl_attend *a, float *all, int head, int row, int first,
                         int n_padded) {
  const sl_key_span sees = sl_attend_sees(a, row);
  const int n_seen = sees.end - sees.first;
  float *s = all + sees.first, largest = vector->scale_max(s, a->scale, n_seen);
  if (a->rows.count && a->scores.buffer) emit_scores(a, s, head, row, sees);
  if (a->rows.count && a->pattern.buffer) emit_pattern(a, s, head, row, sees, largest, 0, vector);
  double sum = vector->exp_sum(s, largest, n_seen, a->compute == SL_COMPUTE_BF16);
  if (a->rows.count && a->pattern.buffer) emit_pattern(a, NULL, head, row, sees, largest, sum, vector);
  memset(all + first, 0, (size_t)(sees.first - first) * sizeof *s);
  memset(all + sees.end, 0, (size_t)(n_padded - sees.end) * sizeof *s);
  if (a->lse.buffer) sl_mat_f32(a->lse)[row * a->lse.stride + head] = (float)(largest + log(sum));
  return (float)(1 / sum);
}

/* Scores of a band from key `first` on, and z from its numerators: on vectors, or on tiles with rows of s turned to bf16
 * in place. */
static void multiply_scores(const sl_vector *vector, const sl_attend *a, const head_keys *h, const float *q, int rows,
                            int first, int n_padded) {
  int d = a->d_head, d_tile = sl_round_up(d, 32);
  if (!h->tiles) {
    sl_attend_copy(vector, h->q, h->size.d, q, a->q.stride, rows, d, a->compute == SL_COMPUTE_BF16);
    sl_attend_multiply(vector, h->s + first, h->size.n_key, h->q, h->size.d, 1, h->kt + first, h->size.n_key, rows,
                       n_padded - first, d, false);
    return;
  }
  sl_attend_rows(vector, h->q, d_tile, q, a->q.stride, rows, d);
  sl_amx_multiply_small(&(sl_amx_small){.c = h->s + first, .ldc = h->size.n_key, .a = h->q, .lda = d_tile * 2,
                                        .b = h->kt + first, .ldb = (int64_t)h->size.n_key * 4,
                                        .m_tiles = (rows + 15) / 16, .n_tiles = (n_padded - first) / 16,
                                        .k_tiles = d_tile / 32});
}

static void multiply_values(const sl_vector *vector, const head_keys *h, int rows, sl_key_span sees) {
  const int d = h->size.d, n_seen = sees.end - sees.first;
  float *s = h->s + sees.first;
  if (!h->tiles) {
    const float *v = h->v + (int64_t)sees.first * d;
    sl_attend_multiply(vector, h->z, d, s, h->size.n_key, 1, v, d, rows, d, n_seen, false);
    return;
  }
  int n_tile = sl_round_up(n_seen, 32);
  sl_attend_narrow(vector, s, h->size.n_key, rows, n_seen);
  sl_amx_multiply_small(&(sl_amx_small){.c = h->z, .ldc = d, .a = s, .lda = (int64_t)h->size.n_key * 4,
                                        .b = h->v + (int64_t)sees.first / 2 * d, .ldb = (int64_t)d * 4,
                                        .m_tiles = (rows + 15) / 16, .n_tiles = d / 16, .k_tiles = n_tile / 32});
}

static void attend_band(const sl_vector *vector, const sl_attend *a, const head_keys *h, int head, int row, int rows) {
  const sl_key_span sees = sl_attend_band(a, row, rows);
  int d = a->d_head, n_padded = sl_round_up(sees.end, 16);
  multiply_scores(vector, a, h, sl_mat_f32(a->q) + row * a->q.stride + head * d, rows, sees.first, n_padded);
  float norm[SL_ATTEND_ROWS];
  for (int i = 0; i < rows; i++) {
    norm[i] = softmax_row(vector, a, h->s + (int64_t)i * h->size.n_key, head, row + i, sees.first, n_padded);
  }
  multiply_values(vector, h, rows, sees);
  for (int i = 0; i < rows; i++) {
    float *out = sl_mat_f32(a->z) + (row + i) * a->z.stride + head * d;
    vector->scale(out, h->z + i * h->size.d, norm[i], d);
  }
}

/* Rows first .. end - 1 for every query head of one key/value head. */
static void attend_task(const sl_queue *queue, const sl_attend *a, int head_kv, int first, int end, float *scratch) {
  int group = a->n_head / a->n_head_kv;
  head_keys h;
  load_head(&h, queue, a, head_kv, sl_attend_band(a, first, end - first).end, scratch);
  for (int head = head_kv * group; head < (head_kv + 1) * group; head++) {
    for (int row = first; row < end; row += SL_ATTEND_ROWS) {
      attend_band(queue->backend->vector, a, &h, head, row, end - row < SL_ATTEND_ROWS ? end - row : SL_ATTEND_ROWS);
    }
  }
}

void sl_cpu_attend(sl_queue *queue, const sl_attend *a) {
  sl_attend_check(a);
  size_t need = 0;
  bool fits = sl_attend_scratch_bytes(a->d_head, a->k.rows, &need) && need <= sl_cpu_scratch_bytes(queue);
  assert(fits && "sl_queue_reserve was not told of this many keys");
  int n_band = (a->q.rows + SL_ATTEND_ROWS - 1) / SL_ATTEND_ROWS;
  if (!fits || n_band == 0) return;
  int n_thread = sl_cpu_threads(queue, 2.0 * a->q.rows * a->k.rows * a->n_head * a->d_head);
  /* Enough tasks to share out, each with whole bands; a cut repeats the transposing of keys. */
  int n_cut = n_thread == 1 || a->n_head_kv >= 2 * n_thread ? 1 : (2 * n_thread + a->n_head_kv - 1) / a->n_head_kv;
  if (n_cut > n_band) n_cut = n_band;
  int n_task = n_cut * a->n_head_kv;
#pragma omp parallel num_threads(n_thread) if (n_thread > 1)
  {
    float *scratch = sl_cpu_scratch(queue, sl_cpu_thread());
#pragma omp for schedule(dynamic, 1)
    for (int task = 0; task < n_task; task++) {
      int cut = n_cut - 1 - task / a->n_head_kv; /* the longest rows first */
      int first = (int)((int64_t)n_band * cut / n_cut) * SL_ATTEND_ROWS;
      int end = (int)((int64_t)n_band * (cut + 1) / n_cut) * SL_ATTEND_ROWS;
      attend_task(queue, a, task % a->n_head_kv, first, end < a->q.rows ? end : a->q.rows, scratch);
    }
  }
}
