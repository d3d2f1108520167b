/* The number that interventions are measured by: the target of the answer's first token (or of the whole answer) from a
 * branch's logits. The runner-up of a margin is that of the unmodified run and stays fixed. */
#ifndef SL_ANALYSIS_MEASURE_H
#define SL_ANALYSIS_MEASURE_H

#include "analysis/target.h"

typedef struct sl_measure {
  sl_target target;
  int n_vocab;
  int n_row; /* 1, or one for each answer token with --whole-answer */
  int *rows; /* [n_row] positions whose logits are needed, ascending: for sl_branch_request */
  int32_t *ids, *rivals; /* [n_row] */
} sl_measure;

/* Option rows that every intervention analysis has; put them into its table. */
#define SL_MEASURE_OPTIONS                                                                                             \
  {.name = "target",                                                                                                   \
   .type = SL_OPTION_CHOICE,                                                                                           \
   .argument = "NAME",                                                                                                 \
   .fallback = "logit",                                                                                                \
   .choices = sl_measure_targets,                                                                                      \
   .help = "What is measured of the answer's first token: logit, logprob, margin (logit minus that of the "            \
           "runner-up in the unmodified run) or logodds (logit minus the log-sum-exp of all others)."},                \
      {.name = "contrast",                                                                                             \
       .type = SL_OPTION_TEXT,                                                                                         \
       .argument = "TOKEN",                                                                                            \
       .help = "Measure the logit minus the logit of TOKEN, which must be one token of the vocabulary. With "          \
               "--target logit or margin only."},                                                                      \
      {.name = "whole-answer",                                                                                         \
       .type = SL_OPTION_FLAG,                                                                                         \
       .fallback = "false",                                                                                            \
       .help = "Sum the target over all tokens of the answer (teacher forced) instead of taking the first; with "      \
               "--target logprob this is the answer's log-probability."}

extern const char *const sl_measure_targets[]; /* NULL-terminated */

/* From the running analysis' options. Release with sl_measure_dispose. */
sl_status sl_measure_init(sl_measure *out, const sl_analysis_context *context);
void sl_measure_dispose(sl_measure *measure);

/* The target's value from logits [n_row, n_vocab]. */
double sl_measure_value(const sl_measure *measure, const float *logits);

/* The same in the unmodified run, from the trunk. */
sl_status sl_measure_plain(double *value, const sl_measure *measure, sl_analysis_context *context);

#endif
