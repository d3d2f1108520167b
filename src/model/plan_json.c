/* Plans as JSON, both ways. What comes in is a user's file: everything is named that is not understood, and its sets
 * may take a fixed amount of memory only (a few bytes of text can ask for a long set). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "model/plan.h"

#define MAX_SET_BYTES ((size_t)64 << 20) /* of all sets of one plan */
#define MAX_LAYER_DIGITS 4

static const char *const kind_names[SL_EDIT_KIND_COUNT] = {
    [SL_EDIT_REPLACE] = "replace", [SL_EDIT_ADD] = "add", [SL_EDIT_SCALE] = "scale"};

/* ---- writing ---- */

/* "0,3-7,12-", "all"; an empty set is an empty array, because an empty text more likely is a mistake. */
static sl_status set_to_json(const sl_set *set, json_t **out) {
  const int tail = sl_set_tail(set), end = set->rest ? tail : 64 * set->n_word;
  sl_text text = {0};
  sl_status status = SL_OK;
  for (int i = 0; status == SL_OK && (i = sl_set_next(set, i, true, end)) < end;) {
    const int first = i;
    i = sl_set_next(set, first, false, end);
    status = sl_text_format(&text, i - first > 1 ? "%s%d-%d" : "%s%d", text.length ? "," : "", first, i - 1);
  }
  if (status == SL_OK && set->rest && tail == 0) status = sl_text_append_string(&text, "all");
  if (status == SL_OK && set->rest && tail > 0) status = sl_text_format(&text, "%s%d-", text.length ? "," : "", tail);
  if (status == SL_OK) *out = text.length ? json_string(text.data) : json_array();
  sl_text_dispose(&text);
  return status;
}

/* Sets object[key], taking over value. */
static sl_status put(json_t *object, const char *key, json_t *value) {
  if (json_object_set_new(object, key, value) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "plan: no memory for \"%s\"", key);
}

static sl_status put_set(json_t *object, const char *key, const sl_set *set) {
  json_t *value = NULL;
  SL_TRY(set_to_json(set, &value));
  return put(object, key, value);
}

static sl_status rule_to_json(const sl_rule *rule, json_t *object) {
  char source[32];
  if (rule->source >= 0)
    snprintf(source, sizeof source, "baseline:%d", rule->source);
  else
    snprintf(source, sizeof source, "%s", rule->source == SL_SOURCE_OWN ? "own" : "hidden");
  SL_TRY(put_set(object, "layers", &rule->layers));
  SL_TRY(put_set(object, "heads", &rule->heads));
  SL_TRY(put_set(object, "queries", &rule->queries));
  SL_TRY(put_set(object, "keys", &rule->keys));
  return put(object, "source", json_string(source));
}

static sl_status put_value(const sl_edit *edit, json_t *object) {
  for (int i = 0; i < edit->n_value; i++)
    if (!isfinite(edit->value[i])) SL_FAIL(SL_ERROR_ARGUMENT, "plan: a value that is not finite has no JSON");
  if (edit->n_value == 1) return put(object, "value", json_real((double)edit->value[0]));
  json_t *array = json_array();
  bool ok = array != NULL;
  for (int i = 0; i < edit->n_value && ok; i++)
    ok = json_array_append_new(array, json_real((double)edit->value[i])) == 0;
  if (ok) return put(object, "value", array);
  json_decref(array);
  SL_FAIL(SL_ERROR_MEMORY, "plan: no memory for a value");
}

static bool has_heads(sl_site site) {
  const sl_site_shape shape = sl_site_get(site)->shape;
  return shape == SL_SHAPE_HEADS || shape == SL_SHAPE_KV;
}

/* The site in every layer: "blocks.*.hook_mlp_out". */
static json_t *site_pattern(sl_site site) {
  char name[64];
  const char *pattern = sl_site_get(site)->name, *mark = strstr(pattern, "{i}");
  const int before = mark ? (int)(mark - pattern) : (int)strlen(pattern);
  snprintf(name, sizeof name, "%.*s%s%s", before, pattern, mark ? "*" : "", mark ? mark + 3 : "");
  return json_string(name);
}

