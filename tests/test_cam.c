/* cam against the golden numbers, and every trap of the methods: shifted target rows, a last layer without a map, zero
 * maps, noise averaged before the division. */
#include "analysis_fixture.h"

#include "analysis/cam_map.h"
#include "base/rng.h"
#include "stats/spread.h"

static sl_cam make_cam(fixture *f, const sl_cam_options *options) {
  sl_cam cam;
  sl_cam_options one = *options;
  one.n_picture = 1;
  ASSERT_OK(sl_cam_init(&cam, &f->context, &one));
  ASSERT_OK(sl_cam_add(&cam, NULL));
  sl_cam_finish(&cam);
  return cam;
}

/* Map `m` of every layer, [L, width], out of [L, A, width]. */
static float *map_of(const sl_cam *cam, const float *values, int m, int width) {
  float *out = malloc((size_t)cam->n_layer * (size_t)width * sizeof *out);
  for (int l = 0; l < cam->n_layer; l++)
    memcpy(out + (size_t)l * (size_t)width, values + ((size_t)l * (size_t)cam->n_map + (size_t)m) * (size_t)width,
           (size_t)width * sizeof *out);
  return out;
}

static void expect_map(const fixture *f, const sl_cam *cam, int m, const char *array) {
  char alpha[96];
  float *heat = map_of(cam, cam->heat, m, cam->n_image);
  expect(f, array, heat);
  free(heat);
  snprintf(alpha, sizeof alpha, "%s/alpha", array);
  if (!cam->alpha) return;
  float *weights = map_of(cam, cam->alpha, m, cam->n_channel);
  expect(f, alpha, weights);
  free(weights);
}

static const struct {
  const char *name;
  sl_site site;
  bool last_defined;
} sites[] = {{"ln2", SL_SITE_LN2, false}, {"ln1", SL_SITE_LN1, true}, {"resid_pre", SL_SITE_RESID_PRE, true},
             {"v", SL_SITE_V, true}};

/* Sum and every token, at every site: a target row shifted by one would give another map for each of them. */
static void cam_matches_at_every_site(void **state) {
  (void)state;
  for (int k = 0; k < N_FOLDER; k++) {
    for (int c = 0; c < 2; c++) {
      fixture *f = set_up(folders[k], c ? "c1" : "c0", 3);
      for (size_t s = 0; s < sizeof sites / sizeof *sites; s++) {
        sl_cam cam = make_cam(f, &(sl_cam_options){.site = sites[s].site, .per_token = true, .alpha = true});
        static const char *const maps[] = {"sum", "tok0", "tok1", "tok2"};
        for (int m = 0; m < 4; m++) {
          char array[96];
          snprintf(array, sizeof array, "cam/%s/%s", maps[m], sites[s].name);
          expect_map(f, &cam, m, array);
        }
        for (int l = 0; l < cam.n_layer; l++)
          assert_int_equal(cam.defined[l], l + 1 < cam.n_layer || sites[s].last_defined);
        sl_cam_dispose(&cam);
      }
      tear_down(f);
    }
  }
}

/* The target's value is read from the row before the token, so it is the golden logit there. */
static void target_rows_are_right(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 3);
  const sl_tensor *logits = golden_find(&f->g, "c0", "greedy.logits"), *ids = golden_find(&f->g, "c0", "greedy");
  sl_cam cam = make_cam(f, &(sl_cam_options){.site = SL_SITE_LN2, .per_token = true});
  double sum = 0;
  for (int a = 0; a < 3; a++) {
    const int32_t id = ((const int32_t *)ids->data)[a];
    const double z = (double)((const float *)logits->data)[a * logits->shape[1] + id];
    assert_int_equal(f->answer.tokens[a].id, id);
    assert_true(fabs(cam.value[1 + a] - z) < 1e-3);
    sum += z;
  }
  assert_true(fabs(cam.value[0] - sum) < 1e-3);
  sl_cam_dispose(&cam);
  tear_down(f);
}

