/* From a question to token ids with known meanings. */
#include "model/layout.h"

#include <stdio.h>
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
  const char *first = strstr(question, SL_PLACEHOLDER);
  if (raw) {
    if (m->family->image_before_bos && first && first != question)
      SL_FAIL(
          SL_ERROR_ARGUMENT,
          "the raw prompt holds the placeholder %s at byte %zu; this model's picture stands before everything else, "
          "where the placeholder may be left out",
          SL_PLACEHOLDER, (size_t)(first - question));
    if (!first && !m->family->image_before_bos)
      SL_FAIL(SL_ERROR_ARGUMENT, "the raw prompt lacks the placeholder %s", SL_PLACEHOLDER);
    if (!first) return SL_OK;
    if (strstr(first + 1, SL_PLACEHOLDER))
      SL_FAIL(SL_ERROR_ARGUMENT, "the raw prompt holds the placeholder %s more than once", SL_PLACEHOLDER);
    return SL_OK;
  }
  if (first) SL_FAIL(SL_ERROR_ARGUMENT, "the prompt contains the picture's placeholder %s", SL_PLACEHOLDER);
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

/* Puts the question into the template. A raw prompt is taken as it is, behind the placeholder if it has none. */
static sl_status fill_template(const sl_model *m, const char *question, bool raw, char **out) {
  if (raw && strstr(question, SL_PLACEHOLDER)) return sl_strdup(out, question);
  const char *frame = raw ? SL_PLACEHOLDER "{question}" : m->frame, *slot = strstr(frame, "{question}");
  sl_text text = {0};
  sl_status status = sl_text_append(&text, frame, (size_t)(slot - frame));
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

/* The prompt's text as the tokenizer gets it: the placeholder written as the family writes a picture, or left out when
 * the picture stands before everything. */
static sl_status written(const sl_model *m, const char *prompt, char **out) {
  const char *picture = strstr(prompt, SL_PLACEHOLDER);
  sl_text text = {0};
  *out = NULL;
  const sl_status status = sl_text_format(&text, "%.*s%s%s", (int)(picture - prompt), prompt,
                                          m->family->image_before_bos ? "" : m->family->image_text,
                                          picture + strlen(SL_PLACEHOLDER));
  if (status == SL_OK) *out = text.data;
  return status;
}

/* Ids of a text with the tokens that the tokenizer puts around one. A text that begins with the first of these itself
 * gets no second, as transformers does with what a chat template wrote ("<bos>"). */
static sl_status encode_whole(const sl_model *m, const char *text, size_t n, int32_t **ids, int *n_id) {
  int32_t *around = NULL;
  int n_around = 0;
  size_t length = 0;
  SL_TRY(sl_tokenizer_encode(m->tokenizer, "", 0, true, &around, &n_around));
  const char *first = n_around > 0 ? sl_tokenizer_piece(m->tokenizer, around[0], &length) : NULL;
  const bool begins = first && length > 0 && length <= n && memcmp(text, first, length) == 0;
  free(around);
  return sl_tokenizer_encode(m->tokenizer, text, n, !begins, ids, n_id);
}

/* Text on both sides of the picture by itself, as the original LLaVA's tokenizer_image_token. */
static sl_status encode_cut(const sl_model *m, const char *text, int32_t **ids, int *n_id) {
  const char *picture = strstr(text, m->family->image_token), *rest = picture + strlen(m->family->image_token);
  int32_t *first = NULL, *second = NULL;
  int n_first = 0, n_second = 0;
  SL_TRY(encode_whole(m, text, (size_t)(picture - text), &first, &n_first));
  sl_status status = sl_tokenizer_encode(m->tokenizer, rest, strlen(rest), false, &second, &n_second);
  if (status == SL_OK) status = SL_ALLOC(*ids, (size_t)n_first + (size_t)n_second + 1, "token ids");
  if (status == SL_OK) {
    *n_id = n_first + 1 + n_second;
    memcpy(*ids, first, (size_t)n_first * sizeof **ids);
    (*ids)[n_first] = m->shape.image_token_id;
    memcpy(*ids + n_first + 1, second, (size_t)n_second * sizeof **ids);
  }
  free(first);
  free(second);
  return status;
}

/* Token ids of a prompt whose picture is one image token. */
static sl_status encode_prompt(const sl_model *m, const char *prompt, int32_t **ids, int *n_id) {
  char *text = NULL;
  *ids = NULL;
  SL_TRY(written(m, prompt, &text));
  int32_t *plain = NULL;
  sl_status status = m->family->image_cuts_text ? encode_cut(m, text, &plain, n_id)
                                                : encode_whole(m, text, strlen(text), &plain, n_id);
  free(text);
  if (!m->family->image_before_bos || status != SL_OK) {
    *ids = plain;
    return status;
  }
  status = SL_ALLOC(*ids, (size_t)*n_id + 1, "token ids");
  if (status == SL_OK) {
    (*ids)[0] = m->shape.image_token_id;
    memcpy(*ids + 1, plain, (size_t)*n_id * sizeof **ids);
    ++*n_id;
  }
  free(plain);
  return status;
}

/* The id at an image position: the image token's, or that of a token of text between the views. */
static int32_t image_id(const sl_model *m, const sl_pack *pack, int position) {
  const int32_t source = pack->source[position];
  return source < SL_PACK_NEWLINE ? SL_PACK_TEXT(source) : m->shape.image_token_id;
}

/* Replaces the image token by as many as the picture has positions. */
static sl_status expand_image(sl_layout *l, const sl_model *m, const sl_pack *pack, const int32_t *ids, int n_id) {
  int at = -1;
  for (int i = 0; i < n_id && at < 0; i++)
    if (ids[i] == m->shape.image_token_id) at = i;
  if (at < 0)
    SL_FAIL(SL_ERROR_FORMAT, "the tokenizer does not keep the image token %s as one token", m->family->image_token);
  for (int i = at + 1; i < n_id; i++)
    if (ids[i] == m->shape.image_token_id)
      SL_FAIL(SL_ERROR_ARGUMENT, "the prompt's tokens hold the image token %s more than once", m->family->image_token);
  const int n_image = pack->n;
  l->n_token = l->n_prompt = n_id - 1 + n_image;
  if (l->n_prompt > m->shape.max_position)
    SL_FAIL(SL_ERROR_ARGUMENT, "the prompt has %d tokens; the model was made for %d (max_position_embeddings)",
            l->n_prompt, m->shape.max_position);
  l->first_image = at;
  l->n_image = n_image;
  l->n_shown = pack->n_shown;
  l->grid_height = pack->grid_height;
  l->grid_width = pack->grid_width;
  l->frame = (sl_position_frame){at, n_image, 0, 0};
  if (sl_rope_axes(&m->config) > 1) {
    l->frame.rows = pack->grid_height;
    l->frame.cols = pack->grid_width;
  }
  SL_TRY(allocate(l, l->n_token));
  SL_TRY(SL_ALLOC(l->places, (size_t)n_image, "image places"));
  for (int i = 0; i < n_image; i++) {
    int view, row, col;
    l->places[i] = sl_pack_cell(pack, i, &view, &row, &col) ? (sl_place){(int16_t)view, (int16_t)row, (int16_t)col}
                                                              : (sl_place){-1, 0, 0};
  }
  for (int t = 0; t < l->n_token; t++)
    l->ids[t] = t < at ? ids[t] : t < at + n_image ? image_id(m, pack, t - at) : ids[t - n_image + 1];
  return SL_OK;
}

/* Bytes of the prompt's beginning up to and including the user's role marker; 0 without one before the picture. */
static size_t system_bytes(const sl_layout *l, const sl_model *m) {
  const char *picture = strstr(l->text, SL_PLACEHOLDER), *user = strstr(l->text, m->prompt->user);
  return m->prompt->user[0] && user && user < picture ? (size_t)(user - l->text) + strlen(m->prompt->user) : 0;
}

/* Tokens of the template's beginning: those that agree with the text up to and including the user's role marker; BOS
 * alone behind a picture that stands before everything. */
static sl_status count_system(const sl_layout *l, const sl_model *m, int *out) {
  *out = 0;
  int32_t *ids = NULL;
  int n_id = 0;
  SL_TRY(encode_whole(m, l->text, system_bytes(l, m), &ids, &n_id));
  if (m->family->image_before_bos) *out = l->n_image + n_id;
  while (*out < n_id && *out < l->first_image && ids[*out] == l->ids[*out]) ++*out;
  free(ids);
  return SL_OK;
}

static bool is_blank(const char *text, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (text[i] != ' ' && text[i] != '\n' && text[i] != '\t') return false;
  return true;
}

/* Tokens at the end, behind the picture, that spell the assistant's role marker. */
static sl_status count_role(const sl_layout *l, const sl_model *m, int *out) {
  const char *marker = m->prompt->assistant;
  *out = 0;
  const int n_behind = l->n_prompt - l->first_image - l->n_image;
  if (!marker[0]) return SL_OK;
  for (int n = 1; n <= n_behind && n <= 64; n++) {
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

/* Tokens that the family writes around a picture ("<img>", "</img>") serve it without showing a patch. */
static void mark_frame(sl_layout *l, const sl_model *m) {
  const char *text = m->family->image_text, *token = strstr(text, m->family->image_token);
  text += strspn(text, "\n"); /* line ends around them are the template's */
  const size_t n_before = (size_t)(token - text);
  char name[64];
  snprintf(name, sizeof name, "%.*s", (int)n_before, text);
  const int before = l->first_image - 1, after = l->first_image + l->n_image;
  if (name[0] && before >= 0 && l->ids[before] == sl_tokenizer_find(m->tokenizer, name))
    l->classes[before] = SL_CLASS_STRUCTURE;
  token += strlen(m->family->image_token);
  snprintf(name, sizeof name, "%.*s", (int)strcspn(token, "\n"), token);
  if (name[0] && after < l->n_prompt && l->ids[after] == sl_tokenizer_find(m->tokenizer, name))
    l->classes[after] = SL_CLASS_STRUCTURE;
}

static sl_status classify(sl_layout *l, const sl_model *m, const sl_pack *pack) {
  int n_system = 0, n_role = 0;
  const char *picture = strstr(l->text, SL_PLACEHOLDER), *turn = l->text + system_bytes(l, m);
  SL_TRY(count_system(l, m, &n_system));
  SL_TRY(count_role(l, m, &n_role));
  /* Only blanks between the role marker and the picture belong to the template as well. */
  if (is_blank(turn, (size_t)(picture - turn)) && n_system < l->first_image) n_system = l->first_image;
  for (int t = 0; t < l->n_prompt; t++) {
    const bool image = t >= l->first_image && t < l->first_image + l->n_image;
    l->classes[t] = image ? SL_CLASS_STRUCTURE : t < n_system ? SL_CLASS_SYSTEM : SL_CLASS_USER;
    l->roles[t] = t >= l->n_prompt - n_role ? SL_ROLE_ROLE : SL_ROLE_NONE;
  }
  for (int i = 0; i < pack->n_shown; i++) l->classes[l->first_image + pack->shown[i]] = SL_CLASS_IMAGE;
  l->roles[l->n_prompt - 1] = SL_ROLE_FINAL;
  mark_frame(l, m);
  return SL_OK;
}

static sl_status build(sl_layout *l, const sl_model *m, const sl_pack *pack, const char *question, bool raw) {
  SL_TRY(check_question(m, question, raw));
  SL_TRY(fill_template(m, question, raw, &l->text));
  int32_t *ids = NULL;
  int n_id = 0;
  SL_TRY(encode_prompt(m, l->text, &ids, &n_id));
  sl_status status = expand_image(l, m, pack, ids, n_id);
  free(ids);
  if (status == SL_OK) status = classify(l, m, pack);
  for (int t = 0; status == SL_OK && t < l->n_prompt; t++) {
    if (l->ids[t] != m->shape.image_token_id && l->ids[t] >= m->shape.n_vocab)
      status = sl_fail(SL_ERROR_FORMAT, "token id %d is outside the model's vocabulary of %d", l->ids[t],
                       m->shape.n_vocab);
  }
  return status;
}

sl_status sl_layout_build(sl_layout *out, const sl_model *model, const sl_pack *pack, const char *question, bool raw) {
  *out = (sl_layout){.first_image = -1};
  sl_pack square = {0};
  if (!pack) SL_TRY(sl_pack_square(&square, model, question));
  const sl_status status = build(out, model, pack ? pack : &square, question, raw);
  sl_pack_dispose(&square);
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
  SL_TRY(encode_prompt(m, text, &ids, &n_id));
  const int n_prompt = l->n_prompt - l->n_image + 1;
  bool same = n_id >= n_prompt; /* but for the placeholder, in whose place a family may write text first */
  for (int i = 0; same && i < n_prompt; i++)
    same = i == l->first_image || ids[i] == l->ids[i < l->first_image ? i : i + l->n_image - 1];
  sl_status status = SL_OK;
  if (!same)
    status = sl_fail(SL_ERROR_ARGUMENT, "the answer changes how the prompt's own tokens are cut");
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
  if (strstr(answer, SL_PLACEHOLDER))
    SL_FAIL(SL_ERROR_ARGUMENT, "the answer contains the placeholder %s", SL_PLACEHOLDER);
  sl_text text = {0};
  const size_t n_text = strlen(l->text);
  const bool blank = answer[0] == ' ' || (n_text > 0 && l->text[n_text - 1] == '\n'); /* a line of its own */
  sl_status status = sl_text_format(&text, "%s%s%s", l->text, blank ? "" : " ", answer);
  if (status == SL_OK) status = append_continuation(l, model, text.data);
  sl_text_dispose(&text);
  return status;
}

static sl_status copy_arrays(sl_layout *out, const sl_layout *l) {
  const size_t n = (size_t)l->n_token, n_image = (size_t)l->n_image;
  SL_TRY(allocate(out, l->n_token));
  if (l->places) SL_TRY(SL_ALLOC(out->places, n_image, "image places"));
  memcpy(out->ids, l->ids, n * sizeof *out->ids);
  memcpy(out->classes, l->classes, n);
  memcpy(out->roles, l->roles, n);
  if (l->places) memcpy(out->places, l->places, n_image * sizeof *out->places);
  return l->text ? sl_strdup(&out->text, l->text) : SL_OK;
}

sl_status sl_layout_copy(sl_layout *out, const sl_layout *l) {
  *out = *l;
  out->ids = NULL;
  out->classes = out->roles = NULL;
  out->places = NULL;
  out->text = NULL;
  const sl_status status = copy_arrays(out, l);
  if (status != SL_OK) sl_layout_dispose(out);
  return status;
}

void sl_layout_dispose(sl_layout *l) {
  free(l->ids);
  free(l->classes);
  free(l->roles);
  free(l->places);
  free(l->text);
  *l = (sl_layout){.first_image = -1};
}
