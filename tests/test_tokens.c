/* tokens on the golden checkpoints: what is cut on each side, and that every mask is measured as a plan that this file
 * writes by itself. */
#include "ablation_fixture.h"

#include "analysis/token_side.h"

static void sides_are_cut_right(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0"); /* 4 x 4 patches */
  const int first = f->layout.first_image + f->layout.n_image, last = f->layout.n_prompt - 1;
  sl_side s;
  ASSERT_OK(sl_side_image(&s, &f->context, 3));
  static const int blocks[16] = {0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 2, 2, 2, 3};
  assert_memory_equal(s.group, blocks, sizeof blocks);
  assert_int_equal(sl_side_count(&s), 4);
  sl_side_dispose(&s);
  ASSERT_OK(sl_side_text(&s, &f->context, SL_TEXT_BAND, 2, last));
  assert_int_equal(sl_side_count(&s), 2 * (last + 1 - first));
  assert_int_equal(s.band_layer[1], 1); /* layers 0 | 1, 2 */
  uint8_t *mask = malloc((size_t)sl_side_count(&s));
  memset(mask, 1, (size_t)sl_side_count(&s));
  mask[2 * 5 + 1] = 0; /* position first + 5, upper band */
  sl_plan plan = {0};
  ASSERT_OK(sl_side_add_rules(&s, mask, SL_SOURCE_HIDDEN, &plan));
  assert_int_equal(plan.n_rule, 1);
  for (int l = 0; l < 3; l++) assert_int_equal(sl_set_has(&plan.rules[0].layers, l), l > 0);
  for (int i = 0; i < f->layout.n_token + 3; i++) {
    const bool image = i >= f->layout.first_image && i < first;
    assert_int_equal(sl_set_has(&plan.rules[0].queries, i), i == first + 5);
    assert_int_equal(sl_set_has(&plan.rules[0].keys, i), image);
  }
  sl_plan_dispose(&plan);
  free(mask);
  sl_side_dispose(&s);
  ASSERT_OK(sl_side_text(&s, &f->context, SL_TEXT_CLASS, 1, last + 1)); /* with the first answer token */
  assert_int_equal(sl_side_count(&s), 4);
  assert_int_equal(s.group[0], 0);
  assert_int_equal(s.kind[last - first], SL_TEXT_FINAL);
  assert_int_equal(s.group[last + 1 - first], 3);
  sl_side_dispose(&s);
  tear_down(f);
}

static void hide(const fixture *f, sl_plan *plan, int query, int key, const bool *heads) {
  for (int l = 0; l < (heads ? f->L : 1); l++) {
    sl_rule *rule;
    ASSERT_OK(sl_plan_add_rule(plan, SL_SOURCE_HIDDEN, &rule));
    rule->layers = rule->heads = SL_SET_ALL;
    if (heads) {
      rule->layers = rule->heads = (sl_set){0};
      ASSERT_OK(sl_set_add(&rule->layers, l, 1));
      for (int h = 0; h < f->H; h++)
        if (heads[l * f->H + h]) ASSERT_OK(sl_set_add(&rule->heads, h, 1));
    }
    if (query >= 0)
      ASSERT_OK(sl_set_add(&rule->queries, query, 1));
    else
      ASSERT_OK(sl_set_from(&rule->queries, f->layout.first_image + f->layout.n_image));
    if (key >= 0)
      ASSERT_OK(sl_set_add(&rule->keys, f->layout.first_image + key, 1));
    else
      ASSERT_OK(sl_set_add(&rule->keys, f->layout.first_image, f->layout.n_image));
  }
}

/* The targets stored for one side are those of plans with one rule per cut component. */
static void expect_targets(fixture *f, const sl_run_reader *run, const char *side, const bool *heads) {
  char name[64];
  snprintf(name, sizeof name, "tokens.%s_masks", side);
  const uint8_t *masks = (const uint8_t *)floats(run, name);
  const sl_tensor *tensor = sl_run_find(run, name);
  const int n = (int)tensor->shape[1], n_mask = (int)tensor->shape[0];
  const int first = f->layout.first_image + f->layout.n_image;
  snprintf(name, sizeof name, "tokens.%s_target", side);
  const float *target = floats(run, name);
  sl_plan *plans = calloc((size_t)n_mask, sizeof *plans);
  double *logit = calloc((size_t)n_mask, sizeof *logit);
  for (int j = 0; j < n_mask; j++)
    for (int i = 0; i < n; i++)
      if (!masks[j * n + i]) hide(f, &plans[j], side[0] == 't' ? first + i : -1, side[0] == 'i' ? i : -1, heads);
  logits_under(f, plans, n_mask, NULL, logit);
  for (int j = 0; j < n_mask; j++) {
    assert_true(fabs(logit[j] - (double)target[j]) < 1e-5);
    sl_plan_dispose(&plans[j]);
  }
  free(plans);
  free(logit);
}

