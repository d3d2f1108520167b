/* Components of token-level flow and the rules that ablate them.
 *
 *   text side:  component = query position after the image (or class of positions, or position x layer band); ablated =
 *               that query sees the baseline at all image positions
 *   image side: component = image position (or block of patches); ablated = its key and value are the baseline's for
 *               all queries after the image, in all heads or inside chosen ones; the marks that some families write
 *               around a picture stay: they know of it only what the plan lets them see
 *
 * Source: Kim et al., Interpreting Attention Heads for Image-to-Text Information Flow in LVLMs (HA), arXiv 2509.17588,
 * section 5; classes, bands and blocks are sightline's. */
#include "analysis/token_side.h"

#include <stdlib.h>
#include <string.h>

#include "analysis/attribution_curve.h"

const char *const sl_text_kinds[SL_TEXT_KIND_COUNT] = {"question", "role", "final", "generated"};

static sl_status side_alloc(sl_side *s, int n_band) {
  s->n_band = n_band;
  sl_status status = SL_ALLOC(s->group, (size_t)s->n_position, "positions");
  if (status == SL_OK) status = SL_ALLOC(s->kind, (size_t)s->n_position, "positions");
  if (status == SL_OK) status = SL_ALLOC(s->band_layer, (size_t)n_band + 1, "layer bands");
  for (int b = 0; b <= n_band && status == SL_OK; b++)
    s->band_layer[b] = (int)((int64_t)b * s->n_layer / n_band);
  if (status != SL_OK) sl_side_dispose(s);
  return status;
}

static sl_side side_start(const sl_analysis_context *c) {
  const sl_part_shape *shape = &sl_model_get_shape(c->model)->decoder;
  return (sl_side){.layout = c->layout, .first_query = sl_context_first_text(c), .first_image = c->layout->first_image,
                   .n_image = c->layout->n_image, .n_layer = shape->n_layer, .n_head = shape->n_head};
}

static sl_text_kind kind_of(const sl_layout *layout, int position) {
  if (layout->classes[position] == SL_CLASS_GENERATED) return SL_TEXT_GENERATED;
  if (layout->roles[position] == SL_ROLE_FINAL) return SL_TEXT_FINAL;
  return layout->roles[position] == SL_ROLE_ROLE ? SL_TEXT_ROLE : SL_TEXT_QUESTION;
}

/* Groups are the kinds that occur, in their order. */
static void group_by_kind(sl_side *s) {
  int number[SL_TEXT_KIND_COUNT] = {0};
  for (int i = 0; i < s->n_position; i++) number[s->kind[i]] = 1;
  for (int k = 0; k < SL_TEXT_KIND_COUNT; k++) number[k] = number[k] ? s->n_group++ : -1;
  for (int i = 0; i < s->n_position; i++) s->group[i] = number[s->kind[i]];
}

sl_status sl_side_text(sl_side *s, const sl_analysis_context *c, sl_text_component component, int n_band, int last) {
  *s = side_start(c);
  s->first = s->first_query;
  while (s->first < last && c->layout->classes[s->first] == SL_CLASS_STRUCTURE)
    s->first++; /* "</img>" is the picture's */
  s->n_position = last + 1 - s->first;
  if (n_band > s->n_layer) n_band = s->n_layer;
  SL_TRY(side_alloc(s, component == SL_TEXT_BAND ? n_band : 1));
  for (int i = 0; i < s->n_position; i++) {
    s->kind[i] = (uint8_t)kind_of(c->layout, s->first + i);
    s->group[i] = i;
  }
  if (component == SL_TEXT_CLASS)
    group_by_kind(s);
  else
    s->n_group = s->n_position;
  return SL_OK;
}

/* Positions of one block of a view share a component; a position without a place is one of its own. */
static void group_by_block(sl_side *s, const sl_layout *layout, int block) {
  s->n_group = 0;
  for (int i = 0; i < s->n_position; i++) {
    const sl_place *p = &layout->places[i];
    int same = i;
    for (int k = 0; k < i && same == i && p->view >= 0; k++) {
      const sl_place *q = &layout->places[k];
      if (q->view == p->view && q->row / block == p->row / block && q->col / block == p->col / block) same = k;
    }
    s->group[i] = same < i ? s->group[same] : s->n_group++;
  }
}

