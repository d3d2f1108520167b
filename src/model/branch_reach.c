/* How far a plan reaches: which positions a branch must compute anew, and from which layer on.
 *
 * A rule changes what its queries read in its first layer, so their output differs from that layer on, and their keys
 * and values from the next; an edit of what keys are made of changes them at once. Later rows that can read a changed
 * key are reached in that layer. This is conservative: rules that happen to hide the changed keys are looked at only to
 * drop prefix rows that no computed row, nor any that decoding may append, ever reads (dropped image tokens under
 * truncation). */
#include <stdlib.h>
#include <string.h>

#include "model/branch_internal.h"

static int min_of(int a, int b) { return a < b ? a : b; }

/* The lowest member below n, or n. */
static int first_of(const sl_set *set, int n) {
  int i = 0;
  while (i < n && !sl_set_has(set, i)) i++;
  return i;
}

/* True when changing the site changes the row's key or value in the same layer. */
static bool changes_keys(sl_site site) {
  return site == SL_SITE_RESID_PRE || site == SL_SITE_LN1 || site == SL_SITE_K || site == SL_SITE_ROT_K ||
         site == SL_SITE_V;
}

typedef struct reach {
  const sl_trunk *trunk;
  const sl_plan *plan;
  int n_layer, n_head, n_token;
  int n_step;  /* positions that may be appended behind n_token */
  int *join;   /* [n_token] first layer whose output differs; n_layer = never */
  int *differ; /* [n_token] first layer whose key and value differ by an edit; n_layer = none */
} reach;

static void reach_directly(reach *r) {
  for (int i = 0; i < r->plan->n_rule; i++) {
    const sl_rule *rule = &r->plan->rules[i];
    if (rule->source == SL_SOURCE_OWN || !sl_set_any(&rule->heads, r->n_head)) continue;
    const int layer = first_of(&rule->layers, r->n_layer);
    for (int p = sl_prefix_reader(r->trunk->prefix, first_of(&rule->keys, r->n_token)); p < r->n_token; p++)
      if (sl_set_has(&rule->queries, p)) r->join[p] = min_of(r->join[p], layer);
  }
  for (int i = 0; i < r->plan->n_edit; i++) {
    const sl_edit *edit = &r->plan->edits[i];
    const int layer = first_of(&edit->layers, r->n_layer);
    for (int p = 0; p < r->n_token; p++) {
      if (!sl_set_has(&edit->positions, p)) continue;
      r->join[p] = min_of(r->join[p], layer);
      if (changes_keys(edit->site)) r->differ[p] = min_of(r->differ[p], layer);
    }
  }
}

/* The layer from which on some row before `end` has changed keys, `changed` known for those before p. */
static int changed_before(const reach *r, int p, int end, int changed) {
  for (; p < end; p++) changed = min_of(changed, min_of(r->join[p] + 1, r->differ[p]));
  return changed;
}

/* Rows that see changed keys: later ones, and in an image that sees itself all of it. */
static void reach_onwards(reach *r) {
  int changed = r->n_layer;
  for (int p = 0; p < r->n_token; p++) {
    const int end = min_of(sl_prefix_seen(r->trunk->prefix, p), r->n_token - 1);
    r->join[p] = min_of(r->join[p], end > p ? changed_before(r, p, end + 1, changed) : changed);
    changed = changed_before(r, p, p + 1, changed);
  }
}

/* False when a rule hides or replaces key p for query q in every head and every layer from `layer` on. */
static bool may_read(const reach *r, int q, int p, int layer) {
  bool reads = true;
  for (int i = 0; i < r->plan->n_rule; i++) {
    const sl_rule *rule = &r->plan->rules[i];
    if (!sl_set_has(&rule->queries, q) || !sl_set_has(&rule->keys, p)) continue;
    bool all = rule->source != SL_SOURCE_OWN;
    for (int h = 0; h < r->n_head && all; h++) all = sl_set_has(&rule->heads, h);
    for (int l = layer; l < r->n_layer && all; l++) all = sl_set_has(&rule->layers, l);
    if (all)
      reads = false;
    else if (rule->source == SL_SOURCE_OWN)
      reads = true;
  }
  return reads;
}

