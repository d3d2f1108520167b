/* The reference backend: the specification of every op, in plain C on one thread, sums in f64. Weights are kept
 * row-major in their storage type. Slow on purpose. */
#include "backend/ref/ref.h"

#include <stdlib.h>
#include <string.h>

static const char *describe(const sl_backend *backend, sl_compute compute) {
  (void)backend;
  switch (compute) {
    case SL_COMPUTE_F32: return "reference C, f32 operands, f64 sums";
    case SL_COMPUTE_BF16X2: return "reference C, bf16 pairs, f64 sums";
    case SL_COMPUTE_BF16: return "reference C, bf16 operands, f64 sums";
    case SL_COMPUTE_COUNT: break;
  }
  return "unknown";
}

static sl_compute default_compute(const sl_backend *backend) {
  (void)backend;
  return SL_COMPUTE_F32;
}

static bool scratch_bytes(const sl_queue *queue, int max_rows, int max_width, int max_key, size_t *shared, size_t *share) {
  (void)queue, (void)max_rows, (void)max_width, (void)max_key;
  *shared = *share = 0;
  return true;
}

/* Row-major copy; a part whose type differs from the storage goes through f32. */
static sl_status pack(sl_weight *weight, const sl_tensor *parts, int n_part) {
  size_t size = sl_dtype_size(weight->dtype), count, n_bytes;
  if (!sl_size_mul((size_t)weight->n, (size_t)weight->k, &count) || !sl_size_mul(count, size, &n_bytes)) {
    SL_FAIL(SL_ERROR_MEMORY, "weight [%d, %d] is too large", weight->n, weight->k);
  }
  SL_TRY(sl_aligned_alloc(&weight->data, n_bytes, "weight"));
  weight->n_bytes = n_bytes;
  unsigned char *out = weight->data;
  for (int i = 0; i < n_part; i++) {
    int64_t n = parts[i].shape[0] * parts[i].shape[1];
    if (parts[i].dtype == weight->dtype) {
      memcpy(out, parts[i].data, (size_t)n * size);
    } else {
      const unsigned char *in = parts[i].data;
      size_t in_size = sl_dtype_size(parts[i].dtype);
      for (int64_t j = 0; j < n; j++) {
        float value;
        sl_convert_to_f32(&value, in + (size_t)j * in_size, parts[i].dtype, 1);
        if (weight->dtype == SL_BF16) {
          ((uint16_t *)(void *)out)[j] = sl_f32_to_bf16(value);
        } else {
          ((float *)(void *)out)[j] = value;
        }
      }
    }
    out += (size_t)n * size;
  }
  return SL_OK;
}

static const sl_ops ops = {
    .linear = sl_ref_linear,
    .linear_dx = sl_ref_linear_dx,
    .embed = sl_ref_embed,
    .norm = sl_ref_norm,
    .norm_dx = sl_ref_norm_dx,
    .act = sl_ref_act,
    .act_dx = sl_ref_act_dx,
    .gate = sl_ref_gate,
    .gate_dx = sl_ref_gate_dx,
    .rope = sl_ref_rope,
    .log_n = sl_ref_log_n,
    .attend = sl_ref_attend,
    .attend_dx = sl_ref_attend_dx,
    .attend_shared = sl_ref_attend_shared,
    .add = sl_ref_add,
    .multiply = sl_ref_multiply,
    .scale = sl_ref_scale,
    .zero = sl_ref_zero,
    .copy = sl_ref_copy,
    .gather_rows = sl_ref_gather_rows,
    .scatter_rows = sl_ref_scatter_rows,
    .cam = sl_ref_cam,
};

const sl_kind sl_kind_ref = {.name = "ref",
                             .ops = &ops,
                             .describe = describe,
                             .default_compute = default_compute,
                             .pack = pack,
                             .scratch = scratch_bytes};
