/* Benchmarks as data: how each is read, asked, scored and summed up. Needs no model, so that others' predictions can be
 * scored as well. A benchmark is one file with one sl_benchmark, and a line in metric.c.
 *
 * Scoring equals the published scripts' item by item; where there are two, both are here by name (`rules`). */
#ifndef SL_METRIC_METRIC_H
#define SL_METRIC_METRIC_H

#include "metric/rows.h"

/* One question. All strings are owned. */
typedef struct sl_example {
  char *id;       /* unique in the set */
  char *group;    /* split that is told on its own ("random"); NULL */
  char *image;    /* path below the folder of pictures; NULL: a question without one */
  json_t *data;   /* what prompt and score need */
  const char *file; /* where it was read, and on which line; the text is the set's */
  int line;
} sl_example;

struct sl_benchmark;

/* A set as read. Zero-initialise; release with sl_examples_dispose. */
typedef struct sl_examples {
  const struct sl_benchmark *benchmark;
  sl_example *items;
  int n;
  size_t capacity;
  json_t *ids; /* object: ids, and what published files call an example, to index */
  char *image_dir; /* where the set itself keeps its pictures */
  char *files[8];  /* what was read */
  int n_file;
  int usual_style; /* prompt style when none is asked for: an index into the benchmark's */
} sl_examples;
void sl_examples_dispose(sl_examples *examples);

/* Says which file the next examples come from. */
sl_status sl_examples_from(sl_examples *examples, const char *path);
/* Appends an example, taking over all of `example`, also on failure. Bad (SL_ERROR_FORMAT) when the id is there. */
sl_status sl_examples_add(sl_examples *examples, sl_example *example, int line);
void sl_example_dispose(sl_example *example);
/* Gives an example another id; an id that two have is dropped for both. */
sl_status sl_examples_alias(sl_examples *examples, int index, const char *other_id);
/* Index of the example with this id, or why there is none; "not asked": it is of another split, or its row is bad. */
enum { SL_EXAMPLE_UNKNOWN = -1, SL_EXAMPLE_AMBIGUOUS = -2, SL_EXAMPLE_NOT_ASKED = -3 };
int sl_examples_find(const sl_examples *examples, const char *id);

typedef struct sl_read_options {
  const char *path;  /* file or folder */
  const char *split; /* of the data set; NULL = all, or the benchmark's usual one */
} sl_read_options;

typedef struct sl_benchmark {
  const char *name, *source;
  const char *const *styles; /* prompt styles, the default first; NULL-terminated */
  const char *const *rules;  /* scoring rules, the default first; NULL-terminated */
  int max_token;             /* length limit of an answer */
  const char *headline;      /* the number of `summarise` that the mean of "score" is */
  bool lower_is_better;
  bool missing_is_wrong;     /* the official script counts a missing prediction as a wrong one */
  /* Reads the official files. Bad rows go to `rows`. */
  sl_status (*read)(sl_examples *out, const sl_read_options *options, sl_rows *rows);
  /* The question as the model is asked, without its template; new text. `style` is an index into styles. */
  sl_status (*prompt)(char **out, const sl_example *example, int style);
  /* Judges a prediction: fills the object `said`, with "score" (what the headline is the mean of) and whatever
   * `summarise` needs. `rule` is an index into rules. */
  sl_status (*score)(json_t *said, const sl_example *example, const char *prediction, int rule);
  /* Numbers of n >= 1 judged predictions into the object `into`. */
  sl_status (*summarise)(json_t *into, const json_t *const *said, int n);
  /* Members of a prediction that name its example, the first that does counts; NULL = the usual ones. */
  const char *const *ids;
  /* The example that a prediction is about where no id says so, by the customs of the benchmark; NULL = there are none.
   * n_before rows of the file stand before `row`; texts [examples.n] are the predictions so far; `notes`, an object that
   * is empty at the file's beginning, is match's own. *index is SL_EXAMPLE_UNKNOWN when the customs do not tell either. */
  sl_status (*match)(int *index, const sl_examples *examples, const json_t *row, int n_before, char *const *texts,
                     json_t *notes);
} sl_benchmark;

/* The whole table, NULL-terminated. */
extern const sl_benchmark *const sl_benchmarks[];
const sl_benchmark *sl_benchmark_find(const char *name); /* NULL when there is none; - and _ are the same */

/* Index of a name in a NULL-terminated list (NULL name: 0); -1 when it is not there. */
int sl_choice_find(const char *const *list, const char *name);

/* Reads a set. SL_ERROR_FILE and SL_ERROR_FORMAT name what is wrong; SL_ERROR_FORMAT when no row is good. */
sl_status sl_examples_read(sl_examples *out, const sl_benchmark *benchmark, const sl_read_options *options,
                           sl_rows *rows);

/* Predictions of a file: JSON lines, a JSON array, or the values of an object at "imgToEval", of {"question_id" | "id" |
 * "image_id" | "image": ID, "text" | "answer" | "caption" | "prediction": TEXT}, with "category" or "split" where an id
 * is ambiguous; or an object at "outputs" of ID: TEXT. Ids may be those that the published files use, or none where the
 * benchmark goes by order. texts [examples.n] (free() each and the array) are NULL where there is none. Unknown and
 * repeated ids are bad rows. */
sl_status sl_predictions_read(char ***texts, const sl_examples *examples, const char *path, sl_rows *rows);
/* The same over text, found at `name`. */
sl_status sl_predictions_parse(char ***texts, const sl_examples *examples, const char *bytes, size_t n_bytes,
                               const char *name, sl_rows *rows);

/* Numbers over all judged predictions (NULL entries are left out), and those of each group under "groups". */
sl_status sl_summarise(json_t *into, const sl_examples *examples, json_t *const *said);

/* Helpers of benchmarks. */
sl_status sl_metric_set(json_t *object, const char *key, json_t *value); /* takes over value */
json_t *sl_metric_number(double value);                                  /* null for NaN */
double sl_metric_mean(const json_t *const *said, int n, const char *key);
double sl_metric_sum(const json_t *const *said, int n, const char *key);
bool sl_metric_is_folder(const char *path);
/* The first file of `dir` (or of its folder "annotations" or "coco") whose name begins and ends so; NULL when there is
 * none. */
sl_status sl_metric_find_file(char **out, const char *dir, const char *begin, const char *end);

extern const sl_benchmark sl_pope_benchmark, sl_scienceqa_benchmark, sl_textvqa_benchmark, sl_chair_benchmark,
    sl_main_object_benchmark;

#endif
