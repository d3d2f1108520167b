/* base: messages, memory, text, JSON, random numbers, files written whole or not at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/json.h"
#include "base/output.h"
#include "base/rng.h"
#include "base/text.h"

static char folder[] = "/tmp/sightline-test-base-XXXXXX";

static char *in_folder(const char *name) {
  static char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static int count_files(void) {
  int count = 0;
  DIR *dir = opendir(folder);
  assert_non_null(dir);
  for (struct dirent *item; (item = readdir(dir));) count += item->d_name[0] != '.' || strlen(item->d_name) > 2;
  closedir(dir);
  return count;
}

static void assert_message(const char *part) {
  if (!strstr(sl_error_message(), part)) fail_msg("expected \"%s\" in \"%s\"", part, sl_error_message());
}

/* ---- fail ---- */

static sl_status failing_origin(void) { SL_FAIL(SL_ERROR_FORMAT, "%s: expected %d, found %d", "x.json", 1, 2); }
static sl_status failing_caller(bool *reached) {
  SL_TRY(failing_origin());
  *reached = true;
  return SL_OK;
}

static void test_fail(void **state) {
  (void)state;
  bool reached = false;
  assert_int_equal(failing_caller(&reached), SL_ERROR_FORMAT);
  assert_false(reached);
  assert_string_equal(sl_error_message(), "x.json: expected 1, found 2");
  sl_fail(SL_ERROR_FILE, "outer: %s", sl_error_message()); /* may quote the old message */
  assert_string_equal(sl_error_message(), "outer: x.json: expected 1, found 2");
  sl_fail(SL_ERROR_FILE, "a\nb\tc \xff \xc3\xa9 \xed\xa0\x80.");
  assert_string_equal(sl_error_message(), "a b c ? \xc3\xa9 ???.");
  for (int s = SL_OK; s <= SL_ERROR_CANCELLED; s++) assert_true(strlen(sl_status_name((sl_status)s)) > 1);
  assert_string_equal(sl_status_name(SL_ERROR_UNSUPPORTED), "unsupported");
  assert_string_equal(sl_status_name((sl_status)99), "unknown");
}

static void test_fail_long(void **state) {
  (void)state;
  char many[9001];
  for (int shift = 0; shift < 3; shift++) { /* the cut falls on every byte of a character once */
    memset(many, 'x', 3);
    for (int i = shift; i + 3 < (int)sizeof many; i += 3) memcpy(many + i, "\xe2\x82\xac", 3);
    many[sizeof many - 1] = '\0';
    many[sizeof many - 2] = many[sizeof many - 3] = many[sizeof many - 4] = 'x';
    sl_fail(SL_ERROR_FILE, "%s", many);
    const char *message = sl_error_message();
    assert_string_equal(message + strlen(message) - 3, "...");
    assert_null(strchr(message, '?'));
    assert_true(strlen(message) > 2000);
  }
}

/* ---- memory ---- */

static void test_memory(void **state) {
  (void)state;
  float *values;
  assert_int_equal(SL_ALLOC(values, 100, "values"), SL_OK);
  for (int i = 0; i < 100; i++) assert_true(values[i] == 0);
  values[99] = 7;
  assert_int_equal(SL_REALLOC(values, 100000, "values"), SL_OK);
  assert_true(values[99] == 7);
  float *before = values;
  assert_int_equal(SL_REALLOC(values, SIZE_MAX / 2, "big values"), SL_ERROR_MEMORY);
  assert_message("big values");
  assert_ptr_equal(values, before);
  free(values);
  assert_int_equal(SL_ALLOC(values, SIZE_MAX / 4 + 2, "wrapping"), SL_ERROR_MEMORY); /* 4 bytes each: wraps to 4 */
  assert_null(values);
  assert_message("wrapping");
  assert_int_equal(SL_ALLOC(values, 0, "nothing"), SL_OK);
  assert_non_null(values);
  free(values);
  size_t size;
  assert_true(sl_size_mul(SIZE_MAX / 2, 2, &size));
  assert_false(sl_size_mul(SIZE_MAX / 2 + 1, 2, &size));
  assert_false(sl_size_add(SIZE_MAX, 1, &size));
}

