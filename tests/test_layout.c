/* Layouts on the golden folders: classes, roles and spans, prompts that are refused, raw prompts, answers given as text,
 * and the boxes of image tokens. */
#include "session_run.h"

static void classes_match_golden(void **state) {
  (void)state;
  for (int f = 0; f < 3; f++)
    for (int c = 0; c < 2; c++) {
      const char *test_case = c ? "c1" : "c0";
      golden g = golden_open(folders[f]);
      sl_model *model = open_model(folders[f], "ref");
      sl_layout layout = {0};
      ASSERT_OK(sl_layout_build(&layout, model, NULL, golden_string(&g, test_case, "prompt"), true));
      ASSERT_OK(sl_layout_append(&layout, model, golden_find(&g, test_case, "greedy")->data, 3));
      const sl_tensor *want = golden_find(&g, test_case, "flow/class");
      assert_int_equal(want->shape[0], layout.n_token);
      /* The maker counts a kept class token as image; here it shows no patch and is structure. */
      if (sl_model_get_shape(model)->keeps_cls) {
        assert_int_equal(layout.classes[layout.first_image], SL_CLASS_STRUCTURE);
        layout.classes[layout.first_image] = SL_CLASS_IMAGE;
      }
      for (int t = 0; t < layout.n_token; t++)
        if (((const int32_t *)want->data)[t] != layout.classes[t])
          fail_msg("%s %s: position %d is %s, expected class %d", folders[f], test_case, t,
                   sl_class_name((sl_token_class)layout.classes[t]), ((const int32_t *)want->data)[t]);
      char path[64];
      snprintf(path, sizeof path, "cases.%s.image_first", test_case);
      assert_int_equal(json_integer_value(sl_json_at(g.facts, path)), layout.first_image);
      snprintf(path, sizeof path, "cases.%s.image_count", test_case);
      assert_int_equal(json_integer_value(sl_json_at(g.facts, path)), layout.n_image);
      sl_layout_dispose(&layout);
      sl_model_close(model);
      golden_close(&g);
    }
}

/* The roles: the last row is FINAL, the tokens that spell "ASSISTANT:" before it are ROLE, nothing else. */
static void roles_are_found(void **state) {
  (void)state;
  for (int f = 0; f < 3; f++) {
    sl_model *model = open_model(folders[f], "ref");
    sl_layout layout = {0};
    ASSERT_OK(sl_layout_build(&layout, model, NULL, "Is ASSISTANT: a word?", false));
    int first = layout.n_prompt;
    while (first > 0 && layout.roles[first - 1] != SL_ROLE_NONE) first--;
    for (int t = 0; t < first; t++) assert_int_equal(layout.roles[t], SL_ROLE_NONE);
    for (int t = first; t < layout.n_prompt; t++)
      assert_int_equal(layout.roles[t], t == layout.n_prompt - 1 ? SL_ROLE_FINAL : SL_ROLE_ROLE);
    sl_text text = {0};
    ASSERT_OK(
        sl_tokenizer_decode(sl_model_get_tokenizer(model), layout.ids + first, layout.n_prompt - first, false, &text));
    assert_string_equal(text.data + strspn(text.data, " "), "ASSISTANT:");
    sl_text_dispose(&text);
    sl_layout_dispose(&layout);
    sl_model_close(model);
  }
}

