#!/bin/sh
# Holds every source to the floors of ARCHITECTURE.md: a room's files include their own room, lower floors and the public
# headers, nothing else; the command line includes public headers only. Prints each breach.
set -eu
cd "$(dirname "$0")/.."

floor() {
  case $1 in
    base) echo 0 ;;
    tensor) echo 1 ;;
    backend | input) echo 2 ;;
    nn) echo 3 ;;
    model) echo 4 ;;
    stats | store) echo 5 ;;
    analysis | report) echo 6 ;;
    task) echo 7 ;;
    *) echo none ;;
  esac
}

breaches=0 files=0
breach() {
  echo "$1"
  breaches=$((breaches + 1))
}

for file in $(find src -name '*.c' -o -name '*.h' | sort); do
  files=$((files + 1))
  room=$(echo "$file" | cut -d/ -f2)
  own=$(floor "$room")
  [ "$own" != none ] || breach "$file: the room $room has no floor"
  for include in $(sed -n 's/^#include "\([^"]*\)".*/\1/p' "$file"); do
    other=${include%%/*}
    case $include in
      sightline/*) continue ;;
      */*) ;;
      *) continue ;; # a file of the same folder
    esac
    [ "$other" != "$room" ] || continue
    there=$(floor "$other")
    if [ "$there" = none ]; then
      breach "$file includes $include: not a room"
    elif [ "$there" -ge "$own" ]; then
      breach "$file (floor $own) includes $include (floor $there)"
    fi
  done
done
for file in $(find cli -name '*.c' -o -name '*.h' | sort); do
  files=$((files + 1))
  for include in $(sed -n 's/^#include "\([^"]*\)".*/\1/p' "$file"); do
    case $include in
      sightline/*) ;;
      */*) breach "$file includes $include: the command line uses public headers only" ;;
    esac
  done
done
echo "$((files - breaches)) passed, $breaches failed, 0 skipped"
[ "$breaches" -eq 0 ]
