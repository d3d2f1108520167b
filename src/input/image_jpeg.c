/* JPEG through libjpeg-turbo with its default (accurate integer) transform and smooth chroma upsampling, as Pillow
 * uses it. Four-component files are taken as inverted CMYK, the Adobe convention Pillow assumes, and converted with
 * Pillow's arithmetic. A file that ends early is an error; libjpeg itself would fill the rest with grey. */
#include <setjmp.h>
#include <stdio.h> /* jpeglib.h needs FILE */
#include <stdlib.h>
#include <string.h>

#include <jerror.h>
#include <jpeglib.h>

#include "input/image_internal.h"

#define MAX_SCANS 500 /* a small progressive file can ask for thousands of passes over a large picture */

typedef struct jpeg_job {
  struct jpeg_decompress_struct cinfo; /* first, so that callbacks can get back to the job */
  struct jpeg_error_mgr errors;
  struct jpeg_source_mgr source;
  struct jpeg_progress_mgr progress;
  jmp_buf escape;
  const sl_encoded *file;
  sl_rgb *out;
  uint8_t *cmyk; /* one row, when the file has four components */
  int orientation;
  sl_status failure; /* of our own, size or memory: its message is set already */
} jpeg_job;

static void leave(j_common_ptr cinfo) { longjmp(((jpeg_job *)cinfo)->escape, 1); }
static void ignore_message(j_common_ptr cinfo) { (void)cinfo; }
static void ignore_level(j_common_ptr cinfo, int level) { (void)cinfo, (void)level; }
static void ignore_source(j_decompress_ptr cinfo) { (void)cinfo; }

/* The whole file is in the buffer, so a request for more means it is truncated. */
static boolean fail_at_end(j_decompress_ptr cinfo) {
  ERREXIT(cinfo, JERR_INPUT_EOF);
  return FALSE;
}

static void skip_input(j_decompress_ptr cinfo, long n_bytes) {
  if (n_bytes <= 0) return;
  if ((size_t)n_bytes > cinfo->src->bytes_in_buffer) ERREXIT(cinfo, JERR_INPUT_EOF);
  cinfo->src->next_input_byte += n_bytes;
  cinfo->src->bytes_in_buffer -= (size_t)n_bytes;
}

static void limit_scans(j_common_ptr cinfo) {
  if (((j_decompress_ptr)cinfo)->input_scan_number > MAX_SCANS) ERREXIT(cinfo, JERR_NOTIMPL);
}

static void job_init(jpeg_job *job) {
  job->cinfo.err = jpeg_std_error(&job->errors);
  job->errors.error_exit = leave;
  job->errors.output_message = ignore_message;
  job->errors.emit_message = ignore_level;
  jpeg_create_decompress(&job->cinfo);
  job->source.init_source = ignore_source;
  job->source.fill_input_buffer = fail_at_end;
  job->source.skip_input_data = skip_input;
  job->source.resync_to_restart = jpeg_resync_to_restart;
  job->source.term_source = ignore_source;
  job->source.next_input_byte = job->file->bytes;
  job->source.bytes_in_buffer = job->file->n_bytes;
  job->cinfo.src = &job->source;
  job->progress.progress_monitor = limit_scans;
  job->cinfo.progress = &job->progress;
}

static bool begins(const struct jpeg_marker_struct *marker, const char *text, size_t n) {
  return marker->marker == JPEG_APP0 + 1 && marker->data_length >= n && memcmp(marker->data, text, n) == 0;
}

static int find_orientation(j_decompress_ptr cinfo) {
  static const char xmp_name[] = "http://ns.adobe.com/xap/1.0/"; /* with the zero behind it */
  bool has_exif = false;
  int exif = 0, xmp = 0;
  for (jpeg_saved_marker_ptr marker = cinfo->marker_list; marker != NULL; marker = marker->next) {
    if (begins(marker, xmp_name, sizeof xmp_name)) xmp = sl_xmp_orientation(marker->data, marker->data_length);
    if (has_exif || !begins(marker, "Exif\0\0", 6)) continue;
    has_exif = true;
    exif = sl_exif_orientation(marker->data, marker->data_length);
  }
  return exif ? exif : xmp ? xmp : 1;
}

