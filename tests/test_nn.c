/* nn/: the CLIP tower, the LLaMA-like decoder and the two-layer projector against finite differences (nn_lab.h), and
 * the names of sites. */
#include "nn_lab.h"

static void one_block(const char *name, const sl_block_shape *shape, bool bias, int first_row, keeps how, bool use_kv) {
  lab l = lab_open();
  l.first_row = first_row;
  l.use_kv = use_kv;
  fill_stack(&l, shape, 1, 7, bias, how, SL_COMPUTE_F32);
  random_sum(&l, 7, shape->d_model);
  const stage s = {name, block_forward, block_backward};
  check_stage(&l, &s, 6, TOLERANCE); /* resid_pre, ln1, v, z, resid_mid, ln2 */
  lab_close(&l);
}

static void decoder_blocks(void **state) {
  (void)state;
  one_block("decoder block", &llama, false, 0, WHOLE, true);
  one_block("decoder block with biases", &llama, true, 0, WHOLE, false);
  one_block("decoder block from row 3", &llama, true, 3, WHOLE, true);
  one_block("decoder block, last row", &llama, false, 6, WHOLE, true);
  one_block("decoder block recomputed", &llama, true, 0, INPUT, true);
  one_block("decoder block from row 3 recomputed", &llama, false, 3, INPUT, true);
  one_block("decoder block, MLP recomputed", &llama, true, 0, PART, true);
  one_block("decoder block from row 3, MLP recomputed", &llama, false, 3, PART, false);
  sl_block_shape other = llama;
  other.n_head_kv = 4;
  other.act = SL_ACT_GELU_TANH;
  one_block("decoder block, as many kv heads", &other, true, 2, WHOLE, true);
  other.n_head_kv = 1;
  other.act = SL_ACT_GELU_ERF;
  one_block("decoder block, one kv head", &other, false, 2, WHOLE, true);
}

static void clip_blocks(void **state) {
  (void)state;
  one_block("CLIP block", &clip, true, 0, WHOLE, false);
  one_block("CLIP block recomputed", &clip, true, 0, INPUT, false);
  one_block("CLIP block, MLP recomputed", &clip, true, 0, PART, false);
  sl_block_shape other = clip;
  other.act = SL_ACT_GELU_ERF;
  one_block("CLIP block with gelu", &other, true, 0, WHOLE, false);
  other.act = SL_ACT_GELU_TANH;
  one_block("CLIP block with tanh gelu", &other, true, 0, WHOLE, false);
}

/* Activations kept in bf16 carry 8 bits: the gradient is right to about 1 %. */
static void bf16_kept_block(void **state) {
  (void)state;
  for (keeps how = PART; how <= WHOLE; how++) {
    lab l = lab_open();
    l.first_row = 2;
    fill_stack(&l, &llama, 1, 7, true, how, SL_COMPUTE_BF16);
    random_sum(&l, 7, llama.d_model);
    check_stage(&l, &(stage){"block kept in bf16", block_forward, block_backward}, 6, 0.03);
    lab_close(&l);
  }
}

/* A scratch of exactly the promised size must do (sl_scratch_mat asserts it), with everything shown. */
static void scratch_is_enough(void **state) {
  (void)state;
  const sl_block_shape *const shapes[] = {&llama, &clip};
  for (int i = 0; i < 2; i++)
    for (int how = 0; how < 2 * N_KEEPS; how++) {
      const keeps level = (keeps)(how % N_KEEPS);
      lab l = lab_open();
      fill_stack(&l, shapes[i], 1, 7, true, level, how < N_KEEPS ? SL_COMPUTE_BF16 : SL_COMPUTE_F32);
      random_sum(&l, 7, shapes[i]->d_model);
      needle n = {.l = &l};
      const sl_probe probe = {.user = &n, .wants = wants, .see = see};
      l.scratch.capacity = sl_block_forward_scratch(&l.shape, 7, 7, 0);
      block_forward(&l, &probe, true);
      l.scratch.capacity = sl_block_backward_scratch(&l.shape, 7, level == INPUT);
      block_backward(&l, &probe);
      for (int k = 0; k < n.n_place; k++) {
        free(n.places[k].value);
        free(n.places[k].grad);
        free(n.places[k].seen);
      }
      lab_close(&l);
    }
}

/* ---- whole stacks ---- */