/* Site and position there, as far as they are others than here. */
static sl_status from_to_json(const sl_edit *edit, json_t *from) {
  char name[64];
  SL_TRY(put(from, "run", json_integer(edit->from_run)));
  if (edit->from_layer >= 0) {
    sl_site_name(name, SL_PART_DECODER, edit->from_site, edit->from_layer);
    SL_TRY(put(from, "site", json_string(name)));
  } else if (edit->from_site != edit->site) {
    SL_TRY(put(from, "site", site_pattern(edit->from_site)));
  }
  return edit->from_position < 0 ? SL_OK : put(from, "position", json_integer(edit->from_position));
}

static sl_status edit_to_json(const sl_edit *edit, json_t *object) {
  SL_TRY(put(object, "site", site_pattern(edit->site)));
  SL_TRY(put_set(object, "layers", &edit->layers));
  if (has_heads(edit->site)) SL_TRY(put_set(object, "heads", &edit->heads));
  SL_TRY(put_set(object, "positions", &edit->positions));
  SL_TRY(put(object, "op", json_string(kind_names[edit->kind])));
  if (edit->value) return put_value(edit, object);
  json_t *from = json_object();
  SL_TRY(put(object, "from", from));
  return from_to_json(edit, from);
}

/* A new object at the end of the list, borrowed. */
static sl_status append_object(json_t *list, json_t **out) {
  *out = json_object();
  if (json_array_append_new(list, *out) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "plan: no memory");
}

static sl_status fill_json(const sl_plan *plan, json_t *root) {
  json_t *attend = json_array(), *object;
  SL_TRY(put(root, "attend", attend));
  for (int i = 0; i < plan->n_rule; i++) {
    SL_TRY(append_object(attend, &object));
    SL_TRY(rule_to_json(&plan->rules[i], object));
  }
  json_t *edits = json_array();
  SL_TRY(put(root, "edits", edits));
  for (int i = 0; i < plan->n_edit; i++) {
    SL_TRY(append_object(edits, &object));
    SL_TRY(edit_to_json(&plan->edits[i], object));
  }
  return SL_OK;
}

sl_status sl_plan_to_json(const sl_plan *plan, json_t **out) {
  *out = NULL;
  json_t *root = json_object();
  if (!root) SL_FAIL(SL_ERROR_MEMORY, "plan: no memory");
  const sl_status status = fill_json(plan, root);
  if (status == SL_OK)
    *out = root;
  else
    json_decref(root);
  return status;
}

/* ---- reading ---- */

/* What is being read: "FILE, rule 2". */
typedef struct reader {
  const char *where, *part;
  int index;
  size_t n_set_bytes; /* of all sets so far */
} reader;

#define FAIL_READ(r, format, ...) \
  SL_FAIL(SL_ERROR_FORMAT, "%s: %s %d: " format, (r)->where, (r)->part, (r)->index, __VA_ARGS__)

static const char *type_name(const json_t *value) {
  static const char *const names[] = {
      [JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array", [JSON_STRING] = "a text", [JSON_INTEGER] = "an integer",
      [JSON_REAL] = "a real",      [JSON_TRUE] = "true",      [JSON_FALSE] = "false",   [JSON_NULL] = "null"};
  return value ? names[json_typeof(value)] : "nothing";
}

/* A text that C can hold: not one with U+0000 inside. */
static bool is_text(const json_t *value) {
  return json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value);
}

/* `object` is an object whose keys are all in the list. */
static sl_status check_keys(const reader *r, const json_t *object, const char *const *keys) {
  if (!json_is_object(object)) FAIL_READ(r, "expected an object, found %s", type_name(object));
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)object, key, value) {
    int k = 0;
    while (keys[k] && strcmp(keys[k], key) != 0) k++;
    if (!keys[k]) FAIL_READ(r, "unknown key \"%s\"", key);
  }
  return SL_OK;
}

static sl_status fail_number(const reader *r, const char *key, const char *found) {
  FAIL_READ(r, "\"%s\": expected numbers from 0 to %d, found %s", key, SL_SET_MAX - 1, found);
}

/* Digits at *at; -1 when there are none or the number is too large for a set. */
static int read_number(const char **at) {
  int64_t value = 0;
  if (**at < '0' || **at > '9') return -1;
  for (; **at >= '0' && **at <= '9'; (*at)++) {
    value = value * 10 + (**at - '0');
    if (value >= SL_SET_MAX) return -1;
  }
  return (int)value;
}

