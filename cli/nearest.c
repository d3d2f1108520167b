/* The nearest word by edit distance, for "did you mean". */
#include <string.h>

#include "cli.h"

#define MAX_WORD 63

/* Levenshtein distance with swapped neighbours counting once; words beyond MAX_WORD are far from everything. */
static int distance(const char *a, const char *b) {
  const int n = (int)strlen(a), m = (int)strlen(b);
  if (n > MAX_WORD || m > MAX_WORD) return MAX_WORD;
  int rows[3][MAX_WORD + 1];
  int *before = rows[0], *last = rows[1], *now = rows[2];
  for (int j = 0; j <= m; j++) last[j] = j;
  for (int i = 1; i <= n; i++) {
    now[0] = i;
    for (int j = 1; j <= m; j++) {
      const int change = last[j - 1] + (a[i - 1] != b[j - 1]);
      int best = change < last[j] + 1 ? change : last[j] + 1;
      if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best)
        best = before[j - 2] + 1;
      now[j] = best;
    }
    int *spare = before;
    before = last;
    last = now;
    now = spare;
  }
  return last[m];
}

const char *cli_nearest(const char *word, const char *const *names) {
  const char *best = NULL;
  int least = MAX_WORD;
  for (; *names; names++) {
    const int d = distance(word, *names);
    if (d < least) {
      least = d;
      best = *names;
    }
  }
  const int length = (int)strlen(word), allowed = length / 3 > 2 ? length / 3 : 2;
  return least <= allowed && least < length ? best : NULL;
}
