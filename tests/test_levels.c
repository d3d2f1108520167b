/* A projector that takes several layers of the tower side by side (`vision_feature_layer` as a list), against
 * transformers: what goes into the projector and comes out, logits, greedy tokens, and the gradient at every block of
 * the tower, to which each of those layers adds. */
#include "golden.h"

#include "model/record.h"
#include "model/session.h"

#define FOLDER "llava-levels"
#define N_ANSWER 3

static const struct {
  const char *backend, *compute;
  double tolerance, tolerance_gradient;
} machines[] = {{"ref", "f32", 1e-4, 1e-4}, {"cpu", "f32", 1e-4, 1e-4}, {"cpu", "bf16x2", 1e-4, 1e-3}};

typedef struct run {
  golden g;
  sl_model *model;
  sl_session *session;
  sl_layout layout;
  float *pixels;
} run;

static run start(int machine) {
  run r = {.g = golden_open(FOLDER)};
  const sl_model_options options = {.size = sizeof options, .backend = machines[machine].backend,
                                    .compute = machines[machine].compute, .n_thread = 2};
  ASSERT_OK(sl_model_open(&r.model, r.g.dir, &options));
  ASSERT_OK(sl_session_new(&r.session, r.model, 2));
  ASSERT_OK(sl_layout_build(&r.layout, r.model, NULL, golden_string(&r.g, "c0", "prompt"), true));
  char path[700];
  snprintf(path, sizeof path, "%s/%s", r.g.dir, golden_string(&r.g, "c0", "picture"));
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

static void check(int machine, const char *what, const float *got, const sl_tensor *want, double tolerance) {
  const double distance = golden_distance(got, want);
  if (!(distance <= tolerance))
    fail_msg("%s/%s: %s is off by %.3g of its largest value", machines[machine].backend, machines[machine].compute, what,
             distance);
}

static void layers_lie_side_by_side(void **state) {
  (void)state;
  for (int m = 0; m < (int)(sizeof machines / sizeof *machines); m++) {
    run r = start(m);
    sl_record *record = NULL;
    sl_probe vision;
    sl_image *image = NULL;
    ASSERT_OK(sl_record_new(&record, r.model, NULL, &r.layout, "projector.hook_in,projector.hook_out"));
    ASSERT_OK(sl_record_probe(record, r.session, SL_PART_VISION, &vision));
    ASSERT_OK(sl_image_encode(&image, r.session, r.pixels, NULL, &vision, false));
    assert_int_equal(sl_record_count(record), 2);
    for (int i = 0; i < 2; i++) {
      const sl_tensor *got = sl_record_at(record, i), *want = golden_find(&r.g, "c0", got->name);
      assert_int_equal(sl_tensor_count(got), sl_tensor_count(want));
      check(m, got->name, got->data, want, machines[m].tolerance);
    }
    const sl_tensor *want = golden_find(&r.g, "c0", "logits"), *ids = golden_find(&r.g, "c0", "greedy");
    const int last = r.layout.n_prompt - 1;
    float *logits = calloc((size_t)sl_tensor_count(want), sizeof *logits);
    ASSERT_OK(sl_session_forward(r.session, &r.layout, image, &last, 1, logits, NULL, false));
    check(m, "logits", logits, want, machines[m].tolerance);
    ASSERT_OK(sl_session_greedy(r.session, &r.layout, image, (int)ids->shape[0], NULL, NULL));
    assert_memory_equal(r.layout.ids + last + 1, ids->data, (size_t)ids->shape[0] * sizeof(int32_t));
    free(logits);
    sl_record_free(record);
    sl_image_free(image);
    finish(&r);
  }
}

typedef struct sink {
  const sl_tensor *want; /* [blocks, rows, width] */
  int machine, n_seen;
} sink;

static bool wants(void *user, sl_part part, sl_site site, int layer, bool backward) {
  (void)user, (void)layer;
  return backward && part == SL_PART_VISION && site == SL_SITE_RESID_PRE;
}

static void see(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                sl_mat grad) {
  (void)part, (void)site, (void)first_row, (void)value;
  sink *s = user;
  const size_t n = (size_t)grad.rows * (size_t)grad.cols;
  assert_int_equal(n, s->want->shape[1] * s->want->shape[2]);
  float *got = calloc(n, sizeof *got);
  for (int i = 0; i < grad.rows; i++)
    sl_buffer_read(queue, got + (size_t)i * (size_t)grad.cols, grad.buffer,
                   (size_t)(grad.offset + i * grad.stride) * sizeof(float), (size_t)grad.cols * sizeof(float));
  const sl_tensor slice = {.data = (const float *)s->want->data + (size_t)layer * n, .dtype = SL_F32, .n_dim = 2,
                           .shape = {grad.rows, grad.cols}};
  check(s->machine, "gradient", got, &slice, machines[s->machine].tolerance_gradient);
  free(got);
  s->n_seen++;
}

static void every_layer_adds_to_the_gradient(void **state) {
  (void)state;
  for (int m = 0; m < (int)(sizeof machines / sizeof *machines); m++)
    for (int recompute = 0; recompute < 2; recompute++) {
      run r = start(m);
      const int n_vocab = sl_model_get_shape(r.model)->n_vocab;
      const int32_t *answer = golden_find(&r.g, "c0", "greedy")->data;
      sl_image *image = NULL;
      if (recompute) sl_session_set_keep_limit(r.session, 0);
      ASSERT_OK(sl_layout_append(&r.layout, r.model, answer, N_ANSWER));
      ASSERT_OK(sl_image_encode(&image, r.session, r.pixels, NULL, NULL, true));
      ASSERT_OK(sl_session_forward(r.session, &r.layout, image, NULL, 0, NULL, NULL, true));
      float *d_logits = calloc((size_t)n_vocab * N_ANSWER, sizeof *d_logits);
      int rows[N_ANSWER];
      for (int i = 0; i < N_ANSWER; i++) {
        rows[i] = r.layout.n_prompt - 1 + i;
        d_logits[i * n_vocab + answer[i]] = 1;
      }
      sink s = {.want = golden_find(&r.g, "c0", "grad"), .machine = m};
      const sl_probe probe = {.user = &s, .wants = wants, .see = see};
      for (int again = 0; again < 2; again++)
        ASSERT_OK(sl_session_backward(r.session, rows, N_ANSWER, d_logits, &probe, true));
      assert_int_equal(s.n_seen, 2 * s.want->shape[0]);
      free(d_logits);
      sl_image_free(image);
      finish(&r);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(layers_lie_side_by_side),
      cmocka_unit_test(every_layer_adds_to_the_gradient),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
