/* JSON-lines: the file's bytes stay in memory with the place of every line; a row is parsed when it is its turn, so
 * that memory does not grow with what was done. */
#include "task/study_data.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/text.h"
#include "task/run_json.h"

#define MAX_DATA_BYTES ((size_t)4 << 30)

typedef struct row_place {
  size_t at, n_bytes;
  int64_t line;
  char *bad; /* message, or NULL */
} row_place;

struct sl_study_data {
  const sl_study_plan *plan; /* borrowed */
  const char *name;          /* of the file, without its folder: messages become results, which hold no places */
  char *bytes;
  size_t n_bytes;
  row_place *rows;
  int64_t n_row;
};

void sl_study_row_dispose(sl_study_row *e) {
  free(e->id);
  free(e->image_path);
  free(e->mask_path);
  json_decref(e->row);
  json_decref(e->labels);
  *e = (sl_study_row){0};
}

/* ---- one row ---- */

/* "data.jsonl, line 17" */
static sl_status fail_row(const sl_study_data *d, const sl_study_row *e, const char *message) {
  SL_FAIL(SL_ERROR_FORMAT, "%s, line %lld: %s", d->name, (long long)e->line, message);
}

static sl_status fail_field(const sl_study_data *d, const sl_study_row *e, const char *what, const char *expected,
                            const json_t *found) {
  static const char *const types[] = {"an object", "an array", "a text", "an integer",
                                      "a number",  "true",     "false",  "null"};
  SL_FAIL(SL_ERROR_FORMAT, "%s, line %lld: \"%s\": expected %s, found %s", d->name, (long long)e->line,
          sl_study_plan_field(d->plan, what), expected, found ? types[json_typeof(found)] : "nothing");
}

static json_t *field(const sl_study_data *d, const sl_study_row *e, const char *what) {
  json_t *value = json_object_get(e->row, sl_study_plan_field(d->plan, what));
  return json_is_null(value) ? NULL : value;
}

static sl_status take_text(const sl_study_data *d, const sl_study_row *e, const char *what, bool required,
                           const char **out) {
  const json_t *value = field(d, e, what);
  if (!value && !required) return SL_OK;
  if (!json_is_string(value)) return fail_field(d, e, what, "a text", value);
  *out = json_string_value(value);
  if (strlen(*out) == json_string_length(value)) return SL_OK;
  SL_FAIL(SL_ERROR_FORMAT, "%s, line %lld: \"%s\": holds U+0000", d->name, (long long)e->line,
          sl_study_plan_field(d->plan, what));
}

static sl_status take_id(const sl_study_data *d, sl_study_row *e) {
  const json_t *value = field(d, e, "id");
  if (json_is_string(value) && *json_string_value(value)) return sl_strdup(&e->id, json_string_value(value));
  if (!json_is_integer(value)) return fail_field(d, e, "id", "a text or a whole number", value);
  sl_text text = {0};
  const sl_status status = sl_text_format(&text, "%lld", (long long)json_integer_value(value));
  e->id = text.data;
  return status;
}

/* Relative, and no step upwards; links are followed, as data sets are often made of them. */
static bool stays_inside(const char *path) {
  if (path[0] == '/') return false;
  for (const char *at = path; *at; at += strspn(at, "/")) {
    const size_t length = strcspn(at, "/");
    if (length == 2 && strncmp(at, "..", 2) == 0) return false;
    at += length;
  }
  return true;
}

static sl_status take_file(const sl_study_data *d, const sl_study_row *e, const char *name, char **path) {
  struct stat info;
  if (!name) return SL_OK;
  if (!stays_inside(name))
    SL_FAIL(SL_ERROR_FORMAT, "%s, line %lld: \"%s\": the path leaves the folder of pictures", d->name,
            (long long)e->line, name);
  SL_TRY(sl_path_join(path, d->plan->images, name));
  if (stat(*path, &info) != 0)
    SL_FAIL(SL_ERROR_FILE, "%s, line %lld: %s: %s", d->name, (long long)e->line, name, strerror(errno));
  if (!S_ISREG(info.st_mode))
    SL_FAIL(SL_ERROR_FILE, "%s, line %lld: %s: not a file", d->name, (long long)e->line, name);
  return SL_OK;
}

