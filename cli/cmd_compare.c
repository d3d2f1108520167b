/* sightline compare */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* DIR, DIR=CLASS or DIR=CLASS,APPEARANCE, cut into copies of its parts. A folder whose name holds "=" is written with a
 * "/" at its end: an "=" with a "/" or nothing behind it belongs to the name. */
typedef struct part {
  char *text; /* owned; dir, class and appearance point into it */
  const char *dir, *class, *appearance;
} part;

static int no_memory(void) {
  cli_error("no memory");
  return EXIT_FAILED;
}

static bool cut(part *p, const char *given) {
  p->text = strdup(given);
  if (!p->text) return false;
  p->dir = p->text;
  char *equals = strrchr(p->text, '=');
  if (!equals || equals == p->text || !equals[1] || strchr(equals, '/')) return true;
  *equals = '\0';
  p->class = equals + 1;
  char *comma = strchr(equals + 1, ',');
  if (!comma) return true;
  *comma = '\0';
  if (comma[1]) p->appearance = comma + 1;
  return true;
}

static double number_at(const json_t *of, const char *key) { return json_number_value(json_object_get(of, key)); }

static void print_contrast(const json_t *like, const char *name, const char *what) {
  const json_t *test = json_object_get(like, name);
  if (!json_is_number(json_object_get(test, "value"))) return; /* no such pairs, or not defined */
  printf("  %-52s %+.3f  ", what, number_at(test, "value"));
  if (json_is_number(json_object_get(test, "low")))
    printf("[%+.3f, %+.3f]", number_at(test, "low"), number_at(test, "high"));
  else
    printf("no interval: too few runs");
  if (json_is_number(json_object_get(test, "p"))) printf("  p = %.4f", number_at(test, "p"));
  putchar('\n');
}

static void print_result(const char *summary) {
  static const char *const likes[][2] = {{"cosine", "cosine of head scores"},
                                         {"spearman", "rank correlation of head scores"},
                                         {"jaccard", "share of common top heads"}};
  json_t *root = json_loads(summary, JSON_ALLOW_NUL, NULL);
  const json_t *said = json_object_get(json_object_get(root, "analyses"), "compare");
  printf("%zu runs\n", json_array_size(json_object_get(said, "runs")));
  for (size_t k = 0; k < sizeof likes / sizeof *likes; k++) {
    const json_t *like = json_object_get(said, likes[k][0]), *half = json_object_get(like, "split_half");
    const json_t *mean = json_object_get(like, "mean"), *ceiling = json_object_get(like, "ceiling");
    printf("%s: ", likes[k][1]);
    if (json_is_number(mean))
      printf("%.3f on average", json_number_value(mean));
    else
      printf("not defined");
    if (json_is_number(half)) printf("; two halves of one run's masks: %.3f", json_number_value(half));
    if (json_is_number(ceiling)) printf(" (all of its masks: %.3f)", json_number_value(ceiling));
    putchar('\n');
    print_contrast(like, "class", "same class - other class");
    print_contrast(like, "appearance", "in a class: same appearance - other appearance");
    print_contrast(like, "semantics", "same class, other look - other class, same look");
    const json_t *partial = json_object_get(like, "partial");
    print_contrast(partial, "class_given_visual", "partial correlation with class, given the look");
    print_contrast(partial, "visual_given_class", "partial correlation with the look, given class");
  }
  json_decref(root);
}

/* Fills the request from the command line; EXIT_DONE, or an exit code after a message. */
static int make_request(const cli_args *args, sl_compare_request *r, part *parts, const char **texts) {
  int64_t seed = 0, n_top = 0;
  const int n = args->n_rest;
  if (n < 2) {
    cli_error("`compare` needs two run directories or more; see `sightline compare --help` (`sightline study report` compares the "
              "examples of a study)");
    return EXIT_USAGE;
  }
  if (!cli_number(args, OPT_SEED, &seed) || !cli_number(args, OPT_TOP, &n_top)) return EXIT_USAGE;
  for (int i = 0; i < n; i++) {
    if (!cut(&parts[i], args->rest[i])) return no_memory();
    texts[i] = parts[i].dir;
    texts[n + i] = parts[i].class;
    texts[2 * n + i] = parts[i].appearance;
  }
  *r = (sl_compare_request){.size = sizeof *r,
                            .command = (const char *const *)args->argv,
                            .n_command = args->argc,
                            .runs = texts,
                            .n_run = n,
                            .classes = texts + n,
                            .appearances = texts + 2 * n,
                            .labels_path = args->value[OPT_LABELS],
                            .n_top = (int)n_top,
                            .out_dir = args->value[OPT_OUT] ? args->value[OPT_OUT] : "sightline-compare",
                            .force = args->value[OPT_FORCE] != NULL,
                            .no_report = args->value[OPT_NO_REPORT] != NULL,
                            .seed = (uint64_t)seed,
                            .progress = cli_progress,
                            .log = cli_log,
                            .user = (void *)args,
                            .cancel = cli_cancel()};
  return EXIT_DONE;
}

static int run(const cli_args *args) {
  const size_t n = (size_t)args->n_rest;
  part *parts = calloc(n + 1, sizeof *parts);
  const char **texts = calloc(3 * n + 1, sizeof *texts);
  sl_compare_request request;
  char *summary = NULL;
  int code = parts && texts ? EXIT_DONE : no_memory();
  if (code == EXIT_DONE) code = make_request(args, &request, parts, texts);
  if (code == EXIT_DONE) {
    const sl_status status = sl_compare(&request, &summary);
    cli_progress_end();
    if (summary && args->value[OPT_JSON]) puts(summary);
    if (summary && !args->value[OPT_JSON]) print_result(summary);
    if (status == SL_OK && !args->value[OPT_QUIET] && !args->value[OPT_JSON])
      fprintf(stderr, "sightline: results in %s%s\n", request.out_dir, request.no_report ? "" : "/report.html");
    code = cli_fail(status);
  }
  for (size_t i = 0; parts && i < n; i++) free(parts[i].text);
  free(parts);
  free(texts);
  free(summary);
  return code;
}

const cli_command cmd_compare = {
    .name = "compare",
    .line = "Compare the head scores of many runs: do pictures of one kind use the same heads?",
    .usage = "compare DIR[=CLASS[,APPEARANCE]]... [options]",
    .details =
        "Reads the head scores of each run directory (made by `heads` or `trace`, all of one model, target and "
        "baseline) and measures how alike every two are: cosine, rank correlation, share of common top heads. Beside "
        "it stands the ceiling that sampling leaves: the likeness of scores fitted to either half of one run's masks, and "
        "what that comes to for all of its masks (Spearman and Brown).\n"
        "CLASS says what a picture shows, APPEARANCE how (photo, drawing); or give them with --labels. Then the "
        "differences within and between are tested by permuting labels over runs, with bootstrap intervals over runs; "
        "and, where the runs hold the tower's features (image.feature), class and look are told apart by partial "
        "correlation.",
    .example = "sightline compare runs/cat1=cat,photo runs/cat2=cat,drawing runs/dog1=dog,photo runs/dog2=dog,drawing",
    .options = BIT(OPT_LABELS) | BIT(OPT_TOP) | BIT(OPT_OUT) | BIT(OPT_FORCE) | BIT(OPT_NO_REPORT) | BIT(OPT_SEED) |
               BIT(OPT_JSON) | BIT(OPT_QUIET) | BIT(OPT_HELP) | BIT(OPT_VERSION),
    .run = run,
};
