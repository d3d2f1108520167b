/* The safetensors writer: what it writes is read again, what it refuses, files that are made piece by piece. */
#include "tensor_folder.h"

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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_write),
      cmocka_unit_test(test_write_padding),
      cmocka_unit_test(test_write_refuses),
      cmocka_unit_test(test_write_sweep),
      cmocka_unit_test(test_drop),
      cmocka_unit_test(test_write_made),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
