/* Golden numbers for tests: a checkpoint folder of tests/golden with its arrays, and comparison that names what diverged. */
#ifndef TESTS_GOLDEN_H
#define TESTS_GOLDEN_H

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/text.h"
#include "tensor/safetensors.h"

#define GOLDEN_DIR SL_SOURCE_DIR "/tests/golden"

/* Fails the test with the library's message. */
#define ASSERT_OK(expression)                                                                   \
  do {                                                                                          \
    if ((expression) != SL_OK) fail_msg("%s: %s", #expression, sl_error_message());              \
  } while (0)

typedef struct golden {
  char dir[512];
  sl_safetensors *arrays;
  json_t *facts;
} golden;

static inline golden golden_open(const char *name) {
  golden g = {0};
  char path[600];
  snprintf(g.dir, sizeof g.dir, "%s/%s", GOLDEN_DIR, name);
  snprintf(path, sizeof path, "%s/golden.safetensors", g.dir);
  ASSERT_OK(sl_safetensors_open(&g.arrays, path));
  snprintf(path, sizeof path, "%s/golden.json", g.dir);
  ASSERT_OK(sl_json_load(&g.facts, path, (size_t)1 << 24));
  return g;
}

static inline void golden_close(golden *g) {
  sl_safetensors_close(g->arrays);
  json_decref(g->facts);
}

/* The array "<case>/<name>", or NULL. */
static inline const sl_tensor *golden_find(const golden *g, const char *test_case, const char *name) {
  char full[160];
  snprintf(full, sizeof full, "%s/%s", test_case, name);
  return sl_safetensors_find(g->arrays, full);
}

static inline const char *golden_string(const golden *g, const char *test_case, const char *key) {
  char path[128];
  snprintf(path, sizeof path, "cases.%s.%s", test_case, key);
  return json_string_value(sl_json_at(g->facts, path));
}

/* Largest |got - want| over the largest |want|; NaN anywhere (or only on one side) gives infinity. -inf equals -inf. */
static inline double golden_distance(const float *got, const sl_tensor *want) {
  const int64_t count = sl_tensor_count(want);
  float *expected = malloc((size_t)count * sizeof *expected + 1);
  sl_convert_to_f32(expected, want->data, want->dtype, count);
  double most = 0, largest = 0;
  for (int64_t i = 0; i < count; i++) {
    if (isinf(expected[i]) && got[i] == expected[i]) continue;
    const double difference = fabs((double)got[i] - (double)expected[i]);
    if (!(difference <= most)) most = isfinite(difference) ? difference : INFINITY;
    if (fabs((double)expected[i]) > largest) largest = fabs((double)expected[i]);
  }
  free(expected);
  return largest > 0 ? most / largest : most;
}

#endif
