/* Interventions on every family: plans against logits of transformers (or the official code), a run's own values that
 * change nothing, what may stand in for a picture, and what is hidden with it. */
#include "family_run.h"

#include "analysis/baseline.h"
#include "analysis/cliff_sweep.h"
#include "analysis/shared.h"
#include "analysis/token_side.h"
#include "model/branch.h"

/* ---- plans ---- */

typedef struct plan_check {
  family_run *run;
  const char *name;
  double tolerance;
} plan_check;

static sl_status take_plan(void *user, int plan, const float *logits) {
  (void)plan;
  const plan_check *c = user;
  char name[96];
  snprintf(name, sizeof name, "plan/%s/logits", c->name);
  const sl_tensor *want = golden_find(&c->run->g, c->run->test_case, name);
  assert_non_null(want);
  family_check(c->run, name, logits, want, c->tolerance);
  return SL_OK;
}

static int run_plans(family_run *r, double tolerance) {
  char path[64];
  int rows[8], n_row = 0, n_plan = 0;
  sl_prefix *prefix = NULL;
  sl_trunk *trunk = NULL;
  snprintf(path, sizeof path, "cases.%s.plan_rows", r->test_case);
  const json_t *list = sl_json_at(r->g.facts, path);
  if (!list) return 0;
  for (; n_row < (int)json_array_size(list); n_row++)
    rows[n_row] = (int)json_integer_value(json_array_get(list, (size_t)n_row));
  snprintf(path, sizeof path, "cases.%s.plans", r->test_case);
  const char *name;
  json_t *value;
  ASSERT_OK(sl_prefix_new(&prefix, r->session, &r->layout, r->image, true, NULL));
  ASSERT_OK(sl_trunk_new(&trunk, r->session, prefix, &r->layout, NULL));
  json_object_foreach(sl_json_at(r->g.facts, path), name, value) {
    sl_plan plan = {0};
    plan_check check = {r, name, tolerance};
    ASSERT_OK(sl_plan_from_json(&plan, value, name));
    const sl_branch_request request = {.trunk = trunk, .plans = &plan, .n_plan = 1, .rows = rows, .n_row = n_row,
                                       .take = take_plan, .user = &check};
    ASSERT_OK(sl_branches_run(r->session, &request));
    sl_plan_dispose(&plan);
    n_plan++;
  }
  sl_trunk_free(trunk);
  sl_prefix_free(prefix);
  return n_plan;
}

static void plans_match(void **state) {
  (void)state;
  int n_plan = 0;
  for (int f = 0; f < N_FAMILY; f++)
    for (int m = 0; m < N_MACHINE; m++) {
      family_run r;
      family_open(&r, families[f].folder, m);
      family_start_case(&r, 0);
      family_append_answer(&r, 3);
      family_encode(&r, NULL, false);
      n_plan += run_plans(&r, m == CPU_BF16X2 ? 1e-3 : machines[m].tolerance);
      family_close(&r);
    }
  assert_true(n_plan >= N_MACHINE * 3 * (N_FAMILY - 3)); /* LLaVA-1.5 has its own, in test_branch */
}

/* ---- values of another run ---- */

/* Plans of one edit each with the run's own values, numbered [layer][site][place][kind]. */
enum { RESID_POST, ATTN_OUT, N_OWN_SITE };
enum { AT_IMAGE, AT_TEXT, N_OWN_PLACE };
enum { PUT, MOVED, N_OWN_KIND }; /* every position its own value; all positions that of the first */
#define N_OWN (N_OWN_SITE * N_OWN_PLACE * N_OWN_KIND)

static void add_own(sl_plan *plan, const sl_layout *l, int number) {
  static const sl_site sites[] = {[RESID_POST] = SL_SITE_RESID_POST, [ATTN_OUT] = SL_SITE_ATTN_OUT};
  const int text = l->first_image + l->n_image, place = number / N_OWN_KIND % N_OWN_PLACE;
  sl_edit *edit = NULL;
  ASSERT_OK(sl_plan_add_edit(plan, sites[number / N_OWN_KIND / N_OWN_PLACE % N_OWN_SITE], SL_EDIT_REPLACE, &edit));
  ASSERT_OK(sl_set_add(&edit->layers, number / N_OWN, 1));
  ASSERT_OK(place == AT_IMAGE ? sl_set_add(&edit->positions, l->first_image, l->n_image)
                              : sl_set_add(&edit->positions, text, l->n_prompt - text));
  edit->heads = SL_SET_ALL;
  edit->from_run = 0;
  if (number % N_OWN_KIND == MOVED) edit->from_position = place == AT_IMAGE ? l->first_image : text;
}

typedef struct own_check {
  const family_run *run;
  const float *want; /* [V] of the unedited run */
  int n_vocab, n_changed;
} own_check;

