/* Opening tokenizer.model with the settings of its folder, as transformers' LlamaTokenizer and the remote code's
 * InternLM2Tokenizer do. */
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer_internal.h"

static sl_status load_pieces(sl_tokenizer *t, const char *bytes, size_t n_bytes) {
  t->slow.legacy = t->slow.add_prefix_space = true;
  t->addeds.keep_ids = t->addeds.python = true;
  t->encode_piece = sl_tok_slow_encode;
  return sl_tok_spm_parse(&t->spm, &t->vocab, bytes, n_bytes, t->name);
}

static sl_status put_id(const sl_tokenizer *t, json_t *parts, json_t *tokens, const char *content, const char *what) {
  int id = sl_tokenizer_find(t, content);
  if (id < 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: %s \"%s\" is no token", t->name, what,
            sl_tok_quote(content, strlen(content)).text);
  json_t *part = json_pack("{s:{s:s}}", "SpecialToken", "id", content);
  json_t *token = json_pack("{s:[i]}", "ids", id);
  if (!part || json_array_append_new(parts, part) != 0) return sl_tok_no_memory(t->name);
  return token && json_object_set_new(tokens, content, token) == 0 ? SL_OK : sl_tok_no_memory(t->name);
}

/* bos_token, the sequence, eos_token. */
static sl_status load_template(sl_tokenizer *t, const sl_tok_source *source, const char *bos, const char *eos) {
  json_t *post = json_pack("{s:s, s:[], s:{}}", "type", "TemplateProcessing", "single", "special_tokens");
  json_t *parts = json_object_get(post, "single"), *tokens = json_object_get(post, "special_tokens");
  json_t *sequence = json_pack("{s:{s:s}}", "Sequence", "id", "A");
  sl_status status = post ? SL_OK : sl_tok_no_memory(t->name);
  if (status == SL_OK && bos) status = put_id(t, parts, tokens, bos, "bos_token");
  if (status == SL_OK && json_array_append(parts, sequence) != 0) status = sl_tok_no_memory(t->name);
  if (status == SL_OK && eos) status = put_id(t, parts, tokens, eos, "eos_token");
  if (status == SL_OK) status = sl_tok_templates_load(&t->templates, source, post);
  json_decref(sequence);
  json_decref(post);
  return status;
}

/* tokenizer_class as far as this reader knows it. */
static sl_status choose_class(sl_tokenizer *t, const sl_tok_settings *settings) {
  static const char *const llama[] = {"LlamaTokenizer", "LlamaTokenizerFast", "InternLM2Tokenizer",
                                      "InternLM2TokenizerFast"};
  const char *class = llama[0];
  SL_TRY(sl_json_get_string(settings->config, "tokenizer_class", &class, settings->name));
  for (size_t i = 0; i < sizeof llama / sizeof *llama; i++) {
    if (strcmp(class, llama[i]) != 0) continue;
    t->slow.internlm2 = i >= 2;
    return SL_OK;
  }
  SL_FAIL(SL_ERROR_UNSUPPORTED,
          "%s: tokenizer_class \"%s\" over tokenizer.model is not supported, only LlamaTokenizer and "
          "InternLM2Tokenizer", settings->name, sl_tok_quote(class, strlen(class)).text);
}

static sl_status count_unk(sl_tokenizer *t) {
  sl_tok_word word = {0};
  sl_tok_ids ids = {0};
  sl_status status = sl_tok_spm_encode(&t->spm, &t->vocab, t->name, t->slow.unk.data, t->slow.unk.length, &word, &ids);
  t->slow.n_unk = ids.n;
  sl_tok_word_dispose(&word);
  free(ids.items);
  return status;
}

static sl_status refuse_single_words(const sl_tokenizer *t) {
  for (size_t i = 0; i < t->addeds.n; i++)
    if (t->addeds.items[i].single_word)
      SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: added token \"%s\": single_word is not supported here", t->name,
              sl_tok_quote(t->addeds.items[i].content.data, t->addeds.items[i].content.length).text);
  return SL_OK;
}

static sl_status wrap_pieces(sl_tokenizer *t, const sl_tok_settings *settings, bool old) {
  bool add_bos = true, add_eos = false;
  SL_TRY(choose_class(t, settings));
  sl_tok_slow *slow = &t->slow;
  slow->old = old;
  SL_TRY(sl_json_get_bool(settings->config, "add_bos_token", &add_bos, settings->name));
  SL_TRY(sl_json_get_bool(settings->config, "add_eos_token", &add_eos, settings->name));
  if (!slow->internlm2 && !old) {
    SL_TRY(sl_json_get_bool(settings->config, "legacy", &slow->legacy, settings->name));
    SL_TRY(sl_json_get_bool(settings->config, "add_prefix_space", &slow->add_prefix_space, settings->name));
  }
  if (!slow->legacy) t->spm.add_dummy_prefix = false;
  sl_tok_source source = {.name = settings->name};
  SL_TRY(sl_tok_settings_normalized(settings, false)); /* the Python code looks at raw text only */
  SL_TRY(sl_tok_addeds_load(&t->addeds, &t->vocab, &t->normalizers, &source, settings->added));
  SL_TRY(refuse_single_words(t));
  const char *bos = slow->internlm2 ? t->spm.bos.data : sl_tok_settings_token(settings, "bos_token");
  const char *eos = sl_tok_settings_token(settings, "eos_token"), *unk = sl_tok_settings_token(settings, "unk_token");
  SL_TRY(load_template(t, &source, add_bos ? bos : NULL, add_eos ? eos : NULL));
  if (slow->legacy || !unk) return SL_OK;
  SL_TRY(sl_text_append_string(&slow->unk, unk));
  return count_unk(t);
}

sl_status sl_tok_open_llama(sl_tokenizer *t, const char *dir, const char *bytes, size_t n_bytes, bool old) {
  static const char *const defaults[][2] = {{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"},
                                            {NULL, NULL}};
  sl_tok_settings settings;
  SL_TRY(load_pieces(t, bytes, n_bytes));
  sl_status status = sl_tok_settings_read(&settings, dir, defaults, old);
  if (status == SL_OK) status = wrap_pieces(t, &settings, old);
  sl_tok_settings_dispose(&settings);
  return status;
}

sl_status sl_tokenizer_parse_sentencepiece(sl_tokenizer **out, const char *bytes, size_t n_bytes, const char *name) {
  sl_tokenizer *t;
  *out = NULL;
  SL_TRY(sl_tok_new(&t, name));
  sl_tok_trie_init(&t->addeds.raw);
  sl_tok_trie_init(&t->addeds.normal);
  sl_status status = load_pieces(t, bytes, n_bytes);
  if (status != SL_OK) sl_tokenizer_close(t);
  else *out = t;
  return status;
}
