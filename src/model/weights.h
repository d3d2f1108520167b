/* The tensors of a folder by role: names made canonical, every shape and type checked, missing and duplicate ones
 * named, unused ones listed. */
#ifndef SL_MODEL_WEIGHTS_H
#define SL_MODEL_WEIGHTS_H

#include "base/text.h"
#include "model/family.h"
#include "tensor/safetensors.h"

typedef struct sl_weights sl_weights;

/* Opens the folder's tensors, and where it has no tower those of the tower's own folder (NULL: there is none), and
 * canonicalises the names. Two names that mean the same tensor are an error. What is pointed to must outlive the
 * handle. */
sl_status sl_weights_open(sl_weights **out, const char *dir, const char *vision_dir, const sl_family *family,
                          const sl_kinds *kinds, const sl_config *config);
void sl_weights_close(sl_weights *weights);

/* The tensor of a role, checked; *out is NULL when the config says there is none (a bias, a tied head). `layer` is
 * ignored for roles without one. A needed tensor that is absent is an error naming the folder and the tensor's
 * canonical name. */
sl_status sl_weights_get(sl_weights *weights, sl_role role, int layer, const sl_tensor **out);

/* To be called when a tensor was packed: its pages are dropped, and it counts into the hash. Reports a NaN or infinity
 * found in it: *bad_index is the first one's element index, or -1. */
void sl_weights_done(sl_weights *weights, const sl_tensor *tensor, int64_t *bad_index);

/* True when the tower's tensors are those of its own folder. */
bool sl_weights_tower_apart(const sl_weights *weights);

/* True when some kind of this model has such a tensor at all. */
bool sl_weights_has_role(const sl_weights *weights, sl_role role);

/* After loading. Names of tensors that nothing asked for, except those the family knows to be unneeded. */
int sl_weights_unused(const sl_weights *weights, const char **names, int max);
int sl_weights_found(const sl_weights *weights); /* tensors used */
uint64_t sl_weights_bytes(const sl_weights *weights);
uint64_t sl_weights_hash(const sl_weights *weights); /* of name, type, shape and content of the tensors used */

#endif
