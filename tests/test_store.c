/* Run directories: what is written comes back; nothing half-written is ever visible; damage is told. */
#define _GNU_SOURCE /* renameat2 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "base/text.h"
#include "store/database.h"
#include "store/folder.h"
#include "store/run.h"

/* In place of the C library's: a file system that cannot exchange two folders, and a process that ends between the two
 * renames that it needs there. */
static bool no_exchange, ends_between;

int renameat2(int old_dir, const char *from, int new_dir, const char *to, unsigned flags) {
  if (no_exchange) return errno = EINVAL, -1;
  return (int)syscall(SYS_renameat2, old_dir, from, new_dir, to, flags);
}

int rename(const char *from, const char *to) {
  const char *name = strrchr(from, '/');
  if (ends_between && name && strncmp(name, "/.run.partial-", 14) == 0 && access(to, F_OK) != 0) _exit(9);
  return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

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

/* Without exchange a run is replaced all the same, and a process that is killed in the middle does not lose the old. */
static void test_replaced_in_two_steps(void **state) {
  (void)state;
  sl_run_reader *reader;
  int status;
  no_exchange = true;
  write_run("run", false);
  write_run("run", true);
  assert_int_equal(count_entries(parent), 1);
  assert_int_equal(sl_file_write(in_parent("run/mark"), "old", 3), SL_OK);
  const pid_t child = fork();
  if (child == 0) {
    ends_between = true;
    write_run("run", true);
    _exit(0);
  }
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(WEXITSTATUS(status), 9);
  assert_int_equal(sl_run_open(&reader, in_parent("run")), SL_ERROR_FILE);
  sl_folder_remove_stale(parent, "run");
  assert_int_equal(count_entries(parent), 1);
  assert_int_equal(access(in_parent("run/mark"), F_OK), 0);
  assert_int_equal(sl_run_open(&reader, in_parent("run")), SL_OK);
  sl_run_close(reader);
  no_exchange = false;
}

/* A folder whose name is like one that was moved aside, and is not: nobody's but its owner's. */
static void test_folders_of_others_stay(void **state) {
  (void)state;
  static const char *const names[] = {".mine.old-2025", ".mine.old-backup", ".mine.sightline-old-", ".mine.sightline-old-7x"};
  for (int i = 0; i < 4; i++) assert_int_equal(mkdir(in_parent(names[i]), 0777), 0);
  sl_folder_remove_stale(parent, "mine");
  for (int i = 0; i < 4; i++) assert_int_equal(access(in_parent(names[i]), F_OK), 0);
  assert_int_equal(mkdir(in_parent(".mine.sightline-old-7"), 0777), 0);
  sl_folder_remove_stale(parent, "mine");
  assert_int_equal(access(in_parent("mine"), F_OK), 0);
  assert_int_not_equal(access(in_parent(".mine.sightline-old-7"), F_OK), 0);
  for (int i = 0; i < 4; i++) assert_int_equal(rmdir(in_parent(names[i])), 0);
  assert_int_equal(rmdir(in_parent("mine")), 0);
}

/* What appeared while a run was made is not replaced, unless that was asked for. */
static void test_placed_and_nothing_replaced(void **state) {
  (void)state;
  assert_int_equal(mkdir(in_parent("new"), 0777), 0);
  assert_int_equal(mkdir(in_parent("there"), 0777), 0);
  assert_int_equal(sl_file_write(in_parent("there/letter"), "dear", 4), SL_OK);
  assert_int_equal(sl_folder_place(in_parent("new"), in_parent("there")), SL_ERROR_ARGUMENT);
  assert_message("there: already exists");
  assert_int_equal(sl_folder_place(in_parent("new"), in_parent("there/letter")), SL_ERROR_ARGUMENT);
  assert_int_equal(symlink("nowhere", in_parent("link")), 0);
  assert_int_equal(sl_folder_place(in_parent("new"), in_parent("link")), SL_ERROR_ARGUMENT);
  assert_int_equal(access(in_parent("there/letter"), F_OK), 0);
  assert_int_equal(mkdir(in_parent("empty"), 0777), 0);
  assert_int_equal(sl_folder_place(in_parent("new"), in_parent("empty")), SL_OK);
  assert_int_equal(sl_folder_place(in_parent("empty"), in_parent("last")), SL_OK);
  assert_int_equal(count_entries(parent), 3);
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

static bool reads_fail;

static ssize_t failing_pread(int fd, void *bytes, size_t n_bytes, off_t at) {
  if (reads_fail) return errno = ESTALE, -1; /* a file server that was started again */
  return pread(fd, bytes, n_bytes, at);
}

/* What a disk does is told as what was done: reading. A damaged file is named. */
static void test_database_that_fails(void **state) {
  (void)state;
  sl_database *database;
  sqlite3_vfs *files = sqlite3_vfs_find(NULL);
  const char *path = in_parent("rows.sqlite");
  int64_t n;
  assert_int_equal(sl_database_open(&database, path, SL_DATABASE_CREATE), SL_OK);
  assert_int_equal(sl_database_run(database, "CREATE TABLE a (x); INSERT INTO a VALUES (1), (2)"), SL_OK);
  assert_int_equal(sl_database_check(database), SL_OK);
  sl_database_close(database);
  assert_int_equal(sl_database_open(&database, path, SL_DATABASE_READ), SL_OK);
  for (int i = 0; i < 2; i++) /* whichever of the two this SQLite calls */
    files->xSetSystemCall(files, i ? "pread" : "pread64", (sqlite3_syscall_ptr)failing_pread);
  reads_fail = true;
  assert_int_equal(sl_database_integer(database, "SELECT count(*) FROM a", &n), SL_ERROR_FILE);
  assert_message("rows.sqlite: cannot read: ");
  reads_fail = false;
  files->xSetSystemCall(files, NULL, NULL);
  sl_database_close(database);
  char *bytes;
  size_t n_bytes;
  assert_int_equal(sl_file_read(path, 1 << 20, &bytes, &n_bytes), SL_OK);
  memset(bytes + n_bytes - 4096, 0xff, 200);
  assert_int_equal(sl_file_write(path, bytes, n_bytes), SL_OK);
  free(bytes);
  assert_int_equal(sl_database_open(&database, path, SL_DATABASE_WRITE), SL_OK);
  assert_int_equal(sl_database_check(database), SL_ERROR_FORMAT);
  assert_message("rows.sqlite: damaged: ");
  sl_database_close(database);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
      cmocka_unit_test_setup_teardown(test_existing_folders, setup, teardown),
      cmocka_unit_test_setup_teardown(test_force_keeps_old_until_commit, setup, teardown),
      cmocka_unit_test_setup_teardown(test_replaced_in_two_steps, setup, teardown),
      cmocka_unit_test_setup_teardown(test_folders_of_others_stay, setup, teardown),
      cmocka_unit_test_setup_teardown(test_placed_and_nothing_replaced, setup, teardown),
      cmocka_unit_test_setup_teardown(test_abandoned_and_failed_leave_nothing, setup, teardown),
      cmocka_unit_test_setup_teardown(test_out_of_memory, setup, teardown),
      cmocka_unit_test_setup_teardown(test_schema_is_enforced, setup, teardown),
      cmocka_unit_test(test_shape_expressions),
      cmocka_unit_test(test_table_is_sound),
      cmocka_unit_test_setup_teardown(test_damaged_runs, setup, teardown),
      cmocka_unit_test_setup_teardown(test_contradictory_tensors, setup, teardown),
      cmocka_unit_test_setup_teardown(test_database_that_fails, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
