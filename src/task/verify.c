/* Holding a model against reference activations of the user's transformers, in the order of computation, so that the
 * first difference names the place where the two part:
 *
 *   error = max over rows r of (max_i |own[r, i] - reference[r, i]| / max_i |reference[r, i]|)
 *
 * Rows are compared each by itself because a few rows of a decoder carry values a thousand times larger than the others
 * (Sun et al., Massive Activations in Large Language Models, arXiv 2402.17762), behind which differences of the others
 * would not be seen. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/cam_map.h"
#include "analysis/shared.h"
#include "analysis/token_json.h"
#include "base/text.h"
#include "model/record.h"
#include "task/verify_internal.h"

#define SMALL_ROW 1e-3       /* of the largest value: a smaller row counts as that large */
#define PIXEL_TOLERANCE 1e-5 /* preprocessing does not depend on the compute mode */
#define CAM_FACTOR 10
#define MAX_ANSWER 64

typedef struct verification {
  const sl_model *model;
  const sl_verify_request *request;
  sl_reference reference;
  sl_session *session;
  sl_cancel *cancel;
  double tolerance, largest;
  json_t *checks; /* array */
  const json_t *first; /* borrowed from checks */
  bool other_template; /* the reference's prompt is not this model's */
} verification;

/* One picture with its question. */
typedef struct trial {
  verification *v;
  const json_t *facts;
  const char *name;
  sl_views views;
  sl_pack pack;
  sl_layout layout;
  sl_image *image;
} trial;

/* ---- checks ---- */

/* Adds a row to the table; `note` may be NULL, and cut inside a character. */
static sl_status add_check(const trial *t, const char *name, double error, double tolerance, bool equal,
                           const char *note) {
  verification *v = t->v;
  json_t *check = json_pack("{s:s, s:s, s:o, s:f, s:b, s:o?}", "case", t->name, "name", name, "error",
                            isfinite(error) ? json_real(error) : json_null(), "tolerance", tolerance, "equal",
                            (int)equal, "note", note ? sl_json_text(note, strlen(note)) : NULL);
  if (json_array_append_new(v->checks, check) != 0) SL_FAIL(SL_ERROR_MEMORY, "no memory for the table of checks");
  if (!equal && !v->first) v->first = check;
  if (!(error <= v->largest)) v->largest = error;
  return SL_OK;
}

/* The larger difference; one that is no number is the largest. */
static double further(double most, float got, float want) {
  const double difference = fabs((double)got - (double)want);
  return difference <= most ? most : isfinite(difference) ? difference : INFINITY;
}

static double row_error(const float *got, const float *want, int64_t n, double smallest) {
  double most = 0, largest = smallest;
  for (int64_t i = 0; i < n; i++) {
    most = further(most, got[i], want[i]);
    if (isfinite(want[i])) largest = fmax(largest, fabs((double)want[i]));
  }
  return most == 0 || isinf(most) ? most : most / largest;
}

/* The largest error of n_row rows of n values. */
static double rows_error(const float *got, const float *want, int64_t n_row, int64_t n) {
  double largest = 0, most = 0;
  for (int64_t i = 0; i < n_row * n; i++)
    if (isfinite(want[i])) largest = fmax(largest, fabs((double)want[i]));
  for (int64_t r = 0; r < n_row; r++) most = fmax(most, row_error(got + r * n, want + r * n, n, SMALL_ROW * largest));
  return most;
}

static sl_status check_rows(const trial *t, const char *name, const float *got, const float *want, int64_t n_row,
                            int64_t n, double tolerance) {
  const double error = rows_error(got, want, n_row, n);
  return add_check(t, name, error, tolerance, error <= tolerance, NULL);
}