/* Everything that is not one of the five. */
static sl_status take_labels(const sl_study_data *d, sl_study_row *e) {
  static const char *const own[] = {"id", "image", "question", "answer", "mask"};
  const char *name;
  json_t *value;
  json_object_foreach(e->row, name, value) {
    bool is_own = false;
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
      is_own = is_own || strcmp(name, sl_study_plan_field(d->plan, own[i])) == 0;
    if (!is_own) SL_TRY(sl_run_json_set(e->labels, name, json_incref(value)));
  }
  return SL_OK;
}

/* Where the plan says which labels there are: no others, and no other values. */
static sl_status check_labels(const sl_study_data *d, const sl_study_row *e) {
  const json_t *known = sl_study_plan_labels(d->plan);
  const char *name;
  json_t *value;
  if (!known) return SL_OK;
  json_object_foreach(e->labels, name, value) {
    const json_t *values = json_object_get(known, name);
    if (!values) SL_FAIL(SL_ERROR_FORMAT, "%s, line %lld: unknown label \"%s\"", d->name, (long long)e->line, name);
    bool is_known = json_is_null(values);
    for (size_t i = 0; i < json_array_size(values) && !is_known; i++)
      is_known = json_equal(json_array_get(values, i), value);
    if (is_known) continue;
    char *text = NULL;
    json_t *shown = json_pack("[O]", value);
    sl_status status = shown ? sl_json_print_exact(shown, &text) : sl_fail(SL_ERROR_MEMORY, "no memory for a label");
    json_decref(shown);
    if (status == SL_OK)
      status = sl_fail(SL_ERROR_FORMAT, "%s, line %lld: label \"%s\": unknown value %.*s", d->name, (long long)e->line,
                       name, strlen(text) > 102 ? 100 : (int)strlen(text) - 2, text + 1);
    free(text);
    return status;
  }
  return SL_OK;
}

sl_status sl_study_data_example(const sl_study_data *d, int64_t i, sl_study_row *e) {
  const row_place *place = &d->rows[i];
  sl_text name = {0};
  e->line = place->line;
  e->labels = json_object();
  if (!e->labels) SL_FAIL(SL_ERROR_MEMORY, "no memory for an example");
  sl_status status = sl_text_format(&name, "%s, line %lld", d->name, (long long)place->line);
  if (status == SL_OK) status = sl_json_parse(&e->row, d->bytes + place->at, place->n_bytes, name.data);
  sl_text_dispose(&name);
  SL_TRY(status);
  if (!json_is_object(e->row)) return fail_row(d, e, "expected a JSON object");
  SL_TRY(take_labels(d, e));
  SL_TRY(take_id(d, e));
  SL_TRY(take_text(d, e, "image", true, &e->image));
  SL_TRY(take_text(d, e, "question", true, &e->question));
  SL_TRY(take_text(d, e, "answer", d->plan->force_answer, &e->answer));
  SL_TRY(take_text(d, e, "mask", false, &e->mask));
  SL_TRY(take_file(d, e, e->image, &e->image_path));
  SL_TRY(take_file(d, e, e->mask, &e->mask_path));
  return check_labels(d, e);
}

/* ---- all of them ---- */

/* What a row holds can be in its message: one line all the same. */
static void flatten(char *message) {
  for (; message && *message; message++)
    if ((unsigned char)*message < ' ') *message = ' ';
}

static sl_status add_row(sl_study_data *d, int64_t *capacity, row_place place) {
  if (d->n_row == *capacity) {
    *capacity = *capacity ? 2 * *capacity : 1024;
    SL_TRY(SL_REALLOC(d->rows, (size_t)*capacity, "rows"));
  }
  d->rows[d->n_row++] = place;
  return SL_OK;
}

static sl_status find_rows(sl_study_data *d) {
  int64_t capacity = 0, line = 1;
  for (size_t at = 0; at < d->n_bytes; line++) {
    const char *end = memchr(d->bytes + at, '\n', d->n_bytes - at);
    const size_t next = end ? (size_t)(end - d->bytes) : d->n_bytes;
    size_t first = at;
    while (first < next && strchr(" \t\r", d->bytes[first]) && d->bytes[first]) first++;
    if (first < next) SL_TRY(add_row(d, &capacity, (row_place){.at = first, .n_bytes = next - first, .line = line}));
    at = next + 1;
  }
  if (d->n_row == 0) SL_FAIL(SL_ERROR_FORMAT, "%s: no examples", d->plan->data);
  return SL_OK;
}

