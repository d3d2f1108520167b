/* The header of a safetensors file: 8 bytes of length (little-endian), that many bytes of JSON, then the data.
 *   {"__metadata__": {string: string}, name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
 * Offsets count from the end of the header; together the tensors must cover the data exactly.
 * Format: https://github.com/huggingface/safetensors#format */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "tensor/safetensors_file.h"

#define MAX_DEPTH 8 /* the format needs 3 */

typedef struct placed_tensor {
  sl_tensor tensor;
  size_t begin, end; /* bytes in the data */
} placed_tensor;

void sl_shard_free_tensors(sl_tensor *tensors, int n_tensor) {
  for (int i = 0; i < n_tensor; i++) free((char *)tensors[i].name);
  free(tensors);
}

/* jansson would follow 2048 levels. Brackets inside strings do not count. */
static bool depth_within(const char *json, size_t n_bytes, int max_depth) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < n_bytes; i++) {
    if (in_string) {
      if (json[i] == '\\') i++;
      else if (json[i] == '"') in_string = false;
    } else if (json[i] == '"') {
      in_string = true;
    } else if (json[i] == '{' || json[i] == '[') {
      if (++depth > max_depth) return false;
    } else if (json[i] == '}' || json[i] == ']') {
      depth--;
    }
  }
  return true;
}

/* Where the JSON lies. */
static sl_status find_header(const sl_shard *shard, const char **json, size_t *n_json) {
  if (shard->n_bytes < 8)
    SL_FAIL(SL_ERROR_FORMAT, "%s: expected 8 bytes of header length, found a file of %zu bytes", shard->path,
            shard->n_bytes);
  uint64_t length;
  memcpy(&length, shard->bytes, 8);
  if (length > SL_SAFETENSORS_MAX_HEADER)
    SL_FAIL(SL_ERROR_FORMAT, "%s: header length: expected at most %u bytes, found %llu", shard->path,
            SL_SAFETENSORS_MAX_HEADER, (unsigned long long)length);
  if (length > shard->n_bytes - 8)
    SL_FAIL(SL_ERROR_FORMAT, "%s: header length: expected at most the %zu bytes left in the file, found %llu",
            shard->path, shard->n_bytes - 8, (unsigned long long)length);
  *json = (const char *)shard->bytes + 8;
  *n_json = (size_t)length;
  if (length == 0 || **json != '{')
    SL_FAIL(SL_ERROR_FORMAT, "%s: header: expected '{' at byte 8, found %s", shard->path,
            length == 0 ? "an empty header" : "something else");
  if (!depth_within(*json, *n_json, MAX_DEPTH))
    SL_FAIL(SL_ERROR_FORMAT, "%s: header: expected JSON at most %d levels deep, found more", shard->path, MAX_DEPTH);
  return SL_OK;
}

static sl_status check_metadata(const char *path, json_t *metadata) {
  if (!json_is_object(metadata))
    SL_FAIL(SL_ERROR_FORMAT, "%s: __metadata__: expected an object of strings, found another type", path);
  const char *key;
  json_t *value;
  json_object_foreach(metadata, key, value) {
    if (!json_is_string(value))
      SL_FAIL(SL_ERROR_FORMAT, "%s: __metadata__: key " SL_NAME_FORMAT ": expected a string, found another type", path,
              key);
  }
  return SL_OK;
}

static sl_status read_dtype(const char *path, const char *name, json_t *info, sl_dtype *dtype) {
  const char *found = json_string_value(json_object_get(info, "dtype"));
  if (!found)
    SL_FAIL(SL_ERROR_FORMAT, "%s: tensor " SL_NAME_FORMAT ": dtype: expected a string, found none", path, name);
  for (int i = 0; i < SL_DTYPE_COUNT; i++) {
    if (strcmp(found, sl_dtype_name((sl_dtype)i)) != 0) continue;
    *dtype = (sl_dtype)i;
    return SL_OK;
  }
  SL_FAIL(SL_ERROR_UNSUPPORTED,
          "%s: tensor " SL_NAME_FORMAT
          ": dtype: expected F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL, found \"%.40s\"",
          path, name, found);
}

/* Also gives the bytes that the shape asks for. */
static sl_status read_shape(const char *path, json_t *info, sl_tensor *tensor, size_t *n_bytes) {
  const char *name = tensor->name;
  json_t *shape = json_object_get(info, "shape");
  if (!json_is_array(shape))
    SL_FAIL(SL_ERROR_FORMAT, "%s: tensor " SL_NAME_FORMAT ": shape: expected an array, found none", path, name);
  if (json_array_size(shape) > SL_MAX_DIM)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: tensor " SL_NAME_FORMAT ": shape: expected at most %d dimensions, found %zu",
            path, name, SL_MAX_DIM, json_array_size(shape));
  *n_bytes = sl_dtype_size(tensor->dtype);
  tensor->n_dim = (int)json_array_size(shape);
  for (int i = 0; i < tensor->n_dim; i++) {
    json_t *dim = json_array_get(shape, (size_t)i);
    if (!json_is_integer(dim))
      SL_FAIL(SL_ERROR_FORMAT, "%s: tensor " SL_NAME_FORMAT ": shape[%d]: expected an integer, found another type",
              path, name, i);
    tensor->shape[i] = json_integer_value(dim);
    if (tensor->shape[i] < 0)
      SL_FAIL(SL_ERROR_FORMAT, "%s: tensor " SL_NAME_FORMAT ": shape[%d]: expected 0 or more, found %lld", path, name,
              i, (long long)tensor->shape[i]);
    if (!sl_size_mul(*n_bytes, (size_t)tensor->shape[i], n_bytes) || *n_bytes > PTRDIFF_MAX)
      SL_FAIL(SL_ERROR_FORMAT, "%s: tensor " SL_NAME_FORMAT ": shape: expected a size below 2^63 bytes, found more",
              path, name);
  }
  return SL_OK;
}

