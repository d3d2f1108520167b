/* Prefixes: keys and values of everything up to the last image position, run once for all questions that begin
 * alike. */
#include <stdlib.h>
#include <string.h>

#include "model/branch_internal.h"

sl_status sl_rows_allocate(const sl_model *m, int n_row, int n_resid, const char *what, sl_buffer **buffer, sl_kv **kv,
                           sl_mat **resid) {
  const int n_layer = m->decoder.n_layer, width = m->decoder.shape.d_model;
  size_t kv_elements, resid_elements, elements, bytes;
  if (!sl_size_mul((size_t)n_layer * 2, (size_t)sl_scratch_need(n_row, sl_kv_width(m)), &kv_elements) ||
      !sl_size_mul((size_t)n_resid, (size_t)sl_scratch_need(n_row, width), &resid_elements) ||
      !sl_size_add(kv_elements, resid_elements, &elements) || !sl_size_mul(elements, sizeof(float), &bytes))
    SL_FAIL(SL_ERROR_MEMORY, "%s: %d rows are too many", what, n_row);
  SL_TRY(SL_ALLOC(*kv, (size_t)n_layer, what));
  if (n_resid > 0) SL_TRY(SL_ALLOC(*resid, (size_t)n_resid, what));
  SL_TRY(sl_buffer_new(buffer, m->backend, bytes, what));
  int64_t at = 0;
  for (int il = 0; il < n_layer; il++) {
    (*kv)[il].k = sl_carve(*buffer, &at, n_row, sl_kv_width(m));
    (*kv)[il].v = sl_carve(*buffer, &at, n_row, sl_kv_width(m));
  }
  for (int i = 0; i < n_resid; i++) (*resid)[i] = sl_carve(*buffer, &at, n_row, width);
  return SL_OK;
}

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
    status = sl_rows_allocate(m, p->n_row, keep_rows ? m->decoder.n_layer : 0, "prefix", &p->buffer, &p->kv, &p->resid);
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

bool sl_prefix_keeps_rows(const sl_prefix *p) { return p->resid != NULL; }

bool sl_prefix_serves(const sl_prefix *p, const sl_layout *layout) {
  return layout->first_image == p->first_image && layout->n_image == p->n_image &&
         memcmp(layout->ids, p->ids, (size_t)p->n_row * sizeof *p->ids) == 0 &&
         sl_position_frame_same(&layout->frame, &p->frame) &&
         sl_rope_level(&p->model->config, layout->n_prompt) == p->rope_level;
}
