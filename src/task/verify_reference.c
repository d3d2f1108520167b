/* The reference file of `verify`: a safetensors file in which "reference.json" (bytes) says what was run, and the
 * folder's fingerprint, by which a reference of another model is refused before anything runs. The fingerprint looks at
 * samples of the weights only, so that it takes no time on a large folder: changed weights show as differences instead.
 */
#include "task/verify_internal.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

#define MAX_CONFIG_BYTES ((size_t)16 << 20)
#define MAX_SIDE_PX 16384
#define N_WINDOW 64
#define WINDOW_BYTES 64
#define WHOLE_BYTES 4096

/* ---- fingerprint ---- */

/* FNV-1a, 64 bits: state = (state xor byte) * prime. */
static uint64_t feed(uint64_t state, const void *bytes, size_t n_bytes) {
  for (size_t i = 0; i < n_bytes; i++) state = (state ^ ((const uint8_t *)bytes)[i]) * UINT64_C(0x100000001b3);
  return state;
}

static bool ends_with(const char *name, const char *ending) {
  const size_t n = strlen(name), k = strlen(ending);
  return n > k && strcmp(name + n - k, ending) == 0;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void free_names(char **names, int n) {
  for (int i = 0; i < n; i++) free(names[i]);
  free(names);
}

/* Names in the folder with this ending, sorted. */
static sl_status list_files(char ***names, int *n_name, const char *dir, const char *ending) {
  DIR *folder = opendir(dir);
  *names = NULL;
  *n_name = 0;
  if (!folder) SL_FAIL(SL_ERROR_FILE, "%s: %s", dir, strerror(errno));
  sl_status status = SL_OK;
  for (struct dirent *entry; status == SL_OK && (entry = readdir(folder));) {
    if (!ends_with(entry->d_name, ending)) continue;
    status = SL_REALLOC(*names, (size_t)*n_name + 1, "file names");
    if (status == SL_OK) status = sl_strdup(&(*names)[*n_name], entry->d_name);
    if (status == SL_OK) ++*n_name;
  }
  closedir(folder);
  if (status != SL_OK) {
    free_names(*names, *n_name);
    *names = NULL;
    *n_name = 0;
  } else if (*n_name > 1) {
    qsort(*names, (size_t)*n_name, sizeof **names, by_name);
  }
  return status;
}

static sl_status feed_windows(uint64_t *state, FILE *file, uint64_t size, const char *path) {
  uint8_t bytes[WHOLE_BYTES];
  const int n_window = size <= WHOLE_BYTES ? 1 : N_WINDOW;
  const size_t n_bytes = size <= WHOLE_BYTES ? (size_t)size : WINDOW_BYTES;
  for (uint64_t i = 0; i < (uint64_t)n_window; i++) {
    const uint64_t at = n_window == 1 ? 0 : i * (size - WINDOW_BYTES) / (N_WINDOW - 1);
    if (fseeko(file, (off_t)at, SEEK_SET) != 0 || fread(bytes, 1, n_bytes, file) != n_bytes)
      SL_FAIL(SL_ERROR_FILE, "%s: cannot read it", path);
    *state = feed(*state, bytes, n_bytes);
  }
  return SL_OK;
}

static uint64_t feed_name(uint64_t state, const char *name, uint64_t size) {
  uint8_t bytes[8];
  for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(size >> 8 * i);
  return feed(feed(state, name, strlen(name)), bytes, sizeof bytes);
}

static sl_status feed_weights(uint64_t *state, const char *dir, const char *name) {
  char *path = NULL;
  SL_TRY(sl_path_join(&path, dir, name));
  FILE *file = fopen(path, "rb");
  sl_status status = SL_OK;
  if (!file || fseeko(file, 0, SEEK_END) != 0) {
    status = sl_fail(SL_ERROR_FILE, "%s: %s", path, strerror(errno));
  } else {
    const uint64_t size = (uint64_t)ftello(file);
    *state = feed_name(*state, name, size);
    status = feed_windows(state, file, size, path);
  }
  if (file) fclose(file);
  free(path);
  return status;
}

static sl_status feed_config(uint64_t *state, const char *dir) {
  static const char name[] = "config.json";
  char *path = NULL, *text = NULL;
  size_t n_bytes = 0;
  SL_TRY(sl_path_join(&path, dir, name));
  const sl_status status = sl_file_read(path, MAX_CONFIG_BYTES, &text, &n_bytes);
  if (status == SL_OK) *state = feed(feed_name(*state, name, n_bytes), text, n_bytes);
  free(text);
  free(path);
  return status;
}

sl_status sl_folder_fingerprint(uint64_t *out, const char *dir) {
  uint64_t state = UINT64_C(0xcbf29ce484222325);
  char **names = NULL;
  int n_name = 0;
  SL_TRY(feed_config(&state, dir));
  SL_TRY(list_files(&names, &n_name, dir, ".safetensors"));
  if (n_name == 0) {
    free(names);
    SL_TRY(list_files(&names, &n_name, dir, ".bin"));
  }
  sl_status status = SL_OK;
  for (int i = 0; i < n_name && status == SL_OK; i++) status = feed_weights(&state, dir, names[i]);
  free_names(names, n_name);
  *out = state;
  return status;
}

/* ---- the file ---- */

static sl_status read_facts(sl_reference *r) {
  const sl_tensor *text = sl_safetensors_find(r->file, "reference.json");
  const char *format = NULL;
  int version = 0;
  if (!text || text->dtype != SL_U8)
    SL_FAIL(SL_ERROR_FORMAT, "%s: not a reference file of tools/verify/reference.py (no \"reference.json\")", r->path);
  SL_TRY(sl_json_parse(&r->facts, text->data, (size_t)sl_tensor_count(text), r->path));
  SL_TRY(sl_reference_string(&format, r, r->facts, "format"));
  if (strcmp(format, "sightline-reference") != 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: format is \"%s\", expected \"sightline-reference\"", r->path, format);
  SL_TRY(sl_reference_number(&version, r, r->facts, "version", INT_MAX));
  if (version != 1) SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: version %d; this sightline reads 1", r->path, version);
  r->cases = json_object_get(r->facts, "cases");
  if (json_array_size(r->cases) == 0) SL_FAIL(SL_ERROR_FORMAT, "%s: no cases", r->path);
  return SL_OK;
}

static sl_status check_folder(const sl_reference *r, const char *model_dir) {
  const char *wanted = NULL, *model = NULL;
  char found[17];
  uint64_t fingerprint = 0;
  SL_TRY(sl_reference_string(&wanted, r, r->facts, "fingerprint"));
  SL_TRY(sl_reference_string(&model, r, r->facts, "model"));
  SL_TRY(sl_folder_fingerprint(&fingerprint, model_dir));
  snprintf(found, sizeof found, "%016llx", (unsigned long long)fingerprint);
  if (strcmp(found, wanted) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_ARGUMENT, "%s was made from another folder (\"%s\", fingerprint %s) than %s (%s)", r->path, model,
          wanted, model_dir, found);
}

sl_status sl_reference_open(sl_reference *out, const char *path, const char *model_dir) {
  *out = (sl_reference){.path = path};
  SL_TRY(sl_safetensors_open(&out->file, path));
  sl_status status = read_facts(out);
  if (status == SL_OK) status = check_folder(out, model_dir);
  if (status != SL_OK) sl_reference_dispose(out);
  return status;
}

void sl_reference_dispose(sl_reference *r) {
  json_decref(r->facts);
  sl_safetensors_close(r->file);
  *r = (sl_reference){0};
}

sl_status sl_reference_take(const sl_tensor **out, const sl_reference *r, const char *name, const char *array,
                            sl_dtype dtype, bool may_miss) {
  char full[160];
  snprintf(full, sizeof full, "%s/%s", name, array);
  *out = sl_safetensors_find(r->file, full);
  if (!*out && may_miss) return SL_OK;
  if (!*out) SL_FAIL(SL_ERROR_FORMAT, "%s: no array \"%s\"", r->path, full);
  const bool aligned =
      (uintptr_t)(*out)->data % sl_dtype_size(dtype) == 0; /* as every writer of safetensors lays them */
  if ((*out)->dtype == dtype && (*out)->n_dim > 0 && sl_tensor_count(*out) > 0 && aligned) return SL_OK;
  if (!aligned)
    SL_FAIL(SL_ERROR_FORMAT, "%s: \"%s\" does not begin at a multiple of its element's size", r->path, full);
  SL_FAIL(SL_ERROR_FORMAT, "%s: \"%s\" is %s with %lld values, expected %s and at least one", r->path, full,
          sl_dtype_name((*out)->dtype), (long long)sl_tensor_count(*out), sl_dtype_name(dtype));
}

sl_status sl_reference_picture(sl_rgb *out, const sl_reference *r, const char *name) {
  const sl_tensor *t = NULL;
  SL_TRY(sl_reference_take(&t, r, name, "picture", SL_U8, false));
  if (t->n_dim != 3 || t->shape[2] != 3 || t->shape[0] > MAX_SIDE_PX || t->shape[1] > MAX_SIDE_PX)
    SL_FAIL(SL_ERROR_FORMAT, "%s: \"%s/picture\" is not [height, width, 3] with sides up to %d", r->path, name,
            MAX_SIDE_PX);
  *out = (sl_rgb){.width_px = (int)t->shape[1], .height_px = (int)t->shape[0]};
  SL_TRY(SL_ALLOC(out->data, (size_t)sl_tensor_count(t), "picture"));
  memcpy(out->data, t->data, (size_t)sl_tensor_count(t));
  return SL_OK;
}

sl_status sl_reference_string(const char **out, const sl_reference *r, const json_t *object, const char *key) {
  *out = json_string_value(json_object_get(object, key));
  if (!*out) SL_FAIL(SL_ERROR_FORMAT, "%s: no text \"%s\"", r->path, key);
  return SL_OK;
}

sl_status sl_reference_number(int *out, const sl_reference *r, const json_t *object, const char *key, int most) {
  const json_t *value = json_object_get(object, key);
  const json_int_t number = json_integer_value(value);
  if (!json_is_integer(value) || number < 0 || number > most)
    SL_FAIL(SL_ERROR_FORMAT, "%s: \"%s\": expected a whole number from 0 to %d", r->path, key, most);
  *out = (int)number;
  return SL_OK;
}
