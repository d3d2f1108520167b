/* The table of results, and the check of a tensor against it. */
#include "store/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANY SL_DTYPE_COUNT

/* Layers, heads and positions count from 0. "Query row" q is the row queries[q] of run.json: the position whose
 * output predicts answer token q. Attention is after the softmax; class order is system, image, structure, user,
 * generated. */
const sl_result sl_results[] = {
    /* Attention flow: where the query rows look. */
    {"flow.share", SL_F32, "L,Q,5", NULL, "share of attention",
     "attention of a query row summed over the keys of a class, mean over heads; the five classes add up to 1. With "
     "--renormalise divided by what goes to the prompt: generated is 0, the other four add up to 1"},
    {"flow.image", SL_F32, "L,Q,N", NULL, "share of attention",
     "attention of a query row on every image token, mean over heads, never renormalised; without --renormalise the "
     "patches of a row add up to flow.share's image class (a kept class token is in the row, but of class structure)"},
    {"flow.share_heads", SL_F32, "L,H,Q,5", NULL, "share of attention", "as flow.share, for every head"},
    {"flow.image_heads", SL_F32, "L,H,N", NULL, "share of attention",
     "as flow.image, for every head, of the first query row (it predicts the first answer token)"},
    {"flow.entropy", SL_F32, "L,Q", NULL, "nats",
     "entropy of the flow.image row over the patches (a kept class token left out), normalised to sum 1; ln of the "
     "number of patches when spread evenly; NaN where the row does not see them (a sliding window)"},
    {"flow.stats", SL_F32, "L,4", NULL, "nats, share, share, 0/1",
     "of the first query row's flow.image over the patches: entropy; mass of their top 10 %; share on the object's; 1 "
     "when the peak lies on the object. The last two are NaN without an object mask"},
    {"flow.sinks", SL_I32, "L,K", NULL, "position",
     "the K keys outside the image (and other than the row itself) with most attention from the first query row"},
    {"flow.sink_share", SL_F32, "L,K", NULL, "share of attention", "what the keys in flow.sinks receive"},

    /* LLaVA-CAM: which image tokens' features raise the target at a layer. */
    {"cam.heat", SL_F32, "L,A,gh,gw", "L,A,N", "target per unit of the site's channel-weighted feature",
     "raw map after ReLU, not divided by its maximum; maps are named in run.json's analyses.cam.maps; 0 where "
     "cam.defined is 0"},
    {"cam.defined", SL_U8, "L", NULL, "0/1",
     "1 where the target's gradient can reach image positions at the site; 0 where it is exactly zero by construction"},
    {"cam.mass", SL_F32, "L", NULL, "as cam.heat", "sum of the first map over the patches"},
    {"cam.alpha", SL_F32, "L,A,D", NULL, "target per unit of the site's feature",
     "mean over image positions of the target's gradient at the site, per channel (with --alpha)"},
    {"cam.stats", SL_F32, "L,4", NULL, "nats, share, share, 0/1",
     "as flow.stats, of the first map; NaN where undefined"},
    {"cam.vision", SL_F32, "A,vh,vw", "A,Nv,vh,vw", "as cam.heat",
     "the same map at the vision tower's last kept layer, over its patches; of several views each has one"},
    {"cam.flow_correlation", SL_F32, "L", NULL, "Spearman's rho",
     "rank correlation over the patches of the first map with the first query row's flow.image in the same layer; NaN "
     "where undefined"},

    /* Truncation: what is left when image tokens are invisible from a layer on. Point k of a curve is the run in which
     * layer k is the first without them; point L is the plain run. */
    {"cliff.logit", SL_F32, "L+1", NULL, "target",
     "the target (analyses.cliff.target) by first-truncated layer: L is the plain run, 0 without kept tokens the run "
     "without an image; of the first ranking where some are kept, NaN where that ranking does not exist"},
    {"cliff.prob", SL_F32, "L+1", NULL, "probability", "of the plain answer's first token, likewise"},
    {"cliff.token", SL_I32, "L+1", NULL, "token id", "most likely first token, likewise; -1 where cliff.logit is NaN"},
    {"cliff.rank_logit", SL_F32, "R,L+1", NULL, "target",
     "as cliff.logit for every ranking of the kept image tokens (names in analyses.cliff.ranks)"},
    {"cliff.rank_prob", SL_F32, "R,L+1", NULL, "probability", "as cliff.prob for every ranking"},

    /* Knockout: blocked attention edges. */
    {"knockout.change", SL_F32, "E,L", NULL, "share of the plain probability",
     "(p_blocked - p) / p of the answer's first token, an edge (names in analyses.knockout.edges) blocked in the window "
     "of layers around each centre; -1 when nothing of the probability is left"},

    /* Logit lens: final norm and head at every layer. Row k is the residual that enters layer k, row L what leaves the
     * last layer; "the answer" is the answer's first token. */
    {"lens.final_logit", SL_F32, "L+1", NULL, "logit", "of the answer at the final token; row L is the model's own"},
    {"lens.final_rank", SL_I32, "L+1", NULL, "rank", "of the answer at the final token, 1 = most likely"},
    {"lens.final_prob", SL_F32, "L+1", NULL, "probability", "of the answer at the final token"},
    {"lens.final_top", SL_I32, "L+1,Kt", NULL, "token id",
     "the most likely tokens at the final token, best first (texts in analyses.lens.top)"},
    {"lens.final_top_prob", SL_F32, "L+1,Kt", NULL, "probability", "of the tokens in lens.final_top"},
    {"lens.image_answer", SL_F32, "L+1,N", NULL, "probability", "of the answer at every image token"},
    {"lens.image_logit", SL_F32, "L+1,N", NULL, "logit", "of the answer at every image token"},
    {"lens.image_rank", SL_I32, "L+1,N", NULL, "rank", "of the answer at every image token, 1 = most likely"},
    {"lens.image_top", SL_I32, "L+1,N", NULL, "token id",
     "most likely token at every image token (texts in analyses.lens.image_texts)"},
    {"lens.image_top_prob", SL_F32, "L+1,N", NULL, "probability", "of the token in lens.image_top"},

    /* Head attribution: which heads carry the picture to the answer. Masks, targets and fits of tokens.* read alike. */
    {"heads.score", SL_F32, "L,H", NULL, "target",
     "coefficient of the head in the regression of the target on random masks of heads: what keeping its view of the "
     "picture adds; 0 for heads that never see the image (analyses.heads.dropped)"},
    {"heads.stderr", SL_F32, "L,H", NULL, "target", "standard error of heads.score; NaN where undefined"},
    {"heads.intercept", SL_F32, "1", NULL, "target", "the regression's constant"},
    {"heads.masks", SL_U8, "M,L*H", NULL, "0/1",
     "the masks, head h of layer l in column l H + h, 1 = kept; mask j is a training mask when j % 10 < 8, a "
     "validation mask when 8, a test mask when 9"},
    {"heads.target", SL_F32, "M", NULL, "target", "the answer's target under each mask"},
    {"heads.fit", SL_F32, "3", NULL, "",
     "Pearson, Spearman and R2 of predicted against true targets of the test masks"},
    {"heads.predicted", SL_F32, "Mt", NULL, "target", "what the regression says for the test masks, in their order"},
    {"heads.growth", SL_F32, "Mg,4", NULL, "masks, and three pure numbers",
     "for each checkpoint: masks so far; Pearson, Spearman and R2 on the validation masks"},
    {"heads.single", SL_F32, "L,H", NULL, "target", "t(all) - t(all but the head): single-head ablation"},
    {"heads.attention", SL_F32, "L,H", NULL, "share of attention",
     "the head's attention on the image, mean over the positions after the image up to the last measured row"},
    {"heads.patching", SL_F32, "L,H", NULL, "target", "attribution patching: first-order estimate of heads.single"},
    {"heads.steps", SL_I32, "Mc", NULL, "heads", "numbers of heads at the points of the curves"},
    {"heads.faithfulness", SL_F32, "Mc", NULL, "share",
     "(t(top n) - t(none)) / (t(all) - t(none)) for the top n heads by heads.score"},
    {"heads.faithfulness_rivals", SL_F32, "5,Mc", NULL, "share",
     "the same by single-head ablation, attention, attribution patching, chance, chance with as many heads per layer "
     "(both the mean of 4 orders)"},
    {"heads.completeness", SL_F32, "Mc", NULL, "share", "(t(all) - t(all but the top n)) / (t(all) - t(none))"},
    {"heads.completeness_rivals", SL_F32, "5,Mc", NULL, "share", "as heads.faithfulness_rivals"},

    /* Token attribution, image side. */
    {"tokens.image", SL_F32, "gh,gw", "N", "target",
     "score of every image position: what its key and value give; a block's score is shared out over its patches"},
    {"tokens.image_stderr", SL_F32, "gh,gw", "N", "target", "standard error of tokens.image"},
    {"tokens.image_intercept", SL_F32, "1", NULL, "target", "as heads.intercept"},
    {"tokens.image_masks", SL_U8, "Im,In", NULL, "0/1", "as heads.masks, one column for each component"},
    {"tokens.image_target", SL_F32, "Im", NULL, "target", "as heads.target"},
    {"tokens.image_fit", SL_F32, "3", NULL, "", "as heads.fit"},
    {"tokens.image_predicted", SL_F32, "It", NULL, "target", "as heads.predicted"},
    {"tokens.image_growth", SL_F32, "Ig,4", NULL, "masks, and three pure numbers", "as heads.growth"},
    {"tokens.image_steps", SL_I32, "Ic", NULL, "components", "numbers of components at the points of the curves"},
    {"tokens.image_faithfulness", SL_F32, "Ic", NULL, "share", "as heads.faithfulness, of the top n components"},
    {"tokens.image_faithfulness_rivals", SL_F32, "1,Ic", NULL, "share", "the same for random orders: mean of 4"},
    {"tokens.image_completeness", SL_F32, "Ic", NULL, "share", "as heads.completeness"},
    {"tokens.image_completeness_rivals", SL_F32, "1,Ic", NULL, "share", "the same for random orders: mean of 4"},

    /* Token attribution, text side. */
    {"tokens.text", SL_F32, "U", "U,B", "target",
     "score of every position (or class; with layer bands every band of it) after the image: what it takes from it"},
    {"tokens.text_stderr", SL_F32, "U", "U,B", "target", "standard error of tokens.text"},
    {"tokens.text_intercept", SL_F32, "1", NULL, "target", "as heads.intercept"},
    {"tokens.text_masks", SL_U8, "Um,Un", NULL, "0/1", "as heads.masks, one column for each component"},
    {"tokens.text_target", SL_F32, "Um", NULL, "target", "as heads.target"},
    {"tokens.text_fit", SL_F32, "3", NULL, "", "as heads.fit"},
    {"tokens.text_predicted", SL_F32, "Ut", NULL, "target", "as heads.predicted"},
    {"tokens.text_growth", SL_F32, "Ug,4", NULL, "masks, and three pure numbers", "as heads.growth"},
    {"tokens.text_steps", SL_I32, "Uc", NULL, "components", "numbers of components at the points of the curves"},
    {"tokens.text_faithfulness", SL_F32, "Uc", NULL, "share", "as heads.faithfulness, of the top n components"},
    {"tokens.text_faithfulness_rivals", SL_F32, "1,Uc", NULL, "share", "the same for random orders: mean of 4"},
    {"tokens.text_completeness", SL_F32, "Uc", NULL, "share", "as heads.completeness"},
    {"tokens.text_completeness_rivals", SL_F32, "1,Uc", NULL, "share", "the same for random orders: mean of 4"},

    /* The picture's tokens. */
    {"image.box", SL_F32, "N,4", NULL, "px of images/input.png", "x0, y0, x1, y1 of the patch an image token shows"},
    {"image.view", SL_I32, "N", NULL, "index", "the tile or view an image token belongs to"},
    {"image.projection", SL_F32, "N,Np", NULL, "share of attention",
     "where image tokens are learned queries without a place: how a token's cross-attention is spread over the patches "
     "(a class token left out), mean over heads, and over the layers of a Q-Former; rows add up to 1. A token's score is "
     "drawn on patches in these shares: maps of such runs are projected, not measured there"},
    {"image.patch_box", SL_F32, "Np,4", NULL, "px of images/input.png", "the boxes of those patches"},
    {"image.feature", SL_F32, "Dv", NULL, "activation",
     "mean over the patches of the tower's features that go to the projector: what the picture looks like"},

    /* Comparison of runs (the directory that `compare` makes): Cr runs in the order of analyses.compare.runs. */
    {"compare.score", SL_F32, "Cr,L,H", NULL, "target", "heads.score of every run"},
    {"compare.cosine", SL_F32, "Cr,Cr", NULL, "", "cosine of the runs' head scores"},
    {"compare.spearman", SL_F32, "Cr,Cr", NULL, "Spearman's rho", "rank correlation of the runs' head scores"},
    {"compare.jaccard", SL_F32, "Cr,Cr", NULL, "share", "heads that are among the top n of both runs, of those of either"},
    {"compare.ceiling", SL_F32, "Cr,3", NULL, "",
     "cosine, Spearman's rho and top-n share of a run's scores fitted to either half of its masks; NaN without masks"},
    {"compare.visual", SL_F32, "Cr,Cr", NULL, "", "cosine of the runs' image.feature, less their mean over the runs"},
    {"compare.class", SL_I32, "Cr", NULL, "index", "into analyses.compare.classes; -1 = none"},
    {"compare.appearance", SL_I32, "Cr", NULL, "index", "into analyses.compare.appearances; -1 = none"},
    {"compare.order", SL_I32, "Cr", NULL, "run",
     "for drawing: by class, inside a class as average linkage of the cosines joins them"},

    /* Outputs of the model. */
    {"logits.all", SL_F32, "P,V", NULL, "logit", "logits of every position"},

    /* Recorded activations, under their TransformerLens names. */
    {"site/*", ANY, "...", NULL, "activation", "what ran through a site of the model; the axes are the site's own"},
};
const int sl_result_count = (int)(sizeof sl_results / sizeof *sl_results);

