/* Running branches: the rows of many branches through the decoder together.
 *
 * Rows stand branch by branch, positions ascending. A row takes part from the layer on in which its plan reaches it; it
 * then starts from the trunk's residual. Keys and values of computed rows go to their branch's slots, everything else is
 * read from prefix, trunk and baselines (branch_view.c says which). The trunk itself is one branch without a plan whose
 * rows all start at layer 0, from their embeddings.
 *
 * Cost: rows x layers that are reached, instead of a full pass over all positions for each plan. */
#include "model/branch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/branch_internal.h"

#define HEAD_ROWS 128     /* logits are computed this many rows at a time */
#define ENOUGH_ROWS 2048  /* rows of a batch beyond which products gain nothing */

static const sl_plan no_plan = {0};

/* A row of the pass: which branch, which slot. */
typedef struct pass_row {
  int branch, slot;
} pass_row;

typedef struct batch {
  sl_session *session;
  const sl_trunk *trunk;
  const sl_branch_request *request;
  sl_branch *branches;
  int n_branch;
  int n_token;        /* trunk rows that can be read */
  bool keeps_local;   /* local keys of all layers are kept, for steps */
  int n_local;        /* slots of a branch */
  sl_buffer *local;   /* [L or 1][2][n_branch * n_local, Hkv d] */
  int *first_slot;    /* [n_branch] slots from here on are computed in this pass */
  sl_mat fresh;       /* rows [n_branch, D] that start from here at layer 0; absent = the trunk's residual */
  sl_view_plan views;
  sl_tap_list edits;
  pass_row *rows;     /* [n_row] of the layer that runs */
  int n_row, cap_row;
  int32_t *host;      /* numbers on their way to the device */
  sl_buffer *control; /* positions, slots, branches, views, masks */
  size_t n_control;   /* i32 values in it */
  sl_mat x, spare;    /* [cap_row, D]: rows of this layer, and room to rearrange them */
  const sl_probe *probe;
} batch;

/* ---- memory ---- */

static int kv_width(const sl_model *m) { return m->decoder.shape.n_head_kv * m->decoder.shape.d_head; }

static sl_kv local_of(const batch *t, int layer) {
  const sl_model *m = t->session->model;
  const int rows = t->n_branch * t->n_local;
  int64_t at = t->keeps_local ? (int64_t)layer * 2 * sl_scratch_need(rows, kv_width(m)) : 0;
  sl_kv kv;
  kv.k = sl_carve(t->local, &at, rows, kv_width(m));
  kv.v = sl_carve(t->local, &at, rows, kv_width(m));
  return kv;
}

static sl_status reserve_control(batch *t, size_t n) {
  if (n <= t->n_control) return SL_OK;
  sl_buffer_free(t->control);
  t->control = NULL;
  t->n_control = 0;
  n += n / 4;
  SL_TRY(sl_buffer_new(&t->control, t->session->model->backend, n * sizeof(int32_t), "branch numbers"));
  t->n_control = n;
  return SL_OK;
}

static void batch_dispose(batch *t) {
  for (int b = 0; t->branches && b < t->n_branch; b++) sl_branch_dispose(&t->branches[b]);
  sl_view_plan_dispose(&t->views);
  sl_tap_list_dispose(&t->edits);
  sl_buffer_free(t->local);
  sl_buffer_free(t->control);
  free(t->branches);
  free(t->first_slot);
  free(t->rows);
  free(t->host);
}

static int row_of(void *user, int branch, int position) {
  const batch *t = user;
  const sl_branch *b = &t->branches[branch];
  const int slot = position < b->n_position ? b->slot_of[position] : -1;
  /* rows are few and in order: search */
  int low = 0, high = t->n_row;
  while (low < high) {
    const int middle = (low + high) / 2;
    const pass_row *r = &t->rows[middle];
    if (r->branch < branch || (r->branch == branch && r->slot < slot))
      low = middle + 1;
    else
      high = middle;
  }
  return slot >= 0 && low < t->n_row && t->rows[low].branch == branch && t->rows[low].slot == slot ? low : -1;
}

