/* Between the files of the picture reader: one decoder per format, and resizing part of a picture. */
#ifndef SL_INPUT_IMAGE_INTERNAL_H
#define SL_INPUT_IMAGE_INTERNAL_H

#include "input/image.h"

#define SL_IMAGE_MAX_BYTES ((size_t)64 << 20)
#define SL_IMAGE_MAX_SIDE_PX 65535
#ifndef SL_IMAGE_MAX_PX /* the fuzzer sets a smaller one, to spend its time on parsing */
#define SL_IMAGE_MAX_PX 100000000
#endif

/* The bytes of one picture file and what messages call it. */
typedef struct sl_encoded {
  const uint8_t *bytes;
  size_t n_bytes;
  const char *name;
} sl_encoded;

/* Decoders. *orientation is what EXIF tells, or where it does not XMP: 1..8, else 1. On failure *out is empty. Sizes
 * are checked before anything of that size is allocated. */
sl_status sl_png_decode(sl_rgb *out, const sl_encoded *file, int *orientation);
sl_status sl_jpeg_decode(sl_rgb *out, const sl_encoded *file, int *orientation);
sl_status sl_webp_decode(sl_rgb *out, const sl_encoded *file, int *orientation);
sl_status sl_ppm_decode(sl_rgb *out, const sl_encoded *file);

/* Allocates out->data for a picture whose size comes from a file: fails above the limits, naming file and size. */
sl_status sl_rgb_alloc(sl_rgb *out, uint64_t width_px, uint64_t height_px, const char *name);

/* Orientation in an EXIF block, with or without its "Exif\0\0" introduction: 1..8, 1 for another value; 0: it tells
 * none. */
int sl_exif_orientation(const uint8_t *bytes, size_t n_bytes);

/* The same in a packet of XMP (tiff:Orientation, as attribute or element). */
int sl_xmp_orientation(const uint8_t *bytes, size_t n_bytes);

/* A picture on a larger plain sheet of colour `rgb`; nothing of the sheet is stored. */
typedef struct sl_sheet {
  const sl_rgb *image;
  int left_px, top_px; /* where the picture's corner lies */
  int width_px, height_px;
  uint8_t rgb[3];
} sl_sheet;

typedef struct sl_window {
  int x, y, width, height; /* px */
} sl_window;

/* The part `window` of what sl_rgb_resize would give for the whole sheet; costs no more than the window needs. */
sl_status sl_sheet_resize(sl_rgb *out, const sl_sheet *sheet, int width_px, int height_px, sl_filter filter,
                          sl_window window);

/* A view: the window of `resized` at (x, y), black where it reaches beyond. */
typedef struct sl_cut {
  int resized_width_px, resized_height_px; /* the sheet after resizing */
  sl_window window;                        /* x, y may be negative */
} sl_cut;

/* Settings that make sense, with a picture of at least 1 x 1 px. */
sl_status sl_preprocess_check(const sl_preprocess *preprocess, int width_px, int height_px);

/* What is resized: the picture itself, or the square that it is padded to. */
sl_sheet sl_sheet_of(const sl_preprocess *preprocess, const sl_rgb *image);

/* The one view of a sheet without tiling. */
sl_cut sl_cut_single(const sl_preprocess *preprocess, int sheet_width_px, int sheet_height_px);
sl_status sl_cut_make(sl_rgb *out, const sl_sheet *sheet, const sl_cut *cut, sl_filter filter);
sl_pixel_map sl_cut_map(const sl_sheet *sheet, const sl_cut *cut);

/* [height, width, 3] bytes to [3, height, width] floats at `out`. */
void sl_preprocess_values(float *out, const sl_preprocess *preprocess, const sl_rgb *seen);

#endif
