/* nn/: towers without class token or with other norms, several views, windows; projectors by their parts and the
 * selection of features. Every gradient against finite differences (nn_lab.h), every forward against its equation in
 * f64. */
#include "nn_lab.h"

typedef enum tower_parts { WITH_CLASS = 1, WITH_PRE = 2, WITH_POST = 4, WITH_BIAS = 8 } tower_parts;

static void fill_tower(lab *l, const sl_block_shape *shape, int parts, int first_row) {
  l->view.first_row = first_row;
  l->scales = true;
  fill_stack(l, shape, 2, 7, true, WHOLE, SL_COMPUTE_F32);
  const int n_class = parts & WITH_CLASS ? 1 : 0;
  l->tower = (sl_tower){.shape = l->shape, .n_layer = 2, .n_class = n_class, .n_patch = 7 - n_class,
                        .blocks = l->blocks, .patch = random_weight(l, 12, 27), .positions = random_mat(l, 7, 12, 0, 1)};
  if (parts & WITH_CLASS) l->tower.class_token = random_mat(l, 1, 12, 0, 1);
  if (parts & WITH_BIAS) l->tower.patch_b = random_mat(l, 1, 12, 0, 1);
  if (parts & WITH_PRE) {
    l->tower.norm_w = random_mat(l, 1, 12, 1, 0.2);
    l->tower.norm_b = random_mat(l, 1, 12, 0, 0.2);
  }
  if (parts & WITH_POST) {
    l->tower.post_w = random_mat(l, 1, 12, 1, 0.2);
    if (shape->norm == SL_NORM_LAYER) l->tower.post_b = random_mat(l, 1, 12, 0, 0.2);
    l->last = keep_mat(l, 12, SL_F32);
  }
  l->patches = random_mat(l, l->tower.n_patch, 27, 0, 1);
}

static void towers(void **state) {
  (void)state;
  static const struct {
    const char *name;
    const sl_block_shape *shape;
    int parts, first_row;
  } kinds[] = {{"EVA tower", &intern_300m, WITH_CLASS | WITH_POST | WITH_BIAS, 0},
               {"SigLIP tower", &intern_300m, WITH_POST | WITH_BIAS, 0},
               {"Qwen-VL tower", &intern_300m, WITH_PRE, 0},
               {"InternViT tower, third view", &intern_6b, WITH_CLASS | WITH_BIAS, 14},
               {"RMS tower with a last norm, second view", &intern_6b, WITH_POST, 7}};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    lab l = lab_open();
    fill_tower(&l, kinds[i].shape, kinds[i].parts, kinds[i].first_row);
    random_sum(&l, 7, 12);
    check_stage(&l, &(stage){kinds[i].name, tower_forward, tower_backward}, 2 * 6, TOLERANCE);
    lab_close(&l);
  }
}

/* Embeddings, the norms' places and what is kept for the last one. */
static void tower_sites(void **state) {
  (void)state;
  for (int parts = 0; parts < 16; parts++) {
    lab l = lab_open();
    fill_tower(&l, &intern_300m, parts, 7);
    random_sum(&l, 7, 12);
    const sl_context plain = context_of(&l, NULL);
    const sl_mat product = random_mat(&l, l.tower.n_patch, 12, 0, 0);
    float expected[7 * 12], positions[7 * 12], out[7 * 12];
    plain.ops->linear(l.queue, product, l.patches, l.tower.patch, l.tower.patch_b, false);
    if (parts & WITH_CLASS) read_mat(&l, l.tower.class_token, expected);
    read_mat(&l, product, expected + 12 * l.tower.n_class);
    read_mat(&l, l.tower.positions, positions);

    capture c = {.l = &l};
    const sl_probe probe = {.user = &c, .wants = wants_all, .see = see_all};
    tower_forward(&l, &probe, true);
    const float *embed = find(&c, SL_SITE_EMBED, 0)->values;
    for (int i = 0; i < 7 * 12; i++) assert_true(embed[i] == expected[i] + positions[i]);
    const float *first = find(&c, SL_SITE_RESID_PRE, 0)->values, *last = find(&c, SL_SITE_RESID_POST, 1)->values;
    read_mat(&l, l.x, out);
    bool pre = false, post = false;
    for (int i = 0; i < c.n; i++) {
      assert_int_equal(c.sites[i].first_row, 7);
      pre = pre || c.sites[i].site == SL_SITE_LN_PRE;
      post = post || c.sites[i].site == SL_SITE_LN_POST;
    }
    assert_int_equal(pre, (parts & WITH_PRE) != 0);
    assert_int_equal(post, (parts & WITH_POST) != 0);
    assert_int_equal(memcmp(embed, first, sizeof out) == 0, !pre);
    assert_int_equal(memcmp(out, last, sizeof out) == 0, !post);
    if (post) {
      float kept[7 * 12];
      read_mat(&l, sl_mat_rows(l.last, 7, 7), kept);
      assert_memory_equal(kept, last, sizeof kept);
      assert_memory_equal(out, find(&c, SL_SITE_LN_POST, 0)->values, sizeof out);
    }
    capture_free(&c);
    lab_close(&l);
  }
}

