/* Sessions and records on the golden folders: equal bits whatever the way to a value (step or forward, kept or
 * recomputed, one thread or more), errors of arguments, cancellation, and failing allocations. */
#include "session_run.h"

#include "model/record.h"

/* ---- session ---- */

/* Rows of logits of a forward over the whole layout. */
static float *forward_rows(run *r, const int *rows, int n_row, bool keep) {
  float *logits = calloc((size_t)n_row * (size_t)r->n_vocab, sizeof *logits);
  ASSERT_OK(sl_session_forward(r->session, &r->layout, r->image, rows, n_row, logits, NULL, keep));
  return logits;
}

/* backend.h: row t of a product depends on row t of x alone, and every reduction has a fixed order; so steps over the
 * cache give the bits of a forward over the whole. Through the cache's growth, one token or several at a time. */
static void steps_equal_forward(void **state) {
  (void)state;
  static const char *const backends[] = {"ref", "cpu"};
  for (int b = 0; b < 2; b++)
    for (int f = 0; f < 3; f++) {
      run r = start(folders[f], backends[b]);
      enum { N = 150 }; /* three times the prompt: the cache grows twice */
      int32_t ids[N];
      for (int i = 0; i < N; i++) ids[i] = 3 + (i * 37) % 200;
      const int last = r.layout.n_token - 1;
      r.model->shape.max_position = 4096;
      float *first = forward_rows(&r, &last, 1, false), *got = calloc((size_t)r.n_vocab, sizeof *got);
      run whole = start_on(r.model, 1, false);
      ASSERT_OK(sl_layout_append(&whole.layout, r.model, ids, N));
      int rows[3] = {last, last + 100, last + N};
      float *want = forward_rows(&whole, rows, 3, false);
      assert_memory_equal(first, want, (size_t)r.n_vocab * sizeof *want);
      for (int i = 0; i < 100; i++) ASSERT_OK(sl_session_step(r.session, ids + i, 1, got, NULL));
      assert_memory_equal(got, want + r.n_vocab, (size_t)r.n_vocab * sizeof *want);
      ASSERT_OK(sl_session_step(r.session, ids + 100, N - 100, got, NULL));
      assert_memory_equal(got, want + 2 * r.n_vocab, (size_t)r.n_vocab * sizeof *want);
      free(first);
      free(got);
      free(want);
      stop(&whole);
      finish(&r);
    }
}

/* A long greedy answer is what forwards over growing layouts would choose, and its probabilities those of the logits. */
static void greedy_is_argmax(void **state) {
  (void)state;
  run r = start("llava-gqa", "ref");
  enum { N = 60 };
  float prob[N], logit[N];
  r.model->shape.n_eos = 0; /* never stops */
  ASSERT_OK(sl_session_greedy(r.session, &r.layout, r.image, N, prob, logit));
  assert_int_equal(r.layout.n_token, r.layout.n_prompt + N);
  int rows[N];
  for (int i = 0; i < N; i++) rows[i] = r.layout.n_prompt - 1 + i;
  float *logits = forward_rows(&r, rows, N, false);
  for (int i = 0; i < N; i++) {
    const float *z = logits + (size_t)i * (size_t)r.n_vocab;
    int best = 0;
    double sum = 0;
    for (int v = 1; v < r.n_vocab; v++) best = z[v] > z[best] ? v : best;
    for (int v = 0; v < r.n_vocab; v++) sum += exp((double)z[v] - (double)z[best]);
    assert_int_equal(r.layout.ids[r.layout.n_prompt + i], best);
    assert_true(logit[i] == z[best]);
    assert_true(fabs((double)prob[i] - 1 / sum) < 1e-6);
  }
  free(logits);
  /* eos stops before it */
  r.model->shape.eos_ids[0] = -1; /* the second of a list */
  r.model->shape.eos_ids[1] = r.layout.ids[r.layout.n_prompt];
  r.model->shape.n_eos = 2;
  sl_layout fresh = {0};
  ASSERT_OK(sl_layout_build(&fresh, r.model, NULL, "Is there a cat?", false));
  ASSERT_OK(sl_session_greedy(r.session, &fresh, r.image, N, NULL, NULL));
  assert_int_equal(fresh.n_token, fresh.n_prompt);
  ASSERT_FAILS(sl_session_greedy(r.session, &fresh, r.image, 0, NULL, NULL), SL_ERROR_ARGUMENT, "max tokens");
  /* and so do the model's positions; a prompt beyond them is refused */
  r.model->shape.n_eos = 0;
  r.model->shape.max_position = fresh.n_prompt + 5;
  ASSERT_OK(sl_session_greedy(r.session, &fresh, r.image, N, NULL, NULL));
  assert_int_equal(fresh.n_token, fresh.n_prompt + 5);
  const int32_t id = 5;
  ASSERT_FAILS(sl_session_step(r.session, &id, 1, prob, NULL), SL_ERROR_ARGUMENT, "max_position_embeddings");
  r.model->shape.max_position = fresh.n_prompt - 1;
  ASSERT_FAILS(sl_session_forward(r.session, &fresh, r.image, NULL, 0, NULL, NULL, false), SL_ERROR_ARGUMENT,
               "max_position_embeddings");
  sl_layout_dispose(&fresh);
  ASSERT_FAILS(sl_layout_build(&fresh, r.model, NULL, "Is there a cat?", false), SL_ERROR_ARGUMENT, "max_position_embeddings");
  finish(&r);
}

