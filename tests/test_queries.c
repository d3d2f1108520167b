/* Models whose image tokens are learned queries (Q-Former, resampler): what the question and its length change, prompts
 * without a placeholder, folders without an image token, and how tokens are spread over patches. Their numbers are in
 * test_families. */
#include "folder.h"

#include "family_run.h"
#include "analysis/shared.h"
#include "model/branch.h"
#include "sightline/branch.h"
#include "sightline/convert.h"
#include "store/folder.h"
#include "task/picture.h"
#include "task/plan_file.h"

#define BLIP GOLDEN_DIR "/instructblip"
#define QWEN GOLDEN_DIR "/qwen-vl"

static sl_status open_at(sl_model **model, const char *dir) {
  const sl_model_options options = {.size = sizeof options, .backend = "cpu", .compute = "f32", .n_thread = 2};
  return sl_model_open(model, dir, &options);
}

#define EXPECT_ARGUMENT(expression, part)                                                         \
  do {                                                                                            \
    assert_int_equal(expression, SL_ERROR_ARGUMENT);                                              \
    if (!strstr(sl_error_message(), part)) fail_msg("no \"%s\" in: %s", part, sl_error_message()); \
  } while (0)

/* A copy of InstructBLIP's folder, the Q-Former's tokenizer included. */
static folder copy_blip(void) {
  char path[400];
  folder f = folder_copy("instructblip");
  folder_path(&f, "qformer_tokenizer", path);
  assert_int_equal(symlink(BLIP "/qformer_tokenizer", path), 0);
  return f;
}

/* ---- prompts ---- */

/* The placeholder may stand first or be left out; either way the tokens are those of the plain question. */
static void raw_prompts(void **state) {
  (void)state;
  static const char *const texts[] = {"What is in the picture?", "<image>What is in the picture?"};
  sl_model *model = NULL;
  golden g = golden_open("instructblip");
  ASSERT_OK(open_at(&model, BLIP));
  const sl_tensor *ids = golden_find(&g, "c0", "ids"), *question = golden_find(&g, "c0", "qformer.ids");
  for (int i = 0; i < 3; i++) {
    sl_pack pack = {0};
    sl_layout layout = {0};
    ASSERT_OK(sl_pack_square(&pack, model, texts[i % 2]));
    ASSERT_OK(sl_layout_build(&layout, model, &pack, texts[i % 2], i < 2));
    assert_int_equal(layout.n_prompt, ids->shape[0]);
    assert_memory_equal(layout.ids, ids->data, (size_t)layout.n_prompt * sizeof *layout.ids);
    assert_int_equal(pack.n_text, question->shape[0]); /* the placeholder is not part of the question */
    assert_memory_equal(pack.text, question->data, (size_t)pack.n_text * sizeof *pack.text);
    sl_layout_dispose(&layout);
    sl_pack_dispose(&pack);
  }
  sl_layout layout = {0};
  EXPECT_ARGUMENT(sl_layout_build(&layout, model, NULL, "Look: <image>", true), "at byte 6");
  EXPECT_ARGUMENT(sl_layout_build(&layout, model, NULL, "<image> <image>", true), "more than once");
  sl_model_close(model);
  ASSERT_OK(open_at(&model, QWEN)); /* elsewhere it must be there */
  EXPECT_ARGUMENT(sl_layout_build(&layout, model, NULL, "What?", true), "lacks the placeholder");
  sl_model_close(model);
  golden_close(&g);
}

/* The picture, BOS behind it, the question. */
static void classes_match(void **state) {
  (void)state;
  family_run r;
  family_open(&r, "instructblip", CPU);
  family_start_case(&r, 0);
  const int32_t *want = golden_find(&r.g, "c0", "flow/class")->data;
  for (int t = 0; t < r.layout.n_prompt; t++)
    if (r.layout.classes[t] != want[t]) fail_msg("position %d: class %d, expected %d", t, r.layout.classes[t], want[t]);
  family_close(&r);
}

