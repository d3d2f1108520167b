/* Option tables of the command line and their parsing with getopt_long. Options of analyses come from the library. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#define WHAT "What to ask"
#define RESULT "Where results go"
#define HOW "How it runs"
#define OTHER "Output and help"

const cli_option cli_options[OPT_COUNT] = {
    [OPT_MODEL] =
        {"model", "DIR", HOW,
         "Model: an ordinary Hugging Face folder (config.json, safetensors or PyTorch .bin, tokenizer.json). Default: "
         "the folder in $SIGHTLINE_MODEL, else the small model that comes with sightline."},
    [OPT_VISION_MODEL] =
        {"vision-model", "DIR", HOW,
         "The vision tower's folder, for models published without it (Shikra, the original LLaVA-1.5). Default: the "
         "tower that config.json names, beside the model or in Hugging Face's cache."},
    [OPT_IMAGE] = {"image", "FILE", WHAT, "The picture: PNG, JPEG, WebP or binary PPM."},
    [OPT_PROMPT] =
        {"prompt", "TEXT", WHAT,
         "The question; it is put into the model's own template (`sightline info --prompt` shows the tokens)."},
    [OPT_RAW_PROMPT] =
        {"raw-prompt", NULL, WHAT,
         "Take the question as the whole prompt, template and all; it must hold the image placeholder once. The token that "
         "the tokenizer puts first (BOS) is added where it does not stand there."},
    [OPT_TEMPLATE] = {"template", "TEXT", WHAT,
                      "Put questions into this template instead of the model's own: TEXT holds {question} and <image> "
                      "once each, and \\n for line ends."},
    [OPT_ANSWER] = {"answer", "TEXT", WHAT, "Analyse this answer (teacher forcing) instead of the model's greedy one."},
    [OPT_MAX_TOKENS] = {"max-tokens", "N", WHAT, "Stop the greedy answer after N tokens. Default 64."},
    [OPT_OBJECT_MASK] = {"object-mask", "FILE", WHAT,
                         "A picture of the same size, non-zero where the object is: maps are then scored against it."},
    [OPT_OBJECT_THRESHOLD] = {"object-threshold", "SHARE", WHAT,
                              "An image token is object when at least SHARE of its patch is masked. Default 0.5."},
    [OPT_PLAN] =
        {"plan", "FILE", WHAT,
         "Answer under an intervention plan too, and print it beside the unmodified answer with the probability of "
         "each "
         "token under both. FILE is JSON: \"attend\", rules of who sees what ({\"layers\": \"4-\", \"heads\": [0, 2], "
         "\"queries\": \"18-\", \"keys\": \"3-17\", \"source\": \"hidden\"}; sources own, hidden, baseline:N); "
         "\"edits\" of sites ({\"site\": \"blocks.3.hook_resid_pre\", \"positions\": \"20\", \"op\": \"add\", "
         "\"value\": "
         "0.5} or \"from\": {\"run\": 0, \"position\": 5}; ops replace, add, scale); \"baselines\" (\"zero\", "
         "\"mean:FOLDER\", \"mean-all:FOLDER\", \"image:FILE\"); \"runs\" ({\"image\": FILE, \"prompt\": TEXT}). "
         "`sightline info --prompt` shows the positions. run.json keeps the plan."},
    [OPT_OUT] =
        {"out", "DIR", RESULT,
         "Run directory to make: run.json, tensors.safetensors, images/, report.html. Default for trace and the "
         "analyses: sightline-COMMAND-IMAGENAME in the current folder. ask makes one only when asked to (--out, "
         "--record, --logits)."},
    [OPT_FORCE] = {"force", NULL, RESULT, "Replace an existing run directory (never any other folder)."},
    [OPT_RESUME] =
        {"resume", NULL, RESULT,
         "Go on with the interrupted run in --out (or its default): masks that were measured are not measured again. "
         "Model, picture, prompt, answer, seed and options must be the same; but the number of samples, solver, "
         "errors and --min-effect may be others."},
    [OPT_NO_REPORT] = {"no-report", NULL, RESULT, "Leave out report.html and the overlay pictures."},
    [OPT_RECORD] =
        {"record", "SITES", RESULT,
         "Store activations: comma-separated PATTERN[@POSITIONS][#HEADS], PATTERN a TransformerLens name, a Hugging "
         "Face module path or a glob over either: 'blocks.*.hook_resid_post@-1', 'blocks.3.attn.hook_pattern@-1#0-3'. "
         "Ranges are separated by ';', negative numbers count from the end. `sightline info --sites` lists the sites."},
    [OPT_LOGITS] = {"logits", NULL, RESULT, "Store the logits of every position (logits.all)."},
    [OPT_SITES] = {"sites", NULL, WHAT, "List every site that --record takes, with shape and Hugging Face module."},
    [OPT_SEED] = {"seed", "N", HOW,
                  "Seed of everything random (noisy pictures, masks, bootstrap, permutations). Default 0. Equal seeds give equal bits."},
    [OPT_DTYPE] =
        {"dtype", "MODE", HOW,
         "How products are computed: f32, bf16x2 (exact bf16 weights, activations in two bf16 parts: near f32), bf16, "
         "or auto (default: bf16x2 where the processor multiplies bf16 matrices, else f32)."},
    [OPT_DEVICE] = {"device", "NAME", HOW, "cpu (default), or ref: plain C, slow, the specification."},
    [OPT_THREADS] = {"threads", "N", HOW, "Worker threads. Default: all processors. Results do not depend on it."},
    [OPT_BATCH_SIZE] = {"batch-size", "N", HOW,
                        "How many changed continuations run at once. Default: as many as 1 GiB holds. Results do not "
                        "depend on it."},
    [OPT_BUDGET] = {"budget", "TIME", HOW,
                    "About how long the analyses may take: 90s, 10min, 2h. Those that sample draw fewer masks, and say "
                    "so; the others always run whole."},
    [OPT_LABELS] = {"labels", "FILE", WHAT,
                    "JSON lines {\"run\": NAME, \"class\": TEXT, \"appearance\": TEXT}; NAME is a run directory as "
                    "given, or its last part. What stands after = goes first."},
    [OPT_TOP] = {"top", "N", WHAT, "Heads in the share of common top heads. Default: a twentieth of all, at least 5."},
    [OPT_SOURCE] = {"model", "DIR", WHAT,
                    "The folder to convert: Hugging Face's, with model.safetensors or pytorch_model.bin or the shards "
                    "and index of either."},
    [OPT_DELTA_BASE] = {"delta-base", "DIR", WHAT,
                        "The weights of --model are a delta: add those of the folder DIR, which it was made against."},
    [OPT_STORE_DTYPE] = {"dtype", "TYPE", WHAT,
                         "Store floating-point tensors as f32, f16 or bf16. Default: each in its own type."},
    [OPT_NEW_FOLDER] = {"out", "DIR", RESULT, "The folder to make; it must not exist yet."},
    [OPT_REFERENCE] = {"reference", "FILE", WHAT,
                       "Reference activations that tools/verify/reference.py wrote for this folder."},
    [OPT_TOLERANCE] = {"tolerance", "E", WHAT,
                       "Errors up to E pass. Default: 1e-4 in f32, 1e-3 in bf16x2, 5e-2 in bf16 or against a reference "
                       "in 16 bits; ten times as much for cam."},
    [OPT_STUDY_PLAN] = {"plan", "FILE", WHAT, "The study's plan (JSON)."},
    [OPT_DATA] = {"data", "FILE", WHAT, "Examples, one JSON object a line, in place of the plan's."},
    [OPT_IMAGES] = {"images", "DIR", WHAT, "The folder that the examples' pictures are in, in place of the plan's."},
    [OPT_ANALYSES] = {"analyses", "NAMES", WHAT, "Analyses with commas between them, in place of the plan's: flow,cam,cliff."},
    [OPT_STUDY_OUT] = {"out", "PATH", RESULT, "The study's folder to make; the file of `study report`."},
    [OPT_TENSORS] = {"tensors", "GLOBS", RESULT,
                     "Result tensors to keep for every example: none, all, or names and globs with commas between them."},
    [OPT_STUDY_RESUME] = {"resume", NULL, RESULT, "Go on with the study in --out if there is one, which must be of the same plan."},
    [OPT_STUDY_LABEL] = {"label", "NAME", RESULT, "Split the curves of `study report` by this label. Default: by the first few with few values."},
    [OPT_STUDY_RETRY] = {"retry-failed", NULL, RESULT, "Where a study goes on: do again what failed. A new study has nothing that did."},
    [OPT_STRICT] = {"strict", NULL, HOW, "Stop at the first example that cannot be done, instead of recording its error."},
    [OPT_SHARD] = {"shard", "I/N", HOW, "Do examples I, I + N, I + 2 N, ... alone (I from 0)."},
    [OPT_BENCH_DATA] = {"data", "PATH", WHAT,
                        "The official files: a folder, or the one file (POPE's coco_pope_*.json, TextVQA_0.5.1_val.json, JSON "
                        "lines of main objects)."},
    [OPT_BENCH_IMAGES] = {"images", "DIR", WHAT,
                          "Folder of the pictures. Default: that of the data, or its folder \"images\"."},
    [OPT_SPLIT] = {"split", "NAME", WHAT,
                   "Split of the data: random, popular or adversarial (pope; default all), test, val or train (scienceqa; "
                   "default test), val, train or all (chair; default val), val or train (textvqa, COCO's main objects; default val)."},
    [OPT_PREDICTIONS] = {"predictions", "FILE", WHAT,
                         "Score these predictions instead of asking a model: JSON lines or a JSON array of \"question_id\", "
                         "\"id\" or \"image_id\", and \"text\", \"answer\" or \"caption\", as the benchmarks' own scripts take "
                         "them (docs/evaluation.md)."},
    [OPT_PROMPT_STYLE] = {"prompt-style", "NAME", WHAT,
                          "How questions are put: llava or plain (pope), llava or lines (scienceqa), llava, ocr or plain "
                          "(textvqa), detail or describe (chair), plain or word (main-object). Default: the first; ocr where LLaVA's "
                          "question file of TextVQA is."},
    [OPT_RULE] = {"rule", "NAME", WHAT,
                  "Scoring rule, where there are two: llava or opera (pope), llava-ce1aa08 or llava-5200b75 (scienceqa), word or "
                  "contains (main-object). Default: the first."},
    [OPT_LIMIT] = {"limit", "N", WHAT, "The first N examples only."},
    [OPT_BENCH_CLIFF] = {"cliff", NULL, WHAT,
                         "Ask every question with the picture hidden from layer 0, 1, ... on, too, and find the layer from "
                         "which on that costs no more than a point."},
    [OPT_BENCH_STRICT] = {"strict", NULL, WHAT, "Stop at the first bad row or failing example instead of recording it."},
    [OPT_BENCH_TOKENS] = {"max-tokens", "N", WHAT, "Stop an answer after N tokens. Default: the benchmark's (128; chair 512, "
                          "main-object 16)."},
    [OPT_BENCH_OUT] = {"out", "DIR", RESULT,
                       "Folder to make: predictions.jsonl, metrics.json, report.html. Default: none with --predictions, else "
                       "sightline-eval-NAME in the current folder."},
    [OPT_BENCH_FORCE] = {"force", NULL, RESULT, "Replace earlier results of `eval` there."},
    [OPT_BENCH_RESUME] = {"resume", NULL, RESULT,
                          "Go on with interrupted work there: questions that were answered are not asked again. With "
                          "another --rule finished work is judged anew."},
    [OPT_JSON] = {"json", NULL, OTHER,
                  "Print the result as one JSON object on standard output, and nothing else there."},
    [OPT_QUIET] = {"quiet", NULL, OTHER, "No progress and no notices; errors only."},
    [OPT_HELP] = {"help", NULL, OTHER, "This text."},
    [OPT_VERSION] = {"version", NULL, OTHER, "The version."},
};

const sl_analysis_info *cli_command_analysis(const cli_command *command, int i) {
  if (command->analyses[0] && strcmp(command->analyses[0], "*") == 0)
    return i < sl_analysis_count() ? sl_analysis_at(i) : NULL;
  return i < MAX_ANALYSIS && command->analyses[i] ? sl_analysis_find(command->analyses[i]) : NULL;
}

/* A whole number from min to max. */
static bool parse_int(const char *text, int64_t min, int64_t max, int64_t *out) {
  char *end;
  errno = 0;
  const long long value = strtoll(text, &end, 10);
  if (*text == '\0' || *end || errno || strspn(text, "+-0123456789") != strlen(text)) return false;
  if (value < min || value > max) return false;
  *out = value;
  return true;
}

