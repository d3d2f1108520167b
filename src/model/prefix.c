/* Prefixes and baselines: keys and values of everything up to the last image position, and what can stand in for them.
 *
 * Baselines (Kim et al., arXiv 2509.17588, leave them open; these are sightline's): the mean over pictures is taken of
 * rotated keys, which at one position equals rotating the mean; the mean over positions is taken of keys turned back and
 * then rotated at each position. */
#include <stdlib.h>
#include <string.h>

#include "model/branch_internal.h"

sl_mat sl_carve(sl_buffer *buffer, int64_t *at, int rows, int cols) {
  const sl_mat m = {buffer, *at, sl_scratch_stride(cols), rows, cols, SL_F32};
  *at += sl_scratch_need(rows, cols);
  return m;
}

static int kv_width(const sl_model *m) { return m->decoder.shape.n_head_kv * m->decoder.shape.d_head; }

/* Keys and values of n_row rows in every layer, and n_resid residuals: one buffer. */
static sl_status allocate_rows(const sl_model *m, int n_row, int n_resid, const char *what, sl_buffer **buffer,
                               sl_kv **kv, sl_mat **resid) {
  const int n_layer = m->decoder.n_layer, width = m->decoder.shape.d_model;
  size_t kv_elements, resid_elements, elements, bytes;
  if (!sl_size_mul((size_t)n_layer * 2, (size_t)sl_scratch_need(n_row, kv_width(m)), &kv_elements) ||
      !sl_size_mul((size_t)n_resid, (size_t)sl_scratch_need(n_row, width), &resid_elements) ||
      !sl_size_add(kv_elements, resid_elements, &elements) || !sl_size_mul(elements, sizeof(float), &bytes))
    SL_FAIL(SL_ERROR_MEMORY, "%s: %d rows are too many", what, n_row);
  SL_TRY(SL_ALLOC(*kv, (size_t)n_layer, what));
  if (n_resid > 0) SL_TRY(SL_ALLOC(*resid, (size_t)n_resid, what));
  SL_TRY(sl_buffer_new(buffer, m->backend, bytes, what));
  int64_t at = 0;
  for (int il = 0; il < n_layer; il++) {
    (*kv)[il].k = sl_carve(*buffer, &at, n_row, kv_width(m));
    (*kv)[il].v = sl_carve(*buffer, &at, n_row, kv_width(m));
  }
  for (int i = 0; i < n_resid; i++) (*resid)[i] = sl_carve(*buffer, &at, n_row, width);
  return SL_OK;
}

/* ---- prefix ---- */

static sl_status run_prefix(sl_prefix *p, sl_session *s, const sl_layout *layout, const sl_image *image,
                            const sl_probe *probe) {
  const sl_decoder own = sl_model_decoder(s->model, p->rope_level), *decoder = &own;
  SL_TRY(sl_session_check_length(s, p->n_row));
  s->n_kept = 0; /* the rows of a kept forward are overwritten */
  SL_TRY(sl_session_reserve_rows(s, p->n_row));
  SL_TRY(sl_session_reserve_decoder(s, p->n_row, p->n_row, probe, false, 0));
  SL_TRY(sl_session_upload(s, layout, p->n_row));
  sl_context c = sl_session_context(s, probe);
  sl_session_see_image(s, &c, p->n_row);
  const sl_mat x = sl_mat_rows(s->x, 0, p->n_row);
  sl_decoder_embed(&c, decoder, x, sl_session_numbers(s, 0, p->n_row), image->rows,
                   sl_session_numbers(s, 1, p->n_image));
  for (int il = 0; il < decoder->n_layer; il++) {
    SL_TRY(sl_check_cancel(s->cancel));
    if (p->resid) c.ops->copy(c.queue, p->resid[il], x);
    const sl_context own_layer = sl_decoder_context(&c, decoder, il);
    sl_block_forward(&own_layer, sl_decoder_shape(decoder, il), &decoder->blocks[il], il, x, 0,
                     sl_session_positions(s, p->n_row), &p->kv[il], NULL);
  }
  return SL_OK;
}

