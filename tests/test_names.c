/* Names of tensors in every layout that transformers and the official repositories have written: the same weights under
 * them give the same bits. */
#include "folder.h"

#include "model/session.h"

typedef struct spelling {
  const char *folder, *what;
  const char *pairs[5][2]; /* prefix in the folder, prefix here */
} spelling;

static const spelling spellings[] = {
    {"llava-gqa", "B: transformers in memory",
     {{"vision_tower.", "model.vision_tower."},
      {"language_model.model.", "model.language_model."},
      {"language_model.lm_head.", "lm_head."},
      {"multi_modal_projector.", "model.multi_modal_projector."}}},
    {"llava-gqa", "C: CLIP's inner wrapper gone",
     {{"vision_tower.vision_model.", "model.vision_tower."},
      {"language_model.model.", "model.language_model."},
      {"language_model.lm_head.", "lm_head."},
      {"multi_modal_projector.", "model.multi_modal_projector."}}},
    {"llava-gqa", "A and C mixed, as save_pretrained writes", {{"vision_tower.vision_model.", "vision_tower."}}},
    {"llava-gqa", "the original repository",
     {{"vision_tower.", "model.vision_tower.vision_tower."},
      {"language_model.model.", "model."},
      {"language_model.lm_head.", "lm_head."},
      {"multi_modal_projector.linear_1.", "model.mm_projector.0."},
      {"multi_modal_projector.linear_2.", "model.mm_projector.2."}}},
    {"gemma3", "transformers in memory",
     {{"vision_tower.vision_model.", "model.vision_tower."},
      {"language_model.model.", "model.language_model."},
      {"multi_modal_projector.", "model.multi_modal_projector."}}},
    {"internvl-native", "transformers in memory",
     {{"vision_tower.", "model.vision_tower."},
      {"language_model.model.", "model.language_model."},
      {"language_model.lm_head.", "lm_head."},
      {"multi_modal_projector.", "model.multi_modal_projector."}}},
    {"qwen2-vl", "transformers in memory", {{"model.", "model.language_model."}, {"visual.", "model.visual."}}},
    {"qwen2.5-vl", "released", {{"model.language_model.", "model."}, {"model.visual.", "visual."}}},
};

static bool respell(sl_tensor *t, char *name, void *user) {
  (void)t;
  const spelling *s = user;
  for (int i = 0; i < 5 && s->pairs[i][0]; i++) {
    const size_t n = strlen(s->pairs[i][0]);
    if (strncmp(name, s->pairs[i][0], n) != 0) continue;
    char changed[160];
    snprintf(changed, sizeof changed, "%s%s", s->pairs[i][1], name + n);
    memcpy(name, changed, sizeof changed);
    break;
  }
  return true;
}

/* Logits of the last row, new array [*n_vocab]. */
static float *last_logits(const char *dir, int *n_vocab) {
  sl_model *model = NULL;
  sl_session *session = NULL;
  sl_layout layout = {0};
  sl_image *image = NULL;
  const sl_model_options options = {
      .size = sizeof options, .backend = "ref", .compute = "f32", .n_thread = 1};
  ASSERT_OK(sl_model_open(&model, dir, &options));
  ASSERT_OK(sl_session_new(&session, model, 1));
  ASSERT_OK(sl_layout_build(&layout, model, NULL, "Is there a cat?", false));
  const sl_model_shape *shape = sl_model_get_shape(model);
  *n_vocab = shape->n_vocab;
  const size_t n_pixel = (size_t)3 * (size_t)shape->image_px * (size_t)shape->image_px;
  float *pixels = calloc(n_pixel, sizeof *pixels), *logits = calloc((size_t)shape->n_vocab, sizeof *logits);
  for (size_t i = 0; i < n_pixel; i++) pixels[i] = (float)sin((double)i);
  ASSERT_OK(sl_image_encode(&image, session, pixels, NULL, NULL, false));
  const int last = layout.n_token - 1;
  ASSERT_OK(sl_session_forward(session, &layout, image, &last, 1, logits, NULL, false));
  free(pixels);
  sl_image_free(image);
  sl_layout_dispose(&layout);
  sl_session_free(session);
  sl_model_close(model);
  return logits;
}

/* The mix's names are those that transformers says it writes. */
static void check_written_names(const char *dir) {
  golden g = golden_open("llava-gqa");
  json_t *written = sl_json_at(g.facts, "keys_written_by_save_pretrained");
  sl_safetensors *file = NULL;
  ASSERT_OK(sl_safetensors_open(&file, dir));
  assert_int_equal(sl_safetensors_count(file), json_array_size(written));
  for (size_t i = 0; i < json_array_size(written); i++)
    assert_non_null(sl_safetensors_find(file, json_string_value(json_array_get(written, i))));
  sl_safetensors_close(file);
  golden_close(&g);
}

static void layouts_are_equal(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
    spelling s = spellings[i];
    folder f = folder_copy(s.folder);
    int n = 0, n_own = 0;
    float *want = last_logits(f.dir, &n_own);
    folder_rewrite(&f, respell, &s, NULL);
    if (strstr(s.what, "save_pretrained")) check_written_names(f.dir);
    float *got = last_logits(f.dir, &n);
    assert_int_equal(n, n_own);
    if (memcmp(got, want, (size_t)n * sizeof *want) != 0)
      fail_msg("%s, names in layout %s: other logits", s.folder, s.what);
    free(want);
    free(got);
    folder_remove(&f);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(layouts_are_equal)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