static void questions_are_checked(void **state) {
  (void)state;
  sl_model *model = open_model("llava-gqa", "ref");
  sl_layout l = {0};
  ASSERT_FAILS(sl_layout_build(&l, model, NULL, "", false), SL_ERROR_ARGUMENT, "empty");
  ASSERT_FAILS(sl_layout_build(&l, model, NULL, "Is <image> a cat?", false), SL_ERROR_ARGUMENT, "<image>");
  ASSERT_FAILS(sl_layout_build(&l, model, NULL, "The end.</s>", false), SL_ERROR_ARGUMENT, "</s>");
  ASSERT_FAILS(sl_layout_build(&l, model, NULL, "caf\xe9?", false), SL_ERROR_ARGUMENT, "UTF-8 (byte 3)");
  ASSERT_FAILS(sl_layout_build(&l, model, NULL, "\xed\xa0\x80", false), SL_ERROR_ARGUMENT, "UTF-8 (byte 0)");
  ASSERT_FAILS(sl_layout_build(&l, model, NULL, "USER: no picture ASSISTANT:", true), SL_ERROR_ARGUMENT, "lacks");
  ASSERT_FAILS(sl_layout_build(&l, model, NULL, "<image> <image>", true), SL_ERROR_ARGUMENT, "more than once");
  assert_null(l.ids);
  assert_int_equal(l.first_image, -1);
  char *big = malloc(((size_t)1 << 20) + 2);
  memset(big, 'a', ((size_t)1 << 20) + 1);
  big[((size_t)1 << 20) + 1] = '\0';
  ASSERT_FAILS(sl_layout_build(&l, model, NULL, big, false), SL_ERROR_ARGUMENT, "1048577 bytes; the limit is 1048576");
  big[(size_t)1 << 20] = '\0';
  ASSERT_FAILS(sl_layout_build(&l, model, NULL, big, false), SL_ERROR_ARGUMENT, "max_position_embeddings");
  model->shape.max_position = 1 << 24;
  ASSERT_OK(sl_layout_build(&l, model, NULL, big, false)); /* the limit itself is fine, and quick */
  assert_true(l.n_token > 1000);
  ASSERT_FAILS(sl_layout_append_text(&l, model, ""), SL_ERROR_ARGUMENT, "empty");
  ASSERT_FAILS(sl_layout_append_text(&l, model, "a <image>"), SL_ERROR_ARGUMENT, "<image>");
  ASSERT_FAILS(sl_layout_append_text(&l, model, "\xff"), SL_ERROR_ARGUMENT, "UTF-8");
  const int32_t bad[] = {3, 352}, negative = -1;
  const int n = l.n_token;
  ASSERT_FAILS(sl_layout_append(&l, model, bad, 2), SL_ERROR_ARGUMENT, "352");
  ASSERT_FAILS(sl_layout_append(&l, model, &negative, 1), SL_ERROR_ARGUMENT, "-1");
  assert_int_equal(l.n_token, n);
  free(big);
  sl_layout_dispose(&l);
  sl_layout_dispose(&l); /* twice is fine */
  sl_model_close(model);
}

/* Raw prompts: the question may come first, roles may be missing. */
static void raw_prompts(void **state) {
  (void)state;
  sl_model *model = open_model("llava-gqa", "ref");
  sl_layout l = {0};
  ASSERT_OK(sl_layout_build(&l, model, NULL, "USER: What is it? <image> ASSISTANT:", true));
  assert_int_equal(l.classes[0], SL_CLASS_SYSTEM);
  assert_int_equal(l.classes[l.first_image - 1], SL_CLASS_USER);
  assert_int_equal(l.classes[l.first_image + l.n_image], SL_CLASS_USER);
  int n_user = 0;
  for (int t = 0; t < l.first_image; t++) n_user += l.classes[t] == SL_CLASS_USER;
  assert_true(n_user >= 4); /* the question's tokens, not "USER:" */
  assert_int_equal(l.classes[l.first_image - n_user - 1], SL_CLASS_SYSTEM);
  sl_layout_dispose(&l);

  ASSERT_OK(sl_layout_build(&l, model, NULL, "<image>", true));
  assert_int_equal(l.first_image, 1); /* after <s> */
  assert_int_equal(l.n_token, 17);
  assert_int_equal(l.classes[0], SL_CLASS_SYSTEM);
  assert_int_equal(l.classes[16], SL_CLASS_IMAGE);
  assert_int_equal(l.roles[16], SL_ROLE_FINAL);
  sl_layout_dispose(&l);
  ASSERT_OK(sl_layout_build(&l, model, NULL, "</s><image>\xf0\x9f\x90\x88 \xe7\x8c\xab", true)); /* anything goes */
  assert_true(l.n_token > 20);
  sl_layout_dispose(&l);
  sl_model_close(model);
}

