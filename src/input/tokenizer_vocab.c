/* The vocabulary: bytes -> id by open addressing over xxhash of the bytes, and id -> bytes. Keys may hold NUL bytes. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "input/tokenizer_internal.h"

void sl_tok_vocab_dispose(sl_tok_vocab *vocab) {
  sl_text_dispose(&vocab->pool);
  free(vocab->entries);
  free(vocab->slots);
  free(vocab->by_id);
}

/* The slot that holds these bytes, or the free one where they belong. */
static size_t slot_of(const sl_tok_vocab *vocab, const char *bytes, size_t n_bytes) {
  size_t mask = vocab->n_slot - 1, slot = (size_t)XXH3_64bits(bytes, n_bytes) & mask;
  for (; vocab->slots[slot]; slot = (slot + 1) & mask) {
    const sl_tok_entry *entry = &vocab->entries[vocab->slots[slot] - 1];
    if (entry->length == n_bytes && memcmp(vocab->pool.data + entry->offset, bytes, n_bytes) == 0) break;
  }
  return slot;
}

static sl_status grow_slots(sl_tok_vocab *vocab, size_t n_entry) {
  if (n_entry <= vocab->n_slot / 2) return SL_OK;
  size_t wanted = 64;
  while (wanted < n_entry * 2) wanted *= 2;
  uint32_t *slots;
  SL_TRY(SL_ALLOC(slots, wanted, "vocabulary table"));
  free(vocab->slots);
  vocab->slots = slots;
  vocab->n_slot = wanted;
  for (size_t i = 0; i < vocab->n_entry; i++) {
    const sl_tok_entry *entry = &vocab->entries[i];
    slots[slot_of(vocab, vocab->pool.data + entry->offset, entry->length)] = (uint32_t)i + 1;
  }
  return SL_OK;
}

static sl_status grow_ids(sl_tok_vocab *vocab, int32_t id) {
  if ((size_t)id >= vocab->id_capacity) {
    size_t wanted = vocab->id_capacity * 2 > (size_t)id + 1 ? vocab->id_capacity * 2 : (size_t)id + 1;
    SL_TRY(SL_REALLOC(vocab->by_id, wanted, "token ids"));
    vocab->id_capacity = wanted;
  }
  while (vocab->n_id <= (size_t)id) vocab->by_id[vocab->n_id++] = -1;
  return SL_OK;
}

sl_status sl_tok_vocab_add(sl_tok_vocab *vocab, const char *bytes, size_t n_bytes, int32_t id, bool in_model) {
  SL_TRY(grow_slots(vocab, vocab->n_entry + 1));
  SL_TRY(grow_ids(vocab, id));
  SL_TRY(sl_tok_grow((void **)&vocab->entries, vocab->n_entry, &vocab->capacity, sizeof *vocab->entries, "tokens"));
  size_t offset = vocab->pool.length;
  SL_TRY(sl_text_append(&vocab->pool, bytes, n_bytes));
  SL_TRY(sl_text_append(&vocab->pool, "", 1));
  vocab->entries[vocab->n_entry] = (sl_tok_entry){offset, n_bytes, id, -1, in_model};
  vocab->by_id[id] = (int32_t)vocab->n_entry++;
  vocab->slots[slot_of(vocab, vocab->pool.data + offset, n_bytes)] = (uint32_t)vocab->n_entry;
  return SL_OK;
}

const sl_tok_entry *sl_tok_vocab_find(const sl_tok_vocab *vocab, const char *bytes, size_t n_bytes) {
  if (vocab->n_slot == 0) return NULL;
  uint32_t found = vocab->slots[slot_of(vocab, bytes, n_bytes)];
  return found ? &vocab->entries[found - 1] : NULL;
}

int32_t sl_tok_vocab_model_id(const sl_tok_vocab *vocab, const char *bytes, size_t n_bytes) {
  const sl_tok_entry *entry = sl_tok_vocab_find(vocab, bytes, n_bytes);
  return entry && entry->in_model ? entry->id : -1;
}

const sl_tok_entry *sl_tok_vocab_at(const sl_tok_vocab *vocab, int64_t id) {
  if (id < 0 || (uint64_t)id >= vocab->n_id || vocab->by_id[id] < 0) return NULL;
  return &vocab->entries[vocab->by_id[id]];
}

static sl_status load_one(sl_tok_vocab *vocab, const sl_tok_source *source, const sl_text *key, json_t *value) {
  sl_tok_quoted quoted = sl_tok_quote(key->data, key->length);
  const char *token = quoted.text;
  if (!json_is_integer(value))
    SL_FAIL(SL_ERROR_FORMAT, "%s: vocab: id of \"%s\": expected an integer", source->name, token);
  json_int_t id = json_integer_value(value);
  if (id < 0 || id > SL_TOK_MAX_ID)
    SL_FAIL(SL_ERROR_FORMAT, "%s: vocab: id of \"%s\": expected 0..%d, found %lld", source->name, token,
            SL_TOK_MAX_ID, (long long)id);
  const sl_tok_entry *other = sl_tok_vocab_at(vocab, id);
  if (other)
    SL_FAIL(SL_ERROR_FORMAT, "%s: vocab: id %lld belongs to both \"%s\" and \"%s\"", source->name, (long long)id,
            sl_tok_quote(vocab->pool.data + other->offset, other->length).text, token);
  return sl_tok_vocab_add(vocab, key->data, key->length, (int32_t)id, true);
}

sl_status sl_tok_vocab_load(sl_tok_vocab *vocab, const sl_tok_source *source, json_t *table) {
  if (!json_is_object(table)) SL_FAIL(SL_ERROR_FORMAT, "%s: model: \"vocab\": expected an object", source->name);
  sl_text key = {0};
  sl_status status = grow_slots(vocab, json_object_size(table));
  for (void *at = json_object_iter(table); at && status == SL_OK; at = json_object_iter_next(table, at)) {
    status = sl_tok_text(source, json_object_iter_key(at), json_object_iter_key_len(at), &key);
    if (status == SL_OK) status = load_one(vocab, source, &key, json_object_iter_value(at));
  }
  sl_text_dispose(&key);
  return status;
}
