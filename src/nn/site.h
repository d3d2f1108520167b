/* Sites: the named places of a model at which values can be seen. One row per site gives its TransformerLens name, the
 * Hugging Face modules it is the output of, its symbolic shape, and whether a gradient can be asked for. A site's
 * meaning does not depend on backend, mode or family.
 *
 * Full names: decoder sites stand alone ("blocks.3.attn.hook_q"); the vision tower's start with "vision.", the
 * projector's with "projector.". */
#ifndef SL_NN_SITE_H
#define SL_NN_SITE_H

#include "backend/backend.h"

typedef enum sl_part { SL_PART_VISION, SL_PART_PROJECTOR, SL_PART_DECODER, SL_PART_COUNT } sl_part;

typedef enum sl_site {
  SL_SITE_EMBED,          /* residual stream's input */
  SL_SITE_LN_PRE,         /* CLIP's norm before block 0 */
  SL_SITE_RESID_PRE,
  SL_SITE_LN1,            /* norm before attention, weight and bias applied */
  SL_SITE_Q,              /* the projection's output: before any norm of heads and rotary embedding */
  SL_SITE_K,
  SL_SITE_V,
  SL_SITE_ROT_Q,          /* after rotary embedding, as the scores use it; absent without one */
  SL_SITE_ROT_K,
  SL_SITE_ATTN_SCORES,    /* scaled; -inf where hidden */
  SL_SITE_PATTERN,        /* softmax of the scores */
  SL_SITE_CROSS_PATTERN,  /* of the Q-Former's queries over the tower's features */
  SL_SITE_RESAMPLER_PATTERN, /* of a resampler's queries over the tower's features */
  SL_SITE_Z,              /* per head, before the output projection */
  SL_SITE_ATTN_OUT,       /* what is added to the residual: after a layer scale */
  SL_SITE_RESID_MID,
  SL_SITE_LN2,            /* norm before the MLP ("post-attention norm"): LLaVA-CAM's feature map */
  SL_SITE_MLP_PRE,        /* before the activation (the gate of a gated MLP) */
  SL_SITE_MLP_PRE_LINEAR, /* the up half of a gated MLP */
  SL_SITE_MLP_POST,
  SL_SITE_MLP_OUT,        /* likewise */
  SL_SITE_RESID_POST,
  SL_SITE_LN_POST,        /* the tower's norm after its last block (EVA, SigLIP) */
  SL_SITE_LN_FINAL,
  SL_SITE_LOGITS,
  SL_SITE_PROJECTOR_IN,
  SL_SITE_PROJECTOR_LN,   /* InternVL's norm before the first product */
  SL_SITE_PROJECTOR_PRE,
  SL_SITE_PROJECTOR_POST,
  SL_SITE_PROJECTOR_OUT,
  SL_SITE_COUNT
} sl_site;

typedef enum sl_site_shape {
  SL_SHAPE_ROWS,    /* [T, width] */
  SL_SHAPE_HEADS,   /* [T, H, d] */
  SL_SHAPE_KV,      /* [T, Hkv, d] */
  SL_SHAPE_PATTERN, /* [H, Q, T]: Q the asked query rows; all of them in the projector */
  SL_SHAPE_LOGITS   /* [Q, V] */
} sl_site_shape;

typedef struct sl_site_row {
  const char *name;      /* without the part's prefix; "{i}" stands for the layer */
  /* Module paths below the part, "{i}" likewise; CLIP's differ from LLaMA's. NULL where there is no such module; where
   * two modules put out the same value ("layers.{i}.mlp|layers.{i}.mlp.down_proj") the first is the one to show. */
  const char *hf_module[SL_PART_COUNT];
  sl_site_shape shape;
  bool in_part[SL_PART_COUNT];
  bool per_layer;
  bool differentiable;
  bool writable; /* a plan can change it, in the decoder */
} sl_site_row;

const sl_site_row *sl_site_get(sl_site site);

/* Full name into `out` ("vision.blocks.2.hook_resid_post"). `layer` is ignored for sites that have none. */
void sl_site_name(char out[64], sl_part part, sl_site site, int layer);

/* The first Hugging Face module path of a site, "{i}" left in ("vision_tower.encoder.layers.{i}.mlp"), into `out`;
 * false and an empty string where there is none. */
bool sl_site_module(char out[96], sl_part part, sl_site site);

/* True when a user's pattern (TransformerLens name, HF module path, or a glob over either) names this place. Module
 * paths are taken as any version of transformers prints them: "model.layers.3.mlp",
 * "language_model.model.layers.3.mlp", "model.language_model.layers.3.mlp";
 * "vision_tower.vision_model.encoder.layers.1.mlp.fc1". */
bool sl_site_match(const char *pattern, sl_part part, sl_site site, int layer);

/* Who wants to see what. nn calls `wants` before a site's value would cost extra work, and `see` with the value; in a
 * backward pass `grad` is present too. Values live until `see` returns. Row 0 of value and grad is row `first_row` of
 * the sequence; in a backward pass the gradient of all earlier rows is exactly zero (they are not reachable).
 * A zeroed probe wants nothing. */
typedef struct sl_probe {
  void *user;
  bool (*wants)(void *user, sl_part part, sl_site site, int layer, bool backward);
  void (*see)(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
              sl_mat grad);
  sl_ints pattern_rows; /* query rows for which attention patterns and scores are emitted, in a forward from row 0;
                           count 0 = none. The projector's attentions, which are small, show every row instead */
} sl_probe;

#endif
