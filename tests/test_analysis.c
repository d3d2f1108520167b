/* flow, cam and trace against the golden numbers, and every trap of the methods: shifted target rows, a last layer
 * without a map, zero maps, noise averaged before the division. */
#include "golden.h"

#include <sys/stat.h>
#include <unistd.h>

#include "analysis/cam_map.h"
#include "analysis/flow.h"
#include "analysis/shared.h"
#include "base/rng.h"
#include "sightline/sightline.h"
#include "stats/spread.h"
#include "task/answer.h"
#include "task/picture.h"

#define TOLERANCE 1e-4

static const char *const folders[] = {"llava-gqa", "llava-mha", "llava-orig-pad"};
#define N_FOLDER 3

/* One golden case: its pixels, its prompt, and its first `n_answer` greedy tokens forced. */
typedef struct fixture {
  golden g;
  const char *name;
  sl_model *model;
  sl_session *session;
  sl_layout layout;
  sl_image *image;
  sl_answer answer;
  sl_cancel *cancel;
  sl_shared shared;
  sl_analysis_context context;
} fixture;

static fixture *set_up(const char *folder, const char *name, int n_answer) {
  fixture *f = calloc(1, sizeof *f);
  f->g = golden_open(folder);
  f->name = name;
  const sl_model_options options = {.size = sizeof options, .backend = "cpu", .compute = "f32", .n_thread = 1};
  ASSERT_OK(sl_model_open(&f->model, f->g.dir, &options));
  ASSERT_OK(sl_session_new(&f->session, f->model, 1));
  ASSERT_OK(sl_cancel_new(&f->cancel));
  ASSERT_OK(sl_layout_build(&f->layout, f->model, NULL, golden_string(&f->g, name, "prompt"), true));
  const float *pixels = golden_find(&f->g, name, "pixels")->data;
  ASSERT_OK(sl_image_encode(&f->image, f->session, pixels, NULL, NULL, false));
  const sl_answer_request request = {.max_token = n_answer};
  ASSERT_OK(sl_answer_make(&f->answer, f->session, f->model, f->image, &f->layout, &request));
  assert_int_equal(f->answer.n_token, n_answer);
  f->context = (sl_analysis_context){.model = f->model, .session = f->session, .pixels = pixels, .image = f->image,
                                     .layout = &f->layout, .answer = f->answer.tokens, .n_answer = n_answer, .seed = 7,
                                     .info = sl_analysis_find("cam"), .said = json_object(), .warnings = json_array(),
                                     .cancel = f->cancel, .shared = &f->shared};
  return f;
}

static void tear_down(fixture *f) {
  sl_shared_dispose(&f->shared);
  json_decref(f->context.said);
  json_decref(f->context.warnings);
  sl_answer_dispose(&f->answer);
  sl_image_free(f->image);
  sl_layout_dispose(&f->layout);
  sl_session_free(f->session);
  sl_cancel_free(f->cancel);
  sl_model_close(f->model);
  golden_close(&f->g);
  free(f);
}

static sl_cam make_cam(fixture *f, const sl_cam_options *options) {
  sl_cam cam;
  sl_cam_options one = *options;
  one.n_picture = 1;
  ASSERT_OK(sl_cam_init(&cam, &f->context, &one));
  ASSERT_OK(sl_cam_add(&cam, NULL));
  sl_cam_finish(&cam);
  return cam;
}

