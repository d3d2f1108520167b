/* sightline info */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static long long whole(const json_t *object, const char *key) {
  return (long long)json_number_value(json_object_get(object, key));
}

static const char *text(const json_t *object, const char *key) {
  const char *value = json_string_value(json_object_get(object, key));
  return value ? value : "";
}

static void print_bytes(const char *label, double bytes) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  for (; bytes >= 1024 && unit < 4; unit++) bytes /= 1024;
  printf("  %-22s %.*f %s\n", label, unit ? 1 : 0, bytes, units[unit]);
}

/* A text with its line ends written out, in at least `width` columns of bytes. */
static void print_line(const char *line, int width) {
  for (; *line; line++) {
    if (*line == '\n')
      fputs("\\n", stdout);
    else
      putchar(*line);
    width -= *line == '\n' ? 2 : 1;
  }
  printf("%*s", width > 0 ? width : 0, "");
}

static void print_part(const char *label, const json_t *part) {
  printf("%-12s %lld layers, %lld heads", label, whole(part, "n_layer"), whole(part, "n_head"));
  if (whole(part, "n_head_kv") != whole(part, "n_head")) printf(" (%lld key/value heads)", whole(part, "n_head_kv"));
  printf(", width %lld, head width %lld, MLP width %lld", whole(part, "d_model"), whole(part, "d_head"),
         whole(part, "d_mlp"));
  if (whole(part, "n_layer_stored") > whole(part, "n_layer"))
    printf("; %lld layers stored", whole(part, "n_layer_stored"));
  putchar('\n');
}

static void print_model(const json_t *root) {
  const json_t *grid = json_object_get(root, "grid"), *vision = json_object_get(root, "vision");
  const json_t *compute = json_object_get(root, "compute"), *weights = json_object_get(root, "weights");
  const json_t *unused = json_object_get(weights, "unused");
  printf("%-12s %s\n", "model", text(root, "path"));
  printf("%-12s %s (%s)\n", "family", text(root, "title"), text(root, "family"));
  if (json_object_get(vision, "path")) printf("%-12s %s (%s)\n", "tower", text(vision, "path"), text(vision, "path_holds"));
  print_part("vision", vision);
  const bool any_size = json_is_true(json_object_get(vision, "any_size"));
  printf("%-12s %s%lld x %lld px, patches of %lld px, %lld x %lld grid, %lld image tokens\n", "picture",
         any_size ? "of any size; for example " : "", whole(vision, "image_px"), whole(vision, "image_px"),
         whole(vision, "patch_px"), whole(grid, "height"), whole(grid, "width"), whole(root, "n_image_token"));
  const json_t *projector = json_object_get(root, "projector");
  if (whole(projector, "n_layer") > 0) print_part("projector", projector);
  printf("%-12s %s, from %lld patches to %lld image tokens\n", whole(projector, "n_layer") > 0 ? "" : "projector",
         text(projector, "kind"), whole(grid, "height") * whole(grid, "width"), whole(root, "n_image_token"));
  print_part("decoder", json_object_get(root, "decoder"));
  printf("%-12s %lld tokens\n", "vocabulary", whole(root, "n_vocab"));
  printf("%-12s ", "template");
  print_line(text(root, "template"), 0);
  printf("\n%-12s %s on %s, %s\n", "compute", text(compute, "mode"), text(compute, "backend"),
         text(compute, "products"));
  const json_t *counted = json_object_get(weights, "unused_count"); /* the names may be fewer: the list has a limit */
  const long long n_unused = counted ? whole(weights, "unused_count") : (long long)json_array_size(unused);
  printf("%-12s %lld tensors used, %lld unused\n", "weights", whole(weights, "found"), n_unused);
  print_bytes("in files", json_number_value(json_object_get(weights, "bytes")));
  print_bytes("in memory", json_number_value(json_object_get(weights, "packed_bytes")));
  for (size_t i = 0; i < json_array_size(unused); i++)
    printf("  unused: %s\n", json_string_value(json_array_get(unused, i)));
  if (n_unused > (long long)json_array_size(unused))
    printf("  unused: %lld more\n", n_unused - (long long)json_array_size(unused));
}

static void print_sites(const json_t *root) {
  const json_t *sites = json_object_get(root, "sites");
  printf("%-40s %-12s %6s %8s %8s  %s\n", "site ({i} = layer)", "shape", "layers", "gradient", "writable",
         "Hugging Face module");
  for (size_t i = 0; i < json_array_size(sites); i++) {
    const json_t *site = json_array_get(sites, i);
    char layers[24] = "";
    if (whole(site, "layers") > 0) snprintf(layers, sizeof layers, "0-%lld", whole(site, "layers") - 1);
    printf("%-40s %-12s %6s %8s %8s  %s\n", text(site, "name"), text(site, "shape"), layers,
           json_is_true(json_object_get(site, "gradient")) ? "yes" : "",
           json_is_true(json_object_get(site, "writable")) ? "yes" : "", text(site, "module"));
  }
  printf("\nPlans (`sightline ask --plan`) can change what is writable.\n");
  printf("T positions, H query heads, Hkv key/value heads, d head width, Q asked rows, V vocabulary.\n");
}

