/* tensor: element types, and the safetensors reader and writer against honest and lying files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/rng.h"
#include "base/text.h"
#include "tensor/safetensors.h"

static char folder[] = "/tmp/sightline-test-tensor-XXXXXX";

/* Four results may be in use at once. */
static char *in_folder(const char *name) {
  static char paths[4][512];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static void assert_message(const char *part) {
  if (!strstr(sl_error_message(), part)) fail_msg("expected \"%s\" in \"%s\"", part, sl_error_message());
}

/* ---- element types ---- */

static void test_dtype(void **state) {
  (void)state;
  static const struct {
    sl_dtype dtype;
    size_t size;
    const char *name;
  } rows[] = {{SL_F32, 4, "F32"}, {SL_F16, 2, "F16"}, {SL_BF16, 2, "BF16"}, {SL_I32, 4, "I32"},
              {SL_I64, 8, "I64"}, {SL_U8, 1, "U8"},   {SL_F64, 8, "F64"},
              {SL_I8, 1, "I8"},   {SL_I16, 2, "I16"},   {SL_BOOL, 1, "BOOL"}};
  assert_int_equal(sizeof rows / sizeof *rows, SL_DTYPE_COUNT);
  for (int i = 0; i < SL_DTYPE_COUNT; i++) {
    assert_int_equal(sl_dtype_size(rows[i].dtype), rows[i].size);
    assert_string_equal(sl_dtype_name(rows[i].dtype), rows[i].name);
  }
  sl_tensor scalar = {.dtype = SL_F32}, matrix = {.n_dim = 3, .shape = {2, 3, 4}};
  sl_tensor empty = {.n_dim = 2, .shape = {5, 0}};
  assert_int_equal(sl_tensor_count(&scalar), 1);
  assert_int_equal(sl_tensor_count(&matrix), 24);
  assert_int_equal(sl_tensor_count(&empty), 0);
}

static bool same_bits(float a, float b) { return memcmp(&a, &b, 4) == 0; }

static void test_f16(void **state) {
  (void)state;
  static uint8_t packed[65536 * 2 + 1];
  static float converted[65536];
  for (uint32_t bits = 0; bits < 65536; bits++) {
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float found = sl_f16_to_f32((uint16_t)bits);
    memcpy(packed + 1 + 2 * bits, &(uint16_t){(uint16_t)bits}, 2);
    if (exponent == 31 && mantissa) {
      assert_true(isnan(found));
      continue;
    }
    double expected = exponent == 31 ? INFINITY
                      : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                                     : ldexp(mantissa, -24);
    if (bits & 0x8000) expected = -expected;
    if (!same_bits(found, (float)expected)) fail_msg("f16 %04x: %g, expected %g", bits, found, expected);
  }
  for (int64_t count = 65536; count > 65536 - 130; count -= 43) { /* odd address, whole and broken blocks */
    memset(converted, 0x11, sizeof converted);
    sl_convert_to_f32(converted, packed + 1, SL_F16, count);
    for (int64_t i = 0; i < count; i++) assert_true(same_bits(converted[i], sl_f16_to_f32((uint16_t)i)));
  }
}

static void test_bf16(void **state) {
  (void)state;
  static const struct {
    uint32_t f32;
    uint16_t bf16;
  } rows[] = {{0x3F800000, 0x3F80}, {0x3F808000, 0x3F80}, {0x3F818000, 0x3F82}, {0x3F808001, 0x3F81},
              {0x7F7FFFFF, 0x7F80}, {0x3F807FFF, 0x3F80}, {0x7F800000, 0x7F80}, {0xFF800000, 0xFF80},
              {0x80000000, 0x8000}, {0x00008001, 0x0001}, {0x7F800001, 0x7FC0}, {0xFFFFFFFF, 0xFFFF},
              {0x7FFFFFFF, 0x7FFF}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    float value;
    memcpy(&value, &rows[i].f32, 4);
    if (sl_f32_to_bf16(value) != rows[i].bf16) fail_msg("%08x gave %04x", rows[i].f32, sl_f32_to_bf16(value));
  }
  static uint8_t packed[65536 * 2 + 1];
  static float converted[65536];
  for (uint32_t bits = 0; bits < 65536; bits++) {
    memcpy(packed + 1 + 2 * bits, &(uint16_t){(uint16_t)bits}, 2);
    float value = sl_bf16_to_f32((uint16_t)bits);
    if (!isnan(value)) assert_int_equal(sl_f32_to_bf16(value), bits);
    else assert_true(isnan(sl_bf16_to_f32(sl_f32_to_bf16(value))));
  }
  for (int64_t count = 65536; count > 65536 - 130; count -= 43) {
    memset(converted, 0x11, sizeof converted);
    sl_convert_to_f32(converted, packed + 1, SL_BF16, count);
    for (int64_t i = 0; i < count; i++) assert_true(same_bits(converted[i], sl_bf16_to_f32((uint16_t)i)));
  }
  sl_convert_to_f32(NULL, NULL, SL_F32, 0);
}

/* Every f16 comes back; between two neighbours, the nearer one, and the even one in the middle. */
static void test_to_f16(void **state) {
  (void)state;
  for (uint32_t bits = 0; bits < 0x7C00; bits++) {
    const float low = sl_f16_to_f32((uint16_t)bits);
    const float high = bits == 0x7BFF ? 65536 : sl_f16_to_f32((uint16_t)(bits + 1)); /* what comes after 65504 */
    const float middle = (low + high) / 2;                                           /* exact */
    const uint32_t even = bits & 1 ? bits + 1 : bits;
    assert_int_equal(sl_f32_to_f16(low), bits);
    assert_int_equal(sl_f32_to_f16(-low), bits | 0x8000);
    assert_int_equal(sl_f32_to_f16(middle), even);
    assert_int_equal(sl_f32_to_f16(-middle), even | 0x8000);
    assert_int_equal(sl_f32_to_f16(nextafterf(middle, 0)), bits);
    assert_int_equal(sl_f32_to_f16(nextafterf(middle, INFINITY)), bits + 1);
  }
  assert_int_equal(sl_f32_to_f16(INFINITY), 0x7C00);
  assert_int_equal(sl_f32_to_f16(-1e30f), 0xFC00);
  assert_int_equal(sl_f32_to_f16(0x1p-149f), 0);
  for (uint32_t bits = 0x7F800001; bits; bits = bits == 0x7F800001 ? 0x7FFFFFFF : bits == 0x7FFFFFFF ? 0xFFFFFFFF : 0) {
    float nan;
    memcpy(&nan, &bits, 4);
    assert_true(isnan(sl_f16_to_f32(sl_f32_to_f16(nan))));
  }
}

/* ---- making files ---- */

/* A file with this header and n_data bytes 0, 1, 2, ...; a negative length means the true one. */
static void make_file(sl_text *out, int64_t length, const char *header, size_t n_data) {
  uint64_t n_header = length < 0 ? strlen(header) : (uint64_t)length;
  assert_int_equal(sl_text_append(out, &n_header, 8), SL_OK);
  assert_int_equal(sl_text_append_string(out, header), SL_OK);
  for (size_t i = 0; i < n_data; i++) assert_int_equal(sl_text_append(out, &(uint8_t){(uint8_t)i}, 1), SL_OK);
}

static void write_file(const char *name, const char *header, size_t n_data) {
  sl_text file = {0};
  make_file(&file, -1, header, n_data);
  assert_int_equal(sl_file_write(in_folder(name), file.data, file.length), SL_OK);
  sl_text_dispose(&file);
}

static void write_text(const char *name, const char *text) {
  assert_int_equal(sl_file_write(in_folder(name), text, strlen(text)), SL_OK);
}

static void make_subfolder(const char *name) { assert_int_equal(mkdir(in_folder(name), 0777), 0); }

/* ---- reading ---- */

/* Spaces after the JSON, an empty tensor between others, a scalar, a name with an escape, header not in data order. */
#define HONEST                                                                                                      \
  "{\"__metadata__\": {\"format\": \"pt\"}, "                                                                         \
  "\"b\\u00e9\": {\"dtype\": \"U8\", \"shape\": [3], \"data_offsets\": [16, 19]}, "                                   \
  "\"a\": {\"dtype\": \"F32\", \"shape\": [2, 2], \"data_offsets\": [0, 16]}, \"s\": {\"dtype\":\"I64\",\"shape\":[]," \
  "\"data_offsets\":[19,27]}, \"empty\": {\"dtype\": \"BF16\", \"shape\": [0, 7], \"data_offsets\": [16, 16]}}   "

static void check_honest(const sl_safetensors *file, const char *path) {
  static const char *const order[] = {"a", "empty", "b\xc3\xa9", "s"};
  assert_int_equal(sl_safetensors_count(file), 4);
  for (int i = 0; i < 4; i++) {
    const sl_tensor *tensor = sl_safetensors_at(file, i);
    assert_string_equal(tensor->name, order[i]);
    assert_ptr_equal(sl_safetensors_find(file, order[i]), tensor);
    assert_string_equal(sl_safetensors_file_of(file, tensor), path);
  }
  const sl_tensor *a = sl_safetensors_at(file, 0), *s = sl_safetensors_at(file, 3);
  assert_int_equal(a->dtype, SL_F32);
  assert_int_equal(a->n_dim, 2);
  assert_true(a->shape[0] == 2 && a->shape[1] == 2);
  assert_memory_equal(a->data, "\0\1\2\3\4\5\6\7", 8);
  assert_int_equal(s->n_dim, 0);
  assert_int_equal(*(const uint8_t *)s->data, 19);
  assert_int_equal(sl_tensor_count(sl_safetensors_at(file, 1)), 0);
  assert_null(sl_safetensors_find(file, "__metadata__"));
  assert_null(sl_safetensors_find(file, "zz"));
  assert_null(sl_safetensors_find(file, ""));
  assert_null(sl_safetensors_at(file, 4));
  assert_null(sl_safetensors_at(file, -1));
  sl_tensor stranger = *a;
  assert_null(sl_safetensors_file_of(file, &stranger));
}

static void test_read(void **state) {
  (void)state;
  sl_text bytes = {0};
  make_file(&bytes, -1, HONEST, 27);
  sl_safetensors *file;
  assert_int_equal(sl_safetensors_parse(&file, bytes.data, bytes.length, "memory"), SL_OK);
  check_honest(file, "memory");
  sl_safetensors_close(file);

  char *path = in_folder("honest.safetensors");
  assert_int_equal(sl_file_write(path, bytes.data, bytes.length), SL_OK);
  assert_int_equal(sl_safetensors_open(&file, path), SL_OK);
  check_honest(file, path);
  assert_true(sl_safetensors_bytes(file) == bytes.length);
  assert_true(sl_safetensors_hash(file) == XXH3_64bits(bytes.data, bytes.length));
  sl_safetensors_close(file);
  sl_safetensors_close(NULL);

  sl_text none = {0};
  make_file(&none, -1, "{}", 0);
  assert_int_equal(sl_safetensors_parse(&file, none.data, none.length, "none"), SL_OK);
  assert_int_equal(sl_safetensors_count(file), 0);
  assert_null(sl_safetensors_find(file, "a"));
  assert_null(sl_safetensors_at(file, 0));
  sl_safetensors_close(file);
  sl_text_dispose(&none);
  sl_text_dispose(&bytes);
}

/* A tensor "t" with these three values. */
#define T(dtype, shape, offsets) "{\"t\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define U8(name, begin, end) "\"" name "\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[" #begin "," #end "]}"

static const struct lie {
  sl_status status;
  const char *header;
  size_t n_data;
  const char *in_message;
} lies[] = {
    {SL_ERROR_FORMAT, "", 0, "empty header"},
    {SL_ERROR_FORMAT, "[]", 0, "expected '{'"},
    {SL_ERROR_FORMAT, " {}", 0, "expected '{'"},
    {SL_ERROR_FORMAT, "{\"t\":", 0, "line 1, column"},
    {SL_ERROR_FORMAT, "{} x", 0, "line 1, column"},
    {SL_ERROR_FORMAT, "{\"\xff\":1}", 0, "unable to decode byte"},
    {SL_ERROR_FORMAT, "{\"t\\u0000\":1}", 0, "NUL"},
    {SL_ERROR_FORMAT, "{\"t\":[[[[[[[[8]]]]]]]]}", 0, "levels deep"},
    {SL_ERROR_FORMAT, "{\"t\":1}", 0, "tensor \"t\": expected an object"},
    {SL_ERROR_FORMAT, "{" U8("t", 0, 2) "," U8("t", 2, 4) "}", 4, "duplicate object key near '\"t\"'"},
    {SL_ERROR_FORMAT, "{\"__metadata__\":3}", 0, "__metadata__: expected an object"},
    {SL_ERROR_FORMAT, "{\"__metadata__\":{\"k\":1}}", 0, "__metadata__: key \"k\": expected a string"},
    {SL_ERROR_FORMAT, "{\"t\":{\"shape\":[2],\"data_offsets\":[0,2]}}", 2, "tensor \"t\": dtype"},
    {SL_ERROR_FORMAT, T("7", "[2]", "[0,2]"), 2, "tensor \"t\": dtype"},
    {SL_ERROR_UNSUPPORTED, T("\"F8_E4M3\"", "[2]", "[0,2]"), 2, "tensor \"t\": dtype: expected F64, F32"},
    {SL_ERROR_UNSUPPORTED, T("\"f32\"", "[2]", "[0,8]"), 8, "found \"f32\""},
    {SL_ERROR_FORMAT, "{\"t\":{\"dtype\":\"U8\",\"data_offsets\":[0,2]}}", 2, "tensor \"t\": shape"},
    {SL_ERROR_FORMAT, T("\"U8\"", "2", "[0,2]"), 2, "tensor \"t\": shape"},
    {SL_ERROR_FORMAT, T("\"U8\"", "[2.0]", "[0,2]"), 2, "tensor \"t\": shape[0]: expected an integer"},
    {SL_ERROR_FORMAT, T("\"U8\"", "[1,-2]", "[0,2]"), 2, "tensor \"t\": shape[1]: expected 0 or more, found -2"},
    {SL_ERROR_FORMAT, T("\"U8\"", "[99999999999999999999]", "[0,2]"), 2, "tensor \"t\": shape[0]: expected an integer"},
    {SL_ERROR_FORMAT, T("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0, "\"t\": shape: expected a size below"},
    {SL_ERROR_FORMAT, T("\"U8\"", "[4294967296,2147483648,0]", "[0,0]"), 0, "\"t\": shape: expected a size below"},
    {SL_ERROR_UNSUPPORTED, T("\"U8\"", "[1,1,1,1,1,1,1]", "[0,1]"), 1, "tensor \"t\": shape: expected at most 6"},
    {SL_ERROR_FORMAT, "{\"t\":{\"dtype\":\"U8\",\"shape\":[2]}}", 2, "tensor \"t\": data_offsets"},
    {SL_ERROR_FORMAT, T("\"U8\"", "[2]", "[0]"), 2, "tensor \"t\": data_offsets: expected two integers"},
    {SL_ERROR_FORMAT, T("\"U8\"", "[2]", "[0,2,2]"), 2, "tensor \"t\": data_offsets: expected two integers"},
    {SL_ERROR_FORMAT, T("\"U8\"", "[2]", "[0,2.0]"), 2, "tensor \"t\": data_offsets: expected two integers"},
    {SL_ERROR_FORMAT, T("\"U8\"", "[2]", "[-2,0]"), 2, "tensor \"t\": data_offsets: expected 0 <= begin"},
    {SL_ERROR_FORMAT, T("\"U8\"", "[2]", "[2,0]"), 2, "tensor \"t\": data_offsets: expected 0 <= begin"},
    {SL_ERROR_FORMAT, T("\"U8\"", "[3]", "[0,3]"), 2, "expected 0 <= begin <= end <= 2, found [0, 3]"},
    {SL_ERROR_FORMAT, T("\"U8\"", "[3]", "[0,2]"), 2, "\"t\": expected 3 bytes for its dtype and shape, found 2"},
    {SL_ERROR_FORMAT, T("\"F16\"", "[2]", "[0,2]"), 2, "tensor \"t\": expected 4 bytes"},
    {SL_ERROR_FORMAT, T("\"U8\"", "[2]", "[1,3]"), 3, "tensor \"t\": hole before it"},
    {SL_ERROR_FORMAT, T("\"U8\"", "[2]", "[0,2]"), 3, "data: expected 2 bytes for all tensors, found 3"},
    {SL_ERROR_FORMAT, "{}", 1, "data: expected 0 bytes"},
    {SL_ERROR_FORMAT, "{" U8("t", 0, 2) "," U8("u", 1, 3) "}", 3, "tensor \"u\": overlap"},
    {SL_ERROR_FORMAT, "{" U8("t", 0, 2) "," U8("u", 0, 2) "}", 2, "tensor \"u\": overlap"},
    {SL_ERROR_FORMAT, "{" U8("t", 0, 2) "," U8("u", 3, 5) "}", 5, "tensor \"u\": hole"},
};

static void expect_lie(const void *bytes, size_t n_bytes, sl_status status, const char *in_message) {
  char *exact = malloc(n_bytes ? n_bytes : 1); /* ASan sees the first byte too far */
  memcpy(exact, bytes, n_bytes);
  sl_safetensors *file = (sl_safetensors *)exact;
  sl_status found = sl_safetensors_parse(&file, exact, n_bytes, "dir/liar.safetensors");
  if (found != status) fail_msg("%s: status %s (%s)", in_message, sl_status_name(found), sl_error_message());
  assert_null(file);
  assert_message("dir/liar.safetensors: ");
  assert_message(in_message);
  free(exact);
}

static void test_lies(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
    sl_text bytes = {0};
    make_file(&bytes, -1, lies[i].header, lies[i].n_data);
    expect_lie(bytes.data, bytes.length, lies[i].status, lies[i].in_message);
    sl_text_dispose(&bytes);
  }
}

static void test_lying_length(void **state) {
  (void)state;
  static const int64_t lengths[] = {3, 1000, 100000001, INT64_MAX, INT64_MIN + 2};
  static const char *const messages[] = {"expected at most the 2 bytes left in the file, found 3", "found 1000",
                                         "expected at most 100000000 bytes", "found 9223372036854775807",
                                         "found 9223372036854775810"};
  for (size_t i = 0; i < 5; i++) {
    sl_text bytes = {0};
    uint64_t length = (uint64_t)lengths[i];
    sl_text_append(&bytes, &length, 8);
    sl_text_append(&bytes, "{}", 2);
    expect_lie(bytes.data, bytes.length, SL_ERROR_FORMAT, messages[i]);
    sl_text_dispose(&bytes);
  }
  for (size_t n = 0; n < 8; n++)
    expect_lie("\2\0\0\0\0\0\0\0", n, SL_ERROR_FORMAT, "expected 8 bytes of header length");
}

/* Every prefix of an honest file is a lie, and no changed byte may crash. */
static void test_cut_and_changed(void **state) {
  (void)state;
  sl_text bytes = {0};
  make_file(&bytes, -1, HONEST, 27);
  for (size_t n = 0; n < bytes.length; n++) {
    sl_safetensors *file;
    char *cut = malloc(n ? n : 1);
    memcpy(cut, bytes.data, n);
    assert_int_not_equal(sl_safetensors_parse(&file, cut, n, "cut"), SL_OK);
    assert_message("cut: ");
    free(cut);
  }
  for (uint64_t i = 0; i < 20000; i++) {
    size_t where = sl_rng_u64(1, 0, i) % bytes.length;
    char before = bytes.data[where];
    bytes.data[where] = (char)sl_rng_u64(1, 1, i);
    sl_safetensors *file;
    if (sl_safetensors_parse(&file, bytes.data, bytes.length, "changed") == SL_OK) sl_safetensors_close(file);
    bytes.data[where] = before;
  }
  sl_text_dispose(&bytes);
}

static void test_open_errors(void **state) {
  (void)state;
  sl_safetensors *file;
  assert_int_equal(sl_safetensors_open(&file, in_folder("missing")), SL_ERROR_FILE);
  assert_message("missing: cannot open");
  make_subfolder("bare");
  assert_int_equal(sl_safetensors_open(&file, in_folder("bare")), SL_ERROR_FILE);
  assert_message("bare: expected model.safetensors");
  write_text("void.safetensors", "");
  assert_int_equal(sl_safetensors_open(&file, in_folder("void.safetensors")), SL_ERROR_FORMAT);
  assert_message("void.safetensors: expected 8 bytes");
  assert_int_equal(mkfifo(in_folder("fifo.safetensors"), 0600), 0);
  assert_int_equal(sl_safetensors_open(&file, in_folder("fifo.safetensors")), SL_ERROR_FILE); /* and does not hang */
  assert_message("fifo.safetensors: expected a regular file");
}

/* ---- folders ---- */

static void make_shards(const char *name) {
  char path[256];
  make_subfolder(name);
  snprintf(path, sizeof path, "%s/one.safetensors", name);
  write_file(path, "{" U8("b", 0, 2) "," U8("a", 2, 4) "}", 4);
  snprintf(path, sizeof path, "%s/two.safetensors", name);
  write_file(path, "{" U8("c", 0, 2) "," U8("extra", 2, 4) "}", 4);
}

static sl_status open_with_index(const char *name, const char *index, sl_safetensors **file) {
  char path[256];
  snprintf(path, sizeof path, "%s/model.safetensors.index.json", name);
  write_text(path, index);
  return sl_safetensors_open(file, in_folder(name));
}

static void test_folder(void **state) {
  (void)state;
  sl_safetensors *file;
  make_shards("sharded");
  sl_status status = open_with_index("sharded", "{\"metadata\": {\"total_size\": 8}, \"weight_map\": {\"c\": "
                                     "\"two.safetensors\", \"a\": \"one.safetensors\", \"b\": \"one.safetensors\"}}",
                                     &file);
  if (status) fail_msg("%s", sl_error_message());
  static const char *const order[] = {"b", "a", "c", "extra"}; /* a tensor beside the index is kept */
  assert_int_equal(sl_safetensors_count(file), 4);
  for (int i = 0; i < 4; i++) {
    assert_string_equal(sl_safetensors_at(file, i)->name, order[i]);
    assert_ptr_equal(sl_safetensors_find(file, order[i]), sl_safetensors_at(file, i));
    assert_string_equal(sl_safetensors_file_of(file, sl_safetensors_at(file, i)),
                        in_folder(i < 2 ? "sharded/one.safetensors" : "sharded/two.safetensors"));
  }
  uint64_t hash = sl_safetensors_hash(file), n_bytes = sl_safetensors_bytes(file);
  sl_safetensors_close(file);
  write_file("sharded/two.safetensors", "{" U8("d", 0, 2) "," U8("extra", 2, 4) "}", 4);
  status = open_with_index("sharded", "{\"weight_map\": {\"a\": \"one.safetensors\", \"d\": \"two.safetensors\"}}",
                           &file);
  assert_int_equal(status, SL_OK);
  assert_true(sl_safetensors_hash(file) != hash && sl_safetensors_bytes(file) == n_bytes);
  sl_safetensors_close(file);
  write_file("sharded/model.safetensors", "{" U8("single", 0, 2) "}", 2); /* comes before the index */
  assert_int_equal(sl_safetensors_open(&file, in_folder("sharded")), SL_OK);
  assert_int_equal(sl_safetensors_count(file), 1);
  sl_safetensors_close(file);
}

static void test_lying_index(void **state) {
  (void)state;
  static const struct {
    sl_status status;
    const char *index, *in_message;
  } rows[] = {
      {SL_ERROR_FORMAT, "{", "index.json: line 1"},
      {SL_ERROR_FORMAT, "{}", "index.json: weight_map: expected an object"},
      {SL_ERROR_FORMAT, "[1]", "index.json: weight_map: expected an object"},
      {SL_ERROR_FORMAT, "{\"weight_map\": {\"a\": 1}}", "index.json: tensor \"a\": expected a file name"},
      {SL_ERROR_FORMAT, "{\"weight_map\": {\"a\": \"\"}}", "tensor \"a\": expected a plain file name"},
      {SL_ERROR_FORMAT, "{\"weight_map\": {\"a\": \"..\"}}", "tensor \"a\": expected a plain file name, found \"..\""},
      {SL_ERROR_FORMAT, "{\"weight_map\": {\"a\": \"../liar/one.safetensors\"}}", "found \"../liar/one.safetensors\""},
      {SL_ERROR_FORMAT, "{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "found \"/etc/passwd\""},
      {SL_ERROR_FORMAT, "{\"weight_map\": {\"a\": \"one.safetensors\\u0000x\"}}", "tensor \"a\": expected a plain"},
      {SL_ERROR_FORMAT, "{\"weight_map\": {\"a\": \"one.safetensors\", \"a\": \"two.safetensors\"}}", "duplicate"},
      {SL_ERROR_FILE, "{\"weight_map\": {\"a\": \"gone.safetensors\"}}", "liar/gone.safetensors: cannot open"},
      {SL_ERROR_FORMAT, "{\"weight_map\": {\"zz\": \"one.safetensors\"}}",
       "index.json: tensor \"zz\": expected in one.safetensors, found it in no file"},
      {SL_ERROR_FORMAT, "{\"weight_map\": {\"a\": \"two.safetensors\", \"b\": \"one.safetensors\"}}",
       "index.json: tensor \"a\": expected in two.safetensors, found in one.safetensors"},
      {SL_ERROR_FORMAT, "{\"weight_map\": {\"a\": \"one.safetensors\", \"c\": \"again.safetensors\", "
                        "\"extra\": \"two.safetensors\"}}",
       "tensor \"c\": expected in one file"},
      {SL_ERROR_FORMAT, "{\"weight_map\": {\"a\": \"one.safetensors\", \"t\": \"broken.safetensors\"}}",
       "liar/broken.safetensors: tensor \"t\": hole"},
  };
  make_shards("liar");
  write_file("liar/again.safetensors", "{" U8("c", 0, 2) "}", 2);
  write_file("liar/broken.safetensors", "{" U8("t", 1, 3) "}", 3);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    sl_safetensors *file;
    sl_status status = open_with_index("liar", rows[i].index, &file);
    if (status != rows[i].status) fail_msg("%s: %s (%s)", rows[i].index, sl_status_name(status), sl_error_message());
    assert_null(file);
    assert_message(rows[i].in_message);
    assert_message("/liar/");
    if (strstr(rows[i].in_message, "in one file")) { /* names both */
      assert_message("again.safetensors");
      assert_message("two.safetensors");
    }
  }
}

