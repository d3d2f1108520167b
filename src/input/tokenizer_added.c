/* Added tokens: cut out of the text before anything else sees it, leftmost longest, in two passes: those not normalized
 * out of the raw text, the others (in normalised form) out of each normalised remainder. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer_internal.h"

/* ---- the trie of contents ---- */

void sl_tok_trie_init(sl_tok_trie *trie) {
  for (int b = 0; b < 256; b++) trie->root[b] = -1;
}

static int32_t *trie_find(sl_tok_trie *trie, int32_t node, uint8_t byte) {
  int32_t *link = &trie->nodes[node].child;
  while (*link >= 0 && trie->nodes[*link].byte != byte) link = &trie->nodes[*link].sibling;
  return link;
}

static sl_status trie_new_node(sl_tok_trie *trie, uint8_t byte, int32_t *node) {
  SL_TRY(sl_tok_grow((void **)&trie->nodes, trie->n, &trie->capacity, sizeof *trie->nodes, "added-token trie"));
  *node = (int32_t)trie->n++;
  trie->nodes[*node] = (sl_tok_node){-1, -1, -1, byte};
  return SL_OK;
}

sl_status sl_tok_trie_add(sl_tok_trie *trie, const char *key, size_t n_bytes, int32_t value, const char *name) {
  int32_t node = -1;
  assert(n_bytes > 0);
  if (n_bytes > SL_TOK_MAX_KEY)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: token \"%s\": expected at most %d bytes of a token that is looked for in text, "
            "found %zu", name, sl_tok_quote(key, n_bytes).text, SL_TOK_MAX_KEY, n_bytes);
  for (size_t i = 0; i < n_bytes; i++) {
    uint8_t byte = (uint8_t)key[i];
    int32_t next = node < 0 ? trie->root[byte] : *trie_find(trie, node, byte);
    if (next < 0) {
      SL_TRY(trie_new_node(trie, byte, &next));
      if (node < 0) trie->root[byte] = next;
      else *trie_find(trie, node, byte) = next;
    }
    node = next;
  }
  if (trie->nodes[node].added >= 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: two added tokens both read \"%s\" once normalised", name,
            sl_tok_quote(key, n_bytes).text);
  trie->nodes[node].added = value;
  return SL_OK;
}

int32_t sl_tok_trie_longest(const sl_tok_trie *trie, const char *text, size_t n_bytes, size_t at, const bool *allowed,
                            size_t *end) {
  int32_t best = -1, node = trie->root[(uint8_t)text[at]];
  while (node >= 0) {
    at++;
    int32_t value = trie->nodes[node].added;
    if (value >= 0 && (!allowed || allowed[value])) {
      best = value;
      *end = at;
    }
    if (at == n_bytes) break;
    int32_t next = trie->nodes[node].child;
    while (next >= 0 && trie->nodes[next].byte != (uint8_t)text[at]) next = trie->nodes[next].sibling;
    node = next;
  }
  return best;
}

/* ---- loading ---- */

void sl_tok_addeds_dispose(sl_tok_addeds *addeds) {
  for (size_t i = 0; i < addeds->n; i++) {
    sl_text_dispose(&addeds->items[i].content);
    sl_text_dispose(&addeds->items[i].normal);
  }
  free(addeds->items);
  free(addeds->raw.nodes);
  free(addeds->normal.nodes);
  sl_tok_pattern_dispose(&addeds->word);
}

static sl_status read_added(const sl_tok_addeds *addeds, sl_tok_added *added, const sl_tok_source *source,
                            json_t *item) {
  if (!json_is_object(item)) SL_FAIL(SL_ERROR_FORMAT, "%s: added_tokens: expected objects", source->name);
  SL_TRY(sl_tok_text_at(source, item, "content", &added->content));
  const char *token = added->content.data;
  json_t *id = json_object_get(item, "id");
  int least = addeds->keep_ids ? -1 : 0; /* -1: not given */
  if (!json_is_integer(id) || json_integer_value(id) < least || json_integer_value(id) > SL_TOK_MAX_ID)
    SL_FAIL(SL_ERROR_FORMAT, "%s: added token \"%s\": \"id\": expected an integer in 0..%d", source->name,
            sl_tok_quote(token, added->content.length).text, SL_TOK_MAX_ID);
  added->id = (int32_t)json_integer_value(id);
  SL_TRY(sl_json_get_bool(item, "named", &added->named, source->name));
  SL_TRY(sl_json_get_bool(item, "extra", &added->extra, source->name));
  SL_TRY(sl_tok_bool_at(source, item, "special", &added->special));
  SL_TRY(sl_tok_bool_at(source, item, "normalized", &added->normalized));
  SL_TRY(sl_tok_bool_at(source, item, "lstrip", &added->lstrip));
  SL_TRY(sl_tok_bool_at(source, item, "rstrip", &added->rstrip));
  return sl_tok_bool_at(source, item, "single_word", &added->single_word);
}