static void print_estimate(const json_t *estimate) {
  print_bytes("key/value cache", json_number_value(json_object_get(estimate, "kv_cache_bytes")));
  print_bytes("at work", json_number_value(json_object_get(estimate, "working_bytes")));
  print_bytes("cam, all kept", json_number_value(json_object_get(estimate, "cam_keep_bytes")));
  print_bytes("cam, recomputing", json_number_value(json_object_get(estimate, "cam_recompute_bytes")));
  printf("%-12s %.3g floating-point operations forward, %.3g more for one cam target\n", "work",
         json_number_value(json_object_get(estimate, "forward_flop")),
         json_number_value(json_object_get(estimate, "cam_flop")) -
             json_number_value(json_object_get(estimate, "forward_flop")));
}

/* Positions of one class after another, image tokens in one line. */
static void print_prompt(const json_t *root) {
  const json_t *tokens = json_object_get(json_object_get(root, "prompt"), "tokens");
  const json_t *estimate = json_object_get(root, "estimate");
  printf("\n%-12s %zu tokens\n", "prompt", json_array_size(tokens));
  for (size_t first = 0, last; first < json_array_size(tokens); first = last) {
    const json_t *token = json_array_get(tokens, first);
    const bool image = strcmp(text(token, "class"), "image") == 0;
    for (last = first + 1; image && last < json_array_size(tokens); last++) {
      if (strcmp(text(json_array_get(tokens, last), "class"), "image") != 0) break;
    }
    char position[32];
    snprintf(position, sizeof position, last - first > 1 ? "%zu-%zu" : "%zu", first, last - 1);
    printf("  %-10s %7lld  ", position, whole(token, "id"));
    print_line(text(token, "piece"), 20);
    printf(" %s%s%s\n", text(token, "class"), *text(token, "role") ? ", " : "", text(token, "role"));
  }
  const long long n_view = whole(estimate, "views");
  printf("\n%-12s for this prompt and a square picture (%lld view%s), besides the weights\n", "memory", n_view,
         n_view == 1 ? "" : "s");
  print_estimate(estimate);
  const json_t *largest = json_object_get(estimate, "largest");
  if (!largest) return;
  printf("\n%-12s for a picture with the most tokens, %lld in %lld view%s (%lld x %lld px, for example)\n", "memory",
         whole(largest, "image_tokens"), whole(largest, "views"), whole(largest, "views") == 1 ? "" : "s",
         whole(largest, "width_px"), whole(largest, "height_px"));
  print_estimate(largest);
}

static int run(const cli_args *args) {
  sl_model *model = NULL;
  char *json = NULL;
  if (args->n_rest > 0) {
    cli_error("`info` takes options only, found \"%s\"; a model folder is given with --model", args->rest[0]);
    return EXIT_USAGE;
  }
  int code = cli_open_model(&model, args);
  if (code != EXIT_DONE) return code;
  code = cli_fail(sl_model_describe(model, args->value[OPT_PROMPT], &json));
  sl_model_close(model);
  if (code != EXIT_DONE) return code;
  if (args->value[OPT_JSON]) {
    puts(json);
  } else {
    json_t *root = json_loads(json, JSON_ALLOW_NUL, NULL);
    if (args->value[OPT_SITES])
      print_sites(root);
    else
      print_model(root);
    if (args->value[OPT_PROMPT]) print_prompt(root);
    json_decref(root);
  }
  free(json);
  return EXIT_DONE;
}

const cli_command cmd_info = {
    .name = "info",
    .line = "What a model is: parts, shapes, weights, sites, and the token layout of a prompt.",
    .usage = "info [--model DIR] [--prompt TEXT] [--sites] [options]",
    .details =
        "Opens the model, checks every tensor, and describes it. With --prompt it shows which position holds what, and "
        "what memory and work that prompt takes. With --sites it lists every place whose values --record can store, "
        "and says where cam can take gradients and a plan can change values.",
    .example = "sightline info --model llava-1.5-7b-hf --prompt \"What is this?\"",
    .options = (WORK_OPTIONS & ~BIT(OPT_SEED)) | BIT(OPT_PROMPT) | BIT(OPT_TEMPLATE) | BIT(OPT_SITES),
    .run = run,
};
