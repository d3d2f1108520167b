/* Reading the runs that are compared, and what their pictures show. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/text.h"
#include "store/run.h"
#include "task/compare_internal.h"

#define MAX_LABEL_BYTES ((size_t)64 << 20)

static void labels_dispose(sl_labels *labels) {
  for (int i = 0; i < labels->n; i++) free(labels->texts[i]);
  free(labels->texts);
}

void sl_compare_dispose(sl_comparison *c) {
  for (int i = 0; i < c->n_run && c->runs; i++) {
    sl_compared *r = &c->runs[i];
    free(r->dir);
    json_decref(r->image);
    json_decref(r->prompt);
    json_decref(r->answer);
    free(r->score);
    free(r->masks);
    free(r->target);
    free(r->feature);
  }
  free(c->runs);
  json_decref(c->model);
  json_decref(c->settings);
  labels_dispose(&c->classes);
  labels_dispose(&c->appearances);
  for (int k = 0; k < SL_LIKE_COUNT; k++) free(c->like[k]);
  free(c->visual);
  free(c->ceiling);
  free(c->order);
  json_decref(c->warnings);
  *c = (sl_comparison){0};
}

sl_status sl_compare_warn(const sl_comparison *c, const char *format, ...) {
  char line[400];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (c->request->log) c->request->log(c->request->user, line);
  if (json_array_append_new(c->warnings, json_string(line)) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "no memory for a warning");
}

/* ---- labels ---- */

sl_status sl_compare_label(sl_labels *labels, const char *text, int *out) {
  *out = -1;
  if (!text || !*text) return SL_OK;
  for (int i = 0; i < labels->n && *out < 0; i++)
    if (strcmp(labels->texts[i], text) == 0) *out = i;
  if (*out >= 0) return SL_OK;
  SL_TRY(SL_REALLOC(labels->texts, (size_t)labels->n + 1, "labels"));
  SL_TRY(sl_strdup(&labels->texts[labels->n], text));
  *out = labels->n++;
  return SL_OK;
}

/* "a/b/" names "a/b", and "b" does too. */
static bool names_run(const char *name, const char *dir) {
  size_t n = strlen(dir), m = strlen(name);
  while (n > 1 && dir[n - 1] == '/') n--;
  while (m > 1 && name[m - 1] == '/') m--;
  if (m > n || strncmp(dir + n - m, name, m) != 0) return false;
  return m == n || (dir[n - m - 1] == '/' && !memchr(name, '/', m));
}

/* One line of the labels file; lines about runs that are not compared are passed over. */
static sl_status take_line(sl_comparison *c, json_t *line, const char *where) {
  const char *run = NULL, *class = NULL, *appearance = NULL;
  SL_TRY(sl_json_get_string(line, "run", &run, where));
  SL_TRY(sl_json_get_string(line, "class", &class, where));
  SL_TRY(sl_json_get_string(line, "appearance", &appearance, where));
  if (!run) SL_FAIL(SL_ERROR_FORMAT, "%s: key \"run\" is missing", where);
  for (int i = 0; i < c->n_run; i++) {
    sl_compared *r = &c->runs[i];
    if (!names_run(run, r->dir)) continue;
    if (r->class < 0) SL_TRY(sl_compare_label(&c->classes, class, &r->class));
    if (r->appearance < 0) SL_TRY(sl_compare_label(&c->appearances, appearance, &r->appearance));
  }
  return SL_OK;
}

static sl_status read_labels_file(sl_comparison *c, const char *path) {
  char *bytes = NULL, where[600];
  size_t n_bytes = 0;
  SL_TRY(sl_file_read(path, MAX_LABEL_BYTES, &bytes, &n_bytes));
  sl_status status = SL_OK;
  int number = 1;
  for (char *line = bytes; status == SL_OK && line < bytes + n_bytes; number++) {
    const size_t length = strcspn(line, "\n");
    json_t *json = NULL;
    snprintf(where, sizeof where, "%s: line %d", path, number);
    if (strspn(line, " \t\r") < length) {
      status = sl_json_parse(&json, line, length, where);
      if (status == SL_OK) status = take_line(c, json, where);
      json_decref(json);
    }
    line += length + 1;
  }
  free(bytes);
  return status;
}

static sl_status read_labels(sl_comparison *c) {
  const sl_compare_request *q = c->request;
  for (int i = 0; i < c->n_run; i++) {
    SL_TRY(sl_compare_label(&c->classes, q->classes ? q->classes[i] : NULL, &c->runs[i].class));
    SL_TRY(sl_compare_label(&c->appearances, q->appearances ? q->appearances[i] : NULL, &c->runs[i].appearance));
  }
  if (q->labels_path) SL_TRY(read_labels_file(c, q->labels_path));
  int n_none = 0;
  for (int i = 0; i < c->n_run; i++) n_none += c->runs[i].class < 0;
  if (n_none > 0 && n_none < c->n_run)
    return sl_compare_warn(c, "%d of %d runs have no class; tests of classes leave them out", n_none, c->n_run);
  return SL_OK;
}

/* ---- runs ---- */

