/* The truncation sweep in some lines: the picture hidden from every layer on, all sweeps of a question in one batch,
 * two questions over one run of the picture.
 *
 *   cc branches.c $(pkg-config --cflags --libs sightline) -o branches
 *   ./branches MODEL_FOLDER PICTURE */
#include <sightline/sightline.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TOKEN = 8 };

static void must(sl_status status) {
  if (status == SL_OK) return;
  fprintf(stderr, "%s\n", sl_error_message());
  exit(1);
}

/* "From layer `first` on, no position after the picture sees it." */
static sl_plan *hide_picture(const sl_question_info *q, int first) {
  char json[256];
  sl_plan *plan;
  snprintf(json, sizeof json,
           "{\"attend\": [{\"layers\": \"%d-\", \"queries\": \"%d-\", \"keys\": \"%d-%d\", \"source\": \"hidden\"}]}",
           first, q->first_row, q->first_image, q->first_image + q->n_image - 1);
  must(sl_plan_parse(&plan, json, strlen(json)));
  return plan;
}

static void sweep(sl_scene *scene, const char *text) {
  sl_question *question;
  sl_question_info info = {.size = sizeof info};
  must(sl_question_new(&question, scene, text, NULL));
  must(sl_question_get_info(question, &info));
  printf("%s %s\n", text, info.answer);

  const int n = info.n_layer;
  sl_plan **plans = calloc((size_t)n, sizeof *plans);
  int32_t *ids = calloc((size_t)n * MAX_TOKEN, sizeof *ids);
  int *n_id = calloc((size_t)n, sizeof *n_id);
  if (!plans || !ids || !n_id) exit(1);
  for (int il = 0; il < n; il++) plans[il] = hide_picture(&info, il);
  const sl_branches branches = {
      .size = sizeof branches, .question = question, .plans = (const sl_plan *const *)plans, .n_plan = n};
  must(sl_branches_answer(&branches, MAX_TOKEN, ids, n_id));
  for (int il = 0; il < n; il++) {
    char *answer;
    must(sl_question_decode(question, ids + il * MAX_TOKEN, n_id[il], &answer));
    printf("  hidden from layer %2d on: %s\n", il, answer);
    free(answer);
    sl_plan_free(plans[il]);
  }
  free(plans);
  free(ids);
  free(n_id);
  sl_question_free(question);
}

int main(int argc, char **argv) {
  sl_model *model;
  sl_scene *scene;
  if (argc != 3) {
    fprintf(stderr, "usage: %s MODEL_FOLDER PICTURE\n", argv[0]);
    return 2;
  }
  must(sl_model_open(&model, argv[1], NULL));
  must(sl_scene_open(&scene, model, argv[2], NULL));
  sweep(scene, "What is the main object in the image?");
  sweep(scene, "Is there a cat in the image? Answer yes or no.");
  sl_scene_close(scene);
  sl_model_close(model);
  return 0;
}
