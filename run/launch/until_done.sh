#!/usr/bin/env bash
# Runs a command again and again until it is done: for machines that are taken away and given back.
# usage: run/launch/until_done.sh COMMAND...
# Stops at success, at bad input (exit code 2), where only adapters are left whose training failed (3), at Ctrl-C (130),
# and after TRIES runs (20). SIGTERM to this script is handed on to the command, which is not started again then.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }

stopped=0 child=
trap 'stopped=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM INT

for ((try = 1; try <= ${TRIES:-20}; try++)); do
  "$@" &
  child=$! code=0
  wait "$child" || code=$?
  while kill -0 "$child" 2>/dev/null; do # a signal ends the waiting, not the command
    code=0
    wait "$child" || code=$?
  done
  case $code in 0 | 2 | 3 | 130) exit "$code" ;; esac
  [ "$stopped" = 0 ] || exit "$code"
  echo "until_done: run $try ended with exit code $code; starting again" >&2
  sleep "${PAUSE:-5}"
done
exit "$code"
