/* Measuring, shared by the benchmarks: the clock, and this process's memory as Linux tells it. */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Seconds of a clock: CLOCK_MONOTONIC, or CLOCK_PROCESS_CPUTIME_ID for processor time. */
static inline double seconds_of(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline double now(void) { return seconds_of(CLOCK_MONOTONIC); }

/* A line of /proc/self/status in bytes. */
static inline double status_bytes(const char *key) {
  char line[256];
  double kib = 0;
  FILE *file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file))
    if (strncmp(line, key, strlen(key)) == 0) kib = atof(line + strlen(key) + 1);
  if (file) fclose(file);
  return kib * 1024;
}

/* Makes VmHWM count from here. */
static inline void reset_peak(void) {
  malloc_trim(0);
  FILE *file = fopen("/proc/self/clear_refs", "w");
  if (!file) return;
  fputs("5", file);
  fclose(file);
}

#endif
