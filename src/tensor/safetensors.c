/* Opening files and folders of weights, safetensors or PyTorch's .bin; finding tensors. */
#include "tensor/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/json.h"
#include "base/text.h"
#include "tensor/safetensors_file.h"

/* ---- one file ---- */

static sl_status shard_map(sl_shard *shard) {
  /* O_NONBLOCK: a FIFO of this name must not make us wait. */
  int descriptor = open(shard->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) SL_FAIL(SL_ERROR_FILE, "%s: cannot open: %s", shard->path, strerror(errno));
  struct stat info;
  sl_status status = SL_OK;
  if (fstat(descriptor, &info) != 0) {
    status = sl_fail(SL_ERROR_FILE, "%s: cannot read: %s", shard->path, strerror(errno));
  } else if (!S_ISREG(info.st_mode)) {
    status = sl_fail(SL_ERROR_FILE, "%s: expected a regular file, found something else", shard->path);
  } else if (info.st_size > 0) { /* an empty file cannot be mapped; the header check refuses it */
    void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (bytes == MAP_FAILED) {
      status = sl_fail(SL_ERROR_FILE, "%s: cannot map %lld bytes: %s", shard->path, (long long)info.st_size,
                       strerror(errno));
    } else {
      shard->bytes = bytes;
      shard->n_bytes = (size_t)info.st_size;
      shard->mapped = true;
    }
  }
  close(descriptor);
  return status;
}

static bool ends_with(const char *text, const char *end) {
  const size_t n_text = strlen(text), n_end = strlen(end);
  return n_text >= n_end && strcmp(text + n_text - n_end, end) == 0;
}

/* The format goes by the name alone: what a file holds must not decide how it is judged. */
static sl_status shard_read(sl_shard *shard, sl_tensor **tensors, int *n_tensor) {
  static const char *const torch_endings[] = {".bin", ".pt", ".pth"};
  for (size_t i = 0; i < sizeof torch_endings / sizeof *torch_endings; i++)
    if (ends_with(shard->path, torch_endings[i])) return sl_shard_read_torch(shard, tensors, n_tensor);
  return sl_shard_read_header(shard, tensors, n_tensor);
}

/* Appends the tensors of the last shard to the handle's. */
static sl_status file_add_tensors(sl_safetensors *file) {
  int shard = file->n_shard - 1, n_new;
  sl_tensor *tensors;
  SL_TRY(shard_read(&file->shards[shard], &tensors, &n_new));
  size_t n_all = (size_t)file->n_tensor + (size_t)n_new;
  sl_status status = SL_OK;
  if (n_all > INT_MAX)
    status = sl_fail(SL_ERROR_UNSUPPORTED, "%s: expected at most %d tensors, found more", file->shards[shard].path,
                     INT_MAX);
  if (!status) status = SL_REALLOC(file->tensors, n_all, "tensor list");
  if (!status) status = SL_REALLOC(file->shard_of, n_all, "tensor list");
  if (status) {
    sl_shard_free_tensors(tensors, n_new);
    return status;
  }
  for (int i = 0; i < n_new; i++) {
    file->tensors[file->n_tensor] = tensors[i];
    file->shard_of[file->n_tensor++] = shard;
  }
  free(tensors); /* the names live on in the handle */
  return SL_OK;
}

/* Adds one file, from disk or (bytes given) from memory. The shards array has room for it. */
static sl_status file_add_shard(sl_safetensors *file, const char *path, const void *bytes, size_t n_bytes) {
  sl_shard *shard = &file->shards[file->n_shard];
  SL_TRY(sl_strdup(&shard->path, path));
  file->n_shard++;
  if (bytes) {
    shard->bytes = bytes;
    shard->n_bytes = n_bytes;
  } else {
    SL_TRY(shard_map(shard));
  }
  return file_add_tensors(file);
}

/* ---- names ---- */

static int compare_names(const void *left, const void *right) {
  return strcmp((*(const sl_tensor *const *)left)->name, (*(const sl_tensor *const *)right)->name);
}

/* The tensors no longer move once this ran. */
static sl_status file_index_names(sl_safetensors *file) {
  SL_TRY(SL_ALLOC(file->by_name, (size_t)file->n_tensor, "tensor names"));
  for (int i = 0; i < file->n_tensor; i++) file->by_name[i] = &file->tensors[i];
  qsort(file->by_name, (size_t)file->n_tensor, sizeof *file->by_name, compare_names);
  for (int i = 1; i < file->n_tensor; i++) {
    const sl_tensor *a = file->by_name[i - 1], *b = file->by_name[i];
    if (strcmp(a->name, b->name) == 0)
      SL_FAIL(SL_ERROR_FORMAT, "%s: tensor " SL_NAME_FORMAT ": expected in one file, found also in %s",
              sl_safetensors_file_of(file, a), a->name, sl_safetensors_file_of(file, b));
  }
  return SL_OK;
}

