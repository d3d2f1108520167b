/* From a question to token ids with known meanings. */
#include "model/layout.h"

#include <stdlib.h>
#include <string.h>

#include "model/internal.h"

#define MAX_PROMPT_BYTES ((size_t)1 << 20)

const char *sl_class_name(sl_token_class token_class) {
  static const char *const names[SL_CLASS_COUNT] = {"system", "image", "structure", "user", "generated"};
  return names[token_class];
}

const char *sl_role_name(sl_token_role role) {
  static const char *const names[] = {"", "role", "final"};
  return names[role];
}

static sl_status check_question(const sl_model *m, const char *question, bool raw) {
  const size_t n = strlen(question);
  size_t bad = 0;
  if (n == 0) SL_FAIL(SL_ERROR_ARGUMENT, "the prompt is empty");
  if (n > MAX_PROMPT_BYTES)
    SL_FAIL(SL_ERROR_ARGUMENT, "the prompt has %zu bytes; the limit is %zu", n, MAX_PROMPT_BYTES);
  if (!sl_utf8_valid(question, n, &bad)) SL_FAIL(SL_ERROR_ARGUMENT, "the prompt is not UTF-8 (byte %zu)", bad);
  const char *first = strstr(question, m->family->placeholder);
  if (raw) {
    if (!first) SL_FAIL(SL_ERROR_ARGUMENT, "the raw prompt lacks the placeholder %s", m->family->placeholder);
    if (strstr(first + 1, m->family->placeholder))
      SL_FAIL(SL_ERROR_ARGUMENT, "the raw prompt holds the placeholder %s more than once", m->family->placeholder);
    return SL_OK;
  }
  if (first) SL_FAIL(SL_ERROR_ARGUMENT, "the prompt contains the picture's placeholder %s", m->family->placeholder);
  for (int id = 0; id < sl_tokenizer_vocab_size(m->tokenizer); id++) {
    if (!sl_tokenizer_is_special(m->tokenizer, id)) continue;
    size_t length = 0;
    const char *piece = sl_tokenizer_piece(m->tokenizer, id, &length);
    if (piece && length > 0 && strstr(question, piece))
      SL_FAIL(SL_ERROR_ARGUMENT, "the prompt contains the special token %s; use the raw prompt to write one yourself",
              piece);
  }
  return SL_OK;
}

/* Puts the question into the template. */
static sl_status fill_template(const sl_model *m, const char *question, bool raw, char **out) {
  if (raw) return sl_strdup(out, question);
  const char *slot = strstr(m->family->prompt, "{question}");
  sl_text text = {0};
  sl_status status = sl_text_append(&text, m->family->prompt, (size_t)(slot - m->family->prompt));
  if (status == SL_OK) status = sl_text_append_string(&text, question);
  if (status == SL_OK) status = sl_text_append_string(&text, slot + strlen("{question}"));
  if (status != SL_OK) {
    sl_text_dispose(&text);
    return status;
  }
  *out = text.data;
  return SL_OK;
}

static sl_status allocate(sl_layout *l, int n_token) {
  SL_TRY(SL_ALLOC(l->ids, (size_t)n_token, "token ids"));
  SL_TRY(SL_ALLOC(l->classes, (size_t)n_token, "token classes"));
  return SL_ALLOC(l->roles, (size_t)n_token, "token roles");
}

/* Replaces the placeholder's id by as many as the picture has tokens. */
static sl_status expand_image(sl_layout *l, const sl_model *m, const int32_t *ids, int n_id) {
  int at = -1;
  for (int i = 0; i < n_id && at < 0; i++)
    if (ids[i] == m->shape.image_token_id) at = i;
  if (at < 0)
    SL_FAIL(SL_ERROR_FORMAT, "the tokenizer does not keep the placeholder %s as one token", m->family->placeholder);
  for (int i = at + 1; i < n_id; i++)
    if (ids[i] == m->shape.image_token_id)
      SL_FAIL(SL_ERROR_ARGUMENT, "the prompt's tokens hold the placeholder %s more than once", m->family->placeholder);
  const int n_image = m->shape.n_image_token;
  l->n_token = l->n_prompt = n_id - 1 + n_image;
  if (l->n_prompt > m->shape.max_position)
    SL_FAIL(SL_ERROR_ARGUMENT, "the prompt has %d tokens; the model was made for %d (max_position_embeddings)",
            l->n_prompt, m->shape.max_position);
  l->first_image = at;
  l->n_image = n_image;
  SL_TRY(allocate(l, l->n_token));
  for (int t = 0; t < l->n_token; t++)
    l->ids[t] = t < at ? ids[t] : t < at + n_image ? m->shape.image_token_id : ids[t - n_image + 1];
  return SL_OK;
}