/* `got` against an array of the golden file. */
static void expect(const fixture *f, const char *array, const float *got) {
  const sl_tensor *want = golden_find(&f->g, f->name, array);
  if (!want) fail_msg("%s: no golden array %s/%s", f->g.dir, f->name, array);
  const double distance = golden_distance(got, want);
  if (!(distance <= TOLERANCE))
    fail_msg("%s %s/%s: off by %.3g of its largest value", f->g.dir, f->name, array, distance);
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

/* ---- whole analyses, through a run directory ---- */

static char *temporary_dir(void) {
  static char path[64];
  snprintf(path, sizeof path, "/tmp/sl_test_analysis_XXXXXX");
  assert_non_null(mkdtemp(path));
  return path;
}

static void remove_dir(const char *path) {
  char command[256];
  snprintf(command, sizeof command, "rm -rf '%s'", path);
  assert_int_equal(system(command), 0);
}

/* Runs one analysis of the fixture into a run directory and opens that; flow with a memory limit if that is not 0. */
static sl_run_reader *run_limited(fixture *f, const char *name, const char *dir, const sl_option_value *options, int n,
                                  int64_t pattern_bytes) {
  char path[128];
  snprintf(path, sizeof path, "%s/run", dir);
  f->context.info = sl_analysis_find(name);
  f->context.options = options;
  f->context.n_option = n;
  ASSERT_OK(sl_run_new(&f->context.run, path, true));
  json_object_set_new(sl_run_json(f->context.run), "sightline", json_string("test"));
  for (int i = 0; sl_analyses[i]; i++) {
    if (&sl_analyses[i]->info != f->context.info) continue;
    ASSERT_OK(pattern_bytes ? sl_flow_run(&f->context, pattern_bytes) : sl_analyses[i]->run(&f->context));
  }
  ASSERT_OK(sl_run_commit(f->context.run));
  sl_run_free(f->context.run);
  f->context.run = NULL;
  sl_run_reader *reader = NULL;
  ASSERT_OK(sl_run_open(&reader, path));
  return reader;
}

static sl_run_reader *run_into(fixture *f, const char *name, const char *dir, const sl_option_value *options, int n) {
  return run_limited(f, name, dir, options, n, 0);
}

static const float *result(const sl_run_reader *reader, const char *name) {
  const sl_tensor *tensor = NULL;
  ASSERT_OK(sl_run_get(reader, name, &tensor));
  return tensor->data;
}

/* Shares of a golden case; where the class token is kept, the golden counts it as image, we as structure. */
static void flow_matches(void **state) {
  (void)state;
  for (int k = 0; k < N_FOLDER; k++) {
    for (int c = 0; c < 2; c++) {
      fixture *f = set_up(folders[k], c ? "c1" : "c0", 3);
      char *dir = temporary_dir();
      sl_run_reader *reader = run_into(f, "flow", dir, NULL, 0);
      const sl_tensor *want = golden_find(&f->g, f->name, "flow/share");
      const int64_t n_row = sl_tensor_count(want) / 5;
      float *share = malloc((size_t)n_row * 5 * sizeof *share);
      memcpy(share, result(reader, "flow.share"), (size_t)n_row * 5 * sizeof *share);
      for (int64_t r = 0; r < n_row; r++) {
        share[r * 5 + SL_CLASS_IMAGE] += share[r * 5 + SL_CLASS_STRUCTURE];
        if (sl_model_get_shape(f->model)->keeps_cls) assert_true(share[r * 5 + SL_CLASS_STRUCTURE] > 0);
        share[r * 5 + SL_CLASS_STRUCTURE] = 0;
      }
      expect(f, "flow/share", share);
      free(share);
      sl_run_close(reader);
      remove_dir(dir);
      tear_down(f);
    }
  }
}

/* Image rows, heads, entropy and sinks follow from the golden pattern of the prompt's last row. */
static void flow_details_follow_from_the_pattern(void **state) {
  (void)state;
  fixture *f = set_up("llava-mha", "c0", 3);
  char *dir = temporary_dir();
  sl_run_reader *reader = run_into(f, "flow", dir, (sl_option_value[]){{"sinks", "2"}}, 1);
  const int P = f->layout.n_prompt, N = f->layout.n_image, first = f->layout.first_image;
  const int L = sl_model_get_shape(f->model)->decoder.n_layer, H = sl_model_get_shape(f->model)->decoder.n_head;
  const float *image = result(reader, "flow.image"), *heads = result(reader, "flow.image_heads");
  const float *share_heads = result(reader, "flow.share_heads"), *entropy = result(reader, "flow.entropy");
  const int32_t *sinks = (const int32_t *)(const void *)result(reader, "flow.sinks");
  for (int l = 0; l < L; l++) {
    char name[64];
    sl_site_name(name, SL_PART_DECODER, SL_SITE_PATTERN, l);
    const float *pattern = golden_find(&f->g, "c0", name)->data; /* [H, P, P] */
    double entropy_sum = 0, patches = 0, best = 0;
    int best_key = -1;
    for (int j = 0; j < P; j++) {
      double mean = 0;
      for (int h = 0; h < H; h++) {
        const double a = (double)pattern[((int64_t)h * P + P - 1) * P + j];
        mean += a / H;
        if (j >= first && j < first + N) assert_true(fabs(a - (double)heads[(l * H + h) * N + j - first]) < 1e-5);
      }
      if (j >= first && j < first + N) assert_true(fabs(mean - (double)image[(int64_t)l * 3 * N + j - first]) < 1e-5);
      if (j > first && j < first + N) patches += mean; /* the class token comes first and shows no patch */
      if ((j < first || j >= first + N) && j < P - 1 && mean > best) best = mean, best_key = j;
    }
    for (int j = first + 1; j < first + N; j++) {
      double mean = 0;
      for (int h = 0; h < H; h++) mean += (double)pattern[((int64_t)h * P + P - 1) * P + j] / H;
      if (mean > 0) entropy_sum -= mean / patches * log(mean / patches);
    }
    assert_true(fabs(entropy_sum - (double)entropy[l * 3]) < 1e-4);
    assert_int_equal(sinks[l * 2], best_key);
    for (int h = 0; h < H; h++) {
      double sum = 0;
      for (int k = 0; k < 5; k++) sum += (double)share_heads[((l * H + h) * 3 + 1) * 5 + k];
      assert_true(fabs(sum - 1) < 1e-5);
    }
  }
  sl_run_close(reader);
  remove_dir(dir);
  tear_down(f);
}

/* One row per pass, or two, gives what one pass gives: the memory limit changes nothing. */
static void flow_passes_agree(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 5);
  static const char *const names[] = {"flow.share", "flow.share_heads", "flow.image", "flow.entropy",
                                      "flow.sink_share"};
  char *dir = temporary_dir();
  void *whole[5];
  const int64_t row_bytes = (int64_t)sl_model_get_shape(f->model)->decoder.n_head * f->layout.n_token * 4;
  for (int rows = 5; rows > 0; rows -= rows == 5 ? 3 : 1) {
    sl_shared_dispose(&f->shared);
    sl_run_reader *reader = run_limited(f, "flow", dir, NULL, 0, rows == 1 ? 1 : rows * row_bytes);
    for (int i = 0; i < 5; i++) {
      const sl_tensor *tensor = sl_run_find(reader, names[i]);
      const size_t n_bytes = (size_t)sl_tensor_count(tensor) * sizeof(float);
      if (rows == 5) {
        whole[i] = malloc(n_bytes);
        memcpy(whole[i], tensor->data, n_bytes);
      }
      assert_memory_equal(whole[i], tensor->data, n_bytes);
    }
    sl_run_close(reader);
  }
  for (int i = 0; i < 5; i++) free(whole[i]);
  remove_dir(dir);
  tear_down(f);
}

