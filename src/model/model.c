/* Opening and closing a model folder. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/internal.h"
#include "model/rope.h"
#include "model/tower_folder.h"

#define MAX_HEAD_WIDTH 256 /* of the backends' attention */

/* Fills derived sizes and refuses numbers that contradict each other. `section` is where messages look. */
static sl_status check_text(sl_config *c, const char *section, const char *name) {
  const char *dot = section[0] ? "." : "";
  if (c->text.d_head == 0) {
    if (c->text.d_model % c->text.n_head != 0)
      SL_FAIL(SL_ERROR_FORMAT, "%s: %s%shidden_size %d is not a multiple of num_attention_heads %d", name, section, dot,
              c->text.d_model, c->text.n_head);
    c->text.d_head = c->text.d_model / c->text.n_head;
  }
  if (c->text.n_head_kv == 0) c->text.n_head_kv = c->text.n_head;
  if (c->text.n_head % c->text.n_head_kv != 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s%snum_attention_heads %d is not a multiple of num_key_value_heads %d", name,
            section, dot, c->text.n_head, c->text.n_head_kv);
  if (c->text.d_head % 2 != 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: head width %d is odd; rotary embedding needs pairs", name, c->text.d_head);
  if (c->text.d_head > MAX_HEAD_WIDTH)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: head width %d; sightline's limit is %d", name, c->text.d_head, MAX_HEAD_WIDTH);
  if (!(c->text.eps >= 0) || !isfinite(c->text.eps))
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s%srms_norm_eps is %g; expected a number >= 0", name, section, dot, c->text.eps);
  if (!(c->text.rope_theta > 0) || !isfinite(c->text.rope_theta))
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s%srope_theta is %g; expected a number > 0", name, section, dot, c->text.rope_theta);
  return sl_rope_check(c, name);
}

static sl_status check_vision(const sl_config *c, const char *section, const char *name) {
  if (c->vision.d_model % c->vision.n_head != 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s: the tower's hidden_size %d is not a multiple of its num_attention_heads %d", name,
            section, c->vision.d_model, c->vision.n_head);
  if (c->vision.d_model / c->vision.n_head > MAX_HEAD_WIDTH)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: the tower's head width %d; sightline's limit is %d", name,
            c->vision.d_model / c->vision.n_head, MAX_HEAD_WIDTH);
  if (c->vision.image_px < c->vision.patch_px)
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s.image_size %d is smaller than patch_size %d", name, section, c->vision.image_px,
            c->vision.patch_px);
  if (c->vision.image_px / c->vision.patch_px % c->projector.merge != 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: the tower's %d patches a side do not divide into cells of %d", name,
            c->vision.image_px / c->vision.patch_px, c->projector.merge);
  if (!(c->vision.eps >= 0) || !isfinite(c->vision.eps))
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s.layer_norm_eps is %g; expected a number >= 0", name, section, c->vision.eps);
  return SL_OK;
}

/* Which layers' features are taken: the model's own choice. */
static sl_status check_features(const sl_config *c, const char *name) {
  for (int i = 0; i < sl_feature_count(c); i++) {
    const int layer = sl_feature_layer(c, i);
    if (layer > c->vision.n_layer || layer < -c->vision.n_layer - 1)
      SL_FAIL(SL_ERROR_FORMAT, "%s: vision_feature_layer %d is outside the tower's %d layers", name, layer,
              c->vision.n_layer);
  }
  return SL_OK;
}

/* Blocks behind which the i-th feature layer lies. */
static int depth_of(const sl_config *c, int i) {
  const int layer = sl_feature_layer(c, i);
  return layer >= 0 ? layer : c->vision.n_layer + 1 + layer;
}

/* The deepest one: no later block is run. */
static int deepest(const sl_config *c) {
  int most = 0;
  for (int i = 1; i < sl_feature_count(c); i++)
    if (depth_of(c, i) > depth_of(c, most)) most = i;
  return most;
}

/* Queries of a resampler or Q-Former. */
static sl_status check_projector(const sl_config *c, const char *name) {
  if (c->projector.n_head == 0) return SL_OK;
  const int width = c->projector.d_model / c->projector.n_head;
  if (width > MAX_HEAD_WIDTH)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: the projector's head width %d; sightline's limit is %d", name, width,
            MAX_HEAD_WIDTH);
  if (!(c->projector.eps >= 0) || !isfinite(c->projector.eps))
    SL_FAIL(SL_ERROR_FORMAT, "%s: the projector's layer_norm_eps is %g; expected a number >= 0", name,
            c->projector.eps);
  return SL_OK;
}

