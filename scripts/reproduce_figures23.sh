#!/usr/bin/env bash
# Figures 2 and 3 of the paper: c_sim and c_align, and the cosine, at a random half of the neurons; trained with and
# without dropout of neurons as Algorithm 1 has it.
#
#   scripts/reproduce_figures23.sh                        a Transformer on the embedded corpus: 700 updates each
#   scripts/reproduce_figures23.sh multi30k [--data DIR]  on Multi30k, binarised by scripts/prepare_multi30k.sh: 12 epochs
#   scripts/reproduce_figures23.sh cifar10 [--data DIR]   ResNet-18 without norms on images of CIFAR-10: 3 epochs
#   scripts/reproduce_figures23.sh digits                 a small ResNet on scikit-learn's digits: 450 updates
#
# Makes two pictures. In scaled.png what a mask keeps is scaled, as dropout layers do; beside it, of a Transformer, is
# fairseq's own dropout of the feed-forward layers' neurons. In exact.png it is not, as Algorithm 1 has it.
#
#   --data DIR       the data (default: runs/multi30k/data, runs/cifar10/data)
#   --output DIR     where the runs, the pictures, the numbers and the tables go (default: runs/figures23/DATA)
#   --threads N      CPU threads (default: all cores)
#   --device DEVICE  cpu or cuda (default: as the configuration says)
#   --dry-run        print the fairseq-train commands and stop
#   -- OPTIONS...    fairseq options for all trainings, as in: -- --max-epoch 6 --seed 2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/figures/watch.sh

runs() {
  local setting arguments
  for setting in scaled exact; do
    arguments='{"keep_prob": 0.5, "scale": "exact"}'
    [[ $setting == exact ]] || arguments=${arguments/exact/inverted}
    run "dropout_$setting" "with dropout" --scheme dropout --scheme-args "$arguments" --criteria-of scheme
    # shellcheck disable=SC2154  # watch sets corpus
    if [[ $setting == scaled && $corpus =~ demo|multi30k ]]; then
      run fairseq_dropout "with fairseq's dropout" --activation-dropout 0.5 --criteria-of "$arguments"
    fi
    run "without_$setting" "without dropout" --criteria-of "$arguments"
    draw "$setting" "$setting.md" criteria --figures 23
  done
}
watch figures23 "demo multi30k cifar10 digits" "$@"