static void flow_renormalises(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 3);
  char *dir = temporary_dir();
  sl_run_reader *reader = run_into(f, "flow", dir, (sl_option_value[]){{"renormalise", "true"}}, 1);
  const float *share = result(reader, "flow.share"), *want = golden_find(&f->g, "c0", "flow/share")->data;
  for (int r = 0; r < 3 * sl_model_get_shape(f->model)->decoder.n_layer; r++) {
    const double rest = 1 - (double)want[r * 5 + SL_CLASS_GENERATED];
    assert_true(share[r * 5 + SL_CLASS_GENERATED] == 0);
    for (int c = 0; c < SL_CLASS_GENERATED; c++)
      assert_true(fabs((double)share[r * 5 + c] - (double)want[r * 5 + c] / rest) < 1e-5);
  }
  sl_run_close(reader);
  remove_dir(dir);
  tear_down(f);
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

/* ---- small parts ---- */

/* Every target's gradient against central differences of its value. */
static void target_gradients(void **state) {
  (void)state;
  enum { V = 6 };
  float z[V] = {0.3f, -1.2f, 2.5f, 0.1f, 1.9f, -0.4f}, d[V], unused[V];
  for (int target = 0; target < SL_TARGET_COUNT; target++) {
    const int32_t rival = target == SL_TARGET_MARGIN || target == SL_TARGET_CONTRAST ? 2 : -1;
    sl_target_gradient((sl_target)target, z, V, 4, rival, d);
    for (int v = 0; v < V; v++) {
      const float kept = z[v], step = 0.0078125f;
      z[v] = kept + step;
      const double up = sl_target_gradient((sl_target)target, z, V, 4, rival, unused);
      z[v] = kept - step;
      const double down = sl_target_gradient((sl_target)target, z, V, 4, rival, unused);
      z[v] = kept;
      assert_true(fabs((up - down) / (2 * (double)step) - (double)d[v]) < 1e-4);
    }
  }
  /* values */
  assert_true(fabs(sl_target_gradient(SL_TARGET_LOGIT, z, V, 4, -1, d) - 1.9) < 1e-6);
  assert_true(fabs(sl_target_gradient(SL_TARGET_MARGIN, z, V, 4, 2, d) - (1.9 - 2.5)) < 1e-6);
  const double p = exp(sl_target_gradient(SL_TARGET_LOGPROB, z, V, 4, -1, d));
  assert_true(fabs(sl_target_gradient(SL_TARGET_LOGODDS, z, V, 4, -1, d) - log(p / (1 - p))) < 1e-6);
}

