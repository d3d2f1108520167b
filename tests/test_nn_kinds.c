/* nn/: what blocks of families other than LLaVA's have: layer scale, norms of queries and keys, positions that scale
 * queries, rotation over several axes, windows and images that see themselves. Every gradient against finite
 * differences (nn_lab.h), every forward against its equation in f64. */
#include "nn_lab.h"

/* The decoder's shape with norms of each head, own scale of scores, and queries that grow from position 6 on. */
static sl_block_shape head_norm_shape(void) {
  sl_block_shape s = llama;
  s.qk_norm = SL_QK_NORM_HEAD;
  s.qk_eps = 2e-2f;
  s.score_scale = 0.3f;
  s.log_n_length = 6;
  return s;
}

static void check_block(const char *name, const sl_block_shape *shape, bool bias, bool scales, int first_row, keeps how,
                        sl_compute compute) {
  lab l = lab_open();
  l.first_row = first_row;
  l.scales = scales;
  fill_stack(&l, shape, 1, 7, bias, how, compute);
  random_sum(&l, 7, shape->d_model);
  const stage s = {name, block_forward, block_backward};
  check_stage(&l, &s, 6, compute == SL_COMPUTE_BF16 ? 0.04 : TOLERANCE);
  lab_close(&l);
}

static void scaled_blocks(void **state) {
  (void)state;
  for (keeps how = INPUT; how < N_KEEPS; how++) {
    check_block("InternViT-300M block", &intern_300m, true, true, 0, how, SL_COMPUTE_F32);
    check_block("InternViT-6B block", &intern_6b, false, true, 0, how, SL_COMPUTE_F32);
  }
}

static void normed_heads(void **state) {
  (void)state;
  const sl_block_shape s = head_norm_shape();
  for (keeps how = INPUT; how < N_KEEPS; how++) {
    check_block("block with normed heads", &s, true, false, 0, how, SL_COMPUTE_F32);
    check_block("block with normed heads and scales from row 3", &s, true, true, 3, how, SL_COMPUTE_F32);
  }
  check_block("block with normed heads kept in bf16", &s, true, false, 2, WHOLE, SL_COMPUTE_BF16);
  sl_block_shape wide = llama;
  wide.qk_norm = SL_QK_NORM_WIDTH;
  check_block("rotated block normed over the width", &wide, true, false, 0, WHOLE, SL_COMPUTE_F32);
}

/* Four norms a layer. */
static sl_block_shape gemma_shape(void) {
  sl_block_shape s = llama;
  s.sandwich = true;
  s.qk_norm = SL_QK_NORM_HEAD;
  s.qk_eps = 2e-2f;
  s.score_scale = 0.3f;
  s.act = SL_ACT_GELU_TANH;
  return s;
}

static void normed_sublayers(void **state) {
  (void)state;
  const sl_block_shape s = gemma_shape();
  sl_block_shape plain = intern_6b;
  plain.sandwich = true;
  for (keeps how = INPUT; how < N_KEEPS; how++) {
    check_block("Gemma 3 block", &s, false, false, 0, how, SL_COMPUTE_F32);
    check_block("Gemma 3 block from row 3", &s, true, false, 3, how, SL_COMPUTE_F32);
    check_block("block with normed sublayers, no gate", &plain, true, false, 0, how, SL_COMPUTE_F32);
  }
}

static void growing_queries(void **state) {
  (void)state;
  sl_block_shape s = llama;
  s.log_n_length = 6;
  check_block("block with logN", &s, true, false, 0, WHOLE, SL_COMPUTE_F32);
  check_block("block with logN from row 3 recomputed", &s, true, false, 3, INPUT, SL_COMPUTE_F32);
}

/* What is kept has room for exactly the promised scratch (sl_scratch_mat asserts it). */
static void scratch_is_enough(void **state) {
  (void)state;
  const sl_block_shape shapes[] = {intern_300m, intern_6b, head_norm_shape(), gemma_shape()};
  for (int i = 0; i < 4 * 2 * N_KEEPS; i++) {
    const keeps how = (keeps)(i % N_KEEPS);
    lab l = lab_open();
    l.scales = i / (2 * N_KEEPS) < 3;
    fill_stack(&l, &shapes[i / (2 * N_KEEPS)], 1, 7, true, how, i / N_KEEPS % 2 ? SL_COMPUTE_BF16 : SL_COMPUTE_F32);
    random_sum(&l, 7, 12);
    capture c = {.l = &l};
    const sl_probe probe = {.user = &c, .wants = wants_all, .see = see_all};
    l.scratch.capacity = sl_block_forward_scratch(&l.shape, 7, 7, 0);
    block_forward(&l, &probe, true);
    l.scratch.capacity = sl_block_backward_scratch(&l.shape, 7, how == INPUT);
    block_backward(&l, NULL);
    capture_free(&c);
    lab_close(&l);
  }
}

