/* Oniguruma's Ruby syntax, in which tokenizer.json writes its expressions, rewritten for PCRE2. The two read most
 * things alike; what differs is spelt out here:
 *   \s \w \b \h \v     other characters than PCRE2's (which counts U+180E as space and leaves marks out of \w)
 *   \p{...}            scripts without their extensions, long names of categories
 *   {n,m}+  {n}?  {,m} possessive, lazy and literal in PCRE2; in Ruby a repeated repeat, an optional one, {0,m}
 *   (?m)               dot matches newline
 *   [a[bc]]            a union of classes
 * What cannot be said in PCRE2 (class intersections, a negated class or \W inside a class) is an error. */
#include <string.h>
#include <strings.h>

#include "input/tokenizer_internal.h"

/* Sets begin and end with a property, so that a hyphen beside them stays a hyphen. */
#define SPACE_SET "\\p{Zs}\\x09-\\x0d\\x85\\p{Zl}\\p{Zp}"
#define WORD_SET "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
/* Outside a class \w also takes Latin-1's superscript digits and fractions: Oniguruma has a table for each place. */
#define WORD_ESCAPE_SET "\\p{Alphabetic}\\xb2\\xb3\\xb9\\xbc-\\xbe\\p{M}\\p{Nd}\\p{Pc}"
#define WORD "[" WORD_ESCAPE_SET "]"
#define NOT_WORD "[^" WORD_ESCAPE_SET "]"

enum { MAX_GROUPS = 200 };

typedef struct translator {
  const char *in, *name;
  size_t n, at;
  sl_text *out;
  size_t group[MAX_GROUPS]; /* where each open group began in out */
  int n_group;
  size_t atom; /* where the last atom began in out: what a quantifier repeats */
} translator;

static sl_status put(translator *t, const char *text) { return sl_text_append_string(t->out, text); }
static bool at_text(const translator *t, const char *text) {
  size_t n = strlen(text);
  return t->n - t->at >= n && memcmp(t->in + t->at, text, n) == 0;
}

static sl_status refuse(const translator *t, const char *what) {
  SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: regular expression \"%s\": %s at offset %zu is not supported", t->name,
          sl_tok_quote(t->in, t->n).text, what, t->at);
}

/* ---- \p{...} ---- */

