/* A golden folder made ready for branches: its model, pictures, prefixes, baselines and trunks, and the plans of
 * tests/golden/branch with the logits of transformers under them (tools/golden/branch.py). */
#ifndef TESTS_BRANCH_WORLD_H
#define TESTS_BRANCH_WORLD_H

#include "golden.h"

#include "model/branch.h"
#include "model/internal.h"

#define MAX_TRUNK 8
#define MAX_PREFIX 16
#define MAX_ROW 4
#define REF_STRIDE 5 /* the reference is slow: it runs some of the plans */

static const struct {
  const char *backend, *compute;
  double tolerance; /* of the largest logit */
} machines[] = {{"ref", "f32", 1e-4}, {"cpu", "f32", 1e-4}, {"cpu", "bf16x2", 1e-3}};
enum { REF, CPU, CPU_BF16X2, N_MACHINE };

/* One trunk of the golden and the plans that it runs. */
typedef struct line {
  const char *name;
  sl_layout layout;
  sl_trunk *trunk;
  sl_baseline **baselines; /* the prefix's, [SL_MAX_BASELINE]; NULL inside when no plan uses them */
  const sl_trunk *runs[2];
  int rows[MAX_ROW], n_row, n_run, n_plan, n_greedy;
  sl_plan *plans, *greedy;
  const char **names, **greedy_names;
  int *numbers; /* of the plans in the golden */
  const json_t **greedy_ids;
} line;

typedef struct world {
  char name[64];
  golden g;
  sl_model *model;
  sl_session *session;
  sl_image *images[3]; /* a, b, and a backwards */
  struct {
    int picture;
    sl_prefix *prefix;
    const sl_layout *layout; /* that it was made of */
    sl_baseline *baselines[SL_MAX_BASELINE];
  } prefixes[MAX_PREFIX];
  line lines[MAX_TRUNK];
  int n_prefix, n_line, n_vocab;
} world;

static inline sl_model *open_model(const char *name, int machine) {
  char dir[600];
  snprintf(dir, sizeof dir, "%s/%s", GOLDEN_DIR, name);
  const sl_model_options options = {.size = sizeof options, .backend = machines[machine].backend,
                                    .compute = machines[machine].compute, .n_thread = 2};
  sl_model *model = NULL;
  ASSERT_OK(sl_model_open(&model, dir, &options));
  return model;
}

/* The pictures as transformers' preprocessing gives them. */
static inline void encode_pictures(world *w, const char *folder) {
  golden g = golden_open(folder);
  for (int i = 0; i < 3; i++) {
    const sl_tensor *pixels = golden_find(&g, i == 1 ? "c1" : "c0", "pixels");
    const int64_t n = sl_tensor_count(pixels);
    float *copy = calloc((size_t)n, sizeof *copy);
    for (int64_t k = 0; k < n; k++) copy[k] = ((const float *)pixels->data)[i == 2 ? n - 1 - k : k];
    ASSERT_OK(sl_image_encode(&w->images[i], w->session, copy, NULL, NULL, false));
    free(copy);
  }
  golden_close(&g);
}

/* The number of the prefix of this layout and picture; texts that begin with the same tokens share it. */
static inline int prefix_for(world *w, const sl_layout *layout, int picture) {
  const size_t n = (size_t)(layout->first_image + layout->n_image);
  for (int i = 0; i < w->n_prefix; i++)
    if (w->prefixes[i].picture == picture && w->prefixes[i].layout->first_image == layout->first_image &&
        memcmp(w->prefixes[i].layout->ids, layout->ids, n * sizeof *layout->ids) == 0)
      return i;
  assert_true(w->n_prefix < MAX_PREFIX);
  w->prefixes[w->n_prefix].picture = picture;
  w->prefixes[w->n_prefix].layout = layout;
  ASSERT_OK(sl_prefix_new(&w->prefixes[w->n_prefix].prefix, w->session, layout, w->images[picture], true, NULL));
  return w->n_prefix++;
}

/* In the golden's order: zero, picture b, mean and mean over positions of a, b and a backwards. */
static inline void make_baselines(world *w, const sl_layout *layout, sl_baseline *out[SL_MAX_BASELINE]) {
  ASSERT_OK(sl_baseline_zero(&out[0], w->session, w->prefixes[prefix_for(w, layout, 0)].prefix));
  ASSERT_OK(sl_baseline_picture(&out[1], w->session, w->prefixes[prefix_for(w, layout, 1)].prefix));
  for (int kind = 2; kind < 4; kind++) {
    sl_calibration *calibration = NULL;
    ASSERT_OK(sl_calibration_new(&calibration, w->session));
    for (int i = 0; i < 3; i++)
      ASSERT_OK(sl_calibration_add(calibration, w->prefixes[prefix_for(w, layout, i)].prefix));
    ASSERT_OK(sl_calibration_finish(&out[kind], calibration, kind == 3));
    sl_calibration_free(calibration);
  }
}

