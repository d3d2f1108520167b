/* Finding and opening the model. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

#define BUNDLED "pocket-llava"

/* Folder of the running program, without the last slash; "" when it cannot be known. */
static void program_dir(char out[PATH_MAX]) {
  const ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
  out[n > 0 ? n : 0] = '\0';
  char *slash = strrchr(out, '/');
  if (slash) *slash = '\0';
}

static bool holds_model(const char *dir) {
  char path[PATH_MAX + 16];
  snprintf(path, sizeof path, "%s/config.json", dir);
  return access(path, R_OK) == 0;
}

const char *cli_model_path(const cli_args *args, char *buffer, size_t n_bytes) {
  if (args->value[OPT_MODEL]) return args->value[OPT_MODEL];
  const char *variable = getenv("SIGHTLINE_MODEL");
  if (variable && *variable) return variable;
  /* Installed (PREFIX/bin), built inside the source tree (build/), built beside it. */
  static const char *const places[] = {"%s/../share/sightline/models/" BUNDLED, "%s/../models/" BUNDLED,
                                       "%s/models/" BUNDLED};
  char dir[PATH_MAX];
  program_dir(dir);
  for (size_t i = 0; i < sizeof places / sizeof *places && *dir; i++) {
    if (snprintf(buffer, n_bytes, places[i], dir) >= (int)n_bytes || !holds_model(buffer)) continue;
    char *plain = realpath(buffer, NULL); /* without the "..", which reports would show */
    if (plain) snprintf(buffer, n_bytes, "%s", plain);
    free(plain);
    return buffer;
  }
  snprintf(buffer, n_bytes, "%s/" BUNDLED, CLI_MODEL_DIR);
  if (holds_model(buffer)) return buffer;
  cli_error("no model: the bundled one is neither beside %s nor in %s; give a Hugging Face folder with --model or "
            "$SIGHTLINE_MODEL", *dir ? dir : "the program", CLI_MODEL_DIR);
  return NULL;
}

/* True when the folder is there; else false after a message, which knows names of the hub: "llava-hf/llava-1.5-7b-hf". */
static bool is_folder(const char *path) {
  struct stat info;
  if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) return true;
  const char *slash = strchr(path, '/');
  const bool exists = stat(path, &info) == 0;
  if (!exists && slash && slash > path && slash[1] && !strchr(slash + 1, '/') && !strchr("./~", *path))
    cli_error("%s: no such folder; if it is a name on the Hugging Face hub, fetch it first: hf download %s --local-dir DIR",
              path, path);
  else
    cli_error("%s: %s", path, exists ? "expected a model's folder, found a file" : "no such folder");
  return false;
}

/* --template with its "\\n" as line ends: new string, or NULL without one. */
static char *read_template(const cli_args *args) {
  const char *given = args->value[OPT_TEMPLATE];
  char *text = given ? strdup(given) : NULL, *to = text;
  for (const char *at = text; at && *at; to++) {
    const bool end = at[0] == '\\' && at[1] == 'n';
    *to = end ? '\n' : *at;
    at += end ? 2 : 1;
  }
  if (to) *to = '\0';
  return text;
}

int cli_open_model(sl_model **out, const cli_args *args) {
  char buffer[PATH_MAX + 64];
  int64_t n_thread = 0;
  *out = NULL;
  if (!cli_number(args, OPT_THREADS, &n_thread)) return EXIT_USAGE;
  const char *path = cli_model_path(args, buffer, sizeof buffer);
  if (!path || !is_folder(path)) return EXIT_FAILED;
  char *template = read_template(args);
  if (args->value[OPT_TEMPLATE] && !template) {
    cli_error("no memory");
    return EXIT_FAILED;
  }
  const sl_model_options options = {.size = sizeof options,
                                    .backend = args->value[OPT_DEVICE],
                                    .compute = args->value[OPT_DTYPE],
                                    .n_thread = (int)n_thread,
                                    .progress = cli_progress,
                                    .log = cli_log,
                                    .user = (void *)args,
                                    .vision_model = args->value[OPT_VISION_MODEL],
                                    .prompt_template = template};
  const sl_status status = sl_model_open(out, path, &options);
  free(template);
  cli_progress_end();
  const int code = cli_fail(status);
  /* The library knows the names of devices and modes, and which models need a tower; a wrong choice is bad usage. */
  const bool chosen = args->value[OPT_DEVICE] || args->value[OPT_DTYPE] || args->value[OPT_VISION_MODEL];
  return status == SL_ERROR_ARGUMENT && chosen ? EXIT_USAGE : code;
}