/* Two views on their own rows: each as if it were alone, and backward from what both kept. */
static void views_are_independent(void **state) {
  (void)state;
  lab l = lab_open();
  fill_tower(&l, &intern_6b, WITH_CLASS | WITH_POST, 7); /* what is kept has room for two views */
  const sl_context c = context_of(&l, NULL);
  const sl_tower_acts acts = {.blocks = l.keep, .last = l.last};
  sl_mat x = random_mat(&l, 14, 12, 0, 1), d = random_mat(&l, 14, 12, 0, 1), alone = random_mat(&l, 7, 12, 0, 1);
  const sl_mat patches[2] = {random_mat(&l, 6, 27, 0, 1), random_mat(&l, 6, 27, 0, 1)};
  float start[14 * 12], out[14 * 12], grad[14 * 12], one[7 * 12];
  read_mat(&l, d, start);
  for (int v = 0; v < 2; v++)
    ASSERT_OK(sl_tower_forward(&c, &l.tower, sl_mat_rows(x, 7 * v, 7), patches[v], &(sl_tower_view){.first_row = 7 * v},
                               &acts, NULL));
  for (int v = 0; v < 2; v++)
    ASSERT_OK(sl_tower_backward(&c, &l.tower, sl_mat_rows(d, 7 * v, 7), &(sl_tower_view){.first_row = 7 * v}, &acts,
                                NULL));
  read_mat(&l, x, out);
  read_mat(&l, d, grad);
  for (int v = 0; v < 2; v++) {
    ASSERT_OK(sl_tower_forward(&c, &l.tower, alone, patches[v], &(sl_tower_view){0}, &acts, NULL));
    read_mat(&l, alone, one);
    assert_memory_equal(one, out + v * 7 * 12, sizeof one);
    write_mat(&l, alone, start + v * 7 * 12);
    ASSERT_OK(sl_tower_backward(&c, &l.tower, alone, &(sl_tower_view){0}, &acts, NULL));
    read_mat(&l, alone, one);
    assert_memory_equal(one, grad + v * 7 * 12, sizeof one);
  }
  assert_memory_not_equal(out, out + 7 * 12, sizeof one);
  lab_close(&l);
}

/* A tower whose second block sees everything: its first block mixes windows only. */
static void windows_of_towers(void **state) {
  (void)state;
  static const int32_t left[7] = {0, 0, 0, 3, 3, 5, 5}, right[7] = {2, 2, 2, 4, 4, 6, 6};
  static const bool sees_all[2] = {false, true};
  lab l = lab_open();
  fill_tower(&l, &intern_6b, WITH_PRE, 7);
  l.tower.sees_all = sees_all;
  l.view.first_key = ints_of(&l, left, 7);
  l.view.last_key = ints_of(&l, right, 7);
  capture c = {.l = &l};
  const sl_probe probe = {.user = &c, .wants = wants_all, .see = see_all, .pattern_rows = numbers(&l, 7)};
  random_sum(&l, 7, 12);
  tower_forward(&l, &probe, false);
  for (int il = 0; il < 2; il++) {
    const float *pattern = find(&c, SL_SITE_PATTERN, il)->values;
    for (int i = 0; i < 3 * 7 * 7; i++)
      assert_int_equal(pattern[i] > 0, il == 1 || (i % 7 >= left[i / 7 % 7] && i % 7 <= right[i / 7 % 7]));
  }
  capture_free(&c);
  check_stage(&l, &(stage){"tower with windows", tower_forward, tower_backward}, 2 * 6, TOLERANCE);
  lab_close(&l);
}

