/* One prefix, many branches: questions about one picture, and their answers under intervention plans.
 *
 *   sl_scene     a picture before a model. Everything up to the last image position (the prefix) is run once.
 *   sl_question  a question and its answer: the unmodified continuation of the prefix.
 *   sl_plan      data that says how a branch differs from the unmodified run: which queries see what at which keys, and
 *                which values are replaced, added to or scaled; JSON both ways.
 *   branches     a question under many plans, run as one batch, so that every weight is read once for all of them.
 *
 * Exactness: the branch of an empty plan is the question itself, which equals a plain forward pass over the whole
 * prompt; a plan on a branch equals the same intervention in a full forward pass. A branch's bits depend on its plan,
 * its question and the baselines and runs it uses, not on batch size, threads or which branches run beside it.
 *
 * Positions are rows of prompt and answer with the picture's tokens in place, counted from 0; the logits of row t
 * predict token t + 1. Layers and heads count from 0. V = vocabulary.
 *
 * Threads: a scene, its questions and its baselines are used by one thread at a time. Scenes are independent of each
 * other, also those of one model, and may be used on different threads at once. A plan is never changed by a call and
 * can be shared. */
#ifndef SIGHTLINE_BRANCH_H
#define SIGHTLINE_BRANCH_H

#include "sightline/analysis.h"
#include "sightline/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sl_scene sl_scene;
typedef struct sl_question sl_question;
typedef struct sl_plan sl_plan;
typedef struct sl_scene_baseline sl_scene_baseline;

/* ---- scenes ---- */

typedef struct sl_scene_options {
  size_t size;         /* sizeof(sl_scene_options) */
  int n_thread;        /* 0 = all processors */
  bool edit_image;     /* keep what plans need whose queries or edits are at positions up to the last image position:
                        * n_layer x width floats for each */
  size_t branch_bytes; /* memory that branches run at once may take; 0 = 1 GiB */
  sl_log_fn log;       /* notices (a calibration picture that was left out); may be NULL */
  void *user;          /* handed to log */
  sl_cancel *cancel;   /* stops long work between two layers with SL_ERROR_CANCELLED; may be NULL; outlives the scene */
} sl_scene_options;

/* Reads a picture (PNG, JPEG, WebP, PPM) and runs the vision tower on it. The model is borrowed and outlives the scene.
 * options may be NULL. Errors: SL_ERROR_FILE and SL_ERROR_FORMAT for the picture. */
SL_API sl_status sl_scene_open(sl_scene **out, const sl_model *model, const char *image_path,
                               const sl_scene_options *options);
/* Closes a scene; its questions and baselines must have been freed. NULL is fine. */
SL_API void sl_scene_close(sl_scene *scene);

/* ---- questions ---- */

typedef struct sl_question_options {
  size_t size;        /* sizeof(sl_question_options) */
  bool raw_prompt;    /* the text is the whole prompt and holds the image placeholder once */
  const char *answer; /* given answer (teacher forcing), UTF-8; "" = none; NULL = the model's greedy one */
  int max_token;      /* length limit of the greedy answer; 0 = 64 */
} sl_question_options;

/* Asks `text` (UTF-8). The first question runs the prefix; others whose prompt begins with the same tokens, which is
 * every question where the template puts the picture first, share it. options may be NULL.
 * Errors: SL_ERROR_ARGUMENT for a text that is empty, not UTF-8, too long, or that holds special tokens. */
SL_API sl_status sl_question_new(sl_question **out, sl_scene *scene, const char *text,
                                 const sl_question_options *options);
SL_API void sl_question_free(sl_question *question); /* NULL is fine */

/* What a question became; pointers live as long as the question. */
typedef struct sl_question_info {
  size_t size;           /* set it to sizeof(sl_question_info) before the call */
  int n_token, n_prompt; /* positions of prompt and answer, and of the prompt alone */
  int first_image, n_image;
  int first_row; /* positions from here on were run for this question, those before for the prefix */
  int n_sharing; /* questions of the scene that use its prefix now, itself included. Where text of its own stands before
                  * the picture, or a Q-Former makes the image tokens for it, a question has its prefix for itself */
  int n_layer, n_head, n_head_kv, n_vocab;
  const int32_t *ids; /* [n_token]; image positions hold the placeholder's id (-200 in the original LLaVA: no token) */
  const char *answer; /* UTF-8, special tokens left out */
} sl_question_info;

/* SL_ERROR_ARGUMENT for an unknown size. */
SL_API sl_status sl_question_get_info(const sl_question *question, sl_question_info *info);

/* Class of a position: "system", "image", "structure", "user" or "generated"; NULL outside. Static text. */
SL_API const char *sl_question_class(const sl_question *question, int position);

/* Logits of the unmodified run at `rows` (n_row positions, ascending, none before first_row): [n_row, V] to the
 * caller's memory. SL_ERROR_ARGUMENT names a row that does not exist. */
