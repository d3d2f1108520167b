/* Models with a SigLIP tower (Idefics3, SmolVLM, Gemma 3): where their tokens are in the picture, settings in the
 * spellings of transformers 4 and 5, settings that are refused, decoding of branches. Their numbers are in
 * test_families. */
#include "folder.h"

#include "family_run.h"
#include "model/branch.h"

static sl_status open_at(sl_model **model, const char *dir) {
  const sl_model_options options = {.size = sizeof options, .backend = "cpu", .compute = "f32", .n_thread = 2};
  return sl_model_open(model, dir, &options);
}

/* ---- places ---- */

/* Window of a view in the picture, in parts of its sides. */
typedef struct part {
  double x, y, width, height;
} part;

/* The i-th shown token is cell i % n_cell, row by row, of view i / n_cell; all others have no place. */
static void check_boxes(const char *name, int number, const part *views, int n_view, int side) {
  family_run r;
  family_open(&r, name, CPU);
  family_start_case(&r, number);
  float(*box)[4] = calloc((size_t)r.pack.n, sizeof *box);
  int32_t *view = calloc((size_t)r.pack.n, sizeof *view);
  sl_pack_boxes(&r.pack, box, view);
  const double width = r.views.source_width_px, height = r.views.source_height_px;
  assert_int_equal(r.pack.n_view, n_view);
  assert_int_equal(r.pack.n_shown, n_view * side * side);
  int n = 0;
  for (int i = 0; i < r.pack.n; i++) {
    if (n == r.pack.n_shown || r.pack.shown[n] != i) {
      assert_int_equal(view[i], -1);
      assert_int_equal(r.layout.classes[r.layout.first_image + i], SL_CLASS_STRUCTURE);
      continue;
    }
    const int v = n / (side * side), row = n % (side * side) / side, col = n % side;
    assert_int_equal(view[i], v);
    assert_int_equal(r.layout.classes[r.layout.first_image + i], SL_CLASS_IMAGE);
    for (int corner = 0; corner < 2; corner++) {
      const double x = (views[v].x + views[v].width * (col + corner) / side) * width;
      const double y = (views[v].y + views[v].height * (row + corner) / side) * height;
      assert_true(fabs((double)box[i][2 * corner] - x) < 1e-3 && fabs((double)box[i][2 * corner + 1] - y) < 1e-3);
    }
    n++;
  }
  assert_int_equal(n, r.pack.n_shown);
  free(box);
  free(view);
  family_close(&r);
}

/* Tiles cut the stretched picture into equal parts; the last view, and Gemma 3's only one, is all of it. */
static void boxes(void **state) {
  (void)state;
  static const part whole[] = {{0, 0, 1, 1}};
  static const part wide[] = {{0, 0, 0.5, 1}, {0.5, 0, 0.5, 1}, {0, 0, 1, 1}};
  static const part high[] = {{0, 0, 1, 0.5}, {0, 0.5, 1, 0.5}, {0, 0, 1, 1}};
  static const part four[] = {
      {0, 0, 0.5, 0.5}, {0.5, 0, 0.5, 0.5}, {0, 0.5, 0.5, 0.5}, {0.5, 0.5, 0.5, 0.5}, {0, 0, 1, 1}};
  check_boxes("smolvlm", 0, wide, 3, 2);
  check_boxes("smolvlm", 1, four, 5, 2);
  check_boxes("smolvlm", 2, high, 3, 2);
  check_boxes("idefics3", 0, whole, 1, 2);
  check_boxes("gemma3", 0, whole, 1, 4);
  check_boxes("gemma3", 3, whole, 1, 4);
}

/* ---- settings ---- */

typedef struct setting {
  const char *path, *value;
} setting;

/* Logits behind the prompt of c0. */
static void check_logits(const char *dir, const char *golden_name) {
  family_run r = {.g = golden_open(golden_name)};
  snprintf(r.where, sizeof r.where, "%s", dir);
  ASSERT_OK(open_at(&r.model, dir));
  ASSERT_OK(sl_session_new(&r.session, r.model, 2));
  family_start_case(&r, 0);
  family_encode(&r, NULL, false);
  const int last = r.layout.n_prompt - 1, n_vocab = sl_model_get_shape(r.model)->n_vocab;
  float *logits = calloc((size_t)n_vocab, sizeof *logits);
  ASSERT_OK(sl_session_forward(r.session, &r.layout, r.image, &last, 1, logits, NULL, false));
  const sl_tensor *all = golden_find(&r.g, "c0", "greedy.logits");
  const sl_tensor first = {.data = all->data, .dtype = SL_F32, .n_dim = 1, .shape = {n_vocab}};
  family_check(&r, "logits", logits, &first, 1e-4);
  free(logits);
  family_close(&r);
}

