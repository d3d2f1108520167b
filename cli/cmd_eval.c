/* sightline eval */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static double number(const json_t *of, const char *key) { return json_number_value(json_object_get(of, key)); }

/* "accuracy 0.953  f1 0.951 ..." of one object of numbers. */
static void print_numbers(const char *name, const json_t *numbers) {
  const char *key;
  json_t *value;
  printf("%-13s", name);
  json_object_foreach((json_t *)numbers, key, value) {
    if (json_is_real(value)) printf("  %s %.4f", key, json_real_value(value));
    if (json_is_integer(value)) printf("  %s %lld", key, (long long)json_integer_value(value));
    if (json_is_null(value)) printf("  %s -", key);
  }
  putchar('\n');
}

static void print_curve(const json_t *cliff) {
  const json_t *curve = json_object_get(cliff, "curve"), *estimate = json_object_get(cliff, "estimate"), *point;
  const char *of = json_string_value(json_object_get(cliff, "of"));
  size_t k;
  /* Captions that say less make less up: what they still find stands beside it. */
  const bool recall = json_object_get(json_array_get(curve, 0), "recall") && of && strcmp(of, "chair_s") == 0;
  printf("\nhidden from   %s   difference [95 %%]%s\n", of ? of : "", recall ? "            recall" : "");
  json_array_foreach((json_t *)curve, k, point) {
    const json_t *d = json_object_get(point, "difference");
    if (k + 1 == json_array_size(curve))
      printf("never         %.4f", number(point, of));
    else
      printf("layer %-7zu %.4f   %+.4f [%+.4f, %+.4f]", k, number(point, of), number(d, "value"), number(d, "low"),
             number(d, "high"));
    if (recall) printf("%*.4f", k + 1 == json_array_size(curve) ? 37 : 9, number(point, "recall"));
    putchar('\n');
  }
  printf("cliff: layer %.0f (point estimate %.0f [%.0f, %.0f])\n", number(cliff, "layer"), number(estimate, "layer"),
         number(estimate, "low"), number(estimate, "high"));
}

static void print_paper(const json_t *paper) {
  const json_t *row;
  size_t i;
  if (!paper) return;
  printf("\npublished (%s), percent: whole -> truncated at the cliff\n", json_string_value(json_object_get(paper, "source")));
  json_array_foreach(json_object_get(paper, "rows"), i, row)
    printf("%-13s %-9s %.2f -> %.2f\n", json_string_value(json_object_get(row, "model")),
           json_string_value(json_object_get(row, "metric")), number(row, "whole_percent"), number(row, "truncated_percent"));
}

static void print_notes(const json_t *root) {
  static const char *const lists[] = {"bad_rows", "errors"};
  const json_t *counts = json_object_get(root, "counts"), *entry;
  size_t i;
  for (int l = 0; l < 2; l++) {
    json_array_foreach(json_object_get(root, lists[l]), i, entry) {
      if (i == 5) break;
      fprintf(stderr, "sightline: note: %s%s%s\n", l ? json_string_value(json_object_get(entry, "id")) : "", l ? ": " : "",
              l ? json_string_value(json_object_get(entry, "error")) : json_string_value(entry));
    }
  }
  if (number(counts, "bad_rows") + number(counts, "failed") > 0)
    fprintf(stderr, "sightline: note: %.0f bad rows left out, %.0f examples failed\n", number(counts, "bad_rows"),
            number(counts, "failed"));
}

static void print_result(const cli_args *args, const char *summary) {
  if (args->value[OPT_JSON]) {
    puts(summary);
    return;
  }
  json_t *root = json_loads(summary, JSON_ALLOW_NUL, NULL);
  const json_t *metrics = json_object_get(root, "metrics"), *interval = json_object_get(root, "interval"), *group;
  const char *name;
  print_numbers(json_string_value(json_object_get(root, "benchmark")), metrics);
  json_object_foreach(json_object_get(metrics, "groups"), name, group) print_numbers(name, group);
  printf("%s %.4f [%.4f, %.4f]\n", json_string_value(json_object_get(interval, "of")), number(interval, "value"),
         number(interval, "low"), number(interval, "high"));
  if (json_object_get(root, "cliff")) {
    print_curve(json_object_get(root, "cliff"));
    print_paper(json_object_get(root, "paper"));
  }
  if (!args->value[OPT_QUIET]) print_notes(root);
  json_decref(root);
}

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

static int run(const cli_args *args) {
  sl_eval_request request;
  sl_model *model = NULL;
  char out[64], *summary = NULL;
  if (!make_request(args, &request, out, sizeof out)) return EXIT_USAGE;
  const int code = request.predictions ? EXIT_DONE : cli_open_model(&model, args);
  if (code != EXIT_DONE) return code;
  const sl_status status = sl_eval(model, &request, &summary);
  sl_model_close(model);
  cli_progress_end();
  if (summary) print_result(args, summary);
  free(summary);
  if (status == SL_ERROR_CANCELLED && request.out_dir) {
    cli_error("interrupted; what was answered is in %s; the same command with --resume goes on from there", request.out_dir);
    return EXIT_INTERRUPTED;
  }
  if (status == SL_OK && request.out_dir && !args->value[OPT_QUIET] && !args->value[OPT_JSON])
    fprintf(stderr, "sightline: results in %s\n", request.out_dir);
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
        "LLaVA's question file. chair: the folder of instances_*.json and captions_*.json. main-object: JSON lines {\"id\", "
        "\"image\", \"label\"}.\n"
        "With --cliff every question is also asked with the picture hidden from each layer on; the cliff layer is the first from "
        "which on the score is no more than a point below the whole model's, by the 95 % interval of the paired differences.\n"
        "Bad rows (broken JSON, a missing field, an id that is there twice, an unknown label, a path that leaves the data "
        "folder) are named with file and line and left out.",
    .example = "sightline eval pope --data coco-pope --images val2014 --cliff",
    .options = WORK_OPTIONS | BIT(OPT_BENCH_DATA) | BIT(OPT_BENCH_IMAGES) | BIT(OPT_SPLIT) | BIT(OPT_PREDICTIONS) |
               BIT(OPT_PROMPT_STYLE) | BIT(OPT_RULE) | BIT(OPT_LIMIT) | BIT(OPT_BENCH_CLIFF) | BIT(OPT_BENCH_STRICT) |
               BIT(OPT_BENCH_TOKENS) | BIT(OPT_BENCH_OUT) | BIT(OPT_BENCH_FORCE) | BIT(OPT_BENCH_RESUME) | BIT(OPT_BATCH_SIZE),
    .run = run,
};
