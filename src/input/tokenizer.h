/* Tokenizers. tokenizer.json is executed literally: added tokens, normalisers, pre-tokenizers, BPE (byte fallback, byte
 * level) or WordPiece, post-processors (single sequence), decoders; as in the reference, an added token has the model's
 * id, or the next one after the model's tokens, whatever id the file says. Folders without it open from
 * tokenizer.model, qwen.tiktoken, vocab.json and merges.txt, or vocab.txt. Immutable after opening; encode and decode
 * are thread-safe. Truncation and padding are left to the caller. */
#ifndef SL_INPUT_TOKENIZER_H
#define SL_INPUT_TOKENIZER_H

#include "base/text.h"

typedef struct sl_tokenizer sl_tokenizer;

/* Reads the file at `path`, a tokenizer.json of at most 256 MiB. A component that this reader does not know is an error
 * naming it. */
sl_status sl_tokenizer_open(sl_tokenizer **out, const char *path);
sl_status sl_tokenizer_parse(sl_tokenizer **out, const char *bytes, size_t n_bytes, const char *name);

enum {
  /* transformers up to 4.28 swallowed blanks on both sides of every added token that is not declared with flags of
   * its own: Shikra's published numbers were made so. Opens tokenizer.model, if it is there, before tokenizer.json. */
  SL_TOKENIZER_STRIP_ADDED = 1
};
/* The tokenizer of a model folder, from the first of these files that is there:
 *   tokenizer.json    executed literally;
 *   tokenizer.model   SentencePiece BPE as transformers' Python LlamaTokenizer wraps it (by tokenizer_config.json's
 *                     "legacy", "add_bos_token", "add_eos_token", "add_prefix_space" and special tokens), or the remote
 *                     code's InternLM2Tokenizer, by "tokenizer_class";
 *   qwen.tiktoken     ranks, with Qwen's regular expression and special tokens after the last rank;
 *   vocab.json and merges.txt   as Qwen2Tokenizer, which "tokenizer_class" must name;
 *   vocab.txt         WordPiece, as BertTokenizer.
 * For the last four, added tokens come from tokenizer_config.json, special_tokens_map.json and added_tokens.json. */
sl_status sl_tokenizer_open_folder(sl_tokenizer **out, const char *dir, unsigned flags);
/* The same from a file's bytes, without added tokens from other files. */
sl_status sl_tokenizer_parse_tiktoken(sl_tokenizer **out, const char *bytes, size_t n_bytes, const char *name);
sl_status sl_tokenizer_parse_sentencepiece(sl_tokenizer **out, const char *bytes, size_t n_bytes, const char *name);
void sl_tokenizer_close(sl_tokenizer *tokenizer);

/* Encodes valid UTF-8 (checked; NUL bytes allowed; at most 256 MiB) to new ids (free()). The post-processor always
 * runs; add_special says whether it puts in its special tokens (BOS). */
sl_status sl_tokenizer_encode(const sl_tokenizer *tokenizer, const char *text, size_t n_bytes, bool add_special,
                              int32_t **ids, int *n_id);

/* Encodes text in which only the added tokens `allowed` (ids) are recognised, the others are text like any other:
 * what a user wrote. No template. */
sl_status sl_tokenizer_encode_text(const sl_tokenizer *tokenizer, const char *text, size_t n_bytes,
                                   const int32_t *allowed, int n_allowed, int32_t **ids, int *n_id);

/* Decodes ids to text as the reference decoder does; appends to `out`. Ids out of range are an error;
 * unused ids inside it decode to nothing. On failure `out` may hold a part. */
sl_status sl_tokenizer_decode(const sl_tokenizer *tokenizer, const int32_t *ids, int n_id, bool skip_special,
                              sl_text *out);

int sl_tokenizer_vocab_size(const sl_tokenizer *tokenizer); /* largest id + 1, added tokens included */
int sl_tokenizer_find(const sl_tokenizer *tokenizer, const char *token); /* id of exact content, -1 when absent */
/* Content of a token as stored ("▁cat", "<0x0A>"), borrowed; NULL for an unused id. */
const char *sl_tokenizer_piece(const sl_tokenizer *tokenizer, int id, size_t *n_bytes);
bool sl_tokenizer_is_special(const sl_tokenizer *tokenizer, int id);

#endif
