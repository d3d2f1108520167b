/* PNG through libpng, reading and writing. Reduces to 8-bit RGB as Pillow's open(...).convert("RGB") does: alpha and
 * colour keys dropped, 16-bit colour cut to its high byte, 16-bit grey (mode "I;16") clipped at 255. */
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>

#include "base/text.h"
#include "input/image_internal.h"

/* State of one reading or writing; libpng's callbacks get it as their user pointer. */
typedef struct png_job {
  png_structp png;
  png_infop info;
  const sl_encoded *file; /* reading */
  size_t at;              /* bytes read so far */
  sl_rgb *out;
  int orientation;
  bool is_truncated, is_out_of_memory;
  sl_status failure;   /* of our own, size or memory: its message is set already */
  char message[128];   /* libpng's */
  const uint8_t *data; /* writing */
  int width_px, height_px, n_channel;
  uint8_t *encoded;
  size_t n_encoded, capacity;
} png_job;

static void on_error(png_structp png, png_const_charp message) {
  png_job *job = png_get_error_ptr(png);
  strncpy(job->message, message, sizeof job->message - 1);
  png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message) { (void)png, (void)message; }

static png_voidp on_malloc(png_structp png, png_alloc_size_t n_bytes) {
  uint8_t *block = NULL;
  if (SL_ALLOC(block, n_bytes, "PNG codec") != SL_OK) ((png_job *)png_get_mem_ptr(png))->is_out_of_memory = true;
  return block;
}

static void on_free(png_structp png, png_voidp block) {
  (void)png;
  free(block);
}

static void on_read(png_structp png, png_bytep to, size_t n_bytes) {
  png_job *job = png_get_io_ptr(png);
  if (n_bytes > job->file->n_bytes - job->at) {
    job->is_truncated = true;
    png_error(png, "end of file");
  }
  memcpy(to, job->file->bytes + job->at, n_bytes);
  job->at += n_bytes;
}

/* Chunks that do not change the pixels: skipped, so that hostile ones cost nothing. (libpng would allocate whatever
 * length an eXIf chunk claims, up to 2 GB.) */
static void skip_chunks(png_structp png) {
  static const png_byte names[] =
      "cHRM\0gAMA\0iCCP\0sRGB\0bKGD\0hIST\0pHYs\0sPLT\0tIME\0tEXt\0zTXt\0iTXt\0oFFs\0pCAL\0sCAL\0sBIT\0eXIf";
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, names, (int)(sizeof names / 5));
}

/* 16-bit grey in the first 2/3 of a row to RGB filling it, from the right so that nothing is overwritten unread. */
static void expand_grey16(uint8_t *row, int width_px) {
  for (int x = width_px - 1; x >= 0; x--) {
    uint8_t high = row[2 * x], low = row[2 * x + 1];
    memset(row + 3 * (size_t)x, high != 0 ? 255 : low, 3);
  }
}

static void read_rows(png_job *job, int n_pass) {
  const size_t stride = (size_t)job->out->width_px * 3;
  for (int pass = 0; pass < n_pass; pass++)
    for (int y = 0; y < job->out->height_px; y++) png_read_row(job->png, job->out->data + (size_t)y * stride, NULL);
}

