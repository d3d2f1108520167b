/* What a branch leaves out changes nothing. A branch computes only the rows that its plan reaches, each from the layer
 * on in which it is reached, and leaves out those that nobody reads. Scaling the first residual of every position by 1
 * changes no number and reaches everything: so random plans with that edit and without it must agree, on decoders with
 * windows, with images that see themselves and with positions of several axes. */
#include "family_run.h"

#include "base/rng.h"
#include "model/branch.h"

#define N_PLAN 100
#define N_ROW 3
#define N_STEP 3 /* tokens of greedy answers */

static const char *const folders[] = {"llava-gqa", "llava-next-mistral-window", "gemma3", "qwen2-vl"};

typedef struct stage {
  family_run run;
  sl_prefix *prefix;
  sl_trunk *trunk;
  sl_baseline *baselines[2]; /* zero, and the picture's own mean over positions */
  int rows[N_ROW], n_vocab;
} stage;

static void open_stage(stage *s, const char *folder) {
  *s = (stage){0};
  family_open(&s->run, folder, CPU);
  family_start_case(&s->run, 0);
  family_append_answer(&s->run, 2);
  family_encode(&s->run, NULL, false);
  const sl_layout *l = &s->run.layout;
  sl_calibration *calibration = NULL;
  ASSERT_OK(sl_prefix_new(&s->prefix, s->run.session, l, s->run.image, true, NULL));
  ASSERT_OK(sl_trunk_new(&s->trunk, s->run.session, s->prefix, l, NULL));
  ASSERT_OK(sl_baseline_zero(&s->baselines[0], s->run.session, s->prefix));
  ASSERT_OK(sl_calibration_new(&calibration, s->run.session));
  ASSERT_OK(sl_calibration_add(calibration, s->prefix));
  ASSERT_OK(sl_calibration_finish(&s->baselines[1], calibration, true));
  sl_calibration_free(calibration);
  s->rows[0] = l->first_image + l->n_image;
  s->rows[1] = l->n_prompt - 1;
  s->rows[2] = l->n_token - 1;
  s->n_vocab = sl_model_get_shape(s->run.model)->n_vocab;
}

static void close_stage(stage *s) {
  for (int i = 0; i < 2; i++) sl_baseline_free(s->baselines[i]);
  sl_trunk_free(s->trunk);
  sl_prefix_free(s->prefix);
  family_close(&s->run);
}

/* ---- random plans ---- */

typedef struct dice {
  uint64_t seed, n;
} dice;

static int roll(dice *d, int n) { return (int)(sl_rng_u64(d->seed, 1, d->n++) % (uint64_t)n); }

/* Some of the numbers first .. end - 1: one run of them, or every one by itself, or without end. */
static void some(dice *d, sl_set *set, int first, int end, bool may_stay_open) {
  const int kind = roll(d, may_stay_open ? 3 : 2), from = first + roll(d, end - first);
  if (kind == 2) {
    ASSERT_OK(sl_set_from(set, from));
  } else if (kind == 1) {
    ASSERT_OK(sl_set_add(set, from, 1 + roll(d, end - from)));
  } else {
    for (int i = first; i < end; i++)
      if (roll(d, 3) == 0) ASSERT_OK(sl_set_add(set, i, 1));
  }
}

static void add_random_rule(dice *d, sl_plan *plan, const stage *s) {
  static const int sources[] = {SL_SOURCE_HIDDEN, SL_SOURCE_HIDDEN, SL_SOURCE_OWN, 0, 1};
  const sl_layout *l = &s->run.layout;
  const sl_part_shape *shape = &sl_model_get_shape(s->run.model)->decoder;
  const int source = sources[roll(d, 5)], text = l->first_image + l->n_image;
  sl_rule *rule;
  ASSERT_OK(sl_plan_add_rule(plan, source, &rule));
  some(d, &rule->layers, 0, shape->n_layer, true);
  if (roll(d, 2))
    rule->heads = SL_SET_ALL;
  else
    some(d, &rule->heads, 0, shape->n_head, true);
  switch (roll(d, 3)) {
    case 0: some(d, &rule->queries, text, l->n_token, true); break;
    case 1: some(d, &rule->queries, l->first_image, text, false); break;
    default: some(d, &rule->queries, 1, l->n_token, true);
  }
  if (source >= 0 || roll(d, 2))
    some(d, &rule->keys, l->first_image, text, false);
  else
    some(d, &rule->keys, 1, l->n_token, true); /* the first key stays: every row sees something */
}

