/* Every family against transformers (or the official code it names in golden.json): token ids, pixels of all views, which
 * row stands where, every site of tower, projector and decoder in the order in which the model computes them, logits,
 * greedy answers, gradients, CAM maps, attention shares, interventions. Tolerance: 1e-4 of a site's largest value. */
#include "family_run.h"

#include "analysis/baseline.h"
#include "analysis/cam_map.h"
#include "analysis/cliff_sweep.h"
#include "analysis/shared.h"
#include "model/branch.h"
#include "model/record.h"

/* ---- inputs ---- */

static void check_pack(const family_run *r) {
  const sl_tensor *want = golden_find(&r->g, r->test_case, "pack");
  if (!want) return;
  assert_int_equal(sl_tensor_count(want), r->pack.n);
  const int32_t *source = want->data;
  for (int i = 0; i < r->pack.n; i++)
    if (source[i] != r->pack.source[i])
      fail_msg("%s %s: image position %d shows row %d, expected %d", r->where, r->test_case, i, r->pack.source[i], source[i]);
}

static void check_inputs(const family_run *r) {
  const sl_tensor *ids = golden_find(&r->g, r->test_case, "ids"), *pixels = golden_find(&r->g, r->test_case, "pixels");
  assert_int_equal(ids->shape[0], r->layout.n_prompt);
  const int32_t *want = ids->data;
  /* Qwen-VL writes the picture's path into the slots; the picture's rows replace them. */
  const bool slots = json_object_get(r->g.facts, "slots") != NULL;
  for (int t = 0; t < r->layout.n_prompt; t++)
    if (want[t] != r->layout.ids[t] && !(slots && t >= r->layout.first_image && t < r->layout.first_image + r->layout.n_image))
      fail_msg("%s %s: token %d is %d, expected %d", r->where, r->test_case, t, r->layout.ids[t], want[t]);
  assert_int_equal(sl_tensor_count(pixels), (int64_t)3 * r->views.n_view * r->views.height_px * r->views.width_px);
  double most = 0;
  for (int64_t i = 0; i < sl_tensor_count(pixels); i++)
    most = fmax(most, fabs((double)r->views.pixels[i] - (double)((const float *)pixels->data)[i]));
  if (!(most <= 1e-6)) fail_msg("%s %s: pixels differ by %g", r->where, r->test_case, most);
  const sl_tensor *question = golden_find(&r->g, r->test_case, "qformer.ids");
  assert_int_equal(question ? sl_tensor_count(question) : 0, r->pack.n_text);
  if (question) assert_memory_equal(question->data, r->pack.text, (size_t)r->pack.n_text * sizeof *r->pack.text);
  check_pack(r);
}

static void inputs_match(void **state) {
  (void)state;
  for (int f = 0; f < N_FAMILY; f++) {
    family_run r;
    family_open(&r, families[f].folder, CPU);
    for (int i = 0; i < families[f].n_case; i++) {
      family_start_case(&r, i);
      check_inputs(&r);
    }
    family_close(&r);
  }
}

/* ---- sites ---- */

/* The golden's values of a site, of all rows or of those that stand behind its name ("hook_embed@-4--1"). */
static const sl_tensor *find_rows(const family_run *r, const char *name, int n_row, int *first) {
  char start[96];
  const int n = snprintf(start, sizeof start, "%s/%s@", r->test_case, name);
  *first = 0;
  for (int i = 0; i < sl_safetensors_count(r->g.arrays); i++) {
    const sl_tensor *t = sl_safetensors_at(r->g.arrays, i);
    if (strncmp(t->name, start, (size_t)n) != 0) continue;
    *first = atoi(t->name + n) + (t->name[n] == '-' ? n_row : 0);
    return t;
  }
  return golden_find(&r->g, r->test_case, name);
}

