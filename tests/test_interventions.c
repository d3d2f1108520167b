/* cliff, knockout and lens: their definitions on hand-made numbers, their branches against what transformers computes
 * under the same masks (tests/golden/branch), and their residuals through a head written out here. */
#include "golden.h"

#include <unistd.h>

#include "analysis/cliff_curve.h"
#include "analysis/cliff_sweep.h"
#include "analysis/knockout.h"
#include "analysis/lens.h"
#include "base/rng.h"

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

static const json_t *trunk_facts(const fixture *f, const char *name) {
  size_t i;
  json_t *one;
  json_array_foreach(json_object_get(f->branch.facts, "trunks"), i, one) {
    if (strcmp(json_string_value(json_object_get(one, "name")), name) == 0) return one;
  }
  fail_msg("no golden trunk %s", name);
  return NULL;
}

/* The golden trunk of that name (picture a), or with `prompt` another text about the same picture. */
static fixture *set_up_prompt(const char *folder, const char *trunk, const char *prompt) {
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
  ASSERT_OK(sl_layout_build(&f->layout, f->model, prompt, true));
  ASSERT_OK(sl_layout_append(&f->layout, f->model, forced, 3));
  const float *pixels = golden_find(&f->g, "c0", "pixels")->data;
  ASSERT_OK(sl_image_encode(&f->image, f->session, pixels, NULL, false));
  for (int a = 0; a < 3; a++) f->answer[a] = (sl_answer_token){.id = forced[a]};
  f->context = (sl_analysis_context){.model = f->model, .session = f->session, .pixels = pixels, .image = f->image,
                                     .layout = &f->layout, .answer = f->answer, .n_answer = 3, .seed = 7,
                                     .info = &sl_cliff_analysis.info, .said = json_object(), .warnings = json_array(),
                                     .cancel = f->cancel, .shared = &f->shared};
  snprintf(f->dir, sizeof f->dir, "/tmp/sl_test_interventions_XXXXXX");
  assert_non_null(mkdtemp(f->dir));
  return f;
}

static fixture *set_up(const char *folder, const char *trunk) { return set_up_prompt(folder, trunk, NULL); }