/* A copy of an f32 tensor as doubles. */
static sl_status to_doubles(double **out, const sl_tensor *tensor, const char *dir) {
  const int64_t n = sl_tensor_count(tensor);
  const float *values = tensor->data;
  if (tensor->dtype != SL_F32) SL_FAIL(SL_ERROR_FORMAT, "%s: %s is not f32", dir, tensor->name);
  SL_TRY(SL_ALLOC(*out, (size_t)n, tensor->name));
  for (int64_t i = 0; i < n; i++) (*out)[i] = values[i];
  return SL_OK;
}

/* What makes scores comparable: the same numbers measured against the same stand-in. */
static json_t *settings_of(json_t *root) {
  json_t *heads = sl_json_at(root, "analyses.heads"), *out = json_object();
  static const char *const paths[][2] = {{"target", "target"}, {"contrast", "contrast.id"},
                                         {"baseline", "baseline.kind"}, {"baseline path", "baseline.path"},
                                         {"keep_probability", "regression.keep_probability"},
                                         {"solver", "regression.solver"}};
  for (size_t i = 0; i < sizeof paths / sizeof *paths && out; i++) {
    json_t *value = heads ? sl_json_at(heads, paths[i][1]) : NULL;
    if (value) json_object_set(out, paths[i][0], value);
  }
  json_t *whole = sl_json_at(root, "options.heads.whole-answer");
  if (whole && out) json_object_set(out, "--whole-answer", whole);
  return out;
}

/* Names the first setting of `settings` that the other run has not, or has with another value. */
static sl_status check_settings(const json_t *settings, const json_t *others, const char *dir, const char *other) {
  const char *key;
  json_t *value;
  sl_status status = SL_OK;
  json_object_foreach((json_t *)settings, key, value) {
    json_t *theirs = json_object_get(others, key);
    if (status != SL_OK || (theirs && json_equal(value, theirs))) continue;
    char *a = json_dumps(value, JSON_ENCODE_ANY), *b = theirs ? json_dumps(theirs, JSON_ENCODE_ANY) : NULL;
    status = sl_fail(SL_ERROR_ARGUMENT, "%s: %s of heads is %s, in %s %s: their scores do not compare", dir, key,
                     a ? a : "?", other, b ? b : "not told");
    free(a);
    free(b);
  }
  return status;
}

/* The first run sets what every other must share. */
static sl_status check_same(sl_comparison *c, json_t *root, const sl_tensor *score, const char *dir) {
  json_t *model = json_object_get(root, "model"), *settings = settings_of(root);
  const char *hash = json_string_value(json_object_get(model, "hash"));
  sl_status status = SL_OK;
  if (!hash || !settings) status = sl_fail(SL_ERROR_FORMAT, "%s: run.json does not name its model", dir);
  if (status == SL_OK && !c->model) {
    c->model = json_incref(model);
    c->settings = json_incref(settings);
    c->n_layer = (int)score->shape[0];
    c->n_head = (int)score->shape[1];
    c->n = c->n_layer * c->n_head;
  }
  const char *first = c->runs[0].dir, *first_hash = json_string_value(json_object_get(c->model, "hash"));
  if (status == SL_OK && strcmp(hash, first_hash) != 0) {
    const char *name = json_string_value(json_object_get(model, "name"));
    const char *first_name = json_string_value(json_object_get(c->model, "name"));
    status = sl_fail(SL_ERROR_ARGUMENT, "%s is of another model (%s, %s) than %s (%s, %s)", dir, name ? name : "?",
                     hash, first, first_name ? first_name : "?", first_hash);
  }
  if (status == SL_OK && (score->shape[0] != c->n_layer || score->shape[1] != c->n_head))
    status = sl_fail(SL_ERROR_FORMAT, "%s: heads.score is [%lld, %lld], in %s [%d, %d]", dir,
                     (long long)score->shape[0], (long long)score->shape[1], first, c->n_layer, c->n_head);
  if (status == SL_OK) status = check_settings(settings, c->settings, dir, first);
  if (status == SL_OK) status = check_settings(c->settings, settings, first, dir);
  json_decref(settings);
  return status;
}

/* Masks, targets and how they were fitted: for the ceiling. */
static sl_status read_masks(sl_compared *r, const sl_comparison *c, const sl_run_reader *reader) {
  const sl_tensor *masks = sl_run_find(reader, "heads.masks"), *target = sl_run_find(reader, "heads.target");
  if (!masks || !target) return SL_OK;
  if (masks->dtype != SL_U8 || masks->n_dim != 2 || masks->shape[1] != c->n || target->n_dim != 1 ||
      target->shape[0] != masks->shape[0] || masks->shape[0] > INT32_MAX)
    SL_FAIL(SL_ERROR_FORMAT, "%s: heads.masks and heads.target do not fit each other", r->dir);
  const size_t n_bytes = (size_t)sl_tensor_count(masks);
  SL_TRY(SL_ALLOC(r->masks, n_bytes, "masks"));
  memcpy(r->masks, masks->data, n_bytes);
  r->n_mask = (int)masks->shape[0];
  json_t *regression = sl_json_at(sl_run_root(reader), "analyses.heads.regression");
  const char *solver = json_string_value(json_object_get(regression, "solver"));
  r->penalty = json_number_value(json_object_get(regression, "penalty"));
  r->n_train = (int)json_integer_value(json_object_get(regression, "train"));
  r->solver = r->penalty <= 0 ? SL_REGRESS_LEAST_SQUARES
              : solver && strcmp(solver, "lasso") == 0 ? SL_REGRESS_LASSO
                                                       : SL_REGRESS_RIDGE;
  return to_doubles(&r->target, target, r->dir);
}

