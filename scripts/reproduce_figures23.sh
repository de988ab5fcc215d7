#!/usr/bin/env bash
# Figures 2 and 3 of the paper: its criteria in a training with and without dropout of neurons, ResNet-18 without norms.
#
#   scripts/reproduce_figures23.sh [--data DIR] [--output DIR] [--threads N] [--dry-run] [-- fairseq options]
#
#   --data DIR       prepared images of CIFAR-10 (default: runs/cifar10/data)
#   --output DIR     where the runs, the pictures and the tables go (default: runs/figures23)
#
# Makes two pictures, each of two trainings. In scaled.png what a mask keeps is scaled, as dropout layers do; in exact.png
# it is not, as Algorithm 1 has it. Can be stopped and called again: a training goes on where it was.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"

die() {
  printf 'reproduce_figures23: %s\n' "$*" >&2
  exit 1
}
data=runs/cifar10/data
output=runs/figures23
train=()
extra=()
dry=false
while (($#)); do
  case $1 in
    --data | --output | --threads)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --data) data=$2 ;;
        --output) output=$2 ;;
        --threads) train+=("$1" "$2") ;;
      esac
      shift
      ;;
    --dry-run) dry=true train+=("$1") ;;
    --)
      shift
      extra=("$@")
      break
      ;;
    *) die "unknown option $1; allowed: --data --output --threads --dry-run --" ;;
  esac
  shift
done
[[ -f $data/images.json ]] || die "--data is $data, which is not a folder of prepared images; fairseq-ats images makes one"

scripts/setup_env.sh
export PATH=$root/.venv/bin:$PATH

for setting in scaled exact; do
  suffix=
  [[ $setting == scaled ]] || suffix=_exact
  for run in dropout without; do
    fairseq-ats train "configs/figures23/$run$suffix.yaml" "$data" --save-dir "$output/$run$suffix" \
      "${train[@]}" "${extra[@]}"
  done
  $dry || python -m scripts.figures.criteria --figures 23 "$output/$setting" \
    "with dropout=$output/dropout$suffix/train.log" "without=$output/without$suffix/train.log" | tee "$output/$setting.md"
done
