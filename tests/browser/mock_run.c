/* The mock: a red square on a meadow, "What is the main object in the image?", and numbers shaped like those that
 * LLaVA-1.5 shows (image share falls early, maps find the object in the middle layers, the last CAM is undefined). */
#include "browser/mock_run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "browser/mock_causal.h"
#include "browser/mock_compare.h"
#include "input/image.h"
#include "store/run.h"

enum { N_LAYER = 12, N_HEAD = 8, N_QUERY = 2, SIDE = 12, N_MAP = 3, PICTURE_PX = 336, N_SINK = 3, N_CLASS = 5 };
enum { LARGE_LAYER = 32, LARGE_HEAD = 32, LARGE_SIDE = 24, MAX_IMAGE = LARGE_SIDE * LARGE_SIDE };
enum { WHOLE_SIDE = SIDE / 2, N_WHOLE = WHOLE_SIDE * WHOLE_SIDE, ROW = SIDE + 1 }; /* MOCK_VIEWS */

typedef struct mock {
  mock_kind kind;
  int n_layer, n_head, side; /* the others than MOCK_LARGE: N_LAYER, N_HEAD, SIDE */
  int n_image;               /* image tokens */
  float box[MAX_IMAGE * 4];
  int32_t view[MAX_IMAGE];   /* -1: shows no part of the picture */
  float object[MAX_IMAGE];   /* 1 on the object */
  sl_run *run;
  float *flow;  /* [L, Q, N] */
  float *share; /* [L, Q, 5] */
  float *heat;  /* [L, A, N] */
} mock;

/* Tokens without a place of their own. */
static bool is_loose(mock_kind kind) { return kind == MOCK_NO_GRID || kind == MOCK_QUERIES; }

static double noise(uint64_t stream, uint64_t index) { return sl_rng_uniform(7, stream, index); }

/* 1 inside the object, soft at its border; (x, y) in 0..1. */
static double object_at(double x, double y) {
  double inside = fmax(fabs(x - 0.56), fabs(y - 0.52)) - 0.17;
  return 1 / (1 + exp(300 * inside));
}

static void paint(uint8_t *rgb, uint8_t *mask) {
  for (int y = 0; y < PICTURE_PX; y++) {
    for (int x = 0; x < PICTURE_PX; x++) {
      double u = (x + 0.5) / PICTURE_PX, v = (y + 0.5) / PICTURE_PX;
      double sky = 1 / (1 + exp(120 * (v - 0.42 - 0.03 * sin(9 * u))));
      double grain = 3 * (noise(1, (uint64_t)(y * PICTURE_PX + x)) - 0.5);
      double colour[3] = {sky * 176 + (1 - sky) * (104 + 20 * v), sky * 205 + (1 - sky) * (146 + 10 * u),
                          sky * 228 + (1 - sky) * 84};
      double sun = 1 / (1 + exp(300 * (hypot(u - 0.17, v - 0.16) - 0.07)));
      double shadow = 0.35 * exp(-30 * (pow(u - 0.58, 2) * 0.7 + pow((v - 0.72) * 3, 2)));
      double object = object_at(u, v);
      double sun_rgb[3] = {250, 226, 140}, object_rgb[3] = {196, 52, 44};
      for (int c = 0; c < 3; c++) {
        double value = (colour[c] * (1 - sun) + sun_rgb[c] * sun) * (1 - shadow) + grain;
        value = value * (1 - object) + (object_rgb[c] * (1.12 - 0.3 * v) + 0.5 * grain) * object;
        rgb[(y * PICTURE_PX + x) * 3 + c] = (uint8_t)fmin(255, fmax(0, value));
      }
      mask[y * PICTURE_PX + x] = object > 0.5 ? 255 : 0;
    }
  }
}

