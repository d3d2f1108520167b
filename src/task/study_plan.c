/* Reading a study's plan: one row for every key says what it may hold, where its value comes from when it is not given,
 * and whether results depend on it. */
#include "task/study_plan.h"

#include <errno.h>
#include <limits.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "analysis/option.h"
#include "backend/backend.h"
#include "base/text.h"
#include "task/run_json.h"

#define MAX_PLAN_BYTES ((size_t)16 << 20)

typedef enum key_kind {
  KEY_PATH,
  KEY_COMPUTE,
  KEY_BACKEND,
  KEY_WHOLE,
  KEY_SHARE,
  KEY_FLAG,
  KEY_FIELDS,
  KEY_LABELS,
  KEY_ANALYSES,
  KEY_TENSORS
} key_kind;

typedef struct key {
  const char *name;
  key_kind kind;
  bool free; /* results do not depend on it: may differ when the study goes on */
  int64_t min, max;
  double fallback;
} key;

static const key keys[] = {
    {"model", KEY_PATH, true, 0, 0, 0},
    {"vision-model", KEY_PATH, true, 0, 0, 0},
    {"compute", KEY_COMPUTE, true, 0, 0, 0}, /* what was chosen is compared by itself, with the processor path */
    {"backend", KEY_BACKEND, true, 0, 0, 0},
    {"threads", KEY_WHOLE, true, 0, 1024, 0},
    {"batch-size", KEY_WHOLE, true, 0, 65536, 0},
    {"lease", KEY_WHOLE, true, 0, 1000000, 0},
    {"mask-block", KEY_WHOLE, true, 0, 1000000, 256},
    {"data", KEY_PATH, true, 0, 0, 0},
    {"images", KEY_PATH, true, 0, 0, 0},
    {"fields", KEY_FIELDS, false, 0, 0, 0},
    {"labels", KEY_LABELS, false, 0, 0, 0},
    {"analyses", KEY_ANALYSES, false, 0, 0, 0},
    {"seed", KEY_WHOLE, false, 0, INT64_MAX, 0},
    {"max-tokens", KEY_WHOLE, false, 1, 65536, 64},
    {"raw-prompt", KEY_FLAG, false, 0, 0, 0},
    {"force-answer", KEY_FLAG, false, 0, 0, 0},
    {"object-threshold", KEY_SHARE, false, 0, 0, 0.5},
    {"tensors", KEY_TENSORS, false, 0, 0, 0},
};
#define N_KEY (sizeof keys / sizeof *keys)

static const char *const fields[] = {"id", "image", "question", "answer", "mask"};
#define N_FIELD (sizeof fields / sizeof *fields)

static const key *find_key(const char *name) {
  for (size_t i = 0; i < N_KEY; i++)
    if (strcmp(keys[i].name, name) == 0) return &keys[i];
  return NULL;
}

/* "expected E, found F" with the value as JSON. */
static sl_status refuse(const char *where, const char *name, const char *expected, const json_t *found) {
  char *text = NULL;
  SL_TRY(sl_json_print_exact(json_is_object(found) || json_is_array(found) || !found ? json_null() : found, &text));
  const char *shown = json_is_object(found) ? "an object" : json_is_array(found) ? "an array" : text;
  const sl_status status = sl_fail(SL_ERROR_FORMAT, "%s: \"%s\": expected %s, found %.200s", where, name, expected,
                                   found ? shown : "nothing");
  free(text);
  return status;
}

/* ---- one key ---- */

/* An absolute path of something that exists; `base` is the folder that a relative one begins in. */
static sl_status take_path(json_t **out, const char *where, const key *k, const json_t *value, const char *base) {
  const char *path = json_string_value(value);
  if (!path || !*path) return refuse(where, k->name, "a path", value);
  char resolved[PATH_MAX], *joined = NULL;
  SL_TRY(path[0] == '/' ? sl_strdup(&joined, path) : sl_path_join(&joined, base, path));
  const bool found = realpath(joined, resolved) != NULL;
  const sl_status status =
      found ? SL_OK : sl_fail(SL_ERROR_FILE, "%s: \"%s\": %s: %s", where, k->name, joined, strerror(errno));
  free(joined);
  SL_TRY(status);
  *out = json_string(resolved);
  return *out ? SL_OK : sl_fail(SL_ERROR_ARGUMENT, "%s: \"%s\": the path is not UTF-8", where, k->name);
}

