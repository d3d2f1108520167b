/* The asked picture. A token shows the object when at least a given share of its patch's area, half by default, is
 * masked; patches are mapped back to the picture, where their edges fall between pixels, so the mask is integrated over
 * the box. */
#include "task/picture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "analysis/token_json.h"
#include "task/run_json.h"

#define MAX_FILE_BYTES ((size_t)64 << 20)
#define MAX_STORED_PX 2048

sl_status sl_picture_load(sl_picture *p, const char *path, const char *mask_path) {
  *p = (sl_picture){.path = path, .mask_path = mask_path};
  char *bytes = NULL;
  size_t n_bytes = 0;
  SL_TRY(sl_file_read(path, MAX_FILE_BYTES, &bytes, &n_bytes));
  p->hash = XXH3_64bits(bytes, n_bytes);
  sl_status status = sl_rgb_decode(&p->source, bytes, n_bytes, path, true);
  free(bytes);
  if (status == SL_OK && mask_path) status = sl_mask_load(&p->mask, mask_path);
  if (status == SL_OK && mask_path &&
      (p->mask.width_px != p->source.width_px || p->mask.height_px != p->source.height_px)) {
    status = sl_fail(SL_ERROR_ARGUMENT, "%s: the mask is %d x %d px, the picture %s is %d x %d px; they must agree",
                     mask_path, p->mask.width_px, p->mask.height_px, path, p->source.width_px, p->source.height_px);
  }
  if (status != SL_OK) sl_picture_dispose(p);
  return status;
}

sl_status sl_picture_prepare(sl_picture *p, const sl_model *model, const char *question) {
  SL_TRY(sl_views_make(&p->views, sl_model_get_preprocess(model), &p->source));
  return sl_pack_make(&p->pack, model, &p->views, question);
}

/* What is read while the tower and the connector run. */
typedef struct reader {
  const sl_picture *picture;
  double *feature; /* [n_col] sum over the patches */
  int n_col, n_row;
  double *share;   /* [N, n_patch] sum over heads and layers of the queries' attention; NULL: tokens have places */
  float *row;
  sl_status status;
} reader;

static bool is_cross(sl_site site) { return site == SL_SITE_CROSS_PATTERN || site == SL_SITE_RESAMPLER_PATTERN; }

static bool wants(void *user, sl_part part, sl_site site, int layer, bool backward) {
  (void)layer;
  const reader *r = user;
  return part == SL_PART_PROJECTOR && !backward && (site == SL_SITE_PROJECTOR_IN || (r->share && is_cross(site)));
}

static void read_row(const reader *r, sl_queue *queue, sl_mat value, int row) {
  sl_buffer_read(queue, r->row, value.buffer, (size_t)(value.offset + row * value.stride) * sizeof *r->row,
                 (size_t)value.cols * sizeof *r->row);
}

/* Sums the rows that show patches. Queries read all rows of the only view, its patches last. */
static void add_features(reader *r, sl_queue *queue, sl_mat value) {
  const sl_pack *pack = &r->picture->pack;
  const int n_view_row = r->share ? value.rows : pack->n_view_token;
  const int n_lead = r->share ? value.rows - r->picture->n_patch : pack->n_lead;
  r->n_col = value.cols;
  r->status = SL_ALLOC(r->feature, (size_t)r->n_col, "features");
  for (int i = 0; i < value.rows && r->status == SL_OK; i++) {
    if (i % n_view_row < n_lead) continue;
    read_row(r, queue, value, i);
    for (int k = 0; k < r->n_col; k++) r->feature[k] += (double)r->row[k];
    r->n_row++;
  }
}

/* value [H N, T]: the patches are the last n_patch of a query's T keys. */
static void add_shares(const reader *r, sl_queue *queue, sl_mat value) {
  const int n = r->picture->pack.n, n_patch = r->picture->n_patch, skip = value.cols - n_patch;
  for (int i = 0; i < value.rows; i++) {
    read_row(r, queue, value, i);
    double *to = r->share + (size_t)(i % n) * (size_t)n_patch;
    for (int p = 0; p < n_patch; p++) to[p] += (double)r->row[skip + p];
  }
}

static void see(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                sl_mat grad) {
  (void)part, (void)layer, (void)first_row, (void)grad;
  reader *r = user;
  if (r->status == SL_OK) r->status = SL_REALLOC(r->row, (size_t)value.cols, "features");
  if (r->status != SL_OK) return;
  if (is_cross(site))
    add_shares(r, queue, value);
  else
    add_features(r, queue, value);
}