/* Gradients at all decoder sites and the tower's, one after another. */
typedef struct gradients {
  float *data;
  size_t n;
} gradients;

static bool wants_grad(void *user, sl_part part, sl_site site, int layer, bool backward) {
  (void)user, (void)part, (void)site, (void)layer;
  return backward;
}

static void see_grad(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                     sl_mat grad) {
  (void)part, (void)site, (void)layer, (void)first_row, (void)value;
  gradients *g = user;
  g->data = realloc(g->data, (g->n + (size_t)grad.rows * (size_t)grad.cols) * sizeof *g->data);
  for (int i = 0; i < grad.rows; i++, g->n += (size_t)grad.cols)
    sl_buffer_read(queue, g->data + g->n, grad.buffer, (size_t)(grad.offset + i * grad.stride) * sizeof(float),
                   (size_t)grad.cols * sizeof(float));
}

static gradients backward_all(run *r) {
  gradients g = {0};
  const sl_probe probe = {.user = &g, .wants = wants_grad, .see = see_grad};
  const int rows[2] = {r->layout.n_token - 3, r->layout.n_token - 1};
  float *d = calloc(2 * (size_t)r->n_vocab, sizeof *d);
  for (int i = 0; i < 2 * r->n_vocab; i++) d[i] = (float)cos(i);
  ASSERT_OK(sl_session_forward(r->session, &r->layout, r->image, NULL, 0, NULL, NULL, true));
  ASSERT_OK(sl_session_backward(r->session, rows, 2, d, &probe, true));
  free(d);
  return g;
}

/* Whatever fits the limit, and however many threads work: the same bits. */
static void kept_recomputed_and_threads_agree(void **state) {
  (void)state;
  static const char *const backends[] = {"ref", "cpu"};
  for (int b = 0; b < 2; b++)
    for (int f = 0; f < 3; f++) {
      sl_model *model = open_model(folders[f], backends[b]);
      run one = start_on(model, 1, true);
      gradients want = backward_all(&one);
      assert_true(want.n > 1000);
      /* No layer kept whole, and all but one. */
      const size_t limits[] = {0, sl_session_keep_bytes(one.session, one.layout.n_token) - 1};
      gradients got;
      for (int i = 0; i < 2; i++) {
        sl_session_set_keep_limit(one.session, limits[i]);
        got = backward_all(&one);
        assert_int_equal(got.n, want.n);
        assert_memory_equal(got.data, want.data, want.n * sizeof *want.data);
        free(got.data);
      }
      for (int n_thread = 2; n_thread <= 3; n_thread++) {
        run many = start_on(model, n_thread, true);
        got = backward_all(&many);
        assert_int_equal(got.n, want.n);
        assert_memory_equal(got.data, want.data, want.n * sizeof *want.data);
        free(got.data);
        stop(&many);
      }
      free(want.data);
      finish(&one);
    }
}