/* ---- running out of memory ---- */

static long jansson_until_failure; /* 0: none fails */

static void *jansson_malloc(size_t n_bytes) {
  if (jansson_until_failure > 0 && --jansson_until_failure == 0) return NULL;
  return malloc(n_bytes);
}

static void sweep(const char *path, bool inside_jansson) {
  for (long n = 1;; n++) {
    sl_safetensors *file = NULL;
    if (inside_jansson) jansson_until_failure = n;
    else sl_alloc_fail_at(n);
    sl_status status = sl_safetensors_open(&file, path);
    bool reached = inside_jansson ? jansson_until_failure == 0 : status != SL_OK;
    jansson_until_failure = 0;
    sl_alloc_fail_at(0);
    if (status == SL_OK) {
      assert_int_equal(sl_safetensors_count(file), 4);
      sl_safetensors_close(file);
    } else {
      /* jansson takes some of its own failures for errors in the text, or goes on with a shortened string */
      if (status != SL_ERROR_MEMORY && !inside_jansson) fail_msg("allocation %ld: %s", n, sl_error_message());
      assert_null(file);
    }
    if (!reached) {
      assert_true(n > 10);
      return;
    }
  }
}

static void test_memory_sweep(void **state) {
  (void)state;
  sl_safetensors *file;
  write_file("sweep.safetensors", HONEST, 27);
  make_shards("sweep");
  static const char index[] = "{\"weight_map\": {\"c\": \"two.safetensors\", \"a\": \"one.safetensors\"}}";
  assert_int_equal(open_with_index("sweep", index, &file), SL_OK);
  sl_safetensors_close(file);
  json_set_alloc_funcs(jansson_malloc, free);
  for (int i = 0; i < 2; i++) {
    sweep(in_folder("sweep.safetensors"), i == 1);
    sweep(in_folder("sweep"), i == 1);
  }
  json_set_alloc_funcs(malloc, free);
}

