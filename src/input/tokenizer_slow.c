/* How transformers' Python tokenizers wrap SentencePiece (LlamaTokenizer, and InternLM2Tokenizer of the remote code):
 * added tokens are cut out first, each stretch between them is encoded by itself. With "legacy" every stretch gets
 * SentencePiece's dummy prefix; without it only the beginning of the text does. Decoding joins stretches of pieces
 * around the special tokens with blanks that follow rules of their own. */
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer_internal.h"

/* ---- encoding ---- */

sl_status sl_tok_slow_prepare(const sl_tokenizer *t, const char *text, size_t n_bytes, sl_text *out) {
  if (t->slow.legacy || n_bytes == 0) return sl_text_append(out, text, n_bytes);
  if (t->slow.add_prefix_space) SL_TRY(sl_text_append(out, SL_TOK_BLANK, SL_TOK_N_BLANK));
  for (size_t at = 0; at < n_bytes;) {
    bool blank = sl_tok_starts_with_blank(text + at, n_bytes - at);
    SL_TRY(blank ? sl_text_append(out, " ", 1) : sl_text_append(out, text + at, 1));
    at += blank ? SL_TOK_N_BLANK : 1;
  }
  return SL_OK;
}

/* Without dummy prefix SentencePiece may drop a leading blank, so the reference puts the text of unk_token before it
 * and takes its tokens off again. */
static sl_status encode_behind_unk(const sl_tokenizer *t, const char *text, size_t n_bytes, sl_tok_word *word,
                                   sl_tok_ids *ids) {
  sl_text whole = {0};
  size_t before = ids->n;
  sl_status status = sl_text_append(&whole, t->slow.unk.data, t->slow.unk.length);
  if (status == SL_OK) status = sl_text_append(&whole, text, n_bytes);
  if (status == SL_OK)
    status = sl_tok_spm_encode(&t->spm, &t->vocab, t->name, whole.data, whole.length, word, ids);
  sl_text_dispose(&whole);
  SL_TRY(status);
  size_t n = ids->n - before;
  if (n < t->slow.n_unk) return SL_OK;
  memmove(ids->items + before, ids->items + before + t->slow.n_unk, (n - t->slow.n_unk) * sizeof *ids->items);
  ids->n -= t->slow.n_unk;
  return SL_OK;
}

sl_status sl_tok_slow_encode(const sl_tokenizer *t, const char *text, size_t n_bytes, sl_tok_word *word,
                             sl_tok_ids *ids) {
  if (n_bytes == 0) return SL_OK;
  if (!t->slow.legacy && (text[0] == ' ' || sl_tok_starts_with_blank(text, n_bytes)))
    return encode_behind_unk(t, text, n_bytes, word, ids);
  return sl_tok_spm_encode(&t->spm, &t->vocab, t->name, text, n_bytes, word, ids);
}

static const sl_tok_added *added_at(const sl_tokenizer *t, int32_t id) {
  const sl_tok_entry *entry = sl_tok_vocab_at(&t->vocab, id);
  return entry && entry->added >= 0 ? &t->addeds.items[entry->added] : NULL;
}

/* The prefix in front of a text goes away when a special token comes right after it. The reference compares texts, and
 * so an unknown piece, whose id may be a special token's, is none. */
sl_status sl_tok_slow_add(const sl_tokenizer *t, int32_t id, sl_tok_ids *ids) {
  const sl_tok_added *added = added_at(t, id);
  const sl_tok_entry *blank = sl_tok_vocab_find(&t->vocab, SL_TOK_BLANK, SL_TOK_N_BLANK);
  bool prefix = ids->n == 1 && blank && ids->items[0] == blank->id;
  if (prefix && !t->slow.legacy && added && added->named) ids->n = 0;
  return sl_tok_ids_add(ids, id);
}

/* ---- decoding ---- */

/* Added tokens that are no special tokens, or lie beyond SentencePiece's pieces, are decoded apart. */
static bool decoded_apart(const sl_tokenizer *t, const sl_tok_added *added) {
  if (!added) return false;
  bool beyond = (size_t)added->id >= t->spm.n_piece;
  return t->slow.old ? beyond : !added->named || (added->extra && beyond);
}

typedef struct decoding {
  const sl_tokenizer *t;
  sl_tok_pieces tokens; /* of the stretch */
  sl_text part;
  bool any; /* a part was written */
  sl_text *out;
} decoding;

