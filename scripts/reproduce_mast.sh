#!/usr/bin/env bash
# Sparsified test loss against keep probability: of standard training and of MAST, from nothing and from a pretrained
# model.
#
#   scripts/reproduce_mast.sh                        on the embedded corpus: 700 updates each
#   scripts/reproduce_mast.sh multi30k [--data DIR]  on Multi30k, binarised by scripts/prepare_multi30k.sh
#   scripts/reproduce_mast.sh standard mast_0.8      these runs alone
#
# The pretrained model is that of the run "standard". Its further training without sketches is MAST that keeps all.
#
#   --data DIR       the data (default: runs/multi30k/data)
#   --output DIR     where the runs, the pictures and the numbers go (default: runs/mast/DATA)
#   --threads N      CPU threads (default: all cores)
#   --device DEVICE  cpu or cuda (default: as the configuration says)
#   --dry-run        print the fairseq-train commands and stop
#   -- OPTIONS...    fairseq options for all trainings, as in: -- --seed 2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/figures/watch.sh

runs() {
  # shellcheck disable=SC2154  # watch sets it, and listing and dry
  local keep stock=$output/stock.pt first=$output/standard/checkpoint_best.pt
  run standard standard
  for keep in 0.8 0.5; do
    run "mast_$keep" "MAST, q $keep" --scheme mast --scheme-args "{\"keep_prob\": $keep}"
  done
  draw from_nothing from_nothing.md sparsified_loss
  # shellcheck disable=SC2154
  if ! $listing && ! $dry && [[ -f $first && ! $stock -nt $first ]]; then
    fairseq-ats convert "$first" --level super --to fairseq --output "$stock" --overwrite
  fi
  for keep in 1.0 0.8 0.5; do
    run "start_$keep" "from the pretrained, q $keep" --init-from "$stock" --scheme mast \
      --scheme-args "{\"keep_prob\": $keep, \"shift\": \"start\"}"
  done
  draw from_pretrained from_pretrained.md sparsified_loss
}
watch mast "demo multi30k" "$@"
