/* stats/: correlations, entropy, top mass, cliffs, against numbers worked out by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "stats/correlate.h"
#include "stats/order.h"
#include "stats/spread.h"

static bool near(double value, double expected) { return fabs(value - expected) <= 1e-12 * fmax(1, fabs(expected)); }
#define NEAR(value, expected) assert_true(near((value), (expected)))

static void pearson_by_hand(void **state) {
  (void)state;
  /* means 3 and 4.2: sum of products 8, of squares 10 and 8.8 */
  const double x[] = {1, 2, 3, 4, 5}, y[] = {2, 4, 5, 4, 6};
  NEAR(sl_pearson(x, y, 5), 8 / sqrt(10 * 8.8));
  const double up[] = {10, 20, 30, 40, 50}, down[] = {-1, -2, -3, -4, -5};
  NEAR(sl_pearson(x, up, 5), 1);
  NEAR(sl_pearson(x, down, 5), -1);
}

static void pearson_edges(void **state) {
  (void)state;
  /* the mean of these differs from the value by an ulp: a spread of 1e-17 is no spread */
  const double constant[] = {0.1, 0.1, 0.1, 0.1, 0.1, 0.1}, x[] = {1, 2, 4}, bad[] = {1, NAN, 2},
               huge[] = {1, INFINITY, 2};
  const double many[] = {1, 2, 4, 3, 5, 7};
  for (int n = 2; n <= 6; n++) assert_true(isnan(sl_pearson(many, constant, n)));
  assert_true(isnan(sl_pearson(x, x, 1)));
  assert_true(isnan(sl_pearson(x, bad, 3)));
  assert_true(isnan(sl_pearson(huge, x, 3)));
  /* the product of the two sums of squares would be 0 */
  const double tiny[] = {1e-100, 2e-100, 4e-100};
  NEAR(sl_pearson(tiny, tiny, 3), 1);
  const double far[] = {1e9 + 1, 1e9 + 2, 1e9 + 4};
  NEAR(sl_pearson(x, far, 3), 1);
}

static void orders_are_total(void **state) {
  (void)state;
  const double key[] = {2, NAN, -INFINITY, 3, 2, NAN, INFINITY};
  const float single[] = {-1, 0.5f, -1, NAN};
  int order[7];
  assert_int_equal(sl_order_falling(order, key, 7), SL_OK);
  assert_memory_equal(order, ((int[]){6, 3, 0, 4, 2, 1, 5}), sizeof order);
  assert_int_equal(sl_order_floats(order, single, 4), SL_OK);
  assert_memory_equal(order, ((int[]){1, 0, 2, 3}), 4 * sizeof *order);
  assert_int_equal(sl_order_falling(order, key, 0), SL_OK);
}

static void ranks_share_places(void **state) {
  (void)state;
  const double x[] = {3, 1, 3, -2, 3, 1};
  double rank[6];
  assert_int_equal(sl_rank(rank, x, 6), SL_OK);
  const double expected[] = {5, 2.5, 5, 1, 5, 2.5};
  for (int i = 0; i < 6; i++) NEAR(rank[i], expected[i]);
}

static void spearman_with_ties(void **state) {
  (void)state;
  /* ranks 1 2.5 2.5 4 and 2 1 3.5 3.5: products about the mean 2.5: .75 + 0 + 0 + 1.5, squares 4.5 and 4.5 */
  const double x[] = {1, 2, 2, 3}, y[] = {5, 4, 9, 9};
  double rho;
  assert_int_equal(sl_spearman(&rho, x, y, 4), SL_OK);
  NEAR(rho, 2.25 / 4.5);
  /* monotone but far from linear */
  const double bent[] = {-7, 0, 1, 1e6}, line[] = {1, 2, 3, 4};
  assert_int_equal(sl_spearman(&rho, line, bent, 4), SL_OK);
  NEAR(rho, 1);
  /* no ties: 1 - 6 sum d^2 / (n^3 - n) */
  const double a[] = {1, 2, 3, 4, 5}, b[] = {2, 1, 5, 2.5, 9};
  assert_int_equal(sl_spearman(&rho, a, b, 5), SL_OK);
  NEAR(rho, 1 - 6.0 * (1 + 1 + 1 + 1 + 0) / 120);
  const double flat[] = {1, 1, 1, 1};
  assert_int_equal(sl_spearman(&rho, flat, line, 4), SL_OK);
  assert_true(isnan(rho));
}

