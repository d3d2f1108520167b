/* tensor: PyTorch files. Those of torch.save must give the bits of safetensors; archives and pickles that lie must be
 * refused with a message that says what is wrong, and nothing of them may be executed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/rng.h"
#include "tensor/safetensors.h"
#include "torch_file.h"

#define GOLDEN SL_SOURCE_DIR "/tests/golden/torch/"

static void assert_message(const char *part) {
  if (!strstr(sl_error_message(), part)) fail_msg("expected \"%s\" in \"%s\"", part, sl_error_message());
}

static sl_safetensors *open_ok(const char *path) {
  sl_safetensors *file;
  if (sl_safetensors_open(&file, path) != SL_OK) fail_msg("%s", sl_error_message());
  return file;
}

/* ---- files of torch.save ---- */

static size_t n_bytes_of(const sl_tensor *tensor) {
  return (size_t)sl_tensor_count(tensor) * sl_dtype_size(tensor->dtype);
}

static void check_same(const char *path, const char *expected_path) {
  sl_safetensors *file = open_ok(path), *expected = open_ok(expected_path);
  assert_int_equal(sl_safetensors_count(file), sl_safetensors_count(expected));
  for (int i = 0; i < sl_safetensors_count(expected); i++) {
    const sl_tensor *want = sl_safetensors_at(expected, i), *found = sl_safetensors_find(file, want->name);
    if (!found) fail_msg("%s: tensor %s is missing", path, want->name);
    if (found->dtype != want->dtype || found->n_dim != want->n_dim) fail_msg("%s: another type", want->name);
    assert_memory_equal(found->shape, want->shape, (size_t)want->n_dim * sizeof *want->shape);
    if (n_bytes_of(want) && memcmp(found->data, want->data, n_bytes_of(want)) != 0)
      fail_msg("%s: other elements", want->name);
  }
  sl_safetensors_close(file);
  sl_safetensors_close(expected);
}

static void test_kinds(void **state) {
  (void)state;
  check_same(GOLDEN "kinds.bin", GOLDEN "kinds.safetensors");
}

static void test_sharded(void **state) {
  (void)state;
  check_same(GOLDEN "sharded", GOLDEN "sharded.safetensors");
  sl_safetensors *file = open_ok(GOLDEN "sharded");
  assert_string_equal(sl_safetensors_file_of(file, sl_safetensors_find(file, "second.bias")),
                      GOLDEN "sharded/pytorch_model-00002-of-00002.bin");
  sl_safetensors_close(file);
}

/* Views are mapped, so that dropping their pages is harmless; a transposed tensor is a copy, which must stay. */
static void test_drop(void **state) {
  (void)state;
  sl_safetensors *file = open_ok(GOLDEN "kinds.bin"), *expected = open_ok(GOLDEN "kinds.safetensors");
  for (int i = 0; i < sl_safetensors_count(file); i++) {
    const sl_tensor *tensor = sl_safetensors_at(file, i), *want = sl_safetensors_find(expected, tensor->name);
    sl_safetensors_drop(file, tensor);
    if (n_bytes_of(tensor)) assert_memory_equal(tensor->data, want->data, n_bytes_of(tensor));
  }
  sl_safetensors_close(file);
  sl_safetensors_close(expected);
}

static void test_refused(void **state) {
  (void)state;
  static const struct {
    const char *name, *in_message;
  } rows[] = {{"legacy.bin", "found the format of PyTorch before 1.6; if you trust the file, convert it in Python"},
              {"protocol4.bin", "expected protocol 2 (torch.save's own choice), found 4"},
              {"module.bin", "it asks for torch.nn.modules.linear.Linear"},
              {"uint16.bin", "it asks for torch.uint16"}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char path[512];
    sl_safetensors *file;
    snprintf(path, sizeof path, GOLDEN "%s", rows[i].name);
    assert_int_equal(sl_safetensors_open(&file, path), SL_ERROR_UNSUPPORTED);
    assert_message(path);
    assert_message(rows[i].in_message);
  }
}

