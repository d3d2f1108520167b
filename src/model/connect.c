/* The connectors. Learned queries read all rows of one view, class token included; Linear layers take the rows that
 * model->select lists, of every view. */
#include "model/connect.h"

static int larger(int a, int b) { return a > b ? a : b; }

/* ---- Linear layers ---- */

static int mlp_rows(const sl_model *m, const sl_image *image) {
  (void)m;
  return image->n_view * image->n_view_token;
}

/* One list of which all rows to the end of the only view are taken: features serve as the input where they lie. */
static bool in_place(const sl_model *m, const sl_image *image) { return m->select.suffix && image->n_view == 1; }

static void mlp_lay_out(sl_image *image, const sl_model *m, sl_buffer *buffer, int64_t *at, bool keep) {
  const int n = mlp_rows(m, image), n_kept = sl_projector_kept_cols(&m->projector);
  if (in_place(m, image))
    image->input = sl_mat_rows(image->features, image->features.rows - n, n);
  else
    image->input = sl_carve(buffer, at, n, sl_model_input_cols(m));
  if (keep && n_kept) image->pre = sl_carve(buffer, at, n, n_kept);
}

static int64_t mlp_scratch(const sl_model *m, const sl_image *image, const sl_probe *probe) {
  (void)probe;
  const int n = mlp_rows(m, image);
  return 2 * sl_scratch_need(n, sl_model_input_cols(m)) + sl_projector_scratch(&m->projector, n);
}

static int mlp_width(const sl_model *m) {
  return larger(sl_model_input_cols(m), sl_weight_rows(m->projector.linear_1));
}

static sl_status mlp_forward(sl_session *s, const sl_context *c, sl_image *image, sl_mat out) {
  const sl_model *m = s->model;
  if (!in_place(m, image))
    (m->config.projector.pools ? sl_pool_forward : sl_select_forward)(c, image->input, image->features, image->select,
                                                                      m->select.n_list);
  sl_projector_forward(c, &m->projector, out, image->input, image->pre);
  return SL_OK;
}

static sl_status mlp_backward(sl_session *s, const sl_context *c, const sl_image *image, sl_mat d_features,
                              sl_mat d_out) {
  const sl_model *m = s->model;
  const int n = image->input.rows;
  const bool inside = in_place(m, image);
  const int64_t mark = c->scratch->used;
  const sl_mat d_input =
      inside ? sl_mat_rows(d_features, d_features.rows - n, n) : sl_scratch_mat(c->scratch, n, image->input.cols);
  if (inside) c->ops->zero(c->queue, d_features);
  sl_projector_backward(c, &m->projector, d_input, d_out, image->input, sl_mat_rows(image->projected, 0, n),
                        image->pre);
  if (!inside)
    (m->config.projector.pools ? sl_pool_backward : sl_select_backward)(c, d_features, d_input, image->select,
                                                                        m->select.n_list);
  c->scratch->used = mark;
  return SL_OK;
}

/* ---- resampler ---- */

static int query_rows(const sl_model *m, const sl_image *image) {
  (void)m;
  return larger(image->n_view * image->n_view_row, image->n_view_token + image->n_text);
}

static void resampler_lay_out(sl_image *image, const sl_model *m, sl_buffer *buffer, int64_t *at, bool keep) {
  const sl_resampler *r = &m->resampler;
  const int n = r->query.rows, n_row = image->features.rows, width = sl_resampler_width(r);
  if (!keep) return;
  image->resampler = (sl_resampler_acts){.q = sl_carve(buffer, at, n, width),
                                         .k = sl_carve(buffer, at, n_row, width),
                                         .v = sl_carve(buffer, at, n_row, width),
                                         .lse = sl_carve(buffer, at, n, r->n_head),
                                         .y = sl_carve(buffer, at, n, width)};
  if (r->kv) image->resampler.wide = sl_carve(buffer, at, n_row, width);
}

static int64_t resampler_scratch(const sl_model *m, const sl_image *image, const sl_probe *probe) {
  const int n_row = image->n_view * image->n_view_row;
  const int64_t forward = sl_resampler_forward_scratch(&m->resampler, n_row, probe != NULL);
  const int64_t backward = sl_resampler_backward_scratch(&m->resampler, n_row);
  return forward > backward ? forward : backward;
}

static int resampler_width(const sl_model *m) { return sl_resampler_width(&m->resampler); }

static sl_status resampler_forward(sl_session *s, const sl_context *c, sl_image *image, sl_mat out) {
  sl_resampler_forward(c, &s->model->resampler, out, image->features, image->kept ? &image->resampler : NULL);
  return SL_OK;
}

static sl_status resampler_backward(sl_session *s, const sl_context *c, const sl_image *image, sl_mat d_features,
                                    sl_mat d_out) {
  sl_resampler_backward(c, &s->model->resampler, d_features, d_out, image->features, image->projected,
                        &image->resampler);
  return SL_OK;
}

/* ---- Q-Former ---- */

static void qformer_lay_out(sl_image *image, const sl_model *m, sl_buffer *buffer, int64_t *at, bool keep) {
  const int n_row = image->n_view_token + image->n_text;
  if (keep) *at += sl_qformer_keep(image->qformer, &m->qformer, buffer, *at, n_row, image->features.rows);
}

static int64_t qformer_scratch(const sl_model *m, const sl_image *image, const sl_probe *probe) {
  return sl_qformer_scratch(&m->qformer, image->n_view_token + image->n_text, image->n_view * image->n_view_row,
                            probe != NULL);
}

static int qformer_width(const sl_model *m) {
  const sl_part_shape *s = &m->shape.projector;
  return larger(larger(3 * s->n_head * s->d_head, s->d_mlp), m->decoder.shape.d_model);
}

static sl_status qformer_forward(sl_session *s, const sl_context *c, sl_image *image, sl_mat out) {
  return sl_qformer_forward(c, &s->model->qformer, out, image->features, image->text, image->qformer, s->cancel);
}

static sl_status qformer_backward(sl_session *s, const sl_context *c, const sl_image *image, sl_mat d_features,
                                  sl_mat d_out) {
  return sl_qformer_backward(c, &s->model->qformer, d_features, d_out, image->features, image->projected,
                             image->qformer, s->cancel);
}

const sl_connect *sl_connect_of(const sl_model *m) {
  static const sl_connect connectors[] = {
      [SL_CONNECT_MLP] = {mlp_lay_out, mlp_scratch, mlp_width, mlp_rows, mlp_forward, mlp_backward},
      [SL_CONNECT_RESAMPLER] = {resampler_lay_out, resampler_scratch, resampler_width, query_rows, resampler_forward,
                                resampler_backward},
      [SL_CONNECT_QFORMER] = {qformer_lay_out, qformer_scratch, qformer_width, query_rows, qformer_forward,
                              qformer_backward},
  };
  return &connectors[m->kinds.projector->connector];
}
