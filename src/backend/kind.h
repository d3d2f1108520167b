/* What the kinds of backend (ref, cpu) share: the objects' insides and the table by which backend.c reaches a kind.
 * Only files of this room include it. Both kinds compute in host memory. */
#ifndef SL_BACKEND_KIND_H
#define SL_BACKEND_KIND_H

#include <assert.h>
#include <stdatomic.h>

#include "backend/backend.h"

typedef struct sl_kind {
  const char *name;
  const sl_ops *ops;
  void (*open)(sl_backend *backend); /* looks at the processor; may be NULL */
  const char *(*describe)(const sl_backend *backend, sl_compute compute);
  sl_compute (*default_compute)(const sl_backend *backend);
  /* Fills data and n_bytes of a weight whose other fields are set. */
  sl_status (*pack)(sl_weight *weight, const sl_tensor *parts, int n_part);
  /* Bytes of scratch that ops need for these operands: shared by all threads, and for each thread. False on overflow. */
  bool (*scratch)(const sl_queue *queue, int max_rows, int max_width, int max_key, size_t *shared, size_t *share);
} sl_kind;

extern const sl_kind sl_kind_ref;
extern const sl_kind sl_kind_cpu;

struct sl_backend {
  const sl_kind *kind;
  bool amx;                /* bf16 tiles, permission granted */
  const void *vector;      /* cpu: the row kernels for this processor (sl_vector) */
};

struct sl_buffer {
  unsigned char *data;
  size_t n_bytes;
};

struct sl_weight {
  const sl_backend *backend;
  sl_compute compute;
  sl_dtype dtype; /* of the stored elements: bf16, f16 or f32 */
  int n, k;
  void *data; /* layout is the kind's own */
  size_t n_bytes;
  atomic_int n_owner;
};

struct sl_queue {
  const sl_backend *backend;
  int n_thread;
  unsigned char *scratch;
  size_t shared_bytes, share_bytes; /* what was reserved: scratch is the shared part, then one share per thread */
};

/* 64-byte aligned zeroed memory (free with free()). */
sl_status sl_aligned_alloc(void **out, size_t n_bytes, const char *what);

/* The first element of a matrix, its shape and bounds asserted. */
static inline void *sl_mat_data(sl_mat m, sl_dtype dtype) {
  size_t size = dtype == SL_BF16 ? 2 : 4;
  assert(m.buffer && m.dtype == dtype && m.rows >= 0 && m.cols >= 0 && m.offset >= 0 && m.stride >= 0);
  assert(m.rows <= 1 || m.stride >= m.cols);
  assert(m.rows == 0 || (size_t)(m.offset + (m.rows - 1) * m.stride + m.cols) * size <= m.buffer->n_bytes);
  return m.buffer->data + (size_t)m.offset * size;
}
static inline float *sl_mat_f32(sl_mat m) { return sl_mat_data(m, SL_F32); }

static inline int32_t *sl_ints_data(sl_ints v) {
  assert(v.buffer && v.offset >= 0 && v.count >= 0);
  assert((size_t)(v.offset + v.count) * sizeof(int32_t) <= v.buffer->n_bytes);
  return (int32_t *)v.buffer->data + v.offset;
}

/* How often a norm's weights fit into a row: the groups that are normed by themselves. */
static inline int sl_norm_groups(sl_mat x, sl_mat w) {
  assert(w.cols > 0 && x.cols % w.cols == 0);
  return x.cols / w.cols;
}

/* Keys first .. end - 1. */
typedef struct sl_key_span {
  int first, end;
} sl_key_span;

/* What query row i sees. */
static inline sl_key_span sl_attend_sees(const sl_attend *a, int row) {
  sl_key_span s = {0, a->k.rows};
  if (a->first_key.count > 0) {
    s = (sl_key_span){sl_ints_data(a->first_key)[row], sl_ints_data(a->last_key)[row] + 1};
  } else if (a->causal) {
    const int end = a->first_query + row + 1;
    if (end < s.end) s.end = end;
    if (a->window > 0 && end > a->window) s.first = end - a->window;
  }
  assert(s.first >= 0 && s.first < s.end && s.end <= a->k.rows);
  return s;
}

/* What any of `rows` query rows from `row` on sees, from a multiple of `step` keys on. */
static inline sl_key_span sl_attend_band_sees(const sl_attend *a, int row, int rows, int step) {
  sl_key_span all = sl_attend_sees(a, row);
  for (int i = 1; i < rows; i++) {
    const sl_key_span s = sl_attend_sees(a, row + i);
    if (s.first < all.first) all.first = s.first;
    if (s.end > all.end) all.end = s.end;
  }
  all.first = all.first / step * step;
  return all;
}

/* The shapes both kinds rely on. */
static inline void sl_attend_check(const sl_attend *a) {
  assert(a->n_head > 0 && a->n_head_kv > 0 && a->n_head % a->n_head_kv == 0 && a->d_head > 0 &&
         a->d_head <= 256 && a->first_query >= 0);
  assert(a->q.cols == a->n_head * a->d_head && a->window >= 0 && a->first_key.count == a->last_key.count);
  assert(a->first_key.count == 0 || a->first_key.count == a->q.rows);
  assert(!a->z.buffer || (a->z.rows == a->q.rows && a->z.cols == a->q.cols));
  assert(a->k.cols == a->n_head_kv * a->d_head && a->v.cols == a->k.cols && a->v.rows == a->k.rows && a->k.rows > 0);
  assert(!a->lse.buffer || (a->lse.rows == a->q.rows && a->lse.cols == a->n_head));
  assert(!a->pattern.buffer || (a->pattern.rows == a->n_head * a->rows.count && a->pattern.cols == a->k.rows));
  assert(!a->scores.buffer || (a->scores.rows == a->n_head * a->rows.count && a->scores.cols == a->k.rows));
}

static inline void sl_attend_shared_check(const sl_attend_shared *a) {
  assert(a->n_head > 0 && a->n_head_kv > 0 && a->n_head % a->n_head_kv == 0 && a->d_head > 0 && a->d_head <= 256 &&
         a->scale > 0);
  assert(a->q.cols == a->n_head * a->d_head && a->z.rows == a->q.rows && a->z.cols == a->q.cols);
  assert(a->n_segment >= 0 && a->n_segment <= SL_MAX_SEGMENT && a->n_local >= 1);
  for (int s = 0; s < a->n_segment; s++) {
    assert(a->k[s].cols == a->n_head_kv * a->d_head && a->v[s].cols == a->k[s].cols && a->v[s].rows == a->k[s].rows);
  }
  assert(a->local_k.cols == a->n_head_kv * a->d_head && a->local_v.cols == a->local_k.cols);
  assert(a->local_k.rows % a->n_local == 0 && a->local_v.rows == a->local_k.rows);
  assert(a->branch.count == a->q.rows && a->view.count == a->q.rows * a->n_head);
  assert(a->n_view >= 0 && a->masks.count == a->n_view * sl_attend_shared_words(a));
}

/* The visible columns of one row and head, 32 a word. */
static inline const uint32_t *sl_attend_shared_mask(const sl_attend_shared *a, int row, int head) {
  int view = sl_ints_data(a->view)[row * a->n_head + head];
  assert(view >= 0 && view < a->n_view);
  return (const uint32_t *)sl_ints_data(a->masks) + (size_t)view * (size_t)sl_attend_shared_words(a);
}

#endif
