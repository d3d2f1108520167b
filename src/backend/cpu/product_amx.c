/* The bf16 product on AMX tiles, one thread's share.
 *
 * Method: the rows' operand is rounded to bf16 (bf16x2: split into hi + lo) into row tiles, shared by all threads. Two
 * row tiles meet two column tiles in four accumulators, so each tile loaded serves two products. Three levels of
 * blocking: a slice of a weight's block (32 outputs x 512 deep, 32 KB) stays in L1 while the row tiles pass it as
 * streaming loads; the sums of SUPER rows x GROUP blocks and the row tiles of one slice stay in L2; the next slices are
 * prefetched. For the gradient the weight's blocks are transposed in 64-bit atoms into L1; f16 and f32 weights are
 * split to hi + lo there.
 *
 * Order of sums, for every output: one chain of tile products from zero, 32 inputs at a time in ascending order
 * (bf16x2: lo hi, hi lo, hi hi within each); sums wait in f32 between slices, which is exact; bias and the old output
 * come last. Nothing depends on the number of rows or on the thread: row t of the result is the same bits whatever T.
 *
 * Source: Intel 64 Software Developer's Manual, TDPBF16PS and TILELOADDT1; Goto and van de Geijn, "Anatomy of
 * high-performance matrix multiplication" (2008). */
#include "backend/cpu/product.h"

#if defined(__x86_64__) && defined(__linux__)

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backend/cpu/amx.h"

enum {
  TILE = 1024,       /* bytes of a bf16 tile */
  PAIR = 2 * TILE,   /* of a block */
  SLICE = 16,        /* tiles deep in one plane; half of it with two */
  SLICE_BYTES = SLICE * PAIR,
  SUPER = 320,       /* rows */
  GROUP = 16,        /* blocks */
  SUMS = 4 * 256     /* of two row tiles by two column tiles */
};

typedef struct amx_scratch {
  _Alignas(64) unsigned char columns[2][SLICE_BYTES]; /* right operand when it is not the weight itself: hi, lo */
  _Alignas(64) float sums[GROUP * (SUPER / 32) * SUMS];
} amx_scratch;

size_t sl_amx_scratch_bytes(void) { return sizeof(amx_scratch); }

bool sl_amx_available(void) {
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
  __builtin_cpu_init();
  unsigned a, b, c, d;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq")) {
    return false;
  }
  __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "0"(7), "2"(0));
  bool tiles = (d >> 22 & 1) && (d >> 24 & 1); /* AMX-BF16, AMX-TILE */
  __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "0"(7), "2"(1));
  bool rounding = a >> 5 & 1; /* AVX512_BF16 */
  return tiles && rounding && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* What to bring to L2 while the tiles work: n_line lines, `per_step` of them a step; after every run of 32 (one block
 * of a bf16 weight) `skip` bytes are left out. */
typedef struct prefetch {
  const unsigned char *at;
  int64_t skip;
  int n_line, per_step;
} prefetch;

AMX_INLINE void prefetch_step(prefetch *p) {
  if (p->n_line <= 0) return;
  for (int i = 0; i < p->per_step; i++, p->at += 64) _mm_prefetch((const char *)p->at, _MM_HINT_T1);
  p->n_line -= p->per_step;
  if (p->n_line % 32 == 0) p->at += p->skip;
}

/* A run of tile products over `n_step` depths of 32: two row tiles a0, a1 (lo plane `lo_a` bytes after hi), blocks b.
 * */
typedef struct run {
  const unsigned char *a0, *a1, *b;
  size_t lo_a, lo_b; /* 0: no such plane */
  int n_step;
} run;

/* Row tiles are streamed (TILELOADDT1), so that the slice of the weight stays in L1. */
AMX_INLINE void run_plain(const run *r, prefetch p[2], bool two_rows) {
  const unsigned char *a0 = r->a0, *a1 = r->a1, *b = r->b;
  for (int i = 0; i < r->n_step; i++, a0 += TILE, a1 += TILE, b += PAIR) {
    _tile_loadd(4, b, 64);
    _tile_stream_loadd(6, a0, 64);
    _tile_loadd(5, b + TILE, 64);
    if (two_rows) _tile_stream_loadd(7, a1, 64);
    _tile_dpbf16ps(0, 6, 4);
    _tile_dpbf16ps(1, 6, 5);
    if (two_rows) {
      _tile_dpbf16ps(2, 7, 4);
      _tile_dpbf16ps(3, 7, 5);
    }
    prefetch_step(&p[0]);
    prefetch_step(&p[1]);
  }
}