/* The order in which a folder's files count. */
static void test_folder(void **state) {
  (void)state;
  static const char *const names[] = {"pytorch_model.bin", "model.safetensors"};
  static const char *const sources[] = {GOLDEN "kinds.bin", GOLDEN "sharded.safetensors"};
  static const int counts[] = {28, 5};
  char folder[] = "/tmp/sightline-test-torch-XXXXXX", path[128];
  assert_non_null(mkdtemp(folder));
  for (int i = 0; i < 2; i++) {
    char *bytes;
    size_t n_bytes;
    assert_int_equal(sl_file_read(sources[i], 1 << 20, &bytes, &n_bytes), SL_OK);
    snprintf(path, sizeof path, "%s/%s", folder, names[i]);
    assert_int_equal(sl_file_write(path, bytes, n_bytes), SL_OK);
    free(bytes);
    sl_safetensors *file = open_ok(folder);
    assert_int_equal(sl_safetensors_count(file), counts[i]);
    sl_safetensors_close(file);
  }
  for (int i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/%s", folder, names[i]);
    assert_int_equal(unlink(path), 0);
  }
  assert_int_equal(rmdir(folder), 0);
}

/* ---- pickles by hand ---- */

#define TEXT(length, text) "X" length "\0\0\0" text
#define KEY(c) TEXT("\1", c)
#define STORAGE(type, key, count) "(" TEXT("\7", "storage") "c" type "\n" KEY(key) TEXT("\3", "cpu") count "tQ"
#define FLOATS STORAGE("torch\nFloatStorage", "0", "K\6")
#define BUILD_TENSOR "ctorch._utils\n_rebuild_tensor_v2\n"
#define TENSOR(storage, offset, sizes, strides) BUILD_TENSOR "(" storage offset sizes strides "\x89}tR"
#define TWO(a, b) a b "\x86"
#define PICKLE(body) "\x80\2" body "."
#define ONE(tensor) PICKLE("}" KEY("a") tensor "s") /* {"a": tensor} */
#define SHAPED(sizes, strides) ONE(TENSOR(FLOATS, "K\0", sizes, strides))
#define HONEST SHAPED(TWO("K\2", "K\3"), TWO("K\3", "K\1"))
#define TYPED(storage, type) \
  ONE("ctorch._utils\n_rebuild_tensor_v3\n(" storage "K\0K\3\x85K\1\x85\x89}c" type "\ntR")

static const float floats[6] = {0, 1, 2, 3, 4, 5};

/* A file with this pickle and the storage "0" of six floats, in memory of exactly its size: ASan sees the first byte
 * too far. */
static char *make_file(const char *pickle, size_t n_pickle, size_t *n_bytes) {
  const zip_file files[] = {{.name = "m/data.pkl", .bytes = pickle, .n_bytes = n_pickle},
                            {.name = "m/data/0", .bytes = floats, .n_bytes = sizeof floats},
                            {.name = "m/version", .bytes = "3\n", .n_bytes = 2}};
  sl_text out = {0};
  put_archive(&out, files, 3, (zip_lie){0});
  char *exact = malloc(out.length);
  assert_non_null(exact);
  memcpy(exact, out.data, out.length);
  *n_bytes = out.length;
  sl_text_dispose(&out);
  return exact;
}

static sl_status parse_pickle(const char *pickle, size_t n_pickle, sl_safetensors **file, char **bytes) {
  size_t n_bytes;
  *bytes = make_file(pickle, n_pickle, &n_bytes);
  return sl_safetensors_parse(file, *bytes, n_bytes, "dir/liar.bin");
}

