/* Edits of plans as taps: at a site of a layer, rows of the pass are replaced, increased or scaled before anyone reads
 * them. Values that come from another run are read from it first (branch_capture.c). */
#include <stdlib.h>
#include <string.h>

#include "model/branch_internal.h"

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
  const int width = sl_plan_site_width(edit->site, &list->limits);
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

/* Taps of a constant or scaling edit at its positions among the branch's slots. */
static sl_status compile_constant(sl_tap_list *list, const sl_edit *edit, sl_tap tap, const sl_branch *b,
                                  int first_slot) {
  for (int slot = first_slot; slot < b->n_row; slot++) {
    tap.position = b->position[slot];
    if (!sl_set_has(&edit->positions, tap.position)) continue;
    SL_TRY(compile_row(list, edit, tap, sl_set_count(&edit->positions, tap.position)));
  }
  return SL_OK;
}

/* Taps of an edit with another run's values. */
static sl_status compile_captured(sl_tap_list *list, const sl_capture *c, sl_tap tap) {
  for (int i = 0; i < c->n_position; i++) {
    for (int il = 0; il < list->model->decoder.n_layer; il++) {
      if (!sl_set_has(&c->edit->layers, il)) continue;
      tap.position = c->positions[i];
      tap.layer = il;
      SL_TRY(add_value_row(list, c->width, &tap.value_row));
      memcpy(list->host + tap.value_row, sl_capture_row(c, i, il), (size_t)c->width * sizeof(float));
      SL_TRY(add_tap(list, tap));
    }
  }
  return SL_OK;
}

/* What the edits of all branches take from other runs, in the order of branches and edits. */
static sl_status capture_all(sl_capture **out, int *n, sl_tap_list *list, sl_session *s,
                             const sl_branch_request *request, const sl_branch *branches, int n_branch,
                             const int *first_slot) {
  int most = 0;
  for (int b = 0; b < n_branch; b++)
    for (int e = 0; e < branches[b].plan->n_edit; e++) most += branches[b].plan->edits[e].from_run >= 0;
  if (most == 0) return SL_OK;
  SL_TRY(SL_ALLOC(*out, (size_t)most, "edits"));
  for (int b = 0; b < n_branch; b++)
    for (int e = 0; e < branches[b].plan->n_edit; e++) {
      const sl_edit *edit = &branches[b].plan->edits[e];
      if (edit->from_run < 0) continue;
      SL_TRY(sl_capture_init(&(*out)[*n], edit, &branches[b], first_slot[b], list->model->decoder.n_layer,
                             sl_plan_site_width(edit->site, &list->limits)));
      ++*n;
    }
  return sl_captures_fill(*out, *n, s, request);
}

static sl_status compile_all(sl_tap_list *list, const sl_branch *branches, int n_branch, const int *first_slot,
                             const sl_capture *captures) {
  for (int b = 0; b < n_branch; b++)
    for (int e = 0; e < branches[b].plan->n_edit; e++) {
      const sl_edit *edit = &branches[b].plan->edits[e];
      const sl_tap tap = {.branch = b, .site = edit->site, .heads = &edit->heads, .kind = edit->kind};
      if (edit->from_run < 0)
        SL_TRY(compile_constant(list, edit, tap, &branches[b], first_slot[b]));
      else if (captures)
        SL_TRY(compile_captured(list, captures++, tap));
    }
  return SL_OK;
}

sl_status sl_tap_list_init(sl_tap_list *list, sl_session *s, const sl_branch_request *request,
                           const sl_branch *branches, int n_branch, const int *first_slot, bool with_captures) {
  sl_capture *captures = NULL;
  int n_capture = 0;
  *list = (sl_tap_list){.model = s->model,
                        .limits = sl_trunk_limits(request->trunk, request->n_baseline, request->n_run)};
  sl_status status = SL_ALLOC(list->touched, (size_t)s->model->decoder.n_layer, "edits");
  if (status == SL_OK && with_captures)
    status = capture_all(&captures, &n_capture, list, s, request, branches, n_branch, first_slot);
  if (status == SL_OK) status = compile_all(list, branches, n_branch, first_slot, captures);
  if (status == SL_OK && list->n_host > 0) {
    const size_t bytes = (size_t)list->n_host * sizeof(float);
    status = sl_buffer_new(&list->values, s->model->backend, bytes, "edit values");
    if (status == SL_OK) sl_buffer_write(s->queue, list->values, 0, list->host, bytes);
  }
  for (int i = 0; i < n_capture; i++) sl_capture_dispose(&captures[i]);
  free(captures);
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
  const int n_head = sl_plan_site_heads(site, &list->limits), n_part = n_head > 0 ? n_head : 1;
  const int d_part = sl_plan_site_width(site, &list->limits) / n_part;
  for (int i = 0; i < list->n_tap; i++) {
    const sl_tap *tap = &list->taps[i];
    if (tap->site != site || tap->layer != layer) continue;
    const int row = list->row_of(list->user, tap->branch, tap->position);
    if (row < 0) continue;
    const sl_mat to = sl_mat_rows(value, row, 1);
    const sl_mat from = {list->values, tap->value_row, value.cols, 1, value.cols, SL_F32};
    for (int h = 0; h < n_part; h++)
      if (n_head == 0 || sl_set_has(tap->heads, h))
        apply_columns(op, queue, tap, sl_mat_cols(to, h * d_part, d_part), sl_mat_cols(from, h * d_part, d_part));
  }
}

sl_taps sl_tap_list_taps(sl_tap_list *list) { return (sl_taps){.user = list, .touches = touches, .apply = apply}; }
