/* Plans: sets against a plain array of truths, checking against limits, JSON both ways. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model/plan.h"

static void assert_message(const char *part) {
  if (!strstr(sl_error_message(), part)) fail_msg("expected \"%s\" in \"%s\"", part, sl_error_message());
}

/* ---- sets ---- */

enum { N_TRUTH = 300 };

/* Every question a set answers, against the truths; all numbers from N_TRUTH on are `rest`. */
static void assert_set(const sl_set *set, const bool *truth, bool rest) {
  int count = 0, tail = N_TRUTH;
  for (int i = 0; i < N_TRUTH; i++) {
    assert_int_equal(sl_set_has(set, i), truth[i]);
    assert_int_equal(sl_set_count(set, i), count);
    assert_int_equal(sl_set_any(set, i), count > 0);
    count += truth[i];
    int member = i, other = i;
    while (member < N_TRUTH && !truth[member]) member++;
    while (other < N_TRUTH && truth[other]) other++;
    assert_int_equal(sl_set_next(set, i, true, N_TRUTH), member);
    assert_int_equal(sl_set_next(set, i, false, N_TRUTH), other);
  }
  assert_int_equal(sl_set_has(set, SL_SET_MAX - 1), rest);
  assert_int_equal(sl_set_count(set, N_TRUTH + 1000), count + (rest ? 1000 : 0));
  while (tail > 0 && truth[tail - 1]) tail--;
  assert_int_equal(sl_set_tail(set), rest ? tail : SL_SET_MAX);
}

static void test_set_random(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 200; seed++) {
    bool truth[N_TRUTH] = {false}, rest = seed % 3 == 0;
    sl_set set = rest ? SL_SET_ALL : (sl_set){0}, copy;
    for (int i = 0; i < N_TRUTH; i++) truth[i] = rest;
    for (uint64_t step = 0; step < 12; step++) {
      const int first = (int)(sl_rng_uniform(seed, 1, step) * N_TRUTH);
      const int count = (int)(sl_rng_uniform(seed, 2, step) * (N_TRUTH - first + 1));
      const double what = sl_rng_uniform(seed, 3, step);
      const bool from = what > 0.95;
      assert_int_equal(from         ? sl_set_from(&set, first)
                       : what < 0.5 ? sl_set_add(&set, first, count)
                                    : sl_set_remove(&set, first, count),
                       SL_OK);
      for (int i = first; i < (from ? N_TRUTH : first + count); i++) truth[i] = from || what < 0.5;
      rest = rest || from;
      assert_set(&set, truth, rest);
    }
    assert_int_equal(sl_set_copy(&copy, &set), SL_OK);
    sl_set_dispose(&set);
    assert_int_equal(set.n_word + (set.words != NULL) + set.rest, 0);
    assert_set(&copy, truth, rest);
    sl_set_dispose(&copy);
  }
}

static void test_set_limits(void **state) {
  (void)state;
  sl_set set = {0};
  assert_int_equal(sl_set_add(&set, SL_SET_MAX - 1, 1), SL_OK);
  assert_int_equal(sl_set_count(&set, SL_SET_MAX), 1);
  assert_int_equal(sl_set_add(&set, 0, 1000000000), SL_ERROR_ARGUMENT);
  assert_message("1048575");
  assert_int_equal(sl_set_add(&set, SL_SET_MAX, 1), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_set_add(&set, -1, 1), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_set_add(&set, 3, -1), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_set_add(&set, INT32_MAX, INT32_MAX), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_set_remove(&set, SL_SET_MAX - 3, 4), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_set_from(&set, SL_SET_MAX + 1), SL_ERROR_ARGUMENT);
  sl_set_dispose(&set);
  assert_int_equal(sl_set_remove(&set, 1000, 5), SL_OK); /* nothing to remove, nothing to hold */
  assert_int_equal(set.n_word, 0);
  set = SL_SET_ALL;
  assert_int_equal(sl_set_add(&set, 1000, 5), SL_OK);
  assert_int_equal(set.n_word, 0);
  assert_true(sl_set_any(&set, 1));
  assert_false(sl_set_any(&set, 0));
  sl_alloc_fail_at(1);
  assert_int_equal(sl_set_remove(&set, 1000, 5), SL_ERROR_MEMORY);
  sl_alloc_fail_at(0);
  assert_int_equal(sl_set_tail(&set), 0); /* as it was */
  sl_set_dispose(&set);
}

