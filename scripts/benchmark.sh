#!/usr/bin/env bash
# Every benchmark table, in one Markdown file: training in float32 and bfloat16, and decoding.
#
#   scripts/benchmark.sh OUTPUT.md [cpu|cuda]     about a quarter of an hour on one CPU core; nothing else should run meanwhile
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

if [[ $# -lt 1 || $# -gt 2 || ! ${2:-cpu} =~ ^(cpu|cuda)$ ]]; then
  echo "usage: scripts/benchmark.sh OUTPUT.md [cpu|cuda]" >&2
  exit 2
fi
output=$1
device=${2:-cpu}
python=$root/.venv/bin/python
[[ -x $python ]] || python=python3

export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
partial=$folder/tables.md
log=$folder/log

table() {
  printf '## %s\n\n```\npython -m scripts.benchmarks.%s\n```\n\n' "$1" "$2"
  # The contestants' logs go to standard error; progress is not part of a table.
  # shellcheck disable=SC2086
  if ! "$python" -m scripts.benchmarks.$2 2>"$log" | grep -v '^round '; then
    tail -n 25 "$log" >&2
    return 1
  fi
  echo
}

{
  printf '# Benchmark\n\n`scripts/benchmark.sh %s %s` on %s\n\n' "$output" "$device" "$(date -u +%F)"
  table "Training, float32" "training --device $device"
  table "Training, bfloat16" "training --device $device --precision bfloat16"
  table "Decoding, float32" "decoding --device $device"
} >"$partial"
mv "$partial" "$output"
echo "benchmark: wrote $output"
