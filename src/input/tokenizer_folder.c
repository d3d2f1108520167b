/* The tokenizer of a model folder, whatever files it has: one row per kind, the first whose files are all there is
 * opened. Vocabularies without a tokenizer.json of their own are completed to what it would hold. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "input/tokenizer_internal.h"

static sl_status has_file(const char *dir, const char *name, bool *found) {
  char *path;
  SL_TRY(sl_path_join(&path, dir, name));
  *found = access(path, F_OK) == 0;
  free(path);
  return SL_OK;
}

/* ---- tokenizer.json, tokenizer.model, qwen.tiktoken ---- */

/* A file's bytes to whom they belong. `t` is empty and named after the file. */
typedef sl_status open_fn(sl_tokenizer *t, const char *dir, const char *bytes, size_t n_bytes, unsigned flags);

static sl_status open_json(sl_tokenizer *t, const char *dir, const char *bytes, size_t n_bytes, unsigned flags) {
  (void)dir;
  sl_status status = sl_tok_load_json(t, bytes, n_bytes);
  for (size_t i = 0; status == SL_OK && flags & SL_TOKENIZER_STRIP_ADDED && i < t->addeds.n; i++) {
    sl_tok_added *added = &t->addeds.items[i];
    const sl_tok_entry *entry = sl_tok_vocab_at(&t->vocab, added->id);
    if (entry && !entry->in_model) added->lstrip = added->rstrip = true;
  }
  return status;
}

static sl_status open_pieces(sl_tokenizer *t, const char *dir, const char *bytes, size_t n_bytes, unsigned flags) {
  return sl_tok_open_llama(t, dir, bytes, n_bytes, flags & SL_TOKENIZER_STRIP_ADDED);
}

static sl_status open_ranks(sl_tokenizer *t, const char *dir, const char *bytes, size_t n_bytes, unsigned flags) {
  (void)dir;
  (void)flags;
  return sl_tok_open_tiktoken(t, bytes, n_bytes);
}

/* ---- vocab.json and merges.txt, vocab.txt ---- */

typedef sl_status line_fn(json_t *into, const char *line, size_t n, size_t n_line, const char *name);

static sl_status each_line(line_fn *visit, json_t *into, const char *bytes, size_t n_bytes, const char *name) {
  size_t n_line = 0;
  for (size_t at = 0, n; at < n_bytes; at += n + 1) {
    const char *end = memchr(bytes + at, '\n', n_bytes - at);
    n = end ? (size_t)(end - bytes) - at : n_bytes - at;
    size_t n_text = n > 0 && bytes[at + n - 1] == '\r' ? n - 1 : n;
    SL_TRY(visit(into, bytes + at, n_text, n_line++, name));
  }
  return SL_OK;
}

/* Every line becomes an element, so that a merge's place tells its line; null: it holds none. */
static sl_status add_merge(json_t *merges, const char *line, size_t n, size_t n_line, const char *name) {
  bool none = n == 0 || (n_line == 0 && n >= 8 && memcmp(line, "#version", 8) == 0);
  json_t *text = none ? json_null() : json_stringn(line, n);
  if (!text) SL_FAIL(SL_ERROR_FORMAT, "%s: line %zu is not valid UTF-8", name, n_line + 1);
  return json_array_append_new(merges, text) == 0 ? SL_OK : sl_tok_no_memory(name);
}

static sl_status read_merges(const char *path, json_t *merges) {
  char *bytes;
  size_t n_bytes;
  SL_TRY(sl_tok_read_file(path, &bytes, &n_bytes));
  sl_status status = each_line(add_merge, merges, bytes, n_bytes, path);
  free(bytes);
  return status;
}

/* The last of two equal lines counts, as in a Python dictionary. */
static sl_status add_word(json_t *vocab, const char *line, size_t n, size_t n_line, const char *name) {
  if (memchr(line, 0, n) || !sl_utf8_valid(line, n, NULL))
    SL_FAIL(SL_ERROR_FORMAT, "%s: line %zu is not valid UTF-8 without NUL", name, n_line + 1);
  return json_object_setn_new(vocab, line, n, json_integer((json_int_t)n_line)) == 0 ? SL_OK : sl_tok_no_memory(name);
}

