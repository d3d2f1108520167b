/* Opening backends by name, and what every kind shares: buffers, queues and the life of packed weights.
 *
 * Method: a table of kinds; a kind brings its ops and packs its own weights. Memory is the host's for both kinds. */
#include "backend/backend.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "backend/kind.h"

static const sl_kind *const kinds[] = {&sl_kind_cpu, &sl_kind_ref};

const char *sl_compute_name(sl_compute compute) {
  switch (compute) {
    case SL_COMPUTE_F32: return "f32";
    case SL_COMPUTE_BF16X2: return "bf16x2";
    case SL_COMPUTE_BF16: return "bf16";
    case SL_COMPUTE_COUNT: break;
  }
  return "unknown";
}

sl_status sl_aligned_alloc(void **out, size_t n_bytes, const char *what) {
  *out = NULL;
  /* Through sl_alloc first would double the peak; the one-byte probe keeps the fault injection of tests working. */
  void *probe = NULL;
  SL_TRY(sl_alloc(&probe, 1, 1, what));
  free(probe);
  size_t rounded;
  if (!sl_size_add(n_bytes, 64, &rounded)) SL_FAIL(SL_ERROR_MEMORY, "%s: %zu bytes are too many", what, n_bytes);
  rounded &= ~(size_t)63;
  const size_t machine = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
  if (rounded > machine) /* zeroing it would end the process instead of giving an error */
    SL_FAIL(SL_ERROR_MEMORY, "%s: %.1f GB are needed; this machine has %.1f GB of memory", what, (double)rounded / 1e9,
            (double)machine / 1e9);
  /* Huge pages where they pay: weights and activations are walked with large strides. */
  size_t align = rounded >= ((size_t)1 << 20) ? (size_t)2 << 20 : 64;
  if (posix_memalign(out, align, rounded) != 0) {
    *out = NULL;
    SL_FAIL(SL_ERROR_MEMORY, "%s: cannot allocate %zu bytes", what, n_bytes);
  }
#ifdef MADV_HUGEPAGE
  if (align > 64) madvise(*out, rounded, MADV_HUGEPAGE); /* a wish; refusal costs only speed */
#endif
  memset(*out, 0, rounded);
  return SL_OK;
}

sl_status sl_backend_open(sl_backend **out, const char *name) {
  *out = NULL;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (strcmp(kinds[i]->name, name) != 0) continue;
    sl_backend *backend = NULL;
    SL_TRY(SL_ALLOC(backend, 1, "backend"));
    backend->kind = kinds[i];
    if (backend->kind->open) backend->kind->open(backend);
    *out = backend;
    return SL_OK;
  }
  SL_FAIL(SL_ERROR_ARGUMENT, "unknown device \"%s\"; there are: cpu, ref", name);
}

void sl_backend_close(sl_backend *backend) { free(backend); }
const char *sl_backend_name(const sl_backend *backend) { return backend->kind->name; }
const char *sl_backend_describe(const sl_backend *backend, sl_compute compute) {
  return backend->kind->describe(backend, compute);
}
sl_compute sl_backend_default_compute(const sl_backend *backend) { return backend->kind->default_compute(backend); }

static int count_processors(void) {
#ifdef _OPENMP
  return omp_get_num_procs();
#else
  return 1;
#endif
}

sl_status sl_queue_new(sl_queue **out, const sl_backend *backend, int n_thread) {
  *out = NULL;
  if (n_thread < 0 || n_thread > 1024) SL_FAIL(SL_ERROR_ARGUMENT, "threads: %d is not in 0..1024", n_thread);
  sl_queue *queue = NULL;
  SL_TRY(SL_ALLOC(queue, 1, "queue"));
  queue->backend = backend;
  queue->n_thread = n_thread > 0 ? n_thread : count_processors();
  sl_status status = sl_queue_reserve(queue, 0, 0, 0);
  if (status != SL_OK) {
    free(queue);
    return status;
  }
  *out = queue;
  return SL_OK;
}

void sl_queue_free(sl_queue *queue) {
  if (!queue) return;
  free(queue->scratch);
  free(queue);
}

int sl_queue_threads(const sl_queue *queue) { return queue->n_thread; }
const sl_ops *sl_queue_ops(const sl_queue *queue) { return queue->backend->kind->ops; }


sl_status sl_queue_reserve(sl_queue *queue, int max_rows, int max_width, int max_key) {
  if (max_rows < 0 || max_width < 0 || max_key < 0) {
    SL_FAIL(SL_ERROR_ARGUMENT, "scratch for %d rows, width %d, %d keys: sizes cannot be negative", max_rows, max_width,
            max_key);
  }
  size_t shared = 0, share = 0, n_bytes = 0;
  if (!queue->backend->kind->scratch(queue, max_rows, max_width, max_key, &shared, &share))
    SL_FAIL(SL_ERROR_MEMORY, "scratch for %d rows, width %d, %d keys is too large", max_rows, max_width, max_key);
  if (shared < queue->shared_bytes) shared = queue->shared_bytes;
  if (share < queue->share_bytes) share = queue->share_bytes;
  if (shared == queue->shared_bytes && share == queue->share_bytes) return SL_OK;
  if (!sl_size_mul(share, (size_t)queue->n_thread, &n_bytes) || !sl_size_add(n_bytes, shared, &n_bytes))
    SL_FAIL(SL_ERROR_MEMORY, "scratch for %d rows, width %d, %d keys is too large", max_rows, max_width, max_key);
  void *scratch = NULL;
  SL_TRY(sl_aligned_alloc(&scratch, n_bytes, "scratch"));
  free(queue->scratch);
  queue->scratch = scratch;
  queue->shared_bytes = shared;
  queue->share_bytes = share;
  return SL_OK;
}

