/* libFuzzer target: any bytes as a plan file. What is read is written again as the same text, and checking it against a
 * model never goes astray. */
#include <stdlib.h>
#include <string.h>

#include "model/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static void require(bool condition) {
  if (!condition) abort();
}

static char *print(const sl_plan *plan) {
  json_t *json = NULL;
  char *text = NULL;
  require(sl_plan_to_json(plan, &json) == SL_OK && sl_json_print(json, 0, &text) == SL_OK);
  json_decref(json);
  return text;
}

static void check_round_trip(const sl_plan *plan) {
  char *first = print(plan);
  json_t *json = NULL;
  sl_plan again;
  require(sl_json_parse(&json, first, strlen(first), "again") == SL_OK);
  require(sl_plan_from_json(&again, json, "again") == SL_OK);
  char *second = print(&again);
  require(strcmp(first, second) == 0);
  json_decref(json);
  sl_plan_dispose(&again);
  free(first);
  free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes) {
  const sl_plan_limits limits = {.n_layer = 4,
                                 .n_head = 8,
                                 .n_head_kv = 2,
                                 .d_model = 16,
                                 .d_head = 2,
                                 .d_mlp = 32,
                                 .n_token = 70,
                                 .first_image = 3,
                                 .n_image = 16,
                                 .n_baseline = 1,
                                 .n_run = 1};
  json_t *json = NULL;
  sl_plan plan;
  if (sl_json_parse(&json, (const char *)bytes, n_bytes, "fuzz.json") != SL_OK) return 0;
  if (sl_plan_from_json(&plan, json, "fuzz.json") == SL_OK) {
    check_round_trip(&plan);
    if (sl_plan_check(&plan, &limits, "fuzz") != SL_OK) require(strstr(sl_error_message(), "fuzz, ") != NULL);
  } else {
    require(strstr(sl_error_message(), "fuzz.json") != NULL);
  }
  sl_plan_dispose(&plan);
  json_decref(json);
  return 0;
}
