/* Byte-pair encoding without a list of merges: two neighbours merge whenever their joined text is a token, the token of
 * lowest rank first and leftmost among equals. This is what SentencePiece does (rank by score, highest first; Kudo and
 * Richardson, arXiv:1808.06226) and what tiktoken does (rank by id). Symbols are ranges of the text in a linked list;
 * candidates wait in a heap and are recognised as stale when taken. */
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer_internal.h"

sl_status sl_tok_join_add(sl_tok_word *word, size_t begin, size_t end, int32_t id, bool frozen) {
  SL_TRY(sl_tok_grow((void **)&word->joins, word->n_join, &word->join_capacity, sizeof *word->joins, "word symbols"));
  int32_t at = (int32_t)word->n_join++;
  word->joins[at] = (sl_tok_join){(int32_t)begin, (int32_t)end, id, at - 1, -1, frozen};
  if (at > 0) word->joins[at - 1].next = at;
  return SL_OK;
}

/* Enters the pair that starts at symbol `at`, if its joined text is a token that something merges to. */
static sl_status push_pair(const sl_tok_vocab *vocab, const sl_tok_ranks *ranks, const char *text, sl_tok_word *word,
                           int32_t at) {
  if (at < 0 || word->joins[at].next < 0) return SL_OK;
  const sl_tok_join *left = &word->joins[at], *right = &word->joins[left->next];
  size_t n_bytes = (size_t)(right->end - left->begin);
  if (left->frozen || right->frozen || n_bytes > ranks->longest) return SL_OK;
  int32_t id = sl_tok_vocab_model_id(vocab, text + left->begin, n_bytes);
  if (id < 0 || (size_t)id >= ranks->n || ranks->by_id[id] < 0) return SL_OK;
  if (word->cuts) word->cuts[id] = left->end - left->begin;
  return sl_tok_heap_push(word, (sl_tok_candidate){ranks->by_id[id], at, id, right->end});
}

sl_status sl_tok_join_all(const sl_tok_vocab *vocab, const sl_tok_ranks *ranks, const char *text, sl_tok_word *word) {
  word->n_heap = 0;
  for (size_t i = 0; i + 1 < word->n_join; i++) SL_TRY(push_pair(vocab, ranks, text, word, (int32_t)i));
  while (word->n_heap > 0) {
    sl_tok_candidate top = sl_tok_heap_pop(word);
    word->n_step++;
    sl_tok_join *left = &word->joins[top.at];
    if (left->begin == left->end || left->next < 0) continue;
    sl_tok_join *right = &word->joins[left->next];
    if (right->end != top.end) continue; /* stale: one of the two has merged with something else */
    left->end = right->end;
    left->id = top.id;
    left->next = right->next;
    right->begin = right->end;
    if (left->next >= 0) word->joins[left->next].prev = top.at;
    SL_TRY(push_pair(vocab, ranks, text, word, left->prev));
    SL_TRY(push_pair(vocab, ranks, text, word, top.at));
  }
  return SL_OK;
}

sl_status sl_tok_ranks_encode(const sl_tokenizer *tokenizer, const char *text, size_t n_bytes, sl_tok_word *word,
                              sl_tok_ids *ids) {
  if (n_bytes == 0) return SL_OK;
  const sl_tok_vocab *vocab = &tokenizer->vocab;
  int32_t whole = sl_tok_vocab_model_id(vocab, text, n_bytes);
  if (whole >= 0) return sl_tok_ids_add(ids, whole);
  word->n_join = 0;
  for (size_t at = 0, n; at < n_bytes; at += n) {
    uint32_t c;
    n = sl_utf8_decode(text + at, n_bytes - at, &c);
    SL_TRY(sl_tok_join_add(word, at, at + n, sl_tok_vocab_model_id(vocab, text + at, n), false));
  }
  SL_TRY(sl_tok_join_all(vocab, &tokenizer->ranks, text, word));
  for (int32_t i = 0; i >= 0; i = word->joins[i].next) SL_TRY(sl_tok_ids_add(ids, word->joins[i].id));
  return SL_OK;
}
