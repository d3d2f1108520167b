/* Opening and closing a model folder. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/internal.h"

#define MAX_HEAD_WIDTH 256 /* of the backends' attention */

/* Fills derived sizes and refuses numbers that contradict each other. */
static sl_status check_text(sl_config *c, const char *name) {
  if (c->text.d_head == 0) {
    if (c->text.d_model % c->text.n_head != 0)
      SL_FAIL(SL_ERROR_FORMAT, "%s: text_config.hidden_size %d is not a multiple of num_attention_heads %d", name,
              c->text.d_model, c->text.n_head);
    c->text.d_head = c->text.d_model / c->text.n_head;
  }
  if (c->text.n_head_kv == 0) c->text.n_head_kv = c->text.n_head;
  if (c->text.n_head % c->text.n_head_kv != 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: text_config.num_attention_heads %d is not a multiple of num_key_value_heads %d", name,
            c->text.n_head, c->text.n_head_kv);
  if (c->text.d_head % 2 != 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: head width %d is odd; rotary embedding needs pairs", name, c->text.d_head);
  if (c->text.d_head > MAX_HEAD_WIDTH)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: head width %d; sightline's limit is %d", name, c->text.d_head, MAX_HEAD_WIDTH);
  if (!(c->text.eps >= 0) || !isfinite(c->text.eps))
    SL_FAIL(SL_ERROR_FORMAT, "%s: text_config.rms_norm_eps is %g; expected a number >= 0", name, c->text.eps);
  if (!(c->text.rope_theta > 0) || !isfinite(c->text.rope_theta))
    SL_FAIL(SL_ERROR_FORMAT, "%s: text_config.rope_theta is %g; expected a number > 0", name, c->text.rope_theta);
  return SL_OK;
}

static sl_status check_vision(const sl_config *c, const char *name) {
  if (c->vision.d_model % c->vision.n_head != 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: vision_config.hidden_size %d is not a multiple of num_attention_heads %d", name,
            c->vision.d_model, c->vision.n_head);
  if (c->vision.d_model / c->vision.n_head > MAX_HEAD_WIDTH)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: the tower's head width %d; sightline's limit is %d", name,
            c->vision.d_model / c->vision.n_head, MAX_HEAD_WIDTH);
  if (c->vision.image_px < c->vision.patch_px)
    SL_FAIL(SL_ERROR_FORMAT, "%s: vision_config.image_size %d is smaller than patch_size %d", name, c->vision.image_px,
            c->vision.patch_px);
  if (!(c->vision.eps >= 0) || !isfinite(c->vision.eps))
    SL_FAIL(SL_ERROR_FORMAT, "%s: vision_config.layer_norm_eps is %g; expected a number >= 0", name, c->vision.eps);
  const int layer = c->feature_layer;
  if (layer > c->vision.n_layer || layer < -c->vision.n_layer - 1)
    SL_FAIL(SL_ERROR_FORMAT, "%s: vision_feature_layer %d is outside the tower's %d layers", name, layer,
            c->vision.n_layer);
  if (c->image_token_id < 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: image_token_index %d is negative", name, c->image_token_id);
  return SL_OK;
}

/* Products of sizes are computed in int all over nn: the largest must fit. */
static sl_status check_total(const sl_config *c, const char *name) {
  const int64_t grid = c->vision.image_px / c->vision.patch_px;
  const int64_t widths[] = {(int64_t)(c->text.n_head + 2 * c->text.n_head_kv) * c->text.d_head,
                            (int64_t)3 * c->vision.patch_px * c->vision.patch_px, grid * grid + 1};
  for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
    if (widths[i] > 4194304)
      SL_FAIL(SL_ERROR_FORMAT, "%s: its sizes multiply to a width of %lld; sightline's limit is 4194304", name,
              (long long)widths[i]);
  return SL_OK;
}

static void fill_shapes(sl_model *m) {
  const sl_config *c = &m->config;
  const int run = c->feature_layer >= 0 ? c->feature_layer : c->vision.n_layer + 1 + c->feature_layer;
  const int grid = c->vision.image_px / c->vision.patch_px;
  const bool keeps_cls = strcmp(c->feature_strategy, "full") == 0;
  m->shape = (sl_model_shape){
      .vision = {run, c->vision.n_layer, c->vision.n_head, c->vision.n_head, c->vision.d_model,
                 c->vision.d_model / c->vision.n_head, c->vision.d_mlp},
      .decoder = {c->text.n_layer, c->layer_period ? c->layer_period : c->text.n_layer, c->text.n_head,
                  c->text.n_head_kv, c->text.d_model, c->text.d_head, c->text.d_mlp},
      .n_vocab = c->text.n_vocab,
      .image_px = c->vision.image_px,
      .patch_px = c->vision.patch_px,
      .grid_height = grid,
      .grid_width = grid,
      .n_image_token = grid * grid + (keeps_cls ? 1 : 0),
      .keeps_cls = keeps_cls,
      .image_token_id = c->image_token_id,
      .bos_id = -1,
      .eos_id = -1,
      .max_position = c->text.max_position,
  };
}

static sl_status fill_nn(sl_model *m, const char *name) {
  const sl_config *c = &m->config;
  sl_act vision_act, text_act;
  SL_TRY(sl_config_act(c->vision.act, "vision_config.hidden_act", name, &vision_act));
  SL_TRY(sl_config_act(c->text.act, "text_config.hidden_act", name, &text_act));
  SL_TRY(sl_config_act(c->projector.act, "projector_hidden_act", name, &m->projector.act));
  const sl_part_shape *v = &m->shape.vision, *t = &m->shape.decoder;
  m->tower.shape = (sl_block_shape){.part = SL_PART_VISION, .d_model = v->d_model, .n_head = v->n_head,
                                    .n_head_kv = v->n_head, .d_head = v->d_head, .d_mlp = v->d_mlp,
                                    .norm = SL_NORM_LAYER, .eps = (float)c->vision.eps, .act = vision_act};
  m->tower.n_layer = v->n_layer;
  m->tower.n_patch = m->shape.grid_height * m->shape.grid_width;
  m->decoder.shape = (sl_block_shape){.part = SL_PART_DECODER, .d_model = t->d_model, .n_head = t->n_head,
                                      .n_head_kv = t->n_head_kv, .d_head = t->d_head, .d_mlp = t->d_mlp,
                                      .norm = SL_NORM_RMS, .eps = (float)c->text.eps, .act = text_act, .gated = true,
                                      .causal = true};
  m->decoder.n_layer = t->n_layer;
  m->decoder.n_vocab = c->text.n_vocab;
  return SL_OK;
}

sl_status sl_model_read_config(sl_model *m, json_t *json, const char *name) {
  SL_TRY(sl_family_find(&m->family, json, name));
  SL_TRY(sl_config_fill(&m->config, json, m->family->fields, m->family->n_field, name));
  SL_TRY(check_text(&m->config, name));
  SL_TRY(check_vision(&m->config, name));
  SL_TRY(check_total(&m->config, name));
  SL_TRY(m->family->check(&m->config, name));
  fill_shapes(m);
  return fill_nn(m, name);
}

static sl_status open_config(sl_model *m) {
  char *name = NULL;
  SL_TRY(sl_config_load(&m->config.json, m->dir, &name));
  const sl_status status = sl_model_read_config(m, m->config.json, name);
  free(name);
  return status;
}

/* Adds an end token; ids outside the vocabulary and repetitions are left out. */
static void add_eos(sl_model_shape *shape, const json_t *value) {
  const int capacity = (int)(sizeof shape->eos_ids / sizeof *shape->eos_ids);
  if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) >= shape->n_vocab) return;
  const int id = (int)json_integer_value(value);
  if (!sl_shape_is_eos(shape, id) && shape->n_eos < capacity) shape->eos_ids[shape->n_eos++] = id;
}

