/* Times sightline on one checkpoint: tower, prefill, LLaVA-CAM of all layers, and the memory of attention flow. Prints
 * one JSON object. Usage: bench_engine MODEL [text tokens] [threads] [runs]
 *
 * Work and floors, LLaVA-7B geometry, T = 576 + text tokens: the decoder's products are 2 * 6.48e9 * T FLOP forward and
 * the same again for the gradients of activations; the floor is that over the product's own measured rate
 * (bench_product). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/session.h"
#include "measure.h"

#define CHECK(expression)                                                    \
  do {                                                                       \
    if ((expression) != SL_OK) {                                             \
      fprintf(stderr, "%s: %s\n", #expression, sl_error_message());          \
      exit(1);                                                               \
    }                                                                        \
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
  sl_image *image;
  float *pixels;
  int n_run;
  double base_bytes; /* resident after loading, before any run */
} bench;

/* [BOS and four tokens | image | text], any ids: the time does not depend on them. */
static void make_layout(bench *b, int n_text) {
  const sl_model_shape *shape = sl_model_get_shape(b->model);
  sl_layout *l = &b->layout;
  l->n_token = l->n_prompt = n_text + shape->n_view_token;
  l->first_image = 5;
  l->n_image = shape->n_view_token;
  l->ids = calloc((size_t)l->n_token, sizeof *l->ids);
  for (int t = 0; t < l->n_token; t++) l->ids[t] = 1 + t * 37 % 250;
}

static double time_tower(bench *b) {
  double times[32];
  for (int i = -1; i < b->n_run; i++) {
    sl_image_free(b->image);
    const double start = now();
    CHECK(sl_image_encode(&b->image, b->session, b->pixels, NULL, NULL, false));
    if (i >= 0) times[i] = now() - start;
  }
  return median(times, b->n_run);
}

static double time_prefill(bench *b, float *logits) {
  double times[32];
  const int last = b->layout.n_token - 1;
  for (int i = -1; i < b->n_run; i++) {
    const double start = now();
    CHECK(sl_session_forward(b->session, &b->layout, b->image, &last, 1, logits, NULL, false));
    if (i >= 0) times[i] = now() - start;
  }
  return median(times, b->n_run);
}

/* ---- CAM ---- */

typedef struct cam_sink {
  int first_image, n_image, n_seen;
  sl_buffer *buffer; /* heat [1, N] then alpha [1, D] */
  float *heat;
  double sum;
} cam_sink;

static bool wants_cam(void *user, sl_part part, sl_site site, int layer, bool backward) {
  (void)user;
  (void)layer;
  return backward && part == SL_PART_DECODER && site == SL_SITE_LN2;
}

static void see_cam(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                    sl_mat grad) {
  (void)part;
  (void)site;
  (void)layer;
  cam_sink *sink = user;
  if (first_row > sink->first_image) return; /* not reachable: the last layer */
  const sl_mat heat = {sink->buffer, 0, sink->n_image, 1, sink->n_image, SL_F32};
  const sl_mat alpha = {sink->buffer, sink->n_image, grad.cols, 1, grad.cols, SL_F32};
  sl_queue_ops(queue)->cam(queue, heat, alpha, sl_mat_rows(value, sink->first_image, sink->n_image),
                           sl_mat_rows(grad, sink->first_image, sink->n_image), false);
  sl_buffer_read(queue, sink->heat, sink->buffer, 0, (size_t)sink->n_image * sizeof(float));
  for (int i = 0; i < sink->n_image; i++) sink->sum += (double)sink->heat[i];
  sink->n_seen++;
}

static double time_cam(bench *b, double *peak) {
  const sl_model_shape *shape = sl_model_get_shape(b->model);
  double times[32];
  float *d_logits = calloc((size_t)shape->n_vocab, sizeof *d_logits);
  d_logits[17] = 1;
  const int last = b->layout.n_token - 1;
  cam_sink sink = {.first_image = b->layout.first_image, .n_image = b->layout.n_image};
  sink.heat = calloc((size_t)sink.n_image, sizeof(float));
  CHECK(sl_buffer_new(&sink.buffer, sl_model_get_backend(b->model),
                      (size_t)(sink.n_image + shape->decoder.d_model) * sizeof(float), "heat"));
  const sl_probe probe = {.user = &sink, .wants = wants_cam, .see = see_cam};
  reset_peak();
  for (int i = -1; i < b->n_run; i++) {
    const double start = now();
    CHECK(sl_session_forward(b->session, &b->layout, b->image, NULL, 0, NULL, NULL, true));
    CHECK(sl_session_backward(b->session, &last, 1, d_logits, &probe, false));
    if (i >= 0) times[i] = now() - start;
  }
  *peak = status_bytes("VmHWM:") - b->base_bytes;
  if (sink.n_seen != (b->n_run + 1) * (shape->decoder.n_layer - 1) || sink.sum != sink.sum) exit(2);
  sl_buffer_free(sink.buffer);
  free(sink.heat);
  free(d_logits);
  return median(times, b->n_run);
}

