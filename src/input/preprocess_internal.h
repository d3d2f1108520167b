/* Between the files that read image processor settings. */
#ifndef SL_INPUT_PREPROCESS_INTERNAL_H
#define SL_INPUT_PREPROCESS_INTERNAL_H

#include "input/tiling.h"

/* Settings being read: the object that holds them and the file it comes from. */
typedef struct sl_settings {
  json_t *root;
  const char *name;
} sl_settings;

/* All of a processor file, except for the padding colour. */
sl_status sl_settings_read(sl_preprocess *out, const sl_settings *from);

/* A class of transformers: the files hold only what differs from it, or was saved with it. */
typedef struct sl_processor_class {
  const char *name; /* without "Fast", "Pil" */
  const sl_preprocess *defaults;
  bool pads_to_square; /* what do_pad means; elsewhere it concerns batches of several pictures */
  bool own_size;       /* `read` reads `size` */
  sl_status (*read)(sl_preprocess *out, const sl_settings *from); /* keys that only this class has; may be NULL */
} sl_processor_class;

/* The row for the class named by `image_processor_type` (or the older feature_extractor_type). */
sl_status sl_processor_class_find(const sl_processor_class **out, const sl_settings *from);

/* Readers of keys; a missing key or null leaves *out as it was. */
bool sl_settings_has(json_t *root, const char *key);
sl_status sl_settings_px(const sl_settings *from, const char *path, int *out);
sl_status sl_settings_count(const sl_settings *from, const char *path, int max, int *out);

/* `size` or `crop_size`: a number, [height, width], {"height", "width"} or, where `edge` is given, {"shortest_edge"}.
 * A number means the shortest edge where `edge` is given and the square is not asked for. */
sl_status sl_settings_size(const sl_settings *from, const char *key, bool to_square, int *edge, int *width_px,
                           int *height_px);

/* image_grid_pinpoints as [height, width], or as [width, height] where `is_width_first`. */
sl_status sl_settings_pinpoints(sl_preprocess *out, const sl_settings *from, bool is_width_first);

/* One side for tiles: that of the resize and of the crop, which must agree. */
sl_status sl_settings_tile(sl_preprocess *out, const char *name);

#endif
