/* What an analysis is and what it works with. One file per analysis; an analysis never calls another: it says whose
 * results it reads, and the runner puts those first.
 *
 * Symbols: L decoder layers, H query heads, Q query rows (one per answer token), N image positions, of which those of
 * class image show a patch; the others (a kept class token, newlines) serve them. */
#ifndef SL_ANALYSIS_ANALYSIS_H
#define SL_ANALYSIS_ANALYSIS_H

#include "analysis/cancel.h"
#include "analysis/option.h"
#include "model/session.h"
#include "sightline/model.h"
#include "store/run.h"

#define SL_N_TOP 5

/* One answer token in the unmodified run, teacher forced on the tokens before it. */
typedef struct sl_answer_token {
  int32_t id;
  float logit, prob;
  int n_top; /* SL_N_TOP, or the vocabulary's size if that is smaller */
  struct {
    int32_t id;
    float logit, prob;
  } top[SL_N_TOP]; /* best first; equal logits in order of ids */
} sl_answer_token;

/* Masks of `heads` that several processes measure. Index i < L H is the mask that cuts off head i alone, index L H + j
 * the j-th random one. */
typedef struct sl_mask_block {
  bool only;      /* measure masks [first, first + n) and nothing else */
  int first, n;
  int n_all;      /* set then: masks that will be needed in any case, singles and random ones; 0 = none */
  double *target; /* only: [n], made by the analysis, free(); else what is known of the first n_known, borrowed */
  int n_known;
} sl_mask_block;

typedef struct sl_analysis_context {
  const sl_model *model;
  sl_session *session;
  const float *pixels;    /* [V, 3, height, width] preprocessed */
  const sl_pack *pack;    /* of the picture; NULL: that of a square one */
  const sl_image *image;  /* encoded from them */
  const sl_layout *layout; /* prompt and answer */
  const char *question;   /* that the image was encoded for, where that matters */
  const sl_answer_token *answer;
  int n_answer;           /* Q, at least 1 */
  int max_answer;         /* length limit of a greedy answer; 0: the answer was given, without one */
  const bool *object;     /* [N] token shows the object; NULL without a mask */
  uint64_t seed;
  const sl_analysis_info *info; /* the analysis that runs */
  const sl_option_value *options;
  int n_option;
  sl_run *run;            /* where results go; NULL = nowhere */
  json_t *said;           /* this analysis' object in run.json: scalars and short arrays */
  json_t *warnings;       /* array of strings */
  sl_progress_fn progress;
  sl_log_fn log;
  void *user;
  sl_cancel *cancel;
  struct sl_shared *shared; /* of this run, see shared.h; never NULL */
  int batch_size;         /* branches at once; 0 = as many as the memory limit allows */
  double budget_s;        /* seconds that this analysis may take; 0 = no limit */
  const sl_run_reader *earlier; /* with --resume: the same run as far as it came; NULL otherwise */
  sl_mask_block *share;   /* masks that other processes measured, or that are measured for them; NULL = neither */
} sl_analysis_context;

typedef struct sl_analysis {
  sl_analysis_info info;
  /* Names of analyses that must run before this one with these options (NULL-terminated); NULL = none. The runner adds
   * them to what was asked for. */
  const char *const *(*needs)(const sl_analysis_context *context);
  const char *const *uses; /* result tensors of others that it reads when they are there, NULL-terminated */
  /* Checks options against model and answer, before any analysis runs; NULL = nothing to check. */
  sl_status (*check)(const sl_analysis_context *context);
  /* Work, in forward passes over prompt and answer. */
  double (*passes)(const sl_analysis_context *context);
  sl_status (*run)(sl_analysis_context *context);
} sl_analysis;

extern const sl_analysis sl_flow_analysis, sl_cam_analysis, sl_cliff_analysis, sl_knockout_analysis, sl_lens_analysis,
    sl_heads_analysis, sl_tokens_analysis;

/* The whole table, NULL-terminated. */
extern const sl_analysis *const sl_analyses[];

/* Orders `n` asked analyses (indices into the table) so that whoever makes a result runs before its users. */
void sl_analysis_order(int *indices, int n);

/* Typed options of the running analysis. */
bool sl_context_flag(const sl_analysis_context *context, const char *name);
int sl_context_int(const sl_analysis_context *context, const char *name);
double sl_context_real(const sl_analysis_context *context, const char *name);
const char *sl_context_text(const sl_analysis_context *context, const char *name);
bool sl_context_given(const sl_analysis_context *context, const char *name); /* not left to its default */

/* Stores a result tensor when there is a run directory. */
sl_status sl_context_put(sl_analysis_context *context, const char *name, sl_dtype dtype, int n_dim,
                         const int64_t *shape, const void *data);

/* Sets a member of the analysis' object; takes over `value`. */
sl_status sl_context_say(sl_analysis_context *context, const char *key, json_t *value);

/* New JSON values; NaN becomes null. NULL when there is no memory (sl_context_say reports it). */
json_t *sl_json_number(double value);
json_t *sl_json_floats(const float *values, int n, int stride);

/* A line for run.json's warnings and for the caller's log. */
sl_status sl_context_warn(sl_analysis_context *context, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Tells how far the analysis is. When the caller answers "stop" the cancel flag is set. */
void sl_context_progress(sl_analysis_context *context, double done, double total);

/* SL_ERROR_CANCELLED once the flag is set. */
sl_status sl_context_check_cancel(const sl_analysis_context *context);

/* True when image position i shows a patch. */
static inline bool sl_layout_shows(const sl_layout *layout, int i) {
  return layout->classes[layout->first_image + i] == SL_CLASS_IMAGE;
}

/* The values of `map` [N] at positions that show a patch, in order, to `out` [n_shown]. */
void sl_layout_take_shown(const sl_layout *layout, const float *map, float *out);

/* The four numbers of flow.stats and cam.stats for one map [N], of its patches alone: entropy in nats, mass of the top
 * 10 %, share on the object, 1 or 0 for the peak on the object. NaN for an all-zero map; the last two NaN without a
 * mask. */
sl_status sl_map_stats(const sl_analysis_context *context, const float *map, float stats[4]);

#endif
