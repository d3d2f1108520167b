/* What the tokenizer's files share. A tokenizer is five stages executed in order: added tokens, normaliser steps,
 * pre-tokenizer steps, the model (BPE, ranks, SentencePiece or WordPiece), post-processor templates; and a list of
 * decoder steps for the way back. Nested "Sequence" components are flattened while loading. */
#ifndef SL_INPUT_TOKENIZER_INTERNAL_H
#define SL_INPUT_TOKENIZER_INTERNAL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/json.h"
#include "input/tokenizer.h"

#define SL_TOK_MAX_ID 10000000 /* the largest id a file may name */
#define SL_TOK_MAX_DEPTH 16    /* of Sequence inside Sequence */
#define SL_TOK_MAX_KEY 4096    /* bytes of a token that is looked for at every place of a text */
#define SL_TOK_MAX_TEXT (1u << 30) /* bytes of a text once normalised or split: its symbols are counted in 31 bits */

/* ---- where a component comes from (tokenizer_source.c) ---- */

typedef struct sl_tok_source {
  const char *name;     /* the file, for messages */
  uint32_t nul_standin; /* code point written in place of U+0000 before parsing; 0 when there was none */
  const char *merges;   /* the file whose lines the elements of "merges" are; NULL: they stand in `name` */
} sl_tok_source;

/* `text` made fit for a message: cut to 60 bytes at a character boundary, control characters as '?'. */
typedef struct sl_tok_quoted {
  char text[64];
} sl_tok_quoted;
sl_tok_quoted sl_tok_quote(const char *bytes, size_t n_bytes);

/* Reads a file of a tokenizer, at most 256 MiB; what Git LFS leaves in its place is told. */
sl_status sl_tok_read_file(const char *path, char **bytes, size_t *n_bytes);

/* Parses the file's bytes. jansson refuses U+0000 in keys, yet vocabularies may hold it, so a noncharacter found
 * nowhere in the file stands for it while parsing; sl_tok_text puts it back. */
sl_status sl_tok_source_parse(sl_tok_source *source, json_t **root, const char *bytes, size_t n_bytes);

/* The bytes of a key or string, U+0000 restored, replacing what `out` held. */
sl_status sl_tok_text(const sl_tok_source *source, const char *bytes, size_t n_bytes, sl_text *out);
/* The string at `key` of a component; missing or of another type is an error. */
sl_status sl_tok_text_at(const sl_tok_source *source, json_t *part, const char *key, sl_text *out);
/* A boolean that must be there. */
sl_status sl_tok_bool_at(const sl_tok_source *source, json_t *part, const char *key, bool *out);
/* The string at `key`, which must be exactly one character. */
sl_status sl_tok_char_at(const sl_tok_source *source, json_t *part, const char *key, sl_text *out);

typedef struct sl_tok_kind {
  const char *type;
  int kind;
} sl_tok_kind;

/* Called for every component that is not a Sequence. */
typedef sl_status sl_tok_part_fn(void *context, const sl_tok_source *source, json_t *part, const char *type, int kind);

/* Walks a component (`room` is "normalizer", "decoder"...), flattening Sequences whose list is at `list_key`; null and
 * missing mean no component. Types not in `kinds` (ended by NULL) are an error naming them. */
sl_status sl_tok_walk(const sl_tok_source *source, json_t *part, const char *room, const char *list_key,
                      const sl_tok_kind *kinds, sl_tok_part_fn *visit, void *context);

/* The error of a JSON value that could not be made. */
sl_status sl_tok_no_memory(const char *name);

/* Makes room for one more element in a growing array. */
sl_status sl_tok_grow(void **items, size_t n, size_t *capacity, size_t size, const char *what);

/* ---- patterns (tokenizer_pattern.c) ---- */

typedef struct sl_tok_pattern {
  sl_text source;   /* the literal, or the regular expression as written */
  pcre2_code *code; /* NULL for a literal */
} sl_tok_pattern;

typedef struct sl_tok_span {
  size_t begin, end;
  bool match;
} sl_tok_span;

typedef struct sl_tok_spans {
  sl_tok_span *items;
  size_t n, capacity;
} sl_tok_spans;

/* The {"String": ...} or {"Regex": ...} at "pattern". */
sl_status sl_tok_pattern_load(sl_tok_pattern *pattern, const sl_tok_source *source, json_t *part);
/* Compiles an Oniguruma expression (as tokenizer.json has them) or, with `native`, a PCRE2 one of our own. */
sl_status sl_tok_pattern_compile(sl_tok_pattern *pattern, const char *regex, size_t n_bytes, bool native,
                                 const char *name);
