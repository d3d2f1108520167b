/* Prefix, trunk and branches against transformers: every plan of tests/golden/branch as one full forward pass computes
 * it (tools/golden/branch.py), and what branch.h promises about bits: a branch depends on its plan, trunk and baselines
 * alone. */
#include "branch_world.h"

#define N_GREEDY 6

static const char *const folders[] = {"llava-gqa", "llava-mha", "llava-orig-pad"};
enum { N_FOLDER = 3 };

#define ASSERT_FAILS(expression, wanted, part)                                                                   \
  do {                                                                                                           \
    const sl_status status_ = (expression);                                                                      \
    if (status_ != (wanted) || !strstr(sl_error_message(), (part)))                                              \
      fail_msg("%s: %s (%s); expected %s with \"%s\"", #expression, sl_status_name(status_), sl_error_message(), \
               sl_status_name(wanted), (part));                                                                  \
  } while (0)

/* ---- against transformers ---- */

static void every_plan_matches(void **state) {
  (void)state;
  for (int f = 0; f < N_FOLDER; f++)
    for (int m = 0; m < N_MACHINE; m++) {
      world *w = open_world(folders[f], m);
      int n_checked = 0, n_wrong = 0;
      for (int i = 0; i < w->n_line; i++) {
        const line *l = &w->lines[i];
        if (l->n_plan == 0) continue;
        float *logits = run_plans(w, l, 0);
        const sl_tensor *want = golden_find(&w->g, l->name, "logits");
        assert_int_equal((want->shape[0] - 1) / (m == REF ? REF_STRIDE : 1), l->n_plan - 1);
        for (int k = 0; k < l->n_plan; k++, n_checked++) {
          const size_t at = (size_t)k * (size_t)l->n_row * (size_t)w->n_vocab;
          const double d = distance(w, logits + at, l->n_row, want, (int64_t)l->numbers[k] * l->n_row);
          if (d <= machines[m].tolerance) continue;
          print_error("%s, %s, plan %s: off by %.3g of the largest logit\n", w->name, l->name, l->names[k], d);
          n_wrong++;
        }
        free(logits);
      }
      assert_true(n_checked >= (m == REF ? 20 : 100));
      if (n_wrong > 0) fail_msg("%s: %d of %d plans are wrong", w->name, n_wrong, n_checked);
      close_world(w);
    }
}

/* No picture at all: hidden from text rows by a rule, masked for every row, and taken out of the sequence. */
static void three_ways_to_no_image(void **state) {
  (void)state;
  static const char *const ways[] = {"masked", "text-masked", "removed"};
  static const char *const plans[] = {"hide-image-from-0", "hide-image-for-all-from-0"};
  for (int f = 0; f < N_FOLDER; f++) {
    world *w = open_world(folders[f], CPU);
    const line *l = line_named(w, "what");
    float *logits = run_plans(w, l, 0);
    for (int p = 0; p < (f < 2 ? 2 : 1); p++) /* the third folder has the first plan only */
      for (int i = 0; i < 3; i++) {
        const size_t at = (size_t)plan_named(l, plans[p]) * (size_t)l->n_row * (size_t)w->n_vocab;
        const double d = distance(w, logits + at, l->n_row, golden_find(&w->g, "way", ways[i]), 0);
        if (!(d <= 1e-4)) fail_msg("%s: plan %s, image %s: off by %.3g", w->name, plans[p], ways[i], d);
      }
    free(logits);
    close_world(w);
  }
}

/* Every plan's answer, decoded together and in groups. */
static void greedy_answers_match(void **state) {
  (void)state;
  static const int sizes[] = {0, 1, 3};
  for (int f = 0; f < N_FOLDER; f++)
    for (int m = f == 0 ? REF : CPU; m < N_MACHINE; m++) {
      world *w = open_world(folders[f], m);
      for (int i = 0; i < w->n_line; i++)
        for (int b = 0; b < 3; b++) {
          const line *l = &w->lines[i];
          if (l->n_greedy == 0) continue;
          const sl_branch_request request = request_of(l, l->greedy, l->n_greedy, sizes[b]);
          int32_t *ids = calloc((size_t)l->n_greedy * N_GREEDY, sizeof *ids);
          int *n_id = calloc((size_t)l->n_greedy, sizeof *n_id);
          ASSERT_OK(sl_branches_greedy(w->session, &request, N_GREEDY, ids, n_id));
          for (int k = 0; k < l->n_greedy; k++) {
            if (n_id[k] != N_GREEDY) fail_msg("%s, %s, %s: %d tokens", w->name, l->name, l->greedy_names[k], n_id[k]);
            for (int t = 0; t < N_GREEDY; t++)
              if (ids[k * N_GREEDY + t] != json_integer_value(json_array_get(l->greedy_ids[k], (size_t)t)))
                fail_msg("%s, %s, greedy plan %s: token %d is %d, expected %d", w->name, l->name, l->greedy_names[k], t,
                         ids[k * N_GREEDY + t],
                         (int)json_integer_value(json_array_get(l->greedy_ids[k], (size_t)t)));
          }
          free(ids);
          free(n_id);
        }
      close_world(w);
    }
}

