/* Prefix, trunk, baseline and a pass of branches, for prefix.c, trunk.c, baseline.c and branch*.c. */
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

/* True for a position of an image that sees itself whole: its rows are not causal among themselves. */
static inline bool sl_prefix_whole(const sl_prefix *p, int position) {
  return position >= p->first_image && position < p->n_row && p->model->family->image_sees_itself;
}

/* The last position that the one given sees, and the first that sees it: its own, or the image's end and beginning. */
static inline int sl_prefix_seen(const sl_prefix *p, int position) {
  return sl_prefix_whole(p, position) ? p->n_row - 1 : position;
}
static inline int sl_prefix_reader(const sl_prefix *p, int position) {
  return sl_prefix_whole(p, position) ? p->first_image : position;
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

static inline int sl_kv_width(const sl_model *m) { return m->decoder.shape.n_head_kv * m->decoder.shape.d_head; }

/* Keys and values of n_row rows in every layer, and n_resid residuals, as one buffer; `what` is for messages. */
sl_status sl_rows_allocate(const sl_model *m, int n_row, int n_resid, const char *what, sl_buffer **buffer, sl_kv **kv,
                           sl_mat **resid);

/* An error unless the positions are ascending ones of the trunk's suffix. */
sl_status sl_trunk_check_rows(const sl_trunk *trunk, const int *rows, int n_row);

/* An error naming `what` unless the baseline was made for a prefix with the same tokens. */
sl_status sl_baseline_check(const sl_baseline *baseline, const sl_prefix *prefix, const char *what);

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

/* Which rows a plan reaches, and from which layer on; positions from n_token on are left out, but up to n_step of them
 * may be appended later. An error when prefix rows are reached and the prefix does not keep them. */
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
  /* First columns; those of absent segments are unused. */
  int image_column, suffix_column, baseline_column, local_column;
  int32_t *masks;   /* [n_view, n_word] */
  int n_view, cap_view;
  struct { int32_t *words; uint64_t signature; } *bases; /* what suffix rows of one branch see of prefix positions */
  int n_base, cap_base;
} sl_view_plan;

void sl_view_plan_init(sl_view_plan *v, const sl_trunk *trunk, int n_token, int n_baseline, int n_local);
void sl_view_plan_dispose(sl_view_plan *v);

/* The views of rows slots[0 .. n_row) of a branch in a layer, into view[n_row * n_head]. v->n_view = 0 starts a
 * layer. */
sl_status sl_view_plan_rows(sl_view_plan *v, const sl_branch *branch, int layer, const int *slots, int n_row,
                            int n_head, int32_t *view);

/* One edit of one row in one layer. */
typedef struct sl_tap {
  int branch, layer, position;
  sl_site site;
  const sl_set *heads;
  sl_edit_kind kind;
  float factor;      /* SCALE */
  int64_t value_row; /* REPLACE, ADD: element offset in the list's values */
} sl_tap;

/* What one edit takes from another run. */
typedef struct sl_capture {
  const sl_edit *edit;
  int *positions, *from; /* [n_position] positions that are edited, and those of the run that feed them */
  int n_position, width;
  float *rows;           /* [n_position, n_layer, width] */
  int *place;            /* [L] a layer of the run's place in rows, -1 = not read */
  int n_layer;           /* that are read */
} sl_capture;

/* Room for what the edit takes at the branch's slots from first_slot on; then the values of n captures, from the
 * request's runs (the session's scratch is free then); and those at the i-th position that go to a layer here. */
sl_status sl_capture_init(sl_capture *capture, const sl_edit *edit, const sl_branch *branch, int first_slot,
                          int n_layer, int width);
sl_status sl_captures_fill(sl_capture *captures, int n, sl_session *session, const sl_branch_request *request);
const float *sl_capture_row(const sl_capture *capture, int i, int layer);
void sl_capture_dispose(sl_capture *capture);

