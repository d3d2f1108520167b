/* The tensors of a PyTorch checkpoint file (pytorch_model.bin): a ZIP archive with FOLDER/data.pkl, a pickle of
 * dictionaries of tensors, and FOLDER/data/KEY, the bytes of each storage. Element (i, j, ...) of a tensor stands in
 * its storage at
 *   offset + i * stride[0] + j * stride[1] + ...
 * Tensors that lie row by row are views into the file; others (transposed, expanded) are copied when the file is
 * opened.
 *
 * What torch.save writes: torch/serialization.py, torch/_utils.py and caffe2/serialize/inline_container.h in
 * PyTorch. */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "tensor/torch_internal.h"

#define MAX_PICKLE (64u << 20) /* bytes; a thousand tensors take about 200,000 */
#define MAX_DEPTH 16           /* dictionaries inside each other: {"model": {...}} needs 2 */
#define MAX_NAME 4096          /* bytes of a tensor's name */

typedef struct placed_tensor {
  sl_tensor tensor;
  size_t begin; /* of its first element, in the file */
} placed_tensor;

typedef struct reader {
  sl_shard *shard;
  sl_zip zip;
  placed_tensor *entries;
  size_t n_entry, capacity;
  size_t copy_budget; /* bytes that may still be copied */
} reader;

/* ---- one tensor ---- */

static sl_status fail_tensor(const reader *r, const char *name, sl_status status, const char *what) {
  SL_FAIL(status, "%s: tensor " SL_NAME_FORMAT ": %s", r->shard->path, name, what);
}

/* The storage's bytes, which must be as many as the pickle says. */
static sl_status find_storage(const reader *r, const char *name, const sl_pickle_value *storage, sl_dtype dtype,
                              const sl_zip_entry **out, int64_t *n_element) {
  const sl_pickle_value *items = storage->node->items;
  const bool untyped = items[1].global->role == SL_ROLE_UNTYPED_STORAGE; /* counts bytes */
  const sl_zip_entry *entry = sl_zip_find(&r->zip, "data/", items[2].text, items[2].n_text);
  if (!entry) return fail_tensor(r, name, SL_ERROR_FORMAT, "expected its storage in the archive, found none");
  const size_t width = sl_dtype_size(dtype);
  const int64_t count = items[4].integer;
  size_t n_bytes;
  if (count < 0 || !sl_size_mul((size_t)count, untyped ? 1 : width, &n_bytes) || n_bytes != entry->n_bytes)
    SL_FAIL(SL_ERROR_FORMAT,
            "%s: tensor " SL_NAME_FORMAT ": expected a storage of %lld elements of %zu bytes, found %zu bytes",
            r->shard->path, name, (long long)count, untyped ? 1 : width, entry->n_bytes);
  *out = entry;
  *n_element = (int64_t)(n_bytes / width);
  return SL_OK;
}

/* Sizes into the tensor, strides beside it, and the number of elements. */
static sl_status read_sizes(const reader *r, const sl_pickle_value *items, sl_tensor *tensor, int64_t *strides) {
  const sl_pickle_node *sizes = items[2].node, *steps = items[3].node;
  if (sizes->n_item != steps->n_item)
    return fail_tensor(r, tensor->name, SL_ERROR_FORMAT, "expected as many strides as sizes, found another number");
  if (sizes->n_item > SL_MAX_DIM)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: tensor " SL_NAME_FORMAT ": expected at most %d dimensions, found %zu",
            r->shard->path, tensor->name, SL_MAX_DIM, sizes->n_item);
  size_t n_bytes = sl_dtype_size(tensor->dtype);
  tensor->n_dim = (int)sizes->n_item;
  for (int i = 0; i < tensor->n_dim; i++) {
    const sl_pickle_value size = sizes->items[i], stride = steps->items[i];
    if (size.kind != SL_PICKLE_INT || stride.kind != SL_PICKLE_INT || size.integer < 0 || stride.integer < 0)
      return fail_tensor(r, tensor->name, SL_ERROR_FORMAT, "expected sizes and strides of 0 or more, found others");
    if (!sl_size_mul(n_bytes, (size_t)size.integer, &n_bytes) || n_bytes > PTRDIFF_MAX)
      return fail_tensor(r, tensor->name, SL_ERROR_FORMAT, "expected a size below 2^63 bytes, found more");
    tensor->shape[i] = size.integer;
    strides[i] = size.integer > 1 ? stride.integer : 0; /* of one element it says nothing, and may be anything */
  }
  return SL_OK;
}

