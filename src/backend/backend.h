/* Compute backends: device memory, packed weights, and the table of ops that nn/ is written in.
 *
 * Activations are f32 matrices in device buffers (bf16 only to keep them for a backward pass). Nothing above this room
 * touches their bytes: ops enqueue work on a queue and return no data; sl_buffer_read is the only synchronisation.
 * An op asserts its shapes (a wrong one is our own bug); it cannot fail at run time, because memory is taken up front.
 *
 * Symbols: T rows (tokens), D width, H query heads, Hkv key/value heads, d head width, N outputs and K inputs of a
 * product. Row-major; `stride` counts elements between rows.
 *
 * Threads: a backend and its weights are immutable after creation and shared freely; a queue and the buffers it works
 * on belong to one thread at a time.
 *
 * Determinism: every reduction has a fixed order, so the same inputs give the same bits whatever the number of worker
 * threads. Row t of a product (linear, linear_dx), of a norm, activation or rope has the same bits whatever rows come
 * along, from T = 1 to any T; so has row t of attend at the same keys. attend_dx sums dk and dv over query rows in a
 * fixed order that starts at row 0, so they belong to the whole set of rows. Bits differ between backends and between
 * kinds of processor (AMX, AVX-512, AVX2, none). */
#ifndef SL_BACKEND_BACKEND_H
#define SL_BACKEND_BACKEND_H

#include "base/memory.h"
#include "tensor/tensor.h"

/* How products are computed. The mode is chosen when a weight is packed and stated in every result.
 *   f32     x and W in f32
 *   bf16x2  W exact in bf16 (f16 and f32 weights split in two), x = hi + lo in bf16, f32 sums: near f32
 *   bf16    W and x rounded to bf16, f32 sums */
typedef enum sl_compute { SL_COMPUTE_F32, SL_COMPUTE_BF16X2, SL_COMPUTE_BF16, SL_COMPUTE_COUNT } sl_compute;
const char *sl_compute_name(sl_compute compute);

typedef struct sl_backend sl_backend;
typedef struct sl_buffer sl_buffer;
typedef struct sl_weight sl_weight;
typedef struct sl_queue sl_queue;
typedef struct sl_ops sl_ops;

/* A matrix [rows, cols] inside a buffer. `dtype` is SL_F32 everywhere except in the op `copy`. A zeroed sl_mat means
 * "absent" where an op allows it. `offset` and `stride` count elements. */
typedef struct sl_mat {
  sl_buffer *buffer;
  int64_t offset;
  int64_t stride;
  int rows, cols;
  sl_dtype dtype;
} sl_mat;

/* `rows` rows from `first_row` on; `cols` columns from `first_col` on. */
static inline sl_mat sl_mat_rows(sl_mat m, int first_row, int rows) {
  m.offset += first_row * m.stride;
  m.rows = rows;
  return m;
}
static inline sl_mat sl_mat_cols(sl_mat m, int first_col, int cols) {
  m.offset += first_col;
  m.cols = cols;
  return m;
}

/* `count` i32 values inside a buffer. */
typedef struct sl_ints {
  sl_buffer *buffer;
  int64_t offset;
  int count;
} sl_ints;

typedef enum sl_norm { SL_NORM_LAYER, SL_NORM_RMS } sl_norm;
typedef enum sl_act { SL_ACT_QUICK_GELU, SL_ACT_GELU_ERF, SL_ACT_GELU_TANH, SL_ACT_SILU } sl_act;

/* One attention: z = softmax(scale * q k^T + mask) v per head; query head h reads kv head h / (n_head / n_head_kv).
 * Query row i stands at key index p = first_query + i; with `causal` it sees keys 0 .. p, of which only the last
 * `window` where that is not 0; else all. Lists first_key and last_key say it row by row instead: images that see
 * themselves whole, windows of a picture. A row sees at least one key. */
typedef struct sl_attend {
  int n_head, n_head_kv, d_head;
  float scale;
  bool causal;
  int first_query;
  int window;
  sl_ints first_key, last_key; /* [Tq] each, or count 0: row i sees keys first_key[i] .. last_key[i] */
  sl_mat q;   /* [Tq, H d], rotated */
  sl_mat k;   /* [Tk, Hkv d], rotated */
  sl_mat v;   /* [Tk, Hkv d] */
  sl_mat z;   /* [Tq, H d] output; absent in the backward */
  sl_mat lse; /* [Tq, H] output: log of the row's sum of exp(score) (input of the backward); may be absent forward */
  /* Rows to emit, for recording: pattern and scores [H * n_row, Tk], row h * n_row + r; absent when rows.count is 0
   * or the matrix is zeroed. Scores are scaled; hidden keys hold -inf in scores and 0 in pattern. */
  sl_ints rows; /* indices into q's rows */
  sl_mat pattern;
  sl_mat scores;
  /* With bf16 the operands of every product are rounded to bf16: q, k, v and exp(score - largest) forward; q, k, v, dz,
   * the probabilities and the scores' gradient backward (f32 sums, f32 softmax denominator). The other modes compute in
   * f32. Zero is f32. */
  sl_compute compute;
} sl_attend;