/* Local keys with room for n_step more rows a branch, and the pass's own row lists. */
static sl_status reserve_batch(batch *t, int n_step) {
  const sl_model *m = t->session->model;
  int rows = 0;
  t->n_local = 1;
  for (int b = 0; b < t->n_branch; b++) {
    rows += t->branches[b].n_row;
    if (t->branches[b].n_row + n_step > t->n_local) t->n_local = t->branches[b].n_row + n_step;
  }
  if (rows < t->n_branch) rows = t->n_branch; /* a step has a row of each */
  size_t elements, bytes;
  const size_t n_layer = t->keeps_local ? (size_t)m->decoder.n_layer : 1;
  if ((int64_t)t->n_branch * t->n_local > INT32_MAX / 2 ||
      !sl_size_mul(n_layer * 2, (size_t)sl_scratch_need(t->n_branch * t->n_local, kv_width(m)), &elements) ||
      !sl_size_mul(elements, sizeof(float), &bytes))
    SL_FAIL(SL_ERROR_MEMORY, "%d branches of %d rows are too many at once", t->n_branch, t->n_local);
  SL_TRY(sl_buffer_new(&t->local, m->backend, bytes, "branch keys"));
  SL_TRY(SL_ALLOC(t->rows, (size_t)rows, "branch rows"));
  t->cap_row = rows;
  const int n_head = m->decoder.shape.n_head, n_axis = sl_rope_axes(&m->config);
  return SL_ALLOC(t->host, (size_t)rows * (size_t)(2 + n_axis + n_head), "branch rows");
}

/* ---- one layer ---- */

/* The residual from which a row starts: fresh, or the unmodified run's before `layer`. */
static sl_mat start_of(const batch *t, const pass_row *row, int layer) {
  const sl_trunk *trunk = t->trunk;
  const int position = t->branches[row->branch].position[row->slot];
  if (t->fresh.buffer) return sl_mat_rows(t->fresh, row->branch, 1);
  if (position >= trunk->first) return sl_mat_rows(trunk->resid[layer], position - trunk->first, 1);
  return sl_mat_rows(trunk->prefix->resid[layer], position, 1);
}

/* Rows that join in this layer take their places among those that run already. */
static void join_rows(batch *t, int layer) {
  bool joins = false;
  for (int b = 0; b < t->n_branch; b++)
    for (int slot = t->first_slot[b]; slot < t->branches[b].n_row; slot++)
      joins = joins || t->branches[b].join[slot] == layer;
  if (!joins) return;
  const sl_ops *op = sl_queue_ops(t->session->queue);
  sl_queue *queue = t->session->queue;
  int old = 0, at = 0;
  for (int b = 0; b < t->n_branch; b++)
    for (int slot = t->first_slot[b]; slot < t->branches[b].n_row; slot++) {
      const int join = t->branches[b].join[slot];
      if (join > layer) continue;
      const pass_row row = {b, slot};
      const sl_mat from = join < layer ? sl_mat_rows(t->x, old++, 1) : start_of(t, &row, layer);
      op->copy(queue, sl_mat_rows(t->spare, at++, 1), from);
    }
  const sl_mat x = t->x;
  t->x = t->spare;
  t->spare = x;
  t->n_row = 0;
  for (int b = 0; b < t->n_branch; b++)
    for (int slot = t->first_slot[b]; slot < t->branches[b].n_row; slot++)
      if (t->branches[b].join[slot] <= layer) t->rows[t->n_row++] = (pass_row){b, slot};
}

