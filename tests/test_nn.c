/* nn/: every backward against finite differences of its forward, coordinate by coordinate, and the names of sites.
 *
 * The derivative by one coordinate c of a site's value is taken with f(v) = sum of w * output over random w:
 *   (8 (f(c + h) - f(c - h)) - (f(c + 2h) - f(c - 2h))) / 12 h,   h = 0.05
 * whose own error is h^4 / 30 times the fifth derivative (about 1e-6) plus f32 rounding of the forward, about
 * 1e-6 / h = 2e-5. All values here are of order 1, so 5e-4 of the largest gradient leaves a factor of ten; a wrong term
 * anywhere shows as 1e-2 or more. The value is changed through the probe, which sees it in place. */
#include "golden.h"

#include "base/rng.h"
#include "model/keep.h"
#include "nn/decoder.h"
#include "nn/projector.h"
#include "nn/tower.h"

#define STEP 0.05
#define TOLERANCE 5e-4
#define MAX_LAYER 2

typedef struct lab lab;

/* What is differentiated: a forward that ends in a weighted sum, and its backward. */
typedef struct stage {
  const char *name;
  double (*forward)(lab *l, const sl_probe *probe, bool keep);
  void (*backward)(lab *l, const sl_probe *probe);
} stage;

struct lab {
  sl_backend *backend;
  sl_queue *queue;
  sl_scratch scratch;
  sl_buffer *buffers[256];
  sl_weight *weights[64];
  int n_buffer, n_weight;
  uint64_t stream; /* of random numbers: one for each array */
  sl_block_shape shape;
  sl_block_weights blocks[MAX_LAYER];
  int n_layer, n_row, first_row; /* rows before first_row have no weight in the sum */
  sl_mat x, start, d; /* [n_row, D]; start: the input of the stack */
  sl_ints positions;
  sl_kv kv[MAX_LAYER];
  sl_keep keep;
  bool use_kv;
  sl_tower tower;
  sl_decoder decoder;
  sl_projector projector;
  sl_mat patches, out, pre, logits;
  float *w; /* weights of the sum, by rows of the output */
};

/* ---- the lab ---- */

static sl_context context_of(lab *l, const sl_probe *probe) {
  return (sl_context){.queue = l->queue, .ops = sl_queue_ops(l->queue), .scratch = &l->scratch, .probe = probe};
}

static lab lab_open(void) {
  lab l = {0};
  ASSERT_OK(sl_backend_open(&l.backend, "ref"));
  ASSERT_OK(sl_queue_new(&l.queue, l.backend, 1));
  ASSERT_OK(sl_queue_reserve(l.queue, 64, 512, 64));
  l.scratch.capacity = 1 << 17;
  ASSERT_OK(sl_buffer_new(&l.scratch.buffer, l.backend, (size_t)l.scratch.capacity * sizeof(float), "scratch"));
  return l;
}

static void lab_close(lab *l) {
  assert_int_equal(l->scratch.used, 0); /* every function gives back what it took */
  for (int i = 0; i < l->n_buffer; i++) sl_buffer_free(l->buffers[i]);
  for (int i = 0; i < l->n_weight; i++) sl_weight_free(l->weights[i]);
  sl_keep_dispose(&l->keep);
  sl_buffer_free(l->scratch.buffer);
  sl_queue_free(l->queue);
  sl_backend_close(l->backend);
  free(l->w);
}

/* [rows, cols] with rows 64-byte aligned, filled with mean + scale * normal. */
static sl_mat random_mat(lab *l, int rows, int cols, double mean, double scale) {
  const int64_t stride = sl_scratch_stride(cols);
  sl_buffer *buffer = NULL;
  ASSERT_OK(sl_buffer_new(&buffer, l->backend, (size_t)(rows * stride) * sizeof(float), "test"));
  l->buffers[l->n_buffer++] = buffer;
  float *host = calloc((size_t)(rows * stride), sizeof *host);
  for (int64_t i = 0; i < rows * stride; i++)
    host[i] = (float)(mean + scale * sl_rng_normal(7, l->stream, (uint64_t)i));
  l->stream++;
  sl_buffer_write(l->queue, buffer, 0, host, (size_t)(rows * stride) * sizeof(float));
  free(host);
  return (sl_mat){buffer, 0, stride, rows, cols, SL_F32};
}

