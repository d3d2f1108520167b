/* The row kernels of vector.h, written once with the compiler's vector type of 16 floats; the including file defines
 * TARGET (a target attribute), VECTOR_TABLE and VECTOR_NAME, ROWS (rows of the product's register block).
 *
 * Method: exp by reduction to |r| <= ln 2 / 2 and a polynomial of degree 6 (Cephes' expf, < 2 ulp); logistic from it;
 * tanh-GELU as x logistic(2 u), which keeps the tail's relative accuracy; erf by the rational approximation Eigen uses
 * (few ulp). Row sums run in 16 lanes and are joined in f64. The product keeps ROWS x 32 sums in registers. */
#include <math.h>
#include <string.h>

#include "backend/cpu/product.h"
#include "backend/cpu/vector.h"

#pragma GCC diagnostic ignored "-Wpsabi" /* vectors are passed to inlined functions only */
#if defined(__clang__)
#pragma clang fp contract(fast)
#else
#pragma GCC optimize("O3", "fp-contract=fast")
#endif

/* Not instrumented: the compiler needs many minutes to check every lane. Callers are, and their buffers' redzones. */
#define UNCHECKED __attribute__((no_sanitize("address", "undefined")))
#define KERNEL TARGET UNCHECKED static
#define INLINE TARGET UNCHECKED __attribute__((always_inline)) static inline

enum { LANES = 16 };
typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));
typedef float vf_loose __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t vu_loose __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t vh_loose __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint16_t vh __attribute__((vector_size(32)));

