/* Hidden folders, atomic exchange (renameat2 where the file system has it) and removal. */
#define _GNU_SOURCE /* renameat2 */
#include "store/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/rng.h"
#include "base/text.h"

static bool is_dots(const char *name) { return strcmp(name, ".") == 0 || strcmp(name, "..") == 0; }

sl_status sl_folder_is_empty(const char *dir, bool *empty) {
  DIR *listing = opendir(dir);
  if (!listing) SL_FAIL(SL_ERROR_FILE, "%s: %s", dir, strerror(errno));
  *empty = true;
  for (struct dirent *entry; *empty && (entry = readdir(listing)) != NULL;) *empty = is_dots(entry->d_name);
  closedir(listing);
  return SL_OK;
}

sl_status sl_folder_make_hidden(char **out, const char *parent, const char *base) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  *out = NULL;
  for (uint64_t attempt = 0; attempt < 100; attempt++) {
    /* mkdir rather than mkdtemp: the folder is to be kept, so the user's umask decides who may read it. */
    unsigned tag = (unsigned)sl_rng_u64((uint64_t)now.tv_nsec, (uint64_t)getpid(), attempt);
    sl_text path = {0};
    sl_status status = sl_text_format(&path, "%s/.%s.partial-%08x", parent, base, tag);
    if (status != SL_OK) {
      sl_text_dispose(&path);
      return status;
    }
    if (mkdir(path.data, 0777) == 0) {
      *out = path.data;
      return SL_OK;
    }
    int reason = errno;
    sl_text_dispose(&path);
    if (reason != EEXIST) SL_FAIL(SL_ERROR_FILE, "%s: cannot make a folder here: %s", parent, strerror(reason));
  }
  SL_FAIL(SL_ERROR_FILE, "%s: cannot find a free name for a hidden folder", parent);
}

static void sync_folder(const char *dir) {
  int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

sl_status sl_folder_swap(const char *from, const char *to) {
  sync_folder(from);
  if (rename(from, to) == 0) return SL_OK; /* nothing or an empty folder was there */
  if (errno != ENOTEMPTY && errno != EEXIST) SL_FAIL(SL_ERROR_FILE, "%s: cannot rename to it: %s", to, strerror(errno));
  if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE) == 0) {
    sl_folder_remove(from);
    return SL_OK;
  }
  /* File systems without exchange: two renames, undone when the second fails. */
  sl_text aside = {0};
  SL_TRY(sl_text_format(&aside, "%s.old", from));
  sl_status status = SL_OK;
  if (rename(to, aside.data) != 0) {
    status = sl_fail(SL_ERROR_FILE, "%s: cannot move the old folder away: %s", to, strerror(errno));
  } else if (rename(from, to) != 0) {
    status = sl_fail(SL_ERROR_FILE, "%s: cannot rename to it: %s", to, strerror(errno));
    (void)!rename(aside.data, to);
  } else {
    sl_folder_remove(aside.data);
  }
  sl_text_dispose(&aside);
  return status;
}

/* Depth is bounded so that a malicious tree cannot exhaust the stack. */
static void remove_inside(int folder_fd, int depth) {
  DIR *listing = fdopendir(folder_fd);
  if (!listing) {
    close(folder_fd);
    return;
  }
  for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
    if (is_dots(entry->d_name)) continue;
    int here = dirfd(listing);
    if (unlinkat(here, entry->d_name, 0) == 0) continue;
    int child = openat(here, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (child < 0) continue;
    if (depth > 0) {
      remove_inside(child, depth - 1);
    } else {
      close(child);
    }
    unlinkat(here, entry->d_name, AT_REMOVEDIR);
  }
  closedir(listing);
}

void sl_folder_remove(const char *dir) {
  int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd >= 0) remove_inside(fd, 32);
  rmdir(dir);
}
