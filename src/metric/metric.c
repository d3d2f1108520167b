/* The table of benchmarks, sets of examples, and summing up. */
#include "metric/metric.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/text.h"

const sl_benchmark *const sl_benchmarks[] = {&sl_pope_benchmark,  &sl_scienceqa_benchmark,   &sl_textvqa_benchmark,
                                             &sl_chair_benchmark, &sl_main_object_benchmark, NULL};

static bool same_name(const char *a, const char *b) {
  while (*a && (*a == *b || (*a == '_' && *b == '-') || (*a == '-' && *b == '_'))) a++, b++;
  return *a == *b;
}

const sl_benchmark *sl_benchmark_find(const char *name) {
  for (int i = 0; sl_benchmarks[i]; i++)
    if (same_name(sl_benchmarks[i]->name, name)) return sl_benchmarks[i];
  return NULL;
}

int sl_choice_find(const char *const *list, const char *name) {
  if (!name) return 0;
  for (int i = 0; list[i]; i++)
    if (same_name(list[i], name)) return i;
  return -1;
}

/* ---- examples ---- */

void sl_example_dispose(sl_example *example) {
  free(example->id);
  free(example->group);
  free(example->image);
  json_decref(example->data);
  *example = (sl_example){0};
}

void sl_examples_dispose(sl_examples *examples) {
  for (int i = 0; i < examples->n; i++) sl_example_dispose(&examples->items[i]);
  free(examples->items);
  json_decref(examples->ids);
  free(examples->image_dir);
  for (int i = 0; i < examples->n_file; i++) free(examples->files[i]);
  *examples = (sl_examples){0};
}

static sl_status add(sl_examples *examples, sl_example *example) {
  const size_t n = (size_t)examples->n;
  if (!example->id) SL_FAIL(SL_ERROR_MEMORY, "no memory for an example");
  if (json_object_get(examples->ids, example->id)) SL_FAIL(SL_ERROR_FORMAT, "the id \"%s\" is there twice", example->id);
  if (n == examples->capacity) {
    const size_t capacity = n ? 2 * n : 256;
    SL_TRY(SL_REALLOC(examples->items, capacity, "examples"));
    examples->capacity = capacity;
  }
  SL_TRY(sl_metric_set(examples->ids, example->id, json_integer(examples->n)));
  examples->items[examples->n++] = *example;
  *example = (sl_example){0};
  return SL_OK;
}

sl_status sl_examples_from(sl_examples *examples, const char *path) {
  if (examples->n_file == (int)(sizeof examples->files / sizeof *examples->files))
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: too many files of one set", path);
  SL_TRY(sl_strdup(&examples->files[examples->n_file], path));
  examples->n_file++;
  return SL_OK;
}

sl_status sl_examples_add(sl_examples *examples, sl_example *example, int line) {
  example->file = examples->n_file > 0 ? examples->files[examples->n_file - 1] : NULL;
  example->line = line;
  const sl_status status = add(examples, example);
  sl_example_dispose(example);
  return status;
}

int sl_examples_find(const sl_examples *examples, const char *id) {
  const json_t *index = json_object_get(examples->ids, id);
  return index ? (int)json_integer_value(index) : SL_EXAMPLE_UNKNOWN;
}

sl_status sl_examples_alias(sl_examples *examples, int index, const char *other_id) {
  const int other = sl_examples_find(examples, other_id);
  const bool taken = other != SL_EXAMPLE_UNKNOWN && other != index;
  /* An example's own id stays its own. */
  if (other >= 0 && strcmp(examples->items[other].id, other_id) == 0) return SL_OK;
  return sl_metric_set(examples->ids, other_id, json_integer(taken ? SL_EXAMPLE_AMBIGUOUS : index));
}

sl_status sl_examples_read(sl_examples *out, const sl_benchmark *benchmark, const sl_read_options *options,
                           sl_rows *rows) {
  *out = (sl_examples){.benchmark = benchmark, .ids = json_object()};
  sl_status status = out->ids ? benchmark->read(out, options, rows) : sl_fail(SL_ERROR_MEMORY, "no memory for examples");
  if (status == SL_OK && out->n == 0) {
    if (rows->n_bad > 0)
      status = sl_fail(SL_ERROR_FORMAT, "%s: no row is good; the first: %s", options->path, rows->messages[0]);
    else
      status = sl_fail(SL_ERROR_FORMAT, "%s: no examples", options->path);
  }
  if (status != SL_OK) sl_examples_dispose(out);
  return status;
}

