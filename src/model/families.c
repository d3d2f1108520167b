/* The list of families. */
#include "model/family.h"

#include <string.h>

#include "base/text.h"

extern const sl_family sl_family_llava_first, sl_family_llava_original, sl_family_llava, sl_family_llava_next_vicuna,
    sl_family_llava_next_mistral, sl_family_llava_next, sl_family_internvl, sl_family_internvl_remote,
    sl_family_shikra, sl_family_qwen_vl, sl_family_instructblip, sl_family_idefics3, sl_family_gemma3,
    sl_family_qwen2_vl_flat, sl_family_qwen2_vl, sl_family_qwen2_5_vl_flat, sl_family_qwen2_5_vl;

/* Of several with the same model_type the first that claims the folder. */
static const sl_family *const families[] = {
    &sl_family_llava_next_vicuna, &sl_family_llava_next_mistral, &sl_family_llava_first, &sl_family_llava_original,
    &sl_family_llava, &sl_family_llava_next, &sl_family_internvl, &sl_family_internvl_remote, &sl_family_shikra,
    &sl_family_qwen_vl, &sl_family_instructblip, &sl_family_idefics3, &sl_family_gemma3, &sl_family_qwen2_vl_flat,
    &sl_family_qwen2_vl, &sl_family_qwen2_5_vl_flat, &sl_family_qwen2_5_vl};

static bool has_type(const sl_family *family, const char *model_type) {
  for (const char *const *type = family->model_types; *type; type++)
    if (strcmp(*type, model_type) == 0) return true;
  return false;
}

/* Whether a family before the i-th has this model_type too. */
static bool claims_before(size_t i, const char *model_type) {
  for (size_t k = 0; k < i; k++)
    if (has_type(families[k], model_type)) return true;
  return false;
}

/* Known by its model_type, but by nothing else: a decoder alone, say. */
static sl_status unknown_layout(const sl_family *family, const char *model_type, const char *name) {
  SL_FAIL(SL_ERROR_UNSUPPORTED,
          "%s: model_type is \"%s\", but nothing else is as in the %s that sightline opens under it", name, model_type,
          family->title);
}

static sl_status unknown_family(const char *model_type, const char *name) {
  sl_text known = {0};
  for (size_t i = 0; i < sizeof families / sizeof *families; i++)
    if (has_type(families[i], model_type)) return unknown_layout(families[i], model_type, name);
  for (size_t i = 0; i < sizeof families / sizeof *families; i++)
    for (const char *const *type = families[i]->model_types; *type; type++)
      if (!claims_before(i, *type)) (void)sl_text_format(&known, "%s\"%s\"", known.length ? ", " : "", *type);
  const sl_status status = sl_fail(SL_ERROR_UNSUPPORTED, "%s: model_type is \"%s\"; sightline opens %s", name,
                                   model_type, known.data ? known.data : "nothing");
  sl_text_dispose(&known);
  return status;
}

static bool claims(const sl_family *family, const char *model_type, const json_t *config) {
  return has_type(family, model_type) && (!family->claims || family->claims(config));
}

/* Of the whole model, or of its decoder alone. */
static sl_status refuse_quantised(json_t *config, const char *section, const char *name) {
  char path[96];
  snprintf(path, sizeof path, "%s%squantization_config", section, section[0] ? "." : "");
  const json_t *quantization = sl_json_at(config, path);
  if (!quantization || json_is_null(quantization)) return SL_OK;
  const char *method = json_string_value(json_object_get(quantization, "quant_method"));
  SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: %s%s%s: quantised weights are not supported, only f32, f16 and bf16", name, path,
          method ? " of method " : "", method ? method : "");
}

sl_status sl_family_find(const sl_family **out, json_t *config, const char *name) {
  const char *model_type = NULL;
  SL_TRY(sl_json_get_string(config, "model_type", &model_type, name));
  if (!model_type) SL_FAIL(SL_ERROR_FORMAT, "%s: no model_type: not a transformers config", name);
  SL_TRY(refuse_quantised(config, "", name));
  for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
    if (!claims(families[i], model_type, config)) continue;
    *out = families[i];
    return refuse_quantised(config, families[i]->text.section, name);
  }
  return unknown_family(model_type, name);
}

