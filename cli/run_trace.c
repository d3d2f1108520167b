/* ask, trace and the commands of one analysis: from options to a request, and the result to standard output. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* "sightline-flow-cat" for photos/cat.png, in the current folder. */
static void default_out(char *out, size_t n_bytes, const char *command, const char *image) {
  const char *base = strrchr(image, '/');
  base = base ? base + 1 : image;
  const char *dot = strrchr(base, '.');
  const int length = dot && dot > base ? (int)(dot - base) : (int)strlen(base);
  snprintf(out, n_bytes, "sightline-%s-%.*s", command, length, base);
}

static bool share_option(const cli_args *args, cli_id id, double *value) {
  char *end = NULL;
  if (!args->value[id]) return true;
  *value = strtod(args->value[id], &end);
  if (*args->value[id] && *end == '\0' && *value > 0 && *value <= 1) return true;
  cli_error("--%s: expected a share above 0, at most 1, found \"%s\"", cli_options[id].name, args->value[id]);
  return false;
}

static bool required(const cli_args *args, cli_id id) {
  if (args->value[id]) return true;
  cli_error("`%s` needs --%s %s; see `sightline %s --help`", args->command->name, cli_options[id].name,
            cli_options[id].argument, args->command->name);
  return false;
}

/* Fills the request; `analyses` and `out` are the caller's. */
static bool make_request(const cli_args *args, sl_trace_request *r, const char **analyses, char *out, size_t n_out) {
  int64_t seed = 0, max_token = 0, n_thread = 0, batch_size = 0;
  if (args->n_rest > 0) {
    cli_error("`%s` takes options only, found \"%s\"; quote texts that hold blanks", args->command->name,
              args->rest[0]);
    return false;
  }
  if (!required(args, OPT_IMAGE) || !required(args, OPT_PROMPT)) return false;
  if (args->value[OPT_RAW_PROMPT] && args->value[OPT_TEMPLATE]) {
    cli_error("--raw-prompt takes --prompt as the whole prompt, so --template has no use with it");
    return false;
  }
  if (!cli_number(args, OPT_SEED, &seed) || !cli_number(args, OPT_MAX_TOKENS, &max_token) ||
      !cli_number(args, OPT_THREADS, &n_thread) || !cli_number(args, OPT_BATCH_SIZE, &batch_size) ||
      !cli_duration(args, OPT_BUDGET, &r->budget_s) || !share_option(args, OPT_OBJECT_THRESHOLD, &r->object_threshold))
    return false;
  r->size = sizeof *r;
  r->command = (const char *const *)args->argv;
  r->n_command = args->argc;
  r->image_path = args->value[OPT_IMAGE];
  r->mask_path = args->value[OPT_OBJECT_MASK];
  r->question = args->value[OPT_PROMPT];
  r->raw_prompt = args->value[OPT_RAW_PROMPT] != NULL;
  r->answer = args->value[OPT_ANSWER];
  r->max_token = (int)max_token;
  r->force = args->value[OPT_FORCE] != NULL;
  r->no_report = args->value[OPT_NO_REPORT] != NULL;
  r->seed = (uint64_t)seed;
  r->n_thread = (int)n_thread;
  r->batch_size = (int)batch_size;
  r->plan_path = args->value[OPT_PLAN];
  r->resume = args->value[OPT_RESUME] != NULL;
  const sl_analysis_info *analysis;
  while ((analysis = cli_command_analysis(args->command, r->n_analysis))) analyses[r->n_analysis++] = analysis->name;
  r->analyses = analyses;
  r->options = args->analysis_value;
  r->n_option = args->n_analysis_value;
  r->record = args->value[OPT_RECORD];
  r->logits = args->value[OPT_LOGITS] != NULL;
  r->out_dir = args->value[OPT_OUT];
  if (!r->out_dir && (r->n_analysis > 0 || r->record || r->logits)) {
    default_out(out, n_out, args->command->name, r->image_path);
    r->out_dir = out;
  }
  r->progress = cli_progress;
  r->log = cli_log;
  r->user = (void *)args;
  r->cancel = cli_cancel();
  return true;
}

static void print_result(const cli_args *args, const char *summary) {
  if (args->value[OPT_JSON]) {
    puts(summary);
    return;
  }
  json_t *root = json_loads(summary, JSON_ALLOW_NUL, NULL);
  if (args->value[OPT_PLAN])
    cli_print_plan_answer(root);
  else
    cli_print_answer(root);
  if (args->command != &cmd_ask) cli_print_trace(root);
  json_decref(root);
}

int cli_run_trace(const cli_args *args) {
  sl_trace_request request = {0};
  const char *analyses[MAX_ANALYSIS];
  char out[4200], *summary = NULL;
  if (!make_request(args, &request, analyses, out, sizeof out)) return EXIT_USAGE;
  /* Before seconds or minutes go into reading weights. */
  sl_status status = sl_trace_check(&request);
  if (status != SL_OK) return cli_fail(status);
  sl_model *model = NULL;
  const int code = cli_open_model(&model, args);
  if (code != EXIT_DONE) return code;
  status = sl_trace_run(model, &request, &summary);
  sl_model_close(model);
  cli_progress_end();
  if (summary) print_result(args, summary);
  free(summary);
  const bool kept = status == SL_ERROR_CANCELLED && summary && request.out_dir;
  if (kept) {
    const bool resumes = args->command->options & BIT(OPT_RESUME);
    cli_error("interrupted; what was complete is in %s%s", request.out_dir,
              resumes ? "; the same command with --resume goes on from there" : "");
    return EXIT_INTERRUPTED;
  }
  if (status == SL_OK && request.out_dir && !args->value[OPT_QUIET] && !args->value[OPT_JSON])
    fprintf(stderr, "sightline: results in %s%s\n", request.out_dir, request.no_report ? "" : "/report.html");
  return cli_fail(status);
}
