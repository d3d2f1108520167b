/* The analyses there are, as data (the command line, its help and run.json are built from this table), and the flag
 * that stops them. */
#ifndef SIGHTLINE_ANALYSIS_H
#define SIGHTLINE_ANALYSIS_H

#include <stdbool.h>

#include "sightline/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sl_option_type {
  SL_OPTION_FLAG,   /* present or not; value "true" or "false" */
  SL_OPTION_INT,    /* decimal integer in [min, max] */
  SL_OPTION_REAL,   /* decimal number in [min, max], with a point whatever the locale */
  SL_OPTION_CHOICE, /* one of `choices` */
  SL_OPTION_TEXT    /* UTF-8 */
} sl_option_type;

/* One option of an analysis. Two analyses that share a name share its meaning. */
typedef struct sl_option_info {
  const char *name;           /* with hyphens: "per-token" */
  sl_option_type type;
  const char *argument;       /* what stands for the value in help ("N"); NULL for a flag */
  const char *fallback;       /* value when not given; NULL: none */
  const char *help;           /* full sentences, no line breaks */
  const char *const *choices; /* NULL-terminated; CHOICE only */
  double min, max;            /* INT and REAL */
  bool may_change;            /* a run that is resumed may have had another value */
} sl_option_info;

typedef struct sl_analysis_info {
  const char *name;              /* also the command that runs it alone */
  const char *help;              /* one line */
  const char *details;           /* what is computed and how to read it; paragraphs separated by line breaks */
  const char *source;            /* paper and equations */
  const sl_option_info *options;
  int n_option;
  const char *const *results;    /* names of the result tensors it may write, NULL-terminated */
} sl_analysis_info;

/* A value for the option `name` (hyphens; without "--") of every asked analysis that has it. */
typedef struct sl_option_value {
  const char *name, *value;
} sl_option_value;

/* All analyses, in a fixed order: static data. index in [0, sl_analysis_count()). */
SL_API int sl_analysis_count(void);
SL_API const sl_analysis_info *sl_analysis_at(int index);

/* The analysis of that name; NULL when there is none. */
SL_API const sl_analysis_info *sl_analysis_find(const char *name);

/* SL_ERROR_ARGUMENT unless `value` is of the option's type, range and choices; the message names option, expected and
 * found. */
SL_API sl_status sl_option_check(const sl_option_info *option, const char *value);

/* A flag that stops long work between two layers. Requesting is safe from a signal handler and from any thread. */
typedef struct sl_cancel sl_cancel;
SL_API sl_status sl_cancel_new(sl_cancel **out);
SL_API void sl_cancel_request(sl_cancel *cancel);
SL_API bool sl_cancel_requested(const sl_cancel *cancel);
SL_API void sl_cancel_free(sl_cancel *cancel); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
