/* Times interventions on one checkpoint: head attribution (masks of heads as branches) and the truncation sweep of all
 * layers in one request, beside a plain forward pass and beside the decoder's products alone on as many rows. Prints
 * one JSON object. Usage: bench_branch MODEL [masks] [threads] [runs] [batch]
 *
 * Work: 5 text tokens, the image, 20 text tokens; the last row's logits. A mask costs its 20 rows after the image in
 * every layer; the cut from layer k costs 20 rows in L - k layers. The floor is these rows' products at the rate that
 * the products themselves reach on a batch of that many rows in the same run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model/branch.h"
#include "model/internal.h"
#include "measure.h"

enum { N_BEFORE = 5, N_AFTER = 20, MAX_RUN = 32 };

#define CHECK(expression)                                           \
  do {                                                              \
    if ((expression) != SL_OK) {                                    \
      fprintf(stderr, "%s: %s\n", #expression, sl_error_message()); \
      exit(1);                                                      \
    }                                                               \
  } while (0)

static int compare(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *values, int n) {
  qsort(values, (size_t)n, sizeof *values, compare);
  return values[n / 2];
}

typedef struct bench {
  sl_model *model;
  sl_session *session;
  sl_layout layout;
  sl_image *image, *other;
  sl_prefix *prefix;
  sl_trunk *trunk;
  sl_baseline *baseline;
  float *logits;
  int n_run, n_mask, batch;
  double sum; /* of what was computed, so that nothing is left out */
  int n_taken;
} bench;

/* Any ids: the time does not depend on them. */
static void make_layout(bench *b) {
  const int n_image = sl_model_get_shape(b->model)->n_view_token;
  sl_layout *l = &b->layout;
  l->n_token = l->n_prompt = N_BEFORE + n_image + N_AFTER;
  l->first_image = N_BEFORE;
  l->n_image = n_image;
  l->ids = calloc((size_t)l->n_token, sizeof *l->ids);
  l->classes = calloc((size_t)l->n_token, sizeof *l->classes);
  l->roles = calloc((size_t)l->n_token, sizeof *l->roles);
  for (int t = 0; t < l->n_token; t++) l->ids[t] = 1 + t * 37 % 250;
}

static double encode(bench *b, sl_image **out, int step) {
  const int px = sl_model_get_shape(b->model)->image_px, n_pixel = 3 * px * px;
  float *pixels = calloc((size_t)n_pixel, sizeof *pixels);
  for (int i = 0; i < n_pixel; i++) pixels[i] = (float)((int64_t)i * step % 2001) / 1000.0f - 1.0f;
  const double start = now();
  CHECK(sl_image_encode(out, b->session, pixels, NULL, NULL, false));
  free(pixels);
  return now() - start;
}

static double plain_forward(bench *b) {
  const double start = now();
  const int last = b->layout.n_token - 1;
  CHECK(sl_session_forward(b->session, &b->layout, b->image, &last, 1, b->logits, NULL, false));
  return now() - start;
}

/* Prefix and trunk anew. */
static double begin(bench *b) {
  sl_trunk_free(b->trunk);
  sl_prefix_free(b->prefix);
  const double start = now();
  CHECK(sl_prefix_new(&b->prefix, b->session, &b->layout, b->image, false, NULL));
  CHECK(sl_trunk_new(&b->trunk, b->session, b->prefix, &b->layout, NULL));
  return now() - start;
}

static sl_status take(void *user, int plan, const float *logits) {
  bench *b = user;
  (void)plan;
  b->sum += (double)logits[17];
  b->n_taken++;
  return SL_OK;
}

static double run_plans(bench *b, const sl_plan *plans, int n_plan) {
  const int last = b->layout.n_token - 1;
  const sl_baseline *const baselines[] = {b->baseline};
  const sl_branch_request request = {.trunk = b->trunk, .plans = plans, .n_plan = n_plan, .baselines = baselines,
                                     .n_baseline = 1, .rows = &last, .n_row = 1, .batch_size = b->batch, .take = take,
                                     .user = b};
  b->n_taken = 0;
  const double start = now();
  CHECK(sl_branches_run(b->session, &request));
  const double time = now() - start;
  if (b->n_taken != n_plan || b->sum != b->sum) exit(2);
  return time;
}

