/* Handing out a study's work. Examples are split only at the end, when processes would have nothing to do: a block
 * costs the example's prefix again, which is small beside its masks but not nothing. */
#include "task/study_units.h"

#include <stdlib.h>
#include <string.h>

/* An example in blocks. */
typedef struct split {
  int64_t number;
  int n_all;      /* masks; 0 = not known yet, -1 = cannot be split */
  bool finishing; /* handed out for the last time */
  int n_block, n_in;
  bool *out, *in; /* [n_block] handed out; came back */
  double *target; /* [n_all] */
} split;

struct sl_units {
  int64_t next, step, n;
  const bool *done;
  int block, n_process;
  split *splits;
  int n_split, n_shared;
};

sl_status sl_units_new(sl_units **out, int64_t first, int64_t step, int64_t n, const bool *done, int block,
                       int n_process) {
  sl_units *u;
  *out = NULL;
  SL_TRY(SL_ALLOC(u, 1, "units"));
  *u = (sl_units){.next = first, .step = step, .n = n, .done = done, .block = block, .n_process = n_process};
  *out = u;
  return SL_OK;
}

static void split_dispose(split *s) {
  free(s->out);
  free(s->in);
  free(s->target);
  *s = (split){.number = -1, .finishing = true};
}

void sl_units_free(sl_units *u) {
  for (int i = 0; u && i < u->n_split; i++) split_dispose(&u->splits[i]);
  if (u) free(u->splits);
  free(u);
}

static split *find(const sl_units *u, int64_t number) {
  for (int i = 0; i < u->n_split; i++)
    if (u->splits[i].number == number) return &u->splits[i];
  return NULL;
}

/* A block, or the end, of an example that is split. */
static bool next_of(const sl_units *u, split *s, sl_unit *unit) {
  if (s->finishing || s->n_all == 0) return false;
  for (int b = 0; b < s->n_block; b++) {
    if (s->out[b]) continue;
    const int first = b * u->block, left = s->n_all - first;
    s->out[b] = true;
    *unit = (sl_unit){s->number, SL_UNIT_MASKS, first, left < u->block ? left : u->block};
    return true;
  }
  if (s->n_in < s->n_block) return false;
  s->finishing = true;
  *unit = (sl_unit){s->number, s->n_all > 0 ? SL_UNIT_FINISH : SL_UNIT_WHOLE, 0, s->n_all > 0 ? s->n_all : 0};
  return true;
}

/* Fewer examples than processes are left. */
static bool is_end(const sl_units *u) {
  int64_t left = 0;
  for (int64_t i = u->next; i < u->n && left < u->n_process; i += u->step) left += !u->done[i];
  return left < u->n_process;
}

sl_status sl_units_next(sl_units *u, sl_unit *unit, bool *any) {
  *any = true;
  for (int i = 0; i < u->n_split; i++)
    if (next_of(u, &u->splits[i], unit)) return SL_OK;
  while (u->next < u->n && u->done[u->next]) u->next += u->step;
  *any = u->next < u->n;
  if (!*any) return SL_OK;
  *unit = (sl_unit){u->next, SL_UNIT_WHOLE, 0, 0};
  if (u->block > 0 && is_end(u)) {
    SL_TRY(SL_REALLOC(u->splits, (size_t)u->n_split + 1, "units"));
    u->splits[u->n_split++] = (split){.number = u->next};
    *unit = (sl_unit){u->next, SL_UNIT_MASKS, 0, u->block}; /* its answer tells how many there are */
  }
  u->next += u->step;
  return SL_OK;
}

const double *sl_units_known(const sl_units *u, int64_t number) {
  const split *s = find(u, number);
  return s ? s->target : NULL;
}

static sl_status begin(sl_units *u, split *s, int n_all) {
  s->n_all = n_all > 0 ? n_all : -1;
  if (n_all <= 0) return SL_OK;
  s->n_block = (n_all + u->block - 1) / u->block;
  SL_TRY(SL_ALLOC(s->out, (size_t)s->n_block, "blocks"));
  SL_TRY(SL_ALLOC(s->in, (size_t)s->n_block, "blocks"));
  SL_TRY(SL_ALLOC(s->target, (size_t)n_all, "targets"));
  s->out[0] = true;
  u->n_shared++;
  return SL_OK;
}

int sl_units_split(const sl_units *u) { return u->n_shared; }

sl_status sl_units_take(sl_units *u, const sl_unit *unit, int n_all, const double *target, int n) {
  split *s = find(u, unit->number);
  if (!s || s->finishing) return SL_OK;
  if (s->n_all == 0) SL_TRY(begin(u, s, n_all));
  const int b = unit->first / u->block;
  if (s->n_all < 0 || b >= s->n_block || s->in[b]) return SL_OK;
  const int left = s->n_all - unit->first, expected = left < u->block ? left : u->block;
  if (n_all != s->n_all || n != expected)
    SL_FAIL(SL_ERROR_FORMAT, "a process measured %d of %d masks, expected %d of %d", n, n_all, expected, s->n_all);
  memcpy(s->target + unit->first, target, (size_t)n * sizeof *target);
  s->in[b] = true;
  s->n_in++;
  return SL_OK;
}

void sl_units_close(sl_units *u, int64_t number) {
  split *s = find(u, number);
  if (s) split_dispose(s);
}
