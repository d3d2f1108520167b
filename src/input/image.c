/* Opening pictures: recognises the format by content, calls its decoder, turns the picture upright. */
#include "input/image.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "input/image_internal.h"

sl_status sl_rgb_alloc(sl_rgb *out, uint64_t width_px, uint64_t height_px, const char *name) {
  *out = (sl_rgb){0};
  if (width_px == 0 || height_px == 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: picture size: expected at least 1 x 1 px, found %llu x %llu", name,
            (unsigned long long)width_px, (unsigned long long)height_px);
  if (width_px > SL_IMAGE_MAX_SIDE_PX || height_px > SL_IMAGE_MAX_SIDE_PX || width_px * height_px > SL_IMAGE_MAX_PX)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: picture size: expected at most %d px a side and %d px in all, found %llu x %llu",
            name, SL_IMAGE_MAX_SIDE_PX, SL_IMAGE_MAX_PX, (unsigned long long)width_px, (unsigned long long)height_px);
  SL_TRY(SL_ALLOC(out->data, (size_t)(width_px * height_px * 3), "picture"));
  out->width_px = (int)width_px;
  out->height_px = (int)height_px;
  return SL_OK;
}

void sl_rgb_dispose(sl_rgb *image) {
  if (image == NULL) return;
  free(image->data);
  *image = (sl_rgb){0};
}

void sl_grey_dispose(sl_grey *image) {
  if (image == NULL) return;
  free(image->data);
  *image = (sl_grey){0};
}

/* Walks the stored picture in the order of the upright one. Orientations 5 to 8 swap the axes. */
static sl_status turn_upright(sl_rgb *image, int orientation) {
  if (orientation < 2 || orientation > 8) return SL_OK;
  const ptrdiff_t w = image->width_px, h = image->height_px;
  const ptrdiff_t last_column = w - 1, last_row = (h - 1) * w;
  const struct {
    ptrdiff_t start, right, down; /* the pixel for (0, 0), and the steps to the neighbours on the right and below, px */
  } walks[9] = {
      [2] = {last_column, -1, w}, [3] = {last_row + last_column, -1, -w}, [4] = {last_row, 1, -w},    [5] = {0, w, 1},
      [6] = {last_row, -w, 1},    [7] = {last_row + last_column, -w, -1}, [8] = {last_column, w, -1},
  };
  sl_rgb turned;
  bool swap = orientation >= 5;
  SL_TRY(sl_rgb_alloc(&turned, (uint64_t)(swap ? h : w), (uint64_t)(swap ? w : h), "picture"));
  uint8_t *to = turned.data;
  for (int y = 0; y < turned.height_px; y++) {
    ptrdiff_t at = walks[orientation].start + y * walks[orientation].down;
    for (int x = 0; x < turned.width_px; x++, to += 3, at += walks[orientation].right)
      memcpy(to, image->data + 3 * at, 3);
  }
  sl_rgb_dispose(image);
  *image = turned;
  return SL_OK;
}

static bool begins_with(const sl_encoded *file, size_t offset, const char *magic, size_t n_magic) {
  return file->n_bytes >= offset + n_magic && memcmp(file->bytes + offset, magic, n_magic) == 0;
}

/* What the file is, when it is a picture format that is known but not read; NULL otherwise. */
static const char *known_format(const sl_encoded *file) {
  static const struct {
    const char *magic, *name;
    unsigned char offset, length;
  } formats[] = {
      {"GIF8", "a GIF", 0, 4},
      {"BM", "a BMP", 0, 2},
      {"II*\0", "a TIFF", 0, 4},
      {"MM\0*", "a TIFF", 0, 4},
      {"ftyp", "an AVIF, HEIF or video file", 4, 4},
      {"\0\0\0\x0cjP  ", "a JPEG 2000", 0, 8},
      {"\xff\x0a", "a JPEG XL", 0, 2},
      {"P1", "a plain PBM", 0, 2},
      {"P2", "a plain PGM", 0, 2},
      {"P3", "a plain PPM", 0, 2},
      {"P4", "a PBM", 0, 2},
      {"<svg", "an SVG", 0, 4},
      {"%PDF", "a PDF", 0, 4},
  };
  for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
    if (begins_with(file, formats[i].offset, formats[i].magic, formats[i].length)) return formats[i].name;
  return NULL;
}

