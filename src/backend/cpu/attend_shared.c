/* Attention of many branches over shared keys and their own. One task is one key/value head and a run of query rows;
 * its keys and values are packed in chunks of 32 columns (one word of a mask), the local ones anew for each branch.
 *
 * Method: the items of a task (query row, query head of the group) are sorted by the set of segments they see, keeping
 * their order otherwise, and go in bands of up to BAND items whatever their branch: with head attribution a branch's
 * head sees either its own image or the baseline's, so a band passes over one of them. A band visits the chunks that
 * one of its items sees. Scores are one sum over d; a masked column's numerator is an exact zero; z is one chain over
 * the shared chunks in ascending order, plus one over the local chunks. So an item's bits depend neither on its band
 * nor on what it does not see. With bf16 both products run on AMX tiles, or on vectors with rounded values.
 *
 * Source: arXiv:1706.03762; sharing the keys of a prefix among rows of many sequences as in arXiv:2402.05099. */
#include <math.h>
#include <string.h>

#include "backend/cpu/attend.h"
#include "backend/cpu/attend_shared.h"

enum {
  CHUNK = 32,                /* columns */
  BAND = 64,                 /* items */
  BAND_ROWS = BAND + 16,     /* a branch's row tiles may reach beyond its last item */
  MAX_ITEM = 2048,           /* sorted at once */
  AHEAD = 16,                /* rows to ask for before they are read */
  N_KIND = 1 << SL_MAX_SEGMENT
};

/* A query row and one of the heads that share a key/value head. */
typedef struct item {
  int32_t row, head;
  uint8_t sees; /* bit s: some column of segment s */
} item;

typedef struct task {
  const sl_attend_shared *a;
  const sl_vector *vector;
  bool tiles;
  int head_kv, group, d;            /* d padded to 32 */
  int n_word, n_shared;             /* chunks of all columns, of the shared ones */
  int first_chunk[SL_MAX_SEGMENT + 1];
  unsigned loaded;                  /* bit s: segment s is packed */
  int branch;                       /* whose local keys are packed; -1: none */
  float *k, *v;                     /* chunks: shared ones, then a branch's local ones */
  float *s, *q, *z, *z_local, *rows;
  int64_t lds;                      /* floats between rows of s */
  int32_t *list;                    /* chunks that the band sees: n_list shared ones, then n_local */
  uint32_t *bits;                   /* one item's mask over them */
  int n_list, n_local;
} task;

static size_t chunk_floats(const task *t) { return (size_t)t->d * (t->tiles ? CHUNK / 2 : CHUNK); }

bool sl_attend_shared_scratch_bytes(int d_head, int n_key, size_t *n_bytes) {
  /* keys and values, scores of a band; its q, z twice and 32 rows on the way to k; the chunks' list and bits */
  size_t d = (size_t)sl_round_up(d_head, 32), keys = (size_t)sl_attend_keys(n_key), total, scores;
  return sl_size_mul(keys, 2 * d, &total) && sl_size_mul(keys, BAND_ROWS, &scores) &&
         sl_size_add(total, scores, &total) && sl_size_add(total, (3 * BAND_ROWS + CHUNK) * d, &total) &&
         sl_size_add(total, keys / CHUNK * 2 + 16 * 9, &total) && sl_size_mul(total, sizeof(float), n_bytes);
}

/* Rows of one head stand far apart in memory and no prefetcher of the processor follows them: asks for a row well ahead
 * (past the end of memory that does nothing). */
static void prefetch_row(const float *row, int n) {
  for (int i = 0; i < n; i += 16) __builtin_prefetch(row + i, 0, 2);
}

/* Rows of k as the right operand of the scores: per chunk [d][32] in f32, or tiles of bf16 pairs. */
static void load_keys(const task *t, float *chunk, const float *k, int64_t stride, int rows) {
  int d = t->a->d_head;
  if (!t->tiles) {
    sl_attend_copy(t->vector, t->rows, t->d, k, stride, rows, d, t->a->compute == SL_COMPUTE_BF16);
    memset(t->rows + rows * t->d, 0, (size_t)((CHUNK - rows) * t->d) * sizeof *t->rows);
    t->vector->transpose(chunk, CHUNK, t->rows, t->d, CHUNK, t->d);
    return;
  }
  uint16_t *to = (uint16_t *)(void *)t->rows;
  for (int j = 0; j < CHUNK; j++, to += t->d) {
    prefetch_row(k + (j + AHEAD) * stride, d);
    sl_tiles_round(to, k + j * stride, j < rows ? d : 0, t->d);
  }
  for (int half = 0; half < 2; half++) {
    t->vector->transpose(chunk + half * 8 * t->d, 16, t->rows + half * 8 * t->d, t->d / 2, 16, t->d / 2);
  }
}

