/* The product table: sightline's cpu backend against Debian's oneDNN bf16 matmul, both directions, several row counts,
 * with the ratio; then one synthetic 7B decoder layer, op by op. Usage: bench_product [quick]. */
#include <dnnl.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "measure.h"

static float noise(uint64_t *seed) {
  uint64_t z = (*seed += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (float)((double)((z ^ (z >> 31)) >> 11) * 0x1p-52 - 1);
}

/* Best time of a statement over about `seconds`, at least three runs. */
#define BEST(out, seconds, ...)                                      \
  do {                                                               \
    double start_ = now();                                           \
    (out) = 1e30;                                                    \
    for (int i_ = 0; i_ < 3 || now() - start_ < (seconds); i_++) {   \
      double t_ = now();                                             \
      __VA_ARGS__;                                                   \
      t_ = now() - t_;                                               \
      if (t_ < (out)) (out) = t_;                                    \
    }                                                                \
  } while (0)

static void must(sl_status status) {
  if (status == SL_OK) return;
  fprintf(stderr, "%s\n", sl_error_message());
  exit(1);
}

typedef struct host {
  sl_backend *backend;
  sl_queue *queue;
  const sl_ops *ops;
} host;

static sl_mat mat_new(host *h, int rows, int cols, float scale) {
  sl_mat m = {.stride = cols, .rows = rows, .cols = cols, .dtype = SL_F32};
  size_t n = (size_t)rows * (size_t)cols;
  must(sl_buffer_new(&m.buffer, h->backend, n * 4, "bench"));
  float *values = malloc(n * 4);
  uint64_t seed = n;
  for (size_t i = 0; i < n; i++) values[i] = scale * noise(&seed);
  sl_buffer_write(h->queue, m.buffer, 0, values, n * 4);
  free(values);
  return m;
}

static uint16_t *weight_values(int n, int k, sl_tensor *tensor) {
  size_t count = (size_t)n * (size_t)k;
  uint16_t *values = malloc(count * 2);
  uint64_t seed = 7;
  for (size_t i = 0; i < count; i++) values[i] = sl_f32_to_bf16(0.02f * noise(&seed));
  *tensor = (sl_tensor){.name = "w", .data = values, .dtype = SL_BF16, .n_dim = 2, .shape = {n, k}};
  return values;
}

/* oneDNN: y[m, n] = x[m, k] w[n, k]^T, or dx[m, k] = dy[m, n] w; bf16 operands, f32 result; plain or packed weights. */
static double library(int m, int n, int k, bool backward, bool packed, uint16_t *values, double seconds) {
  dnnl_engine_t engine;
  dnnl_stream_t stream;
  dnnl_engine_create(&engine, dnnl_cpu, 0);
  dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
  int in = backward ? n : k, out = backward ? k : n;
  dnnl_dims_t dx = {m, in}, dw = {in, out}, dy = {m, out}, plain_strides = {backward ? k : 1, backward ? 1 : k};
  dnnl_memory_desc_t mx, mw, mw_any, my;
  dnnl_memory_desc_init_by_tag(&mx, 2, dx, dnnl_bf16, dnnl_ab);
  dnnl_memory_desc_init_by_strides(&mw, 2, dw, dnnl_bf16, plain_strides);
  dnnl_memory_desc_init_by_tag(&mw_any, 2, dw, dnnl_bf16, dnnl_format_tag_any);
  dnnl_memory_desc_init_by_tag(&my, 2, dy, dnnl_f32, dnnl_ab);
  dnnl_matmul_desc_t desc;
  dnnl_matmul_desc_init(&desc, &mx, packed ? &mw_any : &mw, NULL, &my);
  dnnl_primitive_desc_t pd;
  dnnl_primitive_t primitive;
  if (dnnl_primitive_desc_create(&pd, &desc, NULL, engine, NULL) != dnnl_success) return NAN;
  dnnl_primitive_create(&primitive, pd);
  uint16_t *x = malloc((size_t)m * (size_t)in * 2);
  uint64_t seed = 3;
  for (size_t i = 0; i < (size_t)m * (size_t)in; i++) x[i] = sl_f32_to_bf16(noise(&seed));
  float *y = calloc((size_t)m * (size_t)out, 4);
  dnnl_memory_t memory_x, memory_w, memory_p, memory_y;
  dnnl_memory_create(&memory_x, &mx, engine, x);
  dnnl_memory_create(&memory_w, &mw, engine, values);
  dnnl_memory_create(&memory_y, &my, engine, y);
  memory_p = memory_w;
  if (packed) {
    const dnnl_memory_desc_t *md = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    dnnl_memory_create(&memory_p, md, engine, DNNL_MEMORY_ALLOCATE);
    dnnl_primitive_desc_t reorder_desc;
    dnnl_primitive_t reorder;
    dnnl_reorder_primitive_desc_create(&reorder_desc, &mw, engine, md, engine, NULL);
    dnnl_primitive_create(&reorder, reorder_desc);
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, memory_w}, {DNNL_ARG_TO, memory_p}};
    dnnl_primitive_execute(reorder, stream, 2, args);
    dnnl_stream_wait(stream);
    dnnl_primitive_destroy(reorder);
    dnnl_primitive_desc_destroy(reorder_desc);
  }
  dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, memory_x}, {DNNL_ARG_WEIGHTS, memory_p}, {DNNL_ARG_DST, memory_y}};
  double best;
  BEST(best, seconds, dnnl_primitive_execute(primitive, stream, 3, args); dnnl_stream_wait(stream));
  if (packed) dnnl_memory_destroy(memory_p);
  dnnl_memory_destroy(memory_x);
  dnnl_memory_destroy(memory_w);
  dnnl_memory_destroy(memory_y);
  dnnl_primitive_destroy(primitive);
  dnnl_primitive_desc_destroy(pd);
  dnnl_stream_destroy(stream);
  dnnl_engine_destroy(engine);
  free(x);
  free(y);
  return best;
}

