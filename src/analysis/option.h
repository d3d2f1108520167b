/* Options of analyses: checking the user's strings against the tables, and reading them back typed. */
#ifndef SL_ANALYSIS_OPTION_H
#define SL_ANALYSIS_OPTION_H

#include "base/json.h"
#include "sightline/analysis.h"

/* The option called `name` (hyphens and underscores are the same) of an analysis; NULL when it has none. */
const sl_option_info *sl_option_find(const sl_analysis_info *analysis, const char *name);

/* What the option is set to: the last of `values` with its name, else the fallback (NULL when there is none). */
const char *sl_option_text(const sl_analysis_info *analysis, const char *name, const sl_option_value *values,
                           int n_value);

/* The same, typed; the values were checked before. */
bool sl_option_flag(const sl_analysis_info *analysis, const char *name, const sl_option_value *values, int n_value);
int64_t sl_option_int(const sl_analysis_info *analysis, const char *name, const sl_option_value *values, int n_value);
double sl_option_real(const sl_analysis_info *analysis, const char *name, const sl_option_value *values, int n_value);

/* All options of an analysis with their values, as a JSON object with typed members (new reference). */
sl_status sl_options_to_json(const sl_analysis_info *analysis, const sl_option_value *values, int n_value,
                             json_t **out);

#endif