const sl_result *sl_result_find(const char *name) {
  for (int i = 0; i < sl_result_count; i++) {
    const char *row = sl_results[i].name;
    size_t length = strlen(row);
    if (length > 0 && row[length - 1] == '*') {
      if (strncmp(row, name, length - 1) == 0 && name[length - 1] != '\0') return &sl_results[i];
    } else if (strcmp(row, name) == 0) {
      return &sl_results[i];
    }
  }
  return NULL;
}

static const char *dtype_word(sl_dtype dtype) {
  static const char *const words[SL_DTYPE_COUNT] = {
      [SL_F32] = "f32", [SL_F16] = "f16", [SL_BF16] = "bf16", [SL_I32] = "i32",
      [SL_I64] = "i64", [SL_U8] = "u8",   [SL_F64] = "f64",   [SL_I8] = "i8",
      [SL_I16] = "i16", [SL_BOOL] = "bool",
  };
  return (unsigned)dtype < SL_DTYPE_COUNT ? words[dtype] : "any";
}

void sl_tensor_describe(const sl_tensor *tensor, char *out, size_t n_bytes) {
  size_t used = (size_t)snprintf(out, n_bytes, "%s [", dtype_word(tensor->dtype));
  for (int i = 0; i < tensor->n_dim && used < n_bytes; i++) {
    used += (size_t)snprintf(out + used, n_bytes - used, "%s%lld", i ? ", " : "", (long long)tensor->shape[i]);
  }
  if (used < n_bytes) snprintf(out + used, n_bytes - used, "]");
}