/* eos_token_id is a number or a list. */
static void add_all_eos(sl_model_shape *shape, const json_t *value) {
  if (!json_is_array(value)) add_eos(shape, value);
  for (size_t i = 0; i < json_array_size(value); i++) add_eos(shape, json_array_get(value, i));
}

/* End tokens from generation_config.json, else config.json, else the tokenizer's "</s>". */
static sl_status find_eos(sl_model *m) {
  json_t *generation = NULL;
  char *path = NULL;
  SL_TRY(sl_path_join(&path, m->dir, "generation_config.json"));
  const sl_status status = sl_json_load(&generation, path, (size_t)1 << 20);
  free(path);
  if (status != SL_OK && status != SL_ERROR_FILE) return status;
  if (generation) add_all_eos(&m->shape, sl_json_at(generation, "eos_token_id"));
  json_decref(generation);
  static const char *const keys[] = {"eos_token_id", "text_config.eos_token_id"};
  for (int k = 0; k < 2 && m->shape.n_eos == 0; k++) add_all_eos(&m->shape, sl_json_at(m->config.json, keys[k]));
  const int end = sl_tokenizer_find(m->tokenizer, "</s>");
  if (m->shape.n_eos == 0 && end >= 0) m->shape.eos_ids[m->shape.n_eos++] = end;
  m->shape.eos_id = m->shape.n_eos > 0 ? m->shape.eos_ids[0] : -1;
  m->shape.bos_id = sl_tokenizer_find(m->tokenizer, "<s>");
  return SL_OK;
}

