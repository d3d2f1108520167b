/* A made-up comparison of runs, as `sightline compare` stores it. */
#ifndef SL_TESTS_MOCK_COMPARE_H
#define SL_TESTS_MOCK_COMPARE_H

#include "base/fail.h"

sl_status mock_compare_write(const char *dir);

#endif