static json_t *answer_text(json_t *root) {
  json_t *tokens = json_object_get(root, "tokens"), *token;
  sl_text text = {0};
  size_t i;
  bool ok = true;
  json_array_foreach(tokens, i, token) {
    const char *class = json_string_value(json_object_get(token, "class"));
    const char *piece = json_string_value(json_object_get(token, "text"));
    if (class && piece && strcmp(class, "generated") == 0) ok = ok && sl_text_append_string(&text, piece) == SL_OK;
  }
  json_t *out = ok && text.data ? json_string(text.data + (*text.data == ' ')) : NULL;
  sl_text_dispose(&text);
  return out;
}

static sl_status take_run(sl_comparison *c, sl_compared *r, const sl_run_reader *reader) {
  const sl_tensor *score = sl_run_find(reader, "heads.score"), *feature = sl_run_find(reader, "image.feature");
  json_t *root = sl_run_root(reader);
  if (!score)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s holds no heads.score: run `heads` (or `trace`) on its picture first", r->dir);
  SL_TRY(check_same(c, root, score, r->dir));
  SL_TRY(to_doubles(&r->score, score, r->dir));
  SL_TRY(read_masks(r, c, reader));
  if (feature) {
    const int n = (int)sl_tensor_count(feature);
    if (r == c->runs) c->n_feature = n;
    if (n != c->n_feature) c->n_feature = 0;
    SL_TRY(to_doubles(&r->feature, feature, r->dir));
  } else {
    c->n_feature = 0;
  }
  if (json_is_true(json_object_get(root, "cancelled")))
    SL_TRY(sl_compare_warn(c, "%s was interrupted: its scores rest on fewer masks", r->dir));
  r->seed = json_integer_value(json_object_get(root, "seed"));
  r->image = json_incref(json_object_get(root, "image"));
  r->prompt = json_incref(json_object_get(root, "prompt"));
  r->answer = answer_text(root);
  return SL_OK;
}

static bool same_folder(const char *a, const char *b) {
  struct stat one, other;
  return strcmp(a, b) == 0 ||
         (stat(a, &one) == 0 && stat(b, &other) == 0 && one.st_dev == other.st_dev && one.st_ino == other.st_ino);
}

/* Runs with one seed were measured with the same masks, so what noise does to their scores is alike too. */
static sl_status warn_of_seeds(const sl_comparison *c) {
  int n_shared = 0;
  for (int i = 0; i < c->n_run; i++) {
    bool shared = false;
    for (int j = 0; j < c->n_run && !shared; j++) shared = j != i && c->runs[j].seed == c->runs[i].seed;
    n_shared += shared;
  }
  if (n_shared == 0) return SL_OK;
  return sl_compare_warn(c, "%d of %d runs share a seed and so their masks: their noise is alike, which raises the likeness "
                            "between runs but not that of split halves; give each run its own --seed",
                         n_shared, c->n_run);
}

sl_status sl_compare_read(sl_comparison *c) {
  const sl_compare_request *q = c->request;
  if (q->n_run < 2 || q->n_run > SL_COMPARE_MAX_RUN)
    SL_FAIL(SL_ERROR_ARGUMENT, "%d run directories: 2 to %d can be compared", q->n_run, SL_COMPARE_MAX_RUN);
  SL_TRY(SL_ALLOC(c->runs, (size_t)q->n_run, "runs"));
  c->n_run = q->n_run;
  for (int i = 0; i < c->n_run; i++) {
    c->runs[i].class = c->runs[i].appearance = -1;
    SL_TRY(sl_strdup(&c->runs[i].dir, q->runs[i]));
    for (int j = 0; j < i; j++)
      if (same_folder(q->runs[j], q->runs[i])) SL_FAIL(SL_ERROR_ARGUMENT, "%s is given twice", q->runs[i]);
  }
  SL_TRY(read_labels(c));
  for (int i = 0; i < c->n_run; i++) {
    sl_run_reader *reader = NULL;
    SL_TRY(sl_compare_progress(c, "runs", i, c->n_run));
    SL_TRY(sl_run_open(&reader, c->runs[i].dir));
    const sl_status status = take_run(c, &c->runs[i], reader);
    sl_run_close(reader);
    SL_TRY(status);
  }
  SL_TRY(warn_of_seeds(c));
  c->n_top = q->n_top > 0 ? q->n_top : (c->n / 20 > 5 ? c->n / 20 : 5);
  if (c->n_top > c->n) c->n_top = c->n;
  return SL_OK;
}
