/* PyTorch files built by hand, honest and lying: a ZIP archive of stored files, and pickles written opcode by
 * opcode. */
#ifndef TESTS_TORCH_FILE_H
#define TESTS_TORCH_FILE_H

#include <string.h>

#include "base/text.h"

/* One file of an archive. What is 0 or NULL is honest. */
typedef struct zip_file {
  const char *name;
  const void *bytes;
  size_t n_bytes;
  const char *local_name; /* in its own header; as long as `name` */
  int method, flags;
  uint32_t lie_size;   /* in the directory instead of the size */
  uint32_t lie_stored; /* the same, of the stored size alone */
  int64_t move;        /* added to its offset in the directory */
  bool sizes_64;       /* sizes and offset in the extra field */
} zip_file;

static inline void put(sl_text *out, uint64_t value, int n_bytes) {
  assert_int_equal(sl_text_append(out, &value, (size_t)n_bytes), SL_OK); /* little-endian, as the machine is */
}

static inline void put_bytes(sl_text *out, const void *bytes, size_t n) {
  assert_int_equal(sl_text_append(out, bytes, n), SL_OK);
}

/* Local header and content; data begins at multiples of 64, as PyTorch's. */
static inline void put_local(sl_text *out, const zip_file *file) {
  static const char zeros[64] = {0};
  const char *name = file->local_name ? file->local_name : file->name;
  const size_t n_name = strlen(name), pad = (64 - (out->length + 30 + n_name + 4) % 64) % 64;
  put(out, 0x04034b50, 4);
  put(out, 0, 2);
  put(out, 0x0808 | (unsigned)file->flags, 2); /* sizes follow the content; name in UTF-8 */
  put(out, (unsigned)file->method, 2);
  put(out, 0, 4);
  put(out, 0, 4);
  put(out, 0, 8);
  put(out, n_name, 2);
  put(out, pad + 4, 2);
  put_bytes(out, name, n_name);
  put(out, 0x4246, 2); /* "FB": padding */
  put(out, pad, 2);
  put_bytes(out, zeros, pad);
  put_bytes(out, file->bytes, file->n_bytes);
}

static inline void put_central(sl_text *out, const zip_file *file, size_t offset) {
  const uint64_t place = offset + (uint64_t)file->move;
  const uint32_t size = file->lie_size ? file->lie_size : (uint32_t)file->n_bytes;
  put(out, 0x02014b50, 4);
  put(out, 0, 4);
  put(out, 0x0808 | (unsigned)file->flags, 2);
  put(out, (unsigned)file->method, 2);
  put(out, 0, 4);
  put(out, 0, 4); /* checksum: not looked at */
  put(out, file->sizes_64 ? UINT32_MAX : file->lie_stored ? file->lie_stored : size, 4);
  put(out, file->sizes_64 ? UINT32_MAX : size, 4);
  put(out, strlen(file->name), 2);
  put(out, file->sizes_64 ? 28 : 0, 2);
  put(out, 0, 8);
  put(out, 0, 2);
  put(out, file->sizes_64 ? UINT32_MAX : place, 4);
  put_bytes(out, file->name, strlen(file->name));
  if (!file->sizes_64) return;
  put(out, 1, 2);
  put(out, 24, 2);
  put(out, file->n_bytes, 8);
  put(out, file->n_bytes, 8);
  put(out, place, 8);
}

/* How an archive lies about itself. */
typedef struct zip_lie {
  int64_t n_entry, directory_bytes, directory_at; /* added to the truth */
  bool end_64;                                    /* a 64-bit end record */
  int64_t end_64_at;                              /* added to the place that the locator tells */
  int disk;
  const char *comment;
} zip_lie;

static inline void put_archive(sl_text *out, const zip_file *files, int n_file, zip_lie lie) {
  size_t offsets[8];
  for (int i = 0; i < n_file; i++) {
    offsets[i] = out->length;
    put_local(out, &files[i]);
  }
  const size_t begin = out->length;
  for (int i = 0; i < n_file; i++) put_central(out, &files[i], offsets[i]);
  const size_t end = out->length;
  const uint64_t n = (uint64_t)(n_file + lie.n_entry), n_bytes = end - begin + (uint64_t)lie.directory_bytes;
  const uint64_t at = begin + (uint64_t)lie.directory_at;
  if (lie.end_64) {
    put(out, 0x06064b50, 4);
    put(out, 44, 8);
    put(out, 0, 4);
    put(out, (unsigned)lie.disk, 4);
    put(out, 0, 4);
    put(out, n, 8);
    put(out, n, 8);
    put(out, n_bytes, 8);
    put(out, at, 8);
    put(out, 0x07064b50, 4);
    put(out, 0, 4);
    put(out, end + (uint64_t)lie.end_64_at, 8);
    put(out, 1, 4);
  }
  put(out, 0x06054b50, 4);
  put(out, lie.end_64 ? 0 : (unsigned)lie.disk, 2);
  put(out, 0, 2);
  put(out, lie.end_64 ? 0xFFFF : n, 2);
  put(out, lie.end_64 ? 0xFFFF : n, 2);
  put(out, lie.end_64 ? UINT32_MAX : n_bytes, 4);
  put(out, lie.end_64 ? UINT32_MAX : at, 4);
  put(out, lie.comment ? strlen(lie.comment) : 0, 2);
  if (lie.comment) put_bytes(out, lie.comment, strlen(lie.comment));
}

#endif
