/* sightline study */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli.h"

/* Options that stand for a key of the plan. */
static const struct {
  cli_id id;
  const char *key;
} settings[] = {{OPT_MODEL, "model"},
                {OPT_VISION_MODEL, "vision-model"},
                {OPT_DTYPE, "compute"},
                {OPT_DEVICE, "backend"},
                {OPT_THREADS, "threads"},
                {OPT_BATCH_SIZE, "batch-size"},
                {OPT_DATA, "data"},
                {OPT_IMAGES, "images"},
                {OPT_SEED, "seed"},
                {OPT_MAX_TOKENS, "max-tokens"},
                {OPT_RAW_PROMPT, "raw-prompt"},
                {OPT_OBJECT_THRESHOLD, "object-threshold"},
                {OPT_ANALYSES, "analyses"},
                {OPT_TENSORS, "tensors"}};
#define N_SETTING (sizeof settings / sizeof *settings)

/* The line of progress: how many failed so far stands before the rate and the time left. */
static bool on_state(void *user, const sl_study_state *state) {
  char what[32];
  if (state->failed)
    snprintf(what, sizeof what, "study, %lld failed", (long long)state->failed);
  else
    snprintf(what, sizeof what, "study");
  return cli_study_progress(user, what, state);
}

/* Digits at *text, which moves behind them; -1 where there are none or too many. */
static int read_digits(const char **text) {
  int64_t n = 0;
  const size_t length = strspn(*text, "0123456789");
  for (size_t i = 0; i < length && n <= INT_MAX; i++) n = 10 * n + ((*text)[i] - '0');
  *text += length;
  return length > 0 && n <= INT_MAX ? (int)n : -1;
}

static bool read_shard(const cli_args *args, sl_study_request *q) {
  const char *text = args->value[OPT_SHARD], *at = text;
  if (!text) return true;
  q->shard = read_digits(&at);
  q->n_shard = *at == '/' ? (at++, read_digits(&at)) : -1;
  if (*at == '\0' && q->shard >= 0 && q->shard < q->n_shard) return true;
  cli_error("--shard: expected i/n with i from 0 to n - 1 and n at most %d, found \"%s\"", INT_MAX, text);
  return false;
}

static bool check_share(const cli_args *args, cli_id id) {
  const char *text = args->value[id];
  char *end = NULL;
  const double share = text ? strtod(text, &end) : 1;
  if (!text || (*text && *end == '\0' && share > 0 && share <= 1)) return true;
  cli_error("--%s: expected a share above 0, at most 1, found \"%s\"", cli_options[id].name, text);
  return false;
}

/* Names with commas between them; none is a choice too. */
static bool check_analyses(const cli_args *args) {
  const char *text = args->value[OPT_ANALYSES];
  for (const char *at = text; at && *at; at += strspn(at, ",")) {
    char name[64];
    const int length = (int)strcspn(at, ",");
    snprintf(name, sizeof name, "%.*s", length, at);
    at += length;
    if (sl_analysis_find(name)) continue;
    const char *names[MAX_ANALYSIS + 1] = {NULL};
    for (int i = 0; i < sl_analysis_count() && i < MAX_ANALYSIS; i++) names[i] = sl_analysis_at(i)->name;
    const char *near = cli_nearest(name, names);
    cli_error("--analyses: there is no analysis \"%s\"%s%s%s", name, near ? "; did you mean " : "", near ? near : "",
              near ? "?" : "; see `sightline --help`");
    return false;
  }
  return true;
}

/* What the library says of a value that was given as an option begins so; that is a wrong use, other errors are not. */
static bool is_misuse(sl_status status) {
  static const char begin[] = "command line: ";
  return status == SL_ERROR_FORMAT && strncmp(sl_error_message(), begin, sizeof begin - 1) == 0;
}

/* Whether the plan comes through a pipe: it cannot be looked into before it is read. */
static bool is_read_once(const char *plan) {
  struct stat info;
  return stat(plan, &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode);
}

/* Whether a model has to be looked for: the plan could be read, and names none. */
static bool lacks_model(const char *plan) {
  json_t *root = json_load_file(plan, JSON_ALLOW_NUL, NULL);
  const json_t *model = json_object_get(root, "model");
  const bool lacks = root && (!model || json_is_null(model));
  json_decref(root);
  return lacks;
}

