/* Cliff, heads, tokens, knockout and lens for people. Everything printed here is in the summary's JSON as well. */
#include <math.h>
#include <string.h>

#include "cli.h"

#define N_TOP 5 /* heads that are listed */

static double number(const json_t *object, const char *key) { return json_number_value(json_object_get(object, key)); }
static int whole(const json_t *object, const char *key) {
  return (int)json_integer_value(json_object_get(object, key));
}

/* A cell of `width` columns; "-" where there is no number. */
static void print_value(const json_t *value, int width, const char *format) {
  if (json_is_number(value))
    printf(format, json_number_value(value));
  else
    printf("%*s", width, "-");
}

/* Points k = 0 .. L: the image hidden from layer k on; the lens at what enters layer k. */
static void print_curves(const json_t *cliff, const json_t *lens) {
  const json_t *logit = json_object_get(cliff, "logit"), *prob = json_object_get(cliff, "prob");
  const json_t *answer = json_object_get(cliff, "answer"), *seen = json_object_get(lens, "prob");
  const json_t *rank = json_object_get(lens, "rank");
  const size_t n = json_array_size(logit ? logit : seen);
  if (n == 0) return;
  printf("\nlayer%s%s%s\n", seen ? "  lens prob   rank" : "", logit ? "   hidden from here:      target   prob" : "",
         answer ? "  answer" : "");
  for (size_t k = 0; k < n; k++) {
    printf(k + 1 < n ? "%5zu" : "  end", k);
    if (seen) print_value(json_array_get(seen, k), 11, "%11.4f");
    if (seen) print_value(json_array_get(rank, k), 7, "%7.0f");
    if (logit) printf("%18s", "");
    if (logit) print_value(json_array_get(logit, k), 18, "%18.3f");
    if (logit) print_value(json_array_get(prob, k), 7, "%7.3f");
    const char *text = json_string_value(json_array_get(answer, k));
    printf("%s%.40s\n", text ? "  " : "", text ? text : "");
  }
  putchar('\n');
}

/* `curve` has a value for every layer and one for the end. */
static void print_layer(const char *before, const json_t *layer, const json_t *curve) {
  const bool at_end = (size_t)json_integer_value(layer) + 1 == json_array_size(curve);
  if (json_is_integer(layer) && at_end) printf("%s: the end\n", before);
  if (json_is_integer(layer) && !at_end) printf("%s: layer %d\n", before, (int)json_integer_value(layer));
  if (json_is_null(layer)) printf("%s: none\n", before);
}

/* How well the regression predicts masks that it has not seen. */
static void print_fit(const char *what, const json_t *regression) {
  const json_t *fit = json_object_get(regression, "fit");
  printf("%s: %d random masks", what, whole(regression, "masks"));
  if (json_is_number(json_object_get(fit, "pearson")))
    printf("; %d held-out masks: Pearson %.2f", whole(fit, "test_masks"), number(fit, "pearson"));
  const json_t *interval = json_object_get(fit, "pearson_interval");
  if (json_is_array(interval))
    printf(" (95 %% interval %.2f to %.2f)", json_number_value(json_array_get(interval, 0)),
           json_number_value(json_array_get(interval, 1)));
  if (json_is_number(json_object_get(fit, "pearson")))
    printf(", Spearman %.2f, R2 %.2f", number(fit, "spearman"), number(fit, "r2"));
  const char *stopped = json_string_value(json_object_get(regression, "stopped"));
  printf("%s%s\n", stopped ? "; " : "", stopped ? stopped : "");
}

static void print_heads(const json_t *heads) {
  const json_t *top = json_object_get(heads, "top");
  if (!json_object_get(heads, "regression")) return; /* skipped */
  print_fit("heads", json_object_get(heads, "regression"));
  for (size_t i = 0; i < json_array_size(top) && i < N_TOP; i++) {
    const json_t *head = json_array_get(top, i);
    printf("  layer %2d head %2d  %8.3f", whole(head, "layer"), whole(head, "head"), number(head, "score"));
    if (json_is_number(json_object_get(head, "stderr"))) printf(" +- %.3f", number(head, "stderr"));
    putchar('\n');
  }
}

static void print_tokens(const json_t *tokens) {
  const json_t *image = json_object_get(tokens, "image"), *text = json_object_get(tokens, "text");
  const json_t *few = json_object_get(image, "sufficient"), *share = json_object_get(text, "share"), *value;
  const char *name;
  if (image) print_fit("image tokens", json_object_get(image, "regression"));
  if (json_is_integer(json_object_get(few, "components")))
    printf("  %d of %d give 90 %% of what the image gives\n", whole(few, "components"),
           whole(json_object_get(image, "regression"), "components"));
  if (text) print_fit("text tokens", json_object_get(text, "regression"));
  if (json_object_size(share) > 0) printf("  what they take from the image:");
  json_object_foreach((json_t *)share, name, value) {
    printf(" %s", name);
    if (json_is_number(value))
      printf(" %.0f %%", 100 * json_number_value(value));
    else
      printf(" -");
  }
  if (json_object_size(share) > 0) putchar('\n');
}

#define LEAST_CHANGE 0.01 /* of the plain probability */

static void print_knockout(const json_t *knockout) {
  const json_t *edges = json_object_get(knockout, "edges");
  if (json_array_size(edges) == 0) return;
  printf("knockout (window %d layers)        lowest   at layer   centroid\n", whole(knockout, "window"));
  for (size_t i = 0; i < json_array_size(edges); i++) {
    const json_t *edge = json_array_get(edges, i);
    const double lowest = number(edge, "lowest");
    printf("  %-28s %8.1f %%", json_string_value(json_object_get(edge, "edge")), fabs(lowest) < 5e-4 ? 0 : 100 * lowest);
    const bool says = lowest <= -LEAST_CHANGE; /* an edge that changes nothing has no place */
    print_value(says ? json_object_get(edge, "peak") : NULL, 11, "%11.0f");
    print_value(says ? json_object_get(edge, "centroid") : NULL, 11, "%11.1f");
    putchar('\n');
  }
}

void cli_print_interventions(const json_t *summary) {
  const json_t *all = json_object_get(summary, "analyses");
  const json_t *cliff = json_object_get(all, "cliff"), *lens = json_object_get(all, "lens");
  print_curves(cliff, lens);
  print_layer("cliff layer (the target holds from there on)", json_object_get(cliff, "layer"),
              json_object_get(cliff, "logit"));
  print_layer("cliff layer (the greedy answer is unchanged)", json_object_get(cliff, "answer_layer"),
              json_object_get(cliff, "logit"));
  print_layer("lens: the answer is first from there on", json_object_get(lens, "decided"),
              json_object_get(lens, "prob"));
  print_heads(json_object_get(all, "heads"));
  print_tokens(json_object_get(all, "tokens"));
  print_knockout(json_object_get(all, "knockout"));
}