/* Views of every row of this layer; numbers and masks to the device. */
static sl_status compile_layer(batch *t, int layer, sl_branch_keys *keys, sl_ints *positions) {
  const int n_head = t->session->model->decoder.shape.n_head, n = t->n_row;
  const int n_axis = sl_rope_axes(&t->session->model->config);
  int32_t *position = t->host, *slot = position + n * n_axis, *branch = slot + n, *view = branch + n;
  t->views.n_view = 0;
  int *slots = NULL;
  SL_TRY(SL_ALLOC(slots, (size_t)n, "branch rows"));
  sl_status status = SL_OK;
  for (int first = 0, end; first < n && status == SL_OK; first = end) {
    const sl_branch *b = &t->branches[t->rows[first].branch];
    for (end = first; end < n && t->rows[end].branch == t->rows[first].branch; end++) {
      slots[end - first] = t->rows[end].slot;
      for (int a = 0; a < n_axis; a++)
        position[end * n_axis + a] = sl_position_at(&t->trunk->prefix->frame, b->position[t->rows[end].slot], a);
      slot[end] = t->rows[end].branch * t->n_local + t->rows[end].slot;
      branch[end] = t->rows[end].branch;
    }
    status = sl_view_plan_rows(&t->views, b, layer, slots, end - first, n_head, view + (int64_t)first * n_head);
  }
  free(slots);
  SL_TRY(status);
  keys->in_place = !t->keeps_local && n == t->n_branch * t->n_local;
  for (int i = 0; i < n && keys->in_place; i++) keys->in_place = slot[i] == i;
  const size_t n_number = (size_t)n * (size_t)(2 + n_axis + n_head), n_mask = (size_t)t->views.n_view * (size_t)t->views.n_word;
  SL_TRY(reserve_control(t, n_number + n_mask));
  sl_queue *queue = t->session->queue;
  sl_buffer_write(queue, t->control, 0, t->host, n_number * sizeof(int32_t));
  sl_buffer_write(queue, t->control, n_number * sizeof(int32_t), t->views.masks, n_mask * sizeof(int32_t));
  *positions = (sl_ints){t->control, 0, n * n_axis};
  keys->slots = (sl_ints){t->control, slot - t->host, n};
  keys->attend.branch = (sl_ints){t->control, branch - t->host, n};
  keys->attend.view = (sl_ints){t->control, view - t->host, n * n_head};
  keys->attend.masks = (sl_ints){t->control, (int64_t)n_number, (int)n_mask};
  keys->attend.n_view = t->views.n_view;
  return SL_OK;
}

static void add_segment(sl_attend_shared *a, sl_kv kv, int first, int rows) {
  if (rows == 0) return;
  a->k[a->n_segment] = sl_mat_rows(kv.k, first, rows);
  a->v[a->n_segment++] = sl_mat_rows(kv.v, first, rows);
}

static void set_segments(const batch *t, int layer, sl_attend_shared *a) {
  const sl_block_shape *shape = &t->session->model->decoder.shape;
  const sl_prefix *p = t->trunk->prefix;
  *a = (sl_attend_shared){.n_head = shape->n_head, .n_head_kv = shape->n_head_kv, .d_head = shape->d_head,
                          .scale = sl_block_score_scale(shape), .compute = shape->compute,
                          .n_local = t->n_local};
  add_segment(a, p->kv[layer], 0, p->first_image);
  add_segment(a, p->kv[layer], p->first_image, p->n_image);
  if (t->n_token > t->trunk->first) add_segment(a, t->trunk->kv[layer], 0, t->n_token - t->trunk->first);
  for (int i = 0; i < t->views.n_baseline; i++) add_segment(a, t->request->baselines[i]->kv[layer], 0, p->n_image);
  const sl_kv local = local_of(t, layer);
  a->local_k = local.k;
  a->local_v = local.v;
}

/* ---- one pass ---- */

/* All layers over the slots from first_slot on. Afterwards t->x holds the final residual of t->rows. `whole` (the trunk's
 * own pass) also keeps every layer's residual, keys and values there. */
