/* One run on its way, for the files trace*.c. */
#ifndef SL_TASK_TRACE_INTERNAL_H
#define SL_TASK_TRACE_INTERNAL_H

#include "analysis/shared.h"
#include "model/record.h"
#include "task/plan_file.h"
#include "task/run_json.h"

typedef struct sl_trace {
  const sl_model *model;
  const sl_trace_request *request;
  sl_cancel *cancel, *own_cancel;
  sl_session *session;
  sl_picture picture;
  sl_image *image;
  sl_layout layout;
  sl_answer answer;
  int max_token;
  bool answered; /* the answer is whole and run.json tells it */
  bool *object;
  sl_shared shared;
  sl_plan_file plan;      /* empty when none is given */
  sl_run_reader *earlier; /* the run that is resumed, or NULL */
  int *analyses_at;       /* [n_analysis] indices into sl_analyses, in the order of running */
  int n_analysis;
  sl_record *record;                     /* NULL when no sites are asked for */
  sl_run *run;                           /* NULL without an out folder */
  json_t *root;                          /* run.json */
  json_t *warnings, *analyses, *timings; /* borrowed from root */
  sl_mask_block *share;                  /* masks of heads between processes, or NULL */
  double started_ms;
} sl_trace;

double sl_now_ms(void);

/* Adds to a timing, so that a stage that runs twice counts whole. */
sl_status sl_trace_note_time(sl_trace *trace, const char *stage, double since_ms);

/* False once the run is to stop. */
bool sl_trace_progress(sl_trace *trace, const char *what, double done, double total);
sl_status sl_trace_check_cancel(const sl_trace *trace);

/* The stages of a run without a folder and a report: *out holds what run.json and tensors.safetensors would (sl_run_json,
 * sl_run_tensors); sl_run_free. Nothing is kept of a run that fails or is cancelled. `share`: analysis.h, or NULL. */
sl_status sl_trace_collect(const sl_model *model, const sl_trace_request *request, sl_mask_block *share, sl_run **out);

/* trace_analyses.c: what an analysis works with; which analyses run and in what order, with run.json's options; running
 * them. */
sl_analysis_context sl_trace_context(sl_trace *trace, const sl_analysis_info *info, json_t *said);
sl_status sl_trace_choose_analyses(sl_trace *trace);
sl_status sl_trace_run_analyses(sl_trace *trace);

/* trace_plan.c: the answer under the plan beside the plain one, as `plan` and `plan_answer` of run.json. */
sl_status sl_trace_check_plan(sl_trace *trace);
sl_status sl_trace_apply_plan(sl_trace *trace);

#endif
