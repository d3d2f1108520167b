/* Making, opening and filling a study's folder. */
#include "task/study_store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "store/folder.h"

#define DATABASE "study.sqlite"
#define LOCK "study.lock"
#define APPLICATION_ID 0x736c7374 /* "slst", for file(1) */

typedef enum insertion { INTO_EXAMPLE, INTO_SCALAR, INTO_SERIES, INTO_HEAD, INTO_TIMING, N_INSERTION } insertion;

static const char *const insertions[N_INSERTION] = {
    [INTO_EXAMPLE] = "INSERT INTO example VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    [INTO_SCALAR] = "INSERT INTO scalar VALUES (?, ?, ?, ?)",
    [INTO_SERIES] = "INSERT INTO series VALUES (?, ?, ?, ?, ?)",
    [INTO_HEAD] = "INSERT INTO head VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    [INTO_TIMING] = "INSERT INTO timing VALUES (?, ?, ?)",
};

struct sl_study_store {
  char *dir;
  int lock; /* of the study, -1 = none */
  sl_database *database;
  sl_statement *insert[N_INSERTION];
  sl_study_facts facts;
};

/* ---- facts ---- */

static const struct {
  const char *key;
  const char *what; /* for messages; NULL = may differ */
} fact_rows[SL_FACT_COUNT] = {
    [SL_FACT_PLAN] = {"plan", NULL},
    [SL_FACT_PLAN_HASH] = {"plan_hash", "plan (hash)"},
    [SL_FACT_MODEL] = {"model", NULL},
    [SL_FACT_MODEL_HASH] = {"model_hash", "model (hash of its weights)"},
    [SL_FACT_FILES_HASH] = {"model_files_hash", "model (hash of config, tokenizer, processor and template)"},
    [SL_FACT_DATA_HASH] = {"data_hash", "data (hash of the file)"},
    [SL_FACT_EXAMPLES] = {"examples", "number of examples"},
    [SL_FACT_SHARD] = {"shard", NULL},
    [SL_FACT_COMPUTE] = {"compute", "way to compute (device, mode, products)"},
    [SL_FACT_VERSION] = {"sightline", "version of sightline"},
};

const char *sl_study_fact_key(sl_study_fact fact) { return fact_rows[fact].key; }

void sl_study_facts_dispose(sl_study_facts *facts) {
  for (int i = 0; i < SL_FACT_COUNT; i++) free(facts->value[i]);
  *facts = (sl_study_facts){0};
}

sl_status sl_study_facts_compare(const sl_study_facts *was, const sl_study_facts *is, const char *where) {
  for (int i = 0; i < SL_FACT_COUNT; i++) {
    if (fact_rows[i].what && strcmp(was->value[i], is->value[i]) != 0)
      SL_FAIL(SL_ERROR_ARGUMENT, "%s: the %s differs: it was %s, now it is %s", where, fact_rows[i].what, was->value[i],
              is->value[i]);
  }
  return SL_OK;
}

static sl_status write_facts(sl_database *database, const sl_study_facts *facts) {
  sl_statement *insert;
  SL_TRY(sl_statement_new(&insert, database, "INSERT INTO study VALUES (?, ?)"));
  sl_status status = SL_OK;
  for (int i = 0; i < SL_FACT_COUNT && status == SL_OK; i++)
    status = sl_statement_run(insert, "tt", fact_rows[i].key, facts->value[i]);
  sl_statement_free(insert);
  return status;
}

static sl_status read_fact(sl_statement *select, const sl_database *database, int i, char **value) {
  bool row = false;
  SL_TRY(sl_statement_bind(select, "t", fact_rows[i].key));
  SL_TRY(sl_statement_step(select, &row));
  if (!row) SL_FAIL(SL_ERROR_FORMAT, "%s: the table study has no \"%s\"", sl_database_path(database), fact_rows[i].key);
  const char *text = sl_statement_text(select, 0);
  return sl_strdup(value, text ? text : "");
}

static sl_status read_facts(sl_study_facts *facts, sl_database *database) {
  sl_statement *select;
  SL_TRY(sl_statement_new(&select, database, "SELECT value FROM study WHERE key = ?"));
  sl_status status = SL_OK;
  for (int i = 0; i < SL_FACT_COUNT && status == SL_OK; i++) status = read_fact(select, database, i, &facts->value[i]);
  sl_statement_free(select);
  return status;
}

/* ---- folder ---- */