const sl_tensor *sl_safetensors_find(const sl_safetensors *file, const char *name) {
  const sl_tensor key = {.name = name}, *key_pointer = &key;
  const sl_tensor **found =
      bsearch(&key_pointer, file->by_name, (size_t)file->n_tensor, sizeof *file->by_name, compare_names);
  return found ? *found : NULL;
}

/* ---- a folder with an index ---- */

static const char *base_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

static int compare_strings(const void *left, const void *right) {
  return strcmp(*(const char *const *)left, *(const char *const *)right);
}

/* The files that the index names, sorted, each once; the strings are borrowed from the index. A name that is a path
 * would let the index reach outside its folder. */
static sl_status list_shards(json_t *weight_map, const char *index_path, const char **shards, size_t *n_shard) {
  size_t n_name = 0;
  const char *name;
  json_t *value;
  json_object_foreach(weight_map, name, value) {
    const char *shard = json_string_value(value);
    if (!shard)
      SL_FAIL(SL_ERROR_FORMAT, "%s: tensor " SL_NAME_FORMAT ": expected a file name, found another type", index_path,
              name);
    if (!*shard || strchr(shard, '/') || strcmp(shard, ".") == 0 || strcmp(shard, "..") == 0 ||
        strlen(shard) != json_string_length(value))
      SL_FAIL(SL_ERROR_FORMAT, "%s: tensor " SL_NAME_FORMAT ": expected a plain file name, found " SL_NAME_FORMAT,
              index_path, name, shard);
    shards[n_name++] = shard;
  }
  qsort(shards, n_name, sizeof *shards, compare_strings);
  *n_shard = 0;
  for (size_t i = 0; i < n_name; i++)
    if (i == 0 || strcmp(shards[i], shards[*n_shard - 1]) != 0) shards[(*n_shard)++] = shards[i];
  return SL_OK;
}

/* Every tensor of the index lies in the file that the index says. */
static sl_status check_index(const sl_safetensors *file, json_t *weight_map, const char *index_path) {
  const char *name;
  json_t *value;
  json_object_foreach(weight_map, name, value) {
    const char *expected = json_string_value(value);
    const sl_tensor *tensor = sl_safetensors_find(file, name);
    const char *found = tensor ? base_name(sl_safetensors_file_of(file, tensor)) : "it in no file";
    if (strcmp(expected, found) != 0)
      SL_FAIL(SL_ERROR_FORMAT, "%s: tensor " SL_NAME_FORMAT ": expected in %s, found %s%s", index_path, name, expected,
              tensor ? "in " : "", found);
  }
  return SL_OK;
}

static sl_status file_add_shards(sl_safetensors *file, const char *folder, const char **shards, size_t n_shard) {
  if (n_shard > INT_MAX) SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: expected at most %d files, found more", folder, INT_MAX);
  SL_TRY(SL_ALLOC(file->shards, n_shard, "shard list"));
  for (size_t i = 0; i < n_shard; i++) {
    char *path;
    SL_TRY(sl_path_join(&path, folder, shards[i]));
    sl_status status = file_add_shard(file, path, NULL, 0);
    free(path);
    SL_TRY(status);
  }
  return file_index_names(file);
}

static sl_status file_open_index(sl_safetensors *file, const char *folder, const char *index_path) {
  json_t *index;
  SL_TRY(sl_json_load(&index, index_path, SL_SAFETENSORS_MAX_HEADER));
  json_t *weight_map = json_object_get(index, "weight_map");
  const char **shards = NULL;
  size_t n_shard = 0;
  sl_status status = SL_OK;
  if (!json_is_object(weight_map))
    status = sl_fail(SL_ERROR_FORMAT, "%s: weight_map: expected an object, found none", index_path);
  if (!status) status = SL_ALLOC(shards, json_object_size(weight_map), "shard names");
  if (!status) status = list_shards(weight_map, index_path, shards, &n_shard);
  if (!status) status = file_add_shards(file, folder, shards, n_shard);
  if (!status) status = check_index(file, weight_map, index_path);
  free(shards);
  json_decref(index);
  return status;
}

/* ---- opening and closing ---- */

static sl_status file_open_single(sl_safetensors *file, const char *path, const void *bytes, size_t n_bytes) {
  SL_TRY(SL_ALLOC(file->shards, 1, "shard list"));
  SL_TRY(file_add_shard(file, path, bytes, n_bytes));
  return file_index_names(file);
}