/* Tokens of the template's beginning: those that agree with the text up to and including the user's role marker. */
static sl_status count_system(const sl_layout *l, const sl_model *m, int *out) {
  *out = 0;
  const char *picture = strstr(l->text, m->family->placeholder), *user = strstr(l->text, m->family->user);
  const size_t n_bytes = user && user < picture ? (size_t)(user - l->text) + strlen(m->family->user) : 0;
  int32_t *ids = NULL;
  int n_id = 0;
  SL_TRY(sl_tokenizer_encode(m->tokenizer, l->text, n_bytes, true, &ids, &n_id));
  while (*out < n_id && *out < l->first_image && ids[*out] == l->ids[*out]) ++*out;
  free(ids);
  return SL_OK;
}

static bool is_blank(const char *text, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (text[i] != ' ' && text[i] != '\n' && text[i] != '\t') return false;
  return true;
}

/* Tokens at the end that spell the assistant's role marker. */
static sl_status count_role(const sl_layout *l, const sl_model *m, int *out) {
  const char *marker = m->family->assistant;
  *out = 0;
  for (int n = 1; n <= l->n_prompt && n <= 64; n++) {
    sl_text text = {0};
    const sl_status status = sl_tokenizer_decode(m->tokenizer, l->ids + l->n_prompt - n, n, false, &text);
    const char *start = text.data ? text.data + strspn(text.data, " ") : "";
    const bool whole = strcmp(start, marker) == 0, longer = strlen(start) > strlen(marker);
    sl_text_dispose(&text);
    SL_TRY(status);
    if (whole) *out = n;
    if (longer) break;
  }
  return SL_OK;
}

static sl_status classify(sl_layout *l, const sl_model *m) {
  int n_system = 0, n_role = 0;
  const char *picture = strstr(l->text, m->family->placeholder), *user = strstr(l->text, m->family->user);
  const char *turn = user && user < picture ? user + strlen(m->family->user) : l->text;
  SL_TRY(count_system(l, m, &n_system));
  SL_TRY(count_role(l, m, &n_role));
  /* Only blanks between the role marker and the picture belong to the template as well. */
  if (is_blank(turn, (size_t)(picture - turn))) n_system = l->first_image;
  for (int t = 0; t < l->n_prompt; t++) {
    const bool image = t >= l->first_image && t < l->first_image + l->n_image;
    l->classes[t] = image ? SL_CLASS_IMAGE : t < n_system ? SL_CLASS_SYSTEM : SL_CLASS_USER;
    l->roles[t] = t >= l->n_prompt - n_role ? SL_ROLE_ROLE : SL_ROLE_NONE;
  }
  if (m->shape.keeps_cls) l->classes[l->first_image] = SL_CLASS_STRUCTURE;
  l->roles[l->n_prompt - 1] = SL_ROLE_FINAL;
  return SL_OK;
}

static sl_status build(sl_layout *l, const sl_model *m, const char *question, bool raw) {
  SL_TRY(check_question(m, question, raw));
  SL_TRY(fill_template(m, question, raw, &l->text));
  int32_t *ids = NULL;
  int n_id = 0;
  SL_TRY(sl_tokenizer_encode(m->tokenizer, l->text, strlen(l->text), true, &ids, &n_id));
  sl_status status = expand_image(l, m, ids, n_id);
  free(ids);
  if (status == SL_OK) status = classify(l, m);
  for (int t = 0; status == SL_OK && t < l->n_prompt; t++) {
    if (l->ids[t] != m->shape.image_token_id && l->ids[t] >= m->shape.n_vocab)
      status = sl_fail(SL_ERROR_FORMAT, "token id %d is outside the model's vocabulary of %d", l->ids[t],
                       m->shape.n_vocab);
  }
  return status;
}

sl_status sl_layout_build(sl_layout *out, const sl_model *model, const char *question, bool raw) {
  *out = (sl_layout){.first_image = -1};
  const sl_status status = build(out, model, question, raw);
  if (status != SL_OK) sl_layout_dispose(out);
  return status;
}

