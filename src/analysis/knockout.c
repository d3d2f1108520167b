/* Attention knockout: by which way, and in which layers, does the picture reach the answer?
 *
 * An edge "query <- key" is blocked by hiding the key set from the query set (the softmax of what is left is
 * renormalised) in a window of layers around a centre c; every window is one branch.
 *
 *   change(c) = (p_blocked(c) - p) / p        p: probability of the answer's first token
 *   centroid  = sum_c w_c c / sum_c w_c       w_c = max(0, -change(c))
 *
 * Source: Geva et al., Dissecting Recall of Factual Associations in Auto-Regressive Language Models, arXiv 2304.14767
 * (windows, relative change); Zhang et al., Cross-modal Information Flow in Multimodal Large Language Models, arXiv
 * 2411.18620 (edges between image, question and last position). The centroid is sightline's. */
#include "analysis/knockout.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/measure.h"
#include "analysis/shared.h"
#include "base/text.h"

int sl_knockout_window(int n_layer) {
  const int m = 9 * n_layer / 64; /* the odd number nearest to x is 2 floor(x / 2) + 1 */
  return 2 * m + 1;
}

void sl_knockout_clip(int centre, int width, int n_layer, int *first, int *end) {
  *first = centre - width / 2;
  *end = *first + width;
  if (*first < 0) *first = 0;
  if (*end > n_layer) *end = n_layer;
}

double sl_knockout_centroid(const float *change, int n_layer) {
  double sum = 0, weight = 0;
  for (int c = 0; c < n_layer; c++) {
    const double w = change[c] < 0 ? -(double)change[c] : 0; /* NaN is not below 0 */
    sum += w * c;
    weight += w;
  }
  return weight > 0 ? sum / weight : NAN;
}

/* ---- sets and edges ---- */

typedef enum token_set { SET_IMAGE, SET_QUESTION, SET_ROLE, SET_FINAL, SET_ROLE_FINAL, SET_COUNT } token_set;

static const char *const set_names[SET_COUNT] = {[SET_IMAGE] = "image",
                                                 [SET_QUESTION] = "question",
                                                 [SET_ROLE] = "role",
                                                 [SET_FINAL] = "final",
                                                 [SET_ROLE_FINAL] = "role+final"};

static bool belongs(const sl_layout *layout, token_set set, int t) {
  const sl_token_class class = layout->classes[t];
  const sl_token_role role = layout->roles[t];
  switch (set) {
    case SET_IMAGE:
      return class == SL_CLASS_IMAGE || class == SL_CLASS_STRUCTURE;
    case SET_QUESTION:
      return class == SL_CLASS_USER && role == SL_ROLE_NONE;
    case SET_ROLE:
      return role == SL_ROLE_ROLE;
    case SET_FINAL:
      return role == SL_ROLE_FINAL;
    case SET_ROLE_FINAL:
      return role != SL_ROLE_NONE;
    case SET_COUNT:
      break;
  }
  return false;
}

/* The five of the literature, then the image's direct ways to role and final token apart. */
static const struct {
  const char *name; /* also what --edges takes */
  token_set query, key;
} edges[] = {
    {"role+final<-question", SET_ROLE_FINAL, SET_QUESTION},
    {"question<-image", SET_QUESTION, SET_IMAGE},
    {"role+final<-image", SET_ROLE_FINAL, SET_IMAGE},
    {"final<-question", SET_FINAL, SET_QUESTION},
    {"final<-role", SET_FINAL, SET_ROLE},
    {"final<-image", SET_FINAL, SET_IMAGE},
    {"role<-image", SET_ROLE, SET_IMAGE},
};
#define N_EDGE ((int)(sizeof edges / sizeof *edges))

