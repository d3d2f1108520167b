/* tokenizer.model: SentencePiece's ModelProto in protobuf wire format (sentencepiece_model.proto), read with a reader
 * of our own that trusts nothing. Only what changes the result is kept: pieces with score and type, the normaliser's
 * settings and character map, byte fallback. Models other than BPE are refused by name. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer_internal.h"

/* ---- protobuf ---- */

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

typedef struct message {
  const uint8_t *at, *end;
  const char *name; /* the file, for messages */
} message;

typedef struct field {
  uint32_t number;
  int wire;
  uint64_t value;     /* VARINT, FIXED */
  const char *bytes;  /* BYTES */
  size_t n_bytes;
} field;

static sl_status read_varint(message *m, uint64_t *value) {
  *value = 0;
  for (int shift = 0; shift < 70 && m->at < m->end; shift += 7) {
    uint8_t byte = *m->at++;
    if (shift == 63 && byte > 1) break;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) return SL_OK;
  }
  SL_FAIL(SL_ERROR_FORMAT, "%s: not a SentencePiece model: a number of the protobuf encoding is broken", m->name);
}

static sl_status read_fixed(message *m, size_t n, uint64_t *value) {
  if ((size_t)(m->end - m->at) < n)
    SL_FAIL(SL_ERROR_FORMAT, "%s: not a SentencePiece model: a protobuf field is cut off", m->name);
  *value = 0;
  for (size_t i = 0; i < n; i++) *value |= (uint64_t)m->at[i] << (8 * i);
  m->at += n;
  return SL_OK;
}

static sl_status next_field(message *m, field *f) {
  uint64_t key;
  SL_TRY(read_varint(m, &key));
  *f = (field){.number = (uint32_t)(key >> 3), .wire = (int)(key & 7)};
  if (key >> 3 == 0 || key >> 3 > (1u << 29) - 1)
    SL_FAIL(SL_ERROR_FORMAT, "%s: not a SentencePiece model: protobuf field number %llu", m->name,
            (unsigned long long)(key >> 3));
  switch (f->wire) {
    case VARINT: return read_varint(m, &f->value);
    case FIXED64: return read_fixed(m, 8, &f->value);
    case FIXED32: return read_fixed(m, 4, &f->value);
    case BYTES: {
      uint64_t n;
      SL_TRY(read_varint(m, &n));
      if (n > (uint64_t)(m->end - m->at))
        SL_FAIL(SL_ERROR_FORMAT, "%s: not a SentencePiece model: a protobuf field of %llu bytes, %zu are left", m->name,
                (unsigned long long)n, (size_t)(m->end - m->at));
      f->bytes = (const char *)m->at;
      f->n_bytes = (size_t)n;
      m->at += n;
      return SL_OK;
    }
    default: break;
  }
  SL_FAIL(SL_ERROR_FORMAT, "%s: not a SentencePiece model: protobuf wire type %d", m->name, f->wire);
}

static message inner(const message *m, const field *f) {
  return (message){(const uint8_t *)f->bytes, (const uint8_t *)f->bytes + f->n_bytes, m->name};
}

/* A field of the expected wire type; of another type it counts as unknown, as in protobuf. */
static bool is(const field *f, uint32_t number, int wire) { return f->number == number && f->wire == wire; }

/* ---- pieces ---- */

typedef struct loader {
  sl_tok_spm *spm;
  sl_tok_vocab *vocab;
  float *scores;
  size_t score_capacity, type_capacity;
  uint64_t model_type;
  bool suffix, denormalizer;
} loader;

