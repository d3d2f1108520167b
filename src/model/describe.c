/* What a model is, as JSON: for `info` and for run.json. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/internal.h"
#include "model/keep.h"
#include "model/layout.h"

/* json_pack fails only for want of memory. */
static sl_status packed(json_t *value, json_t **out) {
  *out = value;
  if (!value) SL_FAIL(SL_ERROR_MEMORY, "out of memory while describing the model");
  return SL_OK;
}

static const char *base_name(const char *path) {
  size_t n = strlen(path);
  while (n > 1 && path[n - 1] == '/') n--;
  size_t start = n;
  while (start > 0 && path[start - 1] != '/') start--;
  return path + start;
}

static json_t *part_json(const sl_part_shape *p) {
  return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "n_layer", p->n_layer, "n_layer_stored", p->n_layer_stored,
                   "n_head", p->n_head, "n_head_kv", p->n_head_kv, "d_model", p->d_model, "d_head", p->d_head, "d_mlp",
                   p->d_mlp);
}

sl_status sl_model_to_json(const sl_model *m, json_t **out) {
  const sl_part_shape *t = &m->shape.decoder;
  char hash[17];
  snprintf(hash, sizeof hash, "%016llx", (unsigned long long)m->hash);
  json_t *vision = part_json(&m->shape.vision);
  if (vision) {
    json_object_set_new(vision, "patch_px", json_integer(m->shape.patch_px));
    json_object_set_new(vision, "image_px", json_integer(m->shape.image_px));
    if (m->shape.any_size) json_object_set_new(vision, "any_size", json_true()); /* image_px: of estimates */
    if (m->vision_dir) { /* a folder of its own */
      json_object_set_new(vision, "path", json_string(m->vision_dir));
      json_object_set_new(vision, "path_holds", json_string(m->tower_weights_apart ? "config and weights" : "config"));
    }
  }
  const char *name = base_name(m->dir);
  return packed(json_pack("{s:s, s:s%, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:o}", "path", m->dir,
                          "name", name, strcspn(name, "/"), "family", m->family->name, "title", m->family->title,
                          "hash", hash,
                          "n_layer", t->n_layer, "n_head", t->n_head, "n_head_kv", t->n_head_kv, "d_model", t->d_model,
                          "d_head", t->d_head, "d_mlp", t->d_mlp, "n_vocab", m->shape.n_vocab, "n_image_token",
                          m->shape.n_view_token, "vision", vision),
                out);
}

sl_status sl_model_compute_to_json(const sl_model *m, json_t **out) {
  return packed(json_pack("{s:s, s:s, s:s, s:i}", "backend", sl_backend_name(m->backend), "mode",
                          sl_compute_name(m->compute), "products", sl_backend_describe(m->backend, m->compute),
                          "threads", m->n_thread),
                out);
}

/* The way from the tower's rows to the decoder's. */
static json_t *projector_json(const sl_model *m) {
  json_t *json = part_json(&m->shape.projector);
  if (json) json_object_set_new(json, "kind", json_string(m->kinds.projector->model_type));
  return json;
}

static json_t *unused_json(const sl_model *m) {
  json_t *names = json_array();
  for (int i = 0; names && i < m->n_unused_named; i++)
    json_array_append_new(names, json_string(m->unused[i]));
  return names;
}

static json_t *sites_json(const sl_model *m) {
  json_t *list = json_array();
  for (int part = 0; list && part < SL_PART_COUNT; part++) {
    for (int site = 0; site < SL_SITE_COUNT; site++) {
      const sl_site_row *row = sl_site_get((sl_site)site);
      if (!sl_model_has_site(m, (sl_part)part, (sl_site)site)) continue;
      static const char *const shapes[] = {"[T, width]", "[T, H, d]", "[T, Hkv, d]", "[H, Q, T]", "[Q, V]"};
      static const char *const prefixes[] = {"vision.", "projector.", ""};
      char name[96], module[96];
      snprintf(name, sizeof name, "%s%s", prefixes[part], row->name);
      const bool has_module = sl_model_site_module(module, m, (sl_part)part, (sl_site)site);
      const int layers[] = {m->shape.vision.n_layer, m->shape.projector.n_layer, m->shape.decoder.n_layer};
      const int n_layer = layers[part];
      if (row->per_layer && n_layer == 0) continue;
      json_array_append_new(
          list, json_pack("{s:s, s:s, s:s?, s:i, s:b, s:b}", "name", name, "shape", shapes[row->shape], "module",
                          has_module ? module : NULL, "layers", row->per_layer ? n_layer : 0, "gradient",
                          (int)row->differentiable, "writable", (int)(part == SL_PART_DECODER && row->writable)));
    }
  }
  return list;
}

