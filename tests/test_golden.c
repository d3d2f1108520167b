/* The engine against transformers, site by site, in the order in which the model computes them: the first site that
 * diverges is named. Tolerance: 1e-4 of the site's largest value. */
#include "golden.h"

#include "model/record.h"

#define TOLERANCE 1e-4
/* bf16x2 carries 16 bits of each activation; the golden checkpoints' peaked attention magnifies that in gradients. */
#define TOLERANCE_GRADIENT_BF16X2 1e-3

static const char *const folders[] = {"llava-gqa", "llava-mha", "llava-orig-pad"};
static const struct {
  const char *backend, *compute;
} machines[] = {{"ref", "f32"}, {"cpu", "f32"}, {"cpu", "bf16x2"}};

typedef struct run {
  golden g;
  sl_model *model;
  sl_session *session;
  sl_layout layout;
  float *pixels;
} run;

static sl_model *open_model(const char *dir, const char *backend, const char *compute) {
  const sl_model_options options = {.size = sizeof options, .backend = backend, .compute = compute, .n_thread = 2};
  sl_model *model = NULL;
  ASSERT_OK(sl_model_open(&model, dir, &options));
  return model;
}

static run start(const char *folder, int machine, const char *test_case) {
  run r = {.g = golden_open(folder)};
  r.model = open_model(r.g.dir, machines[machine].backend, machines[machine].compute);
  ASSERT_OK(sl_session_new(&r.session, r.model, 2));
  ASSERT_OK(sl_layout_build(&r.layout, r.model, NULL, golden_string(&r.g, test_case, "prompt"), true));
  char path[700];
  snprintf(path, sizeof path, "%s/%s", r.g.dir, golden_string(&r.g, test_case, "picture"));
  sl_rgb image = {0};
  int width = 0, height = 0;
  ASSERT_OK(sl_rgb_load(&image, path, true));
  ASSERT_OK(sl_preprocess_apply(sl_model_get_preprocess(r.model), &image, &r.pixels, &width, &height, NULL, NULL));
  sl_rgb_dispose(&image);
  return r;
}

static void finish(run *r) {
  free(r->pixels);
  sl_layout_dispose(&r->layout);
  sl_session_free(r->session);
  sl_model_close(r->model);
  golden_close(&r->g);
}

static void check(const char *where, const char *name, const float *got, const sl_tensor *want, double tolerance) {
  const double distance = golden_distance(got, want);
  if (!(distance <= tolerance)) fail_msg("%s: first diverging site %s: off by %.3g of its largest value", where, name, distance);
}

static void check_inputs(const run *r, const char *where, const char *test_case) {
  const sl_tensor *ids = golden_find(&r->g, test_case, "ids"), *pixels = golden_find(&r->g, test_case, "pixels");
  assert_int_equal(ids->shape[0], r->layout.n_prompt);
  if (memcmp(ids->data, r->layout.ids, (size_t)r->layout.n_prompt * 4) != 0) fail_msg("%s: token ids differ", where);
  double most = 0;
  const float *want = pixels->data;
  for (int64_t i = 0; i < sl_tensor_count(pixels); i++) most = fmax(most, fabs((double)r->pixels[i] - (double)want[i]));
  if (!(most <= 1e-6)) fail_msg("%s: pixels differ by %g", where, most);
}

/* Every recorded site that the golden has. The golden holds only the last three rows of the scores, which are unmasked
 * there. */
static int check_record(const run *r, const char *where, const char *test_case, const sl_record *record) {
  int n_checked = 0;
  for (int i = 0; i < sl_record_count(record); i++) {
    const sl_tensor *got = sl_record_at(record, i);
    const sl_tensor *want = golden_find(&r->g, test_case, got->name);
    if (!want || strstr(got->name, "attn_scores")) continue;
    assert_int_equal(sl_tensor_count(got), sl_tensor_count(want));
    check(where, got->name, got->data, want, TOLERANCE);
    n_checked++;
  }
  return n_checked;
}

