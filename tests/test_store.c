/* Run directories: what is written comes back; nothing half-written is ever visible; damage is told. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/text.h"
#include "store/folder.h"
#include "store/run.h"

static char parent[64];

static int setup(void **state) {
  (void)state;
  strcpy(parent, "/tmp/test_store_XXXXXX");
  return mkdtemp(parent) ? 0 : 1;
}

static int teardown(void **state) {
  (void)state;
  sl_folder_remove(parent);
  return 0;
}

static const char *in_parent(const char *name) {
  static char path[4][256];
  static int turn;
  turn = (turn + 1) % 4;
  snprintf(path[turn], sizeof path[0], "%s/%s", parent, name);
  return path[turn];
}

static int count_entries(const char *dir) {
  DIR *listing = opendir(dir);
  assert_non_null(listing);
  int count = 0;
  for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
    count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
  }
  closedir(listing);
  return count;
}

static void assert_message(const char *part) {
  if (!strstr(sl_error_message(), part)) fail_msg("message \"%s\" does not hold \"%s\"", sl_error_message(), part);
}

static const float share[3 * 1 * 5] = {.1f, .5f, 0, .4f, 0, .6f, .1f, 0, .3f, 0, .8f, .01f, 0, .19f, 0};
static const uint8_t png_bytes[] = "\x89PNG\r\n\x1a\nrest";

static sl_run *new_run(const char *name, bool force) {
  sl_run *run;
  assert_int_equal(sl_run_new(&run, in_parent(name), force), SL_OK);
  json_object_set_new(sl_run_json(run), "sightline", json_string("0.1.0"));
  return run;
}

static void write_run(const char *name, bool force) {
  sl_run *run = new_run(name, force);
  assert_int_equal(sl_run_put(run, "flow.share", SL_F32, 3, (int64_t[]){3, 1, 5}, share), SL_OK);
  assert_int_equal(sl_run_put(run, "cam.defined", SL_U8, 1, (int64_t[]){3}, "\1\1\0"), SL_OK);
  assert_int_equal(sl_run_put_picture(run, "input", png_bytes, sizeof png_bytes), SL_OK);
  assert_int_equal(sl_run_commit(run), SL_OK);
  sl_run_free(run);
}

static void test_round_trip(void **state) {
  (void)state;
  write_run("run", false);
  assert_int_equal(count_entries(parent), 1);
  sl_run_reader *reader;
  assert_int_equal(sl_run_open(&reader, in_parent("run")), SL_OK);
  const sl_tensor *tensor;
  assert_int_equal(sl_run_get(reader, "flow.share", &tensor), SL_OK);
  assert_int_equal(tensor->shape[2], 5);
  assert_memory_equal(tensor->data, share, sizeof share);
  assert_int_equal(((const uint8_t *)sl_run_find(reader, "cam.defined")->data)[2], 0);
  assert_null(sl_run_find(reader, "cam.heat"));
  assert_int_equal(sl_run_get(reader, "cam.heat", &tensor), SL_ERROR_ARGUMENT);
  assert_message("cam.heat");
  int64_t n_layer = 0;
  assert_true(sl_run_symbol(reader, "L", &n_layer));
  assert_int_equal(n_layer, 3);
  assert_false(sl_run_symbol(reader, "H", &n_layer));
  assert_int_equal(json_integer_value(json_object_get(sl_run_root(reader), "schema")), 1);
  char *png;
  size_t n_bytes;
  assert_int_equal(sl_run_picture(reader, "input", &png, &n_bytes), SL_OK);
  assert_int_equal(n_bytes, sizeof png_bytes);
  free(png);
  assert_false(sl_run_has_picture(reader, "mask"));
  assert_int_equal(sl_run_picture(reader, "mask", &png, &n_bytes), SL_ERROR_FILE);
  sl_run_close(reader);
}

static void test_existing_folders(void **state) {
  (void)state;
  sl_run *run;
  write_run("run", false);
  assert_int_equal(sl_run_new(&run, in_parent("run"), false), SL_ERROR_ARGUMENT);
  assert_null(run);
  assert_message("already exists");
  write_run("run", true);
  write_run("run///", true);
  assert_int_equal(count_entries(parent), 1);

  assert_int_equal(mkdir(in_parent("empty"), 0777), 0); /* as from mktemp -d */
  write_run("empty", false);

  assert_int_equal(mkdir(in_parent("home"), 0777), 0);
  assert_int_equal(sl_file_write(in_parent("home/letter"), "dear", 4), SL_OK);
  assert_int_equal(sl_run_new(&run, in_parent("home"), true), SL_ERROR_ARGUMENT); /* --force --out ~ */
  assert_message("no run.json");
  assert_int_equal(count_entries(in_parent("home")), 1);

  assert_int_equal(sl_run_new(&run, in_parent("home/letter"), true), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_run_new(&run, in_parent("nowhere/run"), false), SL_ERROR_FILE);
  assert_message("nowhere");
  assert_int_equal(sl_run_new(&run, "/", true), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_run_new(&run, "..", true), SL_ERROR_ARGUMENT);
}