/* Ranges of the options whose value is a whole number. 1024 threads are the backends' limit. */
static const struct {
  int64_t min, max;
} ranges[OPT_COUNT] = {[OPT_MAX_TOKENS] = {1, 65536},
                       [OPT_SEED] = {0, INT64_MAX},
                       [OPT_THREADS] = {1, 1024},
                       [OPT_BATCH_SIZE] = {1, 65536},
                       [OPT_TOP] = {1, 65536},
                       [OPT_LIMIT] = {1, INT32_MAX},
                       [OPT_BENCH_TOKENS] = {1, 65536}};

bool cli_number(const cli_args *args, cli_id id, int64_t *out) {
  if (!args->value[id] || parse_int(args->value[id], ranges[id].min, ranges[id].max, out)) return true;
  cli_error("--%s: expected a whole number from %lld to %lld, found \"%s\"", cli_options[id].name,
            (long long)ranges[id].min, (long long)ranges[id].max, args->value[id]);
  return false;
}

bool cli_duration(const cli_args *args, cli_id id, double *out_s) {
  static const struct {
    const char *unit;
    double s;
  } units[] = {{"", 1}, {"s", 1}, {"min", 60}, {"h", 3600}};
  const char *text = args->value[id];
  char *end = NULL;
  if (!text) return true;
  const double value = strtod(text, &end);
  for (size_t i = 0; end > text && value > 0 && value < 1e7 && i < sizeof units / sizeof *units; i++) {
    if (strcmp(end, units[i].unit) != 0) continue;
    *out_s = value * units[i].s;
    return true;
  }
  cli_error("--%s: expected a time such as 90s, 10min or 2h, found \"%s\"", cli_options[id].name, text);
  return false;
}

