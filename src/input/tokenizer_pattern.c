/* Patterns: literals and regular expressions, matched one after another over a text. tokenizer.json's expressions are
 * Oniguruma's (Ruby syntax); tokenizer_regex.c rewrites them for PCRE2. Limits of match steps and memory keep a
 * hostile expression from running exponentially long: it becomes an error. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer_internal.h"

enum { MAX_PATTERN_BYTES = 1 << 16 };

static void *pcre_alloc(size_t n_bytes, void *unused) {
  (void)unused;
  void *block;
  return sl_alloc(&block, n_bytes, 1, "regular expression") == SL_OK ? block : NULL;
}

static void pcre_free(void *block, void *unused) {
  (void)unused;
  free(block);
}

void sl_tok_pattern_dispose(sl_tok_pattern *pattern) {
  sl_text_dispose(&pattern->source);
  pcre2_code_free(pattern->code);
  pattern->code = NULL;
}

bool sl_tok_regex_has_property(const char *property) {
  char text[80];
  size_t n = strlen(property);
  if (n + 5 > sizeof text) return false;
  memcpy(text, "\\p{", 3);
  memcpy(text + 3, property, n);
  memcpy(text + 3 + n, "}", 2);
  int error;
  PCRE2_SIZE at;
  pcre2_code *code = pcre2_compile((PCRE2_SPTR)text, n + 4, PCRE2_UTF | PCRE2_UCP, &error, &at, NULL);
  pcre2_code_free(code);
  return code != NULL;
}

static sl_status compile(pcre2_code **code, const char *regex, size_t n_bytes, const char *name) {
  pcre2_general_context *general = pcre2_general_context_create(pcre_alloc, pcre_free, NULL);
  pcre2_compile_context *context = general ? pcre2_compile_context_create(general) : NULL;
  int error = PCRE2_ERROR_HEAP_FAILED;
  PCRE2_SIZE at = 0;
  *code = NULL;
  if (context) {
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    /* Ruby's ^ and $ hold at every line. */
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    *code = pcre2_compile((PCRE2_SPTR)regex, n_bytes, options, &error, &at, context);
  }
  pcre2_compile_context_free(context);
  pcre2_general_context_free(general);
  if (*code) return SL_OK;
  enum { ERR_HEAP = 121 }; /* pcre2_compile's own code for no memory */
  if (error == PCRE2_ERROR_HEAP_FAILED || error == ERR_HEAP)
    SL_FAIL(SL_ERROR_MEMORY, "%s: no memory to compile a regular expression", name);
  PCRE2_UCHAR why[128] = {0};
  pcre2_get_error_message(error, why, sizeof why);
  SL_FAIL(SL_ERROR_FORMAT, "%s: regular expression \"%s\": %s (offset %zu)", name, sl_tok_quote(regex, n_bytes).text,
          (const char *)why, (size_t)at);
}

sl_status sl_tok_pattern_compile(sl_tok_pattern *pattern, const char *regex, size_t n_bytes, bool native,
                                 const char *name) {
  if (n_bytes > MAX_PATTERN_BYTES)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: a regular expression of %zu bytes, more than %d", name, n_bytes,
            (int)MAX_PATTERN_BYTES);
  SL_TRY(sl_text_append(&pattern->source, regex, n_bytes));
  if (native) return compile(&pattern->code, regex, n_bytes, name);
  sl_text translated = {0};
  sl_status status = sl_tok_regex_translate(regex, n_bytes, name, &translated);
  if (status == SL_OK) status = compile(&pattern->code, translated.data, translated.length, name);
  sl_text_dispose(&translated);
  return status;
}

sl_status sl_tok_pattern_load(sl_tok_pattern *pattern, const sl_tok_source *source, json_t *part) {
  json_t *value = json_object_get(part, "pattern");
  if (json_object_get(value, "String")) return sl_tok_text_at(source, value, "String", &pattern->source);
  if (!json_object_get(value, "Regex"))
    SL_FAIL(SL_ERROR_FORMAT, "%s: \"pattern\": expected {\"String\": ...} or {\"Regex\": ...}", source->name);
  sl_text regex = {0};
  sl_status status = sl_tok_text_at(source, value, "Regex", &regex);
  if (status == SL_OK) status = sl_tok_pattern_compile(pattern, regex.data, regex.length, false, source->name);
  sl_text_dispose(&regex);
  return status;
}

/* ---- searching ---- */

