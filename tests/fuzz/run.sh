#!/bin/sh
# Builds the fuzz targets with clang and runs each for SECONDS (default 60) from the seeds of tests/fuzz/corpus:
#   sh tests/fuzz/run.sh [SECONDS] [TARGET...]
# What it finds lies in build-fuzz/found: put the file into the target's corpus folder when the bug is mended. Ends with
# "N passed, N failed, 0 skipped".
set -u
cd "$(dirname "$0")/../.." || exit 1
seconds=${1:-60}
[ $# -eq 0 ] || shift
cmake -S . -B build-fuzz -DSL_FUZZ=ON -DCMAKE_C_COMPILER=clang >build-fuzz.log 2>&1 &&
  cmake --build build-fuzz --target fuzzers -j "$(nproc)" >>build-fuzz.log 2>&1 || {
  tail -n 30 build-fuzz.log
  echo "0 passed, 1 failed, 0 skipped"
  exit 1
}
mv build-fuzz.log build-fuzz/build.log
mkdir -p build-fuzz/found
[ $# -gt 0 ] || set -- $(sed -n 's/^sl_fuzzer(\([a-z_]*\).*/\1/p' tests/CMakeLists.txt)
passed=0 failed=0
for target; do
  mkdir -p "build-fuzz/corpus/$target" # grows; the seeds stay as they are
  if "build-fuzz/tests/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="build-fuzz/found/$target-" "build-fuzz/corpus/$target" "tests/fuzz/corpus/$target" \
    >"build-fuzz/$target.log" 2>&1; then
    passed=$((passed + 1))
    echo "ok     $target: $(sed -n 's/stat::number_of_executed_units: *//p' "build-fuzz/$target.log") inputs"
  else
    failed=$((failed + 1))
    echo "FAILED $target: $(grep -m 1 -E 'ERROR|runtime error|SUMMARY' "build-fuzz/$target.log") (build-fuzz/$target.log)"
  fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
