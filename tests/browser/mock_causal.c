/* Numbers shaped like those of a small LLaVA: the image is needed until two thirds of the depth, a few heads there
 * carry it, the object's patches give it and the final position takes it. */
#include "browser/mock_causal.h"

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"

enum { N_TOP = 5, N_RIVAL = 5, N_EDGE = 3, MAX_CURVE = 64 };

static double noise(uint64_t stream, uint64_t index) { return sl_rng_uniform(11, stream, index); }
static double rise(double at, double centre, double width) { return 1 / (1 + exp(-(at - centre) / width)); }

static sl_status put1(sl_run *run, const char *name, int64_t n, const float *values) {
  return sl_run_put(run, name, SL_F32, 1, &n, values);
}

static sl_status put2(sl_run *run, const char *name, int64_t rows, int64_t columns, const float *values) {
  return sl_run_put(run, name, SL_F32, 2, (int64_t[]){rows, columns}, values);
}


static sl_status put_cliff(sl_run *run, json_t *analyses, const mock_size *size) {
  float logit[65], prob[65], ranks[130];
  int n = size->n_layer + 1, cliff = size->n_layer * 2 / 3;
  json_t *answers = json_array();
  for (int k = 0; k < n; k++) {
    double part = k >= size->n_layer ? 1 : rise(k, cliff - 2.5, 0.9);
    logit[k] = (float)(-1 + 15 * part);
    prob[k] = (float)pow(part, 4);
    ranks[k] = k < 2 ? NAN : (float)(2 + 12 * rise(k, cliff - 5, 1.2));
    ranks[n + k] = k < 2 ? NAN : (float)(1 + 13 * rise(k, cliff - 3, 1.2));
    json_array_append_new(answers, json_string(part > 0.6 ? size->word : " sky"));
  }
  SL_TRY(put1(run, "cliff.logit", n, logit));
  SL_TRY(put1(run, "cliff.prob", n, prob));
  SL_TRY(put2(run, "cliff.rank_logit", 2, n, ranks));
  json_t *list = json_pack("[{s:s,s:n,s:i,s:f,s:f},{s:s,s:i,s:i,s:f,s:f}]", "rank", "attention", "order", "layer",
                           cliff - 3, "loss", 2.1, "same_token", 0.8, "rank", "random", "order", 0, "layer", cliff,
                           "loss", 4.4, "same_token", 0.4);
  json_object_set_new(analyses, "cliff", json_pack("{s:i,s:i,s:s,s:f,s:f,s:f,s:i,s:o,s:i,s:o}", "image_tokens",
                                                   size->n_image, "keep", 16, "target", "logit", "plain", 14.0,
                                                   "no_image", -1.0, "eps", 0.05, "layer", cliff, "answer", answers,
                                                   "answer_layer", cliff - 1, "ranks", list));
  return SL_OK;
}

static sl_status put_knockout(sl_run *run, json_t *analyses, const mock_size *size) {
  static const char *const edges[N_EDGE][2] = {{"question", "image"}, {"final", "image"}, {"role+final", "question"}};
  float change[N_EDGE * 64];
  json_t *list = json_array();
  int n = size->n_layer;
  for (int e = 0; e < N_EDGE; e++) {
    double centre = n * (e == 0 ? 0.25 : 0.7), depth = e == 0 ? 0.3 : e == 1 ? 0.85 : 0.00001; /* the last: negligible */
    float lowest = 0;
    int peak = 0;
    for (int il = 0; il < n; il++) {
      change[e * n + il] = (float)(-depth * exp(-pow((il - centre) / (0.12 * n), 2)) + (e == 0 && il == n - 1 ? 0.04 : 0));
      if (change[e * n + il] < lowest) lowest = change[e * n + il], peak = il;
    }
    json_array_append_new(list, json_pack("{s:s,s:s,s:f,s:i,s:f}", "query", edges[e][0], "key", edges[e][1], "centroid",
                                          centre, "peak", peak, "lowest", (double)lowest));
  }
  json_t *left_out = json_pack("[{s:s,s:s}]", "edge", "role<-image", "reason", size->word);
  json_object_set_new(analyses, "knockout", json_pack("{s:o,s:o,s:i,s:f}", "edges", list, "left_out", left_out, "window",
                                                      3, "prob", 0.87));
  return put2(run, "knockout.change", N_EDGE, n, change);
}

