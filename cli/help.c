/* Help texts, made from the tables. */
#include <ctype.h>
#include <string.h>

#include "cli.h"

#define WIDTH 100

/* Words of `text` in lines of at most WIDTH columns; a line break in the text is a paragraph. The first line goes on
 * where the cursor stands, at `column`; later ones are indented by `indent`. */
static void print_wrapped(FILE *to, const char *text, int indent, int column) {
  bool fresh = true;
  while (*text) {
    if (*text == '\n') {
      fprintf(to, "\n%*s", indent, "");
      column = indent;
      fresh = true;
      text++;
      continue;
    }
    if (*text == ' ') {
      text++;
      continue;
    }
    const int length = (int)strcspn(text, " \n");
    if (!fresh && column + 1 + length > WIDTH) {
      fprintf(to, "\n%*s", indent, "");
      column = indent;
      fresh = true;
    }
    column += fprintf(to, "%s%.*s", fresh ? "" : " ", length, text);
    fresh = false;
    text += length;
  }
  fputc('\n', to);
}

static void print_option(FILE *to, const char *name, const char *argument, const char *help) {
  char head[64];
  snprintf(head, sizeof head, "  --%s%s%s", name, argument ? " " : "", argument ? argument : "");
  const int length = fprintf(to, "%s", head);
  if (length < 28) {
    fprintf(to, "%*s", 28 - length, "");
  } else {
    fprintf(to, "\n%28s", "");
  }
  print_wrapped(to, help, 28, 28);
}

static void print_group(FILE *to, const cli_command *command, const char *group) {
  bool any = false;
  for (int id = 0; id < OPT_COUNT; id++) {
    if (!(command->options & BIT(id)) || strcmp(cli_options[id].group, group) != 0) continue;
    if (!any) fprintf(to, "\n%s\n", group);
    any = true;
    print_option(to, cli_options[id].name, cli_options[id].argument, cli_options[id].help);
  }
}

/* The help text with choices and default. */
static void print_analysis_option(FILE *to, const sl_option_info *o) {
  char help[1024];
  int n = snprintf(help, sizeof help, "%s", o->help);
  if (o->choices && n < (int)sizeof help) {
    n += snprintf(help + n, sizeof help - (size_t)n, " One of");
    for (int c = 0; o->choices[c] && n < (int)sizeof help; c++)
      n += snprintf(help + n, sizeof help - (size_t)n, "%s %s", c ? "," : "", o->choices[c]);
    if (n < (int)sizeof help) n += snprintf(help + n, sizeof help - (size_t)n, ".");
  }
  if (o->fallback && o->type != SL_OPTION_FLAG && n < (int)sizeof help)
    snprintf(help + n, sizeof help - (size_t)n, " Default %s.", o->fallback);
  print_option(to, o->name, o->argument, help);
}

/* True when one of the command's first n analyses has an option of that name: it then means the same. */
static bool is_explained(const cli_command *command, int n, const char *name) {
  for (int i = 0; i < n; i++) {
    const sl_analysis_info *analysis = cli_command_analysis(command, i);
    for (int k = 0; k < analysis->n_option; k++)
      if (strcmp(analysis->options[k].name, name) == 0) return true;
  }
  return false;
}

static void print_analysis_options(FILE *to, const cli_command *command, int index) {
  const sl_analysis_info *analysis = cli_command_analysis(command, index);
  char heading[512], shared[512] = "";
  size_t used = 0;
  snprintf(heading, sizeof heading, "Options of %s (%s)", analysis->name, analysis->source);
  fputc('\n', to);
  print_wrapped(to, heading, 0, 0);
  for (int i = 0; i < analysis->n_option; i++) {
    const char *name = analysis->options[i].name;
    if (!is_explained(command, index, name))
      print_analysis_option(to, &analysis->options[i]);
    else if (used < sizeof shared)
      used += (size_t)snprintf(shared + used, sizeof shared - used, "%s --%s", used ? "," : "", name);
  }
  if (!used) return;
  fputs("  as above: ", to);
  print_wrapped(to, shared, 4, 12);
}

static void print_overview(FILE *to) {
  fprintf(to, "sightline %s: how an image becomes an answer inside a vision-language model\n\n", sl_version());
  fprintf(to, "usage: sightline COMMAND [options]\n\n");
  for (int c = 0; cli_commands[c]; c++) fprintf(to, "  %-9s %s\n", cli_commands[c]->name, cli_commands[c]->line);
  fprintf(to, "\nFirst steps\n");
  fprintf(to, "  sightline trace --image cat.png --prompt \"What is the main object in the image?\"\n");
  fprintf(to, "  then open sightline-trace-cat/report.html in a browser.\n\n");
  print_wrapped(to,
                "`sightline COMMAND --help` explains a command. Hyphens and underscores in option names are the same. "
                "Without --model the small model that comes with sightline is used.",
                0, 0);
  fputc('\n', to);
  print_wrapped(to,
                "Exit codes: 0 done, 1 failed, 2 bad usage (an unknown command, option or choice, a missing required "
                "option, a malformed number), 130 interrupted (what was complete is kept).",
                0, 0);
}

void cli_print_help(FILE *to, const cli_command *command) {
  if (!command) {
    print_overview(to);
    return;
  }
  fprintf(to, "usage: sightline %s\n\n", command->usage);
  print_wrapped(to, command->line, 0, 0);
  fputc('\n', to);
  print_wrapped(to, command->details ? command->details : cli_command_analysis(command, 0)->details, 0, 0);
  if (command->example) fprintf(to, "\nExample\n  %s\n", command->example);
  print_group(to, command, "What to ask");
  for (int i = 0; cli_command_analysis(command, i); i++) print_analysis_options(to, command, i);
  print_group(to, command, "Where results go");
  print_group(to, command, "How it runs");
  print_group(to, command, "Output and help");
}