static void whole_tower(void **state) {
  (void)state;
  lab l = lab_open();
  fill_stack(&l, &clip, 2, 7, true, WHOLE, SL_COMPUTE_F32);
  l.tower = (sl_tower){.shape = l.shape,
                       .n_layer = 2,
                       .n_class = 1,
                       .n_patch = 6,
                       .blocks = l.blocks,
                       .patch = random_weight(&l, 12, 27),
                       .class_token = random_mat(&l, 1, 12, 0, 1),
                       .positions = random_mat(&l, 7, 12, 0, 1),
                       .norm_w = random_mat(&l, 1, 12, 1, 0.2),
                       .norm_b = random_mat(&l, 1, 12, 0, 0.2)};
  l.patches = random_mat(&l, 6, 27, 0, 1);
  random_sum(&l, 7, 12);
  check_stage(&l, &(stage){"tower", tower_forward, tower_backward}, 2 * 6, TOLERANCE);
  lab_close(&l);
}

/* Embeddings are left out: x starts as any rows. */
static double decoder_forward(lab *l, const sl_probe *probe, bool keep) {
  const sl_context c = context_of(l, probe);
  c.ops->copy(l->queue, l->x, l->start);
  ASSERT_OK(sl_decoder_forward(&c, &l->decoder, l->x, 0, l->positions, l->kv, keep ? l->keep : NULL, NULL));
  const int n = l->n_row - l->first_row;
  sl_decoder_head(&c, &l->decoder, l->logits, sl_mat_rows(l->x, l->first_row, n), l->first_row);
  return weigh(l, l->logits);
}

static void decoder_backward(lab *l, const sl_probe *probe) {
  const sl_context c = context_of(l, probe);
  const int n = l->n_row - l->first_row;
  const sl_mat d_logits = random_mat(l, n, l->decoder.n_vocab, 0, 1);
  write_mat(l, d_logits, l->w);
  sl_decoder_head_backward(&c, &l->decoder, sl_mat_rows(l->d, l->first_row, n), d_logits,
                           sl_mat_rows(l->x, l->first_row, n));
  ASSERT_OK(sl_decoder_backward(&c, &l->decoder, l->d, l->first_row, l->positions, l->keep, true,
                                NULL));
}

static void whole_decoder(void **state) {
  (void)state;
  for (keeps how = INPUT; how < N_KEEPS; how++) {
    lab l = lab_open();
    fill_stack(&l, &llama, 2, 7, true, how, SL_COMPUTE_F32);
    l.decoder = (sl_decoder){.shape = l.shape,
                             .n_layer = 2,
                             .n_vocab = 19,
                             .blocks = l.blocks,
                             .head = random_weight(&l, 19, 12),
                             .norm_w = random_mat(&l, 1, 12, 1, 0.2)};
    l.logits = random_mat(&l, 2, 19, 0, 1);
    random_sum(&l, 2, 19); /* before first_row is set: these are rows of the logits */
    l.first_row = 5;
    check_stage(&l, &(stage){"decoder", decoder_forward, decoder_backward}, 2 * 6, TOLERANCE);
    lab_close(&l);
  }
}

/* Wants one site of layer 1, and keeps the gradient of its rows. */
typedef struct one_site {
  lab *l;
  sl_site site;
  float grad[7 * 12];
} one_site;

static bool wants_one(void *user, sl_part part, sl_site site, int layer, bool backward) {
  return backward && part == SL_PART_DECODER && site == ((one_site *)user)->site && layer == 1;
}

static void see_one(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                    sl_mat grad) {
  (void)queue, (void)part, (void)site, (void)layer, (void)first_row, (void)value;
  one_site *one = user;
  read_mat(one->l, grad, one->grad);
}