/* Part of the image is hidden from all text, in one layer or from one on; from some of the image too. */
static void add_random_cut(dice *d, sl_plan *plan, const stage *s) {
  const sl_layout *l = &s->run.layout;
  const int n_layer = sl_model_get_shape(s->run.model)->decoder.n_layer, text = l->first_image + l->n_image;
  const int layer = roll(d, n_layer);
  sl_rule *rule;
  ASSERT_OK(sl_plan_add_rule(plan, SL_SOURCE_HIDDEN, &rule));
  ASSERT_OK(roll(d, 2) ? sl_set_from(&rule->layers, layer) : sl_set_add(&rule->layers, layer, 1));
  rule->heads = SL_SET_ALL;
  if (roll(d, 2)) some(d, &rule->queries, l->first_image, text, false);
  ASSERT_OK(sl_set_from(&rule->queries, text));
  some(d, &rule->keys, l->first_image, text, false);
}

static void add_random_edit(dice *d, sl_plan *plan, const stage *s) {
  const sl_layout *l = &s->run.layout;
  sl_edit *edit;
  int site;
  do site = roll(d, SL_SITE_COUNT);
  while (!sl_site_get((sl_site)site)->writable || !sl_site_get((sl_site)site)->in_part[SL_PART_DECODER]);
  ASSERT_OK(sl_plan_add_edit(plan, (sl_site)site, roll(d, 2) ? SL_EDIT_SCALE : SL_EDIT_ADD, &edit));
  ASSERT_OK(sl_set_add(&edit->layers, roll(d, sl_model_get_shape(s->run.model)->decoder.n_layer), 1));
  ASSERT_OK(sl_set_add(&edit->positions, roll(d, l->n_token), 1));
  if (sl_site_get((sl_site)site)->shape != SL_SHAPE_ROWS) edit->heads = SL_SET_ALL;
  ASSERT_OK(SL_ALLOC(edit->value, 1, "test"));
  edit->value[0] = (float)(roll(d, 5) - 2) / 2;
  edit->n_value = 1;
}

static void edit_input(sl_plan *plan, sl_edit_kind kind, sl_set positions) {
  sl_edit *edit;
  ASSERT_OK(sl_plan_add_edit(plan, SL_SITE_RESID_PRE, kind, &edit));
  ASSERT_OK(sl_set_add(&edit->layers, 0, 1));
  edit->positions = positions;
  ASSERT_OK(SL_ALLOC(edit->value, 1, "test"));
  edit->value[0] = 1;
  edit->n_value = 1;
}

/* Changes nothing, reaches every row from the first layer on, and keeps those that seem unread: the rule holds in no
 * layer, but what a row may read is asked of such rules without looking at layers. */
static void add_everything(sl_plan *plan) {
  sl_rule *rule;
  ASSERT_OK(sl_plan_add_rule(plan, SL_SOURCE_OWN, &rule));
  rule->heads = rule->queries = rule->keys = SL_SET_ALL;
  edit_input(plan, SL_EDIT_SCALE, SL_SET_ALL);
}

/* What chance seldom draws. The image's last row is changed and hidden from all text: 0, in every layer, so that only
 * rows of the image itself can pass it on; 1, in the last layer alone, behind those in which it was read. */
#define N_HARD 2
static void add_hard(sl_plan *plan, const stage *s, int number) {
  const sl_layout *l = &s->run.layout;
  const int n_layer = sl_model_get_shape(s->run.model)->decoder.n_layer, text = l->first_image + l->n_image;
  sl_set last = {0};
  sl_rule *rule;
  ASSERT_OK(sl_plan_add_rule(plan, SL_SOURCE_HIDDEN, &rule));
  rule->layers = rule->heads = SL_SET_ALL;
  if (number == 1) rule->layers = (sl_set){0};
  if (number == 1) ASSERT_OK(sl_set_add(&rule->layers, n_layer - 1, 1));
  ASSERT_OK(sl_set_from(&rule->queries, text));
  ASSERT_OK(sl_set_add(&rule->keys, text - 1, 1));
  ASSERT_OK(sl_set_add(&last, text - 1, 1));
  edit_input(plan, SL_EDIT_ADD, last);
}

