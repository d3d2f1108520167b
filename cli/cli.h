/* What the commands share. The command line uses sightline's public headers only. */
#ifndef SL_CLI_H
#define SL_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "sightline/sightline.h"

/* EXIT_USAGE: what the command line alone shows to be wrong (an unknown command, option or choice, a missing required
 * option, a malformed number); EXIT_FAILED: everything else. */
enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

/* Options that do not belong to an analysis. */
typedef enum cli_id {
  OPT_MODEL, OPT_VISION_MODEL, OPT_IMAGE, OPT_PROMPT, OPT_RAW_PROMPT, OPT_TEMPLATE, OPT_ANSWER, OPT_MAX_TOKENS, OPT_OBJECT_MASK, OPT_OBJECT_THRESHOLD,
  OPT_PLAN, OPT_OUT, OPT_FORCE, OPT_RESUME, OPT_NO_REPORT, OPT_RECORD, OPT_LOGITS, OPT_SITES, OPT_SEED, OPT_DTYPE,
  OPT_DEVICE, OPT_THREADS, OPT_BATCH_SIZE, OPT_BUDGET, OPT_LABELS, OPT_TOP, OPT_SOURCE, OPT_DELTA_BASE, OPT_STORE_DTYPE,
  OPT_NEW_FOLDER, OPT_REFERENCE, OPT_TOLERANCE, OPT_STUDY_PLAN, OPT_DATA, OPT_IMAGES, OPT_ANALYSES, OPT_STUDY_OUT, OPT_TENSORS,
  OPT_STUDY_RESUME, OPT_STUDY_RETRY, OPT_STUDY_LABEL, OPT_STRICT, OPT_SHARD, OPT_BENCH_DATA, OPT_BENCH_IMAGES, OPT_SPLIT,
  OPT_PREDICTIONS, OPT_PROMPT_STYLE, OPT_RULE, OPT_LIMIT, OPT_BENCH_CLIFF, OPT_BENCH_OUT, OPT_BENCH_FORCE, OPT_BENCH_RESUME,
  OPT_BENCH_STRICT, OPT_BENCH_TOKENS, OPT_JSON, OPT_QUIET, OPT_HELP,
  OPT_VERSION, OPT_COUNT
} cli_id;

typedef struct cli_option {
  const char *name, *argument; /* argument NULL = flag */
  const char *group;           /* heading in help */
  const char *help;
} cli_option;

extern const cli_option cli_options[OPT_COUNT];

#define BIT(id) (UINT64_C(1) << (id))
#define WORK_OPTIONS                                                                                      \
  (BIT(OPT_MODEL) | BIT(OPT_VISION_MODEL) | BIT(OPT_SEED) | BIT(OPT_DTYPE) | BIT(OPT_DEVICE) | BIT(OPT_THREADS) | \
   BIT(OPT_JSON) | BIT(OPT_QUIET) | BIT(OPT_HELP) | BIT(OPT_VERSION))
#define ASK_OPTIONS                                                                                                \
  (WORK_OPTIONS | BIT(OPT_IMAGE) | BIT(OPT_PROMPT) | BIT(OPT_RAW_PROMPT) | BIT(OPT_TEMPLATE) |                        \
   BIT(OPT_ANSWER) | BIT(OPT_MAX_TOKENS) |                                                                         \
   BIT(OPT_OUT) | BIT(OPT_FORCE) | BIT(OPT_NO_REPORT) | BIT(OPT_RECORD) | BIT(OPT_LOGITS) | BIT(OPT_BATCH_SIZE))
#define TRACE_OPTIONS (ASK_OPTIONS | BIT(OPT_OBJECT_MASK) | BIT(OPT_OBJECT_THRESHOLD))
#define SAMPLING_OPTIONS (TRACE_OPTIONS | BIT(OPT_RESUME) | BIT(OPT_BUDGET)) /* of commands that draw random masks */

