/* LLaVA-CAM: which image tokens' features raise the answer, layer by layer. The maps come from cam_map.c (equations
 * there); this file holds the options, the average over noisy pictures, and what is told about the maps.
 *
 *   smooth: heat = 1/n sum_j heat(x + e_j), e_j ~ N(0, sigma^2) on the [0, 1] picture before normalisation; raw maps
 * are averaged, and whoever shows them divides by the maximum afterwards                                  (R2R eq. 5)
 *
 * Source: Zhang et al., From Redundancy to Relevance (R2R), arXiv 2406.06579, eq. 1-5, appendix A.1. Statistics
 * (analysis.h, sl_map_stats), the CAM cliff (the help of --cam-cliff) and the targets besides the logit (target.c) are
 * sightline's. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/cam_map.h"
#include "analysis/shared.h"
#include "base/rng.h"
#include "stats/correlate.h"
#include "stats/spread.h"

/* Random stream of noisy picture 0: "CAM" in the upper half, away from other users of the same seed. */
#define NOISE_STREAM ((uint64_t)0x43414d << 32)

static const struct {
  const char *name;
  sl_site site;
} sites[] = {{"ln2", SL_SITE_LN2},           {"ln1", SL_SITE_LN1}, {"resid_pre", SL_SITE_RESID_PRE},
             {"resid_mid", SL_SITE_RESID_MID}, {"v", SL_SITE_V},     {"z", SL_SITE_Z}};

static const char *const site_names[] = {"ln2", "ln1", "resid_pre", "resid_mid", "v", "z", NULL};
static const char *const target_names[] = {"logit", "logprob", "margin", "logodds", NULL};

static const sl_option_info options[] = {
    {.name = "target",
     .type = SL_OPTION_CHOICE,
     .argument = "NAME",
     .fallback = "logit",
     .choices = target_names,
     .help =
         "What is differentiated, summed over the answer's tokens: logit (the paper's), logprob, margin (logit minus "
         "that of the runner-up in the unmodified run) or logodds (logit minus the log-sum-exp of all others)."},
    {.name = "contrast",
     .type = SL_OPTION_TEXT,
     .argument = "TOKEN",
     .help =
         "Differentiate each answer token's logit minus the logit of TOKEN, which must be one token of the vocabulary: "
         "what speaks for the answer and against TOKEN. With --target logit or margin only."},
    {.name = "per-token",
     .type = SL_OPTION_FLAG,
     .fallback = "false",
     .help = "Besides the map of the whole answer make one for every answer token (one more backward pass each)."},
    {.name = "site",
     .type = SL_OPTION_CHOICE,
     .argument = "SITE",
     .fallback = "ln2",
     .choices = site_names,
     .help =
         "Where features and gradients are taken. ln2, the paper's, is undefined in the last layer, where it feeds its "
         "own position only; ln1, resid_pre and v are defined in every layer."},
    {.name = "clip",
     .type = SL_OPTION_FLAG,
     .fallback = "false",
     .help = "Clip the gradient at 0 before its mean over image tokens, as the paper's released code does."},
    {.name = "smooth",
     .type = SL_OPTION_INT,
     .argument = "N",
     .fallback = "0",
     .min = 0,
     .max = 1000000,
     .help =
         "Average the raw maps of N noisy copies of the picture (the released code's default is 50); 0 = the picture "
         "itself. Where a picture is cut into views, every view's pixels get noise of their own."},
    {.name = "sigma",
     .type = SL_OPTION_REAL,
     .argument = "S",
     .fallback = "0.1",
     .min = 0,
     .max = 10,
     .help = "Standard deviation of the noise, on a picture with values from 0 to 1."},
    {.name = "threshold",
     .type = SL_OPTION_REAL,
     .argument = "SHARE",
     .fallback = "0",
     .min = 0,
     .max = 1,
     .help = "Set map values below SHARE of the map's maximum to 0 (the released code has 0.5); statistics are taken "
             "before."},
    {.name = "vision",
     .type = SL_OPTION_FLAG,
     .fallback = "false",
     .help = "Also make the map at the vision tower's last kept layer, ln2, class token left out (cam.vision)."},
    {.name = "alpha",
     .type = SL_OPTION_FLAG,
     .fallback = "false",
     .help = "Also store the channel weights (cam.alpha): the gradient's mean over the image rows. With a model that "
             "keeps the tower's class token (vision_feature_select_strategy full) that token's row is one of them."},
    {.name = "cam-cliff",
     .type = SL_OPTION_REAL,
     .argument = "SHARE",
     .fallback = "0.02",
     .min = 0,
     .max = 1,
     .help =
         "The CAM cliff is the first layer from which the raw map's sum stays below SHARE of its largest over layers."},
};

