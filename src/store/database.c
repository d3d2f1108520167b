/* SQLite behind sightline's statuses. https://www.sqlite.org/c3ref/intro.html; write-ahead log: /wal.html.
 *
 * synchronous = NORMAL: a crash of the process loses nothing, a crash of the machine at most the last transactions,
 * and never the database. */
#include "store/database.h"

#include <math.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"

#define BUSY_MS 5000 /* how long another process' write is waited for */

struct sl_database {
  sqlite3 *handle;
  char *path;
};

struct sl_statement {
  sqlite3_stmt *handle;
  sl_database *database;
};

const char *sl_database_path(const sl_database *d) { return d->path; }

/* https://www.sqlite.org/rescode.html#extrc */
static bool is_reading(int code) {
  return code == SQLITE_IOERR_READ || code == SQLITE_IOERR_SHORT_READ;
}

static sl_status fail(const sl_database *d) {
  const int code = sqlite3_errcode(d->handle) & 0xff;
  const char *reason = sqlite3_errmsg(d->handle);
  if (code == SQLITE_NOMEM) SL_FAIL(SL_ERROR_MEMORY, "%s: no memory", d->path);
  if (code == SQLITE_FULL) SL_FAIL(SL_ERROR_FILE, "%s: cannot write: disk full", d->path);
  if (code == SQLITE_NOTADB || code == SQLITE_CORRUPT) SL_FAIL(SL_ERROR_FORMAT, "%s: %s", d->path, reason);
  const char *doing = is_reading(sqlite3_extended_errcode(d->handle)) ? "read" : "write";
  if (code == SQLITE_IOERR) SL_FAIL(SL_ERROR_FILE, "%s: cannot %s: %s", d->path, doing, reason);
  SL_FAIL(SL_ERROR_FILE, "%s: %s", d->path, reason);
}

static sl_status check(const sl_database *d, int code) {
  return code == SQLITE_OK || code == SQLITE_DONE || code == SQLITE_ROW ? SL_OK : fail(d);
}

/* Whether nobody here can write to the file or beside it, and all of it is in it: the last process that closes a
 * database puts its log into the file. Without a log there is nothing to be found through an index beside the file. */
static bool only_read(const char *path) {
  sl_text log = {0}, dir = {0};
  const char *slash = strrchr(path, '/');
  bool is = sl_text_format(&log, "%s-wal", path) == SL_OK &&
            sl_text_append(&dir, slash ? path : ".", slash ? (size_t)(slash - path) + 1 : 1) == SL_OK;
  is = is && (access(path, W_OK) != 0 || access(dir.data, W_OK) != 0) && access(log.data, F_OK) != 0;
  sl_text_dispose(&log);
  sl_text_dispose(&dir);
  return is;
}

/* The path as a URI of a file that does not change: https://www.sqlite.org/uri.html */
static sl_status make_uri(sl_text *uri, const char *path) {
  SL_TRY(sl_text_append_string(uri, *path == '/' ? "file://" : "file:"));
  for (const char *c = path; *c; c++)
    SL_TRY(strchr("%?#", *c) ? sl_text_format(uri, "%%%02x", (unsigned)*c) : sl_text_append(uri, c, 1));
  return sl_text_append_string(uri, "?immutable=1");
}

static sl_status open_handle(sl_database *d, int flags, bool immutable) {
  sl_text uri = {0};
  int code = SQLITE_OK;
  const sl_status status = immutable ? make_uri(&uri, d->path) : SL_OK;
  if (immutable) flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_URI;
  if (status == SL_OK)
    code = sqlite3_open_v2(immutable ? uri.data : d->path, &d->handle, flags | SQLITE_OPEN_NOMUTEX, NULL);
  sl_text_dispose(&uri);
  SL_TRY(status);
  return d->handle ? check(d, code) : sl_fail(SL_ERROR_MEMORY, "%s: no memory", d->path);
}

