/* What can be known about a request without a model. */
#ifndef SL_TASK_TRACE_CHECK_H
#define SL_TASK_TRACE_CHECK_H

#include "sightline/trace.h"
#include "store/run.h"
#include "task/picture.h"

/* Checks the request; on success hands out the loaded picture and, with an out folder, the begun run (else NULL). */
sl_status sl_trace_prepare(const sl_trace_request *request, sl_picture *picture, sl_run **run);

#endif