/* With nothing wanted below layer 1's MLP the pass ends there, and what it showed is what the whole pass shows. */
static void pass_ends_below_what_is_wanted(void **state) {
  (void)state;
  lab l = lab_open();
  fill_stack(&l, &llama, 2, 7, true, WHOLE, SL_COMPUTE_F32);
  l.decoder = (sl_decoder){.shape = l.shape, .n_layer = 2, .blocks = l.blocks};
  const sl_context c = context_of(&l, NULL);
  ASSERT_OK(sl_decoder_forward(&c, &l.decoder, l.start, 0, l.positions, NULL, l.keep, NULL));
  float target[7 * 12], end[7 * 12];
  read_mat(&l, l.d, target);
  one_site sites[3] = {{&l, SL_SITE_RESID_MID, {0}}, {&l, SL_SITE_LN2, {0}}, {&l, SL_SITE_LN2, {0}}};
  for (int i = 0; i < 3; i++) {
    const sl_probe probe = {.user = &sites[i], .wants = wants_one, .see = see_one};
    const sl_context shown = context_of(&l, &probe);
    write_mat(&l, l.d, target);
    ASSERT_OK(sl_decoder_backward(&shown, &l.decoder, l.d, 0, l.positions, l.keep, i < 2, NULL));
    read_mat(&l, l.d, end);
    assert_int_equal(memcmp(end, sites[0].grad, sizeof end) == 0, i == 2);
  }
  assert_memory_equal(sites[1].grad, sites[2].grad, sizeof end);
  lab_close(&l);
}

static void projectors(void **state) {
  (void)state;
  for (int bias = 0; bias < 2; bias++) {
    lab l = lab_open();
    l.n_row = 5;
    l.start = random_mat(&l, 5, 12, 0, 1);
    l.x = random_mat(&l, 5, 12, 0, 1);
    l.d = random_mat(&l, 5, 12, 0, 1);
    l.out = random_mat(&l, 5, 10, 0, 1);
    l.pre = random_mat(&l, 5, 14, 0, 1);
    l.projector = (sl_projector){.linear_1 = random_weight(&l, 14, 12),
                                 .linear_2 = random_weight(&l, 10, 14),
                                 .act = bias ? SL_ACT_GELU_ERF : SL_ACT_QUICK_GELU};
    if (bias) {
      l.projector.linear_1_b = random_mat(&l, 1, 14, 0, 0.5);
      l.projector.linear_2_b = random_mat(&l, 1, 10, 0, 0.5);
    }
    random_sum(&l, 5, 10);
    check_stage(&l, &(stage){"projector", projector_forward, projector_backward}, 2, TOLERANCE);
    lab_close(&l);
  }
}

/* Every site that the table calls differentiable is one that the stages above went through, and no other. */
static void differentiable_sites(void **state) {
  (void)state;
  static const sl_site checked[] = {
      SL_SITE_RESID_PRE,    SL_SITE_LN1,          SL_SITE_V, SL_SITE_Z, SL_SITE_RESID_MID, SL_SITE_LN2,
      SL_SITE_PROJECTOR_IN, SL_SITE_PROJECTOR_OUT};
  int n = 0;
  for (int site = 0; site < SL_SITE_COUNT; site++) n += sl_site_get((sl_site)site)->differentiable;
  assert_int_equal(n, sizeof checked / sizeof *checked);
  for (size_t i = 0; i < sizeof checked / sizeof *checked; i++) assert_true(sl_site_get(checked[i])->differentiable);
}

/* ---- cancellation ---- */

static void cancel_stops_stacks(void **state) {
  (void)state;
  lab l = lab_open();
  fill_stack(&l, &llama, 2, 7, false, WHOLE, SL_COMPUTE_F32);
  l.decoder = (sl_decoder){.shape = l.shape, .n_layer = 2, .blocks = l.blocks};
  atomic_bool stop = true;
  const sl_context c = context_of(&l, NULL);
  assert_int_equal(sl_decoder_forward(&c, &l.decoder, l.x, 0, l.positions, l.kv, NULL, &stop), SL_ERROR_CANCELLED);
  assert_int_equal(sl_decoder_backward(&c, &l.decoder, l.d, 0, l.positions, l.keep, true, &stop),
                   SL_ERROR_CANCELLED);
  lab_close(&l);
}

/* ---- names ---- */

#define N_LAYER 12

/* How many places of a model with 12 layers in both stacks the pattern names; the last one into *name. */
static int count_matches(const char *pattern, char name[64]) {
  int n = 0;
  name[0] = '\0';
  for (int part = 0; part < SL_PART_COUNT; part++)
    for (int site = 0; site < SL_SITE_COUNT; site++)
      for (int il = 0; il < (sl_site_get((sl_site)site)->per_layer ? N_LAYER : 1); il++)
        if (sl_site_match(pattern, (sl_part)part, (sl_site)site, il)) {
          sl_site_name(name, (sl_part)part, (sl_site)site, il);
          n++;
        }
  return n;
}