INLINE vf load(const float *p) { return (vf) * (const vf_loose *)p; }
#define store(p, v) ((void)(*(vf_loose *)(p) = (vf_loose)(v)))
INLINE vf splat(float x) { return (vf){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INLINE vf choose(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }
INLINE vf load_part(const float *p, int n) {
  vf v = {0};
  memcpy(&v, p, (size_t)n * sizeof(float));
  return v;
}
INLINE void store_part(float *p, vf v, int n) { memcpy(p, &v, (size_t)n * sizeof(float)); }
INLINE double sum_lanes(vf v) {
  double sum = 0;
  for (int i = 0; i < LANES; i++) sum += v[i];
  return sum;
}

/* Runs a block over a row in steps of 16; LOAD and STORE inside it take care of the last, partial one. */
#define EACH(i, n, ...)                        \
  do {                                         \
    int i = 0;                                 \
    for (; i + LANES <= (n); i += LANES) {     \
      enum { part = 0 };                       \
      const int left = LANES;                  \
      (void)left;                              \
      __VA_ARGS__                                   \
    }                                          \
    if (i < (n)) {                             \
      enum { part = 1 };                       \
      const int left = (n) - i;                \
      (void)left;                              \
      __VA_ARGS__                                   \
    }                                          \
  } while (0)
#define LOAD(p) (part ? load_part((p), left) : load(p))
#define STORE(p, v)               \
  do {                            \
    if (part) {                   \
      store_part((p), (v), left); \
    } else {                      \
      store((p), (v));            \
    }                             \
  } while (0)

INLINE vf exp_v(vf x) {
  const vf low = splat(-87.33654f), high = splat(88.72283f), magic = splat(12582912.0f);
  vi tiny = x < low, huge = x > high, nan = x != x;
  vf c = choose(tiny, low, choose(huge, high, x));
  vf t = c * splat(1.44269504088896341f) + magic;
  vf n = t - magic;
  vf r = c - n * splat(0.693359375f);
  r = r - n * splat(-2.12194440e-4f);
  vf p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = p * (r * r) + r + splat(1.0f);
  /* 2^n in two factors, so that n = 128 does not overflow before its time. */
  vi e = (vi)t - (vi)magic, half = e >> 1;
  vf scaled = p * (vf)((half + 127) << 23) * (vf)((e - half + 127) << 23);
  scaled = choose(tiny, splat(0.0f), choose(huge, splat(INFINITY), scaled));
  return choose(nan, x, scaled);
}

/* The logistic function and one minus it, both without cancellation. */
INLINE vf logistic_pair_v(vf x, vf *rest) {
  vi positive = x >= splat(0.0f);
  vf e = exp_v(choose(positive, -x, x)), near_one = splat(1.0f) / (splat(1.0f) + e), small = e * near_one;
  *rest = choose(positive, small, near_one);
  return choose(positive, near_one, small);
}
INLINE vf logistic_v(vf x) { return splat(1.0f) / (splat(1.0f) + exp_v(-x)); }

INLINE vf erf_v(vf x) {
  const vf limit = splat(4.0f);
  x = choose(x > limit, limit, choose(x < -limit, -limit, x));
  vf s = x * x, p = splat(-2.72614225801306e-10f), q = splat(-1.45660718464996e-05f);
  p = p * s + splat(2.77068142495902e-08f);
  p = p * s + splat(-2.10102402082508e-06f);
  p = p * s + splat(-5.69250639462346e-05f);
  p = p * s + splat(-7.34990630326855e-04f);
  p = p * s + splat(-2.95459980854025e-03f);
  p = p * s + splat(-1.60960333262415e-02f);
  q = q * s + splat(-2.13374055278905e-04f);
  q = q * s + splat(-1.68282697438203e-03f);
  q = q * s + splat(-7.37332916720468e-03f);
  q = q * s + splat(-1.42647390514189e-02f);
  return x * p / q;
}

/* The activation and its slope. `kind` is a constant at every call. */
INLINE vf act_v(sl_act kind, vf x) {
  switch (kind) {
    case SL_ACT_QUICK_GELU: return x * logistic_v(splat(1.702f) * x);
    case SL_ACT_GELU_ERF: return splat(0.5f) * x * (splat(1.0f) + erf_v(x * splat(0.70710678118654752f)));
    case SL_ACT_GELU_TANH: return x * logistic_v(splat(1.5957691216057308f) * (x + splat(0.044715f) * x * x * x));
    case SL_ACT_SILU: return x * logistic_v(x);
  }
  return x;
}

INLINE vf slope_v(sl_act kind, vf x) {
  const vf one = splat(1.0f);
  vf s, rest;
  switch (kind) {
    case SL_ACT_QUICK_GELU:
      s = logistic_pair_v(splat(1.702f) * x, &rest);
      return s + splat(1.702f) * x * s * rest;
    case SL_ACT_GELU_ERF:
      return splat(0.5f) * (one + erf_v(x * splat(0.70710678118654752f))) +
             x * splat(0.39894228040143268f) * exp_v(splat(-0.5f) * x * x);
    case SL_ACT_GELU_TANH:
      s = logistic_pair_v(splat(1.5957691216057308f) * (x + splat(0.044715f) * x * x * x), &rest);
      return s + x * s * rest * splat(1.5957691216057308f) * (one + splat(0.134145f) * x * x);
    case SL_ACT_SILU: s = logistic_pair_v(x, &rest); return s + x * s * rest;
  }
  return one;
}

/* A statement with `kind` known to the compiler. */
#define BY_ACT(...)                                                               \
  switch (act) {                                                                  \
    case SL_ACT_QUICK_GELU: { const sl_act kind = SL_ACT_QUICK_GELU; __VA_ARGS__ break; }\
    case SL_ACT_GELU_ERF: { const sl_act kind = SL_ACT_GELU_ERF; __VA_ARGS__ break; }\
    case SL_ACT_GELU_TANH: { const sl_act kind = SL_ACT_GELU_TANH; __VA_ARGS__ break; }\
    case SL_ACT_SILU: { const sl_act kind = SL_ACT_SILU; __VA_ARGS__ break; }   \
  }

KERNEL void row_act(sl_act act, float *y, const float *x, int n) {
  BY_ACT(EACH(i, n, { STORE(y + i, act_v(kind, LOAD(x + i))); });)
}

KERNEL void row_act_dx(sl_act act, float *dx, const float *dy, const float *x, int n) {
  BY_ACT(EACH(i, n, { STORE(dx + i, LOAD(dy + i) * slope_v(kind, LOAD(x + i))); });)
}

KERNEL void row_gate(sl_act act, float *h, const float *g, const float *u, int n) {
  BY_ACT(EACH(i, n, { STORE(h + i, act_v(kind, LOAD(g + i)) * LOAD(u + i)); });)
}

KERNEL void row_gate_dx(sl_act act, float *dg, float *du, const float *dh, const float *g, const float *u, int n) {
  BY_ACT(EACH(i, n, {
           vf gi = LOAD(g + i), ui = LOAD(u + i), d = LOAD(dh + i);
           STORE(dg + i, d * ui * slope_v(kind, gi));
           STORE(du + i, d * act_v(kind, gi));
         });)
}

KERNEL void row_add(float *y, const float *a, const float *b, int n) {
  EACH(i, n, { STORE(y + i, LOAD(a + i) + LOAD(b + i)); });
}

KERNEL void row_product(float *y, const float *a, const float *b, int n) {
  EACH(i, n, { STORE(y + i, LOAD(a + i) * LOAD(b + i)); });
}

KERNEL void row_scale(float *y, const float *x, float factor, int n) {
  EACH(i, n, { STORE(y + i, splat(factor) * LOAD(x + i)); });
}

/* Round to nearest even in the upper half; NaN stays NaN. */
INLINE vu round_bits(vf x) {
  vu u = (vu)x;
  vu rounded = (u + 0x7fff + ((u >> 16) & 1)) & 0xffff0000u;
  vi nan = x != x;
  return (rounded & ~(vu)nan) | ((u | 0x00400000u) & 0xffff0000u & (vu)nan);
}
INLINE vf round_v(vf x, sl_compute compute) {
  if (compute == SL_COMPUTE_F32) return x;
  vf hi = (vf)round_bits(x);
  return compute == SL_COMPUTE_BF16 ? hi : hi + (vf)round_bits(x - hi);
}

KERNEL void row_round(float *out, const float *in, int n, sl_compute compute) {
  if (compute == SL_COMPUTE_BF16) {
    EACH(i, n, { STORE(out + i, round_v(LOAD(in + i), SL_COMPUTE_BF16)); });
  } else if (compute == SL_COMPUTE_BF16X2) {
    EACH(i, n, { STORE(out + i, round_v(LOAD(in + i), SL_COMPUTE_BF16X2)); });
  } else {
    memmove(out, in, (size_t)n * sizeof *out);
  }
}

KERNEL void row_to_bf16(uint16_t *out, const float *in, int n) {
  EACH(i, n, {
    vh h = __builtin_convertvector(round_bits(LOAD(in + i)) >> 16, vh);
    if (part) {
      memcpy(out + i, &h, (size_t)left * sizeof *out);
    } else {
      *(vh_loose *)(out + i) = (vh_loose)h;
    }
  });
}

KERNEL void row_pair_bf16(uint32_t *out, const float *a, const float *b, int n) {
  EACH(i, n, {
    vu u = (round_bits(LOAD(a + i)) >> 16) | round_bits(LOAD(b + i));
    if (part) {
      memcpy(out + i, &u, (size_t)left * sizeof *out);
    } else {
      *(vu_loose *)(out + i) = (vu_loose)u;
    }
  });
}

KERNEL void row_from_bf16(float *out, const uint16_t *in, int n) {
  EACH(i, n, {
    vh h = {0};
    if (part) {
      memcpy(&h, in + i, (size_t)left * sizeof *in);
    } else {
      h = (vh) * (const vh_loose *)(in + i);
    }
    STORE(out + i, (vf)(__builtin_convertvector(h, vu) << 16));
  });
}

/* Mean (0 for RMS) and 1 / sqrt(variance + eps). */
INLINE float row_spread(sl_norm kind, const float *x, float eps, int n, float *mean) {
  vf sum = {0}, square = {0};
  *mean = 0;
  if (kind == SL_NORM_LAYER) {
    EACH(i, n, { sum += LOAD(x + i); });
    *mean = (float)(sum_lanes(sum) / n);
    vf m = splat(*mean);
    int whole = n / LANES * LANES;
    for (int i = 0; i < whole; i += LANES) square += (load(x + i) - m) * (load(x + i) - m);
    double tail = 0;
    for (int i = whole; i < n; i++) tail += (double)(x[i] - *mean) * (x[i] - *mean);
    return (float)(1 / sqrt((sum_lanes(square) + tail) / n + eps));
  }
  EACH(i, n, {
    vf v = LOAD(x + i);
    square += v * v;
  });
  return (float)(1 / sqrt(sum_lanes(square) / n + eps));
}

KERNEL void row_norm(sl_norm kind, float *y, const float *x, const float *w, const float *b, float eps, int n) {
  float mean;
  vf scale = splat(row_spread(kind, x, eps, n, &mean)), m = splat(mean);
  if (b) {
    EACH(i, n, { STORE(y + i, (LOAD(x + i) - m) * scale * LOAD(w + i) + LOAD(b + i)); });
  } else {
    EACH(i, n, { STORE(y + i, (LOAD(x + i) - m) * scale * LOAD(w + i)); });
  }
}

/* As the reference: dx = s (g - mean(g) - h mean(g h)) with g = w dy, h = (x - mean) s. */
KERNEL void row_norm_dx(sl_norm kind, float *dx, const float *dy, const float *x, const float *w, float eps, int n,
                        bool add) {
  float mean, scale = row_spread(kind, x, eps, n, &mean);
  vf m = splat(mean), s = splat(scale), sum_g = {0}, sum_gh = {0};
  EACH(i, n, {
    vf g = LOAD(dy + i) * LOAD(w + i);
    sum_g += g;
    sum_gh += g * (LOAD(x + i) - m) * s;
  });
  vf mean_g = splat(kind == SL_NORM_LAYER ? (float)(sum_lanes(sum_g) / n) : 0.0f);
  vf mean_gh = splat((float)(sum_lanes(sum_gh) / n));
  EACH(i, n, {
    vf value = s * (LOAD(dy + i) * LOAD(w + i) - mean_g - (LOAD(x + i) - m) * s * mean_gh);
    if (add) value += LOAD(dx + i);
    STORE(dx + i, value);
  });
}

KERNEL void row_rope(float *x, const float *cosine, const float *sine, int half) {
  EACH(i, half, {
    vf a = LOAD(x + i);
    vf b = LOAD(x + half + i);
    vf c = LOAD(cosine + i);
    vf s = LOAD(sine + i);
    STORE(x + i, a * c - b * s);
    STORE(x + half + i, b * c + a * s);
  });
}

KERNEL float row_scale_max(float *s, float scale, int n) {
  vf best = splat(-INFINITY);
  float result = -INFINITY;
  int i = 0;
  for (; i + LANES <= n; i += LANES) {
    vf v = load(s + i) * splat(scale);
    store(s + i, v);
    best = choose(v > best, v, best);
  }
  for (; i < n; i++) {
    s[i] *= scale;
    if (s[i] > result) result = s[i];
  }
  for (int j = 0; j < LANES; j++) {
    if (best[j] > result) result = best[j];
  }
  return result;
}

KERNEL float row_exp_sum(float *s, float shift, int n, bool to_bf16) {
  vf sum = {0};
  EACH(i, n, {
    vf e = exp_v(LOAD(s + i) - splat(shift));
    if (part) { /* lanes beyond the row count nothing */
      vf zero = {0};
      memcpy(&zero, &e, (size_t)left * sizeof(float));
      e = zero;
    }
    sum += e;
    STORE(s + i, to_bf16 ? (vf)round_bits(e) : e);
  });
  return (float)sum_lanes(sum);
}

/* All ones in the lanes whose bit is on, of the lower 16. */
INLINE vi lanes_on(uint32_t bits) {
  const vu each = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
  return (vi)((each & bits) != 0);
}

KERNEL float row_masked_max(const float *s, const uint32_t *bits, int n_word) {
  const vf none = splat(-INFINITY);
  vf best[2] = {none, none};
  for (int w = 0; w < n_word; w++, s += 2 * LANES) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
      vf v = choose(lanes_on(bits[w] >> i * LANES), load(s + i * LANES), none);
      best[i] = choose(v > best[i], v, best[i]);
    }
  }
  float result = -INFINITY;
  for (int i = 0; i < 2 * LANES; i++) {
    if (best[i / LANES][i % LANES] > result) result = best[i / LANES][i % LANES];
  }
  return result;
}

