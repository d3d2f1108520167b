/* Edits with values of other runs: any site, layer and position of them against transformers' numbers there. (Values of
 * the same site: tests/golden/branch, test_branch.c.) */
#include "branch_world.h"

/* The edit's JSON with a "value", or what it is "from", as a plan. */
static sl_plan site_plan(const char *edit, const char *key, json_t *value) {
  json_t *json = NULL;
  sl_plan plan;
  ASSERT_OK(sl_json_parse(&json, edit, strlen(edit), "edit"));
  json_object_set_new(json, key, value);
  json_t *root = json_pack("{s:[o]}", "edits", json);
  ASSERT_OK(sl_plan_from_json(&plan, root, "plan"));
  json_decref(root);
  return plan;
}

/* One position of a site golden as an edit's value. */
static json_t *golden_value(const golden *sites, const char *site, int position, int n_prompt) {
  const sl_tensor *tensor = golden_find(sites, "c0", site);
  const int64_t width = sl_tensor_count(tensor) / n_prompt;
  json_t *value = json_array();
  for (int64_t k = 0; k < width; k++)
    json_array_append_new(value, json_real((double)((const float *)tensor->data)[position * width + k]));
  return value;
}

static double furthest(const float *a, const float *b, size_t n) {
  double most = 0;
  for (size_t k = 0; k < n; k++) most = fmax(most, fabs((double)a[k] - (double)b[k]));
  return most;
}

static double largest(const float *a, size_t n) {
  double most = 0;
  for (size_t k = 0; k < n; k++) most = fmax(most, fabs((double)a[k]));
  return most;
}

/* As if transformers' values of that site had been written into the plan. All in one batch: the run is read once. */
static void other_sites_give_their_values(void **state) {
  (void)state;
  static const struct {
    const char *edit, *from, *site; /* `site` and `position`: the golden that "from" means */
    int position;
  } cases[] = {
      {"{\"site\": \"blocks.1.hook_attn_out\", \"positions\": \"30,40\", \"op\": \"replace\"}",
       "{\"run\": 0, \"site\": \"blocks.2.hook_mlp_out\", \"position\": 45}", "blocks.2.hook_mlp_out", 45},
      {"{\"site\": \"blocks.1.attn.hook_q\", \"heads\": [1], \"positions\": \"48\", \"op\": \"add\"}",
       "{\"run\": 0, \"site\": \"blocks.*.attn.hook_z\"}", "blocks.1.attn.hook_z", 48},
      {"{\"site\": \"blocks.0.hook_resid_pre\", \"positions\": \"9\", \"op\": \"replace\"}",
       "{\"run\": 0, \"site\": \"blocks.1.hook_resid_post\", \"position\": 12}", "blocks.1.hook_resid_post", 12},
      {"{\"site\": \"blocks.2.ln2.hook_normalized\", \"positions\": \"51\", \"op\": \"add\"}",
       "{\"run\": 0, \"site\": \"blocks.0.hook_mlp_out\", \"position\": 8}", "blocks.0.hook_mlp_out", 8},
  };
  enum { N = sizeof cases / sizeof *cases };
  world *w = open_world("llava-gqa", CPU);
  golden sites = golden_open("llava-gqa");
  line own = *line_named(w, "what"); /* the golden sites are of this run */
  const size_t each = (size_t)own.n_row * (size_t)w->n_vocab;
  sl_plan plans[2 * N];
  for (int i = 0; i < N; i++) {
    json_t *from = NULL;
    ASSERT_OK(sl_json_parse(&from, cases[i].from, strlen(cases[i].from), "from"));
    plans[2 * i] =
        site_plan(cases[i].edit, "value", golden_value(&sites, cases[i].site, cases[i].position, own.layout.n_prompt));
    plans[2 * i + 1] = site_plan(cases[i].edit, "from", from);
  }
  own.runs[0] = own.trunk;
  own.n_run = 1;
  float *logits = run_request(w->session, w->n_vocab, request_of(&own, plans, 2 * N, 0));
  float *plain = calloc(each, sizeof *plain);
  ASSERT_OK(sl_trunk_logits(w->session, own.trunk, own.rows, own.n_row, plain));
  for (int i = 0; i < N; i++) {
    const float *want = logits + (size_t)(2 * i) * each, *got = want + each;
    const double off = furthest(got, want, each), effect = furthest(plain, want, each), scale = largest(want, each);
    if (!(off <= 1e-5 * scale && effect >= 2e-3 * scale))
      fail_msg("%s: off by %.3g of the largest logit; the edit's effect is %.3g", cases[i].site, off / scale,
               effect / scale);
  }
  for (int i = 0; i < 2 * N; i++) sl_plan_dispose(&plans[i]);
  free(plain);
  free(logits);
  golden_close(&sites);
  close_world(w);
}

/* What leaves a layer enters the next: read as the one or the other, the bits are the same. */
static void equal_sites_give_equal_bits(void **state) {
  (void)state;
  static const char edit[] = "{\"site\": \"blocks.1.hook_resid_pre\", \"positions\": \"9,30\", \"op\": \"replace\"}";
  world *w = open_world("llava-gqa", CPU);
  const line *l = line_named(w, "what");
  const size_t each = (size_t)l->n_row * (size_t)w->n_vocab;
  sl_plan plans[2];
  plans[0] = site_plan(edit, "from", json_pack("{s:i}", "run", 0));
  plans[1] = site_plan(edit, "from", json_pack("{s:i, s:s}", "run", 0, "site", "blocks.0.hook_resid_post"));
  float *logits = run_request(w->session, w->n_vocab, request_of(l, plans, 2, 0));
  assert_memory_equal(logits, logits + each, each * sizeof *logits);
  for (int i = 0; i < 2; i++) sl_plan_dispose(&plans[i]);
  free(logits);
  close_world(w);
}

/* The memory of a long answer bounds a batch, its number of steps alone does not: a step has one row of each branch. */
static void long_answers_run_together(void **state) {
  (void)state;
  world *w = open_world("llava-gqa", CPU);
  const line *l = line_named(w, "what");
  const int at_once = sl_branch_batch(w->session, l->trunk, 0);
  assert_true(at_once > 30);
  assert_int_equal(sl_branch_batch(w->session, l->trunk, 500), at_once);
  sl_session_set_branch_limit(w->session, (size_t)8 << 20);
  assert_in_range(sl_branch_batch(w->session, l->trunk, 500), 1, at_once / 2);
  close_world(w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(other_sites_give_their_values),
      cmocka_unit_test(equal_sites_give_equal_bits),
      cmocka_unit_test(long_answers_run_together),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