static void keep_limit_saves_memory(void **state) {
  (void)state;
  run r = start("llava-gqa", "ref");
  const size_t all = sl_session_keep_bytes(r.session, 100);
  sl_session_set_keep_limit(r.session, all);
  assert_int_equal(sl_session_keep_bytes(r.session, 100), all);
  sl_session_set_keep_limit(r.session, all - 1); /* one layer is recomputed */
  assert_true(sl_session_keep_bytes(r.session, 100) < all);
  sl_session_set_keep_limit(r.session, 0);
  assert_true(sl_session_keep_bytes(r.session, 100) < all / 3);
  finish(&r);
}

/* Two models and two sessions on one of them, used in turn, do not touch each other. */
static void sessions_do_not_meet(void **state) {
  (void)state;
  sl_model *model = open_model("llava-gqa", "cpu");
  run a = start_on(model, 1, false), b = start_on(model, 2, false), other = start("llava-mha", "cpu");
  ASSERT_OK(sl_layout_append_text(&b.layout, model, "Yes, I think so"));
  const int last_a = a.layout.n_token - 1, last_b = b.layout.n_token - 1, last_o = other.layout.n_token - 1;
  float *want_a = forward_rows(&a, &last_a, 1, false), *want_b = forward_rows(&b, &last_b, 1, false);
  float *want_o = forward_rows(&other, &last_o, 1, false), *got = calloc((size_t)a.n_vocab, sizeof *got);
  const int32_t id = 9;
  float *step_a = calloc((size_t)a.n_vocab, sizeof *step_a);
  ASSERT_OK(sl_session_step(a.session, &id, 1, step_a, NULL));
  free(forward_rows(&a, &last_a, 1, false));
  float *again_b = forward_rows(&b, &last_b, 1, false), *again_o = forward_rows(&other, &last_o, 1, false);
  ASSERT_OK(sl_session_step(a.session, &id, 1, got, NULL));
  assert_memory_equal(got, step_a, (size_t)a.n_vocab * sizeof *got);
  assert_memory_equal(again_b, want_b, (size_t)b.n_vocab * sizeof *got);
  assert_memory_equal(again_o, want_o, (size_t)other.n_vocab * sizeof *got);
  assert_memory_not_equal(want_a, want_b, (size_t)a.n_vocab * sizeof *got);
  float *const all[] = {want_a, want_b, want_o, again_b, again_o, got, step_a};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
  stop(&a);
  stop(&b);
  sl_model_close(model);
  finish(&other);
}