/* All options a command takes, in one list: the common ones first, then those of its analyses. */
typedef struct entry {
  const char *name;
  bool has_argument;
  int id;                     /* cli_id, or -1 */
  const sl_option_info *info; /* NULL for a cli_id */
} entry;

static int list_entries(const cli_command *command, entry *list, int capacity) {
  int n = 0;
  for (int id = 0; id < OPT_COUNT && n < capacity; id++) {
    if (command->options & BIT(id))
      list[n++] = (entry){cli_options[id].name, cli_options[id].argument != NULL, id, NULL};
  }
  const sl_analysis_info *analysis;
  for (int i = 0; (analysis = cli_command_analysis(command, i)); i++) {
    for (int k = 0; k < analysis->n_option; k++) {
      const sl_option_info *option = &analysis->options[k];
      bool known = false; /* two analyses may share an option */
      for (int j = 0; j < n; j++) known = known || strcmp(list[j].name, option->name) == 0;
      if (!known && n < capacity) list[n++] = (entry){option->name, option->type != SL_OPTION_FLAG, -1, option};
    }
  }
  return n;
}

static void free_words(char **words) {
  for (char **word = words; word && *word; word++) free(*word);
  free(words);
}

/* Underscores in option names become hyphens; values keep theirs. New strings, because argv is told as given; NULL
 * without memory. */