static sl_status take_whole(json_t **out, const char *where, const key *k, const json_t *value) {
  char expected[96];
  const json_int_t n = json_integer_value(value);
  if (json_is_integer(value) && n >= k->min && n <= k->max) {
    *out = json_integer(n);
    return SL_OK;
  }
  snprintf(expected, sizeof expected, "a whole number from %lld to %lld", (long long)k->min, (long long)k->max);
  return refuse(where, k->name, expected, value);
}

/* "auto", or a mode's name. */
static sl_status take_compute(json_t **out, const char *where, const key *k, const json_t *value) {
  const char *name = json_string_value(value);
  sl_text expected = {0};
  bool known = name && strcmp(name, "auto") == 0;
  sl_status status = sl_text_append_string(&expected, "any of auto");
  for (int i = 0; i < SL_COMPUTE_COUNT && status == SL_OK; i++) {
    known = known || (name && strcmp(name, sl_compute_name((sl_compute)i)) == 0);
    status = sl_text_format(&expected, ", %s", sl_compute_name((sl_compute)i));
  }
  if (status == SL_OK && !known) status = refuse(where, k->name, expected.data, value);
  sl_text_dispose(&expected);
  *out = status == SL_OK ? json_incref((json_t *)value) : NULL;
  return status;
}

static sl_status take_backend(json_t **out, const char *where, const key *k, const json_t *value) {
  sl_backend *backend;
  char *reason = NULL;
  if (!json_is_string(value)) return refuse(where, k->name, "a device's name", value);
  *out = json_incref((json_t *)value);
  if (sl_backend_open(&backend, json_string_value(value)) == SL_OK) {
    sl_backend_close(backend);
    return SL_OK;
  }
  SL_TRY(sl_strdup(&reason, sl_error_message()));
  const sl_status status = sl_fail(SL_ERROR_FORMAT, "%s: \"%s\": %s", where, k->name, reason);
  free(reason);
  return status;
}

static bool is_field(const char *name) {
  for (size_t i = 0; i < N_FIELD; i++)
    if (strcmp(fields[i], name) == 0) return true;
  return false;
}

static sl_status take_fields(json_t **out, const char *where, const json_t *value) {
  const char *name;
  json_t *given;
  if (value && !json_is_object(value)) return refuse(where, "fields", "an object", value);
  json_object_foreach((json_t *)value, name, given) {
    if (!is_field(name))
      SL_FAIL(SL_ERROR_FORMAT, "%s: \"fields\": expected id, image, question, answer or mask, found \"%s\"", where,
              name);
    if (!json_is_string(given)) return refuse(where, "fields", "names of a row's fields", given);
  }
  *out = json_object();
  for (size_t i = 0; i < N_FIELD; i++) {
    json_t *own = json_object_get(value, fields[i]);
    SL_TRY(sl_run_json_set(*out, fields[i], own ? json_incref(own) : json_string(fields[i])));
  }
  return SL_OK;
}

/* null: every other field of a row is a label. Else {name: null or [values]}, also given as an array of names. */
static sl_status take_labels(json_t **out, const char *where, const json_t *value) {
  const char *name;
  json_t *given;
  size_t i;
  *out = json_is_array(value) || json_is_object(value) ? json_object() : json_null();
  if (value && json_is_null(*out) && !json_is_null(value))
    return refuse(where, "labels", "an array of names, or an object of names and arrays of values", value);
  json_array_foreach((json_t *)value, i, given) {
    if (!json_is_string(given)) return refuse(where, "labels", "names of labels", given);
    SL_TRY(sl_run_json_set(*out, json_string_value(given), json_null()));
  }
  json_object_foreach((json_t *)value, name, given) {
    if (!json_is_array(given) && !json_is_null(given))
      return refuse(where, name, "an array of values, or null for any", given);
    SL_TRY(sl_run_json_set(*out, name, json_incref(given)));
  }
  return SL_OK;
}