static sl_weight *random_weight(lab *l, int rows, int cols) {
  float *host = calloc((size_t)rows * (size_t)cols, sizeof *host);
  for (int i = 0; i < rows * cols; i++)
    host[i] = (float)(sl_rng_normal(7, l->stream, (uint64_t)i) / sqrt((double)cols));
  l->stream++;
  const sl_tensor part = {.name = "w", .data = host, .dtype = SL_F32, .n_dim = 2, .shape = {rows, cols}};
  sl_weight *weight = NULL;
  ASSERT_OK(sl_weight_new(&weight, l->backend, SL_COMPUTE_F32, &part, 1));
  l->weights[l->n_weight++] = weight;
  free(host);
  return weight;
}

static void fill_block(lab *l, sl_block_weights *b, bool bias) {
  const sl_block_shape *s = &l->shape;
  const int D = s->d_model;
  *b = (sl_block_weights){.norm1_w = random_mat(l, 1, D, 1, 0.2), .norm2_w = random_mat(l, 1, D, 1, 0.2)};
  if (s->norm == SL_NORM_LAYER) {
    b->norm1_b = random_mat(l, 1, D, 0, 0.3);
    b->norm2_b = random_mat(l, 1, D, 0, 0.3);
  }
  b->qkv = random_weight(l, sl_block_qkv_width(s), D);
  b->o = random_weight(l, D, s->n_head * s->d_head);
  b->up = random_weight(l, sl_block_up_width(s), D);
  b->down = random_weight(l, D, s->d_mlp);
  if (!bias) return;
  b->qkv_b = random_mat(l, 1, sl_block_qkv_width(s), 0, 0.3);
  b->o_b = random_mat(l, 1, D, 0, 0.3);
  b->up_b = random_mat(l, 1, sl_block_up_width(s), 0, 0.3);
  b->down_b = random_mat(l, 1, D, 0, 0.3);
}

/* How much a block keeps: only its input, all but the activation's input, everything. */
typedef enum keeps { INPUT, PART, WHOLE, N_KEEPS } keeps;

/* `n_layer` blocks over n_row rows; what they keep is f32 or bf16. */
static void fill_stack(lab *l, const sl_block_shape *shape, int n_layer, int n_row, bool bias, keeps how,
                       sl_compute compute) {
  l->shape = *shape;
  l->n_layer = n_layer;
  l->n_row = n_row;
  if (shape->causal) { /* a decoder: rotary embedding, at positions with gaps, and a cache */
    float inv_freq[16];
    for (int i = 0; i < shape->d_head / 2; i++) inv_freq[i] = (float)pow(50, -2.0 * i / shape->d_head);
    l->shape.inv_freq = random_mat(l, 1, shape->d_head / 2, 0, 0);
    sl_buffer_write(l->queue, l->shape.inv_freq.buffer, 0, inv_freq, (size_t)(shape->d_head / 2) * sizeof(float));
    int32_t positions[64];
    for (int t = 0; t < n_row; t++) positions[t] = 3 + 2 * t;
    const sl_mat numbers = random_mat(l, 1, n_row, 0, 0);
    sl_buffer_write(l->queue, numbers.buffer, 0, positions, (size_t)n_row * sizeof *positions);
    l->positions = (sl_ints){numbers.buffer, 0, n_row};
    for (int il = 0; il < n_layer; il++)
      l->kv[il] = (sl_kv){random_mat(l, n_row + 3, shape->n_head_kv * shape->d_head, 0, 9),
                          random_mat(l, n_row + 3, shape->n_head_kv * shape->d_head, 0, 9)};
  }
  for (int il = 0; il < n_layer; il++) fill_block(l, &l->blocks[il], bias);
  l->start = random_mat(l, n_row, shape->d_model, 0, 1);
  l->x = random_mat(l, n_row, shape->d_model, 0, 1);
  l->d = random_mat(l, n_row, shape->d_model, 0, 1);
  sl_block_shape kept = l->shape; /* only what is kept is rounded: the forward stays smooth for differences */
  kept.compute = compute;
  ASSERT_OK(sl_keep_reserve(&l->keep, l->backend, &kept, n_layer, n_row,
                            (sl_keep_counts){how == WHOLE ? n_layer : 0, how == PART ? n_layer : 0}));
}

