/* The table of docs/results.md is that of src/store/schema.c. `test_results_page --write` writes it anew. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "store/schema.h"

#define PAGE SL_SOURCE_DIR "/docs/results.md"
#define BEGIN "<!-- tensors:start -->\n"
#define END "<!-- tensors:end -->"
#define MAX_PAGE ((size_t)1 << 20)

static const char *or_any(const sl_result *r) { return r->dtype < SL_DTYPE_COUNT ? sl_dtype_name(r->dtype) : "any"; }

static sl_status make_table(sl_text *out) {
  SL_TRY(sl_text_format(out, "| tensor | type | shape | unit | meaning |\n|---|---|---|---|---|\n"));
  for (int i = 0; i < sl_result_count; i++) {
    const sl_result *r = &sl_results[i];
    SL_TRY(sl_text_format(out, "| `%s` | %s | [%s]%s%s%s | %s | %s |\n", r->name, or_any(r), r->shape,
                          r->or_shape ? " or [" : "", r->or_shape ? r->or_shape : "", r->or_shape ? "]" : "", r->unit,
                          r->meaning));
  }
  return SL_OK;
}

/* The page with this table between its marks. */
static sl_status make_page(sl_text *out, const char *page) {
  const char *begin = strstr(page, BEGIN), *end = begin ? strstr(begin, END) : NULL;
  sl_text table = {0};
  if (!end) SL_FAIL(SL_ERROR_FORMAT, "%s: no marks of the table", PAGE);
  sl_status status = make_table(&table);
  if (status == SL_OK)
    status = sl_text_format(out, "%.*s%s%s", (int)(begin - page + (long)strlen(BEGIN)), page, table.data, end);
  sl_text_dispose(&table);
  return status;
}

static sl_status run(bool write, bool *same) {
  char *page = NULL;
  size_t n_page = 0;
  sl_text made = {0};
  SL_TRY(sl_file_read(PAGE, MAX_PAGE, &page, &n_page));
  sl_status status = make_page(&made, page);
  *same = status == SL_OK && strcmp(page, made.data) == 0;
  if (status == SL_OK && write && !*same) {
    status = sl_file_write(PAGE, made.data, made.length);
    *same = status == SL_OK;
  }
  sl_text_dispose(&made);
  free(page);
  return status;
}

int main(int argc, char **argv) {
  bool same = false;
  const sl_status status = run(argc > 1 && strcmp(argv[1], "--write") == 0, &same);
  if (status != SL_OK) fprintf(stderr, "%s\n", sl_error_message());
  if (status == SL_OK && !same) fprintf(stderr, "%s is not what src/store/schema.c says: %s --write\n", PAGE, argv[0]);
  return status == SL_OK && same ? 0 : 1;
}
