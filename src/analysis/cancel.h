/* The cancel flag as the rooms below want it. */
#ifndef SL_ANALYSIS_CANCEL_H
#define SL_ANALYSIS_CANCEL_H

#include <stdatomic.h>

#include "sightline/analysis.h"

struct sl_cancel {
  atomic_bool requested; /* lock-free wherever sightline builds, hence safe in a signal handler */
};

#endif