static char **normalise(int argc, char **argv, const entry *list, int n) {
  char **copy = calloc((size_t)argc + 1, sizeof *copy);
  bool is_value = false, all_values = false;
  for (int i = 0; copy && i < argc; i++) {
    copy[i] = strdup(argv[i]);
    if (!copy[i]) {
      free_words(copy);
      return NULL;
    }
    all_values = all_values || (!is_value && strcmp(copy[i], "--") == 0);
    const bool is_option = !is_value && !all_values && strncmp(copy[i], "--", 2) == 0;
    is_value = false;
    if (!is_option) continue;
    const size_t length = strcspn(copy[i], "=");
    for (size_t k = 2; k < length; k++) copy[i][k] = copy[i][k] == '_' ? '-' : copy[i][k];
    for (int j = 0; j < n && copy[i][length] == '\0'; j++)
      is_value = is_value || (list[j].has_argument && strcmp(list[j].name, copy[i] + 2) == 0);
  }
  return copy;
}

/* "`cam`, `trace`": the commands that have the option. */
static void list_owners(const char *name, char *out, size_t n_bytes) {
  size_t used = 0;
  for (int c = 0; cli_commands[c]; c++) {
    entry list[128];
    const int n = list_entries(cli_commands[c], list, 128);
    for (int i = 0; i < n; i++) {
      if (strcmp(list[i].name, name) == 0 && used < n_bytes)
        used += (size_t)snprintf(out + used, n_bytes - used, "%s`%s`", used ? ", " : "", cli_commands[c]->name);
    }
  }
}