/* A finished run survives until its replacement is complete. */
static void test_force_keeps_old_until_commit(void **state) {
  (void)state;
  write_run("run", false);
  sl_run *run = new_run("run", true);
  sl_run_reader *reader;
  assert_int_equal(sl_run_open(&reader, in_parent("run")), SL_OK);
  sl_run_close(reader);
  sl_run_free(run); /* abandoned */
  assert_int_equal(sl_run_open(&reader, in_parent("run")), SL_OK);
  sl_run_close(reader);
  assert_int_equal(count_entries(parent), 1);
}

static void test_abandoned_and_failed_leave_nothing(void **state) {
  (void)state;
  sl_run *run = new_run("run", false);
  assert_int_equal(sl_run_put(run, "flow.share", SL_F32, 3, (int64_t[]){3, 1, 5}, share), SL_OK);
  sl_run_free(run);
  assert_int_equal(count_entries(parent), 0);

  assert_int_equal(sl_run_new(&run, in_parent("run"), false), SL_OK);
  assert_int_equal(sl_run_commit(run), SL_ERROR_ARGUMENT); /* no version filled in */
  assert_message("sightline");
  assert_int_equal(sl_run_commit(run), SL_ERROR_ARGUMENT);
  sl_run_free(run);
  assert_int_equal(count_entries(parent), 0);
}

/* Whichever allocation fails, a commit is whole or leaves nothing. */
static void test_out_of_memory(void **state) {
  (void)state;
  bool finished = false;
  for (long n = 1; !finished && n < 400; n++) {
    sl_run *run = NULL;
    sl_alloc_fail_at(n);
    sl_status status = sl_run_new(&run, in_parent("run"), true);
    if (status == SL_OK) {
      json_object_set_new(sl_run_json(run), "sightline", json_string("0"));
      status = sl_run_put(run, "flow.share", SL_F32, 3, (int64_t[]){3, 1, 5}, share);
    }
    if (status == SL_OK) status = sl_run_put_picture(run, "input", png_bytes, sizeof png_bytes);
    if (status == SL_OK) status = sl_run_commit(run);
    sl_alloc_fail_at(0);
    sl_run_free(run);
    finished = status == SL_OK;
    assert_int_equal(count_entries(parent), finished ? 1 : 0);
  }
  assert_true(finished);
}

