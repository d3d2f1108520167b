/* Running a model: one session holds a queue, scratch memory and a key/value cache, and belongs to one thread. Several
 * sessions can share a model.
 *
 * Rows are positions of the layout (0-based). Logits row t predicts token t + 1: the row that predicts answer token a
 * is n_prompt + a - 1. */
#ifndef SL_MODEL_SESSION_H
#define SL_MODEL_SESSION_H

#include <stdatomic.h>

#include "model/layout.h"

typedef struct sl_session sl_session;
typedef struct sl_image sl_image; /* projected image rows [N, D] on the device, immutable */

sl_status sl_session_new(sl_session **out, const sl_model *model, int n_thread);
void sl_session_free(sl_session *session);
sl_queue *sl_session_queue(sl_session *session);
/* Checked once per layer; when it becomes true the work stops with SL_ERROR_CANCELLED. May be NULL. */
void sl_session_set_cancel(sl_session *session, const atomic_bool *cancel);

/* Runs tower and projector on pixels [V, 3, height, width] (preprocessed), the views of `pack`; NULL: one view, that of
 * a square picture. probe may be NULL; it sees the tower once a view, first_row being the view's first row among those
 * of all. With `keep` the activations stay in the image for a backward pass through the tower. */
sl_status sl_image_encode(sl_image **out, sl_session *session, const float *pixels, const sl_pack *pack,
                          const sl_probe *probe, bool keep);
void sl_image_free(sl_image *image);

/* Runs all rows of `layout` through the decoder from row 0 and fills the cache (not with `keep`). Final norm and head
 * run only for `rows` (n_row of them, ascending); logits [n_row, n_vocab] f32 to the caller's memory (may be NULL with
 * n_row 0). probe may be NULL. With `keep` what a backward pass needs is kept (or recomputed there when it would not
 * fit: see sl_session_set_keep_limit). image may be NULL when the layout has none. */
sl_status sl_session_forward(sl_session *session, const sl_layout *layout, const sl_image *image, const int *rows,
                             int n_row, float *logits, const sl_probe *probe, bool keep);

/* Bytes that kept activations may take (default SL_KEEP_LIMIT). What does not fit is recomputed going back. */
#define SL_KEEP_LIMIT ((size_t)49 << 25)
void sl_session_set_keep_limit(sl_session *session, size_t n_bytes);
/* What a forward with keep will take for a sequence of n_token rows under the limit. */
size_t sl_session_keep_bytes(const sl_session *session, int n_token);

/* Continues the cache after a sl_session_forward without keep: appends `ids` (teacher forcing or the last greedy token)
 * and gives the logits [n_vocab] of the last appended row. The probe sees every site except scores and patterns: a
 * probe that has pattern rows is an error. A failed step leaves the cache as it was. */
sl_status sl_session_step(sl_session *session, const int32_t *ids, int n_id, float *logits, const sl_probe *probe);

/* Greedy answer: forward over the prompt, then up to max_token tokens, stopping before eos (which is not part of the
 * answer). Appends the answer to the layout (class generated), which also ends where the model's positions do. `prob`
 * and `logit` [max_token] of the chosen tokens may be NULL. */
sl_status sl_session_greedy(sl_session *session, sl_layout *layout, const sl_image *image, int max_token, float *prob,
                            float *logit);

/* Backward from a gradient on logits: d_logits [n_row, n_vocab] for `rows` of the last forward with keep, down to the
 * decoder's input; with `into_tower` (image encoded with keep) on through projector and tower. Every differentiable
 * site the probe wants is shown with value and gradient, from the top layer to the bottom. Can be called again with
 * other gradients over the same kept activations. */
sl_status sl_session_backward(sl_session *session, const int *rows, int n_row, const float *d_logits,
                              const sl_probe *probe, bool into_tower);

/* Final norm and head over any residual rows [n, D], wherever they were taken (the logit lens): logits [n, V] to the
 * caller's memory. Not to be called while a pass runs. */
sl_status sl_session_lens(sl_session *session, sl_mat resid, float *logits);

#endif
