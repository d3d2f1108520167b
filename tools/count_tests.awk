# From a `ctest -V` log: "PASSED FAILED SKIPPED" in test cases. A cmocka program counts its cases by its own lines,
# another by the line "N passed, N failed, N skipped" if it prints one, else as one case by ctest's verdict. A program that failed without naming a failed case (a crash, a
# sanitizer report, a timeout) counts as one failure.
{ line = $0; sub(/^[0-9]+: /, "", line) }
match($0, /^[0-9]+: /) {
  test = substr($0, 1, RLENGTH - 2) + 0
  if (line ~ /^\[==========\] Running/) cmocka[test] = 1
  if (line ~ /^\[       OK \]/) ok[test]++
  if (line ~ /^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/) {
    split(line, f, " ")
    told[test] = 1
    ok[test] = f[1]
    bad[test] = f[3]
    skip[test] = f[5]
  }
  if (line ~ /^\[  FAILED  \] [0-9]+ test/) { split(line, f, " "); bad[test] = f[4] }
  if (line ~ /^\[  SKIPPED \] [0-9]+ test/) { split(line, f, " "); skip[test] = f[4] }
}
/^ *[0-9]+\/[0-9]+ Test +#[0-9]+:/ {
  match($0, /#[0-9]+/)
  test = substr($0, RSTART + 1, RLENGTH - 1) + 0
  if ($0 ~ /Passed/) verdict[test] = "passed"
  else if ($0 ~ /Skipped/) verdict[test] = "skipped"
  else verdict[test] = "failed"
}
END {
  for (test in verdict) {
    if (test in cmocka || test in told) {
      passed += ok[test]
      skipped += skip[test]
      failed += bad[test]
      if (verdict[test] == "failed" && !bad[test]) failed++
    } else if (verdict[test] == "passed") passed++
    else if (verdict[test] == "skipped") skipped++
    else failed++
  }
  if (passed + failed + skipped == 0) failed = 1
  print passed + 0, failed + 0, skipped + 0
}
