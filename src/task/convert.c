/* `convert`: a folder of safetensors out of another folder; whole or not at all, and never more than a piece of a
 * tensor in memory. Its weights are planned first (convert_tensor.c), then cut into files, made and written piece by
 * piece, and the rest of the folder is copied (convert_files.c). */
#include "sightline/convert.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "analysis/token_json.h"
#include "base/text.h"
#include "store/folder.h"
#include "task/convert_internal.h"

#define SHARD_BYTES UINT64_C(5000000000)

sl_status sl_conversion_progress(const sl_conversion *c) {
  const sl_convert_request *q = c->request;
  const double share = c->n_bytes ? (double)c->n_done / (double)c->n_bytes : 1;
  const bool goes_on = !q->progress || q->progress(q->user, "converting", share, 1);
  if (!goes_on || (q->cancel && sl_cancel_requested(q->cancel))) SL_FAIL(SL_ERROR_CANCELLED, "interrupted");
  return SL_OK;
}

sl_status sl_conversion_tell(json_t *object, const char *key, json_t *value) {
  if (json_object_set_new(object, key, value) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "no memory for \"%s\" of the conversion", key);
}

sl_status sl_conversion_list(sl_conversion *c, const char *key, const char *text) {
  if (!json_object_get(c->summary, key)) SL_TRY(sl_conversion_tell(c->summary, key, json_array()));
  if (json_array_append_new(json_object_get(c->summary, key), sl_json_text(text, strlen(text))) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "no memory for \"%s\" of the conversion", key);
}

/* ---- weights ---- */

/* Where each file begins: tensors[begin[i]] to tensors[begin[i + 1] - 1]. One larger than a file has its own. */
static sl_status cut_into_files(const sl_conversion *c, int **begin, int *n_file) {
  const uint64_t limit = c->request->shard_bytes ? c->request->shard_bytes : SHARD_BYTES;
  uint64_t n_bytes = 0;
  SL_TRY(SL_ALLOC(*begin, (size_t)c->n_tensor + 2, "files"));
  *n_file = 1;
  for (int i = 0; i < c->n_tensor; i++) {
    const uint64_t more = (uint64_t)sl_tensor_count(&c->tensors[i]) * sl_dtype_size(c->tensors[i].dtype);
    if (n_bytes > 0 && n_bytes + more > limit) {
      (*begin)[(*n_file)++] = i;
      n_bytes = 0;
    }
    n_bytes += more;
  }
  (*begin)[*n_file] = c->n_tensor;
  return SL_OK;
}

static sl_status write_file(sl_conversion *c, const char *name, int begin, int end, json_t *weight_map) {
  static const char *const metadata[] = {"format", "pt", NULL}; /* transformers asks for it */
  char *path;
  SL_TRY(sl_path_join(&path, c->building, name));
  const sl_status status =
      sl_safetensors_write_made(path, c->tensors + begin, end - begin, metadata, sl_conversion_make, c);
  free(path);
  SL_TRY(status);
  for (int i = begin; i < end; i++) SL_TRY(sl_conversion_tell(weight_map, c->tensors[i].name, json_string(name)));
  return sl_conversion_list(c, "files", name);
}

static sl_status write_index(const sl_conversion *c, json_t *weight_map) {
  json_t *index =
      json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)c->n_bytes, "weight_map", weight_map);
  char *text = NULL, *path = NULL;
  sl_status status = index ? SL_OK : sl_fail(SL_ERROR_MEMORY, "no memory for the index");
  if (!status) status = sl_json_print(index, 2, &text);
  if (!status) status = sl_path_join(&path, c->building, "model.safetensors.index.json");
  if (!status) status = sl_file_write(path, text, strlen(text));
  free(text);
  free(path);
  json_decref(index);
  return status;
}

static sl_status write_weights(sl_conversion *c) {
  int *begin = NULL, n_file = 0;
  json_t *weight_map = json_object();
  sl_status status = cut_into_files(c, &begin, &n_file);
  for (int i = 0; i < n_file && !status; i++) {
    char name[64] = "model.safetensors";
    if (n_file > 1) snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", i + 1, n_file);
    status = write_file(c, name, begin[i], begin[i + 1], weight_map);
  }
  if (!status && n_file > 1) status = write_index(c, weight_map);
  json_decref(weight_map);
  free(begin);
  return status;
}

