#!/bin/sh
# Holds every source to the rooms of CMakeLists.txt: a room's files include their own room, the rooms that its
# `sl_room(NAME USES ...)` line names, and the public headers, nothing else; the command line includes public headers
# only. Prints each breach; one test.
set -eu
cd "$(dirname "$0")/.."

# "NAME USED USED...", one line a room.
rooms=$(sed -n 's/^sl_room(\([a-z]*\)\(.*\))$/\1\2/p' CMakeLists.txt | sed 's/ LIBS .*//; s/ USES / /')
breaches=0
breach() {
  echo "$1"
  breaches=$((breaches + 1))
}
includes() { sed -n 's/^#include "\([^"]*\)".*/\1/p' "$1"; }

[ -n "$rooms" ] || breach "CMakeLists.txt: no sl_room(NAME ...) line"
for file in $(find src -name '*.c' -o -name '*.h' | sort); do
  room=$(echo "$file" | cut -d/ -f2)
  allowed=$(echo "$rooms" | grep "^$room\( \|\$\)" || true)
  if [ -z "$allowed" ]; then
    breach "$file: CMakeLists.txt has no sl_room($room ...)"
    continue
  fi
  for include in $(includes "$file"); do
    case $include in
      sightline/*) continue ;;
      */*) ;;
      *) continue ;; # a file of the same folder
    esac
    case " $allowed " in
      *" ${include%%/*} "*) ;;
      *) breach "$file includes $include: the room $room does not use ${include%%/*}" ;;
    esac
  done
done
for file in $(find cli -name '*.c' -o -name '*.h' | sort); do
  for include in $(includes "$file"); do
    case $include in
      sightline/*) ;;
      */*) breach "$file includes $include: the command line uses public headers only" ;;
    esac
  done
done
[ "$breaches" -eq 0 ] && echo "1 passed, 0 failed, 0 skipped" || { echo "0 passed, 1 failed, 0 skipped"; exit 1; }