SL_API sl_status sl_question_logits(const sl_question *question, const int *rows, int n_row, float *logits);

/* Token ids as text (free()), read as the continuation of the prompt; special tokens are left out. */
SL_API sl_status sl_question_decode(const sl_question *question, const int32_t *ids, int n_id, char **text);

/* ---- plans ---- */

/* A plan from JSON text of n_bytes:
 *   {"attend": [{"layers": "4-", "heads": [0, 2], "queries": "18-", "keys": "3-17", "source": "hidden"}],
 *    "edits": [{"site": "blocks.3.hook_resid_pre", "positions": "20", "op": "add", "value": 0.5},
 *              {"site": "blocks.*.attn.hook_z", "layers": "4-7", "heads": "0", "positions": "all", "op": "replace",
 *               "from": {"run": 0, "position": 5}},
 *              {"site": "blocks.4.hook_mlp_out", "positions": "20", "op": "replace",
 *               "from": {"run": 0, "site": "blocks.9.hook_mlp_out"}}]}
 * "attend": in these layers and heads, these queries see at these key positions that source: "own", "hidden" (left out
 * of the softmax) or "baseline:N" (the key and value of the N-th baseline, at image positions alone). Later rules
 * override earlier ones. "edits": ops "replace", "add" and "scale", with a "value" (one number, one head's, one
 * position's, or one for each position) or the value that run N has at this site, layer and position, or at those that
 * "from" names; applied in order. Sets are texts of numbers and ranges ("0,3-7,12-", "all") or arrays of numbers;
 * layers and heads that are not given are all. Sites go by their TransformerLens or Hugging Face names. Errors:
 * SL_ERROR_FORMAT names the rule or edit, the key, and what was expected. */
SL_API sl_status sl_plan_parse(sl_plan **out, const char *json, size_t n_bytes);

/* The plan as JSON text (free()); parsing it gives the same plan. */
SL_API sl_status sl_plan_print(const sl_plan *plan, char **json);
SL_API void sl_plan_free(sl_plan *plan); /* NULL is fine */

/* SL_ERROR_ARGUMENT names the first layer, head, position, baseline, run or value width that does not exist. */
SL_API sl_status sl_question_check_plan(const sl_question *question, const sl_plan *plan, int n_baseline, int n_run);

/* ---- baselines ---- */

/* What can stand at the image positions instead of the picture's own keys and values:
 *   "zero"             zeros (a score of 0 still takes its share of the softmax)
 *   "mean:FOLDER"      per layer, key/value head and image position, the mean over the folder's pictures
 *   "mean-all:FOLDER"  that, averaged over positions too
 *   "image:FILE"       another picture's
 * Made for the question's prefix; serves every question of scenes of this model whose prompts begin with the same
 * tokens. Costs one tower and prefix run for each picture. */
SL_API sl_status sl_scene_baseline_new(sl_scene_baseline **out, const sl_question *question, const char *spec);
SL_API void sl_scene_baseline_free(sl_scene_baseline *baseline); /* NULL is fine */

/* ---- branches ---- */

/* A question under n_plan plans. Zero-initialise, set `size`, question and plans; everything is borrowed for the call.
 */
typedef struct sl_branches {
  size_t size; /* sizeof(sl_branches) */
  const sl_question *question;
  const sl_plan *const *plans; /* [n_plan] */
  int n_plan;
  const sl_scene_baseline *const *baselines; /* [n_baseline], at most 4; rules count them */
  int n_baseline;
  const sl_question *const *runs; /* [n_run] where edits with "from" take their values, of this or another scene */
  int n_run;
  int batch_size;  /* branches at once; 0 = as many as the scene's branch_bytes hold. Results do not depend on it */
  const int *rows; /* [n_row] positions, ascending, from first_row on; NULL: those that predict the answer's tokens
                    * (n_prompt - 1 .. n_token - 2; the prompt's last one when the answer is empty) */
  int n_row;
  /* Called once for each plan, in order, with logits [n_row, V] that live until it returns. False stops the work with
   * SL_ERROR_CANCELLED. */
  bool (*take)(void *user, int plan, const float *logits);
  void *user;
} sl_branches;

/* Teacher forced on the question's answer: logits of every branch, handed to `take`. */
SL_API sl_status sl_branches_logits(const sl_branches *branches);

/* Greedy answers under every plan, decoded together, of up to max_token tokens each, ending before an end token:
 * ids [n_plan, max_token], n_id [n_plan] to the caller's memory. Sets without end ("24-", "all") hold for new positions
 * too. rows and take are not used. */
SL_API sl_status sl_branches_answer(const sl_branches *branches, int max_token, int32_t *ids, int *n_id);

#ifdef __cplusplus
}
#endif
#endif