static sl_status put_pictures(const mock *m) {
  uint8_t *rgb = NULL, *mask = NULL, *png = NULL;
  size_t n_bytes;
  sl_status status = SL_ALLOC(rgb, PICTURE_PX * PICTURE_PX * 3, "mock");
  if (status == SL_OK) status = SL_ALLOC(mask, PICTURE_PX * PICTURE_PX, "mock");
  if (status == SL_OK) paint(rgb, mask);
  if (status == SL_OK) status = sl_png_encode(rgb, PICTURE_PX, PICTURE_PX, 3, &png, &n_bytes);
  if (status == SL_OK) status = sl_run_put_picture(m->run, "input", png, n_bytes);
  if (status == SL_OK) status = sl_run_put_picture(m->run, "original", png, n_bytes);
  free(png);
  png = NULL;
  if (status == SL_OK && m->kind != MOCK_FLOW) {
    status = sl_png_encode(mask, PICTURE_PX, PICTURE_PX, 1, &png, &n_bytes);
    if (status == SL_OK) status = sl_run_put_picture(m->run, "mask", png, n_bytes);
  }
  free(png);
  free(rgb);
  free(mask);
  return status;
}

/* Column and row of a token on a grid of `side` x `side`; left and right of MOCK_FLOW's picture are cropped away. */
static void place_on_grid(mock *m, int token, int column, int row, int side) {
  const double left = m->kind == MOCK_FLOW ? PICTURE_PX / 8 : 0;
  const double step_x = (PICTURE_PX - 2 * left) / side, step_y = (double)PICTURE_PX / side;
  for (int k = 0; k < 4; k++)
    m->box[token * 4 + k] = (float)(k % 2 ? step_y * (row + k / 2) : left + step_x * (column + k / 2));
  m->object[token] = (float)object_at((column + 0.5) / side, (row + 0.5) / side);
}

/* The whole first, then row by row across both halves, with a token behind each row, as LLaVA-NeXT does. */
static void place_views(mock *m) {
  for (int i = 0; i < N_WHOLE; i++) place_on_grid(m, i, i % WHOLE_SIDE, i / WHOLE_SIDE, WHOLE_SIDE);
  for (int i = 0; i < ROW * SIDE; i++) {
    const int token = N_WHOLE + i, column = i % ROW;
    m->view[token] = column == SIDE ? -1 : 1 + column / (SIDE / 2);
    if (column < SIDE) place_on_grid(m, token, column, i / ROW, SIDE);
  }
}

static void place_tokens(mock *m) {
  if (m->kind == MOCK_VIEWS) {
    place_views(m);
  } else if (is_loose(m->kind)) {
    m->object[3] = m->object[4] = m->object[19] = 1;
  } else {
    for (int i = 0; i < m->n_image; i++) place_on_grid(m, i, i % m->side, i / m->side, m->side);
  }
}

/* entropy, top-10 % mass, object share, pointing of one map over the patches. */
static void map_stats(const mock *m, const float *map, bool mask, float out[4]) {
  double sum = 0, entropy = 0, object = 0, top = 0;
  int peak = 0, n = 0;
  for (int i = 0; i < m->n_image; i++) {
    if (m->view[i] < 0) continue;
    n++;
    sum += map[i];
    object += map[i] * (m->object[i] > 0.5);
    if (map[i] > map[peak]) peak = i;
  }
  bool taken[MAX_IMAGE] = {false};
  for (int round = 0; round < (n + 9) / 10; round++) {
    int best = -1;
    for (int i = 0; i < m->n_image; i++) {
      if (!taken[i] && m->view[i] >= 0 && (best < 0 || map[i] > map[best])) best = i;
    }
    taken[best] = true;
    top += map[best];
  }
  for (int i = 0; i < m->n_image; i++) entropy -= m->view[i] >= 0 && map[i] > 0 ? map[i] / sum * log(map[i] / sum) : 0;
  bool empty = sum <= 0;
  out[0] = empty ? NAN : (float)entropy;
  out[1] = empty ? NAN : (float)(top / sum);
  out[2] = empty || !mask ? NAN : (float)(object / sum);
  out[3] = empty || !mask ? NAN : (float)(m->object[peak] > 0.5);
}

