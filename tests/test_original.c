/* Folders as the original repositories publish them: the tower in a folder of its own and where it is looked for, the
 * original LLaVA's ids, and LLaVA-1.6's original layout, which must open to the same model as transformers'. */
#include "folder.h"

#include "base/memory.h"
#include "family_run.h"

static sl_status open_at(sl_model **model, const char *dir, const char *tower) {
  const sl_model_options options = {
      .size = sizeof options, .backend = "ref", .compute = "f32", .n_thread = 1, .vision_model = tower};
  return sl_model_open(model, dir, &options);
}

static void expect_failure(const char *what, const char *dir, const char *tower, sl_status status,
                           const char *const *parts) {
  sl_model *model = (sl_model *)1;
  const sl_status got = open_at(&model, dir, tower);
  const char *message = sl_error_message();
  if (got != status) fail_msg("%s: %s (%s); expected %s", what, sl_status_name(got), message, sl_status_name(status));
  assert_null(model);
  for (int i = 0; parts[i]; i++)
    if (!strstr(message, parts[i])) fail_msg("%s: the message lacks \"%s\": %s", what, parts[i], message);
  if (strchr(message, '\n')) fail_msg("%s: not one sentence: %s", what, message);
  if (getenv("SL_TEST_VERBOSE")) fprintf(stderr, "%-32s %s\n", what, message);
}
#define EXPECT_FAILURE(what, dir, tower, status, ...) \
  expect_failure(what, dir, tower, status, (const char *const[]){__VA_ARGS__, NULL})

static void expect_open(const char *what, const char *dir, const char *tower) {
  sl_model *model = NULL;
  if (open_at(&model, dir, tower) != SL_OK) fail_msg("%s: %s", what, sl_error_message());
  assert_int_equal(sl_model_get_shape(model)->vision.n_layer_stored, 3);
  sl_model_close(model);
}

/* ---- where the tower is looked for ---- */

/* A cache of Hugging Face's shape in a new place, with the tower of Shikra's golden as `name`. */
typedef struct cache {
  char root[128], repository[256], snapshot[320];
} cache;

static void make_dir(const char *path) { assert_int_equal(mkdir(path, 0700), 0); }

static cache cache_make(const char *hub, const char *commit) {
  cache c = {"/tmp/sl_cache_XXXXXX", "", ""};
  char path[400];
  assert_non_null(mkdtemp(c.root));
  snprintf(path, sizeof path, "%s%s", c.root, hub);
  if (hub[0]) make_dir(path);
  snprintf(c.repository, sizeof c.repository, "%s%s/models--openai--clip-vit-large-patch14", c.root, hub);
  make_dir(c.repository);
  snprintf(path, sizeof path, "%s/snapshots", c.repository);
  make_dir(path);
  snprintf(c.snapshot, sizeof c.snapshot, "%s/snapshots/%s", c.repository, commit);
  assert_int_equal(symlink(GOLDEN_DIR "/shikra/vision", c.snapshot), 0);
  return c;
}

static void cache_refer(const cache *c, const char *commit) {
  char path[400];
  snprintf(path, sizeof path, "%s/refs", c->repository);
  make_dir(path);
  snprintf(path, sizeof path, "%s/refs/main", c->repository);
  ASSERT_OK(sl_file_write(path, commit, strlen(commit)));
}

static void remove_tree(const char *root) {
  char command[300];
  assert_int_equal(strncmp(root, "/tmp/sl_cache_", 14), 0);
  snprintf(command, sizeof command, "rm -r '%s'", root);
  assert_int_equal(system(command), 0);
}

static const char *const variables[] = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"};

static void forget_caches(void) {
  for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) setenv(variables[i], "/nonexistent", 1);
}