/* "0,3-7,12-" */
static sl_status parse_set(const reader *r, const char *key, const char *text, sl_set *set) {
  for (const char *at = text;; at++) {
    const int first = read_number(&at);
    int last = first;
    bool open = false;
    if (first < 0) return fail_number(r, key, text);
    if (*at == '-') {
      at++;
      open = *at == '\0' || *at == ',';
      last = open ? first : read_number(&at);
      if (last < 0) return fail_number(r, key, text);
      if (last < first) FAIL_READ(r, "\"%s\": the range %d-%d is empty", key, first, last);
    }
    SL_TRY(open ? sl_set_from(set, first) : sl_set_add(set, first, last - first + 1));
    if (*at == '\0') return SL_OK;
    if (*at != ',')
      FAIL_READ(r, "\"%s\": expected numbers and ranges (\"0,3-7,12-\") or \"all\", found \"%s\"", key, text);
  }
}

static sl_status parse_set_array(const reader *r, const char *key, const json_t *array, sl_set *set) {
  for (size_t i = 0; i < json_array_size(array); i++) {
    const json_t *item = json_array_get(array, i);
    if (!json_is_integer(item)) FAIL_READ(r, "\"%s\": expected an array of integers, found %s", key, type_name(item));
    const json_int_t number = json_integer_value(item);
    char found[32];
    snprintf(found, sizeof found, "%lld", (long long)number);
    if (number < 0 || number >= SL_SET_MAX) return fail_number(r, key, found);
    SL_TRY(sl_set_add(set, (int)number, 1));
  }
  return SL_OK;
}

/* Fills an empty set from object[key]; `optional`: all when it is not there. */
static sl_status read_set(reader *r, const json_t *object, const char *key, bool optional, sl_set *set) {
  const json_t *value = json_object_get(object, key);
  if (!value && !optional) FAIL_READ(r, "\"%s\" is missing", key);
  if (!value) *set = SL_SET_ALL;
  if (!value) return SL_OK;
  if (json_is_array(value))
    SL_TRY(parse_set_array(r, key, value, set));
  else if (!is_text(value))
    FAIL_READ(r, "\"%s\": expected a text (\"0,3-7,12-\", \"all\") or an array of numbers, found %s", key,
              type_name(value));
  else if (strcmp(json_string_value(value), "all") == 0)
    *set = SL_SET_ALL;
  else
    SL_TRY(parse_set(r, key, json_string_value(value), set));
  r->n_set_bytes += (size_t)set->n_word * sizeof *set->words;
  if (r->n_set_bytes <= MAX_SET_BYTES) return SL_OK;
  FAIL_READ(r, "the plan's sets take more than %zu MiB", MAX_SET_BYTES >> 20);
}

/* A text at object[key], required. */
static sl_status read_text(const reader *r, const json_t *object, const char *key, const char **out) {
  const json_t *value = json_object_get(object, key);
  if (!is_text(value)) FAIL_READ(r, "\"%s\": expected a text, found %s", key, type_name(value));
  *out = json_string_value(value);
  return SL_OK;
}

static sl_status read_source(const reader *r, const json_t *object, int *source) {
  const char *text, *at;
  SL_TRY(read_text(r, object, "source", &text));
  if (strcmp(text, "own") == 0) {
    *source = SL_SOURCE_OWN;
  } else if (strcmp(text, "hidden") == 0) {
    *source = SL_SOURCE_HIDDEN;
  } else {
    at = text + (strncmp(text, "baseline:", 9) == 0 ? 9 : 0);
    *source = at > text ? read_number(&at) : -1;
    if (*source < 0 || *at) FAIL_READ(r, "\"source\": expected own, hidden or baseline:N, found \"%s\"", text);
  }
  return SL_OK;
}