/* All products of the row tiles in 6, 7 with the column tiles in 4, 5. */
#define MULTIPLY_ALL()       \
  do {                       \
    _tile_dpbf16ps(0, 6, 4); \
    _tile_dpbf16ps(1, 6, 5); \
    if (two_rows) {          \
      _tile_dpbf16ps(2, 7, 4); \
      _tile_dpbf16ps(3, 7, 5); \
    }                        \
  } while (0)

/* bf16x2: x = hi + lo; with a lo plane of the weight, lo hi + hi lo + hi hi. */
AMX_INLINE void run_split(const run *r, prefetch p[2], bool two_rows) {
  const unsigned char *a0 = r->a0, *a1 = r->a1, *b = r->b;
  for (int i = 0; i < r->n_step; i++, a0 += TILE, a1 += TILE, b += PAIR) {
    _tile_loadd(4, b, 64);
    _tile_loadd(5, b + TILE, 64);
    _tile_stream_loadd(6, a0 + r->lo_a, 64);
    if (two_rows) _tile_stream_loadd(7, a1 + r->lo_a, 64);
    MULTIPLY_ALL();
    _tile_stream_loadd(6, a0, 64);
    if (two_rows) _tile_stream_loadd(7, a1, 64);
    if (r->lo_b) {
      _tile_loadd(4, b + r->lo_b, 64);
      _tile_loadd(5, b + r->lo_b + TILE, 64);
      MULTIPLY_ALL();
      _tile_loadd(4, b, 64);
      _tile_loadd(5, b + TILE, 64);
    }
    MULTIPLY_ALL();
    prefetch_step(&p[0]);
    prefetch_step(&p[1]);
  }
}

AMX_INLINE void run_steps(const run *r, prefetch p[2], bool two_rows) {
  if (r->lo_a) {
    run_split(r, p, two_rows);
  } else {
    run_plain(r, p, two_rows);
  }
}

/* bf16 of v - hi, for 32 values whose roundings are in `hi`. */
AMX_INLINE __m512i low_parts(__m512 v0, __m512 v1, __m512i hi) {
  __m512 h0 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(hi)), 16));
  __m512 h1 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(hi, 1)), 16));
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_sub_ps(v1, h1), _mm512_sub_ps(v0, h0));
}

/* Where tiles of a chunk of rows lie: slice after slice; in a slice plane after plane, row tile after row tile, each
 * n_step tiles deep. */
typedef struct chunk {
  unsigned char *tiles;
  int row, rows, n_row_tile; /* an even number of row tiles unless one does */
  int n_depth, slice;        /* tiles along the inputs, in all and per slice */
  int n_plane;
} chunk;

static chunk chunk_at(const sl_product *p, void *shared, int row, int rows) {
  chunk c = {.tiles = shared, .row = row, .rows = rows, .n_depth = sl_blocks(sl_product_inputs(p))};
  c.n_row_tile = rows <= 16 ? 1 : sl_blocks(rows) * 2;
  c.n_plane = p->w->compute == SL_COMPUTE_BF16X2 ? 2 : 1;
  c.slice = SLICE / c.n_plane;
  return c;
}
static int slice_depth(const chunk *c, int first) {
  return c->n_depth - first < c->slice ? c->n_depth - first : c->slice;
}
static unsigned char *slice_tiles(const chunk *c, int first) {
  return c->tiles + (size_t)first * (size_t)c->n_row_tile * (size_t)c->n_plane * TILE;
}
static size_t slice_plane(const chunk *c, int first) {
  return c->n_plane == 1 ? 0 : (size_t)c->n_row_tile * (size_t)slice_depth(c, first) * TILE;
}

size_t sl_amx_rows_bytes(int rows, int width) {
  size_t padded = (size_t)sl_blocks(rows < SL_AMX_CHUNK ? rows : SL_AMX_CHUNK) * 32;
  return padded * (size_t)sl_blocks(width) * 32 * 2 * sizeof(uint16_t);
}

int sl_amx_row_tiles(int rows) { return rows <= 16 ? 1 : sl_blocks(rows) * 2; }