/* An end token of one branch ends that branch alone. */
static void greedy_stops_at_end_tokens(void **state) {
  (void)state;
  world *w = open_world("llava-mha", CPU);
  const line *l = line_named(w, "what");
  assert_true(l->n_greedy >= 3);
  sl_branch_request request = request_of(l, l->greedy, l->n_greedy, 0);
  int32_t *ids = calloc((size_t)l->n_greedy * N_GREEDY, sizeof *ids);
  int *n_id = calloc((size_t)l->n_greedy, sizeof *n_id), n_cut = 0;
  const int32_t end = (int32_t)json_integer_value(json_array_get(l->greedy_ids[1], 2));
  w->model->shape.eos_ids[0] = end;
  w->model->shape.n_eos = 1;
  ASSERT_OK(sl_branches_greedy(w->session, &request, N_GREEDY, ids, n_id));
  for (int k = 0; k < l->n_greedy; k++) {
    int n = 0;
    while (n < N_GREEDY && json_integer_value(json_array_get(l->greedy_ids[k], (size_t)n)) != end) n++;
    if (n_id[k] != n) fail_msg("%s: %d tokens before the end token, expected %d", l->greedy_names[k], n_id[k], n);
    for (int t = 0; t < n; t++)
      assert_int_equal(ids[k * N_GREEDY + t], json_integer_value(json_array_get(l->greedy_ids[k], (size_t)t)));
    n_cut += n < N_GREEDY;
  }
  assert_in_range(n_cut, 1, l->n_greedy - 1);
  free(ids);
  free(n_id);
  close_world(w);
}

/* Answers end where the model's positions do. */
static void greedy_ends_with_the_positions(void **state) {
  (void)state;
  world *w = open_world("llava-gqa", CPU);
  const line *l = line_named(w, "what");
  const sl_branch_request request = request_of(l, l->greedy, l->n_greedy, 0);
  int32_t *ids = calloc((size_t)l->n_greedy * N_GREEDY, sizeof *ids);
  int *n_id = calloc((size_t)l->n_greedy, sizeof *n_id);
  for (int room = 0; room < 3; room++) {
    w->model->shape.max_position = l->layout.n_prompt + room;
    ASSERT_OK(sl_branches_greedy(w->session, &request, N_GREEDY, ids, n_id));
    for (int k = 0; k < l->n_greedy; k++) {
      assert_int_equal(n_id[k], room);
      for (int t = 0; t < room; t++)
        assert_int_equal(ids[k * N_GREEDY + t], json_integer_value(json_array_get(l->greedy_ids[k], (size_t)t)));
    }
  }
  free(ids);
  free(n_id);
  close_world(w);
}

/* Rows that decoding appends read changed image rows that the prompt's own rows do not: a plan with a closed set of
 * queries gives the same greedy tokens as when they are teacher forced. */
static void appended_rows_read_what_changed(void **state) {
  (void)state;
  enum { N_STEP = 4 };
  world *w = open_world("llava-gqa", CPU);
  const line *l = line_named(w, "what");
  const sl_layout *own = &l->layout;
  const int n_prompt = own->n_prompt, first = own->first_image;
  sl_plan plan = {0};
  sl_rule *rule;
  sl_edit *edit;
  ASSERT_OK(sl_plan_add_rule(&plan, SL_SOURCE_HIDDEN, &rule));
  rule->layers = rule->heads = SL_SET_ALL;
  ASSERT_OK(sl_set_add(&rule->queries, first + own->n_image, n_prompt - first - own->n_image));
  ASSERT_OK(sl_set_add(&rule->keys, first, own->n_image));
  ASSERT_OK(sl_plan_add_edit(&plan, SL_SITE_RESID_PRE, SL_EDIT_SCALE, &edit));
  edit->heads = SL_SET_ALL;
  ASSERT_OK(sl_set_add(&edit->layers, 0, 1));
  ASSERT_OK(sl_set_add(&edit->positions, first, own->n_image));
  edit->value = calloc(1, sizeof *edit->value);
  edit->value[0] = -3;
  edit->n_value = 1;
  edit->from_run = edit->from_position = -1;
  int32_t ids[N_STEP];
  int n_id = 0, rows[N_STEP];
  sl_branch_request request = request_of(l, &plan, 1, 0);
  ASSERT_OK(sl_branches_greedy(w->session, &request, N_STEP, ids, &n_id));
  assert_int_equal(n_id, N_STEP);

  sl_layout forced = {.n_token = n_prompt, .n_prompt = n_prompt, .first_image = first, .n_image = own->n_image};
  forced.ids = calloc((size_t)n_prompt, sizeof *forced.ids);
  forced.classes = calloc((size_t)n_prompt, 1);
  forced.roles = calloc((size_t)n_prompt, 1);
  memcpy(forced.ids, own->ids, (size_t)n_prompt * sizeof *forced.ids);
  ASSERT_OK(sl_layout_append(&forced, w->model, ids, N_STEP));
  sl_trunk *trunk = NULL;
  ASSERT_OK(sl_trunk_new(&trunk, w->session, sl_trunk_prefix(l->trunk), &forced, NULL));
  for (int t = 0; t < N_STEP; t++) rows[t] = n_prompt + t - 1;
  request.trunk = trunk;
  request.rows = rows;
  request.n_row = N_STEP;
  float *logits = run_request(w->session, w->n_vocab, request);
  for (int t = 0; t < N_STEP; t++) {
    int best = 0;
    for (int v = 1; v < w->n_vocab; v++)
      if (logits[t * w->n_vocab + v] > logits[t * w->n_vocab + best]) best = v;
    assert_int_equal(ids[t], best);
  }
  free(logits);
  sl_trunk_free(trunk);
  sl_layout_dispose(&forced);
  sl_plan_dispose(&plan);
  close_world(w);
}