static sl_status read_options(const sl_analysis_context *c, sl_cam_options *o) {
  const char *site = sl_context_text(c, "site"), *contrast = sl_context_text(c, "contrast");
  const int smooth = sl_context_int(c, "smooth");
  *o = (sl_cam_options){.target = sl_target_find(sl_context_text(c, "target")),
                        .contrast = -1,
                        .per_token = sl_context_flag(c, "per-token"),
                        .clip = sl_context_flag(c, "clip"),
                        .alpha = sl_context_flag(c, "alpha"),
                        .vision = sl_context_flag(c, "vision"),
                        .n_picture = smooth > 0 ? smooth : 1};
  for (size_t i = 0; i < sizeof sites / sizeof *sites; i++) {
    if (strcmp(site, sites[i].name) == 0) o->site = sites[i].site;
  }
  if (o->vision && sl_model_get_shape(c->model)->vision.n_layer == 0) {
    SL_FAIL(SL_ERROR_UNSUPPORTED,
            "--vision: this model runs no layer of its vision tower (vision_feature_layer 0), so there is no map of "
            "one");
  }
  if (!contrast) return SL_OK;
  if (o->target != SL_TARGET_LOGIT && o->target != SL_TARGET_MARGIN) {
    SL_FAIL(SL_ERROR_ARGUMENT,
            "--contrast is a difference of two logits: it goes with --target logit or margin, not %s",
            sl_target_name(o->target));
  }
  o->target = SL_TARGET_CONTRAST;
  return sl_target_contrast_id(c->model, contrast, c->answer, c->n_answer, &o->contrast);
}

/* The picture plus noise j. Noise of deviation sigma on the [0, 1] picture is 255 sigma on its bytes, which the
 * processor multiplies by its rescale factor (1/255 as a rule) and divides by std. */
static void add_noise(const sl_analysis_context *c, float *noisy, int j, double sigma) {
  const sl_preprocess *p = sl_model_get_preprocess(c->model);
  const int side = sl_model_get_shape(c->model)->image_px, n_view = c->pack ? c->pack->n_view : 1;
  const int64_t n = c->pack ? (int64_t)c->pack->width_px * c->pack->height_px : (int64_t)side * side;
  for (int plane = 0; plane < 3 * n_view; plane++) {
    const double scale =
        sigma * 255.0 * (p->do_rescale ? p->rescale_factor : 1.0) / (p->do_normalize ? p->std[plane % 3] : 1.0);
    for (int64_t i = plane * n; i < (plane + 1) * n; i++)
      noisy[i] = c->pixels[i] + (float)(scale * sl_rng_normal(c->seed, NOISE_STREAM + (uint64_t)j, (uint64_t)i));
  }
}

static sl_status add_pictures(sl_cam *cam, int n_smooth, double sigma) {
  if (n_smooth == 0) return sl_cam_add(cam, NULL);
  const size_t side = (size_t)sl_model_get_shape(cam->context->model)->image_px;
  const sl_pack *pack = cam->context->pack;
  const size_t n = pack ? (size_t)pack->width_px * (size_t)pack->height_px : side * side;
  float *noisy = NULL;
  SL_TRY(SL_ALLOC(noisy, (size_t)cam->n_view * 3 * n, "noisy picture"));
  sl_status status = SL_OK;
  for (int j = 0; j < n_smooth && status == SL_OK; j++) {
    add_noise(cam->context, noisy, j, sigma);
    status = sl_cam_add(cam, noisy);
  }
  free(noisy);
  return status;
}

/* Sets what is below `share` of a map's maximum to 0. An all-zero map stays one: nothing is divided by. */
static void threshold_maps(float *maps, int64_t n_map, int n, double share) {
  for (int64_t m = 0; m < n_map; m++) {
    float *map = maps + m * n;
    const float limit = (float)(share * map[sl_peak(map, n)]);
    for (int i = 0; i < n; i++) map[i] = map[i] < limit ? 0 : map[i];
  }
}

