/* A golden case made ready for an analysis: model, picture, answer, and a run directory for its results. */
#ifndef TESTS_ANALYSIS_FIXTURE_H
#define TESTS_ANALYSIS_FIXTURE_H

#include "golden.h"

#include <unistd.h>

#include "analysis/flow.h"
#include "analysis/shared.h"
#include "sightline/sightline.h"
#include "task/answer.h"

#define TOLERANCE 1e-4

static const char *const folders[] = {"llava-gqa", "llava-mha", "llava-orig-pad"};
#define N_FOLDER 3

/* One golden case: its pixels, its prompt, and its first `n_answer` greedy tokens forced. */
typedef struct fixture {
  golden g;
  const char *name;
  sl_model *model;
  sl_session *session;
  sl_layout layout;
  sl_image *image;
  sl_answer answer;
  sl_cancel *cancel;
  sl_shared shared;
  sl_analysis_context context;
} fixture;

static inline fixture *set_up(const char *folder, const char *name, int n_answer) {
  fixture *f = calloc(1, sizeof *f);
  f->g = golden_open(folder);
  f->name = name;
  const sl_model_options options = {.size = sizeof options, .backend = "cpu", .compute = "f32", .n_thread = 1};
  ASSERT_OK(sl_model_open(&f->model, f->g.dir, &options));
  ASSERT_OK(sl_session_new(&f->session, f->model, 1));
  ASSERT_OK(sl_cancel_new(&f->cancel));
  ASSERT_OK(sl_layout_build(&f->layout, f->model, NULL, golden_string(&f->g, name, "prompt"), true));
  const float *pixels = golden_find(&f->g, name, "pixels")->data;
  ASSERT_OK(sl_image_encode(&f->image, f->session, pixels, NULL, NULL, false));
  const sl_answer_request request = {.max_token = n_answer};
  ASSERT_OK(sl_answer_make(&f->answer, f->session, f->model, f->image, &f->layout, &request));
  assert_int_equal(f->answer.n_token, n_answer);
  f->context = (sl_analysis_context){.model = f->model, .session = f->session, .pixels = pixels, .image = f->image,
                                     .layout = &f->layout, .answer = f->answer.tokens, .n_answer = n_answer, .seed = 7,
                                     .info = sl_analysis_find("cam"), .said = json_object(), .warnings = json_array(),
                                     .cancel = f->cancel, .shared = &f->shared};
  return f;
}

static inline void tear_down(fixture *f) {
  sl_shared_dispose(&f->shared);
  json_decref(f->context.said);
  json_decref(f->context.warnings);
  sl_answer_dispose(&f->answer);
  sl_image_free(f->image);
  sl_layout_dispose(&f->layout);
  sl_session_free(f->session);
  sl_cancel_free(f->cancel);
  sl_model_close(f->model);
  golden_close(&f->g);
  free(f);
}

/* `got` against an array of the golden file. */
static inline void expect(const fixture *f, const char *array, const float *got) {
  const sl_tensor *want = golden_find(&f->g, f->name, array);
  if (!want) fail_msg("%s: no golden array %s/%s", f->g.dir, f->name, array);
  const double distance = golden_distance(got, want);
  if (!(distance <= TOLERANCE))
    fail_msg("%s %s/%s: off by %.3g of its largest value", f->g.dir, f->name, array, distance);
}

static inline char *temporary_dir(void) {
  static char path[64];
  snprintf(path, sizeof path, "/tmp/sl_test_analysis_XXXXXX");
  assert_non_null(mkdtemp(path));
  return path;
}

static inline void remove_dir(const char *path) {
  char command[256];
  snprintf(command, sizeof command, "rm -rf '%s'", path);
  assert_int_equal(system(command), 0);
}

/* Runs one analysis of the fixture into a run directory and opens that; flow with a memory limit if that is not 0. */
static inline sl_run_reader *run_limited(fixture *f, const char *name, const char *dir, const sl_option_value *options,
                                         int n, int64_t pattern_bytes) {
  char path[128];
  snprintf(path, sizeof path, "%s/run", dir);
  f->context.info = sl_analysis_find(name);
  f->context.options = options;
  f->context.n_option = n;
  ASSERT_OK(sl_run_new(&f->context.run, path, true));
  json_object_set_new(sl_run_json(f->context.run), "sightline", json_string("test"));
  for (int i = 0; sl_analyses[i]; i++) {
    if (&sl_analyses[i]->info != f->context.info) continue;
    ASSERT_OK(pattern_bytes ? sl_flow_run(&f->context, pattern_bytes) : sl_analyses[i]->run(&f->context));
  }
  ASSERT_OK(sl_run_commit(f->context.run));
  sl_run_free(f->context.run);
  f->context.run = NULL;
  sl_run_reader *reader = NULL;
  ASSERT_OK(sl_run_open(&reader, path));
  return reader;
}

static inline sl_run_reader *run_into(fixture *f, const char *name, const char *dir, const sl_option_value *options,
                                      int n) {
  return run_limited(f, name, dir, options, n, 0);
}

static inline const float *result(const sl_run_reader *reader, const char *name) {
  const sl_tensor *tensor = NULL;
  ASSERT_OK(sl_run_get(reader, name, &tensor));
  return tensor->data;
}

#endif
