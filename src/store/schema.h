/* What a result tensor is called, what shape it has and what it means. The table is the contract between the analyses
 * that write results, the report that reads them, and everybody who opens tensors.safetensors elsewhere. Adding a
 * result means adding a row to schema.c, nothing else. */
#ifndef SL_STORE_SCHEMA_H
#define SL_STORE_SCHEMA_H

#include "base/memory.h"
#include "tensor/tensor.h"

/* One kind of result. Shapes are comma-separated dimensions, each a number, a symbol or an expression of both with
 * `+` and `*` from left to right ("L+1", "L*H"); "..." alone stands for any shape. Within one run directory a symbol
 * has one value. The usual symbols:
 *
 *   L layers   H query heads   Q query rows (one per answer token)   N image tokens   P prompt and answer positions
 *   A CAM maps (1 for the sum of the answer's tokens)   gh, gw rows and columns of the image-token grid
 *   K sinks per layer   V vocabulary */
typedef struct sl_result {
  const char *name;     /* exact, or a prefix followed by `*` */
  sl_dtype dtype;       /* SL_DTYPE_COUNT = any */
  const char *shape;
  const char *or_shape; /* a second shape that is allowed too (models without a grid), or NULL */
  const char *unit;     /* "" for pure numbers */
  const char *meaning;
} sl_result;

extern const sl_result sl_results[];
extern const int sl_result_count;

/* The row for a tensor's name; NULL when there is none. */
const sl_result *sl_result_find(const char *name);

/* Values of the symbols seen so far in one run. Zero-initialise. */
#define SL_MAX_SYMBOL 64
typedef struct sl_symbols {
  int count;
  struct {
    char name[8];
    int64_t value;
    char source[80]; /* the tensor that gave the value, for messages */
  } at[SL_MAX_SYMBOL];
} sl_symbols;

/* Checks dtype and shape of `tensor` against `result` and the symbols; unbound symbols that stand alone get their
 * value here. Expressions with unbound symbols pass: check again once every tensor was seen. A mismatch fails with
 * `status`, naming tensor, expected and found (`where` = file or NULL); `symbols` is then unchanged. */
sl_status sl_result_check(const sl_result *result, const sl_tensor *tensor, sl_symbols *symbols, sl_status status,
                          const char *where);

/* "f32 [12, 2, 144]" into a caller's buffer. */
void sl_tensor_describe(const sl_tensor *tensor, char *out, size_t n_bytes);

#endif
