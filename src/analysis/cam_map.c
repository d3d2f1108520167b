/* LLaVA-CAM's maps.
 *
 *   y       = sum over answer tokens a of target(z[row of a])        row of a = n_prompt + a - 1
 *   alpha_k = mean over image positions i of dy/dF_l[i, k]           (gradient clipped at 0 with `clip`)
 *   heat_i  = max(0, sum_k alpha_k F_l[i, k])
 *
 * One forward pass that keeps activations, then one backward pass per target gives the maps of all layers; features and
 * gradients never leave the device. Whether a layer's map exists is decided by what the backward pass can reach: at
 * the last layer's ln2, say, no image row feeds the target's rows, and nn reports a first reachable row behind the
 * image. Source: Zhang et al., From Redundancy to Relevance (R2R), arXiv 2406.06579, eq. 1-4 and appendix A.1;
 * the paper's target is the logit. */
#include "analysis/cam_map.h"

#include <stdlib.h>
#include <string.h>

static int last_vision_layer(const sl_cam *cam) { return sl_model_get_shape(cam->context->model)->vision.n_layer - 1; }

static bool wants(void *user, sl_part part, sl_site site, int layer, bool backward) {
  const sl_cam *cam = user;
  if (!backward) return false;
  if (part == SL_PART_VISION) return cam->options.vision && site == SL_SITE_LN2 && layer == last_vision_layer(cam);
  return part == SL_PART_DECODER && site == cam->options.site;
}

static sl_mat device_row(const sl_cam *cam, int64_t offset, int cols) {
  return (sl_mat){.buffer = cam->device, .offset = offset, .stride = cols, .rows = 1, .cols = cols, .dtype = SL_F32};
}

static int64_t alpha_offset(const sl_cam *cam) { return (int64_t)cam->n_layer * cam->n_image; }
static int64_t vision_offset(const sl_cam *cam) { return alpha_offset(cam) + (int64_t)cam->n_layer * cam->n_channel; }

/* The tower's rows of a view are its class token, then its patches. The weights are means over the patches of all
 * views, so a view waits for the others. */
static void see_view(sl_cam *cam, sl_queue *queue, const sl_ops *ops, int view, sl_mat value, sl_mat grad) {
  const int skip = value.rows - cam->n_patch, n = cam->n_view * cam->n_patch, width = value.cols;
  const sl_mat features = {cam->tower, 0, width, n, width, SL_F32};
  const sl_mat gradients = {cam->tower, (int64_t)n * width, width, n, width, SL_F32};
  ops->copy(queue, sl_mat_rows(features, view * cam->n_patch, cam->n_patch), sl_mat_rows(value, skip, cam->n_patch));
  ops->copy(queue, sl_mat_rows(gradients, view * cam->n_patch, cam->n_patch), sl_mat_rows(grad, skip, cam->n_patch));
  if (++cam->n_view_seen < cam->n_view) return;
  ops->cam(queue, device_row(cam, vision_offset(cam), n), device_row(cam, vision_offset(cam) + n, width), features,
           gradients, cam->options.clip);
}

static void see(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row, sl_mat value,
                sl_mat grad) {
  (void)site;
  sl_cam *cam = user;
  const sl_ops *ops = sl_queue_ops(queue);
  if (part == SL_PART_VISION) {
    see_view(cam, queue, ops, first_row / value.rows, value, grad);
    return;
  }
  const int at = cam->context->layout->first_image - first_row;
  if (at >= 0 && at + cam->n_image <= value.rows) {
    ops->cam(queue, device_row(cam, (int64_t)layer * cam->n_image, cam->n_image),
             device_row(cam, alpha_offset(cam) + (int64_t)layer * cam->n_channel, cam->n_channel),
             sl_mat_rows(value, at, cam->n_image), sl_mat_rows(grad, at, cam->n_image), cam->options.clip);
    cam->defined[layer] = 1;
  }
  const double whole = (double)cam->options.n_picture * cam->n_map, done = (double)cam->n_added * cam->n_map + cam->map;
  sl_context_progress(cam->context, (done + (double)(cam->n_layer - layer) / cam->n_layer) / whole, 1);
}

