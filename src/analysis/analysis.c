/* The table of analyses, their order, and what they all need. */
#include "analysis/analysis.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "stats/spread.h"

const sl_analysis *const sl_analyses[] = {&sl_flow_analysis,     &sl_cam_analysis,  &sl_cliff_analysis,
                                         &sl_knockout_analysis, &sl_lens_analysis,
                                         &sl_heads_analysis,    &sl_tokens_analysis, NULL};

int sl_analysis_count(void) { return (int)(sizeof sl_analyses / sizeof *sl_analyses) - 1; }

const sl_analysis_info *sl_analysis_at(int index) { return &sl_analyses[index]->info; }

const sl_analysis_info *sl_analysis_find(const char *name) {
  for (int i = 0; sl_analyses[i]; i++) {
    if (strcmp(sl_analyses[i]->info.name, name) == 0) return &sl_analyses[i]->info;
  }
  return NULL;
}

/* True when `user` reads a result that `maker` writes. */
static bool reads_from(const sl_analysis *user, const sl_analysis *maker) {
  for (const char *const *use = user->uses; use && *use; use++) {
    for (const char *const *result = maker->info.results; *result; result++) {
      if (strcmp(*use, *result) == 0) return true;
    }
  }
  return false;
}

void sl_analysis_order(int *indices, int n) {
  for (int done = 0; done < n; done++) {
    /* The first asked one that reads from none of the others still waiting; the table holds no circle. */
    int pick = done;
    for (int i = n - 1; i >= done; i--) {
      bool waits = false;
      for (int j = done; j < n; j++)
        waits = waits || (j != i && reads_from(sl_analyses[indices[i]], sl_analyses[indices[j]]));
      if (!waits) pick = i;
    }
    const int index = indices[pick];
    memmove(indices + done + 1, indices + done, (size_t)(pick - done) * sizeof *indices);
    indices[done] = index;
  }
}

bool sl_context_flag(const sl_analysis_context *c, const char *name) {
  return sl_option_flag(c->info, name, c->options, c->n_option);
}

int sl_context_int(const sl_analysis_context *c, const char *name) {
  return (int)sl_option_int(c->info, name, c->options, c->n_option);
}

double sl_context_real(const sl_analysis_context *c, const char *name) {
  return sl_option_real(c->info, name, c->options, c->n_option);
}

const char *sl_context_text(const sl_analysis_context *c, const char *name) {
  return sl_option_text(c->info, name, c->options, c->n_option);
}

bool sl_context_given(const sl_analysis_context *c, const char *name) {
  for (int i = 0; i < c->n_option; i++)
    if (strcmp(c->options[i].name, name) == 0) return true;
  return false;
}

sl_status sl_context_put(sl_analysis_context *c, const char *name, sl_dtype dtype, int n_dim, const int64_t *shape,
                         const void *data) {
  return c->run ? sl_run_put(c->run, name, dtype, n_dim, shape, data) : SL_OK;
}

sl_status sl_context_say(sl_analysis_context *c, const char *key, json_t *value) {
  if (json_object_set_new(c->said, key, value) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "%s: no memory for \"%s\" of run.json", c->info->name, key);
}

json_t *sl_json_number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

json_t *sl_json_floats(const float *values, int n, int stride) {
  json_t *array = json_array();
  for (int i = 0; i < n && array; i++) {
    if (json_array_append_new(array, sl_json_number(values[(int64_t)i * stride])) != 0) {
      json_decref(array);
      array = NULL;
    }
  }
  return array;
}

sl_status sl_context_warn(sl_analysis_context *c, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char line[1024];
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (c->log) c->log(c->user, line);
  if (json_array_append_new(c->warnings, json_string(line)) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_MEMORY, "%s: no memory for a warning", c->info->name);
}

void sl_context_progress(sl_analysis_context *c, double done, double total) {
  if (c->progress && !c->progress(c->user, c->info->name, done, total) && c->cancel) sl_cancel_request(c->cancel);
}

sl_status sl_context_check_cancel(const sl_analysis_context *c) {
  if (c->cancel && sl_cancel_requested(c->cancel)) SL_FAIL(SL_ERROR_CANCELLED, "%s: interrupted", c->info->name);
  return SL_OK;
}

void sl_layout_take_shown(const sl_layout *layout, const float *map, float *out) {
  int n = 0;
  for (int i = 0; i < layout->n_image; i++)
    if (sl_layout_shows(layout, i)) out[n++] = map[i];
}

static sl_status shown_stats(const float *map, const bool *object, int n, float stats[4]) {
  double top;
  SL_TRY(sl_top_share(&top, map, n, 0.1));
  stats[0] = (float)sl_entropy(map, n);
  stats[1] = (float)top;
  stats[2] = stats[3] = NAN;
  if (object && !isnan(stats[0])) {
    stats[2] = (float)sl_chosen_share(map, object, n);
    stats[3] = object[sl_peak(map, n)] ? 1.0f : 0.0f;
  }
  return SL_OK;
}

sl_status sl_map_stats(const sl_analysis_context *c, const float *map, float stats[4]) {
  const sl_layout *layout = c->layout;
  float *shown = NULL;
  bool *object = NULL;
  sl_status status = SL_ALLOC(shown, (size_t)layout->n_shown, "map statistics");
  if (status == SL_OK && c->object) status = SL_ALLOC(object, (size_t)layout->n_shown, "map statistics");
  if (status == SL_OK) {
    sl_layout_take_shown(layout, map, shown);
    for (int i = 0, n = 0; object && i < layout->n_image; i++)
      if (sl_layout_shows(layout, i)) object[n++] = c->object[i];
    status = shown_stats(shown, object, layout->n_shown, stats);
  }
  free(shown);
  free(object);
  return status;
}
