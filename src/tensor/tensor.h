/* Element types and host-memory tensor views. A view owns nothing. */
#ifndef SL_TENSOR_TENSOR_H
#define SL_TENSOR_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SL_MAX_DIM 6

typedef enum sl_dtype {
  SL_F32, SL_F16, SL_BF16, SL_I32, SL_I64, SL_U8, SL_F64, SL_I8, SL_I16, SL_BOOL,
  SL_DTYPE_COUNT
} sl_dtype;

/* Bytes of one element; safetensors' name ("F32", "BF16", ...). */
size_t sl_dtype_size(sl_dtype dtype);
const char *sl_dtype_name(sl_dtype dtype);

/* One tensor in host memory, row-major and contiguous. */
typedef struct sl_tensor {
  const char *name; /* borrowed from the file or the caller */
  const void *data; /* little-endian elements, any alignment when mapped from a file */
  sl_dtype dtype;
  int n_dim;
  int64_t shape[SL_MAX_DIM];
} sl_tensor;

/* Number of elements (shapes inside sightline are checked at their origin, so this cannot overflow). */
int64_t sl_tensor_count(const sl_tensor *tensor);

/* Converts `count` elements of f32, f16 or bf16 at `data` (unaligned allowed) to f32. */
void sl_convert_to_f32(float *out, const void *data, sl_dtype dtype, int64_t count);

static inline float sl_bf16_to_f32(uint16_t bits) {
  union { uint32_t u; float f; } v = {.u = (uint32_t)bits << 16};
  return v.f;
}
/* Round to nearest even; NaN stays NaN. */
uint16_t sl_f32_to_bf16(float value);
float sl_f16_to_f32(uint16_t bits);
/* Round to nearest even; NaN stays NaN, what is beyond 65504 (when rounded) becomes infinite. */
uint16_t sl_f32_to_f16(float value);

#endif
