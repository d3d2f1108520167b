/* The cpu backend: looks at the processor once when it is opened, and names its ops.
 *
 * bf16 modes run on AMX tiles where the processor has them and the kernel grants them, else on f32 vectors with the
 * operands rounded to bf16; f32 runs on vectors. */
#include "backend/cpu/cpu.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#include "backend/cpu/product.h"
#include "backend/cpu/vector.h"

const sl_vector *sl_vector_select(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    return &sl_vector_avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &sl_vector_avx2;
#endif
  return &sl_vector_plain;
}

static void open_backend(sl_backend *backend) {
  backend->amx = sl_amx_available();
  backend->vector = sl_vector_select();
}

static const char *describe(const sl_backend *backend, sl_compute compute) {
  const sl_vector *vector = backend->vector;
  bool avx512 = vector->name[3] == '-', avx2 = vector->name[3] == '2';
  switch (compute) {
    case SL_COMPUTE_F32: return avx512 ? "AVX-512 f32" : avx2 ? "AVX2 f32" : "plain C f32";
    case SL_COMPUTE_BF16X2:
      if (backend->amx) return "AMX bf16 tiles, operands split hi + lo";
      return avx512 ? "AVX-512 f32 on bf16 hi + lo" : avx2 ? "AVX2 f32 on bf16 hi + lo" : "plain C f32 on bf16 hi + lo";
    case SL_COMPUTE_BF16:
      if (backend->amx) return "AMX bf16 tiles";
      return avx512 ? "AVX-512 f32 on bf16 values" : avx2 ? "AVX2 f32 on bf16 values" : "plain C f32 on bf16 values";
    case SL_COMPUTE_COUNT: break;
  }
  return "unknown";
}

static sl_compute default_compute(const sl_backend *backend) {
  return backend->amx ? SL_COMPUTE_BF16X2 : SL_COMPUTE_F32;
}

int sl_cpu_processors(void) {
#ifdef _OPENMP
  return omp_get_num_procs();
#else
  return 1;
#endif
}

int sl_cpu_thread(void) {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

/* Waking a team costs some microseconds, about 100 000 multiply-adds on vectors. */
int sl_cpu_threads(const sl_queue *queue, double work) { return work < 2e5 ? 1 : queue->n_thread; }

size_t sl_cpu_scratch_bytes(const sl_queue *queue) { return queue->share_bytes; }

void *sl_cpu_scratch(const sl_queue *queue, int index) {
  assert(index >= 0 && index < queue->n_thread);
  return queue->scratch + queue->shared_bytes + (size_t)index * queue->share_bytes;
}

void *sl_cpu_shared(const sl_queue *queue, size_t n_bytes) {
  bool fits = n_bytes <= queue->shared_bytes;
  assert(fits && "sl_queue_reserve was not told of a product this large");
  return fits ? queue->scratch : NULL;
}

/* A share is large enough for whichever op runs: products need a fixed size, attention grows with the keys. Heads are
 * at most 256 wide, or the whole width where that is less. */
static bool scratch_bytes(const sl_queue *queue, int max_rows, int max_width, int max_key, size_t *shared, size_t *share) {
  size_t most = sl_f32_scratch_bytes(), attend = 0;
  *shared = queue->backend->amx ? sl_amx_rows_bytes(max_rows, max_width) : 0;
  if (queue->backend->amx && sl_amx_scratch_bytes() > most) most = sl_amx_scratch_bytes();
  if (!sl_attend_shared_scratch_bytes(max_width < 256 ? max_width : 256, max_key, &attend)) return false;
  if (attend > most) most = attend;
  if (!sl_attend_scratch_bytes(max_width < 256 ? max_width : 256, max_key, &attend)) return false;
  if (attend > most) most = attend;
  /* Shares start on different cache sets: 4 KB and a line apart from a power of two. */
  if (!sl_size_add(most, 4096 + 64 + 63, share)) return false;
  *share = *share / 64 * 64;
  return true;
}

static const sl_ops ops = {
    .linear = sl_cpu_linear,
    .linear_dx = sl_cpu_linear_dx,
    .embed = sl_cpu_embed,
    .norm = sl_cpu_norm,
    .norm_dx = sl_cpu_norm_dx,
    .act = sl_cpu_act,
    .act_dx = sl_cpu_act_dx,
    .gate = sl_cpu_gate,
    .gate_dx = sl_cpu_gate_dx,
    .rope = sl_cpu_rope,
    .log_n = sl_cpu_log_n,
    .attend = sl_cpu_attend,
    .attend_dx = sl_cpu_attend_dx,
    .attend_shared = sl_cpu_attend_shared,
    .add = sl_cpu_add,
    .multiply = sl_cpu_multiply,
    .scale = sl_cpu_scale,
    .zero = sl_cpu_zero,
    .copy = sl_cpu_copy,
    .gather_rows = sl_cpu_gather_rows,
    .scatter_rows = sl_cpu_scatter_rows,
    .cam = sl_cpu_cam,
};

const sl_kind sl_kind_cpu = {.name = "cpu",
                             .ops = &ops,
                             .open = open_backend,
                             .describe = describe,
                             .default_compute = default_compute,
                             .pack = sl_cpu_pack,
                             .scratch = scratch_bytes};