static void cancel_stops_work(void **state) {
  (void)state;
  run r = start("llava-gqa", "ref");
  atomic_bool flag = true;
  const int last = r.layout.n_token - 1;
  float *logits = forward_rows(&r, &last, 1, true), *d = calloc((size_t)r.n_vocab, sizeof *d);
  sl_session_set_cancel(r.session, &flag);
  sl_image *image = NULL;
  const int32_t id = 5;
  run cached = start_on(r.model, 1, false);
  free(forward_rows(&cached, &last, 1, false));
  sl_session_set_cancel(cached.session, &flag);
  ASSERT_FAILS(sl_image_encode(&image, r.session, r.pixels, NULL, NULL, false), SL_ERROR_CANCELLED, "interrupted");
  assert_null(image);
  ASSERT_FAILS(sl_session_backward(r.session, &last, 1, d, NULL, true), SL_ERROR_CANCELLED, "interrupted");
  ASSERT_FAILS(sl_session_step(cached.session, &id, 1, logits, NULL), SL_ERROR_CANCELLED, "interrupted");
  stop(&cached);
  ASSERT_FAILS(sl_session_forward(r.session, &r.layout, r.image, NULL, 0, NULL, NULL, false), SL_ERROR_CANCELLED,
               "interrupted");
  ASSERT_FAILS(sl_session_step(r.session, &id, 1, logits, NULL), SL_ERROR_ARGUMENT, "before it");
  ASSERT_FAILS(sl_session_greedy(r.session, &r.layout, r.image, 2, NULL, NULL), SL_ERROR_CANCELLED, "interrupted");
  flag = false; /* and everything goes on as before */
  float *again = forward_rows(&r, &last, 1, true);
  sl_session_set_cancel(r.session, NULL);
  float *third = forward_rows(&r, &last, 1, false);
  assert_memory_equal(again, third, (size_t)r.n_vocab * sizeof *again);
  free(again);
  free(third);
  free(logits);
  free(d);
  finish(&r);
}

static void arguments_are_checked(void **state) {
  (void)state;
  run r = start("llava-gqa", "ref");
  const int n = r.layout.n_token;
  float *x = calloc(3 * (size_t)r.n_vocab, sizeof *x);
  const int32_t ids[2] = {5, 352}, negative = -1;
  const int down[2] = {3, 2}, same[2] = {3, 3}, past = n, before = -1, last = n - 1;
  ASSERT_FAILS(sl_session_step(r.session, ids, 1, x, NULL), SL_ERROR_ARGUMENT, "before it");
  ASSERT_FAILS(sl_session_backward(r.session, &last, 1, x, NULL, false), SL_ERROR_ARGUMENT, "forward with keep");
  ASSERT_FAILS(sl_session_forward(r.session, &r.layout, NULL, NULL, 0, NULL, NULL, false), SL_ERROR_ARGUMENT,
               "picture");
  ASSERT_FAILS(sl_session_forward(r.session, &r.layout, r.image, down, 2, x, NULL, false), SL_ERROR_ARGUMENT,
               "ascending");
  ASSERT_FAILS(sl_session_forward(r.session, &r.layout, r.image, same, 2, x, NULL, false), SL_ERROR_ARGUMENT,
               "ascending");
  ASSERT_FAILS(sl_session_forward(r.session, &r.layout, r.image, &past, 1, x, NULL, false), SL_ERROR_ARGUMENT, "row");
  ASSERT_FAILS(sl_session_forward(r.session, &r.layout, r.image, &before, 1, x, NULL, false), SL_ERROR_ARGUMENT, "row");
  ASSERT_OK(sl_session_forward(r.session, &r.layout, r.image, &last, 1, NULL, NULL, false)); /* logits may be NULL */
  ASSERT_FAILS(sl_session_backward(r.session, &last, 1, x, NULL, false), SL_ERROR_ARGUMENT, "forward with keep");
  ASSERT_FAILS(sl_session_step(r.session, ids, 2, x, NULL), SL_ERROR_ARGUMENT, "352");
  ASSERT_FAILS(sl_session_step(r.session, &negative, 1, x, NULL), SL_ERROR_ARGUMENT, "-1");
  ASSERT_FAILS(sl_session_step(r.session, ids, 0, x, NULL), SL_ERROR_ARGUMENT, "at least 1");
  ASSERT_OK(sl_session_forward(r.session, &r.layout, r.image, NULL, 0, NULL, NULL, true));
  ASSERT_FAILS(sl_session_backward(r.session, &last, 0, x, NULL, false), SL_ERROR_ARGUMENT, "at least one");
  ASSERT_FAILS(sl_session_backward(r.session, down, 2, x, NULL, false), SL_ERROR_ARGUMENT, "ascending");
  ASSERT_FAILS(sl_session_backward(r.session, &past, 1, x, NULL, false), SL_ERROR_ARGUMENT, "row");
  ASSERT_OK(sl_session_backward(r.session, &last, 1, x, NULL, true));
  sl_image *plain = NULL;
  ASSERT_OK(sl_image_encode(&plain, r.session, r.pixels, NULL, NULL, false));
  ASSERT_OK(sl_session_forward(r.session, &r.layout, plain, NULL, 0, NULL, NULL, true));
  ASSERT_FAILS(sl_session_backward(r.session, &last, 1, x, NULL, true), SL_ERROR_ARGUMENT, "encoded with keep");
  ASSERT_FAILS(sl_session_step(r.session, ids, 1, x, NULL), SL_ERROR_ARGUMENT, "without keep");
  ASSERT_OK(sl_session_forward(r.session, &r.layout, plain, NULL, 0, NULL, NULL, false));
  ASSERT_OK(sl_session_step(r.session, ids, 1, x, NULL));
  ASSERT_FAILS(sl_session_backward(r.session, &last, 1, x, NULL, false), SL_ERROR_ARGUMENT, "forward with keep");
  sl_image_free(plain);
  free(x);
  finish(&r);
}

