/* Opening model folders: every way in which a folder can be wrong gives one sentence that names file and thing, and
 * what was expected and found. Layouts of tensor names are in test_names.c. */
#include "folder.h"

#include "model/session.h"

static sl_status open_with(sl_model **model, const char *dir, sl_log_fn log, void *user) {
  const sl_model_options options = {
      .size = sizeof options, .backend = "ref", .compute = "f32", .n_thread = 1, .log = log, .user = user};
  return sl_model_open(model, dir, &options);
}

/* The folder does not open: status, and every given part (NULL-terminated) stands in a message of one line. */
static void expect_failure(const char *what, const char *dir, sl_status status, const char *const *parts) {
  sl_model *model = (sl_model *)1;
  const sl_status got = open_with(&model, dir, NULL, NULL);
  const char *message = sl_error_message();
  if (got != status) fail_msg("%s: %s (%s); expected %s", what, sl_status_name(got), message, sl_status_name(status));
  assert_null(model);
  for (int i = 0; parts[i]; i++)
    if (!strstr(message, parts[i])) fail_msg("%s: the message lacks \"%s\": %s", what, parts[i], message);
  if (strchr(message, '\n') || strlen(message) > 700) fail_msg("%s: not one sentence: %s", what, message);
  if (getenv("SL_TEST_VERBOSE")) fprintf(stderr, "%-40s %s\n", what, message);
}
#define EXPECT_FAILURE(what, dir, status, ...) \
  expect_failure(what, dir, status, (const char *const[]){__VA_ARGS__, NULL})

/* ---- files ---- */

static void missing_files(void **state) {
  (void)state;
  folder f = folder_copy("llava-gqa");
  EXPECT_FAILURE("no folder", "/nonexistent/model", SL_ERROR_FILE, "/nonexistent/model/config.json", "No such file");
  char path[400];
  folder_path(&f, "config.json", path);
  EXPECT_FAILURE("a file for a folder", path, SL_ERROR_FILE, path, "Not a directory");
  folder_delete(&f, "tokenizer.json");
  EXPECT_FAILURE("no tokenizer", f.dir, SL_ERROR_FILE, f.dir, "no tokenizer", "tokenizer.json", "tokenizer.model");
  folder_remove(&f);

  f = folder_copy("llava-gqa");
  folder_delete(&f, "model.safetensors");
  EXPECT_FAILURE("no weights", f.dir, SL_ERROR_FILE, f.dir, "model.safetensors");
  folder_delete(&f, "config.json");
  EXPECT_FAILURE("no config", f.dir, SL_ERROR_FILE, "config.json", "No such file");
  folder_remove(&f);

  f = folder_copy("llava-mha");
  folder_delete(&f, "model-00002-of-00003.safetensors");
  EXPECT_FAILURE("no shard", f.dir, SL_ERROR_FILE, f.dir, "model-00002-of-00003.safetensors");
  folder_remove(&f);
}

static void broken_files(void **state) {
  (void)state;
  static const struct {
    const char *what, *file, *content;
    const char *part;
  } files[] = {
      {"empty config", "config.json", "", "config.json"},
      {"config cut", "config.json", "{\"model_type\": \"llava\",", "line 1"},
      {"config an array", "config.json", "[1]", "object"},
      {"config of two values", "config.json", "{} {}", "config.json"},
      {"config with a key twice", "config.json", "{\"model_type\": \"llava\", \"model_type\": \"llava\"}",
       "model_type"},
      {"config without a type", "config.json", "{}", "model_type"},
      {"tokenizer cut", "tokenizer.json", "{\"model\":", "tokenizer.json"},
      {"tokenizer empty", "tokenizer.json", "{}", "tokenizer.json"},
      {"processor cut", "preprocessor_config.json", "{", "preprocessor_config.json"},
      {"generation config cut", "generation_config.json", "{", "generation_config.json"},
      {"weights empty", "model.safetensors", "", "model.safetensors"},
      {"weights cut in their length", "model.safetensors", "abc", "model.safetensors"},
  };
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    folder f = folder_copy("llava-gqa");
    folder_write(&f, files[i].file, files[i].content, strlen(files[i].content));
    EXPECT_FAILURE(files[i].what, f.dir, SL_ERROR_FORMAT, f.dir, files[i].file, files[i].part);
    folder_remove(&f);
  }
  static const long cuts[] = {-1, 100000, 3000, 9};
  for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
    folder f = folder_copy("llava-gqa");
    folder_cut(&f, "model.safetensors", cuts[i]);
    EXPECT_FAILURE("weights cut", f.dir, SL_ERROR_FORMAT, f.dir, "model.safetensors");
    folder_remove(&f);
  }
}

