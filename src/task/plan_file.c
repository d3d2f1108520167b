/* Plan files, and making what they refer to. */
#include "task/plan_file.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/text.h"

#define MAX_FILE_BYTES ((size_t)64 << 20)

/* ---- baselines ---- */

/* A spec is what --baseline and --calibration say in one word, so the analyses' reader of those two options reads it.
 */
static const sl_option_info options[] = {SL_BASELINE_OPTIONS};
static const sl_analysis_info plan_info = {
    .name = "plan", .options = options, .n_option = sizeof options / sizeof *options};

typedef struct spec_options {
  sl_option_value values[2];
  int n;
} spec_options;

static sl_status read_spec(spec_options *o, const char *spec, const char *where) {
  static const char *const folders[] = {"mean", "mean-all"};
  for (int i = 0; i < 2; i++) {
    const size_t n = strlen(folders[i]);
    if (strncmp(spec, folders[i], n) != 0 || spec[n] != ':' || !spec[n + 1]) continue;
    *o = (spec_options){{{"baseline", folders[i]}, {"calibration", spec + n + 1}}, 2};
    return SL_OK;
  }
  *o = (spec_options){{{"baseline", spec}}, 1};
  if (strcmp(spec, "zero") == 0 || (strncmp(spec, "image:", 6) == 0 && spec[6])) return SL_OK;
  SL_FAIL(SL_ERROR_FORMAT,
          "%s: expected \"zero\", \"mean:FOLDER\", \"mean-all:FOLDER\" or \"image:FILE\", found \"%s\"", where, spec);
}

static sl_status place_error(sl_status status, const char *where) {
  return status == SL_OK || status == SL_ERROR_CANCELLED ? status
                                                         : sl_fail(status, "%s: %s", where, sl_error_message());
}

sl_status sl_baseline_check_spec(const char *spec, const char *where) {
  spec_options o;
  SL_TRY(read_spec(&o, spec, where));
  const sl_analysis_context context = {.info = &plan_info, .options = o.values, .n_option = o.n};
  return place_error(sl_standin_check(&context), where);
}

sl_status sl_baseline_from_spec(sl_standin *out, const sl_analysis_context *c, const char *spec, const char *where) {
  spec_options o;
  sl_analysis_context context = *c;
  SL_TRY(read_spec(&o, spec, where));
  context.info = &plan_info;
  context.options = o.values;
  context.n_option = o.n;
  return place_error(sl_standin_make(out, &context), where);
}

/* ---- files ---- */

static sl_status read_baselines(sl_plan_file *f, const char *path) {
  const json_t *list = json_object_get(f->json, "baselines");
  if (list && !json_is_array(list)) SL_FAIL(SL_ERROR_FORMAT, "%s: \"baselines\": expected an array of texts", path);
  if (json_array_size(list) > SL_MAX_BASELINE)
    SL_FAIL(SL_ERROR_FORMAT, "%s: %zu baselines; at most %d can be used at once", path, json_array_size(list),
            SL_MAX_BASELINE);
  for (size_t i = 0; i < json_array_size(list); i++) {
    char where[256];
    snprintf(where, sizeof where, "%s: baseline %zu", path, i);
    const char *spec = json_string_value(json_array_get(list, i));
    if (!spec) SL_FAIL(SL_ERROR_FORMAT, "%s: expected a text", where);
    SL_TRY(sl_baseline_check_spec(spec, where));
    f->baselines[f->n_baseline++] = spec;
  }
  return SL_OK;
}

static sl_status read_run(sl_plan_file *f, const json_t *object, const char *where) {
  const char *key;
  json_t *value;
  struct stat info;
  if (!json_is_object(object)) SL_FAIL(SL_ERROR_FORMAT, "%s: expected an object with \"image\" and \"prompt\"", where);
  json_object_foreach((json_t *)object, key, value) {
    if (strcmp(key, "image") != 0 && strcmp(key, "prompt") != 0)
      SL_FAIL(SL_ERROR_FORMAT, "%s: unknown key \"%s\"; a run has \"image\" and \"prompt\"", where, key);
    if (!json_is_string(value)) SL_FAIL(SL_ERROR_FORMAT, "%s: \"%s\": expected a text", where, key);
  }
  const char *image = json_string_value(json_object_get(object, "image"));
  if (image && stat(image, &info) != 0) SL_FAIL(SL_ERROR_FILE, "%s: %s: %s", where, image, strerror(errno));
  f->runs[f->n_run].image_path = image;
  f->runs[f->n_run++].question = json_string_value(json_object_get(object, "prompt"));
  return SL_OK;
}

