/* The out folder of `eval`. Answers go to predictions.partial.jsonl one by one: its first line is the settings, every
 * other one an answer, handed to the system whole. A torn last line (the machine stopped) is dropped on resuming. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/output.h"
#include "base/text.h"
#include "store/folder.h"
#include "task/eval_internal.h"
#include "task/study_internal.h"

#define MAX_PICTURE_BYTES ((size_t)1 << 30)

struct sl_journal {
  char *partial, *predictions, *metrics, *page; /* paths */
  char *hashed, hash[17];                       /* the picture that was hashed last */
  int fd;                                /* of the partial file, locked; -1 */
};

void sl_journal_close(sl_journal *j) {
  if (!j) return;
  if (j->fd >= 0) close(j->fd);
  free(j->partial);
  free(j->predictions);
  free(j->metrics);
  free(j->page);
  free(j->hashed);
  free(j);
}

static sl_status write_line(sl_journal *j, const json_t *row) {
  char *text = NULL;
  SL_TRY(sl_json_print(row, 0, &text));
  const size_t n = strlen(text);
  text[n] = '\n'; /* in place of the terminator */
  for (size_t done = 0; done < n + 1;) {
    const ssize_t wrote = write(j->fd, text + done, n + 1 - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) {
      free(text);
      SL_FAIL(SL_ERROR_FILE, "%s: cannot write: %s", j->partial, strerror(errno));
    }
    done += (size_t)wrote;
  }
  free(text);
  return SL_OK;
}

/* The hash of the example's picture, 16 digits; "" without one. Questions about one picture follow each other. */
static sl_status hash_picture(const sl_evaluation *e, int i, char hash[17]) {
  sl_journal *j = e->journal;
  const char *image = e->examples.items[i].image;
  uint64_t number = 0;
  char *path = NULL;
  hash[0] = '\0';
  if (!image) return SL_OK;
  if (!j->hashed || strcmp(j->hashed, image) != 0) {
    free(j->hashed);
    j->hashed = NULL;
    SL_TRY(sl_path_join(&path, e->image_dir, image));
    const sl_status status = sl_study_hash_file(&number, path, MAX_PICTURE_BYTES);
    free(path);
    SL_TRY(status);
    snprintf(j->hash, sizeof j->hash, "%016llx", (unsigned long long)number);
    SL_TRY(sl_strdup(&j->hashed, image));
  }
  memcpy(hash, j->hash, sizeof j->hash);
  return SL_OK;
}

/* hash: of the picture; NULL where the answer is an earlier run's. */
static sl_status add_answer(sl_evaluation *e, int i, const char *hash) {
  json_t *row = json_pack("{s:s, s:s, s:s?}", "question_id", e->examples.items[i].id, "text", e->texts[i], "image_hash", hash);
  sl_status status = row ? SL_OK : sl_fail(SL_ERROR_MEMORY, "no memory for an answer");
  if (status == SL_OK && e->layers[i]) status = sl_metric_set(row, "layers", json_incref(e->layers[i]));
  if (status == SL_OK) status = write_line(e->journal, row);
  json_decref(row);
  return status;
}

sl_status sl_journal_add(sl_evaluation *e, int i) {
  char hash[17];
  SL_TRY(hash_picture(e, i, hash));
  return add_answer(e, i, hash);
}

/* ---- going on ---- */

/* Names the first setting that differs. */
static sl_status check_settings(const json_t *there, const json_t *asked, const char *path) {
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)asked, key, value)
    if (!json_equal(value, json_object_get(there, key)))
      SL_FAIL(SL_ERROR_ARGUMENT, "%s: was made with another \"%s\": nothing can be resumed; --force begins anew", path, key);
  return SL_OK;
}

/* That the picture is the one that was asked about. */
static sl_status check_picture(const sl_evaluation *e, int i, const json_t *row) {
  const char *was = json_string_value(json_object_get(row, "image_hash"));
  char hash[17];
  if (!was) return SL_OK; /* a finished run's line */
  SL_TRY(hash_picture(e, i, hash));
  if (strcmp(was, hash) == 0) return SL_OK;
  SL_FAIL(SL_ERROR_ARGUMENT, "%s: the picture %s is not the one that \"%s\" was asked about: nothing can be resumed; "
          "--force begins anew", e->journal->partial, e->examples.items[i].image, e->examples.items[i].id);
}

