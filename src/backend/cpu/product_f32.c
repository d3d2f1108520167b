/* The product on f32 vectors, one thread's share: mode f32, and the bf16 modes on processors without AMX, where the
 * operands are first rounded to what the mode's products see (bf16x2: hi + lo is one f32).
 *
 * Method: a panel of the weight, DEPTH deep and 32 outputs wide, is expanded to f32 in L1 and multiplied by all rows.
 * Each output is the sum over depths of sums that start from zero, in ascending order, whatever the number of rows. */
#include <string.h>

#include "backend/cpu/product.h"
#include "backend/cpu/vector.h"

/* Rows are copied with a stride that is no power of two: twelve rows 16 KB apart would share one set of L1. */
enum { DEPTH = 256, ROW_STRIDE = DEPTH + 16, BAND_ROWS = 324, EDGE_ROWS = 48 };

typedef struct f32_scratch {
  _Alignas(64) float panel[DEPTH * SL_BLOCK];
  _Alignas(64) float rows[BAND_ROWS * ROW_STRIDE]; /* x, rounded to the mode */
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

static void multiply_rows(const sl_vector *vector, const sl_product *p, f32_scratch *s, int block, int row, int rows,
                          int depth) {
  int width = sl_product_outputs(p) - block * SL_BLOCK;
  float *out = p->out + row * p->out_stride + block * SL_BLOCK;
  if (width >= SL_BLOCK) {
    vector->multiply(out, p->out_stride, s->rows, ROW_STRIDE, 1, s->panel, SL_BLOCK, rows, SL_BLOCK, depth, true);
    return;
  }
  for (int i = 0; i < rows; i += EDGE_ROWS) {
    int n = rows - i < EDGE_ROWS ? rows - i : EDGE_ROWS;
    vector->multiply(s->edge, SL_BLOCK, s->rows + i * ROW_STRIDE, ROW_STRIDE, 1, s->panel, SL_BLOCK, n, SL_BLOCK, depth,
                     false);
    for (int j = 0; j < n; j++) {
      float *to = out + (i + j) * p->out_stride;
      for (int l = 0; l < width; l++) to[l] += s->edge[j * SL_BLOCK + l];
    }
  }
}

void sl_f32_product(const sl_vector *vector, const sl_product *p, void *scratch) {
  f32_scratch *s = scratch;
  int n_in = sl_product_inputs(p), end = p->first_block + p->n_block;
  int n_band = (p->rows + BAND_ROWS - 1) / BAND_ROWS, band = (p->rows + n_band - 1) / n_band;
  for (int row = 0; row < p->rows; row += band) {
    int rows = p->rows - row < band ? p->rows - row : band;
    for (int block = p->first_block; block < end; block++) begin(p, block, row, rows);
    for (int first = 0; first < n_in; first += DEPTH) {
      int depth = n_in - first < DEPTH ? n_in - first : DEPTH;
      for (int i = 0; i < rows; i++) {
        vector->round(s->rows + i * ROW_STRIDE, p->in + (row + i) * p->in_stride + first, depth, p->w->compute);
      }
      for (int block = p->first_block; block < end; block++) {
        expand(vector, p, s->panel, block, first, depth);
        multiply_rows(vector, p, s, block, row, rows, depth);
      }
    }
  }
}