/* Rows of `got` from `first` on, as many as `want` has: new array. */
static float *slice_rows(const sl_tensor *got, const sl_tensor *want, int first, int axis) {
  size_t n_outer = 1, n_inner = 1;
  for (int d = 0; d < axis; d++) n_outer *= (size_t)got->shape[d];
  for (int d = axis + 1; d < got->n_dim; d++) n_inner *= (size_t)got->shape[d];
  const size_t n_got = (size_t)got->shape[axis], n_want = (size_t)want->shape[axis];
  float *rows = calloc(n_outer * n_want * n_inner, sizeof *rows);
  for (size_t o = 0; o < n_outer; o++)
    memcpy(rows + o * n_want * n_inner, (const float *)got->data + (o * n_got + (size_t)first) * n_inner,
           n_want * n_inner * sizeof *rows);
  return rows;
}

/* Every recorded site that the golden has, in the order computed. Patterns of the tower are stored for its first view; of
 * the scores only three rows, which test_golden compares. */
static int check_record(const family_run *r, const sl_record *record, double tolerance) {
  int n_checked = 0;
  for (int i = 0; i < sl_record_count(record); i++) {
    const sl_tensor *got = sl_record_at(record, i);
    const bool logits = strcmp(got->name, "hook_logits") == 0;
    if (strstr(got->name, "attn_scores")) continue;
    const int axis = strstr(got->name, "pattern") ? 1 : 0;
    int first = 0;
    const sl_tensor *want = find_rows(r, logits ? "logits" : got->name, (int)got->shape[axis], &first);
    if (!want) continue;
    bool same = got->n_dim == want->n_dim && first + want->shape[axis] <= got->shape[axis];
    for (int d = 0; d < got->n_dim && same; d++) same = d == axis || got->shape[d] == want->shape[d];
    const bool part = strchr(want->name, '@') || (axis == 1 && strncmp(got->name, "vision.", 7) == 0);
    if (!same || (!part && got->shape[axis] != want->shape[axis]))
      fail_msg("%s %s: %s has %lld values, expected %lld", r->where, r->test_case, got->name,
               (long long)sl_tensor_count(got), (long long)sl_tensor_count(want));
    float *values = slice_rows(got, want, first, axis);
    family_check(r, got->name, values, want, tolerance);
    free(values);
    n_checked++;
  }
  return n_checked;
}

/* Sites that the golden has for the case, the logits among them; scores apart. */
static int golden_sites(const family_run *r) {
  char logits[24], start[24];
  int n = 0;
  snprintf(start, sizeof start, "%s/", r->test_case);
  snprintf(logits, sizeof logits, "%s/logits", r->test_case);
  for (int i = 0; i < sl_safetensors_count(r->g.arrays); i++) {
    const char *name = sl_safetensors_at(r->g.arrays, i)->name;
    const bool site = strstr(name, "hook_") && !strstr(name, "attn_scores");
    n += strncmp(name, start, strlen(start)) == 0 && (site || strncmp(name, logits, strlen(logits)) == 0);
  }
  return n;
}

static void sites_match(void **state) {
  (void)state;
  for (int f = 0; f < N_FAMILY; f++)
    for (int m = 0; m < N_MACHINE; m++) {
      family_run r;
      sl_record *record = NULL;
      sl_probe vision, decoder;
      family_open(&r, families[f].folder, m);
      family_start_case(&r, 0);
      ASSERT_OK(sl_record_new(&record, r.model, &r.pack, &r.layout, "*"));
      ASSERT_OK(sl_record_probe(record, r.session, SL_PART_VISION, &vision));
      ASSERT_OK(sl_record_probe(record, r.session, SL_PART_DECODER, &decoder));
      family_encode(&r, &vision, false);
      ASSERT_OK(sl_session_forward(r.session, &r.layout, r.image, NULL, 0, NULL, &decoder, false));
      const int n = check_record(&r, record, family_tolerance(f, m));
      if (n != golden_sites(&r)) fail_msg("%s: %d of the golden's %d sites were compared", r.where, n, golden_sites(&r));
      sl_record_free(record);
      family_close(&r);
    }
}

