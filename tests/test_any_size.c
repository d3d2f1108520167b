/* Models whose views are as large as their pictures (Qwen2-VL, Qwen2.5-VL), beside what test_families and test_boxes
 * hold against transformers: rotary positions, the order of patches, windows at any size, baselines that are turned to
 * positions, prefixes of pictures of other shape, the largest picture, and configs that contradict themselves. */
#include "family_run.h"
#include "folder.h"

#include "model/branch.h"
#include "model/internal.h"

static const struct {
  const char *folder;
  int sections[3];
  double theta;
} models[] = {{"qwen2-vl", {1, 1, 2}, 500}, {"qwen2.5-vl", {2, 1, 1}, 700}};
#define N_MODEL (int)(sizeof models / sizeof *models)

/* ---- positions and patches against transformers ---- */

static void check_positions(const family_run *r) {
  const sl_tensor *want = golden_find(&r->g, r->test_case, "rope");
  const int n = r->layout.n_prompt;
  assert_int_equal(want->shape[0], 3);
  assert_int_equal(want->shape[1], n);
  for (int a = 0; a < 3; a++)
    for (int t = 0; t < n; t++)
      if (sl_position_at(&r->layout.frame, t, a) != ((const int32_t *)want->data)[a * n + t])
        fail_msg("%s %s: row %d stands at %d on axis %d, expected %d", r->where, r->test_case, t,
                 sl_position_at(&r->layout.frame, t, a), a, ((const int32_t *)want->data)[a * n + t]);
}

static void rows_stand_where_they_should(void **state) {
  (void)state;
  for (int m = 0; m < N_MODEL; m++) {
    family_run r;
    family_open(&r, models[m].folder, REF);
    for (int i = 0; i < 6; i++) {
      family_start_case(&r, i);
      check_positions(&r);
      /* The answer goes on from there. */
      family_append_answer(&r, 2);
      const int n = r.layout.n_prompt;
      for (int a = 0; a < 3; a++)
        assert_int_equal(sl_position_at(&r.layout.frame, n + 1, a), sl_position_at(&r.layout.frame, n - 1, 0) + 2);
    }
    family_start_case(&r, 0);
    const sl_tensor *order = golden_find(&r.g, "c0", "patch_order");
    assert_int_equal(sl_tensor_count(order), r.pack.n_view_row);
    assert_memory_equal(order->data, r.pack.patch, (size_t)r.pack.n_view_row * sizeof *r.pack.patch);
    family_close(&r);
  }
}

/* ---- windows ---- */

/* The pack of a picture of this size when the processor may keep all of its px. */
static void make_pack(family_run *r, int width_px, int height_px) {
  sl_preprocess preprocess = *sl_model_get_preprocess(r->model);
  preprocess.max_px = 12845056;
  family_end_case(r);
  ASSERT_OK(sl_views_plan(&r->views, &preprocess, width_px, height_px));
  ASSERT_OK(sl_pack_make(&r->pack, r->model, &r->views, NULL));
}

/* Rows that see each other are exactly those whose cells lie in the same 2 x 2 cells. */
static void check_windows(const sl_pack *p) {
  const int n = p->n_view_row, cols = p->cell_cols;
  int *window = calloc((size_t)n, sizeof *window), n_window = 0, n_change = 0;
  bool *seen = calloc((size_t)n, sizeof *seen);
  for (int i = 0; i < n; i++) {
    const int row = p->patch[i] / p->patch_cols / 4, col = p->patch[i] % p->patch_cols / 4;
    assert_false(seen[p->patch[i]]);
    seen[p->patch[i]] = true;
    window[i] = row * ((cols + 1) / 2) + col;
  }
  for (int i = 0; i < n; i++) {
    n_change += i > 0 && window[i] != window[i - 1];
    if (window[i] + 1 > n_window) n_window = window[i] + 1;
    assert_in_range(i, p->first_key[i], p->last_key[i]);
    assert_int_equal(window[p->first_key[i]], window[i]);
    assert_int_equal(window[p->last_key[i]], window[i]);
    assert_true(p->first_key[i] == 0 || window[p->first_key[i] - 1] != window[i]);
    assert_true(p->last_key[i] == n - 1 || window[p->last_key[i] + 1] != window[i]);
  }
  assert_int_equal(n_change, n_window - 1); /* each is one run of rows */
  free(window);
  free(seen);
}