static void fill_maps(mock *m) {
  static const double image_share[N_LAYER] = {.52, .43, .17, .062, .019, .016, .018, .014, .012, .009, .008, .013};
  for (int l = 0; l < N_LAYER; l++) {
    double focus = exp(-pow((l - 5.5) / 3.0, 2));
    for (int q = 0; q < N_QUERY; q++) {
      float *row = m->flow + (l * N_QUERY + q) * m->n_image, *share = m->share + (l * N_QUERY + q) * N_CLASS;
      double sum = 0, total = image_share[l] * (q ? 0.06 : 1);
      for (int i = 0; i < m->n_image; i++) {
        double base = 0.25 + 0.5 * noise(20 + (uint64_t)l, (uint64_t)(i + q * 1000));
        row[i] = (float)(base + 6 * focus * m->object[i] + (i == 17 && l > 3 ? 5 : 0));
        sum += row[i];
      }
      for (int i = 0; i < m->n_image; i++) row[i] = (float)(row[i] * total / sum);
      share[1] = (float)total;
      share[2] = (float)(0.006 + 0.01 * noise(3, (uint64_t)l));
      share[4] = q ? (float)(0.05 + 0.1 * l / N_LAYER) : 0;
      share[3] = (float)(0.12 + 0.2 * exp(-pow((l - 4) / 4.0, 2)) * (1 - total));
      share[0] = 1 - share[1] - share[2] - share[3] - share[4];
    }
    for (int a = 0; a < N_MAP; a++) {
      float *map = m->heat + (l * N_MAP + a) * m->n_image;
      double strength = l == N_LAYER - 1 ? 0 : 3.2 * exp(-0.55 * l) * (a ? 0.5 : 1), centre = a == 1 ? 0.8 : 1.2;
      for (int i = 0; i < m->n_image; i++) {
        double speckle = noise(50 + (uint64_t)l, (uint64_t)(i + a * 997)) - 0.62 + 0.02 * l;
        map[i] = (float)(strength * fmax(0, centre * m->object[i] * (0.35 + focus) + 0.8 * speckle * (1.1 - focus)));
      }
    }
  }
}

static sl_status put_flow(mock *m) {
  static float share_heads[N_LAYER * N_HEAD * N_QUERY * N_CLASS], image_heads[N_LAYER * N_HEAD * MAX_IMAGE];
  static float entropy[N_LAYER * N_QUERY], stats[N_LAYER * 4], sink_share[N_LAYER * N_SINK];
  static int32_t sinks[N_LAYER * N_SINK];
  int n = m->n_image;
  for (int l = 0; l < N_LAYER; l++) {
    for (int h = 0; h < N_HEAD; h++) {
      double gain = pow(4, 1.6 * noise(5, (uint64_t)(l * N_HEAD + h)) - 0.8);
      for (int q = 0; q < N_QUERY; q++) {
        float *out = share_heads + ((l * N_HEAD + h) * N_QUERY + q) * N_CLASS;
        memcpy(out, m->share + (l * N_QUERY + q) * N_CLASS, N_CLASS * sizeof *out);
        float image = (float)fmin(0.9, out[1] * gain);
        out[0] = fmaxf(0, out[0] + out[1] - image);
        out[1] = image;
      }
      for (int i = 0; i < n; i++) {
        double factor = gain * (0.4 + 1.2 * noise(90 + (uint64_t)h, (uint64_t)(i + l * 500)));
        image_heads[(l * N_HEAD + h) * n + i] = m->flow[l * N_QUERY * n + i] * (float)factor;
      }
    }
    for (int q = 0; q < N_QUERY; q++) {
      float all[4];
      map_stats(m, m->flow + (l * N_QUERY + q) * n, m->kind != MOCK_FLOW, all);
      entropy[l * N_QUERY + q] = all[0];
      if (q == 0) memcpy(stats + l * 4, all, sizeof all);
    }
    for (int k = 0; k < N_SINK; k++) {
      sinks[l * N_SINK + k] = k == 0 ? 0 : k == 1 ? 9 + 17 : 4;
      sink_share[l * N_SINK + k] = m->share[l * N_QUERY * N_CLASS] * (k == 0 ? 0.7f : 0.05f);
    }
  }
  SL_TRY(sl_run_put(m->run, "flow.share", SL_F32, 3, (int64_t[]){N_LAYER, N_QUERY, N_CLASS}, m->share));
  SL_TRY(sl_run_put(m->run, "flow.image", SL_F32, 3, (int64_t[]){N_LAYER, N_QUERY, n}, m->flow));
  const int64_t by_head[] = {N_LAYER, N_HEAD, N_QUERY, N_CLASS};
  SL_TRY(sl_run_put(m->run, "flow.share_heads", SL_F32, 4, by_head, share_heads));
  if (m->kind != MOCK_FLOW) {
    SL_TRY(sl_run_put(m->run, "flow.image_heads", SL_F32, 3, (int64_t[]){N_LAYER, N_HEAD, n}, image_heads));
  }
  SL_TRY(sl_run_put(m->run, "flow.entropy", SL_F32, 2, (int64_t[]){N_LAYER, N_QUERY}, entropy));
  SL_TRY(sl_run_put(m->run, "flow.stats", SL_F32, 2, (int64_t[]){N_LAYER, 4}, stats));
  SL_TRY(sl_run_put(m->run, "flow.sinks", SL_I32, 2, (int64_t[]){N_LAYER, N_SINK}, sinks));
  return sl_run_put(m->run, "flow.sink_share", SL_F32, 2, (int64_t[]){N_LAYER, N_SINK}, sink_share);
}