static void tear_down(fixture *f) {
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

static int layers(const fixture *f) { return sl_model_get_shape(f->model)->decoder.n_layer; }
static int vocabulary(const fixture *f) { return sl_model_get_shape(f->model)->n_vocab; }

static void set_options(fixture *f, const sl_analysis *analysis, const sl_option_value *options, int n) {
  f->context.info = &analysis->info;
  f->context.options = options;
  f->context.n_option = n;
  json_decref(f->context.said);
  f->context.said = json_object();
}

/* Checks and runs an analysis into a run directory and opens that. */
static sl_run_reader *run(fixture *f, const sl_analysis *analysis, const sl_option_value *options, int n) {
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

static const sl_tensor *tensor(const sl_run_reader *reader, const char *name) {
  const sl_tensor *t = NULL;
  ASSERT_OK(sl_run_get(reader, name, &t));
  return t;
}

static const float *floats(const sl_run_reader *reader, const char *name) { return tensor(reader, name)->data; }
static const int32_t *ints(const sl_run_reader *reader, const char *name) { return tensor(reader, name)->data; }

static void expect_near(double got, double want, double scale, const char *what) {
  if (!(fabs(got - want) <= TOLERANCE * scale)) fail_msg("%s: got %.9g, expected %.9g", what, got, want);
}

/* Logits of the trunk's last prompt row by a plain forward pass, [V]. */
static float *plain_logits(fixture *f) {
  float *logits = malloc((size_t)vocabulary(f) * sizeof *logits);
  ASSERT_OK(sl_session_forward(f->session, &f->layout, f->image, &(int){f->layout.n_prompt - 1}, 1, logits, NULL, false));
  return logits;
}

static double probability(const float *z, int n, int32_t id) {
  double top = -INFINITY, sum = 0;
  for (int v = 0; v < n; v++) top = fmax(top, (double)z[v]);
  for (int v = 0; v < n; v++) sum += exp((double)z[v] - top);
  return exp((double)z[id] - top) / sum;
}

/* The golden logits of a plan at the last prompt row, by column; NULL when the folder has no such plan. *scale gets the
 * largest of the trunk. */
static const float *golden_logits(const fixture *f, const char *plan, double *scale) {
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

static int32_t column(const fixture *f, int i) {
  return (int32_t)json_integer_value(json_array_get(json_object_get(f->branch.facts, "columns"), (size_t)i));
}

/* ---- definitions ---- */

static void cliff_layer_is_defined(void **state) {
  (void)state;
  /* Down to 5 % of the difference and no more: 10 - 0.5 still counts, and only from where all later points count. */
  assert_int_equal(sl_cliff_layer((double[]){0, 4, 9.4, 9.5, 10}, 5, 0, 0.05), 3);
  assert_int_equal(sl_cliff_layer((double[]){0, 9.9, 4, 9.9, 10}, 5, 0, 0.05), 3);
  assert_int_equal(sl_cliff_layer((double[]){0, 1, 2, 3, 10}, 5, 0, 0.05), 4);
  /* Cutting may raise the target: that is no loss. */
  assert_int_equal(sl_cliff_layer((double[]){0, 12, 11, 30, 10}, 5, 0, 0.05), 1);
  assert_int_equal(sl_cliff_layer((double[]){14, 12, 11, 10}, 4, 14, 0.05), 0);
  /* A target that falls with the picture: the dip below the plain run counts, the height of the rest does not. */
  assert_int_equal(sl_cliff_layer((double[]){14, 12, 9, 10}, 4, 14, 0.05), 3);
  /* Flat: nothing is lost anywhere. Flat at the ends only: no loss at all is allowed in between. */
  assert_int_equal(sl_cliff_layer((double[]){3, 3, 3}, 3, 3, 0.05), 0);
  assert_int_equal(sl_cliff_layer((double[]){3, 2.999, 3, 3}, 4, 3, 0.05), 2);
  /* The scale is the run without an image, also when some of it is kept at k = 0. */
  assert_int_equal(sl_cliff_layer((double[]){9, 9.2, 10}, 3, 0, 0.1), 0);
  assert_int_equal(sl_cliff_layer((double[]){9, 9.2, 10}, 3, 9, 0.1), 2);
  /* Points that do not exist fulfil nothing. */
  assert_int_equal(sl_cliff_layer((double[]){NAN, 10, 10}, 3, 0, 0.05), 1);
  assert_int_equal(sl_cliff_layer((double[]){10, NAN, 10, 10}, 4, 0, 0.05), 2);
  assert_int_equal(sl_cliff_layer((double[]){10, 10, NAN}, 3, 0, 0.05), -1);
  assert_int_equal(sl_cliff_layer((double[]){10, 10, 10}, 3, NAN, 0.05), -1);
  assert_int_equal(sl_cliff_layer((double[]){10}, 1, 0, 0), 0);

  assert_int_equal(sl_cliff_unchanged((bool[]){false, true, false, true, true}, 5), 3);
  assert_int_equal(sl_cliff_unchanged((bool[]){true, true}, 2), 0);
  assert_int_equal(sl_cliff_unchanged((bool[]){true, false}, 2), 2);
}

static void rankings_are_parsed(void **state) {
  (void)state;
  sl_rank list[SL_RANK_COUNT];
  int n;
  ASSERT_OK(sl_rank_parse("all", list, &n));
  assert_int_equal(n, SL_RANK_COUNT);
  ASSERT_OK(sl_rank_parse("cam,attention,cam", list, &n));
  assert_int_equal(n, 2);
  assert_int_equal(list[0], SL_RANK_CAM);
  assert_int_equal(list[1], SL_RANK_ATTENTION);
  static const char *const bad[] = {"", "attent", "attention,", ",cam", "cam,all", "Cam"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_int_equal(sl_rank_parse(bad[i], list, &n), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_rank_parse("cam,fastw", list, &n), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "\"fastw\""));
  assert_non_null(strstr(sl_error_message(), "image-last"));
}

static void best_tokens_are_kept(void **state) {
  (void)state;
  bool kept[6];
  const bool allowed[6] = {false, true, true, true, true, true};
  /* Position 0 is no candidate, equal scores go by position, NaN comes last. */
  ASSERT_OK(sl_rank_keep(kept, (float[]){9, 1, 3, NAN, 1, 2}, allowed, 6, 3));
  assert_memory_equal(kept, ((bool[]){false, true, true, false, false, true}), sizeof kept);
  ASSERT_OK(sl_rank_keep(kept, (float[]){9, 1, 3, NAN, 1, 2}, allowed, 6, 9));
  assert_memory_equal(kept, ((bool[]){false, true, true, true, true, true}), sizeof kept);
  ASSERT_OK(sl_rank_keep(kept, (float[]){9, -1, -3, 0, -1, -2}, allowed, 6, 2));
  assert_memory_equal(kept, ((bool[]){false, true, false, true, false, false}), sizeof kept);
}

static void windows_and_centroids(void **state) {
  (void)state;
  static const int window[][2] = {{1, 1}, {2, 1}, {7, 1}, {8, 3}, {12, 3}, {16, 5}, {24, 7}, {28, 7}, {32, 9}, {40, 11}, {80, 23}};
  for (size_t i = 0; i < sizeof window / sizeof *window; i++)
    assert_int_equal(sl_knockout_window(window[i][0]), window[i][1]);
  static const int clip[][5] = {{0, 9, 32, 0, 5}, {4, 9, 32, 0, 9},  {5, 9, 32, 1, 10}, {31, 9, 32, 27, 32},
                                {3, 1, 32, 3, 4}, {3, 4, 32, 1, 5}, {1, 99, 4, 0, 4},  {0, 2, 4, 0, 1}};
  for (size_t i = 0; i < sizeof clip / sizeof *clip; i++) {
    int first, end;
    sl_knockout_clip(clip[i][0], clip[i][1], clip[i][2], &first, &end);
    assert_int_equal(first, clip[i][3]);
    assert_int_equal(end, clip[i][4]);
  }
  /* Losses weigh, gains do not. */
  assert_true(fabs(sl_knockout_centroid((float[]){0, -0.25f, 0, -0.75f}, 4) - 2.5) < 1e-12);
  assert_true(fabs(sl_knockout_centroid((float[]){100, -0.25f, NAN, -0.75f}, 4) - 2.5) < 1e-12);
  assert_true(isnan(sl_knockout_centroid((float[]){0.5f, 0, NAN}, 3)));
}

/* ---- cliff ---- */

/* The curve at every layer that transformers has numbers for, for several tokens as the answer's first. */
static void curve_matches_transformers(void **state) {
  (void)state;
  static const char *const folders[] = {"llava-gqa", "llava-mha", "llava-orig-pad"};
  static const char *const trunks[] = {"what", "text-first", "image-last"};
  int n_point = 0;
  for (int i = 0; i < 9; i++) {
    fixture *f = set_up(folders[i % 3], trunks[i / 3]);
    for (int j = 0; j < 12; j += 5) {
      f->answer[0].id = column(f, j);
      sl_run_reader *reader = run(f, &sl_cliff_analysis, NULL, 0);
      const float *logit = floats(reader, "cliff.logit");
      for (int k = 0; k <= layers(f); k++) {
        char name[40];
        double scale;
        snprintf(name, sizeof name, k < layers(f) ? "hide-image-from-%d" : "hide-image-from-L", k);
        const float *want = golden_logits(f, name, &scale);
        if (!want) continue;
        expect_near((double)logit[k], (double)want[j], scale, name);
        n_point++;
      }
      sl_run_close(reader);
    }
    tear_down(f);
  }
  assert_true(n_point >= 40);
}

/* The plain end of the curve is the plain forward pass, and the first token is the largest logit's. */
static void plain_end_is_the_plain_run(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "what");
  sl_run_reader *reader = run(f, &sl_cliff_analysis, NULL, 0);
  float *z = plain_logits(f);
  const int L = layers(f);
  int best = 0;
  for (int v = 1; v < vocabulary(f); v++)
    if (z[v] > z[best]) best = v;
  expect_near((double)floats(reader, "cliff.logit")[L], (double)z[forced[0]], 10, "logit");
  expect_near((double)floats(reader, "cliff.prob")[L], probability(z, vocabulary(f), forced[0]), 1, "prob");
  assert_int_equal(ints(reader, "cliff.token")[L], best);
  expect_near(json_real_value(json_object_get(f->context.said, "plain")), (double)z[forced[0]], 10, "plain");
  const float *logit = floats(reader, "cliff.logit");
  assert_true(json_real_value(json_object_get(f->context.said, "no_image")) == (double)logit[0] ||
              fabs(json_real_value(json_object_get(f->context.said, "no_image")) - (double)logit[0]) < 1e-5);
  /* The layer told is the definition's. */
  double t[8];
  for (int k = 0; k <= L; k++) t[k] = (double)logit[k];
  assert_int_equal(json_integer_value(json_object_get(f->context.said, "layer")), sl_cliff_layer(t, L + 1, t[0], 0.05));
  assert_true(json_is_null(json_object_get(f->context.said, "interval")));
  assert_true(json_is_null(json_object_get(f->context.said, "attention_cliff")));
  assert_int_equal(json_array_size(json_object_get(f->context.said, "answer")), L + 1);
  free(z);
  sl_run_close(reader);
  tear_down(f);
}

/* Teacher-forced over the whole answer: the sum of the tokens' log-probabilities, each from the row before it. */
static void whole_answer_is_summed(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "what");
  sl_run_reader *reader =
      run(f, &sl_cliff_analysis, (sl_option_value[]){{"target", "logprob"}, {"whole-answer", "true"}}, 2);
  const int rows[3] = {f->layout.n_prompt - 1, f->layout.n_prompt, f->layout.n_prompt + 1}, V = vocabulary(f);
  float *z = malloc(3 * (size_t)V * sizeof *z);
  ASSERT_OK(sl_session_forward(f->session, &f->layout, f->image, rows, 3, z, NULL, false));
  double sum = 0;
  for (int a = 0; a < 3; a++) sum += log(probability(z + a * V, V, forced[a]));
  expect_near((double)floats(reader, "cliff.logit")[layers(f)], sum, fabs(sum), "log-probability of the answer");
  /* cliff.prob stays the first token's. */
  expect_near((double)floats(reader, "cliff.prob")[layers(f)], probability(z, V, forced[0]), 1, "prob");
  free(z);
  sl_run_close(reader);
  tear_down(f);
}

/* tools/golden/branch_plans.py keeps the image positions that are multiples of 3. */
static int mark_kept(const fixture *f, bool *kept) {
  int n = 0;
  for (int j = 0; j < f->layout.n_image; j++) n += kept[j] = (f->layout.first_image + j) % 3 == 0;
  return n;
}

typedef struct taken {
  float *logits;
  int n_vocab;
} taken;

static sl_status take_logits(void *user, int plan, const float *logits) {
  taken *t = user;
  memcpy(t->logits + (int64_t)plan * t->n_vocab, logits, (size_t)t->n_vocab * sizeof *logits);
  return SL_OK;
}

/* Logits of a plan at the last prompt row. */
static float *branch_logits(fixture *f, const sl_plan *plan) {
  const sl_trunk *trunk;
  taken t = {malloc((size_t)vocabulary(f) * sizeof(float)), vocabulary(f)};
  ASSERT_OK(sl_context_trunk(&f->context, true, &trunk));
  const sl_branch_request request = {.trunk = trunk, .plans = plan, .n_plan = 1, .rows = &(int){f->layout.n_prompt - 1},
                                     .n_row = 1, .take = take_logits, .user = &t};
  ASSERT_OK(sl_branches_run(f->session, &request));
  return t.logits;
}

static void kept_plans_match_transformers(void **state) {
  (void)state;
  static const char *const folders[] = {"llava-gqa", "llava-mha"};
  for (int i = 0; i < 2; i++) {
    fixture *f = set_up(folders[i], "what");
    const int L = layers(f), from[3] = {0, 1, L - 1};
    bool *kept = calloc((size_t)f->layout.n_image, sizeof *kept);
    mark_kept(f, kept);
    for (int j = 0; j < 6; j++) {
      char name[40];
      double scale;
      sl_plan plan = {0};
      snprintf(name, sizeof name, "keep-%s-from-%d", j < 3 ? "recompute" : "text-only", from[j % 3]);
      const float *want = golden_logits(f, name, &scale);
      assert_non_null(want);
      ASSERT_OK(sl_cliff_plan(&plan, &f->layout, from[j % 3], kept, j < 3));
      float *z = branch_logits(f, &plan);
      for (int c = 0; c < 12; c++) expect_near((double)z[column(f, c)], (double)want[c], scale, name);
      free(z);
      sl_plan_dispose(&plan);
    }
    free(kept);
    tear_down(f);
  }
}

/* The same through the analysis: a ranking that puts the golden's kept tokens first. */
static void kept_curve_matches_transformers(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "what");
  const int N = f->layout.n_image, L = layers(f);
  bool *kept = calloc((size_t)N, sizeof *kept);
  char number[16];
  snprintf(number, sizeof number, "%d", mark_kept(f, kept));
  f->shared.token_row = calloc((size_t)N, sizeof(float));
  for (int j = 0; j < N; j++) f->shared.token_row[j] = kept[j] ? 1.0f + (float)j : -(float)j;
  for (int only = 0; only < 2; only++) {
    f->answer[0].id = column(f, 7);
    sl_run_reader *reader = run(f, &sl_cliff_analysis,
                                (sl_option_value[]){{"keep", number}, {"rank", "tokens"}, {"text-only", only ? "true" : "false"}}, 3);
    const float *logit = floats(reader, "cliff.logit");
    const int from[3] = {0, 1, L - 1};
    for (int i = 0; i < 3; i++) {
      char name[40];
      double scale;
      snprintf(name, sizeof name, "keep-%s-from-%d", only ? "text-only" : "recompute", from[i]);
      const float *want = golden_logits(f, name, &scale);
      expect_near((double)logit[from[i]], (double)want[7], scale, name);
    }
    assert_string_equal(json_string_value(json_object_get(f->context.said, "kept_rows")), only ? "text-only" : "recompute");
    sl_run_close(reader);
  }
  free(kept);
  tear_down(f);
}

