/* Tensor look-up by role over a folder's tensors, and those of the tower's own folder. */
#include "model/weights.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "model/tower_folder.h"

typedef struct entry {
  char *canonical;
  const sl_tensor *tensor;
  sl_safetensors *file; /* that it is in */
  bool used;
} entry;

/* The rows of one part, whose names stand below `prefix`. */
typedef struct table {
  const char *prefix;
  const sl_weight_row *rows;
  int n_row;
} table;

#define N_TABLE 4
#define MAX_NAME 160

struct sl_weights {
  const char *dir, *vision_dir; /* borrowed, for messages */
  sl_safetensors *file, *vision_file; /* vision_file NULL: the tower is in the folder itself */
  const sl_family *family;
  const sl_config *config;
  table tables[N_TABLE];
  entry *entries; /* sorted by canonical name */
  int n_entry, n_used;
  uint64_t hash, bytes_used;
};

/* The name in `prefix` after the family's renames, in order, each at most once. */
static sl_status canonical_name(const sl_family *family, const char *prefix, const char *name, char **out) {
  sl_text text = {0};
  SL_TRY(sl_text_format(&text, "%s%s", prefix, name));
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

static sl_status add_names(sl_weights *w, sl_safetensors *file, const char *prefix) {
  for (int i = 0; i < sl_safetensors_count(file); i++) {
    entry *e = &w->entries[w->n_entry];
    *e = (entry){.tensor = sl_safetensors_at(file, i), .file = file};
    SL_TRY(canonical_name(w->family, prefix, e->tensor->name, &e->canonical));
    w->n_entry++;
  }
  return SL_OK;
}

static bool holds_part(const sl_weights *w, const char *prefix) {
  for (int i = 0; i < w->n_entry; i++)
    if (strncmp(w->entries[i].canonical, prefix, strlen(prefix)) == 0) return true;
  return false;
}

/* A tower that was trained further is in the folder itself, and goes before the one it began with. */
static sl_status add_tower(sl_weights *w) {
  const char *prefix = w->family->vision.prefix;
  if (!w->family->tower_apart || holds_part(w, prefix)) return SL_OK;
  if (!w->vision_dir)
    return sl_tower_folder_lacks(w->dir, json_string_value(json_object_get(w->config->json, "mm_vision_tower")));
  SL_TRY(sl_safetensors_open(&w->vision_file, w->vision_dir));
  const size_t n = (size_t)w->n_entry + (size_t)sl_safetensors_count(w->vision_file);
  SL_TRY(SL_REALLOC(w->entries, n, "tensor index"));
  return add_names(w, w->vision_file, prefix);
}

static sl_status index_names(sl_weights *w) {
  SL_TRY(SL_ALLOC(w->entries, (size_t)sl_safetensors_count(w->file), "tensor index"));
  SL_TRY(add_names(w, w->file, ""));
  SL_TRY(add_tower(w));
  qsort(w->entries, (size_t)w->n_entry, sizeof *w->entries, compare_entries);
  for (int i = 1; i < w->n_entry; i++) {
    const entry *a = &w->entries[i - 1], *b = &w->entries[i];
    if (strcmp(a->canonical, b->canonical) == 0)
      SL_FAIL(SL_ERROR_FORMAT, "%s: tensors \"%s\" and \"%s\" are the same weight under two names",
              sl_safetensors_file_of(b->file, b->tensor), a->tensor->name, b->tensor->name);
  }
  return SL_OK;
}

static table table_of(const char *prefix, const sl_kind *kind) {
  return kind ? (table){prefix, kind->weights, kind->n_weight} : (table){prefix, NULL, 0};
}

sl_status sl_weights_open(sl_weights **out, const char *dir, const char *vision_dir, const sl_family *family,
                          const sl_kinds *kinds, const sl_config *config) {
  *out = NULL;
  sl_weights *w = NULL;
  SL_TRY(SL_ALLOC(w, 1, "weights"));
  w->dir = dir;
  w->vision_dir = vision_dir;
  w->family = family;
  w->config = config;
  w->tables[0] = table_of(family->text.prefix, kinds->text);
  w->tables[1] = table_of(family->vision.prefix, kinds->vision);
  w->tables[2] = table_of(family->projector.prefix, kinds->projector);
  w->tables[3] = (table){"", family->weights, family->n_weight};
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
  sl_safetensors_close(w->vision_file);
  free(w);
}

static const sl_weight_row *find_row(const sl_weights *w, sl_role role, const char **prefix) {
  for (int t = 0; t < N_TABLE; t++)
    for (int i = 0; i < w->tables[t].n_row; i++) {
      if (w->tables[t].rows[i].role != role) continue;
      *prefix = w->tables[t].prefix;
      return &w->tables[t].rows[i];
    }
  return NULL;
}

bool sl_weights_has_role(const sl_weights *w, sl_role role) {
  const char *prefix;
  return find_row(w, role, &prefix) != NULL;
}

static bool needed(const sl_config *config, ptrdiff_t need) {
  if (need == SL_ALWAYS || need == SL_UNLESS_TIED) return true;
  const bool flag = *(const bool *)((const char *)config + (need < 0 ? -need : need));
  return need < 0 ? !flag : flag;
}

/* Shape as text: "[32, 64]". */
static void format_shape(char out[128], const int64_t *shape, int n_dim) {
  size_t used = (size_t)snprintf(out, 128, "[");
  for (int i = 0; i < n_dim; i++)
    used += (size_t)snprintf(out + used, 128 - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
  snprintf(out + used, 128 - used, "]");
}

static sl_status check_tensor(const sl_weights *w, const sl_weight_row *row, const entry *e) {
  const sl_tensor *tensor = e->tensor;
  const char *file = sl_safetensors_file_of(e->file, tensor);
  int64_t expected[5];
  int n_dim = 0;
  while (n_dim < 5 && row->shape[n_dim] != SL_DIM_NONE) {
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

/* The canonical name of a row's tensor; "{i}" becomes the layer. */
static void row_name(char out[MAX_NAME], const sl_weight_row *row, const char *prefix, int layer) {
  const bool whole = row->name[0] == '/';
  const char *name = row->name + whole, *mark = strstr(name, "{i}");
  if (mark)
    snprintf(out, MAX_NAME, "%s%.*s%d%s", whole ? "" : prefix, (int)(mark - name), name, layer, mark + 3);
  else
    snprintf(out, MAX_NAME, "%s%s", whole ? "" : prefix, name);
}

sl_status sl_weights_get(sl_weights *w, sl_role role, int layer, const sl_tensor **out) {
  *out = NULL;
  const char *prefix = NULL;
  const sl_weight_row *row = find_row(w, role, &prefix);
  if (!row || !needed(w->config, row->need)) return SL_OK;
  char name[MAX_NAME];
  row_name(name, row, prefix, layer);
  const entry key = {.canonical = name};
  entry *found = bsearch(&key, w->entries, (size_t)w->n_entry, sizeof *w->entries, compare_entries);
  if (!found) {
    if (row->need == SL_UNLESS_TIED) return SL_OK;
    const bool apart = w->vision_file && strcmp(prefix, w->family->vision.prefix) == 0;
    const sl_safetensors *file = apart ? w->vision_file : w->file;
    SL_FAIL(SL_ERROR_FORMAT,
            "%s: tensor \"%s\" is missing: no spelling of that name is among the %d tensors of the folder",
            apart ? w->vision_dir : w->dir, name, sl_safetensors_count(file));
  }
  SL_TRY(check_tensor(w, row, found));
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
  for (int i = 0; i < w->n_entry; i++) /* whichever file it is in */
    if (w->entries[i].tensor == tensor) sl_safetensors_drop(w->entries[i].file, tensor);
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
bool sl_weights_tower_apart(const sl_weights *w) { return w->vision_file != NULL; }
uint64_t sl_weights_hash(const sl_weights *w) { return w->hash; }
