/* Sessions: forward over a layout, greedy continuation over the key/value cache, backward from logits. */
#include "model/session.h"

#include <stdlib.h>
#include <string.h>

#include "model/connect.h"
#include "model/logits.h"


sl_context sl_session_context(sl_session *s, const sl_probe *probe) {
  return (sl_context){.queue = s->queue, .ops = sl_queue_ops(s->queue), .scratch = &s->scratch, .probe = probe};
}

sl_status sl_session_new(sl_session **out, const sl_model *model, int n_thread) {
  *out = NULL;
  sl_session *s = NULL;
  SL_TRY(SL_ALLOC(s, 1, "session"));
  s->model = model;
  s->keep_limit_bytes = SL_KEEP_LIMIT;
  s->branch_limit_bytes = SL_BRANCH_LIMIT;
  sl_status status = sl_queue_new(&s->queue, model->backend, n_thread ? n_thread : model->n_thread);
  if (status == SL_OK) status = SL_ALLOC(s->kv, (size_t)model->decoder.n_layer, "session");
  if (status != SL_OK) {
    sl_session_free(s);
    return status;
  }
  *out = s;
  return SL_OK;
}

void sl_session_free(sl_session *s) {
  if (!s) return;
  sl_keep_dispose(&s->keep);
  sl_buffer_free(s->scratch.buffer);
  sl_buffer_free(s->cache);
  sl_buffer_free(s->rows);
  sl_buffer_free(s->numbers);
  sl_buffer_free(s->gradient);
  sl_queue_free(s->queue);
  free(s->kv);
  free(s);
}

sl_queue *sl_session_queue(sl_session *s) { return s->queue; }
void sl_session_set_cancel(sl_session *s, const atomic_bool *cancel) { s->cancel = cancel; }
void sl_session_set_keep_limit(sl_session *s, size_t n_bytes) { s->keep_limit_bytes = n_bytes; }

size_t sl_session_keep_bytes(const sl_session *s, int n_token) {
  const sl_decoder *decoder = &s->model->decoder;
  return sl_keep_bytes(&decoder->shape, decoder->n_layer, n_token,
                       sl_keep_choose(&decoder->shape, decoder->n_layer, n_token, s->keep_limit_bytes));
}

sl_status sl_session_reserve_scratch(sl_session *s, int64_t need) {
  if (need <= s->scratch.capacity) return SL_OK;
  sl_buffer_free(s->scratch.buffer);
  s->scratch = (sl_scratch){0};
  SL_TRY(sl_buffer_new(&s->scratch.buffer, s->model->backend, (size_t)need * sizeof(float), "scratch"));
  s->scratch.capacity = need;
  return SL_OK;
}

static int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

sl_status sl_session_reserve_queue(sl_session *s, int n_row, int n_key) {
  const sl_model *m = s->model;
  int64_t width = 0;
  const int64_t widths[] = {sl_block_qkv_width(&m->decoder.shape),
                            sl_block_up_width(&m->decoder.shape),
                            m->decoder.shape.d_model,
                            sl_block_qkv_width(&m->tower.shape),
                            sl_block_up_width(&m->tower.shape),
                            m->tower.shape.d_model,
                            (int64_t)sl_weight_cols(m->tower.patch),
                            sl_connect_of(m)->width(m)};
  for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) width = max_of(width, widths[i]);
  SL_TRY(sl_queue_reserve(s->queue, n_row, (int)width, n_key));
  return sl_queue_reserve(s->queue, SL_HEAD_ROWS, (int)max_of(width, m->decoder.n_vocab), n_key);
}

static sl_mat cache_mat(const sl_model *m, sl_buffer *cache, int capacity, int il, int which) {
  const int width = m->decoder.shape.n_head_kv * m->decoder.shape.d_head;
  return (sl_mat){cache, ((int64_t)il * 2 + which) * capacity * width, width, capacity, width, SL_F32};
}