/* ---- records ---- */

static const sl_tensor *record_find(const sl_record *record, const char *name) {
  for (int i = 0; i < sl_record_count(record); i++)
    if (strcmp(sl_record_at(record, i)->name, name) == 0) return sl_record_at(record, i);
  fail_msg("%s was not recorded", name);
  return NULL;
}

static sl_record *record_run(run *r, const char *spec) {
  sl_record *record = NULL;
  sl_probe vision, decoder;
  sl_image *image = NULL;
  ASSERT_OK(sl_record_new(&record, r->model, NULL, &r->layout, spec));
  ASSERT_OK(sl_record_probe(record, r->session, SL_PART_VISION, &vision));
  ASSERT_OK(sl_record_probe(record, r->session, SL_PART_DECODER, &decoder));
  ASSERT_OK(sl_image_encode(&image, r->session, r->pixels, NULL, &vision, false));
  ASSERT_OK(sl_session_forward(r->session, &r->layout, image, NULL, 0, NULL, &decoder, false));
  sl_image_free(image);
  return record;
}

static void check_shape(const sl_tensor *t, int n_dim, int64_t a, int64_t b, int64_t c) {
  assert_int_equal(t->n_dim, n_dim);
  assert_int_equal(t->shape[0], a);
  assert_int_equal(t->shape[1], b);
  if (n_dim > 2) assert_int_equal(t->shape[2], c);
}

/* Equal but for the last bits: a branch's output that is recorded is computed apart from the sum it goes into. */
static void expect_floats(const float *got, const float *want, int n) {
  for (int i = 0; i < n; i++)
    if (!(fabs((double)got[i] - (double)want[i]) <= 1e-5 * (1 + fabs((double)want[i]))) && got[i] != want[i])
      fail_msg("value %d is %.9g, expected %.9g", i, (double)got[i], (double)want[i]);
}