#define MAX_ANALYSIS 32
#define MAX_OPTION_VALUE 256

/* A parsed command line. */
typedef struct cli_args {
  const struct cli_command *command;
  const char *value[OPT_COUNT]; /* last given; NULL = not given; "" for a flag */
  sl_option_value analysis_value[MAX_OPTION_VALUE];
  int n_analysis_value;
  char *const *rest; /* what is not an option */
  int n_rest;
  char **argv;           /* as given */
  int argc;
  char **words;          /* option names in the tables' spelling, in getopt's order; values point into them */
} cli_args;

typedef struct cli_command {
  const char *name;
  const char *line;    /* one line in the list of commands */
  const char *usage;   /* after "sightline " */
  const char *details; /* paragraphs separated by line breaks; NULL = the analysis' own */
  const char *example;
  uint64_t options;    /* BITs of cli_id */
  const char *analyses[MAX_ANALYSIS]; /* whose options it takes and which it runs; "*" = all */
  int (*run)(const cli_args *args);
} cli_command;

extern const cli_command cmd_info, cmd_ask, cmd_trace, cmd_flow, cmd_cam, cmd_cliff, cmd_heads, cmd_tokens;
extern const cli_command cmd_knockout, cmd_lens, cmd_compare, cmd_report, cmd_convert, cmd_verify, cmd_study, cmd_eval;
extern const cli_command *const cli_commands[]; /* NULL-terminated */

/* The i-th analysis of a command; NULL after the last. */
const sl_analysis_info *cli_command_analysis(const cli_command *command, int i);

/* Parses; EXIT_DONE, or an exit code after a message. Dispose of `args` in either case. */
int cli_parse(cli_args *args, const cli_command *command, int argc, char **argv);
void cli_args_dispose(cli_args *args);

/* The number given for an option of that kind (--seed, --threads, ...); *out stays as it is when none was. False after
 * a message. */
bool cli_number(const cli_args *args, cli_id id, int64_t *out);

/* The time given for --budget ("90", "90s", "10min", "1.5h") in seconds, likewise. */
bool cli_duration(const cli_args *args, cli_id id, double *out_s);

/* The best match for a mistyped word, or NULL when nothing is near. `names` is NULL-terminated. */
const char *cli_nearest(const char *word, const char *const *names);

void cli_print_help(FILE *to, const cli_command *command); /* NULL = the list of commands */

/* "sightline: ..." on standard error, one line. */
void cli_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Prints the library's message and gives the exit code of a status. */
int cli_fail(sl_status status);

/* Folder of the model: --model, $SIGHTLINE_MODEL, or the bundled one. NULL after a message. Caller's buffer. */
const char *cli_model_path(const cli_args *args, char *buffer, size_t n_bytes);

/* Opens the model that the options describe, with progress; EXIT_DONE or an exit code after a message. */
int cli_open_model(sl_model **out, const cli_args *args);

/* ask, trace and the commands of one analysis: runs the request and prints the result. */
int cli_run_trace(const cli_args *args);

/* Results for people, from the summary's JSON. */
void cli_print_answer(const json_t *summary);
void cli_print_plan_answer(const json_t *summary);
void cli_print_trace(const json_t *summary);
void cli_print_interventions(const json_t *summary);
void cli_print_eval(const cli_args *args, const char *summary); /* the text of metrics.json */

/* Progress on standard error; `user` is the cli_args. */
bool cli_progress(void *user, const char *what, double done, double total);
/* A study's: `what` may change without beginning a new line; rate and time left are the study's own. */
bool cli_study_progress(void *user, const char *what, const sl_study_state *state);
void cli_progress_end(void);
void cli_log(void *user, const char *message);

/* Ctrl-C. */
sl_status cli_catch_signals(void);
sl_cancel *cli_cancel(void);

/* Flushes standard output; an exit code. */
int cli_finish_output(int code);

#endif