static void spearman_out_of_memory(void **state) {
  (void)state;
  const double x[] = {1, 2, 3};
  double rho;
  for (long n = 1; n <= 3; n++) {
    sl_alloc_fail_at(n);
    assert_int_equal(sl_spearman(&rho, x, x, 3), SL_ERROR_MEMORY);
  }
  sl_alloc_fail_at(0);
}

static void entropy_in_nats(void **state) {
  (void)state;
  const float even[] = {2, 2, 2, 2}, peak[] = {0, 7, 0}, mixed[] = {1, 3}, zero[] = {0, 0};
  NEAR(sl_entropy(even, 4), log(4));
  NEAR(sl_entropy(peak, 3), 0);
  NEAR(sl_entropy(mixed, 2), -(0.25 * log(0.25) + 0.75 * log(0.75)));
  assert_true(isnan(sl_entropy(zero, 2)));
  assert_true(isnan(sl_entropy(zero, 0)));
}

static void top_share_counts_up(void **state) {
  (void)state;
  float w[30];
  double share;
  for (int i = 0; i < 30; i++) w[i] = (float)(i + 1); /* sum 465 */
  assert_int_equal(sl_top_share(&share, w, 30, 0.1), SL_OK);
  NEAR(share, (30 + 29 + 28) / 465.0);
  assert_int_equal(sl_top_share(&share, w, 11, 0.1), SL_OK); /* ceil(1.1) = 2 of 66 */
  NEAR(share, 21 / 66.0);
  assert_int_equal(sl_top_share(&share, w, 4, 0.1), SL_OK);
  NEAR(share, 4 / 10.0);
  assert_int_equal(sl_top_share(&share, w, 4, 1), SL_OK);
  NEAR(share, 1);
  float even[100];
  for (int i = 0; i < 100; i++) even[i] = 1;
  assert_int_equal(sl_top_share(&share, even, 100, 0.07), SL_OK); /* 0.07 * 100 is above 7 */
  NEAR(share, 0.07);
  const float zero[3] = {0};
  assert_int_equal(sl_top_share(&share, zero, 3, 0.1), SL_OK);
  assert_true(isnan(share));
}

static void chosen_share_and_peak(void **state) {
  (void)state;
  const float w[] = {1, 4, 4, 1}, zero[2] = {0};
  const bool chosen[] = {true, false, true, false};
  NEAR(sl_chosen_share(w, chosen, 4), 0.5);
  assert_true(isnan(sl_chosen_share(zero, chosen, 2)));
  assert_int_equal(sl_peak(w, 4), 1);
  assert_int_equal(sl_peak(w, 0), -1);
}

static void cliff_stays_below(void **state) {
  (void)state;
  const double falls[] = {0.5, 0.01, 0.03, 0.01, 0.01}, rises[] = {0.5, 0.01, 0.01, 0.3};
  assert_int_equal(sl_first_staying_below(falls, 5, 0.02), 3);
  assert_int_equal(sl_first_staying_below(rises, 4, 0.02), -1);
  /* An undefined last layer is no evidence: it neither makes nor breaks a cliff. */
  const double open[] = {0.5, 0.4, NAN}, gap[] = {0.5, 0.01, NAN, 0.01};
  assert_int_equal(sl_first_staying_below(open, 3, 0.02), -1);
  assert_int_equal(sl_first_staying_below(gap, 4, 0.02), 1);
  const double all[] = {0.01, 0.02};
  assert_int_equal(sl_first_staying_below(all, 1, 0.02), 0);
  assert_int_equal(sl_first_staying_below(all, 2, 0.02), -1); /* 0.02 is not below 0.02 */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pearson_by_hand),       cmocka_unit_test(pearson_edges),
      cmocka_unit_test(ranks_share_places),    cmocka_unit_test(spearman_with_ties),
      cmocka_unit_test(spearman_out_of_memory), cmocka_unit_test(entropy_in_nats),
      cmocka_unit_test(top_share_counts_up),   cmocka_unit_test(chosen_share_and_peak),
      cmocka_unit_test(cliff_stays_below),     cmocka_unit_test(orders_are_total),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
