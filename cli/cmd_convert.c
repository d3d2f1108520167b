/* sightline convert */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static void print_files(const json_t *summary, const char *key, const char *heading) {
  const json_t *names = json_object_get(summary, key), *name;
  size_t i;
  if (json_array_size(names) == 0) return;
  printf("%s", heading);
  json_array_foreach((json_t *)names, i, name) printf("%s %s", i ? "," : "", json_string_value(name));
  putchar('\n');
}

static void print_result(const char *text) {
  json_t *summary = json_loads(text, JSON_ALLOW_NUL, NULL);
  printf("%d tensors, %.3f GB in %s\n", (int)json_integer_value(json_object_get(summary, "tensors")),
         1e-9 * (double)json_integer_value(json_object_get(summary, "bytes")),
         json_string_value(json_object_get(summary, "out")));
  const json_t *added = json_object_get(summary, "added");
  if (added) printf("added to the base: %d tensors\n", (int)json_integer_value(added));
  print_files(summary, "taken", "not in the base, taken as they are:");
  print_files(summary, "files", "weights:");
  print_files(summary, "copied", "copied:");
  print_files(summary, "left", "not copied:");
  json_decref(summary);
}

/* False after a message. What the library would refuse by name is bad usage when the command line shows it. */
static bool check(const cli_args *args) {
  const char *dtype = args->value[OPT_STORE_DTYPE];
  if (!args->value[OPT_SOURCE] || !args->value[OPT_NEW_FOLDER]) {
    cli_error("`convert` needs %s; see `sightline convert --help`",
              args->value[OPT_SOURCE] ? "--out DIR" : "--model DIR");
    return false;
  }
  if (args->n_rest > 0) {
    cli_error("`convert` takes options only, found \"%s\"; see `sightline convert --help`", args->rest[0]);
    return false;
  }
  if (dtype && strcmp(dtype, "f32") != 0 && strcmp(dtype, "f16") != 0 && strcmp(dtype, "bf16") != 0) {
    cli_error("--dtype: expected f32, f16 or bf16, found \"%s\"", dtype);
    return false;
  }
  return true;
}

static int run(const cli_args *args) {
  if (!check(args)) return EXIT_USAGE;
  const sl_convert_request request = {.size = sizeof request,
                                      .model_dir = args->value[OPT_SOURCE],
                                      .out_dir = args->value[OPT_NEW_FOLDER],
                                      .delta_base = args->value[OPT_DELTA_BASE],
                                      .dtype = args->value[OPT_STORE_DTYPE],
                                      .progress = cli_progress,
                                      .user = (void *)args,
                                      .cancel = cli_cancel()};
  char *summary = NULL;
  const sl_status status = sl_convert(&request, &summary);
  cli_progress_end();
  if (summary && args->value[OPT_JSON]) puts(summary);
  if (summary && !args->value[OPT_JSON]) print_result(summary);
  free(summary);
  return cli_fail(status);
}

const cli_command cmd_convert = {
    .name = "convert",
    .line = "Make a folder of safetensors: from PyTorch .bin files, in another type, or from a delta and its base.",
    .usage = "convert --model DIR --out DIR [options]",
    .details =
        "Reads the weights of a folder (safetensors, or PyTorch's pytorch_model.bin, whose pickle is read as data and "
        "never executed), writes them as safetensors into a new folder, in files of at most 5 GB, and copies "
        "configuration, tokenizer and licence files. The folder appears whole or not at all; memory does not grow with "
        "the model.\n"
        "With --delta-base the weights are differences (as Shikra's are published): those of the base are added in f32 "
        "and the sum is rounded. Rows of new tokens and tensors that the base lacks are taken as they are; a tensor "
        "that only the base has is an error.",
    .example = "sightline convert --model shikra-7b-delta-v1 --delta-base llama-7b --out shikra-7b --dtype bf16",
    .options = BIT(OPT_SOURCE) | BIT(OPT_NEW_FOLDER) | BIT(OPT_DELTA_BASE) | BIT(OPT_STORE_DTYPE) | BIT(OPT_JSON) |
               BIT(OPT_QUIET) | BIT(OPT_HELP) | BIT(OPT_VERSION),
    .run = run,
};
