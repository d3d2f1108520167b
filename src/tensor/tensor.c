/* Element types and their conversion to f32. */
#include "tensor/tensor.h"

#include <assert.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are used as they lie in the (little-endian) file");

size_t sl_dtype_size(sl_dtype dtype) {
  switch (dtype) {
    case SL_U8:
    case SL_I8:
    case SL_BOOL: return 1;
    case SL_F16:
    case SL_BF16:
    case SL_I16: return 2;
    case SL_F32:
    case SL_I32: return 4;
    case SL_I64:
    case SL_F64: return 8;
    case SL_DTYPE_COUNT: break;
  }
  return 0;
}

const char *sl_dtype_name(sl_dtype dtype) {
  switch (dtype) {
    case SL_F32: return "F32";
    case SL_F16: return "F16";
    case SL_BF16: return "BF16";
    case SL_I32: return "I32";
    case SL_I64: return "I64";
    case SL_U8: return "U8";
    case SL_F64: return "F64";
    case SL_I8: return "I8";
    case SL_I16: return "I16";
    case SL_BOOL: return "BOOL";
    case SL_DTYPE_COUNT: break;
  }
  return "unknown";
}

int64_t sl_tensor_count(const sl_tensor *tensor) {
  int64_t count = 1;
  for (int i = 0; i < tensor->n_dim; i++) count *= tensor->shape[i];
  return count;
}

static uint32_t bits_of_f32(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static float f32_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

uint16_t sl_f32_to_bf16(float value) {
  uint32_t bits = bits_of_f32(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return (uint16_t)(bits >> 16 | 0x40); /* rounding could make it infinite */
  return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* Without branches, so that loops vectorise (after M. Dukhan's FP16 library). Normal numbers, infinities and NaN: move
 * exponent and mantissa into place with 224 added to the exponent, which makes 31 into 255, and scale by 2^-112.
 * Subnormals: put the mantissa at the low end of 0.5 and subtract 0.5. Both steps are exact. */
static inline float f16_to_f32(uint16_t half) {
  uint32_t word = (uint32_t)half << 16;
  uint32_t sign = word & 0x80000000;
  uint32_t twice = word + word; /* the sign falls off */
  float normal = f32_of_bits((twice >> 4) + (0xE0u << 23)) * 0x1p-112f;
  float subnormal = f32_of_bits(twice >> 17 | 126u << 23) - 0.5f;
  uint32_t is_subnormal = 0u - (twice < 1u << 27);
  return f32_of_bits(sign | (bits_of_f32(subnormal) & is_subnormal) | (bits_of_f32(normal) & ~is_subnormal));
}

float sl_f16_to_f32(uint16_t bits) { return f16_to_f32(bits); }

/* Normal results: half a unit less one bit, plus the last kept bit, rounds to even as the rest is cut off. Subnormal
 * results have the fixed unit 2^-24, which is that of floats from 0.5 to 1: adding 0.5 rounds to it. */
uint16_t sl_f32_to_f16(float value) {
  const uint32_t bits = bits_of_f32(value), magnitude = bits & 0x7FFFFFFF;
  const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
  if (magnitude > 0x7F800000) return sign | 0x7E00;                 /* NaN */
  if (magnitude >= 0x477FF000) return sign | 0x7C00;                /* 65520 and more */
  if (magnitude < 0x38800000)                                       /* below 2^-14 */
    return sign | (uint16_t)(bits_of_f32(f32_of_bits(magnitude) + 0.5f) - 0x3F000000); /* 0.5 has the unit 2^-24 */
  const uint32_t odd = magnitude >> 13 & 1;
  return sign | (uint16_t)((magnitude - 0x38000000 + 0xFFF + odd) >> 13);
}

/* The loops go in blocks of fixed length: -O2 vectorises only loops whose trip count it knows. */
#define BLOCK 64

static void convert_f16(float *out, const unsigned char *bytes, int64_t count) {
  uint16_t block[BLOCK];
  for (; count >= BLOCK; count -= BLOCK, out += BLOCK, bytes += sizeof block) {
    memcpy(block, bytes, sizeof block);
    for (int i = 0; i < BLOCK; i++) out[i] = f16_to_f32(block[i]);
  }
  memcpy(block, bytes, (size_t)count * 2);
  for (int i = 0; i < count; i++) out[i] = f16_to_f32(block[i]);
}

static void convert_bf16(float *out, const unsigned char *bytes, int64_t count) {
  uint16_t block[BLOCK];
  for (; count >= BLOCK; count -= BLOCK, out += BLOCK, bytes += sizeof block) {
    memcpy(block, bytes, sizeof block);
    for (int i = 0; i < BLOCK; i++) out[i] = f32_of_bits((uint32_t)block[i] << 16);
  }
  memcpy(block, bytes, (size_t)count * 2);
  for (int i = 0; i < count; i++) out[i] = f32_of_bits((uint32_t)block[i] << 16);
}

void sl_convert_to_f32(float *out, const void *data, sl_dtype dtype, int64_t count) {
  if (count <= 0) return; /* an empty tensor may have no address */
  switch (dtype) {
    case SL_F32: memcpy(out, data, (size_t)count * sizeof *out); return;
    case SL_F16: convert_f16(out, data, count); return;
    case SL_BF16: convert_bf16(out, data, count); return;
    case SL_I32:
    case SL_I64:
    case SL_U8:
    case SL_F64:
    case SL_I8:
    case SL_I16:
    case SL_BOOL:
    case SL_DTYPE_COUNT: break;
  }
  assert(!"sl_convert_to_f32 takes f32, f16 and bf16");
}