static void long_questions(void **state) {
  (void)state;
  char text[512] = "";
  sl_model *model = NULL;
  sl_pack pack = {0};
  ASSERT_OK(open_at(&model, BLIP));
  for (int i = 0; i < 19; i++) strcat(text, "? "); /* [CLS], 19, [SEP] */
  ASSERT_OK(sl_pack_square(&pack, model, text));
  assert_int_equal(pack.n_text, 21);
  sl_pack_dispose(&pack);
  for (int i = 0; i < 20; i++) strcat(text, "? ");
  EXPECT_ARGUMENT(sl_pack_square(&pack, model, text), "41 tokens for the Q-Former; it was made for 40");
  sl_model_close(model);
}

/* ---- runs of another question ---- */

/* A plan's run about the asked picture with another question: its image rows are those of that question. */
static void runs_read_their_question(void **state) {
  (void)state;
  family_run r;
  family_open(&r, "instructblip", CPU);
  family_start_case(&r, 0);
  family_append_answer(&r, 3);
  family_encode(&r, NULL, false);
  sl_shared shared = {0};
  sl_analysis_context context = {.model = r.model, .session = r.session, .pixels = r.views.pixels, .pack = &r.pack,
                                 .question = golden_string(&r.g, "c0", "prompt"), .image = r.image, .layout = &r.layout,
                                 .info = &sl_flow_analysis.info, .shared = &shared};
  sl_plan_run run = {0};
  assert_string_equal(golden_string(&r.g, "c0", "picture"), golden_string(&r.g, "c2", "picture"));
  ASSERT_OK(sl_plan_run_make(&run, &context, NULL, golden_string(&r.g, "c2", "prompt")));
  const sl_tensor *ids = golden_find(&r.g, "c2", "ids"), *want = golden_find(&r.g, "c2", "greedy.logits");
  const int row = (int)ids->shape[0] - 1, n_vocab = sl_model_get_shape(r.model)->n_vocab;
  float *logits = calloc((size_t)n_vocab, sizeof *logits);
  ASSERT_OK(sl_trunk_logits(r.session, run.trunk, &row, 1, logits));
  const sl_tensor first = {.data = want->data, .dtype = SL_F32, .n_dim = 1, .shape = {n_vocab}};
  family_check(&r, "logits of the other question", logits, &first, 1e-4);
  free(logits);
  sl_plan_run_dispose(&run);
  sl_shared_dispose(&shared);
  family_close(&r);
}

/* ---- folders ---- */

static void drop_image_token(const folder *f) {
  char path[400], *printed = NULL;
  json_t *root = NULL;
  size_t n_kept = 0;
  folder_path(f, "tokenizer.json", path);
  ASSERT_OK(sl_json_load(&root, path, (size_t)1 << 24));
  json_t *added = json_object_get(root, "added_tokens");
  while (n_kept < json_array_size(added)) {
    const char *content = json_string_value(json_object_get(json_array_get(added, n_kept), "content"));
    if (strcmp(content, "<image>") == 0)
      json_array_remove(added, n_kept);
    else
      n_kept++;
  }
  ASSERT_OK(sl_json_print(root, 0, &printed));
  ASSERT_OK(sl_file_write(path, printed, strlen(printed)));
  free(printed);
  json_decref(root);
}

