/* What one process of a study is given to do at a time: an example, or, where fewer examples than processes are left, a
 * block of the masks that `heads` measures of it, and then the example with those masks known. Nothing here sends or
 * computes; a unit may be handed out again when nobody answers. */
#ifndef SL_TASK_STUDY_UNITS_H
#define SL_TASK_STUDY_UNITS_H

#include "base/memory.h"

typedef enum sl_unit_kind { SL_UNIT_WHOLE, SL_UNIT_MASKS, SL_UNIT_FINISH } sl_unit_kind;

typedef struct sl_unit {
  int64_t number;   /* example; -1: there is no more work */
  int32_t kind;     /* sl_unit_kind */
  int32_t first, n; /* masks: [first, first + n); finish: n are known */
} sl_unit;

typedef struct sl_units sl_units;

/* Examples first, first + step, ... < n that are not done yet (borrowed; may be set meanwhile). block: masks in a unit,
 * 0 = examples are never split. n_process: those who compute. */
sl_status sl_units_new(sl_units **out, int64_t first, int64_t step, int64_t n, const bool *done, int block,
                       int n_process);
void sl_units_free(sl_units *units); /* NULL is fine */

/* The next unit; *any is false while there is none (others may still come from what is being done). */
sl_status sl_units_next(sl_units *units, sl_unit *unit, bool *any);

/* The targets that a unit of kind finish needs: [unit->n], borrowed until the example is done. */
const double *sl_units_known(const sl_units *units, int64_t number);

/* A block came back: targets [n] of unit->first on. n_all: masks that the example needs altogether; 0 = it cannot be
 * split (it fails, or has nothing to measure) and is handed out whole. What is known already is passed over. */
sl_status sl_units_take(sl_units *units, const sl_unit *unit, int n_all, const double *target, int n);

/* Examples whose masks were shared out. */
int sl_units_split(const sl_units *units);

/* The example is done: its masks are let go. */
void sl_units_close(sl_units *units, int64_t number);

#endif