static sl_status take_tensors(json_t **out, const char *where, const json_t *value) {
  const char *word = json_string_value(value);
  const json_t *glob;
  size_t i;
  *out = json_array();
  if (!value || (word && strcmp(word, "none") == 0)) return SL_OK;
  if (word && strcmp(word, "all") == 0) {
    json_array_append_new(*out, json_string("*"));
    return SL_OK;
  }
  if (!json_is_array(value)) return refuse(where, "tensors", "\"none\", \"all\" or an array of globs", value);
  json_array_foreach((json_t *)value, i, glob) {
    if (!json_is_string(glob)) return refuse(where, "tensors", "globs as texts", glob);
    json_array_append(*out, (json_t *)glob);
  }
  return SL_OK;
}

/* ---- analyses and their options ---- */

/* An option's value as the command line would have it: 0.3 is "0.3" and 5.0 is "5". New reference, NULL for what is
 * none. */
static json_t *option_text(const json_t *value) {
  char *text = NULL;
  if (json_is_string(value)) return json_incref((json_t *)value);
  if (json_is_boolean(value)) return json_string(json_is_true(value) ? "true" : "false");
  if (!json_is_number(value) || sl_json_print_exact(value, &text) != SL_OK) return NULL;
  const size_t n = strlen(text);
  if (n > 2 && strcmp(text + n - 2, ".0") == 0) text[n - 2] = '\0';
  json_t *out = json_string(text);
  free(text);
  return out;
}

/* Options of one name hold for every analysis that has it, as on the command line. */
static sl_status set_option(json_t *analyses, const char *where, const char *name, const json_t *value, bool override) {
  const char *analysis;
  json_t *own, *text = option_text(value);
  sl_status status = text ? SL_OK : refuse(where, name, "a text, a number, true or false", value);
  bool known = false;
  json_object_foreach(analyses, analysis, own) {
    const sl_option_info *option = sl_option_find(sl_analysis_find(analysis), name);
    if (!option || status != SL_OK) continue;
    const json_t *before = json_object_get(own, name);
    status = sl_option_check(option, json_string_value(text));
    if (status == SL_OK && before && !override && !json_equal(before, text))
      status = sl_fail(SL_ERROR_FORMAT, "%s: option \"%s\" is \"%s\" and \"%s\": analyses of one study share its value",
                       where, name, json_string_value(before), json_string_value(text));
    if (status == SL_OK) status = sl_run_json_set(own, name, json_incref(text));
    known = true;
  }
  json_decref(text);
  if (status == SL_OK && !known)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: no analysis of the plan has an option \"%s\"", where, name);
  return status;
}

static sl_status add_analysis(json_t *analyses, const char *where, const char *name) {
  if (!sl_analysis_find(name)) {
    sl_text known = {0};
    sl_status status = SL_OK;
    for (int i = 0; i < sl_analysis_count() && status == SL_OK; i++)
      status = sl_text_format(&known, "%s%s", i ? ", " : "", sl_analysis_at(i)->name);
    if (status == SL_OK)
      status = sl_fail(SL_ERROR_FORMAT, "%s: \"analyses\": expected any of %s, found \"%s\"", where, known.data, name);
    sl_text_dispose(&known);
    return status;
  }
  return sl_run_json_set(analyses, name, json_object());
}

/* An array of names, or an object of names and their options. */
static sl_status take_analyses(json_t **out, const char *where, const json_t *value, const sl_study_request *q) {
  const char *name, *option;
  json_t *own, *given;
  size_t i;
  *out = json_object();
  if (value && !json_is_array(value) && !json_is_object(value))
    return refuse(where, "analyses", "an array of names, or an object of names and options", value);
  json_array_foreach((json_t *)value, i, own) {
    if (!json_is_string(own)) return refuse(where, "analyses", "names as texts", own);
    SL_TRY(add_analysis(*out, where, json_string_value(own)));
  }
  json_object_foreach((json_t *)value, name, own) {
    if (!json_is_object(own)) return refuse(where, name, "an object of options", own);
    SL_TRY(add_analysis(*out, where, name));
  }
  json_object_foreach((json_t *)value, name, own) {
    json_object_foreach(own, option, given) {
      if (!sl_option_find(sl_analysis_find(name), option))
        SL_FAIL(SL_ERROR_FORMAT, "%s: \"analyses\": %s has no option \"%s\"", where, name, option);
      SL_TRY(set_option(*out, where, option, given, false));
    }
  }
  for (int k = 0; k < q->n_option; k++) {
    json_t *text = json_string(q->options[k].value);
    const sl_status status = set_option(*out, "command line", q->options[k].name, text, true);
    json_decref(text);
    SL_TRY(status);
  }
  return SL_OK;
}

