/* The files beside a vocabulary: tokenizer_config.json, special_tokens_map.json, added_tokens.json; read in the order
 * in which transformers' from_pretrained does. With "added_tokens_decoder" (4.34 on) tokenizer_config.json says it all;
 * before that special_tokens_map.json overrides it and added_tokens.json has the ids. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "input/tokenizer_internal.h"

enum { MAX_FILE_BYTES = 64 << 20, MAX_ADDED = 20000 }; /* added tokens, and additional_special_tokens */

static const char *const token_keys[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                         "pad_token", "cls_token", "mask_token"};
enum { N_TOKEN_KEY = sizeof token_keys / sizeof *token_keys };

void sl_tok_settings_dispose(sl_tok_settings *settings) {
  json_decref(settings->config);
  json_decref(settings->added);
  json_decref(settings->by_content);
  json_decref(settings->named);
  free(settings->name);
}

/* The object in dir/name; NULL when there is no such file. */
static sl_status read_object(const char *dir, const char *name, json_t **out) {
  char *path;
  *out = NULL;
  SL_TRY(sl_path_join(&path, dir, name));
  sl_status status = access(path, F_OK) == 0 ? sl_json_load(out, path, MAX_FILE_BYTES) : SL_OK;
  if (status == SL_OK && *out && !json_is_object(*out))
    status = sl_fail(SL_ERROR_FORMAT, "%s: expected a JSON object", path);
  if (status != SL_OK) {
    json_decref(*out);
    *out = NULL;
  }
  free(path);
  return status;
}

/* ---- one added token ---- */

/* The content of "<s>" or {"content": "<s>", ...}; NULL for anything else. */
static json_t *content_of(json_t *value) {
  json_t *content = json_is_object(value) ? json_object_get(value, "content") : value;
  return json_is_string(content) ? content : NULL;
}

static bool flag(json_t *value, const char *key, bool otherwise) {
  json_t *found = json_is_object(value) ? json_object_get(value, key) : NULL;
  return json_is_boolean(found) ? json_is_true(found) : otherwise;
}

/* The member of an object, and a new one, under a string that may hold U+0000. */
static json_t *member(const json_t *object, const json_t *name) {
  return name ? json_object_getn(object, json_string_value(name), json_string_length(name)) : NULL;
}

static sl_status put_member(const sl_tok_settings *s, json_t *object, const json_t *name, json_t *value) {
  int failed = json_object_setn(object, json_string_value(name), json_string_length(name), value);
  return failed ? sl_tok_no_memory(s->name) : SL_OK;
}

static json_t *find_added(const sl_tok_settings *s, json_t *content) { return member(s->by_content, content); }

/* Appends a token in the form of tokenizer.json. */
static sl_status append(sl_tok_settings *s, json_int_t id, json_t *value, bool special, bool normalized, bool strip) {
  json_t *content = content_of(value);
  if (!content)
    SL_FAIL(SL_ERROR_FORMAT, "%s: an added token: expected a string or an object with \"content\"", s->name);
  if (json_array_size(s->added) >= MAX_ADDED)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: more than %d added tokens", s->name, (int)MAX_ADDED);
  json_t *item = json_pack("{s:I, s:O, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", content, "special", special,
                           "normalized", flag(value, "normalized", normalized), "lstrip",
                           strip || flag(value, "lstrip", false), "rstrip", strip || flag(value, "rstrip", false),
                           "single_word", flag(value, "single_word", false));
  if (!item || json_array_append_new(s->added, item) != 0) return sl_tok_no_memory(s->name);
  return put_member(s, s->by_content, content, item);
}

/* ---- lists with ids ---- */

static sl_status read_id(const sl_tok_settings *s, const char *text, json_int_t *id) {
  *id = *text ? 0 : -1;
  for (const char *c = text; *c && *id >= 0; c++)
    *id = *c >= '0' && *c <= '9' && *id <= SL_TOK_MAX_ID ? *id * 10 + (*c - '0') : -1;
  if (*id < 0 || *id > SL_TOK_MAX_ID)
    SL_FAIL(SL_ERROR_FORMAT, "%s: added_tokens_decoder: expected ids of 0..%d, found \"%s\"", s->name, SL_TOK_MAX_ID,
            sl_tok_quote(text, strlen(text)).text);
  return SL_OK;
}