/* x rms-normed: the equation in f64. */
static void norm_group(double *out, const float *x, int n, const float *w, double eps) {
  double square = 0;
  for (int i = 0; i < n; i++) square += (double)x[i] * (double)x[i];
  for (int i = 0; i < n; i++) out[i] = (double)x[i] / sqrt(square / n + eps) * (double)w[i];
}

/* A sublayer's output is its product, times the scale or normed, and what is added to the residual. */
static void check_sublayer(lab *l, const capture *c, const sl_site sites[4], const sl_weight *w, sl_mat bias,
                           sl_mat factors) {
  const seen *before = find(c, sites[0], 0), *in = find(c, sites[1], 0), *out = find(c, sites[2], 0);
  const seen *after = find(c, sites[3], 0);
  const sl_mat x = random_mat(l, 7, in->cols, 0, 1), product = random_mat(l, 7, 12, 0, 1);
  float plain[7 * 12], factor[12];
  write_mat(l, x, in->values);
  context_of(l, NULL).ops->linear(l->queue, product, x, w, bias, false);
  read_mat(l, product, plain);
  read_mat(l, factors, factor);
  double expected[7 * 12];
  for (int t = 0; t < 7; t++) {
    norm_group(expected + t * 12, plain + t * 12, 12, factor, (double)l->shape.eps);
    for (int i = 0; i < 12 && !l->shape.sandwich; i++)
      expected[t * 12 + i] = (double)factor[i] * (double)plain[t * 12 + i];
  }
  for (int i = 0; i < 7 * 12; i++) {
    assert_near("sublayer", (double)out->values[i], expected[i], 1e-6);
    assert_near("residual", (double)after->values[i], (double)before->values[i] + (double)out->values[i], 1e-6);
  }
}

static void sublayers_add_up(void **state) {
  (void)state;
  const sl_block_shape gemma = gemma_shape();
  for (int sandwich = 0; sandwich < 2; sandwich++) {
    lab l = lab_open();
    l.scales = !sandwich;
    fill_stack(&l, sandwich ? &gemma : &intern_300m, 1, 7, true, INPUT, SL_COMPUTE_F32);
    random_sum(&l, 7, 12);
    capture c = {.l = &l};
    const sl_probe probe = {.user = &c, .wants = wants_all, .see = see_all};
    float plain[7 * 12], watched[7 * 12];
    block_forward(&l, &probe, false);
    read_mat(&l, l.x, watched);
    const sl_block_weights *w = &l.blocks[0];
    check_sublayer(&l, &c, (const sl_site[]){SL_SITE_RESID_PRE, SL_SITE_Z, SL_SITE_ATTN_OUT, SL_SITE_RESID_MID}, w->o,
                   w->o_b, sandwich ? w->post1_w : w->scale1);
    check_sublayer(&l, &c, (const sl_site[]){SL_SITE_RESID_MID, SL_SITE_MLP_POST, SL_SITE_MLP_OUT, SL_SITE_RESID_POST},
                   w->down, w->down_b, sandwich ? w->post2_w : w->scale2);
    block_forward(&l, NULL, false); /* nobody looks: the same bits */
    read_mat(&l, l.x, plain);
    assert_memory_equal(plain, watched, sizeof plain);
    capture_free(&c);
    lab_close(&l);
  }
}

static void rotate_group(double *x, int d, const double *angle) {
  for (int i = 0; i < d / 2; i++) {
    const double a = x[i], b = x[i + d / 2];
    x[i] = a * cos(angle[i]) - b * sin(angle[i]);
    x[i + d / 2] = b * cos(angle[i]) + a * sin(angle[i]);
  }
}

