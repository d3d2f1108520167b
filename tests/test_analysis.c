/* flow against the golden numbers; targets, masks, options and the order of analyses. */
#include "analysis_fixture.h"

#include "analysis/target.h"
#include "base/rng.h"
#include "stats/spread.h"
#include "task/picture.h"

/* ---- flow ---- */

/* Shares of a golden case; where the class token is kept, the golden counts it as image, we as structure. */
static void flow_matches(void **state) {
  (void)state;
  for (int k = 0; k < N_FOLDER; k++) {
    for (int c = 0; c < 2; c++) {
      fixture *f = set_up(folders[k], c ? "c1" : "c0", 3);
      char *dir = temporary_dir();
      sl_run_reader *reader = run_into(f, "flow", dir, NULL, 0);
      const sl_tensor *want = golden_find(&f->g, f->name, "flow/share");
      const int64_t n_row = sl_tensor_count(want) / 5;
      float *share = malloc((size_t)n_row * 5 * sizeof *share);
      memcpy(share, result(reader, "flow.share"), (size_t)n_row * 5 * sizeof *share);
      for (int64_t r = 0; r < n_row; r++) {
        share[r * 5 + SL_CLASS_IMAGE] += share[r * 5 + SL_CLASS_STRUCTURE];
        if (sl_model_get_shape(f->model)->keeps_cls) assert_true(share[r * 5 + SL_CLASS_STRUCTURE] > 0);
        share[r * 5 + SL_CLASS_STRUCTURE] = 0;
      }
      expect(f, "flow/share", share);
      free(share);
      sl_run_close(reader);
      remove_dir(dir);
      tear_down(f);
    }
  }
}

/* Image rows, heads, entropy and sinks follow from the golden pattern of the prompt's last row. */
static void flow_details_follow_from_the_pattern(void **state) {
  (void)state;
  fixture *f = set_up("llava-mha", "c0", 3);
  char *dir = temporary_dir();
  sl_run_reader *reader = run_into(f, "flow", dir, (sl_option_value[]){{"sinks", "2"}}, 1);
  const int P = f->layout.n_prompt, N = f->layout.n_image, first = f->layout.first_image;
  const int L = sl_model_get_shape(f->model)->decoder.n_layer, H = sl_model_get_shape(f->model)->decoder.n_head;
  const float *image = result(reader, "flow.image"), *heads = result(reader, "flow.image_heads");
  const float *share_heads = result(reader, "flow.share_heads"), *entropy = result(reader, "flow.entropy");
  const int32_t *sinks = (const int32_t *)(const void *)result(reader, "flow.sinks");
  for (int l = 0; l < L; l++) {
    char name[64];
    sl_site_name(name, SL_PART_DECODER, SL_SITE_PATTERN, l);
    const float *pattern = golden_find(&f->g, "c0", name)->data; /* [H, P, P] */
    double entropy_sum = 0, patches = 0, best = 0;
    int best_key = -1;
    for (int j = 0; j < P; j++) {
      double mean = 0;
      for (int h = 0; h < H; h++) {
        const double a = (double)pattern[((int64_t)h * P + P - 1) * P + j];
        mean += a / H;
        if (j >= first && j < first + N) assert_true(fabs(a - (double)heads[(l * H + h) * N + j - first]) < 1e-5);
      }
      if (j >= first && j < first + N) assert_true(fabs(mean - (double)image[(int64_t)l * 3 * N + j - first]) < 1e-5);
      if (j > first && j < first + N) patches += mean; /* the class token comes first and shows no patch */
      if ((j < first || j >= first + N) && j < P - 1 && mean > best) best = mean, best_key = j;
    }
    for (int j = first + 1; j < first + N; j++) {
      double mean = 0;
      for (int h = 0; h < H; h++) mean += (double)pattern[((int64_t)h * P + P - 1) * P + j] / H;
      if (mean > 0) entropy_sum -= mean / patches * log(mean / patches);
    }
    assert_true(fabs(entropy_sum - (double)entropy[l * 3]) < 1e-4);
    assert_int_equal(sinks[l * 2], best_key);
    for (int h = 0; h < H; h++) {
      double sum = 0;
      for (int k = 0; k < 5; k++) sum += (double)share_heads[((l * H + h) * 3 + 1) * 5 + k];
      assert_true(fabs(sum - 1) < 1e-5);
    }
  }
  sl_run_close(reader);
  remove_dir(dir);
  tear_down(f);
}