/* Lays the folder's added tokens and a model over `root` and loads it. merges: the file they come from, or NULL. */
static sl_status load_completed(sl_tokenizer *t, const sl_tok_settings *settings, json_t *root, json_t *model,
                                const char *merges) {
  sl_tok_source source = {.name = t->name, .merges = merges};
  t->addeds.keep_ids = true;
  if (json_object_set(root, "added_tokens", settings->added) != 0) return sl_tok_no_memory(t->name);
  if (json_object_set(root, "model", model) != 0) return sl_tok_no_memory(t->name);
  return sl_tok_load(t, &source, root);
}

/* NFC of the whole text comes before its added tokens are cut out, hence normalized. */
static sl_status complete_qwen2(sl_tokenizer *t, const sl_tok_settings *settings, json_t *model, const char *merges) {
  json_t *root;
  t->addeds.python = true;
  SL_TRY(sl_tok_settings_normalized(settings, true));
  SL_TRY(sl_tok_qwen_components(&root, t->name));
  sl_status status = load_completed(t, settings, root, model, merges);
  json_decref(root);
  return status;
}

/* GPT-2, RoBERTa and others publish the same two files and cut text otherwise, so the class must be named; every folder
 * of Qwen2 does. ("<|endoftext|>" would not tell: GPT-2's vocab.json has it, Qwen2's has not.) */
static sl_status check_qwen2(const sl_tok_settings *settings) {
  const char *class = NULL;
  SL_TRY(sl_json_get_string(settings->config, "tokenizer_class", &class, settings->name));
  if (!class)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: expected the tokenizer_class of vocab.json and merges.txt, found none",
            settings->name);
  if (strncmp(class, "Qwen2Tokenizer", 14) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: tokenizer_class \"%s\" over vocab.json is not supported, only Qwen2Tokenizer",
          settings->name, sl_tok_quote(class, strlen(class)).text);
}

static sl_status open_qwen2(sl_tokenizer *t, const char *dir, const char *bytes, size_t n_bytes, unsigned flags) {
  static const char *const defaults[][2] = {{"eos_token", "<|endoftext|>"}, {"unk_token", "<|endoftext|>"},
                                            {"pad_token", "<|endoftext|>"}, {NULL, NULL}};
  (void)flags;
  sl_tok_settings settings;
  char *merges = NULL;
  json_t *vocab = NULL, *model = json_pack("{s:s, s:[]}", "type", "BPE", "merges");
  sl_status status = sl_tok_settings_read(&settings, dir, defaults, false);
  if (status == SL_OK) status = check_qwen2(&settings);
  if (status == SL_OK) status = sl_json_parse(&vocab, bytes, n_bytes, t->name);
  if (status == SL_OK && json_object_set(model, "vocab", vocab) != 0) status = sl_tok_no_memory(t->name);
  if (status == SL_OK) status = sl_path_join(&merges, dir, "merges.txt");
  if (status == SL_OK) status = read_merges(merges, json_object_get(model, "merges"));
  if (status == SL_OK) status = complete_qwen2(t, &settings, model, merges);
  json_decref(vocab);
  json_decref(model);
  free(merges);
  sl_tok_settings_dispose(&settings);
  return status;
}

/* What BertTokenizer makes of vocab.txt: the same as a tokenizer.json of uncased BERT, by tokenizer_config.json. */
static sl_status bert_components(const sl_tok_settings *s, json_t *vocab, json_t **root) {
  bool lower = true, chinese = true;
  json_t *accents = json_object_get(s->config, "strip_accents");
  const char *cls = sl_tok_settings_token(s, "cls_token"), *sep = sl_tok_settings_token(s, "sep_token");
  SL_TRY(sl_json_get_bool(s->config, "do_lower_case", &lower, s->name));
  SL_TRY(sl_json_get_bool(s->config, "tokenize_chinese_chars", &chinese, s->name));
  json_t *cls_id = cls ? json_object_get(vocab, cls) : NULL, *sep_id = sep ? json_object_get(vocab, sep) : NULL;
  if (!cls_id || !sep_id)
    SL_FAIL(SL_ERROR_FORMAT, "%s: cls_token or sep_token is not in vocab.txt", s->name);
  *root = json_pack("{s:{s:s, s:b, s:b, s:O, s:b}, s:{s:s}, s:{s:s, s:[s, O], s:[s, O]}, s:{s:s, s:s, s:b}}",
                    "normalizer", "type", "BertNormalizer", "clean_text", 1, "handle_chinese_chars", chinese,
                    "strip_accents", json_is_boolean(accents) ? accents : json_null(), "lowercase", lower,
                    "pre_tokenizer", "type", "BertPreTokenizer", "post_processor", "type", "BertProcessing",
                    "cls", cls, cls_id, "sep", sep, sep_id, "decoder", "type", "WordPiece", "prefix", "##",
                    "cleanup", 1);
  return *root ? SL_OK : sl_tok_no_memory(s->name);
}

