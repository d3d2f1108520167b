/* The two sides of token-level flow, as components of an attribution: which query positions after the image receive
 * what it gives, and which image positions give it. */
#ifndef SL_ANALYSIS_TOKEN_SIDE_H
#define SL_ANALYSIS_TOKEN_SIDE_H

#include "analysis/ablation.h"

typedef enum sl_text_component { SL_TEXT_POSITION, SL_TEXT_CLASS, SL_TEXT_BAND } sl_text_component;

/* What a text position is to the reader of the scores. */
typedef enum sl_text_kind {
  SL_TEXT_QUESTION,
  SL_TEXT_ROLE,
  SL_TEXT_FINAL,
  SL_TEXT_GENERATED,
  SL_TEXT_KIND_COUNT
} sl_text_kind;
extern const char *const sl_text_kinds[SL_TEXT_KIND_COUNT]; /* "question", "role", "final", "generated" */

/* Components are numbered group by group, `n_band` layer bands of each. Zero-initialise; release with
 * sl_side_dispose. */
typedef struct sl_side {
  const sl_layout *layout;
  bool image;            /* positions are image positions (keys), else queries after the image */
  int first, n_position; /* positions first .. first + n_position - 1 */
  int *group;            /* [n_position] */
  int n_group, n_band;
  int *band_layer;       /* [n_band + 1] first layer of each band, then L */
  uint8_t *kind;         /* [n_position] sl_text_kind; text side only */
  int first_query, first_image, n_image, n_layer, n_head;
  bool *heads;           /* [L, H] image side: the only heads that are ablated; NULL = all */
  int block;             /* image side: patches along a block's edge */
} sl_side;

/* Query positions after the image up to position `last`. */
sl_status sl_side_text(sl_side *out, const sl_analysis_context *context, sl_text_component component, int n_band,
                       int last);

/* Image positions, in square blocks of `block` patches (a kept class token is a block of its own). */
sl_status sl_side_image(sl_side *out, const sl_analysis_context *context, int block);

/* Ablates inside the n_top heads with the largest sign * score alone. */
sl_status sl_side_only_heads(sl_side *side, const float *score, int n_top, double sign);

static inline int sl_side_count(const sl_side *side) { return side->n_group * side->n_band; }

/* For sl_ablation: `user` is the side. */
sl_status sl_side_add_rules(const void *user, const uint8_t *mask, int source, sl_plan *plan);

void sl_side_dispose(sl_side *side);

#endif