static sl_status take_own(void *user, int plan, const float *logits) {
  own_check *c = user;
  double most = 0, largest = 0;
  for (int i = 0; i < c->n_vocab; i++) {
    most = fmax(most, fabs((double)logits[i] - (double)c->want[i]));
    largest = fmax(largest, fabs((double)c->want[i]));
  }
  const int kind = plan % N_OWN_KIND;
  if (kind == PUT && !(most <= 1e-4 * largest))
    fail_msg("%s: layer %d, %s at %s: putting a run's own values changes its logits by %.3g of the largest",
             c->run->where, plan / N_OWN,
             plan / N_OWN_KIND / N_OWN_PLACE % N_OWN_SITE == RESID_POST ? "resid_post" : "attn_out",
             plan / N_OWN_KIND % N_OWN_PLACE == AT_IMAGE ? "the image" : "the text", most / largest);
  if (kind == MOVED) c->n_changed += most > 1e-3 * largest;
  return SL_OK;
}

static void check_own_values(family_run *r) {
  const sl_model_shape *shape = sl_model_get_shape(r->model);
  const int n_layer = shape->decoder.n_layer, n_plan = n_layer * N_OWN, last = r->layout.n_prompt - 1;
  sl_prefix *prefix = NULL;
  sl_trunk *trunk = NULL;
  float *want = calloc((size_t)shape->n_vocab, sizeof *want);
  sl_plan *plans = calloc((size_t)n_plan, sizeof *plans);
  ASSERT_OK(sl_prefix_new(&prefix, r->session, &r->layout, r->image, true, NULL));
  ASSERT_OK(sl_trunk_new(&trunk, r->session, prefix, &r->layout, NULL));
  ASSERT_OK(sl_trunk_logits(r->session, trunk, &last, 1, want));
  for (int i = 0; i < n_plan; i++) add_own(&plans[i], &r->layout, i);
  own_check check = {r, want, shape->n_vocab, 0};
  const sl_trunk *runs[] = {trunk};
  const sl_branch_request request = {.trunk = trunk,
                                     .plans = plans,
                                     .n_plan = n_plan,
                                     .runs = runs,
                                     .n_run = 1,
                                     .rows = &last,
                                     .n_row = 1,
                                     .take = take_own,
                                     .user = &check};
  ASSERT_OK(sl_branches_run(r->session, &request));
  /* In other positions the same values do something: at the text in every layer, at the image in all but the last. */
  if (check.n_changed < N_OWN_SITE * (2 * n_layer - 1))
    fail_msg("%s: only %d of %d sites carry anything", r->where, check.n_changed, N_OWN_SITE * (2 * n_layer - 1));
  for (int i = 0; i < n_plan; i++) sl_plan_dispose(&plans[i]);
  free(plans);
  free(want);
  sl_trunk_free(trunk);
  sl_prefix_free(prefix);
}

/* A run's own values, computed anew where they stood and put in their place, change nothing: at the picture and behind
 * it, in every layer of every family, with its windows, its rotary positions and its rows that see each other. */
static void own_values_change_nothing(void **state) {
  (void)state;
  for (int f = 0; f < N_FAMILY; f++) {
    family_run r;
    family_open(&r, families[f].folder, CPU);
    family_start_case(&r, 0);
    family_encode(&r, NULL, false);
    check_own_values(&r);
    family_close(&r);
  }
}

/* ---- stand-ins and what is hidden ---- */

/* Another picture's keys stand in position by position, so it must be cut into the same tokens. */
static void pictures_that_cannot_stand_in(void **state) {
  (void)state;
  family_run r;
  family_open(&r, "llava-next-vicuna", CPU);
  family_start_case(&r, 0);
  family_append_answer(&r, 1);
  family_encode(&r, NULL, false);
  char own[600], other[600];
  snprintf(own, sizeof own, "image:%s/%s", r.g.dir, golden_string(&r.g, "c0", "picture"));
  snprintf(other, sizeof other, "image:%s/%s", r.g.dir, golden_string(&r.g, "c3", "picture"));
  sl_shared shared = {0};
  const sl_answer_token answer[1] = {{.id = r.layout.ids[r.layout.n_prompt]}};
  const char *const specs[] = {own, other};
  for (int i = 0; i < 2; i++) {
    const sl_option_value option = {"baseline", specs[i]};
    sl_analysis_context context = {.model = r.model,
                                   .session = r.session,
                                   .pixels = r.views.pixels,
                                   .pack = &r.pack,
                                   .image = r.image,
                                   .layout = &r.layout,
                                   .answer = answer,
                                   .n_answer = 1,
                                   .info = &sl_heads_analysis.info,
                                   .options = &option,
                                   .n_option = 1,
                                   .shared = &shared};
    sl_standin standin = {0};
    const sl_status status = sl_standin_make(&standin, &context);
    if (i == 0) ASSERT_OK(status);
    if (i == 1 && (status != SL_ERROR_UNSUPPORTED || !strstr(sl_error_message(), "cannot stand in for it")))
      fail_msg("a picture of other tokens: %s", status == SL_OK ? "taken" : sl_error_message());
    sl_standin_dispose(&standin);
  }
  sl_shared_dispose(&shared);
  /* The engine itself refuses rows that the prompt has no places for. */
  sl_layout square = {0};
  ASSERT_OK(sl_layout_build(&square, r.model, NULL, "What?", false));
  assert_int_not_equal(square.n_image, r.layout.n_image);
  assert_int_equal(sl_session_forward(r.session, &square, r.image, NULL, 0, NULL, NULL, false), SL_ERROR_ARGUMENT);
  sl_layout_dispose(&square);
  family_close(&r);
}

