/* The sightline command: finds the command, parses its options, runs it. */
#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

const cli_command *const cli_commands[] = {&cmd_info,    &cmd_ask,    &cmd_trace,  &cmd_flow,     &cmd_cam,
                                           &cmd_cliff,   &cmd_heads,  &cmd_tokens, &cmd_knockout, &cmd_lens,
                                           &cmd_compare, &cmd_report, &cmd_convert, &cmd_verify, &cmd_study,
                                           &cmd_eval,    NULL};

static sl_cancel *cancel;

sl_cancel *cli_cancel(void) { return cancel; }

static void on_signal(int number) {
  (void)number;
  sl_cancel_request(cancel);
}

/* The first signal asks the work to stop and keep what is complete; the same one again ends the process. */
sl_status cli_catch_signals(void) {
  const sl_status status = sl_cancel_new(&cancel);
  if (status != SL_OK) return status;
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  return SL_OK;
}

void cli_error(const char *format, ...) {
  va_list arguments;
  cli_progress_end();
  fputs("sightline: ", stderr);
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
}

int cli_fail(sl_status status) {
  if (status == SL_OK) return EXIT_DONE;
  cli_error("%s", sl_error_message());
  return status == SL_ERROR_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILED;
}

int cli_finish_output(int code) {
  if (fflush(stdout) == 0 && !ferror(stdout)) return code;
  cli_error("standard output: cannot write to it");
  return code == EXIT_DONE ? EXIT_FAILED : code;
}

static int unknown_command(const char *word) {
  const char *names[32] = {NULL};
  for (int c = 0; cli_commands[c]; c++) names[c] = cli_commands[c]->name;
  const char *near = cli_nearest(word, names);
  if (near)
    cli_error("there is no command `%s`; did you mean `%s`?", word, near);
  else
    cli_error("there is no command `%s`; `sightline --help` lists them", word);
  return EXIT_USAGE;
}

static int run_parsed(const cli_args *args) {
  if (args->value[OPT_HELP]) {
    cli_print_help(stdout, args->command);
    return EXIT_DONE;
  }
  if (args->value[OPT_VERSION]) {
    printf("sightline %s\n", sl_version());
    return EXIT_DONE;
  }
  const sl_status status = cli_catch_signals();
  if (status != SL_OK) return cli_fail(status);
  const int code = args->command->run(args);
  cli_progress_end();
  return code;
}

static int run_command(const cli_command *command, int argc, char **argv) {
  cli_args args;
  int code = cli_parse(&args, command, argc, argv);
  if (code == EXIT_DONE) code = run_parsed(&args);
  cli_args_dispose(&args);
  return code;
}

static int dispatch(int argc, char **argv) {
  if (argc < 2) {
    cli_print_help(stderr, NULL);
    return EXIT_USAGE;
  }
  const char *word = argv[1];
  if (strcmp(word, "--version") == 0) {
    printf("sightline %s\n", sl_version());
    return EXIT_DONE;
  }
  const bool help = strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
  if (help && argc == 2) {
    cli_print_help(stdout, NULL);
    return EXIT_DONE;
  }
  if (help) word = argv[2]; /* sightline help cam */
  for (int c = 0; cli_commands[c]; c++) {
    if (strcmp(word, cli_commands[c]->name) != 0) continue;
    if (!help) return run_command(cli_commands[c], argc, argv);
    cli_print_help(stdout, cli_commands[c]);
    return EXIT_DONE;
  }
  if (word[0] == '-') {
    cli_error("expected a command before %s; `sightline --help` lists them", word);
    return EXIT_USAGE;
  }
  return unknown_command(word);
}

/* A standard stream that was closed (2>&-) is held open, unwritable: a result's file must not get its number. */
static void hold_streams(void) {
  int fd;
  do fd = open("/dev/null", O_RDONLY);
  while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) close(fd);
}

int main(int argc, char **argv) {
  hold_streams();
  setlocale(LC_ALL, "");
  setlocale(LC_NUMERIC, "C"); /* numbers are the same everywhere */
  const int code = cli_finish_output(dispatch(argc, argv));
  signal(SIGINT, SIG_DFL); /* a late one must not find what is freed */
  signal(SIGTERM, SIG_DFL);
  sl_cancel_free(cancel);
  return code;
}
