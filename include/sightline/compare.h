/* Comparing the head attributions of many runs: do pictures of one kind use the same heads? */
#ifndef SIGHTLINE_COMPARE_H
#define SIGHTLINE_COMPARE_H

#include <stddef.h>
#include <stdint.h>

#include "sightline/analysis.h"
#include "sightline/model.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SL_COMPARE_MAX_RUN 1000

/* What to do. Zero-initialise, set `size` and runs; strings are UTF-8 and borrowed. */
typedef struct sl_compare_request {
  size_t size;                /* sizeof(sl_compare_request) */
  const char *const *command; /* the command line as given, for run.json; NULL = none */
  int n_command;
  const char *const *runs;    /* run directories with heads.score, 2 to SL_COMPARE_MAX_RUN */
  int n_run;
  const char *const *classes;     /* [n_run] what the picture shows ("cat"); NULL, or NULL entries: unknown */
  const char *const *appearances; /* [n_run] how it shows it ("photo", "drawing"); likewise */
  const char *labels_path;    /* JSON lines {"run": NAME, "class": TEXT, "appearance": TEXT}: NAME is a run directory as
                               * given, or its last part; what the arrays above say goes first. NULL = none */
  int n_top;                  /* heads in the top-n share; 0 = a twentieth of all, at least 5 */
  const char *out_dir;        /* run directory to make; NULL = none */
  bool force;                 /* replace an existing run directory */
  bool no_report;             /* leave out report.html */
  uint64_t seed;              /* of permutations and bootstrap */
  sl_progress_fn progress;    /* returning false cancels */
  sl_log_fn log;
  void *user;                 /* handed to progress and log */
  sl_cancel *cancel;          /* may be NULL */
} sl_compare_request;

/* Compares the runs' head scores b pairwise (cosine, Spearman's rho, share of common top-n heads) and tests, for each
 * of the three:
 *   class       mean over pairs of one class - mean over pairs of two; labels permuted over runs
 *   appearance  inside classes: pairs of one appearance - pairs of two; labels permuted inside classes
 *   semantics   pairs of one class and two appearances - pairs of two classes and one appearance; class labels
 *               permuted inside appearances: an interval above 0 says that what is shown matters more than how
 * with intervals by bootstrap over runs. p compares the value with the permutations' mean (null_mean), which is not 0
 * where the groups differ themselves: whether labels matter is read off p, which effect is larger off the interval. Runs
 * with one seed share their masks, and with them part of their noise: a warning says so. The ceiling is the likeness of
 * scores fitted to either half of one run's masks; where all runs have image.feature, partial correlations over pairs
 * tell class and visual likeness apart.
 *
 * *summary is JSON text (free()); with an out folder a run directory is made: run.json (analyses.compare),
 * tensors.safetensors (compare.*), report.html. Runs must be of one model (content hash) and hold heads.score of one
 * shape, target, contrast, baseline, keep probability, solver and --whole-answer; the message names the two runs that
 * differ. Cancelled, it leaves nothing. Errors: SL_ERROR_ARGUMENT (runs that cannot be compared), SL_ERROR_FILE, SL_ERROR_FORMAT (a damaged run). */
SL_API sl_status sl_compare(const sl_compare_request *request, char **summary);

#ifdef __cplusplus
}
#endif
#endif