/* In every layer each head keeps the image with probability 1/2, else sees the other picture's keys and values. */
static void head_plan(const bench *b, sl_plan *plan, int number) {
  const sl_part_shape *d = &sl_model_get_shape(b->model)->decoder;
  for (int il = 0; il < d->n_layer; il++) {
    sl_rule *rule = NULL;
    CHECK(sl_plan_add_rule(plan, 0, &rule));
    CHECK(sl_set_add(&rule->layers, il, 1));
    CHECK(sl_set_from(&rule->queries, N_BEFORE + b->layout.n_image));
    CHECK(sl_set_add(&rule->keys, N_BEFORE, b->layout.n_image));
    for (int h = 0; h < d->n_head; h++)
      if (sl_rng_uniform(1, (uint64_t)number, (uint64_t)(il * d->n_head + h)) < 0.5)
        CHECK(sl_set_add(&rule->heads, h, 1));
  }
}

/* The whole image hidden from layer k on. */
static void cut_plan(const bench *b, sl_plan *plan, int k) {
  sl_rule *rule = NULL;
  CHECK(sl_plan_add_rule(plan, SL_SOURCE_HIDDEN, &rule));
  if (k < sl_model_get_shape(b->model)->decoder.n_layer) CHECK(sl_set_from(&rule->layers, k));
  rule->heads = SL_SET_ALL;
  CHECK(sl_set_from(&rule->queries, N_BEFORE + b->layout.n_image));
  CHECK(sl_set_add(&rule->keys, N_BEFORE, b->layout.n_image));
}

static void free_plans(sl_plan *plans, int n_plan) {
  for (int i = 0; i < n_plan; i++) sl_plan_dispose(&plans[i]);
  free(plans);
}

static sl_mat new_mat(const bench *b, int rows, int cols) {
  sl_buffer *buffer = NULL;
  const size_t n_bytes = (size_t)rows * (size_t)cols * sizeof(float);
  CHECK(sl_buffer_new(&buffer, sl_model_get_backend(b->model), n_bytes, "products"));
  return (sl_mat){buffer, 0, cols, rows, cols, SL_F32};
}

/* Seconds of all layers' products on `rows` rows, nothing else. */
static double time_products(bench *b, int rows) {
  const sl_decoder *d = &b->model->decoder;
  const sl_block_shape *s = &d->shape;
  sl_queue *queue = sl_session_queue(b->session);
  const sl_ops *op = sl_queue_ops(queue);
  const sl_mat x = new_mat(b, rows, s->d_model), qkv = new_mat(b, rows, sl_block_qkv_width(s));
  const sl_mat up = new_mat(b, rows, sl_block_up_width(s)), hidden = new_mat(b, rows, s->d_mlp);
  const double start = now();
  for (int il = 0; il < d->n_layer; il++) {
    const sl_block_weights *w = &d->blocks[il];
    op->linear(queue, qkv, x, w->qkv, (sl_mat){0}, false);
    op->linear(queue, x, sl_mat_cols(qkv, 0, s->d_model), w->o, (sl_mat){0}, false);
    op->linear(queue, up, x, w->up, (sl_mat){0}, false);
    op->linear(queue, x, hidden, w->down, (sl_mat){0}, false);
  }
  const double time = now() - start;
  sl_buffer_free(x.buffer);
  sl_buffer_free(qkv.buffer);
  sl_buffer_free(up.buffer);
  sl_buffer_free(hidden.buffer);
  return time;
}

static void report_start(bench *b) {
  double plain[MAX_RUN], start[MAX_RUN];
  plain_forward(b);
  for (int i = 0; i < b->n_run; i++) {
    plain[i] = plain_forward(b);
    start[i] = begin(b);
  }
  printf("\"plain_s\": %.4f, \"start_s\": %.4f, ", median(plain, b->n_run), median(start, b->n_run));
}

