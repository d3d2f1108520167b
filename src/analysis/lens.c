/* Logit lens: what the model would say if it stopped at a layer.
 *
 *   logits(k, t) = head(norm_final(x_k[t]))      x_k: residual that enters layer k; x_L: what leaves the last layer
 *
 * for the final token and for every image token. Residual rows are copied on the device as the forward pass shows them
 * and go through the head afterwards, some rows at a time: the [N, V] logits of a layer never exist at once.
 *
 * Source: nostalgebraist, interpreting GPT: the logit lens (2020); on image tokens: Neo et al., Towards Interpreting
 * Visual Information Processing in Vision-Language Models, arXiv 2410.07149. */
#include "analysis/lens.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "analysis/token_json.h"
#include "model/logits.h"

#define KEEP_BYTES ((int64_t)512 << 20)
#define CHUNK_ROWS 32
#define MAX_TOP 64

static const sl_option_info options[] = {
    {.name = "top",
     .type = SL_OPTION_INT,
     .argument = "N",
     .fallback = "5",
     .min = 1,
     .max = MAX_TOP,
     .help = "Store the N most likely tokens of every layer at the final token."},
};

typedef struct lens {
  sl_analysis_context *context;
  int n_layer, n_image, n_vocab, n_top, d_model;
  int first, n_block; /* residuals of this pass: first .. first + n_block - 1 of 0 .. L */
  sl_mat kept;        /* [n_block * (N + 1), D]: a residual's image rows, then its final row */
  float *logits;      /* [CHUNK_ROWS, V] */
  float *final_logit; /* [L + 1] of the answer's first token, likewise rank and probability */
  int32_t *final_rank;
  float *final_prob;
  int32_t *final_top; /* [L + 1, n_top] */
  float *final_top_prob;
  float *image_answer; /* [L + 1, N] probability of the answer's first token, likewise logit and rank */
  float *image_logit;
  int32_t *image_rank;
  int32_t *image_top; /* [L + 1, N] */
  float *image_top_prob;
} lens;

/* ---- one row of logits ---- */

typedef struct reading {
  int32_t top, rank; /* rank 1 = most likely */
  float logit, prob, top_prob;
} reading;

static reading read_row(const float *z, int n_vocab, int32_t id) {
  reading r = {.rank = 1, .logit = z[id], .top = sl_logits_best(z, n_vocab)};
  double sum = 0;
  for (int32_t v = 0; v < n_vocab; v++) {
    /* Single precision: a relative error of 1e-7, for a loop over vocabulary, layers and image tokens. */
    sum += (double)expf(z[v] - z[r.top]);
    r.rank += z[v] > z[id];
  }
  r.prob = (float)(exp((double)z[id] - (double)z[r.top]) / sum);
  r.top_prob = (float)(1 / sum);
  return r;
}

/* The n most likely tokens, best first, equal ones in order of ids. */
static void read_top(const float *z, int n_vocab, const reading *r, int n, int32_t *ids, float *prob) {
  int n_found = 0;
  for (int32_t v = 0; v < n_vocab; v++) {
    int at = n_found;
    while (at > 0 && z[v] > z[ids[at - 1]]) at--;
    if (at >= n) continue;
    if (n_found < n) n_found++;
    for (int i = n_found - 1; i > at; i--) ids[i] = ids[i - 1];
    ids[at] = v;
  }
  for (int i = 0; i < n; i++) prob[i] = (float)((double)r->top_prob * exp((double)z[ids[i]] - (double)z[r->top]));
}

/* Row j of residual k: an image token, or the final token behind them. */
static void take_row(lens *f, int k, int j, const float *z) {
  const reading r = read_row(z, f->n_vocab, f->context->answer[0].id);
  if (j == f->n_image) {
    f->final_logit[k] = r.logit;
    f->final_rank[k] = r.rank;
    f->final_prob[k] = r.prob;
    read_top(z, f->n_vocab, &r, f->n_top, f->final_top + (int64_t)k * f->n_top,
             f->final_top_prob + (int64_t)k * f->n_top);
    return;
  }
  const int64_t at = (int64_t)k * f->n_image + j;
  f->image_answer[at] = r.prob;
  f->image_logit[at] = r.logit;
  f->image_rank[at] = r.rank;
  f->image_top[at] = r.top;
  f->image_top_prob[at] = r.top_prob;
}

