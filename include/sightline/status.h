/* Status codes and the error message of the calling thread.
 *
 * Every fallible function of the library returns sl_status. The place that finds the error writes one message (file,
 * thing, expected, found) to thread-local storage; callers only pass the status on. Unless its comment says otherwise a
 * failing function leaves its outputs untouched or set to NULL and owns nothing afterwards, and any function may besides
 * what its comment names fail with SL_ERROR_MEMORY, SL_ERROR_CANCELLED where it takes a cancel flag or progress, and
 * SL_ERROR_ARGUMENT for a request whose `size` is not known.
 *
 * Threads: functions may be called from any thread at once. An open model is never changed by a call that takes it as
 * const, and may be shared; any other object belongs to one thread at a time. Calls that write need folders of their
 * own. */
#ifndef SIGHTLINE_STATUS_H
#define SIGHTLINE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(SL_BUILD_SHARED)
#define SL_API __attribute__((visibility("default")))
#else
#define SL_API
#endif

typedef enum sl_status {
  SL_OK = 0,
  SL_ERROR_ARGUMENT,    /* the caller asked for something that cannot be (range, name, combination) */
  SL_ERROR_FILE,        /* missing, unreadable, unwritable; disk full */
  SL_ERROR_FORMAT,      /* the content of a file is not what its format says */
  SL_ERROR_UNSUPPORTED, /* well-formed, but sightline does not do it */
  SL_ERROR_MEMORY,      /* allocation failed or the memory limit would be passed */
  SL_ERROR_CANCELLED    /* the caller's cancel flag was seen */
} sl_status;

/* Short lower-case name of a status ("file", "format", ...). Never NULL. */
SL_API const char *sl_status_name(sl_status status);

/* The message of the last failure on this thread, UTF-8, one line, never NULL. Valid until the next failure on this
 * thread. */
SL_API const char *sl_error_message(void);

#ifdef __cplusplus
}
#endif
#endif