/* Rounds the rows of one row tile; rows and depths beyond the matrix become zero. */
AMX void sl_amx_pack_rows(const sl_product *p, void *shared, int row, int rows, int row_tile) {
  chunk c = chunk_at(p, shared, row, rows);
  int n_in = sl_product_inputs(p);
  for (int i = 0; i < 16; i++) {
    int t = row_tile * 16 + i;
    const float *in = p->in + (int64_t)(row + t) * p->in_stride;
    for (int first = 0; first < c.n_depth; first += c.slice) {
      int n_step = slice_depth(&c, first);
      size_t lo = slice_plane(&c, first);
      unsigned char *out = slice_tiles(&c, first) + (size_t)row_tile * (size_t)n_step * TILE + (size_t)i * 64;
      for (int s = first; s < first + n_step; s++, out += TILE) {
        int left = t < rows ? n_in - s * 32 : 0;
        __mmask16 m0 = left >= 16 ? 0xffff : left > 0 ? (__mmask16)((1u << left) - 1) : 0;
        __mmask16 m1 = left >= 32 ? 0xffff : left > 16 ? (__mmask16)((1u << (left - 16)) - 1) : 0;
        __m512 v0 = _mm512_maskz_loadu_ps(m0, in + s * 32), v1 = _mm512_maskz_loadu_ps(m1, in + s * 32 + 16);
        __m512i hi = (__m512i)_mm512_cvtne2ps_pbh(v1, v0);
        _mm512_store_si512(out, hi);
        if (lo) _mm512_store_si512(out + lo, low_parts(v0, v1, hi));
      }
    }
  }
}

/* One block of f16 or f32 as a bf16 hi block and a lo block, in the same element order. */
AMX_INLINE void split_block(unsigned char *hi, unsigned char *lo, const unsigned char *block, sl_dtype dtype) {
  for (int i = 0; i < 32; i++) {
    __m512 v0, v1;
    if (dtype == SL_F16) {
      v0 = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(block + i * 64)));
      v1 = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(block + i * 64 + 32)));
    } else {
      v0 = _mm512_load_ps(block + i * 128);
      v1 = _mm512_load_ps(block + i * 128 + 64);
    }
    __m512i h = (__m512i)_mm512_cvtne2ps_pbh(v1, v0);
    _mm512_store_si512(hi + i * 64, h);
    _mm512_store_si512(lo + i * 64, low_parts(v0, v1, h));
  }
}

/* Eight rows of eight 64-bit atoms (2 k x 2 n), transposed, each atom's middle halves swapped: [k][n][2 k] becomes
 * [n][k][2 n]. */
AMX_INLINE void transpose_atoms(unsigned char *out, const unsigned char *in) {
  const __m512i swap = _mm512_set4_epi32(0x0f0e0b0a, 0x0d0c0908, 0x07060302, 0x05040100);
  __m512i r[8], s[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) r[i] = _mm512_load_si512(in + i * 64);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    s[i] = _mm512_unpacklo_epi64(r[i], r[i + 1]);
    s[i + 1] = _mm512_unpackhi_epi64(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++) { /* i: even or odd atoms of the source rows */
    __m512i a = _mm512_shuffle_i64x2(s[i], s[2 + i], 0x88), b = _mm512_shuffle_i64x2(s[4 + i], s[6 + i], 0x88);
    __m512i c = _mm512_shuffle_i64x2(s[i], s[2 + i], 0xdd), d = _mm512_shuffle_i64x2(s[4 + i], s[6 + i], 0xdd);
    r[i] = _mm512_shuffle_i64x2(a, b, 0x88);
    r[4 + i] = _mm512_shuffle_i64x2(a, b, 0xdd);
    r[2 + i] = _mm512_shuffle_i64x2(c, d, 0x88);
    r[6 + i] = _mm512_shuffle_i64x2(c, d, 0xdd);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) _mm512_store_si512(out + i * 64, _mm512_shuffle_epi8(r[i], swap));
}

AMX_INLINE void transpose_block(unsigned char *out, const unsigned char *in) {
  for (int half = 0; half < 2; half++) {     /* n 0-15, 16-31 */
    for (int part = 0; part < 2; part++) {   /* k 0-15, 16-31 */
      transpose_atoms(out + part * TILE + half * 512, in + half * TILE + part * 512);
    }
  }
}

/* The right operand of `n_step` depths from step `first` on for output block `block`: the weight itself, or a panel
 * made from it in s->columns (hi, then lo). */
