/* A pass: the rows of many branches through the decoder together.
 *
 * Rows stand branch by branch, positions ascending. A row takes part from the layer on in which its plan reaches it; it
 * then starts from the trunk's residual. Keys and values of computed rows go to their branch's slots, everything else
 * is read from prefix, trunk and baselines (branch_view.c says which). The trunk itself is one branch without a plan
 * whose rows all start at layer 0, from their embeddings (trunk.c).
 *
 * Cost: rows x layers that are reached, instead of a full pass over all positions for each plan. */
#include <stdlib.h>

#include "model/branch_internal.h"

/* ---- memory ---- */

static sl_kv local_of(const sl_pass *t, int layer) {
  const sl_model *m = t->session->model;
  const int rows = t->n_branch * t->n_local;
  int64_t at = t->keeps_local ? (int64_t)layer * 2 * sl_scratch_need(rows, sl_kv_width(m)) : 0;
  sl_kv kv;
  kv.k = sl_carve(t->local, &at, rows, sl_kv_width(m));
  kv.v = sl_carve(t->local, &at, rows, sl_kv_width(m));
  return kv;
}

sl_status sl_pass_reserve_control(sl_pass *t, size_t n) {
  if (n <= t->n_control) return SL_OK;
  sl_buffer_free(t->control);
  t->control = NULL;
  t->n_control = 0;
  n += n / 4;
  SL_TRY(sl_buffer_new(&t->control, t->session->model->backend, n * sizeof(int32_t), "branch numbers"));
  t->n_control = n;
  return SL_OK;
}

/* Row of the pass that a branch's position is, -1 = not in it. Rows stand in order: search. */
static int row_of(void *user, int branch, int position) {
  const sl_pass *t = user;
  const sl_branch *b = &t->branches[branch];
  const int slot = position < b->n_position ? b->slot_of[position] : -1;
  int low = 0, high = t->n_row;
  while (low < high) {
    const int middle = (low + high) / 2;
    const sl_pass_row *r = &t->rows[middle];
    if (r->branch < branch || (r->branch == branch && r->slot < slot))
      low = middle + 1;
    else
      high = middle;
  }
  return slot >= 0 && low < t->n_row && t->rows[low].branch == branch && t->rows[low].slot == slot ? low : -1;
}

sl_status sl_pass_set_edits(sl_pass *t, bool captures) {
  sl_tap_list_dispose(&t->edits);
  SL_TRY(sl_tap_list_init(&t->edits, t->session, t->request, t->branches, t->n_branch, t->first_slot, captures));
  t->edits.row_of = row_of;
  t->edits.user = t;
  return SL_OK;
}

void sl_pass_dispose(sl_pass *t) {
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

sl_status sl_pass_reserve_rows(sl_pass *t, int n_step) {
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
      !sl_size_mul(n_layer * 2, (size_t)sl_scratch_need(t->n_branch * t->n_local, sl_kv_width(m)), &elements) ||
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
static sl_mat start_of(const sl_pass *t, const sl_pass_row *row, int layer) {
  const sl_trunk *trunk = t->trunk;
  const int position = t->branches[row->branch].position[row->slot];
  if (t->fresh.buffer) return sl_mat_rows(t->fresh, row->branch, 1);
  if (position >= trunk->first) return sl_mat_rows(trunk->resid[layer], position - trunk->first, 1);
  return sl_mat_rows(trunk->prefix->resid[layer], position, 1);
}

/* Rows that join in this layer take their places among those that run already. */
static void join_rows(sl_pass *t, int layer) {
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
      const sl_pass_row row = {b, slot};
      const sl_mat from = join < layer ? sl_mat_rows(t->x, old++, 1) : start_of(t, &row, layer);
      op->copy(queue, sl_mat_rows(t->spare, at++, 1), from);
    }
  const sl_mat x = t->x;
  t->x = t->spare;
  t->spare = x;
  t->n_row = 0;
  for (int b = 0; b < t->n_branch; b++)
    for (int slot = t->first_slot[b]; slot < t->branches[b].n_row; slot++)
      if (t->branches[b].join[slot] <= layer) t->rows[t->n_row++] = (sl_pass_row){b, slot};
}

/* Views of every row of this layer; numbers and masks to the device. */
static sl_status compile_layer(sl_pass *t, int layer, sl_branch_keys *keys, sl_ints *positions) {
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
  const size_t n_number = (size_t)n * (size_t)(2 + n_axis + n_head);
  const size_t n_mask = (size_t)t->views.n_view * (size_t)t->views.n_word;
  SL_TRY(sl_pass_reserve_control(t, n_number + n_mask));
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

static void set_segments(const sl_pass *t, int layer, sl_attend_shared *a) {
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

sl_status sl_pass_run(sl_pass *t, sl_trunk *whole) {
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

sl_status sl_pass_reserve_scratch(sl_pass *t, int64_t own) {
  sl_session *s = t->session;
  const int width = s->model->decoder.shape.d_model;
  const int64_t rows = 2 * sl_scratch_need(t->cap_row, width);
  const int64_t head = sl_decoder_head_scratch(&s->model->decoder, SL_PASS_ROWS) +
                       sl_scratch_need(SL_PASS_ROWS, width) + sl_scratch_need(SL_PASS_ROWS, s->model->decoder.n_vocab);
  const int n_key = t->views.n_word * 32;
  const int most = t->cap_row > SL_PASS_ROWS ? t->cap_row : SL_PASS_ROWS;
  SL_TRY(sl_session_reserve_decoder(s, most, n_key, NULL, false, own + rows + head));
  t->x = sl_scratch_mat(&s->scratch, t->cap_row, width);
  t->spare = sl_scratch_mat(&s->scratch, t->cap_row, width);
  return SL_OK;
}

/* Final residual of a position of a branch, after a pass: the trunk's where the pass had no such row. */
static sl_mat final_row(const sl_pass *t, int branch, int position) {
  const int row = row_of((void *)t, branch, position);
  return row >= 0 ? sl_mat_rows(t->x, row, 1)
                  : sl_mat_rows(t->trunk->resid[t->session->model->decoder.n_layer], position - t->trunk->first, 1);
}

void sl_pass_logits(sl_pass *t, const int *rows, int n_row, int first, int n, float *logits) {
  sl_session *s = t->session;
  const sl_ops *op = sl_queue_ops(s->queue);
  const sl_context c = sl_session_context(s, NULL);
  const int64_t mark = s->scratch.used;
  const sl_mat asked = sl_scratch_mat(&s->scratch, n, s->model->decoder.shape.d_model);
  for (int i = 0; i < n; i++)
    op->copy(s->queue, sl_mat_rows(asked, i, 1), final_row(t, (first + i) / n_row, rows[(first + i) % n_row]));
  sl_session_head(s, &c, asked, 0, logits);
  s->scratch.used = mark;
}