/* Collects the contents that is_named knows. */
static sl_status collect_named(sl_tok_settings *s) {
  json_t *list = json_object_get(s->config, "additional_special_tokens");
  size_t n = json_array_size(list);
  if (n > MAX_ADDED)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: additional_special_tokens: expected at most %d, found %zu", s->name,
            (int)MAX_ADDED, n);
  for (size_t i = 0; i < N_TOKEN_KEY + n; i++) {
    json_t *value = i < N_TOKEN_KEY ? json_object_get(s->config, token_keys[i]) : json_array_get(list, i - N_TOKEN_KEY);
    if (content_of(value)) SL_TRY(put_member(s, s->named, content_of(value), json_true()));
  }
  return SL_OK;
}

static bool is_named(const sl_tok_settings *s, json_t *content) { return member(s->named, content) != NULL; }

static sl_status take_decoder(sl_tok_settings *s, json_t *decoder, bool old) {
  const char *key;
  json_t *value;
  json_object_foreach(decoder, key, value) {
    json_int_t id;
    SL_TRY(read_id(s, key, &id));
    json_t *content = content_of(value);
    if (content && find_added(s, content))
      SL_FAIL(SL_ERROR_FORMAT, "%s: added_tokens_decoder: \"%s\" is there twice", s->name,
              sl_tok_quote(json_string_value(content), json_string_length(content)).text);
    SL_TRY(append(s, id, value, flag(value, "special", false), true, old && content && !is_named(s, content)));
  }
  return SL_OK;
}

static sl_status take_added_file(sl_tok_settings *s, json_t *file, bool old) {
  const char *key;
  json_t *value;
  json_object_foreach(file, key, value) {
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > SL_TOK_MAX_ID)
      SL_FAIL(SL_ERROR_FORMAT, "%s: added_tokens.json beside it: id of \"%s\": expected an integer in 0..%d", s->name,
              sl_tok_quote(key, strlen(key)).text, SL_TOK_MAX_ID);
    json_t *content = json_string(key);
    if (!content) return sl_tok_no_memory(s->name);
    bool special = is_named(s, content);
    sl_status status = append(s, json_integer_value(value), content, special, !special, old && !special);
    json_decref(content);
    SL_TRY(status);
  }
  return SL_OK;
}

/* ---- special tokens by name ---- */

/* special_tokens_map.json over tokenizer_config.json; the lists of further tokens are joined. */
static sl_status lay_over(sl_tok_settings *s, json_t *map) {
  const char *key;
  json_t *value;
  json_object_foreach(map, key, value) {
    json_t *before = json_object_get(s->config, key);
    if (strcmp(key, "additional_special_tokens") == 0 && json_is_array(before) && json_is_array(value)) {
      if (json_array_extend(before, value) != 0) return sl_tok_no_memory(s->name);
    } else if (json_object_set(s->config, key, value) != 0) {
      return sl_tok_no_memory(s->name);
    }
  }
  return SL_OK;
}

static sl_status set_flag(const sl_tok_settings *s, json_t *item, const char *key, bool value) {
  return json_object_set_new(item, key, json_boolean(value)) == 0 ? SL_OK : sl_tok_no_memory(s->name);
}

/* Notes that a token is one of the special tokens, adding it when no file has given it an id. */
static sl_status name_token(sl_tok_settings *s, json_t *value, bool extra) {
  json_t *content = content_of(value);
  if (!content || json_string_length(content) == 0) return SL_OK;
  if (!find_added(s, content)) SL_TRY(append(s, -1, value, true, false, false));
  json_t *item = find_added(s, content);
  if (extra) SL_TRY(set_flag(s, item, "extra", true));
  SL_TRY(set_flag(s, item, "special", true));
  return set_flag(s, item, "named", true);
}