static sl_status read_offsets(const char *path, json_t *info, size_t n_data, placed_tensor *entry) {
  const char *name = entry->tensor.name;
  json_t *offsets = json_object_get(info, "data_offsets");
  json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
  if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
    SL_FAIL(SL_ERROR_FORMAT, "%s: tensor " SL_NAME_FORMAT ": data_offsets: expected two integers, found something else",
            path, name);
  json_int_t b = json_integer_value(begin), e = json_integer_value(end);
  if (b < 0 || e < b || (uint64_t)e > n_data)
    SL_FAIL(SL_ERROR_FORMAT,
            "%s: tensor " SL_NAME_FORMAT ": data_offsets: expected 0 <= begin <= end <= %zu, found [%lld, %lld]", path,
            name, n_data, (long long)b, (long long)e);
  entry->begin = (size_t)b;
  entry->end = (size_t)e;
  return SL_OK;
}

static sl_status read_entry(const char *path, const char *name, json_t *info, const unsigned char *data, size_t n_data,
                            placed_tensor *entry) {
  size_t n_bytes;
  char *copy;
  SL_TRY(sl_strdup(&copy, name));
  entry->tensor.name = copy; /* freed with the entries, whatever happens below */
  if (!json_is_object(info))
    SL_FAIL(SL_ERROR_FORMAT, "%s: tensor " SL_NAME_FORMAT ": expected an object, found another type", path, name);
  SL_TRY(read_dtype(path, name, info, &entry->tensor.dtype));
  SL_TRY(read_shape(path, info, &entry->tensor, &n_bytes));
  SL_TRY(read_offsets(path, info, n_data, entry));
  if (entry->end - entry->begin != n_bytes)
    SL_FAIL(SL_ERROR_FORMAT,
            "%s: tensor " SL_NAME_FORMAT ": expected %zu bytes for its dtype and shape, found %zu in data_offsets",
            path, name, n_bytes, entry->end - entry->begin);
  entry->tensor.data = data + entry->begin;
  return SL_OK;
}

/* Empty tensors share their offset with a neighbour, so the end decides next; then the name, for a stable order. */
static int compare_entries(const void *left, const void *right) {
  const placed_tensor *a = left, *b = right;
  if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
  if (a->end != b->end) return a->end < b->end ? -1 : 1;
  return strcmp(a->tensor.name, b->tensor.name);
}

/* Neither overlaps nor holes: bytes that no tensor names would be a hiding place. */
static sl_status check_cover(const char *path, const placed_tensor *entries, int n_entry, size_t n_data) {
  size_t covered = 0;
  for (int i = 0; i < n_entry; i++) {
    const placed_tensor *entry = &entries[i];
    if (entry->begin != covered)
      SL_FAIL(SL_ERROR_FORMAT, "%s: tensor " SL_NAME_FORMAT ": %s: expected its data to begin at %zu, found %zu", path,
              entry->tensor.name, entry->begin < covered ? "overlap with the tensor before it" : "hole before it",
              covered, entry->begin);
    covered = entry->end;
  }
  if (covered != n_data)
    SL_FAIL(SL_ERROR_FORMAT, "%s: data: expected %zu bytes for all tensors, found %zu", path, covered, n_data);
  return SL_OK;
}

static sl_status read_entries(const sl_shard *shard, json_t *header, size_t n_json, placed_tensor *entries,
                              int *n_entry) {
  const unsigned char *data = shard->bytes + 8 + n_json;
  size_t n_data = shard->n_bytes - 8 - n_json;
  const char *key;
  json_t *value;
  json_object_foreach(header, key, value) {
    if (strcmp(key, "__metadata__") == 0) SL_TRY(check_metadata(shard->path, value));
    else SL_TRY(read_entry(shard->path, key, value, data, n_data, &entries[(*n_entry)++]));
  }
  qsort(entries, (size_t)*n_entry, sizeof *entries, compare_entries);
  return check_cover(shard->path, entries, *n_entry, n_data);
}

sl_status sl_shard_read_header(const sl_shard *shard, sl_tensor **tensors, int *n_tensor) {
  *tensors = NULL;
  *n_tensor = 0;
  const char *json;
  size_t n_json;
  SL_TRY(find_header(shard, &json, &n_json));
  json_t *header;
  SL_TRY(sl_json_parse(&header, json, n_json, shard->path));
  placed_tensor *entries = NULL;
  int n_entry = 0;
  sl_status status = SL_ALLOC(entries, json_object_size(header), "safetensors header");
  if (!status) status = read_entries(shard, header, n_json, entries, &n_entry);
  if (!status) status = SL_ALLOC(*tensors, (size_t)n_entry, "tensor list");
  for (int i = 0; i < n_entry; i++) {
    if (status) free((char *)entries[i].tensor.name);
    else (*tensors)[i] = entries[i].tensor;
  }
  if (!status) *n_tensor = n_entry;
  free(entries);
  json_decref(header);
  return status;
}
