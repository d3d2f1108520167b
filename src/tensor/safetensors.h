/* Files of weights: a mapped, fully checked reader (one file, or a Hugging Face folder with or without an index) of
 * safetensors and of PyTorch's .bin, and a writer of safetensors.
 *
 * The reader trusts nothing: header length, JSON depth, duplicate keys, dtype names, shapes (overflow), offsets (range,
 * order, overlap, holes, size = shape x dtype) are checked before a view is handed out, and every message names file,
 * tensor, expected and found. Handles are immutable after opening and can be shared between threads.
 *
 * PyTorch files (those called .bin, .pt or .pth) are a ZIP archive around a pickle, which is a program. It is read by a
 * machine that knows plain data and tensors only (torch_pickle.c): nothing in it is ever executed, and whatever weights
 * do not need is refused by name. Names in nested dictionaries are joined by dots; values that are no tensors are
 * passed over. Tensors that do not lie row by row (transposed ones) are copied into memory on opening. Checksums of the
 * archive are not compared.
 *
 * Outside our control: if another process shortens a file while it is mapped, reading the lost pages raises SIGBUS. */
#ifndef SL_TENSOR_SAFETENSORS_H
#define SL_TENSOR_SAFETENSORS_H

#include "base/memory.h"
#include "tensor/tensor.h"

typedef struct sl_safetensors sl_safetensors;

/* Opens `path`: a file, or a folder holding model.safetensors, model.safetensors.index.json (sharded),
 * pytorch_model.bin or pytorch_model.bin.index.json; of several the first of this list counts, as in transformers. A
 * tensor present in two shards, an index naming a missing file or tensor, or a shard name that is a path fails (the
 * shard may be a link: Hugging Face's cache is made of them). A tensor that a shard holds and the index does not name
 * is kept. Element types outside sl_dtype are unsupported. */
sl_status sl_safetensors_open(sl_safetensors **out, const char *path);

/* The same checks over one file's content in memory, which is borrowed and must outlive the handle. `name` stands for
 * the path: its ending tells the format, and messages begin with it. */
sl_status sl_safetensors_parse(sl_safetensors **out, const void *bytes, size_t n_bytes, const char *name);

/* NULL is allowed. */
void sl_safetensors_close(sl_safetensors *file);

/* Tensors in the order of their data, shard after shard (shards by name); names are unique. Views point into the
 * mapping and live as long as the handle. */
int sl_safetensors_count(const sl_safetensors *file);
const sl_tensor *sl_safetensors_at(const sl_safetensors *file, int index);
const sl_tensor *sl_safetensors_find(const sl_safetensors *file, const char *name); /* NULL when absent */
const char *sl_safetensors_file_of(const sl_safetensors *file, const sl_tensor *tensor); /* path of its shard;
                                                                                            NULL for a stranger */

/* Size of all files together, headers included. */
uint64_t sl_safetensors_bytes(const sl_safetensors *file);

/* A hash of all content (xxh3 over headers and data); computed when asked for. */
uint64_t sl_safetensors_hash(const sl_safetensors *file);

/* Tells the kernel that the pages of `tensor` are no longer needed (after packing). */
void sl_safetensors_drop(const sl_safetensors *file, const sl_tensor *tensor);

/* Writes tensors (names unique) whole or not at all: temporary, fsync, rename. The data starts 8-byte aligned and wide
 * element types come first, so that every tensor is aligned to its element; within a type the given order stays.
 * `metadata` pairs (key, value, ..., NULL) may be NULL. */
sl_status sl_safetensors_write(const char *path, const sl_tensor *tensors, int n_tensor, const char *const *metadata);

/* Makes elements first to first + count - 1 of one of the tensors, in its element type. */
typedef sl_status (*sl_tensor_maker)(void *user, const sl_tensor *tensor, int64_t first, int64_t count, void *out);

/* The same for tensors whose data is made while it is written, so that files larger than memory can be: `data` is not
 * looked at; `make` is called for pieces of about a megabyte, tensor after tensor, each from its first element on. A
 * failure of `make` is passed on, and nothing is left behind. */
sl_status sl_safetensors_write_made(const char *path, const sl_tensor *tensors, int n_tensor,
                                    const char *const *metadata, sl_tensor_maker make, void *user);

#endif