static void test_schema_is_enforced(void **state) {
  (void)state;
  sl_run *run = new_run("run", false);
  assert_int_equal(sl_run_put(run, "flow.nonsense", SL_F32, 1, (int64_t[]){1}, share), SL_ERROR_ARGUMENT);
  assert_message("flow.nonsense");
  assert_int_equal(sl_run_put(run, "flow.share", SL_U8, 3, (int64_t[]){3, 1, 5}, share), SL_ERROR_ARGUMENT);
  assert_message("expected f32 [L,Q,5], found u8 [3, 1, 5]");
  assert_int_equal(sl_run_put(run, "flow.share", SL_F32, 3, (int64_t[]){3, 1, 4}, share), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_run_put(run, "flow.share", SL_F32, 2, (int64_t[]){3, 5}, share), SL_ERROR_ARGUMENT);
  /* None of the failures above has bound L. */
  assert_int_equal(sl_run_put(run, "flow.share", SL_F32, 3, (int64_t[]){3, 1, 5}, share), SL_OK);
  assert_int_equal(sl_run_put(run, "flow.share", SL_F32, 3, (int64_t[]){3, 1, 5}, share), SL_ERROR_ARGUMENT);
  assert_message("twice");
  assert_int_equal(sl_run_put(run, "cam.mass", SL_F32, 1, (int64_t[]){4}, share), SL_ERROR_ARGUMENT);
  assert_message("L = 3 (from flow.share)");
  assert_int_equal(sl_run_put(run, "cam.heat", SL_F32, 4, (int64_t[]){3, 1, 1, 2}, share), SL_OK);
  assert_int_equal(sl_run_put(run, "site/blocks.0.hook_resid_pre", SL_BF16, 2, (int64_t[]){2, 3}, share), SL_OK);
  assert_int_equal(sl_run_put(run, "site/", SL_F32, 1, (int64_t[]){1}, share), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_run_put(run, "logits.all", SL_F32, 2, (int64_t[]){-1, 3}, share), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_run_put_picture(run, "../escape", png_bytes, sizeof png_bytes), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_run_put_picture(run, "text", "hello", 5), SL_ERROR_ARGUMENT);
  assert_int_equal(sl_run_put_picture(run, "a", png_bytes, sizeof png_bytes), SL_OK);
  assert_int_equal(sl_run_put_picture(run, "a", png_bytes, sizeof png_bytes), SL_ERROR_ARGUMENT);
  sl_run_free(run);
}

/* Expressions: deferred while a symbol is unknown, checked once it is known. */
static void test_shape_expressions(void **state) {
  (void)state;
  sl_result sweep = {"x.sweep", SL_F32, "L+1", NULL, "", ""}, masks = {"x.masks", SL_F32, "M,L*H", NULL, "", ""};
  sl_result heads = {"x.heads", SL_F32, "L,H", NULL, "", ""};
  sl_tensor seven = {.name = "x.sweep", .dtype = SL_F32, .n_dim = 1, .shape = {7}};
  sl_tensor flat = {.name = "x.masks", .dtype = SL_F32, .n_dim = 2, .shape = {9, 24}};
  sl_tensor table = {.name = "x.heads", .dtype = SL_F32, .n_dim = 2, .shape = {6, 4}};
  sl_symbols symbols = {0};
  assert_int_equal(sl_result_check(&sweep, &seven, &symbols, SL_ERROR_FORMAT, NULL), SL_OK);
  assert_int_equal(symbols.count, 0);
  assert_int_equal(sl_result_check(&heads, &table, &symbols, SL_ERROR_FORMAT, NULL), SL_OK);
  assert_int_equal(sl_result_check(&sweep, &seven, &symbols, SL_ERROR_FORMAT, NULL), SL_OK);
  assert_int_equal(sl_result_check(&masks, &flat, &symbols, SL_ERROR_FORMAT, NULL), SL_OK);
  flat.shape[1] = 23;
  assert_int_equal(sl_result_check(&masks, &flat, &symbols, SL_ERROR_FORMAT, "f"), SL_ERROR_FORMAT);
  assert_message("f: result x.masks: expected f32 [M,L*H], found f32 [9, 23]");
}

static void test_table_is_sound(void **state) {
  (void)state;
  for (int i = 0; i < sl_result_count; i++) {
    assert_non_null(sl_results[i].unit);
    assert_true(strlen(sl_results[i].meaning) > 3);
    for (int j = 0; j < i; j++) assert_string_not_equal(sl_results[i].name, sl_results[j].name);
    char name[64];
    snprintf(name, sizeof name, "%s", sl_results[i].name);
    assert_ptr_equal(sl_result_find(name), &sl_results[i]);
  }
}

