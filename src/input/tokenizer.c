/* The tokenizer as a whole: opening tokenizer.json, and the order in which the components run. "truncation" and
 * "padding" are not executed: transformers resets both on every call. */
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer_internal.h"

static sl_status load_model(sl_tokenizer *t, const sl_tok_source *source, json_t *model) {
  if (!json_is_object(model)) SL_FAIL(SL_ERROR_FORMAT, "%s: \"model\": expected an object", source->name);
  const char *type = "BPE"; /* older files leave the type out */
  SL_TRY(sl_json_get_string(model, "type", &type, source->name));
  if (strcmp(type, "BPE") == 0) {
    t->encode_piece = sl_tok_bpe_encode;
    return sl_tok_bpe_load(&t->bpe, &t->vocab, source, model);
  }
  if (strcmp(type, "WordPiece") == 0) {
    t->encode_piece = sl_tok_wordpiece_encode;
    return sl_tok_wordpiece_load(&t->wordpiece, &t->vocab, source, model);
  }
  SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: model of type \"%s\" is not supported, only BPE and WordPiece", source->name,
          sl_tok_quote(type, strlen(type)).text);
}

sl_status sl_tok_load(sl_tokenizer *t, const sl_tok_source *source, json_t *root) {
  if (!json_is_object(root)) SL_FAIL(SL_ERROR_FORMAT, "%s: expected a JSON object", source->name);
  const char *version = "1.0";
  SL_TRY(sl_json_get_string(root, "version", &version, source->name));
  if (strcmp(version, "1.0") != 0)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: version: expected \"1.0\", found \"%s\"", source->name,
            sl_tok_quote(version, strlen(version)).text);
  if (!t->encode_piece) SL_TRY(load_model(t, source, json_object_get(root, "model")));
  SL_TRY(sl_tok_normalizers_load(&t->normalizers, source, json_object_get(root, "normalizer")));
  SL_TRY(sl_tok_addeds_load(&t->addeds, &t->vocab, &t->normalizers, source, json_object_get(root, "added_tokens")));
  SL_TRY(sl_tok_splitters_load(&t->splitters, source, json_object_get(root, "pre_tokenizer")));
  SL_TRY(sl_tok_templates_load(&t->templates, source, json_object_get(root, "post_processor")));
  return sl_tok_decoders_load(&t->decoders, source, json_object_get(root, "decoder"));
}

sl_status sl_tok_new(sl_tokenizer **out, const char *name) {
  sl_tokenizer *tokenizer;
  *out = NULL;
  SL_TRY(SL_ALLOC(tokenizer, 1, "tokenizer"));
  sl_status status = sl_strdup(&tokenizer->name, name);
  if (status != SL_OK) sl_tokenizer_close(tokenizer);
  else *out = tokenizer;
  return status;
}

sl_status sl_tok_load_json(sl_tokenizer *tokenizer, const char *bytes, size_t n_bytes) {
  json_t *root = NULL;
  sl_tok_source source = {.name = tokenizer->name};
  sl_status status = sl_tok_source_parse(&source, &root, bytes, n_bytes);
  if (status == SL_OK) status = sl_tok_load(tokenizer, &source, root);
  json_decref(root);
  return status;
}

sl_status sl_tokenizer_parse(sl_tokenizer **out, const char *bytes, size_t n_bytes, const char *name) {
  sl_tokenizer *tokenizer;
  *out = NULL;
  SL_TRY(sl_tok_new(&tokenizer, name));
  sl_status status = sl_tok_load_json(tokenizer, bytes, n_bytes);
  if (status != SL_OK) sl_tokenizer_close(tokenizer);
  else *out = tokenizer;
  return status;
}

sl_status sl_tokenizer_open(sl_tokenizer **out, const char *path) {
  char *bytes;
  size_t n_bytes;
  *out = NULL;
  SL_TRY(sl_tok_read_file(path, &bytes, &n_bytes));
  sl_status status = sl_tokenizer_parse(out, bytes, n_bytes, path);
  free(bytes);
  return status;
}

void sl_tokenizer_close(sl_tokenizer *tokenizer) {
  if (!tokenizer) return;
  sl_tok_vocab_dispose(&tokenizer->vocab);
  sl_tok_normalizers_dispose(&tokenizer->normalizers);
  sl_tok_addeds_dispose(&tokenizer->addeds);
  sl_tok_splitters_dispose(&tokenizer->splitters);
  sl_tok_bpe_dispose(&tokenizer->bpe);
  free(tokenizer->ranks.by_id);
  sl_tok_wordpiece_dispose(&tokenizer->wordpiece);
  sl_tok_spm_dispose(&tokenizer->spm);
  sl_text_dispose(&tokenizer->slow.unk);
  sl_tok_templates_dispose(&tokenizer->templates);
  sl_tok_decoders_dispose(&tokenizer->decoders);
  free(tokenizer->name);
  free(tokenizer);
}