/* Image rows of the lens: [L + 1, N] values that find the object in the middle. */
static sl_status put_lens_image(sl_run *run, const mock_size *size) {
  int n = size->n_layer + 1, count = n * size->n_image;
  float *answer = NULL, *share = NULL;
  int32_t *rank = NULL, *top = NULL;
  sl_status status = SL_ALLOC(answer, (size_t)count, "mock");
  if (status == SL_OK) status = SL_ALLOC(share, (size_t)count, "mock");
  if (status == SL_OK) status = SL_ALLOC(rank, (size_t)count, "mock");
  if (status == SL_OK) status = SL_ALLOC(top, (size_t)count, "mock");
  for (int i = 0; i < count && status == SL_OK; i++) {
    int k = i / size->n_image, token = i % size->n_image;
    double at = size->object[token];
    double focus = exp(-pow((k - 0.6 * n) / (0.2 * n), 2));
    answer[i] = (float)(0.3 * at * focus * (0.5 + 0.5 * noise(31, (uint64_t)i)) + 1e-4);
    rank[i] = 1 + (int32_t)(3000 * (1 - answer[i] / 0.31));
    top[i] = at * focus > 0.5 ? 7 : 8 + (token + k) % 3;
    share[i] = (float)(0.1 + 0.3 * noise(32, (uint64_t)i));
  }
  const int64_t shape[] = {n, size->n_image};
  if (status == SL_OK) status = sl_run_put(run, "lens.image_answer", SL_F32, 2, shape, answer);
  if (status == SL_OK) status = sl_run_put(run, "lens.image_top_prob", SL_F32, 2, shape, share);
  if (status == SL_OK) status = sl_run_put(run, "lens.image_rank", SL_I32, 2, shape, rank);
  if (status == SL_OK) status = sl_run_put(run, "lens.image_top", SL_I32, 2, shape, top);
  free(answer);
  free(share);
  free(rank);
  free(top);
  return status;
}

static sl_status put_lens(sl_run *run, json_t *analyses, const mock_size *size) {
  int n = size->n_layer + 1;
  float prob[65], share[65 * N_TOP];
  int32_t rank[65];
  json_t *top = json_array();
  for (int k = 0; k < n; k++) {
    double sure = rise(k, 0.7 * n, 0.05 * n);
    prob[k] = (float)(0.9 * sure + 1e-5);
    rank[k] = 1 + (int32_t)(20000 * pow(1 - sure, 6));
    for (int i = 0; i < N_TOP; i++) share[k * N_TOP + i] = (float)(i == 0 ? fmax(0.2, 0.9 * sure) : 0.1 / (i + 1));
    json_array_append_new(top, json_pack("[s,s,s,s,s]", sure > 0.5 ? size->word : " the", " of", "\n", " cube", "的"));
  }
  SL_TRY(put1(run, "lens.final_prob", n, prob));
  SL_TRY(sl_run_put(run, "lens.final_rank", SL_I32, 1, (int64_t[]){n}, rank));
  SL_TRY(put2(run, "lens.final_top_prob", n, N_TOP, share));
  json_t *texts = json_pack("{s:s,s:s,s:s,s:s}", "7", size->word, "8", " sky", "9", " grass", "10", "\n");
  json_object_set_new(analyses, "lens", json_pack("{s:o,s:s,s:i,s:o}", "top", top, "token", size->word, "decided",
                                                  (int)(0.7 * n) + 1, "image_texts", texts));
  return put_lens_image(run, size);
}

