/* From one example's run to the rows of a study's database, as JSON: what a transaction writes and what travels between
 * processes. Keys: the columns of table example; "scalar" {analysis: {name: value}}; "series"
 * {analysis: {name: [...]}}; "head" {"n_head", "score": [L * H], "stderr", "single", "attention", "patching"};
 * "timing" {stage: ms}. */
#ifndef SL_TASK_STUDY_RESULT_H
#define SL_TASK_STUDY_RESULT_H

#include "store/run.h"
#include "task/study_data.h"

/* A complete example; mask_hash belongs to its mask, if it has one; `tensors` = name of its file in the study's folder,
 * or NULL. */
sl_status sl_study_result_done(json_t **out, int64_t number, const sl_study_row *example, sl_run *run,
                               uint64_t mask_hash, const char *tensors);

/* One that failed with this message. */
sl_status sl_study_result_failed(json_t **out, int64_t number, const sl_study_row *example, const char *error);

/* Whether an answer is the expected one: equal without case, and without blanks and punctuation at both ends. */
bool sl_study_answers_equal(const char *answer, const char *expected);

#endif
