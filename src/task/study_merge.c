/* Putting shards of a study together: their facts must agree, no example may come twice; rows are copied table by table
 * inside SQLite, tensors linked, or copied where the file system has no links. The merged folder appears whole. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "analysis/token_json.h"
#include "base/output.h"
#include "base/text.h"
#include "sightline/study.h"
#include "store/folder.h"
#include "task/run_json.h"
#include "task/study_store.h"

#define MAX_TENSOR_BYTES ((size_t)64 << 30)
#define TOLD_RANGES 20

typedef struct merging {
  const sl_study_merge_request *request;
  char *building;
  sl_study_store *store; /* in building */
  bool *done;
  int64_t n;
} merging;

static sl_status check_goes_on(const merging *m, int i) {
  const sl_study_merge_request *q = m->request;
  const bool goes_on = !q->progress || q->progress(q->user, "merging", i, q->n_dir);
  if (!goes_on || (q->cancel && sl_cancel_requested(q->cancel))) SL_FAIL(SL_ERROR_CANCELLED, "interrupted");
  return SL_OK;
}

/* Facts of a part; opening it also brings in what a killed process had committed, and refuses one that is worked on. */
static sl_status read_part(const merging *m, int i, sl_study_facts *facts) {
  sl_study_store *part;
  SL_TRY(sl_study_store_open(&part, m->request->dirs[i]));
  const sl_study_facts *own = sl_study_store_facts(part);
  sl_status status = SL_OK;
  for (int f = 0; f < SL_FACT_COUNT && status == SL_OK; f++) status = sl_strdup(&facts->value[f], own->value[f]);
  sl_study_store_close(part);
  return status;
}

static sl_status copy_file(const char *from, const char *to) {
  char *bytes = NULL;
  size_t n_bytes = 0;
  if (link(from, to) == 0) return SL_OK;
  if (errno == ENOENT) SL_FAIL(SL_ERROR_FILE, "%s: %s", from, strerror(errno));
  SL_TRY(sl_file_read(from, MAX_TENSOR_BYTES, &bytes, &n_bytes));
  const sl_status status = sl_file_write(to, bytes, n_bytes);
  free(bytes);
  return status;
}

static sl_status copy_tensors(const merging *m, const char *dir) {
  sl_statement *select;
  bool row = true;
  SL_TRY(sl_statement_new(&select, sl_study_store_database(m->store),
                          "SELECT example FROM part.example WHERE tensors IS NOT NULL"));
  sl_status status = SL_OK;
  while (status == SL_OK && row) {
    char *from = NULL, *to = NULL;
    status = sl_statement_step(select, &row);
    if (status != SL_OK || !row) break;
    status = sl_study_tensor_path(&from, dir, sl_statement_integer(select, 0));
    if (status == SL_OK) status = sl_study_tensor_path(&to, m->building, sl_statement_integer(select, 0));
    if (status == SL_OK) status = copy_file(from, to);
    free(from);
    free(to);
  }
  sl_statement_free(select);
  return status;
}

static sl_status check_twins(const merging *m, const char *dir) {
  sl_statement *select;
  bool row = false;
  SL_TRY(sl_statement_new(&select, sl_study_store_database(m->store),
                          "SELECT part.example.example, part.example.id FROM part.example JOIN main.example"
                          " ON part.example.example = main.example.example ORDER BY 1 LIMIT 1"));
  sl_status status = sl_statement_step(select, &row);
  if (status == SL_OK && row) {
    const char *id = sl_statement_text(select, 1);
    status = sl_fail(SL_ERROR_ARGUMENT, "%s: example %lld (id \"%s\") is in an earlier part too", dir,
                     (long long)sl_statement_integer(select, 0), id ? id : "");
  }
  sl_statement_free(select);
  return status;
}

/* Pictures and masks of the part, with the hashes that their examples were done with. */
#define FILES                                                                                                        \
  "(SELECT image AS file, image_hash AS hash FROM part.example UNION SELECT mask, mask_hash FROM part.example)"