static sl_status put_cam(mock *m) {
  static float stats[N_LAYER * 4], mass[N_LAYER], correlation[N_LAYER], vision[N_MAP * MAX_IMAGE];
  static uint8_t defined[N_LAYER];
  int n = m->n_image;
  bool grid = !is_loose(m->kind) && m->kind != MOCK_VIEWS;
  for (int l = 0; l < N_LAYER; l++) {
    const float *map = m->heat + l * N_MAP * n;
    map_stats(m, map, true, stats + l * 4);
    defined[l] = l < N_LAYER - 1;
    mass[l] = 0;
    for (int i = 0; i < n; i++) mass[l] += map[i];
    double agreement = 0.78 * exp(-pow((l - 5) / 3.5, 2)) - 0.12 + 0.05 * noise(8, (uint64_t)l);
    correlation[l] = defined[l] ? (float)agreement : NAN;
  }
  for (int i = 0; i < N_MAP * n; i++) vision[i] = (float)fmax(0, m->object[i % n] + noise(9, (uint64_t)i) - 0.55);
  if (grid) {
    SL_TRY(sl_run_put(m->run, "cam.heat", SL_F32, 4, (int64_t[]){N_LAYER, N_MAP, SIDE, SIDE}, m->heat));
    SL_TRY(sl_run_put(m->run, "cam.vision", SL_F32, 3, (int64_t[]){N_MAP, SIDE, SIDE}, vision));
  } else {
    SL_TRY(sl_run_put(m->run, "cam.heat", SL_F32, 3, (int64_t[]){N_LAYER, N_MAP, n}, m->heat));
  }
  SL_TRY(sl_run_put(m->run, "cam.defined", SL_U8, 1, (int64_t[]){N_LAYER}, defined));
  SL_TRY(sl_run_put(m->run, "cam.mass", SL_F32, 1, (int64_t[]){N_LAYER}, mass));
  SL_TRY(sl_run_put(m->run, "cam.stats", SL_F32, 2, (int64_t[]){N_LAYER, 4}, stats));
  return sl_run_put(m->run, "cam.flow_correlation", SL_F32, 1, (int64_t[]){N_LAYER}, correlation);
}

static sl_status put_boxes(const mock *m) {
  SL_TRY(sl_run_put(m->run, "image.view", SL_I32, 1, (int64_t[]){m->n_image}, m->view));
  return sl_run_put(m->run, "image.box", SL_F32, 2, (int64_t[]){m->n_image, 4}, m->box);
}