/* Room for `n_token` rows in the cache; the rows in it are moved along. */
static sl_status reserve_cache(sl_session *s, int n_token) {
  if (n_token <= s->cache_capacity) return SL_OK;
  const sl_model *m = s->model;
  const int n_layer = m->decoder.n_layer, width = m->decoder.shape.n_head_kv * m->decoder.shape.d_head;
  size_t bytes;
  if (!sl_size_mul((size_t)n_layer * 2 * sizeof(float), (size_t)n_token * (size_t)width, &bytes))
    SL_FAIL(SL_ERROR_MEMORY, "a key/value cache for %d tokens is too large", n_token);
  sl_buffer *cache = NULL;
  SL_TRY(sl_buffer_new(&cache, m->backend, bytes, "key/value cache"));
  for (int il = 0; il < n_layer; il++) {
    sl_mat *own[2] = {&s->kv[il].k, &s->kv[il].v};
    for (int which = 0; which < 2; which++) {
      const sl_mat grown = cache_mat(m, cache, n_token, il, which);
      if (s->n_cached > 0)
        sl_queue_ops(s->queue)->copy(s->queue, sl_mat_rows(grown, 0, s->n_cached),
                                     sl_mat_rows(*own[which], 0, s->n_cached));
      *own[which] = grown;
    }
  }
  sl_buffer_free(s->cache);
  s->cache = cache;
  s->cache_capacity = n_token;
  return SL_OK;
}

static void drop_cache(sl_session *s) {
  sl_buffer_free(s->cache);
  s->cache = NULL;
  s->cache_capacity = s->n_cached = 0;
}

sl_status sl_session_reserve_rows(sl_session *s, int n_token) {
  if (n_token <= s->capacity) return SL_OK;
  const int width = s->model->decoder.shape.d_model;
  sl_buffer_free(s->rows);
  sl_buffer_free(s->numbers);
  s->rows = s->numbers = NULL;
  s->capacity = 0;
  s->n_kept = 0;
  SL_TRY(sl_buffer_new(&s->rows, s->model->backend, (size_t)sl_scratch_need(n_token, width) * sizeof(float),
                       "residual stream"));
  SL_TRY(sl_buffer_new(&s->numbers, s->model->backend, 
                       (SL_N_NUMBER + (size_t)sl_rope_axes(&s->model->config)) * (size_t)n_token * sizeof(int32_t),
                       "token ids"));
  s->x = (sl_mat){s->rows, 0, sl_scratch_stride(width), n_token, width, SL_F32};
  s->capacity = n_token;
  return SL_OK;
}

/* Room for what a backward pass over n_token rows needs: kept activations and the gradient. */
static sl_status reserve_keep(sl_session *s, int n_token) {
  const sl_decoder *decoder = &s->model->decoder;
  const int width = decoder->shape.d_model;
  const size_t bytes = (size_t)sl_scratch_need(n_token, width) * sizeof(float);
  if (!s->gradient || sl_buffer_bytes(s->gradient) < bytes) {
    sl_buffer_free(s->gradient);
    s->gradient = NULL;
    SL_TRY(sl_buffer_new(&s->gradient, s->model->backend, bytes, "gradient"));
  }
  s->d = (sl_mat){s->gradient, 0, sl_scratch_stride(width), n_token, width, SL_F32};
  return sl_keep_reserve(&s->keep, s->model->backend, &decoder->shape, decoder->n_layer, n_token, s->counts);
}

sl_status sl_session_check_length(const sl_session *s, int n_token) {
  if (n_token > s->model->shape.max_position)
    SL_FAIL(SL_ERROR_ARGUMENT, "prompt and answer have %d tokens; the model was made for %d (max_position_embeddings)",
            n_token, s->model->shape.max_position);
  return SL_OK;
}

/* ---- forward ---- */

