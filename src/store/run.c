/* Writing a run directory. Results collect in memory; commit writes them to a hidden sibling folder, which then takes
 * the final name in one rename. Whoever looks at `dir` sees the old state or the whole new one. */
#include "store/run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "store/folder.h"

typedef struct picture {
  char *name;
  char *png;
  size_t n_bytes;
} picture;

struct sl_run {
  char *dir;      /* final place */
  char *building; /* hidden sibling, exists until commit or free */
  int lock;       /* marks it as in use; -1 = none */
  bool force;
  bool spent; /* commit was called */
  json_t *json;
  sl_tensor *tensors; /* names and data owned */
  int n_tensor;
  picture *pictures;
  int n_picture;
  sl_symbols symbols;
};

/* Refuses to touch anything that is not ours. */
static sl_status check_target(const char *dir, bool force) {
  struct stat info;
  if (lstat(dir, &info) != 0) {
    if (errno == ENOENT) return SL_OK;
    SL_FAIL(SL_ERROR_FILE, "%s: %s", dir, strerror(errno));
  }
  if (!S_ISDIR(info.st_mode)) SL_FAIL(SL_ERROR_ARGUMENT, "%s: exists and is not a folder", dir);
  bool empty;
  SL_TRY(sl_folder_is_empty(dir, &empty));
  if (empty) return SL_OK;
  if (!force) SL_FAIL(SL_ERROR_ARGUMENT, "%s: already exists (--force replaces a run directory)", dir);
  char *path;
  SL_TRY(sl_path_join(&path, dir, "run.json"));
  bool is_run = access(path, F_OK) == 0;
  free(path);
  if (!is_run) SL_FAIL(SL_ERROR_ARGUMENT, "%s: holds no run.json, so it is not replaced even with --force", dir);
  return SL_OK;
}

sl_status sl_run_new(sl_run **out, const char *dir, bool force) {
  *out = NULL;
  sl_run *run = NULL;
  char *parent = NULL;
  const char *base;
  SL_TRY(SL_ALLOC(run, 1, "run"));
  run->lock = -1;
  sl_status status = sl_folder_split(dir, &run->dir, &parent, &base);
  if (status == SL_OK) sl_folder_remove_stale(parent, base); /* of runs that were killed */
  if (status == SL_OK) status = check_target(run->dir, force);
  if (status == SL_OK) status = sl_folder_make_hidden(&run->building, &run->lock, parent, base);
  if (status == SL_OK) {
    run->force = force;
    run->json = json_object();
    if (!run->json) status = sl_fail(SL_ERROR_MEMORY, "%s: no memory for run.json", dir);
  }
  free(parent);
  if (status != SL_OK) {
    sl_run_free(run);
    return status;
  }
  *out = run;
  return SL_OK;
}

sl_status sl_run_new_memory(sl_run **out) {
  sl_run *run;
  *out = NULL;
  SL_TRY(SL_ALLOC(run, 1, "run"));
  run->lock = -1;
  run->json = json_object();
  if (!run->json) {
    sl_run_free(run);
    SL_FAIL(SL_ERROR_MEMORY, "no memory for a run");
  }
  *out = run;
  return SL_OK;
}

bool sl_run_keeps_pictures(const sl_run *run) { return run->dir != NULL; }

const sl_tensor *sl_run_tensors(const sl_run *run, int *n_tensor) {
  *n_tensor = run->n_tensor;
  return run->tensors;
}

json_t *sl_run_json(sl_run *run) { return run->json; }

static sl_status copy_bytes(char **out, const void *bytes, size_t n_bytes, const char *what) {
  SL_TRY(SL_ALLOC(*out, n_bytes, what));
  if (n_bytes > 0) memcpy(*out, bytes, n_bytes);
  return SL_OK;
}

