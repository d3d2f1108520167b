/* The list of families. */
#include "model/family.h"

#include <string.h>

#include "base/text.h"

extern const sl_family sl_family_llava;

static const sl_family *const families[] = {&sl_family_llava};

static sl_status unknown_family(const char *model_type, const char *name) {
  sl_text known = {0};
  for (size_t i = 0; i < sizeof families / sizeof *families; i++)
    for (const char *const *type = families[i]->model_types; *type; type++)
      (void)sl_text_format(&known, "%s\"%s\"", known.length ? ", " : "", *type);
  const sl_status status = sl_fail(SL_ERROR_UNSUPPORTED, "%s: model_type is \"%s\"; sightline opens %s", name,
                                   model_type, known.data ? known.data : "nothing");
  sl_text_dispose(&known);
  return status;
}

sl_status sl_family_find(const sl_family **out, json_t *config, const char *name) {
  const char *model_type = NULL;
  SL_TRY(sl_json_get_string(config, "model_type", &model_type, name));
  if (!model_type) SL_FAIL(SL_ERROR_FORMAT, "%s: no model_type: not a transformers config", name);
  const json_t *quantization = sl_json_at(config, "quantization_config");
  if (quantization && !json_is_null(quantization))
    SL_FAIL(SL_ERROR_UNSUPPORTED,
            "%s: quantization_config: quantised weights are not supported, only f32, f16 and bf16", name);
  for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
    for (const char *const *type = families[i]->model_types; *type; type++) {
      if (strcmp(*type, model_type) != 0) continue;
      *out = families[i];
      return SL_OK;
    }
  }
  return unknown_family(model_type, name);
}

int sl_dim_size(const sl_config *c, sl_dim dim) {
  const int grid = c->vision.image_px / c->vision.patch_px;
  switch (dim) {
    case SL_DIM_NONE: return 1;
    case SL_DIM_D: return c->text.d_model;
    case SL_DIM_VOCAB: return c->text.n_vocab;
    case SL_DIM_Q: return c->text.n_head * c->text.d_head;
    case SL_DIM_KV: return c->text.n_head_kv * c->text.d_head;
    case SL_DIM_MLP: return c->text.d_mlp;
    case SL_DIM_VD: return c->vision.d_model;
    case SL_DIM_VMLP: return c->vision.d_mlp;
    case SL_DIM_VROWS: return grid * grid + 1;
    case SL_DIM_PATCH: return c->vision.patch_px;
    case SL_DIM_RGB: return 3;
    case SL_DIM_COUNT: break;
  }
  return 0;
}
