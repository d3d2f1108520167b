/* What the files of `eval` share. */
#ifndef SL_TASK_EVAL_INTERNAL_H
#define SL_TASK_EVAL_INTERNAL_H

#include "metric/metric.h"
#include "sightline/eval.h"

#define SL_EVAL_BOOT 1000
#define SL_EVAL_EPS 0.01 /* one point */

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
  json_t *settings;
  sl_journal *journal; /* NULL without an out folder */
} sl_evaluation;

sl_status sl_eval_progress(const sl_evaluation *e, const char *what, double done, double total);

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

/* eval_cliff.c: "cliff" of the summary. */
sl_status sl_eval_cliff(json_t *into, const sl_evaluation *evaluation);

/* eval_paper.c: the published row of this benchmark, new reference; NULL when there is none. */
json_t *sl_eval_paper(const char *benchmark);

/* Scores the answers texts [n] (NULL ones are left out, or wrong by the benchmark's rule): said [n] new references. */
sl_status sl_eval_judge(json_t **said, const sl_evaluation *evaluation, const char *const *texts);
void sl_eval_free_said(json_t **said, int n);

/* "score" of example i, higher is better; NaN without one. */
double sl_eval_value(const sl_evaluation *evaluation, const json_t *said);

#endif