/* Plans in pairs: as drawn, and with everything computed. */
static void draw_plans(const stage *s, uint64_t seed, sl_plan plans[2 * N_PLAN]) {
  for (int i = 0; i < 2 * N_PLAN; i++) {
    dice d = {seed, (uint64_t)(i / 2) * 100000};
    plans[i] = (sl_plan){0};
    const bool hard = i / 2 < N_HARD, cut = !hard && roll(&d, 2) == 0;
    if (hard) add_hard(&plans[i], s, i / 2);
    if (cut) add_random_cut(&d, &plans[i], s);
    for (int n = hard ? 0 : roll(&d, cut ? 2 : 4); n > 0; n--) add_random_rule(&d, &plans[i], s);
    for (int n = hard ? 0 : roll(&d, 3); n > 0; n--) add_random_edit(&d, &plans[i], s);
    if (i % 2) add_everything(&plans[i]);
  }
}

/* ---- the test ---- */

typedef struct pairs {
  const stage *stage;
  const float *plain;
  float *before; /* logits of the plan as drawn */
  int n_changed;
} pairs;

static double furthest(const float *a, const float *b, int n) {
  double most = 0, largest = 0;
  for (int i = 0; i < n; i++) {
    most = fmax(most, fabs((double)a[i] - (double)b[i]));
    largest = fmax(largest, fabs((double)b[i]));
  }
  return most / largest;
}

static sl_status take_pair(void *user, int plan, const float *logits) {
  pairs *p = user;
  const int n = N_ROW * p->stage->n_vocab;
  if (plan % 2 == 0) {
    memcpy(p->before, logits, (size_t)n * sizeof *logits);
    p->n_changed += furthest(logits, p->plain, n) > 1e-3;
    return SL_OK;
  }
  const double off = furthest(p->before, logits, n);
  if (!(off <= 2e-5)) fail_msg("%s: plan %d: off by %.3g with every row computed", p->stage->run.where, plan / 2, off);
  return SL_OK;
}

static void check_logits(stage *s, const sl_branch_request *request) {
  const size_t n = (size_t)N_ROW * (size_t)s->n_vocab;
  float *plain = calloc(n, sizeof *plain);
  pairs p = {.stage = s, .plain = plain, .before = calloc(n, sizeof *plain)};
  sl_branch_request own = *request;
  own.take = take_pair;
  own.user = &p;
  ASSERT_OK(sl_trunk_logits(s->run.session, s->trunk, s->rows, N_ROW, plain));
  ASSERT_OK(sl_branches_run(s->run.session, &own));
  if (p.n_changed < N_PLAN / 3) fail_msg("%s: only %d plans change anything", s->run.where, p.n_changed);
  free(p.before);
  free(plain);
}

static void check_answers(stage *s, const sl_branch_request *request) {
  int32_t *ids = calloc((size_t)request->n_plan * N_STEP, sizeof *ids);
  int *n_id = calloc((size_t)request->n_plan, sizeof *n_id);
  ASSERT_OK(sl_branches_greedy(s->run.session, request, N_STEP, ids, n_id));
  for (int i = 0; i < request->n_plan; i += 2) {
    assert_int_equal(n_id[i], n_id[i + 1]);
    for (int t = 0; t < n_id[i]; t++)
      if (ids[i * N_STEP + t] != ids[(i + 1) * N_STEP + t])
        fail_msg("%s: plan %d: token %d is another one with every row computed", s->run.where, i / 2, t);
  }
  free(ids);
  free(n_id);
}

static void nothing_that_matters_is_left_out(void **state) {
  (void)state;
  for (size_t f = 0; f < sizeof folders / sizeof *folders; f++) {
    stage s;
    sl_plan plans[2 * N_PLAN];
    open_stage(&s, folders[f]);
    draw_plans(&s, 17 + f, plans);
    const sl_branch_request request = {.trunk = s.trunk, .plans = plans, .n_plan = 2 * N_PLAN,
                                       .baselines = (const sl_baseline *const *)s.baselines, .n_baseline = 2,
                                       .rows = s.rows, .n_row = N_ROW};
    check_logits(&s, &request);
    check_answers(&s, &request);
    for (int i = 0; i < 2 * N_PLAN; i++) sl_plan_dispose(&plans[i]);
    close_stage(&s);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(nothing_that_matters_is_left_out),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
