#!/usr/bin/env bash
# Trains a study on this TPU VM. On a slice of several VMs, run it on all of them at once: tpu_pod.sh does.
# usage: run/launch/tpu_vm.sh STUDY [flags of run.finetune]
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }

exec "$(dirname "$0")/until_done.sh" python -m run.finetune "$@" --distributed on