/* ---- config.json ---- */

static const char *const int_keys[] = {
    "vision_config.hidden_size",
    "vision_config.intermediate_size",
    "vision_config.num_hidden_layers",
    "vision_config.num_attention_heads",
    "vision_config.image_size",
    "vision_config.patch_size",
    "text_config.vocab_size",
    "text_config.hidden_size",
    "text_config.intermediate_size",
    "text_config.num_hidden_layers",
    "text_config.num_attention_heads",
    "text_config.num_key_value_heads",
    "text_config.head_dim",
    "image_token_index",
    "vision_feature_layer",
};

static void wrong_integers(void **state) {
  (void)state;
  static const char *const values[] = {
      "-2000", "1000000000", "9223372036854775807", "99999999999999999999999", "\"12\"", "1.5", "[-2, -2000]", "{}",
      "true",  "0"};
  folder f = folder_copy("llava-gqa");
  char config[400], what[160], *original = NULL;
  size_t n_original = 0;
  folder_path(&f, "config.json", config);
  ASSERT_OK(sl_file_read(config, 1 << 20, &original, &n_original));
  for (size_t k = 0; k < sizeof int_keys / sizeof *int_keys; k++)
    for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
      const bool may_be_zero = k + 2 >= sizeof int_keys / sizeof *int_keys;
      if (may_be_zero && strcmp(values[v], "0") == 0) continue;
      folder_set_json(&f, "config.json", int_keys[k], values[v]);
      snprintf(what, sizeof what, "%s: %s", int_keys[k], values[v]);
      EXPECT_FAILURE(what, f.dir, SL_ERROR_FORMAT, config, int_keys[k], "expected", "found");
      ASSERT_OK(sl_file_write(config, original, n_original));
    }
  free(original);
  folder_remove(&f);
}

