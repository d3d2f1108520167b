/* libFuzzer target: any bytes as a safetensors file. What opens must be readable to its last byte and found by name. */
#include <stdlib.h>
#include <string.h>

#include "tensor/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes) {
  sl_safetensors *file;
  if (sl_safetensors_parse(&file, bytes, n_bytes, "fuzz.safetensors") != SL_OK) {
    if (file || !strstr(sl_error_message(), "fuzz.safetensors")) abort();
    return 0;
  }
  volatile uint8_t sink = 0;
  size_t total = 0;
  for (int i = 0; i < sl_safetensors_count(file); i++) {
    const sl_tensor *tensor = sl_safetensors_at(file, i);
    const uint8_t *data = tensor->data;
    size_t n_data = (size_t)sl_tensor_count(tensor) * sl_dtype_size(tensor->dtype);
    for (size_t j = 0; j < n_data; j++) sink ^= data[j];
    if (sl_safetensors_find(file, tensor->name) != tensor) abort();
    total += n_data;
  }
  (void)sink;
  if (total > n_bytes) abort();
  sl_safetensors_close(file);
  return 0;
}
