/* A picture's rows for the decoder: tower over every view, connector, and the pack's order; and the way back. */
#include <stdlib.h>
#include <string.h>

#include "model/connect.h"

static int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

/* Equal frames of a still picture that the patch kernel takes. They are multiplied one by one: the kernel is not summed
 * over time, which would round its sum in the bf16 modes. */
static int frames(const sl_model *m) { return m->config.vision.n_frame > 0 ? m->config.vision.n_frame : 1; }

/* [T p p] values of one channel times 3. */
static int patch_width(const sl_model *m) { return 3 * frames(m) * m->shape.patch_px * m->shape.patch_px; }

/* [n_patch, 3 T p p] of one view: the patch kernels' order is channel, frame, row, column. */
static void cut_patches(const sl_model *m, const sl_pack *pack, const float *pixels, float *out) {
  const int p = m->shape.patch_px, n_frame = frames(m), cols = pack->patch_cols, n = pack->patch_rows * cols;
  float *to = out;
  for (int i = 0; i < n; i++) {
    const int patch = pack->patch ? pack->patch[i] : i;
    for (int channel = 0; channel < 3; channel++)
      for (int frame = 0; frame < n_frame; frame++)
        for (int y = 0; y < p; y++, to += p) {
          const size_t row = (size_t)channel * (size_t)pack->height_px + (size_t)(patch / cols * p + y);
          memcpy(to, pixels + row * (size_t)pack->width_px + (size_t)(patch % cols * p), (size_t)p * sizeof *to);
        }
  }
}

/* ---- memory ---- */

/* Places of all matrices in the image's buffer; returns the elements they take. */
static int64_t lay_out(sl_image *image, const sl_model *m, const sl_pack *pack, sl_buffer *buffer, bool keep) {
  const int n_row = pack->n_view * pack->n_view_row, n = pack->n_view * pack->n_view_token;
  const int width = m->decoder.shape.d_model, d_vision = m->tower.shape.d_model;
  int64_t at = 0;
  image->features = sl_carve(buffer, &at, n_row * (1 + m->tower.n_level), d_vision);
  if (keep && m->tower.post_w.buffer) image->last = sl_carve(buffer, &at, n_row, d_vision);
  sl_connect_of(m)->lay_out(image, m, buffer, &at, keep);
  image->rows = sl_carve(buffer, &at, pack->n, width);
  image->projected = pack->plain ? image->rows : sl_carve(buffer, &at, n + 1, width);
  return at;
}

/* The tower's rows that make a projector row: those of the model where views have one size; else the patches of a cell,
 * whose rows follow one another. `out` [n_list, n]. */
static void list_selected(int32_t *out, const sl_model *m, const sl_pack *pack) {
  const int per = pack->n_view_token, n = pack->n_view * per, n_list = m->select.n_list;
  const int merge = m->config.projector.merge;
  if (!pack->patch) {
    for (int b = 0; b < n_list; b++) {
      const int first = m->tower.n_level ? m->select.block[b] * pack->n_view * pack->n_view_row : 0;
      for (int i = 0; i < n; i++)
        out[b * n + i] = first + i / per * pack->n_view_row + m->select.rows[b * per + i % per];
    }
    return;
  }
  for (int first = 0; first < pack->n_view_row; first += n_list) {
    const int row = pack->patch[first] / pack->patch_cols / merge, col = pack->patch[first] % pack->patch_cols / merge;
    for (int b = 0; b < n_list; b++) out[b * n + row * pack->cell_cols + col] = first + b;
  }
}

/* Rows and columns of the patches, [n_patch, 2], and the windows, for towers that have them. */
static void list_places(int32_t *places, int32_t *windows, const sl_pack *pack) {
  const int n = pack->patch_rows * pack->patch_cols;
  for (int i = 0; i < n; i++) {
    const int patch = pack->patch ? pack->patch[i] : i;
    places[2 * i] = patch / pack->patch_cols;
    places[2 * i + 1] = patch % pack->patch_cols;
  }
  if (!pack->first_key) return;
  memcpy(windows, pack->first_key, (size_t)n * sizeof *windows);
  memcpy(windows + n, pack->last_key, (size_t)n * sizeof *windows);
}