sl_status sl_tok_spans_add(sl_tok_spans *spans, size_t begin, size_t end, bool match) {
  SL_TRY(sl_tok_grow((void **)&spans->items, spans->n, &spans->capacity, sizeof *spans->items, "text spans"));
  spans->items[spans->n++] = (sl_tok_span){begin, end, match};
  return SL_OK;
}

typedef struct search {
  const sl_tok_pattern *pattern;
  const char *text, *name;
  size_t n_bytes;
  pcre2_match_context *context;
  pcre2_match_data *data;
} search;

static void search_dispose(search *s) {
  pcre2_match_data_free(s->data);
  pcre2_match_context_free(s->context);
}

static sl_status search_init(search *s, const sl_tok_pattern *pattern, const char *text, size_t n_bytes,
                             const char *name) {
  *s = (search){.pattern = pattern, .text = text, .name = name, .n_bytes = n_bytes};
  if (!pattern->code) return SL_OK;
  pcre2_general_context *general = pcre2_general_context_create(pcre_alloc, pcre_free, NULL);
  s->context = general ? pcre2_match_context_create(general) : NULL;
  s->data = s->context ? pcre2_match_data_create(1, general) : NULL;
  pcre2_general_context_free(general);
  if (!s->data) {
    search_dispose(s);
    SL_FAIL(SL_ERROR_MEMORY, "%s: no memory to match a regular expression", name);
  }
  /* Steps for each place a match may start at: enough to walk over the text and back, far from exponential. */
  size_t steps = 20000 + 4 * (n_bytes < (1u << 28) ? n_bytes : 1u << 28);
  pcre2_set_match_limit(s->context, (uint32_t)steps);
  pcre2_set_heap_limit(s->context, 256 * 1024); /* KiB */
  return SL_OK;
}

/* The next match at or after `from`. */
static sl_status search_next(search *s, size_t from, bool *found, size_t *begin, size_t *end) {
  if (!s->pattern->code) {
    const sl_text *literal = &s->pattern->source;
    const char *at = literal->length == 0 ? s->text + from
                                          : memmem(s->text + from, s->n_bytes - from, literal->data, literal->length);
    *found = at != NULL;
    *begin = at ? (size_t)(at - s->text) : 0;
    *end = *begin + literal->length;
    return SL_OK;
  }
  int rc = pcre2_match(s->pattern->code, (PCRE2_SPTR)s->text, s->n_bytes, from, PCRE2_NO_UTF_CHECK, s->data,
                       s->context);
  *found = rc >= 0;
  if (rc == PCRE2_ERROR_NOMATCH) return SL_OK;
  const char *regex = s->pattern->source.data;
  if (rc == PCRE2_ERROR_NOMEMORY) SL_FAIL(SL_ERROR_MEMORY, "%s: no memory to match a regular expression", s->name);
  if (rc < 0)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: regular expression \"%s\" takes too long on this text (PCRE2 error %d)", s->name,
            sl_tok_quote(regex, s->pattern->source.length).text, rc);
  const PCRE2_SIZE *range = pcre2_get_ovector_pointer(s->data);
  *begin = range[0];
  *end = range[1];
  if (*begin < from || *end < *begin) /* \K inside a look-around */
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: regular expression \"%s\" matches backwards", s->name,
            sl_tok_quote(regex, s->pattern->source.length).text);
  return SL_OK;
}

/* An empty match right after the last one does not count: step over one character and look again. */
static sl_status collect(search *s, sl_tok_spans *spans) {
  size_t from = 0, done = 0;
  bool any = false;
  while (from <= s->n_bytes) {
    bool found;
    size_t begin, end;
    SL_TRY(search_next(s, from, &found, &begin, &end));
    if (!found) break;
    if (begin == end && any && end == done) {
      uint32_t c;
      from += from < s->n_bytes ? sl_utf8_decode(s->text + from, s->n_bytes - from, &c) : 1;
      continue;
    }
    if (done != begin) SL_TRY(sl_tok_spans_add(spans, done, begin, false));
    SL_TRY(sl_tok_spans_add(spans, begin, end, true));
    done = from = end;
    any = true;
  }
  return done < s->n_bytes ? sl_tok_spans_add(spans, done, s->n_bytes, false) : SL_OK;
}

sl_status sl_tok_pattern_spans(const sl_tok_pattern *pattern, const char *text, size_t n_bytes, const char *name,
                               sl_tok_spans *spans) {
  spans->n = 0;
  if (n_bytes == 0) return SL_OK;
  search s;
  SL_TRY(search_init(&s, pattern, text, n_bytes, name));
  sl_status status = collect(&s, spans);
  search_dispose(&s);
  return status;
}