/* Masks in whole batches; the products on one batch's rows are timed between runs. */
static void report_heads(bench *b) {
  double times[MAX_RUN], products[MAX_RUN];
  sl_plan *plans = calloc((size_t)b->n_mask, sizeof *plans);
  for (int i = 0; i < b->n_mask; i++) head_plan(b, &plans[i], i);
  int batch = b->batch ? b->batch : sl_branch_batch(b->session, b->trunk, 0);
  if (batch > b->n_mask) batch = b->n_mask;
  reset_peak();
  const double before = status_bytes("VmRSS:");
  run_plans(b, plans, b->n_mask);
  const double peak = status_bytes("VmHWM:") - before;
  for (int i = 0; i < b->n_run; i++) {
    times[i] = run_plans(b, plans, b->n_mask);
    products[i] = time_products(b, batch * N_AFTER) * b->n_mask / batch;
  }
  printf("\"masks\": %d, \"batch\": %d, \"heads_s\": %.4f, \"heads_products_s\": %.4f, \"heads_peak_bytes\": %.0f, ",
         b->n_mask, batch, median(times, b->n_run), median(products, b->n_run), peak);
  free_plans(plans, b->n_mask);
}

static void report_sweep(bench *b) {
  double times[MAX_RUN], products[MAX_RUN];
  const int n_layer = sl_model_get_shape(b->model)->decoder.n_layer, n_cut = n_layer + 1;
  sl_plan *plans = calloc((size_t)n_cut, sizeof *plans);
  for (int k = 0; k < n_cut; k++) cut_plan(b, &plans[k], k);
  run_plans(b, plans, n_cut);
  for (int i = 0; i < b->n_run; i++) {
    times[i] = run_plans(b, plans, n_cut);
    products[i] = time_products(b, (n_layer + 1) * N_AFTER / 2); /* the mean number of rows over the layers */
  }
  printf("\"cuts\": %d, \"sweep_s\": %.4f, \"sweep_products_s\": %.4f", n_cut, median(times, b->n_run),
         median(products, b->n_run));
  free_plans(plans, n_cut);
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: bench_branch MODEL [masks] [threads] [runs] [batch]\n");
    return 2;
  }
  const int n_thread = argc > 3 ? atoi(argv[3]) : 2;
  bench b = {.n_mask = argc > 2 ? atoi(argv[2]) : 64, .n_run = argc > 4 ? atoi(argv[4]) : 5,
             .batch = argc > 5 ? atoi(argv[5]) : 0};
  if (b.n_mask < 1 || b.n_run < 1 || b.n_run > MAX_RUN) return 2;
  const sl_model_options options = {.size = sizeof options, .compute = "bf16", .n_thread = n_thread};
  CHECK(sl_model_open(&b.model, argv[1], &options));
  CHECK(sl_session_new(&b.session, b.model, n_thread));
  make_layout(&b);
  b.logits = calloc((size_t)sl_model_get_shape(b.model)->n_vocab, sizeof *b.logits);
  encode(&b, &b.other, 104729);
  const double tower = encode(&b, &b.image, 7919);
  sl_prefix *other = NULL;
  CHECK(sl_prefix_new(&other, b.session, &b.layout, b.other, false, NULL));
  CHECK(sl_baseline_picture(&b.baseline, b.session, other));
  sl_prefix_free(other);
  printf("{\"tokens\": %d, \"suffix\": %d, \"tower_s\": %.4f, ", b.layout.n_token, N_AFTER, tower);
  report_start(&b);
  report_heads(&b);
  report_sweep(&b);
  printf("}\n");
  sl_baseline_free(b.baseline);
  sl_trunk_free(b.trunk);
  sl_prefix_free(b.prefix);
  sl_image_free(b.image);
  sl_image_free(b.other);
  free(b.logits);
  free(b.layout.ids);
  free(b.layout.classes);
  free(b.layout.roles);
  sl_session_free(b.session);
  sl_model_close(b.model);
  return 0;
}