/* Gradient of map `m` by the answer rows' logits: all answer tokens together, or token m - 1 alone. */
static void set_target(sl_cam *cam, int m) {
  const sl_analysis_context *c = cam->context;
  const int n_vocab = sl_model_get_shape(c->model)->n_vocab;
  cam->map = m;
  for (int a = 0; a < c->n_answer; a++) {
    const int32_t id = c->answer[a].id;
    float *d = cam->gradient + (int64_t)a * n_vocab;
    const double value =
        sl_target_gradient(cam->options.target, cam->logits + (int64_t)a * n_vocab, n_vocab, id,
                           sl_target_rival(cam->options.target, &c->answer[a], cam->options.contrast), d);
    if (m == 0 || m == a + 1)
      cam->value[m] += value;
    else
      memset(d, 0, (size_t)n_vocab * sizeof *d);
  }
}

static void add_relu(float *sum, const float *map, int n) {
  for (int i = 0; i < n; i++) sum[i] += map[i] > 0 ? map[i] : 0;
}

/* The tower's rows to a map whose patches stand line by line. */
static void add_patches(const sl_cam *cam, float *sum, const float *map) {
  const int32_t *patch = cam->context->pack ? cam->context->pack->patch : NULL;
  for (int i = 0; i < cam->n_view * cam->n_patch; i++) {
    const int at = patch ? i / cam->n_patch * cam->n_patch + patch[i % cam->n_patch] : i;
    sum[at] += map[i] > 0 ? map[i] : 0;
  }
}

/* Reads what the backward pass left on the device and adds it to the sums; undefined layers were never written there
 * and hold zeros. */
static void collect(sl_cam *cam, float *host) {
  sl_queue *queue = sl_session_queue(cam->context->session);
  const int64_t vision = vision_offset(cam), N = cam->n_image, K = cam->n_channel;
  const bool all = cam->alpha || cam->vision;
  const int64_t n_read = all ? vision + (cam->vision ? cam->n_view * cam->n_patch : 0) : alpha_offset(cam);
  sl_buffer_read(queue, host, cam->device, 0, (size_t)n_read * sizeof *host);
  for (int64_t l = 0; l < cam->n_layer; l++) {
    const int64_t row = l * cam->n_map + cam->map;
    add_relu(cam->heat + row * N, host + l * N, cam->n_image);
    for (int64_t k = 0; cam->alpha && k < K; k++) cam->alpha[row * K + k] += host[alpha_offset(cam) + l * K + k];
  }
  const int n_vision = cam->n_view * cam->n_patch;
  if (cam->vision && cam->n_view_seen == cam->n_view)
    add_patches(cam, cam->vision + (int64_t)cam->map * n_vision, host + vision);
}

static sl_status run_targets(sl_cam *cam, const sl_image *image, const int *rows, float *host) {
  sl_analysis_context *c = cam->context;
  const sl_probe probe = {.user = cam, .wants = wants, .see = see};
  SL_TRY(sl_session_forward(c->session, c->layout, image, rows, c->n_answer, cam->logits, NULL, true));
  for (int m = 0; m < cam->n_map; m++) {
    set_target(cam, m);
    cam->n_view_seen = 0;
    SL_TRY(sl_session_backward(c->session, rows, c->n_answer, cam->gradient, &probe, cam->options.vision));
    SL_TRY(sl_context_check_cancel(c));
    collect(cam, host);
  }
  return SL_OK;
}

sl_status sl_cam_add(sl_cam *cam, const float *pixels) {
  sl_analysis_context *c = cam->context;
  sl_image *fresh = NULL;
  int *rows = NULL;
  float *host = NULL;
  sl_status status = SL_ALLOC(rows, (size_t)c->n_answer, "answer rows");
  if (status == SL_OK) {
    for (int a = 0; a < c->n_answer; a++) rows[a] = c->layout->n_prompt + a - 1;
    status = SL_ALLOC(host, (size_t)vision_offset(cam) + (size_t)cam->n_view * (size_t)cam->n_patch, "maps");
  }
  /* The context's picture was encoded without what a backward pass through the tower needs. */
  if (status == SL_OK && (pixels || cam->options.vision))
    status = sl_image_encode(&fresh, c->session, pixels ? pixels : c->pixels, c->pack, NULL, cam->options.vision);
  if (status == SL_OK) status = run_targets(cam, fresh ? fresh : c->image, rows, host);
  if (status == SL_OK) cam->n_added++;
  sl_image_free(fresh);
  free(rows);
  free(host);
  return status;
}

