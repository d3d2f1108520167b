/* Puts a page together. Slots of the template are {{title}}, {{style}}, {{data}} and {{scripts}}. */
#include "report/page.h"

#include <string.h>

#include "report/assets.h"

static sl_status append_escaped(sl_text *out, const char *text) {
  for (; *text != '\0'; text++) {
    const char *entity = *text == '<'   ? "&lt;"
                         : *text == '>' ? "&gt;"
                         : *text == '&' ? "&amp;"
                         : *text == '"' ? "&quot;"
                                        : NULL;
    if (entity) {
      SL_TRY(sl_text_append_string(out, entity));
    } else {
      SL_TRY(sl_text_append(out, text, 1));
    }
  }
  return SL_OK;
}

static sl_status append_title(sl_text *out, const sl_page *page) {
  SL_TRY(append_escaped(out, page->title));
  return sl_text_append_string(out, " \xc2\xb7 sightline");
}

static sl_status append_script(sl_text *out, const char *source) {
  SL_TRY(sl_text_append_string(out, "<script>\n"));
  SL_TRY(sl_text_append_string(out, source));
  return sl_text_append_string(out, "\n</script>\n");
}

static sl_status append_scripts(sl_text *out, const sl_page *page) {
  SL_TRY(sl_text_append_string(out, "<!--\n"));
  SL_TRY(sl_text_append_string(out, sl_asset_licence));
  SL_TRY(sl_text_append_string(out, "-->\n"));
  SL_TRY(append_script(out, sl_asset_d3));
  for (int i = 0; sl_asset_common[i]; i++) SL_TRY(append_script(out, sl_asset_common[i]));
  for (int i = 0; i < page->n_view; i++) SL_TRY(append_script(out, page->views[i]));
  return append_script(out, sl_asset_start);
}

static sl_status fill_slot(sl_text *out, const char *name, size_t length, const sl_page *page) {
  static const char *const slots[] = {"title", "style", "data", "scripts"};
  int slot = 0;
  while (slot < 4 && (strlen(slots[slot]) != length || memcmp(slots[slot], name, length) != 0)) slot++;
  switch (slot) {
    case 0: return append_title(out, page);
    case 1: return sl_text_append_string(out, sl_asset_style);
    case 2: return sl_text_append(out, page->data->data, page->data->length);
    case 3: return append_scripts(out, page);
  }
  SL_FAIL(SL_ERROR_ARGUMENT, "report template: unknown slot %.*s", (int)length, name);
}

static sl_status fill_template(sl_text *out, const sl_page *page) {
  const char *at = sl_asset_page;
  for (const char *slot; (slot = strstr(at, "{{")) != NULL;) {
    const char *end = strstr(slot, "}}");
    if (!end) SL_FAIL(SL_ERROR_ARGUMENT, "report template: a slot does not end");
    SL_TRY(sl_text_append(out, at, (size_t)(slot - at)));
    SL_TRY(fill_slot(out, slot + 2, (size_t)(end - slot - 2), page));
    at = end + 2;
  }
  return sl_text_append_string(out, at);
}

sl_status sl_page_write(const char *path, const sl_page *page) {
  sl_text text = {0};
  sl_status status = fill_template(&text, page);
  if (status == SL_OK) status = sl_file_write(path, text.data, text.length);
  sl_text_dispose(&text);
  return status;
}
