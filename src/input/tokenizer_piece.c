/* SentencePiece's BPE (Kudo and Richardson, arXiv:1808.06226; normalizer.cc and bpe_model.cc are the reference): the
 * text is normalised (character map, blanks to U+2581, a dummy prefix), cut into characters and user-defined pieces,
 * and neighbours whose joined text is a piece merge, highest score first. What stays unknown becomes its bytes, or one
 * unknown piece for a run of it. */
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer_internal.h"

enum { MAX_RULE_BYTES = 256 };

/* ---- normalising ---- */

/* The longest rule of the character map that `text` begins with: *n_rule bytes of it become *to. The map is a double
 * array (Yata's darts-clone): a unit has its label in bits 0..7 and 31, bit 8 says that a value follows, bits 9..30 are
 * the offset to its children. Indices out of range end the search, and so does the length no honest rule has. */
static void find_rule(const sl_tok_spm *spm, const char *text, size_t n_bytes, size_t *n_rule, const char **to) {
  *n_rule = 0;
  if (spm->n_unit == 0) return;
  uint32_t unit = spm->units[0];
  size_t at = (size_t)(unit >> 10) << ((unit & 0x200) >> 6);
  for (size_t i = 0; i < n_bytes && i < MAX_RULE_BYTES; i++) {
    uint8_t byte = (uint8_t)text[i];
    at ^= byte;
    if (at >= spm->n_unit) return;
    unit = spm->units[at];
    if ((unit & 0x800000ffu) != byte) return;
    at ^= (size_t)(unit >> 10) << ((unit & 0x200) >> 6);
    if (!(unit & 0x100) || at >= spm->n_unit) continue;
    size_t value = spm->units[at] & 0x7fffffffu;
    if (value >= spm->mapped.length) continue;
    *n_rule = i + 1;
    *to = spm->mapped.data + value;
  }
}

/* The first character, rule or user-defined piece of the text: n bytes of it become to[n_to]. */
typedef struct prefix {
  size_t n, n_to;
  const char *to;
} prefix;

static prefix next_prefix(const sl_tok_spm *spm, const char *text, size_t n_bytes) {
  prefix p = {.to = text};
  size_t n_rule, end = 0;
  const char *to = NULL;
  if (sl_tok_trie_longest(&spm->user, text, n_bytes, 0, NULL, &end) >= 0) {
    p.n = p.n_to = end;
    return p;
  }
  find_rule(spm, text, n_bytes, &n_rule, &to);
  if (n_rule > 0) return (prefix){n_rule, strlen(to), to};
  uint32_t c;
  p.n = p.n_to = sl_utf8_decode(text, n_bytes, &c);
  return p;
}

static bool ends_with(const sl_text *text, const char *end, size_t n_end) {
  return text->length >= n_end && memcmp(text->data + text->length - n_end, end, n_end) == 0;
}

static sl_status add_blank(const sl_tok_spm *spm, sl_text *out) {
  return spm->escape_whitespaces ? sl_text_append(out, SL_TOK_BLANK, SL_TOK_N_BLANK) : sl_text_append(out, " ", 1);
}

static sl_status add_escaped(const sl_tok_spm *spm, const char *text, size_t n_bytes, sl_text *out) {
  for (size_t i = 0; i < n_bytes; i++) SL_TRY(text[i] == ' ' ? add_blank(spm, out) : sl_text_append(out, text + i, 1));
  return SL_OK;
}

sl_status sl_tok_spm_normalize(const sl_tok_spm *spm, const char *text, size_t n_bytes, const char *name,
                               sl_text *out) {
  const char *end = text + n_bytes;
  bool remove = spm->remove_extra_whitespaces, after_blank = remove;
  out->length = 0;
  while (remove && text < end) {
    prefix p = next_prefix(spm, text, (size_t)(end - text));
    if (p.n_to != 1 || *p.to != ' ') break;
    text += p.n;
  }
  if (text == end) return SL_OK;
  if (spm->add_dummy_prefix) SL_TRY(add_blank(spm, out));
  while (text < end) {
    prefix p = next_prefix(spm, text, (size_t)(end - text));
    size_t skip = 0;
    while (after_blank && skip < p.n_to && p.to[skip] == ' ') skip++;
    if (skip < p.n_to) {
      SL_TRY(add_escaped(spm, p.to + skip, p.n_to - skip, out));
      after_blank = remove && p.to[p.n_to - 1] == ' ';
    }
    if (out->length > SL_TOK_MAX_TEXT)
      SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: a text of more than %u bytes once normalised", name, SL_TOK_MAX_TEXT);
    text += p.n;
  }
  const char *blank = spm->escape_whitespaces ? SL_TOK_BLANK : " ";
  while (remove && ends_with(out, blank, strlen(blank))) out->length -= strlen(blank);
  if (!sl_utf8_valid(out->data, out->length, NULL))
    SL_FAIL(SL_ERROR_FORMAT, "%s: the character map makes invalid UTF-8 of a text", name);
  return SL_OK;
}