/* A kept class token goes with the image; with every image token kept nothing is cut. */
static void structure_goes_with_the_image(void **state) {
  (void)state;
  fixture *f = set_up("llava-mha", "what");
  const int first = f->layout.first_image, N = f->layout.n_image, L = layers(f);
  assert_int_equal(f->layout.classes[first], SL_CLASS_STRUCTURE);
  sl_sweep sweep;
  sl_sweep_options options = {.n_keep = N - 2, .n_rank = 1, .ranks = {SL_RANK_RANDOM}, .fastv_layer = 2};
  set_options(f, &sl_cliff_analysis, NULL, 0);
  ASSERT_OK(sl_sweep_run(&sweep, &f->context, &options));
  for (int k = 0; k < L; k++) {
    const sl_rule *rule = &sweep.plans[sweep.plan_of[k]].rules[0];
    int n_hidden = 0;
    for (int j = 0; j < N; j++) {
      n_hidden += sl_set_has(&rule->keys, first + j);
      assert_true(sl_set_has(&rule->keys, first + j) != sl_set_has(&rule->queries, first + j));
    }
    assert_true(sl_set_has(&rule->keys, first));
    assert_int_equal(n_hidden, 2); /* the class token and the one patch that is not kept */
    assert_false(sl_set_has(&rule->keys, first - 1) || sl_set_has(&rule->keys, first + N));
    assert_true(sl_set_has(&rule->queries, first + N) && sl_set_has(&rule->queries, 10000));
    assert_false(sl_set_has(&rule->queries, first - 1));
    for (int l = 0; l < L; l++) assert_int_equal(sl_set_has(&rule->layers, l), l >= k);
  }
  sl_sweep_dispose(&sweep);
  options.n_keep = N - 1;
  ASSERT_OK(sl_sweep_run(&sweep, &f->context, &options));
  for (int k = 0; k <= L; k++) assert_int_equal(sweep.plan_of[k], SL_SWEEP_PLAIN);
  sl_sweep_dispose(&sweep);
  tear_down(f);
}

