/* Making a folder of safetensors out of another one: from PyTorch's .bin, in another element type, or by adding a delta
 * to the model that it belongs to. */
#ifndef SIGHTLINE_CONVERT_H
#define SIGHTLINE_CONVERT_H

#include <stddef.h>
#include <stdint.h>

#include "sightline/analysis.h"
#include "sightline/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What to do. Zero-initialise, set `size`, model_dir and out_dir; strings are UTF-8 and borrowed. */
typedef struct sl_convert_request {
  size_t size;             /* sizeof(sl_convert_request) */
  const char *model_dir;   /* a Hugging Face folder: safetensors or PyTorch's .bin, in one file or shards */
  const char *out_dir;     /* the folder to make; must not exist */
  const char *delta_base;  /* model_dir holds a delta: target minus the weights of this folder; NULL = it does not */
  const char *dtype;       /* element type of floating-point tensors: "f32", "f16" or "bf16"; NULL = as they are */
  uint64_t shard_bytes;    /* a new file begins when one would grow beyond this; 0 = 5,000,000,000 */
  sl_progress_fn progress; /* a share of 1; returning false cancels */
  void *user;              /* handed to progress */
  sl_cancel *cancel;       /* may be NULL */
} sl_convert_request;

/* Writes model.safetensors, or shards and model.safetensors.index.json, and copies configuration, tokenizer and licence
 * files (.json, .model, .txt, .jinja, .tiktoken, .py, .md, LICENSE*, COPYING*, NOTICE*; at most 64 MB each); where
 * `dtype` is given, "torch_dtype" and "dtype" in config.json follow it. The folder appears whole or not at all. Memory
 * does not grow with the model: tensors are made and written piece by piece (those that a .bin file holds transposed
 * are copied when it is opened).
 *
 * With a delta, tensor by tensor of the model folder:
 *   out = round(f32(delta) + f32(base))       to `dtype`, or to the delta's own type, to nearest even
 * Rows that embed_tokens.weight or lm_head.weight has beyond the base's, and tensors that the base lacks (a projector),
 * are taken as they are. A base tensor that the delta lacks, or of another shape, is an error. rotary_emb.inv_freq
 * follows from config.json and is left out.
 *
 * *summary is JSON text (free()): "out", "tensors", "bytes", "files" (of weights), "copied", "left" (files that were
 * not copied), "added" (tensors with a summand), "taken" (names of those that the base lacks).
 *
 * Errors: SL_ERROR_ARGUMENT (unknown dtype), SL_ERROR_FILE (missing, unwritable, out_dir exists), SL_ERROR_FORMAT,
 * SL_ERROR_UNSUPPORTED (a value that f16 cannot hold), SL_ERROR_CANCELLED; nothing is left behind. */
SL_API sl_status sl_convert(const sl_convert_request *request, char **summary);

#ifdef __cplusplus
}
#endif
#endif
