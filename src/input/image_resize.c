/* Pillow's Image.resize for 8-bit pictures, bit for bit (libImaging/Resample.c, and Geometry.c for nearest).
 *
 * Per axis, output x gathers inputs around (x + 0.5) * in / out; the kernel widens when shrinking (antialias). Weights
 * are normalised in double, then rounded to 22 fractional bits. Two passes, the first of which rounds to 8 bits; a pass
 * that would not change the size is skipped. Only what a window of the result needs is computed, so that a crop out of
 * a very long picture stays cheap. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "input/image_internal.h"

#define FRACTION_BITS 22
#define HALF (1 << (FRACTION_BITS - 1))
#define MAX_MIDDLE_PX ((size_t)4 * SL_IMAGE_MAX_PX) /* between the passes */

static double bilinear(double x) {
  x = fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

static double bicubic(double x) { /* a = -0.5 */
  const double a = -0.5;
  x = fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

static double sinc(double x) {
  if (x == 0.0) return 1.0;
  x = x * M_PI;
  return sin(x) / x;
}

static double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

static const struct {
  double (*kernel)(double);
  double support;
} kernels[] = {
    [SL_FILTER_BILINEAR] = {bilinear, 1.0}, [SL_FILTER_BICUBIC] = {bicubic, 2.0}, [SL_FILTER_LANCZOS] = {lanczos, 3.0}};

/* For outputs first .. first + n_out - 1 of an axis: the inputs each one gathers and their fixed-point weights. */
typedef struct taps {
  int n_out, max_count;
  int *start, *count; /* [n_out] */
  int32_t *weight;    /* [n_out, max_count] */
} taps;

static void taps_dispose(taps *t) {
  free(t->start);
  free(t->count);
  free(t->weight);
  *t = (taps){0};
}

static sl_status taps_alloc(taps *t, double **real) {
  size_t n_weight;
  if (!sl_size_mul((size_t)t->n_out, (size_t)t->max_count, &n_weight))
    SL_FAIL(SL_ERROR_MEMORY, "resize: %d x %d weights do not fit in memory", t->n_out, t->max_count);
  SL_TRY(SL_ALLOC(t->start, (size_t)t->n_out, "resize starts"));
  SL_TRY(SL_ALLOC(t->count, (size_t)t->n_out, "resize counts"));
  SL_TRY(SL_ALLOC(t->weight, n_weight, "resize weights"));
  return SL_ALLOC(*real, (size_t)t->max_count, "resize weights");
}

static sl_status taps_init(taps *t, int n_in, int n_axis, int first, int n_out, sl_filter filter) {
  const double scale = (double)n_in / n_axis, widen = scale < 1.0 ? 1.0 : scale;
  const double support = kernels[filter].support * widen, inverse = 1.0 / widen;
  const double widest = ceil(support) * 2 + 1;
  *t = (taps){.n_out = n_out, .max_count = widest < n_in ? (int)widest : n_in};
  double *real = NULL;
  sl_status status = taps_alloc(t, &real);
  for (int i = 0; status == SL_OK && i < n_out; i++) {
    const double center = (first + i + 0.5) * scale;
    double total = 0.0;
    int start = (int)(center - support + 0.5), end = (int)(center + support + 0.5);
    if (start < 0) start = 0;
    if (end > n_in) end = n_in;
    for (int k = 0; k < end - start; k++) {
      real[k] = kernels[filter].kernel((k + start - center + 0.5) * inverse);
      total += real[k];
    }
    int32_t *weight = t->weight + (size_t)i * (size_t)t->max_count;
    for (int k = 0; k < end - start; k++) {
      double w = (total != 0.0 ? real[k] / total : real[k]) * (1 << FRACTION_BITS);
      weight[k] = (int32_t)(w < 0 ? w - 0.5 : w + 0.5);
    }
    t->start[i] = start;
    t->count[i] = end - start;
  }
  free(real);
  return status;
}

static uint8_t to_byte(int32_t sum) {
  sum >>= FRACTION_BITS;
  return sum < 0 ? 0 : sum > 255 ? 255 : (uint8_t)sum;
}

static void gather_row(uint8_t *to, const uint8_t *from, const taps *t) {
  for (int i = 0; i < t->n_out; i++, to += 3) {
    const int32_t *weight = t->weight + (size_t)i * (size_t)t->max_count;
    const uint8_t *px = from + (size_t)t->start[i] * 3;
    int32_t r = HALF, g = HALF, b = HALF;
    for (int k = 0; k < t->count[i]; k++, px += 3) {
      r += px[0] * weight[k];
      g += px[1] * weight[k];
      b += px[2] * weight[k];
    }
    to[0] = to_byte(r);
    to[1] = to_byte(g);
    to[2] = to_byte(b);
  }
}

/* n_bytes of an output row from `count` rows that lie `stride` bytes apart, a block of columns at a time so that the
 * sums stay in registers; the block length is constant because that is what makes compilers vectorise at -O2. */
static void blend_rows(uint8_t *to, size_t n_bytes, const uint8_t *from, size_t stride, const int32_t *weight,
                       int count) {
  enum { BLOCK = 32 };
  size_t at = 0;
  for (; at + BLOCK <= n_bytes; at += BLOCK) {
    int32_t sum[BLOCK];
    for (int j = 0; j < BLOCK; j++) sum[j] = HALF;
    for (int k = 0; k < count; k++) {
      const uint8_t *row = from + (size_t)k * stride + at;
      for (int j = 0; j < BLOCK; j++) sum[j] += row[j] * weight[k];
    }
    for (int j = 0; j < BLOCK; j++) to[at + (size_t)j] = to_byte(sum[j]);
  }
  for (; at < n_bytes; at++) {
    int32_t sum = HALF;
    for (int k = 0; k < count; k++) sum += from[(size_t)k * stride + at] * weight[k];
    to[at] = to_byte(sum);
  }
}

static bool is_row_plain(const sl_sheet *sheet, int y) {
  return y < sheet->top_px || y >= sheet->top_px + sheet->image->height_px;
}

static void fill_plain(uint8_t *to, const uint8_t rgb[3], int width_px) {
  for (int x = 0; x < width_px; x++, to += 3) memcpy(to, rgb, 3);
}

/* A line as long as the sheet, in its colour, for sheet_row to put the picture's rows into. */
static sl_status line_alloc(uint8_t **line, const sl_sheet *sheet) {
  SL_TRY(SL_ALLOC(*line, (size_t)sheet->width_px * 3, "resize line"));
  fill_plain(*line, sheet->rgb, sheet->width_px);
  return SL_OK;
}

/* Row y of the sheet: borrowed from the picture where nothing surrounds it, else put together in `line`. */
static const uint8_t *sheet_row(const sl_sheet *sheet, int y, uint8_t *line) {
  const size_t n_bytes = (size_t)sheet->image->width_px * 3;
  uint8_t *inside = line + 3 * (size_t)sheet->left_px;
  if (is_row_plain(sheet, y)) {
    fill_plain(inside, sheet->rgb, sheet->image->width_px);
    return line;
  }
  const uint8_t *from = sheet->image->data + (size_t)(y - sheet->top_px) * n_bytes;
  if (sheet->width_px == sheet->image->width_px) return from;
  memcpy(inside, from, n_bytes);
  return line;
}

/* One resize: which part of the sheet the window needs, and how to gather from it. */
typedef struct resize_job {
  const sl_sheet *sheet;
  sl_window need, window;  /* px of the sheet, px of the result */
  bool is_across, is_down; /* passes that change the size */
  taps across, down;       /* starts are relative to `need` */
  uint8_t *line, *middle;
} resize_job;

/* The inputs from `*first` on, `*n_need` of them, that these taps touch; makes their starts relative to that. */
static void taps_rebase(taps *t, int *first, int *n_need) {
  *first = t->start[0];
  *n_need = t->start[t->n_out - 1] + t->count[t->n_out - 1] - *first;
  for (int i = 0; i < t->n_out; i++) t->start[i] -= *first;
}

static sl_status middle_alloc(resize_job *job, int width_px, int height_px) {
  if ((size_t)height_px > MAX_MIDDLE_PX / (size_t)width_px)
    SL_FAIL(SL_ERROR_ARGUMENT, "resize: from %d x %d px passes through %d x %d px, more than %zu", job->sheet->width_px,
            job->sheet->height_px, width_px, height_px, MAX_MIDDLE_PX);
  return SL_ALLOC(job->middle, (size_t)height_px * (size_t)width_px * 3, "resize rows");
}

/* Each row that is needed gathered to the window's columns; then those rows blended. */
static sl_status run_across_first(resize_job *job, uint8_t *out) {
  const size_t stride = (size_t)job->window.width * 3;
  if (job->is_down) SL_TRY(middle_alloc(job, job->window.width, job->need.height));
  uint8_t *to = job->is_down ? job->middle : out;
  const uint8_t *plain = NULL; /* the outcome of a row outside the picture: they are all alike */
  for (int y = 0; y < job->need.height; y++, to += stride) {
    const bool is_plain = is_row_plain(job->sheet, job->need.y + y);
    if (is_plain && plain != NULL) {
      memcpy(to, plain, stride);
      continue;
    }
    if (is_plain) plain = to;
    const uint8_t *from = sheet_row(job->sheet, job->need.y + y, job->line) + (size_t)job->need.x * 3;
    if (job->is_across)
      gather_row(to, from, &job->across);
    else
      memcpy(to, from, stride);
  }
  const taps *down = &job->down;
  for (int i = 0; job->is_down && i < job->window.height; i++)
    blend_rows(out + (size_t)i * stride, stride, job->middle + (size_t)down->start[i] * stride, stride,
               down->weight + (size_t)i * (size_t)down->max_count, down->count[i]);
  return SL_OK;
}

/* The needed part of the sheet blended to the window's rows, each of which is then gathered. The line is free for the
 * blended row once all of the sheet has been read. */
static sl_status run_down_first(resize_job *job, uint8_t *out) {
  const size_t stride = (size_t)job->need.width * 3;
  SL_TRY(middle_alloc(job, job->need.width, job->need.height));
  for (int y = 0; y < job->need.height; y++)
    memcpy(job->middle + (size_t)y * stride,
           sheet_row(job->sheet, job->need.y + y, job->line) + (size_t)job->need.x * 3, stride);
  const taps *down = &job->down;
  for (int i = 0; i < job->window.height; i++, out += (size_t)job->window.width * 3) {
    blend_rows(job->line, stride, job->middle + (size_t)down->start[i] * stride, stride,
               down->weight + (size_t)i * (size_t)down->max_count, down->count[i]);
    gather_row(out, job->line, &job->across);
  }
  return SL_OK;
}

/* Whether the vertical pass comes first. The rounding between the passes makes the order visible, by a grey level or
 * two in photographs. Pillow 13.0 chooses so (its release differs from its repository; the rule was found and checked
 * by comparing with both orders, at and around the boundary); earlier ones go across first, except above 100 : 1. */
static bool is_down_first(const sl_sheet *sheet, int width_px, int height_px) {
  const int64_t fewer_rows = (int64_t)sheet->height_px - height_px, fewer_columns = (int64_t)sheet->width_px - width_px;
  return fewer_columns != 0 && fewer_rows > 0 && fewer_rows > 2 * fewer_columns;
}

static sl_status resample(sl_rgb *out, const sl_sheet *sheet, int width_px, int height_px, sl_filter filter,
                          const sl_window *window) {
  resize_job job = {.sheet = sheet, .need = *window, .window = *window};
  job.is_across = width_px != sheet->width_px;
  job.is_down = height_px != sheet->height_px;
  sl_status status = line_alloc(&job.line, sheet);
  if (status == SL_OK && job.is_across)
    status = taps_init(&job.across, sheet->width_px, width_px, window->x, window->width, filter);
  if (status == SL_OK && job.is_down)
    status = taps_init(&job.down, sheet->height_px, height_px, window->y, window->height, filter);
  if (status == SL_OK) {
    if (job.is_across) taps_rebase(&job.across, &job.need.x, &job.need.width);
    if (job.is_down) taps_rebase(&job.down, &job.need.y, &job.need.height);
    status =
        is_down_first(sheet, width_px, height_px) ? run_down_first(&job, out->data) : run_across_first(&job, out->data);
  }
  taps_dispose(&job.across);
  taps_dispose(&job.down);
  free(job.line);
  free(job.middle);
  return status;
}

/* Source index of each output, by repeated addition of the step as Pillow does: the rounding is part of the result. */
static void nearest_indices(int *index, int n_in, int n_axis, int first, int n_out) {
  const double step = (double)n_in / n_axis;
  double at = step * 0.5;
  for (int i = 0; i < first + n_out; i++, at += step)
    if (i >= first) index[i - first] = at < n_in ? (int)at : n_in - 1;
}

static sl_status pick_nearest(sl_rgb *out, const sl_sheet *sheet, int width_px, int height_px,
                              const sl_window *window) {
  int *column = NULL, *row = NULL;
  uint8_t *line = NULL;
  sl_status status = SL_ALLOC(column, (size_t)window->width, "resize columns");
  if (status == SL_OK) status = SL_ALLOC(row, (size_t)window->height, "resize rows");
  if (status == SL_OK) status = line_alloc(&line, sheet);
  if (status == SL_OK) {
    nearest_indices(column, sheet->width_px, width_px, window->x, window->width);
    nearest_indices(row, sheet->height_px, height_px, window->y, window->height);
    uint8_t *to = out->data;
    for (int y = 0; y < window->height; y++) {
      const uint8_t *from = sheet_row(sheet, row[y], line);
      for (int x = 0; x < window->width; x++, to += 3) memcpy(to, from + 3 * (size_t)column[x], 3);
    }
  }
  free(column);
  free(row);
  free(line);
  return status;
}

sl_status sl_sheet_resize(sl_rgb *out, const sl_sheet *sheet, int width_px, int height_px, sl_filter filter,
                          sl_window window) {
  *out = (sl_rgb){0};
  if ((unsigned)filter > SL_FILTER_LANCZOS) SL_FAIL(SL_ERROR_ARGUMENT, "resize: unknown filter %d", (int)filter);
  if (width_px < 1 || height_px < 1)
    SL_FAIL(SL_ERROR_ARGUMENT, "resize: expected at least 1 x 1 px, found %d x %d", width_px, height_px);
  SL_TRY(sl_rgb_alloc(out, (uint64_t)window.width, (uint64_t)window.height, "resized picture"));
  sl_status status = filter == SL_FILTER_NEAREST ? pick_nearest(out, sheet, width_px, height_px, &window)
                                                 : resample(out, sheet, width_px, height_px, filter, &window);
  if (status != SL_OK) sl_rgb_dispose(out);
  return status;
}

sl_status sl_rgb_resize(sl_rgb *out, const sl_rgb *image, int width_px, int height_px, sl_filter filter) {
  const sl_sheet sheet = {.image = image, .width_px = image->width_px, .height_px = image->height_px};
  return sl_sheet_resize(out, &sheet, width_px, height_px, filter, (sl_window){0, 0, width_px, height_px});
}