/* ---- writing ---- */

static const float floats[6] = {1, 2, 3, 4, 5, 6};
static const double doubles[2] = {1.5, -2.5};
static const sl_tensor written[] = {
    {"bytes", "abc", SL_U8, 1, {3}},      {"floats", floats, SL_F32, 2, {2, 3}}, {"nothing", NULL, SL_I32, 2, {0, 4}},
    {"doubles", doubles, SL_F64, 1, {2}}, {"quote\"\xc3\xa9", floats + 5, SL_F32, 0, {0}}};

static void test_write(void **state) {
  (void)state;
  char *path = in_folder("written.safetensors");
  static const char *const metadata[] = {"format", "pt", "who", "\xc3\xa9 \"x\"", NULL};
  if (sl_safetensors_write(path, written, 5, metadata)) fail_msg("%s", sl_error_message());
  sl_safetensors *file;
  if (sl_safetensors_open(&file, path)) fail_msg("%s", sl_error_message());
  assert_int_equal(sl_safetensors_count(file), 5);
  for (int i = 0; i < 5; i++) {
    const sl_tensor *tensor = sl_safetensors_find(file, written[i].name);
    assert_non_null(tensor);
    assert_int_equal(tensor->dtype, written[i].dtype);
    assert_int_equal(tensor->n_dim, written[i].n_dim);
    assert_memory_equal(tensor->shape, written[i].shape, sizeof *tensor->shape * (size_t)tensor->n_dim);
    size_t width = sl_dtype_size(tensor->dtype), n_bytes = (size_t)sl_tensor_count(tensor) * width;
    assert_int_equal((uintptr_t)tensor->data % width, 0);
    if (n_bytes) assert_memory_equal(tensor->data, written[i].data, n_bytes);
  }
  assert_string_equal(sl_safetensors_at(file, 0)->name, "doubles");
  sl_safetensors_close(file);
  char *bytes;
  size_t n_bytes;
  assert_int_equal(sl_file_read(path, 10000, &bytes, &n_bytes), SL_OK);
  uint64_t length;
  memcpy(&length, bytes, 8);
  assert_int_equal(8 + length + 16 + 24 + 4 + 3, n_bytes);
  assert_non_null(strstr(bytes + 8, "\"who\": \"\xc3\xa9 \\\"x\\\"\""));
  free(bytes);
  assert_int_equal(sl_safetensors_write(path, NULL, 0, NULL), SL_OK); /* replaces; no tensors is a file too */
  assert_int_equal(sl_safetensors_open(&file, path), SL_OK);
  assert_int_equal(sl_safetensors_count(file), 0);
  sl_safetensors_close(file);
}