/* ---- what branch.h promises ---- */

/* A trunk's logits are those of a forward over the whole layout; the branch without rules has the trunk's bits. */
static void trunk_is_the_forward(void **state) {
  (void)state;
  for (int f = 0; f < N_FOLDER; f++)
    for (int m = f == 0 ? REF : CPU; m < N_MACHINE; m++) {
      world *w = open_world(folders[f], m);
      const json_t *trunks = json_object_get(w->g.facts, "trunks");
      for (int i = 0; i < w->n_line; i++) {
        const line *l = &w->lines[i];
        const int picture = json_string_value(json_object_get(json_array_get(trunks, (size_t)i), "picture"))[0] - 'a';
        const size_t n = (size_t)l->n_row * (size_t)w->n_vocab;
        float *own = calloc(n, sizeof *own), *want = calloc(n, sizeof *want);
        ASSERT_OK(sl_trunk_logits(w->session, l->trunk, l->rows, l->n_row, own));
        ASSERT_OK(sl_session_forward(w->session, &l->layout, w->images[picture], l->rows, l->n_row, want, NULL, false));
        double most = 0, largest = 0;
        for (size_t k = 0; k < n; k++) {
          most = fmax(most, fabs((double)own[k] - (double)want[k]));
          largest = fmax(largest, fabs((double)want[k]));
        }
        const double bound = m == CPU_BF16X2 ? 1e-4 : 1e-5; /* bf16x2 carries 16 bits of each activation */
        if (!(most <= bound * largest))
          fail_msg("%s, %s: trunk off by %.3g of the forward", w->name, l->name, most / largest);
        const sl_plan none = {0};
        float *branch = run_request(w->session, w->n_vocab, request_of(l, &none, 1, 0));
        if (memcmp(branch, own, n * sizeof *own) != 0) fail_msg("%s, %s: no plan is not the trunk", w->name, l->name);
        free(branch);
        free(own);
        free(want);
      }
      close_world(w);
    }
}

/* Every layer's residual of prefix and suffix rows, as a probe sees it. */
typedef struct seen {
  float *rows; /* [L, T, D] */
  int n_token, width, n_call;
} seen;

static bool wants_residual(void *user, sl_part part, sl_site site, int layer, bool backward) {
  (void)user, (void)layer;
  return part == SL_PART_DECODER && site == SL_SITE_RESID_POST && !backward;
}

static void see_residual(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row,
                         sl_mat value, sl_mat grad) {
  (void)part, (void)site, (void)grad;
  seen *s = user;
  assert_true(first_row + value.rows <= s->n_token && value.cols == s->width);
  for (int i = 0; i < value.rows; i++)
    sl_buffer_read(queue, s->rows + ((size_t)layer * (size_t)s->n_token + (size_t)(first_row + i)) * (size_t)s->width,
                   value.buffer, (size_t)(value.offset + i * value.stride) * sizeof(float),
                   (size_t)s->width * sizeof(float));
  s->n_call++;
}

