/* Progress on standard error: one line that renews itself on a terminal, plain lines now and then elsewhere. */
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

#define BAR_WIDTH 28
#define RENEW_S 0.1  /* on a terminal */
#define REPEAT_S 5.0 /* elsewhere */
#define NOTE_S 0.5   /* shorter stages are not worth a line of their own on a terminal */

static struct {
  char what[32]; /* "" = no stage is open */
  char ended[32]; /* the last one that was complete */
  double started_s, shown_s;
  bool shown;
} stage;

static double now_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static bool on_terminal(void) { return isatty(STDERR_FILENO); }

static void print_duration(double s) {
  if (s < 60)
    fprintf(stderr, "%.1f s", s);
  else
    fprintf(stderr, "%d:%02d min", (int)s / 60, (int)s % 60);
}

/* "12.3/s, 1:05 min left"; a total of 1 is a share, and then percent are counted. */
static void print_rate(double done, double total, double elapsed_s) {
  if (done <= 0 || elapsed_s < 0.5) return;
  const double rate = done / elapsed_s;
  fprintf(stderr, total > 1 ? "  %.1f/s, " : "  %.1f %%/s, ", total > 1 ? rate : 100 * rate);
  print_duration((total - done) / rate);
  fprintf(stderr, " left");
}

static void draw_bar(double done, double total, double elapsed_s) {
  const int filled = (int)(BAR_WIDTH * done / total);
  fprintf(stderr, "\r%-16s [", stage.what);
  for (int i = 0; i < BAR_WIDTH; i++) fputc(i < filled ? '#' : '.', stderr);
  fprintf(stderr, "] %3.0f %%", 100 * done / total);
  print_rate(done, total, elapsed_s);
  fprintf(stderr, "\033[K");
}

static void print_line(double done, double total, double elapsed_s) {
  fprintf(stderr, "sightline: %s: %.0f %%", stage.what, 100 * done / total);
  print_rate(done, total, elapsed_s);
  fputc('\n', stderr);
}

static void end_stage(void) {
  const double elapsed = now_s() - stage.started_s;
  if (stage.what[0] == '\0') return;
  if (!on_terminal()) {
    fprintf(stderr, "sightline: %s: ", stage.what);
    print_duration(elapsed);
    fputc('\n', stderr);
  } else if (stage.shown) {
    fprintf(stderr, "\r\033[K");
    if (elapsed >= NOTE_S) {
      fprintf(stderr, "%-16s ", stage.what);
      print_duration(elapsed);
      fputc('\n', stderr);
    }
  }
  snprintf(stage.ended, sizeof stage.ended, "%s", stage.what);
  stage.what[0] = '\0';
}

bool cli_progress(void *user, const char *what, double done, double total) {
  const cli_args *args = user;
  if (args->value[OPT_QUIET]) return !sl_cancel_requested(cli_cancel());
  const double now = now_s();
  if (done >= total && stage.what[0] == '\0' && strcmp(stage.ended, what) == 0)
    return !sl_cancel_requested(cli_cancel());
  if (strcmp(stage.what, what) != 0) {
    cli_progress_end();
    snprintf(stage.what, sizeof stage.what, "%s", what);
    stage.started_s = now;
    stage.shown_s = on_terminal() ? 0 : now;
    stage.shown = false;
  }
  if (total > 0 && done < total && now - stage.shown_s >= (on_terminal() ? RENEW_S : REPEAT_S)) {
    if (on_terminal())
      draw_bar(done, total, now - stage.started_s);
    else
      print_line(done, total, now - stage.started_s);
    stage.shown_s = now;
    stage.shown = true;
    fflush(stderr);
  }
  if (total > 0 && done >= total) end_stage();
  return !sl_cancel_requested(cli_cancel());
}

bool cli_study_progress(void *user, const char *what, const sl_study_state *state) {
  const cli_args *args = user;
  const double now = now_s(), total = (double)state->total, done = (double)state->done;
  const bool goes_on = !sl_cancel_requested(cli_cancel());
  if (args->value[OPT_QUIET]) return goes_on;
  if (strncmp(stage.what, "study", 5) != 0) {
    cli_progress_end();
    stage.started_s = now;
    stage.shown_s = on_terminal() ? 0 : now;
    stage.shown = false;
  }
  snprintf(stage.what, sizeof stage.what, "%s", what);
  if (done < total && now - stage.shown_s >= (on_terminal() ? RENEW_S : REPEAT_S)) {
    if (on_terminal()) fprintf(stderr, "\r\033[K");
    fprintf(stderr, "%s%s: %lld of %lld, %.3g/s, ", on_terminal() ? "" : "sightline: ", what, (long long)state->done,
            (long long)state->total, state->rate);
    print_duration(state->left_s);
    fprintf(stderr, " left%s", on_terminal() ? "" : "\n");
    stage.shown_s = now;
    stage.shown = true;
    fflush(stderr);
  }
  if (done >= total) end_stage();
  return goes_on;
}

/* Leaves the line of a stage that did not finish. */
void cli_progress_end(void) {
  if (stage.what[0] && on_terminal() && stage.shown) fprintf(stderr, "\r\033[K");
  stage.what[0] = '\0';
}

void cli_log(void *user, const char *message) {
  const cli_args *args = user;
  if (args->value[OPT_QUIET]) return;
  if (stage.what[0] && on_terminal() && stage.shown) fprintf(stderr, "\r\033[K");
  fprintf(stderr, "sightline: note: %s\n", message);
}