static void test_honest(void **state) {
  (void)state;
  sl_safetensors *file;
  char *bytes;
  if (parse_pickle(HONEST, sizeof HONEST - 1, &file, &bytes) != SL_OK) fail_msg("%s", sl_error_message());
  const sl_tensor *a = sl_safetensors_find(file, "a");
  assert_true(a->dtype == SL_F32 && a->n_dim == 2 && a->shape[0] == 2 && a->shape[1] == 3);
  assert_memory_equal(a->data, floats, sizeof floats);
  assert_true((const char *)a->data > bytes); /* a view */
  sl_safetensors_close(file);
  free(bytes);
}

/* Newer forms: an untyped storage counts bytes, and the type comes with the tensor. */
static void test_typed(void **state) {
  (void)state;
  static const char pickle[] = TYPED(STORAGE("torch.storage\nUntypedStorage", "0", "K\x18"), "torch\nbfloat16");
  sl_safetensors *file;
  char *bytes;
  if (parse_pickle(pickle, sizeof pickle - 1, &file, &bytes) != SL_OK) fail_msg("%s", sl_error_message());
  const sl_tensor *a = sl_safetensors_find(file, "a");
  assert_true(a->dtype == SL_BF16 && a->n_dim == 1 && a->shape[0] == 3);
  assert_memory_equal(a->data, floats, 6);
  sl_safetensors_close(file);
  free(bytes);
}

#define F SL_ERROR_FORMAT
#define U SL_ERROR_UNSUPPORTED
#define LIE(status, pickle, message) {status, pickle, sizeof pickle - 1, message}
#define LONG_8(bytes) "\x8a\x08" bytes
#define OFFSET(n) ONE(TENSOR(FLOATS, n, "K\2\x85", "K\1\x85"))

