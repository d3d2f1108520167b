/* Holding a new run against the one that it goes on with, by their run.json. What differs is named; values that two
 * equal runs may differ in (time, threads, batch size, paths of files with equal content) are not looked at. And what an
 * interrupted new run takes over from the earlier one, whose place it takes. */
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

/* Whether the new run has got at least as far with an analysis: has all of its masks where it draws some (the rest follows
 * from them), else all of its results. */
static bool got_as_far(const sl_run_reader *earlier, const sl_run *run, const char *analysis) {
  bool draws = false, has_all = true, has_masks = true;
  for (int i = 0; i < sl_run_count(earlier); i++) {
    const sl_tensor *was = sl_run_at(earlier, i), *is = find(run, was->name);
    if (!is_of(was, analysis)) continue;
    has_all = has_all && is;
    if (!are_masks(was)) continue;
    draws = true;
    has_masks = has_masks && is && is->shape[0] >= was->shape[0];
  }
  return draws ? has_masks : has_all;
}

static sl_status take_tensors(const sl_run_reader *earlier, sl_run *run, const char *analysis) {
  for (int i = 0; i < sl_run_count(earlier); i++) {
    const sl_tensor *t = sl_run_at(earlier, i);
    if (analysis ? !is_of(t, analysis) : find(run, t->name) || !sl_result_find(t->name)) continue;
    SL_TRY(sl_run_put(run, t->name, t->dtype, t->n_dim, t->shape, t->data));
  }
  return SL_OK;
}

sl_status sl_resume_take_over(const sl_run_reader *earlier, sl_run *run, json_t *root) {
  json_t *was = sl_run_root(earlier), *analyses = json_object_get(root, "analyses"), *value;
  const char *name;
  json_object_foreach(json_object_get(was, "analyses"), name, value) {
    char prefix[64], path[80];
    if (json_object_get(analyses, name) && got_as_far(earlier, run, name)) continue;
    snprintf(prefix, sizeof prefix, "%s.", name);
    snprintf(path, sizeof path, "options.%s", name);
    SL_TRY(sl_run_drop(run, prefix));
    SL_TRY(take_tensors(earlier, run, name));
    SL_TRY(sl_run_json_set(analyses, name, json_incref(value)));
    if (sl_json_at(was, path)) SL_TRY(sl_run_json_set(json_object_get(root, "options"), name, json_incref(sl_json_at(was, path))));
  }
  return take_tensors(earlier, run, NULL); /* what belongs to no analysis: recorded sites, logits */
}