void sl_tok_pattern_dispose(sl_tok_pattern *pattern);
/* Covers the text with spans, matches and what lies between, in order; replaces what `spans` held. */
sl_status sl_tok_pattern_spans(const sl_tok_pattern *pattern, const char *text, size_t n_bytes, const char *name,
                               sl_tok_spans *spans);
sl_status sl_tok_spans_add(sl_tok_spans *spans, size_t begin, size_t end, bool match);
/* Rewrites Oniguruma (Ruby) syntax as PCRE2 syntax with the same meaning. */
sl_status sl_tok_regex_translate(const char *regex, size_t n_bytes, const char *name, sl_text *out);
/* True when PCRE2 knows this property ("sc:Han"). */
bool sl_tok_regex_has_property(const char *property);

/* ---- characters (tokenizer_normalize.c) ---- */

bool sl_tok_is_numeric(uint32_t c);
bool sl_tok_is_punctuation(uint32_t c);
#define SL_TOK_BLANK "\xe2\x96\x81" /* U+2581, which SentencePiece writes for a blank */
enum { SL_TOK_N_BLANK = sizeof SL_TOK_BLANK - 1 };
bool sl_tok_starts_with_blank(const char *text, size_t n_bytes);
int sl_tok_hex_digit(char c); /* its value; -1 when it is none */
/* The token that stands for a byte where the vocabulary lacks a character: "<0x0A>". */
typedef struct sl_tok_byte_name {
  char text[8];
} sl_tok_byte_name;
sl_tok_byte_name sl_tok_name_byte(uint8_t byte);
size_t sl_tok_byte_char(uint8_t byte, char out[4]); /* GPT-2's printable stand-in for a byte */
int sl_tok_char_byte(uint32_t c);                   /* its inverse; -1 when c stands for no byte */

/* ---- normaliser (tokenizer_normalize.c) ---- */

/* Text and how many of its leading bytes come from the first character of the whole input: Metaspace's "first"
 * scheme asks where a piece began. */
typedef struct sl_tok_string {
  sl_text text;
  size_t n_first;
} sl_tok_string;

typedef struct sl_tok_normalizer {
  int kind;
  sl_tok_pattern pattern; /* Replace */
  sl_text content;        /* Prepend, Replace */
  bool strip_left, strip_right;
  bool clean_text, handle_chinese_chars, strip_accents, lowercase; /* Bert */
} sl_tok_normalizer;

typedef struct sl_tok_normalizers {
  sl_tok_normalizer *items;
  size_t n, capacity;
  size_t max_bytes; /* that they may make of a text: SL_TOK_MAX_TEXT */
} sl_tok_normalizers;

sl_status sl_tok_normalizers_load(sl_tok_normalizers *steps, const sl_tok_source *source, json_t *part);
void sl_tok_normalizers_dispose(sl_tok_normalizers *steps);
sl_status sl_tok_normalize(const sl_tok_normalizers *steps, const char *bytes, size_t n_bytes, size_t n_first,
                           const char *name, sl_tok_string *out);
/* Refuses a text of more than max_bytes; without steps every text is as long as it was. */
sl_status sl_tok_normalizers_check(const sl_tok_normalizers *steps, const char *name, size_t n_bytes);
void sl_tok_string_clear(sl_tok_string *string);
/* Appends bytes; `first` says that they come from the input's first character. */
sl_status sl_tok_string_add(sl_tok_string *string, const char *bytes, size_t n_bytes, bool first);

/* ---- pre-tokenizers (tokenizer_split.c) ---- */

typedef struct sl_tok_piece {
  size_t begin, end; /* in the pieces' text */
  size_t n_first;
  int32_t id; /* an added token, or -1 for text still to be tokenised */
} sl_tok_piece;

typedef struct sl_tok_pieces {
  sl_text text;
  sl_tok_piece *items;
  size_t n, capacity;
} sl_tok_pieces;

typedef struct sl_tok_splitter {
  int kind, behavior, scheme;
  bool invert, add_prefix_space, split;
  sl_tok_pattern pattern;
  sl_text replacement; /* Metaspace */
} sl_tok_splitter;

typedef struct sl_tok_splitters {
  sl_tok_splitter *items;
  size_t n, capacity;
  size_t max_bytes; /* of all pieces: SL_TOK_MAX_TEXT */
} sl_tok_splitters;

