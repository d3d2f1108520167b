/* Every family against transformers (or the official code it names in golden.json): token ids, pixels of all views,
 * which row stands where, every site of tower, projector and decoder in the order in which the model computes them,
 * logits, greedy answers, gradients, CAM maps, attention shares (interventions: test_family_plans.c). Tolerance: 1e-4
 * of a site's largest value. */
#include "family_run.h"

#include "analysis/cam_map.h"
#include "analysis/shared.h"
#include "model/internal.h"
#include "model/record.h"

/* ---- inputs ---- */

static void check_pack(const family_run *r) {
  const sl_tensor *want = golden_find(&r->g, r->test_case, "pack");
  if (!want) return;
  assert_int_equal(sl_tensor_count(want), r->pack.n);
  const int32_t *source = want->data;
  for (int i = 0; i < r->pack.n; i++)
    if (source[i] != r->pack.source[i])
      fail_msg("%s %s: image position %d shows row %d, expected %d", r->where, r->test_case, i, r->pack.source[i],
               source[i]);
}

static void check_inputs(const family_run *r) {
  const sl_tensor *ids = golden_find(&r->g, r->test_case, "ids"), *pixels = golden_find(&r->g, r->test_case, "pixels");
  assert_int_equal(ids->shape[0], r->layout.n_prompt);
  const int32_t *want = ids->data;
  /* Qwen-VL writes the picture's path into the slots; the picture's rows replace them. */
  const bool slots = json_object_get(r->g.facts, "slots") != NULL;
  for (int t = 0; t < r->layout.n_prompt; t++)
    if (want[t] != r->layout.ids[t] &&
        !(slots && t >= r->layout.first_image && t < r->layout.first_image + r->layout.n_image))
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

/* Every recorded site that the golden has, in the order computed. Patterns of the tower are stored for its first view;
 * of the scores only three rows, which test_golden compares. */
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
      if (n != golden_sites(&r))
        fail_msg("%s: %d of the golden's %d sites were compared", r.where, n, golden_sites(&r));
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
          if (want[k] != got[k])
            fail_msg("%s %s: answer token %d is %d, expected %d", r.where, r.test_case, k, got[k], want[k]);
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
      fail_msg("%s %s: layer %d gives the image %.6f of its attention, expected %.6f", r->where, r->test_case, l, got,
               want);
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
  return backward && site == SL_SITE_LN2 &&
         (part == SL_PART_DECODER || (part == SL_PART_VISION && layer == sink->last_layer));
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

/* ---- classes ---- */

/* Goldens whose makers counted the user's role marker ("<|im_start|>user\n") to the question. Here it belongs to the
 * template's beginning in every family, as "USER:" does in the goldens of LLaVA: the prompt's roles decide (layout.h). */
static const char *const marker_is_user[] = {"internvl-native", "internvl-remote", "internvl-6b", "qwen-vl"};

static bool counts_marker(const char *folder) {
  for (size_t i = 0; i < sizeof marker_is_user / sizeof *marker_is_user; i++)
    if (strcmp(marker_is_user[i], folder) == 0) return true;
  return false;
}

/* Equal but for blanks and line ends: some tokenizers write blanks beside special tokens, and a line end before the
 * marker ends the system turn. */
static bool same_letters(const char *a, const char *b) {
  while (*a || *b) {
    a += strspn(a, " \n");
    b += strspn(b, " \n");
    if (*a != *b) return false;
    a += *a != 0;
    b += *b != 0;
  }
  return true;
}

/* The tokens from `first` to `last` spell the template's marker. */
static void expect_marker(const family_run *r, int first, int last) {
  sl_text text = {0};
  ASSERT_OK(sl_tokenizer_decode(sl_model_get_tokenizer(r->model), r->layout.ids + first, last + 1 - first, false, &text));
  if (!text.data || !same_letters(text.data, r->model->prompt->user))
    fail_msg("%s: tokens %d to %d are \"%s\", not the user's role marker", r->where, first, last, text.data);
  sl_text_dispose(&text);
}

static void check_classes(const family_run *r, const char *folder) {
  const int32_t *want = golden_find(&r->g, r->test_case, "flow/class")->data;
  const sl_layout *l = &r->layout;
  int first = -1, last = -1;
  for (int t = 0; t < l->n_prompt; t++) {
    const bool image = t >= l->first_image && t < l->first_image + l->n_image;
    /* A kept class token is structure here, image in the golden. */
    if (want[t] == l->classes[t] || (image && sl_model_get_shape(r->model)->keeps_cls)) continue;
    if (want[t] != SL_CLASS_USER || l->classes[t] != SL_CLASS_SYSTEM || (last >= 0 && last != t - 1))
      fail_msg("%s: token %d is of class %s, expected %s", r->where, t, sl_class_name(l->classes[t]),
               sl_class_name((sl_token_class)want[t]));
    if (first < 0) first = t;
    last = t;
  }
  assert_int_equal(first >= 0, counts_marker(folder));
  if (first >= 0) expect_marker(r, first, last);
}

static void classes_match(void **state) {
  (void)state;
  for (int f = 0; f < N_FAMILY; f++) {
    family_run r;
    family_open(&r, families[f].folder, CPU);
    family_start_case(&r, 0);
    check_classes(&r, families[f].folder);
    family_close(&r);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(inputs_match), cmocka_unit_test(classes_match), cmocka_unit_test(sites_match),
      cmocka_unit_test(greedy_matches), cmocka_unit_test(flow_matches), cmocka_unit_test(cam_matches),
      cmocka_unit_test(gradients_match),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
