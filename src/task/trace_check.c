/* Holding a request to what is possible, before weights are read: everything a user can mistype fails in milliseconds.
 */
#include "task/trace_check.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "analysis/option.h"
#include "base/text.h"
#include "task/resume.h"

#define MAX_TEXT_BYTES ((size_t)1 << 20)
#define MAX_TOKENS 65536
#define MAX_BATCH 65536

static sl_status check_text(const char *what, const char *text) {
  size_t bad = 0;
  const size_t n = strlen(text);
  if (text[strspn(text, " \t\n\r")] == '\0') SL_FAIL(SL_ERROR_ARGUMENT, "the %s is empty", what);
  if (n > MAX_TEXT_BYTES)
    SL_FAIL(SL_ERROR_ARGUMENT, "the %s has %zu bytes; the limit is %zu", what, n, MAX_TEXT_BYTES);
  if (!sl_utf8_valid(text, n, &bad)) SL_FAIL(SL_ERROR_ARGUMENT, "the %s is not UTF-8 (byte %zu)", what, bad);
  return SL_OK;
}

static sl_status check_analyses(const sl_trace_request *r) {
  for (int i = 0; i < r->n_analysis; i++) {
    if (!sl_analysis_find(r->analyses[i])) SL_FAIL(SL_ERROR_ARGUMENT, "there is no analysis \"%s\"", r->analyses[i]);
    for (int j = 0; j < i; j++) {
      if (strcmp(r->analyses[i], r->analyses[j]) == 0)
        SL_FAIL(SL_ERROR_ARGUMENT, "analysis \"%s\" is asked twice", r->analyses[i]);
    }
  }
  return SL_OK;
}

/* Every option must belong to an asked analysis and have a value that all of them take. */
static sl_status check_options(const sl_trace_request *r) {
  for (int i = 0; i < r->n_option; i++) {
    bool known = false;
    for (int a = 0; a < r->n_analysis; a++) {
      const sl_option_info *option = sl_option_find(sl_analysis_find(r->analyses[a]), r->options[i].name);
      if (!option) continue;
      SL_TRY(sl_option_check(option, r->options[i].value));
      known = true;
    }
    if (!known) SL_FAIL(SL_ERROR_ARGUMENT, "no asked analysis has an option \"%s\"", r->options[i].name);
  }
  return SL_OK;
}

static sl_status check_numbers(const sl_trace_request *r) {
  if (r->max_token < 0 || r->max_token > MAX_TOKENS)
    SL_FAIL(SL_ERROR_ARGUMENT, "--max-tokens: expected a whole number from 1 to %d, found %d", MAX_TOKENS,
            r->max_token);
  if (!(r->object_threshold >= 0 && r->object_threshold <= 1))
    SL_FAIL(SL_ERROR_ARGUMENT, "--object-threshold: expected a share above 0, at most 1, found %g",
            r->object_threshold);
  if (r->batch_size < 0 || r->batch_size > MAX_BATCH)
    SL_FAIL(SL_ERROR_ARGUMENT, "--batch-size: expected a whole number from 1 to %d, found %d", MAX_BATCH,
            r->batch_size);
  if (!(r->budget_s >= 0)) SL_FAIL(SL_ERROR_ARGUMENT, "--budget: expected a time, found %g s", r->budget_s);
  if (r->resume && !r->out_dir) SL_FAIL(SL_ERROR_ARGUMENT, "a run to resume needs an out folder");
  if (r->record) SL_TRY(check_text("list of sites to record", r->record));
  if ((r->record || r->logits) && !r->out_dir)
    SL_FAIL(SL_ERROR_ARGUMENT, "recorded sites and logits need an out folder");
  return SL_OK;
}

/* A folder given as picture reads as "Is a directory" deep below; say it here, with the option's word. */
static sl_status check_file(const char *what, const char *path) {
  struct stat info;
  if (stat(path, &info) != 0) SL_FAIL(SL_ERROR_FILE, "%s %s: %s", what, path, strerror(errno));
  if (!S_ISREG(info.st_mode)) SL_FAIL(SL_ERROR_FILE, "%s %s: not a file", what, path);
  return SL_OK;
}

static sl_status check_request(const sl_trace_request *r) {
  if (r->size != sizeof *r)
    SL_FAIL(SL_ERROR_ARGUMENT, "sl_trace_request: expected size %zu, found %zu", sizeof *r, r->size);
  if (!r->image_path) SL_FAIL(SL_ERROR_ARGUMENT, "no picture was given");
  if (!r->question) SL_FAIL(SL_ERROR_ARGUMENT, "no prompt was given");
  SL_TRY(check_text("prompt", r->question));
  if (r->answer) SL_TRY(check_text("answer", r->answer));
  SL_TRY(check_analyses(r));
  SL_TRY(check_options(r));
  SL_TRY(check_numbers(r));
  SL_TRY(check_file("picture", r->image_path));
  if (r->mask_path) SL_TRY(check_file("object mask", r->mask_path));
  if (r->plan_path) SL_TRY(check_file("plan", r->plan_path));
  return SL_OK;
}

sl_status sl_trace_prepare(const sl_trace_request *r, sl_picture *picture, sl_plan_file *plan, sl_run_reader **earlier,
                           sl_run **run) {
  *picture = (sl_picture){0};
  *plan = (sl_plan_file){0};
  *earlier = NULL;
  *run = NULL;
  SL_TRY(check_request(r));
  sl_status status = SL_OK;
  if (r->plan_path) status = sl_plan_file_load(plan, r->plan_path);
  if (status == SL_OK) status = sl_picture_load(picture, r->image_path, r->mask_path);
  if (status == SL_OK && r->resume) status = sl_resume_open(earlier, r, picture);
  if (status == SL_OK && r->out_dir) status = sl_run_new(run, r->out_dir, r->force || r->resume);
  if (status == SL_OK) return SL_OK;
  sl_run_close(*earlier);
  *earlier = NULL;
  sl_picture_dispose(picture);
  sl_plan_file_dispose(plan);
  return status;
}

sl_status sl_trace_check(const sl_trace_request *request) {
  sl_picture picture;
  sl_plan_file plan;
  sl_run_reader *earlier;
  sl_run *run;
  SL_TRY(sl_trace_prepare(request, &picture, &plan, &earlier, &run));
  sl_run_free(run); /* uncommitted: leaves no trace */
  sl_run_close(earlier);
  sl_plan_file_dispose(&plan);
  sl_picture_dispose(&picture);
  return SL_OK;
}
