/* The report of a run directory: one HTML file that opens offline, and pictures of the maps. */
#ifndef SIGHTLINE_REPORT_H
#define SIGHTLINE_REPORT_H

#include "sightline/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Reads run.json, tensors.safetensors and images/ of `run_dir` and writes, each whole or not at all, replacing what an
 * earlier call wrote:
 *   report.html                            self-contained: figures, tables, picture and numbers; needs no network
 *   images/cam_LL.png, attention_LL.png    the map of layer LL over the picture (LL counts from 00)
 *   images/cam_film.png, attention_film.png  all layers on one sheet
 *   images/tokens_image.png                the image tokens' scores over the picture
 * Overlays are written where the run holds the map, the picture and the image tokens' boxes or grid. Sections of the
 * report whose results the run does not hold are left out.
 *
 * Errors: SL_ERROR_FILE (missing or unwritable), SL_ERROR_FORMAT (the run directory is damaged), SL_ERROR_UNSUPPORTED
 * (written by a newer version). Thread-safe for different directories. */
SL_API sl_status sl_report_build(const char *run_dir);

#ifdef __cplusplus
}
#endif
#endif
