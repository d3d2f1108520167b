/* The parts of `compare`: reading runs, likeness of pairs, tests of labels. */
#ifndef SL_TASK_COMPARE_INTERNAL_H
#define SL_TASK_COMPARE_INTERNAL_H

#include "base/json.h"
#include "sightline/compare.h"
#include "stats/regress.h"
#include "store/run.h"

typedef enum sl_likeness { SL_LIKE_COSINE, SL_LIKE_SPEARMAN, SL_LIKE_JACCARD, SL_LIKE_COUNT } sl_likeness;
extern const char *const sl_likeness_names[SL_LIKE_COUNT];

/* One run directory's part. */
typedef struct sl_compared {
  char *dir;
  json_t *image, *prompt, *answer; /* from its run.json, owned; may be NULL */
  double *score;                   /* [n] */
  uint8_t *masks;                  /* [n_mask, n] or NULL */
  double *target;                  /* [n_mask] */
  int n_mask;
  int64_t seed; /* of its masks */
  sl_regress_kind solver; /* that the run used, and its penalty (0 = least squares) */
  double penalty;
  int n_train; /* masks the penalty was for */
  double *feature; /* [n_feature] or NULL */
  int class, appearance; /* index into the labels, or -1 */
} sl_compared;

/* Distinct texts in the order of their first use. */
typedef struct sl_labels {
  char **texts;
  int n;
} sl_labels;

/* Zero-initialise; release with sl_compare_dispose. */
typedef struct sl_comparison {
  const sl_compare_request *request;
  sl_compared *runs;
  int n_run;
  json_t *model, *settings; /* of the first run: what all must share */
  int n_layer, n_head, n;   /* n = L H */
  int n_feature;            /* 0: not every run has one */
  int n_top;
  sl_labels classes, appearances;
  double *like[SL_LIKE_COUNT]; /* [n_run, n_run] */
  double *visual;              /* [n_run, n_run] or NULL */
  double *ceiling;             /* [n_run, SL_LIKE_COUNT] */
  int *order;                  /* [n_run] for drawing */
  json_t *warnings;            /* array */
} sl_comparison;

void sl_compare_dispose(sl_comparison *c);

/* Reads every run and its labels; checks that they can be compared. */
sl_status sl_compare_read(sl_comparison *c);

/* Index of a label's text, which is added when it is new; -1 for none. */
sl_status sl_compare_label(sl_labels *labels, const char *text, int *out);

/* Fills like, visual, ceiling and order. */
sl_status sl_compare_measure(sl_comparison *c);

/* The tests of one likeness (new reference): {class, appearance, semantics, partial}, those that the labels allow. */
sl_status sl_compare_test(json_t **out, const sl_comparison *c, sl_likeness likeness);

/* analyses.compare into `said`, and the tensors compare.*. */
sl_status sl_compare_tell(json_t *said, const sl_comparison *c);
sl_status sl_compare_put(sl_run *run, const sl_comparison *c);

/* Between pieces of work: tells progress; SL_ERROR_CANCELLED once it is to stop. */
sl_status sl_compare_progress(const sl_comparison *c, const char *what, double done, double total);

sl_status sl_compare_warn(const sl_comparison *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