/* Attention of the rows of many branches over keys that they share, plus each branch's own: one prefix, many branches.
 *
 * Columns, in this order: shared segment 0 | shared segment 1 | ... | the local keys of the row's branch. The columns of
 * a segment start at a multiple of 32 (the last segment's padded), so the local ones start at
 * sum over segments of round_up(rows, 32). Row r, head h sees the columns whose bit is on in mask number
 * view[r * n_head + h]; bit c % 32 of word c / 32 of a mask is column c. Bits of padding columns are 0. A row and head
 * that sees nothing gets z = 0.
 *
 * A row's bits depend on its own q, view and keys alone: not on other rows, branches or threads, nor on segments or local
 * keys that it does not see. */
#define SL_MAX_SEGMENT 8
typedef struct sl_attend_shared {
  int n_head, n_head_kv, d_head;
  float scale;
  sl_compute compute;           /* as in sl_attend */
  sl_mat q, z;                  /* [R, H d]; q rotated, z output */
  int n_segment;
  sl_mat k[SL_MAX_SEGMENT], v[SL_MAX_SEGMENT]; /* [rows of the segment, Hkv d]; keys rotated */
  int n_local;                  /* local keys of one branch, at least 1 */
  sl_mat local_k, local_v;      /* [branches * n_local, Hkv d]: branch b's are rows b * n_local .. */
  sl_ints branch;               /* [R] branch of a row, ascending */
  sl_ints view;                 /* [R * H] number of the mask */
  sl_ints masks;                /* [n_view * n_word]: n_word = words of all columns, local ones included */
  int n_view;
} sl_attend_shared;

static inline int sl_attend_shared_columns(const sl_attend_shared *a) { /* without the local ones */
  int n = 0;
  for (int s = 0; s < a->n_segment; s++) n += (a->k[s].rows + 31) / 32 * 32;
  return n;
}
static inline int sl_attend_shared_words(const sl_attend_shared *a) {
  return sl_attend_shared_columns(a) / 32 + (a->n_local + 31) / 32;
}

struct sl_ops {
  /* y[T, N] = x[T, K] W^T (+ bias[1, N]) ; with `add`, y += that. bias may be absent. y must not overlap x. */
  void (*linear)(sl_queue *queue, sl_mat y, sl_mat x, const sl_weight *w, sl_mat bias, bool add);
  /* dx[T, K] (+)= dy[T, N] W, from the same packed weight. */
  void (*linear_dx)(sl_queue *queue, sl_mat dx, sl_mat dy, const sl_weight *w, bool add);
  /* y[i] = W[ids[i]] (embedding rows, exact in f32). Ids are in range. */
  void (*embed)(sl_queue *queue, sl_mat y, const sl_weight *w, sl_ints ids);

  /* LayerNorm: (x - mean) / sqrt(var + eps) * w + b; RMS: x / sqrt(mean(x^2) + eps) * w. w, b [1, D]; b absent for RMS.
   * A row of x may hold several groups of D columns (the heads of queries): each is normed by itself. y may be x. */
  void (*norm)(sl_queue *queue, sl_norm kind, sl_mat y, sl_mat x, sl_mat w, sl_mat b, float eps);
  /* dx (+)= dy through the norm at input x. Without `add` dx may be dy. */
  void (*norm_dx)(sl_queue *queue, sl_norm kind, sl_mat dx, sl_mat dy, sl_mat x, sl_mat w, float eps, bool add);

  /* y = act(x), elementwise; dx = dy act'(x). In place allowed. */
  void (*act)(sl_queue *queue, sl_act kind, sl_mat y, sl_mat x);
  void (*act_dx)(sl_queue *queue, sl_act kind, sl_mat dx, sl_mat dy, sl_mat x);
  /* Gated MLP: h[T, F] = act(g) * u with gu[T, 2F] = [g | u]; backward dgu from dh and gu (dgu may be gu itself). */
  void (*gate)(sl_queue *queue, sl_act kind, sl_mat h, sl_mat gu);
  void (*gate_dx)(sl_queue *queue, sl_act kind, sl_mat dgu, sl_mat dh, sl_mat gu);

  /* Half-split rotary embedding in place on x[T, n_head d]: pairs (i, i + d/2) turned by the sum over A axes of
   * positions[t * A + a] * inv_freq[a, i] (inv_freq [A, d/2]; angles in f32 as transformers computes them; one axis in
   * text, two in a plane, three with time). sign +1 forward, -1 backward (the transpose). */
  void (*rope)(sl_queue *queue, sl_mat x, int d_head, sl_ints positions, sl_mat inv_freq, int sign);
  /* Attention's temperature in long sequences, in place: x[t] *= max(1, log(p + 1) / log(n)), p = positions[t * A],
   * where positions holds A = count / T numbers a row. Its own transpose. */
  void (*log_n)(sl_queue *queue, sl_mat x, sl_ints positions, int n);