/* a * b / 255, rounded (Pillow's MULDIV255). */
static int multiply_255(int a, int b) {
  int product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

/* `row` holds the stored values, which are the inks inverted: 255 = no ink. Pillow undoes that (c = 255 - stored) and
 * converts with out = (255 - k) - c * (255 - k) / 255. */
static void cmyk_row_to_rgb(uint8_t *to, const uint8_t *row, int width_px) {
  for (int x = 0; x < width_px; x++, to += 3, row += 4) {
    int light = row[3];
    for (int c = 0; c < 3; c++) {
      int value = light - multiply_255(255 - row[c], light);
      to[c] = (uint8_t)(value < 0 ? 0 : value);
    }
  }
}

/* Runs under job_decode's setjmp: libjpeg leaves from anywhere in here. */
static void read_picture(jpeg_job *job) {
  j_decompress_ptr cinfo = &job->cinfo;
  jpeg_save_markers(cinfo, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(cinfo, TRUE);
  job->orientation = find_orientation(cinfo);
  bool is_cmyk = cinfo->num_components == 4;
  cinfo->out_color_space = is_cmyk ? JCS_CMYK : JCS_RGB;
  job->failure = sl_rgb_alloc(job->out, cinfo->image_width, cinfo->image_height, job->file->name);
  if (job->failure == SL_OK && is_cmyk) job->failure = SL_ALLOC(job->cmyk, (size_t)cinfo->image_width * 4, "CMYK row");
  if (job->failure != SL_OK) return;
  jpeg_start_decompress(cinfo);
  while (cinfo->output_scanline < cinfo->output_height) {
    uint8_t *to = job->out->data + (size_t)cinfo->output_scanline * cinfo->output_width * 3;
    JSAMPROW row = is_cmyk ? job->cmyk : to;
    jpeg_read_scanlines(cinfo, &row, 1);
    if (is_cmyk) cmyk_row_to_rgb(to, job->cmyk, (int)cinfo->output_width);
  }
  jpeg_finish_decompress(cinfo);
}

/* True when the whole picture was read. Touches no local after setjmp, so nothing is lost by the jump. */
static bool job_run(jpeg_job *job) {
  if (setjmp(job->escape) != 0) return false;
  job_init(job);
  read_picture(job);
  return job->failure == SL_OK;
}

static sl_status fail_jpeg(jpeg_job *job) {
  const char *name = job->file->name;
  char message[JMSG_LENGTH_MAX];
  switch (job->errors.msg_code) {
    case JERR_OUT_OF_MEMORY:
      SL_FAIL(SL_ERROR_MEMORY, "%s: out of memory while decoding JPEG", name);
    case JERR_INPUT_EOF:
    case JERR_INPUT_EMPTY:
      SL_FAIL(SL_ERROR_FORMAT, "%s: truncated JPEG: the file ends after %zu bytes, inside the picture", name,
              job->file->n_bytes);
    case JERR_NOTIMPL:
      if (job->cinfo.input_scan_number > MAX_SCANS)
        SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: JPEG: expected at most %d scans, found more", name, MAX_SCANS);
  }
  job->errors.format_message((j_common_ptr)&job->cinfo, message);
  SL_FAIL(SL_ERROR_FORMAT, "%s: corrupt or unsupported JPEG: %s", name, message);
}

sl_status sl_jpeg_decode(sl_rgb *out, const sl_encoded *file, int *orientation) {
  *out = (sl_rgb){0};
  jpeg_job *job = NULL;
  SL_TRY(SL_ALLOC(job, 1, "JPEG decoder"));
  job->file = file;
  job->out = out;
  job->orientation = 1;
  sl_status status = SL_OK;
  if (job_run(job)) {
    *orientation = job->orientation;
  } else {
    /* The file's size was refused, our memory ran out, or libjpeg gave up. */
    status = job->failure != SL_OK ? job->failure : fail_jpeg(job);
    sl_rgb_dispose(out);
  }
  jpeg_destroy_decompress(&job->cinfo);
  free(job->cmyk);
  free(job);
  return status;
}