static sl_status run_layers(batch *t, sl_trunk *whole) {
  sl_session *s = t->session;
  const sl_decoder own = sl_model_decoder(s->model, t->trunk->prefix->rope_level), *decoder = &own;
  sl_taps taps = sl_tap_list_taps(&t->edits);
  sl_context c = sl_session_context(s, t->probe);
  c.taps = &taps; /* even without edits: see add_sublayer in block.c */
  t->n_row = 0;
  for (int il = 0; il < decoder->n_layer; il++) {
    SL_TRY(sl_check_cancel(s->cancel));
    join_rows(t, il);
    if (t->n_row == 0) continue;
    sl_branch_keys keys = {.first_row = t->trunk->first};
    sl_ints positions;
    set_segments(t, il, &keys.attend);
    SL_TRY(compile_layer(t, il, &keys, &positions));
    if (whole) keys.in_place = false;
    const sl_mat x = sl_mat_rows(t->x, 0, t->n_row);
    sl_block_forward_branches(&c, sl_decoder_shape(decoder, il), &decoder->blocks[il], il, x, positions, &keys);
    if (!whole) continue;
    c.ops->copy(c.queue, whole->resid[il + 1], x);
    c.ops->copy(c.queue, whole->kv[il].k, keys.attend.local_k);
    c.ops->copy(c.queue, whole->kv[il].v, keys.attend.local_v);
  }
  return SL_OK;
}

/* Scratch for a pass of the batch's rows, x and spare included; `own` elements more stay for the caller below them. */
static sl_status reserve_pass(batch *t, int64_t own) {
  sl_session *s = t->session;
  const int width = s->model->decoder.shape.d_model;
  const int64_t rows = 2 * sl_scratch_need(t->cap_row, width);
  const int64_t head = sl_decoder_head_scratch(&s->model->decoder, HEAD_ROWS) + sl_scratch_need(HEAD_ROWS, width) +
                       sl_scratch_need(HEAD_ROWS, s->model->decoder.n_vocab);
  const int n_key = t->views.n_word * 32;
  const int most = t->cap_row > HEAD_ROWS ? t->cap_row : HEAD_ROWS;
  SL_TRY(sl_session_reserve_decoder(s, most, n_key, NULL, false, own + rows + head));
  t->x = sl_scratch_mat(&s->scratch, t->cap_row, width);
  t->spare = sl_scratch_mat(&s->scratch, t->cap_row, width);
  return SL_OK;
}

/* Final residual of a position of a branch, after a pass. */
static sl_mat final_row(const batch *t, int branch, int position) {
  const int row = row_of((void *)t, branch, position);
  return row >= 0 ? sl_mat_rows(t->x, row, 1)
                  : sl_mat_rows(t->trunk->resid[t->session->model->decoder.n_layer], position - t->trunk->first, 1);
}

/* Logits of n <= HEAD_ROWS residual rows to the host. */
static void head_of(sl_session *s, sl_mat x, float *logits) {
  const sl_decoder *decoder = &s->model->decoder;
  const sl_context c = sl_session_context(s, NULL);
  const int64_t mark = s->scratch.used;
  const sl_mat out = sl_scratch_mat(&s->scratch, x.rows, decoder->n_vocab);
  sl_decoder_head(&c, decoder, out, x, 0);
  for (int i = 0; i < x.rows; i++)
    sl_buffer_read(s->queue, logits + (size_t)i * (size_t)decoder->n_vocab, out.buffer,
                   (size_t)(out.offset + i * out.stride) * sizeof(float), (size_t)decoder->n_vocab * sizeof(float));
  s->scratch.used = mark;
}

/* ---- trunk ---- */

/* Embeddings of the suffix tokens into the trunk's first residual. */
static sl_status embed_suffix(sl_session *s, sl_trunk *t) {
  s->n_kept = 0;
  SL_TRY(sl_session_reserve_rows(s, t->n_row));
  const sl_ints ids = sl_session_numbers(s, 0, t->n_row);
  sl_buffer_write(s->queue, ids.buffer, (size_t)ids.offset * sizeof(int32_t), t->layout.ids + t->first,
                  (size_t)t->n_row * sizeof(int32_t));
  sl_decoder_words(s->queue, &s->model->decoder, t->resid[0], ids);
  return SL_OK;
}

