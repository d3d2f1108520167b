/* sightline report */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* A file's name as JSON text: a name is bytes, JSON is UTF-8; where it is none, "?" stands for what is not ASCII. */
static json_t *name_of(const char *dir, const char *slash) {
  json_t *name = json_sprintf("%s%sreport.html", dir, slash);
  char *copy = name ? NULL : strdup(dir);
  for (char *c = copy; c && *c; c++)
    if ((unsigned char)*c >= 0x80) *c = '?';
  if (copy) name = json_sprintf("%s%sreport.html", copy, slash);
  free(copy);
  return name;
}

static int run(const cli_args *args) {
  json_t *written = json_array();
  int code = EXIT_DONE;
  if (args->n_rest == 0) {
    cli_error("`report` needs a run directory; see `sightline report --help`");
    code = EXIT_USAGE;
  }
  for (int i = 0; i < args->n_rest && code == EXIT_DONE; i++) {
    if (*args->rest[i]) continue;
    cli_error("`report` takes run directories, found an empty text");
    code = EXIT_USAGE;
  }
  for (int i = 0; i < args->n_rest && code == EXIT_DONE; i++) {
    const char *dir = args->rest[i];
    code = cli_fail(sl_report_build(dir));
    if (code != EXIT_DONE) break;
    const char *slash = dir[strlen(dir) - 1] == '/' ? "" : "/";
    json_array_append_new(written, name_of(dir, slash));
    if (!args->value[OPT_JSON]) printf("%s%sreport.html\n", dir, slash);
  }
  if (code == EXIT_DONE && args->value[OPT_JSON]) {
    json_t *out = json_pack("{s:O}", "reports", written);
    json_dumpf(out, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(out);
  }
  json_decref(written);
  return code;
}

const cli_command cmd_report = {
    .name = "report",
    .line = "Rebuild report.html and the overlay pictures of run directories.",
    .usage = "report DIR... [options]",
    .details =
        "Reads run.json, tensors.safetensors and images/ of each run directory and writes report.html and the overlays "
        "anew, for instance with a newer sightline. No model is needed. Prints the files' names.",
    .example = "sightline report sightline-trace-cat",
    .options = BIT(OPT_JSON) | BIT(OPT_QUIET) | BIT(OPT_HELP) | BIT(OPT_VERSION),
    .run = run,
};
