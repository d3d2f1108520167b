/* Hidden folders, atomic exchange (renameat2 where the file system has it) and removal. */
#define _GNU_SOURCE /* renameat2 */
#include "store/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/rng.h"
#include "base/text.h"

static bool is_dots(const char *name) { return strcmp(name, ".") == 0 || strcmp(name, "..") == 0; }

sl_status sl_folder_split(const char *dir, char **clean, char **parent, const char **base) {
  SL_TRY(sl_strdup(clean, dir));
  size_t length = strlen(*clean);
  while (length > 1 && (*clean)[length - 1] == '/') (*clean)[--length] = '\0';
  char *slash = strrchr(*clean, '/');
  *base = slash ? slash + 1 : *clean;
  if (**base == '\0' || strcmp(*base, ".") == 0 || strcmp(*base, "..") == 0)
    SL_FAIL(SL_ERROR_ARGUMENT, "%s: not a name for a new folder", dir);
  SL_TRY(sl_strdup(parent, slash ? *clean : "."));
  if (slash) (*parent)[slash == *clean ? 1 : slash - *clean] = '\0';
  return SL_OK;
}

sl_status sl_folder_is_empty(const char *dir, bool *empty) {
  DIR *listing = opendir(dir);
  if (!listing) SL_FAIL(SL_ERROR_FILE, "%s: %s", dir, strerror(errno));
  *empty = true;
  for (struct dirent *entry; *empty && (entry = readdir(listing)) != NULL;) *empty = is_dots(entry->d_name);
  closedir(listing);
  return SL_OK;
}

/* Locks a folder against being taken for a dead process' one; -1 when that is not possible, or when the folder was
 * removed before it was locked. `how`: whether to wait for whoever holds it. */
static int lock_folder(const char *path, int how) {
  struct stat held, named;
  const int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return -1;
  if (flock(fd, how) == 0 && fstat(fd, &held) == 0 && lstat(path, &named) == 0 &&
      held.st_dev == named.st_dev && held.st_ino == named.st_ino)
    return fd;
  close(fd);
  return -1;
}

#define MOVED "sightline-old" /* nobody else's folder has that in its name */

/* One that was being built. Without a lock nobody can tell whether its process lives: it stays. */
static void remove_partial(const char *path, const char *target) {
  (void)target;
  const int fd = lock_folder(path, LOCK_EX | LOCK_NB);
  if (fd < 0) return;
  sl_folder_remove(path);
  close(fd);
}

/* One that was moved away. It goes back where nothing took its place; file systems without exchange may be without locks
 * too, so that what is not known to be held is taken. */
static void restore_old(const char *path, const char *target) {
  struct stat info;
  const char *pid = strrchr(path, '-') + 1;
  const size_t n_digit = strspn(pid, "0123456789");
  if (n_digit == 0 || pid[n_digit]) return; /* not made here */
  const int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return;
  const bool held = flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  if (!held && lstat(target, &info) != 0 && errno == ENOENT)
    (void)!rename(path, target);
  else if (!held)
    sl_folder_remove(path);
  close(fd);
}

/* Calls `what` for every parent/.base.KIND-... with the path parent/base. */
static void each_hidden(const char *parent, const char *base, const char *kind,
                        void (*what)(const char *path, const char *target)) {
  sl_text prefix = {0};
  char *target = NULL;
  DIR *listing = opendir(parent);
  const bool ready = listing && sl_text_format(&prefix, ".%s.%s-", base, kind) == SL_OK &&
                     sl_path_join(&target, parent, base) == SL_OK;
  for (struct dirent *entry; ready && (entry = readdir(listing)) != NULL;) {
    char *path = NULL;
    if (strncmp(entry->d_name, prefix.data, prefix.length) == 0 &&
        sl_path_join(&path, parent, entry->d_name) == SL_OK)
      what(path, target);
    free(path);
  }
  free(target);
  sl_text_dispose(&prefix);
  if (listing) closedir(listing);
}

void sl_folder_remove_stale(const char *parent, const char *base) {
  each_hidden(parent, base, MOVED, restore_old);
  each_hidden(parent, base, "partial", remove_partial);
}

sl_status sl_folder_make_hidden(char **out, int *lock, const char *parent, const char *base) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  *out = NULL;
  *lock = -1;
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
      *lock = lock_folder(path.data, LOCK_EX);
      /* A file system without locks is no reason to fail; a folder that is gone is one to try again. */
      if (*lock >= 0 || access(path.data, F_OK) == 0) {
        *out = path.data;
        return SL_OK;
      }
      sl_text_dispose(&path);
      continue;
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

/* rename(2): a folder takes the name of nothing or of an empty folder, and of nothing else. */
sl_status sl_folder_place(const char *from, const char *to) {
  sync_folder(from);
  if (rename(from, to) == 0) return SL_OK;
  if (errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR) SL_FAIL(SL_ERROR_ARGUMENT, "%s: already exists", to);
  SL_FAIL(SL_ERROR_FILE, "%s: cannot rename to it: %s", to, strerror(errno));
}

static sl_status swap_through(const char *from, const char *to, const char *aside) {
  const int lock = lock_folder(to, LOCK_EX | LOCK_NB); /* a sign of life while it has another name */
  sl_status status = SL_OK;
  if (rename(to, aside) != 0) {
    status = sl_fail(SL_ERROR_FILE, "%s: cannot move the old folder away: %s", to, strerror(errno));
  } else if (rename(from, to) != 0) {
    status = sl_fail(SL_ERROR_FILE, "%s: cannot rename to it: %s", to, strerror(errno));
    (void)!rename(aside, to);
  } else {
    sl_folder_remove(aside);
  }
  if (lock >= 0) close(lock);
  return status;
}

/* For file systems without exchange: two renames, undone when the second fails, and by sl_folder_remove_stale when the
 * process ends between them. */
static sl_status swap_in_two(const char *from, const char *to) {
  sl_text aside = {0};
  char *clean = NULL, *parent = NULL;
  const char *base;
  sl_status status = sl_folder_split(to, &clean, &parent, &base);
  if (status == SL_OK) status = sl_text_format(&aside, "%s/.%s." MOVED "-%d", parent, base, (int)getpid());
  if (status == SL_OK) status = swap_through(from, to, aside.data);
  sl_text_dispose(&aside);
  free(parent);
  free(clean);
  return status;
}

sl_status sl_folder_swap(const char *from, const char *to) {
  sync_folder(from);
  if (rename(from, to) == 0) return SL_OK; /* nothing or an empty folder was there */
  if (errno != ENOTEMPTY && errno != EEXIST) SL_FAIL(SL_ERROR_FILE, "%s: cannot rename to it: %s", to, strerror(errno));
  if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE) != 0) return swap_in_two(from, to);
  sl_folder_remove(from);
  return SL_OK;
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