/* An f32 array of the reference with this many values. */
static sl_status take_floats(const float **out, const trial *t, const char *array, int64_t count) {
  const sl_tensor *tensor = NULL;
  SL_TRY(sl_reference_take(&tensor, &t->v->reference, t->name, array, SL_F32, false));
  if (sl_tensor_count(tensor) != count)
    SL_FAIL(SL_ERROR_FORMAT, "%s: \"%s\" has %lld values, this model has %lld", t->v->reference.path, tensor->name,
            (long long)sl_tensor_count(tensor), (long long)count);
  *out = tensor->data;
  return SL_OK;
}

/* ---- prompt ---- */

static const char *piece(const trial *t, int32_t id) {
  const char *text = id >= 0 ? sl_tokenizer_piece(sl_model_get_tokenizer(t->v->model), id, NULL) : NULL;
  return text ? text : "";
}

/* Position of the first token that differs from the reference's; -1 when all are equal. */
static int first_other_id(const sl_layout *l, const int32_t *want, int n_want) {
  const int n = l->n_prompt < n_want ? l->n_prompt : n_want;
  for (int i = 0; i < n; i++)
    if (l->ids[i] != want[i]) return i;
  return l->n_prompt == n_want ? -1 : n;
}

/* The reference's tokens must come out of its question in this model's template, or else of its whole prompt: folders
 * carry templates of their own, and which one is right is not a question of numbers. */
static sl_status check_prompt(trial *t, bool *usable) {
  const sl_tensor *ids = NULL;
  const char *question = NULL, *prompt = NULL;
  char note[320] = "";
  const sl_reference *r = &t->v->reference;
  SL_TRY(sl_reference_take(&ids, r, t->name, "ids", SL_I32, false));
  SL_TRY(sl_reference_string(&question, r, t->facts, "question"));
  SL_TRY(sl_reference_string(&prompt, r, t->facts, "prompt"));
  SL_TRY(sl_layout_build(&t->layout, t->v->model, &t->pack, question, false));
  const int32_t *want = ids->data;
  const int n = (int)sl_tensor_count(ids), at = first_other_id(&t->layout, want, n);
  *usable = at < 0;
  if (at >= 0) {
    const int32_t own = at < t->layout.n_prompt ? t->layout.ids[at] : -1, other = at < n ? want[at] : -1;
    snprintf(note, sizeof note,
             "sightline's template gives %d tokens, the reference has %d; token %d is %d \"%.40s\", there %d \"%.40s\"",
             t->layout.n_prompt, n, at, own, piece(t, own), other, piece(t, other));
    t->v->other_template = true;
    sl_layout_dispose(&t->layout);
    *usable = sl_layout_build(&t->layout, t->v->model, &t->pack, prompt, true) == SL_OK &&
              first_other_id(&t->layout, want, n) < 0;
  }
  return add_check(t, "token ids", 0, 0, *usable, at < 0 ? NULL : note);
}

/* ---- pixels ---- */

/* Own views against the reference's; where only values differ, the reference's are used from here on. */
static sl_status check_pixels(trial *t, bool *usable) {
  const sl_reference *r = &t->v->reference;
  const json_t *shape = json_object_get(t->facts, "views");
  const int64_t own[4] = {t->views.n_view, 3, t->views.height_px, t->views.width_px};
  const int64_t count = own[0] * own[1] * own[2] * own[3];
  const float *want = NULL;
  int stride = 1;
  char note[160];
  *usable = json_array_size(shape) == 4;
  for (size_t d = 0; d < 4 && *usable; d++) *usable = json_integer_value(json_array_get(shape, d)) == own[d];
  if (!*usable) {
    snprintf(note, sizeof note, "%d views of %d x %d px, the reference has others", t->views.n_view, t->views.width_px,
             t->views.height_px);
    return add_check(t, "pixels", INFINITY, PIXEL_TOLERANCE, false, note);
  }
  SL_TRY(sl_reference_number(&stride, r, t->facts, "pixel_stride", 1 << 20));
  if (stride < 1) SL_FAIL(SL_ERROR_FORMAT, "%s: \"pixel_stride\" is 0", r->path);
  SL_TRY(take_floats(&want, t, "pixels", (count + stride - 1) / stride));
  double most = 0, largest = 0;
  for (int64_t i = 0; i < count; i += stride) {
    most = further(most, t->views.pixels[i], want[i / stride]);
    largest = fmax(largest, fabs((double)want[i / stride]));
  }
  const double error = largest > 0 ? most / largest : most;
  const bool equal = error <= PIXEL_TOLERANCE;
  if (!equal && stride == 1) memcpy(t->views.pixels, want, (size_t)count * sizeof *want);
  const char *maker = json_string_value(json_object_get(r->facts, "image_processor"));
  snprintf(note, sizeof note, "made by %s%s", maker ? maker : "an image processor that is not named",
           stride == 1 ? "; what follows is compared on its pixels" : "");
  return add_check(t, "pixels", error, PIXEL_TOLERANCE, equal, equal ? NULL : note);
}