sl_status sl_database_open(sl_database **out, const char *path, sl_database_mode mode) {
  static const int flags[] = {[SL_DATABASE_READ] = SQLITE_OPEN_READWRITE, /* reading a log needs its index */
                              [SL_DATABASE_WRITE] = SQLITE_OPEN_READWRITE,
                              [SL_DATABASE_CREATE] = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE};
  sl_database *d;
  *out = NULL;
  const bool exists = access(path, F_OK) == 0;
  if (mode == SL_DATABASE_CREATE && exists) SL_FAIL(SL_ERROR_ARGUMENT, "%s: already exists", path);
  if (mode != SL_DATABASE_CREATE && !exists) SL_FAIL(SL_ERROR_FILE, "%s: no such file", path);
  SL_TRY(SL_ALLOC(d, 1, "database"));
  sl_status status = sl_strdup(&d->path, path);
  if (status == SL_OK) status = open_handle(d, flags[mode], mode == SL_DATABASE_READ && only_read(path));
  if (status == SL_OK) sqlite3_extended_result_codes(d->handle, 1);
  if (status == SL_OK) sqlite3_busy_timeout(d->handle, BUSY_MS);
  if (status == SL_OK && mode == SL_DATABASE_READ) status = sl_database_run(d, "PRAGMA query_only = 1");
  if (status == SL_OK && mode != SL_DATABASE_READ)
    status = sl_database_run(d, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON");
  /* Opening reads nothing; a look at the header shows whether it is a database at all. */
  if (status == SL_OK) status = sl_database_run(d, "SELECT count(*) FROM sqlite_master");
  if (status != SL_OK) {
    sl_database_close(d);
    return status;
  }
  *out = d;
  return SL_OK;
}

void sl_database_close(sl_database *d) {
  if (!d) return;
  sqlite3_close(d->handle);
  free(d->path);
  free(d);
}

sl_status sl_database_run(sl_database *d, const char *sql) {
  return check(d, sqlite3_exec(d->handle, sql, NULL, NULL, NULL));
}

sl_status sl_database_integer(sl_database *d, const char *sql, int64_t *out) {
  sl_statement *statement;
  bool row = false;
  *out = 0;
  SL_TRY(sl_statement_new(&statement, d, sql));
  const sl_status status = sl_statement_step(statement, &row);
  if (status == SL_OK && row) *out = sl_statement_integer(statement, 0);
  sl_statement_free(statement);
  return status;
}

sl_status sl_database_check(sl_database *d) {
  sl_statement *statement;
  bool row = false;
  SL_TRY(sl_statement_new(&statement, d, "PRAGMA quick_check(1)"));
  sl_status status = sl_statement_step(statement, &row);
  const char *said = status == SL_OK && row ? sl_statement_text(statement, 0) : NULL;
  if (said && strcmp(said, "ok") != 0) status = sl_fail(SL_ERROR_FORMAT, "%s: damaged: %s", d->path, said);
  sl_statement_free(statement);
  return status;
}

sl_status sl_database_begin(sl_database *d) { return sl_database_run(d, "BEGIN IMMEDIATE"); }

sl_status sl_database_commit(sl_database *d) {
  const sl_status status = sl_database_run(d, "COMMIT");
  if (status != SL_OK) sl_database_rollback(d);
  return status;
}

void sl_database_rollback(sl_database *d) {
  if (!sqlite3_get_autocommit(d->handle)) sqlite3_exec(d->handle, "ROLLBACK", NULL, NULL, NULL);
}

sl_status sl_statement_new(sl_statement **out, sl_database *d, const char *sql) {
  sl_statement *statement;
  *out = NULL;
  SL_TRY(SL_ALLOC(statement, 1, "statement"));
  statement->database = d;
  const sl_status status = check(d, sqlite3_prepare_v2(d->handle, sql, -1, &statement->handle, NULL));
  if (status == SL_OK)
    *out = statement;
  else
    sl_statement_free(statement);
  return status;
}

void sl_statement_free(sl_statement *statement) {
  if (!statement) return;
  sqlite3_finalize(statement->handle);
  free(statement);
}

static int bind_one(sqlite3_stmt *handle, int at, char type, va_list *values) {
  if (type == 'i') return sqlite3_bind_int64(handle, at, va_arg(*values, int64_t));
  if (type == 't') {
    const char *text = va_arg(*values, const char *);
    return text ? sqlite3_bind_text(handle, at, text, -1, SQLITE_STATIC) : sqlite3_bind_null(handle, at);
  }
  const double value = va_arg(*values, double);
  return isfinite(value) ? sqlite3_bind_double(handle, at, value) : sqlite3_bind_null(handle, at);
}

static sl_status bind_all(sl_statement *statement, const char *types, va_list *values) {
  sqlite3_reset(statement->handle); /* its code is that of the last step, told then */
  for (int i = 0; types[i]; i++) SL_TRY(check(statement->database, bind_one(statement->handle, i + 1, types[i], values)));
  return SL_OK;
}

sl_status sl_statement_bind(sl_statement *statement, const char *types, ...) {
  va_list values;
  va_start(values, types);
  const sl_status status = bind_all(statement, types, &values);
  va_end(values);
  return status;
}

sl_status sl_statement_step(sl_statement *statement, bool *row) {
  const int code = sqlite3_step(statement->handle);
  *row = code == SQLITE_ROW;
  const sl_status status = check(statement->database, code);
  if (code != SQLITE_ROW) sqlite3_reset(statement->handle); /* lets go of its locks */
  return status;
}

sl_status sl_statement_run(sl_statement *statement, const char *types, ...) {
  va_list values;
  bool row;
  va_start(values, types);
  sl_status status = bind_all(statement, types, &values);
  va_end(values);
  if (status == SL_OK) status = sl_statement_step(statement, &row);
  return status;
}

int64_t sl_statement_integer(sl_statement *s, int column) { return sqlite3_column_int64(s->handle, column); }

double sl_statement_real(sl_statement *s, int column) {
  return sqlite3_column_type(s->handle, column) == SQLITE_NULL ? NAN : sqlite3_column_double(s->handle, column);
}

const char *sl_statement_text(sl_statement *s, int column) {
  return (const char *)sqlite3_column_text(s->handle, column);
}