/* Size of the data in bytes, with every dimension checked. */
static sl_status data_bytes(const sl_tensor *tensor, size_t *n_bytes) {
  size_t total = sl_dtype_size(tensor->dtype);
  for (int i = 0; i < tensor->n_dim; i++) {
    if (tensor->shape[i] < 0 || !sl_size_mul(total, (size_t)tensor->shape[i], &total)) {
      SL_FAIL(SL_ERROR_ARGUMENT, "result %s: dimension %d is %lld", tensor->name, i, (long long)tensor->shape[i]);
    }
  }
  *n_bytes = total;
  return SL_OK;
}

sl_status sl_run_put(sl_run *run, const char *name, sl_dtype dtype, int n_dim, const int64_t *shape, const void *data) {
  const sl_result *result = sl_result_find(name);
  if (!result) SL_FAIL(SL_ERROR_ARGUMENT, "result %s: no such name in the schema table (src/store/schema.c)", name);
  if ((unsigned)dtype >= SL_DTYPE_COUNT || n_dim < 0 || n_dim > SL_MAX_DIM) {
    SL_FAIL(SL_ERROR_ARGUMENT, "result %s: dtype %d with %d dimensions", name, (int)dtype, n_dim);
  }
  for (int i = 0; i < run->n_tensor; i++) {
    if (strcmp(run->tensors[i].name, name) == 0) SL_FAIL(SL_ERROR_ARGUMENT, "result %s: stored twice", name);
  }
  sl_tensor tensor = {.name = name, .dtype = dtype, .n_dim = n_dim};
  for (int i = 0; i < n_dim; i++) tensor.shape[i] = shape[i];
  size_t n_bytes = 0;
  SL_TRY(data_bytes(&tensor, &n_bytes));
  SL_TRY(SL_REALLOC(run->tensors, (size_t)run->n_tensor + 1, "results of the run"));
  char *own_name = NULL, *own_data = NULL;
  SL_TRY(sl_strdup(&own_name, name));
  tensor.name = own_name;
  sl_status status = copy_bytes(&own_data, data, n_bytes, name);
  /* Last, so that a failed put has bound no symbol. */
  if (status == SL_OK) status = sl_result_check(result, &tensor, &run->symbols, SL_ERROR_ARGUMENT, NULL);
  if (status != SL_OK) {
    free(own_name);
    free(own_data);
    return status;
  }
  tensor.data = own_data;
  run->tensors[run->n_tensor++] = tensor;
  return SL_OK;
}

sl_status sl_run_drop(sl_run *run, const char *prefix) {
  int n = 0;
  run->symbols = (sl_symbols){0};
  for (int i = 0; i < run->n_tensor; i++) {
    sl_tensor *tensor = &run->tensors[i];
    if (strncmp(tensor->name, prefix, strlen(prefix)) != 0) {
      run->tensors[n++] = *tensor;
      continue;
    }
    free((char *)tensor->name);
    free((void *)tensor->data);
  }
  run->n_tensor = n;
  for (int i = 0; i < n; i++)
    SL_TRY(sl_result_check(sl_result_find(run->tensors[i].name), &run->tensors[i], &run->symbols, SL_ERROR_ARGUMENT, NULL));
  return SL_OK;
}

sl_status sl_run_put_picture(sl_run *run, const char *name, const void *png, size_t n_bytes) {
  if (name[0] == '\0' || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != strlen(name)) {
    SL_FAIL(SL_ERROR_ARGUMENT, "picture \"%s\": a name consists of a-z, 0-9 and _", name);
  }
  if (n_bytes < 8 || memcmp(png, "\x89PNG\r\n\x1a\n", 8) != 0) {
    SL_FAIL(SL_ERROR_ARGUMENT, "picture %s: not the bytes of a PNG file", name);
  }
  for (int i = 0; i < run->n_picture; i++) {
    if (strcmp(run->pictures[i].name, name) == 0) SL_FAIL(SL_ERROR_ARGUMENT, "picture %s: stored twice", name);
  }
  SL_TRY(SL_REALLOC(run->pictures, (size_t)run->n_picture + 1, "pictures of the run"));
  picture fresh = {.n_bytes = n_bytes};
  SL_TRY(sl_strdup(&fresh.name, name));
  sl_status status = copy_bytes(&fresh.png, png, n_bytes, name);
  if (status != SL_OK) {
    free(fresh.name);
    return status;
  }
  run->pictures[run->n_picture++] = fresh;
  return SL_OK;
}

