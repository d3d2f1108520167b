/* Folders that appear and disappear whole. */
#ifndef SL_STORE_FOLDER_H
#define SL_STORE_FOLDER_H

#include "base/memory.h"

/* `dir` without trailing slashes, as a new string, with its parent (another) and its last part (inside the first). On
 * failure both strings may be set all the same, and are to be freed. */
sl_status sl_folder_split(const char *dir, char **clean, char **parent, const char **base);

sl_status sl_folder_is_empty(const char *dir, bool *empty);

/* Makes a new folder `parent/.base.partial-...` with the usual permissions; its path into a new string. *lock is a file
 * descriptor that marks it as in use until it is closed or the process ends, however that happens. */
sl_status sl_folder_make_hidden(char **out, int *lock, const char *parent, const char *base);

/* What processes that have ended left of that parent and base: hidden folders are removed, and a folder that
 * sl_folder_swap had moved away gets its name back when nothing came in its place. Best effort. */
void sl_folder_remove_stale(const char *parent, const char *base);

/* Gives the folder `from` the name `to`, where nothing or an empty folder is; anything else stays, and the call fails
 * with SL_ERROR_ARGUMENT. */
sl_status sl_folder_place(const char *from, const char *to);

/* Gives the folder `from` the name `to`. What was at `to` (a folder, or nothing) is exchanged in the same step and
 * removed afterwards. On failure both are as before. */
sl_status sl_folder_swap(const char *from, const char *to);

/* Removes a folder and all in it, never following links. Keeps the thread's error message; best effort. */
void sl_folder_remove(const char *dir);

#endif