/* temp.file has those of the parts before: a picture must not be two. Where none was done there is no hash. */
static sl_status check_files(const merging *m, int i) {
  sl_statement *select;
  bool row = false;
  SL_TRY(sl_statement_new(&select, sl_study_store_database(m->store),
                          "SELECT own.file, earlier.part, earlier.hash, own.hash FROM " FILES " AS own"
                          " JOIN temp.file AS earlier USING (file) WHERE own.hash <> earlier.hash ORDER BY 1 LIMIT 1"));
  sl_status status = sl_statement_step(select, &row);
  if (status == SL_OK && row)
    status = sl_fail(SL_ERROR_ARGUMENT,
                     "%s: the picture %s differs from the one in %s: its hash is %s, there it was %s",
                     m->request->dirs[i], sl_statement_text(select, 0),
                     m->request->dirs[sl_statement_integer(select, 1)], sl_statement_text(select, 3),
                     sl_statement_text(select, 2));
  sl_statement_free(select);
  return status;
}

static sl_status keep_files(const merging *m, int i) {
  sl_statement *insert;
  SL_TRY(sl_statement_new(&insert, sl_study_store_database(m->store),
                          "INSERT OR IGNORE INTO temp.file SELECT file, hash, ? FROM " FILES " WHERE hash IS NOT NULL"));
  const sl_status status = sl_statement_run(insert, "i", (int64_t)i);
  sl_statement_free(insert);
  return status;
}

static sl_status copy_rows(const merging *m, int i) {
  sl_database *database = sl_study_store_database(m->store);
  SL_TRY(check_twins(m, m->request->dirs[i]));
  SL_TRY(check_files(m, i));
  SL_TRY(keep_files(m, i));
  SL_TRY(sl_database_begin(database));
  const sl_status status = sl_database_run(database, "INSERT INTO main.example SELECT * FROM part.example ORDER BY 1;"
                                                     "INSERT INTO main.scalar SELECT * FROM part.scalar;"
                                                     "INSERT INTO main.series SELECT * FROM part.series;"
                                                     "INSERT INTO main.head SELECT * FROM part.head;"
                                                     "INSERT INTO main.timing SELECT * FROM part.timing;");
  if (status == SL_OK) return sl_database_commit(database);
  sl_database_rollback(database);
  return status;
}

static sl_status add_part(const merging *m, int i) {
  sl_database *database = sl_study_store_database(m->store);
  const char *dir = m->request->dirs[i];
  sl_statement *attach = NULL;
  char *path = NULL;
  sl_status status = sl_path_join(&path, dir, "study.sqlite");
  if (status == SL_OK) status = sl_statement_new(&attach, database, "ATTACH ? AS part");
  if (status == SL_OK) status = sl_statement_run(attach, "t", path);
  sl_statement_free(attach);
  free(path);
  SL_TRY(status);
  status = copy_rows(m, i);
  if (status == SL_ERROR_FORMAT) status = sl_fail(status, "%s: its database is damaged", dir); /* ours is new */
  if (status == SL_OK) status = copy_tensors(m, dir);
  const sl_status detached = status == SL_OK ? sl_database_run(database, "DETACH part") : SL_OK;
  return status == SL_OK ? detached : status;
}

/* "3-5, 9" of what is not done; more than TOLD_RANGES end in "...". */
static sl_status name_missing(const merging *m, sl_text *text, int64_t *n_missing) {
  int n_range = 0;
  *n_missing = 0;
  for (int64_t first = 0, last; first < m->n; first = last + 1) {
    last = first;
    if (m->done[first]) continue;
    while (last + 1 < m->n && !m->done[last + 1]) last++;
    *n_missing += last - first + 1;
    if (n_range++ > TOLD_RANGES) continue;
    if (n_range > TOLD_RANGES)
      SL_TRY(sl_text_append_string(text, ", ..."));
    else
      SL_TRY(sl_text_format(text, last > first ? "%s%lld-%lld" : "%s%lld", n_range > 1 ? ", " : "", (long long)first,
                            (long long)last));
  }
  return text->data ? SL_OK : sl_text_append_string(text, "");
}