/* ---- flow ---- */

typedef struct flow_sink {
  float *row;
  double image_share;
} flow_sink;

static bool wants_pattern(void *user, sl_part part, sl_site site, int layer, bool backward) {
  (void)user;
  (void)layer;
  return !backward && part == SL_PART_DECODER && site == SL_SITE_PATTERN;
}

static void see_pattern(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                        sl_mat grad) {
  (void)part;
  (void)site;
  (void)layer;
  (void)first_row;
  (void)grad;
  flow_sink *sink = user;
  for (int h = 0; h < value.rows; h++) {
    sl_buffer_read(queue, sink->row, value.buffer, (size_t)(value.offset + h * value.stride) * sizeof(float),
                   (size_t)value.cols * sizeof(float));
    sink->image_share += (double)sink->row[0];
  }
}

static double time_flow(bench *b, double *peak) {
  double times[32];
  flow_sink sink = {.row = calloc((size_t)b->layout.n_token, sizeof(float))};
  sl_probe probe = {.user = &sink, .wants = wants_pattern, .see = see_pattern};
  sl_buffer *rows = NULL;
  CHECK(sl_buffer_new(&rows, sl_model_get_backend(b->model), sizeof(int32_t), "rows"));
  const int32_t last = b->layout.n_token - 1;
  sl_buffer_write(sl_session_queue(b->session), rows, 0, &last, sizeof last);
  probe.pattern_rows = (sl_ints){rows, 0, 1};
  reset_peak();
  for (int i = -1; i < b->n_run; i++) {
    const double start = now();
    CHECK(sl_session_forward(b->session, &b->layout, b->image, NULL, 0, NULL, &probe, false));
    if (i >= 0) times[i] = now() - start;
  }
  *peak = status_bytes("VmHWM:") - b->base_bytes;
  sl_buffer_free(rows);
  free(sink.row);
  return median(times, b->n_run);
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: bench_engine MODEL [text tokens] [threads] [runs]\n");
    return 2;
  }
  const int n_text = argc > 2 ? atoi(argv[2]) : 60, n_thread = argc > 3 ? atoi(argv[3]) : 2;
  bench b = {.n_run = argc > 4 ? atoi(argv[4]) : 5};
  const sl_model_options options = {.size = sizeof options, .compute = "bf16", .n_thread = n_thread};
  const double start = now();
  CHECK(sl_model_open(&b.model, argv[1], &options));
  const double load = now() - start;
  const sl_model_shape *shape = sl_model_get_shape(b.model);
  CHECK(sl_session_new(&b.session, b.model, n_thread));
  make_layout(&b, n_text);
  const size_t n_pixel = (size_t)3 * (size_t)shape->image_px * (size_t)shape->image_px;
  b.pixels = calloc(n_pixel, sizeof(float));
  for (size_t i = 0; i < n_pixel; i++) b.pixels[i] = (float)(i * 7919 % 2001) / 1000.0f - 1.0f;
  float *logits = calloc((size_t)shape->n_vocab, sizeof(float));
  reset_peak();
  b.base_bytes = status_bytes("VmRSS:");

  const double tower = time_tower(&b), prefill = time_prefill(&b, logits);
  double flow_peak, cam_peak;
  const double flow = time_flow(&b, &flow_peak), cam = time_cam(&b, &cam_peak);
  const sl_part_shape *d = &shape->decoder;
  const double kv = 2.0 * d->n_layer * b.layout.n_token * d->n_head_kv * d->d_head * 4;
  printf("{\"tokens\": %d, \"load_s\": %.3f, \"tower_s\": %.4f, \"prefill_s\": %.4f, \"flow_s\": %.4f, "
         "\"flow_peak_bytes\": %.0f, \"kv_bytes\": %.0f, \"cam_s\": %.4f, "
         "\"cam_peak_bytes\": %.0f, \"weights_resident_bytes\": %.0f}\n",
         b.layout.n_token, load, tower, prefill, flow, flow_peak, kv, cam, cam_peak, b.base_bytes);
  free(logits);
  free(b.pixels);
  free(b.layout.ids);
  sl_image_free(b.image);
  sl_session_free(b.session);
  sl_model_close(b.model);
  return 0;
}