/* Rows of prefix and trunk against the site goldens of the same prompt. */
static void probes_see_the_rows(void **state) {
  (void)state;
  for (int f = 0; f < N_FOLDER; f++) {
    world *w = open_world(folders[f], CPU);
    golden sites = golden_open(folders[f]);
    const line *l = line_named(w, "what");
    const sl_part_shape *shape = &sl_model_get_shape(w->model)->decoder;
    const size_t each = (size_t)l->layout.n_token * (size_t)shape->d_model;
    seen s = {.n_token = l->layout.n_token, .width = shape->d_model};
    s.rows = calloc((size_t)shape->n_layer * each, sizeof *s.rows);
    const sl_probe probe = {.user = &s, .wants = wants_residual, .see = see_residual};
    sl_prefix *prefix = NULL;
    sl_trunk *trunk = NULL;
    ASSERT_OK(sl_prefix_new(&prefix, w->session, &l->layout, w->images[0], false, &probe));
    ASSERT_OK(sl_trunk_new(&trunk, w->session, prefix, &l->layout, &probe));
    assert_int_equal(s.n_call, 2 * shape->n_layer);
    for (int il = 0; il < shape->n_layer; il++) {
      char name[64];
      sl_site_name(name, SL_PART_DECODER, SL_SITE_RESID_POST, il);
      const double d = golden_distance(s.rows + (size_t)il * each, golden_find(&sites, "c0", name)); /* prompt rows */
      if (!(d <= 1e-4)) fail_msg("%s: %s is off by %.3g of its largest value", w->name, name, d);
    }
    free(s.rows);
    sl_trunk_free(trunk);
    sl_prefix_free(prefix);
    golden_close(&sites);
    close_world(w);
  }
}

static void same_bits(const world *w, const line *l, const float *got, const float *want, const int *order, int n,
                      const char *how) {
  const size_t each = (size_t)l->n_row * (size_t)w->n_vocab;
  for (int k = 0; k < n; k++) {
    const int plan = order ? order[k] : k;
    if (memcmp(got + (size_t)k * each, want + (size_t)plan * each, each * sizeof *got) != 0)
      fail_msg("%s, %s, plan %s: other bits %s", w->name, l->name, l->names[plan], how);
  }
}

/* A plan written as JSON and read again. */
static sl_plan reread(const sl_plan *plan) {
  json_t *json = NULL;
  sl_plan again;
  ASSERT_OK(sl_plan_to_json(plan, &json));
  ASSERT_OK(sl_plan_from_json(&again, json, "written"));
  json_decref(json);
  return again;
}

/* In any batch, on any number of threads, in any order, whatever the memory, from JSON or not. */
static void bits_do_not_depend_on_company(void **state) {
  (void)state;
  static const int sizes[] = {1, 2, 3, 7};
  for (int f = 0; f < 2; f++)
    for (int m = f == 0 ? REF : CPU; m < N_MACHINE; m++) {
      world *w = open_world(folders[f], m);
      const line *l = line_named(w, "what");
      float *want = run_plans(w, l, l->n_plan), *got;
      for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char how[32];
        snprintf(how, sizeof how, "in batches of %d", sizes[i]);
        got = run_plans(w, l, sizes[i]);
        same_bits(w, l, got, want, NULL, l->n_plan, how);
        free(got);
      }
      sl_session_set_branch_limit(w->session, 1);
      assert_int_equal(sl_branch_batch(w->session, l->trunk, 0), 1);
      assert_int_equal(sl_branch_batch(w->session, l->trunk, 8), 1);
      got = run_plans(w, l, 0);
      same_bits(w, l, got, want, NULL, l->n_plan, "under a memory limit");
      free(got);
      sl_session *many = NULL;
      ASSERT_OK(sl_session_new(&many, w->model, 3));
      got = run_request(many, w->n_vocab, request_of(l, l->plans, l->n_plan, 5));
      same_bits(w, l, got, want, NULL, l->n_plan, "on three threads");
      free(got);
      sl_session_free(many);
      sl_plan *plans = calloc((size_t)l->n_plan, sizeof *plans);
      int *order = calloc((size_t)l->n_plan, sizeof *order);
      for (int k = 0; k < l->n_plan; k++) order[k] = l->n_plan - 1 - k;
      for (int k = 0; k < l->n_plan; k++) plans[k] = reread(&l->plans[order[k]]);
      got = run_request(w->session, w->n_vocab, request_of(l, plans, l->n_plan, 4));
      same_bits(w, l, got, want, order, l->n_plan, "in the other order, written and read again");
      for (int k = 0; k < l->n_plan; k++) sl_plan_dispose(&plans[k]);
      free(got);
      free(plans);
      free(order);
      free(want);
      close_world(w);
    }
}

