/* Baselines: what stands in for the picture.
 *
 * Source: Kim et al., Interpreting Attention Heads for Image-to-Text Information Flow in LVLMs (HA), arXiv 2509.17588:
 * "baseline representations" replace keys and values at image positions. Which ones the text does not say; those
 * offered here, and the defaults, are sightline's. */
#include "analysis/baseline.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/text.h"

static const char *const kind_names[] = {[SL_BASELINE_MEAN] = "mean", [SL_BASELINE_MEAN_ALL] = "mean-all",
                                         [SL_BASELINE_ZERO] = "zero", [SL_BASELINE_BLOCK] = "block",
                                         [SL_BASELINE_IMAGE] = "image"};
static const char IMAGE_PREFIX[] = "image:";

static sl_status check_path(const char *option, const char *path, bool folder) {
  struct stat info;
  if (stat(path, &info) != 0) SL_FAIL(SL_ERROR_FILE, "%s: %s: %s", option, path, strerror(errno));
  if (folder ? S_ISDIR(info.st_mode) : S_ISREG(info.st_mode)) return SL_OK;
  SL_FAIL(SL_ERROR_FILE, "%s: %s: expected a %s", option, path, folder ? "folder" : "file");
}

/* Kind and path from the options; nothing is opened. */
static sl_status read_kind(sl_standin *s, const sl_analysis_context *c) {
  const char *name = sl_context_text(c, "baseline"), *folder = sl_context_text(c, "calibration");
  *s = (sl_standin){.kind = folder ? SL_BASELINE_MEAN : SL_BASELINE_BLOCK};
  if (name && strncmp(name, IMAGE_PREFIX, strlen(IMAGE_PREFIX)) == 0) {
    s->kind = SL_BASELINE_IMAGE;
    s->path = name + strlen(IMAGE_PREFIX);
    if (!*s->path) SL_FAIL(SL_ERROR_ARGUMENT, "--baseline image:FILE: the file is missing");
  } else if (name) {
    int kind = 0;
    while (kind < SL_BASELINE_IMAGE && strcmp(name, kind_names[kind]) != 0) kind++;
    if (kind == SL_BASELINE_IMAGE)
      SL_FAIL(SL_ERROR_ARGUMENT, "--baseline: expected mean, mean-all, zero, block or image:FILE, found \"%s\"", name);
    s->kind = (sl_baseline_kind)kind;
  }
  const bool mean = s->kind == SL_BASELINE_MEAN || s->kind == SL_BASELINE_MEAN_ALL;
  if (mean && !folder)
    SL_FAIL(SL_ERROR_ARGUMENT, "--baseline %s is a mean over pictures: it needs --calibration FOLDER",
            kind_names[s->kind]);
  if (folder && !mean)
    SL_FAIL(SL_ERROR_ARGUMENT, "--calibration goes with --baseline mean or mean-all, not %s", kind_names[s->kind]);
  if (mean) s->path = folder;
  return SL_OK;
}

sl_status sl_standin_check(const sl_analysis_context *c) {
  sl_standin s;
  SL_TRY(read_kind(&s, c));
  if (s.kind == SL_BASELINE_IMAGE) return check_path("--baseline image", s.path, false);
  return s.path ? check_path("--calibration", s.path, true) : SL_OK;
}

/* ---- calibration pictures ---- */

typedef struct listing {
  char **names;
  int n, capacity;
} listing;

static void listing_dispose(listing *list) {
  for (int i = 0; i < list->n; i++) free(list->names[i]);
  free(list->names);
  *list = (listing){0};
}