/* What a folder may hold, the first that is there counts (in transformers' order). */
static const struct place {
  const char *name;
  bool is_index;
} places[] = {{"model.safetensors", false},
              {"model.safetensors.index.json", true},
              {"pytorch_model.bin", false},
              {"pytorch_model.bin.index.json", true}};

static sl_status file_open_folder(sl_safetensors *file, const char *folder) {
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    char *path;
    SL_TRY(sl_path_join(&path, folder, places[i].name));
    const bool found = access(path, F_OK) == 0;
    sl_status status = SL_OK;
    if (found && places[i].is_index) status = file_open_index(file, folder, path);
    else if (found) status = file_open_single(file, path, NULL, 0);
    free(path);
    if (found) return status;
  }
  SL_FAIL(SL_ERROR_FILE,
          "%s: expected model.safetensors, pytorch_model.bin or the index of either (NAME.index.json) in this folder, "
          "found none",
          folder);
}

sl_status sl_safetensors_open(sl_safetensors **out, const char *path) {
  *out = NULL;
  struct stat info;
  if (stat(path, &info) != 0) SL_FAIL(SL_ERROR_FILE, "%s: cannot open: %s", path, strerror(errno));
  sl_safetensors *file;
  SL_TRY(SL_ALLOC(file, 1, "safetensors handle"));
  sl_status status = S_ISDIR(info.st_mode) ? file_open_folder(file, path) : file_open_single(file, path, NULL, 0);
  if (status) {
    sl_safetensors_close(file);
    return status;
  }
  *out = file;
  return SL_OK;
}

sl_status sl_safetensors_parse(sl_safetensors **out, const void *bytes, size_t n_bytes, const char *name) {
  *out = NULL;
  sl_safetensors *file;
  SL_TRY(SL_ALLOC(file, 1, "safetensors handle"));
  sl_status status = file_open_single(file, name, bytes ? bytes : "", bytes ? n_bytes : 0);
  if (status) {
    sl_safetensors_close(file);
    return status;
  }
  *out = file;
  return SL_OK;
}

void sl_safetensors_close(sl_safetensors *file) {
  if (!file) return;
  for (int i = 0; i < file->n_shard; i++) {
    sl_shard *shard = &file->shards[i];
    for (int k = 0; k < shard->n_copy; k++) free(shard->copies[k]);
    free(shard->copies);
    if (shard->mapped) munmap((void *)shard->bytes, shard->n_bytes);
    free(shard->path);
  }
  free(file->shards);
  sl_shard_free_tensors(file->tensors, file->n_tensor);
  free(file->shard_of);
  free(file->by_name);
  free(file);
}

/* ---- reading ---- */

int sl_safetensors_count(const sl_safetensors *file) { return file->n_tensor; }

const sl_tensor *sl_safetensors_at(const sl_safetensors *file, int index) {
  return index >= 0 && index < file->n_tensor ? &file->tensors[index] : NULL;
}

/* NULL for a tensor of somewhere else. */
static const sl_shard *shard_of(const sl_safetensors *file, const sl_tensor *tensor) {
  uintptr_t offset = (uintptr_t)tensor - (uintptr_t)file->tensors; /* wraps to something huge below the array */
  size_t index = offset / sizeof *tensor;
  return index < (size_t)file->n_tensor ? &file->shards[file->shard_of[index]] : NULL;
}

const char *sl_safetensors_file_of(const sl_safetensors *file, const sl_tensor *tensor) {
  const sl_shard *shard = shard_of(file, tensor);
  return shard ? shard->path : NULL;
}

uint64_t sl_safetensors_bytes(const sl_safetensors *file) {
  uint64_t n_bytes = 0;
  for (int i = 0; i < file->n_shard; i++) n_bytes += file->shards[i].n_bytes;
  return n_bytes;
}

uint64_t sl_safetensors_hash(const sl_safetensors *file) {
  uint64_t hash = 0; /* so a single file has the plain XXH3 of its bytes */
  for (int i = 0; i < file->n_shard; i++)
    hash = XXH3_64bits_withSeed(file->shards[i].bytes, file->shards[i].n_bytes, hash);
  return hash;
}

void sl_safetensors_drop(const sl_safetensors *file, const sl_tensor *tensor) {
  const sl_shard *shard = shard_of(file, tensor);
  if (!shard || !shard->mapped) return; /* on borrowed memory the advice below would destroy the content */
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  uintptr_t begin = (uintptr_t)tensor->data;
  uintptr_t end = begin + (size_t)sl_tensor_count(tensor) * sl_dtype_size(tensor->dtype);
  if (begin - (uintptr_t)shard->bytes >= shard->n_bytes) return; /* a copy of ours, not in the mapping */
  begin = (begin + page - 1) / page * page; /* whole pages only: the neighbours may be in use */
  end = end / page * page;
  if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
}
