/* From attention rules to masks: which columns of attend_shared each row and head of a branch sees in one layer.
 *
 * A column is a place where a key can be read: the trunk's own (text before the image, image, suffix), a baseline's at
 * an image position, or a row that the branch has computed itself (a local slot). Each position shows in exactly one of
 * them, or nowhere when it is hidden, comes later than the query or lies before its window. Rows with the same rules
 * share what they see of the prefix, so that part is made once for each set of rules ("base"). */
#include <stdlib.h>
#include <string.h>

#include "model/branch_internal.h"

static int padded(int n) { return (n + 31) / 32 * 32; }

void sl_view_plan_init(sl_view_plan *v, const sl_trunk *trunk, int n_token, int n_baseline, int n_local) {
  const sl_prefix *p = trunk->prefix;
  const int n_suffix = n_token > trunk->first ? n_token - trunk->first : 0;
  *v = (sl_view_plan){.trunk = trunk, .n_token = n_token, .n_baseline = n_baseline, .n_local = n_local};
  v->image_column = padded(p->first_image);
  v->suffix_column = v->image_column + padded(p->n_image);
  v->baseline_column = v->suffix_column + padded(n_suffix);
  v->local_column = v->baseline_column + n_baseline * padded(p->n_image);
  v->n_word = (v->local_column + padded(n_local)) / 32;
}

void sl_view_plan_dispose(sl_view_plan *v) {
  for (int i = 0; i < v->cap_base; i++) free(v->bases[i].words);
  free(v->bases);
  free(v->masks);
}

/* Rules of a plan that hold in one layer. */
typedef struct layer_rules {
  const sl_rule *rules[SL_MAX_LAYER_RULE]; /* a signature has a bit for each */
  int n_rule;
} layer_rules;

static layer_rules rules_of(const sl_branch *b, int layer) {
  layer_rules out = {.n_rule = 0};
  for (int i = 0; i < b->plan->n_rule; i++)
    if (sl_set_has(&b->plan->rules[i].layers, layer)) out.rules[out.n_rule++] = &b->plan->rules[i];
  return out;
}

/* What stands at key position p under the rules of the signature. Baselines exist at image positions only. */
static int source_of(const layer_rules *rules, uint64_t signature, int p, bool in_image) {
  int source = SL_SOURCE_OWN;
  for (int i = 0; i < rules->n_rule; i++) {
    const sl_rule *rule = rules->rules[i];
    if (signature >> i & 1 && (rule->source < 0 || in_image) && sl_set_has(&rule->keys, p)) source = rule->source;
  }
  return source;
}

static void switch_on(int32_t *words, int column) {
  words[column / 32] = (int32_t)((uint32_t)words[column / 32] | (uint32_t)1 << (column % 32));
}

/* The column where key position p shows, or -1. */
static int column_of(const sl_view_plan *v, const sl_branch *b, const layer_rules *rules, uint64_t signature, int layer,
                     int p) {
  const sl_prefix *prefix = v->trunk->prefix;
  const int in_image = p - prefix->first_image;
  const bool is_image = in_image >= 0 && in_image < prefix->n_image;
  const int source = source_of(rules, signature, p, is_image);
  if (source == SL_SOURCE_HIDDEN) return -1;
  if (source >= 0) return v->baseline_column + source * padded(prefix->n_image) + in_image;
  const int slot = p < b->n_position ? b->slot_of[p] : -1;
  if (slot >= 0 && b->join[slot] <= layer) return v->local_column + slot;
  if (p < prefix->first_image) return p;
  return is_image ? v->image_column + in_image : v->suffix_column + p - v->trunk->first;
}

static void show_positions(const sl_view_plan *v, const sl_branch *b, const layer_rules *rules, uint64_t signature,
                           int layer, int first, int end, int32_t *words) {
  for (int p = first; p < end; p++) {
    const int column = column_of(v, b, rules, signature, layer, p);
    if (column >= 0) switch_on(words, column);
  }
}