AMX static const unsigned char *columns_of(const sl_product *p, amx_scratch *s, int block, int first, int n_step) {
  const sl_weight *w = p->w;
  if (!p->transposed && w->dtype == SL_BF16) return sl_weight_block(w, block, first);
  _Alignas(64) unsigned char planes[2][PAIR];
  for (int i = 0; i < n_step; i++) {
    int along = first + i;
    const unsigned char *in = p->transposed ? sl_weight_block(w, along, block) : sl_weight_block(w, block, along);
    unsigned char *hi = s->columns[0] + i * PAIR, *lo = s->columns[1] + i * PAIR;
    if (w->dtype == SL_BF16) {
      transpose_block(hi, in);
    } else if (p->transposed) {
      split_block(planes[0], planes[1], in, w->dtype);
      transpose_block(hi, planes[0]);
      transpose_block(lo, planes[1]);
    } else {
      split_block(hi, lo, in, w->dtype);
    }
  }
  return s->columns[0];
}

/* Writes 32 sums of one row (two runs of 16) to output block `block`: bias and, with `add`, the old output come last.
 * */
AMX_INLINE void write_row(const sl_product *p, int row, int block, const float *left_sums, const float *right_sums,
                          bool past_cache) {
  int left = sl_product_outputs(p) - block * 32;
  float *out = p->out + (int64_t)row * p->out_stride + block * 32;
  __m512 v0 = _mm512_load_ps(left_sums), v1 = _mm512_load_ps(right_sums);
  __mmask16 m0 = left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1);
  __mmask16 m1 = left >= 32 ? 0xffff : left > 16 ? (__mmask16)((1u << (left - 16)) - 1) : 0;
  if (p->bias) {
    v0 = _mm512_add_ps(v0, _mm512_maskz_loadu_ps(m0, p->bias + block * 32));
    v1 = _mm512_add_ps(v1, _mm512_maskz_loadu_ps(m1, p->bias + block * 32 + 16));
  }
  if (p->add) {
    v0 = _mm512_add_ps(v0, _mm512_maskz_loadu_ps(m0, out));
    v1 = _mm512_add_ps(v1, _mm512_maskz_loadu_ps(m1, out + 16));
  }
  if (past_cache && m1 == 0xffff && (uintptr_t)out % 64 == 0) {
    _mm512_stream_ps(out, v0);
    _mm512_stream_ps(out + 16, v1);
    return;
  }
  _mm512_mask_storeu_ps(out, m0, v0);
  _mm512_mask_storeu_ps(out + 16, m1, v1);
}

/* A power of two (at most 32) of lines that covers n_line within n_step steps. */
static int lines_per_step(int n_line, int n_step) {
  int per_step = 1;
  while (per_step < 32 && per_step * n_step < n_line) per_step *= 2;
  return per_step;
}

/* What to prefetch of the weight: the slice at depth `first` of a block, spread over n_step tile steps. */
static prefetch prefetch_weight(const sl_product *p, int block, int first, int depth, int n_step) {
  int size = p->w->dtype == SL_F32 ? 2 : 1;
  prefetch ahead = {.n_line = depth * 32 * size, .skip = 0};
  ahead.at = p->transposed ? sl_weight_block(p->w, first, block) : sl_weight_block(p->w, block, first);
  if (p->transposed) { /* of f32 blocks the first half only */
    ahead.skip = (int64_t)sl_weight_row_bytes(p->w) - PAIR;
    ahead.n_line = depth * 32;
  }
  ahead.per_step = lines_per_step(ahead.n_line, n_step);
  return ahead;
}

/* At most two row tiles: the sums stay in the tiles for the whole depth and the weight passes once. */
AMX static void multiply_few(const sl_product *p, const chunk *c, amx_scratch *s) {
  bool two_rows = c->n_row_tile > 1;
  for (int block = p->first_block; block < p->first_block + p->n_block; block++) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int first = 0; first < c->n_depth; first += c->slice) {
      run r = {.a0 = slice_tiles(c, first), .n_step = slice_depth(c, first), .lo_a = slice_plane(c, first)};
      r.a1 = r.a0 + (size_t)r.n_step * TILE;
      r.b = columns_of(p, s, block, first, r.n_step);
      r.lo_b = p->w->dtype == SL_BF16 ? 0 : SLICE_BYTES;
      bool last = first + c->slice >= c->n_depth, end = last && block + 1 == p->first_block + p->n_block;
      int next = last ? 0 : first + c->slice;
      prefetch ahead[2] = {{0}, {0}};
      if (!end) ahead[0] = prefetch_weight(p, block + last, next, slice_depth(c, next), r.n_step);
      MEMORY_FENCE();
      if (two_rows) {
        run_steps(&r, ahead, true);
      } else {
        run_steps(&r, ahead, false);
      }
    }
    _tile_stored(0, s->sums, 64);
    _tile_stored(1, s->sums + 256, 64);
    if (two_rows) {
      _tile_stored(2, s->sums + 512, 64);
      _tile_stored(3, s->sums + 768, 64);
    }
    MEMORY_FENCE();
    for (int i = 0; i < c->rows; i++) {
      const float *sums = s->sums + i / 16 * 512 + i % 16 * 16;
      write_row(p, c->row + i, block, sums, sums + 256, false);
    }
  }
}