/* A part recorded alone equals that part of the whole. */
static void parts_equal_the_whole(void **state) {
  (void)state;
  run r = start("llava-gqa", "ref");
  const int n = r.layout.n_token;
  sl_record *all = record_run(&r, "*");
  sl_record *some =
      record_run(&r, "blocks.1.attn.hook_q@0-2;-1#1;-1,model.layers.2.mlp@5,blocks.0.attn.hook_pattern@3;-2#2,"
                     "blocks.0.attn.hook_attn_scores@-1,hook_logits@-1,vision.blocks.1.hook_mlp_out@0,"
                     "vision_tower.vision_model.encoder.layers.1.layer_norm2@-1,"
                     "language_model.model.layers.2.mlp@7;6-8,blocks.1.attn.hook_v#0");
  assert_int_equal(sl_record_count(some), 8);
  const float *q = record_find(all, "blocks.1.attn.hook_q")->data, *got = NULL;
  const sl_tensor *t = record_find(some, "blocks.1.attn.hook_q");
  check_shape(t, 3, 4, 2, 12);
  got = t->data;
  const int positions[4] = {0, 1, 2, n - 1}, heads[2] = {1, 3};
  for (int i = 0; i < 4; i++)
    for (int h = 0; h < 2; h++) expect_floats(got + (i * 2 + h) * 12, q + (positions[i] * 4 + heads[h]) * 12, 12);
  t = record_find(some, "blocks.2.hook_mlp_out"); /* two items name it: both have their rows */
  check_shape(t, 2, 4, 48, 0);
  const float *mlp = record_find(all, "blocks.2.hook_mlp_out")->data;
  for (int i = 0; i < 4; i++) expect_floats((const float *)t->data + i * 48, mlp + (5 + i) * 48, 48);
  t = record_find(some, "blocks.0.attn.hook_pattern"); /* other rows of the same attention are emitted besides */
  check_shape(t, 3, 1, 2, n);
  const float *pattern = record_find(all, "blocks.0.attn.hook_pattern")->data;
  expect_floats(t->data, pattern + (2 * n + 3) * n, n);
  expect_floats((const float *)t->data + n, pattern + (2 * n + n - 2) * n, n);
  t = record_find(some, "blocks.0.attn.hook_attn_scores");
  check_shape(t, 3, 4, 1, n);
  const float *scores = record_find(all, "blocks.0.attn.hook_attn_scores")->data;
  for (int h = 0; h < 4; h++) expect_floats((const float *)t->data + h * n, scores + (h * n + n - 1) * n, n);
  check_shape(record_find(some, "hook_logits"), 2, 1, r.n_vocab, 0);
  check_shape(record_find(some, "vision.blocks.1.hook_mlp_out"), 2, 1, 32, 0);
  check_shape(record_find(some, "vision.blocks.1.ln2.hook_normalized"), 2, 1, 32, 0);
  check_shape(record_find(some, "blocks.1.attn.hook_v"), 3, n, 1, 12);
  sl_record_free(some);
  sl_record_free(all);
  finish(&r);
}

static void record_specs_are_checked(void **state) {
  (void)state;
  run r = start("llava-gqa", "ref");
  static const struct {
    const char *spec, *part;
  } wrong[] = {{"", "no site"},
               {",,", "no site"},
               {"blocks.9.hook_resid_pre", "\"blocks.9.hook_resid_pre\" names no site"},
               {"blocks.0.hook_resid_pre,nonsense", "\"nonsense\" names no site"},
               {"blocks.0.hook_resid_pre@999", "from 0 to"},
               {"blocks.0.hook_resid_pre@-999", "from 0 to"},
               {"blocks.0.hook_resid_pre@5-3", "ascending"},
               {"blocks.0.hook_resid_pre@", "not a list of positions"},
               {"blocks.0.hook_resid_pre@0-", "not a list of positions"},
               {"blocks.0.hook_resid_pre@1;", "not a list of positions"},
               {"blocks.0.hook_resid_pre@x", "not a list of positions"},
               {"blocks.0.hook_resid_pre@+1", "not a list of positions"},
               {"blocks.0.hook_resid_pre@ 1", "not a list of positions"},
               {"blocks.0.hook_resid_pre@1:2", "not a list of positions"},
               {"blocks.0.hook_resid_pre@99999999999999999999", "from 0 to"},
               {"blocks.0.hook_resid_pre@--1", "not a list of positions"},
               {"blocks.0.hook_resid_pre#0", "no heads"},
               {"blocks.0.attn.hook_q#4", "from 0 to 3"},
               {"blocks.0.attn.hook_k#2", "from 0 to 1"},
               {"blocks.0.attn.hook_q#0@1", "not a list of heads"},
               {"vision.blocks.2.hook_resid_pre", "names no site"}}; /* above the kept feature layer */
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    sl_record *record = (sl_record *)1;
    ASSERT_FAILS(sl_record_new(&record, r.model, NULL, &r.layout, wrong[i].spec), SL_ERROR_ARGUMENT, wrong[i].part);
    assert_null(record);
  }
  /* Patterns cannot be had from a step; other sites can. */
  sl_record *record = record_run(&r, "blocks.0.attn.hook_pattern@-1");
  sl_probe probe;
  ASSERT_OK(sl_record_probe(record, r.session, SL_PART_DECODER, &probe));
  float *logits = calloc((size_t)r.n_vocab, sizeof *logits);
  const int32_t id = 4;
  ASSERT_FAILS(sl_session_step(r.session, &id, 1, logits, &probe), SL_ERROR_ARGUMENT, "step");
  ASSERT_OK(sl_session_step(r.session, &id, 1, logits, NULL));
  sl_record_free(record);
  free(logits);
  finish(&r);
}