/* Attention rows follow from transformers' pattern of the same prompt (case c0 is trunk "what" without an answer). */
static void rankings_read_the_right_rows(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "what");
  const int P = f->layout.n_prompt, N = f->layout.n_image, first = f->layout.first_image, L = layers(f);
  const int H = sl_model_get_shape(f->model)->decoder.n_head;
  const sl_rank list[] = {SL_RANK_ATTENTION, SL_RANK_IMAGE_LAST, SL_RANK_USER, SL_RANK_FASTV};
  for (int with_flow = 0; with_flow < 2; with_flow++) {
    sl_rank_scores scores;
    if (with_flow) {
      f->shared.flow_row = calloc((size_t)(L * N), sizeof(float));
      for (int i = 0; i < L * N; i++) f->shared.flow_row[i] = (float)i;
    }
    ASSERT_OK(sl_rank_scores_init(&scores, &f->context, list, 4, 2));
    for (int i = 0; i < 4; i++) assert_null(sl_rank_scores_at(&scores, list[i], 0));
    assert_null(sl_rank_scores_at(&scores, SL_RANK_FASTV, 1));
    assert_ptr_equal(sl_rank_scores_at(&scores, SL_RANK_FASTV, L - 1), sl_rank_scores_at(&scores, SL_RANK_ATTENTION, 2));
    for (int k = 1; k <= L; k++) {
      char name[64];
      sl_site_name(name, SL_PART_DECODER, SL_SITE_PATTERN, k - 1);
      const float *pattern = golden_find(&f->g, "c0", name)->data; /* [H, P, P] */
      for (int j = 0; j < N; j++) {
        double final = 0, last = 0, user = 0;
        for (int h = 0; h < H; h++) {
          const float *of_head = pattern + (int64_t)h * P * P;
          final += (double)of_head[(P - 1) * P + first + j] / H;
          last += (double)of_head[(first + N - 1) * P + first + j] / H;
          for (int t = first + N; t < P; t++) user += (double)of_head[t * P + first + j] / H / (P - first - N);
        }
        if (with_flow) final = (k - 1) * N + j; /* flow's rows are taken as they are, and nothing is added to them */
        expect_near((double)sl_rank_scores_at(&scores, SL_RANK_ATTENTION, k)[j], final, 1, "final token");
        expect_near((double)sl_rank_scores_at(&scores, SL_RANK_IMAGE_LAST, k)[j], last, 1, "image's last token");
        expect_near((double)sl_rank_scores_at(&scores, SL_RANK_USER, k)[j], user, 1, "user tokens");
      }
    }
    sl_rank_scores_dispose(&scores);
  }
  tear_down(f);
}

