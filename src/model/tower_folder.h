/* The folder of a tower that is published apart from its language model (Shikra, the original LLaVA). */
#ifndef SL_MODEL_TOWER_FOLDER_H
#define SL_MODEL_TOWER_FOLDER_H

#include "model/config.h"

/* Looks for the tower `name` (config.json's mm_vision_tower, "openai/clip-vit-large-patch14", or a path) as a path, in
 * the model's folder `dir`, beside it, and in Hugging Face's cache. *out is a new string; NULL when it is nowhere. */
sl_status sl_tower_folder_find(char **out, const char *dir, const char *name);

/* The error that says where the tower was looked for. */
sl_status sl_tower_folder_lacks(const char *dir, const char *name);

/* Puts the tower's config into `config` as "vision_config": that of the folder `tower_dir` (a CLIPModel's, or a
 * CLIPVisionModel's), or without one (NULL) that of a well-known tower, whose weights are then in `dir`. */
sl_status sl_tower_folder_config(json_t *config, const char *dir, const char *tower_dir);

#endif