/* The blanks around special tokens, as convert_tokens_to_string puts them. */
static bool blank_before_special(const sl_tok_slow *slow, size_t i, bool after_special) {
  if (after_special) return false;
  return slow->internlm2 || (slow->legacy && i > 0);
}

static sl_status stretch_text(decoding *d, sl_text *out) {
  const sl_tokenizer *t = d->t;
  const sl_tok_slow *slow = &t->slow;
  sl_tok_pieces *tokens = &d->tokens;
  bool after_special = false;
  size_t from = 0;
  if (!slow->internlm2 && !slow->old && slow->add_prefix_space) {
    sl_tok_piece *first = &tokens->items[0];
    const char *text = tokens->text.data + first->begin;
    if (sl_tok_starts_with_blank(text, first->end - first->begin)) first->begin += SL_TOK_N_BLANK;
  }
  for (size_t i = 0; i < tokens->n; i++) {
    const char *text = tokens->text.data + tokens->items[i].begin;
    size_t n = tokens->items[i].end - tokens->items[i].begin;
    const sl_tok_entry *entry = sl_tok_vocab_find(&t->vocab, text, n);
    bool special = entry && entry->added >= 0 && t->addeds.items[entry->added].named;
    if (special) {
      if (blank_before_special(slow, i, after_special)) SL_TRY(sl_text_append(out, " ", 1));
      SL_TRY(sl_tok_spm_decode(&t->spm, &t->vocab, tokens, from, i, out));
      SL_TRY(sl_text_append(out, text, n));
      from = i + 1;
    } else if (after_special && i == 1 && !slow->internlm2 && !slow->old && slow->add_prefix_space &&
               !sl_tok_starts_with_blank(text, n)) {
      SL_TRY(sl_text_append(out, " ", 1));
    }
    after_special = special;
  }
  return sl_tok_spm_decode(&t->spm, &t->vocab, tokens, from, tokens->n, out);
}

/* Writes a part, with a blank between parts. */
static sl_status write_part(decoding *d, const char *text, size_t n_bytes) {
  if (d->any) SL_TRY(sl_text_append(d->out, " ", 1));
  d->any = true;
  return sl_text_append(d->out, text, n_bytes);
}

static sl_status write_stretch(decoding *d, bool last) {
  if (d->tokens.n == 0) return SL_OK;
  sl_text text = {0};
  d->part.length = 0;
  sl_status status = stretch_text(d, &text);
  if (status == SL_OK)
    status = d->t->slow.internlm2 ? sl_tok_clean_up(text.data, text.length, false, &d->part)
                                  : sl_text_append(&d->part, text.data, text.length);
  sl_text_dispose(&text);
  d->tokens.n = d->tokens.text.length = 0;
  if (status != SL_OK || (d->part.length == 0 && !last && !d->t->slow.old)) return status;
  return write_part(d, d->part.data, d->part.length);
}

static sl_status decode_all(decoding *d, const int32_t *ids, int n_id, bool skip_special) {
  const sl_tokenizer *t = d->t;
  for (int i = 0; i < n_id; i++) {
    const sl_tok_entry *entry = sl_tok_vocab_at(&t->vocab, ids[i]);
    if (ids[i] < 0 || (size_t)ids[i] >= t->vocab.n_id)
      SL_FAIL(SL_ERROR_ARGUMENT, "%s: token %d: id %d: expected 0..%zu", t->name, i, (int)ids[i],
              t->vocab.n_id > 0 ? t->vocab.n_id - 1 : 0);
    if (!entry) continue; /* a gap */
    const sl_tok_added *added = added_at(t, ids[i]);
    if (skip_special && added && added->named) continue;
    const char *text = t->vocab.pool.data + entry->offset;
    if (!decoded_apart(t, added)) {
      SL_TRY(sl_tok_pieces_add_text(&d->tokens, text, entry->length, 0));
      continue;
    }
    SL_TRY(write_stretch(d, false));
    SL_TRY(write_part(d, text, entry->length));
  }
  return write_stretch(d, true);
}

sl_status sl_tok_slow_decode(const sl_tokenizer *t, const int32_t *ids, int n_id, bool skip_special, sl_text *out) {
  decoding d = {.t = t, .out = out};
  sl_status status = decode_all(&d, ids, n_id, skip_special);
  sl_tok_pieces_dispose(&d.tokens);
  sl_text_dispose(&d.part);
  return status;
}
