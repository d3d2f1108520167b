/* Writing safetensors files. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/output.h"
#include "base/text.h"
#include "tensor/safetensors_file.h"

#define PIECE_BYTES ((size_t)1 << 20) /* of data that is made while it is written */

static sl_status check_tensor(const char *path, const sl_tensor *tensor, size_t *n_bytes) {
  if (!tensor->name || !sl_utf8_valid(tensor->name, strlen(tensor->name), NULL))
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: tensor name: expected UTF-8, found something else", path);
  if (strcmp(tensor->name, "__metadata__") == 0)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: tensor \"__metadata__\": expected a name, found the format's own key", path);
  *n_bytes = sl_dtype_size(tensor->dtype);
  if (*n_bytes == 0)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: tensor " SL_NAME_FORMAT ": expected an element type, found number %d", path,
            tensor->name, (int)tensor->dtype);
  if (tensor->n_dim < 0 || tensor->n_dim > SL_MAX_DIM)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: tensor " SL_NAME_FORMAT ": expected 0 to %d dimensions, found %d", path,
            tensor->name, SL_MAX_DIM, tensor->n_dim);
  for (int i = 0; i < tensor->n_dim; i++)
    if (tensor->shape[i] < 0 || !sl_size_mul(*n_bytes, (size_t)tensor->shape[i], n_bytes) || *n_bytes > PTRDIFF_MAX)
      SL_FAIL(SL_ERROR_ARGUMENT, "%s: tensor " SL_NAME_FORMAT ": shape[%d]: expected a possible size, found %lld", path,
              tensor->name, i, (long long)tensor->shape[i]);
  return SL_OK;
}

static sl_status check_data(const char *path, const sl_tensor *tensor) {
  if (sl_tensor_count(tensor) > 0 && !tensor->data)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: tensor " SL_NAME_FORMAT ": expected %zu bytes of data, found none", path,
            tensor->name, (size_t)sl_tensor_count(tensor) * sl_dtype_size(tensor->dtype));
  return SL_OK;
}

/* Wide elements first, so that everything is aligned without gaps (which the format forbids); ties keep the caller's
 * order, in which the pointers stand. */
static int compare_width(const void *left, const void *right) {
  const sl_tensor *a = *(const sl_tensor *const *)left, *b = *(const sl_tensor *const *)right;
  size_t width_a = sl_dtype_size(a->dtype), width_b = sl_dtype_size(b->dtype);
  if (width_a != width_b) return width_a > width_b ? -1 : 1;
  return a < b ? -1 : a > b;
}

static sl_status fail_memory(const char *path) {
  SL_FAIL(SL_ERROR_MEMORY, "%s: out of memory while building the header", path);
}

static sl_status header_add_metadata(json_t *header, const char *path, const char *const *metadata) {
  json_t *object = json_object();
  if (json_object_set_new(header, "__metadata__", object) != 0) return fail_memory(path);
  for (; metadata[0]; metadata += 2) {
    const char *key = metadata[0], *value = metadata[1];
    if (!value || !sl_utf8_valid(key, strlen(key), NULL) || !sl_utf8_valid(value, strlen(value), NULL))
      SL_FAIL(SL_ERROR_ARGUMENT, "%s: metadata key " SL_NAME_FORMAT ": expected a pair of UTF-8 strings, found none",
              path, key);
    if (json_object_get(object, key))
      SL_FAIL(SL_ERROR_ARGUMENT, "%s: metadata key " SL_NAME_FORMAT ": expected once, found twice", path, key);
    if (json_object_set_new(object, key, json_string(value)) != 0) return fail_memory(path);
  }
  return SL_OK;
}

/* Adds one tensor, whose data begins at *offset, and moves *offset to its end. */
static sl_status header_add_tensor(json_t *header, const char *path, const sl_tensor *tensor, size_t *offset) {
  size_t n_bytes, end;
  SL_TRY(check_tensor(path, tensor, &n_bytes));
  if (!sl_size_add(*offset, n_bytes, &end) || end > PTRDIFF_MAX)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: tensor " SL_NAME_FORMAT ": expected less than 2^63 bytes in all, found more", path,
            tensor->name);
  if (json_object_get(header, tensor->name))
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: tensor " SL_NAME_FORMAT ": expected once, found twice", path, tensor->name);
  json_t *shape = json_array();
  for (int i = 0; i < tensor->n_dim; i++) {
    if (json_array_append_new(shape, json_integer(tensor->shape[i])) != 0) {
      json_decref(shape);
      return fail_memory(path);
    }
  }
  json_t *info = json_pack("{s:s, s:o, s:[I, I]}", "dtype", sl_dtype_name(tensor->dtype), "shape", shape,
                           "data_offsets", (json_int_t)*offset, (json_int_t)end);
  if (json_object_set_new(header, tensor->name, info) != 0) return fail_memory(path);
  *offset = end;
  return SL_OK;
}

