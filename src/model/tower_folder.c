/* The tower of models that are published without it: config.json's mm_vision_tower names a CLIP folder, which is looked
 * for on this machine (Hugging Face's cache: huggingface_hub's folder layout) and never fetched. */
#include "model/tower_folder.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"

/* Where a folder called `name` may be: as it is, in the model's folder, beside it, in the cache. */
#define N_PLACE 4

typedef struct places {
  char *paths[N_PLACE];
} places;

static void free_places(places *p) {
  for (int i = 0; i < N_PLACE; i++) free(p->paths[i]);
}

/* $HF_HUB_CACHE (formerly $HUGGINGFACE_HUB_CACHE), $HF_HOME/hub, $XDG_CACHE_HOME/huggingface/hub,
 * ~/.cache/huggingface/hub: the first that is set. */
static sl_status hub_folder(sl_text *out) {
  static const struct {
    const char *variable, *below;
  } rows[] = {{"HF_HUB_CACHE", ""},
              {"HUGGINGFACE_HUB_CACHE", ""},
              {"HF_HOME", "/hub"},
              {"XDG_CACHE_HOME", "/huggingface/hub"},
              {"HOME", "/.cache/huggingface/hub"}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    const char *value = getenv(rows[i].variable);
    if (value && *value) return sl_text_format(out, "%s%s", value, rows[i].below);
  }
  return sl_text_append_string(out, ".cache/huggingface/hub");
}

/* "openai/clip" is kept in HUB/models--openai--clip. */
static sl_status cache_folder(sl_text *out, const char *name) {
  SL_TRY(hub_folder(out));
  SL_TRY(sl_text_append_string(out, "/models--"));
  for (const char *c = name; *c; c++) SL_TRY(sl_text_append_string(out, *c == '/' ? "--" : (char[]){*c, '\0'}));
  return SL_OK;
}

static sl_status find_places(places *p, const char *dir, const char *name) {
  const char *slash = strrchr(name, '/');
  sl_text text[N_PLACE] = {{0}};
  sl_status status = sl_text_append_string(&text[0], name);
  if (status == SL_OK) status = sl_text_format(&text[1], "%s/%s", dir, name);
  if (status == SL_OK) status = sl_text_format(&text[2], "%s/../%s", dir, slash ? slash + 1 : name);
  if (status == SL_OK) status = cache_folder(&text[3], name);
  for (int i = 0; i < N_PLACE; i++) p->paths[i] = text[i].data;
  if (status != SL_OK) free_places(p);
  return status;
}

static bool holds_config(const char *dir) {
  char path[PATH_MAX];
  return snprintf(path, sizeof path, "%s/config.json", dir) < (int)sizeof path && access(path, R_OK) == 0;
}

/* The snapshot that refs/main names; "" when the cache does not say. */
static void main_snapshot(const char *cache, char out[PATH_MAX]) {
  char path[PATH_MAX], commit[256] = "";
  out[0] = '\0';
  if (snprintf(path, sizeof path, "%s/refs/main", cache) >= (int)sizeof path) return;
  FILE *file = fopen(path, "r");
  if (file && !fgets(commit, sizeof commit, file)) commit[0] = '\0';
  if (file) fclose(file);
  commit[strcspn(commit, " \r\n")] = '\0';
  if (commit[0] == '\0' || strchr(commit, '/') ||
      snprintf(out, PATH_MAX, "%s/snapshots/%s", cache, commit) >= PATH_MAX || !holds_config(out))
    out[0] = '\0';
}

/* The first snapshot by name that has a config.json; "" without one. */
static void any_snapshot(const char *cache, char out[PATH_MAX]) {
  char path[PATH_MAX];
  struct dirent **names = NULL;
  out[0] = '\0';
  if (snprintf(path, sizeof path, "%s/snapshots", cache) >= (int)sizeof path) return;
  const int n = scandir(path, &names, NULL, alphasort);
  for (int i = 0; i < n; i++) {
    const bool wanted = out[0] == '\0' && names[i]->d_name[0] != '.';
    if (wanted && (snprintf(out, PATH_MAX, "%s/%s", path, names[i]->d_name) >= PATH_MAX || !holds_config(out)))
      out[0] = '\0';
    free(names[i]);
  }
  free(names);
}

sl_status sl_tower_folder_find(char **out, const char *dir, const char *name) {
  places p = {{0}};
  char snapshot[PATH_MAX] = "";
  *out = NULL;
  if (!name || !*name) return SL_OK;
  SL_TRY(find_places(&p, dir, name));
  main_snapshot(p.paths[N_PLACE - 1], snapshot);
  if (snapshot[0] == '\0') any_snapshot(p.paths[N_PLACE - 1], snapshot);
  const char *found = snapshot;
  for (int i = N_PLACE - 2; i >= 0; i--)
    if (holds_config(p.paths[i])) found = p.paths[i];
  const sl_status status = found[0] ? sl_strdup(out, found) : SL_OK;
  free_places(&p);
  return status;
}

sl_status sl_tower_folder_lacks(const char *dir, const char *name) {
  places p = {{0}};
  if (!name || !*name)
    SL_FAIL(SL_ERROR_FILE, "%s: its vision tower is in a folder of its own, which config.json's mm_vision_tower does "
            "not name; give it with --vision-model", dir);
  SL_TRY(find_places(&p, dir, name));
  const sl_status status =
      sl_fail(SL_ERROR_FILE, "%s: its vision tower \"%s\" (mm_vision_tower) is a folder of its own, and none of %s, "
              "%s, %s, %s/snapshots/* has its config.json; give it with --vision-model", dir, name, p.paths[0],
              p.paths[1], p.paths[2], p.paths[3]);
  free_places(&p);
  return status;
}

/* Published towers that folders with a tower of their own may still name. */
static json_t *known_config(const char *name) {
  static const struct {
    const char *name;
    int image_px;
  } rows[] = {{"openai/clip-vit-large-patch14", 224}, {"openai/clip-vit-large-patch14-336", 336}};
  for (size_t i = 0; name && i < sizeof rows / sizeof *rows; i++)
    if (strcmp(name, rows[i].name) == 0)
      return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i}", "model_type", "clip_vision_model", "hidden_size", 1024,
                       "intermediate_size", 4096, "num_hidden_layers", 24, "num_attention_heads", 16, "image_size",
                       rows[i].image_px, "patch_size", 14);
  return NULL;
}

sl_status sl_tower_folder_config(json_t *config, const char *dir, const char *tower_dir) {
  const char *name = json_string_value(json_object_get(config, "mm_vision_tower"));
  json_t *root = NULL, *section = NULL;
  char *path = NULL;
  if (tower_dir) {
    SL_TRY(sl_config_load(&root, tower_dir, &path));
    section = json_object_get(root, "vision_config");
    section = json_incref(json_is_object(section) ? section : root);
  } else {
    section = known_config(name);
  }
  free(path);
  sl_status status = SL_OK;
  if (!section)
    status = sl_tower_folder_lacks(dir, name);
  else if (json_object_set(config, "vision_config", section) != 0)
    status = sl_fail(SL_ERROR_MEMORY, "%s: no memory for the tower's config", dir);
  json_decref(section);
  json_decref(root);
  return status;
}