/* Old versions strip blanks around tokens that special_tokens_map.json has as bare strings, and nowhere with flags. */
static sl_status strip_bare(sl_tok_settings *s, json_t *value, bool bare) {
  json_t *content = content_of(value), *item = content ? find_added(s, content) : NULL;
  if (!item || (bare && flag(item, "flagged", false))) return SL_OK;
  if (!bare) SL_TRY(set_flag(s, item, "flagged", true));
  SL_TRY(set_flag(s, item, "lstrip", bare || flag(value, "lstrip", false)));
  return set_flag(s, item, "rstrip", bare || flag(value, "rstrip", false));
}

static sl_status name_tokens(sl_tok_settings *s) {
  for (size_t i = 0; i < N_TOKEN_KEY; i++) SL_TRY(name_token(s, json_object_get(s->config, token_keys[i]), false));
  json_t *list = json_object_get(s->config, "additional_special_tokens");
  for (size_t i = 0; i < json_array_size(list); i++) SL_TRY(name_token(s, json_array_get(list, i), true));
  return SL_OK;
}

static sl_status strip_old(sl_tok_settings *s, json_t *map) {
  json_t *list = json_object_get(s->config, "additional_special_tokens");
  for (int bare = 0; bare < 2; bare++) { /* those with flags first */
    for (size_t i = 0; i < N_TOKEN_KEY; i++)
      if (json_is_string(json_object_get(map, token_keys[i])) == bare)
        SL_TRY(strip_bare(s, json_object_get(s->config, token_keys[i]), bare));
    for (size_t i = 0; i < json_array_size(list); i++)
      if (json_is_string(json_array_get(list, i)) == bare) SL_TRY(strip_bare(s, json_array_get(list, i), bare));
  }
  return SL_OK;
}

const char *sl_tok_settings_token(const sl_tok_settings *settings, const char *key) {
  return json_string_value(content_of(json_object_get(settings->config, key)));
}

sl_status sl_tok_settings_normalized(const sl_tok_settings *settings, bool normalized) {
  for (size_t i = 0; i < json_array_size(settings->added); i++)
    SL_TRY(set_flag(settings, json_array_get(settings->added, i), "normalized", normalized));
  return SL_OK;
}

/* ---- all of it ---- */

static sl_status put_defaults(sl_tok_settings *s, const char *const (*defaults)[2]) {
  for (; (*defaults)[0]; defaults++) {
    if (json_object_get(s->config, (*defaults)[0])) continue;
    json_t *value = json_string((*defaults)[1]);
    if (!value || json_object_set_new(s->config, (*defaults)[0], value) != 0) return sl_tok_no_memory(s->name);
  }
  return SL_OK;
}

static sl_status read_all(sl_tok_settings *s, const char *dir, const char *const (*defaults)[2], bool old,
                          json_t **map, json_t **file) {
  SL_TRY(read_object(dir, "tokenizer_config.json", &s->config));
  if (!s->config && !(s->config = json_object())) return sl_tok_no_memory(s->name);
  s->added = json_array();
  s->by_content = json_object();
  s->named = json_object();
  if (!s->added || !s->by_content || !s->named) return sl_tok_no_memory(s->name);
  json_t *decoder = json_object_get(s->config, "added_tokens_decoder");
  if (!decoder || old) {
    SL_TRY(read_object(dir, "special_tokens_map.json", map));
    SL_TRY(read_object(dir, "added_tokens.json", file));
  }
  if (*map) SL_TRY(lay_over(s, *map));
  SL_TRY(put_defaults(s, defaults));
  SL_TRY(collect_named(s));
  SL_TRY(decoder ? take_decoder(s, decoder, old) : take_added_file(s, *file, old));
  SL_TRY(name_tokens(s));
  return old ? strip_old(s, *map) : SL_OK;
}

sl_status sl_tok_settings_read(sl_tok_settings *settings, const char *dir, const char *const (*defaults)[2], bool old) {
  json_t *map = NULL, *file = NULL;
  *settings = (sl_tok_settings){0};
  sl_status status = sl_path_join(&settings->name, dir, "tokenizer_config.json");
  if (status == SL_OK) status = read_all(settings, dir, defaults, old, &map, &file);
  json_decref(map);
  json_decref(file);
  return status;
}
