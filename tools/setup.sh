# Shell functions of ./demo and ./check: saying what happens, and installing Debian packages that are missing.
# Sourced, POSIX sh.

say() { printf '%s\n' "$*"; }

# die WHAT HINT: names what failed and what to do.
die() {
  printf '\nfailed: %s\n' "$1" >&2
  [ -z "${2:-}" ] || printf '  %s\n' "$2" >&2
  exit 1
}

# step LOG WHAT COMMAND...: runs a command quietly; only when it fails its output is shown: what looks like the reason
# (other jobs of a parallel build print behind it), else the end.
step() {
  step_log=$1 step_what=$2
  shift 2
  say "$step_what"
  if ! "$@" >"$step_log" 2>&1; then
    step_reason=$(grep -E -A 3 'rror: |CMake Error|undefined reference|No space left|Killed' "$step_log" | head -n 40)
    if [ -n "$step_reason" ]; then say "$step_reason" >&2; else tail -n 40 "$step_log" >&2; fi
    die "$step_what" "The whole output is in $step_log."
  fi
}

BUILD_PACKAGES="gcc libc6-dev make cmake pkg-config libjansson-dev libxxhash-dev libjpeg62-turbo-dev libpng-dev
  libwebp-dev libpcre2-dev libutf8proc-dev libsqlite3-dev liblapacke-dev libopenblas-serial-dev node-d3"
TEST_PACKAGES="libcmocka-dev python3 chromium libopenmpi-dev openmpi-bin locales" # locales: a test makes a German one

# need_packages PACKAGE...: installs those that dpkg does not know as installed.
need_packages() {
  missing=
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  command -v apt-get >/dev/null 2>&1 || die "missing packages:$missing" "Install them with your system's package manager."
  as_root=
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || die "missing packages:$missing" "As root: apt-get install$missing"
    as_root=sudo
  fi
  log=$(mktemp)
  say "Installing$missing"
  if ! { $as_root apt-get update && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "apt-get install$missing" "Is the package mirror reachable? The whole output is in $log."
  fi
  rm -f "$log"
}