/* What every suffix row with this signature sees of the prefix; made once. */
static sl_status base_of(sl_view_plan *v, const sl_branch *b, const layer_rules *rules, uint64_t signature, int layer,
                         const int32_t **words) {
  for (int i = 0; i < v->n_base; i++) {
    *words = v->bases[i].words;
    if (v->bases[i].signature == signature) return SL_OK;
  }
  if (v->n_base == v->cap_base) {
    SL_TRY(SL_REALLOC(v->bases, (size_t)v->cap_base + 1, "masks"));
    v->bases[v->cap_base].words = NULL;
    SL_TRY(SL_ALLOC(v->bases[v->cap_base].words, (size_t)v->n_word, "masks"));
    v->cap_base++;
  }
  int32_t *base = v->bases[v->n_base].words;
  memset(base, 0, (size_t)v->n_word * sizeof *base);
  show_positions(v, b, rules, signature, layer, 0, v->trunk->first, base);
  v->bases[v->n_base++].signature = signature;
  *words = base;
  return SL_OK;
}

static sl_status add_view(sl_view_plan *v, const sl_branch *b, const layer_rules *rules, uint64_t signature, int layer,
                          int position) {
  if (v->n_view == v->cap_view) {
    const int cap = v->cap_view ? 2 * v->cap_view : 64;
    SL_TRY(SL_REALLOC(v->masks, (size_t)cap * (size_t)v->n_word, "masks"));
    v->cap_view = cap;
  }
  int32_t *words = v->masks + (size_t)v->n_view * (size_t)v->n_word;
  const sl_prefix *prefix = v->trunk->prefix;
  const int first = v->trunk->first, window = sl_decoder_shape(&prefix->model->decoder, layer)->window;
  const int lowest = window > 0 && position >= window ? position - window + 1 : 0; /* of the keys in the window */
  if (position >= first && lowest == 0) {
    const int32_t *base;
    SL_TRY(base_of(v, b, rules, signature, layer, &base));
    memcpy(words, base, (size_t)v->n_word * sizeof *words);
    show_positions(v, b, rules, signature, layer, first, position + 1, words);
  } else {
    memset(words, 0, (size_t)v->n_word * sizeof *words);
    show_positions(v, b, rules, signature, layer, lowest, sl_prefix_seen(prefix, position) + 1, words);
  }
  v->n_view++;
  return SL_OK;
}

sl_status sl_view_plan_rows(sl_view_plan *v, const sl_branch *b, int layer, const int *slots, int n_row, int n_head,
                            int32_t *view) {
  const layer_rules rules = rules_of(b, layer);
  uint64_t of_head[256];
  if (n_head > 256) SL_FAIL(SL_ERROR_UNSUPPORTED, "branches: %d heads; at most 256 are supported", n_head);
  for (int h = 0; h < n_head; h++) {
    of_head[h] = 0;
    for (int i = 0; i < rules.n_rule; i++)
      of_head[h] |= (uint64_t)sl_set_has(&rules.rules[i]->heads, h) << i;
  }
  v->n_base = 0; /* bases belong to one branch and layer */
  for (int r = 0; r < n_row; r++) {
    const int position = b->position[slots[r]], first_view = v->n_view;
    uint64_t of_row = 0, seen[256];
    for (int i = 0; i < rules.n_rule; i++)
      of_row |= (uint64_t)sl_set_has(&rules.rules[i]->queries, position) << i;
    for (int h = 0; h < n_head; h++) {
      const uint64_t signature = of_head[h] & of_row;
      int k = 0;
      while (k < v->n_view - first_view && seen[k] != signature) k++;
      if (k == v->n_view - first_view) {
        seen[k] = signature;
        SL_TRY(add_view(v, b, &rules, signature, layer, position));
      }
      view[(int64_t)r * n_head + h] = first_view + k;
    }
  }
  return SL_OK;
}
