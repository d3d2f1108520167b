/* Rankings of image tokens.
 *
 * Attention by the final token in the layer before the cut is the default; the paper's eq. 10 prints the image's last
 * token instead (Zhang et al., From Redundancy to Relevance, arXiv 2406.06579). FastV ranks once, by the final token in
 * layer K - 1, and cuts from layer K on (Chen et al., An Image is Worth 1/2 Tokens After Layer 2, arXiv 2403.06764); in
 * the sweep it is compared at the layers from K on, where a model could have used it.
 *
 * LLaVA-CAM's features of layer k - 1 reach the answer through attention in the layers from k on: just what a cut at k
 * takes away. So its map of layer k - 1 ranks; before layer 0 there is none, and that of layer 0 stands in. */
#include "analysis/cliff_rank.h"

#include <stdlib.h>
#include <string.h>

#include "analysis/attention_rows.h"
#include "analysis/shared.h"
#include "base/rng.h"
#include "base/text.h"
#include "stats/order.h"

/* Random stream of the random ranking: "CLIF" in the upper half, away from other users of the same seed. */
#define RANDOM_STREAM ((uint64_t)0x434c4946 << 32)

enum { ROW_FINAL, ROW_IMAGE_LAST, ROW_USER, ROW_COUNT, NO_ROW = -1 };

static const struct {
  const char *name, *meaning;
  int row; /* attention that it needs */
} ranks[SL_RANK_COUNT] = {
    [SL_RANK_ATTENTION] = {"attention", "attention of the final token in the layer before the cut", ROW_FINAL},
    [SL_RANK_IMAGE_LAST] = {"image-last", "attention of the image's last token in the layer before the cut",
                            ROW_IMAGE_LAST},
    [SL_RANK_USER] = {"user", "attention of the user tokens after the image in the layer before the cut, mean",
                      ROW_USER},
    [SL_RANK_FASTV] = {"fastv", "attention of the final token in the layer before --fastv-layer", ROW_FINAL},
    [SL_RANK_RANDOM] = {"random", "a random order", NO_ROW},
    [SL_RANK_CAM] = {"cam", "LLaVA-CAM's map of the layer before the cut", NO_ROW},
    [SL_RANK_TOKENS] = {"tokens", "attribution to image tokens", NO_ROW},
};

const char *sl_rank_name(sl_rank rank) { return ranks[rank].name; }
const char *sl_rank_meaning(sl_rank rank) { return ranks[rank].meaning; }

static sl_status unknown_rank(const char *name, size_t length) {
  sl_text list = {0};
  sl_status status = SL_OK;
  for (int r = 0; r < SL_RANK_COUNT && status == SL_OK; r++)
    status = sl_text_format(&list, "%s, ", ranks[r].name);
  if (status == SL_OK)
    status = sl_fail(SL_ERROR_ARGUMENT, "--rank: expected names out of %sor all, separated by commas, found \"%.*s\"",
                     list.data, (int)length, name);
  sl_text_dispose(&list);
  return status;
}

sl_status sl_rank_parse(const char *text, sl_rank list[SL_RANK_COUNT], int *n) {
  *n = 0;
  if (strcmp(text, "all") == 0) {
    for (; *n < SL_RANK_COUNT; ++*n) list[*n] = (sl_rank)*n;
    return SL_OK;
  }
  for (const char *at = text;;) {
    const size_t length = strcspn(at, ",");
    int rank = 0;
    while (rank < SL_RANK_COUNT && (strlen(ranks[rank].name) != length || strncmp(ranks[rank].name, at, length) != 0))
      rank++;
    if (rank == SL_RANK_COUNT) return unknown_rank(at, length);
    bool known = false;
    for (int i = 0; i < *n; i++) known = known || (int)list[i] == rank;
    if (!known) list[(*n)++] = (sl_rank)rank;
    if (at[length] == '\0') return SL_OK;
    at += length + 1;
  }
}

int sl_rank_expand(sl_ranking out[SL_MAX_RANKING], const sl_rank *list, int n, int n_order) {
  int n_out = 0;
  for (int i = 0; i < n; i++)
    for (int order = 0; order < (list[i] == SL_RANK_RANDOM ? n_order : 1); order++)
      out[n_out++] = (sl_ranking){list[i], order};
  return n_out;
}

/* Means over heads and rows of three groups, in one pass over the image's last token and the text after the image. */
typedef struct gather {
  sl_rank_scores *scores;
  const int *rows;
  const bool *needed; /* [ROW_COUNT]: groups still to be read */
  int n_head, n_user, final;
} gather;

static void add_row(float *mean, const float *attention, int n, float weight) {
  for (int j = 0; mean && j < n; j++) mean[j] += weight * attention[j];
}

static void take_row(void *user, int layer, int head, int row, const float *attention, int n_key) {
  (void)head, (void)n_key;
  const gather *g = user;
  const sl_layout *layout = g->scores->context->layout;
  const int n = g->scores->n_image, t = g->rows[row];
  const float *image = attention + layout->first_image, weight = 1.0f / (float)g->n_head;
  float *at[ROW_COUNT];
  for (int k = 0; k < ROW_COUNT; k++) at[k] = g->needed[k] ? g->scores->rows[k] + (int64_t)layer * n : NULL;
  if (t == layout->first_image + n - 1) {
    add_row(at[ROW_IMAGE_LAST], image, n, weight);
    return;
  }
  if (t == g->final) add_row(at[ROW_FINAL], image, n, weight);
  if (layout->classes[t] == SL_CLASS_USER) add_row(at[ROW_USER], image, n, weight / (float)g->n_user);
}