typedef struct known_id {
  uint64_t hash;
  int64_t row;
} known_id;

static int by_hash(const void *a, const void *b) {
  const known_id *x = a, *y = b;
  if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
  return x->row < y->row ? -1 : x->row > y->row;
}

static sl_status mark_twin(sl_study_data *d, int64_t first, int64_t second) {
  sl_study_row e = {0};
  sl_status status = sl_study_data_example(d, second, &e);
  sl_text text = {0};
  if (status == SL_OK)
    status = sl_text_format(&text, "%s, line %lld: the id \"%s\" is that of line %lld too", d->name,
                            (long long)d->rows[second].line, e.id, (long long)d->rows[first].line);
  d->rows[second].bad = text.data;
  flatten(text.data);
  sl_study_row_dispose(&e);
  return status;
}

/* Ids by their 64-bit hashes: two of 10^6 meet by chance once in 4 10^7 files. */
static sl_status mark_twins(sl_study_data *d, known_id *ids, int64_t n) {
  qsort(ids, (size_t)n, sizeof *ids, by_hash);
  for (int64_t i = 1, first = 0; i < n; i++) {
    if (ids[i].hash == ids[first].hash)
      SL_TRY(mark_twin(d, ids[first].row, ids[i].row));
    else
      first = i;
  }
  return SL_OK;
}

static sl_status check_rows(sl_study_data *d) {
  known_id *ids;
  int64_t n = 0;
  SL_TRY(SL_ALLOC(ids, (size_t)d->n_row, "ids"));
  sl_status status = SL_OK;
  for (int64_t i = 0; i < d->n_row && status == SL_OK; i++) {
    sl_study_row e = {0};
    const sl_status read = sl_study_data_example(d, i, &e);
    if (read == SL_ERROR_MEMORY) status = read;
    else if (read != SL_OK) status = sl_strdup(&d->rows[i].bad, sl_error_message());
    else ids[n++] = (known_id){XXH3_64bits(e.id, strlen(e.id)), i};
    sl_study_row_dispose(&e);
  }
  for (int64_t i = 0; i < d->n_row; i++) flatten(d->rows[i].bad);
  if (status == SL_OK) status = mark_twins(d, ids, n);
  free(ids);
  return status;
}

sl_status sl_study_data_parse(sl_study_data **out, const sl_study_plan *plan, char *bytes, size_t n_bytes) {
  sl_study_data *d = NULL;
  *out = NULL;
  sl_status status = SL_ALLOC(d, 1, "data");
  if (status != SL_OK) {
    free(bytes);
    return status;
  }
  *d = (sl_study_data){.plan = plan, .bytes = bytes, .n_bytes = n_bytes};
  d->name = strrchr(plan->data, '/') ? strrchr(plan->data, '/') + 1 : plan->data;
  status = find_rows(d);
  if (status == SL_OK) status = check_rows(d);
  if (status == SL_OK)
    *out = d;
  else
    sl_study_data_close(d);
  return status;
}

sl_status sl_study_data_open(sl_study_data **out, const sl_study_plan *plan) {
  char *bytes = NULL;
  size_t n_bytes = 0;
  *out = NULL;
  SL_TRY(sl_file_read(plan->data, MAX_DATA_BYTES, &bytes, &n_bytes));
  return sl_study_data_parse(out, plan, bytes, n_bytes);
}

void sl_study_data_close(sl_study_data *d) {
  if (!d) return;
  for (int64_t i = 0; i < d->n_row; i++) free(d->rows[i].bad);
  free(d->rows);
  free(d->bytes);
  free(d);
}

int64_t sl_study_data_count(const sl_study_data *d) { return d->n_row; }
uint64_t sl_study_data_hash(const sl_study_data *d) { return XXH3_64bits(d->bytes, d->n_bytes); }
const char *sl_study_data_bad(const sl_study_data *d, int64_t i) { return d->rows[i].bad; }

uint64_t sl_study_data_bad_rows(const sl_study_data *d, int64_t *n_bad) {
  uint64_t hash = 0;
  *n_bad = 0;
  for (int64_t i = 0; i < d->n_row; i++) {
    if (!d->rows[i].bad) continue;
    hash = XXH3_64bits_withSeed(&i, sizeof i, hash);
    ++*n_bad;
  }
  return hash;
}
