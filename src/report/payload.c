/* From a run directory to the JSON that the page's scripts read. */
#include "report/payload.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/colour.h"
#include "report/section.h"
#include "report/sheet.h"

#define PAGE_SCHEMA 1

static sl_status append_base64(sl_text *out, const void *bytes, size_t n_bytes) {
  static const char symbols[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const uint8_t *in = bytes;
  char block[4096];
  size_t used = 0;
  for (size_t i = 0; i < n_bytes; i += 3) {
    size_t left = n_bytes - i;
    uint32_t group = (uint32_t)in[i] << 16 | (left > 1 ? (uint32_t)in[i + 1] << 8 : 0) | (left > 2 ? in[i + 2] : 0);
    block[used++] = symbols[group >> 18];
    block[used++] = symbols[group >> 12 & 63];
    block[used++] = left > 1 ? symbols[group >> 6 & 63] : '=';
    block[used++] = left > 2 ? symbols[group & 63] : '=';
    if (used == sizeof block || left <= 3) {
      SL_TRY(sl_text_append(out, block, used));
      used = 0;
    }
  }
  return SL_OK;
}

/* JSON text with every "<" (which only strings contain) written as an escape: no end tag, no comment. */
static sl_status append_json(sl_text *out, const json_t *value) {
  char *text = NULL;
  SL_TRY(sl_json_print(value, 0, &text));
  sl_status status = SL_OK;
  for (char *at = text; status == SL_OK && *at != '\0';) {
    size_t length = strcspn(at, "<");
    status = sl_text_append(out, at, length);
    at += length;
    if (status == SL_OK && *at == '<') {
      status = sl_text_append_string(out, "\\u003c");
      at++;
    }
  }
  free(text);
  return status;
}

static sl_status append_string(sl_text *out, const char *string) {
  json_t *value = json_string(string);
  if (!value) SL_FAIL(SL_ERROR_FORMAT, "report: a text is not UTF-8");
  /* jansson prints a bare string only inside a container. */
  json_t *holder = json_array();
  sl_text text = {0};
  sl_status status = SL_OK;
  if (!holder || json_array_append_new(holder, value) != 0) status = sl_fail(SL_ERROR_MEMORY, "report: no memory");
  if (status == SL_OK) status = append_json(&text, holder);
  if (status == SL_OK) status = sl_text_append(out, text.data + 1, text.length - 2);
  sl_text_dispose(&text);
  json_decref(holder);
  return status;
}

static sl_status append_shape(sl_text *out, const sl_tensor *tensor, const char *type) {
  SL_TRY(append_string(out, tensor->name));
  SL_TRY(sl_text_append_string(out, ":{\"shape\":["));
  for (int i = 0; i < tensor->n_dim; i++) {
    SL_TRY(sl_text_format(out, "%s%lld", i ? "," : "", (long long)tensor->shape[i]));
  }
  return sl_text_format(out, "],\"type\":\"%s\",\"data\":\"", type);
}

/* f32 maps as 16-bit shares of each map's maximum: half the size, and far finer than a screen shows. */
static sl_status append_map(sl_text *out, const sl_tensor *tensor, int64_t row_length) {
  int64_t count = sl_tensor_count(tensor), n_row = row_length > 0 ? count / row_length : 0;
  uint16_t *entries = NULL;
  float *scales = NULL, *row = NULL;
  sl_status status = SL_ALLOC(entries, (size_t)count, tensor->name);
  if (status == SL_OK) status = SL_ALLOC(scales, (size_t)n_row, tensor->name);
  if (status == SL_OK) status = SL_ALLOC(row, (size_t)row_length, tensor->name);
  for (int64_t r = 0; r < n_row && status == SL_OK; r++) {
    memcpy(row, (const char *)tensor->data + r * row_length * 4, (size_t)row_length * 4);
    for (int64_t i = 0; i < row_length; i++) {
      if (isfinite(row[i]) && row[i] > scales[r]) scales[r] = row[i];
    }
    for (int64_t i = 0; i < row_length; i++) {
      bool positive = isfinite(row[i]) && row[i] > 0 && scales[r] > 0;
      entries[r * row_length + i] = positive ? (uint16_t)(row[i] / scales[r] * 65535.0f + 0.5f) : 0;
    }
  }
  if (status == SL_OK) status = append_shape(out, tensor, "q16");
  if (status == SL_OK) status = append_base64(out, entries, (size_t)count * 2);
  if (status == SL_OK) status = sl_text_append_string(out, "\",\"scale\":\"");
  if (status == SL_OK) status = append_base64(out, scales, (size_t)n_row * 4);
  free(entries);
  free(scales);
  free(row);
  return status;
}

/* row_length > 0: a map whose rows of that length are drawn as pictures, so 16 bits are enough. */
static sl_status append_tensor(sl_text *out, const sl_tensor *tensor, int64_t row_length, bool *any) {
  SL_TRY(sl_text_append_string(out, *any ? ",\n" : "\n"));
  *any = true;
  if (row_length > 0 && tensor->dtype == SL_F32) {
    SL_TRY(append_map(out, tensor, row_length));
  } else {
    const char *type = tensor->dtype == SL_F32   ? "f32"
                       : tensor->dtype == SL_I32 ? "i32"
                       : tensor->dtype == SL_U8  ? "u8"
                                                 : NULL;
    if (!type) SL_FAIL(SL_ERROR_UNSUPPORTED, "report: result %s has a type the page cannot read", tensor->name);
    SL_TRY(append_shape(out, tensor, type));
    SL_TRY(append_base64(out, tensor->data, (size_t)sl_tensor_count(tensor) * sl_dtype_size(tensor->dtype)));
  }
  return sl_text_append_string(out, "\"}");
}

/* A map has one row for every N image tokens, or for every grid of them. */
static sl_status append_result(sl_text *out, const sl_run_reader *run, const char *name, bool map, bool *any) {
  const sl_tensor *tensor = sl_run_find(run, name);
  if (!tensor) return SL_OK;
  const int64_t *shape = tensor->shape;
  const int last = tensor->n_dim - 1;
  int64_t n_image = 0;
  const bool by_image = sl_run_symbol(run, "N", &n_image) && last >= 0 && shape[last] == n_image;
  const int64_t row_length = !map || last < 0 ? 0 : by_image || last < 1 ? shape[last] : shape[last] * shape[last - 1];
  return append_tensor(out, tensor, row_length, any);
}

bool sl_section_present(const sl_run_reader *run, int index) {
  const char *const *needs = sl_sections[index].needs;
  for (int i = 0; i < SL_MAX_SECTION_RESULT && needs[i]; i++) {
    if (!sl_run_find(run, needs[i])) return false;
  }
  return true;
}

/* Several sections may draw the same result; it is written once, exact when any of them needs it exact. */
typedef struct wanted {
  const char *name;
  bool map;
} wanted;

static int want(wanted *list, int count, const char *const *names, bool map) {
  for (int i = 0; i < SL_MAX_SECTION_RESULT && names[i]; i++) {
    int at = 0;
    while (at < count && strcmp(list[at].name, names[i]) != 0) at++;
    if (at == count) list[count++] = (wanted){names[i], map};
  }
  return count;
}

static sl_status append_tensors(sl_text *out, const sl_run_reader *run) {
  wanted *list = NULL;
  int count = 0;
  SL_TRY(SL_ALLOC(list, (size_t)sl_section_count * SL_MAX_SECTION_RESULT * 3, "report"));
  /* Maps first: `needs` repeats a name that `maps` of the same section holds. */
  for (int i = 0; i < sl_section_count; i++) {
    if (sl_section_present(run, i)) count = want(list, count, sl_sections[i].maps, true);
  }
  for (int i = 0; i < sl_section_count; i++) {
    if (!sl_section_present(run, i)) continue;
    count = want(list, count, sl_sections[i].needs, false);
    count = want(list, count, sl_sections[i].takes, false);
  }
  bool any = false;
  sl_status status = SL_OK;
  for (int i = 0; i < count && status == SL_OK; i++) status = append_result(out, run, list[i].name, list[i].map, &any);
  free(list);
  return status;
}

static sl_status append_pictures(sl_text *out, const sl_run_reader *run) {
  static const char *const names[] = {"input", "mask"};
  bool any = false;
  for (int i = 0; i < 2; i++) {
    if (!sl_run_has_picture(run, names[i])) continue;
    char *png = NULL;
    size_t n_bytes;
    SL_TRY(sl_run_picture(run, names[i], &png, &n_bytes));
    sl_status status = sl_text_format(out, "%s\n\"%s\":\"data:image/png;base64,", any ? "," : "", names[i]);
    if (status == SL_OK) status = append_base64(out, png, n_bytes);
    if (status == SL_OK) status = sl_text_append_string(out, "\"");
    free(png);
    SL_TRY(status);
    any = true;
  }
  return SL_OK;
}

static sl_status append_section(sl_text *out, const sl_section *section, bool *any) {
  SL_TRY(sl_text_append_string(out, *any ? ",[" : "["));
  *any = true;
  SL_TRY(append_string(out, section->name));
  SL_TRY(sl_text_append_string(out, ","));
  SL_TRY(append_string(out, section->title));
  return sl_text_append_string(out, "]");
}

static sl_status append_sections(sl_text *out, const sl_run_reader *run) {
  bool any = false;
  for (int i = 0; i < sl_section_count; i++)
    if (sl_section_present(run, i)) SL_TRY(append_section(out, &sl_sections[i], &any));
  return SL_OK;
}

static sl_status append_list(sl_text *out, const char *key, const int *values, int count) {
  SL_TRY(sl_text_format(out, "\"%s\":[", key));
  for (int i = 0; i < count; i++) SL_TRY(sl_text_format(out, "%s%d", i ? "," : "", values[i]));
  return sl_text_append_string(out, "]");
}

static sl_status append_sheet(sl_text *out, const sl_sheet *s) {
  const int grid[2] = {s->grid_height, s->grid_width};
  SL_TRY(sl_text_append_string(out, "\n{"));
  SL_TRY(append_list(out, "views", s->view, s->n_view));
  SL_TRY(sl_text_append_string(out, ","));
  SL_TRY(append_list(out, "grid", grid, grid[0] > 0 ? 2 : 0));
  SL_TRY(sl_text_append_string(out, ","));
  SL_TRY(append_list(out, "tokens", s->token, s->n_token));
  return sl_text_append_string(out, "}");
}

static sl_status append_sheets(sl_text *out, const sl_run_reader *run) {
  sl_sheets sheets;
  SL_TRY(sl_sheets_read(&sheets, run));
  sl_status status = SL_OK;
  for (int i = 0; i < sheets.count && status == SL_OK; i++) {
    if (i > 0) status = sl_text_append_string(out, ",");
    if (status == SL_OK) status = append_sheet(out, &sheets.at[i]);
  }
  sl_sheets_dispose(&sheets);
  return status;
}

static sl_status append_end(sl_text *out) {
  uint8_t colours[SL_COLOUR_COUNT][3];
  sl_colour_table(colours);
  SL_TRY(sl_text_append_string(out, "],\n\"colours\":\""));
  SL_TRY(append_base64(out, colours, sizeof colours));
  return sl_text_append_string(out, "\"}");
}

sl_status sl_payload_append(sl_text *out, const sl_run_reader *run) {
  SL_TRY(sl_text_format(out, "{\"page\":%d,\"run\":", PAGE_SCHEMA));
  SL_TRY(append_json(out, sl_run_root(run)));
  SL_TRY(sl_text_append_string(out, ",\n\"tensors\":{"));
  SL_TRY(append_tensors(out, run));
  SL_TRY(sl_text_append_string(out, "},\n\"pictures\":{"));
  SL_TRY(append_pictures(out, run));
  SL_TRY(sl_text_append_string(out, "},\n\"sheets\":["));
  SL_TRY(append_sheets(out, run));
  SL_TRY(sl_text_append_string(out, "],\n\"sections\":["));
  SL_TRY(append_sections(out, run));
  return append_end(out);
}

sl_status sl_payload_append_study(sl_text *out, const json_t *root, const sl_tensor *tensors, int n_tensor) {
  return sl_payload_append_root(out, root, tensors, n_tensor, sl_study_sections, sl_study_section_count);
}

sl_status sl_payload_append_root(sl_text *out, const json_t *root, const sl_tensor *tensors, int n_tensor,
                                 const sl_section *sections, int n_section) {
  bool any = false;
  SL_TRY(sl_text_format(out, "{\"page\":%d,\"run\":", PAGE_SCHEMA));
  SL_TRY(append_json(out, root));
  SL_TRY(sl_text_append_string(out, ",\n\"tensors\":{"));
  for (int i = 0; i < n_tensor; i++) SL_TRY(append_tensor(out, &tensors[i], 0, &any));
  SL_TRY(sl_text_append_string(out, "},\n\"pictures\":{},\n\"sheets\":[],\n\"sections\":["));
  any = false;
  for (int i = 0; i < n_section; i++) SL_TRY(append_section(out, &sections[i], &any));
  return append_end(out);
}
