/* Inside of the reader of weight files, shared by its sources only. */
#ifndef SL_TENSOR_SAFETENSORS_FILE_H
#define SL_TENSOR_SAFETENSORS_FILE_H

#include "tensor/safetensors.h"

#define SL_SAFETENSORS_MAX_HEADER 100000000u /* the official reader's limit, bytes */

/* Names in messages are cut here: a file can make them megabytes long. */
#define SL_NAME_FORMAT "\"%.200s\""

/* One file's content, mapped or borrowed. */
typedef struct sl_shard {
  char *path;
  const unsigned char *bytes;
  size_t n_bytes;
  bool mapped;   /* ours to unmap */
  void **copies; /* tensors that do not lie row by row in a PyTorch file */
  int n_copy;
} sl_shard;

struct sl_safetensors {
  sl_shard *shards;
  int n_shard;
  sl_tensor *tensors; /* names owned */
  int *shard_of;
  int n_tensor;
  const sl_tensor **by_name; /* sorted */
};

/* Checks a file's header and gives its tensors in the order of their data, as a new array with new names. */
sl_status sl_shard_read_header(const sl_shard *shard, sl_tensor **tensors, int *n_tensor);

/* The same for a PyTorch file (torch_file.c); may add to the shard's copies. */
sl_status sl_shard_read_torch(sl_shard *shard, sl_tensor **tensors, int *n_tensor);

/* Frees such an array. */
void sl_shard_free_tensors(sl_tensor *tensors, int n_tensor);

#endif