static void random_sum(lab *l, int rows, int cols) {
  l->w = calloc((size_t)rows * (size_t)cols, sizeof *l->w);
  for (int i = 0; i < rows * cols; i++)
    l->w[i] = i / cols < l->first_row ? 0 : (float)sl_rng_normal(8, l->stream, (uint64_t)i);
  l->stream++;
}

static void read_mat(lab *l, sl_mat m, float *out) {
  for (int i = 0; i < m.rows; i++)
    sl_buffer_read(l->queue, out + (size_t)i * (size_t)m.cols, m.buffer,
                   (size_t)(m.offset + i * m.stride) * sizeof(float), (size_t)m.cols * sizeof(float));
}

static void write_mat(lab *l, sl_mat m, const float *values) {
  for (int i = 0; i < m.rows; i++)
    sl_buffer_write(l->queue, m.buffer, (size_t)(m.offset + i * m.stride) * sizeof(float),
                    values + (size_t)i * (size_t)m.cols, (size_t)m.cols * sizeof(float));
}

/* Sum of w * m in double. */
static double weigh(lab *l, sl_mat m) {
  float *host = calloc((size_t)m.rows * (size_t)m.cols, sizeof *host);
  read_mat(l, m, host);
  double sum = 0;
  for (int i = 0; i < m.rows * m.cols; i++) sum += l->w[i] == 0 ? 0 : (double)l->w[i] * (double)host[i];
  free(host);
  return sum;
}

/* ---- changing a value, collecting gradients ---- */

typedef struct place {
  sl_part part;
  sl_site site;
  int layer;
  int rows, cols;
  float *value, *grad, *seen; /* [rows, cols]; seen: the value as the forward showed it */
  int n_seen;
} place;

/* One probe for all: notes values and gradients of every differentiable site, or changes one coordinate. */
typedef struct needle {
  lab *l;
  place places[64];
  int n_place;
  const place *at; /* change this place's */
  int row, col;
  double by;
} needle;

static bool wants(void *user, sl_part part, sl_site site, int layer, bool backward) {
  const needle *n = user;
  if (n->at) return !backward && n->at->part == part && n->at->site == site && n->at->layer == layer;
  return sl_site_get(site)->differentiable;
}

static void change(const needle *n, sl_queue *queue, sl_mat value) {
  float v;
  const size_t offset = (size_t)(value.offset + n->row * value.stride + n->col) * sizeof v;
  sl_buffer_read(queue, &v, value.buffer, offset, sizeof v);
  v += (float)n->by;
  sl_buffer_write(queue, value.buffer, offset, &v, sizeof v);
}

static place *find_place(needle *n, sl_part part, sl_site site, int layer) {
  for (int i = 0; i < n->n_place; i++)
    if (n->places[i].part == part && n->places[i].site == site && n->places[i].layer == layer) return &n->places[i];
  return NULL;
}

static void note_forward(needle *n, sl_part part, sl_site site, int layer, sl_mat value) {
  place *p = &n->places[n->n_place++];
  const size_t count = (size_t)value.rows * (size_t)value.cols;
  *p = (place){part,
               site,
               layer,
               value.rows,
               value.cols,
               calloc(count, sizeof(float)),
               calloc(count, sizeof(float)),
               calloc(count, sizeof(float)),
               0};
  read_mat(n->l, value, p->seen);
}

static void see(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                sl_mat grad) {
  needle *n = user;
  if (n->at) {
    change(n, queue, value);
    return;
  }
  if (!grad.buffer) {
    assert_int_equal(first_row, 0);
    note_forward(n, part, site, layer, value);
    return;
  }
  place *p = find_place(n, part, site, layer);
  assert_non_null(p);
  assert_int_equal(first_row + value.rows, p->rows);
  assert_int_equal(grad.rows, value.rows);
  assert_int_equal(grad.cols, p->cols);
  read_mat(n->l, value, p->value + (size_t)first_row * (size_t)p->cols);
  read_mat(n->l, grad, p->grad + (size_t)first_row * (size_t)p->cols);
  memcpy(p->value, p->seen, (size_t)first_row * (size_t)p->cols * sizeof(float));
  p->n_seen++;
}

static double difference(needle *n, const stage *s, const place *p, int row, int col) {
  const sl_probe probe = {.user = n, .wants = wants, .see = see};
  double f[4];
  static const double at[4] = {1, -1, 2, -2};
  n->at = p;
  n->row = row;
  n->col = col;
  for (int i = 0; i < 4; i++) {
    n->by = at[i] * STEP;
    f[i] = s->forward(n->l, &probe, false);
  }
  n->at = NULL;
  return (8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * STEP);
}