static const struct {
  const char *path, *value;
  sl_status status;
  const char *part, *other;
} wrong_values[] = {
    {"model_type", "\"qwen3_vl\"", SL_ERROR_UNSUPPORTED, "qwen3_vl", "\"llava\""},
    {"model_type", "\"llama\"", SL_ERROR_UNSUPPORTED, "\"llama\"", "sightline opens \"llava\""},
    {"model_type", "7", SL_ERROR_FORMAT, "model_type", "expected a string"},
    {"model_type", "null", SL_ERROR_FORMAT, "model_type", "config.json"},
    {"model_type", "\"lla\\u0000va\"", SL_ERROR_FORMAT, "model_type", "U+0000"},
    {"quantization_config", "{\"quant_method\": \"awq\", \"bits\": 4}", SL_ERROR_UNSUPPORTED, "of method awq",
     "not supported"},
    {"quantization_config", "{\"quant_method\": \"gptq\", \"group_size\": 128}", SL_ERROR_UNSUPPORTED, "of method gptq",
     "not supported"},
    {"quantization_config", "{\"quant_method\": \"bitsandbytes\", \"load_in_4bit\": true}", SL_ERROR_UNSUPPORTED,
     "of method bitsandbytes", "only f32, f16 and bf16"},
    {"quantization_config", "{\"bits\": 4}", SL_ERROR_UNSUPPORTED, "quantization_config", "not supported"},
    {"vision_config", "[]", SL_ERROR_FORMAT, "vision_config", "expected an object"},
    {"text_config", "\"llama\"", SL_ERROR_FORMAT, "text_config", "expected an object"},
    {"text_config.rope_scaling", "\"linear\"", SL_ERROR_FORMAT, "rope_scaling", "expected an object"},
    {"text_config.rope_parameters.rope_type", "\"yarn\"", SL_ERROR_UNSUPPORTED, "rope type", "\"yarn\""},
    {"text_config.rope_parameters.rope_type", "\"longrope\"", SL_ERROR_UNSUPPORTED, "rope type", "\"longrope\""},
    {"text_config.rope_parameters", "{\"rope_type\": \"linear\"}", SL_ERROR_FORMAT, "\"linear\"", "factor is 0"},
    {"text_config.rope_parameters", "{\"rope_type\": \"llama3\", \"factor\": -8}", SL_ERROR_FORMAT, "\"llama3\"", "factor is -8"},
    {"text_config.rope_parameters",
     "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4, "
     "\"original_max_position_embeddings\": 8192}", SL_ERROR_FORMAT, "high_freq_factor 4", "0 < low < high"},
    {"text_config.rope_parameters",
     "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4}", SL_ERROR_FORMAT,
     "\"llama3\"", "original_max_position_embeddings"},
    {"text_config.quantization_config", "{\"quant_method\": \"awq\", \"bits\": 4}", SL_ERROR_UNSUPPORTED, "text_config",
     "of method awq"},
    {"text_config.rope_parameters.rope_theta", "0", SL_ERROR_FORMAT, "rope_theta", "> 0"},
    {"text_config.rope_parameters.rope_theta", "-500.0", SL_ERROR_FORMAT, "rope_theta", "-500"},
    {"text_config.rope_parameters.rope_theta", "\"big\"", SL_ERROR_FORMAT, "rope_theta", "expected a number"},
    {"text_config.rms_norm_eps", "-1e-6", SL_ERROR_FORMAT, "rms_norm_eps", "-1e-06"},
    {"vision_config.layer_norm_eps", "-1", SL_ERROR_FORMAT, "layer_norm_eps", "-1"},
    {"text_config.head_dim", "11", SL_ERROR_FORMAT, "head width 11", "odd"},
    {"text_config.num_key_value_heads", "3", SL_ERROR_FORMAT, "num_key_value_heads 3", "num_attention_heads 4"},
    {"text_config.num_key_value_heads", "8", SL_ERROR_FORMAT, "num_key_value_heads 8", "num_attention_heads 4"},
    {"vision_config.num_attention_heads", "5", SL_ERROR_FORMAT, "hidden_size 32", "num_attention_heads 5"},
    {"vision_config.image_size", "6", SL_ERROR_FORMAT, "image_size 6", "patch_size 7"},
    {"vision_config.image_size", "56", SL_ERROR_FORMAT, "28 x 28", "56"},
    {"vision_config.patch_size", "29", SL_ERROR_FORMAT, "patch_size 29", "image_size 28"},
    {"vision_feature_layer", "4", SL_ERROR_FORMAT, "vision_feature_layer 4", "3 layers"},
    {"vision_feature_layer", "-5", SL_ERROR_FORMAT, "vision_feature_layer -5", "3 layers"},
    {"vision_feature_select_strategy", "\"cls\"", SL_ERROR_FORMAT, "\"cls\"", "\"default\" or \"full\""},
    {"vision_config.hidden_act", "\"relu\"", SL_ERROR_UNSUPPORTED, "hidden_act", "\"relu\""},
    {"text_config.hidden_act", "\"relu\"", SL_ERROR_UNSUPPORTED, "hidden_act", "\"relu\""},
    {"projector_hidden_act", "\"mish\"", SL_ERROR_UNSUPPORTED, "projector_hidden_act", "\"mish\""},
    {"vision_config.model_type", "\"siglip_vision_model\"", SL_ERROR_UNSUPPORTED, "siglip_vision_model",
     "clip_vision_model"},
    {"text_config.model_type", "\"gpt2\"", SL_ERROR_UNSUPPORTED, "gpt2", "llama"},
    {"text_config.attention_bias", "1", SL_ERROR_FORMAT, "attention_bias", "true or false"},
    {"image_token_index", "343", SL_ERROR_FORMAT, "\"<image>\" has id 344", "image_token_index is 343"},
    {"image_token_id", "3", SL_ERROR_FORMAT, "344", "3"},
    /* right by themselves, but not what the tensors are */
    {"text_config.hidden_size", "52", SL_ERROR_FORMAT, "has shape [", "config.json makes it ["},
    {"text_config.intermediate_size", "262144", SL_ERROR_FORMAT, "gate_proj", "[262144, 48]"},
    {"text_config.vocab_size", "4194304", SL_ERROR_FORMAT, "embed_tokens.weight\" has shape [352, 48]",
     "[4194304, 48]"},
    {"text_config.num_hidden_layers", "1024", SL_ERROR_FORMAT, "layers.3.", "missing"},
    {"text_config.num_attention_heads", "8", SL_ERROR_FORMAT, "q_proj.weight\" has shape [48, 48]", "[96, 48]"},
    {"vision_config.num_hidden_layers", "1024", SL_ERROR_FORMAT, "encoder.layers.3.", "missing"},
    {"vision_config.hidden_size", "34", SL_ERROR_FORMAT, "has shape [", "makes it ["},
    {"vision_config.patch_size", "14", SL_ERROR_FORMAT, "patch_embedding.weight\" has shape [32, 3, 7, 7]",
     "[32, 3, 14, 14]"},
};

