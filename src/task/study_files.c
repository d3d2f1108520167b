/* What decides results beside the weights: the settings that lie in a model's folder. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/text.h"
#include "model/family.h"
#include "model/tower_folder.h"
#include "task/study_internal.h"

#define MAX_FILE_BYTES ((size_t)1 << 30)

static const char *const names[] = {"config.json",          "generation_config.json", "preprocessor_config.json",
                                    "processor_config.json", "tokenizer.json",         "tokenizer.model",
                                    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                                    "vocab.json",           "merges.txt",             "vocab.txt",
                                    "qwen.tiktoken",        "chat_template.jinja",    "chat_template.json"};

/* 0 for no path. */
sl_status sl_study_hash_file(uint64_t *hash, const char *path, size_t max_bytes) {
  char *bytes = NULL;
  size_t n_bytes = 0;
  *hash = 0;
  if (!path) return SL_OK;
  SL_TRY(sl_file_read(path, max_bytes, &bytes, &n_bytes));
  *hash = XXH3_64bits(bytes, n_bytes);
  free(bytes);
  return SL_OK;
}

/* Each file's hash is seeded with those before it, so that names and order count. */
static sl_status add_folder(uint64_t *hash, const char *dir) {
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char *path = NULL;
    uint64_t own[2] = {i, 0};
    SL_TRY(sl_path_join(&path, dir, names[i]));
    const bool there = access(path, F_OK) == 0;
    const sl_status status = there ? sl_study_hash_file(&own[1], path, MAX_FILE_BYTES) : SL_OK;
    free(path);
    SL_TRY(status);
    if (there) *hash = XXH3_64bits_withSeed(own, sizeof own, *hash);
  }
  return SL_OK;
}

/* The folders beside the model's own whose settings decide results, found as opening the model finds them: the tower's,
 * given or looked for, and the one that a Q-Former's question tokenizer has below the model. NULL where there is none. */
static sl_status find_folders(const char *model, const char *given, char **tower, char **question) {
  const sl_family *family = NULL;
  json_t *config = NULL;
  char *path = NULL;
  sl_status status = sl_config_load(&config, model, &path);
  if (status == SL_OK) status = sl_family_find(&family, config, path);
  if (status == SL_OK && given)
    status = sl_strdup(tower, given);
  else if (status == SL_OK && family->tower_apart)
    status = sl_tower_folder_find(tower, model, json_string_value(json_object_get(config, "mm_vision_tower")));
  if (status == SL_OK && family->question_tokenizer) status = sl_path_join(question, model, family->question_tokenizer);
  json_decref(config);
  free(path);
  return status;
}

sl_status sl_study_hash_settings(char out[17], const char *model, const char *vision_model) {
  uint64_t hash = 0;
  char *tower = NULL, *question = NULL;
  sl_status status = find_folders(model, vision_model, &tower, &question);
  if (status == SL_OK) status = add_folder(&hash, model);
  if (status == SL_OK && tower) status = add_folder(&hash, tower);
  if (status == SL_OK && question) status = add_folder(&hash, question);
  snprintf(out, 17, "%016llx", (unsigned long long)hash);
  free(question);
  free(tower);
  return status;
}
