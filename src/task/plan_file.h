/* A plan with what it refers to: baselines that stand in for the picture, and other runs that values come from.
 *
 *   {"attend": [..], "edits": [..],                                              as in model/plan.h
 *    "baselines": ["zero", "mean:FOLDER", "mean-all:FOLDER", "image:FILE"],      "baseline:0" is the first
 *    "runs": [{"image": FILE, "prompt": TEXT}]}                                  what is not given is as asked
 *
 * Paths are relative to the current folder, as on the command line. */
#ifndef SL_TASK_PLAN_FILE_H
#define SL_TASK_PLAN_FILE_H

#include "analysis/baseline.h"
#include "model/plan.h"

#define SL_MAX_PLAN_RUN 16

/* Zero-initialise; release with sl_plan_file_dispose. Texts belong to `json`. */
typedef struct sl_plan_file {
  json_t *json; /* NULL: there is no plan */
  sl_plan plan;
  const char *baselines[SL_MAX_BASELINE];
  int n_baseline;
  struct {
    const char *image_path, *question; /* NULL = as asked */
  } runs[SL_MAX_PLAN_RUN];
  int n_run;
} sl_plan_file;

/* Reads a file of at most 64 MiB and checks that what it refers to can exist. */
sl_status sl_plan_file_load(sl_plan_file *out, const char *path);
void sl_plan_file_dispose(sl_plan_file *file);

/* True when a plan reaches rows before `first_text`: the prefix must then keep its rows. */
bool sl_plan_reaches_prefix(const sl_plan *plan, int first_text);

/* Makes the baseline that a spec names, for the context's prompt. `where` names it in messages. */
sl_status sl_baseline_from_spec(sl_standin *out, const sl_analysis_context *context, const char *spec,
                                const char *where);
/* Looks whether it can be made: the word, and whether the paths exist. */
sl_status sl_baseline_check_spec(const char *spec, const char *where);

/* Another run's trunk: that picture (NULL: the context's) and question (NULL: the context's own prompt), with the
 * context's answer tokens after it so that its positions exist there too. With its prefix's rows. */
typedef struct sl_plan_run {
  sl_prefix *prefix;
  sl_trunk *trunk;
} sl_plan_run;
sl_status sl_plan_run_make(sl_plan_run *out, sl_analysis_context *context, const char *image_path,
                           const char *question);
void sl_plan_run_dispose(sl_plan_run *run);

#endif