static void damage(const char *file, const char *bytes, size_t n_bytes) {
  char name[64];
  snprintf(name, sizeof name, "run/%s", file);
  assert_int_equal(sl_file_write(in_parent(name), bytes, n_bytes), SL_OK);
}

static void assert_opens_as(sl_status expected, const char *message) {
  sl_run_reader *reader;
  assert_int_equal(sl_run_open(&reader, in_parent("run")), expected);
  assert_null(reader);
  assert_message(message);
}

static void test_damaged_runs(void **state) {
  (void)state;
  assert_opens_as(SL_ERROR_FILE, "run");
  write_run("run", false);
  char *tensors;
  size_t n_bytes;
  assert_int_equal(sl_file_read(in_parent("run/tensors.safetensors"), 1 << 20, &tensors, &n_bytes), SL_OK);
  /* Every truncation of the tensors. */
  for (size_t n = 0; n < n_bytes; n += 7) {
    damage("tensors.safetensors", tensors, n);
    assert_opens_as(SL_ERROR_FORMAT, "tensors.safetensors");
  }
  damage("tensors.safetensors", tensors, n_bytes);
  free(tensors);
  assert_int_equal(unlink(in_parent("run/tensors.safetensors")), 0);
  assert_opens_as(SL_ERROR_FILE, "tensors.safetensors is missing");
  damage("run.json", "{\"schema\": 1", 12);
  assert_opens_as(SL_ERROR_FORMAT, "run.json");
  damage("run.json", "[]", 2);
  assert_opens_as(SL_ERROR_FORMAT, "expected an object");
  damage("run.json", "{}", 2);
  assert_opens_as(SL_ERROR_FORMAT, "\"schema\" is missing");
  damage("run.json", "{\"schema\": 2}", 13);
  assert_opens_as(SL_ERROR_UNSUPPORTED, "schema 2");
  assert_int_equal(unlink(in_parent("run/run.json")), 0);
  assert_opens_as(SL_ERROR_FILE, "run.json is missing");
}

/* A file that is well-formed but contradicts the schema table or itself. */
static void test_contradictory_tensors(void **state) {
  (void)state;
  write_run("run", false);
  sl_tensor tensors[2] = {{.name = "flow.share", .data = share, .dtype = SL_F32, .n_dim = 3, .shape = {3, 1, 5}},
                          {.name = "cam.defined", .data = share, .dtype = SL_U8, .n_dim = 1, .shape = {4}}};
  assert_int_equal(sl_safetensors_write(in_parent("run/tensors.safetensors"), tensors, 2, NULL), SL_OK);
  assert_opens_as(SL_ERROR_FORMAT, "L = ");
  tensors[1].name = "from.the.future"; /* unknown names are left alone */
  assert_int_equal(sl_safetensors_write(in_parent("run/tensors.safetensors"), tensors, 2, NULL), SL_OK);
  sl_run_reader *reader;
  assert_int_equal(sl_run_open(&reader, in_parent("run")), SL_OK);
  sl_run_close(reader);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
      cmocka_unit_test_setup_teardown(test_existing_folders, setup, teardown),
      cmocka_unit_test_setup_teardown(test_force_keeps_old_until_commit, setup, teardown),
      cmocka_unit_test_setup_teardown(test_abandoned_and_failed_leave_nothing, setup, teardown),
      cmocka_unit_test_setup_teardown(test_out_of_memory, setup, teardown),
      cmocka_unit_test_setup_teardown(test_schema_is_enforced, setup, teardown),
      cmocka_unit_test(test_shape_expressions),
      cmocka_unit_test(test_table_is_sound),
      cmocka_unit_test_setup_teardown(test_damaged_runs, setup, teardown),
      cmocka_unit_test_setup_teardown(test_contradictory_tensors, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
