/* Byte-pair encoding. A word's characters form a linked list; a binary heap holds the pairs that may merge, lowest rank
 * first and leftmost among equals; stale candidates are recognised when taken. n characters cost O(n log n), so a
 * megabyte without a pre-tokenizer is no trouble. */
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer_internal.h"

void sl_tok_bpe_dispose(sl_tok_bpe *bpe) {
  free(bpe->merges);
  sl_text_dispose(&bpe->unk);
  sl_text_dispose(&bpe->prefix);
  sl_text_dispose(&bpe->suffix);
}

void sl_tok_word_dispose(sl_tok_word *word) {
  free(word->symbols);
  free(word->joins);
  free(word->ranges);
  free(word->cuts);
  free(word->heap);
  sl_text_dispose(&word->normal);
}

sl_status sl_tok_ids_add(sl_tok_ids *ids, int32_t id) {
  SL_TRY(sl_tok_grow((void **)&ids->items, ids->n, &ids->capacity, sizeof *ids->items, "token ids"));
  ids->items[ids->n++] = id;
  return SL_OK;
}

/* ---- loading ---- */

static sl_tok_merge *merge_slot(const sl_tok_bpe *bpe, uint64_t pair) {
  uint64_t hash = pair * 0x9e3779b97f4a7c15u;
  size_t mask = bpe->n_slot - 1, slot = (size_t)(hash ^ hash >> 32) & mask;
  while (bpe->merges[slot].rank >= 0 && bpe->merges[slot].pair != pair) slot = (slot + 1) & mask;
  return &bpe->merges[slot];
}

typedef struct merge_reader {
  sl_tok_bpe *bpe;
  const sl_tok_vocab *vocab;
  const sl_tok_source *source;
  sl_text left, right, joined;
  size_t at; /* in the list of merges */
  int32_t rank;
  bool legacy; /* "a b" strings; otherwise ["a", "b"] pairs */
} merge_reader;

/* An error about the merge being read, by "tokenizer.json: merge 7" or "merges.txt: line 9". */
static sl_status refuse_merge(const merge_reader *r, const char *expected, const char *bytes, size_t n_bytes) {
  const char *lines = r->source->merges;
  SL_FAIL(SL_ERROR_FORMAT, "%s: %s %zu: expected %s, found \"%s\"", lines ? lines : r->source->name,
          lines ? "line" : "merge", lines ? r->at + 1 : (size_t)r->rank, expected, sl_tok_quote(bytes, n_bytes).text);
}

static sl_status merge_id(const merge_reader *r, const char *bytes, size_t n_bytes, int32_t *id) {
  *id = sl_tok_vocab_model_id(r->vocab, bytes, n_bytes);
  return *id >= 0 ? SL_OK : refuse_merge(r, "a token of the vocabulary", bytes, n_bytes);
}

/* Enters one merge. */
static sl_status enter_merge(merge_reader *r, const char *left, size_t n_left, const char *right, size_t n_right) {
  int32_t left_id, right_id, new_id;
  SL_TRY(merge_id(r, left, n_left, &left_id));
  SL_TRY(merge_id(r, right, n_right, &right_id));
  size_t n_prefix = r->bpe->prefix.length;
  if (n_right < n_prefix) return refuse_merge(r, "continuing_subword_prefix in front", right, n_right);
  r->joined.length = 0;
  SL_TRY(sl_text_append(&r->joined, left, n_left));
  SL_TRY(sl_text_append(&r->joined, right + n_prefix, n_right - n_prefix));
  SL_TRY(merge_id(r, r->joined.data, r->joined.length, &new_id));
  uint64_t pair = (uint64_t)left_id << 32 | (uint32_t)right_id;
  *merge_slot(r->bpe, pair) = (sl_tok_merge){pair, r->rank++, new_id}; /* of two equal merges the later one counts */
  return SL_OK;
}