/* One slice of one block past n_pair pairs of row tiles. Sums are stored and the next pair's loaded tile by tile, so
 * that they overlap with the products still under way. */
AMX static void multiply_slice(run r, prefetch p[2], int n_pair, float *sums, bool begin) {
  MEMORY_FENCE();
  for (int i = 0; i < n_pair; i++, sums += SUMS) {
    if (begin) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    } else if (i == 0) {
      _tile_stream_loadd(0, sums, 64);
      _tile_stream_loadd(1, sums + 256, 64);
      _tile_stream_loadd(2, sums + 512, 64);
      _tile_stream_loadd(3, sums + 768, 64);
    }
    run_steps(&r, p, true);
    r.a0 += (size_t)r.n_step * PAIR;
    r.a1 += (size_t)r.n_step * PAIR;
    const float *next = begin || i + 1 == n_pair ? sums : sums + SUMS; /* a load too many is harmless */
    _tile_stored(0, sums, 64);
    _tile_stream_loadd(0, next, 64);
    _tile_stored(1, sums + 256, 64);
    _tile_stream_loadd(1, next + 256, 64);
    _tile_stored(2, sums + 512, 64);
    _tile_stream_loadd(2, next + 512, 64);
    _tile_stored(3, sums + 768, 64);
    _tile_stream_loadd(3, next + 768, 64);
  }
  MEMORY_FENCE();
}

/* Sums of `rows` rows x n_block blocks to the output, row by row. */
AMX static void write_sums(const sl_product *p, const amx_scratch *s, int row, int rows, int block, int n_block) {
  int n_pair = sl_blocks(rows);
  bool past_cache = !p->add && (int64_t)p->rows * sl_product_outputs(p) > (2 << 20); /* it would not stay in L2 */
  for (int i = 0; i < rows; i++) {
    const float *sums = s->sums + (size_t)(i / 32) * SUMS + i % 32 / 16 * 512 + i % 16 * 16;
    for (int b = 0; b < n_block; b++, sums += (size_t)n_pair * SUMS) {
      write_row(p, row + i, block + b, sums, sums + 256, past_cache);
    }
  }
}

/* SUPER rows (from row tile `tile` of the chunk on) times a group of blocks. */
AMX static void multiply_group(const sl_product *p, const chunk *c, amx_scratch *s, int tile, int rows, int block,
                               int n_block) {
  int n_pair = sl_blocks(rows);
  for (int first = 0; first < c->n_depth; first += c->slice) {
    int n_step = slice_depth(c, first), next = first + c->slice < c->n_depth ? first + c->slice : 0;
    run r = {.a0 = slice_tiles(c, first) + (size_t)tile * (size_t)n_step * TILE, .n_step = n_step};
    r.a1 = r.a0 + (size_t)n_step * TILE;
    r.lo_a = slice_plane(c, first);
    r.lo_b = p->w->dtype == SL_BF16 ? 0 : SLICE_BYTES;
    /* The row tiles of the next slice, hi plane then lo, spread over the blocks of this one. */
    int next_step = slice_depth(c, next), plane_lines = n_pair * 2 * next_step * 16;
    prefetch ahead[2] = {{0}, {.n_line = plane_lines * c->n_plane}};
    ahead[1].at = slice_tiles(c, next) + (size_t)tile * (size_t)next_step * TILE;
    ahead[1].per_step = lines_per_step(ahead[1].n_line, n_block * n_pair * n_step);
    for (int b = 0; b < n_block; b++) {
      r.b = columns_of(p, s, block + b, first, n_step);
      bool last = b + 1 == n_block;
      ahead[0] = prefetch_weight(p, last ? block : block + b + 1, last ? next : first, last ? next_step : n_step,
                                 n_pair * n_step);
      multiply_slice(r, ahead, n_pair, s->sums + (size_t)b * (size_t)n_pair * SUMS, first == 0);
    }
  }
  write_sums(p, s, c->row + tile * 16, rows, block, n_block);
}

