#!/usr/bin/env bash
# An array job that trains a folder of configs without Ray: docs/bare_machines.md
#
#     CONFIGS=configs TOKENS=tokens OUT=out sbatch --array=0-7 --time=04:00:00 deploy/slurm.sh
#
# JOBS (1): configs at a time in a task. MARGIN_S (600): how long before the end of its time a task
# begins to stop, at least the time between two evaluations. PYTHON (python): one with torch.
#SBATCH --job-name=moe-study
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-task=1
#SBATCH --output=moe-study-%A_%a.log
set -euo pipefail

: "${CONFIGS:?the folder that moe-study plan --write-configs wrote}"
: "${TOKENS:?prepared tokens, or a folder of such by digest}"
: "${OUT:?a folder that all tasks see}"
first="${SLURM_ARRAY_TASK_MIN:-0}"
task=$((${SLURM_ARRAY_TASK_ID:-0} - first))
tasks="${SLURM_ARRAY_TASK_COUNT:-1}"
jobs="${JOBS:-1}"
cpus="${SLURM_CPUS_PER_TASK:-$jobs}"

until=()
if [ -n "${SLURM_JOB_END_TIME:-}" ]; then
  left=$((SLURM_JOB_END_TIME - $(date +%s) - ${MARGIN_S:-600}))
  until=(--until "$((left > 0 ? left : 0))")
fi

exec "${PYTHON:-python}" -m moe.train "$CONFIGS" --tokens "$TOKENS" --out "$OUT" \
  --slice "$task/$tasks" --jobs "$jobs" --threads "$((cpus / jobs > 0 ? cpus / jobs : 1))" \
  --archive "$OUT/results-$task-of-$tasks.tar.gz" "${until[@]}"