/* ---- projectors ---- */

static void fill_projector(lab *l, bool norm, bool two) {
  l->n_row = 5;
  l->start = random_mat(l, 5, 12, 0, 1);
  l->x = random_mat(l, 5, 12, 0, 1);
  l->d = random_mat(l, 5, 12, 0, 1);
  l->out = random_mat(l, 5, 10, 0, 1);
  l->projector = (sl_projector){.linear_1 = random_weight(l, two ? 14 : 10, 12), .act = SL_ACT_GELU_ERF};
  l->projector.linear_1_b = random_mat(l, 1, two ? 14 : 10, 0, 0.5);
  if (two) {
    l->projector.linear_2 = random_weight(l, 10, 14);
    l->projector.linear_2_b = random_mat(l, 1, 10, 0, 0.5);
    l->pre = random_mat(l, 5, 14, 0, 1);
  }
  if (norm) {
    l->projector.norm_w = random_mat(l, 1, 12, 1, 0.2);
    l->projector.norm_b = random_mat(l, 1, 12, 0, 0.2);
    l->projector.norm_eps = 1e-2f;
  }
  assert_int_equal(sl_projector_kept_cols(&l->projector), two ? 14 : 0);
  random_sum(l, 5, 10);
}

static void projectors(void **state) {
  (void)state;
  static const char *const names[] = {"linear projector", "linear projector with norm", "projector",
                                      "projector with norm", "linear projector with RMS norm"};
  static const int kinds[] = {0, 1, 2, 3, 1};
  for (int number = 0; number < 5; number++) {
    const int kind = kinds[number];
    const bool rms = number == 4;
    lab l = lab_open();
    fill_projector(&l, kind & 1, kind & 2);
    if (rms) l.projector.norm = SL_NORM_RMS;
    if (rms) l.projector.norm_b = (sl_mat){0};
    l.scratch.capacity = sl_projector_scratch(&l.projector, 5);
    check_stage(&l, &(stage){names[number], projector_forward, projector_backward}, 2, TOLERANCE);

    capture c = {.l = &l};
    const sl_probe probe = {.user = &c, .wants = wants_all, .see = see_all};
    projector_forward(&l, &probe, false);
    assert_int_equal(c.n, 2 + (kind & 1 ? 1 : 0) + (kind & 2 ? 2 : 0));
    if (kind & 1) {
      float w[12], b[12] = {0};
      const float *x = find(&c, SL_SITE_PROJECTOR_IN, 0)->values, *y = find(&c, SL_SITE_PROJECTOR_LN, 0)->values;
      read_mat(&l, l.projector.norm_w, w);
      if (!rms) read_mat(&l, l.projector.norm_b, b);
      for (int t = 0; t < 5; t++) {
        double mean = 0, square = 0;
        for (int i = 0; i < 12 && !rms; i++) mean += (double)x[t * 12 + i] / 12;
        for (int i = 0; i < 12; i++) square += ((double)x[t * 12 + i] - mean) * ((double)x[t * 12 + i] - mean) / 12;
        for (int i = 0; i < 12; i++)
          assert_near("normed feature", (double)y[t * 12 + i],
                      ((double)x[t * 12 + i] - mean) / sqrt(square + 1e-2) * (double)w[i] + (double)b[i], 2e-6);
      }
    }
    capture_free(&c);
    lab_close(&l);
  }
}

/* A class token and a grid of 4 x 4, two values each, 10 r + c in row r, column c: 2 x 2 cells side by side as torch's
 * view and permute of InternVL's pixel_shuffle (v2) lay them. */
