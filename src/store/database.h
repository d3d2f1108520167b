/* SQLite, as little of it as a study needs: a file in write-ahead-log mode (a transaction is there whole or not at all,
 * also after kill -9), statements with typed parameters, and errors that name the file. One thread per handle. */
#ifndef SL_STORE_DATABASE_H
#define SL_STORE_DATABASE_H

#include "base/memory.h"

typedef struct sl_database sl_database;
typedef struct sl_statement sl_statement;

typedef enum sl_database_mode {
  SL_DATABASE_READ,  /* must exist, perhaps where nobody may write; another process that writes is not waited for */
  SL_DATABASE_WRITE, /* must exist */
  SL_DATABASE_CREATE /* must not exist */
} sl_database_mode;

/* A missing file and one that is no database fail with SL_ERROR_FILE and SL_ERROR_FORMAT. */
sl_status sl_database_open(sl_database **out, const char *path, sl_database_mode mode);
void sl_database_close(sl_database *database); /* NULL is fine; its statements must have been freed */
const char *sl_database_path(const sl_database *database);

/* Fails with SL_ERROR_FORMAT where the file is damaged; reads all of it. */
sl_status sl_database_check(sl_database *database);

/* Runs statements separated by semicolons, without parameters and results. */
sl_status sl_database_run(sl_database *database, const char *sql);

/* The first column of the first row, 0 when there is none. */
sl_status sl_database_integer(sl_database *database, const char *sql, int64_t *out);

/* A transaction takes the write lock at once. A failed commit has rolled back. */
sl_status sl_database_begin(sl_database *database);
sl_status sl_database_commit(sl_database *database);
void sl_database_rollback(sl_database *database); /* no transaction is fine */

/* A prepared statement. */
sl_status sl_statement_new(sl_statement **out, sl_database *database, const char *sql);
void sl_statement_free(sl_statement *statement); /* NULL is fine */

/* Starts the statement again with its parameters, one letter each in `types`: i = int64_t, d = double (NaN and infinite
 * ones become NULL), t = const char * (NULL becomes NULL; must live until the next bind or free). */
sl_status sl_statement_bind(sl_statement *statement, const char *types, ...);

/* *row is false after the last row. */
sl_status sl_statement_step(sl_statement *statement, bool *row);

/* Bind and step of a statement that gives no rows. */
sl_status sl_statement_run(sl_statement *statement, const char *types, ...);

/* Columns of the present row, from 0. */
int64_t sl_statement_integer(sl_statement *statement, int column);
double sl_statement_real(sl_statement *statement, int column);     /* NaN for NULL */
const char *sl_statement_text(sl_statement *statement, int column); /* NULL for NULL; until the next step */

#endif
