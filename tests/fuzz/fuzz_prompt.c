/* libFuzzer target: any bytes as a prompt for a golden model. The first byte chooses: bit 0 a raw prompt; bit 1 the
 * part after the first newline is an answer. What is accepted is a consistent layout. */
#include <stdlib.h>
#include <string.h>

#include "model/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static void require(bool condition) {
  if (!condition) abort();
}

static sl_model *open_once(void) {
  static sl_model *model; /* kept to the end of the process, reachable, so no leak */
  const sl_model_options options = {.size = sizeof options, .backend = "ref", .compute = "f32", .n_thread = 1};
  if (!model) require(sl_model_open(&model, SL_SOURCE_DIR "/tests/golden/llava-gqa", &options) == SL_OK);
  return model;
}

static void check(const sl_layout *l, const sl_model *model) {
  const sl_model_shape *shape = sl_model_get_shape(model);
  require(l->n_prompt > 0 && l->n_prompt <= l->n_token && l->text != NULL);
  require(l->n_image == shape->n_view_token && l->first_image >= 0 && l->first_image + l->n_image <= l->n_prompt);
  for (int t = 0; t < l->n_token; t++) {
    const bool image = t >= l->first_image && t < l->first_image + l->n_image;
    require((l->ids[t] == shape->image_token_id) == image || t >= l->n_prompt);
    require(l->ids[t] >= 0 && (image || l->ids[t] < shape->n_vocab));
    require(l->classes[t] < SL_CLASS_COUNT && (l->classes[t] == SL_CLASS_GENERATED) == (t >= l->n_prompt));
    require(image == (l->classes[t] == SL_CLASS_IMAGE));
    require((l->roles[t] == SL_ROLE_FINAL) == (t == l->n_prompt - 1));
    require(l->classes[t] != SL_CLASS_SYSTEM || t < l->first_image);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes) {
  if (n_bytes == 0) return 0;
  const sl_model *model = open_once();
  char *text = calloc(n_bytes, 1); /* one byte less than that, and a NUL */
  if (!text) abort();
  memcpy(text, bytes + 1, n_bytes - 1);
  char *answer = bytes[0] & 2 ? strchr(text, '\n') : NULL;
  if (answer) *answer++ = '\0';
  sl_layout layout = {0};
  if (sl_layout_build(&layout, model, NULL, text, bytes[0] & 1) == SL_OK) {
    check(&layout, model);
    const int n_token = layout.n_token;
    if (answer && sl_layout_append_text(&layout, model, answer) == SL_OK)
      require(layout.n_token > n_token);
    else
      require(layout.n_token == n_token);
    check(&layout, model);
  } else {
    require(layout.ids == NULL && sl_error_message()[0] != '\0');
  }
  sl_layout_dispose(&layout);
  free(text);
  return 0;
}
