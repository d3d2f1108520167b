/* Attention flow: how much of what a query row reads comes from the image.
 *
 *   lambda_C(l, i) = sum over keys j in class C of mean over heads h of A_l,h[i, j]      (R2R eq. 6-8)
 *
 * Query rows are those whose logits predict the answer's tokens. The forward pass emits the pattern of these rows alone
 * and every layer is reduced as it is seen, so that no P x P matrix exists anywhere.
 * Source: Zhang et al., From Redundancy to Relevance (R2R), arXiv 2406.06579. The class of structure tokens, the class
 * of generated tokens, the statistics of the image row (analysis.h, sl_map_stats) and the attention cliff (the help of
 * --attention-cliff) are sightline's. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/attention_rows.h"
#include "analysis/flow.h"
#include "analysis/shared.h"
#include "stats/spread.h"

static const sl_option_info options[] = {
    {.name = "renormalise",
     .type = SL_OPTION_FLAG,
     .fallback = "false",
     .help =
         "Divide the shares by what goes to the prompt, so that system, image, structure and user add up to 1, as the "
         "paper does; the generated class is then 0."},
    {.name = "attention-cliff",
     .type = SL_OPTION_REAL,
     .argument = "SHARE",
     .fallback = "0.02",
     .min = 0,
     .max = 1,
     .help = "The attention cliff is the first layer from which the image share of the first answer token's row stays "
             "below SHARE."},
    {.name = "sinks",
     .type = SL_OPTION_INT,
     .argument = "N",
     .fallback = "8",
     .min = 1,
     .max = 1024,
     .help = "Store the N positions outside the image that the first answer token's row reads most (flow.sinks)."},
    {.name = "sink-threshold",
     .type = SL_OPTION_REAL,
     .argument = "SHARE",
     .fallback = "0.1",
     .min = 0,
     .max = 1,
     .help = "Name a position a sink when it gets more than SHARE of the attention in some layer, mean over heads."},
};

typedef struct flow {
  sl_analysis_context *context;
  const sl_layout *layout;
  int n_layer, n_head, n_query;
  float *share;       /* [L, Q, 5] */
  float *share_heads; /* [L, H, Q, 5] */
  float *image;       /* [L, Q, N] */
  float *image_heads; /* [L, H, N] of the first query row */
  float *keys;        /* [L, P] head-mean attention of the first query row */
} flow;

/* One head's attention of one query row: class sums, and its part of the means over heads. */
static void reduce_row(void *user, int layer, int head, int query, const float *row, int n_key) {
  flow *f = user;
  const sl_layout *layout = f->layout;
  const float weight = 1.0f / (float)f->n_head;
  double sums[SL_CLASS_COUNT] = {0};
  for (int j = 0; j < n_key; j++) sums[layout->classes[j]] += row[j];
  float *of_head = f->share_heads + (((int64_t)layer * f->n_head + head) * f->n_query + query) * SL_CLASS_COUNT;
  float *mean = f->share + ((int64_t)layer * f->n_query + query) * SL_CLASS_COUNT;
  for (int c = 0; c < SL_CLASS_COUNT; c++) {
    of_head[c] = (float)sums[c];
    mean[c] += (float)sums[c] * weight;
  }
  const int n_image = layout->n_image;
  float *image = f->image + ((int64_t)layer * f->n_query + query) * n_image;
  for (int j = 0; j < n_image; j++) image[j] += row[layout->first_image + j] * weight;
  if (query > 0) return;
  float *keys = f->keys + (int64_t)layer * layout->n_token;
  for (int j = 0; j < n_key; j++) keys[j] += row[j] * weight;
  memcpy(f->image_heads + ((int64_t)layer * f->n_head + head) * n_image, row + layout->first_image,
         (size_t)n_image * sizeof *row);
}

/* The rows that predict the answer's tokens. */
static sl_status read_rows(flow *f, int64_t pattern_bytes) {
  int *rows = NULL;
  SL_TRY(SL_ALLOC(rows, (size_t)f->n_query, "query rows"));
  for (int q = 0; q < f->n_query; q++) rows[q] = f->layout->n_prompt - 1 + q;
  const sl_attention_rows request = {.rows = rows, .n_row = f->n_query, .limit_bytes = pattern_bytes, .progress = 1,
                                     .take = reduce_row, .user = f};
  const sl_status status = sl_context_attention(f->context, &request);
  free(rows);
  return status;
}

/* Shares of the prompt's classes over their sum, as the paper has them. */
static void renormalise(float *share, int64_t n_row) {
  for (int64_t r = 0; r < n_row; r++) {
    float *row = share + r * SL_CLASS_COUNT;
    const float rest = row[SL_CLASS_SYSTEM] + row[SL_CLASS_IMAGE] + row[SL_CLASS_STRUCTURE] + row[SL_CLASS_USER];
    for (int c = 0; c < SL_CLASS_COUNT; c++) row[c] = rest > 0 && c != SL_CLASS_GENERATED ? row[c] / rest : 0;
  }
}