static int symbol_find(const sl_symbols *symbols, const char *name, size_t length) {
  for (int i = 0; i < symbols->count; i++) {
    if (strlen(symbols->at[i].name) == length && memcmp(symbols->at[i].name, name, length) == 0) return i;
  }
  return -1;
}

/* One dimension's expression at *cursor, up to the comma. Returns false when a symbol has no value yet; a single
 * unbound symbol is handed back in (lone, lone_length). */
static bool dim_value(const char **cursor, const sl_symbols *symbols, int64_t *value, const char **lone,
                      size_t *lone_length) {
  const char *at = *cursor;
  bool known = true;
  int n_term = 0;
  char operation = '+';
  *value = 0;
  *lone = NULL;
  for (;;) {
    size_t length = strcspn(at, "+*,");
    int64_t term = 0;
    if (*at >= '0' && *at <= '9') {
      term = strtoll(at, NULL, 10);
    } else {
      int index = symbol_find(symbols, at, length);
      if (index >= 0) {
        term = symbols->at[index].value;
      } else {
        known = false;
        *lone = at;
        *lone_length = length;
      }
    }
    *value = operation == '+' ? *value + term : *value * term;
    n_term++;
    at += length;
    if (*at != '+' && *at != '*') break;
    operation = *at++;
  }
  if (n_term > 1) *lone = NULL;
  *cursor = *at == ',' ? at + 1 : at;
  return known;
}