static sl_status summarise(merging *m, char **summary) {
  sl_database *database = sl_study_store_database(m->store);
  int64_t done = 0, failed = 0, correct = 0, scored = 0, n_missing = 0;
  sl_text missing = {0};
  SL_TRY(sl_database_integer(database, "SELECT count(*) FROM example", &done));
  SL_TRY(sl_database_integer(database, "SELECT count(*) FROM failure", &failed));
  SL_TRY(sl_database_integer(database, "SELECT count(*) FROM example WHERE correct = 1", &correct));
  SL_TRY(sl_database_integer(database, "SELECT count(correct) FROM example", &scored));
  SL_TRY(SL_ALLOC(m->done, (size_t)m->n, "examples"));
  SL_TRY(sl_study_store_list(m->store, m->done, m->n));
  sl_status status = name_missing(m, &missing, &n_missing);
  json_t *out = json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "out",
                          sl_json_text(m->request->out_dir, strlen(m->request->out_dir)), "examples",
                          (json_int_t)m->n, "done", (json_int_t)done, "failed", (json_int_t)failed, "correct",
                          (json_int_t)correct, "scored", (json_int_t)scored, "n_missing", (json_int_t)n_missing,
                          "missing", missing.data ? missing.data : "");
  if (status == SL_OK)
    status = out ? sl_json_print(out, 2, summary) : sl_fail(SL_ERROR_MEMORY, "no memory for the summary");
  json_decref(out);
  sl_text_dispose(&missing);
  return status;
}

static sl_status merge_into(merging *m, char **summary) {
  const sl_study_merge_request *q = m->request;
  sl_study_facts first = {0};
  sl_status status = read_part(m, 0, &first);
  if (status == SL_OK) {
    free(first.value[SL_FACT_SHARD]);
    status = sl_strdup(&first.value[SL_FACT_SHARD], "0/1");
  }
  if (status == SL_OK) status = sl_study_store_fill(m->building, &first);
  if (status == SL_OK) status = sl_study_store_open(&m->store, m->building);
  if (status == SL_OK)
    status = sl_database_run(sl_study_store_database(m->store),
                             "CREATE TEMP TABLE file (file TEXT PRIMARY KEY, hash TEXT, part INTEGER) WITHOUT ROWID");
  if (status == SL_OK) m->n = strtoll(first.value[SL_FACT_EXAMPLES], NULL, 10);
  for (int i = 0; i < q->n_dir && status == SL_OK; i++) {
    sl_study_facts facts = {0};
    status = check_goes_on(m, i);
    if (status == SL_OK) status = read_part(m, i, &facts);
    if (status == SL_OK) status = sl_study_facts_compare(&first, &facts, q->dirs[i]);
    if (status == SL_OK) status = add_part(m, i);
    sl_study_facts_dispose(&facts);
  }
  sl_study_facts_dispose(&first);
  return status == SL_OK ? summarise(m, summary) : status;
}

static sl_status tell_missing(const merging *m, const char *summary) {
  json_t *root = NULL;
  SL_TRY(sl_json_parse(&root, summary, strlen(summary), "summary"));
  const char *missing = json_string_value(json_object_get(root, "missing"));
  sl_text line = {0};
  sl_status status = SL_OK;
  if (*missing && m->request->log) {
    status = sl_text_format(&line, "missing examples: %s; `sightline study resume %s` does them", missing,
                            m->request->out_dir);
    if (status == SL_OK) m->request->log(m->request->user, line.data);
  }
  sl_text_dispose(&line);
  json_decref(root);
  return status;
}

sl_status sl_study_merge(const sl_study_merge_request *request, char **summary) {
  char *clean = NULL, *parent = NULL;
  const char *base;
  int lock = -1;
  bool exists = false;
  merging m = {.request = request};
  *summary = NULL;
  if (request->size != sizeof *request)
    SL_FAIL(SL_ERROR_ARGUMENT, "sl_study_merge_request: expected size %zu, found %zu", sizeof *request, request->size);
  if (request->n_dir < 1) SL_FAIL(SL_ERROR_ARGUMENT, "no studies to merge");
  SL_TRY(sl_study_store_exists(request->out_dir, &exists));
  if (exists) SL_FAIL(SL_ERROR_ARGUMENT, "%s: already exists", request->out_dir);
  sl_status status = sl_folder_split(request->out_dir, &clean, &parent, &base);
  if (status == SL_OK) sl_folder_remove_stale(parent, base);
  if (status == SL_OK) status = sl_folder_make_hidden(&m.building, &lock, parent, base);
  if (status == SL_OK) status = merge_into(&m, summary);
  sl_study_store_close(m.store);
  if (status == SL_OK) status = sl_folder_place(m.building, clean);
  if (status != SL_OK && m.building) sl_folder_remove(m.building);
  if (lock >= 0) close(lock);
  if (status == SL_OK) status = tell_missing(&m, *summary);
  if (status != SL_OK) {
    free(*summary);
    *summary = NULL;
  }
  free(m.building);
  free(m.done);
  free(parent);
  free(clean);
  return status;
}