static sl_status put_shares(flow *f) {
  const int64_t L = f->n_layer, H = f->n_head, Q = f->n_query, N = f->layout->n_image;
  sl_analysis_context *c = f->context;
  if (sl_context_flag(c, "renormalise")) {
    renormalise(f->share, L * Q);
    renormalise(f->share_heads, L * H * Q);
  }
  SL_TRY(sl_context_put(c, "flow.share", SL_F32, 3, (int64_t[]){L, Q, SL_CLASS_COUNT}, f->share));
  SL_TRY(sl_context_put(c, "flow.share_heads", SL_F32, 4, (int64_t[]){L, H, Q, SL_CLASS_COUNT}, f->share_heads));
  SL_TRY(sl_context_put(c, "flow.image", SL_F32, 3, (int64_t[]){L, Q, N}, f->image));
  SL_TRY(sl_context_put(c, "flow.image_heads", SL_F32, 3, (int64_t[]){L, H, N}, f->image_heads));
  const float *first_image = f->share + SL_CLASS_IMAGE;
  SL_TRY(sl_context_say(c, "image_share", sl_json_floats(first_image, f->n_layer, f->n_query * SL_CLASS_COUNT)));
  double *image_share = NULL;
  SL_TRY(SL_ALLOC(image_share, (size_t)L, "image shares"));
  for (int l = 0; l < L; l++) image_share[l] = first_image[l * Q * SL_CLASS_COUNT];
  const int cliff = sl_first_staying_below(image_share, f->n_layer, sl_context_real(c, "attention-cliff"));
  free(image_share);
  c->shared->attention_cliff = cliff;
  SL_TRY(sl_context_say(c, "cliff_share", json_real(sl_context_real(c, "attention-cliff"))));
  return sl_context_say(c, "attention_cliff", cliff >= 0 ? json_integer(cliff) : json_null());
}

/* flow.entropy, flow.stats, and the first rows for whoever comes later. */
static sl_status put_spread(flow *f) {
  const int64_t L = f->n_layer, Q = f->n_query, N = f->layout->n_image;
  sl_analysis_context *c = f->context;
  const int n_shown = f->layout->n_shown;
  float *entropy = NULL, *stats = NULL, *shown = NULL;
  sl_status status = SL_ALLOC(entropy, (size_t)(L * Q), "entropies");
  if (status == SL_OK) status = SL_ALLOC(stats, (size_t)(L * 4), "map statistics");
  if (status == SL_OK) status = SL_ALLOC(shown, (size_t)n_shown, "attention rows");
  if (status == SL_OK) status = SL_REALLOC(c->shared->flow_row, (size_t)(L * N), "attention rows");
  for (int64_t l = 0; l < L && status == SL_OK; l++) {
    const float *rows = f->image + l * Q * N;
    for (int64_t q = 0; q < Q; q++) {
      sl_layout_take_shown(f->layout, rows + q * N, shown);
      entropy[l * Q + q] = (float)sl_entropy(shown, n_shown);
    }
    status = sl_map_stats(c, rows, stats + l * 4);
    memcpy(c->shared->flow_row + l * N, rows, (size_t)N * sizeof *rows);
  }
  if (status == SL_OK) status = sl_context_put(c, "flow.entropy", SL_F32, 2, (int64_t[]){L, Q}, entropy);
  if (status == SL_OK) status = sl_context_put(c, "flow.stats", SL_F32, 2, (int64_t[]){L, 4}, stats);
  if (status == SL_OK) status = sl_context_say(c, "entropy", sl_json_floats(stats, (int)L, 4));
  if (status == SL_OK) status = sl_context_say(c, "top_share", sl_json_floats(stats + 1, (int)L, 4));
  if (status == SL_OK && c->object) {
    status = sl_context_say(c, "object_share", sl_json_floats(stats + 2, (int)L, 4));
    if (status == SL_OK) status = sl_context_say(c, "pointing", sl_json_floats(stats + 3, (int)L, 4));
  }
  free(entropy);
  free(stats);
  free(shown);
  return status;
}

/* True for keys that can be sinks: outside the image, and not the query itself (every row reads itself). */
static bool may_sink(const sl_layout *layout, int j) {
  const bool in_image = j >= layout->first_image && j < layout->first_image + layout->n_image;
  return !in_image && j < layout->n_prompt - 1;
}

/* The n_sink best keys of one layer by repeated search: few are asked for. */
static void pick_sinks(const flow *f, int layer, int n_sink, int32_t *at, float *share) {
  const float *keys = f->keys + (int64_t)layer * f->layout->n_token;
  for (int k = 0; k < n_sink; k++) {
    int best = -1;
    for (int j = 0; j < f->layout->n_prompt; j++) {
      bool taken = !may_sink(f->layout, j);
      for (int before = 0; before < k && !taken; before++) taken = at[before] == j;
      if (!taken && (best < 0 || keys[j] > keys[best])) best = j;
    }
    at[k] = best;
    share[k] = keys[best];
  }
}

