/* Holding an opened model against reference activations, which tools/verify/reference.py writes with the user's own
 * transformers. */
#ifndef SIGHTLINE_VERIFY_H
#define SIGHTLINE_VERIFY_H

#include <stdbool.h>
#include <stddef.h>

#include "sightline/analysis.h"
#include "sightline/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What to do. Zero-initialise, set `size` and reference_path; strings are UTF-8 and borrowed. */
typedef struct sl_verify_request {
  size_t size;                /* sizeof(sl_verify_request) */
  const char *reference_path; /* safetensors file of tools/verify/reference.py */
  double tolerance;           /* largest difference over the row's largest value that passes; 0 = by the modes of both
                               * sides: 1e-4 in f32, 1e-3 in bf16x2, 5e-2 in bf16 or under a bf16 or f16 reference */
  int n_thread;               /* 0 = all processors */
  sl_progress_fn progress;    /* returning false cancels */
  void *user;                 /* handed to progress */
  sl_cancel *cancel;          /* may be NULL */
} sl_verify_request;

/* Runs the reference's pictures and questions through the model's own preprocessing, template and engine, and compares
 * in the order of computation: token ids, pixels, recorded sites, logits, greedy tokens, the logits with one head
 * silenced, CAM maps (whose tolerance is ten times as large: they are products of gradients).
 *
 *   error = max over rows of (max |own - reference| / max |reference|) of that row
 *
 * where a row smaller than a thousandth of the largest counts as that large. Token ids must be equal; where the question
 * in the model's template gives others than the reference has, those of the reference's whole prompt must be. A greedy
 * token may differ where the reference itself preferred it by less than the tolerance. Where pixels differ, that is a
 * difference, and the rest is compared on the reference's.
 *
 * *summary is JSON text (free()): "equal", "same_template", "largest" (error), "tolerance", "first" (the first difference,
 * or null), "compute", "reference" (versions, family, type), "checks" ([{case, name, error, tolerance, equal, note}]).
 * *equal may be NULL.
 *
 * Errors: SL_ERROR_ARGUMENT (the reference is of another model folder, or asks for what this model has not),
 * SL_ERROR_FILE, SL_ERROR_FORMAT (no such reference file, or a damaged one), SL_ERROR_CANCELLED. */
SL_API sl_status sl_verify(const sl_model *model, const sl_verify_request *request, bool *equal, char **summary);

#ifdef __cplusplus
}
#endif
#endif
