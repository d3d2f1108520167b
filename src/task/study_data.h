/* The data of a study: a JSON-lines file, one example a line. */
#ifndef SL_TASK_STUDY_DATA_H
#define SL_TASK_STUDY_DATA_H

#include "task/study_plan.h"

/* One line, parsed. Zero-initialise; release with sl_study_row_dispose. Texts are NULL where the row has none. */
typedef struct sl_study_row {
  int64_t line;       /* from 1 */
  char *id;           /* a number becomes its digits */
  const char *image;  /* as the row has it; borrowed from row, as the next three */
  const char *question, *answer, *mask;
  char *image_path, *mask_path; /* inside the plan's folder */
  json_t *row, *labels;         /* labels: all other fields */
} sl_study_row;

void sl_study_row_dispose(sl_study_row *example);

typedef struct sl_study_data sl_study_data;

/* Reads the file and checks every row: see sl_study_data_bad. */
sl_status sl_study_data_open(sl_study_data **out, const sl_study_plan *plan);
void sl_study_data_close(sl_study_data *data); /* NULL is fine */

/* The same of bytes in memory, with a NUL behind them; they are taken over, also on failure. */
sl_status sl_study_data_parse(sl_study_data **out, const sl_study_plan *plan, char *bytes, size_t n_bytes);

int64_t sl_study_data_count(const sl_study_data *data); /* lines that are not blank */
uint64_t sl_study_data_hash(const sl_study_data *data); /* xxh3 of the file's bytes */

/* What is wrong with example i as one sentence that names file and line (broken JSON, a missing or mistyped field, an
 * id that an earlier line has, a picture that is missing or outside the folder); NULL when nothing is. */
const char *sl_study_data_bad(const sl_study_data *data, int64_t i);

/* How many examples something is wrong with, and a hash of which: two processes that see the same pictures agree. */
uint64_t sl_study_data_bad_rows(const sl_study_data *data, int64_t *n_bad);

/* Parses example i. On failure what could be read is there all the same. */
sl_status sl_study_data_example(const sl_study_data *data, int64_t i, sl_study_row *example);

#endif