/* Rows of v as the right operand of z: per chunk [32][d] in f32, or [16][d][2] in bf16. */
static void load_values(const task *t, float *chunk, const float *v, int64_t stride, int rows) {
  int d = t->a->d_head;
  if (!t->tiles) {
    sl_attend_copy(t->vector, chunk, t->d, v, stride, rows, d, t->a->compute == SL_COMPUTE_BF16);
    memset(chunk + rows * t->d, 0, (size_t)((CHUNK - rows) * t->d) * sizeof *chunk);
    return;
  }
  uint32_t *pairs = (uint32_t *)(void *)chunk;
  for (int j = 0; j < CHUNK; j += 2, pairs += t->d) {
    const float *row = v + j * stride;
    prefetch_row(row + AHEAD * stride, d);
    prefetch_row(row + (AHEAD + 1) * stride, d);
    sl_tiles_pairs(pairs, row, j + 1 < rows ? row + stride : NULL, j < rows ? d : 0, t->d);
  }
}

/* Packs `rows` rows of this task's head as chunks from `first` on. */
static void load_chunks(const task *t, int first, sl_mat k, sl_mat v, int rows) {
  const float *pk = sl_mat_f32(k) + t->head_kv * t->a->d_head, *pv = sl_mat_f32(v) + t->head_kv * t->a->d_head;
  for (int j = 0; j < rows; j += CHUNK) {
    int n = rows - j < CHUNK ? rows - j : CHUNK;
    size_t at = (size_t)(first + j / CHUNK) * chunk_floats(t);
    load_keys(t, t->k + at, pk + j * k.stride, k.stride, n);
    load_values(t, t->v + at, pv + j * v.stride, v.stride, n);
  }
}

static void load_segments(task *t, unsigned wanted) {
  for (int s = 0; s < t->a->n_segment; s++) {
    if ((wanted & ~t->loaded) >> s & 1) load_chunks(t, t->first_chunk[s], t->a->k[s], t->a->v[s], t->a->k[s].rows);
  }
  t->loaded |= wanted;
}

static const float *query_of(const task *t, const item *one) {
  return sl_mat_f32(t->a->q) + one->row * t->a->q.stride + one->head * t->a->d_head;
}

static float *output_of(const task *t, const item *one) {
  return sl_mat_f32(t->a->z) + one->row * t->a->z.stride + one->head * t->a->d_head;
}

/* The first n of the n_left items still to come. */
static void load_queries(const task *t, const item *items, int n, int n_left) {
  uint16_t *to = (uint16_t *)(void *)t->q;
  for (int i = 0; i < n; i++) {
    if (t->tiles) {
      if (i + AHEAD < n_left) prefetch_row(query_of(t, &items[i + AHEAD]), t->a->d_head);
      sl_tiles_round(to + i * t->d, query_of(t, &items[i]), t->a->d_head, t->d);
    } else {
      sl_attend_copy(t->vector, t->q + i * t->d, t->d, query_of(t, &items[i]), 0, 1, t->a->d_head,
                     t->a->compute == SL_COMPUTE_BF16);
    }
  }
}

/* s = q k^T for items first .. first + n - 1 of the band and `count` chunks from number `from` of its list on. */
static void multiply_scores(const task *t, int first, int n, int from, int count) {
  float *s = t->s + first * t->lds + from * CHUNK;
  if (t->tiles) {
    sl_tiles_scores(&(sl_tile_chunks){.c = s, .ldc = t->lds, .a = (uint16_t *)(void *)t->q + first * t->d,
                                      .lda = t->d * 2, .chunks = t->k, .list = t->list + from, .n_list = count,
                                      .m_tiles = (n + 15) / 16, .d = t->d});
    return;
  }
  for (int i = 0; i < count; i++) {
    const float *k = t->k + (size_t)t->list[from + i] * chunk_floats(t);
    t->vector->multiply(s + i * CHUNK, t->lds, t->q + first * t->d, t->d, 1, k, CHUNK, n, CHUNK, t->d, false);
  }
}

/* z = numerators times v, likewise. */
static void multiply_values(const task *t, float *z, int first, int n, int from, int count) {
  if (t->tiles) {
    const uint16_t *s = (const uint16_t *)(void *)(t->s + first * t->lds) + from * CHUNK;
    sl_tiles_values(&(sl_tile_chunks){.c = z + first * t->d, .ldc = t->d, .a = s, .lda = t->lds * 4, .chunks = t->v,
                                      .list = t->list + from, .n_list = count, .m_tiles = (n + 15) / 16, .d = t->d});
    return;
  }
  if (count == 0) memset(z + first * t->d, 0, (size_t)(n * t->d) * sizeof *z);
  for (int i = 0; i < count; i++) {
    const float *v = t->v + (size_t)t->list[from + i] * chunk_floats(t);
    const float *s = t->s + first * t->lds + (from + i) * CHUNK;
    t->vector->multiply(z + first * t->d, t->d, s, t->lds, 1, v, t->d, n, t->d, CHUNK, i > 0);
  }
}