static void test_memory_fault(void **state) {
  (void)state;
  char *a, *b, *c;
  sl_alloc_fail_at(2);
  assert_int_equal(sl_strdup(&a, "one"), SL_OK);
  assert_int_equal(sl_strdup(&b, "two"), SL_ERROR_MEMORY);
  assert_null(b);
  assert_int_equal(sl_strdup(&c, "three"), SL_OK); /* only the n-th fails */
  assert_string_equal(c, "three");
  sl_alloc_fail_at(1);
  assert_int_equal(SL_REALLOC(a, 100, "a"), SL_ERROR_MEMORY);
  assert_string_equal(a, "one");
  sl_alloc_fail_at(1);
  sl_alloc_fail_at(0);
  assert_int_equal(SL_REALLOC(a, 100, "a"), SL_OK);
  free(a);
  free(c);
}

/* ---- text ---- */

static void test_text(void **state) {
  (void)state;
  sl_text text = {0};
  assert_int_equal(sl_text_append(&text, NULL, 0), SL_OK);
  assert_string_equal(text.data, "");
  assert_int_equal(sl_text_append(&text, "a\0b", 3), SL_OK);
  assert_int_equal(sl_text_append_string(&text, "cd"), SL_OK);
  assert_int_equal(sl_text_format(&text, " %d %.2f", 42, 1.5), SL_OK);
  assert_int_equal(text.length, 13);
  assert_memory_equal(text.data, "a\0bcd 42 1.50", 14);
  for (int i = 0; i < 10000; i++) assert_int_equal(sl_text_format(&text, "%d,", i % 10), SL_OK);
  assert_int_equal(text.length, 13 + 20000);
  assert_int_equal(text.data[text.length], '\0');
  size_t length = text.length;
  sl_alloc_fail_at(1);
  char *block = calloc(1, 100000);
  assert_int_equal(sl_text_append(&text, block, 100000), SL_ERROR_MEMORY);
  free(block);
  assert_int_equal(text.length, length); /* what was there stays */
  sl_text_dispose(&text);
  assert_null(text.data);
}

static void test_path_join(void **state) {
  (void)state;
  static const char *const cases[][3] = {
      {"a/b", "c", "a/b/c"}, {"a/", "c", "a/c"}, {"", "c", "c"}, {"/", "c", "/c"}, {".", "c.json", "./c.json"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *path;
    assert_int_equal(sl_path_join(&path, cases[i][0], cases[i][1]), SL_OK);
    assert_string_equal(path, cases[i][2]);
    free(path);
  }
}

static void test_utf8_round_trip(void **state) {
  (void)state;
  for (uint32_t c = 0; c <= 0x10FFFF; c++) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    char bytes[4];
    size_t length = sl_utf8_encode(c, bytes);
    uint32_t back;
    if (!sl_utf8_valid(bytes, length, NULL) || sl_utf8_decode(bytes, length, &back) != length || back != c ||
        length != (c < 0x80 ? 1u : c < 0x800 ? 2u : c < 0x10000 ? 3u : 4u))
      fail_msg("U+%04X", c);
  }
}

static void test_utf8_bad(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t bad_offset;
  } cases[] = {{"\x80", 0},         {"a\xc0\x80", 1},     {"\xc1\xbf", 0},     {"\xe0\x9f\xbf", 0},
               {"\xed\xa0\x80", 0}, {"\xed\xbf\xbf", 0},  {"\xf0\x8f\xbf\xbf", 0}, {"\xf4\x90\x80\x80", 0},
               {"\xf5\x80\x80\x80", 0}, {"ab\xe2\x82", 2}, {"\xe2\x28\xa1", 0}, {"\xf0\x9f\x98", 0},
               {"\xc3\xa9\xff", 2}, {"\xc3(", 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    size_t bad = 99;
    size_t n_bytes = strlen(cases[i].bytes);
    char *exact = malloc(n_bytes); /* without a terminator: ASan sees a read past the end */
    memcpy(exact, cases[i].bytes, n_bytes);
    if (sl_utf8_valid(exact, n_bytes, &bad) || bad != cases[i].bad_offset) fail_msg("case %zu: %zu", i, bad);
    uint32_t c;
    assert_int_equal(sl_utf8_decode(exact + bad, n_bytes - bad, &c), 1);
    assert_int_equal(c, 0xFFFD);
    free(exact);
  }
  char bytes[4];
  assert_int_equal(sl_utf8_encode(0xD800, bytes), 3);
  assert_memory_equal(bytes, "\xef\xbf\xbd", 3);
  assert_true(sl_utf8_valid("a\0b", 3, NULL));
}

