#!/usr/bin/env bash
# Trains a study in N processes on this machine, to try out what several machines would do.
# usage: run/launch/processes.sh N STUDY [flags of run.finetune]
set -euo pipefail
[ $# -gt 1 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }

count=$1
shift
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
children=()
trap 'kill -TERM "${children[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < count; i++)); do
  python -m run.finetune "$@" --coordinator "127.0.0.1:$port" --processes "$count" --process-id "$i" &
  children+=($!)
done
worst=0
for child in "${children[@]}"; do
  code=0
  wait "$child" || code=$?
  while kill -0 "$child" 2>/dev/null; do # a signal ends the waiting, not the process
    code=0
    wait "$child" || code=$?
  done
  [ "$code" -le "$worst" ] || worst=$code
done
exit "$worst"