/* ---- passes ---- */

/* Number of the residual that a site is, or -1: the input of layer 0 is 0, what leaves layer l is l + 1. */
static int residual_of(sl_part part, sl_site site, int layer) {
  if (part != SL_PART_DECODER) return -1;
  if (site == SL_SITE_RESID_PRE && layer == 0) return 0;
  return site == SL_SITE_RESID_POST ? layer + 1 : -1;
}

static bool wants_residual(void *user, sl_part part, sl_site site, int layer, bool backward) {
  const lens *f = user;
  const int k = residual_of(part, site, layer);
  return !backward && k >= f->first && k < f->first + f->n_block;
}

static void see_residual(void *user, sl_queue *queue, sl_part part, sl_site site, int layer, int first_row,
                         sl_mat value, sl_mat grad) {
  (void)first_row, (void)grad;
  lens *f = user;
  const sl_layout *layout = f->context->layout;
  const int n = f->n_image, at = (residual_of(part, site, layer) - f->first) * (n + 1);
  const sl_ops *ops = sl_queue_ops(queue);
  ops->copy(queue, sl_mat_rows(f->kept, at, n), sl_mat_rows(value, layout->first_image, n));
  ops->copy(queue, sl_mat_rows(f->kept, at + n, 1), sl_mat_rows(value, layout->n_prompt - 1, 1));
}

/* Head over the kept rows of residual k. */
static sl_status read_residual(lens *f, int k) {
  sl_analysis_context *c = f->context;
  const sl_mat rows = sl_mat_rows(f->kept, (k - f->first) * (f->n_image + 1), f->n_image + 1);
  for (int j = 0; j < rows.rows; j += CHUNK_ROWS) {
    const int n = rows.rows - j < CHUNK_ROWS ? rows.rows - j : CHUNK_ROWS;
    SL_TRY(sl_session_lens(c->session, sl_mat_rows(rows, j, n), f->logits));
    for (int i = 0; i < n; i++) take_row(f, k, j + i, f->logits + (int64_t)i * f->n_vocab);
    SL_TRY(sl_context_check_cancel(c));
  }
  sl_context_progress(c, k + 1.0, f->n_layer + 1.0);
  return SL_OK;
}

static sl_status run_pass(lens *f) {
  sl_analysis_context *c = f->context;
  const sl_probe probe = {.user = f, .wants = wants_residual, .see = see_residual};
  SL_TRY(sl_session_forward(c->session, c->layout, c->image, NULL, 0, NULL, &probe, false));
  for (int k = f->first; k < f->first + f->n_block; k++) SL_TRY(read_residual(f, k));
  return SL_OK;
}

static sl_status run_passes(lens *f, int64_t limit_bytes) {
  const int n_point = f->n_layer + 1;
  size_t layer_bytes, n_bytes;
  if (!sl_size_mul((size_t)(f->n_image + 1) * sizeof(float), (size_t)f->d_model, &layer_bytes))
    SL_FAIL(SL_ERROR_MEMORY, "lens: rows of %d image tokens are too large", f->n_image);
  int64_t most = limit_bytes / (int64_t)layer_bytes;
  if (most < 1) most = 1;
  if (most > n_point) most = n_point;
  if (!sl_size_mul(layer_bytes, (size_t)most, &n_bytes))
    SL_FAIL(SL_ERROR_MEMORY, "lens: rows of %d image tokens are too large", f->n_image);
  sl_buffer *buffer = NULL;
  SL_TRY(sl_buffer_new(&buffer, sl_model_get_backend(f->context->model), n_bytes, "residual rows"));
  f->kept = (sl_mat){buffer, 0, f->d_model, (int)most * (f->n_image + 1), f->d_model, SL_F32};
  sl_status status = SL_OK;
  for (f->first = 0; f->first < n_point && status == SL_OK; f->first += f->n_block) {
    f->n_block = n_point - f->first < most ? n_point - f->first : (int)most;
    status = run_pass(f);
  }
  sl_buffer_free(buffer);
  return status;
}

/* ---- what is told ---- */

