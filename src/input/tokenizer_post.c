/* Post-processors: templates around the one sequence. ByteLevel's only moves offsets, which we do not keep. */
#include <stdlib.h>
#include <string.h>

#include "input/tokenizer_internal.h"

enum kind { TEMPLATE, BYTE_LEVEL, BERT, ROBERTA };

static const sl_tok_kind kinds[] = {{"TemplateProcessing", TEMPLATE}, {"ByteLevel", BYTE_LEVEL},
                                    {"BertProcessing", BERT}, {"RobertaProcessing", ROBERTA}, {NULL, 0}};

enum { SEQUENCE = -1, MAX_IDS = 1 << 28 };

static sl_status add_id(sl_tok_template *step, const sl_tok_source *source, json_t *id) {
  if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > SL_TOK_MAX_ID)
    SL_FAIL(SL_ERROR_FORMAT, "%s: post_processor: token id: expected an integer in 0..%d", source->name, SL_TOK_MAX_ID);
  return sl_tok_ids_add(&step->parts, (int32_t)json_integer_value(id));
}

/* The ids of {"SpecialToken": {"id": NAME}}, from special_tokens[NAME].ids. */
static sl_status load_special(sl_tok_template *step, const sl_tok_source *source, json_t *part, json_t *special) {
  json_t *key = json_object_get(special, "id");
  if (!json_is_string(key)) SL_FAIL(SL_ERROR_FORMAT, "%s: post_processor: SpecialToken without \"id\"", source->name);
  const char *token = json_string_value(key);
  size_t n_token = json_string_length(key);
  json_t *entry = json_object_getn(json_object_get(part, "special_tokens"), token, n_token);
  json_t *ids = json_object_get(entry, "ids");
  if (!json_is_array(ids))
    SL_FAIL(SL_ERROR_FORMAT, "%s: post_processor: special_tokens lacks \"%s\" or its \"ids\"", source->name,
            sl_tok_quote(token, n_token).text);
  for (size_t i = 0; i < json_array_size(ids); i++) SL_TRY(add_id(step, source, json_array_get(ids, i)));
  return SL_OK;
}

static sl_status load_template(sl_tok_template *step, const sl_tok_source *source, json_t *part) {
  json_t *single = json_object_get(part, "single");
  if (!json_is_array(single))
    SL_FAIL(SL_ERROR_FORMAT, "%s: post_processor: \"single\": expected an array", source->name);
  for (size_t i = 0; i < json_array_size(single); i++) {
    json_t *item = json_array_get(single, i), *special = json_object_get(item, "SpecialToken");
    const char *id = json_string_value(json_object_get(json_object_get(item, "Sequence"), "id"));
    if (special) {
      SL_TRY(load_special(step, source, part, special));
    } else if (id && strcmp(id, "A") == 0) {
      SL_TRY(sl_tok_ids_add(&step->parts, SEQUENCE));
    } else {
      SL_FAIL(SL_ERROR_FORMAT, "%s: post_processor: part %zu of \"single\": expected a SpecialToken or Sequence A",
              source->name, i);
    }
  }
  return SL_OK;
}

static sl_status load_step(void *context, const sl_tok_source *source, json_t *part, const char *type, int kind) {
  (void)type;
  sl_tok_templates *steps = context;
  if (kind == BYTE_LEVEL) return SL_OK;
  SL_TRY(sl_tok_grow((void **)&steps->items, steps->n, &steps->capacity, sizeof *steps->items, "post-processors"));
  sl_tok_template *step = &steps->items[steps->n++];
  *step = (sl_tok_template){0};
  if (kind == TEMPLATE) return load_template(step, source, part);
  SL_TRY(add_id(step, source, json_array_get(json_object_get(part, "cls"), 1)));
  SL_TRY(sl_tok_ids_add(&step->parts, SEQUENCE));
  return add_id(step, source, json_array_get(json_object_get(part, "sep"), 1));
}

sl_status sl_tok_templates_load(sl_tok_templates *steps, const sl_tok_source *source, json_t *part) {
  return sl_tok_walk(source, part, "post_processor", "processors", kinds, load_step, steps);
}

void sl_tok_templates_dispose(sl_tok_templates *steps) {
  for (size_t i = 0; i < steps->n; i++) free(steps->items[i].parts.items);
  free(steps->items);
}

/* Without specials a template still says how often the sequence appears. */
static sl_status apply(const sl_tok_template *step, const char *name, bool add_special, const sl_tok_ids *in,
                       sl_tok_ids *out) {
  for (size_t i = 0; i < step->parts.n; i++) {
    int32_t part = step->parts.items[i];
    if (part != SEQUENCE) {
      if (add_special) SL_TRY(sl_tok_ids_add(out, part));
      continue;
    }
    if (out->n + in->n > MAX_IDS) SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: post_processor: more than %d ids", name, MAX_IDS);
    for (size_t k = 0; k < in->n; k++) SL_TRY(sl_tok_ids_add(out, in->items[k]));
  }
  return SL_OK;
}

sl_status sl_tok_templates_apply(const sl_tok_templates *steps, const char *name, bool add_special, sl_tok_ids *ids) {
  for (size_t i = 0; i < steps->n; i++) {
    sl_tok_ids out = {0};
    sl_status status = apply(&steps->items[i], name, add_special, ids, &out);
    if (status != SL_OK) {
      free(out.items);
      return status;
    }
    free(ids->items);
    *ids = out;
  }
  return SL_OK;
}