static double ours(host *h, int m, int n, int k, bool backward, sl_compute compute, const sl_tensor *tensor,
                   double seconds) {
  sl_weight *w = NULL;
  must(sl_queue_reserve(h->queue, m, n > k ? n : k, 0));
  must(sl_weight_new(&w, h->backend, compute, tensor, 1));
  sl_mat x = mat_new(h, m, backward ? n : k, 1), y = mat_new(h, m, backward ? k : n, 0);
  double best;
  if (backward) {
    BEST(best, seconds, h->ops->linear_dx(h->queue, y, x, w, false));
  } else {
    BEST(best, seconds, h->ops->linear(h->queue, y, x, w, (sl_mat){0}, false));
  }
  sl_weight_free(w);
  sl_buffer_free(x.buffer);
  sl_buffer_free(y.buffer);
  return best;
}

/* oneDNN's f32 product on f32 weights. */
static double library_f32(int m, int n, int k, bool backward, const uint16_t *values, double seconds) {
  size_t count = (size_t)n * (size_t)k;
  float *w = malloc(count * 4), *x = calloc((size_t)m * (size_t)(n + k), 4);
  float *y = x + (size_t)m * (size_t)(backward ? n : k);
  sl_convert_to_f32(w, values, SL_BF16, (int64_t)count);
  double best;
  BEST(best, seconds,
       backward ? dnnl_sgemm('N', 'N', m, k, n, 1, x, n, w, k, 0, y, k)
                : dnnl_sgemm('N', 'T', m, n, k, 1, x, k, w, k, 0, y, n));
  free(w);
  free(x);
  return best;
}

static const int shapes[][2] = {{4096, 4096}, {4096, 11008}, {11008, 4096}}; /* N, K */