static void windows_are_cut_at_the_edges(void **state) {
  (void)state;
  static const int sizes[][2] = {{16, 16}, {24, 16}, {16, 40}, {56, 72}, {8, 256}, {333, 222}};
  family_run r;
  family_open(&r, "qwen2.5-vl", REF);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    make_pack(&r, sizes[i][0], sizes[i][1]);
    check_windows(&r.pack);
  }
  family_close(&r);
  family_open(&r, "qwen2-vl", REF);
  make_pack(&r, 56, 72);
  assert_null(r.pack.first_key);
  family_close(&r);
}

/* 12,845,056 px, the most that released processors keep. With this model's patches of 4 px they are 200,704 tokens. */
static void largest_picture(void **state) {
  (void)state;
  family_run r;
  family_open(&r, "qwen2.5-vl", REF);
  make_pack(&r, 3584, 3584);
  assert_int_equal(r.pack.n, 448 * 448);
  assert_int_equal(r.pack.n_view_row, 4 * 448 * 448);
  assert_int_equal(sl_image_encode(&r.image, r.session, NULL, &r.pack, NULL, false), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "200704 image tokens; the model was made for 512"));
  float(*box)[4] = malloc((size_t)r.pack.n * sizeof *box);
  int32_t *view = malloc((size_t)r.pack.n * sizeof *view);
  sl_pack_boxes(&r.pack, box, view);
  assert_float_equal(box[r.pack.n - 1][2], 3584, 1e-3);
  assert_float_equal(box[r.pack.n - 1][1], 3576, 1e-3);
  free(box);
  free(view);
  assert_int_equal(sl_layout_build(&r.layout, r.model, &r.pack, "What is this?", false), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "the model was made for 512"));
  family_close(&r);
}

/* A pack for another question has arrays of its own. */
static void packs_are_copied_whole(void **state) {
  (void)state;
  family_run r;
  sl_pack copy = {0};
  family_open(&r, "qwen2.5-vl", REF);
  family_start_case(&r, 0);
  ASSERT_OK(sl_pack_for_question(&copy, r.model, &r.pack, "What else?"));
  const size_t n = (size_t)r.pack.n_view_row * sizeof *copy.patch;
  assert_ptr_not_equal(copy.patch, r.pack.patch);
  assert_memory_equal(copy.patch, r.pack.patch, n);
  assert_memory_equal(copy.first_key, r.pack.first_key, n);
  assert_memory_equal(copy.last_key, r.pack.last_key, n);
  assert_memory_equal(copy.source, r.pack.source, (size_t)r.pack.n * sizeof *copy.source);
  sl_pack_dispose(&copy);
  family_close(&r);
}

/* ---- baselines ---- */

/* Keys [n, Hkv d] turned by the positions of the golden, forward or back. */
static void turn(const family_run *r, int model, const sl_tensor *rope, float *keys, int n, int n_head, int d,
                 int sign) {
  const int n_prompt = (int)rope->shape[1];
  for (int i = 0; i < n; i++)
    for (int h = 0; h < n_head; h++)
      for (int k = 0, axis = 0, end = models[model].sections[0]; k < d / 2; k++) {
        while (k >= end) end += models[model].sections[++axis];
        const int32_t position = ((const int32_t *)rope->data)[axis * n_prompt + r->layout.first_image + i];
        const double angle = sign * position / pow(models[model].theta, 2.0 * k / d);
        float *a = keys + (i * n_head + h) * d + k, *b = a + d / 2;
        const double x = (double)*a, y = (double)*b;
        *a = (float)(x * cos(angle) - y * sin(angle));
        *b = (float)(y * cos(angle) + x * sin(angle));
      }
}

