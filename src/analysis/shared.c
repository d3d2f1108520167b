/* Prefix and trunk of one run, and pictures from files. */
#include "analysis/shared.h"

#include <stdlib.h>

void sl_shared_dispose(sl_shared *shared) {
  sl_trunk_free(shared->trunk);
  sl_prefix_free(shared->prefix);
  free(shared->flow_row);
  free(shared->cam_row);
  free(shared->token_row);
  free(shared->head_score);
  sl_baseline_free(shared->baseline);
  free(shared->baseline_key);
  *shared = (sl_shared){0};
}

sl_status sl_context_trunk(sl_analysis_context *c, bool keep_rows, const sl_trunk **out) {
  sl_shared *shared = c->shared;
  *out = NULL;
  if (shared->trunk && keep_rows && !sl_prefix_keeps_rows(shared->prefix)) {
    sl_trunk_free(shared->trunk);
    sl_prefix_free(shared->prefix);
    shared->trunk = NULL;
    shared->prefix = NULL;
  }
  if (!shared->prefix) SL_TRY(sl_prefix_new(&shared->prefix, c->session, c->layout, c->image, keep_rows, NULL));
  if (!shared->trunk) SL_TRY(sl_trunk_new(&shared->trunk, c->session, shared->prefix, c->layout, NULL));
  *out = shared->trunk;
  return SL_OK;
}

sl_status sl_context_encode_file(sl_analysis_context *c, const char *path, const char *question, sl_pack *pack,
                                 sl_image **out) {
  sl_rgb source = {0};
  sl_views views = {0};
  sl_pack own = {0};
  *out = NULL;
  if (pack) *pack = (sl_pack){0};
  SL_TRY(sl_rgb_load(&source, path, true));
  sl_status status = sl_views_make(&views, sl_model_get_preprocess(c->model), &source);
  sl_rgb_dispose(&source);
  if (status == SL_OK) status = sl_pack_make(&own, c->model, &views, question);
  if (status == SL_OK) status = sl_image_encode(out, c->session, views.pixels, &own, NULL, false);
  sl_views_dispose(&views);
  if (status == SL_OK && pack)
    *pack = own;
  else
    sl_pack_dispose(&own);
  return status;
}

sl_frame sl_layout_frame(const sl_layout *l) {
  const int before = l->first_image - 1, after = l->first_image + l->n_image;
  return (sl_frame){before >= 0 && l->classes[before] == SL_CLASS_STRUCTURE,
                    after < l->n_prompt && l->classes[after] == SL_CLASS_STRUCTURE};
}

sl_status sl_plan_hide_frame(sl_plan *plan, const sl_layout *l) {
  const sl_frame frame = sl_layout_frame(l);
  if (frame.n_before + frame.n_after == 0) return SL_OK;
  sl_rule *rule;
  SL_TRY(sl_plan_add_rule(plan, SL_SOURCE_HIDDEN, &rule));
  const sl_rule *image = &plan->rules[plan->n_rule - 2];
  SL_TRY(sl_set_copy(&rule->layers, &image->layers));
  SL_TRY(sl_set_copy(&rule->heads, &image->heads));
  SL_TRY(sl_set_copy(&rule->queries, &image->queries));
  SL_TRY(sl_set_add(&rule->keys, l->first_image - frame.n_before, frame.n_before));
  return sl_set_add(&rule->keys, l->first_image + l->n_image, frame.n_after);
}