/* Matches a whole shape. 0 = fits, otherwise 1 + the index of the first dimension that does not (n_dim + 1: the number
 * of dimensions differs). */
static int shape_match(const char *shape, const sl_tensor *tensor, sl_symbols *symbols) {
  if (strcmp(shape, "...") == 0) return 0;
  const char *cursor = shape;
  int i = 0;
  for (; *cursor != '\0' && i < tensor->n_dim; i++) {
    const char *lone;
    size_t length = 0;
    int64_t value;
    bool known = dim_value(&cursor, symbols, &value, &lone, &length);
    if (known && value != tensor->shape[i]) return 1 + i;
    if (!known && lone && symbols->count < SL_MAX_SYMBOL && length < sizeof symbols->at[0].name) {
      int index = symbols->count++;
      memcpy(symbols->at[index].name, lone, length);
      symbols->at[index].name[length] = '\0';
      symbols->at[index].value = tensor->shape[i];
      snprintf(symbols->at[index].source, sizeof symbols->at[index].source, "%s", tensor->name);
    }
  }
  return *cursor == '\0' && i == tensor->n_dim ? 0 : tensor->n_dim + 1;
}

/* "; L = 12 (from flow.share)" for the symbols of `shape` that have values. */
static void explain_symbols(const char *shape, const sl_symbols *symbols, char *out, size_t n_bytes) {
  size_t used = 0;
  out[0] = '\0';
  for (const char *at = shape; *at != '\0';) {
    size_t length = strcspn(at, "+*,");
    int index = symbol_find(symbols, at, length);
    if (index >= 0 && used < n_bytes) {
      used += (size_t)snprintf(out + used, n_bytes - used, "; %s = %lld (from %s)", symbols->at[index].name,
                               (long long)symbols->at[index].value, symbols->at[index].source);
    }
    at += length;
    if (*at != '\0') at++;
  }
}

sl_status sl_result_check(const sl_result *result, const sl_tensor *tensor, sl_symbols *symbols, sl_status status,
                          const char *where) {
  char found[128], symbols_text[400];
  sl_symbols trial = *symbols;
  bool dtype_fits = result->dtype == ANY || result->dtype == tensor->dtype;
  if (dtype_fits && shape_match(result->shape, tensor, &trial) == 0) {
    *symbols = trial;
    return SL_OK;
  }
  if (dtype_fits && result->or_shape) {
    trial = *symbols;
    if (shape_match(result->or_shape, tensor, &trial) == 0) {
      *symbols = trial;
      return SL_OK;
    }
  }
  sl_tensor_describe(tensor, found, sizeof found);
  explain_symbols(result->shape, symbols, symbols_text, sizeof symbols_text);
  SL_FAIL(status, "%s%sresult %s: expected %s [%s]%s%s%s, found %s%s", where ? where : "", where ? ": " : "",
          tensor->name, dtype_word(result->dtype), result->shape, result->or_shape ? " or [" : "",
          result->or_shape ? result->or_shape : "", result->or_shape ? "]" : "", found, symbols_text);
}