static void tower_is_found(void **state) {
  (void)state;
  const char *tower = GOLDEN_DIR "/shikra/vision";
  folder f = folder_copy("shikra");
  char name[64], value[600], inside[200];
  forget_caches();
  expect_open("the option", f.dir, tower);
  snprintf(value, sizeof value, "\"%s\"", tower);
  folder_set_json(&f, "config.json", "mm_vision_tower", value);
  expect_open("an absolute path", f.dir, NULL);
  snprintf(inside, sizeof inside, "%s/tower", f.dir);
  assert_int_equal(symlink(tower, inside), 0);
  folder_set_json(&f, "config.json", "mm_vision_tower", "\"tower\"");
  expect_open("a path inside the folder", f.dir, NULL);
  assert_int_equal(unlink(inside), 0);
  snprintf(name, sizeof name, "sl_tower_%d", (int)getpid());
  snprintf(inside, sizeof inside, "/tmp/%s", name);
  assert_int_equal(symlink(tower, inside), 0);
  snprintf(value, sizeof value, "\"owner/%s\"", name);
  folder_set_json(&f, "config.json", "mm_vision_tower", value);
  expect_open("beside the folder", f.dir, NULL);
  assert_int_equal(unlink(inside), 0);
  EXPECT_FAILURE("nowhere", f.dir, NULL, SL_ERROR_FILE, f.dir, name, "/../sl_tower_", "models--owner--sl_tower_",
                 "snapshots", "--vision-model");
  folder_remove(&f);
}

static void tower_is_found_in_the_cache(void **state) {
  (void)state;
  static const struct {
    const char *variable, *hub;
  } places[] = {{"HF_HUB_CACHE", ""}, {"HUGGINGFACE_HUB_CACHE", ""}, {"HF_HOME", "/hub"}};
  folder f = folder_copy("shikra");
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    cache c = cache_make(places[i].hub, "abc");
    forget_caches();
    EXPECT_FAILURE("no cache", f.dir, NULL, SL_ERROR_FILE, "openai/clip-vit-large-patch14", "--vision-model");
    for (size_t k = 0; k < i; k++) unsetenv(variables[k]); /* an earlier one goes before */
    setenv(places[i].variable, c.root, 1);
    expect_open(places[i].variable, f.dir, NULL);
    /* refs/main decides between snapshots; one that is not there any more does not. */
    char other[400];
    snprintf(other, sizeof other, "%s/snapshots/aaa", c.repository);
    assert_int_equal(symlink(GOLDEN_DIR "/llava-gqa", other), 0);
    EXPECT_FAILURE("the first snapshot by name", f.dir, NULL, SL_ERROR_FORMAT, "snapshots/aaa", "missing");
    cache_refer(&c, "abc\n");
    expect_open("the snapshot that refs/main names", f.dir, NULL);
    remove_tree(c.root);
  }
  forget_caches();
  folder_remove(&f);
}

static void wrong_towers(void **state) {
  (void)state;
  folder f = folder_copy("shikra"), tower = folder_copy("shikra/vision");
  forget_caches();
  EXPECT_FAILURE("no such folder", f.dir, "/nonexistent/clip", SL_ERROR_FILE, "/nonexistent/clip/config.json");
  EXPECT_FAILURE("a model that has its tower", GOLDEN_DIR "/llava-gqa", tower.dir, SL_ERROR_ARGUMENT, "LLaVA-1.5",
                 tower.dir);
  folder_set_json(&tower, "config.json", "vision_config.model_type", "\"siglip_vision_model\"");
  EXPECT_FAILURE("another architecture", f.dir, tower.dir, SL_ERROR_UNSUPPORTED, tower.dir, "siglip_vision_model",
                 "clip_vision_model");
  folder_set_json(&tower, "config.json", "vision_config.model_type", "\"clip_vision_model\"");
  folder_set_json(&tower, "config.json", "vision_config.hidden_size", "\"wide\"");
  EXPECT_FAILURE("a wrong value", f.dir, tower.dir, SL_ERROR_FORMAT, tower.dir, "vision_config.hidden_size");
  folder_set_json(&tower, "config.json", "vision_config.hidden_size", "24");
  EXPECT_FAILURE("another width", f.dir, tower.dir, SL_ERROR_FORMAT, "has shape [", "24");
  folder_set_json(&tower, "config.json", "vision_config.hidden_size", "20");
  expect_open("the tower as it was", f.dir, tower.dir);
  folder_delete(&tower, "model.safetensors");
  EXPECT_FAILURE("no weights", f.dir, tower.dir, SL_ERROR_FILE, tower.dir, "model.safetensors");
  folder_set_json(&f, "config.json", "mm_vision_tower", NULL);
  folder_set_json(&f, "config.json", "mm_use_im_start_end", "false");
  EXPECT_FAILURE("pictures without marks", f.dir, tower.dir, SL_ERROR_UNSUPPORTED, "mm_use_im_start_end", "<im_end>");
  folder_set_json(&f, "config.json", "mm_use_im_start_end", "true");
  EXPECT_FAILURE("no name", f.dir, NULL, SL_ERROR_FILE, f.dir, "mm_vision_tower", "--vision-model");
  folder_remove(&f);
  folder_remove(&tower);
}

