/* Intervention plans: data that says how a branch differs from the unmodified run. A plan is a list of attention rules
 * and a list of edits; an empty plan is the unmodified run. Plans serialise to JSON, so a result can be made again from
 * its file.
 *
 * Positions are rows of the layout, 0-based; layers and query heads likewise. */
#ifndef SL_MODEL_PLAN_H
#define SL_MODEL_PLAN_H

#include "base/json.h"
#include "base/memory.h"
#include "nn/site.h"

/* Numbers in a set are below this: a set takes 128 KiB at most, whatever a file says. */
#define SL_SET_MAX (1 << 20)

/* A set of small numbers: those whose bit is on, and with `rest` every number from 64 * n_word on. Zeroed = empty;
 * {.rest = true} = all. Members belong to the set; release with sl_set_dispose. */
typedef struct sl_set {
  uint64_t *words;
  int n_word;
  bool rest;
} sl_set;

#define SL_SET_ALL ((sl_set){.rest = true})

static inline bool sl_set_has(const sl_set *set, int i) {
  return i / 64 < set->n_word ? set->words[i / 64] >> (i % 64) & 1 : set->rest;
}
sl_status sl_set_add(sl_set *set, int first, int count); /* first .. first + count - 1 */
sl_status sl_set_remove(sl_set *set, int first, int count);
sl_status sl_set_from(sl_set *set, int first);         /* every number from `first` on */
sl_status sl_set_copy(sl_set *out, const sl_set *set); /* `out` is overwritten, not released */
bool sl_set_any(const sl_set *set, int n);             /* some number below n belongs to it */
int sl_set_count(const sl_set *set, int n);            /* how many numbers below n belong to it */
/* The first number in [from, end) that belongs to the set (`wanted`) or does not; `end` when there is none. */
int sl_set_next(const sl_set *set, int from, bool wanted, int end);
/* The number from which on all belong to the set; SL_SET_MAX for one that ends. */
int sl_set_tail(const sl_set *set);
void sl_set_dispose(sl_set *set);

/* What stands at a key position for a query. A baseline's number counts the baselines handed over with the plan; it
 * exists at image (and structure) positions only. */
enum { SL_SOURCE_OWN = -1, SL_SOURCE_HIDDEN = -2 };

#define SL_MAX_LAYER_RULE 64 /* rules of one plan that hold in one layer */

/* "In these layers and heads, these queries see at these key positions that source." Later rules override earlier
 * ones. A query never sees keys behind it, whatever the rules say. Hidden keys take no part in the softmax, so the rest
 * is renormalised; a baseline's key and value replace the position's own. */
typedef struct sl_rule {
  sl_set layers, heads, queries, keys;
  int source; /* SL_SOURCE_OWN, SL_SOURCE_HIDDEN or the number of a baseline */
} sl_rule;

typedef enum sl_edit_kind { SL_EDIT_REPLACE, SL_EDIT_ADD, SL_EDIT_SCALE, SL_EDIT_KIND_COUNT } sl_edit_kind;

/* "In these layers, at these positions (and heads, where the site has heads), the site's value is replaced by,
 * increased by, or multiplied with ..." a constant, or the value that another run has there; a factor is one number.
 * Applied in the plan's order. Grouped key/value sites count key/value heads. */
typedef struct sl_edit {
  sl_site site; /* a writable decoder site */
  sl_set layers, positions, heads;
  sl_edit_kind kind;
  float *value; /* [n_value], owned; NULL with from_run */
  int n_value;  /* 1 (one number for all), the width of one head, the site's width, or positions x the site's width */
  int from_run; /* -1, or the number of a run handed over with the plan; then made at the prompt's and forced answer's
                   positions only, not at those that greedy decoding adds */
  int from_position; /* position in that run; -1: the same as here */
  sl_site from_site; /* site there, as wide as this one; `site` itself unless it is changed */
  int from_layer;    /* its layer; -1: the same as here */
} sl_edit;

/* Zero-initialise; release with sl_plan_dispose. */
typedef struct sl_plan {
  sl_rule *rules;
  int n_rule;
  sl_edit *edits;
  int n_edit;
} sl_plan;

/* Appends a rule with empty sets and this source, or an edit with empty sets; the caller fills them in place (the
 * pointer is valid until the next append). */
sl_status sl_plan_add_rule(sl_plan *plan, int source, sl_rule **out);
sl_status sl_plan_add_edit(sl_plan *plan, sl_site site, sl_edit_kind kind, sl_edit **out);
void sl_plan_dispose(sl_plan *plan);

/* What a plan is checked against. */
typedef struct sl_plan_limits {
  int n_layer, n_head, n_head_kv, d_model, d_head, d_mlp;
  int n_token;              /* rows of the layout */
  int first_image, n_image; /* positions that baselines exist for */
  int n_baseline, n_run;
} sl_plan_limits;

/* Numbers that one position of a site has (the longest value of an edit that is the same for all positions; 0 for a
 * site that is no row of numbers), and how many heads they are of: 0 = no heads. */
int sl_plan_site_width(sl_site site, const sl_plan_limits *limits);
int sl_plan_site_heads(sl_site site, const sl_plan_limits *limits);

/* Names the first layer, head, position, site, source or value of a plan that does not exist; `where` names the plan
 * ("plan 3"). A set without end means all that exist, and those that decoding adds. */
sl_status sl_plan_check(const sl_plan *plan, const sl_plan_limits *limits, const char *where);

/* {"attend": [{"layers": "4-", "heads": [0, 2], "queries": "18-", "keys": "3-17", "source": "hidden"}],
 *  "edits": [{"site": "blocks.3.hook_resid_pre", "positions": "20", "op": "add", "value": [..]},
 *            {"site": "blocks.*.attn.hook_z", "layers": "4-7", "heads": "0", "positions": "all", "op": "replace",
 *             "from": {"run": 0, "position": 5}},
 *            {"site": "blocks.4.hook_mlp_out", "positions": "20", "op": "replace",
 *             "from": {"run": 0, "site": "blocks.9.hook_mlp_out"}}]}
 * A set is a text of numbers and ranges ("0,3-7,12-", "all") or an array of numbers; layers and heads that are not
 * given are all. Sources: "own", "hidden", "baseline:0". Sites go by every name that sl_site_match knows; one with a
 * layer's number in it means that layer, one with "*" or "{i}" those of "layers". Ops: "replace", "add", "scale". An
 * edit has "value" (number or array) or "from", whose site, layer and position are the edited ones when they are not
 * given; any site of decoder blocks that is as wide can be read. Unknown keys are errors. Reading what was written
 * gives the same plan. Sets of one file take 64 MiB at most. */
sl_status sl_plan_to_json(const sl_plan *plan, json_t **out);
sl_status sl_plan_from_json(sl_plan *out, const json_t *json, const char *where);

#endif