/* Gives the token its id, as the reference does: the model's id when the model has it, else the number of tokens so
 * far (a vocabulary with gaps may have given that number away: then it names the added token). The id written in
 * tokenizer.json is not used there, so neither here; that of the other files (keep_ids) is. */
static sl_status enter_added(sl_tok_addeds *addeds, sl_tok_vocab *vocab, sl_tok_added *added, int32_t *next_id,
                             const char *name) {
  const sl_tok_entry *entry = sl_tok_vocab_find(vocab, added->content.data, added->content.length);
  bool given = addeds->keep_ids && added->id >= 0;
  if (given && entry && entry->id != added->id)
    SL_FAIL(SL_ERROR_FORMAT, "%s: added token \"%s\" has id %d, yet the vocabulary has it at %d", name,
            sl_tok_quote(added->content.data, added->content.length).text, (int)added->id, (int)entry->id);
  if (!entry && given) {
    if (!sl_tok_vocab_at(vocab, added->id)) ++*next_id;
    SL_TRY(sl_tok_vocab_add(vocab, added->content.data, added->content.length, added->id, false));
    entry = sl_tok_vocab_find(vocab, added->content.data, added->content.length);
  } else if (!entry) {
    if (*next_id > SL_TOK_MAX_ID) SL_FAIL(SL_ERROR_FORMAT, "%s: more than %d tokens", name, SL_TOK_MAX_ID);
    SL_TRY(sl_tok_vocab_add(vocab, added->content.data, added->content.length, (*next_id)++, false));
    entry = sl_tok_vocab_find(vocab, added->content.data, added->content.length);
  }
  added->id = entry->id;
  if (entry->added >= 0) { /* named again: the later flags count, but special stays special */
    sl_tok_added *old = &addeds->items[entry->added];
    added->special |= old->special;
    sl_text_dispose(&old->content);
    if (added->normal.data) sl_text_dispose(&old->normal);
    else added->normal = old->normal; /* still what it decodes from */
    *old = *added;
    return SL_OK;
  }
  SL_TRY(sl_tok_grow((void **)&addeds->items, addeds->n, &addeds->capacity, sizeof *addeds->items, "added tokens"));
  vocab->entries[entry - vocab->entries].added = (int32_t)addeds->n;
  addeds->items[addeds->n++] = *added;
  return SL_OK;
}

static sl_status normalize_added(sl_tok_added *added, const sl_tok_normalizers *normalizers, const char *name) {
  if (!added->normalized) return SL_OK;
  sl_tok_string string = {0};
  sl_status status = sl_tok_normalize(normalizers, added->content.data, added->content.length, 0, name, &string);
  if (status == SL_OK) status = sl_text_append(&added->normal, string.text.data, string.text.length);
  sl_text_dispose(&string.text);
  return status;
}

static sl_status build_tries(sl_tok_addeds *addeds, const char *name) {
  bool single_word = false;
  for (size_t i = 0; i < addeds->n; i++) {
    const sl_tok_added *added = &addeds->items[i];
    const sl_text *key = added->normalized ? &added->normal : &added->content;
    sl_tok_trie *trie = added->normalized ? &addeds->normal : &addeds->raw;
    if (key->length == 0)
      SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: added token \"%s\" is empty once normalised", name,
              sl_tok_quote(added->content.data, added->content.length).text);
    SL_TRY(sl_tok_trie_add(trie, key->data, key->length, (int32_t)i, name));
    single_word |= added->single_word;
  }
  if (!single_word) return SL_OK;
  static const char word[] = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}]";
  return sl_tok_pattern_compile(&addeds->word, word, sizeof word - 1, true, name);
}

sl_status sl_tok_addeds_load(sl_tok_addeds *addeds, sl_tok_vocab *vocab, const sl_tok_normalizers *normalizers,
                             const sl_tok_source *source, json_t *list) {
  sl_tok_trie_init(&addeds->raw);
  sl_tok_trie_init(&addeds->normal);
  if (!list || json_is_null(list)) return SL_OK;
  if (!json_is_array(list)) SL_FAIL(SL_ERROR_FORMAT, "%s: \"added_tokens\": expected an array", source->name);
  int32_t next_id = (int32_t)vocab->n_entry; /* the number of tokens, whatever the largest id */
  for (size_t i = 0; i < json_array_size(list); i++) {
    sl_tok_added added = {0};
    sl_status status = read_added(addeds, &added, source, json_array_get(list, i));
    bool skip = status == SL_OK && added.content.length == 0;
    if (status == SL_OK && !skip) status = normalize_added(&added, normalizers, source->name);
    if (status == SL_OK && !skip) status = enter_added(addeds, vocab, &added, &next_id, source->name);
    if (status != SL_OK || skip) {
      sl_text_dispose(&added.content);
      sl_text_dispose(&added.normal);
    }
    SL_TRY(status);
  }
  return build_tries(addeds, source->name);
}

