/* A folder with image processor settings, and views made by them. */
#ifndef TESTS_PROCESSOR_FOLDER_H
#define TESTS_PROCESSOR_FOLDER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "input/views.h"
#include "tensor/safetensors.h"

static char folder[] = "/tmp/sightline-test-views-XXXXXX";

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

static inline void clear_folder(void) {
  static const char *const names[] = {"config.json", "preprocessor_config.json", "processor_config.json"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) unlink(in_folder(names[i]));
}

static inline void read_text(sl_preprocess *out, const char *text) {
  clear_folder();
  write_file("preprocessor_config.json", text);
  assert_ok(sl_preprocess_read(out, folder));
  clear_folder();
}

static inline sl_rgb blank(int width_px, int height_px) {
  sl_rgb image = {width_px, height_px, calloc((size_t)width_px * (size_t)height_px, 3)};
  assert_non_null(image.data);
  return image;
}

static inline void plan(sl_views *views, const sl_preprocess *preprocess, int width_px, int height_px) {
  assert_ok(sl_views_plan(views, preprocess, width_px, height_px));
  assert_null(views->pixels);
  assert_non_null(views->maps);
}

static inline sl_preprocess read_dynamic(const char *text) {
  json_t *config;
  sl_preprocess out;
  assert_ok(sl_json_parse(&config, text, strlen(text), "config.json"));
  assert_ok(sl_preprocess_dynamic(&out, config, "config.json"));
  json_decref(config);
  return out;
}

static inline int processor_folder_make(void) { return mkdtemp(folder) ? 0 : -1; }

/* Fails when anything was left behind. */
static inline int processor_folder_remove(void) {
  clear_folder();
  return rmdir(folder);
}

#endif