static void wrong_config_values(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof wrong_values / sizeof *wrong_values; i++) {
    folder f = folder_copy("llava-gqa");
    char what[160];
    folder_set_json(&f, "config.json", wrong_values[i].path, wrong_values[i].value);
    snprintf(what, sizeof what, "%s: %s", wrong_values[i].path, wrong_values[i].value);
    EXPECT_FAILURE(what, f.dir, wrong_values[i].status, f.dir, wrong_values[i].part, wrong_values[i].other);
    folder_remove(&f);
  }
  folder f = folder_copy("llava-mha"); /* no head_dim there */
  folder_set_json(&f, "config.json", "text_config.num_attention_heads", "5");
  EXPECT_FAILURE("heads that do not divide", f.dir, SL_ERROR_FORMAT, f.dir, "hidden_size 36", "num_attention_heads 5");
  folder_remove(&f);
  f = folder_copy("llava-gqa");
  folder_set_json(&f, "config.json", "vision_config.image_size", "4096");
  folder_set_json(&f, "config.json", "vision_config.patch_size", "1");
  EXPECT_FAILURE("16 million patches", f.dir, SL_ERROR_FORMAT, f.dir, "16777217", "limit");
  folder_remove(&f);
}

/* Older and newer spellings, nulls, and a feature layer at either end of the tower are all right. */
static void right_config_values(void **state) {
  (void)state;
  static const struct {
    const char *path, *value;
    int vision_layers;
  } values[] = {
      {"quantization_config", "null", 2}, {"text_config.rope_scaling", "null", 2},
      {"image_token_id", "344", 2},       {"vision_feature_layer", "0", 0},
      {"vision_feature_layer", "-4", 0},  {"vision_feature_layer", "3", 3},
      {"vision_feature_layer", "-1", 3},  {"text_config.hidden_act", "\"swish\"", 2},
      {"anything_else", "[1, {}]", 2},    {"text_config.rms_norm_eps", "0", 2},
  };
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    folder f = folder_copy("llava-gqa");
    folder_set_json(&f, "config.json", values[i].path, values[i].value);
    sl_model *model = NULL;
    ASSERT_OK(open_with(&model, f.dir, NULL, NULL));
    assert_int_equal(sl_model_get_shape(model)->vision.n_layer, values[i].vision_layers);
    sl_model_close(model);
    folder_remove(&f);
  }
}

static void wrong_options(void **state) {
  (void)state;
  const char *dir = GOLDEN_DIR "/llava-gqa";
  sl_model *model = NULL;
  sl_model_options options = {.size = sizeof options, .backend = "tpu"};
  assert_int_equal(sl_model_open(&model, dir, &options), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "tpu"));
  options = (sl_model_options){.size = sizeof options, .backend = "ref", .compute = "f64"};
  assert_int_equal(sl_model_open(&model, dir, &options), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "f64"));
  const size_t sizes[] = {0, sizeof options + 8};
  for (int i = 0; i < 2; i++) {
    options = (sl_model_options){.size = sizes[i]};
    assert_int_equal(sl_model_open(&model, dir, &options), SL_ERROR_ARGUMENT);
    assert_non_null(strstr(sl_error_message(), "sl_model_options"));
  }
  assert_int_equal(sl_model_open(&model, "bad\xff", NULL), SL_ERROR_ARGUMENT);
  assert_non_null(strstr(sl_error_message(), "UTF-8"));
  assert_null(model);
  options = (sl_model_options){.size = offsetof(sl_model_options, compute), .backend = "ref"}; /* an older caller's */
  ASSERT_OK(sl_model_open(&model, dir, &options));
  assert_string_equal(sl_backend_name(sl_model_get_backend(model)), "ref");
  sl_model_close(model);
  model = NULL;
  assert_null(model);
  sl_model_close(NULL);
}