static void other_targets_match(void **state) {
  (void)state;
  for (int k = 0; k < N_FOLDER; k++) {
    fixture *f = set_up(folders[k], "c0", 3);
    for (size_t s = 0; s < sizeof sites / sizeof *sites; s++) {
      char array[96];
      sl_cam cam = make_cam(f, &(sl_cam_options){.site = sites[s].site, .target = SL_TARGET_LOGPROB, .alpha = true});
      snprintf(array, sizeof array, "cam/logprob/%s", sites[s].name);
      expect_map(f, &cam, 0, array);
      sl_cam_dispose(&cam);
    }
    sl_cam clip = make_cam(f, &(sl_cam_options){.site = SL_SITE_LN2, .clip = true, .alpha = true});
    expect_map(f, &clip, 0, "cam/sum/ln2-clip");
    sl_cam_dispose(&clip);
    tear_down(f);
  }
}

/* The golden contrast is the first token's, against its runner-up: so is the margin of a one-token answer. */
static void contrast_and_margin_match(void **state) {
  (void)state;
  for (int k = 0; k < N_FOLDER; k++) {
    fixture *f = set_up(folders[k], "c0", 1);
    const int32_t b = (int32_t)json_integer_value(sl_json_at(f->g.facts, "cases.c0.contrast.b"));
    assert_int_equal(sl_target_rival(SL_TARGET_MARGIN, &f->answer.tokens[0], -1), b);
    for (int margin = 0; margin < 2; margin++) {
      sl_cam cam = make_cam(f, &(sl_cam_options){.site = SL_SITE_LN2,
                                                 .target = margin ? SL_TARGET_MARGIN : SL_TARGET_CONTRAST,
                                                 .contrast = margin ? -1 : b,
                                                 .alpha = true});
      expect_map(f, &cam, 0, "cam/contrast/ln2");
      sl_cam_dispose(&cam);
    }
    tear_down(f);
  }
}

static void vision_map_matches(void **state) {
  (void)state;
  for (int k = 0; k < N_FOLDER; k++) {
    fixture *f = set_up(folders[k], "c0", 3);
    sl_cam cam = make_cam(f, &(sl_cam_options){.site = SL_SITE_LN2, .vision = true});
    expect(f, "cam/sum/vision", cam.vision);
    expect_map(f, &cam, 0, "cam/sum/ln2");
    sl_cam_dispose(&cam);
    tear_down(f);
  }
}

/* vision_feature_layer 0: no layer of the tower runs, so a map of one is refused instead of being zero. */
static void vision_map_needs_a_layer(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 1);
  sl_part_shape *vision = &((sl_model_shape *)sl_model_get_shape(f->model))->vision;
  const int n_layer = vision->n_layer;
  f->context.options = &(sl_option_value){"vision", "true"};
  f->context.n_option = 1;
  ASSERT_OK(sl_cam_analysis.check(&f->context));
  vision->n_layer = 0;
  assert_int_equal(sl_cam_analysis.check(&f->context), SL_ERROR_UNSUPPORTED);
  assert_non_null(strstr(sl_error_message(), "vision_feature_layer"));
  vision->n_layer = n_layer;
  tear_down(f);
}

/* Two given noisy pictures: the mean of the raw maps, and only then the division by the maximum. */
static void smooth_averages_raw_maps(void **state) {
  (void)state;
  for (int k = 0; k < N_FOLDER; k++) {
    fixture *f = set_up(folders[k], "c0", 3);
    const sl_tensor *noisy = golden_find(&f->g, "c0", "smooth/pixels");
    const int64_t n_pixel = sl_tensor_count(noisy) / 2;
    sl_cam cam;
    ASSERT_OK(sl_cam_init(&cam, &f->context, &(sl_cam_options){.site = SL_SITE_LN2, .n_picture = 2}));
    for (int j = 0; j < 2; j++) ASSERT_OK(sl_cam_add(&cam, (const float *)noisy->data + j * n_pixel));
    sl_cam_finish(&cam);
    expect(f, "smooth/cam/sum/ln2", cam.heat);
    for (int l = 0; l < cam.n_layer; l++) {
      float *map = cam.heat + (int64_t)l * cam.n_image;
      const float top = map[sl_peak(map, cam.n_image)];
      for (int i = 0; i < cam.n_image && top > 0; i++) map[i] /= top;
    }
    expect(f, "smooth/cam/sum/ln2/norm", cam.heat); /* the last layer's map is zero and stays so */
    sl_cam_dispose(&cam);
    tear_down(f);
  }
}