/* Scores that the block shows, against those made from what its projections put out. */
static void check_scores(lab *l, int n_axis, const int32_t *positions, const float *inv_freq) {
  const sl_block_shape *s = &l->shape;
  const int nq = s->n_head * s->d_head, nkv = s->n_head_kv * s->d_head, d = s->d_head, n = l->n_row;
  capture c = {.l = l};
  const sl_probe probe = {.user = &c, .wants = wants_all, .see = see_all, .pattern_rows = numbers(l, n)};
  random_sum(l, n, s->d_model);
  block_forward(l, &probe, false);
  const seen *q = find(&c, SL_SITE_Q, 0), *k = find(&c, SL_SITE_K, 0), *scores = find(&c, SL_SITE_ATTN_SCORES, 0);
  double wide[2][7][24]; /* queries and keys as they should meet */
  for (int side = 0; side < 2; side++) {
    const int width = side ? nkv : nq;
    const float *raw = side ? k->values : q->values;
    float w[24];
    int group = width;
    if (s->qk_norm != SL_QK_NORM_NONE) {
      const sl_mat weights = side ? l->blocks[0].k_norm_w : l->blocks[0].q_norm_w;
      read_mat(l, weights, w);
      group = weights.cols;
      assert_int_equal(group, s->qk_norm == SL_QK_NORM_HEAD ? d : width);
    }
    for (int t = 0; t < n; t++) {
      for (int i = 0; i < width; i++) wide[side][t][i] = (double)raw[t * width + i];
      if (s->qk_norm != SL_QK_NORM_NONE)
        for (int g = 0; g < width; g += group)
          norm_group(&wide[side][t][g], raw + t * width + g, group, w, (double)s->qk_eps);
      double angle[16] = {0};
      for (int i = 0; inv_freq && i < d / 2; i++)
        for (int a = 0; a < n_axis; a++) angle[i] += positions[t * n_axis + a] * (double)inv_freq[a * d / 2 + i];
      for (int h = 0; h < width / d; h++) rotate_group(&wide[side][t][h * d], d, angle);
      const double p = positions ? positions[t * n_axis] + 1 : 0;
      for (int i = 0; side == 0 && s->log_n_length > 0 && p > s->log_n_length && i < width; i++)
        wide[side][t][i] *= log(p) / log((double)s->log_n_length);
    }
  }
  for (int h = 0; h < s->n_head; h++)
    for (int t = 0; t < n; t++)
      for (int j = 0; j <= (s->causal ? t : n - 1); j++) {
        double sum = 0;
        const int at = h / (s->n_head / s->n_head_kv) * d;
        for (int i = 0; i < d; i++) sum += wide[0][t][h * d + i] * wide[1][j][at + i];
        sum *= s->score_scale > 0 ? (double)s->score_scale : 1 / sqrt((double)d);
        assert_near("score", (double)scores->values[(h * n + t) * n + j], sum, 1e-5);
      }
  capture_free(&c);
}

static void scores_follow_their_equation(void **state) {
  (void)state;
  lab l = lab_open();
  fill_stack(&l, &intern_6b, 1, 7, false, INPUT, SL_COMPUTE_F32);
  check_scores(&l, 0, NULL, NULL);
  lab_close(&l);

  const sl_block_shape heads = head_norm_shape();
  int32_t positions[7];
  float inv_freq[3];
  for (int t = 0; t < 7; t++) positions[t] = 3 + 2 * t; /* as fill_stack makes them: logN starts at the third row */
  for (int i = 0; i < 3; i++) inv_freq[i] = (float)pow(50, -2.0 * i / 6);
  l = lab_open();
  fill_stack(&l, &heads, 1, 7, true, INPUT, SL_COMPUTE_F32);
  check_scores(&l, 1, positions, inv_freq);
  lab_close(&l);
}

/* Two axes: half of the frequencies turn with the row, half with the column. */
static void two_axes(void **state) {
  (void)state;
  sl_block_shape s = intern_300m;
  lab l = lab_open();
  fill_stack(&l, &s, 1, 7, true, WHOLE, SL_COMPUTE_F32);
  const int32_t positions[14] = {0, 0, 0, 1, 0, 2, 1, 0, 1, 1, 2, 3, 5, 4};
  const float inv_freq[4] = {0.7f, 0, 0, 0.3f};
  l.positions = ints_of(&l, positions, 14);
  l.shape.inv_freq = random_mat(&l, 2, 2, 0, 0);
  write_mat(&l, l.shape.inv_freq, inv_freq);
  check_scores(&l, 2, positions, inv_freq);
  free(l.w);
  random_sum(&l, 7, 12);
  check_stage(&l, &(stage){"block turned along two axes", block_forward, block_backward}, 6, TOLERANCE);
  lab_close(&l);
}

/* Keys that each row sees, by the pattern that the block shows, and the gradient through them. */
static void check_sight(lab *l, const char *name, const int32_t *first, const int32_t *last) {
  capture c = {.l = l};
  const sl_probe probe = {.user = &c, .wants = wants_all, .see = see_all, .pattern_rows = numbers(l, 7)};
  random_sum(l, 7, 12);
  block_forward(l, &probe, false);
  const float *pattern = find(&c, SL_SITE_PATTERN, 0)->values;
  for (int i = 0; i < l->shape.n_head * 7 * 7; i++) {
    const int t = i / 7 % 7, j = i % 7;
    assert_int_equal(pattern[i] > 0, j >= first[t] && j <= last[t]);
  }
  capture_free(&c);
  check_stage(l, &(stage){name, block_forward, block_backward}, 6, TOLERANCE);
}

