/* Going on with an interrupted run: only one of the same model, picture, prompt, answer, seed and options can be. */
#ifndef SL_TASK_RESUME_H
#define SL_TASK_RESUME_H

#include "sightline/trace.h"
#include "store/run.h"
#include "task/picture.h"

/* Opens the request's out folder and checks what is known without a model. Close with sl_run_close. */
sl_status sl_resume_open(sl_run_reader **out, const sl_trace_request *request, const sl_picture *picture);

/* Checks the rest, once run.json of the new run tells model, tokens and options: `root`. */
sl_status sl_resume_check_run(const sl_run_reader *earlier, json_t *root);

/* For a new run that was interrupted: what the earlier one holds and the new one has not reached again is taken over,
 * analysis by analysis, so that the new folder can take the place of the old one. `root`: the new run.json. */
sl_status sl_resume_take_over(const sl_run_reader *earlier, sl_run *run, json_t *root);

#endif