sl_status sl_study_store_exists(const char *dir, bool *exists) {
  struct stat info;
  bool empty = false;
  *exists = false;
  if (lstat(dir, &info) != 0 && errno == ENOENT) return SL_OK;
  if (lstat(dir, &info) != 0) SL_FAIL(SL_ERROR_FILE, "%s: %s", dir, strerror(errno));
  if (S_ISDIR(info.st_mode)) SL_TRY(sl_folder_is_empty(dir, &empty));
  *exists = !empty;
  return SL_OK;
}

static sl_status make_database(const char *dir, const sl_study_facts *facts) {
  char *path = NULL;
  sl_text sql = {0};
  sl_database *database = NULL;
  sl_status status = sl_path_join(&path, dir, DATABASE);
  if (status == SL_OK) status = sl_database_open(&database, path, SL_DATABASE_CREATE);
  if (status == SL_OK)
    status =
        sl_text_format(&sql, "PRAGMA application_id = %d; PRAGMA user_version = %d;", APPLICATION_ID, SL_STUDY_SCHEMA);
  if (status == SL_OK) status = sl_database_begin(database);
  if (status == SL_OK) status = sl_database_run(database, sql.data);
  if (status == SL_OK) status = sl_database_run(database, sl_study_schema);
  if (status == SL_OK) status = write_facts(database, facts);
  if (status == SL_OK) status = sl_database_commit(database);
  sl_database_close(database);
  sl_text_dispose(&sql);
  free(path);
  return status;
}

sl_status sl_study_store_fill(const char *dir, const sl_study_facts *facts) {
  char *tensors = NULL;
  SL_TRY(make_database(dir, facts));
  SL_TRY(sl_path_join(&tensors, dir, "tensors"));
  sl_status status = SL_OK;
  if (mkdir(tensors, 0777) != 0) status = sl_fail(SL_ERROR_FILE, "%s: %s", tensors, strerror(errno));
  free(tensors);
  return status;
}

sl_status sl_study_store_check_place(const char *dir) {
  char *clean = NULL, *parent = NULL;
  const char *base;
  sl_status status = sl_folder_split(dir, &clean, &parent, &base);
  if (status == SL_OK && access(parent, W_OK | X_OK) != 0)
    status = sl_fail(SL_ERROR_FILE, "%s: cannot make a folder here: %s", parent, strerror(errno));
  free(parent);
  free(clean);
  return status;
}

sl_status sl_study_store_create(const char *dir, const sl_study_facts *facts) {
  char *clean = NULL, *parent = NULL, *building = NULL;
  const char *base;
  int lock = -1;
  bool exists = false;
  sl_status status = sl_folder_split(dir, &clean, &parent, &base);
  if (status == SL_OK) sl_folder_remove_stale(parent, base);
  if (status == SL_OK) status = sl_folder_make_hidden(&building, &lock, parent, base);
  if (status == SL_OK) status = sl_study_store_fill(building, facts);
  if (status == SL_OK) status = sl_study_store_exists(clean, &exists);
  if (status == SL_OK && exists)
    status = sl_fail(SL_ERROR_ARGUMENT, "%s: already exists (`sightline study resume` goes on with a study)", dir);
  if (status == SL_OK) status = sl_folder_place(building, clean);
  if (status != SL_OK && building) sl_folder_remove(building);
  if (lock >= 0) close(lock);
  free(building);
  free(parent);
  free(clean);
  return status;
}

/* What a killed process was writing; whole tensors that no example names are written again. */
static void remove_leftovers(const char *dir) {
  char *folder = NULL;
  if (sl_path_join(&folder, dir, "tensors") != SL_OK) return;
  DIR *listing = opendir(folder);
  for (struct dirent *entry; listing && (entry = readdir(listing)) != NULL;) {
    char *path = NULL;
    if (strncmp(entry->d_name, ".sightline-", 11) == 0 && sl_path_join(&path, folder, entry->d_name) == SL_OK)
      unlink(path);
    free(path);
  }
  if (listing) closedir(listing);
  free(folder);
}

/* A file of its own: closing any handle of the database's would drop SQLite's locks. It is open to write, because NFS
 * makes of flock() a lock of a range of bytes, which it grants on such files alone (flock(2), "NFS details"). Whether
 * processes on other machines see it depends on how a file system is mounted. */
