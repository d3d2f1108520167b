/* Opening a model: an ordinary Hugging Face folder, as it is. */
#ifndef SIGHTLINE_MODEL_H
#define SIGHTLINE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sightline/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sl_model sl_model;

/* Progress of long work, called on the calling thread: `done` of `total` units of `what`. Returning false cancels. */
typedef bool (*sl_progress_fn)(void *user, const char *what, double done, double total);
/* A warning or notice, one line, called on the calling thread. */
typedef void (*sl_log_fn)(void *user, const char *message);

typedef struct sl_model_options {
  size_t size;         /* sizeof(sl_model_options): lets the struct grow */
  const char *backend; /* "cpu" (NULL), "ref" */
  const char *compute; /* "auto" (NULL), "bf16", "bf16x2", "f32" */
  int n_thread;        /* 0 = all processors */
  sl_progress_fn progress;
  sl_log_fn log;
  void *user;          /* handed to progress and log */
  /* Folder of the vision tower (a CLIPModel's or CLIPVisionModel's), for models that are published without it. NULL:
   * where config.json's mm_vision_tower is found on this machine (as a path, beside the folder, in Hugging Face's
   * cache); never the network. */
  const char *vision_model;
  /* How prompts are written instead of the family's own template: "{question}" and "<image>" once each. NULL: the
   * family's. Where a role marker of the family is in it, its tokens are told apart as ever. */
  const char *prompt_template;
} sl_model_options;

/* Opens the folder `path`: config.json, safetensors or PyTorch .bin (single or sharded), tokenizer files, processor
 * settings. Every tensor's shape and type is checked; missing and duplicate tensors are an error that names them, unused
 * ones are kept for sl_model_describe and NaN or infinite weights are reported through `log`. options may be NULL.
 * Several models can be open at once.
 * Errors: SL_ERROR_FILE (missing), SL_ERROR_FORMAT (damaged or contradictory), SL_ERROR_UNSUPPORTED (no such family, or
 * a setting that sightline does not compute), SL_ERROR_ARGUMENT (options). */
SL_API sl_status sl_model_open(sl_model **out, const char *path, const sl_model_options *options);
SL_API void sl_model_close(sl_model *model); /* NULL is fine; nothing may use the model any more */

/* What `sightline info` prints, as JSON text (free()): family, parts, shapes, sites, weights found, missing and unused,
 * bytes, template, and, when `question` is not NULL, the token layout of that prompt with estimates
 * of memory and work. */
SL_API sl_status sl_model_describe(const sl_model *model, const char *question, char **json);

#ifdef __cplusplus
}
#endif
#endif
