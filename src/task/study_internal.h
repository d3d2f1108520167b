/* One study on its way, for study.c and the files that spread it over processes. */
#ifndef SL_TASK_STUDY_INTERNAL_H
#define SL_TASK_STUDY_INTERNAL_H

#include "analysis/analysis.h"
#include "sightline/study.h"
#include "task/study_data.h"
#include "task/study_store.h"

typedef struct sl_study {
  const sl_study_request *request;
  sl_study_plan plan;
  sl_study_data *data;
  sl_model *model;
  sl_study_facts facts;  /* of this call */
  sl_study_store *store; /* NULL before it is made, and in processes that only compute */
  bool *done;            /* [count] complete already */
  int shard, n_shard;
  sl_study_state state;
  int64_t n_new, n_split; /* examples of this call; of them, those whose masks were shared out */
  double started_ms;
  sl_progress_fn watch; /* called now and then while an example is computed; false stops that. NULL = nobody */
  void *watcher;
} sl_study;

/* Everything that can be known without weights: plan, data, and whether they are those of what is stored. */
sl_status sl_study_prepare(sl_study *study);

/* What is known of the study without its model. */
sl_status sl_study_fill_facts(sl_study *study);

/* study_files.c: xxh3 of the settings beside the weights, 16 digits: in the model's folder, in its tower's
 * (`vision_model`, NULL = the one that is found) and in its question tokenizer's; and of one file (0 without a path). */
sl_status sl_study_hash_settings(char out[17], const char *model, const char *vision_model);
sl_status sl_study_hash_file(uint64_t *hash, const char *path, size_t max_bytes);

/* Opens the model and fills what the facts say of it. `quiet`: no progress, no notices. */
sl_status sl_study_open_model(sl_study *study, bool quiet);

/* Makes the folder, or holds all facts against the one that is there; fills `done` and the state. */
sl_status sl_study_open_store(sl_study *study);

/* Results of example `number`, or its error as a result; tensors are written. What fails for other reasons (no room,
 * cancelled, strict) fails here. `known`: masks that were measured elsewhere, or NULL. */
sl_status sl_study_make_result(const sl_study *study, int64_t number, sl_mask_block *known, json_t **result);

/* Some of the example's masks alone, for the process that will finish it. An example that fails leaves n_all 0. */
sl_status sl_study_measure_masks(const sl_study *study, int64_t number, sl_mask_block *share);

/* Stores a result and tells the state. */
sl_status sl_study_accept(sl_study *study, const json_t *result);

sl_status sl_study_check_cancel(const sl_study *study);

/* ---- study_mpi.c: many processes. Without MPI in the build, and outside mpirun, there is one. ---- */

typedef struct sl_study_team {
  int rank, n_rank;
  bool ours; /* MPI was started here */
  bool lost; /* a rank did not come back */
} sl_study_team;

sl_status sl_study_team_join(sl_study_team *team, const sl_study_request *request);
void sl_study_team_leave(const sl_study_team *team);

/* Rank 0: `prepared` is what sl_study_prepare gave. Hands examples to the other ranks and stores what comes back. */
sl_status sl_study_team_lead(sl_study *study, sl_study_team *team, sl_status prepared);

/* Any other rank: computes what it is told until rank 0 says that it is over. Errors are told to rank 0. */
sl_status sl_study_team_follow(sl_study *study, const sl_study_team *team);

#endif