static void other_rankings(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "what");
  const int N = f->layout.n_image, L = layers(f);
  const sl_rank list[] = {SL_RANK_RANDOM, SL_RANK_CAM, SL_RANK_TOKENS};
  sl_rank_scores scores, other;
  assert_false(sl_rank_needs_pass(&f->context, list, 3));
  ASSERT_OK(sl_rank_scores_init(&scores, &f->context, list, 3, 2));
  assert_null(sl_rank_scores_at(&scores, SL_RANK_CAM, 1));
  assert_null(sl_rank_scores_at(&scores, SL_RANK_TOKENS, 1));
  const float *random = sl_rank_scores_at(&scores, SL_RANK_RANDOM, 0);
  assert_ptr_equal(random, sl_rank_scores_at(&scores, SL_RANK_RANDOM, L - 1));
  f->context.seed = 8;
  ASSERT_OK(sl_rank_scores_init(&other, &f->context, list, 3, 2));
  assert_memory_not_equal(random, sl_rank_scores_at(&other, SL_RANK_RANDOM, 0), (size_t)N * sizeof(float));
  f->shared.cam_row = calloc((size_t)(L * N), sizeof(float));
  f->shared.cam_row[0 * N + 3] = 1; /* layer 1's map stays zero: it orders nothing */
  f->shared.cam_row[2 * N + 5] = 1;
  assert_ptr_equal(sl_rank_scores_at(&scores, SL_RANK_CAM, 0), f->shared.cam_row);
  assert_ptr_equal(sl_rank_scores_at(&scores, SL_RANK_CAM, 1), f->shared.cam_row);
  assert_null(sl_rank_scores_at(&scores, SL_RANK_CAM, 2));
  assert_ptr_equal(sl_rank_scores_at(&scores, SL_RANK_CAM, 3), f->shared.cam_row + 2 * N);
  sl_rank_scores_dispose(&scores);
  sl_rank_scores_dispose(&other);
  tear_down(f);
}

static const json_t *greedy_ids(const fixture *f, const char *name) {
  size_t i;
  json_t *one;
  json_array_foreach(json_object_get(f->branch.facts, "greedy"), i, one) {
    if (strcmp(json_string_value(json_object_get(one, "trunk")), f->trunk) == 0 &&
        strcmp(json_string_value(json_object_get(one, "name")), name) == 0)
      return json_object_get(one, "ids");
  }
  return NULL;
}

/* What is written under a cut is what transformers writes under the same mask; new tokens do not see the image either. */
static void answers_match_transformers(void **state) {
  (void)state;
  static const char *const folders[] = {"llava-gqa", "llava-mha", "llava-orig-pad"};
  static const char *const trunks[] = {"what", "text-first", "image-last"};
  int n_compared = 0;
  for (int i = 0; i < 9; i++) {
    fixture *f = set_up(folders[i % 3], trunks[i / 3]);
    const int L = layers(f);
    int32_t ids[8 * 6];
    int n_id[8];
    sl_sweep sweep;
    const sl_sweep_options options = {.n_rank = 1, .fastv_layer = 2};
    const struct {
      const char *name;
      int k;
    } cuts[] = {{"hide-image-from-0", 0}, {"hide-image-from-last", L - 1}, {"empty", L}};
    ASSERT_OK(sl_sweep_run(&sweep, &f->context, &options));
    ASSERT_OK(sl_sweep_answers(&sweep, 0, 6, ids, n_id));
    for (int c = 0; c < 3; c++) {
      const json_t *want = greedy_ids(f, cuts[c].name);
      for (int t = 0; want && t < 6; t++)
        assert_int_equal(ids[cuts[c].k * 6 + t], json_integer_value(json_array_get(want, (size_t)t)));
      n_compared += want != NULL;
    }
    sl_sweep_dispose(&sweep);
    tear_down(f);
  }
  assert_true(n_compared >= 15);
}

/* Several rankings: where each exists, what each loses, and answers of the first alone. */
static void rankings_are_scored(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "what");
  const int L = layers(f);
  sl_run_reader *reader =
      run(f, &sl_cliff_analysis, (sl_option_value[]){{"keep-share", "0.25"}, {"rank", "attention,random,fastv"}}, 2);
  const json_t *said = f->context.said, *ranks = json_object_get(said, "ranks"), *one;
  const float *logit = floats(reader, "cliff.rank_logit");
  size_t r;
  assert_int_equal(json_integer_value(json_object_get(said, "keep")), 4);
  assert_int_equal(tensor(reader, "cliff.rank_logit")->shape[0], 3);
  assert_memory_equal(logit + 1, floats(reader, "cliff.logit") + 1, (size_t)L * sizeof *logit);
  assert_true(isnan(logit[0]) && !isnan(logit[1]));             /* attention: from layer 1 on */
  assert_true(!isnan(logit[L + 1]));                            /* random: everywhere */
  assert_true(isnan(logit[2 * (L + 1) + 1]) && !isnan(logit[2 * (L + 1) + 2])); /* FastV: from its own layer on */
  for (r = 0; r < 3; r++) assert_true(logit[r * (size_t)(L + 1) + (size_t)L] == logit[L]);
  assert_int_equal(ints(reader, "cliff.token")[0], -1);
  assert_true(json_is_null(json_array_get(json_object_get(said, "answer"), 0)));
  assert_true(json_is_string(json_array_get(json_object_get(said, "answer"), 1)));
  assert_non_null(json_object_get(said, "undefined"));
  assert_int_equal(json_array_size(json_object_get(said, "compared_layers")), L - 2);
  json_array_foreach(ranks, r, one) {
    double loss = 0;
    for (int k = 2; k < L; k++) loss += (double)(logit[L] - logit[(int)r * (L + 1) + k]) / (L - 2);
    expect_near(json_real_value(json_object_get(one, "loss")), loss, 1, "loss");
  }
  assert_int_equal(r, 3);
  sl_run_close(reader);
  tear_down(f);
}

