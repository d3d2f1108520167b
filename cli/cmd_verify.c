/* sightline verify */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

static const char *text(const json_t *object, const char *key) {
  const char *value = json_string_value(json_object_get(object, key));
  return value ? value : "";
}

static void print_check(const json_t *check) {
  const json_t *error = json_object_get(check, "error");
  const double tolerance = json_number_value(json_object_get(check, "tolerance"));
  char number[32] = "", limit[32] = "";
  if (tolerance > 0) {
    snprintf(number, sizeof number, json_is_number(error) ? "%.2g" : "-", json_number_value(error));
    snprintf(limit, sizeof limit, "%.2g", tolerance);
  }
  printf("%-5s %-34s %9s %9s  %s%s%s\n", text(check, "case"), text(check, "name"), number, limit,
         json_is_true(json_object_get(check, "equal")) ? "equal" : "DIFFERENT", *text(check, "note") ? "; " : "",
         text(check, "note"));
}

static void print_result(const json_t *summary) {
  const json_t *reference = json_object_get(summary, "reference"), *first = json_object_get(summary, "first");
  const json_t *checks = json_object_get(summary, "checks"), *check;
  size_t i;
  printf("%-5s %-34s %9s %9s\n", "case", "compared", "error", "tolerance");
  json_array_foreach((json_t *)checks, i, check) print_check(check);
  if (json_is_false(json_object_get(summary, "same_template")))
    printf("note: the reference's prompt is not the one that sightline writes; --template takes another\n");
  const char *version = text(reference, "transformers"), *type = text(reference, "dtype");
  const bool equal = json_is_true(json_object_get(summary, "equal"));
  if (!equal && strcmp(type, "float32") != 0)
    printf("note: in %s the reference is off by its own rounding, which grows by the layer; one in float32 decides\n",
           type);
  if (equal)
    printf("equal to transformers %s (%s) within %.2g\n", version, type,
           json_number_value(json_object_get(summary, "largest")));
  else
    printf("different from transformers %s (%s): first at %s of case %s\n", version, type, text(first, "name"),
           text(first, "case"));
}

/* False after a message. */
static bool check_usage(const cli_args *args, double *tolerance) {
  const char *given = args->value[OPT_TOLERANCE];
  char *end = NULL;
  if (!args->value[OPT_REFERENCE] || args->n_rest > 0) {
    cli_error("`verify` needs --reference FILE and takes options only; see `sightline verify --help`");
    return false;
  }
  *tolerance = given ? strtod(given, &end) : 0;
  if (!given || (end > given && *end == '\0' && *tolerance > 0 && *tolerance < 1)) return true;
  cli_error("--tolerance: expected a number above 0 and below 1, found \"%s\"", given);
  return false;
}

static int run(const cli_args *args) {
  cli_args own = *args;
  sl_model *model = NULL;
  char *summary = NULL;
  int64_t n_thread = 0;
  double tolerance = 0;
  bool equal = false;
  if (!check_usage(args, &tolerance) || !cli_number(args, OPT_THREADS, &n_thread)) return EXIT_USAGE;
  if (!own.value[OPT_DTYPE]) own.value[OPT_DTYPE] = "f32";
  if (access(args->value[OPT_REFERENCE], R_OK) != 0) {
    cli_error("%s: %s", args->value[OPT_REFERENCE], strerror(errno));
    return EXIT_FAILED;
  }
  int code = cli_open_model(&model, &own);
  if (code != EXIT_DONE) return code;
  const sl_verify_request request = {.size = sizeof request,
                                     .reference_path = args->value[OPT_REFERENCE],
                                     .tolerance = tolerance,
                                     .n_thread = (int)n_thread,
                                     .progress = cli_progress,
                                     .user = (void *)args,
                                     .cancel = cli_cancel()};
  const sl_status status = sl_verify(model, &request, &equal, &summary);
  sl_model_close(model);
  cli_progress_end();
  code = cli_fail(status);
  if (summary && args->value[OPT_JSON]) puts(summary);
  if (summary && !args->value[OPT_JSON]) {
    json_t *root = json_loads(summary, JSON_ALLOW_NUL, NULL);
    print_result(root);
    json_decref(root);
  }
  free(summary);
  return code != EXIT_DONE ? code : equal ? EXIT_DONE : EXIT_FAILED;
}

const cli_command cmd_verify = {
    .name = "verify",
    .line = "Compare a model with reference activations written by your own transformers.",
    .usage = "verify --reference FILE [--model DIR] [options]",
    .details =
        "FILE is what tools/verify/reference.py writes: `python reference.py DIR FILE`, with the transformers you use. "
        "It holds two pictures and, for two questions, token ids, pixels, activations of every layer at some positions, "
        "logits, greedy tokens, the logits with one head silenced, and CAM maps. All of it is computed here again and "
        "compared in the order of computation; the first difference is named.\n"
        "The error is the largest difference over the row's largest value. Exit code 0: equal, 1: different (or the "
        "reference is of another folder, which is refused). Computes in f32 unless --dtype says otherwise.",
    .example = "sightline verify --model llava-1.5-7b-hf --reference reference.safetensors",
    .options = (WORK_OPTIONS & ~BIT(OPT_SEED)) | BIT(OPT_TEMPLATE) | BIT(OPT_REFERENCE) | BIT(OPT_TOLERANCE),
    .run = run,
};