void sl_tok_addeds_piece(const sl_tok_addeds *addeds, const sl_tok_vocab *vocab, const sl_tok_entry *entry,
                         const char **bytes, size_t *n_bytes) {
  const sl_tok_added *added = entry->added >= 0 ? &addeds->items[entry->added] : NULL;
  bool normal = added && added->normal.data;
  *bytes = normal ? added->normal.data : vocab->pool.data + entry->offset;
  *n_bytes = normal ? added->normal.length : entry->length;
}

/* ---- cutting ---- */

static size_t previous(const char *text, size_t at) {
  do at--;
  while (at > 0 && ((uint8_t)text[at] & 0xc0) == 0x80);
  return at;
}

static sl_status is_word(const sl_tok_addeds *addeds, const char *name, const char *text, size_t begin, size_t end,
                         bool *word) {
  sl_tok_spans spans = {0};
  sl_status status = sl_tok_pattern_spans(&addeds->word, text + begin, end - begin, name, &spans);
  *word = status == SL_OK && spans.n == 1 && spans.items[0].match;
  free(spans.items);
  return status;
}

/* Whether [begin, end) stands alone: no word character touches it. */
static sl_status stands_alone(const sl_tok_addeds *addeds, const char *name, const char *text, size_t n_bytes,
                              size_t begin, size_t end, bool *alone) {
  bool word = false;
  if (begin > 0) SL_TRY(is_word(addeds, name, text, previous(text, begin), begin, &word));
  if (!word && end < n_bytes) {
    uint32_t c;
    size_t n = sl_utf8_decode(text + end, n_bytes - end, &c);
    SL_TRY(is_word(addeds, name, text, end, end + n, &word));
  }
  *alone = !word;
  return SL_OK;
}

static bool is_blank(const sl_tok_addeds *addeds, uint32_t c) {
  return addeds->python ? sl_is_python_space(c) : sl_is_space(c);
}

static size_t spaces_before(const sl_tok_addeds *addeds, const char *text, size_t at, size_t floor) {
  while (at > floor) {
    size_t begin = previous(text, at);
    uint32_t c;
    sl_utf8_decode(text + begin, at - begin, &c);
    if (!is_blank(addeds, c)) break;
    at = begin;
  }
  return at > floor ? at : floor;
}

static size_t spaces_after(const sl_tok_addeds *addeds, const char *text, size_t at, size_t n_bytes) {
  while (at < n_bytes) {
    uint32_t c;
    size_t n = sl_utf8_decode(text + at, n_bytes - at, &c);
    if (!is_blank(addeds, c)) break;
    at += n;
  }
  return at;
}

sl_status sl_tok_addeds_cut(const sl_tok_addeds *addeds, const sl_tok_trie *trie, const bool *allowed, const char *name,
                            const char *text, size_t n_bytes, size_t n_first, sl_tok_pieces *pieces) {
  size_t done = 0; /* everything before is in pieces */
  for (size_t at = 0, end = 0; at < n_bytes; at = end) {
    int32_t found = sl_tok_trie_longest(trie, text, n_bytes, at, allowed, &end);
    if (found < 0) {
      end = at + 1;
      continue;
    }
    const sl_tok_added *added = &addeds->items[found];
    bool alone = true;
    if (added->single_word) SL_TRY(stands_alone(addeds, name, text, n_bytes, at, end, &alone));
    if (!alone) continue;
    size_t begin = added->lstrip ? spaces_before(addeds, text, at, done) : at;
    size_t stop = added->rstrip ? spaces_after(addeds, text, end, n_bytes) : end;
    if (begin > done)
      SL_TRY(sl_tok_pieces_add_text(pieces, text + done, begin - done, n_first > done ? n_first - done : 0));
    /* The search goes on right after the token, also inside spaces it swallowed. A token found there counts again,
     * unless its own left strip leaves it nothing. */
    if (begin < stop) SL_TRY(sl_tok_pieces_add_id(pieces, added->id));
    done = stop;
  }
  if (done < n_bytes)
    SL_TRY(sl_tok_pieces_add_text(pieces, text + done, n_bytes - done, n_first > done ? n_first - done : 0));
  return SL_OK;
}
