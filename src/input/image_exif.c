/* The one field of EXIF that changes what a picture looks like: tag 0x0112, orientation, in the first directory of the
 * TIFF structure inside; and its copy in XMP, which counts where EXIF has none. Anything malformed means "upright". All
 * of it as Pillow's getexif has it, but for XMP that a PNG holds compressed, which is not read. */
#define _GNU_SOURCE /* memmem */
#include <string.h>

#include "input/image_internal.h"

static uint32_t read_uint(const uint8_t *at, int n_bytes, bool big_endian) {
  uint32_t value = 0;
  for (int i = 0; i < n_bytes; i++) value = value << 8 | at[big_endian ? i : n_bytes - 1 - i];
  return value;
}

int sl_exif_orientation(const uint8_t *bytes, size_t n_bytes) {
  while (n_bytes >= 6 && memcmp(bytes, "Exif\0\0", 6) == 0) bytes += 6, n_bytes -= 6;
  if (n_bytes < 8) return 0;
  bool big = bytes[0] == 'M';
  if (memcmp(bytes, big ? "MM\0*" : "II*\0", 4) != 0) return 0;
  size_t at = read_uint(bytes + 4, 4, big);
  if (at > n_bytes || n_bytes - at < 2) return 0;
  uint32_t n_entry = read_uint(bytes + at, 2, big);
  int orientation = 0;
  at += 2;
  for (uint32_t i = 0; i < n_entry && n_bytes - at >= 12; i++, at += 12) {
    const uint8_t *entry = bytes + at; /* tag 2, type 2, count 4, value or offset 4 */
    if (read_uint(entry, 2, big) != 0x0112 || read_uint(entry + 4, 4, big) != 1) continue;
    uint32_t type = read_uint(entry + 2, 2, big);
    int width = type == 1 ? 1 : type == 3 ? 2 : type == 4 ? 4 : 0; /* byte, short, long */
    uint32_t value = width > 0 ? read_uint(entry + 8, width, big) : 1;
    orientation = value >= 1 && value <= 8 ? (int)value : 1; /* a later entry wins, as in Pillow's dictionary */
  }
  return orientation;
}

int sl_xmp_orientation(const uint8_t *bytes, size_t n_bytes) {
  static const char name[] = "tiff:Orientation";
  const uint8_t *end = bytes + n_bytes, *at = bytes;
  while ((at = memmem(at, (size_t)(end - at), name, sizeof name - 1)) != NULL) {
    at += sizeof name - 1;
    const uint8_t *digit = end;
    if (end - at >= 2 && memcmp(at, "=\"", 2) == 0) digit = at + 2;
    if (end - at >= 1 && *at == '>') digit = at + 1;
    if (digit < end && *digit >= '0' && *digit <= '9') return *digit >= '1' && *digit <= '8' ? *digit - '0' : 1;
  }
  return 0;
}