static void runner_up_of_a_forced_token(void **state) {
  (void)state;
  const float z[] = {1, 5, 3, 5, -2, 0, 2};
  sl_answer_token token;
  sl_answer_token_fill(&token, 1, z, 7);
  assert_int_equal(token.n_top, SL_N_TOP);
  const int32_t order[] = {1, 3, 2, 6, 0};
  for (int i = 0; i < SL_N_TOP; i++) assert_int_equal(token.top[i].id, order[i]);
  assert_int_equal(sl_target_rival(SL_TARGET_MARGIN, &token, -1), 3);
  sl_answer_token_fill(&token, 4, z, 7); /* not the most likely: the rival is the best one */
  assert_int_equal(sl_target_rival(SL_TARGET_MARGIN, &token, -1), 1);
  double sum = 0;
  for (int v = 0; v < 7; v++) sum += exp((double)z[v]);
  assert_true(fabs((double)token.prob - exp(-2) / sum) < 1e-7);
  sl_answer_token_fill(&token, 0, z, 2);
  assert_int_equal(token.n_top, 2);
}

static void contrast_is_one_token(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 1);
  const sl_tokenizer *tokenizer = sl_model_get_tokenizer(f->model);
  const int spaced = sl_tokenizer_find(tokenizer, "\xe2\x96\x81the"), bare = sl_tokenizer_find(tokenizer, "re");
  int32_t id = -1;
  assert_true(spaced >= 0 && bare >= 0);
  ASSERT_OK(sl_target_contrast_id(f->model, "the", spaced, &id));
  assert_int_equal(id, spaced);
  ASSERT_OK(sl_target_contrast_id(f->model, "re", bare, &id));
  assert_int_equal(id, bare);
  /* Both forms of "i" are tokens: the one that begins like the answer counts. */
  ASSERT_OK(sl_target_contrast_id(f->model, "i", spaced, &id));
  assert_int_equal(id, sl_tokenizer_find(tokenizer, "\xe2\x96\x81i"));
  ASSERT_OK(sl_target_contrast_id(f->model, "i", bare, &id));
  assert_int_equal(id, sl_tokenizer_find(tokenizer, "i"));
  assert_int_equal(sl_target_contrast_id(f->model, "elephant seal", spaced, &id), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "expected one"));
  assert_int_equal(sl_target_contrast_id(f->model, "", spaced, &id), SL_ERROR_ARGUMENT);
  tear_down(f);
}

static void mask_share_is_exact(void **state) {
  (void)state;
  uint8_t data[16] = {0};
  const sl_grey mask = {.width_px = 4, .height_px = 4, .data = data};
  data[1 * 4 + 1] = 1; /* any value that is not zero */
  data[1 * 4 + 2] = 255;
  assert_true(fabs(sl_mask_share(&mask, (float[]){1, 1, 3, 3}) - 0.5) < 1e-12);
  assert_true(fabs(sl_mask_share(&mask, (float[]){0, 0, 4, 4}) - 2 / 16.0) < 1e-12);
  assert_true(fabs(sl_mask_share(&mask, (float[]){0.5f, 1.5f, 1.5f, 2.5f}) - 0.25) < 1e-12);
  assert_true(fabs(sl_mask_share(&mask, (float[]){-1, 1, 2, 2}) - 1 / 3.0) < 1e-12); /* partly outside: no mask there */
  assert_true(sl_mask_share(&mask, (float[]){2, 2, 2, 2}) == 0);
}

static void makers_run_first(void **state) {
  (void)state;
  int order[] = {1, 0};
  assert_string_equal(sl_analyses[0]->info.name, "flow");
  assert_string_equal(sl_analyses[1]->info.name, "cam");
  sl_analysis_order(order, 2);
  assert_int_equal(order[0], 0);
  int alone[] = {1};
  sl_analysis_order(alone, 1);
  assert_int_equal(alone[0], 1);
}