/* Rows that are not asked for, baselines that are not used, threads and rows of the prefix: none changes a bit. */
static void bits_do_not_depend_on_surroundings(void **state) {
  (void)state;
  world *w = open_world("llava-gqa", CPU);
  const line *l = line_named(w, "what");
  const int plan = plan_named(l, "hide-image-from-1"), last = l->n_row - 1;
  float *want = run_plans(w, l, 0);
  const size_t each = (size_t)l->n_row * (size_t)w->n_vocab, row = (size_t)w->n_vocab;
  const float *own = want + (size_t)plan * each;
  sl_branch_request request = request_of(l, &l->plans[plan], 1, 0);
  request.n_baseline = request.n_run = 0;
  float *got = run_request(w->session, w->n_vocab, request);
  assert_memory_equal(got, own, each * sizeof *got);
  free(got);
  for (int i = 0; i <= last; i++) {
    request.rows = &l->rows[i];
    request.n_row = 1;
    got = run_request(w->session, w->n_vocab, request);
    assert_memory_equal(got, own + (size_t)i * row, row * sizeof *got);
    free(got);
  }
  /* A prefix of another text with the same beginning, without its rows, on three threads, and a trunk of that. */
  sl_session *many = NULL;
  sl_prefix *prefix = NULL;
  line other = *l;
  ASSERT_OK(sl_session_new(&many, w->model, 3));
  ASSERT_OK(sl_prefix_new(&prefix, many, &line_named(w, "cat")->layout, w->images[0], false, NULL));
  assert_false(sl_prefix_keeps_rows(prefix));
  ASSERT_OK(sl_trunk_new(&other.trunk, many, prefix, &l->layout, NULL));
  assert_ptr_equal(sl_trunk_prefix(other.trunk), prefix);
  got = run_request(many, w->n_vocab, request_of(&other, &l->plans[plan], 1, 0));
  assert_memory_equal(got, own, each * sizeof *got);
  free(got);
  sl_trunk_free(other.trunk);
  sl_prefix_free(prefix);
  sl_session_free(many);
  free(want);
  close_world(w);
}

/* "what" and "cat" ask about one picture: one prefix, interleaved. */
static void two_questions_share_a_prefix(void **state) {
  (void)state;
  world *w = open_world("llava-gqa", CPU);
  const line *what = line_named(w, "what"), *cat = line_named(w, "cat");
  assert_ptr_equal(sl_trunk_prefix(what->trunk), sl_trunk_prefix(cat->trunk));
  assert_ptr_equal(what->baselines, cat->baselines);
  float *want = run_plans(w, cat, 0);
  free(run_plans(w, what, 3));
  float *got = run_plans(w, cat, 3);
  same_bits(w, cat, got, want, NULL, cat->n_plan, "after another question");
  free(got);
  free(want);
  close_world(w);
}

/* ---- errors ---- */

static sl_status run_json(const world *w, const line *l, const char *text) {
  json_t *json = NULL;
  sl_plan plan = {0};
  ASSERT_OK(sl_json_parse(&json, text, strlen(text), "plan"));
  sl_status status = sl_plan_from_json(&plan, json, "plan");
  json_decref(json);
  if (status != SL_OK) return status;
  taken t = {.n_each = (size_t)l->n_row * (size_t)w->n_vocab};
  t.logits = calloc(t.n_each, sizeof *t.logits);
  sl_branch_request request = request_of(l, &plan, 1, 0);
  request.user = &t;
  status = sl_branches_run(w->session, &request);
  free(t.logits);
  sl_plan_dispose(&plan);
  return status;
}

#define RULE(layers, heads, queries, keys, source)                                                             \
  "{\"attend\": [{\"layers\": \"" layers "\", \"heads\": \"" heads "\", \"queries\": \"" queries "\", \"keys\": \"" \
  keys "\", \"source\": \"" source "\"}]}"
#define EDIT(site, positions, rest) \
  "{\"edits\": [{\"site\": \"" site "\", \"positions\": \"" positions "\", " rest "}]}"

