/* The overlay pictures of a run: one per layer and kind of map, and one sheet of all layers. */
#ifndef SL_REPORT_OVERLAYS_H
#define SL_REPORT_OVERLAYS_H

#include "store/run.h"

/* Writes images/cam_LL.png, attention_LL.png, cam_film.png, attention_film.png, tokens_image.png into the run
 * directory; where views overlap (report/sheet.h) also cam_viewV_LL.png and so on, V being the first view of a further
 * sheet; with image.projection cam_projected_LL.png and so on instead. Does nothing where the picture, the maps, or the
 * tokens' places are missing. */
sl_status sl_overlays_write(const sl_run_reader *run);

#endif