static sl_status open_bert(sl_tokenizer *t, const char *dir, const char *bytes, size_t n_bytes, unsigned flags) {
  static const char *const defaults[][2] = {{"unk_token", "[UNK]"}, {"sep_token", "[SEP]"}, {"pad_token", "[PAD]"},
                                            {"cls_token", "[CLS]"}, {"mask_token", "[MASK]"}, {NULL, NULL}};
  (void)flags;
  sl_tok_settings settings;
  json_t *vocab = json_object(), *root = NULL, *model = NULL;
  sl_status status = sl_tok_settings_read(&settings, dir, defaults, false);
  if (status == SL_OK) status = each_line(add_word, vocab, bytes, n_bytes, t->name);
  if (status == SL_OK) status = bert_components(&settings, vocab, &root);
  if (status == SL_OK) {
    const char *unk = sl_tok_settings_token(&settings, "unk_token");
    model = json_pack("{s:s, s:s, s:O}", "type", "WordPiece", "unk_token", unk ? unk : "[UNK]", "vocab", vocab);
    status = model ? load_completed(t, &settings, root, model, NULL) : sl_tok_no_memory(t->name);
  }
  json_decref(vocab);
  json_decref(root);
  json_decref(model);
  sl_tok_settings_dispose(&settings);
  return status;
}

/* ---- choosing ---- */

typedef struct kind {
  const char *file, *second; /* the vocabulary; what must be there beside it */
  open_fn *open;
  unsigned first_with; /* flags that put it before all others */
} kind;

static const kind kinds[] = {{"tokenizer.json", NULL, open_json, 0},
                             {"tokenizer.model", NULL, open_pieces, SL_TOKENIZER_STRIP_ADDED},
                             {"qwen.tiktoken", NULL, open_ranks, 0},
                             {"vocab.json", "merges.txt", open_qwen2, 0},
                             {"vocab.txt", NULL, open_bert, 0}};
enum { N_KIND = sizeof kinds / sizeof *kinds };

static sl_status choose(const char *dir, unsigned flags, const kind **chosen) {
  *chosen = NULL;
  for (size_t i = 0; i < N_KIND; i++) {
    bool found, second = true, first = kinds[i].first_with & flags;
    SL_TRY(has_file(dir, kinds[i].file, &found));
    if (kinds[i].second) SL_TRY(has_file(dir, kinds[i].second, &second));
    if (found && second && (first || !*chosen)) *chosen = &kinds[i];
  }
  if (*chosen) return SL_OK;
  SL_FAIL(SL_ERROR_FILE, "%s: no tokenizer: looked for tokenizer.json, tokenizer.model, qwen.tiktoken, vocab.json with "
          "merges.txt, vocab.txt", dir);
}

static sl_status open_kind(sl_tokenizer *t, const kind *row, const char *dir, unsigned flags) {
  char *bytes;
  size_t n_bytes;
  SL_TRY(sl_tok_read_file(t->name, &bytes, &n_bytes));
  sl_status status = row->open(t, dir, bytes, n_bytes, flags);
  free(bytes);
  return status;
}

sl_status sl_tokenizer_open_folder(sl_tokenizer **out, const char *dir, unsigned flags) {
  const kind *row;
  char *path;
  sl_tokenizer *t = NULL;
  *out = NULL;
  SL_TRY(choose(dir, flags, &row));
  SL_TRY(sl_path_join(&path, dir, row->file));
  sl_status status = sl_tok_new(&t, path);
  if (status == SL_OK) status = open_kind(t, row, dir, flags);
  free(path);
  if (status == SL_OK) *out = t;
  else sl_tokenizer_close(t);
  return status;
}