/* ---- sites and logits ---- */

static sl_status join_specs(const trial *t, sl_text *spec, size_t n_start, const char *start) {
  const sl_safetensors *file = t->v->reference.file;
  for (int i = 0; i < sl_safetensors_count(file); i++) {
    const sl_tensor *tensor = sl_safetensors_at(file, i);
    if (strncmp(tensor->name, start, n_start) != 0) continue;
    if (tensor->dtype != SL_F32 || strchr(tensor->name, ',') || (uintptr_t)tensor->data % sizeof(float) != 0)
      SL_FAIL(SL_ERROR_FORMAT, "%s: \"%s\" is no recorded site", t->v->reference.path, tensor->name);
    SL_TRY(sl_text_format(spec, "%s%s", spec->length ? "," : "", tensor->name + n_start));
  }
  if (spec->length == 0) SL_FAIL(SL_ERROR_FORMAT, "%s: no sites of case \"%s\"", t->v->reference.path, t->name);
  return SL_OK;
}

/* The reference's array of a recorded place: its name stands before "@" and "#". */
static const sl_tensor *find_site(const trial *t, const char *start, size_t n_start, const char *name) {
  const sl_safetensors *file = t->v->reference.file;
  for (int i = 0; i < sl_safetensors_count(file); i++) {
    const sl_tensor *tensor = sl_safetensors_at(file, i);
    if (strncmp(tensor->name, start, n_start) != 0) continue;
    const char *site = tensor->name + n_start;
    if (strcspn(site, "@#") == strlen(name) && strncmp(site, name, strlen(name)) == 0) return tensor;
  }
  return NULL;
}

static bool same_shape(const sl_tensor *a, const sl_tensor *b) {
  bool same = a->n_dim == b->n_dim;
  for (int d = 0; d < a->n_dim && same; d++) same = a->shape[d] == b->shape[d];
  return same;
}

static sl_status compare_record(const trial *t, const sl_record *record, const char *start, size_t n_start) {
  for (int i = 0; i < sl_record_count(record); i++) {
    const sl_tensor *got = sl_record_at(record, i), *want = find_site(t, start, n_start, got->name);
    if (!want || !same_shape(got, want)) {
      SL_TRY(add_check(t, got->name, INFINITY, t->v->tolerance, false, "another shape"));
      continue;
    }
    const int64_t n_row = got->shape[0], n = sl_tensor_count(got) / n_row;
    SL_TRY(check_rows(t, got->name, got->data, want->data, n_row, n, t->v->tolerance));
  }
  return SL_OK;
}