/* Products of sizes are computed in int all over nn: the largest must fit. */
static sl_status check_total(const sl_config *c, const char *name) {
  const int64_t grid = c->vision.image_px / c->vision.patch_px;
  const int64_t widths[] = {
      (int64_t)(c->text.n_head + 2 * c->text.n_head_kv) * c->text.d_head,
      (int64_t)3 * (c->vision.n_frame > 0 ? c->vision.n_frame : 1) * c->vision.patch_px * c->vision.patch_px,
      grid * grid + 1, (int64_t)c->vision.d_model * c->projector.merge * c->projector.merge * sl_feature_count(c)};
  for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
    if (widths[i] > 4194304)
      SL_FAIL(SL_ERROR_FORMAT, "%s: its sizes multiply to a width of %lld; sightline's limit is 4194304", name,
              (long long)widths[i]);
  return SL_OK;
}

static void fill_shapes(sl_model *m) {
  const sl_config *c = &m->config;
  const int run = depth_of(c, deepest(c));
  const int grid = c->vision.image_px / c->vision.patch_px, cells = grid / c->projector.merge;
  const bool queries = sl_model_has_queries(m);
  const bool keeps_cls = !queries && c->vision.n_class > 0 && strcmp(c->feature_strategy, "full") == 0;
  m->shape = (sl_model_shape){
      .vision = {run, c->vision.n_layer, c->vision.n_head, c->vision.n_head, c->vision.d_model,
                 c->vision.d_model / c->vision.n_head, c->vision.d_mlp},
      .projector = {c->projector.n_layer, c->projector.n_layer, c->projector.n_head, c->projector.n_head,
                    c->projector.d_model, c->projector.n_head ? c->projector.d_model / c->projector.n_head : 0,
                    c->projector.d_mlp},
      .decoder = {c->text.n_layer, c->layer_period ? c->layer_period : c->text.n_layer, c->text.n_head,
                  c->text.n_head_kv, c->text.d_model, c->text.d_head, c->text.d_mlp},
      .n_vocab = c->text.n_vocab,
      .image_px = c->vision.image_px,
      .patch_px = c->vision.patch_px,
      .any_size = c->vision.any_size,
      .grid_height = grid,
      .grid_width = grid,
      .cell_rows = queries ? 0 : cells,
      .cell_cols = queries ? 0 : cells,
      .n_view_token = queries ? c->projector.n_query : cells * cells + (keeps_cls ? 1 : 0),
      .keeps_cls = keeps_cls,
      .image_token_id = c->image_token_id,
      .max_position = c->text.max_position,
  };
}

