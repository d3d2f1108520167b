/* Tokens and texts as JSON values. */
#ifndef SL_ANALYSIS_TOKEN_JSON_H
#define SL_ANALYSIS_TOKEN_JSON_H

#include "analysis/analysis.h"

/* A new string; bytes that are not UTF-8 become U+FFFD. NULL when there is no memory. */
json_t *sl_json_text(const char *bytes, size_t n_bytes);

/* What `ids` read as together (special tokens left out). */
sl_status sl_json_ids_text(const sl_analysis_context *context, const int32_t *ids, int n_id, json_t **out);

/* What one token reads as inside a text: its piece with the tokenizers' spellings of space and newline undone. */
json_t *sl_json_token_text(const sl_analysis_context *context, int32_t id);

#endif
