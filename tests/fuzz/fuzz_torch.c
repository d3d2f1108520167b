/* libFuzzer target: any bytes as a PyTorch file, or (what does not begin with the letters of a ZIP archive) as the
 * pickle of one. What opens must be readable to its last byte and found by name; what a pickle holds must be
 * well-formed. */
#include <stdlib.h>
#include <string.h>

#include "tensor/torch_internal.h"

#define MAX_READ ((size_t)1 << 22) /* bytes: many tensors may share a storage */

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static void read_file(const uint8_t *bytes, size_t n_bytes) {
  sl_safetensors *file;
  if (sl_safetensors_parse(&file, bytes, n_bytes, "fuzz.bin") != SL_OK) {
    if (file || !strstr(sl_error_message(), "fuzz.bin")) abort();
    return;
  }
  volatile uint8_t sink = 0;
  size_t n_read = 0;
  for (int i = 0; i < sl_safetensors_count(file); i++) {
    const sl_tensor *tensor = sl_safetensors_at(file, i);
    const uint8_t *data = tensor->data;
    const size_t n_data = (size_t)sl_tensor_count(tensor) * sl_dtype_size(tensor->dtype);
    for (size_t j = 0; j < n_data && n_read < MAX_READ; j++, n_read++) sink ^= data[j];
    if (n_data) sink ^= data[n_data - 1];
    if (sl_safetensors_find(file, tensor->name) != tensor) abort();
  }
  (void)sink;
  sl_safetensors_close(file);
}

/* The parts that the reader of tensors relies on. */
static void check_node(const sl_pickle_value *value) {
  const sl_pickle_value *items = value->node->items;
  if (value->kind == SL_PICKLE_DICT && value->node->n_item % 2) abort();
  if (value->kind == SL_PICKLE_TENSOR && (value->node->n_item != 5 || items[0].kind != SL_PICKLE_STORAGE)) abort();
  if (value->kind == SL_PICKLE_STORAGE && (value->node->n_item != 5 || items[1].kind != SL_PICKLE_GLOBAL)) abort();
}

static void read_pickle(const uint8_t *bytes, size_t n_bytes) {
  sl_pickle pickle;
  if (sl_pickle_load(&pickle, "fuzz.pkl", bytes, n_bytes) != SL_OK) {
    if (!strstr(sl_error_message(), "fuzz.pkl")) abort();
    return;
  }
  for (const sl_pickle_node *node = pickle.nodes; node; node = node->next)
    for (size_t i = 0; i < node->n_item; i++)
      if (node->items[i].kind >= SL_PICKLE_TUPLE) check_node(&node->items[i]);
  sl_pickle_dispose(&pickle);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes) {
  if (n_bytes >= 2 && memcmp(bytes, "PK", 2) == 0) read_file(bytes, n_bytes);
  else read_pickle(bytes, n_bytes);
  return 0;
}