/* The tokens of the object read its patches, the others the rest, evenly. */
static sl_status put_projection(const mock *m) {
  enum { ACROSS = 8, N_PATCH = ACROSS * ACROSS };
  static float share[32 * N_PATCH], box[N_PATCH * 4];
  const float px = (float)PICTURE_PX / ACROSS;
  for (int p = 0; p < N_PATCH; p++)
    for (int k = 0; k < 4; k++) box[p * 4 + k] = px * (float)((k % 2 ? p / ACROSS : p % ACROSS) + k / 2);
  for (int i = 0; i < m->n_image; i++) {
    int n = 0;
    for (int round = 0; round < 2; round++)
      for (int p = 0; p < N_PATCH; p++) {
        const bool object = object_at((p % ACROSS + 0.5) / ACROSS, (p / ACROSS + 0.5) / ACROSS) > 0.5;
        if (object != (m->object[i] > 0.5)) continue;
        if (round == 0) n++; else share[i * N_PATCH + p] = 1.0f / (float)n;
      }
  }
  SL_TRY(sl_run_put(m->run, "image.patch_box", SL_F32, 2, (int64_t[]){N_PATCH, 4}, box));
  return sl_run_put(m->run, "image.projection", SL_F32, 2, (int64_t[]){m->n_image, N_PATCH}, share);
}

typedef struct word {
  const char *text, *class_name, *role;
} word;

static const word before[] = {{"<s>", "system", NULL},       {"A", "system", NULL},    {" chat", "system", NULL},
                              {" between", "system", NULL},  {" a", "system", NULL},   {" user", "system", NULL},
                              {" and AI.", "system", NULL}, {" USER", "system", NULL}, {":", "system", NULL}};
static const word after[] = {{"\n", "structure", NULL}, {"What", "user", NULL},    {" is", "user", NULL},
                             {" the", "user", NULL},    {" main", "user", NULL},   {" object", "user", NULL},
                             {" in", "user", NULL},     {" the", "user", NULL},    {" image", "user", NULL},
                             {"?", "user", NULL},       {" ASSISTANT", "user", "role"}, {":", "user", "final"}};

static void add_token(json_t *tokens, const word *w) {
  json_t *token = json_pack("{s:i, s:s, s:s, s:s}", "id", 300 + (int)json_array_size(tokens) * 7, "piece", w->text,
                            "text", w->text, "class", w->class_name);
  if (w->role) json_object_set_new(token, "role", json_string(w->role));
  json_array_append_new(tokens, token);
}

static void add_answer(json_t *tokens, const char *text, double prob, const char *rival) {
  word w = {text, "generated", NULL};
  add_token(tokens, &w);
  json_t *token = json_array_get(tokens, json_array_size(tokens) - 1);
  json_object_set_new(token, "prob", json_real(prob));
  json_object_set_new(token, "logit", json_real(24.6));
  json_t *top = json_pack("[{s:i,s:s,s:f},{s:i,s:s,s:f},{s:i,s:s,s:f}]", "id", 2654, "text", text, "prob", prob, "id",
                          9110, "text", rival, "prob", (1 - prob) * 0.6, "id", 77, "text", " a", "prob",
                          (1 - prob) * 0.2);
  json_object_set_new(token, "top", top);
}

static json_t *make_tokens(const mock *m, bool hostile) {
  json_t *tokens = json_array();
  word image = {"<image>", "image", NULL}, row_end = {"<image>", "structure", NULL}, evil = {"</script><img src=x onerror=alert(1)>", "user", NULL};
  for (size_t i = 0; i < sizeof before / sizeof *before; i++) add_token(tokens, &before[i]);
  for (int i = 0; i < m->n_image; i++) add_token(tokens, m->view[i] < 0 ? &row_end : &image);
  for (size_t i = 0; i < sizeof after / sizeof *after; i++) add_token(tokens, hostile && i == 3 ? &evil : &after[i]);
  add_answer(tokens, hostile ? "<!--<script>" : " red", 0.874, " orange");
  add_answer(tokens, " square", 0.961, " cube");
  return tokens;
}

#define HOSTILE "</script><script>document.title='broken'</script>\"'&<b>\xe2\x80\xa8<!--"