/* ---- failing allocations ---- */

static sl_status whole_run(const sl_model *model, const float *pixels) {
  sl_session *session = NULL;
  sl_layout layout = {0};
  sl_image *image = NULL;
  sl_record *record = NULL;
  sl_probe probe;
  float *x = calloc((size_t)sl_model_get_shape(model)->n_vocab, sizeof *x);
  sl_status status = sl_session_new(&session, model, 1);
  if (status == SL_OK) status = sl_layout_build(&layout, model, NULL, "Is there a cat?", false);
  if (status == SL_OK) status = sl_image_encode(&image, session, pixels, NULL, NULL, true);
  if (status == SL_OK) status = sl_record_new(&record, model, NULL, &layout, "blocks.*.attn.hook_pattern@-1");
  if (status == SL_OK) status = sl_record_probe(record, session, SL_PART_DECODER, &probe);
  const int last = layout.n_token - 1;
  const int32_t ids[] = {3, 4, 5, 6};
  if (status == SL_OK) status = sl_session_forward(session, &layout, image, &last, 1, x, &probe, true);
  if (status == SL_OK) status = sl_session_backward(session, &last, 1, x, NULL, true);
  if (status == SL_OK) status = sl_session_forward(session, &layout, image, NULL, 0, NULL, NULL, false);
  if (status == SL_OK) status = sl_session_step(session, ids, 4, x, NULL);
  if (status == SL_ERROR_MEMORY && session) { /* the session still works, or says what it lacks */
    sl_alloc_fail_at(0);
    const sl_status again = sl_session_step(session, ids, 4, x, NULL);
    if (again != SL_OK && again != SL_ERROR_ARGUMENT) fail_msg("a step after a failure: %s", sl_error_message());
  }
  if (status == SL_OK) status = sl_layout_append_text(&layout, model, "Yes");
  if (status == SL_OK) status = sl_session_greedy(session, &layout, image, 2, NULL, NULL);
  sl_record_free(record);
  sl_image_free(image);
  sl_layout_dispose(&layout);
  sl_session_free(session);
  free(x);
  return status;
}

static void allocations_may_fail(void **state) {
  (void)state;
  run r = start("llava-gqa", "ref");
  for (long n = 1;; n++) {
    sl_alloc_fail_at(n);
    const sl_status status = whole_run(r.model, r.pixels);
    sl_alloc_fail_at(0);
    if (status == SL_OK) {
      assert_true(n > 40);
      break;
    }
    if (status != SL_ERROR_MEMORY) fail_msg("allocation %ld: %s", n, sl_error_message());
  }
  finish(&r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(steps_equal_forward),
      cmocka_unit_test(greedy_is_argmax),
      cmocka_unit_test(kept_recomputed_and_threads_agree),
      cmocka_unit_test(keep_limit_saves_memory),
      cmocka_unit_test(sessions_do_not_meet),
      cmocka_unit_test(cancel_stops_work),
      cmocka_unit_test(arguments_are_checked),
      cmocka_unit_test(parts_equal_the_whole),
      cmocka_unit_test(record_specs_are_checked),
      cmocka_unit_test(allocations_may_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
