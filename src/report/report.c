/* report.html of a run directory: its checks, its title, its sections, its overlays. */
#include "sightline/report.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "report/overlays.h"
#include "report/page.h"
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

static sl_status append_title(sl_text *out, const sl_run_reader *run) {
  const json_t *compared = sl_json_at(sl_run_root(run), "analyses.compare.runs");
  if (compared && !sl_json_at(sl_run_root(run), "prompt"))
    return sl_text_format(out, "Comparison of %zu runs", json_array_size(compared));
  const char *question = "run", *answer = "";
  SL_TRY(sl_json_get_string(sl_run_root(run), "prompt.question", &question, sl_run_dir(run)));
  SL_TRY(sl_json_get_string(sl_run_root(run), "prompt.answer", &answer, sl_run_dir(run)));
  SL_TRY(sl_text_append_string(out, question));
  if (*answer) SL_TRY(sl_text_append_string(out, " \xe2\x80\x93 "));
  return sl_text_append_string(out, answer);
}

static sl_status write_page(const sl_run_reader *run, const char *path) {
  const char **views = NULL;
  sl_text title = {0}, data = {0};
  int n_view = 0;
  sl_status status = SL_ALLOC(views, (size_t)sl_section_count, "sections");
  for (int i = 0; i < sl_section_count && status == SL_OK; i++)
    if (sl_section_present(run, i)) views[n_view++] = sl_sections[i].script;
  if (status == SL_OK) status = append_title(&title, run);
  if (status == SL_OK) status = sl_payload_append(&data, run);
  const sl_page page = {.title = title.data, .data = &data, .views = views, .n_view = n_view};
  if (status == SL_OK) status = sl_page_write(path, &page);
  sl_text_dispose(&title);
  sl_text_dispose(&data);
  free(views);
  return status;
}

sl_status sl_report_build(const char *run_dir) {
  sl_run_reader *run = NULL;
  SL_TRY(sl_run_open(&run, run_dir));
  char *path = NULL;
  sl_status status = check_root(run);
  if (status == SL_OK) status = sl_overlays_write(run);
  if (status == SL_OK) status = sl_path_join(&path, run_dir, "report.html");
  if (status == SL_OK) status = write_page(run, path);
  free(path);
  sl_run_close(run);
  return status;
}