static sl_status read_pair(merge_reader *r, json_t *item) {
  json_t *left = json_array_get(item, 0), *right = json_array_get(item, 1);
  if (json_array_size(item) != 2 || !json_is_string(left) || !json_is_string(right))
    SL_FAIL(SL_ERROR_FORMAT, "%s: merge %d: expected a pair of strings", r->source->name, (int)r->rank);
  SL_TRY(sl_tok_text(r->source, json_string_value(left), json_string_length(left), &r->left));
  SL_TRY(sl_tok_text(r->source, json_string_value(right), json_string_length(right), &r->right));
  return enter_merge(r, r->left.data, r->left.length, r->right.data, r->right.length);
}

static sl_status read_line(merge_reader *r, json_t *item) {
  if (r->source->merges && json_is_null(item)) return SL_OK; /* a line without a merge */
  if (!json_is_string(item))
    SL_FAIL(SL_ERROR_FORMAT, "%s: merge %d: expected a string like the others", r->source->name, (int)r->rank);
  SL_TRY(sl_tok_text(r->source, json_string_value(item), json_string_length(item), &r->left));
  const char *line = r->left.data;
  size_t n = r->left.length;
  if (n >= 8 && memcmp(line, "#version", 8) == 0) return SL_OK;
  const char *space = memchr(line, ' ', n);
  if (!space || memchr(space + 1, ' ', n - (size_t)(space + 1 - line)))
    return refuse_merge(r, "two tokens and one space", line, n);
  size_t n_left = (size_t)(space - line);
  return enter_merge(r, line, n_left, space + 1, n - n_left - 1);
}

static sl_status load_merges(sl_tok_bpe *bpe, const sl_tok_vocab *vocab, const sl_tok_source *source, json_t *list) {
  if (!json_is_array(list)) SL_FAIL(SL_ERROR_FORMAT, "%s: model: \"merges\": expected an array", source->name);
  size_t n = json_array_size(list);
  if (n > INT32_MAX / 4) SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: %zu merges are too many", source->name, n);
  for (bpe->n_slot = 64; bpe->n_slot < n * 2;) bpe->n_slot *= 2;
  SL_TRY(SL_ALLOC(bpe->merges, bpe->n_slot, "merge table"));
  for (size_t i = 0; i < bpe->n_slot; i++) bpe->merges[i].rank = -1;
  merge_reader reader = {.bpe = bpe, .vocab = vocab, .source = source};
  reader.legacy = source->merges || (n > 0 && json_is_string(json_array_get(list, 0)));
  sl_status status = SL_OK;
  for (; reader.at < n && status == SL_OK; reader.at++) {
    json_t *item = json_array_get(list, reader.at);
    status = reader.legacy ? read_line(&reader, item) : read_pair(&reader, item);
  }
  sl_text_dispose(&reader.left);
  sl_text_dispose(&reader.right);
  sl_text_dispose(&reader.joined);
  return status;
}

static sl_status load_optional_text(const sl_tok_source *source, json_t *model, const char *key, sl_text *out,
                                    bool *present) {
  json_t *value = json_object_get(model, key);
  *present = value && !json_is_null(value);
  return *present ? sl_tok_text_at(source, model, key, out) : SL_OK;
}

sl_status sl_tok_bpe_load(sl_tok_bpe *bpe, sl_tok_vocab *vocab, const sl_tok_source *source, json_t *model) {
  if (!json_is_object(model)) SL_FAIL(SL_ERROR_FORMAT, "%s: \"model\": expected an object", source->name);
  const char *name = source->name;
  double dropout = 0;
  SL_TRY(sl_json_get_real(model, "dropout", &dropout, name));
  if (dropout != 0) SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: model: dropout %g: expected null or 0", name, dropout);
  bool present;
  SL_TRY(load_optional_text(source, model, "unk_token", &bpe->unk, &bpe->has_unk));
  SL_TRY(load_optional_text(source, model, "continuing_subword_prefix", &bpe->prefix, &present));
  SL_TRY(load_optional_text(source, model, "end_of_word_suffix", &bpe->suffix, &present));
  SL_TRY(sl_json_get_bool(model, "fuse_unk", &bpe->fuse_unk, name));
  SL_TRY(sl_json_get_bool(model, "byte_fallback", &bpe->byte_fallback, name));
  SL_TRY(sl_json_get_bool(model, "ignore_merges", &bpe->ignore_merges, name));
  SL_TRY(sl_tok_vocab_load(vocab, source, json_object_get(model, "vocab")));
  SL_TRY(load_merges(bpe, vocab, source, json_object_get(model, "merges")));
  bpe->unk_id = bpe->has_unk ? sl_tok_vocab_model_id(vocab, bpe->unk.data, bpe->unk.length) : -1;
  for (int b = 0; b < 256; b++) {
    sl_tok_byte_name token = sl_tok_name_byte((uint8_t)b);
    bpe->byte_id[b] = sl_tok_vocab_model_id(vocab, token.text, strlen(token.text));
  }
  return SL_OK;
}

