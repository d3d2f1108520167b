/* Which objects a caption mentions: words to singular, two words that are one thing joined, then the list.
 *
 * Source: caption_to_words of Rohrbach et al.'s chair.py (github.com/LisaAnne/Hallucination, utils/chair.py), with
 * "train track" as the widely used standalone version has it (github.com/Maxlinn/CHAIR-metric-standalone, commit
 * 640c507). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metric/chair.h"
#include "metric/letters.h"

/* Two words that count as one; those with "=" count as the word behind it. */
static const char *const pairs[] = {
    "motor bike", "motor cycle", "air plane", "traffic light", "street light", "traffic signal", "stop light",
    "fire hydrant", "stop sign", "parking meter", "suit case", "sports ball", "baseball bat", "baseball glove",
    "tennis racket", "wine glass", "hot dog", "cell phone", "mobile phone", "teddy bear", "hair drier",
    "potted plant", "laptop computer", "home plate", "train track", "bow tie=tie", "toilet seat=toilet",
    "wine glas=wine glass", "passenger jet=jet", "passenger train=train"};
/* After "baby" or "adult" these stay themselves: a baby bird is no person. */
static const char animals[] = " bird cat dog horse sheep cow elephant bear zebra giraffe animal cub ";

/* Whether key[n] stands in the list as a word of its own. */
static bool is_listed(const char *list, const char *key, size_t n) {
  for (const char *at = list; (at = strstr(at, key)) != NULL; at++)
    if ((at == list || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0')) return true;
  return false;
}

int sl_chair_find(const char *word) {
  char key[32]; /* as the lists have it: "_" for a blank inside */
  const size_t n = strlen(word);
  if (n == 0 || n >= sizeof key || strchr(word, '_')) return -1;
  for (size_t i = 0; i <= n; i++) key[i] = (char)(word[i] == ' ' ? '_' : word[i]);
  for (int i = 0; i < SL_CHAIR_N; i++)
    if (strcmp(word, sl_chair_categories[i].name) == 0 || is_listed(sl_chair_categories[i].words, key, n)) return i;
  return -1;
}

static bool is_animal(const char *word) {
  char key[16];
  if (strlen(word) > 9 || !*word) return false;
  snprintf(key, sizeof key, " %s ", word);
  return strstr(animals, key) != NULL;
}

/* What the two words count as; NULL when they are two things. */
static const char *join(const char *first, const char *second) {
  if ((strcmp(first, "baby") == 0 || strcmp(first, "adult") == 0) && is_animal(second)) return second;
  const size_t n = strlen(first), m = strlen(second);
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    const size_t length = strcspn(pairs[i], "=");
    if (length != n + 1 + m || memcmp(pairs[i], first, n) != 0 || pairs[i][n] != ' ') continue;
    if (memcmp(pairs[i] + n + 1, second, m) != 0) continue;
    return pairs[i][length] == '=' ? pairs[i] + length + 1 : pairs[i];
  }
  return NULL;
}

static sl_status singular_words(sl_words *out, const char *caption) {
  char *lower = NULL;
  sl_words cut = {0};
  SL_TRY(sl_lower(&lower, caption));
  sl_status status = sl_words_cut(&cut, lower);
  for (int i = 0; i < cut.n && status == SL_OK; i++) {
    char *single = NULL;
    status = sl_singular(&single, cut.items[i]);
    if (status == SL_OK) status = sl_words_add(out, single, strlen(single));
    free(single);
  }
  free(lower);
  sl_words_dispose(&cut);
  return status;
}

static sl_status join_words(sl_words *out, const sl_words *words) {
  for (int i = 0; i < words->n; i++) {
    const char *joined = i + 1 < words->n ? join(words->items[i], words->items[i + 1]) : NULL;
    const char *word = joined ? joined : words->items[i];
    SL_TRY(sl_words_add(out, word, strlen(word)));
    i += joined != NULL;
  }
  return SL_OK;
}

static bool holds(const sl_words *words, const char *word) {
  for (int i = 0; i < words->n; i++)
    if (strcmp(words->items[i], word) == 0) return true;
  return false;
}

sl_status sl_chair_mentions(const char *caption, int **categories, sl_words *words) {
  sl_words single = {0}, joined = {0};
  *categories = NULL;
  sl_status status = singular_words(&single, caption);
  if (status == SL_OK) status = join_words(&joined, &single);
  if (status == SL_OK) status = SL_ALLOC(*categories, (size_t)joined.n, "mentions");
  const bool toilet = holds(&joined, "toilet"); /* whose seat is no chair */
  for (int i = 0; i < joined.n && status == SL_OK; i++) {
    const char *word = joined.items[i];
    const int category = toilet && strcmp(word, "seat") == 0 ? -1 : sl_chair_find(word);
    if (category < 0) continue;
    (*categories)[words->n] = category;
    status = sl_words_add(words, word, strlen(word));
  }
  sl_words_dispose(&single);
  sl_words_dispose(&joined);
  return status;
}
