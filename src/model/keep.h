/* Memory for what a backward pass needs of a stack of blocks: everything, or only a block's input (the rest is then
 * recomputed). */
#ifndef SL_MODEL_KEEP_H
#define SL_MODEL_KEEP_H

#include "nn/block.h"

typedef struct sl_keep {
  sl_buffer *buffer;
  sl_block_acts *acts; /* one per layer */
} sl_keep;

/* Bytes for n_row rows through n_layer blocks, the first n_whole of which keep everything and the others their input. In
 * bf16 compute mode products see bf16 values anyway, so kept values take 2 bytes; otherwise 4. */
size_t sl_keep_bytes(const sl_block_shape *shape, int n_layer, int n_row, int n_whole);

/* The most layers that can be kept whole within `limit` bytes. */
int sl_keep_whole(const sl_block_shape *shape, int n_layer, int n_row, size_t limit);

/* (Re)allocates for these sizes; an earlier content is lost. */
sl_status sl_keep_reserve(sl_keep *keep, const sl_backend *backend, const sl_block_shape *shape, int n_layer, int n_row,
                          int n_whole);
void sl_keep_dispose(sl_keep *keep);

#endif