static bool chunk_seen(const task *t, const item *items, int n, int chunk) {
  for (int i = 0; i < n; i++) {
    if (sl_attend_shared_mask(t->a, items[i].row, items[i].head)[chunk]) return true;
  }
  return false;
}

/* Appends those of chunks first .. end - 1 that an item of the band sees; returns their number. */
static int list_run(int32_t *list, const task *t, const item *items, int n, int first, int end) {
  int count = 0;
  for (int chunk = first; chunk < end; chunk++) {
    if (chunk_seen(t, items, n, chunk)) list[count++] = chunk;
  }
  return count;
}

static void list_chunks(task *t, const item *items, int n) {
  t->n_list = 0;
  for (int s = 0; s < t->a->n_segment; s++) {
    if (items->sees >> s & 1) {
      t->n_list += list_run(t->list + t->n_list, t, items, n, t->first_chunk[s], t->first_chunk[s + 1]);
    }
  }
  t->n_local = list_run(t->list + t->n_list, t, items, n, t->n_shared, t->n_word);
}

/* Numerators of one item in place of its scores; returns 1 / their sum, 0 for an item that sees nothing. */
static float softmax_item(const task *t, const item *one, float *s) {
  const uint32_t *mask = sl_attend_shared_mask(t->a, one->row, one->head);
  int n = t->n_list + t->n_local;
  uint32_t any = 0;
  for (int i = 0; i < n; i++) any |= t->bits[i] = mask[t->list[i]];
  if (t->tiles) return sl_tiles_softmax(s, t->bits, n, t->a->scale);
  if (!any) {
    memset(s, 0, (size_t)n * CHUNK * sizeof *s);
    return 0;
  }
  float largest = t->a->scale * t->vector->masked_max(s, t->bits, n);
  return 1 / t->vector->masked_exp(s, t->bits, t->a->scale, largest, n, t->a->compute == SL_COMPUTE_BF16);
}

/* Items of one branch: their scores over local keys, softmax, and the local keys' part of z. */
static void attend_branch(task *t, const item *items, int first, int n, float *norm) {
  const sl_attend_shared *a = t->a;
  int branch = sl_ints_data(a->branch)[items[first].row];
  if (t->n_local && branch != t->branch) {
    sl_mat k = sl_mat_rows(a->local_k, branch * a->n_local, a->n_local);
    sl_mat v = sl_mat_rows(a->local_v, branch * a->n_local, a->n_local);
    load_chunks(t, t->n_shared, k, v, a->n_local);
    t->branch = branch;
  }
  multiply_scores(t, first, n, t->n_list, t->n_local);
  for (int i = first; i < first + n; i++) norm[i] = softmax_item(t, &items[i], t->s + i * t->lds);
  multiply_values(t, t->z_local, first, n, t->n_list, t->n_local);
}

static void attend_band(task *t, const item *items, int n, int n_left) {
  const sl_attend_shared *a = t->a;
  const int32_t *branch = sl_ints_data(a->branch);
  list_chunks(t, items, n);
  load_queries(t, items, n, n_left);
  t->lds = sl_attend_keys((t->n_list + t->n_local) * CHUNK);
  multiply_scores(t, 0, n, 0, t->n_list);
  float norm[BAND];
  for (int first = 0, end; first < n; first = end) {
    for (end = first + 1; end < n && branch[items[end].row] == branch[items[first].row];) end++;
    attend_branch(t, items, first, end - first, norm);
  }
  multiply_values(t, t->z, 0, n, 0, t->n_list);
  for (int i = 0; i < n; i++) {
    float *z = t->z + i * t->d, *z_local = t->z_local + i * t->d, *out = output_of(t, &items[i]);
    if (t->tiles) {
      if (i + AHEAD < n) prefetch_row(output_of(t, &items[i + AHEAD]), a->d_head);
      sl_tiles_join(out, z, z_local, norm[i], a->d_head);
    } else {
      t->vector->add(z, z, z_local, a->d_head);
      t->vector->scale(out, z, norm[i], a->d_head);
    }
  }
}

