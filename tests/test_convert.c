/* task: conversion of weights through the library. Shards, interruption and failing memory; bits and messages are
 * test_convert.py's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "sightline/convert.h"
#include "store/folder.h"
#include "tensor/safetensors.h"

#define GOLDEN SL_SOURCE_DIR "/tests/golden/torch/"

static char folder[] = "/tmp/sightline-test-convert-XXXXXX";

static char *in_folder(const char *name) {
  static char paths[4][256];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static sl_convert_request delta_to(const char *out) {
  return (sl_convert_request){.size = sizeof(sl_convert_request),
                              .model_dir = GOLDEN "delta",
                              .delta_base = GOLDEN "base",
                              .out_dir = out};
}

static sl_status convert(const sl_convert_request *request) {
  char *summary = NULL;
  const sl_status status = sl_convert(request, &summary);
  assert_true((summary != NULL) == (status == SL_OK));
  free(summary);
  return status;
}

static void assert_fails(sl_status found, sl_status expected, const char *part) {
  assert_int_equal(found, expected);
  if (!strstr(sl_error_message(), part)) fail_msg("expected \"%s\" in \"%s\"", part, sl_error_message());
}

/* Hidden files count. */
static int count_files(const char *dir) {
  DIR *listing = opendir(dir);
  int n = 0;
  assert_non_null(listing);
  while (readdir(listing)) n++;
  closedir(listing);
  return n - 2;
}

/* The same tensors whatever the size of files; none is larger than asked for, unless it holds one tensor. */
static void test_shards(void **state) {
  (void)state;
  sl_convert_request request = delta_to(in_folder("one"));
  assert_int_equal(convert(&request), SL_OK);
  request.out_dir = in_folder("many");
  request.shard_bytes = 60;
  assert_int_equal(convert(&request), SL_OK);
  assert_int_equal(count_files(in_folder("one")), 2);  /* weights, config.json */
  assert_int_equal(count_files(in_folder("many")), 6); /* 4 files, index, config.json */
  sl_safetensors *one, *many;
  assert_int_equal(sl_safetensors_open(&one, in_folder("one")), SL_OK);
  assert_int_equal(sl_safetensors_open(&many, in_folder("many")), SL_OK);
  assert_int_equal(sl_safetensors_count(many), sl_safetensors_count(one));
  assert_int_equal(sl_safetensors_count(many), 7);
  for (int i = 0; i < 7; i++) {
    const sl_tensor *a = sl_safetensors_at(one, i), *b = sl_safetensors_find(many, a->name);
    assert_non_null(b);
    const size_t n_bytes = (size_t)sl_tensor_count(a) * 2;
    assert_true(a->dtype == SL_F16 && b->dtype == SL_F16 && sl_tensor_count(b) == sl_tensor_count(a));
    assert_memory_equal(a->data, b->data, n_bytes);
    size_t n_file = 0; /* bytes of all tensors in the file of b */
    for (int k = 0; k < 7; k++) {
      const sl_tensor *other = sl_safetensors_at(many, k);
      if (strcmp(sl_safetensors_file_of(many, other), sl_safetensors_file_of(many, b)) == 0)
        n_file += (size_t)sl_tensor_count(other) * 2;
    }
    assert_true(n_file <= 60 || n_file == n_bytes);
  }
  sl_safetensors_close(one);
  sl_safetensors_close(many);
  json_t *index;
  assert_int_equal(sl_json_load(&index, in_folder("many/model.safetensors.index.json"), 1 << 16), SL_OK);
  const int n_element = 72 * 60 + 8 * 4 + 16 + 12 + 4 + 12 + 4;
  assert_int_equal(json_integer_value(sl_json_at(index, "metadata.total_size")), 2 * n_element);
  json_decref(index);
  sl_folder_remove(in_folder("one"));
  sl_folder_remove(in_folder("many"));
}

typedef struct watcher {
  int n_call, stop_at;
  double last;
} watcher;

static bool watch(void *user, const char *what, double done, double total) {
  watcher *w = user;
  assert_string_equal(what, "converting");
  assert_true(done >= w->last && done <= total && total == 1);
  w->last = done;
  return ++w->n_call != w->stop_at;
}

/* Stopped at every point where it can be, it leaves nothing. */
static void test_interruption(void **state) {
  (void)state;
  watcher whole = {0};
  sl_convert_request request = delta_to(in_folder("out"));
  request.progress = watch;
  request.user = &whole;
  assert_int_equal(convert(&request), SL_OK);
  assert_true(whole.last == 1 && whole.n_call >= 8);
  sl_folder_remove(in_folder("out"));
  for (int i = 1; i <= whole.n_call; i++) {
    watcher w = {.stop_at = i};
    request.user = &w;
    assert_fails(convert(&request), SL_ERROR_CANCELLED, "interrupted");
    assert_int_equal(count_files(folder), 0);
  }
  request.progress = NULL;
  assert_int_equal(sl_cancel_new(&request.cancel), SL_OK);
  sl_cancel_request(request.cancel);
  assert_fails(convert(&request), SL_ERROR_CANCELLED, "interrupted");
  assert_int_equal(count_files(folder), 0);
  sl_cancel_free(request.cancel);
}

static void test_requests(void **state) {
  (void)state;
  sl_convert_request request = delta_to(in_folder("out"));
  request.dtype = "f8";
  assert_fails(convert(&request), SL_ERROR_ARGUMENT, "expected f32, f16 or bf16, found \"f8\"");
  request = delta_to(NULL);
  assert_fails(convert(&request), SL_ERROR_ARGUMENT, "expected a request with its size");
  request = delta_to(in_folder("out"));
  request.size--;
  assert_fails(convert(&request), SL_ERROR_ARGUMENT, "expected a request with its size");
  assert_int_equal(count_files(folder), 0);
}

static void test_memory_sweep(void **state) {
  (void)state;
  sl_convert_request request = delta_to(in_folder("out"));
  request.dtype = "bf16";
  request.shard_bytes = 100;
  sl_status status = SL_ERROR_MEMORY;
  long n = 0;
  while (status == SL_ERROR_MEMORY) {
    sl_alloc_fail_at(++n);
    status = convert(&request);
    sl_alloc_fail_at(0);
    if (status == SL_ERROR_MEMORY) assert_int_equal(count_files(folder), 0);
  }
  if (status != SL_OK) fail_msg("%ld: %s", n, sl_error_message());
  assert_true(n > 100);
  sl_folder_remove(in_folder("out"));
}

static int make_folder(void **state) {
  (void)state;
  return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
  (void)state;
  sl_folder_remove(folder);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_shards),
      cmocka_unit_test(test_interruption),
      cmocka_unit_test(test_requests),
      cmocka_unit_test(test_memory_sweep),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