static void wrong_options_are_named(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "what");
  static const struct {
    sl_option_value options[2];
    const char *says;
  } bad[] = {
      {{{"keep", "17"}}, "16 image tokens"},
      {{{"keep", "3"}, {"keep-share", "0.5"}}, "one of them"},
      {{{"rank", "cam"}}, "--keep"},
      {{{"keep", "3"}, {"rank", "cma"}}, "\"cma\""},
      {{{"fastv-layer", "4"}}, "3 layers"},
      {{{"target", "logprob"}, {"contrast", "re"}}, "--contrast"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    set_options(f, &sl_cliff_analysis, bad[i].options, bad[i].options[1].name ? 2 : 1);
    assert_int_equal(sl_cliff_analysis.check(&f->context), SL_ERROR_ARGUMENT);
    if (!strstr(sl_error_message(), bad[i].says)) fail_msg("%s", sl_error_message());
  }
  set_options(f, &sl_knockout_analysis, &(sl_option_value){"edges", "final<-image,image<-final"}, 1);
  assert_int_equal(sl_knockout_analysis.check(&f->context), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "\"image<-final\""));
  tear_down(f);
}

static void needs_follow_the_rankings(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "what");
  const struct {
    const char *rank;
    const char *needs[2];
  } cases[] = {{"attention", {NULL}}, {"cam,user", {"cam"}}, {"tokens", {"tokens"}}, {"all", {"cam", "tokens"}}};
  for (int i = 0; i < 4; i++) {
    const sl_option_value options[] = {{"keep", "2"}, {"rank", cases[i].rank}};
    set_options(f, &sl_cliff_analysis, options, 2);
    const char *const *needs = sl_cliff_analysis.needs(&f->context);
    int n = 0;
    for (; needs && needs[n]; n++) assert_string_equal(needs[n], cases[i].needs[n]);
    assert_int_equal(n, (cases[i].needs[0] != NULL) + (cases[i].needs[1] != NULL));
  }
  /* A ranking whose maker left nothing is dropped from a list with a warning, and an error alone. */
  sl_run_reader *reader = run(f, &sl_cliff_analysis, (sl_option_value[]){{"keep", "2"}, {"rank", "cam,random"}}, 2);
  assert_int_equal(tensor(reader, "cliff.rank_logit")->shape[0], 1);
  assert_true(json_array_size(f->context.warnings) >= 1);
  sl_run_close(reader);
  set_options(f, &sl_cliff_analysis, (sl_option_value[]){{"keep", "2"}, {"rank", "cam"}}, 2);
  assert_int_equal(sl_cliff_analysis.run(&f->context), SL_ERROR_ARGUMENT);
  tear_down(f);
}

/* flow and cam leave their cliffs and rows. */
static void other_cliffs_stand_beside(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "what");
  const int L = layers(f), N = f->layout.n_image;
  sl_run_reader *reader = run(f, &sl_flow_analysis, &(sl_option_value){"attention-cliff", "1"}, 1);
  assert_int_equal(json_integer_value(json_object_get(f->context.said, "attention_cliff")), 0);
  sl_run_close(reader);
  reader = run(f, &sl_cam_analysis, &(sl_option_value){"cam-cliff", "0"}, 1);
  assert_true(json_is_null(json_object_get(f->context.said, "cliff")));
  assert_memory_equal(f->shared.cam_row, floats(reader, "cam.heat"), (size_t)(L * N) * sizeof(float));
  sl_run_close(reader);
  reader = run(f, &sl_cliff_analysis, NULL, 0);
  assert_true(json_is_integer(json_object_get(f->context.said, "attention_cliff")));
  assert_int_equal(json_integer_value(json_object_get(f->context.said, "attention_cliff")), 0);
  assert_true(json_is_null(json_object_get(f->context.said, "cam_cliff")));
  sl_run_close(reader);
  tear_down(f);
}

/* ---- knockout ---- */

/* With nothing but role and final token after the image, blocking both in every layer is the run without an image. */
static void blocking_all_is_no_image(void **state) {
  (void)state;
  fixture *f = set_up_prompt("llava-gqa", "what", "USER: <image> ASSISTANT:");
  const int L = layers(f);
  for (int t = f->layout.first_image + f->layout.n_image; t < f->layout.n_prompt; t++)
    assert_true(f->layout.roles[t] != SL_ROLE_NONE);
  sl_run_reader *reader = run(f, &sl_cliff_analysis, NULL, 0);
  const double none = (double)floats(reader, "cliff.prob")[0], plain = (double)floats(reader, "cliff.prob")[L];
  sl_run_close(reader);
  reader = run(f, &sl_knockout_analysis, (sl_option_value[]){{"window", "99"}, {"edges", "role+final<-image,question<-image"}}, 2);
  const float *change = floats(reader, "knockout.change");
  assert_int_equal(tensor(reader, "knockout.change")->shape[0], 1);
  for (int c = 0; c < L; c++) expect_near((double)change[c], (none - plain) / plain, 1, "change");
  assert_true(fabs((none - plain) / plain) > 1e-2);
  const json_t *left_out = json_object_get(f->context.said, "left_out");
  assert_int_equal(json_array_size(left_out), 1);
  assert_string_equal(json_string_value(json_object_get(json_array_get(left_out, 0), "edge")), "question<-image");
  float *z = plain_logits(f);
  expect_near(json_real_value(json_object_get(f->context.said, "prob")), probability(z, vocabulary(f), forced[0]), 1,
              "plain probability");
  free(z);
  sl_run_close(reader);
  tear_down(f);
}