static void options_are_checked(void **state) {
  (void)state;
  static const char *const names[] = {"ln2", "resid_pre", NULL};
  const sl_option_info real = {.name = "sigma", .type = SL_OPTION_REAL, .min = 0, .max = 1e3};
  const sl_option_info whole = {.name = "smooth", .type = SL_OPTION_INT, .min = 0, .max = 10};
  const sl_option_info choice = {.name = "site", .type = SL_OPTION_CHOICE, .choices = names, .fallback = "ln2"};
  const sl_option_info flag = {.name = "clip", .type = SL_OPTION_FLAG};
  static const char *const good_reals[] = {"0", ".5", "1.", "1e2", "+0.25", "007.5", "1.5e-3", "1000"};
  static const char *const bad_reals[] = {"",   ".",    "-1",   "1,5", "nan",   "inf",
                                          "1e", "0x10", "1001", "1 ",  "1e400", "--1"};
  for (size_t i = 0; i < sizeof good_reals / sizeof *good_reals; i++)
    if (sl_option_check(&real, good_reals[i]) != SL_OK) fail_msg("%s: %s", good_reals[i], sl_error_message());
  for (size_t i = 0; i < sizeof bad_reals / sizeof *bad_reals; i++)
    if (sl_option_check(&real, bad_reals[i]) != SL_ERROR_ARGUMENT) fail_msg("\"%s\" was taken", bad_reals[i]);
  static const struct {
    const char *text;
    double value;
  } values_of[] = {{"0.1", 0.1}, {"-2.5e1", -25}, {".02", 0.02}, {"1e-3", 1e-3}, {"123.456", 123.456}};
  for (size_t i = 0; i < sizeof values_of / sizeof *values_of; i++) {
    const sl_analysis_info one = {.options = &real, .n_option = 1};
    const sl_option_value given = {"sigma", values_of[i].text};
    assert_true(sl_option_real(&one, "sigma", &given, 1) == values_of[i].value);
  }
  ASSERT_OK(sl_option_check(&whole, "10"));
  static const char *const bad_wholes[] = {"", "11", "-1", "1.0", "9999999999999999999999", " 1", "1x"};
  for (size_t i = 0; i < sizeof bad_wholes / sizeof *bad_wholes; i++)
    if (sl_option_check(&whole, bad_wholes[i]) != SL_ERROR_ARGUMENT) fail_msg("\"%s\" was taken", bad_wholes[i]);
  ASSERT_OK(sl_option_check(&choice, "resid-pre"));
  assert_int_equal(sl_option_check(&choice, "ln3"), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "ln2, resid_pre"));
  assert_int_equal(sl_option_check(&flag, "yes"), SL_ERROR_ARGUMENT);
  /* The last value counts, in the table's spelling. */
  const sl_analysis_info info = {.options = &choice, .n_option = 1};
  const sl_option_value values[] = {{"site", "ln2"}, {"site", "resid-pre"}};
  assert_string_equal(sl_option_text(&info, "site", values, 2), "resid_pre");
  assert_string_equal(sl_option_text(&info, "site", values, 0), "ln2");
}

/* ---- the task ---- */

typedef struct stop {
  const char *at;    /* stage that is interrupted, NULL = none */
  int n_flow;        /* how often flow told its progress */
  sl_cancel *cancel; /* requested by the first line of the log */
} stop;

static void stop_at_log(void *user, const char *message) {
  (void)message;
  sl_cancel_request(((stop *)user)->cancel);
}

static bool stop_at(void *user, const char *what, double done, double total) {
  stop *s = user;
  (void)done, (void)total;
  s->n_flow += strcmp(what, "flow") == 0;
  return !s->at || strcmp(what, s->at) != 0;
}

static sl_trace_request request_for(const fixture *f, const char *picture, const char *out) {
  static const char *const both[] = {"cam", "flow"};
  return (sl_trace_request){.size = sizeof(sl_trace_request), .image_path = picture,
                            .question = golden_string(&f->g, f->name, "prompt"), .raw_prompt = true, .max_token = 3,
                            .out_dir = out, .no_report = true, .analyses = both, .n_analysis = 2};
}