static void last_layer_is_reported_undefined(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 3);
  char *dir = temporary_dir();
  for (int defined = 0; defined < 2; defined++) {
    sl_run_reader *reader = run_into(f, "cam", dir, (sl_option_value[]){{"site", defined ? "resid-pre" : "ln2"}}, 1);
    const int L = sl_model_get_shape(f->model)->decoder.n_layer, N = f->layout.n_image;
    const uint8_t *flags = (const uint8_t *)result(reader, "cam.defined");
    const float *heat = result(reader, "cam.heat"), *stats = result(reader, "cam.stats");
    assert_int_equal(flags[L - 1], defined);
    double last = 0;
    for (int i = 0; i < N; i++) last += (double)heat[(L - 1) * N + i];
    assert_true(defined ? last > 0 : last == 0);
    assert_true(isnan(stats[(L - 1) * 4]) == !defined);
    assert_int_equal(json_array_size(json_object_get(f->context.said, "undefined")), !defined);
    const char *reason = json_string_value(json_object_get(f->context.said, "reason"));
    assert_true(defined || (reason && strstr(reason, "ln1") && strstr(reason, "resid_pre")));
    json_object_clear(f->context.said);
    sl_run_close(reader);
  }
  remove_dir(dir);
  tear_down(f);
}

/* A target without gradient (here a token's margin over itself) gives zero maps everywhere: they are named, have NaN
 * statistics and no cliff, and nothing is divided by zero. */
static void zero_maps_are_guarded(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 1);
  char *dir = temporary_dir();
  f->answer.tokens[0].top[1].id = f->answer.tokens[0].id;
  const sl_option_value options[] = {{"target", "margin"}, {"threshold", "0.5"}, {"smooth", "2"}};
  sl_run_reader *reader = run_into(f, "cam", dir, options, 3);
  const int L = sl_model_get_shape(f->model)->decoder.n_layer;
  const float *heat = result(reader, "cam.heat"), *stats = result(reader, "cam.stats"),
              *mass = result(reader, "cam.mass");
  for (int i = 0; i < L * f->layout.n_image; i++) assert_true(heat[i] == 0);
  for (int i = 0; i < L * 4; i++) assert_true(isnan(stats[i]));
  for (int l = 0; l < L; l++) assert_true(mass[l] == 0);
  assert_true(json_is_null(json_object_get(f->context.said, "cliff")));
  assert_int_equal(json_array_size(json_object_get(f->context.said, "zero")), L - 1);
  sl_run_close(reader);
  remove_dir(dir);
  tear_down(f);
}

static void threshold_and_cliff(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 3);
  char *dir = temporary_dir();
  const sl_option_value options[] = {{"threshold", "0.5"}, {"cam-cliff", "0.9"}};
  sl_run_reader *reader = run_into(f, "cam", dir, options, 2);
  const float *heat = result(reader, "cam.heat"), *mass = result(reader, "cam.mass");
  const float *want = golden_find(&f->g, "c0", "cam/sum/ln2")->data;
  const int L = sl_model_get_shape(f->model)->decoder.n_layer, N = f->layout.n_image;
  double most = 0, sums[8] = {0};
  for (int l = 0; l < L; l++) {
    const float *map = want + l * N;
    for (int i = 0; i < N; i++) {
      const float limit = 0.5f * map[sl_peak(map, N)];
      assert_true(fabs((double)heat[l * N + i] - (double)(map[i] < limit ? 0 : map[i])) < 1e-4);
      sums[l] += (double)map[i];
    }
    assert_true(fabs(sums[l] - (double)mass[l]) < 1e-3); /* before the threshold */
    most = fmax(most, sums[l]);
  }
  int cliff = -1; /* over the defined layers, which are all but the last */
  for (int l = L - 2; l >= 0 && sums[l] < 0.9 * most; l--) cliff = l;
  const json_t *told = json_object_get(f->context.said, "cliff");
  assert_int_equal(cliff, 1);
  assert_int_equal(json_is_integer(told) ? json_integer_value(told) : -1, cliff);
  sl_run_close(reader);
  /* Layer 1 keeps a tenth: with 2 % there is no cliff, and the undefined last layer does not make one. */
  reader = run_into(f, "cam", dir, NULL, 0);
  assert_true(json_is_null(json_object_get(f->context.said, "cliff")));
  sl_run_close(reader);
  remove_dir(dir);
  tear_down(f);
}

