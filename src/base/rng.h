/* Counter-based random numbers: the value depends on (seed, stream, index) alone, so mask j or noisy picture j is the
 * same whatever batch, thread or machine draws it. SplitMix64 finaliser over the mixed counter; Box-Muller normals. */
#ifndef SL_BASE_RNG_H
#define SL_BASE_RNG_H

#include <stdint.h>

uint64_t sl_rng_u64(uint64_t seed, uint64_t stream, uint64_t index);

/* Uniform in [0, 1), 53 bits. */
double sl_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index);

/* Standard normal. */
double sl_rng_normal(uint64_t seed, uint64_t stream, uint64_t index);

#endif