static sl_status put_all(const lens *f) {
  sl_analysis_context *c = f->context;
  const int64_t n_point = f->n_layer + 1, of_image[] = {n_point, f->n_image}, of_top[] = {n_point, f->n_top};
  SL_TRY(sl_context_put(c, "lens.final_logit", SL_F32, 1, &n_point, f->final_logit));
  SL_TRY(sl_context_put(c, "lens.final_rank", SL_I32, 1, &n_point, f->final_rank));
  SL_TRY(sl_context_put(c, "lens.final_prob", SL_F32, 1, &n_point, f->final_prob));
  SL_TRY(sl_context_put(c, "lens.final_top", SL_I32, 2, of_top, f->final_top));
  SL_TRY(sl_context_put(c, "lens.final_top_prob", SL_F32, 2, of_top, f->final_top_prob));
  SL_TRY(sl_context_put(c, "lens.image_answer", SL_F32, 2, of_image, f->image_answer));
  SL_TRY(sl_context_put(c, "lens.image_logit", SL_F32, 2, of_image, f->image_logit));
  SL_TRY(sl_context_put(c, "lens.image_rank", SL_I32, 2, of_image, f->image_rank));
  SL_TRY(sl_context_put(c, "lens.image_top", SL_I32, 2, of_image, f->image_top));
  return sl_context_put(c, "lens.image_top_prob", SL_F32, 2, of_image, f->image_top_prob);
}

/* The top tokens of the final row, and the layer from which on the answer stays the first choice. */
static sl_status say_final(const lens *f) {
  sl_analysis_context *c = f->context;
  const int n_point = f->n_layer + 1;
  json_t *top = json_array(), *ranks = json_array();
  int decided = n_point;
  while (decided > 0 && f->final_rank[decided - 1] == 1) decided--;
  for (int k = 0; k < n_point; k++) {
    json_t *row = json_array();
    for (int i = 0; i < f->n_top; i++)
      json_array_append_new(row, sl_json_token_text(c, f->final_top[(int64_t)k * f->n_top + i]));
    json_array_append_new(top, row);
    json_array_append_new(ranks, json_integer(f->final_rank[k]));
  }
  sl_status status = sl_context_say(c, "top", json_incref(top));
  if (status == SL_OK) status = sl_context_say(c, "rank", json_incref(ranks));
  json_decref(top);
  json_decref(ranks);
  SL_TRY(status);
  SL_TRY(sl_context_say(c, "token", sl_json_token_text(c, c->answer[0].id)));
  SL_TRY(sl_context_say(c, "prob", sl_json_floats(f->final_prob, n_point, 1)));
  return sl_context_say(c, "decided", decided < n_point ? json_integer(decided) : json_null());
}

/* What the image tokens say: texts of every token that is the first choice of one, and where the answer stands out. */
static sl_status say_image(const lens *f) {
  sl_analysis_context *c = f->context;
  const int64_t n = (int64_t)(f->n_layer + 1) * f->n_image;
  json_t *texts = json_object();
  json_t *best = json_array();
  bool *seen = NULL;
  sl_status status = SL_ALLOC(seen, (size_t)f->n_vocab, "vocabulary");
  for (int64_t i = 0; i < n && status == SL_OK; i++) {
    const int32_t id = f->image_top[i];
    char key[16];
    if (seen[id]) continue;
    seen[id] = true;
    snprintf(key, sizeof key, "%d", (int)id);
    json_object_set_new(texts, key, sl_json_token_text(c, id));
  }
  for (int k = 0; k <= f->n_layer && status == SL_OK; k++) {
    const float *answer = f->image_answer + (int64_t)k * f->n_image;
    int at = 0;
    for (int j = 1; j < f->n_image; j++)
      if (answer[j] > answer[at]) at = j;
    json_array_append_new(best, json_pack("{s:i, s:f, s:i}", "image_token", at, "prob", (double)answer[at], "rank",
                                          (int)f->image_rank[(int64_t)k * f->n_image + at]));
  }
  if (status == SL_OK) status = sl_context_say(c, "image_texts", json_incref(texts));
  if (status == SL_OK) status = sl_context_say(c, "image_best", json_incref(best));
  json_decref(texts);
  json_decref(best);
  free(seen);
  return status;
}