static sl_status read_rule(reader *r, const json_t *object, sl_plan *plan) {
  static const char *const keys[] = {"layers", "heads", "queries", "keys", "source", NULL};
  int source = SL_SOURCE_OWN;
  sl_rule *rule;
  SL_TRY(check_keys(r, object, keys));
  SL_TRY(read_source(r, object, &source));
  SL_TRY(sl_plan_add_rule(plan, source, &rule));
  SL_TRY(read_set(r, object, "layers", true, &rule->layers));
  SL_TRY(read_set(r, object, "heads", true, &rule->heads));
  SL_TRY(read_set(r, object, "queries", false, &rule->queries));
  return read_set(r, object, "keys", false, &rule->keys);
}

/* The layer's number in a site's name (".3."), or -1. */
static int layer_in(const char *name) {
  for (const char *dot = strchr(name, '.'); dot; dot = strchr(dot + 1, '.')) {
    const size_t n = strspn(dot + 1, "0123456789");
    if (n > 0 && n <= MAX_LAYER_DIGITS && dot[1 + n] == '.') return atoi(dot + 1);
  }
  return -1;
}

/* The one decoder site that a name means; *layer is the number in it, -1 without one. */
static sl_status find_site(const reader *r, const char *given, bool writes, sl_site *site, int *layer) {
  char name[128], first[64], other[64];
  const char *mark = strstr(given, "{i}");
  const int before = mark ? (int)(mark - given) : (int)strlen(given);
  int n_found = 0;
  *layer = layer_in(given);
  if (snprintf(name, sizeof name, "%.*s%s%s", before, given, mark ? "*" : "", mark ? mark + 3 : "") >= (int)sizeof name)
    FAIL_READ(r, "\"site\": a name of %zu bytes", strlen(given));
  for (int s = 0; s < SL_SITE_COUNT; s++) {
    /* Without a number the name must hold for every layer. */
    const int low = *layer < 0 ? 0 : *layer, high = *layer < 0 ? 9999 : *layer;
    if (!sl_site_match(name, SL_PART_DECODER, (sl_site)s, low)) continue;
    if (!sl_site_match(name, SL_PART_DECODER, (sl_site)s, high)) continue;
    sl_site_name(n_found ? other : first, SL_PART_DECODER, (sl_site)s, low);
    if (n_found++ == 0) *site = (sl_site)s;
  }
  if (n_found > 1) FAIL_READ(r, "\"site\": \"%s\" means more than one: %s, %s", given, first, other);
  if (n_found == 0) FAIL_READ(r, "\"site\": no decoder site is called \"%s\"", given);
  if (writes && !sl_site_get(*site)->writable) FAIL_READ(r, "\"site\": %s cannot be written", first);
  return SL_OK;
}

static sl_status read_layers(reader *r, const json_t *object, int layer, sl_set *layers) {
  if (layer < 0) return read_set(r, object, "layers", true, layers);
  if (json_object_get(object, "layers")) {
    SL_TRY(read_set(r, object, "layers", false, layers));
    if (!layers->rest && sl_set_has(layers, layer) && sl_set_count(layers, SL_SET_MAX) == 1) return SL_OK;
    FAIL_READ(r, "\"site\" names layer %d, \"layers\" says other ones; write * for the layer, or leave out \"layers\"",
              layer);
  }
  return sl_set_add(layers, layer, 1);
}

static sl_status read_op(const reader *r, const json_t *object, sl_edit_kind *kind) {
  const char *text;
  SL_TRY(read_text(r, object, "op", &text));
  for (int k = 0; k < SL_EDIT_KIND_COUNT; k++) {
    if (strcmp(kind_names[k], text) != 0) continue;
    *kind = (sl_edit_kind)k;
    return SL_OK;
  }
  FAIL_READ(r, "\"op\": expected replace, add or scale, found \"%s\"", text);
}

static sl_status read_value(const reader *r, const json_t *value, sl_edit *edit) {
  const size_t n = json_is_array(value) ? json_array_size(value) : 1;
  if (n == 0 || n > INT32_MAX) FAIL_READ(r, "\"value\": %zu numbers", n);
  SL_TRY(SL_ALLOC(edit->value, n, "value"));
  edit->n_value = (int)n;
  for (size_t i = 0; i < n; i++) {
    const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
    if (!json_is_number(item)) FAIL_READ(r, "\"value\": expected numbers, found %s", type_name(item));
    edit->value[i] = (float)json_number_value(item);
    if (!isfinite(edit->value[i])) FAIL_READ(r, "\"value\": %g is too large for f32", json_number_value(item));
  }
  return SL_OK;
}