static void wrong_original_values(void **state) {
  (void)state;
  static const struct {
    const char *path, *value;
    sl_status status;
    const char *part, *other;
  } rows[] = {
      {"mm_projector_type", "\"mlp3x_gelu\"", SL_ERROR_UNSUPPORTED, "mm_projector_type is \"mlp3x", "mlp2x_gelu"},
      {"mm_projector_type", "\"linear\"", SL_ERROR_FORMAT, "mm_projector.weight", "missing"},
      {"mm_vision_select_feature", "\"cls\"", SL_ERROR_FORMAT, "mm_vision_select_feature is \"cls\"", "cls_patch"},
      {"mm_vision_select_layer", "9", SL_ERROR_FORMAT, "9", "3 layers"},
      {"image_aspect_ratio", "\"anyres_max_9\"", SL_ERROR_UNSUPPORTED, "merge_type is \"flat\"", "spatial_unpad"},
      {"rope_scaling", "{\"type\": \"yarn\", \"factor\": 2.0}", SL_ERROR_UNSUPPORTED, "is \"yarn\"", "default"},
      {"quantization_config", "{\"quant_method\": \"gptq\"}", SL_ERROR_UNSUPPORTED, "gptq", "not supported"},
      {"model_type", "\"llava_mpt\"", SL_ERROR_UNSUPPORTED, "llava_mpt", "llava_llama"},
      {"num_attention_heads", "5", SL_ERROR_FORMAT, "hidden_size 24", "num_attention_heads 5"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    folder f = folder_copy("llava-original");
    folder_set_json(&f, "config.json", rows[i].path, rows[i].value);
    EXPECT_FAILURE(rows[i].value, f.dir, GOLDEN_DIR "/llava-original/vision", rows[i].status, f.dir, rows[i].part,
                   rows[i].other);
    folder_remove(&f);
  }
}

static void keep_message(void *user, const char *message) { snprintf(user, 400, "%s", message); }

/* A folder called a delta is opened all the same, and the user told. */
static void deltas_are_told(void **state) {
  (void)state;
  char path[64], message[400] = "";
  const sl_model_options options = {.size = sizeof options, .backend = "ref", .compute = "f32", .n_thread = 1,
                                    .log = keep_message, .user = message, .vision_model = GOLDEN_DIR "/shikra/vision"};
  sl_model *model = NULL;
  ASSERT_OK(sl_model_open(&model, GOLDEN_DIR "/shikra", &options));
  sl_model_close(model);
  assert_string_equal(message, "");
  snprintf(path, sizeof path, "/tmp/sl_delta_%d", (int)getpid());
  assert_int_equal(symlink(GOLDEN_DIR "/shikra", path), 0);
  ASSERT_OK(sl_model_open(&model, path, &options));
  sl_model_close(model);
  assert_int_equal(unlink(path), 0);
  if (!strstr(message, "--delta-base")) fail_msg("told: \"%s\"", message);
}

/* ---- ids of the original LLaVA ---- */

/* Those of transformers 4.37.2's LlamaTokenizer and the repository's tokenizer_image_token. */
static void ids_are_cut_at_the_picture(void **state) {
  (void)state;
  static const struct {
    const char *prompt;
    int n_id, ids[24];
  } rows[] = {
      {"<image>\nWhat?", 8, {1, -200, 272, 13, 312, 276, 265, 307}},
      {"USER: a  <image> b ASSISTANT:", 24, {1, 272, 305, 285, 303, 304, 294, 263, 272, 272, -200, 272, 267, 272, 295,
                                             285, 285, 298, 285, 289, 295, 301, 289, 294}},
      {"x<image>", 4, {1, 272, 123, -200}},
      {"\xc3\xa9<image>\xe6\x97\xa5\xe6\x9c\xac </s> x", 16, {1, 272, 198, 172, -200, 272, 233, 154, 168, 233, 159, 175,
                                                              272, 2, 272, 123}},
  };
  sl_model *model = NULL;
  ASSERT_OK(open_at(&model, GOLDEN_DIR "/llava-original", GOLDEN_DIR "/llava-original/vision"));
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    sl_layout l = {0};
    ASSERT_OK(sl_layout_build(&l, model, NULL, rows[i].prompt, true));
    assert_int_equal(l.n_prompt, rows[i].n_id + 15);
    for (int t = 0, k = 0; t < l.n_prompt; t++) {
      if (l.ids[t] != rows[i].ids[k])
        fail_msg("%s: token %d is %d, expected %d", rows[i].prompt, t, l.ids[t], rows[i].ids[k]);
      k += t < l.first_image || t >= l.first_image + l.n_image - 1;
    }
    sl_layout_dispose(&l);
  }
  size_t n_bytes = 0;
  assert_string_equal(sl_model_piece(model, -200, &n_bytes), "<image>"); /* what reports show */
  assert_int_equal(n_bytes, 7);
  assert_null(sl_model_piece(model, -1, &n_bytes));
  sl_model_close(model);
}