AMX void sl_amx_multiply(const sl_product *p, void *shared, int row, int rows, void *scratch) {
  chunk c = chunk_at(p, shared, row, rows);
  configure_tiles();
  if (c.n_row_tile <= 2) {
    multiply_few(p, &c, scratch);
  } else {
    int n_super = (rows + SUPER - 1) / SUPER;
    int n_group = (p->n_block + GROUP - 1) / GROUP, group = (p->n_block + n_group - 1) / n_group;
    int super = sl_blocks((rows + n_super - 1) / n_super) * 32;
    int end = p->first_block + p->n_block;
    for (int block = p->first_block; block < end; block += group) {
      int n_block = end - block < group ? end - block : group;
      for (int first = 0; first < rows; first += super) {
        multiply_group(p, &c, scratch, first / 16, rows - first < super ? rows - first : super, block, n_block);
      }
    }
  }
  _tile_release();
  _mm_sfence(); /* streaming stores before whoever reads next */
}

/* Two column tiles (or, at an odd end, one taken twice) by one or two row tiles. */
AMX_INLINE void small_tiles(const sl_amx_small *m, int i, int j, bool two_rows, bool two_columns) {
  const unsigned char *a0 = (const unsigned char *)m->a + (int64_t)i * 16 * m->lda, *a1 = a0 + 16 * m->lda;
  const unsigned char *b0 = (const unsigned char *)m->b + j * 64, *b1 = b0 + 64;
  float *c0 = m->c + (int64_t)i * 16 * m->ldc + j * 16, *c1 = c0 + 16 * m->ldc;
  if (m->add) {
    _tile_loadd(0, c0, m->ldc * 4);
    if (two_columns) _tile_loadd(1, c0 + 16, m->ldc * 4);
    if (two_rows) _tile_loadd(2, c1, m->ldc * 4);
    if (two_rows && two_columns) _tile_loadd(3, c1 + 16, m->ldc * 4);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int l = 0; l < m->k_tiles; l++, a0 += 64, a1 += 64, b0 += 16 * m->ldb, b1 += 16 * m->ldb) {
    _tile_loadd(4, b0, m->ldb);
    _tile_loadd(6, a0, m->lda);
    _tile_dpbf16ps(0, 6, 4);
    if (two_rows) {
      _tile_loadd(7, a1, m->lda);
      _tile_dpbf16ps(2, 7, 4);
    }
    if (two_columns) {
      _tile_loadd(5, b1, m->ldb);
      _tile_dpbf16ps(1, 6, 5);
      if (two_rows) _tile_dpbf16ps(3, 7, 5);
    }
  }
  _tile_stored(0, c0, m->ldc * 4);
  if (two_columns) _tile_stored(1, c0 + 16, m->ldc * 4);
  if (two_rows) _tile_stored(2, c1, m->ldc * 4);
  if (two_rows && two_columns) _tile_stored(3, c1 + 16, m->ldc * 4);
}

AMX void sl_amx_multiply_small(const sl_amx_small *m) {
  configure_tiles();
  MEMORY_FENCE();
  for (int j = 0; j < m->n_tiles; j += 2) {
    for (int i = 0; i < m->m_tiles; i += 2) {
      bool two_rows = i + 1 < m->m_tiles, two_columns = j + 1 < m->n_tiles;
      if (two_rows && two_columns) {
        small_tiles(m, i, j, true, true);
      } else {
        small_tiles(m, i, j, two_rows, two_columns);
      }
    }
  }
  MEMORY_FENCE();
  _tile_release();
}

#else

bool sl_amx_available(void) { return false; }
size_t sl_amx_scratch_bytes(void) { return 0; }
size_t sl_amx_rows_bytes(int rows, int width) { return (void)rows, (void)width, (size_t)0; }
int sl_amx_row_tiles(int rows) { return (void)rows, 0; }
void sl_amx_pack_rows(const sl_product *p, void *shared, int row, int rows, int row_tile) {
  (void)p, (void)shared, (void)row, (void)rows, (void)row_tile;
}
void sl_amx_multiply(const sl_product *p, void *shared, int row, int rows, void *scratch) {
  (void)p, (void)shared, (void)row, (void)rows, (void)scratch;
}
void sl_amx_multiply_small(const sl_amx_small *m) { (void)m; }

#endif