static sl_status enter_piece(loader *l, const message *m, const field *text, float score, uint64_t type) {
  sl_tok_spm *spm = l->spm;
  size_t id = spm->n_piece;
  if (id > SL_TOK_MAX_ID) SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: more than %d pieces", m->name, SL_TOK_MAX_ID);
  if (!text->bytes || text->n_bytes == 0) SL_FAIL(SL_ERROR_FORMAT, "%s: piece %zu is empty", m->name, id);
  sl_tok_quoted quoted = sl_tok_quote(text->bytes, text->n_bytes);
  if (!sl_utf8_valid(text->bytes, text->n_bytes, NULL))
    SL_FAIL(SL_ERROR_FORMAT, "%s: piece %zu is not valid UTF-8", m->name, id);
  if (type < SL_TOK_PIECE_NORMAL || type > SL_TOK_PIECE_BYTE)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: piece %zu \"%s\": type %llu is unknown", m->name, id, quoted.text,
            (unsigned long long)type);
  if (isnan(score))
    SL_FAIL(SL_ERROR_FORMAT, "%s: piece %zu \"%s\": its score is not a number", m->name, id, quoted.text);
  if (sl_tok_vocab_find(l->vocab, text->bytes, text->n_bytes))
    SL_FAIL(SL_ERROR_FORMAT, "%s: piece %zu \"%s\" is there twice", m->name, id, quoted.text);
  bool merges = type == SL_TOK_PIECE_NORMAL || type == SL_TOK_PIECE_USER || type == SL_TOK_PIECE_UNUSED;
  SL_TRY(sl_tok_grow((void **)&l->scores, id, &l->score_capacity, sizeof *l->scores, "scores"));
  SL_TRY(sl_tok_grow((void **)&spm->type, id, &l->type_capacity, sizeof *spm->type, "piece types"));
  l->scores[id] = score;
  spm->type[id] = (uint8_t)type;
  spm->n_piece++;
  spm->any_unused |= type == SL_TOK_PIECE_UNUSED;
  if (type == SL_TOK_PIECE_USER)
    SL_TRY(sl_tok_trie_add(&spm->user, text->bytes, text->n_bytes, (int32_t)id, m->name));
  if (merges && text->n_bytes > spm->ranks.longest) spm->ranks.longest = text->n_bytes;
  return sl_tok_vocab_add(l->vocab, text->bytes, text->n_bytes, (int32_t)id, merges);
}

static sl_status read_piece(loader *l, message m) {
  field text = {0}, f;
  float score = 0;
  uint64_t type = SL_TOK_PIECE_NORMAL;
  while (m.at < m.end) {
    SL_TRY(next_field(&m, &f));
    if (is(&f, 1, BYTES)) text = f;
    if (is(&f, 2, FIXED32)) {
      uint32_t bits = (uint32_t)f.value;
      memcpy(&score, &bits, sizeof score);
    }
    if (is(&f, 3, VARINT)) type = f.value;
  }
  return enter_piece(l, &m, &text, score, type);
}

/* ---- settings ---- */

static sl_status set_text(sl_text *out, const field *f) {
  out->length = 0;
  return sl_text_append(out, f->bytes, f->n_bytes);
}

static sl_status read_trainer(loader *l, message m) {
  field f;
  while (m.at < m.end) {
    SL_TRY(next_field(&m, &f));
    if (is(&f, 3, VARINT)) l->model_type = f.value;
    if (is(&f, 24, VARINT)) l->suffix = f.value != 0;
    if (is(&f, 35, VARINT)) l->spm->byte_fallback = f.value != 0;
    if (is(&f, 44, BYTES)) SL_TRY(set_text(&l->spm->unk_surface, &f));
    if (is(&f, 46, BYTES) && f.n_bytes > 0) SL_TRY(set_text(&l->spm->bos, &f));
  }
  return SL_OK;
}