static sl_status keep_logits(void *user, int plan, const float *logits) {
  float *const *out = user;
  memcpy(out[plan], logits, 64 * sizeof *logits);
  return SL_OK;
}

static int times_hidden(const sl_plan *plan, int key) {
  int n = 0;
  for (int i = 0; i < plan->n_rule; i++)
    n += plan->rules[i].source == SL_SOURCE_HIDDEN && sl_set_has(&plan->rules[i].keys, key);
  return n;
}

/* Where tokens of the picture are ablated one by one, the mark behind it stays, also without the last. */
static void check_image_side(const family_run *r, int mark) {
  const sl_analysis_context context = {.model = r->model, .layout = &r->layout};
  sl_side side;
  ASSERT_OK(sl_side_image(&side, &context, 1));
  uint8_t *mask = calloc((size_t)sl_side_count(&side), 1);
  for (int n_kept = 0; n_kept < 2; n_kept++) {
    sl_plan plan = {0};
    mask[0] = (uint8_t)n_kept;
    ASSERT_OK(sl_side_add_rules(&side, mask, SL_SOURCE_HIDDEN, &plan));
    assert_int_equal(times_hidden(&plan, r->layout.first_image), 1 - n_kept);
    assert_int_equal(times_hidden(&plan, r->layout.first_image + 1), 1);
    assert_int_equal(times_hidden(&plan, mark), 0);
    sl_plan_dispose(&plan);
  }
  free(mask);
  sl_side_dispose(&side);
}

/* Where a query does not see the picture it does not see the mark; where it sees another picture it does. */
static void check_text_side(const family_run *r, int mark) {
  const sl_analysis_context context = {.model = r->model, .layout = &r->layout};
  sl_side side;
  ASSERT_OK(sl_side_text(&side, &context, SL_TEXT_POSITION, 1, r->layout.n_prompt - 1));
  uint8_t *mask = calloc((size_t)sl_side_count(&side), 1);
  for (int source = SL_SOURCE_HIDDEN; source <= 0; source += -SL_SOURCE_HIDDEN) {
    sl_plan plan = {0};
    ASSERT_OK(sl_side_add_rules(&side, mask, source, &plan));
    assert_int_equal(times_hidden(&plan, mark), source == SL_SOURCE_HIDDEN);
    assert_true(sl_set_has(&plan.rules[0].keys, r->layout.first_image));
    sl_plan_dispose(&plan);
  }
  free(mask);
  sl_side_dispose(&side);
}

/* "</img>" stands behind the picture and has read it: a cut hides it with the picture. */
static void frames_are_hidden_with_the_picture(void **state) {
  (void)state;
  static const char *const framed[] = {"internvl-native", "shikra", "qwen-vl"};
  for (int f = 0; f < 3; f++) {
    family_run r;
    sl_prefix *prefix = NULL;
    sl_trunk *trunk = NULL;
    family_open(&r, framed[f], CPU);
    family_start_case(&r, 1);
    family_append_answer(&r, 1);
    family_encode(&r, NULL, false);
    ASSERT_OK(sl_prefix_new(&prefix, r.session, &r.layout, r.image, false, NULL));
    ASSERT_OK(sl_trunk_new(&trunk, r.session, prefix, &r.layout, NULL));
    const int after = r.layout.first_image + r.layout.n_image, row = r.layout.n_prompt - 1;
    assert_int_equal(r.layout.classes[after], SL_CLASS_STRUCTURE);
    sl_plan plans[2] = {{0}};
    ASSERT_OK(sl_cliff_plan(&plans[0], &r.layout, 1, NULL, false));
    ASSERT_OK(sl_cliff_plan(&plans[1], &r.layout, 1, NULL, false));
    assert_int_equal(times_hidden(&plans[0], after), 1);
    check_image_side(&r, after);
    check_text_side(&r, after);
    for (int i = 0; i < plans[1].n_rule; i++) ASSERT_OK(sl_set_remove(&plans[1].rules[i].keys, after, 1));
    float with[64], without[64], *out[2] = {with, without};
    const sl_branch_request request = {.trunk = trunk, .plans = plans, .n_plan = 2, .rows = &row, .n_row = 1,
                                       .take = keep_logits, .user = out};
    ASSERT_OK(sl_branches_run(r.session, &request));
    if (memcmp(with, without, sizeof with) == 0)
      fail_msg("%s: the token behind the picture makes no difference", r.where);
    for (int i = 0; i < 2; i++) sl_plan_dispose(&plans[i]);
    sl_trunk_free(trunk);
    sl_prefix_free(prefix);
    family_close(&r);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(plans_match),
      cmocka_unit_test(own_values_change_nothing),
      cmocka_unit_test(pictures_that_cannot_stand_in),
      cmocka_unit_test(frames_are_hidden_with_the_picture),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
