/* Tracing one picture and one question: answer, recorded activations, analyses, run directory, report. */
#ifndef SIGHTLINE_TRACE_H
#define SIGHTLINE_TRACE_H

#include "sightline/analysis.h"
#include "sightline/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What to do. Zero-initialise, set `size`, image_path and question; strings are UTF-8 and borrowed. */
typedef struct sl_trace_request {
  size_t size;              /* sizeof(sl_trace_request) */
  const char *const *command; /* the command line as given, for run.json; NULL = none */
  int n_command;
  const char *image_path;   /* PNG, JPEG, WebP or PPM */
  const char *mask_path;    /* object mask of the picture's size, non-zero = object; or NULL */
  double object_threshold;  /* share of a patch's area that must be masked for its token to be object; 0 = 0.5 */
  const char *question;
  bool raw_prompt;          /* `question` is the whole prompt and holds the image placeholder once */
  const char *answer;       /* forced answer; NULL = greedy */
  int max_token;            /* length limit of the greedy answer; 0 = 64 */
  const char *out_dir;      /* run directory to make; NULL = none */
  bool force;               /* replace an existing run directory */
  bool no_report;           /* leave out report.html */
  uint64_t seed;
  int n_thread;             /* 0 = all processors */
  const char *const *analyses; /* names */
  int n_analysis;
  const sl_option_value *options;
  int n_option;
  const char *record;       /* sites to store ("blocks.*.hook_resid_post@-1"), or NULL; needs out_dir */
  bool logits;              /* store the logits of every position; needs out_dir */
  sl_progress_fn progress;  /* returning false cancels */
  sl_log_fn log;
  void *user;               /* handed to progress and log */
  sl_cancel *cancel;        /* may be NULL */
  const char *plan_path;    /* intervention plan (JSON file), or NULL: the answer under it is told as well */
  int batch_size;           /* branches run at once; 0 = as many as a limit allows. Results do not depend on it */
  double budget_s;          /* seconds that the analyses may take: those that sample draw less; 0 = no limit */
  bool resume;              /* go on with the run in out_dir, which must be of the same model, picture, prompt, answer,
                             * seed and options (but for those that may change: sl_option_info); it is replaced when
                             * the work is done */
} sl_trace_request;

/* Checks everything that can be known without a model: names and options of analyses, UTF-8 and lengths of the texts,
 * that picture and mask can be read and have one size, that the out folder can be made, that the plan is one, that the
 * run to resume is of the same picture, prompt, seed and options. Nothing is written. Errors: SL_ERROR_ARGUMENT,
 * SL_ERROR_FILE, SL_ERROR_FORMAT (picture, plan). */
SL_API sl_status sl_trace_check(const sl_trace_request *request);

/* Runs the request (after sl_trace_check) on the calling thread, with the analyses that the asked ones need first.
 * *summary is JSON text (free()): the answer, what each
 * analysis says in numbers and short arrays, timings, warnings, and where the files are.
 * When cancelled it returns SL_ERROR_CANCELLED; what was complete until then is kept: with an out folder and an answer
 * the run directory is written with the finished analyses and a warning, and *summary is set as well (otherwise NULL).
 * A report that cannot be built is an error too, but leaves the run directory; any other failure leaves nothing behind. */
SL_API sl_status sl_trace_run(const sl_model *model, const sl_trace_request *request, char **summary);

#ifdef __cplusplus
}
#endif
#endif
