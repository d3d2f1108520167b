/* Table 1 of Zhang et al., From Redundancy to Relevance (R2R), arXiv 2406.06579: scores in percent of the whole model and
 * truncated at the cliff layer, to stand beside one's own; and the cliff layers that its text tells of LLaVA-1.5-7B (32
 * layers; whether they count from 0 or 1 is not said). InternVL's POPE accuracy and F1 cannot both come from balanced
 * data, and several of the CHAIRs look like CHAIRi: they are told as printed. */
#include <string.h>

#include "task/eval_internal.h"

static const struct {
  const char *benchmark, *family, *model, *metric;
  double whole, truncated;
} rows[] = {
    {"pope", "llava", "LLaVA-1.5", "accuracy", 84.70, 85.51},
    {"pope", "llava", "LLaVA-1.5", "f1", 85.50, 85.99},
    {"pope", "qwen-vl", "Qwen-VL", "accuracy", 80.81, 81.13},
    {"pope", "qwen-vl", "Qwen-VL", "f1", 77.29, 77.82},
    {"pope", "instructblip", "InstructBLIP", "accuracy", 84.85, 85.44},
    {"pope", "instructblip", "InstructBLIP", "f1", 85.40, 85.40},
    {"pope", "shikra", "Shikra", "accuracy", 75.41, 76.34},
    {"pope", "shikra", "Shikra", "f1", 78.52, 79.16},
    {"pope", "internvl", "InternVL", "accuracy", 94.01, 94.58},
    {"pope", "internvl", "InternVL", "f1", 86.31, 87.21},
    {"pope", "llava-next", "LLaVA-1.6", "f1", 86.50, 86.99},
    {"scienceqa", "llava", "LLaVA-1.5", "accuracy", 65.00, 66.48},
    {"scienceqa", "qwen-vl", "Qwen-VL", "accuracy", 67.12, 67.67},
    {"scienceqa", "instructblip", "InstructBLIP", "accuracy", 60.50, 60.50},
    {"scienceqa", "shikra", "Shikra", "accuracy", 45.80, 46.70},
    {"scienceqa", "internvl", "InternVL", "accuracy", 66.20, 66.85},
    {"scienceqa", "llava-next", "LLaVA-1.6", "accuracy", 70.11, 70.74},
    {"textvqa", "llava", "LLaVA-1.5", "accuracy", 59.34, 60.02},
    {"textvqa", "qwen-vl", "Qwen-VL", "accuracy", 60.60, 60.73},
    {"textvqa", "instructblip", "InstructBLIP", "accuracy", 50.10, 50.62},
    {"textvqa", "internvl", "InternVL", "accuracy", 57.00, 58.18},
    {"textvqa", "llava-next", "LLaVA-1.6", "accuracy", 64.90, 65.23},
    {"chair", "llava", "LLaVA-1.5", "chair_s", 13.80, 13.80},
    {"chair", "qwen-vl", "Qwen-VL", "chair_i", 12.50, 12.50},
    {"chair", "instructblip", "InstructBLIP", "chair_s", 24.50, 22.80},
    {"chair", "shikra", "Shikra", "chair_s", 12.50, 12.50},
    {"chair", "internvl", "InternVL", "chair_s", 12.90, 12.90},
};

static const struct {
  const char *benchmark, *also, *layer, *note; /* also: a metric of the table beside the headline */
} texts[] = {
    {"pope", "f1", "24 (22 in its section on experiments)",
     "InternVL's accuracy and F1 cannot both come from balanced data"},
    {"scienceqa", NULL, "12", NULL},
    {"textvqa", NULL, "18", NULL},
    {"chair", "chair_i", "about 30",
     "its script decodes by beam search; some of these CHAIRs look like CHAIRi"},
};

/* The summary's numbers of these names, whole and at its cliff layer. */
static sl_status add_own(json_t *paper, const json_t *summary, const char *const *metrics) {
  const json_t *cliff = json_object_get(summary, "cliff"), *curve = json_object_get(cliff, "curve");
  const json_t *layer = json_object_get(cliff, "layer");
  const json_t *whole = json_array_get(curve, json_array_size(curve) - 1);
  json_t *own = json_array();
  if (!layer) {
    json_decref(own);
    return SL_OK;
  }
  const json_t *truncated = json_array_get(curve, (size_t)json_integer_value(layer));
  SL_TRY(sl_metric_set(paper, "own", own));
  for (int i = 0; metrics[i]; i++) {
    const json_t *a = json_object_get(whole, metrics[i]), *b = json_object_get(truncated, metrics[i]);
    json_t *row = json_pack("{s:s, s:o, s:o}", "metric", metrics[i], "whole_percent",
                            json_is_number(a) ? json_real(100 * json_number_value(a)) : json_null(), "truncated_percent",
                            json_is_number(b) ? json_real(100 * json_number_value(b)) : json_null());
    if (json_array_append_new(own, row) != 0) SL_FAIL(SL_ERROR_MEMORY, "no memory for the paper's table");
  }
  return SL_OK;
}

static sl_status add_rows(json_t *paper, const char *benchmark, const char *family) {
  json_t *list = json_array();
  SL_TRY(sl_metric_set(paper, "rows", list));
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    if (strcmp(rows[i].benchmark, benchmark) != 0) continue;
    json_t *row = json_pack("{s:s, s:s, s:f, s:f, s:b}", "model", rows[i].model, "metric", rows[i].metric, "whole_percent",
                            rows[i].whole, "truncated_percent", rows[i].truncated, "same_family",
                            family && strcmp(family, rows[i].family) == 0);
    if (json_array_append_new(list, row) != 0) SL_FAIL(SL_ERROR_MEMORY, "no memory for the paper's table");
  }
  return SL_OK;
}

sl_status sl_eval_paper(json_t *summary, const sl_evaluation *e) {
  const char *family = json_string_value(json_object_get(json_object_get(summary, "model"), "family"));
  size_t i = 0;
  while (i < sizeof texts / sizeof *texts && strcmp(texts[i].benchmark, e->benchmark->name) != 0) i++;
  if (i == sizeof texts / sizeof *texts) return SL_OK;
  json_t *paper = json_object();
  SL_TRY(sl_metric_set(summary, "paper", paper));
  SL_TRY(sl_metric_set(paper, "source", json_string("Zhang et al. 2025, arXiv 2406.06579, table 1")));
  SL_TRY(sl_metric_set(paper, "cliff_layer_of_llava_1.5_7b", json_string(texts[i].layer)));
  if (texts[i].note) SL_TRY(sl_metric_set(paper, "note", json_string(texts[i].note)));
  SL_TRY(add_rows(paper, e->benchmark->name, family));
  return add_own(paper, summary, (const char *const[]){e->benchmark->headline, texts[i].also, NULL});
}
