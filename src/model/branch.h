/* One prefix, many branches.
 *
 * A prefix is everything up to the last image position, run once. A trunk is one unmodified continuation of it
 * (question and answer). A branch is the trunk under an intervention plan. Branches run together, so every weight is
 * read once for all of them; a row of a branch is computed only from the layer on in which its plan first reaches it,
 * and everything else is taken from the trunk. Prefix, trunk and baseline are immutable and may be shared by sessions
 * of one model.
 *
 * Exactness: the branch of an empty plan is the trunk, a trunk equals a plain full forward, and a plan on a branch
 * equals the same intervention in a full forward with explicit masks (up to the order of sums). A branch's bits depend
 * on its plan, its trunk and the baselines it uses alone: not on which branches run beside it, nor on batch size or
 * threads. */
#ifndef SL_MODEL_BRANCH_H
#define SL_MODEL_BRANCH_H

#include "model/plan.h"
#include "model/session.h"

typedef struct sl_prefix sl_prefix;
typedef struct sl_trunk sl_trunk;
typedef struct sl_baseline sl_baseline;

/* Runs the rows up to the last image position of `layout` (which must have a picture) and keeps their keys and values.
 * With keep_rows the residual before every layer is kept too: plans whose queries or edits are at prefix positions need
 * it. probe may be NULL; its pattern rows are rows of the prefix. */
sl_status sl_prefix_new(sl_prefix **out, sl_session *session, const sl_layout *layout, const sl_image *image,
                        bool keep_rows, const sl_probe *probe);
void sl_prefix_free(sl_prefix *prefix);
bool sl_prefix_keeps_rows(const sl_prefix *prefix);
/* Whether the prompt begins with the prefix, and rotates its keys alike: with dynamic NTK the prompt's length
 * counts. */
bool sl_prefix_serves(const sl_prefix *prefix, const sl_layout *layout);

/* Runs the rows of `layout` after the prefix, which must serve it (an error names the first token that differs). Keeps
 * their keys, values and the residual before every layer. The prefix is borrowed and outlives the trunk;
 * the layout is copied. A probe sees the suffix rows (first_row is the first of them); it has no pattern rows. */
sl_status sl_trunk_new(sl_trunk **out, sl_session *session, const sl_prefix *prefix, const sl_layout *layout,
                       const sl_probe *probe);
void sl_trunk_free(sl_trunk *trunk);
const sl_prefix *sl_trunk_prefix(const sl_trunk *trunk);
/* Logits of the trunk's own rows (positions, ascending, none before the suffix): [n_row, V] to the caller's memory. */
sl_status sl_trunk_logits(sl_session *session, const sl_trunk *trunk, const int *rows, int n_row, float *logits);

/* Keys and values that can stand at the image positions of a prefix instead of its own. */
sl_status sl_baseline_zero(sl_baseline **out, sl_session *session, const sl_prefix *prefix);
/* Another picture's: its prefix must have the same tokens. */
sl_status sl_baseline_picture(sl_baseline **out, sl_session *session, const sl_prefix *other);
/* The mean over `n_prefix` calibration pictures, added one by one: per layer, key/value head and image position; with
 * `over_positions` also over positions (keys averaged before the rotary embedding, then rotated at each position). */
typedef struct sl_calibration sl_calibration;
sl_status sl_calibration_new(sl_calibration **out, sl_session *session);
sl_status sl_calibration_add(sl_calibration *calibration, const sl_prefix *prefix);
sl_status sl_calibration_finish(sl_baseline **out, sl_calibration *calibration, bool over_positions);
void sl_calibration_free(sl_calibration *calibration);
void sl_baseline_free(sl_baseline *baseline);
/* One layer's keys (rotated) and values, [n_image, Hkv d] each, to the host. */
void sl_baseline_read(sl_session *session, const sl_baseline *baseline, int layer, float *k, float *v);

/* Zero-initialise what is not needed. */
typedef struct sl_branch_request {
  const sl_trunk *trunk;
  const sl_plan *plans; /* [n_plan], checked against the trunk */
  int n_plan;
  const sl_baseline *const *baselines; /* [n_baseline], at most SL_MAX_BASELINE; rules count them */
  int n_baseline;
  const sl_trunk *const *runs; /* [n_run]: where edits with from_run take their values */
  int n_run;
  const int *rows; /* [n_row] positions whose logits are wanted, ascending, in the suffix */
  int n_row;
  int batch_size;  /* branches at once; 0 = as many as the session's branch limit has rows for */
  /* Called once per plan, in order, with logits [n_row, V], valid during the call. An error stops the run. */
  sl_status (*take)(void *user, int plan, const float *logits);
  void *user;
} sl_branch_request;

#define SL_MAX_BASELINE 4

/* Runs every plan's branch. */
sl_status sl_branches_run(sl_session *session, const sl_branch_request *request);

/* Greedy answers under every plan, decoded together: continues the trunk's prompt (rows after n_prompt are not used)
 * with up to max_token tokens a branch, ending before an end token. Sets that are open at the end (`rest`) hold for new
 * positions too. ids [n_plan, max_token], n_id [n_plan]; rows, n_row and take are not used. */
sl_status sl_branches_greedy(sl_session *session, const sl_branch_request *request, int max_token, int32_t *ids,
                             int *n_id);

/* Memory that branches run at once may take (one branch always runs), and how many that is when plans reach the rows
 * after the picture alone, with `n_step` decoding steps kept (0 = logits only). Plans that reach image rows run fewer
 * at once. */
#define SL_BRANCH_LIMIT ((size_t)1 << 30)
void sl_session_set_branch_limit(sl_session *session, size_t n_bytes);
int sl_branch_batch(const sl_session *session, const sl_trunk *trunk, int n_step);

/* The limits that plans are checked against: for a sequence of n_token positions, and for a trunk's. */
sl_plan_limits sl_plan_limits_for(const sl_model *model, const sl_layout *layout, int n_token, int n_baseline,
                                  int n_run);
sl_plan_limits sl_trunk_limits(const sl_trunk *trunk, int n_baseline, int n_run);

#endif