sl_status sl_session_reserve_decoder(sl_session *s, int n_row, int n_key, const sl_probe *probe, bool keep,
                                     int64_t own) {
  const sl_decoder *decoder = &s->model->decoder;
  const int n_pattern = probe ? probe->pattern_rows.count : 0;
  int64_t need = sl_block_forward_scratch(&decoder->shape, n_row, n_key, n_pattern);
  const bool recompute = s->counts.n_whole + s->counts.n_part < decoder->n_layer;
  if (keep) need = max_of(need, sl_block_backward_scratch(&decoder->shape, n_row, recompute));
  const int64_t head = sl_decoder_head_scratch(decoder, SL_HEAD_ROWS) + sl_scratch_need(SL_HEAD_ROWS, decoder->n_vocab);
  SL_TRY(sl_session_reserve_scratch(s, own + max_of(need, head)));
  return sl_session_reserve_queue(s, n_row, n_key);
}

/* Keys that row t sees: those up to its own, of the last `window`; and an image all of itself. */
static void list_keys(const sl_session *s, const sl_layout *layout, int n, int32_t *first, int32_t *local,
                      int32_t *last) {
  const int window = s->model->decoder.local.window, end = layout->first_image + layout->n_image;
  for (int t = 0; t < n; t++) {
    first[t] = 0;
    local[t] = window > 0 && t >= window ? t - window + 1 : 0;
    last[t] = t >= layout->first_image && t < end ? end - 1 : t;
  }
}

sl_status sl_session_upload(sl_session *s, const sl_layout *layout, int n) {
  const bool sees = s->model->family->image_sees_itself && layout->n_image > 0;
  int32_t *host = NULL;
  s->lists_keys = sees;
  SL_TRY(SL_ALLOC(host, (size_t)n * SL_N_NUMBER, "token ids"));
  for (int t = 0; t < n; t++) {
    const bool image = layout->n_image > 0 && t >= layout->first_image && t < layout->first_image + layout->n_image;
    host[t] = image ? 0 : layout->ids[t]; /* the placeholder's own row is overwritten, and may not exist */
  }
  for (int i = 0; i < layout->n_image; i++) host[n + i] = layout->first_image + i;
  if (sees) list_keys(s, layout, n, host + 2 * n, host + 3 * n, host + 4 * n);
  for (int part = 0; part < (sees ? SL_N_NUMBER : 2); part++)
    sl_buffer_write(s->queue, s->numbers, (size_t)part * (size_t)s->capacity * sizeof(int32_t),
                    host + (size_t)part * (size_t)n, (size_t)n * sizeof(int32_t));
  free(host);
  return sl_session_place(s, &layout->frame, 0, n);
}

sl_status sl_session_place(sl_session *s, const sl_position_frame *frame, int first, int n) {
  const int n_axis = sl_rope_axes(&s->model->config);
  const sl_ints positions = sl_session_positions(s, n);
  int32_t *host = NULL;
  SL_TRY(SL_ALLOC(host, (size_t)positions.count, "positions"));
  for (int i = 0; i < positions.count; i++) host[i] = sl_position_at(frame, first + i / n_axis, i % n_axis);
  sl_buffer_write(s->queue, positions.buffer, (size_t)positions.offset * sizeof *host, host,
                  (size_t)positions.count * sizeof *host);
  free(host);
  return SL_OK;
}

sl_ints sl_session_positions(const sl_session *s, int n_row) {
  return sl_session_numbers(s, SL_N_NUMBER, n_row * sl_rope_axes(&s->model->config));
}

sl_ints sl_session_numbers(const sl_session *s, int part, int count) {
  return (sl_ints){s->numbers, (int64_t)part * s->capacity, count};
}

void sl_session_see_image(const sl_session *s, sl_context *c, int n_row) {
  if (!s->lists_keys) return;
  c->first_key = sl_session_numbers(s, 2, n_row);
  c->local_first_key = sl_session_numbers(s, 3, n_row);
  c->last_key = sl_session_numbers(s, 4, n_row);
}

/* Length of the run of consecutive row numbers starting at rows[0], at most SL_HEAD_ROWS. */
static int run_length(const int *rows, int n_row) {
  int n = 1;
  while (n < n_row && n < SL_HEAD_ROWS && rows[n] == rows[0] + n) n++;
  return n;
}

