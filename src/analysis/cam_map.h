/* LLaVA-CAM's maps of one or more pictures: forward, one backward per target, reduction on the device. */
#ifndef SL_ANALYSIS_CAM_MAP_H
#define SL_ANALYSIS_CAM_MAP_H

#include "analysis/target.h"

typedef struct sl_cam_options {
  sl_site site;
  sl_target target;
  int32_t contrast; /* token id for SL_TARGET_CONTRAST */
  bool per_token;   /* after the sum's map, one map for every answer token */
  bool clip;        /* clip the gradient at 0 before the mean */
  bool alpha;       /* keep the channel weights */
  bool vision;      /* also the tower's map */
  int n_picture;    /* pictures that will be added (for progress) */
} sl_cam_options;

/* Sums over the pictures added so far; divide by their number. Zero-initialise; release with sl_cam_dispose. */
typedef struct sl_cam {
  sl_analysis_context *context;
  sl_cam_options options;
  int n_layer, n_map; /* L, A */
  int n_image;        /* N */
  int n_view, n_patch; /* V, and patches of the tower's view: gh * gw */
  int n_channel;      /* of the site */
  float *heat;        /* [L, A, N], ReLU'd */
  float *alpha;       /* [L, A, channels] or NULL */
  float *vision;      /* [A, V * gh * gw], ReLU'd, or NULL */
  double *value;      /* [A] the targets */
  uint8_t *defined;   /* [L] */
  int n_added;
  /* Work of the running backward pass. */
  sl_buffer *device; /* [L, N] maps, [L, channels] weights, then the tower's */
  sl_buffer *tower;  /* [2, V * gh * gw, Dv]: features and gradients of all views, which share their weights; or NULL */
  int map;
  int n_view_seen;
  float *logits, *gradient; /* [Q, V] */
} sl_cam;

sl_status sl_cam_init(sl_cam *cam, sl_analysis_context *context, const sl_cam_options *options);

/* Adds the maps of one picture: preprocessed pixels as sl_image_encode takes them, or NULL for the context's picture.
 */
sl_status sl_cam_add(sl_cam *cam, const float *pixels);

/* Turns sums into means over the added pictures. */
void sl_cam_finish(sl_cam *cam);

void sl_cam_dispose(sl_cam *cam);

#endif
