/* AMX tiles: the compiler target and the one tile configuration used here, eight tiles of 16 rows of 64 bytes.
 * For x86-64 on Linux only; whoever runs these functions has seen sl_amx_available() say true.
 * Source: Intel 64 Software Developer's Manual, volume 1, chapter 18. */
#ifndef SL_BACKEND_CPU_AMX_H
#define SL_BACKEND_CPU_AMX_H

#include <immintrin.h>
#include <stdint.h>

#define AMX __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define AMX_INLINE AMX __attribute__((always_inline)) static inline

typedef struct tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t n_row[16];
} tile_config;

/* Inline assembly with the whole structure as operand: gcc 12's _tile_loadconfig may lose the stores into it. */
AMX_INLINE void configure_tiles(void) {
  tile_config config = {.palette = 1};
  for (int i = 0; i < 8; i++) {
    config.row_bytes[i] = 64;
    config.n_row[i] = 16;
  }
  __asm__ volatile("ldtilecfg %0" ::"m"(config));
}

/* The tile intrinsics do not tell the compiler that they touch memory. */
#define MEMORY_FENCE() __asm__ volatile("" ::: "memory")

#endif