/* Converted before transformers 4.46: no image token anywhere. The picture stands first all the same. */
static void folder_without_image_token(void **state) {
  (void)state;
  folder f = copy_blip();
  sl_model *model = NULL;
  sl_session *session = NULL;
  sl_views views = {0};
  sl_pack pack = {0};
  sl_layout layout = {0};
  sl_image *image = NULL;
  sl_rgb picture = {0};
  folder_set_json(&f, "config.json", "image_token_index", NULL);
  drop_image_token(&f);
  ASSERT_OK(open_at(&model, f.dir));
  assert_int_equal(sl_model_get_shape(model)->image_token_id, -1);
  golden g = golden_open("instructblip");
  const char *question = golden_string(&g, "c0", "prompt");
  ASSERT_OK(sl_session_new(&session, model, 2));
  ASSERT_OK(sl_rgb_load(&picture, BLIP "/a.png", true));
  ASSERT_OK(sl_views_make(&views, sl_model_get_preprocess(model), &picture));
  ASSERT_OK(sl_pack_make(&pack, model, &views, question));
  ASSERT_OK(sl_layout_build(&layout, model, &pack, question, false));
  assert_int_equal(layout.first_image, 0);
  for (int i = 0; i < layout.n_image; i++) assert_int_equal(layout.ids[i], -1);
  ASSERT_OK(sl_image_encode(&image, session, views.pixels, &pack, NULL, false));
  ASSERT_OK(sl_session_greedy(session, &layout, image, 8, NULL, NULL));
  assert_memory_equal(layout.ids + layout.n_prompt, golden_find(&g, "c0", "greedy")->data, 8 * sizeof(int32_t));
  golden_close(&g);
  sl_image_free(image);
  sl_layout_dispose(&layout);
  sl_pack_dispose(&pack);
  sl_views_dispose(&views);
  sl_rgb_dispose(&picture);
  sl_session_free(session);
  sl_model_close(model);
  folder_remove(&f);
}

/* Conversion takes the Q-Former's tokenizer along: the new folder opens. */
static void converted_folder(void **state) {
  (void)state;
  char dir[] = "/tmp/sl_test_XXXXXX", out[64], *summary = NULL;
  sl_model *model = NULL;
  assert_non_null(mkdtemp(dir));
  snprintf(out, sizeof out, "%s/out", dir);
  const sl_convert_request request = {.size = sizeof request, .model_dir = BLIP, .out_dir = out, .dtype = "f32"};
  ASSERT_OK(sl_convert(&request, &summary));
  assert_non_null(strstr(summary, "\"qformer_tokenizer/vocab.txt\""));
  ASSERT_OK(open_at(&model, out));
  assert_true(sl_model_reads_question(model));
  sl_model_close(model);
  free(summary);
  sl_folder_remove(dir);
}

/* One sentence that says what is wrong with a folder. */
static void bad_folders(void **state) {
  (void)state;
  static const struct {
    const char *from, *path, *value;
    sl_status status;
    const char *part;
  } cases[] = {
      {"instructblip", "text_config.model_type", "\"t5\"", SL_ERROR_UNSUPPORTED, "\"t5\""},
      {"instructblip", "qformer_config.num_attention_heads", "3", SL_ERROR_FORMAT, "qformer_config.hidden_size 20"},
      {"instructblip", "num_query_tokens", "6", SL_ERROR_FORMAT, "query_tokens"},
      {"instructblip", "image_token_index", "340", SL_ERROR_FORMAT, "340"},
      {"instructblip", "qformer_config.hidden_act", "\"swiglu\"", SL_ERROR_UNSUPPORTED, "swiglu"},
      {"instructblip", "qformer_config.layer_norm_eps", "-1", SL_ERROR_FORMAT, "layer_norm_eps is -1"},
      {"qwen-vl", "no_bias", "false", SL_ERROR_UNSUPPORTED, "no_bias"},
      {"qwen-vl", "intermediate_size", "97", SL_ERROR_FORMAT, "97 is odd"},
      {"qwen-vl", "visual.output_dim", "100", SL_ERROR_FORMAT, "visual.output_dim 100"},
      {"qwen-vl", "visual.n_queries", "200", SL_ERROR_FORMAT, "visual.n_queries 200"},
      {"qwen-vl", "visual.mlp_ratio", "-1", SL_ERROR_FORMAT, "visual.mlp_ratio"},
      {"qwen-vl", "visual.width", "48", SL_ERROR_FORMAT, "visual."},
      {"qwen-vl", "visual", "7", SL_ERROR_UNSUPPORTED, "qwen"}, /* the language model alone */
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const bool blip = strcmp(cases[i].from, "instructblip") == 0;
    folder f = blip ? copy_blip() : folder_copy(cases[i].from);
    sl_model *model = NULL;
    folder_set_json(&f, "config.json", cases[i].path, cases[i].value);
    const sl_status status = open_at(&model, f.dir);
    if (status != cases[i].status || !strstr(sl_error_message(), cases[i].part))
      fail_msg("%s %s: %s: %s", cases[i].path, cases[i].value, sl_status_name(status), sl_error_message());
    folder_remove(&f);
  }
  folder f = folder_copy("instructblip"); /* without the Q-Former's tokenizer */
  sl_model *model = NULL;
  assert_int_equal(open_at(&model, f.dir), SL_ERROR_FILE);
  assert_non_null(strstr(sl_error_message(), "qformer_tokenizer"));
  folder_remove(&f);
}

