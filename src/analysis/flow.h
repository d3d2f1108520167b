/* Attention flow with a chosen memory limit. */
#ifndef SL_ANALYSIS_FLOW_H
#define SL_ANALYSIS_FLOW_H

#include "analysis/analysis.h"

/* Runs flow. The patterns that one forward pass emits take at most pattern_bytes (at least one row); more query rows
 * are spread over several passes, with equal results. */
sl_status sl_flow_run(sl_analysis_context *context, int64_t pattern_bytes);

#endif
