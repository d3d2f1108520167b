/* The parts of a study's report: rows of SQL to the numbers of the page. */
#ifndef SL_TASK_STUDY_REPORT_INTERNAL_H
#define SL_TASK_STUDY_REPORT_INTERNAL_H

#include "base/json.h"
#include "sightline/study.h"
#include "task/study_store.h"

/* What is split by: at most so many labels, which have 2 to so many values. Longer lists of values are counted in the
 * accuracy tables alone, up to SL_STUDY_MAX_LISTED. */
#define SL_STUDY_MAX_LABEL 4
#define SL_STUDY_MAX_VALUE 6
#define SL_STUDY_MAX_LISTED 40

typedef struct sl_study_view {
  const sl_study_report_request *request;
  sl_study_store *store;
  sl_database *database;
  json_t *root;   /* of the page: "study", "analyses", "model", ... */
  json_t *said;   /* borrowed: root.study */
  json_t *groups; /* borrowed: said.groups, [{"label", "value", "n"}]; the first one is all examples */
} sl_study_view;

/* Calls take(user, statement) for every row; `text` is the first parameter, or NULL. */
sl_status sl_study_each_row(const sl_study_view *v, const char *sql, const char *text,
                            sl_status (*take)(void *user, sl_statement *row), void *user);

/* Takes over value; fails when it is NULL. */
sl_status sl_study_append(json_t *list, json_t *value);

/* Index of a group, -1 when the label or its value is not split by. */
int sl_study_find_group(const sl_study_view *v, const char *label, const char *value);
sl_status sl_study_check_goes_on(const sl_study_view *v, const char *what, double done, double total);

/* study_query.c: examples, accuracy, groups; heads; failures; timing. */
sl_status sl_study_say_counts(sl_study_view *v);
sl_status sl_study_say_heads(sl_study_view *v);
sl_status sl_study_say_failures(sl_study_view *v);
sl_status sl_study_say_timing(sl_study_view *v);

/* study_curves.c: means over layers of attention and CAM. */
sl_status sl_study_say_curves(sl_study_view *v);

/* study_cliff.c: cliff curves over examples with their layers and intervals. */
sl_status sl_study_say_cliff(sl_study_view *v);

/* study_alike.c: analyses.compare, and its tensors into `run`, where two examples or more have head scores. */
sl_status sl_study_say_alike(sl_study_view *v, sl_run *run);

#endif
