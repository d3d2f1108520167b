/* A file written in pieces, whole or not at all: the bytes go to a temporary beside the target, which is flushed and
 * renamed over it at the end. Whatever fails, the target keeps its old content and no temporary stays behind. */
#ifndef SL_BASE_OUTPUT_H
#define SL_BASE_OUTPUT_H

#include "base/memory.h"

typedef struct sl_output sl_output;

sl_status sl_output_open(sl_output **out, const char *path);
sl_status sl_output_write(sl_output *output, const void *bytes, size_t n_bytes);

/* Flushes, renames and frees. `output` is gone afterwards, whether this succeeds or not. */
sl_status sl_output_commit(sl_output *output);

/* Removes the temporary and frees. NULL is allowed. */
void sl_output_discard(sl_output *output);

#endif