/* From the picture file to the run directory: the golden maps, tokens and answer. */
static void trace_from_file(void **state) {
  (void)state;
  for (int k = 0; k < N_FOLDER; k++) {
    fixture *f = set_up(folders[k], "c0", 3);
    char *dir = temporary_dir(), out[128], picture[640], *summary = NULL;
    snprintf(out, sizeof out, "%s/run", dir);
    snprintf(picture, sizeof picture, "%s/%s", f->g.dir, golden_string(&f->g, "c0", "picture"));
    sl_trace_request request = request_for(f, picture, out);
    request.record = "blocks.*.hook_resid_post@-4";
    request.logits = true;
    ASSERT_OK(sl_trace_run(f->model, &request, &summary));
    sl_run_reader *reader = NULL;
    ASSERT_OK(sl_run_open(&reader, out));
    expect(f, "cam/sum/ln2", result(reader, "cam.heat"));
    json_t *root = sl_run_root(reader);
    const json_t *tokens = json_object_get(root, "tokens");
    const sl_tensor *greedy = golden_find(&f->g, "c0", "greedy");
    assert_int_equal(json_array_size(tokens), f->layout.n_token);
    for (int a = 0; a < 3; a++) {
      const json_t *token = json_array_get(tokens, (size_t)(f->layout.n_prompt + a));
      assert_int_equal(json_integer_value(json_object_get(token, "id")), ((const int32_t *)greedy->data)[a]);
      const json_t *best = json_array_get(json_object_get(token, "top"), 0);
      assert_int_equal(json_integer_value(json_object_get(best, "id")), ((const int32_t *)greedy->data)[a]);
      assert_int_equal(json_integer_value(json_array_get(json_object_get(root, "queries"), (size_t)a)),
                       f->layout.n_prompt + a - 1);
    }
    assert_true(json_object_get(json_object_get(root, "analyses"), "flow") != NULL);
    assert_non_null(sl_run_find(reader, "cam.flow_correlation")); /* flow ran first, though asked last */
    assert_non_null(sl_run_find(reader, "site/blocks.0.hook_resid_post"));
    /* The last row of the prompt, recorded and with its logits. */
    const sl_tensor *logits = sl_run_find(reader, "logits.all"), *want = golden_find(&f->g, "c0", "logits");
    const int64_t V = want->shape[1];
    const sl_tensor row = {
        .data = (const float *)want->data + (f->layout.n_prompt - 1) * V, .dtype = SL_F32, .n_dim = 1, .shape = {V}};
    assert_true(golden_distance((const float *)logits->data + (f->layout.n_prompt - 1) * V, &row) <= TOLERANCE);
    free(summary);
    sl_run_close(reader);
    remove_dir(dir);
    tear_down(f);
  }
}

/* Interrupted in cam: the answer and flow are kept, and the reader is told. */
static void interrupted_run_keeps_what_is_complete(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 3);
  char *dir = temporary_dir(), out[128], picture[640], *summary = NULL;
  snprintf(out, sizeof out, "%s/run", dir);
  snprintf(picture, sizeof picture, "%s/a.png", f->g.dir);
  stop s = {.at = "cam"};
  sl_trace_request request = request_for(f, picture, out);
  request.progress = stop_at;
  request.user = &s;
  assert_int_equal(sl_trace_run(f->model, &request, &summary), SL_ERROR_CANCELLED);
  assert_non_null(summary);
  sl_run_reader *reader = NULL;
  ASSERT_OK(sl_run_open(&reader, out));
  assert_non_null(sl_run_find(reader, "flow.share"));
  assert_null(sl_run_find(reader, "cam.heat"));
  assert_null(sl_json_at(sl_run_root(reader), "analyses.cam"));
  assert_true(json_is_true(json_object_get(sl_run_root(reader), "cancelled")));
  assert_int_equal(json_array_size(json_object_get(sl_run_root(reader), "warnings")), 1);
  sl_run_close(reader);
  free(summary);
  /* A pass stops between two layers, not at its end. */
  s = (stop){.at = "flow"};
  request.force = true;
  assert_int_equal(sl_trace_run(f->model, &request, &summary), SL_ERROR_CANCELLED);
  assert_true(s.n_flow <= 2);
  free(summary);
  /* Before the answer there is nothing to keep. */
  s.at = "picture";
  assert_int_equal(sl_trace_run(f->model, &request, &summary), SL_ERROR_CANCELLED);
  assert_null(summary);
  ASSERT_OK(sl_run_open(&reader, out)); /* the old one is as it was */
  sl_run_close(reader);
  remove_dir(dir);
  tear_down(f);
}