static void selections(void **state) {
  (void)state;
  lab l = lab_open();
  const sl_context c = context_of(&l, NULL);
  float features[17][2], out[4][8], back[17][2];
  int32_t lists[4][4];
  for (int i = 0; i < 17; i++) features[i][0] = i == 0 ? -7 : (float)(10 * ((i - 1) / 4) + (i - 1) % 4);
  for (int i = 0; i < 17; i++) features[i][1] = -features[i][0];
  for (int j = 0; j < 4; j++)
    for (int cell = 0; cell < 4; cell++)
      lists[j][cell] = 1 + (cell / 2 * 2 + j / 2) * 4 + cell % 2 * 2 + j % 2;
  const sl_mat x = random_mat(&l, 17, 2, 0, 1), y = random_mat(&l, 4, 8, 0, 1), d = random_mat(&l, 17, 2, 0, 1);
  write_mat(&l, x, &features[0][0]);
  sl_select_forward(&c, y, x, ints_of(&l, &lists[0][0], 16), 4);
  read_mat(&l, y, &out[0][0]);
  static const float cells[4][4] = {{0, 1, 10, 11}, {2, 3, 12, 13}, {20, 21, 30, 31}, {22, 23, 32, 33}};
  for (int cell = 0; cell < 4; cell++)
    for (int j = 0; j < 4; j++) {
      assert_true(out[cell][2 * j] == cells[cell][j]);
      assert_true(out[cell][2 * j + 1] == -cells[cell][j]);
    }
  sl_select_backward(&c, d, y, ints_of(&l, &lists[0][0], 16), 4); /* a permutation: it brings every row home */
  read_mat(&l, d, &back[0][0]);
  assert_true(back[0][0] == 0 && back[0][1] == 0);
  assert_memory_equal(back[1], features[1], 16 * sizeof features[0]);

  const int32_t some[3] = {5, 2, 16}; /* m = 1: rows left out have no gradient */
  const sl_mat few = random_mat(&l, 3, 2, 0, 1);
  sl_select_forward(&c, few, x, ints_of(&l, some, 3), 1);
  sl_select_backward(&c, d, few, ints_of(&l, some, 3), 1);
  read_mat(&l, d, &back[0][0]);
  for (int i = 0; i < 17; i++) {
    const bool listed = i == 5 || i == 2 || i == 16;
    assert_true(back[i][0] == (listed ? features[i][0] : 0) && back[i][1] == (listed ? features[i][1] : 0));
  }
  lab_close(&l);
}

/* The same grid: cells of 2 x 2 averaged, the class token in none of them. The way back is the transpose: half of the
 * squared mean's gradient is checked against finite differences of its sum. */
static void pooling(void **state) {
  (void)state;
  lab l = lab_open();
  l.scratch.capacity = sl_scratch_need(4, 2);
  const sl_context c = context_of(&l, NULL);
  float features[17][2], out[4][2], back[17][2];
  int32_t lists[4][4];
  for (int j = 0; j < 4; j++)
    for (int cell = 0; cell < 4; cell++)
      lists[j][cell] = 1 + (cell / 2 * 2 + j / 2) * 4 + cell % 2 * 2 + j % 2;
  const sl_mat x = random_mat(&l, 17, 2, 0, 1), y = random_mat(&l, 4, 2, 0, 1), d = random_mat(&l, 17, 2, 5, 1);
  const sl_ints all = ints_of(&l, &lists[0][0], 16);
  read_mat(&l, x, &features[0][0]);
  sl_pool_forward(&c, y, x, all, 4);
  sl_pool_backward(&c, d, y, all, 4);
  read_mat(&l, y, &out[0][0]);
  read_mat(&l, d, &back[0][0]);
  for (int cell = 0; cell < 4; cell++)
    for (int i = 0; i < 2; i++) {
      double sum = 0;
      for (int j = 0; j < 4; j++) sum += (double)features[lists[j][cell]][i];
      assert_near("mean of a cell", (double)out[cell][i], sum / 4, 1e-6);
    }
  for (int row = 0; row < 17; row++)
    for (int i = 0; i < 2; i++) {
      double ends[2];
      for (int side = 0; side < 2; side++) {
        float moved[17][2], means[4][2];
        memcpy(moved, features, sizeof moved);
        moved[row][i] += side ? 0.125f : -0.125f;
        write_mat(&l, x, &moved[0][0]);
        sl_pool_forward(&c, y, x, all, 4);
        read_mat(&l, y, &means[0][0]);
        ends[side] = 0;
        for (int k = 0; k < 8; k++) ends[side] += 0.5 * pow((double)means[k / 2][k % 2], 2);
      }
      assert_near("gradient of a mean", (double)back[row][i], (ends[1] - ends[0]) / 0.25, 2e-6);
    }
  lab_close(&l);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pooling),
      cmocka_unit_test(towers),
      cmocka_unit_test(tower_sites),
      cmocka_unit_test(views_are_independent),
      cmocka_unit_test(windows_of_towers),
      cmocka_unit_test(projectors),
      cmocka_unit_test(selections),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