/* ---- checking ---- */

/* A model with grouped key/value heads; positions 3 to 18 show the picture. */
static const sl_plan_limits limits = {.n_layer = 32,
                                      .n_head = 8,
                                      .n_head_kv = 2,
                                      .d_model = 48,
                                      .d_head = 6,
                                      .d_mlp = 96,
                                      .n_token = 25,
                                      .first_image = 3,
                                      .n_image = 16,
                                      .n_baseline = 2,
                                      .n_run = 1};

static sl_status check_text(const char *text) {
  json_t *json = NULL;
  sl_plan plan;
  assert_int_equal(sl_json_parse(&json, text, strlen(text), "test"), SL_OK);
  sl_status status = sl_plan_from_json(&plan, json, "test");
  if (status != SL_OK) fail_msg("%s", sl_error_message());
  status = sl_plan_check(&plan, &limits, "plan 3");
  sl_plan_dispose(&plan);
  json_decref(json);
  return status;
}

#define RULE(layers, heads, queries, keys, source)                                               \
  "{\"attend\": [{\"layers\": \"" layers "\", \"heads\": \"" heads "\", \"queries\": \"" queries \
  "\", \"keys\": \"" keys "\", \"source\": \"" source "\"}]}"
#define EDIT(site, layers, heads, positions, rest)                                                         \
  "{\"edits\": [{\"site\": \"" site "\", \"layers\": \"" layers "\", " heads "\"positions\": \"" positions \
  "\", \"op\": \"add\", " rest "}]}"
#define V4 "1, 2, 3, 4"
#define V12 V4 ", " V4 ", " V4
#define V48 V12 ", " V12 ", " V12 ", " V12

static void test_check_accepts(void **state) {
  (void)state;
  static const char *const good[] = {
      "{}",
      "{\"attend\": [], \"edits\": []}",
      RULE("all", "all", "all", "all", "hidden"),
      RULE("0-31", "0-7", "0-24", "0-24", "own"),
      RULE("4-", "7-", "18-", "3-18", "baseline:1"),
      RULE("31", "0,2", "25-", "3", "hidden"), /* positions that decoding adds */
      EDIT("blocks.*.hook_resid_pre", "31", "", "24", "\"value\": 1"),
      EDIT("blocks.*.hook_resid_pre", "31", "", "20-", "\"value\": [" V48 "]"),
      EDIT("blocks.*.hook_resid_pre", "31", "", "3,7", "\"value\": [" V48 ", " V48 "]"),
      EDIT("blocks.*.mlp.hook_post", "31", "", "3", "\"value\": [" V48 ", " V48 "]"),
      EDIT("blocks.*.attn.hook_q", "all", "\"heads\": \"7\", ", "3", "\"value\": [1, 2, 3, 4, 5, 6]"),
      EDIT("blocks.*.attn.hook_k", "all", "\"heads\": \"1-\", ", "3", "\"value\": [" V12 "]"),
      EDIT("blocks.*.attn.hook_rot_k", "all", "", "all", "\"from\": {\"run\": 0}"),
      EDIT("blocks.*.hook_mlp_out", "4-7", "", "3",
           "\"from\": {\"run\": 0, \"site\": \"blocks.31.ln2.hook_normalized\"}"),
      EDIT("blocks.*.attn.hook_q", "4-7", "", "3", "\"from\": {\"run\": 0, \"site\": \"blocks.*.attn.hook_z\"}"),
  };
  for (size_t i = 0; i < sizeof good / sizeof *good; i++)
    if (check_text(good[i]) != SL_OK) fail_msg("%s: %s", good[i], sl_error_message());
}