static sl_status run_sites(trial *t, sl_record *record) {
  verification *v = t->v;
  sl_probe vision, decoder;
  const int n_vocab = sl_model_get_shape(v->model)->n_vocab, row = t->layout.n_prompt - 1;
  char start[96];
  float *logits = NULL;
  const float *want = NULL;
  const size_t n_start = (size_t)snprintf(start, sizeof start, "%s/site/", t->name);
  SL_TRY(take_floats(&want, t, "logits", n_vocab));
  SL_TRY(sl_record_probe(record, v->session, SL_PART_VISION, &vision));
  SL_TRY(sl_record_probe(record, v->session, SL_PART_DECODER, &decoder));
  SL_TRY(sl_image_encode(&t->image, v->session, t->views.pixels, &t->pack, &vision, false));
  SL_TRY(SL_ALLOC(logits, (size_t)n_vocab, "logits"));
  sl_status status = sl_session_forward(v->session, &t->layout, t->image, &row, 1, logits, &decoder, false);
  if (status == SL_OK) status = compare_record(t, record, start, n_start);
  if (status == SL_OK) status = check_rows(t, "logits", logits, want, 1, n_vocab, v->tolerance);
  free(logits);
  return status;
}

static sl_status check_sites(trial *t) {
  char start[96];
  sl_text spec = {0};
  sl_record *record = NULL;
  const size_t n_start = (size_t)snprintf(start, sizeof start, "%s/site/", t->name);
  sl_status status = join_specs(t, &spec, n_start, start);
  if (status == SL_OK) status = sl_record_new(&record, t->v->model, &t->pack, &t->layout, spec.data);
  if (status == SL_OK) status = run_sites(t, record);
  sl_record_free(record);
  sl_text_dispose(&spec);
  return status;
}

/* ---- answers ---- */

static int first_other_token(const sl_layout *l, const sl_model_shape *shape, const int32_t *want, int n_want) {
  const int n_own = l->n_token - l->n_prompt;
  for (int i = 0; i < n_want; i++) {
    if (i == n_own) return sl_shape_is_eos(shape, want[i]) ? -1 : i; /* an end token is no part of an answer here */
    if (want[i] != l->ids[l->n_prompt + i]) return i;
  }
  return -1;
}

static sl_status check_greedy(const trial *t) {
  const sl_tensor *ids = NULL;
  const float *margin = NULL;
  sl_layout layout = {0};
  char note[200] = "";
  SL_TRY(sl_reference_take(&ids, &t->v->reference, t->name, "greedy", SL_I32, false));
  const int n = (int)sl_tensor_count(ids);
  if (n > MAX_ANSWER)
    SL_FAIL(SL_ERROR_FORMAT, "%s: \"%s\" has more than %d tokens", t->v->reference.path, ids->name, MAX_ANSWER);
  SL_TRY(take_floats(&margin, t, "margin", n));
  SL_TRY(sl_layout_copy(&layout, &t->layout));
  sl_status status = sl_session_greedy(t->v->session, &layout, t->image, n, NULL, NULL);
  if (status == SL_OK) {
    const int32_t *want = ids->data;
    const int at = first_other_token(&layout, sl_model_get_shape(t->v->model), want, n);
    const bool tie = at >= 0 && (double)margin[at] <= t->v->tolerance;
    const int32_t own = at >= 0 && layout.n_prompt + at < layout.n_token ? layout.ids[layout.n_prompt + at] : -1;
    if (at >= 0)
      snprintf(note, sizeof note,
               "token %d is %d \"%.30s\", reference %d \"%.30s\", preferred by %.2g of its logits' largest",
               at, own, piece(t, own), want[at], piece(t, want[at]), (double)margin[at]);
    status = add_check(t, "greedy tokens", 0, 0, at < 0 || tie, at < 0 ? NULL : note);
  }
  sl_layout_dispose(&layout);
  return status;
}

/* ---- one head silenced ---- */

typedef struct ablation_sink {
  const trial *trial;
  const float *want;
} ablation_sink;

static sl_status take_ablation(void *user, int plan, const float *logits) {
  (void)plan;
  const ablation_sink *sink = user;
  const verification *v = sink->trial->v;
  const int n_vocab = sl_model_get_shape(v->model)->n_vocab;
  return check_rows(sink->trial, "logits without one head", logits, sink->want, 1, n_vocab, v->tolerance);
}

