/* Counter-based random numbers. The finaliser is SplitMix64's (Steele, Lea, Flood: Fast splittable pseudorandom number
 * generators, OOPSLA 2014): seed and stream make a key, and value i is the i-th output of SplitMix64 from that key. */
#include "base/rng.h"

#include <math.h>

#define GOLDEN_GAMMA 0x9E3779B97F4A7C15u

static uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

static double unit_interval(uint64_t bits) { return (double)(bits >> 11) * 0x1p-53; }

uint64_t sl_rng_u64(uint64_t seed, uint64_t stream, uint64_t index) {
  /* Mixed one after the other, so that (seed, stream) and (stream, seed) differ and neighbours share nothing. */
  uint64_t key = mix(mix(seed + GOLDEN_GAMMA) + (stream + 1) * GOLDEN_GAMMA);
  return mix(key + (index + 1) * GOLDEN_GAMMA);
}

double sl_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  return unit_interval(sl_rng_u64(seed, stream, index));
}

double sl_rng_normal(uint64_t seed, uint64_t stream, uint64_t index) {
  uint64_t bits = sl_rng_u64(seed, stream, index);
  double radius_draw = 1.0 - unit_interval(bits); /* in (0, 1], so the logarithm is finite */
  double angle_draw = unit_interval(mix(bits + GOLDEN_GAMMA));
  return sqrt(-2.0 * log(radius_draw)) * cos(6.283185307179586 * angle_draw);
}