static void what_rows_see(void **state) {
  (void)state;
  static const int32_t zeros[7] = {0}, window[7] = {0, 0, 0, 1, 2, 3, 4}, causal[7] = {0, 1, 2, 3, 4, 5, 6};
  static const int32_t image[7] = {0, 4, 4, 4, 4, 5, 6};
  static const int32_t left[7] = {0, 0, 0, 3, 3, 5, 5}, right[7] = {2, 2, 2, 4, 4, 6, 6};
  for (int first_row = 0; first_row <= 4; first_row += 4) {
    sl_block_shape s = llama;
    s.window = 3;
    lab l = lab_open();
    l.first_row = first_row;
    fill_stack(&l, &s, 1, 7, true, first_row ? INPUT : WHOLE, SL_COMPUTE_F32);
    l.use_kv = true;
    check_sight(&l, "block with a sliding window", window, causal);
    lab_close(&l);

    l = lab_open();
    l.first_row = first_row;
    fill_stack(&l, &llama, 1, 7, true, first_row ? WHOLE : INPUT, SL_COMPUTE_F32);
    l.first_key = ints_of(&l, zeros, 7);
    l.last_key = ints_of(&l, image, 7);
    check_sight(&l, "block with an image that sees itself", zeros, image);
    lab_close(&l);
  }
  lab l = lab_open();
  fill_stack(&l, &intern_300m, 1, 7, true, WHOLE, SL_COMPUTE_F32);
  l.first_key = ints_of(&l, left, 7);
  l.last_key = ints_of(&l, right, 7);
  check_sight(&l, "tower block with windows", left, right);
  lab_close(&l);
}

/* Rows of a branch that sees what a causal row sees: the same block. */
static void branches_agree(void **state) {
  (void)state;
  const sl_block_shape shape = head_norm_shape();
  lab l = lab_open();
  l.scales = true;
  fill_stack(&l, &shape, 1, 7, true, INPUT, SL_COMPUTE_F32);
  random_sum(&l, 7, 12);
  float expected[7 * 12], found[7 * 12];
  block_forward(&l, NULL, false);
  read_mat(&l, l.x, expected);
  int32_t branch[7] = {0}, view[28], masks[7];
  for (int t = 0; t < 7; t++) {
    masks[t] = (2 << t) - 1;
    for (int h = 0; h < 4; h++) view[t * 4 + h] = t;
  }
  const sl_branch_keys keys = {
      .attend = {.n_head = 4, .n_head_kv = 2, .d_head = 6, .scale = sl_block_score_scale(&shape), .n_local = 7,
                 .branch = ints_of(&l, branch, 7), .view = ints_of(&l, view, 28), .masks = ints_of(&l, masks, 7),
                 .n_view = 7},
      .in_place = true};
  const sl_context c = context_of(&l, NULL);
  c.ops->copy(l.queue, l.x, l.start);
  sl_block_forward_branches(&c, &l.shape, &l.blocks[0], 0, l.x, l.positions, &keys);
  read_mat(&l, l.x, found);
  for (int i = 0; i < 7 * 12; i++) assert_near("branch", (double)found[i], (double)expected[i], 1e-6);
  lab_close(&l);
}

/* A bias that only queries and values have is the stacked one with zeros in the middle (EVA). */
static void zero_part_of_a_bias(void **state) {
  (void)state;
  lab l = lab_open();
  fill_stack(&l, &intern_300m, 1, 7, true, INPUT, SL_COMPUTE_F32);
  random_sum(&l, 7, 12);
  float bias[36];
  read_mat(&l, l.blocks[0].qkv_b, bias);
  memset(bias + 12, 0, 12 * sizeof *bias);
  write_mat(&l, l.blocks[0].qkv_b, bias);
  capture with = {.l = &l}, without = {.l = &l};
  sl_probe probe = {.user = &with, .wants = wants_all, .see = see_all};
  block_forward(&l, &probe, false);
  l.blocks[0].qkv_b = (sl_mat){0};
  probe.user = &without;
  block_forward(&l, &probe, false);
  const float *k = find(&with, SL_SITE_K, 0)->values, *q = find(&with, SL_SITE_Q, 0)->values;
  assert_memory_equal(k, find(&without, SL_SITE_K, 0)->values, 7 * 12 * sizeof *k);
  for (int i = 0; i < 7 * 12; i++)
    assert_near("query", (double)q[i], (double)find(&without, SL_SITE_Q, 0)->values[i] + (double)bias[i % 12], 1e-6);
  capture_free(&with);
  capture_free(&without);
  lab_close(&l);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(scaled_blocks),
      cmocka_unit_test(normed_heads),
      cmocka_unit_test(normed_sublayers),
      cmocka_unit_test(growing_queries),
      cmocka_unit_test(scratch_is_enough),
      cmocka_unit_test(sublayers_add_up),
      cmocka_unit_test(scores_follow_their_equation),
      cmocka_unit_test(two_axes),
      cmocka_unit_test(what_rows_see),
      cmocka_unit_test(branches_agree),
      cmocka_unit_test(zero_part_of_a_bias),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
