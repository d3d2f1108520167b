/* Reading a run directory. Files come from disk and may be cut off or edited: everything is checked here, once. */
#include "store/run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"

#define MAX_JSON_BYTES ((size_t)256 << 20)
#define MAX_PNG_BYTES ((size_t)256 << 20)

struct sl_run_reader {
  char *dir;
  json_t *json;
  sl_safetensors *tensors;
  sl_symbols symbols;
};

static sl_status read_json(sl_run_reader *reader) {
  char *path = NULL;
  SL_TRY(sl_path_join(&path, reader->dir, "run.json"));
  sl_status status;
  if (access(path, F_OK) != 0 && errno == ENOENT) { /* who may not look in gets the reason below */
    status = sl_fail(SL_ERROR_FILE, "%s: not a run directory: run.json is missing", reader->dir);
  } else {
    status = sl_json_load(&reader->json, path, MAX_JSON_BYTES);
  }
  int64_t schema = -1;
  if (status == SL_OK && !json_is_object(reader->json)) {
    status = sl_fail(SL_ERROR_FORMAT, "%s: expected an object", path);
  }
  if (status == SL_OK) status = sl_json_get_int(reader->json, "schema", 0, INT32_MAX, &schema, path);
  if (status == SL_OK && schema < 0) {
    status = sl_fail(SL_ERROR_FORMAT, "%s: key \"schema\" is missing", path);
  } else if (status == SL_OK && schema != SL_RUN_SCHEMA) {
    status = sl_fail(SL_ERROR_UNSUPPORTED, "%s: schema %lld, this version reads %d", path, (long long)schema,
                     SL_RUN_SCHEMA);
  }
  free(path);
  return status;
}

/* Two rounds: the first gives every symbol its value, the second checks the expressions too. */
static sl_status check_tensors(sl_run_reader *reader, const char *path) {
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < sl_safetensors_count(reader->tensors); i++) {
      const sl_tensor *tensor = sl_safetensors_at(reader->tensors, i);
      const sl_result *result = sl_result_find(tensor->name);
      if (result) SL_TRY(sl_result_check(result, tensor, &reader->symbols, SL_ERROR_FORMAT, path));
    }
  }
  return SL_OK;
}

static sl_status read_tensors(sl_run_reader *reader) {
  char *path = NULL;
  SL_TRY(sl_path_join(&path, reader->dir, "tensors.safetensors"));
  sl_status status;
  if (access(path, F_OK) != 0 && errno == ENOENT) { /* who may not look in gets the reason below */
    status = sl_fail(SL_ERROR_FILE, "%s: incomplete run directory: tensors.safetensors is missing", reader->dir);
  } else {
    status = sl_safetensors_open(&reader->tensors, path);
  }
  if (status == SL_OK) status = check_tensors(reader, path);
  free(path);
  return status;
}

sl_status sl_run_open(sl_run_reader **out, const char *dir) {
  *out = NULL;
  struct stat info;
  if (stat(dir, &info) != 0) SL_FAIL(SL_ERROR_FILE, "%s: %s", dir, strerror(errno));
  if (!S_ISDIR(info.st_mode)) SL_FAIL(SL_ERROR_FILE, "%s: not a folder", dir);
  sl_run_reader *reader = NULL;
  SL_TRY(SL_ALLOC(reader, 1, "run"));
  sl_status status = sl_strdup(&reader->dir, dir);
  if (status == SL_OK) status = read_json(reader);
  if (status == SL_OK) status = read_tensors(reader);
  if (status != SL_OK) {
    sl_run_close(reader);
    return status;
  }
  *out = reader;
  return SL_OK;
}

void sl_run_close(sl_run_reader *reader) {
  if (!reader) return;
  if (reader->tensors) sl_safetensors_close(reader->tensors);
  json_decref(reader->json);
  free(reader->dir);
  free(reader);
}

const char *sl_run_dir(const sl_run_reader *reader) { return reader->dir; }
json_t *sl_run_root(const sl_run_reader *reader) { return reader->json; }

const sl_tensor *sl_run_find(const sl_run_reader *reader, const char *name) {
  return sl_safetensors_find(reader->tensors, name);
}

sl_status sl_run_get(const sl_run_reader *reader, const char *name, const sl_tensor **out) {
  *out = sl_run_find(reader, name);
  if (!*out) SL_FAIL(SL_ERROR_ARGUMENT, "%s: holds no result %s", reader->dir, name);
  return SL_OK;
}

int sl_run_count(const sl_run_reader *reader) { return sl_safetensors_count(reader->tensors); }
const sl_tensor *sl_run_at(const sl_run_reader *reader, int i) { return sl_safetensors_at(reader->tensors, i); }

bool sl_run_symbol(const sl_run_reader *reader, const char *symbol, int64_t *value) {
  for (int i = 0; i < reader->symbols.count; i++) {
    if (strcmp(reader->symbols.at[i].name, symbol) == 0) {
      *value = reader->symbols.at[i].value;
      return true;
    }
  }
  return false;
}

static sl_status picture_path(const sl_run_reader *reader, const char *name, sl_text *path) {
  return sl_text_format(path, "%s/images/%s.png", reader->dir, name);
}

sl_status sl_run_picture(const sl_run_reader *reader, const char *name, char **png, size_t *n_bytes) {
  *png = NULL;
  sl_text path = {0};
  sl_status status = picture_path(reader, name, &path);
  if (status == SL_OK) status = sl_file_read(path.data, MAX_PNG_BYTES, png, n_bytes);
  if (status == SL_OK && (*n_bytes < 8 || memcmp(*png, "\x89PNG\r\n\x1a\n", 8) != 0)) {
    status = sl_fail(SL_ERROR_FORMAT, "%s: not a PNG file", path.data);
    free(*png);
    *png = NULL;
  }
  sl_text_dispose(&path);
  return status;
}

bool sl_run_has_picture(const sl_run_reader *reader, const char *name) {
  sl_text path = {0};
  bool found = picture_path(reader, name, &path) == SL_OK && access(path.data, R_OK) == 0;
  sl_text_dispose(&path);
  return found;
}
