/* Products of the cpu backend: the one layout of packed weights, and the work of one thread.
 *
 * Layout: a weight [N, K] is cut into blocks of 32 n x 32 k, zero-padded at the edges; block (ib, kt) holds two tiles
 * of 16 n x 32 k, each stored as [k / 2][n][2]. In bf16 a tile is the 1 KB that AMX takes as its right operand; the
 * gradient's right operand and the f32 panels are made from it in L2. One copy serves every mode and direction. */
#ifndef SL_BACKEND_CPU_PRODUCT_H
#define SL_BACKEND_CPU_PRODUCT_H

#include "backend/kind.h"

enum { SL_BLOCK = 32, SL_BLOCK_ELEMENTS = SL_BLOCK * SL_BLOCK };

/* out[rows, .] (+)= in[rows, .] times w, for the output columns of blocks first_block .. first_block + n_block - 1.
 * Forward: out has w->n columns and in w->k; with `transposed` the other way round. */
typedef struct sl_product {
  const sl_weight *w;
  bool transposed, add;
  int rows, first_block, n_block;
  float *out;
  const float *in, *bias; /* bias may be NULL */
  int64_t out_stride, in_stride;
} sl_product;

static inline int sl_blocks(int n) { return (n + SL_BLOCK - 1) / SL_BLOCK; }
static inline int sl_product_outputs(const sl_product *p) { return p->transposed ? p->w->k : p->w->n; }
static inline int sl_product_inputs(const sl_product *p) { return p->transposed ? p->w->n : p->w->k; }

/* Bytes of a block, and from one row of blocks to the next. The gradient walks down a column of blocks: a gap of one
 * block keeps rows a multiple of 64 KB long from falling into the same few sets of L2, where they push one another out. */
static inline size_t sl_weight_block_bytes(const sl_weight *w) {
  return (size_t)SL_BLOCK_ELEMENTS * (w->dtype == SL_F32 ? 4 : 2);
}
static inline size_t sl_weight_row_bytes(const sl_weight *w) {
  size_t block = sl_weight_block_bytes(w), bytes = (size_t)sl_blocks(w->k) * block;
  return bytes % 65536 == 0 ? bytes + block : bytes;
}

/* Address of block (ib, kt) and of an element inside a block. */
static inline const unsigned char *sl_weight_block(const sl_weight *w, int ib, int kt) {
  return (const unsigned char *)w->data + (size_t)ib * sl_weight_row_bytes(w) + (size_t)kt * sl_weight_block_bytes(w);
}
static inline int sl_block_index(int n, int k) { return (n / 16) * 512 + (k / 2) * 32 + (n % 16) * 2 + k % 2; }

/* AMX bf16 tiles, for modes bf16 and bf16x2. Rows go in chunks of at most SL_AMX_CHUNK: first every row tile is packed
 * into `shared` (by any thread), then each thread multiplies its blocks. */
enum { SL_AMX_CHUNK = 640 };
bool sl_amx_available(void); /* asks the kernel for permission */
size_t sl_amx_scratch_bytes(void);
size_t sl_amx_rows_bytes(int rows, int width); /* of `shared` */
int sl_amx_row_tiles(int rows);
void sl_amx_pack_rows(const sl_product *p, void *shared, int row, int rows, int row_tile);
void sl_amx_multiply(const sl_product *p, void *shared, int row, int rows, void *scratch);

/* A product inside attention, on one thread: c[16 m_tiles, 16 n_tiles] = a b, sums in ascending order of k from zero, or
 * with `add` from what c holds.
 * a holds bf16 rows `lda` bytes apart; b holds pairs of bf16 neighbours along k, rows of pairs `ldb` bytes apart; c's
 * rows are ldc floats apart. k_tiles counts 32 k. */
typedef struct sl_amx_small {
  float *c;
  const void *a, *b;
  int64_t ldc, lda, ldb;
  int m_tiles, n_tiles, k_tiles;
  bool add;
} sl_amx_small;
void sl_amx_multiply_small(const sl_amx_small *m);

/* f32 vectors, for mode f32 and, with operands rounded as the mode says, for processors without AMX. */
struct sl_vector;
size_t sl_f32_scratch_bytes(void);
void sl_f32_product(const struct sl_vector *vector, const sl_product *p, void *scratch);

/* Packing and the ops themselves. */
sl_status sl_cpu_pack(sl_weight *weight, const sl_tensor *parts, int n_part);
void sl_cpu_linear(sl_queue *queue, sl_mat y, sl_mat x, const sl_weight *w, sl_mat bias, bool add);
void sl_cpu_linear_dx(sl_queue *queue, sl_mat dx, sl_mat dy, const sl_weight *w, bool add);
void sl_cpu_embed(sl_queue *queue, sl_mat y, const sl_weight *w, sl_ints ids);

#endif