static json_t *tokens_json(const sl_model *m, const sl_layout *layout) {
  json_t *tokens = json_array();
  for (int t = 0; tokens && t < layout->n_token; t++) {
    size_t n = 0;
    const char *piece = sl_model_piece(m, layout->ids[t], &n);
    json_array_append_new(tokens, json_pack("{s:i, s:i, s:s%, s:s, s:s}", "position", t, "id", layout->ids[t], "piece",
                                            piece ? piece : "", piece ? n : (size_t)0, "class",
                                            sl_class_name((sl_token_class)layout->classes[t]), "role",
                                            sl_role_name((sl_token_role)layout->roles[t])));
  }
  return tokens;
}

/* Floating-point operations of one pass of n_row rows through a block stack: its products, and attention's own two (of
 * which causal attention computes half). */
static double stack_flop(const sl_block_shape *s, int n_layer, int n_row) {
  const double heads = (double)s->n_head * s->d_head;
  const double products = s->d_model * (sl_block_qkv_width(s) + heads + sl_block_up_width(s) + s->d_mlp);
  const double attention = 2 * n_row * heads * (s->causal ? 0.5 : 1);
  return 2 * n_layer * n_row * (products + attention);
}

/* Rows that a pass works on, and what one block needs beside them: of the tower's views one after another, or of the
 * decoder, there and back. */
static double working_bytes(const sl_model *m, int n_token, int n_view, int n_view_row) {
  const sl_block_shape *t = &m->tower.shape, *d = &m->decoder.shape;
  const int64_t tower =
      sl_scratch_need(n_view * n_view_row, t->d_model) + sl_block_forward_scratch(t, n_view_row, n_view_row, 0);
  const int64_t forward = sl_block_forward_scratch(d, n_token, n_token, 0);
  const int64_t back = sl_block_backward_scratch(d, n_token, true);
  const int64_t decoder = sl_scratch_need(n_token, d->d_model) + (back > forward ? back : forward);
  return (double)(tower > decoder ? tower : decoder) * sizeof(float);
}

/* Bytes and operations of work on a prompt of n_token rows and n_view views. A pass is tower, decoder and the last
 * row's logits; CAM is a pass and the gradients of the decoder's activations. */
static json_t *estimate_json(const sl_model *m, int n_token, int n_view, int n_view_row) {
  const sl_decoder *d = &m->decoder;
  const double kv = 2.0 * d->n_layer * n_token * d->shape.n_head_kv * d->shape.d_head * sizeof(float);
  const double decoder = stack_flop(&d->shape, d->n_layer, n_token);
  const double flop = decoder + n_view * stack_flop(&m->tower.shape, m->tower.n_layer, n_view_row) +
                      2.0 * d->n_vocab * d->shape.d_model;
  const sl_keep_counts most = sl_keep_choose(&d->shape, d->n_layer, n_token, SIZE_MAX);
  const sl_keep_counts least = sl_keep_choose(&d->shape, d->n_layer, n_token, 0);
  const double keep_all = (double)sl_keep_bytes(&d->shape, d->n_layer, n_token, most);
  const double keep_inputs = (double)sl_keep_bytes(&d->shape, d->n_layer, n_token, least);
  return json_pack("{s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "tokens", n_token, "views", n_view, "weights_bytes",
                   (double)m->packed_bytes, "kv_cache_bytes", kv, "forward_flop", flop, "cam_flop", flop + decoder,
                   "cam_keep_bytes", keep_all, "cam_recompute_bytes", keep_inputs, "working_bytes",
                   working_bytes(m, n_token, n_view, n_view_row));
}

