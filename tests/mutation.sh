#!/bin/sh
# Shows that the golden numbers bite: every line of tests/mutations.txt makes one source file wrong, and the test it names
# must fail. Only the changed file is compiled; everything else comes from the object files of a build folder.
#   sh tests/mutation.sh [BUILD]        BUILD: a built CMake folder, default build
# Ends with "N passed, N failed, 0 skipped". A text that is not found exactly once is a failure.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${1:-build}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
export OMP_WAIT_POLICY=passive # several tests at once: waiting threads sleep
export CMOCKA_TEST_ABORT=1     # the first failed case is enough: halves the time
ulimit -c 0                    # it ends by abort()
jobs=$(nproc)
flags="-std=gnu17 -O1 -fopenmp -fno-math-errno -ffp-contract=off -w -DSL_BUILD_SHARED=1 -Isrc -Iinclude"
libs="-fopenmp -lcmocka -ljansson -lxxhash -ljpeg -lpng -lwebp -lpcre2-8 -lutf8proc -lsqlite3 -llapacke -lm"
grep -qs '^SL_MPI:BOOL=ON' "$build/CMakeCache.txt" && libs="$libs -lmpi"
cc=${CC:-cc}

say_result() { # ok|bad WHAT WHY
  printf '%-6s %s: %s\n' "$1" "$2" "$3"
}

# link TEST OUT [SOURCE OBJECT]: the test with every object of the rooms, SOURCE's replaced by OBJECT. A test
# "planted:CLASS.CASE" is a case of tests/test_planted.py, which drives the command; so with verify, study, study_report.
link() {
  objects=$(find "$build/CMakeFiles" -name '*.o' -path '*/sl_*.dir/src/*' | grep -v "/${3:-no such file}\.o\$")
  case $1 in
    *:*) main=$(find "$build/cli/CMakeFiles" -name '*.o') ;;
    *) main=$build/tests/CMakeFiles/$1.dir/$1.c.o ;;
  esac
  $cc -o "$2" $main $objects ${4:-} $libs
}

# run TEST PROGRAM
run() {
  case $1 in
    *:*) timeout 300 python3 "tests/test_${1%%:*}.py" "$2" "${1#*:}" ;;
    *) timeout 300 "$2" ;;
  esac
}

# The unchanged code passes: what fails below fails for the change alone.
check_unchanged() { # TEST FOLDER
  if ! link "$1" "$2/test" 2>"$2/log"; then
    say_result bad "$1 unchanged" "does not link: $(head -c 300 "$2/log")"
  elif ! run "$1" "$2/test" >"$2/log" 2>&1 </dev/null; then
    say_result bad "$1 unchanged" "fails"
  else
    say_result ok "$1 unchanged" "passes"
  fi
}

check_mutant() { # WHAT FILE TEXT REPLACEMENT TEST FOLDER
  if ! python3 tests/mutate.py "$2" "$3" "$4" "$6/mutant.c" 2>"$6/log"; then
    say_result bad "$1" "$(cat "$6/log")"
  elif ! $cc $flags -I"$(dirname "$2")" -c "$6/mutant.c" -o "$6/mutant.o" 2>"$6/log"; then
    say_result bad "$1" "does not compile: $(head -c 300 "$6/log")"
  elif ! link "$5" "$6/test" "$2" "$6/mutant.o" 2>"$6/log"; then
    say_result bad "$1" "does not link: $(head -c 300 "$6/log")"
  elif run "$5" "$6/test" >"$6/log" 2>&1 </dev/null; then
    say_result bad "$1" "$5 does not notice"
  else
    say_result ok "$1" "$5 fails"
  fi
}

# Every jobs-th test and mutation from number $1 on.
run_share() {
  share=$work/$1
  mkdir -p "$share"
  number=0
  for name in $(sed -n '/^#/d; s/.*|//p' tests/mutations.txt | sort -u); do
    number=$((number + 1))
    [ $((number % jobs)) -ne "$1" ] || check_unchanged "$name" "$share"
  done
  while IFS='|' read -r what file text replacement name; do
    case $what in '#'* | '') continue ;; esac
    number=$((number + 1))
    [ $((number % jobs)) -ne "$1" ] || check_mutant "$what" "$file" "$text" "$replacement" "$name" "$share"
  done <tests/mutations.txt
}

for share in $(seq 0 $((jobs - 1))); do
  run_share "$share" >"$work/results.$share" &
done
wait
cat "$work"/results.*
passed=$(cat "$work"/results.* | grep -c '^ok ')
failed=$(cat "$work"/results.* | grep -c '^bad ')
printf '%d passed, %d failed, 0 skipped\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
