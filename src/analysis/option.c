/* Options of analyses: the tables say what is allowed, this file holds the users' strings to them. */
#include "analysis/option.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

static bool same_name(const char *a, const char *b) {
  for (; *a && *b; a++, b++) {
    if (*a != *b && !((*a == '-' || *a == '_') && (*b == '-' || *b == '_'))) return false;
  }
  return *a == *b;
}

static bool parse_int(const char *text, int64_t *out) {
  char *end;
  errno = 0;
  const long long value = strtoll(text, &end, 10);
  if (end == text || *end || errno || strspn(text, "+-0123456789") != strlen(text)) return false;
  *out = value;
  return true;
}

/* A decimal number with nothing after it: by hand, because strtod follows the locale, and without memory. Up to 15
 * digits and powers of ten to 22 the result is the nearest double (both operands of the one operation are exact). */
static bool parse_real(const char *text, double *out) {
  const char *at = text + (*text == '-' || *text == '+');
  double digits = 0;
  int n_digit = 0, power = 0;
  for (; *at >= '0' && *at <= '9'; at++, n_digit++) digits = 10 * digits + (*at - '0');
  if (*at == '.') {
    for (at++; *at >= '0' && *at <= '9'; at++, n_digit++, power--) digits = 10 * digits + (*at - '0');
  }
  if (n_digit == 0) return false;
  if (*at == 'e' || *at == 'E') {
    int64_t exponent;
    if (!parse_int(at + 1, &exponent) || exponent < -999 || exponent > 999) return false;
    power += (int)exponent;
    at += strlen(at);
  }
  *out = (*text == '-' ? -1 : 1) * (power < 0 ? digits / pow(10, -power) : digits * pow(10, power));
  return *at == '\0' && isfinite(*out);
}

static sl_status check_choice(const sl_option_info *option, const char *value) {
  sl_text list = {0};
  sl_status status = SL_OK;
  for (const char *const *choice = option->choices; *choice && status == SL_OK; choice++) {
    if (same_name(*choice, value)) {
      sl_text_dispose(&list);
      return SL_OK;
    }
    status = sl_text_format(&list, "%s%s", list.length ? ", " : "", *choice);
  }
  if (status == SL_OK)
    status = sl_fail(SL_ERROR_ARGUMENT, "--%s: expected one of %s, found \"%s\"", option->name, list.data, value);
  sl_text_dispose(&list);
  return status;
}

sl_status sl_option_check(const sl_option_info *option, const char *value) {
  int64_t whole = 0;
  double real = 0;
  switch (option->type) {
    case SL_OPTION_FLAG:
      if (strcmp(value, "true") == 0 || strcmp(value, "false") == 0) return SL_OK;
      SL_FAIL(SL_ERROR_ARGUMENT, "--%s: expected true or false, found \"%s\"", option->name, value);
    case SL_OPTION_INT:
      if (parse_int(value, &whole) && whole >= option->min && whole <= option->max) return SL_OK;
      SL_FAIL(SL_ERROR_ARGUMENT, "--%s: expected a whole number from %.0f to %.0f, found \"%s\"", option->name,
              option->min, option->max, value);
    case SL_OPTION_REAL:
      if (parse_real(value, &real) && real >= option->min && real <= option->max) return SL_OK;
      SL_FAIL(SL_ERROR_ARGUMENT, "--%s: expected a number from %g to %g, found \"%s\"", option->name, option->min,
              option->max, value);
    case SL_OPTION_CHOICE:
      return check_choice(option, value);
    case SL_OPTION_TEXT:
      if (sl_utf8_valid(value, strlen(value), NULL)) return SL_OK;
      SL_FAIL(SL_ERROR_ARGUMENT, "--%s: expected UTF-8 text", option->name);
  }
  SL_FAIL(SL_ERROR_ARGUMENT, "--%s: unknown type", option->name);
}

const sl_option_info *sl_option_find(const sl_analysis_info *analysis, const char *name) {
  for (int i = 0; i < analysis->n_option; i++) {
    if (same_name(analysis->options[i].name, name)) return &analysis->options[i];
  }
  return NULL;
}

const char *sl_option_text(const sl_analysis_info *analysis, const char *name, const sl_option_value *values,
                           int n_value) {
  const sl_option_info *option = sl_option_find(analysis, name);
  assert(option);
  const char *text = option->fallback;
  for (int i = 0; i < n_value; i++) {
    if (same_name(values[i].name, name)) text = values[i].value;
  }
  for (const char *const *choice = option->choices; choice && text && *choice; choice++) {
    if (same_name(*choice, text)) return *choice; /* in the table's spelling, so that callers can compare */
  }
  return text;
}

bool sl_option_flag(const sl_analysis_info *analysis, const char *name, const sl_option_value *values, int n_value) {
  const char *text = sl_option_text(analysis, name, values, n_value);
  return text && strcmp(text, "true") == 0;
}

int64_t sl_option_int(const sl_analysis_info *analysis, const char *name, const sl_option_value *values, int n_value) {
  int64_t value = 0;
  const bool ok = parse_int(sl_option_text(analysis, name, values, n_value), &value);
  assert(ok);
  (void)ok;
  return value;
}

double sl_option_real(const sl_analysis_info *analysis, const char *name, const sl_option_value *values, int n_value) {
  double value = 0;
  const bool ok = parse_real(sl_option_text(analysis, name, values, n_value), &value);
  assert(ok);
  (void)ok;
  return value;
}

static json_t *option_to_json(const sl_analysis_info *analysis, const sl_option_info *option,
                              const sl_option_value *values, int n_value) {
  const char *text = sl_option_text(analysis, option->name, values, n_value);
  if (!text) return json_null();
  switch (option->type) {
    case SL_OPTION_FLAG:
      return json_boolean(strcmp(text, "true") == 0);
    case SL_OPTION_INT:
      return json_integer(sl_option_int(analysis, option->name, values, n_value));
    case SL_OPTION_REAL:
      return json_real(sl_option_real(analysis, option->name, values, n_value));
    case SL_OPTION_CHOICE:
    case SL_OPTION_TEXT:
      return json_string(text);
  }
  return NULL;
}

sl_status sl_options_to_json(const sl_analysis_info *analysis, const sl_option_value *values, int n_value,
                             json_t **out) {
  json_t *object = json_object();
  bool ok = object != NULL;
  for (int i = 0; i < analysis->n_option && ok; i++) {
    const sl_option_info *option = &analysis->options[i];
    ok = json_object_set_new(object, option->name, option_to_json(analysis, option, values, n_value)) == 0;
  }
  if (!ok) {
    json_decref(object);
    SL_FAIL(SL_ERROR_MEMORY, "options of %s: no memory", analysis->name);
  }
  *out = object;
  return SL_OK;
}