/* What transformers 5 writes for the same model. */
static void newer_spelling(void **state) {
  (void)state;
  static const setting changes[] = {
      {"text_config.rope_theta", NULL}, {"text_config.rope_local_base_freq", NULL}, {"text_config.rope_scaling", NULL},
      {"text_config.sliding_window_pattern", NULL}, {"text_config.final_logit_softcapping", "null"},
      {"text_config.use_bidirectional_attention", "false"},
      {"text_config.layer_types", "[\"sliding_attention\", \"sliding_attention\", \"full_attention\"]"},
      {"text_config.rope_parameters",
       "{\"full_attention\": {\"rope_type\": \"linear\", \"factor\": 2.0, \"rope_theta\": 500.0}, "
       "\"sliding_attention\": {\"rope_type\": \"default\", \"rope_theta\": 50.0}}"}};
  folder f = folder_copy("gemma3");
  for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
    folder_set_json(&f, "config.json", changes[i].path, changes[i].value);
  check_logits(f.dir, "gemma3");
  folder_remove(&f);
}

static void expect_failure(const char *golden_name, const char *path, const char *value, sl_status status,
                           const char *part_of_message) {
  folder f = folder_copy(golden_name);
  sl_model *model = NULL;
  folder_set_json(&f, "config.json", path, value);
  const sl_status found = open_at(&model, f.dir);
  if (found != status || !strstr(sl_error_message(), part_of_message))
    fail_msg("%s %s: %s; expected status %d, \"%s\"", path, value, found ? sl_error_message() : "opens", status,
             part_of_message);
  folder_remove(&f);
}