static void greedy_matches(void **state) {
  (void)state;
  for (int f = 0; f < N_FAMILY; f++)
    for (int m = CPU; m < N_MACHINE; m++) {
      family_run r;
      family_open(&r, families[f].folder, m);
      for (int i = 0; i < families[f].n_case; i++) {
        family_start_case(&r, i);
        family_encode(&r, NULL, false);
        ASSERT_OK(sl_session_greedy(r.session, &r.layout, r.image, 8, NULL, NULL));
        const int32_t *want = golden_find(&r.g, r.test_case, "greedy")->data, *got = r.layout.ids + r.layout.n_prompt;
        assert_int_equal(r.layout.n_token - r.layout.n_prompt, 8);
        for (int k = 0; k < 8; k++)
          if (want[k] != got[k]) fail_msg("%s %s: answer token %d is %d, expected %d", r.where, r.test_case, k, got[k], want[k]);
      }
      family_close(&r);
    }
}

/* ---- CAM: gradients through decoder, splice, projector and tower ---- */

static void check_map(const family_run *r, const char *name, const float *got, double tolerance) {
  const sl_tensor *want = golden_find(&r->g, r->test_case, name);
  if (want) family_check(r, name, got, want, tolerance);
}

static void one_cam(family_run *r, sl_site site, const char *name, bool vision, double tolerance) {
  sl_shared shared = {0};
  sl_cancel *cancel = NULL;
  sl_answer_token answer[3];
  const int32_t *ids = golden_find(&r->g, r->test_case, "greedy")->data;
  ASSERT_OK(sl_cancel_new(&cancel));
  for (int a = 0; a < 3; a++) answer[a] = (sl_answer_token){.id = ids[a]};
  sl_analysis_context context = {.model = r->model, .session = r->session, .pixels = r->views.pixels, .pack = &r->pack,
                                 .image = r->image, .layout = &r->layout, .answer = answer, .n_answer = 3,
                                 .info = &sl_cam_analysis.info, .said = json_object(), .warnings = json_array(),
                                 .cancel = cancel, .shared = &shared};
  const sl_cam_options options = {.site = site, .target = SL_TARGET_LOGIT, .vision = vision, .n_picture = 1};
  sl_cam cam;
  ASSERT_OK(sl_cam_init(&cam, &context, &options));
  ASSERT_OK(sl_cam_add(&cam, NULL));
  check_map(r, name, cam.heat, tolerance);
  if (vision) check_map(r, "cam/sum/vision", cam.vision, tolerance);
  sl_cam_dispose(&cam);
  sl_shared_dispose(&shared);
  json_decref(context.said);
  json_decref(context.warnings);
  sl_cancel_free(cancel);
}

static void cam_matches(void **state) {
  (void)state;
  for (int f = 0; f < N_FAMILY; f++)
    for (int m = 0; m < N_MACHINE; m++) {
      family_run r;
      family_open(&r, families[f].folder, m);
      family_start_case(&r, 0);
      family_append_answer(&r, 3);
      family_encode(&r, NULL, false);
      assert_non_null(golden_find(&r.g, r.test_case, "cam/sum/ln2"));
      one_cam(&r, SL_SITE_LN2, "cam/sum/ln2", true, machines[m].gradient_tolerance);
      one_cam(&r, SL_SITE_LN1, "cam/sum/ln1", false, machines[m].gradient_tolerance);
      family_close(&r);
    }
}

/* ---- attention flow ---- */