sl_status sl_layout_append(sl_layout *l, const sl_model *model, const int32_t *ids, int n_id) {
  const size_t total = (size_t)l->n_token + (size_t)n_id;
  for (int i = 0; i < n_id; i++)
    if (ids[i] < 0 || ids[i] >= model->shape.n_vocab)
      SL_FAIL(SL_ERROR_ARGUMENT, "answer token id %d is outside the vocabulary of %d", ids[i], model->shape.n_vocab);
  SL_TRY(SL_REALLOC(l->ids, total, "token ids"));
  SL_TRY(SL_REALLOC(l->classes, total, "token classes"));
  SL_TRY(SL_REALLOC(l->roles, total, "token roles"));
  for (int i = 0; i < n_id; i++) {
    l->ids[l->n_token + i] = ids[i];
    l->classes[l->n_token + i] = SL_CLASS_GENERATED;
    l->roles[l->n_token + i] = SL_ROLE_NONE;
  }
  l->n_token += n_id;
  return SL_OK;
}

/* Ids of `text` after the prompt's own, image placeholder unexpanded. */
static sl_status append_continuation(sl_layout *l, const sl_model *m, const char *text) {
  int32_t *ids = NULL;
  int n_id = 0;
  SL_TRY(sl_tokenizer_encode(m->tokenizer, text, strlen(text), true, &ids, &n_id));
  const int n_prompt = l->n_prompt - l->n_image + 1;
  bool same = n_id >= n_prompt;
  for (int i = 0; same && i < n_prompt; i++)
    same = ids[i] == l->ids[i <= l->first_image ? i : i + l->n_image - 1];
  sl_status status = SL_OK;
  if (!same)
    status = sl_fail(SL_ERROR_ARGUMENT, "the answer changes how the prompt's own tokens are cut; give it as token ids");
  else if (n_id == n_prompt)
    status = sl_fail(SL_ERROR_ARGUMENT, "the answer has no tokens");
  else
    status = sl_layout_append(l, m, ids + n_prompt, n_id - n_prompt);
  free(ids);
  return status;
}

sl_status sl_layout_append_text(sl_layout *l, const sl_model *model, const char *answer) {
  size_t bad = 0;
  if (!sl_utf8_valid(answer, strlen(answer), &bad))
    SL_FAIL(SL_ERROR_ARGUMENT, "the answer is not UTF-8 (byte %zu)", bad);
  if (answer[0] == '\0') SL_FAIL(SL_ERROR_ARGUMENT, "the answer is empty");
  if (strlen(answer) > MAX_PROMPT_BYTES)
    SL_FAIL(SL_ERROR_ARGUMENT, "the answer has %zu bytes; the limit is %zu", strlen(answer), MAX_PROMPT_BYTES);
  if (strstr(answer, model->family->placeholder))
    SL_FAIL(SL_ERROR_ARGUMENT, "the answer contains the placeholder %s", model->family->placeholder);
  sl_text text = {0};
  sl_status status = sl_text_format(&text, "%s%s%s", l->text, answer[0] == ' ' ? "" : " ", answer);
  if (status == SL_OK) status = append_continuation(l, model, text.data);
  sl_text_dispose(&text);
  return status;
}

void sl_layout_dispose(sl_layout *l) {
  free(l->ids);
  free(l->classes);
  free(l->roles);
  free(l->text);
  *l = (sl_layout){.first_image = -1};
}

void sl_layout_boxes(const sl_model *m, const sl_pixel_map *map, float (*box)[4], int32_t *view) {
  const int cls = m->shape.keeps_cls ? 1 : 0, patch = m->shape.patch_px;
  if (cls) {
    memset(box[0], 0, sizeof box[0]);
    view[0] = -1;
  }
  for (int i = 0; i < m->shape.grid_height * m->shape.grid_width; i++) {
    const int row = i / m->shape.grid_width, col = i % m->shape.grid_width;
    box[cls + i][0] = (float)(col * patch * map->scale_x + map->offset_x);
    box[cls + i][1] = (float)(row * patch * map->scale_y + map->offset_y);
    box[cls + i][2] = (float)((col + 1) * patch * map->scale_x + map->offset_x);
    box[cls + i][3] = (float)((row + 1) * patch * map->scale_y + map->offset_y);
    view[cls + i] = 0;
  }
}
