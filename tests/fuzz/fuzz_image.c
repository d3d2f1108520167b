/* Any bytes as a picture file: a picture or an error naming it. Built with a smaller pixel limit (sl_fuzzer passes it),
 * or by hand:
 * clang -fsanitize=fuzzer,address,undefined -DSL_IMAGE_MAX_PX=1000000 ... tests/fuzz/fuzz_image.c src/input/image*.c
 * ... */
#include <stdlib.h>
#include <string.h>

#include "input/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  sl_rgb image;
  if (sl_rgb_decode(&image, data, size, "fuzz", true) == SL_OK) {
    /* All of the picture can be read. */
    volatile uint8_t sink = 0;
    for (size_t i = 0; i < (size_t)image.width_px * (size_t)image.height_px * 3; i += 64) sink ^= image.data[i];
  } else if (image.data != NULL || strstr(sl_error_message(), "fuzz") == NULL) {
    abort();
  }
  sl_rgb_dispose(&image);
  return 0;
}