static void test_check_names_what_is_not_there(void **state) {
  (void)state;
  static const struct {
    const char *text, *message;
  } bad[] = {
      {RULE("3,40", "all", "all", "all", "own"), "plan 3, rule 0: layer 40; this model has layers 0 to 31"},
      {RULE("32-", "all", "all", "all", "own"), "plan 3, rule 0: layer 32; this model has layers 0 to 31"},
      {RULE("40,50-", "all", "all", "all", "own"), "rule 0: layer 40;"},
      {RULE("all", "8", "all", "all", "own"), "rule 0: head 8; this model has heads 0 to 7"},
      {RULE("all", "all", "25", "all", "own"), "rule 0: query 25; this sequence has positions 0 to 24"},
      {RULE("all", "all", "25,27-", "all", "own"), "rule 0: query 25;"},
      {RULE("all", "all", "all", "3-64", "own"), "rule 0: key 25;"},
      {RULE("all", "all", "all", "3-18", "baseline:2"), "rule 0: baseline 2; 2 given"},
      {RULE("all", "all", "all", "2-4", "baseline:0"), "key 2 is no image position (3 to 18)"},
      {RULE("all", "all", "all", "18-19", "baseline:0"), "key 19 is no image position"},
      {RULE("all", "all", "all", "3-18,30-", "baseline:0"), "key 25 is no image position"},
      {EDIT("blocks.*.hook_resid_pre", "32", "", "3", "\"value\": 1"), "plan 3, edit 0: layer 32;"},
      {EDIT("blocks.*.hook_resid_pre", "3", "", "25", "\"value\": 1"), "edit 0: position 25;"},
      {EDIT("blocks.*.attn.hook_k", "3", "\"heads\": \"2\", ", "5", "\"value\": 1"),
       "edit 0: head 2; this site has key/value heads 0 to 1"},
      {EDIT("blocks.*.attn.hook_z", "3", "\"heads\": \"8\", ", "5", "\"value\": 1"), "edit 0: head 8; this model"},
      {EDIT("blocks.*.hook_resid_pre", "3", "", "5", "\"value\": [1, 2]"),
       "a value of 2 numbers; blocks.3.hook_resid_pre takes 1, 48, or 1 x 48"},
      {EDIT("blocks.*.mlp.hook_pre", "3", "", "5", "\"value\": [" V48 "]"), "takes 1, 96, or 1 x 96"},
      {EDIT("blocks.*.attn.hook_v", "3", "", "5,6", "\"value\": [1, 2]"), "takes 1, 6 (one head), 12, or 2 x 12"},
      {EDIT("blocks.*.hook_resid_pre", "3", "", "23-", "\"value\": [" V48 ", " V48 "]"), "positions have no end"},
      {EDIT("blocks.*.hook_resid_pre", "3", "", "5", "\"from\": {\"run\": 1}"), "edit 0: run 1; 1 given"},
      {EDIT("blocks.*.hook_resid_pre", "3", "", "5", "\"from\": {\"run\": 0, \"site\": \"blocks.32.hook_resid_pre\"}"),
       "edit 0: layer 32 of a run; this model has layers 0 to 31"},
      {EDIT("blocks.*.hook_resid_pre", "3", "", "5", "\"from\": {\"run\": 0, \"site\": \"blocks.2.mlp.hook_post\"}"),
       "blocks.2.mlp.hook_post of a run has 96 numbers at a position, blocks.3.hook_resid_pre 48"},
      {EDIT("blocks.*.attn.hook_q", "3", "", "5", "\"from\": {\"run\": 0, \"site\": \"blocks.*.attn.hook_v\"}"),
       "blocks.0.attn.hook_v of a run has 12 numbers at a position, blocks.3.attn.hook_q 48"},
      {EDIT("blocks.*.attn.hook_q", "3", "", "5", "\"from\": {\"run\": 0, \"site\": \"blocks.1.attn.hook_pattern\"}"),
       "blocks.1.attn.hook_pattern cannot be read"},
      {EDIT("blocks.*.hook_resid_pre", "3", "", "5", "\"from\": {\"run\": 0, \"site\": \"hook_embed\"}"),
       "hook_embed cannot be read"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    if (check_text(bad[i].text) != SL_ERROR_ARGUMENT) fail_msg("accepted: %s", bad[i].text);
    assert_message(bad[i].message);
  }
}

/* What no file can say, but a caller can. */
static void test_check_built_plans(void **state) {
  (void)state;
  sl_plan plan = {0};
  sl_rule *rule;
  sl_edit *edit;
  assert_int_equal(sl_plan_add_rule(&plan, -3, &rule), SL_OK);
  assert_int_equal(sl_plan_check(&plan, &limits, "p"), SL_ERROR_ARGUMENT);
  assert_message("p, rule 0: there is no source -3");
  rule->source = 0;
  rule->keys = SL_SET_ALL;
  sl_plan_limits blind = limits;
  blind.first_image = -1;
  blind.n_image = 0;
  assert_int_equal(sl_plan_check(&plan, &blind, "p"), SL_ERROR_ARGUMENT);
  assert_message("no picture");
  rule->source = SL_SOURCE_OWN;
  for (int s = 0; s < SL_SITE_COUNT; s++) {
    sl_plan one = {0};
    assert_int_equal(sl_plan_add_edit(&one, (sl_site)s, SL_EDIT_SCALE, &edit), SL_OK);
    edit->layers = SL_SET_ALL;
    edit->positions = SL_SET_ALL;
    assert_int_equal(SL_ALLOC(edit->value, 1, "value"), SL_OK);
    edit->n_value = 1;
    const bool writable =
        s >= SL_SITE_RESID_PRE && s <= SL_SITE_RESID_POST && s != SL_SITE_ATTN_SCORES && s != SL_SITE_PATTERN &&
        s != SL_SITE_CROSS_PATTERN && s != SL_SITE_RESAMPLER_PATTERN;
    assert_int_equal(sl_plan_check(&one, &limits, "p"), writable ? SL_OK : SL_ERROR_ARGUMENT);
    if (!writable) assert_message("cannot be written");
    edit->value[0] = NAN;
    if (writable) assert_int_equal(sl_plan_check(&one, &limits, "p"), SL_ERROR_ARGUMENT);
    if (writable) assert_message("not finite");
    sl_plan_dispose(&one);
  }
  assert_int_equal(sl_plan_add_edit(&plan, SL_SITE_RESID_PRE, SL_EDIT_ADD, &edit), SL_OK);
  assert_int_equal(sl_plan_check(&plan, &limits, "p"), SL_ERROR_ARGUMENT);
  assert_message("p, edit 0: expected a value or a run to take it from, found neither");
  edit->from_run = 0;
  assert_int_equal(sl_plan_check(&plan, &limits, "p"), SL_OK);
  edit->from_position = -2;
  assert_int_equal(sl_plan_check(&plan, &limits, "p"), SL_ERROR_ARGUMENT);
  edit->from_position = 4;
  assert_int_equal(sl_set_add(&edit->heads, 0, 1), SL_OK);
  assert_int_equal(sl_plan_check(&plan, &limits, "p"), SL_ERROR_ARGUMENT);
  assert_message("has none");
  edit->kind = SL_EDIT_SCALE;
  sl_set_dispose(&edit->heads);
  assert_int_equal(sl_plan_check(&plan, &limits, "p"), SL_ERROR_ARGUMENT);
  assert_message("a scale is one number");
  edit->kind = SL_EDIT_KIND_COUNT;
  assert_int_equal(sl_plan_check(&plan, &limits, "p"), SL_ERROR_ARGUMENT);
  sl_plan_dispose(&plan);
  assert_int_equal(plan.n_rule + plan.n_edit, 0);
}

/* ---- JSON ---- */

static sl_status read_plan(sl_plan *plan, const char *text) {
  json_t *json = NULL;
  assert_int_equal(sl_json_parse(&json, text, strlen(text), "plan.json"), SL_OK);
  const sl_status status = sl_plan_from_json(plan, json, "plan.json");
  json_decref(json);
  return status;
}

static char *print_plan(const sl_plan *plan) {
  json_t *json = NULL;
  char *text = NULL;
  assert_int_equal(sl_plan_to_json(plan, &json), SL_OK);
  assert_int_equal(sl_json_print(json, 0, &text), SL_OK);
  json_decref(json);
  return text;
}

static void test_json_words(void **state) {
  (void)state;
  sl_plan plan;
  assert_int_equal(
      read_plan(
          &plan,
          "{\"attend\": [{\"queries\": \"18-\", \"keys\": [17, 3, 4, 5], \"source\": \"hidden\"},"
          "{\"layers\": \"4\", \"heads\": \"0,2-3,7-\", \"queries\": [], \"keys\": \"0-99\", \"source\": "
          "\"baseline:2\"}],"
          "\"edits\": [{\"site\": \"model.layers.3.self_attn.v_proj\", \"positions\": \"20\", \"op\": \"scale\", "
          "\"value\": 0},"
          "{\"site\": \"blocks.{i}.hook_mlp_out\", \"layers\": \"5-6\", \"positions\": \"all\", \"op\": \"replace\","
          "\"from\": {\"run\": 1, \"position\": 7}},"
          "{\"site\": \"blocks.2.hook_mlp_out\", \"positions\": \"1\", \"op\": \"add\","
          "\"from\": {\"run\": 0, \"site\": \"model.layers.9.mlp\"}},"
          "{\"site\": \"blocks.2.hook_mlp_out\", \"positions\": \"1\", \"op\": \"add\","
          "\"from\": {\"run\": 0, \"site\": \"blocks.*.hook_attn_out\"}},"
          "{\"site\": \"blocks.2.hook_mlp_out\", \"positions\": \"1\", \"op\": \"add\","
          "\"from\": {\"run\": 0, \"site\": \"blocks.*.hook_mlp_out\"}}]}"),
      SL_OK);
  assert_int_equal(plan.n_rule, 2);
  assert_int_equal(plan.rules[0].source, SL_SOURCE_HIDDEN);
  assert_int_equal(plan.rules[1].source, 2);
  assert_int_equal(sl_set_count(&plan.rules[1].keys, 1000), 100);
  assert_int_equal(plan.edits[0].site, SL_SITE_V);
  assert_int_equal(plan.edits[0].kind, SL_EDIT_SCALE);
  assert_int_equal(plan.edits[1].from_run, 1);
  assert_true(plan.edits[2].from_site == SL_SITE_MLP_OUT && plan.edits[2].from_layer == 9);
  assert_true(plan.edits[3].from_site == SL_SITE_ATTN_OUT && plan.edits[3].from_layer == -1);
  char *text = print_plan(&plan);
  assert_string_equal(
      text,
      "{\"attend\": [{\"layers\": \"all\", \"heads\": \"all\", \"queries\": \"18-\", \"keys\": \"3-5,17\", \"source\": "
      "\"hidden\"}, "
      "{\"layers\": \"4\", \"heads\": \"0,2-3,7-\", \"queries\": [], \"keys\": \"0-99\", \"source\": \"baseline:2\"}], "
      "\"edits\": [{\"site\": \"blocks.*.attn.hook_v\", \"layers\": \"3\", \"heads\": \"all\", \"positions\": \"20\", "
      "\"op\": \"scale\", \"value\": 0.0}, {\"site\": \"blocks.*.hook_mlp_out\", \"layers\": \"5-6\", \"positions\": "
      "\"all\", "
      "\"op\": \"replace\", \"from\": {\"run\": 1, \"position\": 7}}, "
      "{\"site\": \"blocks.*.hook_mlp_out\", \"layers\": \"2\", \"positions\": \"1\", \"op\": \"add\", "
      "\"from\": {\"run\": 0, \"site\": \"blocks.9.hook_mlp_out\"}}, "
      "{\"site\": \"blocks.*.hook_mlp_out\", \"layers\": \"2\", \"positions\": \"1\", \"op\": \"add\", "
      "\"from\": {\"run\": 0, \"site\": \"blocks.*.hook_attn_out\"}}, "
      "{\"site\": \"blocks.*.hook_mlp_out\", \"layers\": \"2\", \"positions\": \"1\", \"op\": \"add\", "
      "\"from\": {\"run\": 0}}]}");
  free(text);
  sl_plan_dispose(&plan);
}

/* Writing and reading again gives every set and every bit of every number. */
static void test_json_round_trip(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 40; seed++) {
    sl_plan plan = {0}, again;
    sl_rule *rule;
    sl_edit *edit;
    assert_int_equal(sl_plan_add_rule(&plan, (int)(seed % 4) - 2, &rule), SL_OK);
    for (uint64_t i = 0; i < 30; i++) {
      sl_set *sets[] = {&rule->layers, &rule->heads, &rule->queries, &rule->keys};
      const int first = (int)(sl_rng_uniform(seed, 4, i) * 200);
      assert_int_equal(sl_set_add(sets[i % 4], first, 1 + (int)(i % 5)), SL_OK);
    }
    if (seed % 2) assert_int_equal(sl_set_from(&rule->queries, (int)seed * 5), SL_OK);
    assert_int_equal(sl_plan_add_edit(&plan, SL_SITE_K, SL_EDIT_ADD, &edit), SL_OK);
    edit->layers = SL_SET_ALL;
    edit->n_value = 64;
    assert_int_equal(SL_ALLOC(edit->value, 64, "value"), SL_OK);
    for (uint64_t i = 0; i < 64; i++) { /* any bits that are a finite number, tiny and huge ones too */
      uint32_t bits = (uint32_t)(sl_rng_uniform(seed, 5, i) * 4294967296.0);
      if ((bits >> 23 & 255) == 255) bits &= ~(1u << 23);
      memcpy(&edit->value[i], &bits, sizeof bits);
    }
    char *first = print_plan(&plan);
    assert_int_equal(read_plan(&again, first), SL_OK);
    char *second = print_plan(&again);
    assert_string_equal(first, second);
    assert_int_equal(again.rules[0].source, plan.rules[0].source);
    const sl_set *a[] = {&plan.rules[0].layers, &plan.rules[0].heads, &plan.rules[0].queries, &plan.rules[0].keys};
    const sl_set *b[] = {&again.rules[0].layers, &again.rules[0].heads, &again.rules[0].queries, &again.rules[0].keys};
    for (int s = 0; s < 4; s++)
      for (int i = 0; i < 400; i++) assert_int_equal(sl_set_has(a[s], i), sl_set_has(b[s], i));
    assert_int_equal(again.edits[0].n_value, 64);
    assert_memory_equal(again.edits[0].value, plan.edits[0].value, 64 * sizeof(float));
    assert_int_equal(sl_set_count(&again.edits[0].heads, 1000), 0);
    free(first);
    free(second);
    sl_plan_dispose(&plan);
    sl_plan_dispose(&again);
  }
}

