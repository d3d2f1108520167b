/* Writing files whole or not at all: temporary in the same folder, fsync, rename. */
#include "base/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"

struct sl_output {
  int descriptor; /* -1: not open */
  char *path;
  char *temporary; /* NULL until the file exists */
};

static sl_status fail_writing(const char *path, int error) {
  if (error == ENOSPC || error == EDQUOT)
    SL_FAIL(SL_ERROR_FILE, "%s: cannot write: disk full (%s)", path, strerror(error));
  SL_FAIL(SL_ERROR_FILE, "%s: cannot write: %s", path, strerror(error));
}

/* Not mkstemp: its files are readable by the owner only, and the umask can only be read by changing it. */
static sl_status create_temporary(sl_output *output) {
  static atomic_uint serial;
  const char *slash = strrchr(output->path, '/');
  int folder_length = slash ? (int)(slash - output->path) + 1 : 0;
  for (int attempt = 0; attempt < 100; attempt++) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    sl_text name = {0};
    SL_TRY(sl_text_format(&name, "%.*s.sightline-%ld-%u-%lx.tmp", folder_length, output->path, (long)getpid(),
                          atomic_fetch_add(&serial, 1), (unsigned long)now.tv_nsec));
    output->descriptor = open(name.data, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (output->descriptor >= 0) {
      output->temporary = name.data;
      return SL_OK;
    }
    int error = errno;
    sl_text_dispose(&name);
    if (error != EEXIST && error != EINTR) return fail_writing(output->path, error);
  }
  return fail_writing(output->path, EEXIST);
}

sl_status sl_output_open(sl_output **out, const char *path) {
  *out = NULL;
  sl_output *output;
  SL_TRY(SL_ALLOC(output, 1, "output file"));
  output->descriptor = -1;
  sl_status status = sl_strdup(&output->path, path);
  if (!status) status = create_temporary(output);
  if (status) {
    sl_output_discard(output);
    return status;
  }
  *out = output;
  return SL_OK;
}

sl_status sl_output_write(sl_output *output, const void *bytes, size_t n_bytes) {
  const char *next = bytes;
  while (n_bytes > 0) {
    ssize_t n_written = write(output->descriptor, next, n_bytes);
    if (n_written < 0 && errno == EINTR) continue;
    if (n_written < 0) return fail_writing(output->path, errno);
    next += n_written;
    n_bytes -= (size_t)n_written;
  }
  return SL_OK;
}

/* Makes the rename itself survive a power cut. Best effort: the file is complete and in place either way. */
static void flush_folder_of(const char *path) {
  const char *slash = strrchr(path, '/');
  sl_text folder = {0};
  if (sl_text_append(&folder, slash ? path : ".", slash ? (size_t)(slash - path) + 1 : 1) == SL_OK) {
    int descriptor = open(folder.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor >= 0) {
      fsync(descriptor);
      close(descriptor);
    }
  }
  sl_text_dispose(&folder);
}

sl_status sl_output_commit(sl_output *output) {
  int error = 0;
  if (fsync(output->descriptor) != 0) error = errno;
  if (close(output->descriptor) != 0 && error == 0) error = errno; /* network file systems report a full disk here */
  output->descriptor = -1;
  if (error == 0 && rename(output->temporary, output->path) != 0) error = errno;
  sl_status status = SL_OK;
  if (error != 0) {
    status = fail_writing(output->path, error);
  } else {
    free(output->temporary);
    output->temporary = NULL; /* so that discard does not remove it */
    flush_folder_of(output->path);
  }
  sl_output_discard(output);
  return status;
}

void sl_output_discard(sl_output *output) {
  if (!output) return;
  if (output->descriptor >= 0) close(output->descriptor);
  if (output->temporary) unlink(output->temporary);
  free(output->temporary);
  free(output->path);
  free(output);
}