/* z of one head is zero at every position, the picture's included. */
static sl_status plan_silence(sl_plan *plan, int layer, int head) {
  static const float zero[1] = {0};
  sl_edit *edit = NULL;
  SL_TRY(sl_plan_add_edit(plan, SL_SITE_Z, SL_EDIT_SCALE, &edit));
  SL_TRY(sl_set_add(&edit->layers, layer, 1));
  SL_TRY(sl_set_add(&edit->heads, head, 1));
  edit->positions = SL_SET_ALL;
  SL_TRY(SL_ALLOC(edit->value, 1, "edit"));
  memcpy(edit->value, zero, sizeof zero);
  edit->n_value = 1;
  return SL_OK;
}

static sl_status run_ablation(const trial *t, const sl_plan *plan, const float *want) {
  sl_session *session = t->v->session;
  sl_prefix *prefix = NULL;
  sl_trunk *trunk = NULL;
  const int row = t->layout.n_prompt - 1;
  ablation_sink sink = {t, want};
  sl_status status = sl_prefix_new(&prefix, session, &t->layout, t->image, true, NULL);
  if (status == SL_OK) status = sl_trunk_new(&trunk, session, prefix, &t->layout, NULL);
  if (status == SL_OK) {
    const sl_branch_request request = {.trunk = trunk, .plans = plan, .n_plan = 1, .rows = &row, .n_row = 1,
                                       .take = take_ablation, .user = &sink};
    const sl_plan_limits limits = sl_trunk_limits(trunk, 0, 0);
    status = sl_plan_check(plan, &limits, "ablation");
    if (status == SL_OK) status = sl_branches_run(session, &request);
  }
  sl_trunk_free(trunk);
  sl_prefix_free(prefix);
  return status;
}

static sl_status check_ablation(const trial *t) {
  const json_t *facts = json_object_get(t->facts, "ablation");
  const sl_model_shape *shape = sl_model_get_shape(t->v->model);
  const float *want = NULL;
  int layer = 0, head = 0;
  sl_plan plan = {0};
  if (!facts) return SL_OK;
  SL_TRY(sl_reference_number(&layer, &t->v->reference, facts, "layer", shape->decoder.n_layer - 1));
  SL_TRY(sl_reference_number(&head, &t->v->reference, facts, "head", shape->decoder.n_head - 1));
  SL_TRY(take_floats(&want, t, "ablation", shape->n_vocab));
  sl_status status = plan_silence(&plan, layer, head);
  if (status == SL_OK) status = run_ablation(t, &plan, want);
  sl_plan_dispose(&plan);
  return status;
}

/* ---- CAM ---- */

static sl_status compare_maps(const trial *t, const sl_cam *cam, const json_t *layers) {
  const float *want = NULL;
  const int64_t n = cam->n_image;
  SL_TRY(take_floats(&want, t, "cam", (int64_t)json_array_size(layers) * n));
  for (size_t i = 0; i < json_array_size(layers); i++) {
    const json_int_t layer = json_integer_value(json_array_get(layers, i));
    char name[64];
    if (layer < 0 || layer >= cam->n_layer)
      SL_FAIL(SL_ERROR_FORMAT, "%s: cam of layer %lld; this model has %d", t->v->reference.path, (long long)layer,
              cam->n_layer);
    snprintf(name, sizeof name, "cam of layer %d", (int)layer);
    SL_TRY(check_rows(t, name, cam->heat + layer * n, want + (int64_t)i * n, 1, n, CAM_FACTOR * t->v->tolerance));
  }
  return SL_OK;
}