static json_t *map_names(const sl_cam *cam) {
  const sl_analysis_context *c = cam->context;
  json_t *names = json_array();
  json_array_append_new(names, json_string("sum"));
  for (int a = 0; a + 1 < cam->n_map; a++) {
    sl_text text = {0};
    /* A byte token may be half a character: the stored piece is always text. */
    size_t n_byte = 0;
    const char *piece = sl_tokenizer_piece(sl_model_get_tokenizer(c->model), c->answer[a].id, &n_byte);
    json_t *name = piece ? json_stringn(piece, n_byte) : NULL;
    if (!name && sl_text_format(&text, "token %d", a) == SL_OK) name = json_string(text.data);
    json_array_append_new(names, name);
    sl_text_dispose(&text);
  }
  return names;
}

/* cam.heat, cam.defined, cam.vision, cam.alpha. */
static sl_status put_maps(sl_cam *cam) {
  sl_analysis_context *c = cam->context;
  const sl_model_shape *shape = sl_model_get_shape(c->model);
  const int64_t L = cam->n_layer, A = cam->n_map, V = cam->n_view;
  const int64_t gh = c->pack ? c->pack->patch_rows : shape->grid_height;
  const int64_t gw = c->pack ? c->pack->patch_cols : shape->grid_width;
  const int64_t rows = c->layout->grid_height, cols = c->layout->grid_width;
  /* Positions without a place on one grid have values too: then the map stays a row of N. */
  if (cam->n_image == rows * cols)
    SL_TRY(sl_context_put(c, "cam.heat", SL_F32, 4, (int64_t[]){L, A, rows, cols}, cam->heat));
  else
    SL_TRY(sl_context_put(c, "cam.heat", SL_F32, 3, (int64_t[]){L, A, cam->n_image}, cam->heat));
  SL_TRY(sl_context_put(c, "cam.defined", SL_U8, 1, (int64_t[]){L}, cam->defined));
  if (cam->vision && V == 1) SL_TRY(sl_context_put(c, "cam.vision", SL_F32, 3, (int64_t[]){A, gh, gw}, cam->vision));
  if (cam->vision && V > 1) SL_TRY(sl_context_put(c, "cam.vision", SL_F32, 4, (int64_t[]){A, V, gh, gw}, cam->vision));
  if (cam->alpha) SL_TRY(sl_context_put(c, "cam.alpha", SL_F32, 3, (int64_t[]){L, A, cam->n_channel}, cam->alpha));
  return sl_context_say(c, "maps", map_names(cam));
}

/* Names the layers without a map and what to do about them, and those whose map is zero at every image token. */
static sl_status say_undefined(sl_cam *cam) {
  sl_analysis_context *c = cam->context;
  json_t *list = json_array(), *zero = json_array();
  for (int l = 0; l < cam->n_layer; l++) {
    const float *map = cam->heat + (int64_t)l * cam->n_map * cam->n_image;
    if (!cam->defined[l])
      json_array_append_new(list, json_integer(l));
    else if (map[sl_peak(map, cam->n_image)] <= 0)
      json_array_append_new(zero, json_integer(l));
  }
  const bool any = json_array_size(list) > 0;
  SL_TRY(sl_context_say(c, "undefined", list));
  SL_TRY(sl_context_say(c, "zero", zero));
  if (!any) return SL_OK;
  return sl_context_say(
      c, "reason",
      json_sprintf(
          "no path leads from an image position of %s in these layers to the rows that predict the answer, so the "
          "gradient is exactly zero; ln1, resid_pre and v are defined in every layer (--site)",
          sl_context_text(c, "site")));
}

/* Rank correlation of the first map with flow's attention row of the same layer. */
static sl_status correlate(const sl_cam *cam, int layer, double *rho) {
  const sl_analysis_context *c = cam->context;
  const int n = c->layout->n_shown;
  const float *heat = cam->heat + (int64_t)layer * cam->n_map * cam->n_image;
  const float *row = c->shared->flow_row + (int64_t)layer * cam->n_image;
  double *pair = NULL;
  SL_TRY(SL_ALLOC(pair, 2 * (size_t)n, "rank correlation"));
  for (int i = 0, at = 0; i < cam->n_image; i++) {
    if (!sl_layout_shows(c->layout, i)) continue;
    pair[at] = heat[i];
    pair[n + at++] = row[i];
  }
  const sl_status status = sl_spearman(rho, pair, pair + n, n);
  free(pair);
  return status;
}