/* ---- all keys ---- */

/* A number with nothing after it, with a decimal point whatever the locale. */
static bool read_share(const char *text, double *share) {
  char *end = NULL;
  const locale_t before = uselocale(newlocale(LC_ALL_MASK, "C", (locale_t)0)); /* static in glibc: costs nothing */
  *share = strtod(text, &end);
  uselocale(before);
  return end > text && *end == '\0' && isfinite(*share);
}

/* A setting's text as the JSON value that a plan would hold (new reference). */
static sl_status from_text(json_t **out, const key *k, const char *text) {
  char *end = NULL;
  *out = NULL;
  errno = 0;
  if (k->kind == KEY_WHOLE) {
    const long long n = strtoll(text, &end, 10);
    if (end > text && *end == '\0' && errno == 0) *out = json_integer(n);
  } else if (k->kind == KEY_SHARE) {
    double share;
    if (read_share(text, &share)) *out = json_real(share);
  } else if (k->kind == KEY_FLAG) {
    *out = json_boolean(strcmp(text, "false") != 0);
  } else if (k->kind == KEY_ANALYSES ||
             (k->kind == KEY_TENSORS && strcmp(text, "none") != 0 && strcmp(text, "all") != 0)) {
    *out = json_array();
    for (const char *at = text; *at; at += strspn(at, ",")) {
      const size_t length = strcspn(at, ",");
      json_array_append_new(*out, json_stringn(at, length));
      at += length;
    }
  }
  if (!*out) *out = json_string(text); /* of the wrong kind: told by the check of the key */
  return *out ? SL_OK : sl_fail(SL_ERROR_ARGUMENT, "\"%s\": the value is not UTF-8", k->name);
}

static sl_status take_value(json_t **out, const char *where, const key *k, const json_t *value, const char *base,
                            const sl_study_request *q) {
  *out = NULL;
  if (k->kind == KEY_FIELDS) return take_fields(out, where, value);
  if (k->kind == KEY_LABELS) return take_labels(out, where, value);
  if (k->kind == KEY_ANALYSES) return take_analyses(out, where, value, q);
  if (k->kind == KEY_TENSORS) return take_tensors(out, where, value);
  if (!value || json_is_null(value)) {
    if (k->kind == KEY_WHOLE) *out = json_integer((json_int_t)k->fallback);
    if (k->kind == KEY_SHARE) *out = json_real(k->fallback);
    if (k->kind == KEY_FLAG) *out = json_false();
    if (!*out) *out = json_null();
    return SL_OK;
  }
  if (k->kind == KEY_PATH) return take_path(out, where, k, value, base);
  if (k->kind == KEY_WHOLE) return take_whole(out, where, k, value);
  if (k->kind == KEY_COMPUTE) return take_compute(out, where, k, value);
  if (k->kind == KEY_BACKEND) return take_backend(out, where, k, value);
  if (k->kind == KEY_FLAG && !json_is_boolean(value)) return refuse(where, k->name, "true or false", value);
  if (k->kind == KEY_SHARE && !(json_is_number(value) && json_number_value(value) > 0 && json_number_value(value) <= 1))
    return refuse(where, k->name, "a share above 0, at most 1", value);
  *out = k->kind == KEY_SHARE ? json_real(json_number_value(value)) : json_incref((json_t *)value);
  return SL_OK;
}