/* The model ends at once, and the interruption comes before the row of that end was read: there is no answer to keep. */
static void interrupted_empty_answer_leaves_nothing(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 1);
  char *dir = temporary_dir(), out[128], picture[640], *summary = NULL;
  snprintf(out, sizeof out, "%s/run", dir);
  snprintf(picture, sizeof picture, "%s/a.png", f->g.dir);
  ((sl_model_shape *)sl_model_get_shape(f->model))->eos_id = f->answer.tokens[0].id;
  stop s = {.cancel = f->cancel};
  sl_trace_request request = request_for(f, picture, out);
  ASSERT_OK(sl_trace_run(f->model, &request, &summary)); /* uninterrupted: the end itself is analysed */
  assert_non_null(strstr(summary, "\"answer\": \"\""));
  free(summary);
  remove_dir(out);
  request.log = stop_at_log;
  request.user = &s;
  request.cancel = f->cancel;
  assert_int_equal(sl_trace_run(f->model, &request, &summary), SL_ERROR_CANCELLED);
  assert_null(summary);
  assert_int_equal(access(out, F_OK), -1);
  remove_dir(dir);
  tear_down(f);
}

/* The request's number of threads is what run.json tells, else the model's. */
static void threads_are_told(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 1);
  char picture[640], *summary = NULL;
  snprintf(picture, sizeof picture, "%s/a.png", f->g.dir);
  sl_trace_request request = request_for(f, picture, NULL);
  request.n_analysis = 0;
  for (int n = 0; n < 3; n += 2) {
    request.n_thread = n;
    ASSERT_OK(sl_trace_run(f->model, &request, &summary));
    json_t *root = json_loads(summary, 0, NULL);
    assert_int_equal(json_integer_value(sl_json_at(root, "compute.threads")), n ? n : 1);
    json_decref(root);
    free(summary);
  }
  tear_down(f);
}

static void requests_are_checked_before_work(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 1);
  char *dir = temporary_dir(), out[128], picture[640], mask[640];
  snprintf(out, sizeof out, "%s/run", dir);
  snprintf(picture, sizeof picture, "%s/a.png", f->g.dir);
  snprintf(mask, sizeof mask, "%s/b.png", f->g.dir);
  const sl_trace_request good = request_for(f, picture, out);
  ASSERT_OK(sl_trace_check(&good));
  assert_int_equal(access(out, F_OK), -1); /* checking leaves nothing */
  sl_trace_request r = good;
  r.mask_path = mask;
  assert_int_equal(sl_trace_check(&r), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "97 x 41"));
  assert_non_null(strstr(sl_error_message(), "50 x 50"));
  r = good, r.question = " \n";
  assert_int_equal(sl_trace_check(&r), SL_ERROR_ARGUMENT);
  r = good, r.question = "caf\xe9 <image>";
  assert_int_equal(sl_trace_check(&r), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "byte 3"));
  r = good, r.image_path = "/nowhere/cat.png";
  assert_int_equal(sl_trace_check(&r), SL_ERROR_FILE);
  r = good, r.image_path = dir;
  assert_int_equal(sl_trace_check(&r), SL_ERROR_FILE);
  r = good, r.options = &(sl_option_value){"smoothe", "1"}, r.n_option = 1;
  assert_int_equal(sl_trace_check(&r), SL_ERROR_ARGUMENT);
  r = good, r.out_dir = NULL, r.logits = true;
  assert_int_equal(sl_trace_check(&r), SL_ERROR_ARGUMENT);
  r = good, r.out_dir = "/proc/nothing/here";
  assert_int_equal(sl_trace_check(&r), SL_ERROR_FILE);
  r = good, r.size = 8;
  assert_int_equal(sl_trace_check(&r), SL_ERROR_ARGUMENT);
  /* What only the model can tell, but no analysis has to run for. */
  char *summary = NULL;
  stop s = {0};
  r = good, r.progress = stop_at, r.user = &s, r.options = (sl_option_value[]){{"contrast", "elephant seal"}},
  r.n_option = 1;
  assert_int_equal(sl_trace_run(f->model, &r, &summary), SL_ERROR_ARGUMENT);
  r.answer = "the", r.options = (sl_option_value[]){{"contrast", "the"}}, r.n_option = 1;
  assert_int_equal(sl_trace_run(f->model, &r, &summary), SL_ERROR_ARGUMENT);
  r.answer = NULL, r.options = (sl_option_value[]){{"contrast", "re"}, {"target", "logprob"}}, r.n_option = 2;
  assert_int_equal(sl_trace_run(f->model, &r, &summary), SL_ERROR_ARGUMENT);
  r.n_option = 0, r.record = "blocks.0.hook_resid_pots@-1";
  assert_int_equal(sl_trace_run(f->model, &r, &summary), SL_ERROR_ARGUMENT);
  r.record = "blocks.0.hook_resid_post@5000";
  assert_int_equal(sl_trace_run(f->model, &r, &summary), SL_ERROR_ARGUMENT);
  assert_int_equal(s.n_flow, 0);
  assert_int_equal(access(out, F_OK), -1);
  remove_dir(dir);
  tear_down(f);
}

