/* Golden pictures (tests/golden/pixels), pictures of our own, and a folder for files. */
#ifndef TESTS_IMAGE_FIXTURE_H
#define TESTS_IMAGE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "input/image.h"
#include "tensor/safetensors.h"

#define GOLDEN SL_SOURCE_DIR "/tests/golden/pixels/"

static char folder[] = "/tmp/sightline-test-image-XXXXXX";
static json_t *golden;
static sl_safetensors *pixels;

static inline const char *in_folder(const char *name) {
  static char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static inline void assert_message(const char *part) {
  if (!strstr(sl_error_message(), part)) fail_msg("expected \"%s\" in \"%s\"", part, sl_error_message());
}

static inline void assert_ok(sl_status status) {
  if (status != SL_OK) fail_msg("%s", sl_error_message());
}

static inline void write_file(const char *name, const char *text) {
  assert_ok(sl_file_write(in_folder(name), text, strlen(text)));
}

static inline const sl_tensor *golden_tensor(const char *file, const char *what, bool must_exist) {
  char name[160];
  snprintf(name, sizeof name, "%s/%s", file, what);
  const sl_tensor *tensor = sl_safetensors_find(pixels, name);
  if (must_exist && tensor == NULL) fail_msg("pixels.safetensors lacks %s", name);
  return tensor;
}

/* A golden [height, width, 3] tensor as a picture of its own. */
static inline sl_rgb golden_rgb(const char *file, const char *what) {
  const sl_tensor *tensor = golden_tensor(file, what, true);
  sl_rgb image = {(int)tensor->shape[1], (int)tensor->shape[0], NULL};
  assert_int_equal(tensor->dtype, SL_U8);
  assert_non_null(image.data = malloc((size_t)sl_tensor_count(tensor)));
  memcpy(image.data, tensor->data, (size_t)sl_tensor_count(tensor));
  return image;
}

static inline void assert_rgb(const sl_rgb *found, const sl_rgb *expected, int tolerance, const char *what) {
  if (found->width_px != expected->width_px || found->height_px != expected->height_px)
    fail_msg("%s: expected %d x %d px, found %d x %d", what, expected->width_px, expected->height_px, found->width_px,
             found->height_px);
  for (size_t i = 0; i < (size_t)found->width_px * (size_t)found->height_px * 3; i++)
    if (abs(found->data[i] - expected->data[i]) > tolerance)
      fail_msg("%s: byte %zu: expected %d +- %d, found %d", what, i, expected->data[i], tolerance, found->data[i]);
}

/* A picture in which every pixel differs from its neighbours, the same each time. */
static inline sl_rgb make_rgb(int width_px, int height_px) {
  sl_rgb image = {width_px, height_px, malloc((size_t)width_px * (size_t)height_px * 3)};
  assert_non_null(image.data);
  uint32_t state = 1;
  for (size_t i = 0; i < (size_t)width_px * (size_t)height_px * 3; i++)
    image.data[i] = (uint8_t)((state = state * 1664525u + 1013904223u) >> 24);
  return image;
}

/* Fails the first allocation, then the second, until the work succeeds; it must have allocated `at_least` times. */
static inline void sweep(sl_status (*work)(const void *), const void *argument, int at_least) {
  int n = 1;
  for (;; n++) {
    sl_alloc_fail_at(n);
    sl_status status = work(argument);
    sl_alloc_fail_at(0);
    if (status == SL_OK) break;
    if (status != SL_ERROR_MEMORY) fail_msg("allocation %d: %s", n, sl_error_message());
    assert_true(n < 1000);
  }
  if (n - 1 < at_least) fail_msg("expected %d allocations, found %d", at_least, n - 1);
}

static inline int set_up(void **state) {
  (void)state;
  if (!mkdtemp(folder)) return -1;
  if (sl_json_load(&golden, GOLDEN "pixels.json", (size_t)1 << 22) != SL_OK) return -1;
  return sl_safetensors_open(&pixels, GOLDEN "pixels.safetensors") == SL_OK ? 0 : -1;
}

static inline int tear_down(void **state) {
  (void)state;
  static const char *const names[] = {"empty.png", "out.png", "mask.png", "config.json", "processor_config.json",
                                      "preprocessor_config.json"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) unlink(in_folder(names[i]));
  json_decref(golden);
  sl_safetensors_close(pixels);
  return rmdir(folder); /* fails when anything was left behind */
}

#endif