static const char *setting_for(const sl_study_request *q, const key *k) {
  const char *text = NULL;
  for (int i = 0; i < q->n_setting; i++)
    if (strcmp(q->settings[i].name, k->name) == 0) text = q->settings[i].value;
  return text;
}

static sl_status add_key(sl_study_plan *p, const key *k, const json_t *given, const sl_study_request *q,
                         const char *where, const char *base) {
  json_t *value = NULL, *typed = NULL;
  const char *text = setting_for(q, k);
  if (!text && (!given || json_is_null(given)) && strcmp(k->name, "model") == 0) text = q->default_model;
  sl_status status = SL_OK;
  if (text) status = from_text(&typed, k, text);
  if (status == SL_OK)
    status = take_value(&value, text ? "command line" : where, k, text ? typed : given, text ? "." : base, q);
  json_decref(typed);
  if (status != SL_OK) {
    json_decref(value);
    return status;
  }
  return sl_run_json_set(p->json, k->name, value);
}

static sl_status check_known(const json_t *given, const char *where) {
  const char *name;
  json_t *value;
  json_object_foreach((json_t *)given, name, value) {
    if (find_key(name)) continue;
    sl_text known = {0};
    sl_status status = SL_OK;
    for (size_t i = 0; i < N_KEY && status == SL_OK; i++)
      status = sl_text_format(&known, "%s%s", i ? ", " : "", keys[i].name);
    if (status == SL_OK)
      status = sl_fail(SL_ERROR_FORMAT, "%s: unknown key \"%s\"; expected any of %s", where, name, known.data);
    sl_text_dispose(&known);
    return status;
  }
  return SL_OK;
}

static sl_status build(sl_study_plan *p, const json_t *given, const sl_study_request *q, const char *where,
                       const char *base) {
  if (!json_is_object(given)) SL_FAIL(SL_ERROR_FORMAT, "%s: expected a JSON object", where);
  SL_TRY(check_known(given, where));
  for (int i = 0; i < q->n_setting; i++)
    if (!find_key(q->settings[i].name)) SL_FAIL(SL_ERROR_ARGUMENT, "there is no plan key \"%s\"", q->settings[i].name);
  p->json = json_object();
  if (!p->json) SL_FAIL(SL_ERROR_MEMORY, "no memory for the plan");
  for (size_t i = 0; i < N_KEY; i++) SL_TRY(add_key(p, &keys[i], json_object_get(given, keys[i].name), q, where, base));
  return SL_OK;
}

/* ---- from JSON to members ---- */

static sl_status list_options(sl_study_plan *p) {
  json_t *analyses = json_object_get(p->json, "analyses"), *own, *value;
  const char *name, *option;
  size_t n_option = 0;
  json_object_foreach(analyses, name, own) n_option += json_object_size(own);
  SL_TRY(SL_ALLOC(p->analyses, json_object_size(analyses), "analyses"));
  SL_TRY(SL_ALLOC(p->options, n_option, "options"));
  json_object_foreach(analyses, name, own) {
    p->analyses[p->n_analysis++] = name;
    json_object_foreach(own, option, value) {
      bool known = false;
      for (int i = 0; i < p->n_option; i++) known = known || strcmp(p->options[i].name, option) == 0;
      if (!known) p->options[p->n_option++] = (sl_option_value){option, json_string_value(value)};
    }
  }
  return SL_OK;
}

static sl_status settle(sl_study_plan *p, const char *where) {
  json_t *j = p->json;
  p->model = json_string_value(json_object_get(j, "model"));
  p->vision_model = json_string_value(json_object_get(j, "vision-model"));
  p->compute = json_string_value(json_object_get(j, "compute"));
  p->backend = json_string_value(json_object_get(j, "backend"));
  p->data = json_string_value(json_object_get(j, "data"));
  p->images = json_string_value(json_object_get(j, "images"));
  p->n_thread = json_integer_value(json_object_get(j, "threads"));
  p->batch_size = json_integer_value(json_object_get(j, "batch-size"));
  p->mask_block = json_integer_value(json_object_get(j, "mask-block"));
  p->lease_s = json_integer_value(json_object_get(j, "lease"));
  p->seed = json_integer_value(json_object_get(j, "seed"));
  p->max_token = json_integer_value(json_object_get(j, "max-tokens"));
  p->raw_prompt = json_is_true(json_object_get(j, "raw-prompt"));
  p->force_answer = json_is_true(json_object_get(j, "force-answer"));
  p->object_threshold = json_number_value(json_object_get(j, "object-threshold"));
  if (!p->model) return refuse(where, "model", "a model folder", NULL);
  if (!p->data) return refuse(where, "data", "a JSON-lines file", NULL);
  if (!p->images) return refuse(where, "images", "the folder that the rows' pictures are in", NULL);
  return list_options(p);
}