static sl_status run_trunk(sl_trunk *trunk, sl_session *s, const sl_probe *probe) {
  const int64_t mark = s->scratch.used;
  int first_slot = 0;
  sl_branch *branch = NULL;
  SL_TRY(sl_session_check_length(s, trunk->layout.n_token));
  SL_TRY(embed_suffix(s, trunk));
  SL_TRY(SL_ALLOC(branch, 1, "trunk"));
  batch t = {.session = s, .trunk = trunk, .branches = branch, .n_branch = 1, .n_token = trunk->first, .probe = probe};
  branch->plan = &no_plan;
  sl_status status = SL_ALLOC(t.first_slot, 1, "trunk");
  for (int p = trunk->first; p < trunk->layout.n_token && status == SL_OK; p++) status = sl_branch_append(branch, p);
  if (status == SL_OK) status = reserve_batch(&t, 0);
  if (status == SL_OK) {
    t.first_slot[0] = first_slot;
    sl_view_plan_init(&t.views, trunk, t.n_token, 0, t.n_local);
    status = reserve_pass(&t, 0);
  }
  if (status == SL_OK) status = run_layers(&t, trunk);
  batch_dispose(&t);
  s->scratch.used = mark;
  return status;
}

sl_status sl_trunk_new(sl_trunk **out, sl_session *s, const sl_prefix *prefix, const sl_layout *layout,
                       const sl_probe *probe) {
  SL_TRY(sl_trunk_allocate(out, prefix, layout));
  const sl_status status = run_trunk(*out, s, probe);
  if (status != SL_OK) {
    sl_trunk_free(*out);
    *out = NULL;
  }
  return status;
}

static sl_status check_rows(const sl_trunk *trunk, const int *rows, int n_row) {
  for (int i = 0; i < n_row; i++)
    if (rows[i] < trunk->first || rows[i] >= trunk->layout.n_token || (i > 0 && rows[i] <= rows[i - 1]))
      SL_FAIL(SL_ERROR_ARGUMENT, "logits row %d: expected ascending positions from %d to %d", rows[i], trunk->first,
              trunk->layout.n_token - 1);
  return SL_OK;
}

sl_status sl_session_lens(sl_session *s, sl_mat resid, float *logits) {
  SL_TRY(sl_session_reserve_decoder(s, HEAD_ROWS, 1, NULL, false,
                                    sl_scratch_need(HEAD_ROWS, s->model->decoder.n_vocab) +
                                        sl_decoder_head_scratch(&s->model->decoder, HEAD_ROWS)));
  for (int i = 0; i < resid.rows; i += HEAD_ROWS) {
    const int n = resid.rows - i < HEAD_ROWS ? resid.rows - i : HEAD_ROWS;
    head_of(s, sl_mat_rows(resid, i, n), logits + (size_t)i * (size_t)s->model->decoder.n_vocab);
  }
  return SL_OK;
}

sl_status sl_trunk_logits(sl_session *s, const sl_trunk *trunk, const int *rows, int n_row, float *logits) {
  SL_TRY(check_rows(trunk, rows, n_row));
  for (int i = 0; i < n_row; i++)
    SL_TRY(sl_session_lens(s, sl_mat_rows(trunk->resid[s->model->decoder.n_layer], rows[i] - trunk->first, 1),
                           logits + (size_t)i * (size_t)s->model->decoder.n_vocab));
  return SL_OK;
}

/* ---- branches ---- */

static sl_status check_request(const sl_branch_request *r) {
  if (r->n_baseline > SL_MAX_BASELINE)
    SL_FAIL(SL_ERROR_ARGUMENT, "%d baselines; at most %d can be used at once", r->n_baseline, SL_MAX_BASELINE);
  for (int i = 0; i < r->n_baseline; i++) {
    char what[32];
    snprintf(what, sizeof what, "baseline %d", i);
    SL_TRY(sl_baseline_check(r->baselines[i], r->trunk->prefix, what));
  }
  const sl_plan_limits limits = sl_trunk_limits(r->trunk, r->n_baseline, r->n_run);
  for (int i = 0; i < r->n_plan; i++) {
    char where[32];
    snprintf(where, sizeof where, "plan %d", i);
    SL_TRY(sl_plan_check(&r->plans[i], &limits, where));
  }
  return SL_OK;
}