static json_t *make_analyses(bool hostile, bool cam) {
  json_t *analyses = json_pack("{s:{s:i, s:f}}", "flow", "attention_cliff", 4, "cliff_share", 0.02);
  if (!cam) return analyses;
  static const char reason[] =
      "at this site the last layer's features only feed their own position, so no gradient of the answer reaches them";
  json_object_set_new(analyses, "cam",
                      json_pack("{s:i, s:f, s:s, s:s, s:s, s:[s,s,s]}", "cliff", 9, "cliff_mass", 0.02, "site",
                                hostile ? HOSTILE : "post-attention RMSNorm", "reason", reason, "target", "logit",
                                "maps", "sum", hostile ? HOSTILE : " red", " square"));
  return analyses;
}

static json_t *make_model(const mock *m, bool hostile) {
  json_t *vision = json_pack("{s:i,s:i,s:i,s:i}", "n_layer", 6, "n_head", 4, "d_model", 128, "patch_px", 28);
  return json_pack("{s:s,s:s,s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:o}", "path", hostile ? HOSTILE : "/models/pocket llava",
                   "name", hostile ? HOSTILE : "pocket-llava", "family", "llava", "hash", "3f9ac1d27b60e845", "n_layer",
                   m->n_layer, "n_head", m->n_head, "n_head_kv", m->n_head, "d_model", 256, "d_head", 32, "n_vocab", 4096,
                   "vision", vision);
}

static json_t *make_image(const mock *m, bool hostile, bool mask) {
  json_t *image = json_pack("{s:s,s:s,s:i,s:i}", "path", hostile ? HOSTILE : "meadow.png", "hash", "91b2c0aa54de7713",
                            "width_px", PICTURE_PX, "height_px", PICTURE_PX);
  if (!mask) return image;
  int n_object = 0;
  for (int i = 0; i < m->n_image; i++) n_object += m->view[i] >= 0 && m->object[i] > 0.5;
  json_object_set_new(image, "mask", json_string("mask.png"));
  json_object_set_new(image, "object_tokens", json_integer(n_object));
  return image;
}

static void fill_json(const mock *m) {
  json_t *root = sl_run_json(m->run);
  bool hostile = m->kind == MOCK_HOSTILE, cam = m->kind != MOCK_FLOW;
  int first_text = (int)(sizeof before / sizeof *before) + m->n_image, n_after = (int)(sizeof after / sizeof *after);
  const char *question = hostile ? HOSTILE : "What is the main object in the image?";
  json_t *command = json_pack("[s,s,s,s,s,s,s,s,s]", "sightline", "trace", "--image",
                              hostile ? HOSTILE : "meadow with square.png", "--prompt", question, "--object-mask",
                              "mask.png", "--out=run");
  json_object_set_new(root, "sightline", json_string("0.1.0"));
  json_object_set_new(root, "command", command);
  json_object_set_new(root, "analyses", m->kind == MOCK_LARGE ? json_object() : make_analyses(hostile, cam));
  json_object_set_new(root, "model", make_model(m, hostile));
  json_object_set_new(root, "compute", json_pack("{s:s,s:s,s:s,s:i}", "backend", "cpu", "mode", "f32", "products",
                                                 "oneDNN", "threads", 8));
  json_object_set_new(root, "image", make_image(m, hostile, cam));
  json_object_set_new(root, "prompt", json_pack("{s:s,s:s,s:s,s:s}", "question", question, "text", question, "answer",
                                                hostile ? HOSTILE : "red square", "answer_source", "greedy"));
  json_object_set_new(root, "tokens", make_tokens(m, hostile));
  json_object_set_new(root, "spans", json_pack("{s:[[i,i]],s:[[i,i]]}", "system", 0, 9, "image", 9, first_text));
  json_object_set_new(root, "grid", is_loose(m->kind) || m->kind == MOCK_VIEWS
                                          ? json_null()
                                          : json_pack("{s:i,s:i}", "height", m->side, "width", m->side));
  json_object_set_new(root, "queries", json_pack("[i,i]", first_text + n_after - 1, first_text + n_after));
  json_object_set_new(root, "options", json_pack("{s:i,s:{s:b}}", "max-tokens", 16, "flow", "renormalise",
                                                 m->kind == MOCK_FLOW));
  json_object_set_new(root, "seed", json_integer(1));
  json_object_set_new(root, "timings_ms", json_pack("{s:f,s:f,s:f,s:f}", "load", 41.2, "forward", 118.9, "backward",
                                                    240.3, "total", 412.7));
  json_object_set_new(root, "peak_memory_bytes", json_integer(231000000));
  const char *warning = "tokenizer_config.json names no chat template; the family's default was used";
  json_object_set_new(root, "warnings", json_pack("[s]", hostile ? HOSTILE : warning));
}