/* Edits of a batch, compiled to rows. */
typedef struct sl_tap_list {
  const sl_model *model;
  sl_plan_limits limits;
  sl_tap *taps;      /* of one site and layer in the plans' order */
  int n_tap, cap_tap;
  float *host;       /* values before they go to the device */
  int64_t n_host, cap_host;
  sl_buffer *values;
  uint64_t *touched; /* [L] bit per site */
  int (*row_of)(void *user, int branch, int position); /* row of the pass, -1 = not in it; set by the pass */
  void *user;
} sl_tap_list;

/* Taps of the branches' plans at their slots from first_slot[b] on. with_captures runs the passes that edits with
 * from_run ask for (the session's scratch is free then); without, such edits are left out. */
sl_status sl_tap_list_init(sl_tap_list *list, sl_session *session, const sl_branch_request *request,
                           const sl_branch *branches, int n_branch, const int *first_slot, bool with_captures);
void sl_tap_list_dispose(sl_tap_list *list);
sl_taps sl_tap_list_taps(sl_tap_list *list);

/* Logits that a pass computes at a time. */
#define SL_PASS_ROWS 128

/* A row of the pass: which branch, which slot. */
typedef struct sl_pass_row {
  int branch, slot;
} sl_pass_row;

/* Branches that run together. Zero-initialise; release with sl_pass_dispose. */
typedef struct sl_pass {
  sl_session *session;
  const sl_trunk *trunk;
  const sl_branch_request *request; /* NULL while a trunk is made */
  sl_branch *branches;
  int n_branch;
  int n_token;        /* trunk rows that can be read */
  bool keeps_local;   /* local keys of all layers are kept, for steps */
  int n_local;        /* slots of a branch */
  sl_buffer *local;   /* [L or 1][2][n_branch * n_local, Hkv d] */
  int *first_slot;    /* [n_branch] slots from here on are computed in this pass */
  sl_mat fresh;       /* rows [n_branch, D] that start from here at layer 0; absent = the trunk's residual */
  sl_view_plan views;
  sl_tap_list edits;
  sl_pass_row *rows;  /* [n_row] of the layer that runs */
  int n_row, cap_row;
  int32_t *host;      /* numbers on their way to the device */
  sl_buffer *control; /* positions, slots, branches, views, masks */
  size_t n_control;   /* i32 values in it */
  sl_mat x, spare;    /* [cap_row, D]: rows of this layer, and room to rearrange them */
  const sl_probe *probe;
} sl_pass;

/* A batch of the request's plans from `first` on, as many as its batch size or the session's memory limit says; trunk
 * rows up to n_token, and n_step rows a branch that may follow one by one. */
sl_status sl_pass_init(sl_pass *pass, sl_session *session, const sl_branch_request *request, int first, int n_token,
                       int n_step);
void sl_pass_dispose(sl_pass *pass);

/* Local keys with room for n_step more rows a branch, and the row lists. */
sl_status sl_pass_reserve_rows(sl_pass *pass, int n_step);
/* Scratch for the pass, its head and x; `own` elements more stay for the caller. */
sl_status sl_pass_reserve_scratch(sl_pass *pass, int64_t own);
/* Room for n numbers in `control`; what is in it is lost. */
sl_status sl_pass_reserve_control(sl_pass *pass, size_t n);

/* The plans' edits of the slots from first_slot on, with those from other runs or without. */
sl_status sl_pass_set_edits(sl_pass *pass, bool captures);

/* All layers over the slots from first_slot on; x then holds the final residual of `rows`. `whole` (the trunk's own
 * pass) also keeps every layer's residual, keys and values there; else NULL. */
sl_status sl_pass_run(sl_pass *pass, sl_trunk *whole);

/* Logits after a run, [n, V] to the host, n <= SL_PASS_ROWS: number i of first .. first + n - 1 is that of position
 * rows[i % n_row] in branch i / n_row. Where the plan does not reach it, the trunk's. */
void sl_pass_logits(sl_pass *pass, const int *rows, int n_row, int first, int n, float *logits);

/* An error that names what is wrong with plans or baselines. */
sl_status sl_branches_check(const sl_branch_request *request);

#endif