/* Positions above the threshold in some layer, with those layers and the highest share. */
static json_t *name_sinks(const flow *f, double threshold) {
  json_t *list = json_array();
  for (int j = 0; j < f->layout->n_prompt && list; j++) {
    if (!may_sink(f->layout, j)) continue;
    json_t *layers = json_array();
    float most = 0;
    for (int l = 0; l < f->n_layer; l++) {
      const float share = f->keys[(int64_t)l * f->layout->n_token + j];
      if (share > threshold) json_array_append_new(layers, json_integer(l));
      if (share > most) most = share;
    }
    if (most > threshold) {
      json_array_append_new(list, json_pack("{s:i, s:f, s:o}", "position", j, "share", (double)most, "layers", layers));
    } else {
      json_decref(layers);
    }
  }
  return list;
}

static sl_status put_sinks(flow *f) {
  sl_analysis_context *c = f->context;
  int n_key = 0, n_sink = sl_context_int(c, "sinks");
  for (int j = 0; j < f->layout->n_prompt; j++) n_key += may_sink(f->layout, j);
  if (n_sink > n_key) n_sink = n_key;
  const int64_t shape[] = {f->n_layer, n_sink};
  int32_t *at = NULL;
  float *share = NULL;
  sl_status status = SL_ALLOC(at, (size_t)(shape[0] * n_sink), "sinks");
  if (status == SL_OK) status = SL_ALLOC(share, (size_t)(shape[0] * n_sink), "sinks");
  for (int l = 0; l < f->n_layer && status == SL_OK; l++) pick_sinks(f, l, n_sink, at + l * n_sink, share + l * n_sink);
  if (status == SL_OK) status = sl_context_put(c, "flow.sinks", SL_I32, 2, shape, at);
  if (status == SL_OK) status = sl_context_put(c, "flow.sink_share", SL_F32, 2, shape, share);
  if (status == SL_OK) status = sl_context_say(c, "sinks", name_sinks(f, sl_context_real(c, "sink-threshold")));
  free(at);
  free(share);
  return status;
}

static sl_status flow_alloc(flow *f) {
  const size_t L = (size_t)f->n_layer, H = (size_t)f->n_head, Q = (size_t)f->n_query, N = (size_t)f->layout->n_image;
  SL_TRY(SL_ALLOC(f->share, L * Q * SL_CLASS_COUNT, "attention shares"));
  SL_TRY(SL_ALLOC(f->share_heads, L * H * Q * SL_CLASS_COUNT, "attention shares"));
  SL_TRY(SL_ALLOC(f->image, L * Q * N, "attention rows"));
  SL_TRY(SL_ALLOC(f->keys, L * (size_t)f->layout->n_token, "attention rows"));
  SL_TRY(SL_ALLOC(f->image_heads, L * H * N, "attention rows"));
  return SL_OK;
}

sl_status sl_flow_run(sl_analysis_context *c, int64_t pattern_bytes) {
  const sl_model_shape *shape = sl_model_get_shape(c->model);
  flow f = {.context = c, .layout = c->layout, .n_layer = shape->decoder.n_layer, .n_head = shape->decoder.n_head,
            .n_query = c->n_answer};
  sl_status status = flow_alloc(&f);
  if (status == SL_OK) status = read_rows(&f, pattern_bytes);
  if (status == SL_OK) status = put_shares(&f);
  if (status == SL_OK) status = put_spread(&f);
  if (status == SL_OK) status = put_sinks(&f);
  free(f.share);
  free(f.share_heads);
  free(f.image);
  free(f.image_heads);
  free(f.keys);
  return status;
}

static double flow_passes(const sl_analysis_context *c) {
  (void)c;
  return 1;
}

static sl_status flow_run(sl_analysis_context *c) { return sl_flow_run(c, SL_ATTENTION_BYTES); }

static const char *const results[] = {"flow.share",       "flow.share_heads", "flow.image",
                                      "flow.image_heads", "flow.entropy",     "flow.stats",
                                      "flow.sinks",       "flow.sink_share",  NULL};

const sl_analysis sl_flow_analysis = {
    .info =
        {.name = "flow",
         .help = "where the answer's tokens look: attention by token class, layer and head",
         .details =
             "For every layer and every position that predicts an answer token, the attention that goes to the system "
             "text, the image, structure tokens, the question, and the answer so far, mean over heads and head by "
             "head; "
             "the attention on every image token; how concentrated it is; and where it leaks to (sinks).\n"
             "The attention cliff is the first layer from which the image's share stays below 2 %.",
         .source = "Zhang et al., From Redundancy to Relevance, arXiv 2406.06579, equations 6-8",
         .options = options,
         .n_option = sizeof options / sizeof *options,
         .results = results},
    .passes = flow_passes,
    .run = flow_run,
};