void sl_session_head(sl_session *s, const sl_context *c, sl_mat x, int first_row, float *out) {
  const sl_decoder *decoder = &s->model->decoder;
  const int64_t mark = s->scratch.used;
  const sl_mat logits = sl_scratch_mat(&s->scratch, x.rows, decoder->n_vocab);
  sl_decoder_head(c, decoder, logits, x, first_row);
  const size_t n_vocab = (size_t)decoder->n_vocab;
  for (int i = 0; out && i < x.rows; i++)
    sl_buffer_read(s->queue, out + (size_t)i * n_vocab, logits.buffer,
                   (size_t)(logits.offset + i * logits.stride) * sizeof(float), n_vocab * sizeof(float));
  s->scratch.used = mark;
}

static void head_asked(sl_session *s, const sl_context *c, const int *rows, int n_row, float *logits) {
  for (int i = 0; i < n_row;) {
    const int n = run_length(rows + i, n_row - i);
    float *out = logits ? logits + (size_t)i * (size_t)s->model->decoder.n_vocab : NULL;
    sl_session_head(s, c, sl_mat_rows(s->x, rows[i], n), rows[i], out);
    i += n;
  }
}

static sl_status check_rows(const int *rows, int n_row, int n_token) {
  for (int i = 0; i < n_row; i++)
    if (rows[i] < 0 || rows[i] >= n_token || (i > 0 && rows[i] <= rows[i - 1]))
      SL_FAIL(SL_ERROR_ARGUMENT, "logits row %d: expected ascending rows from 0 to %d", rows[i], n_token - 1);
  return SL_OK;
}

/* The probe wants values of the head at every row, not only at the asked ones. */
static void head_for_probe(sl_session *s, const sl_context *c, int n_token) {
  if (!sl_wants(c, SL_PART_DECODER, SL_SITE_LOGITS, 0, false) &&
      !sl_wants(c, SL_PART_DECODER, SL_SITE_LN_FINAL, 0, false))
    return;
  for (int first = 0; first < n_token; first += SL_HEAD_ROWS) {
    const int n = n_token - first < SL_HEAD_ROWS ? n_token - first : SL_HEAD_ROWS;
    sl_session_head(s, c, sl_mat_rows(s->x, first, n), first, NULL);
  }
}

sl_status sl_session_forward(sl_session *s, const sl_layout *layout, const sl_image *image, const int *rows, int n_row,
                             float *logits, const sl_probe *probe, bool keep) {
  const int rope_level = sl_rope_level(&s->model->config, layout->n_prompt);
  const sl_decoder own = sl_model_decoder(s->model, rope_level), *decoder = &own;
  const int n = layout->n_token;
  if (layout->n_image > 0 && !image) SL_FAIL(SL_ERROR_ARGUMENT, "the prompt has a picture, but none was given");
  if (layout->n_image > 0) SL_TRY(sl_image_check(image, layout));
  SL_TRY(check_rows(rows, n_row, n));
  SL_TRY(sl_session_check_length(s, n));
  s->n_cached = s->n_kept = 0;
  s->rope_level = rope_level;
  s->frame = layout->frame;
  SL_TRY(sl_session_reserve_rows(s, n));
  s->counts = sl_keep_choose(&decoder->shape, decoder->n_layer, n, s->keep_limit_bytes);
  SL_TRY(sl_session_reserve_decoder(s, n, n, probe, keep, 0));
  if (keep) drop_cache(s); /* a backward pass needs the room, and reads keys and values from what is kept */
  SL_TRY(keep ? reserve_keep(s, n) : reserve_cache(s, n));
  SL_TRY(sl_session_upload(s, layout, n));
  sl_context c = sl_session_context(s, probe);
  sl_session_see_image(s, &c, n);
  const sl_mat x = sl_mat_rows(s->x, 0, n);
  sl_decoder_embed(&c, decoder, x, sl_session_numbers(s, 0, n), image ? image->rows : (sl_mat){0},
                   sl_session_numbers(s, 1, layout->n_image));
  SL_TRY(sl_decoder_forward(&c, decoder, x, 0, sl_session_positions(s, n), keep ? NULL : s->kv,
                            keep ? s->keep.acts : NULL, s->cancel));
  s->n_cached = keep ? 0 : n;
  s->n_kept = keep ? n : 0;
  s->image = image;
  s->first_image = layout->first_image;
  head_for_probe(s, &c, n);
  const sl_context silent = sl_session_context(s, NULL);
  head_asked(s, &silent, rows, n_row, logits);
  return SL_OK;
}