/* The last element lies in the storage. An empty tensor has none. */
static sl_status check_reach(const reader *r, const sl_tensor *tensor, const int64_t *strides, int64_t offset,
                             int64_t n_element) {
  int64_t last = offset, step;
  bool inside = offset >= 0 && offset <= n_element;
  if (inside && sl_tensor_count(tensor) == 0) return SL_OK;
  for (int i = 0; i < tensor->n_dim && inside; i++)
    inside = !__builtin_mul_overflow(tensor->shape[i] - 1, strides[i], &step) &&
             !__builtin_add_overflow(last, step, &last) && last < n_element;
  if (inside && last < n_element) return SL_OK;
  SL_FAIL(SL_ERROR_FORMAT,
          "%s: tensor " SL_NAME_FORMAT ": expected its elements among the %lld of its storage, found some outside",
          r->shard->path, tensor->name, (long long)n_element);
}

/* Row-major without gaps. Strides of sizes 0 and 1 say nothing. */
static bool is_contiguous(const sl_tensor *tensor, const int64_t *strides) {
  int64_t expected = 1;
  if (sl_tensor_count(tensor) == 0) return true;
  for (int i = tensor->n_dim - 1; i >= 0; i--) {
    if (tensor->shape[i] != 1 && strides[i] != expected) return false;
    expected *= tensor->shape[i];
  }
  return true;
}

static void gather(unsigned char *out, const unsigned char *first, const sl_tensor *tensor, const int64_t *strides) {
  const size_t width = sl_dtype_size(tensor->dtype);
  const int64_t count = sl_tensor_count(tensor);
  int64_t index[SL_MAX_DIM] = {0}, at = 0; /* where the tensor is, and its element in the storage */
  for (int64_t i = 0; i < count; i++) {
    memcpy(out + (size_t)i * width, first + (size_t)at * width, width);
    for (int k = tensor->n_dim - 1; k >= 0; k--) {
      at += strides[k];
      if (++index[k] < tensor->shape[k]) break;
      at -= strides[k] * tensor->shape[k];
      index[k] = 0;
    }
  }
}

/* Puts the elements in row-major order in memory of the shard's. Expanded tensors can name more elements than the file
 * holds, so the copies of a file may not be larger than it. */
static sl_status copy_tensor(reader *r, sl_tensor *tensor, const int64_t *strides) {
  const size_t n_bytes = (size_t)sl_tensor_count(tensor) * sl_dtype_size(tensor->dtype);
  if (n_bytes > r->copy_budget)
    SL_FAIL(SL_ERROR_UNSUPPORTED,
            "%s: tensor " SL_NAME_FORMAT ": expected rows without gaps, found strides that repeat elements beyond the "
            "file's size; save tensor.contiguous() instead",
            r->shard->path, tensor->name);
  sl_shard *shard = r->shard;
  unsigned char *copy;
  SL_TRY(SL_REALLOC(shard->copies, (size_t)shard->n_copy + 1, "tensor copies"));
  SL_TRY(SL_ALLOC(copy, n_bytes, "tensor copy"));
  shard->copies[shard->n_copy++] = copy;
  r->copy_budget -= n_bytes;
  gather(copy, tensor->data, tensor, strides);
  tensor->data = copy;
  return SL_OK;
}

