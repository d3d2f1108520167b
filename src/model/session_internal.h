/* The insides of a session and what its files share: session.c, prefix.c, trunk.c, baseline.c, branch*.c. */
#ifndef SL_MODEL_SESSION_INTERNAL_H
#define SL_MODEL_SESSION_INTERNAL_H

#include "model/branch.h"
#include "model/internal.h"
#include "model/keep.h"

/* V views of R tower rows each; K columns of a Linear projector's input. Without `kept` only `rows` is of use
 * afterwards. */
struct sl_image {
  sl_buffer *buffer, *lists;
  sl_mat rows;      /* [N, D] what stands at the image positions */
  sl_mat features;  /* [V R, Dv] tower output, class tokens included */
  sl_mat last;      /* [V R, Dv] before the tower's last norm; absent without one */
  /* What the connector keeps, by its kind. */
  sl_mat input;     /* [V n_view_token, K] what a Linear projector takes */
  sl_mat pre;       /* [V n_view_token, ...] before its activation; absent where it has none */
  sl_resampler_acts resampler;
  sl_qformer_acts *qformer; /* [layers]; NULL unless kept */
  sl_mat projected; /* [V n_view_token + 1, D], the newline last; `rows` itself where the pack moves nothing */
  sl_ints select;   /* rows of features that make input */
  sl_ints gather;   /* [N] rows of projected that make rows */
  sl_ints positions, sources; /* the same without newlines and text, for the way back:
                               * rows[positions] = projected[sources] */
  sl_ints text;     /* [n_text] ids of the question in a Q-Former */
  sl_ints words;    /* [N] ids of the tokens of text among the positions, 0 elsewhere */
  sl_ints places;   /* [n_patch, 2] row and column of every patch of a view, for towers that rotate */
  sl_ints first_key, last_key; /* [n_view_row] windows of a view; count 0 = none */
  int n_view, n_text;
  int n_view_row, n_view_token, n_patch; /* rows of the tower, rows projected and patches, of one view */
  sl_keep keep;
  bool kept;
};

struct sl_session {
  const sl_model *model;
  sl_queue *queue;
  sl_scratch scratch;
  const atomic_bool *cancel;
  int capacity;       /* rows that x and the numbers hold */
  sl_buffer *rows;    /* x [capacity, D] */
  sl_buffer *numbers; /* i32, SL_N_NUMBER x capacity, then positions [capacity, axes] */
  sl_mat x;
  int cache_capacity; /* rows that the cache holds */
  int n_cached;       /* rows in it */
  sl_buffer *cache;   /* [n_layer, 2, cache_capacity, Hkv d] */
  sl_kv *kv;
  sl_keep keep;
  size_t keep_limit_bytes;
  sl_keep_counts counts; /* what layers of that forward kept */
  int n_kept;            /* rows of the last forward with keep; 0 = none */
  sl_buffer *gradient;   /* d [n_kept, D] */
  sl_mat d;
  const sl_image *image; /* of that forward */
  int first_image;
  bool lists_keys;       /* the uploaded rows see what lists say */
  int rope_level;        /* of the last forward's prompt: steps and the backward pass go on with it, */
  sl_position_frame frame; /* and with this */
  size_t branch_limit_bytes;
};

sl_context sl_session_context(sl_session *session, const sl_probe *probe);

/* Scratch of at least `need` elements, and the products over n_row rows and the head's declared to the queue; only
 * between passes, when nothing is in use. */
sl_status sl_session_reserve_scratch(sl_session *session, int64_t need);
sl_status sl_session_reserve_queue(sl_session *session, int n_row, int n_key);

/* An error when the image has other rows than the layout has image positions. */
sl_status sl_image_check(const sl_image *image, const sl_layout *layout);

/* From the gradient of the image rows through projector and tower; the image was encoded with keep. */
sl_status sl_image_backward(sl_session *session, const sl_image *image, sl_mat d_rows, const sl_probe *probe);

/* An error when the model was made for fewer positions. */
sl_status sl_session_check_length(const sl_session *session, int n_token);

/* Room for n_token rows of the residual stream x and of the numbers; their content is lost. */
sl_status sl_session_reserve_rows(sl_session *session, int n_token);

/* Scratch of a decoder pass over n_row rows against n_key keys beside `own` elements of the caller's, and the
 * queue's. */
sl_status sl_session_reserve_decoder(sl_session *session, int n_row, int n_key, const sl_probe *probe, bool keep,
                                     int64_t own);

/* Final norm and head over residual rows x, first_row of the sequence: logits [rows, V] to the host, where `out` may be
 * NULL. sl_session_reserve_decoder makes room for SL_HEAD_ROWS at a time. */
#define SL_HEAD_ROWS 32
void sl_session_head(sl_session *session, const sl_context *c, sl_mat x, int first_row, float *out);

/* Token ids and image rows of the layout's first n_row rows into the number buffer, parts 0 and 1 of it, and their
 * positions; for images that see themselves also the first key of each row (2), that in local layers (3), and the last
 * (4). */
#define SL_N_NUMBER 5
sl_status sl_session_upload(sl_session *session, const sl_layout *layout, int n_row);
sl_ints sl_session_numbers(const sl_session *session, int part, int count);

/* Positions of n_row rows, as sl_block_forward takes them, and another content: that of rows first .. of a frame. */
sl_ints sl_session_positions(const sl_session *session, int n_row);
sl_status sl_session_place(sl_session *session, const sl_position_frame *frame, int first, int n_row);

/* What the n_row uploaded rows see, where their model's images see themselves whole. */
void sl_session_see_image(const sl_session *session, sl_context *c, int n_row);

#endif