/* Prefix rows that no computed row reads need not be computed. A row of the trunk never reads a branch's own keys. */
static void drop_unread(reach *r) {
  for (int p = r->trunk->first - 1; p >= 0; p--) {
    if (r->join[p] == r->n_layer) continue;
    bool read = false;
    for (int q = sl_prefix_reader(r->trunk->prefix, p); q < r->n_token + r->n_step && !read; q++) {
      if (q == p) continue;
      const bool computed = q >= r->n_token || r->join[q] < r->n_layer;
      read = computed && may_read(r, q, p, min_of(r->join[p], r->differ[p]));
    }
    if (!read) r->join[p] = r->n_layer;
  }
}

static sl_status list_rows(sl_branch *b, const reach *r) {
  int n = 0;
  for (int p = 0; p < r->n_token; p++) n += r->join[p] < r->n_layer;
  SL_TRY(SL_ALLOC(b->position, (size_t)n + 1, "branch rows"));
  SL_TRY(SL_ALLOC(b->join, (size_t)n + 1, "branch rows"));
  for (int p = 0; p < r->n_token; p++) {
    b->slot_of[p] = -1;
    if (r->join[p] == r->n_layer) continue;
    b->slot_of[p] = b->n_row;
    b->position[b->n_row] = p;
    b->join[b->n_row++] = r->join[p];
  }
  if (b->n_row > 0 && b->position[0] < r->trunk->first && !sl_prefix_keeps_rows(r->trunk->prefix))
    SL_FAIL(SL_ERROR_ARGUMENT,
            "plan %d changes what happens at position %d, before the end of the picture; the prefix was made without "
            "its rows (keep_rows)",
            b->number, b->position[0]);
  return SL_OK;
}

sl_status sl_branch_reach(sl_branch *b, const sl_trunk *trunk, const sl_plan *plan, int number, int n_token,
                          int n_step) {
  const sl_decoder *decoder = &trunk->prefix->model->decoder;
  reach r = {.trunk = trunk, .plan = plan, .n_layer = decoder->n_layer, .n_head = decoder->shape.n_head,
             .n_token = n_token, .n_step = n_step};
  *b = (sl_branch){.plan = plan, .number = number, .n_position = n_token};
  sl_status status = SL_ALLOC(r.join, (size_t)n_token, "branch rows");
  if (status == SL_OK) status = SL_ALLOC(r.differ, (size_t)n_token, "branch rows");
  if (status == SL_OK) status = SL_ALLOC(b->slot_of, (size_t)n_token, "branch rows");
  if (status == SL_OK) {
    for (int p = 0; p < n_token; p++) r.join[p] = r.differ[p] = r.n_layer;
    reach_directly(&r);
    reach_onwards(&r);
    drop_unread(&r);
    status = list_rows(b, &r);
  }
  free(r.join);
  free(r.differ);
  if (status != SL_OK) sl_branch_dispose(b);
  return status;
}

sl_status sl_branch_append(sl_branch *b, int position) {
  SL_TRY(SL_REALLOC(b->position, (size_t)b->n_row + 1, "branch rows"));
  SL_TRY(SL_REALLOC(b->join, (size_t)b->n_row + 1, "branch rows"));
  SL_TRY(SL_REALLOC(b->slot_of, (size_t)position + 1, "branch rows"));
  for (; b->n_position <= position; b->n_position++) b->slot_of[b->n_position] = -1;
  b->slot_of[position] = b->n_row;
  b->position[b->n_row] = position;
  b->join[b->n_row++] = 0;
  return SL_OK;
}

void sl_branch_dispose(sl_branch *b) {
  free(b->position);
  free(b->join);
  free(b->slot_of);
  *b = (sl_branch){0};
}