/* The first LLaVA writes a picture between marks, which are tokens. Its tokenizer was of the time of Shikra's, whose
 * ids are transformers 4.28.1's: with one vocabulary both read a prompt alike, but for the picture's own id. */
static void marks_stand_around_the_picture(void **state) {
  (void)state;
  static const char *const prompts[] = {"USER: <image>\nWhat is it? ASSISTANT:",
                                        "USER: What is <image>  in it? ASSISTANT:"};
  folder f = folder_copy("shikra");
  folder_set_json(&f, "config.json", "model_type", "\"llava\"");
  sl_model *llava = NULL, *shikra = NULL;
  ASSERT_OK(open_at(&llava, f.dir, GOLDEN_DIR "/shikra/vision"));
  ASSERT_OK(open_at(&shikra, GOLDEN_DIR "/shikra", GOLDEN_DIR "/shikra/vision"));
  for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++) {
    sl_layout l = {0}, s = {0};
    ASSERT_OK(sl_layout_build(&l, llava, NULL, prompts[i], true));
    ASSERT_OK(sl_layout_build(&s, shikra, NULL, prompts[i], true));
    assert_int_equal(l.n_image, 16);
    assert_int_equal(l.n_prompt, s.n_prompt);
    for (int t = 0; t < l.n_prompt; t++) {
      assert_int_equal(l.ids[t], s.ids[t] == 340 ? -200 : s.ids[t]);
      assert_int_equal(l.classes[t], s.classes[t]);
    }
    assert_int_equal(l.ids[l.first_image - 1], 341);
    assert_int_equal(l.classes[l.first_image - 1], SL_CLASS_STRUCTURE);
    assert_int_equal(l.ids[l.first_image + 16], 342);
    assert_int_equal(l.classes[l.first_image + 16], SL_CLASS_STRUCTURE);
    sl_layout_dispose(&l);
    sl_layout_dispose(&s);
  }
  sl_model_close(llava);
  sl_model_close(shikra);
  folder_remove(&f);
}

/* ---- LLaVA-1.6's original layout ---- */

static bool original_name(sl_tensor *tensor, char *name, void *user) {
  (void)tensor, (void)user;
  static const char *const rows[][2] = {{"vision_tower.vision_model.", "model.vision_tower.vision_tower.vision_model."},
                                        {"multi_modal_projector.linear_1.", "model.mm_projector.0."},
                                        {"multi_modal_projector.linear_2.", "model.mm_projector.2."},
                                        {"language_model.model.", "model."},
                                        {"language_model.lm_head.", "lm_head."},
                                        {"image_newline", "model.image_newline"}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    const size_t n = strlen(rows[i][0]);
    char old[160];
    if (strncmp(name, rows[i][0], n) != 0) continue;
    snprintf(old, sizeof old, "%s", name + n);
    snprintf(name, 160, "%s%.100s", rows[i][1], old);
    return true;
  }
  return true;
}

static json_t *load(const folder *f, const char *file) {
  char path[400];
  json_t *root = NULL;
  folder_path(f, file, path);
  ASSERT_OK(sl_json_load(&root, path, (size_t)1 << 24));
  return root;
}

static void save(const folder *f, const char *file, const json_t *root) {
  char *text = NULL;
  ASSERT_OK(sl_json_print(root, 1, &text));
  folder_write(f, file, text, strlen(text));
  free(text);
}