sl_status sl_family_kind(const sl_kind **out, const sl_family *family, const sl_part_row *part, json_t *config,
                         const char *name) {
  const char *type = NULL;
  char path[160];
  snprintf(path, sizeof path, "%s%s%s", part->section, part->section[0] ? "." : "",
           part->type_key ? part->type_key : "model_type");
  if (!part->type_key || part->type_key[0]) SL_TRY(sl_json_get_string(config, path, &type, name));
  sl_text known = {0};
  for (const sl_kind *const *kind = part->kinds; *kind; kind++) {
    if (!type || strcmp((*kind)->model_type, type) == 0) {
      *out = *kind;
      sl_text_dispose(&known);
      return SL_OK;
    }
    (void)sl_text_format(&known, "%s\"%s\"", known.length ? ", " : "", (*kind)->model_type);
  }
  const sl_status status = sl_fail(SL_ERROR_UNSUPPORTED, "%s: %s is \"%s\"; %s has %s", name, path, type, family->title,
                                   known.data ? known.data : "nothing");
  sl_text_dispose(&known);
  return status;
}

/* Whether a template is for the name wanted and the tokenizer at hand. */
static bool fits(const sl_prompt *prompt, const char *wanted, const sl_tokenizer *tokenizer) {
  if (prompt->when && strcmp(prompt->when, wanted) != 0) return false;
  return !prompt->token || sl_tokenizer_find(tokenizer, prompt->token) >= 0;
}

sl_status sl_family_prompt(const sl_prompt **out, const sl_family *family, const sl_kind *decoder,
                           const sl_tokenizer *tokenizer, json_t *config, const char *name) {
  const char *wanted = decoder->model_type;
  if (family->prompt_key) SL_TRY(sl_json_get_string(config, family->prompt_key, &wanted, name));
  *out = family->prompts;
  while (!fits(*out, wanted, tokenizer)) ++*out;
  if (!family->prompt_key || wanted == decoder->model_type || (*out)->when) return SL_OK;
  SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: %s is \"%s\", a template that sightline does not know; give one with --template",
          name, family->prompt_key, wanted);
}

int sl_dim_size(const sl_config *c, sl_dim dim) {
  const int grid = c->vision.position_grid ? c->vision.position_grid : c->vision.image_px / c->vision.patch_px;
  const int q = c->text.n_head * c->text.d_head, kv = c->text.n_head_kv * c->text.d_head;
  const int sizes[SL_DIM_COUNT] = {
      [SL_DIM_NONE] = 1,
      [SL_DIM_ONE] = 1,
      [SL_DIM_D] = c->text.d_model,
      [SL_DIM_VOCAB] = c->text.n_vocab,
      [SL_DIM_Q] = q,
      [SL_DIM_KV] = kv,
      [SL_DIM_QKV] = q + 2 * kv,
      [SL_DIM_HEAD] = c->text.d_head,
      [SL_DIM_MLP] = c->text.d_mlp,
      [SL_DIM_VD] = c->vision.d_model,
      [SL_DIM_V3D] = 3 * c->vision.d_model,
      [SL_DIM_VMLP] = c->vision.d_mlp,
      [SL_DIM_VROWS] = grid * grid + c->vision.n_class,
      [SL_DIM_PATCH] = c->vision.patch_px,
      [SL_DIM_RGB] = 3,
      [SL_DIM_FRAME] = c->vision.n_frame,
      [SL_DIM_MERGED] = c->vision.d_model * c->projector.merge * c->projector.merge * sl_feature_count(c),
      [SL_DIM_QUERY] = c->projector.n_query,
      [SL_DIM_PD] = c->projector.d_model,
      [SL_DIM_P3D] = 3 * c->projector.d_model,
      [SL_DIM_PMLP] = c->projector.d_mlp,
      [SL_DIM_PVOCAB] = c->projector.n_vocab,
      [SL_DIM_PROWS] = c->projector.max_position,
  };
  return sizes[dim];
}
