/* A golden checkpoint with its first picture and question, analyses run over it into run directories, and plans that a
 * test writes by itself. */
#ifndef TESTS_ABLATION_FIXTURE_H
#define TESTS_ABLATION_FIXTURE_H

#include "golden.h"

#include <sys/stat.h>
#include <unistd.h>

#include "analysis/shared.h"

typedef struct fixture {
  golden g;
  sl_model *model;
  sl_session *session;
  sl_layout layout;
  sl_image *image;
  const float *pixels;
  sl_answer_token answer[3];
  sl_cancel *cancel;
  sl_shared shared;
  sl_option_value options[8];
  int L, H, n;
  sl_analysis_context context;
  char dir[64]; /* run directories */
} fixture;

static inline fixture *set_up(const char *folder, const char *name) {
  fixture *f = calloc(1, sizeof *f);
  f->g = golden_open(folder);
  const sl_model_options options = {.size = sizeof options, .backend = "cpu", .compute = "f32", .n_thread = 1};
  ASSERT_OK(sl_model_open(&f->model, f->g.dir, &options));
  ASSERT_OK(sl_session_new(&f->session, f->model, 1));
  ASSERT_OK(sl_cancel_new(&f->cancel));
  sl_session_set_cancel(f->session, &f->cancel->requested);
  ASSERT_OK(sl_layout_build(&f->layout, f->model, NULL, golden_string(&f->g, name, "prompt"), true));
  f->pixels = golden_find(&f->g, name, "pixels")->data;
  ASSERT_OK(sl_image_encode(&f->image, f->session, f->pixels, NULL, NULL, false));
  float logit[3];
  ASSERT_OK(sl_session_greedy(f->session, &f->layout, f->image, 3, NULL, logit));
  const int n_answer = f->layout.n_token - f->layout.n_prompt;
  for (int a = 0; a < n_answer; a++)
    f->answer[a] = (sl_answer_token){.id = f->layout.ids[f->layout.n_prompt + a], .logit = logit[a]};
  const sl_part_shape *shape = &sl_model_get_shape(f->model)->decoder;
  f->L = shape->n_layer, f->H = shape->n_head, f->n = f->L * f->H;
  f->context = (sl_analysis_context){.model = f->model, .session = f->session, .pixels = f->pixels, .image = f->image,
                                     .layout = &f->layout, .answer = f->answer, .n_answer = n_answer,
                                     .seed = 7, .warnings = json_array(), .cancel = f->cancel, .shared = &f->shared,
                                     .options = f->options};
  snprintf(f->dir, sizeof f->dir, "/tmp/sl_test_XXXXXX");
  assert_non_null(mkdtemp(f->dir));
  return f;
}

static inline void tear_down(fixture *f) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", f->dir);
  assert_int_equal(system(command), 0);
  sl_shared_dispose(&f->shared);
  json_decref(f->context.said);
  json_decref(f->context.warnings);
  sl_image_free(f->image);
  sl_layout_dispose(&f->layout);
  sl_session_free(f->session);
  sl_cancel_free(f->cancel);
  sl_model_close(f->model);
  golden_close(&f->g);
  free(f);
}

static inline const sl_analysis *analysis_named(const char *name) {
  for (int i = 0; sl_analyses[i]; i++)
    if (strcmp(sl_analyses[i]->info.name, name) == 0) return sl_analyses[i];
  fail_msg("no analysis %s", name);
  return NULL;
}

static inline void set_options(fixture *f, const char *const *pairs) {
  f->context.n_option = 0;
  for (int i = 0; pairs && pairs[i]; i += 2)
    f->options[f->context.n_option++] = (sl_option_value){pairs[i], pairs[i + 1]};
}

/* Runs one analysis into DIR/name and opens what it left. */
static inline sl_run_reader *run_into(fixture *f, const char *name, const char *analysis, const char *const *pairs) {
  char path[128];
  sl_run_reader *reader = NULL;
  set_options(f, pairs);
  snprintf(path, sizeof path, "%s/%s", f->dir, name);
  ASSERT_OK(sl_run_new(&f->context.run, path, false));
  json_decref(f->context.said);
  f->context.said = json_object();
  f->context.info = &analysis_named(analysis)->info;
  ASSERT_OK(analysis_named(analysis)->check(&f->context));
  ASSERT_OK(analysis_named(analysis)->run(&f->context));
  json_object_set_new(sl_run_json(f->context.run), "sightline", json_string("test"));
  json_object_set_new(sl_run_json(f->context.run), "analyses", json_pack("{s:O}", analysis, f->context.said));
  ASSERT_OK(sl_run_commit(f->context.run));
  sl_run_free(f->context.run);
  f->context.run = NULL;
  ASSERT_OK(sl_run_open(&reader, path));
  return reader;
}

static inline const float *floats(const sl_run_reader *reader, const char *name) {
  const sl_tensor *tensor = NULL;
  ASSERT_OK(sl_run_get(reader, name, &tensor));
  return tensor->data;
}

static inline int64_t length(const sl_run_reader *reader, const char *name) {
  const sl_tensor *tensor = NULL;
  ASSERT_OK(sl_run_get(reader, name, &tensor));
  return tensor->shape[0];
}

static inline double said(const fixture *f, const char *path) {
  const json_t *value = sl_json_at(f->context.said, path);
  if (!json_is_number(value)) fail_msg("run.json says nothing of %s", path);
  return json_number_value(value);
}

typedef struct taken {
  int n_vocab;
  int32_t id;
  double *logit;
} taken;

static sl_status take_logit(void *user, int plan, const float *logits) {
  const taken *t = user;
  t->logit[plan] = (double)logits[t->id];
  return SL_OK;
}

/* The first answer token's logit under plans written by the test. */
static inline void logits_under(fixture *f, const sl_plan *plans, int n_plan, const sl_baseline *baseline,
                                double *logit) {
  const sl_trunk *trunk;
  const int row = f->layout.n_prompt - 1;
  taken t = {.id = f->answer[0].id, .logit = logit};
  ASSERT_OK(sl_context_trunk(&f->context, false, &trunk));
  const sl_branch_request request = {.trunk = trunk, .plans = plans, .n_plan = n_plan, .baselines = &baseline,
                                     .n_baseline = baseline ? 1 : 0, .rows = &row, .n_row = 1, .take = take_logit,
                                     .user = &t};
  ASSERT_OK(sl_branches_run(f->session, &request));
}

/* A progress function that interrupts. */
typedef struct stopper {
  sl_cancel *cancel;
  double at; /* branches after which it stops */
} stopper;

static inline bool stop_after(void *user, const char *what, double done, double total) {
  (void)what;
  const stopper *s = user;
  if (total > 1 && done >= s->at) sl_cancel_request(s->cancel);
  return true;
}

#endif
