/* Intervention plans: their sets, building them, and holding them against a model and a layout. Nothing here runs
 * anything; branch_view.c makes masks from a plan, branch_edit.c changes. */
#include "model/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- sets ---- */

/* Gives the set words for numbers below 64 * n_word. */
static sl_status grow(sl_set *set, int n_word) {
  if (n_word <= set->n_word) return SL_OK;
  SL_TRY(SL_REALLOC(set->words, (size_t)n_word, "set"));
  for (int w = set->n_word; w < n_word; w++) set->words[w] = set->rest ? UINT64_MAX : 0;
  set->n_word = n_word;
  return SL_OK;
}

static int words_for(int64_t n) { return (int)((n + 63) / 64); }

/* Bits [first, end) of word w. */
static uint64_t word_mask(int w, int64_t first, int64_t end) {
  const int64_t low = first - 64 * (int64_t)w, high = end - 64 * (int64_t)w;
  uint64_t mask = UINT64_MAX;
  if (low >= 64 || high <= 0) return 0;
  if (low > 0) mask &= UINT64_MAX << low;
  if (high < 64) mask &= UINT64_MAX >> (64 - high);
  return mask;
}

static sl_status check_range(int first, int count) {
  if (first >= 0 && count >= 0 && (int64_t)first + count <= SL_SET_MAX) return SL_OK;
  SL_FAIL(SL_ERROR_ARGUMENT, "a set holds numbers from 0 to %d, found %d to %lld", SL_SET_MAX - 1, first,
          (long long)first + count - 1);
}

sl_status sl_set_add(sl_set *set, int first, int count) {
  SL_TRY(check_range(first, count));
  const int64_t end = (int64_t)first + count;
  /* What lies behind the words of an open set belongs to it already. */
  if (!set->rest && count > 0) SL_TRY(grow(set, words_for(end)));
  for (int w = first / 64; w < set->n_word && (int64_t)w * 64 < end; w++) set->words[w] |= word_mask(w, first, end);
  return SL_OK;
}

sl_status sl_set_remove(sl_set *set, int first, int count) {
  SL_TRY(check_range(first, count));
  const int64_t end = (int64_t)first + count;
  if (set->rest && count > 0) SL_TRY(grow(set, words_for(end)));
  for (int w = first / 64; w < set->n_word && (int64_t)w * 64 < end; w++) set->words[w] &= ~word_mask(w, first, end);
  return SL_OK;
}

sl_status sl_set_from(sl_set *set, int first) {
  SL_TRY(check_range(first, 0));
  SL_TRY(grow(set, words_for(first)));
  for (int w = first / 64; w < set->n_word; w++) set->words[w] |= word_mask(w, first, INT64_MAX);
  set->rest = true;
  return SL_OK;
}

sl_status sl_set_copy(sl_set *out, const sl_set *set) {
  *out = (sl_set){0};
  if (set->n_word > 0) {
    SL_TRY(SL_ALLOC(out->words, (size_t)set->n_word, "set"));
    memcpy(out->words, set->words, (size_t)set->n_word * sizeof *set->words);
  }
  out->n_word = set->n_word;
  out->rest = set->rest;
  return SL_OK;
}

int sl_set_next(const sl_set *set, int from, bool wanted, int end) {
  const uint64_t flip = wanted ? 0 : UINT64_MAX;
  for (int i = from; i < end;) {
    const int w = i / 64;
    if (w >= set->n_word) return set->rest == wanted ? i : end;
    const uint64_t bits = (set->words[w] ^ flip) & UINT64_MAX << i % 64;
    if (bits) {
      const int found = 64 * w + __builtin_ctzll(bits);
      return found < end ? found : end;
    }
    i = 64 * (w + 1);
  }
  return end;
}

bool sl_set_any(const sl_set *set, int n) { return sl_set_next(set, 0, true, n) < n; }