/* Row numbers and the ids of a question, one after another. */
static sl_status upload_lists(sl_image *image, sl_session *s, const sl_pack *pack) {
  const sl_model *m = s->model;
  const int n = pack->n_view * pack->n_view_token;
  const int n_place = m->tower.shape.inv_freq.buffer ? image->n_patch : 0, n_window = pack->first_key ? n_place : 0;
  const int n_select = m->select.n_list * n, n_row = n_select + 4 * pack->n + pack->n_text;
  const int n_all = n_row + 2 * n_place + 2 * n_window;
  int32_t *host = NULL;
  SL_TRY(SL_ALLOC(host, (size_t)n_all, "image rows"));
  list_selected(host, m, pack);
  if (n_place) list_places(host + n_row, host + n_row + 2 * n_place, pack);
  int32_t *gather = host + n_select, *positions = gather + pack->n, *sources = positions + pack->n;
  int32_t *words = sources + pack->n + pack->n_text;
  int n_source = 0;
  for (int i = 0; i < pack->n; i++) {
    const int source = pack->source[i];
    gather[i] = source == SL_PACK_NEWLINE ? n : source < 0 ? 0 : source;
    if (source < SL_PACK_NEWLINE) words[i] = SL_PACK_TEXT(source);
    if (source < 0) continue;
    positions[n_source] = i;
    sources[n_source++] = source;
  }
  for (int i = 0; i < pack->n_text; i++) host[n_select + 3 * pack->n + i] = pack->text[i];
  const size_t bytes = (size_t)n_all * sizeof *host;
  const sl_status status = sl_buffer_new(&image->lists, m->backend, bytes, "image rows");
  if (status == SL_OK) sl_buffer_write(s->queue, image->lists, 0, host, bytes);
  free(host);
  image->select = (sl_ints){image->lists, 0, n_select};
  image->gather = (sl_ints){image->lists, n_select, pack->n};
  image->positions = (sl_ints){image->lists, n_select + pack->n, n_source};
  image->sources = (sl_ints){image->lists, n_select + 2 * pack->n, n_source};
  image->text = (sl_ints){image->lists, n_select + 3 * pack->n, pack->n_text};
  image->words = (sl_ints){image->lists, n_select + 3 * pack->n + pack->n_text, pack->n};
  image->places = (sl_ints){image->lists, n_row, 2 * n_place};
  image->first_key = (sl_ints){image->lists, n_row + 2 * n_place, n_window};
  image->last_key = (sl_ints){image->lists, n_row + 2 * n_place + n_window, n_window};
  return status;
}

static sl_status allocate_image(sl_image *image, sl_session *s, const sl_pack *pack, bool keep) {
  const sl_model *m = s->model;
  image->n_view = pack->n_view;
  image->n_text = pack->n_text;
  image->n_view_row = pack->n_view_row;
  image->n_view_token = pack->n_view_token;
  image->n_patch = pack->patch_rows * pack->patch_cols;
  image->kept = keep;
  if (keep && m->qformer.n_layer) SL_TRY(SL_ALLOC(image->qformer, (size_t)m->qformer.n_layer, "Q-Former layers"));
  const int64_t need = lay_out(image, m, pack, NULL, keep);
  SL_TRY(sl_buffer_new(&image->buffer, m->backend, (size_t)need * sizeof(float), "image rows"));
  lay_out(image, m, pack, image->buffer, keep);
  SL_TRY(upload_lists(image, s, pack));
  if (!keep) return SL_OK;
  const int n_row = image->n_view * image->n_view_row;
  return sl_keep_reserve(&image->keep, m->backend, &m->tower.shape, m->tower.n_layer, n_row,
                         sl_keep_choose(&m->tower.shape, m->tower.n_layer, n_row, s->keep_limit_bytes));
}

