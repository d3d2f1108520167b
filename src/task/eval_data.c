/* The data of `eval`: the set, where its pictures are and whether they are there, its hash. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/text.h"
#include "task/eval_internal.h"

/* The folder of the data, and its folder "images" where there is one. */
static sl_status find_images(sl_evaluation *e) {
  const sl_eval_request *q = e->request;
  char *dir = NULL, *inner = NULL;
  if (q->images || e->examples.image_dir) return sl_strdup(&e->image_dir, q->images ? q->images : e->examples.image_dir);
  SL_TRY(sl_strdup(&dir, q->data));
  char *slash = strrchr(dir, '/');
  if (!sl_metric_is_folder(dir)) {
    if (slash)
      *slash = '\0';
    else
      strcpy(dir, ".");
  }
  sl_status status = sl_path_join(&inner, dir, "images");
  if (status == SL_OK) status = sl_strdup(&e->image_dir, sl_metric_is_folder(inner) ? inner : dir);
  free(dir);
  free(inner);
  return status;
}

sl_status sl_eval_read(sl_evaluation *e) {
  const sl_eval_request *q = e->request;
  const sl_read_options options = {.path = q->data, .split = q->split};
  e->rows.strict = q->strict;
  SL_TRY(sl_eval_progress(e, "reading", 0, 1));
  SL_TRY(sl_examples_read(&e->examples, e->benchmark, &options, &e->rows));
  if (!q->prompt_style) e->style = e->examples.usual_style;
  const size_t n = (size_t)e->examples.n;
  SL_TRY(SL_ALLOC(e->layers, n, "answers"));
  SL_TRY(SL_ALLOC(e->errors, n, "answers"));
  if (q->predictions)
    SL_TRY(sl_predictions_read(&e->texts, &e->examples, q->predictions, &e->rows));
  else
    SL_TRY(SL_ALLOC(e->texts, n, "answers"));
  SL_TRY(sl_eval_progress(e, "reading", 1, 1));
  return find_images(e);
}

/* Cut only after predictions were matched: those behind the limit are no errors. */
void sl_eval_cut(sl_evaluation *e) {
  const int limit = e->request->limit;
  for (int i = limit; limit > 0 && i < e->examples.n; i++) {
    free(e->texts[i]);
    e->texts[i] = NULL;
    sl_example_dispose(&e->examples.items[i]);
  }
  if (limit > 0 && limit < e->examples.n) e->examples.n = limit;
}

sl_status sl_eval_refuse(sl_evaluation *e, int i, sl_status status) {
  const sl_example *x = &e->examples.items[i];
  sl_text text = {0};
  SL_TRY(sl_text_format(&text, "%s: line %d: %s", x->file, x->line, sl_error_message()));
  if (e->request->strict) {
    status = sl_fail(status, "%s", text.data);
    sl_text_dispose(&text);
    return status;
  }
  free(e->errors[i]);
  e->errors[i] = text.data;
  if (e->request->log && ++e->n_told <= SL_EVAL_TOLD) e->request->log(e->request->user, e->errors[i]);
  return SL_OK;
}

static sl_status check_picture(const char *path) {
  struct stat info;
  if (stat(path, &info) != 0) SL_FAIL(SL_ERROR_FILE, "%s: %s", path, strerror(errno));
  if (!S_ISREG(info.st_mode)) SL_FAIL(SL_ERROR_FILE, "%s: expected a picture, found no file", path);
  return SL_OK;
}

sl_status sl_eval_check_pictures(sl_evaluation *e) {
  int n_picture = 0, n_missing = 0, first = -1;
  for (int i = 0; i < e->examples.n; i++) {
    char *path = NULL;
    if (!e->examples.items[i].image) continue;
    SL_TRY(sl_path_join(&path, e->image_dir, e->examples.items[i].image));
    const sl_status found = check_picture(path);
    free(path);
    n_picture++;
    if (found == SL_OK) continue;
    n_missing++;
    first = first < 0 ? i : first;
    SL_TRY(sl_eval_refuse(e, i, found));
  }
  if (n_missing == 0 || n_missing < n_picture) return SL_OK;
  SL_FAIL(SL_ERROR_FILE, "%s: of %d pictures none is there (the first: %s); --images names their folder", e->image_dir,
          n_picture, e->errors[first]);
}

sl_status sl_eval_hash(const sl_evaluation *e, char out[17]) {
  uint64_t hash = 0;
  for (int i = 0; i < e->examples.n; i++) {
    const sl_example *x = &e->examples.items[i];
    char *data = NULL;
    SL_TRY(sl_json_print(x->data, 0, &data));
    hash = XXH3_64bits_withSeed(x->id, strlen(x->id) + 1, hash);
    if (x->image) hash = XXH3_64bits_withSeed(x->image, strlen(x->image) + 1, hash);
    hash = XXH3_64bits_withSeed(data, strlen(data), hash);
    free(data);
  }
  snprintf(out, 17, "%016llx", (unsigned long long)hash);
  return SL_OK;
}