/* Channels of a site: width of the residual stream, or heads times head width. */
static int site_channels(const sl_part_shape *shape, sl_site site) {
  const sl_site_shape kind = sl_site_get(site)->shape;
  if (kind == SL_SHAPE_KV) return shape->n_head_kv * shape->d_head;
  return kind == SL_SHAPE_HEADS ? shape->n_head * shape->d_head : shape->d_model;
}

sl_status sl_cam_init(sl_cam *cam, sl_analysis_context *context, const sl_cam_options *options) {
  const sl_model_shape *shape = sl_model_get_shape(context->model);
  *cam = (sl_cam){.context = context, .options = *options, .n_layer = shape->decoder.n_layer,
                  .n_map = options->per_token ? 1 + context->n_answer : 1, .n_image = context->layout->n_image,
                  .n_view = context->pack ? context->pack->n_view : 1,
                  .n_patch = context->pack ? context->pack->patch_rows * context->pack->patch_cols
                                           : shape->grid_height * shape->grid_width,
                  .n_channel = site_channels(&shape->decoder, options->site)};
  const size_t L = (size_t)cam->n_layer, A = (size_t)cam->n_map, Q = (size_t)context->n_answer;
  const size_t n_vision = (size_t)cam->n_view * (size_t)cam->n_patch, d_vision = (size_t)shape->vision.d_model;
  const size_t n_device = (size_t)vision_offset(cam) + n_vision + d_vision;
  sl_status status = SL_ALLOC(cam->heat, L * A * (size_t)cam->n_image, "maps");
  if (status == SL_OK && options->alpha)
    status = SL_ALLOC(cam->alpha, L * A * (size_t)cam->n_channel, "channel weights");
  if (status == SL_OK && options->vision) status = SL_ALLOC(cam->vision, A * n_vision, "maps");
  if (status == SL_OK) status = SL_ALLOC(cam->value, A, "targets");
  if (status == SL_OK) status = SL_ALLOC(cam->defined, L, "maps");
  if (status == SL_OK) status = SL_ALLOC(cam->logits, Q * (size_t)shape->n_vocab, "logits");
  if (status == SL_OK) status = SL_ALLOC(cam->gradient, Q * (size_t)shape->n_vocab, "gradients");
  if (status == SL_OK)
    status = sl_buffer_new(&cam->device, sl_model_get_backend(context->model), n_device * sizeof(float), "maps");
  if (status == SL_OK && options->vision)
    status = sl_buffer_new(&cam->tower, sl_model_get_backend(context->model), 2 * n_vision * d_vision * sizeof(float),
                           "tower features");
  if (status != SL_OK) sl_cam_dispose(cam);
  return status;
}

static void divide(float *values, int64_t n, int by) {
  for (int64_t i = 0; values && i < n; i++) values[i] /= (float)by;
}

void sl_cam_finish(sl_cam *cam) {
  const int64_t n_row = (int64_t)cam->n_layer * cam->n_map;
  if (cam->n_added < 2) return;
  divide(cam->heat, n_row * cam->n_image, cam->n_added);
  divide(cam->alpha, n_row * cam->n_channel, cam->n_added);
  divide(cam->vision, (int64_t)cam->n_map * cam->n_view * cam->n_patch, cam->n_added);
  for (int m = 0; m < cam->n_map; m++) cam->value[m] /= cam->n_added;
}

void sl_cam_dispose(sl_cam *cam) {
  sl_buffer_free(cam->device);
  sl_buffer_free(cam->tower);
  free(cam->heat);
  free(cam->alpha);
  free(cam->vision);
  free(cam->value);
  free(cam->defined);
  free(cam->logits);
  free(cam->gradient);
  *cam = (sl_cam){0};
}
