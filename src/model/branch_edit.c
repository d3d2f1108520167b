/* Edits of plans as taps: at a site of a layer, rows of the pass are replaced, increased or scaled before anyone reads
 * them. Values that come from another run are read from it first, by running its rows again with a probe. */
#include <stdlib.h>
#include <string.h>

#include "model/branch_internal.h"

/* Width of one head at sites that have heads, else of the whole row. */
static int head_width(const sl_model *m, sl_site site) {
  const sl_site_shape shape = sl_site_get(site)->shape;
  const sl_block_shape *s = &m->decoder.shape;
  if (shape == SL_SHAPE_HEADS || shape == SL_SHAPE_KV) return s->d_head;
  return site == SL_SITE_MLP_PRE || site == SL_SITE_MLP_PRE_LINEAR || site == SL_SITE_MLP_POST ? s->d_mlp : s->d_model;
}

static int head_count(const sl_model *m, sl_site site) {
  const sl_site_shape shape = sl_site_get(site)->shape;
  if (shape == SL_SHAPE_HEADS) return m->decoder.shape.n_head;
  return shape == SL_SHAPE_KV ? m->decoder.shape.n_head_kv : 1;
}

static int width_of(const sl_model *m, sl_site site) { return head_width(m, site) * head_count(m, site); }

/* ---- values of another run ---- */

/* The values of one edit's site, in its layers, at positions of another run. */
typedef struct capture {
  const sl_edit *edit;
  const int *positions; /* [n_position] in that run */
  int n_position, width;
  float *rows;          /* [n_position, layers of the edit, width] */
  int *layer_place;     /* [L] a layer's place among the edit's, -1 = not one of them */
  int n_layer;          /* of the edit */
  bool prefix;          /* this pass runs prefix rows, otherwise the suffix */
  int first;            /* suffix position 0 of that run */
} capture;

static bool wants_capture(void *user, sl_part part, sl_site site, int layer, bool backward) {
  const capture *c = user;
  return part == SL_PART_DECODER && site == c->edit->site && !backward && c->layer_place[layer] >= 0;
}

static void see_capture(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                        sl_mat grad) {
  (void)part, (void)site, (void)grad;
  const capture *c = user;
  for (int i = 0; i < c->n_position; i++) {
    if ((c->positions[i] < c->first) != c->prefix) continue;
    const int64_t at = value.offset + (c->positions[i] - first_row) * value.stride;
    float *out = c->rows + ((size_t)i * (size_t)c->n_layer + (size_t)c->layer_place[layer]) * (size_t)c->width;
    sl_buffer_read(queue, out, value.buffer, (size_t)at * sizeof(float), (size_t)c->width * sizeof(float));
  }
}

/* Prefix rows: the edit's layers once more, from the residuals that the prefix kept. */
static sl_status capture_prefix(sl_session *s, const sl_trunk *run, const sl_probe *probe, const capture *c) {
  const sl_prefix *p = run->prefix;
  const sl_decoder own = sl_model_decoder(s->model, p->rope_level), *decoder = &own;
  if (!p->resid)
    SL_FAIL(SL_ERROR_ARGUMENT,
            "an edit takes values of another run before the end of its picture; that run's prefix was made without its "
            "rows (keep_rows)");
  s->n_kept = 0;
  SL_TRY(sl_session_reserve_rows(s, p->n_row));
  SL_TRY(sl_session_reserve_decoder(s, p->n_row, p->n_row, NULL, false, 0));
  SL_TRY(sl_session_upload(s, &run->layout, p->n_row));
  sl_context context = sl_session_context(s, probe);
  sl_session_see_image(s, &context, p->n_row);
  const sl_mat x = sl_mat_rows(s->x, 0, p->n_row);
  for (int il = 0; il < decoder->n_layer; il++) {
    if (c->layer_place[il] < 0) continue;
    context.ops->copy(context.queue, x, p->resid[il]);
    const sl_context own_layer = sl_decoder_context(&context, decoder, il);
    sl_block_forward(&own_layer, sl_decoder_shape(decoder, il), &decoder->blocks[il], il, x, 0,
                     sl_session_positions(s, p->n_row), NULL, NULL);
  }
  return SL_OK;
}

/* At most two passes, whatever the number of positions. */
static sl_status capture_run(sl_session *s, const sl_trunk *run, capture *c) {
  const sl_probe probe = {.user = c, .wants = wants_capture, .see = see_capture};
  bool in_prefix = false, in_suffix = false;
  c->first = run->first;
  for (int i = 0; i < c->n_position; i++) {
    if (c->positions[i] >= run->layout.n_token)
      SL_FAIL(SL_ERROR_ARGUMENT, "an edit takes position %d of another run, which has %d", c->positions[i],
              run->layout.n_token);
    in_prefix = in_prefix || c->positions[i] < run->first;
    in_suffix = in_suffix || c->positions[i] >= run->first;
  }
  c->prefix = true;
  if (in_prefix) SL_TRY(capture_prefix(s, run, &probe, c));
  c->prefix = false;
  if (!in_suffix) return SL_OK;
  sl_trunk *again = NULL;
  SL_TRY(sl_trunk_new(&again, s, run->prefix, &run->layout, &probe));
  sl_trunk_free(again);
  return SL_OK;
}

