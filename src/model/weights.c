/* Tensor look-up by role over a folder's safetensors. */
#include "model/weights.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

typedef struct entry {
  char *canonical;
  const sl_tensor *tensor;
  bool used;
} entry;

struct sl_weights {
  const char *dir; /* borrowed, for messages */
  sl_safetensors *file;
  const sl_family *family;
  const sl_config *config;
  entry *entries; /* sorted by canonical name */
  int n_entry, n_used;
  uint64_t hash, bytes_used;
};

/* Applies the family's renames, in order, each at most once. */
static sl_status canonical_name(const sl_family *family, const char *name, char **out) {
  sl_text text = {0};
  SL_TRY(sl_text_append_string(&text, name));
  for (int i = 0; i < family->n_rename; i++) {
    const sl_rename *rename = &family->renames[i];
    const size_t n = strlen(rename->from);
    if (strncmp(text.data, rename->from, n) != 0) continue;
    sl_text renamed = {0};
    sl_status status = sl_text_format(&renamed, "%s%s", rename->to, text.data + n);
    sl_text_dispose(&text);
    if (status != SL_OK) {
      sl_text_dispose(&renamed);
      return status;
    }
    text = renamed;
  }
  *out = text.data;
  return SL_OK;
}

static int compare_entries(const void *a, const void *b) {
  return strcmp(((const entry *)a)->canonical, ((const entry *)b)->canonical);
}

static sl_status index_names(sl_weights *w) {
  w->n_entry = sl_safetensors_count(w->file);
  SL_TRY(SL_ALLOC(w->entries, (size_t)w->n_entry, "tensor index"));
  for (int i = 0; i < w->n_entry; i++) {
    w->entries[i].tensor = sl_safetensors_at(w->file, i);
    SL_TRY(canonical_name(w->family, w->entries[i].tensor->name, &w->entries[i].canonical));
  }
  qsort(w->entries, (size_t)w->n_entry, sizeof *w->entries, compare_entries);
  for (int i = 1; i < w->n_entry; i++) {
    const sl_tensor *a = w->entries[i - 1].tensor, *b = w->entries[i].tensor;
    if (strcmp(w->entries[i - 1].canonical, w->entries[i].canonical) == 0)
      SL_FAIL(SL_ERROR_FORMAT, "%s: tensors \"%s\" and \"%s\" are the same weight under two names",
              sl_safetensors_file_of(w->file, b), a->name, b->name);
  }
  return SL_OK;
}

sl_status sl_weights_open(sl_weights **out, const char *dir, const sl_family *family, const sl_config *config) {
  *out = NULL;
  sl_weights *w = NULL;
  SL_TRY(SL_ALLOC(w, 1, "weights"));
  w->dir = dir;
  w->family = family;
  w->config = config;
  sl_status status = sl_safetensors_open(&w->file, dir);
  if (status == SL_OK) status = index_names(w);
  if (status != SL_OK) {
    sl_weights_close(w);
    return status;
  }
  *out = w;
  return SL_OK;
}

void sl_weights_close(sl_weights *w) {
  if (!w) return;
  for (int i = 0; w->entries && i < w->n_entry; i++) free(w->entries[i].canonical);
  free(w->entries);
  sl_safetensors_close(w->file);
  free(w);
}

static const sl_weight_row *find_row(const sl_family *family, sl_role role) {
  for (int i = 0; i < family->n_weight; i++)
    if (family->weights[i].role == role) return &family->weights[i];
  return NULL;
}

static bool needed(const sl_config *config, sl_need need) {
  switch (need) {
    case SL_NEED_ALWAYS: return true;
    case SL_NEED_UNLESS_TIED: return false;
    case SL_NEED_ATTENTION_BIAS: return config->text.attention_bias;
    case SL_NEED_MLP_BIAS: return config->text.mlp_bias;
    case SL_NEED_PROJECTOR_BIAS: return config->projector.bias;
  }
  return true;
}

