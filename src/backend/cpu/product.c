/* Linear ops of the cpu backend: packing weights into blocks, sharing a product's output blocks among threads, and
 * reading embedding rows back.
 *
 * Threads take contiguous ranges of output blocks, so no sum is ever shared between threads and bits do not depend on
 * who takes which. */
#include "backend/cpu/product.h"

#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/vector.h"

/* Where rows of stacked parts come from. */
typedef struct part_rows {
  const sl_tensor *parts;
  int n_part;
} part_rows;

/* Copies columns first .. first + n - 1 of stacked row `row` into `out` as the storage type. */
static void read_row(void *out, part_rows from, int row, int first, int n, sl_dtype dtype) {
  int part = 0;
  while (row >= from.parts[part].shape[0]) row -= (int)from.parts[part++].shape[0];
  const sl_tensor *t = &from.parts[part];
  size_t size = sl_dtype_size(t->dtype);
  const unsigned char *in = (const unsigned char *)t->data + ((size_t)row * (size_t)t->shape[1] + (size_t)first) * size;
  if (t->dtype == dtype) {
    memcpy(out, in, (size_t)n * size);
    return;
  }
  float values[SL_BLOCK];
  sl_convert_to_f32(values, in, t->dtype, n);
  if (dtype == SL_F32) {
    memcpy(out, values, (size_t)n * sizeof(float));
  } else {
    for (int i = 0; i < n; i++) ((uint16_t *)out)[i] = sl_f32_to_bf16(values[i]);
  }
}

/* One row of blocks: 32 rows of the weight; each pair of neighbours along k moves as one word. */
static void pack_block_row(sl_weight *w, part_rows from, int ib) {
  int n_depth = sl_blocks(w->k), rows = w->n - ib * SL_BLOCK < SL_BLOCK ? w->n - ib * SL_BLOCK : SL_BLOCK;
  for (int kt = 0; kt < n_depth; kt++) {
    int n = w->k - kt * SL_BLOCK < SL_BLOCK ? w->k - kt * SL_BLOCK : SL_BLOCK;
    unsigned char *block = (unsigned char *)(uintptr_t)sl_weight_block(w, ib, kt);
    for (int i = 0; i < rows; i++) {
      _Alignas(64) uint64_t row[SL_BLOCK / 2] = {0};
      read_row(row, from, ib * SL_BLOCK + i, kt * SL_BLOCK, n, w->dtype);
      if (w->dtype == SL_F32) {
        uint64_t *out = (uint64_t *)(void *)block + sl_block_index(i, 0) / 2;
        for (int j = 0; j < SL_BLOCK / 2; j++) out[j * 16] = row[j];
      } else {
        uint32_t pairs[SL_BLOCK / 2], *out = (uint32_t *)(void *)block + sl_block_index(i, 0) / 2;
        memcpy(pairs, row, sizeof pairs);
        for (int j = 0; j < SL_BLOCK / 2; j++) out[j * 16] = pairs[j];
      }
    }
  }
}

sl_status sl_cpu_pack(sl_weight *w, const sl_tensor *parts, int n_part) {
  int n_block = sl_blocks(w->n);
  size_t n_bytes;
  if (!sl_size_mul((size_t)n_block, sl_weight_row_bytes(w), &n_bytes)) {
    SL_FAIL(SL_ERROR_MEMORY, "weight [%d, %d] is too large", w->n, w->k);
  }
  SL_TRY(sl_aligned_alloc(&w->data, n_bytes, "weight"));
  w->n_bytes = n_bytes;
  part_rows from = {parts, n_part};
  int n_thread = n_bytes < (1 << 18) ? 1 : sl_cpu_processors();
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_thread) if (n_thread > 1)
  for (int ib = 0; ib < n_block; ib++) pack_block_row(w, from, ib);
  return SL_OK;
}

/* The blocks of share i of n. */
static sl_product share_of(const sl_product *p, int share, int n_share) {
  int n_block = sl_blocks(sl_product_outputs(p));
  sl_product mine = *p;
  mine.first_block = (int)((int64_t)n_block * share / n_share);
  mine.n_block = (int)((int64_t)n_block * (share + 1) / n_share) - mine.first_block;
  return mine;
}

/* How many shares to cut a product into: a multiple of the threads, so that equal cores end together, each about
 * `width` blocks, so that a core that is held up does not hold up the rest. */
