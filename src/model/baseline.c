/* Baselines: keys and values that can stand at the image positions of a prefix instead of its own.
 *
 * Kim et al., arXiv 2509.17588, leave open which; these are sightline's. The mean over pictures is taken of rotated
 * keys, which at one position equals rotating the mean; the mean over positions is taken of keys turned back and then
 * rotated at each position. */
#include <stdlib.h>
#include <string.h>

#include "model/branch_internal.h"

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
    status = sl_rows_allocate(p->model, p->n_image, 0, "baseline", &b->buffer, &b->kv, NULL);
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
    SL_FAIL(SL_ERROR_ARGUMENT, "%s is for a picture of %d x %d cells; that of the prompt has %d x %d", what,
            b->frame.rows, b->frame.cols, p->frame.rows, p->frame.cols);
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
    sl_buffer_read(s->queue, out + (size_t)i * (size_t)m.cols, m.buffer,
                   (size_t)(m.offset + i * m.stride) * sizeof(float), (size_t)m.cols * sizeof(float));
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
