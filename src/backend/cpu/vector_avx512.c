/* Row kernels for processors with AVX-512. */
#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")))
#define VECTOR_TABLE sl_vector_avx512
#define VECTOR_NAME "AVX-512"
#define ROWS 12
#define HALF_TO_FLOAT(out, in)                                                                   \
  do {                                                                                           \
    _mm512_storeu_ps(out, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(in)))); \
    _mm512_storeu_ps((out) + 16, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)((in) + 32)))); \
  } while (0)
#include "backend/cpu/vector_body.h"

#endif
