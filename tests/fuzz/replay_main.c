/* Feeds files, or all files of folders, to a fuzz target, in the normal build: the seeds and whatever fuzzing once
 * found. It says which file it feeds, since a target ends the process when something is wrong. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int n_fed;

static int feed(const char *path) {
  char *bytes = NULL;
  size_t n_bytes = 0;
  if (sl_file_read(path, (size_t)1 << 24, &bytes, &n_bytes) != SL_OK) {
    fprintf(stderr, "%s\n", sl_error_message());
    return 1;
  }
  printf("%s\n", path);
  fflush(stdout);
  /* Exactly as large as the content, so that the sanitizers see a read behind it. */
  uint8_t *exact = malloc(n_bytes > 0 ? n_bytes : 1);
  if (exact) memcpy(exact, bytes, n_bytes);
  if (exact) LLVMFuzzerTestOneInput(exact, n_bytes);
  n_fed++;
  free(exact);
  free(bytes);
  return 0;
}

int main(int argc, char **argv) {
  int failed = 0;
  for (int i = 1; i < argc; i++) {
    DIR *dir = opendir(argv[i]);
    if (!dir) failed |= feed(argv[i]);
    for (struct dirent *e; dir && (e = readdir(dir));) {
      char *path = NULL;
      if (e->d_name[0] == '.' || sl_path_join(&path, argv[i], e->d_name) != SL_OK) continue;
      failed |= feed(path);
      free(path);
    }
    if (dir) closedir(dir);
  }
  printf("%d files\n", n_fed);
  return failed || n_fed == 0;
}