/* config.json of the original layout, and the tower's folder (without weights: the model brings its own). */
static void original_config(const folder *f, const folder *tower, const char *model_type) {
  json_t *config = load(f, "config.json"), *text = json_object_get(config, "text_config"), *pinpoint;
  size_t i;
  json_array_foreach(json_object_get(config, "image_grid_pinpoints"), i, pinpoint) { /* [width, height] there */
    json_t *height = json_incref(json_array_get(pinpoint, 0));
    json_array_remove(pinpoint, 0);
    json_array_append_new(pinpoint, height);
  }
  json_object_update_missing(config, text);
  save(tower, "config.json", json_object_get(config, "vision_config"));
  json_object_del(config, "text_config");
  json_object_del(config, "vision_config");
  json_object_set_new(config, "model_type", json_string(model_type));
  json_object_set_new(config, "image_aspect_ratio", json_string("anyres"));
  json_object_set_new(config, "mm_patch_merge_type", json_string("spatial_unpad"));
  json_object_set_new(config, "mm_projector_type", json_string("mlp2x_gelu"));
  json_object_set_new(config, "mm_vision_select_layer", json_integer(-2));
  json_object_set_new(config, "mm_vision_tower", json_string(tower->dir));
  save(f, "config.json", config);
  json_decref(config);
  static const char processor[] = "{\"image_processor_type\": \"CLIPImageProcessor\", \"crop_size\": 12, \"size\": 12}";
  folder_write(tower, "preprocessor_config.json", processor, strlen(processor));
}

static void check_case(family_run *r, int number) {
  family_start_case(r, number);
  const sl_tensor *ids = golden_find(&r->g, r->test_case, "ids"), *pixels = golden_find(&r->g, r->test_case, "pixels");
  const sl_tensor *pack = golden_find(&r->g, r->test_case, "pack");
  const sl_tensor *greedy = golden_find(&r->g, r->test_case, "greedy");
  const int image = (int)json_integer_value(json_object_get(r->g.facts, "image_token_id"));
  assert_int_equal(sl_tensor_count(ids), r->layout.n_prompt);
  for (int t = 0; t < r->layout.n_prompt; t++) {
    const int want = ((const int32_t *)ids->data)[t];
    assert_int_equal(r->layout.ids[t], want == image ? -200 : want);
  }
  assert_int_equal(sl_tensor_count(pack), r->pack.n);
  assert_memory_equal(pack->data, r->pack.source, (size_t)r->pack.n * sizeof(int32_t));
  family_check(r, "pixels", r->views.pixels, pixels, 1e-6);
  family_encode(r, NULL, false);
  ASSERT_OK(sl_session_greedy(r->session, &r->layout, r->image, 8, NULL, NULL));
  assert_memory_equal(greedy->data, r->layout.ids + r->layout.n_prompt, 8 * sizeof(int32_t));
}

static void tiles_in_the_original_layout(void **state) {
  (void)state;
  static const struct {
    const char *golden, *model_type;
  } rows[] = {{"llava-next-vicuna", "llava"},
              {"llava-next-vicuna", "llava_llama"},
              {"llava-next-mistral", "llava_mistral"}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    folder f = folder_copy(rows[i].golden), tower = folder_copy(rows[i].golden);
    folder_rewrite(&f, original_name, NULL, NULL);
    static const char *const processors[] = {"preprocessor_config.json", "processor_config.json"};
    for (int k = 0; k < 2; k++) folder_delete(&f, processors[k]);
    folder_delete(&tower, "model.safetensors");
    folder_delete(&tower, "processor_config.json");
    original_config(&f, &tower, rows[i].model_type);
    family_run r = {.g = golden_open(rows[i].golden)};
    snprintf(r.where, sizeof r.where, "%s as %s", rows[i].golden, rows[i].model_type);
    ASSERT_OK(open_at(&r.model, f.dir, NULL));
    ASSERT_OK(sl_session_new(&r.session, r.model, 1));
    for (int number = 0; number < 4; number++) check_case(&r, number);
    family_close(&r);
    folder_remove(&f);
    folder_remove(&tower);
  }
}

/* Opens the folder after adding two tokens at the end of its tokenizer; the second one's id to *id. */
static sl_model *open_with_tokens(folder *f, const char *const tokens[2], int *id) {
  sl_model *model = NULL;
  json_t *tokenizer = load(f, "tokenizer.json"), *added = json_object_get(tokenizer, "added_tokens");
  for (int i = 0; i < 2; i++) {
    json_t *token = json_copy(json_array_get(added, json_array_size(added) - 1));
    *id = (int)json_integer_value(json_object_get(token, "id")) + 1;
    json_object_set_new(token, "id", json_integer(*id));
    json_object_set_new(token, "content", json_string(tokens[i]));
    json_array_append_new(added, token);
  }
  save(f, "tokenizer.json", tokenizer);
  json_decref(tokenizer);
  ASSERT_OK(open_at(&model, f->dir, NULL));
  return model;
}