static sl_status fill_nn(sl_model *m, const char *name, const char *tower) {
  const sl_config *c = &m->config;
  sl_act vision_act, text_act;
  SL_TRY(sl_config_act(c->vision.act, "hidden_act of the tower", tower, &vision_act));
  SL_TRY(sl_config_act(c->text.act, "hidden_act of the decoder", name, &text_act));
  if (c->projector.act) SL_TRY(sl_config_act(c->projector.act, "projector_hidden_act", name, &m->projector.act));
  m->projector.norm = c->projector.rms ? SL_NORM_RMS : SL_NORM_LAYER;
  m->projector.norm_eps = (float)c->projector.eps;
  const sl_part_shape *v = &m->shape.vision, *t = &m->shape.decoder;
  m->tower.shape = (sl_block_shape){.part = SL_PART_VISION, .d_model = v->d_model, .n_head = v->n_head,
                                    .n_head_kv = v->n_head, .d_head = v->d_head, .d_mlp = v->d_mlp,
                                    .norm = strcmp(c->vision.norm, "rms_norm") == 0 ? SL_NORM_RMS : SL_NORM_LAYER,
                                    .eps = (float)c->vision.eps, .act = vision_act,
                                    .qk_norm = c->vision.qk_norm ? SL_QK_NORM_WIDTH : SL_QK_NORM_NONE,
                                    .qk_eps = (float)c->vision.qk_eps, .gated = c->vision.gated};
  m->tower.n_layer = v->n_layer;
  m->tower.n_class = c->vision.n_class;
  m->tower.n_patch = m->shape.grid_height * m->shape.grid_width;
  if (c->vision.window_px > 0) {
    for (int il = 0; il < v->n_layer; il++) m->sees_all[il] = c->vision.sees_all[il / 64] >> il % 64 & 1;
    m->tower.sees_all = m->sees_all;
  }
  m->decoder.shape = (sl_block_shape){.part = SL_PART_DECODER,
                                      .d_model = t->d_model,
                                      .n_head = t->n_head,
                                      .n_head_kv = t->n_head_kv,
                                      .d_head = t->d_head,
                                      .d_mlp = t->d_mlp,
                                      .norm = SL_NORM_RMS,
                                      .eps = (float)c->text.eps,
                                      .act = text_act,
                                      .gated = true,
                                      .causal = true,
                                      .window = c->text.sliding_window,
                                      .log_n_length = c->text.log_n ? c->text.trained_length : 0};
  m->decoder.shape.qk_norm = c->text.qk_norm ? SL_QK_NORM_HEAD : SL_QK_NORM_NONE;
  m->decoder.shape.qk_eps = (float)c->text.eps;
  m->decoder.shape.sandwich = c->text.sandwich;
  if (c->text.query_scalar > 0) m->decoder.shape.score_scale = (float)(1 / sqrt(c->text.query_scalar));
  m->shape.score_scale = sl_block_score_scale(&m->decoder.shape);
  m->decoder.local = m->decoder.shape;
  m->decoder.global_every = c->text.global_every;
  if (c->text.global_every > 0) m->decoder.shape.window = 0;
  if (c->text.scales_embeddings) m->decoder.embed_scale = (float)sqrt((double)t->d_model);
  m->decoder.n_layer = t->n_layer;
  m->decoder.n_vocab = c->text.n_vocab;
  return SL_OK;
}

/* Several layers that are read: the tower's stream ends as the deepest, copies of the others lie behind it. List b is
 * the b-th of the file's. */
static void fill_levels(sl_model *m) {
  _Static_assert(SL_MAX_FEATURE_LAYER <= SL_MAX_LEVEL, "one of them is the tower's stream itself");
  const sl_config *c = &m->config;
  const int stream = deepest(c);
  m->tower.n_level = 0;
  for (int b = 0; b < sl_feature_count(c); b++) {
    if (b == stream) continue;
    m->tower.levels[m->tower.n_level] = depth_of(c, b);
    m->select.block[b] = ++m->tower.n_level;
  }
  m->select.n_list = sl_feature_count(c);
  m->select.suffix = m->tower.n_level == 0;
}

/* Patches of a view in rows of m x m blocks: list b holds place b of every block; or list b holds all patches of the
 * b-th layer that is read. */
static sl_status fill_select(sl_model *m) {
  const sl_model_shape *shape = &m->shape;
  const int merge = m->config.projector.merge, cols = shape->cell_cols, grid = shape->grid_width;
  if (shape->cell_rows == 0) return SL_OK; /* queries read all rows */
  sl_select *s = &m->select;
  *s = (sl_select){.n_list = merge * merge, .n_row = shape->n_view_token};
  if (merge == 1) fill_levels(m);
  SL_TRY(SL_ALLOC(s->rows, (size_t)s->n_list * (size_t)s->n_row, "projector rows"));
  const int first = m->tower.n_class - (shape->keeps_cls ? 1 : 0); /* of the tower's rows that are taken */
  for (int b = 0; b < s->n_list; b++)
    for (int i = 0; i < s->n_row; i++) {
      const int row = m->config.projector.transposed ? i % cols : i / cols;
      const int col = m->config.projector.transposed ? i / cols : i % cols;
      s->rows[b * s->n_row + i] =
          first + (merge == 1 ? i : (row * merge + b / merge) * grid + col * merge + b % merge);
    }
  return SL_OK;
}

/* The prompt's text with its system text: the config's own, or the template's. */
static sl_status fill_frame(sl_model *m, json_t *json, const char *name) {
  const char *system = m->prompt->system ? m->prompt->system : "", *text = m->prompt->text;
  if (m->family->system_key) SL_TRY(sl_json_get_string(json, m->family->system_key, &system, name));
  const char *slot = strstr(text, "{system}");
  if (!slot) return sl_strdup(&m->frame, text);
  sl_text frame = {0};
  const sl_status status =
      sl_text_format(&frame, "%.*s%s%s", (int)(slot - text), text, system, slot + strlen("{system}"));
  if (status == SL_OK)
    m->frame = frame.data;
  else
    sl_text_dispose(&frame);
  return status;
}

