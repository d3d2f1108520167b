/* Memory for what a backward pass needs of a stack of blocks: as much of each layer as a limit allows. */
#ifndef SL_MODEL_KEEP_H
#define SL_MODEL_KEEP_H

#include "nn/block.h"

typedef struct sl_keep {
  sl_buffer *buffer;
  sl_block_acts *acts; /* one per layer */
} sl_keep;

/* How many layers keep how much, counted from the bottom: n_whole keep everything, the next n_part all but `up` (half
 * of the bytes for a third of the forward's work), the rest only their input. */
typedef struct sl_keep_counts {
  int n_whole, n_part;
} sl_keep_counts;

/* Bytes for n_row rows. In bf16 compute mode products see bf16 values anyway, so kept values take 2 bytes; else 4. */
size_t sl_keep_bytes(const sl_block_shape *shape, int n_layer, int n_row, sl_keep_counts counts);

/* The most that fits `limit` bytes. The top layer never keeps `up`: its gradient needs the target's rows alone. */
sl_keep_counts sl_keep_choose(const sl_block_shape *shape, int n_layer, int n_row, size_t limit);

/* (Re)allocates for these sizes; an earlier content is lost. */
sl_status sl_keep_reserve(sl_keep *keep, const sl_backend *backend, const sl_block_shape *shape, int n_layer, int n_row,
                          sl_keep_counts counts);
void sl_keep_dispose(sl_keep *keep);

#endif