/* Whatever allocation fails, the run says so, leaves nothing, and can be repeated. */
static void no_memory_is_an_error(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 1);
  char *dir = temporary_dir(), out[128], picture[640], *summary = NULL;
  snprintf(out, sizeof out, "%s/run", dir);
  snprintf(picture, sizeof picture, "%s/a.png", f->g.dir);
  sl_trace_request request = request_for(f, picture, out);
  request.mask_path = picture;
  request.record = "blocks.0.hook_resid_post";
  request.force = true;
  /* A swallowed failure must not look like the end: only many whole runs in a row do. */
  int n_whole = 0, n_failed = 0;
  for (long n = 1; n_whole < 40; n++) {
    sl_alloc_fail_at(n);
    const sl_status status = sl_trace_run(f->model, &request, &summary);
    sl_alloc_fail_at(0);
    if (status != SL_OK && status != SL_ERROR_MEMORY) fail_msg("allocation %ld: %s", n, sl_error_message());
    assert_true((summary != NULL) == (status == SL_OK));
    assert_int_equal(access(out, F_OK), status == SL_OK ? 0 : -1);
    if (status == SL_OK) remove_dir(out);
    n_whole = status == SL_OK ? n_whole + 1 : 0;
    n_failed += status != SL_OK;
    free(summary);
  }
  assert_true(n_failed > 300);
  remove_dir(dir);
  tear_down(f);
}

static void forced_answer_equals_greedy(void **state) {
  (void)state;
  fixture *f = set_up("llava-gqa", "c0", 3);
  sl_layout layout = {0};
  sl_answer forced = {0};
  ASSERT_OK(sl_layout_build(&layout, f->model, NULL, golden_string(&f->g, "c0", "prompt"), true));
  ASSERT_OK(
      sl_answer_make(&forced, f->session, f->model, f->image, &layout, &(sl_answer_request){.forced = "the picture"}));
  assert_true(forced.forced && forced.n_token >= 1);
  assert_int_equal(forced.n_token, layout.n_token - layout.n_prompt);
  assert_string_equal(forced.text, "the picture");
  /* The first token is predicted by the same row as the greedy one: the same rivals. */
  for (int i = 0; i < SL_N_TOP; i++) assert_int_equal(forced.tokens[0].top[i].id, f->answer.tokens[0].top[i].id);
  sl_answer_dispose(&forced);
  sl_layout_dispose(&layout);
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
      cmocka_unit_test(flow_matches),
      cmocka_unit_test(flow_details_follow_from_the_pattern),
      cmocka_unit_test(flow_passes_agree),
      cmocka_unit_test(flow_renormalises),
      cmocka_unit_test(last_layer_is_reported_undefined),
      cmocka_unit_test(zero_maps_are_guarded),
      cmocka_unit_test(threshold_and_cliff),
      cmocka_unit_test(noise_depends_on_the_seed),
      cmocka_unit_test(noise_has_the_asked_deviation),
      cmocka_unit_test(target_gradients),
      cmocka_unit_test(runner_up_of_a_forced_token),
      cmocka_unit_test(contrast_is_one_token),
      cmocka_unit_test(mask_share_is_exact),
      cmocka_unit_test(makers_run_first),
      cmocka_unit_test(options_are_checked),
      cmocka_unit_test(trace_from_file),
      cmocka_unit_test(interrupted_run_keeps_what_is_complete),
      cmocka_unit_test(interrupted_empty_answer_leaves_nothing),
      cmocka_unit_test(threads_are_told),
      cmocka_unit_test(requests_are_checked_before_work),
      cmocka_unit_test(no_memory_is_an_error),
      cmocka_unit_test(forced_answer_equals_greedy),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
