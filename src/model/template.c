/* The folder's own chat template, beside the family's: sightline writes prompts by the family's, and says so when the
 * folder's does not end in the same role marker. */
#include <stdlib.h>
#include <string.h>

#include "model/internal.h"

#define MAX_TEMPLATE_BYTES ((size_t)4 << 20)

/* Places of the template: a file that is the template, or a JSON file that holds it. */
static const struct {
  const char *file, *key; /* key NULL: the file itself */
} places[] = {{"chat_template.jinja", NULL},
              {"chat_template.json", "chat_template"},
              {"processor_config.json", "chat_template"},
              {"tokenizer_config.json", "chat_template"}};

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
      const char *value = json_string_value(json_object_get(json, key));
      if (value && sl_strdup(&text, value) != SL_OK) text = NULL;
      json_decref(json);
    }
  }
  free(path);
  return text;
}

void sl_model_compare_template(const sl_model *m, const sl_model_options *options) {
  if (!options->log) return;
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    char *text = read_template(m->dir, places[i].file, places[i].key);
    if (!text) continue;
    if (!strstr(text, m->prompt->assistant)) {
      char message[320];
      snprintf(message, sizeof message,
               "%s: this chat template is not the one used here, which ends in \"%s\"; give the whole prompt as a raw "
               "prompt if the model needs its own", places[i].file, m->prompt->assistant);
      options->log(options->user, message);
    }
    free(text);
    return;
  }
}