static void test_glob(void **state) {
  (void)state;
  static const struct {
    const char *pattern, *name;
    bool match;
  } cases[] = {{"", "", true},           {"", "a", false},         {"*", "", true},
               {"*", "abc", true},       {"a*c", "abbc", true},    {"a*c", "abcb", false},
               {"*b*", "abc", true},     {"**c", "abc", true},     {"a?c", "abc", true},
               {"a?c", "ac", false},     {"?", "\xc3\xa9", true},  {"??", "\xc3\xa9", false},
               {"a-b", "a_b", false},    {"[ab]", "a", false},     {"[ab]", "[ab]", true},
               {"*.q_proj", "m.3.q_proj", true}, {"*aab", "aaab", true}, {"a*b*c*d", "aXbYcZd", true},
               {"a*b*c*d", "aXcYbZd", false}, {"abc", "ab", false}, {"abc*", "ab", false},
               {"*?", "", false},        {"*?x", "\xe2\x82\xacx", true},
               {"blocks.*.attn.hook_?", "blocks.12.attn.hook_q", true}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (sl_glob_match(cases[i].pattern, cases[i].name) != cases[i].match)
      fail_msg("%s on %s", cases[i].pattern, cases[i].name);
  char many[2001], stars[61] = "";
  memset(many, 'a', 2000);
  many[2000] = '\0';
  for (int i = 0; i < 20; i++) strcat(stars, "*aa");
  stars[59] = 'b';
  assert_false(sl_glob_match(stars, many)); /* a backtracking matcher would not come back */
}

/* ---- files ---- */

static int write_errno; /* 0: writes work */
static long write_bytes_left;

/* Stands before libc's: a disk that fills up. */
ssize_t write(int descriptor, const void *bytes, size_t n_bytes) {
  if (write_errno) {
    if (write_bytes_left <= 0) {
      errno = write_errno;
      return -1;
    }
    if ((long)n_bytes > write_bytes_left) n_bytes = (size_t)write_bytes_left;
    write_bytes_left -= (long)n_bytes;
  }
  return syscall(SYS_write, descriptor, bytes, n_bytes);
}

static void assert_content(const char *path, const char *expected) {
  char *bytes;
  size_t n_bytes;
  assert_int_equal(sl_file_read(path, 1 << 20, &bytes, &n_bytes), SL_OK);
  assert_int_equal(n_bytes, strlen(expected));
  assert_string_equal(bytes, expected);
  free(bytes);
}

static void test_files(void **state) {
  (void)state;
  char *path = in_folder("file"), *bytes;
  size_t n_bytes;
  mode_t mask = umask(022);
  assert_int_equal(sl_file_write(path, "old", 3), SL_OK);
  umask(mask);
  struct stat info;
  assert_int_equal(stat(path, &info), 0);
  assert_int_equal(info.st_mode & 0777, 0644);
  assert_content(path, "old");
  assert_int_equal(sl_file_write(path, "newer", 5), SL_OK);
  assert_content(path, "newer");
  assert_int_equal(sl_file_read(path, 5, &bytes, &n_bytes), SL_OK);
  free(bytes);
  assert_int_equal(sl_file_read(path, 4, &bytes, &n_bytes), SL_ERROR_FILE);
  assert_null(bytes);
  assert_message("/file");
  assert_message("limit for this file is 4");
  assert_int_equal(sl_file_read(folder, 100, &bytes, &n_bytes), SL_ERROR_FILE);
  assert_message("found a folder");
  assert_int_equal(sl_file_read(in_folder("missing"), 100, &bytes, &n_bytes), SL_ERROR_FILE);
  assert_message("missing: cannot open: No such file");
  assert_int_equal(sl_file_read("/proc/self/status", 1 << 20, &bytes, &n_bytes), SL_OK); /* has no size */
  assert_true(n_bytes > 100 && strlen(bytes) == n_bytes);
  free(bytes);
  assert_int_equal(sl_file_read("/proc/self/status", 50, &bytes, &n_bytes), SL_ERROR_FILE);
  assert_int_equal(sl_file_write(in_folder("empty"), NULL, 0), SL_OK);
  assert_content(in_folder("empty"), "");
  assert_int_equal(count_files(), 2);
}

static void test_files_failing(void **state) {
  (void)state;
  char *path = in_folder("kept");
  assert_int_equal(sl_file_write(path, "kept", 4), SL_OK);
  int n_before = count_files();
  static const int errors[] = {ENOSPC, EDQUOT, EIO};
  for (int i = 0; i < 3; i++) {
    write_errno = errors[i];
    write_bytes_left = 2; /* a part gets out before */
    sl_status status = sl_file_write(path, "lost", 4);
    write_errno = 0;
    assert_int_equal(status, SL_ERROR_FILE);
    assert_message(i < 2 ? "kept: cannot write: disk full" : "kept: cannot write: Input/output");
    assert_content(path, "kept");
    assert_int_equal(count_files(), n_before);
  }
  for (long n = 1;; n++) {
    sl_alloc_fail_at(n);
    sl_status status = sl_file_write(path, "kept", 4);
    sl_alloc_fail_at(0);
    assert_content(path, "kept");
    assert_int_equal(count_files(), n_before);
    if (status == SL_OK) break;
    assert_int_equal(status, SL_ERROR_MEMORY);
  }
  assert_int_equal(sl_file_write(in_folder("no/such"), "x", 1), SL_ERROR_FILE);
  assert_message("no/such: cannot write");
  assert_int_equal(mkdir(in_folder("sub"), 0777), 0);
  assert_int_equal(sl_file_write(in_folder("sub"), "x", 1), SL_ERROR_FILE); /* rename onto a folder */
  assert_int_equal(count_files(), n_before + 1);
}

static void test_output_discard(void **state) {
  (void)state;
  int n_before = count_files();
  sl_output *output;
  assert_int_equal(sl_output_open(&output, in_folder("half")), SL_OK);
  assert_int_equal(sl_output_write(output, "half", 4), SL_OK);
  assert_int_equal(count_files(), n_before + 1);
  sl_output_discard(output);
  assert_int_equal(count_files(), n_before);
  sl_output_discard(NULL);
}

/* ---- JSON ---- */

static json_t *parse(const char *text) {
  json_t *value;
  if (sl_json_parse(&value, text, strlen(text), "t.json") != SL_OK) fail_msg("%s", sl_error_message());
  return value;
}

static void test_json_get(void **state) {
  (void)state;
  json_t *root = parse("{\"a\": {\"b\": {\"n\": 7, \"x\": 2.5, \"s\": \"hi\", \"t\": true, \"z\": null, "
                       "\"nul\": \"a\\u0000b\"}},"
                       " \"min\": -9223372036854775808, \"max\": 9223372036854775807}");
  int64_t n = -1;
  double x = -1;
  bool t = false;
  const char *s = "default";
  assert_int_equal(sl_json_get_int(root, "a.b.n", 0, 7, &n, "t.json"), SL_OK);
  assert_int_equal(n, 7);
  assert_int_equal(sl_json_get_real(root, "a.b.x", &x, "t.json"), SL_OK);
  assert_true(x == 2.5);
  assert_int_equal(sl_json_get_real(root, "a.b.n", &x, "t.json"), SL_OK);
  assert_true(x == 7);
  assert_int_equal(sl_json_get_bool(root, "a.b.t", &t, "t.json"), SL_OK);
  assert_true(t);
  assert_int_equal(sl_json_get_string(root, "a.b.s", &s, "t.json"), SL_OK);
  assert_string_equal(s, "hi");
  static const char *const absent[] = {"a.b.missing", "a.b.z", "a.b.n.deeper", "missing.b", "a..b", "b"};
  for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
    assert_int_equal(sl_json_get_int(root, absent[i], 0, 1, &n, "t.json"), SL_OK);
    assert_int_equal(n, 7);
    assert_int_equal(sl_json_get_string(root, absent[i], &s, "t.json"), SL_OK);
    assert_string_equal(s, "hi");
  }
  assert_int_equal(sl_json_get_int(root, "min", INT64_MIN, INT64_MAX, &n, "t.json"), SL_OK);
  assert_true(n == INT64_MIN);
  assert_int_equal(sl_json_get_int(root, "max", INT64_MIN, INT64_MAX, &n, "t.json"), SL_OK);
  assert_true(n == INT64_MAX);
  assert_int_equal(sl_json_get_int(root, "a.b.n", 8, 9, &n, "t.json"), SL_ERROR_FORMAT);
  assert_string_equal(sl_error_message(), "t.json: a.b.n: expected an integer in [8, 9], found 7");
  assert_int_equal(sl_json_get_int(root, "a.b.x", 0, 9, &n, "t.json"), SL_ERROR_FORMAT);
  assert_string_equal(sl_error_message(), "t.json: a.b.x: expected an integer, found the real number 2.5");
  assert_int_equal(sl_json_get_real(root, "a.b.s", &x, "t.json"), SL_ERROR_FORMAT);
  assert_message("t.json: a.b.s: expected a number, found a string");
  assert_int_equal(sl_json_get_bool(root, "a.b.n", &t, "t.json"), SL_ERROR_FORMAT);
  assert_message("t.json: a.b.n: expected true or false, found the integer 7");
  assert_int_equal(sl_json_get_string(root, "a.b", &s, "t.json"), SL_ERROR_FORMAT);
  assert_message("t.json: a.b: expected a string, found an object");
  assert_int_equal(sl_json_get_string(root, "a.b.nul", &s, "t.json"), SL_ERROR_FORMAT);
  assert_message("U+0000");
  assert_true(n == INT64_MAX && x == 7 && t && strcmp(s, "hi") == 0); /* failures left everything */
  assert_int_equal(json_string_length(sl_json_at(root, "a.b.nul")), 3);
  json_decref(root);
}