/* The 34B is a LLaMA that was taught another template, and so are those on LLaMA 3: the tokenizer tells. */
static void prompt_follows_the_tokenizer(void **state) {
  (void)state;
  static const struct {
    const char *folder, *plain; /* the template without the tokens holds this */
    const char *tokens[2];      /* the second one ends an answer */
    const char *text;
  } rows[] = {
      {"llava-next-vicuna", "USER: <image>", {"<|im_start|>", "<|im_end|>"},
       "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\n{question}<|im_end|>"
       "<|im_start|>assistant\n"}, /* the repository's chatml_direct */
      {"llava-next-vicuna", "USER: <image>", {"<|start_header_id|>", "<|eot_id|>"},
       "<|start_header_id|>user<|end_header_id|>\n\n<image>\n{question}<|eot_id|>"
       "<|start_header_id|>assistant<|end_header_id|>\n\n"},
      {"llava-gqa", "USER: <image>", {"<|start_header_id|>", "<|eot_id|>"},
       "<|start_header_id|>user<|end_header_id|>\n\n<image>\n{question}<|eot_id|>"
       "<|start_header_id|>assistant<|end_header_id|>\n\n"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    folder f = folder_copy(rows[i].folder);
    sl_model *model = NULL;
    int end = -1;
    ASSERT_OK(open_at(&model, f.dir, NULL));
    assert_non_null(strstr(sl_model_get_template(model), rows[i].plain));
    sl_model_close(model);
    model = open_with_tokens(&f, rows[i].tokens, &end);
    assert_string_equal(sl_model_get_template(model), rows[i].text);
    assert_true(sl_shape_is_eos(sl_model_get_shape(model), end));
    sl_model_close(model);
    folder_remove(&f);
  }
}

/* A folder that brings its own tower needs no other when the name says the tower's shape. */
static void well_known_towers_need_no_folder(void **state) {
  (void)state;
  folder f = folder_copy("llava-next-vicuna"), tower = folder_copy("llava-next-vicuna");
  forget_caches();
  folder_rewrite(&f, original_name, NULL, NULL);
  original_config(&f, &tower, "llava");
  folder_set_json(&f, "config.json", "image_aspect_ratio", "\"pad\"");
  folder_set_json(&f, "config.json", "mm_vision_tower", "\"openai/clip-vit-large-patch14-336\"");
  EXPECT_FAILURE("a tower of another shape", f.dir, NULL, SL_ERROR_FORMAT, f.dir, "[1024, 3, 14, 14]");
  folder_set_json(&f, "config.json", "mm_vision_tower", "\"openai/clip-vit-base-patch16\"");
  EXPECT_FAILURE("a name that says nothing", f.dir, NULL, SL_ERROR_FILE, "openai/clip-vit-base-patch16",
                 "--vision-model");
  folder_remove(&f);
  folder_remove(&tower);
}

/* Allocations of opening two folders fail, one at a time: an error, and nothing is left (the sanitizers see that). */
static void allocations_may_fail(void **state) {
  (void)state;
  for (long n = 1;; n += n < 100 ? 1 : 7) {
    sl_model *model = NULL;
    sl_alloc_fail_at(n);
    const sl_status status = open_at(&model, GOLDEN_DIR "/shikra", GOLDEN_DIR "/shikra/vision");
    sl_alloc_fail_at(0);
    if (status == SL_OK) {
      assert_true(n > 300);
      sl_model_close(model);
      return;
    }
    if (status != SL_ERROR_MEMORY) fail_msg("allocation %ld: %s", n, sl_error_message());
    assert_null(model);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(tower_is_found),
      cmocka_unit_test(tower_is_found_in_the_cache),
      cmocka_unit_test(wrong_towers),
      cmocka_unit_test(wrong_original_values),
      cmocka_unit_test(deltas_are_told),
      cmocka_unit_test(ids_are_cut_at_the_picture),
      cmocka_unit_test(marks_stand_around_the_picture),
      cmocka_unit_test(tiles_in_the_original_layout),
      cmocka_unit_test(prompt_follows_the_tokenizer),
      cmocka_unit_test(well_known_towers_need_no_folder),
      cmocka_unit_test(allocations_may_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