static sl_status read_tensor(reader *r, const sl_pickle_node *node, placed_tensor *out) {
  const sl_pickle_value *items = node->items, *storage = &items[0];
  sl_tensor *tensor = &out->tensor;
  const sl_zip_entry *entry;
  int64_t n_element, strides[SL_MAX_DIM];
  const int64_t offset = items[1].integer;
  tensor->dtype = items[4].kind == SL_PICKLE_GLOBAL ? items[4].global->dtype
                                                    : storage->node->items[1].global->dtype;
  SL_TRY(find_storage(r, tensor->name, storage, tensor->dtype, &entry, &n_element));
  SL_TRY(read_sizes(r, items, tensor, strides));
  SL_TRY(check_reach(r, tensor, strides, offset, n_element));
  out->begin = entry->begin + (size_t)offset * sl_dtype_size(tensor->dtype);
  tensor->data = r->shard->bytes + out->begin;
  return is_contiguous(tensor, strides) ? SL_OK : copy_tensor(r, tensor, strides);
}

/* ---- the tree of dictionaries ---- */

/* "outer.inner" into a new string. */
static sl_status join_name(const reader *r, const char *outer, const sl_pickle_value *key, char **out) {
  const size_t n_outer = strlen(outer), n_dot = n_outer > 0;
  if (n_outer + n_dot + key->n_text > MAX_NAME)
    SL_FAIL(SL_ERROR_FORMAT, "%s: tensor name: expected at most %d bytes, found more", r->shard->path, MAX_NAME);
  if (memchr(key->text, 0, key->n_text) || !sl_utf8_valid(key->text, key->n_text, NULL))
    SL_FAIL(SL_ERROR_FORMAT, "%s: tensor name inside \"%.200s\": expected UTF-8 without NUL, found something else",
            r->shard->path, outer);
  SL_TRY(SL_ALLOC(*out, n_outer + n_dot + key->n_text + 1, "tensor name"));
  memcpy(*out, outer, n_outer);
  if (n_dot) (*out)[n_outer] = '.';
  memcpy(*out + n_outer + n_dot, key->text, key->n_text);
  return SL_OK;
}

static sl_status add_tensor(reader *r, const char *name, const sl_pickle_node *node) {
  if (r->n_entry == r->capacity) {
    const size_t larger = r->capacity ? 2 * r->capacity : 64; /* bounded by the pickle's opcodes */
    SL_TRY(SL_REALLOC(r->entries, larger, "tensor list"));
    r->capacity = larger;
  }
  placed_tensor *entry = &r->entries[r->n_entry];
  char *copy;
  SL_TRY(sl_strdup(&copy, name));
  *entry = (placed_tensor){.tensor.name = copy};
  r->n_entry++; /* the name is freed with the entries, whatever happens below */
  return read_tensor(r, node, entry);
}

/* Adds the tensors of a dictionary under their dotted names. What is no tensor (step counts, settings) is passed over.
 * A pickle may be a graph with cycles; plain weights are a tree. */
static sl_status add_tensors(reader *r, const char *outer, sl_pickle_node *dict, int depth) {
  if (dict->seen)
    SL_FAIL(SL_ERROR_FORMAT, "%s: pickle: dictionary \"%.200s\": expected in one place, found in two", r->shard->path,
            outer);
  if (depth == MAX_DEPTH)
    SL_FAIL(SL_ERROR_FORMAT, "%s: pickle: expected at most %d dictionaries inside each other, found more",
            r->shard->path, MAX_DEPTH);
  dict->seen = true;
  sl_status status = SL_OK;
  for (size_t i = 0; i < dict->n_item && !status; i += 2) {
    const sl_pickle_value *key = &dict->items[i], *value = &dict->items[i + 1];
    if (value->kind != SL_PICKLE_TENSOR && value->kind != SL_PICKLE_DICT) continue;
    char *name;
    SL_TRY(join_name(r, outer, key, &name));
    status = value->kind == SL_PICKLE_TENSOR ? add_tensor(r, name, value->node)
                                             : add_tensors(r, name, value->node, depth + 1);
    free(name);
  }
  return status;
}