static void wrong_plans_are_named(void **state) {
  (void)state;
  world *w = open_world("llava-gqa", CPU); /* image 8 .. 23 of 55 positions, 3 layers, 4 heads on 2 */
  const line *l = line_named(w, "what");
  static const struct {
    const char *plan, *part;
  } wrong[] = {{RULE("3", "0", "24-", "8-23", "hidden"), "layer 3"},
               {RULE("0", "4", "24-", "8-23", "hidden"), "head 4"},
               {RULE("0", "0", "55", "8-23", "hidden"), "query 55"},
               {RULE("0", "0", "24-", "8-99", "hidden"), "key 55"},
               {RULE("0", "0", "24-", "8-23", "baseline:4"), "baseline 4"},
               {RULE("0", "0", "24-", "7-23", "baseline:0"), "key 7"},
               {RULE("0", "0", "24-", "8-24", "baseline:0"), "key 24"},
               {EDIT("blocks.3.hook_resid_pre", "30", "\"op\": \"scale\", \"value\": 0"), "layer 3"},
               {EDIT("blocks.0.hook_resid_pre", "55", "\"op\": \"scale\", \"value\": 0"), "position 55"},
               {EDIT("blocks.0.attn.hook_v", "30", "\"heads\": \"2\", \"op\": \"scale\", \"value\": 0"), "head 2"},
               {EDIT("blocks.0.hook_resid_pre", "30", "\"op\": \"add\", \"value\": [1, 2]"), "2 numbers"},
               {EDIT("blocks.0.hook_resid_pre", "30", "\"op\": \"scale\", \"value\": [1, 2]"), "one number"},
               {EDIT("blocks.0.hook_resid_pre", "30", "\"op\": \"scale\", \"from\": {\"run\": 0}"), "one number"},
               {EDIT("blocks.0.hook_resid_pre", "30", "\"op\": \"add\", \"from\": {\"run\": 2}"), "run 2"},
               {EDIT("blocks.0.hook_resid_pre", "30", "\"op\": \"add\", \"from\": {\"run\": 0, \"position\": 55}"),
                "position 55"}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    if (run_json(w, l, wrong[i].plan) != SL_ERROR_ARGUMENT || !strstr(sl_error_message(), wrong[i].part))
      fail_msg("%s: \"%s\"; expected an argument error with \"%s\"", wrong[i].plan, sl_error_message(), wrong[i].part);
  }
  ASSERT_OK(run_json(w, l, RULE("0", "0", "24-", "8-23", "baseline:3")));
  close_world(w);
}

static sl_status refuse(void *user, int plan, const float *logits) {
  (void)logits;
  *(int *)user = plan;
  SL_FAIL(SL_ERROR_FORMAT, "enough of plan %d", plan);
}

static void wrong_requests_are_named(void **state) {
  (void)state;
  world *w = open_world("llava-gqa", CPU);
  const line *l = line_named(w, "what");
  int last_plan = -1;
  sl_branch_request r = request_of(l, l->plans, l->n_plan, 2);
  r.take = refuse;
  r.user = &last_plan;
  ASSERT_FAILS(sl_branches_run(w->session, &r), SL_ERROR_FORMAT, "enough of plan 0");
  assert_int_equal(last_plan, 0);
  const int before = l->layout.first_image, past = l->layout.n_token, twice[2] = {30, 30};
  r.rows = &before, r.n_row = 1;
  ASSERT_FAILS(sl_branches_run(w->session, &r), SL_ERROR_ARGUMENT, "row 8");
  r.rows = &past;
  ASSERT_FAILS(sl_branches_run(w->session, &r), SL_ERROR_ARGUMENT, "row 55");
  r.rows = twice, r.n_row = 2;
  ASSERT_FAILS(sl_branches_run(w->session, &r), SL_ERROR_ARGUMENT, "ascending");
  r.n_row = 0;
  ASSERT_FAILS(sl_branches_run(w->session, &r), SL_ERROR_ARGUMENT, "row");
  r = request_of(l, l->plans, l->n_plan, 2);
  r.n_baseline = SL_MAX_BASELINE + 1;
  ASSERT_FAILS(sl_branches_run(w->session, &r), SL_ERROR_ARGUMENT, "5 baselines");
  r.n_baseline = 1;
  r.baselines = (const sl_baseline *const *)line_named(w, "text-first")->baselines;
  ASSERT_FAILS(sl_branches_run(w->session, &r), SL_ERROR_ARGUMENT, "baseline 0");
  int32_t id;
  int n_id;
  r = request_of(l, l->plans, 1, 0);
  ASSERT_FAILS(sl_branches_greedy(w->session, &r, 0, &id, &n_id), SL_ERROR_ARGUMENT, "max tokens");
  atomic_bool flag = true;
  sl_session_set_cancel(w->session, &flag);
  taken t = {.n_each = (size_t)l->n_row * (size_t)w->n_vocab};
  t.logits = calloc(t.n_each, sizeof *t.logits);
  r = request_of(l, &l->plans[plan_named(l, "all-heads-hidden")], 1, 0);
  r.user = &t;
  ASSERT_FAILS(sl_branches_run(w->session, &r), SL_ERROR_CANCELLED, "interrupted");
  ASSERT_FAILS(sl_branches_greedy(w->session, &r, 1, &id, &n_id), SL_ERROR_CANCELLED, "interrupted");
  sl_session_set_cancel(w->session, NULL);
  free(t.logits);
  close_world(w);
}