/* exp of what is at most a rounding above 0: no overflow to mind. */
INLINE vf exp_below_v(vf x) {
  const vf low = splat(-87.0f), magic = splat(12582912.0f);
  vi tiny = x < low;
  vf c = choose(tiny, low, x);
  vf t = c * splat(1.44269504088896341f) + magic;
  vf n = t - magic;
  vf r = c - n * splat(0.693359375f);
  r = r - n * splat(-2.12194440e-4f);
  vf p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = p * (r * r) + r + splat(1.0f);
  vf scaled = p * (vf)(((vi)t - (vi)magic + 127) << 23);
  return choose(tiny, splat(0.0f), scaled);
}

KERNEL float row_masked_exp(float *s, const uint32_t *bits, float scale, float shift, int n_word, bool to_bf16) {
  vf sum = {0};
  for (int w = 0; w < n_word; w++) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++, s += LANES) {
      vf e = exp_below_v(load(s) * splat(scale) - splat(shift));
      e = choose(lanes_on(bits[w] >> i * LANES), e, splat(0.0f));
      sum += e;
      store(s, to_bf16 ? (vf)round_bits(e) : e);
    }
  }
  return (float)sum_lanes(sum);
}

KERNEL void row_softmax_dx(float *s, float *dp, float scale, float lse, int n) {
  vf sum = {0}, total = {0};
  EACH(i, n, {
    vf p = exp_v(LOAD(s + i) * splat(scale) - splat(lse));
    STORE(s + i, p);
    p = LOAD(s + i); /* as stored: lanes beyond the row are zero */
    sum += p * LOAD(dp + i);
    total += p;
  });
  vf mean = splat((float)(sum_lanes(sum) / sum_lanes(total)));
  EACH(i, n, { STORE(dp + i, LOAD(s + i) * (LOAD(dp + i) - mean) * splat(scale)); });
}

