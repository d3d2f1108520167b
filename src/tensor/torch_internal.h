/* Inside of the reader of PyTorch's .bin files, shared by its sources (and the fuzzer) only. Everything here borrows
 * the file's bytes. */
#ifndef SL_TENSOR_TORCH_INTERNAL_H
#define SL_TENSOR_TORCH_INTERNAL_H

#include "tensor/safetensors_file.h"

/* ---- torch_zip.c: the archive ---- */

/* One stored (uncompressed) file of the archive. */
typedef struct sl_zip_entry {
  const char *name; /* not terminated */
  size_t n_name;
  size_t header;         /* offset of its local header */
  size_t begin, n_bytes; /* its content */
} sl_zip_entry;

typedef struct sl_zip {
  const char *path; /* for messages */
  const unsigned char *bytes;
  size_t n_bytes;
  sl_zip_entry *entries; /* sorted by name */
  size_t n_entry;
  const char *folder; /* "archive/": what every name of a PyTorch file begins with; not terminated */
  size_t n_folder;
} sl_zip;

/* Checks the whole directory. Dispose of it only after success. */
sl_status sl_zip_open(sl_zip *zip, const char *path, const unsigned char *bytes, size_t n_bytes);
void sl_zip_dispose(sl_zip *zip);

/* The file FOLDER/`kind``key` of the archive ("data/" and "17"), or NULL. */
const sl_zip_entry *sl_zip_find(const sl_zip *zip, const char *kind, const char *key, size_t n_key);

/* ---- torch_pickle.c: the object tree ---- */

typedef enum sl_pickle_kind {
  SL_PICKLE_NONE,
  SL_PICKLE_BOOL,
  SL_PICKLE_INT,
  SL_PICKLE_REAL,
  SL_PICKLE_TEXT,
  SL_PICKLE_GLOBAL,
  SL_PICKLE_TUPLE,
  SL_PICKLE_LIST,
  SL_PICKLE_DICT,    /* items: key, value, key, value, ...; keys are text */
  SL_PICKLE_STORAGE, /* items: "storage", type (GLOBAL), key (TEXT), device (TEXT), number of elements (INT) */
  SL_PICKLE_TENSOR   /* items: STORAGE, offset (INT), sizes (TUPLE), strides (TUPLE), dtype (GLOBAL) or NONE */
} sl_pickle_kind;

/* What a global of the list in torch_pickle.c is good for. */
typedef enum sl_pickle_role {
  SL_ROLE_ORDERED_DICT,
  SL_ROLE_TENSOR,       /* torch._utils._rebuild_tensor_v2: the storage knows the type */
  SL_ROLE_TYPED_TENSOR, /* torch._utils._rebuild_tensor_v3: comes with a type, over an untyped storage */
  SL_ROLE_PARAMETER,
  SL_ROLE_STORAGE,
  SL_ROLE_UNTYPED_STORAGE,
  SL_ROLE_DTYPE
} sl_pickle_role;

typedef struct sl_pickle_global {
  const char *module, *name;
  sl_pickle_role role;
  sl_dtype dtype; /* of storages and dtypes */
} sl_pickle_global;

typedef struct sl_pickle_node sl_pickle_node;

typedef struct sl_pickle_value {
  sl_pickle_kind kind;
  uint32_t n_text; /* bytes of TEXT */
  union {
    int64_t integer; /* INT and BOOL; a REAL's value is not kept */
    const char *text; /* not terminated */
    const sl_pickle_global *global;
    sl_pickle_node *node; /* TUPLE and all below it */
  };
} sl_pickle_value;

struct sl_pickle_node {
  sl_pickle_node *next; /* all nodes, to free them */
  sl_pickle_value *items;
  size_t n_item, capacity;
  bool seen; /* for whoever walks the tree: it may have cycles */
};

typedef struct sl_pickle {
  sl_pickle_value root;
  sl_pickle_node *nodes;
} sl_pickle;

/* Reads a pickle of protocol 2. Only the globals of the list there are known, and nothing is ever called: they are
 * names of node kinds. Memory is at most some hundred bytes for each byte read. Dispose of it only after success.
 * `path` is for messages. */
sl_status sl_pickle_load(sl_pickle *pickle, const char *path, const unsigned char *bytes, size_t n_bytes);
void sl_pickle_dispose(sl_pickle *pickle);

/* "an integer", "a tensor", ... */
const char *sl_pickle_kind_name(sl_pickle_kind kind);

#endif
