/* Values that edits take from other runs. A run keeps no sites, so its rows are run once more with a probe: the layers
 * that are asked for over the prefix's kept residuals, and the trunk. That is two passes at most for each run and
 * batch, whatever the number of edits. */
#include <stdlib.h>
#include <string.h>

#include "model/branch_internal.h"

/* The layer of the run that feeds the edit in `layer`. */
static int source_layer(const sl_edit *edit, int layer) { return edit->from_layer >= 0 ? edit->from_layer : layer; }

/* ---- one edit ---- */

void sl_capture_dispose(sl_capture *c) {
  free(c->positions);
  free(c->from);
  free(c->place);
  free(c->rows);
  *c = (sl_capture){0};
}

sl_status sl_capture_init(sl_capture *c, const sl_edit *edit, const sl_branch *b, int first_slot, int n_layer,
                          int width) {
  *c = (sl_capture){.edit = edit, .width = width};
  const size_t most = (size_t)(b->n_row - first_slot);
  size_t n_row;
  sl_status status = SL_ALLOC(c->positions, most, "edits");
  if (status == SL_OK) status = SL_ALLOC(c->from, most, "edits");
  if (status == SL_OK) status = SL_ALLOC(c->place, (size_t)n_layer, "edits");
  if (status == SL_OK) {
    for (int slot = first_slot; slot < b->n_row; slot++) {
      const int position = b->position[slot];
      if (!sl_set_has(&edit->positions, position)) continue;
      c->from[c->n_position] = edit->from_position >= 0 ? edit->from_position : position;
      c->positions[c->n_position++] = position;
    }
    for (int il = 0; il < n_layer; il++) c->place[il] = -1;
    for (int il = 0; il < n_layer; il++) {
      const int from = source_layer(edit, il);
      if (sl_set_has(&edit->layers, il) && c->place[from] < 0) c->place[from] = c->n_layer++;
    }
    if (!sl_size_mul((size_t)c->n_position * (size_t)c->n_layer, (size_t)width, &n_row))
      status = sl_fail(SL_ERROR_MEMORY, "an edit takes too many values of another run");
  }
  if (status == SL_OK) status = SL_ALLOC(c->rows, n_row, "edit values");
  if (status != SL_OK) sl_capture_dispose(c);
  return status;
}

static float *captured(const sl_capture *c, int i, int from_layer) {
  return c->rows + ((size_t)i * (size_t)c->n_layer + (size_t)c->place[from_layer]) * (size_t)c->width;
}

const float *sl_capture_row(const sl_capture *c, int i, int layer) {
  return captured(c, i, source_layer(c->edit, layer));
}

/* ---- the passes of one run ---- */

typedef struct capturing {
  const sl_capture *captures; /* [n] of which those of this run are filled */
  int n, run;
  bool prefix; /* this pass runs prefix rows, otherwise the suffix */
  int first;   /* the run's first suffix position */
} capturing;

static bool wants_from(const capturing *w, const sl_capture *c, sl_site site, int layer) {
  return c->edit->from_run == w->run && c->edit->from_site == site && c->place[layer] >= 0;
}

static bool wants_capture(void *user, sl_part part, sl_site site, int layer, bool backward) {
  const capturing *w = user;
  bool wanted = false;
  if (part != SL_PART_DECODER || backward || !sl_site_get(site)->per_layer) return false;
  for (int i = 0; i < w->n && !wanted; i++) wanted = wants_from(w, &w->captures[i], site, layer);
  return wanted;
}

static void see_capture(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                        sl_mat grad) {
  (void)part, (void)grad;
  const capturing *w = user;
  for (int i = 0; i < w->n; i++) {
    const sl_capture *c = &w->captures[i];
    if (!wants_from(w, c, site, layer)) continue;
    for (int p = 0; p < c->n_position; p++) {
      if ((c->from[p] < w->first) != w->prefix) continue;
      const int64_t at = value.offset + (c->from[p] - first_row) * value.stride;
      sl_buffer_read(queue, captured(c, p, layer), value.buffer, (size_t)at * sizeof(float),
                     (size_t)c->width * sizeof(float));
    }
  }
}

/* Whether an edit takes something of this layer, or any layer (-1), before (or behind) the end of the run's picture. */
static bool takes(const capturing *w, int layer, bool prefix) {
  for (int i = 0; i < w->n; i++) {
    const sl_capture *c = &w->captures[i];
    if (c->edit->from_run != w->run || (layer >= 0 && c->place[layer] < 0)) continue;
    for (int p = 0; p < c->n_position; p++)
      if ((c->from[p] < w->first) == prefix) return true;
  }
  return false;
}

/* Prefix rows: the layers once more, from the residuals that the prefix kept. */
static sl_status capture_prefix(sl_session *s, const sl_trunk *run, const sl_probe *probe, const capturing *w) {
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
    if (!takes(w, il, true)) continue;
    SL_TRY(sl_check_cancel(s->cancel));
    context.ops->copy(context.queue, x, p->resid[il]);
    const sl_context own_layer = sl_decoder_context(&context, decoder, il);
    sl_block_forward(&own_layer, sl_decoder_shape(decoder, il), &decoder->blocks[il], il, x, 0,
                     sl_session_positions(s, p->n_row), NULL, NULL);
  }
  return SL_OK;
}

static sl_status check_positions(const capturing *w, const sl_trunk *run) {
  for (int i = 0; i < w->n; i++)
    for (int p = 0; w->captures[i].edit->from_run == w->run && p < w->captures[i].n_position; p++)
      if (w->captures[i].from[p] >= run->layout.n_token)
        SL_FAIL(SL_ERROR_ARGUMENT, "an edit takes position %d of another run, which has %d", w->captures[i].from[p],
                run->layout.n_token);
  return SL_OK;
}

static sl_status capture_run(sl_session *s, const sl_trunk *run, capturing *w) {
  const sl_probe probe = {.user = w, .wants = wants_capture, .see = see_capture};
  w->first = run->first;
  SL_TRY(check_positions(w, run));
  w->prefix = true;
  if (takes(w, -1, true)) SL_TRY(capture_prefix(s, run, &probe, w));
  w->prefix = false;
  if (!takes(w, -1, false)) return SL_OK;
  sl_trunk *again = NULL;
  SL_TRY(sl_trunk_new(&again, s, run->prefix, &run->layout, &probe));
  sl_trunk_free(again);
  return SL_OK;
}

sl_status sl_captures_fill(sl_capture *captures, int n, sl_session *s, const sl_branch_request *request) {
  for (int r = 0; n > 0 && r < request->n_run; r++) {
    capturing w = {.captures = captures, .n = n, .run = r};
    SL_TRY(capture_run(s, request->runs[r], &w));
  }
  return SL_OK;
}