static int count_shares(const sl_product *p, int n_thread, int width) {
  int n_block = sl_blocks(sl_product_outputs(p)), n_share = (n_block + width - 1) / width;
  n_share = (n_share + n_thread - 1) / n_thread * n_thread;
  return n_share < n_block ? n_share : n_block;
}

static void run_tiles(const sl_queue *queue, const sl_product *p, int n_thread) {
  void *shared = sl_cpu_shared(queue, sl_amx_rows_bytes(p->rows, sl_product_inputs(p)));
  int n_share = count_shares(p, n_thread, 16);
  if (!shared) return;
#pragma omp parallel num_threads(n_thread) if (n_thread > 1)
  for (int row = 0; row < p->rows; row += SL_AMX_CHUNK) {
    int rows = p->rows - row < SL_AMX_CHUNK ? p->rows - row : SL_AMX_CHUNK;
#pragma omp for schedule(static)
    for (int i = 0; i < sl_amx_row_tiles(rows); i++) sl_amx_pack_rows(p, shared, row, rows, i);
#pragma omp for schedule(dynamic, 1)
    for (int i = 0; i < n_share; i++) {
      sl_product mine = share_of(p, i, n_share);
      sl_amx_multiply(&mine, shared, row, rows, sl_cpu_scratch(queue, sl_cpu_thread()));
    }
  }
}

static void run_vectors(const sl_queue *queue, const sl_product *p, int n_thread) {
  int n_share = count_shares(p, n_thread, 32);
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_thread) if (n_thread > 1)
  for (int i = 0; i < n_share; i++) {
    sl_product mine = share_of(p, i, n_share);
    sl_f32_product(queue->backend->vector, &mine, sl_cpu_scratch(queue, sl_cpu_thread()));
  }
}

static void run_product(const sl_queue *queue, const sl_product *p) {
  if (p->rows == 0) return;
  bool tiles = p->w->compute != SL_COMPUTE_F32 && queue->backend->amx;
  double work = (double)p->rows * p->w->n * p->w->k;
  int n_thread = sl_cpu_threads(queue, tiles ? work / 4 : work), n_block = sl_blocks(sl_product_outputs(p));
  if (n_thread > n_block) n_thread = n_block;
  if (tiles) {
    run_tiles(queue, p, n_thread);
  } else {
    run_vectors(queue, p, n_thread);
  }
}

void sl_cpu_linear(sl_queue *queue, sl_mat y, sl_mat x, const sl_weight *w, sl_mat bias, bool add) {
  assert(x.cols == w->k && y.cols == w->n && x.rows == y.rows && (!bias.buffer || bias.cols == w->n));
  sl_product p = {.w = w, .rows = x.rows, .out = sl_mat_f32(y), .in = sl_mat_f32(x), .add = add};
  p.out_stride = y.stride;
  p.in_stride = x.stride;
  p.bias = bias.buffer ? sl_mat_f32(bias) : NULL;
  run_product(queue, &p);
}

void sl_cpu_linear_dx(sl_queue *queue, sl_mat dx, sl_mat dy, const sl_weight *w, bool add) {
  assert(dx.cols == w->k && dy.cols == w->n && dx.rows == dy.rows);
  sl_product p = {.w = w, .transposed = true, .rows = dx.rows, .out = sl_mat_f32(dx), .in = sl_mat_f32(dy), .add = add};
  p.out_stride = dx.stride;
  p.in_stride = dy.stride;
  run_product(queue, &p);
}

void sl_cpu_embed(sl_queue *queue, sl_mat y, const sl_weight *w, sl_ints ids) {
  (void)queue;
  assert(y.cols == w->k && y.rows == ids.count);
  float *py = sl_mat_f32(y);
  const int32_t *id = sl_ints_data(ids);
  size_t size = sl_dtype_size(w->dtype);
  for (int t = 0; t < y.rows; t++) {
    assert(id[t] >= 0 && id[t] < w->n);
    for (int k = 0; k < w->k; k += 2) {
      const unsigned char *in = sl_weight_block(w, id[t] / SL_BLOCK, k / SL_BLOCK) +
                                (size_t)sl_block_index(id[t] % SL_BLOCK, k % SL_BLOCK) * size;
      sl_convert_to_f32(py + t * y.stride + k, in, w->dtype, w->k - k < 2 ? 1 : 2);
    }
  }
}
