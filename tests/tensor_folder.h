/* A folder for the files that the tests of tensors write. */
#ifndef TESTS_TENSOR_FOLDER_H
#define TESTS_TENSOR_FOLDER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/rng.h"
#include "base/text.h"
#include "tensor/safetensors.h"

static char folder[] = "/tmp/sightline-test-tensor-XXXXXX";

/* Four results may be in use at once. */
static inline char *in_folder(const char *name) {
  static char paths[4][512];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static inline void assert_message(const char *part) {
  if (!strstr(sl_error_message(), part)) fail_msg("expected \"%s\" in \"%s\"", part, sl_error_message());
}

/* A file with this header and n_data bytes 0, 1, 2, ...; a negative length means the true one. */
static inline void make_file(sl_text *out, int64_t length, const char *header, size_t n_data) {
  uint64_t n_header = length < 0 ? strlen(header) : (uint64_t)length;
  assert_int_equal(sl_text_append(out, &n_header, 8), SL_OK);
  assert_int_equal(sl_text_append_string(out, header), SL_OK);
  for (size_t i = 0; i < n_data; i++) assert_int_equal(sl_text_append(out, &(uint8_t){(uint8_t)i}, 1), SL_OK);
}

static inline void write_file(const char *name, const char *header, size_t n_data) {
  sl_text file = {0};
  make_file(&file, -1, header, n_data);
  assert_int_equal(sl_file_write(in_folder(name), file.data, file.length), SL_OK);
  sl_text_dispose(&file);
}

static inline void write_text(const char *name, const char *text) {
  assert_int_equal(sl_file_write(in_folder(name), text, strlen(text)), SL_OK);
}

static inline void make_subfolder(const char *name) { assert_int_equal(mkdir(in_folder(name), 0777), 0); }

/* Spaces after the JSON, an empty tensor between others, a scalar, a name with an escape, header not in data order. */
#define HONEST                                                                                                      \
  "{\"__metadata__\": {\"format\": \"pt\"}, "                                                                         \
  "\"b\\u00e9\": {\"dtype\": \"U8\", \"shape\": [3], \"data_offsets\": [16, 19]}, "                                   \
  "\"a\": {\"dtype\": \"F32\", \"shape\": [2, 2], \"data_offsets\": [0, 16]}, \"s\": {\"dtype\":\"I64\",\"shape\":[]," \
  "\"data_offsets\":[19,27]}, \"empty\": {\"dtype\": \"BF16\", \"shape\": [0, 7], \"data_offsets\": [16, 16]}}   "

/* Allocations of jansson fail from here. */
static long jansson_until_failure; /* 0: none fails */

static inline void *jansson_malloc(size_t n_bytes) {
  if (jansson_until_failure > 0 && --jansson_until_failure == 0) return NULL;
  return malloc(n_bytes);
}

static inline int make_folder(void **state) {
  (void)state;
  return mkdtemp(folder) ? 0 : -1;
}

static inline int remove_folder(void **state) {
  (void)state;
  char command[600];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  return system(command);
}

#endif