static void check_mean(family_run *r, int model, const sl_baseline *own, const sl_baseline *mean) {
  const sl_part_shape *s = &sl_model_get_shape(r->model)->decoder;
  const int n = r->pack.n, width = s->n_head_kv * s->d_head;
  const size_t size = (size_t)n * (size_t)width;
  float *want = malloc(size * sizeof *want), *got = malloc(size * sizeof *got), *v = malloc(size * sizeof *v);
  const sl_tensor *rope = golden_find(&r->g, r->test_case, "rope");
  for (int il = 0; il < s->n_layer; il++) {
    sl_baseline_read(r->session, own, il, want, v);
    sl_baseline_read(r->session, mean, il, got, v);
    turn(r, model, rope, want, n, s->n_head_kv, s->d_head, -1);
    for (int k = 0; k < width; k++) {
      double sum = 0;
      for (int i = 0; i < n; i++) sum += (double)want[i * width + k];
      for (int i = 0; i < n; i++) want[i * width + k] = (float)(sum / n);
    }
    turn(r, model, rope, want, n, s->n_head_kv, s->d_head, 1);
    for (size_t i = 0; i < size; i++) assert_float_equal(got[i], want[i], 2e-5);
  }
  free(want);
  free(got);
  free(v);
}

static void means_are_turned_to_their_cells(void **state) {
  (void)state;
  for (int m = 0; m < N_MODEL; m++) {
    family_run r;
    sl_prefix *prefix = NULL;
    sl_calibration *calibration = NULL;
    sl_baseline *mean = NULL, *own = NULL;
    family_open(&r, models[m].folder, REF);
    family_start_case(&r, 0);
    family_encode(&r, NULL, false);
    ASSERT_OK(sl_prefix_new(&prefix, r.session, &r.layout, r.image, false, NULL));
    ASSERT_OK(sl_baseline_picture(&own, r.session, prefix));
    ASSERT_OK(sl_calibration_new(&calibration, r.session));
    ASSERT_OK(sl_calibration_add(calibration, prefix));
    ASSERT_OK(sl_calibration_finish(&mean, calibration, true));
    check_mean(&r, m, own, mean);
    sl_baseline_free(own);
    sl_baseline_free(mean);
    sl_calibration_free(calibration);
    sl_prefix_free(prefix);
    family_close(&r);
  }
}

/* ---- pictures of another shape ---- */

/* A grey picture of this size as the run's case. */
static void start_grey(family_run *r, int width_px, int height_px) {
  const size_t n = (size_t)width_px * (size_t)height_px * 3;
  sl_rgb image = {width_px, height_px, malloc(n)};
  memset(image.data, 90, n);
  family_end_case(r);
  ASSERT_OK(sl_views_make(&r->views, sl_model_get_preprocess(r->model), &image));
  ASSERT_OK(sl_pack_make(&r->pack, r->model, &r->views, NULL));
  ASSERT_OK(sl_layout_build(&r->layout, r->model, &r->pack, "What is this?", false));
  sl_rgb_dispose(&image);
  family_encode(r, NULL, false);
}

/* 2 x 4 cells and 4 x 2 cells are the same tokens at other positions. */
static void shapes_do_not_serve_each_other(void **state) {
  (void)state;
  family_run r;
  sl_prefix *wide = NULL, *tall = NULL;
  sl_trunk *trunk = NULL;
  sl_calibration *calibration = NULL;
  family_open(&r, "qwen2-vl", REF);
  start_grey(&r, 32, 16);
  assert_int_equal(r.pack.n, 8);
  ASSERT_OK(sl_prefix_new(&wide, r.session, &r.layout, r.image, false, NULL));
  assert_true(sl_prefix_serves(wide, &r.layout));
  start_grey(&r, 16, 32);
  assert_int_equal(r.pack.n, 8);
  assert_false(sl_prefix_serves(wide, &r.layout));
  assert_int_equal(sl_trunk_new(&trunk, r.session, wide, &r.layout, NULL), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "4 x 2 cells"));
  ASSERT_OK(sl_prefix_new(&tall, r.session, &r.layout, r.image, false, NULL));
  ASSERT_OK(sl_calibration_new(&calibration, r.session));
  ASSERT_OK(sl_calibration_add(calibration, wide));
  assert_int_equal(sl_calibration_add(calibration, tall), SL_ERROR_ARGUMENT);
  sl_calibration_free(calibration);
  sl_prefix_free(tall);
  sl_prefix_free(wide);
  family_close(&r);
}