int sl_set_count(const sl_set *set, int n) {
  int count = 0;
  for (int w = 0; w < set->n_word && 64 * (int64_t)w < n; w++)
    count += __builtin_popcountll(set->words[w] & word_mask(w, 0, n));
  return count + (set->rest && n > 64 * set->n_word ? n - 64 * set->n_word : 0);
}

int sl_set_tail(const sl_set *set) {
  if (!set->rest) return SL_SET_MAX;
  for (int w = set->n_word - 1; w >= 0; w--)
    if (~set->words[w]) return 64 * w + 64 - __builtin_clzll(~set->words[w]);
  return 0;
}

void sl_set_dispose(sl_set *set) {
  free(set->words);
  *set = (sl_set){0};
}

/* ---- building ---- */

sl_status sl_plan_add_rule(sl_plan *plan, int source, sl_rule **out) {
  *out = NULL;
  SL_TRY(SL_REALLOC(plan->rules, (size_t)plan->n_rule + 1, "plan"));
  *out = &plan->rules[plan->n_rule++];
  **out = (sl_rule){.source = source};
  return SL_OK;
}

sl_status sl_plan_add_edit(sl_plan *plan, sl_site site, sl_edit_kind kind, sl_edit **out) {
  *out = NULL;
  SL_TRY(SL_REALLOC(plan->edits, (size_t)plan->n_edit + 1, "plan"));
  *out = &plan->edits[plan->n_edit++];
  **out = (sl_edit){.site = site, .kind = kind, .from_run = -1, .from_position = -1, .from_site = site,
                    .from_layer = -1};
  return SL_OK;
}

void sl_plan_dispose(sl_plan *plan) {
  for (int i = 0; i < plan->n_rule; i++) {
    sl_rule *rule = &plan->rules[i];
    sl_set *sets[] = {&rule->layers, &rule->heads, &rule->queries, &rule->keys};
    for (size_t s = 0; s < sizeof sets / sizeof *sets; s++) sl_set_dispose(sets[s]);
  }
  for (int i = 0; i < plan->n_edit; i++) {
    sl_edit *edit = &plan->edits[i];
    sl_set *sets[] = {&edit->layers, &edit->positions, &edit->heads};
    for (size_t s = 0; s < sizeof sets / sizeof *sets; s++) sl_set_dispose(sets[s]);
    free(edit->value);
  }
  free(plan->rules);
  free(plan->edits);
  *plan = (sl_plan){0};
}

/* ---- checking ---- */

/* Where a plan goes wrong: "plan 3, rule 0". */
typedef struct place {
  const char *where, *part;
  int index;
} place;

#define FAIL_AT(at, format, ...) \
  SL_FAIL(SL_ERROR_ARGUMENT, "%s, %s %d: " format, (at).where, (at).part, (at).index, __VA_ARGS__)

#define LAYERS "this model has layers"
#define HEADS "this model has heads"
#define POSITIONS "this sequence has positions"

/* Every number of the set must be one of `n` things, 0 to n - 1. A set without end means those that exist; it may begin
 * behind the last one where new ones come (positions, while decoding). */
static sl_status check_set(place at, const char *what, const char *whole, const sl_set *set, int n, bool grows) {
  const int tail = sl_set_tail(set), end = set->rest ? tail : 64 * set->n_word;
  const int bad = end > n ? sl_set_next(set, n, true, end) : end;
  if (bad == end && (grows || !set->rest || tail < n)) return SL_OK;
  FAIL_AT(at, "%s %d; %s 0 to %d", what, bad, whole, n - 1);
}

/* Baselines stand at image positions alone. */
static sl_status check_baseline(place at, const sl_rule *rule, const sl_plan_limits *l) {
  const int end = l->first_image + l->n_image;
  if (rule->source >= l->n_baseline) FAIL_AT(at, "baseline %d; %d given", rule->source, l->n_baseline);
  if (l->n_image <= 0) FAIL_AT(at, "baseline %d, but there is no picture", rule->source);
  int bad = sl_set_next(&rule->keys, 0, true, l->first_image);
  if (bad == l->first_image) bad = sl_set_next(&rule->keys, end, true, l->n_token);
  if (bad == l->n_token && sl_set_tail(&rule->keys) == SL_SET_MAX) return SL_OK;
  FAIL_AT(at, "key %d is no image position (%d to %d); baselines exist for those alone", bad, l->first_image, end - 1);
}

