/* Binary PPM and PGM (P6, P5; netpbm's ppm(5)). Samples whose maximum is not 255 are scaled as Pillow's PpmDecoder
 * does; 16-bit grey goes through Pillow's mode "I", whose conversion to RGB clips at 255 instead of scaling. */
#include <math.h>
#include <string.h>

#include "input/image_internal.h"

static bool is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* The next decimal number of the header, after white space and # comments; consumes the one byte that ends it. */
static sl_status read_number(const sl_encoded *file, size_t *at, const char *what, uint32_t *out) {
  size_t i = *at;
  while (i < file->n_bytes && (is_space(file->bytes[i]) || file->bytes[i] == '#')) {
    if (file->bytes[i] == '#')
      while (i < file->n_bytes && file->bytes[i] != '\n' && file->bytes[i] != '\r') i++;
    else
      i++;
  }
  uint32_t value = 0;
  size_t start = i;
  for (; i < file->n_bytes && file->bytes[i] >= '0' && file->bytes[i] <= '9'; i++) {
    if (i - start >= 9)
      SL_FAIL(SL_ERROR_FORMAT, "%s: PPM %s at byte %zu: expected at most 9 digits", file->name, what, start);
    value = value * 10 + (uint32_t)(file->bytes[i] - '0');
  }
  if (i == file->n_bytes)
    SL_FAIL(SL_ERROR_FORMAT, "%s: truncated PPM: the file ends inside the header (%s)", file->name, what);
  if (i == start || !is_space(file->bytes[i]))
    SL_FAIL(SL_ERROR_FORMAT, "%s: PPM %s at byte %zu: expected a decimal number and white space, found byte 0x%02x",
            file->name, what, i, file->bytes[i]);
  *out = value;
  *at = i + 1;
  return SL_OK;
}

/* 8-bit value of a sample: scaled to `top` rounding half to even (Python's round), then clipped. */
static uint8_t scale_sample(uint32_t sample, uint32_t max, uint32_t top) {
  double scaled = max == top ? sample : rint((double)sample / max * top);
  return scaled > 255 ? 255 : (uint8_t)scaled;
}

sl_status sl_ppm_decode(sl_rgb *out, const sl_encoded *file) {
  *out = (sl_rgb){0};
  uint32_t width, height, max;
  size_t at = 2;
  if (file->n_bytes > 2 && !is_space(file->bytes[2]))
    SL_FAIL(SL_ERROR_FORMAT, "%s: PPM magic: expected white space at byte 2, found byte 0x%02x", file->name,
            file->bytes[2]);
  SL_TRY(read_number(file, &at, "width", &width));
  SL_TRY(read_number(file, &at, "height", &height));
  SL_TRY(read_number(file, &at, "maximum", &max));
  if (max == 0 || max > 65535)
    SL_FAIL(SL_ERROR_FORMAT, "%s: PPM maximum: expected 1 to 65535, found %u", file->name, max);
  const size_t n_channel = file->bytes[1] == '6' ? 3 : 1, sample_bytes = max > 255 ? 2 : 1;
  SL_TRY(sl_rgb_alloc(out, width, height, file->name));
  const size_t n_px = (size_t)width * height, expected = n_px * n_channel * sample_bytes;
  if (file->n_bytes - at < expected) {
    sl_rgb_dispose(out);
    SL_FAIL(SL_ERROR_FORMAT, "%s: truncated PPM: expected %zu bytes of pixels, found %zu", file->name, expected,
            file->n_bytes - at);
  }
  const uint8_t *from = file->bytes + at;
  const uint32_t top = n_channel == 1 && sample_bytes == 2 ? 65535 : 255;
  for (size_t i = 0; i < n_px * n_channel; i++, from += sample_bytes) {
    uint32_t sample = sample_bytes == 2 ? (uint32_t)from[0] << 8 | from[1] : from[0];
    uint8_t value = scale_sample(sample, max, top);
    if (n_channel == 3)
      out->data[i] = value;
    else
      memset(out->data + 3 * i, value, 3);
  }
  return SL_OK;
}