/* Prefixes and trunks that do not fit together. */
static void wrong_prefixes_are_named(void **state) {
  (void)state;
  world *w = open_world("llava-gqa", CPU);
  const line *l = line_named(w, "what"), *text_first = line_named(w, "text-first");
  sl_prefix *prefix = NULL;
  sl_trunk *trunk = NULL;
  sl_layout plain = {.first_image = -1, .n_token = 3, .n_prompt = 3, .ids = (int32_t[]){1, 5, 6}};
  ASSERT_FAILS(sl_prefix_new(&prefix, w->session, &plain, NULL, true, NULL), SL_ERROR_ARGUMENT, "picture");
  ASSERT_FAILS(sl_prefix_new(&prefix, w->session, &l->layout, NULL, true, NULL), SL_ERROR_ARGUMENT, "picture");
  assert_null(prefix);
  ASSERT_OK(sl_prefix_new(&prefix, w->session, &l->layout, w->images[0], false, NULL));
  ASSERT_FAILS(sl_trunk_new(&trunk, w->session, prefix, &text_first->layout, NULL), SL_ERROR_ARGUMENT,
               "image positions");
  assert_null(trunk);
  const int32_t held = l->layout.ids[3];
  l->layout.ids[3] = 7;
  ASSERT_FAILS(sl_trunk_new(&trunk, w->session, prefix, &l->layout, NULL), SL_ERROR_ARGUMENT, "token 3");
  sl_prefix *other = NULL;
  sl_baseline *stranger = NULL;
  sl_calibration *calibration = NULL;
  ASSERT_OK(sl_prefix_new(&other, w->session, &l->layout, w->images[1], false, NULL));
  l->layout.ids[3] = held;
  ASSERT_OK(sl_baseline_picture(&stranger, w->session, other));
  sl_branch_request r = request_of(l, l->plans, 1, 0);
  r.baselines = (const sl_baseline *const *)&stranger, r.n_baseline = 1;
  ASSERT_FAILS(sl_branches_run(w->session, &r), SL_ERROR_ARGUMENT, "token 3 is 7 there");
  sl_baseline_free(stranger);
  ASSERT_OK(sl_calibration_new(&calibration, w->session));
  ASSERT_FAILS(sl_calibration_finish(&stranger, calibration, true), SL_ERROR_ARGUMENT, "at least one");
  ASSERT_OK(sl_calibration_add(calibration, prefix));
  ASSERT_FAILS(sl_calibration_add(calibration, other), SL_ERROR_ARGUMENT, "token 3");
  sl_calibration_free(calibration);
  sl_prefix_free(other);
  sl_prefix_free(prefix);
  close_world(w);
}

/* The picture ends the prompt: nothing to branch; with an answer there is, but no first token to choose. */
static void prompts_that_end_with_the_picture(void **state) {
  (void)state;
  world *w = open_world("llava-gqa", CPU);
  sl_prefix *whole = NULL;
  sl_trunk *trunk = NULL;
  sl_layout layout = {0};
  ASSERT_OK(sl_layout_build(&layout, w->model, NULL, "What is it? <image>", true));
  ASSERT_OK(sl_prefix_new(&whole, w->session, &layout, w->images[0], false, NULL));
  ASSERT_FAILS(sl_trunk_new(&trunk, w->session, whole, &layout, NULL), SL_ERROR_ARGUMENT, "ends with the picture");
  const int32_t answer[2] = {40, 41};
  ASSERT_OK(sl_layout_append(&layout, w->model, answer, 2));
  ASSERT_OK(sl_trunk_new(&trunk, w->session, whole, &layout, NULL));
  const sl_plan none = {0};
  const sl_branch_request r = {.trunk = trunk, .plans = &none, .n_plan = 1};
  int32_t ids[2];
  int n_id;
  ASSERT_FAILS(sl_branches_greedy(w->session, &r, 2, ids, &n_id), SL_ERROR_ARGUMENT, "picture");
  sl_trunk_free(trunk);
  sl_prefix_free(whole);
  sl_layout_dispose(&layout);
  close_world(w);
}

/* Plans that need rows of the prefix which were not kept. */
static void rows_that_were_not_kept(void **state) {
  (void)state;
  world *w = open_world("llava-gqa", CPU);
  const line *l = line_named(w, "what");
  sl_prefix *prefix = NULL;
  ASSERT_OK(sl_prefix_new(&prefix, w->session, &l->layout, w->images[0], false, NULL));
  line poor = *l;
  ASSERT_OK(sl_trunk_new(&poor.trunk, w->session, prefix, &l->layout, NULL));
  poor.runs[0] = poor.trunk;
  ASSERT_FAILS(run_json(w, &poor, RULE("1", "0", "9-23", "8", "hidden")), SL_ERROR_ARGUMENT, "keep_rows");
  ASSERT_FAILS(run_json(w, &poor, EDIT("blocks.0.hook_resid_pre", "9", "\"op\": \"scale\", \"value\": 0")),
               SL_ERROR_ARGUMENT, "keep_rows");
  ASSERT_FAILS(run_json(w, &poor, EDIT("blocks.0.hook_resid_pre", "30",
                                       "\"op\": \"add\", \"from\": {\"run\": 0, \"position\": 9}")),
               SL_ERROR_ARGUMENT, "keep_rows");
  ASSERT_OK(run_json(w, &poor, RULE("1", "0", "24-", "8", "hidden")));
  sl_trunk_free(poor.trunk);
  sl_prefix_free(prefix);
  close_world(w);
}

