/* What tests of interventions share: a golden trunk (tests/golden/branch) with its session, runs of one analysis
 * through a run directory, and the golden logits of a plan. */
#ifndef TESTS_INTERVENTION_H
#define TESTS_INTERVENTION_H

#include "golden.h"

#include <unistd.h>

#include "analysis/shared.h"

#define TOLERANCE 1e-4 /* of the largest value */

/* ---- one picture, one prompt, three forced tokens ---- */

static const int32_t forced[3] = {40, 191, 105}; /* tools/golden/branch.py's ANSWER */

typedef struct fixture {
  golden g, branch;
  const char *trunk;
  sl_model *model;
  sl_session *session;
  sl_layout layout;
  sl_image *image;
  sl_cancel *cancel;
  sl_answer_token answer[3];
  sl_shared shared;
  sl_analysis_context context;
  char dir[64];
} fixture;

static inline const json_t *trunk_facts(const fixture *f, const char *name) {
  size_t i;
  json_t *one;
  json_array_foreach(json_object_get(f->branch.facts, "trunks"), i, one) {
    if (strcmp(json_string_value(json_object_get(one, "name")), name) == 0) return one;
  }
  fail_msg("no golden trunk %s", name);
  return NULL;
}

/* The golden trunk of that name (picture a), or with `prompt` another text about the same picture. */
static inline fixture *set_up_prompt(const char *folder, const char *trunk, const char *prompt) {
  fixture *f = calloc(1, sizeof *f);
  char name[64];
  snprintf(name, sizeof name, "branch/%s", folder);
  f->g = golden_open(folder);
  f->branch = golden_open(name);
  f->trunk = trunk;
  if (!prompt) prompt = json_string_value(json_object_get(trunk_facts(f, trunk), "prompt"));
  const sl_model_options options = {.size = sizeof options, .backend = "cpu", .compute = "f32", .n_thread = 1};
  ASSERT_OK(sl_model_open(&f->model, f->g.dir, &options));
  ASSERT_OK(sl_session_new(&f->session, f->model, 1));
  ASSERT_OK(sl_cancel_new(&f->cancel));
  ASSERT_OK(sl_layout_build(&f->layout, f->model, NULL, prompt, true));
  ASSERT_OK(sl_layout_append(&f->layout, f->model, forced, 3));
  const float *pixels = golden_find(&f->g, "c0", "pixels")->data;
  ASSERT_OK(sl_image_encode(&f->image, f->session, pixels, NULL, NULL, false));
  for (int a = 0; a < 3; a++) f->answer[a] = (sl_answer_token){.id = forced[a]};
  f->context = (sl_analysis_context){.model = f->model, .session = f->session, .pixels = pixels, .image = f->image,
                                     .layout = &f->layout, .answer = f->answer, .n_answer = 3, .seed = 7,
                                     .info = &sl_cliff_analysis.info, .said = json_object(), .warnings = json_array(),
                                     .cancel = f->cancel, .shared = &f->shared};
  snprintf(f->dir, sizeof f->dir, "/tmp/sl_test_interventions_XXXXXX");
  assert_non_null(mkdtemp(f->dir));
  return f;
}

static inline fixture *set_up(const char *folder, const char *trunk) { return set_up_prompt(folder, trunk, NULL); }

static inline void tear_down(fixture *f) {
  char command[96];
  snprintf(command, sizeof command, "rm -rf '%s'", f->dir);
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
  golden_close(&f->branch);
  free(f);
}

static inline int layers(const fixture *f) { return sl_model_get_shape(f->model)->decoder.n_layer; }
static inline int vocabulary(const fixture *f) { return sl_model_get_shape(f->model)->n_vocab; }

static inline void set_options(fixture *f, const sl_analysis *analysis, const sl_option_value *options, int n) {
  f->context.info = &analysis->info;
  f->context.options = options;
  f->context.n_option = n;
  json_decref(f->context.said);
  f->context.said = json_object();
}