static sl_status reserve(sl_session *s, const sl_probe *probe, const sl_image *image) {
  const sl_model *m = s->model;
  const sl_connect *connect = sl_connect_of(m);
  const int n_row = image->n_view_row, n_pattern = probe ? probe->pattern_rows.count : 0;
  const int n = image->n_view * image->n_view_token;
  const int64_t tower = max_of(sl_block_forward_scratch(&m->tower.shape, n_row, n_row, n_pattern),
                               sl_block_backward_scratch(&m->tower.shape, n_row, true));
  const int64_t patches = sl_scratch_need(image->n_patch, patch_width(m)) +
                          sl_scratch_need(n_row, m->tower.shape.d_model);
  /* The way back: gradients of features and projected rows. */
  const int64_t back = sl_scratch_need(image->features.rows, m->tower.shape.d_model) +
                       2 * sl_scratch_need(n + 1, m->decoder.shape.d_model);
  const int64_t connector = connect->scratch(m, image, probe);
  SL_TRY(sl_session_reserve_scratch(s, patches + back + max_of(tower, connector)));
  const int n_most = (int)max_of(n_row, connect->rows(m, image));
  return sl_session_reserve_queue(s, n_most, n_most);
}

/* ---- forward ---- */

/* Row numbers of a view among those of all; `features`: those of the image, or their gradients. */
static sl_tower_view view_of(const sl_image *image, const sl_model *m, sl_mat features, int view) {
  const int n_row = image->n_view_row, first = view * n_row;
  sl_tower_view place = {.first_row = first, .positions = image->places, .first_key = image->first_key,
                         .last_key = image->last_key};
  for (int i = 0; i < m->tower.n_level; i++)
    place.levels[i] = sl_mat_rows(features, (i + 1) * image->n_view * n_row + first, n_row);
  return place;
}

static sl_tower_acts acts_of(const sl_image *image) { return (sl_tower_acts){image->keep.acts, image->last}; }

static sl_status encode_view(sl_image *image, sl_session *s, const sl_context *c, const sl_pack *pack,
                             const float *pixels, int view) {
  const sl_model *m = s->model;
  const int n_row = image->n_view_row, width = patch_width(m);
  const int64_t mark = s->scratch.used;
  float *host = NULL;
  SL_TRY(SL_ALLOC(host, (size_t)image->n_patch * (size_t)width, "patches"));
  cut_patches(m, pack, pixels, host);
  const sl_mat patches = sl_scratch_mat(&s->scratch, image->n_patch, width);
  for (int i = 0; i < patches.rows; i++)
    sl_buffer_write(s->queue, patches.buffer, (size_t)(patches.offset + i * patches.stride) * sizeof(float),
                    host + (size_t)i * (size_t)width, (size_t)width * sizeof(float));
  free(host);
  const sl_tower_view place = view_of(image, m, image->features, view);
  const sl_tower_acts acts = acts_of(image);
  const sl_status status = sl_tower_forward(c, &m->tower, sl_mat_rows(image->features, view * n_row, n_row), patches,
                                            &place, image->kept ? &acts : NULL, s->cancel);
  s->scratch.used = mark;
  return status;
}

/* Embeddings of the tokens of text that stand between the views, run by run. */
static void write_words(const sl_image *image, const sl_context *c, const sl_model *m, const sl_pack *pack) {
  for (int first = 0, end; first < pack->n; first = end) {
    const bool words = pack->source[first] < SL_PACK_NEWLINE;
    for (end = first + 1; end < pack->n && words == (pack->source[end] < SL_PACK_NEWLINE);) end++;
    const sl_ints ids = {image->lists, image->words.offset + first, end - first};
    if (words) sl_decoder_words(c->queue, &m->decoder, sl_mat_rows(image->rows, first, end - first), ids);
  }
}

static sl_status project(sl_image *image, sl_session *s, const sl_context *c, const sl_pack *pack) {
  const sl_model *m = s->model;
  const int n = pack->n_view * pack->n_view_token;
  SL_TRY(sl_connect_of(m)->forward(s, c, image, sl_mat_rows(image->projected, 0, n)));
  if (pack->plain) return SL_OK;
  if (m->newline.buffer) c->ops->copy(c->queue, sl_mat_rows(image->projected, n, 1), m->newline);
  c->ops->gather_rows(c->queue, image->rows, image->projected, image->gather);
  write_words(image, c, m, pack);
  return SL_OK;
}