static const char *const long_names[][2] = {
    {"letter", "L"}, {"uppercaseletter", "Lu"}, {"lowercaseletter", "Ll"}, {"titlecaseletter", "Lt"},
    {"modifierletter", "Lm"}, {"otherletter", "Lo"}, {"casedletter", "L&"}, {"mark", "M"}, {"combiningmark", "M"},
    {"nonspacingmark", "Mn"}, {"spacingmark", "Mc"}, {"enclosingmark", "Me"}, {"number", "N"},
    {"decimalnumber", "Nd"}, {"digit", "Nd"}, {"letternumber", "Nl"}, {"othernumber", "No"}, {"punctuation", "P"},
    {"punct", "P"},
    {"connectorpunctuation", "Pc"}, {"dashpunctuation", "Pd"}, {"openpunctuation", "Ps"},
    {"closepunctuation", "Pe"}, {"initialpunctuation", "Pi"}, {"finalpunctuation", "Pf"},
    {"otherpunctuation", "Po"}, {"symbol", "S"}, {"mathsymbol", "Sm"}, {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"}, {"othersymbol", "So"}, {"separator", "Z"}, {"spaceseparator", "Zs"},
    {"lineseparator", "Zl"}, {"paragraphseparator", "Zp"}, {"other", "C"}, {"control", "Cc"}, {"format", "Cf"},
    {"surrogate", "Cs"}, {"privateuse", "Co"}, {"unassigned", "Cn"}, {"alpha", "Alphabetic"},
    {"upper", "Uppercase"}, {"lower", "Lowercase"}, {"any", "Any"}};

static sl_status translate_property(translator *t) {
  bool negated = t->in[t->at + 1] == 'P';
  const char *close = memchr(t->in + t->at, '}', t->n - t->at);
  if (!close) return refuse(t, "an unclosed property");
  const char *begin = t->in + t->at + 3;
  if (begin < close && *begin == '^') {
    negated = !negated;
    begin++;
  }
  char plain[64], spelt[68];
  size_t n_plain = 0;
  for (const char *c = begin; c < close; c++) {
    if (*c == ' ' || *c == '_' || *c == '-') continue;
    if (n_plain + 1 >= sizeof plain || (uint8_t)*c >= 0x80) return refuse(t, "this property");
    plain[n_plain++] = *c;
  }
  plain[n_plain] = '\0';
  const char *name = NULL;
  for (size_t i = 0; i < sizeof long_names / sizeof *long_names && !name; i++)
    if (strcasecmp(plain, long_names[i][0]) == 0) name = long_names[i][1];
  memcpy(spelt, "sc:", 3);
  memcpy(spelt + 3, plain, n_plain + 1);
  if (!name) name = n_plain > 2 && sl_tok_regex_has_property(spelt) ? spelt : plain;
  t->at = (size_t)(close - t->in) + 1;
  SL_TRY(put(t, negated ? "\\P{" : "\\p{"));
  SL_TRY(put(t, name));
  return put(t, "}");
}

/* ---- escapes ---- */

typedef struct escape {
  char letter;
  const char *outside, *inside; /* NULL inside: not expressible there */
} escape;

static const escape escapes[] = {
    {'s', "[" SPACE_SET "]", SPACE_SET},
    {'S', "[^" SPACE_SET "]", "\\x{180e}\\S"},
    {'w', WORD, WORD_SET},
    {'W', NOT_WORD, NULL},
    {'b', "(?:(?<=" WORD ")(?!" WORD ")|(?<!" WORD ")(?=" WORD "))", "\\x08"},
    {'B', "(?:(?<=" WORD ")(?=" WORD ")|(?<!" WORD ")(?!" WORD "))", NULL},
    {'h', "[0-9A-Fa-f]", "0-9A-Fa-f"},
    {'H', "[^0-9A-Fa-f]", NULL},
    {'v', "\\x0b", "\\x0b"},
};

static bool is_hex(char c) { return sl_tok_hex_digit(c) >= 0; }

/* Length of \xH, \xHH or \x{H...}: one atom, digits and all. */
static size_t hex_length(const translator *t) {
  size_t end = t->at + 2;
  if (end < t->n && t->in[end] == '{') {
    const char *close = memchr(t->in + end, '}', t->n - end);
    return close ? (size_t)(close - t->in) + 1 - t->at : 2;
  }
  while (end < t->n && end < t->at + 4 && is_hex(t->in[end])) end++;
  return end - t->at;
}

static sl_status translate_escape(translator *t, bool inside) {
  if (t->at + 1 >= t->n) return refuse(t, "a lone backslash");
  char letter = t->in[t->at + 1];
  if ((letter == 'p' || letter == 'P') && t->at + 2 < t->n && t->in[t->at + 2] == '{') return translate_property(t);
  for (size_t i = 0; i < sizeof escapes / sizeof *escapes; i++) {
    if (letter != escapes[i].letter) continue;
    const char *text = inside ? escapes[i].inside : escapes[i].outside;
    if (!text) return refuse(t, "this escape inside a class");
    t->at += 2;
    return put(t, text);
  }
  if (letter == 'u') {
    if (t->at + 6 > t->n) return refuse(t, "a short \\u");
    for (size_t i = 2; i < 6; i++)
      if (!is_hex(t->in[t->at + i])) return refuse(t, "a bad \\u");
    SL_TRY(put(t, "\\x{"));
    SL_TRY(sl_text_append(t->out, t->in + t->at + 2, 4));
    t->at += 6;
    return put(t, "}");
  }
  if (letter == 'Q' || letter == 'E' || letter == 'N' || letter == 'C') return refuse(t, "this escape");
  uint32_t c;
  size_t n = letter == 'x' ? hex_length(t) : 1 + sl_utf8_decode(t->in + t->at + 1, t->n - t->at - 1, &c);
  SL_TRY(sl_text_append(t->out, t->in + t->at, n));
  t->at += n;
  return SL_OK;
}

/* ---- character classes ---- */

/* [:name:] inside a class. */
static sl_status translate_posix(translator *t) {
  static const char *const sets[][2] = {
      {"[:space:]", SPACE_SET}, {"[:word:]", WORD_SET}, {"[:punct:]", "\\p{P}\\p{S}"},
      {"[:alpha:]", "\\p{Alphabetic}"}, {"[:alnum:]", "\\p{Alphabetic}\\p{Nd}"}, {"[:upper:]", "\\p{Uppercase}"},
      {"[:lower:]", "\\p{Lowercase}"}, {"[:digit:]", "\\p{Nd}"}, {"[:cntrl:]", "\\p{Cc}"},
      {"[:xdigit:]", "0-9A-Fa-f"}, {"[:blank:]", "\\p{Zs}\\x09"}};
  for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
    if (!at_text(t, sets[i][0])) continue;
    t->at += strlen(sets[i][0]);
    return put(t, sets[i][1]);
  }
  return refuse(t, "this POSIX class");
}

/* The items of a class up to its bracket. A class inside a class adds its items to the outer one. */
static sl_status translate_class(translator *t) {
  int depth = 0;
  bool first = false; /* a bracket standing first is itself */
  do {
    if (t->at >= t->n) return refuse(t, "an unclosed class");
    char c = t->in[t->at];
    bool was_first = first;
    first = false;
    if (at_text(t, "&&")) return refuse(t, "a class intersection");
    if (depth > 0 && at_text(t, "[:")) {
      SL_TRY(translate_posix(t));
    } else if (c == '[') {
      bool negated = t->at + 1 < t->n && t->in[t->at + 1] == '^';
      if (depth > 0 && negated) return refuse(t, "a negated class inside a class");
      if (depth == 0) SL_TRY(put(t, negated ? "[^" : "["));
      t->at += negated ? 2 : 1;
      depth++;
      first = true;
    } else if (c == ']' && !was_first) {
      t->at++;
      if (--depth == 0) SL_TRY(put(t, "]"));
    } else if (c == '\\') {
      SL_TRY(translate_escape(t, true));
    } else if (c == ']') {
      SL_TRY(put(t, "\\]"));
      t->at++;
    } else {
      SL_TRY(sl_text_append(t->out, &c, 1));
      t->at++;
    }
  } while (depth > 0);
  return SL_OK;
}

