/* cliff: its definition on hand-made curves, its rankings, and its branches against what transformers computes under
 * the same masks (tests/golden/branch). */
#include "intervention.h"

#include "analysis/cliff_curve.h"
#include "analysis/cliff_sweep.h"

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
  sl_ranking ranking[SL_MAX_RANKING];
  assert_int_equal(sl_rank_expand(ranking, (sl_rank[]){SL_RANK_USER, SL_RANK_RANDOM, SL_RANK_CAM}, 3, 2), 4);
  assert_true(ranking[1].rank == SL_RANK_RANDOM && ranking[1].order == 0);
  assert_true(ranking[2].rank == SL_RANK_RANDOM && ranking[2].order == 1);
  assert_true(ranking[3].rank == SL_RANK_CAM && ranking[3].order == 0);
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

/* One branch at a time gives the same bits; and so does hiding the image layer by layer and head by head at k = 0. */
static void batches_do_not_matter(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "what");
  const sl_part_shape *shape = &sl_model_get_shape(f->model)->decoder;
  const int L = shape->n_layer, end = f->layout.first_image + f->layout.n_image;
  float *together = calloc((size_t)L + 1, sizeof *together);
  for (int batch_size = 0; batch_size < 3; batch_size++) {
    f->context.batch_size = batch_size;
    sl_run_reader *reader = run(f, &sl_cliff_analysis, NULL, 0);
    if (batch_size == 0) memcpy(together, floats(reader, "cliff.logit"), ((size_t)L + 1) * sizeof *together);
    assert_memory_equal(together, floats(reader, "cliff.logit"), ((size_t)L + 1) * sizeof *together);
    sl_run_close(reader);
  }
  sl_plan plan = {0};
  for (int l = 0; l < L; l++) {
    for (int h = 0; h < shape->n_head; h++) {
      sl_rule *rule;
      ASSERT_OK(sl_plan_add_rule(&plan, SL_SOURCE_HIDDEN, &rule));
      ASSERT_OK(sl_set_add(&rule->layers, l, 1));
      ASSERT_OK(sl_set_add(&rule->heads, h, 1));
      ASSERT_OK(sl_set_from(&rule->queries, end));
      ASSERT_OK(sl_set_add(&rule->keys, f->layout.first_image, f->layout.n_image));
    }
  }
  float *z = branch_logits(f, &plan);
  assert_true(z[forced[0]] == together[0]);
  free(z);
  free(together);
  sl_plan_dispose(&plan);
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
    const char *way = only ? "text-only" : "recompute";
    f->answer[0].id = column(f, 7);
    const sl_option_value options[] = {{"keep", number}, {"rank", "tokens"}, {"text-only", only ? "true" : "false"}};
    sl_run_reader *reader = run(f, &sl_cliff_analysis, options, 3);
    const float *logit = floats(reader, "cliff.logit");
    const int from[3] = {0, 1, L - 1};
    for (int i = 0; i < 3; i++) {
      char name[40];
      double scale;
      snprintf(name, sizeof name, "keep-%s-from-%d", way, from[i]);
      const float *want = golden_logits(f, name, &scale);
      expect_near((double)logit[from[i]], (double)want[7], scale, name);
    }
    assert_string_equal(json_string_value(json_object_get(f->context.said, "kept_rows")), way);
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
  sl_sweep_options options = {.n_keep = N - 2, .n_rank = 1, .ranks = {{SL_RANK_RANDOM, 0}}, .fastv_layer = 2};
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

static const float *at(const sl_rank_scores *scores, sl_rank rank, int k) {
  return sl_rank_scores_at(scores, (sl_ranking){rank, 0}, k);
}