/* Statistics of the first map in every layer: stats [L, 4], mass [L], rho [L]; NaN where undefined (mass 0). */
static sl_status measure(const sl_cam *cam, float *stats, float *mass, float *rho) {
  const sl_layout *layout = cam->context->layout;
  for (int64_t l = 0; l < cam->n_layer; l++) {
    const float *map = cam->heat + l * cam->n_map * cam->n_image;
    double sum = 0, correlation = NAN;
    for (int i = 0; i < cam->n_image; i++) sum += sl_layout_shows(layout, i) ? map[i] : 0;
    mass[l] = (float)sum;
    if (cam->defined[l] && cam->context->shared->flow_row) SL_TRY(correlate(cam, (int)l, &correlation));
    rho[l] = (float)correlation;
    SL_TRY(sl_map_stats(cam->context, map, stats + l * 4));
  }
  return SL_OK;
}

/* First defined layer from which the mass stays small against its largest. */
static int find_cliff(const sl_cam *cam, const float *mass, double *work, double share) {
  double most = 0;
  for (int l = 0; l < cam->n_layer; l++) {
    work[l] = cam->defined[l] ? mass[l] : NAN;
    if (mass[l] > most) most = mass[l];
  }
  return most > 0 ? sl_first_staying_below(work, cam->n_layer, share * most) : -1;
}

/* The first map of every layer, and the cliff, for whoever comes later. */
static sl_status share(const sl_cam *cam, int cliff) {
  struct sl_shared *shared = cam->context->shared;
  const size_t n = (size_t)cam->n_image;
  SL_TRY(SL_REALLOC(shared->cam_row, (size_t)cam->n_layer * n, "CAM rows"));
  for (int64_t l = 0; l < cam->n_layer; l++)
    memcpy(shared->cam_row + l * cam->n_image, cam->heat + l * cam->n_map * cam->n_image, n * sizeof *cam->heat);
  shared->cam_cliff = cliff;
  return SL_OK;
}

static sl_status put_stats(sl_cam *cam, const float *stats, const float *mass, const float *rho, int cliff) {
  sl_analysis_context *c = cam->context;
  const int L = cam->n_layer;
  SL_TRY(sl_context_put(c, "cam.stats", SL_F32, 2, (int64_t[]){L, 4}, stats));
  SL_TRY(sl_context_put(c, "cam.mass", SL_F32, 1, (int64_t[]){L}, mass));
  json_t *told = sl_json_floats(mass, L, 1);
  for (int l = 0; l < L && told; l++) {
    if (!cam->defined[l]) json_array_set_new(told, (size_t)l, json_null());
  }
  SL_TRY(sl_context_say(c, "mass", told));
  SL_TRY(sl_context_say(c, "entropy", sl_json_floats(stats, L, 4)));
  SL_TRY(sl_context_say(c, "top_share", sl_json_floats(stats + 1, L, 4)));
  if (c->object) {
    SL_TRY(sl_context_say(c, "object_share", sl_json_floats(stats + 2, L, 4)));
    SL_TRY(sl_context_say(c, "pointing", sl_json_floats(stats + 3, L, 4)));
  }
  if (c->shared->flow_row) {
    SL_TRY(sl_context_put(c, "cam.flow_correlation", SL_F32, 1, (int64_t[]){L}, rho));
    SL_TRY(sl_context_say(c, "flow_correlation", sl_json_floats(rho, L, 1)));
  }
  SL_TRY(sl_context_say(c, "cliff_mass", json_real(sl_context_real(c, "cam-cliff"))));
  return sl_context_say(c, "cliff", cliff >= 0 ? json_integer(cliff) : json_null());
}

static sl_status tell(sl_cam *cam, double cliff_share) {
  const size_t L = (size_t)cam->n_layer;
  float *numbers = NULL;
  double *work = NULL;
  sl_status status = SL_ALLOC(numbers, L * 6, "map statistics");
  if (status == SL_OK) status = SL_ALLOC(work, L, "map statistics");
  if (status == SL_OK) {
    float *stats = numbers, *mass = numbers + 4 * L, *rho = numbers + 5 * L;
    status = measure(cam, stats, mass, rho);
    const int cliff = status == SL_OK ? find_cliff(cam, mass, work, cliff_share) : -1;
    if (status == SL_OK) status = share(cam, cliff);
    if (status == SL_OK) status = put_stats(cam, stats, mass, rho, cliff);
  }
  free(numbers);
  free(work);
  return status;
}