/* ---- failing allocations ---- */

static sl_status ignore(void *user, int plan, const float *logits) {
  (void)user, (void)plan, (void)logits;
  return SL_OK;
}

static sl_status whole_run(const world *w, const line *l, const sl_plan *plan) {
  sl_session *session = NULL;
  sl_prefix *prefix = NULL;
  sl_trunk *trunk = NULL;
  sl_baseline *baselines[2] = {0};
  sl_calibration *calibration = NULL;
  int32_t ids[2];
  int n_id;
  sl_status status = sl_session_new(&session, w->model, 1);
  if (status == SL_OK) status = sl_prefix_new(&prefix, session, &l->layout, w->images[0], true, NULL);
  if (status == SL_OK) status = sl_trunk_new(&trunk, session, prefix, &l->layout, NULL);
  if (status == SL_OK) status = sl_calibration_new(&calibration, session);
  if (status == SL_OK) status = sl_calibration_add(calibration, prefix);
  if (status == SL_OK) status = sl_calibration_finish(&baselines[0], calibration, true);
  if (status == SL_OK) status = sl_baseline_picture(&baselines[1], session, prefix);
  const sl_trunk *run = trunk;
  const sl_branch_request request = {.trunk = trunk, .plans = plan, .n_plan = 1, .n_run = 1, .runs = &run,
                                     .baselines = (const sl_baseline *const *)baselines, .n_baseline = 2,
                                     .rows = l->rows, .n_row = l->n_row, .take = ignore};
  if (status == SL_OK) status = sl_branches_run(session, &request);
  if (status == SL_OK) status = sl_branches_greedy(session, &request, 2, ids, &n_id);
  sl_calibration_free(calibration);
  sl_baseline_free(baselines[0]);
  sl_baseline_free(baselines[1]);
  sl_trunk_free(trunk);
  sl_prefix_free(prefix);
  sl_session_free(session);
  return status;
}

static void allocations_may_fail(void **state) {
  (void)state;
  static const char text[] =
      "{\"attend\": [{\"layers\": \"1\", \"heads\": \"1\", \"queries\": \"24-\", \"keys\": \"8-23\","
      "              \"source\": \"baseline:1\"}],"
      " \"edits\": [{\"site\": \"blocks.0.attn.hook_v\", \"heads\": \"0\", \"positions\": \"9\", \"op\": \"add\","
      "             \"value\": 1},"
      "            {\"site\": \"blocks.1.hook_mlp_out\", \"positions\": \"30\", \"op\": \"add\","
      "             \"from\": {\"run\": 0}},"
      "            {\"site\": \"blocks.2.hook_resid_pre\", \"positions\": \"31\", \"op\": \"replace\","
      "             \"from\": {\"run\": 0, \"position\": 10}}]}";
  world *w = open_world("llava-gqa", CPU);
  const line *l = line_named(w, "what");
  json_t *json = NULL;
  sl_plan plan;
  ASSERT_OK(sl_json_parse(&json, text, strlen(text), "plan"));
  ASSERT_OK(sl_plan_from_json(&plan, json, "plan"));
  json_decref(json);
  for (long n = 1;; n++) {
    sl_alloc_fail_at(n);
    const sl_status status = whole_run(w, l, &plan);
    sl_alloc_fail_at(0);
    if (status == SL_OK) {
      assert_true(n > 60);
      break;
    }
    if (status != SL_ERROR_MEMORY) fail_msg("allocation %ld: %s", n, sl_error_message());
  }
  sl_plan_dispose(&plan);
  close_world(w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_plan_matches),
      cmocka_unit_test(three_ways_to_no_image),
      cmocka_unit_test(greedy_answers_match),
      cmocka_unit_test(greedy_stops_at_end_tokens),
      cmocka_unit_test(greedy_ends_with_the_positions),
      cmocka_unit_test(appended_rows_read_what_changed),
      cmocka_unit_test(trunk_is_the_forward),
      cmocka_unit_test(probes_see_the_rows),
      cmocka_unit_test(bits_do_not_depend_on_company),
      cmocka_unit_test(bits_do_not_depend_on_surroundings),
      cmocka_unit_test(two_questions_share_a_prefix),
      cmocka_unit_test(wrong_plans_are_named),
      cmocka_unit_test(wrong_requests_are_named),
      cmocka_unit_test(wrong_prefixes_are_named),
      cmocka_unit_test(prompts_that_end_with_the_picture),
      cmocka_unit_test(rows_that_were_not_kept),
      cmocka_unit_test(allocations_may_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