static uint32_t be32(const uint8_t *at) {
  return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* Walks the chunks (length, type, data, check sum) to eXIf, which may also follow the pixels, and to XMP's text. */
static int find_orientation(const sl_encoded *file) {
  static const char xmp_name[] = "XML:com.adobe.xmp"; /* with the zero behind it */
  int xmp = 0;
  for (size_t at = 8; file->n_bytes - at >= 12;) {
    const size_t length = be32(file->bytes + at);
    const uint8_t *type = file->bytes + at + 4, *data = type + 4;
    if (length > file->n_bytes - at - 12 || memcmp(type, "IEND", 4) == 0) break;
    const int exif = memcmp(type, "eXIf", 4) == 0 ? sl_exif_orientation(data, length) : 0;
    if (exif) return exif;
    const bool is_text = memcmp(type, "iTXt", 4) == 0 && length >= sizeof xmp_name;
    if (is_text && memcmp(data, xmp_name, sizeof xmp_name) == 0) xmp = sl_xmp_orientation(data, length);
    at += 12 + length;
  }
  return xmp ? xmp : 1;
}

/* Runs under job_run's setjmp: libpng leaves from anywhere in here. */
static void read_picture(png_job *job) {
  png_structp png = job->png;
  png_set_benign_errors(png, 1);
  png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* ours, below, name the size */
  skip_chunks(png);
  png_set_read_fn(png, job, on_read);
  png_read_info(png, job->info);
  job->failure = sl_rgb_alloc(job->out, png_get_image_width(png, job->info), png_get_image_height(png, job->info),
                              job->file->name);
  if (job->failure != SL_OK) return;
  int depth = png_get_bit_depth(png, job->info), type = png_get_color_type(png, job->info);
  bool is_grey16 = depth == 16 && type == PNG_COLOR_TYPE_GRAY;
  if (type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
  if (type == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(png);
  if (!is_grey16) {
    if (depth == 16) png_set_strip_16(png);
    if ((type & PNG_COLOR_MASK_COLOR) == 0) png_set_gray_to_rgb(png);
    png_set_strip_alpha(png);
  }
  int n_pass = png_set_interlace_handling(png);
  png_read_update_info(png, job->info);
  if (png_get_rowbytes(png, job->info) != (size_t)job->out->width_px * (is_grey16 ? 2 : 3))
    png_error(png, "unexpected row length");
  read_rows(job, n_pass);
  for (int y = 0; is_grey16 && y < job->out->height_px; y++)
    expand_grey16(job->out->data + (size_t)y * (size_t)job->out->width_px * 3, job->out->width_px);
  png_read_end(png, job->info);
  job->orientation = find_orientation(job->file);
}

static void on_write(png_structp png, png_bytep from, size_t n_bytes) {
  png_job *job = png_get_io_ptr(png);
  if (n_bytes > job->capacity - job->n_encoded) {
    size_t wanted = job->n_encoded + n_bytes, capacity = wanted + wanted / 2;
    job->failure = SL_REALLOC(job->encoded, capacity, "PNG file");
    if (job->failure != SL_OK) png_error(png, "out of memory");
    job->capacity = capacity;
  }
  memcpy(job->encoded + job->n_encoded, from, n_bytes);
  job->n_encoded += n_bytes;
}

static void on_flush(png_structp png) { (void)png; }

static void write_picture(png_job *job) {
  png_structp png = job->png;
  png_set_write_fn(png, job, on_write, on_flush);
  int type = job->n_channel == 1 ? PNG_COLOR_TYPE_GRAY : job->n_channel == 3 ? PNG_COLOR_TYPE_RGB : PNG_COLOR_TYPE_RGBA;
  png_set_compression_level(png, 3); /* a third of the default's time for a few per cent more bytes */
  png_set_IHDR(png, job->info, (png_uint_32)job->width_px, (png_uint_32)job->height_px, 8, type, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(png, job->info);
  const size_t stride = (size_t)job->width_px * (size_t)job->n_channel;
  for (int y = 0; y < job->height_px; y++) png_write_row(png, job->data + (size_t)y * stride);
  png_write_end(png, NULL);
}

/* True when all went well. Touches no local after setjmp, so nothing is lost by the jump. */
static bool job_run(png_job *job, void (*work)(png_job *)) {
  if (job->png == NULL) return false;
  if (setjmp(png_jmpbuf(job->png)) != 0) return false;
  job->info = png_create_info_struct(job->png);
  if (job->info == NULL) return false; /* is_out_of_memory is set */
  work(job);
  /* libpng carries on without an optional chunk that it has no memory for. */
  return job->failure == SL_OK && !job->is_out_of_memory;
}

static sl_status fail_png(const png_job *job, const char *name, const char *doing) {
  if (job->failure != SL_OK) return job->failure;
  if (job->is_out_of_memory || job->png == NULL)
    SL_FAIL(SL_ERROR_MEMORY, "%s: out of memory while %s PNG", name, doing);
  if (job->is_truncated)
    SL_FAIL(SL_ERROR_FORMAT, "%s: truncated PNG: the file ends after %zu bytes, before its end chunk", name,
            job->file->n_bytes);
  SL_FAIL(SL_ERROR_FORMAT, "%s: PNG, %s: %s", name, doing, job->message);
}

sl_status sl_png_decode(sl_rgb *out, const sl_encoded *file, int *orientation) {
  *out = (sl_rgb){0};
  png_job job = {.file = file, .out = out, .orientation = 1};
  job.png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &job, on_error, on_warning, &job, on_malloc, on_free);
  sl_status status = SL_OK;
  if (job_run(&job, read_picture)) {
    *orientation = job.orientation;
  } else {
    status = fail_png(&job, file->name, "reading");
    sl_rgb_dispose(out);
  }
  png_destroy_read_struct(&job.png, &job.info, NULL);
  return status;
}

sl_status sl_png_encode(const uint8_t *data, int width_px, int height_px, int n_channel, uint8_t **out,
                        size_t *n_bytes) {
  *out = NULL;
  *n_bytes = 0;
  if (width_px < 1 || height_px < 1 || width_px > SL_IMAGE_MAX_SIDE_PX || height_px > SL_IMAGE_MAX_SIDE_PX ||
      (n_channel != 1 && n_channel != 3 && n_channel != 4))
    SL_FAIL(SL_ERROR_ARGUMENT, "PNG: expected sides of 1 to %d px and 1, 3 or 4 channels, found %d x %d x %d",
            SL_IMAGE_MAX_SIDE_PX, width_px, height_px, n_channel);
  png_job job = {.data = data, .width_px = width_px, .height_px = height_px, .n_channel = n_channel};
  job.png = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, &job, on_error, on_warning, &job, on_malloc, on_free);
  sl_status status = SL_OK;
  if (job_run(&job, write_picture)) {
    *out = job.encoded;
    *n_bytes = job.n_encoded;
  } else {
    status = fail_png(&job, "PNG file", "writing");
    free(job.encoded);
  }
  png_destroy_write_struct(&job.png, &job.info);
  return status;
}

sl_status sl_png_write(const char *path, const uint8_t *data, int width_px, int height_px, int n_channel) {
  uint8_t *bytes;
  size_t n_bytes;
  SL_TRY(sl_png_encode(data, width_px, height_px, n_channel, &bytes, &n_bytes));
  sl_status status = sl_file_write(path, bytes, n_bytes);
  free(bytes);
  return status;
}