/* Whatever the length of the JSON, the data starts at a multiple of 8. */
static void test_write_padding(void **state) {
  (void)state;
  char name[10] = "";
  for (int i = 0; i < 9; i++) {
    name[i] = 'n';
    sl_tensor tensor = {name, doubles, SL_F64, 1, {2}};
    assert_int_equal(sl_safetensors_write(in_folder("padded.safetensors"), &tensor, 1, NULL), SL_OK);
    sl_safetensors *file;
    assert_int_equal(sl_safetensors_open(&file, in_folder("padded.safetensors")), SL_OK);
    assert_int_equal((uintptr_t)sl_safetensors_at(file, 0)->data % 8, 0);
    assert_memory_equal(sl_safetensors_at(file, 0)->data, doubles, sizeof doubles);
    sl_safetensors_close(file);
  }
}

static void test_write_refuses(void **state) {
  (void)state;
  static const struct {
    sl_tensor tensor;
    const char *in_message;
  } rows[] = {
      {{"first", "a", SL_U8, 1, {1}}, "tensor \"first\": expected once, found twice"},
      {{"__metadata__", "a", SL_U8, 1, {1}}, "__metadata__"},
      {{NULL, "a", SL_U8, 1, {1}}, "tensor name"},
      {{"\xff", "a", SL_U8, 1, {1}}, "tensor name"},
      {{"t", "a", SL_DTYPE_COUNT, 1, {1}}, "tensor \"t\": expected an element type"},
      {{"t", "a", SL_U8, 7, {1}}, "tensor \"t\": expected 0 to 6 dimensions, found 7"},
      {{"t", "a", SL_U8, -1, {1}}, "tensor \"t\": expected 0 to 6 dimensions"},
      {{"t", "a", SL_U8, 2, {1, -1}}, "tensor \"t\": shape[1]"},
      {{"t", "a", SL_F32, 2, {INT64_MAX / 4, 8}}, "tensor \"t\": shape[1]"},
      {{"t", NULL, SL_F32, 1, {1}}, "tensor \"t\": expected 4 bytes of data, found none"},
  };
  char *path = in_folder("refused.safetensors");
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    sl_tensor both[2] = {{"first", "a", SL_U8, 1, {1}}, rows[i].tensor};
    assert_int_equal(sl_safetensors_write(path, both, 2, NULL), SL_ERROR_ARGUMENT);
    assert_message("refused.safetensors: ");
    assert_message(rows[i].in_message);
  }
  static const char *const twice[] = {"k", "1", "k", "2", NULL};
  static const char *const odd[] = {"k", NULL}, *const bad[] = {"k", "\xff", NULL};
  assert_int_equal(sl_safetensors_write(path, written, 5, twice), SL_ERROR_ARGUMENT);
  assert_message("metadata key \"k\": expected once");
  assert_int_equal(sl_safetensors_write(path, written, 5, odd), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_safetensors_write(path, written, 5, bad), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_safetensors_write(path, written, -1, NULL), SL_ERROR_ARGUMENT);
  assert_int_equal(access(path, F_OK), -1);
  assert_int_equal(sl_safetensors_write(in_folder("no/such"), written, 5, NULL), SL_ERROR_FILE);
  assert_message("no/such: cannot write");
}