/* ---- prefixes ---- */

/* Questions about one picture through a scene: the answers are transformers' for each of them, in any order. */
static void check_scene(const char *name, const char *picture, const char *const *cases, int n_case) {
  char path[700];
  sl_model *model = NULL;
  sl_scene *scene = NULL;
  sl_question *questions[4] = {NULL};
  golden g = golden_open(name);
  ASSERT_OK(open_at(&model, g.dir));
  snprintf(path, sizeof path, "%s/%s", g.dir, picture);
  ASSERT_OK(sl_scene_open(&scene, model, path, NULL));
  for (int i = 0; i < n_case; i++) {
    const sl_question_options options = {.size = sizeof options, .max_token = 8};
    sl_question_info info = {.size = sizeof info};
    const char *text = golden_string(&g, cases[i], "question");
    assert_string_equal(golden_string(&g, cases[i], "picture"), picture);
    ASSERT_OK(sl_question_new(&questions[i], scene, text ? text : golden_string(&g, cases[i], "prompt"), &options));
    ASSERT_OK(sl_question_get_info(questions[i], &info));
    assert_int_equal(info.n_token - info.n_prompt, 8);
    if (memcmp(info.ids + info.n_prompt, golden_find(&g, cases[i], "greedy")->data, 8 * sizeof(int32_t)) != 0)
      fail_msg("%s %s: another answer", name, cases[i]);
  }
  for (int i = 0; i < n_case; i++) sl_question_free(questions[i]);
  sl_scene_close(scene);
  sl_model_close(model);
  golden_close(&g);
}

static void scenes_match(void **state) {
  (void)state;
  check_scene("instructblip", "a.png", (const char *const[]){"c0", "c2", "c0"}, 3); /* image tokens of every question */
  check_scene("qwen-vl", "a.png", (const char *const[]){"c0", "c2", "c0"}, 3);      /* frequencies of every length */
}

typedef struct two_logits {
  float *of[2];
  int n;
} two_logits;

static bool take_logits(void *user, int plan, const float *logits) {
  two_logits *t = user;
  memcpy(t->of[plan], logits, (size_t)t->n * sizeof *logits);
  return true;
}

/* Another picture's keys are made under the question that is asked: the same picture changes nothing. */
static void baselines_read_the_question(void **state) {
  (void)state;
  static const char text[] = "{\"attend\": [{\"queries\": \"5-\", \"keys\": \"0-4\", \"source\": \"baseline:0\"}]}";
  sl_model *model = NULL;
  sl_scene *scene = NULL;
  sl_question *question = NULL;
  sl_scene_baseline *baseline = NULL;
  sl_plan *plan = NULL, *empty = NULL;
  sl_question_info info = {.size = sizeof info};
  const sl_question_options options = {.size = sizeof options, .max_token = 1};
  ASSERT_OK(open_at(&model, BLIP));
  ASSERT_OK(sl_scene_open(&scene, model, BLIP "/a.png", NULL));
  ASSERT_OK(sl_question_new(&question, scene, "What is in the picture?", &options));
  ASSERT_OK(sl_question_get_info(question, &info));
  ASSERT_OK(sl_scene_baseline_new(&baseline, question, "image:" BLIP "/a.png"));
  ASSERT_OK(sl_plan_parse(&plan, text, strlen(text)));
  ASSERT_OK(sl_plan_parse(&empty, "{}", 2));
  two_logits logits = {.n = info.n_vocab};
  for (int i = 0; i < 2; i++) logits.of[i] = calloc((size_t)info.n_vocab, sizeof(float));
  const sl_branches branches = {.size = sizeof branches,
                                .question = question,
                                .plans = (const sl_plan *[]){plan, empty},
                                .n_plan = 2,
                                .baselines = (const sl_scene_baseline *[]){baseline},
                                .n_baseline = 1,
                                .take = take_logits,
                                .user = &logits};
  ASSERT_OK(sl_branches_logits(&branches));
  for (int v = 0; v < info.n_vocab; v++) assert_float_equal(logits.of[0][v], logits.of[1][v], 1e-4);
  for (int i = 0; i < 2; i++) free(logits.of[i]);
  sl_plan_free(plan);
  sl_plan_free(empty);
  sl_scene_baseline_free(baseline);
  sl_question_free(question);
  sl_scene_close(scene);
  sl_model_close(model);
}

