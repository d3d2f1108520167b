/* All of sightline's public interface. */
#ifndef SIGHTLINE_SIGHTLINE_H
#define SIGHTLINE_SIGHTLINE_H

#include "sightline/analysis.h"
#include "sightline/branch.h"
#include "sightline/compare.h"
#include "sightline/convert.h"
#include "sightline/eval.h"
#include "sightline/model.h"
#include "sightline/report.h"
#include "sightline/status.h"
#include "sightline/study.h"
#include "sightline/trace.h"
#include "sightline/verify.h"

/* Version of these headers. */
#define SL_VERSION "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif

/* Version of the library that runs. Never NULL. */
SL_API const char *sl_version(void);

#ifdef __cplusplus
}
#endif
#endif