static void test_write_sweep(void **state) {
  (void)state;
  static const char *const metadata[] = {"k", "v", NULL};
  make_subfolder("atomic");
  write_file("atomic/kept.safetensors", HONEST, 27);
  json_set_alloc_funcs(jansson_malloc, free);
  for (int inside_jansson = 0; inside_jansson < 2; inside_jansson++) {
    for (long n = 1;; n++) {
      if (inside_jansson) jansson_until_failure = n;
      else sl_alloc_fail_at(n);
      sl_status status = sl_safetensors_write(in_folder("atomic/kept.safetensors"), written, 5, metadata);
      jansson_until_failure = 0;
      sl_alloc_fail_at(0);
      if (status == SL_OK) break;
      if (status != SL_ERROR_MEMORY) fail_msg("allocation %ld: %s", n, sl_error_message());
      int n_file = 0;
      DIR *dir = opendir(in_folder("atomic"));
      while (readdir(dir)) n_file++;
      closedir(dir);
      assert_int_equal(n_file, 3); /* with . and .. */
    }
  }
  json_set_alloc_funcs(malloc, free);
}

static void test_drop(void **state) {
  (void)state;
  enum { N = 1 << 20 };
  uint8_t *data = malloc(N);
  for (int i = 0; i < N; i++) data[i] = (uint8_t)(i * 7);
  sl_tensor tensors[] = {{"x", data, SL_U8, 1, {N}}, {"y", data, SL_U8, 1, {N}}};
  assert_int_equal(sl_safetensors_write(in_folder("drop.safetensors"), tensors, 2, NULL), SL_OK);
  sl_safetensors *file;
  assert_int_equal(sl_safetensors_open(&file, in_folder("drop.safetensors")), SL_OK);
  for (int i = 0; i < 2; i++) {
    const sl_tensor *tensor = sl_safetensors_at(file, i);
    assert_memory_equal(tensor->data, data, N);
    sl_safetensors_drop(file, tensor);
    assert_memory_equal(tensor->data, data, N); /* comes back from the file */
  }
  sl_safetensors_drop(file, &tensors[0]); /* not ours: nothing happens */
  assert_int_equal(data[100], (uint8_t)700);
  sl_safetensors_close(file);

  char *bytes;
  size_t n_bytes;
  assert_int_equal(sl_file_read(in_folder("drop.safetensors"), 4 * N, &bytes, &n_bytes), SL_OK);
  assert_int_equal(sl_safetensors_parse(&file, bytes, n_bytes, "memory"), SL_OK);
  sl_safetensors_drop(file, sl_safetensors_at(file, 0));
  assert_memory_equal(sl_safetensors_at(file, 0)->data, data, N); /* borrowed memory is left alone */
  sl_safetensors_close(file);
  free(bytes);
  free(data);
}