/* The character map: size of the double array in bytes (32 bits), the double array, results each ended by NUL. */
static sl_status read_charsmap(loader *l, const message *m, const field *f) {
  sl_tok_spm *spm = l->spm;
  free(spm->units);
  spm->units = NULL;
  spm->n_unit = spm->mapped.length = 0;
  if (f->n_bytes == 0) return SL_OK;
  message map = inner(m, f);
  uint64_t n_array = 0;
  if (f->n_bytes > 4) SL_TRY(read_fixed(&map, 4, &n_array));
  size_t left = (size_t)(map.end - map.at);
  if (n_array < 1024 || n_array % 1024 != 0 || n_array >= left || map.end[-1] != 0)
    SL_FAIL(SL_ERROR_FORMAT, "%s: normalizer: precompiled_charsmap of %zu bytes is broken", m->name, f->n_bytes);
  spm->n_unit = (size_t)n_array / 4;
  SL_TRY(SL_ALLOC(spm->units, spm->n_unit, "character map"));
  for (size_t i = 0; i < spm->n_unit; i++) {
    uint64_t unit;
    SL_TRY(read_fixed(&map, 4, &unit));
    spm->units[i] = (uint32_t)unit;
  }
  return sl_text_append(&spm->mapped, map.at, (size_t)(map.end - map.at));
}

static sl_status read_normalizer(loader *l, message m) {
  field f;
  while (m.at < m.end) {
    SL_TRY(next_field(&m, &f));
    if (is(&f, 2, BYTES)) SL_TRY(read_charsmap(l, &m, &f));
    if (is(&f, 3, VARINT)) l->spm->add_dummy_prefix = f.value != 0;
    if (is(&f, 4, VARINT)) l->spm->remove_extra_whitespaces = f.value != 0;
    if (is(&f, 5, VARINT)) l->spm->escape_whitespaces = f.value != 0;
  }
  return SL_OK;
}

static sl_status read_denormalizer(loader *l, message m) {
  field f;
  while (m.at < m.end) {
    SL_TRY(next_field(&m, &f));
    if (is(&f, 2, BYTES)) l->denormalizer = f.n_bytes > 0;
  }
  return SL_OK;
}

static sl_status read_model(loader *l, message m) {
  field f;
  while (m.at < m.end) {
    SL_TRY(next_field(&m, &f));
    if (is(&f, 1, BYTES)) SL_TRY(read_piece(l, inner(&m, &f)));
    if (is(&f, 2, BYTES)) SL_TRY(read_trainer(l, inner(&m, &f)));
    if (is(&f, 3, BYTES)) SL_TRY(read_normalizer(l, inner(&m, &f)));
    if (is(&f, 5, BYTES)) SL_TRY(read_denormalizer(l, inner(&m, &f)));
  }
  return SL_OK;
}

/* ---- what follows from it ---- */

typedef struct scored {
  float score;
  int32_t id;
} scored;

static int by_score(const void *a, const void *b) {
  const scored *x = a, *y = b;
  if (x->score != y->score) return x->score > y->score ? -1 : 1;
  return x->id - y->id;
}

/* Highest score first; equal scores have equal rank, so that the leftmost pair wins. */
static sl_status rank_pieces(loader *l) {
  sl_tok_spm *spm = l->spm;
  scored *order;
  spm->ranks.n = spm->n_piece;
  SL_TRY(SL_ALLOC(spm->ranks.by_id, spm->n_piece, "ranks"));
  SL_TRY(SL_ALLOC(order, spm->n_piece, "order of scores"));
  for (size_t i = 0; i < spm->n_piece; i++) order[i] = (scored){l->scores[i], (int32_t)i};
  if (spm->n_piece > 0) qsort(order, spm->n_piece, sizeof *order, by_score);
  int32_t rank = 0;
  for (size_t i = 0; i < spm->n_piece; i++) {
    if (i > 0 && order[i].score != order[i - 1].score) rank++;
    spm->ranks.by_id[order[i].id] = rank;
  }
  free(order);
  return SL_OK;
}