static const struct lie {
  sl_status status;
  const char *pickle;
  size_t n_pickle;
  const char *in_message;
} lies[] = {
    /* code */
    LIE(U, PICKLE("cos\nsystem\n" TEXT("\4", "true") "\x85R"), "byte 2: it asks for os.system, which is not among"),
    LIE(U, PICKLE("cposix\nsystem\n" TEXT("\4", "true") "\x85R"), "it asks for posix.system"),
    LIE(U, PICKLE("cbuiltins\neval\n" TEXT("\1", "1") "\x85R"), "it asks for builtins.eval"),
    LIE(U, PICKLE("ctorch\nload\n" TEXT("\1", "1") "\x85R"), "it asks for torch.load"),
    LIE(U, PICKLE("ctorch._utils\n_rebuild_tensor_v2x\n"), "torch._utils._rebuild_tensor_v2x"),
    LIE(U, PICKLE("ctorch._utils.\n_rebuild_tensor_v2\n"), "torch._utils.._rebuild_tensor_v2"),
    LIE(U, PICKLE("cos\x1b[2J\nsystem\n"), "it asks for os?[2J.system"),
    LIE(U, PICKLE("(" TEXT("\4", "true") "ios\nsystem\n"), "byte 12: expected an opcode that torch.save writes"),
    LIE(U, PICKLE(TEXT("\2", "os") TEXT("\6", "system") "\x93"), "found STACK_GLOBAL (0x93)"),
    LIE(U, PICKLE("ccollections\nOrderedDict\n)\x81"), "found NEWOBJ (0x81)"),
    LIE(U, PICKLE("(ccollections\nOrderedDict\no"), "found OBJ (0x6f)"),
    LIE(U, PICKLE("\x82\1"), "found EXT1 (0x82)"),
    LIE(U, PICKLE("P0\n"), "found PERSID (0x50)"),
    LIE(U, PICKLE("\xff"), "found an unknown one (0xff)"),
    LIE(F, PICKLE("ctorch\nFloatStorage\n)R"), "expected a function that rebuilds tensors, found FloatStorage"),
    LIE(F, PICKLE(TEXT("\2", "os") ")R"), "expected a global, found text"),
    LIE(F, PICKLE("ccollections\nOrderedDict\n]\x85R"), "OrderedDict: expected 0 to 0 parts, found 1"),
    /* the machine */
    LIE(F, "", "pickle, byte 0: expected its protocol first"),
    LIE(F, "}.", "pickle, byte 0: expected its protocol first"),
    LIE(F, "\x80", "an opcode with all of its bytes, found the end"),
    LIE(U, "\x80\4}.", "expected protocol 2"),
    LIE(F, "\x80\2}", "byte 3: expected an opcode, found the end of the pickle"),
    LIE(F, PICKLE(""), "byte 2: expected a value on the stack, found none"),
    LIE(F, PICKLE("(\x85"), "expected a value on the stack"),
    LIE(F, PICKLE("(e"), "byte 3: expected a value on the stack"),
    LIE(F, PICKLE("}(\x85"), "byte 4: expected a value on the stack"), /* not through the mark */
    LIE(F, PICKLE("t"), "expected a mark on the stack"),
    LIE(F, PICKLE("}u"), "expected a mark on the stack"),
    LIE(F, PICKLE("](" KEY("a") "Nu"), "expected a dictionary, found a list"),
    LIE(F, PICKLE("}" KEY("a") "a"), "expected a list, found a dictionary"),
    LIE(F, PICKLE("}(" KEY("a") "u"), "expected as many values as keys"),
    LIE(F, PICKLE("}K\1Ns"), "expected text as a dictionary's key, found an integer"),
    LIE(F, PICKLE(")Nb"), "expected a dictionary, found a tuple"),
    LIE(F, PICKLE("}q\1"), "expected the memo's next place, found a later one"),
    LIE(F, PICKLE("}r\xff\xff\xff\xff"), "expected the memo's next place"),
    LIE(F, PICKLE("h\0"), "expected a place of the memo that was filled"),
    LIE(F, PICKLE("j\0\0\0\x80"), "expected a place of the memo that was filled"),
    LIE(F, PICKLE("X\xff\xff\xff\xff" "abc"), "expected an opcode with all of its bytes"),
    LIE(F, PICKLE("cos"), "expected a name that ends with a line break"),
    LIE(F, PICKLE("\x8a\x09" "123456789"), "expected an integer of at most 8 bytes"),
    LIE(F, PICKLE("G123456"), "expected an opcode with all of its bytes"),
    /* storages */
    LIE(F, ONE("NQ"), "expected a tuple, found None"),
    LIE(F, ONE("K\1K\1\x86Q"), "persistent id: expected 5 to 5 parts, found 2"),
    LIE(F, ONE("(" TEXT("\7", "storage") "Nq\0h\0h\0h\0h\0tQ"), "persistent id: expected 5 to 5 parts, found 6"),
    LIE(F, ONE("(" TEXT("\7", "storage") "NNNNtQ"), "persistent id: part 1: expected a global, found None"),
    LIE(F, ONE("(" TEXT("\6", "module") "ctorch\nFloatStorage\n" KEY("0") KEY("c") "K\6tQ"),
        "expected the id of a storage"),
    LIE(F, ONE(STORAGE("torch\nfloat32", "0", "K\6")), "expected a storage type, found float32"),
    LIE(F, ONE(TENSOR(STORAGE("torch\nFloatStorage", "9", "K\6"), "K\0", ")", ")")), "expected its storage in the"),
    LIE(F, ONE(TENSOR(STORAGE("torch\nFloatStorage", "0", "K\7"), "K\0", ")", ")")),
        "tensor \"a\": expected a storage of 7 elements of 4 bytes, found 24 bytes"),
    LIE(F, ONE(TENSOR(STORAGE("torch\nHalfStorage", "0", "K\6"), "K\0", ")", ")")), "6 elements of 2 bytes, found 24"),
    LIE(F, ONE(TENSOR(STORAGE("torch\nFloatStorage", "0", "J\xfa\xff\xff\xff"), "K\0", ")", ")")), "of -6 elements"),
    LIE(F, ONE(TENSOR(STORAGE("torch\nFloatStorage", "0", LONG_8("\6\0\0\0\0\0\0\x40")), "K\0", ")", ")")),
        "of 4611686018427387910 elements"),
    /* tensors */
    LIE(F, ONE(BUILD_TENSOR FLOATS "\x85R"), "_rebuild_tensor_v2: expected 6 to 7 parts, found 1"),
    LIE(F, ONE(TENSOR("N", "K\0", ")", ")")), "_rebuild_tensor_v2: part 0: expected a storage, found None"),
    LIE(F, ONE(TENSOR(FLOATS, "N", ")", ")")), "part 1: expected an integer, found None"),
    LIE(F, ONE(TENSOR(FLOATS, "K\0", "]", ")")), "part 2: expected a tuple, found a list"),
    LIE(F, ONE(TENSOR(STORAGE("torch.storage\nUntypedStorage", "0", "K\x18"), "K\0", ")", ")")), "an untyped storage"),
    LIE(F, TYPED(FLOATS, "torch\nbfloat16"), "expected a tensor with one element type, found two"),
    LIE(F, TYPED(STORAGE("torch.storage\nUntypedStorage", "0", "K\x18"), "torch\nFloatStorage"), "with one element"),
    LIE(F, TYPED(STORAGE("torch.storage\nUntypedStorage", "0", "K\x17"), "torch\nbool"), "of 23 elements of 1 bytes"),
    LIE(F, ONE("ctorch._utils\n_rebuild_parameter\nN\x88}\x87R"), "_rebuild_parameter: part 0: expected a tensor"),
    LIE(F, SHAPED("K\2\x85", "K\3K\1\x86"), "tensor \"a\": expected as many strides as sizes"),
    LIE(U, SHAPED("(K\1K\1K\1K\1K\1K\1K\1t", "(K\1K\1K\1K\1K\1K\1K\1t"), "expected at most 6 dimensions, found 7"),
    LIE(F, SHAPED("N\x85", "K\1\x85"), "expected sizes and strides of 0 or more"),
    LIE(F, SHAPED("J\xff\xff\xff\xff\x85", "K\1\x85"), "expected sizes and strides of 0 or more"),
    LIE(F, SHAPED("K\2\x85", "J\xff\xff\xff\xff\x85"), "expected sizes and strides of 0 or more"),
    LIE(F, SHAPED("\x8a\5\0\0\0\0\1\x8a\5\0\0\0\0\1\x86", "K\0K\0\x86"), "expected a size below 2^63 bytes"),
    LIE(F, SHAPED("K\7\x85", "K\1\x85"), "expected its elements among the 6 of its storage, found some outside"),
    LIE(F, SHAPED(TWO("K\2", "K\3"), TWO("K\4", "K\1")), "among the 6 of its storage"),
    LIE(F, SHAPED("K\2\x85", "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85"), "among the 6 of its storage"),
    LIE(F, OFFSET("K\5"), "among the 6 of its storage"),
    LIE(F, OFFSET("J\xff\xff\xff\xff"), "among the 6 of its storage"),
    LIE(F, OFFSET(LONG_8("\xff\xff\xff\xff\xff\xff\xff\x7f")), "among the 6 of its storage"),
    LIE(F, ONE(TENSOR(FLOATS, "K\7", "K\0\x85", "K\1\x85")), "among the 6 of its storage"), /* empty, and outside */
    LIE(U, SHAPED(TWO("K\2", "J\0\0\0\1"), TWO("K\0", "K\0")), "strides that repeat elements beyond the file's size"),
    /* the tree */
    LIE(F, PICKLE("N"), "expected a dictionary of tensors, found None"),
    LIE(F, PICKLE(TENSOR(FLOATS, "K\0", ")", ")")), "expected a dictionary of tensors, found a tensor"),
    LIE(F, PICKLE("}"), "expected tensors in its dictionary, found none"),
    LIE(F, PICKLE("}q\0" KEY("a") "h\0s"), "dictionary \"a\": expected in one place, found in two"),
    LIE(F, PICKLE("}(" KEY("a") "}q\0" KEY("b") "h\0u"), "dictionary \"b\": expected in one place"),
    LIE(F, PICKLE("}(" KEY("a") TENSOR(FLOATS, "K\0", ")", ")") "q\0" KEY("a") "h\0u"), "\"a\": expected in one file"),
    LIE(F, PICKLE("}" TEXT("\2", "a\0") TENSOR(FLOATS, "K\0", ")", ")") "s"), "expected UTF-8 without NUL"),
    LIE(F, PICKLE("}" TEXT("\2", "a\xc3") TENSOR(FLOATS, "K\0", ")", ")") "s"), "expected UTF-8 without NUL"),
};