static const struct {
  const char *pattern, *name;
} one_place[] = {
    {"blocks.3.attn.hook_pattern", "blocks.3.attn.hook_pattern"},
    {"vision.blocks.1.hook_mlp_out", "vision.blocks.1.hook_mlp_out"},
    {"projector.hook_post", "projector.hook_post"},
    {"hook_embed", "hook_embed"},
    /* the decoder's modules, under every wrapper */
    {"model.layers.3.self_attn", "blocks.3.hook_attn_out"},
    {"language_model.model.layers.3.self_attn", "blocks.3.hook_attn_out"},
    {"model.language_model.layers.3.self_attn", "blocks.3.hook_attn_out"},
    {"layers.3.self_attn", "blocks.3.hook_attn_out"},
    {"model.layers.11.self_attn.o_proj", "blocks.11.hook_attn_out"},
    {"model.layers.1", "blocks.1.hook_resid_post"},
    {"model.layers.2.input_layernorm", "blocks.2.ln1.hook_normalized"},
    {"model.layers.2.post_attention_layernorm", "blocks.2.ln2.hook_normalized"},
    {"model.layers.2.self_attn.q_proj", "blocks.2.attn.hook_q"},
    {"model.layers.2.self_attn.k_proj", "blocks.2.attn.hook_k"},
    {"model.layers.2.self_attn.v_proj", "blocks.2.attn.hook_v"},
    {"model.layers.0.mlp.gate_proj", "blocks.0.mlp.hook_pre"},
    {"model.layers.0.mlp.up_proj", "blocks.0.mlp.hook_pre_linear"},
    {"model.layers.0.mlp", "blocks.0.hook_mlp_out"},
    {"model.layers.0.mlp.down_proj", "blocks.0.hook_mlp_out"},
    {"model.norm", "ln_final.hook_normalized"},
    {"model.language_model.norm", "ln_final.hook_normalized"},
    {"lm_head", "hook_logits"},
    {"language_model.lm_head", "hook_logits"},
    /* the tower's */
    {"vision_tower.vision_model.encoder.layers.1.mlp", "vision.blocks.1.hook_mlp_out"},
    {"model.vision_tower.vision_model.encoder.layers.1.mlp", "vision.blocks.1.hook_mlp_out"},
    {"model.vision_tower.encoder.layers.1.mlp", "vision.blocks.1.hook_mlp_out"},
    {"vision_tower.encoder.layers.1.mlp.fc2", "vision.blocks.1.hook_mlp_out"},
    {"vision_tower.vision_model.encoder.layers.1.mlp.fc1", "vision.blocks.1.mlp.hook_pre"},
    {"vision_tower.vision_model.encoder.layers.1.mlp.activation_fn", "vision.blocks.1.mlp.hook_post"},
    {"vision_tower.vision_model.encoder.layers.0.layer_norm1", "vision.blocks.0.ln1.hook_normalized"},
    {"vision_tower.vision_model.encoder.layers.0.layer_norm2", "vision.blocks.0.ln2.hook_normalized"},
    {"vision_tower.vision_model.encoder.layers.0.self_attn", "vision.blocks.0.hook_attn_out"},
    {"vision_tower.vision_model.encoder.layers.0.self_attn.out_proj", "vision.blocks.0.hook_attn_out"},
    {"vision_tower.vision_model.encoder.layers.0.self_attn.q_proj", "vision.blocks.0.attn.hook_q"},
    {"vision_tower.vision_model.encoder.layers.10", "vision.blocks.10.hook_resid_post"},
    {"vision_tower.vision_model.pre_layrnorm", "vision.ln_pre.hook_normalized"},
    {"vision_tower.vision_model.embeddings", "vision.hook_embed"},
    {"vision_tower.vision_model.post_layernorm", "vision.ln_post.hook_normalized"},
    {"projector.cross.hook_pattern", "projector.cross.hook_pattern"},
    {"projector.blocks.2.cross.hook_pattern", "projector.blocks.2.cross.hook_pattern"},
    {"multi_modal_projector.layer_norm", "projector.ln.hook_normalized"},
    {"multi_modal_projector.linear_1", "projector.hook_pre"},
    {"model.multi_modal_projector.act", "projector.hook_post"},
    {"multi_modal_projector.linear_2", "projector.hook_out"},
};

