/* Two cheap rivals of a head's score, from one forward and one backward pass: its attention on the image, and
 * attribution patching. */
#ifndef SL_ANALYSIS_HEAD_PATCH_H
#define SL_ANALYSIS_HEAD_PATCH_H

#include "analysis/measure.h"
#include "analysis/shared.h"

/* attention [L, H]: mean over the queries after the image, up to the last measured row, of the head's attention on
 * the image. patching [L, H]: first-order estimate of t(all) - t(all but the head) under the baseline (NULL: image
 * hidden). */
sl_status sl_head_patch_run(float *attention, float *patching, sl_analysis_context *context, const sl_measure *measure,
                            const sl_baseline *baseline);

#endif