static void print_summary(const char *text) {
  json_t *summary = json_loads(text, JSON_ALLOW_NUL, NULL);
  const json_int_t scored = json_integer_value(json_object_get(summary, "scored"));
  printf("%lld of %lld examples done", (long long)json_integer_value(json_object_get(summary, "done")),
         (long long)json_integer_value(json_object_get(summary, "examples")));
  printf(", %lld failed\n", (long long)json_integer_value(json_object_get(summary, "failed")));
  if (scored > 0) {
    const json_int_t correct = json_integer_value(json_object_get(summary, "correct"));
    printf("%lld of %lld answers as expected (%.1f %%)\n", (long long)correct, (long long)scored,
           100.0 * (double)correct / (double)scored);
  }
  const char *missing = json_string_value(json_object_get(summary, "missing"));
  if (missing && *missing) printf("missing examples: %s\n", missing);
  json_decref(summary);
}

static int finish(const cli_args *args, sl_status status, char *summary, const char *out) {
  cli_progress_end();
  if (summary && args->value[OPT_JSON]) puts(summary);
  if (summary && !args->value[OPT_JSON]) print_summary(summary);
  free(summary);
  if (status == SL_ERROR_CANCELLED && summary) {
    cli_error("interrupted; what was complete is in %s; `sightline study resume %s` goes on from there", out, out);
    return EXIT_INTERRUPTED;
  }
  return cli_fail(status);
}

static int run_study(const cli_args *args, const char *out, bool resume) {
  sl_option_value given[N_SETTING];
  char model[PATH_MAX + 64];
  sl_study_request q = {.size = sizeof q,
                        .plan_path = args->value[OPT_STUDY_PLAN],
                        .out_dir = out,
                        .settings = given,
                        .options = args->analysis_value,
                        .n_option = args->n_analysis_value,
                        .resume = resume,
                        .retry_failed = args->value[OPT_STUDY_RETRY] != NULL,
                        .strict = args->value[OPT_STRICT] != NULL,
                        .tell = on_state,
                        .progress = cli_progress,
                        .log = cli_log,
                        .user = (void *)args,
                        .cancel = cli_cancel()};
  int64_t number = 0;
  if (!cli_number(args, OPT_SEED, &number) || !cli_number(args, OPT_MAX_TOKENS, &number) ||
      !cli_number(args, OPT_THREADS, &number) || !cli_number(args, OPT_BATCH_SIZE, &number) ||
      !check_share(args, OPT_OBJECT_THRESHOLD) || !check_analyses(args) || !read_shard(args, &q))
    return EXIT_USAGE;
  for (size_t i = 0; i < N_SETTING; i++) {
    const char *value = args->value[settings[i].id];
    const bool flag = !cli_options[settings[i].id].argument;
    if (value) given[q.n_setting++] = (sl_option_value){settings[i].key, flag ? "true" : value};
  }
  if (q.plan_path && !args->value[OPT_MODEL]) {
    const bool once = is_read_once(q.plan_path), lacks = !once && lacks_model(q.plan_path);
    if (once || lacks) q.default_model = cli_model_path(args, model, sizeof model);
    if (lacks && !q.default_model) return EXIT_FAILED;
  }
  char *summary = NULL;
  const sl_status status = sl_study_run(&q, &summary);
  const int code = finish(args, status, summary, out);
  return code == EXIT_FAILED && is_misuse(status) ? EXIT_USAGE : code;
}

static int run_run(const cli_args *args) {
  if (!args->value[OPT_STUDY_PLAN] || !args->value[OPT_STUDY_OUT]) {
    cli_error("`study run` needs %s; see `sightline study --help`",
              args->value[OPT_STUDY_PLAN] ? "--out DIR" : "--plan FILE");
    return EXIT_USAGE;
  }
  if (args->n_rest > 1) {
    cli_error("`study run` takes options only, found \"%s\"", args->rest[1]);
    return EXIT_USAGE;
  }
  return run_study(args, args->value[OPT_STUDY_OUT], args->value[OPT_STUDY_RESUME] != NULL);
}

