#!/usr/bin/env bash
# Run a training command and show of its log what a person wants to follow: the command, both networks' losses,
# validations. The whole log goes to the run's train.log; when the command fails, its last lines are shown.
#
#   scripts/demo/with_progress.sh fairseq-ats train CONFIG DATA --save-dir RUN
set -euo pipefail

log=$(mktemp)
trap 'rm -f "$log"' EXIT

summary='
function value(name) {
  if (!match($0, "[ |]" name "[ =][0-9.]+")) return "-"
  return substr($0, RSTART + length(name) + 2, RLENGTH - length(name) - 2)
}
NR == 1 && / fairseq-train / { print "+ " $0; fflush() }
/ train_inner \| / {
  printf "update %5d   loss %s   core_loss %s   %s words/s\n", value("num_updates"), value("loss"), value("core_loss"), value("wps")
  fflush()
}
/ \| valid \| / {
  printf "validation     loss %s   core_loss %s   at update %d\n", value("loss"), value("core_loss"), value("num_updates")
  fflush()
}'
if "$@" 2>&1 | tee "$log" | awk "$summary"; then
  exit 0
fi
tail -n 25 "$log" >&2
exit 1