/* Edges and windows against plans written out by hand, position by position. */
static void edges_are_the_named_positions(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "what");
  const int L = layers(f);
  /* "USER: <image>\nWhat is in the picture? ASSISTANT:": image 8-23, question 24-40, the marker 41-50, final 51. */
  static const struct {
    const char *edge, *queries, *keys;
  } edges[] = {
      {"role+final<-question", "41-51", "24-40"}, {"question<-image", "24-40", "8-23"}, {"role+final<-image", "41-51", "8-23"},
      {"final<-question", "51", "24-40"},         {"final<-role", "51", "41-50"},      {"final<-image", "51", "8-23"},
      {"role<-image", "41-50", "8-23"},
  };
  static const char *const windows[3] = {"0-1", "0-2", "1-2"};
  sl_run_reader *reader = run(f, &sl_knockout_analysis, &(sl_option_value){"window", "3"}, 1);
  const float *change = floats(reader, "knockout.change");
  const json_t *told = json_object_get(f->context.said, "edges");
  assert_int_equal(json_array_size(told), 7);
  float *z = plain_logits(f);
  const double plain = probability(z, vocabulary(f), forced[0]);
  free(z);
  for (int e = 0; e < 7; e++) {
    const json_t *one = json_array_get(told, (size_t)e);
    assert_string_equal(json_string_value(json_object_get(one, "edge")), edges[e].edge);
    for (int c = 0; c < L; c++) {
      sl_plan plan;
      json_t *json = json_pack("{s:[{s:s, s:s, s:s, s:s, s:s}]}", "attend", "layers", windows[c], "heads", "all", "queries",
                               edges[e].queries, "keys", edges[e].keys, "source", "hidden");
      ASSERT_OK(sl_plan_from_json(&plan, json, "test"));
      z = branch_logits(f, &plan);
      expect_near((double)change[e * L + c], probability(z, vocabulary(f), forced[0]) / plain - 1, 1, edges[e].edge);
      free(z);
      sl_plan_dispose(&plan);
      json_decref(json);
    }
    const double centroid = sl_knockout_centroid(change + e * L, L);
    if (isnan(centroid))
      assert_true(json_is_null(json_object_get(one, "centroid")));
    else
      expect_near(json_real_value(json_object_get(one, "centroid")), centroid, 1, "centroid");
  }
  sl_run_close(reader);
  tear_down(f);
}

/* A question before the image cannot read it; a prompt that ends with the image has no text that could. */
static void empty_sets_are_said(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "text-first");
  sl_run_reader *reader = run(f, &sl_knockout_analysis, NULL, 0);
  const json_t *left_out = json_object_get(f->context.said, "left_out");
  assert_int_equal(json_array_size(left_out), 1);
  assert_string_equal(json_string_value(json_object_get(json_array_get(left_out, 0), "edge")), "question<-image");
  assert_non_null(strstr(json_string_value(json_object_get(json_array_get(left_out, 0), "reason")), "after the image"));
  assert_int_equal(tensor(reader, "knockout.change")->shape[0], 6);
  sl_run_close(reader);
  tear_down(f);

  f = set_up_prompt("llava-gqa", "what", "USER: <image>");
  set_options(f, &sl_knockout_analysis, NULL, 0);
  ASSERT_OK(sl_knockout_analysis.run(&f->context));
  assert_int_equal(json_array_size(json_object_get(f->context.said, "edges")), 0);
  assert_int_equal(json_array_size(json_object_get(f->context.said, "left_out")), 7);
  set_options(f, &sl_cliff_analysis, NULL, 0);
  ASSERT_OK(sl_cliff_analysis.run(&f->context));
  assert_non_null(json_object_get(f->context.said, "skipped"));
  reader = run(f, &sl_lens_analysis, NULL, 0); /* the lens reads the final image token as any other */
  assert_int_equal(tensor(reader, "lens.final_rank")->shape[0], layers(f) + 1);
  sl_run_close(reader);
  tear_down(f);
}

/* ---- lens ---- */

/* Final norm and head, written out in double precision over the folder's own weights. */
static void lens_by_hand(const fixture *f, const sl_safetensors *weights, const float *x, double *z) {
  const sl_tensor *norm = sl_safetensors_find(weights, "language_model.model.norm.weight");
  const sl_tensor *head = sl_safetensors_find(weights, "language_model.lm_head.weight");
  assert_true(norm && head && norm->dtype == SL_F32 && head->dtype == SL_F32);
  const int D = (int)norm->shape[0], V = (int)head->shape[0];
  double squares = 0;
  for (int i = 0; i < D; i++) squares += (double)x[i] * (double)x[i];
  const double scale = 1 / sqrt(squares / D + 3e-3); /* rms_norm_eps of llava-gqa */
  assert_int_equal(V, vocabulary(f));
  for (int v = 0; v < V; v++) {
    z[v] = 0;
    for (int i = 0; i < D; i++)
      z[v] += (double)x[i] * scale * (double)((const float *)norm->data)[i] * (double)((const float *)head->data)[(int64_t)v * D + i];
  }
}

static void expect_reading(const double *z, int n, int32_t id, double logit, double prob, int rank, const char *what) {
  double top = -INFINITY, sum = 0;
  int above = 0, near = 0;
  for (int v = 0; v < n; v++) top = fmax(top, z[v]);
  for (int v = 0; v < n; v++) {
    sum += exp(z[v] - top);
    above += z[v] > z[id];
    near += v != id && fabs(z[v] - z[id]) < 1e-3; /* rounding may swap these */
  }
  expect_near(logit, z[id], 10, what);
  expect_near(prob, exp(z[id] - top) / sum, 1, what);
  assert_true(rank >= above + 1 - near && rank <= above + 1 + near);
}