/* Shape as text: "[32, 64]". */
static void format_shape(char out[128], const int64_t *shape, int n_dim) {
  size_t used = (size_t)snprintf(out, 128, "[");
  for (int i = 0; i < n_dim; i++)
    used += (size_t)snprintf(out + used, 128 - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
  snprintf(out + used, 128 - used, "]");
}

static sl_status check_tensor(const sl_weights *w, const sl_weight_row *row, const sl_tensor *tensor) {
  const char *file = sl_safetensors_file_of(w->file, tensor);
  int64_t expected[4];
  int n_dim = 0;
  while (n_dim < 4 && row->shape[n_dim] != SL_DIM_NONE) {
    expected[n_dim] = sl_dim_size(w->config, row->shape[n_dim]);
    n_dim++;
  }
  bool same = tensor->n_dim == n_dim;
  for (int i = 0; same && i < n_dim; i++) same = tensor->shape[i] == expected[i];
  if (!same) {
    char want[128], found[128];
    format_shape(want, expected, n_dim);
    format_shape(found, tensor->shape, tensor->n_dim);
    SL_FAIL(SL_ERROR_FORMAT, "%s: tensor \"%s\" has shape %s; config.json makes it %s", file, tensor->name, found,
            want);
  }
  if (tensor->dtype != SL_F32 && tensor->dtype != SL_F16 && tensor->dtype != SL_BF16)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: tensor \"%s\" is %s; expected F32, F16 or BF16", file, tensor->name,
            sl_dtype_name(tensor->dtype));
  return SL_OK;
}

sl_status sl_weights_get(sl_weights *w, sl_role role, int layer, const sl_tensor **out) {
  *out = NULL;
  const sl_weight_row *row = find_row(w->family, role);
  if (!row || (row->need != SL_NEED_UNLESS_TIED && !needed(w->config, row->need))) return SL_OK;
  char name[160];
  const char *mark = strstr(row->name, "{i}");
  if (mark)
    snprintf(name, sizeof name, "%.*s%d%s", (int)(mark - row->name), row->name, layer, mark + 3);
  else
    snprintf(name, sizeof name, "%s", row->name);
  const entry key = {.canonical = name};
  entry *found = bsearch(&key, w->entries, (size_t)w->n_entry, sizeof *w->entries, compare_entries);
  if (!found) {
    if (row->need == SL_NEED_UNLESS_TIED) return SL_OK;
    SL_FAIL(SL_ERROR_FORMAT,
            "%s: tensor \"%s\" is missing: no spelling of that name is among the %d tensors of the folder", w->dir,
            name, w->n_entry);
  }
  SL_TRY(check_tensor(w, row, found->tensor));
  w->n_used += !found->used;
  found->used = true;
  *out = found->tensor;
  return SL_OK;
}

/* First NaN or infinity among 2-byte floats with the given exponent mask, or -1. */
static int64_t first_bad_16(const void *data, int64_t count, uint16_t mask) {
  const unsigned char *bytes = data;
  for (int64_t i = 0; i < count; i++) {
    uint16_t bits;
    memcpy(&bits, bytes + 2 * i, 2);
    if ((bits & mask) == mask) return i;
  }
  return -1;
}

static int64_t first_bad_32(const void *data, int64_t count) {
  const unsigned char *bytes = data;
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, bytes + 4 * i, 4);
    if ((bits & 0x7f800000u) == 0x7f800000u) return i;
  }
  return -1;
}

void sl_weights_done(sl_weights *w, const sl_tensor *tensor, int64_t *bad_index) {
  const int64_t count = sl_tensor_count(tensor);
  const size_t bytes = (size_t)count * sl_dtype_size(tensor->dtype);
  *bad_index = tensor->dtype == SL_F32   ? first_bad_32(tensor->data, count)
               : tensor->dtype == SL_F16 ? first_bad_16(tensor->data, count, 0x7c00)
                                         : first_bad_16(tensor->data, count, 0x7f80);
  const uint64_t header = XXH3_64bits_withSeed(tensor->name, strlen(tensor->name), (XXH64_hash_t)tensor->dtype);
  const uint64_t shape = XXH3_64bits_withSeed(tensor->shape, (size_t)tensor->n_dim * sizeof *tensor->shape, header);
  /* A sum does not depend on the order in which tensors are loaded. */
  w->hash += XXH3_64bits_withSeed(tensor->data, bytes, shape);
  w->bytes_used += bytes;
  sl_safetensors_drop(w->file, tensor);
}

int sl_weights_unused(const sl_weights *w, const char **names, int max) {
  int n = 0;
  for (int i = 0; i < w->n_entry; i++) {
    bool known = w->entries[i].used;
    for (const char *const *glob = w->family->ignored; !known && *glob; glob++)
      known = sl_glob_match(*glob, w->entries[i].canonical);
    if (known) continue;
    if (n < max) names[n] = w->entries[i].tensor->name;
    n++;
  }
  return n;
}

int sl_weights_found(const sl_weights *w) { return w->n_used; }
uint64_t sl_weights_bytes(const sl_weights *w) { return w->bytes_used; }
uint64_t sl_weights_hash(const sl_weights *w) { return w->hash; }
