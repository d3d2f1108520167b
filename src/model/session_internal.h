/* The insides of a session and what its files share: session.c, prefix.c, branch*.c. */
#ifndef SL_MODEL_SESSION_INTERNAL_H
#define SL_MODEL_SESSION_INTERNAL_H

#include "model/branch.h"
#include "model/internal.h"
#include "model/keep.h"

struct sl_image {
  sl_buffer *buffer;
  sl_mat rows;     /* [N, D] projected */
  sl_mat features; /* [n_patch + 1, Dv] tower output, class token included; present when kept */
  sl_mat pre;      /* [N, D] projector before its activation; likewise */
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
  sl_buffer *numbers; /* i32: ids, positions, image rows: 3 x capacity */
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
  size_t branch_limit_bytes;
};

sl_context sl_session_context(sl_session *session, const sl_probe *probe);

/* An error when the model was made for fewer positions. */
sl_status sl_session_check_length(const sl_session *session, int n_token);

/* Room for n_token rows of the residual stream x and of the numbers; their content is lost. */
sl_status sl_session_reserve_rows(sl_session *session, int n_token);

/* Scratch of a decoder pass over n_row rows against n_key keys beside `own` elements of the caller's, and the queue's. */
sl_status sl_session_reserve_decoder(sl_session *session, int n_row, int n_key, const sl_probe *probe, bool keep,
                                     int64_t own);

/* Token ids, positions and image rows of the layout's first n_row rows into the number buffer; part 0, 1 and 2 of it. */
sl_status sl_session_upload(sl_session *session, const sl_layout *layout, int n_row);
sl_ints sl_session_numbers(const sl_session *session, int part, int count);

#endif
