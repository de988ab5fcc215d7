#!/usr/bin/env bash
# Train on a Slurm cluster, and go on after a preemption or the time limit where the training stood.
#
#   sbatch [options of sbatch] scripts/train_slurm.sh fairseq-train DATA ... --save-dir RUN --save-interval-updates N
#
# The command is that of one machine; its environment is the submitting shell's. The job is put back into the queue when
# Slurm preempts it, and two minutes before its time ends. The same command then resumes from RUN/checkpoint_last.pt, bit
# for bit (docs/reliability.md); what came after the last checkpoint is trained once more. RUN must be on a file system
# that all nodes see. Options of sbatch override these:
#
#SBATCH --job-name=fairseq-ats
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=1-00:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -euo pipefail

if [[ $# -eq 0 || -z ${SLURM_JOB_ID:-} ]]; then
  echo "usage: sbatch scripts/train_slurm.sh fairseq-train DATA ... (a job of Slurm: SLURM_JOB_ID is not set otherwise)" >&2
  exit 2
fi

requeue() {
  echo "train_slurm: the time of job $SLURM_JOB_ID ends; back into the queue"
  kill -TERM "$step" 2>/dev/null || true
  wait "$step" || true
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}
trap requeue USR1

options=()
if ((${SLURM_NNODES:-1} > 1)); then
  # fairseq reads the rest from Slurm (fairseq/distributed/utils.py, _infer_slurm_init). One port for each job.
  options=(--distributed-port "$((20000 + SLURM_JOB_ID % 20000))")
fi
srun --kill-on-bad-exit=1 "$@" "${options[@]}" &
step=$!
wait "$step"
