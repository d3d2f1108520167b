/* Logit lens with a chosen memory limit. */
#ifndef SL_ANALYSIS_LENS_H
#define SL_ANALYSIS_LENS_H

#include "analysis/analysis.h"

/* Runs the logit lens. Residual rows that one forward pass keeps take at most limit_bytes (at least one layer's); more
 * layers are spread over several passes, with equal results. */
sl_status sl_lens_run(sl_analysis_context *context, int64_t limit_bytes);

#endif
