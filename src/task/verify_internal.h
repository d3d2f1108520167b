/* The pieces of sl_verify: the reference file, and the list of checks. */
#ifndef SL_TASK_VERIFY_INTERNAL_H
#define SL_TASK_VERIFY_INTERNAL_H

#include "base/json.h"
#include "input/image.h"
#include "sightline/verify.h"
#include "tensor/safetensors.h"

/* An opened reference file: its arrays are checked where they are taken. Zero-initialise; release with _dispose. */
typedef struct sl_reference {
  const char *path;    /* borrowed */
  sl_safetensors *file;
  json_t *facts;       /* the content of "reference.json" */
  const json_t *cases; /* array, at least one */
} sl_reference;

/* Opens the file and refuses one that was made from another folder than `model_dir`. */
sl_status sl_reference_open(sl_reference *out, const char *path, const char *model_dir);
void sl_reference_dispose(sl_reference *reference);

/* The array "<name>/<array>" with this element type; *out NULL when there is none and it may be missing. */
sl_status sl_reference_take(const sl_tensor **out, const sl_reference *reference, const char *name, const char *array,
                            sl_dtype dtype, bool may_miss);

/* A picture stored as u8 [height, width, 3] (sl_rgb_dispose). */
sl_status sl_reference_picture(sl_rgb *out, const sl_reference *reference, const char *name);

/* A member of facts or of a case that must be there. */
sl_status sl_reference_string(const char **out, const sl_reference *reference, const json_t *object, const char *key);
sl_status sl_reference_number(int *out, const sl_reference *reference, const json_t *object, const char *key, int most);

/* FNV-1a over the folder's config.json and, of every weight file, name, size and 64 windows of 64 bytes (all of a file
 * of 4096 bytes or less): what tools/verify/reference.py computes. */
sl_status sl_folder_fingerprint(uint64_t *out, const char *dir);

#endif
