/* What stands in for the picture where a component is ablated, from the options --baseline and --calibration.
 *
 *   mean        per layer, key/value head and image position, the mean over calibration pictures
 *   mean-all    that, averaged over positions too
 *   zero        keys and values 0 (a score of 0 still takes its share of the softmax)
 *   block       image keys hidden from the query
 *   image:FILE  another picture's keys and values */
#ifndef SL_ANALYSIS_BASELINE_H
#define SL_ANALYSIS_BASELINE_H

#include "analysis/shared.h"

typedef enum sl_baseline_kind {
  SL_BASELINE_MEAN,
  SL_BASELINE_MEAN_ALL,
  SL_BASELINE_ZERO,
  SL_BASELINE_BLOCK,
  SL_BASELINE_IMAGE
} sl_baseline_kind;

/* Zero-initialise; release with sl_standin_dispose. */
typedef struct sl_standin {
  sl_baseline_kind kind;
  sl_baseline *baseline; /* NULL for block */
  bool borrowed;         /* the baseline is the run's (shared.h) */
  const char *path;      /* folder or file, borrowed from the options; NULL without */
  int n_picture, n_bad;  /* calibration pictures used, and left out */
} sl_standin;

#define SL_BASELINE_OPTIONS                                                                                            \
  {.name = "baseline",                                                                                                 \
   .type = SL_OPTION_TEXT,                                                                                             \
   .argument = "NAME",                                                                                                 \
   .help = "What an ablated component sees at the image's positions: mean (keys and values averaged over the "         \
           "--calibration pictures, position by position), mean-all (over positions too), zero, block (the image is "  \
           "hidden from it) or image:FILE (another picture's). Default: mean with --calibration, else block."},        \
      {.name = "calibration",                                                                                          \
       .type = SL_OPTION_TEXT,                                                                                         \
       .argument = "FOLDER",                                                                                           \
       .help = "Pictures for the mean baselines: every PNG, JPEG and WebP file of FOLDER, seen with the same prompt."}

/* Checks the two options without any work beyond looking whether the paths exist. */
sl_status sl_standin_check(const sl_analysis_context *context);

/* Makes what the options ask for. Pictures of the folder that cannot be read are named in a warning and left out. */
sl_status sl_standin_make(sl_standin *out, sl_analysis_context *context);

/* The same, or what an earlier analysis of the run made for the same options: borrowed until an analysis makes
 * another. */
sl_status sl_standin_share(sl_standin *out, sl_analysis_context *context);

void sl_standin_dispose(sl_standin *standin);

sl_status sl_standin_to_json(json_t **out, const sl_standin *standin);

/* Calibration pictures there are (0 without), for estimates. */
int sl_standin_pictures(const sl_analysis_context *context);

#endif
