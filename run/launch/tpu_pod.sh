#!/usr/bin/env bash
# Trains a study on a slice of several TPU VMs, from where gcloud is set up. FOLDER is the repository, with its virtual
# environment in .venv, at the same path on every VM; STUDY is a path in a folder that all of them share.
# usage: run/launch/tpu_pod.sh NAME ZONE FOLDER STUDY [flags of run.finetune]
set -euo pipefail
[ $# -gt 3 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }

name=$1 zone=$2 folder=$3
shift 3
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  --command="cd $(printf %q "$folder") && . .venv/bin/activate && run/launch/tpu_vm.sh $(printf '%q ' "$@")"
