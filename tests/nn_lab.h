/* The laboratory of nn's tests: random stacks on the reference backend, and every gradient against finite differences
 * of its forward, coordinate by coordinate.
 *
 * The derivative by one coordinate c of a site's value is taken with f(v) = sum of w * output over random w:
 *   (8 (f(c + h) - f(c - h)) - (f(c + 2h) - f(c - 2h))) / 12 h,   h = 0.05
 * whose own error is h^4 / 30 times the fifth derivative (about 1e-6) plus f32 rounding of the forward, about
 * 1e-6 / h = 2e-5. All values here are of order 1, so 5e-4 of the largest gradient leaves a factor of ten; a wrong term
 * anywhere shows as 1e-2 or more. The value is changed through the probe, which sees it in place. */
#ifndef TESTS_NN_LAB_H
#define TESTS_NN_LAB_H

#include "golden.h"

#include "base/rng.h"
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
  sl_compute compute; /* of random weights */
  sl_block_shape shape;
  sl_block_weights blocks[MAX_LAYER];
  int n_layer, n_row, first_row; /* rows before first_row have no weight in the sum */
  sl_mat x, start, d; /* [n_row, D]; start: the input of the stack */
  sl_ints positions, first_key, last_key;
  sl_kv kv[MAX_LAYER];
  sl_block_acts keep[MAX_LAYER];
  bool scales; /* blocks get layer scales */
  bool use_kv;
  sl_tower tower;
  sl_decoder decoder;
  sl_projector projector;
  sl_tower_view view;
  sl_mat last; /* the tower's residual before its last norm */
  sl_mat patches, out, pre, logits;
  float *w; /* weights of the sum, by rows of the output */
};

/* ---- the lab ---- */

static inline sl_context context_of(lab *l, const sl_probe *probe) {
  return (sl_context){.queue = l->queue, .ops = sl_queue_ops(l->queue), .scratch = &l->scratch, .probe = probe,
                      .first_key = l->first_key, .last_key = l->last_key};
}

static inline lab lab_open_on(const char *backend) {
  lab l = {0};
  ASSERT_OK(sl_backend_open(&l.backend, backend));
  ASSERT_OK(sl_queue_new(&l.queue, l.backend, 1));
  ASSERT_OK(sl_queue_reserve(l.queue, 64, 512, 64));
  l.scratch.capacity = 1 << 17;
  ASSERT_OK(sl_buffer_new(&l.scratch.buffer, l.backend, (size_t)l.scratch.capacity * sizeof(float), "scratch"));
  return l;
}

static inline lab lab_open(void) { return lab_open_on("ref"); }

static inline void lab_close(lab *l) {
  assert_int_equal(l->scratch.used, 0); /* every function gives back what it took */
  for (int i = 0; i < l->n_buffer; i++) sl_buffer_free(l->buffers[i]);
  for (int i = 0; i < l->n_weight; i++) sl_weight_free(l->weights[i]);
  sl_buffer_free(l->scratch.buffer);
  sl_queue_free(l->queue);
  sl_backend_close(l->backend);
  free(l->w);
}

