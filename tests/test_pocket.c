/* The bundled model on the example pictures against transformers: the same greedy tokens in every compute mode; logits
 * within 1e-4 of their largest value in f32, and of cosine over 0.999 in bf16. */
#include "golden.h"

#include "model/session.h"

static sl_model *open_pocket(const char *compute) {
  const sl_model_options options = {.size = sizeof options, .compute = compute, .n_thread = 2};
  sl_model *model = NULL;
  ASSERT_OK(sl_model_open(&model, SL_SOURCE_DIR "/models/pocket-llava", &options));
  return model;
}

static double cosine(const float *a, const float *b, int n) {
  double ab = 0, aa = 0, bb = 0;
  for (int i = 0; i < n; i++) {
    ab += (double)a[i] * (double)b[i];
    aa += (double)a[i] * (double)a[i];
    bb += (double)b[i] * (double)b[i];
  }
  return ab / sqrt(aa * bb);
}

static sl_image *encode_file(sl_session *session, const sl_model *model, const char *name) {
  char path[600];
  snprintf(path, sizeof path, "%s/examples/%s", SL_SOURCE_DIR, name);
  sl_rgb picture = {0};
  float *pixels = NULL;
  int width = 0, height = 0;
  sl_image *image = NULL;
  ASSERT_OK(sl_rgb_load(&picture, path, true));
  ASSERT_OK(sl_preprocess_apply(sl_model_get_preprocess(model), &picture, &pixels, &width, &height, NULL, NULL));
  ASSERT_OK(sl_image_encode(&image, session, pixels, NULL, NULL, false));
  sl_rgb_dispose(&picture);
  free(pixels);
  return image;
}

/* One example: logits of the last prompt row, then the whole greedy answer. */
static void check_example(const sl_model *model, sl_session *session, const golden *g, int index, const char *compute) {
  json_t *facts = json_array_get(json_object_get(g->facts, "cases"), (size_t)index);
  const char *picture = json_string_value(json_object_get(facts, "image"));
  char name[32];
  snprintf(name, sizeof name, "%d/logits", index);
  const sl_tensor *want = sl_safetensors_find(g->arrays, name);
  const int n_vocab = sl_model_get_shape(model)->n_vocab;
  assert_int_equal(sl_tensor_count(want), n_vocab);

  sl_layout layout = {0};
  ASSERT_OK(sl_layout_build(&layout, model, NULL, json_string_value(json_object_get(facts, "prompt")), false));
  sl_image *image = encode_file(session, model, picture);
  float *logits = calloc((size_t)n_vocab, sizeof *logits);
  const int last = layout.n_prompt - 1;
  ASSERT_OK(sl_session_forward(session, &layout, image, &last, 1, logits, NULL, false));
  const double angle = cosine(logits, want->data, n_vocab), distance = golden_distance(logits, want);
  if (!(angle > 0.999)) fail_msg("%s in %s: cosine of the logits is %.6f", picture, compute, angle);
  if (strcmp(compute, "f32") == 0 && !(distance <= 1e-4)) fail_msg("%s: logits off by %.3g", picture, distance);

  json_t *greedy = json_object_get(facts, "greedy");
  ASSERT_OK(sl_session_greedy(session, &layout, image, 32, NULL, NULL));
  assert_int_equal(layout.n_token - layout.n_prompt, json_array_size(greedy));
  for (int i = 0; i < layout.n_token - layout.n_prompt; i++)
    if (layout.ids[layout.n_prompt + i] != json_integer_value(json_array_get(greedy, (size_t)i)))
      fail_msg("%s in %s: answer token %d differs", picture, compute, i);
  free(logits);
  sl_image_free(image);
  sl_layout_dispose(&layout);
}

static void check_mode(const char *compute) {
  golden g = golden_open("pocket");
  sl_model *model = open_pocket(compute);
  sl_session *session = NULL;
  ASSERT_OK(sl_session_new(&session, model, 2));
  const int n_case = (int)json_array_size(json_object_get(g.facts, "cases"));
  assert_true(n_case >= 12);
  for (int i = 0; i < n_case; i++) check_example(model, session, &g, i, compute);
  sl_session_free(session);
  sl_model_close(model);
  golden_close(&g);
}

static void f32_answers_as_transformers(void **state) {
  (void)state;
  check_mode("f32");
}

static void bf16x2_answers_as_transformers(void **state) {
  (void)state;
  check_mode("bf16x2");
}

static void bf16_answers_as_transformers(void **state) {
  (void)state;
  check_mode("bf16");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(f32_answers_as_transformers),
      cmocka_unit_test(bf16x2_answers_as_transformers),
      cmocka_unit_test(bf16_answers_as_transformers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
