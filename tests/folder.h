/* Copies of the golden checkpoint folders in a temporary place, to be altered. Folders inside are left out. */
#ifndef TESTS_FOLDER_H
#define TESTS_FOLDER_H

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "golden.h"

typedef struct folder {
  char dir[128];
} folder;

static inline bool folder_skips(const char *name) { return name[0] == '.' || strncmp(name, "golden.", 7) == 0; }

static inline folder folder_copy(const char *golden_name) {
  folder f;
  char source[600], from[900], to[400];
  snprintf(f.dir, sizeof f.dir, "/tmp/sl_test_XXXXXX");
  assert_non_null(mkdtemp(f.dir));
  snprintf(source, sizeof source, "%s/%s", GOLDEN_DIR, golden_name);
  DIR *dir = opendir(source);
  assert_non_null(dir);
  for (struct dirent *e; (e = readdir(dir));) {
    if (folder_skips(e->d_name)) continue;
    char *bytes = NULL;
    size_t n_bytes = 0;
    struct stat about;
    snprintf(from, sizeof from, "%s/%s", source, e->d_name);
    if (stat(from, &about) == 0 && S_ISDIR(about.st_mode)) continue;
    snprintf(to, sizeof to, "%s/%s", f.dir, e->d_name);
    ASSERT_OK(sl_file_read(from, (size_t)1 << 26, &bytes, &n_bytes));
    ASSERT_OK(sl_file_write(to, bytes, n_bytes));
    free(bytes);
  }
  closedir(dir);
  return f;
}

static inline void folder_path(const folder *f, const char *name, char out[400]) {
  snprintf(out, 400, "%s/%s", f->dir, name);
}

static inline void folder_delete(const folder *f, const char *name) {
  char path[400];
  folder_path(f, name, path);
  assert_int_equal(unlink(path), 0);
}

static inline void folder_write(const folder *f, const char *name, const void *bytes, size_t n_bytes) {
  char path[400];
  folder_path(f, name, path);
  ASSERT_OK(sl_file_write(path, bytes, n_bytes));
}

/* Cuts a file to n_bytes, or by -n_bytes at its end. */
static inline void folder_cut(const folder *f, const char *name, long n_bytes) {
  char path[400], *bytes = NULL;
  size_t n = 0;
  folder_path(f, name, path);
  ASSERT_OK(sl_file_read(path, (size_t)1 << 26, &bytes, &n));
  ASSERT_OK(sl_file_write(path, bytes, n_bytes >= 0 ? (size_t)n_bytes : n - (size_t)-n_bytes));
  free(bytes);
}

static inline void folder_remove(folder *f) {
  DIR *dir = opendir(f->dir);
  char path[400];
  for (struct dirent *e; dir && (e = readdir(dir));) {
    snprintf(path, sizeof path, "%s/%s", f->dir, e->d_name);
    if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && unlink(path) != 0) rmdir(path);
  }
  closedir(dir);
  assert_int_equal(rmdir(f->dir), 0);
}

/* Sets the value at a dotted path of a JSON file to `text` (JSON; NULL deletes the key). */
static inline void folder_set_json(const folder *f, const char *file, const char *path, const char *text) {
  char name[400], parent[200], *printed = NULL;
  folder_path(f, file, name);
  json_t *root = NULL;
  ASSERT_OK(sl_json_load(&root, name, (size_t)1 << 24));
  const char *dot = strrchr(path, '.');
  snprintf(parent, sizeof parent, "%.*s", dot ? (int)(dot - path) : 0, path);
  json_t *object = sl_json_at(root, parent);
  assert_true(json_is_object(object));
  const char *key = dot ? dot + 1 : path;
  if (text) {
    /* In an array, so that sightline's own reader takes a bare value (and an integer of any length). */
    char wrapped[400];
    json_t *value = NULL;
    snprintf(wrapped, sizeof wrapped, "[%s]", text);
    ASSERT_OK(sl_json_parse(&value, wrapped, strlen(wrapped), "test"));
    json_object_set(object, key, json_array_get(value, 0));
    json_decref(value);
  } else {
    json_object_del(object, key);
  }
  ASSERT_OK(sl_json_print(root, 1, &printed));
  ASSERT_OK(sl_file_write(name, printed, strlen(printed)));
  free(printed);
  json_decref(root);
}

/* Changes one tensor's entry in the copy that will be written; false drops it. `name` may be written to (160 bytes). */
typedef bool (*folder_edit)(sl_tensor *tensor, char *name, void *user);

/* Rewrites the folder's tensors into one file, each through `edit`, with up to one tensor more. */
static inline void folder_rewrite(const folder *f, folder_edit edit, void *user, const sl_tensor *more) {
  sl_safetensors *file = NULL;
  char path[400];
  ASSERT_OK(sl_safetensors_open(&file, f->dir));
  const int n = sl_safetensors_count(file);
  sl_tensor *tensors = calloc((size_t)n + 1, sizeof *tensors);
  char(*names)[160] = calloc((size_t)n, sizeof *names);
  int kept = 0;
  for (int i = 0; i < n; i++) {
    sl_tensor t = *sl_safetensors_at(file, i);
    snprintf(names[i], sizeof names[i], "%s", t.name);
    t.name = names[i];
    if (!edit || edit(&t, names[i], user)) tensors[kept++] = t;
  }
  if (more) tensors[kept++] = *more;
  folder_path(f, "rewritten", path);
  ASSERT_OK(sl_safetensors_write(path, tensors, kept, NULL));
  free(tensors);
  free(names);
  sl_safetensors_close(file);
  DIR *dir = opendir(f->dir);
  for (struct dirent *e; (e = readdir(dir));)
    if (strncmp(e->d_name, "model", 5) == 0) folder_delete(f, e->d_name);
  closedir(dir);
  char to[400];
  folder_path(f, "model.safetensors", to);
  assert_int_equal(rename(path, to), 0);
}

#endif
