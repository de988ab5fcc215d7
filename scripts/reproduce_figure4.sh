#!/usr/bin/env bash
# Figure 4 of the paper, from two real trainings: standard training and ATS, small width with r = 0.5.
#
#   scripts/reproduce_figure4.sh                     on the embedded corpus: 700 updates each
#   scripts/reproduce_figure4.sh --data DIR          on Multi30k, binarised by scripts/prepare_multi30k.sh: 12 epochs each
#
#   --output DIR     where the runs and figure4.png, figure4.jsonl, table.md go (runs/figure4/demo or runs/figure4/multi30k)
#   --threads N      CPU threads (default: all cores)
#   --device DEVICE  cpu or cuda (default: as the configuration says)
#   --dry-run        print the two fairseq-train commands and stop
#   -- OPTIONS...    fairseq options for both trainings, as in: -- --max-epoch 6 --seed 2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/figures/watch.sh

runs() {
  run standard standard
  run ats ATS --alternate
  draw figure4 table.md criteria
}
watch figure4 "demo multi30k" "$@"