/* Rows that may run at once under the memory limit, when each keeps its keys for n_step decoding steps (0 = for none). */
static int row_limit(const sl_session *s, int n_step) {
  const sl_decoder *d = &s->model->decoder;
  const int64_t row = sl_block_forward_scratch(&d->shape, 1, 1, 0) + 2 * sl_scratch_need(1, d->shape.d_model) +
                      2 * sl_scratch_need(1, kv_width(s->model)) * (n_step > 0 ? d->n_layer : 1);
  const int64_t most = (int64_t)(s->branch_limit_bytes / sizeof(float)) / row;
  return (int)(most < ENOUGH_ROWS ? most : ENOUGH_ROWS);
}

/* Branches of plans from `first` on: batch_size of them, or as many as the limit has rows for (one at least). */
static sl_status add_branches(batch *t, int first, int n_step) {
  const sl_branch_request *r = t->request;
  const int most = r->n_plan - first, limit = row_limit(t->session, n_step);
  const int asked = r->batch_size > 0 && r->batch_size < most ? r->batch_size : most;
  int64_t longest = 1;
  for (int b = 0; b < asked; b++) {
    sl_branch branch;
    SL_TRY(sl_branch_reach(&branch, r->trunk, &r->plans[first + b], first + b, t->n_token, n_step));
    if (branch.n_row + n_step > longest) longest = branch.n_row + n_step;
    const bool fits = r->batch_size > 0 || b == 0 || longest * (b + 1) <= limit;
    sl_status status = SL_OK;
    if (fits) status = SL_REALLOC(t->branches, (size_t)b + 1, "branches");
    if (!fits || status != SL_OK) {
      sl_branch_dispose(&branch);
      return status;
    }
    t->branches[t->n_branch++] = branch;
  }
  return SL_OK;
}

/* A batch of plans from `first` on, ready for a pass; n_step rows a branch may follow. */
static sl_status batch_init(batch *t, sl_session *s, const sl_branch_request *r, int first, int n_token, int n_step) {
  *t = (batch){.session = s, .trunk = r->trunk, .request = r, .n_token = n_token, .keeps_local = n_step > 0};
  SL_TRY(add_branches(t, first, n_step));
  SL_TRY(SL_ALLOC(t->first_slot, (size_t)t->n_branch, "branches"));
  SL_TRY(sl_tap_list_init(&t->edits, s, r, t->branches, t->n_branch, t->first_slot, true));
  t->edits.row_of = row_of;
  t->edits.user = t;
  SL_TRY(reserve_batch(t, n_step));
  sl_view_plan_init(&t->views, r->trunk, n_token, r->n_baseline, t->n_local);
  return SL_OK;
}

/* Asked rows of every branch through the head, and to whoever takes them. */
static sl_status take_logits(batch *t, int first_plan) {
  const sl_branch_request *r = t->request;
  sl_session *s = t->session;
  const sl_ops *op = sl_queue_ops(s->queue);
  const size_t n_vocab = (size_t)s->model->decoder.n_vocab;
  const int64_t mark = s->scratch.used;
  const sl_mat asked = sl_scratch_mat(&s->scratch, HEAD_ROWS, s->model->decoder.shape.d_model);
  const int n_all = t->n_branch * r->n_row;
  float *logits = NULL; /* whole plans, at least HEAD_ROWS rows and what is left of one plan */
  SL_TRY(SL_ALLOC(logits, ((size_t)HEAD_ROWS + (size_t)r->n_row) * n_vocab, "logits"));
  sl_status status = SL_OK;
  int held = 0, plan = first_plan;
  for (int i = 0; i < n_all && status == SL_OK; i += HEAD_ROWS) {
    const int n = n_all - i < HEAD_ROWS ? n_all - i : HEAD_ROWS;
    for (int k = 0; k < n; k++)
      op->copy(s->queue, sl_mat_rows(asked, k, 1), final_row(t, (i + k) / r->n_row, r->rows[(i + k) % r->n_row]));
    head_of(s, sl_mat_rows(asked, 0, n), logits + (size_t)held * n_vocab);
    held += n;
    int at = 0;
    for (; held - at >= r->n_row && status == SL_OK; at += r->n_row)
      status = r->take(r->user, plan++, logits + (size_t)at * n_vocab);
    held -= at;
    memmove(logits, logits + (size_t)at * n_vocab, (size_t)held * n_vocab * sizeof *logits);
  }
  free(logits);
  s->scratch.used = mark;
  return status;
}