#define R "{\"attend\": [{\"queries\": \"1\", \"keys\": \"1\", \"source\": \"own\"}, "
#define E "{\"edits\": [{\"positions\": \"1\", "

static void test_json_errors(void **state) {
  (void)state;
  static const struct {
    const char *text, *message;
  } bad[] = {
      {"[]", "plan.json: expected an object, found an array"},
      {"{\"atend\": []}", "plan.json: unknown key \"atend\""},
      {"{\"attend\": {}}", "\"attend\": expected an array, found an object"},
      {R "3]}", "plan.json: rule 1: expected an object, found an integer"},
      {R "{\"querys\": \"1\"}]}", "rule 1: unknown key \"querys\""},
      {R "{\"queries\": \"1\", \"keys\": \"1\"}]}", "\"source\": expected a text, found nothing"},
      {R "{\"queries\": \"1\", \"keys\": \"1\", \"source\": \"mine\"}]}",
       "expected own, hidden or baseline:N, found \"mine\""},
      {R "{\"queries\": \"1\", \"keys\": \"1\", \"source\": \"baseline:\"}]}", "found \"baseline:\""},
      {R "{\"queries\": \"1\", \"keys\": \"1\", \"source\": \"baseline:1x\"}]}", "found \"baseline:1x\""},
      {R "{\"queries\": \"1\", \"keys\": \"1\", \"source\": \"7\"}]}", "found \"7\""},
      {R "{\"keys\": \"1\", \"source\": \"own\"}]}", "rule 1: \"queries\" is missing"},
      {R "{\"queries\": 3, \"keys\": \"1\", \"source\": \"own\"}]}", "\"queries\": expected a text"},
      {R "{\"queries\": \"\", \"keys\": \"1\", \"source\": \"own\"}]}",
       "\"queries\": expected numbers from 0 to 1048575"},
      {R "{\"queries\": \"0-1000000000\", \"keys\": \"1\", \"source\": \"own\"}]}",
       "expected numbers from 0 to 1048575"},
      {R "{\"queries\": \"99999999999999999999999\", \"keys\": \"1\", \"source\": \"own\"}]}", "from 0 to 1048575"},
      {R "{\"queries\": [1048576], \"keys\": \"1\", \"source\": \"own\"}]}", "from 0 to 1048575, found 1048576"},
      {R "{\"queries\": [-1], \"keys\": \"1\", \"source\": \"own\"}]}", "found -1"},
      {R "{\"queries\": [1.5], \"keys\": \"1\", \"source\": \"own\"}]}", "array of integers, found a real"},
      {R "{\"queries\": \"5-3\", \"keys\": \"1\", \"source\": \"own\"}]}", "the range 5-3 is empty"},
      {R "{\"queries\": \"1,\", \"keys\": \"1\", \"source\": \"own\"}]}", "found 1,"},
      {R "{\"queries\": \"1 2\", \"keys\": \"1\", \"source\": \"own\"}]}", "found \"1 2\""},
      {R "{\"queries\": \"1\\u0000\", \"keys\": \"1\", \"source\": \"own\"}]}", "\"queries\": expected a text"},
      {E "\"op\": \"add\", \"value\": 1}]}", "edit 0: \"site\": expected a text, found nothing"},
      {E "\"site\": \"hook_resid\", \"op\": \"add\", \"value\": 1}]}", "no decoder site is called \"hook_resid\""},
      {E "\"site\": \"vision.blocks.0.hook_resid_pre\", \"op\": \"add\", \"value\": 1}]}", "no decoder site"},
      {E "\"site\": \"blocks.?.hook_resid_pre\", \"op\": \"add\", \"value\": 1}]}", "no decoder site"},
      {E "\"site\": \"blocks.*.hook_resid_*\", \"op\": \"add\", \"value\": 1}]}",
       "means more than one: blocks.0.hook_resid_pre, blocks.0.hook_resid_post"},
      {E "\"site\": \"blocks.3.attn.hook_pattern\", \"op\": \"add\", \"value\": 1}]}",
       "blocks.3.attn.hook_pattern cannot be written"},
      {E "\"site\": \"blocks.3.hook_resid_pre\", \"layers\": \"3-4\", \"op\": \"add\", \"value\": 1}]}",
       "names layer 3"},
      {E "\"site\": \"blocks.3.hook_resid_pre\", \"op\": \"set\", \"value\": 1}]}",
       "expected replace, add or scale, found \"set\""},
      {E "\"site\": \"blocks.3.hook_resid_pre\", \"op\": \"add\"}]}", "found neither"},
      {E "\"site\": \"blocks.3.hook_resid_pre\", \"op\": \"add\", \"value\": 1, \"from\": {\"run\": 0}}]}",
       "found both"},
      {E "\"site\": \"blocks.3.hook_resid_pre\", \"op\": \"add\", \"value\": []}]}", "0 numbers"},
      {E "\"site\": \"blocks.3.hook_resid_pre\", \"op\": \"add\", \"value\": [1, \"2\"]}]}",
       "expected numbers, found a text"},
      {E "\"site\": \"blocks.3.hook_resid_pre\", \"op\": \"add\", \"value\": 1e39}]}", "too large for f32"},
      {E "\"site\": \"blocks.3.hook_resid_pre\", \"op\": \"add\", \"from\": {}}]}",
       "\"run\": expected an integer, found nothing"},
      {E "\"site\": \"blocks.3.hook_resid_pre\", \"op\": \"add\", \"from\": {\"run\": 0, \"row\": 1}}]}",
       "unknown key \"row\""},
      {E "\"site\": \"blocks.3.hook_resid_pre\", \"op\": \"add\", \"from\": {\"run\": 0, \"site\": 3}}]}",
       "\"site\": expected a text, found an integer"},
      {E "\"site\": \"blocks.3.hook_resid_pre\", \"op\": \"add\", \"from\": {\"run\": 0, \"site\": \"hook_x\"}}]}",
       "no decoder site is called \"hook_x\""},
      {E "\"site\": \"blocks.3.hook_resid_pre\", \"op\": \"add\", \"from\": {\"run\": -1}}]}",
       "from 0 to 1048575, found -1"},
      {E "\"site\": \"blocks.3.hook_resid_pre\", \"heads\": \"1\", \"op\": \"add\", \"value\": 1}]}", "has no heads"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    sl_plan plan;
    if (read_plan(&plan, bad[i].text) != SL_ERROR_FORMAT) fail_msg("accepted: %s", bad[i].text);
    assert_message(bad[i].message);
    assert_message("plan.json");
    assert_int_equal(plan.n_rule + plan.n_edit, 0);
  }
}

/* A short text must not ask for much memory. */
static void test_json_memory_is_bounded(void **state) {
  (void)state;
  json_t *list = json_array(), *root;
  for (int i = 0; i < 1000; i++)
    json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "queries", "1048575", "keys", "1", "source", "own"));
  root = json_pack("{s:o}", "attend", list);
  sl_plan plan;
  assert_int_equal(sl_plan_from_json(&plan, root, "big.json"), SL_ERROR_FORMAT);
  assert_message("more than 64 MiB");
  json_decref(root);
}