static sl_status find_bytes(loader *l, const char *name) {
  sl_tok_spm *spm = l->spm;
  size_t n_byte = 0;
  for (size_t i = 0; i < spm->n_piece; i++) n_byte += spm->type[i] == SL_TOK_PIECE_BYTE;
  for (int b = 0; b < 256; b++) {
    sl_tok_byte_name token = sl_tok_name_byte((uint8_t)b);
    const sl_tok_entry *entry = sl_tok_vocab_find(l->vocab, token.text, strlen(token.text));
    spm->byte_id[b] = entry && spm->type[entry->id] == SL_TOK_PIECE_BYTE ? entry->id : -1;
    if (spm->byte_fallback && spm->byte_id[b] < 0)
      SL_FAIL(SL_ERROR_FORMAT, "%s: byte_fallback is set, yet there is no piece \"%s\" of type BYTE", name, token.text);
  }
  if (n_byte != (spm->byte_fallback ? 256u : 0u))
    SL_FAIL(SL_ERROR_FORMAT, "%s: expected %d pieces of type BYTE, found %zu", name, spm->byte_fallback ? 256 : 0,
            n_byte);
  return SL_OK;
}

static sl_status check_model(loader *l, const char *name) {
  static const char *const types[] = {"0", "unigram", "BPE", "word", "char"};
  sl_tok_spm *spm = l->spm;
  if (spm->n_piece == 0) SL_FAIL(SL_ERROR_FORMAT, "%s: not a SentencePiece model: it holds no pieces", name);
  if (l->model_type != 2)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: a SentencePiece model of type %s is not supported, only BPE", name,
            l->model_type < 5 ? types[l->model_type] : "unknown");
  if (l->suffix) SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: treat_whitespace_as_suffix is not supported", name);
  if (l->denormalizer) SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: a denormalizer is not supported", name);
  if (!sl_utf8_valid(spm->unk_surface.data, spm->unk_surface.length, NULL))
    SL_FAIL(SL_ERROR_FORMAT, "%s: unk_surface is not valid UTF-8", name);
  spm->unk_id = -1;
  for (size_t i = 0; i < spm->n_piece; i++) {
    if (spm->type[i] != SL_TOK_PIECE_UNKNOWN) continue;
    if (spm->unk_id >= 0)
      SL_FAIL(SL_ERROR_FORMAT, "%s: pieces %d and %zu are both of type UNKNOWN", name, (int)spm->unk_id, i);
    spm->unk_id = (int32_t)i;
  }
  if (spm->unk_id < 0) SL_FAIL(SL_ERROR_FORMAT, "%s: no piece of type UNKNOWN among %zu", name, spm->n_piece);
  return SL_OK;
}

sl_status sl_tok_spm_parse(sl_tok_spm *spm, sl_tok_vocab *vocab, const char *bytes, size_t n_bytes, const char *name) {
  if (n_bytes == 0) SL_FAIL(SL_ERROR_FORMAT, "%s: expected a SentencePiece model, found an empty file", name);
  loader l = {.spm = spm, .vocab = vocab, .model_type = 1};
  spm->add_dummy_prefix = spm->remove_extra_whitespaces = spm->escape_whitespaces = true;
  sl_tok_trie_init(&spm->user);
  sl_status status = sl_text_append_string(&spm->unk_surface, " \xe2\x81\x87 ");
  if (status == SL_OK) status = sl_text_append_string(&spm->bos, "<s>");
  if (status == SL_OK)
    status = read_model(&l, (message){(const uint8_t *)bytes, (const uint8_t *)bytes + n_bytes, name});
  if (status == SL_OK) status = check_model(&l, name);
  if (status == SL_OK) status = rank_pieces(&l);
  if (status == SL_OK) status = find_bytes(&l, name);
  free(l.scores);
  return status;
}

void sl_tok_spm_dispose(sl_tok_spm *spm) {
  free(spm->ranks.by_id);
  free(spm->type);
  free(spm->user.nodes);
  free(spm->units);
  sl_text_dispose(&spm->mapped);
  sl_text_dispose(&spm->unk_surface);
  sl_text_dispose(&spm->bos);
}