static inline void build_layout(world *w, line *l, const json_t *facts) {
  const json_t *ids = json_object_get(facts, "ids");
  const int n_prompt = (int)json_integer_value(json_object_get(facts, "n_prompt")), n = (int)json_array_size(ids);
  int32_t all[256];
  assert_true(n <= 256);
  for (int i = 0; i < n; i++) all[i] = (int32_t)json_integer_value(json_array_get(ids, (size_t)i));
  ASSERT_OK(sl_layout_build(&l->layout, w->model, NULL, json_string_value(json_object_get(facts, "prompt")), true));
  assert_int_equal(l->layout.n_prompt, n_prompt);
  ASSERT_OK(sl_layout_append(&l->layout, w->model, all + n_prompt, n - n_prompt));
  if (memcmp(l->layout.ids, all, (size_t)n * sizeof *all) != 0) fail_msg("%s %s: token ids differ", w->name, l->name);
  const json_t *rows = json_object_get(facts, "rows");
  for (l->n_row = 0; l->n_row < (int)json_array_size(rows); l->n_row++)
    l->rows[l->n_row] = (int)json_integer_value(json_array_get(rows, (size_t)l->n_row));
}

static inline line *line_named(world *w, const char *name) {
  for (int i = 0; i < w->n_line; i++)
    if (strcmp(w->lines[i].name, name) == 0) return &w->lines[i];
  fail_msg("%s has no trunk %s", w->name, name);
  return NULL;
}

/* Every `stride`-th plan of one list that belongs to this trunk, in order. */
static inline int read_plans(const world *w, line *l, const char *list, int stride, sl_plan **plans,
                             const char ***names, const json_t ***ids) {
  const json_t *cases = json_object_get(w->g.facts, list);
  *plans = calloc(json_array_size(cases), sizeof **plans);
  *names = calloc(json_array_size(cases), sizeof **names);
  *ids = calloc(json_array_size(cases), sizeof **ids);
  free(l->numbers);
  l->numbers = calloc(json_array_size(cases), sizeof *l->numbers);
  int n = 0, number = 0;
  for (size_t i = 0; i < json_array_size(cases); i++) {
    const json_t *c = json_array_get(cases, i);
    if (strcmp(json_string_value(json_object_get(c, "trunk")), l->name) != 0) continue;
    if (number++ % stride != 0) continue;
    l->numbers[n] = number - 1;
    (*names)[n] = json_string_value(json_object_get(c, "name"));
    (*ids)[n] = json_object_get(c, "ids");
    ASSERT_OK(sl_plan_from_json(&(*plans)[n], json_object_get(c, "plan"), (*names)[n]));
    n++;
  }
  return n;
}

static inline world *open_world(const char *folder, int machine) {
  world *w = calloc(1, sizeof *w);
  char path[64];
  snprintf(w->name, sizeof w->name, "%s %s/%s", folder, machines[machine].backend, machines[machine].compute);
  snprintf(path, sizeof path, "branch/%s", folder);
  w->g = golden_open(path);
  w->model = open_model(folder, machine);
  w->n_vocab = sl_model_get_shape(w->model)->n_vocab;
  ASSERT_OK(sl_session_new(&w->session, w->model, 1));
  encode_pictures(w, folder);
  const json_t *trunks = json_object_get(w->g.facts, "trunks");
  w->n_line = (int)json_array_size(trunks);
  assert_in_range(w->n_line, 1, MAX_TRUNK);
  for (int i = 0; i < w->n_line; i++) {
    line *l = &w->lines[i];
    const json_t *facts = json_array_get(trunks, (size_t)i);
    l->name = json_string_value(json_object_get(facts, "name"));
    build_layout(w, l, facts);
    const int picture = json_string_value(json_object_get(facts, "picture"))[0] - 'a';
    const int p = prefix_for(w, &l->layout, picture);
    ASSERT_OK(sl_trunk_new(&l->trunk, w->session, w->prefixes[p].prefix, &l->layout, NULL));
    const json_t **unused = NULL;
    l->n_greedy = read_plans(w, l, "greedy", 1, &l->greedy, &l->greedy_names, &l->greedy_ids);
    l->n_plan = read_plans(w, l, "cases", machine == REF ? REF_STRIDE : 1, &l->plans, &l->names, &unused);
    free(unused);
    if (l->n_plan > 0 && !w->prefixes[p].baselines[0]) make_baselines(w, &l->layout, w->prefixes[p].baselines);
    l->baselines = w->prefixes[p].baselines;
  }
  for (int i = 0; i < w->n_line; i++) {
    const json_t *runs = json_object_get(json_array_get(trunks, (size_t)i), "runs");
    line *l = &w->lines[i];
    for (l->n_run = 0; l->n_run < (int)json_array_size(runs); l->n_run++)
      l->runs[l->n_run] = line_named(w, json_string_value(json_array_get(runs, (size_t)l->n_run)))->trunk;
  }
  return w;
}