/* A part's kind, and its fields from its section. */
static sl_status read_part(sl_model *m, const sl_part_row *part, const sl_kind **kind, json_t *json, const char *name) {
  SL_TRY(sl_family_kind(kind, m->family, part, json, name));
  return sl_config_fill(&m->config, json, part->section, (*kind)->fields, (*kind)->n_field, name);
}

static sl_status settle_part(sl_model *m, const sl_part_row *part, const sl_kind *kind, json_t *json,
                             const char *name) {
  const json_t *section = part->section[0] ? sl_json_at(json, part->section) : json;
  return kind->settle ? kind->settle(&m->config, section, name) : SL_OK;
}

/* A decoder's rotary scaling stands in rope_scaling (transformers 4) or rope_parameters (5). Of a file with both every
 * version reads the older one alone. Parameters that are told by sorts of layers are the kind's matter. */
static void drop_unread_rope(json_t *json, const char *section) {
  json_t *text = section[0] ? sl_json_at(json, section) : json, *value;
  const char *key;
  bool by_sort = false;
  json_object_foreach(json_object_get(text, "rope_parameters"), key, value) by_sort = by_sort || json_is_object(value);
  if (json_object_size(json_object_get(text, "rope_scaling")) > 0 && !by_sort) json_object_del(text, "rope_parameters");
}

/* tower: the file that told of the tower, for messages; the model's or another. */
static sl_status read_parts(sl_model *m, json_t *json, const char *name, const char *tower) {
  const sl_family *f = m->family;
  m->config.projector.merge = 1;
  SL_TRY(read_part(m, &f->vision, &m->kinds.vision, json, tower));
  drop_unread_rope(json, f->text.section);
  SL_TRY(read_part(m, &f->text, &m->kinds.text, json, name));
  SL_TRY(read_part(m, &f->projector, &m->kinds.projector, json, name));
  SL_TRY(sl_config_fill(&m->config, json, "", f->fields, f->n_field, name));
  SL_TRY(settle_part(m, &f->vision, m->kinds.vision, json, tower));
  SL_TRY(settle_part(m, &f->text, m->kinds.text, json, name));
  SL_TRY(settle_part(m, &f->projector, m->kinds.projector, json, name));
  SL_TRY(check_text(&m->config, f->text.section, name));
  SL_TRY(check_vision(&m->config, f->vision.section, tower));
  SL_TRY(check_features(&m->config, name));
  SL_TRY(check_projector(&m->config, name));
  SL_TRY(check_total(&m->config, name));
  if (f->settle) SL_TRY(f->settle(&m->config, name));
  fill_shapes(m);
  return fill_nn(m, name, tower);
}

sl_status sl_model_read_config(sl_model *m, json_t *json, const char *name) {
  char *tower = NULL;
  SL_TRY(sl_family_find(&m->family, json, name));
  if (m->vision_dir) SL_TRY(sl_path_join(&tower, m->vision_dir, "config.json"));
  const sl_status status = read_parts(m, json, name, tower ? tower : name);
  free(tower);
  return status;
}

/* The tower's own folder, and its config as a section of the model's. A folder given by the caller goes before all, but
 * not before weights of the tower in the model's folder: those were trained further (weights.c). */
static sl_status open_tower(sl_model *m, const char *given, const char *name) {
  json_t *json = m->config.json;
  SL_TRY(sl_family_find(&m->family, json, name));
  if (!m->family->tower_apart) {
    if (!given) return SL_OK;
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: %s holds its vision tower itself; %s as --vision-model has no use", name,
            m->family->title, given);
  }
  if (given)
    SL_TRY(sl_strdup(&m->vision_dir, given));
  else
    SL_TRY(sl_tower_folder_find(&m->vision_dir, m->dir, json_string_value(json_object_get(json, "mm_vision_tower"))));
  if (!given && json_is_object(json_object_get(json, m->family->vision.section))) return SL_OK;
  return sl_tower_folder_config(json, m->dir, m->vision_dir);
}