/* ---- encoding ---- */

static sl_status cut_symbols(const sl_tok_spm *spm, const sl_tok_vocab *vocab, const sl_text *text, sl_tok_word *word) {
  word->n_join = 0;
  for (size_t at = 0, end; at < text->length; at = end) {
    uint32_t c;
    bool user = sl_tok_trie_longest(&spm->user, text->data, text->length, at, NULL, &end) >= 0;
    if (!user) end = at + sl_utf8_decode(text->data + at, text->length - at, &c);
    const sl_tok_entry *entry = sl_tok_vocab_find(vocab, text->data + at, end - at);
    bool piece = entry && (size_t)entry->id < spm->n_piece;
    SL_TRY(sl_tok_join_add(word, at, end, piece ? entry->id : -1, user));
  }
  return SL_OK;
}

static sl_status push_range(sl_tok_word *word, size_t begin, size_t end, int32_t id) {
  SL_TRY(sl_tok_grow((void **)&word->ranges, word->n_range, &word->range_capacity, sizeof *word->ranges, "pieces"));
  word->ranges[word->n_range++] = (sl_tok_range){begin, end, id};
  return SL_OK;
}

/* A range of the text that stays one piece. */
static sl_status add_whole(const sl_tok_spm *spm, const char *text, const sl_tok_range *r, bool *after_unk,
                           sl_tok_ids *ids) {
  bool unk = r->id < 0 || r->id == spm->unk_id, was_unk = *after_unk;
  *after_unk = unk;
  if (!unk) return sl_tok_ids_add(ids, r->id);
  if (!spm->byte_fallback) return was_unk ? SL_OK : sl_tok_ids_add(ids, spm->unk_id);
  for (size_t i = r->begin; i < r->end; i++) SL_TRY(sl_tok_ids_add(ids, spm->byte_id[(uint8_t)text[i]]));
  return SL_OK;
}

/* A range of the text that is one piece; an unused piece falls apart as it was last joined, and so may its parts, as
 * deep as the piece is long: what is still to come waits in word->ranges. */
static sl_status add_piece(const sl_tok_spm *spm, const sl_tok_vocab *vocab, const char *text, const sl_tok_join *join,
                           sl_tok_word *word, bool *after_unk, sl_tok_ids *ids) {
  word->n_range = 0;
  SL_TRY(push_range(word, (size_t)join->begin, (size_t)join->end, join->id));
  while (word->n_range > 0) {
    sl_tok_range r = word->ranges[--word->n_range];
    int32_t id = r.id;
    if (id >= 0 && spm->type[id] == SL_TOK_PIECE_UNUSED && word->cuts && word->cuts[id] > 0) {
      size_t cut = r.begin + (size_t)word->cuts[id];
      SL_TRY(push_range(word, cut, r.end, sl_tok_vocab_model_id(vocab, text + cut, r.end - cut)));
      SL_TRY(push_range(word, r.begin, cut, sl_tok_vocab_model_id(vocab, text + r.begin, cut - r.begin)));
    } else {
      SL_TRY(add_whole(spm, text, &r, after_unk, ids));
    }
  }
  return SL_OK;
}