/* ---- the folder ---- */

static sl_status check_free(const char *dir) {
  struct stat info;
  if (lstat(dir, &info) == 0) SL_FAIL(SL_ERROR_FILE, "%s: expected a folder that does not exist yet, found one", dir);
  if (errno != ENOENT) SL_FAIL(SL_ERROR_FILE, "%s: %s", dir, strerror(errno));
  return SL_OK;
}

/* What is missing altogether is told where it is opened. */
static sl_status check_folder(const char *dir) {
  struct stat info;
  if (stat(dir, &info) == 0 && !S_ISDIR(info.st_mode))
    SL_FAIL(SL_ERROR_FILE, "%s: expected a folder with weights and config.json, found a file", dir);
  return SL_OK;
}

static sl_status tell_sizes(sl_conversion *c) {
  SL_TRY(sl_conversion_tell(c->summary, "tensors", json_integer(c->n_tensor)));
  return sl_conversion_tell(c->summary, "bytes", json_integer((json_int_t)c->n_bytes));
}

static sl_status build(sl_conversion *c) {
  SL_TRY(write_weights(c));
  SL_TRY(sl_conversion_copy_files(c));
  c->n_done = c->n_bytes;
  return sl_conversion_progress(c);
}

static sl_status build_folder(sl_conversion *c) {
  char *dir = NULL, *parent = NULL, *building = NULL;
  const char *base;
  int lock = -1;
  sl_status status = sl_folder_split(c->request->out_dir, &dir, &parent, &base);
  if (!status) status = check_free(dir);
  if (!status) sl_folder_remove_stale(parent, base); /* of conversions that were killed */
  if (!status) status = sl_folder_make_hidden(&building, &lock, parent, base);
  c->building = building;
  if (!status) status = build(c);
  if (!status) status = sl_folder_place(building, dir); /* somebody may have made it since: that stays */
  if (status && building) sl_folder_remove(building);
  if (lock >= 0) close(lock);
  free(building);
  free(parent);
  free(dir);
  return status;
}

/* ---- the whole ---- */

static sl_status read_dtype(sl_conversion *c) {
  static const struct {
    const char *name;
    sl_dtype dtype;
  } types[] = {{"f32", SL_F32}, {"f16", SL_F16}, {"bf16", SL_BF16}};
  c->dtype = SL_DTYPE_COUNT;
  if (!c->request->dtype) return SL_OK;
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    if (strcmp(c->request->dtype, types[i].name) == 0) c->dtype = types[i].dtype;
  if (c->dtype == SL_DTYPE_COUNT)
    SL_FAIL(SL_ERROR_ARGUMENT, "dtype: expected f32, f16 or bf16, found \"%s\"", c->request->dtype);
  return SL_OK;
}

static sl_status convert(sl_conversion *c) {
  SL_TRY(read_dtype(c));
  SL_TRY(check_free(c->request->out_dir)); /* before anything large is opened */
  SL_TRY(check_folder(c->request->model_dir));
  SL_TRY(sl_safetensors_open(&c->model, c->request->model_dir));
  if (c->request->delta_base) SL_TRY(sl_safetensors_open(&c->base, c->request->delta_base));
  SL_TRY(sl_conversion_tell(c->summary, "out", sl_json_text(c->request->out_dir, strlen(c->request->out_dir))));
  SL_TRY(sl_conversion_plan(c));
  SL_TRY(tell_sizes(c));
  return build_folder(c);
}

sl_status sl_convert(const sl_convert_request *request, char **summary) {
  *summary = NULL;
  if (!request || request->size != sizeof *request || !request->model_dir || !request->out_dir)
    SL_FAIL(SL_ERROR_ARGUMENT, "convert: expected a request with its size, a model and a folder to make");
  sl_conversion c = {.request = request, .summary = json_object()};
  sl_status status = c.summary ? convert(&c) : sl_fail(SL_ERROR_MEMORY, "no memory for the summary");
  if (!status) status = sl_json_print(c.summary, 2, summary);
  sl_safetensors_close(c.model);
  sl_safetensors_close(c.base);
  free(c.tensors);
  free(c.ingredients);
  json_decref(c.summary);
  return status;
}