static sl_status check_rule(place at, const sl_rule *rule, const sl_plan_limits *l) {
  SL_TRY(check_set(at, "layer", LAYERS, &rule->layers, l->n_layer, false));
  SL_TRY(check_set(at, "head", HEADS, &rule->heads, l->n_head, false));
  SL_TRY(check_set(at, "query", POSITIONS, &rule->queries, l->n_token, true));
  SL_TRY(check_set(at, "key", POSITIONS, &rule->keys, l->n_token, true));
  if (rule->source >= 0) return check_baseline(at, rule, l);
  if (rule->source != SL_SOURCE_OWN && rule->source != SL_SOURCE_HIDDEN)
    FAIL_AT(at, "there is no source %d", rule->source);
  return SL_OK;
}

int sl_plan_site_width(sl_site site, const sl_plan_limits *l) {
  switch (sl_site_get(site)->shape) {
    case SL_SHAPE_HEADS: return l->n_head * l->d_head;
    case SL_SHAPE_KV: return l->n_head_kv * l->d_head;
    case SL_SHAPE_ROWS: break;
    case SL_SHAPE_PATTERN:
    case SL_SHAPE_LOGITS: return 0;
  }
  const bool mlp = site == SL_SITE_MLP_PRE || site == SL_SITE_MLP_PRE_LINEAR || site == SL_SITE_MLP_POST;
  return mlp ? l->d_mlp : l->d_model;
}

int sl_plan_site_heads(sl_site site, const sl_plan_limits *l) {
  const sl_site_shape shape = sl_site_get(site)->shape;
  return shape == SL_SHAPE_HEADS ? l->n_head : shape == SL_SHAPE_KV ? l->n_head_kv : 0;
}

static sl_status check_rule_count(const sl_plan *plan, int n_layer, const char *where) {
  for (int layer = 0; layer < n_layer; layer++) {
    int n = 0;
    for (int i = 0; i < plan->n_rule; i++) n += sl_set_has(&plan->rules[i].layers, layer);
    if (n > SL_MAX_LAYER_RULE)
      SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: %d attention rules in layer %d; at most %d can hold in one", where, n, layer,
              SL_MAX_LAYER_RULE);
  }
  return SL_OK;
}

static sl_status check_value(place at, const sl_edit *edit, const sl_plan_limits *l) {
  const int width = sl_plan_site_width(edit->site, l);
  const int n_position = sl_set_count(&edit->positions, l->n_token);
  char name[64];
  for (int i = 0; i < edit->n_value; i++)
    if (!isfinite(edit->value[i])) FAIL_AT(at, "number %d of the value is not finite", i);
  if (edit->n_value == 1 || edit->n_value == width) return SL_OK;
  if (sl_plan_site_heads(edit->site, l) > 0 && edit->n_value == l->d_head) return SL_OK;
  const bool each =
      edit->n_value > 0 && n_position > 0 && edit->n_value / n_position == width && edit->n_value % n_position == 0;
  if (each && !edit->positions.rest) return SL_OK;
  if (each) FAIL_AT(at, "a value for each of %d positions, but the positions have no end", n_position);
  sl_site_name(name, SL_PART_DECODER, edit->site, sl_set_next(&edit->layers, 0, true, l->n_layer));
  if (sl_plan_site_heads(edit->site, l) > 0)
    FAIL_AT(at, "a value of %d numbers; %s takes 1, %d (one head), %d, or %d x %d (each position)", edit->n_value, name,
            l->d_head, width, n_position, width);
  FAIL_AT(at, "a value of %d numbers; %s takes 1, %d, or %d x %d (each position)", edit->n_value, name, width,
          n_position, width);
}