static sl_layout layout_of(const family_run *r, const char *test_case) {
  sl_layout layout = {0};
  ASSERT_OK(sl_layout_build(&layout, r->model, &r->pack, golden_string(&r->g, test_case, "question"), false));
  return layout;
}

/* c2 has 324 tokens, c0 447: the trained length is 352, so their keys are rotated by other frequencies. */
static void prefixes_keep_their_frequencies(void **state) {
  (void)state;
  family_run r;
  sl_prefix *prefix = NULL;
  sl_trunk *trunk = NULL;
  sl_baseline *baseline = NULL;
  family_open(&r, "qwen-vl", CPU);
  family_start_case(&r, 2);
  family_encode(&r, NULL, false);
  sl_layout longer = layout_of(&r, "c0");
  assert_memory_equal(longer.ids, r.layout.ids, (size_t)(r.layout.first_image + r.layout.n_image) * sizeof *longer.ids);
  ASSERT_OK(sl_prefix_new(&prefix, r.session, &r.layout, r.image, false, NULL));
  assert_true(sl_prefix_serves(prefix, &r.layout));
  assert_false(sl_prefix_serves(prefix, &longer));
  EXPECT_ARGUMENT(sl_trunk_new(&trunk, r.session, prefix, &longer, NULL), "dynamic NTK");
  ASSERT_OK(sl_baseline_zero(&baseline, r.session, prefix));
  sl_prefix_free(prefix);
  ASSERT_OK(sl_prefix_new(&prefix, r.session, &longer, r.image, false, NULL));
  ASSERT_OK(sl_trunk_new(&trunk, r.session, prefix, &longer, NULL));
  sl_plan plan = {0};
  const sl_baseline *baselines[] = {baseline};
  const int rows[] = {longer.n_prompt - 1};
  const sl_branch_request request = {.trunk = trunk, .plans = &plan, .n_plan = 1, .baselines = baselines,
                                     .n_baseline = 1, .rows = rows, .n_row = 1};
  EXPECT_ARGUMENT(sl_branches_run(r.session, &request), "dynamic NTK");
  /* A trunk's rows are those of one pass over the whole prompt. */
  const int n_vocab = sl_model_get_shape(r.model)->n_vocab;
  float *of_trunk = calloc((size_t)n_vocab, sizeof *of_trunk), *whole = calloc((size_t)n_vocab, sizeof *whole);
  ASSERT_OK(sl_trunk_logits(r.session, trunk, rows, 1, of_trunk));
  ASSERT_OK(sl_session_forward(r.session, &longer, r.image, rows, 1, whole, NULL, false));
  for (int v = 0; v < n_vocab; v++) assert_float_equal(of_trunk[v], whole[v], 1e-4);
  free(of_trunk);
  free(whole);
  sl_trunk_free(trunk);
  sl_baseline_free(baseline);
  sl_prefix_free(prefix);
  sl_layout_dispose(&longer);
  family_close(&r);
}

/* ---- the picture of a run ---- */