static int run_resume(const cli_args *args) {
  if (args->n_rest != 2 || args->value[OPT_STUDY_OUT]) {
    cli_error("expected `sightline study resume DIR`, one study; see `sightline study --help`");
    return EXIT_USAGE;
  }
  return run_study(args, args->rest[1], true);
}

static int run_merge(const cli_args *args) {
  if (args->n_rest < 3) {
    cli_error("expected `sightline study merge OUT DIR...`; see `sightline study --help`");
    return EXIT_USAGE;
  }
  const sl_study_merge_request q = {.size = sizeof q,
                                    .out_dir = args->rest[1],
                                    .dirs = (const char *const *)args->rest + 2,
                                    .n_dir = args->n_rest - 2,
                                    .progress = cli_progress,
                                    .log = cli_log,
                                    .user = (void *)args,
                                    .cancel = cli_cancel()};
  char *summary = NULL;
  const sl_status status = sl_study_merge(&q, &summary);
  return finish(args, status, summary, args->rest[1]);
}

static void print_accuracy(const json_t *said) {
  const json_int_t scored = json_integer_value(json_object_get(said, "scored")),
                   correct = json_integer_value(json_object_get(said, "correct"));
  if (scored > 0)
    printf("accuracy: %.1f %% of %lld answers\n", 100.0 * (double)correct / (double)scored, (long long)scored);
}

/* The cliff layer of every group with its estimate's interval. */
static void print_cliffs(const json_t *said) {
  static const char *const scores[][2] = {{"correct", "accuracy"}, {"logit", "target"}};
  const json_t *groups = json_object_get(said, "groups");
  for (size_t k = 0; k < 2; k++) {
    const json_t *list = json_object_get(json_object_get(said, "cliff"), scores[k][0]);
    for (size_t i = 0; i < json_array_size(list); i++) {
      const json_t *one = json_array_get(list, i), *estimate = json_object_get(one, "estimate");
      const json_t *group = json_array_get(groups, (size_t)json_integer_value(json_object_get(one, "group")));
      const char *label = json_string_value(json_object_get(group, "label"));
      const long long n = (long long)json_integer_value(json_object_get(one, "n"));
      printf("cliff of the %s, %s%s%s: layer %lld of %zu; estimate %g ", scores[k][1], *label ? label : "all",
             *label ? " " : "", json_string_value(json_object_get(group, "value")),
             (long long)json_integer_value(json_object_get(one, "layer")),
             json_array_size(json_object_get(one, "mean")) - 1, json_number_value(json_object_get(estimate, "value")));
      if (json_is_number(json_object_get(estimate, "low")))
        printf("[%g, %g], %lld examples of %lld pictures\n", json_number_value(json_object_get(estimate, "low")),
               json_number_value(json_object_get(estimate, "high")), n,
               (long long)json_integer_value(json_object_get(one, "pictures")));
      else
        printf("(no interval: one picture)\n");
    }
  }
}

static int run_report(const cli_args *args) {
  int64_t seed = 0;
  if (args->n_rest != 2) {
    cli_error("expected `sightline study report DIR`, one study; see `sightline study --help`");
    return EXIT_USAGE;
  }
  if (!cli_number(args, OPT_SEED, &seed)) return EXIT_USAGE;
  const sl_study_report_request q = {.size = sizeof q,
                                     .dir = args->rest[1],
                                     .out_path = args->value[OPT_STUDY_OUT],
                                     .label = args->value[OPT_STUDY_LABEL],
                                     .seed = (uint64_t)seed,
                                     .progress = cli_progress,
                                     .user = (void *)args,
                                     .cancel = cli_cancel()};
  char *summary = NULL;
  const sl_status status = sl_study_report(&q, &summary);
  cli_progress_end();
  json_t *root = summary ? json_loads(summary, JSON_ALLOW_NUL, NULL) : NULL;
  if (summary && args->value[OPT_JSON]) puts(summary);
  if (root && !args->value[OPT_JSON]) {
    print_accuracy(json_object_get(root, "study"));
    print_cliffs(json_object_get(root, "study"));
    printf("%s\n", json_string_value(json_object_get(root, "report")));
  }
  json_decref(root);
  free(summary);
  return cli_fail(status);
}

