/* sightline report */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* Bytes of the first character; 0 where they are none in UTF-8. */
static size_t character(const char *at) {
  for (size_t n = 1; n <= strnlen(at, 4); n++) {
    json_t *text = json_stringn(at, n);
    json_decref(text);
    if (text) return n;
  }
  return 0;
}

/* A report's name as JSON text: a name is bytes, JSON is UTF-8; U+FFFD stands for what is none. */
static json_t *name_of(const char *dir, const char *slash) {
  static const char unknown[] = "\xef\xbf\xbd";
  char *copy = malloc(strlen(dir) * 3 + 1), *end = copy;
  for (const char *at = dir; copy && *at;) {
    const size_t n = character(at), n_out = n ? n : 3;
    memcpy(end, n ? at : unknown, n_out);
    end += n_out;
    at += n ? n : 1;
  }
  if (copy) *end = '\0';
  json_t *name = copy ? json_sprintf("%s%sreport.html", copy, slash) : NULL;
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
