#!/usr/bin/env bash
# Trains a study on all GPUs of this machine, in one process; CUDA_VISIBLE_DEVICES chooses some.
# usage: run/launch/gpu.sh STUDY [flags of run.finetune]
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }

python -c 'import jax, sys; jax.default_backend() == "gpu" or sys.exit("JAX finds no GPU: pip install -e .[gguf,cuda13]")'
exec "$(dirname "$0")/until_done.sh" python -m run.finetune "$@" --distributed off