static sl_status fail_unknown(const sl_encoded *file) {
  char hex[3 * 8 + 1] = "";
  for (size_t i = 0; i < 8 && i < file->n_bytes; i++) {
    static const char digits[] = "0123456789abcdef";
    char *at = hex + strlen(hex);
    if (i > 0) *at++ = ' ';
    *at++ = digits[file->bytes[i] >> 4];
    *at++ = digits[file->bytes[i] & 15];
    *at = '\0';
  }
  const char *known = known_format(file);
  SL_FAIL(SL_ERROR_UNSUPPORTED,
          "%s: picture format: expected PNG, JPEG, WebP or binary PPM/PGM, found %s (first bytes %s)", file->name,
          known ? known : "something else", hex);
}

sl_status sl_rgb_decode(sl_rgb *out, const void *bytes, size_t n_bytes, const char *name, bool apply_exif) {
  *out = (sl_rgb){0};
  const sl_encoded file = {bytes, n_bytes, name};
  if (n_bytes == 0) SL_FAIL(SL_ERROR_FORMAT, "%s: empty file, expected a picture", name);
  if (n_bytes > SL_IMAGE_MAX_BYTES)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: picture file: expected at most %zu bytes, found %zu", name, SL_IMAGE_MAX_BYTES,
            n_bytes);
  int orientation = 1;
  if (begins_with(&file, 0, "\x89PNG\r\n\x1a\n", 8)) {
    SL_TRY(sl_png_decode(out, &file, &orientation));
  } else if (begins_with(&file, 0, "\xff\xd8\xff", 3)) {
    SL_TRY(sl_jpeg_decode(out, &file, &orientation));
  } else if (begins_with(&file, 0, "RIFF", 4) && begins_with(&file, 8, "WEBP", 4)) {
    SL_TRY(sl_webp_decode(out, &file, &orientation));
  } else if (begins_with(&file, 0, "P5", 2) || begins_with(&file, 0, "P6", 2)) {
    SL_TRY(sl_ppm_decode(out, &file));
  } else {
    return fail_unknown(&file);
  }
  sl_status status = apply_exif ? turn_upright(out, orientation) : SL_OK;
  if (status != SL_OK) sl_rgb_dispose(out);
  return status;
}

sl_status sl_rgb_load(sl_rgb *out, const char *path, bool apply_exif) {
  *out = (sl_rgb){0};
  char *bytes = NULL;
  size_t n_bytes = 0;
  SL_TRY(sl_file_read(path, SL_IMAGE_MAX_BYTES, &bytes, &n_bytes));
  sl_status status = sl_rgb_decode(out, bytes, n_bytes, path, apply_exif);
  free(bytes);
  return status;
}

sl_status sl_mask_load(sl_grey *out, const char *path) {
  *out = (sl_grey){0};
  sl_rgb image;
  SL_TRY(sl_rgb_load(&image, path, true));
  size_t n_px = (size_t)image.width_px * (size_t)image.height_px;
  uint8_t *mask = NULL;
  sl_status status = SL_ALLOC(mask, n_px, "mask");
  if (status == SL_OK) {
    for (size_t i = 0; i < n_px; i++) {
      const uint8_t *px = image.data + 3 * i;
      mask[i] = (px[0] | px[1] | px[2]) != 0 ? 255 : 0;
    }
    *out = (sl_grey){image.width_px, image.height_px, mask};
  }
  sl_rgb_dispose(&image);
  return status;
}