static sl_status lock_study(sl_study_store *s) {
  char *path;
  SL_TRY(sl_path_join(&path, s->dir, LOCK));
  s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  const sl_status status = s->lock < 0 ? sl_fail(SL_ERROR_FILE, "%s: %s", path, strerror(errno)) : SL_OK;
  free(path);
  SL_TRY(status);
  if (flock(s->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    SL_FAIL(SL_ERROR_FILE, "%s: another process is working on this study", s->dir);
  return SL_OK; /* file systems without locks: SQLite's own keep the database whole */
}

static sl_status check_schema(sl_study_store *s) {
  int64_t application = 0, version = 0;
  SL_TRY(sl_database_integer(s->database, "PRAGMA application_id", &application));
  SL_TRY(sl_database_integer(s->database, "PRAGMA user_version", &version));
  if (application != APPLICATION_ID)
    SL_FAIL(SL_ERROR_FORMAT, "%s: not a study of sightline", sl_database_path(s->database));
  if (version != SL_STUDY_SCHEMA)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: expected schema %d, found %lld", sl_database_path(s->database), SL_STUDY_SCHEMA,
            (long long)version);
  return SL_OK;
}

static sl_status open_inside(sl_study_store *s, const char *dir, bool to_write) {
  char *path;
  SL_TRY(sl_strdup(&s->dir, dir));
  SL_TRY(sl_path_join(&path, dir, DATABASE));
  sl_status status =
      access(path, F_OK) == 0 ? SL_OK : sl_fail(SL_ERROR_ARGUMENT, "%s: no study (no " DATABASE " in it)", dir);
  if (status == SL_OK && to_write) status = lock_study(s);
  if (status == SL_OK) status = sl_database_open(&s->database, path, to_write ? SL_DATABASE_WRITE : SL_DATABASE_READ);
  free(path);
  SL_TRY(status);
  SL_TRY(check_schema(s));
  if (to_write) SL_TRY(sl_database_check(s->database));
  SL_TRY(read_facts(&s->facts, s->database));
  if (!to_write) return SL_OK;
  for (int i = 0; i < N_INSERTION; i++) SL_TRY(sl_statement_new(&s->insert[i], s->database, insertions[i]));
  remove_leftovers(dir);
  return SL_OK;
}

static sl_status open_store(sl_study_store **out, const char *dir, bool to_write) {
  sl_study_store *s;
  *out = NULL;
  SL_TRY(SL_ALLOC(s, 1, "study"));
  s->lock = -1;
  const sl_status status = open_inside(s, dir, to_write);
  if (status == SL_OK)
    *out = s;
  else
    sl_study_store_close(s);
  return status;
}

sl_status sl_study_store_open(sl_study_store **out, const char *dir) { return open_store(out, dir, true); }
sl_status sl_study_store_read(sl_study_store **out, const char *dir) { return open_store(out, dir, false); }

void sl_study_store_close(sl_study_store *s) {
  if (!s) return;
  for (int i = 0; i < N_INSERTION; i++) sl_statement_free(s->insert[i]);
  sl_database_close(s->database);
  sl_study_facts_dispose(&s->facts);
  if (s->lock >= 0) close(s->lock);
  free(s->dir);
  free(s);
}

sl_database *sl_study_store_database(sl_study_store *s) { return s->database; }
const sl_study_facts *sl_study_store_facts(const sl_study_store *s) { return &s->facts; }

sl_status sl_study_tensor_path(char **path, const char *dir, int64_t example) {
  sl_text text = {0};
  const sl_status status =
      sl_text_format(&text, "%s%stensors/%08lld.safetensors", dir, *dir ? "/" : "", (long long)example);
  *path = text.data;
  return status;
}

/* ---- examples ---- */

sl_status sl_study_store_forget_failed(sl_study_store *s) {
  return sl_database_run(s->database, "DELETE FROM example WHERE status = 'failed'");
}

sl_status sl_study_store_list(sl_study_store *s, bool *done, int64_t n) {
  sl_statement *select;
  bool row = true;
  SL_TRY(sl_statement_new(&select, s->database, "SELECT example FROM example"));
  sl_status status = SL_OK;
  while (status == SL_OK && row) {
    status = sl_statement_step(select, &row);
    const int64_t i = status == SL_OK && row ? sl_statement_integer(select, 0) : -1;
    if (i >= n)
      status = sl_fail(SL_ERROR_FORMAT, "%s: holds example %lld of %lld", sl_database_path(s->database), (long long)i,
                       (long long)n);
    if (i >= 0 && i < n) done[i] = true;
  }
  sl_statement_free(select);
  return status;
}

/* The text of a column, or a structure as JSON (free()); NULL stays NULL. Labels are grouped by, and keep all digits of
 * their numbers. */
static sl_status as_text(const json_t *result, const char *key, char **out) {
  const json_t *value = json_object_get(result, key);
  *out = NULL;
  if (!value || json_is_null(value)) return SL_OK;
  if (json_is_string(value)) return sl_strdup(out, json_string_value(value));
  return strcmp(key, "labels") == 0 ? sl_json_print_exact(value, out) : sl_json_print(value, 0, out);
}

static sl_status put_example(sl_study_store *s, const json_t *r) {
  static const char *const columns[] = {"id",       "image",    "image_hash", "mask",    "mask_hash",
                                        "question", "expected", "answer",     "correct", "tokens",
                                        "status",   "error",    "warnings",   "labels",  "tensors"};
  char *text[sizeof columns / sizeof *columns] = {NULL};
  sl_status status = SL_OK;
  for (size_t i = 0; i < sizeof columns / sizeof *columns && status == SL_OK; i++)
    status = as_text(r, columns[i], &text[i]);
  /* correct is "0" or "1": the column's type makes a number of it */
  if (status == SL_OK)
    status = sl_statement_run(
        s->insert[INTO_EXAMPLE], "iittttttttttttttt", (int64_t)json_integer_value(json_object_get(r, "example")),
        (int64_t)json_integer_value(json_object_get(r, "line")), text[0], text[1], text[2], text[3], text[4], text[5],
        text[6], text[7], text[8], text[9], text[10], text[11], text[12], text[13], text[14]);
  for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) free(text[i]);
  return status;
}

