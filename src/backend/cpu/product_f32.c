/* The product on f32 vectors, one thread's share: mode f32, and the bf16 modes on processors without AMX, where the
 * operands are first rounded to what the mode's products see (bf16x2: hi + lo is one f32).
 *
 * Method: a panel of the weight, DEPTH deep and 32 outputs wide, is expanded to f32 in L1 and multiplied by all rows.
 * Each output is the sum over depths of sums that start from zero, in ascending order, whatever the number of rows. */
#include <string.h>

#include "backend/cpu/product.h"
#include "backend/cpu/vector.h"

enum { DEPTH = 256, ROUND_ROWS = 240, EDGE_ROWS = 48 };

typedef struct f32_scratch {
  _Alignas(64) float panel[DEPTH * SL_BLOCK];
  _Alignas(64) float rows[ROUND_ROWS * DEPTH];     /* x rounded to the mode */
  _Alignas(64) float edge[EDGE_ROWS * SL_BLOCK];   /* outputs of a last, partial block */
} f32_scratch;

size_t sl_f32_scratch_bytes(void) { return sizeof(f32_scratch); }

static void expand(const sl_vector *vector, const sl_product *p, float *panel, int block, int first, int depth) {
  for (int i = 0; i < sl_blocks(depth); i++) {
    int along = first / SL_BLOCK + i;
    const unsigned char *in = p->transposed ? sl_weight_block(p->w, along, block) : sl_weight_block(p->w, block, along);
    vector->panel(panel + i * SL_BLOCK_ELEMENTS, in, p->w->dtype, p->transposed, p->w->compute);
  }
}

/* The outputs before the first sum: bias, or what is there. */
static void begin(const sl_product *p, int block, int row, int rows) {
  int width = sl_product_outputs(p) - block * SL_BLOCK;
  if (width > SL_BLOCK) width = SL_BLOCK;
  for (int i = 0; i < rows; i++) {
    float *out = p->out + (row + i) * p->out_stride + block * SL_BLOCK;
    for (int j = 0; j < width; j++) out[j] = (p->add ? out[j] : 0) + (p->bias ? p->bias[block * SL_BLOCK + j] : 0);
  }
}

static void multiply_rows(const sl_vector *vector, const sl_product *p, f32_scratch *s, const float *in, int64_t stride,
                          int block, int row, int rows, int depth) {
  int width = sl_product_outputs(p) - block * SL_BLOCK;
  float *out = p->out + row * p->out_stride + block * SL_BLOCK;
  if (width >= SL_BLOCK) {
    vector->multiply(out, p->out_stride, in, stride, 1, s->panel, SL_BLOCK, rows, SL_BLOCK, depth, true);
    return;
  }
  for (int i = 0; i < rows; i += EDGE_ROWS) {
    int n = rows - i < EDGE_ROWS ? rows - i : EDGE_ROWS;
    vector->multiply(s->edge, SL_BLOCK, in + i * stride, stride, 1, s->panel, SL_BLOCK, n, SL_BLOCK, depth, false);
    for (int j = 0; j < n; j++) {
      float *to = out + (i + j) * p->out_stride;
      for (int l = 0; l < width; l++) to[l] += s->edge[j * SL_BLOCK + l];
    }
  }
}

void sl_f32_product(const sl_vector *vector, const sl_product *p, void *scratch) {
  f32_scratch *s = scratch;
  int n_in = sl_product_inputs(p), end = p->first_block + p->n_block;
  bool rounds = p->w->compute != SL_COMPUTE_F32;
  int band = rounds ? ROUND_ROWS : p->rows; /* rounded rows are kept for a band of rows at a time */
  for (int row = 0; row < p->rows; row += band) {
    int rows = p->rows - row < band ? p->rows - row : band;
    for (int block = p->first_block; block < end; block++) begin(p, block, row, rows);
    for (int first = 0; first < n_in; first += DEPTH) {
      int depth = n_in - first < DEPTH ? n_in - first : DEPTH;
      const float *in = p->in + row * p->in_stride + first;
      int64_t stride = p->in_stride;
      if (rounds) {
        for (int i = 0; i < rows; i++) vector->round(s->rows + i * DEPTH, in + i * stride, depth, p->w->compute);
        in = s->rows;
        stride = DEPTH;
      }
      for (int block = p->first_block; block < end; block++) {
        expand(vector, p, s->panel, block, first, depth);
        multiply_rows(vector, p, s, in, stride, block, row, rows, depth);
      }
    }
  }
}