sl_status sl_buffer_new(sl_buffer **out, const sl_backend *backend, size_t n_bytes, const char *what) {
  (void)backend;
  *out = NULL;
  sl_buffer *buffer = NULL;
  SL_TRY(SL_ALLOC(buffer, 1, what));
  sl_status status = sl_aligned_alloc((void **)&buffer->data, n_bytes, what);
  if (status != SL_OK) {
    free(buffer);
    return status;
  }
  buffer->n_bytes = n_bytes;
  *out = buffer;
  return SL_OK;
}

void sl_buffer_free(sl_buffer *buffer) {
  if (!buffer) return;
  free(buffer->data);
  free(buffer);
}

size_t sl_buffer_bytes(const sl_buffer *buffer) { return buffer->n_bytes; }

void sl_buffer_write(sl_queue *queue, sl_buffer *buffer, size_t offset, const void *data, size_t n_bytes) {
  (void)queue;
  assert(offset <= buffer->n_bytes && n_bytes <= buffer->n_bytes - offset);
  if (n_bytes) memcpy(buffer->data + offset, data, n_bytes);
}

void sl_buffer_read(sl_queue *queue, void *data, const sl_buffer *buffer, size_t offset, size_t n_bytes) {
  (void)queue;
  assert(offset <= buffer->n_bytes && n_bytes <= buffer->n_bytes - offset);
  if (n_bytes) memcpy(data, buffer->data + offset, n_bytes);
}

/* The narrowest storage that keeps what the mode promises. */
static sl_dtype storage_dtype(sl_compute compute, const sl_tensor *parts, int n_part) {
  if (compute == SL_COMPUTE_BF16) return SL_BF16;
  for (int i = 1; i < n_part; i++) {
    if (parts[i].dtype != parts[0].dtype) return SL_F32;
  }
  return parts[0].dtype;
}

static sl_status check_parts(const sl_tensor *parts, int n_part, int *n, int *k) {
  int64_t rows = 0;
  if (n_part < 1) SL_FAIL(SL_ERROR_ARGUMENT, "a weight needs at least one part");
  for (int i = 0; i < n_part; i++) {
    const sl_tensor *t = &parts[i];
    const char *name = t->name ? t->name : "weight";
    if (t->dtype != SL_F32 && t->dtype != SL_F16 && t->dtype != SL_BF16) {
      SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: weights must be F32, F16 or BF16, found %s", name, sl_dtype_name(t->dtype));
    }
    if (t->n_dim != 2) SL_FAIL(SL_ERROR_FORMAT, "%s: expected 2 dimensions, found %d", name, t->n_dim);
    if (t->shape[0] < 1 || t->shape[1] < 1 || t->shape[0] > (1 << 28) || t->shape[1] > (1 << 28)) {
      SL_FAIL(SL_ERROR_FORMAT, "%s: shape [%lld, %lld] is out of range", name, (long long)t->shape[0],
              (long long)t->shape[1]);
    }
    if (t->shape[1] != parts[0].shape[1]) {
      SL_FAIL(SL_ERROR_FORMAT, "%s: expected %lld columns as in the part before, found %lld", name,
              (long long)parts[0].shape[1], (long long)t->shape[1]);
    }
    rows += t->shape[0];
    if (rows > (1 << 28)) SL_FAIL(SL_ERROR_FORMAT, "%s: more than 2^28 stacked rows", name);
  }
  *n = (int)rows;
  *k = (int)parts[0].shape[1];
  return SL_OK;
}

sl_status sl_weight_new(sl_weight **out, const sl_backend *backend, sl_compute compute, const sl_tensor *parts,
                        int n_part) {
  *out = NULL;
  int n = 0, k = 0;
  SL_TRY(check_parts(parts, n_part, &n, &k));
  sl_weight *weight = NULL;
  SL_TRY(SL_ALLOC(weight, 1, "weight"));
  weight->backend = backend;
  weight->compute = compute;
  weight->dtype = storage_dtype(compute, parts, n_part);
  weight->n = n;
  weight->k = k;
  atomic_init(&weight->n_owner, 1);
  sl_status status = backend->kind->pack(weight, parts, n_part);
  if (status != SL_OK) {
    free(weight);
    return status;
  }
  *out = weight;
  return SL_OK;
}

sl_weight *sl_weight_ref(sl_weight *weight) {
  atomic_fetch_add(&weight->n_owner, 1);
  return weight;
}

void sl_weight_free(sl_weight *weight) {
  if (!weight || atomic_fetch_sub(&weight->n_owner, 1) != 1) return;
  free(weight->data);
  free(weight);
}

int sl_weight_rows(const sl_weight *weight) { return weight->n; }
int sl_weight_cols(const sl_weight *weight) { return weight->k; }
size_t sl_weight_bytes(const sl_weight *weight) { return weight->n_bytes; }