static sl_status keep_features(sl_picture *p, const reader *r) {
  SL_TRY(SL_ALLOC(p->feature, (size_t)r->n_col, "features"));
  for (int k = 0; k < r->n_col; k++) p->feature[k] = (float)(r->feature[k] / r->n_row);
  p->n_feature = r->n_col;
  return SL_OK;
}

/* Each row over its sum: a query that reads the class token alone stays zero. */
static sl_status keep_shares(sl_picture *p, const reader *r) {
  const size_t n_patch = (size_t)p->n_patch;
  if (!r->share) return SL_OK;
  SL_TRY(SL_ALLOC(p->projection, (size_t)p->pack.n * n_patch, "projection"));
  for (int i = 0; i < p->pack.n; i++) {
    const double *share = r->share + (size_t)i * n_patch;
    double sum = 0;
    for (size_t k = 0; k < n_patch; k++) sum += share[k];
    for (size_t k = 0; k < n_patch && sum > 0; k++) p->projection[(size_t)i * n_patch + k] = (float)(share[k] / sum);
  }
  return SL_OK;
}

sl_status sl_picture_encode(sl_picture *p, sl_session *session, const sl_model *model, sl_image **out) {
  const sl_model_shape *shape = sl_model_get_shape(model);
  reader r = {.picture = p};
  *out = NULL;
  p->n_patch = p->pack.patch_rows * p->pack.patch_cols;
  if (shape->cell_rows == 0) SL_TRY(SL_ALLOC(r.share, (size_t)p->pack.n * (size_t)p->n_patch, "projection"));
  const sl_probe probe = {.user = &r, .wants = wants, .see = see};
  sl_status status = sl_image_encode(out, session, p->views.pixels, &p->pack, &probe, false);
  if (status == SL_OK) status = r.status;
  if (status == SL_OK) status = keep_features(p, &r);
  if (status == SL_OK) status = keep_shares(p, &r);
  free(r.feature);
  free(r.share);
  free(r.row);
  return status;
}

void sl_picture_dispose(sl_picture *p) {
  free(p->feature);
  free(p->projection);
  sl_rgb_dispose(&p->source);
  sl_grey_dispose(&p->mask);
  sl_views_dispose(&p->views);
  sl_pack_dispose(&p->pack);
  *p = (sl_picture){0};
}

/* Length of the pixel [i, i + 1] that lies in [low, high]. */
static double overlap(int i, double low, double high) {
  const double length = fmin(high, i + 1.0) - fmax(low, i);
  return length > 0 ? length : 0;
}

double sl_mask_share(const sl_grey *mask, const float box[4]) {
  const double area = ((double)box[2] - box[0]) * ((double)box[3] - box[1]);
  if (!(area > 0)) return 0;
  const int x0 = (int)fmax(0, floor(box[0])), x1 = (int)fmin(mask->width_px, ceil(box[2]));
  const int y0 = (int)fmax(0, floor(box[1])), y1 = (int)fmin(mask->height_px, ceil(box[3]));
  double covered = 0;
  for (int y = y0; y < y1; y++) {
    double line = 0;
    for (int x = x0; x < x1; x++) line += mask->data[(size_t)y * mask->width_px + x] ? overlap(x, box[0], box[2]) : 0;
    covered += line * overlap(y, box[1], box[3]);
  }
  return covered / area;
}

typedef struct boxes {
  float (*box)[4];
  int32_t *view;
  int n_image;
} boxes;

static void boxes_dispose(boxes *b) {
  free(b->box);
  free(b->view);
}

static sl_status boxes_make(boxes *b, const sl_picture *p) {
  *b = (boxes){.n_image = p->pack.n};
  sl_status status = SL_ALLOC(b->box, (size_t)b->n_image, "boxes");
  if (status == SL_OK) status = SL_ALLOC(b->view, (size_t)b->n_image, "boxes");
  if (status == SL_OK)
    sl_pack_boxes(&p->pack, b->box, b->view);
  else
    boxes_dispose(b);
  return status;
}

sl_status sl_picture_object(const sl_picture *p, double threshold, bool **object) {
  *object = NULL;
  if (!p->mask.data || p->projection) return SL_OK;
  boxes b;
  SL_TRY(boxes_make(&b, p));
  const sl_status status = SL_ALLOC(*object, (size_t)b.n_image, "object tokens");
  /* The slack keeps "exactly half" true after rounding in the boxes. */
  for (int i = 0; i < b.n_image && status == SL_OK; i++)
    (*object)[i] = b.view[i] >= 0 && sl_mask_share(&p->mask, b.box[i]) >= threshold - 1e-6;
  boxes_dispose(&b);
  return status;
}

