/* The forward pass emits the pattern of the asked rows alone (nn/site.h, pattern_rows); every head is read on its own
 * as it is seen, so that the host copy stays small too. */
#include "analysis/attention_rows.h"

#include <stdlib.h>

typedef struct reader {
  sl_analysis_context *context;
  const sl_attention_rows *request;
  int n_layer, n_head;
  int first, n_block; /* rows of this pass: first .. first + n_block - 1 of the request's */
  float *chunk;       /* one head's pattern of this pass */
  int64_t chunk_size; /* elements */
  sl_status status;
} reader;

static bool wants_pattern(void *user, sl_part part, sl_site site, int layer, bool backward) {
  (void)user, (void)layer;
  return part == SL_PART_DECODER && site == SL_SITE_PATTERN && !backward;
}

static void see_pattern(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                        sl_mat grad) {
  (void)part, (void)site, (void)first_row, (void)grad;
  reader *r = user;
  if (r->status != SL_OK) return;
  const int64_t n_element = (r->n_block - 1) * value.stride + value.cols;
  if (n_element > r->chunk_size) {
    r->status = SL_REALLOC(r->chunk, (size_t)n_element, "attention rows");
    if (r->status != SL_OK) return;
    r->chunk_size = n_element;
  }
  for (int h = 0; h < r->n_head; h++) {
    const int64_t offset = value.offset + (int64_t)h * r->n_block * value.stride;
    sl_buffer_read(queue, r->chunk, value.buffer, (size_t)offset * sizeof(float), (size_t)n_element * sizeof(float));
    for (int q = 0; q < r->n_block; q++)
      r->request->take(r->request->user, layer, h, r->first + q, r->chunk + q * value.stride, value.cols);
  }
  const double rows_done = r->first + r->n_block * (layer + 1.0) / r->n_layer;
  if (r->request->progress > 0)
    sl_context_progress(r->context, r->request->progress * rows_done / r->request->n_row, 1);
}

static sl_status run_pass(reader *r, sl_buffer *buffer) {
  sl_analysis_context *c = r->context;
  int32_t *rows = NULL;
  SL_TRY(SL_ALLOC(rows, (size_t)r->n_block, "query rows"));
  for (int q = 0; q < r->n_block; q++) rows[q] = r->request->rows[r->first + q];
  sl_buffer_write(sl_session_queue(c->session), buffer, 0, rows, (size_t)r->n_block * sizeof *rows);
  free(rows);
  const sl_probe probe = {.user = r,
                          .wants = wants_pattern,
                          .see = see_pattern,
                          .pattern_rows = {.buffer = buffer, .offset = 0, .count = r->n_block}};
  SL_TRY(sl_session_forward(c->session, c->layout, c->image, NULL, 0, NULL, &probe, false));
  SL_TRY(r->status);
  return sl_context_check_cancel(c);
}

sl_status sl_context_attention(sl_analysis_context *c, const sl_attention_rows *request) {
  const sl_model_shape *shape = sl_model_get_shape(c->model);
  reader r = {.context = c, .request = request, .n_layer = shape->decoder.n_layer, .n_head = shape->decoder.n_head};
  int64_t most = request->limit_bytes / ((int64_t)r.n_head * c->layout->n_token * (int64_t)sizeof(float));
  if (most < 1) most = 1;
  if (most > request->n_row) most = request->n_row;
  sl_buffer *buffer = NULL;
  SL_TRY(sl_buffer_new(&buffer, sl_model_get_backend(c->model), (size_t)most * sizeof(int32_t), "query rows"));
  sl_status status = SL_OK;
  for (; r.first < request->n_row && status == SL_OK; r.first += r.n_block) {
    r.n_block = request->n_row - r.first < most ? request->n_row - r.first : (int)most;
    status = run_pass(&r, buffer);
  }
  sl_buffer_free(buffer);
  free(r.chunk);
  return status;
}