/* ---- characters to symbols ---- */

static sl_status add_symbol(sl_tok_word *word, int32_t id) {
  SL_TRY(sl_tok_grow((void **)&word->symbols, word->n, &word->capacity, sizeof *word->symbols, "word symbols"));
  int32_t at = (int32_t)word->n++;
  word->symbols[at] = (sl_tok_symbol){id, at - 1, at + 1};
  return SL_OK;
}

/* The bytes of one character as byte tokens; *done is false when one of them is missing. */
static sl_status add_bytes(const sl_tok_bpe *bpe, const char *bytes, size_t n_bytes, sl_tok_word *word, bool *done) {
  *done = false;
  for (size_t i = 0; i < n_bytes; i++)
    if (bpe->byte_id[(uint8_t)bytes[i]] < 0) return SL_OK;
  for (size_t i = 0; i < n_bytes; i++) SL_TRY(add_symbol(word, bpe->byte_id[(uint8_t)bytes[i]]));
  *done = true;
  return SL_OK;
}

/* One character the vocabulary lacks. A pending unknown is written late, as the reference does: byte tokens that
 * follow it come out before it. Without an unknown token the character is dropped. */
static sl_status add_missing(const sl_tok_bpe *bpe, const char *name, const sl_text *character, sl_tok_word *word,
                             bool *pending) {
  if (bpe->byte_fallback) {
    bool done;
    SL_TRY(add_bytes(bpe, character->data, character->length, word, &done));
    if (done) return SL_OK;
  }
  if (!bpe->has_unk) return SL_OK;
  if (*pending && bpe->fuse_unk) return SL_OK;
  if (bpe->unk_id < 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: unk_token \"%s\" is needed, yet the vocabulary lacks it", name,
            sl_tok_quote(bpe->unk.data, bpe->unk.length).text);
  if (*pending) SL_TRY(add_symbol(word, bpe->unk_id));
  *pending = true;
  return SL_OK;
}

static sl_status split_characters(const sl_tok_bpe *bpe, const sl_tok_vocab *vocab, const char *name, const char *text,
                                  size_t n_bytes, sl_tok_word *word, sl_text *character) {
  bool pending = false;
  word->n = 0;
  for (size_t at = 0, n; at < n_bytes; at += n) {
    uint32_t c;
    n = sl_utf8_decode(text + at, n_bytes - at, &c);
    character->length = 0;
    if (at > 0) SL_TRY(sl_text_append(character, bpe->prefix.data, bpe->prefix.length));
    SL_TRY(sl_text_append(character, text + at, n));
    if (at + n == n_bytes) SL_TRY(sl_text_append(character, bpe->suffix.data, bpe->suffix.length));
    if (word->n > SL_TOK_MAX_TEXT) SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: more than %u symbols", name, SL_TOK_MAX_TEXT);
    int32_t id = sl_tok_vocab_model_id(vocab, character->data, character->length);
    if (id < 0) {
      SL_TRY(add_missing(bpe, name, character, word, &pending));
      continue;
    }
    if (pending) SL_TRY(add_symbol(word, bpe->unk_id));
    pending = false;
    SL_TRY(add_symbol(word, id));
  }
  if (pending) SL_TRY(add_symbol(word, bpe->unk_id));
  if (word->n > 0) word->symbols[word->n - 1].next = -1;
  return SL_OK;
}

