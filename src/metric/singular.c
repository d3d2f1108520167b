/* Singular forms by suffix rules, the first that fits. The rules are those of Bermi Ferrer's English inflector as
 * pattern.en (Computational Linguistics Research Group, University of Antwerp, release 3.6) has them, with their
 * mistakes ("bus" becomes "bu", "four" becomes "fmy"): CHAIR's word list was made around them. Words are lower case. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metric/chair.h"

/* Left as they are, like every ending of theirs: "s" of "news". */
static const char unchanged[] =
    "bison bream breeches britches carp chassis christmas clippers cod contretemps corps debris diabetes djinn eland elk "
    "flounder gallows georgia graffiti headquarters herpes high-jinks homework innings jackanapes mackerel measles mews "
    "mumps news pincers pliers proceedings rabies salmon scissors series shears species swine swiss trout tuna whiting "
    "wildebeest "
    "advice bread butter cheese electricity equipment fruit furniture garbage gravel happiness information ketchup "
    "knowledge love luggage mathematics mayonnaise meat mustard news progress research rice sand software understanding "
    "water";

/* Plurals that end in one of these with an s stay as they are. */
static const char ends_in_ie[] =
    "alergie auntie beanie birdie bogie bombie collie cookie cutie doggie eyrie freebie goonie groupie hankie hippie hoagie "
    "hottie indie junkie laddie laramie lingerie meanie newbie nightie oldie pixie quickie reverie rookie softie sortie "
    "stoolie sweetie techie toughie valkyrie veggie weenie yuppie zombie";

/* Endings with forms of their own, in this order. */
static const char *const irregular[][2] = {
    {"atlantes", "atlas"}, {"atlases", "atlas"}, {"axes", "axe"}, {"beeves", "beef"}, {"brethren", "brother"},
    {"children", "child"}, {"corpora", "corpus"}, {"corpuses", "corpus"}, {"ephemerides", "ephemeris"},
    {"feet", "foot"}, {"ganglia", "ganglion"}, {"geese", "goose"}, {"genera", "genus"}, {"genii", "genie"},
    {"graffiti", "graffito"}, {"helves", "helve"}, {"kine", "cow"}, {"leaves", "leaf"}, {"loaves", "loaf"},
    {"men", "man"}, {"mongooses", "mongoose"}, {"monies", "money"}, {"moves", "move"}, {"mythoi", "mythos"},
    {"numena", "numen"}, {"occipita", "occiput"}, {"octopodes", "octopus"}, {"opera", "opus"}, {"opuses", "opus"},
    {"our", "my"}, {"oxen", "ox"}, {"penes", "penis"}, {"penises", "penis"}, {"people", "person"}, {"sexes", "sex"},
    {"soliloquies", "soliloquy"}, {"teeth", "tooth"}, {"testes", "testis"}, {"trilbys", "trilby"}, {"turves", "turf"},
    {"zoa", "zoon"}};

/* A word that ends in one of `stems`, then in `ending`, keeps the stem and gets `becomes` for the ending. Stems are
 * separated by blanks; "[abc]" is one of these bytes, "[^abc]" one other byte, "." any byte; "^" asks for nothing
 * before; "" asks for nothing. A rule without an ending is of the beginning: `stems` there becomes `becomes`. */
static const struct {
  const char *stems, *ending, *becomes;
} rules[] = {
    {".", "ae", "a"},
    {".", "itis", "itis"},
    {".", "eaux", "eau"},
    {"quiz", "zes", ""},
    {"matr", "ices", "ix"},
    {"ap vert ind", "ices", "ex"},
    {"oxen", NULL, "ox"},
    {"alias status", "es", ""},
    {"[octp|vir]", "i", "us"},
    {"cris ax test", "es", "is"},
    {"shoe", "s", ""},
    {"o", "es", ""},
    {"bus", "es", ""},
    {"[m|l]", "ice", "ouse"},
    {"x ch ss sh", "es", ""},
    {"m", "ovies", "ovie"},
    {".", "ombies", "ombie"},
    {"s", "eries", "eries"},
    {"[^aeiouy] qu", "ies", "y"},
    {"al el ol", "ves", "f"},
    {"[^d]ea", "ves", "f"},
    {"", "arves", "arf"},
    {"", "erves", "erve"},
    {"ni li wi", "ves", "fe"},
    {"l r", "ves", "f"},
    {"a e o", "ves", "ve"},
    {"sive tive hive", "s", ""},
    {"[^f]", "ves", "fe"},
    {"^analy", "ses", "sis"},
    {"analy", "ses", "asis"}, /* the letter that a group repeats */
    {"ba", "ses", "sis"},
    {"diagno", "ses", "sis"},
    {"parenthe", "ses", "sis"},
    {"progno", "ses", "sis"},
    {"synop", "ses", "sis"},
    {"the", "ses", "sis"},
    {".", "opses", "opsis"},
    {".", "yses", "ysis"},
    {"h d r o n b cl p", "oses", "ose"},
    {"fruct gluc galact lact ket malt rib sacchar cellul", "ose", "ose"},
    {".", "oses", "osis"},
    {"t i", "a", "um"},
    {"n", "ews", "ews"},
    {"", "s", ""},
};