static inline void close_world(world *w) {
  for (int i = 0; i < w->n_line; i++) {
    line *l = &w->lines[i];
    for (int k = 0; k < l->n_plan; k++) sl_plan_dispose(&l->plans[k]);
    for (int k = 0; k < l->n_greedy; k++) sl_plan_dispose(&l->greedy[k]);
    free(l->plans);
    free(l->greedy);
    free(l->names);
    free(l->numbers);
    free(l->greedy_names);
    free(l->greedy_ids);
    sl_trunk_free(l->trunk);
    sl_layout_dispose(&l->layout);
  }
  for (int i = 0; i < w->n_prefix; i++) {
    for (int k = 0; k < SL_MAX_BASELINE; k++) sl_baseline_free(w->prefixes[i].baselines[k]);
    sl_prefix_free(w->prefixes[i].prefix);
  }
  for (int i = 0; i < 3; i++) sl_image_free(w->images[i]);
  sl_session_free(w->session);
  sl_model_close(w->model);
  golden_close(&w->g);
  free(w);
}

/* ---- running ---- */

typedef struct taken {
  float *logits; /* [n_plan, n_row, V] */
  size_t n_each; /* n_row * V */
  int next;
} taken;

static inline sl_status take(void *user, int plan, const float *logits) {
  taken *t = user;
  assert_int_equal(plan, t->next++);
  memcpy(t->logits + (size_t)plan * t->n_each, logits, t->n_each * sizeof *logits);
  return SL_OK;
}

static inline sl_branch_request request_of(const line *l, const sl_plan *plans, int n_plan, int batch_size) {
  return (sl_branch_request){.trunk = l->trunk, .plans = plans, .n_plan = n_plan,
                             .baselines = (const sl_baseline *const *)l->baselines,
                             .n_baseline = l->baselines[0] ? SL_MAX_BASELINE : 0,
                             .runs = l->runs, .n_run = l->n_run, .rows = l->rows, .n_row = l->n_row,
                             .batch_size = batch_size, .take = take};
}

/* Logits [n_plan, n_row, V] of a request, to be freed. */
static inline float *run_request(sl_session *session, int n_vocab, sl_branch_request request) {
  taken t = {.n_each = (size_t)request.n_row * (size_t)n_vocab};
  t.logits = calloc((size_t)request.n_plan * t.n_each, sizeof *t.logits);
  request.user = &t;
  ASSERT_OK(sl_branches_run(session, &request));
  assert_int_equal(t.next, request.n_plan);
  return t.logits;
}

static inline float *run_plans(const world *w, const line *l, int batch_size) {
  return run_request(w->session, w->n_vocab, request_of(l, l->plans, l->n_plan, batch_size));
}

static inline int plan_named(const line *l, const char *name) {
  for (int i = 0; i < l->n_plan; i++)
    if (strcmp(l->names[i], name) == 0) return i;
  fail_msg("%s has no plan %s", l->name, name);
  return -1;
}

/* Distance of the stored columns of n_row rows of logits from row `first` of a golden [.., columns]. */
static inline double distance(const world *w, const float *logits, int n_row, const sl_tensor *want, int64_t first) {
  const json_t *columns = json_object_get(w->g.facts, "columns");
  const int n = (int)json_array_size(columns);
  float got[MAX_ROW * 32];
  assert_true(n <= 32 && want->shape[want->n_dim - 1] == n);
  for (int r = 0; r < n_row; r++)
    for (int c = 0; c < n; c++)
      got[r * n + c] = logits[r * w->n_vocab + (int)json_integer_value(json_array_get(columns, (size_t)c))];
  sl_tensor part = *want;
  part.data = (const float *)want->data + first * n;
  part.n_dim = 2;
  part.shape[0] = n_row;
  part.shape[1] = n;
  return golden_distance(got, &part);
}

#endif