/* Takes an answer over; one that does not fit is asked again. */
static sl_status take_row(sl_evaluation *e, const json_t *row) {
  const char *id = NULL, *text = NULL;
  SL_TRY(sl_row_text(row, "question_id", &id));
  SL_TRY(sl_row_text(row, "text", &text));
  const int i = sl_examples_find(&e->examples, id);
  if (i < 0 || i >= e->examples.n || e->texts[i]) return SL_OK;
  if (e->n_layer > 0 && json_array_size(json_object_get(row, "layers")) != (size_t)e->n_layer) return SL_OK;
  SL_TRY(check_picture(e, i, row));
  if (e->n_layer > 0) e->layers[i] = json_incref(json_object_get(row, "layers"));
  return sl_strdup(&e->texts[i], text);
}

static sl_status take_answer(void *user, json_t *row, int line) {
  sl_evaluation *e = user;
  if (line == 1) return check_settings(json_object_get(row, "settings"), e->settings, e->journal->partial);
  return take_row(e, row);
}

static sl_status write_head(sl_evaluation *e) {
  json_t *head = json_pack("{s:O}", "settings", e->settings);
  sl_status status = head ? SL_OK : sl_fail(SL_ERROR_MEMORY, "no memory for the settings");
  if (status == SL_OK && ftruncate(e->journal->fd, 0) != 0)
    status = sl_fail(SL_ERROR_FILE, "%s: cannot write: %s", e->journal->partial, strerror(errno));
  if (status == SL_OK) status = write_line(e->journal, head);
  json_decref(head);
  return status;
}

/* A fresh journal. Earlier results of the folder go, so that none of other settings stand beside it. */
static sl_status begin(sl_evaluation *e) {
  (void)unlink(e->journal->metrics);
  (void)unlink(e->journal->predictions);
  (void)unlink(e->journal->page);
  return write_head(e);
}

/* A journal of the answers that were taken over. */
static sl_status rewrite(sl_evaluation *e) {
  SL_TRY(write_head(e));
  for (int i = 0; i < e->examples.n; i++)
    if (e->texts[i]) SL_TRY(add_answer(e, i, NULL));
  return SL_OK;
}

/* Takes whole lines over and cuts the file behind them. */
static sl_status read_journal(sl_evaluation *e) {
  sl_rows rows = {.strict = true};
  char *bytes = NULL;
  size_t n_bytes = 0;
  SL_TRY(sl_file_read(e->journal->partial, SL_ROWS_MAX_BYTES, &bytes, &n_bytes));
  while (n_bytes > 0 && bytes[n_bytes - 1] != '\n') n_bytes--;
  sl_status status = sl_rows_parse_lines(bytes, n_bytes, e->journal->partial, &rows, take_answer, e);
  free(bytes);
  sl_rows_dispose(&rows);
  if (status == SL_OK && n_bytes == 0) return begin(e); /* ended before the first line was whole */
  if (status == SL_OK && (ftruncate(e->journal->fd, (off_t)n_bytes) != 0 || lseek(e->journal->fd, 0, SEEK_END) < 0))
    status = sl_fail(SL_ERROR_FILE, "%s: cannot write: %s", e->journal->partial, strerror(errno));
  return status;
}

static bool exists(const char *path) { return access(path, F_OK) == 0; }

/* Answers of predictions.jsonl: its lines have what the partial file's have. */
static sl_status take_finished(void *user, json_t *row, int line) {
  (void)line;
  return json_is_string(json_object_get(row, "text")) ? take_row(user, row) : SL_OK;
}

/* metrics.json as text when it is of the same settings, rule and seed, nothing failed and the page is there. Else the
 * answers are taken over, what failed is asked again, and all is judged anew. */
static sl_status read_finished(sl_evaluation *e, char **finished) {
  const char *rule = e->benchmark->rules[e->rule], *path = e->journal->metrics;
  json_t *root = NULL;
  sl_rows rows = {.strict = true};
  SL_TRY(sl_json_load(&root, path, (size_t)1 << 30));
  sl_status status = check_settings(json_object_get(root, "settings"), e->settings, path);
  const char *judged_by = json_string_value(json_object_get(root, "rule"));
  const json_int_t n_failed = json_integer_value(json_object_get(json_object_get(root, "counts"), "failed"));
  const bool same = judged_by && strcmp(judged_by, rule) == 0 && n_failed == 0 && exists(e->journal->page) &&
                    json_integer_value(json_object_get(root, "seed")) == (json_int_t)e->request->seed;
  if (status == SL_OK && same) status = sl_json_print(root, 2, finished);
  if (status == SL_OK && !same) status = sl_rows_read_lines(e->journal->predictions, &rows, take_finished, e);
  sl_rows_dispose(&rows);
  json_decref(root);
  return status;
}