sl_status sl_study_plan_read(sl_study_plan *p, const sl_study_request *q, const char *stored) {
  json_t *given = NULL;
  char *base = NULL;
  const char *where = stored ? "the study's plan" : q->plan_path;
  sl_status status =
      stored ? sl_json_parse(&given, stored, strlen(stored), where) : sl_json_load(&given, where, MAX_PLAN_BYTES);
  if (status == SL_OK) status = sl_strdup(&base, stored ? "/" : where);
  if (status == SL_OK && !stored) {
    char *slash = strrchr(base, '/');
    if (slash) slash[slash == base] = '\0';
  }
  if (status == SL_OK) status = build(p, given, q, where, strchr(base, '/') ? base : ".");
  if (status == SL_OK) status = settle(p, where);
  json_decref(given);
  free(base);
  return status;
}

void sl_study_plan_dispose(sl_study_plan *p) {
  free(p->analyses);
  free(p->options);
  json_decref(p->json);
  *p = (sl_study_plan){0};
}

const char *sl_study_plan_field(const sl_study_plan *p, const char *what) {
  return json_string_value(json_object_get(json_object_get(p->json, "fields"), what));
}

const json_t *sl_study_plan_labels(const sl_study_plan *p) {
  const json_t *labels = json_object_get(p->json, "labels");
  return json_is_object(labels) ? labels : NULL;
}

bool sl_study_plan_keeps(const sl_study_plan *p, const char *tensor) {
  const json_t *globs = json_object_get(p->json, "tensors");
  for (size_t i = 0; i < json_array_size(globs); i++)
    if (sl_glob_match(json_string_value(json_array_get(globs, i)), tensor)) return true;
  return false;
}

/* ---- identity ---- */

sl_status sl_study_plan_compare(const sl_study_plan *p, const char *stored, const char *where) {
  json_t *before = NULL;
  SL_TRY(sl_json_parse(&before, stored, strlen(stored), where));
  sl_status status = SL_OK;
  for (size_t i = 0; i < N_KEY && status == SL_OK; i++) {
    char *was = NULL, *is = NULL;
    const json_t *a = json_object_get(before, keys[i].name), *b = json_object_get(p->json, keys[i].name);
    if (keys[i].free) continue;
    status = sl_json_print_exact(a ? a : json_null(), &was);
    if (status == SL_OK) status = sl_json_print_exact(b, &is);
    if (status == SL_OK && strcmp(was, is) != 0)
      status =
          sl_fail(SL_ERROR_ARGUMENT, "%s: the study was begun with another plan: \"%s\" was %.200s, now it is %.200s",
                  where, keys[i].name, was, is);
    free(was);
    free(is);
  }
  json_decref(before);
  return status;
}

sl_status sl_study_plan_hash(const sl_study_plan *p, char out[17]) {
  json_t *part = json_object();
  char *text = NULL;
  sl_status status = part ? SL_OK : sl_fail(SL_ERROR_MEMORY, "no memory for the plan");
  for (size_t i = 0; i < N_KEY && status == SL_OK; i++)
    if (!keys[i].free)
      status = sl_run_json_set(part, keys[i].name, json_incref(json_object_get(p->json, keys[i].name)));
  if (status == SL_OK) status = sl_json_print_exact(part, &text);
  if (status == SL_OK) snprintf(out, 17, "%016llx", (unsigned long long)XXH3_64bits(text, strlen(text)));
  free(text);
  json_decref(part);
  return status;
}