static sl_status allocate(lens *f) {
  const size_t n_point = (size_t)f->n_layer + 1, n_image = n_point * (size_t)f->n_image;
  float **floats[] = {&f->final_logit, &f->final_prob, &f->image_answer, &f->image_logit, &f->image_top_prob};
  int32_t **ints[] = {&f->final_rank, &f->image_rank, &f->image_top};
  for (int i = 0; i < 5; i++) SL_TRY(SL_ALLOC(*floats[i], i < 2 ? n_point : n_image, "logit lens"));
  for (int i = 0; i < 3; i++) SL_TRY(SL_ALLOC(*ints[i], i < 1 ? n_point : n_image, "logit lens"));
  SL_TRY(SL_ALLOC(f->final_top, n_point * (size_t)f->n_top, "logit lens"));
  SL_TRY(SL_ALLOC(f->final_top_prob, n_point * (size_t)f->n_top, "logit lens"));
  return SL_ALLOC(f->logits, (size_t)CHUNK_ROWS * (size_t)f->n_vocab, "logit lens");
}

static void lens_dispose(lens *f) {
  free(f->logits);
  free(f->final_logit);
  free(f->final_rank);
  free(f->final_prob);
  free(f->final_top);
  free(f->final_top_prob);
  free(f->image_answer);
  free(f->image_logit);
  free(f->image_rank);
  free(f->image_top);
  free(f->image_top_prob);
}

sl_status sl_lens_run(sl_analysis_context *c, int64_t limit_bytes) {
  const sl_model_shape *shape = sl_model_get_shape(c->model);
  const int top = sl_context_int(c, "top");
  lens f = {.context = c, .n_layer = shape->decoder.n_layer, .n_image = c->layout->n_image, .n_vocab = shape->n_vocab,
            .n_top = top < shape->n_vocab ? top : shape->n_vocab, .d_model = shape->decoder.d_model};
  sl_status status = allocate(&f);
  if (status == SL_OK) status = run_passes(&f, limit_bytes);
  if (status == SL_OK) status = put_all(&f);
  if (status == SL_OK) status = say_final(&f);
  if (status == SL_OK) status = say_image(&f);
  lens_dispose(&f);
  return status;
}

static sl_status lens_run(sl_analysis_context *c) { return sl_lens_run(c, KEEP_BYTES); }

/* Passes that the memory limit makes of it, and the head's share: it runs for (L + 1)(N + 1) rows, a pass runs all
 * layers for every row. */
static double lens_passes(const sl_analysis_context *c) {
  const sl_model_shape *shape = sl_model_get_shape(c->model);
  const sl_part_shape *d = &shape->decoder;
  const double n_read = (d->n_layer + 1.0) * (c->layout->n_image + 1.0);
  const double layer = (double)d->d_model * (2.0 * d->n_head * d->d_head + 2.0 * d->n_head_kv * d->d_head) +
                       3.0 * (double)d->d_model * d->d_mlp;
  const double pass = c->layout->n_token * layer * d->n_layer, head = n_read * d->d_model * shape->n_vocab;
  const double kept_bytes = n_read * d->d_model * (double)sizeof(float);
  return ceil(kept_bytes / (double)KEEP_BYTES) + (pass > 0 ? head / pass : 0);
}

static const char *const results[] = {"lens.final_logit",    "lens.final_rank",   "lens.final_prob",
                                      "lens.final_top",      "lens.final_top_prob", "lens.image_answer",
                                      "lens.image_logit",    "lens.image_rank",   "lens.image_top",
                                      "lens.image_top_prob", NULL};

const sl_analysis sl_lens_analysis = {
    .info =
        {.name = "lens",
         .help = "what every layer would say: the logit lens at the final token and at every image token",
         .details =
             "The final norm and the output head are applied to the residual stream before every layer and after the "
             "last one. At the final token this shows in which layer the answer becomes the model's first choice; at "
             "image tokens, which word each patch has come to stand for, and where the answer stands out.",
         .source = "nostalgebraist, interpreting GPT: the logit lens (2020); Neo et al., arXiv 2410.07149",
         .options = options,
         .n_option = sizeof options / sizeof *options,
         .results = results},
    .passes = lens_passes,
    .run = lens_run,
};