static void expect_lie(const char *pickle, size_t n_pickle, sl_status status, const char *in_message) {
  char *bytes;
  sl_safetensors *file;
  const sl_status found = parse_pickle(pickle, n_pickle, &file, &bytes);
  if (found != status) fail_msg("%s: %s (%s)", in_message, sl_status_name(found), sl_error_message());
  assert_null(file);
  assert_message("dir/liar.bin: ");
  assert_message(in_message);
  free(bytes);
}

static void test_lying_pickles(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof lies / sizeof *lies; i++)
    expect_lie(lies[i].pickle, lies[i].n_pickle, lies[i].status, lies[i].in_message);
}

/* `before`, n times `part`, `after`. */
static void expect_many(const char *part, size_t n_part, size_t n, const char *after, sl_status status,
                        const char *in_message) {
  sl_text pickle = {0};
  put_bytes(&pickle, "\x80\2}q\0", 5);
  for (size_t i = 0; i < n; i++) put_bytes(&pickle, part, n_part);
  put_bytes(&pickle, after, strlen(after));
  expect_lie(pickle.data, pickle.length, status, in_message);
  sl_text_dispose(&pickle);
}

/* What would exhaust memory, stack or time if it were taken at its word. */
static void test_bombs(void **state) {
  (void)state;
  static const char nest[] = KEY("a") "}";
  sl_text deep = {0}; /* dictionaries inside each other, closed again */
  put_bytes(&deep, "\x80\2}", 3);
  for (int i = 0; i < 40; i++) put_bytes(&deep, nest, sizeof nest - 1);
  for (int i = 0; i < 40; i++) put_bytes(&deep, "s", 1);
  put_bytes(&deep, ".", 1);
  expect_lie(deep.data, deep.length, F, "expected at most 16 dictionaries inside each other");
  sl_text_dispose(&deep);
  expect_many(nest, sizeof nest - 1, 100000, ".", F, "expected at most 65536 values on its stack");
  expect_many("(", 1, 300, ".", F, "expected at most 256 tuples inside each other");
  expect_many("(", 1, 100, "NNNNN.", F, "expected a dictionary of tensors"); /* marks left over are Python's ways too */
  expect_many("q\0", 2, 1 << 22, ".", U, "expected at most 4194304 opcodes");
  sl_text name = {0};
  put_bytes(&name, "\x80\2}X\x88\x13\0\0", 8);
  for (int i = 0; i < 5000; i++) put(&name, 'n', 1);
  put_bytes(&name, TENSOR(FLOATS, "K\0", ")", ")") "s.", sizeof(TENSOR(FLOATS, "K\0", ")", ")") "s.") - 1);
  expect_lie(name.data, name.length, F, "tensor name: expected at most 4096 bytes");
  sl_text_dispose(&name);
}