static sl_status say_target(const sl_cam *cam) {
  sl_analysis_context *c = cam->context;
  char site[64], *layer;
  sl_site_name(site, SL_PART_DECODER, cam->options.site, 0);
  if ((layer = strchr(site, '0'))) *layer = '*'; /* the name of every layer's place, as --record takes it */
  SL_TRY(sl_context_say(c, "site", json_string(site)));
  SL_TRY(sl_context_say(c, "target", json_string(sl_target_name(cam->options.target))));
  json_t *values = json_array();
  for (int m = 0; m < cam->n_map; m++) json_array_append_new(values, sl_json_number(cam->value[m]));
  SL_TRY(sl_context_say(c, "target_value", values));
  if (cam->options.target != SL_TARGET_CONTRAST) return SL_OK;
  size_t n_byte = 0;
  const char *piece = sl_tokenizer_piece(sl_model_get_tokenizer(c->model), cam->options.contrast, &n_byte);
  return sl_context_say(c, "contrast",
                        json_pack("{s:i, s:o?}", "id", (int)cam->options.contrast, "piece",
                                  piece ? json_stringn(piece, n_byte) : NULL));
}

static sl_status cam_check(const sl_analysis_context *c) {
  sl_cam_options o;
  return read_options(c, &o);
}

/* A backward pass to the activations costs about what a forward pass does. */
static double cam_passes(const sl_analysis_context *c) {
  const int smooth = sl_context_int(c, "smooth"), n_map = sl_context_flag(c, "per-token") ? 1 + c->n_answer : 1;
  return (smooth > 0 ? smooth : 1) * (1.0 + n_map);
}

static sl_status cam_run(sl_analysis_context *c) {
  sl_cam_options o;
  sl_cam cam;
  SL_TRY(read_options(c, &o));
  for (int a = 0; a < c->n_answer && o.target == SL_TARGET_CONTRAST; a++) {
    if (c->answer[a].id == o.contrast)
      SL_TRY(sl_context_warn(c, "--contrast: answer token %d is the contrast token itself; it adds nothing to the map",
                             a));
  }
  SL_TRY(sl_cam_init(&cam, c, &o));
  sl_status status = add_pictures(&cam, sl_context_int(c, "smooth"), sl_context_real(c, "sigma"));
  if (status == SL_OK) {
    sl_cam_finish(&cam);
    status = tell(&cam, sl_context_real(c, "cam-cliff"));
  }
  if (status == SL_OK) {
    const double share = sl_context_real(c, "threshold");
    threshold_maps(cam.heat, (int64_t)cam.n_layer * cam.n_map, cam.n_image, share);
    if (cam.vision) threshold_maps(cam.vision, cam.n_map, cam.n_view * cam.n_patch, share);
    status = put_maps(&cam);
  }
  if (status == SL_OK) status = say_target(&cam);
  if (status == SL_OK) status = say_undefined(&cam);
  sl_cam_dispose(&cam);
  return status;
}

static const char *const results[] = {"cam.heat",  "cam.defined", "cam.vision",           "cam.alpha",
                                      "cam.stats", "cam.mass",    "cam.flow_correlation", NULL};
static const char *const uses[] = {"flow.image", NULL};

const sl_analysis sl_cam_analysis = {
    .info =
        {.name = "cam",
         .help = "which parts of the picture the answer depends on: LLaVA-CAM heat maps of every layer",
         .details =
             "Feature times gradient, summed over channels, at every image token and layer (LLaVA-CAM). One backward "
             "pass gives the maps of all layers.\n"
             "A layer whose features cannot reach the answer has no map and is reported as undefined instead of as an "
             "empty picture. The CAM cliff is the first layer from which the map's sum stays below 2 % of its largest. "
             "When flow runs "
             "too (trace), the maps are compared with the attention of the same layer by rank correlation.",
         .source = "Zhang et al., From Redundancy to Relevance, arXiv 2406.06579, equations 1-5 and appendix A.1",
         .options = options,
         .n_option = sizeof options / sizeof *options,
         .results = results},
    .uses = uses,
    .check = cam_check,
    .passes = cam_passes,
    .run = cam_run,
};
