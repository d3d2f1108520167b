/* Still WebP pictures through libwebp; alpha is dropped as Pillow's convert("RGB") drops it. */
#include <string.h>
#include <webp/decode.h>

#include "input/image_internal.h"

static uint32_t le32(const uint8_t *at) {
  return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Walks the RIFF chunks to those of EXIF and XMP. */
static int find_orientation(const sl_encoded *file) {
  size_t at = 12;
  int xmp = 0;
  while (file->n_bytes - at >= 8) {
    const size_t length = le32(file->bytes + at + 4);
    const uint8_t *type = file->bytes + at, *data = type + 8;
    if (length > file->n_bytes - at - 8) break;
    const int exif = memcmp(type, "EXIF", 4) == 0 ? sl_exif_orientation(data, length) : 0;
    if (exif) return exif;
    if (memcmp(type, "XMP ", 4) == 0) xmp = sl_xmp_orientation(data, length);
    at += 8 + length;
    if ((length & 1) != 0 && at < file->n_bytes) at++; /* chunks are padded to even length */
  }
  return xmp ? xmp : 1;
}

static sl_status fail_webp(const sl_encoded *file, VP8StatusCode code) {
  switch (code) {
    case VP8_STATUS_OUT_OF_MEMORY:
      SL_FAIL(SL_ERROR_MEMORY, "%s: out of memory while decoding WebP", file->name);
    case VP8_STATUS_SUSPENDED:
    case VP8_STATUS_NOT_ENOUGH_DATA:
      SL_FAIL(SL_ERROR_FORMAT, "%s: truncated WebP: the file ends after %zu bytes, inside the picture", file->name,
              file->n_bytes);
    case VP8_STATUS_UNSUPPORTED_FEATURE:
      SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: WebP: uses a feature that libwebp does not decode", file->name);
    default:
      SL_FAIL(SL_ERROR_FORMAT, "%s: corrupt WebP: libwebp status %d", file->name, (int)code);
  }
}

sl_status sl_webp_decode(sl_rgb *out, const sl_encoded *file, int *orientation) {
  *out = (sl_rgb){0};
  /* libwebp would accept a file cut after the pixels but before its EXIF block. */
  if ((uint64_t)le32(file->bytes + 4) + 8 > file->n_bytes)
    SL_FAIL(SL_ERROR_FORMAT, "%s: truncated WebP: expected %llu bytes, found %zu", file->name,
            (unsigned long long)le32(file->bytes + 4) + 8, file->n_bytes);
  WebPDecoderConfig config;
  if (!WebPInitDecoderConfig(&config))
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: WebP: the libwebp found is not the one built for", file->name);
  VP8StatusCode code = WebPGetFeatures(file->bytes, file->n_bytes, &config.input);
  if (code != VP8_STATUS_OK) return fail_webp(file, code);
  if (config.input.has_animation)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: WebP: expected a still picture, found an animation", file->name);
  SL_TRY(sl_rgb_alloc(out, (uint64_t)config.input.width, (uint64_t)config.input.height, file->name));
  config.output.colorspace = MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = out->data;
  config.output.u.RGBA.stride = out->width_px * 3;
  config.output.u.RGBA.size = (size_t)out->width_px * (size_t)out->height_px * 3;
  code = WebPDecode(file->bytes, file->n_bytes, &config);
  WebPFreeDecBuffer(&config.output);
  if (code != VP8_STATUS_OK) {
    sl_rgb_dispose(out);
    return fail_webp(file, code);
  }
  *orientation = find_orientation(file);
  return SL_OK;
}