/* Checks and runs an analysis into a run directory and opens that. */
static inline sl_run_reader *run(fixture *f, const sl_analysis *analysis, const sl_option_value *options, int n) {
  char path[96];
  sl_run_reader *reader = NULL;
  snprintf(path, sizeof path, "%s/run", f->dir);
  set_options(f, analysis, options, n);
  ASSERT_OK(sl_run_new(&f->context.run, path, true));
  json_object_set_new(sl_run_json(f->context.run), "sightline", json_string("test"));
  if (analysis->check) ASSERT_OK(analysis->check(&f->context));
  assert_true(analysis->passes(&f->context) > 0);
  ASSERT_OK(analysis->run(&f->context));
  ASSERT_OK(sl_run_commit(f->context.run));
  sl_run_free(f->context.run);
  f->context.run = NULL;
  ASSERT_OK(sl_run_open(&reader, path));
  return reader;
}

static inline const sl_tensor *tensor(const sl_run_reader *reader, const char *name) {
  const sl_tensor *t = NULL;
  ASSERT_OK(sl_run_get(reader, name, &t));
  return t;
}

static inline const float *floats(const sl_run_reader *reader, const char *name) { return tensor(reader, name)->data; }
static const int32_t *ints(const sl_run_reader *reader, const char *name) { return tensor(reader, name)->data; }

static inline void expect_near(double got, double want, double scale, const char *what) {
  if (!(fabs(got - want) <= TOLERANCE * scale)) fail_msg("%s: got %.9g, expected %.9g", what, got, want);
}

/* Logits of the trunk's last prompt row by a plain forward pass, [V]. */
static inline float *plain_logits(fixture *f) {
  float *logits = malloc((size_t)vocabulary(f) * sizeof *logits);
  const int row = f->layout.n_prompt - 1;
  ASSERT_OK(sl_session_forward(f->session, &f->layout, f->image, &row, 1, logits, NULL, false));
  return logits;
}

static inline double probability(const float *z, int n, int32_t id) {
  double top = -INFINITY, sum = 0;
  for (int v = 0; v < n; v++) top = fmax(top, (double)z[v]);
  for (int v = 0; v < n; v++) sum += exp((double)z[v] - top);
  return exp((double)z[id] - top) / sum;
}

/* The golden logits of a plan at the last prompt row, by column; NULL when the folder has no such plan. *scale gets the
 * largest of the trunk. */
static inline const float *golden_logits(const fixture *f, const char *plan, double *scale) {
  const sl_tensor *all = golden_find(&f->branch, f->trunk, "logits");
  int index = 0;
  size_t i;
  json_t *one;
  *scale = 0;
  for (int64_t v = 0; v < sl_tensor_count(all); v++) *scale = fmax(*scale, fabs((double)((const float *)all->data)[v]));
  json_array_foreach(json_object_get(f->branch.facts, "cases"), i, one) {
    if (strcmp(json_string_value(json_object_get(one, "trunk")), f->trunk) != 0) continue;
    if (strcmp(json_string_value(json_object_get(one, "name")), plan) == 0)
      return (const float *)all->data + (index * all->shape[1] + 1) * all->shape[2];
    index++;
  }
  return NULL;
}

static inline int32_t column(const fixture *f, int i) {
  return (int32_t)json_integer_value(json_array_get(json_object_get(f->branch.facts, "columns"), (size_t)i));
}

typedef struct taken {
  float *logits;
  int n_vocab;
} taken;

static inline sl_status take_logits(void *user, int plan, const float *logits) {
  taken *t = user;
  memcpy(t->logits + (int64_t)plan * t->n_vocab, logits, (size_t)t->n_vocab * sizeof *logits);
  return SL_OK;
}

/* Logits of a plan at the last prompt row. */
static inline float *branch_logits(fixture *f, const sl_plan *plan) {
  const sl_trunk *trunk;
  taken t = {malloc((size_t)vocabulary(f) * sizeof(float)), vocabulary(f)};
  ASSERT_OK(sl_context_trunk(&f->context, true, &trunk));
  const sl_branch_request request = {.trunk = trunk, .plans = plan, .n_plan = 1, .rows = &(int){f->layout.n_prompt - 1},
                                     .n_row = 1, .take = take_logits, .user = &t};
  ASSERT_OK(sl_branches_run(f->session, &request));
  return t.logits;
}

#endif