/* ---- helpers ---- */

sl_status sl_metric_set(json_t *object, const char *key, json_t *value) {
  if (json_object_set_new(object, key, value) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "no memory for \"%s\"", key);
}

json_t *sl_metric_number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

double sl_metric_sum(const json_t *const *said, int n, const char *key) {
  double sum = 0;
  for (int i = 0; i < n; i++) {
    const json_t *value = json_object_get(said[i], key);
    sum += json_is_boolean(value) ? json_is_true(value) : json_number_value(value);
  }
  return sum;
}

double sl_metric_mean(const json_t *const *said, int n, const char *key) { return sl_metric_sum(said, n, key) / n; }

bool sl_metric_is_folder(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static bool fits(const char *name, const char *begin, const char *end) {
  const size_t n = strlen(name), n_begin = strlen(begin), n_end = strlen(end);
  return n >= n_begin + n_end && memcmp(name, begin, n_begin) == 0 && strcmp(name + n - n_end, end) == 0;
}

static sl_status find_file(char **out, const char *dir, const char *begin, const char *end) {
  char *best = NULL;
  *out = NULL;
  DIR *listing = opendir(dir);
  if (!listing) SL_FAIL(SL_ERROR_FILE, "%s: %s", dir, strerror(errno));
  sl_status status = SL_OK;
  for (struct dirent *entry; status == SL_OK && (entry = readdir(listing)) != NULL;) {
    if (!fits(entry->d_name, begin, end) || (best && strcmp(best, entry->d_name) <= 0)) continue;
    free(best);
    status = sl_strdup(&best, entry->d_name);
  }
  closedir(listing);
  if (status == SL_OK && best) status = sl_path_join(out, dir, best);
  free(best);
  return status;
}

sl_status sl_metric_find_file(char **out, const char *dir, const char *begin, const char *end) {
  static const char *const below[] = {"annotations", "coco"};
  sl_status status = find_file(out, dir, begin, end);
  for (size_t i = 0; i < sizeof below / sizeof *below && status == SL_OK && !*out; i++) {
    char *path = NULL;
    status = sl_path_join(&path, dir, below[i]);
    if (status == SL_OK && sl_metric_is_folder(path)) status = find_file(out, path, begin, end);
    free(path);
  }
  return status;
}

/* ---- summing up ---- */

static sl_status summarise_group(json_t *into, const sl_examples *examples, json_t *const *said, const char *group,
                                 const json_t **picked) {
  int n = 0;
  for (int i = 0; i < examples->n; i++) {
    const char *own = examples->items[i].group;
    if (said[i] && (!group || (own && strcmp(own, group) == 0))) picked[n++] = said[i];
  }
  SL_TRY(sl_metric_set(into, "count", json_integer(n)));
  return n > 0 ? examples->benchmark->summarise(into, picked, n) : SL_OK;
}

static sl_status summarise_groups(json_t *into, const sl_examples *examples, json_t *const *said,
                                  const json_t **picked) {
  json_t *groups = NULL;
  for (int i = 0; i < examples->n; i++) {
    const char *group = examples->items[i].group;
    if (!group || json_object_get(groups, group)) continue;
    if (!groups) {
      groups = json_object();
      SL_TRY(sl_metric_set(into, "groups", groups));
    }
    json_t *own = json_object();
    SL_TRY(sl_metric_set(groups, group, own));
    SL_TRY(summarise_group(own, examples, said, group, picked));
  }
  return SL_OK;
}

sl_status sl_summarise(json_t *into, const sl_examples *examples, json_t *const *said) {
  const json_t **picked = NULL;
  SL_TRY(SL_ALLOC(picked, (size_t)examples->n, "scores"));
  sl_status status = summarise_group(into, examples, said, NULL, picked);
  if (status == SL_OK) status = summarise_groups(into, examples, said, picked);
  free(picked);
  return status;
}
