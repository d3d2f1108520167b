/* What interventions cost: one question under M random masks of heads, B branches at once, in processor time. The
 * public interface alone. Prints one JSON object; tools/performance/run.py calls it with one shape after the other.
 *
 *   bench_cost MODEL PICTURE WORDS MASKS BATCH REPEATS      WORDS: length of the question
 *
 * One thread, and processor time instead of the clock: other programs on the machine disturb that less. They still
 * share caches and memory with it, so the repeats are short and all of them are told. */
#include <sightline/sightline.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "measure.h"

enum { MAX_TEXT = 4096 };

static void must(sl_status status) {
  if (status == SL_OK) return;
  fprintf(stderr, "bench_cost: %s\n", sl_error_message());
  exit(1);
}

static void *need(void *memory) {
  if (memory) return memory;
  fprintf(stderr, "bench_cost: no memory\n");
  exit(1);
}

/* One of two equally likely numbers, 0 or 1: splitmix64 of the index. */
static int coin(unsigned long long index) {
  unsigned long long z = (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (int)((z ^ (z >> 31)) & 1);
}

/* In every layer each head sees the picture with probability 1/2. */
static sl_plan *head_plan(const sl_question_info *q, int number) {
  const size_t room = 256 + (size_t)q->n_layer * (160 + 6 * (size_t)q->n_head);
  char *json = need(malloc(room)), *at = json;
  at += sprintf(at, "{\"attend\": [");
  for (int il = 0; il < q->n_layer; il++) {
    at += sprintf(at, "%s{\"layers\": [%d], \"queries\": \"%d-\", \"keys\": \"%d-%d\", \"source\": \"hidden\", ", il ? ", " : "", il,
                  q->first_row, q->first_image, q->first_image + q->n_image - 1);
    at += sprintf(at, "\"heads\": [");
    for (int h = 0, n = 0; h < q->n_head; h++) {
      if (coin((unsigned long long)number * 1000003u + (unsigned)(il * q->n_head + h))) at += sprintf(at, "%s%d", n++ ? ", " : "", h);
    }
    at += sprintf(at, "]}");
  }
  sprintf(at, "]}");
  sl_plan *plan;
  must(sl_plan_parse(&plan, json, strlen(json)));
  free(json);
  return plan;
}

typedef struct taken {
  int n_plan;
  double sum;
} taken;

static bool take(void *user, int plan, const float *logits) {
  taken *t = user;
  (void)plan;
  t->n_plan++;
  t->sum += (double)logits[17];
  return true;
}

/* One run of all branches, in seconds of processor time. */
static double run(const sl_branches *branches) {
  taken t = {0};
  sl_branches request = *branches;
  request.user = &t;
  const double start = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
  must(sl_branches_logits(&request));
  const double seconds = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - start;
  if (t.n_plan == request.n_plan && t.sum == t.sum) return seconds;
  fprintf(stderr, "bench_cost: not every branch gave numbers\n");
  exit(1);
}

static sl_question *ask(sl_scene *scene, int n_word) {
  char text[MAX_TEXT] = "";
  const sl_question_options options = {.size = sizeof options, .answer = "cat"};
  for (int i = 0; i < n_word; i++) strcat(text, i ? " cat" : "cat");
  sl_question *question;
  must(sl_question_new(&question, scene, text, &options));
  return question;
}

int main(int argc, char **argv) {
  if (argc != 7) {
    fprintf(stderr, "usage: bench_cost MODEL PICTURE WORDS MASKS BATCH REPEATS\n");
    return 2;
  }
  const int n_word = atoi(argv[3]), n_mask = atoi(argv[4]), batch = atoi(argv[5]), n_repeat = atoi(argv[6]);
  if (n_word < 1 || n_word >= MAX_TEXT / 4 || n_mask < 1 || batch < 1 || n_repeat < 1) return 2;
  sl_model *model;
  sl_scene *scene;
  const sl_model_options options = {.size = sizeof options, .compute = "bf16", .n_thread = 1};
  const sl_scene_options scene_options = {.size = sizeof scene_options, .n_thread = 1};
  must(sl_model_open(&model, argv[1], &options));
  must(sl_scene_open(&scene, model, argv[2], &scene_options));
  sl_question *question = ask(scene, n_word);
  sl_question_info info = {.size = sizeof info};
  must(sl_question_get_info(question, &info));
  const sl_plan **plans = need(calloc((size_t)n_mask, sizeof *plans));
  for (int i = 0; i < n_mask; i++) plans[i] = head_plan(&info, i);
  const sl_branches branches = {.size = sizeof branches, .question = question, .plans = plans, .n_plan = n_mask,
                                .batch_size = batch, .take = take};
  reset_peak();
  const double before = status_bytes("VmRSS:");
  run(&branches); /* warm */
  const double peak = status_bytes("VmHWM:") - before;
  printf("{\"layers\": %d, \"heads\": %d, \"image\": %d, \"before\": %d, \"rows\": %d, \"vocabulary\": %d, "
         "\"masks\": %d, \"batch\": %d, \"peak_bytes\": %.0f, \"seconds\": [",
         info.n_layer, info.n_head, info.n_image, info.first_row, info.n_prompt - info.first_row, info.n_vocab, n_mask,
         batch, peak);
  for (int i = 0; i < n_repeat; i++) printf("%s%.6f", i ? ", " : "", run(&branches));
  printf("]}\n");
  for (int i = 0; i < n_mask; i++) sl_plan_free((sl_plan *)plans[i]);
  free(plans);
  sl_question_free(question);
  sl_scene_close(scene);
  sl_model_close(model);
  return 0;
}
