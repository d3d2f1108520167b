/* What the files of CHAIR share: words of a caption, and which objects they mention. */
#ifndef SL_METRIC_CHAIR_H
#define SL_METRIC_CHAIR_H

#include "base/text.h"

#define SL_CHAIR_N 80

typedef struct sl_chair_category {
  const char *name;
  const char *words; /* besides the name, separated by blanks; "_" stands for a blank inside */
} sl_chair_category;

extern const sl_chair_category sl_chair_categories[SL_CHAIR_N];

/* Index of the category that a word (or two with a blank between) means, -1 when it means none. */
int sl_chair_find(const char *word);

/* Words of a text. Zero-initialise; release with sl_words_dispose. */
typedef struct sl_words {
  char **items;
  int n;
  size_t capacity;
} sl_words;
sl_status sl_words_add(sl_words *words, const char *text, size_t n_bytes);
void sl_words_dispose(sl_words *words);

/* Cuts a lower-case caption as nltk.word_tokenize does, as far as words that CHAIR knows can tell (chair_words.c). */
sl_status sl_words_cut(sl_words *words, const char *text);

/* The singular of a lower-case English noun as pattern.en.singularize (3.6) forms it; new text. */
sl_status sl_singular(char **out, const char *word);

/* Mentions of a caption, in order: categories [n] and the words that stood for them (with n entries). */
sl_status sl_chair_mentions(const char *caption, int **categories, sl_words *words);

#endif
