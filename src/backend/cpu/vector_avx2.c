/* Row kernels for processors with AVX2, FMA and F16C. */
#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define VECTOR_TABLE sl_vector_avx2
#define VECTOR_NAME "AVX2"
#define ROWS 3
#define HALF_TO_FLOAT(out, in)                                                                             \
  do {                                                                                                     \
    for (int j_ = 0; j_ < 32; j_ += 8) {                                                                   \
      _mm256_storeu_ps((out) + j_, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)((in) + 2 * j_)))); \
    }                                                                                                      \
  } while (0)
#include "backend/cpu/vector_body.h"

#endif