/* ---- tensors ---- */

typedef struct tensor_edit {
  const char *name;
  enum { WRONG_SHAPE, TRANSPOSED, WRONG_TYPE, DROPPED, WITH_NAN } how;
  float *values; /* for WITH_NAN: room that the caller frees */
} tensor_edit;

static bool edit_tensor(sl_tensor *t, char *name, void *user) {
  tensor_edit *edit = user;
  if (strcmp(name, edit->name) != 0) return true;
  const int64_t count = sl_tensor_count(t), first = t->shape[0];
  switch (edit->how) {
  case WRONG_SHAPE: t->shape[0] -= 1; break;
  case TRANSPOSED:
    t->shape[0] = t->shape[1];
    t->shape[1] = first;
    break;
  case WRONG_TYPE: t->dtype = SL_I32; break;
  case DROPPED: return false;
  case WITH_NAN:
    edit->values = malloc((size_t)count * sizeof(float));
    memcpy(edit->values, t->data, (size_t)count * sizeof(float));
    edit->values[5] = NAN;
    t->data = edit->values;
    break;
  }
  return true;
}

#define LAYER_1 "language_model.model.layers.1."

static void wrong_tensors(void **state) {
  (void)state;
  static const struct {
    tensor_edit edit;
    sl_status status;
    const char *part, *other;
  } cases[] = {
      {{LAYER_1 "mlp.up_proj.weight", WRONG_SHAPE, NULL}, SL_ERROR_FORMAT, "[79, 48]", "[80, 48]"},
      {{LAYER_1 "mlp.up_proj.weight", TRANSPOSED, NULL}, SL_ERROR_FORMAT, "[48, 80]", "[80, 48]"},
      {{LAYER_1 "input_layernorm.weight", WRONG_SHAPE, NULL}, SL_ERROR_FORMAT, "[47]", "[48]"},
      {{LAYER_1 "self_attn.q_proj.bias", WRONG_SHAPE, NULL}, SL_ERROR_FORMAT, "[47]", "[48]"},
      {{LAYER_1 "self_attn.k_proj.weight", WRONG_TYPE, NULL}, SL_ERROR_UNSUPPORTED, "is I32", "F32, F16 or BF16"},
      {{"multi_modal_projector.linear_2.bias", WRONG_TYPE, NULL}, SL_ERROR_UNSUPPORTED, "is I32", "F32, F16 or BF16"},
      {{"vision_tower.vision_model.embeddings.class_embedding", WRONG_SHAPE, NULL}, SL_ERROR_FORMAT, "[31]", "[32]"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    folder f = folder_copy("llava-gqa");
    tensor_edit edit = cases[i].edit;
    folder_rewrite(&f, edit_tensor, &edit, NULL);
    EXPECT_FAILURE(edit.name, f.dir, cases[i].status, f.dir, "model.safetensors", edit.name, cases[i].part,
                   cases[i].other);
    folder_remove(&f);
  }
}

/* Every single tensor of the folder is needed, except those that the kept feature layer leaves out. */
static void every_tensor_is_needed(void **state) {
  (void)state;
  sl_safetensors *file = NULL;
  ASSERT_OK(sl_safetensors_open(&file, GOLDEN_DIR "/llava-gqa"));
  int n_optional = 0;
  for (int i = 0; i < sl_safetensors_count(file); i++) {
    const char *name = sl_safetensors_at(file, i)->name, *tail = strstr(name, "layers.");
    if (i % 5 != 0 && !strstr(name, "lm_head") && !strstr(name, "encoder.layers.2.") && !strstr(name, "post_layernorm"))
      continue; /* a fifth of them is enough */
    folder f = folder_copy("llava-gqa");
    tensor_edit edit = {name, DROPPED, NULL};
    folder_rewrite(&f, edit_tensor, &edit, NULL);
    if (strstr(name, "encoder.layers.2.") || strstr(name, "post_layernorm")) {
      sl_model *model = NULL;
      ASSERT_OK(open_with(&model, f.dir, NULL, NULL));
      sl_model_close(model);
      n_optional++;
    } else {
      EXPECT_FAILURE(name, f.dir, SL_ERROR_FORMAT, f.dir, tail ? tail : strrchr(name, '.'), "missing");
    }
    folder_remove(&f);
  }
  assert_true(n_optional > 10);
  sl_safetensors_close(file);
}

static void duplicate_tensor(void **state) {
  (void)state;
  folder f = folder_copy("llava-gqa");
  float values[48] = {0};
  const sl_tensor more = {
      .name = "model.language_model.norm.weight", .data = values, .dtype = SL_F32, .n_dim = 1, .shape = {48}};
  folder_rewrite(&f, NULL, NULL, &more);
  EXPECT_FAILURE("one weight under two names", f.dir, SL_ERROR_FORMAT, f.dir, "\"model.language_model.norm.weight\"",
                 "\"language_model.model.norm.weight\"");
  folder_remove(&f);
}

/* A log that keeps all lines. */
static void keep_log(void *user, const char *message) {
  sl_text *text = user;
  ASSERT_OK(sl_text_append_string(text, message));
  ASSERT_OK(sl_text_append_string(text, "\n"));
}

static void unused_tensors_are_told(void **state) {
  (void)state;
  folder f = folder_copy("llava-gqa");
  float values[4] = {0};
  const sl_tensor more = {.name = "image_newline", .data = values, .dtype = SL_F32, .n_dim = 1, .shape = {4}};
  folder_rewrite(&f, NULL, NULL, &more);
  sl_text log = {0};
  sl_model *model = NULL;
  ASSERT_OK(open_with(&model, f.dir, keep_log, &log));
  assert_string_equal(log.data, "1 tensor of the folder is not used, first \"image_newline\"\n");
  char *json = NULL;
  ASSERT_OK(sl_model_describe(model, "What?", &json));
  assert_non_null(strstr(json, "image_newline"));
  free(json);
  sl_text_dispose(&log);
  sl_model_close(model);
  folder_remove(&f);
}

/* The golden folders themselves hold nothing unknown: not a word in the log. */
static void golden_folders_are_silent(void **state) {
  (void)state;
  static const char *const names[] = {"llava-gqa", "llava-mha", "llava-orig-pad"};
  for (int i = 0; i < 3; i++) {
    char dir[600];
    snprintf(dir, sizeof dir, "%s/%s", GOLDEN_DIR, names[i]);
    sl_text log = {0};
    sl_model *model = NULL;
    ASSERT_OK(open_with(&model, dir, keep_log, &log));
    if (log.length > 0) fail_msg("%s: %s", names[i], log.data);
    sl_text_dispose(&log);
    sl_model_close(model);
  }
}

static void nan_weights_are_told(void **state) {
  (void)state;
  static const char *const names[] = {LAYER_1 "mlp.up_proj.weight", LAYER_1 "input_layernorm.weight",
                                      "vision_tower.vision_model.embeddings.patch_embedding.weight"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    folder f = folder_copy("llava-gqa");
    tensor_edit edit = {names[i], WITH_NAN, NULL};
    folder_rewrite(&f, edit_tensor, &edit, NULL);
    free(edit.values);
    sl_text log = {0};
    sl_model *model = NULL;
    ASSERT_OK(open_with(&model, f.dir, keep_log, &log));
    assert_non_null(log.data);
    if (!strstr(log.data, names[i]) || !strstr(log.data, "element 5"))
      fail_msg("%s: the log says: %s", names[i], log.data);
    sl_text_dispose(&log);
    sl_model_close(model);
    folder_remove(&f);
  }
}

/* A chat template of another shape is told, wherever it stands; the family's own (in the golden folder) is not. */
static void other_templates_are_told(void **state) {
  (void)state;
  static const char *const files[] = {"chat_template.jinja", "chat_template.json"};
  static const char *const texts[] = {"{{ '<|im_start|>assistant' }}", "{\"chat_template\": \"<|im_start|>assistant\"}"};
  for (int i = 0; i < 2; i++) {
    folder f = folder_copy("llava-gqa");
    folder_write(&f, files[i], texts[i], strlen(texts[i]));
    sl_text log = {0};
    sl_model *model = NULL;
    ASSERT_OK(open_with(&model, f.dir, keep_log, &log));
    assert_non_null(log.data);
    if (!strstr(log.data, files[i]) || !strstr(log.data, "ASSISTANT:")) fail_msg("the log says: %s", log.data);
    sl_text_dispose(&log);
    sl_model_close(model);
    folder_remove(&f);
  }
}

/* A head that is absent is the embedding, unless the config says otherwise. */
static void untied_head_is_missed(void **state) {
  (void)state;
  folder f = folder_copy("llava-gqa");
  tensor_edit edit = {"language_model.lm_head.weight", DROPPED, NULL};
  folder_rewrite(&f, edit_tensor, &edit, NULL);
  EXPECT_FAILURE("no head", f.dir, SL_ERROR_FORMAT, f.dir, "lm_head.weight", "tie_word_embeddings");
  folder_set_json(&f, "config.json", "text_config.tie_word_embeddings", "true");
  sl_model *model = NULL;
  ASSERT_OK(open_with(&model, f.dir, NULL, NULL));
  sl_model_close(model);
  folder_set_json(&f, "config.json", "text_config.tie_word_embeddings", NULL);
  folder_set_json(&f, "config.json", "tie_word_embeddings", NULL);
  ASSERT_OK(open_with(&model, f.dir, NULL, NULL));
  sl_model_close(model);
  folder_remove(&f);
}

/* ---- several at once, callbacks, memory ---- */

static bool stop_at(void *user, const char *what, double done, double total) {
  (void)what;
  if (!(done <= total)) fail_msg("progress %g of %g", done, total);
  int *left = user;
  return --*left != 0;
}

static void progress_reaches_its_end_or_stops(void **state) {
  (void)state;
  static const char *const names[] = {"llava-gqa", "llava-mha", "llava-orig-pad"};
  for (int i = 0; i < 3; i++) {
    char dir[600];
    snprintf(dir, sizeof dir, "%s/%s", GOLDEN_DIR, names[i]);
    int left = 0, stop = 7;
    sl_model_options options = {.size = sizeof options, .backend = "ref", .progress = stop_at, .user = &left};
    sl_model *model = NULL;
    ASSERT_OK(sl_model_open(&model, dir, &options));
    const sl_model_shape *shape = sl_model_get_shape(model);
    assert_int_equal(-left, 5 + 4 * (shape->vision.n_layer + shape->decoder.n_layer));
    sl_model_close(model);
    options.user = &stop;
    assert_int_equal(sl_model_open(&model, dir, &options), SL_ERROR_CANCELLED);
    assert_null(model);
  }
}

/* Every single allocation of opening fails once: an error each time, nothing lost (the sanitizer build counts). */
static void allocations_may_fail(void **state) {
  (void)state;
  const char *dir = GOLDEN_DIR "/llava-mha";
  for (long n = 1;; n++) {
    sl_model *model = NULL;
    sl_alloc_fail_at(n);
    const sl_status status = open_with(&model, dir, NULL, NULL);
    sl_alloc_fail_at(0);
    if (status == SL_OK) {
      assert_true(n > 500);
      if (getenv("SL_TEST_VERBOSE")) fprintf(stderr, "%ld allocations\n", n);
      sl_model_close(model);
      return;
    }
    if (status != SL_ERROR_MEMORY) fail_msg("allocation %ld: %s", n, sl_error_message());
    assert_null(model);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(missing_files),
      cmocka_unit_test(broken_files),
      cmocka_unit_test(wrong_integers),
      cmocka_unit_test(wrong_config_values),
      cmocka_unit_test(right_config_values),
      cmocka_unit_test(wrong_options),
      cmocka_unit_test(wrong_tensors),
      cmocka_unit_test(every_tensor_is_needed),
      cmocka_unit_test(duplicate_tensor),
      cmocka_unit_test(unused_tensors_are_told),
      cmocka_unit_test(golden_folders_are_silent),
      cmocka_unit_test(nan_weights_are_told),
      cmocka_unit_test(other_templates_are_told),
      cmocka_unit_test(untied_head_is_missed),
      cmocka_unit_test(progress_reaches_its_end_or_stops),
      cmocka_unit_test(allocations_may_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