static void refused_settings(void **state) {
  (void)state;
  static const struct {
    const char *golden_name, *path, *value;
    sl_status status;
    const char *part;
  } cases[] = {
      {"gemma3", "text_config.final_logit_softcapping", "30.0", SL_ERROR_UNSUPPORTED, "final_logit_softcapping"},
      {"gemma3", "text_config.use_bidirectional_attention", "true", SL_ERROR_UNSUPPORTED,
       "use_bidirectional_attention"},
      {"gemma3", "text_config.layer_types", "[\"full_attention\"]", SL_ERROR_FORMAT, "1 entries"},
      {"gemma3", "text_config.layer_types", "[\"full_attention\", \"sliding_attention\", \"full_attention\"]",
       SL_ERROR_UNSUPPORTED, "layer_types[1]"},
      {"gemma3", "text_config.layer_types", "[\"sliding_attention\", \"chunked_attention\", \"full_attention\"]",
       SL_ERROR_FORMAT, "layer_types[1]"},
      {"gemma3", "text_config.rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 2.0}", SL_ERROR_UNSUPPORTED,
       "yarn"},
      {"gemma3", "text_config.rope_scaling", "{\"rope_type\": \"linear\", \"factor\": 0}", SL_ERROR_FORMAT, "factor"},
      {"gemma3", "text_config.rope_parameters", "{\"sliding_attention\": {\"rope_type\": \"linear\", \"factor\": 2.0}}",
       SL_ERROR_UNSUPPORTED, "sliding_attention.rope_type is \"linear\""},
      {"qwen-vl", "visual", "null", SL_ERROR_UNSUPPORTED, "nothing else is as in the Qwen-VL"},
      {"gemma3", "text_config.query_pre_attn_scalar", "-1", SL_ERROR_FORMAT, "query_pre_attn_scalar"},
      {"gemma3", "text_config.rope_local_base_freq", "0", SL_ERROR_FORMAT, "rope_local_base_freq"},
      {"gemma3", "mm_tokens_per_image", "15", SL_ERROR_FORMAT, "mm_tokens_per_image is 15"},
      {"gemma3", "mm_tokens_per_image", "9", SL_ERROR_FORMAT, "divides the tower's 8"},
      {"gemma3", "image_token_index", "7", SL_ERROR_FORMAT, "<image_soft_token>"},
      {"smolvlm", "scale_factor", "4", SL_ERROR_FORMAT, "cells of 4"},
      {"smolvlm", "scale_factor", "0", SL_ERROR_FORMAT, "scale_factor"},
      {"smolvlm", "image_token_id", "3", SL_ERROR_FORMAT, "<image>"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    expect_failure(cases[i].golden_name, cases[i].path, cases[i].value, cases[i].status, cases[i].part);
}

/* What a chat template writes begins with "<bos>", which the tokenizer adds as well: it stands there once. */
static void beginning_is_written_once(void **state) {
  (void)state;
  static const char *const bodies[] = {"<start_of_turn>user\n<image>What?<end_of_turn>\n", "What?<image>\n"};
  folder f = folder_copy("gemma3");
  sl_model *model = NULL;
  ASSERT_OK(open_at(&model, f.dir));
  for (int i = 0; i < 2; i++) {
    char with[200];
    sl_layout plain = {0}, begun = {0};
    snprintf(with, sizeof with, "<bos>%s", bodies[i]);
    ASSERT_OK(sl_layout_build(&plain, model, NULL, bodies[i], true));
    ASSERT_OK(sl_layout_build(&begun, model, NULL, with, true));
    assert_int_equal(begun.n_prompt, plain.n_prompt);
    assert_memory_equal(begun.ids, plain.ids, (size_t)plain.n_prompt * sizeof *plain.ids);
    assert_memory_equal(begun.classes, plain.classes, (size_t)plain.n_prompt);
    assert_int_not_equal(plain.ids[0], plain.ids[1]);
    sl_layout_dispose(&plain);
    sl_layout_dispose(&begun);
  }
  sl_model_close(model);
  folder_remove(&f);
}

/* Sides on which torch's arange and bucketize, in 32 bits, give every patch its own position, those of the released
 * models among them; and sides on which they do not. */
static void positions_by_fraction(void **state) {
  (void)state;
  static const int good[] = {14, 16, 24, 26, 27, 28, 32, 64};
  static const int bad[] = {19, 25, 29, 31, 38, 40, 41, 43, 47, 49, 50, 54, 55};
  folder f = folder_copy("smolvlm");
  folder_set_json(&f, "config.json", "scale_factor", "1");
  for (size_t i = 0; i < sizeof good / sizeof *good + sizeof bad / sizeof *bad; i++) {
    const bool is_good = i < sizeof good / sizeof *good;
    char text[16];
    sl_model *model = NULL;
    snprintf(text, sizeof text, "%d", 4 * (is_good ? good[i] : bad[i - sizeof good / sizeof *good]));
    folder_set_json(&f, "config.json", "vision_config.image_size", text);
    /* What is accepted fails later: the processor's tiles are still of 24 px. */
    assert_int_equal(open_at(&model, f.dir), is_good ? SL_ERROR_FORMAT : SL_ERROR_UNSUPPORTED);
    assert_non_null(strstr(sl_error_message(), is_good ? "24 x 24 px" : "patches a side"));
  }
  folder_remove(&f);
}

static void fail_with(void *user, const char *message) { fail_msg("%s: %s", (const char *)user, message); }

/* Every tensor of these folders is used, and their chat templates hold the words of the prompts. */
static void nothing_to_say(void **state) {
  (void)state;
  static const char *const names[] = {"smolvlm", "idefics3", "gemma3"};
  for (int i = 0; i < 3; i++) {
    char dir[600];
    sl_model *model = NULL;
    snprintf(dir, sizeof dir, "%s/%s", GOLDEN_DIR, names[i]);
    const sl_model_options options = {.size = sizeof options, .backend = "cpu", .compute = "f32", .n_thread = 2,
                                      .log = fail_with, .user = dir};
    ASSERT_OK(sl_model_open(&model, dir, &options));
    sl_model_close(model);
  }
}

/* ---- branches ---- */

/* A branch without rules goes on as the model does: windows and the image's own sight hold in prefix, trunk and steps.
 */
static void branches_decode(void **state) {
  (void)state;
  static const char *const names[] = {"gemma3", "smolvlm"};
  static const sl_plan nothing = {0};
  for (int n = 0; n < 2; n++)
    for (int number = 0; number < 4; number++) {
      family_run r;
      int32_t ids[8];
      int n_id = 0;
      sl_prefix *prefix = NULL;
      sl_trunk *trunk = NULL;
      family_open(&r, names[n], CPU);
      family_start_case(&r, number);
      family_encode(&r, NULL, false);
      ASSERT_OK(sl_prefix_new(&prefix, r.session, &r.layout, r.image, false, NULL));
      ASSERT_OK(sl_trunk_new(&trunk, r.session, prefix, &r.layout, NULL));
      const sl_branch_request request = {.trunk = trunk, .plans = &nothing, .n_plan = 1};
      ASSERT_OK(sl_branches_greedy(r.session, &request, 8, ids, &n_id));
      assert_int_equal(n_id, 8);
      assert_memory_equal(ids, golden_find(&r.g, r.test_case, "greedy")->data, sizeof ids);
      sl_trunk_free(trunk);
      sl_prefix_free(prefix);
      family_close(&r);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(boxes),
      cmocka_unit_test(newer_spelling),
      cmocka_unit_test(beginning_is_written_once),
      cmocka_unit_test(refused_settings),
      cmocka_unit_test(positions_by_fraction),
      cmocka_unit_test(nothing_to_say),
      cmocka_unit_test(branches_decode),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