/* Attention maps of every head, so that the large page holds what a large run's does. */
static sl_status put_head_maps(const mock *m) {
  size_t count = (size_t)m->n_layer * m->n_head * m->n_image;
  float *maps = NULL;
  SL_TRY(SL_ALLOC(maps, count, "mock"));
  for (size_t i = 0; i < count; i++) maps[i] = (float)(0.002 * noise(70, i));
  const int64_t shape[] = {m->n_layer, m->n_head, m->n_image};
  sl_status status = sl_run_put(m->run, "flow.image_heads", SL_F32, 3, shape, maps);
  free(maps);
  return status;
}

static sl_status put_causal(const mock *m) {
  const mock_size size = {.n_layer = m->n_layer, .n_head = m->n_head, .n_image = m->n_image,
                          .side = is_loose(m->kind) || m->kind == MOCK_VIEWS ? 0 : m->side,
                          .n_before = (int)(sizeof before / sizeof *before), .n_text = (int)(sizeof after / sizeof *after),
                          .word = m->kind == MOCK_HOSTILE ? HOSTILE : " red", .object = m->object,
                          .note = m->kind == MOCK_HOSTILE ? HOSTILE : "the penalty is the smallest that was tried"};
  return mock_causal_put(m->run, json_object_get(sl_run_json(m->run), "analyses"), &size);
}

static sl_status put_measured(mock *m) {
  SL_TRY(SL_ALLOC(m->flow, N_LAYER * N_QUERY * (size_t)m->n_image, "mock"));
  SL_TRY(SL_ALLOC(m->share, N_LAYER * N_QUERY * N_CLASS, "mock"));
  SL_TRY(SL_ALLOC(m->heat, N_LAYER * N_MAP * (size_t)m->n_image, "mock"));
  fill_maps(m);
  if (m->kind != MOCK_CAM) SL_TRY(put_flow(m));
  return m->kind != MOCK_FLOW ? put_cam(m) : SL_OK;
}

sl_status mock_run_write(const char *dir, mock_kind kind) {
  if (kind == MOCK_COMPARE) return mock_compare_write(dir);
  mock m = {.kind = kind, .n_layer = N_LAYER, .n_head = N_HEAD, .side = SIDE};
  if (kind == MOCK_LARGE) m.n_layer = LARGE_LAYER, m.n_head = LARGE_HEAD, m.side = LARGE_SIDE;
  m.n_image = is_loose(kind) ? 32 : kind == MOCK_VIEWS ? N_WHOLE + ROW * SIDE : m.side * m.side;
  place_tokens(&m);
  bool causal = kind != MOCK_FLOW && kind != MOCK_CAM;
  SL_TRY(sl_run_new(&m.run, dir, true));
  fill_json(&m);
  sl_status status = kind == MOCK_LARGE ? put_head_maps(&m) : put_measured(&m);
  if (status == SL_OK && causal) status = put_causal(&m);
  if (status == SL_OK && !is_loose(kind)) status = put_boxes(&m);
  if (status == SL_OK && kind == MOCK_QUERIES) status = put_projection(&m);
  if (status == SL_OK && kind != MOCK_CAM) status = put_pictures(&m);
  if (status == SL_OK) status = sl_run_commit(m.run);
  free(m.flow);
  free(m.share);
  free(m.heat);
  sl_run_free(m.run);
  return status;
}