sl_status sl_prefix_new(sl_prefix **out, sl_session *s, const sl_layout *layout, const sl_image *image, bool keep_rows,
                        const sl_probe *probe) {
  const sl_model *m = s->model;
  sl_prefix *p = NULL;
  *out = NULL;
  if (layout->n_image < 1 || !image) SL_FAIL(SL_ERROR_ARGUMENT, "interventions need a prompt with a picture");
  SL_TRY(sl_image_check(image, layout));
  SL_TRY(SL_ALLOC(p, 1, "prefix"));
  *p = (sl_prefix){.model = m, .n_row = layout->first_image + layout->n_image, .first_image = layout->first_image,
                   .n_image = layout->n_image, .rope_level = sl_rope_level(&m->config, layout->n_prompt),
                   .frame = layout->frame};
  sl_status status = SL_ALLOC(p->ids, (size_t)p->n_row, "prefix");
  if (status == SL_OK) {
    memcpy(p->ids, layout->ids, (size_t)p->n_row * sizeof *p->ids);
    status = allocate_rows(m, p->n_row, keep_rows ? m->decoder.n_layer : 0, "prefix", &p->buffer, &p->kv, &p->resid);
  }
  if (status == SL_OK) status = run_prefix(p, s, layout, image, probe);
  if (status != SL_OK) {
    sl_prefix_free(p);
    return status;
  }
  *out = p;
  return SL_OK;
}

void sl_prefix_free(sl_prefix *p) {
  if (!p) return;
  sl_buffer_free(p->buffer);
  free(p->ids);
  free(p->kv);
  free(p->resid);
  free(p);
}

int sl_prefix_rows(const sl_prefix *p) { return p->n_row; }
bool sl_prefix_keeps_rows(const sl_prefix *p) { return p->resid != NULL; }

bool sl_prefix_serves(const sl_prefix *p, const sl_layout *layout) {
  return layout->first_image == p->first_image && layout->n_image == p->n_image &&
         memcmp(layout->ids, p->ids, (size_t)p->n_row * sizeof *p->ids) == 0 &&
         sl_position_frame_same(&layout->frame, &p->frame) &&
         sl_rope_level(&p->model->config, layout->n_prompt) == p->rope_level;
}

/* ---- trunk: its rows are filled in branch.c ---- */

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
            "a prompt of %d tokens stretches the rotary frequencies (dynamic NTK) otherwise than the prompt of its prefix",
            layout->n_prompt);
  if (layout->n_token == p->n_row)
    SL_FAIL(SL_ERROR_ARGUMENT, "the prompt ends with the picture: there is no text to branch");
  return SL_OK;
}

