/* What the files of `eval` share. */
#ifndef SL_TASK_EVAL_INTERNAL_H
#define SL_TASK_EVAL_INTERNAL_H

#include "metric/metric.h"
#include "sightline/eval.h"
#include "stats/resample.h"

#define SL_EVAL_BOOT 1000
#define SL_EVAL_EPS 0.01 /* one point */
#define SL_EVAL_TOLD 5   /* failing examples that are told at once; the summary has more of them */

typedef struct sl_journal sl_journal;

typedef struct sl_evaluation {
  const sl_eval_request *request;
  const sl_model *model;
  const sl_benchmark *benchmark;
  int style, rule, max_token;
  int n_layer; /* L with --cliff, else 0 */
  sl_examples examples;
  sl_rows rows;
  char *image_dir;
  char **texts;    /* [n] answers; NULL where there is none */
  json_t **layers; /* [n] array of L answers, the picture hidden from layer 0, 1, ... on; NULL without --cliff */
  char **errors;   /* [n] why there is no answer; NULL */
  int n_told;
  json_t *settings;
  sl_journal *journal; /* NULL without an out folder */
} sl_evaluation;

sl_status sl_eval_progress(const sl_evaluation *e, const char *what, double done, double total);

/* eval_data.c */
/* The set, and predictions where there are some. */
sl_status sl_eval_read(sl_evaluation *evaluation);
void sl_eval_cut(sl_evaluation *evaluation); /* to the limit */
/* Pictures that are not there are their examples' errors; that none is there is one. */
sl_status sl_eval_check_pictures(sl_evaluation *evaluation);
/* Records the thread's message as an example's error, with the line of its row; with `strict` it is the failure. */
sl_status sl_eval_refuse(sl_evaluation *evaluation, int example, sl_status status);
/* A number that changes with any question, picture name or truth. */
sl_status sl_eval_hash(const sl_evaluation *evaluation, char out[17]);

/* eval_ask.c: every example without an answer or error gets one. */
sl_status sl_eval_ask(sl_evaluation *evaluation);

/* eval_store.c */
/* Opens the out folder: a fresh journal, or with `resume` the one that is there, whose answers are taken over.
 * *finished (free()) is metrics.json when that work is done already. */
sl_status sl_journal_open(sl_evaluation *evaluation, char **finished);
sl_status sl_journal_add(sl_evaluation *evaluation, int example);
/* Writes predictions.jsonl and metrics.json and removes the journal. */
sl_status sl_journal_finish(sl_evaluation *evaluation, json_t *const *said, const json_t *summary);
void sl_journal_close(sl_journal *journal); /* NULL is fine */

/* eval_interval.c: values of examples in columns, added up by picture. */
typedef struct sl_eval_pool {
  int n, n_column; /* pictures that have values */
  double *count;   /* [n] examples of each */
  double *sum;     /* [n, n_column] */
} sl_eval_pool;
/* The picture of each example: unit [n], 0 .. n_unit - 1. */
sl_status sl_eval_units(int **unit, int *n_unit, const sl_evaluation *evaluation);
/* columns [n_column] of values [examples]; those that are NaN in the first are left out. */
sl_status sl_eval_pool_new(sl_eval_pool *pool, const sl_evaluation *evaluation, const double *const *columns, int n_column);
void sl_eval_pool_dispose(sl_eval_pool *pool);
/* Mean of column a, less that of column b (-1: none), over the pictures index [n]; and its interval. */
double sl_eval_pool_difference(const sl_eval_pool *pool, const int *index, int n, int a, int b);
sl_status sl_eval_pool_interval(sl_interval *out, const sl_eval_pool *pool, int a, int b, uint64_t seed);

/* eval_page.c: report.html beside the results. */
sl_status sl_eval_page(const sl_evaluation *evaluation, json_t *const *said, const json_t *summary);

/* eval_cliff.c: "cliff" of the summary. */
sl_status sl_eval_cliff(json_t *into, const sl_evaluation *evaluation);

/* eval_paper.c: "paper" of the summary: the published rows of this benchmark, and the summary's own numbers beside them
 * when it has a cliff. */
sl_status sl_eval_paper(json_t *summary, const sl_evaluation *evaluation);

/* Scores the answers texts [n] (NULL ones are left out, or wrong by the benchmark's rule): said [n] new references. */
sl_status sl_eval_judge(json_t **said, const sl_evaluation *evaluation, const char *const *texts);
void sl_eval_free_said(json_t **said, int n);

/* "score" of example i, higher is better; NaN without one. */
double sl_eval_value(const sl_evaluation *evaluation, const json_t *said);

#endif