static sl_status write_json(const sl_run *run) {
  if (!json_is_string(json_object_get(run->json, "sightline"))) {
    SL_FAIL(SL_ERROR_ARGUMENT, "run.json: key \"sightline\" (the version) was not filled in");
  }
  if (json_object_set_new(run->json, "schema", json_integer(SL_RUN_SCHEMA)) != 0) {
    SL_FAIL(SL_ERROR_MEMORY, "run.json: no memory");
  }
  char *text = NULL, *path = NULL;
  SL_TRY(sl_json_print(run->json, 1, &text));
  sl_status status = sl_path_join(&path, run->building, "run.json");
  if (status == SL_OK) status = sl_file_write(path, text, strlen(text));
  free(path);
  free(text);
  return status;
}

static sl_status write_tensors(const sl_run *run) {
  /* Expressions whose symbols were unknown at put time are checked now that all are. */
  sl_symbols symbols = run->symbols;
  for (int i = 0; i < run->n_tensor; i++) {
    const sl_tensor *tensor = &run->tensors[i];
    SL_TRY(sl_result_check(sl_result_find(tensor->name), tensor, &symbols, SL_ERROR_ARGUMENT, NULL));
  }
  char *path = NULL;
  SL_TRY(sl_path_join(&path, run->building, "tensors.safetensors"));
  sl_status status = sl_safetensors_write(path, run->tensors, run->n_tensor, NULL);
  free(path);
  return status;
}

static sl_status write_pictures(const sl_run *run) {
  char *folder = NULL;
  SL_TRY(sl_path_join(&folder, run->building, "images"));
  sl_status status = SL_OK;
  if (mkdir(folder, 0777) != 0) status = sl_fail(SL_ERROR_FILE, "%s: %s", folder, strerror(errno));
  for (int i = 0; i < run->n_picture && status == SL_OK; i++) {
    const picture *one = &run->pictures[i];
    sl_text path = {0};
    status = sl_text_format(&path, "%s/%s.png", folder, one->name);
    if (status == SL_OK) status = sl_file_write(path.data, one->png, one->n_bytes);
    sl_text_dispose(&path);
  }
  free(folder);
  return status;
}

sl_status sl_run_commit(sl_run *run) {
  if (!run->dir) SL_FAIL(SL_ERROR_ARGUMENT, "a run in memory has no folder to be committed to");
  if (run->spent) SL_FAIL(SL_ERROR_ARGUMENT, "%s: committed twice", run->dir);
  run->spent = true;
  sl_status status = write_json(run);
  if (status == SL_OK) status = write_tensors(run);
  if (status == SL_OK) status = write_pictures(run);
  /* Somebody may have put something there since sl_run_new. */
  if (status == SL_OK) status = check_target(run->dir, run->force);
  if (status == SL_OK) status = (run->force ? sl_folder_swap : sl_folder_place)(run->building, run->dir);
  if (status != SL_OK) sl_folder_remove(run->building);
  free(run->building);
  run->building = NULL;
  return status;
}

void sl_run_free(sl_run *run) {
  if (!run) return;
  if (run->building) sl_folder_remove(run->building);
  if (run->lock >= 0) close(run->lock);
  for (int i = 0; i < run->n_tensor; i++) {
    free((char *)run->tensors[i].name);
    free((void *)run->tensors[i].data);
  }
  for (int i = 0; i < run->n_picture; i++) {
    free(run->pictures[i].name);
    free(run->pictures[i].png);
  }
  free(run->tensors);
  free(run->pictures);
  free(run->building);
  free(run->dir);
  json_decref(run->json);
  free(run);
}