/* The image's share of the first answer token's attention, counted as the golden counts classes outside the image. */
static void check_flow(family_run *r) {
  const sl_tensor *share = golden_find(&r->g, r->test_case, "flow/share");
  const int32_t *classes = golden_find(&r->g, r->test_case, "flow/class")->data;
  const sl_layout *layout = &r->layout;
  for (int t = 0; t < layout->n_token; t++)
    if (t < layout->first_image || t >= layout->first_image + layout->n_image) layout->classes[t] = (uint8_t)classes[t];
  sl_shared shared = {0};
  sl_cancel *cancel = NULL;
  const sl_answer_token answer[3] = {{.id = layout->ids[layout->n_prompt]}};
  ASSERT_OK(sl_cancel_new(&cancel));
  sl_analysis_context context = {.model = r->model, .session = r->session, .pack = &r->pack, .image = r->image,
                                 .layout = layout, .answer = answer, .n_answer = 3, .info = &sl_flow_analysis.info,
                                 .said = json_object(), .warnings = json_array(), .cancel = cancel, .shared = &shared};
  ASSERT_OK(sl_flow_analysis.run(&context));
  const json_t *told = json_object_get(context.said, "image_share");
  assert_int_equal(json_array_size(told), share->shape[0]);
  for (int l = 0; l < (int)share->shape[0]; l++) {
    const double want = (double)((const float *)share->data)[l * 3 * SL_CLASS_COUNT + SL_CLASS_IMAGE];
    const double got = json_number_value(json_array_get(told, (size_t)l));
    if (!(fabs(got - want) <= 1e-5))
      fail_msg("%s %s: layer %d gives the image %.6f of its attention, expected %.6f", r->where, r->test_case, l, got, want);
  }
  sl_shared_dispose(&shared);
  json_decref(context.said);
  json_decref(context.warnings);
  sl_cancel_free(cancel);
}

static void flow_matches(void **state) {
  (void)state;
  for (int f = 0; f < N_FAMILY; f++) {
    family_run r;
    family_open(&r, families[f].folder, CPU);
    family_start_case(&r, 0);
    family_append_answer(&r, 3);
    family_encode(&r, NULL, false);
    /* A kept class token is structure here, image in the golden: test_analysis compares that folder. */
    if (!sl_model_get_shape(r.model)->keeps_cls) check_flow(&r);
    family_close(&r);
  }
}

/* ---- gradients ---- */

typedef struct gradient_sink {
  const family_run *run;
  double tolerance;
  int last_layer; /* of the tower */
  int n_patch, n_decoder, n_vision;
} gradient_sink;

static bool wants_ln2(void *user, sl_part part, sl_site site, int layer, bool backward) {
  const gradient_sink *sink = user;
  return backward && site == SL_SITE_LN2 && (part == SL_PART_DECODER || (part == SL_PART_VISION && layer == sink->last_layer));
}

/* Rows `at` .. of the gradient that belong to the golden's; rows before the first reachable one are zero. */
static void check_gradient(const gradient_sink *sink, sl_queue *queue, const char *name, sl_mat grad, int at,
                           const float *want, int n_row, int width) {
  float *got = calloc((size_t)n_row * (size_t)width, sizeof *got);
  for (int i = 0; i < n_row; i++)
    if (at + i >= 0)
      sl_buffer_read(queue, got + (size_t)i * (size_t)width, grad.buffer,
                     (size_t)(grad.offset + (at + i) * grad.stride) * sizeof(float), (size_t)width * sizeof(float));
  const sl_tensor slice = {.data = want, .dtype = SL_F32, .n_dim = 2, .shape = {n_row, width}};
  family_check(sink->run, name, got, &slice, sink->tolerance);
  free(got);
}

static void see_ln2(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                    sl_mat grad) {
  gradient_sink *sink = user;
  const bool vision = part == SL_PART_VISION;
  char name[64];
  int first = 0;
  sl_site_name(name, part, site, layer);
  const sl_tensor *want = find_rows(sink->run, vision ? "cam/sum/vision/grad" : "cam/sum/ln2/grad", 0, &first);
  assert_non_null(want);
  const int width = (int)want->shape[want->n_dim - 1];
  if (vision) { /* one call a view; the golden holds the patches of all */
    const int view = first_row / value.rows;
    check_gradient(sink, queue, name, grad, value.rows - sink->n_patch,
                   (const float *)want->data + (size_t)view * (size_t)sink->n_patch * (size_t)width, sink->n_patch, width);
    sink->n_vision++;
    return;
  }
  const int n_row = (int)want->shape[1];
  check_gradient(sink, queue, name, grad, sink->run->layout.first_image + first - first_row,
                 (const float *)want->data + (size_t)layer * (size_t)n_row * (size_t)width, n_row, width);
  sink->n_decoder++;
}