sl_status sl_tok_splitters_load(sl_tok_splitters *steps, const sl_tok_source *source, json_t *part);
void sl_tok_splitters_dispose(sl_tok_splitters *steps);
/* Runs every step; the result is in *pieces, *spare is scratch. */
sl_status sl_tok_split(const sl_tok_splitters *steps, const char *name, sl_tok_pieces *pieces, sl_tok_pieces *spare);
sl_status sl_tok_pieces_add_text(sl_tok_pieces *pieces, const char *bytes, size_t n_bytes, size_t n_first);
sl_status sl_tok_pieces_add_id(sl_tok_pieces *pieces, int32_t id);
void sl_tok_pieces_dispose(sl_tok_pieces *pieces);

/* ---- vocabulary (tokenizer_vocab.c) ---- */

typedef struct sl_tok_entry {
  size_t offset, length; /* in the pool; a NUL follows */
  int32_t id;
  int32_t added; /* index among the added tokens, or -1 */
  bool in_model; /* false for tokens that only added_tokens names */
} sl_tok_entry;

typedef struct sl_tok_vocab {
  sl_text pool;
  sl_tok_entry *entries;
  size_t n_entry, capacity;
  uint32_t *slots; /* entry + 1, 0 = free; a power of two of them, at most half full */
  size_t n_slot;
  int32_t *by_id; /* entry, or -1 for an unused id */
  size_t n_id;    /* largest id + 1 */
  size_t id_capacity;
} sl_tok_vocab;

sl_status sl_tok_vocab_load(sl_tok_vocab *vocab, const sl_tok_source *source, json_t *table);
void sl_tok_vocab_dispose(sl_tok_vocab *vocab);
/* Adds a token whose content is not there yet. An id in use then names the newer token. */
sl_status sl_tok_vocab_add(sl_tok_vocab *vocab, const char *bytes, size_t n_bytes, int32_t id, bool in_model);
const sl_tok_entry *sl_tok_vocab_find(const sl_tok_vocab *vocab, const char *bytes, size_t n_bytes);
int32_t sl_tok_vocab_model_id(const sl_tok_vocab *vocab, const char *bytes, size_t n_bytes); /* -1: not in the model */
const sl_tok_entry *sl_tok_vocab_at(const sl_tok_vocab *vocab, int64_t id);

/* ---- BPE (tokenizer_bpe.c) ---- */

typedef struct sl_tok_merge {
  uint64_t pair;    /* left id << 32 | right id */
  int32_t rank, id; /* rank -1 = free slot */
} sl_tok_merge;

typedef struct sl_tok_bpe {
  sl_tok_merge *merges; /* open addressing, a power of two of slots */
  size_t n_slot;
  int32_t byte_id[256]; /* of "<0x00>"..., -1 when absent */
  sl_text unk, prefix, suffix;
  int32_t unk_id; /* -1: the vocabulary lacks unk */
  bool has_unk, fuse_unk, byte_fallback, ignore_merges;
} sl_tok_bpe;

typedef struct sl_tok_symbol {
  int32_t id, prev, next; /* -1 ends the list; id -1 = merged away */
} sl_tok_symbol;

typedef struct sl_tok_join { /* a symbol that is a range of the text */
  int32_t begin, end, id;    /* id -1: not a token; begin == end: merged away */
  int32_t prev, next;
  bool frozen; /* never merges */
} sl_tok_join;

typedef struct sl_tok_range { /* of the text, with its id or -1 */
  size_t begin, end;
  int32_t id;
} sl_tok_range;

typedef struct sl_tok_candidate {
  int32_t rank, at, id;
  int32_t end; /* where the joined text ends (tokenizer_join.c) */
} sl_tok_candidate;

typedef struct sl_tok_word { /* scratch of one encode call */
  sl_tok_symbol *symbols;
  size_t n, capacity;
  sl_tok_join *joins;
  size_t n_join, join_capacity;
  sl_tok_range *ranges; /* still to come out, the next one last */
  size_t n_range, range_capacity;
  int32_t *cuts;  /* by id of an unused piece: length of the left half it was joined from last */
  sl_text normal; /* what SentencePiece's normaliser made of the piece */
  sl_tok_candidate *heap;
  size_t n_heap, heap_capacity;
  uint64_t n_step; /* candidates taken so far: what a test counts instead of seconds */
} sl_tok_word;