/* ---- compiling ---- */

/* Room for one more row of values; its offset. */
static sl_status add_value_row(sl_tap_list *list, int width, int64_t *offset) {
  *offset = (list->n_host + 15) / 16 * 16;
  if (*offset + width > list->cap_host) {
    const int64_t cap = 2 * list->cap_host + width + 64;
    SL_TRY(SL_REALLOC(list->host, (size_t)cap, "edit values"));
    list->cap_host = cap;
  }
  list->n_host = *offset + width;
  return SL_OK;
}

/* The constant of an edit at the `member`-th of its positions, repeated over heads or columns as far as needed. */
static sl_status add_constant(sl_tap_list *list, const sl_edit *edit, int member, int64_t *offset) {
  const int width = width_of(list->model, edit->site);
  SL_TRY(add_value_row(list, width, offset));
  const float *from = edit->n_value > width ? edit->value + (int64_t)member * width : edit->value;
  const int period = edit->n_value > width ? width : edit->n_value;
  if (edit->n_value > width && (int64_t)(member + 1) * width > edit->n_value)
    SL_FAIL(SL_ERROR_ARGUMENT, "an edit at %s has values for %d positions, but is made at more",
            sl_site_get(edit->site)->name, edit->n_value / width);
  for (int i = 0; i < width; i++) list->host[*offset + i] = from[i % period];
  return SL_OK;
}

static sl_status add_tap(sl_tap_list *list, sl_tap tap) {
  if (list->n_tap == list->cap_tap) {
    const int cap = list->cap_tap ? 2 * list->cap_tap : 16;
    SL_TRY(SL_REALLOC(list->taps, (size_t)cap, "edits"));
    list->cap_tap = cap;
  }
  list->taps[list->n_tap++] = tap;
  list->touched[tap.layer] |= (uint64_t)1 << tap.site;
  return SL_OK;
}

/* Taps of a constant or scaling edit at one position, in every layer that it names. */
static sl_status compile_row(sl_tap_list *list, const sl_edit *edit, sl_tap tap, int member) {
  if (edit->kind == SL_EDIT_SCALE)
    tap.factor = edit->value[0];
  else
    SL_TRY(add_constant(list, edit, member, &tap.value_row));
  for (int il = 0; il < list->model->decoder.n_layer; il++) {
    if (!sl_set_has(&edit->layers, il)) continue;
    tap.layer = il;
    SL_TRY(add_tap(list, tap));
  }
  return SL_OK;
}

/* Taps of an edit with another run's values at all its positions: rows as `c` holds them. */
static sl_status compile_captured(sl_tap_list *list, const capture *c, sl_tap tap, const int *positions) {
  for (int i = 0; i < c->n_position; i++) {
    for (int il = 0; il < list->model->decoder.n_layer; il++) {
      if (c->layer_place[il] < 0) continue;
      const float *row = c->rows + ((size_t)i * (size_t)c->n_layer + (size_t)c->layer_place[il]) * (size_t)c->width;
      tap.position = positions[i];
      tap.layer = il;
      SL_TRY(add_value_row(list, c->width, &tap.value_row));
      memcpy(list->host + tap.value_row, row, (size_t)c->width * sizeof *row);
      SL_TRY(add_tap(list, tap));
    }
  }
  return SL_OK;
}

static sl_status compile_from_run(sl_tap_list *list, sl_session *s, const sl_branch_request *request,
                                  const sl_edit *edit, sl_tap tap, const int *positions, int n_position) {
  const int n_layer = list->model->decoder.n_layer;
  capture c = {.edit = edit, .n_position = n_position, .width = width_of(list->model, edit->site)};
  int *from = NULL;
  size_t n_row;
  sl_status status = SL_ALLOC(from, (size_t)n_position, "edits");
  if (status == SL_OK) status = SL_ALLOC(c.layer_place, (size_t)n_layer, "edits");
  if (status == SL_OK) {
    for (int il = 0; il < n_layer; il++) c.layer_place[il] = sl_set_has(&edit->layers, il) ? c.n_layer++ : -1;
    for (int i = 0; i < n_position; i++) from[i] = edit->from_position >= 0 ? edit->from_position : positions[i];
    c.positions = from;
    if (!sl_size_mul((size_t)n_position * (size_t)c.n_layer, (size_t)c.width, &n_row))
      status = sl_fail(SL_ERROR_MEMORY, "an edit takes too many values of another run");
  }
  if (status == SL_OK) status = SL_ALLOC(c.rows, n_row, "edit values");
  if (status == SL_OK) status = capture_run(s, request->runs[edit->from_run], &c);
  if (status == SL_OK) status = compile_captured(list, &c, tap, positions);
  free(c.rows);
  free(c.layer_place);
  free(from);
  return status;
}

