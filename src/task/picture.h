/* The asked picture: decoded, preprocessed, and with an object mask brought down to image tokens. */
#ifndef SL_TASK_PICTURE_H
#define SL_TASK_PICTURE_H

#include "model/session.h"
#include "store/run.h"

/* Zero-initialise; release with sl_picture_dispose. */
typedef struct sl_picture {
  const char *path, *mask_path; /* borrowed; mask_path may be NULL */
  uint64_t hash;                /* xxh3 of the file */
  sl_rgb source;
  sl_grey mask;                 /* data NULL without one */
  sl_views views;               /* for the tower */
  sl_pack pack;                 /* how they become image positions */
  float *feature; /* [n_feature] mean over the patches of what the tower hands to the projector */
  int n_feature;
  float *projection; /* [pack.n, n_patch] how a token's query reads the patches, rows sum to 1; NULL: tokens have places */
  int n_patch;
} sl_picture;

/* Reads picture and mask (NULL = none) and compares their sizes. Needs no model. */
sl_status sl_picture_load(sl_picture *picture, const char *path, const char *mask_path);

/* Fills views and pack as the model's processor does; `question` is for models whose image tokens depend on it. */
sl_status sl_picture_prepare(sl_picture *picture, const sl_model *model, const char *question);

/* Runs the tower on the prepared picture and fills `feature` and `projection`. */
sl_status sl_picture_encode(sl_picture *picture, sl_session *session, const sl_model *model, sl_image **out);

void sl_picture_dispose(sl_picture *picture);

/* Share of the box's area (source px, edges in fractions of a pixel) that the mask covers; 0 for an empty box. */
double sl_mask_share(const sl_grey *mask, const float box[4]);

/* For every image position: true when at least `threshold` of the area that it shows is masked. New array (free()), NULL
 * without a mask, or where image tokens have no places. */
sl_status sl_picture_object(const sl_picture *picture, double threshold, bool **object);

/* Puts images/input.png and mask.png, image.box, image.view, image.feature and, for queries, image.projection and
 * image.patch_box into the run. A picture with a side over
 * 2048 px is stored smaller, and the boxes are in pixels of what is stored. */
sl_status sl_picture_store(const sl_picture *picture, sl_run *run);

/* The "image" object of run.json (new reference). */
sl_status sl_picture_to_json(const sl_picture *picture, json_t **out);

#endif