static void run_case(const char *folder, int machine, const char *test_case, int least_sites) {
  char where[160];
  snprintf(where, sizeof where, "%s %s/%s %s", folder, machines[machine].backend, machines[machine].compute, test_case);
  run r = start(folder, machine, test_case);
  check_inputs(&r, where, test_case);
  sl_record *record = NULL;
  sl_probe vision, decoder;
  ASSERT_OK(sl_record_new(&record, r.model, NULL, &r.layout, "*"));
  ASSERT_OK(sl_record_probe(record, r.session, SL_PART_VISION, &vision));
  ASSERT_OK(sl_record_probe(record, r.session, SL_PART_DECODER, &decoder));
  sl_image *image = NULL;
  ASSERT_OK(sl_image_encode(&image, r.session, r.pixels, NULL, &vision, false));
  ASSERT_OK(sl_session_forward(r.session, &r.layout, image, NULL, 0, NULL, &decoder, false));
  assert_true(check_record(&r, where, test_case, record) >= least_sites);
  const sl_tensor *logits = golden_find(&r.g, test_case, "logits");
  int n_logits = 0;
  for (int i = 0; logits && i < sl_record_count(record); i++) {
    if (strcmp(sl_record_at(record, i)->name, "hook_logits") != 0) continue;
    check(where, "hook_logits", sl_record_at(record, i)->data, logits, TOLERANCE);
    n_logits++;
  }
  if (n_logits != (logits != NULL)) fail_msg("%s: logits compared %d times", where, n_logits);
  sl_record_free(record);
  sl_image_free(image);
  finish(&r);
}

static void every_site_matches(void **state) {
  (void)state;
  for (size_t f = 0; f < sizeof folders / sizeof *folders; f++)
    for (size_t m = 0; m < sizeof machines / sizeof *machines; m++) {
      run_case(folders[f], (int)m, "c0", 60);
      run_case(folders[f], (int)m, "c1", 6);
    }
}

/* The scores of the last three queries only, as stored. */
static void scores_match(void **state) {
  (void)state;
  for (size_t f = 0; f < sizeof folders / sizeof *folders; f++) {
    run r = start(folders[f], 1, "c0");
    sl_record *record = NULL;
    sl_probe probe;
    ASSERT_OK(sl_record_new(&record, r.model, NULL, &r.layout, "blocks.*.attn.hook_attn_scores@-3--1"));
    ASSERT_OK(sl_record_probe(record, r.session, SL_PART_DECODER, &probe));
    sl_image *image = NULL;
    ASSERT_OK(sl_image_encode(&image, r.session, r.pixels, NULL, NULL, false));
    ASSERT_OK(sl_session_forward(r.session, &r.layout, image, NULL, 0, NULL, &probe, false));
    assert_int_equal(sl_record_count(record), sl_model_get_shape(r.model)->decoder.n_layer);
    for (int i = 0; i < sl_record_count(record); i++) {
      const sl_tensor *got = sl_record_at(record, i), *want = golden_find(&r.g, "c0", got->name);
      const int64_t n_head = want->shape[0], n_key = want->shape[2];
      const float *expected = want->data, *value = got->data;
      for (int64_t h = 0; h < n_head; h++)
        for (int64_t q = 0; q < 3; q++)
          for (int64_t k = 0; k < n_key; k++) {
            const size_t at = (size_t)((h * 3 + q) * n_key + k);
            if (k > n_key - 3 + q)
              assert_true(isinf(value[at]) && value[at] < 0);
            else if (!(fabs((double)value[at] - (double)expected[at]) <= 2e-3))
              fail_msg("%s %s head %d query %d key %d: %g, expected %g", folders[f], got->name, (int)h, (int)q, (int)k,
                       (double)value[at], (double)expected[at]);
          }
    }
    sl_record_free(record);
    sl_image_free(image);
    finish(&r);
  }
}

static void greedy_matches(void **state) {
  (void)state;
  static const char *const cases[] = {"c0", "c1", "c2", "c3"};
  for (size_t f = 0; f < sizeof folders / sizeof *folders; f++)
    for (size_t m = 0; m < sizeof machines / sizeof *machines; m++)
      for (size_t c = 0; c < 4; c++) {
        run r = start(folders[f], (int)m, cases[c]);
        check_inputs(&r, folders[f], cases[c]);
        sl_image *image = NULL;
        ASSERT_OK(sl_image_encode(&image, r.session, r.pixels, NULL, NULL, false));
        ASSERT_OK(sl_session_greedy(r.session, &r.layout, image, 8, NULL, NULL));
        const sl_tensor *want = golden_find(&r.g, cases[c], "greedy");
        assert_int_equal(r.layout.n_token - r.layout.n_prompt, 8);
        if (memcmp(want->data, r.layout.ids + r.layout.n_prompt, 8 * sizeof(int32_t)) != 0)
          fail_msg("%s %s %s: greedy tokens differ", folders[f], machines[m].backend, cases[c]);
        sl_image_free(image);
        finish(&r);
      }
}

