/* Benchmarks: asking a model the questions of POPE, ScienceQA, TextVQA, CHAIR or of main objects, scoring the answers by
 * the official rules, and how the score falls when the picture is hidden from a layer on. */
#ifndef SIGHTLINE_EVAL_H
#define SIGHTLINE_EVAL_H

#include <stddef.h>
#include <stdint.h>

#include "sightline/analysis.h"
#include "sightline/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What to do. Zero-initialise, set `size`, benchmark and data; strings are UTF-8 and borrowed. */
typedef struct sl_eval_request {
  size_t size;                /* sizeof(sl_eval_request) */
  const char *const *command; /* the command line as given, for metrics.json; NULL = none */
  int n_command;
  const char *benchmark;    /* "pope", "scienceqa", "textvqa", "chair", "main-object" */
  const char *data;         /* the official file or folder */
  const char *images;       /* folder of the pictures; NULL: that of the data, or its folder "images" */
  const char *split;        /* of the data; NULL = the usual one */
  const char *predictions;  /* somebody's predictions to score; then no model is used. NULL = ask the model */
  const char *prompt_style; /* NULL = the benchmark's first */
  const char *rule;         /* scoring rule; NULL = the benchmark's first */
  int limit;                /* examples; 0 = all */
  bool strict;              /* the first bad row or failing example ends the work */
  bool cliff;               /* answers with the picture hidden from every layer on, too */
  int max_token;            /* length limit of an answer; 0 = the benchmark's */
  const char *out_dir;      /* folder for predictions.jsonl and metrics.json; NULL = none */
  bool force;               /* replace earlier results there */
  bool resume;              /* go on with the interrupted work there */
  uint64_t seed;            /* of the bootstrap */
  int n_thread;             /* 0 = all processors */
  int batch_size;           /* branches at once; 0 = as many as fit. Results do not depend on it */
  sl_progress_fn progress;  /* returning false cancels */
  sl_log_fn log;
  void *user;               /* handed to progress and log */
  sl_cancel *cancel;        /* may be NULL */
} sl_eval_request;

/* The name of the i-th benchmark; NULL after the last. */
SL_API const char *sl_eval_name(int i);

/* Checks what can be known without a model: names of benchmark, prompt style and rule, what excludes what
 * (SL_ERROR_ARGUMENT), and that there is something at `data` (SL_ERROR_FILE). */
SL_API sl_status sl_eval_check(const sl_eval_request *request);

/* Reads the data, asks every question (questions of one picture share its prefix; with `cliff` a question's L + 1
 * truncations run as one batch), scores, sums up. `model` is NULL exactly when there are predictions.
 *
 * *summary is JSON text (free()), the content of metrics.json: "settings", "metrics" (over all, and "groups"),
 * "interval" of the main number (bootstrap over pictures), "cliff" (the curve, the cliff layer, its estimate), "paper" (the
 * published table, and own numbers beside it), "counts", "bad_rows", "errors".
 *
 * With an out folder every answer is written to predictions.partial.jsonl as soon as it is there; predictions.jsonl,
 * metrics.json and report.html appear when all is done. Cancelled or killed, the same request with `resume` asks what is left,
 * in a finished folder what failed; settings, data and model must be the same.
 *
 * Errors: SL_ERROR_ARGUMENT (unknown benchmark, style, rule), SL_ERROR_FILE, SL_ERROR_FORMAT (bad data; with `strict` the
 * first bad row, by line), SL_ERROR_CANCELLED. Bad rows and failing examples are otherwise recorded and left out; that
 * no question at all could be answered is SL_ERROR_ARGUMENT, with the results written. */
SL_API sl_status sl_eval(const sl_model *model, const sl_eval_request *request, char **summary);

#ifdef __cplusplus
}
#endif
#endif