static void test_json_bad(void **state) {
  (void)state;
  static const char *const texts[] = {
      "", "{", "{\"a\": 1, \"a\": 2}", "[1,]", "[01]", "{\"a\": tru}", "[1] 2", "[\"\xff\"]", "[\"\\ud800\"]",
      "[1e999]",
      "[\"\n\"]", "nul", "[NaN]"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    json_t *value = (json_t *)&i;
    assert_int_equal(sl_json_parse(&value, texts[i], strlen(texts[i]), "bad.json"), SL_ERROR_FORMAT);
    assert_null(value);
    assert_message("bad.json: line 1, column");
  }
  char *deep = malloc(200000);
  memset(deep, '[', 200000);
  json_t *value;
  assert_int_equal(sl_json_parse(&value, deep, 200000, "deep.json"), SL_ERROR_FORMAT);
  assert_message("deep.json");
  free(deep);
  assert_int_equal(sl_json_load(&value, in_folder("missing.json"), 100), SL_ERROR_FILE);
  assert_int_equal(sl_file_write(in_folder("lines.json"), "{\"a\": 1,\n\"b\" 2}", 15), SL_OK);
  assert_int_equal(sl_json_load(&value, in_folder("lines.json"), 100), SL_ERROR_FORMAT);
  assert_message("lines.json: line 2, column");
  assert_int_equal(sl_json_load(&value, in_folder("lines.json"), 10), SL_ERROR_FILE);
}