static sl_status encode(sl_image *image, sl_session *s, const float *pixels, const sl_pack *pack, const sl_probe *probe,
                        bool keep) {
  const size_t view_size = 3 * (size_t)pack->width_px * (size_t)pack->height_px;
  SL_TRY(allocate_image(image, s, pack, keep));
  SL_TRY(reserve(s, probe, image));
  const sl_context c = sl_session_context(s, probe);
  for (int view = 0; view < pack->n_view; view++)
    SL_TRY(encode_view(image, s, &c, pack, pixels + (size_t)view * view_size, view));
  return project(image, s, &c, pack);
}

sl_status sl_image_encode(sl_image **out, sl_session *session, const float *pixels, const sl_pack *pack,
                          const sl_probe *probe, bool keep) {
  *out = NULL;
  sl_image *image = NULL;
  sl_pack square = {0};
  if (!pack && sl_model_reads_question(session->model))
    SL_FAIL(SL_ERROR_ARGUMENT, "this model's image tokens depend on the question: encoding needs the pack made for it");
  if (pack && pack->n >= session->model->shape.max_position) /* before the tower works for nothing */
    SL_FAIL(SL_ERROR_ARGUMENT, "the picture has %d image tokens; the model was made for %d positions with its text "
            "(max_position_embeddings)", pack->n, session->model->shape.max_position);
  if (!pack) SL_TRY(sl_pack_square(&square, session->model, NULL));
  if (square.n_view > 1) {
    sl_pack_dispose(&square);
    SL_FAIL(SL_ERROR_ARGUMENT, "this model sees a picture in several views: encoding it needs their pack");
  }
  sl_status status = SL_ALLOC(image, 1, "image");
  if (status == SL_OK) status = encode(image, session, pixels, pack ? pack : &square, probe, keep);
  sl_pack_dispose(&square);
  if (status != SL_OK) {
    sl_image_free(image);
    return status;
  }
  *out = image;
  return SL_OK;
}

void sl_image_free(sl_image *image) {
  if (!image) return;
  sl_keep_dispose(&image->keep);
  sl_buffer_free(image->buffer);
  sl_buffer_free(image->lists);
  free(image->qformer);
  free(image);
}

sl_status sl_image_check(const sl_image *image, const sl_layout *layout) {
  if (image->rows.rows == layout->n_image) return SL_OK;
  SL_FAIL(SL_ERROR_ARGUMENT, "the picture has %d image tokens; the prompt was laid out for %d", image->rows.rows,
          layout->n_image);
}

/* ---- backward ---- */

/* Gradient of the projected rows; rows that no position shows have none. */
static sl_mat unpack(const sl_image *image, sl_session *s, const sl_context *c, int n, sl_mat d_rows) {
  if (image->projected.offset == image->rows.offset) return d_rows;
  const sl_mat d = sl_scratch_mat(&s->scratch, n, d_rows.cols);
  const int64_t mark = s->scratch.used;
  const sl_mat moved = sl_scratch_mat(&s->scratch, image->positions.count, d_rows.cols);
  c->ops->zero(c->queue, d);
  c->ops->gather_rows(c->queue, moved, d_rows, image->positions);
  c->ops->scatter_rows(c->queue, d, moved, image->sources);
  s->scratch.used = mark;
  return d;
}

sl_status sl_image_backward(sl_session *s, const sl_image *image, sl_mat d_rows, const sl_probe *probe) {
  const sl_model *m = s->model;
  const int n_row = image->n_view_row;
  SL_TRY(reserve(s, probe, image));
  const sl_context c = sl_session_context(s, probe);
  const int64_t mark = s->scratch.used;
  const sl_mat d = sl_scratch_mat(&s->scratch, image->features.rows, image->features.cols);
  const sl_mat d_projected = unpack(image, s, &c, image->n_view * image->n_view_token, d_rows);
  sl_status status = sl_connect_of(m)->backward(s, &c, image, d, d_projected);
  const sl_tower_acts acts = acts_of(image);
  for (int view = 0; view < image->n_view && status == SL_OK; view++) {
    const sl_tower_view place = view_of(image, m, d, view);
    status = sl_tower_backward(&c, &m->tower, sl_mat_rows(d, view * n_row, n_row), &place, &acts, s->cancel);
  }
  s->scratch.used = mark;
  return status;
}