sl_status sl_trunk_allocate(sl_trunk **out, const sl_prefix *prefix, const sl_layout *layout) {
  sl_trunk *t = NULL;
  *out = NULL;
  SL_TRY(check_prefix(prefix, layout));
  SL_TRY(SL_ALLOC(t, 1, "trunk"));
  *t = (sl_trunk){.prefix = prefix, .first = prefix->n_row, .n_row = layout->n_token - prefix->n_row};
  sl_status status = sl_layout_copy(&t->layout, layout);
  if (status == SL_OK)
    status = allocate_rows(prefix->model, t->n_row, prefix->model->decoder.n_layer + 1, "trunk", &t->buffer, &t->kv,
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

const sl_layout *sl_trunk_layout(const sl_trunk *t) { return &t->layout; }
const sl_prefix *sl_trunk_prefix(const sl_trunk *t) { return t->prefix; }

sl_plan_limits sl_trunk_limits(const sl_trunk *t, int n_baseline, int n_run) {
  const sl_decoder *d = &t->prefix->model->decoder;
  return (sl_plan_limits){.n_layer = d->n_layer, .n_head = d->shape.n_head, .n_head_kv = d->shape.n_head_kv,
                          .d_model = d->shape.d_model, .d_head = d->shape.d_head, .d_mlp = d->shape.d_mlp,
                          .n_token = t->layout.n_token, .first_image = t->prefix->first_image,
                          .n_image = t->prefix->n_image, .n_baseline = n_baseline, .n_run = n_run};
}

/* ---- baselines ---- */

/* Zeroed keys and values at the prefix's image positions. */
static sl_status baseline_new(sl_baseline **out, const sl_prefix *p) {
  sl_baseline *b = NULL;
  *out = NULL;
  SL_TRY(SL_ALLOC(b, 1, "baseline"));
  *b = (sl_baseline){.model = p->model, .first_image = p->first_image, .n_image = p->n_image,
                      .rope_level = p->rope_level, .frame = p->frame};
  sl_status status = SL_ALLOC(b->ids, (size_t)p->n_row, "baseline");
  if (status == SL_OK) {
    memcpy(b->ids, p->ids, (size_t)p->n_row * sizeof *b->ids);
    status = allocate_rows(p->model, p->n_image, 0, "baseline", &b->buffer, &b->kv, NULL);
  }
  if (status != SL_OK) {
    sl_baseline_free(b);
    return status;
  }
  *out = b;
  return SL_OK;
}

void sl_baseline_free(sl_baseline *b) {
  if (!b) return;
  sl_buffer_free(b->buffer);
  free(b->ids);
  free(b->kv);
  free(b);
}

sl_status sl_baseline_check(const sl_baseline *b, const sl_prefix *p, const char *what) {
  if (b->model != p->model) SL_FAIL(SL_ERROR_ARGUMENT, "%s was made with another model", what);
  if (b->first_image != p->first_image || b->n_image != p->n_image)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s is for %d image positions at %d; the prompt has %d at %d", what, b->n_image,
            b->first_image, p->n_image, p->first_image);
  for (int t = 0; t < p->n_row; t++)
    if (b->ids[t] != p->ids[t])
      SL_FAIL(SL_ERROR_ARGUMENT, "%s was made behind other text: token %d is %d there, and %d in the prompt", what, t,
              b->ids[t], p->ids[t]);
  if (!sl_position_frame_same(&b->frame, &p->frame))
    SL_FAIL(SL_ERROR_ARGUMENT, "%s is for a picture of %d x %d cells; that of the prompt has %d x %d", what, b->frame.rows,
            b->frame.cols, p->frame.rows, p->frame.cols);
  if (b->rope_level != p->rope_level)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s was made for a prompt of another length: its keys are rotated by other frequencies "
            "(dynamic NTK)", what);
  return SL_OK;
}

sl_status sl_baseline_zero(sl_baseline **out, sl_session *s, const sl_prefix *prefix) {
  (void)s;
  return baseline_new(out, prefix);
}

static void read_rows(sl_session *s, sl_mat m, float *out) {
  for (int i = 0; i < m.rows; i++)
    sl_buffer_read(s->queue, out + (size_t)i * (size_t)m.cols, m.buffer, (size_t)(m.offset + i * m.stride) * sizeof(float),
                   (size_t)m.cols * sizeof(float));
}

void sl_baseline_read(sl_session *s, const sl_baseline *b, int layer, float *k, float *v) {
  read_rows(s, b->kv[layer].k, k);
  read_rows(s, b->kv[layer].v, v);
}

static sl_mat image_rows(sl_mat m, const sl_prefix *p) { return sl_mat_rows(m, p->first_image, p->n_image); }