/* [rows, cols] with rows 64-byte aligned, filled with mean + scale * normal. */
static inline sl_mat random_mat(lab *l, int rows, int cols, double mean, double scale) {
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

static inline sl_weight *random_weight(lab *l, int rows, int cols) {
  float *host = calloc((size_t)rows * (size_t)cols, sizeof *host);
  for (int i = 0; i < rows * cols; i++)
    host[i] = (float)(sl_rng_normal(7, l->stream, (uint64_t)i) / sqrt((double)cols));
  l->stream++;
  const sl_tensor part = {.name = "w", .data = host, .dtype = SL_F32, .n_dim = 2, .shape = {rows, cols}};
  sl_weight *weight = NULL;
  ASSERT_OK(sl_weight_new(&weight, l->backend, l->compute, &part, 1));
  l->weights[l->n_weight++] = weight;
  free(host);
  return weight;
}

static inline void fill_block(lab *l, sl_block_weights *b, bool bias) {
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
  if (s->qk_norm != SL_QK_NORM_NONE) {
    const bool heads = s->qk_norm == SL_QK_NORM_HEAD;
    b->q_norm_w = random_mat(l, 1, heads ? s->d_head : s->n_head * s->d_head, 1, 0.2);
    b->k_norm_w = random_mat(l, 1, heads ? s->d_head : s->n_head_kv * s->d_head, 1, 0.2);
  }
  if (s->sandwich) {
    b->post1_w = random_mat(l, 1, D, 0.8, 0.2);
    b->post2_w = random_mat(l, 1, D, 0.8, 0.2);
  }
  if (l->scales) {
    b->scale1 = random_mat(l, 1, D, 0.5, 0.3);
    b->scale2 = random_mat(l, 1, D, 0.5, 0.3);
  }
  if (!bias) return;
  b->qkv_b = random_mat(l, 1, sl_block_qkv_width(s), 0, 0.3);
  b->o_b = random_mat(l, 1, D, 0, 0.3);
  b->up_b = random_mat(l, 1, sl_block_up_width(s), 0, 0.3);
  b->down_b = random_mat(l, 1, D, 0, 0.3);
}

/* How much a block keeps: only its input, all but the activation's input, everything. */
typedef enum keeps { INPUT, PART, WHOLE, N_KEEPS } keeps;

/* A matrix for values of one type; only what is kept is rounded, so the forward stays smooth for differences. */
static inline sl_mat keep_mat(lab *l, int cols, sl_dtype dtype) {
  sl_mat m = random_mat(l, l->view.first_row + l->n_row, cols, 0, 9);
  m.dtype = dtype;
  return m;
}

static inline sl_block_acts keep_block(lab *l, keeps how, sl_dtype dtype) {
  const sl_block_shape *s = &l->shape;
  sl_block_acts acts = {.x = keep_mat(l, s->d_model, dtype)};
  if (how == INPUT) return acts;
  acts.qkv = keep_mat(l, sl_block_qkv_width(s), dtype);
  acts.lse = keep_mat(l, s->n_head, SL_F32);
  acts.mid = keep_mat(l, s->d_model, dtype);
  if (how == WHOLE) acts.up = keep_mat(l, sl_block_up_width(s), dtype);
  return acts;
}

/* `n_layer` blocks over n_row rows; what they keep is f32 or bf16. */
static inline void fill_stack(lab *l, const sl_block_shape *shape, int n_layer, int n_row, bool bias, keeps how,
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
  for (int il = 0; il < n_layer; il++) l->keep[il] = keep_block(l, how, compute == SL_COMPUTE_BF16 ? SL_BF16 : SL_F32);
}

static inline void random_sum(lab *l, int rows, int cols) {
  l->w = calloc((size_t)rows * (size_t)cols, sizeof *l->w);
  for (int i = 0; i < rows * cols; i++)
    l->w[i] = i / cols < l->first_row ? 0 : (float)sl_rng_normal(8, l->stream, (uint64_t)i);
  l->stream++;
}

static inline void read_mat(lab *l, sl_mat m, float *out) {
  for (int i = 0; i < m.rows; i++)
    sl_buffer_read(l->queue, out + (size_t)i * (size_t)m.cols, m.buffer,
                   (size_t)(m.offset + i * m.stride) * sizeof(float), (size_t)m.cols * sizeof(float));
}

static inline void write_mat(lab *l, sl_mat m, const float *values) {
  for (int i = 0; i < m.rows; i++)
    sl_buffer_write(l->queue, m.buffer, (size_t)(m.offset + i * m.stride) * sizeof(float),
                    values + (size_t)i * (size_t)m.cols, (size_t)m.cols * sizeof(float));
}

/* Sum of w * m in double. */
static inline double weigh(lab *l, sl_mat m) {
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

static inline bool wants(void *user, sl_part part, sl_site site, int layer, bool backward) {
  const needle *n = user;
  if (n->at) return !backward && n->at->part == part && n->at->site == site && n->at->layer == layer;
  return sl_site_get(site)->differentiable;
}

static inline void change(const needle *n, sl_queue *queue, sl_mat value) {
  float v;
  const size_t offset = (size_t)(value.offset + n->row * value.stride + n->col) * sizeof v;
  sl_buffer_read(queue, &v, value.buffer, offset, sizeof v);
  v += (float)n->by;
  sl_buffer_write(queue, value.buffer, offset, &v, sizeof v);
}

static inline place *find_place(needle *n, sl_part part, sl_site site, int layer) {
  for (int i = 0; i < n->n_place; i++)
    if (n->places[i].part == part && n->places[i].site == site && n->places[i].layer == layer) return &n->places[i];
  return NULL;
}

static inline void note_forward(needle *n, sl_part part, sl_site site, int layer, sl_mat value) {
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

static inline void see(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                sl_mat grad) {
  needle *n = user;
  if (n->at) {
    change(n, queue, value);
    return;
  }
  if (!grad.buffer) {
    assert_int_equal(first_row, n->l->view.first_row);
    note_forward(n, part, site, layer, value);
    return;
  }
  place *p = find_place(n, part, site, layer);
  assert_non_null(p);
  first_row -= n->l->view.first_row;
  assert_int_equal(first_row + value.rows, p->rows);
  assert_int_equal(grad.rows, value.rows);
  assert_int_equal(grad.cols, p->cols);
  read_mat(n->l, value, p->value + (size_t)first_row * (size_t)p->cols);
  read_mat(n->l, grad, p->grad + (size_t)first_row * (size_t)p->cols);
  memcpy(p->value, p->seen, (size_t)first_row * (size_t)p->cols * sizeof(float));
  p->n_seen++;
}

static inline double difference(needle *n, const stage *s, const place *p, int row, int col) {
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

static inline void check_place(needle *n, const stage *s, const place *p, double tolerance) {
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
static inline void check_stage(lab *l, const stage *s, int n_expected, double tolerance) {
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
static inline void set_gradient(lab *l, sl_mat d) {
  float *host = malloc((size_t)d.rows * (size_t)d.cols * sizeof *host);
  for (int i = 0; i < d.rows * d.cols; i++) host[i] = i / d.cols < l->first_row ? NAN : l->w[i];
  write_mat(l, d, host);
  free(host);
}

/* ---- stages ---- */

static inline double block_forward(lab *l, const sl_probe *probe, bool keep) {
  const sl_context c = context_of(l, probe);
  c.ops->copy(l->queue, l->x, l->start);
  sl_block_forward(&c, &l->shape, &l->blocks[0], 0, l->x, 0, l->positions, l->use_kv ? &l->kv[0] : NULL,
                   keep ? &l->keep[0] : NULL);
  return weigh(l, l->x);
}

static inline void block_backward(lab *l, const sl_probe *probe) {
  const sl_context c = context_of(l, probe);
  int first_row = l->first_row;
  set_gradient(l, l->d);
  sl_block_backward(&c, &l->shape, &l->blocks[0], 0, l->d, &first_row, l->positions, &l->keep[0],
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

static inline double tower_forward(lab *l, const sl_probe *probe, bool keep) {
  const sl_context c = context_of(l, probe);
  const sl_tower_acts acts = {.blocks = l->keep, .last = l->last};
  ASSERT_OK(sl_tower_forward(&c, &l->tower, l->x, l->patches, &l->view, keep ? &acts : NULL, NULL));
  return weigh(l, l->x);
}

static inline void tower_backward(lab *l, const sl_probe *probe) {
  const sl_context c = context_of(l, probe);
  const sl_tower_acts acts = {.blocks = l->keep, .last = l->last};
  set_gradient(l, l->d);
  ASSERT_OK(sl_tower_backward(&c, &l->tower, l->d, &l->view, &acts, NULL));
}

static inline double projector_forward(lab *l, const sl_probe *probe, bool keep) {
  const sl_context c = context_of(l, probe);
  c.ops->copy(l->queue, l->x, l->start);
  sl_projector_forward(&c, &l->projector, l->out, l->x, keep ? l->pre : (sl_mat){0});
  return weigh(l, l->out);
}

static inline void projector_backward(lab *l, const sl_probe *probe) {
  const sl_context c = context_of(l, probe);
  const sl_mat d_out = random_mat(l, l->out.rows, l->out.cols, 0, 1);
  set_gradient(l, d_out);
  sl_projector_backward(&c, &l->projector, l->d, d_out, l->x, l->out, l->pre);
}

/* ---- seeing every value ---- */

typedef struct seen {
  sl_part part;
  sl_site site;
  int layer, first_row, rows, cols;
  float *values;
} seen;

typedef struct capture {
  lab *l;
  seen sites[64];
  int n;
} capture;

static inline bool wants_all(void *user, sl_part part, sl_site site, int layer, bool backward) {
  (void)user, (void)part, (void)site, (void)layer;
  return !backward;
}

static inline void see_all(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row,
                           sl_mat value, sl_mat grad) {
  (void)queue, (void)grad;
  capture *c = user;
  assert_true(c->n < 64);
  float *values = malloc((size_t)value.rows * (size_t)value.cols * sizeof *values);
  read_mat(c->l, value, values);
  c->sites[c->n++] = (seen){part, site, layer, first_row, value.rows, value.cols, values};
}

static inline const seen *find(const capture *c, sl_site site, int layer) {
  for (int i = 0; i < c->n; i++)
    if (c->sites[i].site == site && c->sites[i].layer == layer) return &c->sites[i];
  fail_msg("site %d was not shown", site);
  return NULL;
}

static inline void capture_free(capture *c) {
  for (int i = 0; i < c->n; i++) free(c->sites[i].values);
  c->n = 0;
}

/* 0, 1, .. n - 1 on the device. */
static inline sl_ints numbers(lab *l, int n) {
  int32_t host[64];
  const sl_mat m = random_mat(l, 1, n, 0, 0);
  for (int i = 0; i < n; i++) host[i] = i;
  sl_buffer_write(l->queue, m.buffer, 0, host, (size_t)n * sizeof *host);
  return (sl_ints){m.buffer, 0, n};
}

static inline sl_ints ints_of(lab *l, const int32_t *values, int n) {
  const sl_ints out = numbers(l, n);
  sl_buffer_write(l->queue, out.buffer, 0, values, (size_t)n * sizeof *values);
  return out;
}

static inline void assert_near(const char *what, double found, double expected, double tolerance) {
  if (!(fabs(found - expected) <= tolerance)) fail_msg("%s is %.9g, expected %.9g", what, found, expected);
}

/* ---- blocks of InternViT ---- */

static const sl_block_shape intern_300m = {.part = SL_PART_VISION,
                                           .d_model = 12,
                                           .n_head = 3,
                                           .n_head_kv = 3,
                                           .d_head = 4,
                                           .d_mlp = 18,
                                           .norm = SL_NORM_LAYER,
                                           .eps = 1e-2f,
                                           .act = SL_ACT_GELU_ERF};
static const sl_block_shape intern_6b = {.part = SL_PART_VISION,
                                         .d_model = 12,
                                         .n_head = 3,
                                         .n_head_kv = 3,
                                         .d_head = 4,
                                         .d_mlp = 18,
                                         .norm = SL_NORM_RMS,
                                         .eps = 1e-2f,
                                         .act = SL_ACT_GELU_ERF,
                                         .qk_norm = SL_QK_NORM_WIDTH,
                                         .qk_eps = 3e-2f};

#endif