/* A delta opens like a model and answers nonsense; only the folder's name tells (shikra-7b-delta-v1). */
static void warn_of_delta(const sl_model *m, const sl_model_options *options) {
  const char *slash = strrchr(m->dir, '/'), *name = slash && slash[1] ? slash + 1 : m->dir;
  if (!options->log || !strstr(name, "delta")) return;
  char message[320];
  snprintf(message, sizeof message, "%.120s: by its name these weights are a delta; `sightline convert --delta-base` "
           "adds the model that they were made against", name);
  options->log(options->user, message);
}

static sl_status open_config(sl_model *m, const char *vision_model) {
  char *name = NULL;
  SL_TRY(sl_config_load(&m->config.json, m->dir, &name));
  sl_status status = open_tower(m, vision_model, name);
  if (status == SL_OK) status = sl_model_read_config(m, m->config.json, name);
  free(name);
  return status;
}

/* Adds an end token; -1 (no such token) and repetitions are left out. */
static void add_eos(sl_model_shape *shape, int id) {
  const int capacity = (int)(sizeof shape->eos_ids / sizeof *shape->eos_ids);
  if (id >= 0 && !sl_shape_is_eos(shape, id) && shape->n_eos < capacity) shape->eos_ids[shape->n_eos++] = id;
}

/* One that a file tells; ids outside the vocabulary are left out. */
static void add_told_eos(sl_model_shape *shape, const json_t *value) {
  const json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
  if (id < shape->n_vocab) add_eos(shape, id < 0 ? -1 : (int)id);
}

/* eos_token_id is a number or a list. */
static void add_all_eos(sl_model_shape *shape, const json_t *value) {
  if (!json_is_array(value)) add_told_eos(shape, value);
  for (size_t i = 0; i < json_array_size(value); i++) add_told_eos(shape, json_array_get(value, i));
}

/* End tokens: those of generation_config.json, else of config.json; the family's own; where there are none, "</s>". */
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
  for (const char *const *stop = m->family->stops; stop && *stop; stop++) {
    add_eos(&m->shape, sl_tokenizer_find(m->tokenizer, *stop));
  }
  if (m->shape.n_eos == 0) add_eos(&m->shape, sl_tokenizer_find(m->tokenizer, "</s>"));
  return SL_OK;
}

/* The id that a picture's positions hold: the config's, which must be the tokenizer's, or the tokenizer's alone. Where
 * the picture stands before the text, nothing needs to be found in it: the id may then be -1, no token. */
static sl_status find_image_token(sl_model *m) {
  const char *token = m->family->image_token, *path = m->dir;
  if (m->family->image_cuts_text) return SL_OK;
  const int id = sl_tokenizer_find(m->tokenizer, token);
  if (m->shape.image_token_id < 0) m->shape.image_token_id = id;
  if (id < 0 && m->family->image_before_bos) return SL_OK;
  if (id < 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: its tokenizer has no token \"%s\", which a picture's positions hold", path, token);
  if (id != m->shape.image_token_id)
    SL_FAIL(SL_ERROR_FORMAT, "%s: its tokenizer's \"%s\" has id %d; config.json's image_token_index is %d", path, token,
            id, m->shape.image_token_id);
  return SL_OK;
}

static sl_status open_question_tokenizer(sl_model *m) {
  char *path = NULL;
  SL_TRY(sl_path_join(&path, m->dir, m->family->question_tokenizer));
  const sl_status status = sl_tokenizer_open_folder(&m->question_tokenizer, path, 0);
  free(path);
  return status;
}

static sl_status choose_prompt(sl_model *m, bool own) {
  char *path = NULL;
  SL_TRY(sl_path_join(&path, m->dir, "config.json"));
  sl_status status = sl_family_prompt(&m->prompt, m->family, m->kinds.text, m->tokenizer, m->config.json, path);
  if (status != SL_OK && own) { /* the caller brings the template: any of the family's will do until then */
    m->prompt = m->family->prompts;
    status = SL_OK;
  }
  if (status == SL_OK) status = fill_frame(m, m->config.json, path);
  free(path);
  return status;
}

static sl_status open_text(sl_model *m, bool own_template) {
  SL_TRY(sl_tokenizer_open_folder(&m->tokenizer, m->dir, m->family->tokenizer));
  SL_TRY(choose_prompt(m, own_template));
  SL_TRY(find_image_token(m));
  if (m->family->question_tokenizer) SL_TRY(open_question_tokenizer(m));
  return find_eos(m);
}

