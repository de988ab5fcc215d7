#!/usr/bin/env bash
# Train one row of a table on the first GPU that is visible; a second call goes on with the same run.
#
#   scripts/tables/train_row.sh RECIPE ROW [SEED] [fairseq options...]
set -euo pipefail

recipe=$1 row=${2:-} seed=1
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ ! -f configs/$recipe/$row.yaml ]]; then
  echo "usage: scripts/train_$recipe.sh ROW [SEED] [fairseq options...]; ROW is one of" configs/"$recipe"/*.yaml >&2
  exit 2
fi
shift 2
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
  seed=$1
  shift
fi
scripts/setup_env.sh >&2
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0} # fairseq would take all, and a run of the paper has one
exec .venv/bin/fairseq-ats train "configs/$recipe/$row.yaml" "runs/$recipe/data" \
  --save-dir "runs/tables/$recipe/$row/seed$seed" --seed "$seed" "$@"