sl_status sl_session_step(sl_session *s, const int32_t *ids, int n_id, float *logits, const sl_probe *probe) {
  const sl_decoder own = sl_model_decoder(s->model, s->rope_level), *decoder = &own;
  if (s->n_cached == 0) SL_FAIL(SL_ERROR_ARGUMENT, "a step needs a forward without keep before it");
  if (n_id < 1) SL_FAIL(SL_ERROR_ARGUMENT, "a step of %d tokens; expected at least 1", n_id);
  for (int i = 0; i < n_id; i++)
    if (ids[i] < 0 || ids[i] >= decoder->n_vocab)
      SL_FAIL(SL_ERROR_ARGUMENT, "token id %d is outside the vocabulary of %d", ids[i], decoder->n_vocab);
  if (probe && probe->pattern_rows.count > 0)
    SL_FAIL(SL_ERROR_ARGUMENT, "attention patterns are recorded in a forward pass, not in a step");
  s->n_kept = 0; /* the step's positions replace those of the kept forward */
  SL_TRY(sl_session_check_length(s, s->n_cached + n_id));
  if (s->n_cached + n_id > s->cache_capacity) SL_TRY(reserve_cache(s, 2 * s->n_cached + n_id));
  SL_TRY(sl_session_reserve_rows(s, n_id));
  SL_TRY(sl_session_reserve_decoder(s, n_id, s->n_cached + n_id, probe, false,
                         sl_scratch_need(n_id, decoder->shape.d_model)));
  SL_TRY(sl_session_place(s, &s->frame, s->n_cached, n_id));
  sl_buffer_write(s->queue, s->numbers, 0, ids, (size_t)n_id * sizeof *ids);
  const sl_context c = sl_session_context(s, probe);
  const int64_t mark = s->scratch.used;
  const sl_mat x = sl_scratch_mat(&s->scratch, n_id, decoder->shape.d_model);
  sl_decoder_words(c.queue, decoder, x, sl_session_numbers(s, 0, n_id));
  const sl_status status =
      sl_decoder_forward(&c, decoder, x, s->n_cached, sl_session_positions(s, n_id), s->kv, NULL, s->cancel);
  if (status == SL_OK) {
    sl_session_head(s, &c, sl_mat_rows(x, n_id - 1, 1), s->n_cached + n_id - 1, logits);
    s->n_cached += n_id;
  }
  s->scratch.used = mark;
  return status;
}

sl_status sl_session_lens(sl_session *s, sl_mat resid, float *logits) {
  const sl_context c = sl_session_context(s, NULL);
  const int n_vocab = s->model->decoder.n_vocab;
  SL_TRY(sl_session_reserve_decoder(s, SL_HEAD_ROWS, 1, NULL, false, 0));
  for (int i = 0; i < resid.rows; i += SL_HEAD_ROWS) {
    const int n = resid.rows - i < SL_HEAD_ROWS ? resid.rows - i : SL_HEAD_ROWS;
    sl_session_head(s, &c, sl_mat_rows(resid, i, n), 0, logits + (size_t)i * (size_t)n_vocab);
  }
  return SL_OK;
}

/* ---- greedy ---- */