/* ---- encoding ---- */

typedef struct encoding {
  sl_tok_pieces raw, pieces; /* cut before and after normalising */
  sl_tok_string normal;
  sl_text prepared;          /* what transformers' Python code makes of the text first */
  sl_tok_word word;
  sl_tok_ids ids;
} encoding;

static void encoding_dispose(encoding *e) {
  sl_tok_pieces_dispose(&e->raw);
  sl_tok_pieces_dispose(&e->pieces);
  sl_text_dispose(&e->normal.text);
  sl_text_dispose(&e->prepared);
  sl_tok_word_dispose(&e->word);
  free(e->ids.items);
}

/* Cuts out the added tokens; each remainder is normalised by itself, then cut again. */
static sl_status cut(const sl_tokenizer *t, const bool *allowed, const char *text, size_t n_bytes, encoding *e) {
  uint32_t c;
  size_t n_first = n_bytes > 0 ? sl_utf8_decode(text, n_bytes, &c) : 0;
  SL_TRY(sl_tok_addeds_cut(&t->addeds, &t->addeds.raw, allowed, t->name, text, n_bytes, n_first, &e->raw));
  for (size_t i = 0; i < e->raw.n; i++) {
    const sl_tok_piece *piece = &e->raw.items[i];
    if (piece->id >= 0) {
      SL_TRY(sl_tok_pieces_add_id(&e->pieces, piece->id));
      continue;
    }
    SL_TRY(sl_tok_normalize(&t->normalizers, e->raw.text.data + piece->begin, piece->end - piece->begin, piece->n_first,
                            t->name, &e->normal));
    SL_TRY(sl_tok_addeds_cut(&t->addeds, &t->addeds.normal, allowed, t->name, e->normal.text.data,
                             e->normal.text.length, e->normal.n_first, &e->pieces));
    SL_TRY(sl_tok_normalizers_check(&t->normalizers, t->name, e->pieces.text.length));
  }
  return SL_OK;
}

static sl_status encode(const sl_tokenizer *t, const bool *allowed, const char *text, size_t n_bytes, bool add_special,
                        encoding *e) {
  bool slow = t->encode_piece == sl_tok_slow_encode;
  if (slow) {
    SL_TRY(sl_tok_slow_prepare(t, text, n_bytes, &e->prepared));
    text = e->prepared.data;
    n_bytes = e->prepared.length;
  }
  SL_TRY(cut(t, allowed, text, n_bytes, e));
  SL_TRY(sl_tok_split(&t->splitters, t->name, &e->pieces, &e->raw));
  for (size_t i = 0; i < e->pieces.n; i++) {
    const sl_tok_piece *piece = &e->pieces.items[i];
    if (piece->id >= 0) SL_TRY(slow ? sl_tok_slow_add(t, piece->id, &e->ids) : sl_tok_ids_add(&e->ids, piece->id));
    else
      SL_TRY(t->encode_piece(t, e->pieces.text.data + piece->begin, piece->end - piece->begin, &e->word, &e->ids));
  }
  SL_TRY(sl_tok_templates_apply(&t->templates, t->name, add_special, &e->ids));
  if (e->ids.items) return SL_OK;
  return SL_ALLOC(e->ids.items, 1, "token ids"); /* no ids: still a pointer to free */
}

static sl_status encode_checked(const sl_tokenizer *tokenizer, const bool *allowed, const char *text, size_t n_bytes,
                                bool add_special, int32_t **ids, int *n_id, uint64_t *n_step) {
  size_t bad;
  if (n_bytes > INT32_MAX / 8)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: a text of %zu bytes is too long", tokenizer->name, n_bytes);
  if (n_bytes > 0 && !sl_utf8_valid(text, n_bytes, &bad))
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: the text is not valid UTF-8 at byte offset %zu", tokenizer->name, bad);
  encoding e = {0};
  sl_status status = encode(tokenizer, allowed, text, n_bytes, add_special, &e);
  if (n_step) *n_step = e.word.n_step;
  if (status == SL_OK) {
    *ids = e.ids.items;
    *n_id = (int)e.ids.n;
    e.ids.items = NULL;
  }
  encoding_dispose(&e);
  return status;
}