/* One of four equal rounds: interleaving rows i and i + 8 rotates the eight bits of (row, column) by one. */
INLINE void transpose_round(vf r[16]) {
  vf t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 8; i++) {
    t[2 * i] = __builtin_shufflevector(r[i], r[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    t[2 * i + 1] =
        __builtin_shufflevector(r[i], r[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) r[i] = t[i];
}

KERNEL void block_transpose(float *out, int64_t ldo, const float *in, int64_t ldi, int m, int n) {
  for (int j = 0; j < m; j += LANES) {
    int rows = m - j < LANES ? m - j : LANES;
    for (int i = 0; i < n; i += LANES) {
      int cols = n - i < LANES ? n - i : LANES;
      vf r[LANES];
#pragma GCC unroll 16
      for (int l = 0; l < LANES; l++) {
        vf zero = {0};
        const float *from = in + (j + l) * ldi + i;
        r[l] = l >= rows ? zero : cols == LANES ? load(from) : load_part(from, cols);
      }
      for (int round = 0; round < 4; round++) transpose_round(r);
#pragma GCC unroll 16
      for (int l = 0; l < LANES; l++) {
        if (l < cols) store(out + (i + l) * ldo + j, r[l]);
      }
    }
  }
}

/* `rows` x (16 vectors) of sums in registers. */
INLINE void multiply_tile(int rows, int vectors, float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_col,
                          const float *b, int64_t ldb, int k, bool add) {
  vf sum[ROWS][2];
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++) {
#pragma GCC unroll 2
    for (int j = 0; j < vectors; j++) sum[i][j] = splat(0.0f);
  }
  /* A pointer for every third row: the two between are reached by the processor's own scaled addressing. */
  const char *at[(ROWS + 2) / 3];
  ptrdiff_t step = a_row * (ptrdiff_t)sizeof(float), along = a_col * (ptrdiff_t)sizeof(float);
#pragma GCC unroll 16
  for (int i = 0; i < rows; i += 3) at[i / 3] = (const char *)a + i * step;
  for (int l = 0; l < k; l++, b += ldb) {
    vf b0 = load(b), b1 = vectors > 1 ? load(b + LANES) : b0;
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
      vf x = splat(*(const float *)(const void *)(at[i / 3] + i % 3 * step));
      sum[i][0] += x * b0;
      if (vectors > 1) sum[i][1] += x * b1;
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i += 3) at[i / 3] += along;
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++) {
#pragma GCC unroll 2
    for (int j = 0; j < vectors; j++) {
      float *out = c + i * ldc + j * LANES;
      store(out, add ? load(out) + sum[i][j] : sum[i][j]);
    }
  }
}

/* All column pairs of one band of rows. */
#define BAND(r)                                                                                     \
  case r:                                                                                           \
    for (; j + 2 * LANES <= n; j += 2 * LANES) {                                                    \
      multiply_tile(r, 2, c + j, ldc, a, a_row, a_col, b + j, ldb, k, add);                         \
    }                                                                                               \
    if (j < n) multiply_tile(r, 1, c + j, ldc, a, a_row, a_col, b + j, ldb, k, add);                \
    break;

KERNEL void multiply_band(int rows, float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_col, const float *b,
                          int64_t ldb, int n, int k, bool add) {
  int j = 0;
  switch (rows) {
    BAND(1)
    BAND(2)
    BAND(3)
#if ROWS == 12
    BAND(4)
    BAND(5)
    BAND(6)
    BAND(7)
    BAND(8)
    BAND(9)
    BAND(10)
    BAND(11)
    BAND(12)
#endif
  }
}

KERNEL void multiply(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_col, const float *b, int64_t ldb,
                     int m, int n, int k, bool add) {
  for (int i = 0; i < m; i += ROWS) {
    multiply_band(m - i < ROWS ? m - i : ROWS, c + i * ldc, ldc, a + i * a_row, a_row, a_col, b, ldb, n, k, add);
  }
}

/* One tile row, 16 n x 2 k: the two k apart, as f32. */
INLINE void load_pairs(const unsigned char *in, sl_dtype dtype, vf *even, vf *odd) {
  if (dtype == SL_BF16) {
    vu u = (vu) * (const vu_loose *)(const void *)in;
    *even = (vf)(u << 16);
    *odd = (vf)(u & 0xffff0000u);
    return;
  }
  vf v0, v1;
  if (dtype == SL_F32) {
    v0 = load((const float *)(const void *)in);
    v1 = load((const float *)(const void *)(in + 64));
  } else {
    float values[32];
    HALF_TO_FLOAT(values, in);
    v0 = load(values);
    v1 = load(values + 16);
  }
  *even = __builtin_shufflevector(v0, v1, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  *odd = __builtin_shufflevector(v0, v1, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

KERNEL void block_panel(float *out, const void *block, sl_dtype dtype, bool transposed, sl_compute compute) {
  const unsigned char *in = block;
  size_t row_bytes = dtype == SL_F32 ? 128 : 64;
  float straight[SL_BLOCK_ELEMENTS] __attribute__((aligned(64)));
  float *to = transposed ? straight : out;
  for (int half = 0; half < 2; half++) {
    for (int i = 0; i < 16; i++, in += row_bytes) {
      vf even, odd;
      load_pairs(in, dtype, &even, &odd);
      if (compute != SL_COMPUTE_F32 && dtype != SL_BF16) {
        even = round_v(even, compute);
        odd = round_v(odd, compute);
      }
      store(to + 2 * i * 32 + half * 16, even);
      store(to + (2 * i + 1) * 32 + half * 16, odd);
    }
  }
  if (transposed) block_transpose(out, 32, straight, 32, 32, 32);
}

const sl_vector VECTOR_TABLE = {
    .name = VECTOR_NAME,
    .multiply = multiply,
    .panel = block_panel,
    .transpose = block_transpose,
    .round = row_round,
    .to_bf16 = row_to_bf16,
    .pair_bf16 = row_pair_bf16,
    .from_bf16 = row_from_bf16,
    .add = row_add,
    .product = row_product,
    .scale = row_scale,
    .act = row_act,
    .act_dx = row_act_dx,
    .gate = row_gate,
    .gate_dx = row_gate_dx,
    .norm = row_norm,
    .norm_dx = row_norm_dx,
    .rope = row_rope,
    .scale_max = row_scale_max,
    .exp_sum = row_exp_sum,
    .masked_max = row_masked_max,
    .masked_exp = row_masked_exp,
    .softmax_dx = row_softmax_dx,
};