/* Real tokenizer_config.json files hold int(1e30). */
static void test_json_big_integers(void **state) {
  (void)state;
  json_t *root = parse("{\"model_max_length\": 1000000000000000019884624838656, \"12345678901234567890123\": "
                       "\"-99999999999999999999\\\"99999999999999999999\", \"list\": [-9223372036854775808, "
                       "9223372036854775807, -9223372036854775809,9223372036854775808, 0.12345678901234567890123, "
                       "12345678901234567890123e-3, 1E+00000000000000000000]}");
  int64_t n = 5;
  double x;
  assert_int_equal(sl_json_get_int(root, "model_max_length", 0, INT64_MAX, &n, "t.json"), SL_ERROR_FORMAT);
  assert_message("t.json: model_max_length: expected an integer, found the real number 1e+30");
  assert_int_equal(sl_json_get_real(root, "model_max_length", &x, "t.json"), SL_OK);
  assert_true(x == 1e30);
  assert_string_equal(json_string_value(sl_json_at(root, "12345678901234567890123")),
                      "-99999999999999999999\"99999999999999999999");
  static const bool integer[] = {true, true, false, false, false, false, false};
  for (size_t i = 0; i < 7; i++)
    assert_int_equal(json_is_integer(json_array_get(sl_json_at(root, "list"), i)), integer[i]);
  assert_true(json_integer_value(json_array_get(sl_json_at(root, "list"), 0)) == INT64_MIN);
  json_decref(root);
  json_t *value;
  assert_int_equal(sl_json_parse(&value, "[99999999999999999999, x]", 25, "t.json"), SL_ERROR_FORMAT);
  sl_alloc_fail_at(1);
  assert_int_equal(sl_json_parse(&value, "[99999999999999999999]", 22, "t.json"), SL_ERROR_MEMORY);
  assert_null(value);
}