static const struct {
  const char *pattern;
  int n;
} many_places[] = {
    {"blocks.*.attn.hook_pattern", N_LAYER},
    {"*.attn.hook_pattern", 3 * N_LAYER}, /* the tower's, the projector's, the decoder's */
    {"blocks.?.hook_resid_pre", 10},
    {"vision.blocks.*.hook_mlp_out", N_LAYER},
    {"model.layers.*.mlp", N_LAYER},
    {"vision_tower.*.layer_norm2", N_LAYER},
    {"*.layers.3.mlp", 2}, /* both stacks */
    {"*.self_attn", 2 * N_LAYER},
    {"projector.*", 7 + 4 * N_LAYER}, /* embed, cross pattern, in, ln, pre, post, out; a Q-Former's blocks */
    {"multi_modal_projector.*", 4},
    /* no such place */
    {"", 0},
    {"blocks.12.hook_resid_pre", 0},
    {"blocks.3", 0},
    {"blocks.03.hook_resid_pre", 0},
    {"blocks.3.hook_resid_pre ", 0},
    {"Blocks.3.hook_resid_pre", 0},
    {"vision.blocks.3.attn.hook_rot_q", 1}, /* of towers that rotate; sl_model_has_site knows which */
    {"vision.hook_logits", 0},
    {"projector.blocks.0.hook_mlp_out", 0},
    {"blocks.{i}.hook_mlp_out", 0},
    {"layers.{i}.mlp", 0},
    {"vision_model.encoder.layers.1.mlp", 0}, /* no part of the model is called so: not the decoder's layer 1 */
    {"encoder.layers.1.mlp", 0},
    {"vision_tower.vision_model.encoder.layers.1.mlp.gate_proj", 0}, /* LLaMA's names are not CLIP's */
    {"vision_tower.vision_model.encoder.layers.1.input_layernorm", 0},
    {"model.layers.1.layer_norm1", 0},
    {"model.layers.1.mlp.fc1", 0},
    {"model.layers.1.self_attn|", 0},
};

static void names_match(void **state) {
  (void)state;
  char name[64];
  for (size_t i = 0; i < sizeof one_place / sizeof *one_place; i++) {
    const int n = count_matches(one_place[i].pattern, name);
    if (n != 1 || strcmp(name, one_place[i].name) != 0)
      fail_msg("\"%s\" names %d places, the last \"%s\"; expected \"%s\"", one_place[i].pattern, n, name,
               one_place[i].name);
  }
  for (size_t i = 0; i < sizeof many_places / sizeof *many_places; i++) {
    const int n = count_matches(many_places[i].pattern, name);
    if (n != many_places[i].n)
      fail_msg("\"%s\" names %d places, the last \"%s\"; expected %d", many_places[i].pattern, n, name,
               many_places[i].n);
  }
}

/* The module shown for a place names that place, and every place has one name of its own. */
static void shown_names_work(void **state) {
  (void)state;
  for (int part = 0; part < SL_PART_COUNT; part++)
    for (int site = 0; site < SL_SITE_COUNT; site++) {
      if (!sl_site_get((sl_site)site)->in_part[part]) continue;
      char module[96], pattern[96], name[64], found[64];
      sl_site_name(name, (sl_part)part, (sl_site)site, 4);
      assert_int_equal(count_matches(name, found), 1);
      assert_string_equal(found, name);
      if (!sl_site_module(module, (sl_part)part, (sl_site)site)) {
        assert_string_equal(module, "");
        continue;
      }
      const char *mark = strstr(module, "{i}");
      assert_int_equal(mark != NULL, sl_site_get((sl_site)site)->per_layer);
      if (mark)
        snprintf(pattern, sizeof pattern, "%.*s4%s", (int)(mark - module), module, mark + 3);
      else
        snprintf(pattern, sizeof pattern, "%s", module);
      assert_int_equal(count_matches(pattern, found), 1);
      assert_string_equal(found, name);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(decoder_blocks),      cmocka_unit_test(clip_blocks),
      cmocka_unit_test(bf16_kept_block),     cmocka_unit_test(scratch_is_enough),
      cmocka_unit_test(projectors),          cmocka_unit_test(whole_tower),
      cmocka_unit_test(whole_decoder),
      cmocka_unit_test(pass_ends_below_what_is_wanted),       cmocka_unit_test(differentiable_sites),
      cmocka_unit_test(cancel_stops_stacks), cmocka_unit_test(names_match),
      cmocka_unit_test(shown_names_work),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
