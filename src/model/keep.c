/* Laying out kept activations in one device buffer. */
#include "model/keep.h"

#include <stdlib.h>

/* Hands out the next matrix of a layer and moves on; with no buffer it only counts. */
static sl_mat take(sl_buffer *buffer, size_t *at, int rows, int cols, sl_dtype dtype) {
  const size_t size = sl_dtype_size(dtype);
  const int64_t stride = ((int64_t)cols + 31) / 32 * 32; /* rows start 64-byte aligned in either type */
  const sl_mat m = {buffer, (int64_t)(*at / size), stride, rows, cols, dtype};
  *at += (size_t)rows * (size_t)stride * size;
  return m;
}

typedef enum keep_level { KEEP_INPUT, KEEP_PART, KEEP_WHOLE } keep_level;

static sl_block_acts take_layer(sl_buffer *buffer, size_t *at, const sl_block_shape *s, int n_row, keep_level level) {
  const sl_dtype dtype = s->compute == SL_COMPUTE_BF16 ? SL_BF16 : SL_F32;
  sl_block_acts acts = {.x = take(buffer, at, n_row, s->d_model, dtype)};
  if (level == KEEP_INPUT) return acts;
  acts.qkv = take(buffer, at, n_row, sl_block_qkv_width(s), dtype);
  acts.lse = take(buffer, at, n_row, s->n_head, SL_F32);
  acts.mid = take(buffer, at, n_row, s->d_model, dtype);
  if (level == KEEP_WHOLE) acts.up = take(buffer, at, n_row, sl_block_up_width(s), dtype);
  return acts;
}

static keep_level level_of(sl_keep_counts counts, int il) {
  return il < counts.n_whole ? KEEP_WHOLE : il < counts.n_whole + counts.n_part ? KEEP_PART : KEEP_INPUT;
}

size_t sl_keep_bytes(const sl_block_shape *shape, int n_layer, int n_row, sl_keep_counts counts) {
  size_t bytes = 0;
  for (int il = 0; il < n_layer; il++) (void)take_layer(NULL, &bytes, shape, n_row, level_of(counts, il));
  return bytes;
}

sl_keep_counts sl_keep_choose(const sl_block_shape *shape, int n_layer, int n_row, size_t limit) {
  sl_keep_counts counts = {n_layer - 1, 1};
  while (counts.n_whole > 0 && sl_keep_bytes(shape, n_layer, n_row, counts) > limit) {
    counts.n_whole--;
    counts.n_part++;
  }
  while (counts.n_part > 0 && sl_keep_bytes(shape, n_layer, n_row, counts) > limit) counts.n_part--;
  return counts;
}

sl_status sl_keep_reserve(sl_keep *keep, const sl_backend *backend, const sl_block_shape *shape, int n_layer, int n_row,
                          sl_keep_counts counts) {
  const size_t bytes = sl_keep_bytes(shape, n_layer, n_row, counts);
  if (!keep->buffer || sl_buffer_bytes(keep->buffer) < bytes) {
    sl_buffer_free(keep->buffer);
    keep->buffer = NULL;
    SL_TRY(sl_buffer_new(&keep->buffer, backend, bytes, "kept activations"));
  }
  if (!keep->acts) SL_TRY(SL_ALLOC(keep->acts, (size_t)n_layer, "kept activations"));
  size_t at = 0;
  for (int il = 0; il < n_layer; il++)
    keep->acts[il] = take_layer(keep->buffer, &at, shape, n_row, level_of(counts, il));
  return SL_OK;
}

void sl_keep_dispose(sl_keep *keep) {
  sl_buffer_free(keep->buffer);
  free(keep->acts);
  *keep = (sl_keep){0};
}