sl_status sl_tok_encode_counted(const sl_tokenizer *tokenizer, const char *text, size_t n_bytes, bool add_special,
                                int32_t **ids, int *n_id, uint64_t *n_step) {
  *ids = NULL;
  *n_id = 0;
  return encode_checked(tokenizer, NULL, text, n_bytes, add_special, ids, n_id, n_step);
}

sl_status sl_tokenizer_encode(const sl_tokenizer *tokenizer, const char *text, size_t n_bytes, bool add_special,
                              int32_t **ids, int *n_id) {
  return sl_tok_encode_counted(tokenizer, text, n_bytes, add_special, ids, n_id, NULL);
}

sl_status sl_tokenizer_encode_text(const sl_tokenizer *tokenizer, const char *text, size_t n_bytes,
                                   const int32_t *allowed, int n_allowed, int32_t **ids, int *n_id) {
  bool *marks;
  *ids = NULL;
  *n_id = 0;
  SL_TRY(SL_ALLOC(marks, tokenizer->addeds.n, "allowed added tokens"));
  for (size_t a = 0; a < tokenizer->addeds.n; a++)
    for (int i = 0; i < n_allowed; i++) marks[a] |= tokenizer->addeds.items[a].id == allowed[i];
  sl_status status = encode_checked(tokenizer, marks, text, n_bytes, false, ids, n_id, NULL);
  free(marks);
  return status;
}

/* ---- decoding ---- */

static bool piece_is_special(const sl_tokenizer *t, const char *bytes, size_t n_bytes) {
  const sl_tok_entry *entry = sl_tok_vocab_find(&t->vocab, bytes, n_bytes);
  if (!entry || entry->added < 0) return false;
  const sl_tok_added *added = &t->addeds.items[entry->added];
  return t->addeds.python ? added->named : added->special;
}

static sl_status collect_tokens(const sl_tokenizer *t, const int32_t *ids, int n_id, bool skip_special,
                                sl_tok_pieces *tokens) {
  for (int i = 0; i < n_id; i++) {
    if (ids[i] < 0 || (size_t)ids[i] >= t->vocab.n_id)
      SL_FAIL(SL_ERROR_ARGUMENT, "%s: token %d: id %d: expected 0..%zu", t->name, i, (int)ids[i],
              t->vocab.n_id > 0 ? t->vocab.n_id - 1 : 0);
    const sl_tok_entry *entry = sl_tok_vocab_at(&t->vocab, ids[i]);
    if (!entry) continue; /* a gap: the reference passes over it */
    const char *bytes;
    size_t n_bytes;
    sl_tok_addeds_piece(&t->addeds, &t->vocab, entry, &bytes, &n_bytes);
    /* The reference asks for the text it decodes from, so a special token that normalising changes is kept. */
    if (skip_special && piece_is_special(t, bytes, n_bytes)) continue;
    SL_TRY(sl_tok_pieces_add_text(tokens, bytes, n_bytes, 0));
  }
  return SL_OK;
}

sl_status sl_tokenizer_decode(const sl_tokenizer *tokenizer, const int32_t *ids, int n_id, bool skip_special,
                              sl_text *out) {
  if (tokenizer->encode_piece == sl_tok_slow_encode) return sl_tok_slow_decode(tokenizer, ids, n_id, skip_special, out);
  sl_tok_pieces tokens = {0}, spare = {0};
  sl_status status = collect_tokens(tokenizer, ids, n_id, skip_special, &tokens);
  if (status == SL_OK) status = sl_tok_decode(&tokenizer->decoders, tokenizer->name, &tokens, &spare, out);
  sl_tok_pieces_dispose(&tokens);
  sl_tok_pieces_dispose(&spare);
  return status;
}

/* ---- looking things up ---- */

int sl_tokenizer_vocab_size(const sl_tokenizer *tokenizer) { return (int)tokenizer->vocab.n_id; }

int sl_tokenizer_find(const sl_tokenizer *tokenizer, const char *token) {
  const sl_tok_entry *entry = sl_tok_vocab_find(&tokenizer->vocab, token, strlen(token));
  return entry ? entry->id : -1;
}

const char *sl_tokenizer_piece(const sl_tokenizer *tokenizer, int id, size_t *n_bytes) {
  const sl_tok_entry *entry = sl_tok_vocab_at(&tokenizer->vocab, id);
  if (n_bytes) *n_bytes = entry ? entry->length : 0;
  return entry ? tokenizer->vocab.pool.data + entry->offset : NULL;
}

bool sl_tokenizer_is_special(const sl_tokenizer *tokenizer, int id) {
  const sl_tok_entry *entry = sl_tok_vocab_at(&tokenizer->vocab, id);
  return entry && entry->added >= 0 && tokenizer->addeds.items[entry->added].special;
}