static const sl_option_info options[] = {
    {.name = "edges",
     .type = SL_OPTION_TEXT,
     .argument = "LIST",
     .fallback = "all",
     .help = "Which attention edges to block, query<-key, with commas and in quotes: role+final<-question, "
             "question<-image, role+final<-image, final<-question, final<-role, final<-image, role<-image; or all."},
    {.name = "window",
     .type = SL_OPTION_INT,
     .argument = "N",
     .fallback = "0",
     .min = 0,
     .max = 100000,
     .help = "Layers in which an edge is blocked at once, around a centre that moves over all layers and clipped at "
             "the ends: an odd number, or 0 for 9 of 32 layers (the nearest odd number)."},
};

static sl_status unknown_edge(const char *name, size_t length) {
  sl_text list = {0};
  sl_status status = SL_OK;
  for (int e = 0; e < N_EDGE && status == SL_OK; e++) status = sl_text_format(&list, "%s, ", edges[e].name);
  if (status == SL_OK)
    status = sl_fail(SL_ERROR_ARGUMENT, "--edges: expected edges out of %sor all, separated by commas, found \"%.*s\"",
                     list.data, (int)length, name);
  sl_text_dispose(&list);
  return status;
}

static sl_status read_edges(const sl_analysis_context *c, bool asked[N_EDGE]) {
  const char *text = sl_context_text(c, "edges");
  const bool all = strcmp(text, "all") == 0;
  for (int e = 0; e < N_EDGE; e++) asked[e] = all;
  for (const char *at = text; !all;) {
    const size_t length = strcspn(at, ",");
    int e = 0;
    while (e < N_EDGE && (strlen(edges[e].name) != length || strncmp(edges[e].name, at, length) != 0)) e++;
    if (e == N_EDGE) return unknown_edge(at, length);
    asked[e] = true;
    if (at[length] == '\0') break;
    at += length + 1;
  }
  return SL_OK;
}

static int window_of(const sl_analysis_context *c) {
  const int asked = sl_context_int(c, "window");
  return asked > 0 ? asked : sl_knockout_window(sl_model_get_shape(c->model)->decoder.n_layer);
}

/* ---- the run ---- */

typedef struct knockout {
  sl_analysis_context *context;
  int n_layer, window;
  int edge[N_EDGE], n_edge; /* those that run */
  sl_plan *plans;           /* [n_edge, L] by window centre */
  int n_plan;
  sl_measure measure;       /* log-probability of the answer's first token */
  double plain;             /* its probability in the unmodified run */
  float *change;            /* [n_edge, L] */
} knockout;

/* Positions of the prompt that belong to a set. Queries count from the first text after the image: rows before it
 * cannot see the image, nor anything asked about it. */
static sl_status fill_set(const knockout *k, token_set set, bool as_query, sl_set *out, int *count) {
  const sl_layout *layout = k->context->layout;
  *count = 0;
  for (int t = as_query ? sl_context_first_text(k->context) : 0; t < layout->n_prompt; t++) {
    if (!belongs(layout, set, t)) continue;
    if (out) SL_TRY(sl_set_add(out, t, 1));
    ++*count;
  }
  return SL_OK;
}

/* Names what cannot be blocked because one side is empty, and keeps the rest. */
static sl_status choose_edges(knockout *k, const bool asked[N_EDGE]) {
  json_t *left_out = json_array();
  sl_status status = SL_OK;
  for (int e = 0; e < N_EDGE && status == SL_OK; e++) {
    int n_query, n_key;
    if (!asked[e]) continue;
    status = fill_set(k, edges[e].query, true, NULL, &n_query);
    if (status == SL_OK) status = fill_set(k, edges[e].key, false, NULL, &n_key);
    if (status != SL_OK) break;
    if (n_query > 0 && n_key > 0) {
      k->edge[k->n_edge++] = e;
      continue;
    }
    const token_set empty = n_query == 0 ? edges[e].query : edges[e].key;
    json_array_append_new(left_out, json_pack("{s:s, s:o}", "edge", edges[e].name, "reason",
                                              json_sprintf("the prompt has no %s tokens%s", set_names[empty],
                                                           n_query == 0 ? " after the image" : "")));
  }
  if (status == SL_OK) status = sl_context_say(k->context, "left_out", json_incref(left_out));
  json_decref(left_out);
  return status;
}