/* An option that this command lacks: who has it, or what was meant. */
static int complain_unknown(const cli_command *command, const char *word, const entry *list, int n) {
  char name[64];
  snprintf(name, sizeof name, "%.*s", (int)strcspn(word, "="), word);
  const char *names[128] = {NULL};
  int n_begin = 0;
  for (int i = 0; i < n && i < 127; i++) {
    names[i] = list[i].name;
    n_begin += strncmp(list[i].name, name, strlen(name)) == 0;
  }
  if (n_begin > 1) {
    cli_error("option --%s is ambiguous for `%s`; write it out", name, command->name);
    return EXIT_USAGE;
  }
  char owners[256] = "";
  list_owners(name, owners, sizeof owners);
  if (*owners) {
    cli_error("`%s` has no option --%s; it belongs to %s", command->name, name, owners);
    return EXIT_USAGE;
  }
  const char *near = cli_nearest(name, names);
  if (near)
    cli_error("`%s` has no option --%s; did you mean --%s?", command->name, name, near);
  else
    cli_error("`%s` has no option --%s; see `sightline %s --help`", command->name, name, command->name);
  return EXIT_USAGE;
}

/* An empty path is a variable of the shell that was never set. */
static bool is_empty_path(const entry *e, const char *value) {
  static const char *const paths[] = {"DIR", "FILE", "PATH"};
  bool path = false;
  for (size_t i = 0; i < sizeof paths / sizeof *paths && e->has_argument; i++)
    path = path || strcmp(cli_options[e->id].argument, paths[i]) == 0;
  return path && *value == '\0';
}

static int keep(cli_args *args, const entry *e, const char *value) {
  if (e->id >= 0) {
    if (is_empty_path(e, value)) {
      cli_error("--%s: expected a path, found an empty text", e->name);
      return EXIT_USAGE;
    }
    args->value[e->id] = value ? value : "";
    return EXIT_DONE;
  }
  if (args->n_analysis_value == MAX_OPTION_VALUE) {
    cli_error("more than %d options", MAX_OPTION_VALUE);
    return EXIT_USAGE;
  }
  value = value ? value : "true";
  /* Texts are for the library to judge: an empty or broken one is no misuse of the command. */
  if (e->info->type != SL_OPTION_TEXT && sl_option_check(e->info, value) != SL_OK) {
    cli_error("%s", sl_error_message());
    return EXIT_USAGE;
  }
  args->analysis_value[args->n_analysis_value++] = (sl_option_value){e->name, value};
  return EXIT_DONE;
}

static int parse_all(cli_args *args, int argc, char **argv, const entry *list, int n) {
  struct option table[128] = {{0}};
  for (int i = 0; i < n; i++)
    table[i] = (struct option){list[i].name, list[i].has_argument ? required_argument : no_argument, NULL, 256 + i};
  opterr = 0;
  optind = 1;
  for (;;) {
    const int code = getopt_long(argc, argv, ":h", table, NULL);
    if (code == -1) break;
    const char *word = argv[optind - 1];
    if (code == 'h') {
      args->value[OPT_HELP] = "";
    } else if (code == ':') {
      cli_error("option %s needs a value", word);
      return EXIT_USAGE;
    } else if (code == '?' && optopt >= 256) {
      cli_error("option --%s takes no value", list[optopt - 256].name);
      return EXIT_USAGE;
    } else if (code == '?' && strncmp(word, "--", 2) == 0) {
      return complain_unknown(args->command, word + 2, list, n);
    } else if (code == '?') {
      cli_error("`%s` has no option -%c; options are words with two hyphens", args->command->name, optopt);
      return EXIT_USAGE;
    } else if (keep(args, &list[code - 256], optarg) != EXIT_DONE) {
      return EXIT_USAGE;
    }
  }
  args->rest = argv + optind;
  args->n_rest = argc - optind;
  return EXIT_DONE;
}

int cli_parse(cli_args *args, const cli_command *command, int argc, char **argv) {
  entry list[127];
  const int n = list_entries(command, list, 127);
  *args = (cli_args){.command = command, .argv = argv, .argc = argc};
  /* argv[0] is the program, argv[1] the command; getopt starts behind the first of its words. */
  args->words = normalise(argc - 1, argv + 1, list, n);
  if (!args->words) {
    cli_error("no memory");
    return EXIT_FAILED;
  }
  return parse_all(args, argc - 1, args->words, list, n);
}

void cli_args_dispose(cli_args *args) { free_words(args->words); /* getopt permutes them, but all are still there */ }
