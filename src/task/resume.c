/* Holding a new run against the one that it goes on with, by their run.json. What differs is named; values that two
 * equal runs may differ in (time, threads, batch size, paths of files with equal content) are not looked at. And what
 * an interrupted new run takes over from the earlier one, whose place it takes. */
#include "task/resume.h"

#include <stdlib.h>
#include <string.h>

#include "task/run_json.h"

/* The values as run.json prints them: a number read back has lost digits that were never written. */
static sl_status compare(const sl_run_reader *earlier, json_t *now, const char *path, const char *what) {
  const json_t *a = sl_json_at(sl_run_root(earlier), path), *b = sl_json_at(now, path);
  char *was = NULL, *is = NULL;
  sl_status status = a ? sl_json_print(a, 0, &was) : sl_strdup(&was, "none");
  if (status == SL_OK) status = b ? sl_json_print(b, 0, &is) : sl_strdup(&is, "none");
  if (status == SL_OK && strcmp(was, is) != 0)
    status = sl_fail(SL_ERROR_ARGUMENT, "%s cannot be resumed: its %s is %.200s, now it is %.200s", sl_run_dir(earlier),
                     what, was, is);
  free(was);
  free(is);
  return status;
}

static sl_status compare_early(const sl_run_reader *earlier, json_t *now) {
  SL_TRY(compare(earlier, now, "image.hash", "picture's hash"));
  SL_TRY(compare(earlier, now, "prompt.question", "prompt"));
  SL_TRY(compare(earlier, now, "prompt.raw", "--raw-prompt"));
  return compare(earlier, now, "seed", "--seed");
}

sl_status sl_resume_open(sl_run_reader **out, const sl_trace_request *r, const sl_picture *picture) {
  json_t *image = NULL, *now = NULL;
  SL_TRY(sl_run_open(out, r->out_dir));
  sl_status status = sl_picture_to_json(picture, &image);
  if (status == SL_OK) {
    now = json_pack("{s:o, s:{s:s, s:b}, s:I}", "image", image, "prompt", "question", r->question, "raw",
                    (int)r->raw_prompt, "seed", (json_int_t)r->seed);
    status = now ? compare_early(*out, now) : sl_fail(SL_ERROR_MEMORY, "no memory to compare runs");
  }
  json_decref(now);
  if (status == SL_OK) return SL_OK;
  sl_run_close(*out);
  *out = NULL;
  return status;
}

/* Ids of all tokens: prompt, template and answer at once. */
static sl_status compare_tokens(const sl_run_reader *earlier, json_t *now) {
  const json_t *a = sl_json_at(sl_run_root(earlier), "tokens"), *b = sl_json_at(now, "tokens");
  size_t i = 0;
  while (i < json_array_size(a) && i < json_array_size(b) &&
         json_equal(json_object_get(json_array_get(a, i), "id"), json_object_get(json_array_get(b, i), "id")))
    i++;
  if (i == json_array_size(a) && i == json_array_size(b)) return SL_OK;
  SL_TRY(compare(earlier, now, "prompt.answer", "answer"));
  SL_FAIL(SL_ERROR_ARGUMENT, "%s cannot be resumed: token %zu differs", sl_run_dir(earlier), i);
}

static sl_status compare_options(const sl_run_reader *earlier, json_t *now, const sl_analysis_info *info) {
  for (int i = 0; i < info->n_option; i++) {
    char path[160], what[160];
    if (info->options[i].may_change) continue;
    snprintf(path, sizeof path, "options.%s.%s", info->name, info->options[i].name);
    snprintf(what, sizeof what, "--%s of %s", info->options[i].name, info->name);
    SL_TRY(compare(earlier, now, path, what));
  }
  return SL_OK;
}

/* The new folder takes the place of the old one: nothing that is there may be lost. */
static sl_status compare_analyses(const sl_run_reader *earlier, json_t *now) {
  const json_t *options = json_object_get(now, "options");
  const char *name;
  json_t *value;
  json_object_foreach(sl_json_at(sl_run_root(earlier), "analyses"), name, value) {
    if (!json_object_get(options, name))
      SL_FAIL(SL_ERROR_ARGUMENT, "%s cannot be resumed by this command: it holds results of %s, which would be lost",
              sl_run_dir(earlier), name);
  }
  json_object_foreach((json_t *)options, name, value) {
    const sl_analysis_info *info = sl_analysis_find(name);
    if (info && sl_json_at(sl_run_root(earlier), "options") &&
        json_object_get(sl_json_at(sl_run_root(earlier), "options"), name))
      SL_TRY(compare_options(earlier, now, info));
  }
  return SL_OK;
}