typedef struct sl_tok_ids {
  int32_t *items;
  size_t n, capacity;
} sl_tok_ids;

sl_status sl_tok_bpe_load(sl_tok_bpe *bpe, sl_tok_vocab *vocab, const sl_tok_source *source, json_t *model);
void sl_tok_bpe_dispose(sl_tok_bpe *bpe);
/* What a model does with one piece of text: appends its ids. */
typedef sl_status sl_tok_model_fn(const sl_tokenizer *tokenizer, const char *text, size_t n_bytes, sl_tok_word *word,
                                  sl_tok_ids *ids);
sl_tok_model_fn sl_tok_bpe_encode;
void sl_tok_word_dispose(sl_tok_word *word);
sl_status sl_tok_ids_add(sl_tok_ids *ids, int32_t id);
/* The heap of merge candidates: lowest rank first, leftmost among equals. */
sl_status sl_tok_heap_push(sl_tok_word *word, sl_tok_candidate candidate);
sl_tok_candidate sl_tok_heap_pop(sl_tok_word *word);

/* ---- merging what is a token when joined (tokenizer_join.c) ---- */

typedef struct sl_tok_ranks {
  int32_t *by_id; /* order of merging, lowest first; -1: nothing merges to this token */
  size_t n;
  size_t longest; /* bytes of the longest token */
} sl_tok_ranks;

sl_status sl_tok_join_add(sl_tok_word *word, size_t begin, size_t end, int32_t id, bool frozen);
/* Merges word->joins, which cover `text`. */
sl_status sl_tok_join_all(const sl_tok_vocab *vocab, const sl_tok_ranks *ranks, const char *text, sl_tok_word *word);
/* tiktoken's model: a piece that is a token, or its characters merged by rank. */
sl_tok_model_fn sl_tok_ranks_encode;

/* ---- WordPiece (tokenizer_wordpiece.c) ---- */

typedef struct sl_tok_wordpiece {
  sl_text unk, prefix;
  int64_t max_chars;
  size_t longest; /* bytes of the longest token */
} sl_tok_wordpiece;

sl_status sl_tok_wordpiece_load(sl_tok_wordpiece *model, sl_tok_vocab *vocab, const sl_tok_source *source,
                                json_t *part);
void sl_tok_wordpiece_dispose(sl_tok_wordpiece *model);
sl_tok_model_fn sl_tok_wordpiece_encode;
/* Draws together what tokenising pulled apart (" ." to "."), appending to out; `contract` also writes "don't". */
sl_status sl_tok_clean_up(const char *text, size_t n_bytes, bool contract, sl_text *out);

/* ---- added tokens (tokenizer_added.c) ---- */

typedef struct sl_tok_added {
  sl_text content, normal; /* as written; as the normaliser leaves it (empty unless normalized) */
  int32_t id;
  bool special, normalized, lstrip, rstrip, single_word;
  bool named, extra; /* by tokenizer_config.json: as bos_token...; in additional_special_tokens */
} sl_tok_added;

typedef struct sl_tok_node {
  int32_t child, sibling, added; /* -1 = none */
  uint8_t byte;
} sl_tok_node;

typedef struct sl_tok_trie {
  sl_tok_node *nodes;
  size_t n, capacity;
  int32_t root[256];
} sl_tok_trie;

typedef struct sl_tok_addeds {
  sl_tok_added *items;
  size_t n, capacity;
  sl_tok_trie raw, normal; /* matched before and after normalising */
  bool keep_ids;           /* the list's ids count (else the reference's numbering does) */
  bool python;             /* as in transformers' Python tokenizers: str.isspace() */
  sl_tok_pattern word;     /* one word character, for single_word */
} sl_tok_addeds;

void sl_tok_trie_init(sl_tok_trie *trie);
/* Enters a key that is not empty; one that is there already, or is longer than SL_TOK_MAX_KEY, is an error. */
sl_status sl_tok_trie_add(sl_tok_trie *trie, const char *key, size_t n_bytes, int32_t value, const char *name);
/* The value of the longest key starting at `at`, or -1. Of `allowed` (NULL = all) only those values count. */
int32_t sl_tok_trie_longest(const sl_tok_trie *trie, const char *text, size_t n_bytes, size_t at, const bool *allowed,
                            size_t *end);

sl_status sl_tok_addeds_load(sl_tok_addeds *addeds, sl_tok_vocab *vocab, const sl_tok_normalizers *normalizers,
                             const sl_tok_source *source, json_t *list);