static sl_status continue_greedy(sl_session *s, sl_layout *layout, int max_token, float *logits, float *prob,
                                 float *logit) {
  const int n_vocab = s->model->decoder.n_vocab;
  for (int i = 0; i < max_token; i++) {
    double top;
    const int32_t token = sl_logits_best(logits, n_vocab);
    if (sl_shape_is_eos(&s->model->shape, token) || layout->n_token == s->model->shape.max_position) return SL_OK;
    if (prob) prob[i] = (float)(1 / sl_logits_sum(logits, n_vocab, -1, &top));
    if (logit) logit[i] = logits[token];
    SL_TRY(sl_layout_append(layout, s->model, &token, 1));
    if (i + 1 < max_token) SL_TRY(sl_session_step(s, &token, 1, logits, NULL));
  }
  return SL_OK;
}

sl_status sl_session_greedy(sl_session *s, sl_layout *layout, const sl_image *image, int max_token, float *prob,
                            float *logit) {
  float *logits = NULL;
  if (max_token < 1) SL_FAIL(SL_ERROR_ARGUMENT, "max tokens is %d; expected at least 1", max_token);
  SL_TRY(SL_ALLOC(logits, (size_t)s->model->decoder.n_vocab, "logits"));
  const int last = layout->n_token - 1;
  sl_status status = sl_session_forward(s, layout, image, &last, 1, logits, NULL, false);
  if (status == SL_OK) status = continue_greedy(s, layout, max_token, logits, prob, logit);
  free(logits);
  return status;
}

/* ---- backward ---- */

/* Gradient of the final residual at `rows`, from that of the logits; every other row is zero. */
static void head_backward(sl_session *s, const sl_context *c, const int *rows, int n_row, const float *d_logits) {
  const sl_decoder *decoder = &s->model->decoder;
  const size_t row_bytes = (size_t)decoder->n_vocab * sizeof(float);
  c->ops->zero(c->queue, sl_mat_rows(s->d, 0, s->n_kept));
  for (int i = 0; i < n_row;) {
    const int n = run_length(rows + i, n_row - i);
    const int64_t mark = s->scratch.used;
    const sl_mat d = sl_scratch_mat(&s->scratch, n, decoder->n_vocab);
    for (int r = 0; r < n; r++)
      sl_buffer_write(s->queue, d.buffer, (size_t)(d.offset + r * d.stride) * sizeof(float),
                      d_logits + (size_t)(i + r) * (size_t)decoder->n_vocab, row_bytes);
    sl_decoder_head_backward(c, decoder, sl_mat_rows(s->d, rows[i], n), d, sl_mat_rows(s->x, rows[i], n));
    s->scratch.used = mark;
    i += n;
  }
}

sl_status sl_session_backward(sl_session *s, const int *rows, int n_row, const float *d_logits, const sl_probe *probe,
                              bool into_tower) {
  const sl_decoder own = sl_model_decoder(s->model, s->rope_level), *decoder = &own;
  if (s->n_kept == 0) SL_FAIL(SL_ERROR_ARGUMENT, "a backward pass needs a forward with keep before it");
  if (into_tower && !(s->image && s->image->kept))
    SL_FAIL(SL_ERROR_ARGUMENT, "a backward pass into the tower needs an image encoded with keep");
  if (into_tower && s->first_image < 0)
    SL_FAIL(SL_ERROR_ARGUMENT, "a backward pass into the tower needs a prompt with a picture");
  if (n_row < 1) SL_FAIL(SL_ERROR_ARGUMENT, "a backward pass needs at least one logits row");
  SL_TRY(check_rows(rows, n_row, s->n_kept));
  SL_TRY(sl_session_reserve_decoder(s, s->n_kept, s->n_kept, NULL, true, 0));
  sl_context c = sl_session_context(s, probe);
  sl_session_see_image(s, &c, s->n_kept);
  head_backward(s, &c, rows, n_row, d_logits);
  SL_TRY(sl_decoder_backward(&c, decoder, sl_mat_rows(s->d, 0, s->n_kept), rows[0], sl_session_positions(s, s->n_kept),
                             s->keep.acts, into_tower, s->cancel));
  return into_tower ? sl_image_backward(s, s->image, sl_mat_rows(s->d, s->first_image, s->image->rows.rows), probe)
                    : SL_OK;
}