/* Pictures as large as they may be, from square to four times as long as wide: among them is one with the most tokens
 * that a model's tiles, or the limits of its image processor, let it have. */
static const int large_px[][2] = {{10000, 10000}, {10000, 7500}, {7500, 10000}, {10000, 5000},
                                  {5000, 10000},  {10000, 2500}, {2500, 10000}};

/* The estimate for the one of them with the most image tokens; NULL where none has more than n_least. */
static json_t *largest_json(const sl_model *m, const char *question, int n_text, int n_least) {
  int n_image = n_least, n_view = 0, n_view_row = 0;
  const int *px = NULL;
  for (size_t i = 0; i < sizeof large_px / sizeof *large_px; i++) {
    sl_views views = {0};
    sl_pack pack = {0};
    sl_status status = sl_views_plan(&views, &m->preprocess, large_px[i][0], large_px[i][1]);
    if (status == SL_OK) status = sl_pack_make(&pack, m, &views, question);
    /* One that the model refuses, or has no positions for, is not its largest. */
    if (status == SL_OK && pack.n > n_image && pack.n <= m->shape.max_position - n_text) {
      px = large_px[i];
      n_image = pack.n;
      n_view = pack.n_view;
      n_view_row = pack.n_view_row;
    }
    sl_pack_dispose(&pack);
    sl_views_dispose(&views);
  }
  if (!px) return NULL;
  json_t *json = estimate_json(m, n_text + n_image, n_view, n_view_row);
  if (json) json_object_set_new(json, "image_tokens", json_integer(n_image));
  if (json) json_object_set_new(json, "width_px", json_integer(px[0]));
  if (json) json_object_set_new(json, "height_px", json_integer(px[1]));
  return json;
}

static sl_status add_layout(const sl_model *m, const char *question, json_t *root) {
  sl_layout layout = {0};
  sl_pack pack = {0};
  SL_TRY(sl_pack_square(&pack, m, question));
  const int n_view = pack.n_view, n_view_row = pack.n_view_row;
  const sl_status status = sl_layout_build(&layout, m, &pack, question, false);
  sl_pack_dispose(&pack);
  SL_TRY(status);
  json_object_set_new(root, "prompt", json_pack("{s:s, s:s, s:o}", "question", question, "text", layout.text, "tokens",
                                                tokens_json(m, &layout)));
  json_t *estimate = estimate_json(m, layout.n_token, n_view, n_view_row);
  json_t *largest = largest_json(m, question, layout.n_token - layout.n_image, layout.n_image);
  if (estimate && largest) json_object_set_new(estimate, "largest", largest);
  json_object_set_new(root, "estimate", estimate);
  sl_layout_dispose(&layout);
  return SL_OK;
}

sl_status sl_model_describe(const sl_model *m, const char *question, char **json) {
  json_t *root = NULL, *compute = NULL;
  SL_TRY(sl_model_to_json(m, &root));
  sl_status status = sl_model_compute_to_json(m, &compute);
  json_object_set_new(root, "compute", compute);
  json_object_set_new(root, "template", json_string(m->frame));
  json_object_set_new(root, "grid",
                      json_pack("{s:i, s:i}", "height", m->shape.grid_height, "width", m->shape.grid_width));
  json_object_set_new(root, "projector", projector_json(m));
  json_object_set_new(root, "decoder", part_json(&m->shape.decoder));
  json_object_set_new(root, "weights", json_pack("{s:i, s:f, s:f, s:[], s:i, s:o}", "found", m->n_found, "bytes",
                                                 (double)m->weight_bytes, "packed_bytes", (double)m->packed_bytes,
                                                 "missing", "unused_count", m->n_unused, "unused", unused_json(m)));
  json_object_set_new(root, "sites", sites_json(m));
  if (status == SL_OK && question) status = add_layout(m, question, root);
  if (status == SL_OK) status = sl_json_print(root, 2, json);
  json_decref(root);
  return status;
}