static sl_status make_folder(const char *dir, bool *fresh) {
  bool empty = true;
  if (mkdir(dir, 0777) == 0) {
    *fresh = true;
    return SL_OK;
  }
  if (errno != EEXIST) SL_FAIL(SL_ERROR_FILE, "%s: cannot make the folder: %s", dir, strerror(errno));
  SL_TRY(sl_folder_is_empty(dir, &empty));
  *fresh = empty;
  return SL_OK;
}

static sl_status open_paths(sl_evaluation *e, bool *fresh) {
  const char *dir = e->request->out_dir;
  sl_journal *j;
  SL_TRY(SL_ALLOC(j, 1, "journal"));
  j->fd = -1;
  e->journal = j;
  SL_TRY(sl_path_join(&j->partial, dir, "predictions.partial.jsonl"));
  SL_TRY(sl_path_join(&j->predictions, dir, "predictions.jsonl"));
  SL_TRY(sl_path_join(&j->metrics, dir, "metrics.json"));
  SL_TRY(sl_path_join(&j->page, dir, "report.html"));
  return make_folder(dir, fresh);
}

sl_status sl_journal_open(sl_evaluation *e, char **finished) {
  const sl_eval_request *q = e->request;
  bool fresh = false;
  SL_TRY(open_paths(e, &fresh));
  sl_journal *j = e->journal;
  const bool ours = exists(j->partial) || exists(j->metrics);
  if (!fresh && !ours) SL_FAIL(SL_ERROR_FILE, "%s: expected a new or empty folder, or one of `eval`", q->out_dir);
  if (ours && !q->resume && !q->force)
    SL_FAIL(SL_ERROR_FILE, "%s: holds results already; --resume goes on, --force begins anew", q->out_dir);
  const bool goes_on = q->resume && !q->force, is_done = goes_on && exists(j->metrics) && !exists(j->partial);
  if (is_done) SL_TRY(read_finished(e, finished));
  if (*finished) return SL_OK;
  j->fd = open(j->partial, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (j->fd < 0) SL_FAIL(SL_ERROR_FILE, "%s: cannot write: %s", j->partial, strerror(errno));
  if (flock(j->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    SL_FAIL(SL_ERROR_FILE, "%s: another process is at work there", q->out_dir);
  if (is_done) return rewrite(e);
  return goes_on ? read_journal(e) : begin(e);
}

/* ---- the end ---- */

static sl_status row_of(json_t **out, const sl_evaluation *e, int i, const json_t *said) {
  const sl_example *x = &e->examples.items[i];
  char *prompt = NULL;
  SL_TRY(e->benchmark->prompt(&prompt, x, e->style));
  json_t *row = json_pack("{s:s, s:s?, s:s, s:s?}", "question_id", x->id, "image", x->image, "prompt", prompt, "text",
                          e->texts[i]);
  free(prompt);
  *out = row;
  if (!row) SL_FAIL(SL_ERROR_MEMORY, "no memory for a prediction");
  if (e->errors[i]) SL_TRY(sl_metric_set(row, "error", json_string(e->errors[i])));
  if (said) SL_TRY(sl_metric_set(row, "judged", json_incref((json_t *)said)));
  return e->layers[i] ? sl_metric_set(row, "layers", json_incref(e->layers[i])) : SL_OK;
}

static sl_status write_rows(sl_output *output, const sl_evaluation *e, json_t *const *said) {
  for (int i = 0; i < e->examples.n; i++) {
    json_t *row = NULL;
    char *text = NULL;
    sl_status status = row_of(&row, e, i, said[i]);
    if (status == SL_OK) status = sl_json_print(row, 0, &text);
    if (status == SL_OK) status = sl_output_write(output, text, strlen(text));
    if (status == SL_OK) status = sl_output_write(output, "\n", 1);
    json_decref(row);
    free(text);
    SL_TRY(status);
  }
  return SL_OK;
}

sl_status sl_journal_finish(sl_evaluation *e, json_t *const *said, const json_t *summary) {
  sl_output *output = NULL;
  char *text = NULL;
  SL_TRY(sl_output_open(&output, e->journal->predictions));
  sl_status status = write_rows(output, e, said);
  if (status == SL_OK)
    status = sl_output_commit(output);
  else
    sl_output_discard(output);
  if (status == SL_OK) status = sl_json_print(summary, 2, &text);
  if (status == SL_OK) status = sl_file_write(e->journal->metrics, text, strlen(text));
  if (status == SL_OK) (void)unlink(e->journal->partial);
  free(text);
  return status;
}