/* Data that is made while it is written: asked for in order, without gaps, in pieces that do not grow with the
 * tensor. */
typedef struct made {
  const sl_tensor *tensors;
  int64_t next[3];
  int fail_at, n_call;
} made;

static sl_status make_elements(void *user, const sl_tensor *tensor, int64_t first, int64_t count, void *out) {
  made *m = user;
  const int which = (int)(tensor - m->tensors);
  const size_t width = sl_dtype_size(tensor->dtype);
  if (++m->n_call == m->fail_at) return sl_fail(SL_ERROR_CANCELLED, "no more");
  assert_true(first == m->next[which] && count > 0 && (size_t)count * width <= 1 << 20);
  for (size_t i = 0; i < (size_t)count * width; i++)
    ((uint8_t *)out)[i] = (uint8_t)sl_rng_u64(7, (uint64_t)which, (uint64_t)first * width + i);
  m->next[which] += count;
  return SL_OK;
}

static void test_write_made(void **state) {
  (void)state;
  const sl_tensor tensors[] = {
      {"b", NULL, SL_BF16, 1, {1200000}}, {"f", NULL, SL_F32, 2, {3, 5}}, {"e", NULL, SL_U8, 1, {0}}};
  made m = {.tensors = tensors};
  char *path = in_folder("made.safetensors");
  assert_int_equal(sl_safetensors_write_made(path, tensors, 3, NULL, make_elements, &m), SL_OK);
  assert_int_equal(m.n_call, 4); /* 2.4 MB in three pieces, 60 bytes in one, nothing of nothing */
  sl_safetensors *file;
  assert_int_equal(sl_safetensors_open(&file, path), SL_OK);
  assert_int_equal(sl_safetensors_count(file), 3);
  for (uint64_t t = 0; t < 2; t++) {
    const uint8_t *data = sl_safetensors_find(file, tensors[t].name)->data;
    for (size_t i = 0; i < (t ? 60 : 2400000); i++)
      if (data[i] != (uint8_t)sl_rng_u64(7, t, i)) fail_msg("%s: byte %zu", tensors[t].name, i);
  }
  sl_safetensors_close(file);
  assert_int_equal(unlink(path), 0);
  m = (made){.tensors = tensors, .fail_at = 3};
  assert_int_equal(sl_safetensors_write_made(path, tensors, 3, NULL, make_elements, &m), SL_ERROR_CANCELLED);
  assert_message("no more");
  assert_int_not_equal(access(path, F_OK), 0);
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
      cmocka_unit_test(test_dtype),          cmocka_unit_test(test_f16),
      cmocka_unit_test(test_bf16),           cmocka_unit_test(test_read),
      cmocka_unit_test(test_lies),           cmocka_unit_test(test_lying_length),
      cmocka_unit_test(test_cut_and_changed), cmocka_unit_test(test_open_errors),
      cmocka_unit_test(test_folder),         cmocka_unit_test(test_lying_index),
      cmocka_unit_test(test_memory_sweep),   cmocka_unit_test(test_write),
      cmocka_unit_test(test_to_f16),         cmocka_unit_test(test_write_padding),
      cmocka_unit_test(test_write_refuses),  cmocka_unit_test(test_write_sweep),
      cmocka_unit_test(test_drop),           cmocka_unit_test(test_write_made),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