static sl_picture picture_of(const char *name, const char *question, sl_model **model) {
  char path[700];
  sl_session *session = NULL;
  sl_image *image = NULL;
  sl_picture p;
  snprintf(path, sizeof path, "%s/%s", GOLDEN_DIR, name);
  ASSERT_OK(open_at(model, path));
  ASSERT_OK(sl_session_new(&session, *model, 2));
  snprintf(path, sizeof path, "%s/%s/a.png", GOLDEN_DIR, name);
  ASSERT_OK(sl_picture_load(&p, path, NULL));
  ASSERT_OK(sl_picture_prepare(&p, *model, question));
  ASSERT_OK(sl_picture_encode(&p, session, *model, &image));
  sl_image_free(image);
  sl_session_free(session);
  return p;
}

/* The projection of the first n_query tokens against transformers' cross-attentions [H, n_query, n_key]. */
static void check_projection(const sl_picture *p, const sl_tensor *const *patterns, int n_pattern) {
  const int n_head = (int)patterns[0]->shape[0], n_query = (int)patterns[0]->shape[1];
  const int n_key = (int)patterns[0]->shape[2], skip = n_key - p->n_patch;
  for (int i = 0; i < n_query; i++) {
    double share[64] = {0}, sum = 0;
    for (int k = 0; k < n_pattern * n_head; k++) {
      const float *row = (const float *)patterns[k / n_head]->data + (k % n_head * n_query + i) * n_key;
      for (int at = 0; at < p->n_patch; at++) share[at] += (double)row[skip + at];
    }
    for (int at = 0; at < p->n_patch; at++) sum += share[at];
    for (int at = 0; at < p->n_patch; at++)
      assert_float_equal(p->projection[i * p->n_patch + at], share[at] / sum, 1e-5);
  }
}

static void projections_match(void **state) {
  (void)state;
  sl_model *model = NULL;
  golden g = golden_open("instructblip");
  sl_picture p = picture_of("instructblip", golden_string(&g, "c0", "prompt"), &model);
  const sl_tensor *cross[] = {golden_find(&g, "c0", "projector.blocks.0.cross.hook_pattern"),
                              golden_find(&g, "c0", "projector.blocks.2.cross.hook_pattern")};
  assert_int_equal(p.n_patch, 16);
  check_projection(&p, cross, 2);
  const sl_tensor *features = golden_find(&g, "c0", "projector.hook_in"); /* its first row is the class token */
  assert_int_equal(p.n_feature, features->shape[1]);
  for (int k = 0; k < p.n_feature; k++) {
    double mean = 0;
    for (int i = 1; i < 17; i++) mean += (double)((const float *)features->data)[i * p.n_feature + k] / 16;
    assert_float_equal(p.feature[k], mean, 1e-4);
  }
  float box[16][4];
  sl_pack_patch_boxes(&p.pack, box); /* squashed: a quarter of either side each */
  const double width = p.source.width_px / 4.0, height = p.source.height_px / 4.0;
  assert_float_equal(box[6][0], 2 * width, 1e-3);
  assert_float_equal(box[6][1], height, 1e-3);
  assert_float_equal(box[6][2], 3 * width, 1e-3);
  assert_float_equal(box[6][3], 2 * height, 1e-3);
  sl_picture_dispose(&p);
  sl_model_close(model);
  golden_close(&g);

  g = golden_open("qwen-vl");
  p = picture_of("qwen-vl", NULL, &model);
  const sl_tensor *read[] = {golden_find(&g, "c0", "projector.cross.hook_pattern@0-15")};
  check_projection(&p, read, 1);
  sl_picture_dispose(&p);
  sl_model_close(model);
  golden_close(&g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(raw_prompts),
      cmocka_unit_test(classes_match),
      cmocka_unit_test(long_questions),
      cmocka_unit_test(runs_read_their_question),
      cmocka_unit_test(folder_without_image_token),
      cmocka_unit_test(converted_folder),
      cmocka_unit_test(bad_folders),
      cmocka_unit_test(scenes_match),
      cmocka_unit_test(baselines_read_the_question),
      cmocka_unit_test(prefixes_keep_their_frequencies),
      cmocka_unit_test(projections_match),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