void sl_tok_addeds_dispose(sl_tok_addeds *addeds);
/* Cuts the text at added tokens, leftmost longest, into text and id pieces; `allowed` by index, NULL = all. */
sl_status sl_tok_addeds_cut(const sl_tok_addeds *addeds, const sl_tok_trie *trie, const bool *allowed, const char *name,
                            const char *text, size_t n_bytes, size_t n_first, sl_tok_pieces *pieces);
/* The text a token decodes from: its normalised form for normalized added tokens. */
void sl_tok_addeds_piece(const sl_tok_addeds *addeds, const sl_tok_vocab *vocab, const sl_tok_entry *entry,
                         const char **bytes, size_t *n_bytes);

/* ---- post-processor (tokenizer_post.c) ---- */

typedef struct sl_tok_template {
  sl_tok_ids parts; /* ids, or -1 for the sequence */
} sl_tok_template;

typedef struct sl_tok_templates {
  sl_tok_template *items;
  size_t n, capacity;
} sl_tok_templates;

sl_status sl_tok_templates_load(sl_tok_templates *steps, const sl_tok_source *source, json_t *part);
void sl_tok_templates_dispose(sl_tok_templates *steps);
sl_status sl_tok_templates_apply(const sl_tok_templates *steps, const char *name, bool add_special, sl_tok_ids *ids);

/* ---- decoders (tokenizer_decode.c) ---- */

typedef struct sl_tok_decoder {
  int kind;
  sl_tok_pattern pattern; /* Replace */
  sl_text content;        /* Replace, Strip, Metaspace's character, BPEDecoder's suffix, WordPiece's prefix */
  int64_t start, stop;    /* Strip */
  bool prepended;         /* Metaspace: a scheme other than never */
  bool clean_up;          /* WordPiece */
} sl_tok_decoder;

typedef struct sl_tok_decoders {
  sl_tok_decoder *items;
  size_t n, capacity;
  bool present; /* without a decoder tokens are joined by spaces; an empty Sequence joins them by nothing */
} sl_tok_decoders;

sl_status sl_tok_decoders_load(sl_tok_decoders *steps, const sl_tok_source *source, json_t *part);
void sl_tok_decoders_dispose(sl_tok_decoders *steps);
/* Decodes a list of tokens; their texts are the pieces. Appends to out. */
sl_status sl_tok_decode(const sl_tok_decoders *steps, const char *name, sl_tok_pieces *tokens, sl_tok_pieces *spare,
                        sl_text *out);

/* The scheme of a Metaspace component. */
enum { SL_TOK_SCHEME_ALWAYS, SL_TOK_SCHEME_FIRST, SL_TOK_SCHEME_NEVER };
sl_status sl_tok_scheme_load(int *scheme, const sl_tok_source *source, json_t *part);

/* ---- SentencePiece (tokenizer_piece_file.c, tokenizer_piece.c) ---- */

enum { SL_TOK_PIECE_NORMAL = 1, SL_TOK_PIECE_UNKNOWN, SL_TOK_PIECE_CONTROL, SL_TOK_PIECE_USER, SL_TOK_PIECE_UNUSED,
       SL_TOK_PIECE_BYTE };

typedef struct sl_tok_spm {
  sl_tok_ranks ranks;
  uint8_t *type;          /* by id */
  size_t n_piece;
  sl_tok_trie user;       /* user-defined pieces */
  int32_t byte_id[256], unk_id;
  bool byte_fallback, any_unused;
  bool add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces;
  uint32_t *units;        /* the double array of the character map */
  size_t n_unit;
  sl_text mapped;         /* its results, each ended by NUL */
  sl_text unk_surface, bos; /* bos: the piece that stands for it */
} sl_tok_spm;

/* Reads a tokenizer.model, trusting nothing; the pieces go into the vocabulary. */
sl_status sl_tok_spm_parse(sl_tok_spm *spm, sl_tok_vocab *vocab, const char *bytes, size_t n_bytes, const char *name);
void sl_tok_spm_dispose(sl_tok_spm *spm);
sl_status sl_tok_spm_normalize(const sl_tok_spm *spm, const char *text, size_t n_bytes, const char *name,
                               sl_text *out);
sl_status sl_tok_spm_encode(const sl_tok_spm *spm, const sl_tok_vocab *vocab, const char *name, const char *text,
                            size_t n_bytes, sl_tok_word *word, sl_tok_ids *ids);