static void lens_matches_transformers(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "what");
  sl_safetensors *weights = NULL;
  ASSERT_OK(sl_safetensors_open(&weights, f->g.dir));
  const int L = layers(f), N = f->layout.n_image, V = vocabulary(f), P = f->layout.n_prompt;
  double *z = malloc((size_t)V * sizeof *z);
  sl_run_reader *reader = run(f, &sl_lens_analysis, &(sl_option_value){"top", "3"}, 1);
  assert_int_equal(tensor(reader, "lens.final_top")->shape[1], 3);
  for (int k = 0; k <= L; k++) {
    char name[64];
    sl_site_name(name, SL_PART_DECODER, k == 0 ? SL_SITE_RESID_PRE : SL_SITE_RESID_POST, k == 0 ? 0 : k - 1);
    const sl_tensor *resid = golden_find(&f->g, "c0", name); /* [P, D] */
    assert_non_null(resid);
    const float *x = resid->data;
    const int64_t D = resid->shape[1];
    lens_by_hand(f, weights, x + (P - 1) * D, z);
    expect_reading(z, V, forced[0], (double)floats(reader, "lens.final_logit")[k],
                   (double)floats(reader, "lens.final_prob")[k], ints(reader, "lens.final_rank")[k], name);
    const int32_t *top = ints(reader, "lens.final_top") + k * 3;
    for (int i = 0; i < 3; i++) {
      int above = 0;
      for (int v = 0; v < V; v++) above += z[v] > z[top[i]] + 1e-3;
      assert_true(above <= i);
    }
    for (int j = 0; j < N; j++) {
      lens_by_hand(f, weights, x + (f->layout.first_image + j) * D, z);
      expect_reading(z, V, forced[0], (double)floats(reader, "lens.image_logit")[k * N + j],
                     (double)floats(reader, "lens.image_answer")[k * N + j], ints(reader, "lens.image_rank")[k * N + j], name);
      const int32_t best = ints(reader, "lens.image_top")[k * N + j];
      expect_reading(z, V, best, z[best], (double)floats(reader, "lens.image_top_prob")[k * N + j], 1, name);
      char key[16];
      snprintf(key, sizeof key, "%d", (int)best);
      assert_true(json_is_string(json_object_get(json_object_get(f->context.said, "image_texts"), key)));
    }
  }
  /* The last row is the model's own output. */
  float *plain = plain_logits(f);
  expect_near((double)floats(reader, "lens.final_logit")[L], (double)plain[forced[0]], 1, "last row");
  assert_int_equal(json_array_size(json_object_get(f->context.said, "top")), L + 1);
  free(plain);
  free(z);
  sl_run_close(reader);
  sl_safetensors_close(weights);
  tear_down(f);
}

/* Under any memory limit the same bits come out. */
static void lens_passes_agree(void **state) {
  (void)state;
  fixture *f = set_up("llava-mha", "what");
  sl_run_reader *reader = run(f, &sl_lens_analysis, NULL, 0);
  const sl_tensor *whole = tensor(reader, "lens.image_logit");
  const size_t n_bytes = (size_t)sl_tensor_count(whole) * sizeof(float);
  float *before = malloc(n_bytes);
  memcpy(before, whole->data, n_bytes);
  json_t *texts = json_incref(json_object_get(f->context.said, "top"));
  sl_run_close(reader);
  char path[96];
  snprintf(path, sizeof path, "%s/run", f->dir);
  set_options(f, &sl_lens_analysis, NULL, 0);
  ASSERT_OK(sl_run_new(&f->context.run, path, true));
  json_object_set_new(sl_run_json(f->context.run), "sightline", json_string("test"));
  ASSERT_OK(sl_lens_run(&f->context, 1)); /* a pass for every layer */
  ASSERT_OK(sl_run_commit(f->context.run));
  sl_run_free(f->context.run);
  f->context.run = NULL;
  ASSERT_OK(sl_run_open(&reader, path));
  assert_memory_equal(before, floats(reader, "lens.image_logit"), n_bytes);
  assert_true(json_equal(texts, json_object_get(f->context.said, "top")));
  json_decref(texts);
  free(before);
  sl_run_close(reader);
  tear_down(f);
}

/* ---- all three ---- */

static const sl_analysis *const all[] = {&sl_cliff_analysis, &sl_knockout_analysis, &sl_lens_analysis};

static bool stop_at_half(void *user, const char *what, double done, double total) {
  (void)what;
  ++*(int *)user;
  return done / total < 0.4;
}

static void they_can_be_stopped(void **state) {
  (void)state;
  for (int i = 0; i < 3; i++) {
    fixture *f = set_up("llava-gqa", "what");
    int n_told = 0;
    set_options(f, all[i], NULL, 0);
    f->context.progress = stop_at_half;
    f->context.user = &n_told;
    assert_int_equal(all[i]->run(&f->context), SL_ERROR_CANCELLED);
    assert_true(n_told > 0);
    tear_down(f);
  }
}

static void no_memory_is_an_error(void **state) {
  (void)state;
  for (int i = 0; i < 3; i++) {
    fixture *f = set_up("llava-gqa", "what");
    int n_whole = 0, n_failed = 0;
    for (long n = 1; n_whole < 20; n++) {
      set_options(f, all[i], &(sl_option_value){"keep", "3"}, 1);
      sl_shared_dispose(&f->shared);
      sl_alloc_fail_at(n);
      const sl_status status = all[i]->run(&f->context);
      sl_alloc_fail_at(0);
      if (status != SL_OK && status != SL_ERROR_MEMORY) fail_msg("allocation %ld: %s", n, sl_error_message());
      n_whole = status == SL_OK ? n_whole + 1 : 0;
      n_failed += status != SL_OK;
    }
    assert_true(n_failed > 20);
    tear_down(f);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(cliff_layer_is_defined),
      cmocka_unit_test(rankings_are_parsed),
      cmocka_unit_test(best_tokens_are_kept),
      cmocka_unit_test(windows_and_centroids),
      cmocka_unit_test(curve_matches_transformers),
      cmocka_unit_test(plain_end_is_the_plain_run),
      cmocka_unit_test(whole_answer_is_summed),
      cmocka_unit_test(kept_plans_match_transformers),
      cmocka_unit_test(kept_curve_matches_transformers),
      cmocka_unit_test(structure_goes_with_the_image),
      cmocka_unit_test(rankings_read_the_right_rows),
      cmocka_unit_test(other_rankings),
      cmocka_unit_test(answers_match_transformers),
      cmocka_unit_test(rankings_are_scored),
      cmocka_unit_test(wrong_options_are_named),
      cmocka_unit_test(needs_follow_the_rankings),
      cmocka_unit_test(other_cliffs_stand_beside),
      cmocka_unit_test(blocking_all_is_no_image),
      cmocka_unit_test(edges_are_the_named_positions),
      cmocka_unit_test(empty_sets_are_said),
      cmocka_unit_test(lens_matches_transformers),
      cmocka_unit_test(lens_passes_agree),
      cmocka_unit_test(they_can_be_stopped),
      cmocka_unit_test(no_memory_is_an_error),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
