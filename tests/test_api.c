/* The public interface alone, as a program that links libsightline sees it: scenes, questions, plans and branches
 * against transformers' logits under the same interventions (tests/golden/branch). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sightline/sightline.h"

#define FOLDER SL_SOURCE_DIR "/tests/golden/llava-gqa"
#define GOLDEN SL_SOURCE_DIR "/tests/golden/branch/llava-gqa"
#define WHAT "What is in the picture?"
#define CAT "Is there a cat?"
#define N_ANSWER 3     /* tokens of the golden trunks' answers */
#define TOLERANCE 1e-4 /* of the largest logit */

#define ASSERT_OK(expression)                                                       \
  do {                                                                              \
    if ((expression) != SL_OK) fail_msg("%s: %s", #expression, sl_error_message()); \
  } while (0)

static void assert_fails(sl_status status, sl_status expected, const char *part) {
  assert_int_equal(status, expected);
  if (!strstr(sl_error_message(), part)) fail_msg("expected \"%s\" in \"%s\"", part, sl_error_message());
}

static sl_model *model;

static int open_model(void **state) {
  (void)state;
  const sl_model_options options = {.size = sizeof options, .compute = "f32", .n_thread = 2};
  ASSERT_OK(sl_model_open(&model, FOLDER, &options));
  return 0;
}

static int close_model(void **state) {
  (void)state;
  sl_model_close(model);
  return 0;
}

static sl_scene *open_scene(const char *picture, int n_thread, bool edit_image) {
  const sl_scene_options options = {.size = sizeof options, .n_thread = n_thread, .edit_image = edit_image};
  sl_scene *scene = NULL;
  char path[512];
  snprintf(path, sizeof path, "%s/%s", FOLDER, picture);
  ASSERT_OK(sl_scene_open(&scene, model, path, &options));
  return scene;
}

static sl_question *ask(sl_scene *scene, const char *text, int max_token) {
  const sl_question_options options = {.size = sizeof options, .max_token = max_token};
  sl_question *question = NULL;
  ASSERT_OK(sl_question_new(&question, scene, text, &options));
  return question;
}

static sl_question_info info_of(const sl_question *question) {
  sl_question_info info = {.size = sizeof info};
  ASSERT_OK(sl_question_get_info(question, &info));
  return info;
}

static sl_plan *parse(const char *json) {
  sl_plan *plan = NULL;
  ASSERT_OK(sl_plan_parse(&plan, json, strlen(json)));
  return plan;
}

static sl_plan *parse_json(const json_t *json) {
  char *text = json_dumps(json, 0);
  sl_plan *plan = parse(text);
  free(text);
  return plan;
}

/* All logits that a run hands out, one plan after another. */
typedef struct taken {
  float *logits;
  size_t n_each;
  int n_plan;
} taken;

static bool take(void *user, int plan, const float *logits) {
  taken *t = user;
  assert_int_equal(plan, t->n_plan); /* in order */
  memcpy(t->logits + (size_t)plan * t->n_each, logits, t->n_each * sizeof *logits);
  t->n_plan++;
  return true;
}

static float *run(sl_branches *branches, int n_row) {
  taken t = {.n_each = (size_t)n_row * (size_t)info_of(branches->question).n_vocab};
  t.logits = calloc(t.n_each * (size_t)branches->n_plan, sizeof *t.logits);
  branches->size = sizeof *branches;
  branches->take = take;
  branches->user = &t;
  ASSERT_OK(sl_branches_logits(branches));
  assert_int_equal(t.n_plan, branches->n_plan);
  return t.logits;
}

/* ---- questions ---- */

static void test_questions_share_a_prefix(void **state) {
  (void)state;
  static const char *const texts[] = {WHAT, CAT, "Is it red or blue?"};
  json_error_t error;
  json_t *golden = json_load_file(FOLDER "/golden.json", 0, &error);
  assert_non_null(golden);
  const json_t *c0 = json_object_get(json_object_get(json_object_get(golden, "cases"), "c0"), "greedy");
  sl_scene *scene = open_scene("a.png", 1, false);
  sl_question *questions[3];
  for (int i = 0; i < 3; i++) questions[i] = ask(scene, texts[i], (int)json_array_size(c0));
  const sl_question_info what = info_of(questions[0]);
  assert_int_equal(what.n_token - what.n_prompt, json_array_size(c0));
  for (size_t i = 0; i < json_array_size(c0); i++)
    assert_int_equal(what.ids[what.n_prompt + (int)i], json_integer_value(json_array_get(c0, i)));
  const json_t *text = json_object_get(json_object_get(json_object_get(golden, "cases"), "c0"), "greedy_text");
  assert_string_equal(what.answer, json_string_value(text));
  assert_int_equal(what.first_row, what.first_image + what.n_image);
  assert_string_equal(sl_question_class(questions[0], what.first_image), "image");
  assert_string_equal(sl_question_class(questions[0], what.n_token - 1), "generated");
  assert_null(sl_question_class(questions[0], what.n_token));
  for (int i = 0; i < 3; i++) { /* as if each had been asked alone, to the last bit */
    sl_scene *other = open_scene("a.png", 2, true);
    sl_question *alone = ask(other, texts[i], 8);
    const sl_question_info a = info_of(questions[i]), b = info_of(alone);
    assert_int_equal(a.n_token, b.n_token);
    assert_memory_equal(a.ids, b.ids, (size_t)a.n_token * sizeof *a.ids);
    const size_t n = (size_t)a.n_vocab;
    float *logits = calloc(2 * n, sizeof *logits);
    ASSERT_OK(sl_question_logits(questions[i], &(int){a.n_prompt - 1}, 1, logits));
    ASSERT_OK(sl_question_logits(alone, &(int){a.n_prompt - 1}, 1, logits + n));
    assert_memory_equal(logits, logits + n, n * sizeof *logits);
    free(logits);
    sl_question_free(alone);
    sl_scene_close(other);
  }
  /* Other text before the picture, as many tokens or more, is a prefix of its own, and all live on. */
  const sl_question_options raw = {.size = sizeof raw, .raw_prompt = true, .max_token = 2};
  sl_question *first = NULL, *equal = NULL, *again = ask(scene, WHAT, 8);
  ASSERT_OK(sl_question_new(&first, scene, "USER: What is it? <image> ASSISTANT:", &raw));
  ASSERT_OK(sl_question_new(&equal, scene, "USET: <image>\n" WHAT " ASSISTANT:", &raw));
  assert_int_equal(info_of(first).n_sharing, 1);
  assert_int_equal(info_of(equal).n_sharing, 1);
  assert_int_equal(info_of(again).n_sharing, 4);
  assert_true(info_of(first).first_image > what.first_image);
  assert_int_equal(info_of(equal).first_image, what.first_image);
  assert_memory_equal(info_of(again).ids, what.ids, (size_t)what.n_token * sizeof *what.ids);
  sl_question_free(first);
  sl_question_free(equal);
  sl_question_free(again);
  for (int i = 0; i < 3; i++) sl_question_free(questions[i]);
  sl_scene_close(scene);
  json_decref(golden);
}

/* ---- branches against transformers ---- */

/* A tensor of f32 in a safetensors file; NULL when it is not there. */
static float *read_golden(const char *name, size_t *n) {
  uint64_t n_header = 0;
  FILE *file = fopen(GOLDEN "/golden.safetensors", "rb");
  assert_non_null(file);
  assert_int_equal(fread(&n_header, sizeof n_header, 1, file), 1);
  char *header = calloc(n_header + 1, 1);
  assert_int_equal(fread(header, 1, n_header, file), n_header);
  json_t *root = json_loads(header, 0, NULL), *offsets = json_object_get(json_object_get(root, name), "data_offsets");
  assert_non_null(offsets);
  const long begin = (long)json_integer_value(json_array_get(offsets, 0));
  const size_t n_bytes = (size_t)(json_integer_value(json_array_get(offsets, 1)) - begin);
  float *data = malloc(n_bytes);
  assert_int_equal(fseek(file, (long)(8 + n_header) + begin, SEEK_SET), 0);
  assert_int_equal(fread(data, 1, n_bytes, file), n_bytes);
  *n = n_bytes / sizeof *data;
  json_decref(root);
  free(header);
  fclose(file);
  return data;
}

/* Plans of golden trunk "what" that use what files can make, the first two baselines, and nothing of the other
 * question's golden answer. */
static bool is_usable(const json_t *golden_case) {
  char *text = json_dumps(json_object_get(golden_case, "plan"), 0);
  const bool usable = strcmp(json_string_value(json_object_get(golden_case, "trunk")), "what") == 0 &&
                      !strstr(text, "baseline:2") && !strstr(text, "baseline:3") && !strstr(text, "\"run\": 1");
  free(text);
  return usable;
}

typedef struct stage {
  sl_scene *a, *b;
  sl_question *what, *what_b, *cat;
  const sl_question *runs[2];
  sl_scene_baseline *made[2];
  const sl_scene_baseline *baselines[2];
} stage;

static stage stage_open(int n_thread) {
  stage s = {.a = open_scene("a.png", n_thread, true), .b = open_scene("b.png", n_thread, true)};
  s.what = ask(s.a, WHAT, N_ANSWER);
  s.what_b = ask(s.b, WHAT, N_ANSWER);
  s.cat = ask(s.a, CAT, N_ANSWER);
  s.runs[0] = s.what_b;
  s.runs[1] = s.cat;
  ASSERT_OK(sl_scene_baseline_new(&s.made[0], s.what, "zero"));
  ASSERT_OK(sl_scene_baseline_new(&s.made[1], s.what, "image:" FOLDER "/b.png"));
  for (int i = 0; i < 2; i++) s.baselines[i] = s.made[i];
  return s;
}

static void stage_close(stage *s) {
  for (int i = 0; i < 2; i++) sl_scene_baseline_free(s->made[i]);
  sl_question_free(s->what);
  sl_question_free(s->what_b);
  sl_question_free(s->cat);
  sl_scene_close(s->a);
  sl_scene_close(s->b);
}

static sl_branches branches_of(const stage *s, sl_plan *const *plans, int n_plan) {
  return (sl_branches){.size = sizeof(sl_branches),
                       .question = s->what,
                       .plans = (const sl_plan *const *)plans,
                       .n_plan = n_plan,
                       .baselines = s->baselines,
                       .n_baseline = 2,
                       .runs = s->runs,
                       .n_run = 2};
}

#define MAX_PLAN 256

/* The golden cases that are used: their plans, and their numbers among the trunk's cases. */
static int load_plans(const json_t *golden, sl_plan **plans, int *numbers) {
  int n = 0, number = 0;
  size_t i;
  json_t *item;
  json_array_foreach(json_object_get(golden, "cases"), i, item) {
    if (strcmp(json_string_value(json_object_get(item, "trunk")), "what") != 0) continue;
    if (is_usable(item) && n < MAX_PLAN) {
      numbers[n] = number;
      plans[n++] = parse_json(json_object_get(item, "plan"));
    }
    number++;
  }
  return n;
}

static void test_plans_as_in_transformers(void **state) {
  (void)state;
  json_t *golden = json_load_file(GOLDEN "/golden.json", 0, NULL);
  const json_t *columns = json_object_get(golden, "columns");
  sl_plan *plans[MAX_PLAN];
  int numbers[MAX_PLAN];
  size_t n_value;
  float *expected = read_golden("what/logits", &n_value);
  const int n_plan = load_plans(golden, plans, numbers), n_column = (int)json_array_size(columns);
  assert_in_range(n_plan, 60, MAX_PLAN - 1);
  stage s = stage_open(2);
  /* The golden answer is another one, so the rows before it count: first text row and final prompt row. */
  const int rows[] = {info_of(s.what).first_row, info_of(s.what).n_prompt - 1};
  const int n_vocab = info_of(s.what).n_vocab;
  sl_branches branches = branches_of(&s, plans, n_plan);
  branches.rows = rows;
  branches.n_row = 2;
  float *logits = run(&branches, 2);
  double largest = 0, worst = 0;
  for (size_t i = 0; i < n_value; i++) largest = fmax(largest, fabs((double)expected[i]));
  for (int p = 0; p < n_plan; p++) {
    for (int r = 0; r < 2; r++) {
      for (int c = 0; c < n_column; c++) {
        const int column = (int)json_integer_value(json_array_get(columns, (size_t)c));
        const double found = logits[((size_t)p * 2 + (size_t)r) * (size_t)n_vocab + (size_t)column];
        const double error =
            fabs(found - expected[((size_t)numbers[p] * 3 + (size_t)r) * (size_t)n_column + (size_t)c]);
        if (!(error <= TOLERANCE * largest))
          fail_msg("case %d, row %d, column %d: off by %g", numbers[p], rows[r], column, error);
        worst = fmax(worst, error);
      }
    }
  }
  print_message("%d plans, worst %.2g of the largest logit\n", n_plan, worst / largest);
  free(logits);
  free(expected);
  for (int p = 0; p < n_plan; p++) sl_plan_free(plans[p]);
  stage_close(&s);
  json_decref(golden);
}

/* Each row's most likely token is the answer's next one: it was decoded so. */
static void assert_predicts_answer(const sl_question *question, const float *logits) {
  const sl_question_info q = info_of(question);
  for (int a = 0; a < q.n_token - q.n_prompt; a++) {
    int best = 0;
    for (int v = 1; v < q.n_vocab; v++)
      if (logits[a * q.n_vocab + v] > logits[a * q.n_vocab + best]) best = v;
    assert_int_equal(best, q.ids[q.n_prompt + a]);
  }
}

static void test_same_bits_whatever_batch_and_threads(void **state) {
  (void)state;
  json_t *golden = json_load_file(GOLDEN "/golden.json", 0, NULL);
  sl_plan *plans[MAX_PLAN];
  int numbers[MAX_PLAN];
  const int n_plan = load_plans(golden, plans, numbers);
  float *first = NULL;
  size_t n_bytes = 0;
  static const int batches[] = {0, 1, 7}, threads[] = {1, 2, 2};
  for (int i = 0; i < 3; i++) {
    stage s = stage_open(threads[i]);
    sl_branches branches = branches_of(&s, plans, n_plan);
    branches.batch_size = batches[i];
    float *logits = run(&branches, N_ANSWER); /* rows: those that predict the answer */
    assert_predicts_answer(s.what, logits);   /* the first plan is the empty one */
    n_bytes = (size_t)n_plan * N_ANSWER * (size_t)info_of(s.what).n_vocab * sizeof *logits;
    if (first)
      assert_memory_equal(first, logits, n_bytes);
    else
      first = logits;
    if (first != logits) free(logits);
    stage_close(&s);
  }
  free(first);
  for (int p = 0; p < n_plan; p++) sl_plan_free(plans[p]);
  json_decref(golden);
}

static void test_greedy_answers_under_plans(void **state) {
  (void)state;
  json_t *golden = json_load_file(GOLDEN "/golden.json", 0, NULL), *item;
  sl_plan *plans[MAX_PLAN];
  const json_t *expected[MAX_PLAN];
  int n_plan = 0, n_id[MAX_PLAN];
  size_t i, n_token = 0;
  json_array_foreach(json_object_get(golden, "greedy"), i, item) {
    if (!is_usable(item)) continue;
    expected[n_plan] = json_object_get(item, "ids");
    if (json_array_size(expected[n_plan]) > n_token) n_token = json_array_size(expected[n_plan]);
    plans[n_plan++] = parse_json(json_object_get(item, "plan"));
  }
  assert_in_range(n_plan, 2, MAX_PLAN - 1);
  stage s = stage_open(2);
  const sl_branches branches = branches_of(&s, plans, n_plan);
  int32_t *ids = calloc((size_t)n_plan * n_token, sizeof *ids);
  ASSERT_OK(sl_branches_answer(&branches, (int)n_token, ids, n_id));
  for (int p = 0; p < n_plan; p++) {
    assert_int_equal(n_id[p], json_array_size(expected[p]));
    for (int t = 0; t < n_id[p]; t++)
      assert_int_equal(ids[(size_t)p * n_token + (size_t)t],
                       json_integer_value(json_array_get(expected[p], (size_t)t)));
    char *text = NULL;
    ASSERT_OK(sl_question_decode(s.what, ids + (size_t)p * n_token, n_id[p], &text));
    assert_true(strlen(text) > 0);
    free(text);
    sl_plan_free(plans[p]);
  }
  free(ids);
  stage_close(&s);
  json_decref(golden);
}

/* An empty answer is none: the prompt's last row counts, and answers under plans begin behind it. */
static void test_questions_without_an_answer(void **state) {
  (void)state;
  const sl_question_options none = {.size = sizeof none, .answer = ""};
  const sl_question_options raw = {.size = sizeof raw, .answer = "", .raw_prompt = true};
  sl_scene *scene = open_scene("a.png", 1, false);
  sl_question *asked = ask(scene, WHAT, N_ANSWER), *alone = NULL;
  ASSERT_OK(sl_question_new(&alone, scene, WHAT, &none));
  const sl_question_info with = info_of(asked), without = info_of(alone);
  assert_int_equal(without.n_token, with.n_prompt);
  assert_int_equal(without.n_prompt, with.n_prompt);
  assert_string_equal(without.answer, "");
  sl_plan *empty = parse("{}");
  sl_branches branches = {.question = alone, .plans = (const sl_plan *[]){empty}, .n_plan = 1};
  float *logits = run(&branches, 1), *own = calloc((size_t)with.n_vocab, sizeof *own);
  ASSERT_OK(sl_question_logits(asked, &(int){with.n_prompt - 1}, 1, own));
  assert_memory_equal(logits, own, (size_t)with.n_vocab * sizeof *own);
  int32_t ids[N_ANSWER];
  int n_id = 0;
  ASSERT_OK(sl_branches_answer(&branches, N_ANSWER, ids, &n_id));
  assert_int_equal(n_id, with.n_token - with.n_prompt);
  assert_memory_equal(ids, with.ids + with.n_prompt, (size_t)n_id * sizeof *ids);
  sl_question *nothing = NULL;
  assert_fails(sl_question_new(&nothing, scene, "USER: <image>", &raw), SL_ERROR_ARGUMENT, "ends with the picture");
  assert_null(nothing);
  free(own);
  free(logits);
  sl_plan_free(empty);
  sl_question_free(alone);
  sl_question_free(asked);
  sl_scene_close(scene);
}

/* Whoever hides the picture from all that follows it cannot tell two pictures apart. */
static void test_hidden_pictures_are_equal(void **state) {
  (void)state;
  stage s = stage_open(1);
  sl_plan *plans[] = {parse("{}"),
                      parse("{\"attend\": [{\"queries\": \"24-\", \"keys\": \"8-23\", \"source\": \"hidden\"}]}")};
  const int n_vocab = info_of(s.what).n_vocab, row = info_of(s.what).n_prompt - 1;
  const size_t n = (size_t)n_vocab * sizeof(float);
  float *plain = calloc(1, n), *logits[2];
  for (int i = 0; i < 2; i++) {
    sl_branches branches = branches_of(&s, plans, 2);
    branches.question = i ? s.what_b : s.what;
    branches.rows = &row;
    branches.n_row = 1;
    logits[i] = run(&branches, 1);
    ASSERT_OK(sl_question_logits(branches.question, &row, 1, plain));
    assert_memory_equal(plain, logits[i], n); /* the empty plan */
  }
  assert_memory_not_equal(logits[0], logits[1], n);
  assert_memory_equal(logits[0] + n_vocab, logits[1] + n_vocab, n);
  for (int i = 0; i < 2; i++) {
    free(logits[i]);
    sl_plan_free(plans[i]);
  }
  free(plain);
  stage_close(&s);
}

/* ---- what is wrong is named ---- */

static bool stop(void *user, int plan, const float *logits) {
  (void)user, (void)plan, (void)logits;
  return false;
}

static void test_errors(void **state) {
  (void)state;
  sl_scene *scene = NULL, *blind = open_scene("a.png", 1, false);
  sl_question *question = NULL, *asked = ask(blind, WHAT, 2);
  sl_plan *plan = NULL;
  sl_scene_baseline *baseline = NULL;
  const sl_scene_options bad_scene = {.size = 3};
  const sl_question_options bad_question = {.size = 3};
  sl_question_info bad_info = {.size = 3};
  assert_fails(sl_scene_open(&scene, model, FOLDER "/a.png", &bad_scene), SL_ERROR_ARGUMENT, "size");
  assert_fails(sl_scene_open(&scene, model, FOLDER "/none.png", NULL), SL_ERROR_FILE, "none.png");
  assert_null(scene);
  assert_fails(sl_question_new(&question, blind, WHAT, &bad_question), SL_ERROR_ARGUMENT, "size");
  assert_fails(sl_question_new(&question, blind, "", NULL), SL_ERROR_ARGUMENT, "empty");
  assert_null(question);
  assert_fails(sl_question_get_info(asked, &bad_info), SL_ERROR_ARGUMENT, "size");
  float logit;
  assert_fails(sl_question_logits(asked, &(int){3}, 1, &logit), SL_ERROR_ARGUMENT,
               "row 3; this question has rows 24 to 53");
  char *text = NULL;
  assert_fails(sl_question_decode(asked, &(int32_t){-1}, 1, &text), SL_ERROR_ARGUMENT, "token -1");
  assert_fails(sl_plan_parse(&plan, "{\"attend\": 3}", 13), SL_ERROR_FORMAT, "attend");
  assert_fails(sl_plan_parse(&plan, "{", 1), SL_ERROR_FORMAT, "plan");
  assert_null(plan);
  assert_fails(sl_scene_baseline_new(&baseline, asked, "median"), SL_ERROR_FORMAT, "\"median\"");
  assert_fails(sl_scene_baseline_new(&baseline, asked, "image:/nowhere.png"), SL_ERROR_FILE, "/nowhere.png");
  assert_fails(sl_scene_baseline_new(&baseline, asked, "mean:/nowhere"), SL_ERROR_FILE, "/nowhere");
  assert_null(baseline);
  sl_plan *far =
      parse("{\"attend\": [{\"layers\": \"40\", \"queries\": \"all\", \"keys\": \"all\", \"source\": \"own\"}]}");
  assert_fails(sl_question_check_plan(asked, far, 0, 0), SL_ERROR_ARGUMENT, "layer 40; this model has layers 0 to 2");
  sl_plan *image = parse(
      "{\"edits\": [{\"site\": \"blocks.0.hook_resid_pre\", \"positions\": \"9\", \"op\": \"scale\", \"value\": 0}]}");
  sl_branches b = {
      .size = sizeof b, .question = asked, .plans = (const sl_plan *const *)&far, .n_plan = 1, .take = stop};
  assert_fails(sl_branches_logits(&b), SL_ERROR_ARGUMENT, "layer 40");
  b.plans = (const sl_plan *const *)&image;
  assert_fails(sl_branches_logits(&b), SL_ERROR_ARGUMENT, "9"); /* the scene keeps no rows of the picture */
  sl_plan *empty = parse("{}");
  b.plans = (const sl_plan *const *)&empty;
  assert_fails(sl_branches_logits(&b), SL_ERROR_CANCELLED, "interrupted");
  b.take = NULL;
  assert_fails(sl_branches_logits(&b), SL_ERROR_ARGUMENT, "nobody");
  b.size = 1;
  assert_fails(sl_branches_logits(&b), SL_ERROR_ARGUMENT, "size");
  sl_plan_free(far);
  sl_plan_free(image);
  sl_plan_free(empty);
  sl_question_free(asked);
  sl_scene_close(blind);
}

static void test_plans_print_as_they_parse(void **state) {
  (void)state;
  sl_plan *plan = parse("{\"attend\": [{\"queries\": [18, 19], \"keys\": \"3-17\", \"source\": \"baseline:1\"}]}"),
          *again;
  char *first, *second;
  ASSERT_OK(sl_plan_print(plan, &first));
  again = parse(first);
  ASSERT_OK(sl_plan_print(again, &second));
  assert_string_equal(first, second);
  assert_non_null(strstr(first, "\"queries\": \"18-19\""));
  free(first);
  free(second);
  sl_plan_free(plan);
  sl_plan_free(again);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_questions_share_a_prefix),
      cmocka_unit_test(test_plans_as_in_transformers),
      cmocka_unit_test(test_same_bits_whatever_batch_and_threads),
      cmocka_unit_test(test_greedy_answers_under_plans),
      cmocka_unit_test(test_questions_without_an_answer),
      cmocka_unit_test(test_hidden_pictures_are_equal),
      cmocka_unit_test(test_errors),
      cmocka_unit_test(test_plans_print_as_they_parse),
  };
  return cmocka_run_group_tests(tests, open_model, close_model);
}