/* One row per pass, or two, gives what one pass gives: the memory limit changes nothing. */
static void flow_passes_agree(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 5);
  static const char *const names[] = {"flow.share", "flow.share_heads", "flow.image", "flow.entropy",
                                      "flow.sink_share"};
  char *dir = temporary_dir();
  void *whole[5];
  const int64_t row_bytes = (int64_t)sl_model_get_shape(f->model)->decoder.n_head * f->layout.n_token * 4;
  for (int rows = 5; rows > 0; rows -= rows == 5 ? 3 : 1) {
    sl_shared_dispose(&f->shared);
    sl_run_reader *reader = run_limited(f, "flow", dir, NULL, 0, rows == 1 ? 1 : rows * row_bytes);
    for (int i = 0; i < 5; i++) {
      const sl_tensor *tensor = sl_run_find(reader, names[i]);
      const size_t n_bytes = (size_t)sl_tensor_count(tensor) * sizeof(float);
      if (rows == 5) {
        whole[i] = malloc(n_bytes);
        memcpy(whole[i], tensor->data, n_bytes);
      }
      assert_memory_equal(whole[i], tensor->data, n_bytes);
    }
    sl_run_close(reader);
  }
  for (int i = 0; i < 5; i++) free(whole[i]);
  remove_dir(dir);
  tear_down(f);
}

static void flow_renormalises(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 3);
  char *dir = temporary_dir();
  sl_run_reader *reader = run_into(f, "flow", dir, (sl_option_value[]){{"renormalise", "true"}}, 1);
  const float *share = result(reader, "flow.share"), *want = golden_find(&f->g, "c0", "flow/share")->data;
  for (int r = 0; r < 3 * sl_model_get_shape(f->model)->decoder.n_layer; r++) {
    const double rest = 1 - (double)want[r * 5 + SL_CLASS_GENERATED];
    assert_true(share[r * 5 + SL_CLASS_GENERATED] == 0);
    for (int c = 0; c < SL_CLASS_GENERATED; c++)
      assert_true(fabs((double)share[r * 5 + c] - (double)want[r * 5 + c] / rest) < 1e-5);
  }
  sl_run_close(reader);
  remove_dir(dir);
  tear_down(f);
}

/* ---- small parts ---- */

/* Every target's gradient against central differences of its value. */
static void target_gradients(void **state) {
  (void)state;
  enum { V = 6 };
  float z[V] = {0.3f, -1.2f, 2.5f, 0.1f, 1.9f, -0.4f}, d[V], unused[V];
  for (int target = 0; target < SL_TARGET_COUNT; target++) {
    const int32_t rival = target == SL_TARGET_MARGIN || target == SL_TARGET_CONTRAST ? 2 : -1;
    sl_target_gradient((sl_target)target, z, V, 4, rival, d);
    for (int v = 0; v < V; v++) {
      const float kept = z[v], step = 0.0078125f;
      z[v] = kept + step;
      const double up = sl_target_gradient((sl_target)target, z, V, 4, rival, unused);
      z[v] = kept - step;
      const double down = sl_target_gradient((sl_target)target, z, V, 4, rival, unused);
      z[v] = kept;
      assert_true(fabs((up - down) / (2 * (double)step) - (double)d[v]) < 1e-4);
    }
  }
  /* values */
  assert_true(fabs(sl_target_gradient(SL_TARGET_LOGIT, z, V, 4, -1, d) - 1.9) < 1e-6);
  assert_true(fabs(sl_target_gradient(SL_TARGET_MARGIN, z, V, 4, 2, d) - (1.9 - 2.5)) < 1e-6);
  const double p = exp(sl_target_gradient(SL_TARGET_LOGPROB, z, V, 4, -1, d));
  assert_true(fabs(sl_target_gradient(SL_TARGET_LOGODDS, z, V, 4, -1, d) - log(p / (1 - p))) < 1e-6);
}