static sl_status add_plan(knockout *k, int e, int centre) {
  int first, end, n;
  sl_rule *rule;
  SL_TRY(sl_plan_add_rule(&k->plans[k->n_plan++], SL_SOURCE_HIDDEN, &rule));
  sl_knockout_clip(centre, k->window, k->n_layer, &first, &end);
  rule->heads = SL_SET_ALL;
  SL_TRY(sl_set_add(&rule->layers, first, end - first));
  SL_TRY(fill_set(k, edges[e].query, true, &rule->queries, &n));
  return fill_set(k, edges[e].key, false, &rule->keys, &n);
}

static sl_status take(void *user, int plan, const float *logits) {
  knockout *k = user;
  const double p = exp(sl_measure_value(&k->measure, logits));
  k->change[plan] = k->plain > 0 ? (float)((p - k->plain) / k->plain) : NAN;
  sl_context_progress(k->context, plan + 1.0, k->n_plan);
  return sl_context_check_cancel(k->context);
}

static sl_status run_branches(knockout *k) {
  sl_analysis_context *c = k->context;
  const sl_trunk *trunk;
  const size_t n = (size_t)k->n_edge * (size_t)k->n_layer;
  SL_TRY(SL_ALLOC(k->plans, n, "knockout"));
  SL_TRY(SL_ALLOC(k->change, n, "knockout"));
  for (int i = 0; i < k->n_edge; i++)
    for (int centre = 0; centre < k->n_layer; centre++) SL_TRY(add_plan(k, k->edge[i], centre));
  double plain;
  SL_TRY(sl_measure_plain(&plain, &k->measure, c));
  k->plain = exp(plain);
  SL_TRY(sl_context_trunk(c, false, &trunk));
  const sl_branch_request request = {.trunk = trunk, .plans = k->plans, .n_plan = k->n_plan,
                                     .rows = k->measure.rows, .n_row = 1,
                                     .batch_size = c->batch_size, .take = take, .user = k};
  return sl_branches_run(c->session, &request);
}

/* Centroid, and the centre at which blocking takes most away. */
static sl_status edge_json(const knockout *k, int i, json_t **out) {
  const float *change = k->change + (int64_t)i * k->n_layer;
  const int e = k->edge[i];
  int peak = -1, n_query, n_key;
  SL_TRY(fill_set(k, edges[e].query, true, NULL, &n_query));
  SL_TRY(fill_set(k, edges[e].key, false, NULL, &n_key));
  float lowest = change[0];
  for (int c = 0; c < k->n_layer; c++) {
    lowest = fminf(lowest, change[c]);
    if (change[c] < 0 && (peak < 0 || change[c] < change[peak])) peak = c;
  }
  *out = json_pack("{s:s, s:s, s:s, s:i, s:i, s:o, s:o, s:o, s:o}", "edge", edges[e].name, "query",
                   set_names[edges[e].query], "key", set_names[edges[e].key], "n_query", n_query, "n_key", n_key,
                   "centroid", sl_json_number(sl_knockout_centroid(change, k->n_layer)), "peak",
                   peak >= 0 ? json_integer(peak) : json_null(), "lowest",
                   sl_json_number((double)lowest), "change",
                   sl_json_floats(change, k->n_layer, 1));
  if (!*out) SL_FAIL(SL_ERROR_MEMORY, "knockout: no memory for the edges");
  return SL_OK;
}

