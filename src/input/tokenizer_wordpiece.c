/* WordPiece (Devlin et al., arXiv:1810.04805): each word is cut into the longest tokens from its left end; all but the
 * first carry the prefix "##". A word that cannot be cut so, or is too long, is one unknown token. */
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer_internal.h"

void sl_tok_wordpiece_dispose(sl_tok_wordpiece *model) {
  sl_text_dispose(&model->unk);
  sl_text_dispose(&model->prefix);
}

static sl_status text_or(const sl_tok_source *source, json_t *part, const char *key, const char *otherwise,
                         sl_text *out) {
  if (json_object_get(part, key)) return sl_tok_text_at(source, part, key, out);
  return sl_text_append_string(out, otherwise);
}

sl_status sl_tok_wordpiece_load(sl_tok_wordpiece *model, sl_tok_vocab *vocab, const sl_tok_source *source,
                                json_t *part) {
  SL_TRY(text_or(source, part, "unk_token", "[UNK]", &model->unk));
  SL_TRY(text_or(source, part, "continuing_subword_prefix", "##", &model->prefix));
  model->max_chars = 100;
  SL_TRY(sl_json_get_int(part, "max_input_chars_per_word", 0, INT32_MAX, &model->max_chars, source->name));
  SL_TRY(sl_tok_vocab_load(vocab, source, json_object_get(part, "vocab")));
  for (size_t i = 0; i < vocab->n_entry; i++)
    if (vocab->entries[i].length > model->longest) model->longest = vocab->entries[i].length;
  return SL_OK;
}

static size_t count_chars(const char *text, size_t n_bytes) {
  size_t n = 0;
  for (size_t i = 0; i < n_bytes; i++) n += ((uint8_t)text[i] & 0xc0) != 0x80;
  return n;
}

/* The longest token that text[0..] begins with; its length goes into *n_found. -1 when there is none. */
static sl_status longest(const sl_tok_wordpiece *model, const sl_tok_vocab *vocab, const char *text, size_t n_bytes,
                         bool first, sl_text *key, size_t *n_found, int32_t *id) {
  key->length = 0;
  if (!first) SL_TRY(sl_text_append(key, model->prefix.data, model->prefix.length));
  size_t n_prefix = key->length, n_most = n_bytes < model->longest ? n_bytes : model->longest;
  SL_TRY(sl_text_append(key, text, n_most));
  for (size_t n = n_most; n > 0; n--) {
    if (n < n_bytes && ((uint8_t)text[n] & 0xc0) == 0x80) continue; /* inside a character */
    *id = sl_tok_vocab_model_id(vocab, key->data, n_prefix + n);
    *n_found = n;
    if (*id >= 0) return SL_OK;
  }
  *id = -1;
  return SL_OK;
}

static sl_status cut_word(const sl_tok_wordpiece *model, const sl_tok_vocab *vocab, const char *text, size_t n_bytes,
                          sl_text *key, sl_tok_ids *ids, bool *known) {
  size_t at = 0;
  *known = count_chars(text, n_bytes) <= (size_t)model->max_chars;
  while (*known && at < n_bytes) {
    size_t n;
    int32_t id;
    SL_TRY(longest(model, vocab, text + at, n_bytes - at, at == 0, key, &n, &id));
    *known = id >= 0;
    if (*known) SL_TRY(sl_tok_ids_add(ids, id));
    at += n;
  }
  return SL_OK;
}

sl_status sl_tok_wordpiece_encode(const sl_tokenizer *tokenizer, const char *text, size_t n_bytes, sl_tok_word *word,
                                  sl_tok_ids *ids) {
  (void)word;
  if (n_bytes == 0) return SL_OK;
  const sl_tok_wordpiece *model = &tokenizer->wordpiece;
  sl_text key = {0};
  size_t before = ids->n;
  bool known;
  sl_status status = cut_word(model, &tokenizer->vocab, text, n_bytes, &key, ids, &known);
  sl_text_dispose(&key);
  if (status != SL_OK || known) return status;
  ids->n = before;
  int32_t unk = sl_tok_vocab_model_id(&tokenizer->vocab, model->unk.data, model->unk.length);
  if (unk < 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: unk_token \"%s\" is needed, yet the vocabulary lacks it", tokenizer->name,
            sl_tok_quote(model->unk.data, model->unk.length).text);
  return sl_tok_ids_add(ids, unk);
}

/* ---- decoding ---- */

static sl_status replace(const sl_text *in, const char *what, const char *with, sl_text *out) {
  size_t n_what = strlen(what);
  out->length = 0;
  for (size_t at = 0; at < in->length;) {
    bool found = in->length - at >= n_what && memcmp(in->data + at, what, n_what) == 0;
    SL_TRY(found ? sl_text_append_string(out, with) : sl_text_append(out, in->data + at, 1));
    at += found ? n_what : 1;
  }
  return SL_OK;
}

sl_status sl_tok_clean_up(const char *text, size_t n_bytes, bool contract, sl_text *out) {
  static const struct {
    const char *what, *with;
    bool contraction;
  } rows[] = {{" .", ".", false}, {" ?", "?", false}, {" !", "!", false}, {" ,", ",", false}, {" ' ", "'", false},
              {" n't", "n't", false}, {" 'm", "'m", false}, {" do not", " don't", true}, {" 's", "'s", false},
              {" 've", "'ve", false}, {" 're", "'re", false}};
  sl_text texts[2] = {{0}, {0}};
  int now = 0;
  sl_status status = sl_text_append(&texts[0], text, n_bytes);
  for (size_t i = 0; i < sizeof rows / sizeof *rows && status == SL_OK; i++) {
    if (rows[i].contraction && !contract) continue;
    status = replace(&texts[now], rows[i].what, rows[i].with, &texts[!now]);
    now = !now;
  }
  if (status == SL_OK) status = sl_text_append(out, texts[now].data, texts[now].length);
  sl_text_dispose(&texts[0]);
  sl_text_dispose(&texts[1]);
  return status;
}
