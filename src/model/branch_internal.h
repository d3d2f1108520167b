/* Prefix, trunk, baseline and a batch of branches, for prefix.c, baseline.c and branch*.c. */
#ifndef SL_MODEL_BRANCH_INTERNAL_H
#define SL_MODEL_BRANCH_INTERNAL_H

#include "model/branch.h"
#include "model/session_internal.h"

struct sl_prefix {
  const sl_model *model;
  int n_row, first_image, n_image;
  int rope_level;    /* of the prompt it was made for */
  sl_position_frame frame; /* likewise */
  int32_t *ids;      /* [n_row] */
  sl_buffer *buffer;
  sl_kv *kv;         /* [L], each [n_row, Hkv d], keys rotated */
  sl_mat *resid;     /* [L] residual before each layer [n_row, D]; NULL unless rows are kept */
};

/* The last position that the one given sees: its own, or the image's end where images see themselves. */
static inline int sl_prefix_seen(const sl_prefix *p, int position) {
  const bool inside = position >= p->first_image && position < p->n_row;
  return inside && p->model->family->image_sees_itself ? p->n_row - 1 : position;
}

struct sl_trunk {
  const sl_prefix *prefix;
  sl_layout layout;
  int first, n_row;  /* suffix rows: positions first .. first + n_row - 1 */
  sl_buffer *buffer;
  sl_kv *kv;         /* [L], each [n_row, Hkv d] */
  sl_mat *resid;     /* [L + 1] before each layer, and after the last: [n_row, D] */
};

struct sl_baseline {
  const sl_model *model;
  int first_image, n_image, rope_level;
  sl_position_frame frame;
  int32_t *ids; /* [first_image + n_image] the tokens of the prefixes it was made from */
  sl_buffer *buffer;
  sl_kv *kv; /* [L], each [n_image, Hkv d], keys rotated */
};

/* An error naming `what` unless the baseline was made for a prefix with the same tokens. */
sl_status sl_baseline_check(const sl_baseline *baseline, const sl_prefix *prefix, const char *what);

/* A trunk with room for its rows, which branch.c fills. */
sl_status sl_trunk_allocate(sl_trunk **out, const sl_prefix *prefix, const sl_layout *layout);

/* One branch: the positions that are computed for it, in order, each from layer join on. A row's place in the list is
 * its slot. */
typedef struct sl_branch {
  const sl_plan *plan;
  int number;       /* of the plan in the request, for messages */
  int n_row;
  int *position;
  int *join;        /* first layer whose output may differ from the trunk's */
  int *slot_of;     /* [n_position] slot of a position, -1 = not computed */
  int n_position;
} sl_branch;

void sl_branch_dispose(sl_branch *branch);

/* Which rows a plan reaches, and from which layer on; positions from n_token on are left out, but up to n_step of them may
 * be appended later. An error when prefix rows are reached and the prefix does not keep them. */
sl_status sl_branch_reach(sl_branch *branch, const sl_trunk *trunk, const sl_plan *plan, int number, int n_token,
                          int n_step);

/* Appends a new position to the branch, computed in every layer. */
sl_status sl_branch_append(sl_branch *branch, int position);

/* What rows see in one layer, for attend_shared. Columns: text before the image | image | trunk suffix | baselines |
 * local slots. */
typedef struct sl_view_plan {
  const sl_trunk *trunk;
  int n_token;      /* trunk rows up to here are columns; n_token <= trunk->first: no trunk segment */
  int n_baseline, n_local;
  int n_word;       /* words of a mask */
  int image_column, suffix_column, baseline_column, local_column; /* first columns; those of absent segments are unused */
  int32_t *masks;   /* [n_view, n_word] */
  int n_view, cap_view;
  struct { int32_t *words; uint64_t signature; } *bases; /* what suffix rows of one branch see of prefix positions */
  int n_base, cap_base;
} sl_view_plan;

void sl_view_plan_init(sl_view_plan *v, const sl_trunk *trunk, int n_token, int n_baseline, int n_local);
void sl_view_plan_dispose(sl_view_plan *v);

/* The views of rows slots[0 .. n_row) of a branch in a layer, into view[n_row * n_head]. v->n_view = 0 starts a layer. */
sl_status sl_view_plan_rows(sl_view_plan *v, const sl_branch *branch, int layer, const int *slots, int n_row, int n_head,
                            int32_t *view);

/* One edit of one row in one layer. */
typedef struct sl_tap {
  int branch, layer, position;
  sl_site site;
  const sl_set *heads;
  sl_edit_kind kind;
  float factor;      /* SCALE */
  int64_t value_row; /* REPLACE, ADD: element offset in the list's values */
} sl_tap;

/* Edits of a batch, compiled to rows. */
typedef struct sl_tap_list {
  const sl_model *model;
  sl_tap *taps;      /* of one site and layer in the plans' order */
  int n_tap, cap_tap;
  float *host;       /* values before they go to the device */
  int64_t n_host, cap_host;
  sl_buffer *values;
  uint64_t *touched; /* [L] bit per site */
  int (*row_of)(void *user, int branch, int position); /* row of the pass, -1 = not in it */
  void *user;
} sl_tap_list;

/* Taps of the branches' plans at their slots from first_slot[b] on. With `captures` it runs the passes that edits with
 * from_run ask for (the session's scratch is free then); without, such edits are left out. */
sl_status sl_tap_list_init(sl_tap_list *list, sl_session *session, const sl_branch_request *request,
                           const sl_branch *branches, int n_branch, const int *first_slot, bool captures);
void sl_tap_list_dispose(sl_tap_list *list);
sl_taps sl_tap_list_taps(sl_tap_list *list);

#endif