/* ---- groups and repeats ---- */

/* "(" and, after "(?", the flags or the kind of group. */
static sl_status translate_group(translator *t) {
  if (t->n_group == MAX_GROUPS) return refuse(t, "so deep a group");
  if (at_text(t, "(*")) return refuse(t, "a PCRE2 verb");
  if (at_text(t, "(?C") || at_text(t, "(?R") || at_text(t, "(?&") || at_text(t, "(?|") || at_text(t, "(?P"))
    return refuse(t, "this kind of group");
  if (at_text(t, "(?#")) {
    const char *close = memchr(t->in + t->at, ')', t->n - t->at);
    if (!close) return refuse(t, "an unclosed comment");
    t->at = (size_t)(close - t->in) + 1;
    return SL_OK;
  }
  t->group[t->n_group++] = t->out->length;
  SL_TRY(put(t, "("));
  t->at++;
  if (t->at >= t->n || t->in[t->at] != '?') return SL_OK;
  SL_TRY(put(t, "?"));
  for (t->at++; t->at < t->n && (strchr("imsx-", t->in[t->at]) && t->in[t->at]); t->at++)
    SL_TRY(put(t, t->in[t->at] == 'm' ? "s" : (char[2]){t->in[t->at], 0}));
  while (t->at < t->n && t->in[t->at] && strchr(":=!><", t->in[t->at])) {
    SL_TRY(put(t, (char[2]){t->in[t->at], 0}));
    t->at++;
  }
  return SL_OK;
}

/* Reads digits; false when there are none or too many. */
static bool read_count(const translator *t, size_t *at, size_t *begin) {
  *begin = *at;
  while (*at < t->n && t->in[*at] >= '0' && t->in[*at] <= '9') (*at)++;
  return *at > *begin && *at - *begin <= 5;
}

static sl_status translate_braces(translator *t) {
  size_t at = t->at + 1, low, high, begin = t->at;
  bool has_low = read_count(t, &at, &low), exact = has_low;
  size_t low_end = at;
  bool has_high = false;
  if (at < t->n && t->in[at] == ',') {
    at++;
    exact = false;
    has_high = read_count(t, &at, &high);
  }
  if ((!has_low && !has_high) || at >= t->n || t->in[at] != '}') {
    t->atom = t->out->length;
    t->at++;
    return put(t, "\\{"); /* not a repeat: itself */
  }
  size_t atom = t->atom;
  char after = at + 1 < t->n ? t->in[at + 1] : 0;
  bool wrap = after == '+' || (after == '?' && exact);
  t->at = at + 1;
  SL_TRY(put(t, has_low ? "{" : "{0"));
  SL_TRY(sl_text_append(t->out, t->in + (has_low ? begin + 1 : low_end), at + 1 - (has_low ? begin + 1 : low_end)));
  if (!wrap) return SL_OK;
  SL_TRY(put(t, "(?:)")); /* room for what follows */
  memmove(t->out->data + atom + 3, t->out->data + atom, t->out->length - atom - 4);
  memcpy(t->out->data + atom, "(?:", 3);
  t->out->data[t->out->length - 1] = ')';
  return SL_OK;
}

sl_status sl_tok_regex_translate(const char *regex, size_t n_bytes, const char *name, sl_text *out) {
  translator t = {.in = regex, .name = name, .n = n_bytes, .out = out};
  SL_TRY(sl_text_append(out, "", 0));
  while (t.at < t.n) {
    char c = t.in[t.at];
    size_t begin = out->length;
    if (c == '{') {
      SL_TRY(translate_braces(&t));
    } else if (c == '\\') {
      t.atom = begin;
      SL_TRY(translate_escape(&t, false));
    } else if (c == '[') {
      t.atom = begin;
      SL_TRY(translate_class(&t));
    } else if (c == '(') {
      SL_TRY(translate_group(&t));
    } else if (c == ')') {
      t.atom = t.n_group > 0 ? t.group[--t.n_group] : begin;
      SL_TRY(put(&t, ")"));
      t.at++;
    } else {
      uint32_t code_point;
      size_t n = sl_utf8_decode(t.in + t.at, t.n - t.at, &code_point);
      if (!memchr("*+?|", c, 4)) t.atom = begin;
      SL_TRY(sl_text_append(out, t.in + t.at, n));
      t.at += n;
    }
  }
  return SL_OK;
}