static sl_status run_cam(const trial *t, const sl_layout *layout, const json_t *layers) {
  sl_answer_token answer[MAX_ANSWER];
  sl_shared shared = {0};
  const int n = layout->n_token - layout->n_prompt;
  for (int a = 0; a < n; a++) answer[a] = (sl_answer_token){.id = layout->ids[layout->n_prompt + a]};
  sl_analysis_context context = {.model = t->v->model, .session = t->v->session, .pixels = t->views.pixels,
                                 .pack = &t->pack, .image = t->image, .layout = layout, .answer = answer, .n_answer = n,
                                 .info = &sl_cam_analysis.info, .cancel = t->v->cancel, .shared = &shared};
  const sl_cam_options options = {.site = SL_SITE_LN2, .target = SL_TARGET_LOGIT, .contrast = -1, .n_picture = 1};
  sl_cam cam;
  SL_TRY(sl_cam_init(&cam, &context, &options));
  sl_status status = sl_cam_add(&cam, NULL);
  if (status == SL_OK) status = compare_maps(t, &cam, layers);
  sl_cam_dispose(&cam);
  sl_shared_dispose(&shared);
  return status;
}

static sl_status check_cam(const trial *t) {
  const json_t *facts = json_object_get(t->facts, "cam"), *tokens = json_object_get(facts, "tokens");
  int32_t ids[MAX_ANSWER];
  const int n = (int)json_array_size(tokens);
  sl_layout layout = {0};
  if (!facts) return SL_OK;
  if (n == 0 || n > MAX_ANSWER) SL_FAIL(SL_ERROR_FORMAT, "%s: cam has %d tokens", t->v->reference.path, n);
  for (int i = 0; i < n; i++) {
    const json_int_t id = json_integer_value(json_array_get(tokens, (size_t)i));
    ids[i] = id < 0 || id > INT32_MAX ? -1 : (int32_t)id;
  }
  SL_TRY(sl_layout_copy(&layout, &t->layout));
  sl_status status = sl_layout_append(&layout, t->v->model, ids, n);
  if (status == SL_OK) status = run_cam(t, &layout, json_object_get(facts, "layers"));
  sl_layout_dispose(&layout);
  return status;
}

/* ---- the whole ---- */

static sl_status prepare(trial *t) {
  const char *question = NULL;
  sl_rgb picture = {0};
  SL_TRY(sl_reference_string(&t->name, &t->v->reference, t->facts, "name"));
  if (strlen(t->name) > 32) SL_FAIL(SL_ERROR_FORMAT, "%s: a case's name is too long", t->v->reference.path);
  SL_TRY(sl_reference_string(&question, &t->v->reference, t->facts, "question"));
  SL_TRY(sl_reference_picture(&picture, &t->v->reference, t->name));
  sl_status status = sl_views_make(&t->views, sl_model_get_preprocess(t->v->model), &picture);
  if (status == SL_OK) status = sl_pack_make(&t->pack, t->v->model, &t->views, question);
  sl_rgb_dispose(&picture);
  return status;
}

static sl_status run_checks(trial *t) {
  bool prompt_usable = false, pixels_usable = false;
  SL_TRY(prepare(t));
  SL_TRY(check_prompt(t, &prompt_usable));
  SL_TRY(check_pixels(t, &pixels_usable));
  if (!prompt_usable || !pixels_usable)
    return add_check(t, "everything else", INFINITY, t->v->tolerance, false,
                     "not compared: prompt or picture differ too much");
  SL_TRY(check_sites(t));
  SL_TRY(check_greedy(t));
  SL_TRY(check_ablation(t));
  return check_cam(t);
}

static sl_status run_cases(verification *v) {
  const size_t n = json_array_size(v->reference.cases);
  for (size_t i = 0; i < n; i++) {
    const sl_verify_request *q = v->request;
    trial t = {.v = v, .facts = json_array_get(v->reference.cases, i)};
    if ((q->progress && !q->progress(q->user, "comparing", (double)i, (double)n)) || sl_cancel_requested(v->cancel))
      SL_FAIL(SL_ERROR_CANCELLED, "interrupted");
    const sl_status status = run_checks(&t);
    sl_image_free(t.image);
    sl_layout_dispose(&t.layout);
    sl_pack_dispose(&t.pack);
    sl_views_dispose(&t.views);
    SL_TRY(status);
  }
  return SL_OK;
}

