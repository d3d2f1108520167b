/* Studies: what `trace` does to one picture, for every line of a data set, into one SQLite database that can be
 * interrupted at any moment and gone on with. docs/studies.md has the plan file's keys and the database's tables. */
#ifndef SIGHTLINE_STUDY_H
#define SIGHTLINE_STUDY_H

#include <stddef.h>
#include <stdint.h>

#include "sightline/analysis.h"
#include "sightline/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How far a study is. */
typedef struct sl_study_state {
  int64_t done, total; /* examples of this shard: complete (failed ones too), and all */
  int64_t failed;      /* of them, so far */
  double rate;         /* examples per second of this call; 0 before the first */
  double left_s;       /* at that rate; 0 before the first */
} sl_study_state;

/* What to do. Zero-initialise, set `size` and out_dir; strings are UTF-8 and borrowed. */
typedef struct sl_study_request {
  size_t size;                     /* sizeof(sl_study_request) */
  const char *plan_path;           /* plan file; NULL with `resume`: the plan of the study in out_dir */
  const char *out_dir;             /* the study's folder */
  const sl_option_value *settings; /* values for keys of the plan, as text, in place of the file's: "seed" = "3",
                                    * "analyses" = "flow,cam", "tensors" = "none", "all" or globs with commas */
  int n_setting;
  const sl_option_value *options; /* of analyses, likewise */
  int n_option;
  const char *default_model; /* folder when neither plan nor settings name a model; may be NULL */
  bool resume;               /* go on with the study in out_dir if there is one */
  bool retry_failed;         /* with resume: what failed is done again */
  bool strict;               /* stop at the first example that cannot be done, instead of recording its error */
  int shard, n_shard;        /* examples shard, shard + n_shard, ... alone; n_shard 0 = all */
  bool (*tell)(void *user, const sl_study_state *state); /* after every example; false stops. May be NULL */
  sl_progress_fn progress;   /* of reading the model; may be NULL */
  sl_log_fn log;             /* notices, one line each; may be NULL */
  void *user;
  sl_cancel *cancel; /* may be NULL */
} sl_study_request;

/* Runs the study, or what is left of it, on the calling thread. Everything that plan, data and command line show to be
 * wrong is told before weights are read. Each example is one transaction: a call that is killed loses the example in
 * flight and nothing else, and a call with `resume` ends with the same results as one that was never interrupted.
 * A study begun with another plan, model, data, version or processor path is refused, naming what differs.
 * *summary is JSON text (free()): "out", "examples", "done", "failed", "correct", "scored", "split" (examples
 * whose masks several processes measured), "seconds"; also when cancelled. A folder's name that is not UTF-8 has U+FFFD
 * in it.
 * Under mpirun MPI is started here, unless the caller has, and ended with the study: a second call in one process is then
 * refused (SL_ERROR_UNSUPPORTED), and in processes that compute, `cancel` is requested where their work has become idle.
 * Errors of one example are recorded (with `strict` they end the call); when every example failed, the call fails with
 * SL_ERROR_ARGUMENT and the first reason, and *summary is there too. SL_ERROR_FILE of the study's own folder (a full
 * disk) ends it; SL_ERROR_CANCELLED. */
SL_API sl_status sl_study_run(const sl_study_request *request, char **summary);

typedef struct sl_study_merge_request {
  size_t size;
  const char *out_dir;     /* study to make; must not exist */
  const char *const *dirs; /* [n_dir] studies of one plan, model and data: shards, or parts that were interrupted */
  int n_dir;
  sl_progress_fn progress;
  sl_log_fn log;
  void *user;
  sl_cancel *cancel;
} sl_study_merge_request;

/* Puts shards together. Plans, model, data, pictures and versions must agree and no example may be there twice. What
 * appears in out_dir meanwhile is not replaced. Missing examples are named in *summary ("missing": first ranges as text;
 * "n_missing") and through `log`; the merged study can be gone on with, which does them. Errors: SL_ERROR_ARGUMENT
 * (studies that do not belong together), SL_ERROR_FILE, SL_ERROR_FORMAT (no study, or a damaged one). */
SL_API sl_status sl_study_merge(const sl_study_merge_request *request, char **summary);

typedef struct sl_study_report_request {
  size_t size;
  const char *dir;      /* study; may be under way, and one that can only be read */
  const char *out_path; /* HTML file; NULL = report.html in the study's folder */
  const char *label;    /* curves are split by this label alone; NULL = by the first few that have few values */
  uint64_t seed;        /* of bootstrap and permutations */
  sl_progress_fn progress;
  void *user;
  sl_cancel *cancel;
} sl_study_report_request;

/* Writes one self-contained page over a study: accuracy by label, mean curves of attention and CAM with intervals, cliff
 * curves with the cliff layer and its bootstrap interval, the mean map of head scores and how alike the examples are in
 * theirs, failures, settings and hashes. Its size does not grow with the number of examples. *summary is JSON text
 * (free()): the numbers of the page, and "report", the file. Errors: SL_ERROR_ARGUMENT (no such label), SL_ERROR_FILE,
 * SL_ERROR_FORMAT (no study). */
SL_API sl_status sl_study_report(const sl_study_report_request *request, char **summary);

#ifdef __cplusplus
}
#endif
#endif
