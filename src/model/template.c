/* Prompt templates. Prompts are written by the family's own template, or by one that the caller gives. A folder's chat
 * template is a Jinja program; it is not run, but looked through for the words of the template that is used, and where
 * one is missing, this is said. What the folder's has besides (other turns, tools, dates) does not count. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "model/internal.h"

#define MAX_TEMPLATE_BYTES ((size_t)4 << 20)

/* Places of the template: a file that is the template, or a JSON file that holds it. */
static const struct {
  const char *file, *key; /* key NULL: the file itself */
} places[] = {{"chat_template.jinja", NULL},
              {"chat_template.json", "chat_template"},
              {"processor_config.json", "chat_template"},
              {"tokenizer_config.json", "chat_template"}};

/* A template, or of a list of named ones that which is called "default". */
static const char *template_of(const json_t *value) {
  const char *text = json_string_value(value);
  for (size_t i = 0; !text && i < json_array_size(value); i++) {
    const json_t *item = json_array_get(value, i);
    const char *name = json_string_value(json_object_get(item, "name"));
    if (name && strcmp(name, "default") == 0) text = json_string_value(json_object_get(item, "template"));
  }
  return text;
}

/* The template's text at one place (new string), or NULL when there is none that can be read. */
static char *read_template(const char *dir, const char *file, const char *key) {
  char *path = NULL, *text = NULL;
  size_t n_bytes = 0;
  if (sl_path_join(&path, dir, file) != SL_OK) return NULL;
  if (!key) {
    if (sl_file_read(path, MAX_TEMPLATE_BYTES, &text, &n_bytes) != SL_OK) text = NULL;
  } else {
    json_t *json = NULL;
    if (sl_json_load(&json, path, MAX_TEMPLATE_BYTES) == SL_OK) {
      const char *value = template_of(json_object_get(json, key));
      if (value && sl_strdup(&text, value) != SL_OK) text = NULL;
      json_decref(json);
    }
  }
  free(path);
  return text;
}

/* Whether the n bytes at `word` stand in the template. */
static bool holds(const char *text, const char *word, size_t n) {
  for (; n > 0 && (text = strchr(text, word[0])); text++)
    if (strncmp(text, word, n) == 0) return true;
  return n == 0;
}

/* The same, where the template may write the name of a role from message['role'], in any case: "<|im_start|>user". */
static bool holds_word(const char *text, const char *word, size_t n) {
  static const char *const roles[] = {"user", "assistant", "system", "model"};
  if (holds(text, word, n)) return true;
  if (!strstr(text, "role'") && !strstr(text, "role\"") && !strstr(text, ".role")) return false;
  for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
    const size_t k = strlen(roles[i]);
    for (size_t at = 0; at + k <= n; at++)
      if (strncasecmp(word + at, roles[i], k) == 0)
        return holds(text, word, at) && holds(text, word + at + k, n - at - k);
  }
  return false;
}

/* The first word of the frame that the folder's template lacks; its length to *n_bytes, 0 when all are there. */
static const char *missing_word(const char *text, const char *frame, size_t *n_bytes) {
  static const char *const slots[] = {SL_PLACEHOLDER, "{question}"};
  const char *at = frame;
  while (*at) {
    size_t n = strcspn(at, " \t\n"), n_slot = 0;
    for (size_t i = 0; i < sizeof slots / sizeof *slots; i++) {
      const char *slot = strstr(at, slots[i]);
      if (slot == at) n_slot = strlen(slots[i]);
      if (slot && slot < at + n && slot > at) n = (size_t)(slot - at); /* the word ends where the slot begins */
    }
    if (n_slot == 0 && n > 0 && !holds_word(text, at, n)) {
      *n_bytes = n;
      return at;
    }
    at += n_slot ? n_slot : n ? n : 1;
  }
  *n_bytes = 0;
  return at;
}

static sl_status tell_difference(const sl_model *m, const char *file, const char *word, size_t n,
                                 const sl_model_options *o) {
  sl_text message = {0};
  const sl_status status =
      sl_text_format(&message, "%s: this chat template lacks \"%.*s\"; prompts are written as \"%s\" (another template "
                     "or a raw prompt can be given)", file, (int)n, word, m->frame);
  if (status == SL_OK) {
    for (char *c = message.data; *c; c++)
      if (*c == '\n') *c = ' '; /* a notice is one line */
    o->log(o->user, message.data);
  }
  sl_text_dispose(&message);
  return status;
}

/* A family whose config names its template by itself (InternVL's remote code) does not use the tokenizer's, which is
 * that of the language model. */
sl_status sl_model_compare_template(const sl_model *m, const sl_model_options *options) {
  if (!options->log || m->family->prompt_key || options->prompt_template) return SL_OK;
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    char *text = read_template(m->dir, places[i].file, places[i].key);
    if (!text) continue;
    size_t n = 0;
    const char *word = missing_word(text, m->frame, &n);
    const sl_status status = n > 0 ? tell_difference(m, places[i].file, word, n, options) : SL_OK;
    free(text);
    return status;
  }
  return SL_OK;
}

static int count_of(const char *text, const char *part) {
  int n = 0;
  for (; (text = strstr(text, part)); text += strlen(part)) n++;
  return n;
}

sl_status sl_model_set_template(sl_model *m, const char *text) {
  size_t bad = 0;
  char *copy = NULL;
  if (!sl_utf8_valid(text, strlen(text), &bad)) SL_FAIL(SL_ERROR_ARGUMENT, "the template is not UTF-8 (byte %zu)", bad);
  const char *const slots[] = {"{question}", SL_PLACEHOLDER};
  for (size_t i = 0; i < sizeof slots / sizeof *slots; i++)
    if (count_of(text, slots[i]) != 1)
      SL_FAIL(SL_ERROR_ARGUMENT, "the template holds %s %d times, expected once", slots[i], count_of(text, slots[i]));
  if (m->family->image_before_bos && strncmp(text, SL_PLACEHOLDER, strlen(SL_PLACEHOLDER)) != 0)
    SL_FAIL(SL_ERROR_ARGUMENT, "the template must begin with %s: this model's picture stands before everything else",
            SL_PLACEHOLDER);
  SL_TRY(sl_strdup(&copy, text));
  free(m->frame);
  m->frame = copy;
  return SL_OK;
}
