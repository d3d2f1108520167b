/* The tables of a study's database. docs/studies.md explains them; a change of tables or columns is a new user_version.
 * Rows of one example lie together (its transaction writes few pages); views answer the usual questions. DuckDB runs the
 * views' SQL by itself: they hold nothing that means something else there (max of two values, a bare atom of json_each),
 * and nothing that older SQLites cannot read. */
#include "task/study_store.h"

/* A label's value as text. In DuckDB an atom is JSON, which keeps its quotation marks. */
#define VALUE "CASE typeof(l.atom) WHEN 'JSON' THEN trim(CAST(l.atom AS TEXT), '\"') ELSE CAST(l.atom AS TEXT) END"
/* Rounding may leave the square of the mean above the mean square. */
#define VARIANCE \
  "CASE WHEN n < 2 THEN NULL WHEN square > mean * mean THEN (square - mean * mean) * n / (n - 1) ELSE 0 END"

const char sl_study_schema[] =
    "CREATE TABLE study (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE example (example INTEGER PRIMARY KEY, line INTEGER NOT NULL, id TEXT, image TEXT, image_hash TEXT,"
    " mask TEXT, mask_hash TEXT, question TEXT, expected TEXT, answer TEXT, correct INTEGER, tokens TEXT,"
    " status TEXT NOT NULL CHECK (status IN ('done', 'failed')), error TEXT, warnings TEXT, labels TEXT NOT NULL,"
    " tensors TEXT);"
    "CREATE TABLE scalar (example INTEGER NOT NULL REFERENCES example, analysis TEXT NOT NULL, name TEXT NOT NULL,"
    " value REAL, PRIMARY KEY (example, analysis, name)) WITHOUT ROWID;"
    "CREATE TABLE series (example INTEGER NOT NULL REFERENCES example, analysis TEXT NOT NULL, name TEXT NOT NULL,"
    " \"index\" INTEGER NOT NULL, value REAL, PRIMARY KEY (example, analysis, name, \"index\")) WITHOUT ROWID;"
    "CREATE TABLE head (example INTEGER NOT NULL REFERENCES example, layer INTEGER NOT NULL, head INTEGER NOT NULL,"
    " score REAL, stderr REAL, single REAL, attention REAL, patching REAL,"
    " PRIMARY KEY (example, layer, head)) WITHOUT ROWID;"
    "CREATE TABLE timing (example INTEGER NOT NULL REFERENCES example, stage TEXT NOT NULL, ms REAL NOT NULL,"
    " PRIMARY KEY (example, stage)) WITHOUT ROWID;"

    "CREATE VIEW failure AS SELECT example, line, id, error FROM example WHERE status = 'failed';"
    "CREATE VIEW accuracy AS"
    " SELECT '' AS label, '' AS value, count(*) AS n, sum(correct) AS correct, avg(correct) AS accuracy"
    " FROM example WHERE correct IS NOT NULL"
    " UNION ALL"
    " SELECT l.key, " VALUE ", count(*), sum(correct), avg(correct) FROM example, json_each(example.labels) AS l"
    " WHERE correct IS NOT NULL AND l.atom IS NOT NULL GROUP BY l.key, " VALUE ";"
    "CREATE VIEW series_mean AS SELECT analysis, name, \"index\", n, mean,"
    " " VARIANCE " AS variance FROM"
    " (SELECT analysis, name, \"index\", count(value) AS n, avg(value) AS mean, avg(value * value) AS square"
    " FROM series GROUP BY analysis, name, \"index\");"
    "CREATE VIEW flow_by_layer AS SELECT \"index\" AS layer, n, mean AS image_share, variance FROM series_mean"
    " WHERE analysis = 'flow' AND name = 'image_share';"
    "CREATE VIEW head_mean AS SELECT layer, head, n, mean, stderr,"
    " " VARIANCE " AS variance FROM"
    " (SELECT layer, head, count(score) AS n, avg(score) AS mean, avg(score * score) AS square, avg(stderr) AS stderr"
    " FROM head GROUP BY layer, head);"
    "CREATE VIEW cliff_layer AS SELECT CAST(value AS INTEGER) AS layer, count(*) AS n FROM scalar"
    " WHERE analysis = 'cliff' AND name = 'layer' AND value IS NOT NULL GROUP BY 1;";