sl_status sl_side_image(sl_side *s, const sl_analysis_context *c, int block) {
  *s = side_start(c);
  s->image = true;
  s->block = block;
  s->first = s->first_image;
  s->n_position = s->n_image;
  SL_TRY(side_alloc(s, 1));
  group_by_block(s, c->layout, block);
  return SL_OK;
}

sl_status sl_side_only_heads(sl_side *s, const float *score, int n_top, double sign) {
  const int n = s->n_layer * s->n_head;
  int *order = NULL;
  SL_TRY(SL_ALLOC(order, (size_t)n, "ranking"));
  sl_status status = SL_ALLOC(s->heads, (size_t)n, "heads");
  if (status == SL_OK) status = sl_rank_components(order, score, n, sign);
  for (int i = 0; i < n_top && i < n && status == SL_OK; i++) s->heads[order[i]] = true;
  free(order);
  return status;
}

void sl_side_dispose(sl_side *s) {
  free(s->group);
  free(s->kind);
  free(s->band_layer);
  free(s->heads);
  *s = (sl_side){0};
}

/* ---- rules ---- */

/* Positions whose group's component in band `band` is ablated. */
static sl_status ablated_positions(sl_set *out, const sl_side *s, const uint8_t *mask, int band) {
  for (int i = 0; i < s->n_position; i++)
    if (!mask[s->group[i] * s->n_band + band]) SL_TRY(sl_set_add(out, s->first + i, 1));
  return SL_OK;
}

/* A rule for these keys in one layer's chosen heads. */
static sl_status add_chosen_heads(const sl_side *s, const sl_set *keys, int layer, int source, sl_plan *plan) {
  const bool *heads = s->heads + (size_t)layer * (size_t)s->n_head;
  sl_rule *rule;
  SL_TRY(sl_plan_add_rule(plan, source, &rule));
  SL_TRY(sl_set_add(&rule->layers, layer, 1));
  SL_TRY(sl_set_from(&rule->queries, s->first_query));
  for (int h = 0; h < s->n_head; h++)
    if (heads[h]) SL_TRY(sl_set_add(&rule->heads, h, 1));
  return sl_set_copy(&rule->keys, keys);
}

static sl_status add_all_heads(const sl_side *s, const sl_set *keys, int source, sl_plan *plan) {
  sl_rule *rule;
  SL_TRY(sl_plan_add_rule(plan, source, &rule));
  rule->layers = rule->heads = SL_SET_ALL;
  SL_TRY(sl_set_from(&rule->queries, s->first_query));
  return sl_set_copy(&rule->keys, keys);
}

static sl_status add_key_rules(const sl_side *s, const sl_set *keys, int source, sl_plan *plan) {
  if (!s->heads) return add_all_heads(s, keys, source, plan);
  for (int l = 0; l < s->n_layer; l++)
    if (memchr(s->heads + (size_t)l * (size_t)s->n_head, true, (size_t)s->n_head))
      SL_TRY(add_chosen_heads(s, keys, l, source, plan));
  return SL_OK;
}

static sl_status add_image_rules(const sl_side *s, const uint8_t *mask, int source, sl_plan *plan) {
  sl_set keys = {0};
  sl_status status = ablated_positions(&keys, s, mask, 0);
  if (status == SL_OK && sl_set_any(&keys, s->first + s->n_position)) status = add_key_rules(s, &keys, source, plan);
  sl_set_dispose(&keys);
  return status;
}

static sl_status add_text_rules(const sl_side *s, const uint8_t *mask, int source, sl_plan *plan) {
  for (int b = 0; b < s->n_band; b++) {
    bool any = false;
    for (int g = 0; g < s->n_group && !any; g++) any = !mask[g * s->n_band + b];
    if (!any) continue;
    sl_rule *rule;
    SL_TRY(sl_plan_add_rule(plan, source, &rule));
    rule->heads = SL_SET_ALL;
    SL_TRY(sl_set_add(&rule->layers, s->band_layer[b], s->band_layer[b + 1] - s->band_layer[b]));
    SL_TRY(sl_set_add(&rule->keys, s->first_image, s->n_image));
    SL_TRY(ablated_positions(&rule->queries, s, mask, b));
    if (source == SL_SOURCE_HIDDEN) SL_TRY(sl_plan_hide_frame(plan, s->layout));
  }
  return SL_OK;
}

sl_status sl_side_add_rules(const void *user, const uint8_t *mask, int source, sl_plan *plan) {
  const sl_side *s = user;
  return s->image ? add_image_rules(s, mask, source, plan) : add_text_rules(s, mask, source, plan);
}
