/* knockout and lens: windows and centroids on hand-made numbers, blocked edges against plans written out by hand, the
 * lens against a head written out here over transformers' residuals; and what all three analyses do when stopped or out
 * of memory. */
#include "intervention.h"

#include "analysis/knockout.h"
#include "analysis/lens.h"

/* ---- knockout ---- */

static void windows_and_centroids(void **state) {
  (void)state;
  static const int window[][2] = {{1, 1},  {2, 1},  {7, 1},  {8, 3},   {12, 3}, {16, 5},
                                  {24, 7}, {28, 7}, {32, 9}, {40, 11}, {80, 23}};
  for (size_t i = 0; i < sizeof window / sizeof *window; i++)
    assert_int_equal(sl_knockout_window(window[i][0]), window[i][1]);
  static const int clip[][5] = {{0, 9, 32, 0, 5}, {4, 9, 32, 0, 9},  {5, 9, 32, 1, 10}, {31, 9, 32, 27, 32},
                                {3, 1, 32, 3, 4}, {1, 99, 4, 0, 4}};
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
  reader = run(f, &sl_knockout_analysis,
               (sl_option_value[]){{"window", "99"}, {"edges", "role+final<-image,question<-image"}}, 2);
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
      {"role+final<-question", "41-51", "24-40"}, {"question<-image", "24-40", "8-23"},
      {"role+final<-image", "41-51", "8-23"},     {"final<-question", "51", "24-40"},
      {"final<-role", "51", "41-50"},             {"final<-image", "51", "8-23"},
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
      json_t *json = json_pack("{s:[{s:s, s:s, s:s, s:s, s:s}]}", "attend", "layers", windows[c], "heads", "all",
                               "queries", edges[e].queries, "keys", edges[e].keys, "source", "hidden");
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
  const sl_analysis *const by_ablation[] = {&sl_heads_analysis, &sl_tokens_analysis};
  for (int i = 0; i < 2; i++) {
    const size_t n_warning = json_array_size(f->context.warnings);
    set_options(f, by_ablation[i], NULL, 0);
    ASSERT_OK(by_ablation[i]->check(&f->context));
    assert_true(by_ablation[i]->passes(&f->context) == 0);
    ASSERT_OK(by_ablation[i]->run(&f->context));
    assert_non_null(json_object_get(f->context.said, "skipped"));
    assert_int_equal(json_array_size(f->context.warnings), n_warning + 1);
  }
  reader = run(f, &sl_lens_analysis, NULL, 0); /* the lens reads the final image token as any other */
  assert_int_equal(tensor(reader, "lens.final_rank")->shape[0], layers(f) + 1);
  sl_run_close(reader);
  tear_down(f);
}

/* An even window would hang half a layer below its centre. */
static void even_windows_are_refused(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "what");
  static const struct {
    const char *window;
    sl_status status;
  } known[] = {{"4", SL_ERROR_ARGUMENT}, {"2", SL_ERROR_ARGUMENT}, {"3", SL_OK}, {"1", SL_OK}, {"0", SL_OK}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    set_options(f, &sl_knockout_analysis, &(sl_option_value){"window", known[i].window}, 1);
    assert_int_equal(sl_knockout_analysis.check(&f->context), known[i].status);
    if (known[i].status != SL_OK) assert_non_null(strstr(sl_error_message(), "--window: expected an odd number"));
  }
  tear_down(f);
}

static void wrong_edges_are_named(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "what");
  set_options(f, &sl_knockout_analysis, &(sl_option_value){"edges", "final<-image,image<-final"}, 1);
  assert_int_equal(sl_knockout_analysis.check(&f->context), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "\"image<-final\""));
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
  const float *weight = norm->data, *rows = head->data;
  assert_int_equal(V, vocabulary(f));
  for (int v = 0; v < V; v++) {
    z[v] = 0;
    for (int i = 0; i < D; i++)
      z[v] += (double)x[i] * scale * (double)weight[i] * (double)rows[(int64_t)v * D + i];
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
                     (double)floats(reader, "lens.image_answer")[k * N + j],
                     ints(reader, "lens.image_rank")[k * N + j], name);
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
      cmocka_unit_test(windows_and_centroids),
      cmocka_unit_test(blocking_all_is_no_image),
      cmocka_unit_test(edges_are_the_named_positions),
      cmocka_unit_test(empty_sets_are_said),
      cmocka_unit_test(even_windows_are_refused),
      cmocka_unit_test(wrong_edges_are_named),
      cmocka_unit_test(lens_matches_transformers),
      cmocka_unit_test(lens_passes_agree),
      cmocka_unit_test(they_can_be_stopped),
      cmocka_unit_test(no_memory_is_an_error),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