/* Length of the stem's match at the end of word[n], -1 when it does not match. */
static int match_stem(const char *stem, size_t n_stem, const char *word, int n) {
  const bool whole = n_stem > 0 && stem[0] == '^';
  int at = n;
  for (int i = (int)n_stem - 1; i >= (whole ? 1 : 0); i--) {
    if (at == 0) return -1;
    const char c = word[--at];
    if (stem[i] == ']') {
      const int end = i;
      while (stem[i] != '[') i--;
      const bool other = stem[i + 1] == '^';
      const char *set = stem + i + 1 + other;
      if ((memchr(set, c, (size_t)(stem + end - set)) != NULL) == other) return -1;
    } else if (stem[i] != '.' && stem[i] != c) {
      return -1;
    }
  }
  return whole && at > 0 ? -1 : n - at;
}

static bool fits_rule(const char *stems, const char *word, int n) {
  if (!*stems) return true;
  for (size_t length; *stems; stems += length + (stems[length] == ' ')) {
    length = strcspn(stems, " ");
    if (match_stem(stems, length, word, n) >= 0) return true;
  }
  return false;
}

static bool ends_with(const char *word, size_t n, const char *end, size_t n_end) {
  return n >= n_end && memcmp(word + n - n_end, end, n_end) == 0;
}

static bool is_unchanged(const char *word, size_t n) {
  for (const char *at = n > 0 ? strstr(unchanged, word) : NULL; at; at = strstr(at + 1, word))
    if (at[n] == ' ' || at[n] == '\0') return true;
  if (n == 0 || word[n - 1] != 's') return false;
  for (const char *at = ends_in_ie; *at;) {
    const size_t length = strcspn(at, " ");
    if (ends_with(word, n - 1, at, length)) return true;
    at += length + (at[length] == ' ');
  }
  return false;
}

static sl_status replace_end(char **out, const char *word, size_t n_kept, const char *end) {
  sl_text text = {0};
  const sl_status status = sl_text_format(&text, "%.*s%s", (int)n_kept, word, end);
  *out = text.data;
  return status;
}

static sl_status by_rule(char **out, const char *word, size_t n) {
  for (size_t i = 0; i < sizeof irregular / sizeof *irregular; i++) {
    const size_t length = strlen(irregular[i][0]);
    if (ends_with(word, n, irregular[i][0], length)) return replace_end(out, word, n - length, irregular[i][1]);
  }
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
    if (!rules[i].ending) {
      const size_t n_begin = strlen(rules[i].stems);
      if (strncmp(word, rules[i].stems, n_begin) == 0)
        return replace_end(out, rules[i].becomes, strlen(rules[i].becomes), word + n_begin);
      continue;
    }
    const size_t length = strlen(rules[i].ending);
    if (ends_with(word, n, rules[i].ending, length) && fits_rule(rules[i].stems, word, (int)(n - length)))
      return replace_end(out, word, n - length, rules[i].becomes);
  }
  return sl_strdup(out, word);
}

/* Words between the hyphens of "mothers-in-law". */
static bool is_preposition(const char *word, size_t n) {
  static const char list[] =
      " about above across after among around at athwart before behind below beneath beside besides between betwixt beyond "
      "but by during except for from in into near of off on onto out over since till to under until unto upon with ";
  char key[16];
  if (n == 0 || n > sizeof key - 3) return false;
  snprintf(key, sizeof key, " %.*s ", (int)n, word);
  return strstr(list, key) != NULL;
}

sl_status sl_singular(char **out, const char *word) {
  const size_t n = strlen(word);
  char *inner = NULL, *single = NULL;
  const char *hyphen = strchr(word, '-');
  *out = NULL;
  if (hyphen && is_preposition(hyphen + 1, strcspn(hyphen + 1, "-"))) {
    SL_TRY(replace_end(&inner, word, (size_t)(hyphen - word), ""));
    sl_status status = sl_singular(&single, inner);
    if (status == SL_OK) status = replace_end(out, single, strlen(single), hyphen);
    free(inner);
    free(single);
    return status;
  }
  if (n > 0 && word[n - 1] == '\'') {
    SL_TRY(replace_end(&inner, word, n - 1, ""));
    sl_status status = sl_singular(&single, inner);
    if (status == SL_OK) status = replace_end(out, single, strlen(single), "'s");
    free(inner);
    free(single);
    return status;
  }
  return is_unchanged(word, n) ? sl_strdup(out, word) : by_rule(out, word, n);
}