/* ---- merging ---- */

static bool before(const sl_tok_candidate *a, const sl_tok_candidate *b) {
  return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

sl_status sl_tok_heap_push(sl_tok_word *word, sl_tok_candidate candidate) {
  SL_TRY(sl_tok_grow((void **)&word->heap, word->n_heap, &word->heap_capacity, sizeof *word->heap, "merge candidates"));
  size_t i = word->n_heap++;
  for (size_t up; i > 0 && before(&candidate, &word->heap[up = (i - 1) / 2]); i = up) word->heap[i] = word->heap[up];
  word->heap[i] = candidate;
  return SL_OK;
}

sl_tok_candidate sl_tok_heap_pop(sl_tok_word *word) {
  sl_tok_candidate top = word->heap[0], last = word->heap[--word->n_heap];
  size_t i = 0, child;
  while ((child = 2 * i + 1) < word->n_heap) {
    if (child + 1 < word->n_heap && before(&word->heap[child + 1], &word->heap[child])) child++;
    if (!before(&word->heap[child], &last)) break;
    word->heap[i] = word->heap[child];
    i = child;
  }
  if (word->n_heap > 0) word->heap[i] = last;
  return top;
}

/* Enters the pair that starts at symbol `at`, if it may merge. */
static sl_status push_pair(const sl_tok_bpe *bpe, sl_tok_word *word, int32_t at) {
  if (at < 0 || word->symbols[at].next < 0) return SL_OK;
  uint64_t pair = (uint64_t)word->symbols[at].id << 32 | (uint32_t)word->symbols[word->symbols[at].next].id;
  const sl_tok_merge *merge = merge_slot(bpe, pair);
  if (merge->rank < 0) return SL_OK;
  return sl_tok_heap_push(word, (sl_tok_candidate){.rank = merge->rank, .at = at, .id = merge->id});
}

static sl_status merge_all(const sl_tok_bpe *bpe, sl_tok_word *word) {
  word->n_heap = 0;
  for (size_t i = 0; i < word->n; i++) SL_TRY(push_pair(bpe, word, (int32_t)i));
  while (word->n_heap > 0) {
    sl_tok_candidate top = sl_tok_heap_pop(word);
    word->n_step++;
    sl_tok_symbol *left = &word->symbols[top.at];
    if (left->id < 0 || left->next < 0) continue;
    sl_tok_symbol *right = &word->symbols[left->next];
    /* Stale unless the pair now standing here still merges to the same token. */
    const sl_tok_merge *merge = merge_slot(bpe, (uint64_t)left->id << 32 | (uint32_t)right->id);
    if (merge->rank < 0 || merge->id != top.id) continue;
    left->id = top.id;
    left->next = right->next;
    right->id = -1;
    if (left->next >= 0) word->symbols[left->next].prev = top.at;
    SL_TRY(push_pair(bpe, word, left->prev));
    SL_TRY(push_pair(bpe, word, top.at));
  }
  return SL_OK;
}

sl_status sl_tok_bpe_encode(const sl_tokenizer *tokenizer, const char *text, size_t n_bytes, sl_tok_word *word,
                            sl_tok_ids *ids) {
  const sl_tok_bpe *bpe = &tokenizer->bpe;
  const sl_tok_vocab *vocab = &tokenizer->vocab;
  if (n_bytes == 0) return SL_OK;
  if (bpe->ignore_merges) {
    int32_t whole = sl_tok_vocab_model_id(vocab, text, n_bytes);
    if (whole >= 0) return sl_tok_ids_add(ids, whole);
  }
  sl_text character = {0};
  sl_status status = split_characters(bpe, vocab, tokenizer->name, text, n_bytes, word, &character);
  sl_text_dispose(&character);
  SL_TRY(status);
  SL_TRY(merge_all(bpe, word));
  for (size_t i = 0; i < word->n; i++)
    if (word->symbols[i].id >= 0) SL_TRY(sl_tok_ids_add(ids, word->symbols[i].id));
  return SL_OK;
}