static void test_json_print(void **state) {
  (void)state;
  json_t *root = parse("{\"z\": 1, \"a\": [0.1, 1e-7, \"\\u0000\xc3\xa9\"]}");
  char *text;
  assert_int_equal(sl_json_print(root, 0, &text), SL_OK);
  assert_string_equal(text, "{\"z\": 1, \"a\": [0.1, 1e-7, \"\\u0000\xc3\xa9\"]}");
  free(text);
  assert_int_equal(sl_json_print(root, 2, &text), SL_OK);
  assert_memory_equal(text, "{\n  \"z\": 1,\n  \"a\"", 17);
  free(text);
  sl_alloc_fail_at(1);
  assert_int_equal(sl_json_print(root, 2, &text), SL_ERROR_MEMORY);
  assert_null(text);
  assert_int_equal(sl_json_print(root, 99, &text), SL_ERROR_ARGUMENT);
  json_decref(root);
  assert_int_equal(sl_json_print(NULL, 0, &text), SL_ERROR_ARGUMENT);
  for (int i = 0; i < 100000; i++) { /* every f32 survives nine digits */
    float value = (float)(sl_rng_normal(1, 2, (uint64_t)i) * exp2(sl_rng_uniform(1, 3, (uint64_t)i) * 200 - 100));
    json_t *real = json_real(value);
    assert_int_equal(sl_json_print(real, 0, &text), SL_OK);
    assert_true(strtof(text, NULL) == value);
    free(text);
    json_decref(real);
  }
}

static void assert_exact(const char *given, const char *expected) {
  json_t *root = parse(given);
  char *text;
  assert_int_equal(sl_json_print_exact(root, &text), SL_OK);
  assert_string_equal(text, expected);
  free(text);
  json_decref(root);
}

/* What is read again is what was written, and looks as it did. */
static void test_json_print_exact(void **state) {
  (void)state;
  assert_exact("[0.3, 1700000123.5, -0.0, 5.0, 1e300, 7]", "[0.3, 1700000123.5, -0.0, 5.0, 1e300, 7]");
  assert_exact("[0.1234567890123, 0.12345678901330001, 123456789012345680000.0]",
               "[0.1234567890123, 0.12345678901330001, 1.2345678901234568e20]");
  assert_exact("{\"0.10000000000000001\": \"\\\" 0.10000000000000001\"}",
               "{\"0.10000000000000001\": \"\\\" 0.10000000000000001\"}"); /* no numbers */
  char *text;
  for (int i = 0; i < 100000; i++) {
    const double value = sl_rng_normal(1, 2, (uint64_t)i) * exp2(sl_rng_uniform(1, 3, (uint64_t)i) * 2000 - 1000);
    json_t *real = json_real(value);
    assert_int_equal(sl_json_print_exact(real, &text), SL_OK);
    assert_true(strtod(text, NULL) == value);
    free(text);
    json_decref(real);
  }
  assert_int_equal(sl_json_print_exact(NULL, &text), SL_ERROR_ARGUMENT);
  assert_null(text);
}