#define OUTPUT_OPTIONS (BIT(OPT_JSON) | BIT(OPT_QUIET) | BIT(OPT_HELP) | BIT(OPT_VERSION))
#define REPORT_OPTIONS (OUTPUT_OPTIONS | BIT(OPT_STUDY_OUT) | BIT(OPT_STUDY_LABEL) | BIT(OPT_SEED))

typedef struct study_action {
  const char *word;
  int (*run)(const cli_args *args);
  uint64_t options; /* that mean something to it */
  bool analyses;    /* so do the analyses' */
} study_action;

/* False after a message. */
static bool check_options(const cli_args *args, const study_action *action) {
  for (int id = 0; id < OPT_COUNT; id++) {
    if (!args->value[id] || action->options & BIT(id)) continue;
    cli_error("`study %s` has no option --%s", action->word, cli_options[id].name);
    return false;
  }
  if (args->n_analysis_value == 0 || action->analyses) return true;
  cli_error("`study %s` has no option --%s", action->word, args->analysis_value[0].name);
  return false;
}

static int run(const cli_args *args) {
  static const study_action actions[] = {{"run", run_run, ~BIT(OPT_STUDY_LABEL), true},
                                         {"resume", run_resume, ~BIT(OPT_STUDY_LABEL), true},
                                         {"merge", run_merge, OUTPUT_OPTIONS, false},
                                         {"report", run_report, REPORT_OPTIONS, false}};
  for (size_t i = 0; args->n_rest > 0 && i < sizeof actions / sizeof *actions; i++)
    if (strcmp(args->rest[0], actions[i].word) == 0)
      return check_options(args, &actions[i]) ? actions[i].run(args) : EXIT_USAGE;
  cli_error("expected `study run`, `study resume`, `study merge` or `study report`, found \"%s\"; see `sightline study "
            "--help`",
            args->n_rest > 0 ? args->rest[0] : "");
  return EXIT_USAGE;
}

const cli_command cmd_study = {
    .name = "study",
    .line = "Answers and analyses for every line of a data set, into one SQLite database; restartable, in shards.",
    .usage = "study run --plan FILE --out DIR [options] | resume DIR | merge OUT DIR... | report DIR",
    .details =
        "The plan is a JSON file: \"model\", \"data\" (JSON lines with \"id\", \"image\", \"question\", and perhaps "
        "\"answer\" and "
        "\"mask\"; other fields are labels), \"images\" (the folder that pictures are in), \"analyses\" (names, or an "
        "object of "
        "names and options), \"seed\", \"max-tokens\", \"tensors\" (\"none\", \"all\" or globs of result names to "
        "keep), \"fields\" "
        "(other names of a row's fields). Relative paths begin at the plan. Options override it. docs/studies.md has "
        "all keys.\n"
        "Results are in DIR/study.sqlite, tensors in DIR/tensors/. Every example is one transaction: a study that was "
        "interrupted, killed or stopped by a full disk goes on with `study resume DIR`, which redoes the example in "
        "flight and "
        "nothing else. Another plan, model, data file or changed picture is refused. An example that fails is recorded "
        "with its "
        "error and the rest goes on; --retry-failed does such ones again.\n"
        "With --shard i/n a process does examples i, i + n, ... alone; `study merge` puts the shards together. "
        "Under mpirun (a sightline built with MPI) rank 0 hands out examples and the others compute.\n"
        "`study report` writes one page over a study, also over one that is under way: accuracy, mean curves, cliff "
        "layers with "
        "intervals, head scores, failures.",
    .example = "sightline study run --plan pope.json --out pope-study --analyses flow,cliff",
    .options = WORK_OPTIONS | BIT(OPT_STUDY_PLAN) | BIT(OPT_DATA) | BIT(OPT_IMAGES) | BIT(OPT_ANALYSES) |
               BIT(OPT_RAW_PROMPT) | BIT(OPT_MAX_TOKENS) | BIT(OPT_OBJECT_THRESHOLD) | BIT(OPT_STUDY_OUT) |
               BIT(OPT_TENSORS) | BIT(OPT_STUDY_RESUME) | BIT(OPT_STUDY_RETRY) | BIT(OPT_STUDY_LABEL) | BIT(OPT_STRICT) | BIT(OPT_SHARD) |
               BIT(OPT_BATCH_SIZE),
    .analyses = {"*"},
    .run = run,
};
