/* A study's folder: study.sqlite, tensors/NUMBER.safetensors where some are kept, and study.lock, which who writes holds. */
#ifndef SL_TASK_STUDY_STORE_H
#define SL_TASK_STUDY_STORE_H

#include "base/json.h"
#include "store/database.h"

#define SL_STUDY_SCHEMA 2 /* PRAGMA user_version */

extern const char sl_study_schema[];

/* What a study is of, for its table `study`; values owned. */
typedef enum sl_study_fact {
  SL_FACT_PLAN,       /* canonical, JSON */
  SL_FACT_PLAN_HASH,
  SL_FACT_MODEL,      /* name */
  SL_FACT_MODEL_HASH, /* of the weights */
  SL_FACT_FILES_HASH, /* of config, tokenizer, processor and chat template beside them */
  SL_FACT_DATA_HASH,
  SL_FACT_EXAMPLES,   /* number of the data file's lines that are not blank */
  SL_FACT_SHARD,      /* "0/1": all */
  SL_FACT_COMPUTE,    /* backend, mode and processor path */
  SL_FACT_VERSION,    /* of sightline */
  SL_FACT_COUNT
} sl_study_fact;

typedef struct sl_study_facts {
  char *value[SL_FACT_COUNT];
} sl_study_facts;

/* The key that it has in the table. */
const char *sl_study_fact_key(sl_study_fact fact);

void sl_study_facts_dispose(sl_study_facts *facts);

/* Fails naming the first fact that decides results and differs. The plan's text and the shard are not looked at. */
sl_status sl_study_facts_compare(const sl_study_facts *was, const sl_study_facts *is, const char *where);

typedef struct sl_study_store sl_study_store;

/* Whether there is something called `dir` that is not an empty folder. SL_ERROR_FILE where nobody can tell. */
sl_status sl_study_store_exists(const char *dir, bool *exists);

/* Whether a folder can be made there, to be asked before the work. */
sl_status sl_study_store_check_place(const char *dir);

/* Makes a study without examples: the folder appears whole or not at all. */
sl_status sl_study_store_create(const char *dir, const sl_study_facts *facts);

/* The same inside the empty folder `dir`. */
sl_status sl_study_store_fill(const char *dir, const sl_study_facts *facts);

/* Opens a study to write; while it is open no other process can. Fails with SL_ERROR_ARGUMENT for a folder that is no
 * study, SL_ERROR_UNSUPPORTED for another schema, SL_ERROR_FORMAT for a damaged database. What a killed process left
 * half-written is removed. */
sl_status sl_study_store_open(sl_study_store **out, const char *dir);
void sl_study_store_close(sl_study_store *store); /* NULL is fine */

/* Opens a study to look at, also one that another process is working on. */
sl_status sl_study_store_read(sl_study_store **out, const char *dir);

sl_database *sl_study_store_database(sl_study_store *store);
const sl_study_facts *sl_study_store_facts(const sl_study_store *store);

/* Takes the failed examples out, so that they count as not done. */
sl_status sl_study_store_forget_failed(sl_study_store *store);

/* done[i] is set for every complete example i < n. */
sl_status sl_study_store_list(sl_study_store *store, bool *done, int64_t n);

/* One example's results (study_result.h) as one transaction. */
sl_status sl_study_store_put(sl_study_store *store, const json_t *result);

/* "DIR/tensors/00000012.safetensors"; the name alone is "tensors/00000012.safetensors". */
sl_status sl_study_tensor_path(char **path, const char *dir, int64_t example);

#endif
