/* sightline eval */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* The benchmark's name, in the table's spelling; NULL after a message. */
static const char *find_name(const cli_args *args) {
  const char *names[32] = {NULL};
  int n = 0;
  while (n < 31 && sl_eval_name(n)) names[n] = sl_eval_name(n), n++;
  if (args->n_rest != 1) {
    cli_error("`eval` needs one benchmark (%s, %s, %s, %s or %s) and --data; see `sightline eval --help`", names[0], names[1],
              names[2], names[3], names[4]);
    return NULL;
  }
  for (int i = 0; i < n; i++)
    if (strcmp(names[i], args->rest[0]) == 0 || (strcmp(args->rest[0], "main_object") == 0 && strcmp(names[i], "main-object") == 0))
      return names[i];
  const char *near = cli_nearest(args->rest[0], names);
  cli_error("there is no benchmark `%s`%s%s%s", args->rest[0], near ? "; did you mean `" : "", near ? near : "", near ? "`?" : "");
  return NULL;
}

static bool make_request(const cli_args *args, sl_eval_request *r, char *out, size_t n_out) {
  int64_t seed = 0, limit = 0, n_thread = 0, batch_size = 0, max_token = 0;
  const char *name = find_name(args);
  if (!name) return false;
  if (!args->value[OPT_BENCH_DATA]) {
    cli_error("`eval` needs --data PATH; see `sightline eval --help`");
    return false;
  }
  if (!cli_number(args, OPT_SEED, &seed) || !cli_number(args, OPT_LIMIT, &limit) || !cli_number(args, OPT_THREADS, &n_thread) ||
      !cli_number(args, OPT_BATCH_SIZE, &batch_size) || !cli_number(args, OPT_BENCH_TOKENS, &max_token))
    return false;
  *r = (sl_eval_request){.size = sizeof *r,
                         .command = (const char *const *)args->argv,
                         .n_command = args->argc,
                         .benchmark = name,
                         .data = args->value[OPT_BENCH_DATA],
                         .images = args->value[OPT_BENCH_IMAGES],
                         .split = args->value[OPT_SPLIT],
                         .predictions = args->value[OPT_PREDICTIONS],
                         .prompt_style = args->value[OPT_PROMPT_STYLE],
                         .rule = args->value[OPT_RULE],
                         .limit = (int)limit,
                         .strict = args->value[OPT_BENCH_STRICT] != NULL,
                         .cliff = args->value[OPT_BENCH_CLIFF] != NULL,
                         .max_token = (int)max_token,
                         .out_dir = args->value[OPT_BENCH_OUT],
                         .force = args->value[OPT_BENCH_FORCE] != NULL,
                         .resume = args->value[OPT_BENCH_RESUME] != NULL,
                         .seed = (uint64_t)seed,
                         .n_thread = (int)n_thread,
                         .batch_size = (int)batch_size,
                         .progress = cli_progress,
                         .log = cli_log,
                         .user = (void *)args,
                         .cancel = cli_cancel()};
  if (!r->out_dir && !r->predictions) {
    snprintf(out, n_out, "sightline-eval-%s", name);
    r->out_dir = out;
  }
  return true;
}

/* Options of a model, where none is opened. */
static bool check_unused(const cli_args *args) {
  static const struct {
    int option;
    const char *name;
  } of_model[] = {{OPT_MODEL, "model"},   {OPT_VISION_MODEL, "vision-model"}, {OPT_DTYPE, "dtype"},
                  {OPT_DEVICE, "device"}, {OPT_BATCH_SIZE, "batch-size"},     {OPT_BENCH_TOKENS, "max-tokens"}};
  for (size_t i = 0; args->value[OPT_PREDICTIONS] && i < sizeof of_model / sizeof *of_model; i++) {
    if (!args->value[of_model[i].option]) continue;
    cli_error("--%s is for a model that answers; with --predictions none is opened", of_model[i].name);
    return false;
  }
  return true;
}

static int run(const cli_args *args) {
  sl_eval_request request;
  sl_model *model = NULL;
  char out[64], *summary = NULL;
  if (!check_unused(args) || !make_request(args, &request, out, sizeof out)) return EXIT_USAGE;
  const sl_status checked = sl_eval_check(&request);
  if (checked != SL_OK) return checked == SL_ERROR_ARGUMENT ? (cli_fail(checked), EXIT_USAGE) : cli_fail(checked);
  const int code = request.predictions ? EXIT_DONE : cli_open_model(&model, args);
  if (code != EXIT_DONE) return code;
  const sl_status status = sl_eval(model, &request, &summary);
  sl_model_close(model);
  cli_progress_end();
  if (summary) cli_print_eval(args, summary);
  free(summary);
  if (status == SL_ERROR_CANCELLED && request.out_dir) {
    cli_error("interrupted; what was answered is in %s; the same command with --resume goes on from there", request.out_dir);
    return EXIT_INTERRUPTED;
  }
  if (status == SL_OK && request.out_dir && !args->value[OPT_QUIET] && !args->value[OPT_JSON])
    fprintf(stderr, "sightline: results in %s; %s/report.html shows them\n", request.out_dir, request.out_dir);
  return cli_fail(status);
}

const cli_command cmd_eval = {
    .name = "eval",
    .line = "Benchmarks: POPE, ScienceQA, TextVQA, CHAIR, main object; scores, and how they fall without the picture.",
    .usage = "eval pope|scienceqa|textvqa|chair|main-object --data PATH [options]",
    .details =
        "Reads the official files as they are published, asks the model every question greedily with the official prompts, "
        "and scores by the official rules. --predictions scores somebody else's answers instead; no model is opened then.\n"
        "pope: a folder of coco_pope_random.json, _popular, _adversarial, or one of them. scienceqa: the folder of "
        "problems.json and pid_splits.json (pictures in images/SPLIT/ID/). textvqa: TextVQA_0.5.1_val.json, or its folder with "
        "LLaVA's question file, whose prompts with OCR tokens are then asked. chair: the folder of instances_*.json and "
        "captions_*.json. main-object: COCO's instances_*.json, or JSON lines {\"id\", \"image\", \"label\"}.\n"
        "With --cliff every question is also asked with the picture hidden from each layer on; the cliff layer is the first from "
        "which on the score is no more than a point below the whole model's, by the 95 % interval of the paired differences.\n"
        "Bad rows (broken JSON, a missing field, an id that is there twice, an unknown label, a path that leaves the data "
        "folder, a picture that is not there) are named with file and line and left out.",
    .example = "sightline eval pope --data coco-pope --images val2014 --cliff",
    .options = WORK_OPTIONS | BIT(OPT_BENCH_DATA) | BIT(OPT_BENCH_IMAGES) | BIT(OPT_SPLIT) | BIT(OPT_PREDICTIONS) |
               BIT(OPT_PROMPT_STYLE) | BIT(OPT_RULE) | BIT(OPT_LIMIT) | BIT(OPT_BENCH_CLIFF) | BIT(OPT_BENCH_STRICT) |
               BIT(OPT_BENCH_TOKENS) | BIT(OPT_BENCH_OUT) | BIT(OPT_BENCH_FORCE) | BIT(OPT_BENCH_RESUME) | BIT(OPT_BATCH_SIZE),
    .run = run,
};
