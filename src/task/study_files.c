/* What decides results beside the weights: the settings that lie in a model's folder. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/text.h"
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

sl_status sl_study_hash_settings(char out[17], const char *model, const char *vision_model) {
  uint64_t hash = 0;
  SL_TRY(add_folder(&hash, model));
  if (vision_model) SL_TRY(add_folder(&hash, vision_model));
  snprintf(out, 17, "%016llx", (unsigned long long)hash);
  return SL_OK;
}