/* ---- the file ---- */

static sl_status check_byte_order(const reader *r) {
  const sl_zip_entry *entry = sl_zip_find(&r->zip, "byteorder", "", 0); /* older files have none, and are little */
  if (!entry || (entry->n_bytes == 6 && memcmp(r->shard->bytes + entry->begin, "little", 6) == 0)) return SL_OK;
  SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: byte order: expected little, found another", r->shard->path);
}

static sl_status read_archive(reader *r) {
  const char *path = r->shard->path;
  const sl_zip_entry *entry = sl_zip_find(&r->zip, "data.pkl", "", 0);
  if (!entry) SL_FAIL(SL_ERROR_FORMAT, "%s: expected data.pkl in the archive (a file of torch.save), found none", path);
  if (entry->n_bytes > MAX_PICKLE)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: pickle: expected at most %u bytes, found %zu", path, MAX_PICKLE, entry->n_bytes);
  SL_TRY(check_byte_order(r));
  sl_pickle pickle;
  SL_TRY(sl_pickle_load(&pickle, path, r->shard->bytes + entry->begin, entry->n_bytes));
  sl_status status = SL_OK;
  if (pickle.root.kind == SL_PICKLE_DICT)
    status = add_tensors(r, "", pickle.root.node, 0);
  else
    status = sl_fail(SL_ERROR_FORMAT, "%s: expected a dictionary of tensors, found %s", path,
                     sl_pickle_kind_name(pickle.root.kind));
  sl_pickle_dispose(&pickle);
  return status;
}

/* Views of one storage share their beginning; then the name, for a stable order. */
static int compare_entries(const void *left, const void *right) {
  const placed_tensor *a = left, *b = right;
  if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
  return strcmp(a->tensor.name, b->tensor.name);
}

/* PyTorch before 1.6, or _use_new_zipfile_serialization=False: several pickles and then the bytes. It begins with the
 * pickled magic number 0x1950a86a20f9469cfc6c. */
static sl_status refuse_legacy(const sl_shard *shard) {
  static const unsigned char magic[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46,
                                        0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};
  if (shard->n_bytes < sizeof magic || memcmp(shard->bytes, magic, sizeof magic) != 0) return SL_OK;
  SL_FAIL(SL_ERROR_UNSUPPORTED,
          "%s: expected a ZIP file, found the format of PyTorch before 1.6; if you trust the file, convert it in "
          "Python: torch.save(torch.load(FILE, map_location=\"cpu\", weights_only=True), FILE)",
          shard->path);
}

sl_status sl_shard_read_torch(sl_shard *shard, sl_tensor **tensors, int *n_tensor) {
  *tensors = NULL;
  *n_tensor = 0;
  SL_TRY(refuse_legacy(shard));
  SL_TRY(sl_refuse_pointer(shard->path, shard->bytes, shard->n_bytes, "weights"));
  reader r = {.shard = shard, .copy_budget = shard->n_bytes};
  SL_TRY(sl_zip_open(&r.zip, shard->path, shard->bytes, shard->n_bytes));
  sl_status status = read_archive(&r);
  if (!status && r.n_entry == 0)
    status = sl_fail(SL_ERROR_FORMAT, "%s: expected tensors in its dictionary, found none", shard->path);
  if (!status) status = SL_ALLOC(*tensors, r.n_entry, "tensor list");
  if (!status) qsort(r.entries, r.n_entry, sizeof *r.entries, compare_entries);
  for (size_t i = 0; i < r.n_entry; i++) {
    if (status) free((char *)r.entries[i].tensor.name);
    else (*tensors)[i] = r.entries[i].tensor;
  }
  if (!status) *n_tensor = (int)r.n_entry;
  free(r.entries);
  sl_zip_dispose(&r.zip);
  return status;
}
