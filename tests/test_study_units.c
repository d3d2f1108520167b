/* Handing out a study's work: order, splitting at the end, blocks that come late, twice or not at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "task/study_units.h"

static sl_unit next(sl_units *units) {
  sl_unit unit = {0};
  bool any = false;
  assert_int_equal(sl_units_next(units, &unit, &any), SL_OK);
  if (!any) unit.number = -1;
  return unit;
}

static void expect(sl_units *units, int64_t number, sl_unit_kind kind, int first, int n) {
  const sl_unit unit = next(units);
  assert_int_equal(unit.number, number);
  if (number < 0) return;
  assert_int_equal(unit.kind, kind);
  assert_int_equal(unit.first, first);
  assert_int_equal(unit.n, n);
}

static void take(sl_units *units, int64_t number, int first, int n, int n_all) {
  double target[16];
  for (int i = 0; i < n; i++) target[i] = (double)(100 * number + first + i);
  assert_int_equal(sl_units_take(units, &(sl_unit){number, SL_UNIT_MASKS, first, n}, n_all, target, n), SL_OK);
}

/* Two processes: the last example is split, the others are not; what is done already and other shards are passed over. */
static void examples_then_blocks(void **state) {
  (void)state;
  sl_units *units;
  bool done[12] = {[3] = true};
  assert_int_equal(sl_units_new(&units, 1, 2, 12, done, 4, 2), SL_OK);
  expect(units, 1, SL_UNIT_WHOLE, 0, 0);
  expect(units, 5, SL_UNIT_WHOLE, 0, 0);
  expect(units, 7, SL_UNIT_WHOLE, 0, 0);
  expect(units, 9, SL_UNIT_WHOLE, 0, 0);
  expect(units, 11, SL_UNIT_MASKS, 0, 4);
  expect(units, -1, 0, 0, 0); /* how many masks there are is not known before the first block is in */
  take(units, 11, 0, 4, 10);
  expect(units, 11, SL_UNIT_MASKS, 4, 4);
  expect(units, 11, SL_UNIT_MASKS, 8, 2);
  expect(units, -1, 0, 0, 0);
  take(units, 11, 8, 2, 10);
  take(units, 11, 8, 2, 10); /* lent twice, answered twice */
  expect(units, -1, 0, 0, 0);
  take(units, 11, 4, 4, 10);
  expect(units, 11, SL_UNIT_FINISH, 0, 10);
  for (int i = 0; i < 10; i++) assert_true(sl_units_known(units, 11)[i] == 1100 + i);
  expect(units, -1, 0, 0, 0);
  take(units, 11, 4, 4, 10); /* too late */
  assert_int_equal(sl_units_split(units), 1);
  sl_units_close(units, 11);
  assert_null(sl_units_known(units, 11));
  expect(units, -1, 0, 0, 0);
  sl_units_free(units);
}

static void without_blocks(void **state) {
  (void)state;
  sl_units *units;
  const bool done[3] = {false};
  assert_int_equal(sl_units_new(&units, 0, 1, 3, done, 0, 8), SL_OK);
  for (int i = 0; i < 3; i++) expect(units, i, SL_UNIT_WHOLE, 0, 0);
  expect(units, -1, 0, 0, 0);
  sl_units_free(units);
}

/* An example that fails, or has no masks, is handed out whole; one that fits a block has one. */
static void what_cannot_be_split(void **state) {
  (void)state;
  sl_units *units;
  const bool done[2] = {false};
  assert_int_equal(sl_units_new(&units, 0, 1, 2, done, 4, 3), SL_OK);
  expect(units, 0, SL_UNIT_MASKS, 0, 4);
  expect(units, 1, SL_UNIT_MASKS, 0, 4);
  take(units, 0, 0, 0, 0);
  expect(units, 0, SL_UNIT_WHOLE, 0, 0);
  take(units, 1, 0, 3, 3);
  expect(units, 1, SL_UNIT_FINISH, 0, 3);
  expect(units, -1, 0, 0, 0);
  assert_int_equal(sl_units_split(units), 1);
  sl_units_free(units);
}

/* Processes that do not agree about the number of masks have not the same model or program. */
static void disagreement(void **state) {
  (void)state;
  sl_units *units;
  const bool done[1] = {false};
  const double target[4] = {0};
  assert_int_equal(sl_units_new(&units, 0, 1, 1, done, 4, 2), SL_OK);
  expect(units, 0, SL_UNIT_MASKS, 0, 4);
  take(units, 0, 0, 4, 8);
  expect(units, 0, SL_UNIT_MASKS, 4, 4);
  assert_int_equal(sl_units_take(units, &(sl_unit){0, SL_UNIT_MASKS, 4, 4}, 9, target, 4), SL_ERROR_FORMAT);
  assert_int_equal(sl_units_take(units, &(sl_unit){0, SL_UNIT_MASKS, 4, 3}, 8, target, 3), SL_ERROR_FORMAT);
  sl_units_free(units);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(examples_then_blocks), cmocka_unit_test(without_blocks),
                                     cmocka_unit_test(what_cannot_be_split), cmocka_unit_test(disagreement)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