static void test_locale(void **state) {
  (void)state;
  if (!setlocale(LC_ALL, "de_DE.UTF-8")) { /* seldom installed, but quickly made */
    char command[600];
    snprintf(command, sizeof command, "localedef -i de_DE -f UTF-8 %s/de_DE.UTF-8 2>/dev/null", folder);
    setenv("LOCPATH", folder, 1);
    if (system(command) != 0 || !setlocale(LC_ALL, "de_DE.UTF-8")) skip();
  }
  assert_string_equal(localeconv()->decimal_point, ",");
  json_t *root = parse("[2.5]");
  assert_true(json_real_value(json_array_get(root, 0)) == 2.5);
  char *printed, *exact;
  assert_int_equal(sl_json_print(root, 0, &printed), SL_OK);
  assert_int_equal(sl_json_print_exact(root, &exact), SL_OK);
  sl_text text = {0};
  assert_int_equal(sl_text_format(&text, "%.1f", 2.5), SL_OK);
  sl_fail(SL_ERROR_FILE, "%.1f", 2.5);
  setlocale(LC_ALL, "C");
  assert_string_equal(printed, "[2.5]");
  assert_string_equal(exact, "[2.5]");
  free(exact);
  assert_string_equal(text.data, "2.5");
  assert_string_equal(sl_error_message(), "2.5");
  sl_text_dispose(&text);
  free(printed);
  json_decref(root);
}

/* ---- random numbers ---- */

static void test_rng_pinned(void **state) {
  (void)state;
  /* Results in the world depend on these: a change here changes everybody's masks. */
  assert_true(sl_rng_u64(0, 0, 0) == 0x238275BC38FCBE91u);
  assert_true(sl_rng_u64(1, 2, 3) == 0x8568F7C4E53B5A35u);
  assert_true(sl_rng_u64(UINT64_MAX, UINT64_MAX, UINT64_MAX) == 0x179F01F0D2FBA97Au);
  assert_true(fabs(sl_rng_normal(1, 2, 3) - 1.2036838591126484) < 1e-14);
}

static void test_rng_moments(void **state) {
  (void)state;
  enum { N = 200000, BINS = 64 };
  double sum = 0, square = 0, normal_sum = 0, normal_square = 0, normal_fourth = 0, lag = 0, cross = 0, previous = 0;
  int bins[BINS] = {0};
  for (int i = 0; i < N; i++) {
    double u = sl_rng_uniform(42, 7, (uint64_t)i), z = sl_rng_normal(42, 7, (uint64_t)i);
    assert_true(u >= 0 && u < 1 && isfinite(z));
    bins[(int)(u * BINS)]++;
    sum += u, square += u * u, normal_sum += z, normal_square += z * z, normal_fourth += z * z * z * z;
    lag += z * previous;
    cross += z * sl_rng_normal(42, 8, (uint64_t)i); /* the neighbouring stream */
    previous = z;
  }
  assert_true(fabs(sum / N - 0.5) < 0.003 && fabs(square / N - 1.0 / 3) < 0.003);
  assert_true(fabs(normal_sum / N) < 0.01 && fabs(normal_square / N - 1) < 0.015 && fabs(normal_fourth / N - 3) < 0.1);
  assert_true(fabs(lag / N) < 0.01 && fabs(cross / N) < 0.01);
  double chi_square = 0;
  for (int i = 0; i < BINS; i++) chi_square += (bins[i] - N / BINS) * (double)(bins[i] - N / BINS) / (N / BINS);
  assert_true(chi_square < 110); /* 63 degrees of freedom: p = 0.0002 */
}

static int make_folder(void **state) {
  (void)state;
  return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
  (void)state;
  char command[600];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  return system(command);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_fail),          cmocka_unit_test(test_fail_long),
      cmocka_unit_test(test_memory),        cmocka_unit_test(test_memory_fault),
      cmocka_unit_test(test_text),          cmocka_unit_test(test_path_join),
      cmocka_unit_test(test_utf8_round_trip), cmocka_unit_test(test_utf8_bad),
      cmocka_unit_test(test_glob),          cmocka_unit_test(test_files),
      cmocka_unit_test(test_files_failing), cmocka_unit_test(test_output_discard),
      cmocka_unit_test(test_json_get),      cmocka_unit_test(test_json_bad),
      cmocka_unit_test(test_json_big_integers), cmocka_unit_test(test_json_print),
      cmocka_unit_test(test_json_print_exact),
      cmocka_unit_test(test_locale),        cmocka_unit_test(test_rng_pinned),
      cmocka_unit_test(test_rng_moments),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
