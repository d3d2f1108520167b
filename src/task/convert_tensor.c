/* What each tensor of a converted folder is made of, and its elements:
 *   out[i] = round(f32(model[i]) + f32(base[i]))
 * A delta's embedding and head may have more rows than the base's (new tokens): only the common rows are summed.
 *
 * Source: the apply_delta.py that comes with Shikra, LLaVA and FastChat; it loads both in f16 and adds there, which
 * gives the same bits where both are stored in f16. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "task/convert_internal.h"

#define BLOCK 4096 /* elements on the stack at a time */

/* Follows from config.json; old checkpoints store it. A delta of it would be of no use to anyone. */
#define DERIVED "*rotary_emb.inv_freq"

static bool is_real(sl_dtype dtype) {
  return dtype == SL_F32 || dtype == SL_F16 || dtype == SL_BF16 || dtype == SL_F64;
}

/* ---- plan ---- */

/* "F16 [32003, 4096]" */
static void format_type(char out[160], const sl_tensor *tensor) {
  size_t used = (size_t)snprintf(out, 160, "%s [", sl_dtype_name(tensor->dtype));
  for (int i = 0; i < tensor->n_dim; i++)
    used += (size_t)snprintf(out + used, 160 - used, "%s%lld", i ? ", " : "", (long long)tensor->shape[i]);
  snprintf(out + used, 160 - used, "]");
}

static bool same_shape(const sl_tensor *a, const sl_tensor *b) {
  return a->n_dim == b->n_dim && memcmp(a->shape, b->shape, (size_t)a->n_dim * sizeof *a->shape) == 0;
}

/* A vocabulary that grew: the same width, more rows. */
static bool may_grow(const sl_tensor *delta, const sl_tensor *base) {
  const bool by_token =
      sl_glob_match("*embed_tokens.weight", delta->name) || sl_glob_match("*lm_head.weight", delta->name);
  return by_token && delta->n_dim == 2 && base->n_dim == 2 && delta->shape[1] == base->shape[1] &&
         delta->shape[0] > base->shape[0];
}

static sl_status check_sum(const sl_conversion *c, const sl_tensor *delta, const sl_tensor *base) {
  if (is_real(delta->dtype) && is_real(base->dtype) && (same_shape(delta, base) || may_grow(delta, base))) return SL_OK;
  char found[160], expected[160];
  format_type(found, delta);
  format_type(expected, base);
  SL_FAIL(SL_ERROR_FORMAT,
          "%s: tensor \"%.200s\" of the delta: expected the floating-point numbers and the shape of the base, %s, "
          "found %s",
          sl_safetensors_file_of(c->model, delta), delta->name, expected, found);
}

static sl_status plan_tensor(sl_conversion *c, const sl_tensor *tensor, int *n_added) {
  const sl_tensor *base = c->base ? sl_safetensors_find(c->base, tensor->name) : NULL;
  if (c->base && sl_glob_match(DERIVED, tensor->name)) return SL_OK;
  if (base) SL_TRY(check_sum(c, tensor, base));
  if (c->base && !base) SL_TRY(sl_conversion_list(c, "taken", tensor->name));
  *n_added += base != NULL;
  sl_tensor *out = &c->tensors[c->n_tensor];
  *out = *tensor;
  out->data = NULL;
  if (c->dtype != SL_DTYPE_COUNT && is_real(tensor->dtype)) out->dtype = c->dtype;
  c->ingredients[c->n_tensor++] = (sl_ingredients){tensor, base};
  c->n_bytes += (uint64_t)sl_tensor_count(out) * sl_dtype_size(out->dtype);
  return SL_OK;
}

/* Where the base has more than the delta, they do not belong together. */
static sl_status check_base(const sl_conversion *c) {
  for (int i = 0; i < sl_safetensors_count(c->base); i++) {
    const sl_tensor *base = sl_safetensors_at(c->base, i);
    if (sl_safetensors_find(c->model, base->name) || sl_glob_match(DERIVED, base->name)) continue;
    SL_FAIL(SL_ERROR_FORMAT,
            "%s: tensor \"%.200s\" of the base (%s): expected in the delta too, found none; is this the base that the "
            "delta was made for?",
            c->request->model_dir, base->name, sl_safetensors_file_of(c->base, base));
  }
  return SL_OK;
}

sl_status sl_conversion_plan(sl_conversion *c) {
  const int n = sl_safetensors_count(c->model);
  int n_added = 0;
  SL_TRY(SL_ALLOC(c->tensors, (size_t)n, "tensors to write"));
  SL_TRY(SL_ALLOC(c->ingredients, (size_t)n, "tensors to write"));
  if (c->base) SL_TRY(check_base(c));
  for (int i = 0; i < n; i++) SL_TRY(plan_tensor(c, sl_safetensors_at(c->model, i), &n_added));
  if (c->base) SL_TRY(sl_conversion_tell(c->summary, "added", json_integer(n_added)));
  return SL_OK;
}