static void check_place(needle *n, const stage *s, const place *p, double tolerance) {
  char name[64];
  sl_site_name(name, p->part, p->site, p->layer);
  if (p->n_seen != 1) fail_msg("%s: %s shown %d times in the backward pass", s->name, name, p->n_seen);
  double most = 0, largest = 0, moved = 0;
  for (int row = 0; row < p->rows; row++)
    for (int col = 0; col < p->cols; col++) {
      const size_t i = (size_t)row * (size_t)p->cols + (size_t)col;
      const double error = fabs(difference(n, s, p, row, col) - (double)p->grad[i]);
      if (!(error <= most)) most = isfinite(error) ? error : INFINITY;
      largest = fmax(largest, fabs((double)p->grad[i]));
      moved = fmax(moved, fabs((double)p->value[i] - (double)p->seen[i]));
    }
  if (getenv("SL_TEST_VERBOSE")) fprintf(stderr, "%s %s: error %.2g of %.3g\n", s->name, name, most / largest, largest);
  if (!(largest > 0.01)) fail_msg("%s: the gradient at %s is nothing (%g)", s->name, name, largest);
  if (!(most <= tolerance * largest))
    fail_msg("%s: gradient at %s is off by %.2g of its largest value", s->name, name, most / largest);
  if (!(moved <= (tolerance > 0.01 ? 0.05 : 0)))
    fail_msg("%s: the backward pass shows another value of %s", s->name, name);
}

/* Forward, backward, then finite differences at every place that the forward showed. */
static void check_stage(lab *l, const stage *s, int n_expected, double tolerance) {
  needle n = {.l = l};
  const sl_probe probe = {.user = &n, .wants = wants, .see = see};
  s->forward(l, &probe, true);
  assert_int_equal(n.n_place, n_expected);
  s->backward(l, &probe);
  for (int i = 0; i < n.n_place; i++) check_place(&n, s, &n.places[i], tolerance);
  for (int i = 0; i < n.n_place; i++) {
    free(n.places[i].value);
    free(n.places[i].grad);
    free(n.places[i].seen);
  }
}

/* The sum's weights as the output's gradient; rows before first_row are garbage, for nobody may read them. */
static void set_gradient(lab *l, sl_mat d) {
  float *host = malloc((size_t)d.rows * (size_t)d.cols * sizeof *host);
  for (int i = 0; i < d.rows * d.cols; i++) host[i] = i / d.cols < l->first_row ? NAN : l->w[i];
  write_mat(l, d, host);
  free(host);
}

/* ---- one block ---- */

static double block_forward(lab *l, const sl_probe *probe, bool keep) {
  const sl_context c = context_of(l, probe);
  c.ops->copy(l->queue, l->x, l->start);
  sl_block_forward(&c, &l->shape, &l->blocks[0], 0, l->x, 0, l->positions, l->use_kv ? &l->kv[0] : NULL,
                   keep ? &l->keep.acts[0] : NULL);
  return weigh(l, l->x);
}

static void block_backward(lab *l, const sl_probe *probe) {
  const sl_context c = context_of(l, probe);
  int first_row = l->first_row;
  set_gradient(l, l->d);
  sl_block_backward(&c, &l->shape, &l->blocks[0], 0, l->d, &first_row, l->positions, &l->keep.acts[0],
                    true);
  assert_int_equal(first_row, 0);
}

static const sl_block_shape llama = {.part = SL_PART_DECODER,
                                     .d_model = 12,
                                     .n_head = 4,
                                     .n_head_kv = 2,
                                     .d_head = 6,
                                     .d_mlp = 20,
                                     .norm = SL_NORM_RMS,
                                     .eps = 1e-2f,
                                     .act = SL_ACT_SILU,
                                     .gated = true,
                                     .causal = true};
static const sl_block_shape clip = {.part = SL_PART_VISION,
                                    .d_model = 12,
                                    .n_head = 3,
                                    .n_head_kv = 3,
                                    .d_head = 4,
                                    .d_mlp = 18,
                                    .norm = SL_NORM_LAYER,
                                    .eps = 1e-2f,
                                    .act = SL_ACT_QUICK_GELU};

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