static bool is_picture(const char *name) {
  static const char *const ends[] = {".png", ".jpg", ".jpeg", ".webp"};
  const char *dot = strrchr(name, '.');
  for (size_t i = 0; dot && i < sizeof ends / sizeof *ends; i++) {
    if (strcasecmp(dot, ends[i]) == 0) return name[0] != '.';
  }
  return false;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Names of the folder's pictures, sorted, so that sums are added in one order everywhere. */
static sl_status list_pictures(listing *list, const char *folder) {
  *list = (listing){0};
  DIR *dir = opendir(folder);
  if (!dir) SL_FAIL(SL_ERROR_FILE, "--calibration: %s: %s", folder, strerror(errno));
  sl_status status = SL_OK;
  for (struct dirent *e; status == SL_OK && (e = readdir(dir));) {
    if (!is_picture(e->d_name)) continue;
    if (list->n == list->capacity) {
      const int capacity = list->capacity ? 2 * list->capacity : 64;
      status = SL_REALLOC(list->names, (size_t)capacity, "list of pictures");
      if (status == SL_OK) list->capacity = capacity;
    }
    if (status == SL_OK) status = sl_strdup(&list->names[list->n], e->d_name);
    if (status == SL_OK) list->n++;
  }
  closedir(dir);
  if (status != SL_OK)
    listing_dispose(list);
  else if (list->n > 0)
    qsort(list->names, (size_t)list->n, sizeof *list->names, by_name);
  return status;
}

int sl_standin_pictures(const sl_analysis_context *c) {
  sl_standin s;
  listing list;
  if (read_kind(&s, c) != SL_OK) return 0;
  if (s.kind == SL_BASELINE_IMAGE) return 1;
  if (!s.path || list_pictures(&list, s.path) != SL_OK) return 0;
  const int n = list.n;
  listing_dispose(&list);
  return n;
}

/* Another picture's keys can stand in position by position: it must be cut into the same views and tokens. */
static sl_status check_places(const sl_layout *layout, const sl_pack *pack, const char *path) {
  if (pack->n != layout->n_image)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s has %d image tokens, the asked picture %d: it cannot stand in for it", path,
            pack->n, layout->n_image);
  for (int i = 0; i < pack->n && layout->places; i++) {
    const sl_place *own = &layout->places[i];
    int view = -1, row = 0, col = 0;
    const bool placed = sl_pack_cell(pack, i, &view, &row, &col);
    if (placed ? own->view == view && own->row == row && own->col == col : own->view < 0) continue;
    SL_FAIL(SL_ERROR_UNSUPPORTED,
            "%s is cut into tiles in another way than the asked picture: it cannot stand in for it", path);
  }
  return SL_OK;
}

/* The prefix of the same prompt with another picture. */
static sl_status prefix_of(sl_prefix **out, sl_analysis_context *c, const char *path) {
  sl_image *image = NULL;
  sl_pack pack = {0};
  *out = NULL;
  SL_TRY(sl_context_encode_file(c, path, c->question, &pack, &image));
  sl_status status = check_places(c->layout, &pack, path);
  if (status == SL_OK) status = sl_prefix_new(out, c->session, c->layout, image, false, NULL);
  sl_pack_dispose(&pack);
  sl_image_free(image);
  return status;
}

/* A picture that is no picture is a fault of the folder, not of the run. */
static bool is_bad_picture(sl_status status) {
  return status == SL_ERROR_FILE || status == SL_ERROR_FORMAT || status == SL_ERROR_UNSUPPORTED;
}

static sl_status add_picture(sl_standin *s, sl_analysis_context *c, sl_calibration *calibration, const char *name) {
  char *path = NULL;
  sl_prefix *prefix = NULL;
  SL_TRY(sl_path_join(&path, s->path, name));
  sl_status status = prefix_of(&prefix, c, path);
  if (status == SL_OK) status = sl_calibration_add(calibration, prefix);
  if (status == SL_OK) {
    s->n_picture++;
  } else if (is_bad_picture(status)) {
    s->n_bad++;
    status = sl_context_warn(c, "calibration picture left out: %s", sl_error_message());
  }
  sl_prefix_free(prefix);
  free(path);
  return status;
}

