/* The files beside the weights: configuration, tokenizer, processor, remote code (never run) and licence go along;
 * config.json's element type follows the weights'. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/text.h"
#include "task/convert_internal.h"

#define MAX_FILE ((off_t)64 << 20)

static const char *const copied[] = {"*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken",
                                     "*.py",   "*.md",    "LICENSE*", "COPYING*", "NOTICE*"};

/* Replaced by the new weights' own. */
#define INDEX "*.index.json"

static bool is_copied(const char *name) {
  for (size_t i = 0; i < sizeof copied / sizeof *copied; i++)
    if (sl_glob_match(copied[i], name)) return true;
  return false;
}

/* One of the files that the weights were read from. */
static bool is_converted(const sl_conversion *c, const char *path) {
  for (int i = 0; i < sl_safetensors_count(c->model); i++)
    if (strcmp(sl_safetensors_file_of(c->model, sl_safetensors_at(c->model, i)), path) == 0) return true;
  return false;
}

/* ---- the element type in config.json ---- */

static const char *const type_names[][2] = {{"f32", "float32"}, {"f16", "float16"}, {"bf16", "bfloat16"},
                                             {"f64", "float64"}}; /* found, never asked for */
#define N_TYPE (sizeof type_names / sizeof *type_names)

/* transformers' name of the type; NULL when the types stay. */
static const char *new_type(const sl_conversion *c) {
  for (size_t i = 0; i < N_TYPE && c->request->dtype; i++)
    if (strcmp(c->request->dtype, type_names[i][0]) == 0) return type_names[i][1];
  return NULL;
}

/* Where the value of "torch_dtype" or "dtype" begins, just behind its quote, if a key stands at `at`. */
static const char *type_value(const char *at) {
  static const char *const keys[] = {"\"torch_dtype\"", "\"dtype\""};
  for (size_t i = 0; i < 2; i++) {
    const size_t n = strlen(keys[i]);
    if (strncmp(at, keys[i], n) != 0) continue;
    at += n;
    at += strspn(at, " \t\r\n");
    if (*at != ':') return NULL;
    at++;
    at += strspn(at, " \t\r\n");
    return *at == '"' ? at + 1 : NULL;
  }
  return NULL;
}

/* A copy with another type. The text is changed where it stands: printing it anew would change numbers and order. */
static sl_status replace_types(const char *text, const char *type, sl_text *out) {
  const char *done = text;
  for (const char *at = text; *at; at++) {
    const char *value = *at == '"' && (at == text || at[-1] != '\\') ? type_value(at) : NULL;
    for (size_t i = 0; i < N_TYPE && value; i++) {
      const size_t n = strlen(type_names[i][1]);
      if (strncmp(value, type_names[i][1], n) != 0 || value[n] != '"') continue;
      SL_TRY(sl_text_append(out, done, (size_t)(value - done)));
      SL_TRY(sl_text_append_string(out, type));
      done = value + n;
    }
  }
  return sl_text_append_string(out, done);
}

/* ---- copying ---- */

static sl_status copy_file(sl_conversion *c, const char *from, const char *name) {
  char *to = NULL, *bytes = NULL;
  size_t n_bytes;
  const char *type = strcmp(name, "config.json") == 0 ? new_type(c) : NULL; /* NULL: copy as it is */
  sl_text changed = {0};
  sl_status status = sl_file_read(from, (size_t)MAX_FILE, &bytes, &n_bytes);
  if (!status) status = sl_path_join(&to, c->building, name);
  if (!status && strlen(bytes) != n_bytes) type = NULL; /* no JSON: it holds NUL */
  if (!status && type) status = replace_types(bytes, type, &changed);
  if (!status) status = sl_file_write(to, type ? changed.data : bytes, type ? changed.length : n_bytes);
  sl_text_dispose(&changed);
  free(bytes);
  free(to);
  return status ? status : sl_conversion_list(c, "copied", name);
}

static int compare_strings(const void *left, const void *right) {
  return strcmp(*(char *const *)left, *(char *const *)right);
}

static sl_status list_names(const char *dir, char ***names, size_t *n) {
  DIR *listing = opendir(dir);
  if (!listing) SL_FAIL(SL_ERROR_FILE, "%s: cannot list: %s", dir, strerror(errno));
  sl_status status = SL_OK;
  for (struct dirent *entry; !status && (entry = readdir(listing)) != NULL;) {
    status = SL_REALLOC(*names, *n + 1, "file names");
    if (!status) status = sl_strdup(&(*names)[*n], entry->d_name);
    if (!status) ++*n;
  }
  closedir(listing);
  return status;
}

static sl_status visit(sl_conversion *c, const char *below, const char *name);

/* Everything in the model's folder, or in the folder `below` it ("tokenizer/"). */
static sl_status visit_all(sl_conversion *c, const char *dir, const char *below) {
  char **names = NULL;
  size_t n = 0;
  sl_status status = list_names(dir, &names, &n);
  if (!status && n) qsort(names, n, sizeof *names, compare_strings); /* the same summary everywhere */
  for (size_t i = 0; i < n && !status; i++) status = visit(c, below, names[i]);
  for (size_t i = 0; i < n; i++) free(names[i]);
  free(names);
  return status;
}

/* A second tokenizer stands in a folder of its own: that of a Q-Former, say. */
static sl_status visit_folder(sl_conversion *c, const char *dir, const char *name) {
  char *made = NULL;
  sl_text below = {0};
  sl_status status = sl_path_join(&made, c->building, name);
  if (!status && mkdir(made, 0777) != 0) status = sl_fail(SL_ERROR_FILE, "%s: cannot make: %s", made, strerror(errno));
  if (!status) status = sl_text_format(&below, "%s/", name);
  if (!status) status = visit_all(c, dir, below.data);
  sl_text_dispose(&below);
  free(made);
  return status;
}

/* Links count as what they lead to: Hugging Face's cache is made of them. */
static sl_status visit(sl_conversion *c, const char *below, const char *name) {
  char *path = NULL;
  sl_text whole = {0}; /* as seen from the model's folder */
  struct stat info;
  if (name[0] == '.' || sl_glob_match(INDEX, name)) return SL_OK;
  sl_status status = sl_text_format(&whole, "%s%s", below, name);
  if (!status) status = sl_path_join(&path, c->request->model_dir, whole.data);
  const bool is_there = !status && stat(path, &info) == 0;
  if (is_there && S_ISREG(info.st_mode) && is_copied(name) && info.st_size <= MAX_FILE)
    status = copy_file(c, path, whole.data);
  else if (is_there && S_ISDIR(info.st_mode) && !below[0] && sl_glob_match("*tokenizer*", name))
    status = visit_folder(c, path, name);
  else if (!status && !is_converted(c, path))
    status = sl_conversion_list(c, "left", whole.data);
  sl_text_dispose(&whole);
  free(path);
  return status;
}

sl_status sl_conversion_copy_files(sl_conversion *c) { return visit_all(c, c->request->model_dir, ""); }