static sl_status open_pictures(sl_model *m) {
  char *path = NULL;
  SL_TRY(sl_path_join(&path, m->dir, "config.json"));
  sl_status status = SL_OK;
  if (m->family->preprocess)
    status = m->family->preprocess(&m->preprocess, &m->config, path);
  else if (m->vision_dir || !m->family->tower_apart)
    status = sl_preprocess_read(&m->preprocess, m->vision_dir ? m->vision_dir : m->dir);
  else
    m->preprocess = sl_preprocess_crop(m->config.vision.image_px, SL_NORM_CLIP);
  /* The tower's processor, and what the model says of aspect ratios. */
  if (status == SL_OK && !m->family->preprocess && m->family->tower_apart)
    status = sl_preprocess_add_config(&m->preprocess, m->config.json, path);
  free(path);
  return status;
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
  m->tower.shape.compute = m->decoder.shape.compute = m->decoder.local.compute = m->compute;
  return SL_OK;
}

static sl_status check_preprocess(const sl_model *m) {
  int width = 0, height = 0;
  const sl_preprocess *p = &m->preprocess;
  if (m->shape.any_size) {
    const int merge = m->config.projector.merge;
    if (p->tiling == SL_TILING_SMART && p->patch_px == m->shape.patch_px && p->merge == merge) return SL_OK;
    SL_FAIL(SL_ERROR_FORMAT,
            "%s: the image processor does not cut pictures into patches of %d px and cells of %d x %d, "
            "as config.json does",
            m->dir, m->shape.patch_px, merge, merge);
  }
  sl_preprocess_view_size(&m->preprocess, &width, &height);
  if (height == m->shape.image_px && width == m->shape.image_px) return SL_OK;
  SL_FAIL(SL_ERROR_FORMAT, "%s: the image processor makes pictures of %d x %d px; the tower's image_size is %d", m->dir,
          width, height, m->shape.image_px);
}

static sl_status open_all(sl_model *m, const char *path, const sl_model_options *options) {
  SL_TRY(sl_strdup(&m->dir, path));
  SL_TRY(open_config(m, options->vision_model));
  SL_TRY(fill_select(m));
  SL_TRY(open_pictures(m));
  SL_TRY(check_preprocess(m));
  SL_TRY(open_text(m, options->prompt_template != NULL));
  if (options->prompt_template) SL_TRY(sl_model_set_template(m, options->prompt_template));
  SL_TRY(sl_model_compare_template(m, options));
  warn_of_delta(m, options);
  SL_TRY(choose_backend(m, options));
  return sl_model_load(m, options);
}

/* The caller's options as this library knows them: one built against an older, shorter struct leaves the rest 0. */
static sl_status read_options(sl_model_options *out, const sl_model_options *options) {
  *out = (sl_model_options){.size = sizeof *out};
  if (!options) return SL_OK;
  if (options->size == 0 || options->size > sizeof *out)
    SL_FAIL(SL_ERROR_ARGUMENT, "sl_model_options has size %zu; this library knows 1 to %zu", options->size,
            sizeof *out);
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
  sl_tokenizer_close(m->question_tokenizer);
  free(m->select.rows);
  free(m->vision_dir);
  free(m->frame);
  json_decref(m->config.json);
  free(m->dir);
  free(m);
}

const sl_model_shape *sl_model_get_shape(const sl_model *m) { return &m->shape; }
const sl_tokenizer *sl_model_get_tokenizer(const sl_model *m) { return m->tokenizer; }
const sl_preprocess *sl_model_get_preprocess(const sl_model *m) { return &m->preprocess; }
sl_compute sl_model_get_compute(const sl_model *m) { return m->compute; }
const sl_backend *sl_model_get_backend(const sl_model *m) { return m->backend; }
const char *sl_model_get_template(const sl_model *m) { return m->frame; }
bool sl_model_reads_question(const sl_model *m) { return m->question_tokenizer != NULL; }

const char *sl_model_piece(const sl_model *m, int32_t id, size_t *n_bytes) {
  const char *piece = sl_tokenizer_piece(m->tokenizer, id, n_bytes);
  if (piece || id != m->shape.image_token_id) return piece;
  *n_bytes = strlen(m->family->image_token);
  return m->family->image_token;
}