/* Which attention the list needs; `have_final` when flow has read the final token's. */
static bool rows_needed(const sl_ranking *list, int n, bool have_final, bool needed[ROW_COUNT]) {
  bool any = false;
  for (int k = 0; k < ROW_COUNT; k++) needed[k] = false;
  for (int i = 0; i < n; i++) {
    const int row = ranks[list[i].rank].row;
    if (row != NO_ROW) needed[row] = true;
  }
  for (int k = 0; k < ROW_COUNT; k++) any = any || (needed[k] && !(k == ROW_FINAL && have_final));
  return any;
}

bool sl_rank_needs_pass(const sl_analysis_context *c, const sl_ranking *list, int n) {
  bool needed[ROW_COUNT];
  return rows_needed(list, n, c->shared->flow_row != NULL, needed);
}

static sl_status read_attention(sl_rank_scores *s, sl_analysis_context *c, const bool needed[ROW_COUNT]) {
  const sl_layout *layout = c->layout;
  const int first = sl_context_first_text(c);
  int *rows = NULL, n_row = 0;
  SL_TRY(SL_ALLOC(rows, (size_t)(layout->n_prompt - first) + 1, "query rows"));
  gather g = {.scores = s, .rows = rows, .needed = needed, .n_head = sl_model_get_shape(c->model)->decoder.n_head,
              .final = layout->n_prompt - 1};
  if (needed[ROW_IMAGE_LAST]) rows[n_row++] = first - 1;
  for (int t = first; t < layout->n_prompt; t++) {
    const bool is_user = layout->classes[t] == SL_CLASS_USER;
    g.n_user += is_user;
    if ((needed[ROW_USER] && is_user) || (needed[ROW_FINAL] && t == g.final)) rows[n_row++] = t;
  }
  const sl_attention_rows request = {.rows = rows, .n_row = n_row, .limit_bytes = SL_ATTENTION_BYTES, .take = take_row,
                                     .user = &g};
  const sl_status status = n_row > 0 ? sl_context_attention(c, &request) : SL_OK;
  free(rows);
  return status;
}

sl_status sl_rank_scores_init(sl_rank_scores *s, sl_analysis_context *c, const sl_ranking *list, int n,
                              int fastv_layer) {
  *s = (sl_rank_scores){.context = c, .n_layer = sl_model_get_shape(c->model)->decoder.n_layer,
                        .n_image = c->layout->n_image, .fastv_layer = fastv_layer};
  const float *flow_row = c->shared->flow_row;
  const size_t n_value = (size_t)s->n_layer * (size_t)s->n_image;
  bool needed[ROW_COUNT];
  const bool pass = rows_needed(list, n, flow_row != NULL, needed);
  sl_status status = SL_OK;
  for (int k = 0; k < ROW_COUNT && status == SL_OK; k++)
    if (needed[k]) status = SL_ALLOC(s->rows[k], n_value, "attention rows");
  if (status == SL_OK && needed[ROW_FINAL] && flow_row) {
    memcpy(s->rows[ROW_FINAL], flow_row, n_value * sizeof *flow_row);
    needed[ROW_FINAL] = false;
  }
  if (status == SL_OK) status = SL_ALLOC(s->random, SL_MAX_ORDER * (size_t)s->n_image, "random rankings");
  for (int i = 0; i < SL_MAX_ORDER * s->n_image && status == SL_OK; i++) {
    const uint64_t order = (uint64_t)(i / s->n_image), j = (uint64_t)(i % s->n_image);
    s->random[i] = (float)sl_rng_uniform(c->seed, RANDOM_STREAM + order, j);
  }
  if (status == SL_OK && pass) status = read_attention(s, c, needed);
  if (status != SL_OK) sl_rank_scores_dispose(s);
  return status;
}

void sl_rank_scores_dispose(sl_rank_scores *s) {
  for (int k = 0; k < ROW_COUNT; k++) free(s->rows[k]);
  free(s->random);
  *s = (sl_rank_scores){0};
}

/* NULL for a map without a value above 0: it puts no token before another. */
static const float *with_order(const float *map, int n) {
  for (int j = 0; map && j < n; j++)
    if (map[j] > 0) return map;
  return NULL;
}

const float *sl_rank_scores_at(const sl_rank_scores *s, sl_ranking ranking, int k) {
  const struct sl_shared *shared = s->context->shared;
  const int64_t n = s->n_image;
  switch (ranking.rank) {
    case SL_RANK_ATTENTION:
    case SL_RANK_IMAGE_LAST:
    case SL_RANK_USER:
      return k > 0 ? s->rows[ranks[ranking.rank].row] + (k - 1) * n : NULL;
    case SL_RANK_FASTV:
      return k >= s->fastv_layer ? s->rows[ROW_FINAL] + (s->fastv_layer - 1) * n : NULL;
    case SL_RANK_RANDOM:
      return s->random + ranking.order * n;
    case SL_RANK_CAM:
      return shared->cam_row ? with_order(shared->cam_row + (k > 0 ? k - 1 : 0) * n, (int)n) : NULL;
    case SL_RANK_TOKENS:
      return shared->token_row;
    case SL_RANK_COUNT:
      break;
  }
  return NULL;
}

sl_status sl_rank_keep(bool *kept, const float *scores, const bool *allowed, int n, int n_keep) {
  int *order = NULL;
  SL_TRY(SL_ALLOC(order, (size_t)n, "ranking"));
  const sl_status status = sl_order_floats(order, scores, n);
  for (int j = 0; j < n; j++) kept[j] = false;
  for (int i = 0; i < n && n_keep > 0 && status == SL_OK; i++) {
    const int j = order[i];
    if (!allowed[j]) continue;
    kept[j] = true;
    n_keep--;
  }
  free(order);
  return status;
}