/* ---- archives ---- */

#define PKL {.name = "m/data.pkl", .bytes = HONEST, .n_bytes = sizeof HONEST - 1}
#define DATA .name = "m/data/0", .bytes = floats, .n_bytes = sizeof floats

static const struct archive {
  sl_status status;
  zip_file files[3];
  zip_lie lie;
  const char *in_message;
} archives[] = {
    {SL_OK, {PKL, {DATA}}, {.comment = "PK\5\6 is no end"}, ""},
    {SL_OK, {PKL, {DATA, .sizes_64 = true}}, {0}, ""},
    {SL_OK, {PKL, {DATA}}, {.end_64 = true}, ""},
    {SL_OK, {PKL, {DATA}, {.name = "m/byteorder", .bytes = "little", .n_bytes = 6}}, {0}, ""},
    {U, {PKL, {DATA}, {.name = "m/byteorder", .bytes = "big", .n_bytes = 3}}, {0}, "byte order: expected little"},
    {F, {{.name = "m/constants.pkl", .bytes = ".", .n_bytes = 1}}, {0}, "expected data.pkl in the archive"},
    {F, {{.name = "data.pkl/x", .bytes = ".", .n_bytes = 1}}, {0}, "expected data.pkl in the archive"},
    {U, {PKL, {DATA, .method = 8}}, {0}, "file \"m/data/0\" in the archive: expected no compression"},
    {U, {PKL, {DATA, .flags = 1}}, {0}, "\"m/data/0\" in the archive: expected plain content, found encryption"},
    {U, {PKL, {DATA, .flags = 0x2000}}, {0}, "found encryption"},
    {F, {PKL, {DATA, .local_name = "m/data/1"}}, {0}, "expected the same name in its header, found another"},
    {F, {PKL, {DATA, .move = 1}}, {0}, "expected a header where the directory says, found none"},
    {F, {PKL, {DATA, .move = 1 << 30}}, {0}, "expected a header where the directory says"},
    {F, {PKL, {DATA, .move = INT64_MAX, .sizes_64 = true}}, {0}, "expected a header where the directory says"},
    {F, {{.name = "m/data.pkl", .bytes = HONEST, .n_bytes = sizeof HONEST - 1, .lie_size = sizeof HONEST + 8}, {DATA}},
     {0},
     "file \"m/data/0\" in the archive: expected to begin behind the file before it, found an overlap"},
    {F, {PKL, {DATA, .lie_size = 25}}, {0}, "expected to end before the directory begins"},
    {F, {PKL, {DATA, .lie_size = 0xFFFFFFFE}}, {0}, "expected to end before the directory begins"},
    {F, {PKL, {DATA, .lie_size = UINT32_MAX}}, {0}, "expected its 64-bit sizes in the extra field, found none"},
    {F, {PKL, {DATA, .lie_stored = 23}}, {0}, "expected two equal sizes"},
    {F, {PKL, {DATA, .lie_size = 20}}, {0}, "expected a storage of 6 elements of 4 bytes, found 20 bytes"},
    {F, {PKL, {DATA}, {DATA}}, {0}, "file \"m/data/0\" in the archive: expected once, found twice"},
    {F, {PKL, {DATA}}, {.n_entry = 1}, "expected at most 2 files in"},
    {F, {PKL, {DATA}}, {.n_entry = -1}, "expected 1 files, found more bytes behind them"},
    {F, {PKL, {DATA}}, {.n_entry = 60000}, "expected at most 2 files in"},
    {F, {PKL, {DATA}}, {.n_entry = INT64_MAX - 2, .end_64 = true}, "expected at most 2 files in"},
    {F, {PKL, {DATA}}, {.directory_bytes = -1}, "ZIP directory: expected to end at byte"},
    {F, {PKL, {DATA}}, {.directory_at = 1}, "ZIP directory: expected to end at byte"},
    {F, {PKL, {DATA}}, {.directory_at = 1, .directory_bytes = -1}, "expected an entry at byte"},
    {F, {PKL, {DATA}}, {.directory_at = -2, .directory_bytes = 2}, "expected an entry at byte"},
    {F, {PKL, {DATA}}, {.end_64 = true, .end_64_at = 1}, "expected a 64-bit ZIP end record at byte"},
    {F, {PKL, {DATA}}, {.end_64 = true, .end_64_at = INT64_MAX - 1}, "expected a 64-bit ZIP end record at byte"},
    {U, {PKL, {DATA}}, {.disk = 1}, "expected a ZIP file of one part"},
    {U, {PKL, {DATA}}, {.end_64 = true, .disk = 1}, "expected a ZIP file of one part"},
};

