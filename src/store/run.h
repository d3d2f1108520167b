/* A run directory: run.json, tensors.safetensors, images/NAME.png. It is written whole or not at all, and read with
 * every part checked.
 *
 *   writer:  sl_run_new -> fill sl_run_json, sl_run_put, sl_run_put_picture -> sl_run_commit -> sl_run_free
 *   reader:  sl_run_open -> sl_run_root, sl_run_find / sl_run_get, sl_run_picture -> sl_run_close
 *
 * Not thread-safe per handle; two handles are independent. */
#ifndef SL_STORE_RUN_H
#define SL_STORE_RUN_H

#include "base/json.h"
#include "store/schema.h"
#include "tensor/safetensors.h"
#include "tensor/tensor.h"

#define SL_RUN_SCHEMA 1 /* version of the layout, key `schema` of run.json */

typedef struct sl_run sl_run;               /* a run being written */
typedef struct sl_run_reader sl_run_reader; /* a finished one */

/* Begins a run directory at `dir`. Checks now, before any work is done: a file or non-empty folder at `dir` is an
 * argument error unless `force` is set, and even then only a run directory (it holds run.json) is ever replaced; the
 * parent folder must exist and be writable. Builds in a hidden sibling folder. */
sl_status sl_run_new(sl_run **out, const char *dir, bool force);

/* A run that stays in memory: results can be put and looked at, pictures are not kept, and it is never committed. */
sl_status sl_run_new_memory(sl_run **out);
bool sl_run_keeps_pictures(const sl_run *run);

/* The results put so far, borrowed until the next put. */
const sl_tensor *sl_run_tensors(const sl_run *run, int *n_tensor);

/* run.json's root object, borrowed; the caller fills it (keys: see ARCHITECTURE.md). The writer itself sets `schema`. */
json_t *sl_run_json(sl_run *run);

/* Keeps a copy of a result. Fails when the name is not in the schema table, was put before, or dtype or shape do not
 * fit the table and the results put so far. `shape` has n_dim <= SL_MAX_DIM entries. */
sl_status sl_run_put(sl_run *run, const char *name, sl_dtype dtype, int n_dim, const int64_t *shape, const void *data);

/* Forgets the results whose names begin with `prefix`, and the values of symbols that no other result has. */
sl_status sl_run_drop(sl_run *run, const char *prefix);

/* Keeps a copy of a PNG file's bytes as images/NAME.png; `name` consists of a-z, 0-9 and _. */
sl_status sl_run_put_picture(sl_run *run, const char *name, const void *png, size_t n_bytes);

/* Writes everything to the hidden folder and renames it to `dir` in one step; with force the old folder is exchanged
 * and then removed. After a failure nothing is left behind, `dir` is as it was, and the run can only be freed. */
sl_status sl_run_commit(sl_run *run);

/* Releases the handle; a run that was not committed leaves no trace. NULL is fine. */
void sl_run_free(sl_run *run);

/* Opens a run directory. Missing, truncated or contradictory files fail with a message naming the file; tensors of the
 * schema table are checked against it (names that this version does not know are left alone). */
sl_status sl_run_open(sl_run_reader **out, const char *dir);
void sl_run_close(sl_run_reader *reader); /* NULL is fine */

/* Borrowed, valid until sl_run_close. */
const char *sl_run_dir(const sl_run_reader *reader);
json_t *sl_run_root(const sl_run_reader *reader);                               /* run.json's object */
const sl_tensor *sl_run_find(const sl_run_reader *reader, const char *name);    /* NULL when absent */
sl_status sl_run_get(const sl_run_reader *reader, const char *name, const sl_tensor **out); /* fails when absent */
int sl_run_count(const sl_run_reader *reader);
const sl_tensor *sl_run_at(const sl_run_reader *reader, int i); /* in the file's order */
bool sl_run_symbol(const sl_run_reader *reader, const char *symbol, int64_t *value); /* L, H, N ...; false: unbound */

/* The bytes of images/NAME.png into a new buffer (free()); fails when it is missing or not a PNG file. */
sl_status sl_run_picture(const sl_run_reader *reader, const char *name, char **png, size_t *n_bytes);
bool sl_run_has_picture(const sl_run_reader *reader, const char *name);

#endif
