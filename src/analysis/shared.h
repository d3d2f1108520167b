/* What the analyses of one run share: the prefix and trunk that interventions branch from, made at first use, and rows
 * that one analysis leaves for another. */
#ifndef SL_ANALYSIS_SHARED_H
#define SL_ANALYSIS_SHARED_H

#include "analysis/analysis.h"
#include "model/branch.h"

/* Zero-initialise; the runner owns it and releases it with sl_shared_dispose. */
typedef struct sl_shared {
  sl_prefix *prefix;
  sl_trunk *trunk;
  float *flow_row;  /* [L, N] head-mean attention of the first query row, left by flow; NULL before */
  float *cam_row;   /* [L, N] first map of cam (ReLU'd; 0 where undefined); NULL before */
  float *token_row; /* [N] score of every image position, left by tokens; NULL before */
  float *head_score; /* [L, H] left by heads; NULL before */
  int attention_cliff, cam_cliff; /* as flow and cam told them, -1 = none; valid with flow_row and cam_row */
  /* The last stand-in for the image that was made (baseline.c), for the next analysis with the same options. */
  sl_baseline *baseline;
  char *baseline_key;
  int baseline_pictures, baseline_bad;
} sl_shared;
void sl_shared_dispose(sl_shared *shared);

/* The trunk over prompt and answer. With keep_rows its prefix can be edited (branch.h); a prefix made without is made
 * anew. Borrowed until the next call. */
sl_status sl_context_trunk(sl_analysis_context *context, bool keep_rows, const sl_trunk **out);

/* How many tokens that a family writes around a picture ("<img>", "</img>") stand right before and right behind it. */
typedef struct sl_frame {
  int n_before, n_after; /* 0 or 1 */
} sl_frame;
sl_frame sl_layout_frame(const sl_layout *layout);

/* Those serve the picture and, behind it, have read it: from whom the picture's own keys are hidden, they are hidden
 * too. Adds that to the plan for the layers, heads and queries of its last rule; nothing where there are none. Where
 * another picture's keys stand in, it is not needed: the mark before has seen no picture, and the one behind is
 * computed again under the plan. */
sl_status sl_plan_hide_frame(sl_plan *plan, const sl_layout *layout);

/* First position after the image. */
static inline int sl_context_first_text(const sl_analysis_context *context) {
  return context->layout->first_image + context->layout->n_image;
}

/* A picture file made ready as the model's folder says, and its tower run: calibration pictures, baselines. `question`
 * is for models whose image tokens depend on it. `pack` (dispose) may be NULL. */
sl_status sl_context_encode_file(sl_analysis_context *context, const char *path, const char *question, sl_pack *pack,
                                 sl_image **out);

#endif
