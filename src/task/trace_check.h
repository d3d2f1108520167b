/* What can be known about a request without a model. */
#ifndef SL_TASK_TRACE_CHECK_H
#define SL_TASK_TRACE_CHECK_H

#include "sightline/trace.h"
#include "store/run.h"
#include "task/picture.h"
#include "task/plan_file.h"

/* Checks the request; on success hands out the loaded picture and plan (empty without one), the run to go on with (else
 * NULL) and, with an out folder, the begun run (else NULL). */
sl_status sl_trace_prepare(const sl_trace_request *request, sl_picture *picture, sl_plan_file *plan,
                           sl_run_reader **earlier, sl_run **run);

#endif