/* ---- gradients ---- */

typedef struct gradient_sink {
  const golden *g;
  double tolerance;
  const char *where;
  const char *test_case;
  int first_image, n_image, n_seen;
  bool vision;
  int vision_layer;
} gradient_sink;

static bool wants_ln2(void *user, sl_part part, sl_site site, int layer, bool backward) {
  const gradient_sink *sink = user;
  return backward && site == SL_SITE_LN2 &&
         (part == SL_PART_DECODER || (part == SL_PART_VISION && layer == sink->vision_layer));
}

static void see_ln2(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                    sl_mat grad) {
  (void)site;
  (void)value;
  gradient_sink *sink = user;
  const bool vision = part == SL_PART_VISION;
  const sl_tensor *want = golden_find(sink->g, sink->test_case, vision ? "cam/sum/vision/grad" : "cam/sum/ln2/grad");
  const int n = (int)want->shape[vision ? 0 : 1], width = (int)want->shape[vision ? 1 : 2];
  const float *expected = (const float *)want->data + (vision ? 0 : (size_t)layer * (size_t)n * (size_t)width);
  const int first = vision ? 1 : sink->first_image;
  float *got = calloc((size_t)n * (size_t)width, sizeof *got);
  for (int i = 0; i < n; i++) {
    const int row = first + i - first_row; /* an earlier row has no gradient */
    if (row >= 0)
      sl_buffer_read(queue, got + (size_t)i * (size_t)width, grad.buffer,
                     (size_t)(grad.offset + row * grad.stride) * sizeof(float), (size_t)width * sizeof(float));
  }
  const sl_tensor slice = {.data = expected, .dtype = SL_F32, .n_dim = 2, .shape = {n, width}};
  char name[64];
  sl_site_name(name, part, SL_SITE_LN2, layer);
  check(sink->where, name, got, &slice, sink->tolerance);
  free(got);
  sink->n_seen++;
}

/* Backward from the sum of the answer's logits, kept whole and recomputed block by block. */
static void gradients_match(void **state) {
  (void)state;
  for (size_t f = 0; f < sizeof folders / sizeof *folders; f++)
    for (size_t m = 0; m < sizeof machines / sizeof *machines; m++)
      for (int recompute = 0; recompute < 2; recompute++) {
        run r = start(folders[f], (int)m, "c0");
        const sl_model_shape *shape = sl_model_get_shape(r.model);
        const int32_t *answer = golden_find(&r.g, "c0", "greedy")->data;
        ASSERT_OK(sl_layout_append(&r.layout, r.model, answer, 3));
        sl_image *image = NULL;
        ASSERT_OK(sl_image_encode(&image, r.session, r.pixels, NULL, NULL, true));
        if (recompute) sl_session_set_keep_limit(r.session, 0);
        ASSERT_OK(sl_session_forward(r.session, &r.layout, image, NULL, 0, NULL, NULL, true));
        const int rows[3] = {r.layout.n_prompt - 1, r.layout.n_prompt, r.layout.n_prompt + 1};
        float *d_logits = calloc((size_t)shape->n_vocab * 3, sizeof *d_logits);
        for (int i = 0; i < 3; i++) d_logits[i * shape->n_vocab + answer[i]] = 1;
        char where[160];
        snprintf(where, sizeof where, "%s %s/%s", folders[f], machines[m].backend, machines[m].compute);
        const bool split = strcmp(machines[m].compute, "bf16x2") == 0;
        gradient_sink sink = {.g = &r.g, .test_case = "c0", .where = where,
                              .tolerance = split ? TOLERANCE_GRADIENT_BF16X2 : TOLERANCE, .first_image = r.layout.first_image, .n_image = r.layout.n_image,
                              .vision_layer = shape->vision.n_layer - 1};
        const sl_probe probe = {.user = &sink, .wants = wants_ln2, .see = see_ln2};
        for (int again = 0; again < 2; again++) /* the kept activations survive a backward pass */
          ASSERT_OK(sl_session_backward(r.session, rows, 3, d_logits, &probe, true));
        assert_int_equal(sink.n_seen, 2 * (shape->decoder.n_layer + 1));
        free(d_logits);
        sl_image_free(image);
        finish(&r);
      }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_site_matches),
      cmocka_unit_test(scores_match),
      cmocka_unit_test(greedy_matches),
      cmocka_unit_test(gradients_match),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
