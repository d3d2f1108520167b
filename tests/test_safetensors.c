/* tensor: element types, and the safetensors reader against honest and lying files. */
#include "tensor_folder.h"

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

/* ---- reading ---- */

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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_dtype),          cmocka_unit_test(test_f16),
      cmocka_unit_test(test_bf16),           cmocka_unit_test(test_read),
      cmocka_unit_test(test_lies),           cmocka_unit_test(test_lying_length),
      cmocka_unit_test(test_cut_and_changed), cmocka_unit_test(test_open_errors),
      cmocka_unit_test(test_folder),         cmocka_unit_test(test_lying_index),
      cmocka_unit_test(test_memory_sweep),
      cmocka_unit_test(test_to_f16),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
