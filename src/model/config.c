/* Reading config.json by table. */
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

sl_status sl_config_load(json_t **out, const char *dir, char **path) {
  *out = NULL;
  *path = NULL;
  char *file = NULL;
  SL_TRY(sl_path_join(&file, dir, "config.json"));
  const sl_status status = sl_json_load(out, file, (size_t)4 << 20);
  if (status == SL_OK && !json_is_object(*out)) {
    json_decref(*out);
    *out = NULL;
    const sl_status not_object = sl_fail(SL_ERROR_FORMAT, "%s: expected a JSON object at the top", file);
    free(file);
    return not_object;
  }
  if (status == SL_OK)
    *path = file;
  else
    free(file);
  return status;
}

typedef sl_status fill_fn(void *slot, json_t *json, const char *path, const sl_config_field *field, const char *name);

static sl_status fill_int(void *slot, json_t *json, const char *path, const sl_config_field *f, const char *name) {
  int64_t value = isnan(f->number) ? *(int *)slot : (int64_t)f->number;
  SL_TRY(sl_json_get_int(json, path, f->min, f->max, &value, name));
  *(int *)slot = (int)value;
  return SL_OK;
}

static sl_status fill_side(void *slot, json_t *json, const char *path, const sl_config_field *f, const char *name) {
  const json_t *value = sl_json_at(json, path);
  if (!json_is_array(value)) return fill_int(slot, json, path, f, name);
  const json_t *height = json_array_get(value, 0), *width = json_array_get(value, 1);
  if (json_array_size(value) != 2 || !json_is_integer(height) || !json_equal(height, width))
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected an integer or a list of two equal ones", name, path);
  const json_int_t side = json_integer_value(height);
  if (side < f->min || side > f->max)
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected integers in [%lld, %lld], found %lld", name, path, (long long)f->min,
            (long long)f->max, (long long)side);
  *(int *)slot = (int)side;
  return SL_OK;
}

static sl_status fill_layers(void *slot, json_t *json, const char *path, const sl_config_field *f, const char *name) {
  struct sl_feature_layers *layers = slot;
  const json_t *value = sl_json_at(json, path);
  if (!json_is_array(value)) {
    layers->n = 1;
    return fill_int(layers->at, json, path, f, name);
  }
  const size_t n = json_array_size(value);
  if (n < 1 || n > SL_MAX_FEATURE_LAYER)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: %s: expected an integer or a list of 1 to %d, found %zu", name, path,
            SL_MAX_FEATURE_LAYER, n);
  for (layers->n = 0; layers->n < (int)n; layers->n++) {
    const json_t *layer = json_array_get(value, (size_t)layers->n);
    if (!json_is_integer(layer) || json_integer_value(layer) < f->min || json_integer_value(layer) > f->max)
      SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected integers in [%lld, %lld], found another at place %d", name, path,
              (long long)f->min, (long long)f->max, layers->n);
    layers->at[layers->n] = (int)json_integer_value(layer);
  }
  return SL_OK;
}

static sl_status fill_real(void *slot, json_t *json, const char *path, const sl_config_field *f, const char *name) {
  if (!isnan(f->number)) *(double *)slot = f->number;
  return sl_json_get_real(json, path, slot, name);
}

static sl_status fill_bool(void *slot, json_t *json, const char *path, const sl_config_field *f, const char *name) {
  if (!isnan(f->number)) *(bool *)slot = f->number != 0;
  return sl_json_get_bool(json, path, slot, name);
}

static sl_status fill_string(void *slot, json_t *json, const char *path, const sl_config_field *f, const char *name) {
  if (f->text) *(const char **)slot = f->text;
  return sl_json_get_string(json, path, slot, name);
}

static void set_fixed(void *slot, const sl_config_field *f) {
  switch (f->kind) {
    case SL_FIELD_INT:
    case SL_FIELD_SIDE: *(int *)slot = (int)f->number; break;
    case SL_FIELD_LAYERS: *(struct sl_feature_layers *)slot = (struct sl_feature_layers){1, {(int)f->number}}; break;
    case SL_FIELD_REAL: *(double *)slot = f->number; break;
    case SL_FIELD_BOOL: *(bool *)slot = f->number != 0; break;
    case SL_FIELD_STRING: *(const char **)slot = f->text; break;
  }
}

/* A section ("text_config" of "text_config.hidden_size") that is there must be an object: else its fields would
 * silently take their defaults. */
static sl_status check_sections(json_t *json, const char *path, const char *name) {
  char section[128];
  for (const char *dot = strchr(path, '.'); dot; dot = strchr(dot + 1, '.')) {
    snprintf(section, sizeof section, "%.*s", (int)(dot - path), path);
    const json_t *value = sl_json_at(json, section);
    if (value && !json_is_null(value) && !json_is_object(value))
      SL_FAIL(SL_ERROR_FORMAT, "%s: %s: expected an object, found another type", name, section);
  }
  return SL_OK;
}

sl_status sl_config_fill(sl_config *config, json_t *json, const char *section, const sl_config_field *fields,
                         int n_field, const char *name) {
  static fill_fn *const fill[] = {[SL_FIELD_INT] = fill_int,
                                  [SL_FIELD_SIDE] = fill_side,
                                  [SL_FIELD_LAYERS] = fill_layers,
                                  [SL_FIELD_REAL] = fill_real,
                                  [SL_FIELD_BOOL] = fill_bool,
                                  [SL_FIELD_STRING] = fill_string};
  char path[160];
  for (int i = 0; i < n_field; i++) {
    if (!fields[i].path) {
      set_fixed((char *)config + fields[i].offset, &fields[i]);
      continue;
    }
    snprintf(path, sizeof path, "%s%s%s", section, section[0] ? "." : "", fields[i].path);
    SL_TRY(check_sections(json, path, name));
    SL_TRY(fill[fields[i].kind]((char *)config + fields[i].offset, json, path, &fields[i], name));
  }
  return SL_OK;
}

sl_status sl_config_act(const char *hf_name, const char *key, const char *name, sl_act *out) {
  static const struct {
    const char *hf_name;
    sl_act act;
  } acts[] = {{"quick_gelu", SL_ACT_QUICK_GELU}, {"gelu", SL_ACT_GELU_ERF}, {"gelu_pytorch_tanh", SL_ACT_GELU_TANH},
              {"gelu_new", SL_ACT_GELU_TANH},    {"silu", SL_ACT_SILU},     {"swish", SL_ACT_SILU}};
  for (size_t i = 0; i < sizeof acts / sizeof *acts; i++) {
    if (strcmp(hf_name, acts[i].hf_name) == 0) {
      *out = acts[i].act;
      return SL_OK;
    }
  }
  SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: %s is \"%s\"; sightline has quick_gelu, gelu, gelu_pytorch_tanh and silu", name,
          key, hf_name);
}