/* Appends what SentencePiece decodes a list of tokens to. */
sl_status sl_tok_spm_decode(const sl_tok_spm *spm, const sl_tok_vocab *vocab, const sl_tok_pieces *tokens, size_t from,
                            size_t to, sl_text *out);

/* ---- how transformers' Python tokenizers wrap SentencePiece (tokenizer_slow.c) ---- */

typedef struct sl_tok_slow {
  bool legacy;           /* every stretch of text gets a dummy prefix; else only the text's beginning */
  bool internlm2;        /* InternLM2Tokenizer instead of LlamaTokenizer */
  bool old;              /* transformers 4.28 and before */
  bool add_prefix_space;
  sl_text unk;           /* unk_token, and how many tokens its text is */
  size_t n_unk;
} sl_tok_slow;

sl_tok_model_fn sl_tok_slow_encode;
/* What is done to the whole text first. */
sl_status sl_tok_slow_prepare(const sl_tokenizer *tokenizer, const char *text, size_t n_bytes, sl_text *out);
/* Appends an added token that was cut out of the text. */
sl_status sl_tok_slow_add(const sl_tokenizer *tokenizer, int32_t id, sl_tok_ids *ids);
sl_status sl_tok_slow_decode(const sl_tokenizer *tokenizer, const int32_t *ids, int n_id, bool skip_special,
                             sl_text *out);

/* ---- folders (tokenizer_folder.c, tokenizer_settings.c) ---- */

typedef struct sl_tok_settings {
  json_t *config; /* tokenizer_config.json with special_tokens_map.json laid over it; may be an empty object */
  json_t *added;  /* the added tokens of all files, in the form of tokenizer.json, "id" -1 where none is given */
  json_t *by_content; /* the elements of `added` by their content */
  json_t *named;      /* contents of bos_token and the like, and of additional_special_tokens */
  char *name;         /* for messages: the folder's tokenizer_config.json */
} sl_tok_settings;

/* Reads tokenizer_config.json, special_tokens_map.json and added_tokens.json, each if it is there. `defaults` are the
 * class's own bos_token and so on. */
sl_status sl_tok_settings_read(sl_tok_settings *settings, const char *dir, const char *const (*defaults)[2], bool old);
void sl_tok_settings_dispose(sl_tok_settings *settings);
/* Says of all added tokens whether they are looked for in normalised text. */
sl_status sl_tok_settings_normalized(const sl_tok_settings *settings, bool normalized);
/* Content of bos_token and the like, borrowed; NULL when there is none. */
const char *sl_tok_settings_token(const sl_tok_settings *settings, const char *key);

/* Load an empty tokenizer from a file's bytes. `old`: as transformers 4.28 did. */
sl_status sl_tok_open_llama(sl_tokenizer *tokenizer, const char *dir, const char *bytes, size_t n_bytes, bool old);
sl_status sl_tok_open_tiktoken(sl_tokenizer *tokenizer, const char *bytes, size_t n_bytes);
/* Qwen's normaliser, pre-tokenizer and decoder, in the form of tokenizer.json. */
sl_status sl_tok_qwen_components(json_t **root, const char *name);

struct sl_tokenizer {
  char *name;
  sl_tok_vocab vocab;
  sl_tok_normalizers normalizers;
  sl_tok_addeds addeds;
  sl_tok_splitters splitters;
  sl_tok_model_fn *encode_piece;
  sl_tok_bpe bpe; /* the models: one of these is used */
  sl_tok_ranks ranks;
  sl_tok_wordpiece wordpiece;
  sl_tok_spm spm;
  sl_tok_slow slow; /* around spm */
  sl_tok_templates templates;
  sl_tok_decoders decoders;
};

/* An empty tokenizer. */
sl_status sl_tok_new(sl_tokenizer **out, const char *name);
/* Loads all components from tokenizer.json's root; components that are missing stay away. */
sl_status sl_tok_load(sl_tokenizer *tokenizer, const sl_tok_source *source, json_t *root);
/* The same from the bytes of tokenizer.json. */
sl_status sl_tok_load_json(sl_tokenizer *tokenizer, const char *bytes, size_t n_bytes);

/* sl_tokenizer_encode, telling how many merge candidates were taken (NULL allowed). */
sl_status sl_tok_encode_counted(const sl_tokenizer *tokenizer, const char *text, size_t n_bytes, bool add_special,
                                int32_t **ids, int *n_id, uint64_t *n_step);

#endif