/* A whole number at object[key] that fits an int; *out stays when it is not there. */
static sl_status read_index(const reader *r, const json_t *object, const char *key, bool optional, int *out) {
  const json_t *value = json_object_get(object, key);
  if (!value && optional) return SL_OK;
  if (!json_is_integer(value)) FAIL_READ(r, "\"%s\": expected an integer, found %s", key, type_name(value));
  const json_int_t number = json_integer_value(value);
  if (number < 0 || number >= SL_SET_MAX)
    FAIL_READ(r, "\"%s\": expected a number from 0 to %d, found %lld", key, SL_SET_MAX - 1, (long long)number);
  *out = (int)number;
  return SL_OK;
}

static sl_status read_from(const reader *r, const json_t *from, sl_edit *edit) {
  static const char *const keys[] = {"run", "site", "position", NULL};
  const char *name;
  SL_TRY(check_keys(r, from, keys));
  SL_TRY(read_index(r, from, "run", false, &edit->from_run));
  if (json_object_get(from, "site")) {
    SL_TRY(read_text(r, from, "site", &name));
    SL_TRY(find_site(r, name, false, &edit->from_site, &edit->from_layer));
  }
  return read_index(r, from, "position", true, &edit->from_position);
}

static sl_status read_edit(reader *r, const json_t *object, sl_plan *plan) {
  static const char *const keys[] = {"site", "layers", "heads", "positions", "op", "value", "from", NULL};
  const char *name;
  sl_site site = SL_SITE_RESID_PRE;
  sl_edit_kind kind = SL_EDIT_REPLACE;
  sl_edit *edit;
  int layer;
  SL_TRY(check_keys(r, object, keys));
  SL_TRY(read_text(r, object, "site", &name));
  SL_TRY(find_site(r, name, true, &site, &layer));
  SL_TRY(read_op(r, object, &kind));
  SL_TRY(sl_plan_add_edit(plan, site, kind, &edit));
  SL_TRY(read_layers(r, object, layer, &edit->layers));
  SL_TRY(read_set(r, object, "positions", false, &edit->positions));
  if (has_heads(site))
    SL_TRY(read_set(r, object, "heads", true, &edit->heads));
  else if (json_object_get(object, "heads"))
    FAIL_READ(r, "\"heads\": %s has no heads", name);
  const json_t *value = json_object_get(object, "value"), *from = json_object_get(object, "from");
  if ((value != NULL) == (from != NULL))
    FAIL_READ(r, "expected either \"value\" or \"from\", found %s", value ? "both" : "neither");
  return value ? read_value(r, value, edit) : read_from(r, from, edit);
}

/* Every object of root[key], which may be missing. */
static sl_status read_list(reader *r, const json_t *root, const char *key, const char *part,
                           sl_status (*read)(reader *, const json_t *, sl_plan *), sl_plan *plan) {
  const json_t *list = json_object_get(root, key);
  if (list && !json_is_array(list))
    SL_FAIL(SL_ERROR_FORMAT, "%s: \"%s\": expected an array, found %s", r->where, key, type_name(list));
  r->part = part;
  for (size_t i = 0; i < json_array_size(list); i++) {
    r->index = (int)i;
    SL_TRY(read(r, json_array_get(list, i), plan));
  }
  return SL_OK;
}

sl_status sl_plan_from_json(sl_plan *out, const json_t *json, const char *where) {
  *out = (sl_plan){0};
  if (!json_is_object(json)) SL_FAIL(SL_ERROR_FORMAT, "%s: expected an object, found %s", where, type_name(json));
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)json, key, value) {
    if (strcmp(key, "attend") != 0 && strcmp(key, "edits") != 0)
      SL_FAIL(SL_ERROR_FORMAT, "%s: unknown key \"%s\"; a plan has \"attend\" and \"edits\"", where, key);
  }
  sl_plan plan = {0};
  reader r = {.where = where};
  sl_status status = read_list(&r, json, "attend", "rule", read_rule, &plan);
  if (status == SL_OK) status = read_list(&r, json, "edits", "edit", read_edit, &plan);
  if (status == SL_OK)
    *out = plan;
  else
    sl_plan_dispose(&plan);
  return status;
}