static void product_table(host *h, bool quick, double seconds) {
  const int all_rows[] = {1, 8, 32, 128, 640, 2048};
  printf("y[M,N] = x[M,K] W[N,K]^T and dx = dy W, GFLOP/s (M=1: also GB/s of weights)\n");
  printf("%5s %6s %6s %4s | %8s %8s %8s | %8s %8s %8s | %6s\n", "M", "N", "K", "dir", "bf16", "bf16x2", "f32", "dnnl",
         "packed", "sgemm", "ratio");
  for (int r = 0; r < 6; r++) {
    int m = all_rows[r];
    if (quick && m != 640 && m != 1) continue;
    for (int dir = 0; dir < 2; dir++) {
      double log_ratio = 0, log_rate = 0;
      for (int s = 0; s < 3; s++) {
        int n = shapes[s][0], k = shapes[s][1];
        sl_tensor tensor;
        uint16_t *values = weight_values(n, k, &tensor);
        double gflop = 2e-9 * m * n * k;
        double bf16 = ours(h, m, n, k, dir, SL_COMPUTE_BF16, &tensor, seconds);
        double plain = library(m, n, k, dir, false, values, seconds);
        double packed = library(m, n, k, dir, true, values, seconds);
        double again = ours(h, m, n, k, dir, SL_COMPUTE_BF16, &tensor, seconds);
        if (again < bf16) bf16 = again;
        double x2 = quick ? NAN : ours(h, m, n, k, dir, SL_COMPUTE_BF16X2, &tensor, seconds);
        double f32 = quick ? NAN : ours(h, m, n, k, dir, SL_COMPUTE_F32, &tensor, seconds);
        double sgemm = quick ? NAN : library_f32(m, n, k, dir, values, seconds);
        double best = fmin(plain, packed);
        printf("%5d %6d %6d %4s | %8.0f %8.0f %8.0f | %8.0f %8.0f %8.0f | %5.2fx", m, n, k, dir ? "dx" : "y",
               gflop / bf16, gflop / x2, gflop / f32, gflop / plain, gflop / packed, gflop / sgemm, best / bf16);
        if (m == 1) printf("  %.1f GB/s", 2e-9 * n * k / bf16);
        printf("\n");
        fflush(stdout);
        log_ratio += log(best / bf16) / 3;
        log_rate += log(gflop / bf16) / 3;
        free(values);
      }
      printf("%5d %18s | %8.0f geometric mean %40s | %5.2fx\n", m, dir ? "dx" : "y", exp(log_rate), "", exp(log_ratio));
    }
  }
}