/* Whichever allocation fails, the reader says so and holds nothing (the sanitizers see leaks). */
static void test_json_without_memory(void **state) {
  (void)state;
  static const char text[] = R
      "{\"layers\": \"70-\", \"queries\": \"200\", \"keys\": \"1-5\", \"source\": \"own\"}], \"edits\": [{\"site\": "
      "\"blocks.3.attn.hook_z\", \"positions\": \"all\", \"op\": \"add\", \"value\": [1, 2]}]}";
  json_t *json = NULL;
  sl_plan plan;
  assert_int_equal(sl_json_parse(&json, text, strlen(text), "plan.json"), SL_OK);
  long n = 1;
  for (; n < 100; n++) {
    sl_alloc_fail_at(n);
    const sl_status status = sl_plan_from_json(&plan, json, "plan.json");
    sl_alloc_fail_at(0);
    if (status == SL_OK) break;
    assert_int_equal(status, SL_ERROR_MEMORY);
    assert_int_equal(plan.n_rule + plan.n_edit, 0);
  }
  assert_in_range(n, 9, 99);
  sl_plan_dispose(&plan);
  json_decref(json);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_set_random),
      cmocka_unit_test(test_set_limits),
      cmocka_unit_test(test_check_accepts),
      cmocka_unit_test(test_check_names_what_is_not_there),
      cmocka_unit_test(test_check_built_plans),
      cmocka_unit_test(test_json_words),
      cmocka_unit_test(test_json_round_trip),
      cmocka_unit_test(test_json_errors),
      cmocka_unit_test(test_json_memory_is_bounded),
      cmocka_unit_test(test_json_without_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
