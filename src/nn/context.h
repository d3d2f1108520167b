/* What every nn function works with: a queue, bump-allocated scratch, and the probe. */
#ifndef SL_NN_CONTEXT_H
#define SL_NN_CONTEXT_H

#include <assert.h>
#include <stdatomic.h>

#include "nn/site.h"

/* One device buffer handed out front to back; marks are released in reverse order. The owner sizes it before work
 * starts from the *_scratch functions below each nn header. */
typedef struct sl_scratch {
  sl_buffer *buffer;
  int64_t used, capacity; /* f32 elements */
} sl_scratch;

/* Who changes what in a forward pass: nn hands over a site's value before anyone sees or uses it. Rows are those of the
 * pass. A zeroed table changes nothing. */
typedef struct sl_taps {
  void *user;
  bool (*touches)(void *user, sl_part part, sl_site site, int layer);
  void (*apply)(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, sl_mat value);
} sl_taps;

typedef struct sl_context {
  sl_queue *queue;
  const sl_ops *ops;
  sl_scratch *scratch;
  const sl_probe *probe; /* may be NULL */
  const sl_taps *taps;   /* may be NULL */
  sl_ints first_key, last_key; /* the keys that each row of the pass sees, where its blocks' shape does not say it all
                                * (images that see themselves whole, windows of a picture); count 0 = as it does */
  sl_ints local_first_key; /* first_key of a decoder's local layers */
  int row_offset;        /* added to the rows that a probe is told: one of several views run one after another */
} sl_context;

/* Between layers: SL_ERROR_CANCELLED once the flag (may be NULL) is set. */
static inline sl_status sl_check_cancel(const atomic_bool *cancel) {
  if (cancel && atomic_load_explicit(cancel, memory_order_relaxed)) SL_FAIL(SL_ERROR_CANCELLED, "interrupted");
  return SL_OK;
}

/* Elements a [rows, cols] scratch matrix takes: rows start 64-byte aligned. */
static inline int64_t sl_scratch_stride(int cols) { return ((int64_t)cols + 15) / 16 * 16; }
static inline int64_t sl_scratch_need(int rows, int cols) { return (int64_t)rows * sl_scratch_stride(cols); }

/* The next matrix of a buffer that is handed out piece by piece; *at counts elements. With buffer NULL it only counts. */
static inline sl_mat sl_carve(sl_buffer *buffer, int64_t *at, int rows, int cols) {
  const sl_mat m = {buffer, *at, sl_scratch_stride(cols), rows, cols, SL_F32};
  *at += sl_scratch_need(rows, cols);
  return m;
}

static inline sl_mat sl_scratch_mat(sl_scratch *scratch, int rows, int cols) {
  const int64_t need = sl_scratch_need(rows, cols);
  assert(scratch->used + need <= scratch->capacity);
  const sl_mat m = {scratch->buffer, scratch->used, sl_scratch_stride(cols), rows, cols, SL_F32};
  scratch->used += need;
  return m;
}

/* True when the probe wants this site in this direction. */
static inline bool sl_wants(const sl_context *c, sl_part part, sl_site site, int layer, bool backward) {
  return c->probe && c->probe->wants && c->probe->wants(c->probe->user, part, site, layer, backward);
}

/* True when a site's value will be changed. */
static inline bool sl_touches(const sl_context *c, sl_part part, sl_site site, int layer) {
  return c->taps && c->taps->touches && c->taps->touches(c->taps->user, part, site, layer);
}

/* Changes a value of the forward pass, then shows it, as far as somebody asked for either. */
static inline void sl_see(const sl_context *c, sl_part part, sl_site site, int layer, int first_row, sl_mat value) {
  if (sl_touches(c, part, site, layer)) c->taps->apply(c->taps->user, c->queue, part, site, layer, value);
  if (sl_wants(c, part, site, layer, false))
    c->probe->see(c->probe->user, c->queue, part, site, layer, c->row_offset + first_row, value, (sl_mat){0});
}

/* Shows a value with its gradient in the backward pass if it is wanted. */
static inline void sl_see_grad(const sl_context *c, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                               sl_mat grad) {
  if (sl_wants(c, part, site, layer, true))
    c->probe->see(c->probe->user, c->queue, part, site, layer, c->row_offset + first_row, value, grad);
}

#endif
