/* Attention of chosen query rows, handed out one row of one head at a time: no matrix over all rows exists. */
#ifndef SL_ANALYSIS_ATTENTION_ROWS_H
#define SL_ANALYSIS_ATTENTION_ROWS_H

#include "analysis/analysis.h"

/* Bytes of attention that one pass may emit, unless the caller knows better. */
#define SL_ATTENTION_BYTES ((int64_t)80 << 20)

typedef struct sl_attention_rows {
  const int *rows; /* [n_row] query positions, ascending */
  int n_row;
  int64_t limit_bytes; /* rows beyond it take further passes; one row always fits */
  double progress;     /* share of the analysis' whole work that this is; 0 = nothing is told */
  /* Called for every layer and head of every row: `row` is an index into rows; attention [n_key] over all positions. */
  void (*take)(void *user, int layer, int head, int row, const float *attention, int n_key);
  void *user;
} sl_attention_rows;

/* Forward passes over prompt and answer. */
sl_status sl_context_attention(sl_analysis_context *context, const sl_attention_rows *request);

#endif
