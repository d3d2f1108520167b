/* Which image tokens are kept when the rest is cut: rankings by first-truncated layer. */
#ifndef SL_ANALYSIS_CLIFF_RANK_H
#define SL_ANALYSIS_CLIFF_RANK_H

#include "analysis/analysis.h"

typedef enum sl_rank {
  SL_RANK_ATTENTION,  /* head-mean attention of the final token in layer k - 1 */
  SL_RANK_IMAGE_LAST, /* of the image's last token in layer k - 1 */
  SL_RANK_USER,       /* mean over the user tokens after the image in layer k - 1 */
  SL_RANK_FASTV,      /* as ATTENTION in the one layer before --fastv-layer, whatever k */
  SL_RANK_RANDOM,     /* a seeded order, the same for every k */
  SL_RANK_CAM,        /* LLaVA-CAM's map of layer k - 1 (of layer 0 at k = 0) */
  SL_RANK_TOKENS,     /* score of the image tokens, one for every k */
  SL_RANK_COUNT
} sl_rank;

const char *sl_rank_name(sl_rank rank);
const char *sl_rank_meaning(sl_rank rank); /* one clause */

/* Reads "attention,cam" or "all" into list; names repeated count once. */
sl_status sl_rank_parse(const char *text, sl_rank list[SL_RANK_COUNT], int *n);

/* A ranking of a sweep. Random orders are several, because one says little about chance. */
#define SL_MAX_ORDER 64
#define SL_MAX_RANKING (SL_RANK_COUNT - 1 + SL_MAX_ORDER)
typedef struct sl_ranking {
  sl_rank rank;
  int order; /* of RANDOM: 0 .. SL_MAX_ORDER - 1 */
} sl_ranking;

/* The rankings of a parsed list, n_order of them for RANDOM; returns their number. */
int sl_rank_expand(sl_ranking out[SL_MAX_RANKING], const sl_rank *list, int n, int n_order);

/* The scores rankings are made from. Zero-initialise; release with sl_rank_scores_dispose. */
typedef struct sl_rank_scores {
  const sl_analysis_context *context;
  int n_layer, n_image;
  int fastv_layer;
  float *rows[3]; /* [L, N] attention of the final token, the image's last, the user tokens; NULL when not asked for */
  float *random;  /* [SL_MAX_ORDER, N] */
} sl_rank_scores;

/* Reads what the rankings in `list` need, in at most one forward pass. Those whose analysis left nothing (cam, tokens)
 * exist at no layer. */
sl_status sl_rank_scores_init(sl_rank_scores *out, sl_analysis_context *context, const sl_ranking *list, int n,
                              int fastv_layer);
void sl_rank_scores_dispose(sl_rank_scores *scores);

/* Scores [N] of the image positions when layer k is the first truncated; NULL where that ranking does not exist. */
const float *sl_rank_scores_at(const sl_rank_scores *scores, sl_ranking ranking, int k);

/* True when the rankings cost a forward pass: of the rows, only flow's may be there already. */
bool sl_rank_needs_pass(const sl_analysis_context *context, const sl_ranking *list, int n);

/* Marks in kept[n] the n_keep largest of scores[n] where allowed[n]; equal scores in order of position, NaN last. */
sl_status sl_rank_keep(bool *kept, const float *scores, const bool *allowed, int n, int n_keep);

#endif