static sl_status compile_edit(sl_tap_list *list, sl_session *s, const sl_branch_request *request, const sl_branch *b,
                              int number, const sl_edit *edit, int first_slot) {
  sl_tap tap = {.branch = number, .site = edit->site, .heads = &edit->heads, .kind = edit->kind};
  int *positions = NULL, n_position = 0;
  SL_TRY(SL_ALLOC(positions, (size_t)b->n_row + 1, "edits"));
  for (int slot = first_slot; slot < b->n_row; slot++)
    if (sl_set_has(&edit->positions, b->position[slot])) positions[n_position++] = b->position[slot];
  sl_status status = SL_OK;
  if (edit->from_run >= 0) {
    if (n_position > 0) status = compile_from_run(list, s, request, edit, tap, positions, n_position);
  } else {
    for (int i = 0; i < n_position && status == SL_OK; i++) {
      tap.position = positions[i];
      status = compile_row(list, edit, tap, sl_set_count(&edit->positions, positions[i]));
    }
  }
  free(positions);
  return status;
}

sl_status sl_tap_list_init(sl_tap_list *list, sl_session *s, const sl_branch_request *request, const sl_branch *branches,
                           int n_branch, const int *first_slot, bool captures) {
  *list = (sl_tap_list){.model = s->model};
  sl_status status = SL_ALLOC(list->touched, (size_t)s->model->decoder.n_layer, "edits");
  for (int b = 0; b < n_branch; b++)
    for (int e = 0; e < branches[b].plan->n_edit && status == SL_OK; e++) {
      const sl_edit *edit = &branches[b].plan->edits[e];
      if (captures || edit->from_run < 0)
        status = compile_edit(list, s, request, &branches[b], b, edit, first_slot[b]);
    }
  if (status == SL_OK && list->n_host > 0) {
    const size_t bytes = (size_t)list->n_host * sizeof(float);
    status = sl_buffer_new(&list->values, s->model->backend, bytes, "edit values");
    if (status == SL_OK) sl_buffer_write(s->queue, list->values, 0, list->host, bytes);
  }
  if (status != SL_OK) sl_tap_list_dispose(list);
  return status;
}

void sl_tap_list_dispose(sl_tap_list *list) {
  sl_buffer_free(list->values);
  free(list->taps);
  free(list->host);
  free(list->touched);
  *list = (sl_tap_list){0};
}

/* ---- applying ---- */

static bool touches(void *user, sl_part part, sl_site site, int layer) {
  const sl_tap_list *list = user;
  return list->n_tap > 0 && part == SL_PART_DECODER && sl_site_get(site)->per_layer && list->touched[layer] >> site & 1;
}

static void apply_columns(const sl_ops *op, sl_queue *queue, const sl_tap *tap, sl_mat to, sl_mat value) {
  switch (tap->kind) {
    case SL_EDIT_REPLACE: op->copy(queue, to, value); break;
    case SL_EDIT_ADD: op->add(queue, to, to, value); break;
    case SL_EDIT_SCALE: op->scale(queue, to, to, tap->factor); break;
    case SL_EDIT_KIND_COUNT: break;
  }
}

static void apply(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, sl_mat value) {
  (void)part;
  const sl_tap_list *list = user;
  const sl_ops *op = sl_queue_ops(queue);
  const int n_head = head_count(list->model, site), d_head = head_width(list->model, site);
  for (int i = 0; i < list->n_tap; i++) {
    const sl_tap *tap = &list->taps[i];
    if (tap->site != site || tap->layer != layer) continue;
    const int row = list->row_of(list->user, tap->branch, tap->position);
    if (row < 0) continue;
    const sl_mat to = sl_mat_rows(value, row, 1);
    const sl_mat from = {list->values, tap->value_row, value.cols, 1, value.cols, SL_F32};
    for (int h = 0; h < n_head; h++)
      if (n_head == 1 || sl_set_has(tap->heads, h))
        apply_columns(op, queue, tap, sl_mat_cols(to, h * d_head, d_head), sl_mat_cols(from, h * d_head, d_head));
  }
}

sl_taps sl_tap_list_taps(sl_tap_list *list) { return (sl_taps){.user = list, .touches = touches, .apply = apply}; }