sl_status sl_tok_spm_encode(const sl_tok_spm *spm, const sl_tok_vocab *vocab, const char *name, const char *text,
                            size_t n_bytes, sl_tok_word *word, sl_tok_ids *ids) {
  SL_TRY(sl_tok_spm_normalize(spm, text, n_bytes, name, &word->normal));
  if (word->normal.length == 0) return SL_OK;
  if (spm->any_unused && !word->cuts) SL_TRY(SL_ALLOC(word->cuts, spm->n_piece, "joined unused pieces"));
  SL_TRY(cut_symbols(spm, vocab, &word->normal, word));
  SL_TRY(sl_tok_join_all(vocab, &spm->ranks, word->normal.data, word));
  bool after_unk = false;
  for (int32_t i = 0; i >= 0; i = word->joins[i].next)
    SL_TRY(add_piece(spm, vocab, word->normal.data, &word->joins[i], word, &after_unk, ids));
  return SL_OK;
}

/* ---- decoding ---- */

/* The type of a token by its text; what is no piece is unknown. */
static int type_of(const sl_tok_spm *spm, const sl_tok_vocab *vocab, const char *text, size_t n_bytes) {
  const sl_tok_entry *entry = sl_tok_vocab_find(vocab, text, n_bytes);
  return entry && (size_t)entry->id < spm->n_piece ? spm->type[entry->id] : SL_TOK_PIECE_UNKNOWN;
}

/* The bytes collected so far, ill-formed ones each as U+FFFD. */
static sl_status flush_bytes(sl_text *bytes, sl_text *out) {
  for (size_t at = 0; at < bytes->length;) {
    uint32_t c;
    size_t n = sl_utf8_decode(bytes->data + at, bytes->length - at, &c);
    char encoded[4];
    SL_TRY(sl_text_append(out, encoded, sl_utf8_encode(c, encoded)));
    at += n;
  }
  bytes->length = 0;
  return SL_OK;
}

static sl_status add_unmarked(const char *text, size_t n_bytes, sl_text *out) {
  for (size_t at = 0; at < n_bytes;) {
    bool blank = sl_tok_starts_with_blank(text + at, n_bytes - at);
    SL_TRY(blank ? sl_text_append(out, " ", 1) : sl_text_append(out, text + at, 1));
    at += blank ? SL_TOK_N_BLANK : 1;
  }
  return SL_OK;
}

/* One token that is not a byte. begins: nothing was decoded yet, so a mark in front was the dummy prefix. *prefixed:
 * such a mark was dropped. */
static sl_status decode_piece(const sl_tok_spm *spm, int type, const char *text, size_t n_bytes, bool unk, bool begins,
                              bool *prefixed, sl_text *out) {
  *prefixed = false;
  if (type == SL_TOK_PIECE_CONTROL) return SL_OK;
  if (type == SL_TOK_PIECE_UNKNOWN && unk) return sl_text_append(out, spm->unk_surface.data, spm->unk_surface.length);
  if (type == SL_TOK_PIECE_UNKNOWN) return sl_text_append(out, text, n_bytes);
  bool drop = begins && (spm->add_dummy_prefix || spm->remove_extra_whitespaces) &&
              sl_tok_starts_with_blank(text, n_bytes);
  *prefixed = drop && !spm->remove_extra_whitespaces;
  return add_unmarked(text + (drop ? SL_TOK_N_BLANK : 0), n_bytes - (drop ? SL_TOK_N_BLANK : 0), out);
}

sl_status sl_tok_spm_decode(const sl_tok_spm *spm, const sl_tok_vocab *vocab, const sl_tok_pieces *tokens, size_t from,
                            size_t to, sl_text *out) {
  size_t start = out->length;
  bool begins = true, prefixed = false;
  sl_text bytes = {0};
  sl_status status = SL_OK;
  for (size_t i = from; i < to && status == SL_OK; i++) {
    const char *text = tokens->text.data + tokens->items[i].begin;
    size_t n = tokens->items[i].end - tokens->items[i].begin;
    int type = type_of(spm, vocab, text, n);
    if (type == SL_TOK_PIECE_BYTE) {
      char byte = (char)(sl_tok_hex_digit(text[3]) * 16 + sl_tok_hex_digit(text[4]));
      status = sl_text_append(&bytes, &byte, 1);
      continue;
    }
    status = flush_bytes(&bytes, out);
    if (prefixed || out->length > start) begins = false;
    const sl_tok_entry *entry = sl_tok_vocab_find(vocab, text, n);
    if (status == SL_OK)
      status = decode_piece(spm, type, text, n, entry && entry->id == spm->unk_id, begins, &prefixed, out);
  }
  if (status == SL_OK) status = flush_bytes(&bytes, out);
  sl_text_dispose(&bytes);
  return status;
}