/* The analysis' own noise: sigma 0 is the picture itself, a seed fixes every bit, and another seed gives another map.
 */
static void noise_depends_on_the_seed(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 2);
  char *dir = temporary_dir();
  float *maps[4];
  size_t n_bytes = 0;
  for (int run = 0; run < 4; run++) {
    const sl_option_value options[] = {{"smooth", "2"}, {"sigma", run == 3 ? "0" : "0.1"}};
    f->context.seed = run == 1 ? 8 : 7;
    sl_run_reader *reader = run_into(f, "cam", dir, options, 2);
    n_bytes = (size_t)sl_tensor_count(sl_run_find(reader, "cam.heat")) * sizeof(float);
    maps[run] = malloc(n_bytes);
    memcpy(maps[run], result(reader, "cam.heat"), n_bytes);
    sl_run_close(reader);
  }
  sl_cam plain = make_cam(f, &(sl_cam_options){.site = SL_SITE_LN2});
  assert_memory_equal(maps[0], maps[2], n_bytes);
  assert_true(memcmp(maps[0], maps[1], n_bytes) != 0);
  assert_true(memcmp(maps[0], maps[3], n_bytes) != 0);
  assert_memory_equal(maps[3], plain.heat, n_bytes);
  sl_cam_dispose(&plain);
  for (int run = 0; run < 4; run++) free(maps[run]);
  remove_dir(dir);
  tear_down(f);
}

/* sigma is meant on the picture from 0 to 1; what the tower sees was rescaled by the processor's factor (here twice the
 * usual 1/255, so that it cannot be taken for granted) and divided by each channel's deviation. */
static void noise_has_the_asked_deviation(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 2);
  char *dir = temporary_dir();
  const sl_tensor *pixels = golden_find(&f->g, "c0", "pixels");
  const int64_t n = sl_tensor_count(pixels);
  ((sl_preprocess *)sl_model_get_preprocess(f->model))->rescale_factor = 2.0 / 255.0;
  const double *std = sl_model_get_preprocess(f->model)->std;
  float *noisy = malloc((size_t)n * sizeof *noisy);
  sl_cam cam;
  ASSERT_OK(sl_cam_init(&cam, &f->context, &(sl_cam_options){.site = SL_SITE_LN2, .n_picture = 2}));
  for (uint64_t j = 0; j < 2; j++) {
    for (int64_t i = 0; i < n; i++) {
      const double normal = sl_rng_normal(f->context.seed, ((uint64_t)0x43414d << 32) + j, (uint64_t)i);
      noisy[i] = ((const float *)pixels->data)[i] + (float)(0.25 * 2 / std[i / (n / 3)] * normal);
    }
    ASSERT_OK(sl_cam_add(&cam, noisy));
  }
  sl_cam_finish(&cam);
  sl_run_reader *reader = run_into(f, "cam", dir, (sl_option_value[]){{"smooth", "2"}, {"sigma", "0.25"}}, 2);
  const float *heat = result(reader, "cam.heat");
  for (int i = 0; i < cam.n_layer * cam.n_image; i++)
    assert_true(fabs((double)heat[i] - (double)cam.heat[i]) <= 1e-5 * fabs((double)cam.heat[i]));
  free(noisy);
  sl_cam_dispose(&cam);
  sl_run_close(reader);
  remove_dir(dir);
  tear_down(f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(cam_matches_at_every_site),
      cmocka_unit_test(target_rows_are_right),
      cmocka_unit_test(other_targets_match),
      cmocka_unit_test(contrast_and_margin_match),
      cmocka_unit_test(vision_map_matches),
      cmocka_unit_test(vision_map_needs_a_layer),
      cmocka_unit_test(smooth_averages_raw_maps),
      cmocka_unit_test(last_layer_is_reported_undefined),
      cmocka_unit_test(zero_maps_are_guarded),
      cmocka_unit_test(threshold_and_cliff),
      cmocka_unit_test(noise_depends_on_the_seed),
      cmocka_unit_test(noise_has_the_asked_deviation),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