static void test_archives(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof archives / sizeof *archives; i++) {
    const struct archive *row = &archives[i];
    sl_text out = {0};
    int n_file = 0;
    while (n_file < 3 && row->files[n_file].name) n_file++;
    put_archive(&out, row->files, n_file, row->lie);
    char *exact = malloc(out.length);
    memcpy(exact, out.data, out.length);
    sl_safetensors *file;
    const sl_status found = sl_safetensors_parse(&file, exact, out.length, "dir/liar.bin");
    if (found != row->status)
      fail_msg("%zu, %s: %s (%s)", i, row->in_message, sl_status_name(found), sl_error_message());
    if (found) assert_message(row->in_message);
    if (found) assert_message("dir/liar.bin: ");
    if (!found) assert_memory_equal(sl_safetensors_find(file, "a")->data, floats, sizeof floats);
    sl_safetensors_close(file);
    sl_text_dispose(&out);
    free(exact);
  }
}

static void test_pointer(void **state) {
  (void)state;
  static const char text[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
  sl_safetensors *file;
  assert_int_equal(sl_safetensors_parse(&file, text, sizeof text - 1, "m.bin"), F);
  assert_message("m.bin: expected weights, found a Git LFS pointer");
  assert_int_equal(sl_safetensors_parse(&file, "", 0, "m.bin"), F);
  assert_message("m.bin: expected a ZIP file");
}

/* Every prefix of an honest file is refused, and no changed byte may crash. */
static void test_cut_and_changed(void **state) {
  (void)state;
  char *bytes;
  size_t n_bytes;
  assert_int_equal(sl_file_read(GOLDEN "kinds.bin", 1 << 20, &bytes, &n_bytes), SL_OK);
  sl_safetensors *file;
  for (size_t n = 0; n < n_bytes; n += n < n_bytes - 300 ? 41 : 1) {
    char *cut = malloc(n ? n : 1);
    memcpy(cut, bytes, n);
    assert_int_not_equal(sl_safetensors_parse(&file, cut, n, "cut.bin"), SL_OK);
    assert_message("cut.bin: ");
    free(cut);
  }
  char *exact = malloc(n_bytes);
  for (uint64_t i = 0; i < 8000; i++) {
    memcpy(exact, bytes, n_bytes);
    exact[sl_rng_u64(1, 0, i) % n_bytes] = (char)sl_rng_u64(1, 1, i);
    if (sl_safetensors_parse(&file, exact, n_bytes, "changed.bin") == SL_OK) sl_safetensors_close(file);
  }
  free(exact);
  free(bytes);
}

/* Wherever memory runs out, the status says so, and nothing leaks. */
static void test_memory_sweep(void **state) {
  (void)state;
  sl_status status = SL_ERROR_MEMORY;
  long n = 0;
  while (status == SL_ERROR_MEMORY) {
    sl_safetensors *file;
    sl_alloc_fail_at(++n);
    status = sl_safetensors_open(&file, GOLDEN "kinds.bin");
    sl_alloc_fail_at(0);
    if (status == SL_OK) sl_safetensors_close(file);
    else assert_null(file);
  }
  assert_int_equal(status, SL_OK);
  assert_true(n > 100);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_kinds),          cmocka_unit_test(test_sharded),
      cmocka_unit_test(test_drop),           cmocka_unit_test(test_refused),
      cmocka_unit_test(test_folder),         cmocka_unit_test(test_honest),
      cmocka_unit_test(test_typed),          cmocka_unit_test(test_lying_pickles),
      cmocka_unit_test(test_bombs),          cmocka_unit_test(test_archives),
      cmocka_unit_test(test_pointer),        cmocka_unit_test(test_cut_and_changed),
      cmocka_unit_test(test_memory_sweep),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
