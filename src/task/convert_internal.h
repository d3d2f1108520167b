/* Inside of sl_convert, shared by its sources only. */
#ifndef SL_TASK_CONVERT_INTERNAL_H
#define SL_TASK_CONVERT_INTERNAL_H

#include "base/json.h"
#include "sightline/convert.h"
#include "tensor/safetensors.h"

/* What a tensor of the new folder is made of. */
typedef struct sl_ingredients {
  const sl_tensor *model;
  const sl_tensor *base; /* to be added; NULL = nothing. Its elements are the model's first ones */
} sl_ingredients;

typedef struct sl_conversion {
  const sl_convert_request *request;
  sl_dtype dtype; /* SL_DTYPE_COUNT = each tensor's own */
  sl_safetensors *model, *base;
  sl_tensor *tensors; /* to be written: names, types and shapes; data stays NULL */
  sl_ingredients *ingredients; /* [n_tensor] */
  int n_tensor;
  uint64_t n_bytes, n_done; /* of the tensors */
  const char *building;     /* the hidden folder */
  json_t *summary;
} sl_conversion;

/* ---- convert_tensor.c ---- */

/* Opens nothing; fills tensors and ingredients, and tells "added" and "taken". Everything that can be known to be wrong
 * before the first byte is written is found here. */
sl_status sl_conversion_plan(sl_conversion *c);

/* An sl_tensor_maker; `user` is the conversion. */
sl_status sl_conversion_make(void *user, const sl_tensor *tensor, int64_t first, int64_t count, void *out);

/* ---- convert_files.c ---- */

/* Copies what is no weight from the model's folder; tells "copied" and "left". */
sl_status sl_conversion_copy_files(sl_conversion *c);

/* ---- for all ---- */

/* Reports progress; SL_ERROR_CANCELLED when the caller wants no more. */
sl_status sl_conversion_progress(const sl_conversion *c);
/* Into an object; takes `value`, which may be NULL (no memory). */
sl_status sl_conversion_tell(json_t *object, const char *key, json_t *value);
/* Appends text to the list `key` of the summary, which is made when missing. */
sl_status sl_conversion_list(sl_conversion *c, const char *key, const char *text);

#endif
