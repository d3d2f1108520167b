/* The result of `eval` for people: everything printed here is in metrics.json as well, in fractions instead of percent. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#define BAR_WIDTH 20

static double number(const json_t *of, const char *key) { return json_number_value(json_object_get(of, key)); }
static const char *text(const json_t *of, const char *key) { return json_string_value(json_object_get(of, key)); }

/* Words of an answer are no share of anything. */
static bool is_percent(const char *key) { return strcmp(key, "length") != 0; }

static int width_of(const char *key) {
  const int n = (int)strlen(key) + 2;
  return n < 9 ? 9 : n;
}

/* Names of the numbers, or the numbers of one object. */
static void print_row(const char *name, const json_t *numbers, bool heading) {
  const char *key;
  json_t *value;
  printf("%-12s", name);
  json_object_foreach((json_t *)numbers, key, value) {
    const int width = width_of(key);
    if (json_is_object(value)) continue;
    if (heading)
      printf("%*s", width, key);
    else if (json_is_integer(value))
      printf("%*lld", width, (long long)json_integer_value(value));
    else if (json_is_null(value))
      printf("%*s", width, "-");
    else
      printf("%*.1f", width, (is_percent(key) ? 100 : 1) * json_real_value(value));
  }
  putchar('\n');
}

/* One example or picture has none. */
static bool has_interval(const json_t *of) { return json_is_number(json_object_get(of, "low")); }

static void print_numbers(const json_t *root) {
  const json_t *metrics = json_object_get(root, "metrics"), *group;
  const json_t *interval = json_object_get(root, "interval");
  const char *name;
  print_row("percent", metrics, true);
  print_row(text(root, "benchmark"), metrics, false);
  json_object_foreach(json_object_get(metrics, "groups"), name, group) print_row(name, group, false);
  if (has_interval(interval))
    printf("\n%s %.1f [%.1f, %.1f] (95 %% of draws of pictures)\n", text(interval, "of"), 100 * number(interval, "value"),
           100 * number(interval, "low"), 100 * number(interval, "high"));
}

static void print_bar(double share) {
  const int n = (int)(BAR_WIDTH * share + 0.5);
  if (n > 0) printf("  ");
  for (int i = 0; i < n && i < BAR_WIDTH; i++) putchar('#');
}

/* One point; `layer` -1: the picture is never hidden. */
static void print_point(const json_t *point, const char *of, int layer, bool recall) {
  const json_t *d = json_object_get(point, "difference");
  if (layer < 0)
    printf("%-10s %8.1f  %24s", "never", 100 * number(point, of), "");
  else
    printf("layer %-4d %8.1f   %+6.1f ", layer, 100 * number(point, of), 100 * number(d, "value"));
  if (layer >= 0 && has_interval(d)) printf("[%+6.1f, %+6.1f]", 100 * number(d, "low"), 100 * number(d, "high"));
  if (layer >= 0 && !has_interval(d)) printf("%16s", "");
  if (recall) printf("%8.1f", 100 * number(point, "recall"));
  print_bar(number(point, of));
  putchar('\n');
}

static void print_curve(const json_t *cliff) {
  const json_t *curve = json_object_get(cliff, "curve"), *estimate = json_object_get(cliff, "estimate"), *point;
  const char *of = text(cliff, "of");
  const size_t n = json_array_size(curve);
  size_t k;
  if (n == 0 || !of) return;
  /* Captions that say less make less up: what they still find stands beside it. */
  const bool recall = strcmp(of, "chair_s") == 0;
  printf("\n%-10s %8s   %-23s%s\n", "hidden from", of, "change [95 %]", recall ? "  recall" : "");
  json_array_foreach((json_t *)curve, k, point) print_point(point, of, k + 1 == n ? -1 : (int)k, recall);
  const double n_picture = number(cliff, "pictures");
  printf("\ncliff: layer %.0f of %zu by the intervals, %.0f ", number(cliff, "layer"), n - 1, number(estimate, "layer"));
  if (has_interval(estimate)) printf("[%.0f, %.0f] ", number(estimate, "low"), number(estimate, "high"));
  printf("by the numbers themselves (%.0f picture%s)\n", n_picture, n_picture == 1 ? ": no intervals" : "s");
}

/* The published table, and this run's numbers below it. */
static void print_paper(const json_t *root) {
  const json_t *paper = json_object_get(root, "paper"), *row;
  size_t i;
  if (!paper) return;
  printf("\npublished (%s), percent\n%-22s %-9s %7s  at the cliff\n", text(paper, "source"), "", "", "whole");
  json_array_foreach(json_object_get(paper, "rows"), i, row)
    printf("%-22s %-9s %7.2f %9.2f%s\n", text(row, "model"), text(row, "metric"), number(row, "whole_percent"),
           number(row, "truncated_percent"), json_is_true(json_object_get(row, "same_family")) ? "  same family" : "");
  json_array_foreach(json_object_get(paper, "own"), i, row)
    printf("%-22.22s %-9s %7.2f %9.2f  here, layer %.0f\n", text(json_object_get(root, "model"), "name"), text(row, "metric"),
           number(row, "whole_percent"), number(row, "truncated_percent"), number(json_object_get(root, "cliff"), "layer"));
  printf("the paper's cliff layer of LLaVA-1.5-7B (32 layers): %s\n", text(paper, "cliff_layer_of_llava_1.5_7b"));
  if (text(paper, "note")) printf("%s\n", text(paper, "note"));
}

/* Failing examples were told when they failed. */
static void print_notes(const json_t *root) {
  const json_t *counts = json_object_get(root, "counts"), *entry;
  size_t i;
  json_array_foreach(json_object_get(root, "bad_rows"), i, entry)
    if (i < 5) fprintf(stderr, "sightline: note: %s\n", json_string_value(entry));
  const double n_bad = number(counts, "bad_rows"), n_failed = number(counts, "failed"), n_missing = number(counts, "missing");
  if (n_bad + n_failed > 0)
    fprintf(stderr, "sightline: note: %.0f bad rows left out, %.0f examples failed (--json has more)\n", n_bad, n_failed);
  if (n_missing > 0)
    fprintf(stderr, "sightline: note: %.0f of %.0f questions have no prediction\n", n_missing, number(counts, "examples"));
}

void cli_print_eval(const cli_args *args, const char *summary) {
  if (args->value[OPT_JSON]) {
    puts(summary);
    return;
  }
  json_t *root = json_loads(summary, JSON_ALLOW_NUL, NULL);
  print_numbers(root);
  if (json_object_get(root, "cliff")) {
    print_curve(json_object_get(root, "cliff"));
    print_paper(root);
  }
  if (!args->value[OPT_QUIET]) print_notes(root);
  json_decref(root);
}