static sl_status calibrate(sl_standin *s, sl_analysis_context *c) {
  listing list;
  sl_calibration *calibration = NULL;
  SL_TRY(list_pictures(&list, s->path));
  sl_status status = sl_calibration_new(&calibration, c->session);
  for (int i = 0; i < list.n && status == SL_OK; i++) {
    status = add_picture(s, c, calibration, list.names[i]);
    if (status == SL_OK) status = sl_context_check_cancel(c);
  }
  if (status == SL_OK && s->n_picture == 0)
    status = sl_fail(SL_ERROR_FILE, "--calibration: %s holds no PNG, JPEG or WebP picture that can be used", s->path);
  if (status == SL_OK)
    status = sl_calibration_finish(&s->baseline, calibration, s->kind == SL_BASELINE_MEAN_ALL);
  sl_calibration_free(calibration);
  listing_dispose(&list);
  return status;
}

static sl_status from_picture(sl_standin *s, sl_analysis_context *c) {
  sl_prefix *prefix = NULL;
  SL_TRY(prefix_of(&prefix, c, s->path));
  const sl_status status = sl_baseline_picture(&s->baseline, c->session, prefix);
  sl_prefix_free(prefix);
  s->n_picture = 1;
  return status;
}

sl_status sl_standin_make(sl_standin *s, sl_analysis_context *c) {
  const sl_trunk *trunk;
  SL_TRY(read_kind(s, c));
  switch (s->kind) {
    case SL_BASELINE_MEAN:
    case SL_BASELINE_MEAN_ALL:
      return calibrate(s, c);
    case SL_BASELINE_IMAGE:
      return from_picture(s, c);
    case SL_BASELINE_ZERO:
      SL_TRY(sl_context_trunk(c, false, &trunk));
      return sl_baseline_zero(&s->baseline, c->session, sl_trunk_prefix(trunk));
    case SL_BASELINE_BLOCK:
      break;
  }
  return SL_OK;
}

/* Hands what was made over to the run, in the place of what it had. */
static void lend(sl_standin *s, sl_shared *shared, char *key) {
  sl_baseline_free(shared->baseline);
  free(shared->baseline_key);
  shared->baseline = s->baseline;
  shared->baseline_key = key;
  shared->baseline_pictures = s->n_picture;
  shared->baseline_bad = s->n_bad;
  s->borrowed = true;
}

sl_status sl_standin_share(sl_standin *s, sl_analysis_context *c) {
  sl_shared *shared = c->shared;
  sl_text key = {0};
  SL_TRY(read_kind(s, c));
  if (s->kind == SL_BASELINE_BLOCK) return SL_OK;
  SL_TRY(sl_text_format(&key, "%s:%s", kind_names[s->kind], s->path ? s->path : ""));
  if (shared->baseline_key && strcmp(shared->baseline_key, key.data) == 0) {
    s->baseline = shared->baseline;
    s->n_picture = shared->baseline_pictures;
    s->n_bad = shared->baseline_bad;
    s->borrowed = true;
    sl_text_dispose(&key);
    return SL_OK;
  }
  const sl_status status = sl_standin_make(s, c);
  if (status == SL_OK)
    lend(s, shared, key.data);
  else
    sl_text_dispose(&key);
  return status;
}

void sl_standin_dispose(sl_standin *s) {
  if (!s->borrowed) sl_baseline_free(s->baseline);
  *s = (sl_standin){0};
}

sl_status sl_standin_to_json(json_t **out, const sl_standin *s) {
  *out = json_pack("{s:s}", "kind", kind_names[s->kind]);
  int failed = !*out;
  if (!failed && s->path) failed |= json_object_set_new(*out, "path", json_string(s->path));
  if (!failed && s->path) failed |= json_object_set_new(*out, "pictures", json_integer(s->n_picture));
  if (!failed && s->n_bad) failed |= json_object_set_new(*out, "left_out", json_integer(s->n_bad));
  if (!failed) return SL_OK;
  json_decref(*out);
  *out = NULL;
  SL_FAIL(SL_ERROR_MEMORY, "no memory for run.json");
}
