/* Memory for what a backward pass needs of a stack of blocks: everything, or only each block's input (the rest is then
 * recomputed block by block). */
#ifndef SL_MODEL_KEEP_H
#define SL_MODEL_KEEP_H

#include "nn/block.h"

typedef struct sl_keep {
  sl_buffer *buffer;
  sl_block_acts *acts; /* one per layer */
} sl_keep;

/* Bytes for n_row rows through n_layer blocks. In bf16 compute mode products see bf16 values anyway, so kept q, k, v, z
 * and MLP values take 2 bytes; otherwise 4. */
size_t sl_keep_bytes(const sl_block_shape *shape, sl_compute compute, int n_layer, int n_row, bool everything);

/* (Re)allocates for these sizes; an earlier content is lost. */
sl_status sl_keep_reserve(sl_keep *keep, const sl_backend *backend, const sl_block_shape *shape, sl_compute compute,
                          int n_layer, int n_row, bool everything);
void sl_keep_dispose(sl_keep *keep);

#endif