sl_status sl_resume_check_run(const sl_run_reader *earlier, json_t *root) {
  SL_TRY(compare(earlier, root, "model.hash", "model's hash"));
  SL_TRY(compare(earlier, root, "compute.mode", "compute mode (--dtype)"));
  SL_TRY(compare(earlier, root, "compute.backend", "--device"));
  SL_TRY(compare_tokens(earlier, root));
  return compare_analyses(earlier, root);
}

/* ---- after an interruption ---- */

static const sl_tensor *find(const sl_run *run, const char *name) {
  int n = 0;
  const sl_tensor *tensors = sl_run_tensors(run, &n);
  for (int i = 0; i < n; i++)
    if (strcmp(tensors[i].name, name) == 0) return &tensors[i];
  return NULL;
}

static bool is_of(const sl_tensor *tensor, const char *analysis) {
  const size_t n = strlen(analysis);
  return strncmp(tensor->name, analysis, n) == 0 && tensor->name[n] == '.';
}

static bool are_masks(const sl_tensor *tensor) {
  const size_t n = strlen(tensor->name);
  return n >= 5 && strcmp(tensor->name + n - 5, "masks") == 0;
}

/* Whether the new run has got at least as far with an analysis: has all of its results, or has drawn more masks (the
 * rest follows from them). */
static bool got_as_far(const sl_run_reader *earlier, const sl_run *run, const char *analysis) {
  bool has_all = true, fewer = false, more = false;
  for (int i = 0; i < sl_run_count(earlier); i++) {
    const sl_tensor *was = sl_run_at(earlier, i), *is = find(run, was->name);
    if (!is_of(was, analysis)) continue;
    has_all = has_all && is;
    if (!are_masks(was)) continue;
    fewer = fewer || !is || is->shape[0] < was->shape[0];
    more = more || (is && is->shape[0] > was->shape[0]);
  }
  return !fewer && (has_all || more);
}

static sl_status take_tensor(sl_run *run, const sl_tensor *t) {
  return sl_run_put(run, t->name, t->dtype, t->n_dim, t->shape, t->data);
}

/* Tensors of an analysis, which the new run has none of. */
static sl_status take_results(const sl_run_reader *earlier, sl_run *run, const char *analysis) {
  for (int i = 0; i < sl_run_count(earlier); i++)
    if (is_of(sl_run_at(earlier, i), analysis)) SL_TRY(take_tensor(run, sl_run_at(earlier, i)));
  return SL_OK;
}

/* What belongs to no analysis: recorded sites, logits. */
static sl_status take_others(const sl_run_reader *earlier, sl_run *run) {
  for (int i = 0; i < sl_run_count(earlier); i++) {
    const sl_tensor *t = sl_run_at(earlier, i);
    bool owned = find(run, t->name) || !sl_result_find(t->name);
    for (int k = 0; k < sl_analysis_count() && !owned; k++) owned = is_of(t, sl_analysis_at(k)->name);
    if (!owned) SL_TRY(take_tensor(run, t));
  }
  return SL_OK;
}

/* Warnings begin with the analysis that they are of. */
static sl_status take_warnings(json_t *was, json_t *root, const char *analysis) {
  const json_t *line;
  size_t i;
  json_array_foreach(json_object_get(was, "warnings"), i, line) {
    const char *text = json_string_value(line);
    if (!text || strncmp(text, analysis, strlen(analysis)) != 0) continue;
    if (json_array_append(json_object_get(root, "warnings"), (json_t *)line) != 0)
      SL_FAIL(SL_ERROR_MEMORY, "no memory for warnings");
  }
  return SL_OK;
}

/* One analysis as the earlier run has it, in place of what the new one has. */
static sl_status take_analysis(const sl_run_reader *earlier, sl_run *run, json_t *root, const char *name) {
  json_t *was = sl_run_root(earlier), *options = json_object_get(json_object_get(was, "options"), name);
  char prefix[64];
  snprintf(prefix, sizeof prefix, "%s.", name);
  SL_TRY(sl_run_drop(run, prefix));
  SL_TRY(take_results(earlier, run, name));
  SL_TRY(sl_run_json_set(json_object_get(root, "analyses"), name,
                         json_incref(json_object_get(json_object_get(was, "analyses"), name))));
  if (options) SL_TRY(sl_run_json_set(json_object_get(root, "options"), name, json_incref(options)));
  return take_warnings(was, root, name);
}

sl_status sl_resume_take_over(const sl_run_reader *earlier, sl_run *run, json_t *root) {
  const char *name;
  json_t *value;
  json_object_foreach(json_object_get(sl_run_root(earlier), "analyses"), name, value) {
    const bool is_there = json_object_get(json_object_get(root, "analyses"), name) != NULL;
    if (!is_there || !got_as_far(earlier, run, name)) SL_TRY(take_analysis(earlier, run, root, name));
  }
  return take_others(earlier, run);
}