  void (*attend)(sl_queue *queue, const sl_attend *a);
  /* dq[Tq, H d], dk, dv[Tk, Hkv d] (overwritten) from dz[Tq, H d] and the forward's q, k, v, lse. */
  void (*attend_dx)(sl_queue *queue, const sl_attend *a, sl_mat dz, sl_mat dq, sl_mat dk, sl_mat dv);

  void (*attend_shared)(sl_queue *queue, const sl_attend_shared *a);

  void (*add)(sl_queue *queue, sl_mat y, sl_mat a, sl_mat b); /* y = a + b; y may be a or b; b may have one row */
  void (*multiply)(sl_queue *queue, sl_mat y, sl_mat a, sl_mat b); /* y = a * b, elementwise; as add */
  void (*scale)(sl_queue *queue, sl_mat y, sl_mat x, float factor); /* y = factor x */
  void (*zero)(sl_queue *queue, sl_mat y);
  void (*copy)(sl_queue *queue, sl_mat y, sl_mat x); /* converts between f32 and bf16 */
  void (*gather_rows)(sl_queue *queue, sl_mat y, sl_mat x, sl_ints rows);  /* y[i] = x[rows[i]] */
  void (*scatter_rows)(sl_queue *queue, sl_mat y, sl_mat x, sl_ints rows); /* y[rows[i]] = x[i]; rows are distinct */

  /* LLaVA-CAM reduction over rows of one feature map F[N, D] and its gradient G[N, D]: alpha[1, D] = mean over rows of
   * G (of max(G, 0) with clip); heat[1, N] = F alpha^T, raw (no ReLU). Sums in f64 or equivalent accuracy. */
  void (*cam)(sl_queue *queue, sl_mat heat, sl_mat alpha, sl_mat f, sl_mat g, bool clip);
};

/* Opens a backend by name: "ref" (plain C, the specification), "cpu" (AMX, AVX-512 or generic, chosen at run time from
 * the processor). An unknown or unavailable name is an error listing those that exist. */
sl_status sl_backend_open(sl_backend **out, const char *name);
void sl_backend_close(sl_backend *backend);
const char *sl_backend_name(const sl_backend *backend);
/* One line on what products run on ("bf16 on AMX tiles", ...) in this mode on this machine. */
const char *sl_backend_describe(const sl_backend *backend, sl_compute compute);
/* What `--dtype auto` means here: bf16x2 where the processor multiplies bf16 matrices, else f32. */
sl_compute sl_backend_default_compute(const sl_backend *backend);

/* A queue: worker threads and the ops' scratch. n_thread 0 = all processors of this process. */
sl_status sl_queue_new(sl_queue **out, const sl_backend *backend, int n_thread);
void sl_queue_free(sl_queue *queue);
const sl_ops *sl_queue_ops(const sl_queue *queue);
int sl_queue_threads(const sl_queue *queue); /* worker threads, at least 1 */

/* The scratch an op may need grows with its operands; nn declares its largest product before work starts, so that ops
 * never allocate: rows T, the largest of all widths N and K (and H d of attention), and the longest key row Tk (for
 * attend_shared: all its columns, padding and local ones included). Grows only. An op given larger operands than were
 * declared fails an assertion; heads wider than 256 are not supported. */
sl_status sl_queue_reserve(sl_queue *queue, int max_rows, int max_width, int max_key);

/* Device memory, 64-byte aligned, zeroed. Offsets in bytes; write and read wait for the queue. */
sl_status sl_buffer_new(sl_buffer **out, const sl_backend *backend, size_t n_bytes, const char *what);
void sl_buffer_free(sl_buffer *buffer);
size_t sl_buffer_bytes(const sl_buffer *buffer);
void sl_buffer_write(sl_queue *queue, sl_buffer *buffer, size_t offset, const void *data, size_t n_bytes);
void sl_buffer_read(sl_queue *queue, void *data, const sl_buffer *buffer, size_t offset, size_t n_bytes);

/* Packs `n_part` host matrices [n_i, K] (f32, f16 or bf16, row-major), stacked by rows, as one weight [sum n_i, K] for
 * products in `compute`. One packed copy serves linear, linear_dx and embed. Two weights never share storage, except
 * through sl_weight_ref. */
sl_status sl_weight_new(sl_weight **out, const sl_backend *backend, sl_compute compute, const sl_tensor *parts,
                        int n_part);
sl_weight *sl_weight_ref(sl_weight *weight); /* one more owner of the same weight */
void sl_weight_free(sl_weight *weight);
int sl_weight_rows(const sl_weight *weight);
int sl_weight_cols(const sl_weight *weight);
size_t sl_weight_bytes(const sl_weight *weight);

#endif
