/* Trunks: one unmodified continuation of a prefix, question and answer, run as one branch without a plan. */
#include <stdlib.h>

#include "model/branch_internal.h"

/* ---- memory ---- */

static sl_status check_prefix(const sl_prefix *p, const sl_layout *layout) {
  if (layout->first_image != p->first_image || layout->n_image != p->n_image)
    SL_FAIL(SL_ERROR_ARGUMENT, "the prompt has its %d image positions at %d; the prefix has %d at %d", layout->n_image,
            layout->first_image, p->n_image, p->first_image);
  for (int t = 0; t < p->n_row; t++)
    if (layout->ids[t] != p->ids[t])
      SL_FAIL(SL_ERROR_ARGUMENT, "token %d of the prompt is %d; the prefix has %d there", t, layout->ids[t], p->ids[t]);
  if (!sl_position_frame_same(&layout->frame, &p->frame))
    SL_FAIL(SL_ERROR_ARGUMENT, "the prompt's picture has %d x %d cells; that of the prefix has %d x %d",
            layout->frame.rows, layout->frame.cols, p->frame.rows, p->frame.cols);
  if (!sl_prefix_serves(p, layout))
    SL_FAIL(SL_ERROR_ARGUMENT,
            "a prompt of %d tokens stretches the rotary frequencies (dynamic NTK) otherwise than the prompt of its "
            "prefix",
            layout->n_prompt);
  if (layout->n_token == p->n_row)
    SL_FAIL(SL_ERROR_ARGUMENT, "the prompt ends with the picture: there is no text to branch");
  return SL_OK;
}

/* A trunk with room for its rows. */
static sl_status trunk_allocate(sl_trunk **out, const sl_prefix *prefix, const sl_layout *layout) {
  sl_trunk *t = NULL;
  *out = NULL;
  SL_TRY(check_prefix(prefix, layout));
  SL_TRY(SL_ALLOC(t, 1, "trunk"));
  *t = (sl_trunk){.prefix = prefix, .first = prefix->n_row, .n_row = layout->n_token - prefix->n_row};
  sl_status status = sl_layout_copy(&t->layout, layout);
  if (status == SL_OK)
    status = sl_rows_allocate(prefix->model, t->n_row, prefix->model->decoder.n_layer + 1, "trunk", &t->buffer, &t->kv,
                              &t->resid);
  if (status != SL_OK) {
    sl_trunk_free(t);
    return status;
  }
  *out = t;
  return SL_OK;
}

void sl_trunk_free(sl_trunk *t) {
  if (!t) return;
  sl_layout_dispose(&t->layout);
  sl_buffer_free(t->buffer);
  free(t->kv);
  free(t->resid);
  free(t);
}

/* ---- the run ---- */

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
  static const sl_plan no_plan = {0};
  const int64_t mark = s->scratch.used;
  sl_branch *branch = NULL;
  SL_TRY(sl_session_check_length(s, trunk->layout.n_token));
  SL_TRY(embed_suffix(s, trunk));
  SL_TRY(SL_ALLOC(branch, 1, "trunk"));
  sl_pass t = {.session = s, .trunk = trunk, .branches = branch, .n_branch = 1, .n_token = trunk->first,
               .probe = probe};
  branch->plan = &no_plan;
  sl_status status = SL_ALLOC(t.first_slot, 1, "trunk");
  for (int p = trunk->first; p < trunk->layout.n_token && status == SL_OK; p++) status = sl_branch_append(branch, p);
  if (status == SL_OK) status = sl_pass_reserve_rows(&t, 0);
  if (status == SL_OK) {
    sl_view_plan_init(&t.views, trunk, t.n_token, 0, t.n_local);
    status = sl_pass_reserve_scratch(&t, 0);
  }
  if (status == SL_OK) status = sl_pass_run(&t, trunk);
  sl_pass_dispose(&t);
  s->scratch.used = mark;
  return status;
}

sl_status sl_trunk_new(sl_trunk **out, sl_session *s, const sl_prefix *prefix, const sl_layout *layout,
                       const sl_probe *probe) {
  SL_TRY(trunk_allocate(out, prefix, layout));
  const sl_status status = run_trunk(*out, s, probe);
  if (status != SL_OK) {
    sl_trunk_free(*out);
    *out = NULL;
  }
  return status;
}

const sl_prefix *sl_trunk_prefix(const sl_trunk *t) { return t->prefix; }

sl_plan_limits sl_plan_limits_for(const sl_model *m, const sl_layout *layout, int n_token, int n_baseline, int n_run) {
  const sl_decoder *d = &m->decoder;
  return (sl_plan_limits){.n_layer = d->n_layer, .n_head = d->shape.n_head, .n_head_kv = d->shape.n_head_kv,
                          .d_model = d->shape.d_model, .d_head = d->shape.d_head, .d_mlp = d->shape.d_mlp,
                          .n_token = n_token, .first_image = layout->first_image, .n_image = layout->n_image,
                          .n_baseline = n_baseline, .n_run = n_run};
}

sl_plan_limits sl_trunk_limits(const sl_trunk *t, int n_baseline, int n_run) {
  return sl_plan_limits_for(t->prefix->model, &t->layout, t->layout.n_token, n_baseline, n_run);
}

/* ---- logits ---- */

sl_status sl_trunk_check_rows(const sl_trunk *trunk, const int *rows, int n_row) {
  for (int i = 0; i < n_row; i++)
    if (rows[i] < trunk->first || rows[i] >= trunk->layout.n_token || (i > 0 && rows[i] <= rows[i - 1]))
      SL_FAIL(SL_ERROR_ARGUMENT, "logits row %d: expected ascending positions from %d to %d", rows[i], trunk->first,
              trunk->layout.n_token - 1);
  return SL_OK;
}

sl_status sl_trunk_logits(sl_session *s, const sl_trunk *trunk, const int *rows, int n_row, float *logits) {
  SL_TRY(sl_trunk_check_rows(trunk, rows, n_row));
  for (int i = 0; i < n_row; i++)
    SL_TRY(sl_session_lens(s, sl_mat_rows(trunk->resid[s->model->decoder.n_layer], rows[i] - trunk->first, 1),
                           logits + (size_t)i * (size_t)s->model->decoder.n_vocab));
  return SL_OK;
}