/* Backward from the sum of the answer's logits, through decoder, connector and tower. */
static void gradients_match(void **state) {
  (void)state;
  for (int f = 0; f < N_FAMILY; f++)
    for (int m = 0; m < N_MACHINE; m++) {
      family_run r;
      family_open(&r, families[f].folder, m);
      family_start_case(&r, 0);
      family_append_answer(&r, 3);
      family_encode(&r, NULL, true);
      const sl_model_shape *shape = sl_model_get_shape(r.model);
      const int rows[3] = {r.layout.n_prompt - 1, r.layout.n_prompt, r.layout.n_prompt + 1};
      float *d_logits = calloc((size_t)shape->n_vocab * 3, sizeof *d_logits);
      for (int i = 0; i < 3; i++) d_logits[i * shape->n_vocab + r.layout.ids[r.layout.n_prompt + i]] = 1;
      gradient_sink sink = {.run = &r, .tolerance = machines[m].gradient_tolerance,
                            .last_layer = shape->vision.n_layer - 1, .n_patch = r.pack.patch_rows * r.pack.patch_cols};
      const sl_probe probe = {.user = &sink, .wants = wants_ln2, .see = see_ln2};
      ASSERT_OK(sl_session_forward(r.session, &r.layout, r.image, NULL, 0, NULL, NULL, true));
      ASSERT_OK(sl_session_backward(r.session, rows, 3, d_logits, &probe, true));
      assert_int_equal(sink.n_decoder, shape->decoder.n_layer);
      assert_int_equal(sink.n_vision, r.pack.n_view);
      free(d_logits);
      family_close(&r);
    }
}

/* ---- interventions ---- */

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
  for (; n_row < (int)json_array_size(list); n_row++) rows[n_row] = (int)json_integer_value(json_array_get(list, (size_t)n_row));
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
    sl_analysis_context context = {.model = r.model, .session = r.session, .pixels = r.views.pixels, .pack = &r.pack,
                                   .image = r.image, .layout = &r.layout, .answer = answer, .n_answer = 1,
                                   .info = &sl_heads_analysis.info, .options = &option, .n_option = 1, .shared = &shared};
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
    int n_hidden = 0;
    for (int i = 0; i < plans[0].n_rule; i++) n_hidden += sl_set_has(&plans[0].rules[i].keys, after);
    assert_int_equal(n_hidden, 1);
    for (int i = 0; i < plans[1].n_rule; i++) ASSERT_OK(sl_set_remove(&plans[1].rules[i].keys, after, 1));
    float with[64], without[64], *out[2] = {with, without};
    const sl_branch_request request = {.trunk = trunk, .plans = plans, .n_plan = 2, .rows = &row, .n_row = 1,
                                       .take = keep_logits, .user = out};
    ASSERT_OK(sl_branches_run(r.session, &request));
    if (memcmp(with, without, sizeof with) == 0) fail_msg("%s: the token behind the picture makes no difference", r.where);
    for (int i = 0; i < 2; i++) sl_plan_dispose(&plans[i]);
    sl_trunk_free(trunk);
    sl_prefix_free(prefix);
    family_close(&r);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pictures_that_cannot_stand_in), cmocka_unit_test(frames_are_hidden_with_the_picture),
      cmocka_unit_test(inputs_match), cmocka_unit_test(sites_match), cmocka_unit_test(greedy_matches), cmocka_unit_test(flow_matches),
      cmocka_unit_test(cam_matches),  cmocka_unit_test(gradients_match),
      cmocka_unit_test(plans_match),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