/* ---- elements ---- */

static const unsigned char *element(const sl_tensor *tensor, int64_t index) {
  return (const unsigned char *)tensor->data + (size_t)index * sl_dtype_size(tensor->dtype);
}

static void to_f32(float *out, const sl_tensor *tensor, int64_t first, int64_t count) {
  if (tensor->dtype != SL_F64) {
    sl_convert_to_f32(out, element(tensor, first), tensor->dtype, count);
    return;
  }
  for (int64_t i = 0; i < count; i++) {
    double value;
    memcpy(&value, element(tensor, first + i), sizeof value);
    out[i] = (float)value;
  }
}

static void from_f32(void *out, sl_dtype dtype, const float *values, int64_t count) {
  uint16_t *halves = out;
  if (dtype == SL_F32) memcpy(out, values, (size_t)count * sizeof *values);
  for (int64_t i = 0; i < count; i++) {
    if (dtype == SL_F64) ((double *)out)[i] = values[i];
    if (dtype == SL_F16) halves[i] = sl_f32_to_f16(values[i]);
    if (dtype == SL_BF16) halves[i] = sl_f32_to_bf16(values[i]);
  }
}

static bool is_finite(const void *out, sl_dtype dtype, int64_t i) {
  const uint16_t exponent = dtype == SL_F16 ? 0x7C00 : 0x7F80;
  if (dtype == SL_F32) return isfinite(((const float *)out)[i]);
  if (dtype == SL_F64) return isfinite(((const double *)out)[i]);
  return (((const uint16_t *)out)[i] & exponent) != exponent;
}

static double element_value(const sl_tensor *tensor, int64_t index) {
  double value;
  float single;
  if (tensor->dtype == SL_F64) return memcpy(&value, element(tensor, index), sizeof value), value;
  to_f32(&single, tensor, index, 1);
  return (double)single;
}

/* What is infinite now was so before. */
static sl_status check_range(const sl_conversion *c, const sl_tensor *tensor, const sl_ingredients *of, int64_t first,
                             int64_t count, const float *values, const void *out) {
  for (int64_t i = 0; i < count; i++) {
    if (is_finite(out, tensor->dtype, i)) continue;
    const bool summed = of->base && first + i < sl_tensor_count(of->base);
    const double value = element_value(of->model, first + i) + (summed ? element_value(of->base, first + i) : 0);
    if (isfinite(value))
      SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: tensor \"%.200s\": element %lld is %g, which %s cannot hold",
              sl_safetensors_file_of(c->model, of->model), tensor->name, (long long)(first + i), value,
              sl_dtype_name(isfinite(values[i]) ? tensor->dtype : SL_F32));
  }
  return SL_OK;
}

static sl_status make_block(sl_conversion *c, const sl_tensor *tensor, const sl_ingredients *of, int64_t first,
                            int64_t count, void *out) {
  float values[BLOCK], summands[BLOCK];
  to_f32(values, of->model, first, count);
  if (of->base) {
    const int64_t n_base = sl_tensor_count(of->base);
    int64_t n_common = n_base > first ? n_base - first : 0;
    if (n_common > count) n_common = count;
    to_f32(summands, of->base, first, n_common);
    for (int64_t i = 0; i < n_common; i++) values[i] += summands[i];
  }
  from_f32(out, tensor->dtype, values, count); /* the plan makes none but real types */
  return check_range(c, tensor, of, first, count, values, out);
}

/* Pages that were used are given back, so that the file does not fill the memory. */
static void drop(sl_conversion *c, const sl_ingredients *of) {
  sl_safetensors_drop(c->model, of->model);
  if (of->base) sl_safetensors_drop(c->base, of->base);
}

sl_status sl_conversion_make(void *user, const sl_tensor *tensor, int64_t first, int64_t count, void *out) {
  sl_conversion *c = user;
  const sl_ingredients *of = &c->ingredients[tensor - c->tensors];
  const size_t width = sl_dtype_size(tensor->dtype);
  SL_TRY(sl_conversion_progress(c));
  if (!of->base && tensor->dtype == of->model->dtype) {
    memcpy(out, element(of->model, first), (size_t)count * width);
  } else {
    for (int64_t done = 0; done < count; done += BLOCK) {
      const int64_t n = count - done < BLOCK ? count - done : BLOCK;
      SL_TRY(make_block(c, tensor, of, first + done, n, (unsigned char *)out + (size_t)done * width));
    }
  }
  c->n_done += (uint64_t)count * width;
  if (first + count == sl_tensor_count(tensor)) drop(c, of);
  return SL_OK;
}