/* What another run is read for: the run, a position and a site of this width. */
static sl_status check_from(place at, const sl_edit *edit, const sl_plan_limits *l) {
  char here[64], there[64];
  if (edit->from_run >= l->n_run) FAIL_AT(at, "run %d; %d given", edit->from_run, l->n_run);
  if (edit->from_position < -1) FAIL_AT(at, "position %d of a run", edit->from_position);
  if ((int)edit->from_site < 0 || edit->from_site >= SL_SITE_COUNT)
    FAIL_AT(at, "there is no site %d", (int)edit->from_site);
  if (edit->from_layer < -1 || edit->from_layer >= l->n_layer)
    FAIL_AT(at, "layer %d of a run; " LAYERS " 0 to %d", edit->from_layer, l->n_layer - 1);
  const int width = sl_plan_site_width(edit->site, l), found = sl_plan_site_width(edit->from_site, l);
  const sl_site_row *from = sl_site_get(edit->from_site);
  sl_site_name(here, SL_PART_DECODER, edit->site, sl_set_next(&edit->layers, 0, true, l->n_layer));
  sl_site_name(there, SL_PART_DECODER, edit->from_site, edit->from_layer < 0 ? 0 : edit->from_layer);
  if (!from->in_part[SL_PART_DECODER] || !from->per_layer || found == 0)
    FAIL_AT(at, "%s cannot be read from a run: it is no row of numbers of a decoder block", there);
  if (found == width) return SL_OK;
  FAIL_AT(at, "%s of a run has %d numbers at a position, %s %d", there, found, here, width);
}

static sl_status check_edit(place at, const sl_edit *edit, const sl_plan_limits *l) {
  if ((int)edit->site < 0 || edit->site >= SL_SITE_COUNT) FAIL_AT(at, "there is no site %d", (int)edit->site);
  const sl_site_row *site = sl_site_get(edit->site);
  if (!site->in_part[SL_PART_DECODER] || !site->writable)
    FAIL_AT(at, "%s cannot be written; the residual stream, norms, q, k, v, z and the MLP of decoder blocks can",
            site->name);
  if ((int)edit->kind < 0 || edit->kind >= SL_EDIT_KIND_COUNT) FAIL_AT(at, "there is no kind %d", (int)edit->kind);
  SL_TRY(check_set(at, "layer", LAYERS, &edit->layers, l->n_layer, false));
  SL_TRY(check_set(at, "position", POSITIONS, &edit->positions, l->n_token, true));
  const int n_head = sl_plan_site_heads(edit->site, l);
  if (n_head > 0 && site->shape == SL_SHAPE_KV)
    SL_TRY(check_set(at, "head", "this site has key/value heads", &edit->heads, n_head, false));
  else if (n_head > 0)
    SL_TRY(check_set(at, "head", HEADS, &edit->heads, n_head, false));
  else if (edit->heads.n_word > 0)
    FAIL_AT(at, "heads are named, but %s has none", site->name);
  if ((edit->from_run >= 0) == (edit->value != NULL))
    FAIL_AT(at, "expected a value or a run to take it from, found %s", edit->value ? "both" : "neither");
  if (edit->kind == SL_EDIT_SCALE && edit->n_value != 1) FAIL_AT(at, "%s", "a scale is one number");
  return edit->value ? check_value(at, edit, l) : check_from(at, edit, l);
}

sl_status sl_plan_check(const sl_plan *plan, const sl_plan_limits *limits, const char *where) {
  for (int i = 0; i < plan->n_rule; i++) SL_TRY(check_rule((place){where, "rule", i}, &plan->rules[i], limits));
  SL_TRY(check_rule_count(plan, limits->n_layer, where));
  for (int i = 0; i < plan->n_edit; i++) SL_TRY(check_edit((place){where, "edit", i}, &plan->edits[i], limits));
  return SL_OK;
}