/* Attention rows follow from transformers' pattern of the same prompt (case c0 is trunk "what" without an answer). */
static void rankings_read_the_right_rows(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "what");
  const int P = f->layout.n_prompt, N = f->layout.n_image, first = f->layout.first_image, L = layers(f);
  const int H = sl_model_get_shape(f->model)->decoder.n_head;
  const sl_ranking list[] = {{SL_RANK_ATTENTION, 0}, {SL_RANK_IMAGE_LAST, 0}, {SL_RANK_USER, 0}, {SL_RANK_FASTV, 0}};
  for (int with_flow = 0; with_flow < 2; with_flow++) {
    sl_rank_scores scores;
    if (with_flow) {
      f->shared.flow_row = calloc((size_t)(L * N), sizeof(float));
      for (int i = 0; i < L * N; i++) f->shared.flow_row[i] = (float)i;
    }
    ASSERT_OK(sl_rank_scores_init(&scores, &f->context, list, 4, 2));
    for (int i = 0; i < 4; i++) assert_null(sl_rank_scores_at(&scores, list[i], 0));
    assert_null(at(&scores, SL_RANK_FASTV, 1));
    assert_ptr_equal(at(&scores, SL_RANK_FASTV, L - 1), at(&scores, SL_RANK_ATTENTION, 2));
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
        expect_near((double)at(&scores, SL_RANK_ATTENTION, k)[j], final, 1, "final token");
        expect_near((double)at(&scores, SL_RANK_IMAGE_LAST, k)[j], last, 1, "image's last token");
        expect_near((double)at(&scores, SL_RANK_USER, k)[j], user, 1, "user tokens");
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
  const sl_ranking list[] = {{SL_RANK_RANDOM, 0}, {SL_RANK_CAM, 0}, {SL_RANK_TOKENS, 0}};
  sl_rank_scores scores, other;
  assert_false(sl_rank_needs_pass(&f->context, list, 3));
  ASSERT_OK(sl_rank_scores_init(&scores, &f->context, list, 3, 2));
  assert_null(at(&scores, SL_RANK_CAM, 1));
  assert_null(at(&scores, SL_RANK_TOKENS, 1));
  const float *random = at(&scores, SL_RANK_RANDOM, 0);
  assert_memory_not_equal(random, sl_rank_scores_at(&scores, (sl_ranking){SL_RANK_RANDOM, 1}, 0),
                          (size_t)N * sizeof(float));
  assert_ptr_equal(random, at(&scores, SL_RANK_RANDOM, L - 1));
  f->context.seed = 8;
  ASSERT_OK(sl_rank_scores_init(&other, &f->context, list, 3, 2));
  assert_memory_not_equal(random, at(&other, SL_RANK_RANDOM, 0), (size_t)N * sizeof(float));
  f->shared.cam_row = calloc((size_t)(L * N), sizeof(float));
  f->shared.cam_row[0 * N + 3] = 1; /* layer 1's map stays zero: it orders nothing */
  f->shared.cam_row[2 * N + 5] = 1;
  assert_ptr_equal(at(&scores, SL_RANK_CAM, 0), f->shared.cam_row);
  assert_ptr_equal(at(&scores, SL_RANK_CAM, 1), f->shared.cam_row);
  assert_null(at(&scores, SL_RANK_CAM, 2));
  assert_ptr_equal(at(&scores, SL_RANK_CAM, 3), f->shared.cam_row + 2 * N);
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

/* What is written under a cut is what transformers writes under the same mask; new tokens do not see the image either.
 */
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

/* Several rankings: where each exists, what each loses, and answers of the first alone. Random stands for three. */
static void rankings_are_scored(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "what");
  const int L = layers(f), n_point = L + 1;
  sl_run_reader *reader = run(
      f, &sl_cliff_analysis,
      (sl_option_value[]){{"keep-share", "0.25"}, {"rank", "attention,random,fastv"}, {"random-orders", "3"}}, 3);
  const json_t *said = f->context.said, *ranks = json_object_get(said, "ranks"), *one;
  const float *logit = floats(reader, "cliff.rank_logit");
  double of_random[3], mean = 0, squares = 0;
  size_t r;
  assert_int_equal(json_integer_value(json_object_get(said, "keep")), 4);
  assert_int_equal(tensor(reader, "cliff.rank_logit")->shape[0], 5);
  assert_memory_equal(logit + 1, floats(reader, "cliff.logit") + 1, (size_t)L * sizeof *logit);
  assert_true(isnan(logit[0]) && !isnan(logit[1])); /* attention: from layer 1 on */
  assert_true(!isnan(logit[n_point]));              /* random: everywhere */
  assert_true(isnan(logit[4 * n_point + 1]) && !isnan(logit[4 * n_point + 2])); /* FastV: from its own layer on */
  for (r = 0; r < 5; r++) assert_true(logit[r * (size_t)n_point + (size_t)L] == logit[L]);
  assert_int_equal(ints(reader, "cliff.token")[0], -1);
  assert_true(json_is_null(json_array_get(json_object_get(said, "answer"), 0)));
  assert_true(json_is_string(json_array_get(json_object_get(said, "answer"), 1)));
  assert_non_null(json_object_get(said, "undefined"));
  assert_int_equal(json_array_size(json_object_get(said, "compared_layers")), L - 2);
  json_array_foreach(ranks, r, one) {
    double loss = 0;
    for (int k = 2; k < L; k++) loss += (double)(logit[L] - logit[(int)r * n_point + k]) / (L - 2);
    expect_near(json_real_value(json_object_get(one, "loss")), loss, 1, "loss");
    if (r >= 1 && r <= 3) {
      assert_int_equal(json_integer_value(json_object_get(one, "order")), r - 1);
      mean += (of_random[r - 1] = loss) / 3;
    }
  }
  assert_int_equal(r, 5);
  for (int i = 0; i < 3; i++) squares += (of_random[i] - mean) * (of_random[i] - mean);
  const json_t *chance = json_object_get(said, "chance");
  assert_int_equal(json_integer_value(json_object_get(chance, "orders")), 3);
  expect_near(json_real_value(json_object_get(chance, "loss")), mean, 1, "mean loss of random orders");
  expect_near(json_real_value(json_object_get(chance, "sd")), sqrt(squares / 2), 1, "deviation of random orders");
  assert_true(squares > 0);
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
      {{{"keep-share", "0.03"}}, "less than one"},
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
  sl_run_reader *reader = run(f, &sl_cliff_analysis, (sl_option_value[]){{"keep", "2"}, {"rank", "cam,user"}}, 2);
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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(cliff_layer_is_defined),
      cmocka_unit_test(rankings_are_parsed),
      cmocka_unit_test(best_tokens_are_kept),
      cmocka_unit_test(curve_matches_transformers),
      cmocka_unit_test(plain_end_is_the_plain_run),
      cmocka_unit_test(batches_do_not_matter),
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
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
