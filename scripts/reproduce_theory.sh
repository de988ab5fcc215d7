#!/usr/bin/env bash
# A table of the quantities of Theorem 1 under every scheme of partial SGD: short trainings, the last quarter of each.
#
#   scripts/reproduce_theory.sh                       on the embedded corpus: 700 updates each
#   scripts/reproduce_theory.sh multi30k [--data DIR] on Multi30k, binarised by scripts/prepare_multi30k.sh: 1,200 updates
#   scripts/reproduce_theory.sh multi30k standard ats dropout       these runs alone
#
#   --data DIR       the data (default: runs/multi30k/data)
#   --output DIR     where the runs and theory.jsonl, table.md go (default: runs/theory/DATA)
#   --threads N      CPU threads (default: all cores)
#   --device DEVICE  cpu or cuda (default: as the configuration says)
#   --dry-run        print the fairseq-train commands and stop
#   -- OPTIONS...    fairseq options for all trainings, as in: -- --seed 2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/figures/watch.sh

of() { # of RUN SCHEME ARGUMENTS
  run "$1" "$2 $3" --scheme "$2" --scheme-args "$3"
}

runs() {
  run standard standard --criteria-of core
  run ats alternate --alternate --criteria-of core
  run ats_alpha "alternate, alpha" --alternate --step-scale alpha --criteria-of scheme
  run slimmable slimmable --scheme slimmable --criteria-of core
  of dropout dropout '{"keep_prob": 0.5}'
  of dropout_inverted dropout '{"keep_prob": 0.5, "scale": "inverted"}'
  of dropout_weights dropout '{"keep_prob": 0.5, "unit": "weight"}'
  run ist "ist, 2 parts" --scheme ist --parts 2 --update-freq 2
  of mast mast '{"keep_prob": 0.5}'
  local kind ratio step order
  for ratio in 0.02 0.1 0.5; do
    for kind in exact layer unified; do
      of "meprop_${kind}_$ratio" meprop "{\"kind\": \"$kind\", \"ratio\": $ratio}"
    done
  done
  for step in 0.003 0.03 0.3; do
    of "extragradient_$step" extragradient "{\"step\": $step}"
  done
  of extragradient_past extragradient '{"step": 0.03, "gradient": "past"}'
  for order in cyclic random growing; do
    of "layerwise_$order" layerwise "{\"order\": \"$order\", \"updates\": 20}"
  done
  of prune_neurons prune '{"sparsity": 0.5, "end": 400}'
  of prune_neurons_hard prune '{"sparsity": 0.5, "end": 400, "feedback": false}'
  of prune_weights prune '{"sparsity": 0.8, "end": 400, "unit": "weight"}'
  of prune_weights_hard prune '{"sparsity": 0.8, "end": 400, "unit": "weight", "feedback": false}'
  draw theory table.md theory
}
watch theory "demo multi30k" "$@"
