/* Puts report.html together: the page's template with style, D3, scripts, views and data filled into its slots. */
#include "sightline/report.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "report/assets.h"
#include "report/overlays.h"
#include "report/payload.h"
#include "report/section.h"
#include "store/run.h"

/* What the page relies on: wrong types in an edited run.json are told here, with the key, instead of by a blank
 * page. */
static sl_status check_root(const sl_run_reader *run) {
  static const struct {
    const char *path;
    json_type type;
    const char *name;
  } keys[] = {{"tokens", JSON_ARRAY, "an array"},      {"queries", JSON_ARRAY, "an array"},
              {"command", JSON_ARRAY, "an array"},     {"warnings", JSON_ARRAY, "an array"},
              {"prompt", JSON_OBJECT, "an object"},    {"prompt.question", JSON_STRING, "a string"},
              {"prompt.answer", JSON_STRING, "a string"}, {"model", JSON_OBJECT, "an object"},
              {"analyses", JSON_OBJECT, "an object"},  {"analyses.cam.maps", JSON_ARRAY, "an array"},
              {"image", JSON_OBJECT, "an object"},     {"timings_ms", JSON_OBJECT, "an object"}};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    json_t *value = sl_json_at(sl_run_root(run), keys[i].path);
    if (value && !json_is_null(value) && json_typeof(value) != keys[i].type) {
      SL_FAIL(SL_ERROR_FORMAT, "%s/run.json: key \"%s\" is not %s", sl_run_dir(run), keys[i].path, keys[i].name);
    }
  }
  size_t index;
  json_t *token;
  json_array_foreach(json_object_get(sl_run_root(run), "tokens"), index, token) {
    if (json_is_object(token)) continue;
    SL_FAIL(SL_ERROR_FORMAT, "%s/run.json: tokens[%zu] is not an object", sl_run_dir(run), index);
  }
  return SL_OK;
}

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

static sl_status append_title(sl_text *out, const sl_run_reader *run) {
  const char *question = "run", *answer = "";
  SL_TRY(sl_json_get_string(sl_run_root(run), "prompt.question", &question, sl_run_dir(run)));
  SL_TRY(sl_json_get_string(sl_run_root(run), "prompt.answer", &answer, sl_run_dir(run)));
  SL_TRY(append_escaped(out, question));
  if (*answer) SL_TRY(sl_text_append_string(out, " \xe2\x80\x93 "));
  SL_TRY(append_escaped(out, answer));
  return sl_text_append_string(out, " \xc2\xb7 sightline");
}

static sl_status append_script(sl_text *out, const char *source) {
  SL_TRY(sl_text_append_string(out, "<script>\n"));
  SL_TRY(sl_text_append_string(out, source));
  return sl_text_append_string(out, "\n</script>\n");
}

static sl_status append_scripts(sl_text *out, const sl_run_reader *run) {
  SL_TRY(sl_text_append_string(out, "<!--\n"));
  SL_TRY(sl_text_append_string(out, sl_asset_licence));
  SL_TRY(sl_text_append_string(out, "-->\n"));
  SL_TRY(append_script(out, sl_asset_d3));
  for (int i = 0; sl_asset_common[i]; i++) SL_TRY(append_script(out, sl_asset_common[i]));
  for (int i = 0; i < sl_section_count; i++) {
    if (sl_section_present(run, i)) SL_TRY(append_script(out, sl_sections[i].script));
  }
  return append_script(out, sl_asset_start);
}

/* One slot of the template. */
static sl_status fill_slot(sl_text *out, const char *name, size_t length, const sl_run_reader *run) {
  static const char *const slots[] = {"title", "style", "data", "scripts"};
  int slot = 0;
  while (slot < 4 && (strlen(slots[slot]) != length || memcmp(slots[slot], name, length) != 0)) slot++;
  switch (slot) {
    case 0: return append_title(out, run);
    case 1: return sl_text_append_string(out, sl_asset_style);
    case 2: return sl_payload_append(out, run);
    case 3: return append_scripts(out, run);
  }
  SL_FAIL(SL_ERROR_ARGUMENT, "report template: unknown slot %.*s", (int)length, name);
}

static sl_status build_page(sl_text *out, const sl_run_reader *run) {
  const char *at = sl_asset_page;
  for (const char *slot; (slot = strstr(at, "{{")) != NULL;) {
    const char *end = strstr(slot, "}}");
    if (!end) SL_FAIL(SL_ERROR_ARGUMENT, "report template: a slot does not end");
    SL_TRY(sl_text_append(out, at, (size_t)(slot - at)));
    SL_TRY(fill_slot(out, slot + 2, (size_t)(end - slot - 2), run));
    at = end + 2;
  }
  return sl_text_append_string(out, at);
}

sl_status sl_report_build(const char *run_dir) {
  sl_run_reader *run = NULL;
  SL_TRY(sl_run_open(&run, run_dir));
  sl_text page = {0};
  char *path = NULL;
  sl_status status = check_root(run);
  if (status == SL_OK) status = sl_overlays_write(run);
  if (status == SL_OK) status = build_page(&page, run);
  if (status == SL_OK) status = sl_path_join(&path, run_dir, "report.html");
  if (status == SL_OK) status = sl_file_write(path, page.data, page.length);
  free(path);
  sl_text_dispose(&page);
  sl_run_close(run);
  return status;
}
