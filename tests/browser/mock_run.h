/* A made-up run directory with plausible numbers, so that store, report and browser tests need no model. */
#ifndef SL_TESTS_MOCK_RUN_H
#define SL_TESTS_MOCK_RUN_H

#include "base/fail.h"

typedef enum mock_kind {
  MOCK_PLAIN,   /* every analysis, 12 layers, 8 heads, 12 x 12 image tokens, two answer tokens, object mask */
  MOCK_HOSTILE, /* every text that comes from outside tries to break out of the page */
  MOCK_FLOW,    /* flow only, renormalised: no CAM, no mask, no per-head pictures; left and right are cropped away */
  MOCK_CAM,     /* CAM only, and no picture */
  MOCK_NO_GRID, /* 32 image tokens without a grid or boxes */
  MOCK_VIEWS,   /* three views: the whole as 6 x 6 tokens, its halves as 6 x 12 each, a token at the end of every row */
  MOCK_COMPARE, /* a comparison of 12 runs: three classes in two looks */
  MOCK_QUERIES, /* the same tokens as learned queries: a projection onto 8 x 8 patches */
  MOCK_LARGE    /* as large as LLaVA-1.5-7B: 32 layers of 32 heads, 24 x 24 image tokens; no flow but the heads' maps, no CAM */
} mock_kind;

sl_status mock_run_write(const char *dir, mock_kind kind);

#endif