/* Length, JSON, and spaces up to a multiple of 8: what stands before the data. */
static sl_status build_header(const char *path, const sl_tensor *const *tensors, int n_tensor,
                              const char *const *metadata, sl_text *out) {
  char *json_text = NULL;
  json_t *header = json_object();
  size_t offset = 0;
  sl_status status = header ? SL_OK : fail_memory(path);
  if (!status && metadata) status = header_add_metadata(header, path, metadata);
  for (int i = 0; i < n_tensor && !status; i++) status = header_add_tensor(header, path, tensors[i], &offset);
  if (!status) status = sl_json_print(header, 0, &json_text);
  if (!status) {
    size_t n_json = strlen(json_text), n_padding = (8 - n_json % 8) % 8;
    uint64_t length = n_json + n_padding;
    if (length > SL_SAFETENSORS_MAX_HEADER)
      status = sl_fail(SL_ERROR_ARGUMENT, "%s: header: expected at most %u bytes, found %zu", path,
                       SL_SAFETENSORS_MAX_HEADER, (size_t)length);
    if (!status) status = sl_text_append(out, &length, sizeof length);
    if (!status) status = sl_text_append(out, json_text, n_json);
    if (!status) status = sl_text_append(out, "       ", n_padding);
  }
  free(json_text);
  json_decref(header);
  return status;
}

/* Where the data comes from: the tensors themselves, or a function and a piece of memory for it. */
typedef struct source {
  sl_tensor_maker make; /* NULL: the tensors */
  void *user;
  unsigned char *piece;
} source;

static sl_status write_tensor(sl_output *output, const sl_tensor *tensor, const source *from) {
  const size_t width = sl_dtype_size(tensor->dtype);
  const int64_t n_element = sl_tensor_count(tensor), n_piece = (int64_t)(PIECE_BYTES / width);
  if (!from->make) return sl_output_write(output, tensor->data, (size_t)n_element * width);
  for (int64_t first = 0; first < n_element; first += n_piece) {
    const int64_t count = n_element - first < n_piece ? n_element - first : n_piece;
    SL_TRY(from->make(from->user, tensor, first, count, from->piece));
    SL_TRY(sl_output_write(output, from->piece, (size_t)count * width));
  }
  return SL_OK;
}

static sl_status write_content(const char *path, const sl_text *header, const sl_tensor *const *tensors, int n_tensor,
                               const source *from) {
  sl_output *output;
  SL_TRY(sl_output_open(&output, path));
  sl_status status = sl_output_write(output, header->data, header->length);
  for (int i = 0; i < n_tensor && !status; i++) status = write_tensor(output, tensors[i], from);
  if (!status) return sl_output_commit(output);
  sl_output_discard(output);
  return status;
}

static sl_status write_file(const char *path, const sl_tensor *tensors, int n_tensor, const char *const *metadata,
                            const source *from) {
  if (n_tensor < 0) SL_FAIL(SL_ERROR_ARGUMENT, "%s: expected 0 or more tensors, found %d", path, n_tensor);
  const sl_tensor **order;
  SL_TRY(SL_ALLOC(order, (size_t)n_tensor, "tensor order"));
  for (int i = 0; i < n_tensor; i++) order[i] = &tensors[i];
  qsort(order, (size_t)n_tensor, sizeof *order, compare_width);
  sl_text header = {0};
  sl_status status = build_header(path, order, n_tensor, metadata, &header);
  for (int i = 0; i < n_tensor && !status && !from->make; i++) status = check_data(path, order[i]);
  if (!status) status = write_content(path, &header, order, n_tensor, from);
  sl_text_dispose(&header);
  free(order);
  return status;
}

sl_status sl_safetensors_write(const char *path, const sl_tensor *tensors, int n_tensor, const char *const *metadata) {
  const source from = {.make = NULL};
  return write_file(path, tensors, n_tensor, metadata, &from);
}

sl_status sl_safetensors_write_made(const char *path, const sl_tensor *tensors, int n_tensor,
                                    const char *const *metadata, sl_tensor_maker make, void *user) {
  source from = {.make = make, .user = user};
  SL_TRY(SL_ALLOC(from.piece, PIECE_BYTES, "piece of a tensor"));
  const sl_status status = write_file(path, tensors, n_tensor, metadata, &from);
  free(from.piece);
  return status;
}
