/* mock_run DIR [plain|hostile|flow|cam|no_grid|views|compare|queries|large]: writes a mock run directory with its report, for the browser test. */
#include <stdio.h>
#include <string.h>

#include "browser/mock_run.h"
#include "sightline/report.h"

int main(int argc, char **argv) {
  static const char *const kinds[] = {"plain", "hostile", "flow", "cam", "no_grid", "views", "compare", "queries", "large"};
  mock_kind kind = MOCK_PLAIN;
  if (argc < 2 || argc > 3) return fprintf(stderr, "usage: mock_run DIR [plain|hostile|flow|cam|no_grid|views|compare|queries|large]\n"), 2;
  for (int i = 0; argc == 3 && i < (int)(sizeof kinds / sizeof *kinds); i++) {
    if (strcmp(argv[2], kinds[i]) == 0) kind = (mock_kind)i;
  }
  sl_status status = mock_run_write(argv[1], kind);
  if (status == SL_OK) status = sl_report_build(argv[1]);
  if (status != SL_OK) fprintf(stderr, "mock_run: %s\n", sl_error_message());
  return status == SL_OK ? 0 : 1;
}