static uint8_t segments_seen(const task *t, int row, int head) {
  const uint32_t *mask = sl_attend_shared_mask(t->a, row, head);
  unsigned sees = 0;
  for (int s = 0; s < t->a->n_segment; s++) {
    int w = t->first_chunk[s], end = t->first_chunk[s + 1];
    while (w < end && !mask[w]) w++;
    sees |= (unsigned)(w < end) << s;
  }
  return (uint8_t)sees;
}

/* Rows first .. end - 1 (at most MAX_ITEM items), sorted by what they see, in bands. */
static void attend_rows(task *t, int first, int end) {
  item items[MAX_ITEM], sorted[MAX_ITEM];
  int n = 0, start[N_KIND + 1] = {0};
  for (int row = first; row < end; row++) {
    for (int head = t->head_kv * t->group; head < (t->head_kv + 1) * t->group; head++, n++) {
      items[n] = (item){row, head, segments_seen(t, row, head)};
      start[items[n].sees + 1]++;
    }
  }
  for (int i = 0; i < N_KIND; i++) start[i + 1] += start[i];
  for (int i = 0; i < n; i++) sorted[start[items[i].sees]++] = items[i];
  for (int i = 0, count; i < n; i += count) {
    load_segments(t, sorted[i].sees);
    for (count = 1; count < BAND && i + count < n && sorted[i + count].sees == sorted[i].sees;) count++;
    attend_band(t, sorted + i, count, n - i);
  }
}

static void attend_task(const sl_queue *queue, const sl_attend_shared *a, int head_kv, int first, int end,
                        float *next) {
  task t = {.a = a, .vector = queue->backend->vector, .head_kv = head_kv, .group = a->n_head / a->n_head_kv,
            .branch = -1};
  t.tiles = a->compute == SL_COMPUTE_BF16 && queue->backend->amx;
  t.d = sl_round_up(a->d_head, 32);
  for (int s = 0; s < a->n_segment; s++) t.first_chunk[s + 1] = t.first_chunk[s] + (a->k[s].rows + CHUNK - 1) / CHUNK;
  t.n_shared = t.first_chunk[a->n_segment];
  t.n_word = sl_attend_shared_words(a);
  size_t d = (size_t)t.d, words = (size_t)t.n_word;
  t.k = sl_attend_take(&next, words * chunk_floats(&t));
  t.v = sl_attend_take(&next, words * chunk_floats(&t));
  t.s = sl_attend_take(&next, BAND_ROWS * (size_t)sl_attend_keys(t.n_word * CHUNK));
  t.q = sl_attend_take(&next, BAND_ROWS * d);
  t.z = sl_attend_take(&next, BAND_ROWS * d);
  t.z_local = sl_attend_take(&next, BAND_ROWS * d);
  t.rows = sl_attend_take(&next, CHUNK * d);
  t.list = (int32_t *)(void *)sl_attend_take(&next, words);
  t.bits = (uint32_t *)(void *)sl_attend_take(&next, words);
  int step = MAX_ITEM / t.group;
  if (t.tiles) sl_tiles_begin();
  for (int row = first; row < end; row += step) attend_rows(&t, row, end - row < step ? end : row + step);
  if (t.tiles) sl_tiles_end();
}

void sl_cpu_attend_shared(sl_queue *queue, const sl_attend_shared *a) {
  sl_attend_shared_check(a);
  int n_column = sl_attend_shared_words(a) * CHUNK, n_row = a->q.rows, group = a->n_head / a->n_head_kv;
  size_t need = 0;
  bool fits = sl_attend_shared_scratch_bytes(a->d_head, n_column, &need) && need <= sl_cpu_scratch_bytes(queue);
  assert(fits && "sl_queue_reserve was not told of this many columns");
  assert(group <= MAX_ITEM);
  if (!fits || group > MAX_ITEM || n_row == 0) return;
  int n_thread = sl_cpu_threads(queue, 2.0 * n_row * n_column * a->n_head * a->d_head);
  /* Enough tasks to share out; a cut repeats the packing of keys. */
  int n_cut = n_thread == 1 || a->n_head_kv >= 2 * n_thread ? 1 : (2 * n_thread + a->n_head_kv - 1) / a->n_head_kv;
  if (n_cut > n_row) n_cut = n_row;
#pragma omp parallel num_threads(n_thread) if (n_thread > 1)
  {
    float *scratch = sl_cpu_scratch(queue, sl_cpu_thread());
#pragma omp for schedule(dynamic, 1)
    for (int i = 0; i < n_cut * a->n_head_kv; i++) {
      int cut = i / a->n_head_kv;
      int first = (int)((int64_t)n_row * cut / n_cut), end = (int)((int64_t)n_row * (cut + 1) / n_cut);
      attend_task(queue, a, i % a->n_head_kv, first, end, scratch);
    }
  }
}