static void tokens_measure_what_they_say(void **state) {
  (void)state;
  fixture *f = set_up("llava-mha", "c0");
  bool object[256] = {false};
  const sl_model_shape *shape = sl_model_get_shape(f->model);
  for (int i = 0; i < shape->grid_height * shape->grid_width; i += 2) object[i] = true;
  f->context.object = object;
  sl_run_reader *run = run_into(f, "run", "tokens", (const char *[]){"min-effect", "0", "samples", "60", NULL});
  expect_targets(f, run, "text", NULL);
  expect_targets(f, run, "image", NULL);
  assert_true(fabs(said(f, "image.none") - said(f, "text.none")) < 1e-5); /* nobody sees = nothing is seen */
  assert_true(fabs(said(f, "image.all") - (double)f->answer[0].logit) < 1e-4);
  const int64_t n_step = length(run, "tokens.image_steps");
  assert_int_equal(n_step, f->layout.n_image + 1);
  assert_true(fabs((double)floats(run, "tokens.image_faithfulness")[n_step - 1] - 1) < 1e-6);
  assert_true(fabs((double)floats(run, "tokens.text_completeness")[length(run, "tokens.text_steps") - 1] - 1) < 1e-6);
  assert_true(said(f, "image.object_share") >= 0 && said(f, "image.object_share") <= 1);
  double share = 0;
  const char *kind;
  json_t *value;
  json_object_foreach(sl_json_at(f->context.said, "text.share"), kind, value) share += json_number_value(value);
  assert_true(fabs(share - 1) < 1e-6);
  assert_int_equal(json_array_size(sl_json_at(f->context.said, "text.positions")), length(run, "tokens.text"));
  assert_non_null(f->shared.token_row);
  assert_memory_equal(f->shared.token_row, floats(run, "tokens.image"), (size_t)f->layout.n_image * sizeof(float));
  sl_run_close(run);
  tear_down(f);
}

static void tokens_inside_the_top_heads(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0");
  static const char *const options[] = {"top-heads", "2", "side", "image", "samples", "40", NULL};
  bool heads[64] = {[1] = true, [6] = true};
  set_options(f, options);
  f->context.info = &analysis_named("tokens")->info;
  assert_string_equal(analysis_named("tokens")->needs(&f->context)[0], "heads");
  f->shared.head_score = calloc((size_t)f->n, sizeof(float));
  sl_run_reader *plain = run_into(f, "plain", "tokens", (const char *[]){"side", "image", "samples", "40", NULL});
  const float sign = said(f, "image.all") >= said(f, "image.none") ? 1 : -1;
  sl_run_close(plain);
  f->shared.head_score[1] = sign * 2, f->shared.head_score[6] = sign;
  for (int i = 7; i < f->n; i++) f->shared.head_score[i] = -sign * 3;
  sl_run_reader *run = run_into(f, "run", "tokens", options);
  expect_targets(f, run, "image", heads);
  assert_null(sl_run_find(run, "tokens.text"));
  sl_run_close(run);
  /* heads left no scores: the side is left out, and that is said. */
  free(f->shared.head_score);
  f->shared.head_score = NULL;
  const size_t n_warning = json_array_size(f->context.warnings);
  run = run_into(f, "none", "tokens", options);
  assert_null(sl_run_find(run, "tokens.image"));
  assert_int_equal(json_array_size(f->context.warnings), n_warning + 1);
  assert_non_null(strstr(json_string_value(json_array_get(f->context.warnings, n_warning)), "--top-heads 2"));
  sl_run_close(run);
  tear_down(f);
}

static void text_by_class_and_band(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0");
  static const char *const by_class[] = {"side", "text", "text-by", "class", "whole-answer", "true", NULL};
  sl_run_reader *run = run_into(f, "class", "tokens", by_class);
  assert_int_equal(length(run, "tokens.text"), json_array_size(sl_json_at(f->context.said, "text.classes")));
  assert_true(length(run, "tokens.text") >= 3);
  sl_run_close(run);
  run = run_into(f, "band", "tokens", (const char *[]){"side", "text", "text-by", "band", "bands", "3", NULL});
  const sl_tensor *text = sl_run_find(run, "tokens.text");
  assert_int_equal(text->n_dim, 2);
  assert_int_equal(text->shape[1], 3);
  assert_int_equal(json_array_size(sl_json_at(f->context.said, "text.bands")), 3);
  sl_run_close(run);
  tear_down(f);
}

/* Stopped in the image side: that side is kept, and going on ends where an uninterrupted run does. */
static void resumed_tokens_equal_uninterrupted_ones(void **state) {
  (void)state;
  static const char *const options[] = {"samples", "80", "all-samples", "true", "min-effect", "0", NULL};
  fixture *f = set_up("llava-gqa", "c0");
  sl_run_reader *whole = run_into(f, "whole", "tokens", options);
  f->context.batch_size = 5;
  stopper s = {f->cancel, 40};
  f->context.progress = stop_after;
  f->context.user = &s;
  sl_run_reader *cut = run_into(f, "cut", "tokens", options);
  assert_non_null(json_object_get(f->context.said, "interrupted"));
  assert_non_null(sl_run_find(cut, "tokens.image"));
  assert_null(sl_run_find(cut, "tokens.text_masks"));
  sl_cancel_free(f->cancel);
  ASSERT_OK(sl_cancel_new(&f->cancel));
  sl_session_set_cancel(f->session, &f->cancel->requested);
  f->context.cancel = f->cancel;
  f->context.progress = NULL;
  f->context.earlier = cut;
  sl_run_reader *resumed = run_into(f, "more", "tokens", options);
  assert_null(json_object_get(f->context.said, "interrupted"));
  static const char *const same[] = {"tokens.image", "tokens.image_target", "tokens.text", "tokens.text_faithfulness"};
  for (int i = 0; i < 4; i++) {
    const sl_tensor *a = sl_run_find(whole, same[i]), *b = sl_run_find(resumed, same[i]);
    assert_memory_equal(a->data, b->data, (size_t)sl_tensor_count(a) * sizeof(float));
  }
  sl_run_close(resumed);
  sl_run_close(cut);
  sl_run_close(whole);
  tear_down(f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(resumed_tokens_equal_uninterrupted_ones),
      cmocka_unit_test(sides_are_cut_right),
      cmocka_unit_test(tokens_measure_what_they_say),
      cmocka_unit_test(tokens_inside_the_top_heads),
      cmocka_unit_test(text_by_class_and_band),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
