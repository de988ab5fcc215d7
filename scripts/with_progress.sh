#!/usr/bin/env bash
# Run a training command and show of its log what a person wants to follow: the command, the losses, the validations.
# The whole log is in the run's train.log; when the command fails, its last lines are shown.
#
#   scripts/with_progress.sh python scripts/train.py CONFIG DATA --save-dir RUN
set -euo pipefail

log=$(mktemp)
trap 'rm -f "$log"' EXIT
printf '+ %s\n' "$*"
filter='/ (train_inner|valid|train) \| / || /checkpoint_best_/ { sub(/^[0-9-]+ /, ""); sub(/\| INFO \| /, ""); print; fflush() }'
if "$@" 2>&1 | tee "$log" | awk "$filter"; then
  exit 0
fi
tail -n 25 "$log" >&2
exit 1
