/* Answer, flow and CAM for people. Everything printed here is in the summary's JSON as well. */
#include <math.h>
#include <string.h>

#include "cli.h"

/* The value at a chain of keys; NULL when a part is missing. */
static const json_t *at(const json_t *value, const char *key, const char *then) {
  value = json_object_get(value, key);
  return then ? json_object_get(value, then) : value;
}

void cli_print_answer(const json_t *summary) {
  const json_t *answer = at(summary, "prompt", "answer");
  const char *text = json_string_value(answer);
  fwrite(text, 1, json_string_length(answer), stdout);
  putchar('\n');
}

/* Both answers, and the tokens of the one under the plan. */
void cli_print_plan_answer(const json_t *summary) {
  const json_t *plan = json_object_get(summary, "plan_answer"), *tokens = json_object_get(plan, "tokens"), *token;
  size_t i;
  printf("unmodified: %s\n", json_string_value(at(summary, "prompt", "answer")));
  printf("under plan: %s\n\n", json_string_value(json_object_get(plan, "text")));
  printf("%-20s %12s %12s\n", "token", "under plan", "unmodified");
  json_array_foreach((json_t *)tokens, i, token)
    printf("%-20s %12.4f %12.4f\n", json_string_value(json_object_get(token, "piece")),
           json_number_value(json_object_get(token, "prob")), json_number_value(json_object_get(token, "plain_prob")));
}

/* A column of the table of layers: one array of numbers in the summary. */
typedef struct column {
  const char *heading, *analysis, *key;
  int width;
  const char *format;
  double scale;
} column;

static const column columns[] = {
    {"image share", "flow", "image_share", 13, "%12.2f%%", 100},
    {"entropy", "flow", "entropy", 9, "%9.2f", 1},
    {"top 10 %", "flow", "top_share", 10, "%9.1f%%", 100},
    {"on object", "flow", "object_share", 11, "%10.1f%%", 100},
    {"CAM sum", "cam", "mass", 12, "%12.4g", 1},
    {"entropy", "cam", "entropy", 9, "%9.2f", 1},
    {"top 10 %", "cam", "top_share", 10, "%9.1f%%", 100},
    {"on object", "cam", "object_share", 11, "%10.1f%%", 100},
    {"rho", "cam", "flow_correlation", 8, "%8.2f", 1},
};
#define N_COLUMN (sizeof columns / sizeof *columns)

static const json_t *column_values(const json_t *summary, const column *c) {
  return json_object_get(at(summary, "analyses", c->analysis), c->key);
}

static void print_table(const json_t *summary) {
  size_t n_layer = 0;
  if (!at(summary, "analyses", "flow") && !at(summary, "analyses", "cam")) return;
  printf("\nlayer");
  for (size_t i = 0; i < N_COLUMN; i++) {
    const json_t *values = column_values(summary, &columns[i]);
    if (!values) continue;
    printf("%*s", columns[i].width, columns[i].heading);
    n_layer = json_array_size(values);
  }
  putchar('\n');
  for (size_t l = 0; l < n_layer; l++) {
    printf("%5zu", l);
    for (size_t i = 0; i < N_COLUMN; i++) {
      const json_t *values = column_values(summary, &columns[i]), *value = json_array_get(values, l);
      if (!values) continue;
      if (json_is_number(value))
        printf(columns[i].format, columns[i].scale * json_number_value(value));
      else
        printf("%*s", columns[i].width, "-");
    }
    putchar('\n');
  }
  putchar('\n');
}

static void print_cliff(const char *name, const json_t *layer, const json_t *share, const char *of_what) {
  if (!layer) return;
  if (json_is_integer(layer))
    printf("%s: layer %d\n", name, (int)json_integer_value(layer));
  else
    printf("%s: none (no layer from which %s stays below %g)\n", name, of_what, json_number_value(share));
}

static void print_layers(const char *before, const json_t *layers, const char *after) {
  if (json_array_size(layers) == 0) return;
  printf("%s layer%s", before, json_array_size(layers) > 1 ? "s" : "");
  for (size_t i = 0; i < json_array_size(layers); i++)
    printf("%s %d", i ? "," : "", (int)json_integer_value(json_array_get(layers, i)));
  printf(": %s\n", after);
}

static void print_sinks(const json_t *flow) {
  const json_t *sinks = json_object_get(flow, "sinks");
  if (json_array_size(sinks) == 0) return;
  printf("attention sinks: position");
  for (size_t i = 0; i < json_array_size(sinks); i++) {
    const json_t *sink = json_array_get(sinks, i);
    printf("%s %d (%.0f %% at most)", i ? "," : "", (int)json_integer_value(json_object_get(sink, "position")),
           100 * json_number_value(json_object_get(sink, "share")));
  }
  putchar('\n');
}

void cli_print_trace(const json_t *summary) {
  const json_t *flow = at(summary, "analyses", "flow"), *cam = at(summary, "analyses", "cam");
  print_table(summary);
  print_cliff("attention cliff", json_object_get(flow, "attention_cliff"), json_object_get(flow, "cliff_share"),
              "the image share");
  print_cliff("CAM cliff", json_object_get(cam, "cliff"), json_object_get(cam, "cliff_mass"),
              "the map's sum, over its largest,");
  print_layers("no CAM in", json_object_get(cam, "undefined"), json_string_value(json_object_get(cam, "reason")));
  print_layers("zero CAM in", json_object_get(cam, "zero"), "no image token speaks for the answer there");
  print_sinks(flow);
  cli_print_interventions(summary);
}
