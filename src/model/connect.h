/* From the features of a picture's views to projected rows, and back: one row of functions for each kind of connector
 * (model/family.h). */
#ifndef SL_MODEL_CONNECT_H
#define SL_MODEL_CONNECT_H

#include "model/pack.h"
#include "model/session_internal.h"

typedef struct sl_connect {
  /* Places what the connector keeps in the image's buffer from element *at on, and moves it; with buffer NULL it only
   * counts. Features and all counts are in the image. */
  void (*lay_out)(sl_image *image, const sl_model *model, sl_buffer *buffer, int64_t *at, bool keep);
  /* Elements of scratch of either direction. */
  int64_t (*scratch)(const sl_model *model, const sl_image *image, const sl_probe *probe);
  /* Columns of its widest product, and rows of its largest. */
  int (*width)(const sl_model *model);
  int (*rows)(const sl_model *model, const sl_image *image);
  /* out [V n_view_token, D] from the image's features. */
  sl_status (*forward)(sl_session *session, const sl_context *c, sl_image *image, sl_mat out);
  /* d_features [V R, Dv] (overwritten) from d_out [V n_view_token, D]. */
  sl_status (*backward)(sl_session *session, const sl_context *c, const sl_image *image, sl_mat d_features,
                        sl_mat d_out);
} sl_connect;

const sl_connect *sl_connect_of(const sl_model *model);

#endif