/* NaN for null. */
static double number(const json_t *value) {
  return json_is_number(value) ? json_number_value(value) : __builtin_nan("");
}

static sl_status put_scalars(sl_study_store *s, int64_t example, json_t *scalars) {
  const char *analysis, *name;
  json_t *own, *value;
  json_object_foreach(scalars, analysis, own) {
    json_object_foreach(own, name, value)
      SL_TRY(sl_statement_run(s->insert[INTO_SCALAR], "ittd", example, analysis, name, number(value)));
  }
  return SL_OK;
}

static sl_status put_series(sl_study_store *s, int64_t example, json_t *series) {
  const char *analysis, *name;
  json_t *own, *values;
  json_object_foreach(series, analysis, own) {
    json_object_foreach(own, name, values) {
      for (size_t i = 0; i < json_array_size(values); i++)
        SL_TRY(sl_statement_run(s->insert[INTO_SERIES], "ittid", example, analysis, name, (int64_t)i,
                                number(json_array_get(values, i))));
    }
  }
  return SL_OK;
}

/* head: {"n_head": H, "score": [L * H], ...} */
static sl_status put_heads(sl_study_store *s, int64_t example, const json_t *heads) {
  static const char *const columns[] = {"score", "stderr", "single", "attention", "patching"};
  const json_t *of[5];
  const json_int_t n_head = json_integer_value(json_object_get(heads, "n_head"));
  for (int c = 0; c < 5; c++) of[c] = json_object_get(heads, columns[c]);
  for (size_t i = 0; n_head > 0 && i < json_array_size(of[0]); i++)
    SL_TRY(sl_statement_run(s->insert[INTO_HEAD], "iiiddddd", example, (int64_t)i / n_head, (int64_t)i % n_head,
                            number(json_array_get(of[0], i)), number(json_array_get(of[1], i)),
                            number(json_array_get(of[2], i)), number(json_array_get(of[3], i)),
                            number(json_array_get(of[4], i))));
  return SL_OK;
}

static sl_status put_timing(sl_study_store *s, int64_t example, json_t *timing) {
  const char *stage;
  json_t *ms;
  json_object_foreach(timing, stage, ms)
    SL_TRY(sl_statement_run(s->insert[INTO_TIMING], "itd", example, stage, json_number_value(ms)));
  return SL_OK;
}

sl_status sl_study_store_put(sl_study_store *s, const json_t *r) {
  const int64_t example = json_integer_value(json_object_get(r, "example"));
  SL_TRY(sl_database_begin(s->database));
  sl_status status = put_example(s, r);
  if (status == SL_OK) status = put_scalars(s, example, json_object_get(r, "scalar"));
  if (status == SL_OK) status = put_series(s, example, json_object_get(r, "series"));
  if (status == SL_OK) status = put_heads(s, example, json_object_get(r, "head"));
  if (status == SL_OK) status = put_timing(s, example, json_object_get(r, "timing"));
  if (status == SL_OK) return sl_database_commit(s->database);
  sl_database_rollback(s->database);
  return status;
}