static sl_status open_text(sl_model *m) {
  char *path = NULL;
  SL_TRY(sl_path_join(&path, m->dir, "tokenizer.json"));
  sl_status status = sl_tokenizer_open(&m->tokenizer, path);
  if (status == SL_OK) {
    const int id = sl_tokenizer_find(m->tokenizer, m->family->placeholder);
    if (id != m->shape.image_token_id)
      status = sl_fail(SL_ERROR_FORMAT, "%s: \"%s\" has id %d; config.json's image_token_index is %d", path,
                       m->family->placeholder, id, m->shape.image_token_id);
  }
  free(path);
  SL_TRY(status);
  return find_eos(m);
}

static sl_status choose_compute(sl_model *m, const char *wanted) {
  if (strcmp(wanted, "auto") == 0) {
    m->compute = sl_backend_default_compute(m->backend);
    return SL_OK;
  }
  for (int i = 0; i < SL_COMPUTE_COUNT; i++) {
    if (strcmp(wanted, sl_compute_name((sl_compute)i)) != 0) continue;
    m->compute = (sl_compute)i;
    return SL_OK;
  }
  SL_FAIL(SL_ERROR_ARGUMENT, "compute mode \"%s\" is unknown; expected auto, bf16, bf16x2 or f32", wanted);
}

static sl_status choose_backend(sl_model *m, const sl_model_options *options) {
  SL_TRY(sl_backend_open(&m->backend, options->backend ? options->backend : "cpu"));
  SL_TRY(choose_compute(m, options->compute ? options->compute : "auto"));
  m->tower.shape.compute = m->decoder.shape.compute = m->compute;
  return SL_OK;
}

static sl_status check_preprocess(const sl_model *m) {
  const sl_preprocess *p = &m->preprocess;
  const int height = p->do_center_crop ? p->crop_height_px : p->resize_height_px;
  const int width = p->do_center_crop ? p->crop_width_px : p->resize_width_px;
  if (height == m->shape.image_px && width == m->shape.image_px) return SL_OK;
  SL_FAIL(SL_ERROR_FORMAT, "%s: the image processor makes pictures of %d x %d px; the tower's image_size is %d", m->dir,
          width, height, m->shape.image_px);
}

static sl_status open_all(sl_model *m, const char *path, const sl_model_options *options) {
  SL_TRY(sl_strdup(&m->dir, path));
  SL_TRY(open_config(m));
  SL_TRY(sl_preprocess_read(&m->preprocess, path));
  SL_TRY(check_preprocess(m));
  SL_TRY(open_text(m));
  sl_model_compare_template(m, options);
  SL_TRY(choose_backend(m, options));
  return sl_model_load(m, options);
}

/* The caller's options as this library knows them: a caller built against an older, shorter struct leaves the rest 0. */
static sl_status read_options(sl_model_options *out, const sl_model_options *options) {
  *out = (sl_model_options){.size = sizeof *out};
  if (!options) return SL_OK;
  if (options->size == 0 || options->size > sizeof *out)
    SL_FAIL(SL_ERROR_ARGUMENT, "sl_model_options has size %zu; this library knows 1 to %zu", options->size, sizeof *out);
  memcpy(out, options, options->size);
  return SL_OK;
}

sl_status sl_model_open(sl_model **out, const char *path, const sl_model_options *options) {
  *out = NULL;
  sl_model_options own;
  size_t bad = 0;
  SL_TRY(read_options(&own, options));
  if (!sl_utf8_valid(path, strlen(path), &bad))
    SL_FAIL(SL_ERROR_ARGUMENT, "the model folder's path is not UTF-8 (byte %zu)", bad);
  sl_model *m = NULL;
  SL_TRY(SL_ALLOC(m, 1, "model"));
  const sl_status status = open_all(m, path, &own);
  if (status != SL_OK) {
    sl_model_close(m);
    return status;
  }
  *out = m;
  return SL_OK;
}

void sl_model_close(sl_model *m) {
  if (!m) return;
  sl_model_unload(m);
  sl_backend_close(m->backend);
  sl_tokenizer_close(m->tokenizer);
  json_decref(m->config.json);
  free(m->dir);
  free(m);
}

const sl_model_shape *sl_model_get_shape(const sl_model *m) { return &m->shape; }
const sl_tokenizer *sl_model_get_tokenizer(const sl_model *m) { return m->tokenizer; }
const sl_preprocess *sl_model_get_preprocess(const sl_model *m) { return &m->preprocess; }
sl_compute sl_model_get_compute(const sl_model *m) { return m->compute; }
const sl_backend *sl_model_get_backend(const sl_model *m) { return m->backend; }
const char *sl_model_get_template(const sl_model *m) { return m->family->prompt; }