static void runner_up_of_a_forced_token(void **state) {
  (void)state;
  const float z[] = {1, 5, 3, 5, -2, 0, 2};
  sl_answer_token token;
  sl_answer_token_fill(&token, 1, z, 7);
  assert_int_equal(token.n_top, SL_N_TOP);
  const int32_t order[] = {1, 3, 2, 6, 0};
  for (int i = 0; i < SL_N_TOP; i++) assert_int_equal(token.top[i].id, order[i]);
  assert_int_equal(sl_target_rival(SL_TARGET_MARGIN, &token, -1), 3);
  sl_answer_token_fill(&token, 4, z, 7); /* not the most likely: the rival is the best one */
  assert_int_equal(sl_target_rival(SL_TARGET_MARGIN, &token, -1), 1);
  double sum = 0;
  for (int v = 0; v < 7; v++) sum += exp((double)z[v]);
  assert_true(fabs((double)token.prob - exp(-2) / sum) < 1e-7);
  sl_answer_token_fill(&token, 0, z, 2);
  assert_int_equal(token.n_top, 2);
}

static void contrast_is_one_token(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 1);
  const sl_tokenizer *tokenizer = sl_model_get_tokenizer(f->model);
  const int spaced = sl_tokenizer_find(tokenizer, "\xe2\x96\x81the"), bare = sl_tokenizer_find(tokenizer, "re");
  int32_t id = -1;
  const sl_answer_token like_spaced[2] = {{.id = spaced}, {.id = -1}}, like_bare[2] = {{.id = bare}, {.id = -1}};
  assert_true(spaced >= 0 && bare >= 0);
  ASSERT_OK(sl_target_contrast_id(f->model, "the", like_spaced, 2, &id));
  assert_int_equal(id, spaced);
  ASSERT_OK(sl_target_contrast_id(f->model, "re", like_bare, 2, &id));
  assert_int_equal(id, bare);
  /* Both forms of "i" are tokens: the one that begins like the answer counts. */
  ASSERT_OK(sl_target_contrast_id(f->model, "i", like_spaced, 2, &id));
  assert_int_equal(id, sl_tokenizer_find(tokenizer, "\xe2\x96\x81i"));
  ASSERT_OK(sl_target_contrast_id(f->model, "i", like_bare, 2, &id));
  assert_int_equal(id, sl_tokenizer_find(tokenizer, "i"));
  assert_int_equal(sl_target_contrast_id(f->model, "elephant seal", like_spaced, 2, &id), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "expected one"));
  assert_int_equal(sl_target_contrast_id(f->model, "", like_spaced, 2, &id), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_target_contrast_id(f->model, "the", like_spaced, 1, &id), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "the answer itself"));
  tear_down(f);
}

static void mask_share_is_exact(void **state) {
  (void)state;
  uint8_t data[16] = {0};
  const sl_grey mask = {.width_px = 4, .height_px = 4, .data = data};
  data[1 * 4 + 1] = 1; /* any value that is not zero */
  data[1 * 4 + 2] = 255;
  assert_true(fabs(sl_mask_share(&mask, (float[]){1, 1, 3, 3}) - 0.5) < 1e-12);
  assert_true(fabs(sl_mask_share(&mask, (float[]){0, 0, 4, 4}) - 2 / 16.0) < 1e-12);
  assert_true(fabs(sl_mask_share(&mask, (float[]){0.5f, 1.5f, 1.5f, 2.5f}) - 0.25) < 1e-12);
  assert_true(fabs(sl_mask_share(&mask, (float[]){-1, 1, 2, 2}) - 1 / 3.0) < 1e-12); /* partly outside: no mask there */
  assert_true(sl_mask_share(&mask, (float[]){2, 2, 2, 2}) == 0);
}