static sl_status read_runs(sl_plan_file *f, const char *path) {
  const json_t *list = json_object_get(f->json, "runs");
  if (list && !json_is_array(list)) SL_FAIL(SL_ERROR_FORMAT, "%s: \"runs\": expected an array of objects", path);
  if (json_array_size(list) > SL_MAX_PLAN_RUN)
    SL_FAIL(SL_ERROR_FORMAT, "%s: %zu runs; at most %d can be used at once", path, json_array_size(list),
            SL_MAX_PLAN_RUN);
  for (size_t i = 0; i < json_array_size(list); i++) {
    char where[256];
    snprintf(where, sizeof where, "%s: run %zu", path, i);
    SL_TRY(read_run(f, json_array_get(list, i), where));
  }
  return SL_OK;
}

/* The plan alone: what is left of the file without its two lists. */
static sl_status read_plan(sl_plan_file *f, const char *path) {
  json_t *alone = json_copy(f->json);
  if (!alone) SL_FAIL(SL_ERROR_MEMORY, "%s: no memory", path);
  json_object_del(alone, "baselines");
  json_object_del(alone, "runs");
  const sl_status status = sl_plan_from_json(&f->plan, alone, path);
  json_decref(alone);
  return status;
}

sl_status sl_plan_file_load(sl_plan_file *out, const char *path) {
  *out = (sl_plan_file){0};
  sl_status status = sl_json_load(&out->json, path, MAX_FILE_BYTES);
  if (status == SL_OK) status = read_plan(out, path);
  if (status == SL_OK) status = read_baselines(out, path);
  if (status == SL_OK) status = read_runs(out, path);
  if (status != SL_OK) sl_plan_file_dispose(out);
  return status;
}

void sl_plan_file_dispose(sl_plan_file *file) {
  sl_plan_dispose(&file->plan);
  json_decref(file->json);
  *file = (sl_plan_file){0};
}

/* ---- against a model ---- */

bool sl_plan_reaches_prefix(const sl_plan *plan, int first_text) {
  for (int i = 0; i < plan->n_rule; i++)
    if (sl_set_any(&plan->rules[i].queries, first_text)) return true;
  for (int i = 0; i < plan->n_edit; i++)
    if (sl_set_any(&plan->edits[i].positions, first_text)) return true;
  return false;
}

/* ---- other runs ---- */

/* The question's own layout, or the context's prompt; then the context's answer. */
static sl_status run_layout(sl_layout *out, const sl_analysis_context *c, const sl_pack *pack, const char *question) {
  const sl_layout *own = c->layout;
  SL_TRY(sl_layout_build(out, c->model, pack, question ? question : own->text, !question));
  if (own->n_token == own->n_prompt) return SL_OK;
  return sl_layout_append(out, c->model, own->ids + own->n_prompt, own->n_token - own->n_prompt);
}

sl_status sl_plan_run_make(sl_plan_run *out, sl_analysis_context *c, const char *image_path, const char *question) {
  sl_image *image = NULL;
  sl_layout layout = {0};
  sl_pack pack = {0};
  *out = (sl_plan_run){0};
  sl_status status = SL_OK;
  if (image_path) {
    status = sl_context_encode_file(c, image_path, question ? question : c->question, &pack, &image);
  } else if (question && sl_model_reads_question(c->model)) { /* the same picture, read for the other question */
    status = sl_pack_for_question(&pack, c->model, c->pack, question);
    if (status == SL_OK) status = sl_image_encode(&image, c->session, c->pixels, &pack, NULL, false);
  }
  if (status == SL_OK) status = run_layout(&layout, c, image ? &pack : c->pack, question);
  if (status == SL_OK) status = sl_prefix_new(&out->prefix, c->session, &layout, image ? image : c->image, true, NULL);
  if (status == SL_OK) status = sl_trunk_new(&out->trunk, c->session, out->prefix, &layout, NULL);
  sl_image_free(image);
  sl_layout_dispose(&layout);
  sl_pack_dispose(&pack);
  if (status != SL_OK) sl_plan_run_dispose(out);
  return status;
}

void sl_plan_run_dispose(sl_plan_run *run) {
  sl_trunk_free(run->trunk);
  sl_prefix_free(run->prefix);
  *run = (sl_plan_run){0};
}