sl_status sl_baseline_picture(sl_baseline **out, sl_session *s, const sl_prefix *other) {
  const sl_ops *op = sl_queue_ops(s->queue);
  SL_TRY(baseline_new(out, other));
  for (int il = 0; il < other->model->decoder.n_layer; il++) {
    op->copy(s->queue, (*out)->kv[il].k, image_rows(other->kv[il].k, other));
    op->copy(s->queue, (*out)->kv[il].v, image_rows(other->kv[il].v, other));
  }
  return SL_OK;
}

struct sl_calibration {
  sl_session *session;
  sl_baseline *sum; /* NULL before the first picture */
  int n_picture;
};

sl_status sl_calibration_new(sl_calibration **out, sl_session *session) {
  *out = NULL;
  SL_TRY(SL_ALLOC(*out, 1, "calibration"));
  (*out)->session = session;
  return SL_OK;
}

sl_status sl_calibration_add(sl_calibration *c, const sl_prefix *p) {
  if (!c->sum) SL_TRY(baseline_new(&c->sum, p));
  SL_TRY(sl_baseline_check(c->sum, p, "the calibration so far"));
  const sl_ops *op = sl_queue_ops(c->session->queue);
  for (int il = 0; il < p->model->decoder.n_layer; il++) {
    const sl_kv *sum = &c->sum->kv[il];
    op->add(c->session->queue, sum->k, sum->k, image_rows(p->kv[il].k, p));
    op->add(c->session->queue, sum->v, sum->v, image_rows(p->kv[il].v, p));
  }
  c->n_picture++;
  return SL_OK;
}

/* Every row of m becomes the mean over its rows. */
static void spread_mean(sl_session *s, sl_mat m) {
  const sl_ops *op = sl_queue_ops(s->queue);
  const sl_mat first = sl_mat_rows(m, 0, 1);
  for (int i = 1; i < m.rows; i++) op->add(s->queue, first, first, sl_mat_rows(m, i, 1));
  op->scale(s->queue, first, first, 1.0f / (float)m.rows);
  for (int i = 1; i < m.rows; i++) op->copy(s->queue, sl_mat_rows(m, i, 1), first);
}

static sl_status mean_over_positions(sl_session *s, sl_baseline *b) {
  const sl_decoder decoder = sl_model_decoder(b->model, b->rope_level);
  const sl_context c = sl_session_context(s, NULL);
  s->n_kept = 0;
  SL_TRY(sl_session_reserve_rows(s, b->n_image));
  SL_TRY(sl_session_place(s, &b->frame, b->first_image, b->n_image));
  const sl_ints positions = sl_session_positions(s, b->n_image);
  for (int il = 0; il < b->model->decoder.n_layer; il++) {
    sl_block_rotate(&c, sl_decoder_shape(&decoder, il), b->kv[il].k, positions, -1);
    spread_mean(s, b->kv[il].k);
    sl_block_rotate(&c, sl_decoder_shape(&decoder, il), b->kv[il].k, positions, 1);
    spread_mean(s, b->kv[il].v);
  }
  return SL_OK;
}

sl_status sl_calibration_finish(sl_baseline **out, sl_calibration *c, bool over_positions) {
  *out = NULL;
  if (c->n_picture == 0) SL_FAIL(SL_ERROR_ARGUMENT, "a mean baseline needs at least one calibration picture");
  const sl_ops *op = sl_queue_ops(c->session->queue);
  for (int il = 0; il < c->sum->model->decoder.n_layer; il++) {
    const sl_kv *sum = &c->sum->kv[il];
    op->scale(c->session->queue, sum->k, sum->k, 1.0f / (float)c->n_picture);
    op->scale(c->session->queue, sum->v, sum->v, 1.0f / (float)c->n_picture);
  }
  if (over_positions) SL_TRY(mean_over_positions(c->session, c->sum));
  *out = c->sum;
  c->sum = NULL;
  c->n_picture = 0;
  return SL_OK;
}

void sl_calibration_free(sl_calibration *c) {
  if (!c) return;
  sl_baseline_free(c->sum);
  free(c);
}