static sl_status tell(const knockout *k) {
  sl_analysis_context *c = k->context;
  json_t *list = json_array();
  sl_status status = SL_OK;
  for (int i = 0; i < k->n_edge && status == SL_OK; i++) {
    json_t *one = NULL;
    status = edge_json(k, i, &one);
    if (status == SL_OK) json_array_append_new(list, one);
  }
  if (status == SL_OK) status = sl_context_say(c, "edges", json_incref(list));
  json_decref(list);
  SL_TRY(status);
  SL_TRY(sl_context_say(c, "window", json_integer(k->window)));
  SL_TRY(sl_context_say(c, "prob", sl_json_number(k->n_edge > 0 ? k->plain : NAN)));
  SL_TRY(sl_context_say(c, "interval", json_null())); /* of the centroids: over examples, and this is one */
  if (k->n_edge == 0) return sl_context_warn(c, "knockout: none of the asked edges exists in this prompt");
  return sl_context_put(c, "knockout.change", SL_F32, 2, (int64_t[]){k->n_edge, k->n_layer}, k->change);
}

static sl_status knockout_run(sl_analysis_context *c) {
  /* The log-probability of the first token, whatever the target of other analyses. */
  int row = c->layout->n_prompt - 1;
  int32_t id = c->answer[0].id, rival = -1;
  knockout k = {.context = c,
                .n_layer = sl_model_get_shape(c->model)->decoder.n_layer,
                .window = window_of(c),
                .measure = {.target = SL_TARGET_LOGPROB, .n_vocab = sl_model_get_shape(c->model)->n_vocab, .n_row = 1,
                            .rows = &row, .ids = &id, .rivals = &rival}};
  bool asked[N_EDGE];
  SL_TRY(read_edges(c, asked));
  sl_status status = choose_edges(&k, asked);
  if (status == SL_OK && k.n_edge > 0) status = run_branches(&k);
  if (status == SL_OK) status = tell(&k);
  for (int i = 0; i < k.n_plan; i++) sl_plan_dispose(&k.plans[i]);
  free(k.plans);
  free(k.change);
  return status;
}

static sl_status knockout_check(const sl_analysis_context *c) {
  bool asked[N_EDGE];
  const int window = sl_context_int(c, "window");
  if (window > 0 && window % 2 == 0)
    SL_FAIL(SL_ERROR_ARGUMENT,
            "--window: expected an odd number of layers (an even window has no layer at its centre), found %d", window);
  return read_edges(c, asked);
}

/* Every window is a branch over the text after the image, from its first layer on: half the layers on average. */
static double knockout_passes(const sl_analysis_context *c) {
  bool asked[N_EDGE];
  int n_edge = 0;
  if (read_edges(c, asked) != SL_OK) return 0;
  for (int e = 0; e < N_EDGE; e++) n_edge += asked[e];
  const double text = c->layout->n_prompt - sl_context_first_text(c), n_row = c->layout->n_token;
  const double n_layer = sl_model_get_shape(c->model)->decoder.n_layer;
  const double depth = n_layer > 0 ? (n_layer + window_of(c)) / (2 * n_layer) : 0;
  return 1 + n_edge * n_layer * (depth < 1 ? depth : 1) * text / n_row;
}

static const char *const results[] = {"knockout.change", NULL};

const sl_analysis sl_knockout_analysis = {
    .info =
        {.name = "knockout",
         .help = "by which way the picture reaches the answer: attention edges blocked, window by window of layers",
         .details =
             "An edge query<-key is attention from one set of tokens to another: image (with its structure tokens), "
             "question, role (the assistant's marker) and final (the token that predicts the answer). Each is blocked "
             "in a window of layers that moves over the model; what is reported is the relative change of the "
             "probability of the answer's first token.\n"
             "The centroid is the mean layer of what blocking takes away: the smaller it is, the earlier the edge is "
             "used. An edge with an empty side is named and left out.",
         .source = "Geva et al., arXiv 2304.14767; Zhang et al., arXiv 2411.18620",
         .options = options,
         .n_option = sizeof options / sizeof *options,
         .results = results},
    .check = knockout_check,
    .passes = knockout_passes,
    .run = knockout_run,
};