/* Curves of a ranking and `n_rival` others over `n` components; growth; the test masks' scatter. */
static sl_status put_curves(sl_run *run, const char *prefix, int n, int n_rival, double half) {
  char name[64];
  float own[MAX_CURVE], rivals[N_RIVAL * MAX_CURVE], growth[4 * 4], target[400], predicted[40];
  int32_t steps[MAX_CURVE];
  int count = n + 1 < MAX_CURVE ? n + 1 : MAX_CURVE;
  for (int i = 0; i < count; i++) steps[i] = (int32_t)lround(n * pow((double)i / (count - 1), n + 1 < MAX_CURVE ? 1 : 2));
  for (int kind = 0; kind < 2; kind++) {
    for (int i = 0; i < count; i++) {
      double at = steps[i];
      own[i] = (float)(at >= n ? 1 : 1 - exp(-0.693 * at / (half * (kind ? 2 : 1))));
      for (int r = 0; r < n_rival; r++) rivals[r * count + i] = (float)(at >= n ? 1 : 1 - exp(-0.693 * at / (half * (1.5 + 3 * r + 2 * kind))));
    }
    snprintf(name, sizeof name, "%s%s", prefix, kind ? "completeness" : "faithfulness");
    SL_TRY(put1(run, name, count, own));
    snprintf(name, sizeof name, "%s%s_rivals", prefix, kind ? "completeness" : "faithfulness");
    SL_TRY(put2(run, name, n_rival, count, rivals));
  }
  for (int i = 0; i < 400; i++) {
    target[i] = (float)(5 + 4 * (noise(41, (uint64_t)i) + noise(42, (uint64_t)i)));
    if (i % 10 == 9) predicted[i / 10] = target[i] + (float)(noise(43, (uint64_t)i) - 0.5);
  }
  for (int i = 0; i < 4; i++) {
    growth[i * 4] = (float)(100 * (i + 1));
    for (int k = 1; k < 4; k++) growth[i * 4 + k] = (float)(0.97 - 0.05 * k - 0.4 * exp(-i));
  }
  snprintf(name, sizeof name, "%ssteps", prefix);
  SL_TRY(sl_run_put(run, name, SL_I32, 1, (int64_t[]){count}, steps));
  snprintf(name, sizeof name, "%starget", prefix);
  SL_TRY(put1(run, name, 400, target));
  snprintf(name, sizeof name, "%spredicted", prefix);
  SL_TRY(put1(run, name, 40, predicted));
  snprintf(name, sizeof name, "%sgrowth", prefix);
  return put2(run, name, 4, 4, growth);
}

static json_t *regression_json(int n, const char *note) {
  json_t *regression = json_pack("{s:i,s:i,s:i,s:s,s:{s:f,s:f,s:f,s:[f,f]}}", "components", n, "masks", 400, "test", 40,
                                 "stopped", "all samples drawn", "fit", "pearson", 0.968, "spearman", 0.951, "r2", 0.922,
                                 "pearson_interval", 0.94, 0.983);
  if (note) json_object_set_new(regression, "note", json_string(note));
  return regression;
}

/* `most`: the number of components. */
static json_t *curves_json(const char *first, int n_rival, int most) {
  static const char *const names[] = {"single", "attention", "patching", "random", "layer-matched random"};
  json_t *rankings = json_pack("[{s:s,s:i,s:i,s:f,s:f}]", "name", first, "smallest_faithful",
                               most < 9 ? most : 9, "smallest_complete", most < 17 ? most : 17, "area_faithful", 0.97,
                               "area_complete", 0.94);
  for (int r = 0; r < n_rival; r++) {
    json_t *one = json_pack("{s:s,s:i,s:n,s:f,s:f}", "name", names[n_rival == 1 ? 3 : r], "smallest_faithful",
                            most < 14 + 9 * r ? most : 14 + 9 * r, "smallest_complete", "area_faithful", 0.9 - 0.05 * r,
                            "area_complete", 0.8 - 0.05 * r);
    if (n_rival == 1 || r >= 3) { /* by chance */
      json_object_set_new(one, "orders", json_integer(4));
      json_object_set_new(one, "area_sd", json_pack("{s:f,s:f}", "faithful", 0.021, "complete", 0.034));
    }
    json_array_append_new(rankings, one);
  }
  return json_pack("{s:f,s:o}", "enough", 0.9, "rankings", rankings);
}