/* One LLaMA-7B layer at t tokens: seconds per op, best of `runs` passes, and the share of the products' own rate. */
static void layer_profile(host *h, int t, sl_compute compute, int runs) {
  enum { D = 4096, H = 32, F = 11008, N_OP = 11 };
  static const char *const names[N_OP] = {"norm", "qkv", "rope", "attend", "o (+)", "norm", "gate_up",
                                          "gate", "down (+)",
                                          "attend_dx", "layer"};
  const int wide[4][2] = {{3 * D, D}, {D, D}, {2 * F, D}, {D, F}};
  sl_weight *w[4];
  for (int i = 0; i < 4; i++) {
    sl_tensor tensor;
    uint16_t *values = weight_values(wide[i][0], wide[i][1], &tensor);
    must(sl_weight_new(&w[i], h->backend, compute, &tensor, 1));
    free(values);
  }
  must(sl_queue_reserve(h->queue, t, 2 * F, t));
  sl_mat x = mat_new(h, t, D, 1), n = mat_new(h, t, D, 1), qkv = mat_new(h, t, 3 * D, 1), z = mat_new(h, t, D, 1);
  sl_mat gu = mat_new(h, t, 2 * F, 1), f = mat_new(h, t, F, 1), g = mat_new(h, 1, D, 1), freq = mat_new(h, 1, 64, 1);
  sl_mat lse = mat_new(h, t, H, 1), dqkv = mat_new(h, t, 3 * D, 1);
  sl_ints positions = {.count = t};
  must(sl_buffer_new(&positions.buffer, h->backend, (size_t)t * 4, "positions"));
  sl_attend a = {.n_head = H, .n_head_kv = H, .d_head = 128, .scale = 0.088f, .causal = true, .lse = lse, .z = z,
                 .q = sl_mat_cols(qkv, 0, D), .k = sl_mat_cols(qkv, D, D), .v = sl_mat_cols(qkv, 2 * D, D),
                 .compute = compute};
  double best[N_OP];
  for (int i = 0; i < N_OP; i++) best[i] = 1e30;
  const sl_ops *o = h->ops;
  sl_queue *q = h->queue;
  for (int run = 0; run < runs; run++) {
    double at[N_OP + 1];
    int i = 0;
    at[i++] = now();
    o->norm(q, SL_NORM_RMS, n, x, g, (sl_mat){0}, 1e-5f), at[i++] = now();
    o->linear(q, qkv, n, w[0], (sl_mat){0}, false), at[i++] = now();
    o->rope(q, sl_mat_cols(qkv, 0, 2 * D), 128, positions, freq, 1), at[i++] = now();
    o->attend(q, &a), at[i++] = now();
    o->linear(q, x, z, w[1], (sl_mat){0}, true), at[i++] = now();
    o->norm(q, SL_NORM_RMS, n, x, g, (sl_mat){0}, 1e-5f), at[i++] = now();
    o->linear(q, gu, n, w[2], (sl_mat){0}, false), at[i++] = now();
    o->gate(q, SL_ACT_SILU, f, gu), at[i++] = now();
    o->linear(q, x, f, w[3], (sl_mat){0}, true), at[i++] = now();
    double layer = at[9] - at[0];
    o->attend_dx(q, &a, n, sl_mat_cols(dqkv, 0, D), sl_mat_cols(dqkv, D, D), sl_mat_cols(dqkv, 2 * D, D));
    at[i++] = now();
    for (int j = 0; j < 10; j++) best[j] = fmin(best[j], at[j + 1] - at[j]);
    best[10] = fmin(best[10], layer);
  }
  double gflop = 0, products = best[1] + best[4] + best[6] + best[8];
  for (int i = 0; i < 4; i++) gflop += 2e-9 * t * wide[i][0] * wide[i][1];
  printf("\n7B layer, T = %d, %s: %s\n", t, sl_compute_name(compute), sl_backend_describe(h->backend, compute));
  for (int i = 0; i < N_OP; i++) {
    printf("  %-10s %8.3f ms  %5.1f %%\n", names[i], best[i] * 1e3, 100 * best[i] / best[10]);
  }
  printf("  products %.0f GFLOP/s; layer %.0f GFLOP/s of product work = %.0f %% of that\n", gflop / products,
         gflop / best[10], 100 * products / best[10]);
  sl_mat all[] = {x, n, qkv, z, gu, f, g, freq, lse, dqkv};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) sl_buffer_free(all[i].buffer);
  sl_buffer_free(positions.buffer);
  for (int i = 0; i < 4; i++) sl_weight_free(w[i]);
}

int main(int argc, char **argv) {
  bool quick = argc > 1 && strcmp(argv[1], "quick") == 0, layer = argc > 1 && strcmp(argv[1], "layer") == 0;
  host h;
  must(sl_backend_open(&h.backend, "cpu"));
  must(sl_queue_new(&h.queue, h.backend, 0));
  h.ops = sl_queue_ops(h.queue);
  if (!layer) product_table(&h, quick, quick ? 0.15 : 0.4);
  for (int c = SL_COMPUTE_COUNT - 1; c >= (quick ? SL_COMPUTE_BF16 : 0); c--) {
    layer_profile(&h, 636, (sl_compute)c, c ? 8 : 3);
  }
  sl_queue_free(h.queue);
  sl_backend_close(h.backend);
  return 0;
}