/* ---- configs ---- */

static const struct {
  const char *golden, *file, *path, *value, *says;
} bad[] = {
    {"qwen2-vl", "config.json", "rope_scaling.mrope_section", "[1, 1, 1]", "mrope_section has 3 pairs"},
    {"qwen2-vl", "config.json", "rope_scaling.mrope_section", "[4]", "expected three numbers"},
    {"qwen2-vl", "config.json", "rope_scaling.mrope_section", "[-1, 3, 2]", "a head's pairs"},
    {"qwen2-vl", "config.json", "rope_scaling.mrope_section", NULL, "expected numbers of a head's pairs"},
    {"qwen2-vl", "config.json", "rope_scaling.type", "\"yarn\"", "yarn"},
    {"qwen2-vl", "config.json", "use_sliding_window", "true", "use_sliding_window"},
    {"qwen2-vl", "config.json", "vision_config.num_heads", "8", "multiple of 4"},
    {"qwen2-vl", "config.json", "vision_config.temporal_patch_size", "1", "config.json makes it [16, 3, 1, 4, 4]"},
    {"qwen2-vl", "preprocessor_config.json", "patch_size", "8", "patches of 4 px"},
    {"qwen2-vl", "preprocessor_config.json", "merge_size", "1", "cells of 2 x 2"},
    {"qwen2-vl", "config.json", "vision_config.rope_parameters", "{\"rope_theta\": -1}", "rope_theta is -1"},
    {"qwen2.5-vl", "config.json", "vision_config.window_size", "7", "smaller than a cell of 8 px"},
    {"qwen2.5-vl", "config.json", "vision_config.fullatt_block_indexes", "[1, \"2\"]", "fullatt_block_indexes"},
    {"qwen2.5-vl", "config.json", "vision_config.fullatt_block_indexes", "[4096]", "fullatt_block_indexes"},
};

static void contradictions_are_refused(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    folder f = folder_copy(bad[i].golden);
    sl_model *model = NULL;
    folder_set_json(&f, bad[i].file, bad[i].path, bad[i].value);
    assert_int_not_equal(sl_model_open(&model, f.dir, NULL), SL_OK);
    if (!strstr(sl_error_message(), bad[i].says))
      fail_msg("row %zu: \"%s\" lacks \"%s\"", i, sl_error_message(), bad[i].says);
    folder_remove(&f);
  }
}

/* What the hub's files leave out: 2.5's whole layers are then 7, 15, 23 and 31. */
static void defaults_hold(void **state) {
  (void)state;
  folder f = folder_copy("qwen2.5-vl");
  sl_model *model = NULL;
  folder_set_json(&f, "config.json", "vision_config.fullatt_block_indexes", NULL);
  ASSERT_OK(sl_model_open(&model, f.dir, NULL));
  assert_int_equal(model->config.vision.sees_all[0],
                   UINT64_C(1) << 7 | UINT64_C(1) << 15 | UINT64_C(1) << 23 | UINT64_C(1) << 31);
  assert_false(model->tower.sees_all[1]);
  assert_float_equal(model->config.vision.rope_theta, 1e4, 0);
  sl_model_close(model);
  folder_set_json(&f, "config.json", "vision_config.rope_parameters",
                  "{\"rope_type\": \"axial\", \"rope_theta\": 50.0}");
  ASSERT_OK(sl_model_open(&model, f.dir, NULL));
  assert_float_equal(model->config.vision.rope_theta, 50, 0);
  sl_model_close(model);
  folder_remove(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_stand_where_they_should), cmocka_unit_test(windows_are_cut_at_the_edges),
      cmocka_unit_test(largest_picture),              cmocka_unit_test(means_are_turned_to_their_cells),
      cmocka_unit_test(shapes_do_not_serve_each_other), cmocka_unit_test(packs_are_copied_whole),
      cmocka_unit_test(contradictions_are_refused),
      cmocka_unit_test(defaults_hold),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