static sl_status put_heads(sl_run *run, json_t *analyses, const mock_size *size) {
  static const char *const rivals[] = {"heads.single", "heads.patching", "heads.attention"};
  int n = size->n_layer * size->n_head;
  float *values = NULL;
  SL_TRY(SL_ALLOC(values, (size_t)n * 5, "mock"));
  float *score = values, *error = values + n;
  for (int i = 0; i < n; i++) {
    double layer = i / size->n_head, here = exp(-pow((layer - 0.65 * size->n_layer) / (0.1 * size->n_layer), 2));
    double strong = noise(51, (uint64_t)i) > 0.75 ? 2.4 * here * noise(52, (uint64_t)i) : 0;
    score[i] = (float)(strong + 0.12 * (noise(53, (uint64_t)i) - 0.55));
    if (noise(54, (uint64_t)i) > 0.985) score[i] = -0.7f;
    error[i] = i == 0 ? NAN : 0.05f; /* head 0 of layer 0 is dropped */
    if (i == 0) score[i] = 0;
    values[2 * n + i] = score[i] * (float)(0.2 + 0.2 * noise(55, (uint64_t)i));
    values[3 * n + i] = score[i] * 0.1f - 0.02f;
    values[4 * n + i] = (float)noise(56, (uint64_t)i);
  }
  sl_status status = put2(run, "heads.score", size->n_layer, size->n_head, score);
  if (status == SL_OK) status = put2(run, "heads.stderr", size->n_layer, size->n_head, error);
  for (int r = 0; r < 3 && status == SL_OK; r++) status = put2(run, rivals[r], size->n_layer, size->n_head, values + (2 + r) * n);
  free(values);
  if (status == SL_OK) status = put_curves(run, "heads.", n, N_RIVAL, 4);
  json_object_set_new(analyses, "heads", json_pack("{s:{s:s},s:s,s:f,s:f,s:[[i,i]],s:o,s:o,s:[[f,f],[f,f],[f,f]],s:f}",
                                                   "baseline", "kind", "block", "target", "logit", "all", 14.0, "none",
                                                   -1.0, "dropped", 0, 0, "regression", regression_json(n, size->note),
                                                   "curves", curves_json("heads", N_RIVAL, n), "mass", 0.01, 0.16, 0.05, 0.42, 0.1,
                                                   0.63, "centroid_layer", 0.65 * size->n_layer));
  return status;
}

static sl_status put_tokens(sl_run *run, json_t *analyses, const mock_size *size) {
  int n = size->n_image, u = size->n_text;
  float *score = NULL, *error = NULL, text[64], text_error[64];
  SL_TRY(SL_ALLOC(score, (size_t)n, "mock"));
  sl_status status = SL_ALLOC(error, (size_t)n, "mock");
  json_t *set = json_array(), *positions = json_array();
  for (int i = 0; i < n && status == SL_OK; i++) {
    double at = size->object[i];
    score[i] = (float)(0.3 * at * noise(61, (uint64_t)i) + 0.08 * (noise(62, (uint64_t)i) - 0.55));
    error[i] = 0.02f;
    if (score[i] > 0.24f) json_array_append_new(set, json_integer(i));
  }
  for (int i = 0; i < u; i++) {
    text[i] = i == u - 1 ? 13.2f : (float)(0.8 * (noise(63, (uint64_t)i) - 0.4));
    text_error[i] = 0.1f;
    json_array_append_new(positions, json_integer(size->n_before + n + i));
  }
  const int64_t grid[] = {size->side, size->side}, flat[] = {n};
  int n_dim = size->side ? 2 : 1;
  if (status == SL_OK) status = sl_run_put(run, "tokens.image", SL_F32, n_dim, size->side ? grid : flat, score);
  if (status == SL_OK) status = sl_run_put(run, "tokens.image_stderr", SL_F32, n_dim, size->side ? grid : flat, error);
  free(score);
  free(error);
  if (status == SL_OK) status = put1(run, "tokens.text", u, text);
  if (status == SL_OK) status = put1(run, "tokens.text_stderr", u, text_error);
  if (status == SL_OK) status = put_curves(run, "tokens.image_", n, 1, 5);
  if (status == SL_OK) status = put_curves(run, "tokens.text_", u, 1, 0.4);
  json_t *image = json_pack("{s:f,s:f,s:o,s:o,s:i,s:f,s:f,s:{s:i,s:o,s:f}}", "all", 14.0, "none", -1.0, "regression",
                            regression_json(n, NULL), "curves", curves_json("tokens", 1, n), "block", 1, "object_share", 0.93,
                            "object_patches", 0.22, "sufficient", "components", (int)json_array_size(set),
                            "image_positions", set, "object_share", 1.0);
  json_t *side = json_pack("{s:f,s:f,s:o,s:o,s:s,s:o,s:{s:f,s:f,s:f}}", "all", 14.0, "none", -1.0, "regression",
                           regression_json(u, NULL), "curves", curves_json("tokens", 1, u), "by", "position", "positions",
                           positions, "share", "question", 0.05, "role", 0.02, "final", 0.93);
  json_object_set_new(analyses, "tokens", json_pack("{s:s,s:o,s:o}", "target", "logit", "image", image, "text", side));
  return status;
}

sl_status mock_causal_put(sl_run *run, json_t *analyses, const mock_size *size) {
  SL_TRY(put_cliff(run, analyses, size));
  SL_TRY(put_knockout(run, analyses, size));
  SL_TRY(put_lens(run, analyses, size));
  SL_TRY(put_heads(run, analyses, size));
  return put_tokens(run, analyses, size);
}