/* One batch from plan `first` on; *n is how many plans it held. */
static sl_status run_batch(sl_session *s, const sl_branch_request *r, int first, int *n) {
  batch t;
  const int64_t mark = s->scratch.used;
  sl_status status = batch_init(&t, s, r, first, r->rows[r->n_row - 1] + 1, 0);
  if (status == SL_OK) status = reserve_pass(&t, 0);
  if (status == SL_OK) status = run_layers(&t, NULL);
  if (status == SL_OK) status = take_logits(&t, first);
  *n = t.n_branch;
  batch_dispose(&t);
  s->scratch.used = mark;
  return status;
}

void sl_session_set_branch_limit(sl_session *s, size_t n_bytes) { s->branch_limit_bytes = n_bytes; }

int sl_branch_batch(const sl_session *s, const sl_trunk *trunk, int n_step) {
  const int n = row_limit(s, n_step) / (trunk->n_row + n_step);
  return n < 1 ? 1 : n;
}

sl_status sl_branches_run(sl_session *s, const sl_branch_request *r) {
  if (r->n_row < 1) SL_FAIL(SL_ERROR_ARGUMENT, "branches: no logits row is asked for");
  SL_TRY(check_rows(r->trunk, r->rows, r->n_row));
  SL_TRY(check_request(r));
  for (int first = 0, n; first < r->n_plan; first += n) SL_TRY(run_batch(s, r, first, &n));
  return SL_OK;
}

/* ---- greedy ---- */

static int32_t most_likely(const float *logits, int n_vocab) {
  int32_t best = 0;
  for (int32_t v = 1; v < n_vocab; v++)
    if (logits[v] > logits[best]) best = v;
  return best;
}

/* The next token of every branch from the position's final residuals; -1 where the answer has ended. */
static sl_status next_tokens(batch *t, int position, float *logits, int32_t *token) {
  sl_session *s = t->session;
  const sl_model *m = s->model;
  const sl_ops *op = sl_queue_ops(s->queue);
  const int64_t mark = s->scratch.used;
  const sl_mat rows = sl_scratch_mat(&s->scratch, HEAD_ROWS, m->decoder.shape.d_model);
  for (int i = 0; i < t->n_branch; i += HEAD_ROWS) {
    const int n = t->n_branch - i < HEAD_ROWS ? t->n_branch - i : HEAD_ROWS;
    for (int k = 0; k < n; k++) op->copy(s->queue, sl_mat_rows(rows, k, 1), final_row(t, i + k, position));
    head_of(s, sl_mat_rows(rows, 0, n), logits);
    for (int k = 0; k < n; k++) {
      const int32_t id = most_likely(logits + (size_t)k * (size_t)m->decoder.n_vocab, m->decoder.n_vocab);
      if (token[i + k] >= 0) token[i + k] = sl_shape_is_eos(&m->shape, id) ? -1 : id;
    }
  }
  s->scratch.used = mark;
  return SL_OK;
}