static double tower_forward(lab *l, const sl_probe *probe, bool keep) {
  const sl_context c = context_of(l, probe);
  ASSERT_OK(sl_tower_forward(&c, &l->tower, l->x, l->patches, keep ? l->keep.acts : NULL, NULL));
  return weigh(l, l->x);
}

static void tower_backward(lab *l, const sl_probe *probe) {
  const sl_context c = context_of(l, probe);
  set_gradient(l, l->d);
  ASSERT_OK(sl_tower_backward(&c, &l->tower, l->d, l->keep.acts, NULL));
}

static void whole_tower(void **state) {
  (void)state;
  lab l = lab_open();
  fill_stack(&l, &clip, 2, 7, true, WHOLE, SL_COMPUTE_F32);
  l.tower = (sl_tower){.shape = l.shape,
                       .n_layer = 2,
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
  ASSERT_OK(sl_decoder_forward(&c, &l->decoder, l->x, 0, l->positions, l->kv, keep ? l->keep.acts : NULL, NULL));
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
  ASSERT_OK(sl_decoder_backward(&c, &l->decoder, l->d, l->first_row, l->positions, l->keep.acts, true,
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
  ASSERT_OK(sl_decoder_forward(&c, &l.decoder, l.start, 0, l.positions, NULL, l.keep.acts, NULL));
  float target[7 * 12], end[7 * 12];
  read_mat(&l, l.d, target);
  one_site sites[3] = {{&l, SL_SITE_RESID_MID, {0}}, {&l, SL_SITE_LN2, {0}}, {&l, SL_SITE_LN2, {0}}};
  for (int i = 0; i < 3; i++) {
    const sl_probe probe = {.user = &sites[i], .wants = wants_one, .see = see_one};
    const sl_context shown = context_of(&l, &probe);
    write_mat(&l, l.d, target);
    ASSERT_OK(sl_decoder_backward(&shown, &l.decoder, l.d, 0, l.positions, l.keep.acts, i < 2, NULL));
    read_mat(&l, l.d, end);
    assert_int_equal(memcmp(end, sites[0].grad, sizeof end) == 0, i == 2);
  }
  assert_memory_equal(sites[1].grad, sites[2].grad, sizeof end);
  lab_close(&l);
}

static double projector_forward(lab *l, const sl_probe *probe, bool keep) {
  const sl_context c = context_of(l, probe);
  c.ops->copy(l->queue, l->x, l->start);
  sl_projector_forward(&c, &l->projector, l->out, l->x, keep ? l->pre : (sl_mat){0});
  return weigh(l, l->out);
}

static void projector_backward(lab *l, const sl_probe *probe) {
  const sl_context c = context_of(l, probe);
  const sl_mat d_out = random_mat(l, l->out.rows, l->out.cols, 0, 1);
  set_gradient(l, d_out);
  sl_projector_backward(&c, &l->projector, l->d, d_out, l->x, l->out, l->pre);
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
  assert_int_equal(sl_decoder_backward(&c, &l.decoder, l.d, 0, l.positions, l.keep.acts, true, &stop),
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
    {"multi_modal_projector.linear_1", "projector.hook_pre"},
    {"model.multi_modal_projector.act", "projector.hook_post"},
    {"multi_modal_projector.linear_2", "projector.hook_out"},
};

static const struct {
  const char *pattern;
  int n;
} many_places[] = {
    {"blocks.*.attn.hook_pattern", N_LAYER},
    {"*.attn.hook_pattern", 2 * N_LAYER},
    {"blocks.?.hook_resid_pre", 10},
    {"vision.blocks.*.hook_mlp_out", N_LAYER},
    {"model.layers.*.mlp", N_LAYER},
    {"vision_tower.*.layer_norm2", N_LAYER},
    {"*.layers.3.mlp", 2}, /* both stacks */
    {"*.self_attn", 2 * N_LAYER},
    {"projector.*", 4},
    {"multi_modal_projector.*", 3},
    /* no such place */
    {"", 0},
    {"blocks.12.hook_resid_pre", 0},
    {"blocks.3", 0},
    {"blocks.03.hook_resid_pre", 0},
    {"blocks.3.hook_resid_pre ", 0},
    {"Blocks.3.hook_resid_pre", 0},
    {"vision.blocks.3.attn.hook_rot_q", 0}, /* the tower has no rotary embedding */
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
