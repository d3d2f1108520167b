/* libFuzzer target: any bytes as a config.json. What is accepted has sizes that all later arithmetic may rely on. */
#include <stdlib.h>
#include <string.h>

#include "model/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static void require(bool condition) {
  if (!condition) abort();
}

static void check_shape(const sl_model *m) {
  const sl_model_shape *s = &m->shape;
  const sl_part_shape *parts[2] = {&s->vision, &s->decoder};
  for (int i = 0; i < 2; i++) {
    require(parts[i]->n_head > 0 && parts[i]->n_head_kv > 0 && parts[i]->n_head % parts[i]->n_head_kv == 0);
    require(parts[i]->d_head > 0 && parts[i]->d_model > 0 && parts[i]->d_mlp > 0);
    require(parts[i]->n_layer >= 0 && parts[i]->n_layer <= 1024);
  }
  const sl_part_shape *p = &s->projector; /* learned queries have heads, rows without places and a decoder behind them */
  require((p->n_head > 0) == (s->cell_rows == 0) && p->n_head * p->d_head == (p->n_head ? p->d_model : 0) && p->d_head <= 256);
  require(s->n_view_token > 0 && s->n_view_token <= 4194304);
  require(s->vision.n_layer <= s->vision.n_layer_stored && s->decoder.n_layer > 0);
  require(s->vision.n_head * s->vision.d_head == s->vision.d_model && s->decoder.d_head % 2 == 0);
  require(s->grid_width > 0 && s->grid_width * s->patch_px <= s->image_px);
  require(s->n_view_token == s->cell_rows * s->cell_cols + (s->keeps_cls ? 1 : 0) || s->cell_rows == 0);
  require(s->n_vocab > 0 && (s->image_token_id >= -1 || s->image_token_id == SL_IMAGE_INDEX));
  for (int dim = 0; dim < SL_DIM_COUNT; dim++) {
    const int size = sl_dim_size(&m->config, (sl_dim)dim);
    require(size >= 0 && size <= 4194304); /* 0: of a projector without it */
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes) {
  json_t *json = NULL;
  if (sl_json_parse(&json, (const char *)bytes, n_bytes, "fuzz.json") != SL_OK) return 0;
  sl_model *m = calloc(1, sizeof *m);
  if (!m) abort();
  m->config.json = json;
  if (sl_model_read_config(m, json, "fuzz.json") == SL_OK)
    check_shape(m);
  else
    require(strstr(sl_error_message(), "fuzz.json") != NULL);
  free(m);
  json_decref(json);
  return 0;
}