static sl_status put_png(sl_run *run, const char *name, const uint8_t *data, int width, int height, int n_channel) {
  uint8_t *png = NULL;
  size_t n_bytes = 0;
  if (!sl_run_keeps_pictures(run)) return SL_OK;
  SL_TRY(sl_png_encode(data, width, height, n_channel, &png, &n_bytes));
  const sl_status status = sl_run_put_picture(run, name, png, n_bytes);
  free(png);
  return status;
}

/* The mask at the stored size: nearest pixel, so that it stays 0 or 255. */
static sl_status put_mask(const sl_picture *p, sl_run *run, int width, int height) {
  uint8_t *data = NULL;
  SL_TRY(SL_ALLOC(data, (size_t)width * (size_t)height, "mask"));
  for (int y = 0; y < height; y++) {
    const int64_t from_y = (int64_t)y * p->mask.height_px / height;
    for (int x = 0; x < width; x++) {
      const int64_t from_x = (int64_t)x * p->mask.width_px / width;
      data[(size_t)y * width + x] = p->mask.data[from_y * p->mask.width_px + from_x] ? 255 : 0;
    }
  }
  const sl_status status = put_png(run, "mask", data, width, height, 1);
  free(data);
  return status;
}

static sl_status put_boxes(const sl_picture *p, sl_run *run, double scale_x, double scale_y) {
  boxes b;
  SL_TRY(boxes_make(&b, p));
  for (int i = 0; i < b.n_image; i++) {
    for (int k = 0; k < 4; k++) b.box[i][k] = (float)(b.box[i][k] * (k % 2 ? scale_y : scale_x));
  }
  sl_status status = sl_run_put(run, "image.box", SL_F32, 2, (int64_t[]){b.n_image, 4}, b.box);
  if (status == SL_OK) status = sl_run_put(run, "image.view", SL_I32, 1, (int64_t[]){b.n_image}, b.view);
  boxes_dispose(&b);
  return status;
}

static sl_status put_projection(const sl_picture *p, sl_run *run, double scale_x, double scale_y) {
  float (*box)[4] = NULL;
  if (!p->projection) return SL_OK;
  SL_TRY(SL_ALLOC(box, (size_t)p->n_patch, "boxes"));
  sl_pack_patch_boxes(&p->pack, box);
  for (int i = 0; i < p->n_patch; i++)
    for (int k = 0; k < 4; k++) box[i][k] = (float)(box[i][k] * (k % 2 ? scale_y : scale_x));
  sl_status status = sl_run_put(run, "image.patch_box", SL_F32, 2, (int64_t[]){p->n_patch, 4}, box);
  if (status == SL_OK)
    status = sl_run_put(run, "image.projection", SL_F32, 2, (int64_t[]){p->pack.n, p->n_patch}, p->projection);
  free(box);
  return status;
}

sl_status sl_picture_store(const sl_picture *p, sl_run *run) {
  const int from_width = p->source.width_px, from_height = p->source.height_px;
  const int longest = from_width > from_height ? from_width : from_height;
  const double scale = longest > MAX_STORED_PX ? (double)MAX_STORED_PX / longest : 1;
  const int width = (int)fmax(1, round(from_width * scale)), height = (int)fmax(1, round(from_height * scale));
  sl_rgb small = {0};
  if (scale < 1) SL_TRY(sl_rgb_resize(&small, &p->source, width, height, SL_FILTER_BILINEAR));
  sl_status status = put_png(run, "input", small.data ? small.data : p->source.data, width, height, 3);
  sl_rgb_dispose(&small);
  if (status == SL_OK && p->mask.data) status = put_mask(p, run, width, height);
  const double scale_x = (double)width / from_width, scale_y = (double)height / from_height;
  if (status == SL_OK) status = put_boxes(p, run, scale_x, scale_y);
  if (status == SL_OK) status = put_projection(p, run, scale_x, scale_y);
  if (status == SL_OK)
    status = sl_run_put(run, "image.feature", SL_F32, 1, (int64_t[]){p->n_feature}, p->feature);
  return status;
}

sl_status sl_picture_to_json(const sl_picture *p, json_t **out) {
  char hash[17];
  static const char digits[] = "0123456789abcdef";
  for (int i = 0; i < 16; i++) hash[i] = digits[p->hash >> (60 - 4 * i) & 15];
  hash[16] = '\0';
  *out = json_pack("{s:o, s:s, s:i, s:i}", "path", sl_json_text(p->path, strlen(p->path)), "hash", hash, "width_px",
                   p->source.width_px, "height_px", p->source.height_px);
  if (!*out) SL_FAIL(SL_ERROR_MEMORY, "run.json: no memory for the picture");
  if (p->mask_path) return sl_run_json_set(*out, "mask", sl_json_text(p->mask_path, strlen(p->mask_path)));
  return SL_OK;
}