static void makers_run_first(void **state) {
  (void)state;
  int order[] = {1, 0};
  assert_string_equal(sl_analyses[0]->info.name, "flow");
  assert_string_equal(sl_analyses[1]->info.name, "cam");
  sl_analysis_order(order, 2);
  assert_int_equal(order[0], 0);
  int alone[] = {1};
  sl_analysis_order(alone, 1);
  assert_int_equal(alone[0], 1);
}

static void options_are_checked(void **state) {
  (void)state;
  static const char *const names[] = {"ln2", "resid_pre", NULL};
  const sl_option_info real = {.name = "sigma", .type = SL_OPTION_REAL, .min = 0, .max = 1e3};
  const sl_option_info whole = {.name = "smooth", .type = SL_OPTION_INT, .min = 0, .max = 10};
  const sl_option_info choice = {.name = "site", .type = SL_OPTION_CHOICE, .choices = names, .fallback = "ln2"};
  const sl_option_info flag = {.name = "clip", .type = SL_OPTION_FLAG};
  static const char *const good_reals[] = {"0", ".5", "1.", "1e2", "+0.25", "007.5", "1.5e-3", "1000"};
  static const char *const bad_reals[] = {"",   ".",    "-1",   "1,5", "nan",   "inf",
                                          "1e", "0x10", "1001", "1 ",  "1e400", "--1"};
  for (size_t i = 0; i < sizeof good_reals / sizeof *good_reals; i++)
    if (sl_option_check(&real, good_reals[i]) != SL_OK) fail_msg("%s: %s", good_reals[i], sl_error_message());
  for (size_t i = 0; i < sizeof bad_reals / sizeof *bad_reals; i++)
    if (sl_option_check(&real, bad_reals[i]) != SL_ERROR_ARGUMENT) fail_msg("\"%s\" was taken", bad_reals[i]);
  static const struct {
    const char *text;
    double value;
  } values_of[] = {{"0.1", 0.1}, {"-2.5e1", -25}, {".02", 0.02}, {"1e-3", 1e-3}, {"123.456", 123.456}};
  for (size_t i = 0; i < sizeof values_of / sizeof *values_of; i++) {
    const sl_analysis_info one = {.options = &real, .n_option = 1};
    const sl_option_value given = {"sigma", values_of[i].text};
    assert_true(sl_option_real(&one, "sigma", &given, 1) == values_of[i].value);
  }
  ASSERT_OK(sl_option_check(&whole, "10"));
  static const char *const bad_wholes[] = {"", "11", "-1", "1.0", "9999999999999999999999", " 1", "1x"};
  for (size_t i = 0; i < sizeof bad_wholes / sizeof *bad_wholes; i++)
    if (sl_option_check(&whole, bad_wholes[i]) != SL_ERROR_ARGUMENT) fail_msg("\"%s\" was taken", bad_wholes[i]);
  ASSERT_OK(sl_option_check(&choice, "resid-pre"));
  assert_int_equal(sl_option_check(&choice, "ln3"), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "ln2, resid_pre"));
  assert_int_equal(sl_option_check(&flag, "yes"), SL_ERROR_ARGUMENT);
  /* The last value counts, in the table's spelling. */
  const sl_analysis_info info = {.options = &choice, .n_option = 1};
  const sl_option_value values[] = {{"site", "ln2"}, {"site", "resid-pre"}};
  assert_string_equal(sl_option_text(&info, "site", values, 2), "resid_pre");
  assert_string_equal(sl_option_text(&info, "site", values, 0), "ln2");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(flow_matches),
      cmocka_unit_test(flow_details_follow_from_the_pattern),
      cmocka_unit_test(flow_passes_agree),
      cmocka_unit_test(flow_renormalises),
      cmocka_unit_test(target_gradients),
      cmocka_unit_test(runner_up_of_a_forced_token),
      cmocka_unit_test(contrast_is_one_token),
      cmocka_unit_test(mask_share_is_exact),
      cmocka_unit_test(makers_run_first),
      cmocka_unit_test(options_are_checked),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
