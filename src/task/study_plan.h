/* The plan of a study: a JSON file, overridden by settings, brought into one canonical form that is stored and held
 * against when the study goes on. */
#ifndef SL_TASK_STUDY_PLAN_H
#define SL_TASK_STUDY_PLAN_H

#include "base/json.h"
#include "sightline/study.h"

/* Zero-initialise; release with sl_study_plan_dispose. All strings are borrowed from json. */
typedef struct sl_study_plan {
  json_t *json; /* canonical: every key, in the order of the table; paths absolute */
  const char *model, *vision_model, *compute, *backend, *data, *images; /* vision_model, compute, backend may be NULL */
  int64_t n_thread, batch_size, seed, max_token;
  int64_t lease_s; /* how long a process may take over an example before another gets it too; 0 = chosen */
  int64_t mask_block; /* masks that are handed out at once where an example is split between processes; 0 = never */
  bool raw_prompt, force_answer;
  double object_threshold;
  const char **analyses;
  int n_analysis;
  sl_option_value *options; /* of all analyses */
  int n_option;
} sl_study_plan;

/* Names of a row's fields: what the plan calls "id", "image", "question", "answer", "mask". Borrowed from the plan. */
const char *sl_study_plan_field(const sl_study_plan *plan, const char *what);

/* The labels that rows may have, {name: null or [values]}; NULL: any. Borrowed from the plan. */
const json_t *sl_study_plan_labels(const sl_study_plan *plan);

/* From the file, or, without plan_path, from `stored` (a canonical plan as text). */
sl_status sl_study_plan_read(sl_study_plan *plan, const sl_study_request *request, const char *stored);
void sl_study_plan_dispose(sl_study_plan *plan);

/* Whether the result tensor of that name is to be kept. */
bool sl_study_plan_keeps(const sl_study_plan *plan, const char *tensor);

/* Fails naming the first key that decides results and differs from `stored`; paths and threads may differ. */
sl_status sl_study_plan_compare(const sl_study_plan *plan, const char *stored, const char *where);

/* xxh3 over what decides results, 16 digits. */
sl_status sl_study_plan_hash(const sl_study_plan *plan, char out[17]);

#endif
