#!/usr/bin/env bash
# Trains a study as a Slurm job: one process a GPU, on as many nodes as are asked for. Submit it from the repository.
# usage: sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 run/launch/slurm.sh STUDY [flags of run.finetune]
#SBATCH --job-name=lorajax
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@180
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }

# Every process has to see all GPUs of its node: JAX gives each its own by number.
code=0
srun --gpu-bind=none --kill-on-bad-exit=0 python -m run.finetune "$@" || code=$?
# Time is up: the training has stopped with a checkpoint, and the job goes to the end of the queue.
[ "$code" != 143 ] || scontrol requeue "$SLURM_JOB_ID"
exit "$code"