/* The prompt with its answer, cut into tokens at once, is the prompt's tokens and then the answer's. */
static void appended_text_is_the_whole(void **state) {
  (void)state;
  static const char *const answers[] = {"Yes", " yes, a cat", "A", "\xc3\xa9t\xc3\xa9", "1 2  3", "No.\nNo."};
  static const char *const kinds[] = {"llava-gqa", "idefics3", "smolvlm", "gemma3", "qwen2-vl", "instructblip"};
  for (size_t f = 0; f < sizeof kinds / sizeof *kinds; f++) {
    sl_model *model = open_model(kinds[f], "ref");
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
      sl_layout l = {0}, whole = {0};
      sl_text text = {0};
      ASSERT_OK(sl_layout_build(&l, model, NULL, "Is there a cat?", false));
      const bool apart = answers[i][0] == ' ' || l.text[strlen(l.text) - 1] == '\n';
      ASSERT_OK(sl_text_format(&text, "%s%s%s", l.text, apart ? "" : " ", answers[i]));
      ASSERT_OK(sl_layout_build(&whole, model, NULL, text.data, true));
      const int n_prompt = l.n_prompt;
      ASSERT_OK(sl_layout_append_text(&l, model, answers[i]));
      assert_int_equal(l.n_token, whole.n_token);
      assert_memory_equal(l.ids, whole.ids, (size_t)l.n_token * sizeof *l.ids);
      assert_int_equal(l.n_prompt, n_prompt);
      for (int t = 0; t < l.n_token; t++) assert_int_equal(l.classes[t] == SL_CLASS_GENERATED, t >= n_prompt);
      sl_text_dispose(&text);
      sl_layout_dispose(&l);
      sl_layout_dispose(&whole);
    }
    sl_model_close(model);
  }
}

/* The boxes tile what the model saw, back on the source picture: all of it when padded, the crop's middle otherwise. */
static void boxes_cover_the_picture(void **state) {
  (void)state;
  for (int f = 0; f < 3; f++) {
    sl_model *model = open_model(folders[f], "ref");
    const sl_model_shape *shape = sl_model_get_shape(model);
    char path[700];
    snprintf(path, sizeof path, "%s/%s/b.png", GOLDEN_DIR, folders[f]);
    sl_rgb image = {0};
    ASSERT_OK(sl_rgb_load(&image, path, true));
    sl_views views = {0};
    sl_pack pack = {0};
    ASSERT_OK(sl_views_make(&views, sl_model_get_preprocess(model), &image));
    ASSERT_OK(sl_pack_make(&pack, model, &views, NULL));
    float(*box)[4] = calloc((size_t)pack.n, sizeof *box);
    int32_t *view = calloc((size_t)pack.n, sizeof *view);
    sl_pack_boxes(&pack, box, view);
    const int cls = shape->keeps_cls ? 1 : 0, w = shape->grid_width;
    assert_int_equal(pack.n, cls + w * shape->grid_height);
    if (cls) {
      assert_int_equal(view[0], -1);
      assert_true(box[0][0] == box[0][2] && box[0][1] == box[0][3]);
    }
    double area = 0, low[2] = {1e9, 1e9}, high[2] = {-1e9, -1e9};
    for (int i = cls; i < pack.n; i++) {
      assert_int_equal(view[i], 0);
      area += (double)(box[i][2] - box[i][0]) * (double)(box[i][3] - box[i][1]);
      for (int axis = 0; axis < 2; axis++) {
        low[axis] = fmin(low[axis], (double)box[i][axis]);
        high[axis] = fmax(high[axis], (double)box[i][axis + 2]);
      }
      if ((i - cls) % w > 0) assert_true(fabs((double)(box[i][0] - box[i - 1][2])) < 1e-3);
      if (i - cls >= w) assert_true(fabs((double)(box[i][1] - box[i - w][3])) < 1e-3);
    }
    assert_true(fabs(area - (high[0] - low[0]) * (high[1] - low[1])) < 0.01 * area);
    const double centre[2] = {(low[0] + high[0]) / 2, (low[1] + high[1]) / 2};
    assert_true(fabs(centre[0] - image.width_px / 2.0) < 1.5 && fabs(centre[1] - image.height_px / 2.0) < 1.5);
    const int side[2] = {image.width_px, image.height_px}, longer = side[0] > side[1] ? side[0] : side[1];
    const int shorter = side[0] > side[1] ? side[1] : side[0];
    const int expected = sl_model_get_preprocess(model)->pad_to_square ? longer : shorter;
    assert_true(fabs(high[0] - low[0] - expected) < 0.06 * expected &&
                fabs(high[1] - low[1] - expected) < 0.06 * expected);
    free(box);
    free(view);
    sl_views_dispose(&views);
    sl_pack_dispose(&pack);
    sl_rgb_dispose(&image);
    sl_model_close(model);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(classes_match_golden),
      cmocka_unit_test(roles_are_found),
      cmocka_unit_test(questions_are_checked),
      cmocka_unit_test(raw_prompts),
      cmocka_unit_test(appended_text_is_the_whole),
      cmocka_unit_test(boxes_cover_the_picture),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
