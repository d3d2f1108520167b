/* Table 1 of Zhang et al., From Redundancy to Relevance (R2R), arXiv 2406.06579: scores in percent of the whole model and
 * truncated at the cliff layer, to stand beside one's own. InternVL's POPE accuracy and F1 cannot both come from balanced
 * data, and several of the CHAIRs look like CHAIRi: they are told as printed. */
#include <string.h>

#include "task/eval_internal.h"

static const struct {
  const char *benchmark, *model, *metric;
  double whole, truncated;
} rows[] = {
    {"pope", "LLaVA-1.5", "accuracy", 84.70, 85.51},    {"pope", "LLaVA-1.5", "f1", 85.50, 85.99},
    {"pope", "Qwen-VL", "accuracy", 80.81, 81.13},      {"pope", "Qwen-VL", "f1", 77.29, 77.82},
    {"pope", "InstructBLIP", "accuracy", 84.85, 85.44}, {"pope", "InstructBLIP", "f1", 85.40, 85.40},
    {"pope", "Shikra", "accuracy", 75.41, 76.34},       {"pope", "Shikra", "f1", 78.52, 79.16},
    {"pope", "InternVL", "accuracy", 94.01, 94.58},     {"pope", "InternVL", "f1", 86.31, 87.21},
    {"pope", "LLaVA-1.6", "f1", 86.50, 86.99},
    {"scienceqa", "LLaVA-1.5", "accuracy", 65.00, 66.48},    {"scienceqa", "Qwen-VL", "accuracy", 67.12, 67.67},
    {"scienceqa", "InstructBLIP", "accuracy", 60.50, 60.50}, {"scienceqa", "Shikra", "accuracy", 45.80, 46.70},
    {"scienceqa", "InternVL", "accuracy", 66.20, 66.85},     {"scienceqa", "LLaVA-1.6", "accuracy", 70.11, 70.74},
    {"textvqa", "LLaVA-1.5", "accuracy", 59.34, 60.02},    {"textvqa", "Qwen-VL", "accuracy", 60.60, 60.73},
    {"textvqa", "InstructBLIP", "accuracy", 50.10, 50.62}, {"textvqa", "InternVL", "accuracy", 57.00, 58.18},
    {"textvqa", "LLaVA-1.6", "accuracy", 64.9, 65.23},
    {"chair", "LLaVA-1.5", "chair_s", 13.80, 13.80}, {"chair", "Qwen-VL", "chair_i", 12.50, 12.50},
    {"chair", "InstructBLIP", "chair_s", 24.50, 22.80}, {"chair", "Shikra", "chair_s", 12.50, 12.50},
    {"chair", "InternVL", "chair_s", 12.90, 12.90}};

json_t *sl_eval_paper(const char *benchmark) {
  json_t *list = json_array();
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    if (strcmp(rows[i].benchmark, benchmark) != 0) continue;
    json_array_append_new(list, json_pack("{s:s, s:s, s:f, s:f}", "model", rows[i].model, "metric", rows[i].metric,
                                          "whole_percent", rows[i].whole, "truncated_percent", rows[i].truncated));
  }
  if (json_array_size(list) > 0)
    return json_pack("{s:s, s:o}", "source", "Zhang et al. 2025, arXiv 2406.06579, table 1", "rows", list);
  json_decref(list);
  return NULL;
}