static sl_status choose_tolerance(verification *v) {
  static const double by_mode[SL_COMPUTE_COUNT] = {
      [SL_COMPUTE_F32] = 1e-4, [SL_COMPUTE_BF16X2] = 1e-3, [SL_COMPUTE_BF16] = 5e-2};
  const char *dtype = NULL;
  SL_TRY(sl_reference_string(&dtype, &v->reference, v->reference.facts, "dtype"));
  v->tolerance = by_mode[sl_model_get_compute(v->model)];
  if (strcmp(dtype, "float32") != 0) v->tolerance = by_mode[SL_COMPUTE_BF16];
  if (v->request->tolerance > 0) v->tolerance = v->request->tolerance;
  return SL_OK;
}

static sl_status summarise(const verification *v, char **summary) {
  const json_t *facts = v->reference.facts;
  json_t *compute = NULL;
  SL_TRY(sl_model_compute_to_json(v->model, &compute));
  json_t *reference = json_pack("{s:o}", "path", sl_json_text(v->reference.path, strlen(v->reference.path)));
  static const char *const told[] = {"transformers", "torch", "dtype", "family", "image_processor"};
  for (size_t i = 0; reference && i < sizeof told / sizeof *told; i++)
    if (json_object_get(facts, told[i])) json_object_set(reference, told[i], json_object_get(facts, told[i]));
  json_t *largest = isfinite(v->largest) ? json_real(v->largest) : json_null();
  json_t *root = json_pack("{s:b, s:b, s:o, s:f, s:O?, s:o, s:o, s:O}", "equal", v->first == NULL, "same_template",
                           (int)!v->other_template, "largest", largest, "tolerance", v->tolerance, "first", v->first,
                           "compute", compute, "reference", reference, "checks", v->checks);
  if (!root) SL_FAIL(SL_ERROR_MEMORY, "no memory for the summary");
  const sl_status status = sl_json_print(root, 2, summary);
  json_decref(root);
  return status;
}

static sl_status open_reference(verification *v) {
  json_t *model = NULL;
  SL_TRY(sl_model_to_json(v->model, &model));
  const char *dir = json_string_value(json_object_get(model, "path"));
  const sl_status status = sl_reference_open(&v->reference, v->request->reference_path, dir);
  json_decref(model);
  return status;
}

static sl_status run_all(verification *v, sl_cancel *own_cancel, char **summary) {
  v->cancel = v->request->cancel ? v->request->cancel : own_cancel;
  v->checks = json_array();
  if (!v->checks) SL_FAIL(SL_ERROR_MEMORY, "no memory for the table of checks");
  SL_TRY(open_reference(v));
  SL_TRY(choose_tolerance(v));
  SL_TRY(sl_session_new(&v->session, v->model, v->request->n_thread));
  sl_session_set_cancel(v->session, &v->cancel->requested);
  SL_TRY(run_cases(v));
  return summarise(v, summary);
}

sl_status sl_verify(const sl_model *model, const sl_verify_request *request, bool *equal, char **summary) {
  verification v = {.model = model, .request = request};
  sl_cancel *own_cancel = NULL;
  *summary = NULL;
  if (request->size != sizeof *request)
    SL_FAIL(SL_ERROR_ARGUMENT, "sl_verify_request: expected size %zu, found %zu", sizeof *request, request->size);
  SL_TRY(sl_cancel_new(&own_cancel));
  const sl_status status = run_all(&v, own_cancel, summary);
  if (equal) *equal = status == SL_OK && !v.first;
  sl_session_free(v.session);
  sl_reference_dispose(&v.reference);
  json_decref(v.checks);
  sl_cancel_free(own_cancel);
  return status;
}