/* One more row of every branch; branches that have ended go on with any token, which is not looked at. */
static sl_status step(batch *t, const int32_t *token, int position, sl_mat fresh) {
  sl_session *s = t->session;
  int32_t *ids = NULL;
  SL_TRY(SL_ALLOC(ids, (size_t)t->n_branch, "tokens"));
  for (int b = 0; b < t->n_branch; b++) ids[b] = token[b] >= 0 ? token[b] : 0;
  sl_status status = reserve_control(t, (size_t)t->n_branch);
  if (status == SL_OK) {
    sl_buffer_write(s->queue, t->control, 0, ids, (size_t)t->n_branch * sizeof *ids);
    sl_decoder_words(s->queue, &s->model->decoder, fresh, (sl_ints){t->control, 0, t->n_branch});
    t->fresh = fresh;
  }
  for (int b = 0; b < t->n_branch && status == SL_OK; b++) {
    t->first_slot[b] = t->branches[b].n_row;
    status = sl_branch_append(&t->branches[b], position);
  }
  free(ids);
  SL_TRY(status);
  sl_tap_list_dispose(&t->edits);
  SL_TRY(sl_tap_list_init(&t->edits, s, t->request, t->branches, t->n_branch, t->first_slot, false));
  t->edits.row_of = row_of;
  t->edits.user = t;
  return run_layers(t, NULL);
}

static sl_status decode_batch(batch *t, int max_token, int32_t *ids, int *n_id) {
  sl_session *s = t->session;
  const sl_model *m = s->model;
  const int n_prompt = t->trunk->layout.n_prompt;
  float *logits = NULL;
  int32_t *token = NULL;
  const sl_mat fresh = sl_scratch_mat(&s->scratch, t->n_branch, m->decoder.shape.d_model);
  sl_status status = SL_ALLOC(logits, (size_t)HEAD_ROWS * (size_t)m->decoder.n_vocab, "logits");
  if (status == SL_OK) status = SL_ALLOC(token, (size_t)t->n_branch, "tokens");
  if (status == SL_OK) status = run_layers(t, NULL);
  for (int i = 0; i < max_token && status == SL_OK; i++) {
    int open = 0;
    status = next_tokens(t, n_prompt + i - 1, logits, token);
    for (int b = 0; b < t->n_branch && status == SL_OK; b++) {
      if (token[b] < 0) continue;
      ids[(size_t)b * (size_t)max_token + (size_t)n_id[b]++] = token[b];
      open++;
    }
    if (open == 0 || i + 1 == max_token || n_prompt + i + 1 > m->shape.max_position) break;
    if (status == SL_OK) status = step(t, token, n_prompt + i, fresh);
  }
  free(logits);
  free(token);
  return status;
}

static sl_status greedy_batch(sl_session *s, const sl_branch_request *r, int first, int max_token, int32_t *ids,
                              int *n_id, int *n) {
  batch t;
  const int64_t mark = s->scratch.used;
  sl_status status = batch_init(&t, s, r, first, r->trunk->layout.n_prompt, max_token);
  if (status == SL_OK) status = reserve_pass(&t, sl_scratch_need(t.n_branch, s->model->decoder.shape.d_model));
  if (status == SL_OK) status = decode_batch(&t, max_token, ids, n_id);
  *n = t.n_branch;
  batch_dispose(&t);
  s->scratch.used = mark;
  return status;
}

sl_status sl_branches_greedy(sl_session *s, const sl_branch_request *r, int max_token, int32_t *ids, int *n_id) {
  if (max_token < 1) SL_FAIL(SL_ERROR_ARGUMENT, "max tokens is %d; expected at least 1", max_token);
  if (r->trunk->layout.n_prompt <= r->trunk->first)
    SL_FAIL(SL_ERROR_ARGUMENT, "the prompt ends with the picture: there is no text to branch");
  SL_TRY(check_request(r));
  for (int i = 0; i < r->n_plan; i++) n_id[i] = 0;
  for (int first = 0, n; first < r->n_plan; first += n)
    SL_TRY(greedy_batch(s, r, first, max_token, ids + (size_t)first * (size_t)max_token, n_id + first, &n));
  return SL_OK;
}
